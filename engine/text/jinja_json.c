/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_json.c - JSON text as values, and values as JSON text.
 *
 * Reading is for text that has been validated before: it accepts a little more than JSON (numbers
 * are what strtod takes), but no text makes it read beyond its end.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

/* ---- reading ---- */

struct reader {
    struct jinja_run *r;
    const char *text, *what;
    size_t len, at;
};

static struct jv read_value(struct reader *in);

static struct jv refuse(struct reader *in, const char *why)
{
    return jinja_fail(in->r, "%s: %s at byte %zu", in->what, why, in->at);
}

static int peek(struct reader *in)
{
    while (in->at < in->len && memchr(" \t\r\n", in->text[in->at], 4))
        in->at++;
    return in->at < in->len ? (uint8_t)in->text[in->at] : -1;
}

static bool skip(struct reader *in, char c)
{
    if (peek(in) != c)
        return false;
    in->at++;
    return true;
}

static bool word(struct reader *in, const char *text)
{
    size_t n = strlen(text);
    if (in->len - in->at < n || memcmp(in->text + in->at, text, n) != 0)
        return false;
    in->at += n;
    return true;
}

static struct jv read_number(struct reader *in)
{
    char text[400], *end;
    size_t n = 0;
    bool real = false;
    while (in->at + n < in->len && n + 1 < sizeof text &&
           memchr("+-.0123456789eE", in->text[in->at + n], 15)) {
        text[n] = in->text[in->at + n];
        real |= text[n] == '.' || text[n] == 'e' || text[n] == 'E';
        n++;
    }
    text[n] = 0;
    if (n == 0)
        return refuse(in, "no value");
    errno = 0;
    struct jv v = real ? jv_float(strtod(text, &end)) : jv_int(strtoll(text, &end, 10));
    if (!real && errno == ERANGE)
        return refuse(in, "an integer beyond 64 bits");
    if (*end)
        return refuse(in, "no number");
    in->at += n;
    return v;
}

/* Four hexadecimal digits at `at`, or UINT32_MAX. */
static uint32_t read_hex(const struct reader *in, size_t at)
{
    uint32_t code = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = i < in->len ? in->text[i] : 0;
        if (c >= '0' && c <= '9')
            code = code << 4 | (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            code = code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return UINT32_MAX;
    }
    return code;
}

/* \uXXXX, or two of them for what is beyond U+FFFF, from the u on. */
static bool read_unicode(struct reader *in)
{
    char out[UTF8_MAX];
    uint32_t code = read_hex(in, in->at + 1);
    in->at += 5;
    if (code >= 0xD800 && code < 0xDC00 && in->len - in->at >= 6 && in->text[in->at] == '\\' &&
        in->text[in->at + 1] == 'u') {
        uint32_t low = read_hex(in, in->at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            in->at += 6;
        }
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return false;
    jinja_put(in->r, out, jchar_write(out, code));
    return true;
}

static bool read_escape(struct reader *in)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (in->at >= in->len)
        return false;
    if (in->text[in->at] == 'u')
        return in->len - in->at >= 5 && read_unicode(in);
    const char *known = memchr(from, in->text[in->at], sizeof from - 1);
    if (!known)
        return false;
    jinja_put(in->r, to + (known - from), 1);
    in->at++;
    return true;
}

/* Without escapes, the string is where it was. */
static struct jv read_string(struct reader *in)
{
    size_t begin = ++in->at, plain = begin, mark = in->r->out.len;
    while (in->at < in->len && in->text[in->at] != '"' && !in->r->failed) {
        if (in->text[in->at] != '\\') {
            in->at++;
            continue;
        }
        jinja_put(in->r, in->text + plain, in->at - plain);
        in->at++;
        if (!read_escape(in))
            return refuse(in, "a bad escape");
        plain = in->at;
    }
    if (in->at >= in->len)
        return refuse(in, "a string without end");
    if (in->at - begin > UINT32_MAX)
        return refuse(in, "a string of more than 4 GiB");
    size_t end = in->at++;
    if (plain == begin)
        return jv_str(in->text + begin, end - begin);
    jinja_put(in->r, in->text + plain, end - plain);
    return jinja_take(in->r, mark);
}

