/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expert_guesses.c - which guess is read when, and that layers where guesses are wrong are left alone.
 */
#include "engine/storage/expert_guesses.h"

#include <criterion/criterion.h>

enum { N_LAYERS = 6, N_EXPERTS = 8 };

static void expect_next(struct expert_guesses *g, uint32_t layer, uint32_t of, uint32_t expert)
{
    uint32_t found = 0;
    struct guess *guess = expert_guesses_next(g, layer, &found);
    cr_assert_not_null(guess);
    cr_expect_eq(found, of);
    cr_expect_eq(guess->expert, expert);
    guess->state = GUESS_READING;
}

static void judge_all(struct expert_guesses *g, uint32_t layer, bool is_right)
{
    uint32_t n, due;
    const struct guess *list = expert_guesses_of(g, layer, &n);
    for (uint32_t i = 0; i < n; i++)
        expert_guesses_judge(g, layer, &list[i], is_right);
    cr_assert(expert_guesses_due(g, layer, &due));
    cr_assert_eq(due, layer);
    expert_guesses_forget(g, layer);
    cr_assert_not(expert_guesses_due(g, layer, &due));
}

Test(expert_guesses, nearer_layers_and_likelier_experts_go_first)
{
    struct expert_guesses *g = expert_guesses_open(N_LAYERS, N_EXPERTS);
    uint32_t near[] = { 5, 2 }, far[] = { 7, 5 }, of;
    expert_guesses_make(g, 2, 2, far, 2);
    expert_guesses_make(g, 1, 1, near, 2);
    expect_next(g, 0, 1, 5);
    expect_next(g, 0, 1, 2);
    expect_next(g, 0, 2, 7);
    expect_next(g, 0, 2, 5);
    cr_assert_null(expert_guesses_next(g, 0, &of));
    expert_guesses_close(g);
}

Test(expert_guesses, a_nearer_guess_decides_and_leaves_what_has_begun)
{
    struct expert_guesses *g = expert_guesses_open(N_LAYERS, N_EXPERTS);
    uint32_t far[] = { 1, 2, 3 }, near[] = { 4, 3 }, of, n;
    expert_guesses_make(g, 2, 2, far, 3);
    expect_next(g, 0, 2, 1);
    expert_guesses_make(g, 2, 1, near, 2);
    cr_expect_eq(expert_guesses_find(g, 2, 1)->state, GUESS_READING);
    cr_expect_eq(expert_guesses_find(g, 2, 2)->state, GUESS_DROPPED);
    cr_expect_eq(expert_guesses_find(g, 2, 3)->distance, 2, "the farther guess had it first");
    cr_expect_eq(expert_guesses_find(g, 2, 4)->distance, 1);
    cr_expect_null(expert_guesses_find(g, 0, 4), "of another layer");
    expert_guesses_of(g, 2, &n);
    cr_expect_eq(n, 4, "each once");
    expect_next(g, 1, 2, 4);
    expect_next(g, 1, 2, 3);
    cr_assert_null(expert_guesses_next(g, 1, &of));
    expert_guesses_close(g);
}

Test(expert_guesses, what_was_left_out_is_due)
{
    struct expert_guesses *g = expert_guesses_open(N_LAYERS, N_EXPERTS);
    uint32_t list[] = { 1 }, due;
    expert_guesses_make(g, 4, 2, list, 1);
    cr_expect_not(expert_guesses_due(g, 2, &due));
    cr_expect_not(expert_guesses_due(g, 3, &due));
    cr_expect(expert_guesses_due(g, 4, &due));
    cr_expect_eq(due, 4);
    cr_expect(expert_guesses_due(g, 5, &due), "its layer has gone by");
    cr_expect(expert_guesses_due(g, 0, &due), "the next step has begun");
    expert_guesses_close(g);
}

Test(expert_guesses, guesses_that_are_wrong_are_not_read_from_that_distance)
{
    struct expert_guesses *g = expert_guesses_open(N_LAYERS, N_EXPERTS);
    uint32_t list[] = { 3 }, of;
    for (int i = 0; i < 10; i++) {
        expert_guesses_make(g, 2, 2, list, 1);
        judge_all(g, 2, false);
    }
    expert_guesses_make(g, 2, 2, list, 1);
    cr_assert_null(expert_guesses_next(g, 0, &of));
    expert_guesses_forget(g, 2);
    expert_guesses_make(g, 2, 1, list, 1);
    expect_next(g, 1, 2, 3);
    expert_guesses_forget(g, 2);
    for (int i = 0; i < 20; i++) {
        expert_guesses_make(g, 2, 2, list, 1);
        judge_all(g, 2, true);
    }
    expert_guesses_make(g, 2, 2, list, 1);
    expect_next(g, 0, 2, 3);
    expert_guesses_close(g);
}
