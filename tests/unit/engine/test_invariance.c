/* SPDX-License-Identifier: Apache-2.0
 *
 * test_invariance.c - a row's logits are the same bits alone or in any batch, for any chunking,
 * thread count, placement of pages and instruction set.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "kernels/kernels.h"

enum { N_TOKENS = 90, LONG_TOKENS = 1100, LONGER_TOKENS = 2350, MAX_SEQS = 7 };

/* One of each kind: plain, windowed with norms around, experts, router before attention, quantised.
 */
static const char *const models[] = {
    "tests/golden/arch/llama.gguf",        "tests/golden/arch/gemma3.gguf",
    "tests/golden/arch/olmo2.gguf",        "tests/golden/arch/qwen2moe.gguf",
    "tests/golden/arch/smallthinker.gguf", "tests/golden/quant/Q4_K_M.gguf",
    "tests/golden/quant/Q4_1.gguf",        "tests/golden/quant/MIXED_MOE.gguf",
};
enum { N_MODELS = sizeof(models) / sizeof(models[0]) };

static enum engine_kv kv_type; /* of the engines that a test opens */

static struct engine *open_engine(const char *path, uint32_t threads, uint64_t shuffle,
                                  const char *isa)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = path,
                                  .n_threads = threads,
                                  .n_ctx = 2560,
                                  .kv = kv_type,
                                  .max_rows = 700,
                                  .max_logit_rows = 700,
                                  .kv_shuffle_seed = shuffle,
                                  .max_isa = isa };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s: %s", path, err.text);
    return e;
}

/* Token i of sequence s: sequence 0 is the one that is watched. */
static int32_t token_at(uint32_t s, uint32_t i)
{
    return (int32_t)((i * 2654435761u + s * 40503u + (i ^ s) * 97u) >> 8) % 280 + 3;
}

struct user {
    struct engine_seq *seq;
    uint32_t n_done, n_tokens;
};

static void open_users(struct engine *e, struct user *u, uint32_t n_users, uint32_t n_tokens)
{
    for (uint32_t s = 0; s < n_users; s++) {
        u[s].n_done = 0;
        u[s].n_tokens = n_tokens - s * 3; /* not all of one length */
        struct engine_seq_options opt = { .max_tokens = n_tokens, .no_cache = true };
        cr_assert_eq(engine_seq_open(e, &opt, &u[s].seq, NULL), 0);
    }
}

/* Adds up to `chunk` rows of a user; the watched one last, so that its rows move within the step.
 */
static uint32_t add_rows(struct user *u, uint32_t s, uint32_t chunk, struct engine_row *rows)
{
    uint32_t n = 0;
    uint32_t end = u->n_tokens - u->n_done < chunk ? u->n_tokens : u->n_done + chunk;
    cr_assert_eq(engine_seq_grow(u->seq, end, NULL), 0);
    for (; u->n_done < end; n++, u->n_done++)
        rows[n] = (struct engine_row){
            .seq = u->seq, .token = token_at(s, u->n_done), .pos = u->n_done, .want_logits = s == 0
        };
    return n;
}

/* Logits of sequence 0 [n_tokens][n_vocab], computed beside n_users - 1 others. */
static float *run(struct engine *e, uint32_t n_users, uint32_t chunk, uint32_t n_tokens)
{
    uint32_t n_vocab = engine_info(e)->n_vocab, got = 0;
    float *out = malloc((size_t)n_tokens * n_vocab * sizeof(float));
    struct user u[MAX_SEQS];
    static struct engine_row rows[700];
    open_users(e, u, n_users, n_tokens);
    while (got < n_tokens) {
        uint32_t n = 0;
        for (uint32_t s = n_users; s-- > 0;)
            n += add_rows(&u[s], s, chunk, rows + n);
        engine_step(e, rows, n);
        for (uint32_t i = 0; i < n; i++) {
            cr_assert_eq(rows[i].status, ENGINE_ROW_DONE);
            if (rows[i].want_logits)
                memcpy(out + (size_t)got++ * n_vocab, rows[i].logits, n_vocab * sizeof(float));
        }
    }
    for (uint32_t s = 0; s < n_users; s++)
        engine_seq_close(u[s].seq);
    return out;
}

static void expect_same(const char *what, const char *model, const float *a, const float *b,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(memcmp(&a[i], &b[i], sizeof(float)) == 0, "%s, %s: value %zu is %.9g, alone %.9g",
                  model, what, i, (double)b[i], (double)a[i]);
}

/* Runs on a fresh engine and compares. */
static void check(const char *model, const float *expected, uint32_t n_tokens, uint32_t threads,
                  uint64_t shuffle, const char *isa, uint32_t n_users, uint32_t chunk)
{
    char what[96];
    struct engine *e = open_engine(model, threads, shuffle, isa);
    float *found = run(e, n_users, chunk, n_tokens);
    snprintf(what, sizeof(what), "%u threads, batch %u, chunk %u, pages %s, %s", threads, n_users,
             chunk, shuffle ? "at random" : "in order", isa ? isa : "best ISA");
    expect_same(what, model, expected, found, (size_t)n_tokens * engine_info(e)->n_vocab);
    free(found);
    engine_close(e);
}

