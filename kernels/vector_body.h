/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_body.h - the float kernels of every vector variant, written once in the sixteen-lane
 * vocabulary of v16_*.h.  A variant includes its vocabulary, panel.h, then this file.
 */
#ifndef LACUNA_KERNELS_VECTOR_BODY_H
#define LACUNA_KERNELS_VECTOR_BODY_H

#include <math.h>
#include <string.h>

static inline v16 vec_exp(v16 x)
{
    v16 n = v16_rint(v16_mul(v16_min(x, v16_set1(KERN_EXP_MAX)), v16_set1(KERN_LOG2_E)));
    n = v16_max(n, v16_set1(-126.0f));
    v16 minus_n = v16_sub(v16_set1(0.0f), n);
    v16 r = v16_fma(minus_n, v16_set1(KERN_LN2_LOW), v16_fma(minus_n, v16_set1(KERN_LN2_HIGH), x));
    v16 p = v16_fma(v16_set1(KERN_EXP_C6), r, v16_set1(KERN_EXP_C5));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C4));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C3));
    p = v16_fma(p, r, v16_set1(KERN_EXP_C2));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    v16 y = v16_mul(p, v16_exp2_whole(n));
    y = v16_select_less(x, v16_set1(KERN_EXP_MIN), v16_set1(0.0f), y);
    return v16_select_less(v16_set1(KERN_EXP_MAX), x, v16_set1(INFINITY), y);
}

/* ---- quantising ---- */

static inline void vec_quantise_block(const float *x, int8_t *q, float *d)
{
    v16 a = v16_load(x), b = v16_load(x + 16);
    *d = v16_max_lane(v16_max(v16_abs(a), v16_abs(b))) / 127.0f;
    if (!(v16_tree(v16_add(v16_sub(a, a), v16_sub(b, b))) == 0.0f))
        *d = NAN;
    if (!(*d > 0.0f)) {
        memset(q, 0, KERN_BLOCK);
        return;
    }
    v16 scale = v16_set1(*d), top = v16_set1(127.0f), bottom = v16_set1(-127.0f);
    a = v16_max(v16_min(v16_div(a, scale), top), bottom);
    b = v16_max(v16_min(v16_div(b, scale), top), bottom);
    v16_store_int8(q, v16_rint(a), v16_rint(b));
}

static void vec_quantise(const float *x, struct kern_act *act, uint32_t row0, uint32_t row1)
{
    size_t n_blocks = act->n_cols / KERN_BLOCK;
    for (size_t at = row0 * n_blocks; at < row1 * n_blocks; at++) {
        int8_t *q = act->q + at * KERN_BLOCK;
        vec_quantise_block(x + at * KERN_BLOCK, q, &act->d[at]);
        int32_t sum[2] = { 0, 0 };
        for (int i = 0; i < KERN_SUM; i++) {
            sum[0] += q[i];
            sum[1] += q[i + KERN_SUM];
        }
        for (size_t h = 0; h < 2; h++) {
            act->sum[2 * at + h] = sum[h];
            act->xs16[2 * at + h] = act->d[at] * (float)sum[h];
        }
        act->xs32[at] = act->d[at] * (float)(sum[0] + sum[1]);
    }
}

/* ---- products with F32, F16 and BF16 weights ---- */

static inline __attribute__((always_inline)) v16 vec_load_weight(enum kern_type type,
                                                                 const uint8_t *row, uint32_t i)
{
    if (type == KERN_TYPE_F32)
        return v16_load((const float *)(const void *)row + i);
    const uint16_t *h = (const uint16_t *)(const void *)row + i;
    return type == KERN_TYPE_F16 ? v16_load_f16(h) : v16_load_bf16(h);
}

static inline v16 vec_load_weight_part(enum kern_type type, const uint8_t *row, uint32_t i,
                                       uint32_t n)
{
    if (type == KERN_TYPE_F32)
        return v16_load_part((const float *)(const void *)row + i, n);
    uint16_t h[16] = { 0 };
    memcpy(h, row + 2 * (size_t)i, 2 * (size_t)n);
    return vec_load_weight(type, (const uint8_t *)h, 0);
}

