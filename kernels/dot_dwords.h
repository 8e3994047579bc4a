/* SPDX-License-Identifier: Apache-2.0
 *
 * dot_dwords.h - sums of products (panel.h) where one instruction adds the products of bytes to dwords:
 * nothing is to be widened, however many are added up.
 */
#ifndef LACUNA_KERNELS_DOT_DWORDS_H
#define LACUNA_KERNELS_DOT_DWORDS_H

KERN_INLINE uint32_t w16_dot_steps(int max)
{
    (void)max;
    return UINT32_MAX;
}

KERN_INLINE w16 w16_dot_begin(w16 sum, int max)
{
    (void)max;
    return sum;
}

KERN_INLINE w16 w16_dot_end(w16 part, w16 sum, int max)
{
    (void)sum, (void)max;
    return part;
}

#endif
