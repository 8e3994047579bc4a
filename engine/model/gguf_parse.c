/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_parse.c - the header of one GGUF part.
 *
 *     magic "GGUF" | u32 version | u64 tensors | u64 keys
 *     keys:    string key | u32 type | value            string: u64 length, bytes
 *     tensors: string name | u32 n_dims | u64 ne[n_dims] | u32 type | u64 offset
 *     padding to the alignment | tensor data; offsets count from here
 *
 * A cursor walks over it.  Nothing is read before need() has said that it is there, and nothing is
 * allocated for a count before the bytes that so many elements must at least take are known to be
 * there.  So memory is bounded by the header's size, and time is linear in it.
 *
 * Every refusal starts with the file's name (if there is one) and the key or tensor it is about.
 */
#include "engine/model/gguf_internal.h"

#include "engine/storage/io.h"
#include "kernels/kernels.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's byte order is ours");

enum {
    FILL_BYTES = 256 << 10, /* the header is read in pieces of this */
    /* The least that an entry takes: key: length, one byte, type, one byte of value; tensor:
     * length, one byte, n_dims, one dimension, type, offset. */
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
    MIN_STRING_BYTES = 8,
    MIN_ARRAY_BYTES = 12,
};

/* What the cursor is in; only a refusal looks at it. */
enum where { WHERE_HEADER, WHERE_KEY, WHERE_TENSOR };

struct cursor {
    struct gguf_part *part;
    uint64_t pos;
    enum where where;
    uint64_t index;       /* of the key or tensor */
    struct gguf_str name; /* of it, once known */
    struct engine_err *err;
};

/* ---- refusing ---- */

static void describe_place(const struct cursor *c, char *text, size_t size)
{
    const char *kind = c->where == WHERE_KEY ? "key" : "tensor";
    if (c->where == WHERE_HEADER)
        text[0] = '\0';
    else if (c->name.data)
        snprintf(text, size, "%s \"%s\": ", kind, gguf_quote(c->name).text);
    else
        snprintf(text, size, "%s number %" PRIu64 ": ", kind, c->index + 1);
}

__attribute__((format(printf, 3, 4))) static int
refuse(const struct cursor *c, enum engine_err_code code, const char *fmt, ...)
{
    char place[128], what[256];
    describe_place(c, place, sizeof(place));
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return engine_fail(c->err, code, "%s%s%s", c->part->label, place, what);
}

static int refuse_memory(const struct cursor *c, uint64_t n, const char *what)
{
    return refuse(c, ENGINE_ERR_MEMORY, "no memory for %" PRIu64 " %s", n, what);
}

/* ---- the cursor ---- */

/* Reads more of the header, so that at least `end` bytes of it are there. */
static int fill(struct cursor *c, uint64_t end)
{
    struct gguf_part *p = c->part;
    uint64_t target = end + FILL_BYTES < p->head_cap ? end + FILL_BYTES : p->head_cap;
    while (p->head_filled < target) {
        ssize_t n = pread(p->fd, p->head_own + p->head_filled, target - p->head_filled,
                          (off_t)p->head_filled);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return refuse(c, ENGINE_ERR_IO, "reading at byte %zu failed: %s", p->head_filled,
                          io_errno_text(errno));
        if (n == 0)
            return refuse(c, ENGINE_ERR_FILE,
                          "the file ended at byte %zu, though it had %" PRIu64
                          " when it was opened",
                          p->head_filled, p->file_bytes);
        p->head_filled += (size_t)n;
    }
    return 0;
}

static uint64_t n_left(const struct cursor *c)
{
    return c->part->head_cap - c->pos;
}

/* Makes sure that the next n bytes are there. */
static int need(struct cursor *c, uint64_t n)
{
    const struct gguf_part *p = c->part;
    if (n > n_left(c))
        return refuse(c, ENGINE_ERR_FILE,
                      "needs %" PRIu64 " bytes at byte %" PRIu64 ", but %s at byte %zu", n, c->pos,
                      p->head_cap < p->file_bytes ? "the header must end" : "the file ends",
                      p->head_cap);
    if (c->pos + n > p->head_filled)
        return fill(c, c->pos + n);
    return 0;
}

static const unsigned char *at_cursor(const struct cursor *c)
{
    return c->part->head + c->pos;
}

static int take(struct cursor *c, void *dst, size_t n)
{
    if (need(c, n) < 0)
        return -1;
    memcpy(dst, at_cursor(c), n);
    c->pos += n;
    return 0;
}

static int take_u32(struct cursor *c, uint32_t *out)
{
    return take(c, out, sizeof(*out));
}

