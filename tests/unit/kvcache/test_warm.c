/* SPDX-License-Identifier: Apache-2.0
 *
 * test_warm.c - memory ahead of the pages that are taken becomes present, and only that.
 */
#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvcache/kvcache.h"

enum { LAYER_BYTES = 64 << 10, N_PAGES = 4096, MIB = 1 << 20 };

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

Test(warm, memory_ahead_is_present_and_what_is_far_is_not)
{
    struct kv_options opt = {
        .n_groups = 1,
        .group[0] = { .n_layers = 1, .layer_bytes = LAYER_BYTES, .n_pages = N_PAGES },
        .hash = hash
    };
    struct kv *kv;
    struct kv_seq *seq;
    if (!kernel_can())
        cr_skip_test("a kernel before Linux 5.14");
    cr_assert_eq(kv_open(&kv, &opt), 0);
    cr_assert_eq(kv_seq_open(kv, &(struct kv_seq_options){ .max_tokens = 64 }, &seq), 0);
    cr_assert_eq(kv_seq_reserve(seq, 64), 0);
    const uint8_t *first = kv_page(seq, 0, 0, 0);
    for (int i = 0; i < 2000 && !is_present(first + 48 * MIB); i++)
        usleep(10000);
    cr_assert(is_present(first + 48 * MIB));
    usleep(100000);
    cr_assert(!is_present(first + 128 * MIB));
    kv_seq_close(seq);
    kv_close(kv);
}

/* A quarter of a pool, where that is less, and two pages. */
Test(warm, a_small_pool_is_not_made_present_whole)
{
    struct kv_options opt = { .n_groups = 1,
                              .group[0] = { .n_layers = 1, .layer_bytes = MIB, .n_pages = 64 },
                              .hash = hash };
    struct kv *kv;
    struct kv_seq *seq;
    if (!kernel_can())
        cr_skip_test("a kernel before Linux 5.14");
    cr_assert_eq(kv_open(&kv, &opt), 0);
    cr_assert_eq(kv_seq_open(kv, &(struct kv_seq_options){ .max_tokens = 64 }, &seq), 0);
    cr_assert_eq(kv_seq_reserve(seq, 64), 0);
    const uint8_t *first = kv_page(seq, 0, 0, 0);
    for (int i = 0; i < 2000 && !is_present(first + 16 * MIB); i++)
        usleep(10000);
    cr_assert(is_present(first + 16 * MIB));
    usleep(100000);
    cr_assert(!is_present(first + 24 * MIB));
    kv_seq_close(seq);
    kv_close(kv);
}

/* Closing waits for nobody. */
Test(warm, a_cache_may_close_at_once)
{
    struct kv_options opt = {
        .n_groups = 1,
        .group[0] = { .n_layers = 1, .layer_bytes = LAYER_BYTES, .n_pages = N_PAGES },
        .hash = hash
    };
    for (int i = 0; i < 20; i++) {
        struct kv *kv;
        struct kv_seq *seq;
        cr_assert_eq(kv_open(&kv, &opt), 0);
        cr_assert_eq(kv_seq_open(kv, &(struct kv_seq_options){ .max_tokens = 64 }, &seq), 0);
        cr_assert_eq(kv_seq_reserve(seq, 64), 0);
        kv_seq_close(seq);
        kv_close(kv);
    }
}
