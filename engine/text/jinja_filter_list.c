/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_filter_list.c - filters of lists and other things that can be gone through.
 *
 * What is a generator in Jinja2 is one here too: always true, without length, used up by the first
 * who goes through it.  Templates were written against that.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

/* ---- an attribute of each item: "function.name" ---- */

static bool part_index(struct jv part, int64_t *index)
{
    *index = 0;
    for (uint32_t i = 0; i < part.len; i++) {
        if (part.as.text[i] < '0' || part.as.text[i] > '9' || part.len > 9)
            return false;
        *index = *index * 10 + (part.as.text[i] - '0');
    }
    return part.len > 0;
}

/* otherwise: in place of what is not there; JV_MISSING or none: nothing. */
static struct jv item_attr(struct jinja_run *r, struct jv item, struct jv path, struct jv otherwise)
{
    if (path.kind == JV_INT)
        return jinja_item(r, item, path);
    if (path.kind != JV_STRING)
        return jinja_fail(r, "an attribute must be a string or an integer");
    for (size_t at = 0; at <= path.len && !r->failed;) {
        int64_t index;
        size_t dot = jstr_find(path, jv_cstr("."), at);
        struct jv part = jstr_sub(path, at, dot == SIZE_MAX ? path.len : dot);
        item = jinja_item(r, item, part_index(part, &index) ? jv_int(index) : part);
        if (item.kind == JV_UNDEFINED && otherwise.kind != JV_MISSING && otherwise.kind != JV_NONE)
            item = otherwise;
        at = dot == SIZE_MAX ? path.len + 1u : dot + 1;
    }
    return item;
}

/* The item itself, or its attribute if one is asked for; lower case if case does not matter. */
static struct jv item_key(struct jinja_run *r, struct jv item, struct jv attribute,
                          bool case_sensitive)
{
    struct jv key = item;
    if (attribute.kind != JV_MISSING && attribute.kind != JV_NONE)
        key = item_attr(r, item, attribute, (struct jv){ .kind = JV_MISSING });
    if (case_sensitive || key.kind != JV_STRING)
        return key;
    struct jinja_args args = { .self = key };
    return jinja_builtin_call(r, jinja_builtin_find(jinja_string_methods, jv_cstr("lower")), &args);
}

/* ---- one of the items ---- */

static struct jv filter_first(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv_list *items = a->self.kind == JV_GENERATOR ? a->self.as.list : jv_items(r, a->self);
    if (!items || items->n == 0)
        return jv_undefined(JV_UNDEFINED, "the first item of nothing", 25);
    struct jv first = items->items[0];
    if (a->self.kind == JV_GENERATOR) {
        items->items++;
        items->n--;
        items->cap--;
    }
    return first;
}

static struct jv filter_last(struct jinja_run *r, const struct jinja_args *a)
{
    if (a->self.kind == JV_GENERATOR)
        return jinja_fail(r, "'generator' object is not reversible");
    const struct jv_list *items = jv_items(r, a->self);
    if (!items || items->n == 0)
        return jv_undefined(JV_UNDEFINED, "the last item of nothing", 24);
    return items->items[items->n - 1];
}

static struct jv extreme(struct jinja_run *r, const struct jinja_args *a, int sign)
{
    const struct jv_list *items = jv_items(r, a->self);
    bool cased = jarg_bool(a->param[0], false);
    if (!items || items->n == 0)
        return jv_undefined(JV_UNDEFINED, "the extreme of nothing", 22);
    struct jv best = items->items[0], best_key = item_key(r, best, a->param[1], cased);
    for (uint32_t i = 1; i < items->n && !r->failed; i++) {
        struct jv key = item_key(r, items->items[i], a->param[1], cased);
        if (sign * jv_compare(r, key, best_key, sign < 0 ? "<" : ">") <= 0)
            continue;
        best = items->items[i];
        best_key = key;
    }
    return best;
}

static struct jv filter_min(struct jinja_run *r, const struct jinja_args *a)
{
    return extreme(r, a, -1);
}

static struct jv filter_max(struct jinja_run *r, const struct jinja_args *a)
{
    return extreme(r, a, 1);
}

/* ---- all of them as one value ---- */

