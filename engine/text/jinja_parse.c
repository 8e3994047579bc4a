/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_parse.c - tokens to a tree: the statements, and the template as a whole.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

enum {
    MAX_PARSE_DEPTH = 100,     /* of statements and brackets within each other */
    TREE_BYTES_PER_BYTE = 200, /* a tree is at most so much larger than its text */
    TREE_BYTES_MIN = 64 * 1024,
};

struct jinja_template {
    struct jinja_arena arena;
    struct jnode *first;
};

void *jinja_refuse(struct jinja_compile *c, uint32_t line, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!c->failed)
        engine_fail(c->err, ENGINE_ERR_UNSUPPORTED, "chat template, line %u: %.*s", line,
                    (int)utf8_valid_run(text, strlen(text)), text);
    c->failed = true;
    return NULL;
}

void *jinja_compile_alloc(struct jinja_compile *c, size_t bytes)
{
    if (c->failed)
        return NULL;
    void *p = jinja_arena_alloc(c->arena, bytes);
    return p ? p : jinja_refuse(c, 1, "more than %zu bytes when parsed", c->arena->limit);
}

/* ---- tokens ---- */

struct jtok *jparse_peek(const struct jinja_compile *c)
{
    return &c->tokens.items[c->at];
}

struct jtok *jparse_next(struct jinja_compile *c)
{
    struct jtok *t = jparse_peek(c);
    if (t->kind != JTOK_END)
        c->at++;
    return t;
}

bool jparse_is_op(const struct jinja_compile *c, enum jinja_op op)
{
    return jparse_peek(c)->kind == JTOK_OP && jparse_peek(c)->op == op;
}

bool jparse_is_name(const struct jinja_compile *c, const char *name)
{
    return jparse_peek(c)->kind == JTOK_NAME && jv_str_is(jparse_peek(c)->value, name);
}

bool jparse_skip_op(struct jinja_compile *c, enum jinja_op op)
{
    bool is = jparse_is_op(c, op);
    if (is)
        jparse_next(c);
    return is;
}

bool jparse_skip_name(struct jinja_compile *c, const char *name)
{
    bool is = jparse_is_name(c, name);
    if (is)
        jparse_next(c);
    return is;
}

void *jparse_unexpected(struct jinja_compile *c, const char *wanted)
{
    const struct jtok *t = jparse_peek(c);
    static const char *const kinds[] = { [JTOK_END] = "the end of the template",
                                         [JTOK_DATA] = "text",
                                         [JTOK_BLOCK_BEGIN] = "{%",
                                         [JTOK_BLOCK_END] = "%}",
                                         [JTOK_PRINT_BEGIN] = "{{",
                                         [JTOK_PRINT_END] = "}}",
                                         [JTOK_STRING] = "a string",
                                         [JTOK_INT] = "a number",
                                         [JTOK_FLOAT] = "a number" };
    if (t->kind == JTOK_NAME)
        return jinja_refuse(c, t->line, "%s expected, not '%.*s'", wanted, (int)t->value.len,
                            t->value.as.text);
    return jinja_refuse(c, t->line, "%s expected, not %s", wanted,
                        t->kind == JTOK_OP ? jinja_op_text(t->op) : kinds[t->kind]);
}

bool jparse_expect_op(struct jinja_compile *c, enum jinja_op op)
{
    if (c->failed || jparse_skip_op(c, op))
        return !c->failed;
    jparse_unexpected(c, jinja_op_text(op));
    return false;
}

static bool expect_kind(struct jinja_compile *c, enum jtok_kind kind, const char *what)
{
    if (!c->failed && jparse_peek(c)->kind == kind) {
        jparse_next(c);
        return true;
    }
    if (!c->failed)
        jparse_unexpected(c, what);
    return false;
}

struct jnode *jparse_node(struct jinja_compile *c, enum jnode_kind kind, uint32_t line)
{
    struct jnode *n = jinja_compile_alloc(c, sizeof(*n));
    if (n)
        *n = (struct jnode){ .kind = (uint8_t)kind, .line = line };
    return n;
}

bool jparse_enter(struct jinja_compile *c)
{
    if (c->depth >= MAX_PARSE_DEPTH)
        jinja_refuse(c, jparse_peek(c)->line, "nested deeper than %d levels", MAX_PARSE_DEPTH);
    c->depth++;
    return !c->failed;
}

/* ---- names that are given values ---- */

