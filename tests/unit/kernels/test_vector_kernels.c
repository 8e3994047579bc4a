/* SPDX-License-Identifier: Apache-2.0
 *
 * test_vector_kernels.c - the float kernels of every variant give the bits of ref, and ref is
 * right.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/random_blocks.h"

static const size_t sizes[] = { 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 576 };
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static const struct kern_table *ref(void)
{
    return kern_select("ref");
}

static void expect_bits(const char *what, const struct kern_table *k, const float *a,
                        const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(memcmp(&a[i], &b[i], 4) == 0, "%s %s, n %zu: element %zu is %.9g, ref %.9g",
                  k->name, what, n, i, (double)a[i], (double)b[i]);
}

Test(exp, is_within_two_units_and_saturates)
{
    for (double x = -86.9; x < 87.9; x += 0.00137) {
        double exact = exp((double)(float)x);
        cr_assert(fabs((double)kern_exp((float)x) / exact - 1) < 2e-7, "x %g", x);
    }
    cr_assert_eq(kern_exp(-200.0f), 0.0f);
    cr_assert_eq(kern_exp(-INFINITY), 0.0f);
    cr_assert_eq(kern_exp(0.0f), 1.0f);
    cr_assert(isinf(kern_exp(1000.0f)));
    cr_assert(isnan(kern_exp(NAN)));
}

Test(half, every_value_survives_the_round_trip)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = kern_f16_to_f32((uint16_t)h);
        if (!isnan(f))
            cr_assert_eq(kern_f32_to_f16(f), h, "%x", h);
    }
}

Test(half, rounds_to_nearest_even)
{
    cr_assert_eq(kern_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    cr_assert_eq(kern_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    cr_assert_eq(kern_f32_to_f16(65519.9f), 0x7bff);
    cr_assert_eq(kern_f32_to_f16(65520.0f), 0x7c00);
    cr_assert_eq(kern_f32_to_f16(0x1p-25f), 0);
    cr_assert_eq(kern_f32_to_f16(0x1.8p-25f), 1);
    cr_assert_eq(kern_f32_to_f16(-0.0f), 0x8000);
}

Test(norm, every_variant_gives_the_bits_of_ref)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        size_t n = sizes[s];
        float *x = random_floats(n, s), *w = random_floats(n, s + 50);
        float *a = malloc(n * 4), *b = malloc(n * 4);
        ref()->rms_norm(x, w, 1e-5f, (uint32_t)n, a);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            kern_usable(v)->rms_norm(x, w, 1e-5f, (uint32_t)n, b);
            expect_bits("rms_norm", kern_usable(v), b, a, n);
        }
        free(x), free(w), free(a), free(b);
    }
}

Test(norm, output_has_unit_mean_square)
{
    float x[64], w[64], y[64];
    double sum = 0;
    for (int i = 0; i < 64; i++) {
        x[i] = (float)(i - 20) * 3.0f;
        w[i] = 1.0f;
    }
    ref()->rms_norm(x, w, 0.0f, 64, y);
    for (int i = 0; i < 64; i++)
        sum += (double)y[i] * (double)y[i];
    cr_assert_float_eq(sum / 64, 1.0, 1e-5);
}

Test(activate, every_variant_gives_the_bits_of_ref)
{
    for (int kind = KERN_ACTIVATION_SILU; kind <= KERN_ACTIVATION_RELU2; kind++)
        for (size_t s = 0; s < N_SIZES; s++)
            for (int with_up = 0; with_up < 2; with_up++) {
                size_t n = sizes[s];
                float *g = random_floats(n, s + 9), *u = random_floats(n, s + 60);
                float *a = malloc(n * 4), *b = malloc(n * 4);
                for (size_t i = 0; i < n; i++)
                    g[i] *= i % 5 == 0 ? 60.0f : 3.0f;
                ref()->activate((enum kern_activation)kind, g, with_up ? u : NULL, a, n);
                for (uint32_t v = 0; v < kern_n_usable(); v++) {
                    kern_usable(v)->activate((enum kern_activation)kind, g, with_up ? u : NULL, b,
                                             n);
                    expect_bits("activate", kern_usable(v), b, a, n);
                }
                free(g), free(u), free(a), free(b);
            }
}

Test(activate, follows_the_formulas)
{
    for (float x = -12.0f; x < 12.0f; x += 0.037f) {
        float y;
        double d = (double)x, t = tanh(0.7978845608028654 * (d + 0.044715 * d * d * d));
        ref()->activate(KERN_ACTIVATION_SILU, &x, NULL, &y, 1);
        cr_assert_float_eq((double)y, d / (1 + exp(-d)), 1e-6 * (1 + fabs(d)));
        ref()->activate(KERN_ACTIVATION_GELU, &x, NULL, &y, 1);
        cr_assert_float_eq((double)y, 0.5 * d * (1 + t), 1e-6 * (1 + fabs(d)));
        ref()->activate(KERN_ACTIVATION_RELU2, &x, NULL, &y, 1);
        cr_assert_float_eq((double)y, d > 0 ? d * d : 0, 1e-5 * (1 + d * d));
    }
}

Test(add_scaled, every_variant_gives_the_bits_of_ref)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        size_t n = sizes[s];
        float *x = random_floats(n, s), *a = random_floats(n, 5);
        ref()->add_scaled(a, x, 0.3f, n);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            float *b = random_floats(n, 5);
            kern_usable(v)->add_scaled(b, x, 0.3f, n);
            expect_bits("add_scaled", kern_usable(v), b, a, n);
            free(b);
        }
        free(x), free(a);
    }
}

Test(max_sum_exp, every_variant_gives_the_bits_of_ref)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        float *x = random_floats(sizes[s], s), a[2], b[2];
        ref()->max_sum_exp(x, sizes[s], &a[0], &a[1]);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            kern_usable(v)->max_sum_exp(x, sizes[s], &b[0], &b[1]);
            expect_bits("max_sum_exp", kern_usable(v), b, a, 2);
        }
        free(x);
    }
}

Test(sum_exp_diff, every_variant_gives_the_bits_of_ref)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        float *p = random_floats(sizes[s], s), *q = random_floats(sizes[s], s + 100);
        float a = ref()->sum_exp_diff(p, q, sizes[s], 1.0f);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            float b = kern_usable(v)->sum_exp_diff(p, q, sizes[s], 1.0f);
            expect_bits("sum_exp_diff", kern_usable(v), &b, &a, 1);
        }
        free(p), free(q);
    }
}

Test(sum_exp_diff, is_what_it_says)
{
    float p[] = { 1, 2, 3 }, q[] = { 1, 1, 1 };
    double expected = exp(2 - 3) * 1 + exp(3 - 3) * 2;
    cr_assert_float_eq(ref()->sum_exp_diff(p, q, 3, 3.0f), expected, 1e-6);
}

/* With what is not finite, and zeros of both signs, at every place. */
static float *odd_floats(size_t n, uint64_t seed)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-43f };
    float *x = random_floats(n, seed);
    for (size_t i = seed % 5; i < n; i += 5)
        x[i] = odd[i / 5 % (sizeof(odd) / sizeof(odd[0]))];
    return x;
}

