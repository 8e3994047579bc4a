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
enum {
    N_TYPES = sizeof(types) / sizeof(types[0]),
    TOKENS = 29,       /* more than any kernel calls few */
    MANY_TOKENS = 101, /* more than a block of float weights or of long rows has */
};

/* A random matrix and random quantised inputs. */
struct problem {
    struct kern_matrix w;
    struct kern_matrix packed, columns; /* the same in other layouts; of quantised types */
    float *x;
    struct kern_act act;
    struct kern_input in;
    uint32_t n_tokens;
    float *expected; /* by ref, [n_tokens][n_rows] */
};

static struct kern_matrix packed(const struct kern_matrix *w, enum kern_layout layout)
{
    size_t bytes = kern_packed_bytes(layout, w->type, w->n_rows, w->n_cols);
    uint32_t rows = kern_layout_rows(layout), n_pieces = (w->n_rows + rows - 1) / rows;
    struct kern_matrix dst = *w;
    void *data = aligned_alloc(64, bytes);
    memset(data, 0xff, bytes);
    kern_pack(w, layout, 0, n_pieces / 2, data);
    kern_pack(w, layout, n_pieces / 2, n_pieces, data);
    dst.layout = layout;
    dst.data = data;
    dst.row_bytes = 0;
    return dst;
}

/* Every second token has few inputs that are not zero, and whole groups of zeros. */
static void make_sparse(float *x, uint32_t n_tokens, uint32_t cols, uint64_t seed)
{
    float *dice = random_floats((size_t)n_tokens * cols, seed);
    for (uint32_t t = 1; t < n_tokens; t += 2)
        for (uint32_t c = 0; c < cols; c++)
            if (dice[(size_t)t * cols + c] < 0.8f || c / 16 % 3 == t % 3)
                x[(size_t)t * cols + c] = 0.0f;
    free(dice);
}

/* Quantises x, and has ref multiply. */
static void problem_expect(struct problem *p)
{
    if (kern_type_info(p->w.type)->group_values)
        random_act_quantise(kern_select("ref"), p->x, &p->act, p->n_tokens);
    kern_select("ref")->mul_mat(&p->w, 0, p->w.n_rows, &p->in, 0, p->n_tokens, p->expected,
                                p->w.n_rows);
}

static void problem_init(struct problem *p, enum kern_type type, uint32_t rows, uint32_t cols,
                         uint32_t n_tokens, uint64_t seed)
{
    memset(p, 0, sizeof(*p));
    p->n_tokens = n_tokens;
    p->w = (struct kern_matrix){ .type = type, .n_rows = rows, .n_cols = cols };
    p->w.row_bytes = random_row_bytes(type, cols);
    p->w.data = random_rows(type, rows, cols, seed);
    p->x = random_floats((size_t)n_tokens * cols, seed + 1);
    p->x[cols / 2] = 40.0f; /* an outlier, as real activations have */
    make_sparse(p->x, n_tokens, cols, seed + 2);
    random_act_init(&p->act, n_tokens, cols);
    if (kern_type_info(type)->group_values) {
        p->packed = packed(&p->w, KERN_LAYOUT_PANELS);
        p->columns = packed(&p->w, KERN_LAYOUT_COLUMNS);
    }
    p->in = (struct kern_input){ .x = p->x, .act = &p->act };
    p->expected = malloc((size_t)n_tokens * rows * sizeof(float));
    problem_expect(p);
}

static void problem_fini(struct problem *p)
{
    free((void *)(uintptr_t)p->w.data);
    free((void *)(uintptr_t)p->packed.data);
    free((void *)(uintptr_t)p->columns.data);
    free(p->x);
    random_act_fini(&p->act);
    free(p->expected);
}

static const char *const layout_names[] = { "rows", "panels", "columns" };

/* Rows in two cuts, tokens in pieces of `step`. */
static void check_layout(const struct kern_table *k, const struct problem *p,
                         const struct kern_matrix *w, uint32_t step)
{
    uint32_t rows = w->n_rows;
    float *y = malloc((size_t)p->n_tokens * rows * sizeof(float));
    uint32_t cut = rows > KERN_PANEL_ROWS ? KERN_PANEL_ROWS : rows;
    memset(y, 0xff, (size_t)p->n_tokens * rows * sizeof(float));
    for (uint32_t t = 0; t < p->n_tokens; t += step) {
        uint32_t t1 = t + step < p->n_tokens ? t + step : p->n_tokens;
        float *out = y + (size_t)t * rows;
        k->mul_mat(w, 0, cut, &p->in, t, t1, out, rows);
        if (cut < rows)
            k->mul_mat(w, cut, rows, &p->in, t, t1, out + cut, rows);
    }
    for (size_t i = 0; i < (size_t)p->n_tokens * rows; i++)
        cr_assert(memcmp(&y[i], &p->expected[i], 4) == 0,
                  "%s %s %s, %u x %u, step %u: element %zu is %.9g, ref has %.9g", k->name,
                  kern_type_info(w->type)->name, layout_names[w->layout], rows, w->n_cols, step, i,
                  (double)y[i], (double)p->expected[i]);
    free(y);
}