static struct jv read_array(struct reader *in)
{
    struct jv list = jv_list_new(in->r, JV_LIST, 0);
    in->at++;
    if (skip(in, ']'))
        return list;
    do {
        jv_list_push(in->r, list, read_value(in));
    } while (!in->r->failed && skip(in, ','));
    return in->r->failed || skip(in, ']') ? list : refuse(in, "',' or ']' expected");
}

static struct jv read_object(struct reader *in)
{
    struct jv dict = jv_dict_new(in->r);
    in->at++;
    if (skip(in, '}'))
        return dict;
    do {
        if (peek(in) != '"')
            return refuse(in, "a key expected");
        struct jv key = read_string(in);
        if (!in->r->failed && !skip(in, ':'))
            return refuse(in, "':' expected");
        struct jv value = read_value(in);
        if (!in->r->failed)
            jv_dict_set(in->r, dict.as.dict, key, value);
    } while (!in->r->failed && skip(in, ','));
    return in->r->failed || skip(in, '}') ? dict : refuse(in, "',' or '}' expected");
}

static struct jv read_value(struct reader *in)
{
    struct jv v = jv_none();
    if (!jinja_enter(in->r))
        return v;
    int c = peek(in);
    if (c == '{')
        v = read_object(in);
    else if (c == '[')
        v = read_array(in);
    else if (c == '"')
        v = read_string(in);
    else if (word(in, "true"))
        v = jv_bool(true);
    else if (word(in, "false"))
        v = jv_bool(false);
    else if (!word(in, "null"))
        v = read_number(in);
    jinja_leave(in->r);
    return v;
}

struct jv jinja_json_read(struct jinja_run *r, const char *text, size_t len, const char *what)
{
    struct reader in = { .r = r, .text = text, .what = what, .len = len };
    size_t valid = utf8_valid_run(text, len);
    if (valid < len)
        return jinja_fail(r, "%s: byte %zu is not UTF-8", what, valid);
    struct jv v = read_value(&in);
    if (!r->failed && peek(&in) >= 0)
        return refuse(&in, "something behind the end");
    return v;
}

/* ---- writing ---- */

static void put_cstr(struct jinja_run *r, const char *text)
{
    jinja_put(r, text, strlen(text));
}

static void put_code(struct jinja_run *r, uint32_t code)
{
    char text[16];
    if (code < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", code);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                 0xDC00 + ((code - 0x10000) & 0x3FF));
    put_cstr(r, text);
}

static void put_string(struct jinja_run *r, struct jv s, bool ascii)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    uint32_t plain = 0, width;
    put_cstr(r, "\"");
    for (uint32_t at = 0; at < s.len && !r->failed; at += width) {
        char escape[2] = { '\\', 0 };
        uint32_t code = jchar_read(s.as.text + at, s.len - at, &width);
        const char *known = code < 0x80 && code ? strchr(from, (int)code) : NULL;
        if (!known && code >= 0x20 && (!ascii || code < 0x80))
            continue;
        jinja_put(r, s.as.text + plain, at - plain);
        plain = at + width;
        if (known) {
            escape[1] = to[known - from];
            jinja_put(r, escape, 2);
        } else {
            put_code(r, code);
        }
    }
    jinja_put(r, s.as.text + plain, s.len - plain);
    put_cstr(r, "\"");
}

static void put_line(struct jinja_run *r, const struct json_style *style, uint32_t depth)
{
    if (style->indent.kind == JV_NONE)
        return;
    put_cstr(r, "\n");
    for (uint32_t i = 0; i < depth && !r->failed; i++) {
        if (style->indent.kind == JV_STRING)
            jinja_put_str(r, style->indent);
        for (int64_t n = 0; style->indent.kind == JV_INT && n < style->indent.as.integer; n++)
            put_cstr(r, " ");
    }
}

