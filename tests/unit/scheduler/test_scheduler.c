/* SPDX-License-Identifier: Apache-2.0
 *
 * test_scheduler.c - many requests at once: seats, pages, cancels in every phase, failures,
 * shutdown.  That nothing leaks is checked whenever a fixture closes.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

static struct sched_fixture fx;

static void open_with(struct fake_engine_options engine, struct sched_options opt)
{
    sched_fixture_open(&fx, &engine, &opt);
}

#define ENGINE(...) ((struct fake_engine_options){ __VA_ARGS__ })
#define OPTIONS(...) ((struct sched_options){ __VA_ARGS__ })

static void expect_kind(const struct test_request *t, enum sched_event_kind kind)
{
    cr_assert_eq(t->log.last.kind, kind, "ended with %d after \"%s\"", t->log.last.kind,
                 t->log.kinds);
}

/* Lets one step pass and waits for the next to be held. */
static void one_step(void)
{
    fake_engine_go(fx.engine, 1);
    fake_engine_wait_held(fx.engine);
}

static uint32_t n_seqs_open(void)
{
    struct fake_engine_counts counts;
    fake_engine_counts(fx.engine, &counts);
    return counts.n_seqs;
}

static void submit_plain(struct test_request *t, const char *prompt, uint32_t max_tokens)
{
    test_request_init(t, prompt, max_tokens);
    t->opt.ignore_eos = true;
    test_request_submit(t, &fx);
}

/* ---- company ---- */

static void init_varied(struct test_request *t, uint32_t i)
{
    static const char *const prompts[] = { "one", "", "a longer prompt than the others, by far",
                                           "x", "the fifth" };
    test_request_init(t, prompts[i % 5], 1 + i * 7 % 30);
    t->opt.n = 1 + i % 3;
    t->opt.sampling.temperature = i % 2 ? 1.0f : 0.0f;
    t->opt.sampling.seed = i;
    t->opt.echo = i % 4 == 0;
    t->opt.n_logprobs = i % 3 == 0 ? 2 : -1;
    if (i % 5 < 2)
        test_request_add_stop(t, "ab");
}

static void expect_same(const struct test_request *a, const struct test_request *b)
{
    const char *difference = test_request_difference(a, b);
    cr_assert_null(difference, "the answers differ: %s", difference);
}

Test(scheduler, the_answer_is_the_same_alone_and_in_company)
{
    enum { N = 40 };
    static struct test_request alone[N], crowd[N];
    open_with(ENGINE(.random_ends = true), OPTIONS(0));
    for (uint32_t i = 0; i < N; i++) {
        init_varied(&alone[i], i);
        test_request_submit(&alone[i], &fx);
        test_request_wait(&alone[i]);
    }
    sched_fixture_close(&fx);
    static const struct fake_engine_options engines[] = {
        { .random_ends = true, .max_rows = 16, .max_logit_rows = 4 },
        { .random_ends = true, .defer_every = 5, .max_rows = 64 },
        { .random_ends = true, .n_pages = 12 },
        { .random_ends = true, .max_rows = 1, .max_logit_rows = 1 },
    };
    for (size_t e = 0; e < sizeof(engines) / sizeof(engines[0]); e++) {
        open_with(engines[e], OPTIONS(.max_seqs = 3 + 9 * (uint32_t)e));
        for (uint32_t i = 0; i < N; i++) {
            init_varied(&crowd[i], i);
            test_request_submit(&crowd[i], &fx);
        }
        for (uint32_t i = 0; i < N; i++) {
            test_request_wait(&crowd[i]);
            expect_kind(&crowd[i], SCHED_EVENT_DONE);
            expect_same(&crowd[i], &alone[i]);
            test_request_close(&crowd[i]);
        }
        sched_fixture_close(&fx);
    }
    for (uint32_t i = 0; i < N; i++)
        test_request_close(&alone[i]);
}

