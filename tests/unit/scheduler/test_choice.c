/* SPDX-License-Identifier: Apache-2.0
 *
 * test_choice.c - what a request gets: its text, its ends, its log-probabilities, end to end on the
 * fake engine.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

static struct sched_fixture fx;
static struct test_request t;

static void setup(void)
{
    sched_fixture_open(&fx, NULL, NULL);
}

static void teardown(void)
{
    test_request_close(&t);
    sched_fixture_close(&fx);
}

TestSuite(choice, .init = setup, .fini = teardown);

/* The answer to a prompt that is "P" alone. */
static int32_t answer[16];

#define ANSWER(...)                                                                                \
    do {                                                                                           \
        const int32_t list[] = { __VA_ARGS__ };                                                    \
        memcpy(answer, list, sizeof(list));                                                        \
        fake_engine_script(fx.engine, 'P', 1, answer, sizeof(list) / sizeof(list[0]));             \
    } while (0)

static void expect_end(enum sched_finish finish, const char *text)
{
    const struct event_log_choice *c = &t.log.choices[0];
    cr_assert_eq(t.log.last.kind, SCHED_EVENT_DONE);
    cr_assert_eq(c->finish, finish);
    cr_assert_str_eq(c->text, text);
}

Test(choice, ends_with_length_at_max_tokens)
{
    ANSWER('a', 'b', 'c', 'd');
    test_request_init(&t, "P", 3);
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "abc");
    cr_assert_str_eq(t.log.kinds, "ADDF+");
    cr_assert_eq(t.log.last.usage.prompt_tokens, 1);
    cr_assert_eq(t.log.last.usage.completion_tokens, 3);
}

Test(choice, ends_with_stop_at_an_end_token_which_counts)
{
    ANSWER('a', FAKE_END2, 'c');
    test_request_init(&t, "P", 9);
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "a");
    cr_assert_eq(t.log.last.usage.completion_tokens, 2);
    cr_assert_eq(t.log.choices[0].stop_token, -1);
    cr_assert_eq(t.log.choices[0].n_tokens, 2);
    cr_assert_null(t.log.choices[0].stop_string);
}

Test(choice, ends_at_once_if_the_first_token_is_an_end)
{
    ANSWER(FAKE_EOS);
    test_request_init(&t, "P", 9);
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "");
    cr_assert_str_eq(t.log.kinds, "AF+");
}

Test(choice, goes_past_end_tokens_when_told_to)
{
    ANSWER('a', FAKE_EOS, 'c');
    test_request_init(&t, "P", 3);
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "ac");
    cr_assert_eq(t.log.choices[0].n_tokens, 3);
}

Test(choice, ends_at_a_stop_token_and_says_which)
{
    ANSWER('a', 'b', 'c');
    static const int32_t stop_tokens[] = { 'x', 'b' };
    test_request_init(&t, "P", 3);
    t.opt.stop_tokens = stop_tokens;
    t.opt.n_stop_tokens = 2;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "a");
    cr_assert_eq(t.log.choices[0].stop_token, 'b');
}

Test(choice, shows_a_stop_token_if_stops_are_included)
{
    ANSWER('a', 'b', 'c');
    static const int32_t stop_tokens[] = { 'b' };
    test_request_init(&t, "P", 3);
    t.opt.stop_tokens = stop_tokens;
    t.opt.n_stop_tokens = 1;
    t.opt.include_stop = true;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "ab");
}

Test(choice, ends_at_a_stop_string_across_tokens)
{
    ANSWER('a', fake_token("ST"), fake_token("OP"), 'c');
    test_request_init(&t, "P", 9);
    test_request_add_stop(&t, "xyz");
    test_request_add_stop(&t, "STOP");
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "a");
    cr_assert_str_eq(t.log.choices[0].stop_string, "STOP");
    cr_assert_eq(t.log.last.usage.completion_tokens, 3);
    cr_assert_eq(t.log.choices[0].n_tokens, 1, "tokens of cut text are not shown");
}

Test(choice, stop_string_completed_by_the_last_token_is_a_stop)
{
    ANSWER('a', fake_token("ST"), fake_token("OP"));
    test_request_init(&t, "P", 3);
    test_request_add_stop(&t, "STOP");
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "a");
}