/* n_r rows by n_t tokens at once; both are constants after inlining. */
static inline __attribute__((always_inline)) void
vec_float_tile(enum kern_type type, const struct kern_matrix *w, size_t r, uint32_t n_r,
               const float *x, size_t t, uint32_t n_t, float *y, size_t ldy)
{
    v16 acc[4][4];
    const uint8_t *row = (const uint8_t *)w->data + r * w->row_bytes;
    const float *xt = x + t * w->n_cols;
    uint32_t whole = w->n_cols / 16 * 16, rest = w->n_cols - whole;

    for (uint32_t i = 0; i < n_r; i++)
        for (uint32_t j = 0; j < n_t; j++)
            acc[i][j] = v16_set1(0.0f);
    for (uint32_t k = 0; k < whole; k += 16) {
        v16 xv[4];
        for (uint32_t j = 0; j < n_t; j++)
            xv[j] = v16_load(xt + (size_t)j * w->n_cols + k);
        for (uint32_t i = 0; i < n_r; i++) {
            v16 wv = vec_load_weight(type, row + i * w->row_bytes, k);
            for (uint32_t j = 0; j < n_t; j++)
                acc[i][j] = v16_fma(wv, xv[j], acc[i][j]);
        }
    }
    for (uint32_t i = 0; i < n_r && rest; i++) {
        v16 wv = vec_load_weight_part(type, row + i * w->row_bytes, whole, rest);
        for (uint32_t j = 0; j < n_t; j++)
            acc[i][j] = v16_fma(wv, v16_load_part(xt + (size_t)j * w->n_cols + whole, rest),
                                acc[i][j]);
    }
    for (uint32_t i = 0; i < n_r; i++)
        for (uint32_t j = 0; j < n_t; j++)
            y[(t + j) * ldy + r + i] = v16_tree(acc[i][j]);
}

/* How many rows and tokens a tile has: as many accumulators as the registers hold. */
static inline __attribute__((always_inline)) void
vec_float_range(enum kern_type type, const struct kern_matrix *w, size_t row0, size_t row1,
                const float *x, size_t t0, size_t t1, float *y, size_t ldy)
{
    size_t t = t0;
    for (; t + VEC_TILE_TOKENS <= t1; t += VEC_TILE_TOKENS) {
        size_t r = row0;
        for (; r + VEC_TILE_ROWS <= row1; r += VEC_TILE_ROWS)
            vec_float_tile(type, w, r, VEC_TILE_ROWS, x, t, VEC_TILE_TOKENS, y, ldy);
        for (; r < row1; r++)
            vec_float_tile(type, w, r, 1, x, t, VEC_TILE_TOKENS, y, ldy);
    }
    for (; t < t1; t++) {
        size_t r = row0;
        for (; r + 4 <= row1; r += 4)
            vec_float_tile(type, w, r, 4, x, t, 1, y, ldy);
        for (; r < row1; r++)
            vec_float_tile(type, w, r, 1, x, t, 1, y, ldy);
    }
}

static void vec_mul_mat_float(const struct kern_matrix *w, size_t row0, size_t row1, const float *x,
                              size_t t0, size_t t1, float *y, size_t ldy)
{
    if (w->type == KERN_TYPE_F32)
        vec_float_range(KERN_TYPE_F32, w, row0, row1, x, t0, t1, y, ldy);
    else if (w->type == KERN_TYPE_F16)
        vec_float_range(KERN_TYPE_F16, w, row0, row1, x, t0, t1, y, ldy);
    else
        vec_float_range(KERN_TYPE_BF16, w, row0, row1, x, t0, t1, y, ldy);
}