static struct jnode *parse_name(struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    if (t->kind != JTOK_NAME)
        return jparse_unexpected(c, "a name");
    struct jnode *n = jparse_node(c, JNODE_NAME, t->line);
    if (n)
        n->value = t->value;
    jparse_next(c);
    return n;
}

/* A name, an attribute of a namespace if that may be, or several in parentheses. */
static struct jnode *parse_one_target(struct jinja_compile *c, bool attributes)
{
    if (jparse_is_op(c, JOP_LPAREN)) {
        struct jnode *tuple = NULL;
        uint32_t line = jparse_next(c)->line;
        if (jparse_enter(c) && (tuple = jparse_node(c, JNODE_TUPLE, line)))
            for (struct jnode **tail = &tuple->a; !c->failed && !jparse_is_op(c, JOP_RPAREN);) {
                *tail = parse_one_target(c, attributes);
                if (!*tail)
                    break;
                tail = &(*tail)->next;
                if (!jparse_skip_op(c, JOP_COMMA))
                    break;
            }
        c->depth--;
        jparse_expect_op(c, JOP_RPAREN);
        return tuple;
    }
    struct jnode *name = parse_name(c);
    if (!attributes || !name || !jparse_skip_op(c, JOP_DOT))
        return name;
    struct jnode *attr = parse_name(c);
    if (attr) {
        attr->kind = JNODE_ATTR;
        attr->a = name;
    }
    return attr;
}

static struct jnode *parse_target(struct jinja_compile *c, bool attributes)
{
    uint32_t line = jparse_peek(c)->line;
    struct jnode *first = parse_one_target(c, attributes);
    if (!first || !jparse_is_op(c, JOP_COMMA))
        return first;
    struct jnode *tuple = jparse_node(c, JNODE_TUPLE, line), **tail = &first->next;
    if (!tuple)
        return NULL;
    tuple->a = first;
    while (jparse_skip_op(c, JOP_COMMA) &&
           (jparse_peek(c)->kind == JTOK_NAME || jparse_is_op(c, JOP_LPAREN))) {
        *tail = parse_one_target(c, attributes);
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
    }
    return tuple;
}

/* ---- statements ---- */

/* The body of a statement, from its tag's end to the first of the tags named; leaves the parser at
 * that tag's name. */
static struct jnode *parse_body(struct jinja_compile *c, const char *const *ends)
{
    uint32_t line = jparse_peek(c)->line;
    jparse_skip_op(c, JOP_COLON);
    if (!expect_kind(c, JTOK_BLOCK_END, "%}") || !jparse_enter(c))
        return NULL;
    struct jnode *body = jparse_statements(c);
    c->depth--;
    if (c->failed)
        return NULL;
    for (size_t i = 0; ends[i]; i++) {
        if (jparse_is_name(c, ends[i]))
            return body;
    }
    if (jparse_peek(c)->kind == JTOK_END)
        return jinja_refuse(c, line, "{%% %s %%} is missing", ends[0]);
    return jparse_unexpected(c, ends[0]);
}

static struct jnode *parse_body_to(struct jinja_compile *c, const char *end)
{
    const char *const ends[] = { end, NULL };
    struct jnode *body = parse_body(c, ends);
    jparse_next(c);
    return body;
}

/* A body that a loop around it cannot be left from. */
static struct jnode *parse_apart(struct jinja_compile *c, const char *end)
{
    uint32_t n_loops = c->n_loops;
    c->n_loops = 0;
    struct jnode *body = parse_body_to(c, end);
    c->n_loops = n_loops;
    return body;
}

static struct jnode *parse_if(struct jinja_compile *c, struct jnode *n)
{
    static const char *const ends[] = { "endif", "elif", "else", NULL };
    struct jnode *branch = n;
    while (true) {
        branch->a = jparse_tuple(c, JPARSE_NO_COND);
        branch->body = parse_body(c, ends);
        if (c->failed || jparse_skip_name(c, "endif"))
            return n;
        if (jparse_skip_name(c, "else")) {
            branch->other = parse_body_to(c, "endif");
            return n;
        }
        uint32_t line = jparse_next(c)->line; /* elif */
        branch->other = jparse_node(c, JNODE_IF, line);
        branch->other = jparse_node(c, JNODE_IF, line);
        if (!branch->other)
            return NULL;
        branch->is_elif = true;
        branch = branch->other;
    }
}

