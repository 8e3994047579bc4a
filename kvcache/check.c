/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - every invariant of the cache, for tests and debug builds.
 */
#include <stdlib.h>

#include "kvcache/internal.h"

/* Counts each page's holders: the free list and the tables must hold every page exactly once. */
static const char *check_pool(const struct kv *kv, uint32_t g, uint8_t *held)
{
    const struct kv_pool *pool = &kv->pool[g];
    if (pool->n_free > pool->opt.n_pages)
        return "more pages are free than there are";
    for (uint32_t i = 0; i < pool->n_free; i++)
        if (held[pool->free[i]]++)
            return "a page is on the free list twice";
    for (const struct kv_seq *s = kv->seqs; s; s = s->next)
        for (uint32_t i = s->table[g].first; i < s->table[g].n; i++)
            if (held[s->table[g].page[i]]++)
                return "a page is held twice";
    for (uint32_t i = 0; i < pool->opt.n_pages; i++)
        if (!held[i])
            return "a page is lost";
    uint64_t promised = 0;
    for (const struct kv_seq *s = kv->seqs; s; s = s->next) {
        const struct kv_table *t = &s->table[g];
        promised += t->quota > t->n - t->first ? t->quota - (t->n - t->first) : 0;
    }
    if (promised != pool->n_promised || promised > pool->n_free)
        return "promises do not add up";
    return NULL;
}

static const char *check_seq(const struct kv *kv, const struct kv_seq *s)
{
    for (uint32_t g = 0; g < kv->n_groups; g++) {
        if (s->table[g].first > s->table[g].n || s->table[g].n > s->cap)
            return "a block table is longer than its sequence may be";
        if ((uint64_t)s->table[g].n * KV_PAGE_TOKENS < s->n_committed)
            return "committed positions have no page";
    }
    return NULL;
}

const char *kv_check(const struct kv *kv)
{
    const char *wrong = NULL;
    for (const struct kv_seq *s = kv->seqs; s && !wrong; s = s->next)
        wrong = check_seq(kv, s);
    for (uint32_t g = 0; g < kv->n_groups && !wrong; g++) {
        uint8_t *held = calloc(kv->pool[g].opt.n_pages, 1);
        wrong = held ? check_pool(kv, g, held) : "no memory to check";
        free(held);
    }
    return wrong;
}
