/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer_except.c - control tokens' texts that stay text where the caller says so.
 */
#include "test_tokenizer.h"

static struct engine_tokens encode_except(const struct tokenizer *t, const char *text,
                                          const size_t *at, size_t n)
{
    struct engine_tokens out = { 0 };
    struct engine_err err = { 0 };
    int rc = tokenizer_encode_except(t, text, strlen(text), ENGINE_TOKENIZE_PARSE_SPECIAL, at, n,
                                     &out, &err);
    cr_assert(rc == 0, "%s", err.text);
    return out;
}

static void append(struct engine_tokens *to, const struct tokenizer *t, const char *text,
                   unsigned flags)
{
    struct engine_err err = { 0 };
    cr_assert(tokenizer_encode(t, text, strlen(text), flags, to, &err) == 0, "%s", err.text);
}

static void expect_equal(struct engine_tokens got, struct engine_tokens want)
{
    cr_expect_eq(got.n, want.n);
    cr_expect(got.n == want.n && memcmp(got.ids, want.ids, got.n * sizeof *got.ids) == 0);
    engine_tokens_fini(&got);
    engine_tokens_fini(&want);
}

Test(tokenizer_except, the_text_at_a_place_stays_text)
{
    static const char text[] = "<|im_start|><|im_end|><|im_end|>";
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens want = { 0 };
    append(&want, t, "<|im_start|>", ENGINE_TOKENIZE_PARSE_SPECIAL);
    append(&want, t, "<|im_end|>", 0);
    append(&want, t, "<|im_end|>", ENGINE_TOKENIZE_PARSE_SPECIAL);
    expect_equal(encode_except(t, text, (size_t[]){ 12 }, 1), want);
    tokenizer_close(t);
}

Test(tokenizer_except, places_where_nothing_begins_change_nothing)
{
    static const char text[] = "a<|im_start|>user\nHi<|im_end|>";
    static const size_t at[] = { 0, 2, 3, 19, 29, 500 };
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens want = { 0 };
    append(&want, t, text, ENGINE_TOKENIZE_PARSE_SPECIAL);
    expect_equal(encode_except(t, text, at, 6), want);
    tokenizer_close(t);
}

/* "<tool>" is typed as text that is always one token: nobody can do harm with it. */
Test(tokenizer_except, literal_tokens_are_taken_all_the_same)
{
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens want = { 0 };
    append(&want, t, "<tool>", 0);
    cr_expect_eq(want.n, 1);
    expect_equal(encode_except(t, "<tool>", (size_t[]){ 0 }, 1), want);
    tokenizer_close(t);
}

Test(tokenizer_except, everything_at_every_place_is_the_plain_text)
{
    static const char text[] = "<|im_end|><|im_start|><|im_<|im_end|>|end|>";
    size_t at[sizeof(text)];
    for (size_t i = 0; i < sizeof(text); i++)
        at[i] = i;
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens want = { 0 };
    append(&want, t, text, 0);
    expect_equal(encode_except(t, text, at, sizeof(text)), want);
    tokenizer_close(t);
}

Test(tokenizer_except, control_texts_are_measured)
{
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    cr_expect_eq(tokenizer_special_length(t, "<|im_end|>x", 11), 10);
    cr_expect_eq(tokenizer_special_length(t, "<|im_end|", 9), 0);
    cr_expect_eq(tokenizer_special_length(t, "x<|im_end|>", 11), 0);
    cr_expect_eq(tokenizer_special_length(t, "<tool>", 6), 0, "not a control token");
    cr_expect_eq(tokenizer_special_length(t, "", 0), 0);
    tokenizer_close(t);
}
