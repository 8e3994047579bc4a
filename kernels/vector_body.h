/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_body.h - the float kernels of every vector variant, written once in the sixteen-lane
 * vocabulary of v16_*.h.  A variant includes its vocabulary, products.h, then this file.
 */
#ifndef LACUNA_KERNELS_VECTOR_BODY_H
#define LACUNA_KERNELS_VECTOR_BODY_H

#include <math.h>
#include <string.h>

/* exp(x) for x <= 0 (or no number), as softmaxes have it: the same bits for less. */
static inline v16 vec_exp_below(v16 x)
{
    v16 n = v16_max(v16_rint(v16_mul(x, v16_set1(KERN_LOG2_E))), v16_set1(-126.0f));
    v16 r = v16_fnma(n, v16_set1(KERN_LN2_LOW), v16_fnma(n, v16_set1(KERN_LN2_HIGH), x));
    v16 p = v16_fma(v16_set1(KERN_EXP_C6), r, v16_set1(KERN_EXP_C5));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C4));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C3));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C2));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_select_less(x, v16_set1(KERN_EXP_MIN), v16_set1(0.0f), v16_scale(p, n));
}

static inline v16 vec_exp(v16 x)
{
    v16 y = vec_exp_below(v16_min(v16_set1(KERN_EXP_MAX), x)); /* a NaN stays one */
    return v16_select_less(v16_set1(KERN_EXP_MAX), x, v16_set1(INFINITY), y);
}

#include "kernels/vector_quantise.h"
#include "kernels/vector_float.h"

static void vec_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                        const struct kern_input *x, uint32_t t0, uint32_t t1, float *y, size_t ldy)
{
    if (kern_type_is_quantised(w->type))
        quantised_mul_mat(w, row0, row1, x->act, t0, t1, y, ldy);
    else
        vec_mul_mat_float(w, row0, row1, x->x, t0, t1, y, ldy);
}

static void vec_mul_rows(const struct kern_matrix *w, const uint32_t *rows, uint32_t n_rows,
                         const struct kern_input *x, uint32_t t, float *y)
{
    if (kern_type_is_quantised(w->type))
        quantised_mul_rows(w, rows, n_rows, x->act, t, y);
    else
        for (uint32_t i = 0; i < n_rows; i++)
            vec_mul_mat_float(w, rows[i], rows[i] + 1, x->x, t, t + 1, y + i, 1);
}

/* ---- norms and activations ---- */

static inline float vec_sum_squares(const float *x, uint32_t n)
{
    v16 acc = v16_set1(0.0f);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v = v16_load(x + i);
        acc = v16_fma(v, v, acc);
    }
    if (i < n) {
        v16 v = v16_load_part(x + i, n - i);
        acc = v16_fma(v, v, acc);
    }
    return v16_tree(acc);
}

