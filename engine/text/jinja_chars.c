/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_chars.c - strings as templates see them: characters, though they are kept as UTF-8.
 *
 * Letters beyond ASCII change case one to one, by the C library's tables; the few that Python turns
 * into several (the German sharp s in upper case) stay as they are.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>
#include <wctype.h>

#include "engine/text/jinja_value.h"

uint32_t jchar_read(const char *p, size_t len, uint32_t *width)
{
    const uint8_t *b = (const uint8_t *)p;
    *width = b[0] < 0x80 ? 1 : utf8_width(p, len);
    switch (*width) {
    case 1:
        return b[0];
    case 2:
        return (b[0] & 0x1Fu) << 6 | (b[1] & 0x3Fu);
    case 3:
        return (b[0] & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu);
    case 4:
        return (b[0] & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu);
    default: /* not UTF-8: one byte that stands for itself */
        *width = 1;
        return b[0];
    }
}

uint32_t jchar_write(char dst[UTF8_MAX], uint32_t code)
{
    if (code < 0x800)
        return utf8_put(dst, code);
    uint32_t n = code < 0x10000 ? 3 : 4;
    dst[0] = (char)(n == 3 ? 0xE0 | code >> 12 : 0xF0 | code >> 18);
    for (uint32_t i = 1; i < n; i++)
        dst[i] = (char)(0x80 | (code >> 6 * (n - 1 - i) & 0x3F));
    return n;
}

/* What Python's str.isspace and the \s of its expressions take for white space. */
bool jchar_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* ---- what the C library knows ---- */

static bool have_locale(struct jinja_run *r)
{
    if (r->locale == (locale_t)0)
        r->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (r->locale == (locale_t)0)
        jinja_fail_code(r, ENGINE_ERR_INTERNAL, "the locale C.UTF-8 is not there");
    return r->locale != (locale_t)0;
}

uint32_t jchar_lower(struct jinja_run *r, uint32_t c)
{
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return have_locale(r) ? (uint32_t)towlower_l((wint_t)c, r->locale) : c;
}

uint32_t jchar_upper(struct jinja_run *r, uint32_t c)
{
    if (c < 0x80)
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    return have_locale(r) ? (uint32_t)towupper_l((wint_t)c, r->locale) : c;
}

bool jchar_is_alpha(struct jinja_run *r, uint32_t c)
{
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return have_locale(r) && iswalpha_l((wint_t)c, r->locale);
}

/* ---- what PCRE2 knows ---- */

struct pcre2_tools {
    pcre2_code *unprintable;
    pcre2_match_data *match;
};

static bool have_pcre2(struct jinja_run *r)
{
    int error;
    PCRE2_SIZE at;
    if (r->pcre2)
        return true;
    struct pcre2_tools *t = jinja_alloc(r, 1, sizeof(*t));
    if (!t)
        return false;
    r->pcre2 = t;
    t->unprintable = pcre2_compile((PCRE2_SPTR) "[\\p{C}\\p{Z}]", PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, NULL);
    t->match = pcre2_match_data_create(1, NULL);
    if (!t->unprintable || !t->match)
        jinja_fail_code(r, ENGINE_ERR_MEMORY, "no memory to look at characters");
    return !r->failed;
}

bool jchar_is_printable(struct jinja_run *r, const char *p, uint32_t width)
{
    if (width == 1)
        return (uint8_t)p[0] >= 0x20 && (uint8_t)p[0] < 0x7F;
    return have_pcre2(r) && pcre2_match(r->pcre2->unprintable, (PCRE2_SPTR)p, width, 0, 0,
                                        r->pcre2->match, NULL) < 0;
}

void jinja_chars_fini(struct jinja_run *r)
{
    if (r->locale != (locale_t)0)
        freelocale(r->locale);
    if (r->pcre2) {
        pcre2_code_free(r->pcre2->unprintable);
        pcre2_match_data_free(r->pcre2->match);
    }
    r->locale = (locale_t)0;
    r->pcre2 = NULL;
}

/* ---- strings ---- */

size_t jstr_count(struct jv s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s.len; i++)
        n += ((uint8_t)s.as.text[i] & 0xC0) != 0x80;
    return n;
}

size_t jstr_offset(struct jv s, size_t index)
{
    uint32_t at = 0;
    while (at < s.len) {
        if (((uint8_t)s.as.text[at] & 0xC0) != 0x80 && index-- == 0)
            break;
        at++;
    }
    return at;
}

struct jv jstr_sub(struct jv s, size_t from, size_t to)
{
    return jv_str(s.as.text + from, to > from ? to - from : 0);
}

static bool to_strip(const char *p, uint32_t width, const struct jv *chars)
{
    uint32_t w;
    if (!chars)
        return jchar_is_space(jchar_read(p, width, &w));
    return jstr_find(*chars, jv_str(p, width), 0) != SIZE_MAX;
}

static uint32_t last_width(const char *p, uint32_t len)
{
    uint32_t width = 1;
    while (width < UTF8_MAX && width < len && ((uint8_t)p[len - width] & 0xC0) == 0x80)
        width++;
    return width;
}

struct jv jstr_strip(struct jv s, const struct jv *chars, enum jstr_sides sides)
{
    uint32_t from = 0, to = s.len, width;
    while ((sides & JSTR_LEFT) && from < to) {
        jchar_read(s.as.text + from, to - from, &width);
        if (!to_strip(s.as.text + from, width, chars))
            break;
        from += width;
    }
    while ((sides & JSTR_RIGHT) && from < to) {
        width = last_width(s.as.text + from, to - from);
        if (!to_strip(s.as.text + to - width, width, chars))
            break;
        to -= width;
    }
    return jstr_sub(s, from, to);
}

size_t jstr_find(struct jv s, struct jv needle, size_t from)
{
    if (from > s.len)
        return SIZE_MAX;
    if (needle.len == 0)
        return from;
    const char *p = memmem(s.as.text + from, s.len - from, needle.as.text, needle.len);
    return p ? (size_t)(p - s.as.text) : SIZE_MAX;
}

size_t jstr_rfind(struct jinja_run *r, struct jv s, struct jv needle)
{
    if (needle.len > s.len)
        return SIZE_MAX;
    jinja_charge_bytes(r, s.len);
    for (size_t at = s.len - needle.len + 1; at-- > 0 && !r->failed;) {
        if (needle.len == 0)
            return at;
        if (s.as.text[at] == needle.as.text[0] && jinja_charge_bytes(r, needle.len) &&
            memcmp(s.as.text + at, needle.as.text, needle.len) == 0)
            return at;
    }
    return SIZE_MAX;
}

/* ---- lines ---- */

static bool is_line_end(uint32_t c)
{
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

bool jstr_next_line(struct jv s, size_t *at, struct jv *line, struct jv *end)
{
    size_t begin = *at, to = begin;
    uint32_t width = 0, code = 0;
    if (begin >= s.len)
        return false;
    while (to < s.len) {
        code = jchar_read(s.as.text + to, s.len - to, &width);
        if (is_line_end(code))
            break;
        to += width;
    }
    *line = jstr_sub(s, begin, to);
    *at = to;
    if (to < s.len)
        *at += code == '\r' && to + 1 < s.len && s.as.text[to + 1] == '\n' ? 2 : width;
    if (end)
        *end = jstr_sub(s, to, *at);
    return true;
}

bool jstr_ends_line(struct jv s)
{
    uint32_t width;
    if (s.len == 0 || s.as.text[s.len - 1] == '\r')
        return false;
    width = last_width(s.as.text, s.len);
    return is_line_end(jchar_read(s.as.text + s.len - width, width, &width));
}
