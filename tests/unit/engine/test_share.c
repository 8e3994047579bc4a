/* SPDX-License-Identifier: Apache-2.0
 *
 * test_share.c - shared out rows: each in one item, long items first, none too short.
 */
#include <criterion/criterion.h>

#include "engine/share.h"

/* Units of an item; it begins where the one before ended. */
static uint32_t units_of(const struct share *s, uint32_t item, uint32_t *end)
{
    uint32_t from, to;
    share_item(s, item, &from, &to);
    cr_assert_eq(from, *end);
    cr_assert_gt(to, from);
    *end = to;
    return to - from;
}

static void expect_whole(uint32_t n_units, uint32_t n_threads, uint32_t n_least)
{
    struct share s = share_out(n_units, n_threads, n_least);
    uint32_t end = 0, longest = 0, shortest = n_units;
    for (uint32_t i = 0; i < share_n_items(&s); i++) {
        uint32_t n = units_of(&s, i, &end);
        longest = n > longest ? n : longest;
        shortest = n < shortest ? n : shortest;
    }
    cr_assert_eq(end, n_units, "%u units, %u threads, least %u", n_units, n_threads, n_least);
    if (n_units >= n_least)
        cr_assert_geq(shortest, n_least);
    /* A slow thread's first item is half of its share. */
    if (n_units >= 4 * (uint64_t)n_threads * n_least)
        cr_assert_leq(longest, n_units / (2 * n_threads) + 2);
}

Test(share, each_unit_is_in_one_item)
{
    static const uint32_t n_threads[] = { 1, 2, 3, 4, 64, 1024 };
    for (size_t t = 0; t < sizeof(n_threads) / sizeof(n_threads[0]); t++)
        for (uint32_t n_units = 1; n_units < 600; n_units++)
            for (uint32_t n_least = 1; n_least < 9; n_least++)
                expect_whole(n_units, n_threads[t], n_least);
}

Test(share, large_numbers_of_units)
{
    expect_whole(UINT32_MAX, 1024, 1);
    expect_whole(UINT32_MAX, 2, UINT32_MAX);
    expect_whole(1u << 31, 3, 7);
}

Test(share, the_last_items_are_the_shortest)
{
    struct share s = share_out(8192, 2, 1);
    uint32_t end = 0, last = 8192;
    for (uint32_t i = 0; i < share_n_items(&s); i++) {
        uint32_t n = units_of(&s, i, &end);
        cr_assert_leq(n, last + 1, "item %u", i);
        last = n;
    }
    cr_assert_leq(last, 1);
}
