/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_filter_text.c - filters that make a string or a number of one value.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

enum { MAX_PADDING = 10000 };

/* ---- plain strings ---- */

static struct jv filter_string(struct jinja_run *r, const struct jinja_args *a)
{
    return jv_to_str(r, a->self);
}

static struct jv filter_safe(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = jv_to_str(r, a->self);
    s.flag = 1;
    return s;
}

static struct jv filter_escape(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = jv_to_str(r, a->self);
    if (s.flag)
        return s;
    size_t mark = r->out.len;
    jinja_put_escaped(r, s);
    s = jinja_take(r, mark);
    s.flag = 1;
    return s;
}

/* Filters that are the string's method of that name. */
static struct jv as_method(struct jinja_run *r, const char *name, struct jinja_args args)
{
    args.self = jv_to_str(r, args.self);
    return jinja_builtin_call(r, jinja_builtin_find(jinja_string_methods, jv_cstr(name)), &args);
}

static struct jv filter_lower(struct jinja_run *r, const struct jinja_args *a)
{
    return as_method(r, "lower", *a);
}

static struct jv filter_upper(struct jinja_run *r, const struct jinja_args *a)
{
    return as_method(r, "upper", *a);
}

static struct jv filter_capitalize(struct jinja_run *r, const struct jinja_args *a)
{
    return as_method(r, "capitalize", *a);
}

static struct jv filter_trim(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv pos[1] = { a->param[0] };
    struct jinja_args args = { .self = a->self, .pos = pos };
    args.n_pos = a->param[0].kind == JV_MISSING ? 0 : 1;
    return as_method(r, "strip", args);
}

static struct jv filter_center(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv pos[1] = { a->param[0].kind == JV_MISSING ? jv_int(80) : a->param[0] };
    return as_method(r, "center", (struct jinja_args){ .self = a->self, .pos = pos, .n_pos = 1 });
}

static struct jv filter_replace(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv pos[3] = { jv_to_str(r, a->param[0]), jv_to_str(r, a->param[1]), a->param[2] };
    struct jinja_args args = { .self = a->self, .pos = pos };
    args.n_pos = a->param[2].kind == JV_MISSING || a->param[2].kind == JV_NONE ? 2 : 3;
    return as_method(r, "replace", args);
}

/* Does a character begin a new word for the title filter? */
static bool parts_words(uint32_t code)
{
    return jchar_is_space(code) || (code < 0x80 && code != 0 && strchr("-({[<", (int)code));
}

static struct jv filter_title(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = jv_to_str(r, a->self);
    size_t mark = r->out.len;
    bool begin = true;
    for (uint32_t at = 0, width; at < s.len && jinja_charge(r, 1); at += width) {
        char out[UTF8_MAX];
        uint32_t code = jchar_read(s.as.text + at, s.len - at, &width);
        uint32_t cased = begin ? jchar_upper(r, code) : jchar_lower(r, code);
        jinja_put(r, out, jchar_write(out, cased));
        begin = parts_words(code);
    }
    return jinja_take(r, mark);
}

static struct jv filter_truncate(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = jv_to_str(r, a->self), end;
    int64_t length, leeway, n;
    if (!jarg_int(r, a->param[0], "length", 255, &length) ||
        !jarg_str(r, a->param[2], "end", jv_cstr("..."), &end) ||
        !jarg_int(r, a->param[3], "leeway", 5, &leeway) || !jv_length(r, s, &n))
        return s;
    if (length < (int64_t)jstr_count(end) || leeway < 0 || length > INT32_MAX || leeway > INT32_MAX)
        return jinja_fail(r, "truncate: a length or leeway that cannot be");
    if (n <= length + leeway)
        return s;
    struct jv kept = jstr_sub(s, 0, jstr_offset(s, (size_t)length - jstr_count(end)));
    const char *space = kept.len ? memrchr(kept.as.text, ' ', kept.len) : NULL;
    if (!jarg_bool(a->param[1], false) && space)
        kept = jstr_sub(kept, 0, (size_t)(space - kept.as.text));
    kept.flag = end.flag = 0;
    return jinja_concat(r, kept, end);
}

