/* SPDX-License-Identifier: Apache-2.0
 *
 * v16_x86.h - what AVX2 and AVX-512 do in the same way: the part that v16_avx2.h and v16_avx512.h share.
 */
#ifndef LACUNA_KERNELS_V16_X86_H
#define LACUNA_KERNELS_V16_X86_H

#include <immintrin.h>
#include <stdint.h>

/* The sums of 16 codes at q, and of the 16 behind them. */
static inline void w16_sum_int8(const int8_t *q, int32_t sum[2])
{
    __m256i u = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)q),
                                 _mm256_set1_epi8(-128)); /* plus 128 */
    __m256i s = _mm256_sad_epu8(u, _mm256_setzero_si256());
    s = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
    sum[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(s)) - 16 * 128;
    sum[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(s, 1)) - 16 * 128;
}

/* Bit i: code i of 32 is not 0. */
static inline uint32_t w16_nonzero_int8(const int8_t *q)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)q);
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256()));
}

#endif
