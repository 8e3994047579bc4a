/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sequence.c - pages, block tables and windows.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "kvcache/kvcache.h"

enum { PAGE = KV_PAGE_TOKENS };

/* Enough for tests: FNV-1a, twice. */
static void hash(const void *bytes, size_t n, uint64_t seed, uint64_t out[2])
{
    for (int half = 0; half < 2; half++) {
        uint64_t h = 14695981039346656037u + seed * 31 + (uint64_t)half;
        for (size_t i = 0; i < n; i++)
            h = (h ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
        out[half] = h ^ h >> 29;
    }
}

static struct kv *open_kv(uint32_t n_pages, uint32_t window, uint64_t seed)
{
    struct kv_options opt = { .n_groups = 2, .shuffle_seed = seed, .hash = hash };
    opt.group[0] = (struct kv_group_options){ .n_layers = 3,
                                              .layer_bytes = 128,
                                              .n_pages = n_pages };
    opt.group[1] = (struct kv_group_options){
        .n_layers = 2, .layer_bytes = 64, .n_pages = n_pages, .window = window
    };
    struct kv *kv;
    cr_assert_eq(kv_open(&kv, &opt), 0);
    return kv;
}

static struct kv_seq *open_seq(struct kv *kv, uint32_t max_tokens)
{
    struct kv_seq_options opt = { .max_tokens = max_tokens };
    struct kv_seq *s;
    cr_assert_eq(kv_seq_open(kv, &opt, &s), 0);
    return s;
}

/* Commits tokens that no other sequence of these tests has, up to n positions. */
static void commit_to(struct kv_seq *s, uint32_t n)
{
    static int32_t next_token;
    for (uint32_t i = kv_seq_n_committed(s); i < n; i++) {
        next_token++;
        kv_seq_commit(s, &next_token, 1);
    }
}

static void expect_valid(const struct kv *kv)
{
    const char *wrong = kv_check(kv);
    cr_assert_null(wrong, "%s", wrong);
}

static uint32_t n_free(const struct kv *kv, uint32_t group)
{
    struct kv_group_stats s;
    kv_group_stats(kv, group, &s);
    return s.n_free;
}

Test(pages, a_zero_or_unaligned_field_is_refused)
{
    struct kv *kv;
    struct kv_options opt = { .n_groups = 0, .hash = hash };
    cr_assert_eq(kv_open(&kv, &opt), -EINVAL);
    opt.n_groups = 1;
    cr_assert_eq(kv_open(&kv, &opt), -EINVAL);
    opt.group[0] = (struct kv_group_options){ .n_layers = 1, .layer_bytes = 65, .n_pages = 1 };
    cr_assert_eq(kv_open(&kv, &opt), -EINVAL);
    cr_assert_null(kv);
    opt.group[0] = (struct kv_group_options){ .n_layers = UINT32_MAX,
                                              .layer_bytes = SIZE_MAX / 64 * 64,
                                              .n_pages = UINT32_MAX - 1 };
    cr_assert_eq(kv_open(&kv, &opt), -ENOMEM);
    kv_close(NULL);
}

Test(sequence, reserve_takes_all_groups_or_nothing)
{
    struct kv *kv = open_kv(4, 0, 0);
    struct kv_seq *a, *b;
    a = open_seq(kv, 1000);
    b = open_seq(kv, 1000);
    cr_assert_eq(kv_seq_reserve(a, 3 * PAGE), 0);
    cr_assert_eq(kv_seq_reserve(b, PAGE + 1), -ENOSPC);
    cr_assert_eq(n_free(kv, 0), 1);
    cr_assert_eq(n_free(kv, 1), 1);
    cr_assert_eq(kv_seq_reserve(b, PAGE), 0);
    cr_assert_eq(kv_seq_reserve(b, 1001), -EINVAL);
    expect_valid(kv);
    kv_seq_close(a);
    cr_assert_eq(kv_seq_reserve(b, 4 * PAGE), 0);
    expect_valid(kv);
    kv_seq_close(b);
    cr_assert_eq(n_free(kv, 0), 4);
    kv_close(kv);
}

Test(sequence, pages_that_slid_out_of_the_window_return_to_the_pool)
{
    struct kv *kv = open_kv(16, 100, 0);
    struct kv_seq *s;
    s = open_seq(kv, 2000);
    for (uint32_t n = 1; n <= 800; n++) {
        cr_assert_eq(kv_seq_reserve(s, n), 0);
        uint32_t pos = n - 1, first = pos < 100 ? 0 : pos - 99;
        for (uint32_t p = first / PAGE; p <= pos / PAGE; p++)
            cr_assert_not_null(kv_page(s, 1, 0, p), "position %u needs page %u", pos, p);
        commit_to(s, n);
        expect_valid(kv);
    }
    cr_assert_null(kv_page(s, 1, 0, 5));
    cr_assert_not_null(kv_page(s, 0, 0, 5));
    const struct kv_group_options window = { .window = 100 };
    cr_assert_leq(16 - n_free(kv, 1), kv_pages_needed(&window, 800, 1));
    cr_assert_eq(n_free(kv, 0), 16 - 13);
    kv_seq_close(s);
    cr_assert_eq(n_free(kv, 1), 16);
    kv_close(kv);
}

Test(sequence, a_page_is_sealed_by_its_position_alone)
{
    struct kv *kv = open_kv(16, 0, 0);
    struct kv_seq *s;
    s = open_seq(kv, 1000);
    cr_assert_eq(kv_seq_reserve(s, 200), 0);
    commit_to(s, 63);
    cr_assert_eq(kv_seq_n_sealed(s), 0);
    commit_to(s, 64);
    cr_assert_eq(kv_seq_n_sealed(s), 64);
    commit_to(s, 200);
    cr_assert_eq(kv_seq_n_sealed(s), 192);
    cr_assert_eq(kv_seq_n_committed(s), 200);
    kv_seq_close(s);
    kv_close(kv);
}

Test(sequence, pages_of_all_layers_and_sequences_are_distinct_memory)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        struct kv *kv = open_kv(8, 0, seed);
        struct kv_seq *s[2];
        for (int i = 0; i < 2; i++) {
            s[i] = open_seq(kv, 1000);
            cr_assert_eq(kv_seq_reserve(s[i], 4 * PAGE), 0);
        }
        uint8_t mark = 1;
        for (int i = 0; i < 2; i++)
            for (uint32_t l = 0; l < 3; l++)
                for (uint32_t p = 0; p < 4; p++)
                    memset(kv_page(s[i], 0, l, p), mark++, 128);
        mark = 1;
        for (int i = 0; i < 2; i++)
            for (uint32_t l = 0; l < 3; l++)
                for (uint32_t p = 0; p < 4; p++, mark++) {
                    const uint8_t *mem = kv_page(s[i], 0, l, p);
                    cr_assert(mem[0] == mark && mem[127] == mark);
                }
        kv_seq_close(s[0]);
        kv_seq_close(s[1]);
        kv_close(kv);
    }
}

