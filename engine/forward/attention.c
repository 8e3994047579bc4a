/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - attention of all rows of a step over the pages of their sequences.
 *
 * One routine for prompts and decoding.  The work list is made once per step and KV group; an entry
 * is a block of up to 48 queries (of the query heads of one KV head, row by row) that read the same
 * pages.  Long prompts go through their items of 1,024 tokens one after the other, folding as they
 * go.  Where rows are few, each item is an entry of its own, so that one long sequence keeps all threads
 * busy and each reads other pages; the partials are folded afterwards in the same order: same bits.
 *
 * Where sealed pages hold 8 bits, the items end with the last sealed page, and the open one follows
 * as one more (paging.c).
 *
 * Sequences with a common prefix hold the same pages (kvcache.h).  Of an item that several decoding
 * sequences share, their queries are one entry: its pages are read once for all of them.
 */
#include <math.h>
#include <string.h>

#include "engine/forward/forward.h"

enum {
    DECODE_ROWS = 2, /* runs of at most this many rows decode; there may be many such runs */
    ENOUGH_WORK = 4, /* blocks per thread: whoever is done first then waits for little */
    CHUNK_ITEMS = 3, /* items of the other runs that are split: two are seldom of one length */
    PAGES_PER_ITEM = KERN_ATTN_ITEM / KV_PAGE_TOKENS,
};
#define NO_PARTIAL UINT32_MAX

/* ---- the plan ---- */

static uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Queries [from, to) of each KV head, counted from the first one of row work.first_row on. */
static void add_block(const struct model_shape *s, struct attention_plan *plan,
                      struct attention_work work, uint32_t from, uint32_t to)
{
    work.first_row += from / attention_group(s);
    work.first_query = from % attention_group(s);
    work.n_queries = to - from;
    for (work.kv_head = 0; work.kv_head < s->n_kv_heads; work.kv_head++)
        plan->work[plan->n_work++] = work;
}

/* Where block number i of n begins, if n_queries are in blocks of about the same size. */
static uint32_t block_begin(uint32_t n_queries, uint32_t i, uint32_t n)
{
    return (uint32_t)((uint64_t)n_queries * i / n);
}

/* Blocks of at most so many queries of n rows. */
static void add_rows(const struct model_shape *s, struct attention_plan *plan,
                     struct attention_work work, uint32_t n, uint32_t most)
{
    uint32_t n_queries = n * attention_group(s), n_blocks = divide_up(n_queries, most);
    for (uint32_t i = 0; i < n_blocks; i++)
        add_block(s, plan, work, block_begin(n_queries, i, n_blocks),
                  block_begin(n_queries, i + 1, n_blocks));
}

/* The items that a row at `pos` reads from sealed pages. */
static void items_of(const struct model_shape *s, uint32_t window, uint32_t pos, uint32_t *item0,
                     uint32_t *item1)
{
    *item0 = kv_first_visible(window, pos) / KERN_ATTN_ITEM;
    *item1 = (paging_sealed_end(s, pos) + KERN_ATTN_ITEM - 1) / KERN_ATTN_ITEM;
    if (*item1 < *item0)
        *item1 = *item0; /* sees nothing but itself */
}

/* ---- runs in one piece ---- */

static uint32_t n_blocks_of(const struct model_shape *s, uint32_t n_queries)
{
    return divide_up(n_queries, KERN_ATTN_MAX_QUERIES) * s->n_kv_heads;
}

static bool decodes(const struct run *run)
{
    return run->n_rows <= DECODE_ROWS;
}

/* So few blocks that threads would not end together? */
static bool are_few(const struct forward *f, uint32_t n_blocks)
{
    return n_blocks < ENOUGH_WORK * f->opt.n_threads;
}

/* How large the blocks of n queries of each KV head may be: a large one reads its pages for more queries at
 * once, but where there are few blocks each thread should have as many of them. */
