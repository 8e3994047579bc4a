/* SPDX-License-Identifier: Apache-2.0
 *
 * calibrate.c - from a text to operating points:
 *
 *     look     how much each neuron counts, and limits for shares of them        (neuron_stats.c)
 *     try      what each layer and site alone loses at some shares               (engine_eval)
 *     choose   shares for all of them together, within a loss                    (neuron_budget.c)
 *     tune     losses together are not their sum: the allowance is corrected until what is measured fits
 *     verify   the measures that are kept, on text that chose nothing; if one is above its goal, less is allowed
 *
 * The text is cut in this order.  Points are measured some at a time, side by side, so that the exact logits they are
 * compared with are computed once for all of them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"

enum {
    SIDE_BY_SIDE = 7, /* operating points, beside the exact one */
    TRY_TOKENS = 768,
    TUNE_TOKENS = 2048,
    VERIFY_TOKENS = 8192,
    WINDOW = 1024,
    TUNE_ROUNDS = 5,
    VERIFY_ROUNDS = 8,
};
/* Of a goal: text differs, and what is kept must hold on text that was not tuned with. */
static const double tune_most = 0.93, tune_least = 0.8;

struct text {
    const int32_t *tokens;
    size_t n;
};

struct calibration {
    struct engine *e;
    const struct engine_calibrate_options *opt;
    struct engine_err *err;
    struct sparsity *s;
    struct text look, try, tune, verify;
    struct budget_layer *budget; /* [n_layers] */
    struct layer_point *layer;   /* [n_layers] of the point at hand */
    double *allowed;             /* [n_goals] */
    const char *phase;
    uint64_t done, total;
};

/* ---- progress ---- */

static bool is_cancelled(const struct calibration *c)
{
    return c->opt->cancel && __atomic_load_n(c->opt->cancel, __ATOMIC_RELAXED);
}

static int cancelled(const struct calibration *c)
{
    return engine_fail(c->err, ENGINE_ERR_CANCELLED, "calibration was cancelled");
}

static void begin_phase(struct calibration *c, const char *phase, uint64_t total)
{
    c->phase = phase;
    c->done = 0;
    c->total = total;
    if (c->opt->progress)
        c->opt->progress(c->opt->progress_ctx, phase, 0, total);
}

static int go_on(void *ctx, uint64_t done)
{
    struct calibration *c = ctx;
    if (c->opt->progress)
        c->opt->progress(c->opt->progress_ctx, c->phase, done, c->total);
    return is_cancelled(c) ? -1 : 0;
}

static int on_row(void *ctx, uint64_t index, const float *logits)
{
    struct calibration *c = ctx;
    (void)index;
    (void)logits;
    return go_on(c, ++c->done);
}

/* ---- measuring ---- */

static int measure(struct calibration *c, const struct text *text, const uint32_t *points,
                   uint32_t n_points, struct engine_eval_result *out)
{
    uint32_t most = c->e->shape.n_ctx_train; /* beyond it the exact model is no yardstick */
    struct engine_eval_options opt = { .tokens = text->tokens,
                                       .n_tokens = text->n,
                                       .n_window = most < WINDOW ? most : WINDOW,
                                       .points = points,
                                       .n_points = n_points,
                                       .reference = c->e,
                                       .row = on_row,
                                       .ctx = c };
    return engine_eval(c->e, &opt, out, c->err);
}

/* Scratch points, whose limits change from one measurement to the next. */
static int add_scratch(struct calibration *c, uint32_t n, uint32_t *points)
{
    char name[32];
    memset(c->layer, 0, c->s->n_layers * sizeof(*c->layer));
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "trial%u", i);
        int point = sparsity_add(c->s, name, c->layer, c->err);
        if (point < 0)
            return -1;
        points[i] = (uint32_t)point;
    }
    c->e->info.n_points = c->s->n_points;
    return 0;
}

static void drop_scratch(struct calibration *c, uint32_t first)
{
    sparsity_truncate(c->s, first);
    c->e->info.n_points = c->s->n_points;
}

/* ---- try ---- */

