/* SPDX-License-Identifier: Apache-2.0
 *
 * v16_avx512.h - sixteen float lanes in one zmm register: the vocabulary that vector_body.h is
 * written in.  Each operation is the IEEE one per lane, so that every variant gives the same bits.
 */
#ifndef LACUNA_KERNELS_V16_AVX512_H
#define LACUNA_KERNELS_V16_AVX512_H

#include <immintrin.h>
#include <math.h>

#include "kernels/internal.h"

typedef __m512 v16;

static inline v16 v16_set1(float f)
{
    return _mm512_set1_ps(f);
}

static inline v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v16_store(float *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}

static inline __mmask16 v16_first(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* n < 16 lanes; the others are 0. */
static inline v16 v16_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v16_first(n), p);
}

static inline void v16_store_part(float *p, v16 v, size_t n)
{
    _mm512_mask_storeu_ps(p, v16_first(n), v);
}

static inline v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline void v16_store_f16(uint16_t *p, v16 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline v16 v16_load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

static inline v16 v16_load_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

static inline v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

static inline v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* a < b ? a : b, and a > b ? a : b: a NaN in a gives b. */
static inline v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

static inline v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

static inline v16 v16_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

static inline v16 v16_rint(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* yes where x < limit, else no. */
static inline v16 v16_select_less(v16 x, v16 limit, v16 yes, v16 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), no, yes);
}

/* 2^n for whole n in -126 .. 127. */
static inline v16 v16_exp2_whole(v16 n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}

/* -INFINITY in the lanes outside [first, end). */
static inline v16 v16_keep_range(v16 v, int first, int end)
{
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 in = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first)) &
                   _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
    return _mm512_mask_blend_ps(in, _mm512_set1_ps(-INFINITY), v);
}

/* 32 whole values in -127 .. 127 to int8. */
static inline void v16_store_int8(int8_t *p, v16 a, v16 b)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
    _mm_storeu_si128((__m128i *)(void *)(p + 16), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(b)));
}

/* 16 whole values in -127 .. 127 to int8, in 0 .. 255 to uint8. */
static inline void v16_store_s8(int8_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

static inline void v16_store_u8(uint8_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

/* Four times 16 whole values in 0 .. 255, each lane's four side by side. */
static inline void v16_store_quads(uint8_t *p, v16 a, v16 b, v16 c, v16 d)
{
    __m512i low = _mm512_or_si512(_mm512_cvtps_epi32(a),
                                  _mm512_slli_epi32(_mm512_cvtps_epi32(b), 8));
    __m512i high = _mm512_or_si512(_mm512_slli_epi32(_mm512_cvtps_epi32(c), 16),
                                   _mm512_slli_epi32(_mm512_cvtps_epi32(d), 24));
    _mm512_storeu_si512(p, _mm512_or_si512(low, high));
}

/* The tree of kernels.h. */
static inline float v16_tree(v16 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

static inline float v16_max_lane(v16 v)
{
    return _mm512_reduce_max_ps(v);
}

#endif
