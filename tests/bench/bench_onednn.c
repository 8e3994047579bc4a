/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_onednn.c - our products beside oneDNN's, shape by shape, on one thread: the table that decides whether
 * any of them should be oneDNN's.  Built where libdnnl-dev is installed; run by hand:
 *
 *     OMP_NUM_THREADS=1 bench_onednn [VARIANT]        (default: the best of kern_names())
 *
 * oneDNN gets more than it could have in the server: weights of 16 bits are widened for it beforehand, and where
 * ours have a scale in each block of 32 its int8 products have none.  What it would cost is not in the table:
 * its order of summation follows the shape, so answers would depend on how a prompt was cut into steps, which
 * kernels.h rules out.
 *
 * On a Xeon of 2023 (AVX-512 VNNI, no AMX) most of ours are faster up to 32 tokens, by up to 2.9x at 8; from 128
 * on oneDNN's float products are 1.1 to 1.4 times as fast, and its int8 products 1.2 to 1.6 times: the scales are
 * 3 of 11 instructions.  So none is oneDNN's.
 */
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/kernels.h"
#include "tests/support/random_blocks.h"

enum {
    ROUNDS = 7,
    ITEM_ROWS = 128, /* of ours, as a worker takes them */
    MAX_TOKENS = 512,
};
static const double SAMPLE_SECONDS = 0.02; /* at least */

static const enum kern_type types[] = { KERN_TYPE_F32, KERN_TYPE_F16, KERN_TYPE_BF16,
                                        KERN_TYPE_Q8_0, KERN_TYPE_Q4_0 };
static const uint32_t shapes[][2] = {
    { 2048, 2048 }, { 5632, 2048 }, { 2048, 5632 }, { 576, 576 }
};
static const uint32_t token_counts[] = { 1, 8, 32, 128, MAX_TOKENS };

struct product {
    const struct kern_table *k;
    struct kern_matrix w;
    float *x;
    struct kern_act act;
    float *y;
    float *wide;     /* the weights for sgemm; NULL: int8 */
    int8_t *codes;   /* the weights for its int8 product */
    uint8_t *inputs; /* and the inputs, in u8 as it wants them */
    int32_t *sums;
};

/* On a cache line, as the engine has everything. */
static void *on_line(void *from, size_t size)
{
    void *to = aligned_alloc(64, (size + 63) / 64 * 64);
    memcpy(to, from, size);
    free(from);
    return to;
}

static float *random_on_line(size_t n, uint64_t seed)
{
    return on_line(random_floats(n, seed), n * sizeof(float));
}

