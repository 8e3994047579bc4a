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

uint64_t expert_file_bytes(const struct gguf_tensor *t)
{
    return t->bytes / t->ne[2];
}

uint64_t expert_memory_bytes(const struct gguf *g, const struct gguf_tensor *t)
{
    enum { LINE = 64 };
    return (repack_memory_bytes(g, t) / t->ne[2] + LINE - 1) / LINE * LINE;
}

uint64_t experts_largest(const struct gguf *g, const struct experts_layer *layers,
                         uint32_t n_layers,
                         uint64_t (*bytes)(const struct gguf *g, const struct gguf_tensor *t))
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < n_layers; l++) {
        uint64_t sum = 0;
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++)
            sum += layers[l].part[p] ? bytes(g, layers[l].part[p]) : 0;
        most = sum > most ? sum : most;
    }
    return most;
}
