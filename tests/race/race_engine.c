/* SPDX-License-Identifier: Apache-2.0
 *
 * race_engine.c - steps of a real model on several threads: pages written, sealed, read and carried
 * on (engine/forward/paging.c), chunks cut across page boundaries beside single tokens, pages that are chosen.
 * A plain program for ThreadSanitizer; it ends with status 1 if two thread counts give other bits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { N_SEQS = 3, N_TOKENS = 400, MAX_ROWS = 160 };

static struct engine *open_engine(const char *path, uint32_t n_threads, enum engine_kv kv)
{
    struct engine_options opt = { .model_path = path,
                                  .n_threads = n_threads,
                                  .n_ctx = 512,
                                  .choose_pages = true,
                                  .kv = kv,
                                  .max_rows = MAX_ROWS,
                                  .max_logit_rows = N_SEQS };
    struct engine_err err = { 0 };
    struct engine *e;
    if (engine_open(&e, &opt, &err) != 0) {
        fprintf(stderr, "%s: %s\n", path, err.text);
        exit(1);
    }
    return e;
}

/* A step: each sequence goes on by its own number of rows.  False if it can't. */
static bool step(struct engine *e, struct engine_seq *const *seqs, uint32_t round, float *last)
{
    static const uint32_t n_rows[N_SEQS] = { 1, 37, 70 };
    struct engine_row rows[MAX_ROWS];
    uint32_t n = 0, n_vocab = engine_info(e)->n_vocab;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        uint32_t pos = engine_seq_n_tokens(seqs[s]);
        uint32_t end = pos + n_rows[(s + round) % N_SEQS];
        end = end < N_TOKENS ? end : N_TOKENS;
        if (engine_seq_grow(seqs[s], end, NULL) != 0)
            return false;
        for (; pos < end; pos++)
            rows[n++] = (struct engine_row){ .seq = seqs[s],
                                             .token = (int32_t)((pos * 7 + s * 31) % 250 + 3),
                                             .pos = pos,
                                             .want_logits = pos + 1 == end };
    }
    engine_step(e, rows, n);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].logits && rows[i].seq == seqs[0])
            memcpy(last, rows[i].logits, n_vocab * sizeof(*last));
    return true;
}

/* The logits of the first sequence's last token. */
static float *run(const char *path, uint32_t n_threads, enum engine_kv kv, uint32_t *n)
{
    struct engine *e = open_engine(path, n_threads, kv);
    struct engine_seq *seqs[N_SEQS];
    int point = engine_find_point(e, "tokens=256", NULL);
    struct engine_seq_options opt = { .max_tokens = N_TOKENS, .point = (uint32_t)point };
    *n = engine_info(e)->n_vocab;
    float *last = calloc(*n, sizeof(*last));
    for (uint32_t s = 0; s < N_SEQS; s++)
        if (engine_seq_open(e, &opt, &seqs[s], NULL) != 0)
            exit(1);
    for (uint32_t round = 0; engine_seq_n_tokens(seqs[0]) < N_TOKENS; round++)
        if (!step(e, seqs, round, last))
            exit(1);
    for (uint32_t s = 0; s < N_SEQS; s++)
        engine_seq_close(seqs[s]);
    engine_close(e);
    return last;
}

int main(void)
{
    static const char *const models[] = { "tests/golden/arch/llama.gguf",
                                          "tests/golden/arch/gemma3.gguf",
                                          "tests/golden/arch/qwen2moe.gguf" };
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++)
        for (int kv = ENGINE_KV_F16; kv <= ENGINE_KV_Q8; kv++) {
            uint32_t n;
            float *one = run(models[m], 1, (enum engine_kv)kv, &n);
            float *four = run(models[m], 4, (enum engine_kv)kv, &n);
            if (memcmp(one, four, n * sizeof(*one)) != 0) {
                fprintf(stderr, "%s: other bits on four threads\n", models[m]);
                return 1;
            }
            free(one);
            free(four);
        }
    return 0;
}
