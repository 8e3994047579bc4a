/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - the pools, block tables and prefix index behind kvcache.h.
 *
 *   pages.c     a pool: memory, counts of holders, the list of free pages
 *   warm.c      its memory, made present before it is written
 *   prefix.c    what a page holds and how it is found
 *   sequence.c  block tables: reserve, commit, fork
 *   match.c     a sequence that begins with pages found
 *   check.c     every invariant
 */
#ifndef LACUNA_KVCACHE_INTERNAL_H
#define LACUNA_KVCACHE_INTERNAL_H

#include "kvcache/kvcache.h"

#define KV_NO_PAGE UINT32_MAX

/* Of all tokens up to the end of a sealed page, and of the salt. */
struct kv_hash {
    uint64_t low, high;
};

/* What is known of a page.  It is in one of three states: held (refs > 0), free, or free and
 * published, which is what the statistics call cached.  Sealed pages are published while held, too. */
struct kv_page {
    uint32_t refs;         /* block tables that hold it */
    uint32_t prev, next;   /* in the list of free pages, if refs == 0 */
    uint32_t n_tokens;     /* 0: not published; KV_PAGE_TOKENS: sealed; else the first few */
    struct kv_hash parent; /* of what comes before it */
    struct kv_hash hash;   /* and of this, if it is sealed */
    int32_t tokens[KV_PAGE_TOKENS];
};

/* Published pages by a hash, in doubly linked buckets. */
struct kv_index {
    uint32_t n_buckets; /* a power of two */
    uint32_t *first;    /* [n_buckets] */
    struct kv_index_link {
        uint32_t prev, next;
    } * link; /* [n_pages] */
};

/* The pages of one group.  Page p of layer l lies at mem + (p * n_layers + l) * layer_bytes: all
 * layers of a page together, so that a page that was never used before costs a fresh huge page or so
 * when it is first written, not one per layer in the same step. */
struct kv_pool {
    struct kv_group_options opt;
    uint8_t *mem;
    size_t mem_bytes;
    uint32_t n_used;           /* pages up to the highest that was ever taken */
    struct kv_page *page;      /* [n_pages] */
    uint32_t free_first;       /* the next to be taken */
    uint32_t free_last;        /* the one given back last */
    uint32_t n_free, n_cached; /* cached ones are among the free */
    uint32_t n_promised; /* of the free ones: the sum of what tables were promised and hold not */
    struct kv_index by_hash;   /* sealed pages */
    struct kv_index by_parent; /* all published ones, newest first */
};

struct kv {
    struct kv_pool pool[KV_MAX_GROUPS];
    uint32_t n_groups;
    void (*hash)(const void *bytes, size_t n, uint64_t seed, uint64_t out[2]);
    uint64_t hash_seed;
    uint64_t shuffle_state; /* 0: pages are handed out in order */
    struct kv_warm *warm;   /* NULL: memory is made present by whoever writes it first */
    struct kv_seq *seqs;    /* all open ones, for kv_check */
};

/* Entries [first, n) of a table hold pages; below first they slid out of the window. */
struct kv_table {
    uint32_t *page; /* [cap] */
    uint32_t first, n;
    uint32_t part[KV_MAX_OPEN_PARTS]; /* of the open page, where it has parts of its own */
    uint32_t n_parts;                 /* 0 or opt.open_parts */
    uint32_t quota;                   /* pages promised; it may hold more or fewer */
};

struct kv_seq {
    struct kv *kv;
    struct kv_seq *prev, *next;
    uint32_t cap; /* entries of each table */
    uint32_t max_tokens;
    uint32_t n_committed;
    bool is_private;
    struct kv_hash salt;
    struct kv_hash own_way; /* how it makes what others make otherwise of the same tokens */
    uint32_t own_step;      /* see kv_seq_options */
    uint32_t own_from;      /* its first position that is not, */
    uint32_t own_page;      /* and the page that this lies in; KV_NO_PAGE: all are */
    struct kv_hash chain;   /* of the sealed pages; of the salt alone at first */
    int32_t open_tokens[KV_PAGE_TOKENS]; /* n_committed % KV_PAGE_TOKENS of them */
    struct kv_table table[KV_MAX_GROUPS];
};

/* ---- pages.c ---- */

int kv_pool_open(struct kv_pool *pool, const struct kv_group_options *opt, uint64_t *shuffle_state);
void kv_pool_close(struct kv_pool *pool);
/* A page with one holder and nothing in it; the pool must have a free one. */
uint32_t kv_pool_take(struct kv_pool *pool);
/* One more holder of a page that is held or published. */
void kv_pool_hold(struct kv_pool *pool, uint32_t page);
/* One holder fewer.  Without any it is free: published, the last to be taken again, else the first. */
void kv_pool_drop(struct kv_pool *pool, uint32_t page);
void kv_pool_copy(struct kv_pool *pool, uint32_t to, uint32_t from); /* what lies in it */

/* ---- warm.c ---- */

struct kv_warm *kv_warm_open(void);    /* NULL if there is no such thread */
void kv_warm_close(struct kv_warm *w); /* before the memory goes; NULL is fine */
/* The first bytes of a pool's memory, not fewer than before, will be written soon. */
void kv_warm_ask(struct kv_warm *w, uint32_t group, uint8_t *mem, size_t bytes);
/* It works only while the cache is idle; at first it is not. */
void kv_warm_set_idle(struct kv_warm *w, bool is_idle);

/* ---- prefix.c ---- */

struct kv_hash kv_hash_salt(const struct kv *kv, const void *salt, size_t n_bytes);
struct kv_hash kv_hash_page(const struct kv *kv, struct kv_hash parent, const int32_t *tokens);
/* Of what follows `parent`, but is made in another way. */
struct kv_hash kv_hash_way(const struct kv *kv, struct kv_hash parent, struct kv_hash way);

int kv_index_open(struct kv_pool *pool);
void kv_index_close(struct kv_pool *pool);
/* From now on the page can be found as the one that holds these tokens after `parent`.  hash: its
 * own, read if it is sealed. */
void kv_index_publish(struct kv_pool *pool, uint32_t page, struct kv_hash parent,
                      struct kv_hash hash, const int32_t *tokens, uint32_t n_tokens);
void kv_index_unpublish(struct kv_pool *pool, uint32_t page); /* one that is published */
/* The sealed page of this hash and these KV_PAGE_TOKENS tokens, or KV_NO_PAGE. */
uint32_t kv_index_find(const struct kv_pool *pool, struct kv_hash hash, const int32_t *tokens);
/* Of the newest pages after `parent` the one that agrees with most of these tokens, how many in
 * *n_same; or KV_NO_PAGE. */
uint32_t kv_index_find_part(const struct kv_pool *pool, struct kv_hash parent,
                            const int32_t *tokens, uint32_t n_tokens, uint32_t *n_same);

/* ---- sequence.c ---- */

/* Is a page of the group open in parts, beside the one that it is sealed in? */
bool kv_has_parts(const struct kv_group_options *group);
/* Entries of a table once n_tokens are written. */
uint32_t kv_pages_of(const struct kv_group_options *group, uint32_t n_tokens);

/* What a table was promised beyond what it holds. */
uint32_t kv_table_outstanding(const struct kv_table *t);

/* What a sequence's page number `at` follows, if the hash of the pages before it is this. */
struct kv_hash kv_parent_of(const struct kv_seq *seq, uint32_t at, struct kv_hash chain);

#endif