static int take_u64(struct cursor *c, uint64_t *out)
{
    return take(c, out, sizeof(*out));
}

static int take_str(struct cursor *c, struct gguf_str *out)
{
    uint64_t len;
    if (take_u64(c, &len) < 0 || need(c, len) < 0)
        return -1;
    *out = (struct gguf_str){ .data = (const char *)at_cursor(c), .len = len };
    c->pos += len;
    return 0;
}

/* A key or a tensor's name: 1 .. max bytes, none of them NUL.  It becomes the cursor's. */
static int take_name(struct cursor *c, uint64_t max)
{
    uint64_t len;
    if (take_u64(c, &len) < 0)
        return -1;
    if (len == 0 || len > max)
        return refuse(c, ENGINE_ERR_FILE,
                      "the name has %" PRIu64 " bytes, it must have 1 to %" PRIu64, len, max);
    if (need(c, len) < 0)
        return -1;
    const char *data = (const char *)at_cursor(c);
    c->pos += len;
    c->name = (struct gguf_str){ .data = data, .len = len };
    if (memchr(data, '\0', len))
        return refuse(c, ENGINE_ERR_FILE, "the name holds a NUL byte");
    return 0;
}

/* ---- values ---- */

static int take_value_type(struct cursor *c, enum gguf_type *out)
{
    uint32_t type;
    if (take_u32(c, &type) < 0)
        return -1;
    if (type > GGUF_F64)
        return refuse(c, ENGINE_ERR_FILE, "has type %" PRIu32 ", the highest known is %d", type,
                      GGUF_F64);
    *out = (enum gguf_type)type;
    return 0;
}

static uint64_t min_value_bytes(enum gguf_type type)
{
    if (type == GGUF_STRING)
        return MIN_STRING_BYTES;
    if (type == GGUF_ARRAY)
        return MIN_ARRAY_BYTES;
    return gguf_value_type_bytes(type);
}

static int take_array_head(struct cursor *c, enum gguf_type *type, uint64_t *n)
{
    if (take_value_type(c, type) < 0 || take_u64(c, n) < 0)
        return -1;
    uint64_t each = min_value_bytes(*type);
    if (*n > n_left(c) / each)
        return refuse(c, ENGINE_ERR_FILE,
                      "an array of %" PRIu64 " values (%s) of at least %" PRIu64
                      " bytes each, but %" PRIu64 " bytes are left",
                      *n, gguf_value_type_name(*type), each, n_left(c));
    return 0;
}

static int check_bools(const struct cursor *c, const unsigned char *values, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (values[i] > 1)
            return refuse(c, ENGINE_ERR_FILE, "a bool is %u, it must be 0 or 1", values[i]);
    return 0;
}

static int skip_numbers(struct cursor *c, enum gguf_type type, uint64_t n)
{
    uint64_t bytes = n * gguf_value_type_bytes(type); /* take_array_head has compared it */
    if (need(c, bytes) < 0)
        return -1;
    if (type == GGUF_BOOL && check_bools(c, at_cursor(c), n) < 0)
        return -1;
    c->pos += bytes;
    return 0;
}

/* Walks over the n elements of an array that is itself in depth - 1 others. */
static int skip_elements(struct cursor *c, enum gguf_type type, uint64_t n, int depth)
{
    if (type != GGUF_STRING && type != GGUF_ARRAY)
        return skip_numbers(c, type, n);
    if (type == GGUF_ARRAY && depth == GGUF_MAX_DEPTH)
        return refuse(c, ENGINE_ERR_FILE, "arrays in arrays, deeper than the limit of %d",
                      GGUF_MAX_DEPTH);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_str s;
        enum gguf_type inner;
        uint64_t n_inner;
        if (type == GGUF_STRING ? take_str(c, &s) < 0
                                : take_array_head(c, &inner, &n_inner) < 0 ||
                                      skip_elements(c, inner, n_inner, depth + 1) < 0)
            return -1;
    }
    return 0;
}

static int take_array(struct cursor *c, struct gguf_kv *kv)
{
    struct gguf_array *a = &kv->value;
    kv->is_array = true;
    if (take_array_head(c, &a->type, &a->n) < 0)
        return -1;
    uint64_t start = c->pos;
    if (skip_elements(c, a->type, a->n, 1) < 0)
        return -1;
    if (a->type != GGUF_STRING) {
        a->data = c->part->head + start;
        return 0;
    }
    /* The strings are all there: now their table may be made. */
    kv->owned = calloc(a->n ? a->n : 1, sizeof(*kv->owned));
    if (!kv->owned)
        return refuse_memory(c, a->n, "strings");
    c->pos = start;
    for (uint64_t i = 0; i < a->n; i++)
        if (take_str(c, &kv->owned[i]) < 0)
            return -1;
    a->strings = kv->owned;
    return 0;
}

