/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_exec.c - runs the statements of a template; what is printed goes to r->out.
 *
 * Scopes are Jinja's: the body of a loop (each time round), macro, call, filter, set or with block
 * has its own variables and sees those around it; what it sets is gone at its end.  An {% if %} has
 * none of its own.
 */
#include <string.h>

#include "engine/text/jinja_tree.h"

/* ---- scopes ---- */

struct jinja_scope *jinja_scope_new(struct jinja_run *r, struct jinja_scope *parent)
{
    struct jinja_scope *s = jinja_alloc(r, 1, sizeof(*s));
    if (s)
        s->parent = parent;
    return s;
}

static bool same_name(struct jv a, struct jv b)
{
    return a.len == b.len && memcmp(a.as.text, b.as.text, a.len) == 0;
}

void jinja_scope_set(struct jinja_run *r, struct jinja_scope *scope, struct jv name,
                     struct jv value)
{
    struct jinja_binding *b = scope->first;
    while (b && !same_name(b->name, name) && jinja_charge(r, 1))
        b = b->next;
    if (!b) {
        b = jinja_alloc(r, 1, sizeof(*b));
        if (!b)
            return;
        b->name = name;
        b->next = scope->first;
        scope->first = b;
    }
    b->value = value;
}

struct jv jinja_scope_get(struct jinja_run *r, const struct jinja_scope *scope, struct jv name)
{
    for (; scope; scope = scope->parent) {
        for (const struct jinja_binding *b = scope->first; b && jinja_charge(r, 1); b = b->next) {
            if (same_name(b->name, name))
                return b->value;
        }
    }
    const struct jv *given = jv_dict_find(r, r->variables, name);
    if (given)
        return *given;
    const struct jinja_builtin *f = jinja_builtin_find(jinja_functions, name);
    if (f)
        return (struct jv){ .kind = JV_FUNCTION, .as.function = f };
    return jv_undefined(JV_UNDEFINED, name.as.text, name.len);
}

/* ---- giving values to names ---- */

static void set_attribute(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n,
                          struct jv value)
{
    struct jv of = jinja_scope_get(r, scope, n->a->value);
    if (of.kind == JV_NAMESPACE)
        jv_dict_set(r, of.as.dict, n->value, value);
    else
        jinja_fail(r, "an attribute can be set of a namespace only, '%.*s' is '%s'",
                   (int)n->a->value.len, n->a->value.as.text, jv_type_name(of));
}

static void set_target(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *target,
                       struct jv value)
{
    if (target->kind == JNODE_NAME) {
        jinja_scope_set(r, scope, target->value, value);
        return;
    }
    if (target->kind == JNODE_ATTR) {
        set_attribute(r, scope, target, value);
        return;
    }
    const struct jv_list *items = jv_items(r, value);
    uint32_t i = 0;
    const struct jnode *t = target->a;
    for (; t && items && i < items->n; t = t->next)
        set_target(r, scope, t, items->items[i++]);
    if (items && (t || i < items->n))
        jinja_fail(r, "%s values to unpack", t ? "not enough" : "too many");
}

/* ---- loops ---- */

/* The items that meet the loop's condition. */
static struct jv_list *filter_items(struct jinja_run *r, struct jinja_scope *scope,
                                    const struct jnode *n, const struct jv_list *all)
{
    struct jv kept = jv_list_new(r, JV_LIST, 0);
    for (uint32_t i = 0; i < all->n && !r->failed; i++) {
        struct jinja_scope *inner = jinja_scope_new(r, scope);
        if (!inner)
            break;
        set_target(r, inner, n->a, all->items[i]);
        if (jv_truth(jinja_eval(r, inner, n->c)))
            jv_list_push(r, kept, all->items[i]);
    }
    return r->failed ? NULL : kept.as.list;
}

static void exec_for(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jv_list *items = jv_items(r, jinja_eval(r, scope, n->b));
    if (items && n->c)
        items = filter_items(r, scope, n, items);
    struct jinja_loop *loop = jinja_alloc(r, 1, sizeof(*loop));
    if (!items || !loop)
        return;
    *loop = (struct jinja_loop){ .items = items, .changed = { .kind = JV_MISSING } };
    struct jv loop_value = { .kind = JV_LOOP, .as.loop = loop };
    for (; loop->at < items->n && jinja_charge(r, 1); loop->at++) {
        struct jinja_scope *inner = jinja_scope_new(r, scope);
        if (!inner)
            return;
        jinja_scope_set(r, inner, jv_cstr("loop"), loop_value);
        set_target(r, inner, n->a, items->items[loop->at]);
        if (jinja_exec(r, inner, n->body) == JFLOW_BREAK)
            break;
    }
    if (items->n == 0 && n->other) {
        struct jinja_scope *inner = jinja_scope_new(r, scope);
        if (inner)
            jinja_exec(r, inner, n->other);
    }
}

