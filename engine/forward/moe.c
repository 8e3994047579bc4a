/* SPDX-License-Identifier: Apache-2.0
 *
 * moe.c - mixtures of experts.
 *
 * Every row picks its experts; rows are then gathered by expert, so that an expert's matrices are
 * read once for all its rows, and each row sums its experts' outputs best first: its bits do not
 * depend on who else picked them, nor on the order in which experts come from the disk.  (But for rows whose
 * experts may give way, which is an approximation: they depend on what is in memory.)
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward/expert_choice.h"
#include "engine/forward/forward.h"

struct moe_job {
    struct forward *f;
    const struct layer_weights *w;
    uint32_t layer;
    const uint32_t *experts; /* those to be computed now */
    uint32_t n_experts;
};

static bool is_on_demand(const struct layer_weights *w)
{
    return w->down_experts.first.data == NULL;
}

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

/* The best n of a router's logits for a row, best first. */
static void rank_experts(const struct forward *f, const float *logits, uint32_t row, uint32_t n,
                         uint32_t *expert)
{
    uint32_t n_experts = f->shape->n_experts;
    float score[CONFIG_MAX_EXPERTS];
    memcpy(score, logits + (size_t)row * n_experts, n_experts * sizeof(*score));
    for (uint32_t i = 0; i < n; i++)
        expert[i] = take_best(score, n_experts);
}

/* Where some experts of the row may give way: see expert_choice.h. */
static void choose_experts(const struct moe_job *job, uint32_t row, uint32_t *expert)
{
    struct forward *f = job->f;
    uint32_t k = f->shape->n_experts_used, ranked[EXPERT_CHOICE_RANKS * CONFIG_MAX_EXPERTS_USED];
    bool present[EXPERT_CHOICE_RANKS * CONFIG_MAX_EXPERTS_USED];
    struct expert_choice c = {
        .ranked = ranked, .present = present, .k = k, .kept = f->row_kept[row]
    };
    c.n_ranked = EXPERT_CHOICE_RANKS * k;
    if (c.n_ranked > f->shape->n_experts)
        c.n_ranked = f->shape->n_experts;
    rank_experts(f, f->router_logits, row, c.n_ranked, ranked);
    for (uint32_t i = 0; i < c.n_ranked; i++)
        present[i] = experts_is_ready(f->experts, job->layer, ranked[i]);
    f->routing.n_gave_way[row] = expert_choose(&c, expert, f->routing.gave_way + (size_t)row * k);
}

static void route_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    uint32_t k = f->shape->n_experts_used;
    size_t first = (size_t)row * k;
    if (f->row_kept[row] < k && is_on_demand(job->w))
        choose_experts(job, row, f->routing.expert + first);
    else
        rank_experts(f, f->router_logits, row, k, f->routing.expert + first);
    weigh(f->shape, f->router_logits + (size_t)row * f->shape->n_experts, f->routing.expert + first,
          f->routing.weight + first);
}

/* More rows keep the disk busy with what the next layer wants, and each wrong guess costs them. */
static uint32_t n_layers_ahead(uint32_t n_rows)
{
    enum { FEW_ROWS = 4 };
    return n_rows <= FEW_ROWS ? EXPERT_GUESS_LAYERS : 1;
}

uint32_t moe_router_rows(uint32_t n_rows)
{
    uint32_t most = 0;
    for (uint32_t n = 1; n <= n_rows; n++) {
        uint32_t rows = n * (1 + n_layers_ahead(n));
        most = rows > most ? rows : most;
    }
    return most;
}

/* The layers whose routers are asked: the one at hand, and those to come of whose experts something may be read
 * ahead.  Returns how many. */
static uint32_t list_routers(const struct forward *f, uint32_t layer, uint32_t *list)
{
    uint32_t n = 0, end = layer + 1;
    list[n++] = layer;
    if (is_on_demand(&f->weights->layer[layer]))
        end += n_layers_ahead(f->n_rows);
    for (uint32_t l = layer + 1; l < end && l < f->shape->n_layers; l++)
        if (experts_can_foresee(f->experts, l))
            list[n++] = l;
    return n;
}