static uint32_t most_queries(const struct forward *f, uint32_t n_queries)
{
    const struct model_shape *s = f->shape;
    uint32_t n_threads = f->opt.n_threads, n_blocks = n_blocks_of(s, n_queries);
    uint32_t wanted = divide_up(n_blocks, n_threads) * n_threads;
    if (n_queries == 0 || !are_few(f, n_blocks))
        return KERN_ATTN_MAX_QUERIES;
    uint32_t n = divide_up(n_queries, divide_up(wanted, s->n_kv_heads));
    n = n > attention_group(s)
            ? n
            : attention_group(s); /* threads that share a row would read its pages twice */
    return n < KERN_ATTN_MAX_QUERIES ? n : KERN_ATTN_MAX_QUERIES;
}

/* n rows of a run from r on, which read the same open page if there is a form of its own for that. */
static void plan_rows(struct forward *f, struct attention_plan *plan, uint32_t window,
                      const struct run *run, uint32_t r, uint32_t n, uint32_t most)
{
    uint32_t group = attention_group(f->shape), n_queries = n * group;
    uint32_t n_blocks = divide_up(n_queries, most), unused;
    for (uint32_t i = 0; i < n_blocks; i++) {
        struct attention_work work = { .first_row = run->row0 + r };
        uint32_t from = block_begin(n_queries, i, n_blocks);
        uint32_t to = block_begin(n_queries, i + 1, n_blocks);
        uint32_t pos = run->pos0 + r;
        items_of(f->shape, window, pos + from / group, &work.item0, &unused);
        items_of(f->shape, window, pos + (to - 1) / group, &unused, &work.item1);
        add_block(f->shape, plan, work, from, to);
    }
}

/* How many rows of a run from r on lie in the same page. */
static uint32_t rows_of_page(const struct run *run, uint32_t r)
{
    uint32_t n_page = KV_PAGE_TOKENS - (run->pos0 + r) % KV_PAGE_TOKENS, n_left = run->n_rows - r;
    return n_page < n_left ? n_page : n_left;
}

static void plan_whole(struct forward *f, struct attention_plan *plan, uint32_t window,
                       const struct run *run, uint32_t most)
{
    for (uint32_t r = 0, n; r < run->n_rows; r += n) {
        n = paging_has_open_pages(f->shape) ? rows_of_page(run, r) : run->n_rows - r;
        plan_rows(f, plan, window, run, r, n, most);
    }
}

/* ---- runs in parts, the pages that several hold read once ---- */

/* Partials of each query head of a row: its items, and its open page. */
static uint32_t n_partials_of(const struct forward *f, const struct attention_plan *plan,
                              uint32_t row)
{
    return plan->row_items[row] + paging_has_open_pages(f->shape);
}

/* Reserves the partials of a run's rows; false if there is no room, or nothing to divide. */
static bool split(const struct forward *f, struct attention_plan *plan, uint32_t window,
                  const struct run *run, uint32_t *n_partials)
{
    uint32_t before = *n_partials, n_least = decodes(run) ? 2 : CHUNK_ITEMS;
    if (!decodes(run) && !plan->splits_chunks)
        return false;
    for (uint32_t i = 0; i < run->n_rows; i++) {
        uint32_t row = run->row0 + i, item0, item1;
        items_of(f->shape, window, run->pos0 + i, &item0, &item1);
        plan->row_item0[row] = item0;
        plan->row_items[row] = item1 - item0;
        uint32_t need = n_partials_of(f, plan, row) * f->shape->n_heads;
        if (item1 - item0 < n_least || need > f->max_partials - *n_partials) {
            *n_partials = before;
            for (uint32_t k = 0; k <= i; k++)
                plan->row_partial[run->row0 + k] = NO_PARTIAL;
            return false;
        }
        plan->row_partial[row] = *n_partials;
        *n_partials += need;
    }
    return true;
}

/* Appends the rows of a run that read the item. */
static void gather_rows(struct attention_plan *plan, const struct run *run, uint32_t item)
{
    for (uint32_t row = run->row0; row < run->row0 + run->n_rows; row++)
        if (item >= plan->row_item0[row] && item < plan->row_item0[row] + plan->row_items[row])
            plan->rows[plan->n_rows++] = row;
}

