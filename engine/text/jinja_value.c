/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_value.c - values: making them, lists, dictionaries, truth, equality and order as in Python.
 */
#include <math.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

struct jv jv_none(void)
{
    return (struct jv){ .kind = JV_NONE };
}

struct jv jv_bool(bool b)
{
    return (struct jv){ .kind = JV_BOOL, .as.truth = b };
}

struct jv jv_int(int64_t i)
{
    return (struct jv){ .kind = JV_INT, .as.integer = i };
}

struct jv jv_float(double f)
{
    return (struct jv){ .kind = JV_FLOAT, .as.real = f };
}

struct jv jv_str(const char *text, size_t len)
{
    return (struct jv){ .kind = JV_STRING, .len = (uint32_t)len, .as.text = text };
}

struct jv jv_cstr(const char *text)
{
    return jv_str(text, strlen(text));
}

struct jv jv_undefined(enum jv_kind owner, const char *name, size_t len)
{
    return (struct jv){
        .kind = JV_UNDEFINED, .flag = (uint8_t)owner, .len = (uint32_t)len, .as.text = name
    };
}

struct jv jv_copy(struct jinja_run *r, const char *text, size_t len)
{
    char *copy = jinja_alloc(r, len, 1);
    if (!copy)
        return jv_cstr("");
    if (len > 0)
        memcpy(copy, text, len);
    return jv_str(copy, len);
}

/* ---- lists ---- */

struct jv jv_list_new(struct jinja_run *r, enum jv_kind kind, uint32_t cap)
{
    struct jv_list *l = jinja_alloc(r, 1, sizeof(*l));
    if (!l)
        return (struct jv){ 0 };
    if (cap > 0)
        l->items = jinja_alloc(r, cap, sizeof(*l->items));
    l->cap = l->items ? cap : 0;
    return (struct jv){ .kind = (uint8_t)kind, .as.list = l };
}

void jv_list_push(struct jinja_run *r, struct jv list, struct jv item)
{
    if (r->failed)
        return;
    struct jv_list *l = list.as.list;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 4;
        struct jv *items = jinja_alloc(r, cap, sizeof(*items));
        if (!items)
            return;
        if (l->n > 0)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = item;
}

struct jv jv_pair_new(struct jinja_run *r, struct jv a, struct jv b)
{
    struct jv pair = jv_list_new(r, JV_TUPLE, 2);
    jv_list_push(r, pair, a);
    jv_list_push(r, pair, b);
    return pair;
}

/* ---- dictionaries ---- */

