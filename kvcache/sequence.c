/* SPDX-License-Identifier: Apache-2.0
 *
 * sequence.c - the block tables of one sequence: which page holds positions i * 64 .. i * 64 + 63,
 * for each group.
 *
 * A windowed group's table begins at the first page that the next position can still see; what lies
 * before was given back.
 *
 * Pages come and go in three ways: reserved to be written, held together with others (fork, match,
 * seal), dropped.  Only the open page, the one that n_committed lies in, is written; if others hold
 * it, it is copied first.
 *
 * A promise is a number of pages per table.  The pool counts what is promised and not held, and
 * keeps that many pages free: who was promised can always take.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

static uint32_t pages_of(uint32_t n_tokens)
{
    return n_tokens / KV_PAGE_TOKENS + (n_tokens % KV_PAGE_TOKENS != 0);
}

uint32_t kv_first_visible(uint32_t window, uint32_t pos)
{
    return window == 0 || pos < window ? 0 : pos - window + 1;
}

static void link_seq(struct kv_seq *seq)
{
    seq->next = seq->kv->seqs;
    if (seq->next)
        seq->next->prev = seq;
    seq->kv->seqs = seq;
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

static struct kv_seq *seq_new(struct kv *kv, uint32_t max_tokens)
{
    struct kv_seq *seq = calloc(1, sizeof(*seq));
    if (!seq)
        return NULL;
    seq->kv = kv;
    seq->max_tokens = max_tokens;
    seq->cap = pages_of(max_tokens);
    uint32_t *tables = malloc(((size_t)seq->cap * kv->n_groups + 1) * sizeof(*tables));
    if (!tables) {
        free(seq);
        return NULL;
    }
    for (uint32_t g = 0; g < kv->n_groups; g++)
        seq->table[g].page = tables + (size_t)g * seq->cap;
    link_seq(seq);
    return seq;
}

int kv_seq_open(struct kv *kv, const struct kv_seq_options *opt, struct kv_seq **out)
{
    *out = seq_new(kv, opt->max_tokens);
    if (!*out)
        return -ENOMEM;
    (*out)->is_private = opt->is_private;
    (*out)->salt = kv_hash_salt(kv, opt->salt, opt->salt_bytes);
    (*out)->chain = (*out)->salt;
    return 0;
}

int kv_seq_fork(const struct kv_seq *seq, struct kv_seq **out)
{
    struct kv_seq *fork = seq_new(seq->kv, seq->max_tokens);
    *out = fork;
    if (!fork)
        return -ENOMEM;
    fork->n_committed = seq->n_committed;
    fork->is_private = seq->is_private;
    fork->salt = seq->salt;
    fork->chain = seq->chain;
    memcpy(fork->open_tokens, seq->open_tokens, sizeof(fork->open_tokens));
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_table *from = &seq->table[g];
        struct kv_table *to = &fork->table[g];
        uint32_t n = pages_of(seq->n_committed); /* what is only reserved is not shared */
        to->first = from->first;
        to->n = n > from->first ? n : from->first;
        for (uint32_t i = to->first; i < to->n; i++) {
            to->page[i] = from->page[i];
            kv_pool_hold(&seq->kv->pool[g], to->page[i]);
        }
    }
    return 0;
}

/* ---- promises ---- */

uint32_t kv_table_outstanding(const struct kv_table *t)
{
    uint32_t held = t->n - t->first;
    return t->quota > held ? t->quota - held : 0;
}

static void take_page(struct kv_pool *pool, struct kv_table *t)
{
    pool->n_promised -= kv_table_outstanding(t) > 0;
    t->page[t->n++] = kv_pool_take(pool);
}

/* ---- the end ---- */

/* What an ended sequence had begun may be the beginning of another's page. */
static void publish_open_page(struct kv_seq *seq, uint32_t group)
{
    struct kv_pool *pool = &seq->kv->pool[group];
    const struct kv_table *t = &seq->table[group];
    uint32_t n_open = seq->n_committed % KV_PAGE_TOKENS, at = seq->n_committed / KV_PAGE_TOKENS;
    uint32_t n_same;
    if (seq->is_private || pool->opt.whole_only || n_open == 0 || at < t->first || at >= t->n)
        return;
    kv_index_find_part(pool, seq->chain, seq->open_tokens, n_open, &n_same);
    if (n_same < n_open && pool->page[t->page[at]].refs == 1)
        kv_index_publish(pool, t->page[at], seq->chain, seq->chain, seq->open_tokens, n_open);
}

void kv_seq_reset(struct kv_seq *seq)
{
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        struct kv_pool *pool = &seq->kv->pool[g];
        publish_open_page(seq, g);
        pool->n_promised -= kv_table_outstanding(t);
        while (t->n > t->first) /* the tail first: the beginning of a prompt is worth most */
            kv_pool_drop(pool, t->page[--t->n]);
        t->first = t->n = t->quota = 0;
    }
    seq->n_committed = 0;
    seq->chain = seq->salt;
}

