/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_function.c - functions, and the methods of dictionaries, lists and loops.
 */
#include <string.h>
#include <time.h>

#include "engine/text/jinja_tree.h"

/* ---- dictionaries ---- */

static struct jv view_of(struct jinja_run *r, const struct jv_dict *d, enum jv_view view)
{
    struct jv list = jv_list_new(r, JV_VIEW, d->n);
    list.flag = (uint8_t)view;
    for (uint32_t i = 0; i < d->n && jinja_charge(r, 1); i++) {
        const struct jv_pair *p = &d->pairs[i];
        jv_list_push(r, list,
                     view == JV_VIEW_KEYS     ? p->key
                     : view == JV_VIEW_VALUES ? p->value
                                              : jv_pair_new(r, p->key, p->value));
    }
    return list;
}

static struct jv method_keys(struct jinja_run *r, const struct jinja_args *a)
{
    return view_of(r, a->self.as.dict, JV_VIEW_KEYS);
}

static struct jv method_values(struct jinja_run *r, const struct jinja_args *a)
{
    return view_of(r, a->self.as.dict, JV_VIEW_VALUES);
}

static struct jv method_items(struct jinja_run *r, const struct jinja_args *a)
{
    return view_of(r, a->self.as.dict, JV_VIEW_ITEMS);
}

static struct jv method_get(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv *found = jv_dict_find(r, a->self.as.dict, a->param[0]);
    if (found)
        return *found;
    return a->param[1].kind == JV_MISSING ? jv_none() : a->param[1];
}

static struct jv copy_dict(struct jinja_run *r, struct jv from)
{
    struct jv copy = jv_dict_new(r);
    for (uint32_t i = 0; i < from.as.dict->n && !r->failed; i++)
        jv_dict_set(r, copy.as.dict, from.as.dict->pairs[i].key, from.as.dict->pairs[i].value);
    return copy;
}

static struct jv method_copy_dict(struct jinja_run *r, const struct jinja_args *a)
{
    return copy_dict(r, a->self);
}

const struct jinja_builtin jinja_dict_methods[] = {
    { "keys", "", method_keys, 0 },      { "values", "", method_values, 0 },
    { "items", "", method_items, 0 },    { "get", "key default", method_get, 1 },
    { "copy", "", method_copy_dict, 0 }, { NULL, NULL, NULL, 0 },
};

/* ---- lists ---- */

static struct jv method_list_index(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *l = a->self.as.list;
    for (uint32_t i = 0; i < l->n && !r->failed; i++) {
        if (jv_equal(r, l->items[i], a->param[0]))
            return jv_int(i);
    }
    return jinja_fail(r, "the value is not in the list");
}

static struct jv method_list_count(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *l = a->self.as.list;
    int64_t n = 0;
    for (uint32_t i = 0; i < l->n && !r->failed; i++)
        n += jv_equal(r, l->items[i], a->param[0]);
    return jv_int(n);
}

const struct jinja_builtin jinja_list_methods[] = {
    { "index", "value", method_list_index, 1 },
    { "count", "value", method_list_count, 1 },
    { NULL, NULL, NULL, 0 },
};

/* ---- loops ---- */

static struct jv method_cycle(struct jinja_run *r, const struct jinja_args *a)
{
    if (a->n_pos == 0)
        return jinja_fail(r, "loop.cycle: no items");
    return a->pos[a->self.as.loop->at % a->n_pos];
}

static struct jv method_changed(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv now = jv_list_new(r, JV_TUPLE, a->n_pos);
    for (uint32_t i = 0; i < a->n_pos && !r->failed; i++)
        jv_list_push(r, now, a->pos[i]);
    if (r->failed || jv_equal(r, a->self.as.loop->changed, now))
        return jv_bool(false);
    a->self.as.loop->changed = now;
    return jv_bool(true);
}

const struct jinja_builtin jinja_loop_methods[] = {
    { "cycle", NULL, method_cycle, 0 },
    { "changed", NULL, method_changed, 0 },
    { NULL, NULL, NULL, 0 },
};