struct norm_job {
    struct forward *f;
    const float *weight; /* of the norm */
    float *y;
};

static void norm_row(void *ctx, uint32_t row)
{
    const struct norm_job *job = ctx;
    size_t n = job->f->shape->n_embd;
    job->f->kern->rms_norm(job->f->x + row * n, job->weight, job->f->shape->norm_eps, (uint32_t)n,
                           job->y + row * n);
}

/* The residual as the router of a layer to come will see it, but for what the layers add until then.  `own`: room
 * for it. */
static const float *input_ahead(struct forward *f, uint32_t layer, float *own)
{
    const float *norm = f->weights->layer[layer].ffn_norm;
    if (f->shape->arch->router_input == ARCH_ROUTER_LAYER_INPUT || !norm)
        return f->x;
    struct norm_job job = { f, norm, own };
    forward_rows(f, norm_row, &job, f->n_rows);
    return own;
}

/* The logits of all experts: of the first layer listed for x [rows][n_embd], its router's input; of the others for what
 * that will be, as far as it can be foretold.  The residual changes little from layer to layer: a later layer's
 * router, applied to it now, foretells most of what it will choose. */
static void run_routers(struct forward *f, const uint32_t *layers, uint32_t n, const float *x)
{
    struct activations *own = &f->gathered; /* free until the experts run */
    struct kern_input in[ROUTERS_AT_ONCE];
    struct product p[ROUTERS_AT_ONCE];
    for (uint32_t i = 0; i < n; i++) {
        const struct kern_matrix *w = &f->weights->layer[layers[i]].router;
        bool is_quantised = kern_type_is_quantised(w->type);
        uint32_t row0 = i * f->n_rows;
        in[i].x = i == 0 ? x : input_ahead(f, layers[i], own->x + (size_t)row0 * own->n);
        in[i].act = &own->act;
        if (is_quantised)
            f->kern->quantise(in[i].x, own->n, &own->act, row0, row0 + f->n_rows, 0, own->n);
        p[i] = (struct product){ .w = w,
                                 .x = &in[i],
                                 .y = f->router_logits + (size_t)row0 * f->shape->n_experts,
                                 .ldy = f->shape->n_experts,
                                 .n_rows = f->n_rows,
                                 .first_row = is_quantised ? row0 : 0 };
    }
    forward_products(f, p, n, PROFILE_ROUTER);
}

/* Nothing more is computed of a row that lacks an expert. */
static bool is_lost(const struct forward *f, uint32_t row)
{
    return f->row_failed[row] || f->row_late[row];
}

/* Gives every pick of the rows that are not lost a row in the gathered buffers, experts ascending, rows
 * ascending within. */
static void assign_slots(struct forward *f)
{
    struct routing *r = &f->routing;
    uint32_t n_experts = f->shape->n_experts, k = f->shape->n_experts_used, n_picks = f->n_rows * k;
    memset(r->offset, 0, (n_experts + 1) * sizeof(*r->offset));
    for (uint32_t i = 0; i < n_picks; i++)
        r->offset[r->expert[i] + 1] += !is_lost(f, i / k);
    r->n_active = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        if (r->offset[e + 1])
            r->active[r->n_active++] = e;
        r->offset[e + 1] += r->offset[e];
    }
    for (uint32_t i = 0; i < n_picks; i++) {
        if (is_lost(f, i / k))
            continue;
        /* offset[e] moves to the end of e, which is offset[e + 1] */
        r->slot[i] = r->offset[r->expert[i]]++;
        r->source[r->slot[i]] = i / k;
    }
    for (uint32_t e = n_experts; e > 0; e--)
        r->offset[e] = r->offset[e - 1];
    r->offset[0] = 0;
}

/* What gave way is as hot as if it had not. */
static void note_gave_way(struct forward *f, uint32_t layer)
{
    uint32_t k = f->shape->n_experts_used;
    for (uint32_t row = 0; row < f->n_rows; row++) {
        if (f->row_kept[row] == k || is_lost(f, row))
            continue;
        for (uint32_t i = 0; i < f->routing.n_gave_way[row]; i++)
            experts_gave_way(f->experts, layer, f->routing.gave_way[row * k + i], row);
        f->row_replaced[row] += f->routing.n_gave_way[row];
    }
}

