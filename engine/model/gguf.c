/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf.c - opening a model's files and looking at the table of its tensors.
 *
 * A split model is NAME-00001-of-0000N.gguf and so on.  Its first part has the metadata; each part
 * has keys split.no, split.count and split.tensors.count, its own tensors and its own data section.
 * Any part may be named; all are opened, in order.
 *
 * Here are the checks that need more than one entry: the parts belong together, no tensor is there
 * twice, no two share bytes.
 *
 * Thread: open, load and close from one; between load and close everything is read-only.
 */
#include "engine/hash.h"
#include "engine/model/gguf_internal.h"

#include "engine/storage/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SPLIT_SUFFIX_BYTES = 20 }; /* "-00001-of-00003.gguf" */

bool gguf_str_is(struct gguf_str s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* ---- messages ---- */

struct gguf_quoted gguf_quote(struct gguf_str s)
{
    struct gguf_quoted q;
    size_t max = sizeof(q.text) - sizeof("...");
    size_t n = s.len < max ? s.len : max;
    for (size_t i = 0; i < n; i++)
        q.text[i] = s.data[i] >= ' ' && s.data[i] <= '~' ? s.data[i] : '?';
    strcpy(q.text + n, n < s.len ? "..." : "");
    return q;
}

struct gguf_str gguf_str_of(const char *text)
{
    return (struct gguf_str){ .data = text, .len = strlen(text) };
}

/* ---- one part ---- */

static void close_part(struct gguf_part *p)
{
    if (p->data)
        munmap(p->data, p->data_bytes);
    if (p->head_own)
        munmap(p->head_own, p->head_cap);
    if (p->fd >= 0)
        close(p->fd);
    free(p->label);
    free(p->path);
}

/* Takes path_take.  On failure the part is ready for close_part all the same. */
static int name_part(struct gguf_part *p, char *path_take, struct engine_err *err)
{
    *p = (struct gguf_part){ .path = path_take, .fd = -1 };
    if (!p->path)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a file's name");
    const char *slash = strrchr(p->path, '/');
    struct gguf_quoted base = gguf_quote(gguf_str_of(slash ? slash + 1 : p->path));
    if (asprintf(&p->label, "%s: ", base.text) < 0) {
        p->label = NULL;
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a file's name");
    }
    return 0;
}

static int open_file(struct gguf_part *p, struct engine_err *err)
{
    /* O_NONBLOCK: a FIFO of that name must not make us wait for its writer. */
    p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (p->fd < 0 || fstat(p->fd, &st) < 0)
        return engine_fail(err, ENGINE_ERR_FILE, "cannot open %.300s: %s", p->path,
                           io_errno_text(errno));
    if (!S_ISREG(st.st_mode))
        return engine_fail(err, ENGINE_ERR_FILE, "cannot open %.300s: it is not a regular file",
                           p->path);
    p->file_bytes = (uint64_t)st.st_size;
    p->mtime = st.st_mtim.tv_sec;
    return 0;
}

/* An empty buffer as large as the header may become; pages that the parser does not fill cost
 * nothing. */
static int make_head(struct gguf_part *p, struct engine_err *err)
{
    size_t cap = GGUF_MAX_HEADER_BYTES;
    if (p->file_bytes < cap)
        cap = (size_t)p->file_bytes;
    if (cap == 0)
        return engine_fail(err, ENGINE_ERR_FILE, "%sthe file is empty", p->label);
    void *head = mmap(NULL, cap, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (head == MAP_FAILED)
        return engine_fail(err, ENGINE_ERR_MEMORY, "%sno memory for a header of up to %zu bytes",
                           p->label, cap);
    p->head = p->head_own = head;
    p->head_cap = cap;
    return 0;
}

/* Gives back what lies behind the header, and protects the rest. */
static void trim_head(struct gguf_part *p)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t keep = (p->head_end + page - 1) / page * page;
    if (keep < p->head_cap) {
        munmap(p->head_own + keep, p->head_cap - keep);
        p->head_cap = keep;
    }
    mprotect(p->head_own, p->head_cap, PROT_READ);
}

/* Opens and parses the next part of g; its metadata goes to *meta. */
static int add_part(struct gguf *g, char *path_take, struct gguf_meta *meta, struct engine_err *err)
{
    struct gguf_part *grown = reallocarray(g->parts, g->n_parts + 1, sizeof(*grown));
    if (!grown) {
        free(path_take);
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for part %u", g->n_parts + 1);
    }
    g->parts = grown;
    struct gguf_part *p = &g->parts[g->n_parts++];
    if (name_part(p, path_take, err) < 0 || open_file(p, err) < 0 || make_head(p, err) < 0 ||
        gguf_parse_part(g, g->n_parts - 1, meta, err) < 0)
        return -1;
    trim_head(p);
    return 0;
}

/* ---- split files ---- */

struct split {
    int64_t no, count; /* 0, 1 if the file is not split */
    int64_t n_tensors; /* of all parts; -1: not said */
};

static int read_split(const struct gguf_part *p, const struct gguf_meta *meta, struct split *out,
                      struct engine_err *err)
{
    *out = (struct split){ .no = 0, .count = 1, .n_tensors = -1 };
    struct engine_err e = { .code = ENGINE_ERR_NONE };
    gguf_meta_int(meta, p->label, "split.count", false, 0, GGUF_MAX_PARTS, &out->count, &e);
    if (out->count == 0)
        out->count = 1;
    gguf_meta_int(meta, p->label, "split.no", out->count > 1, 0, out->count - 1, &out->no, &e);
    gguf_meta_int(meta, p->label, "split.tensors.count", false, 0, GGUF_MAX_TENSORS,
                  &out->n_tensors, &e);
    if (e.code != ENGINE_ERR_NONE)
        return engine_fail(err, e.code, "%s", e.text);
    return 0;
}

/* The path of part `no` (from 0) of `count`, beside a path that is one of them; NULL if that path
 * does not end in the suffix of part `own` of `count`, or without memory (*err then says so). */
static char *part_path(const char *path, int64_t own, int64_t no, int64_t count,
                       struct engine_err *err)
{
    char suffix[64];
    snprintf(suffix, sizeof(suffix), "-%05" PRId64 "-of-%05" PRId64 ".gguf", own + 1, count);
    size_t len = strlen(path);
    if (len < SPLIT_SUFFIX_BYTES || strcmp(path + len - SPLIT_SUFFIX_BYTES, suffix) != 0) {
        engine_fail(err, ENGINE_ERR_FILE,
                    "%.200s: is part %" PRId64 " of %" PRId64
                    " of a split model, so its name must end in \"%s\"",
                    path, own + 1, count, suffix);
        return NULL;
    }
    char *out;
    if (asprintf(&out, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)(len - SPLIT_SUFFIX_BYTES),
                 path, no + 1, count) < 0) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a file's name");
        return NULL;
    }
    return out;
}

