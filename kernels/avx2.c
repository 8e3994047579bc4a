/* SPDX-License-Identifier: Apache-2.0
 *
 * avx2.c - AVX2 with FMA and F16C.  A register holds one dword of eight rows; a panel is two
 * halves.
 *
 * vpmaddubsw adds two products u * q in 16 bits, saturating: exact while u <= 127, since
 * 2 * 127 * 127 = 32258 (activations are in -127 .. 127).  Types whose u takes all eight bits are
 * multiplied in two parts, u = (u & 127) + 128 * (u >> 7).
 */
#include <string.h>

#include "kernels/v16_avx2.h"

enum {
    VEC_TILE_ROWS = 2,
    VEC_TILE_TOKENS = 2,
    VEC_ATTN_QUERIES = 2,
    VEC_ATTN_COLUMNS = 2,
};

static inline __m256i dot_dwords(__m256i u, __m256i q, bool wide)
{
    __m256i ones = _mm256_set1_epi16(1);
    if (!wide)
        return _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), ones);
    __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(u, _mm256_set1_epi8(127)), q);
    __m256i top = _mm256_and_si256(_mm256_srli_epi16(u, 7), _mm256_set1_epi8(1));
    return _mm256_add_epi32(
        _mm256_madd_epi16(low, ones),
        _mm256_madd_epi16(_mm256_maddubs_epi16(top, q), _mm256_set1_epi16(128)));
}

/* See vector_attend.h. */
static inline __attribute__((always_inline)) void vec_tile_dots(const uint8_t *tile,
                                                                const int8_t *code,
                                                                size_t code_step, uint32_t head_dim,
                                                                uint32_t n, v16 (*dot)[2])
{
    for (uint32_t h = 0; h < 2; h++, tile += 64) {
        __m256i sum[VEC_ATTN_QUERIES][2];
        for (uint32_t i = 0; i < n; i++)
            sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        for (uint32_t c = 0; c < head_dim; c += 4) {
            const __m256i *u = (const __m256i *)(const void *)(tile + (size_t)c * KERN_ATTN_TILE);
            __m256i u0 = _mm256_loadu_si256(u), u1 = _mm256_loadu_si256(u + 1);
            for (uint32_t i = 0; i < n; i++) {
                int32_t word;
                memcpy(&word, code + i * code_step + c, sizeof(word));
                __m256i q = _mm256_set1_epi32(word);
                sum[i][0] = _mm256_add_epi32(sum[i][0], dot_dwords(u0, q, true));
                sum[i][1] = _mm256_add_epi32(sum[i][1], dot_dwords(u1, q, true));
            }
        }
        for (uint32_t i = 0; i < n; i++)
            dot[i][h] = v16_make(_mm256_cvtepi32_ps(sum[i][0]), _mm256_cvtepi32_ps(sum[i][1]));
    }
}

#include "kernels/panel.h"
#include "kernels/vector_body.h"

static void panel_transpose(const uint8_t (*rows)[UNPACK_VALUES], uint8_t *u)
{
    for (int half = 0; half < 2; half++)
        for (int c = 0; c < UNPACK_VALUES; c += 32) {
            __m256i v[8], t[8];
            for (int i = 0; i < 8; i++)
                v[i] = _mm256_load_si256((const __m256i *)(const void *)(rows[8 * half + i] + c));
            for (int i = 0; i < 8; i += 2) {
                t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
                t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
            }
            for (int i = 0; i < 8; i += 4) {
                v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
                v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
                v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
                v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
            }
            /* v[4a + k] holds, per 128-bit lane l, dword 4l + k of rows 4a .. 4a + 3. */
            for (int k = 0; k < 4; k++) {
                uint8_t *dst = u + 16 * c + 32 * half + 64 * k;
                _mm256_store_si256((__m256i *)(void *)dst,
                                   _mm256_permute2x128_si256(v[k], v[4 + k], 0x20));
                _mm256_store_si256((__m256i *)(void *)(dst + 256),
                                   _mm256_permute2x128_si256(v[k], v[4 + k], 0x31));
            }
        }
}

/* One token's row of activations, from the panel's first column on. */
struct token {
    const int8_t *q;
    const float *d, *xs;
    const int32_t *sum;
};

static inline struct token token_at(const struct panel *p, const struct kern_act *act, size_t t)
{
    size_t k = act->n_cols, group = p->info->group_values;
    const float *xs = group == 32 ? act->xs32 : act->xs16;
    return (struct token){ .q = act->q + t * k + p->col,
                           .d = act->d + (t * k + p->col) / KERN_BLOCK,
                           .sum = act->sum + (t * k + p->col) / KERN_SUM,
                           .xs = xs + (t * k + p->col) / group };
}

