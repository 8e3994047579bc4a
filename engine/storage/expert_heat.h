/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_heat.h - how often tokens chose each expert, kept in a file from one run to the next: a server starts
 * with the experts in memory that its users want.
 */
#ifndef LACUNA_ENGINE_EXPERT_HEAT_H
#define LACUNA_ENGINE_EXPERT_HEAT_H

#include "engine/engine.h"

/* Whose heats they are. */
struct expert_heat_model {
    uint32_t n_layers, n_experts;
    uint64_t hash; /* engine_info.model_hash */
};

/* heat [n_layers][n_experts] from the file.  1: there is no such file, or nothing in it.  ENGINE_ERR_FILE: it cannot
 * be read, or is another model's, or damaged; ENGINE_ERR_OPTION: it is no file of heats, so that it must not be
 * overwritten. */
int expert_heat_read(const char *path, const struct expert_heat_model *model, float *heat,
                     struct engine_err *err);
/* Replaces the file as a whole, or leaves the old one; after a power failure there may be neither. */
int expert_heat_write(const char *path, const struct expert_heat_model *model, const float *heat,
                      struct engine_err *err);

#endif
