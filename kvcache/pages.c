/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c - the fixed pools of pages, one per group of layers.
 *
 * All memory is mapped at open, 2 MiB aligned and in huge pages where the kernel has them: a step
 * walks keys and values in page order, and 4 KiB pages would cost a TLB miss every other line.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kvcache/internal.h"

#define HUGE_PAGE ((size_t)2 << 20)

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

int kv_pool_open(struct kv_pool *pool, const struct kv_group_options *opt)
{
    size_t layer_total, total;
    if (opt->n_layers == 0 || opt->layer_bytes == 0 || opt->layer_bytes % 64 || opt->n_pages == 0)
        return -EINVAL;
    if (__builtin_mul_overflow(opt->layer_bytes, (size_t)opt->n_pages, &layer_total) ||
        __builtin_mul_overflow(layer_total, (size_t)opt->n_layers, &total))
        return -ENOMEM;
    pool->opt = *opt;
    pool->free = malloc(opt->n_pages * sizeof(*pool->free));
    pool->mem = map_huge(total, &pool->mem_bytes);
    if (!pool->free || !pool->mem)
        return -ENOMEM; /* kv_close frees what there is */
    for (uint32_t i = 0; i < opt->n_pages; i++)
        pool->free[i] = opt->n_pages - 1 - i;
    pool->n_free = opt->n_pages;
    return 0;
}

void kv_pool_close(struct kv_pool *pool)
{
    if (pool->mem)
        munmap(pool->mem, pool->mem_bytes);
    free(pool->free);
    pool->mem = NULL;
    pool->free = NULL;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t kv_pool_take(struct kv_pool *pool, uint64_t *shuffle_state)
{
    assert(pool->n_free > 0);
    uint32_t top = pool->n_free - 1;
    if (*shuffle_state) {
        uint32_t i = (uint32_t)(next_random(shuffle_state) % pool->n_free);
        uint32_t page = pool->free[i];
        pool->free[i] = pool->free[top];
        pool->free[top] = page;
    }
    pool->n_free = top;
    return pool->free[top];
}

void kv_pool_give(struct kv_pool *pool, uint32_t page)
{
    assert(page < pool->opt.n_pages && pool->n_free < pool->opt.n_pages);
    pool->free[pool->n_free++] = page;
}

int kv_open(struct kv **out, const struct kv_options *opt)
{
    *out = NULL;
    if (opt->n_groups == 0 || opt->n_groups > KV_MAX_GROUPS)
        return -EINVAL;
    struct kv *kv = calloc(1, sizeof(*kv));
    if (!kv)
        return -ENOMEM;
    kv->shuffle_state = opt->shuffle_seed;
    int rc = 0;
    for (; kv->n_groups < opt->n_groups && rc == 0; kv->n_groups++)
        rc = kv_pool_open(&kv->pool[kv->n_groups], &opt->group[kv->n_groups]);
    if (rc != 0) {
        kv_close(kv);
        return rc;
    }
    *out = kv;
    return 0;
}

void kv_close(struct kv *kv)
{
    if (!kv)
        return;
    assert(!kv->seqs);
    for (uint32_t g = 0; g < kv->n_groups; g++)
        kv_pool_close(&kv->pool[g]);
    free(kv);
}

void kv_group_stats(const struct kv *kv, uint32_t group, struct kv_group_stats *out)
{
    assert(group < kv->n_groups);
    out->n_pages = kv->pool[group].opt.n_pages;
    out->n_free = kv->pool[group].n_free;
    out->n_promised = kv->pool[group].n_promised;
}
