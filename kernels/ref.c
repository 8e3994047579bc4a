/* SPDX-License-Identifier: Apache-2.0
 *
 * ref.c - the scalar truth: every kernel as plain loops in the canonical order of kernels.h.  Slow
 * on purpose, never deleted: all variants must give its bits.  Attention is in ref_attend.c.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/unpack.h"

/* The tree of kernels.h over 16 lanes. */
float ref_tree(const float *lane)
{
    float t[16];
    memcpy(t, lane, sizeof(t));
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            t[i] += t[i + half];
    return t[0];
}

static float load_float(enum kern_type type, const void *src, size_t i)
{
    if (type == KERN_TYPE_F32)
        return ((const float *)src)[i];
    uint16_t h = ((const uint16_t *)src)[i];
    return type == KERN_TYPE_F16 ? kern_f16_to_f32(h) : kern_bf16_to_f32(h);
}

/* The values of n unpacked weights, at most UNPACK_VALUES. */
static void values_of(enum kern_type type, const struct unpacked *w, uint32_t n, float *dst)
{
    float zero = (float)unpack_zero(type);
    for (uint32_t j = 0; j < n; j++) {
        uint32_t g = j / unpack_group(type);
        dst[j] = w->s[g] * ((float)w->u[j] - zero);
        if (unpack_has_min(type))
            dst[j] += w->m[g];
    }
}

static uint32_t min_u32(size_t a, uint32_t b)
{
    return a < b ? (uint32_t)a : b;
}

static void dequantise_blocks(enum kern_type type, const uint8_t *src, float *dst, size_t n)
{
    const struct kern_type_info *info = kern_type_info(type);
    uint8_t u[UNPACK_VALUES];
    float s[UNPACK_GROUPS], m[UNPACK_GROUPS];
    struct unpacked out = { .u = u, .s = s, .m = m, .stride = 1 };
    for (size_t i = 0; i < n; i += UNPACK_VALUES) {
        uint32_t here = min_u32(n - i, UNPACK_VALUES);
        unpack(type, src + i / info->block_values * info->block_bytes, here, &out);
        values_of(type, &out, here, dst + i);
    }
}

static void dequantise_packed(const struct kern_matrix *w, uint32_t row, float *dst)
{
    uint8_t u[UNPACK_VALUES];
    float s[UNPACK_GROUPS], m[UNPACK_GROUPS];
    struct unpacked out = { .u = u, .s = s, .m = m, .stride = 1 };
    for (uint32_t i = 0; i < w->n_cols; i += UNPACK_VALUES) {
        uint32_t here = min_u32(w->n_cols - i, UNPACK_VALUES);
        packed_unpack(w, row, i, here, &out);
        values_of(w->type, &out, here, dst + i);
    }
}

void kern_row(const struct kern_matrix *w, uint32_t row, float *dst)
{
    if (w->layout != KERN_LAYOUT_ROWS)
        dequantise_packed(w, row, dst);
    else
        ref_dequantise(w->type, (const uint8_t *)w->data + row * w->row_bytes, dst, w->n_cols);
}

