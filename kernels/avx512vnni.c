/* SPDX-License-Identifier: Apache-2.0
 *
 * avx512vnni.c - AVX-512 (F, BW, DQ, VL) with VNNI: a register holds one dword of each of the 16
 * rows of a panel; vpdpbusd multiplies it with four activations broadcast from memory.
 */
#include <string.h>

#include "kernels/v16_avx512.h"

enum {
    VEC_TILE_ROWS = 4,
    VEC_TILE_TOKENS = 4,
    VEC_ATTN_QUERIES = 4,
    VEC_ATTN_COLUMNS = 4,
};

static inline __m512i broadcast_dword(const int8_t *p)
{
    int32_t word;
    memcpy(&word, p, sizeof(word));
    return _mm512_set1_epi32(word);
}

/* See vector_attend.h. */
static inline __attribute__((always_inline)) void vec_tile_dots(const uint8_t *tile,
                                                                const int8_t *code,
                                                                size_t code_step, uint32_t head_dim,
                                                                uint32_t n, v16 (*dot)[2])
{
    __m512i sum[VEC_ATTN_QUERIES][2];
    for (uint32_t i = 0; i < n; i++)
        sum[i][0] = sum[i][1] = _mm512_setzero_si512();
    for (uint32_t c = 0; c < head_dim; c += 4, tile += 128) {
        __m512i u0 = _mm512_loadu_si512(tile), u1 = _mm512_loadu_si512(tile + 64);
        for (uint32_t i = 0; i < n; i++) {
            __m512i q = broadcast_dword(code + i * code_step + c);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], u0, q);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], u1, q);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < 2; h++)
            dot[i][h] = _mm512_cvtepi32_ps(sum[i][h]);
}

#include "kernels/panel.h"
#include "kernels/vector_body.h"

/* 16 rows of 64 bytes to 16 registers of one dword per row. */
static inline void transpose_dwords(__m512i v[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* v[4a + k] holds, per 128-bit lane l, dword 4l + k of rows 4a .. 4a + 3. */
    for (int k = 0; k < 4; k++) {
        __m512i a = _mm512_shuffle_i32x4(v[k], v[4 + k], 0x88);
        __m512i b = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0x88);
        __m512i c = _mm512_shuffle_i32x4(v[k], v[4 + k], 0xdd);
        __m512i d = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0xdd);
        t[k] = _mm512_shuffle_i32x4(a, b, 0x88);
        t[8 + k] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[4 + k] = _mm512_shuffle_i32x4(c, d, 0x88);
        t[12 + k] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        v[i] = t[i];
}

static void panel_transpose(const uint8_t (*rows)[UNPACK_VALUES], uint8_t *u)
{
    for (int c = 0; c < UNPACK_VALUES; c += 64) {
        __m512i v[16];
        for (int i = 0; i < 16; i++)
            v[i] = _mm512_load_si512(rows[i] + c);
        transpose_dwords(v);
        for (int i = 0; i < 16; i++)
            _mm512_store_si512(u + 16 * c + 64 * i, v[i]);
    }
}

/* What the tile kernel needs of n_t adjacent tokens. */
struct tile {
    const int8_t *q;
    const float *d, *xs;
    const int32_t *sum;
    size_t q_step, d_step, sum_step, xs_step; /* from one token to the next */
};

static inline struct tile tile_at(const struct panel *p, const struct kern_act *act, size_t t)
{
    size_t k = act->n_cols, group = p->info->group_values;
    const float *xs = group == 32 ? act->xs32 : act->xs16;
    return (struct tile){ .q = act->q + t * k + p->col,
                          .d = act->d + (t * k + p->col) / KERN_BLOCK,
                          .sum = act->sum + (t * k + p->col) / KERN_SUM,
                          .xs = xs + (t * k + p->col) / group,
                          .q_step = k,
                          .d_step = k / KERN_BLOCK,
                          .sum_step = k / KERN_SUM,
                          .xs_step = k / group };
}