static void vec_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                        const struct kern_input *x, uint32_t t0, uint32_t t1, float *y, size_t ldy)
{
    if (kern_type_is_quantised(w->type))
        panel_mul_mat(w, row0, row1, x->act, t0, t1, y, ldy);
    else
        vec_mul_mat_float(w, row0, row1, x->x, t0, t1, y, ldy);
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

static inline __attribute__((always_inline)) void
vec_activate_kind(enum kern_activation kind, const float *gate, const float *up, float *h, size_t n)
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
        acc = v16_add(acc, vec_exp(v16_sub(v16_load(x + i), m)));
    float lane[16];
    v16_store(lane, acc);
    for (; i < n; i++)
        lane[i % 16] += kern_exp(x[i] - *max);
    *sum = v16_tree(v16_load(lane));
}

/* ---- keys and values ---- */

/* Within what F16 holds; a NaN stays one, since the second operand is what a comparison with it
 * gives. */
static inline v16 vec_clamp_f16(v16 x)
{
    return v16_min(v16_set1(KERN_F16_MAX), v16_max(v16_set1(-KERN_F16_MAX), x));
}

static void vec_kv_store(void *page, bool wide, uint32_t page_tokens, uint32_t slot,
                         uint32_t head_dim, const float *k, const float *v)
{
    size_t tile = kern_k_tile(slot, head_dim) + slot % KERN_ATTN_TILE;
    size_t row = kern_v_row(page_tokens, slot, head_dim);
    if (wide) {
        for (uint32_t c = 0; c < head_dim; c++)
            ((float *)page)[tile + (size_t)c * KERN_ATTN_TILE] = k[c];
        memcpy((float *)page + row, v, head_dim * sizeof(float));
        return;
    }
    uint16_t half[16], *out = page;
    for (uint32_t c = 0; c < head_dim; c += 16) {
        v16_store_f16(half, vec_clamp_f16(v16_load(k + c)));
        for (uint32_t i = 0; i < 16; i++)
            out[tile + (size_t)(c + i) * KERN_ATTN_TILE] = half[i];
        v16_store_f16(out + row + c, vec_clamp_f16(v16_load(v + c)));
    }
}

static inline __attribute__((always_inline)) v16 vec_load_kv(const void *page, bool wide, size_t at)
{
    return wide ? v16_load((const float *)page + at) : v16_load_f16((const uint16_t *)page + at);
}

static inline v16 vec_soft_cap(v16 s, float cap)
{
    v16 two = v16_set1(2.0f), one = v16_set1(1.0f);
    v16 e = vec_exp(v16_mul(two, v16_div(s, v16_set1(cap))));
    return v16_mul(v16_set1(cap), v16_sub(one, v16_div(two, v16_add(e, one))));
}

