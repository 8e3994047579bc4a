/* SPDX-License-Identifier: Apache-2.0
 *
 * test_prefix.c - pages that are found again, shared, copied and evicted.
 *
 * Every position writes its token into all layers of its page, as a forward step would; what a
 * sequence then sees must be its own tokens, however the pages came to it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/kvcache.h"

enum { PAGE = KV_PAGE_TOKENS, MAX = 1024, N_LAYERS = 2, SLOT_BYTES = 4 };

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

/* Group 0 sees all; group 1, if there is one, a window. */
static struct kv *open_kv(uint32_t n_pages, uint32_t window, uint32_t open_parts, uint64_t shuffle)
{
    struct kv_options opt = {
        .n_groups = window ? 2 : 1, .shuffle_seed = shuffle, .hash = hash, .hash_seed = 5
    };
    for (uint32_t g = 0; g < opt.n_groups; g++)
        opt.group[g] = (struct kv_group_options){ .n_layers = N_LAYERS,
                                                  .layer_bytes = PAGE * SLOT_BYTES,
                                                  .n_pages = n_pages,
                                                  .window = g ? window : 0,
                                                  .open_parts = open_parts };
    struct kv *kv;
    cr_assert_eq(kv_open(&kv, &opt), 0);
    return kv;
}

static struct kv_seq *open_with(struct kv *kv, const struct kv_seq_options *opt)
{
    struct kv_seq *s;
    cr_assert_eq(kv_seq_open(kv, opt, &s), 0);
    return s;
}

static struct kv_seq *open_seq(struct kv *kv, const char *salt, bool is_private)
{
    struct kv_seq_options opt = {
        .max_tokens = MAX, .salt = salt, .salt_bytes = strlen(salt), .is_private = is_private
    };
    return open_with(kv, &opt);
}

/* Its positions from own_from on are made in the way of that name. */
static struct kv_seq *open_own(struct kv *kv, const char *way, uint32_t own_from)
{
    struct kv_seq_options opt = {
        .max_tokens = MAX, .own_way = way, .own_way_bytes = strlen(way), .own_from = own_from
    };
    return open_with(kv, &opt);
}

static void expect_valid(const struct kv *kv)
{
    const char *wrong = kv_check(kv);
    cr_assert_null(wrong, "%s", wrong);
}

static struct kv_group_stats stats_of(const struct kv *kv, uint32_t group)
{
    struct kv_group_stats s;
    kv_group_stats(kv, group, &s);
    return s;
}

static uint32_t n_used(const struct kv *kv)
{
    struct kv_group_stats s = stats_of(kv, 0);
    return s.n_pages - s.n_free;
}

/* Where a committed position is to be read; of an open page in parts, in its part. */
static int32_t *slot(const struct kv_seq *s, uint32_t group, uint32_t layer, uint32_t pos)
{
    uint32_t half = PAGE / 2, open = kv_seq_n_sealed(s);
    int32_t *part = kv_open_part(s, group, layer, pos % PAGE / half);
    if (part && pos >= open)
        return part + pos % half;
    int32_t *page = kv_page(s, group, layer, pos / PAGE);
    return page ? page + pos % PAGE : NULL;
}

/* Writes the tokens of a page into a layer that is open in two parts: whole pages are sealed from what
 * the parts held before and the new ones. */
static void write_parted(const struct kv_seq *s, uint32_t group, uint32_t layer,
                         const int32_t *tokens, uint32_t n)
{
    uint32_t from = kv_seq_n_committed(s), half = PAGE / 2;
    int32_t page[PAGE];
    for (uint32_t part = 0; part < 2; part++)
        memcpy(page + part * half, kv_open_part(s, group, layer, part), half * sizeof(*page));
    for (uint32_t pos = from; pos < n; pos++) {
        page[pos % PAGE] = tokens[pos];
        if (pos % PAGE == PAGE - 1)
            memcpy(kv_page(s, group, layer, pos / PAGE), page, sizeof(page));
    }
    for (uint32_t part = 0; part < 2; part++)
        memcpy(kv_open_part(s, group, layer, part), page + part * half, half * sizeof(*page));
}

