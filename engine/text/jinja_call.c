/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_call.c - arguments, and calling what can be called: macros and what is built in.
 */
#include <string.h>

#include "engine/text/jinja_tree.h"

/* ---- arguments ---- */

bool jinja_args_eval(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *list,
                     uint32_t n_extra, struct jinja_args *out)
{
    uint32_t n_pos = 0, n_kw = 0;
    for (const struct jnode *n = list; n; n = n->next) {
        if (n->kind == JNODE_ARGUMENT)
            n_kw++;
        else
            n_pos++;
    }
    struct jv *pos = n_pos ? jinja_alloc(r, n_pos, sizeof(*pos)) : NULL;
    struct jinja_kwarg *kw = n_kw + n_extra ? jinja_alloc(r, n_kw + n_extra, sizeof(*kw)) : NULL;
    *out = (struct jinja_args){ .pos = pos, .kw = kw, .n_pos = n_pos, .n_kw = n_kw };
    n_pos = n_kw = 0;
    for (const struct jnode *n = list; n && !r->failed; n = n->next) {
        if (n->kind == JNODE_ARGUMENT)
            kw[n_kw++] = (struct jinja_kwarg){ n->value, jinja_eval(r, scope, n->a) };
        else
            pos[n_pos++] = jinja_eval(r, scope, n);
    }
    return !r->failed;
}

bool jarg_bool(struct jv v, bool otherwise)
{
    return v.kind == JV_MISSING ? otherwise : jv_truth(v);
}

bool jarg_int(struct jinja_run *r, struct jv v, const char *name, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v.kind == JV_INT || v.kind == JV_BOOL)
        *out = jv_integer(v);
    else if (v.kind != JV_MISSING)
        jinja_fail(r, "%s must be an integer, not '%s'", name, jv_type_name(v));
    return !r->failed;
}

bool jarg_str(struct jinja_run *r, struct jv v, const char *name, struct jv otherwise,
              struct jv *out)
{
    *out = otherwise;
    if (v.kind == JV_STRING)
        *out = v;
    else if (v.kind != JV_MISSING)
        jinja_fail(r, "%s must be a string, not '%s'", name, jv_type_name(v));
    return !r->failed;
}

/* ---- what is built in ---- */

/* The next of the words in *list, which it is taken off; an empty one at the end. */
static struct jv next_word(const char **list)
{
    const char *begin = *list + strspn(*list, " ");
    size_t len = strcspn(begin, " ");
    *list = begin + len;
    return jv_str(begin, len);
}

static bool word_in(const char *list, struct jv name)
{
    for (struct jv word = next_word(&list); word.len > 0; word = next_word(&list)) {
        if (word.len == name.len && memcmp(word.as.text, name.as.text, name.len) == 0)
            return true;
    }
    return false;
}

const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, struct jv name)
{
    for (; table->name; table++) {
        if (word_in(table->name, name))
            return table;
    }
    return NULL;
}

const struct jinja_builtin *jinja_filter_find(struct jv name)
{
    const struct jinja_builtin *b = jinja_builtin_find(jinja_filters_text, name);
    return b ? b : jinja_builtin_find(jinja_filters_list, name);
}

const struct jinja_builtin *jinja_method_find(struct jv self, struct jv name)
{
    switch (self.kind) {
    case JV_STRING:
        return jinja_builtin_find(jinja_string_methods, name);
    case JV_DICT:
        return jinja_builtin_find(jinja_dict_methods, name);
    case JV_LIST:
    case JV_TUPLE:
        return jinja_builtin_find(jinja_list_methods, name);
    case JV_LOOP:
        return jinja_builtin_find(jinja_loop_methods, name);
    default:
        return NULL;
    }
}

static int builtin_name_len(const struct jinja_builtin *b)
{
    return (int)strcspn(b->name, " ");
}

/* Place of the parameter of that name, or -1. */
static int param_place(const char *params, struct jv name)
{
    int place = 0;
    for (struct jv word = next_word(&params); word.len > 0; word = next_word(&params), place++) {
        if (word.len == name.len && memcmp(word.as.text, name.as.text, name.len) == 0)
            return place;
    }
    return -1;
}