Test(invariance, logits_do_not_depend_on_company)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m], 1, 0, NULL);
        float *alone = run(e, 1, N_TOKENS, N_TOKENS);
        engine_close(e);
        check(models[m], alone, N_TOKENS, 1, 0, NULL, 1, 1);
        check(models[m], alone, N_TOKENS, 2, 0, NULL, 2, 13);
        check(models[m], alone, N_TOKENS, 2, 7, NULL, 7, 64);
        check(models[m], alone, N_TOKENS, 2, 8, NULL, 7, 1);
        check(models[m], alone, N_TOKENS, 3, 9, NULL, 2, N_TOKENS);
        check(models[m], alone, N_TOKENS, 4, 10, NULL, 3, 20);
        check(models[m], alone, N_TOKENS, 64, 11, NULL, 7, 16);
        free(alone);
    }
}

Test(invariance, instruction_sets_agree)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m], 1, 0, "ref");
        float *alone = run(e, 1, 13, 30);
        engine_close(e);
        for (uint32_t v = 0; v + 1 < kern_n_usable(); v++)
            check(models[m], alone, 30, 2, 0, kern_usable(v)->name, 1, 30);
        free(alone);
    }
}

/* How a sequence is computed. */
struct way {
    uint32_t threads, n_users, chunk;
};

/* The same logits in both ways, beyond one attention item of 1,024 tokens. */
static void check_items(uint32_t n_tokens, const struct way ways[2])
{
    static const char *const long_models[] = { "tests/golden/arch/llama.gguf",
                                               "tests/golden/arch/gemma3.gguf" };
    for (size_t m = 0; m < 2; m++) {
        struct engine *e = open_engine(long_models[m], 1, 0, NULL);
        float *alone = run(e, 1, 500, n_tokens);
        engine_close(e);
        for (uint32_t i = 0; i < 2; i++)
            check(long_models[m], alone, n_tokens, ways[i].threads, 5 + i, NULL, ways[i].n_users,
                  ways[i].chunk);
        free(alone);
    }
}

/* Items folded one by one and by partials. */
static void check_long_sequences(void)
{
    static const struct way ways[2] = { { 2, 1, 1 }, { 2, 3, 64 } };
    check_items(LONG_TOKENS, ways);
}

Test(invariance, long_sequences_too)
{
    check_long_sequences();
}

/* Small chunks of three items: parts, of which the last are shared out by queries. */
static void check_small_chunks(void)
{
    static const struct way ways[2] = { { 2, 1, 13 }, { 5, 3, 37 } };
    check_items(LONGER_TOKENS, ways);
}

Test(invariance, small_chunks_of_long_sequences)
{
    check_small_chunks();
    kv_type = ENGINE_KV_Q8;
    check_small_chunks();
}

/* A query reads its own page unsealed and those before it sealed, whenever each was completed. */
Test(invariance, pages_of_8_bits_change_nothing_of_it)
{
    enum { N = 270 };
    kv_type = ENGINE_KV_Q8;
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m], 1, 0, NULL);
        float *alone = run(e, 1, N, N);
        cr_assert_str_eq(engine_info(e)->kv, "q8");
        engine_close(e);
        check(models[m], alone, N, 1, 0, NULL, 1, 1);
        check(models[m], alone, N, 2, 0, NULL, 2, 13);
        check(models[m], alone, N, 2, 7, NULL, 7, 64);
        check(models[m], alone, N, 2, 8, NULL, 3, 65);
        check(models[m], alone, N, 3, 9, NULL, 7, 2);
        check(models[m], alone, N, 2, 10, NULL, 1, 128);
        free(alone);
    }
}

Test(invariance, pages_of_8_bits_have_the_same_bits_on_all_instruction_sets)
{
    kv_type = ENGINE_KV_Q8;
    for (size_t m = 0; m < 3; m++) {
        struct engine *e = open_engine(models[m], 1, 0, "ref");
        float *alone = run(e, 1, 13, 140);
        engine_close(e);
        for (uint32_t v = 0; v + 1 < kern_n_usable(); v++)
            check(models[m], alone, 140, 2, 0, kern_usable(v)->name, 1, 140);
        free(alone);
    }
}

Test(invariance, long_sequences_in_pages_of_8_bits)
{
    kv_type = ENGINE_KV_Q8;
    check_long_sequences();
}

Test(sequence, pages_come_back_when_it_closes)
{
    struct engine *e = open_engine(models[1], 1, 3, NULL);
    struct engine_stats before, during, after;
    struct user u[2];
    engine_stats(e, &before);
    open_users(e, u, 2, 200);
    struct engine_row rows[200];
    uint32_t n = add_rows(&u[0], 1, 200, rows);
    engine_step(e, rows, n);
    engine_stats(e, &during);
    cr_assert_lt(during.kv_pages_free, before.kv_pages_free);
    engine_seq_close(u[0].seq);
    engine_seq_close(u[1].seq);
    engine_stats(e, &after);
    cr_assert_eq(after.kv_pages_free, before.kv_pages_free);
    cr_assert_gt(after.heartbeat, before.heartbeat);
    engine_close(e);
}

Test(sequence, more_than_the_context_is_refused_with_numbers)
{
    struct engine *e = open_engine(models[0], 1, 0, NULL);
    struct engine_err err = { 0 };
    struct engine_seq *seq;
    struct engine_seq_options opt = { .max_tokens = 2561 };
    cr_assert_eq(engine_seq_open(e, &opt, &seq, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_CONTEXT);
    cr_assert_not_null(strstr(err.text, "2561"));
    cr_assert_not_null(strstr(err.text, "2560"));
    cr_assert(!engine_fits(e, 2561));
    cr_assert(engine_fits(e, 2560));
    engine_close(e);
}
