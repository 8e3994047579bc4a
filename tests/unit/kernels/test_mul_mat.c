/* SPDX-License-Identifier: Apache-2.0
 *
 * test_mul_mat.c - every variant gives the bits of ref: all tensor types, ragged sizes, any cut of
 * rows and tokens.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/random_blocks.h"

static const enum kern_type types[] = {
    KERN_TYPE_F32,    KERN_TYPE_F16,   KERN_TYPE_BF16, KERN_TYPE_Q4_0, KERN_TYPE_Q4_1,
    KERN_TYPE_Q5_0,   KERN_TYPE_Q5_1,  KERN_TYPE_Q8_0, KERN_TYPE_Q2_K, KERN_TYPE_Q3_K,
    KERN_TYPE_Q4_K,   KERN_TYPE_Q5_K,  KERN_TYPE_Q6_K, KERN_TYPE_Q8_K, KERN_TYPE_IQ4_NL,
    KERN_TYPE_IQ4_XS, KERN_TYPE_MXFP4,
};
enum { N_TYPES = sizeof(types) / sizeof(types[0]), MAX_TOKENS = 21 };

/* A random matrix and random quantised inputs. */
struct problem {
    struct kern_matrix w;
    float *x;
    struct kern_act act;
    struct kern_input in;
    float *expected; /* by ref, [MAX_TOKENS][n_rows] */
};

static void problem_init(struct problem *p, enum kern_type type, uint32_t rows, uint32_t cols,
                         uint64_t seed)
{
    memset(p, 0, sizeof(*p));
    p->w = (struct kern_matrix){ .type = type, .n_rows = rows, .n_cols = cols };
    p->w.row_bytes = random_row_bytes(type, cols);
    p->w.data = random_rows(type, rows, cols, seed);
    p->x = random_floats((size_t)MAX_TOKENS * cols, seed + 1);
    p->x[cols / 2] = 40.0f; /* an outlier, as real activations have */
    random_act_init(&p->act, MAX_TOKENS, cols);
    if (kern_type_info(type)->group_values)
        kern_select("ref")->quantise(p->x, &p->act, 0, MAX_TOKENS);
    p->in = (struct kern_input){ .x = p->x, .act = &p->act };
    p->expected = malloc((size_t)MAX_TOKENS * rows * sizeof(float));
    kern_select("ref")->mul_mat(&p->w, 0, rows, &p->in, 0, MAX_TOKENS, p->expected, rows);
}

static void problem_fini(struct problem *p)
{
    free((void *)(uintptr_t)p->w.data);
    free(p->x);
    random_act_fini(&p->act);
    free(p->expected);
}

/* Rows in two cuts, tokens in pieces of `step`. */
static void check_variant(const struct kern_table *k, const struct problem *p, uint32_t step)
{
    uint32_t rows = p->w.n_rows;
    float *y = malloc((size_t)MAX_TOKENS * rows * sizeof(float));
    uint32_t cut = rows > KERN_PANEL_ROWS ? KERN_PANEL_ROWS : rows;
    memset(y, 0xff, (size_t)MAX_TOKENS * rows * sizeof(float));
    for (uint32_t t = 0; t < MAX_TOKENS; t += step) {
        uint32_t t1 = t + step < MAX_TOKENS ? t + step : MAX_TOKENS;
        k->mul_mat(&p->w, 0, cut, &p->in, t, t1, y, rows);
        if (cut < rows)
            k->mul_mat(&p->w, cut, rows, &p->in, t, t1, y, rows);
    }
    for (size_t i = 0; i < (size_t)MAX_TOKENS * rows; i++)
        cr_assert(memcmp(&y[i], &p->expected[i], 4) == 0,
                  "%s %s rows %u cols %u step %u: element %zu is %.9g, ref has %.9g", k->name,
                  kern_type_info(p->w.type)->name, rows, p->w.n_cols, step, i, (double)y[i],
                  (double)p->expected[i]);
    free(y);
}

Test(mul_mat, every_variant_gives_the_bits_of_ref)
{
    static const uint32_t rows[] = { 1, 15, 16, 17, 40 };
    static const uint32_t blocks[] = { 1, 2, 3, 9 }; /* the last crosses a panel for 256 */
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t r = 0; r < 5; r++)
            for (size_t b = 0; b < 4; b++) {
                uint32_t unit = kern_type_info(types[t])->block_values;
                struct problem p;
                problem_init(&p, types[t], rows[r], unit == 1 ? blocks[b] * 37 : blocks[b] * unit,
                             t * 100 + r * 10 + b);
                for (uint32_t v = 0; v < kern_n_usable(); v++) {
                    check_variant(kern_usable(v), &p, MAX_TOKENS);
                    check_variant(kern_usable(v), &p, 1);
                    check_variant(kern_usable(v), &p, 5);
                }
                problem_fini(&p);
            }
}

/* The reference itself, against dequantised weights in double precision. */
Test(mul_mat, ref_is_close_to_exact_arithmetic)
{
    for (size_t t = 0; t < N_TYPES; t++) {
        struct problem p;
        uint32_t cols = 512;
        problem_init(&p, types[t], 8, cols, 7 + t);
        float *row = malloc(cols * sizeof(float));
        for (uint32_t r = 0; r < 8; r++) {
            kern_select("ref")->dequantise(types[t], (const char *)p.w.data + r * p.w.row_bytes,
                                           row, cols);
            double exact = 0, size = 0;
            for (uint32_t i = 0; i < cols; i++) {
                exact += (double)row[i] * (double)p.x[i];
                size += fabs((double)row[i] * (double)p.x[i]);
            }
            /* Quantised activations: each is off by at most half a step of its block's scale. */
            double limit = kern_type_info(types[t])->group_values ? 0.02 * size : 1e-5 * size;
            cr_assert(fabs(exact - (double)p.expected[r]) <= limit + 1e-6, "%s: %g against %g",
                      kern_type_info(types[t])->name, (double)p.expected[r], exact);
        }
        free(row);
        problem_fini(&p);
    }
}

/* -127 .. 127 is the domain of activations; weights may take every byte.  The common AVX2 product
 * of signs and absolute values gets -128 wrong. */
Test(mul_mat, extreme_bytes_do_not_saturate)
{
    for (size_t t = 0; t < N_TYPES; t++) {
        if (!kern_type_info(types[t])->group_values)
            continue;
        struct problem p;
        problem_init(&p, types[t], 16, 256, 3);
        random_fill_bytes((uint8_t *)(uintptr_t)p.w.data, types[t], 16, 256, t % 2 ? 0xff : 0x80);
        for (size_t i = 0; i < (size_t)MAX_TOKENS * 256; i++)
            p.x[i] = i % 3 ? 1.0f : -1.0f;
        kern_select("ref")->quantise(p.x, &p.act, 0, MAX_TOKENS);
        kern_select("ref")->mul_mat(&p.w, 0, 16, &p.in, 0, MAX_TOKENS, p.expected, 16);
        for (uint32_t v = 0; v < kern_n_usable(); v++)
            check_variant(kern_usable(v), &p, MAX_TOKENS);
        problem_fini(&p);
    }
}
