/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_counts.h - what experts on demand did so far, by layer: counted by the stepping thread, read by any.
 */
#ifndef LACUNA_ENGINE_EXPERT_COUNTS_H
#define LACUNA_ENGINE_EXPERT_COUNTS_H

#include "engine/engine.h"

struct expert_counts;

struct expert_counts *expert_counts_open(uint32_t n_layers); /* NULL: no memory */
void expert_counts_close(struct expert_counts *c);           /* NULL is fine */

/* The stepping thread's own, to count in: of the layers [n_layers], and of all but what is a sum of these. */
struct engine_expert_layer *expert_counts_layers(struct expert_counts *c);
struct engine_expert_stats *expert_counts_all(struct expert_counts *c);
/* Between steps: what the others see from now on. */
void expert_counts_publish(struct expert_counts *c);

/* Any thread.  layers: [n_layers], or NULL. */
void expert_counts_read(struct expert_counts *c, struct engine_expert_stats *all,
                        struct engine_expert_layer *layers);

#endif
