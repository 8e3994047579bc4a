/* SPDX-License-Identifier: Apache-2.0
 *
 * share.h - how the rows or panels of a matrix are shared out among threads: long items first, so that weights come in
 * long streams, short ones last, so that all threads end together though one may be slower.
 * (Factoring: Hummel, Schonberg, Flynn, CACM 35(8), 1992.)
 */
#ifndef LACUNA_ENGINE_SHARE_H
#define LACUNA_ENGINE_SHARE_H

#include <stdint.h>

/* Rounds of one item per thread: each shares out half of what is left, the last one all of it. */
struct share {
    uint32_t n_units, n_threads, n_rounds;
};

/* n_units > 0, shared out in items of at least n_least > 0 where there are enough for that. */
struct share share_out(uint32_t n_units, uint32_t n_threads, uint32_t n_least);
uint32_t share_n_items(const struct share *s);
/* Units [*from, *to) of an item, in ascending order, none empty. */
void share_item(const struct share *s, uint32_t item, uint32_t *from, uint32_t *to);

#endif
