/* SPDX-License-Identifier: Apache-2.0
 *
 * config.h - the hyper-parameters of a model, read from its metadata and validated once: later code
 * has no checks.
 */
#ifndef LACUNA_ENGINE_CONFIG_H
#define LACUNA_ENGINE_CONFIG_H

#include "engine/model/arch.h"
#include "engine/model/gguf.h"
#include "kernels/kernels.h"
#include "kvcache/kvcache.h"

enum {
    CONFIG_MAX_LAYERS = 1024,
    CONFIG_MAX_ROPES = 2, /* of the global and of the windowed layers */
    CONFIG_MAX_EXPERTS = 1024,
    CONFIG_MAX_EXPERTS_USED = 64,
    CONFIG_NO_ROPE = 255,
    CONFIG_KEY_CAP = 160,
    CONFIG_OPEN_PARTS = 2, /* an open page of F16 takes the place of two of 8 bits */
};

/* Rotary positions: the angle of pair i at position p is p * inv_freq[i]. */
struct rope_shape {
    uint32_t n_pairs;
    double *inv_freq; /* [n_pairs], scaling included */
    float magnitude;  /* of cosine and sine (YaRN) */
};

struct layer_shape {
    uint8_t rope;    /* index into ropes, or CONFIG_NO_ROPE */
    uint32_t window; /* positions seen, the own included; 0: all */
    uint8_t group;   /* KV group */
    uint32_t layer_in_group;
};

struct model_shape {
    const struct arch *arch;
    enum kern_activation activation;
    uint32_t n_vocab, n_embd, n_layers, n_ctx_train;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_ff; /* of dense layers; 0 if all layers have experts */
    uint32_t n_experts, n_experts_used, n_ff_expert, n_ff_shared; /* 0: none */
    uint32_t n_experts_used_exact; /* as the model says; n_experts_used may be fewer */
    bool router_sigmoid;
    bool expert_weights_normed;
    float expert_weights_scale;
    float norm_eps;
    float embed_scale, residual_scale, attention_scale, logit_scale; /* factors */
    float attention_soft_cap, logit_soft_cap;                        /* 0: none */
    struct rope_shape rope[CONFIG_MAX_ROPES];
    struct layer_shape *layer; /* [n_layers] */
    enum kern_kv kv;           /* what pages hold of keys and values */
    bool keeps_bounds;         /* and the bounds of their keys: see page_choice.h */
    uint32_t n_groups;
    uint32_t group_window[2], group_layers[2];
};

/* "<architecture>.<name>" in the caller's buffer; returns it. */
const char *config_key(char *buf, size_t cap, const struct arch *arch, const char *name);

struct config_options {
    uint32_t n_vocab; /* the tokenizer's */
    enum engine_gating gating;
    uint32_t experts_used; /* per token; 0: as the file says */
    enum engine_kv kv;
    bool keeps_bounds;
};

/* All but the ropes, which may need tensors (rope.h).  On failure *shape is to be given to
 * config_fini all the same. */
int config_read(struct model_shape *shape, const struct gguf *g, const struct config_options *opt,
                struct engine_err *err);
void config_fini(struct model_shape *shape);

/* The pages of a KV group, but for their number. */
struct kv_group_options config_kv_group(const struct model_shape *shape, uint32_t group);
/* Bytes of one KV head in one page of one layer; and where in them the bounds of its keys lie, if they are kept. */
size_t config_head_page_bytes(const struct model_shape *shape);
size_t config_bounds_at(const struct model_shape *shape);

#endif