static int check_split(const struct gguf *g, const struct split *got, const struct split *first,
                       struct engine_err *err)
{
    uint32_t i = g->n_parts - 1;
    if (got->count != first->count || got->no != i)
        return engine_fail(err, ENGINE_ERR_FILE,
                           "%ssays that it is part %" PRId64 " of %" PRId64
                           ", but its name says part %u of %" PRId64,
                           g->parts[i].label, got->no + 1, got->count, i + 1, first->count);
    return 0;
}

/* Opens parts g->n_parts .. count - 1 beside `path`, which is part `own` of them. */
static int add_other_parts(struct gguf *g, const char *path, const struct split *first,
                           struct engine_err *err)
{
    while (g->n_parts < first->count) {
        struct gguf_meta meta = { .n = 0 };
        struct split split;
        /* The first part's metadata is the model's; the others' is only looked at here. */
        struct gguf_meta *into = g->n_parts == 0 ? &g->meta : &meta;
        char *other = part_path(path, first->no, g->n_parts, first->count, err);
        int rc = other ? add_part(g, other, into, err) : -1;
        if (rc == 0)
            rc = read_split(&g->parts[g->n_parts - 1], into, &split, err);
        gguf_meta_fini(&meta);
        if (rc < 0 || check_split(g, &split, first, err) < 0)
            return -1;
    }
    if (first->n_tensors >= 0 && (uint64_t)first->n_tensors != g->n_tensors)
        return engine_fail(err, ENGINE_ERR_FILE,
                           "%skey \"split.tensors.count\": is %" PRId64
                           ", but the %u parts have %" PRIu64 " tensors",
                           g->parts[0].label, first->n_tensors, g->n_parts, g->n_tensors);
    return 0;
}