/* ---- lines ---- */

static void put_indent(struct jinja_run *r, struct jv width)
{
    if (width.kind == JV_STRING) {
        jinja_put_str(r, width);
        return;
    }
    for (int64_t i = 0; i < width.as.integer && !r->failed; i++)
        jinja_put(r, " ", 1);
}

static struct jv filter_indent(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = a->self, width = a->param[0].kind == JV_MISSING ? jv_int(4) : a->param[0], line;
    if (s.kind != JV_STRING)
        return jinja_fail(r, "indent needs a string, not '%s'", jv_type_name(s));
    if (width.kind != JV_STRING && (width.kind != JV_INT || width.as.integer > MAX_PADDING))
        return jinja_fail(r, "indent: the width must be a string or an integer up to %d",
                          MAX_PADDING);
    bool blank = jarg_bool(a->param[2], false);
    size_t mark = r->out.len, at = 0;
    if (jarg_bool(a->param[1], false))
        put_indent(r, width);
    for (bool first = true; jstr_next_line(s, &at, &line, NULL) && jinja_charge(r, 1);
         first = false) {
        if (!first)
            jinja_put(r, "\n", 1);
        if (!first && (blank || line.len > 0))
            put_indent(r, width);
        jinja_put_str(r, line);
    }
    /* Jinja adds a line end before it cuts: one at the end is one more line, which is empty. */
    if (s.len > 0 && at == s.len && jstr_ends_line(s)) {
        jinja_put(r, "\n", 1);
        if (blank)
            put_indent(r, width);
    }
    return jinja_take(r, mark);
}

/* ---- numbers ---- */

/* Python's float() and int() of a string: white space around is fine, anything else behind is not. */
static bool read_real(struct jv s, double *out)
{
    char text[64], *end;
    struct jv t = jstr_strip(s, NULL, JSTR_BOTH);
    if (t.len == 0 || t.len >= sizeof text)
        return false;
    memcpy(text, t.as.text, t.len);
    text[t.len] = 0;
    if (strpbrk(text, "xXpP(") != NULL)
        return false;
    *out = strtod(text, &end);
    return *end == 0 && strlen(text) == t.len;
}

static bool read_integer(struct jv s, int base, int64_t *out)
{
    char text[80], *end;
    struct jv t = jstr_strip(s, NULL, JSTR_BOTH);
    if (t.len == 0 || t.len > 18)
        return false;
    memcpy(text, t.as.text, t.len);
    text[t.len] = 0;
    *out = strtoll(text, &end, base);
    return *end == 0 && strlen(text) == t.len;
}

static bool real_to_int(double f, int64_t *out)
{
    if (!(f > -9.2e18 && f < 9.2e18))
        return false;
    *out = (int64_t)f;
    return true;
}

static struct jv filter_int(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv v = a->self, otherwise = a->param[0].kind == JV_MISSING ? jv_int(0) : a->param[0];
    int64_t base, i;
    double f;
    if (v.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, v);
    if (!jarg_int(r, a->param[1], "base", 10, &base))
        return v;
    if (base < 2 || base > 36)
        return jinja_fail(r, "int: the base must be 2 to 36");
    if (v.kind == JV_INT || v.kind == JV_BOOL)
        return jv_int(jv_integer(v));
    if (v.kind == JV_FLOAT)
        return real_to_int(v.as.real, &i) ? jv_int(i) : otherwise;
    if (v.kind == JV_STRING && read_integer(v, (int)base, &i))
        return jv_int(i);
    if (v.kind == JV_STRING && read_real(v, &f) && real_to_int(f, &i))
        return jv_int(i);
    return otherwise;
}

static struct jv filter_float(struct jinja_run *r, const struct jinja_args *a)
{
    double f;
    if (a->self.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, a->self);
    if (jv_is_number(a->self))
        return jv_float(jv_real(a->self));
    if (a->self.kind == JV_STRING && read_real(a->self, &f))
        return jv_float(f);
    return a->param[0].kind == JV_MISSING ? jv_float(0) : a->param[0];
}

