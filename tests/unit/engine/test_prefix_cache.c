/* SPDX-License-Identifier: Apache-2.0
 *
 * test_prefix_cache.c - a sequence that begins with stored pages, is forked or comes back after it
 * was paused has the logits, bit for bit, that it would have had alone.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

enum { N = 300, MAX_ROWS = 64 };

static const char *const models[] = {
    "tests/golden/arch/llama.gguf",        "tests/golden/arch/gemma3.gguf",
    "tests/golden/arch/olmo2.gguf",        "tests/golden/arch/qwen2moe.gguf",
    "tests/golden/arch/smallthinker.gguf", "tests/golden/quant/Q4_K_M.gguf",
};
enum { N_MODELS = sizeof(models) / sizeof(models[0]) };

static enum engine_kv kv_type; /* of the engines that a test opens */

static struct engine *open_engine(const char *path)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = path,
                                  .n_threads = 2,
                                  .n_ctx = 2048,
                                  .kv = kv_type,
                                  .max_rows = MAX_ROWS,
                                  .max_logit_rows = MAX_ROWS,
                                  .kv_shuffle_seed = 3 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s: %s", path, err.text);
    return e;
}

static struct engine_seq *open_seq_of(struct engine *e, uint32_t max_tokens, bool no_cache)
{
    struct engine_seq_options opt = { .max_tokens = max_tokens, .no_cache = no_cache };
    struct engine_seq *s;
    cr_assert_eq(engine_seq_open(e, &opt, &s, NULL), 0);
    return s;
}

static struct engine_seq *open_seq(struct engine *e, bool no_cache)
{
    return open_seq_of(e, 512, no_cache);
}

/* Two prompts that part at position 150. */
static void make_prompt(int32_t *tokens, int32_t which)
{
    for (int32_t i = 0; i < N; i++)
        tokens[i] = (i * 37 + (i < 150 ? 0 : which * 11)) % 280 + 3;
}

/* Logits of the last row after computing up to n. */
static const float *compute(struct engine *e, struct engine_seq *s, const int32_t *tokens,
                            uint32_t n)
{
    static struct engine_row rows[MAX_ROWS];
    const float *logits = NULL;
    for (uint32_t pos = engine_seq_n_tokens(s); pos < n;) {
        uint32_t k = 0;
        for (; k < MAX_ROWS && pos < n; k++, pos++)
            rows[k] = (struct engine_row){
                .seq = s, .token = tokens[pos], .pos = pos, .want_logits = pos + 1 == n
            };
        cr_assert_eq(engine_seq_grow(s, pos, NULL), 0);
        engine_step(e, rows, k);
        cr_assert_eq(rows[k - 1].status, ENGINE_ROW_DONE);
        logits = rows[k - 1].logits;
    }
    return logits;
}

static float *alone(struct engine *e, const int32_t *tokens, uint32_t n)
{
    size_t bytes = engine_info(e)->n_vocab * sizeof(float);
    struct engine_seq *s = open_seq_of(e, n, true);
    float *out = malloc(bytes);
    memcpy(out, compute(e, s, tokens, n), bytes);
    engine_seq_close(s);
    return out;
}

static void expect_same(const struct engine *e, const char *what, const float *expected,
                        const float *found)
{
    cr_assert_not_null(found);
    cr_assert_eq(memcmp(expected, found, engine_info(e)->n_vocab * sizeof(float)), 0, "%s: %s",
                 engine_info(e)->arch, what);
}

/* What a hit gives of n stored tokens: pages of 8 bits are found whole. */
static uint32_t usable(uint32_t n)
{
    return kv_type == ENGINE_KV_Q8 ? n / KV_PAGE_TOKENS * KV_PAGE_TOKENS : n;
}

static void check_hits(struct engine *e)
{
    int32_t a[N], b[N];
    make_prompt(a, 1);
    make_prompt(b, 2);
    float *logits_a = alone(e, a, N), *logits_b = alone(e, b, N);
    struct engine_seq *s = open_seq(e, false);
    cr_assert_eq(engine_seq_admit(s, a, N - 1, N, 0, NULL), 0);
    cr_assert_eq(engine_seq_n_tokens(s), 0, "private sequences left something");
    expect_same(e, "first", logits_a, compute(e, s, a, N));
    engine_seq_close(s);

    s = open_seq(e, false);
    cr_assert_eq(engine_seq_admit(s, a, N - 1, N, 0, NULL), 0);
    cr_assert_eq(engine_seq_n_tokens(s), usable(N - 1));
    expect_same(e, "all but one stored", logits_a, compute(e, s, a, N));
    engine_seq_close(s);

    s = open_seq(e, false);
    cr_assert_eq(engine_seq_admit(s, b, N - 1, N, 0, NULL), 0);
    uint32_t n_found = engine_seq_n_tokens(s); /* windows may have lost what is before 150 */
    cr_assert(n_found == usable(150) || engine_info(e)->n_layers > 5, "%u", n_found);
    expect_same(e, "the first half stored", logits_b, compute(e, s, b, N));
    engine_seq_close(s);
    free(logits_a);
    free(logits_b);
}

