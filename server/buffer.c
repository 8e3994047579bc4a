/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.c - the growing buffer of buffer.h.  Growth is geometric, so that appending is linear in
 * what is written.
 */
#include "server/buffer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_FIRST = 256 };

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ 0 };
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool buf_reserve(struct buf *b, size_t more)
{
    size_t need;
    if (b->failed)
        return false;
    if (__builtin_add_overflow(b->len, more, &need) || need > SIZE_MAX / 2)
        goto fail;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : BUF_FIRST;
    while (cap < need)
        cap *= 2;
    char *data = realloc(b->data, cap);
    if (!data)
        goto fail;
    b->data = data;
    b->cap = cap;
    return true;
fail:
    b->failed = true;
    return false;
}

void buf_add(struct buf *b, const void *data, size_t len)
{
    if (len == 0 || !buf_reserve(b, len))
        return;
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_u64(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    buf_add(b, digits + at, sizeof(digits) - at);
}

void buf_i64(struct buf *b, int64_t v)
{
    if (v < 0)
        buf_char(b, '-');
    buf_u64(b, v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char small[256];
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof(small)) {
        buf_add(b, small, (size_t)n);
    } else if (buf_reserve(b, (size_t)n + 1)) {
        va_start(ap, fmt);
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
        va_end(ap);
        b->len += (size_t)n;
    }
}

void buf_drop(struct buf *b, size_t n)
{
    b->len -= n;
    memmove(b->data, b->data + n, b->len);
}

char *buf_take(struct buf *b, size_t *len)
{
    char *data = NULL;
    if (buf_reserve(b, 1)) {
        data = b->data;
        data[b->len] = '\0';
        if (len)
            *len = b->len;
        *b = (struct buf){ 0 };
    } else {
        buf_fini(b);
    }
    return data;
}

/* The second byte's range depends on the first: no overlong forms, no surrogates, no values above
 * U+10FFFF. */
static void second_range(unsigned char lead, unsigned char *lo, unsigned char *hi)
{
    *lo = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *hi = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
}

size_t utf8_sequence(const char *s, size_t len, size_t *bad)
{
    unsigned char lead = (unsigned char)s[0];
    *bad = 1;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    size_t n = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned char lo, hi;
    second_range(lead, &lo, &hi);
    for (size_t i = 1; i < n; i++) {
        *bad = i;
        if (i >= len)
            return 0;
        unsigned char c = (unsigned char)s[i];
        if (c < lo || c > hi)
            return 0;
        lo = 0x80;
        hi = 0xBF;
    }
    return n;
}

bool utf8_valid(const char *s, size_t len)
{
    size_t bad;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(s + i, len - i, &bad);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

static void json_ascii(struct buf *b, unsigned char c)
{
    switch (c) {
    case '"':
        buf_add(b, "\\\"", 2);
        break;
    case '\\':
        buf_add(b, "\\\\", 2);
        break;
    case '\n':
        buf_add(b, "\\n", 2);
        break;
    case '\t':
        buf_add(b, "\\t", 2);
        break;
    case '\r':
        buf_add(b, "\\r", 2);
        break;
    default:
        if (c < 0x20 || c == 0x7F)
            buf_printf(b, "\\u%04x", c);
        else
            buf_char(b, (char)c);
    }
}

static bool json_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

void buf_json(struct buf *b, const char *s, size_t len)
{
    buf_char(b, '"');
    for (size_t i = 0; i < len;) {
        size_t plain = i, bad;
        while (plain < len && json_plain((unsigned char)s[plain]))
            plain++;
        buf_add(b, s + i, plain - i);
        i = plain;
        if (i == len)
            break;
        size_t n = utf8_sequence(s + i, len - i, &bad);
        if (n == 1)
            json_ascii(b, (unsigned char)s[i]);
        else if (n > 1)
            buf_add(b, s + i, n);
        else
            buf_str(b, "\xEF\xBF\xBD");
        i += n ? n : bad;
    }
    buf_char(b, '"');
}

void buf_json_str(struct buf *b, const char *s)
{
    if (s)
        buf_json(b, s, strlen(s));
    else
        buf_str(b, "null");
}

void buf_json_float(struct buf *b, double v)
{
    if (isfinite(v))
        buf_printf(b, "%.9g", v);
    else
        buf_str(b, "-9999.0");
}
