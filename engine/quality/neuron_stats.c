/* SPDX-License-Identifier: Apache-2.0
 *
 * neuron_stats.c - how much each neuron of the dense feed-forwards counts, and how what a token makes of it is
 * distributed (sparsity.h has the rules).
 *
 * The text runs through the model twice: first for the means of |up|, which the weights of gates need, then for the
 * histograms of what is compared with a limit.  Their bins are the upper bits of a float: 16 to an octave, no range to
 * be known before.  What lies in a bin is taken to be spread evenly.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"

enum {
    BIN_SHIFT = 19, /* 8 bits of exponent, 4 of mantissa */
    N_BINS = 1 << (31 - BIN_SHIFT),
    WINDOW = 1024, /* tokens of a sequence */
};

/* Of one worker. */
struct histogram {
    uint32_t n[SPARSITY_SITES][N_BINS];
};

struct stats {
    struct engine *e;
    struct sparsity *s;
    struct budget_layer *layers;
    double *up;             /* [n_layers][n_ff] sums of |up| */
    float *row;             /* [n_threads][n_ff] of down */
    struct histogram *bins; /* [n_threads][n_layers] */
    uint64_t n_rows;        /* that were looked at in a pass */
    int (*step)(void *ctx, uint64_t done);
    void *ctx;
    uint64_t done;
};

static bool has_neurons(const struct stats *st, uint32_t layer)
{
    return st->e->weights.layer[layer].router.n_rows == 0;
}

/* ---- looking ---- */

static bool is_seen(const struct stats *st, uint32_t row)
{
    return st->e->forward->place[row].pos >= SPARSITY_FIRST_POS;
}

static void add_ups(void *ctx, const struct neuron_tile *tile)
{
    const struct stats *st = ctx;
    double *sum = st->up + (size_t)tile->layer * st->s->n_ff + tile->n0;
    for (uint32_t t = 0; t < tile->n_t; t++)
        for (uint32_t i = 0; i < tile->n && is_seen(st, tile->t0 + t); i++)
            sum[i] += fabs((double)tile->up[(size_t)t * tile->n + i]);
}

/* Bin 0, which nobody looks at, for what is no number. */
static uint32_t bin_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return isfinite(x) && x > 0 ? bits >> BIN_SHIFT : 0;
}

/* The smallest number of a bin. */
static double bin_begin(uint32_t bin)
{
    uint32_t bits = bin << BIN_SHIFT;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return (double)x;
}

static void add_to_bins(void *ctx, const struct neuron_tile *tile)
{
    const struct stats *st = ctx;
    const struct sparsity *s = st->s;
    struct histogram *bins = &st->bins[(size_t)workers_self() * s->n_layers + tile->layer];
    const float *up_weight = s->weight[SPARSITY_UP] + (size_t)tile->layer * s->n_ff + tile->n0;
    const float *down_weight = s->weight[SPARSITY_DOWN] + (size_t)tile->layer * s->n_ff + tile->n0;
    for (uint32_t t = 0; t < tile->n_t; t++)
        for (uint32_t i = 0; i < tile->n && is_seen(st, tile->t0 + t); i++) {
            size_t at = (size_t)t * tile->n + i;
            float gate = tile->gate ? fabsf(tile->gate[at]) : 1.0f;
            bins->n[SPARSITY_UP][bin_of(gate * up_weight[i])]++;
            bins->n[SPARSITY_DOWN][bin_of(gate * fabsf(tile->up[at]) * down_weight[i])]++;
        }
}

/* ---- running ---- */

