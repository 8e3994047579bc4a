/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_tree.h - tokens and the tree of a template, and what evaluates it.
 */
#ifndef LACUNA_ENGINE_JINJA_TREE_H
#define LACUNA_ENGINE_JINJA_TREE_H

#include "engine/text/jinja.h"

/* ---- jinja_lex.c ---- */

enum jtok_kind {
    JTOK_END, /* of the template */
    JTOK_DATA,
    JTOK_BLOCK_BEGIN,
    JTOK_BLOCK_END,
    JTOK_PRINT_BEGIN,
    JTOK_PRINT_END,
    JTOK_NAME,
    JTOK_STRING,
    JTOK_INT,
    JTOK_FLOAT,
    JTOK_OP,
};

enum jinja_op {
    JOP_NONE,
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
    JOP_POW,
    JOP_CONCAT, /* ~ */
    JOP_EQ,
    JOP_NE,
    JOP_LT,
    JOP_LE,
    JOP_GT,
    JOP_GE,
    JOP_IN,
    JOP_NOT_IN,
    JOP_ASSIGN,
    JOP_COLON,
    JOP_COMMA,
    JOP_DOT,
    JOP_PIPE,
    JOP_LPAREN,
    JOP_RPAREN,
    JOP_LBRACKET,
    JOP_RBRACKET,
    JOP_LBRACE,
    JOP_RBRACE,
};

struct jtok {
    uint8_t kind; /* enum jtok_kind */
    uint8_t op;   /* enum jinja_op */
    uint32_t line;
    struct jv value; /* DATA, STRING, NAME: text; INT, FLOAT: number */
};

struct jinja_tokens {
    struct jtok *items;
    uint32_t n, cap;
};

struct jinja_compile {
    struct jinja_arena *arena;
    struct engine_err *err;
    bool failed;
    struct jinja_tokens tokens;
    uint32_t at;      /* token the parser is at */
    uint32_t depth;   /* of the parser's recursion */
    uint32_t n_loops; /* that break and continue could be meant for */
};

/* Marks the compilation as failed; returns NULL. */
void *jinja_refuse(struct jinja_compile *c, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *jinja_compile_alloc(struct jinja_compile *c, size_t bytes);

/* All tokens of text, JTOK_END at last; white space control and escapes are done. */
int jinja_lex(struct jinja_compile *c, const char *text, size_t len);
const char *jinja_op_text(enum jinja_op op);

/* ---- the tree ---- */

enum jnode_kind {
    /*                     value       a           b          c         body     other      */
    JNODE_TEXT,         /* text                                                             */
    JNODE_PRINT,        /*             expression                                           */
    JNODE_IF,           /*             test                             then     else       */
    JNODE_FOR,          /*             target      items      condition each     if none    */
    JNODE_SET,          /*             target      expression                               */
    JNODE_SET_BLOCK,    /*             target      filters              content             */
    JNODE_MACRO,        /* name        parameters                       content             */
    JNODE_CALL_BLOCK,   /*             call        parameters           content             */
    JNODE_FILTER_BLOCK, /*             filters                          content             */
    JNODE_WITH,         /*             SETs                             content             */
    JNODE_SCOPE,        /*                                              content             */
    JNODE_BREAK,
    JNODE_CONTINUE,
    /* expressions; lists hang together by `next` */
    JNODE_CONST,    /* itself */
    JNODE_CAPTURED, /* the body of a filter or set block */
    JNODE_NAME,     /* name */
    JNODE_ATTR,     /* name        of what */
    JNODE_ITEM,     /*             of what     index or SLICE */
    JNODE_SLICE,    /*             from        to         step; each may be NULL */
    JNODE_CALL,     /*             callee      arguments */
    JNODE_FILTER,   /* name        of what     arguments */
    JNODE_TEST,     /* name        of what     arguments */
    JNODE_ARGUMENT, /* name        expression  (named arguments only) */
    JNODE_COND,     /*             test        if true    if not, or NULL */
    JNODE_AND,      /*             left        right */
    JNODE_OR,       /*             left        right */
    JNODE_NOT,      /*             operand */
    JNODE_NEG,      /*             operand */
    JNODE_POS,      /*             operand */
    JNODE_BINARY,   /* op          left        right */
    JNODE_CONCAT,   /*             operands */
    JNODE_COMPARE,  /*             first       OPERANDs */
    JNODE_OPERAND,  /* op          expression */
    JNODE_LIST,     /*             items */
    JNODE_TUPLE,    /*             items */
    JNODE_DICT,     /*             PAIRs */
    JNODE_PAIR,     /*             key         value */
};

struct jnode {
    uint8_t kind, op;
    bool is_elif; /* IF: `other` is the next IF of a chain */
    uint32_t line;
    struct jv value;
    struct jnode *a, *b, *c, *body, *other, *next;
    const struct jinja_builtin *builtin; /* FILTER, TEST: NULL if there is none of that name */
};

/* ---- jinja_parse.c, jinja_parse_expr.c ---- */

struct jtok *jparse_peek(const struct jinja_compile *c);
struct jtok *jparse_next(struct jinja_compile *c);
bool jparse_is_op(const struct jinja_compile *c, enum jinja_op op);
bool jparse_is_name(const struct jinja_compile *c, const char *name);
bool jparse_skip_op(struct jinja_compile *c, enum jinja_op op);
bool jparse_skip_name(struct jinja_compile *c, const char *name);
bool jparse_expect_op(struct jinja_compile *c, enum jinja_op op);
void *jparse_unexpected(struct jinja_compile *c, const char *wanted);
struct jnode *jparse_node(struct jinja_compile *c, enum jnode_kind kind, uint32_t line);
bool jparse_enter(struct jinja_compile *c);

enum jparse_tuple { JPARSE_TUPLE = 0, JPARSE_NO_COND = 1, JPARSE_PARENTHESES = 2 };
struct jnode *jparse_expression(struct jinja_compile *c);
struct jnode *jparse_tuple(struct jinja_compile *c, unsigned flags);
struct jnode *jparse_primary(struct jinja_compile *c);
struct jnode *jparse_filters(struct jinja_compile *c, struct jnode *subject, bool first_named);
struct jnode *jparse_statements(struct jinja_compile *c);

/* ---- builtins: filters, tests, methods, functions ---- */

struct jinja_kwarg {
    struct jv name, value;
};

enum { JINJA_MAX_PARAMS = 6 };

struct jinja_args {
    struct jv self;                    /* what a filter, test or method is of */
    struct jv param[JINJA_MAX_PARAMS]; /* by the builtin's `params`; JV_MISSING if not given */
    const struct jv *pos;
    const struct jinja_kwarg *kw;
    uint32_t n_pos, n_kw;
};

typedef struct jv jinja_fn(struct jinja_run *r, const struct jinja_args *args);

struct jinja_builtin {
    const char *name;   /* names, separated by spaces */
    const char *params; /* separated by spaces; NULL: the function looks at pos and kw itself */
    jinja_fn *fn;
    uint8_t n_required;
};

extern const struct jinja_builtin jinja_filters_text[], jinja_filters_list[], jinja_tests[],
    jinja_functions[], jinja_string_methods[], jinja_dict_methods[], jinja_list_methods[],
    jinja_loop_methods[]; /* each ends with a NULL name */

/* Row of that name, or NULL. */
const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, struct jv name);
const struct jinja_builtin *jinja_filter_find(struct jv name);
/* Binds the arguments to the parameters and calls. */
struct jv jinja_builtin_call(struct jinja_run *r, const struct jinja_builtin *b,
                             struct jinja_args *args);