static struct jv filter_abs(struct jinja_run *r, const struct jinja_args *a)
{
    if (a->self.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, a->self);
    if (!jv_is_number(a->self))
        return jinja_fail(r, "abs needs a number, not '%s'", jv_type_name(a->self));
    if (a->self.kind == JV_FLOAT)
        return jv_float(fabs(a->self.as.real));
    int64_t i = jv_integer(a->self);
    return i < 0 ? jinja_binary(r, JOP_SUB, jv_int(0), jv_int(i)) : jv_int(i);
}

static struct jv filter_round(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv method;
    int64_t precision;
    char text[400];
    if (a->self.kind == JV_UNDEFINED)
        return jinja_fail_undefined(r, a->self);
    if (!jv_is_number(a->self))
        return jinja_fail(r, "round needs a number, not '%s'", jv_type_name(a->self));
    if (!jarg_int(r, a->param[0], "precision", 0, &precision) ||
        !jarg_str(r, a->param[1], "method", jv_cstr("common"), &method))
        return jv_none();
    if (precision < 0 || precision > 15)
        return jinja_fail(r, "round: the precision must be 0 to 15");
    double f = jv_real(a->self), scale = pow(10, (double)precision);
    if (jv_str_is(method, "ceil"))
        return jv_float(ceil(f * scale) / scale);
    if (jv_str_is(method, "floor"))
        return jv_float(floor(f * scale) / scale);
    if (!jv_str_is(method, "common"))
        return jinja_fail(r, "round: method must be common, ceil or floor");
    if (a->self.kind != JV_FLOAT)
        return jv_int(jv_integer(a->self));
    snprintf(text, sizeof text, "%.*f", (int)precision, f); /* rounds the exact value, as Python */
    return jv_float(strtod(text, NULL));
}

/* ---- JSON ---- */

static struct jv filter_tojson(struct jinja_run *r, const struct jinja_args *a)
{
    bool indented = a->param[1].kind != JV_MISSING && a->param[1].kind != JV_NONE;
    struct json_style style = { .indent = indented ? a->param[1] : jv_none(),
                                .item_separator = jv_cstr(indented ? "," : ", "),
                                .key_separator = jv_cstr(": "),
                                .ascii = jarg_bool(a->param[0], false),
                                .sorted = jarg_bool(a->param[3], false) };
    if (indented && style.indent.kind != JV_STRING &&
        (style.indent.kind != JV_INT || style.indent.as.integer > 1000))
        return jinja_fail(r, "tojson: indent must be a string or an integer up to 1000");
    struct jv separators = a->param[2];
    if (separators.kind == JV_LIST || separators.kind == JV_TUPLE) {
        const struct jv_list *l = separators.as.list;
        if (l->n != 2 || l->items[0].kind != JV_STRING || l->items[1].kind != JV_STRING)
            return jinja_fail(r, "tojson: separators must be two strings");
        style.item_separator = l->items[0];
        style.key_separator = l->items[1];
    }
    size_t mark = r->out.len;
    jinja_put_json(r, a->self, &style);
    return jinja_take(r, mark);
}

const struct jinja_builtin jinja_filters_text[] = {
    { "string", "", filter_string, 0 },
    { "safe", "", filter_safe, 0 },
    { "escape e", "", filter_escape, 0 },
    { "lower", "", filter_lower, 0 },
    { "upper", "", filter_upper, 0 },
    { "capitalize", "", filter_capitalize, 0 },
    { "title", "", filter_title, 0 },
    { "trim", "chars", filter_trim, 0 },
    { "center", "width", filter_center, 0 },
    { "replace", "old new count", filter_replace, 2 },
    { "truncate", "length killwords end leeway", filter_truncate, 0 },
    { "indent", "width first blank", filter_indent, 0 },
    { "int", "default base", filter_int, 0 },
    { "float", "default", filter_float, 0 },
    { "abs", "", filter_abs, 0 },
    { "round", "precision method", filter_round, 0 },
    { "tojson", "ensure_ascii indent separators sort_keys", filter_tojson, 0 },
    { NULL, NULL, NULL, 0 },
};