/* Reads begin now: of an architecture whose router comes first they are under way during attention. */
static void want_experts(struct forward *f, uint32_t layer)
{
    const struct routing *r = &f->routing;
    struct experts_choice list[CONFIG_MAX_EXPERTS];
    for (uint32_t i = 0; i < r->n_active; i++) {
        uint32_t expert = r->active[i], first = r->offset[expert], end = r->offset[expert + 1];
        list[i] = (struct experts_choice){ .expert = expert, .n_tokens = end - first };
        for (uint32_t s = first; s < end; s++) {
            bool is_again = layer < f->row_counted[r->source[s]];
            list[i].n_again += is_again;
            list[i].heat += is_again ? 0 : experts_row_heat(r->source[s]);
        }
    }
    experts_want(f->experts, layer, list, r->n_active);
}

/* ---- foresight ---- */

struct expert_count {
    uint32_t expert, n;
};

static int by_count(const void *a, const void *b)
{
    const struct expert_count *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1)
                        : (x->expert > y->expert) - (x->expert < y->expert);
}

struct foresee_job {
    struct forward *f;
    const float *logits;
};

static void foresee_row(void *ctx, uint32_t row)
{
    const struct foresee_job *job = ctx;
    uint32_t k = job->f->shape->n_experts_used;
    rank_experts(job->f, job->logits, row, k, job->f->routing.foreseen + (size_t)row * k);
}

/* What the rows are foreseen to choose, most wanted first.  Returns how many. */
static uint32_t list_foreseen(struct forward *f, uint32_t *list)
{
    struct expert_count count[CONFIG_MAX_EXPERTS] = { 0 };
    uint32_t k = f->shape->n_experts_used, n = 0;
    for (uint32_t i = 0; i < f->n_rows * k; i++)
        count[f->routing.foreseen[i]].n += !is_lost(f, i / k);
    for (uint32_t e = 0; e < f->shape->n_experts; e++)
        if (count[e].n > 0)
            count[n++] = (struct expert_count){ e, count[e].n };
    qsort(count, n, sizeof(*count), by_count);
    for (uint32_t i = 0; i < n; i++)
        list[i] = count[i].expert;
    return n;
}

static void foresee_experts(struct forward *f, uint32_t layer, const float *logits)
{
    struct foresee_job job = { f, logits };
    uint32_t list[CONFIG_MAX_EXPERTS];
    forward_rows(f, foresee_row, &job, f->n_rows);
    experts_foresee(f->experts, layer, list, list_foreseen(f, list));
}

void moe_route(struct forward *f, uint32_t layer, const float *x)
{
    const struct layer_weights *w = &f->weights->layer[layer];
    struct moe_job job = { .f = f, .w = w, .layer = layer };
    uint32_t layers[ROUTERS_AT_ONCE], n = list_routers(f, layer, layers);
    run_routers(f, layers, n, x);
    forward_rows(f, route_row, &job, f->n_rows);
    assign_slots(f);
    if (is_on_demand(w)) {
        note_gave_way(f, layer);
        want_experts(f, layer);
    }
    for (uint32_t i = 1; i < n; i++)
        foresee_experts(f, layers[i],
                        f->router_logits + (size_t)i * f->n_rows * f->shape->n_experts);
    profile_end(&f->profile, PROFILE_ROUTER);
}

/* ---- experts ---- */

