/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - metadata to struct model_shape.  Keys are "<architecture>.<name>".
 */
#include "engine/model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf_internal.h"
#include "kvcache/kvcache.h"

const char *config_key(char *buf, size_t cap, const struct arch *arch, const char *name)
{
    snprintf(buf, cap, "%s.%s", arch->name, name);
    return buf;
}

struct reader {
    const struct gguf *g;
    const struct arch *arch;
    struct engine_err *err;
    char key[CONFIG_KEY_CAP];
};

static const char *key_of(struct reader *r, const char *name)
{
    return config_key(r->key, sizeof(r->key), r->arch, name);
}

/* A required count between 1 and limit. */
static int read_count(struct reader *r, const char *name, uint32_t limit, uint32_t *out)
{
    if (gguf_get_u32(r->g, key_of(r, name), true, out, r->err) != 0)
        return -1;
    if (*out == 0 || *out > limit)
        return engine_fail(r->err, ENGINE_ERR_FILE, "key \"%s\" is %u; 1 to %u is possible", r->key,
                           *out, limit);
    return 0;
}

/* An optional count: *out keeps its value if the key is absent; 0 is allowed. */
static int read_optional(struct reader *r, const char *name, uint32_t limit, uint32_t *out)
{
    if (!gguf_has(r->g, key_of(r, name)))
        return 0;
    if (gguf_get_u32(r->g, r->key, true, out, r->err) != 0)
        return -1;
    if (*out > limit)
        return engine_fail(r->err, ENGINE_ERR_FILE, "key \"%s\" is %u; the limit is %u", r->key,
                           *out, limit);
    return 0;
}

static int read_float(struct reader *r, const char *name, bool required, float *out)
{
    if (!required && !gguf_has(r->g, key_of(r, name)))
        return 0;
    return gguf_get_f32(r->g, key_of(r, name), true, out, r->err);
}

static int read_arch(struct reader *r)
{
    struct gguf_str name;
    char known[256];
    if (gguf_get_str(r->g, "general.architecture", true, &name, r->err) != 0)
        return -1;
    r->arch = arch_find(name.data, name.len);
    if (r->arch)
        return 0;
    arch_names(known, sizeof(known));
    return engine_fail(r->err, ENGINE_ERR_UNSUPPORTED,
                       "architecture \"%s\" is not supported; known are %s", gguf_quote(name).text,
                       known);
}

static int read_attention(struct reader *r, struct model_shape *s)
{
    s->n_kv_heads = 0;
    if (read_count(r, "attention.head_count", 1024, &s->n_heads) != 0 ||
        read_optional(r, "attention.head_count_kv", 1024, &s->n_kv_heads) != 0)
        return -1;
    if (s->n_kv_heads == 0)
        s->n_kv_heads = s->n_heads;
    if (s->n_heads % s->n_kv_heads)
        return engine_fail(r->err, ENGINE_ERR_FILE,
                           "attention.head_count %u is no multiple of head_count_kv %u", s->n_heads,
                           s->n_kv_heads);
    s->head_dim = s->n_embd / s->n_heads;
    uint32_t v_dim;
    if (read_optional(r, "attention.key_length", 65536, &s->head_dim) != 0)
        return -1;
    v_dim = s->head_dim;
    if (read_optional(r, "attention.value_length", 65536, &v_dim) != 0)
        return -1;
    if (v_dim != s->head_dim)
        return engine_fail(r->err, ENGINE_ERR_UNSUPPORTED,
                           "keys have %u channels per head and values %u; they must be equal",
                           s->head_dim, v_dim);
    if (s->head_dim == 0 || s->head_dim % 16 || s->head_dim > KERN_MAX_HEAD_DIM)
        return engine_fail(r->err, ENGINE_ERR_UNSUPPORTED,
                           "a head has %u channels; multiples of 16 up to %d are supported",
                           s->head_dim, KERN_MAX_HEAD_DIM);
    return 0;
}

