/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_meta.c - finding a key's value and converting it.
 *
 * The parser keeps a scalar as an array of one element, so there is one way to read a number.
 * Numbers lie unaligned in the header's bytes and are copied out.
 *
 * Conversion: any integer type to any other if the value fits; float32 and float64 to each other,
 * and integers to floats; nothing else (a bool is no number, a float no integer, a string neither).
 *
 * Read-only after open: any thread.
 */
#include "engine/hash.h"
#include "engine/model/gguf_internal.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const struct {
    const char *name;
    uint8_t bytes;
    bool is_int, is_float;
} types[] = {
    [GGUF_U8] = { "uint8", 1, true, false },       [GGUF_I8] = { "int8", 1, true, false },
    [GGUF_U16] = { "uint16", 2, true, false },     [GGUF_I16] = { "int16", 2, true, false },
    [GGUF_U32] = { "uint32", 4, true, false },     [GGUF_I32] = { "int32", 4, true, false },
    [GGUF_F32] = { "float32", 4, false, true },    [GGUF_BOOL] = { "bool", 1, false, false },
    [GGUF_STRING] = { "string", 0, false, false }, [GGUF_ARRAY] = { "array", 0, false, false },
    [GGUF_U64] = { "uint64", 8, true, false },     [GGUF_I64] = { "int64", 8, true, false },
    [GGUF_F64] = { "float64", 8, false, true },
};

const char *gguf_value_type_name(enum gguf_type type)
{
    return types[type].name;
}

uint32_t gguf_value_type_bytes(enum gguf_type type)
{
    return types[type].bytes;
}

/* ---- names ---- */

int gguf_names_init(struct gguf_names *names, uint64_t n)
{
    uint64_t n_slots = 4;
    while (n_slots < 2 * n) /* at most half full */
        n_slots *= 2;
    names->slots = calloc(n_slots, sizeof(*names->slots));
    if (!names->slots)
        return -1;
    names->mask = (uint32_t)(n_slots - 1);
    if (getrandom(&names->seed, sizeof(names->seed), GRND_NONBLOCK) < 0)
        names->seed = (uintptr_t)names->slots; /* early at boot: better than a constant */
    return 0;
}

void gguf_names_fini(struct gguf_names *names)
{
    free(names->slots);
}

/* The slot that holds name, or the free one where it belongs. */
static struct gguf_name *find_slot(const struct gguf_names *names, struct gguf_str name)
{
    uint64_t hash = hash_bytes(name.data, name.len, names->seed);
    for (uint32_t i = (uint32_t)hash & names->mask;; i = (i + 1) & names->mask) {
        struct gguf_name *slot = &names->slots[i];
        if (!slot->data || (slot->len == name.len && memcmp(slot->data, name.data, name.len) == 0))
            return slot;
    }
}

uint32_t gguf_names_add(struct gguf_names *names, struct gguf_str name, uint32_t index)
{
    struct gguf_name *slot = find_slot(names, name);
    if (!slot->data)
        *slot = (struct gguf_name){ .data = name.data, .len = (uint32_t)name.len, .index = index };
    return slot->index;
}

uint32_t gguf_names_find(const struct gguf_names *names, struct gguf_str name)
{
    const struct gguf_name *slot = find_slot(names, name);
    return slot->data ? slot->index : GGUF_NO_INDEX;
}

/* ---- finding ---- */

void gguf_meta_fini(struct gguf_meta *meta)
{
    for (uint64_t i = 0; i < meta->n; i++)
        free(meta->kv[i].owned);
    free(meta->kv);
    gguf_names_fini(&meta->names);
    *meta = (struct gguf_meta){ .n = 0 };
}

static const struct gguf_kv *find(const struct gguf_meta *meta, const char *key)
{
    uint32_t i = gguf_names_find(&meta->names, gguf_str_of(key));
    return i == GGUF_NO_INDEX ? NULL : &meta->kv[i];
}

/* The value under key; NULL with *err set if it is missing and required. */
static const struct gguf_kv *lookup(const struct gguf_meta *meta, const char *label,
                                    const char *key, bool required, struct engine_err *err)
{
    const struct gguf_kv *kv = find(meta, key);
    if (!kv && required)
        engine_fail(err, ENGINE_ERR_FILE, "%skey \"%s\": is missing", label, key);
    return kv;
}

