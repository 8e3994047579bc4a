/* SPDX-License-Identifier: Apache-2.0
 *
 * ffn.c - gated products, and the dense feed-forward: block = (act(in Wgate) * (in Wup)) Wdown.
 *
 * A worker computes a tile of neurons for all rows, gate and up, and goes on with it while it lies in
 * the cache: what reaches memory is the quantised input of the down projection.
 *
 * Where neurons that are zero are skipped (repack.h), or rows' operating points take some for zero (sparsity.h), gate is
 * computed first, and of up only the rows of neurons that it leaves active, unless most are; down, if it lies in columns,
 * then skips the zeros by itself.  What is left out depends on the row, never on the layout: the bits are the same if all
 * is multiplied, unless a product of a neuron that is skipped were infinite: 0 times that would be NaN.  Where up and down
 * lie in memory in panels, too, each step takes the way that is faster (plan.h).
 */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/clock.h"
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

/* ---- neurons that are zero, or are taken for it ---- */

/* A tile of neurons [n0, n0 + n) of rows [t0, t0 + n_t): h [n_t][n] becomes their hidden activations. */
struct tile {
    const struct gated *g;
    uint32_t n0, n, t0, n_t;
    float *h, *up; /* up: room for as much */
};

const struct kern_matrix *ffn_rows_to_pick(const struct forward *f, const struct kern_matrix *up,
                                           const struct kern_matrix *down)
{
    bool is_for_zeros = f->opt.skips_zeros && down->layout == KERN_LAYOUT_COLUMNS &&
                        up->layout == KERN_LAYOUT_ROWS;
    return is_for_zeros ? up : NULL;
}

bool ffn_looks_for_zeros(const struct forward *f)
{
    enum kern_activation kind = f->shape->activation;
    return f->opt.skips_zeros && (kind == KERN_ACTIVATION_RELU || kind == KERN_ACTIVATION_RELU2);
}

static bool drops_neurons(const struct forward *f, const struct gated *g, uint32_t t0, uint32_t t1)
{
    for (uint32_t t = t0; t < t1 && g->has_points; t++)
        if (f->row_point[t])
            return true;
    return false;
}

/* What rows' operating points can do without at a site becomes zero. */
static void drop_neurons(const struct forward *f, const struct tile *tile, enum sparsity_site site)
{
    const struct sparsity *s = f->sparsity;
    uint32_t layer = tile->g->layer;
    for (uint32_t t = 0; t < tile->n_t && tile->g->has_points; t++) {
        const struct operating_point *point = f->row_point[tile->t0 + t];
        float limit = point ? point->layer[layer].limit[site] : 0.0f;
        if (limit > 0.0f)
            f->kern->drop_below(tile->h + (size_t)t * tile->n,
                                s->weight[site] + (size_t)layer * s->n_ff + tile->n0, limit,
                                tile->n);
    }
}

/* Are rows of up that are picked for each token faster than all rows for all tokens?  The former take as long as
 * all rows for one token when all are active, the latter 1.6 times as long and 0.15 for each token, as measured
 * (tests/bench/bench_sparse.c). */
static bool picking_pays(size_t n_active, size_t n_neurons, uint32_t n_tokens)
{
    return 20 * n_active <= (32 + 3 * (size_t)n_tokens) * n_neurons;
}

static bool picks_rows(const struct tile *tile, size_t n_active)
{
    const struct gated *g = tile->g;
    return g->up_rows && (g->picks_always || picking_pays(n_active, tile->n, tile->n_t));
}

/* Room for a tile's neurons, this worker's. */
static uint32_t *list_of(const struct forward *f)
{
    return f->active + (size_t)workers_self() * f->tile_values;
}

/* n neurons of row t of the tile are computed at a site. */
static void count_row(struct forward *f, const struct tile *tile, enum sparsity_site site,
                      uint32_t t, uint32_t n)
{
    if (f->audit.is_running)
        return;
    f->neurons[workers_self()].n[site] += n;
    if (tile->g->has_points)
        atomic_fetch_add_explicit(&f->row_counts[tile->t0 + t].n[site], n, memory_order_relaxed);
}

/* Returns how many are not zero. */
static size_t count_active(struct forward *f, const struct tile *tile, enum sparsity_site site)
{
    size_t n_active = 0;
    for (uint32_t t = 0; t < tile->n_t; t++) {
        uint32_t n = f->kern->list_nonzero(tile->h + (size_t)t * tile->n, tile->n, list_of(f));
        count_row(f, tile, site, t, n);
        n_active += n;
    }
    return n_active;
}

