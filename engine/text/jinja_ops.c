/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_ops.c - operators, attributes, items and slices, as Python and Jinja2's sandbox have them.
 */
#include <math.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

/* ---- arithmetic ---- */

static struct jv overflow(struct jinja_run *r)
{
    return jinja_fail(r, "an integer beyond 64 bits");
}

/* Python's // and % round towards minus infinity. */
static struct jv int_divide(struct jinja_run *r, enum jinja_op op, int64_t a, int64_t b)
{
    if (b == 0)
        return jinja_fail(r, "division by zero");
    if (b == -1) /* the one that overflows */
        return op == JOP_MOD ? jv_int(0) : jinja_binary(r, JOP_SUB, jv_int(0), jv_int(a));
    int64_t quotient = a / b, rest = a % b;
    bool off = rest != 0 && (rest < 0) != (b < 0);
    return jv_int(op == JOP_MOD ? (off ? rest + b : rest) : quotient - off);
}

static struct jv int_power(struct jinja_run *r, int64_t a, int64_t b)
{
    int64_t result = 1;
    if (b < 0)
        return a == 0 ? jinja_fail(r, "division by zero") : jv_float(pow((double)a, (double)b));
    while (b > 0) {
        if ((b & 1) && __builtin_mul_overflow(result, a, &result))
            return overflow(r);
        b >>= 1;
        if (b > 0 && __builtin_mul_overflow(a, a, &a))
            return overflow(r);
    }
    return jv_int(result);
}

static struct jv int_binary(struct jinja_run *r, enum jinja_op op, int64_t a, int64_t b)
{
    int64_t result;
    switch (op) {
    case JOP_ADD:
        return __builtin_add_overflow(a, b, &result) ? overflow(r) : jv_int(result);
    case JOP_SUB:
        return __builtin_sub_overflow(a, b, &result) ? overflow(r) : jv_int(result);
    case JOP_MUL:
        return __builtin_mul_overflow(a, b, &result) ? overflow(r) : jv_int(result);
    case JOP_DIV:
        return b == 0 ? jinja_fail(r, "division by zero") : jv_float((double)a / (double)b);
    case JOP_POW:
        return int_power(r, a, b);
    default:
        return int_divide(r, op, a, b);
    }
}

