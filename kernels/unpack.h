/* SPDX-License-Identifier: Apache-2.0
 *
 * unpack.h - stored blocks to (u, zero, s, m): the form of the canonical order in kernels.h, one
 * static inline function per type.  Included by ref.c and by every variant; the vectors of 16 bytes
 * are what any compiler target has.
 *
 * A function unpacks UNPACK_VALUES weights of one row: u[256], and per group its scale (and
 * minimum).  For types with blocks of 32, up to 8 blocks; n_blocks tells how many are there.
 *
 * Types with super-blocks of 256 (all bit fields little endian):
 *   Q2_K   16 u8 (low nibble scale, high nibble min), 64 bytes of 2-bit, f16 d, f16 dmin
 *   Q3_K   32 bytes of third bits, 64 bytes of 2-bit, 12 bytes = 16 6-bit scales, f16 d
 *   Q4_K   f16 d, f16 dmin, 12 bytes = 8 6-bit scales and 8 6-bit minima, 128 bytes of nibbles
 *   Q5_K   the same with 32 bytes of fifth bits before the nibbles
 *   Q6_K   128 bytes low nibbles, 64 bytes of high 2-bit pairs, 16 int8 scales, f16 d
 *   Q8_K   f32 d, 256 int8, 16 int16 sums (not needed)
 *   IQ4_XS f16 d, u16 high scale bits, 4 bytes low scale bits, 128 bytes of nibbles
 */
#ifndef LACUNA_KERNELS_UNPACK_H
#define LACUNA_KERNELS_UNPACK_H

#include <string.h>
#ifdef __SSSE3__
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "kernels/kernels.h"

enum { UNPACK_VALUES = 256, UNPACK_GROUPS = 16 };

/* x(type) for each type that can be unpacked. */
#define UNPACK_EACH_TYPE(x)                                                                        \
    x(KERN_TYPE_Q4_0) x(KERN_TYPE_Q4_1) x(KERN_TYPE_Q5_0) x(KERN_TYPE_Q5_1) x(KERN_TYPE_Q8_0)      \
        x(KERN_TYPE_Q2_K) x(KERN_TYPE_Q3_K) x(KERN_TYPE_Q4_K) x(KERN_TYPE_Q5_K) x(KERN_TYPE_Q6_K)  \
            x(KERN_TYPE_Q8_K) x(KERN_TYPE_IQ4_NL) x(KERN_TYPE_IQ4_XS) x(KERN_TYPE_MXFP4)

/* Where 256 weights of one row go.  Scale and minimum of group g are s[g * stride], m[g * stride],
 * so that the rows of a panel can be unpacked side by side. */
struct unpacked {
    uint8_t *u; /* [UNPACK_VALUES] */
    float *s;
    float *m; /* written only for types with a minimum */
    size_t stride;
};

/* The codebook of IQ4_NL and IQ4_XS, and that of MXFP4 (FP4 E2M1, doubled), both plus 128. */
static const uint8_t unpack_iq4_table[16] = { 128 - 127, 128 - 104, 128 - 83, 128 - 65,
                                              128 - 49,  128 - 35,  128 - 22, 128 - 10,
                                              128 + 1,   128 + 13,  128 + 25, 128 + 38,
                                              128 + 53,  128 + 69,  128 + 89, 128 + 113 };
static const uint8_t unpack_fp4_table[16] = { 128 + 0, 128 + 1,  128 + 2, 128 + 3, 128 + 4, 128 + 6,
                                              128 + 8, 128 + 12, 128 - 0, 128 - 1, 128 - 2, 128 - 3,
                                              128 - 4, 128 - 6,  128 - 8, 128 - 12 };

static inline float unpack_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
#ifdef __F16C__
    return __builtin_ia32_vcvtph2ps((__attribute__((vector_size(16))) short){ (short)h })[0];
#elif defined(__ARM_NEON)
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
#else
    return kern_f16_to_f32(h);
#endif
}

/* Weights of a stored block, and of a group, as in kern_type_info, but known to the compiler. */
static inline uint32_t unpack_block(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_Q2_K:
    case KERN_TYPE_Q3_K:
    case KERN_TYPE_Q4_K:
    case KERN_TYPE_Q5_K:
    case KERN_TYPE_Q6_K:
    case KERN_TYPE_Q8_K:
    case KERN_TYPE_IQ4_XS:
        return 256;
    default:
        return 32;
    }
}

