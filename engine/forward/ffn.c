/* SPDX-License-Identifier: Apache-2.0
 *
 * ffn.c - the dense feed-forward: block = (act(in Wgate) * (in Wup)) Wdown.
 */
#include "engine/forward/forward.h"

struct ffn_job {
    struct forward *f;
    const struct layer_weights *w;
};

void ffn_hidden_row(struct forward *f, const float *gate, struct activations *hidden,
                    const struct kern_matrix *down, uint32_t row)
{
    enum kern_activation kind = f->shape->arch->activation;
    float *up = hidden->x + (size_t)row * hidden->n;
    if (f->shape->arch->ungated)
        f->kern->activate(kind, up, NULL, up, hidden->n);
    else
        f->kern->activate(kind, gate + (size_t)row * hidden->n, up, up, hidden->n);
    if (kern_type_is_quantised(down->type))
        f->kern->quantise(hidden->x, &hidden->act, row, row + 1);
}

static void hidden_row(void *ctx, uint32_t row)
{
    const struct ffn_job *job = ctx;
    struct forward *f = job->f;
    uint32_t n = f->shape->n_ff;
    if (job->w->up_bias)
        f->kern->add_scaled(f->hidden.x + (size_t)row * n, job->w->up_bias, 1.0f, n);
    if (job->w->gate_bias)
        f->kern->add_scaled(f->gate + (size_t)row * n, job->w->gate_bias, 1.0f, n);
    ffn_hidden_row(f, f->gate, &f->hidden, &job->w->down, row);
}

void ffn_forward(struct forward *f, const struct layer_weights *w)
{
    struct ffn_job job = { f, w };
    struct kern_input in = { .x = f->in.x, .act = &f->in.act };
    struct kern_input hidden = { .x = f->hidden.x, .act = &f->hidden.act };
    struct product wide[2] = {
        { .w = &w->up, .x = &in, .y = f->hidden.x, .ldy = f->shape->n_ff, .n_rows = f->n_rows },
        { .w = &w->gate, .x = &in, .y = f->gate, .ldy = f->shape->n_ff, .n_rows = f->n_rows },
    };
    struct product down = {
        .w = &w->down, .x = &hidden, .y = f->block, .ldy = f->shape->n_embd, .n_rows = f->n_rows
    };

    forward_products(f, wide, f->shape->arch->ungated ? 1 : 2, PROFILE_GATE_UP);
    forward_rows(f, hidden_row, &job, f->n_rows);
    profile_end(&f->profile, PROFILE_ACTIVATION);
    forward_products(f, &down, 1, PROFILE_DOWN);
}