Test(drop_below, every_variant_gives_the_bits_of_ref)
{
    static const float limits[] = { 0.0f, 0.1f, 0.5f, INFINITY };
    for (size_t s = 0; s < N_SIZES * 4; s++) {
        size_t n = sizes[s / 4];
        float *x = odd_floats(n, s), *weight = random_floats(n, s + 50);
        float *a = malloc((n + 1) * sizeof(*a)), *b = malloc((n + 1) * sizeof(*b));
        for (size_t i = 0; i < n; i++)
            weight[i] = fabsf(weight[i]);
        memcpy(a, x, n * sizeof(*a));
        ref()->drop_below(a, weight, limits[s % 4], n);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            memcpy(b, x, n * sizeof(*b));
            kern_usable(v)->drop_below(b, weight, limits[s % 4], n);
            expect_bits("drop_below", kern_usable(v), b, a, (uint32_t)n);
        }
        free(x), free(weight), free(a), free(b);
    }
}

Test(drop_below, what_weighs_less_becomes_zero_and_nothing_does_at_limit_zero)
{
    float x[] = { -1, 1, 3, -3, NAN }, weight[] = { 1, 2, 1, 0.5f, 1 };
    float same[5];
    memcpy(same, x, sizeof(x));
    ref()->drop_below(same, weight, 0, 5);
    cr_assert_arr_eq(same, x, sizeof(x));
    ref()->drop_below(x, weight, 2, 5);
    cr_assert(x[0] == 0 && x[1] == 1 && x[2] == 3 && x[3] == 0 && isnan(x[4]));
}

