/* SPDX-License-Identifier: Apache-2.0
 *
 * audit.c - does what is left out still cost what the calibration found?  Every so many steps one layer of a row is
 * computed whole as well, the layers in turn.  An operating point that is found to be twice as far off as on the calibration's text is
 * withdrawn: later requests get a safer one.  Running ones keep theirs, or their answers would depend on their company.
 */
#include <math.h>
#include <stdlib.h>

#include "engine/quality/quality.h"

enum { ENOUGH = 32 }; /* audits before one judges; not fewer than there are layers */
static const double too_much = 2;

/* Adjacent layers. */
struct group {
    _Atomic uint64_t n;
    _Atomic double error;
};

struct point_audit {
    uint32_t n;
    double times; /* as far off as expected */
    _Atomic bool is_withdrawn;
};

/* Of a layer and point. */
struct sum {
    double error;
    uint64_t n;
};

struct audit {
    const struct engine *e;
    struct audit_options opt;
    uint64_t n_steps;   /* in which something was left out */
    uint32_t layer;     /* the last one that was audited */
    uint32_t first_row; /* where the next audit begins to look for rows */
    _Atomic uint32_t n_withdrawn;
    struct group group[ENGINE_AUDIT_GROUPS];
    struct point_audit point[SPARSITY_MAX_POINTS];
    struct sum *sum; /* [SPARSITY_MAX_POINTS][n_layers] */
};

int audit_open(struct audit **out, const struct engine *e, const struct audit_options *opt)
{
    struct audit *a = calloc(1, sizeof(*a));
    *out = a;
    if (!a)
        return -1;
    a->e = e;
    a->opt = *opt;
    a->sum = calloc((size_t)SPARSITY_MAX_POINTS * e->shape.n_layers, sizeof(*a->sum));
    if (a->sum)
        return 0;
    audit_close(a);
    *out = NULL;
    return -1;
}

void audit_close(struct audit *a)
{
    if (a)
        free(a->sum);
    free(a);
}

struct audit_options audit_set_options(struct audit *a, const struct audit_options *opt)
{
    struct audit_options before = a->opt;
    a->opt = *opt;
    return before;
}

/* ---- what was found ---- */

static uint32_t enough(const struct audit *a)
{
    return a->e->shape.n_layers > ENOUGH ? a->e->shape.n_layers : ENOUGH;
}

/* A mean of n values, or of the latest of them, in which each layer counts. */
static double running_mean(const struct audit *a, double mean, double value, uint64_t n)
{
    uint64_t window = 2 * (uint64_t)enough(a);
    return mean + (value - mean) / (double)(n < window ? n : window);
}

static uint32_t group_of(const struct audit *a, uint32_t layer)
{
    return layer * ENGINE_AUDIT_GROUPS / a->e->shape.n_layers;
}

/* Only this thread writes. */
static void note_group(struct audit *a, uint32_t layer, double error)
{
    struct group *g = &a->group[group_of(a, layer)];
    uint64_t n = atomic_load_explicit(&g->n, memory_order_relaxed) + 1;
    double before = atomic_load_explicit(&g->error, memory_order_relaxed);
    atomic_store_explicit(&g->error, running_mean(a, before, error, n), memory_order_relaxed);
    atomic_store_explicit(&g->n, n, memory_order_relaxed);
}

static void withdraw(struct audit *a, uint32_t point)
{
    struct point_audit *p = &a->point[point];
    atomic_store_explicit(&p->is_withdrawn, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&a->n_withdrawn, 1, memory_order_relaxed);
    if (a->opt.withdrawn)
        a->opt.withdrawn(a->opt.ctx, point, p->times);
}

static void note_point(struct audit *a, uint32_t point, double error, double expected)
{
    struct point_audit *p = &a->point[point];
    if (!(expected > 0))
        return; /* nobody knows what it should be */
    p->times = running_mean(a, p->times, error / expected, ++p->n);
    if (p->n >= enough(a) && p->times > too_much && !p->is_withdrawn)
        withdraw(a, point);
}

static uint32_t number_of(const struct sparsity *s, const struct operating_point *point)
{
    uint32_t i = 0;
    while (i < s->n_points && s->points[i] != point)
        i++;
    return i;
}

static void found(void *ctx, const struct operating_point *point, uint32_t layer, double error)
{
    struct audit *a = ctx;
    uint32_t number = number_of(a->e->sparsity, point);
    if (number == a->e->sparsity->n_points || !isfinite(error))
        return;
    struct sum *sum = &a->sum[(size_t)number * a->e->shape.n_layers + layer];
    sum->error += error;
    sum->n++;
    note_group(a, layer, error);
    note_point(a, number, error, (double)point->error[layer]);
}

/* ---- which rows ---- */

