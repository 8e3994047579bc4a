/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - every invariant of the cache, for tests and debug builds.
 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

/* ---- a pool ---- */

/* Marks what is on the list of free pages in `seen`. */
static const char *check_free_list(const struct kv_pool *pool, uint8_t *seen)
{
    uint32_t n = 0, n_cached = 0, before = KV_NO_PAGE;
    for (uint32_t p = pool->free_first; p != KV_NO_PAGE; p = pool->page[p].next) {
        if (p >= pool->opt.n_pages || seen[p]++ || pool->page[p].prev != before)
            return "the list of free pages is broken";
        if (pool->page[p].refs != 0)
            return "a page on the list of free ones is held";
        n_cached += pool->page[p].n_tokens > 0;
        before = p;
        n++;
    }
    if (before != pool->free_last)
        return "the list of free pages has another end";
    return n != pool->n_free || n_cached != pool->n_cached ? "free pages are miscounted" : NULL;
}

static const char *check_holders(const struct kv *kv, uint32_t g, const uint8_t *is_free,
                                 uint32_t *n_holders)
{
    const struct kv_pool *pool = &kv->pool[g];
    for (const struct kv_seq *s = kv->seqs; s; s = s->next) {
        const struct kv_table *t = &s->table[g];
        for (uint32_t i = t->first; i < t->n; i++)
            n_holders[t->page[i]]++;
        for (uint32_t i = 0; i < t->n_parts; i++)
            n_holders[t->part[i]]++;
    }
    for (uint32_t p = 0; p < pool->opt.n_pages; p++) {
        if (n_holders[p] != pool->page[p].refs)
            return "a page's holders are miscounted";
        if (is_free[p] != (n_holders[p] == 0))
            return "a page that nobody holds is not free";
    }
    return NULL;
}

static const char *check_index(const struct kv_pool *pool)
{
    uint32_t n_published = 0, n_found = 0;
    for (uint32_t p = 0; p < pool->opt.n_pages; p++) {
        const struct kv_page *page = &pool->page[p];
        n_published += page->n_tokens > 0;
        if (page->n_tokens > 0 && page->n_tokens < KV_PAGE_TOKENS && page->refs > 0)
            return "a page can be found while it is being written";
        if (page->n_tokens == KV_PAGE_TOKENS && kv_index_find(pool, page->hash, page->tokens) != p)
            return "a sealed page is not found, or is there twice";
    }
    for (uint32_t b = 0; b < pool->by_parent.n_buckets; b++)
        for (uint32_t p = pool->by_parent.first[b]; p != KV_NO_PAGE;
             p = pool->by_parent.link[p].next)
            n_found += pool->page[p].n_tokens > 0;
    return n_found != n_published ? "the index does not hold what is published" : NULL;
}

static const char *check_promises(const struct kv *kv, uint32_t g)
{
    uint64_t promised = 0;
    for (const struct kv_seq *s = kv->seqs; s; s = s->next)
        promised += kv_table_outstanding(&s->table[g]);
    return promised != kv->pool[g].n_promised || promised > kv->pool[g].n_free
               ? "promises do not add up"
               : NULL;
}

static const char *check_pool(const struct kv *kv, uint32_t g)
{
    const struct kv_pool *pool = &kv->pool[g];
    uint8_t *is_free = calloc(pool->opt.n_pages, 1);
    uint32_t *n_holders = calloc(pool->opt.n_pages, sizeof(*n_holders));
    const char *wrong = "no memory to check";
    if (is_free && n_holders) {
        wrong = check_free_list(pool, is_free);
        wrong = wrong ? wrong : check_holders(kv, g, is_free, n_holders);
        wrong = wrong ? wrong : check_index(pool);
        wrong = wrong ? wrong : check_promises(kv, g);
    }
    free(is_free);
    free(n_holders);
    return wrong;
}

/* ---- a sequence ---- */

/* The open page lies in parts of its own, or is the table's last. */
static const char *check_open_page(const struct kv_pool *pool, const struct kv_table *t,
                                   uint32_t at)
{
    if (kv_has_parts(&pool->opt)) {
        if (t->n_parts != pool->opt.open_parts)
            return "an open page lacks its parts";
        for (uint32_t i = 0; i < t->n_parts; i++)
            if (pool->page[t->part[i]].n_tokens > 0)
                return "a part of an open page can be found";
        return NULL;
    }
    return pool->page[t->page[at]].n_tokens > 0 ? "an open page can be found" : NULL;
}

static const char *check_table(const struct kv_seq *s, uint32_t g)
{
    const struct kv_table *t = &s->table[g];
    const struct kv_pool *pool = &s->kv->pool[g];
    if (t->first > t->n || t->n > s->cap)
        return "a block table is longer than its sequence may be";
    if (t->n < kv_pages_of(&pool->opt, s->n_committed))
        return "committed positions have no page";
    if (s->n_committed % KV_PAGE_TOKENS == 0)
        return NULL;
    return check_open_page(pool, t, s->n_committed / KV_PAGE_TOKENS);
}

static const char *check_seq(const struct kv_seq *s)
{
    const char *wrong = NULL;
    for (uint32_t g = 0; g < s->kv->n_groups && !wrong; g++)
        wrong = check_table(s, g);
    return wrong;
}

const char *kv_check(const struct kv *kv)
{
    const char *wrong = NULL;
    for (const struct kv_seq *s = kv->seqs; s && !wrong; s = s->next)
        wrong = check_seq(s);
    for (uint32_t g = 0; g < kv->n_groups && !wrong; g++)
        wrong = check_pool(kv, g);
    return wrong;
}
