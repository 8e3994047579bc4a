/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8.c - well-formed UTF-8, after table 3-7 of the Unicode standard.  Pure functions.
 */
#include "engine/text/internal.h"

uint32_t utf8_length(uint8_t first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xC2)
        return 0;
    if (first < 0xE0)
        return 2;
    if (first < 0xF0)
        return 3;
    return first < 0xF5 ? 4 : 0;
}

bool utf8_continues(const uint8_t *p, uint32_t n, uint8_t b)
{
    if (n == 0)
        return utf8_length(b) > 0;
    if (n >= utf8_length(p[0]))
        return false;
    if (n == 1) {
        /* Only the second byte tells over-long forms, surrogates and what is above U+10FFFF. */
        switch (p[0]) {
        case 0xE0:
            return b >= 0xA0 && b <= 0xBF;
        case 0xED:
            return b >= 0x80 && b <= 0x9F;
        case 0xF0:
            return b >= 0x90 && b <= 0xBF;
        case 0xF4:
            return b >= 0x80 && b <= 0x8F;
        default:
            break;
        }
    }
    return b >= 0x80 && b <= 0xBF;
}

uint32_t utf8_width(const char *p, size_t len)
{
    const uint8_t *b = (const uint8_t *)p;
    uint32_t need = len > 0 ? utf8_length(b[0]) : 0;
    if (need == 0 || need > len)
        return 0;
    for (uint32_t i = 1; i < need; i++) {
        if (!utf8_continues(b, i, b[i]))
            return 0;
    }
    return need;
}

size_t utf8_valid_run(const char *p, size_t len)
{
    size_t at = 0;
    while (at < len) {
        if ((uint8_t)p[at] < 0x80) {
            at++;
            continue;
        }
        uint32_t n = utf8_width(p + at, len - at);
        if (n == 0)
            break;
        at += n;
    }
    return at;
}

uint32_t utf8_put(char *dst, uint32_t code)
{
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    dst[0] = (char)(0xC0 | code >> 6);
    dst[1] = (char)(0x80 | (code & 0x3F));
    return 2;
}