/* Computes tokens up to position n; false if there are no pages. */
static bool compute(struct kv_seq *s, uint32_t n_groups, const int32_t *tokens, uint32_t n)
{
    if (kv_seq_reserve(s, n) != 0)
        return false;
    uint32_t from = kv_seq_n_committed(s);
    for (uint32_t g = 0; g < n_groups; g++)
        for (uint32_t l = 0; l < N_LAYERS; l++) {
            if (kv_open_part(s, g, l, 0))
                write_parted(s, g, l, tokens, n);
            else
                for (uint32_t pos = from; pos < n; pos++)
                    *slot(s, g, l, pos) = tokens[pos];
        }
    kv_seq_commit(s, tokens + from, n - from);
    return true;
}

/* What the next position would read. */
static void expect_tokens(const struct kv_seq *s, uint32_t n_groups, uint32_t window,
                          const int32_t *tokens)
{
    uint32_t n = kv_seq_n_committed(s);
    for (uint32_t g = 0; g < n_groups; g++)
        for (uint32_t pos = g ? kv_first_visible(window, n) : 0; pos < n; pos++)
            for (uint32_t l = 0; l < N_LAYERS; l++) {
                const int32_t *at = slot(s, g, l, pos);
                cr_assert_not_null(at, "group %u lacks position %u", g, pos);
                cr_assert_eq(*at, tokens[pos], "group %u, position %u of %u", g, pos, n);
            }
}

static void fill(int32_t *tokens, uint32_t n, int32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = seed * 100000 + (int32_t)i;
}

static void run_once(struct kv *kv, const char *salt, const int32_t *tokens, uint32_t n)
{
    struct kv_seq *s = open_seq(kv, salt, false);
    cr_assert(compute(s, 1, tokens, n));
    kv_seq_close(s);
}

Test(match, the_same_prompt_is_found_up_to_the_limit_asked_for)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(t, MAX, 1);
    run_once(kv, "", t, 1000);
    cr_assert_eq(stats_of(kv, 0).n_free, 32);
    cr_assert_eq(stats_of(kv, 0).n_cached, 16);
    struct kv_seq *s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, t, 999), 999);
    expect_tokens(s, 1, 0, t);
    expect_valid(kv);
    cr_assert_eq(n_used(kv), 16); /* 15 shared with the cache, one copied */
    cr_assert(compute(s, 1, t, MAX));
    expect_tokens(s, 1, 0, t);
    expect_valid(kv);
    kv_seq_close(s);
    kv_close(kv);
}

Test(match, a_prompt_that_parts_within_a_page_copies_its_beginning)
{
    int32_t a[MAX], b[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(a, MAX, 1);
    fill(b, MAX, 1);
    for (uint32_t i = 150; i < MAX; i++)
        b[i] += 7;
    run_once(kv, "", a, 300);
    struct kv_seq *s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, b, 299), 150);
    cr_assert(compute(s, 1, b, 300));
    expect_tokens(s, 1, 0, b);
    kv_seq_close(s);
    s = open_seq(kv, "", false); /* the first one is still what it was */
    cr_assert_eq(kv_seq_match(s, a, 299), 299);
    expect_tokens(s, 1, 0, a);
    kv_seq_close(s);
    expect_valid(kv);
    kv_close(kv);
}

Test(match, quantised_pages_are_found_whole)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 2, 0);
    fill(t, MAX, 1);
    run_once(kv, "", t, 300);
    struct kv_seq *s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, t, 299), 256);
    expect_valid(kv);
    kv_seq_close(s);
    kv_close(kv);
}

Test(match, another_salt_and_private_sequences_find_nothing)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(t, MAX, 1);
    run_once(kv, "tenant a", t, 300);
    struct kv_seq *s = open_seq(kv, "tenant b", false);
    cr_assert_eq(kv_seq_match(s, t, 299), 0);
    kv_seq_close(s);
    s = open_seq(kv, "tenant a", true);
    cr_assert_eq(kv_seq_match(s, t, 299), 0);
    cr_assert(compute(s, 1, t, 300));
    kv_seq_close(s);
    s = open_seq(kv, "tenant a", false);
    cr_assert_eq(kv_seq_match(s, t, 299), 299);
    kv_seq_close(s);
    expect_valid(kv);
    kv_close(kv);
}

