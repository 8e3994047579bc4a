/* SPDX-License-Identifier: Apache-2.0
 *
 * ffn.c - gated products, and the dense feed-forward: block = (act(in Wgate) * (in Wup)) Wdown.
 *
 * A worker computes a tile of neurons for all rows, gate and up, and goes on with it while it lies in
 * the cache: what reaches memory is the quantised input of the down projection.
 *
 * Where neurons that are zero are skipped (repack.h), gate is computed first, and of up only the rows of neurons that
 * it leaves active, unless most are; down, which lies in columns, then skips the zeros by itself.  The bits are the
 * same, if no product of a neuron that is skipped is infinite: 0 times that would be NaN.
 */
#include <assert.h>
#include <string.h>

#include "engine/forward/forward.h"

/* [n_t][n] of a product, with its bias. */
static void product_tile(struct forward *f, const struct kern_matrix *w, const float *bias,
                         const struct kern_input *in, uint32_t n0, uint32_t n1, uint32_t t0,
                         uint32_t t1, float *y)
{
    uint32_t n = n1 - n0;
    f->kern->mul_mat(w, n0, n1, in, t0, t1, y, n);
    for (uint32_t t = 0; bias && t < t1 - t0; t++)
        f->kern->add_scaled(y + (size_t)t * n, bias + n0, 1.0f, n);
}

/* y [n_t][n] becomes part of the hidden activations. */
static void store_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                       uint32_t t0, uint32_t t1, const float *y)
{
    uint32_t n = n1 - n0;
    if (kern_type_is_quantised(g->down->type)) {
        f->kern->quantise(y, n, &g->hidden->act, t0, t1, n0, n1);
        return;
    }
    for (uint32_t t = t0; t < t1; t++, y += n)
        memcpy(g->hidden->x + (size_t)t * g->hidden->n + n0, y, n * sizeof(float));
}

/* ---- all neurons ---- */

static void dense_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                       uint32_t t0, uint32_t t1, float *up, float *gate)
{
    enum kern_activation kind = f->shape->activation;
    size_t n_values = (size_t)(t1 - t0) * (n1 - n0);
    product_tile(f, g->up, g->up_bias, g->in, n0, n1, t0, t1, up);
    if (f->shape->arch->ungated) {
        f->kern->activate(kind, up, NULL, up, n_values);
    } else {
        product_tile(f, g->gate, g->gate_bias, g->in, n0, n1, t0, t1, gate);
        f->kern->activate(kind, gate, up, up, n_values);
    }
}

/* ---- neurons that are zero ---- */

static bool gate_decides(const struct forward *f, const struct gated *g)
{
    return f->opt.skips_zeros && !f->shape->arch->ungated &&
           g->down->layout == KERN_LAYOUT_COLUMNS && g->up->layout == KERN_LAYOUT_ROWS;
}

/* Returns how many of n are active. */
static size_t count_neurons(struct forward *f, const float *h, size_t n)
{
    struct neuron_count *count = &f->neurons[workers_self()];
    size_t n_active = 0;
    for (size_t i = 0; i < n; i++)
        n_active += h[i] != 0.0f;
    count->n_all += n;
    count->n_active += n_active;
    return n_active;
}

/* Are rows of up that are picked for each token faster than all rows for all tokens?  The former take as long as
 * all rows for one token when all are active, the latter 1.6 times as long and 0.15 for each token, as measured
 * (tests/bench/bench_sparse.c). */
static bool picking_pays(size_t n_active, size_t n_neurons, uint32_t n_tokens)
{
    return 20 * n_active <= (32 + 3 * (size_t)n_tokens) * n_neurons;
}

/* Neurons that are active, by number in the tile: those of ReLU are positive. */
static uint32_t list_neurons(const struct forward *f, const float *h, uint32_t n, uint32_t *list)
{
    uint32_t n_active = 0;
    for (uint32_t i = 0; (i = f->kern->first_above(h, i, n, 0.0f)) < n; i++)
        list[n_active++] = i;
    return n_active;
}

