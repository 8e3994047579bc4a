/* SPDX-License-Identifier: Apache-2.0
 *
 * neoni8mm.c - arm64 with the mixed-sign dot products of ARMv8.6 (Neoverse V1 and N2, Graviton 3, Apple M2).
 */
#include "kernels/neon_body.h"

static inline int32x4_t v4_dot(int32x4_t acc, uint8x16_t u, int8x16_t q, bool is_wide)
{
    (void)is_wide;
    return vusdotq_s32(acc, u, q);
}

const struct kern_table kern_neoni8mm = VEC_TABLE("neoni8mm");
