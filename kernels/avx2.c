/* SPDX-License-Identifier: Apache-2.0
 *
 * avx2.c - AVX2 with FMA and F16C: sixteen lanes are two registers.
 *
 * vpmaddubsw adds two products u * q in 16 bits, saturating; vpmaddwd makes dwords of their sums, and both
 * need the same ports.  So small u are added up in 16 bits for as long as they fit, and widened once.  Large
 * ones are multiplied as |u - 128|, their sign given to q: 2 * 128 * 127 = 32512 fits (activations are in
 * -127 .. 127).
 */
#include "kernels/v16_avx2.h"

enum { DOT_MOST_U = 63 };

KERN_INLINE uint32_t w16_dot_steps(int max)
{
    return max <= DOT_MOST_U ? INT16_MAX / (2 * 127 * (uint32_t)max) : UINT32_MAX;
}

KERN_INLINE w16 w16_dot_begin(w16 sum, int max)
{
    return max <= DOT_MOST_U ? w16_zero() : sum;
}

KERN_INLINE w16 w16_widen(w16 pairs)
{
    __m256i ones = _mm256_set1_epi16(1);
    return w16_make(_mm256_madd_epi16(pairs.lo, ones), _mm256_madd_epi16(pairs.hi, ones));
}

KERN_INLINE w16 w16_pairs(w16 u, __m256i lo, __m256i hi)
{
    return w16_make(_mm256_maddubs_epi16(u.lo, lo), _mm256_maddubs_epi16(u.hi, hi));
}

/* |u - 128| times the codes with its sign. */
KERN_INLINE w16 w16_signed_products(w16 u, __m256i lo, __m256i hi)
{
    __m256i middle = _mm256_set1_epi8(-128);
    w16 w = w16_make(_mm256_xor_si256(u.lo, middle), _mm256_xor_si256(u.hi, middle));
    w16 size = w16_make(_mm256_abs_epi8(w.lo), _mm256_abs_epi8(w.hi));
    return w16_widen(w16_pairs(size, _mm256_sign_epi8(lo, w.lo), _mm256_sign_epi8(hi, w.hi)));
}

/* Opaque, or the compiler puts off the additions until it has no register left for the products. */
KERN_INLINE w16 w16_dot_step(w16 part, w16 u, const int8_t *q, int max)
{
    __m256i four = v8_broadcast(q);
    if (max <= DOT_MOST_U) {
        w16 pairs = w16_pairs(u, four, four);
        return w16_opaque(
            w16_make(_mm256_add_epi16(part.lo, pairs.lo), _mm256_add_epi16(part.hi, pairs.hi)));
    }
    return w16_opaque(w16_add(part, w16_signed_products(u, four, four)));
}

/* The products of bytes, four of them added up in each dword. */
KERN_INLINE w16 w16_dot_bytes(w16 u, const int8_t *q, int max)
{
    w16 v = w16_load(q);
    return max <= DOT_MOST_U ? w16_widen(w16_pairs(u, v.lo, v.hi))
                             : w16_signed_products(u, v.lo, v.hi);
}

KERN_INLINE w16 w16_dot_end(w16 part, w16 sum, int max)
{
    return max <= DOT_MOST_U ? w16_add(sum, w16_widen(part)) : part;
}

#include "kernels/avx2_body.h"

const struct kern_table kern_avx2 = VEC_TABLE("avx2");
