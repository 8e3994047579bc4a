/* SPDX-License-Identifier: Apache-2.0
 *
 * test_preempt.c - whom to pause.
 */
#include <criterion/criterion.h>

#include "scheduler/internal.h"

Test(preempt, picks_the_least_important_then_the_youngest)
{
    const struct preempt_item items[] = {
        { .priority = 0, .order = 1, .runs = true },  { .priority = 5, .order = 2, .runs = true },
        { .priority = 5, .order = 7, .runs = true },  { .priority = 0, .order = 9, .runs = true },
        { .priority = -3, .order = 8, .runs = true },
    };
    cr_assert_eq(preempt_pick(items, 5), 2);
    cr_assert_eq(preempt_pick(items, 2), 1);
    cr_assert_eq(preempt_pick(items, 1), 0);
    cr_assert_eq(preempt_pick(items + 3, 2), 0);
}

Test(preempt, picks_nobody_who_does_not_run)
{
    const struct preempt_item items[] = { { .order = 1, .runs = true },
                                          { .priority = 9, .order = 2 } };
    cr_assert_eq(preempt_pick(items, 2), 0);
    cr_assert_eq(preempt_pick(items + 1, 1), 1);
    cr_assert_eq(preempt_pick(items, 0), 0);
}

/* Whoever is paused, the most important and oldest one never is while another runs. */
Test(preempt, the_oldest_of_the_most_important_is_the_last)
{
    enum { N = 9 };
    struct preempt_item items[N];
    for (uint32_t i = 0; i < N; i++)
        items[i] = (struct preempt_item){ .priority = (int64_t)(i * 7 % 3),
                                          .order = i * 5 % N,
                                          .runs = true };
    uint32_t last = N;
    for (uint32_t n = 0; n < N; n++) {
        last = preempt_pick(items, N);
        cr_assert_lt(last, (uint32_t)N);
        items[last].runs = false;
    }
    for (uint32_t i = 0; i < N; i++)
        cr_assert(
            items[last].priority < items[i].priority ||
            (items[last].priority == items[i].priority && items[last].order <= items[i].order));
    cr_assert_eq(preempt_pick(items, N), (uint32_t)N);
}
