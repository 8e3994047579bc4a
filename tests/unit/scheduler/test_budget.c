/* SPDX-License-Identifier: Apache-2.0
 *
 * test_budget.c - prompt rows per step, learnt from what steps cost.
 */
#include <criterion/criterion.h>

#include "scheduler/internal.h"

static const uint64_t ms = 1000 * 1000;

/* A machine: what a step costs. */
static uint64_t cost(uint32_t n_decoding, uint32_t n_prompt_rows, uint64_t row_us)
{
    return (n_decoding > 0 ? 9 * ms : 0) + n_decoding * ms / 8 + n_prompt_rows * row_us * 1000;
}

/* So many steps with endless prompts beside n_decoding streams; returns the last step's time. */
static uint64_t run(struct budget *b, uint32_t n_decoding, uint64_t row_us, uint32_t n_steps)
{
    uint64_t ns = 0;
    for (uint32_t i = 0; i < n_steps; i++) {
        uint32_t rows = budget_rows(b, n_decoding, 512);
        ns = cost(n_decoding, rows, row_us);
        budget_note(b, n_decoding, rows, ns);
    }
    return ns;
}

static void learn_decoding(struct budget *b, uint32_t n_decoding)
{
    for (int i = 0; i < 10; i++)
        budget_note(b, n_decoding, 0, cost(n_decoding, 0, 0));
}

Test(budget, begins_carefully)
{
    struct budget b = { .row_ns = 0 };
    cr_assert_eq(budget_rows(&b, 0, 512), BUDGET_FIRST_ROWS);
    cr_assert_eq(budget_rows(&b, 5, 512), BUDGET_FIRST_ROWS);
    cr_assert_eq(budget_rows(&b, 0, 8), 8);
}

Test(budget, without_streams_a_step_takes_its_limit)
{
    struct budget b = { .row_ns = 0 };
    uint64_t ns = run(&b, 0, 700, 20);
    cr_assert(ns > 140 * ms && ns <= 151 * ms, "%llu", (unsigned long long)ns);
    cr_assert_eq(budget_rows(&b, 0, 100), 100);
}

Test(budget, streams_wait_about_twice_as_long_as_alone)
{
    for (uint64_t row_us = 100; row_us <= 400; row_us += 100) {
        struct budget b = { .row_ns = 0 };
        learn_decoding(&b, 4);
        uint64_t ns = run(&b, 4, row_us, 30), alone = cost(4, 0, 0);
        cr_assert(ns > alone * 3 / 2 && ns < alone * 21 / 10, "%llu of %llu",
                  (unsigned long long)ns, (unsigned long long)alone);
    }
}

/* A large model on a small machine: a step of its streams takes longer than steps without streams shall. */
Test(budget, slow_streams_leave_prompts_their_share)
{
    struct budget b = { .row_ns = 0 };
    for (int i = 0; i < 10; i++)
        budget_note(&b, 4, 0, 400 * ms);
    for (int i = 0; i < 30; i++) {
        uint32_t rows = budget_rows(&b, 4, 512);
        budget_note(&b, 4, rows, (400 + 10 * rows) * ms);
    }
    uint32_t rows = budget_rows(&b, 4, 512);
    cr_assert(rows > 30 && rows <= 40, "%u", rows);
}

/* Prompts wait all the time, so nobody has seen what 16 streams take alone, only what one takes. */
Test(budget, prompts_move_with_many_streams_that_were_never_seen_alone)
{
    struct budget b = { .row_ns = 0 };
    budget_note(&b, 1, 0, 35 * ms);
    for (int i = 0; i < 30; i++) {
        uint32_t rows = budget_rows(&b, 16, 512);
        cr_assert_geq(rows, 16);
        budget_note(&b, 16, rows, (150 + 9 * rows) * ms);
    }
}

Test(budget, the_target_asked_for_is_kept)
{
    struct budget b = { .itl_target_ns = 40 * ms };
    learn_decoding(&b, 4);
    uint64_t ns = run(&b, 4, 300, 30);
    cr_assert(ns > 36 * ms && ns < 42 * ms, "%llu", (unsigned long long)ns);
}

Test(budget, more_rows_never_take_less)
{
    struct budget b = { .row_ns = 0 };
    budget_note(&b, 1, 0, 50 * ms); /* a slow first step */
    budget_note(&b, 8, 0, 10 * ms);
    cr_assert_eq(budget_decode_ns(&b, 1), (double)(10 * ms));
    cr_assert_eq(budget_decode_ns(&b, 4), (double)(10 * ms));
}

Test(budget, what_was_not_seen_for_long_is_believed_less)
{
    struct budget b = { .row_ns = 0 };
    budget_note(&b, 8, 0, 90 * ms); /* something else had the cores */
    for (int i = 0; i < 700; i++)
        budget_note(&b, 1, 0, 10 * ms);
    cr_assert(budget_decode_ns(&b, 8) < (double)(30 * ms));
    for (int i = 0; i < 2000; i++)
        budget_note(&b, 1, 0, 10 * ms);
    cr_assert_eq(budget_decode_ns(&b, 8), budget_decode_ns(&b, 1));
}

Test(budget, prompts_always_move)
{
    struct budget b = { .itl_target_ns = ms };
    learn_decoding(&b, 64);
    run(&b, 64, 5000, 30);
    cr_assert_eq(budget_rows(&b, 64, 512), BUDGET_MIN_ROWS);
}

Test(budget, follows_rows_that_become_dearer)
{
    struct budget b = { .row_ns = 0 };
    learn_decoding(&b, 4);
    run(&b, 4, 100, 30);
    uint64_t ns = run(&b, 4, 300, 12), alone = cost(4, 0, 0);
    cr_assert_lt(ns, alone * 5 / 2);
}

Test(budget, one_step_that_stood_still_changes_little)
{
    struct budget b = { .row_ns = 0 };
    learn_decoding(&b, 4);
    run(&b, 4, 200, 30);
    uint32_t before = budget_rows(&b, 4, 512);
    budget_note(&b, 4, before, 5000 * ms);
    cr_assert_gt(budget_rows(&b, 4, 512), before / 3);
    run(&b, 4, 200, 20);
    uint32_t after = budget_rows(&b, 4, 512);
    cr_assert(after * 10 >= before * 9 && after * 9 <= before * 10, "%u, %u", before, after);
}

Test(budget, an_unseen_number_of_streams_is_judged_by_the_nearest)
{
    struct budget b = { .row_ns = 0 };
    learn_decoding(&b, 4);
    run(&b, 0, 200, 20);
    uint32_t four = budget_rows(&b, 4, 512);
    cr_assert_eq(budget_rows(&b, 30, 512), four);
    cr_assert_eq(budget_rows(&b, 1, 512), four);
}
