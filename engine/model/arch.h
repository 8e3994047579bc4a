/* SPDX-License-Identifier: Apache-2.0
 *
 * arch.h - the descriptor table: what distinguishes one general.architecture from another.
 *
 * All of them are pre- or post-norm decoders with rotary positions and grouped-query attention; a
 * row says where they differ.  forward/ reads the row, never the name.
 */
#ifndef LACUNA_ENGINE_ARCH_H
#define LACUNA_ENGINE_ARCH_H

#include "engine/engine.h"
#include "kernels/kernels.h"

enum arch_norms {
    ARCH_NORMS_PRE,  /* x += f(norm(x)) */
    ARCH_NORMS_POST, /* x += norm(f(x)) */
    ARCH_NORMS_BOTH, /* x += norm(f(norm(x))) */
};

enum arch_qk_norm {
    ARCH_QK_NORM_NONE,
    ARCH_QK_NORM_HEAD, /* each head by itself */
    ARCH_QK_NORM_ROW,  /* all heads as one vector */
};

enum arch_router_input {
    ARCH_ROUTER_FFN_INPUT,   /* the normed input of the feed-forward block */
    ARCH_ROUTER_LAYER_INPUT, /* the residual that enters the layer, not normed */
};

enum arch_window {
    ARCH_WINDOW_NONE, /* a sliding_window key is ignored */
    ARCH_WINDOW_KEY,  /* the key's number, on the layers of the period */
    ARCH_WINDOW_4096, /* any number in the key means 4,096, as the reference engines do */
};

struct arch {
    const char *name; /* general.architecture */
    enum arch_norms norms;
    enum arch_qk_norm qk_norm;
    bool rope_interleaved; /* pairs (2i, 2i+1); else the halves of a head */
    enum kern_activation activation;
    bool ungated;          /* act(up) instead of act(gate) * up */
    bool fused_qkv;        /* attn_qkv.weight: q, then k, then v */
    bool fused_gate_up;    /* ffn_up.weight: gate, then up */
    bool embed_sqrt_width; /* embeddings times sqrt(n_embd) */
    bool scale_keys;       /* embedding_scale, residual_scale, attention.scale, logit_scale */
    bool soft_cap_keys;    /* attn_logit_softcapping, final_logit_softcapping */
    bool rope_switch;      /* rope.scaling.finetuned = false: no rotary positions at all */

    /* Layers l with l % period == global_at look at everything, the others through the window. */
    enum arch_window window;
    uint8_t window_period, window_global_at;
    float window_rope_base; /* of windowed layers, without rope scaling; 0: as the others */
    bool window_rope_plain; /* windowed layers have the common base, but no rope scaling */

    /* Layers l with l % nope_period == nope_at have no rotary positions. 0: all have. */
    uint8_t nope_period, nope_at;
    bool nope_with_window_only; /* the pattern holds only if the model has a window */

    enum arch_router_input router_input;
    bool router_sigmoid_default; /* without expert_gating_func: sigmoid, not softmax */
    bool expert_weights_normed;  /* the selected experts' weights are scaled to sum 1 */
    bool shared_expert_gated;    /* ffn_gate_inp_shexp: a sigmoid times the shared expert */

    /* The model with this many layers scales attention by its width per head, not by the channels
     * of a head (gemma3's largest). 0: none does. */
    uint8_t width_scaled_layers;
};

const struct arch *arch_find(const char *name, size_t len); /* NULL if unknown */
void arch_names(char *out, size_t cap);                     /* "llama, qwen2, ...", cut at cap */

#endif