static void vec_rms_norm(const float *x, const float *weight, float eps, uint32_t n, float *y)
{
    float scale = 1.0f / sqrtf(vec_sum_squares(x, n) / (float)n + eps);
    v16 s = v16_set1(scale);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), s), v16_load(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void vec_add_scaled(float *y, const float *x, float scale, size_t n)
{
    v16 s = v16_set1(scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(y + i, v16_fma(v16_load(x + i), s, v16_load(y + i)));
    if (i < n)
        v16_store_part(y + i, v16_fma(v16_load_part(x + i, n - i), s, v16_load_part(y + i, n - i)),
                       n - i);
}

static inline void vec_rope_halves(float *head, const float *cos_sin, uint32_t n_pairs)
{
    uint32_t i = 0;
    for (; i + 16 <= n_pairs; i += 16) {
        v16 x = v16_load(head + i), y = v16_load(head + n_pairs + i);
        v16 c = v16_load(cos_sin + i), s = v16_load(cos_sin + n_pairs + i);
        v16_store(head + i, v16_fma(v16_neg(s), y, v16_mul(x, c)));
        v16_store(head + n_pairs + i, v16_fma(s, x, v16_mul(y, c)));
    }
    for (; i < n_pairs; i++) {
        float x = head[i], y = head[n_pairs + i], c = cos_sin[i], s = cos_sin[n_pairs + i];
        head[i] = fmaf(-s, y, x * c);
        head[n_pairs + i] = fmaf(s, x, y * c);
    }
}

static void vec_rope(float *head, const float *cos_sin, uint32_t n_pairs, bool interleaved)
{
    if (!interleaved) {
        vec_rope_halves(head, cos_sin, n_pairs);
        return;
    }
    uint32_t i = 0;
    for (; i + 8 <= n_pairs; i += 8) {
        v16 v = v16_load(head + 2 * i), c = v16_load_twice(cos_sin + i);
        v16 s = v16_neg_even(v16_load_twice(cos_sin + n_pairs + i));
        v16_store(head + 2 * i, v16_fma(s, v16_swap_pairs(v), v16_mul(v, c)));
    }
    for (; i < n_pairs; i++) {
        float *pair = head + 2 * i, x = pair[0], y = pair[1];
        float c = cos_sin[i], s = cos_sin[n_pairs + i];
        pair[0] = fmaf(-s, y, x * c);
        pair[1] = fmaf(s, x, y * c);
    }
}

static inline v16 vec_activation(enum kern_activation kind, v16 x)
{
    v16 one = v16_set1(1.0f), zero = v16_set1(0.0f);
    v16 positive = v16_max(x, zero);
    switch (kind) {
    case KERN_ACTIVATION_SILU:
        return v16_div(x, v16_add(one, vec_exp(v16_sub(zero, x))));
    case KERN_ACTIVATION_GELU: {
        v16 u = v16_fma(v16_mul(v16_mul(v16_set1(KERN_GELU_CUBIC), x), x), x, x);
        v16 e = vec_exp(v16_mul(v16_set1(-2.0f * KERN_SQRT_2_OVER_PI), u));
        return v16_div(x, v16_add(one, e));
    }
    case KERN_ACTIVATION_RELU:
        return positive;
    case KERN_ACTIVATION_RELU2:
        return v16_mul(positive, positive);
    }
    return x;
}

KERN_INLINE void vec_activate_kind(enum kern_activation kind, const float *gate, const float *up,
                                   float *h, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 a = vec_activation(kind, v16_load(gate + i));
        v16_store(h + i, up ? v16_mul(a, v16_load(up + i)) : a);
    }
    if (i < n) {
        v16 a = vec_activation(kind, v16_load_part(gate + i, n - i));
        v16_store_part(h + i, up ? v16_mul(a, v16_load_part(up + i, n - i)) : a, n - i);
    }
}

static void vec_activate(enum kern_activation kind, const float *gate, const float *up, float *h,
                         size_t n)
{
    switch (kind) {
    case KERN_ACTIVATION_SILU:
        vec_activate_kind(KERN_ACTIVATION_SILU, gate, up, h, n);
        break;
    case KERN_ACTIVATION_GELU:
        vec_activate_kind(KERN_ACTIVATION_GELU, gate, up, h, n);
        break;
    case KERN_ACTIVATION_RELU:
        vec_activate_kind(KERN_ACTIVATION_RELU, gate, up, h, n);
        break;
    case KERN_ACTIVATION_RELU2:
        vec_activate_kind(KERN_ACTIVATION_RELU2, gate, up, h, n);
        break;
    }
}

/* ---- neurons that count for little ---- */

static void vec_drop_below(float *x, const float *weight, float limit, size_t n)
{
    v16 zero = v16_set1(0.0f), least = v16_set1(limit);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v = v16_load(x + i);
        v16_store(x + i,
                  v16_select_less(v16_mul(v16_abs(v), v16_load(weight + i)), least, zero, v));
    }
    for (; i < n; i++)
        if (fabsf(x[i]) * weight[i] < limit)
            x[i] = 0.0f;
}