static struct jv filter_length(struct jinja_run *r, const struct jinja_args *a)
{
    int64_t n;
    if (!jv_length(r, a->self, &n))
        return jinja_fail(r, "object of type '%s' has no length", jv_type_name(a->self));
    return jv_int(n);
}

static struct jv filter_join(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    struct jv separator = a->param[0].kind == JV_MISSING ? jv_cstr("") : jv_to_str(r, a->param[0]);
    bool whole = a->param[1].kind == JV_MISSING || a->param[1].kind == JV_NONE;
    size_t mark = r->out.len;
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++) {
        struct jv item = items->items[i];
        if (!whole)
            item = item_attr(r, item, a->param[1], (struct jv){ .kind = JV_MISSING });
        if (i > 0)
            jinja_put_str(r, separator);
        jinja_put_value(r, item);
    }
    return jinja_take(r, mark);
}

static struct jv filter_sum(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    struct jv sum = a->param[1].kind == JV_MISSING ? jv_int(0) : a->param[1];
    for (uint32_t i = 0; items && i < items->n && !r->failed; i++)
        sum = jinja_binary(r, JOP_ADD, sum, item_key(r, items->items[i], a->param[0], true));
    return sum;
}

static struct jv filter_default(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    bool use = a->self.kind == JV_UNDEFINED ||
               (jarg_bool(a->param[1], false) && !jv_truth(a->self));
    if (!use)
        return a->self;
    return a->param[0].kind == JV_MISSING ? jv_cstr("") : a->param[0];
}

/* ---- lists of the same items ---- */

static struct jv list_of(struct jinja_run *r, const struct jv_list *items, enum jv_kind kind)
{
    struct jv list = jv_list_new(r, kind, items ? items->n : 0);
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++)
        jv_list_push(r, list, items->items[i]);
    return list;
}

static struct jv filter_list(struct jinja_run *r, const struct jinja_args *a)
{
    return list_of(r, jv_items(r, a->self), JV_LIST);
}

static struct jv filter_reverse(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    if (a->self.kind == JV_STRING) {
        size_t mark = r->out.len;
        for (uint32_t i = items ? items->n : 0; i-- > 0;)
            jinja_put_str(r, items->items[i]);
        return jinja_take(r, mark);
    }
    struct jv list = jv_list_new(r, a->self.kind == JV_GENERATOR ? JV_LIST : JV_GENERATOR,
                                 items ? items->n : 0);
    for (uint32_t i = items ? items->n : 0; i-- > 0 && jinja_charge(r, 1);)
        jv_list_push(r, list, items->items[i]);
    return list;
}

static struct jv filter_unique(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    struct jv list = jv_list_new(r, JV_GENERATOR, 0), seen = jv_dict_new(r);
    for (uint32_t i = 0; items && i < items->n && !r->failed; i++) {
        struct jv key = item_key(r, items->items[i], a->param[1], jarg_bool(a->param[0], false));
        if (!r->failed && !jv_dict_find(r, seen.as.dict, key)) {
            jv_dict_set(r, seen.as.dict, key, jv_none());
            jv_list_push(r, list, items->items[i]);
        }
    }
    return list;
}

static struct jv filter_batch(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    struct jv batches = jv_list_new(r, JV_GENERATOR, 0), batch = jv_none();
    int64_t size;
    if (!jarg_int(r, a->param[0], "linecount", 0, &size))
        return batches;
    if (size < 1)
        return jinja_fail(r, "batch: the size must be at least 1");
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++) {
        if (i % size == 0) {
            batch = jv_list_new(r, JV_LIST, 0);
            jv_list_push(r, batches, batch);
        }
        jv_list_push(r, batch, items->items[i]);
    }
    if (a->param[1].kind != JV_MISSING && a->param[1].kind != JV_NONE && batch.kind == JV_LIST) {
        while (!r->failed && batch.as.list->n < size)
            jv_list_push(r, batch, a->param[1]);
    }
    return batches;
}

/* ---- sorting ---- */

struct sorted {
    struct jv key, item;
};

static int compare_sorted(struct jinja_run *r, const struct sorted *a, const struct sorted *b,
                          bool reverse)
{
    int order = jv_compare(r, a->key, b->key, "<");
    return reverse ? -order : order;
}