Test(scheduler, runs_sequences_side_by_side)
{
    static struct test_request t[6];
    struct fake_engine_counts counts;
    open_with(ENGINE(.held = true), OPTIONS(0));
    for (int i = 0; i < 6; i++)
        submit_plain(&t[i], "ab", 8);
    fake_engine_go(fx.engine, UINT64_MAX);
    for (int i = 0; i < 6; i++) {
        test_request_wait(&t[i]);
        test_request_close(&t[i]);
    }
    fake_engine_counts(fx.engine, &counts);
    cr_assert_eq(counts.max_seqs, 6);
    sched_fixture_close(&fx);
}

/* ---- seats and pages ---- */

Test(scheduler, more_choices_than_seats_still_finish)
{
    struct test_request t;
    struct fake_engine_counts counts;
    open_with(ENGINE(0), OPTIONS(.max_seqs = 2));
    test_request_init(&t, "prompt", 5);
    t.opt.n = 9;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    expect_kind(&t, SCHED_EVENT_DONE);
    cr_assert_eq(t.log.last.usage.completion_tokens, 45);
    fake_engine_counts(fx.engine, &counts);
    cr_assert_eq(counts.max_seqs, 2);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(scheduler, prompts_wait_in_the_queue_until_their_turn_is_near)
{
    enum { N = 13, SEATS = 8 };
    static struct test_request t[N], important;
    open_with(ENGINE(.held = true, .max_rows = 16), OPTIONS(0));
    submit_plain(&t[0], "0123456789", 4);
    fake_engine_wait_held(fx.engine);
    for (int i = 1; i < N; i++)
        submit_plain(&t[i], "0123456789", 4);
    one_step();
    cr_assert_eq(n_seqs_open(), 1 + SEATS,
                 "eight prompts of ten fill more than two steps of 16 rows");
    test_request_init(&important, "0123456789", 4);
    important.opt.priority = -1;
    test_request_submit(&important, &fx);
    one_step();
    cr_assert_neq(important.log.n_kinds, 0, "the others are less important");
    fake_engine_go(fx.engine, UINT64_MAX);
    for (int i = 0; i < N; i++) {
        test_request_wait(&t[i]);
        test_request_close(&t[i]);
    }
    test_request_wait(&important);
    test_request_close(&important);
    sched_fixture_close(&fx);
}

Test(scheduler, a_short_prompt_does_not_wait_for_long_ones)
{
    static const char long_prompt[] = "01234567890123456789012345678901234567890123456789";
    static struct test_request longs[2], shorter;
    open_with(ENGINE(.held = true, .max_rows = 4), OPTIONS(0));
    submit_plain(&longs[0], long_prompt, 4);
    fake_engine_wait_held(fx.engine);
    submit_plain(&longs[1], long_prompt, 4);
    submit_plain(&shorter, "01", 4);
    one_step();
    cr_assert_neq(shorter.log.n_kinds, 0, "it has a seat");
    fake_engine_go(fx.engine, UINT64_MAX);
    for (int i = 0; i < 2; i++) {
        test_request_wait(&longs[i]);
        test_request_close(&longs[i]);
    }
    test_request_wait(&shorter);
    test_request_close(&shorter);
    sched_fixture_close(&fx);
}

Test(scheduler, a_request_waits_for_pages_and_runs_once_they_are_back)
{
    struct test_request big, next;
    open_with(ENGINE(.held = true, .n_pages = 4, .page_tokens = 8), OPTIONS(0));
    submit_plain(&big, "0123456789", 10); /* 3 pages */
    fake_engine_wait_held(fx.engine);
    submit_plain(&next, "0123456789", 10);
    one_step();
    cr_assert_eq(next.log.n_kinds, 0, "it has no pages yet");
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&big);
    test_request_wait(&next);
    cr_assert_str_eq(big.log.choices[0].text, next.log.choices[0].text);
    test_request_close(&big);
    test_request_close(&next);
    sched_fixture_close(&fx);
}

