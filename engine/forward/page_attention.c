/* SPDX-License-Identifier: Apache-2.0
 *
 * page_attention.c - attention of decoded rows whose operating point has a budget of pages: to those that may matter most
 * (Quest, arXiv 2406.10774; LServe, arXiv 2502.14866), and to their own.
 *
 * The query heads of a KV head choose together, so that a page is read for all of them.  Every PAGE_CHOICE_STEP-th position
 * chooses, those between take its choice over; both lie in one page, so that a list is needed only while that is open, and
 * belongs to the sequence.  Chosen pages are attended to in their order, as if they were adjacent: items of 1,024 tokens as
 * in attention.c, then the open page and the token itself.
 */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/forward/forward.h"
#include "engine/sparsity/page_choice.h"

enum { PAGES_PER_ITEM = KERN_ATTN_ITEM / KV_PAGE_TOKENS };
_Static_assert(KV_PAGE_TOKENS % PAGE_CHOICE_STEP == 0, "a choice holds within its page");

/* ---- lists ---- */

static size_t list_len(uint32_t cap)
{
    return (size_t)cap + 1; /* how many, then their numbers */
}

size_t page_lists_bytes(const struct model_shape *s, uint32_t cap)
{
    return (size_t)s->n_layers * s->n_kv_heads * PAGE_LIST_SLOTS * list_len(cap) * sizeof(uint16_t);
}

static uint16_t *list_of(const struct forward *f, uint32_t row, uint32_t layer, uint32_t kv_head)
{
    const struct run *run = &f->run[f->place[row].run];
    uint32_t slot = f->place[row].pos % KV_PAGE_TOKENS / PAGE_CHOICE_STEP;
    size_t at = ((size_t)layer * f->shape->n_kv_heads + kv_head) * PAGE_LIST_SLOTS + slot;
    return run->lists + at * list_len(run->list_cap);
}

/* ---- which rows ---- */

/* Pages that the row may choose from: all complete ones before its own. */
static uint32_t n_complete(const struct forward *f, uint32_t row)
{
    return f->place[row].pos / KV_PAGE_TOKENS;
}

/* Of those, at most: its own page is one of the budget.  0: all. */
static uint32_t most_pages(const struct forward *f, uint32_t row, uint32_t layer)
{
    const struct operating_point *point = f->row_point[row];
    return point && point->layer[layer].pages > 0 ? point->layer[layer].pages - 1 : 0;
}

static bool chooses(const struct forward *f, uint32_t row, uint32_t layer)
{
    uint32_t most = most_pages(f, row, layer);
    return most > 0 && n_complete(f, row) > most;
}

uint32_t page_attention_list(struct forward *f, uint32_t layer)
{
    f->n_choosers = 0;
    for (uint32_t r = 0; r < f->n_runs; r++) {
        const struct run *run = &f->run[r];
        uint32_t n_whole = run->n_rows;
        /* Later rows see more pages: those that choose are the last ones of a run. */
        while (n_whole > 0 && chooses(f, run->row0 + n_whole - 1, layer))
            n_whole--;
        f->whole_run[r] = *run;
        f->whole_run[r].n_rows = n_whole;
        for (uint32_t i = n_whole; i < run->n_rows; i++)
            f->chooser[f->n_choosers++] = run->row0 + i;
    }
    return f->n_choosers;
}

/* ---- choosing ---- */

struct page_job {
    struct forward *f;
    uint32_t layer;
    const struct layer_shape *shape;
};

static const uint8_t *page_of(const struct page_job *job, uint32_t row, uint32_t kv_head,
                              uint32_t page_no)
{
    const struct forward *f = job->f;
    const struct run *run = &f->run[f->place[row].run];
    const uint8_t *page = kv_page(run->seq, job->shape->group, job->shape->layer_in_group, page_no);
    return page + kv_head * config_head_page_bytes(f->shape);
}

/* Sums over the queries that choose together. */
static void add_queries(const struct forward *f, const float *q, float *sum, float *size)
{
    uint32_t dim = f->shape->head_dim;
    memset(sum, 0, dim * sizeof(*sum));
    memset(size, 0, dim * sizeof(*size));
    for (uint32_t h = 0; h < attention_group(f->shape); h++, q += dim)
        for (uint32_t c = 0; c < dim; c++) {
            sum[c] += q[c];
            size[c] += fabsf(q[c]);
        }
}