static int read_gating(struct reader *r, struct model_shape *s, enum engine_gating asked)
{
    uint32_t func = r->arch->router_sigmoid_default ? 2 : 1; /* 1 softmax, 2 sigmoid */
    if (read_optional(r, "expert_gating_func", UINT32_MAX, &func) != 0)
        return -1;
    if (asked != ENGINE_GATING_FILE)
        func = asked == ENGINE_GATING_SIGMOID ? 2 : 1;
    if (func != 1 && func != 2)
        return engine_fail(r->err, ENGINE_ERR_UNSUPPORTED,
                           "key \"%s\" is %u; 1 (softmax) and 2 (sigmoid) are supported",
                           key_of(r, "expert_gating_func"), func);
    s->router_sigmoid = func == 2;
    return 0;
}

/* Fewer experts per token than the model says. */
static int use_fewer(struct reader *r, struct model_shape *s, uint32_t n)
{
    s->n_experts_used_exact = s->n_experts_used;
    if (n > s->n_experts_used)
        return engine_fail(
            r->err, ENGINE_ERR_OPTION,
            "%u experts per token were asked for; the model has %u (0: it is no mixture)", n,
            s->n_experts_used);
    if (n > 0)
        s->n_experts_used = n;
    return 0;
}

static int read_experts(struct reader *r, struct model_shape *s, enum engine_gating asked)
{
    s->expert_weights_scale = 1.0f;
    s->expert_weights_normed = r->arch->expert_weights_normed;
    if (read_optional(r, "expert_count", CONFIG_MAX_EXPERTS, &s->n_experts) != 0)
        return -1;
    if (s->n_experts == 0)
        return 0;
    if (read_count(r, "expert_used_count", CONFIG_MAX_EXPERTS_USED, &s->n_experts_used) != 0)
        return -1;
    if (s->n_experts_used > s->n_experts)
        return engine_fail(r->err, ENGINE_ERR_FILE, "expert_used_count %u exceeds expert_count %u",
                           s->n_experts_used, s->n_experts);
    s->n_ff_expert = s->n_ff;
    bool normed = s->expert_weights_normed;
    if (read_optional(r, "expert_feed_forward_length", 1 << 24, &s->n_ff_expert) != 0 ||
        read_optional(r, "expert_shared_feed_forward_length", 1 << 24, &s->n_ff_shared) != 0 ||
        read_float(r, "expert_weights_scale", false, &s->expert_weights_scale) != 0)
        return -1;
    if (gguf_has(r->g, key_of(r, "expert_weights_norm")) &&
        gguf_get_bool(r->g, r->key, true, &normed, r->err) != 0)
        return -1;
    s->expert_weights_normed = normed;
    if (s->expert_weights_scale == 0.0f)
        s->expert_weights_scale = 1.0f;
    if (s->n_ff_expert == 0)
        return engine_fail(r->err, ENGINE_ERR_FILE, "the experts' feed-forward length is missing");
    return read_gating(r, s, asked);
}

static int read_scales(struct reader *r, struct model_shape *s)
{
    float divisor = 0.0f, attention = 0.0f;
    s->embed_scale = s->residual_scale = s->logit_scale = 1.0f;
    s->attention_scale = 1.0f / sqrtf((float)s->head_dim);
    if (r->arch->embed_sqrt_width)
        s->embed_scale = sqrtf((float)s->n_embd);
    if (r->arch->width_scaled_layers == s->n_layers)
        s->attention_scale = 1.0f / sqrtf((float)s->n_embd / (float)s->n_heads);
    if (r->arch->soft_cap_keys &&
        (read_float(r, "attn_logit_softcapping", false, &s->attention_soft_cap) != 0 ||
         read_float(r, "final_logit_softcapping", false, &s->logit_soft_cap) != 0))
        return -1;
    if (!r->arch->scale_keys)
        return 0;
    if (read_float(r, "embedding_scale", false, &s->embed_scale) != 0 ||
        read_float(r, "residual_scale", false, &s->residual_scale) != 0 ||
        read_float(r, "attention.scale", false, &attention) != 0 ||
        read_float(r, "logit_scale", false, &divisor) != 0)
        return -1;
    if (attention != 0.0f)
        s->attention_scale = attention;
    if (divisor != 0.0f)
        s->logit_scale = 1.0f / divisor;
    return 0;
}

