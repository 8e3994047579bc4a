/* SPDX-License-Identifier: Apache-2.0
 *
 * test_transcript.c - from tokens to deltas: what is held back, what is cut, which tokens go along.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/fake_engine.h"

struct fixture {
    struct engine *engine;
    struct stop_node nodes[512];
    struct stops stops;
    struct sched_text texts[8];
    struct transcript_options opt;
    struct transcript t;
    char shown[4096]; /* all deltas joined */
    size_t n_shown;
    uint32_t n_tokens_shown;
};

static struct fixture fx;

static void setup(void)
{
    memset(&fx, 0, sizeof(fx));
    fx.engine = fake_engine_open(&(struct fake_engine_options){ 0 });
    fx.opt = (struct transcript_options){
        .engine = fx.engine,
        .max_tokens = 64,
        .skip_special = true,
        .with_logprobs = true,
    };
}

static void teardown(void)
{
    transcript_fini(&fx.t);
    engine_close(fx.engine);
}

TestSuite(transcript, .init = setup, .fini = teardown);

static void start(const char *stop1, const char *stop2)
{
    uint32_t n = 0;
    for (const char *const *s = (const char *const[]){ stop1, stop2, NULL }; *s; s++)
        fx.texts[n++] = (struct sched_text){ *s, strlen(*s) };
    if (n > 0)
        stops_build(&fx.stops, fx.nodes, fx.texts, n);
    fx.opt.stops = n > 0 ? &fx.stops : NULL;
    cr_assert_eq(transcript_init(&fx.t, &fx.opt), 0);
}

static void push_flags(int32_t token, unsigned flags)
{
    struct engine_sample from = { .logprob = -0.5f, .n_top = 1, .top = { { token, -0.5f } } };
    cr_assert_eq(transcript_push(&fx.t, token, &from, flags), 0);
}

static void push(const char *piece)
{
    push_flags(fake_token(piece), 0);
}

/* What goes out now. */
static const char *take(bool all, uint32_t n_tokens)
{
    static char text[4096];
    struct transcript_delta delta = transcript_peek(&fx.t, all);
    cr_assert_eq(delta.n_tokens, n_tokens, "%u tokens go with \"%.*s\"", delta.n_tokens,
                 (int)delta.text.len, delta.text.data);
    for (uint32_t i = 0; i < delta.n_tokens && delta.logprobs; i++)
        cr_assert_eq(delta.logprobs[i].token, delta.tokens[i]);
    memcpy(text, delta.text.data, delta.text.len);
    text[delta.text.len] = 0;
    transcript_drop(&fx.t, &delta);
    return text;
}

Test(transcript, without_stop_strings_everything_goes_at_once)
{
    start(NULL, NULL);
    push("hello");
    cr_assert_str_eq(take(false, 1), "hello");
    push(" world");
    cr_assert_str_eq(take(false, 1), " world");
    transcript_end(&fx.t);
    cr_assert_str_eq(take(true, 0), "");
}

Test(transcript, the_beginning_of_a_stop_string_is_held_and_cut)
{
    start("STOP", NULL);
    push("a");
    push("ST");
    cr_assert_str_eq(take(false, 1), "a");
    push("OP");
    cr_assert(fx.t.cut);
    cr_assert_eq(fx.t.match, 0);
    transcript_end(&fx.t);
    cr_assert_str_eq(take(true, 0), "");
}

Test(transcript, a_prefix_that_does_not_go_on_is_released_with_its_tokens)
{
    start("STOP", NULL);
    push("ST");
    cr_assert_str_eq(take(false, 0), "");
    push("ab");
    cr_assert_str_eq(take(false, 2), "STab");
}

Test(transcript, include_stop_keeps_the_string_but_not_what_follows_it)
{
    fx.opt.include_stop = true;
    start("OP", NULL);
    push("ST");
    push("OP");
    transcript_end(&fx.t);
    cr_assert_str_eq(take(true, 2), "STOP");

    transcript_fini(&fx.t);
    start("b", NULL);
    push("abc");
    cr_assert_str_eq(take(true, 1), "ab");
}

