/* SPDX-License-Identifier: Apache-2.0
 *
 * v16_avx2.h - sixteen float lanes in two ymm registers: the vocabulary that vector_body.h is
 * written in.  Each operation is the IEEE one per lane, so that every variant gives the same bits.
 */
#ifndef LACUNA_KERNELS_V16_AVX2_H
#define LACUNA_KERNELS_V16_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/v16_x86.h"

typedef struct {
    __m256 lo, hi;
} v16;

static inline v16 v16_make(__m256 lo, __m256 hi)
{
    return (v16){ lo, hi };
}

static inline v16 v16_set1(float f)
{
    return v16_make(_mm256_set1_ps(f), _mm256_set1_ps(f));
}

static inline v16 v16_load(const float *p)
{
    return v16_make(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

static inline void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}

/* n < 16 lanes; the others are 0. */
static inline v16 v16_load_part(const float *p, size_t n)
{
    float t[16] = { 0 };
    for (size_t i = 0; i < n; i++)
        t[i] = p[i];
    return v16_load(t);
}

static inline void v16_store_part(float *p, v16 v, size_t n)
{
    float t[16];
    v16_store(t, v);
    for (size_t i = 0; i < n; i++)
        p[i] = t[i];
}

static inline v16 v16_load_f16(const uint16_t *p)
{
    return v16_make(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8))));
}

static inline void v16_store_f16(uint16_t *p, v16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT));
}

static inline __m256 v8_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

static inline v16 v16_load_u8(const uint8_t *p)
{
    return v16_make(v8_load_u8(p), v8_load_u8(p + 8));
}

static inline __m256 v8_load_bf16(const uint16_t *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

static inline v16 v16_load_bf16(const uint16_t *p)
{
    return v16_make(v8_load_bf16(p), v8_load_bf16(p + 8));
}

static inline v16 v16_add(v16 a, v16 b)
{
    return v16_make(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return v16_make(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return v16_make(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}

static inline v16 v16_div(v16 a, v16 b)
{
    return v16_make(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return v16_make(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

/* c - a b, as one fma */
static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return v16_make(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}

/* a < b ? a : b, and a > b ? a : b: a NaN in a gives b. */
static inline v16 v16_min(v16 a, v16 b)
{
    return v16_make(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}

static inline v16 v16_max(v16 a, v16 b)
{
    return v16_make(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}

static inline v16 v16_neg(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_make(_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign));
}

static inline v16 v16_abs(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_make(_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi));
}

static inline bool v16_all_finite(v16 a)
{
    __m256 zero = _mm256_add_ps(_mm256_sub_ps(a.lo, a.lo), _mm256_sub_ps(a.hi, a.hi)); /* or NaN */
    return _mm256_movemask_ps(_mm256_cmp_ps(zero, zero, _CMP_UNORD_Q)) == 0;
}

static inline __m256 v8_load_twice(const float *p)
{
    __m256i lane = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), lane);
}

/* 8 floats, each in two adjacent lanes. */
static inline v16 v16_load_twice(const float *p)
{
    return v16_make(v8_load_twice(p), v8_load_twice(p + 4));
}

static inline v16 v16_swap_pairs(v16 a)
{
    return v16_make(_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1));
}

static inline v16 v16_neg_even(v16 a)
{
    __m256 sign = _mm256_setr_ps(-0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f, 0);
    return v16_make(_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign));
}

static inline v16 v16_rint(v16 a)
{
    return v16_make(_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                    _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* yes where x < limit, else no. */
static inline v16 v16_select_less(v16 x, v16 limit, v16 yes, v16 no)
{
    return v16_make(_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_LT_OQ)),
                    _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_LT_OQ)));
}

static inline __m256 v8_exp2_whole(__m256 n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

/* Bit i: lane i of x is above that of the limit. */
static inline uint32_t v16_lanes_above(v16 x, v16 limit)
{
    uint32_t lo = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.lo, limit.lo, _CMP_GT_OQ));
    uint32_t hi = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.hi, limit.hi, _CMP_GT_OQ));
    return lo | hi << 8;
}

/* a 2^n for whole n in -126 .. 127, where no result is subnormal. */
static inline v16 v16_scale(v16 a, v16 n)
{
    return v16_make(_mm256_mul_ps(a.lo, v8_exp2_whole(n.lo)),
                    _mm256_mul_ps(a.hi, v8_exp2_whole(n.hi)));
}

static inline __m256 v8_keep_range(__m256 v, __m256i lane, int first, int end)
{
    __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane),
                                  _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(end - 1)));
    return _mm256_blendv_ps(v, _mm256_set1_ps(-INFINITY), _mm256_castsi256_ps(out));
}

/* -INFINITY in the lanes outside [first, end). */
static inline v16 v16_keep_range(v16 v, int first, int end)
{
    return v16_make(
        v8_keep_range(v.lo, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), first, end),
        v8_keep_range(v.hi, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15), first, end));
}

