/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_rise.c - the first crossing of a curve.
 */
#include "server/commands/eval_rise.h"

#include <stdio.h>

void rise_point_name(uint32_t i, char *text, uint32_t cap)
{
    snprintf(text, cap, "neurons=%.2f", 1 - (i + 1.0) / (RISE_POINTS + 1));
}

double rise_share(const struct rise_point *curve, uint32_t n, double rise)
{
    struct rise_point above = { 1, 0 };
    for (uint32_t i = 0; i < n; i++) {
        if (curve[i].rise > rise)
            return above.share - (above.share - curve[i].share) * (rise - above.rise) /
                                     (curve[i].rise - above.rise);
        above = curve[i];
    }
    return above.share;
}
