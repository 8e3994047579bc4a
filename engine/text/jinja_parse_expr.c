/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_parse_expr.c - tokens to a tree: the expressions.
 *
 * From the loosest to the tightest: a if b else c, or, and, not, comparisons, + -, ~, * / // %, **,
 * sign, then what hangs behind: .name [item] (call), |filter, is test.
 */
#include <string.h>

#include "engine/text/jinja_tree.h"

static struct jnode *parse_not(struct jinja_compile *c);
static struct jnode *parse_unary(struct jinja_compile *c, bool with_filters);

static struct jnode *node_of(struct jinja_compile *c, enum jnode_kind kind, uint32_t line,
                             struct jnode *a, struct jnode *b)
{
    struct jnode *n = jparse_node(c, kind, line);
    if (n) {
        n->a = a;
        n->b = b;
    }
    return n;
}

/* ---- operators ---- */

/* Binary operators that bind alike; from left to right. */
static const struct level {
    enum jinja_op ops[4];
} levels[] = {
    { { JOP_ADD, JOP_SUB } },
    { { JOP_CONCAT } },
    { { JOP_MUL, JOP_DIV, JOP_FLOORDIV, JOP_MOD } },
    { { JOP_POW } },
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static bool is_of_level(const struct jinja_compile *c, const struct level *level)
{
    const struct jtok *t = jparse_peek(c);
    for (size_t i = 0; i < 4 && level->ops[i] != JOP_NONE; i++) {
        if (t->kind == JTOK_OP && t->op == level->ops[i])
            return true;
    }
    return false;
}

static struct jnode *parse_binary(struct jinja_compile *c, size_t level);

/* a ~ b ~ c is one node: templates put long texts together so. */
static struct jnode *parse_concat(struct jinja_compile *c, struct jnode *first, size_t level)
{
    struct jnode *n = node_of(c, JNODE_CONCAT, first->line, first, NULL), **tail = &first->next;
    while (n && jparse_skip_op(c, JOP_CONCAT)) {
        *tail = parse_binary(c, level + 1);
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
    }
    return n;
}

static struct jnode *parse_binary(struct jinja_compile *c, size_t level)
{
    if (level == N_LEVELS)
        return parse_unary(c, true);
    struct jnode *left = parse_binary(c, level + 1);
    while (left && is_of_level(c, &levels[level])) {
        const struct jtok *t = jparse_peek(c);
        if (t->op == JOP_CONCAT) {
            left = parse_concat(c, left, level);
            continue;
        }
        jparse_next(c);
        left = node_of(c, JNODE_BINARY, t->line, left, parse_binary(c, level + 1));
        if (left)
            left->op = t->op;
    }
    return c->failed ? NULL : left;
}

/* The comparison at the parser, skipped; JOP_NONE if there is none. */
static enum jinja_op skip_comparison(struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    if (t->kind == JTOK_OP && t->op >= JOP_EQ && t->op <= JOP_GE) {
        jparse_next(c);
        return t->op;
    }
    if (jparse_skip_name(c, "in"))
        return JOP_IN;
    if (jparse_is_name(c, "not")) {
        const struct jtok *behind = t + 1; /* a name is never the last token */
        if (behind->kind == JTOK_NAME && jv_str_is(behind->value, "in")) {
            c->at += 2;
            return JOP_NOT_IN;
        }
    }
    return JOP_NONE;
}

static struct jnode *parse_compare(struct jinja_compile *c)
{
    uint32_t line = jparse_peek(c)->line;
    struct jnode *first = parse_binary(c, 0), *n = NULL, **tail = NULL;
    enum jinja_op op;
    while (first && !c->failed && (op = skip_comparison(c)) != JOP_NONE) {
        if (!n && !(n = node_of(c, JNODE_COMPARE, line, first, NULL)))
            return NULL;
        if (!tail)
            tail = &n->b;
        *tail = node_of(c, JNODE_OPERAND, jparse_peek(c)->line, parse_binary(c, 0), NULL);
        if (!*tail)
            return NULL;
        (*tail)->op = (uint8_t)op;
        tail = &(*tail)->next;
    }
    return c->failed ? NULL : n ? n : first;
}

static struct jnode *parse_not(struct jinja_compile *c)
{
    if (!jparse_is_name(c, "not"))
        return parse_compare(c);
    uint32_t line = jparse_next(c)->line;
    struct jnode *n = NULL;
    if (jparse_enter(c))
        n = node_of(c, JNODE_NOT, line, parse_not(c), NULL);
    c->depth--;
    return n;
}

static struct jnode *parse_and(struct jinja_compile *c)
{
    struct jnode *left = parse_not(c);
    while (left && jparse_is_name(c, "and")) {
        uint32_t line = jparse_next(c)->line;
        left = node_of(c, JNODE_AND, line, left, parse_not(c));
    }
    return c->failed ? NULL : left;
}

static struct jnode *parse_or(struct jinja_compile *c)
{
    struct jnode *left = parse_and(c);
    while (left && jparse_is_name(c, "or")) {
        uint32_t line = jparse_next(c)->line;
        left = node_of(c, JNODE_OR, line, left, parse_and(c));
    }
    return c->failed ? NULL : left;
}

static struct jnode *parse_cond(struct jinja_compile *c)
{
    struct jnode *n = parse_or(c);
    while (n && !c->failed && jparse_is_name(c, "if")) {
        uint32_t line = jparse_next(c)->line;
        n = node_of(c, JNODE_COND, line, parse_or(c), n);
        if (n && !c->failed && jparse_skip_name(c, "else"))
            n->c = jparse_expression(c);
    }
    return c->failed ? NULL : n;
}

struct jnode *jparse_expression(struct jinja_compile *c)
{
    struct jnode *n = jparse_enter(c) ? parse_cond(c) : NULL;
    c->depth--;
    return n;
}

/* ---- several, with commas ---- */

static bool is_tuple_end(const struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    return t->kind == JTOK_PRINT_END || t->kind == JTOK_BLOCK_END || t->kind == JTOK_END ||
           jparse_is_op(c, JOP_RPAREN);
}

struct jnode *jparse_tuple(struct jinja_compile *c, unsigned flags)
{
    uint32_t line = jparse_peek(c)->line;
    struct jnode *first = NULL, **tail = &first;
    bool is_tuple = false;
    while (!c->failed && !is_tuple_end(c)) {
        *tail = flags & JPARSE_NO_COND ? parse_or(c) : jparse_expression(c);
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
        if (!jparse_skip_op(c, JOP_COMMA))
            break;
        is_tuple = true;
    }
    if (c->failed)
        return NULL;
    if (first && !is_tuple)
        return first;
    if (!first && !(flags & JPARSE_PARENTHESES))
        return jparse_unexpected(c, "an expression");
    return node_of(c, JNODE_TUPLE, line, first, NULL);
}

static struct jnode *parse_list(struct jinja_compile *c, uint32_t line)
{
    struct jnode *n = jparse_node(c, JNODE_LIST, line), **tail = n ? &n->a : NULL;
    while (!c->failed && !jparse_is_op(c, JOP_RBRACKET)) {
        *tail = jparse_expression(c);
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
        if (!jparse_skip_op(c, JOP_COMMA))
            break;
    }
    return jparse_expect_op(c, JOP_RBRACKET) ? n : NULL;
}

static struct jnode *parse_dict(struct jinja_compile *c, uint32_t line)
{
    struct jnode *n = jparse_node(c, JNODE_DICT, line), **tail = n ? &n->a : NULL;
    while (!c->failed && !jparse_is_op(c, JOP_RBRACE)) {
        struct jnode *key = jparse_expression(c);
        if (!key || !jparse_expect_op(c, JOP_COLON))
            return NULL;
        *tail = node_of(c, JNODE_PAIR, line, key, jparse_expression(c));
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
        if (!jparse_skip_op(c, JOP_COMMA))
            break;
    }
    return jparse_expect_op(c, JOP_RBRACE) ? n : NULL;
}

/* ---- the innermost ---- */

static struct jnode *constant(struct jinja_compile *c, uint32_t line, struct jv value)
{
    struct jnode *n = jparse_node(c, JNODE_CONST, line);
    if (n)
        n->value = value;
    return n;
}

static struct jnode *parse_name(struct jinja_compile *c, const struct jtok *t)
{
    if (jv_str_is(t->value, "true") || jv_str_is(t->value, "True"))
        return constant(c, t->line, jv_bool(true));
    if (jv_str_is(t->value, "false") || jv_str_is(t->value, "False"))
        return constant(c, t->line, jv_bool(false));
    if (jv_str_is(t->value, "none") || jv_str_is(t->value, "None"))
        return constant(c, t->line, jv_none());
    struct jnode *n = jparse_node(c, JNODE_NAME, t->line);
    if (n)
        n->value = t->value;
    return n;
}

/* "a" "b" is "ab". */
static struct jnode *parse_strings(struct jinja_compile *c, const struct jtok *first)
{
    size_t len = first->value.len;
    uint32_t begin = c->at;
    for (; jparse_peek(c)->kind == JTOK_STRING; jparse_next(c))
        len += jparse_peek(c)->value.len;
    if (c->at == begin)
        return constant(c, first->line, first->value);
    char *text = jinja_compile_alloc(c, len);
    size_t n = 0;
    for (const struct jtok *t = first; text && t < jparse_peek(c); t++) {
        memcpy(text + n, t->value.as.text, t->value.len);
        n += t->value.len;
    }
    return constant(c, first->line, jv_str(text, n));
}

static struct jnode *parse_bracketed(struct jinja_compile *c, const struct jtok *t)
{
    struct jnode *n = NULL;
    if (t->op == JOP_LBRACKET)
        n = parse_list(c, t->line);
    else if (t->op == JOP_LBRACE)
        n = parse_dict(c, t->line);
    else if ((n = jparse_tuple(c, JPARSE_PARENTHESES)) && !jparse_expect_op(c, JOP_RPAREN))
        n = NULL;
    return n;
}

struct jnode *jparse_primary(struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    switch (t->kind) {
    case JTOK_NAME:
        return parse_name(c, jparse_next(c));
    case JTOK_STRING:
        return parse_strings(c, jparse_next(c));
    case JTOK_INT:
    case JTOK_FLOAT:
        return constant(c, t->line, jparse_next(c)->value);
    default:
        break;
    }
    if (!jparse_is_op(c, JOP_LPAREN) && !jparse_is_op(c, JOP_LBRACKET) &&
        !jparse_is_op(c, JOP_LBRACE))
        return jparse_unexpected(c, "an expression");
    jparse_next(c);
    struct jnode *n = jparse_enter(c) ? parse_bracketed(c, t) : NULL;
    c->depth--;
    return n;
}

/* ---- what hangs behind ---- */

static bool is_named_argument(const struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    return t->kind == JTOK_NAME && t[1].kind == JTOK_OP && t[1].op == JOP_ASSIGN;
}

/* (a, b, name=c): positional ones are expressions, named ones ARGUMENTs, in this order. */
static struct jnode *parse_arguments(struct jinja_compile *c)
{
    struct jnode *first = NULL, **tail = &first;
    bool had_named = false;
    jparse_expect_op(c, JOP_LPAREN);
    while (!c->failed && !jparse_is_op(c, JOP_RPAREN)) {
        const struct jtok *t = jparse_peek(c);
        if (jparse_is_op(c, JOP_MUL) || jparse_is_op(c, JOP_POW))
            return jinja_refuse(c, t->line, "arguments with * or **");
        if (is_named_argument(c)) {
            c->at += 2;
            had_named = true;
            *tail = node_of(c, JNODE_ARGUMENT, t->line, jparse_expression(c), NULL);
            if (*tail)
                (*tail)->value = t->value;
        } else if (had_named) {
            return jinja_refuse(c, t->line, "an argument without name behind one with a name");
        } else {
            *tail = jparse_expression(c);
        }
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
        if (!jparse_skip_op(c, JOP_COMMA))
            break;
    }
    jparse_expect_op(c, JOP_RPAREN);
    return first;
}

static struct jnode *parse_attribute(struct jinja_compile *c, struct jnode *of)
{
    const struct jtok *t = jparse_peek(c);
    if (t->kind == JTOK_INT) {
        jparse_next(c);
        return node_of(c, JNODE_ITEM, t->line, of, constant(c, t->line, t->value));
    }
    if (t->kind != JTOK_NAME)
        return jparse_unexpected(c, "a name or number");
    struct jnode *n = node_of(c, JNODE_ATTR, t->line, of, NULL);
    if (n)
        n->value = t->value;
    jparse_next(c);
    return n;
}

/* from:to:step, from its first colon on. */
static struct jnode *parse_slice(struct jinja_compile *c, struct jnode *from)
{
    struct jnode *n = node_of(c, JNODE_SLICE, jparse_next(c)->line, from, NULL);
    if (!n)
        return NULL;
    if (!jparse_is_op(c, JOP_COLON) && !jparse_is_op(c, JOP_RBRACKET))
        n->b = jparse_expression(c);
    if (!c->failed && jparse_skip_op(c, JOP_COLON) && !jparse_is_op(c, JOP_RBRACKET))
        n->c = jparse_expression(c);
    return n;
}

static struct jnode *parse_subscript(struct jinja_compile *c, struct jnode *of)
{
    uint32_t line = jparse_peek(c)->line;
    struct jnode *index = NULL;
    if (!jparse_is_op(c, JOP_COLON))
        index = jparse_expression(c);
    if (!c->failed && jparse_is_op(c, JOP_COLON))
        index = parse_slice(c, index);
    if (!c->failed && jparse_is_op(c, JOP_COMMA))
        return jinja_refuse(c, line, "a subscript with a comma");
    return jparse_expect_op(c, JOP_RBRACKET) ? node_of(c, JNODE_ITEM, line, of, index) : NULL;
}

static struct jnode *parse_postfix(struct jinja_compile *c, struct jnode *n)
{
    while (n && !c->failed) {
        uint32_t line = jparse_peek(c)->line;
        if (jparse_skip_op(c, JOP_DOT))
            n = parse_attribute(c, n);
        else if (jparse_skip_op(c, JOP_LBRACKET))
            n = parse_subscript(c, n);
        else if (jparse_is_op(c, JOP_LPAREN))
            n = node_of(c, JNODE_CALL, line, n, parse_arguments(c));
        else
            break;
    }
    return c->failed ? NULL : n;
}

static struct jnode *parse_filter(struct jinja_compile *c, struct jnode *subject)
{
    const struct jtok *t = jparse_peek(c);
    if (t->kind != JTOK_NAME)
        return jparse_unexpected(c, "the name of a filter");
    struct jnode *n = node_of(c, JNODE_FILTER, t->line, subject, NULL);
    jparse_next(c);
    if (!n)
        return NULL;
    n->value = t->value;
    n->builtin = jinja_filter_find(t->value);
    if (jparse_is_op(c, JOP_LPAREN))
        n->b = parse_arguments(c);
    return n;
}

struct jnode *jparse_filters(struct jinja_compile *c, struct jnode *subject, bool first_named)
{
    while (subject && !c->failed && (first_named || jparse_skip_op(c, JOP_PIPE))) {
        subject = parse_filter(c, subject);
        first_named = false;
    }
    return c->failed ? NULL : subject;
}

/* May the token be a test's argument without parentheses: "is divisibleby 3"? */
static bool begins_test_argument(const struct jinja_compile *c)
{
    const struct jtok *t = jparse_peek(c);
    if (t->kind == JTOK_NAME)
        return !jparse_is_name(c, "else") && !jparse_is_name(c, "or") && !jparse_is_name(c, "and");
    return t->kind == JTOK_STRING || t->kind == JTOK_INT || t->kind == JTOK_FLOAT ||
           jparse_is_op(c, JOP_LBRACKET) || jparse_is_op(c, JOP_LBRACE);
}

static struct jnode *parse_test(struct jinja_compile *c, struct jnode *subject)
{
    bool negated = jparse_skip_name(c, "not");
    const struct jtok *t = jparse_peek(c);
    if (t->kind != JTOK_NAME)
        return jparse_unexpected(c, "the name of a test");
    struct jnode *n = node_of(c, JNODE_TEST, t->line, subject, NULL);
    jparse_next(c);
    if (!n)
        return NULL;
    n->value = t->value;
    n->builtin = jinja_builtin_find(jinja_tests, t->value);
    if (jparse_is_op(c, JOP_LPAREN))
        n->b = parse_arguments(c);
    else if (jparse_is_name(c, "is"))
        return jinja_refuse(c, t->line, "tests in a chain");
    else if (begins_test_argument(c))
        n->b = parse_postfix(c, jparse_primary(c));
    return negated ? node_of(c, JNODE_NOT, t->line, n, NULL) : n;
}

static struct jnode *parse_filters_and_tests(struct jinja_compile *c, struct jnode *n)
{
    while (n && !c->failed) {
        uint32_t line = jparse_peek(c)->line;
        if (jparse_is_op(c, JOP_PIPE))
            n = jparse_filters(c, n, false);
        else if (jparse_skip_name(c, "is"))
            n = parse_test(c, n);
        else if (jparse_is_op(c, JOP_LPAREN))
            n = node_of(c, JNODE_CALL, line, n, parse_arguments(c));
        else
            break;
    }
    return c->failed ? NULL : n;
}

static struct jnode *parse_unary(struct jinja_compile *c, bool with_filters)
{
    const struct jtok *t = jparse_peek(c);
    struct jnode *n = NULL;
    if (jparse_is_op(c, JOP_SUB) || jparse_is_op(c, JOP_ADD)) {
        jparse_next(c);
        if (jparse_enter(c))
            n = node_of(c, t->op == JOP_SUB ? JNODE_NEG : JNODE_POS, t->line, parse_unary(c, false),
                        NULL);
        c->depth--;
    } else {
        n = jparse_primary(c);
    }
    n = parse_postfix(c, n);
    return with_filters ? parse_filters_and_tests(c, n) : n;
}
