/* SPDX-License-Identifier: Apache-2.0
 *
 * spm.c - SentencePiece's byte-pair encoding: the text, with U+2581 for spaces, starts as its code
 * points, and the pair whose joint text is the token with the best score is merged first.
 *
 * There are no words: the whole text is one.  What is no token in the end is spelt in byte tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory to tokenize a text");
}

/* ---- open ---- */

struct scored {
    float score;
    uint32_t id;
};

static int best_first(const void *x, const void *y)
{
    const struct scored *a = x, *b = y;
    return (a->score < b->score) - (a->score > b->score);
}

int spm_init(struct spm *s, const struct vocab *v, struct engine_err *err)
{
    struct scored *order = malloc((size_t)v->n * sizeof *order);
    uint32_t place = 0;
    s->ranks = malloc((size_t)v->n * sizeof *s->ranks);
    if (order == NULL || s->ranks == NULL) {
        free(order);
        return no_memory(err);
    }
    for (uint32_t i = 0; i < v->n; i++)
        order[i] = (struct scored){ .score = v->scores[i], .id = i };
    qsort(order, v->n, sizeof *order, best_first);
    for (uint32_t i = 0; i < v->n; i++) {
        if (i > 0 && best_first(&order[i - 1], &order[i]) != 0)
            place = i;
        s->ranks[order[i].id] = place;
    }
    free(order);
    return 0;
}

void spm_fini(struct spm *s)
{
    free(s->ranks);
}

/* ---- encode ---- */

struct joint {
    const struct spm *spm;
    const struct vocab *v;
    const char *text;
};

static uint32_t pair_rank(const void *ctx, const struct merge_symbol *a,
                          const struct merge_symbol *b, int32_t *merged)
{
    const struct joint *j = ctx;
    size_t len = (size_t)a->len + b->len;
    if (len > j->v->max_text)
        return MERGE_NONE;
    int32_t id = strmap_get(&j->v->by_text, j->text + a->start, len);
    if (id == MAP_NONE)
        return MERGE_NONE;
    *merged = id;
    return j->spm->ranks[id];
}

static size_t count_spaces(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += text[i] == ' ';
    return n;
}

static size_t put_space(char *dst)
{
    memcpy(dst, "\xE2\x96\x81", 3); /* U+2581 */
    return 3;
}

static int escape(const char *text, size_t len, bool space_prefix, struct encode_scratch *scratch,
                  size_t *escaped_len)
{
    size_t need = len + 2 * count_spaces(text, len) + 3;
    if (need > scratch->escaped_cap) {
        char *buf = realloc(scratch->escaped, need);
        if (buf == NULL)
            return -1;
        scratch->escaped = buf;
        scratch->escaped_cap = need;
    }
    char *dst = scratch->escaped;
    size_t n = space_prefix ? put_space(dst) : 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ')
            n += put_space(dst + n);
        else
            dst[n++] = text[i];
    }
    *escaped_len = n;
    return 0;
}

static int split_code_points(const struct vocab *v, const char *text, size_t len, struct merger *m)
{
    m->n = 0;
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((uint8_t)text[i] & 0xC0) != 0x80;
    for (size_t at = 0; at < len;) {
        uint32_t width = utf8_width(text + at, len - at);
        width = width > 0 ? width : 1; /* a stray byte is a symbol of its own */
        if (m->n == m->cap && merger_reserve(m, m->n == 0 ? n + 1 : m->n * 2) != 0)
            return -1;
        merger_add(m, (uint32_t)at, width, strmap_get(&v->by_text, text + at, width));
        at += width;
    }
    return merger_reserve(m, m->n);
}

/* A symbol that is no token: its bytes, or the unknown token where the vocabulary lacks one of
 * them. */
static void spell(const struct vocab *v, const char *text, uint32_t len, struct engine_tokens *out)
{
    size_t before = out->n;
    for (uint32_t i = 0; i < len; i++) {
        int32_t id = v->byte_ids[(uint8_t)text[i]];
        if (id < 0) {
            out->n = before;
            if (v->unknown >= 0)
                out->ids[out->n++] = v->unknown;
            return;
        }
        out->ids[out->n++] = id;
    }
}

int spm_encode(const struct spm *s, const struct vocab *v, const char *text, size_t len,
               bool space_prefix, struct encode_scratch *scratch, struct engine_tokens *out,
               struct engine_err *err)
{
    struct merger *m = &scratch->merger;
    size_t n;
    if (escape(text, len, space_prefix, scratch, &n) != 0 ||
        split_code_points(v, scratch->escaped, n, m) != 0)
        return no_memory(err);
    if (m->n == 0)
        return 0;
    struct joint joint = { .spm = s, .v = v, .text = scratch->escaped };
    merger_run(m, pair_rank, &joint);
    if (tokens_reserve(out, n, err) != 0)
        return -1;
    for (uint32_t i = 0; i != MERGE_NONE; i = m->symbols[i].next) {
        const struct merge_symbol *symbol = &m->symbols[i];
        if (symbol->id >= 0)
            out->ids[out->n++] = symbol->id;
        else
            spell(v, scratch->escaped + symbol->start, symbol->len, out);
    }
    return 0;
}