static inline uint32_t unpack_group(enum kern_type type)
{
    return type == KERN_TYPE_Q2_K || type == KERN_TYPE_Q3_K || type == KERN_TYPE_Q6_K ? 16 : 32;
}

static inline bool unpack_has_min(enum kern_type type)
{
    return type == KERN_TYPE_Q4_1 || type == KERN_TYPE_Q5_1 || type == KERN_TYPE_Q2_K ||
           type == KERN_TYPE_Q4_K || type == KERN_TYPE_Q5_K;
}

/* The zero point: what is subtracted from u. */
static inline int unpack_zero(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_Q4_0:
        return 8;
    case KERN_TYPE_Q5_0:
        return 16;
    case KERN_TYPE_Q3_K:
        return 4;
    case KERN_TYPE_Q6_K:
        return 32;
    case KERN_TYPE_Q8_0:
    case KERN_TYPE_Q8_K:
    case KERN_TYPE_IQ4_NL:
    case KERN_TYPE_IQ4_XS:
    case KERN_TYPE_MXFP4:
        return 128;
    default:
        return 0;
    }
}

/* What stored integers stand for; NULL: themselves. */
static inline const uint8_t *unpack_table_of(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_IQ4_NL:
    case KERN_TYPE_IQ4_XS:
        return unpack_iq4_table;
    case KERN_TYPE_MXFP4:
        return unpack_fp4_table;
    default:
        return NULL;
    }
}

/* Largest u: products without dot products of bytes need to know how many of them 16 bits hold. */
static inline int unpack_max(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_Q2_K:
        return 3;
    case KERN_TYPE_Q3_K:
        return 7;
    case KERN_TYPE_Q4_0:
    case KERN_TYPE_Q4_1:
    case KERN_TYPE_Q4_K:
        return 15;
    case KERN_TYPE_Q5_0:
    case KERN_TYPE_Q5_1:
    case KERN_TYPE_Q5_K:
        return 31;
    case KERN_TYPE_Q6_K:
        return 63;
    default:
        return 255;
    }
}

typedef uint8_t u8x16 __attribute__((vector_size(16)));

static inline u8x16 unpack_load(const uint8_t *p)
{
    u8x16 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void unpack_store(uint8_t *p, u8x16 v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void unpack_nibbles(const uint8_t *src, uint8_t *u)
{
    u8x16 v = unpack_load(src);
    unpack_store(u, v & 15);
    unpack_store(u + 16, v >> 4);
}

static inline void unpack_table(const uint8_t *src, const uint8_t *table, uint8_t *u)
{
#ifdef __SSSE3__
    u8x16 v = unpack_load(src);
    __m128i t = (__m128i)unpack_load(table);
    unpack_store(u, (u8x16)_mm_shuffle_epi8(t, (__m128i)(v & 15)));
    unpack_store(u + 16, (u8x16)_mm_shuffle_epi8(t, (__m128i)(v >> 4)));
#elif defined(__ARM_NEON)
    u8x16 v = unpack_load(src);
    uint8x16_t t = vld1q_u8(table);
    unpack_store(u, (u8x16)vqtbl1q_u8(t, (uint8x16_t)(v & 15)));
    unpack_store(u + 16, (u8x16)vqtbl1q_u8(t, (uint8x16_t)(v >> 4)));
#else
    for (int j = 0; j < 16; j++) {
        u[j] = table[src[j] & 15];
        u[j + 16] = table[src[j] >> 4];
    }
#endif
}

static inline void unpack_q4_0(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 18) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        unpack_nibbles(src + 2, out->u + 32 * b);
    }
}

static inline void unpack_q4_1(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 20) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        out->m[(size_t)b * out->stride] = unpack_f16(src + 2);
        unpack_nibbles(src + 4, out->u + 32 * b);
    }
}

/* Bit j of the word becomes bit 4 of u[j].  Eight at a time: a byte copied to all eight, each
 * keeping one bit; adding 127 carries any bit into the top one. */
static inline void unpack_fifth_bits(const uint8_t *word, uint8_t *u)
{
    for (int i = 0; i < 4; i++) {
        uint64_t bits = word[i] * 0x0101010101010101u & 0x8040201008040201u, v;
        memcpy(&v, u + 8 * i, sizeof(v));
        v |= ((bits + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
        memcpy(u + 8 * i, &v, sizeof(v));
    }
}

static inline void unpack_q5_0(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 22) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        unpack_nibbles(src + 6, out->u + 32 * b);
        unpack_fifth_bits(src + 2, out->u + 32 * b);
    }
}

