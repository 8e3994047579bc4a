/* SPDX-License-Identifier: Apache-2.0
 *
 * test_fair.c - whose request is next.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "scheduler/internal.h"

enum { N_MAX = 64 };

static struct sched_request requests[N_MAX];
static uint32_t n_requests;
static struct sched_request *list;

static struct sched_request *add(uint64_t key, int64_t priority, uint64_t n_tokens)
{
    struct sched_request *r = &requests[n_requests++], **end = &list;
    *r = (struct sched_request){ .n_prompt_tokens = n_tokens };
    r->opt.key = key;
    r->opt.priority = priority;
    while (*end)
        end = &(*end)->next;
    *end = r;
    return r;
}

static struct sched_request *take(struct fair *f)
{
    struct sched_request *r = fair_pick(f, list), **at = &list;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    return r;
}

Test(fair, one_keys_requests_are_served_as_they_came)
{
    struct fair f = { .n = 0 };
    struct sched_request *a = add(1, 0, 100), *b = add(1, 0, 90000), *c = add(1, 0, 1);
    cr_assert_eq(take(&f), a);
    cr_assert_eq(take(&f), b);
    cr_assert_eq(take(&f), c);
    cr_assert_null(fair_pick(&f, NULL));
    fair_fini(&f);
}

Test(fair, a_lower_priority_value_goes_first_whatever_came_before)
{
    struct fair f = { .n = 0 };
    struct sched_request *a = add(1, 0, 100), *b = add(2, -1, 100), *c = add(1, 7, 100);
    cr_assert_eq(take(&f), b);
    cr_assert_eq(take(&f), a);
    cr_assert_eq(take(&f), c);
    fair_fini(&f);
}

Test(fair, a_crowd_of_one_key_does_not_keep_another_waiting)
{
    struct fair f = { .n = 0 };
    for (int i = 0; i < 30; i++)
        add(1, 0, 1000);
    struct sched_request *single = add(2, 0, 1000);
    uint32_t n_before = 0;
    while (take(&f) != single)
        n_before++;
    cr_assert_leq(n_before, 3);
    fair_fini(&f);
}

/* Both always have work; what they start in tokens must be the same, whatever the size. */
Test(fair, keys_start_as_many_tokens_however_they_cut_them)
{
    struct fair f = { .n = 0 };
    uint64_t started[3] = { 0 };
    static const uint64_t sizes[3] = { 50, 800, 9000 };
    for (uint64_t k = 0; k < 3; k++)
        add(k, 0, sizes[k]);
    for (int i = 0; i < 20000; i++) {
        struct sched_request *r = take(&f);
        uint64_t k = r->opt.key;
        started[k] += sizes[k];
        r->next = NULL;
        struct sched_request **end = &list;
        while (*end)
            end = &(*end)->next;
        *end = r;
    }
    for (int k = 1; k < 3; k++) {
        uint64_t more = started[k] > started[0] ? started[k] - started[0] : started[0] - started[k];
        cr_assert_lt(more, 20000, "%llu and %llu", (unsigned long long)started[0],
                     (unsigned long long)started[k]);
    }
    fair_fini(&f);
}

Test(fair, a_key_without_work_saves_nothing_up)
{
    struct fair f = { .n = 0 };
    add(1, 0, 10);
    add(2, 0, 10);
    take(&f);
    take(&f); /* both idle from here on */
    for (int i = 0; i < 20; i++) {
        add(1, 0, 2000);
        take(&f);
    }
    struct sched_request *ones[3], *twos[3];
    for (int i = 0; i < 3; i++) {
        twos[i] = add(2, 0, 2000);
        ones[i] = add(1, 0, 2000);
    }
    uint32_t n_twos = 0;
    for (int i = 0; i < 4; i++) {
        struct sched_request *r = take(&f);
        n_twos += r == twos[0] || r == twos[1] || r == twos[2];
    }
    cr_assert_eq(n_twos, 2, "%u of the next four", n_twos);
    cr_assert_not_null(ones[0]);
    fair_fini(&f);
}

Test(fair, what_is_returned_is_not_paid_for)
{
    struct fair f = { .n = 0 };
    struct sched_request *a = add(1, 0, 5000);
    add(2, 0, 5000);
    struct sched_request *first = fair_pick(&f, list);
    fair_return(&f, first);
    cr_assert_eq(fair_pick(&f, list), first);
    cr_assert_eq(first, a);
    fair_fini(&f);
}
