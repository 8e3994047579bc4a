/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_run.c - one rendering: its limits, its errors and the text it writes.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

/* A step is also this many bytes looked at or written. */
enum { BYTES_PER_STEP = 32 };

void jinja_run_init(struct jinja_run *r, const struct jinja_limits *limits, struct engine_err *err)
{
    *r = (struct jinja_run){ .arena = { .limit = limits->memory },
                             .max_steps = limits->steps,
                             .max_depth = limits->depth,
                             .out = { .limit = limits->memory },
                             .err = err };
}

void jinja_run_fini(struct jinja_run *r)
{
    jinja_chars_fini(r);
    jinja_arena_fini(&r->arena);
    free(r->out.data);
    r->out.data = NULL;
}

/* The sentence may hold text of the template or of a message: cut it between characters. */
static struct jv fail(struct jinja_run *r, enum engine_err_code code, const char *fmt, va_list ap)
{
    char text[400];
    if (!r->failed) {
        vsnprintf(text, sizeof text, fmt, ap);
        int n = (int)utf8_valid_run(text, strlen(text));
        if (r->line)
            engine_fail(r->err, code, "chat template, line %u: %.*s", r->line, n, text);
        else
            engine_fail(r->err, code, "chat template: %.*s", n, text);
    }
    r->failed = true;
    return (struct jv){ 0 };
}

struct jv jinja_fail(struct jinja_run *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    struct jv v = fail(r, ENGINE_ERR_INPUT, fmt, ap);
    va_end(ap);
    return v;
}

struct jv jinja_fail_code(struct jinja_run *r, enum engine_err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    struct jv v = fail(r, code, fmt, ap);
    va_end(ap);
    return v;
}

bool jinja_charge(struct jinja_run *r, uint64_t n)
{
    if (r->failed)
        return false;
    if (n > r->max_steps - r->steps) {
        jinja_fail(r, "more than %llu steps of work", (unsigned long long)r->max_steps);
        return false;
    }
    r->steps += n;
    return true;
}

bool jinja_charge_bytes(struct jinja_run *r, size_t n)
{
    return jinja_charge(r, n / BYTES_PER_STEP);
}

bool jinja_enter(struct jinja_run *r)
{
    if (!jinja_charge(r, 1))
        return false;
    if (r->depth >= r->max_depth) {
        jinja_fail(r, "nested deeper than %u levels", r->max_depth);
        return false;
    }
    r->depth++;
    return true;
}

void jinja_leave(struct jinja_run *r)
{
    r->depth--;
}

void *jinja_alloc(struct jinja_run *r, size_t n, size_t size)
{
    size_t bytes;
    if (r->failed)
        return NULL;
    void *p = __builtin_mul_overflow(n, size, &bytes) ? NULL : jinja_arena_alloc(&r->arena, bytes);
    if (!p)
        jinja_fail(r, "more than %zu bytes of values", r->arena.limit);
    return p;
}

/* ---- the text ---- */

static bool out_reserve(struct jinja_run *r, size_t n)
{
    struct jinja_out *o = &r->out;
    if (n <= o->cap - o->len)
        return true;
    if (n > o->limit - o->len) {
        jinja_fail(r, "more than %zu bytes of text", o->limit);
        return false;
    }
    size_t cap = o->cap ? o->cap : 4096;
    while (cap < o->len + n)
        cap *= 2;
    char *data = realloc(o->data, cap);
    if (!data) {
        jinja_fail_code(r, ENGINE_ERR_MEMORY, "no memory for %zu bytes of text", cap);
        return false;
    }
    o->data = data;
    o->cap = cap;
    return true;
}

void jinja_put(struct jinja_run *r, const char *data, size_t len)
{
    if (len == 0 || !jinja_charge_bytes(r, len) || !out_reserve(r, len))
        return;
    memcpy(r->out.data + r->out.len, data, len);
    r->out.len += len;
}

void jinja_put_str(struct jinja_run *r, struct jv s)
{
    jinja_put(r, s.as.text, s.len);
}

struct jv jinja_take(struct jinja_run *r, size_t mark)
{
    if (r->failed)
        return jv_cstr("");
    struct jv s = jv_copy(r, r->out.data + mark, r->out.len - mark);
    r->out.len = mark;
    return s;
}

struct jv jinja_fail_undefined(struct jinja_run *r, struct jv u)
{
    int n = u.len < 100 ? (int)u.len : 100;
    if (u.flag == JV_UNDEFINED)
        return jinja_fail(r, "'%.*s' is undefined", n, u.as.text);
    return jinja_fail(r, "'%s' object has no attribute or item '%.*s'",
                      jv_type_name((struct jv){ .kind = u.flag }), n, u.as.text);
}