Test(list_nonzero, every_variant_lists_what_is_not_zero)
{
    uint32_t a[512], b[512];
    for (size_t s = 0; s < N_SIZES; s++) {
        uint32_t n = (uint32_t)sizes[s];
        if (n > 512)
            continue;
        float *x = odd_floats(n, s);
        uint32_t n_a = ref()->list_nonzero(x, n, a), n_expected = 0;
        for (uint32_t i = 0; i < n; i++)
            n_expected += x[i] < 0 || x[i] > 0;
        cr_assert_eq(n_a, n_expected);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            cr_assert_eq(kern_usable(v)->list_nonzero(x, n, b), n_a, "%s", kern_usable(v)->name);
            cr_assert_arr_eq(b, a, n_a * sizeof(*a));
        }
        free(x);
    }
}

Test(quantise, every_variant_gives_the_bits_of_ref)
{
    enum { ROWS = 5, COLS = 96 };
    float *x = random_floats(ROWS * COLS, 3);
    memset(x + COLS, 0, 32 * sizeof(float)); /* a block of zeros */
    x[2 * COLS] = 1e30f;
    x[3 * COLS] = 1e-43f; /* subnormal beside ordinary values */
    memset(x + 4 * COLS, 0, 32 * sizeof(float));
    x[4 * COLS] = 1e-43f; /* and alone: its scale is subnormal too */
    for (int i = 0; i < 32; i++)
        x[4 * COLS + 32 + i] = ((float)i + 0.5f) * 127.0f / 31.5f; /* ties, about */
    for (int i = 0; i < 32; i++)
        x[4 * COLS + 64 + i] = i == 31 ? 127.0f : (float)i + 0.5f; /* and exactly */
    struct kern_act a, b;
    random_act_init(&a, ROWS, COLS);
    random_act_init(&b, ROWS, COLS);
    random_act_quantise(ref(), x, &a, ROWS);
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        const struct kern_table *k = kern_usable(v);
        k->quantise(x, COLS, &b, 0, 2, 0, COLS);
        k->quantise(x + 2 * COLS, COLS, &b, 2, ROWS, 0, 32);
        k->quantise(x + 2 * COLS + 32, COLS, &b, 2, ROWS, 32, COLS);
        cr_assert_arr_eq(a.q, b.q, ROWS * COLS);
        cr_assert_arr_eq(a.start32, b.start32, ROWS * COLS / 32 * sizeof(int32_t));
        cr_assert_arr_eq(a.start16, b.start16, ROWS * COLS / 16 * sizeof(int32_t));
        expect_bits("d", kern_usable(v), b.d, a.d, ROWS * COLS / 32);
        expect_bits("xs16", kern_usable(v), b.xs16, a.xs16, ROWS * COLS / 16);
        expect_bits("xs32", kern_usable(v), b.xs32, a.xs32, ROWS * COLS / 32);
    }
    random_act_fini(&a), random_act_fini(&b), free(x);
}