/* One group of eight rows for n_t tokens: exact integer sums, then the canonical fma's. */
static inline __attribute__((always_inline)) void
group_step(const struct panel *p, const struct token *x, uint32_t g, uint32_t size, int zero,
           bool has_min, bool wide, uint32_t half, uint32_t n_t, __m256 *acc)
{
    __m256i sum[4];
    const uint8_t *u = p->u + (size_t)g * size * KERN_PANEL_ROWS + 32 * (size_t)half;
    for (uint32_t t = 0; t < n_t; t++) {
        const int32_t *s = x[t].sum + (size_t)g * (size / KERN_SUM);
        sum[t] = _mm256_set1_epi32(-zero * (size == 32 ? s[0] + s[1] : s[0]));
    }
    for (uint32_t i = 0; i < size / 4; i++) {
        __m256i w = _mm256_load_si256((const __m256i *)(const void *)(u + (size_t)i * 64));
        for (uint32_t t = 0; t < n_t; t++) {
            int32_t word;
            memcpy(&word, x[t].q + (size_t)g * size + 4 * i, sizeof(word));
            sum[t] = _mm256_add_epi32(sum[t], dot_dwords(w, _mm256_set1_epi32(word), wide));
        }
    }
    size_t at = (size_t)g * KERN_PANEL_ROWS + 8 * half;
    __m256 scale = _mm256_load_ps(p->s + at);
    for (uint32_t t = 0; t < n_t; t++) {
        __m256 d = _mm256_set1_ps(x[t].d[g * size / KERN_BLOCK]);
        acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scale, d), _mm256_cvtepi32_ps(sum[t]), acc[t]);
    }
    if (!has_min)
        return;
    __m256 min = _mm256_load_ps(p->m + at);
    for (uint32_t t = 0; t < n_t; t++)
        acc[t] = _mm256_fmadd_ps(min, _mm256_set1_ps(x[t].xs[g]), acc[t]);
}

/* The accumulators of eight rows, of which n_rows exist, from and to y. */
static inline __m256 load_rows(const float *y, uint32_t n_rows)
{
    float t[8] = { 0 };
    memcpy(t, y, n_rows * sizeof(float));
    return _mm256_loadu_ps(t);
}

static inline void store_rows(float *y, __m256 v, uint32_t n_rows)
{
    float t[8];
    _mm256_storeu_ps(t, v);
    memcpy(y, t, n_rows * sizeof(float));
}

static inline __attribute__((always_inline)) void
product_half(const struct panel *p, const struct token *x, uint32_t size, int zero, bool has_min,
             bool wide, uint32_t half, uint32_t n_t, float *y, size_t ldy, uint32_t n_rows)
{
    __m256 acc[4];
    for (uint32_t t = 0; t < n_t; t++)
        acc[t] = p->first ? _mm256_setzero_ps() : load_rows(y + t * ldy, n_rows);
    for (uint32_t g = 0; g < p->n_cols / size; g++)
        group_step(p, x, g, size, zero, has_min, wide, half, n_t, acc);
    for (uint32_t t = 0; t < n_t; t++)
        store_rows(y + t * ldy, acc[t], n_rows);
}

static inline __attribute__((always_inline)) void
product_tokens(const struct panel *p, const struct kern_act *act, size_t t0, size_t t1, float *y,
               size_t ldy, uint32_t n_rows, uint32_t size, int zero, bool has_min, bool wide)
{
    for (size_t t = t0; t < t1;) {
        struct token x[4];
        uint32_t n_t = t + 4 <= t1 ? 4 : 1;
        for (uint32_t i = 0; i < n_t; i++)
            x[i] = token_at(p, act, t + i);
        for (uint32_t half = 0; half < 2 && 8 * half < n_rows; half++) {
            uint32_t n = n_rows - 8 * half < 8 ? n_rows - 8 * half : 8;
            float *at = y + t * ldy + 8 * half;
            if (n_t == 4)
                product_half(p, x, size, zero, has_min, wide, half, 4, at, ldy, n);
            else
                product_half(p, x, size, zero, has_min, wide, half, 1, at, ldy, n);
        }
        t += n_t;
    }
}

static void panel_product(const struct panel *p, const struct kern_act *act, size_t t0, size_t t1,
                          float *y, size_t ldy, uint32_t n_rows)
{
    int zero = unpack_zero(p->type);
    if (p->info->group_values == 16 && p->info->has_min)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 16, 0, true, false);
    else if (p->info->group_values == 16)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 16, zero, false, false);
    else if (p->info->has_min)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 32, 0, true, false);
    else if (unpack_max(p->type) > 127)
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 32, zero, false, true);
    else
        product_tokens(p, act, t0, t1, y, ldy, n_rows, 32, zero, false, false);
}

const struct kern_table kern_avx2 = {
    .name = "avx2",
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