static bool leaves_out(const struct operating_point *point, uint32_t layer)
{
    return point && (point->layer[layer].limit[SPARSITY_UP] > 0 ||
                     point->layer[layer].limit[SPARSITY_DOWN] > 0);
}

static bool has_sparse_rows(const struct forward *f)
{
    uint32_t r = 0;
    while (r < f->n_rows && !f->row_point[r])
        r++;
    return r < f->n_rows;
}

/* Rows that leave something out in a layer, or at all, n at most. */
static void choose_rows(struct audit *a, struct forward *f, uint32_t layer, uint32_t n)
{
    f->audit.n_rows = 0;
    for (uint32_t i = 0; i < f->n_rows && f->audit.n_rows < n; i++) {
        uint32_t r = (a->first_row + i) % f->n_rows;
        const struct operating_point *point = f->row_point[r];
        if (layer == AUDIT_ALL_LAYERS ? point != NULL : leaves_out(point, layer))
            f->audit.row[f->audit.n_rows++] = r;
    }
}

/* The layers in turn, but for those in which no row leaves anything out. */
static void choose_layer(struct audit *a, struct forward *f)
{
    uint32_t n_layers = a->e->shape.n_layers;
    for (uint32_t i = 0; i < n_layers && f->audit.n_rows == 0; i++) {
        a->layer = (a->layer + 1) % n_layers;
        choose_rows(a, f, a->layer, 1);
    }
    f->audit.layer = a->layer;
}

void audit_choose(struct audit *a, struct forward *f)
{
    f->audit.n_rows = 0;
    if (a->opt.steps == 0 || !has_sparse_rows(f) || a->n_steps++ % a->opt.steps != 0)
        return;
    f->audit.found = found;
    f->audit.ctx = a;
    if (a->opt.all_layers) {
        choose_rows(a, f, AUDIT_ALL_LAYERS, AUDIT_MOST_ROWS);
        f->audit.layer = AUDIT_ALL_LAYERS;
    } else {
        choose_layer(a, f);
    }
    a->first_row += f->audit.n_rows;
}

/* ---- what others ask ---- */

void audit_forget(struct audit *a)
{
    for (size_t i = 0; i < (size_t)SPARSITY_MAX_POINTS * a->e->shape.n_layers; i++)
        a->sum[i] = (struct sum){ 0 };
    for (uint32_t g = 0; g < ENGINE_AUDIT_GROUPS; g++) {
        atomic_store_explicit(&a->group[g].n, 0, memory_order_relaxed);
        atomic_store_explicit(&a->group[g].error, 0, memory_order_relaxed);
    }
    for (uint32_t p = 0; p < SPARSITY_MAX_POINTS; p++) {
        a->point[p].n = 0;
        a->point[p].times = 0;
        atomic_store_explicit(&a->point[p].is_withdrawn, false, memory_order_relaxed);
    }
    atomic_store_explicit(&a->n_withdrawn, 0, memory_order_relaxed);
}

void audit_means(const struct audit *a, uint32_t point, float *error)
{
    uint32_t n_layers = a->e->shape.n_layers;
    const struct sum *sum = a->sum + (size_t)point * n_layers;
    for (uint32_t l = 0; l < n_layers; l++)
        error[l] = sum[l].n > 0 ? (float)(sum[l].error / (double)sum[l].n) : 0.0f;
}

static bool is_in_force(const void *ctx, uint32_t point)
{
    const struct audit *a = ctx;
    return !atomic_load_explicit(&a->point[point].is_withdrawn, memory_order_relaxed);
}

uint32_t engine_point_in_force(const struct engine *e, uint32_t point)
{
    return is_in_force(e->audit, point) ? point
                                        : sparsity_safer(e->sparsity, point, is_in_force, e->audit);
}

void engine_audit_stats(const struct engine *e, struct engine_audit_stats *out)
{
    const struct audit *a = e->audit;
    uint32_t n_layers = e->shape.n_layers;
    *out = (struct engine_audit_stats){ 0 };
    if (!a)
        return;
    out->n_withdrawn = atomic_load_explicit(&a->n_withdrawn, memory_order_relaxed);
    for (uint32_t g = 0; g < ENGINE_AUDIT_GROUPS; g++) {
        struct engine_audit_group *to = &out->group[g];
        to->layer0 = (g * n_layers + ENGINE_AUDIT_GROUPS - 1) / ENGINE_AUDIT_GROUPS;
        to->layer1 = ((g + 1) * n_layers + ENGINE_AUDIT_GROUPS - 1) / ENGINE_AUDIT_GROUPS;
        to->n = atomic_load_explicit(&a->group[g].n, memory_order_relaxed);
        to->error = atomic_load_explicit(&a->group[g].error, memory_order_relaxed);
    }
}