/* 16 whole values to 16 bits each, in order. */
static inline __m256i v16_to_int16(v16 a)
{
    __m256i x = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    return _mm256_permute4x64_epi64(x, 0xd8);
}

/* 16 whole values in -127 .. 127 to int8, in 0 .. 255 to uint8. */
static inline void v16_store_s8(int8_t *p, v16 a)
{
    __m256i x = v16_to_int16(a);
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

static inline void v16_store_u8(uint8_t *p, v16 a)
{
    __m256i x = v16_to_int16(a);
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packus_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

static inline void v8_store_quads(uint8_t *p, __m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256i low = _mm256_or_si256(_mm256_cvtps_epi32(a),
                                  _mm256_slli_epi32(_mm256_cvtps_epi32(b), 8));
    __m256i high = _mm256_or_si256(_mm256_slli_epi32(_mm256_cvtps_epi32(c), 16),
                                   _mm256_slli_epi32(_mm256_cvtps_epi32(d), 24));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_or_si256(low, high));
}

/* Four times 16 whole values in 0 .. 255, each lane's four side by side. */
static inline void v16_store_quads(uint8_t *p, v16 a, v16 b, v16 c, v16 d)
{
    v8_store_quads(p, a.lo, b.lo, c.lo, d.lo);
    v8_store_quads(p + 32, a.hi, b.hi, c.hi, d.hi);
}

/* ---- sixteen dwords, or 64 bytes ---- */

typedef struct {
    __m256i lo, hi;
} w16;

static inline w16 w16_make(__m256i lo, __m256i hi)
{
    return (w16){ lo, hi };
}

static inline w16 w16_zero(void)
{
    return w16_make(_mm256_setzero_si256(), _mm256_setzero_si256());
}

static inline w16 w16_load(const void *p)
{
    const __m256i *half = p;
    return w16_make(_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1));
}

static inline void w16_store(void *p, w16 v)
{
    __m256i *half = p;
    _mm256_storeu_si256(half, v.lo);
    _mm256_storeu_si256(half + 1, v.hi);
}

static inline w16 w16_set1(int32_t x)
{
    return w16_make(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}

/* The same, but the compiler does not know it. */
static inline w16 w16_opaque(w16 v)
{
    __asm__ volatile("" : "+x"(v.lo), "+x"(v.hi));
    return v;
}

/* 16 bytes to dwords. */
static inline w16 w16_load_u8(const uint8_t *p)
{
    return w16_make(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)),
                    _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8))));
}

static inline w16 w16_load_s8(const uint8_t *p)
{
    return w16_make(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)),
                    _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8))));
}

/* The 16 bytes in every 128 bits. */
static inline w16 w16_load_table(const uint8_t *p)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
    return w16_make(t, t);
}

/* Of each byte, the 16-byte table's entry of that number; bytes are below 16. */
static inline w16 w16_look_up(w16 table, w16 v)
{
    return w16_make(_mm256_shuffle_epi8(table.lo, v.lo), _mm256_shuffle_epi8(table.hi, v.hi));
}

static inline w16 w16_or(w16 a, w16 b)
{
    return w16_make(_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi));
}

static inline w16 w16_and(w16 a, __m256i mask)
{
    return w16_make(_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask));
}

static inline w16 w16_add_bytes(w16 a, uint8_t b)
{
    __m256i every = _mm256_set1_epi8((char)b);
    return w16_make(_mm256_add_epi8(a.lo, every), _mm256_add_epi8(a.hi, every));
}

static inline w16 w16_and_bytes(w16 a, uint8_t mask)
{
    return w16_and(a, _mm256_set1_epi8((char)mask));
}

static inline w16 w16_and_dwords(w16 a, int32_t mask)
{
    return w16_and(a, _mm256_set1_epi32(mask));
}

static inline w16 w16_shift_right(w16 a, uint32_t n)
{
    return w16_make(_mm256_srli_epi32(a.lo, (int)n), _mm256_srli_epi32(a.hi, (int)n));
}

static inline w16 w16_shift_left(w16 a, uint32_t n)
{
    return w16_make(_mm256_slli_epi32(a.lo, (int)n), _mm256_slli_epi32(a.hi, (int)n));
}

static inline w16 w16_add(w16 a, w16 b)
{
    return w16_make(_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi));
}

static inline w16 w16_max(w16 a, w16 b)
{
    return w16_make(_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi));
}

static inline w16 w16_min(w16 a, w16 b)
{
    return w16_make(_mm256_min_epi32(a.lo, b.lo), _mm256_min_epi32(a.hi, b.hi));
}

static inline v16 v16_from_w16(w16 a)
{
    return v16_make(_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi));
}

static inline v16 v16_from_bits(w16 a)
{
    return v16_make(_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi));
}

static inline w16 v16_bits(v16 a)
{
    return w16_make(_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi));
}

