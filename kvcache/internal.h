/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - the pools and block tables behind kvcache.h.
 */
#ifndef LACUNA_KVCACHE_INTERNAL_H
#define LACUNA_KVCACHE_INTERNAL_H

#include "kvcache/kvcache.h"

/* The pages of one group.  Page p of layer l lies at mem + (l * n_pages + p) * layer_bytes: a
 * layer's pages are together, so that a step walks memory layer by layer. */
struct kv_pool {
    struct kv_group_options opt;
    uint8_t *mem;
    size_t mem_bytes;
    uint32_t *free; /* a stack: the last n_free entries' worth of pages nobody holds */
    uint32_t n_free;
    uint32_t n_promised; /* of the free ones: the sum of what tables were promised and hold not */
};

struct kv {
    struct kv_pool pool[KV_MAX_GROUPS];
    uint32_t n_groups;
    uint64_t shuffle_state; /* 0: pages are handed out in order */
    struct kv_seq *seqs;    /* all open ones, for kv_check */
};

/* Entries [first, n) of a table hold pages; below first they slid out of the window. */
struct kv_table {
    uint32_t *page; /* [cap] */
    uint32_t first, n;
    uint32_t quota; /* pages promised; n - first may be more or fewer */
};

struct kv_seq {
    struct kv *kv;
    struct kv_seq *prev, *next;
    uint32_t cap; /* entries of each table */
    uint32_t max_tokens;
    uint32_t n_committed;
    struct kv_table table[KV_MAX_GROUPS];
};

int kv_pool_open(struct kv_pool *pool, const struct kv_group_options *opt);
void kv_pool_close(struct kv_pool *pool);
/* Takes a page; the pool must not be empty. */
uint32_t kv_pool_take(struct kv_pool *pool, uint64_t *shuffle_state);
void kv_pool_give(struct kv_pool *pool, uint32_t page);

#endif
