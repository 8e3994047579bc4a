/* SPDX-License-Identifier: Apache-2.0
 *
 * v16_neon.h - sixteen float lanes in four NEON registers: the vocabulary that vector_body.h is written
 * in.  Each operation is the IEEE one per lane, so that every variant gives the same bits.
 */
#ifndef LACUNA_KERNELS_V16_NEON_H
#define LACUNA_KERNELS_V16_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

typedef struct {
    float32x4_t q[4];
} v16;

typedef struct {
    uint32x4_t q[4];
} w16;

/* r.q[i] = an expression of i, for all four. */
#define NEON_EACH(type, expression)                                                                \
    __extension__({                                                                                \
        type each;                                                                                 \
        for (int i = 0; i < 4; i++)                                                                \
            each.q[i] = (expression);                                                              \
        each;                                                                                      \
    })

static inline v16 v16_set1(float f)
{
    return NEON_EACH(v16, vdupq_n_f32(f));
}

static inline v16 v16_load(const float *p)
{
    return NEON_EACH(v16, vld1q_f32(p + 4 * i));
}

static inline void v16_store(float *p, v16 v)
{
    for (int i = 0; i < 4; i++)
        vst1q_f32(p + 4 * i, v.q[i]);
}

/* n < 16 lanes; the others are 0. */
static inline v16 v16_load_part(const float *p, size_t n)
{
    float t[16] = { 0 };
    memcpy(t, p, n * sizeof(*p));
    return v16_load(t);
}

static inline void v16_store_part(float *p, v16 v, size_t n)
{
    float t[16];
    v16_store(t, v);
    memcpy(p, t, n * sizeof(*p));
}

static inline v16 v16_load_f16(const uint16_t *p)
{
    return NEON_EACH(v16, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}

static inline void v16_store_f16(uint16_t *p, v16 v)
{
    for (int i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(v.q[i])));
}

static inline v16 v16_load_bf16(const uint16_t *p)
{
    return NEON_EACH(v16, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}

static inline v16 v16_add(v16 a, v16 b)
{
    return NEON_EACH(v16, vaddq_f32(a.q[i], b.q[i]));
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return NEON_EACH(v16, vsubq_f32(a.q[i], b.q[i]));
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return NEON_EACH(v16, vmulq_f32(a.q[i], b.q[i]));
}

static inline v16 v16_div(v16 a, v16 b)
{
    return NEON_EACH(v16, vdivq_f32(a.q[i], b.q[i]));
}

static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return NEON_EACH(v16, vfmaq_f32(c.q[i], a.q[i], b.q[i]));
}

/* c - a b, as one fma */
static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return NEON_EACH(v16, vfmsq_f32(c.q[i], a.q[i], b.q[i]));
}

/* a < b ? a : b, and a > b ? a : b: a NaN in a gives b (vminq would give the NaN). */
static inline v16 v16_min(v16 a, v16 b)
{
    return NEON_EACH(v16, vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]));
}

static inline v16 v16_max(v16 a, v16 b)
{
    return NEON_EACH(v16, vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]));
}

static inline v16 v16_neg(v16 a)
{
    return NEON_EACH(v16, vnegq_f32(a.q[i]));
}

static inline v16 v16_abs(v16 a)
{
    return NEON_EACH(v16, vabsq_f32(a.q[i]));
}

static inline bool v16_all_finite(v16 a)
{
    v16 zero = v16_sub(a, a); /* or NaN */
    float32x4_t sum = vaddq_f32(vaddq_f32(zero.q[0], zero.q[1]), vaddq_f32(zero.q[2], zero.q[3]));
    return vaddvq_f32(sum) == 0.0f;
}

/* 8 floats, each in two adjacent lanes. */
static inline v16 v16_load_twice(const float *p)
{
    float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
    return (v16){ { vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b) } };
}

static inline v16 v16_swap_pairs(v16 a)
{
    return NEON_EACH(v16, vrev64q_f32(a.q[i]));
}

static inline v16 v16_neg_even(v16 a)
{
    const uint32x4_t sign = vreinterpretq_u32_u64(vdupq_n_u64(0x80000000));
    return NEON_EACH(v16, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a.q[i]), sign)));
}

