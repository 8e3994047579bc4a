/* SPDX-License-Identifier: Apache-2.0
 *
 * match.c - a new sequence begins with what the cache still holds.
 *
 * First whole pages, then the beginning of one more.  A group with full attention needs every page
 * of the prefix; one with a window only those that the next position can see, so with windows the
 * longest usable prefix may be shorter than the longest one that is there.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "kvcache/internal.h"

/* ---- whole pages ---- */

/* Fills the tables' entries up to the first page that a full group lacks, with KV_NO_PAGE where a
 * windowed one does; returns how many. */
static uint32_t find_pages(struct kv_seq *seq, const int32_t *tokens, uint32_t n_most)
{
    struct kv_hash chain = seq->chain;
    for (uint32_t i = 0; i < n_most; i++) {
        const int32_t *page_tokens = tokens + (size_t)i * KV_PAGE_TOKENS;
        chain = kv_hash_page(seq->kv, kv_parent_of(seq, i, chain), page_tokens);
        for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
            const struct kv_pool *pool = &seq->kv->pool[g];
            uint32_t page = kv_index_find(pool, chain, page_tokens);
            if (page == KV_NO_PAGE && pool->opt.window == 0)
                return i;
            seq->table[g].page[i] = page;
        }
    }
    return n_most;
}

/* Are all pages there that a group needs to go on at page n? */
static bool has_window(const struct kv_seq *seq, uint32_t group, uint32_t n)
{
    uint32_t window = seq->kv->pool[group].opt.window;
    uint32_t first = kv_first_visible(window, n * KV_PAGE_TOKENS) / KV_PAGE_TOKENS;
    for (uint32_t i = n; i-- > first;)
        if (seq->table[group].page[i] == KV_NO_PAGE)
            return false;
    return true;
}

static uint32_t longest_usable(const struct kv_seq *seq, uint32_t n)
{
    for (uint32_t g = 0; n > 0 && g < seq->kv->n_groups;) {
        if (has_window(seq, g, n)) {
            g++;
            continue;
        }
        n--; /* and ask all groups again */
        g = 0;
    }
    return n;
}

/* Does holding the pages leave to everybody what was promised? */
static bool may_hold(const struct kv_seq *seq, uint32_t n)
{
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_pool *pool = &seq->kv->pool[g];
        uint32_t first = kv_first_visible(pool->opt.window, n * KV_PAGE_TOKENS) / KV_PAGE_TOKENS;
        uint32_t n_needed = 0;
        for (uint32_t i = first; i < n; i++)
            n_needed += pool->page[seq->table[g].page[i]].refs == 0;
        if (n_needed > pool->n_free - pool->n_promised)
            return false;
    }
    return true;
}

static void hold_pages(struct kv_seq *seq, const int32_t *tokens, uint32_t n)
{
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        struct kv_pool *pool = &seq->kv->pool[g];
        struct kv_table *t = &seq->table[g];
        t->first = kv_first_visible(pool->opt.window, n * KV_PAGE_TOKENS) / KV_PAGE_TOKENS;
        t->n = n;
        for (uint32_t i = t->first; i < n; i++)
            kv_pool_hold(pool, t->page[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        seq->chain = kv_hash_page(seq->kv, kv_parent_of(seq, i, seq->chain),
                                  tokens + (size_t)i * KV_PAGE_TOKENS);
    seq->n_committed = n * KV_PAGE_TOKENS;
}

/* ---- the beginning of one more ---- */

/* How many of the next tokens every group has in some page that follows `parent`; source[g] is that page. */
static uint32_t find_part_of(const struct kv_seq *seq, struct kv_hash parent, const int32_t *tokens,
                             uint32_t n_tokens, uint32_t source[KV_MAX_GROUPS])
{
    uint32_t n = n_tokens < KV_PAGE_TOKENS - 1 ? n_tokens : KV_PAGE_TOKENS - 1;
    for (uint32_t g = 0; n > 0 && g < seq->kv->n_groups; g++) {
        const struct kv_pool *pool = &seq->kv->pool[g];
        uint32_t n_same = 0;
        if (!kv_has_parts(&pool->opt))
            source[g] = kv_index_find_part(pool, parent, tokens, n, &n_same);
        n = n_same;
    }
    return n;
}

/* Of a page that will have keys and values of both kinds, what another made that has only the common kind is good
 * up to where the sequence's own begin. */
static uint32_t find_part(const struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens,
                          uint32_t source[KV_MAX_GROUPS])
{
    uint32_t at = seq->n_committed / KV_PAGE_TOKENS;
    struct kv_hash parent = kv_parent_of(seq, at, seq->chain);
    uint32_t n = find_part_of(seq, parent, tokens, n_tokens, source);
    uint32_t n_common = at == seq->own_page ? seq->own_from - seq->n_committed : 0;
    uint32_t other[KV_MAX_GROUPS];
    if (n_common > n_tokens)
        n_common = n_tokens;
    if (n_common <= n)
        return n;
    n_common = find_part_of(seq, seq->chain, tokens, n_common, other);
    if (n_common <= n)
        return n;
    memcpy(source, other, sizeof(other));
    return n_common;
}

/* The source is held while a page is taken: it might be the next one to go. */
static void copy_part(struct kv_pool *pool, struct kv_table *t, uint32_t source)
{
    kv_pool_hold(pool, source);
    uint32_t page = kv_pool_take(pool);
    kv_pool_copy(pool, page, source);
    kv_pool_drop(pool, source);
    t->page[t->n++] = page;
}

static bool may_copy(const struct kv_seq *seq, const uint32_t source[KV_MAX_GROUPS])
{
    for (uint32_t g = 0; g < seq->kv->n_groups; g++) {
        const struct kv_pool *pool = &seq->kv->pool[g];
        uint32_t n_held = pool->page[source[g]].refs == 0; /* for a moment */
        if (1 + n_held > pool->n_free - pool->n_promised)
            return false;
    }
    return true;
}

/* Of n tokens more, so many that the sequence can go on behind them. */
static uint32_t end_at_step(const struct kv_seq *seq, uint32_t n)
{
    uint32_t end = seq->n_committed + n;
    if (seq->own_page == KV_NO_PAGE || seq->own_step == 0 || end <= seq->own_from)
        return n;
    end -= end % seq->own_step;
    end = end > seq->own_from ? end : seq->own_from;
    return end > seq->n_committed ? end - seq->n_committed : 0;
}

static void match_part(struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens)
{
    uint32_t source[KV_MAX_GROUPS];
    uint32_t n = end_at_step(seq, find_part(seq, tokens, n_tokens, source));
    if (n == 0 || !may_copy(seq, source))
        return;
    for (uint32_t g = 0; g < seq->kv->n_groups; g++)
        copy_part(&seq->kv->pool[g], &seq->table[g], source[g]);
    memcpy(seq->open_tokens, tokens, n * sizeof(*tokens));
    seq->n_committed += n;
}

int64_t kv_seq_match(struct kv_seq *seq, const int32_t *tokens, uint32_t n_tokens)
{
    assert(seq->n_committed == 0 && seq->table[0].n == 0 && n_tokens <= seq->max_tokens);
    if (seq->is_private)
        return 0;
    uint32_t n = longest_usable(seq, find_pages(seq, tokens, n_tokens / KV_PAGE_TOKENS));
    if (!may_hold(seq, n))
        return -ENOSPC;
    hold_pages(seq, tokens, n);
    match_part(seq, tokens + seq->n_committed, n_tokens - seq->n_committed);
    return seq->n_committed;
}