static int take_value(struct cursor *c, struct gguf_kv *kv)
{
    enum gguf_type type = GGUF_U8;
    if (take_value_type(c, &type) < 0)
        return -1;
    if (type == GGUF_ARRAY)
        return take_array(c, kv);
    kv->value.type = type;
    kv->value.n = 1;
    if (type == GGUF_STRING) {
        kv->value.strings = &kv->scalar;
        return take_str(c, &kv->scalar);
    }
    uint64_t start = c->pos;
    if (skip_numbers(c, type, 1) < 0)
        return -1;
    kv->value.data = c->part->head + start;
    return 0;
}

static int take_keys(struct cursor *c, struct gguf_meta *meta, uint64_t n)
{
    meta->kv = calloc(n ? n : 1, sizeof(*meta->kv));
    if (!meta->kv || gguf_names_init(&meta->names, n) < 0)
        return refuse_memory(c, n, "keys");
    c->where = WHERE_KEY;
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_kv *kv = &meta->kv[i];
        meta->n = i + 1;
        uint64_t begin = c->pos;
        c->index = i;
        c->name.data = NULL;
        if (take_name(c, GGUF_MAX_KEY_BYTES) < 0)
            return -1;
        kv->key = c->name;
        if (gguf_names_add(&meta->names, kv->key, (uint32_t)i) != i)
            return refuse(c, ENGINE_ERR_FILE, "is there twice");
        if (take_value(c, kv) < 0)
            return -1;
        kv->stored = (struct gguf_str){ (const char *)c->part->head + begin, c->pos - begin };
    }
    c->where = WHERE_HEADER;
    return 0;
}

/* ---- tensors ---- */

static int take_shape(struct cursor *c, struct gguf_tensor *t)
{
    if (take_u32(c, &t->n_dims) < 0)
        return -1;
    if (t->n_dims < 1 || t->n_dims > 4)
        return refuse(c, ENGINE_ERR_FILE, "has %" PRIu32 " dimensions, it must have 1 to 4",
                      t->n_dims);
    uint64_t n = 1;
    for (uint32_t i = 0; i < 4; i++) {
        t->ne[i] = 1;
        if (i < t->n_dims && take_u64(c, &t->ne[i]) < 0)
            return -1;
        if (t->ne[i] == 0)
            return refuse(c, ENGINE_ERR_FILE, "dimension %" PRIu32 " is 0", i + 1);
        if (__builtin_mul_overflow(n, t->ne[i], &n) || n > INT64_MAX)
            return refuse(c, ENGINE_ERR_FILE,
                          "the product of its dimensions is above %" PRId64 " at dimension %" PRIu32
                          " (%" PRIu64 ")",
                          INT64_MAX, i + 1, t->ne[i]);
    }
    return 0;
}