void ref_dequantise(enum kern_type type, const void *src, float *dst, size_t n)
{
    if (kern_type_is_quantised(type)) {
        dequantise_blocks(type, src, dst, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        dst[i] = load_float(type, src, i);
}

static void quantise_block(const float *x, int8_t *q, float *d)
{
    float max = 0.0f, sum = 0.0f;
    for (int i = 0; i < KERN_BLOCK; i++) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        sum += x[i] - x[i];
    }
    *d = sum == 0.0f ? max / 127.0f : NAN;
    for (int i = 0; i < KERN_BLOCK; i++) {
        float v = *d > 0.0f ? x[i] / *d : 0.0f;
        v = v < 127.0f ? v : 127.0f; /* the quotient of a subnormal scale can exceed it */
        v = v > -127.0f ? v : -127.0f;
        q[i] = (int8_t)rintf(v);
    }
}

static void quantise_row(const float *x, const struct kern_act *act, size_t row, uint32_t col0,
                         uint32_t col1)
{
    uint32_t n = act->n_cols;
    for (uint32_t col = col0; col < col1; col += KERN_BLOCK) {
        int8_t *q = act->q + row * n + col;
        size_t at = (row * n + col) / KERN_BLOCK;
        quantise_block(x + (col - col0), q, &act->d[at]);
        int32_t sum[2] = { 0, 0 };
        for (int i = 0; i < KERN_BLOCK; i++)
            sum[i / 16] += q[i];
        for (size_t h = 0; h < 2; h++) {
            act->start16[2 * at + h] = -128 * sum[h];
            act->xs16[2 * at + h] = act->d[at] * (float)sum[h];
        }
        act->start32[at] = -128 * (sum[0] + sum[1]);
        act->xs32[at] = act->d[at] * (float)(sum[0] + sum[1]);
    }
}

static void ref_quantise(const float *x, size_t ldx, struct kern_act *act, uint32_t row0,
                         uint32_t row1, uint32_t col0, uint32_t col1)
{
    for (uint32_t r = row0; r < row1; r++)
        quantise_row(x + (r - row0) * ldx, act, r, col0, col1);
}

static float dot_float(const struct kern_matrix *w, const void *row, const float *x)
{
    float lane[16] = { 0 };
    for (uint32_t i = 0; i < w->n_cols; i++)
        lane[i % 16] = fmaf(load_float(w->type, row, i), x[i], lane[i % 16]);
    return ref_tree(lane);
}

/* Adds the products of up to 256 weights, unpacked, with activations from column `col` on. */
static float dot_unpacked(const struct kern_type_info *info, int zero, const struct unpacked *w,
                          const struct kern_act *act, size_t t, uint32_t col, uint32_t n, float acc)
{
    uint32_t size = info->group_values;
    const int8_t *q = act->q + t * act->n_cols + col;
    for (uint32_t g = 0; g < n / size; g++) {
        uint32_t at = col + g * size;
        int32_t dot = 0;
        for (uint32_t i = 0; i < size; i++)
            dot += (w->u[g * size + i] - zero) * q[g * size + i];
        float d = act->d[t * (act->n_cols / KERN_BLOCK) + at / KERN_BLOCK];
        acc = fmaf(w->s[g] * d, (float)dot, acc);
        if (!info->has_min)
            continue;
        const float *xs = size == 32 ? act->xs32 : act->xs16;
        acc = fmaf(w->m[g], xs[t * (act->n_cols / size) + at / size], acc);
    }
    return acc;
}

static float dot_quantised(const struct kern_matrix *w, size_t r, const struct kern_act *act,
                           size_t t)
{
    const uint8_t *row = (const uint8_t *)w->data + r * w->row_bytes;
    const struct kern_type_info *info = kern_type_info(w->type);
    uint8_t u[UNPACK_VALUES];
    float s[UNPACK_GROUPS], m[UNPACK_GROUPS];
    struct unpacked out = { .u = u, .s = s, .m = m, .stride = 1 };
    float acc = 0.0f;
    for (uint32_t col = 0; col < w->n_cols; col += UNPACK_VALUES) {
        uint32_t n = min_u32(w->n_cols - col, UNPACK_VALUES);
        if (w->layout != KERN_LAYOUT_ROWS)
            packed_unpack(w, r, col, n, &out);
        else
            unpack(w->type, row + col / info->block_values * (size_t)info->block_bytes, n, &out);
        acc = dot_unpacked(info, unpack_zero(w->type), &out, act, t, col, n, acc);
    }
    return acc;
}

static void ref_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                        const struct kern_input *x, uint32_t t0, uint32_t t1, float *y, size_t ldy)
{
    bool quantised = kern_type_is_quantised(w->type);
    for (size_t r = row0; r < row1; r++) {
        const uint8_t *row = (const uint8_t *)w->data + r * w->row_bytes;
        for (size_t t = t0; t < t1; t++)
            y[(t - t0) * ldy + (r - row0)] = quantised ? dot_quantised(w, r, x->act, t)
                                                       : dot_float(w, row, x->x + t * w->n_cols);
    }
}

static void ref_mul_rows(const struct kern_matrix *w, const uint32_t *rows, uint32_t n_rows,
                         const struct kern_input *x, uint32_t t, float *y)
{
    for (uint32_t i = 0; i < n_rows; i++)
        ref_mul_mat(w, rows[i], rows[i] + 1, x, t, t + 1, y + i, 1);
}