enum {
    DICT_FIRST = 4,
    DICT_UNINDEXED = 8, /* up to here a look at each key is as quick */
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

/* Equal keys have equal hashes: 1, 1.0 and true are one key. */
static uint64_t key_hash(struct jv key)
{
    uint64_t h = key.kind == JV_STRING ? key.len : 1;
    if (jv_is_number(key)) {
        double d = jv_real(key) + 0.0; /* -0.0 is 0.0 */
        memcpy(&h, &d, sizeof h);
    } else if (key.kind == JV_STRING) {
        for (uint32_t i = 0; i < key.len; i++)
            h = (h ^ (uint8_t)key.as.text[i]) * 0x100000001B3u;
    }
    return mix(h);
}

static bool key_equal(struct jv a, struct jv b)
{
    if (a.kind == JV_STRING || b.kind == JV_STRING)
        return a.kind == b.kind && a.len == b.len && memcmp(a.as.text, b.as.text, a.len) == 0;
    if (a.kind == JV_INT && b.kind == JV_INT)
        return a.as.integer == b.as.integer;
    if (jv_is_number(a) && jv_is_number(b))
        return jv_real(a) == jv_real(b);
    return a.kind == b.kind; /* none */
}

struct jv jv_dict_new(struct jinja_run *r)
{
    struct jv_dict *d = jinja_alloc(r, 1, sizeof(*d));
    return d ? (struct jv){ .kind = JV_DICT, .as.dict = d } : (struct jv){ 0 };
}

/* Slot of the key, or the free one where it belongs. */
static uint32_t *index_slot(struct jinja_run *r, const struct jv_dict *d, struct jv key)
{
    uint32_t mask = d->index_size - 1, at = (uint32_t)key_hash(key) & mask, looked = 0;
    while (d->index[at] != 0 && !key_equal(d->pairs[d->index[at] - 1].key, key)) {
        at = (at + 1) & mask;
        looked++;
    }
    jinja_charge(r, looked);
    return &d->index[at];
}

static bool is_key(struct jv v)
{
    return v.kind == JV_STRING || v.kind == JV_NONE || jv_is_number(v);
}

struct jv *jv_dict_find(struct jinja_run *r, const struct jv_dict *d, struct jv key)
{
    if (r->failed || !is_key(key) || !jinja_charge_bytes(r, key.kind == JV_STRING ? key.len : 0))
        return NULL;
    if (d->index) {
        uint32_t place = *index_slot(r, d, key);
        return place ? &d->pairs[place - 1].value : NULL;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if (key_equal(d->pairs[i].key, key))
            return &d->pairs[i].value;
    }
    return NULL;
}

struct jv *jv_dict_find_name(struct jinja_run *r, const struct jv_dict *d, const char *name)
{
    return jv_dict_find(r, d, jv_cstr(name));
}

static bool dict_grow(struct jinja_run *r, struct jv_dict *d)
{
    if (d->n < d->cap)
        return true;
    uint32_t cap = d->cap ? 2 * d->cap : DICT_FIRST;
    struct jv_pair *pairs = jinja_alloc(r, cap, sizeof(*pairs));
    if (!pairs)
        return false;
    if (d->n > 0)
        memcpy(pairs, d->pairs, d->n * sizeof(*pairs));
    d->pairs = pairs;
    d->cap = cap;
    if (cap <= DICT_UNINDEXED)
        return true;
    uint32_t *index = jinja_alloc(r, (size_t)cap * 2, sizeof(*index));
    if (!index)
        return false;
    d->index = index;
    d->index_size = cap * 2;
    for (uint32_t i = 0; i < d->n && !r->failed; i++)
        *index_slot(r, d, pairs[i].key) = i + 1;
    return !r->failed;
}

void jv_dict_set(struct jinja_run *r, struct jv_dict *d, struct jv key, struct jv value)
{
    if (!is_key(key)) {
        jinja_fail(r, "a %s cannot be the key of a dictionary here", jv_type_name(key));
        return;
    }
    struct jv *found = jv_dict_find(r, d, key);
    if (found) {
        *found = value;
        return;
    }
    if (r->failed || !dict_grow(r, d))
        return;
    d->pairs[d->n] = (struct jv_pair){ key, value };
    d->n++;
    if (d->index) {
        uint32_t *slot = index_slot(r, d, key);
        *slot = d->n;
    }
}

void jv_dict_set_name(struct jinja_run *r, struct jv_dict *d, const char *name, struct jv value)
{
    jv_dict_set(r, d, jv_cstr(name), value);
}

/* ---- what they are ---- */

const char *jv_type_name(struct jv v)
{
    static const char *const names[] = {
        [JV_UNDEFINED] = "Undefined", [JV_MISSING] = "Undefined", [JV_NONE] = "NoneType",
        [JV_BOOL] = "bool",           [JV_INT] = "int",           [JV_FLOAT] = "float",
        [JV_STRING] = "str",          [JV_LIST] = "list",         [JV_TUPLE] = "tuple",
        [JV_GENERATOR] = "generator", [JV_RANGE] = "range",       [JV_DICT] = "dict",
        [JV_NAMESPACE] = "Namespace", [JV_LOOP] = "LoopContext",  [JV_MACRO] = "Macro",
        [JV_FUNCTION] = "function",   [JV_METHOD] = "method",     [JV_VIEW] = "dict view",
    };
    return names[v.kind];
}

bool jv_is_number(struct jv v)
{
    return v.kind == JV_INT || v.kind == JV_FLOAT || v.kind == JV_BOOL;
}

bool jv_str_is(struct jv v, const char *text)
{
    size_t len = strlen(text);
    return v.len == len && memcmp(v.as.text, text, len) == 0;
}

int64_t jv_integer(struct jv v)
{
    return v.kind == JV_BOOL ? v.as.truth : v.as.integer;
}

double jv_real(struct jv v)
{
    return v.kind == JV_FLOAT ? v.as.real : (double)jv_integer(v);
}

bool jv_truth(struct jv v)
{
    switch (v.kind) {
    case JV_UNDEFINED:
    case JV_MISSING:
    case JV_NONE:
        return false;
    case JV_BOOL:
        return v.as.truth;
    case JV_INT:
        return v.as.integer != 0;
    case JV_FLOAT:
        return v.as.real != 0;
    case JV_STRING:
        return v.len > 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW:
        return v.as.list->n > 0;
    case JV_RANGE:
        return v.as.range->n > 0;
    case JV_DICT:
        return v.as.dict->n > 0;
    default: /* objects, and generators even if nothing comes out of them */
        return true;
    }
}

/* ---- equality and order ---- */

static bool lists_equal(struct jinja_run *r, const struct jv_list *a, const struct jv_list *b)
{
    if (a->n != b->n || !jinja_enter(r))
        return false;
    bool equal = true;
    for (uint32_t i = 0; i < a->n && equal && !r->failed; i++)
        equal = jv_equal(r, a->items[i], b->items[i]);
    jinja_leave(r);
    return equal && !r->failed;
}

static bool dicts_equal(struct jinja_run *r, const struct jv_dict *a, const struct jv_dict *b)
{
    if (a->n != b->n || !jinja_enter(r))
        return false;
    bool equal = true;
    for (uint32_t i = 0; i < a->n && equal && !r->failed; i++) {
        const struct jv *other = jv_dict_find(r, b, a->pairs[i].key);
        equal = other && jv_equal(r, a->pairs[i].value, *other);
    }
    jinja_leave(r);
    return equal && !r->failed;
}

bool jv_equal(struct jinja_run *r, struct jv a, struct jv b)
{
    if (!jinja_charge(r, 1))
        return false;
    if (jv_is_number(a) && jv_is_number(b))
        return a.kind == JV_FLOAT || b.kind == JV_FLOAT ? jv_real(a) == jv_real(b)
                                                        : jv_integer(a) == jv_integer(b);
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JV_UNDEFINED:
    case JV_NONE:
        return true;
    case JV_STRING:
        return a.len == b.len && jinja_charge_bytes(r, a.len) &&
               memcmp(a.as.text, b.as.text, a.len) == 0;
    case JV_LIST:
    case JV_TUPLE:
        return lists_equal(r, a.as.list, b.as.list);
    case JV_DICT:
        return dicts_equal(r, a.as.dict, b.as.dict);
    case JV_RANGE:
        return a.as.range->n == b.as.range->n &&
               (a.as.range->n == 0 ||
                (a.as.range->start == b.as.range->start &&
                 (a.as.range->n == 1 || a.as.range->step == b.as.range->step)));
    case JV_METHOD:
        return a.as.method->builtin == b.as.method->builtin &&
               jv_equal(r, a.as.method->self, b.as.method->self);
    default:
        return a.as.text == b.as.text; /* the same object */
    }
}

