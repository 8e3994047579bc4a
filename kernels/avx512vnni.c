/* SPDX-License-Identifier: Apache-2.0
 *
 * avx512vnni.c - AVX-512 (F, BW, DQ, VL) with VNNI: a register holds one dword of each of the 16
 * rows of a panel; vpdpbusd multiplies it with four activations broadcast from memory.
 */
#include <string.h>

#include "kernels/v16_avx512.h"

#include "kernels/dot_dwords.h"

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
    VEC_MANY_QUERIES = 6,
    VEC_MANY_COLUMNS = 4,
    VEC_ATTN_HALVES = 2,
    DOT_MOST_U = 255, /* vpdpbusd does not saturate */
};

KERN_INLINE w16 w16_dot_step(w16 part, w16 u, const int8_t *q, int max)
{
    int32_t word;
    (void)max;
    memcpy(&word, q, sizeof(word));
    return _mm512_dpbusd_epi32(part, u, _mm512_set1_epi32(word));
}

/* The products of bytes, four of them added up in each dword. */
KERN_INLINE w16 w16_dot_bytes(w16 u, const int8_t *q, int max)
{
    (void)max;
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, _mm512_loadu_si512(q));
}

#include "kernels/products.h"
#include "kernels/vector_body.h"

const struct kern_table kern_avx512vnni = VEC_TABLE("avx512vnni");
