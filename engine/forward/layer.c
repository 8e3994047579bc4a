/* SPDX-License-Identifier: Apache-2.0
 *
 * layer.c - one block, top to bottom.  R rows, E = n_embd, H query heads, K KV heads, D channels:
 *
 *     x [R][E]                      the residual
 *     in = norm(x)                  [R][E]     (models with norms after the blocks: in = x), made by
 *                                              whoever wrote x: the layer before, or the embedding
 *     q, k, v = in Wq, in Wk, in Wv [R][H D], [R][K D], [R][K D]
 *     q, k normed and turned; k, v into their pages
 *     attn = attention(q)           [R][H D]
 *     x += norm?(attn Wo)           [R][E]
 *     x += norm?(feed_forward(norm(x)))
 */
#include <string.h>

#include "engine/forward/forward.h"

/* The layer at hand, for the functions of a row. */
struct layer_job {
    struct forward *f;
    const struct layer_weights *w, *next; /* next: NULL behind the last layer */
    const struct layer_shape *shape;
};

/* a's row from the residual: normed if there is a norm, quantised for quantised weights. */
static void block_input(struct forward *f, const float *norm, uint32_t row)
{
    uint32_t n = f->shape->n_embd;
    const float *x = f->x + (size_t)row * n;
    float *in = f->in.x + (size_t)row * n;
    if (norm)
        f->kern->rms_norm(x, norm, f->shape->norm_eps, n, in);
    else
        memcpy(in, x, n * sizeof(*in));
    if (n % KERN_BLOCK == 0)
        f->kern->quantise(in, n, &f->in.act, row, row + 1, 0, n);
}

void layer_input(struct forward *f, const struct layer_weights *w, uint32_t row)
{
    block_input(f, w->attn_norm, row);
}

static void add_bias(struct forward *f, float *y, const float *bias, uint32_t n)
{
    if (bias)
        f->kern->add_scaled(y, bias, 1.0f, n);
}

/* Norms of q or k: per head, or over the row. */
static void norm_heads(struct forward *f, float *x, const float *weight, uint32_t n_heads)
{
    uint32_t dim = f->shape->head_dim;
    if (!weight)
        return;
    if (f->shape->arch->qk_norm == ARCH_QK_NORM_ROW) {
        f->kern->rms_norm(x, weight, f->shape->norm_eps, n_heads * dim, x);
        return;
    }
    for (uint32_t h = 0; h < n_heads; h++)
        f->kern->rms_norm(x + h * dim, weight, f->shape->norm_eps, dim, x + h * dim);
}

static void turn_heads(const struct layer_job *job, float *x, uint32_t n_heads, uint32_t row)
{
    const struct forward *f = job->f;
    if (job->shape->rope == CONFIG_NO_ROPE)
        return;
    uint32_t pairs = f->shape->rope[job->shape->rope].n_pairs;
    const float *angles = f->angles[job->shape->rope] + (size_t)row * 2 * pairs;
    for (uint32_t h = 0; h < n_heads; h++)
        f->kern->rope(x + h * f->shape->head_dim, angles, pairs, f->shape->arch->rope_interleaved);
}

/* A row's queries, keys and values, ready for attention. */
static void finish_qkv(const struct layer_job *job, uint32_t row)
{
    struct forward *f = job->f;
    const struct model_shape *s = f->shape;
    uint32_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    float *q = f->q + (size_t)row * n_q, *k = f->k + (size_t)row * n_kv,
          *v = f->v + (size_t)row * n_kv;
    add_bias(f, q, job->w->q_bias, n_q);
    add_bias(f, k, job->w->k_bias, n_kv);
    add_bias(f, v, job->w->v_bias, n_kv);
    norm_heads(f, q, job->w->q_norm, s->n_heads);
    norm_heads(f, k, job->w->k_norm, s->n_kv_heads);
    turn_heads(job, q, s->n_heads, row);
    turn_heads(job, k, s->n_kv_heads, row);
    for (uint32_t i = 0; i < n_q; i++)
        q[i] *= s->attention_scale;
}