static void gather_act(struct kern_act *dst, size_t to, const struct kern_act *src, size_t from)
{
    size_t n = src->n_cols, blocks = n / KERN_BLOCK, sums = n / 16;
    memcpy(dst->q + to * n, src->q + from * n, n);
    memcpy(dst->d + to * blocks, src->d + from * blocks, blocks * sizeof(float));
    memcpy(dst->start32 + to * blocks, src->start32 + from * blocks, blocks * sizeof(int32_t));
    memcpy(dst->start16 + to * sums, src->start16 + from * sums, sums * sizeof(int32_t));
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

/* Items of work over all active experts: (expert, block of its matrices' rows).  Rows that are picked, and columns,
 * want longer blocks. */
enum { EXPERT_ITEM_ROWS = 2 * KERN_TILE_ROWS, EXPERT_LONG_ITEM_ROWS = 4 * KERN_COLUMN_ROWS };

struct expert_item {
    uint32_t expert;
    uint32_t row0, row1; /* of the matrix */
    uint32_t t0, t1;     /* of the gathered rows */
};

static uint32_t item_rows(const struct moe_job *job)
{
    return job->w->down_experts.first.layout == KERN_LAYOUT_COLUMNS ? EXPERT_LONG_ITEM_ROWS
                                                                    : EXPERT_ITEM_ROWS;
}

static uint32_t item_blocks(const struct moe_job *job, uint32_t n_rows)
{
    return (n_rows + item_rows(job) - 1) / item_rows(job);
}

static struct expert_item find_item(const struct moe_job *job, uint32_t n_rows, uint32_t item)
{
    const struct routing *r = &job->f->routing;
    uint32_t expert = job->experts[item / item_blocks(job, n_rows)];
    uint32_t row0 = item % item_blocks(job, n_rows) * item_rows(job), row1 = row0 + item_rows(job);
    return (struct expert_item){ .expert = expert,
                                 .row0 = row0,
                                 .row1 = row1 < n_rows ? row1 : n_rows,
                                 .t0 = r->offset[expert],
                                 .t1 = r->offset[expert + 1] };
}

static struct kern_matrix matrix_of(const struct moe_job *job, const struct expert_matrix *m,
                                    uint32_t expert, enum expert_part part)
{
    struct kern_matrix one = weights_expert(m, expert);
    if (!one.data)
        one.data = experts_data(job->f->experts, job->layer, expert, part);
    return one;
}

static void count_experts(const struct moe_job *job, const struct expert_matrix *w,
                          enum profile_part part)
{
    for (uint32_t i = 0; i < job->n_experts; i++) {
        const uint32_t *slots = &job->f->routing.offset[job->experts[i]];
        profile_add_product(&job->f->profile, part, &w->first, slots[1] - slots[0]);
    }
}

static void hidden_item(void *ctx, uint32_t item)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    const struct layer_weights *w = job->w;
    struct expert_item i = find_item(job, w->up_experts.first.n_rows, item);
    struct kern_matrix gate = matrix_of(job, &w->gate_experts, i.expert, EXPERT_GATE);
    struct kern_matrix up = matrix_of(job, &w->up_experts, i.expert, EXPERT_UP);
    struct kern_input in = { .x = f->gathered.x, .act = &f->gathered.act };
    struct gated g = { .gate = &gate,
                       .up = &up,
                       .up_rows = ffn_rows_to_pick(f, &up, &w->down_experts.first),
                       .down = &w->down_experts.first,
                       .in = &in,
                       .hidden = &f->expert_hidden };
    ffn_hidden_tile(f, &g, i.row0, i.row1, i.t0, i.t1);
}

static void down_item(void *ctx, uint32_t item)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    size_t n = f->shape->n_embd;
    struct expert_item i = find_item(job, (uint32_t)n, item);
    struct kern_matrix down = matrix_of(job, &job->w->down_experts, i.expert, EXPERT_DOWN);
    struct kern_input hidden = { .x = f->expert_hidden.x, .act = &f->expert_hidden.act };
    f->kern->mul_mat(&down, i.row0, i.row1, &hidden, i.t0, i.t1, f->expert_out + i.t0 * n + i.row0,
                     n);
}

/* Gate, up and down of the job's experts, for all their rows. */
static void run_experts(struct moe_job *job)
{
    struct forward *f = job->f;
    const struct layer_weights *w = job->w;
    workers_run(f->workers, hidden_item, job,
                job->n_experts * item_blocks(job, w->up_experts.first.n_rows));
    count_experts(job, &w->gate_experts, PROFILE_GATE_UP);
    count_experts(job, &w->up_experts, PROFILE_GATE_UP);
    profile_end(&f->profile, PROFILE_GATE_UP);
    workers_run(f->workers, down_item, job, job->n_experts * item_blocks(job, f->shape->n_embd));
    count_experts(job, &w->down_experts, PROFILE_DOWN);
    profile_end(&f->profile, PROFILE_DOWN);
}

