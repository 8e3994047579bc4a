/* SPDX-License-Identifier: Apache-2.0
 *
 * test_queue.c - the limits of the queue, and that every seat comes back.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

/* ---- reservations ---- */

static struct queue q;

static void open_queue(uint32_t max_requests, uint64_t max_tokens)
{
    cr_assert_eq(queue_init(&q, &(struct queue_limits){ max_requests, max_tokens, UINT64_MAX }), 0);
}

Test(queue, refuses_more_requests_than_its_limit)
{
    open_queue(2, 1000);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_QUEUE_FULL);
    queue_unreserve(&q, 1);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_NONE);
    queue_fini(&q);
}

Test(queue, refuses_more_tokens_than_its_limit)
{
    open_queue(10, 100);
    cr_assert_eq(queue_reserve(&q, 60), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 41), SCHED_REFUSED_TOKEN_BACKLOG);
    cr_assert_eq(queue_reserve(&q, 40), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 0), SCHED_REFUSED_TOKEN_BACKLOG, "full is full");
    queue_unreserve(&q, 60);
    cr_assert_eq(queue_reserve(&q, UINT64_MAX), SCHED_REFUSED_TOKEN_BACKLOG);
    queue_fini(&q);
}

Test(queue, a_single_prompt_beyond_the_token_limit_has_its_turn)
{
    open_queue(10, 100);
    cr_assert_eq(queue_reserve(&q, 5000), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_TOKEN_BACKLOG);
    queue_fini(&q);
}

Test(queue, refuses_everything_once_it_closes)
{
    open_queue(10, 100);
    queue_close(&q);
    cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_CLOSING);
    cr_assert_not(queue_wait(&q));
    queue_fini(&q);
}

Test(queue, new_limits_count_for_those_who_come_later)
{
    open_queue(2, 100);
    cr_assert_eq(queue_reserve(&q, 50), SCHED_REFUSED_NONE);
    cr_assert_eq(queue_reserve(&q, 50), SCHED_REFUSED_NONE);
    queue_set_limits(&q, &(struct queue_limits){ 3, 110, UINT64_MAX });
    cr_assert_eq(queue_reserve(&q, 20), SCHED_REFUSED_TOKEN_BACKLOG);
    cr_assert_eq(queue_reserve(&q, 10), SCHED_REFUSED_NONE);
    queue_set_limits(&q, &(struct queue_limits){ 1, 10, UINT64_MAX });
    cr_assert_eq(queue_reserve(&q, 0), SCHED_REFUSED_QUEUE_FULL);
    queue_unreserve(&q, 50); /* what was let in is counted on */
    queue_unreserve(&q, 50);
    queue_unreserve(&q, 10);
    cr_assert_eq(queue_reserve(&q, 5), SCHED_REFUSED_NONE);
    queue_fini(&q);
}

/* ---- order ---- */

enum { N_REQUESTS = 6 };
static struct sched_request requests[N_REQUESTS];

static void push_all(void)
{
    open_queue(10, 1000);
    memset(requests, 0, sizeof(requests));
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        requests[i].n_prompt_tokens = 10 + i;
        cr_assert_eq(queue_reserve(&q, 1), SCHED_REFUSED_NONE);
        cr_assert_eq(queue_push(&q, &requests[i], 1, NULL), SCHED_REFUSED_NONE);
    }
    cr_assert_eq(q.n_requests, N_REQUESTS);
    cr_assert_eq(q.n_tokens, 75);
}

static void expect_order(const uint32_t *order, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(queue_next(&q), &requests[order[i]]);
        queue_pop(&q, &requests[order[i]]);
    }
    cr_assert_null(queue_next(&q));
    cr_assert_eq(q.n_requests, 0);
    cr_assert_eq(q.n_tokens, 0);
    queue_fini(&q);
}

Test(queue, is_first_in_first_out)
{
    push_all();
    expect_order((const uint32_t[]){ 0, 1, 2, 3, 4, 5 }, 6);
}

