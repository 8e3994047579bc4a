/* SPDX-License-Identifier: Apache-2.0
 *
 * arch.c - the table of supported architectures.  A similar one is a new row and nothing else.
 *
 * The rows follow the models' papers and reference code: llama (also mistral and mixtral), Qwen2
 * and 3, Gemma 3 (five windowed layers, then a global one, each with its own rotary base), Granite
 * (four scalar factors), OLMo 2 and 3 (norms after the blocks) and OLMoE, SmolLM3 (every fourth layer
 * without rotary positions), Phi-3 (fused matrices), Arcee (squared ReLU, no gate), SmallThinker
 * (router before attention, ReLU experts).
 */
#include "engine/model/arch.h"

#include <stdio.h>
#include <string.h>

static const struct arch table[] = {
    {
        .name = "llama",
        .rope_interleaved = true,
        .activation = KERN_ACTIVATION_SILU,
        .expert_weights_normed = true,
    },
    {
        .name = "qwen2",
        .activation = KERN_ACTIVATION_SILU,
    },
    {
        .name = "qwen3",
        .qk_norm = ARCH_QK_NORM_HEAD,
        .activation = KERN_ACTIVATION_SILU,
    },
    {
        .name = "gemma3",
        .norms = ARCH_NORMS_BOTH,
        .qk_norm = ARCH_QK_NORM_HEAD,
        .activation = KERN_ACTIVATION_GELU,
        .embed_sqrt_width = true,
        .soft_cap_keys = true,
        .window = ARCH_WINDOW_KEY,
        .window_period = 6,
        .window_global_at = 5,
        .window_rope_base = 10000.0f,
        .width_scaled_layers = 62,
    },
    {
        .name = "granite",
        .rope_interleaved = true,
        .activation = KERN_ACTIVATION_SILU,
        .scale_keys = true,
        .rope_switch = true,
    },
    {
        .name = "olmo2",
        .norms = ARCH_NORMS_POST,
        .qk_norm = ARCH_QK_NORM_ROW,
        .activation = KERN_ACTIVATION_SILU,
        .window = ARCH_WINDOW_KEY, /* OLMo 3: three windowed layers, then a global one */
        .window_period = 4,
        .window_global_at = 3,
        .window_rope_plain = true,
    },
    {
        .name = "smollm3",
        .rope_interleaved = true,
        .activation = KERN_ACTIVATION_SILU,
        .nope_period = 4,
        .nope_at = 3,
    },
    {
        .name = "phi3",
        .activation = KERN_ACTIVATION_SILU,
        .fused_qkv = true,
        .fused_gate_up = true,
    },
    {
        .name = "arcee",
        .rope_interleaved = true,
        .activation = KERN_ACTIVATION_RELU2,
        .ungated = true,
    },
    {
        .name = "qwen2moe",
        .activation = KERN_ACTIVATION_SILU,
        .shared_expert_gated = true,
    },
    {
        .name = "qwen3moe",
        .qk_norm = ARCH_QK_NORM_HEAD,
        .activation = KERN_ACTIVATION_SILU,
        .expert_weights_normed = true,
    },
    {
        .name = "olmoe",
        .qk_norm = ARCH_QK_NORM_ROW,
        .activation = KERN_ACTIVATION_SILU,
    },
    {
        .name = "granitemoe",
        .rope_interleaved = true,
        .activation = KERN_ACTIVATION_SILU,
        .scale_keys = true,
        .rope_switch = true,
        .expert_weights_normed = true,
    },
    {
        .name = "smallthinker",
        .activation = KERN_ACTIVATION_RELU,
        .window = ARCH_WINDOW_4096,
        .window_period = 4,
        .window_global_at = 0,
        .nope_period = 4,
        .nope_at = 0,
        .nope_with_window_only = true,
        .router_input = ARCH_ROUTER_LAYER_INPUT,
        .router_sigmoid_default = true,
        .expert_weights_normed = true,
    },
};

enum { N_ARCHS = sizeof(table) / sizeof(table[0]) };

const struct arch *arch_find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
            return &table[i];
    return NULL;
}

void arch_names(char *out, size_t cap)
{
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_ARCHS && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? ", " : "", table[i].name);
}
