/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.h - the frequencies of rotary positions, with the scalings that GGUF models carry: linear,
 * YaRN (Peng et al. 2023), Llama 3 and LongRoPE factors.
 */
#ifndef LACUNA_ENGINE_ROPE_H
#define LACUNA_ENGINE_ROPE_H

#include "engine/model/config.h"

/* Fills shape->rope from the metadata and the factor tensors; n_ctx 0: as trained. */
int rope_read(struct model_shape *shape, const struct gguf *g, uint32_t n_ctx,
              struct engine_err *err);

/* out = n_pairs cosines, then n_pairs sines, of one position. */
void rope_angles(const struct rope_shape *rope, uint32_t position, float *out);

#endif