static int run_rows(struct stats *st, struct engine_seq *seq, const int32_t *tokens, uint32_t n,
                    struct engine_row *rows, struct engine_err *err)
{
    if (quality_fill_rows(seq, tokens, n, UINT32_MAX, rows, err) != 0 ||
        quality_step(st->e, rows, n, err) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        st->n_rows += rows[i].pos >= SPARSITY_FIRST_POS;
    st->done += n;
    return st->step(st->ctx, st->done)
               ? engine_fail(err, ENGINE_ERR_CANCELLED, "calibration was cancelled")
               : 0;
}

static int run_window(struct stats *st, const int32_t *tokens, uint32_t n, struct engine_row *rows,
                      struct engine_err *err)
{
    struct engine_seq_options opt = { .max_tokens = n, .no_cache = true, .n_prompt = n };
    struct engine_seq *seq;
    uint32_t most = st->e->opt.max_rows;
    int rc = engine_seq_open(st->e, &opt, &seq, err);
    for (uint32_t i = 0; i < n && rc == 0; i += most)
        rc = run_rows(st, seq, tokens + i, n - i < most ? n - i : most, rows, err);
    engine_seq_close(seq);
    return rc;
}

static int run_pass(struct stats *st, const int32_t *tokens, size_t n, forward_probe_fn *probe,
                    struct engine_err *err)
{
    uint32_t window = st->e->info.n_ctx < WINDOW ? st->e->info.n_ctx : WINDOW;
    if (window > st->e->shape.n_ctx_train)
        window = st->e->shape.n_ctx_train;
    struct engine_row *rows = calloc(st->e->opt.max_rows, sizeof(*rows));
    int rc = rows ? 0 : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a step's rows");
    st->n_rows = 0;
    st->e->forward->probe = probe;
    st->e->forward->probe_ctx = st;
    for (size_t i = 0; i < n && rc == 0; i += window)
        rc = run_window(st, tokens + i, n - i < window ? (uint32_t)(n - i) : window, rows, err);
    st->e->forward->probe = NULL;
    free(rows);
    return rc;
}

/* ---- weights ---- */

/* For the workers: the lengths of a layer's columns of down. */
static void measure_columns(void *ctx, uint32_t layer)
{
    const struct stats *st = ctx;
    const struct kern_matrix *down = &st->e->weights.layer[layer].down;
    float *length = st->s->weight[SPARSITY_DOWN] + (size_t)layer * st->s->n_ff;
    double *sum = st->up + (size_t)layer * st->s->n_ff; /* nobody needs it yet */
    float *row = st->row + (size_t)workers_self() * st->s->n_ff;
    for (uint32_t r = 0; r < down->n_rows && has_neurons(st, layer); r++) {
        kern_row(down, r, row);
        for (uint32_t i = 0; i < down->n_cols; i++)
            sum[i] += (double)row[i] * (double)row[i];
    }
    for (uint32_t i = 0; i < st->s->n_ff; i++) {
        length[i] = (float)sqrt(sum[i]);
        sum[i] = 0;
    }
}

static void weigh_gates(const struct stats *st)
{
    const struct sparsity *s = st->s;
    for (size_t i = 0; i < (size_t)s->n_layers * s->n_ff; i++) {
        double mean = st->n_rows > 0 ? st->up[i] / (double)st->n_rows : 0;
        s->weight[SPARSITY_UP][i] = (float)(mean * (double)s->weight[SPARSITY_DOWN][i]);
    }
}

/* ---- levels ---- */

static void sum_bins(const struct stats *st, uint32_t layer, uint32_t site, uint64_t sum[N_BINS])
{
    memset(sum, 0, N_BINS * sizeof(*sum));
    for (uint32_t w = 0; w < st->e->opt.n_threads; w++)
        for (uint32_t i = 0; i < N_BINS; i++)
            sum[i] += st->bins[(size_t)w * st->s->n_layers + layer].n[site][i];
}

/* Of what lies in bin i: about the mean square. */
static double bin_square(uint32_t i)
{
    double middle = (bin_begin(i) + bin_begin(i + 1)) / 2;
    return middle * middle;
}

/* Below `level` lies the share of what was counted and is not zero (there is nothing to choose among zeros), whose squares
 * add up to `energy`. */
struct quantile {
    double level, energy;
};

static struct quantile quantile_of(const uint64_t n[N_BINS], double share)
{
    double all = 0, below = 0;
    struct quantile q = { 0 };
    for (uint32_t i = 1; i < N_BINS; i++)
        all += (double)n[i];
    for (uint32_t i = 1; i < N_BINS - 1; i++) {
        double here = (double)n[i], wanted = share * all - below;
        if (n[i] > 0 && here >= wanted) {
            q.level = bin_begin(i) + wanted / here * (bin_begin(i + 1) - bin_begin(i));
            q.energy += wanted * bin_square(i);
            return q;
        }
        q.energy += here * bin_square(i);
        below += here;
    }
    return q; /* nothing was counted */
}

static void set_levels(const struct stats *st, uint32_t layer, uint32_t site)
{
    uint64_t n[N_BINS];
    float *level = st->s->level[site] + (size_t)layer * SPARSITY_LEVELS;
    double *energy = st->layers[layer].energy[site];
    sum_bins(st, layer, site, n);
    energy[0] = 0;
    for (uint32_t i = 0; i < SPARSITY_LEVELS; i++) {
        struct quantile q = quantile_of(n, (double)(i + 1) / (SPARSITY_LEVELS + 1));
        level[i] = (float)q.level;
        energy[i + 1] = q.energy;
    }
}

/* ---- all together ---- */

static int gather(struct stats *st, const int32_t *tokens, size_t n, struct engine_err *err)
{
    const struct sparsity *s = st->s;
    workers_run(st->e->workers, measure_columns, st, s->n_layers);
    if (s->has_gate) {
        if (run_pass(st, tokens, n, add_ups, err) != 0)
            return -1;
        weigh_gates(st);
    }
    if (run_pass(st, tokens, n, add_to_bins, err) != 0)
        return -1;
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t site = 0; site < SPARSITY_SITES && has_neurons(st, l); site++)
            set_levels(st, l, site);
    return 0;
}

int neuron_stats_gather(struct engine *e, struct sparsity *s, struct budget_layer *layers,
                        const int32_t *tokens, size_t n, int (*step)(void *ctx, uint64_t done),
                        void *ctx, struct engine_err *err)
{
    struct stats st = { .e = e, .s = s, .layers = layers, .step = step, .ctx = ctx };
    st.up = calloc((size_t)s->n_layers * s->n_ff + 1, sizeof(*st.up));
    st.row = calloc((size_t)e->opt.n_threads * s->n_ff + 1, sizeof(*st.row));
    st.bins = calloc((size_t)e->opt.n_threads * s->n_layers, sizeof(*st.bins));
    int rc = st.up && st.row && st.bins
                 ? gather(&st, tokens, n, err)
                 : engine_fail(err, ENGINE_ERR_MEMORY, "no memory to look at %u neurons",
                               e->info.n_neurons);
    free(st.up);
    free(st.row);
    free(st.bins);
    return rc;
}