Test(queue, a_sweep_takes_out_those_that_are_cancelled_wherever_they_are)
{
    push_all();
    static const uint32_t cancelled[] = { 0, 2, 3, 5 };
    for (int i = 0; i < 4; i++)
        sched_cancel(&requests[cancelled[i]], SCHED_CANCEL_CLIENT);
    struct sched_request *r = queue_sweep(&q, 0);
    for (int i = 0; i < 4; i++, r = r->next)
        cr_assert_eq(r, &requests[cancelled[i]]);
    cr_assert_null(r);
    expect_order((const uint32_t[]){ 1, 4 }, 2);
}

Test(queue, can_be_filled_again_after_a_sweep_of_all)
{
    push_all();
    for (int i = 0; i < N_REQUESTS; i++)
        sched_cancel(&requests[i], SCHED_CANCEL_CLIENT);
    queue_sweep(&q, 0);
    cr_assert_null(queue_next(&q));
    memset(requests, 0, sizeof(requests));
    queue_reserve(&q, 0);
    cr_assert_eq(queue_push(&q, &requests[3], 0, NULL), SCHED_REFUSED_NONE);
    expect_order((const uint32_t[]){ 3 }, 1);
}

/* ---- through the front door ---- */

static void fill(struct sched_fixture *fx, struct test_request *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        test_request_init(&t[i], "0123456789", 4);
        test_request_submit(&t[i], fx);
        if (i == 0)
            fake_engine_wait_held(fx->engine); /* it is admitted, the others wait */
    }
}

static void drain(struct sched_fixture *fx, struct test_request *t, uint32_t n)
{
    fake_engine_go(fx->engine, UINT64_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (t[i].refusal == SCHED_REFUSED_NONE)
            test_request_wait(&t[i]);
        test_request_close(&t[i]);
    }
    sched_fixture_close(fx);
}

Test(queue, counts_only_requests_that_wait)
{
    struct sched_fixture fx;
    static struct test_request t[4];
    sched_fixture_open(&fx, &(struct fake_engine_options){ .held = true },
                       &(struct sched_options){ .max_seqs = 1, .max_queue = 2 });
    fill(&fx, t, 4);
    cr_assert_eq(t[2].refusal, SCHED_REFUSED_NONE);
    cr_assert_eq(t[3].refusal, SCHED_REFUSED_QUEUE_FULL);
    struct sched_stats stats;
    sched_stats(fx.sched, &stats);
    cr_assert_eq(stats.waiting_now, 2);
    cr_assert_eq(stats.waiting_tokens_now, 20);
    drain(&fx, t, 4);
}

Test(queue, a_prompt_that_grew_beyond_its_reservation_is_looked_at_again)
{
    struct sched_fixture fx;
    static struct test_request t[2], grown;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    sched_fixture_open(&fx, &(struct fake_engine_options){ .held = true },
                       &(struct sched_options){ .max_seqs = 1, .max_queue_tokens = 15 });
    fill(&fx, t, 2);
    test_request_init(&grown, "0123456789", 4);
    cr_assert_eq(sched_reserve(fx.sched, 2), SCHED_REFUSED_NONE);
    cr_assert_eq(sched_submit(fx.sched, &grown.opt, 2, &grown.r, &err),
                 SCHED_REFUSED_TOKEN_BACKLOG);
    cr_assert_null(grown.r);
    cr_assert_eq(err.code, ENGINE_ERR_CAPACITY);
    cr_assert_eq(sched_reserve(fx.sched, 5), SCHED_REFUSED_NONE, "its seat came back");
    sched_unreserve(fx.sched, 5);
    drain(&fx, t, 2);
}

Test(queue, a_reservation_after_all_is_refused_while_closing)
{
    open_queue(4, 100);
    cr_assert_eq(queue_reserve(&q, 5), SCHED_REFUSED_NONE);
    queue_close(&q);
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    memset(requests, 0, sizeof(requests));
    cr_assert_eq(queue_push(&q, &requests[0], 5, &err), SCHED_REFUSED_CLOSING);
    cr_assert_eq(err.code, ENGINE_ERR_CANCELLED);
    cr_assert_eq(q.n_reserved, 0);
    queue_fini(&q);
}