static inline v16 v16_rint(v16 a)
{
    return NEON_EACH(v16, vrndnq_f32(a.q[i]));
}

/* yes where x < limit, else no. */
static inline v16 v16_select_less(v16 x, v16 limit, v16 yes, v16 no)
{
    return NEON_EACH(v16, vbslq_f32(vcltq_f32(x.q[i], limit.q[i]), yes.q[i], no.q[i]));
}

/* Bit i: lane i of x is above that of the limit. */
static inline uint32_t v16_lanes_above(v16 x, v16 limit)
{
    static const uint32_t bit[4] = { 1, 2, 4, 8 };
    uint32_t lanes = 0;
    for (uint32_t i = 0; i < 4; i++)
        lanes |= vaddvq_u32(vandq_u32(vcgtq_f32(x.q[i], limit.q[i]), vld1q_u32(bit))) << (4 * i);
    return lanes;
}

/* a 2^n for whole n in -126 .. 127, where no result is subnormal. */
static inline v16 v16_scale(v16 a, v16 n)
{
    return NEON_EACH(
        v16, vmulq_f32(a.q[i], vreinterpretq_f32_s32(vshlq_n_s32(
                                   vaddq_s32(vcvtnq_s32_f32(n.q[i]), vdupq_n_s32(127)), 23))));
}

/* -INFINITY in the lanes outside [first, end). */
static inline v16 v16_keep_range(v16 v, int first, int end)
{
    static const int32_t lane[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    float32x4_t none = vdupq_n_f32(-INFINITY);
    return NEON_EACH(v16,
                     vbslq_f32(vandq_u32(vcgeq_s32(vld1q_s32(lane + 4 * i), vdupq_n_s32(first)),
                                         vcltq_s32(vld1q_s32(lane + 4 * i), vdupq_n_s32(end))),
                               v.q[i], none));
}

/* 16 whole values to 16 bits each, in order. */
static inline int16x8_t v16_half_to_int16(v16 a, int half)
{
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.q[2 * half])),
                        vqmovn_s32(vcvtnq_s32_f32(a.q[2 * half + 1])));
}

/* 16 whole values in -127 .. 127 to int8, in 0 .. 255 to uint8. */
static inline void v16_store_s8(int8_t *p, v16 a)
{
    vst1q_s8(p,
             vcombine_s8(vqmovn_s16(v16_half_to_int16(a, 0)), vqmovn_s16(v16_half_to_int16(a, 1))));
}

static inline void v16_store_u8(uint8_t *p, v16 a)
{
    vst1q_u8(
        p, vcombine_u8(vqmovun_s16(v16_half_to_int16(a, 0)), vqmovun_s16(v16_half_to_int16(a, 1))));
}

static inline uint32x4_t v4_code(float32x4_t a)
{
    return vcvtnq_u32_f32(a);
}

/* Four times 16 whole values in 0 .. 255, each lane's four side by side. */
static inline void v16_store_quads(uint8_t *p, v16 a, v16 b, v16 c, v16 d)
{
    for (int i = 0; i < 4; i++) {
        uint32x4_t low = vorrq_u32(v4_code(a.q[i]), vshlq_n_u32(v4_code(b.q[i]), 8));
        uint32x4_t high = vorrq_u32(vshlq_n_u32(v4_code(c.q[i]), 16),
                                    vshlq_n_u32(v4_code(d.q[i]), 24));
        vst1q_u8(p + 16 * i, vreinterpretq_u8_u32(vorrq_u32(low, high)));
    }
}

/* ---- sixteen dwords, or 64 bytes ---- */

static inline w16 w16_load(const void *p)
{
    return NEON_EACH(w16, vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)p + 16 * i)));
}

static inline void w16_store(void *p, w16 v)
{
    for (int i = 0; i < 4; i++)
        vst1q_u8((uint8_t *)p + 16 * i, vreinterpretq_u8_u32(v.q[i]));
}

static inline w16 w16_set1(int32_t x)
{
    return NEON_EACH(w16, vdupq_n_u32((uint32_t)x));
}

