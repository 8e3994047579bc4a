/* SPDX-License-Identifier: Apache-2.0
 *
 * v16_avx512.h - sixteen float lanes in one zmm register: the vocabulary that vector_body.h is
 * written in.  Each operation is the IEEE one per lane, so that every variant gives the same bits.
 */
#ifndef LACUNA_KERNELS_V16_AVX512_H
#define LACUNA_KERNELS_V16_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/v16_x86.h"

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

/* c - a b, as one fma */
static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
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

static inline v16 v16_neg(v16 a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

static inline v16 v16_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

static inline bool v16_all_finite(v16 a)
{
    enum { NOT_FINITE = 0x99 }; /* either NaN, either infinity */
    return _mm512_fpclass_ps_mask(a, NOT_FINITE) == 0;
}

/* 8 floats, each in two adjacent lanes. */
static inline v16 v16_load_twice(const float *p)
{
    __m512i lane = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(lane, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

static inline v16 v16_swap_pairs(v16 a)
{
    return _mm512_permute_ps(a, 0xb1);
}

static inline v16 v16_neg_even(v16 a)
{
    return _mm512_mask_xor_ps(a, 0x5555, a, _mm512_set1_ps(-0.0f));
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

/* Bit i: lane i of x is above that of the limit. */
static inline uint32_t v16_lanes_above(v16 x, v16 limit)
{
    return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ);
}

/* a 2^n for whole n in -126 .. 127, where no result is subnormal. */
static inline v16 v16_scale(v16 a, v16 n)
{
    return _mm512_scalef_ps(a, n);
}

/* -INFINITY in the lanes outside [first, end). */
static inline v16 v16_keep_range(v16 v, int first, int end)
{
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 in = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first)) &
                   _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
    return _mm512_mask_blend_ps(in, _mm512_set1_ps(-INFINITY), v);
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

/* ---- sixteen dwords, or 64 bytes ---- */

typedef __m512i w16;

static inline w16 w16_zero(void)
{
    return _mm512_setzero_si512();
}

static inline w16 w16_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

static inline void w16_store(void *p, w16 v)
{
    _mm512_storeu_si512(p, v);
}

static inline w16 w16_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}

/* The same, but the compiler does not know it. */
static inline w16 w16_opaque(w16 v)
{
    __asm__ volatile("" : "+v"(v));
    return v;
}

/* 16 bytes to dwords. */
static inline w16 w16_load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline w16 w16_load_s8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* The 16 bytes in every 128 bits. */
static inline w16 w16_load_table(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Of each byte, the 16-byte table's entry of that number; bytes are below 16. */
static inline w16 w16_look_up(w16 table, w16 v)
{
    return _mm512_shuffle_epi8(table, v);
}

static inline w16 w16_or(w16 a, w16 b)
{
    return _mm512_or_si512(a, b);
}

static inline w16 w16_add_bytes(w16 a, uint8_t b)
{
    return _mm512_add_epi8(a, _mm512_set1_epi8((char)b));
}

static inline w16 w16_and_bytes(w16 a, uint8_t mask)
{
    return _mm512_and_si512(a, _mm512_set1_epi8((char)mask));
}

static inline w16 w16_and_dwords(w16 a, int32_t mask)
{
    return _mm512_and_si512(a, _mm512_set1_epi32(mask));
}

static inline w16 w16_shift_right(w16 a, uint32_t n)
{
    return _mm512_srli_epi32(a, n);
}

static inline w16 w16_shift_left(w16 a, uint32_t n)
{
    return _mm512_slli_epi32(a, n);
}

static inline w16 w16_add(w16 a, w16 b)
{
    return _mm512_add_epi32(a, b);
}

static inline w16 w16_max(w16 a, w16 b)
{
    return _mm512_max_epi32(a, b);
}

static inline w16 w16_min(w16 a, w16 b)
{
    return _mm512_min_epi32(a, b);
}

static inline v16 v16_from_w16(w16 a)
{
    return _mm512_cvtepi32_ps(a);
}

static inline v16 v16_from_bits(w16 a)
{
    return _mm512_castsi512_ps(a);
}

static inline w16 v16_bits(v16 a)
{
    return _mm512_castps_si512(a);
}

/* To the nearest whole numbers, which fit. */
static inline w16 w16_round(v16 a)
{
    return _mm512_cvtps_epi32(a);
}

/* 32 numbers in -127 .. 127. */
static inline void w16_store_int8(int8_t *p, w16 a, w16 b)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(void *)(p + 16), _mm512_cvtsepi32_epi8(b));
}

