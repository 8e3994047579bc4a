/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer_refusals.c - files whose vocabulary is wrong: each is refused with the key, the
 * index and the value.
 */
#include "tests/support/gguf_build.h"
#include "tests/unit/engine/test_tokenizer.h"

/* A small good vocabulary of either kind; a test spoils one part of it. */
struct parts {
    const char *model, *pre;
    const char *tokens[8];
    int32_t types[8];
    float scores[8];
    const char *merges[4];
    uint32_t n_tokens, n_types, n_scores, n_merges;
    uint32_t eos;
    int32_t end_ids[2];
    uint32_t n_end_ids;
};

static const struct parts good_bpe = {
    .model = "gpt2",
    .pre = "gpt-2",
    .tokens = { "a", "b", "ab", "</s>", "abab", "<|im_end|>" },
    .types = { 1, 1, 1, 3, 1, 4 },
    .merges = { "a b", "ab ab" },
    .n_tokens = 6,
    .n_types = 6,
    .n_merges = 2,
    .eos = 3,
};

static const struct parts good_spm = {
    .model = "llama",
    .pre = "default",
    .tokens = { "<unk>", "<s>", "</s>", "a", "b", "ab" },
    .types = { 2, 3, 3, 1, 1, 1 },
    .scores = { 0, 0, 0, -2, -2, -1 },
    .n_tokens = 6,
    .n_types = 6,
    .n_scores = 6,
    .eos = 2,
};

static int open_parts(const struct parts *p, struct tokenizer **t, struct engine_err *err)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    struct gguf *g = NULL;
    size_t len;
    gguf_build_str(&b, "general.architecture", "llama");
    if (p->model != NULL)
        gguf_build_str(&b, "tokenizer.ggml.model", p->model);
    if (p->pre != NULL)
        gguf_build_str(&b, "tokenizer.ggml.pre", p->pre);
    gguf_build_strings(&b, "tokenizer.ggml.tokens", p->n_tokens, p->tokens);
    gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_I32, p->n_types, p->types,
                     p->n_types * sizeof p->types[0]);
    if (p->n_scores > 0)
        gguf_build_array(&b, "tokenizer.ggml.scores", GGUF_F32, p->n_scores, p->scores,
                         p->n_scores * sizeof p->scores[0]);
    if (p->n_merges > 0)
        gguf_build_strings(&b, "tokenizer.ggml.merges", p->n_merges, p->merges);
    if (p->n_end_ids > 0)
        gguf_build_array(&b, "tokenizer.ggml.eos_token_ids", GGUF_I32, p->n_end_ids, p->end_ids,
                         p->n_end_ids * sizeof p->end_ids[0]);
    gguf_build_u32(&b, "tokenizer.ggml.eos_token_id", p->eos);
    unsigned char *file = gguf_build_finish(&b, &len);
    cr_assert(gguf_open_memory(&g, file, len, len, err) == 0, "%s", err->text);
    int status = tokenizer_open(t, g, err);
    gguf_close(g);
    free(file);
    return status;
}

static void expect_refused(const struct parts *p, enum engine_err_code code, const char *word,
                           const char *other_word)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    cr_assert(open_parts(p, &t, &err) == -1);
    cr_expect(t == NULL);
    cr_expect(err.code == code, "%s", err.text);
    cr_expect(strstr(err.text, word) != NULL && strstr(err.text, other_word) != NULL, "%s",
              err.text);
}

Test(tokenizer_refusals, do_not_meet_the_good_ones)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    cr_assert(open_parts(&good_bpe, &t, &err) == 0, "%s", err.text);
    cr_expect(encodes_to(t, "ababa", 5, 0, (const int32_t[]){ 4, 0 }, 2));
    cr_expect(tokenizer_is_control(t, 5), "typed as text, but its name says otherwise");
    cr_expect(tokenizer_bos(t) == -1 && tokenizer_eos(t) == 3);
    tokenizer_close(t);
    cr_assert(open_parts(&good_spm, &t, &err) == 0, "%s", err.text);
    cr_expect(encodes_to(t, "ab", 2, 0, (const int32_t[]){ 0, 5 }, 2), "no U+2581: unknown");
    tokenizer_close(t);
}

Test(tokenizer_refusals, name_an_unknown_model)
{
    struct parts p = good_bpe;
    p.model = "t5";
    expect_refused(&p, ENGINE_ERR_UNSUPPORTED, "tokenizer.ggml.model", "t5");
    p.model = NULL;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.model", "");
}

Test(tokenizer_refusals, name_an_unknown_pre_and_the_known_ones)
{
    struct parts p = good_bpe;
    p.pre = "gpt-17";
    expect_refused(&p, ENGINE_ERR_UNSUPPORTED, "\"gpt-17\"", "superbpe");
    p.pre = "gpt-"; /* the beginning of a known one */
    expect_refused(&p, ENGINE_ERR_UNSUPPORTED, "\"gpt-\"", "qwen2");
    p.pre = "";
    expect_refused(&p, ENGINE_ERR_UNSUPPORTED, "tokenizer.ggml.pre", "qwen2");
}

Test(tokenizer_refusals, assume_default_where_there_is_no_pre)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    struct parts p = good_bpe;
    p.pre = NULL;
    cr_assert(open_parts(&p, &t, &err) == 0, "%s", err.text);
    tokenizer_close(t);
}

Test(tokenizer_refusals, name_arrays_of_the_wrong_length)
{
    struct parts p = good_bpe;
    p.n_types = 5;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.token_type", "5 elements");
    p = good_spm;
    p.n_scores = 7;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.scores", "7 elements");
    p = good_spm;
    p.n_scores = 0;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.scores", "");
    p = good_bpe;
    p.n_merges = 0;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.merges", "");
    p = good_bpe;
    p.n_tokens = 0;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.tokens", "0 elements");
}

Test(tokenizer_refusals, name_the_element_that_is_wrong)
{
    struct parts p = good_bpe;
    p.types[4] = 7;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.token_type[4]", "7");
    p.types[4] = -1;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.token_type[4]", "-1");
    p = good_spm;
    p.scores[3] = __builtin_nanf("");
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.scores[3]", "not a number");
}

Test(tokenizer_refusals, name_a_merge_of_what_is_no_token)
{
    static const char *const bad[] = { "a c", "c a", "b a", "ab", "a ", " b", "", "a b b" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct parts p = good_bpe;
        p.merges[1] = bad[i];
        expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.merges[1]", bad[i]);
    }
}

Test(tokenizer_refusals, name_ids_beyond_the_vocabulary)
{
    struct parts p = good_bpe;
    p.eos = 6;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.eos_token_id is 6", "6 tokens");
    p = good_bpe;
    p.n_end_ids = 2;
    p.end_ids[1] = -5;
    expect_refused(&p, ENGINE_ERR_FILE, "tokenizer.ggml.eos_token_ids[1]", "-5");
}

Test(tokenizer_refusals, spare_a_list_of_end_tokens)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    struct parts p = good_bpe;
    p.n_end_ids = 2;
    p.end_ids[0] = 0;
    p.end_ids[1] = 4;
    cr_assert(open_parts(&p, &t, &err) == 0, "%s", err.text);
    cr_expect(tokenizer_is_end(t, 0) && tokenizer_is_end(t, 4) && !tokenizer_is_end(t, 1));
    tokenizer_close(t);
}
