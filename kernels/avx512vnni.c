/* SPDX-License-Identifier: Apache-2.0
 *
 * avx512vnni.c - AVX-512 (F, BW, DQ, VL) with VNNI: a register holds one dword of each of the 16
 * rows of a panel; vpdpbusd multiplies it with four activations broadcast from memory.
 */
#include <string.h>

#include "kernels/v16_avx512.h"

enum {
    PANEL_FEW_PANELS = 2,
    PANEL_FEW_TOKENS = 6,
    PANEL_TILE_PANELS = 2,
    PANEL_TILE_TOKENS = 6,
    VEC_TILE_ROWS = 4,
    VEC_TILE_TOKENS = 6,
    VEC_PEAK_SUMS = 12, /* enough that none waits for its last, few enough for the registers */
    VEC_ATTN_QUERIES = 6,
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

const struct kern_table kern_avx512vnni = VEC_TABLE("avx512vnni");