static inline w16 w16_zero(void)
{
    return w16_set1(0);
}

/* The same, but the compiler does not know it. */
static inline w16 w16_opaque(w16 v)
{
    __asm__ volatile("" : "+w"(v.q[0]), "+w"(v.q[1]), "+w"(v.q[2]), "+w"(v.q[3]));
    return v;
}

/* 16 bytes to dwords. */
static inline w16 w16_load_u8(const uint8_t *p)
{
    uint8x16_t b = vld1q_u8(p);
    uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_u8(vget_high_u8(b));
    return (w16){ { vmovl_u16(vget_low_u16(low)), vmovl_u16(vget_high_u16(low)),
                    vmovl_u16(vget_low_u16(high)), vmovl_u16(vget_high_u16(high)) } };
}

static inline w16 w16_load_s8(const uint8_t *p)
{
    int8x16_t b = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t low = vmovl_s8(vget_low_s8(b)), high = vmovl_s8(vget_high_s8(b));
    return (w16){ { vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(low))),
                    vreinterpretq_u32_s32(vmovl_s16(vget_high_s16(low))),
                    vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(high))),
                    vreinterpretq_u32_s32(vmovl_s16(vget_high_s16(high))) } };
}

/* The 16 bytes in every 128 bits. */
static inline w16 w16_load_table(const uint8_t *p)
{
    return NEON_EACH(w16, vreinterpretq_u32_u8(vld1q_u8(p)));
}

/* Of each byte, the 16-byte table's entry of that number; bytes are below 16. */
static inline w16 w16_look_up(w16 table, w16 v)
{
    uint8x16_t entries = vreinterpretq_u8_u32(table.q[0]);
    return NEON_EACH(w16, vreinterpretq_u32_u8(vqtbl1q_u8(entries, vreinterpretq_u8_u32(v.q[i]))));
}

static inline w16 w16_or(w16 a, w16 b)
{
    return NEON_EACH(w16, vorrq_u32(a.q[i], b.q[i]));
}

static inline w16 w16_add_bytes(w16 a, uint8_t b)
{
    uint8x16_t every = vdupq_n_u8(b);
    return NEON_EACH(w16, vreinterpretq_u32_u8(vaddq_u8(vreinterpretq_u8_u32(a.q[i]), every)));
}

static inline w16 w16_and_bytes(w16 a, uint8_t mask)
{
    uint32x4_t m = vreinterpretq_u32_u8(vdupq_n_u8(mask));
    return NEON_EACH(w16, vandq_u32(a.q[i], m));
}

static inline w16 w16_and_dwords(w16 a, int32_t mask)
{
    return NEON_EACH(w16, vandq_u32(a.q[i], vdupq_n_u32((uint32_t)mask)));
}

static inline w16 w16_shift_right(w16 a, uint32_t n)
{
    return NEON_EACH(w16, vshlq_u32(a.q[i], vdupq_n_s32(-(int32_t)n)));
}

static inline w16 w16_shift_left(w16 a, uint32_t n)
{
    return NEON_EACH(w16, vshlq_u32(a.q[i], vdupq_n_s32((int32_t)n)));
}

static inline w16 w16_add(w16 a, w16 b)
{
    return NEON_EACH(w16, vaddq_u32(a.q[i], b.q[i]));
}

static inline int32x4_t v4_signed(uint32x4_t a)
{
    return vreinterpretq_s32_u32(a);
}

static inline w16 w16_max(w16 a, w16 b)
{
    return NEON_EACH(w16, vreinterpretq_u32_s32(vmaxq_s32(v4_signed(a.q[i]), v4_signed(b.q[i]))));
}

static inline w16 w16_min(w16 a, w16 b)
{
    return NEON_EACH(w16, vreinterpretq_u32_s32(vminq_s32(v4_signed(a.q[i]), v4_signed(b.q[i]))));
}

static inline v16 v16_from_w16(w16 a)
{
    return NEON_EACH(v16, vcvtq_f32_s32(v4_signed(a.q[i])));
}