static void check_forks(struct engine *e)
{
    int32_t a[N], b[N];
    make_prompt(a, 1);
    make_prompt(b, 2);
    float *logits_a = alone(e, a, N), *logits_b = alone(e, b, N);
    struct engine_seq *s = open_seq(e, false), *fork;
    compute(e, s, a, 150);
    cr_assert_eq(engine_seq_fork(s, &fork, NULL), 0);
    for (uint32_t n = 151; n < N; n++) { /* in turns, each in its own copy of the open page */
        compute(e, s, a, n);
        compute(e, fork, b, n);
    }
    expect_same(e, "forked from", logits_a, compute(e, s, a, N));
    expect_same(e, "a fork", logits_b, compute(e, fork, b, N));
    engine_seq_close(s);
    engine_seq_close(fork);
    free(logits_a);
    free(logits_b);
}

Test(prefix_cache, stored_prefixes_change_no_bit)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m]);
        check_hits(e);
        engine_close(e);
    }
}

Test(prefix_cache, forks_change_no_bit)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m]);
        check_forks(e);
        engine_close(e);
    }
}

Test(prefix_cache, the_same_in_pages_of_8_bits)
{
    kv_type = ENGINE_KV_Q8;
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(models[m]);
        check_hits(e);
        check_forks(e);
        engine_close(e);
    }
}

/* One step of decoding for all: each has a token of its own at position pos. */
static void decode_together(struct engine *e, struct engine_seq **seqs, int32_t **tokens,
                            uint32_t n, uint32_t pos, struct engine_row *rows)
{
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(engine_seq_grow(seqs[i], pos + 1, NULL), 0);
        rows[i] = (struct engine_row){
            .seq = seqs[i], .token = tokens[i][pos], .pos = pos, .want_logits = true
        };
    }
    engine_step(e, rows, n);
}

enum { N_FORKS = 5, PREFIX = 1100, LONG = 1110 };

static int32_t *make_long(int32_t which)
{
    int32_t *tokens = calloc(LONG, sizeof(*tokens));
    for (int32_t i = 0; i < LONG; i++)
        tokens[i] = (i * 37 + (i < PREFIX ? 0 : which * 11)) % 280 + 3;
    return tokens;
}

/* Forks of one sequence after PREFIX tokens, each with an end of its own, all in the same steps. */
static void decode_forks(struct engine *e, int32_t **tokens, struct engine_row *rows)
{
    struct engine_seq *seqs[N_FORKS];
    seqs[0] = open_seq_of(e, LONG, false);
    compute(e, seqs[0], tokens[0], PREFIX);
    for (int i = 1; i < N_FORKS; i++)
        cr_assert_eq(engine_seq_fork(seqs[0], &seqs[i], NULL), 0);
    for (uint32_t pos = PREFIX; pos < LONG; pos++)
        decode_together(e, seqs, tokens, N_FORKS, pos, rows);
    for (int i = 0; i < N_FORKS; i++)
        engine_seq_close(seqs[i]);
}

/* The first item once, in as many blocks as its queries fill; the second by each fork. */
static void expect_shared_work(const struct engine *e)
{
    uint32_t group = e->shape.group_window[0] == 0 ? 0 : 1;
    uint32_t heads = e->shape.n_heads / e->shape.n_kv_heads;
    uint32_t n_first = (N_FORKS * heads + KERN_ATTN_MAX_QUERIES - 1) / KERN_ATTN_MAX_QUERIES;
    cr_assert_eq(e->forward->plan[group].n_work, e->shape.n_kv_heads * (n_first + N_FORKS));
}

/* Pages of whole attention items that several sequences hold are read once for all of them. */
Test(prefix_cache, shared_pages_are_read_once_and_change_no_bit)
{
    static const char *const long_models[] = { "tests/golden/arch/llama.gguf",
                                               "tests/golden/arch/gemma3.gguf" };
    for (size_t m = 0; m < 2; m++) {
        struct engine *e = open_engine(long_models[m]);
        struct engine_row rows[N_FORKS];
        int32_t *tokens[N_FORKS];
        float *expected[N_FORKS];
        for (int32_t i = 0; i < N_FORKS; i++) {
            tokens[i] = make_long(i);
            expected[i] = alone(e, tokens[i], LONG);
        }
        decode_forks(e, tokens, rows);
        expect_shared_work(e);
        for (int i = 0; i < N_FORKS; i++) {
            expect_same(e, "one of several with a common prefix", expected[i], rows[i].logits);
            free(tokens[i]);
            free(expected[i]);
        }
        engine_close(e);
    }
}

Test(prefix_cache, another_salt_finds_nothing)
{
    struct engine *e = open_engine(models[0]);
    int32_t a[N];
    make_prompt(a, 1);
    struct engine_seq_options opt = { .max_tokens = 512, .cache_salt = "a", .cache_salt_len = 1 };
    struct engine_seq *s;
    for (int i = 0; i < 3; i++) { /* the second time it is found */
        opt.cache_salt = i < 2 ? "a" : "b";
        cr_assert_eq(engine_seq_open(e, &opt, &s, NULL), 0);
        cr_assert_eq(engine_seq_admit(s, a, N - 1, N, 0, NULL), 0);
        cr_assert_eq(engine_seq_n_tokens(s), i == 1 ? N - 1 : 0);
        compute(e, s, a, N);
        engine_seq_close(s);
    }
    engine_close(e);
}
