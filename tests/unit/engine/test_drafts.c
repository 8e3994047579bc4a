/* SPDX-License-Identifier: Apache-2.0
 *
 * test_drafts.c - rows that are guesses: the right ones give the bits that they would give alone, the
 * wrong ones leave no trace.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { N_TOKENS = 300, N_PROMPT = 50, MAX_DRAFTS = 15 };

/* One of each kind: plain, windowed, experts, quantised. */
static const char *const models[] = { "tests/golden/arch/llama.gguf",
                                      "tests/golden/arch/gemma3.gguf",
                                      "tests/golden/arch/smallthinker.gguf",
                                      "tests/golden/quant/Q4_1.gguf" };
enum { N_MODELS = sizeof(models) / sizeof(models[0]) };

static struct engine *open_engine(const char *path, enum engine_kv kv)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = path,
                                  .n_threads = 2,
                                  .n_ctx = 512,
                                  .kv = kv,
                                  .max_rows = 64,
                                  .max_logit_rows = 64,
                                  .kv_shuffle_seed = 5 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s: %s", path, err.text);
    return e;
}

static int32_t token_at(uint32_t i)
{
    return (int32_t)((i * 2654435761u + i * 97u) >> 8) % 280 + 3;
}

static struct engine_seq *open_seq(struct engine *e)
{
    struct engine_seq_options opt = { .max_tokens = N_TOKENS };
    struct engine_seq *seq;
    cr_assert_eq(engine_seq_open(e, &opt, &seq, NULL), 0);
    return seq;
}

/* Rows [from, from + n_sure + n_drafts), of which those from from + n_right on are wrong tokens. */
static void step(struct engine *e, struct engine_seq *seq, uint32_t from, uint32_t n_sure,
                 uint32_t n_drafts, uint32_t n_right, struct engine_row *rows)
{
    for (uint32_t i = 0; i < n_sure + n_drafts; i++) {
        uint32_t pos = from + i;
        int32_t token = token_at(pos);
        rows[i] = (struct engine_row){ .seq = seq,
                                       .token = i < n_sure + n_right ? token : 282 - token + 3,
                                       .pos = pos,
                                       .want_logits = true,
                                       .is_draft = i >= n_sure };
    }
    cr_assert_eq(engine_seq_grow(seq, from + n_sure + n_drafts, NULL), 0);
    engine_step(e, rows, n_sure + n_drafts);
    for (uint32_t i = 0; i < n_sure + n_drafts; i++)
        cr_assert_eq(rows[i].status, ENGINE_ROW_DONE);
    cr_assert_eq(engine_seq_n_tokens(seq), from + n_sure);
}

static void keep_logits(float *all, const struct engine_row *rows, uint32_t n, size_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(all + rows[i].pos * n_vocab, rows[i].logits, n_vocab * sizeof(float));
}

/* Logits of all positions, [N_TOKENS][n_vocab], with up to most_drafts guesses in each step. */
static float *run(struct engine *e, uint32_t most_drafts)
{
    static struct engine_row rows[N_PROMPT + MAX_DRAFTS];
    size_t n_vocab = engine_info(e)->n_vocab;
    float *all = malloc(N_TOKENS * n_vocab * sizeof(float));
    struct engine_seq *seq = open_seq(e);
    step(e, seq, 0, N_PROMPT, 0, 0, rows);
    keep_logits(all, rows, N_PROMPT, n_vocab);
    srand(1);
    for (uint32_t pos = N_PROMPT; pos < N_TOKENS;) {
        uint32_t room = engine_seq_draft_room(seq), n = (uint32_t)rand() % (most_drafts + 1);
        n = n < room ? n : room;
        n = n < N_TOKENS - 1 - pos ? n : N_TOKENS - 1 - pos;
        uint32_t n_right = (uint32_t)rand() % (n + 1);
        step(e, seq, pos, 1, n, n_right, rows);
        keep_logits(all, rows, 1 + n_right, n_vocab);
        for (uint32_t i = 1; i <= n_right; i++)
            engine_seq_keep(seq, rows[i].token);
        pos += 1 + n_right;
        cr_assert_eq(engine_seq_n_tokens(seq), pos);
    }
    engine_seq_close(seq);
    return all;
}

static void check(enum engine_kv kv)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m], kv);
        size_t n = (size_t)N_TOKENS * engine_info(e)->n_vocab;
        float *plain = run(e, 0);
        engine_close(e);
        e = open_engine(models[m], kv); /* nothing is found in its cache */
        float *guessed = run(e, MAX_DRAFTS);
        cr_assert_eq(memcmp(plain, guessed, n * sizeof(float)), 0, "%s", models[m]);
        engine_close(e);
        free(plain);
        free(guessed);
    }
}

Test(drafts, give_the_bits_they_would_give_alone)
{
    check(ENGINE_KV_F16);
}

Test(drafts, in_pages_of_8_bits_too)
{
    check(ENGINE_KV_Q8);
}

/* What is found later must be what was kept, not what was guessed. */
Test(drafts, that_were_wrong_are_not_found_in_the_prefix_cache)
{
    static struct engine_row rows[N_PROMPT + MAX_DRAFTS];
    int32_t tokens[N_TOKENS];
    struct engine *e = open_engine(models[0], ENGINE_KV_F16);
    struct engine_seq *seq = open_seq(e);
    step(e, seq, 0, N_PROMPT, 13, 5, rows);
    for (uint32_t i = 0; i < 5; i++)
        engine_seq_keep(seq, token_at(N_PROMPT + i));
    engine_seq_close(seq);

    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = i < N_PROMPT + 13 ? rows[i].token : token_at(i);
    seq = open_seq(e);
    cr_assert_eq(engine_seq_admit(seq, tokens, N_TOKENS - 1, N_TOKENS, 0, NULL), 0);
    cr_assert_eq(engine_seq_n_tokens(seq), N_PROMPT + 5);
    engine_seq_close(seq);
    engine_close(e);
}

Test(drafts, never_begin_a_page)
{
    static struct engine_row rows[N_PROMPT + MAX_DRAFTS];
    struct engine *e = open_engine(models[0], ENGINE_KV_F16);
    uint32_t page = engine_info(e)->page_tokens;
    struct engine_seq *seq = open_seq(e);
    cr_assert_eq(engine_seq_draft_room(seq), page - 1);
    step(e, seq, 0, N_PROMPT, 0, 0, rows);
    cr_assert_eq(engine_seq_draft_room(seq), page - 1 - N_PROMPT);
    step(e, seq, N_PROMPT, page - 1 - N_PROMPT, 0, 0, rows);
    cr_assert_eq(engine_seq_draft_room(seq), 0);
    engine_seq_close(seq);
    engine_close(e);
}