Test(transcript, a_match_inside_a_token_cuts_the_token)
{
    start("b", NULL);
    push("abc");
    cr_assert_str_eq(take(true, 1), "a");
}

Test(transcript, the_earliest_end_wins_over_the_earliest_start)
{
    start("abcx", "bc");
    push("abc");
    cr_assert_eq(fx.t.match, 1);
    cr_assert_str_eq(take(true, 1), "a");
}

Test(transcript, of_equal_ends_the_longest_string_wins)
{
    start("bc", "abc");
    push("abc");
    cr_assert_eq(fx.t.match, 1);
    cr_assert_str_eq(take(true, 0), "");
}

Test(transcript, a_stop_string_as_first_output_leaves_no_text)
{
    start("\n\n", NULL);
    push("\n\n");
    cr_assert(fx.t.cut);
    cr_assert_str_eq(take(true, 0), "");
}

Test(transcript, held_text_is_flushed_at_the_end)
{
    start("User:", NULL);
    push("hello");
    push("Us");
    push("er");
    cr_assert_str_eq(take(false, 1), "hello");
    transcript_end(&fx.t);
    cr_assert_str_eq(take(true, 2), "User");
}

Test(transcript, a_code_point_split_over_tokens_goes_out_whole)
{
    start(NULL, NULL);
    push("\xf0\x9f");
    cr_assert_str_eq(take(false, 0), "");
    push("\x98\x80");
    cr_assert_str_eq(take(false, 2), "\xf0\x9f\x98\x80");
    push("a");
    struct transcript_delta delta = transcript_peek(&fx.t, false);
    cr_assert_eq(delta.logprobs[0].text_offset, 1, "offsets count code points");
}

Test(transcript, an_unfinished_code_point_becomes_a_replacement_character)
{
    start(NULL, NULL);
    push("\xe2\x82");
    transcript_end(&fx.t);
    cr_assert_str_eq(take(true, 1), "\xef\xbf\xbd");
}

Test(transcript, a_stop_string_of_half_a_code_point_never_splits_one)
{
    start("\x9f\x98", NULL);
    push("a");
    push("\xf0\x9f");
    push("\x98\x80");
    cr_assert(fx.t.cut);
    cr_assert_str_eq(take(true, 1), "a");
}

Test(transcript, a_token_without_text_waits_for_the_next_text)
{
    start(NULL, NULL);
    push("a");
    cr_assert_str_eq(take(false, 1), "a");
    for (int i = 0; i < 40; i++)
        push_flags(FAKE_CONTROL, 0);
    cr_assert_str_eq(take(false, 0), "");
    push("b");
    cr_assert_str_eq(take(false, 41), "b");
}

Test(transcript, an_end_token_has_a_place_but_no_text)
{
    start("zz", NULL);
    push("hello");
    push_flags(FAKE_EOS, TRANSCRIPT_NO_TEXT);
    transcript_end(&fx.t);
    struct transcript_delta delta = transcript_peek(&fx.t, true);
    cr_assert_eq(delta.n_tokens, 2);
    cr_assert_eq(delta.logprobs[1].text_offset, 5);
    cr_assert_str_eq(take(true, 2), "hello");
}

Test(transcript, control_tokens_are_text_if_wanted)
{
    fx.opt.skip_special = false;
    start(NULL, NULL);
    push_flags(FAKE_CONTROL, 0);
    cr_assert_str_eq(take(false, 1), "<|x|>");
}

Test(transcript, a_match_that_does_not_count_yet_is_passed_over)
{
    start("ab", NULL);
    push_flags(fake_token("ab"), TRANSCRIPT_NO_STOP);
    cr_assert(!fx.t.cut);
    push("ab");
    cr_assert(fx.t.cut);
    cr_assert_str_eq(take(true, 1), "ab");
}