Test(scheduler, nobody_overtakes_the_one_that_waits_for_pages)
{
    struct test_request running, big, small;
    open_with(ENGINE(.held = true, .n_pages = 4, .page_tokens = 8), OPTIONS(0));
    submit_plain(&running, "0123456789", 10);
    fake_engine_wait_held(fx.engine);
    submit_plain(&big, "0123456789", 10);
    submit_plain(&small, "a", 2); /* would fit */
    one_step();
    cr_assert_eq(small.log.n_kinds, 0);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&small);
    test_request_wait(&big);
    test_request_wait(&running);
    test_request_close(&small);
    test_request_close(&big);
    test_request_close(&running);
    sched_fixture_close(&fx);
}

Test(scheduler, choices_of_one_request_may_outgrow_the_pages)
{
    struct test_request t;
    open_with(ENGINE(.n_pages = 4, .page_tokens = 8), OPTIONS(0));
    test_request_init(&t, "0123456789", 10);
    t.opt.n = 5;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    expect_kind(&t, SCHED_EVENT_DONE);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

/* ---- sharing ---- */

Test(scheduler, choices_of_a_prompt_compute_it_once)
{
    struct test_request t;
    open_with(ENGINE(0), OPTIONS(0));
    test_request_init(&t, "a prompt of many tokens", 5);
    t.opt.n = 6;
    t.opt.ignore_eos = true;
    t.opt.sampling.temperature = 1;
    test_request_run(&t, &fx);
    expect_kind(&t, SCHED_EVENT_DONE);
    cr_assert_eq(sched_fixture_stats(&fx).prefill_tokens, t.prompt.n_tokens);
    cr_assert_eq(t.log.last.usage.completion_tokens, 30);
    cr_assert_eq(t.log.last.usage.cached_tokens, 0);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(scheduler, a_known_prompt_is_computed_but_for_its_last_token)
{
    struct test_request first, second, salted, private;
    open_with(ENGINE(0), OPTIONS(0));
    submit_plain(&first, "a prompt of many tokens", 5);
    test_request_wait(&first);
    submit_plain(&second, "a prompt of many tokens", 5);
    test_request_wait(&second);
    cr_assert_eq(second.log.last.usage.cached_tokens, second.prompt.n_tokens - 1);
    expect_same(&second, &first);
    struct sched_stats stats = sched_fixture_stats(&fx);
    cr_assert_eq(stats.prefill_tokens, first.prompt.n_tokens + 1);
    cr_assert_eq(stats.prefix_query_tokens, 2 * first.prompt.n_tokens);
    cr_assert_eq(stats.prefix_hit_tokens, first.prompt.n_tokens - 1);
    test_request_init(&salted, "a prompt of many tokens", 5);
    salted.opt.cache_salt = (struct sched_text){ "pepper", 6 };
    test_request_run(&salted, &fx);
    cr_assert_eq(salted.log.last.usage.cached_tokens, 0);
    test_request_init(&private, "a prompt of many tokens", 5);
    private.opt.no_cache = true;
    test_request_run(&private, &fx);
    cr_assert_eq(private.log.last.usage.cached_tokens, 0);
    test_request_close(&first);
    test_request_close(&second);
    test_request_close(&salted);
    test_request_close(&private);
    sched_fixture_close(&fx);
}

Test(scheduler, log_probabilities_of_an_echo_are_never_skipped_by_a_hit)
{
    struct test_request t[2];
    open_with(ENGINE(0), OPTIONS(0));
    for (int i = 0; i < 2; i++) {
        test_request_init(&t[i], "a prompt of many tokens", 3);
        t[i].opt.echo = true;
        t[i].opt.n_logprobs = 1;
        t[i].opt.ignore_eos = true;
        test_request_run(&t[i], &fx);
        expect_kind(&t[i], SCHED_EVENT_DONE);
        for (uint32_t k = 1; k < t[i].log.choices[0].n_tokens; k++)
            cr_assert(t[i].log.choices[0].logprobs[k].has_logprob);
    }
    expect_same(&t[0], &t[1]);
    test_request_close(&t[0]);
    test_request_close(&t[1]);
    sched_fixture_close(&fx);
}

/* ---- pages run out ---- */

Test(scheduler, when_pages_run_out_the_youngest_is_paused_and_ends_all_the_same)
{
    enum { N = 4 };
    static struct test_request alone[N], crowd[N];
    open_with(ENGINE(0), OPTIONS(0));
    for (uint32_t i = 0; i < N; i++) {
        submit_plain(&alone[i], i % 2 ? "0123" : "abcdefgh", 40);
        test_request_wait(&alone[i]);
    }
    sched_fixture_close(&fx);
    open_with(ENGINE(.held = true, .n_pages = 12, .page_tokens = 8), OPTIONS(0));
    for (uint32_t i = 0; i < N; i++)
        submit_plain(&crowd[i], i % 2 ? "0123" : "abcdefgh", 40);
    fake_engine_go(fx.engine, UINT64_MAX);
    for (uint32_t i = 0; i < N; i++) {
        test_request_wait(&crowd[i]);
        expect_kind(&crowd[i], SCHED_EVENT_DONE);
        expect_same(&crowd[i], &alone[i]);
    }
    cr_assert_gt(sched_fixture_stats(&fx).preemptions, 0);
    for (uint32_t i = 0; i < N; i++) {
        test_request_close(&crowd[i]);
        test_request_close(&alone[i]);
    }
    sched_fixture_close(&fx);
}

Test(scheduler, a_paused_request_can_be_cancelled)
{
    struct test_request a, b;
    open_with(ENGINE(.held = true, .n_pages = 8, .page_tokens = 8), OPTIONS(0));
    submit_plain(&a, "abcdefgh", 50);
    submit_plain(&b, "01234567", 50);
    fake_engine_wait_held(fx.engine);
    for (int i = 0; i < 200 && sched_fixture_stats(&fx).preemptions == 0; i++)
        one_step();
    struct sched_slot slots[2];
    cr_assert_eq(sched_slots(fx.sched, slots, 2), 1, "b is paused");
    sched_cancel(b.r, SCHED_CANCEL_CLIENT);
    one_step();
    test_request_wait(&b);
    expect_kind(&b, SCHED_EVENT_CANCELLED);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&a);
    expect_kind(&a, SCHED_EVENT_DONE);
    test_request_close(&a);
    test_request_close(&b);
    sched_fixture_close(&fx);
}

Test(scheduler, the_more_important_one_is_served_first_and_paused_last)
{
    struct test_request usual, late, important;
    open_with(ENGINE(.held = true, .n_pages = 8, .page_tokens = 8), OPTIONS(.max_seqs = 2));
    submit_plain(&usual, "abcdefgh", 50);
    fake_engine_wait_held(fx.engine);
    submit_plain(&late, "01234567", 50);
    test_request_init(&important, "ABCDEFGH", 50);
    important.opt.priority = -1;
    important.opt.ignore_eos = true;
    test_request_submit(&important, &fx);
    one_step();
    event_log_wait_kinds(&important.log, 1);
    cr_assert_eq(late.log.n_kinds, 0, "it came first, but matters less");
    for (int i = 0; i < 200 && sched_fixture_stats(&fx).preemptions == 0; i++)
        one_step();
    struct sched_slot slots[2];
    cr_assert_eq(sched_slots(fx.sched, slots, 2), 1);
    cr_assert_eq(slots[0].request, 3, "the important one runs on");
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&important);
    test_request_wait(&usual);
    test_request_wait(&late);
    test_request_close(&important);
    test_request_close(&usual);
    test_request_close(&late);
    sched_fixture_close(&fx);
}