struct jinja_method { /* a method taken off its object: x.strip without the call */
    struct jv self;
    const struct jinja_builtin *builtin;
};
const struct jinja_builtin *jinja_method_find(struct jv self, struct jv name);

/* ---- jinja_exec.c ---- */

struct jinja_binding {
    struct jv name, value;
    struct jinja_binding *next;
};

/* Variables of a block; a name not here is looked for in the parent. */
struct jinja_scope {
    struct jinja_scope *parent;
    struct jinja_binding *first;
};

struct jinja_macro {
    const struct jnode *node; /* MACRO or CALL_BLOCK */
    struct jv name;
    const struct jnode *params;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    const struct jv_list *items;
    uint32_t at;
    struct jv changed; /* what loop.changed() saw last; JV_MISSING at first */
};

enum jinja_flow { JFLOW_NORMAL, JFLOW_BREAK, JFLOW_CONTINUE };
enum jinja_flow jinja_exec(struct jinja_run *r, struct jinja_scope *scope,
                           const struct jnode *first);
struct jinja_scope *jinja_scope_new(struct jinja_run *r, struct jinja_scope *parent);
void jinja_scope_set(struct jinja_run *r, struct jinja_scope *scope, struct jv name,
                     struct jv value);
struct jv jinja_scope_get(struct jinja_run *r, const struct jinja_scope *scope, struct jv name);

/* ---- jinja_eval.c ---- */

struct jv jinja_eval(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *n);
struct jv jinja_loop_attr(struct jinja_run *r, const struct jinja_loop *loop, struct jv name);

/* ---- jinja_ops.c ---- */

struct jv jinja_binary(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b);
bool jinja_relation(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b);
struct jv jinja_attr(struct jinja_run *r, struct jv v, struct jv name);  /* v.name */
struct jv jinja_item(struct jinja_run *r, struct jv v, struct jv index); /* v[index] */
struct jv jinja_slice(struct jinja_run *r, struct jv v, const struct jv bounds[3]);

/* ---- jinja_call.c ---- */

struct jv jinja_call(struct jinja_run *r, struct jv callee, struct jinja_args *args);
struct jv jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m,
                           const struct jinja_args *args);
/* Evaluates a list of arguments; n_extra: free places for more named ones. */
bool jinja_args_eval(struct jinja_run *r, struct jinja_scope *scope, const struct jnode *list,
                     uint32_t n_extra, struct jinja_args *out);
/* For builtins: a parameter of a kind, or what stands in for it. */
bool jarg_bool(struct jv v, bool otherwise);
bool jarg_int(struct jinja_run *r, struct jv v, const char *name, int64_t otherwise, int64_t *out);
bool jarg_str(struct jinja_run *r, struct jv v, const char *name, struct jv otherwise,
              struct jv *out);

#endif