static inline void unpack_q5_1(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 24) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        out->m[(size_t)b * out->stride] = unpack_f16(src + 2);
        unpack_nibbles(src + 8, out->u + 32 * b);
        unpack_fifth_bits(src + 4, out->u + 32 * b);
    }
}

static inline void unpack_q8_0(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 34) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        unpack_store(out->u + 32 * b, unpack_load(src + 2) ^ 0x80);
        unpack_store(out->u + 32 * b + 16, unpack_load(src + 18) ^ 0x80);
    }
}

static inline void unpack_iq4_nl(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 18) {
        out->s[(size_t)b * out->stride] = unpack_f16(src);
        unpack_table(src + 2, unpack_iq4_table, out->u + 32 * b);
    }
}

/* 2^(e - 128): half of the E8M0 value, since the table holds doubled numbers. */
static inline float unpack_e8m0_half(uint8_t e)
{
    uint32_t bits = e < 2 ? (uint32_t)0x00200000 << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline void unpack_mxfp4(const uint8_t *src, uint32_t n_blocks, const struct unpacked *out)
{
    for (uint32_t b = 0; b < n_blocks; b++, src += 17) {
        out->s[(size_t)b * out->stride] = unpack_e8m0_half(src[0]);
        unpack_table(src + 1, unpack_fp4_table, out->u + 32 * b);
    }
}

static inline void unpack_q2_k(const uint8_t *src, const struct unpacked *out)
{
    const uint8_t *bits = src + 16;
    float d = unpack_f16(src + 80), dmin = unpack_f16(src + 82);
    for (int g = 0; g < 16; g++) {
        out->s[(size_t)g * out->stride] = d * (float)(src[g] & 15);
        out->m[(size_t)g * out->stride] = -(dmin * (float)(src[g] >> 4));
    }
    /* Two halves of 128; each of their 32 bytes holds four weights 32 apart. */
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 32; j += 16) {
            u8x16 v = unpack_load(bits + 32 * h + j);
            for (int k = 0; k < 4; k++)
                unpack_store(out->u + 128 * h + 32 * k + j, v >> (uint8_t)(2 * k) & 3);
        }
}

/* Sixteen 6-bit scales in 12 bytes: 4 low bits in the first 8 bytes, 2 high bits in the last 4. */
static inline int unpack_q3_scale(const uint8_t *p, int g)
{
    int low = g < 8 ? p[g] & 15 : p[g - 8] >> 4;
    int high = p[8 + g % 4] >> (2 * (g / 4)) & 3;
    return (low | high << 4) - 32;
}

static inline void unpack_q3_k(const uint8_t *src, const struct unpacked *out)
{
    const uint8_t *high = src, *bits = src + 32, *scales = src + 96;
    float d = unpack_f16(src + 108);
    for (int g = 0; g < 16; g++)
        out->s[(size_t)g * out->stride] = d * (float)unpack_q3_scale(scales, g);
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 32; j += 16) {
            u8x16 v = unpack_load(bits + 32 * h + j), third = unpack_load(high + j);
            for (int k = 0; k < 4; k++)
                unpack_store(out->u + 128 * h + 32 * k + j,
                             (v >> (uint8_t)(2 * k) & 3) | (third >> (uint8_t)(4 * h + k) & 1)
                                                               << 2);
        }
}

/* Eight pairs of 6-bit scale and minimum in 12 bytes. */
static inline void unpack_q4k_scale(const uint8_t *p, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = p[g] & 63;
        *min = p[g + 4] & 63;
    } else {
        *scale = (p[g + 4] & 15) | (p[g - 4] >> 6) << 4;
        *min = (p[g + 4] >> 4) | (p[g] >> 6) << 4;
    }
}

static inline void unpack_q4k_scales(const uint8_t *src, const struct unpacked *out)
{
    float d = unpack_f16(src), dmin = unpack_f16(src + 2);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        unpack_q4k_scale(src + 4, g, &scale, &min);
        out->s[(size_t)g * out->stride] = d * (float)scale;
        out->m[(size_t)g * out->stride] = -(dmin * (float)min);
    }
}

static inline void unpack_q4_k(const uint8_t *src, const struct unpacked *out)
{
    const uint8_t *bits = src + 16;
    unpack_q4k_scales(src, out);
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 32; j += 16) {
            u8x16 v = unpack_load(bits + 32 * k + j);
            unpack_store(out->u + 64 * k + j, v & 15);
            unpack_store(out->u + 64 * k + 32 + j, v >> 4);
        }
}