/* The window's width, 0 for none, and the period of global layers. */
static int read_window(struct reader *r, uint32_t *width, uint32_t *period)
{
    *width = 0;
    *period = r->arch->window_period;
    if (r->arch->window == ARCH_WINDOW_NONE)
        return 0;
    if (read_optional(r, "attention.sliding_window", 1u << 30, width) != 0 ||
        read_optional(r, "attention.sliding_window_pattern", CONFIG_MAX_LAYERS, period) != 0)
        return -1;
    if (*width && r->arch->window == ARCH_WINDOW_4096)
        *width = 4096;
    if (*width && *period == 0)
        return engine_fail(r->err, ENGINE_ERR_FILE, "key \"%s\" is 0; at least 1 is possible",
                           key_of(r, "attention.sliding_window_pattern"));
    return 0;
}

static bool is_global(const struct arch *a, uint32_t width, uint32_t period, uint32_t l)
{
    if (width == 0)
        return true;
    uint32_t at = a->window_global_at == 0 ? 0 : period - 1; /* first or last of a period */
    return l % period == at;
}

static bool has_rope(const struct arch *a, uint32_t width, uint32_t l)
{
    if (a->nope_period == 0 || (a->nope_with_window_only && width == 0))
        return true;
    return l % a->nope_period != a->nope_at;
}

/* Which rope, window and KV group each layer has.  Group 0 is the global layers' unless there are
 * none. */
static int plan_layers(struct reader *r, struct model_shape *s)
{
    uint32_t width, period;
    bool rope_on = true;
    if (read_window(r, &width, &period) != 0)
        return -1;
    if (r->arch->rope_switch && gguf_has(r->g, key_of(r, "rope.scaling.finetuned")) &&
        gguf_get_bool(r->g, r->key, true, &rope_on, r->err) != 0)
        return -1;
    s->layer = calloc(s->n_layers, sizeof(*s->layer));
    if (!s->layer)
        return engine_fail(r->err, ENGINE_ERR_MEMORY, "no memory for %u layers", s->n_layers);
    uint32_t count[2] = { 0, 0 };
    for (uint32_t l = 0; l < s->n_layers; l++) {
        bool global = is_global(r->arch, width, period, l);
        bool own_rope = !global && (r->arch->window_rope_base > 0.0f || r->arch->window_rope_plain);
        s->layer[l].rope = (uint8_t)(own_rope ? 1 : 0);
        if (!rope_on || !has_rope(r->arch, width, l))
            s->layer[l].rope = CONFIG_NO_ROPE;
        s->layer[l].window = global ? 0 : width;
        s->layer[l].group = (uint8_t)!global;
        s->layer[l].layer_in_group = count[!global]++;
    }
    s->n_groups = 2;
    s->group_window[0] = 0;
    s->group_window[1] = width;
    memcpy(s->group_layers, count, sizeof(count));
    if (count[0] && count[1])
        return 0;
    s->n_groups = 1; /* all alike: the one group there is becomes group 0 */
    s->group_window[0] = count[0] ? 0 : width;
    s->group_layers[0] = s->n_layers;
    for (uint32_t l = 0; l < s->n_layers; l++)
        s->layer[l].group = 0;
    return 0;
}

/* Models with norms after their blocks scale a block's output up, and with it the rounding of K and
 * V: three times that of other models (0.2 % of the logits' deviation).  Where the weights are
 * exact, so are their pages; beside the error of quantised weights F16 is lost. */
static enum kern_kv choose_kv(const struct gguf *g, const struct arch *arch, enum engine_kv asked)
{
    const struct gguf_tensor *k = gguf_find_tensor(g, "blk.0.attn_k.weight");
    if (asked == ENGINE_KV_Q8)
        return KERN_KV_Q8;
    return arch->norms == ARCH_NORMS_POST && k && !kern_type_is_quantised(k->type) ? KERN_KV_F32
                                                                                   : KERN_KV_F16;
}