/* ---- the whole table ---- */

static int refuse_pair(const struct gguf *g, const struct gguf_tensor *t, const char *what,
                       const char *other, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_FILE, "%stensor \"%s\": %s%s", g->parts[t->part].label,
                       gguf_quote(gguf_str_of(t->name)).text, what, other);
}

static int index_names(struct gguf *g, struct engine_err *err)
{
    if (gguf_names_init(&g->names, g->n_tensors) < 0)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %" PRIu64 " tensors",
                           g->n_tensors);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        if (gguf_names_add(&g->names, gguf_str_of(t->name), (uint32_t)i) != i)
            return refuse_pair(g, t, "is there twice", "", err);
    }
    return 0;
}

static int compare_places(const void *x, const void *y, void *ctx)
{
    const struct gguf_tensor *tensors = ctx;
    const struct gguf_tensor *a = &tensors[*(const uint32_t *)x];
    const struct gguf_tensor *b = &tensors[*(const uint32_t *)y];
    if (a->part != b->part)
        return a->part < b->part ? -1 : 1;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a < b ? -1 : a > b;
}

static int sort_by_place(struct gguf *g, struct engine_err *err)
{
    g->order = calloc(g->n_tensors ? g->n_tensors : 1, sizeof(*g->order));
    if (!g->order)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %" PRIu64 " tensors",
                           g->n_tensors);
    for (uint64_t i = 0; i < g->n_tensors; i++)
        g->order[i] = (uint32_t)i;
    if (g->n_tensors > 0)
        qsort_r(g->order, g->n_tensors, sizeof(*g->order), compare_places, g->tensors);
    return 0;
}

/* Tensors of unknown size (bytes 0) overlap nothing: nobody will read them. */
static int check_overlaps(struct gguf *g, struct engine_err *err)
{
    const struct gguf_tensor *before = NULL;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[g->order[i]];
        if (t->bytes == 0)
            continue;
        if (before && before->part == t->part && before->offset + before->bytes > t->offset) {
            char what[128];
            snprintf(what, sizeof(what),
                     "starts at byte %" PRIu64 ", before byte %" PRIu64 ", the end of tensor ",
                     t->offset, before->offset + before->bytes);
            return refuse_pair(g, t, what, gguf_quote(gguf_str_of(before->name)).text, err);
        }
        before = t;
        g->data_bytes += t->bytes;
    }
    return 0;
}

static int index_tensors(struct gguf *g, struct engine_err *err)
{
    if (index_names(g, err) < 0 || sort_by_place(g, err) < 0)
        return -1;
    return check_overlaps(g, err);
}

/* ---- open and close ---- */

static struct gguf *new_gguf(struct engine_err *err)
{
    struct gguf *g = calloc(1, sizeof(*g));
    if (!g) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a model's header");
        return NULL;
    }
    g->io_name = "none";
    return g;
}

/* Forgets all parts and tensors, for a new start with another first part. */
static void reset(struct gguf *g)
{
    for (uint64_t i = 0; i < g->n_tensors; i++)
        free((char *)(uintptr_t)g->tensors[i].name); /* const only for the readers */
    free(g->tensors);
    for (uint32_t i = 0; i < g->n_parts; i++)
        close_part(&g->parts[i]);
    free(g->parts);
    gguf_meta_fini(&g->meta);
    g->tensors = NULL;
    g->n_tensors = 0;
    g->parts = NULL;
    g->n_parts = 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    reset(g);
    gguf_names_fini(&g->names);
    free(g->order);
    free(g);
}

