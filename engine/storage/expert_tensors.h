/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_tensors.h - a mixture's experts as the model's file has them: of each layer a tensor of gates, one of
 * ups and one of downs, [n_experts] matrices each.
 */
#ifndef LACUNA_ENGINE_EXPERT_TENSORS_H
#define LACUNA_ENGINE_EXPERT_TENSORS_H

#include "engine/model/gguf.h"

enum expert_part { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_N_PARTS };

/* NULL: the layer is dense, or, of the gate, the experts have none. */
struct experts_layer {
    const struct gguf_tensor *part[EXPERT_N_PARTS];
};

/* The tensors of a layer's experts; all NULL: it has none. */
void experts_find(const struct gguf *g, uint32_t layer, struct experts_layer *out);

/* How many layers have experts. */
uint32_t experts_n_layers(const struct experts_layer *layers, uint32_t n_layers);

/* Direct reads come by blocks: offsets, sizes and addresses are multiples of this. */
enum { EXPERT_BLOCK_BYTES = 4096 };
uint64_t expert_whole_blocks(uint64_t bytes); /* rounds up */

/* One expert's matrix in the file: its bytes, where it begins, and the most that the blocks take in which it lies. */
uint64_t expert_file_bytes(const struct gguf_tensor *t);
uint64_t expert_file_offset(const struct gguf_tensor *t, uint32_t expert);
uint64_t expert_blocks_bytes(const struct gguf_tensor *t);
/* Is it computed with as the file has it, and little beside it in its blocks?  Then these are read to where it stays. */
bool expert_goes_straight(const struct gguf_tensor *t);
/* The memory that it takes: as it is computed with, or its blocks; and where reads of it pass through. */
uint64_t expert_memory_bytes(const struct gguf_tensor *t);
uint64_t expert_staging_bytes(const struct gguf_tensor *t);

/* The most that one expert of any layer takes, by the bytes of its matrices. */
uint64_t experts_largest(const struct experts_layer *layers, uint32_t n_layers,
                         uint64_t (*bytes)(const struct gguf_tensor *t));

#endif
