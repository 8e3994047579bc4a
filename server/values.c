/* SPDX-License-Identifier: Apache-2.0
 *
 * values.c - see values.h.  strtoul and its kin are avoided on purpose: they take leading blanks,
 * signs and trailing junk, and a limit that was misread is worse than an error.
 */
#include "server/values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The digits text starts with; returns what follows them, or NULL without digits or on overflow. */
static const char *take_digits(const char *text, uint64_t *out)
{
    uint64_t v = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return NULL;
    }
    if (p == text)
        return NULL;
    *out = v;
    return p;
}

bool value_u64(const char *text, uint64_t *out)
{
    uint64_t v;
    const char *rest = take_digits(text, &v);
    if (!rest || *rest)
        return false;
    *out = v;
    return true;
}

bool value_bool(const char *text, bool *out)
{
    static const char *const words[] = { "true", "1", "on", "yes", "false", "0", "off", "no" };
    for (size_t i = 0; i < 8; i++) {
        if (strcasecmp(text, words[i]) != 0)
            continue;
        *out = i < 4;
        return true;
    }
    return false;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static bool take_unit(const char *text, const struct unit *units, size_t n, uint64_t *out)
{
    uint64_t v;
    const char *rest = take_digits(text, &v);
    for (size_t i = 0; rest && i < n; i++) {
        if (strcasecmp(rest, units[i].name) == 0)
            return !__builtin_mul_overflow(v, units[i].factor, out);
    }
    return false;
}

bool value_bytes(const char *text, uint64_t *out)
{
    static const struct unit units[] = {
        { "", 1 },
        { "K", UINT64_C(1) << 10 },
        { "KiB", UINT64_C(1) << 10 },
        { "M", UINT64_C(1) << 20 },
        { "MiB", UINT64_C(1) << 20 },
        { "G", UINT64_C(1) << 30 },
        { "GiB", UINT64_C(1) << 30 },
        { "T", UINT64_C(1) << 40 },
        { "TiB", UINT64_C(1) << 40 },
    };
    uint64_t v;
    if (!take_unit(text, units, sizeof(units) / sizeof(units[0]), &v))
        return false;
    *out = v;
    return true;
}

bool value_seconds(const char *text, uint64_t *out)
{
    static const struct unit units[] = {
        { "", 1000 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 3600 * 1000 }, { "ms", 1 },
    };
    uint64_t ms;
    if (!take_unit(text, units, sizeof(units) / sizeof(units[0]), &ms))
        return false;
    *out = ms / 1000 + (ms % 1000 != 0);
    return true;
}

bool value_real(const char *text, double *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789.eE+-")] != '\0')
        return false;
    char *end;
    double v = strtod(text, &end);
    if (*end != '\0' || end == text || !isfinite(v))
        return false;
    *out = v;
    return true;
}

bool value_choice(const char *text, const char *choices, uint32_t *out)
{
    size_t len = strlen(text);
    uint32_t i = 0;
    for (const char *p = choices; *p; i++) {
        size_t n = strcspn(p, " ");
        if (n == len && memcmp(p, text, n) == 0) {
            *out = i;
            return true;
        }
        p += n + (p[n] == ' ');
    }
    return false;
}

void value_bytes_text(uint64_t bytes, char out[VALUE_TEXT_MAX])
{
    static const char units[] = "\0KMGT";
    size_t u = 0;
    while (u < 4 && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, VALUE_TEXT_MAX, "%llu%.1s", (unsigned long long)bytes, &units[u]);
}

enum { WORD_MAX = 64 };

/* Insertions, deletions, replacements and swaps of neighbours that make b from a. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    size_t row[3][WORD_MAX + 1];
    if (na > WORD_MAX || nb > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = last[j] + 1 < best ? last[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[na % 3][nb];
}

const char *value_nearest(const char *word, const char *const *names, size_t n)
{
    const char *nearest = NULL;
    /* A third of the word wrong is a typing mistake; more is another word. */
    size_t least = strlen(word) / 3 + 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, names[i]);
        if (d < least) {
            least = d;
            nearest = names[i];
        }
    }
    return nearest;
}
