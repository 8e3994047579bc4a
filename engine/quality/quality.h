/* SPDX-License-Identifier: Apache-2.0
 *
 * quality.h - what approximations cost, and how to choose them.
 *
 *   measure.c        engine_eval: likelihood and divergence of operating points, side by side
 *   tasks.c          engine_eval_task: what points still find in a long context; task_text.c: its texts
 *   answers.c        engine_eval_answers: what points answer to a prompt
 *   calibrate.c      engine_calibrate, top to bottom
 *   neuron_stats.c   how much each neuron counts, on a text
 *   neuron_budget.c  how much each part may leave out
 *   audit.c          whether points still cost what their calibration found, while they are used
 *   bytes.c          what a token reads
 *   rows.c           steps in which nothing may fail
 */
#ifndef LACUNA_ENGINE_QUALITY_H
#define LACUNA_ENGINE_QUALITY_H

#include "engine/internal.h"

/* ---- bytes.c ---- */

/* The share of the bytes of all weights that a decoded token reads, if of every dense feed-forward's neurons these shares of
 * rows of up and columns of down are: an estimate where layers differ in both. */
double quality_weights_share(const struct engine *e, double up, double down);

/* ---- rows.c ---- */

/* The next n tokens of a sequence, which grows to them; those at positions from want_from on want logits. */
int quality_fill_rows(struct engine_seq *seq, const int32_t *tokens, uint32_t n, uint32_t want_from,
                      struct engine_row *rows, struct engine_err *err);
/* A step in which all rows must be done. */
int quality_step(struct engine *e, struct engine_row *rows, uint32_t n, struct engine_err *err);

/* ---- neuron_budget.c: pure ---- */

enum {
    BUDGET_STEPS = SPARSITY_LEVELS + 1, /* shares are multiples of 1 / BUDGET_STEPS */
    BUDGET_TRIALS = 3,
};

/* A layer's feed-forward. */
struct budget_layer {
    double
        bytes[SPARSITY_SITES]; /* that it reads there if nothing is left out; 0: nothing can be */
    /* What is left out at a site with so many steps of neurons, as the sum of the squares of what they add: 0 for none,
     * ascending. */
    double energy[SPARSITY_SITES][BUDGET_STEPS];
    /* What was lost where this layer and site alone left out budget_trial_steps(i). */
    double loss[SPARSITY_SITES][BUDGET_TRIALS];
    uint32_t steps[SPARSITY_SITES]; /* out: what it shall leave out */
};
uint32_t budget_trial_steps(uint32_t trial);
/* Chooses steps of all layers so that most bytes are saved and the losses together stay within `allowed`.  Between trials,
 * and beyond them, a loss is taken for a power of the energy.  Columns of down whose rows of up are left out are, too. */
void budget_spend(struct budget_layer *layers, uint32_t n_layers, double allowed);

/* ---- audit.c: the stepping thread ---- */

struct audit;
struct audit_options {
    uint32_t steps;  /* of so many in which something is left out one is audited; 0: none */
    bool all_layers; /* of some rows; else one layer of a row */
    engine_withdrawn_fn *withdrawn; /* NULL: nobody wants to know */
    void *ctx;
};

/* -1: no memory.  e must outlive *out. */
int audit_open(struct audit **out, const struct engine *e, const struct audit_options *opt);
void audit_close(struct audit *a); /* NULL is fine */
/* Returns what they were. */
struct audit_options audit_set_options(struct audit *a, const struct audit_options *opt);

/* Of a step whose rows are known: which of them are audited, in which layer. */
void audit_choose(struct audit *a, struct forward *f);

/* Means [n_layers] of what was found of a point since audit_forget; 0: nothing was. */
void audit_means(const struct audit *a, uint32_t point, float *error);
/* Everything that was found, points that were withdrawn included. */
void audit_forget(struct audit *a);

/* ---- neuron_stats.c ---- */

/* Fills s->weight and s->level, and the energies of `layers`, from tokens, which run through the model twice, all computed.
 * step: called after each step with the tokens that are done, of 2 * n; not 0: gives up, ENGINE_ERR_CANCELLED. */
int neuron_stats_gather(struct engine *e, struct sparsity *s, struct budget_layer *layers,
                        const int32_t *tokens, size_t n, int (*step)(void *ctx, uint64_t done),
                        void *ctx, struct engine_err *err);

#endif
