/* SPDX-License-Identifier: Apache-2.0
 *
 * share.c - see share.h.
 */
#include "engine/share.h"

/* Units that are shared out before a round. */
static uint32_t units_before(const struct share *s, uint32_t round)
{
    return round == s->n_rounds ? s->n_units : s->n_units - (s->n_units >> round);
}

struct share share_out(uint32_t n_units, uint32_t n_threads, uint32_t n_least)
{
    struct share s = { n_units, n_threads, 1 };
    uint32_t n_items = n_units / n_least > 0 ? n_units / n_least : 1;
    if (n_items < n_threads)
        s.n_threads = n_items;
    uint64_t least = (uint64_t)s.n_threads * n_least;
    while (n_units >> s.n_rounds >= least)
        s.n_rounds++;
    return s;
}

uint32_t share_n_items(const struct share *s)
{
    return s->n_rounds * s->n_threads;
}

void share_item(const struct share *s, uint32_t item, uint32_t *from, uint32_t *to)
{
    uint32_t round = item / s->n_threads, i = item % s->n_threads;
    uint32_t first = units_before(s, round);
    uint64_t n = units_before(s, round + 1) - first;
    *from = first + (uint32_t)(n * i / s->n_threads);
    *to = first + (uint32_t)(n * (i + 1) / s->n_threads);
}
