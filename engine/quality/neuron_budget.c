/* SPDX-License-Identifier: Apache-2.0
 *
 * neuron_budget.c - how much each layer may leave out: always the move next that saves most bytes for what it loses.  A move may
 * be of several steps, at both sites of a layer: the first ones of a site may save nothing yet.
 */
#include <math.h>

#include "engine/quality/quality.h"

static const uint32_t trial_steps[BUDGET_TRIALS] = { 7, 13, 17 };

uint32_t budget_trial_steps(uint32_t trial)
{
    return trial_steps[trial];
}

/* Large enough to be divided by, small enough that nothing measured is smaller. */
static double positive(double x)
{
    const double least = 1e-12;
    return x > least ? x : least;
}

/* How fast the loss grows with the energy from a trial to the next: in theory with its first power, and less is noise. */
static double exponent_of(const struct budget_layer *l, uint32_t site, uint32_t trial)
{
    const double least = 1, most = 4;
    const double *e = l->energy[site], *loss = l->loss[site];
    double energies = positive(e[trial_steps[trial + 1]]) / positive(e[trial_steps[trial]]);
    double losses = positive(loss[trial + 1]) / positive(loss[trial]);
    double exponent = energies > 1.01 ? log(losses) / log(energies) : 1;
    return exponent < least ? least : exponent > most ? most : exponent;
}

/* The trial from which on the steps lie in the same piece of the curve. */
static uint32_t piece_of(uint32_t steps)
{
    uint32_t piece = 0;
    while (piece + 2 < BUDGET_TRIALS && steps > trial_steps[piece + 1])
        piece++;
    return piece;
}

static double loss_of(const struct budget_layer *l, uint32_t site, uint32_t steps)
{
    uint32_t piece = piece_of(steps);
    double energy = positive(l->energy[site][trial_steps[piece + 1]]);
    if (steps == 0)
        return 0;
    return positive(l->loss[site][piece + 1]) *
           pow(l->energy[site][steps] / energy, exponent_of(l, site, piece));
}

/* Of all layers, sites and steps. */
struct curves {
    double loss[SPARSITY_SITES][BUDGET_STEPS];
};

static double saved(const struct budget_layer *l, uint32_t up, uint32_t down)
{
    return l->bytes[SPARSITY_UP] * up + l->bytes[SPARSITY_DOWN] * (up > down ? up : down);
}

struct move {
    uint32_t up, down;
    double loss, rate; /* more of it; bytes saved for each unit of it, 0: there is no move */
};

/* The best move of a layer that loses at most so much. */
static struct move best_move(const struct budget_layer *l, const struct curves *c, double left)
{
    uint32_t up0 = l->steps[SPARSITY_UP], down0 = l->steps[SPARSITY_DOWN];
    uint32_t up_end = l->bytes[SPARSITY_UP] > 0 ? BUDGET_STEPS : up0 + 1;
    uint32_t down_end = l->bytes[SPARSITY_DOWN] > 0 ? BUDGET_STEPS : down0 + 1;
    struct move best = { 0 };
    for (uint32_t up = up0; up < up_end; up++)
        for (uint32_t down = down0; down < down_end; down++) {
            double loss = c->loss[SPARSITY_UP][up] - c->loss[SPARSITY_UP][up0] +
                          c->loss[SPARSITY_DOWN][down] - c->loss[SPARSITY_DOWN][down0];
            double gain = saved(l, up, down) - saved(l, up0, down0), rate = gain / positive(loss);
            if (loss <= left && rate > best.rate)
                best = (struct move){ up, down, loss, rate };
        }
    return best;
}

static struct curves curves_of(const struct budget_layer *l)
{
    struct curves c;
    for (uint32_t site = 0; site < SPARSITY_SITES; site++)
        for (uint32_t steps = 0; steps < BUDGET_STEPS; steps++)
            c.loss[site][steps] = loss_of(l, site, steps);
    return c;
}

void budget_spend(struct budget_layer *layers, uint32_t n_layers, double allowed)
{
    for (uint32_t i = 0; i < n_layers; i++)
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            layers[i].steps[site] = 0;
    for (double left = allowed;;) {
        struct move best = { 0 };
        struct budget_layer *of_best = NULL;
        for (uint32_t i = 0; i < n_layers; i++) {
            const struct curves c = curves_of(&layers[i]);
            struct move move = best_move(&layers[i], &c, left);
            if (move.rate <= best.rate)
                continue;
            best = move;
            of_best = &layers[i];
        }
        if (!of_best)
            return;
        of_best->steps[SPARSITY_UP] = best.up;
        of_best->steps[SPARSITY_DOWN] = best.down;
        left -= best.loss;
    }
}