static uint32_t vec_list_nonzero(const float *x, uint32_t n, uint32_t *list)
{
    v16 zero = v16_set1(0.0f);
    uint32_t n_listed = 0, i = 0;
    for (; i + 16 <= n; i += 16)
        for (uint32_t set = v16_lanes_above(v16_abs(v16_load(x + i)), zero); set; set &= set - 1)
            list[n_listed++] = i + (uint32_t)__builtin_ctz(set);
    for (; i < n; i++)
        if (fabsf(x[i]) > 0.0f)
            list[n_listed++] = i;
    return n_listed;
}

/* ---- looking through logits ---- */

static uint32_t vec_first_above(const float *x, uint32_t from, uint32_t n, float limit)
{
    v16 bound = v16_set1(limit);
    uint32_t i = from;
    for (; i + 16 <= n; i += 16) {
        uint32_t above = v16_lanes_above(v16_load(x + i), bound);
        if (above)
            return i + (uint32_t)__builtin_ctz(above);
    }
    while (i < n && !(x[i] > limit))
        i++;
    return i;
}

static uint32_t vec_max_index(const float *x, uint32_t n)
{
    v16 max[4] = { v16_set1(-INFINITY), v16_set1(-INFINITY), v16_set1(-INFINITY),
                   v16_set1(-INFINITY) };
    uint32_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (uint32_t k = 0; k < 4; k++)
            max[k] = v16_max(v16_load(x + i + 16 * k), max[k]);
    float most = v16_max_lane(v16_max(v16_max(max[0], max[1]), v16_max(max[2], max[3])));
    for (; i < n; i++)
        most = x[i] > most ? x[i] : most;
    /* The first that is as large is the first above the number before it. */
    uint32_t at = most == -INFINITY ? n : vec_first_above(x, 0, n, nextafterf(most, -INFINITY));
    for (i = 0; at == n && i < n; i++)
        at = x[i] == most ? i : at;
    return at == n ? 0 : at;
}

static bool vec_all_finite(const float *x, uint32_t n)
{
    v16 sum[4] = { v16_set1(0.0f), v16_set1(0.0f), v16_set1(0.0f), v16_set1(0.0f) };
    uint32_t i = 0;
    /* x - x is 0, or NaN for what is not finite. */
    for (; i + 64 <= n; i += 64)
        for (uint32_t k = 0; k < 4; k++) {
            v16 v = v16_load(x + i + 16 * k);
            sum[k] = v16_add(sum[k], v16_sub(v, v));
        }
    float rest = v16_tree(v16_add(v16_add(sum[0], sum[1]), v16_add(sum[2], sum[3])));
    for (; i < n; i++)
        rest += x[i] - x[i];
    return rest == 0.0f;
}

/* ---- what the processor can do ---- */

static uint64_t vec_peak(enum kern_peak kind, uint32_t n)
{
    static const int8_t q[4] = { 1, -2, 3, 5 };
    const int max = 15;
    uint32_t run = dot_run(max, 8); /* as in a group of 32 */
    w16 u = w16_set1(0x01020304), part[VEC_PEAK_SUMS];
    v16 a = v16_set1(0.5f), acc[VEC_PEAK_SUMS];
    for (uint32_t i = 0; i < VEC_PEAK_SUMS; i++) {
        part[i] = w16_dot_begin(w16_zero(), max);
        acc[i] = v16_set1((float)i);
    }
    for (uint32_t k = 0; k < n && kind == KERN_PEAK_INT8; k++) {
        for (uint32_t i = 0; i < VEC_PEAK_SUMS; i++) {
            u = w16_opaque(u); /* or one product would do for all */
            part[i] = w16_opaque(w16_dot_step(part[i], u, q, max));
        }
        for (uint32_t i = 0; i < VEC_PEAK_SUMS && k % run == run - 1; i++)
            part[i] = w16_dot_begin(w16_opaque(w16_dot_end(part[i], w16_zero(), max)), max);
    }
    for (uint32_t k = 0; k < n && kind == KERN_PEAK_F32; k++)
        for (uint32_t i = 0; i < VEC_PEAK_SUMS; i++)
            acc[i] = v16_fma(acc[i], a, a);
    volatile float sink = 0.0f; /* or all of it could be left out */
    for (uint32_t i = 0; i < VEC_PEAK_SUMS; i++)
        sink += v16_tree(v16_add(acc[i], v16_from_w16(part[i])));
    (void)sink;
    return (uint64_t)n * VEC_PEAK_SUMS * (kind == KERN_PEAK_INT8 ? 64 : 16);
}