int gguf_open(struct gguf **out, const char *path, struct engine_err *err)
{
    *out = NULL;
    struct gguf *g = new_gguf(err);
    struct split split;
    if (!g || add_part(g, strdup(path), &g->meta, err) < 0 ||
        read_split(&g->parts[0], &g->meta, &split, err) < 0)
        goto fail;
    if (split.no != 0)
        reset(g); /* all parts in order, from the first */
    if (split.count > 1 && add_other_parts(g, path, &split, err) < 0)
        goto fail;
    if (index_tensors(g, err) < 0)
        goto fail;
    *out = g;
    return 0;
fail:
    gguf_close(g);
    return -1;
}

int gguf_open_memory(struct gguf **out, const void *buf, size_t len, uint64_t file_bytes,
                     struct engine_err *err)
{
    *out = NULL;
    struct gguf *g = new_gguf(err);
    if (!g)
        return -1;
    struct split split;
    g->parts = calloc(1, sizeof(*g->parts));
    if (!g->parts || !(g->parts[0].label = strdup(""))) {
        free(g->parts);
        g->parts = NULL;
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a model's header");
        goto fail;
    }
    g->n_parts = 1;
    struct gguf_part *p = &g->parts[0];
    p->fd = -1;
    p->head = buf;
    p->head_filled = p->head_cap = len;
    p->file_bytes = file_bytes;
    if (gguf_parse_part(g, 0, &g->meta, err) < 0 || read_split(p, &g->meta, &split, err) < 0)
        goto fail;
    if (split.count > 1) {
        engine_fail(err, ENGINE_ERR_FILE,
                    "is part %" PRId64 " of %" PRId64 " of a split model, the others are not here",
                    split.no + 1, split.count);
        goto fail;
    }
    if (index_tensors(g, err) < 0)
        goto fail;
    *out = g;
    return 0;
fail:
    gguf_close(g);
    return -1;
}

/* ---- looking ---- */

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

uint64_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i)
{
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    uint32_t i = gguf_names_find(&g->names, gguf_str_of(name));
    return i == GGUF_NO_INDEX ? NULL : &g->tensors[i];
}

void gguf_leave(struct gguf *g, const struct gguf_tensor *t)
{
    g->tensors[t - g->tensors].on_demand = true;
}

void gguf_aim(struct gguf *g, const struct gguf_tensor *t, enum kern_layout target,
              enum kern_layout twin)
{
    assert(t->layout == KERN_LAYOUT_ROWS || (t->layout == target && target == twin));
    g->tensors[t - g->tensors].target = target;
    g->tensors[t - g->tensors].twin = twin;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->n_parts; i++)
        sum += g->parts[i].file_bytes;
    return sum;
}

uint64_t gguf_data_bytes(const struct gguf *g)
{
    return g->data_bytes;
}

/* Of the part that was changed last. */
int64_t gguf_mtime(const struct gguf *g)
{
    int64_t newest = g->parts[0].mtime;
    for (uint32_t i = 1; i < g->n_parts; i++)
        if (g->parts[i].mtime > newest)
            newest = g->parts[i].mtime;
    return newest;
}

/* Only what survives a split, a merge or another alignment counts: no offsets. */
uint64_t gguf_hash(const struct gguf *g)
{
    uint64_t hash = g->n_tensors;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        const uint64_t shape[6] = { t->type, t->n_dims, t->ne[0], t->ne[1], t->ne[2], t->ne[3] };
        hash = hash_bytes(t->name, strlen(t->name), hash);
        hash = hash_bytes(shape, sizeof(shape), hash);
    }
    return hash;
}

const char *gguf_io_name(const struct gguf *g)
{
    return g->io_name;
}
