/* SPDX-License-Identifier: Apache-2.0
 *
 * test_warm.c - memory ahead of the pages that are taken becomes present while the cache is idle, and only that.
 */
#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvcache/kvcache.h"

enum { LAYER_BYTES = 1 << 20, N_PAGES = 2048, MIB = 1 << 20 };

static void hash(const void *bytes, size_t n, uint64_t seed, uint64_t out[2])
{
    (void)bytes;
    out[0] = n;
    out[1] = seed;
}

static bool kernel_can(void)
{
    size_t n = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool can = madvise(p, n, MADV_POPULATE_WRITE) == 0;
    munmap(p, n);
    return can;
}

static bool is_present(const uint8_t *at)
{
    unsigned char present = 0;
    cr_assert_eq(mincore((void *)(uintptr_t)at, 1, &present), 0);
    return present & 1;
}

/* A pool whose first page is taken. */
struct pool {
    struct kv *kv;
    struct kv_seq *seq;
    const uint8_t *mem;
};

static struct kv_options options(uint32_t page_bytes, uint32_t n_pages)
{
    return (struct kv_options){
        .n_groups = 1,
        .group[0] = { .n_layers = 1, .layer_bytes = page_bytes, .n_pages = n_pages },
        .hash = hash
    };
}

static struct pool open_pool(const struct kv_options *opt)
{
    struct pool p;
    cr_assert_eq(kv_open(&p.kv, opt), 0);
    cr_assert_eq(kv_seq_open(p.kv, &(struct kv_seq_options){ .max_tokens = 64 }, &p.seq), 0);
    cr_assert_eq(kv_seq_reserve(p.seq, 64), 0);
    p.mem = kv_page(p.seq, 0, 0, 0);
    return p;
}

static void close_pool(struct pool *p)
{
    kv_seq_close(p->seq);
    kv_close(p->kv);
}

static void expect_present_up_to(const struct kv_options *opt, size_t present, size_t absent)
{
    if (!kernel_can())
        cr_skip_test("a kernel before Linux 5.14");
    struct pool p = open_pool(opt);
    kv_set_idle(p.kv, true);
    for (int i = 0; i < 2000 && !is_present(p.mem + present); i++)
        usleep(10000);
    cr_assert(is_present(p.mem + present));
    usleep(100000);
    cr_assert(!is_present(p.mem + absent));
    close_pool(&p);
}

Test(warm, memory_ahead_is_present_and_what_is_far_is_not)
{
    struct kv_options opt = options(LAYER_BYTES, N_PAGES);
    expect_present_up_to(&opt, 500 * MIB, 600 * MIB);
}

/* Half of a pool, where that is less. */
Test(warm, a_small_pool_is_not_made_present_whole)
{
    struct kv_options opt = options(MIB, 64);
    expect_present_up_to(&opt, 31 * MIB, 36 * MIB);
}

/* Steps are not disturbed. */
Test(warm, while_steps_run_nothing_is_made_present)
{
    struct kv_options opt = options(LAYER_BYTES, N_PAGES);
    struct pool p = open_pool(&opt);
    usleep(100000);
    cr_assert(!is_present(p.mem + 16 * MIB));
    kv_set_idle(p.kv, true);
    kv_set_idle(p.kv, false);
    usleep(100000);
    cr_assert(!is_present(p.mem + 500 * MIB));
    close_pool(&p);
}

/* Closing waits for nobody. */
Test(warm, a_cache_may_close_at_once)
{
    struct kv_options opt = options(LAYER_BYTES, N_PAGES);
    for (int i = 0; i < 20; i++) {
        struct pool p = open_pool(&opt);
        kv_set_idle(p.kv, true);
        close_pool(&p);
    }
}
