/* SPDX-License-Identifier: Apache-2.0
 *
 * moe.c - mixtures of experts, all resident.
 *
 * Every row picks its experts; rows are then gathered by expert, so that an expert's matrices are
 * read once for all its rows, and each row sums its experts' outputs best first: its bits do not
 * depend on who else picked them.
 */
#include <math.h>
#include <string.h>

#include "engine/forward/forward.h"

struct moe_job {
    struct forward *f;
    const struct layer_weights *w;
};

/* ---- routing ---- */

/* Index of the largest value not yet taken (taken ones are -INFINITY); ties: the lowest. */
static uint32_t take_best(float *score, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = score[i] > score[best] ? i : best;
    score[best] = -INFINITY;
    return best;
}

/* Probability of each pick.  With softmax over all experts; the sum over the picks may be scaled to
 * one, which for softmax is the same as a softmax over the picks. */
static void weigh(const struct model_shape *s, const float *logit, const uint32_t *expert,
                  float *weight)
{
    float max = -INFINITY, all = 0.0f, picked = 0.0f;
    for (uint32_t e = 0; e < s->n_experts; e++)
        max = logit[e] > max ? logit[e] : max;
    for (uint32_t e = 0; e < s->n_experts && !s->router_sigmoid; e++)
        all += kern_exp(logit[e] - max);
    for (uint32_t i = 0; i < s->n_experts_used; i++) {
        float x = logit[expert[i]];
        weight[i] = s->router_sigmoid ? 1.0f / (1.0f + kern_exp(-x)) : kern_exp(x - max) / all;
        picked += weight[i];
    }
    float scale = s->expert_weights_scale;
    if (s->expert_weights_normed && picked > 0.0f)
        scale /= picked;
    for (uint32_t i = 0; i < s->n_experts_used; i++)
        weight[i] *= scale;
}

static void route_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    const struct model_shape *s = job->f->shape;
    const float *logit = job->f->router_logits + (size_t)row * s->n_experts;
    uint32_t *expert = job->f->routing.expert + (size_t)row * s->n_experts_used;
    float score[CONFIG_MAX_EXPERTS];
    memcpy(score, logit, s->n_experts * sizeof(*score));
    for (uint32_t i = 0; i < s->n_experts_used; i++)
        expert[i] = take_best(score, s->n_experts);
    weigh(s, logit, expert, job->f->routing.weight + (size_t)row * s->n_experts_used);
}

/* Gives every pick a row in the gathered buffers, experts ascending, rows ascending within. */
static void assign_slots(struct forward *f)
{
    struct routing *r = &f->routing;
    uint32_t n_experts = f->shape->n_experts, n_picks = f->n_rows * f->shape->n_experts_used;
    memset(r->offset, 0, (n_experts + 1) * sizeof(*r->offset));
    for (uint32_t i = 0; i < n_picks; i++)
        r->offset[r->expert[i] + 1]++;
    r->n_active = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        if (r->offset[e + 1])
            r->active[r->n_active++] = e;
        r->offset[e + 1] += r->offset[e];
    }
    for (uint32_t i = 0; i < n_picks;
         i++) { /* offset[e] moves to the end of e, which is offset[e + 1] */
        r->slot[i] = r->offset[r->expert[i]]++;
        r->source[r->slot[i]] = i / f->shape->n_experts_used;
    }
    for (uint32_t e = n_experts; e > 0; e--)
        r->offset[e] = r->offset[e - 1];
    r->offset[0] = 0;
}

void moe_route(struct forward *f, const struct layer_weights *w, const float *x)
{
    struct moe_job job = { f, w };
    struct activations *own = &f->gathered; /* free until the experts run */
    struct kern_input in = { .x = x, .act = &own->act };
    struct product p = { .w = &w->router,
                         .x = &in,
                         .y = f->router_logits,
                         .ldy = f->shape->n_experts,
                         .n_rows = f->n_rows };
    if (kern_type_is_quantised(w->router.type))
        f->kern->quantise(x, &own->act, 0, f->n_rows);
    forward_products(f, &p, 1, PROFILE_ROUTER);
    forward_rows(f, route_row, &job, f->n_rows);
    assign_slots(f);
    profile_end(&f->profile, PROFILE_ROUTER);
}

/* ---- experts ---- */

static void gather_act(struct kern_act *dst, size_t to, const struct kern_act *src, size_t from)
{
    size_t n = src->n_cols, blocks = n / KERN_BLOCK, sums = n / 16;
    memcpy(dst->q + to * n, src->q + from * n, n);
    memcpy(dst->d + to * blocks, src->d + from * blocks, blocks * sizeof(float));
    memcpy(dst->sum32 + to * blocks, src->sum32 + from * blocks, blocks * sizeof(int32_t));
    memcpy(dst->sum16 + to * sums, src->sum16 + from * sums, sums * sizeof(int32_t));
    memcpy(dst->xs32 + to * blocks, src->xs32 + from * blocks, blocks * sizeof(float));
    memcpy(dst->xs16 + to * sums, src->xs16 + from * sums, sums * sizeof(float));
}

static void gather_row(void *ctx, uint32_t slot)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    size_t n = f->shape->n_embd, from = f->routing.source[slot];
    if (kern_type_is_quantised(job->w->up_experts.first.type) ||
        kern_type_is_quantised(job->w->gate_experts.first.type))
        gather_act(&f->gathered.act, slot, &f->in.act, from);
    memcpy(f->gathered.x + slot * n, f->in.x + from * n, n * sizeof(float));
}