/* The rows that picked one of n experts. */
static void mark_rows(const struct forward *f, const uint32_t *experts, uint32_t n, uint32_t layer,
                      uint32_t *marks)
{
    const struct routing *r = &f->routing;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t s = r->offset[experts[i]]; s < r->offset[experts[i] + 1]; s++)
            marks[r->source[s]] = layer + 1;
}

static void lose_rows(struct forward *f, uint32_t layer)
{
    const uint32_t *list;
    const char *reason;
    uint32_t n = experts_failed(f->experts, &list, &reason);
    if (n > 0)
        f->failure = reason;
    mark_rows(f, list, n, layer, f->row_failed);
    n = experts_late(f->experts, &list);
    mark_rows(f, list, n, layer, f->row_late);
}

/* As they come from the disk: what is there is computed while the others are read. */
static void run_experts_on_demand(struct moe_job *job)
{
    uint32_t set[CONFIG_MAX_EXPERTS];
    job->experts = set;
    for (;;) {
        job->n_experts = experts_next(job->f->experts, set, job->f->may_defer);
        profile_end(&job->f->profile, PROFILE_EXPERT_READ);
        if (job->n_experts == 0)
            break;
        run_experts(job);
    }
    lose_rows(job->f, job->layer);
}

static void combine_row(void *ctx, uint32_t row)
{
    const struct moe_job *job = ctx;
    struct forward *f = job->f;
    uint32_t n = f->shape->n_embd, k = f->shape->n_experts_used;
    float *y = f->block + (size_t)row * n;
    memset(y, 0, n * sizeof(*y));
    if (is_lost(f, row))
        return;
    for (size_t i = (size_t)row * k; i < ((size_t)row + 1) * k; i++)
        f->kern->add_scaled(y, f->expert_out + (size_t)f->routing.slot[i] * n, f->routing.weight[i],
                            n);
}

/* ---- the shared expert ---- */

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
    struct moe_job job = { .f = f, .w = w };
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    struct kern_input hidden = { .x = f->shared_hidden.x, .act = &f->shared_hidden.act };
    struct gated g = { .gate = &w->shared_gate,
                       .up = &w->shared_up,
                       .up_rows = ffn_rows_to_pick(f, &w->shared_up, &w->shared_down),
                       .down = &w->shared_down,
                       .in = &in,
                       .hidden = &f->shared_hidden };
    struct product router = {
        .w = &w->shared_router, .x = &in, .y = f->shared_weight, .ldy = 1, .n_rows = f->n_rows
    };
    struct product down = { .w = &w->shared_down,
                            .x = &hidden,
                            .y = f->gathered.x,
                            .ldy = f->shape->n_embd,
                            .n_rows = f->n_rows };
    if (w->shared_router.n_rows)
        forward_products(f, &router, 1, PROFILE_ROUTER);
    ffn_hidden(f, &g, 0, f->n_rows);
    forward_products(f, &down, 1, PROFILE_DOWN);
    forward_rows(f, add_shared_row, &job, f->n_rows);
}

void moe_forward(struct forward *f, uint32_t layer)
{
    const struct layer_weights *w = &f->weights->layer[layer];
    struct moe_job job = { .f = f,
                           .w = w,
                           .layer = layer,
                           .experts = f->routing.active,
                           .n_experts = f->routing.n_active };
    forward_rows(f, gather_row, &job, f->routing.offset[f->shape->n_experts]);
    profile_end(&f->profile, PROFILE_ROUTER);
    if (is_on_demand(w))
        run_experts_on_demand(&job);
    else
        run_experts(&job);
    forward_rows(f, combine_row, &job, f->n_rows);
    if (w->shared_down.n_rows)
        shared_forward(f, w);
}