/* 32 bytes, twice. */
static inline w16 w16_load_twice(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* 16 bytes at a, twice, then 16 at b, twice. */
static inline w16 w16_load_pairs(const uint8_t *a, const uint8_t *b)
{
    __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a));
    __m256i y = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b));
    return _mm512_inserti64x4(_mm512_castsi256_si512(x), y, 1);
}

/* 32 bytes at a, then 32 at b. */
static inline w16 w16_load_halves(const uint8_t *a, const uint8_t *b)
{
    __m512i x = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)a));
    return _mm512_inserti64x4(x, _mm256_loadu_si256((const __m256i *)(const void *)b), 1);
}

/* Of 16 vectors, a lane each: the sums of their first eight dwords, and of the others. */
static inline void w16_sum_halves(const w16 v[16], w16 *low, w16 *high)
{
    __m512i t[8], s[4];
    for (int i = 0; i < 8; i++)
        t[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++)
        s[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm512_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    /* s[i] holds, per 128-bit lane, sums of vectors 4i .. 4i + 3. */
    __m512i a = _mm512_shuffle_i32x4(s[0], s[1], 0x44), b = _mm512_shuffle_i32x4(s[2], s[3], 0x44);
    __m512i c = _mm512_shuffle_i32x4(s[0], s[1], 0xee), d = _mm512_shuffle_i32x4(s[2], s[3], 0xee);
    *low = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    *high = _mm512_add_epi32(_mm512_shuffle_i32x4(c, d, 0x88), _mm512_shuffle_i32x4(c, d, 0xdd));
}

/* Each dword by its own n. */
static inline w16 w16_shift_right_each(w16 a, w16 n)
{
    return _mm512_srlv_epi32(a, n);
}

/* Bytes of four vectors side by side: of each 16 bytes, dword i has number 4 part + i of a, b, c and d. */
static inline w16 w16_quads(w16 a, w16 b, w16 c, w16 d, uint32_t part)
{
    __m512i ab = part < 2 ? _mm512_unpacklo_epi8(a, b) : _mm512_unpackhi_epi8(a, b);
    __m512i cd = part < 2 ? _mm512_unpacklo_epi8(c, d) : _mm512_unpackhi_epi8(c, d);
    return part % 2 == 0 ? _mm512_unpacklo_epi16(ab, cd) : _mm512_unpackhi_epi16(ab, cd);
}

/* 16 rows of 64 bytes to 16 registers of one dword per row. */
static inline void w16_transpose(w16 v[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* v[4a + k] holds, per 128-bit lane l, dword 4l + k of rows 4a .. 4a + 3. */
    for (int k = 0; k < 4; k++) {
        __m512i a = _mm512_shuffle_i32x4(v[k], v[4 + k], 0x88);
        __m512i b = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0x88);
        __m512i c = _mm512_shuffle_i32x4(v[k], v[4 + k], 0xdd);
        __m512i d = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0xdd);
        t[k] = _mm512_shuffle_i32x4(a, b, 0x88);
        t[8 + k] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[4 + k] = _mm512_shuffle_i32x4(c, d, 0x88);
        t[12 + k] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        v[i] = t[i];
}

static inline void v16_transpose(v16 v[16])
{
    w16 t[16];
    for (int i = 0; i < 16; i++)
        t[i] = _mm512_castps_si512(v[i]);
    w16_transpose(t);
    for (int i = 0; i < 16; i++)
        v[i] = _mm512_castsi512_ps(t[i]);
}

/* The tree of kernels.h. */
static inline float v16_tree(v16 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* The trees of four vectors, side by side: a third of the instructions of one by one. */
static inline void v16_tree4(const v16 *v, float *dst)
{
    v16 ab = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44),
                           _mm512_shuffle_f32x4(v[0], v[1], 0xee));
    v16 cd = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44),
                           _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    v16 t = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    t = _mm512_add_ps(t, _mm512_permute_ps(t, 0x4e));
    t = _mm512_add_ps(t, _mm512_permute_ps(t, 0xb1));
    t = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                              t);
    _mm_storeu_ps(dst, _mm512_castps512_ps128(t));
}

/* The trees of n vectors, side by side. */
static inline void v16_trees(const v16 *v, uint32_t n, float *dst)
{
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        v16_tree4(v + i, dst + i);
    for (; i < n; i++)
        dst[i] = v16_tree(v[i]);
}

static inline float v16_max_lane(v16 v)
{
    return _mm512_reduce_max_ps(v);
}

#endif