static struct jnode *parse_for(struct jinja_compile *c, struct jnode *n)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    n->a = parse_target(c, false);
    if (c->failed)
        return NULL;
    if (!jparse_skip_name(c, "in"))
        return jparse_unexpected(c, "in");
    n->b = jparse_tuple(c, JPARSE_NO_COND);
    if (!c->failed && jparse_skip_name(c, "if"))
        n->c = jparse_expression(c);
    if (!c->failed && jparse_is_name(c, "recursive"))
        return jinja_refuse(c, n->line, "a recursive loop");
    c->n_loops++;
    n->body = parse_body(c, ends);
    c->n_loops--;
    if (!c->failed && !jparse_skip_name(c, "endfor")) {
        jparse_next(c);
        n->other = parse_body_to(c, "endfor");
    }
    return n;
}

static struct jnode *parse_set(struct jinja_compile *c, struct jnode *n)
{
    n->a = parse_target(c, true);
    if (c->failed)
        return NULL;
    if (jparse_skip_op(c, JOP_ASSIGN)) {
        n->b = jparse_tuple(c, JPARSE_TUPLE);
        return n;
    }
    n->kind = JNODE_SET_BLOCK;
    n->b = jparse_filters(c, jparse_node(c, JNODE_CAPTURED, n->line), false);
    n->body = parse_apart(c, "endset");
    return n;
}

/* (a, b=1): names, each with its default value in `b`. */
static struct jnode *parse_signature(struct jinja_compile *c)
{
    struct jnode *first = NULL, **tail = &first;
    bool had_default = false;
    if (!jparse_expect_op(c, JOP_LPAREN))
        return NULL;
    while (!c->failed && !jparse_is_op(c, JOP_RPAREN)) {
        if (first && !jparse_expect_op(c, JOP_COMMA))
            break;
        struct jnode *name = parse_name(c);
        if (!name)
            return NULL;
        if (jparse_skip_op(c, JOP_ASSIGN))
            name->b = jparse_expression(c);
        else if (had_default)
            return jinja_refuse(c, name->line, "a parameter without default behind one with it");
        had_default = name->b != NULL;
        *tail = name;
        tail = &name->next;
    }
    jparse_expect_op(c, JOP_RPAREN);
    return first;
}

static struct jnode *parse_macro(struct jinja_compile *c, struct jnode *n)
{
    struct jnode *name = parse_name(c);
    if (!name)
        return NULL;
    n->value = name->value;
    n->a = parse_signature(c);
    n->body = parse_apart(c, "endmacro");
    return n;
}

static struct jnode *parse_call_block(struct jinja_compile *c, struct jnode *n)
{
    n->value = jv_cstr("caller");
    if (jparse_is_op(c, JOP_LPAREN))
        n->b = parse_signature(c);
    n->a = jparse_expression(c);
    if (!c->failed && n->a->kind != JNODE_CALL)
        return jinja_refuse(c, n->line, "{%% call %%} of what is no call");
    n->body = parse_apart(c, "endcall");
    return n;
}

static struct jnode *parse_filter_block(struct jinja_compile *c, struct jnode *n)
{
    n->a = jparse_filters(c, jparse_node(c, JNODE_CAPTURED, n->line), true);
    n->body = parse_apart(c, "endfilter");
    return n;
}

static struct jnode *parse_with(struct jinja_compile *c, struct jnode *n)
{
    struct jnode **tail = &n->a;
    while (!c->failed && jparse_peek(c)->kind != JTOK_BLOCK_END) {
        if (n->a && !jparse_expect_op(c, JOP_COMMA))
            break;
        struct jnode *set = jparse_node(c, JNODE_SET, jparse_peek(c)->line);
        if (!set)
            return NULL;
        set->a = parse_one_target(c, false);
        if (c->failed || !jparse_expect_op(c, JOP_ASSIGN))
            break;
        set->b = jparse_expression(c);
        *tail = set;
        tail = &set->next;
    }
    n->body = parse_body_to(c, "endwith");
    return n;
}

static struct jnode *parse_generation(struct jinja_compile *c, struct jnode *n)
{
    n->body = parse_apart(c, "endgeneration");
    return n;
}

static struct jnode *parse_jump(struct jinja_compile *c, struct jnode *n)
{
    if (c->n_loops == 0)
        return jinja_refuse(c, n->line, "break or continue outside of a loop");
    return n;
}