/* ---- blocks whose text is a value ---- */

/* The text that the body writes, in a scope of its own. */
static struct jv capture(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *body)
{
    size_t mark = r->out.len;
    struct jinja_scope *inner = jinja_scope_new(r, scope);
    if (inner)
        jinja_exec(r, inner, body);
    return jinja_take(r, mark);
}

static struct jv capture_filtered(struct jinja_run *r, struct jinja_scope *scope,
                                  const struct jnode *body, const struct jnode *filters)
{
    struct jv outer = r->captured;
    r->captured = capture(r, scope, body);
    struct jv v = jinja_eval(r, scope, filters);
    r->captured = outer;
    return v;
}

static void define_macro(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jinja_macro *m = jinja_alloc(r, 1, sizeof(*m));
    if (!m)
        return;
    *m = (struct jinja_macro){ .node = n, .name = n->value, .params = n->a, .scope = scope };
    jinja_scope_set(r, scope, n->value, (struct jv){ .kind = JV_MACRO, .as.macro = m });
}

/* The block is given to the macro it calls as the macro "caller". */
static void exec_call_block(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jinja_args args;
    struct jinja_macro *m = jinja_alloc(r, 1, sizeof(*m));
    struct jv callee = jinja_eval(r, scope, n->a->a);
    if (!m || !jinja_args_eval(r, scope, n->a->b, 1, &args))
        return;
    *m = (struct jinja_macro){ .node = n, .name = n->value, .params = n->b, .scope = scope };
    struct jinja_kwarg *kw = (struct jinja_kwarg *)args.kw;
    kw[args.n_kw++] = (struct jinja_kwarg){ n->value, { .kind = JV_MACRO, .as.macro = m } };
    jinja_put_value(r, jinja_call(r, callee, &args));
}

static void exec_with(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n)
{
    struct jinja_scope *inner = jinja_scope_new(r, scope);
    if (!inner)
        return;
    for (const struct jnode *set = n->a; set && !r->failed; set = set->next)
        set_target(r, inner, set->a, jinja_eval(r, scope, set->b));
    jinja_exec(r, inner, n->body);
}

/* ---- statements ---- */

static enum jinja_flow exec_if(struct jinja_run *r, struct jinja_scope *scope,
                               const struct jnode *n)
{
    while (n && !r->failed) {
        r->line = n->line;
        if (jv_truth(jinja_eval(r, scope, n->a)))
            return jinja_exec(r, scope, n->body);
        if (!n->is_elif)
            return jinja_exec(r, scope, n->other);
        n = n->other;
    }
    return JFLOW_NORMAL;
}

static enum jinja_flow exec_one(struct jinja_run *r, struct jinja_scope *scope,
                                const struct jnode *n)
{
    r->line = n->line;
    switch (n->kind) {
    case JNODE_TEXT:
        jinja_put_str(r, n->value);
        break;
    case JNODE_PRINT:
        jinja_put_value(r, jinja_eval(r, scope, n->a));
        break;
    case JNODE_IF:
        return exec_if(r, scope, n);
    case JNODE_FOR:
        exec_for(r, scope, n);
        break;
    case JNODE_SET:
        set_target(r, scope, n->a, jinja_eval(r, scope, n->b));
        break;
    case JNODE_SET_BLOCK:
        set_target(r, scope, n->a, capture_filtered(r, scope, n->body, n->b));
        break;
    case JNODE_MACRO:
        define_macro(r, scope, n);
        break;
    case JNODE_CALL_BLOCK:
        exec_call_block(r, scope, n);
        break;
    case JNODE_FILTER_BLOCK:
        jinja_put_value(r, capture_filtered(r, scope, n->body, n->a));
        break;
    case JNODE_WITH:
        exec_with(r, scope, n);
        break;
    case JNODE_SCOPE:
        jinja_put_str(r, capture(r, scope, n->body));
        break;
    case JNODE_BREAK:
        return JFLOW_BREAK;
    case JNODE_CONTINUE:
        return JFLOW_CONTINUE;
    default:
        jinja_fail_code(r, ENGINE_ERR_INTERNAL, "statement %d", n->kind);
        break;
    }
    return JFLOW_NORMAL;
}

enum jinja_flow jinja_exec(struct jinja_run *r, struct jinja_scope *scope,
                           const struct jnode *first)
{
    enum jinja_flow flow = JFLOW_NORMAL;
    if (!jinja_enter(r))
        return flow;
    for (const struct jnode *n = first; n && flow == JFLOW_NORMAL && jinja_charge(r, 1);
         n = n->next)
        flow = exec_one(r, scope, n);
    jinja_leave(r);
    return flow;
}