static inline v16 v16_from_bits(w16 a)
{
    return NEON_EACH(v16, vreinterpretq_f32_u32(a.q[i]));
}

static inline w16 v16_bits(v16 a)
{
    return NEON_EACH(w16, vreinterpretq_u32_f32(a.q[i]));
}

/* To the nearest whole numbers, which fit. */
static inline w16 w16_round(v16 a)
{
    return NEON_EACH(w16, vreinterpretq_u32_s32(vcvtnq_s32_f32(a.q[i])));
}

static inline int8x8_t v4_narrow(uint32x4_t a, uint32x4_t b)
{
    return vqmovn_s16(vcombine_s16(vqmovn_s32(v4_signed(a)), vqmovn_s32(v4_signed(b))));
}

/* 32 numbers in -127 .. 127. */
static inline void w16_store_int8(int8_t *p, w16 a, w16 b)
{
    vst1q_s8(p, vcombine_s8(v4_narrow(a.q[0], a.q[1]), v4_narrow(a.q[2], a.q[3])));
    vst1q_s8(p + 16, vcombine_s8(v4_narrow(b.q[0], b.q[1]), v4_narrow(b.q[2], b.q[3])));
}

static inline v16 v16_load_u8(const uint8_t *p)
{
    return v16_from_w16(w16_load_u8(p));
}