/* Items of a product over all active experts: (expert, block of matrix rows). */
struct experts_job {
    struct forward *f;
    const struct expert_matrix *w;
    const struct kern_input *in;
    float *y;
    uint32_t blocks; /* per expert */
};

enum { EXPERT_ITEM_ROWS = 2 * KERN_TILE_ROWS };

static void expert_item(void *ctx, uint32_t item)
{
    const struct experts_job *job = ctx;
    const struct routing *r = &job->f->routing;
    uint32_t e = r->active[item / job->blocks], row0 = item % job->blocks * EXPERT_ITEM_ROWS;
    struct kern_matrix w = weights_expert(job->w, e);
    uint32_t row1 = row0 + EXPERT_ITEM_ROWS < w.n_rows ? row0 + EXPERT_ITEM_ROWS : w.n_rows;
    job->f->kern->mul_mat(&w, row0, row1, job->in, r->offset[e], r->offset[e + 1], job->y,
                          w.n_rows);
}

static void expert_product(struct forward *f, const struct expert_matrix *w,
                           const struct kern_input *in, float *y, enum profile_part part)
{
    struct experts_job job = { f, w, in, y,
                               (w->first.n_rows + EXPERT_ITEM_ROWS - 1) / EXPERT_ITEM_ROWS };
    workers_run(f->workers, expert_item, &job, job.blocks * f->routing.n_active);
    for (uint32_t i = 0; i < f->routing.n_active; i++) {
        const uint32_t *slots = &f->routing.offset[f->routing.active[i]];
        profile_add_product(&f->profile, part, &w->first, slots[1] - slots[0]);
    }
    profile_end(&f->profile, part);
}

static void expert_hidden_row(void *ctx, uint32_t slot)
{
    const struct moe_job *job = ctx;
    ffn_hidden_row(job->f, job->f->expert_gate, &job->f->expert_hidden, &job->w->down_experts.first,
                   slot);
}

static void combine_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    uint32_t n = f->shape->n_embd, k = f->shape->n_experts_used;
    float *y = f->block + (size_t)row * n;
    memset(y, 0, n * sizeof(*y));
    for (size_t i = (size_t)row * k; i < ((size_t)row + 1) * k; i++)
        f->kern->add_scaled(y, f->expert_out + (size_t)f->routing.slot[i] * n, f->routing.weight[i],
                            n);
}

/* ---- the shared expert ---- */

static void shared_hidden_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    ffn_hidden_row(job->f, job->f->shared_gate, &job->f->shared_hidden, &job->w->shared_down, row);
}

static void add_shared_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    size_t n = f->shape->n_embd;
    float weight = 1.0f;
    if (job->w->shared_router.n_rows)
        weight = 1.0f / (1.0f + kern_exp(-f->shared_weight[row]));
    /* The gathered inputs are done with: their memory holds the shared expert's output. */
    f->kern->add_scaled(f->block + row * n, f->gathered.x + row * n, weight, n);
}

static void shared_forward(struct forward *f, const struct layer_weights *w)
{
    struct moe_job job = { f, w };
    uint32_t n = f->shape->n_ff_shared;
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    struct kern_input hidden = { .x = f->shared_hidden.x, .act = &f->shared_hidden.act };
    struct product wide[3] = {
        { .w = &w->shared_gate, .x = &in, .y = f->shared_gate, .ldy = n, .n_rows = f->n_rows },
        { .w = &w->shared_up, .x = &in, .y = f->shared_hidden.x, .ldy = n, .n_rows = f->n_rows },
        { .w = &w->shared_router, .x = &in, .y = f->shared_weight, .ldy = 1, .n_rows = f->n_rows },
    };
    struct product down = { .w = &w->shared_down,
                            .x = &hidden,
                            .y = f->gathered.x,
                            .ldy = f->shape->n_embd,
                            .n_rows = f->n_rows };
    forward_products(f, wide, w->shared_router.n_rows ? 3 : 2, PROFILE_GATE_UP);
    forward_rows(f, shared_hidden_row, &job, f->n_rows);
    profile_end(&f->profile, PROFILE_ACTIVATION);
    forward_products(f, &down, 1, PROFILE_DOWN);
    forward_rows(f, add_shared_row, &job, f->n_rows);
}

void moe_forward(struct forward *f, const struct layer_weights *w)
{
    struct moe_job job = { f, w };
    struct kern_input in = { .x = f->gathered.x, .act = &f->gathered.act };
    struct kern_input hidden = { .x = f->expert_hidden.x, .act = &f->expert_hidden.act };
    uint32_t n_picks = f->n_rows * f->shape->n_experts_used;

    forward_rows(f, gather_row, &job, n_picks);
    profile_end(&f->profile, PROFILE_ROUTER);
    expert_product(f, &w->gate_experts, &in, f->expert_gate, PROFILE_GATE_UP);
    expert_product(f, &w->up_experts, &in, f->expert_hidden.x, PROFILE_GATE_UP);
    forward_rows(f, expert_hidden_row, &job, n_picks);
    profile_end(&f->profile, PROFILE_ACTIVATION);
    expert_product(f, &w->down_experts, &hidden, f->expert_out, PROFILE_DOWN);
    forward_rows(f, combine_row, &job, f->n_rows);
    if (w->shared_down.n_rows)
        shared_forward(f, w);
}