/* One group of all 16 rows for n_t tokens: exact integer sums, then the canonical fma's. */
static inline __attribute__((always_inline)) void group_step(const struct panel *p,
                                                             const struct tile *x, uint32_t g,
                                                             uint32_t size, int zero, bool has_min,
                                                             uint32_t n_t, __m512 *acc)
{
    __m512i sum[8];
    const uint8_t *u = p->u + (size_t)g * size * KERN_PANEL_ROWS;
    for (uint32_t t = 0; t < n_t; t++) {
        const int32_t *s = x->sum + t * x->sum_step + (size_t)g * (size / KERN_SUM);
        sum[t] = _mm512_setzero_si512();
        if (zero)
            sum[t] = _mm512_set1_epi32(-zero * (size == 32 ? s[0] + s[1] : s[0]));
    }
    for (uint32_t i = 0; i < size / 4; i++) {
        __m512i w = _mm512_load_si512(u + (size_t)i * 64);
        for (uint32_t t = 0; t < n_t; t++)
            sum[t] = _mm512_dpbusd_epi32(
                sum[t], w, broadcast_dword(x->q + t * x->q_step + (size_t)g * size + 4 * i));
    }
    __m512 scale = _mm512_load_ps(p->s + (size_t)g * KERN_PANEL_ROWS);
    for (uint32_t t = 0; t < n_t; t++) {
        __m512 d = _mm512_set1_ps(x->d[t * x->d_step + g * size / KERN_BLOCK]);
        acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, d), _mm512_cvtepi32_ps(sum[t]), acc[t]);
    }
    if (!has_min)
        return;
    __m512 min = _mm512_load_ps(p->m + (size_t)g * KERN_PANEL_ROWS);
    for (uint32_t t = 0; t < n_t; t++)
        acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(x->xs[t * x->xs_step + g]), acc[t]);
}

static inline __attribute__((always_inline)) void product_tile(const struct panel *p,
                                                               const struct tile *x, uint32_t size,
                                                               int zero, bool has_min, uint32_t n_t,
                                                               float *y, size_t ldy, __mmask16 rows)
{
    __m512 acc[8];
    for (uint32_t t = 0; t < n_t; t++)
        acc[t] = p->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y + t * ldy);
    for (uint32_t g = 0; g < p->n_cols / size; g++)
        group_step(p, x, g, size, zero, has_min, n_t, acc);
    for (uint32_t t = 0; t < n_t; t++)
        _mm512_mask_storeu_ps(y + t * ldy, rows, acc[t]);
}

static inline __attribute__((always_inline)) void
product_tokens(const struct panel *p, const struct kern_act *act, size_t t0, size_t t1, float *y,
               size_t ldy, uint32_t n_rows, uint32_t size, int zero, bool has_min)
{
    __mmask16 rows = (__mmask16)((1u << n_rows) - 1);
    size_t t = t0;
    for (; t + 8 <= t1; t += 8) {
        struct tile x = tile_at(p, act, t);
        product_tile(p, &x, size, zero, has_min, 8, y + t * ldy, ldy, rows);
    }
    for (; t + 4 <= t1; t += 4) {
        struct tile x = tile_at(p, act, t);
        product_tile(p, &x, size, zero, has_min, 4, y + t * ldy, ldy, rows);
    }
    for (; t < t1; t++) {
        struct tile x = tile_at(p, act, t);
        product_tile(p, &x, size, zero, has_min, 1, y + t * ldy, ldy, rows);
    }
}

/* Group size and minimum as constants; the zero point is cheap enough to stay a variable. */
static void panel_product(const struct panel *p, const struct kern_act *act, size_t t0, size_t t1,
                          float *y, size_t ldy, uint32_t n_rows)
{
    int zero = unpack_zero(p->type);
    if (p->info->group_values == 16 && p->info->has_min)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 16, 0, true);
    else if (p->info->group_values == 16)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 16, zero, false);
    else if (p->info->has_min)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 32, 0, true);
    else
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 32, zero, false);
}

const struct kern_table kern_avx512vnni = {
    .name = "avx512vnni",
    .dequantise = ref_dequantise,
    .quantise = vec_quantise,
    .mul_mat = vec_mul_mat,
    .rms_norm = vec_rms_norm,
    .add_scaled = vec_add_scaled,
    .activate = vec_activate,
    .rope = ref_rope,
    .kv_store = vec_kv_store,
    .kv_seal = vec_kv_seal,
    .attend = vec_attend,
    .attend_fold = vec_attend_fold,
    .attend_self = vec_attend_self,
    .max_sum_exp = vec_max_sum_exp,
};