/* A merge sort: equal items keep their order, and a comparison may fail at any time. */
static void merge_sort(struct jinja_run *r, struct sorted *s, struct sorted *scratch, uint32_t n,
                       bool reverse)
{
    for (uint32_t width = 1; width < n && !r->failed; width = width > n / 2 ? n : 2 * width) {
        for (uint32_t from = 0; from < n && !r->failed; from += 2 * width) {
            uint32_t mid = n - from > width ? from + width : n;
            uint32_t to = n - mid > width ? mid + width : n, i = from, j = mid, k = from;
            while (k < to && !r->failed) {
                bool left = j == to || (i < mid && compare_sorted(r, &s[i], &s[j], reverse) <= 0);
                scratch[k++] = left ? s[i++] : s[j++];
            }
            if (n - from <= 2 * (uint64_t)width)
                break;
        }
        if (!r->failed)
            memcpy(s, scratch, n * sizeof(*s));
    }
}

static struct jv sort_items(struct jinja_run *r, struct sorted *s, uint32_t n, bool reverse)
{
    struct sorted *scratch = jinja_alloc(r, n, sizeof(*scratch));
    struct jv list = jv_list_new(r, JV_LIST, n);
    if (r->failed)
        return list;
    merge_sort(r, s, scratch, n, reverse);
    for (uint32_t i = 0; i < n && !r->failed; i++)
        jv_list_push(r, list, s[i].item);
    return list;
}

static struct jv filter_sort(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->self);
    struct sorted *s = items ? jinja_alloc(r, items->n, sizeof(*s)) : NULL;
    for (uint32_t i = 0; s && i < items->n && !r->failed; i++) {
        s[i].item = items->items[i];
        s[i].key = item_key(r, s[i].item, a->param[2], jarg_bool(a->param[1], false));
    }
    return s ? sort_items(r, s, items->n, jarg_bool(a->param[0], false)) : jv_none();
}

static struct jv filter_dictsort(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv by;
    if (a->self.kind != JV_DICT)
        return jinja_fail(r, "dictsort needs a dictionary, not '%s'", jv_type_name(a->self));
    if (!jarg_str(r, a->param[1], "by", jv_cstr("key"), &by))
        return by;
    const struct jv_dict *d = a->self.as.dict;
    struct sorted *s = jinja_alloc(r, d->n, sizeof(*s));
    for (uint32_t i = 0; s && i < d->n && !r->failed; i++) {
        struct jv key = jv_str_is(by, "value") ? d->pairs[i].value : d->pairs[i].key;
        s[i].item = jv_pair_new(r, d->pairs[i].key, d->pairs[i].value);
        s[i].key = item_key(r, key, jv_none(), jarg_bool(a->param[0], false));
    }
    return s ? sort_items(r, s, d->n, jarg_bool(a->param[2], false)) : jv_none();
}

static struct jv filter_items(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv pairs = jv_list_new(r, JV_GENERATOR, 0);
    if (a->self.kind != JV_DICT && a->self.kind != JV_UNDEFINED)
        return jinja_fail(r, "items needs a dictionary, not '%s'", jv_type_name(a->self));
    for (uint32_t i = 0; a->self.kind == JV_DICT && i < a->self.as.dict->n && !r->failed; i++)
        jv_list_push(
            r, pairs,
            jv_pair_new(r, a->self.as.dict->pairs[i].key, a->self.as.dict->pairs[i].value));
    return pairs;
}

/* ---- each item through a filter or test named by a string ---- */

static struct jv apply(struct jinja_run *r, const struct jinja_builtin *b, struct jv item,
                       const struct jinja_args *a, uint32_t n_used)
{
    struct jinja_args args = { .self = item, .kw = a->kw, .n_kw = a->n_kw };
    args.pos = a->n_pos > n_used ? a->pos + n_used : NULL;
    args.n_pos = a->n_pos - n_used;
    return jinja_charge(r, 1) ? jinja_builtin_call(r, b, &args) : jv_none();
}