static void expect_same_floats(const float *a, const float *b, size_t n, const char *variant)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(memcmp(&a[i], &b[i], sizeof(float)) == 0 || (isnan(a[i]) && isnan(b[i])),
                  "%s: %zu is %a, not %a", variant, i, (double)a[i], (double)b[i]);
}

static void expect_same_act(const struct kern_act *a, const struct kern_act *b, size_t n,
                            const char *variant)
{
    cr_assert_arr_eq(a->q, b->q, n, "%s", variant);
    cr_assert_arr_eq(a->start32, b->start32, n / 32 * sizeof(int32_t), "%s", variant);
    cr_assert_arr_eq(a->start16, b->start16, n / 16 * sizeof(int32_t), "%s", variant);
    expect_same_floats(a->d, b->d, n / 32, variant);
    expect_same_floats(a->xs32, b->xs32, n / 32, variant);
    expect_same_floats(a->xs16, b->xs16, n / 16, variant);
}

/* Blocks that are quantised together, one of which is out of the ordinary. */
Test(quantise, an_odd_block_changes_nothing_of_its_neighbours)
{
    enum { ROWS = 18, COLS = 672 };
    static const float odd[] = { 1.0f, 0.0f, NAN, INFINITY, 1e-43f, 3e-31f, 1e30f };
    float *x = random_floats(ROWS * COLS, 5);
    struct kern_act a, b;
    random_act_init(&a, ROWS, COLS);
    random_act_init(&b, ROWS, COLS);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        for (size_t k = 0; k < 32; k++)
            x[7 * COLS + 160 + k] = k == 17 ? odd[i] : 0.0f;
        random_act_quantise(ref(), x, &a, ROWS);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            const struct kern_table *k = kern_usable(v);
            random_act_quantise(k, x, &b, ROWS);
            expect_same_act(&a, &b, ROWS * COLS, k->name);
            for (uint32_t c = 0; c < COLS; c += 32) /* a block of each row together */
                k->quantise(x + c, COLS, &b, 0, ROWS, c, c + 32);
            expect_same_act(&a, &b, ROWS * COLS, k->name);
        }
    }
    random_act_fini(&a), random_act_fini(&b), free(x);
}

/* So many that some quotients lie next to the middle of two whole numbers. */
Test(quantise, no_quotient_is_rounded_to_the_wrong_side)
{
    enum { ROWS = 64, COLS = 4096 };
    float *x = random_floats(ROWS * COLS, 17);
    struct kern_act a, b;
    random_act_init(&a, ROWS, COLS);
    random_act_init(&b, ROWS, COLS);
    random_act_quantise(ref(), x, &a, ROWS);
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        random_act_quantise(kern_usable(v), x, &b, ROWS);
        cr_assert_arr_eq(a.q, b.q, ROWS * COLS, "%s", kern_usable(v)->name);
    }
    random_act_fini(&a), random_act_fini(&b), free(x);
}

Test(quantise, what_is_not_finite_stays_visible)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (uint32_t v = 0; v < kern_n_usable(); v++)
        for (int at = 0; at < 32; at++)
            for (int k = 0; k < 3; k++) {
                float x[32];
                struct kern_act a;
                random_act_init(&a, 1, 32);
                for (int i = 0; i < 32; i++)
                    x[i] = i == at ? bad[k] : (float)i;
                random_act_quantise(kern_usable(v), x, &a, 1);
                cr_assert(isnan(a.d[0]) && isnan(a.xs32[0]), "%s", kern_usable(v)->name);
                for (int i = 0; i < 32; i++)
                    cr_assert_eq(a.q[i], 0);
                random_act_fini(&a);
            }
}

/* ---- looking through logits ---- */

enum { N_LOGITS = 200 };

/* What is at `at`, among numbers that are smaller than 1 in size. */
static void fill_logits(float *x, uint32_t n, uint32_t at, float value)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)(i * 37 % 101) / 101.0f - 0.5f;
    x[at] = value;
}