static void list_layers(struct calibration *c)
{
    for (uint32_t l = 0; l < c->s->n_layers; l++) {
        const struct layer_weights *w = &c->e->weights.layer[l];
        double *bytes = c->budget[l].bytes;
        if (w->router.n_rows)
            continue; /* its experts have no limits */
        if (c->s->has_gate)
            bytes[SPARSITY_UP] = (double)kern_matrix_bytes(&w->up);
        bytes[SPARSITY_DOWN] = (double)kern_matrix_bytes(&w->down);
    }
}

static float limit_of(const struct calibration *c, uint32_t site, uint32_t layer, uint32_t steps)
{
    return sparsity_limit(c->s, site, layer, (double)steps / BUDGET_STEPS);
}

/* One layer and site leaves something out, all others nothing. */
struct trial {
    uint32_t layer, site, no;
};

/* The i-th of all; false: there is nothing that it could leave out. */
static bool trial_at(const struct calibration *c, uint32_t i, struct trial *t)
{
    *t = (struct trial){ i / (SPARSITY_SITES * BUDGET_TRIALS), i / BUDGET_TRIALS % SPARSITY_SITES,
                         i % BUDGET_TRIALS };
    return c->budget[t->layer].bytes[t->site] > 0;
}

static uint32_t n_trials(const struct calibration *c)
{
    return c->s->n_layers * SPARSITY_SITES * BUDGET_TRIALS;
}

static void set_trial(struct calibration *c, uint32_t point, const struct trial *t)
{
    memset(c->layer, 0, c->s->n_layers * sizeof(*c->layer));
    c->layer[t->layer].limit[t->site] = limit_of(c, t->site, t->layer, budget_trial_steps(t->no));
    sparsity_set_limits(c->s, point, c->layer);
}

static int measure_trials(struct calibration *c, const uint32_t *points, const struct trial *trial,
                          uint32_t n)
{
    struct engine_eval_result result[SIDE_BY_SIDE];
    for (uint32_t k = 0; k < n; k++)
        set_trial(c, points[k], &trial[k]);
    if (measure(c, &c->try, points, n, result) != 0)
        return -1;
    for (uint32_t k = 0; k < n; k++)
        c->budget[trial[k].layer].loss[trial[k].site][trial[k].no] = engine_eval_kl(&result[k]);
    return 0;
}

static int try_all(struct calibration *c, const uint32_t *points)
{
    struct trial trial[SIDE_BY_SIDE];
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_trials(c); i++) {
        n += trial_at(c, i, &trial[n]);
        if (n < SIDE_BY_SIDE && i + 1 < n_trials(c))
            continue;
        if (n > 0 && measure_trials(c, points, trial, n) != 0)
            return -1;
        n = 0;
    }
    return 0;
}