static void place_qkv(void *ctx, uint32_t item)
{
    const struct layer_job *job = ctx;
    const struct segment *segment = &job->f->segment[item];
    for (uint32_t i = 0; i < segment->n_rows; i++)
        finish_qkv(job, segment->row0 + i);
    paging_store(job->f, job->shape, segment);
}

/* x += residual_scale * norm?(block + bias) */
static void add_block(struct forward *f, const float *bias, const float *norm, uint32_t row)
{
    uint32_t n = f->shape->n_embd;
    float *y = f->block + (size_t)row * n;
    add_bias(f, y, bias, n);
    if (norm)
        f->kern->rms_norm(y, norm, f->shape->norm_eps, n, y);
    f->kern->add_scaled(f->x + (size_t)row * n, y, f->shape->residual_scale, n);
}

static void attention_output(void *ctx, uint32_t row)
{
    const struct layer_job *job = ctx;
    add_block(job->f, job->w->o_bias, job->w->attn_post_norm, row);
    block_input(job->f, job->w->ffn_norm, row);
}

static void ffn_output(void *ctx, uint32_t row)
{
    const struct layer_job *job = ctx;
    add_block(job->f, job->w->down_bias, job->w->ffn_post_norm, row);
    if (job->next)
        layer_input(job->f, job->next, row);
}

static void project_qkv(struct forward *f, const struct layer_weights *w)
{
    const struct model_shape *s = f->shape;
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    size_t n_q = (size_t)s->n_heads * s->head_dim, n_kv = (size_t)s->n_kv_heads * s->head_dim;
    struct product p[3] = {
        { .w = &w->q, .x = &in, .y = f->q, .ldy = n_q, .n_rows = f->n_rows },
        { .w = &w->k, .x = &in, .y = f->k, .ldy = n_kv, .n_rows = f->n_rows },
        { .w = &w->v, .x = &in, .y = f->v, .ldy = n_kv, .n_rows = f->n_rows },
    };
    forward_products(f, p, 3, PROFILE_QKV);
}

static void project_output(struct forward *f, const struct layer_weights *w)
{
    struct kern_input in = { .x = f->attn.x, .act = &f->attn.act };
    struct product p = {
        .w = &w->o, .x = &in, .y = f->block, .ldy = f->shape->n_embd, .n_rows = f->n_rows
    };
    forward_products(f, &p, 1, PROFILE_ATTENTION_OUT);
}

void layer_forward(struct forward *f, uint32_t layer)
{
    const struct layer_weights *w = &f->weights->layer[layer];
    bool is_last = layer + 1 == f->shape->n_layers;
    struct layer_job job = { f, w, is_last ? NULL : w + 1, &f->shape->layer[layer] };
    bool has_experts = w->router.n_rows != 0;
    bool early_router = f->shape->arch->router_input == ARCH_ROUTER_LAYER_INPUT;

    if (has_experts && early_router)
        moe_route(f, layer, f->x);
    project_qkv(f, w);
    workers_run(f->workers, place_qkv, &job, f->n_segments);
    paging_seal(f, job.shape);
    profile_end(&f->profile, PROFILE_PLACE);
    attention_forward(f, layer);
    paging_carry(f, job.shape);
    profile_end(&f->profile, PROFILE_ATTENTION);
    project_output(f, w);
    forward_rows(f, attention_output, &job, f->n_rows);
    profile_end(&f->profile, PROFILE_FFN_NORM);
    if (has_experts && !early_router)
        moe_route(f, layer, f->in.x);
    if (has_experts)
        moe_forward(f, layer);
    else
        ffn_forward(f, layer);
    forward_rows(f, ffn_output, &job, f->n_rows);
    profile_end(&f->profile, PROFILE_RESIDUAL);
}