Test(scheduler, progress_rises_from_the_cached_to_the_whole_prompt)
{
    struct test_request t;
    open_with(ENGINE(.max_rows = 4), OPTIONS(0));
    test_request_init(&t, "a prompt of several steps", 2);
    t.opt.progress = true;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    cr_assert_eq(strncmp(t.log.kinds, "APPPPPPPPDF+", 12), 0, "%s", t.log.kinds);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(scheduler, a_limit_of_time_ends_with_length)
{
    struct test_request t;
    open_with(ENGINE(.step_us = 2000), OPTIONS(0));
    test_request_init(&t, "a", 200);
    t.opt.ignore_eos = true;
    t.opt.max_decode_ns = 20 * 1000 * 1000;
    test_request_run(&t, &fx);
    expect_kind(&t, SCHED_EVENT_DONE);
    cr_assert_eq(t.log.choices[0].finish, SCHED_FINISH_LENGTH);
    cr_assert_lt(t.log.choices[0].n_tokens, 100);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

/* ---- cancel ---- */

static void expect_cancelled(struct test_request *t, enum sched_cancel_cause cause)
{
    test_request_wait(t);
    expect_kind(t, SCHED_EVENT_CANCELLED);
    cr_assert_eq(t->log.last.cause, cause);
    test_request_close(t);
}

Test(scheduler, cancel_in_the_queue)
{
    struct test_request first, second;
    open_with(ENGINE(.held = true), OPTIONS(.max_seqs = 1));
    submit_plain(&first, "a", 4);
    fake_engine_wait_held(fx.engine);
    submit_plain(&second, "b", 4);
    sched_cancel(second.r, SCHED_CANCEL_CLIENT);
    sched_cancel(second.r, SCHED_CANCEL_SHUTDOWN); /* the first cause stays */
    one_step();
    expect_cancelled(&second, SCHED_CANCEL_CLIENT);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&first);
    expect_kind(&first, SCHED_EVENT_DONE);
    test_request_close(&first);
    sched_fixture_close(&fx);
}

Test(scheduler, cancel_of_the_one_that_waits_for_pages)
{
    struct test_request first, second;
    open_with(ENGINE(.held = true, .n_pages = 4, .page_tokens = 8), OPTIONS(0));
    submit_plain(&first, "0123456789", 10);
    fake_engine_wait_held(fx.engine);
    submit_plain(&second, "0123456789", 10);
    one_step();
    sched_cancel(second.r, SCHED_CANCEL_CLIENT);
    one_step();
    expect_cancelled(&second, SCHED_CANCEL_CLIENT);
    cr_assert_eq(n_seqs_open(), 1);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&first);
    test_request_close(&first);
    sched_fixture_close(&fx);
}