/* Does the run read the whole item, from the same pages as the other? */
static bool shares_item(uint32_t group, const struct run *run, const struct run *other,
                        uint32_t item)
{
    uint64_t end = ((uint64_t)item + 1) * KERN_ATTN_ITEM;
    return run->pos0 >= end && other->pos0 >= end &&
           kv_seq_shares(run->seq, other->seq, group, item * PAGES_PER_ITEM, PAGES_PER_ITEM);
}

static uint32_t end_item(const struct forward *f, const struct attention_plan *plan, uint32_t at)
{
    const struct run *run = &f->whole_run[plan->split_run[at]];
    uint32_t last = run->row0 + run->n_rows - 1;
    return plan->row_item0[last] + plan->row_items[last];
}

/* Whole items that a chunk's threads have as many of; those after them are shared out by queries. */
static uint32_t end_of_even_items(const struct forward *f, const struct attention_plan *plan,
                                  uint32_t at)
{
    const struct run *run = &f->whole_run[plan->split_run[at]];
    uint32_t item0 = plan->row_item0[run->row0], n_whole = end_item(f, plan, at) - item0 - 1;
    uint32_t n_blocks = n_blocks_of(f->shape, run->n_rows * attention_group(f->shape));
    uint32_t n_even = n_whole * n_blocks / f->opt.n_threads * f->opt.n_threads;
    return item0 + n_even / n_blocks;
}

/* The work of one item of one run, and of all runs behind it that share its pages. */
static void plan_part(struct forward *f, struct attention_plan *plan, uint32_t group, uint32_t at,
                      uint32_t item)
{
    const struct run *run = &f->whole_run[plan->split_run[at]];
    struct attention_work work = {
        .first_row = plan->n_rows, .item0 = item, .item1 = item + 1, .is_part = true
    };
    gather_rows(plan, run, item);
    for (uint32_t i = at + 1; i < plan->n_split; i++) {
        uint32_t other = plan->split_run[i];
        if (plan->run_item[other] > item || !shares_item(group, run, &f->whole_run[other], item))
            continue;
        gather_rows(plan, &f->whole_run[other], item);
        plan->run_item[other] = item + 1;
    }
    uint32_t n = plan->n_rows - work.first_row, most = KERN_ATTN_MAX_QUERIES;
    if (!decodes(run) && item >= end_of_even_items(f, plan, at))
        most = most_queries(f, n * attention_group(f->shape));
    add_rows(f->shape, plan, work, n, most);
}

/* The open pages of a run's rows, which nobody shares. */
static void plan_open_pages(const struct forward *f, struct attention_plan *plan,
                            const struct run *run)
{
    for (uint32_t i = 0, n; i < run->n_rows; i += n) {
        struct attention_work work = { .first_row = run->row0 + i,
                                       .is_part = true,
                                       .is_open_page = true };
        n = rows_of_page(run, i);
        add_rows(f->shape, plan, work, n, KERN_ATTN_MAX_QUERIES);
    }
}

static void plan_parts(struct forward *f, struct attention_plan *plan, uint32_t group)
{
    uint32_t n_items = 0;
    for (uint32_t i = 0; i < plan->n_split; i++)
        n_items = end_item(f, plan, i) > n_items ? end_item(f, plan, i) : n_items;
    for (uint32_t item = 0; item < n_items; item++)
        for (uint32_t i = 0; i < plan->n_split; i++) {
            uint32_t run = plan->split_run[i];
            if (plan->run_item[run] > item || item >= end_item(f, plan, i))
                continue;
            plan->run_item[run] = item + 1;
            plan_part(f, plan, group, i, item);
        }
    for (uint32_t i = 0; i < plan->n_split && paging_has_open_pages(f->shape); i++)
        plan_open_pages(f, plan, &f->whole_run[plan->split_run[i]]);
}

/* ---- the plan of a group ---- */

/* Rows of the runs that do not decode. */
static uint32_t n_prompt_rows(const struct forward *f)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_runs; i++)
        n += decodes(&f->whole_run[i]) ? 0 : f->whole_run[i].n_rows;
    return n;
}

