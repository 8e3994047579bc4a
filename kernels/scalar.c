/* SPDX-License-Identifier: Apache-2.0
 *
 * scalar.c - the number formats and the exponential, one value at a time.
 */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

float kern_bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

float kern_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) /* infinity, or a NaN made quiet as the hardware does */
        return from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent == 0) /* zero or subnormal: mantissa * 2^-24, exact */
        return from_bits(sign | to_bits((float)mantissa * 0x1p-24f));
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t kern_f32_to_f16(float f)
{
    uint32_t bits = to_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) /* NaN */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: subnormal, in steps of 2^-24 */
        float steps = rintf(from_bits(magnitude) * 0x1p24f);
        return (uint16_t)(sign | (uint32_t)steps);
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

float kern_exp(float x)
{
    if (!(x >= KERN_EXP_MIN))
        return x < KERN_EXP_MIN ? 0.0f : x;
    if (x > KERN_EXP_MAX)
        return INFINITY;
    float n = rintf(x * KERN_LOG2_E);
    float r = fmaf(-n, KERN_LN2_LOW, fmaf(-n, KERN_LN2_HIGH, x));
    float p = fmaf(KERN_EXP_C6, r, KERN_EXP_C5);
    p = fmaf(p, r, KERN_EXP_C4);
    p = fmaf(p, r, KERN_EXP_C3);
    p = fmaf(p, r, KERN_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}