Test(transcript, the_echo_comes_first_and_is_not_searched)
{
    const int32_t echo[] = { FAKE_BOS, fake_token(" world"), fake_token("ST") };
    fx.opt.echo = echo;
    fx.opt.n_echo = 3;
    start("STOP", "world");
    push("OP");
    struct transcript_delta delta = transcript_peek(&fx.t, false);
    cr_assert_eq(delta.n_tokens, 4);
    cr_assert(!delta.logprobs[0].has_logprob);
    cr_assert_eq(delta.logprobs[2].text_offset, 5);
    cr_assert_str_eq(take(false, 4), "worldSTOP", "the first space of a text goes");
}

/* ---- any tokens, any stops ---- */

static size_t naive_text(const int32_t *tokens, uint32_t n, char *text)
{
    struct engine_detok detok;
    engine_detok_init(&detok, fx.engine, true, false);
    size_t len = 0;
    for (uint32_t i = 0; i < n; i++)
        len += engine_detok_push(&detok, tokens[i], text + len);
    return len;
}

/* Where the text ends: at the earliest end of a stop string, the longest such; -1: nowhere. */
static long naive_cut(const char *text, size_t len)
{
    for (size_t end = 1; end <= len; end++) {
        size_t longest = 0;
        for (uint32_t i = 0; i < 2; i++) {
            size_t n = fx.texts[i].len;
            if (n <= end && n > longest && memcmp(text + end - n, fx.texts[i].data, n) == 0)
                longest = n;
        }
        if (longest > 0)
            return (long)(end - longest);
    }
    return -1;
}

static void show(bool all)
{
    struct transcript_delta delta = transcript_peek(&fx.t, all);
    memcpy(fx.shown + fx.n_shown, delta.text.data, delta.text.len);
    fx.n_shown += delta.text.len;
    fx.n_tokens_shown += delta.n_tokens;
    transcript_drop(&fx.t, &delta);
}

static void check_random(const char *stop1, const char *stop2)
{
    int32_t tokens[40];
    char text[4096];
    fx.n_shown = fx.n_tokens_shown = 0;
    start(stop1, stop2);
    uint32_t n = 0;
    while (n < 40 && !fx.t.cut) {
        tokens[n] = rand() % 3 ? FAKE_N_SPECIAL + rand() % 24 : "abcSTOPxyz"[rand() % 10];
        push_flags(tokens[n++], 0);
        show(false);
    }
    size_t len = naive_text(tokens, n, text);
    long cut = naive_cut(text, len);
    cr_assert_eq(fx.t.cut, cut >= 0);
    if (cut >= 0)
        len = (size_t)cut;
    transcript_end(&fx.t);
    show(true);
    if (fx.n_shown > len) /* the flush */
        cr_assert_eq(memcmp(fx.shown + len, "\xef\xbf\xbd", 3), 0);
    cr_assert_geq(fx.n_shown, len);
    cr_assert_eq(memcmp(fx.shown, text, len), 0, "\"%.*s\" not \"%.*s\"", (int)fx.n_shown, fx.shown,
                 (int)len, text);
    cr_assert(cut >= 0 || fx.n_tokens_shown == n, "every token goes out");
    transcript_fini(&fx.t);
}

Test(transcript, joined_deltas_are_the_text_up_to_the_first_stop)
{
    static const char *const stops[][2] = { { "STOP", "TO" },  { "abcab", "bcx" },
                                            { "User:", "er" }, { "xyzxyz", "\n\n" },
                                            { "é!", "本" },    { "aab", "abb" } };
    srand(11);
    for (int round = 0; round < 4000; round++) {
        const char *const *pair = stops[round % 6];
        check_random(pair[0], pair[1]);
    }
}

/* As many as a step with guesses gives at once. */
Test(transcript, has_room_for_all_tokens_of_a_step)
{
    start(NULL, NULL);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < TRANSCRIPT_MAX_PUSHES; i++)
            push("日本");
        cr_assert_eq(strlen(take(false, TRANSCRIPT_MAX_PUSHES)), 6 * TRANSCRIPT_MAX_PUSHES);
    }
}
