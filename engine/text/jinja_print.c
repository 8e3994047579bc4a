/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_print.c - values as Python's str() and repr() print them.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

static void put_cstr(struct jinja_run *r, const char *text)
{
    jinja_put(r, text, strlen(text));
}

/* The fewest digits that give the same number back; plain between 1e-4 and 1e16. */
void jinja_put_float(struct jinja_run *r, double f)
{
    char text[40];
    if (isnan(f) || isinf(f)) {
        put_cstr(r, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    int precision = 0;
    do {
        snprintf(text, sizeof text, "%.*e", precision, f);
    } while (precision++ < 17 && strtod(text, NULL) != f);
    int digits = precision - 1, exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = digits - exponent;
        snprintf(text, sizeof text, "%.*f", decimals > 1 ? decimals : 1, f);
    }
    put_cstr(r, text);
}

static const char *quote_escape(char c)
{
    switch (c) {
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\\':
        return "\\\\";
    default:
        return NULL;
    }
}

static void put_quoted(struct jinja_run *r, struct jv s)
{
    bool has_single = s.len > 0 && memchr(s.as.text, '\'', s.len) != NULL;
    bool has_double = s.len > 0 && memchr(s.as.text, '"', s.len) != NULL;
    char quote = has_single && !has_double ? '"' : '\'', escaped[12];
    jinja_put(r, &quote, 1);
    for (uint32_t at = 0, width; at < s.len && jinja_charge(r, 1); at += width) {
        const char *p = s.as.text + at, *named = quote_escape(*p);
        uint32_t code = jchar_read(p, s.len - at, &width);
        if (named) {
            put_cstr(r, named);
        } else if (*p == quote) {
            jinja_put(r, "\\", 1);
            jinja_put(r, p, 1);
        } else if (jchar_is_printable(r, p, width)) {
            jinja_put(r, p, width);
        } else {
            const char *format = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
            snprintf(escaped, sizeof escaped, format, code);
            put_cstr(r, escaped);
        }
    }
    jinja_put(r, &quote, 1);
}

static void put_items(struct jinja_run *r, const struct jv_list *l)
{
    for (uint32_t i = 0; i < l->n && !r->failed; i++) {
        if (i > 0)
            put_cstr(r, ", ");
        jinja_put_repr(r, l->items[i]);
    }
}

static void put_dict(struct jinja_run *r, const struct jv_dict *d)
{
    put_cstr(r, "{");
    for (uint32_t i = 0; i < d->n && !r->failed; i++) {
        if (i > 0)
            put_cstr(r, ", ");
        jinja_put_repr(r, d->pairs[i].key);
        put_cstr(r, ": ");
        jinja_put_repr(r, d->pairs[i].value);
    }
    put_cstr(r, "}");
}

static void put_list(struct jinja_run *r, struct jv v)
{
    static const char *const views[] = { "dict_keys([", "dict_values([", "dict_items([" };
    const struct jv_list *l = v.as.list;
    if (v.kind == JV_VIEW)
        put_cstr(r, views[v.flag]);
    else
        put_cstr(r, v.kind == JV_TUPLE ? "(" : "[");
    put_items(r, l);
    if (v.kind == JV_VIEW)
        put_cstr(r, "])");
    else
        put_cstr(r, v.kind == JV_LIST ? "]" : l->n == 1 ? ",)" : ")");
}

static void put_range(struct jinja_run *r, const struct jv_range *range)
{
    char text[80];
    int64_t stop = range->start + (int64_t)range->n * range->step;
    if (range->step == 1)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", range->start, stop);
    else
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start,
                 stop, range->step);
    put_cstr(r, text);
}

static void put_object(struct jinja_run *r, struct jv v)
{
    put_cstr(r, "<");
    put_cstr(r, jv_type_name(v));
    if (v.kind == JV_MACRO) {
        put_cstr(r, " ");
        put_quoted(r, v.as.macro->name);
    } else {
        put_cstr(r, " object");
    }
    put_cstr(r, ">");
}

void jinja_put_repr(struct jinja_run *r, struct jv v)
{
    char number[24];
    if (!jinja_enter(r))
        return;
    switch (v.kind) {
    case JV_UNDEFINED:
    case JV_MISSING:
        put_cstr(r, "Undefined");
        break;
    case JV_NONE:
        put_cstr(r, "None");
        break;
    case JV_BOOL:
        put_cstr(r, v.as.truth ? "True" : "False");
        break;
    case JV_INT:
        snprintf(number, sizeof number, "%" PRId64, v.as.integer);
        put_cstr(r, number);
        break;
    case JV_FLOAT:
        jinja_put_float(r, v.as.real);
        break;
    case JV_STRING:
        put_quoted(r, v);
        break;
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW:
        put_list(r, v);
        break;
    case JV_DICT:
        put_dict(r, v.as.dict);
        break;
    case JV_RANGE:
        put_range(r, v.as.range);
        break;
    case JV_NAMESPACE:
        put_cstr(r, "<Namespace ");
        put_dict(r, v.as.dict);
        put_cstr(r, ">");
        break;
    default:
        put_object(r, v);
        break;
    }
    jinja_leave(r);
}

void jinja_put_value(struct jinja_run *r, struct jv v)
{
    if (v.kind == JV_STRING)
        jinja_put_str(r, v);
    else if (v.kind != JV_UNDEFINED && v.kind != JV_MISSING)
        jinja_put_repr(r, v);
}

void jinja_put_escaped(struct jinja_run *r, struct jv s)
{
    uint32_t plain = 0;
    for (uint32_t i = 0; i < s.len && !r->failed; i++) {
        const char *entity = s.as.text[i] == '&'    ? "&amp;"
                             : s.as.text[i] == '<'  ? "&lt;"
                             : s.as.text[i] == '>'  ? "&gt;"
                             : s.as.text[i] == '"'  ? "&#34;"
                             : s.as.text[i] == '\'' ? "&#39;"
                                                    : NULL;
        if (!entity)
            continue;
        jinja_put(r, s.as.text + plain, i - plain);
        put_cstr(r, entity);
        plain = i + 1;
    }
    jinja_put(r, s.as.text + plain, s.len - plain);
}

struct jv jv_to_str(struct jinja_run *r, struct jv v)
{
    if (v.kind == JV_STRING)
        return v;
    size_t mark = r->out.len;
    jinja_put_value(r, v);
    return jinja_take(r, mark);
}
