/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_test.c - what may stand behind "is".
 */
#include "engine/text/jinja_tree.h"

static struct jv test_defined(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind != JV_UNDEFINED);
}

static struct jv test_undefined(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_UNDEFINED);
}

static struct jv test_none(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_NONE);
}

static struct jv test_boolean(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_BOOL);
}

static struct jv test_true(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_BOOL && a->self.as.truth);
}

static struct jv test_false(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_BOOL && !a->self.as.truth);
}

static struct jv test_integer(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_INT);
}

static struct jv test_float(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_FLOAT);
}

static struct jv test_number(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(jv_is_number(a->self));
}

static struct jv test_string(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_STRING);
}

static struct jv test_mapping(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_DICT);
}

static struct jv test_sequence(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    switch (a->self.kind) {
    case JV_UNDEFINED: /* has a length and subscripts, though they fail */
    case JV_STRING:
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
    case JV_DICT:
        return jv_bool(true);
    default:
        return jv_bool(false);
    }
}

static struct jv test_iterable(struct jinja_run *r, const struct jinja_args *a)
{
    bool loops = a->self.kind == JV_VIEW || a->self.kind == JV_GENERATOR || a->self.kind == JV_LOOP;
    return jv_bool(loops || test_sequence(r, a).as.truth);
}

static struct jv test_callable(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_MACRO || a->self.kind == JV_FUNCTION ||
                   a->self.kind == JV_METHOD || a->self.kind == JV_UNDEFINED);
}

static bool divides(struct jinja_run *r, struct jv v, int64_t by, int64_t rest)
{
    struct jv found = jinja_binary(r, JOP_MOD, v, jv_int(by));
    return !r->failed && jv_equal(r, found, jv_int(rest));
}

static struct jv test_odd(struct jinja_run *r, const struct jinja_args *a)
{
    return jv_bool(divides(r, a->self, 2, 1));
}

static struct jv test_even(struct jinja_run *r, const struct jinja_args *a)
{
    return jv_bool(divides(r, a->self, 2, 0));
}

static struct jv test_divisibleby(struct jinja_run *r, const struct jinja_args *a)
{
    int64_t by;
    return jv_bool(jarg_int(r, a->param[0], "num", 0, &by) && divides(r, a->self, by, 0));
}

/* ---- relations ---- */

static struct jv relation(struct jinja_run *r, const struct jinja_args *a, enum jinja_op op)
{
    return jv_bool(jinja_relation(r, op, a->self, a->param[0]));
}

static struct jv test_eq(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_EQ);
}

static struct jv test_ne(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_NE);
}

static struct jv test_lt(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_LT);
}

static struct jv test_le(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_LE);
}

static struct jv test_gt(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_GT);
}

static struct jv test_ge(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_GE);
}

static struct jv test_in(struct jinja_run *r, const struct jinja_args *a)
{
    return relation(r, a, JOP_IN);
}

/* The same object, which for what has no identity here is the same kind and value. */
static struct jv test_sameas(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv b = a->param[0];
    if (a->self.kind != b.kind)
        return jv_bool(false);
    if (a->self.kind == JV_LIST || a->self.kind == JV_TUPLE)
        return jv_bool(a->self.as.list == b.as.list);
    if (a->self.kind == JV_DICT)
        return jv_bool(a->self.as.dict == b.as.dict);
    return jv_bool(jv_equal(r, a->self, b));
}

/* ---- case ---- */

static struct jv test_method(struct jinja_run *r, const struct jinja_args *a, const char *name)
{
    struct jinja_args args = { .self = jv_to_str(r, a->self) };
    return jinja_builtin_call(r, jinja_builtin_find(jinja_string_methods, jv_cstr(name)), &args);
}

static struct jv test_lower(struct jinja_run *r, const struct jinja_args *a)
{
    return test_method(r, a, "islower");
}

static struct jv test_upper(struct jinja_run *r, const struct jinja_args *a)
{
    return test_method(r, a, "isupper");
}

static struct jv test_filter(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_STRING && jinja_filter_find(a->self) != NULL);
}

static struct jv test_test(struct jinja_run *r, const struct jinja_args *a)
{
    (void)r;
    return jv_bool(a->self.kind == JV_STRING && jinja_builtin_find(jinja_tests, a->self) != NULL);
}

const struct jinja_builtin jinja_tests[] = {
    { "defined", "", test_defined, 0 },
    { "undefined", "", test_undefined, 0 },
    { "none", "", test_none, 0 },
    { "string", "", test_string, 0 },
    { "mapping", "", test_mapping, 0 },
    { "sequence", "", test_sequence, 0 },
    { "iterable", "", test_iterable, 0 },
    { "boolean", "", test_boolean, 0 },
    { "true", "", test_true, 0 },
    { "false", "", test_false, 0 },
    { "number", "", test_number, 0 },
    { "integer", "", test_integer, 0 },
    { "float", "", test_float, 0 },
    { "callable", "", test_callable, 0 },
    { "odd", "", test_odd, 0 },
    { "even", "", test_even, 0 },
    { "divisibleby", "num", test_divisibleby, 1 },
    { "eq equalto ==", "other", test_eq, 1 },
    { "ne !=", "other", test_ne, 1 },
    { "lt lessthan <", "other", test_lt, 1 },
    { "le <=", "other", test_le, 1 },
    { "gt greaterthan >", "other", test_gt, 1 },
    { "ge >=", "other", test_ge, 1 },
    { "in", "seq", test_in, 1 },
    { "sameas", "other", test_sameas, 1 },
    { "lower", "", test_lower, 0 },
    { "upper", "", test_upper, 0 },
    { "filter", "", test_filter, 0 },
    { "test", "", test_test, 0 },
    { NULL, NULL, NULL, 0 },
};
