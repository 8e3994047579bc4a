/* SPDX-License-Identifier: Apache-2.0
 *
 * test_fim.c - which tokens mark the parts of a fill-in-the-middle prompt: those that the file
 * names, else those with a known name.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "tests/support/gguf_build.h"

struct named_id {
    const char *key;
    uint32_t id;
};

static const char *const with_names[] = { "a", "<fim_prefix>", "<fim_suffix>", "<fim_middle>",
                                          "b" };
static const char *const without[] = { "a", "<x>", "<y>", "<z>", "b" };

static int open_vocab(const char *const *tokens, const struct named_id *ids, size_t n_ids,
                      struct tokenizer **t, struct engine_err *err)
{
    static const int32_t types[] = { 1, 3, 3, 3, 1 };
    struct gguf_build b = GGUF_BUILD_INIT;
    struct gguf *g = NULL;
    size_t len;
    gguf_build_str(&b, "general.architecture", "llama");
    gguf_build_str(&b, "tokenizer.ggml.model", "gpt2");
    gguf_build_str(&b, "tokenizer.ggml.pre", "gpt-2");
    gguf_build_strings(&b, "tokenizer.ggml.tokens", 5, tokens);
    gguf_build_array(&b, "tokenizer.ggml.token_type", GGUF_I32, 5, types, sizeof(types));
    gguf_build_strings(&b, "tokenizer.ggml.merges", 0, NULL);
    for (size_t i = 0; i < n_ids; i++)
        gguf_build_u32(&b, ids[i].key, ids[i].id);
    unsigned char *file = gguf_build_finish(&b, &len);
    cr_assert(gguf_open_memory(&g, file, len, len, err) == 0, "%s", err->text);
    int status = tokenizer_open(t, g, err);
    gguf_close(g);
    free(file);
    return status;
}

static void expect_fim(const char *const *tokens, const struct named_id *ids, size_t n_ids,
                       bool found, struct engine_fim want)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    struct engine_fim fim;
    cr_assert(open_vocab(tokens, ids, n_ids, &t, &err) == 0, "%s", err.text);
    cr_expect_eq(tokenizer_fim(t, &fim), found);
    cr_expect_eq(fim.prefix, want.prefix);
    cr_expect_eq(fim.suffix, want.suffix);
    cr_expect_eq(fim.middle, want.middle);
    tokenizer_close(t);
}

#define PRE "tokenizer.ggml.fim_pre_token_id"
#define SUF "tokenizer.ggml.fim_suf_token_id"
#define MID "tokenizer.ggml.fim_mid_token_id"

Test(fim, tokens_are_found_by_their_names)
{
    expect_fim(with_names, NULL, 0, true, (struct engine_fim){ 1, 2, 3 });
    expect_fim(without, NULL, 0, false, (struct engine_fim){ -1, -1, -1 });
}

Test(fim, what_the_file_says_wins)
{
    const struct named_id ids[] = { { PRE, 3 }, { SUF, 1 }, { MID, 2 } };
    expect_fim(with_names, ids, 3, true, (struct engine_fim){ 3, 1, 2 });
    expect_fim(without, ids, 3, true, (struct engine_fim){ 3, 1, 2 });
    expect_fim(with_names, ids, 1, true, (struct engine_fim){ 3, 2, 3 });
    expect_fim(without, ids, 2, false, (struct engine_fim){ 3, 1, -1 });
}

Test(fim, keys_of_older_files_count_too)
{
    const struct named_id ids[] = { { "tokenizer.ggml.prefix_token_id", 1 },
                                    { "tokenizer.ggml.suffix_token_id", 2 },
                                    { "tokenizer.ggml.middle_token_id", 3 },
                                    { MID, 0 } };
    expect_fim(without, ids, 4, true, (struct engine_fim){ 1, 2, 0 });
}

Test(fim, an_id_beyond_the_vocabulary_is_refused_by_its_key)
{
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    cr_expect(open_vocab(without, &(struct named_id){ SUF, 5 }, 1, &t, &err) == -1);
    cr_expect(err.code == ENGINE_ERR_FILE && strstr(err.text, SUF), "%s", err.text);
    cr_expect(t == NULL);
}
