/* SPDX-License-Identifier: Apache-2.0
 *
 * ffn_audit.c - feed-forwards of some rows once more, with nothing left out: how far off what goes on is.
 *
 * It comes behind the layer's own products, whose input it overwrites, and changes no result.
 */
#include <math.h>

#include "engine/forward/forward.h"

static struct kern_act act_of_row(const struct kern_act *a, size_t row)
{
    size_t n = a->n_cols;
    return (struct kern_act){ .q = a->q + row * n,
                              .d = a->d + row * (n / KERN_BLOCK),
                              .start32 = a->start32 + row * (n / 32),
                              .start16 = a->start16 + row * (n / 16),
                              .xs32 = a->xs32 + row * (n / 32),
                              .xs16 = a->xs16 + row * (n / 16),
                              .n_cols = a->n_cols };
}

/* The row's output into f->audit.y. */
static void compute_whole(struct forward *f, const struct gated *g, uint32_t row)
{
    ffn_hidden(f, g, row, row + 1);
    struct kern_act act = act_of_row(&g->hidden->act, row);
    struct kern_input in = { .x = g->hidden->x + (size_t)row * g->hidden->n, .act = &act };
    struct product down = {
        .w = g->down, .x = &in, .y = f->audit.y, .ldy = f->shape->n_embd, .n_rows = 1
    };
    forward_products(f, &down, 1, PROFILE_DOWN);
}

/* |y - whole| / |whole| */
static double distance(const float *y, const float *whole, uint32_t n)
{
    double difference = 0, size = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)y[i] - (double)whole[i];
        difference += d * d;
        size += (double)whole[i] * (double)whole[i];
    }
    return size > 0 ? sqrt(difference / size) : 0;
}

bool audit_wants(const struct forward *f, uint32_t layer)
{
    const struct audit_request *a = &f->audit;
    return a->n_rows > 0 && (a->layer == layer || a->layer == AUDIT_ALL_LAYERS);
}

void audit_ffn(struct forward *f, const struct gated *g)
{
    struct audit_request *a = &f->audit;
    a->is_running = true;
    for (uint32_t i = 0; i < a->n_rows; i++) {
        uint32_t row = a->row[i];
        const struct operating_point *point = f->row_point[row];
        f->row_point[row] = NULL;
        compute_whole(f, g, row);
        f->row_point[row] = point;
        a->found(a->ctx, point, g->layer,
                 distance(f->block + (size_t)row * f->shape->n_embd, a->y, f->shape->n_embd));
    }
    a->is_running = false;
}
