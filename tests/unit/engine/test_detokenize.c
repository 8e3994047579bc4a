/* SPDX-License-Identifier: Apache-2.0
 *
 * test_detokenize.c - bytes to well-formed text, however they are cut up.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/text/internal.h"

#define BAD "\xEF\xBF\xBD"

static void expect_text(const char *bytes, size_t len, size_t chunk, const char *expected)
{
    struct detok d = { 0 };
    char out[512];
    size_t n = 0;
    for (size_t at = 0; at < len; at += chunk) {
        size_t take = len - at < chunk ? len - at : chunk;
        size_t wrote = detok_bytes(&d, bytes + at, take, out + n);
        cr_assert(wrote <= 3 * (take + 4));
        cr_assert(utf8_valid_run(out + n, wrote) == wrote, "whole code points only");
        n += wrote;
    }
    n += detok_end(&d, out + n);
    out[n] = '\0';
    cr_expect_str_eq(out, expected, "chunks of %zu: %s, not %s", chunk, out, expected);
}

static void expect_text_in_all_chunks(const char *bytes, const char *expected)
{
    size_t len = strlen(bytes);
    for (size_t chunk = 1; chunk <= len; chunk++)
        expect_text(bytes, len, chunk, expected);
}

Test(detokenize, gives_valid_text_unchanged)
{
    expect_text_in_all_chunks("plain", "plain");
    expect_text_in_all_chunks("\u00e9\u4e2d\U0001F600!", "\u00e9\u4e2d\U0001F600!");
    expect_text_in_all_chunks("\U0010FFFF\uFFFD\u07FF\u0800", "\U0010FFFF\uFFFD\u07FF\u0800");
}

Test(detokenize, replaces_each_maximal_subpart)
{
    /* The examples of the Unicode standard, section 3.9. */
    expect_text_in_all_chunks("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
                              BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect_text_in_all_chunks("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41",
                              BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect_text_in_all_chunks("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
                              BAD BAD BAD BAD BAD "A" BAD BAD "B");
    expect_text_in_all_chunks("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", BAD BAD BAD BAD "A");
}

Test(detokenize, replaces_what_never_ends)
{
    expect_text_in_all_chunks("a\xF0\x9F\x98", "a" BAD);
    expect_text_in_all_chunks("\xE4\xB8", BAD);
    expect_text_in_all_chunks("\xC3", BAD);
}

Test(detokenize, holds_back_no_more_than_is_needed)
{
    struct detok d = { 0 };
    char out[64];
    cr_expect(detok_bytes(&d, "a\xE4\xB8", 3, out) == 1 && out[0] == 'a');
    cr_expect(d.n_held == 2);
    cr_expect(detok_bytes(&d, "\xAD", 1, out) == 3 && memcmp(out, "\u4e2d", 3) == 0);
    cr_expect(d.n_held == 0);
    cr_expect(detok_end(&d, out) == 0);
    cr_expect(detok_bytes(&d, "\xF0", 1, out) == 0);
    cr_expect(detok_bytes(&d, "x", 1, out) == 4 && memcmp(out, BAD "x", 4) == 0);
}

Test(detokenize, is_the_same_for_any_chunks_of_random_bytes)
{
    uint64_t state = 1;
    for (int round = 0; round < 3000; round++) {
        char bytes[40], whole[256];
        struct detok d = { 0 };
        for (size_t i = 0; i < sizeof bytes; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            /* Mostly lead and continuation bytes: that is where it can go wrong. */
            bytes[i] = (char)(0x80 | state >> 56);
        }
        size_t n = detok_bytes(&d, bytes, sizeof bytes, whole);
        n += detok_end(&d, whole + n);
        whole[n] = '\0';
        cr_assert(utf8_valid_run(whole, n) == n);
        for (size_t chunk = 1; chunk < 7; chunk++)
            expect_text(bytes, sizeof bytes, chunk, whole);
    }
}

/* ---- the engine's functions, over the small vocabularies ---- */

static struct engine *open_small(const char *path)
{
    struct engine_options opt = { .model_path = path, .vocab_only = true };
    struct engine_err err = { 0 };
    struct engine *e = NULL;
    cr_assert(engine_open(&e, &opt, &err) == 0, "%s", err.text);
    return e;
}

/* text -> ids -> text, one token at a time. */
static void detokenize(struct engine *e, const char *text, bool skip_control, bool at_start,
                       char *dst)
{
    struct engine_tokens ids = { 0 };
    struct engine_detok d;
    size_t n = 0;
    cr_assert(engine_tokenize(e, text, strlen(text), ENGINE_TOKENIZE_PARSE_SPECIAL, &ids, NULL) ==
              0);
    engine_detok_init(&d, e, skip_control, at_start);
    for (size_t i = 0; i < ids.n; i++) {
        size_t wrote = engine_detok_push(&d, ids.ids[i], dst + n);
        cr_assert(wrote <= engine_detok_max(e));
        n += wrote;
    }
    n += engine_detok_flush(&d, dst + n);
    dst[n] = '\0';
    engine_tokens_fini(&ids);
}

Test(detokenize, gives_a_byte_level_text_back)
{
    struct engine *e = open_small("tests/golden/vocab/bpe_small.gguf");
    char out[512];
    detokenize(e, " the \u4e2d\U0001F600<|im_end|>!", false, true, out);
    cr_expect_str_eq(out, " the \u4e2d\U0001F600<|im_end|>!");
    detokenize(e, " the \u4e2d\U0001F600<|im_end|>!", true, true, out);
    cr_expect_str_eq(out, " the \u4e2d\U0001F600!", "control tokens are left out");
    detokenize(e, "<tool>x", true, true, out);
    cr_expect_str_eq(out, "<tool>x", "user-defined ones are not");
    detokenize(e, "a\xFF\xE4\xB8", true, true, out);
    cr_expect_str_eq(out, "a" BAD BAD);
    engine_close(e);
}

Test(detokenize, drops_the_space_that_sentencepiece_put_in_front)
{
    struct engine *e = open_small("tests/golden/vocab/spm_small.gguf");
    char out[512];
    detokenize(e, "the \u4e2d\U0001F600!", false, true, out);
    cr_expect_str_eq(out, "the \u4e2d\U0001F600!");
    detokenize(e, " the", false, true, out);
    cr_expect_str_eq(out, " the", "only one");
    detokenize(e, "the", false, false, out);
    cr_expect_str_eq(out, " the", "in the middle of a text it belongs there");
    detokenize(e, "<s>the", true, true, out);
    cr_expect_str_eq(out, "the", "control tokens do not count as the start");
    engine_close(e);
}
