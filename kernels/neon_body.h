/* SPDX-License-Identifier: Apache-2.0
 *
 * neon_body.h - what the variants for arm64 share; they differ in how bytes are multiplied, v4_dot().
 */
#ifndef LACUNA_KERNELS_NEON_BODY_H
#define LACUNA_KERNELS_NEON_BODY_H

#include "kernels/v16_neon.h"

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
        w16 sum[VEC_ATTN_QUERIES];
        for (uint32_t i = 0; i < n; i++)
            sum[i] = w16_zero();
        for (uint32_t c = 0; c < head_dim; c += 4) {
            w16 u = w16_load(tile + (size_t)c * KERN_ATTN_TILE);
            for (uint32_t i = 0; i < n; i++)
                sum[i] = w16_dot(sum[i], u, code + i * code_step + c, true);
        }
        for (uint32_t i = 0; i < n; i++)
            dot[i][h] = v16_from_w16(sum[i]);
    }
}

#include "kernels/panel.h"
#include "kernels/vector_body.h"

#endif
