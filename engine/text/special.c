/* SPDX-License-Identifier: Apache-2.0
 *
 * special.c - cuts a text at the texts of special tokens.
 *
 * The order is that of the engine the files are made for: the longest token first, wherever it
 * stands, then the next longest in what is left.  Done literally that is one pass over the text per
 * token, and some vocabularies have thousands.  Here a trie finds the longest token at every place,
 * and a heap hands out these hits by length.  A hit whose tail is taken by then comes back with the
 * longest token that still fits.  What is taken is at least as long as any hit that comes up later,
 * so a look at a hit's two ends is enough to see whether it is free.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory to look for special tokens");
}

/* ---- trie ---- */

static uint64_t edge(uint32_t node, char byte)
{
    return (uint64_t)node << 8 | (uint8_t)byte;
}

static void trie_add(struct special_trie *t, const char *text, size_t len, int32_t token)
{
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t next = idmap_get(&t->edges, edge(node, text[i]));
        if (next == MAP_NONE) {
            next = (int32_t)t->n_nodes++;
            t->tokens[next] = -1;
            idmap_put(&t->edges, edge(node, text[i]), next);
        }
        node = (uint32_t)next;
    }
    t->tokens[node] = token; /* of equal texts the last, as in vocab's by_text */
    t->first[(uint8_t)text[0]] = true;
}

int special_trie_init(struct special_trie *t, const struct vocab *v, unsigned flags,
                      struct engine_err *err)
{
    uint64_t n_bytes = 0;
    *t = (struct special_trie){ 0 };
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->flags[i] & flags)
            n_bytes += strings_len(&v->text, i);
    }
    t->tokens = malloc((n_bytes + 1) * sizeof *t->tokens);
    if (t->tokens == NULL || idmap_init(&t->edges, n_bytes) != 0)
        return no_memory(err);
    t->tokens[0] = -1;
    t->n_nodes = 1;
    for (uint32_t i = 0; i < v->n; i++) {
        if ((v->flags[i] & flags) && strings_len(&v->text, i) > 0)
            trie_add(t, strings_get(&v->text, i), strings_len(&v->text, i), (int32_t)i);
    }
    return 0;
}

void special_trie_fini(struct special_trie *t)
{
    idmap_fini(&t->edges);
    free(t->tokens);
}

uint32_t special_longest(const struct special_trie *t, const char *text, size_t len, int32_t *token)
{
    uint32_t node = 0, longest = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t next = idmap_get(&t->edges, edge(node, text[i]));
        if (next == MAP_NONE)
            break;
        node = (uint32_t)next;
        if (t->tokens[node] >= 0) {
            longest = (uint32_t)i + 1;
            *token = t->tokens[node];
        }
    }
    return longest;
}

/* ---- hits ---- */

struct hit {
    uint32_t start, len; /* len 0: nothing fits here */
    int32_t token;
    const struct special_trie *trie; /* of the tokens that may stand here */
};

struct hits {
    struct hit *items; /* by start */
    size_t n, cap;
    struct heap by_length;
    uint8_t *taken; /* one bit per byte of the text */
};

static void hits_fini(struct hits *h)
{
    free(h->items);
    free(h->taken);
    heap_fini(&h->by_length);
}

static int hits_add(struct hits *h, struct hit hit)
{
    if (h->n == h->cap) {
        size_t cap = h->cap * 2 + 16;
        struct hit *items = realloc(h->items, cap * sizeof *items);
        if (items == NULL)
            return -1;
        h->items = items;
        h->cap = cap;
    }
    h->items[h->n++] = hit;
    return 0;
}

static int find_hits(struct hits *h, const struct special_trie *t, const struct special_bars *bars,
                     const char *text, size_t len)
{
    size_t next_bar = 0;
    for (size_t at = 0; at < len; at++) {
        struct hit hit = { .start = (uint32_t)at, .trie = t };
        if (!t->first[(uint8_t)text[at]])
            continue;
        while (next_bar < bars->n && bars->at[next_bar] < at)
            next_bar++;
        if (next_bar < bars->n && bars->at[next_bar] == at)
            hit.trie = bars->trie;
        hit.len = special_longest(hit.trie, text + at, len - at, &hit.token);
        if (hit.len > 0 && hits_add(h, hit) != 0)
            return -1;
    }
    return 0;
}

static bool is_taken(const struct hits *h, size_t at)
{
    return h->taken[at / 8] >> (at % 8) & 1;
}

static void take(struct hits *h, const struct hit *hit)
{
    for (size_t at = hit->start; at < hit->start + (size_t)hit->len; at++)
        h->taken[at / 8] |= (uint8_t)(1u << at % 8);
}

/* Longest first, then leftmost. */
static uint64_t hit_key(const struct hits *h, size_t i)
{
    return (uint64_t)(UINT32_MAX - h->items[i].len) << 32 | i;
}

static void place_hit(struct hits *h, size_t i, const char *text)
{
    struct hit *hit = &h->items[i];
    uint32_t room = 0;
    if (is_taken(h, hit->start)) {
        hit->len = 0;
        return;
    }
    if (!is_taken(h, hit->start + (size_t)hit->len - 1)) {
        take(h, hit);
        return;
    }
    while (!is_taken(h, hit->start + (size_t)room))
        room++;
    hit->len = special_longest(hit->trie, text + hit->start, room, &hit->token);
    if (hit->len > 0)
        heap_push(&h->by_length, hit_key(h, i)); /* into the room of the one just popped */
}

static int place_hits(struct hits *h, const char *text, size_t len)
{
    h->taken = calloc(len / 8 + 1, 1);
    if (h->taken == NULL || heap_reserve(&h->by_length, h->n) != 0)
        return -1;
    for (size_t i = 0; i < h->n; i++)
        h->by_length.keys[h->by_length.n++] = hit_key(h, i);
    heap_build(&h->by_length);
    while (h->by_length.n > 0)
        place_hit(h, (uint32_t)heap_pop(&h->by_length), text);
    return 0;
}

/* ---- fragments ---- */

void fragments_fini(struct fragments *f)
{
    free(f->items);
    *f = (struct fragments){ 0 };
}

static void add_text(struct fragments *f, size_t start, size_t end)
{
    if (end > start)
        f->items[f->n++] = (struct fragment){ .start = start, .len = end - start, .token = -1 };
}

static int cut(const struct hits *h, const struct vocab *v, const char *text, size_t len,
               struct fragments *out)
{
    size_t at = 0;
    out->items = malloc((2 * h->n + 1) * sizeof *out->items);
    if (out->items == NULL)
        return -1;
    for (size_t i = 0; i < h->n; i++) {
        const struct hit *hit = &h->items[i];
        if (hit->len == 0)
            continue;
        add_text(out, at, hit->start);
        at = hit->start + (size_t)hit->len;
        out->items[out->n++] = (struct fragment){ .start = hit->start,
                                                  .len = hit->len,
                                                  .token = hit->token };
        if (v->flags[hit->token] & TOKEN_EATS_SPACE) {
            while (at < len && !is_taken(h, at) && isspace((unsigned char)text[at]))
                at++;
        }
    }
    add_text(out, at, len);
    return 0;
}

int special_split(const struct special_trie *t, const struct special_bars *bars,
                  const struct vocab *v, const char *text, size_t len, struct fragments *out,
                  struct engine_err *err)
{
    struct hits h = { 0 };
    int status = find_hits(&h, t, bars, text, len);
    if (status == 0 && h.n > 0)
        status = place_hits(&h, text, len);
    if (status == 0)
        status = cut(&h, v, text, len, out);
    hits_fini(&h);
    return status == 0 ? 0 : no_memory(err);
}
