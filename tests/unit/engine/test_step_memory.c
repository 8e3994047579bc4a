/* SPDX-License-Identifier: Apache-2.0
 *
 * test_step_memory.c - a step, and the sampling after it, take no memory: all was taken at open.
 *
 * This program's own malloc and its kin stand before the C library's, and count while a step runs,
 * on whatever thread.  A sanitizer has allocators of its own: there this counts nothing.
 */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stddef.h>

#include "engine/engine.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
#define COUNTS 0
#else
#define COUNTS 1
#endif

static atomic_bool counting;
static atomic_uint n_calls;

#if COUNTS
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static void count(void)
{
    if (atomic_load(&counting))
        atomic_fetch_add(&n_calls, 1);
}

void *malloc(size_t size)
{
    count();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    count();
    return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count();
    return __libc_memalign(alignment, size);
}
#endif

enum { N_PROMPT = 150, N_STEPS = 20, N_SEQS = 2 };

/* One of each kind of layer: plain, windowed, experts, router before attention, quantised. */
static const char *const models[] = {
    "tests/golden/arch/llama.gguf",    "tests/golden/arch/gemma3.gguf",
    "tests/golden/arch/qwen2moe.gguf", "tests/golden/arch/smallthinker.gguf",
    "tests/golden/quant/Q4_K_M.gguf",  "tests/golden/quant/MIXED_MOE.gguf",
};

static struct engine *open_engine(const char *path)
{
    struct engine *e;
    struct engine_err err = { 0 };
    struct engine_options opt = { .model_path = path, .n_threads = 2, .n_ctx = 512 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s: %s", path, err.text);
    return e;
}

static void step_and_count(struct engine *e, struct engine_row *rows, uint32_t n)
{
    atomic_store(&counting, true);
    engine_step(e, rows, n);
    atomic_store(&counting, false);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(rows[i].status, ENGINE_ROW_DONE);
}

/* Every way of choosing at once: top-k, top-p and min-p, penalties, log-probabilities. */
static int32_t sample_and_count(struct engine *e, const struct engine_row *row, uint32_t seq)
{
    static const int32_t prompt[] = { 3, 4, 5 };
    struct engine_sampling params = { .temperature = 0.8f,
                                      .top_k = 40,
                                      .top_p = 0.9f,
                                      .min_p = 0.01f,
                                      .repetition_penalty = 1.1f,
                                      .frequency_penalty = 0.1f,
                                      .seed = seq };
    struct engine_sample jobs[2];
    for (uint32_t i = 0; i < 2; i++)
        jobs[i] = (struct engine_sample){ .logits = row->logits,
                                          .params = &params,
                                          .prompt = prompt,
                                          .n_prompt = 3,
                                          .output = prompt,
                                          .n_output = 3,
                                          .position = row->pos + 1,
                                          .stream = i,
                                          .forced = -1,
                                          .n_top = 5 };
    atomic_store(&counting, true);
    engine_sample(e, jobs, 2);
    atomic_store(&counting, false);
    return jobs[0].token;
}

/* Prompts in one step, then decoding past pages and windows. */
static void run(struct engine *e)
{
    static struct engine_row rows[N_SEQS * N_PROMPT];
    struct engine_seq *seq[N_SEQS];
    int32_t next[N_SEQS];
    uint32_t n = 0;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        struct engine_seq_options opt = { .max_tokens = N_PROMPT + N_STEPS };
        cr_assert_eq(engine_seq_open(e, &opt, &seq[s], NULL), 0);
        cr_assert_eq(engine_seq_admit(seq[s], NULL, 0, N_PROMPT + N_STEPS, 0, NULL), 0);
        for (uint32_t i = 0; i < N_PROMPT; i++)
            rows[n++] = (struct engine_row){ .seq = seq[s],
                                             .token = (int32_t)(3 + (i * 7 + s) % 250),
                                             .pos = i,
                                             .want_logits = i + 1 == N_PROMPT };
    }
    step_and_count(e, rows, n);
    for (uint32_t s = 0; s < N_SEQS; s++)
        next[s] = sample_and_count(e, &rows[(s + 1) * N_PROMPT - 1], s);
    for (uint32_t i = 0; i < N_STEPS; i++) {
        for (uint32_t s = 0; s < N_SEQS; s++)
            rows[s] = (struct engine_row){
                .seq = seq[s], .token = next[s], .pos = N_PROMPT + i, .want_logits = true
            };
        step_and_count(e, rows, N_SEQS);
        for (uint32_t s = 0; s < N_SEQS; s++)
            next[s] = sample_and_count(e, &rows[s], s);
    }
    for (uint32_t s = 0; s < N_SEQS; s++)
        engine_seq_close(seq[s]);
}

Test(step_memory, a_step_takes_none)
{
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
        struct engine *e = open_engine(models[m]);
        run(e);
        engine_close(e);
        cr_assert_eq(atomic_load(&n_calls), 0, "%s: %u allocations", models[m],
                     atomic_load(&n_calls));
    }
}

Test(step_memory, the_count_counts)
{
    atomic_store(&counting, true);
    void *volatile p = malloc(1);
    atomic_store(&counting, false);
    free(p);
    cr_assert_eq(atomic_load(&n_calls), COUNTS);
}
