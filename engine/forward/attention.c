/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - attention of all rows of a step over the pages of their sequences.
 *
 * One routine for prompts and decoding.  The work list is made once per step and KV group; an entry
 * is a block of up to 16 queries (rows times the query heads of one KV head) that read the same
 * pages. Long prompts go through their items of 1,024 tokens one after the other, folding as they
 * go.  For the one or two rows of a decoding sequence each item is an entry of its own, so that one
 * long sequence keeps all threads busy; its partials are folded afterwards in the same order: same
 * bits.
 */
#include <math.h>
#include <string.h>

#include "engine/forward/forward.h"

enum {
    SPLIT_ROWS = 2, /* runs of at most this many rows are split by items */
    PAGES_PER_ITEM = KERN_ATTN_ITEM / KV_PAGE_TOKENS,
};
#define NO_PARTIAL UINT32_MAX

/* ---- the plan ---- */

/* Query heads of one block, and rows beside them. */
static uint32_t block_heads(const struct model_shape *s)
{
    uint32_t group = s->n_heads / s->n_kv_heads;
    return group < KERN_ATTN_MAX_QUERIES ? group : KERN_ATTN_MAX_QUERIES;
}

static void add_work(struct attention_plan *plan, const struct attention_work *work)
{
    plan->work[plan->n_work++] = *work;
}

/* One block of query heads, as one entry or as one per item. */
static void add_block(struct attention_plan *plan, struct attention_work work, bool split)
{
    uint32_t item0 = work.item0, item1 = work.item1;
    size_t first = work.partial + (size_t)work.head0 * (item1 - item0);
    work.partial = NO_PARTIAL;
    if (!split) {
        add_work(plan, &work);
        return;
    }
    for (uint32_t i = item0; i < item1; i++) {
        work.item0 = i;
        work.item1 = i + 1;
        work.partial = (uint32_t)first + (i - item0);
        add_work(plan, &work);
    }
}

/* The blocks of all query heads of one row range; work.partial is the first of the rows. */
static void add_heads(const struct model_shape *s, struct attention_plan *plan,
                      struct attention_work work, bool split)
{
    uint32_t group = s->n_heads / s->n_kv_heads, step = block_heads(s);
    for (work.kv_head = 0; work.kv_head < s->n_kv_heads; work.kv_head++)
        for (uint32_t h = 0; h < group; h += step) {
            work.head0 = work.kv_head * group + h;
            work.n_heads = group - h < step ? group - h : step;
            add_block(plan, work, split);
        }
}

static void plan_run(struct forward *f, struct attention_plan *plan, uint32_t window,
                     const struct run *run, uint32_t *n_partials)
{
    const struct model_shape *s = f->shape;
    uint32_t rows = run->n_rows <= SPLIT_ROWS ? 1 : KERN_ATTN_MAX_QUERIES / block_heads(s);
    for (uint32_t r = 0; r < run->n_rows; r += rows) {
        uint32_t n = run->n_rows - r < rows ? run->n_rows - r : rows;
        struct attention_work work = { .row0 = run->row0 + r, .n_rows = n };
        work.item0 = kv_first_visible(window, run->pos0 + r) / KERN_ATTN_ITEM;
        work.item1 = (run->pos0 + r + n - 1 + KERN_ATTN_ITEM - 1) /
                     KERN_ATTN_ITEM; /* of the last row */
        if (work.item1 < work.item0)
            work.item1 = work.item0; /* sees nothing but itself */
        uint32_t n_items = work.item1 - work.item0, need = n_items * s->n_heads;
        bool split = run->n_rows <= SPLIT_ROWS && n_items > 1 &&
                     need <= f->max_partials - *n_partials;
        for (uint32_t i = 0; i < n; i++) {
            plan->row_partial[work.row0 + i] = split ? *n_partials : NO_PARTIAL;
            plan->row_items[work.row0 + i] = n_items;
        }
        work.partial = *n_partials;
        *n_partials += split ? need : 0;
        add_heads(s, plan, work, split);
    }
}

void attention_plan_step(struct forward *f)
{
    for (uint32_t g = 0; g < f->shape->n_groups; g++) {
        uint32_t n_partials = 0; /* groups run one after the other: they share the memory */
        f->plan[g].n_work = 0;
        for (uint32_t i = 0; i < f->n_runs; i++)
            plan_run(f, &f->plan[g], f->shape->group_window[g], &f->run[i], &n_partials);
    }
}

/* ---- the work ---- */

struct attention_job {
    struct forward *f;
    const struct layer_shape *layer;
    const struct attention_plan *plan;
    bool quantise; /* the output projection wants it */
};

/* The queries of a block, gathered: they are adjacent for the kernel. */
struct block {
    float q[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM];
    uint32_t first[KERN_ATTN_MAX_QUERIES], end[KERN_ATTN_MAX_QUERIES];
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES];
    float o[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM];
    uint32_t n_q;
};

static void gather_queries(const struct attention_job *job, const struct attention_work *w,
                           struct block *b)
{
    const struct forward *f = job->f;
    const struct model_shape *s = f->shape;
    b->n_q = w->n_rows * w->n_heads;
    for (uint32_t i = 0; i < b->n_q; i++) {
        uint32_t row = w->row0 + i / w->n_heads, head = w->head0 + i % w->n_heads;
        memcpy(b->q + (size_t)i * s->head_dim,
               f->q + ((size_t)row * s->n_heads + head) * s->head_dim, s->head_dim * sizeof(float));
        b->first[i] = kv_first_visible(job->layer->window, f->place[row].pos);
        b->end[i] = f->place[row].pos;
    }
}

