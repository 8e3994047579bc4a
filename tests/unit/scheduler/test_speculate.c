/* SPDX-License-Identifier: Apache-2.0
 *
 * test_speculate.c - what is guessed, how often that comes true, how much of it is worth a row; and that
 * no answer changes.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/sched_fixture.h"

static const uint64_t ms = 1000 * 1000;

/* ---- lookup ---- */

/* Letters as tokens; the first n_prompt of them are the prompt.  Returns the guesses as text. */
static const char *lookup(const char *letters, uint32_t n_prompt, uint32_t most, uint32_t *n_match)
{
    static int32_t tokens[128], draft[32];
    static char text[33];
    uint32_t n = (uint32_t)strlen(letters);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = letters[i];
    struct speculate_text in = { tokens, tokens + n_prompt, n_prompt, n - n_prompt };
    uint32_t n_drafts = speculate_lookup(&in, most, draft, n_match);
    for (uint32_t i = 0; i < n_drafts; i++)
        text[i] = (char)draft[i];
    text[n_drafts] = '\0';
    return text;
}

Test(speculate, what_followed_the_same_words_is_guessed_to_follow)
{
    uint32_t n_match;
    for (uint32_t n_prompt = 1; n_prompt < 15; n_prompt++) {
        cr_assert_str_eq(lookup("the cat sat. th", n_prompt, 5, &n_match), "e cat");
        cr_assert_eq(n_match, 2, "and the sentence's first word has nothing before it");
    }
    cr_assert_str_eq(lookup("xabcd-yabcq-abc", 4, 2, &n_match), "q-", "the latest of equals");
    cr_assert_str_eq(lookup("xabcd-yabcq-xabc", 4, 2, &n_match), "d-", "but the longest before");
    cr_assert_eq(n_match, 4);
}

Test(speculate, one_word_alone_says_nothing)
{
    uint32_t n_match;
    cr_assert_str_eq(lookup("abcb", 2, 5, &n_match), "");
    cr_assert_str_eq(lookup("ab", 1, 5, &n_match), "");
    cr_assert_str_eq(lookup("a", 1, 5, &n_match), "");
    cr_assert_str_eq(lookup("abcab", 2, 0, &n_match), "");
}

Test(speculate, what_repeats_is_guessed_to_go_on)
{
    uint32_t n_match;
    cr_assert_str_eq(lookup("_abab", 2, 7, &n_match), "abababa");
    cr_assert_str_eq(lookup("aaa", 2, 4, &n_match), "aaaa");
}

/* ---- odds ---- */

Test(speculate, odds_follow_what_came_true_by_length_of_match)
{
    struct speculate_odds odds;
    speculate_odds_init(&odds);
    double before = speculate_odds_of(&odds, SPECULATE_MOST_MATCH);
    for (int i = 0; i < 50; i++)
        speculate_learn(&odds, SPECULATE_LEAST_MATCH, false);
    cr_assert_lt(speculate_odds_of(&odds, SPECULATE_LEAST_MATCH), 0.01);
    cr_assert_eq(speculate_odds_of(&odds, SPECULATE_MOST_MATCH), before);
    for (int i = 0; i < 50; i++)
        speculate_learn(&odds, SPECULATE_LEAST_MATCH, true);
    cr_assert_gt(speculate_odds_of(&odds, SPECULATE_LEAST_MATCH), 0.98);
}

/* ---- how many ---- */

/* Steps of up to 8 rows take as long as one, then each row costs as much: bound by memory, then not. */
static struct budget machine(void)
{
    struct budget b = { .row_ns = 0 };
    for (uint32_t n = 1; n <= 256; n *= 2)
        budget_note(&b, n, 0, 10 * ms * (n <= 8 ? 1 : n / 8));
    return b;
}

static uint32_t n_refused;

#define GUESSES(p, n) ((struct speculate_item){ .likelihood = (p), .n_drafts = (n) })

static uint32_t pick(struct speculate_item *items, uint32_t n, const struct budget *b)
{
    n_refused = 0;
    return speculate_pick(items, n, 512, b, &n_refused);
}

