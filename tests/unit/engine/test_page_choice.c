/* SPDX-License-Identifier: Apache-2.0
 *
 * test_page_choice.c - which pages a token attends to: the first, the last, and the best of the others.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "engine/sparsity/page_choice.h"

enum { MOST = 600 };

static uint32_t choose(const float *score, uint32_t n, uint32_t most, uint16_t *list)
{
    float scratch[MOST];
    return page_choice(score, n, most, scratch, list);
}

Test(page_choice, few_pages_are_all_chosen)
{
    float score[MOST] = { 3, 1, 2 };
    uint16_t list[MOST];
    for (uint32_t n = 0; n <= 8; n++) {
        cr_assert_eq(choose(score, n, 8, list), n);
        for (uint32_t i = 0; i < n; i++)
            cr_assert_eq(list[i], i);
    }
}

Test(page_choice, the_first_the_last_and_the_best_are)
{
    float score[] = { -9, 5, 1, 7, 3, 6, 2, -9 };
    uint16_t list[8];
    cr_assert_eq(choose(score, 8, 4, list), 4);
    cr_assert(list[0] == 0 && list[1] == 3 && list[2] == 5 && list[3] == 7);
}

Test(page_choice, of_equal_ones_the_earlier_is)
{
    float score[] = { 0, 1, 1, 1, 1, 1, 0 };
    uint16_t list[7];
    cr_assert_eq(choose(score, 7, 4, list), 4);
    cr_assert(list[0] == 0 && list[1] == 1 && list[2] == 2 && list[3] == 6);
}

Test(page_choice, what_is_no_number_is_the_last_choice)
{
    float score[] = { 0, NAN, 1, NAN, 2, NAN, 0 };
    uint16_t list[7];
    cr_assert_eq(choose(score, 7, 4, list), 4);
    cr_assert(list[0] == 0 && list[1] == 2 && list[2] == 4 && list[3] == 6);
    for (uint32_t i = 0; i < 7; i++)
        score[i] = NAN;
    cr_assert_eq(choose(score, 7, 4, list), 4, "and ends all the same");
}

Test(page_choice, many_equal_scores_take_no_longer)
{
    enum { N = 65000 };
    float *score = calloc(N, sizeof(*score)), *scratch = malloc(N * sizeof(*scratch));
    uint16_t *list = malloc(N * sizeof(*list));
    for (uint32_t most = 100; most < N; most *= 5) {
        cr_assert_eq(page_choice(score, N, most, scratch, list), most);
        cr_assert(list[most / 2] == most / 2 && list[most - 1] == N - 1);
    }
    free(score), free(scratch), free(list);
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* With few different scores, so that many are equal; against sorting. */
Test(page_choice, is_the_choice_of_a_sort_at_any_size)
{
    uint64_t state = 7;
    for (uint32_t round = 0; round < 2000; round++) {
        float score[MOST], sorted[MOST];
        uint16_t list[MOST];
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t n = 4 + (uint32_t)(state >> 33) % (MOST - 4),
                 most = 3 + (uint32_t)(state >> 13) % (n - 3);
        uint32_t n_values = 1 + (uint32_t)(state >> 50) % 100;
        for (uint32_t i = 0; i < n; i++)
            score[i] = (float)((i * 2654435761u + round * 40503u) >> 9 & 1023u) / (float)n_values;
        for (uint32_t i = 0; i < n; i++)
            score[i] = floorf(score[i]);
        uint32_t n_last = most / 4 < 4 ? (most / 4 ? most / 4 : 1) : 4, n_best = most - 1 - n_last;
        uint32_t n_middle = n - 1 - n_last;
        for (uint32_t i = 0; i < n_middle; i++)
            sorted[i] = score[1 + i];
        qsort(sorted, n_middle, sizeof(*sorted), descending);
        cr_assert_eq(choose(score, n, most, list), most);
        double sum = 0, best = 0;
        for (uint32_t i = 0; i < n_best; i++) {
            sum += (double)score[list[1 + i]];
            best += (double)sorted[i];
            cr_assert_gt(list[1 + i], list[i]);
        }
        cr_assert_eq(sum, best, "%u of %u", most, n);
        cr_assert(list[0] == 0 && list[most - 1] == n - 1 && list[most - n_last] == n - n_last);
    }
}