static void attend_item(const struct attention_job *job, const struct attention_work *w,
                        struct block *b, uint32_t item)
{
    const struct forward *f = job->f;
    const struct model_shape *s = f->shape;
    const struct kv_seq *seq = f->run[f->place[w->row0].run].seq;
    size_t head_bytes = config_head_page_bytes(s);
    const void *pages[PAGES_PER_ITEM];
    for (uint32_t p = 0; p < PAGES_PER_ITEM; p++) {
        const uint8_t *page = kv_page(seq, job->layer->group, job->layer->layer_in_group,
                                      item * PAGES_PER_ITEM + p);
        pages[p] = page ? page + w->kv_head * head_bytes : NULL;
    }
    struct kern_attend a = { .q = b->q,
                             .first = b->first,
                             .end = b->end,
                             .pages = pages,
                             .n_q = b->n_q,
                             .head_dim = s->head_dim,
                             .page_tokens = KV_PAGE_TOKENS,
                             .item_first = item * KERN_ATTN_ITEM,
                             .wide = s->wide_kv,
                             .softcap = s->attention_soft_cap,
                             .m = b->m,
                             .l = b->l,
                             .o = b->o };
    f->kern->attend(&a);
}

static void store_partials(const struct attention_job *job, const struct attention_work *w,
                           const struct block *b)
{
    struct forward *f = job->f;
    uint32_t dim = f->shape->head_dim, n_items = job->plan->row_items[w->row0];
    for (uint32_t i = 0; i < b->n_q; i++) {
        size_t at = w->partial + (size_t)i * n_items;
        f->partial_m[at] = b->m[i];
        f->partial_l[at] = b->l[i];
        memcpy(f->partial_o + at * dim, b->o + (size_t)i * dim, dim * sizeof(float));
    }
}

static float *output_of(const struct forward *f, uint32_t row, uint32_t head)
{
    return f->attn.x + ((size_t)row * f->shape->n_heads + head) * f->shape->head_dim;
}

/* The end of a query's softmax: its own token, then the division. */
static void finish_query(const struct forward *f, uint32_t row, uint32_t head, float *m, float *l,
                         float *o)
{
    const struct model_shape *s = f->shape;
    size_t kv_head = head / (s->n_heads / s->n_kv_heads);
    size_t kv = ((size_t)row * s->n_kv_heads + kv_head) * s->head_dim;
    f->kern->attend_self(f->q + ((size_t)row * s->n_heads + head) * s->head_dim, f->k + kv,
                         f->v + kv, s->attention_soft_cap, s->head_dim, m, l, o);
    for (uint32_t i = 0; i < s->head_dim; i++)
        o[i] /= *l;
}

/* All items of a block, folded straight into the output rows. */
static void fold_items(const struct attention_job *job, const struct attention_work *w,
                       struct block *b)
{
    struct forward *f = job->f;
    uint32_t dim = f->shape->head_dim;
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES], *o[KERN_ATTN_MAX_QUERIES];
    for (uint32_t i = 0; i < b->n_q; i++) {
        m[i] = -INFINITY;
        l[i] = 0.0f;
        o[i] = output_of(f, w->row0 + i / w->n_heads, w->head0 + i % w->n_heads);
        memset(o[i], 0, dim * sizeof(float));
    }
    for (uint32_t item = w->item0; item < w->item1; item++) {
        attend_item(job, w, b, item);
        for (uint32_t i = 0; i < b->n_q; i++)
            f->kern->attend_fold(&m[i], &l[i], o[i], b->m[i], b->l[i], b->o + (size_t)i * dim, dim);
    }
    for (uint32_t i = 0; i < b->n_q; i++)
        finish_query(f, w->row0 + i / w->n_heads, w->head0 + i % w->n_heads, &m[i], &l[i], o[i]);
}

static void work_item(void *ctx, uint32_t item)
{
    const struct attention_job *job = ctx;
    const struct attention_work *w = &job->plan->work[item];
    struct block b;
    gather_queries(job, w, &b);
    if (w->partial == NO_PARTIAL) {
        fold_items(job, w, &b);
        return;
    }
    attend_item(job, w, &b, w->item0);
    store_partials(job, w, &b);
}

static void fold_partials(const struct attention_job *job, uint32_t row)
{
    struct forward *f = job->f;
    uint32_t dim = f->shape->head_dim, n_items = job->plan->row_items[row];
    for (uint32_t h = 0; h < f->shape->n_heads; h++) {
        size_t at = job->plan->row_partial[row] + (size_t)h * n_items;
        float m = -INFINITY, l = 0.0f, *o = output_of(f, row, h);
        memset(o, 0, dim * sizeof(float));
        for (uint32_t i = 0; i < n_items; i++, at++)
            f->kern->attend_fold(&m, &l, o, f->partial_m[at], f->partial_l[at],
                                 f->partial_o + at * dim, dim);
        finish_query(f, row, h, &m, &l, o);
    }
}

static void finish_row(void *ctx, uint32_t row)
{
    const struct attention_job *job = ctx;
    if (job->plan->row_partial[row] != NO_PARTIAL)
        fold_partials(job, row);
    if (job->quantise)
        job->f->kern->quantise(job->f->attn.x, &job->f->attn.act, row, row + 1);
}

void attention_forward(struct forward *f, uint32_t layer)
{
    const struct layer_shape *shape = &f->shape->layer[layer];
    struct attention_job job = {
        .f = f,
        .layer = shape,
        .plan = &f->plan[shape->group],
        .quantise = kern_type_is_quantised(f->weights->layer[layer].o.type),
    };
    workers_run(f->workers, work_item, &job, job.plan->n_work);
    workers_run(f->workers, finish_row, &job, f->n_rows);
}
