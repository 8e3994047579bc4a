/* SPDX-License-Identifier: Apache-2.0
 *
 * neondot.c - arm64 with the dot products of ARMv8.2 (Neoverse N1, Graviton 2, Apple M1, Cortex-A76).
 */
#include "kernels/v16_neon.h"

#include "kernels/dot_dwords.h"

enum { DOT_MOST_U = 127 }; /* SDOT takes both factors signed */

KERN_INLINE w16 w16_dot_step(w16 part, w16 u, const int8_t *q, int max)
{
    int8x16_t four = v4_broadcast(q);
    uint8x16_t flip = vdupq_n_u8(max > DOT_MOST_U ? 128 : 0);
    return NEON_EACH(w16,
                     vreinterpretq_u32_s32(vdotq_s32(
                         v4_signed(part.q[i]),
                         vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(u.q[i]), flip)), four)));
}

/* The products of bytes, four of them added up in each dword. */
KERN_INLINE w16 w16_dot_bytes(w16 u, const int8_t *q, int max)
{
    uint8x16_t flip = vdupq_n_u8(max > DOT_MOST_U ? 128 : 0);
    return NEON_EACH(
        w16, vreinterpretq_u32_s32(vdotq_s32(
                 vdupq_n_s32(0), vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(u.q[i]), flip)),
                 vld1q_s8(q + 16 * i))));
}

#include "kernels/neon_body.h"

const struct kern_table kern_neondot = VEC_TABLE("neondot");