static void check_variant(const struct kern_table *k, const struct problem *p, uint32_t step)
{
    check_layout(k, p, &p->w, step);
    if (!p->packed.data)
        return;
    check_layout(k, p, &p->packed, step);
    check_layout(k, p, &p->columns, step);
}

/* n of the rows, in any order, some twice. */
static void check_some_rows(const struct kern_table *k, const struct problem *p, uint32_t n)
{
    uint32_t rows[64];
    float y[65];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (i * 7 + n) % p->w.n_rows;
    for (uint32_t t = 0; t < 3; t++) {
        y[n] = -1.0f;
        k->mul_rows(&p->w, rows, n, &p->in, t, y);
        cr_assert(y[n] == -1.0f, "%s %s writes behind %u rows", k->name,
                  kern_type_info(p->w.type)->name, n);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(memcmp(&y[i], &p->expected[(size_t)t * p->w.n_rows + rows[i]], 4) == 0,
                      "%s %s, %u of %u rows of %u: row %u of token %u", k->name,
                      kern_type_info(p->w.type)->name, n, p->w.n_rows, p->w.n_cols, rows[i], t);
    }
}

#ifdef __SANITIZE_ADDRESS__
#define IS_SLOW true /* by thirty times: what is large is left to other builds */
#else
#define IS_SLOW false
#endif

Test(mul_mat, every_variant_gives_the_bits_of_ref)
{
    /* Each size of a tile, and what the kernels call few tokens at most. */
    static const uint32_t steps[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 24, 25 };
    static const uint32_t rows[] = { 1, 16, 17, 40, 150 };
    static const uint32_t some[] = { 0, 1, 3, 15, 16, 31, 32, 63 };
    static const uint32_t blocks[] = { 1, 2, 3, 9,
                                       53 }; /* several pieces of columns, of both blocks */
    const struct kern_table *ref = kern_select("ref");
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t r = 0; r < 5; r++)
            for (size_t b = 0; b < 5; b++) {
                uint32_t unit = kern_type_info(types[t])->block_values;
                if ((unit == 256 && blocks[b] > 9) || (IS_SLOW && (rows[r] > 40 || blocks[b] > 9)))
                    continue;
                struct problem p;
                problem_init(&p, types[t], rows[r], unit == 1 ? blocks[b] * 37 : blocks[b] * unit,
                             TOKENS, t * 100 + r * 10 + b);
                for (uint32_t v = 0; v < kern_n_usable(); v++) {
                    check_variant(kern_usable(v), &p, TOKENS);
                    for (size_t n = 0; n < sizeof(some) / sizeof(some[0]); n++)
                        check_some_rows(kern_usable(v), &p, some[n]);
                    /* Ref, the slowest by far, has no tiles: one token, and some. */
                    size_t n_steps = sizeof(steps) / sizeof(steps[0]);
                    for (size_t s = 0; s < (kern_usable(v) == ref ? 2 : n_steps);
                         s += IS_SLOW ? 3 : 1)
                        check_variant(kern_usable(v), &p, steps[s]);
                }
                problem_fini(&p);
            }
}

/* Many tokens go by blocks, and the wider the rows the fewer tokens a block has. */
Test(mul_mat, many_tokens_give_the_bits_of_ref)
{
    static const uint32_t cols[] = { 1056, 12000 };
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t c = 0; c < 2 && kern_type_info(types[t])->block_values <= 32; c++) {
            struct problem p;
            uint32_t odd = kern_type_info(types[t])->block_values == 1 ? 7 : 0;
            problem_init(&p, types[t], 7, cols[c] + odd, MANY_TOKENS, t * 10 + c);
            for (uint32_t v = 0; v < kern_n_usable(); v++)
                check_variant(kern_usable(v), &p, MANY_TOKENS);
            problem_fini(&p);
        }
}