static int compare_strings(struct jv a, struct jv b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n > 0 ? memcmp(a.as.text, b.as.text, n) : 0; /* UTF-8 sorts as code points do */
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_lists(struct jinja_run *r, const struct jv_list *a, const struct jv_list *b,
                         const char *op)
{
    int order = 0;
    if (!jinja_enter(r))
        return 0;
    uint32_t n = a->n < b->n ? a->n : b->n, i = 0;
    while (i < n && jv_equal(r, a->items[i], b->items[i]))
        i++;
    if (i < n)
        order = jv_compare(r, a->items[i], b->items[i], op);
    else
        order = (a->n > b->n) - (a->n < b->n);
    jinja_leave(r);
    return order;
}

int jv_compare(struct jinja_run *r, struct jv a, struct jv b, const char *op)
{
    if (!jinja_charge(r, 1))
        return 0;
    if (jv_is_number(a) && jv_is_number(b)) {
        if (a.kind == JV_FLOAT || b.kind == JV_FLOAT)
            return (jv_real(a) > jv_real(b)) - (jv_real(a) < jv_real(b));
        return (jv_integer(a) > jv_integer(b)) - (jv_integer(a) < jv_integer(b));
    }
    if (a.kind == JV_STRING && b.kind == JV_STRING) {
        jinja_charge_bytes(r, a.len < b.len ? a.len : b.len);
        return compare_strings(a, b);
    }
    if ((a.kind == JV_LIST || a.kind == JV_TUPLE) && a.kind == b.kind)
        return compare_lists(r, a.as.list, b.as.list, op);
    if (a.kind == JV_UNDEFINED || b.kind == JV_UNDEFINED)
        jinja_fail_undefined(r, a.kind == JV_UNDEFINED ? a : b);
    else
        jinja_fail(r, "'%s' is not supported between '%s' and '%s'", op, jv_type_name(a),
                   jv_type_name(b));
    return 0;
}

/* ---- going through ---- */

static struct jv_list *chars_of(struct jinja_run *r, struct jv s)
{
    struct jv list = jv_list_new(r, JV_LIST, 0);
    for (uint32_t at = 0, width; at < s.len && !r->failed; at += width) {
        jchar_read(s.as.text + at, s.len - at, &width);
        jv_list_push(r, list, jv_str(s.as.text + at, width));
    }
    return r->failed ? NULL : list.as.list;
}

static struct jv_list *keys_of(struct jinja_run *r, const struct jv_dict *d)
{
    struct jv list = jv_list_new(r, JV_LIST, d->n);
    for (uint32_t i = 0; i < d->n && !r->failed; i++)
        jv_list_push(r, list, d->pairs[i].key);
    return list.as.list;
}

static struct jv_list *numbers_of(struct jinja_run *r, const struct jv_range *range)
{
    struct jv list = jv_list_new(r, JV_LIST, range->n);
    for (uint32_t i = 0; i < range->n && !r->failed; i++)
        jv_list_push(r, list, jv_int(range->start + (int64_t)i * range->step));
    return list.as.list;
}

static struct jv_list *use_up(struct jinja_run *r, struct jv_list *generator)
{
    struct jv_list *items = jinja_alloc(r, 1, sizeof(*items));
    if (!items)
        return NULL;
    *items = *generator;
    *generator = (struct jv_list){ 0 };
    return items;
}

struct jv_list *jv_items(struct jinja_run *r, struct jv v)
{
    if (r->failed)
        return NULL;
    switch (v.kind) {
    case JV_UNDEFINED:
        return jv_list_new(r, JV_LIST, 0).as.list;
    case JV_STRING:
        return chars_of(r, v);
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW:
        return v.as.list;
    case JV_GENERATOR:
        return use_up(r, v.as.list);
    case JV_RANGE:
        return numbers_of(r, v.as.range);
    case JV_DICT:
        return keys_of(r, v.as.dict);
    default:
        jinja_fail(r, "'%s' object is not iterable", jv_type_name(v));
        return NULL;
    }
}

bool jv_length(struct jinja_run *r, struct jv v, int64_t *n)
{
    switch (v.kind) {
    case JV_UNDEFINED:
        *n = 0;
        return true;
    case JV_STRING:
        jinja_charge_bytes(r, v.len);
        *n = (int64_t)jstr_count(v);
        return true;
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW:
        *n = v.as.list->n;
        return true;
    case JV_RANGE:
        *n = v.as.range->n;
        return true;
    case JV_DICT:
        *n = v.as.dict->n;
        return true;
    case JV_LOOP:
        *n = v.as.loop->items->n;
        return true;
    default:
        return false;
    }
}