/* Four codes, in every dword. */
static inline int8x16_t v4_broadcast(const int8_t *p)
{
    int32_t word;
    memcpy(&word, p, sizeof(word));
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

/* 4 rows of 4 dwords to 4 columns. */
static inline void v4_transpose(uint32x4_t *a, uint32x4_t *b, uint32x4_t *c, uint32x4_t *d)
{
    uint64x2_t ab0 = vreinterpretq_u64_u32(vtrn1q_u32(*a, *b));
    uint64x2_t ab1 = vreinterpretq_u64_u32(vtrn2q_u32(*a, *b));
    uint64x2_t cd0 = vreinterpretq_u64_u32(vtrn1q_u32(*c, *d));
    uint64x2_t cd1 = vreinterpretq_u64_u32(vtrn2q_u32(*c, *d));
    *a = vreinterpretq_u32_u64(vtrn1q_u64(ab0, cd0));
    *b = vreinterpretq_u32_u64(vtrn1q_u64(ab1, cd1));
    *c = vreinterpretq_u32_u64(vtrn2q_u64(ab0, cd0));
    *d = vreinterpretq_u32_u64(vtrn2q_u64(ab1, cd1));
}

/* The sums of 16 codes at q, and of the 16 behind them. */
static inline void w16_sum_int8(const int8_t *q, int32_t sum[2])
{
    sum[0] = vaddlvq_s8(vld1q_s8(q));
    sum[1] = vaddlvq_s8(vld1q_s8(q + 16));
}

/* Bit i: code i of 16 is not 0. */
static inline uint32_t v4_nonzero_int8(const int8_t *q)
{
    static const uint8_t bits[16] = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    int8x16_t v = vld1q_s8(q);
    uint8x16_t set = vandq_u8(vtstq_s8(v, v), vld1q_u8(bits));
    return vaddv_u8(vget_low_u8(set)) | (uint32_t)vaddv_u8(vget_high_u8(set)) << 8;
}

/* Bit i: code i of 32 is not 0. */
static inline uint32_t w16_nonzero_int8(const int8_t *q)
{
    return v4_nonzero_int8(q) | v4_nonzero_int8(q + 16) << 16;
}

/* 32 bytes, twice. */
static inline w16 w16_load_twice(const uint8_t *p)
{
    return NEON_EACH(w16, vreinterpretq_u32_u8(vld1q_u8(p + 16 * (i % 2))));
}

/* 16 bytes at a, twice, then 16 at b, twice. */
static inline w16 w16_load_pairs(const uint8_t *a, const uint8_t *b)
{
    return NEON_EACH(w16, vreinterpretq_u32_u8(vld1q_u8(i < 2 ? a : b)));
}

/* 32 bytes at a, then 32 at b. */
static inline w16 w16_load_halves(const uint8_t *a, const uint8_t *b)
{
    return NEON_EACH(w16, vreinterpretq_u32_u8(vld1q_u8((i < 2 ? a : b) + 16 * (i % 2))));
}

/* The sums of four vectors' dwords, of two registers each, a lane each. */
static inline uint32x4_t v4_sums(const w16 *v, int first)
{
    uint32x4_t t[4];
    for (int i = 0; i < 4; i++)
        t[i] = vaddq_u32(v[i].q[first], v[i].q[first + 1]);
    return vpaddq_u32(vpaddq_u32(t[0], t[1]), vpaddq_u32(t[2], t[3]));
}

/* Of 16 vectors, a lane each: the sums of their first eight dwords, and of the others. */
static inline void w16_sum_halves(const w16 v[16], w16 *low, w16 *high)
{
    *low = NEON_EACH(w16, v4_sums(v + 4 * i, 0));
    *high = NEON_EACH(w16, v4_sums(v + 4 * i, 2));
}

/* Each dword by its own n. */
static inline w16 w16_shift_right_each(w16 a, w16 n)
{
    return NEON_EACH(w16, vshlq_u32(a.q[i], vnegq_s32(v4_signed(n.q[i]))));
}

/* Bytes of four vectors side by side: of each 16 bytes, dword i has number 4 part + i of a, b, c and d. */
static inline uint32x4_t v4_quads(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d,
                                  uint32_t part)
{
    uint8x16_t x = vreinterpretq_u8_u32(a), y = vreinterpretq_u8_u32(b);
    uint8x16_t z = vreinterpretq_u8_u32(c), w = vreinterpretq_u8_u32(d);
    uint16x8_t xy = vreinterpretq_u16_u8(part < 2 ? vzip1q_u8(x, y) : vzip2q_u8(x, y));
    uint16x8_t zw = vreinterpretq_u16_u8(part < 2 ? vzip1q_u8(z, w) : vzip2q_u8(z, w));
    return vreinterpretq_u32_u16(part % 2 == 0 ? vzip1q_u16(xy, zw) : vzip2q_u16(xy, zw));
}

static inline w16 w16_quads(w16 a, w16 b, w16 c, w16 d, uint32_t part)
{
    return NEON_EACH(w16, v4_quads(a.q[i], b.q[i], c.q[i], d.q[i], part));
}

/* 16 rows of 64 bytes to 16 registers of one dword per row: squares of 4, which change places. */
static inline void w16_transpose(w16 v[16])
{
    for (int a = 0; a < 16; a += 4)
        for (int b = 0; b < 4; b++)
            v4_transpose(&v[a].q[b], &v[a + 1].q[b], &v[a + 2].q[b], &v[a + 3].q[b]);
    for (int a = 0; a < 4; a++)
        for (int b = a + 1; b < 4; b++)
            for (int i = 0; i < 4; i++) {
                uint32x4_t t = v[4 * a + i].q[b];
                v[4 * a + i].q[b] = v[4 * b + i].q[a];
                v[4 * b + i].q[a] = t;
            }
}

static inline void v16_transpose(v16 v[16])
{
    w16 t[16];
    memcpy(t, v, sizeof(t));
    w16_transpose(t);
    memcpy(v, t, sizeof(t));
}

/* The tree of kernels.h. */
static inline float v16_tree(v16 v)
{
    float32x4_t b = vaddq_f32(vaddq_f32(v.q[0], v.q[2]), vaddq_f32(v.q[1], v.q[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

/* The trees of n vectors, side by side. */
static inline void v16_trees(const v16 *v, uint32_t n, float *dst)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = v16_tree(v[i]);
}

static inline float v16_max_lane(v16 v)
{
    v16 a = v16_max(v, (v16){ { v.q[2], v.q[3], v.q[0], v.q[1] } });
    a = v16_max(a, (v16){ { a.q[1], a.q[0], a.q[3], a.q[2] } });
    float lane[4];
    vst1q_f32(lane, a.q[0]);
    float x = lane[0] > lane[2] ? lane[0] : lane[2], y = lane[1] > lane[3] ? lane[1] : lane[3];
    return x > y ? x : y;
}

#endif
