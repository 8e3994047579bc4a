/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - which of two ways to a product is faster: all neurons, zeros too, or only those that are not.
 *
 * Both give the same bits, so that nothing but time depends on the choice, and it can be made by trying: of the layer, the
 * product and the size of the step at hand the time of either way is known from the last steps, and the slower one is
 * tried again now and then, the more seldom the slower it was.  No model of the machine is needed, which would have to know
 * its threads, caches, the type of the weights, and the text.
 *
 * Stepping thread only.
 */
#ifndef LACUNA_ENGINE_PLAN_H
#define LACUNA_ENGINE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/sparsity/sparsity.h"

enum plan_way { PLAN_ALL, PLAN_NONZERO, PLAN_WAYS };

enum {
    PLAN_MOST_ROWS = 64, /* of a step; with more, zeros are never skipped */
    PLAN_SIZES = 7,      /* of steps: 1, 2, 3 to 4, ... 33 to 64 rows */
};

/* Zeroed: nothing is known. */
struct plan_cell {
    float ns[PLAN_WAYS]; /* per row */
    uint8_t n_tries[PLAN_WAYS];
    uint16_t n_since; /* steps since the slower way was tried */
};

/* Of all layers, products and sizes. */
size_t plan_n_cells(uint32_t n_layers);
/* Of n_rows rows (1 .. PLAN_MOST_ROWS), some of which, is_mixed, do without nothing. */
struct plan_cell *plan_find(struct plan_cell *cells, uint32_t layer, enum sparsity_site site,
                            uint32_t n_rows, bool is_mixed);

enum plan_way plan_choose(struct plan_cell *c);
/* What the way that was chosen took, per row. */
void plan_learn(struct plan_cell *c, enum plan_way way, float ns);

#endif