/* n_queries: of the prompts, for each KV head. */
static void plan_group(struct forward *f, struct attention_plan *plan, uint32_t group,
                       uint32_t n_queries)
{
    uint32_t most = most_queries(f, n_queries);
    uint32_t window = f->shape->group_window[group], n_partials = 0;
    plan->splits_chunks = are_few(f, n_blocks_of(f->shape, n_queries));
    plan->n_work = plan->n_split = 0;
    plan->n_rows = f->n_rows;
    for (uint32_t row = 0; row < f->n_rows; row++) {
        plan->rows[row] = row;
        plan->row_partial[row] = NO_PARTIAL;
    }
    for (uint32_t i = 0; i < f->n_runs; i++) {
        if (f->whole_run[i].n_rows == 0)
            continue;
        if (!split(f, plan, window, &f->whole_run[i], &n_partials)) {
            plan_whole(f, plan, window, &f->whole_run[i], most);
            continue;
        }
        plan->run_item[i] = plan->row_item0[f->whole_run[i].row0];
        plan->split_run[plan->n_split++] = i;
    }
    plan_parts(f, plan, group);
}

/* Groups run one after the other: they share the memory of the partials. */
void attention_plan_step(struct forward *f)
{
    memcpy(f->whole_run, f->run, f->n_runs * sizeof(*f->run));
    uint32_t n_queries = n_prompt_rows(f) * attention_group(f->shape);
    for (uint32_t g = 0; g < f->shape->n_groups; g++)
        plan_group(f, &f->plan[g], g, n_queries);
}

/* ---- the work ---- */

struct attention_job {
    struct forward *f;
    const struct layer_shape *layer;
    const struct attention_plan *plan;
    const struct kern_matrix *o; /* the output projection */
};

/* The queries of a block, gathered: they are adjacent for the kernel. */
struct block {
    float q[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM];
    uint32_t first[KERN_ATTN_MAX_QUERIES], end[KERN_ATTN_MAX_QUERIES];
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES];
    float o[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM];
    uint32_t n_q;
};

/* The row and the head of a block's query. */
static uint32_t row_of(const struct attention_job *job, const struct attention_work *w,
                       uint32_t query)
{
    return job->plan
        ->rows[w->first_row + (w->first_query + query) / attention_group(job->f->shape)];
}

static uint32_t head_of(const struct attention_job *job, const struct attention_work *w,
                        uint32_t query)
{
    uint32_t group = attention_group(job->f->shape);
    return w->kv_head * group + (w->first_query + query) % group;
}

static void gather_queries(const struct attention_job *job, const struct attention_work *w,
                           struct block *b)
{
    const struct forward *f = job->f;
    const struct model_shape *s = f->shape;
    b->n_q = w->n_queries;
    for (uint32_t i = 0; i < b->n_q; i++) {
        uint32_t row = row_of(job, w, i), head = head_of(job, w, i);
        memcpy(b->q + (size_t)i * s->head_dim, attention_query(f, row, head),
               s->head_dim * sizeof(float));
        b->first[i] = kv_first_visible(job->layer->window, f->place[row].pos);
        b->end[i] = paging_sealed_end(s, f->place[row].pos);
    }
}

static const struct run *run_of(const struct attention_job *job, const struct attention_work *w)
{
    return &job->f->run[job->f->place[row_of(job, w, 0)].run];
}

static void attend(const struct attention_job *job, struct block *b, const void *const *pages,
                   uint32_t page_tokens, enum kern_kv kv, uint32_t first_token)
{
    const struct model_shape *s = job->f->shape;
    struct kern_attend a = { .q = b->q,
                             .first = b->first,
                             .end = b->end,
                             .pages = pages,
                             .n_q = b->n_q,
                             .head_dim = s->head_dim,
                             .page_tokens = page_tokens,
                             .item_first = first_token,
                             .kv = kv,
                             .softcap = s->attention_soft_cap,
                             .m = b->m,
                             .l = b->l,
                             .o = b->o };
    job->f->kern->attend(&a);
}