/* To the nearest whole numbers, which fit. */
static inline w16 w16_round(v16 a)
{
    return w16_make(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
}

/* 32 numbers in -127 .. 127. */
static inline void w16_store_int8(int8_t *p, w16 a, w16 b)
{
    __m256i x = _mm256_packs_epi32(a.lo, a.hi), y = _mm256_packs_epi32(b.lo, b.hi);
    __m256i z = _mm256_packs_epi16(x, y); /* 4-byte pieces in the order 0 2 4 6 1 3 5 7 */
    z = _mm256_permutevar8x32_epi32(z, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)p, z);
}

/* Four codes, in every dword. */
static inline __m256i v8_broadcast(const int8_t *q)
{
    int32_t word;
    memcpy(&word, q, sizeof(word));
    return _mm256_set1_epi32(word);
}

/* 32 bytes, twice. */
static inline w16 w16_load_twice(const uint8_t *p)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return w16_make(v, v);
}

/* 16 bytes at a, twice, then 16 at b, twice. */
static inline w16 w16_load_pairs(const uint8_t *a, const uint8_t *b)
{
    return w16_make(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b)));
}

/* 32 bytes at a, then 32 at b. */
static inline w16 w16_load_halves(const uint8_t *a, const uint8_t *b)
{
    return w16_make(_mm256_loadu_si256((const __m256i *)(const void *)a),
                    _mm256_loadu_si256((const __m256i *)(const void *)b));
}

/* The sums of eight vectors' dwords, a lane each. */
static inline __m256i v8_sums(const __m256i v[8])
{
    __m256i t[4], s[2];
    for (int i = 0; i < 4; i++)
        t[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        s[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm256_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(s[0], s[1], 0x20),
                            _mm256_permute2x128_si256(s[0], s[1], 0x31));
}

/* Of 16 vectors, a lane each: the sums of their first eight dwords, and of the others. */
static inline void w16_sum_halves(const w16 v[16], w16 *low, w16 *high)
{
    __m256i lo[16], hi[16];
    for (int i = 0; i < 16; i++) {
        lo[i] = v[i].lo;
        hi[i] = v[i].hi;
    }
    *low = w16_make(v8_sums(lo), v8_sums(lo + 8));
    *high = w16_make(v8_sums(hi), v8_sums(hi + 8));
}

/* Each dword by its own n. */
static inline w16 w16_shift_right_each(w16 a, w16 n)
{
    return w16_make(_mm256_srlv_epi32(a.lo, n.lo), _mm256_srlv_epi32(a.hi, n.hi));
}

/* Bytes of four vectors side by side: of each 16 bytes, dword i has number 4 part + i of a, b, c and d. */
static inline __m256i v8_quads(__m256i a, __m256i b, __m256i c, __m256i d, uint32_t part)
{
    __m256i ab = part < 2 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
    __m256i cd = part < 2 ? _mm256_unpacklo_epi8(c, d) : _mm256_unpackhi_epi8(c, d);
    return part % 2 == 0 ? _mm256_unpacklo_epi16(ab, cd) : _mm256_unpackhi_epi16(ab, cd);
}

static inline w16 w16_quads(w16 a, w16 b, w16 c, w16 d, uint32_t part)
{
    return w16_make(v8_quads(a.lo, b.lo, c.lo, d.lo, part), v8_quads(a.hi, b.hi, c.hi, d.hi, part));
}

/* 8 rows of 8 dwords to 8 columns. */
static inline void v8_transpose(__m256i v[8])
{
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* u[4a + k] holds, per 128-bit lane l, dword 4l + k of rows 4a .. 4a + 3. */
    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_permute2x128_si256(u[k], u[4 + k], 0x20);
        v[4 + k] = _mm256_permute2x128_si256(u[k], u[4 + k], 0x31);
    }
}

/* 16 rows of 64 bytes to 16 registers of one dword per row: four squares, of which two change places. */
static inline void w16_transpose(w16 v[16])
{
    __m256i square[2][2][8];
    for (int a = 0; a < 2; a++) {
        for (int i = 0; i < 8; i++) {
            square[a][0][i] = v[8 * a + i].lo;
            square[a][1][i] = v[8 * a + i].hi;
        }
        v8_transpose(square[a][0]);
        v8_transpose(square[a][1]);
    }
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 8; i++)
            v[8 * b + i] = w16_make(square[0][b][i], square[1][b][i]);
}

static inline void v16_transpose(v16 v[16])
{
    w16 t[16];
    for (int i = 0; i < 16; i++)
        t[i] = w16_make(_mm256_castps_si256(v[i].lo), _mm256_castps_si256(v[i].hi));
    w16_transpose(t);
    for (int i = 0; i < 16; i++)
        v[i] = v16_make(_mm256_castsi256_ps(t[i].lo), _mm256_castsi256_ps(t[i].hi));
}

/* The tree of kernels.h. */
static inline float v16_tree(v16 v)
{
    __m256 a = _mm256_add_ps(v.lo, v.hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* The trees of n vectors, side by side. */
static inline void v16_trees(const v16 *v, uint32_t n, float *dst)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = v16_tree(v[i]);
}

static inline float v16_max_lane(v16 v)
{
    __m256 a = _mm256_max_ps(v.lo, v.hi);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

#endif