/* A tensor in panels: these have their padding, and a start that the kernels can read. */
static int size_panels(const struct cursor *c, struct gguf_tensor *t)
{
    const struct kern_type_info *info = kern_type_info(t->type);
    if (!info->supported || !info->group_values)
        return refuse(c, ENGINE_ERR_UNSUPPORTED, "panels of type %s (%u) are unknown", info->name,
                      t->type);
    if (t->ne[0] > UINT32_MAX || t->ne[1] > UINT32_MAX || t->ne[3] != 1)
        return refuse(c, ENGINE_ERR_FILE,
                      "is %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                      ", too large for panels",
                      t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
    if (c->part->alignment % GGUF_PANELS_ALIGNMENT != 0)
        return refuse(c, ENGINE_ERR_FILE,
                      "is in panels, but general.alignment is %" PRIu64 ", not a multiple of %d",
                      c->part->alignment, GGUF_PANELS_ALIGNMENT);
    uint64_t n_panels = (t->ne[1] + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS;
    uint64_t panel = kern_packed_bytes(KERN_LAYOUT_PANELS, (enum kern_type)t->type, KERN_PANEL_ROWS,
                                       (uint32_t)t->ne[0]);
    if (__builtin_mul_overflow(n_panels, panel, &t->bytes) ||
        __builtin_mul_overflow(t->bytes, t->ne[2], &t->bytes))
        return refuse(c, ENGINE_ERR_FILE, "its panels are more bytes than 64 bits can count");
    return 0;
}

/* Bytes of the tensor from its type and shape; a type that nobody knows leaves 0. */
static int size_tensor(const struct cursor *c, struct gguf_tensor *t)
{
    bool in_panels = t->type / GGUF_LAYOUT == KERN_LAYOUT_PANELS &&
                     t->type % GGUF_LAYOUT < KERN_N_TYPES; /* no file has columns */
    t->layout = t->target = t->twin = in_panels ? KERN_LAYOUT_PANELS : KERN_LAYOUT_ROWS;
    t->type -= in_panels ? GGUF_LAYOUT * KERN_LAYOUT_PANELS : 0;
    const struct kern_type_info *info = kern_type_info(t->type);
    if (info->block_values == 0)
        return 0;
    if (t->ne[0] % info->block_values != 0)
        return refuse(c, ENGINE_ERR_FILE, "rows of %" PRIu64 " values, %s needs a multiple of %u",
                      t->ne[0], info->name, info->block_values);
    if (t->layout != KERN_LAYOUT_ROWS)
        return size_panels(c, t);
    uint64_t n_blocks = t->ne[0] / info->block_values * t->ne[1] * t->ne[2] * t->ne[3];
    if (__builtin_mul_overflow(n_blocks, (uint64_t)info->block_bytes, &t->bytes))
        return refuse(c, ENGINE_ERR_FILE,
                      "%" PRIu64 " blocks of %s (%u bytes each) are more than 64 bits can count",
                      n_blocks, info->name, info->block_bytes);
    return 0;
}

static int take_tensor(struct cursor *c, struct gguf_tensor *t)
{
    c->name.data = NULL;
    if (take_name(c, GGUF_MAX_NAME_BYTES) < 0)
        return -1;
    char *copy = strndup(c->name.data, c->name.len);
    if (!copy)
        return refuse_memory(c, 1, "name");
    t->name = copy;
    if (take_shape(c, t) < 0 || take_u32(c, &t->type) < 0 || take_u64(c, &t->offset) < 0)
        return -1;
    return size_tensor(c, t);
}

/* Panels of another version would be read as noise. */
static int check_panels(struct cursor *c, const struct gguf *g, const struct gguf_meta *meta)
{
    int64_t version = 0;
    for (uint64_t i = g->n_tensors - c->part->n_tensors; i < g->n_tensors; i++) {
        if (g->tensors[i].layout == KERN_LAYOUT_ROWS)
            continue;
        if (gguf_meta_int(meta, c->part->label, GGUF_PANELS_KEY, true, 0, INT64_MAX, &version,
                          c->err) != 0)
            return -1;
        if (version == KERN_PANELS_VERSION)
            return 0;
        return refuse(c, ENGINE_ERR_UNSUPPORTED,
                      "was packed by another version of lacuna (panels %" PRId64
                      ", this one has %d): pack the original again",
                      version, KERN_PANELS_VERSION);
    }
    return 0;
}

/* Appends n tensors to g.  Their offsets still count from the start of the data. */
static int take_tensors(struct cursor *c, struct gguf *g, uint32_t part, uint64_t n)
{
    if (n == 0)
        return 0;
    struct gguf_tensor *grown = reallocarray(g->tensors, g->n_tensors + n, sizeof(*grown));
    if (!grown)
        return refuse_memory(c, n, "tensors");
    g->tensors = grown;
    c->where = WHERE_TENSOR;
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_tensor *t = &g->tensors[g->n_tensors++];
        *t = (struct gguf_tensor){ .part = part };
        c->index = i;
        if (take_tensor(c, t) < 0)
            return -1;
    }
    c->where = WHERE_HEADER;
    return 0;
}

/* Where the tensor's data lies in the file; its type says how much of it there is. */
static int place_tensor(const struct cursor *c, struct gguf_tensor *t)
{
    const struct gguf_part *p = c->part;
    if (t->offset % p->alignment != 0)
        return refuse(c, ENGINE_ERR_FILE,
                      "starts at byte %" PRIu64
                      " of the data, not a multiple of the alignment %" PRIu64,
                      t->offset, p->alignment);
    uint64_t begin, end;
    if (__builtin_add_overflow(p->data_start, t->offset, &begin) ||
        __builtin_add_overflow(begin, t->bytes, &end))
        return refuse(c, ENGINE_ERR_FILE,
                      "%" PRIu64 " bytes at byte %" PRIu64
                      " of the data end beyond what 64 bits can count",
                      t->bytes, t->offset);
    if (end > p->file_bytes)
        return refuse(c, ENGINE_ERR_FILE,
                      "needs bytes %" PRIu64 " to %" PRIu64 " of its file, which has %" PRIu64,
                      begin, end, p->file_bytes);
    t->offset = begin;
    return 0;
}

static int place_tensors(struct cursor *c, struct gguf *g)
{
    c->where = WHERE_TENSOR;
    for (uint64_t i = g->n_tensors - c->part->n_tensors; i < g->n_tensors; i++) {
        c->name = gguf_str_of(g->tensors[i].name);
        if (place_tensor(c, &g->tensors[i]) < 0)
            return -1;
    }
    c->where = WHERE_HEADER;
    return 0;
}

/* ---- the header ---- */

static int check_version(const struct cursor *c, uint32_t version)
{
    if (version == 2 || version == 3)
        return 0;
    /* The magic reads the same in both byte orders; the version number does not. */
    uint32_t swapped = __builtin_bswap32(version);
    if (swapped >= 1 && swapped <= 3)
        return refuse(c, ENGINE_ERR_UNSUPPORTED,
                      "is a big-endian GGUF file (version %" PRIu32
                      "), only little-endian ones are supported",
                      swapped);
    return refuse(c, ENGINE_ERR_UNSUPPORTED,
                  "is GGUF version %" PRIu32 ", the supported ones are 2 and 3", version);
}

static int take_magic(struct cursor *c)
{
    unsigned char m[4];
    if (take(c, m, sizeof(m)) < 0)
        return -1;
    if (memcmp(m, "GGUF", 4) != 0)
        return refuse(c, ENGINE_ERR_FILE,
                      "is not a GGUF file: it starts with bytes %02x %02x %02x %02x, not with "
                      "\"GGUF\"",
                      m[0], m[1], m[2], m[3]);
    return 0;
}

/* A count of entries: not above the limit, and their least bytes are there. */
static int check_count(const struct cursor *c, uint64_t n, uint64_t max, uint64_t min_bytes,
                       const char *what)
{
    if (n > max)
        return refuse(c, ENGINE_ERR_FILE, "has %" PRIu64 " %s, the limit is %" PRIu64, n, what,
                      max);
    if (n > n_left(c) / min_bytes)
        return refuse(c, ENGINE_ERR_FILE,
                      "has %" PRIu64 " %s of at least %" PRIu64 " bytes each, but %" PRIu64
                      " bytes are left",
                      n, what, min_bytes, n_left(c));
    return 0;
}

static int read_alignment(struct cursor *c, const struct gguf_meta *meta)
{
    int64_t alignment = GGUF_DEFAULT_ALIGNMENT;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    gguf_meta_int(meta, c->part->label, "general.alignment", false, 1, GGUF_MAX_ALIGNMENT,
                  &alignment, &err);
    if (err.code != ENGINE_ERR_NONE)
        return engine_fail(c->err, err.code, "%s", err.text);
    if ((alignment & (alignment - 1)) != 0)
        return refuse(c, ENGINE_ERR_FILE,
                      "key \"general.alignment\": is %" PRId64 ", it must be a power of two",
                      alignment);
    c->part->alignment = (uint64_t)alignment;
    return 0;
}

int gguf_parse_part(struct gguf *g, uint32_t index, struct gguf_meta *meta, struct engine_err *err)
{
    struct cursor cursor = { .part = &g->parts[index], .where = WHERE_HEADER, .err = err };
    struct cursor *c = &cursor;
    uint32_t version;
    uint64_t n_tensors, n_keys;
    if (take_magic(c) < 0 || take_u32(c, &version) < 0 || check_version(c, version) < 0 ||
        take_u64(c, &n_tensors) < 0 || take_u64(c, &n_keys) < 0 ||
        check_count(c, n_keys, GGUF_MAX_KEYS, MIN_KEY_BYTES, "keys") < 0 ||
        check_count(c, n_tensors, GGUF_MAX_TENSORS - g->n_tensors, MIN_TENSOR_BYTES, "tensors") < 0)
        return -1;
    if (index == 0)
        g->version = version;
    if (take_keys(c, meta, n_keys) < 0 || read_alignment(c, meta) < 0 ||
        take_tensors(c, g, index, n_tensors) < 0)
        return -1;
    c->part->n_tensors = n_tensors;
    if (check_panels(c, g, meta) < 0)
        return -1;
    c->part->head_end = c->pos;
    c->part->data_start = (c->pos + c->part->alignment - 1) & ~(c->part->alignment - 1);
    return place_tensors(c, g);
}
