/* SPDX-License-Identifier: Apache-2.0
 *
 * ffn.c - gated products, and the dense feed-forward: block = (act(in Wgate) * (in Wup)) Wdown.
 *
 * A worker computes a tile of neurons for all rows, gate and up, and goes on with it while it lies in
 * the cache: what reaches memory is the quantised input of the down projection.
 */
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

static void hidden_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                        uint32_t t0, uint32_t t1)
{
    enum kern_activation kind = f->shape->activation;
    float *up = f->tiles + (size_t)workers_self() * 2 * f->tile_values;
    float *gate = up + f->tile_values;
    size_t n_values = (size_t)(t1 - t0) * (n1 - n0);
    product_tile(f, g->up, g->up_bias, g->in, n0, n1, t0, t1, up);
    if (f->shape->arch->ungated) {
        f->kern->activate(kind, up, NULL, up, n_values);
    } else {
        product_tile(f, g->gate, g->gate_bias, g->in, n0, n1, t0, t1, gate);
        f->kern->activate(kind, gate, up, up, n_values);
    }
    store_tile(f, g, n0, n1, t0, t1, up);
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
    struct hidden_job job = {
        f, g, forward_share_rows(f, forward_n_tiles(up), 2 * up->n_cols, f->n_rows)
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