/* h [n]: act(gate) of a token, becomes act(gate) * up; up [n]: room. */
static void multiply_active(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n,
                            uint32_t t, float *h, float *up)
{
    uint32_t *list = f->active + (size_t)workers_self() * f->tile_values;
    uint32_t n_active = list_neurons(f, h, n, list);
    for (uint32_t i = 0; i < n_active; i++)
        list[i] += n0;
    f->kern->mul_rows(g->up, list, n_active, g->in, t, up);
    for (uint32_t i = 0; i < n_active; i++)
        h[list[i] - n0] *= g->up_bias ? up[i] + g->up_bias[list[i]] : up[i];
}

static void gate_first_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                            uint32_t t0, uint32_t t1, float *h, float *up)
{
    uint32_t n = n1 - n0, n_t = t1 - t0;
    size_t n_values = (size_t)n_t * n;
    product_tile(f, g->gate, g->gate_bias, g->in, n0, n1, t0, t1, h);
    f->kern->activate(f->shape->activation, h, NULL, h, n_values);
    if (picking_pays(count_neurons(f, h, n_values), n, n_t)) {
        for (uint32_t t = t0; t < t1; t++)
            multiply_active(f, g, n0, n, t, h + (size_t)(t - t0) * n, up);
        return;
    }
    product_tile(f, g->up, g->up_bias, g->in, n0, n1, t0, t1, up);
    for (size_t i = 0; i < n_values; i++)
        h[i] *= up[i];
}

static void hidden_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                        uint32_t t0, uint32_t t1)
{
    float *h = f->tiles + (size_t)workers_self() * 2 * f->tile_values;
    if (gate_decides(f, g)) {
        gate_first_tile(f, g, n0, n1, t0, t1, h, h + f->tile_values);
    } else {
        dense_tile(f, g, n0, n1, t0, t1, h, h + f->tile_values);
        if (f->opt.skips_zeros)
            count_neurons(f, h, (size_t)(t1 - t0) * (n1 - n0));
    }
    store_tile(f, g, n0, n1, t0, t1, h);
}

void ffn_hidden_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                     uint32_t t0, uint32_t t1)
{
    uint32_t n_t = kern_block_tokens(g->up->type, g->up->n_cols, t1 - t0);
    uint32_t step = f->tile_values / n_t / KERN_TILE_ROWS * KERN_TILE_ROWS;
    for (uint32_t n = n0; n < n1; n += step)
        for (uint32_t t = t0; t < t1; t += n_t)
            hidden_tile(f, g, n, n + step < n1 ? n + step : n1, t, t + n_t < t1 ? t + n_t : t1);
}

struct hidden_job {
    struct forward *f;
    const struct gated *g;
    struct share share; /* of tiles of neurons */
};

static void hidden_item(void *ctx, uint32_t item)
{
    const struct hidden_job *job = ctx;
    uint32_t from, to, n = job->g->up->n_rows;
    share_item(&job->share, item, &from, &to);
    to *= KERN_TILE_ROWS;
    ffn_hidden_tile(job->f, job->g, from * KERN_TILE_ROWS, to < n ? to : n, 0, job->f->n_rows);
}

void ffn_hidden(struct forward *f, const struct gated *g)
{
    const struct kern_matrix *up = g->up;
    assert(up->layout != KERN_LAYOUT_COLUMNS); /* tiles of neurons are KERN_TILE_ROWS */
    struct hidden_job job = {
        f, g, forward_share_rows(f, up, forward_n_tiles(up), 2 * up->n_cols, f->n_rows)
    };
    workers_run(f->workers, hidden_item, &job, share_n_items(&job.share));
    profile_add_product(&f->profile, PROFILE_GATE_UP, up, f->n_rows);
    if (!f->shape->arch->ungated)
        profile_add_product(&f->profile, PROFILE_GATE_UP, g->gate, f->n_rows);
    profile_end(&f->profile, PROFILE_GATE_UP);
}

void ffn_forward(struct forward *f, const struct layer_weights *w)
{
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    struct kern_input hidden = { .x = f->hidden.x, .act = &f->hidden.act };
    struct gated g = { .gate = &w->gate,
                       .up = &w->up,
                       .gate_bias = w->gate_bias,
                       .up_bias = w->up_bias,
                       .down = &w->down,
                       .in = &in,
                       .hidden = &f->hidden };
    struct product down = {
        .w = &w->down, .x = &hidden, .y = f->block, .ldy = f->shape->n_embd, .n_rows = f->n_rows
    };
    ffn_hidden(f, &g);
    forward_products(f, &down, 1, PROFILE_DOWN);
}
