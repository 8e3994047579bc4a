/* SPDX-License-Identifier: Apache-2.0
 *
 * test_neuron_budget.c - what layers may leave out: as much as the allowance has room for, and where it costs least.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "engine/quality/quality.h"

enum { N = 3 };

/* Energies grow with the third power of the share, and losses with them, times a factor. */
static void make(struct budget_layer *layers, const double *factor)
{
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
            layers[i].bytes[site] = 100;
            for (uint32_t s = 0; s < BUDGET_STEPS; s++)
                layers[i].energy[site][s] = pow((double)s / BUDGET_STEPS, 3);
            for (uint32_t t = 0; t < BUDGET_TRIALS; t++)
                layers[i].loss[site][t] = factor[i] * layers[i].energy[site][budget_trial_steps(t)];
        }
}

static double loss_of(const struct budget_layer *l, double factor)
{
    double loss = 0;
    for (uint32_t site = 0; site < SPARSITY_SITES; site++)
        loss += factor * pow((double)l->steps[site] / BUDGET_STEPS, 3);
    return loss;
}

static double sum_of(const struct budget_layer *layers, const double *factor)
{
    double loss = 0;
    for (uint32_t i = 0; i < N; i++)
        loss += loss_of(&layers[i], factor[i]);
    return loss;
}

Test(budget, nothing_is_left_out_for_nothing)
{
    struct budget_layer layers[N];
    make(layers, (double[]){ 1, 1, 1 });
    budget_spend(layers, N, 0);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            cr_assert_eq(layers[i].steps[site], 0);
}

Test(budget, what_is_allowed_is_spent_and_no_more)
{
    static const double factor[N] = { 1, 0.3, 2 };
    struct budget_layer layers[N];
    make(layers, factor);
    for (double allowed = 0.05; allowed < 2; allowed *= 1.4) {
        budget_spend(layers, N, allowed);
        double loss = sum_of(layers, factor);
        cr_assert(loss <= allowed * 1.0001, "%g of %g", loss, allowed);
        cr_assert(loss > allowed * 0.6, "%g of %g", loss, allowed);
    }
}

Test(budget, more_is_left_out_where_it_costs_less)
{
    struct budget_layer layers[N];
    make(layers, (double[]){ 1, 0.05, 20 });
    budget_spend(layers, N, 0.3);
    uint32_t left_out[N];
    for (uint32_t i = 0; i < N; i++)
        left_out[i] = layers[i].steps[SPARSITY_UP] + layers[i].steps[SPARSITY_DOWN];
    cr_assert(left_out[1] > left_out[0] && left_out[0] > left_out[2]);
}

Test(budget, a_site_with_nothing_to_read_leaves_out_nothing)
{
    struct budget_layer layers[N];
    make(layers, (double[]){ 1, 1, 1 });
    for (uint32_t i = 0; i < N; i++)
        layers[i].bytes[SPARSITY_UP] = 0;
    layers[1].bytes[SPARSITY_DOWN] = 0;
    budget_spend(layers, N, 1);
    cr_assert_eq(layers[0].steps[SPARSITY_UP], 0);
    cr_assert_gt(layers[0].steps[SPARSITY_DOWN], 0);
    cr_assert_eq(layers[1].steps[SPARSITY_DOWN], 0);
}

Test(budget, layers_that_lose_nothing_leave_out_nearly_all)
{
    struct budget_layer layers[N];
    make(layers, (double[]){ 0, 0, 0 });
    budget_spend(layers, N, 0.001);
    for (uint32_t i = 0; i < N; i++)
        cr_assert_eq(layers[i].steps[SPARSITY_UP], BUDGET_STEPS - 1);
}