static void attend_item(const struct attention_job *job, const struct attention_work *w,
                        struct block *b, uint32_t item)
{
    const struct model_shape *s = job->f->shape;
    const struct kv_seq *seq = run_of(job, w)->seq;
    size_t head_bytes = config_head_page_bytes(s);
    const void *pages[PAGES_PER_ITEM];
    for (uint32_t p = 0; p < PAGES_PER_ITEM; p++) {
        const uint8_t *page = kv_page(seq, job->layer->group, job->layer->layer_in_group,
                                      item * PAGES_PER_ITEM + p);
        pages[p] = page ? page + w->kv_head * head_bytes : NULL;
    }
    attend(job, b, pages, KV_PAGE_TOKENS, s->kv, item * KERN_ATTN_ITEM);
}

/* What the rows of the block see of the open page, which is unsealed. */
static void attend_open_page(const struct attention_job *job, const struct attention_work *w,
                             struct block *b)
{
    const struct forward *f = job->f;
    const struct run *run = run_of(job, w);
    uint32_t open = paging_sealed_end(f->shape, f->place[row_of(job, w, 0)].pos);
    const void *parts[CONFIG_OPEN_PARTS];
    for (uint32_t i = 0; i < CONFIG_OPEN_PARTS; i++)
        parts[i] = paging_open_part(f, job->layer, run, open / KV_PAGE_TOKENS, i, w->kv_head);
    for (uint32_t i = 0; i < b->n_q; i++)
        b->end[i] = f->place[row_of(job, w, i)].pos;
    attend(job, b, parts, KV_PAGE_TOKENS / CONFIG_OPEN_PARTS, KERN_KV_F16, open);
}

static void store_partials(const struct attention_job *job, const struct attention_work *w,
                           const struct block *b)
{
    struct forward *f = job->f;
    const struct attention_plan *plan = job->plan;
    uint32_t dim = f->shape->head_dim;
    for (uint32_t i = 0; i < b->n_q; i++) {
        uint32_t row = row_of(job, w, i);
        size_t at = plan->row_partial[row] +
                    (size_t)head_of(job, w, i) * n_partials_of(f, plan, row) +
                    (w->is_open_page ? plan->row_items[row] : w->item0 - plan->row_item0[row]);
        f->partial_m[at] = b->m[i];
        f->partial_l[at] = b->l[i];
        memcpy(f->partial_o + at * dim, b->o + (size_t)i * dim, dim * sizeof(float));
    }
}

static size_t head_at(const struct model_shape *s, uint32_t row, uint32_t head)
{
    return ((size_t)row * s->n_heads + head) * s->head_dim;
}

const float *attention_query(const struct forward *f, uint32_t row, uint32_t head)
{
    return f->q + head_at(f->shape, row, head);
}

float *attention_head_output(const struct forward *f, uint32_t row, uint32_t head)
{
    return f->attn.x + head_at(f->shape, row, head);
}

void attention_finish_query(const struct forward *f, uint32_t row, uint32_t head, float *m,
                            float *l)
{
    const struct model_shape *s = f->shape;
    size_t kv_head = head / attention_group(s);
    size_t kv = ((size_t)row * s->n_kv_heads + kv_head) * s->head_dim;
    f->kern->attend_last(attention_query(f, row, head), f->k + kv, f->v + kv, s->attention_soft_cap,
                         s->head_dim, m, l, attention_head_output(f, row, head));
}

/* The running softmax of a block's queries; o points into the output rows. */
struct fold {
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES], *o[KERN_ATTN_MAX_QUERIES];
};

static void fold_block(const struct forward *f, struct fold *fold, const struct block *b)
{
    uint32_t dim = f->shape->head_dim;
    for (uint32_t i = 0; i < b->n_q; i++)
        f->kern->attend_fold(&fold->m[i], &fold->l[i], fold->o[i], b->m[i], b->l[i],
                             b->o + (size_t)i * dim, dim);
}