static bool bind(struct jinja_run *r, const struct jinja_builtin *b, struct jinja_args *args)
{
    uint32_t n_params = 0;
    const char *words = b->params;
    while (next_word(&words).len > 0)
        n_params++;
    for (uint32_t i = 0; i < JINJA_MAX_PARAMS; i++)
        args->param[i] = i < args->n_pos ? args->pos[i] : (struct jv){ .kind = JV_MISSING };
    if (args->n_pos > n_params) {
        jinja_fail(r, "%.*s takes at most %u arguments, not %u", builtin_name_len(b), b->name,
                   n_params, args->n_pos);
        return false;
    }
    for (uint32_t i = 0; i < args->n_kw; i++) {
        struct jv name = args->kw[i].name;
        int place = param_place(b->params, name);
        if (place < 0 || args->param[place].kind != JV_MISSING) {
            jinja_fail(r, "%.*s got an unexpected argument '%.*s'", builtin_name_len(b), b->name,
                       (int)name.len, name.as.text);
            return false;
        }
        args->param[place] = args->kw[i].value;
    }
    for (uint32_t i = 0; i < b->n_required; i++) {
        if (args->param[i].kind == JV_MISSING) {
            jinja_fail(r, "%.*s needs %u arguments", builtin_name_len(b), b->name, b->n_required);
            return false;
        }
    }
    return true;
}

struct jv jinja_builtin_call(struct jinja_run *r, const struct jinja_builtin *b,
                             struct jinja_args *args)
{
    if (r->failed || (b->params && !bind(r, b, args)))
        return jv_none();
    return b->fn(r, args);
}

/* ---- macros ---- */

static const struct jinja_kwarg *find_kwarg(const struct jinja_args *args, struct jv name)
{
    for (uint32_t i = 0; i < args->n_kw; i++) {
        if (args->kw[i].name.len == name.len &&
            memcmp(args->kw[i].name.as.text, name.as.text, name.len) == 0)
            return &args->kw[i];
    }
    return NULL;
}

static bool is_param(const struct jinja_macro *m, struct jv name)
{
    const struct jnode *p = m->params;
    while (p &&
           !(p->value.len == name.len && memcmp(p->value.as.text, name.as.text, name.len) == 0))
        p = p->next;
    return p || jv_str_is(name, "caller");
}

/* Gives the parameters their values: by place, by name, by default. */
static void bind_macro(struct jinja_run *r, const struct jinja_macro *m,
                       const struct jinja_args *args, struct jinja_scope *scope)
{
    uint32_t place = 0;
    for (const struct jnode *p = m->params; p && !r->failed; p = p->next, place++) {
        const struct jinja_kwarg *kw = find_kwarg(args, p->value);
        struct jv v = jv_undefined(JV_UNDEFINED, p->value.as.text, p->value.len);
        if (kw && place < args->n_pos)
            jinja_fail(r, "macro '%.*s' got two values for '%.*s'", (int)m->name.len,
                       m->name.as.text, (int)p->value.len, p->value.as.text);
        else if (place < args->n_pos)
            v = args->pos[place];
        else if (kw)
            v = kw->value;
        else if (p->b)
            v = jinja_eval(r, scope, p->b);
        jinja_scope_set(r, scope, p->value, v);
    }
    if (args->n_pos > place)
        jinja_fail(r, "macro '%.*s' takes not more than %u arguments", (int)m->name.len,
                   m->name.as.text, place);
    for (uint32_t i = 0; i < args->n_kw && jinja_charge(r, 1 + place); i++) {
        struct jv name = args->kw[i].name;
        if (!is_param(m, name))
            jinja_fail(r, "macro '%.*s' takes no argument '%.*s'", (int)m->name.len,
                       m->name.as.text, (int)name.len, name.as.text);
        else if (jv_str_is(name, "caller"))
            jinja_scope_set(r, scope, name, args->kw[i].value);
    }
}

struct jv jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m,
                           const struct jinja_args *args)
{
    size_t mark = r->out.len;
    struct jinja_scope *scope = jinja_scope_new(r, m->scope);
    if (!scope || !jinja_enter(r))
        return jv_cstr("");
    bind_macro(r, m, args, scope);
    if (!r->failed)
        jinja_exec(r, scope, m->node->body);
    jinja_leave(r);
    return jinja_take(r, mark);
}

struct jv jinja_call(struct jinja_run *r, struct jv callee, struct jinja_args *args)
{
    switch (callee.kind) {
    case JV_MACRO:
        return jinja_call_macro(r, callee.as.macro, args);
    case JV_FUNCTION:
        return jinja_builtin_call(r, callee.as.function, args);
    case JV_METHOD:
        args->self = callee.as.method->self;
        return jinja_builtin_call(r, callee.as.method->builtin, args);
    case JV_UNDEFINED:
        return jinja_fail_undefined(r, callee);
    default:
        return jinja_fail(r, "'%s' object is not callable", jv_type_name(callee));
    }
}
