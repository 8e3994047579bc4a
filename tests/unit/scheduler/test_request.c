/* SPDX-License-Identifier: Apache-2.0
 *
 * test_request.c - what sched_submit refuses, and that it copies all it accepts.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

static struct sched_fixture fx;
static struct test_request t;

static void setup(void)
{
    sched_fixture_open(&fx, &(struct fake_engine_options){ .n_ctx = 64, .n_pages = 6 }, NULL);
    test_request_init(&t, "abc", 4);
}

static void teardown(void)
{
    sched_fixture_close(&fx);
}

TestSuite(request, .init = setup, .fini = teardown);

static void expect_refused(enum engine_err_code code, const char *words)
{
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert_eq(sched_reserve(fx.sched, 3), SCHED_REFUSED_NONE);
    cr_assert_eq(sched_submit(fx.sched, &t.opt, 3, &t.r, &err), SCHED_REFUSED_TOO_LARGE);
    cr_assert_null(t.r);
    cr_assert_eq(err.code, code);
    cr_assert_not_null(strstr(err.text, words), "\"%s\"", err.text);
    cr_assert_eq(fx.sched->queue.n_reserved, 0, "its seat comes back");
}

/* A prompt of n letters in place of the usual one. */
static void use_prompt_of(uint32_t n)
{
    static char text[128];
    memset(text, 'a', n);
    text[n] = '\0';
    test_request_close(&t);
    test_request_init(&t, text, 4);
}

Test(request, a_prompt_that_fills_the_context_is_refused_with_the_numbers)
{
    use_prompt_of(64);
    expect_refused(ENGINE_ERR_CONTEXT,
                   "64 prompt tokens leave no room for a token, the context has 64");
}

Test(request, a_prompt_that_fills_all_pages_is_refused_at_once)
{
    use_prompt_of(48); /* 6 pages of 8 */
    expect_refused(ENGINE_ERR_CONTEXT, "all KV pages hold 48");
}

Test(request, each_choice_has_the_room_that_its_own_prompt_leaves)
{
    static const int32_t tokens[] = { 'a', 'b', 'c', 'd', 'e' };
    struct sched_prompt prompts[2] = { { tokens, 5 }, { tokens, 1 } };
    t.opt.prompts = prompts;
    t.opt.n_prompts = 2;
    t.opt.max_tokens = UINT32_MAX;
    t.opt.ignore_eos = true;
    test_request_submit(&t, &fx);
    test_request_wait(&t);
    cr_assert_eq(t.log.last.kind, SCHED_EVENT_DONE);
    cr_assert_eq(t.log.last.usage.completion_tokens, 48 - 5 + 48 - 1);
    test_request_close(&t);
}

Test(request, tokens_outside_the_vocabulary_are_refused)
{
    t.tokens[1] = -1;
    expect_refused(ENGINE_ERR_INPUT, "token 1 of a prompt is -1");
    t.tokens[1] = 100000;
    expect_refused(ENGINE_ERR_INPUT, "100000");
    t.tokens[1] = 'b';
    t.opt.stop_tokens = (const int32_t[]){ -5 };
    t.opt.n_stop_tokens = 1;
    expect_refused(ENGINE_ERR_INPUT, "-5");
}

Test(request, nonsense_counts_are_refused)
{
    t.opt.n = 0;
    expect_refused(ENGINE_ERR_INPUT, "nothing to do");
    t.opt.n = UINT32_MAX;
    t.opt.n_prompts = UINT32_MAX;
    expect_refused(ENGINE_ERR_INPUT, "too many");
    t.opt.n = t.opt.n_prompts = 1;
    t.opt.n_logprobs = ENGINE_MAX_TOP + 1;
    expect_refused(ENGINE_ERR_INPUT, "limit is 20");
    t.opt.n_logprobs = -1;
    t.prompt.n_tokens = 0;
    expect_refused(ENGINE_ERR_INPUT, "no tokens");
    t.prompt.n_tokens = 3;
    test_request_add_stop(&t, "");
    expect_refused(ENGINE_ERR_INPUT, "stop string 0 is empty");
}

Test(request, nothing_of_the_callers_memory_is_needed_after_submit)
{
    char stop[] = "zzzz";
    int32_t stop_tokens[] = { 'q' };
    struct engine_logit_bias bias[] = { { 'z', 100.0f } };
    fake_engine_hold(fx.engine);
    test_request_add_stop(&t, stop);
    t.opt.stop_tokens = stop_tokens;
    t.opt.n_stop_tokens = 1;
    t.opt.sampling.bias = bias;
    t.opt.sampling.n_bias = 1;
    t.opt.max_tokens = 9;
    t.opt.echo = true;
    test_request_submit(&t, &fx);
    memset(stop, 'y', 4);
    stop_tokens[0] = 'z';
    bias[0].bias = -100;
    memset(t.tokens, 0xff, sizeof(t.tokens));
    memset(&t.prompt, 0xff, sizeof(t.prompt));
    memset(t.stops, 0xff, sizeof(t.stops));
    fake_engine_go(fx.engine, UINT64_MAX);
    test_request_wait(&t);
    cr_assert_str_eq(t.log.choices[0].text, "abc");
    cr_assert_str_eq(t.log.choices[0].stop_string, "zzzz");
    test_request_close(&t);
}

Test(request, the_first_cause_and_the_first_failure_stay)
{
    struct sched_request r = { .n_choices = 0 };
    struct engine_err one = { ENGINE_ERR_IO, "one" }, two = { ENGINE_ERR_INTERNAL, "two" };
    request_fail(&r, &one);
    request_fail(&r, &two);
    cr_assert_str_eq(r.err.text, "one");
    cr_assert_eq(request_cancelled(&r, 100), 0);
    r.opt.deadline_ns = 101;
    cr_assert_eq(request_cancelled(&r, 100), 0);
    cr_assert_eq(request_cancelled(&r, 101), SCHED_CANCEL_DEADLINE);
    sched_cancel(&r, SCHED_CANCEL_CLIENT);
    cr_assert_eq(request_cancelled(&r, 101), SCHED_CANCEL_DEADLINE);
}