/* No input is zero, or so many are that columns are skipped; more tiles than the sums of so many tokens go together. */
Test(mul_mat, columns_of_many_rows_and_tokens_give_the_bits_of_ref)
{
    enum { ROWS = 700, SKIPPED_TOKENS = 64 };
    for (size_t t = 0; t < N_TYPES; t++) {
        uint32_t unit = kern_type_info(types[t])->block_values, cols = unit < 256 ? 1056 : 1024;
        if (!kern_type_info(types[t])->group_values)
            continue;
        struct problem p;
        problem_init(&p, types[t], ROWS, cols, SKIPPED_TOKENS, 31 + t);
        float *x = random_floats((size_t)SKIPPED_TOKENS * cols, 77);
        for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
            for (size_t i = 0; i < (size_t)SKIPPED_TOKENS * cols; i++)
                p.x[i] = is_sparse && i % 11 ? 0.0f : x[i];
            problem_expect(&p);
            for (uint32_t v = 0; v < kern_n_usable(); v++) {
                if (IS_SLOW && kern_usable(v) == kern_select("ref"))
                    continue; /* the slowest by far, and without tiles */
                check_layout(kern_usable(v), &p, &p.columns, SKIPPED_TOKENS);
                check_layout(kern_usable(v), &p, &p.columns, 29);
            }
        }
        free(x);
        problem_fini(&p);
    }
}

/* The reference itself, against dequantised weights in double precision. */
Test(mul_mat, ref_is_close_to_exact_arithmetic)
{
    for (size_t t = 0; t < N_TYPES; t++) {
        struct problem p;
        uint32_t cols = 512;
        problem_init(&p, types[t], 8, cols, TOKENS, 7 + t);
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

/* -127 .. 127 is the domain of activations; weights may take every byte.  Sums in 16 bits are largest where
 * all activations have one sign, and products of sizes where the weight is -128. */
Test(mul_mat, extreme_bytes_do_not_saturate)
{
    static const uint8_t bytes[] = { 0xff, 0x80, 0x7f, 0 };
    for (size_t n = 0; n < N_TYPES * sizeof(bytes) * 3; n++) {
        size_t t = n / sizeof(bytes) / 3, byte = n / 3 % sizeof(bytes), signs = n % 3;
        if (!kern_type_info(types[t])->group_values)
            continue;
        struct problem p;
        problem_init(&p, types[t], 16, 256, TOKENS, 3);
        random_fill_bytes((uint8_t *)(uintptr_t)p.w.data, types[t], 16, 256, bytes[byte]);
        kern_pack(&p.w, KERN_LAYOUT_PANELS, 0, 1, (void *)(uintptr_t)p.packed.data);
        kern_pack(&p.w, KERN_LAYOUT_COLUMNS, 0, 1, (void *)(uintptr_t)p.columns.data);
        for (size_t i = 0; i < (size_t)TOKENS * 256; i++)
            p.x[i] = signs == 0 || (signs == 1 && i % 3) ? 1.0f : -1.0f;
        random_act_quantise(kern_select("ref"), p.x, &p.act, TOKENS);
        kern_select("ref")->mul_mat(&p.w, 0, 16, &p.in, 0, TOKENS, p.expected, 16);
        for (uint32_t v = 0; v < kern_n_usable(); v++)
            check_variant(kern_usable(v), &p, TOKENS);
        problem_fini(&p);
    }
}

Test(pack, no_layout_takes_more_than_the_rows_but_for_padding)
{
    for (size_t t = 0; t < N_TYPES; t++)
        for (enum kern_layout layout = KERN_LAYOUT_PANELS; layout <= KERN_LAYOUT_COLUMNS;
             layout++) {
            if (!kern_type_info(types[t])->group_values)
                continue;
            size_t rows = (size_t)128 * random_row_bytes(types[t], 4096);
            cr_assert_leq(kern_packed_bytes(layout, types[t], 128, 4096), rows, "%s in %s",
                          kern_type_info(types[t])->name, layout_names[layout]);
            cr_assert_eq(kern_packed_bytes(layout, types[t], 113, 4096),
                         kern_packed_bytes(layout, types[t], 128, 4096));
        }
}

Test(pack, a_row_has_the_same_values_in_every_layout)
{
    for (size_t t = 0; t < N_TYPES; t++) {
        struct problem p;
        problem_init(&p, types[t], 130, 768, 1, 11 + t);
        float rows[768], panels[768], columns[768];
        for (uint32_t r = 0; r < 130 && p.packed.data; r++) {
            kern_row(&p.w, r, rows);
            kern_row(&p.packed, r, panels);
            kern_row(&p.columns, r, columns);
            cr_assert(memcmp(rows, panels, sizeof(rows)) == 0 &&
                          memcmp(rows, columns, sizeof(rows)) == 0,
                      "%s row %u", kern_type_info(types[t])->name, r);
        }
        problem_fini(&p);
    }
}
