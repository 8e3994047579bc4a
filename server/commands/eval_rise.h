/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_rise.h - `lacuna eval --ppl-rise`: with how many neurons perplexity has risen by so much (PPL-p% of the Sparsing
 * Law, arXiv 2411.02335).  Pure.
 */
#ifndef LACUNA_SERVER_EVAL_RISE_H
#define LACUNA_SERVER_EVAL_RISE_H

#include <stdint.h>

/* Points of a curve: the share of neurons computed, descending, and by what share perplexity is higher than with all. */
struct rise_point {
    double share, rise;
};

enum { RISE_POINTS = 19 }; /* shares that are measured: .95, .9, ... .05 */

/* The text of the operating point number i of those. */
void rise_point_name(uint32_t i, char *text, uint32_t cap);

/* The least share down to which perplexity stays within `rise`, on straight lines between n points and (1, 0).  The last
 * point's share: it stays within at all of them. */
double rise_share(const struct rise_point *curve, uint32_t n, double rise);

#endif