static void ref_rms_norm(const float *x, const float *weight, float eps, uint32_t n, float *y)
{
    float lane[16] = { 0 };
    for (uint32_t i = 0; i < n; i++)
        lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    float scale = 1.0f / sqrtf(ref_tree(lane) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void ref_add_scaled(float *y, const float *x, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(x[i], scale, y[i]);
}

static float activation(enum kern_activation kind, float x)
{
    float positive = x > 0.0f ? x : 0.0f;
    switch (kind) {
    case KERN_ACTIVATION_SILU:
        return x / (1.0f + kern_exp(-x));
    case KERN_ACTIVATION_GELU: { /* x * sigmoid(2 u) is 0.5 x (1 + tanh u) */
        float u = fmaf(KERN_GELU_CUBIC * x * x, x, x);
        return x / (1.0f + kern_exp(-2.0f * KERN_SQRT_2_OVER_PI * u));
    }
    case KERN_ACTIVATION_RELU:
        return positive;
    case KERN_ACTIVATION_RELU2:
        return positive * positive;
    }
    return x;
}

static void ref_activate(enum kern_activation kind, const float *gate, const float *up, float *h,
                         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float a = activation(kind, gate[i]);
        h[i] = up ? a * up[i] : a;
    }
}

static void ref_rope(float *head, const float *cos_sin, uint32_t n_pairs, bool interleaved)
{
    for (uint32_t i = 0; i < n_pairs; i++) {
        float *a = interleaved ? head + 2 * i : head + i;
        float *b = interleaved ? a + 1 : a + n_pairs;
        float c = cos_sin[i], s = cos_sin[n_pairs + i];
        float x = *a, y = *b;
        *a = fmaf(-s, y, x * c);
        *b = fmaf(s, x, y * c);
    }
}

static void ref_drop_below(float *x, const float *weight, float limit, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) * weight[i] < limit)
            x[i] = 0.0f;
}

static uint32_t ref_list_nonzero(const float *x, uint32_t n, uint32_t *list)
{
    uint32_t n_listed = 0;
    for (uint32_t i = 0; i < n; i++)
        if (fabsf(x[i]) > 0.0f)
            list[n_listed++] = i;
    return n_listed;
}

static uint64_t ref_peak(enum kern_peak kind, uint32_t n)
{
    volatile float f = 1.0f;
    volatile int32_t i = 1;
    for (uint32_t k = 0; k < n; k++) {
        if (kind == KERN_PEAK_INT8)
            i = i * 3 + 1;
        else
            f = fmaf(f, 0.5f, 1.0f);
    }
    return n;
}

static uint64_t ref_read(const void *p, size_t bytes)
{
    uint64_t sum = 0, word;
    for (size_t i = 0; i < bytes / 64 * 64; i += sizeof(word)) {
        memcpy(&word, (const uint8_t *)p + i, sizeof(word));
        sum += word;
    }
    return sum;
}

static uint32_t ref_max_index(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = x[i] > x[best] || (isnan(x[best]) && !isnan(x[i])) ? i : best;
    return isnan(x[best]) ? 0 : best;
}

static uint32_t ref_first_above(const float *x, uint32_t from, uint32_t n, float limit)
{
    while (from < n && !(x[from] > limit))
        from++;
    return from;
}

static bool ref_all_finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void ref_max_sum_exp(const float *x, size_t n, float *max, float *sum)
{
    float lane[16] = { 0 };
    *max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        *max = x[i] > *max ? x[i] : *max;
    for (size_t i = 0; i < n; i++)
        lane[i % 16] += kern_exp(x[i] - *max);
    *sum = ref_tree(lane);
}

static float ref_sum_exp_diff(const float *p, const float *q, size_t n, float max)
{
    float lane[16] = { 0 };
    for (size_t i = 0; i < n; i++)
        lane[i % 16] = fmaf(kern_exp(p[i] - max), p[i] - q[i], lane[i % 16]);
    return ref_tree(lane);
}

const struct kern_table kern_ref = {
    .name = "ref",
    .dequantise = ref_dequantise,
    .quantise = ref_quantise,
    .mul_mat = ref_mul_mat,
    .mul_rows = ref_mul_rows,
    .rms_norm = ref_rms_norm,
    .add_scaled = ref_add_scaled,
    .activate = ref_activate,
    .drop_below = ref_drop_below,
    .list_nonzero = ref_list_nonzero,
    .rope = ref_rope,
    .kv_store = ref_kv_store,
    .kv_seal = ref_kv_seal,
    .kv_bounds = ref_kv_bounds,
    .score_pages = ref_score_pages,
    .attend = ref_attend,
    .attend_fold = ref_attend_fold,
    .attend_last = ref_attend_last,
    .max_index = ref_max_index,
    .first_above = ref_first_above,
    .all_finite = ref_all_finite,
    .peak = ref_peak,
    .read = ref_read,
    .max_sum_exp = ref_max_sum_exp,
    .sum_exp_diff = ref_sum_exp_diff,
};
