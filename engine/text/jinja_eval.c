/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_eval.c - the value of an expression.
 */
#include "engine/text/jinja_tree.h"

/* ---- loop.index and its kin ---- */

struct jv jinja_loop_attr(struct jinja_run *r, const struct jinja_loop *loop, struct jv name)
{
    int64_t at = loop->at, n = loop->items->n;
    (void)r;
    if (jv_str_is(name, "index"))
        return jv_int(at + 1);
    if (jv_str_is(name, "index0"))
        return jv_int(at);
    if (jv_str_is(name, "first"))
        return jv_bool(at == 0);
    if (jv_str_is(name, "last"))
        return jv_bool(at == n - 1);
    if (jv_str_is(name, "length"))
        return jv_int(n);
    if (jv_str_is(name, "revindex"))
        return jv_int(n - at);
    if (jv_str_is(name, "revindex0"))
        return jv_int(n - at - 1);
    if (jv_str_is(name, "depth"))
        return jv_int(1); /* there are no recursive loops */
    if (jv_str_is(name, "depth0"))
        return jv_int(0);
    if (jv_str_is(name, "previtem") && at > 0)
        return loop->items->items[at - 1];
    if (jv_str_is(name, "nextitem") && at + 1 < n)
        return loop->items->items[at + 1];
    return jv_undefined(JV_LOOP, name.as.text, name.len);
}

/* ---- collections ---- */

static struct jv eval_list(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv list = jv_list_new(r, n->kind == JNODE_TUPLE ? JV_TUPLE : JV_LIST, 0);
    for (const struct jnode *item = n->a; item && !r->failed; item = item->next)
        jv_list_push(r, list, jinja_eval(r, scope, item));
    return list;
}

static struct jv eval_dict(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv dict = jv_dict_new(r);
    for (const struct jnode *pair = n->a; pair && !r->failed; pair = pair->next) {
        struct jv key = jinja_eval(r, scope, pair->a);
        jv_dict_set(r, dict.as.dict, key, jinja_eval(r, scope, pair->b));
    }
    return dict;
}

/* ---- operators ---- */

static struct jv eval_compare(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv left = jinja_eval(r, scope, n->a);
    for (const struct jnode *o = n->b; o; o = o->next) {
        struct jv right = jinja_eval(r, scope, o->a);
        if (r->failed || !jinja_relation(r, o->op, left, right))
            return jv_bool(false);
        left = right;
    }
    return jv_bool(true);
}

/* Plain text, even of parts marked safe: without autoescape Jinja2 joins them as they are. */
static struct jv eval_concat(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv parts = eval_list(r, scope, n);
    size_t mark = r->out.len;
    for (uint32_t i = 0; !r->failed && i < parts.as.list->n; i++)
        jinja_put_value(r, parts.as.list->items[i]);
    return jinja_take(r, mark);
}

static struct jv eval_sign(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv v = jinja_eval(r, scope, n->a);
    if (v.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, v);
    if (!jv_is_number(v))
        return jinja_fail(r, "a sign before '%s'", jv_type_name(v));
    if (v.kind == JV_FLOAT)
        return jv_float(n->kind == JNODE_NEG ? -v.as.real : v.as.real);
    if (n->kind == JNODE_NEG)
        return jinja_binary(r, JOP_SUB, jv_int(0), v);
    return jv_int(jv_integer(v));
}

static struct jv eval_cond(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    if (jv_truth(jinja_eval(r, scope, n->a)))
        return jinja_eval(r, scope, n->b);
    static const char name[] = "the inline if, which is false and has no else,";
    return n->c ? jinja_eval(r, scope, n->c) : jv_undefined(JV_UNDEFINED, name, sizeof name - 1);
}

/* ---- subscripts and calls ---- */

static struct jv eval_item(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv of = jinja_eval(r, scope, n->a);
    if (n->b->kind != JNODE_SLICE)
        return jinja_item(r, of, jinja_eval(r, scope, n->b));
    const struct jnode *slice = n->b;
    struct jv bounds[3] = { jv_none(), jv_none(), jv_none() };
    if (slice->a)
        bounds[0] = jinja_eval(r, scope, slice->a);
    if (slice->b)
        bounds[1] = jinja_eval(r, scope, slice->b);
    if (slice->c)
        bounds[2] = jinja_eval(r, scope, slice->c);
    return jinja_slice(r, of, bounds);
}

