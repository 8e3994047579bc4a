/* SPDX-License-Identifier: Apache-2.0
 *
 * prefix.c - what pages hold, and how they are found.
 *
 * A sealed page has a hash of all tokens up to its end: hash of the page before, then its own tokens.
 * By that it is found at once.  A page that only begins as a prompt goes on is found among those
 * that follow the same prefix; these may be many (every prompt's first page follows nothing), so only
 * the newest are looked at.
 *
 * What is found is compared by its tokens, too, so a false hit takes a collision of 128 bits between
 * two whole prefixes, under a seed that nobody outside knows.
 *
 * A page's hash says nothing of the group: the same chain finds it in every pool.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/internal.h"

enum { MAX_LOOKS = 256 }; /* at pages that follow one prefix: some 20 us */

/* ---- hashes ---- */

static struct kv_hash hash_bytes(const struct kv *kv, const void *bytes, size_t n)
{
    uint64_t h[2];
    kv->hash(bytes, n, kv->hash_seed, h);
    return (struct kv_hash){ h[0], h[1] };
}

struct kv_hash kv_hash_salt(const struct kv *kv, const void *salt, size_t n_bytes)
{
    return hash_bytes(kv, n_bytes > 0 ? salt : "", n_bytes);
}

struct kv_hash kv_hash_page(const struct kv *kv, struct kv_hash parent, const int32_t *tokens)
{
    struct {
        struct kv_hash parent;
        int32_t tokens[KV_PAGE_TOKENS];
    } all = { .parent = parent };
    memcpy(all.tokens, tokens, sizeof(all.tokens));
    return hash_bytes(kv, &all, sizeof(all));
}

struct kv_hash kv_hash_way(const struct kv *kv, struct kv_hash parent, struct kv_hash way)
{
    struct kv_hash both[] = { parent, way };
    return hash_bytes(kv, both, sizeof(both));
}

static bool is_same_hash(struct kv_hash a, struct kv_hash b)
{
    return a.low == b.low && a.high == b.high;
}

/* ---- buckets ---- */

static int index_open(struct kv_index *index, uint32_t n_pages)
{
    index->n_buckets = 1;
    while (index->n_buckets < n_pages && index->n_buckets < (uint32_t)1 << 31)
        index->n_buckets *= 2;
    index->first = malloc(index->n_buckets * sizeof(*index->first));
    index->link = malloc(n_pages * sizeof(*index->link));
    if (!index->first || !index->link)
        return -1;
    for (uint32_t i = 0; i < index->n_buckets; i++)
        index->first[i] = KV_NO_PAGE;
    return 0;
}

static void index_close(struct kv_index *index)
{
    free(index->first);
    free(index->link);
    *index = (struct kv_index){ .n_buckets = 0 };
}

static uint32_t *bucket_of(const struct kv_index *index, struct kv_hash hash)
{
    return &index->first[hash.low & (index->n_buckets - 1)];
}

static void index_add(struct kv_index *index, struct kv_hash hash, uint32_t page)
{
    uint32_t *first = bucket_of(index, hash);
    index->link[page] = (struct kv_index_link){ KV_NO_PAGE, *first };
    if (*first != KV_NO_PAGE)
        index->link[*first].prev = page;
    *first = page;
}

static void index_remove(struct kv_index *index, struct kv_hash hash, uint32_t page)
{
    struct kv_index_link link = index->link[page];
    if (link.prev == KV_NO_PAGE)
        *bucket_of(index, hash) = link.next;
    else
        index->link[link.prev].next = link.next;
    if (link.next != KV_NO_PAGE)
        index->link[link.next].prev = link.prev;
}

/* ---- the index of a pool ---- */

int kv_index_open(struct kv_pool *pool)
{
    int rc = index_open(&pool->by_hash, pool->opt.n_pages);
    return rc ? rc : index_open(&pool->by_parent, pool->opt.n_pages);
}

void kv_index_close(struct kv_pool *pool)
{
    index_close(&pool->by_hash);
    index_close(&pool->by_parent);
}

void kv_index_publish(struct kv_pool *pool, uint32_t page, struct kv_hash parent,
                      struct kv_hash hash, const int32_t *tokens, uint32_t n_tokens)
{
    struct kv_page *p = &pool->page[page];
    assert(p->n_tokens == 0 && p->refs > 0 && n_tokens > 0 && n_tokens <= KV_PAGE_TOKENS);
    p->parent = parent;
    p->hash = hash;
    p->n_tokens = n_tokens;
    memcpy(p->tokens, tokens, n_tokens * sizeof(*tokens));
    index_add(&pool->by_parent, parent, page);
    if (n_tokens == KV_PAGE_TOKENS)
        index_add(&pool->by_hash, hash, page);
}

void kv_index_unpublish(struct kv_pool *pool, uint32_t page)
{
    struct kv_page *p = &pool->page[page];
    index_remove(&pool->by_parent, p->parent, page);
    if (p->n_tokens == KV_PAGE_TOKENS)
        index_remove(&pool->by_hash, p->hash, page);
    p->n_tokens = 0;
}

uint32_t kv_index_find(const struct kv_pool *pool, struct kv_hash hash, const int32_t *tokens)
{
    uint32_t page = *bucket_of(&pool->by_hash, hash);
    for (; page != KV_NO_PAGE; page = pool->by_hash.link[page].next) {
        const struct kv_page *p = &pool->page[page];
        if (is_same_hash(p->hash, hash) && memcmp(p->tokens, tokens, sizeof(p->tokens)) == 0)
            break;
    }
    return page;
}

static uint32_t count_same(const struct kv_page *p, const int32_t *tokens, uint32_t n_tokens)
{
    uint32_t n = 0, most = p->n_tokens < n_tokens ? p->n_tokens : n_tokens;
    while (n < most && p->tokens[n] == tokens[n])
        n++;
    return n;
}

uint32_t kv_index_find_part(const struct kv_pool *pool, struct kv_hash parent,
                            const int32_t *tokens, uint32_t n_tokens, uint32_t *n_same)
{
    uint32_t best = KV_NO_PAGE, page = *bucket_of(&pool->by_parent, parent);
    *n_same = 0;
    for (uint32_t i = 0; page != KV_NO_PAGE && i < MAX_LOOKS; i++) {
        const struct kv_page *p = &pool->page[page];
        uint32_t n = is_same_hash(p->parent, parent) ? count_same(p, tokens, n_tokens) : 0;
        if (n > *n_same) {
            *n_same = n;
            best = page;
        }
        page = pool->by_parent.link[page].next;
    }
    return best;
}