static int try_layers(struct calibration *c)
{
    uint32_t points[SIDE_BY_SIDE], first = c->s->n_points, n = 0;
    struct trial trial;
    for (uint32_t i = 0; i < n_trials(c); i++)
        n += trial_at(c, i, &trial);
    uint64_t n_runs = (n + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE;
    begin_phase(c, "trying each layer", n_runs * c->try.n);
    if (add_scratch(c, SIDE_BY_SIDE, points) != 0 || try_all(c, points) != 0)
        return -1;
    drop_scratch(c, first);
    return 0;
}

/* ---- choose and tune ---- */

static void set_allowed(struct calibration *c, uint32_t point, double allowed)
{
    budget_spend(c->budget, c->s->n_layers, allowed);
    for (uint32_t l = 0; l < c->s->n_layers; l++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            c->layer[l].limit[site] = limit_of(c, site, l, c->budget[l].steps[site]);
    sparsity_set_limits(c->s, point, c->layer);
}

/* What to allow next, so that the loss comes near the middle of what is aimed at. */
static double corrected(double allowed, double loss, double goal)
{
    double factor = loss > 0 ? (tune_most + tune_least) / 2 * goal / loss : 4;
    return allowed * (factor < 0.25 ? 0.25 : factor > 4 ? 4 : factor);
}

/* The largest allowances whose measured loss is within the goal. */
static int tune(struct calibration *c, const uint32_t *points)
{
    uint32_t n = c->opt->n_goals;
    struct engine_eval_result result[SIDE_BY_SIDE];
    double best[SIDE_BY_SIDE] = { 0 };
    begin_phase(c, "choosing", TUNE_ROUNDS * c->tune.n);
    for (uint32_t g = 0; g < n; g++)
        c->allowed[g] = c->opt->goals[g].kl;
    for (uint32_t round = 0; round < TUNE_ROUNDS; round++) {
        for (uint32_t g = 0; g < n; g++)
            set_allowed(c, points[g], c->allowed[g]);
        if (measure(c, &c->tune, points, n, result) != 0)
            return -1;
        for (uint32_t g = 0; g < n; g++) {
            double loss = engine_eval_kl(&result[g]), goal = c->opt->goals[g].kl;
            if (loss <= tune_most * goal && c->allowed[g] > best[g])
                best[g] = c->allowed[g];
            c->allowed[g] = corrected(c->allowed[g], loss, goal);
        }
    }
    for (uint32_t g = 0; g < n; g++) {
        c->allowed[g] = best[g];
        set_allowed(c, points[g], best[g]);
    }
    return 0;
}

/* ---- verify ---- */

static void keep_measures(struct calibration *c, uint32_t point, const struct engine_eval_result *r)
{
    struct engine_point info = {
        .kl = engine_eval_kl(r),
        .kl_p99 = r->kl_p99,
        .same_top = engine_eval_same_top(r),
        .perplexity = exp((r->nll - r->reference_nll) / (double)r->n_tokens),
        .up = r->up,
        .down = r->down,
        .weights = r->weights,
    };
    sparsity_set_info(c->s, point, &info);
}

/* What the tuning promised may not hold on other text: then less is allowed, in proportion. */
static bool keep_promise(struct calibration *c, uint32_t goal, uint32_t point,
                         const struct engine_eval_result *r)
{
    double loss = engine_eval_kl(r), most = c->opt->goals[goal].kl;
    if (loss <= most)
        return true;
    c->allowed[goal] *= tune_most * most / loss;
    set_allowed(c, point, c->allowed[goal]);
    return false;
}

/* How far off each layer is, for audits to compare with. */
static int keep_errors(struct calibration *c, uint32_t point)
{
    float *error = calloc(c->s->n_layers, sizeof(*error));
    if (!error)
        return engine_fail(c->err, ENGINE_ERR_MEMORY, "no memory for %u layers", c->s->n_layers);
    audit_means(c->e->audit, point, error);
    sparsity_set_errors(c->s, point, error);
    free(error);
    return 0;
}

static int verify_once(struct calibration *c, const uint32_t *points, bool *is_kept)
{
    struct engine_eval_result result[SIDE_BY_SIDE];
    const struct audit_options everything = { .steps = 1, .all_layers = true };
    audit_forget(c->e->audit);
    const struct audit_options before = audit_set_options(c->e->audit, &everything);
    int rc = measure(c, &c->verify, points, c->opt->n_goals, result);
    audit_set_options(c->e->audit, &before);
    *is_kept = true;
    for (uint32_t g = 0; g < c->opt->n_goals && rc == 0; g++) {
        rc = keep_errors(c, points[g]);
        keep_measures(c, points[g], &result[g]);
        *is_kept &= keep_promise(c, g, points[g], &result[g]);
    }
    audit_forget(c->e->audit);
    return rc;
}

static int verify(struct calibration *c, const uint32_t *points)
{
    bool is_kept = false;
    for (uint32_t round = 0; round < VERIFY_ROUNDS && !is_kept; round++) {
        begin_phase(c, "verifying", c->verify.n);
        if (verify_once(c, points, &is_kept) != 0)
            return -1;
    }
    return is_kept ? 0
                   : engine_fail(c->err, ENGINE_ERR_INTERNAL,
                                 "no operating point keeps what it promises on this text");
}

static int choose_points(struct calibration *c)
{
    uint32_t points[SIDE_BY_SIDE];
    memset(c->layer, 0, c->s->n_layers * sizeof(*c->layer));
    for (uint32_t g = 0; g < c->opt->n_goals; g++) {
        int point = sparsity_add(c->s, c->opt->goals[g].name, c->layer, c->err);
        if (point < 0)
            return -1;
        points[g] = (uint32_t)point;
    }
    c->e->info.n_points = c->s->n_points;
    return tune(c, points) != 0 ? -1 : verify(c, points);
}

/* ---- all together ---- */

static struct text cut(const int32_t *tokens, size_t n, size_t *at, size_t share, size_t most)
{
    size_t length = n / share < most ? n / share : most;
    struct text text = { tokens + *at, length };
    *at += length;
    return text;
}

static void cut_text(struct calibration *c)
{
    const int32_t *tokens = c->opt->tokens;
    size_t n = c->opt->n_tokens, at = 0;
    c->look = cut(tokens, n, &at, 2, n);
    c->try = cut(tokens, n, &at, 8, TRY_TOKENS);
    c->tune = cut(tokens, n, &at, 8, TUNE_TOKENS);
    c->verify = cut(tokens, n, &at, 4, VERIFY_TOKENS);
}

static int run(struct calibration *c)
{
    begin_phase(c, "looking at the neurons", 2 * (uint64_t)c->look.n);
    if (neuron_stats_gather(c->e, c->s, c->budget, c->look.tokens, c->look.n, go_on, c, c->err) !=
        0)
        return -1;
    c->s->n_tokens = c->look.n;
    if (c->opt->n_goals == 0)
        return 0; /* limits are all that was wanted */
    list_layers(c);
    return try_layers(c) != 0 ? -1 : choose_points(c);
}

static int check(const struct calibration *c)
{
    const struct engine_calibrate_options *opt = c->opt;
    if (c->e->info.n_neurons == 0)
        return engine_fail(c->err, ENGINE_ERR_UNSUPPORTED,
                           "there is nothing to calibrate: all feed-forwards of this model are "
                           "mixtures of experts");
    if (opt->n_tokens < ENGINE_CALIBRATE_LEAST_TOKENS)
        return engine_fail(c->err, ENGINE_ERR_INPUT, "a text of %zu tokens; at least %d are needed",
                           opt->n_tokens, ENGINE_CALIBRATE_LEAST_TOKENS);
    if (opt->n_goals > SIDE_BY_SIDE)
        return engine_fail(c->err, ENGINE_ERR_INPUT, "%u operating points; at most %d are made",
                           opt->n_goals, SIDE_BY_SIDE);
    return is_cancelled(c) ? cancelled(c) : 0;
}

static int take_memory(struct calibration *c)
{
    c->budget = calloc(c->s->n_layers, sizeof(*c->budget));
    c->layer = calloc(c->s->n_layers, sizeof(*c->layer));
    c->allowed = calloc(c->opt->n_goals + 1, sizeof(*c->allowed));
    return c->budget && c->layer && c->allowed
               ? 0
               : engine_fail(c->err, ENGINE_ERR_MEMORY, "no memory to calibrate");
}

int engine_calibrate(struct engine *e, const struct engine_calibrate_options *opt,
                     struct engine_err *err)
{
    struct calibration c = { .e = e, .opt = opt, .err = err };
    struct sparsity *before = e->sparsity;
    if (check(&c) != 0 || sparsity_open(&c.s, &e->shape, err) != 0)
        return -1;
    engine_use_sparsity(e, c.s);
    cut_text(&c);
    int rc = take_memory(&c);
    if (rc == 0)
        rc = run(&c);
    if (rc != 0)
        engine_use_sparsity(e, before);
    sparsity_close(rc == 0 ? before : c.s);
    free(c.budget);
    free(c.layer);
    free(c.allowed);
    return rc;
}

int engine_write_sidecar(const struct engine *e, const char *path, struct engine_err *err)
{
    return sidecar_write(e->sparsity, path, weights_identity(&e->weights, &e->shape), err);
}
