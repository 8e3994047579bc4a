/* SPDX-License-Identifier: Apache-2.0
 *
 * avxvnni.c - AVX2 with the 256-bit form of VNNI: processors without AVX-512, or without the wish for it.
 */
#include "kernels/avx2_body.h"

/* vpdpbusd does not saturate: any u will do. */
static inline __m256i v8_dot(__m256i acc, __m256i u, __m256i q, bool is_wide)
{
    (void)is_wide;
    return _mm256_dpbusd_avx_epi32(acc, u, q);
}

const struct kern_table kern_avxvnni = VEC_TABLE("avxvnni");