static void choose_item(void *ctx, uint32_t item)
{
    const struct page_job *job = ctx;
    struct forward *f = job->f;
    uint32_t kv_head = item % f->shape->n_kv_heads, row = f->wave[item / f->shape->n_kv_heads];
    uint32_t pos = f->place[row].pos, n = n_complete(f, row);
    struct page_scratch scratch = page_scratch_of(f, workers_self());
    float sum[KERN_MAX_HEAD_DIM], size[KERN_MAX_HEAD_DIM];
    if (pos % PAGE_CHOICE_STEP != 0 && pos != f->run[f->place[row].run].first_sparse)
        return;
    add_queries(f, attention_query(f, row, kv_head * attention_group(f->shape)), sum, size);
    for (uint32_t p = 0; p < n; p++)
        scratch.bounds[p] = (const uint16_t *)(const void *)(page_of(job, row, kv_head, p) +
                                                             config_bounds_at(f->shape));
    f->kern->score_pages(sum, size, scratch.bounds, n, KV_PAGE_TOKENS / KERN_ATTN_TILE,
                         f->shape->head_dim, scratch.score);
    uint16_t *list = list_of(f, row, job->layer, kv_head);
    list[0] = (uint16_t)page_choice(scratch.score, n, most_pages(f, row, job->layer),
                                    scratch.sorted, list + 1);
}

/* ---- attending ---- */

/* The queries of a KV head, some at a time, and what they are so far. */
struct some_queries {
    uint32_t row, kv_head, first, n; /* [first, first + n) of the group's */
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES];
};

/* Query head of the i-th. */
static uint32_t head_of(const struct forward *f, const struct some_queries *s, uint32_t i)
{
    return s->kv_head * attention_group(f->shape) + s->first + i;
}

static float *output_of(const struct forward *f, const struct some_queries *s, uint32_t i)
{
    return attention_head_output(f, s->row, head_of(f, s, i));
}

/* Tokens [0, end) of these pages, as if they were adjacent, from the item's first on. */
static void attend_pages(const struct page_job *job, struct some_queries *s,
                         const void *const *pages, uint32_t page_tokens, enum kern_kv kv,
                         uint32_t end)
{
    const struct forward *f = job->f;
    uint32_t dim = f->shape->head_dim, first[KERN_ATTN_MAX_QUERIES] = { 0 };
    uint32_t ends[KERN_ATTN_MAX_QUERIES];
    float m[KERN_ATTN_MAX_QUERIES], l[KERN_ATTN_MAX_QUERIES];
    float o[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < s->n; i++)
        ends[i] = end;
    struct kern_attend a = { .q = attention_query(f, s->row, head_of(f, s, 0)),
                             .first = first,
                             .end = ends,
                             .pages = pages,
                             .n_q = s->n,
                             .head_dim = dim,
                             .page_tokens = page_tokens,
                             .kv = kv,
                             .softcap = f->shape->attention_soft_cap,
                             .m = m,
                             .l = l,
                             .o = o };
    f->kern->attend(&a);
    for (uint32_t i = 0; i < s->n; i++)
        f->kern->attend_fold(&s->m[i], &s->l[i], output_of(f, s, i), m[i], l[i],
                             o + (size_t)i * dim, dim);
}

/* What is complete, as the list says, and the row's own page where it has the same form. */
static void attend_list(const struct page_job *job, struct some_queries *s, const uint16_t *list)
{
    const struct forward *f = job->f;
    uint32_t pos = f->place[s->row].pos, n_open = pos % KV_PAGE_TOKENS, n = list[0];
    bool has_own = n_open > 0 && !paging_has_open_pages(f->shape);
    for (uint32_t p = 0; p < n + has_own; p += PAGES_PER_ITEM) {
        const void *pages[PAGES_PER_ITEM];
        uint32_t n_pages = 0, end = 0;
        for (; n_pages < PAGES_PER_ITEM && p + n_pages < n + has_own; n_pages++) {
            bool is_own = p + n_pages == n;
            pages[n_pages] = page_of(job, s->row, s->kv_head,
                                     is_own ? pos / KV_PAGE_TOKENS : list[1 + p + n_pages]);
            end += is_own ? n_open : KV_PAGE_TOKENS;
        }
        attend_pages(job, s, pages, KV_PAGE_TOKENS, f->shape->kv, end);
    }
}