/* How much of the tokens such a sequence finds. */
static int64_t found(struct kv *kv, const char *way, uint32_t own_from, const int32_t *t,
                     uint32_t n)
{
    struct kv_seq *s = open_own(kv, way, own_from);
    int64_t n_found = kv_seq_match(s, t, n);
    expect_tokens(s, 1, 0, t);
    expect_valid(kv);
    kv_seq_close(s);
    return n_found;
}

Test(match, what_is_made_in_an_own_way_is_found_only_by_those_who_make_it_so_from_the_same_position)
{
    static const uint32_t prompts[] = { 0, 64, 100, 128, 130, 299 };
    int32_t t[MAX];
    fill(t, MAX, 1);
    for (uint32_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        uint32_t n_prompt = prompts[i], n_whole = n_prompt / PAGE * PAGE;
        struct kv *kv = open_kv(64, 0, 0, 0);
        struct kv_seq *s = open_own(kv, "fast", n_prompt);
        cr_assert(compute(s, 1, t, 300));
        kv_seq_close(s);
        cr_assert_eq(found(kv, "fast", n_prompt, t, 299), 299, "it comes again");
        cr_assert_eq(found(kv, "", 0, t, 299), n_whole, "the common way");
        cr_assert_eq(found(kv, "safe", n_prompt, t, 299), n_whole, "another way");
        cr_assert_eq(found(kv, "fast", n_prompt + 1, t, 299), n_whole, "another prompt");
        kv_close(kv);
    }
}

Test(match, a_prompt_finds_what_the_common_way_made_of_all_of_it)
{
    static const uint32_t prompts[] = { 1, 64, 100, 128, 191 };
    int32_t t[MAX];
    fill(t, MAX, 1);
    for (uint32_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        struct kv *kv = open_kv(64, 0, 0, 0);
        run_once(kv, "", t, 250);
        cr_assert_eq(found(kv, "fast", prompts[i], t, 249), prompts[i]);
        kv_close(kv);
    }
}

Test(match, behind_where_the_own_way_begins_a_hit_ends_at_its_step)
{
    static const uint32_t limits[] = { 69, 70, 71, 72, 75, 76, 127, 128, 130, 131, 132, 200 };
    int32_t t[MAX];
    fill(t, MAX, 1);
    struct kv *kv = open_kv(64, 0, 0, 0);
    struct kv_seq_options opt = {
        .max_tokens = MAX, .own_way = "few", .own_way_bytes = 3, .own_from = 70, .own_step = 4
    };
    struct kv_seq *s = open_with(kv, &opt);
    cr_assert(compute(s, 1, t, 220));
    kv_seq_close(s);
    for (uint32_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        uint32_t n = limits[i], expected = n <= 70 ? n : n / 4 * 4 > 70 ? n / 4 * 4 : 70;
        s = open_with(kv, &opt);
        cr_assert_eq(kv_seq_match(s, t, n), expected, "%u", n);
        expect_tokens(s, 1, 0, t);
        expect_valid(kv);
        kv_seq_close(s);
    }
    kv_close(kv);
}

Test(match, a_fork_goes_on_in_its_sequences_way)
{
    int32_t t[MAX];
    fill(t, MAX, 1);
    struct kv *kv = open_kv(64, 0, 0, 0);
    struct kv_seq *s = open_own(kv, "fast", 70), *fork;
    cr_assert(compute(s, 1, t, 70));
    cr_assert_eq(kv_seq_fork(s, &fork), 0);
    cr_assert(compute(fork, 1, t, 300));
    kv_seq_close(fork);
    kv_seq_close(s);
    cr_assert_eq(found(kv, "", 0, t, 299), 64);
    cr_assert_eq(found(kv, "fast", 70, t, 299), 299);
    kv_close(kv);
}

Test(match, a_private_sequence_leaves_nothing)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(t, MAX, 1);
    struct kv_seq *s = open_seq(kv, "", true);
    cr_assert(compute(s, 1, t, 300));
    kv_seq_close(s);
    cr_assert_eq(stats_of(kv, 0).n_cached, 0);
    kv_close(kv);
}