static const struct {
    const char *name;
    enum jnode_kind kind;
    struct jnode *(*parse)(struct jinja_compile *c, struct jnode *n);
} statements[] = {
    { "if", JNODE_IF, parse_if },
    { "for", JNODE_FOR, parse_for },
    { "set", JNODE_SET, parse_set },
    { "macro", JNODE_MACRO, parse_macro },
    { "call", JNODE_CALL_BLOCK, parse_call_block },
    { "filter", JNODE_FILTER_BLOCK, parse_filter_block },
    { "with", JNODE_WITH, parse_with },
    { "generation", JNODE_SCOPE, parse_generation },
    { "break", JNODE_BREAK, parse_jump },
    { "continue", JNODE_CONTINUE, parse_jump },
};

static bool is_end_of_body(const struct jinja_compile *c)
{
    static const char *const ends[] = { "endif",   "elif",         "else",    "endfor",
                                        "endset",  "endmacro",     "endcall", "endfilter",
                                        "endwith", "endgeneration" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (jparse_is_name(c, ends[i]))
            return true;
    }
    return false;
}

static struct jnode *parse_statement(struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!jparse_skip_name(c, statements[i].name))
            continue;
        struct jnode *n = jparse_node(c, statements[i].kind, t->line);
        return n && statements[i].parse(c, n) && expect_kind(c, JTOK_BLOCK_END, "%}") ? n : NULL;
    }
    if (t->kind != JTOK_NAME)
        return jparse_unexpected(c, "the name of a tag");
    return jinja_refuse(c, t->line, "{%% %.*s %%} is not supported", (int)t->value.len,
                        t->value.as.text);
}

static struct jnode *parse_text(struct jinja_compile *c)
{
    const struct jtok *t = jparse_next(c);
    struct jnode *n = jparse_node(c, JNODE_TEXT, t->line);
    if (n)
        n->value = t->value;
    return n;
}

static struct jnode *parse_print(struct jinja_compile *c)
{
    struct jnode *n = jparse_node(c, JNODE_PRINT, jparse_next(c)->line);
    if (!n)
        return NULL;
    n->a = jparse_tuple(c, JPARSE_TUPLE);
    return expect_kind(c, JTOK_PRINT_END, "}}") ? n : NULL;
}

/* Up to the end of the template, or behind the "{%" of a tag that ends a body. */
struct jnode *jparse_statements(struct jinja_compile *c)
{
    struct jnode *first = NULL, **tail = &first;
    while (!c->failed && jparse_peek(c)->kind != JTOK_END) {
        struct jnode *n;
        if (jparse_peek(c)->kind == JTOK_DATA) {
            n = parse_text(c);
        } else if (jparse_peek(c)->kind == JTOK_PRINT_BEGIN) {
            n = parse_print(c);
        } else {
            jparse_next(c);
            if (is_end_of_body(c))
                break;
            n = parse_statement(c);
        }
        if (!n)
            return NULL;
        *tail = n;
        tail = &n->next;
    }
    return first;
}

static int compile(struct jinja_compile *c, struct jinja_template *t, const char *text, size_t len)
{
    if (jinja_lex(c, text, len) != 0)
        return -1;
    t->first = jparse_statements(c);
    if (!c->failed && jparse_peek(c)->kind != JTOK_END)
        jparse_unexpected(c, "a tag that begins something");
    return c->failed ? -1 : 0;
}

int jinja_template_open(struct jinja_template **out, const char *text, size_t len,
                        struct engine_err *err)
{
    *out = NULL;
    if (len > JINJA_MAX_TEMPLATE)
        return engine_fail(err, ENGINE_ERR_UNSUPPORTED,
                           "the chat template has %zu bytes, the limit is %d", len,
                           JINJA_MAX_TEMPLATE);
    struct jinja_template *t = calloc(1, sizeof(*t));
    if (!t)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the chat template");
    t->arena.limit = TREE_BYTES_MIN + TREE_BYTES_PER_BYTE * len;
    struct jinja_compile c = { .arena = &t->arena, .err = err };
    int rc = compile(&c, t, text, len);
    free(c.tokens.items);
    if (rc == 0)
        *out = t;
    else
        jinja_template_close(t);
    return rc;
}

void jinja_template_close(struct jinja_template *t)
{
    if (t)
        jinja_arena_fini(&t->arena);
    free(t);
}

int jinja_render(struct jinja_run *r, const struct jinja_template *t, struct jv_dict *variables)
{
    r->variables = variables;
    struct jinja_scope *scope = jinja_scope_new(r, NULL);
    if (scope)
        jinja_exec(r, scope, t->first);
    return r->failed ? -1 : 0;
}
