/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja.h - the part of Jinja that chat templates are written in: compile once, render often.
 *
 * The measure is Jinja2 as the transformers library sets it up: sandboxed and immutable, trim_blocks
 * and lstrip_blocks on, loop controls, {% generation %}, tojson without HTML escapes, raise_exception
 * and strftime_now.  What is not there (inheritance, includes, recursive loops, a filter nobody uses
 * in chats) is refused by name and line, never skipped.
 *
 *   text -> jinja_lex.c tokens -> jinja_parse.c, jinja_parse_expr.c tree, kept in one arena
 *   tree -> jinja_exec.c statements, jinja_eval.c expressions -> one growing output
 *           jinja_ops.c operators, jinja_call.c macros and arguments, jinja_filter*.c, jinja_test.c,
 *           jinja_method.c, jinja_function.c what templates may call
 *   values  jinja_value.c, jinja_print.c as Python prints them, jinja_json.c from and to JSON
 *
 * A compiled template is read-only: any thread may render it, each with a struct jinja_run of its
 * own.  Both the template and what it is given may be hostile: memory, output, work and nesting of a
 * run are bounded, and whatever goes wrong is a sentence with the template's line.
 */
#ifndef LACUNA_ENGINE_JINJA_H
#define LACUNA_ENGINE_JINJA_H

#include "engine/text/jinja_value.h"

struct jinja_template;

/* The longest known template of a model has about 30 KB. */
enum { JINJA_MAX_TEMPLATE = 512 * 1024 };

/* Copies text.  What cannot be compiled is ENGINE_ERR_UNSUPPORTED. */
int jinja_template_open(struct jinja_template **out, const char *text, size_t len,
                        struct engine_err *err);
void jinja_template_close(struct jinja_template *t); /* NULL is fine */

struct jinja_limits {
    size_t memory;  /* bytes of values; the text written may take as many again */
    uint64_t steps; /* about one per operation, item or 32 bytes looked at */
    uint32_t depth; /* of expressions, blocks, calls and values within each other */
};

/* A fresh run in the caller's memory.  err gets the first thing that goes wrong. */
void jinja_run_init(struct jinja_run *r, const struct jinja_limits *limits, struct engine_err *err);
void jinja_run_fini(struct jinja_run *r);

/* JSON text (of objects, arrays, ...) as a value; strings may point into text.  Undefined, and the
 * run failed, if it is no JSON: `what` is its name in the message. */
struct jv jinja_json_read(struct jinja_run *r, const char *text, size_t len, const char *what);

/* Appends the text to r->out.  0, or -1: r->err says why. */
int jinja_render(struct jinja_run *r, const struct jinja_template *t, struct jv_dict *variables);

#endif