Test(choice, held_text_comes_out_at_an_end_token)
{
    ANSWER('a', fake_token("ST"), FAKE_EOS);
    test_request_init(&t, "P", 9);
    test_request_add_stop(&t, "STOP");
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "aST");
    cr_assert_null(t.log.choices[0].stop_string);
    cr_assert_eq(t.log.choices[0].n_tokens, 3);
}

Test(choice, prompt_and_echo_are_not_searched_for_stops)
{
    ANSWER('a', 'b');
    test_request_init(&t, "P", 2);
    test_request_add_stop(&t, "Pa");
    t.opt.echo = true;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "Pab");
}

Test(choice, the_first_token_makes_an_event_even_if_its_text_is_held)
{
    ANSWER(fake_token("\xf0\x9f"), fake_token("\x98\x80"), 'a');
    test_request_init(&t, "P", 3);
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "\xf0\x9f\x98\x80"
                                    "a");
    cr_assert_str_eq(t.log.kinds, "ADDF+");
}

Test(choice, min_tokens_bans_whatever_would_end_it)
{
    static const int32_t stop_tokens[] = { 'b' };
    ANSWER(FAKE_EOS, 'b', FAKE_END2, FAKE_EOS);
    test_request_init(&t, "P", 9);
    t.opt.stop_tokens = stop_tokens;
    t.opt.n_stop_tokens = 1;
    t.opt.min_tokens = 3;
    test_request_run(&t, &fx);
    const struct event_log_choice *c = &t.log.choices[0];
    cr_assert_eq(c->finish, SCHED_FINISH_STOP);
    cr_assert_eq(c->n_tokens, 4);
    for (int i = 0; i < 3; i++)
        cr_assert(c->tokens[i] != FAKE_EOS && c->tokens[i] != FAKE_END2 && c->tokens[i] != 'b');
    cr_assert_eq(c->tokens[3], FAKE_EOS);
}

Test(choice, stop_strings_wait_for_min_tokens_too)
{
    ANSWER('a', 'b', 'a', 'b', 'c');
    test_request_init(&t, "P", 9);
    test_request_add_stop(&t, "ab");
    t.opt.min_tokens = 3;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_STOP, "ab");
    cr_assert_eq(t.log.last.usage.completion_tokens, 4);
}

/* ---- echo, log-probabilities ---- */

Test(choice, echo_alone_gives_the_prompt_and_generates_nothing)
{
    test_request_init(&t, "Prompt", 0);
    t.opt.echo = true;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "Prompt");
    cr_assert_str_eq(t.log.kinds, "AF+");
    cr_assert_eq(t.log.last.usage.completion_tokens, 0);
    cr_assert_eq(t.log.choices[0].n_tokens, 6);
}

Test(choice, no_tokens_and_no_echo_computes_the_prompt_only)
{
    test_request_init(&t, "Prompt", 0);
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "");
    struct sched_stats stats;
    sched_stats(fx.sched, &stats);
    cr_assert_eq(stats.prompt_tokens, 6);
    cr_assert_eq(stats.generated_tokens, 0);
}

static void expect_logprobs(const struct event_log_choice *c, uint32_t n_prompt, uint32_t n_top)
{
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        const struct sched_logprobs *lp = &c->logprobs[i];
        cr_assert_eq(lp->token, c->tokens[i]);
        cr_assert_eq(lp->text_offset, i, "one byte per token here");
        cr_assert_eq(lp->has_logprob, i > 0 || n_prompt == 0);
        if (!lp->has_logprob)
            continue;
        cr_assert_lt(lp->logprob, 0);
        cr_assert_eq(lp->n_top, n_top);
        for (uint32_t k = 1; k < n_top; k++)
            cr_assert_leq(lp->top[k].logprob, lp->top[k - 1].logprob);
        if (i >= n_prompt && n_top > 0)
            cr_assert_eq(lp->top[0].token, lp->token, "greedy");
    }
}

Test(choice, echo_with_log_probabilities_covers_the_prompt)
{
    test_request_init(&t, "A prompt of many tokens, more than one step may give logits for.", 0);
    fake_engine_script(fx.engine, 'A', t.prompt.n_tokens, (const int32_t[]){ 0 }, 0);
    t.opt.echo = true;
    t.opt.n_logprobs = 3;
    test_request_run(&t, &fx);
    const struct event_log_choice *c = &t.log.choices[0];
    expect_end(SCHED_FINISH_LENGTH,
               "A prompt of many tokens, more than one step may give logits for.");
    cr_assert_eq(c->n_tokens, t.prompt.n_tokens);
    expect_logprobs(c, t.prompt.n_tokens, 3);
}

