/* SPDX-License-Identifier: Apache-2.0
 *
 * neoni8mm.c - arm64 with the mixed-sign dot products of ARMv8.6 (Neoverse V1 and N2, Graviton 3, Apple M2).
 */
#include "kernels/v16_neon.h"

#include "kernels/dot_dwords.h"

enum { DOT_MOST_U = 255 };

KERN_INLINE w16 w16_dot_step(w16 part, w16 u, const int8_t *q, int max)
{
    int8x16_t four = v4_broadcast(q);
    (void)max;
    return NEON_EACH(w16, vreinterpretq_u32_s32(vusdotq_s32(v4_signed(part.q[i]),
                                                            vreinterpretq_u8_u32(u.q[i]), four)));
}

/* The products of bytes, four of them added up in each dword. */
KERN_INLINE w16 w16_dot_bytes(w16 u, const int8_t *q, int max)
{
    (void)max;
    return NEON_EACH(w16, vreinterpretq_u32_s32(vusdotq_s32(
                              vdupq_n_s32(0), vreinterpretq_u8_u32(u.q[i]), vld1q_s8(q + 16 * i))));
}

#include "kernels/neon_body.h"

const struct kern_table kern_neoni8mm = VEC_TABLE("neoni8mm");
