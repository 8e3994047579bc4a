/* SPDX-License-Identifier: Apache-2.0
 *
 * avxvnni.c - AVX2 with the 256-bit form of VNNI: processors without AVX-512, or without the wish for it.
 */
#include "kernels/v16_avx2.h"

#include "kernels/dot_dwords.h"

enum { DOT_MOST_U = 255 }; /* vpdpbusd does not saturate */

KERN_INLINE w16 w16_dot_step(w16 part, w16 u, const int8_t *q, int max)
{
    __m256i four = v8_broadcast(q);
    (void)max;
    return w16_make(_mm256_dpbusd_avx_epi32(part.lo, u.lo, four),
                    _mm256_dpbusd_avx_epi32(part.hi, u.hi, four));
}

/* The products of bytes, four of them added up in each dword. */
KERN_INLINE w16 w16_dot_bytes(w16 u, const int8_t *q, int max)
{
    w16 v = w16_load(q);
    (void)max;
    return w16_make(_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), u.lo, v.lo),
                    _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), u.hi, v.hi));
}

#include "kernels/avx2_body.h"

const struct kern_table kern_avxvnni = VEC_TABLE("avxvnni");
