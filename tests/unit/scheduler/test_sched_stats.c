/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sched_stats.c - counters, histograms, and the honest Retry-After.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

#define FACTS(seqs, rows, prompt_rows, generated, prompt_tokens, t)                                \
    (struct step_facts)                                                                            \
    {                                                                                              \
        .n_seqs = (seqs), .n_rows = (rows), .n_prompt_rows = (prompt_rows),                        \
        .n_generated = (generated), .n_prompt_tokens = (prompt_tokens), .ns = (t)                  \
    }

Test(sched_stats, a_step_lands_in_one_bucket_of_each_histogram)
{
    struct stats st = { .prefill_rate = 0 };
    stats_add_step(&st, &FACTS(2, 9, 7, 1, 7, 1000000));
    stats_add_step(&st, &FACTS(3, 3, 0, 3, 0, 1000001));
    stats_add_step(&st, &FACTS(1, 20000, 20000, 1, 20000, 11000000000ull));
    stats_publish(&st);
    struct sched_stats out;
    stats_read(&st, &out);
    cr_assert_eq(out.steps, 3);
    cr_assert_eq(out.prefill_step[0], 1, "a bound belongs to its bucket");
    cr_assert_eq(out.decode_step[1], 1);
    cr_assert_eq(out.prefill_step[SCHED_N_STEP_BOUNDS], 1);
    cr_assert_eq(out.step_tokens[1], 1);
    cr_assert_eq(out.step_tokens[2], 1);
    cr_assert_eq(out.step_tokens[SCHED_N_STEP_TOKEN_BOUNDS], 1);
    cr_assert_eq(out.step_tokens_sum, 20012);
    cr_assert_eq(out.prompt_tokens, 20007);
    cr_assert_eq(out.generated_tokens, 5);
    cr_assert_eq(out.prefill_step_ns, 11001000000ull);
    cr_assert_eq(out.batch_size_now, 1);
}

Test(sched_stats, bounds_rise)
{
    for (int i = 1; i < SCHED_N_STEP_BOUNDS; i++)
        cr_assert_gt(sched_step_bounds[i], sched_step_bounds[i - 1]);
    for (int i = 1; i < SCHED_N_STEP_TOKEN_BOUNDS; i++)
        cr_assert_gt(sched_step_token_bounds[i], sched_step_token_bounds[i - 1]);
    cr_assert_eq(sched_step_token_bounds[SCHED_N_STEP_TOKEN_BOUNDS - 1], 16384);
}

Test(sched_stats, count_what_requests_did)
{
    struct sched_fixture fx;
    struct test_request t;
    sched_fixture_open(&fx, NULL, NULL);
    test_request_init(&t, "0123456789", 5);
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    struct sched_stats stats; /* a step is published before its request ends */
    sched_stats(fx.sched, &stats);
    cr_assert_eq(stats.prompt_tokens, 10);
    cr_assert_eq(stats.generated_tokens, 5);
    cr_assert_eq(stats.steps, 5);
    cr_assert_eq(stats.step_tokens_sum, 14);
    cr_assert_gt(stats.prefill_step_ns, 0);
    test_request_close(&t);
    sched_fixture_close(&fx);
}

static uint32_t retry_after(uint64_t n_prompt, uint64_t n_output, double prefill, double decode)
{
    static struct sched s;
    memset(&s, 0, sizeof(s));
    s.queue.n_work_prompt = n_prompt;
    s.queue.n_work_output = n_output;
    s.stats.prefill_rate = prefill;
    s.stats.decode_rate = decode;
    stats_publish(&s.stats);
    return sched_retry_after(&s);
}

Test(sched_stats, retry_after_is_the_queued_work_at_the_measured_rates)
{
    cr_assert_eq(retry_after(0, 0, 100, 10), 1);
    cr_assert_eq(retry_after(500, 0, 100, 10), 5);
    cr_assert_eq(retry_after(510, 0, 100, 10), 6);
    cr_assert_eq(retry_after(500, 50, 100, 10), 10);
    cr_assert_eq(retry_after(1000000, 0, 100, 10), 60);
    cr_assert_eq(retry_after(1000000, 5, 0, 0), 1, "nothing measured yet");
}

Test(sched_stats, rates_follow_the_steps)
{
    struct stats st = { .prefill_rate = 0 };
    stats_add_step(&st, &FACTS(1, 100, 100, 0, 100, 1000000000));
    cr_assert_float_eq(st.prefill_rate, 100, 1e-9);
    for (int i = 0; i < 200; i++)
        stats_add_step(&st, &FACTS(1, 300, 300, 0, 300, 1000000000));
    cr_assert_float_eq(st.prefill_rate, 300, 1);
    cr_assert_eq(st.decode_rate, 0);
    stats_add_step(&st, &FACTS(1, 0, 0, 0, 0, 1000));
    cr_assert_eq(st.decode_rate, 0, "a step of deferred rows says nothing");
    struct step_facts guessed = FACTS(1, 16, 0, 4, 0, 1000000000);
    guessed.n_drafted = 15;
    guessed.n_accepted = 3;
    stats_add_step(&st, &guessed);
    cr_assert_float_eq(st.decode_rate, 4, 1e-9, "guesses that were wrong are no work done");
    cr_assert_eq(st.live.drafted_tokens, 15);
    cr_assert_eq(st.live.accepted_tokens, 3);
}
