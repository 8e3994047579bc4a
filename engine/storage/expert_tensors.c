/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_tensors.c - names and sizes.
 */
#include "engine/storage/expert_tensors.h"

#include <stdio.h>

#include "engine/model/repack.h"

void experts_find(const struct gguf *g, uint32_t layer, struct experts_layer *out)
{
    static const char *const names[EXPERT_N_PARTS] = { "gate", "up", "down" };
    for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%u.ffn_%s_exps.weight", layer, names[p]);
        out->part[p] = gguf_find_tensor(g, name);
    }
}

uint32_t experts_n_layers(const struct experts_layer *layers, uint32_t n_layers)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < n_layers; l++)
        n += layers[l].part[EXPERT_DOWN] != NULL;
    return n;
}

uint64_t expert_file_bytes(const struct gguf_tensor *t)
{
    return t->bytes / t->ne[2];
}

uint64_t expert_file_offset(const struct gguf_tensor *t, uint32_t expert)
{
    return t->offset + expert * expert_file_bytes(t);
}

uint64_t expert_whole_blocks(uint64_t bytes)
{
    return (bytes + EXPERT_BLOCK_BYTES - 1) / EXPERT_BLOCK_BYTES * EXPERT_BLOCK_BYTES;
}

uint64_t expert_blocks_bytes(const struct gguf_tensor *t)
{
    uint64_t bytes = expert_file_bytes(t);
    bool is_aligned = bytes % EXPERT_BLOCK_BYTES == 0 && t->offset % EXPERT_BLOCK_BYTES == 0;
    return expert_whole_blocks(bytes) + (is_aligned ? 0 : EXPERT_BLOCK_BYTES);
}

bool expert_goes_straight(const struct gguf_tensor *t)
{
    enum { MUCH = 20 }; /* one part of so many */
    uint64_t beside = expert_blocks_bytes(t) - expert_file_bytes(t);
    return !repack_wants(t) && beside <= expert_file_bytes(t) / MUCH;
}

uint64_t expert_memory_bytes(const struct gguf_tensor *t)
{
    enum { LINE = 64 };
    if (expert_goes_straight(t))
        return expert_blocks_bytes(t);
    return (repack_memory_bytes(t) / t->ne[2] + LINE - 1) / LINE * LINE;
}

uint64_t expert_staging_bytes(const struct gguf_tensor *t)
{
    return expert_goes_straight(t) ? 0 : expert_blocks_bytes(t);
}

uint64_t experts_largest(const struct experts_layer *layers, uint32_t n_layers,
                         uint64_t (*bytes)(const struct gguf_tensor *t))
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < n_layers; l++) {
        uint64_t sum = 0;
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++)
            sum += layers[l].part[p] ? bytes(layers[l].part[p]) : 0;
        most = sum > most ? sum : most;
    }
    return most;
}
