/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_quantise.h - activations to 8 bits: the part of vector_body.h that quantises, 16 blocks at a time, so
 * that their scales are the lanes of one vector.
 */
#ifndef LACUNA_KERNELS_VECTOR_QUANTISE_H
#define LACUNA_KERNELS_VECTOR_QUANTISE_H

/* Scales below this are divided by: their reciprocals may overflow. */
#define VEC_TINY_SCALE 1e-30f

/* 32 quotients x / d, rounded. */
struct vec_quotients {
    w16 a, b;
};

static struct vec_quotients vec_divide(v16 a, v16 b, float d)
{
    v16 scale = v16_set1(d), top = v16_set1(127.0f), bottom = v16_set1(-127.0f);
    a = v16_max(v16_min(v16_div(a, scale), top), bottom);
    b = v16_max(v16_min(v16_div(b, scale), top), bottom);
    return (struct vec_quotients){ w16_round(a), w16_round(b) };
}

/* The same by a reciprocal, several times faster.  Its error moves only what lies next to the middle of
 * two whole numbers, which is seldom: then divide. */
static inline struct vec_quotients vec_quotients(v16 a, v16 b, float d, float inverse)
{
    const float near_middle = 0.4999f; /* quotients to 127 are off by less than 3e-5 */
    v16 x = v16_mul(a, v16_set1(inverse)), y = v16_mul(b, v16_set1(inverse));
    struct vec_quotients q = { w16_round(x), w16_round(y) };
    v16 off = v16_max(v16_abs(v16_sub(x, v16_from_w16(q.a))),
                      v16_abs(v16_sub(y, v16_from_w16(q.b))));
    return v16_lanes_above(off, v16_set1(near_middle)) ? vec_divide(a, b, d) : q;
}

/* Block `at` of the rows, whatever it holds.  Sums of whole numbers this small are exact in any order. */
static inline void vec_quantise_block(const float *x, struct kern_act *act, size_t at)
{
    v16 a = v16_load(x), b = v16_load(x + 16);
    bool is_finite = v16_all_finite(a) && v16_all_finite(b);
    float d = is_finite ? v16_max_lane(v16_max(v16_abs(a), v16_abs(b))) / 127.0f : NAN;
    struct vec_quotients q = { w16_zero(), w16_zero() };
    if (d > VEC_TINY_SCALE)
        q = vec_quotients(a, b, d, 1.0f / d);
    else if (d > 0.0f)
        q = vec_divide(a, b, d);
    w16_store_int8(act->q + at * KERN_BLOCK, q.a, q.b);
    int32_t sum_a = (int32_t)v16_tree(v16_from_w16(q.a));
    int32_t sum_b = (int32_t)v16_tree(v16_from_w16(q.b));
    act->d[at] = d;
    act->start16[2 * at] = -128 * sum_a;
    act->start16[2 * at + 1] = -128 * sum_b;
    act->start32[at] = -128 * (sum_a + sum_b);
    act->xs16[2 * at] = d * (float)sum_a;
    act->xs16[2 * at + 1] = d * (float)sum_b;
    act->xs32[at] = d * (float)(sum_a + sum_b);
}

enum { VEC_FEW_BLOCKS = 8 }; /* below this one by one is the faster way */

/* Blocks of one row or several. */
struct vec_blocks {
    const float *x[16];
    size_t at[16];
    uint32_t n;
};

/* Their scales, 0 beyond the last; false if one is tiny or no number.  As whole numbers, the bits of
 * magnitudes are in the order of what they stand for, and what is no number comes last. */
static inline bool vec_scales(const struct vec_blocks *b, v16 *scale)
{
    w16 most[16];
    for (uint32_t i = 0; i < b->n; i++)
        most[i] = w16_max(v16_bits(v16_abs(v16_load(b->x[i]))),
                          v16_bits(v16_abs(v16_load(b->x[i] + 16))));
    for (uint32_t i = b->n; i < 16; i++)
        most[i] = w16_zero();
    w16_transpose(most);
    for (uint32_t n = 8; n > 0; n /= 2)
        for (uint32_t i = 0; i < n; i++)
            most[i] = w16_max(most[i], most[i + n]);
    *scale = v16_div(v16_from_bits(most[0]), v16_set1(127.0f));
    uint32_t tiny = ~v16_lanes_above(*scale, v16_set1(VEC_TINY_SCALE)) &
                    v16_lanes_above(*scale, v16_set1(0.0f));
    return v16_all_finite(v16_from_bits(most[0])) && tiny == 0;
}

/* Sums of codes, whole numbers, and what products want of them. */
static inline void vec_store_sums(const struct vec_blocks *b, int8_t (*code)[KERN_BLOCK], v16 scale,
                                  struct kern_act *act)
{
    int32_t sum16[16][2] = { { 0 } };
    float d[16], xs16[16][2];
    v16_store(d, scale);
    for (uint32_t i = 0; i < b->n; i++)
        w16_sum_int8(code[i], sum16[i]);
    for (uint32_t i = 0; i < 16; i += 8)
        v16_store(xs16[i], v16_mul(v16_load_twice(d + i), v16_from_w16(w16_load(sum16[i]))));
    for (uint32_t i = 0; i < b->n; i++) {
        size_t at = b->at[i];
        int32_t sum32 = sum16[i][0] + sum16[i][1];
        act->d[at] = d[i];
        act->start32[at] = -128 * sum32;
        act->xs32[at] = d[i] * (float)sum32;
        act->start16[2 * at] = -128 * sum16[i][0];
        act->start16[2 * at + 1] = -128 * sum16[i][1];
        memcpy(act->xs16 + 2 * at, xs16[i], sizeof(xs16[i]));
    }
}

static inline void vec_quantise_blocks(const struct vec_blocks *b, struct kern_act *act)
{
    v16 scale, zero = v16_set1(0.0f);
    float d[16], inverse[16];
    /* Read again for the sums: rows of activations may compete for the same lines of the cache. */
    int8_t code[16][KERN_BLOCK];
    if (b->n < VEC_FEW_BLOCKS || !vec_scales(b, &scale)) {
        for (uint32_t i = 0; i < b->n; i++)
            vec_quantise_block(b->x[i], act, b->at[i]);
        return;
    }
    v16_store(d, scale);
    v16_store(inverse, v16_select_less(zero, scale, v16_div(v16_set1(1.0f), scale), zero));
    for (uint32_t i = 0; i < b->n; i++) {
        struct vec_quotients q = vec_quotients(v16_load(b->x[i]), v16_load(b->x[i] + 16), d[i],
                                               inverse[i]);
        w16_store_int8(code[i], q.a, q.b);
        w16_store_int8(act->q + b->at[i] * KERN_BLOCK, q.a, q.b);
    }
    vec_store_sums(b, code, scale, act);
}

static void vec_quantise(const float *x, size_t ldx, struct kern_act *act, uint32_t row0,
                         uint32_t row1, uint32_t col0, uint32_t col1)
{
    struct vec_blocks b = { .n = 0 };
    for (size_t r = row0; r < row1; r++, x += ldx)
        for (uint32_t c = col0; c < col1; c += KERN_BLOCK) {
            b.x[b.n] = x + (c - col0);
            b.at[b.n++] = (r * act->n_cols + c) / KERN_BLOCK;
            if (b.n < 16)
                continue;
            vec_quantise_blocks(&b, act);
            b.n = 0;
        }
    if (b.n > 0)
        vec_quantise_blocks(&b, act);
}

#endif
