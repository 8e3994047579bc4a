/* SPDX-License-Identifier: Apache-2.0
 *
 * neon_body.h - what the variants for arm64 share; they differ in how bytes are multiplied, which a variant
 * defines before it includes this file.
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
    VEC_MANY_QUERIES = 2,
    VEC_MANY_COLUMNS = 2,
    VEC_ATTN_HALVES = 1,
};

#include "kernels/products.h"
#include "kernels/vector_body.h"

#endif