Test(scheduler, cancel_during_prefill_frees_it_within_a_step)
{
    struct test_request t, other;
    open_with(ENGINE(.held = true, .max_rows = 4), OPTIONS(0));
    submit_plain(&t, "a prompt of several steps", 4);
    submit_plain(&other, "b", 20);
    fake_engine_wait_held(fx.engine);
    one_step();
    cr_assert_eq(n_seqs_open(), 2);
    sched_cancel(t.r, SCHED_CANCEL_SLOW_READER);
    one_step();
    cr_assert_eq(n_seqs_open(), 1);
    expect_cancelled(&t, SCHED_CANCEL_SLOW_READER);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&other);
    expect_kind(&other, SCHED_EVENT_DONE);
    test_request_close(&other);
    sched_fixture_close(&fx);
}

Test(scheduler, cancel_during_decode_frees_all_choices_within_a_step)
{
    struct test_request t, other;
    open_with(ENGINE(.held = true), OPTIONS(.max_seqs = 4));
    test_request_init(&t, "ab", 50);
    t.opt.n = 3;
    t.opt.ignore_eos = true;
    test_request_submit(&t, &fx);
    submit_plain(&other, "b", 30);
    fake_engine_wait_held(fx.engine);
    for (int i = 0; i < 3; i++)
        one_step();
    cr_assert_eq(n_seqs_open(), 4);
    sched_cancel(t.r, SCHED_CANCEL_CLIENT);
    one_step();
    cr_assert_eq(n_seqs_open(), 1);
    expect_cancelled(&t, SCHED_CANCEL_CLIENT);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&other);
    test_request_close(&other);
    sched_fixture_close(&fx);
}