/* All that a block sees, folded straight into the output rows. */
static void fold_items(const struct attention_job *job, const struct attention_work *w,
                       struct block *b)
{
    struct forward *f = job->f;
    struct fold fold;
    for (uint32_t i = 0; i < b->n_q; i++) {
        fold.m[i] = -INFINITY;
        fold.l[i] = 0.0f;
        fold.o[i] = attention_head_output(f, row_of(job, w, i), head_of(job, w, i));
        memset(fold.o[i], 0, f->shape->head_dim * sizeof(float));
    }
    for (uint32_t item = w->item0; item < w->item1; item++) {
        attend_item(job, w, b, item);
        fold_block(f, &fold, b);
    }
    if (paging_has_open_pages(f->shape)) {
        attend_open_page(job, w, b);
        fold_block(f, &fold, b);
    }
    for (uint32_t i = 0; i < b->n_q; i++)
        attention_finish_query(f, row_of(job, w, i), head_of(job, w, i), &fold.m[i], &fold.l[i]);
}

static void work_item(void *ctx, uint32_t item)
{
    const struct attention_job *job = ctx;
    const struct attention_work *w = &job->plan->work[item];
    struct block b;
    gather_queries(job, w, &b);
    if (!w->is_part) {
        fold_items(job, w, &b);
        return;
    }
    if (w->is_open_page)
        attend_open_page(job, w, &b);
    else
        attend_item(job, w, &b, w->item0);
    store_partials(job, w, &b);
}

static void fold_partials(const struct attention_job *job, uint32_t row)
{
    struct forward *f = job->f;
    uint32_t dim = f->shape->head_dim, n = n_partials_of(f, job->plan, row);
    for (uint32_t h = 0; h < f->shape->n_heads; h++) {
        size_t at = job->plan->row_partial[row] + (size_t)h * n;
        float m = -INFINITY, l = 0.0f, *o = attention_head_output(f, row, h);
        memset(o, 0, dim * sizeof(float));
        for (uint32_t i = 0; i < n; i++, at++)
            f->kern->attend_fold(&m, &l, o, f->partial_m[at], f->partial_l[at],
                                 f->partial_o + at * dim, dim);
        attention_finish_query(f, row, h, &m, &l);
    }
}

static void finish_row(void *ctx, uint32_t row)
{
    const struct attention_job *job = ctx;
    if (job->plan->row_partial[row] != NO_PARTIAL)
        fold_partials(job, row);
    forward_quantise_row(job->f, &job->f->attn, job->o, row);
}

/* What the rows see, and the pages that hold it, each run's once; of rows that choose, what they chose. */
static void count_attention(struct forward *f, const struct layer_shape *layer, uint64_t n_chosen)
{
    const struct model_shape *s = f->shape;
    uint64_t token_bytes = s->n_kv_heads * config_head_page_bytes(s) / KV_PAGE_TOKENS;
    profile_add(&f->profile, PROFILE_ATTENTION, n_chosen * token_bytes,
                2 * n_chosen * s->n_heads * s->head_dim);
    for (uint32_t i = 0; i < f->n_runs; i++) {
        const struct run *run = &f->whole_run[i];
        uint64_t n_seen = 0;
        if (run->n_rows == 0)
            continue;
        for (uint32_t pos = run->pos0; pos < run->pos0 + run->n_rows; pos++)
            n_seen += pos + 1 - kv_first_visible(layer->window, pos);
        uint64_t n_read = run->pos0 + run->n_rows - kv_first_visible(layer->window, run->pos0);
        profile_add(&f->profile, PROFILE_ATTENTION, n_read * token_bytes,
                    2 * n_seen * s->n_heads * s->head_dim);
    }
}

void attention_forward(struct forward *f, uint32_t layer)
{
    const struct layer_shape *shape = &f->shape->layer[layer];
    struct attention_job job = {
        .f = f,
        .layer = shape,
        .plan = &f->plan[shape->group],
        .o = &f->weights->layer[layer].o,
    };
    bool has_choosers = f->shape->keeps_bounds && page_attention_list(f, layer) > 0;
    uint64_t n_chosen = 0; /* tokens */
    if (has_choosers) {
        plan_group(f, &f->layer_plan, shape->group, n_prompt_rows(f) * attention_group(f->shape));
        job.plan = &f->layer_plan;
        n_chosen = page_attention_forward(f, layer);
    }
    workers_run(f->workers, work_item, &job, job.plan->n_work);
    forward_rows(f, finish_row, &job, f->n_rows);
    if (f->profile.is_on)
        count_attention(f, shape, n_chosen);
}