Test(match, pages_of_a_running_sequence_are_shared)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(t, MAX, 1);
    struct kv_seq *a = open_seq(kv, "", false), *b = open_seq(kv, "", false);
    cr_assert(compute(a, 1, t, 640));
    cr_assert_eq(kv_seq_match(b, t, 640), 640);
    cr_assert_eq(n_used(kv), 10);
    kv_seq_close(a);
    cr_assert_eq(n_used(kv), 10);
    expect_tokens(b, 1, 0, t);
    expect_valid(kv);
    kv_seq_close(b);
    cr_assert_eq(n_used(kv), 0);
    kv_close(kv);
}

Test(match, two_that_compute_the_same_page_keep_one)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(32, 0, 0, 0);
    fill(t, MAX, 1);
    struct kv_seq *a = open_seq(kv, "", false), *b = open_seq(kv, "", false);
    cr_assert(compute(a, 1, t, 200));
    cr_assert(compute(b, 1, t, 200));
    cr_assert_eq(n_used(kv), 5); /* three sealed ones together, an open one each */
    expect_tokens(a, 1, 0, t);
    expect_tokens(b, 1, 0, t);
    expect_valid(kv);
    kv_seq_close(a);
    kv_seq_close(b);
    kv_close(kv);
}

Test(match, a_window_needs_only_its_own_pages)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(16, 130, 0, 0);
    fill(t, MAX, 1);
    struct kv_seq *s = open_seq(kv, "", false);
    for (uint32_t n = 10; n <= 900; n += 10) {
        cr_assert(compute(s, 2, t, n));
        expect_valid(kv);
    }
    kv_seq_close(s);
    s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, t, 899), 899);
    expect_tokens(s, 2, 130, t);
    cr_assert(compute(s, 2, t, MAX));
    expect_tokens(s, 2, 130, t);
    expect_valid(kv);
    kv_seq_close(s);
    kv_close(kv);
}

/* Group 0 still has everything, the window's pool has lost the middle. */
Test(match, where_the_windows_pages_are_gone_a_shorter_prefix_is_used)
{
    int32_t a[MAX], b[MAX];
    struct kv_options opt = { .n_groups = 2, .hash = hash, .hash_seed = 1 };
    for (uint32_t g = 0; g < 2; g++)
        opt.group[g] = (struct kv_group_options){ .n_layers = N_LAYERS,
                                                  .layer_bytes = PAGE * SLOT_BYTES,
                                                  .n_pages = g ? 6 : 40,
                                                  .window = g ? 130 : 0 };
    struct kv *kv;
    cr_assert_eq(kv_open(&kv, &opt), 0);
    fill(a, MAX, 1);
    fill(b, MAX, 2);
    for (int i = 0; i < 2; i++) { /* a, then b over it */
        struct kv_seq *s = open_seq(kv, "", false);
        for (uint32_t n = 10; n <= (i ? 200u : 640u); n += 10)
            cr_assert(compute(s, 2, i ? b : a, n));
        kv_seq_close(s);
    }
    struct kv_seq *s = open_seq(kv, "", false);
    int64_t n = kv_seq_match(s, a, 639);
    cr_assert(n >= 0 && n < 639);
    expect_tokens(s, 2, 130, a);
    while (kv_seq_n_committed(s) < 640)
        cr_assert(compute(s, 2, a, kv_seq_n_committed(s) + 1));
    expect_tokens(s, 2, 130, a);
    expect_valid(kv);
    kv_seq_close(s);
    kv_close(kv);
}

Test(evict, the_least_recently_used_page_goes_first_and_a_prompts_end_before_its_beginning)
{
    int32_t a[MAX], b[MAX], c[MAX];
    struct kv *kv = open_kv(8, 0, 0, 0);
    fill(a, MAX, 1);
    fill(b, MAX, 2);
    fill(c, MAX, 3);
    run_once(kv, "", a, 4 * PAGE);
    run_once(kv, "", b, 4 * PAGE);
    run_once(kv, "", c, 2 * PAGE); /* over the last two of a */
    struct kv_seq *s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, a, 4 * PAGE), 2 * PAGE);
    expect_tokens(s, 1, 0, a);
    kv_seq_close(s);
    s = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, b, 4 * PAGE), 4 * PAGE);
    kv_seq_close(s);
    expect_valid(kv);
    kv_close(kv);
}