/* The builtin that argument `place` names. */
static const struct jinja_builtin *named(struct jinja_run *r, const struct jinja_args *a,
                                         uint32_t place, bool test)
{
    struct jv name = a->pos[place];
    const struct jinja_builtin *b = NULL;
    if (name.kind == JV_STRING)
        b = test ? jinja_builtin_find(jinja_tests, name) : jinja_filter_find(name);
    if (!b && name.kind == JV_STRING)
        jinja_fail_code(r, ENGINE_ERR_UNSUPPORTED, "the %s '%.*s' is not supported",
                        test ? "test" : "filter", (int)(name.len < 100 ? name.len : 100),
                        name.as.text);
    else if (!b)
        jinja_fail(r, "the name of a filter or test must be a string");
    return b;
}

static struct jv kwarg(const struct jinja_args *a, const char *name)
{
    for (uint32_t i = 0; i < a->n_kw; i++) {
        if (jv_str_is(a->kw[i].name, name))
            return a->kw[i].value;
    }
    return (struct jv){ .kind = JV_MISSING };
}

/* Nothing comes out of what is false, even of what cannot be gone through. */
static const struct jv_list *items_if_true(struct jinja_run *r, struct jv v)
{
    return jv_truth(v) ? jv_items(r, v) : NULL;
}

static struct jv filter_map(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv attribute = kwarg(a, "attribute"), list = jv_list_new(r, JV_GENERATOR, 0);
    const struct jinja_builtin *b = NULL;
    if (a->n_pos == 0 && attribute.kind == JV_MISSING)
        return jinja_fail(r, "map needs a filter or an attribute");
    if (a->n_pos > 0 && !(b = named(r, a, 0, false)))
        return list;
    const struct jv_list *items = items_if_true(r, a->self);
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++) {
        struct jv item = items->items[i];
        jv_list_push(r, list,
                     b ? apply(r, b, item, a, 1)
                       : item_attr(r, item, attribute, kwarg(a, "default")));
    }
    return list;
}

static struct jv choose(struct jinja_run *r, const struct jinja_args *a, bool by_attr, bool keep)
{
    struct jv list = jv_list_new(r, JV_GENERATOR, 0);
    uint32_t place = by_attr ? 1 : 0;
    const struct jinja_builtin *b = NULL;
    if (by_attr && a->n_pos == 0)
        return jinja_fail(r, "the attribute is missing");
    if (a->n_pos > place && !(b = named(r, a, place, true)))
        return list;
    const struct jv_list *items = items_if_true(r, a->self);
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++) {
        struct jv v = items->items[i];
        if (by_attr)
            v = item_attr(r, v, a->pos[0], (struct jv){ .kind = JV_MISSING });
        if (jv_truth(b ? apply(r, b, v, a, place + 1) : v) == keep)
            jv_list_push(r, list, items->items[i]);
    }
    return list;
}

static struct jv filter_select(struct jinja_run *r, const struct jinja_args *a)
{
    return choose(r, a, false, true);
}

static struct jv filter_reject(struct jinja_run *r, const struct jinja_args *a)
{
    return choose(r, a, false, false);
}

static struct jv filter_selectattr(struct jinja_run *r, const struct jinja_args *a)
{
    return choose(r, a, true, true);
}

static struct jv filter_rejectattr(struct jinja_run *r, const struct jinja_args *a)
{
    return choose(r, a, true, false);
}

const struct jinja_builtin jinja_filters_list[] = {
    { "first", "", filter_first, 0 },
    { "last", "", filter_last, 0 },
    { "min", "case_sensitive attribute", filter_min, 0 },
    { "max", "case_sensitive attribute", filter_max, 0 },
    { "length count", "", filter_length, 0 },
    { "join", "d attribute", filter_join, 0 },
    { "sum", "attribute start", filter_sum, 0 },
    { "default d", "default_value boolean", filter_default, 0 },
    { "list", "", filter_list, 0 },
    { "reverse", "", filter_reverse, 0 },
    { "unique", "case_sensitive attribute", filter_unique, 0 },
    { "batch", "linecount fill_with", filter_batch, 1 },
    { "sort", "reverse case_sensitive attribute", filter_sort, 0 },
    { "dictsort", "case_sensitive by reverse", filter_dictsort, 0 },
    { "items", "", filter_items, 0 },
    { "map", NULL, filter_map, 0 },
    { "select", NULL, filter_select, 0 },
    { "reject", NULL, filter_reject, 0 },
    { "selectattr", NULL, filter_selectattr, 0 },
    { "rejectattr", NULL, filter_rejectattr, 0 },
    { NULL, NULL, NULL, 0 },
};
