/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c - the fixed pools of pages, one per group of layers: their memory, who holds them, and the
 * list of those that nobody holds, in the order in which they will be taken: first what holds
 * nothing, then what was used least recently.
 *
 * All memory is mapped at open, 2 MiB aligned and in huge pages where the kernel has them: a step
 * walks keys and values in page order, and 4 KiB pages would cost a TLB miss every other line.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvcache/internal.h"

#define HUGE_PAGE ((size_t)2 << 20)
/* Of a pool, ahead of the highest page taken: this much, or one part in WARM_PART if that is less.  Enough for
 * a few long prompts that come at once; the rest of a large pool may never be needed. */
#define WARM_BYTES ((size_t)512 << 20)
#define WARM_PART 2

/* Maps bytes rounded up to huge pages; NULL if the kernel refuses.  The memory is not touched: what
 * was never written costs nothing. */
static void *map_huge(size_t bytes, size_t *mapped)
{
    size_t size;
    if (__builtin_add_overflow(bytes, 2 * HUGE_PAGE - 1, &size))
        return NULL;
    size &= ~(HUGE_PAGE - 1); /* room to align within */
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (before)
        munmap(p, before);
    *mapped = size - HUGE_PAGE;
    if (HUGE_PAGE - before)
        munmap(p + before + *mapped, HUGE_PAGE - before);
    madvise(p + before, *mapped, MADV_HUGEPAGE);
    return p + before;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- the list of free pages ---- */

static void link_last(struct kv_pool *pool, uint32_t page)
{
    struct kv_page *p = &pool->page[page];
    p->prev = pool->free_last;
    p->next = KV_NO_PAGE;
    if (pool->free_last == KV_NO_PAGE)
        pool->free_first = page;
    else
        pool->page[pool->free_last].next = page;
    pool->free_last = page;
    pool->n_free++;
}

static void link_first(struct kv_pool *pool, uint32_t page)
{
    struct kv_page *p = &pool->page[page];
    p->prev = KV_NO_PAGE;
    p->next = pool->free_first;
    if (pool->free_first == KV_NO_PAGE)
        pool->free_last = page;
    else
        pool->page[pool->free_first].prev = page;
    pool->free_first = page;
    pool->n_free++;
}

static void unlink_free(struct kv_pool *pool, uint32_t page)
{
    const struct kv_page *p = &pool->page[page];
    if (p->prev == KV_NO_PAGE)
        pool->free_first = p->next;
    else
        pool->page[p->prev].next = p->next;
    if (p->next == KV_NO_PAGE)
        pool->free_last = p->prev;
    else
        pool->page[p->next].prev = p->prev;
    pool->n_free--;
}

/* All pages, in order or shuffled. */
static int link_all(struct kv_pool *pool, uint64_t *shuffle_state)
{
    uint32_t n = pool->opt.n_pages, *order = malloc(n * sizeof(*order));
    if (!order)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = *shuffle_state ? (uint32_t)(next_random(shuffle_state) % (i + 1)) : i;
        order[i] = order[k];
        order[k] = i;
    }
    pool->free_first = pool->free_last = KV_NO_PAGE;
    for (uint32_t i = 0; i < n; i++)
        link_last(pool, order[i]);
    free(order);
    return 0;
}

/* ---- memory ahead ---- */

static size_t page_bytes(const struct kv_pool *pool)
{
    return pool->opt.n_layers * pool->opt.layer_bytes;
}

static void warm_ahead(const struct kv_pool *pool, struct kv_warm *warm, uint32_t group)
{
    uint32_t most = (uint32_t)(WARM_BYTES / page_bytes(pool)), part = pool->opt.n_pages / WARM_PART;
    uint32_t n_ahead = most < part ? most : part, left = pool->opt.n_pages - pool->n_used;
    size_t n_pages = pool->n_used + (n_ahead < left ? n_ahead : left);
    kv_warm_ask(warm, group, pool->mem, n_pages * page_bytes(pool));
}

void kv_set_idle(struct kv *kv, bool is_idle)
{
    for (uint32_t g = 0; g < kv->n_groups && is_idle; g++)
        warm_ahead(&kv->pool[g], kv->warm, g);
    kv_warm_set_idle(kv->warm, is_idle);
}

/* ---- holders ---- */

