/* SPDX-License-Identifier: Apache-2.0
 *
 * step.c - a step from tokens to logits, and the two ways in which its phases are shared out.
 */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/forward/forward.h"
#include "engine/model/rope.h"

enum {
    ROW_ITEMS = 64, /* about so many: claiming costs little, and threads end together */
    /* Multiplications of an item at least, so that claiming it costs nothing.  Reading a byte of weights takes the
     * time of some of them. */
    ITEM_MACS = 1 << 18,
    BYTE_MACS = 14,
};

struct rows_job {
    void (*fn)(void *ctx, uint32_t row);
    void *ctx;
    uint32_t n_rows, per_item;
};

static void rows_item(void *ctx, uint32_t item)
{
    const struct rows_job *job = ctx;
    uint32_t end = (item + 1) * job->per_item;
    for (uint32_t r = item * job->per_item; r < end && r < job->n_rows; r++)
        job->fn(job->ctx, r);
}

void forward_rows(struct forward *f, void (*fn)(void *ctx, uint32_t row), void *ctx,
                  uint32_t n_rows)
{
    struct rows_job job = { fn, ctx, n_rows, (n_rows + ROW_ITEMS - 1) / ROW_ITEMS };
    if (n_rows > 0)
        workers_run(f->workers, rows_item, &job, (n_rows + job.per_item - 1) / job.per_item);
}

void forward_quantise_row(struct forward *f, struct activations *a, const struct kern_matrix *w,
                          uint32_t row)
{
    if (kern_type_is_quantised(w->type))
        f->kern->quantise(a->x + (size_t)row * a->n, a->n, &a->act, row, row + 1, 0, a->n);
}

/* Products whose tiles of rows are shared out together, one product after the other. */
struct products_job {
    const struct forward *f;
    const struct product *p;
    struct share share;
};

/* Rows that are shared out together.  Of floats fewer: that is what routers are, which are small and wanted at once. */
static uint32_t tile_rows(const struct kern_matrix *w)
{
    if (w->layout == KERN_LAYOUT_COLUMNS)
        return KERN_COLUMN_ROWS;
    return kern_type_is_quantised(w->type) ? KERN_TILE_ROWS : KERN_PANEL_ROWS;
}

static uint32_t n_tiles_of(const struct kern_matrix *w)
{
    return (w->n_rows + tile_rows(w) - 1) / tile_rows(w);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void product_tiles(const struct forward *f, const struct product *p, uint32_t tile0,
                          uint32_t tile1)
{
    uint32_t rows = tile_rows(p->w), row0 = tile0 * rows, row1 = least(tile1 * rows, p->w->n_rows);
    f->kern->mul_mat(p->w, row0, row1, p->x, p->first_row, p->first_row + p->n_rows, p->y + row0,
                     p->ldy);
}

static void products_item(void *ctx, uint32_t item)
{
    const struct products_job *job = ctx;
    uint32_t from, to, n_tiles;
    share_item(&job->share, item, &from, &to);
    for (const struct product *p = job->p; to > 0; p++) {
        n_tiles = n_tiles_of(p->w);
        if (from < n_tiles)
            product_tiles(job->f, p, from, least(to, n_tiles));
        from -= least(from, n_tiles);
        to -= least(to, n_tiles);
    }
}

struct share forward_share_rows(const struct forward *f, const struct kern_matrix *w,
                                uint32_t n_tiles, uint32_t rows_of_tile, uint32_t n_tokens)
{
    uint64_t macs = rows_of_tile * ((uint64_t)w->n_cols * n_tokens + BYTE_MACS * w->row_bytes);
    uint32_t n_least = (uint32_t)((ITEM_MACS + macs - 1) / macs);
    /* Columns come in long pieces, and lists of them serve many rows, only where an item has many. */
    if (w->layout == KERN_LAYOUT_COLUMNS && n_tiles / f->opt.n_threads > n_least)
        n_least = n_tiles / f->opt.n_threads;
    return share_out(n_tiles, f->opt.n_threads, n_least);
}

void forward_products(struct forward *f, const struct product *p, uint32_t n,
                      enum profile_part part)
{
    struct products_job job = { .f = f, .p = p };
    uint32_t n_tiles = 0;
    for (uint32_t i = 0; i < n; i++) {
        profile_add_product(&f->profile, part, p[i].w, p[i].n_rows);
        n_tiles += n_tiles_of(p[i].w);
    }
    job.share = forward_share_rows(f, p[0].w, n_tiles, tile_rows(p[0].w), p[0].n_rows);
    workers_run(f->workers, products_item, &job, share_n_items(&job.share));
    profile_end(&f->profile, part);
}

static void embed_row(void *ctx, uint32_t row)
{
    struct forward *f = ctx;
    const struct model_shape *s = f->shape;
    float *x = f->x + (size_t)row * s->n_embd;
    kern_row(&f->weights->embed, (uint32_t)f->token[row], x);
    if (s->embed_scale != 1.0f)
        for (uint32_t i = 0; i < s->n_embd; i++)
            x[i] *= s->embed_scale;
    for (uint32_t i = 0; i < CONFIG_MAX_ROPES; i++)
        if (s->rope[i].n_pairs)
            rope_angles(&s->rope[i], f->place[row].pos,
                        f->angles[i] + (size_t)row * 2 * s->rope[i].n_pairs);
    layer_input(f, &f->weights->layer[0], row);
}

static void head_input(void *ctx, uint32_t i)
{
    struct forward *f = ctx;
    uint32_t n = f->shape->n_embd;
    f->kern->rms_norm(f->x + (size_t)f->logit_row[i] * n, f->weights->output_norm,
                      f->shape->norm_eps, n, f->head.x + (size_t)i * n);
    forward_quantise_row(f, &f->head, &f->weights->output, i);
}

static void head_output(void *ctx, uint32_t i)
{
    struct forward *f = ctx;
    const struct model_shape *s = f->shape;
    float *logits = f->logits + (size_t)i * s->n_vocab;
    for (uint32_t t = 0; t < s->n_vocab && s->logit_scale != 1.0f; t++)
        logits[t] *= s->logit_scale;
    for (uint32_t t = 0; t < s->n_vocab && s->logit_soft_cap != 0.0f; t++)
        logits[t] = s->logit_soft_cap * tanhf(logits[t] / s->logit_soft_cap);
    f->logits_finite[i] = f->kern->all_finite(logits, s->n_vocab);
}

static void head_forward(struct forward *f)
{
    struct kern_input in = { .x = f->head.x, .act = &f->head.act };
    struct product p = { .w = &f->weights->output,
                         .x = &in,
                         .y = f->logits,
                         .ldy = f->shape->n_vocab,
                         .n_rows = f->n_logits };
    if (f->n_logits == 0)
        return;
    forward_rows(f, head_input, f, f->n_logits);
    profile_end(&f->profile, PROFILE_HEAD_NORM);
    forward_products(f, &p, 1, PROFILE_HEAD);
    forward_rows(f, head_output, f, f->n_logits);
    profile_end(&f->profile, PROFILE_HEAD);
}

void forward_step(struct forward *f)
{
    profile_mark(&f->profile);
    paging_plan_step(f);
    attention_plan_step(f);
    forward_rows(f, embed_row, f, f->n_rows);
    profile_end(&f->profile, PROFILE_EMBED);
    for (uint32_t l = 0; l < f->shape->n_layers; l++) {
        layer_forward(f, l);
        atomic_fetch_add_explicit(f->heartbeat, 1, memory_order_relaxed);
    }
    if (f->experts)
        experts_pass(f->experts, f->n_rows);
    head_forward(f);
}