static void put_json(struct jinja_run *r, struct jv v, const struct json_style *style,
                     uint32_t depth);

static void put_array(struct jinja_run *r, const struct jv_list *l, const struct json_style *style,
                      uint32_t depth)
{
    put_cstr(r, "[");
    for (uint32_t i = 0; i < l->n && !r->failed; i++) {
        if (i > 0)
            jinja_put_str(r, style->item_separator);
        put_line(r, style, depth + 1);
        put_json(r, l->items[i], style, depth + 1);
    }
    if (l->n > 0)
        put_line(r, style, depth);
    put_cstr(r, "]");
}

static void put_key(struct jinja_run *r, struct jv key, const struct json_style *style)
{
    if (key.kind == JV_STRING) {
        put_string(r, key, style->ascii);
        return;
    }
    put_cstr(r, "\"");
    put_json(r, key, style, 0);
    put_cstr(r, "\"");
}

/* The pairs in order of their keys. */
static const struct jv_pair *sorted_pairs(struct jinja_run *r, const struct jv_dict *d)
{
    struct jv_pair *pairs = jinja_alloc(r, d->n, sizeof(*pairs));
    struct jv case_sensitive = jv_bool(true);
    struct jinja_args args = { .self = { .kind = JV_DICT, .as.dict = (struct jv_dict *)d },
                               .pos = &case_sensitive,
                               .n_pos = 1 };
    struct jv by_key = jinja_builtin_call(r, jinja_filter_find(jv_cstr("dictsort")), &args);
    for (uint32_t i = 0; !r->failed && i < d->n; i++) {
        const struct jv_list *pair = by_key.as.list->items[i].as.list;
        pairs[i] = (struct jv_pair){ pair->items[0], pair->items[1] };
    }
    return pairs;
}

static void put_object(struct jinja_run *r, const struct jv_dict *d, const struct json_style *style,
                       uint32_t depth)
{
    const struct jv_pair *pairs = style->sorted ? sorted_pairs(r, d) : d->pairs;
    put_cstr(r, "{");
    for (uint32_t i = 0; i < d->n && !r->failed; i++) {
        if (i > 0)
            jinja_put_str(r, style->item_separator);
        put_line(r, style, depth + 1);
        put_key(r, pairs[i].key, style);
        jinja_put_str(r, style->key_separator);
        put_json(r, pairs[i].value, style, depth + 1);
    }
    if (d->n > 0)
        put_line(r, style, depth);
    put_cstr(r, "}");
}

static void put_real(struct jinja_run *r, double f)
{
    if (isnan(f) || isinf(f))
        put_cstr(r, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
    else
        jinja_put_float(r, f);
}

static void put_json(struct jinja_run *r, struct jv v, const struct json_style *style,
                     uint32_t depth)
{
    if (!jinja_enter(r))
        return;
    switch (v.kind) {
    case JV_NONE:
        put_cstr(r, "null");
        break;
    case JV_BOOL:
        put_cstr(r, v.as.truth ? "true" : "false");
        break;
    case JV_INT:
        jinja_put_repr(r, v);
        break;
    case JV_FLOAT:
        put_real(r, v.as.real);
        break;
    case JV_STRING:
        put_string(r, v, style->ascii);
        break;
    case JV_LIST:
    case JV_TUPLE:
        put_array(r, v.as.list, style, depth);
        break;
    case JV_DICT:
        put_object(r, v.as.dict, style, depth);
        break;
    case JV_UNDEFINED:
        jinja_fail(r, "tojson: '%.*s' is undefined", (int)(v.len < 100 ? v.len : 100), v.as.text);
        break;
    default:
        jinja_fail(r, "tojson: '%s' has no JSON", jv_type_name(v));
        break;
    }
    jinja_leave(r);
}

void jinja_put_json(struct jinja_run *r, struct jv v, const struct json_style *style)
{
    put_json(r, v, style, 0);
}
