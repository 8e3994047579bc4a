/* SPDX-License-Identifier: Apache-2.0
 *
 * page_choice.c - the highest scores by quickselect: it does not matter in which order pages are compared.
 */
#include "engine/sparsity/page_choice.h"

#include <math.h>

static void swap(float *a, float *b)
{
    float x = *a;
    *a = *b;
    *b = x;
}

/* Moves what is above `pivot` to the front, then what equals it; how many of each. */
static void partition(float *x, uint32_t n, float pivot, uint32_t *n_above, uint32_t *n_equal)
{
    uint32_t above = 0, equal_end = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] < pivot)
            continue;
        swap(&x[equal_end], &x[i]);
        if (x[equal_end] > pivot)
            swap(&x[above++], &x[equal_end]);
        equal_end++;
    }
    *n_above = above;
    *n_equal = equal_end - above;
}

/* The k-th largest of n values, k from 1 on; x is reordered. */
static float kth_largest(float *x, uint32_t n, uint32_t k)
{
    for (;;) {
        uint32_t n_above, n_equal;
        float pivot = x[n / 2]; /* scores may ascend or descend */
        partition(x, n, pivot, &n_above, &n_equal);
        if (k > n_above && k <= n_above + n_equal)
            return pivot;
        if (k <= n_above) {
            n = n_above;
            continue;
        }
        k -= n_above + n_equal;
        x += n_above + n_equal;
        n -= n_above + n_equal;
    }
}

static uint32_t list_all(uint32_t from, uint32_t to, uint16_t *list)
{
    for (uint32_t i = from; i < to; i++)
        *list++ = (uint16_t)i;
    return to - from;
}

/* What is no number is worst. */
static float worth(float score)
{
    return isnan(score) ? -INFINITY : score;
}

/* The k best of pages [from, to). */
static uint32_t list_best(const float *score, uint32_t from, uint32_t to, uint32_t k,
                          float *scratch, uint16_t *list)
{
    uint32_t n = 0, n_above = 0;
    for (uint32_t i = from; i < to; i++)
        scratch[i - from] = worth(score[i]);
    float least = kth_largest(scratch, to - from, k);
    for (uint32_t i = from; i < to; i++)
        n_above += worth(score[i]) > least;
    for (uint32_t i = from, n_ties = k - n_above; i < to; i++) {
        bool is_tie = worth(score[i]) == least && n_ties > 0;
        if (worth(score[i]) > least || is_tie)
            list[n++] = (uint16_t)i;
        n_ties -= is_tie;
    }
    return n;
}

uint32_t page_choice(const float *score, uint32_t n, uint32_t most, float *scratch, uint16_t *list)
{
    uint32_t n_last = most / 4 < PAGE_CHOICE_LAST ? most / 4 : PAGE_CHOICE_LAST;
    if (n <= most)
        return list_all(0, n, list);
    if (n_last == 0)
        n_last = 1;
    uint32_t n_listed = list_all(0, PAGE_CHOICE_FIRST, list), end = n - n_last;
    n_listed += list_best(score, PAGE_CHOICE_FIRST, end, most - PAGE_CHOICE_FIRST - n_last, scratch,
                          list + n_listed);
    return n_listed + list_all(end, n, list + n_listed);
}