static struct jv real_binary(struct jinja_run *r, enum jinja_op op, double a, double b)
{
    if (b == 0 && (op == JOP_DIV || op == JOP_FLOORDIV || op == JOP_MOD))
        return jinja_fail(r, "division by zero");
    switch (op) {
    case JOP_ADD:
        return jv_float(a + b);
    case JOP_SUB:
        return jv_float(a - b);
    case JOP_MUL:
        return jv_float(a * b);
    case JOP_DIV:
        return jv_float(a / b);
    case JOP_FLOORDIV:
        return jv_float(floor(a / b));
    case JOP_MOD: {
        double rest = fmod(a, b);
        return jv_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    default:
        return jv_float(pow(a, b));
    }
}

/* ---- strings and lists ---- */

struct jv jinja_concat(struct jinja_run *r, struct jv a, struct jv b)
{
    size_t mark = r->out.len;
    bool safe = a.flag || b.flag;
    for (int i = 0; i < 2; i++) {
        struct jv part = i == 0 ? a : b;
        if (safe && !part.flag)
            jinja_put_escaped(r, part);
        else
            jinja_put_str(r, part);
    }
    struct jv s = jinja_take(r, mark);
    s.flag = safe;
    return s;
}

static struct jv join_lists(struct jinja_run *r, struct jv a, struct jv b)
{
    const struct jv_list *parts[] = { a.as.list, b.as.list };
    struct jv list = jv_list_new(r, a.kind, parts[0]->n + parts[1]->n);
    for (int i = 0; i < 2; i++) {
        for (uint32_t at = 0; at < parts[i]->n && !r->failed; at++)
            jv_list_push(r, list, parts[i]->items[at]);
    }
    jinja_charge(r, (uint64_t)parts[0]->n + parts[1]->n);
    return list;
}

static struct jv repeat(struct jinja_run *r, struct jv what, int64_t times)
{
    if (what.kind == JV_STRING) {
        size_t mark = r->out.len;
        for (int64_t i = 0; i < times && what.len > 0 && jinja_charge(r, 1); i++)
            jinja_put_str(r, what);
        return jinja_take(r, mark);
    }
    struct jv list = jv_list_new(r, what.kind, 0);
    for (int64_t i = 0; i < times && what.as.list->n > 0 && jinja_charge(r, 1); i++) {
        for (uint32_t at = 0; at < what.as.list->n && jinja_charge(r, 1); at++)
            jv_list_push(r, list, what.as.list->items[at]);
    }
    return list;
}

static bool is_sequence(struct jv v)
{
    return v.kind == JV_STRING || v.kind == JV_LIST || v.kind == JV_TUPLE;
}

static bool is_whole(struct jv v)
{
    return v.kind == JV_INT || v.kind == JV_BOOL;
}

struct jv jinja_binary(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b)
{
    if (r->failed)
        return a;
    if (a.kind == JV_UNDEFINED || b.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, a.kind == JV_UNDEFINED ? a : b);
    if (is_whole(a) && is_whole(b))
        return int_binary(r, op, jv_integer(a), jv_integer(b));
    if (jv_is_number(a) && jv_is_number(b))
        return real_binary(r, op, jv_real(a), jv_real(b));
    if (op == JOP_ADD && a.kind == JV_STRING && b.kind == JV_STRING)
        return jinja_concat(r, a, b);
    if (op == JOP_ADD && a.kind == b.kind && (a.kind == JV_LIST || a.kind == JV_TUPLE))
        return join_lists(r, a, b);
    if (op == JOP_MUL && is_sequence(a) && is_whole(b))
        return repeat(r, a, jv_integer(b));
    if (op == JOP_MUL && is_whole(a) && is_sequence(b))
        return repeat(r, b, jv_integer(a));
    if (op == JOP_MOD && a.kind == JV_STRING)
        return jinja_fail_code(r, ENGINE_ERR_UNSUPPORTED, "%% of a string is not supported");
    return jinja_fail(r, "unsupported operand types for %s: '%s' and '%s'", jinja_op_text(op),
                      jv_type_name(a), jv_type_name(b));
}

/* ---- relations ---- */

static bool contains(struct jinja_run *r, struct jv item, struct jv of)
{
    if (of.kind == JV_STRING) {
        if (item.kind != JV_STRING) {
            jinja_fail(r, "'in <string>' requires string as left operand, not '%s'",
                       jv_type_name(item));
            return false;
        }
        return jinja_charge_bytes(r, of.len) && jstr_find(of, item, 0) != SIZE_MAX;
    }
    if (of.kind == JV_DICT)
        return jv_dict_find(r, of.as.dict, item) != NULL;
    const struct jv_list *items = jv_items(r, of);
    for (uint32_t i = 0; items && i < items->n && !r->failed; i++) {
        if (jv_equal(r, items->items[i], item))
            return !r->failed;
    }
    return false;
}

bool jinja_relation(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b)
{
    switch (op) {
    case JOP_EQ:
        return jv_equal(r, a, b);
    case JOP_NE:
        return !jv_equal(r, a, b);
    case JOP_IN:
        return contains(r, a, b);
    case JOP_NOT_IN:
        return !contains(r, a, b);
    case JOP_LT:
        return jv_compare(r, a, b, "<") < 0;
    case JOP_LE:
        return jv_compare(r, a, b, "<=") <= 0;
    case JOP_GT:
        return jv_compare(r, a, b, ">") > 0;
    default:
        return jv_compare(r, a, b, ">=") >= 0;
    }
}

/* ---- attributes and items ---- */

static struct jv method_value(struct jinja_run *r, struct jv self, const struct jinja_builtin *b)
{
    struct jinja_method *m = jinja_alloc(r, 1, sizeof(*m));
    if (!m)
        return jv_none();
    *m = (struct jinja_method){ self, b };
    return (struct jv){ .kind = JV_METHOD, .as.method = m };
}

/* What the value has by that name as an object, not as a dictionary. */
static bool object_attr(struct jinja_run *r, struct jv v, struct jv name, struct jv *out)
{
    const struct jinja_builtin *method = jinja_method_find(v, name);
    if (method) {
        *out = method_value(r, v, method);
        return true;
    }
    if (v.kind == JV_LOOP) {
        *out = jinja_loop_attr(r, v.as.loop, name);
        return true;
    }
    if (v.kind == JV_MACRO && jv_str_is(name, "name")) {
        *out = v.as.macro->name;
        return true;
    }
    return false;
}

struct jv jinja_attr(struct jinja_run *r, struct jv v, struct jv name)
{
    struct jv out;
    if (r->failed)
        return v;
    if (v.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, v);
    if (object_attr(r, v, name, &out))
        return out;
    const struct jv *item = NULL;
    if (v.kind == JV_DICT || v.kind == JV_NAMESPACE)
        item = jv_dict_find(r, v.as.dict, name);
    return item ? *item : jv_undefined(v.kind, name.as.text, name.len);
}

static struct jv string_item(struct jinja_run *r, struct jv s, int64_t index)
{
    uint32_t width;
    jinja_charge_bytes(r, s.len);
    int64_t n = (int64_t)jstr_count(s);
    if (index < 0)
        index += n;
    if (index < 0 || index >= n)
        return jv_undefined(JV_STRING, "index out of range", 18);
    size_t at = jstr_offset(s, (size_t)index);
    jchar_read(s.as.text + at, s.len - at, &width);
    return jv_str(s.as.text + at, width);
}

static struct jv sequence_item(struct jinja_run *r, struct jv v, int64_t index)
{
    int64_t n = v.kind == JV_RANGE ? v.as.range->n : v.as.list->n;
    (void)r;
    if (index < 0)
        index += n;
    if (index < 0 || index >= n)
        return jv_undefined(v.kind, "index out of range", 18);
    if (v.kind == JV_RANGE)
        return jv_int(v.as.range->start + index * v.as.range->step);
    return v.as.list->items[index];
}

struct jv jinja_item(struct jinja_run *r, struct jv v, struct jv index)
{
    struct jv out;
    if (r->failed)
        return v;
    if (v.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, v);
    if (v.kind == JV_DICT || v.kind == JV_NAMESPACE) {
        const struct jv *item = jv_dict_find(r, v.as.dict, index);
        if (item)
            return *item;
    } else if (is_whole(index)) {
        if (v.kind == JV_STRING)
            return string_item(r, v, jv_integer(index));
        if (v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_RANGE)
            return sequence_item(r, v, jv_integer(index));
    }
    if (index.kind != JV_STRING)
        return jv_undefined(v.kind, "of that index", 13);
    return object_attr(r, v, index, &out) ? out : jv_undefined(v.kind, index.as.text, index.len);
}

/* ---- slices ---- */

static bool bound(struct jinja_run *r, struct jv v, int64_t otherwise, int64_t *out)
{
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(r, v);
    else if (v.kind != JV_NONE && !is_whole(v))
        jinja_fail(r, "a bound of a slice must be an integer, not '%s'", jv_type_name(v));
    *out = v.kind == JV_NONE || r->failed ? otherwise : jv_integer(v);
    return !r->failed;
}

static int64_t clamp(int64_t v, int64_t n, int64_t low, int64_t high)
{
    if (v < 0)
        v += n; /* n < 2^32: no overflow below 0 */
    return v < low ? low : v > high ? high : v;
}

struct slice {
    int64_t from, step, n;
};

/* The indices that bounds choose out of n. */
static bool slice_init(struct jinja_run *r, struct slice *s, const struct jv bounds[3], int64_t n)
{
    int64_t to;
    if (!bound(r, bounds[2], 1, &s->step))
        return false;
    if (s->step == 0) {
        jinja_fail(r, "the step of a slice is 0");
        return false;
    }
    bool up = s->step > 0;
    int64_t low = up ? 0 : -1, high = up ? n : n - 1;
    if (!bound(r, bounds[0], 0, &s->from) || !bound(r, bounds[1], 0, &to))
        return false;
    s->from = bounds[0].kind == JV_NONE ? (up ? low : high) : clamp(s->from, n, low, high);
    to = bounds[1].kind == JV_NONE ? (up ? high : low) : clamp(to, n, low, high);
    int64_t distance = up ? to - s->from : s->from - to;
    uint64_t step = up ? (uint64_t)s->step : 0 - (uint64_t)s->step;
    s->n = distance <= 0 ? 0 : (int64_t)(((uint64_t)distance - 1) / step) + 1;
    return true;
}

static struct jv slice_string(struct jinja_run *r, struct jv s, const struct slice *slice)
{
    if (slice->n == 0)
        return jv_cstr("");
    if (slice->step == 1) {
        size_t from = jstr_offset(s, (size_t)slice->from);
        struct jv rest = jstr_sub(s, from, s.len);
        return jstr_sub(rest, 0, jstr_offset(rest, (size_t)slice->n));
    }
    const struct jv_list *chars = jv_items(r, s);
    size_t mark = r->out.len;
    for (int64_t i = 0; chars && i < slice->n && !r->failed; i++)
        jinja_put_str(r, chars->items[slice->from + i * slice->step]);
    return jinja_take(r, mark);
}

static struct jv slice_range(struct jinja_run *r, const struct jv_range *range,
                             const struct slice *s)
{
    struct jv_range *part = jinja_alloc(r, 1, sizeof(*part));
    if (!part)
        return jv_none();
    part->start = range->start + s->from * range->step;
    part->step = s->n > 1 ? range->step * s->step : range->step;
    part->n = (uint32_t)s->n;
    return (struct jv){ .kind = JV_RANGE, .as.range = part };
}

struct jv jinja_slice(struct jinja_run *r, struct jv v, const struct jv bounds[3])
{
    int64_t n = 0;
    struct slice s;
    if (r->failed)
        return v;
    if (v.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, v);
    if (!is_sequence(v) && v.kind != JV_RANGE)
        return jinja_fail(r, "'%s' object cannot be sliced", jv_type_name(v));
    jv_length(r, v, &n);
    if (r->failed || !slice_init(r, &s, bounds, n))
        return v;
    if (v.kind == JV_STRING)
        return slice_string(r, v, &s);
    if (v.kind == JV_RANGE)
        return slice_range(r, v.as.range, &s);
    struct jv list = jv_list_new(r, v.kind, (uint32_t)s.n);
    for (int64_t i = 0; i < s.n && jinja_charge(r, 1); i++)
        jv_list_push(r, list, v.as.list->items[s.from + i * s.step]);
    return list;
}