static void cancel_from_callback(struct event_log *log, const struct sched_event *ev)
{
    struct test_request *t = log->hook_ctx;
    if (ev->kind == SCHED_EVENT_DELTA)
        sched_cancel(t->r, SCHED_CANCEL_CLIENT);
}

Test(scheduler, cancel_from_within_the_callback)
{
    struct test_request t;
    open_with(ENGINE(.held = true), OPTIONS(0));
    submit_plain(&t, "ab", 50);
    fake_engine_wait_held(fx.engine);
    t.log.hook = cancel_from_callback;
    t.log.hook_ctx = &t;
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&t);
    cr_assert_str_eq(t.log.kinds, "ADx");
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(scheduler, release_right_after_cancel_is_fine)
{
    struct test_request t;
    open_with(ENGINE(.step_us = 1000), OPTIONS(0));
    submit_plain(&t, "ab", 50);
    sched_cancel(t.r, SCHED_CANCEL_CLIENT);
    sched_release(t.r);
    t.r = NULL;
    test_request_wait(&t);
    expect_kind(&t, SCHED_EVENT_CANCELLED);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(scheduler, a_deadline_ends_a_running_request)
{
    struct test_request t;
    open_with(ENGINE(.step_us = 5000), OPTIONS(0));
    test_request_init(&t, "ab", 200);
    t.opt.ignore_eos = true;
    t.opt.deadline_ns = clock_now_ns() + 30 * 1000 * 1000;
    test_request_submit(&t, &fx);
    expect_cancelled(&t, SCHED_CANCEL_DEADLINE);
    sched_fixture_close(&fx);
}

Test(scheduler, a_deadline_ends_a_waiting_request)
{
    struct test_request first, second;
    open_with(ENGINE(.step_us = 5000), OPTIONS(.max_seqs = 1));
    submit_plain(&first, "ab", 60);
    test_request_init(&second, "ab", 20);
    second.opt.deadline_ns = clock_now_ns() + 20 * 1000 * 1000;
    test_request_submit(&second, &fx);
    test_request_wait(&second);
    cr_assert_str_eq(second.log.kinds, "x");
    expect_cancelled(&second, SCHED_CANCEL_DEADLINE);
    test_request_wait(&first);
    test_request_close(&first);
    sched_fixture_close(&fx);
}

/* ---- failures, limits ---- */

Test(scheduler, a_failed_row_fails_its_request_only)
{
    struct test_request bad, good;
    open_with(ENGINE(.held = true), OPTIONS(0));
    test_request_init(&bad, "abc", 8);
    bad.tokens[2] = FAKE_POISON;
    bad.opt.n = 2;
    test_request_submit(&bad, &fx);
    submit_plain(&good, "abc", 8);
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&bad);
    expect_kind(&bad, SCHED_EVENT_FAILED);
    cr_assert_eq(bad.log.last.err.code, ENGINE_ERR_INTERNAL);
    cr_assert_str_eq(bad.log.last.err.text, "the row is poisoned");
    test_request_wait(&good);
    expect_kind(&good, SCHED_EVENT_DONE);
    test_request_close(&bad);
    test_request_close(&good);
    sched_fixture_close(&fx);
}

Test(scheduler, what_does_not_even_fit_into_empty_pages_fails_instead_of_waiting)
{
    struct test_request t, next;
    open_with(ENGINE(.n_pages = 2, .page_tokens = 8, .overestimates = true), OPTIONS(0));
    submit_plain(&t, "0123456789", 10);
    submit_plain(&next, "0123", 4);
    test_request_wait(&t);
    expect_kind(&t, SCHED_EVENT_FAILED);
    cr_assert_eq(t.log.last.err.code, ENGINE_ERR_MEMORY);
    test_request_wait(&next);
    expect_kind(&next, SCHED_EVENT_DONE);
    test_request_close(&t);
    test_request_close(&next);
    sched_fixture_close(&fx);
}