Test(sequence, random_use_never_breaks_an_invariant)
{
    struct kv *kv = open_kv(40, 130, 9);
    struct kv_seq *s[5] = { 0 };
    uint32_t n[5] = { 0 };
    uint64_t r = 1;
    for (int step = 0; step < 4000; step++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(r >> 40) % 5, grow = (uint32_t)(r >> 50) % 90;
        if (!s[i]) {
            s[i] = open_seq(kv, 1500);
            n[i] = 0;
        } else if (n[i] + grow > 1500 || grow == 0) {
            kv_seq_close(s[i]);
            s[i] = NULL;
        } else if (kv_seq_reserve(s[i], n[i] + grow) == 0) {
            n[i] += grow;
            commit_to(s[i], n[i]);
        }
        expect_valid(kv);
    }
    for (int i = 0; i < 5; i++)
        kv_seq_close(s[i]);
    cr_assert_eq(n_free(kv, 0), 40);
    cr_assert_eq(n_free(kv, 1), 40);
    kv_close(kv);
}

Test(promise, a_promised_page_is_nobody_elses)
{
    struct kv *kv = open_kv(10, 0, 0);
    struct kv_seq *a, *b;
    a = open_seq(kv, 1000);
    b = open_seq(kv, 1000);
    cr_assert_eq(kv_seq_promise(a, 6 * PAGE, 512), 0);
    cr_assert_eq(n_free(kv, 0), 10);
    cr_assert_eq(kv_seq_promise(b, 5 * PAGE, 512), -ENOSPC);
    cr_assert_eq(kv_seq_reserve(b, 5 * PAGE), -ENOSPC);
    cr_assert_eq(kv_seq_reserve(b, 4 * PAGE), 0);
    expect_valid(kv);
    cr_assert_eq(kv_seq_reserve(a, 6 * PAGE), 0);
    cr_assert_eq(n_free(kv, 0), 0);
    kv_seq_close(b);
    cr_assert_eq(kv_seq_promise(a, 11 * PAGE, 1), -ENOSPC);
    cr_assert_eq(kv_seq_promise(a, 10 * PAGE, 1), 0);
    expect_valid(kv);
    kv_seq_close(a);
    kv_close(kv);
}

Test(promise, a_window_needs_only_its_width_for_a_long_sequence)
{
    const struct kv_group_options window = { .window = 100 };
    struct kv *kv = open_kv(30, 100, 0);
    struct kv_seq *s;
    struct kv_group_stats stats;
    s = open_seq(kv, 1900);
    cr_assert_eq(kv_seq_promise(s, 1900, 33), 0);
    kv_group_stats(kv, 1, &stats);
    cr_assert_eq(stats.n_promised, kv_pages_needed(&window, 1900, 33));
    cr_assert_leq(stats.n_promised, 5);
    for (uint32_t n = 33; n < 1900; n += 33) { /* within the promise: never short */
        cr_assert_eq(kv_seq_reserve(s, n), 0);
        commit_to(s, n);
        expect_valid(kv);
        kv_group_stats(kv, 1, &stats);
        cr_assert_leq(30 - stats.n_free + stats.n_promised, kv_pages_needed(&window, 1900, 33));
    }
    kv_seq_close(s);
    kv_close(kv);
}
