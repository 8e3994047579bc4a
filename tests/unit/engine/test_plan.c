/* SPDX-License-Identifier: Apache-2.0
 *
 * test_plan.c - the faster way is found, tries of the other cost little, and what changes is noticed.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "engine/forward/plan.h"

/* How long either way takes. */
struct world {
    double ns[PLAN_WAYS];
    double noise; /* at most, as a share */
    uint32_t
        slow_every; /* so often somebody else has the processor, for ten times as long; 0: never */
};

struct outcome {
    uint32_t n[PLAN_WAYS];
    double ns, best_ns;
};

static struct outcome live(struct plan_cell *c, const struct world *w, uint32_t n_steps)
{
    struct outcome o = { 0 };
    for (uint32_t i = 0; i < n_steps; i++) {
        enum plan_way way = plan_choose(c);
        double noise = 1 + w->noise * rand() / RAND_MAX, ns = w->ns[way] * noise;
        double best = w->ns[w->ns[PLAN_NONZERO] < w->ns[PLAN_ALL] ? PLAN_NONZERO : PLAN_ALL];
        o.n[way]++;
        o.ns += ns;
        o.best_ns += best * noise;
        bool is_slow = w->slow_every && (uint32_t)rand() % w->slow_every == 0;
        plan_learn(c, way, (float)(is_slow ? 10 * ns : ns));
    }
    return o;
}

Test(plan, the_faster_way_is_taken_but_for_a_fiftieth_of_the_time)
{
    srand(1);
    for (double times = 0.2; times < 5; times *= 1.15) {
        struct plan_cell c = { 0 };
        const struct world w = { .ns = { 1e5, 1e5 * times }, .noise = 0.05, .slow_every = 50 };
        live(&c, &w, 100);
        struct outcome o = live(&c, &w, 20000);
        cr_expect_lt(o.ns, 1.02 * o.best_ns, "%.2f times: %.4f", times, o.ns / o.best_ns);
        cr_expect(o.n[PLAN_ALL] > 0 && o.n[PLAN_NONZERO] > 0, "%.2f times", times);
    }
}

Test(plan, each_way_is_tried_at_once)
{
    struct plan_cell c = { 0 };
    const struct world w = { .ns = { 1, 2 } };
    struct outcome o = live(&c, &w, 6);
    cr_expect(o.n[PLAN_ALL] == 3 && o.n[PLAN_NONZERO] == 3);
}

Test(plan, a_change_is_noticed_within_some_thousand_steps)
{
    srand(2);
    struct plan_cell c = { 0 };
    const struct world before = { .ns = { 1e5, 3e5 }, .noise = 0.05 };
    const struct world after = { .ns = { 1e5, 0.5e5 }, .noise = 0.05 };
    live(&c, &before, 5000);
    live(&c, &after, 3000);
    struct outcome o = live(&c, &after, 1000);
    cr_expect_gt(o.n[PLAN_NONZERO], 950, "%u", o.n[PLAN_NONZERO]);
}

Test(plan, layers_products_and_sizes_of_steps_have_cells_of_their_own)
{
    enum { N_LAYERS = 3 };
    struct plan_cell *cells = calloc(plan_n_cells(N_LAYERS), sizeof(*cells));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            for (uint32_t n = 1; n <= PLAN_MOST_ROWS; n *= 2)
                for (int is_mixed = 0; is_mixed < 2; is_mixed++) {
                    struct plan_cell *c = plan_find(cells, layer, (enum sparsity_site)site, n,
                                                    is_mixed);
                    cr_assert(c < cells + plan_n_cells(N_LAYERS) && c->n_tries[PLAN_ALL] == 0);
                    plan_learn(c, PLAN_ALL, 1);
                }
    cr_expect_eq(plan_find(cells, 0, SPARSITY_UP, 3, false),
                 plan_find(cells, 0, SPARSITY_UP, 4, false));
    free(cells);
}