static void product_init(struct product *p, const struct kern_table *k, enum kern_type type,
                         uint32_t n_rows, uint32_t n_cols)
{
    size_t n_weights = (size_t)n_rows * n_cols, n_inputs = (size_t)MAX_TOKENS * n_cols;
    uint8_t *rows = random_rows(type, n_rows, n_cols, 1);
    *p = (struct product){ .k = k, .w = { .type = type, .n_rows = n_rows, .n_cols = n_cols } };
    p->w.data = rows;
    p->w.row_bytes = random_row_bytes(type, n_cols);
    p->x = random_on_line(n_inputs, 2);
    p->y = random_on_line((size_t)MAX_TOKENS * n_rows, 4);
    if (!kern_type_is_quantised(type)) {
        p->w.data = on_line(rows, n_rows * p->w.row_bytes);
        p->wide = random_on_line(n_weights, 3);
        return;
    }
    void *panels = aligned_alloc(
        64, (kern_packed_bytes(KERN_LAYOUT_PANELS, type, n_rows, n_cols) + 63) / 64 * 64);
    kern_pack(&p->w, KERN_LAYOUT_PANELS, 0, (n_rows + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS,
              panels);
    free(rows);
    p->w.data = panels;
    p->w.layout = KERN_LAYOUT_PANELS;
    random_act_init(&p->act, MAX_TOKENS, n_cols);
    random_act_quantise(k, p->x, &p->act, MAX_TOKENS);
    p->act.q = on_line(p->act.q, n_inputs);
    p->codes = on_line(calloc(n_weights, 1), n_weights);
    p->inputs = on_line(calloc(n_inputs, 1), n_inputs);
    p->sums = malloc((size_t)MAX_TOKENS * n_rows * sizeof(*p->sums));
}

static void product_fini(struct product *p)
{
    free((void *)(uintptr_t)p->w.data);
    free(p->x);
    free(p->y);
    if (!p->wide)
        random_act_fini(&p->act);
    free(p->wide);
    free(p->codes);
    free(p->inputs);
    free(p->sums);
}

static void ours(const struct product *p, uint32_t n_tokens)
{
    struct kern_input in = { .x = p->x, .act = &p->act };
    uint32_t n = p->w.n_rows;
    for (uint32_t r = 0; r < n; r += ITEM_ROWS)
        p->k->mul_mat(&p->w, r, r + ITEM_ROWS < n ? r + ITEM_ROWS : n, &in, 0, n_tokens, p->y + r,
                      n);
}

static void theirs(const struct product *p, uint32_t n_tokens)
{
    dnnl_dim_t m = n_tokens, n = p->w.n_rows, k = p->w.n_cols;
    int32_t no_offset = 0;
    dnnl_status_t status = p->wide
                               ? dnnl_sgemm('N', 'T', m, n, k, 1.0f, p->x, k, p->wide, k, 0.0f,
                                            p->y, n)
                               : dnnl_gemm_u8s8s32('N', 'T', 'F', m, n, k, 1.0f, p->inputs, k, 0,
                                                   p->codes, k, 0, 0.0f, p->sums, n, &no_offset);
    if (status != dnnl_success) {
        fprintf(stderr, "bench_onednn: oneDNN refused with status %d\n", (int)status);
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Multiplications a second. */
static double sample(const struct product *p, uint32_t n_tokens,
                     void (*multiply)(const struct product *, uint32_t))
{
    double start = now(), seconds;
    uint32_t n = 0;
    do {
        multiply(p, n_tokens);
        n++;
        seconds = now() - start;
    } while (seconds < SAMPLE_SECONDS);
    return (double)n * n_tokens * p->w.n_rows * p->w.n_cols / seconds;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const struct product *p, uint32_t n_tokens)
{
    double own[ROUNDS], other[ROUNDS], ratio[ROUNDS];
    ours(p, n_tokens);
    theirs(p, n_tokens); /* compiles */
    for (int r = 0; r < ROUNDS; r++) {
        own[r] = sample(p, n_tokens, ours);
        other[r] = sample(p, n_tokens, theirs);
        ratio[r] = own[r] / other[r];
    }
    qsort(own, ROUNDS, sizeof(*own), by_size);
    qsort(other, ROUNDS, sizeof(*other), by_size);
    qsort(ratio, ROUNDS, sizeof(*ratio), by_size);
    printf("%-5s %5u x %-5u %7u %10.1f %10.1f %9.2fx\n", kern_type_info(p->w.type)->name,
           p->w.n_rows, p->w.n_cols, n_tokens, own[ROUNDS / 2] * 1e-9, other[ROUNDS / 2] * 1e-9,
           ratio[ROUNDS / 2]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const struct kern_table *k = kern_select(argc > 1 ? argv[1] : NULL);
    if (!k || argc > 2) {
        fprintf(stderr, "usage: bench_onednn [VARIANT]   one of %s\n", kern_names());
        return 64;
    }
    printf("%s, GMAC/s of one thread, medians of %d\n", k->name, ROUNDS);
    printf("%-5s %13s %7s %10s %10s %10s\n", "type", "rows, columns", "tokens", "ours", "oneDNN",
           "ratio");
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
            struct product p;
            product_init(&p, k, types[t], shapes[s][0], shapes[s][1]);
            for (size_t m = 0; m < sizeof(token_counts) / sizeof(token_counts[0]); m++)
                measure(&p, token_counts[m]);
            product_fini(&p);
        }
    return 0;
}