uint32_t kv_pool_take(struct kv_pool *pool)
{
    uint32_t page = pool->free_first;
    assert(page != KV_NO_PAGE);
    unlink_free(pool, page);
    if (pool->page[page].n_tokens > 0) {
        kv_index_unpublish(pool, page);
        pool->n_cached--;
    }
    pool->page[page].refs = 1;
    pool->n_used = page < pool->n_used ? pool->n_used : page + 1;
    return page;
}

void kv_pool_hold(struct kv_pool *pool, uint32_t page)
{
    struct kv_page *p = &pool->page[page];
    assert(p->refs > 0 || p->n_tokens > 0);
    if (p->refs == 0) {
        unlink_free(pool, page);
        pool->n_cached--;
    }
    p->refs++;
}

void kv_pool_drop(struct kv_pool *pool, uint32_t page)
{
    struct kv_page *p = &pool->page[page];
    assert(page < pool->opt.n_pages && p->refs > 0);
    if (--p->refs > 0)
        return;
    if (p->n_tokens == 0) {
        link_first(pool, page);
        return;
    }
    link_last(pool, page);
    pool->n_cached++;
}

void kv_pool_copy(struct kv_pool *pool, uint32_t to, uint32_t from)
{
    size_t bytes = page_bytes(pool);
    memcpy(pool->mem + to * bytes, pool->mem + from * bytes, bytes);
}

/* ---- open, close ---- */

int kv_pool_open(struct kv_pool *pool, const struct kv_group_options *opt, uint64_t *shuffle_state)
{
    size_t layer_total, total;
    if (opt->n_layers == 0 || opt->layer_bytes == 0 || opt->layer_bytes % 64 || opt->n_pages == 0 ||
        opt->n_pages == KV_NO_PAGE || opt->open_parts > KV_MAX_OPEN_PARTS)
        return -EINVAL;
    if (__builtin_mul_overflow(opt->layer_bytes, (size_t)opt->n_pages, &layer_total) ||
        __builtin_mul_overflow(layer_total, (size_t)opt->n_layers, &total))
        return -ENOMEM;
    pool->opt = *opt;
    pool->mem = map_huge(total, &pool->mem_bytes);
    if (!pool->mem)
        return -ENOMEM; /* kv_close frees what there is */
    pool->page = calloc(opt->n_pages, sizeof(*pool->page));
    if (!pool->page || kv_index_open(pool) != 0 || link_all(pool, shuffle_state) != 0)
        return -ENOMEM;
    return 0;
}

void kv_pool_close(struct kv_pool *pool)
{
    if (pool->mem)
        munmap(pool->mem, pool->mem_bytes);
    kv_index_close(pool);
    free(pool->page);
    pool->mem = NULL;
    pool->page = NULL;
}

int kv_open(struct kv **out, const struct kv_options *opt)
{
    *out = NULL;
    if (opt->n_groups == 0 || opt->n_groups > KV_MAX_GROUPS || !opt->hash)
        return -EINVAL;
    struct kv *kv = calloc(1, sizeof(*kv));
    if (!kv)
        return -ENOMEM;
    kv->shuffle_state = opt->shuffle_seed;
    kv->hash = opt->hash;
    kv->hash_seed = opt->hash_seed;
    int rc = 0;
    for (; kv->n_groups < opt->n_groups && rc == 0; kv->n_groups++)
        rc = kv_pool_open(&kv->pool[kv->n_groups], &opt->group[kv->n_groups], &kv->shuffle_state);
    if (rc != 0) {
        kv_close(kv);
        return rc;
    }
    kv->warm = kv_warm_open();
    *out = kv;
    return 0;
}

void kv_close(struct kv *kv)
{
    if (!kv)
        return;
    assert(!kv->seqs);
    kv_warm_close(kv->warm);
    for (uint32_t g = 0; g < kv->n_groups; g++)
        kv_pool_close(&kv->pool[g]);
    free(kv);
}

uint32_t kv_n_unpromised(const struct kv *kv)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t g = 0; g < kv->n_groups; g++) {
        uint32_t n = kv->pool[g].n_free - kv->pool[g].n_promised;
        least = n < least ? n : least;
    }
    return least;
}

void kv_group_stats(const struct kv *kv, uint32_t group, struct kv_group_stats *out)
{
    assert(group < kv->n_groups);
    out->n_pages = kv->pool[group].opt.n_pages;
    out->n_free = kv->pool[group].n_free;
    out->n_cached = kv->pool[group].n_cached;
    out->n_promised = kv->pool[group].n_promised;
}