Test(logits, the_first_of_the_largest_is_found)
{
    static const float values[] = { 1.0f, INFINITY, NAN, -INFINITY, 0x1p-149f };
    float x[N_LOGITS];
    for (uint32_t v = 0; v < kern_n_usable(); v++)
        for (uint32_t n = 1; n <= N_LOGITS; n += 7)
            for (uint32_t at = 0; at < n; at += 3)
                for (size_t k = 0; k < 5; k++) {
                    fill_logits(x, n, at, values[k]);
                    x[n - 1] = k == 0 ? 1.0f : x[n - 1]; /* as large, but later */
                    uint32_t found = kern_usable(v)->max_index(x, n);
                    cr_assert_eq(found, ref()->max_index(x, n), "%s: %u of %u",
                                 kern_usable(v)->name, found, n);
                    cr_assert(k > 1 || found == at || (n > 1 && at == n - 1));
                }
}

Test(logits, nothing_is_the_largest_of_what_is_no_number)
{
    float x[N_LOGITS];
    for (uint32_t v = 0; v < kern_n_usable(); v++)
        for (uint32_t n = 1; n <= N_LOGITS; n += 13) {
            for (uint32_t i = 0; i < n; i++)
                x[i] = NAN;
            cr_assert_eq(kern_usable(v)->max_index(x, n), 0);
            x[n - 1] = -INFINITY;
            cr_assert_eq(kern_usable(v)->max_index(x, n), n - 1);
        }
}

Test(logits, the_next_above_a_limit_is_found_and_what_is_not_finite_is_seen)
{
    float x[N_LOGITS];
    for (uint32_t v = 0; v < kern_n_usable(); v++)
        for (uint32_t at = 0; at < N_LOGITS; at++) {
            const struct kern_table *kern = kern_usable(v);
            fill_logits(x, N_LOGITS, at, 2.0f);
            cr_assert_eq(kern->first_above(x, at / 2, N_LOGITS, 1.0f), at);
            cr_assert_eq(kern->first_above(x, at + 1, N_LOGITS, 1.0f), N_LOGITS);
            cr_assert_eq(kern->first_above(x, 0, N_LOGITS, 2.0f), N_LOGITS);
            cr_assert(kern->all_finite(x, N_LOGITS) && kern->all_finite(x, 0));
            x[at] = at % 3 == 0 ? NAN : at % 3 == 1 ? INFINITY : -INFINITY;
            cr_assert(!kern->all_finite(x, N_LOGITS), "%s at %u", kern->name, at);
            cr_assert(kern->all_finite(x, at));
        }
}

Test(rope, every_variant_gives_the_bits_of_ref)
{
    enum { MOST = 64 };
    static const uint32_t pairs[] = { 1, 7, 8, 9, 15, 16, 17, 32, 48, MOST };
    float *x = random_floats(2 * MOST, 5), *angles = random_floats(2 * MOST, 6);
    for (uint32_t v = 0; v < kern_n_usable(); v++)
        for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
            for (int interleaved = 0; interleaved < 2; interleaved++) {
                float a[2 * MOST], b[2 * MOST];
                memcpy(a, x, sizeof(a));
                memcpy(b, x, sizeof(b));
                ref()->rope(a, angles, pairs[i], interleaved);
                kern_usable(v)->rope(b, angles, pairs[i], interleaved);
                expect_bits("rope", kern_usable(v), b, a, 2 * MOST); /* nothing beyond its pairs */
            }
    free(x), free(angles);
}

Test(rope, turns_by_the_angle)
{
    float head[4] = { 1, 2, 3, 4 };
    float cs[4] = { 0, 0, 1, 1 }; /* a quarter turn: (a, b) becomes (-b, a) */
    ref()->rope(head, cs, 2, true);
    cr_assert_arr_eq(head, ((float[]){ -2, 1, -4, 3 }), sizeof(head));
    float half[4] = { 1, 2, 3, 4 };
    ref()->rope(half, cs, 2, false);
    cr_assert_arr_eq(half, ((float[]){ -3, -4, 1, 2 }), sizeof(half));
}
