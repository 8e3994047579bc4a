/* SPDX-License-Identifier: Apache-2.0
 *
 * merge.c - the merging that byte-level BPE and SentencePiece share: of all adjacent pairs, merge
 * the best, ties leftmost, until no pair merges.
 *
 * Symbols are a doubly linked list in an array; candidates are in a heap whose key is
 * rank << 32 | index of the left symbol, so that one comparison orders both rank and place.
 * Entries are never removed when a merge makes them stale: each symbol knows the rank of its
 * current pair, and an entry that does not agree with it is skipped when it comes up.  A merge adds
 * at most two entries, so a word of n symbols costs n log n.
 */
#include <assert.h>
#include <stdlib.h>

#include "engine/text/internal.h"

void heap_fini(struct heap *h)
{
    free(h->keys);
    *h = (struct heap){ 0 };
}

int heap_reserve(struct heap *h, size_t cap)
{
    if (cap <= h->cap)
        return 0;
    uint64_t *keys = realloc(h->keys, cap * sizeof *keys);
    if (keys == NULL)
        return -1;
    h->keys = keys;
    h->cap = cap;
    return 0;
}

/* Four children: half the depth of two, and they lie in one cache line. */
enum { ARITY = 4 };

/* The least of the n <= ARITY keys from first on.  Masks instead of branches: which it is cannot be
 * predicted. */
static size_t least_of(const uint64_t *keys, size_t first, size_t n)
{
    size_t least = first;
    for (size_t i = first + 1; i < first + n; i++) {
        size_t mask = -(size_t)(keys[i] < keys[least]);
        least ^= (least ^ i) & mask;
    }
    return least;
}

static void sift_down(struct heap *h, size_t at, uint64_t key)
{
    size_t first;
    while ((first = ARITY * at + 1) < h->n) {
        size_t n = h->n - first;
        size_t child = n >= ARITY ? least_of(h->keys, first, ARITY) : least_of(h->keys, first, n);
        if (key <= h->keys[child])
            break;
        h->keys[at] = h->keys[child];
        at = child;
    }
    h->keys[at] = key;
}

void heap_build(struct heap *h)
{
    for (size_t i = h->n / ARITY + 1; i-- > 0;) {
        if (i < h->n)
            sift_down(h, i, h->keys[i]);
    }
}

void heap_push(struct heap *h, uint64_t key)
{
    assert(h->n < h->cap);
    size_t at = h->n++;
    while (at > 0) {
        size_t parent = (at - 1) / ARITY;
        if (h->keys[parent] <= key)
            break;
        h->keys[at] = h->keys[parent];
        at = parent;
    }
    h->keys[at] = key;
}

uint64_t heap_pop(struct heap *h)
{
    assert(h->n > 0);
    uint64_t least = h->keys[0];
    uint64_t last = h->keys[--h->n];
    if (h->n > 0)
        sift_down(h, 0, last);
    return least;
}

void merger_fini(struct merger *m)
{
    free(m->symbols);
    heap_fini(&m->heap);
    *m = (struct merger){ 0 };
}

int merger_reserve(struct merger *m, size_t n_symbols)
{
    if (n_symbols > m->cap) {
        size_t cap = n_symbols + n_symbols / 2 + 32;
        struct merge_symbol *symbols = realloc(m->symbols, cap * sizeof *symbols);
        if (symbols == NULL)
            return -1;
        m->symbols = symbols;
        m->cap = cap;
    }
    /* n - 1 pairs at first, and two more for each of at most n - 1 merges. */
    return heap_reserve(&m->heap, 3 * m->cap);
}

void merger_add(struct merger *m, uint32_t start, uint32_t len, int32_t id)
{
    assert(m->n < m->cap);
    uint32_t at = (uint32_t)m->n++;
    m->symbols[at] = (struct merge_symbol){
        .start = start,
        .len = len,
        .prev = at > 0 ? at - 1 : MERGE_NONE,
        .next = MERGE_NONE,
        .id = id,
        .rank = MERGE_NONE,
    };
    if (at > 0)
        m->symbols[at - 1].next = at;
}

static uint64_t candidate(uint32_t rank, uint32_t left)
{
    return (uint64_t)rank << 32 | left;
}

static void consider(struct merger *m, uint32_t left, merge_rank_fn *rank, const void *ctx)
{
    struct merge_symbol *a = &m->symbols[left];
    a->rank = MERGE_NONE;
    if (a->next == MERGE_NONE)
        return;
    a->rank = rank(ctx, a, &m->symbols[a->next], &a->merged);
    if (a->rank != MERGE_NONE)
        m->heap.keys[m->heap.n++] = candidate(a->rank, left);
}

static void consider_again(struct merger *m, uint32_t left, merge_rank_fn *rank, const void *ctx)
{
    size_t before = m->heap.n;
    consider(m, left, rank, ctx);
    if (m->heap.n > before)
        heap_push(&m->heap, m->heap.keys[--m->heap.n]);
}

static void join(struct merger *m, struct merge_symbol *a)
{
    struct merge_symbol *b = &m->symbols[a->next];
    uint32_t self = b->prev;
    a->len += b->len;
    a->id = a->merged;
    a->next = b->next;
    if (b->next != MERGE_NONE)
        m->symbols[b->next].prev = self;
    b->len = 0;
    b->rank = MERGE_NONE;
}

void merger_run(struct merger *m, merge_rank_fn *rank, const void *ctx)
{
    m->heap.n = 0;
    for (uint32_t i = 0; i + 1 < m->n; i++)
        consider(m, i, rank, ctx);
    heap_build(&m->heap);
    while (m->heap.n > 0) {
        uint64_t best = heap_pop(&m->heap);
        uint32_t left = (uint32_t)best;
        struct merge_symbol *a = &m->symbols[left];
        if (a->len == 0 || a->rank != (uint32_t)(best >> 32) || a->rank == MERGE_NONE)
            continue;
        join(m, a);
        consider_again(m, left, rank, ctx);
        if (a->prev != MERGE_NONE)
            consider_again(m, a->prev, rank, ctx);
    }
}
