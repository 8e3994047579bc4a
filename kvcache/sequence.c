/* SPDX-License-Identifier: Apache-2.0
 *
 * sequence.c - the block tables of one sequence: which page holds positions i * 64 .. i * 64 + 63,
 * for each group.
 *
 * A windowed group's table begins at the first page that the next position can still see; what lies
 * before was given back.
 *
 * A promise is a number of pages per table.  The pool counts what is promised and not held, and
 * keeps that many pages free: who was promised can always take.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kvcache/internal.h"

static uint32_t pages_of(uint32_t n_tokens)
{
    return n_tokens / KV_PAGE_TOKENS + (n_tokens % KV_PAGE_TOKENS != 0);
}

uint32_t kv_first_visible(uint32_t window, uint32_t pos)
{
    return window == 0 || pos < window ? 0 : pos - window + 1;
}

int kv_seq_open(struct kv *kv, uint32_t max_tokens, struct kv_seq **out)
{
    *out = NULL;
    struct kv_seq *seq = calloc(1, sizeof(*seq));
    if (!seq)
        return -ENOMEM;
    seq->kv = kv;
    seq->max_tokens = max_tokens;
    seq->cap = pages_of(max_tokens);
    uint32_t *tables = malloc(((size_t)seq->cap * kv->n_groups + 1) * sizeof(*tables));
    if (!tables) {
        free(seq);
        return -ENOMEM;
    }
    for (uint32_t g = 0; g < kv->n_groups; g++)
        seq->table[g].page = tables + (size_t)g * seq->cap;
    seq->next = kv->seqs;
    if (kv->seqs)
        kv->seqs->prev = seq;
    kv->seqs = seq;
    *out = seq;
    return 0;
}

static void unlink_seq(struct kv_seq *seq)
{
    if (seq->prev)
        seq->prev->next = seq->next;
    else
        seq->kv->seqs = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
}

/* What a table was promised beyond what it holds. */
static uint32_t outstanding(const struct kv_table *t)
{
    uint32_t held = t->n - t->first;
    return t->quota > held ? t->quota - held : 0;
}

static void take_page(struct kv_pool *pool, struct kv_table *t, uint64_t *shuffle_state)
{
    pool->n_promised -= outstanding(t) > 0;
    t->page[t->n++] = kv_pool_take(pool, shuffle_state);
}

static void give_page(struct kv_pool *pool, struct kv_table *t, uint32_t page)
{
    kv_pool_give(pool, page);
    pool->n_promised += outstanding(t) > 0; /* the table is one shorter already */
}

void kv_seq_close(struct kv_seq *seq)
{
    if (!seq)
        return;
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        struct kv_pool *pool = &seq->kv->pool[g];
        pool->n_promised -= outstanding(t);
        t->quota = 0;
        while (t->n > t->first) { /* the tail first: it was taken last */
            t->n--;
            give_page(pool, t, t->page[t->n]);
        }
    }
    unlink_seq(seq);
    free(seq->table[0].page);
    free(seq);
}

int kv_seq_promise(struct kv_seq *seq, uint32_t n_tokens, uint32_t n_step)
{
    if (n_tokens > seq->max_tokens)
        return -EINVAL;
    uint32_t quota[KV_MAX_GROUPS];
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_pool *pool = &seq->kv->pool[g];
        struct kv_table t = seq->table[g];
        uint32_t before = outstanding(&t);
        quota[g] = kv_pages_needed(pool->opt.window, n_tokens, n_step);
        quota[g] = quota[g] > t.quota ? quota[g] : t.quota;
        t.quota = quota[g];
        if (outstanding(&t) - before > pool->n_free - pool->n_promised)
            return -ENOSPC;
    }
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        uint32_t before = outstanding(t);
        t->quota = quota[g];
        seq->kv->pool[g].n_promised += outstanding(t) - before;
    }
    return 0;
}

int kv_seq_reserve(struct kv_seq *seq, uint32_t n_tokens)
{
    if (n_tokens > seq->max_tokens)
        return -EINVAL;
    uint32_t n = pages_of(n_tokens);
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_table *t = &seq->table[g];
        const struct kv_pool *pool = &seq->kv->pool[g];
        if (n > t->n && n - t->n > pool->n_free - pool->n_promised + outstanding(t))
            return -ENOSPC;
    }
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        while (seq->table[g].n < n)
            take_page(&seq->kv->pool[g], &seq->table[g], &seq->kv->shuffle_state);
    return 0;
}

void kv_seq_commit(struct kv_seq *seq, uint32_t n_tokens)
{
    assert(n_tokens >= seq->n_committed);
    seq->n_committed = n_tokens;
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        assert(pages_of(n_tokens) <= t->n);
        uint32_t keep = kv_first_visible(seq->kv->pool[g].opt.window, n_tokens) / KV_PAGE_TOKENS;
        while (t->first < keep && t->first < t->n) {
            t->first++;
            give_page(&seq->kv->pool[g], t, t->page[t->first - 1]);
        }
    }
}

uint32_t kv_seq_n_committed(const struct kv_seq *seq)
{
    return seq->n_committed;
}

uint32_t kv_seq_n_sealed(const struct kv_seq *seq)
{
    return seq->n_committed / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
}

void *kv_page(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group, uint32_t page_no)
{
    const struct kv_table *t = &seq->table[group];
    const struct kv_pool *pool = &seq->kv->pool[group];
    assert(group < seq->kv->n_groups && layer_in_group < pool->opt.n_layers);
    if (page_no < t->first || page_no >= t->n)
        return NULL;
    size_t at = (size_t)layer_in_group * pool->opt.n_pages + t->page[page_no];
    return pool->mem + at * pool->opt.layer_bytes;
}

uint32_t kv_pages_needed(uint32_t window, uint32_t n_tokens, uint32_t n_step)
{
    uint32_t all = pages_of(n_tokens);
    if (window == 0)
        return all;
    /* The window and a step's new positions, wherever they begin within a page. */
    uint64_t most = ((uint64_t)window + n_step) / KV_PAGE_TOKENS + 2;
    return most < all ? (uint32_t)most : all;
}
