/* SPDX-License-Identifier: Apache-2.0
 *
 * avx2.c - AVX2 with FMA and F16C: sixteen lanes are two registers.
 */
#include "kernels/avx2_body.h"

/* vpmaddubsw adds two products u * q in 16 bits, saturating: exact while u <= 127, since
 * 2 * 127 * 127 = 32258 (activations are in -127 .. 127).  Types whose u takes all eight bits are
 * multiplied in two parts, u = (u & 127) + 128 * (u >> 7). */
static inline __m256i v8_dot(__m256i acc, __m256i u, __m256i q, bool is_wide)
{
    __m256i ones = _mm256_set1_epi16(1);
    if (!is_wide)
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), ones));
    __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(u, _mm256_set1_epi8(127)), q);
    __m256i top = _mm256_and_si256(_mm256_srli_epi16(u, 7), _mm256_set1_epi8(1));
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(low, ones));
    return _mm256_add_epi32(
        acc, _mm256_madd_epi16(_mm256_maddubs_epi16(top, q), _mm256_set1_epi16(128)));
}

const struct kern_table kern_avx2 = VEC_TABLE("avx2");