/* ---- functions ---- */

enum { MAX_RANGE = 100000 }; /* the sandbox's own limit */
static const int64_t RANGE_BOUND = (int64_t)1 << 53;

static struct jv function_range(struct jinja_run *r, const struct jinja_args *a)
{
    int64_t from, to, step;
    bool alone = a->param[1].kind == JV_MISSING;
    if (!jarg_int(r, alone ? jv_int(0) : a->param[0], "start", 0, &from) ||
        !jarg_int(r, alone ? a->param[0] : a->param[1], "stop", 0, &to) ||
        !jarg_int(r, a->param[2], "step", 1, &step))
        return jv_none();
    if (step == 0)
        return jinja_fail(r, "range: the step is 0");
    if (from > RANGE_BOUND || from < -RANGE_BOUND || to > RANGE_BOUND || to < -RANGE_BOUND ||
        step > RANGE_BOUND || step < -RANGE_BOUND)
        return jinja_fail(r, "range: a number beyond 2^53");
    int64_t distance = step > 0 ? to - from : from - to, size = step > 0 ? step : -step;
    int64_t n = distance <= 0 ? 0 : (distance - 1) / size + 1;
    if (n > MAX_RANGE)
        return jinja_fail(r, "range: %lld items, the limit is %d", (long long)n, MAX_RANGE);
    struct jv_range *range = jinja_alloc(r, 1, sizeof(*range));
    if (!range)
        return jv_none();
    *range = (struct jv_range){ .start = from, .step = step, .n = (uint32_t)n };
    return (struct jv){ .kind = JV_RANGE, .as.range = range };
}

/* dict(a_dictionary, name=value, ...) */
static struct jv function_dict(struct jinja_run *r, const struct jinja_args *a)
{
    if (a->n_pos > 1 || (a->n_pos == 1 && a->pos[0].kind != JV_DICT))
        return jinja_fail(r, "one dictionary expected, and named values");
    struct jv dict = a->n_pos == 1 ? copy_dict(r, a->pos[0]) : jv_dict_new(r);
    for (uint32_t i = 0; i < a->n_kw && !r->failed; i++)
        jv_dict_set(r, dict.as.dict, a->kw[i].name, a->kw[i].value);
    return dict;
}

static struct jv function_namespace(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv v = function_dict(r, a);
    if (!r->failed)
        v.kind = JV_NAMESPACE;
    return v;
}

static struct jv function_raise_exception(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv message = jv_to_str(r, a->param[0]);
    r->line = 0; /* the template's own words, which are meant for the user */
    return jinja_fail(r, "%.*s", (int)(message.len < 400 ? message.len : 400), message.as.text);
}

static struct jv function_strftime_now(struct jinja_run *r, const struct jinja_args *a)
{
    char format[128], text[256];
    struct jv f = a->param[0];
    struct tm tm;
    time_t now = (time_t)r->now;
    if (f.kind != JV_STRING || f.len + 2u > sizeof format)
        return jinja_fail(r, "strftime_now: the format must be a string of at most %zu bytes",
                          sizeof format - 2);
    /* a first character, as 0 from strftime may also mean that nothing was to be written */
    format[0] = '.';
    memcpy(format + 1, f.as.text, f.len);
    format[f.len + 1] = 0;
    size_t n = localtime_r(&now, &tm) ? strftime(text, sizeof text, format, &tm) : 0;
    if (n == 0)
        return jinja_fail(r, "strftime_now: more than %zu bytes", sizeof text);
    return jv_copy(r, text + 1, n - 1);
}

const struct jinja_builtin jinja_functions[] = {
    { "range", "start stop step", function_range, 1 },
    { "dict", NULL, function_dict, 0 },
    { "namespace", NULL, function_namespace, 0 },
    { "raise_exception", "message", function_raise_exception, 1 },
    { "strftime_now", "format", function_strftime_now, 1 },
    { NULL, NULL, NULL, 0 },
};