Test(speculate, rows_that_cost_nothing_are_taken)
{
    struct budget b = machine();
    struct speculate_item one[] = { GUESSES(0.3, 15) };
    cr_assert_eq(pick(one, 1, &b), 7);
    cr_assert_eq(one[0].n_rows, 7);
    struct speculate_item two[] = { GUESSES(0.3, 15), GUESSES(0.9, 4) };
    cr_assert_eq(pick(two, 2, &b), 6);
    cr_assert_eq(two[1].n_rows, 4, "the likelier first");
    cr_assert_eq(two[0].n_rows, 2);
}

Test(speculate, rows_at_full_price_only_if_they_are_nearly_sure)
{
    struct budget b = machine();
    struct speculate_item likely[] = { GUESSES(0.99, 15) }, less[] = { GUESSES(0.8, 15) };
    cr_assert_eq(pick(likely, 1, &b), 7, "8 to 16 rows would take twice as long");
    cr_assert_eq(pick(less, 1, &b), 7);
    struct speculate_item many[32];
    for (int i = 0; i < 32; i++)
        many[i] = GUESSES(0.7, 15);
    cr_assert_eq(pick(many, 32, &b), 0);
    cr_assert_eq(n_refused, 1);
}

Test(speculate, without_costs_or_guesses_there_is_nothing)
{
    struct budget unknown = { .row_ns = 0 }, b = machine();
    struct speculate_item items[] = { GUESSES(0.9, 5), GUESSES(0, 0) };
    cr_assert_eq(pick(items, 2, &unknown), 0);
    cr_assert_eq(pick(items + 1, 1, &b), 0);
    cr_assert_eq(n_refused, 0, "there was nothing to refuse");
    cr_assert_eq(speculate_pick(items, 2, 3, &b, &n_refused), 3, "no more than there is room");
}

Test(speculate, after_many_refusals_one_is_tried)
{
    struct budget b = { .row_ns = 0 };
    for (uint32_t n = 1; n <= 64; n *= 2)
        budget_note(&b, n, 0, n * ms);
    uint32_t refused = 0, n_tried = 0;
    for (uint32_t i = 0; i < 3 * SPECULATE_RETRY; i++) {
        struct speculate_item items[] = { GUESSES(0.5, 15), GUESSES(0.6, 15) };
        uint32_t n = speculate_pick(items, 2, 512, &b, &refused);
        n_tried += n;
        cr_assert_leq(n, 1);
        cr_assert_eq(items[1].n_rows, n, "the likeliest");
    }
    cr_assert_eq(n_tried, 3);
}

/* ---- in the loop ---- */

static struct sched_fixture fx;

/* Steps that take long, however many rows they have: guesses always pay. */
static void open_speculating(uint32_t n_pages, uint32_t defer_every)
{
    struct fake_engine_options engine = { .step_us = 300,
                                          .n_pages = n_pages,
                                          .page_tokens = 16,
                                          .max_logit_rows = 24,
                                          .defer_every = defer_every };
    struct sched_options opt = { .speculate = true };
    sched_fixture_open(&fx, &engine, &opt);
}

Test(speculate, an_answer_that_repeats_itself_takes_fewer_steps)
{
    struct test_request t;
    struct fake_engine_counts counts;
    static int32_t answer[60];
    for (uint32_t i = 0; i < 60; i++)
        answer[i] = "abcdef"[i % 6];
    open_speculating(0, 0);
    fake_engine_script(fx.engine, 'P', 1, answer, 60);
    test_request_init(&t, "P", 48);
    test_request_run(&t, &fx);
    cr_assert_str_eq(t.log.choices[0].text, "abcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdef");
    cr_assert_eq(t.log.last.usage.completion_tokens, 48);
    fake_engine_counts(fx.engine, &counts);
    cr_assert_lt(counts.n_steps, 25, "%llu steps", (unsigned long long)counts.n_steps);
    struct sched_stats stats = sched_fixture_stats(&fx);
    cr_assert_eq(stats.generated_tokens, 48);
    cr_assert_gt(stats.accepted_tokens, 20);
    cr_assert_geq(stats.drafted_tokens, stats.accepted_tokens);
    cr_assert_eq(t.log.last.usage.accepted_tokens, stats.accepted_tokens);
    cr_assert_eq(t.log.choices[0].n_deltas + stats.accepted_tokens, 48, "one delta per step");
    test_request_close(&t);
    sched_fixture_close(&fx);
}

