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
 * it, it is copied first.  In a group whose sealed pages have another form the open page lies in
 * parts beside the table, which then has entries for whole pages only; the parts stay for the next.
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

bool kv_has_parts(const struct kv_group_options *group)
{
    return group->open_parts > 1;
}

uint32_t kv_pages_of(const struct kv_group_options *group, uint32_t n_tokens)
{
    return kv_has_parts(group) ? n_tokens / KV_PAGE_TOKENS : pages_of(n_tokens);
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

struct kv_hash kv_parent_of(const struct kv_seq *seq, uint32_t at, struct kv_hash chain)
{
    return at == seq->own_page ? kv_hash_way(seq->kv, chain, seq->own_way) : chain;
}

int kv_seq_open(struct kv *kv, const struct kv_seq_options *opt, struct kv_seq **out)
{
    struct kv_seq *seq = seq_new(kv, opt->max_tokens);
    *out = seq;
    if (!seq)
        return -ENOMEM;
    seq->is_private = opt->is_private;
    seq->salt = kv_hash_salt(kv, opt->salt, opt->salt_bytes);
    seq->own_page = KV_NO_PAGE;
    seq->own_step = opt->own_step;
    if (opt->own_way_bytes > 0) {
        /* Where in its page it begins counts, too: that page has both. */
        seq->own_from = opt->own_from;
        seq->own_page = opt->own_from / KV_PAGE_TOKENS;
        seq->own_way = kv_hash_way(kv, kv_hash_salt(kv, opt->own_way, opt->own_way_bytes),
                                   (struct kv_hash){ opt->own_from, 0 });
    }
    seq->chain = seq->salt;
    return 0;
}

/* What is only reserved is not shared. */
static void fork_table(struct kv_pool *pool, const struct kv_table *from, struct kv_table *to,
                       uint32_t n_committed)
{
    uint32_t n = kv_pages_of(&pool->opt, n_committed);
    to->first = from->first;
    to->n = n > from->first ? n : from->first;
    for (uint32_t i = to->first; i < to->n; i++) {
        to->page[i] = from->page[i];
        kv_pool_hold(pool, to->page[i]);
    }
    to->n_parts = n_committed % KV_PAGE_TOKENS != 0 ? from->n_parts : 0;
    for (uint32_t i = 0; i < to->n_parts; i++) {
        to->part[i] = from->part[i];
        kv_pool_hold(pool, to->part[i]);
    }
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
    fork->own_way = seq->own_way;
    fork->own_from = seq->own_from;
    fork->own_step = seq->own_step;
    fork->own_page = seq->own_page;
    fork->chain = seq->chain;
    memcpy(fork->open_tokens, seq->open_tokens, sizeof(fork->open_tokens));
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        fork_table(&seq->kv->pool[g], &seq->table[g], &fork->table[g], seq->n_committed);
    return 0;
}

/* ---- promises ---- */

uint32_t kv_table_outstanding(const struct kv_table *t)
{
    uint32_t held = t->n - t->first + t->n_parts;
    return t->quota > held ? t->quota - held : 0;
}

static uint32_t take_page(struct kv_pool *pool, const struct kv_table *t)
{
    pool->n_promised -= kv_table_outstanding(t) > 0;
    return kv_pool_take(pool);
}

/* ---- the end ---- */

/* What an ended sequence had begun may be the beginning of another's page. */
static void publish_open_page(struct kv_seq *seq, uint32_t group)
{
    struct kv_pool *pool = &seq->kv->pool[group];
    const struct kv_table *t = &seq->table[group];
    uint32_t n_open = seq->n_committed % KV_PAGE_TOKENS, at = seq->n_committed / KV_PAGE_TOKENS;
    uint32_t n_same;
    struct kv_hash parent = kv_parent_of(seq, at, seq->chain);
    if (seq->is_private || kv_has_parts(&pool->opt) || n_open == 0 || at < t->first || at >= t->n)
        return;
    kv_index_find_part(pool, parent, seq->open_tokens, n_open, &n_same);
    if (n_same < n_open && pool->page[t->page[at]].refs == 1)
        kv_index_publish(pool, t->page[at], parent, parent, seq->open_tokens, n_open);
}

void kv_seq_reset(struct kv_seq *seq)
{
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_table *t = &seq->table[g];
        struct kv_pool *pool = &seq->kv->pool[g];
        publish_open_page(seq, g);
        pool->n_promised -= kv_table_outstanding(t);
        while (t->n_parts > 0)
            kv_pool_drop(pool, t->part[--t->n_parts]);
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
        quota[g] = kv_pages_needed(&pool->opt, n_tokens, n_step);
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

/* The pages that the open page lies in; 0 if there is none. */
static uint32_t open_pages(struct kv_seq *seq, uint32_t group, uint32_t **pages)
{
    struct kv_table *t = &seq->table[group];
    uint32_t at = seq->n_committed / KV_PAGE_TOKENS;
    if (kv_has_parts(&seq->kv->pool[group].opt)) {
        *pages = t->part;
        return t->n_parts;
    }
    *pages = t->page + at;
    return at >= t->first && at < t->n;
}

/* How many pages that this sequence is about to write on do others hold, too? */
static uint32_t n_to_copy(struct kv_seq *seq, uint32_t group, uint32_t n_tokens)
{
    uint32_t *pages;
    uint32_t n = open_pages(seq, group, &pages);
    bool is_open = seq->n_committed % KV_PAGE_TOKENS != 0 && n_tokens > seq->n_committed;
    return n > 0 && is_open && seq->kv->pool[group].page[pages[0]].refs > 1 ? n : 0;
}

static void copy_page(struct kv_pool *pool, uint32_t *entry)
{
    uint32_t page = kv_pool_take(pool);
    kv_pool_copy(pool, page, *entry);
    kv_pool_drop(pool, *entry);
    *entry = page;
}

static void copy_open_pages(struct kv_seq *seq, uint32_t group, uint32_t n)
{
    uint32_t *pages;
    open_pages(seq, group, &pages);
    for (uint32_t i = 0; i < n; i++)
        copy_page(&seq->kv->pool[group], &pages[i]);
}

/* Parts that are still missing to go on to n_tokens. */
static uint32_t n_parts_to_take(const struct kv_seq *seq, uint32_t group, uint32_t n_tokens)
{
    const struct kv_pool *pool = &seq->kv->pool[group];
    bool is_missing = n_tokens > seq->n_committed && seq->table[group].n_parts == 0;
    return kv_has_parts(&pool->opt) && is_missing ? pool->opt.open_parts : 0;
}

/* Could the pool give all that the table needs for n_tokens? */
static bool can_reserve(struct kv_seq *seq, uint32_t group, uint32_t n_tokens)
{
    const struct kv_table *t = &seq->table[group];
    const struct kv_pool *pool = &seq->kv->pool[group];
    uint32_t n = kv_pages_of(&pool->opt, n_tokens), n_promised = kv_table_outstanding(t);
    uint32_t n_new = (n > t->n ? n - t->n : 0) + n_parts_to_take(seq, group, n_tokens);
    uint32_t n_more = n_new > n_promised ? n_new - n_promised : 0; /* beyond the promise */
    return n_more + n_to_copy(seq, group, n_tokens) <= pool->n_free - pool->n_promised;
}

int kv_seq_reserve(struct kv_seq *seq, uint32_t n_tokens)
{
    if (n_tokens > seq->max_tokens)
        return -EINVAL;
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        if (!can_reserve(seq, g, n_tokens))
            return -ENOSPC;
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_pool *pool = &seq->kv->pool[g];
        struct kv_table *t = &seq->table[g];
        copy_open_pages(seq, g, n_to_copy(seq, g, n_tokens));
        for (uint32_t n = n_parts_to_take(seq, g, n_tokens); t->n_parts < n;) {
            uint32_t page = take_page(pool, t);
            t->part[t->n_parts++] = page;
        }
        while (t->n < kv_pages_of(&pool->opt, n_tokens)) {
            uint32_t page = take_page(pool, t);
            t->page[t->n++] = page;
        }
    }
    return 0;
}

/* ---- commit ---- */

/* The page that was just completed can be found; of two alike one is enough. */
static void seal_page(struct kv_seq *seq, uint32_t group, uint32_t at, struct kv_hash parent,
                      struct kv_hash hash)
{
    struct kv_pool *pool = &seq->kv->pool[group];
    struct kv_table *t = &seq->table[group];
    if (at < t->first)
        return;
    uint32_t known = kv_index_find(pool, hash, seq->open_tokens);
    if (known == KV_NO_PAGE) {
        kv_index_publish(pool, t->page[at], parent, hash, seq->open_tokens, KV_PAGE_TOKENS);
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
    struct kv_hash parent = kv_parent_of(seq, at, seq->chain);
    struct kv_hash hash = kv_hash_page(seq->kv, parent, seq->open_tokens);
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        seal_page(seq, g, at, parent, hash);
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
        assert(kv_pages_of(&seq->kv->pool[g].opt, seq->n_committed) <= seq->table[g].n);
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

static void *memory_of(const struct kv_pool *pool, uint32_t page, uint32_t layer)
{
    assert(layer < pool->opt.n_layers);
    return pool->mem + ((size_t)page * pool->opt.n_layers + layer) * pool->opt.layer_bytes;
}

void *kv_page(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group, uint32_t page_no)
{
    const struct kv_table *t = &seq->table[group];
    assert(group < seq->kv->n_groups);
    if (page_no < t->first || page_no >= t->n)
        return NULL;
    return memory_of(&seq->kv->pool[group], t->page[page_no], layer_in_group);
}

void *kv_open_part(const struct kv_seq *seq, uint32_t group, uint32_t layer_in_group, uint32_t part)
{
    const struct kv_table *t = &seq->table[group];
    assert(group < seq->kv->n_groups);
    return part < t->n_parts ? memory_of(&seq->kv->pool[group], t->part[part], layer_in_group)
                             : NULL;
}

bool kv_seq_shares(const struct kv_seq *a, const struct kv_seq *b, uint32_t group, uint32_t first,
                   uint32_t n)
{
    const struct kv_table *ta = &a->table[group], *tb = &b->table[group];
    if (first < ta->first || first < tb->first || first + n > ta->n || first + n > tb->n)
        return false;
    return memcmp(ta->page + first, tb->page + first, n * sizeof(*ta->page)) == 0;
}

uint32_t kv_pages_needed(const struct kv_group_options *group, uint32_t n_tokens, uint32_t n_step)
{
    uint32_t n_parts = kv_has_parts(group) ? group->open_parts : 0;
    uint32_t all = kv_pages_of(group, n_tokens);
    if (group->window == 0)
        return all + n_parts;
    /* The window and a step's new positions, wherever they begin within a page. */
    uint64_t most = ((uint64_t)group->window + n_step) / KV_PAGE_TOKENS + 2;
    return (most < all ? (uint32_t)most : all) + n_parts;
}