static struct jv eval_call(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jinja_args args;
    struct jv callee, self = { .kind = JV_UNDEFINED };
    const struct jinja_builtin *method = NULL;
    if (n->a->kind == JNODE_ATTR) { /* x.f(): no need to make a value of the method first */
        self = jinja_eval(r, scope, n->a->a);
        method = jinja_method_find(self, n->a->value);
        callee = method ? jv_none() : jinja_attr(r, self, n->a->value);
    } else {
        callee = jinja_eval(r, scope, n->a);
    }
    if (r->failed || !jinja_args_eval(r, scope, n->b, 0, &args))
        return jv_none();
    r->line = n->line;
    if (!method)
        return jinja_call(r, callee, &args);
    args.self = self;
    return jinja_builtin_call(r, method, &args);
}

static struct jv eval_filter(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jinja_args args;
    if (!n->builtin)
        return jinja_fail_code(r, ENGINE_ERR_UNSUPPORTED, "the %s '%.*s' is not supported",
                               n->kind == JNODE_FILTER ? "filter" : "test", (int)n->value.len,
                               n->value.as.text);
    struct jv self = jinja_eval(r, scope, n->a);
    if (r->failed || !jinja_args_eval(r, scope, n->b, 0, &args))
        return jv_none();
    r->line = n->line;
    args.self = self;
    return jinja_builtin_call(r, n->builtin, &args);
}

/* ---- all of them ---- */

static struct jv eval_operator(struct jinja_run *r, struct jinja_scope *scope,
                               const struct jnode *n)
{
    struct jv left = jinja_eval(r, scope, n->a);
    if (r->failed)
        return left;
    switch (n->kind) {
    case JNODE_AND:
        return jv_truth(left) ? jinja_eval(r, scope, n->b) : left;
    case JNODE_OR:
        return jv_truth(left) ? left : jinja_eval(r, scope, n->b);
    case JNODE_NOT:
        return jv_bool(!jv_truth(left));
    default: {
        struct jv right = jinja_eval(r, scope, n->b);
        r->line = n->line;
        return r->failed ? right : jinja_binary(r, n->op, left, right);
    }
    }
}

static struct jv eval_one(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    switch (n->kind) {
    case JNODE_CONST:
        return n->value;
    case JNODE_CAPTURED:
        return r->captured;
    case JNODE_NAME:
        return jinja_scope_get(r, scope, n->value);
    case JNODE_ATTR:
        return jinja_attr(r, jinja_eval(r, scope, n->a), n->value);
    case JNODE_ITEM:
        return eval_item(r, scope, n);
    case JNODE_CALL:
        return eval_call(r, scope, n);
    case JNODE_FILTER:
    case JNODE_TEST:
        return eval_filter(r, scope, n);
    case JNODE_COND:
        return eval_cond(r, scope, n);
    case JNODE_AND:
    case JNODE_OR:
    case JNODE_NOT:
    case JNODE_BINARY:
        return eval_operator(r, scope, n);
    case JNODE_NEG:
    case JNODE_POS:
        return eval_sign(r, scope, n);
    case JNODE_CONCAT:
        return eval_concat(r, scope, n);
    case JNODE_COMPARE:
        return eval_compare(r, scope, n);
    case JNODE_LIST:
    case JNODE_TUPLE:
        return eval_list(r, scope, n);
    case JNODE_DICT:
        return eval_dict(r, scope, n);
    default:
        return jinja_fail_code(r, ENGINE_ERR_INTERNAL, "expression %d", n->kind);
    }
}

struct jv jinja_eval(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv v = { .kind = JV_UNDEFINED };
    if (!jinja_enter(r))
        return v;
    r->line = n->line;
    v = eval_one(r, scope, n);
    jinja_leave(r);
    return v;
}