/* h [n]: act(gate) of a token, becomes act(gate) * up. */
static void multiply_active(struct forward *f, const struct tile *tile, uint32_t t)
{
    const struct gated *g = tile->g;
    float *h = tile->h + (size_t)t * tile->n, *up = tile->up;
    uint32_t *list = list_of(f), n_active = f->kern->list_nonzero(h, tile->n, list);
    for (uint32_t i = 0; i < n_active; i++)
        list[i] += tile->n0;
    f->kern->mul_rows(g->up_rows, list, n_active, g->in, tile->t0 + t, up);
    for (uint32_t i = 0; i < n_active; i++)
        h[list[i] - tile->n0] *= g->up_bias ? up[i] + g->up_bias[list[i]] : up[i];
}

/* act(gate) says which neurons are wanted. */
static void gate_first(struct forward *f, const struct tile *tile)
{
    const struct gated *g = tile->g;
    uint32_t n1 = tile->n0 + tile->n, t1 = tile->t0 + tile->n_t;
    size_t n_values = (size_t)tile->n_t * tile->n;
    product_tile(f, g->gate, g->gate_bias, g->in, tile->n0, n1, tile->t0, t1, tile->h);
    f->kern->activate(f->shape->activation, tile->h, NULL, tile->h, n_values);
    drop_neurons(f, tile, SPARSITY_UP);
    size_t n_active = count_active(f, tile, SPARSITY_UP);
    if (picks_rows(tile, n_active)) {
        for (uint32_t t = 0; t < tile->n_t; t++)
            multiply_active(f, tile, t);
        return;
    }
    product_tile(f, g->up, g->up_bias, g->in, tile->n0, n1, tile->t0, t1, tile->up);
    for (size_t i = 0; i < n_values; i++)
        tile->h[i] *= tile->up[i];
}

static void sparse_tile(struct forward *f, const struct tile *tile)
{
    size_t n_values = (size_t)tile->n_t * tile->n;
    if (f->shape->arch->ungated) {
        product_tile(f, tile->g->up, tile->g->up_bias, tile->g->in, tile->n0, tile->n0 + tile->n,
                     tile->t0, tile->t0 + tile->n_t, tile->h);
        f->kern->activate(f->shape->activation, tile->h, NULL, tile->h, n_values);
        for (uint32_t t = 0; t < tile->n_t; t++)
            count_row(f, tile, SPARSITY_UP, t, tile->n);
    } else {
        gate_first(f, tile);
    }
    drop_neurons(f, tile, SPARSITY_DOWN);
    count_active(f, tile, SPARSITY_DOWN);
    f->neurons[workers_self()].n_all += f->audit.is_running ? 0 : n_values;
}

/* As dense_tile; somebody looks at gate and up. */
static void probed_tile(struct forward *f, const struct tile *tile)
{
    const struct gated *g = tile->g;
    uint32_t n1 = tile->n0 + tile->n, t1 = tile->t0 + tile->n_t;
    size_t n_values = (size_t)tile->n_t * tile->n;
    bool has_gate = !f->shape->arch->ungated;
    float *up = has_gate ? tile->up : tile->h, *activated = tile->h;
    product_tile(f, g->up, g->up_bias, g->in, tile->n0, n1, tile->t0, t1, up);
    if (has_gate)
        product_tile(f, g->gate, g->gate_bias, g->in, tile->n0, n1, tile->t0, t1, activated);
    f->kern->activate(f->shape->activation, activated, NULL, activated, n_values);
    const struct neuron_tile seen = { .layer = g->layer,
                                      .n0 = tile->n0,
                                      .n = tile->n,
                                      .t0 = tile->t0,
                                      .n_t = tile->n_t,
                                      .gate = has_gate ? tile->h : NULL,
                                      .up = up };
    f->probe(f->probe_ctx, &seen);
    for (size_t i = 0; i < n_values && has_gate; i++)
        tile->h[i] *= tile->up[i];
}

static void hidden_tile(struct forward *f, const struct gated *g, uint32_t n0, uint32_t n1,
                        uint32_t t0, uint32_t t1)
{
    float *h = f->tiles + (size_t)workers_self() * 2 * f->tile_values;
    struct tile tile = { g, n0, n1 - n0, t0, t1 - t0, h, h + f->tile_values };
    if (f->probe && g->has_points)
        probed_tile(f, &tile);
    else if (ffn_looks_for_zeros(f) || drops_neurons(f, g, t0, t1))
        sparse_tile(f, &tile);
    else
        dense_tile(f, g, n0, n1, t0, t1, tile.h, tile.up);
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
    uint32_t t0, t1;
    struct share share; /* of tiles of neurons */
};