/* The architecture's, unless the file names another one: a model trained for sparsity is a llama with ReLU. */
static int read_activation(struct reader *r, enum kern_activation *out)
{
    static const struct {
        const char *name;
        enum kern_activation kind;
    } known[] = {
        { "silu", KERN_ACTIVATION_SILU },
        { "gelu", KERN_ACTIVATION_GELU },
        { "relu", KERN_ACTIVATION_RELU },
        { "relu2", KERN_ACTIVATION_RELU2 },
    };
    struct gguf_str name;
    *out = r->arch->activation;
    if (!gguf_has(r->g, key_of(r, "hidden_activation")))
        return 0;
    if (gguf_get_str(r->g, r->key, true, &name, r->err) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (gguf_str_is(name, known[i].name)) {
            *out = known[i].kind;
            return 0;
        }
    return engine_fail(r->err, ENGINE_ERR_UNSUPPORTED,
                       "key \"%s\" is \"%s\"; silu, gelu, relu and relu2 are supported", r->key,
                       gguf_quote(name).text);
}

static int read_sizes(struct reader *r, struct model_shape *s, uint32_t n_vocab)
{
    uint32_t said = n_vocab;
    s->n_vocab = n_vocab;
    if (read_count(r, "embedding_length", 1 << 20, &s->n_embd) != 0 ||
        read_count(r, "block_count", CONFIG_MAX_LAYERS, &s->n_layers) != 0 ||
        read_count(r, "context_length", 1u << 30, &s->n_ctx_train) != 0 ||
        read_optional(r, "feed_forward_length", 1 << 24, &s->n_ff) != 0 ||
        read_optional(r, "vocab_size", UINT32_MAX, &said) != 0 ||
        read_float(r, "attention.layer_norm_rms_epsilon", true, &s->norm_eps) != 0)
        return -1;
    if (said < n_vocab)
        return engine_fail(r->err, ENGINE_ERR_FILE,
                           "key \"%s\" is %u, but the tokenizer has %u tokens",
                           key_of(r, "vocab_size"), said, n_vocab);
    return 0;
}

int config_read(struct model_shape *shape, const struct gguf *g, const struct config_options *opt,
                struct engine_err *err)
{
    struct reader r = { .g = g, .err = err };
    memset(shape, 0, sizeof(*shape));
    if (read_arch(&r) != 0)
        return -1;
    shape->arch = r.arch;
    shape->kv = choose_kv(g, r.arch, opt->kv);
    shape->keeps_bounds = opt->keeps_bounds;
    if (read_sizes(&r, shape, opt->n_vocab) != 0 || read_attention(&r, shape) != 0 ||
        read_experts(&r, shape, opt->gating) != 0 || use_fewer(&r, shape, opt->experts_used) != 0 ||
        read_scales(&r, shape) != 0 || read_activation(&r, &shape->activation) != 0 ||
        plan_layers(&r, shape) != 0)
        return -1;
    if (shape->n_experts == 0 && shape->n_ff == 0)
        return engine_fail(err, ENGINE_ERR_FILE, "key \"%s\" is missing",
                           key_of(&r, "feed_forward_length"));
    return 0;
}

size_t config_bounds_at(const struct model_shape *s)
{
    return kern_kv_bytes(s->kv, KV_PAGE_TOKENS, s->head_dim);
}

size_t config_head_page_bytes(const struct model_shape *s)
{
    return config_bounds_at(s) +
           (s->keeps_bounds ? kern_bounds_bytes(KV_PAGE_TOKENS, s->head_dim) : 0);
}

struct kv_group_options config_kv_group(const struct model_shape *s, uint32_t group)
{
    return (struct kv_group_options){ .n_layers = s->group_layers[group],
                                      .window = s->group_window[group],
                                      .layer_bytes = s->n_kv_heads * config_head_page_bytes(s),
                                      .open_parts = s->kv == KERN_KV_Q8 ? CONFIG_OPEN_PARTS : 0 };
}

void config_fini(struct model_shape *shape)
{
    for (uint32_t i = 0; i < CONFIG_MAX_ROPES; i++)
        free(shape->rope[i].inv_freq);
    free(shape->layer);
    memset(shape, 0, sizeof(*shape));
}
