/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.c - two estimates and a rule.
 */
#include "engine/forward/plan.h"

enum {
    FIRST_TRIES = 3,  /* of each way, before any is preferred: the least of their times counts */
    LEAST_STEPS = 32, /* from one try of a way that is about as fast to the next */
    MOST_STEPS = 1024,
    N_KINDS = 2, /* of steps: see plan_find */
};

size_t plan_n_cells(uint32_t n_layers)
{
    return (size_t)n_layers * SPARSITY_SITES * N_KINDS * PLAN_SIZES;
}

static uint32_t size_of(uint32_t n_rows)
{
    uint32_t size = 0;
    while ((1u << size) < n_rows)
        size++;
    return size;
}

struct plan_cell *plan_find(struct plan_cell *cells, uint32_t layer, enum sparsity_site site,
                            uint32_t n_rows, bool is_mixed)
{
    size_t kind = ((size_t)layer * SPARSITY_SITES + site) * N_KINDS + is_mixed;
    return &cells[kind * PLAN_SIZES + size_of(n_rows)];
}

static enum plan_way other(enum plan_way way)
{
    return way == PLAN_ALL ? PLAN_NONZERO : PLAN_ALL;
}

static enum plan_way faster(const struct plan_cell *c)
{
    return c->ns[PLAN_NONZERO] < c->ns[PLAN_ALL] ? PLAN_NONZERO : PLAN_ALL;
}

/* Such that tries cost less than one part in a hundred of the time. */
static float steps_between(const struct plan_cell *c, enum plan_way best)
{
    float x = 1 + 8 * (c->ns[other(best)] / c->ns[best] - 1);
    float steps = LEAST_STEPS * x * x;
    return steps < MOST_STEPS ? steps : MOST_STEPS;
}

enum plan_way plan_choose(struct plan_cell *c)
{
    if (c->n_tries[PLAN_NONZERO] < FIRST_TRIES)
        return c->n_tries[PLAN_NONZERO] < c->n_tries[PLAN_ALL] ? PLAN_NONZERO : PLAN_ALL;
    enum plan_way best = faster(c);
    if ((float)++c->n_since < steps_between(c, best))
        return best;
    c->n_since = 0;
    return other(best);
}

/* A step is seldom faster than it can be, and often slower, since somebody else had the processor: the former counts for more,
 * and the latter never for twice the estimate. */
void plan_learn(struct plan_cell *c, enum plan_way way, float ns)
{
    float *known = &c->ns[way];
    ns = ns > 1 ? ns : 1;
    if (c->n_tries[way] < FIRST_TRIES) {
        *known = c->n_tries[way]++ == 0 || ns < *known ? ns : *known;
        return;
    }
    float more = ns < 2 * *known ? ns - *known : *known;
    *known += more < 0 ? more / 2 : more / 8;
}
