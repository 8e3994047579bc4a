/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.c - what a decoded token reads of the weights.
 */
#include "engine/quality/quality.h"

static double matrix_bytes(const struct kern_matrix *m)
{
    return m->n_rows ? (double)kern_matrix_bytes(m) : 0;
}

static double layer_bytes(const struct engine *e, const struct layer_weights *w, double up,
                          double down)
{
    double chosen = matrix_bytes(&w->gate_experts.first) + matrix_bytes(&w->up_experts.first) +
                    matrix_bytes(&w->down_experts.first);
    return matrix_bytes(&w->q) + matrix_bytes(&w->k) + matrix_bytes(&w->v) + matrix_bytes(&w->o) +
           matrix_bytes(&w->gate) + up * matrix_bytes(&w->up) + down * matrix_bytes(&w->down) +
           matrix_bytes(&w->router) + e->shape.n_experts_used * chosen +
           matrix_bytes(&w->shared_router) + matrix_bytes(&w->shared_gate) +
           matrix_bytes(&w->shared_up) + matrix_bytes(&w->shared_down);
}

static double token_bytes(const struct engine *e, double up, double down)
{
    double sum = matrix_bytes(&e->weights.output);
    for (uint32_t l = 0; l < e->shape.n_layers; l++)
        sum += layer_bytes(e, &e->weights.layer[l], up, down);
    return sum;
}

double quality_weights_share(const struct engine *e, double up, double down)
{
    return token_bytes(e, up, down) / token_bytes(e, 1, 1);
}