/* Scores of n queries, adjacent in q, against the tile of 32 tokens at an item's token j. */
static inline __attribute__((always_inline)) void
vec_tile_scores(const struct kern_attend *a, bool wide, const float *q, uint32_t n,
                float (*s)[KERN_ATTN_ITEM], uint32_t j)
{
    const void *page = a->pages[j / a->page_tokens];
    size_t tile = kern_k_tile(j % a->page_tokens, a->head_dim);
    v16 acc[VEC_ATTN_QUERIES][2];
    for (uint32_t i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = v16_set1(0.0f);
    for (uint32_t c = 0; c < a->head_dim; c++, tile += KERN_ATTN_TILE) {
        v16 k0 = vec_load_kv(page, wide, tile), k1 = vec_load_kv(page, wide, tile + 16);
        for (uint32_t i = 0; i < n; i++) {
            v16 qc = v16_set1(q[(size_t)i * a->head_dim + c]);
            acc[i][0] = v16_fma(qc, k0, acc[i][0]);
            acc[i][1] = v16_fma(qc, k1, acc[i][1]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        v16_store(s[i] + j, acc[i][0]);
        v16_store(s[i] + j + 16, acc[i][1]);
    }
}

/* o += sum of p v over the tokens [first, end), 16 * n_v channels from c on, for n queries. */
static inline __attribute__((always_inline)) void
vec_value_columns(const struct kern_attend *a, bool wide, float (*p)[KERN_ATTN_ITEM],
                  uint32_t first, uint32_t end, uint32_t c, uint32_t n_v, float *o, uint32_t n)
{
    v16 acc[VEC_ATTN_QUERIES][4];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            acc[i][k] = v16_load(o + (size_t)i * a->head_dim + c + 16 * k);
    for (uint32_t j = first; j < end;) {
        uint32_t slot = j % a->page_tokens;
        uint32_t stop = j - slot + a->page_tokens < end ? j - slot + a->page_tokens : end;
        const void *page = a->pages[j / a->page_tokens];
        size_t row = kern_v_row(a->page_tokens, slot, a->head_dim) + c;
        for (; j < stop; j++, row += a->head_dim)
            for (uint32_t k = 0; k < n_v; k++) {
                v16 vv = vec_load_kv(page, wide, row + 16 * k);
                for (uint32_t i = 0; i < n; i++)
                    acc[i][k] = v16_fma(v16_set1(p[i][j]), vv, acc[i][k]);
            }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            v16_store(o + (size_t)i * a->head_dim + c + 16 * k, acc[i][k]);
}

static inline __attribute__((always_inline)) void vec_values(const struct kern_attend *a, bool wide,
                                                             float (*p)[KERN_ATTN_ITEM],
                                                             uint32_t first, uint32_t end, float *o,
                                                             uint32_t n)
{
    uint32_t c = 0;
    for (; c + 16 * VEC_ATTN_COLUMNS <= a->head_dim; c += 16 * VEC_ATTN_COLUMNS)
        vec_value_columns(a, wide, p, first, end, c, VEC_ATTN_COLUMNS, o, n);
    for (; c < a->head_dim; c += 16)
        vec_value_columns(a, wide, p, first, end, c, 1, o, n);
}

/* Scores become weights: masked, capped, exponentials of the distance to the maximum.  Outside of
 * the query's range a weight is exactly 0, so that it adds nothing to sums shared by queries. */
static inline void vec_weights(const struct kern_attend *a, uint32_t i, float *s, uint32_t from,
                               uint32_t to)
{
    uint32_t first, end;
    kern_attend_range(a, i, &first, &end);
    v16 max = v16_set1(-INFINITY), sum = v16_set1(0.0f);
    for (uint32_t j = from; j < to; j += 16) {
        v16 v = v16_load(s + j);
        if (a->softcap != 0.0f)
            v = vec_soft_cap(v, a->softcap);
        if (j < first || j + 16 > end)
            v = v16_keep_range(v, (int)first - (int)j, (int)end - (int)j);
        max = v16_max(v, max);
        v16_store(s + j, v);
    }
    a->m[i] = v16_max_lane(max);
    max = v16_set1(first < end ? a->m[i] : 0.0f);
    for (uint32_t j = from; j < to; j += 16) {
        v16 p = vec_exp(v16_sub(v16_load(s + j), max));
        sum = v16_add(sum, p);
        v16_store(s + j, p);
    }
    a->l[i] = v16_tree(sum);
}

/* What n adjacent queries see: any of them, all of them. */
struct vec_span {
    uint32_t first[VEC_ATTN_QUERIES], end[VEC_ATTN_QUERIES];
    uint32_t any_first, any_end, all_first, all_end;
};

static inline void vec_find_span(const struct kern_attend *a, uint32_t i, uint32_t n,
                                 struct vec_span *s)
{
    s->any_first = KERN_ATTN_ITEM;
    s->any_end = s->all_first = 0;
    s->all_end = KERN_ATTN_ITEM;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t first, end;
        kern_attend_range(a, i + k, &first, &end);
        s->first[k] = first;
        s->end[k] = end;
        s->any_first = first < end && first < s->any_first ? first : s->any_first;
        s->any_end = first < end && end > s->any_end ? end : s->any_end;
        s->all_first = first > s->all_first ? first : s->all_first;
        s->all_end = end < s->all_end ? end : s->all_end;
    }
    if (s->all_first >= s->all_end) /* nothing in common: each by itself, all before the "end" */
        s->all_first = s->all_end = KERN_ATTN_ITEM;
}

/* A token that one query sees and its neighbour does not is multiplied for the one only: zero times
 * an infinite value would be no number.  Accumulators wait in o between the parts, ascending. */
static inline __attribute__((always_inline)) void
vec_span_values(const struct kern_attend *a, bool wide, float (*p)[KERN_ATTN_ITEM],
                const struct vec_span *s, float *o, uint32_t n)
{
    memset(o, 0, (size_t)n * a->head_dim * sizeof(float));
    for (uint32_t k = 0; k < n; k++) {
        uint32_t stop = s->end[k] < s->all_first ? s->end[k] : s->all_first;
        if (s->first[k] < stop)
            vec_values(a, wide, p + k, s->first[k], stop, o + (size_t)k * a->head_dim, 1);
    }
    if (s->all_first < s->all_end)
        vec_values(a, wide, p, s->all_first, s->all_end, o, n);
    for (uint32_t k = 0; k < n; k++)
        if (s->all_end < s->end[k])
            vec_values(a, wide, p + k, s->all_end, s->end[k], o + (size_t)k * a->head_dim, 1);
}

/* Queries [i, i + n): wide and n are constants after inlining. */
static inline __attribute__((always_inline)) void vec_attend_some(const struct kern_attend *a,
                                                                  bool wide, uint32_t i, uint32_t n)
{
    float s[VEC_ATTN_QUERIES][KERN_ATTN_ITEM] __attribute__((aligned(64)));
    const float *q = a->q + (size_t)i * a->head_dim;
    struct vec_span span;
    vec_find_span(a, i, n, &span);
    uint32_t tile0 = span.any_first - span.any_first % KERN_ATTN_TILE;
    uint32_t tile1 = (span.any_end + KERN_ATTN_TILE - 1) / KERN_ATTN_TILE * KERN_ATTN_TILE;

    for (uint32_t j = tile0; j < tile1; j += KERN_ATTN_TILE)
        vec_tile_scores(a, wide, q, n, s, j);
    for (uint32_t k = 0; k < n; k++)
        vec_weights(a, i + k, s[k], tile0, tile1);
    vec_span_values(a, wide, s, &span, a->o + (size_t)i * a->head_dim, n);
}

static inline __attribute__((always_inline)) void vec_attend_width(const struct kern_attend *a,
                                                                   bool wide)
{
    uint32_t i = 0;
    for (; i + VEC_ATTN_QUERIES <= a->n_q; i += VEC_ATTN_QUERIES)
        vec_attend_some(a, wide, i, VEC_ATTN_QUERIES);
    for (; i < a->n_q; i++)
        vec_attend_some(a, wide, i, 1);
}

static void vec_attend(const struct kern_attend *a)
{
    if (a->wide)
        vec_attend_width(a, true);
    else
        vec_attend_width(a, false);
}

static void vec_attend_fold(float *m, float *l, float *o, float m_i, float l_i, const float *o_i,
                            uint32_t head_dim)
{
    if (m_i == -INFINITY)
        return;
    float max = m_i > *m ? m_i : *m;
    v16 a = v16_set1(kern_exp(*m - max)), b = v16_set1(kern_exp(m_i - max));
    float lane[16];
    v16_store(lane, v16_fma(v16_set1(l_i), b, v16_mul(v16_set1(*l), a)));
    *l = lane[0];
    *m = max;
    for (uint32_t c = 0; c < head_dim; c += 16)
        v16_store(o + c, v16_fma(v16_load(o_i + c), b, v16_mul(v16_load(o + c), a)));
}

static void vec_attend_self(const float *q, const float *k, const float *v, float softcap,
                            uint32_t head_dim, float *m, float *l, float *o)
{
    v16 acc = v16_set1(0.0f);
    for (uint32_t c = 0; c < head_dim; c += 16)
        acc = v16_fma(v16_load(q + c), v16_load(k + c), acc);
    float s = v16_tree(acc), lane[16];
    if (softcap != 0.0f) {
        v16_store(lane, vec_soft_cap(v16_set1(s), softcap));
        s = lane[0];
    }
    vec_attend_fold(m, l, o, s, 1.0f, v, head_dim);
}

#endif