Test(choice, echo_and_answer_share_one_run_of_offsets)
{
    ANSWER('a', 'b', 'c');
    test_request_init(&t, "P", 3);
    t.opt.echo = true;
    t.opt.n_logprobs = 1;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "Pabc");
    cr_assert_eq(t.log.choices[0].n_tokens, 4);
    expect_logprobs(&t.log.choices[0], 1, 1);
}

Test(choice, zero_log_probabilities_give_the_chosen_token_alone)
{
    ANSWER('a', 'b');
    test_request_init(&t, "P", 2);
    t.opt.n_logprobs = 0;
    test_request_run(&t, &fx);
    expect_logprobs(&t.log.choices[0], 0, 0);
    cr_assert_eq(t.log.choices[0].n_tokens, 2);
}

/* The answer of the whole prompt, log-probabilities included, whatever the chunks were. */
Test(choice, log_probabilities_of_an_echo_are_those_of_the_answer)
{
    test_request_init(&t, "P", 12);
    t.opt.n_logprobs = 2;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    const struct event_log_choice *c = &t.log.choices[0];

    struct test_request again;
    test_request_init(&again, "P", 0);
    again.opt.echo = true;
    again.opt.n_logprobs = 2;
    memcpy(again.tokens + 1, c->tokens, 12 * sizeof(int32_t));
    again.prompt.n_tokens = 13;
    test_request_run(&again, &fx);
    const struct event_log_choice *d = &again.log.choices[0];
    for (uint32_t i = 0; i < 12; i++) {
        cr_assert_eq(d->logprobs[i + 1].token, c->logprobs[i].token);
        cr_assert_eq(d->logprobs[i + 1].logprob, c->logprobs[i].logprob);
        cr_assert_eq(d->logprobs[i + 1].top[1].token, c->logprobs[i].top[1].token);
    }
    test_request_close(&again);
}

/* ---- many choices ---- */

Test(choice, each_prompt_and_choice_has_its_own_answer)
{
    int32_t other[] = { 'x', 'y', 'z' };
    struct sched_prompt prompts[2];
    test_request_init(&t, "Pqr", 6);
    prompts[0] = t.prompt;
    prompts[1] = (struct sched_prompt){ other, 3 };
    t.opt.prompts = prompts;
    t.opt.n_prompts = 2;
    t.opt.n = 3;
    t.opt.sampling.temperature = 1;
    t.opt.sampling.seed = 42;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);
    cr_assert_eq(t.log.last.usage.prompt_tokens, 6, "each prompt once");
    cr_assert_eq(t.log.last.usage.completion_tokens, 36);
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_eq(t.log.choices[i].finish, SCHED_FINISH_LENGTH);
        for (uint32_t k = 0; k < i; k++)
            cr_assert(
                memcmp(t.log.choices[i].tokens, t.log.choices[k].tokens, 6 * sizeof(int32_t)) != 0,
                "choices %u and %u are equal", i, k);
    }
}

Test(choice, a_seeded_choice_does_not_depend_on_its_neighbours)
{
    test_request_init(&t, "Pqr", 8);
    t.opt.n = 4;
    t.opt.sampling.temperature = 1;
    t.opt.sampling.seed = 7;
    t.opt.ignore_eos = true;
    test_request_run(&t, &fx);

    struct test_request alone;
    test_request_init(&alone, "Pqr", 8);
    alone.opt.sampling = t.opt.sampling;
    alone.opt.ignore_eos = true;
    test_request_run(&alone, &fx);
    cr_assert_str_eq(alone.log.choices[0].text, t.log.choices[0].text);
    test_request_close(&alone);
}

Test(choice, biases_are_copied_and_used)
{
    static struct engine_logit_bias bias[] = { { 'z', 100.0f } };
    struct engine_logit_bias *mine = bias;
    test_request_init(&t, "P", 3);
    t.opt.sampling.bias = mine;
    t.opt.sampling.n_bias = 1;
    test_request_run(&t, &fx);
    expect_end(SCHED_FINISH_LENGTH, "zzz");
}