static inline void unpack_q5_k(const uint8_t *src, const struct unpacked *out)
{
    const uint8_t *high = src + 16, *bits = src + 48;
    unpack_q4k_scales(src, out);
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 32; j += 16) {
            u8x16 v = unpack_load(bits + 32 * k + j), fifth = unpack_load(high + j);
            unpack_store(out->u + 64 * k + j, (v & 15) | (fifth >> (uint8_t)(2 * k) & 1) << 4);
            unpack_store(out->u + 64 * k + 32 + j, v >> 4 | (fifth >> (uint8_t)(2 * k + 1) & 1)
                                                                << 4);
        }
}

static inline void unpack_q6_k(const uint8_t *src, const struct unpacked *out)
{
    const uint8_t *low = src, *high = src + 128;
    const int8_t *scales = (const int8_t *)src + 192;
    float d = unpack_f16(src + 208);
    for (int g = 0; g < 16; g++)
        out->s[(size_t)g * out->stride] = d * (float)scales[g];
    for (int h = 0; h < 2; h++, low += 64, high += 32)
        for (int j = 0; j < 32; j += 16) {
            uint8_t *u = out->u + 128 * h + j;
            u8x16 v = unpack_load(low + j), w = unpack_load(low + j + 32);
            u8x16 top = unpack_load(high + j);
            unpack_store(u, (v & 15) | (top & 3) << 4);
            unpack_store(u + 32, (w & 15) | (top >> 2 & 3) << 4);
            unpack_store(u + 64, v >> 4 | (top >> 4 & 3) << 4);
            unpack_store(u + 96, w >> 4 | (top >> 6) << 4);
        }
}

static inline void unpack_q8_k(const uint8_t *src, const struct unpacked *out)
{
    float d;
    memcpy(&d, src, sizeof(d));
    for (int g = 0; g < 8; g++)
        out->s[(size_t)g * out->stride] = d;
    for (int j = 0; j < 256; j += 16)
        unpack_store(out->u + j, unpack_load(src + 4 + j) ^ 0x80);
}

static inline int unpack_iq4_xs_scale(const uint8_t *src, int g)
{
    int low = src[4 + g / 2] >> (4 * (g % 2)) & 15;
    int high = (src[2 + g / 4] >> (2 * (g % 4))) & 3;
    return (low | high << 4) - 32;
}

static inline void unpack_iq4_xs(const uint8_t *src, const struct unpacked *out)
{
    float d = unpack_f16(src);
    for (int g = 0; g < 8; g++) {
        out->s[(size_t)g * out->stride] = d * (float)unpack_iq4_xs_scale(src, g);
        unpack_table(src + 8 + 16 * g, unpack_iq4_table, out->u + 32 * g);
    }
}

/* n_values weights of one row, a multiple of the type's block and at most 256. */
static inline void unpack(enum kern_type type, const uint8_t *src, uint32_t n_values,
                          const struct unpacked *out)
{
    switch (type) {
    case KERN_TYPE_Q4_0:
        unpack_q4_0(src, n_values / 32, out);
        break;
    case KERN_TYPE_Q4_1:
        unpack_q4_1(src, n_values / 32, out);
        break;
    case KERN_TYPE_Q5_0:
        unpack_q5_0(src, n_values / 32, out);
        break;
    case KERN_TYPE_Q5_1:
        unpack_q5_1(src, n_values / 32, out);
        break;
    case KERN_TYPE_Q8_0:
        unpack_q8_0(src, n_values / 32, out);
        break;
    case KERN_TYPE_IQ4_NL:
        unpack_iq4_nl(src, n_values / 32, out);
        break;
    case KERN_TYPE_MXFP4:
        unpack_mxfp4(src, n_values / 32, out);
        break;
    case KERN_TYPE_Q2_K:
        unpack_q2_k(src, out);
        break;
    case KERN_TYPE_Q3_K:
        unpack_q3_k(src, out);
        break;
    case KERN_TYPE_Q4_K:
        unpack_q4_k(src, out);
        break;
    case KERN_TYPE_Q5_K:
        unpack_q5_k(src, out);
        break;
    case KERN_TYPE_Q6_K:
        unpack_q6_k(src, out);
        break;
    case KERN_TYPE_Q8_K:
        unpack_q8_k(src, out);
        break;
    case KERN_TYPE_IQ4_XS:
        unpack_iq4_xs(src, out);
        break;
    default:
        break;
    }
}

#endif
