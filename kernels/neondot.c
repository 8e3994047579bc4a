/* SPDX-License-Identifier: Apache-2.0
 *
 * neondot.c - arm64 with the dot products of ARMv8.2 (Neoverse N1, Graviton 2, Apple M1, Cortex-A76).
 */
#include "kernels/neon_body.h"

/* SDOT takes both factors signed, as u is while it stays below 128.  What is wider is multiplied as
 * u - 128, and 128 times q, in two halves, is added. */
static inline int32x4_t v4_dot(int32x4_t acc, uint8x16_t u, int8x16_t q, bool is_wide)
{
    if (!is_wide)
        return vdotq_s32(acc, vreinterpretq_s8_u8(u), q);
    int8x16_t half = vdupq_n_s8(64);
    acc = vdotq_s32(vdotq_s32(acc, half, q), half, q);
    return vdotq_s32(acc, vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(128))), q);
}

const struct kern_table kern_neondot = VEC_TABLE("neondot");