Test(evict, what_is_held_is_never_taken)
{
    int32_t a[MAX], b[MAX];
    struct kv *kv = open_kv(8, 0, 0, 0);
    fill(a, MAX, 1);
    fill(b, MAX, 2);
    run_once(kv, "", a, 5 * PAGE);
    struct kv_seq *s = open_seq(kv, "", false), *other = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_match(s, a, 5 * PAGE), 5 * PAGE);
    cr_assert_eq(kv_seq_reserve(other, 4 * PAGE), -ENOSPC);
    cr_assert(compute(other, 1, b, 3 * PAGE));
    expect_tokens(s, 1, 0, a);
    expect_valid(kv);
    kv_seq_close(other);
    kv_seq_close(s);
    kv_close(kv);
}

Test(match, what_others_were_promised_is_not_taken_by_a_hit)
{
    int32_t a[MAX];
    struct kv *kv = open_kv(8, 0, 0, 0);
    fill(a, MAX, 1);
    run_once(kv, "", a, 5 * PAGE);
    struct kv_seq *s = open_seq(kv, "", false), *other = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_promise(other, 6 * PAGE, 1), 0);
    cr_assert_eq(kv_seq_match(s, a, 5 * PAGE), -ENOSPC);
    expect_valid(kv);
    kv_seq_close(other);
    cr_assert_eq(kv_seq_match(s, a, 5 * PAGE), 5 * PAGE);
    kv_seq_close(s);
    kv_close(kv);
}

/* Forks of a prompt of 1,000 tokens go on, each in its own way; n_open: pages that an open one lies
 * in. */
static void fork_and_part(uint32_t open_parts, uint32_t n_open)
{
    enum { N = 8 };
    int32_t t[N][MAX];
    struct kv *kv = open_kv(64, 0, open_parts, 0);
    struct kv_seq *s[N];
    for (int i = 0; i < N; i++) {
        fill(t[i], MAX, 1);
        for (uint32_t pos = 1000; pos < MAX; pos++)
            t[i][pos] += i * 1000;
    }
    s[0] = open_seq(kv, "", false);
    cr_assert(compute(s[0], 1, t[0], 1000));
    for (int i = 1; i < N; i++)
        cr_assert_eq(kv_seq_fork(s[0], &s[i]), 0);
    cr_assert_eq(n_used(kv), 15 + n_open);
    expect_valid(kv);
    for (uint32_t n = 1001; n < MAX; n++)
        for (int i = 0; i < N; i++)
            cr_assert(compute(s[i], 1, t[i], n));
    cr_assert_eq(n_used(kv), 15 + N * n_open);
    for (int i = 0; i < N; i++)
        cr_assert(compute(s[i], 1, t[i], MAX));
    for (int i = 0; i < N; i++)
        expect_tokens(s[i], 1, 0, t[i]);
    expect_valid(kv);
    for (int i = 0; i < N; i++)
        kv_seq_close(s[i]);
    expect_valid(kv);
    cr_assert_eq(n_used(kv), 0);
    kv_close(kv);
}

Test(fork, shares_the_prompt_and_copies_the_open_page_when_it_is_written)
{
    fork_and_part(0, 1);
}

Test(fork, an_open_page_in_parts_is_copied_with_all_of_them)
{
    fork_and_part(2, 2);
}

Test(promise, parts_are_part_of_it)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(5, 0, 2, 0);
    struct kv_group_options group = { .open_parts = 2 };
    fill(t, MAX, 1);
    cr_assert_eq(kv_pages_needed(&group, 191, 64), 2 + 2);
    cr_assert_eq(kv_pages_needed(&group, 192, 64), 3 + 2);
    struct kv_seq *s = open_seq(kv, "", false), *other = open_seq(kv, "", false);
    cr_assert_eq(kv_seq_promise(s, 193, 64), 0);
    cr_assert_eq(kv_seq_promise(other, 1, 1), -ENOSPC);
    cr_assert_not(compute(other, 1, t, 1));
    for (uint32_t n = 1; n <= 193; n += 7) {
        cr_assert(compute(s, 1, t, n));
        expect_valid(kv);
    }
    cr_assert_eq(stats_of(kv, 0).n_promised + n_used(kv), 5);
    kv_seq_close(other);
    kv_seq_close(s);
    kv_close(kv);
}

