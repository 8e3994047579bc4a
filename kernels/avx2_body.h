/* SPDX-License-Identifier: Apache-2.0
 *
 * avx2_body.h - what the variants with ymm registers share; they differ in how bytes are multiplied,
 * v8_dot().
 */
#ifndef LACUNA_KERNELS_AVX2_BODY_H
#define LACUNA_KERNELS_AVX2_BODY_H

#include <string.h>

#include "kernels/v16_avx2.h"

enum {
    PANEL_FEW_PANELS = 1,
    PANEL_FEW_TOKENS = 4,
    PANEL_TILE_PANELS = 1,
    PANEL_TILE_TOKENS = 3,
    VEC_TILE_ROWS = 2,
    VEC_TILE_TOKENS = 2,
    VEC_PEAK_SUMS = 6, /* enough that none waits for its last, few enough for the registers */
    VEC_ATTN_QUERIES = 2,
    VEC_ATTN_COLUMNS = 2,
};

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
                sum[i][0] = v8_dot(sum[i][0], u0, q, true);
                sum[i][1] = v8_dot(sum[i][1], u1, q, true);
            }
        }
        for (uint32_t i = 0; i < n; i++)
            dot[i][h] = v16_make(_mm256_cvtepi32_ps(sum[i][0]), _mm256_cvtepi32_ps(sum[i][1]));
    }
}

#include "kernels/panel.h"
#include "kernels/vector_body.h"

#endif
