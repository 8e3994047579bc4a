/* SPDX-License-Identifier: Apache-2.0
 *
 * avx512vnni.c - AVX-512 (F, BW, DQ, VL) with VNNI: a register holds one dword of each of the 16
 * rows of a panel; vpdpbusd multiplies it with four activations broadcast from memory.
 */
#include <string.h>

#include "kernels/v16_avx512.h"

enum {
    PANEL_TILE_PANELS = 2,
    PANEL_TILE_TOKENS = 6,
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

const struct kern_table kern_avx512vnni = {
    .name = "avx512vnni",
    .dequantise = ref_dequantise,
    .quantise = vec_quantise,
    .mul_mat = vec_mul_mat,
    .rms_norm = vec_rms_norm,
    .add_scaled = vec_add_scaled,
    .activate = vec_activate,
    .rope = vec_rope,
    .kv_store = vec_kv_store,
    .kv_seal = vec_kv_seal,
    .attend = vec_attend,
    .attend_fold = vec_attend_fold,
    .attend_self = vec_attend_self,
    .max_sum_exp = vec_max_sum_exp,
};