Test(speculate, an_answer_ends_within_guesses_that_were_right)
{
    struct test_request t;
    static int32_t answer[60];
    for (uint32_t i = 0; i < 60; i++)
        answer[i] = "abcdef"[i % 6];
    answer[40] = FAKE_EOS;
    open_speculating(0, 0);
    fake_engine_script(fx.engine, 'P', 1, answer, 60);
    test_request_init(&t, "P", 60);
    test_request_run(&t, &fx);
    cr_assert_str_eq(t.log.choices[0].text, "abcdefabcdefabcdefabcdefabcdefabcdefabcd");
    cr_assert_eq(t.log.choices[0].finish, SCHED_FINISH_STOP);
    test_request_close(&t);
    test_request_init(&t, "P", 60);
    test_request_add_stop(&t, "fabcdefabcdefa");
    test_request_run(&t, &fx);
    cr_assert_str_eq(t.log.choices[0].text, "abcde");
    test_request_close(&t);
    sched_fixture_close(&fx);
}

/* ---- no answer changes ---- */

static int32_t wordy[200];

static void init_wordy(struct test_request *t, uint32_t i)
{
    static const char *const prompts[] = { "Pababab", "P", "one one one", "Pxyzxyz", "the" };
    test_request_init(t, prompts[i % 5], 1 + i * 11 % 60);
    t->opt.n = 1 + i % 3;
    t->opt.sampling.temperature = i % 2 ? 0.5f : 0.0f;
    t->opt.sampling.frequency_penalty = i % 7 == 3 ? 0.4f : 0.0f;
    t->opt.sampling.seed = i;
    t->opt.n_logprobs = i % 4 == 0 ? 2 : -1;
    t->opt.echo = i % 6 == 1;
    t->opt.min_tokens = i % 9;
    if (i % 5 == 2)
        test_request_add_stop(t, "cabc");
}

static void expect_same(const struct test_request *a, const struct test_request *b)
{
    const char *difference = test_request_difference(a, b);
    cr_assert_eq(a->log.last.kind, SCHED_EVENT_DONE);
    cr_assert_null(difference, "the answers differ: %s", difference);
}

Test(speculate, no_answer_changes)
{
    enum { N = 60 };
    static struct test_request plain[N], guessed[N];
    struct fake_engine_options engine = { .max_logit_rows = 24, .page_tokens = 16 };
    for (uint32_t i = 0; i < 200; i++)
        wordy[i] = i % 50 < 40 ? "abcabd"[i % 6] : 'a' + (int32_t)(i * 7 % 26);
    sched_fixture_open(&fx, &engine, NULL);
    fake_engine_script(fx.engine, 'P', 1, wordy, 200);
    for (uint32_t i = 0; i < N; i++) {
        init_wordy(&plain[i], i);
        test_request_run(&plain[i], &fx);
    }
    cr_assert_eq(sched_fixture_stats(&fx).drafted_tokens, 0, "unasked, nothing is guessed");
    sched_fixture_close(&fx);

    for (uint32_t pass = 0; pass < 3; pass++) {
        open_speculating(pass == 1 ? 14 : 0, pass == 2 ? 5 : 0);
        fake_engine_script(fx.engine, 'P', 1, wordy, 200);
        for (uint32_t i = 0; i < N; i++)
            init_wordy(&guessed[i], i);
        for (uint32_t i = 0; i < N; i += 6) {
            for (uint32_t k = i; k < i + 6; k++)
                test_request_submit(&guessed[k], &fx);
            for (uint32_t k = i; k < i + 6; k++)
                test_request_wait(&guessed[k]);
        }
        for (uint32_t i = 0; i < N; i++) {
            expect_same(&guessed[i], &plain[i]);
            test_request_close(&guessed[i]);
        }
        struct sched_stats stats = sched_fixture_stats(&fx);
        cr_assert_gt(stats.accepted_tokens, 100);
        cr_assert_gt(stats.drafted_tokens, stats.accepted_tokens, "some were wrong");
        if (pass == 1)
            cr_assert_gt(stats.preemptions, 0);
        sched_fixture_close(&fx);
    }
    for (uint32_t i = 0; i < N; i++)
        test_request_close(&plain[i]);
}