Test(fork, the_last_holder_writes_in_place)
{
    int32_t t[MAX];
    struct kv *kv = open_kv(2, 0, 0, 0);
    struct kv_seq *a, *b;
    fill(t, MAX, 1);
    a = open_seq(kv, "", false);
    cr_assert(compute(a, 1, t, 70));
    cr_assert_eq(kv_seq_fork(a, &b), 0);
    cr_assert_not(compute(b, 1, t, 71)); /* no page to copy to */
    kv_seq_close(a);
    cr_assert(compute(b, 1, t, 71));
    expect_tokens(b, 1, 0, t);
    expect_valid(kv);
    kv_seq_close(b);
    kv_close(kv);
}

/* ---- anything at random ---- */

struct user {
    struct kv_seq *s;
    int32_t tokens[MAX];
};

static uint64_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Few different beginnings, so that prompts meet; ends of their own. */
static void make_prompt(int32_t *tokens, uint64_t *r)
{
    uint32_t parts[3] = { (uint32_t)draw(r) % 200, (uint32_t)draw(r) % 400, MAX };
    int32_t kind = (int32_t)(draw(r) % 3);
    for (uint32_t i = 0; i < MAX; i++)
        tokens[i] = i < parts[0] ? 5 : i < parts[0] + parts[1] ? kind : (int32_t)(draw(r) % 4);
}

static uint64_t n_found; /* positions */

static void use(struct kv *kv, struct user *users, uint32_t n_users, uint64_t *r)
{
    struct user *u = &users[draw(r) % n_users];
    if (!u->s) {
        make_prompt(u->tokens, r);
        u->s = open_seq(kv, draw(r) % 4 ? "" : "other", draw(r) % 8 == 0);
        int64_t n = kv_seq_match(u->s, u->tokens, (uint32_t)draw(r) % MAX);
        n_found += n > 0 ? (uint64_t)n : 0;
    } else if (draw(r) % 6 == 0) {
        kv_seq_close(u->s);
        u->s = NULL;
    } else if (draw(r) % 8 == 0) {
        struct user *to = &users[draw(r) % n_users];
        if (!to->s && kv_seq_fork(u->s, &to->s) == 0)
            memcpy(to->tokens, u->tokens, sizeof(to->tokens));
    } else if (draw(r) % 3 == 0) {
        kv_seq_promise(u->s,
                       kv_seq_n_committed(u->s) + (uint32_t)draw(r) % 100 < MAX
                           ? kv_seq_n_committed(u->s) + (uint32_t)draw(r) % 10
                           : MAX,
                       90);
    } else {
        uint32_t n = kv_seq_n_committed(u->s) + (uint32_t)draw(r) % 90;
        uint32_t from = kv_seq_n_committed(u->s);
        for (uint32_t i = from; i < MAX && draw(r) % 3 == 0; i++)
            u->tokens[i] = (int32_t)(draw(r) % 4); /* a fork goes another way */
        compute(u->s, 2, u->tokens, n < MAX ? n : MAX);
    }
}

Test(prefix, random_use_keeps_every_invariant_and_every_token)
{
    enum { N_USERS = 7 };
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct kv *kv = open_kv(48, 130, seed % 2 ? 0 : 2, seed);
        static struct user users[N_USERS];
        uint64_t r = seed;
        memset(users, 0, sizeof(users));
        for (int i = 0; i < 6000; i++) {
            use(kv, users, N_USERS, &r);
            if (i % 4 == 0)
                expect_valid(kv);
            const struct user *u = &users[draw(&r) % N_USERS];
            if (u->s)
                expect_tokens(u->s, 2, 130, u->tokens);
        }
        for (uint32_t i = 0; i < N_USERS; i++)
            kv_seq_close(users[i].s);
        expect_valid(kv);
        cr_assert_eq(n_used(kv), 0);
        kv_close(kv);
    }
    cr_assert_gt(n_found, 10000, "the prompts met too rarely to say anything");
}