static uint64_t vec_read(const void *p, size_t bytes)
{
    const uint8_t *at = p, *end = at + bytes / 64 * 64;
    w16 sum[4] = { w16_zero(), w16_zero(), w16_zero(), w16_zero() };
    for (; at + 256 <= end; at += 256)
        for (size_t i = 0; i < 4; i++) {
            prefetch_stream(at + 64 * i + PANEL_AHEAD, 1);
            sum[i] = w16_add(sum[i], w16_load(at + 64 * i));
        }
    for (; at < end; at += 64)
        sum[0] = w16_add(sum[0], w16_load(at));
    return (uint64_t)v16_tree(
        v16_abs(v16_from_w16(w16_add(w16_add(sum[0], sum[1]), w16_add(sum[2], sum[3])))));
}

static void vec_max_sum_exp(const float *x, size_t n, float *max, float *sum)
{
    v16 m = v16_set1(-INFINITY), acc = v16_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        m = v16_max(v16_load(x + i), m);
    *max = v16_max_lane(m);
    for (; i < n; i++)
        *max = x[i] > *max ? x[i] : *max;
    m = v16_set1(*max);
    for (i = 0; i + 16 <= n; i += 16)
        acc = v16_add(acc, vec_exp_below(v16_sub(v16_load(x + i), m)));
    float lane[16];
    v16_store(lane, acc);
    for (; i < n; i++)
        lane[i % 16] += kern_exp(x[i] - *max);
    *sum = v16_tree(v16_load(lane));
}

static float vec_sum_exp_diff(const float *p, const float *q, size_t n, float max)
{
    v16 m = v16_set1(max), acc = v16_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 a = v16_load(p + i);
        acc = v16_fma(vec_exp_below(v16_sub(a, m)), v16_sub(a, v16_load(q + i)), acc);
    }
    float lane[16];
    v16_store(lane, acc);
    for (; i < n; i++)
        lane[i % 16] = fmaf(kern_exp(p[i] - max), p[i] - q[i], lane[i % 16]);
    return v16_tree(v16_load(lane));
}

#include "kernels/vector_attend.h"

/* What a variant offers: all of it is written in its vocabulary. */
#define VEC_TABLE(isa)                                                                             \
    {                                                                                              \
        .name = (isa), .dequantise = ref_dequantise, .quantise = vec_quantise,                     \
        .mul_mat = vec_mul_mat, .mul_rows = vec_mul_rows, .rms_norm = vec_rms_norm,                \
        .add_scaled = vec_add_scaled, .activate = vec_activate, .rope = vec_rope,                  \
        .drop_below = vec_drop_below, .list_nonzero = vec_list_nonzero, .kv_store = vec_kv_store,  \
        .kv_seal = vec_kv_seal, .kv_bounds = vec_kv_bounds, .score_pages = vec_score_pages,        \
        .attend = vec_attend, .attend_fold = vec_attend_fold, .attend_last = vec_attend_last,      \
        .max_index = vec_max_index, .first_above = vec_first_above, .all_finite = vec_all_finite,  \
        .peak = vec_peak, .read = vec_read, .max_sum_exp = vec_max_sum_exp,                        \
        .sum_exp_diff = vec_sum_exp_diff                                                           \
    }

#endif