static void attend_open(const struct page_job *job, struct some_queries *s)
{
    const struct forward *f = job->f;
    const struct run *run = &f->run[f->place[s->row].run];
    uint32_t pos = f->place[s->row].pos;
    const void *parts[CONFIG_OPEN_PARTS];
    if (!paging_has_open_pages(f->shape) || pos % KV_PAGE_TOKENS == 0)
        return;
    for (uint32_t i = 0; i < CONFIG_OPEN_PARTS; i++)
        parts[i] = paging_open_part(f, job->shape, run, pos / KV_PAGE_TOKENS, i, s->kv_head);
    attend_pages(job, s, parts, KV_PAGE_TOKENS / CONFIG_OPEN_PARTS, KERN_KV_F16,
                 pos % KV_PAGE_TOKENS);
}

static void attend_some(const struct page_job *job, struct some_queries *s, const uint16_t *list)
{
    const struct forward *f = job->f;
    for (uint32_t i = 0; i < s->n; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0.0f;
        memset(output_of(f, s, i), 0, f->shape->head_dim * sizeof(float));
    }
    attend_list(job, s, list);
    attend_open(job, s);
    for (uint32_t i = 0; i < s->n; i++)
        attention_finish_query(f, s->row, head_of(f, s, i), &s->m[i], &s->l[i]);
}

static void attend_item(void *ctx, uint32_t item)
{
    const struct page_job *job = ctx;
    struct forward *f = job->f;
    struct some_queries s = { .row = f->wave[item / f->shape->n_kv_heads],
                              .kv_head = item % f->shape->n_kv_heads };
    const uint16_t *list = list_of(f, s.row, job->layer, s.kv_head);
    for (; s.first < attention_group(f->shape); s.first += s.n) {
        uint32_t n_left = attention_group(f->shape) - s.first;
        s.n = n_left < KERN_ATTN_MAX_QUERIES ? n_left : KERN_ATTN_MAX_QUERIES;
        attend_some(job, &s, list);
    }
    struct row_counts *counts = &f->row_counts[s.row];
    atomic_fetch_add_explicit(&counts->n_pages_seen, n_complete(f, s.row) + 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&counts->n_pages_read, list[0] + 1u, memory_order_relaxed);
}

/* ---- all of them ---- */

/* Of rows of one run only those of one page at a time: the lists are of a page.  Takes those of the run's `wave`-th page
 * into f->wave; returns how many. */
static uint32_t take_wave(struct forward *f, uint32_t wave)
{
    uint32_t n = 0, first_page = 0, run = UINT32_MAX;
    for (uint32_t i = 0; i < f->n_choosers; i++) {
        uint32_t row = f->chooser[i];
        if (f->place[row].run != run)
            first_page = n_complete(f, row);
        run = f->place[row].run;
        if (n_complete(f, row) - first_page == wave)
            f->wave[n++] = row;
    }
    return n;
}

uint64_t page_attention_forward(struct forward *f, uint32_t layer)
{
    struct page_job job = { f, layer, &f->shape->layer[layer] };
    uint64_t n_pages = 0;
    for (uint32_t wave = 0, n_done = 0, n; n_done < f->n_choosers; wave++, n_done += n) {
        n = take_wave(f, wave);
        workers_run(f->workers, choose_item, &job, n * f->shape->n_kv_heads);
        workers_run(f->workers, attend_item, &job, n * f->shape->n_kv_heads);
    }
    for (uint32_t i = 0; i < f->n_choosers; i++)
        n_pages += most_pages(f, f->chooser[i], layer) + 1; /* all of the budget: there are more */
    return n_pages * KV_PAGE_TOKENS;
}