static int refuse_type(const char *label, const struct gguf_kv *kv, const char *wanted,
                       struct engine_err *err)
{
    const char *name = types[kv->value.type].name;
    struct gguf_quoted key = gguf_quote(kv->key);
    if (!kv->is_array)
        return engine_fail(err, ENGINE_ERR_FILE, "%skey \"%s\": is of type %s, %s is needed", label,
                           key.text, name, wanted);
    return engine_fail(err, ENGINE_ERR_FILE,
                       "%skey \"%s\": is an array of %" PRIu64 " values (%s), %s is needed", label,
                       key.text, kv->value.n, name, wanted);
}

/* ---- numbers ---- */

/* The bits of element i, zero-extended; little endian is the host's order too. */
static uint64_t bits_at(const struct gguf_array *a, uint64_t i)
{
    uint32_t bytes = types[a->type].bytes;
    uint64_t bits = 0;
    memcpy(&bits, (const char *)a->data + i * bytes, bytes);
    return bits;
}

static bool is_signed(enum gguf_type type)
{
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

/* Element i of an array of integers or bools; false if it is above INT64_MAX. */
static bool whole_at(const struct gguf_array *a, uint64_t i, int64_t *out)
{
    uint64_t bits = bits_at(a, i);
    unsigned unused = 64 - 8 * (unsigned)types[a->type].bytes;
    if (is_signed(a->type)) {
        *out = (int64_t)(bits << unused) >> unused;
        return true;
    }
    *out = bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    return bits <= INT64_MAX;
}

static double float_at(const struct gguf_array *a, uint64_t i)
{
    uint64_t bits = bits_at(a, i);
    if (a->type == GGUF_F64) {
        double d;
        memcpy(&d, &bits, sizeof(d));
        return d;
    }
    float f;
    uint32_t low = (uint32_t)bits;
    memcpy(&f, &low, sizeof(f));
    return f;
}

int64_t gguf_array_int(const struct gguf_array *a, uint64_t i)
{
    int64_t x;
    if (!types[a->type].is_float) {
        whole_at(a, i, &x);
        return x;
    }
    double d = float_at(a, i);
    if (isnan(d))
        return 0;
    if (d >= 0x1p63)
        return INT64_MAX;
    return d < -0x1p63 ? INT64_MIN : (int64_t)d;
}

double gguf_array_float(const struct gguf_array *a, uint64_t i)
{
    if (types[a->type].is_float)
        return float_at(a, i);
    if (a->type == GGUF_U64)
        return (double)bits_at(a, i);
    return (double)gguf_array_int(a, i);
}

/* Element i must be in min .. max. */
static int check_range(const char *label, const struct gguf_kv *kv, uint64_t i, int64_t min,
                       int64_t max, struct engine_err *err)
{
    int64_t x;
    bool fits = whole_at(&kv->value, i, &x);
    if (fits && x >= min && x <= max)
        return 0;
    struct gguf_quoted key = gguf_quote(kv->key);
    char element[40] = "";
    if (kv->is_array)
        snprintf(element, sizeof(element), "element %" PRIu64 " ", i);
    return engine_fail(err, ENGINE_ERR_FILE,
                       "%skey \"%s\": %sis %s%" PRId64 ", it must be %" PRId64 " to %" PRId64,
                       label, key.text, element, fits ? "" : "above ", x, min, max);
}

/* An array of equal numbers stands for that number: files that give one value per layer. */
static int check_one_number(const char *label, const struct gguf_kv *kv, struct engine_err *err)
{
    if (kv->value.n == 0)
        return refuse_type(label, kv, "one number", err);
    for (uint64_t i = 1; i < kv->value.n; i++)
        if (bits_at(&kv->value, i) != bits_at(&kv->value, 0))
            return refuse_type(label, kv, "one number (or equal ones)", err);
    return 0;
}

/* The whole number of kv, which is a scalar, or an array of equal ones if that is allowed. */
static int whole_of(const char *label, const struct gguf_kv *kv, bool array_allowed, int64_t min,
                    int64_t max, int64_t *out, struct engine_err *err)
{
    if (!types[kv->value.type].is_int || (kv->is_array && !array_allowed))
        return refuse_type(label, kv, "a whole number", err);
    if (kv->is_array && check_one_number(label, kv, err) < 0)
        return -1;
    if (check_range(label, kv, 0, min, max, err) < 0)
        return -1;
    whole_at(&kv->value, 0, out);
    return 0;
}

int gguf_meta_int(const struct gguf_meta *meta, const char *label, const char *key, bool required,
                  int64_t min, int64_t max, int64_t *out, struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(meta, label, key, required, err);
    return kv ? whole_of(label, kv, false, min, max, out, err) : -1;
}

/* ---- getters ---- */

bool gguf_has(const struct gguf *g, const char *key)
{
    return find(&g->meta, key) != NULL;
}

uint64_t gguf_n_keys(const struct gguf *g)
{
    return g->meta.n;
}

struct gguf_str gguf_key_at(const struct gguf *g, uint64_t i, enum gguf_type *type)
{
    const struct gguf_kv *kv = &g->meta.kv[i];
    if (type)
        *type = kv->is_array ? GGUF_ARRAY : kv->value.type;
    return kv->key;
}

int gguf_get_u32(const struct gguf *g, const char *key, bool required, uint32_t *out,
                 struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(&g->meta, "", key, required, err);
    int64_t x;
    if (!kv || whole_of("", kv, true, 0, UINT32_MAX, &x, err) < 0)
        return -1;
    *out = (uint32_t)x;
    return 0;
}

int gguf_get_i32(const struct gguf *g, const char *key, bool required, int32_t *out,
                 struct engine_err *err)
{
    int64_t x;
    if (gguf_meta_int(&g->meta, "", key, required, INT32_MIN, INT32_MAX, &x, err) < 0)
        return -1;
    *out = (int32_t)x;
    return 0;
}

int gguf_get_f32(const struct gguf *g, const char *key, bool required, float *out,
                 struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(&g->meta, "", key, required, err);
    if (!kv)
        return -1;
    if (kv->is_array || !(types[kv->value.type].is_float || types[kv->value.type].is_int))
        return refuse_type("", kv, "a number", err);
    double x = gguf_array_float(&kv->value, 0);
    if (!(fabs(x) <= FLT_MAX)) {
        struct gguf_quoted name = gguf_quote(kv->key);
        return engine_fail(err, ENGINE_ERR_FILE,
                           "key \"%s\": is %g, it must be finite and at most %g in size", name.text,
                           x, (double)FLT_MAX);
    }
    *out = (float)x;
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool required, bool *out,
                  struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(&g->meta, "", key, required, err);
    if (!kv)
        return -1;
    if (kv->is_array || kv->value.type != GGUF_BOOL)
        return refuse_type("", kv, "a bool", err);
    *out = bits_at(&kv->value, 0) != 0;
    return 0;
}

int gguf_get_str(const struct gguf *g, const char *key, bool required, struct gguf_str *out,
                 struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(&g->meta, "", key, required, err);
    if (!kv)
        return -1;
    if (kv->is_array || kv->value.type != GGUF_STRING)
        return refuse_type("", kv, "a string", err);
    *out = kv->scalar;
    return 0;
}

/* ---- arrays ---- */

/* Of an unsigned 64-bit type, what gguf_array_int can give back. */
static int64_t int_type_max(enum gguf_type type)
{
    unsigned bits = 8 * (unsigned)types[type].bytes;
    if (bits == 64)
        return INT64_MAX;
    return (INT64_C(1) << (is_signed(type) ? bits - 1 : bits)) - 1;
}

static int64_t int_type_min(enum gguf_type type)
{
    return is_signed(type) ? -int_type_max(type) - 1 : 0;
}

/* May an array of type `stored` be asked for as `wanted`?  Numbers of one kind are converted. */
static bool is_kin(enum gguf_type stored, enum gguf_type wanted)
{
    return stored == wanted || (types[stored].is_int && types[wanted].is_int) ||
           (types[stored].is_float && types[wanted].is_float);
}

int gguf_get_array(const struct gguf *g, const char *key, bool required, enum gguf_type type,
                   struct gguf_array *out, struct engine_err *err)
{
    const struct gguf_kv *kv = lookup(&g->meta, "", key, required, err);
    if (!kv)
        return -1;
    if (!kv->is_array || !is_kin(kv->value.type, type)) {
        char wanted[40];
        snprintf(wanted, sizeof(wanted), "an array (%s)", types[type].name);
        return refuse_type("", kv, wanted, err);
    }
    if (types[type].is_int && kv->value.type != type) {
        for (uint64_t i = 0; i < kv->value.n; i++)
            if (check_range("", kv, i, int_type_min(type), int_type_max(type), err) < 0)
                return -1;
    }
    *out = kv->value;
    return 0;
}