static void hidden_item(void *ctx, uint32_t item)
{
    const struct hidden_job *job = ctx;
    uint32_t from, to, n = job->g->up->n_rows;
    share_item(&job->share, item, &from, &to);
    to *= KERN_TILE_ROWS;
    ffn_hidden_tile(job->f, job->g, from * KERN_TILE_ROWS, to < n ? to : n, job->t0, job->t1);
}

void ffn_hidden(struct forward *f, const struct gated *g, uint32_t t0, uint32_t t1)
{
    const struct kern_matrix *up = g->up;
    uint32_t n_t = t1 - t0, n_tiles = (up->n_rows + KERN_TILE_ROWS - 1) / KERN_TILE_ROWS;
    assert(up->layout != KERN_LAYOUT_COLUMNS); /* tiles of neurons are KERN_TILE_ROWS */
    /* Of up and of gate. */
    struct hidden_job job = { f, g, t0, t1,
                              forward_share_rows(f, up, n_tiles, 2 * KERN_TILE_ROWS, n_t) };
    workers_run(f->workers, hidden_item, &job, share_n_items(&job.share));
    profile_add_product(&f->profile, PROFILE_GATE_UP, up, n_t);
    if (!f->shape->arch->ungated)
        profile_add_product(&f->profile, PROFILE_GATE_UP, g->gate, n_t);
    profile_end(&f->profile, PROFILE_GATE_UP);
}

/* ---- the dense feed-forward ---- */

/* Of one product; cell NULL: only one way is open. */
struct choice {
    struct plan_cell *cell;
    enum sparsity_site site;
    enum plan_way way;
    uint64_t begin_ns;
};

static bool have_all_points(const struct forward *f)
{
    for (uint32_t t = 0; t < f->n_rows; t++)
        if (!f->row_point[t])
            return false;
    return true;
}

/* Does the layer's hidden activation have zeros that may be skipped? */
static bool has_zeros(const struct forward *f, const struct gated *g)
{
    bool may_be_skipped = f->opt.skips_zeros && !f->probe && f->n_rows <= PLAN_MOST_ROWS;
    return may_be_skipped && (ffn_looks_for_zeros(f) || drops_neurons(f, g, 0, f->n_rows));
}

/* twin: of the matrix, for who skips zeros; n_rows 0: none. */
static struct choice choose(struct forward *f, const struct gated *g, enum sparsity_site site,
                            const struct kern_matrix *twin)
{
    struct choice c = { .site = site, .way = PLAN_ALL };
    if (twin->n_rows == 0 || !has_zeros(f, g))
        return c;
    bool is_mixed = !ffn_looks_for_zeros(f) && !have_all_points(f);
    c.cell = plan_find(f->plan_cells, g->layer, site, f->n_rows, is_mixed);
    c.way = plan_choose(c.cell);
    c.begin_ns = engine_clock_ns();
    return c;
}

static void learn(struct forward *f, const struct choice *c)
{
    if (!c->cell)
        return;
    plan_learn(c->cell, c->way, (float)(engine_clock_ns() - c->begin_ns) / (float)f->n_rows);
    f->n_planned[c->site][c->way]++;
}

static void gate_and_up(struct forward *f, struct gated *g, const struct layer_weights *w)
{
    struct choice c = choose(f, g, SPARSITY_UP, &w->up_rows);
    g->picks_always = c.cell != NULL;
    if (w->up_rows.n_rows)
        g->up_rows = c.way == PLAN_NONZERO ? &w->up_rows : NULL;
    else
        g->up_rows = ffn_rows_to_pick(f, &w->up, &w->down);
    ffn_hidden(f, g, 0, f->n_rows);
    learn(f, &c);
}

static void down(struct forward *f, const struct gated *g, const struct layer_weights *w)
{
    struct choice c = choose(f, g, SPARSITY_DOWN, &w->down_columns);
    struct kern_input hidden = { .x = f->hidden.x, .act = &f->hidden.act };
    struct product p = { .w = c.way == PLAN_NONZERO ? &w->down_columns : &w->down,
                         .x = &hidden,
                         .y = f->block,
                         .ldy = f->shape->n_embd,
                         .n_rows = f->n_rows };
    forward_products(f, &p, 1, PROFILE_DOWN);
    learn(f, &c);
}

void ffn_forward(struct forward *f, uint32_t layer)
{
    const struct layer_weights *w = &f->weights->layer[layer];
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    struct gated g = { .layer = layer,
                       .has_points = true,
                       .gate = &w->gate,
                       .up = &w->up,
                       .gate_bias = w->gate_bias,
                       .up_bias = w->up_bias,
                       .down = &w->down,
                       .in = &in,
                       .hidden = &f->hidden };
    gate_and_up(f, &g, w);
    down(f, &g, w);
    if (audit_wants(f, layer))
        audit_ffn(f, &g);
}