void kv_seq_close(struct kv_seq *seq)
{
    if (!seq)
        return;
    kv_seq_reset(seq);
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
        uint32_t before = kv_table_outstanding(&t);
        quota[g] = kv_pages_needed(pool->opt.window, n_tokens, n_step);
        quota[g] = quota[g] > t.quota ? quota[g] : t.quota;
        t.quota = quota[g];
        if (kv_table_outstanding(&t) - before > pool->n_free - pool->n_promised)
            return -ENOSPC;
    }
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        uint32_t before = kv_table_outstanding(t);
        t->quota = quota[g];
        seq->kv->pool[g].n_promised += kv_table_outstanding(t) - before;
    }
    return 0;
}

/* Does somebody else hold the page that this sequence is about to write on? */
static bool shares_open_page(const struct kv_seq *seq, uint32_t group, uint32_t n_tokens)
{
    const struct kv_table *t = &seq->table[group];
    uint32_t at = seq->n_committed / KV_PAGE_TOKENS;
    bool is_open = seq->n_committed % KV_PAGE_TOKENS != 0 && n_tokens > seq->n_committed;
    return is_open && at >= t->first && at < t->n &&
           seq->kv->pool[group].page[t->page[at]].refs > 1;
}

static void copy_open_page(struct kv_pool *pool, uint32_t *entry)
{
    uint32_t page = kv_pool_take(pool);
    kv_pool_copy(pool, page, *entry);
    kv_pool_drop(pool, *entry);
    *entry = page;
}

int kv_seq_reserve(struct kv_seq *seq, uint32_t n_tokens)
{
    if (n_tokens > seq->max_tokens)
        return -EINVAL;
    uint32_t n = pages_of(n_tokens);
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_table *t = &seq->table[g];
        const struct kv_pool *pool = &seq->kv->pool[g];
        uint32_t n_new = n > t->n ? n - t->n : 0, n_promised = kv_table_outstanding(t);
        uint32_t n_more = n_new > n_promised ? n_new - n_promised : 0; /* beyond the promise */
        if (n_more + shares_open_page(seq, g, n_tokens) > pool->n_free - pool->n_promised)
            return -ENOSPC;
    }
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        if (shares_open_page(seq, g, n_tokens))
            copy_open_page(&seq->kv->pool[g], &t->page[seq->n_committed / KV_PAGE_TOKENS]);
        while (t->n < n)
            take_page(&seq->kv->pool[g], t);
    }
    return 0;
}

/* ---- commit ---- */

/* The page that was just completed can be found; of two alike one is enough. */
static void seal_page(struct kv_seq *seq, uint32_t group, uint32_t at, struct kv_hash hash)
{
    struct kv_pool *pool = &seq->kv->pool[group];
    struct kv_table *t = &seq->table[group];
    if (at < t->first)
        return;
    uint32_t known = kv_index_find(pool, hash, seq->open_tokens);
    if (known == KV_NO_PAGE) {
        kv_index_publish(pool, t->page[at], seq->chain, hash, seq->open_tokens, KV_PAGE_TOKENS);
        return;
    }
    kv_pool_hold(pool, known);
    kv_pool_drop(pool, t->page[at]);
    t->page[at] = known;
}

static void seal(struct kv_seq *seq, uint32_t at)
{
    if (seq->is_private)
        return;
    struct kv_hash hash = kv_hash_page(seq->kv, seq->chain, seq->open_tokens);
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        seal_page(seq, g, at, hash);
    seq->chain = hash;
}

/* Gives a page back for which a promise may have to be kept: if others hold it still, and all that is
 * free is promised, the promise is one smaller. */
static void drop_first(struct kv_pool *pool, struct kv_table *t)
{
    kv_pool_drop(pool, t->page[t->first++]);
    if (kv_table_outstanding(t) == 0)
        return;
    if (pool->n_promised < pool->n_free)
        pool->n_promised++;
    else
        t->quota--;
}

/* Pages that no position from n_committed on can see. */
static void drop_unseen(struct kv_seq *seq, uint32_t group)
{
    struct kv_pool *pool = &seq->kv->pool[group];
    struct kv_table *t = &seq->table[group];
    uint32_t keep = kv_first_visible(pool->opt.window, seq->n_committed) / KV_PAGE_TOKENS;
    while (t->first < keep && t->first < t->n)
        drop_first(pool, t);
}

void kv_seq_commit(struct kv_seq *seq, const int32_t *tokens, uint32_t n_new)
{
    for (uint32_t i = 0; i < n_new; i++) {
        uint32_t at = seq->n_committed / KV_PAGE_TOKENS, slot = seq->n_committed % KV_PAGE_TOKENS;
        seq->open_tokens[slot] = tokens[i];
        if (slot + 1 == KV_PAGE_TOKENS)
            seal(seq, at);
        seq->n_committed++;
    }
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        assert(pages_of(seq->n_committed) <= seq->table[g].n);
        drop_unseen(seq, g);
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
    size_t at = (size_t)t->page[page_no] * pool->opt.n_layers + layer_in_group;
    return pool->mem + at * pool->opt.layer_bytes;
}

bool kv_seq_shares(const struct kv_seq *a, const struct kv_seq *b, uint32_t group, uint32_t first,
                   uint32_t n)
{
    const struct kv_table *ta = &a->table[group], *tb = &b->table[group];
    if (first < ta->first || first < tb->first || first + n > ta->n || first + n > tb->n)
        return false;
    return memcmp(ta->page + first, tb->page + first, n * sizeof(*ta->page)) == 0;
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