Test(scheduler, waiting_too_long_in_the_queue_fails)
{
    struct test_request first, second;
    open_with(ENGINE(.step_us = 5000), OPTIONS(.max_seqs = 1, .max_queue_wait_ns = 30000000));
    submit_plain(&first, "ab", 60);
    event_log_wait_kinds(&first.log, 1);
    submit_plain(&second, "ab", 20);
    test_request_wait(&second);
    cr_assert_str_eq(second.log.kinds, "!");
    cr_assert_eq(second.log.last.err.code, ENGINE_ERR_CAPACITY);
    cr_assert_not_null(strstr(second.log.last.err.text, "queue_timeout"));
    test_request_wait(&first);
    expect_kind(&first, SCHED_EVENT_DONE);
    test_request_close(&first);
    test_request_close(&second);
    sched_fixture_close(&fx);
}

Test(scheduler, close_ends_what_runs_and_what_waits)
{
    enum { N = 6 };
    static struct test_request t[N];
    /* Half a second of steps at least: none is done before the close is seen. */
    open_with(ENGINE(.held = true, .n_ctx = 4096, .n_pages = 4096, .step_us = 200),
              OPTIONS(.max_seqs = 2));
    for (int i = 0; i < N; i++) {
        test_request_init(&t[i], "ab", 3000);
        t[i].opt.n = i == 0 ? 3 : 1; /* more than the seats: it is still being admitted */
        t[i].opt.ignore_eos = true;
        test_request_submit(&t[i], &fx);
    }
    fake_engine_wait_held(fx.engine);
    one_step();
    fake_engine_go(fx.engine, UINT64_MAX);
    sched_close(fx.sched);
    fx.sched = NULL;
    for (int i = 0; i < N; i++) {
        test_request_wait(&t[i]);
        expect_kind(&t[i], SCHED_EVENT_CANCELLED);
        cr_assert_eq(t[i].log.last.cause, SCHED_CANCEL_SHUTDOWN);
        sched_cancel(t[i].r, SCHED_CANCEL_CLIENT); /* too late, but allowed */
        test_request_close(&t[i]);
    }
    sched_fixture_close(&fx);
}

Test(scheduler, opens_and_closes_idle)
{
    open_with(ENGINE(0), OPTIONS(0));
    sched_fixture_close(&fx);
    sched_close(NULL);
}

Test(scheduler, timings_add_up)
{
    struct test_request t;
    open_with(ENGINE(.step_us = 2000, .max_rows = 4), OPTIONS(0));
    submit_plain(&t, "eight ch", 5);
    test_request_wait(&t);
    const struct sched_event *done = &t.log.last;
    cr_assert_geq(done->prefill_ns, 2 * 2000000ull, "two steps");
    cr_assert_geq(done->decode_ns, 4 * 2000000ull, "four steps");
    cr_assert_leq(done->queue_ns + done->prefill_ns, done->ttft_ns + 1000);
    cr_assert_geq(done->ttft_ns, done->prefill_ns);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

/* ---- storm ---- */

Test(scheduler, random_requests_and_cancels_leave_nothing_behind)
{
    enum { N = 300 };
    static struct test_request t[N];
    open_with(ENGINE(.n_pages = 40, .defer_every = 37, .random_ends = true),
              OPTIONS(.max_seqs = 7, .max_queue = N, .max_queue_tokens = UINT64_MAX));
    srand(3);
    for (uint32_t i = 0; i < N; i++) {
        init_varied(&t[i], (uint32_t)rand() % 60);
        if (rand() % 20 == 0)
            t[i].tokens[0] = FAKE_POISON;
        test_request_submit(&t[i], &fx);
        if (rand() % 3 == 0)
            sched_cancel(t[rand() % (int)(i + 1)].r, SCHED_CANCEL_CLIENT);
        if (rand() % 8 == 0)
            usleep(200);
    }
    for (uint32_t i = 0; i < N; i++) {
        test_request_wait(&t[i]);
        test_request_close(&t[i]);
    }
    struct sched_stats stats;
    sched_stats(fx.sched, &stats);
    cr_assert_eq(stats.waiting_now, 0);
    cr_assert_eq(stats.waiting_tokens_now, 0);
    sched_fixture_close(&fx);
}
