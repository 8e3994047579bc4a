/* SPDX-License-Identifier: Apache-2.0
 *
 * sequence_step.c - sequences, steps and sampling: engine.h's calls of the loop, on top of
 * forward/.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/internal.h"
#include "engine/quality/quality.h"

/* ---- sequences ---- */

bool engine_fits(const struct engine *e, uint32_t n_tokens)
{
    for (uint32_t g = 0; g < e->shape.n_groups; g++) {
        struct kv_group_stats s;
        kv_group_stats(e->kv, g, &s);
        const struct kv_group_options group = config_kv_group(&e->shape, g);
        if (kv_pages_needed(&group, n_tokens, e->opt.max_rows) > s.n_pages)
            return false;
    }
    return n_tokens <= e->info.n_ctx;
}

/* NULL: the exact one, or one that leaves out nothing after all. */
static const struct operating_point *point_of(const struct engine *e, uint32_t point)
{
    assert(point < e->info.n_points);
    return e->sparsity->points[point]->leaves_out ? e->sparsity->points[point] : NULL;
}

/* The first position where something may be left out. */
static uint32_t first_sparse(uint32_t n_prompt)
{
    return n_prompt > SPARSITY_FIRST_POS ? n_prompt : SPARSITY_FIRST_POS;
}

/* Room for the pages that it chooses; false: no memory. */
static bool take_lists(const struct engine *e, struct engine_seq *seq,
                       const struct operating_point *point)
{
    uint32_t most = point ? sparsity_most_pages(point, e->shape.n_layers) : 0;
    uint32_t n_pages = e->info.n_ctx / KV_PAGE_TOKENS + 1;
    seq->list_cap = most < n_pages ? most : n_pages;
    seq->lists = seq->list_cap > 0 ? malloc(page_lists_bytes(&e->shape, seq->list_cap)) : NULL;
    return seq->list_cap == 0 || seq->lists;
}

static void free_seq(struct engine_seq *seq)
{
    if (seq)
        free(seq->lists);
    free(seq);
}

int engine_point(const struct engine *e, const char *quality)
{
    return sparsity_find(e->sparsity, quality);
}

static double computed(const struct sparsity *s, enum sparsity_site site, uint32_t point,
                       uint32_t layer)
{
    float limit = s->points[point]->layer[layer].limit[site];
    return limit > 0 ? 1 - sparsity_share_below(s, site, layer, limit) : 1;
}

struct engine_layer_shares engine_point_layer(const struct engine *e, uint32_t point,
                                              uint32_t layer)
{
    struct engine_layer_shares shares = { computed(e->sparsity, SPARSITY_UP, point, layer),
                                          computed(e->sparsity, SPARSITY_DOWN, point, layer) };
    if (shares.down > shares.up) /* what is not computed is not read by down, either */
        shares.down = shares.up;
    return shares;
}

int engine_find_point(struct engine *e, const char *text, struct engine_err *err)
{
    int point = sparsity_parse(e->sparsity, text, err);
    e->info.n_points = e->sparsity->n_points;
    return point;
}

int engine_seq_open(struct engine *e, const struct engine_seq_options *opt, struct engine_seq **out,
                    struct engine_err *err)
{
    struct kv_seq_options kv = { .max_tokens = opt->max_tokens,
                                 .salt = opt->cache_salt,
                                 .salt_bytes = opt->cache_salt_len,
                                 .is_private = opt->no_cache };
    const struct operating_point *point = point_of(e, opt->point);
    *out = NULL;
    if (point) {
        kv.own_way = &point->info.hash;
        kv.own_way_bytes = sizeof(point->info.hash);
        kv.own_from = first_sparse(opt->n_prompt);
        kv.own_step = sparsity_most_pages(point, e->shape.n_layers) > 0 ? PAGE_CHOICE_STEP : 0;
    }
    if (opt->max_tokens > e->info.n_ctx)
        return engine_fail(err, ENGINE_ERR_CONTEXT,
                           "a sequence of %u tokens was asked for; the context holds %u",
                           opt->max_tokens, e->info.n_ctx);
    struct engine_seq *seq = calloc(1, sizeof(*seq));
    if (!seq || !take_lists(e, seq, point) || kv_seq_open(e->kv, &kv, &seq->kv) != 0) {
        free_seq(seq);
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a sequence of %u tokens",
                           opt->max_tokens);
    }
    seq->e = e;
    seq->n_prompt = opt->n_prompt;
    seq->point = point;
    *out = seq;
    return 0;
}

void engine_seq_close(struct engine_seq *seq)
{
    if (!seq)
        return;
    kv_seq_close(seq->kv);
    engine_stats_update(seq->e);
    free_seq(seq);
}

static int no_pages(uint32_t n_tokens, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_CAPACITY, "no KV pages for %u tokens now", n_tokens);
}

int engine_seq_admit(struct engine_seq *seq, const int32_t *tokens, uint32_t n_most,
                     uint32_t n_tokens, uint32_t n_spare, struct engine_err *err)
{
    struct engine *e = seq->e;
    assert(kv_seq_n_committed(seq->kv) == 0 && n_most < n_tokens);
    bool fits = kv_seq_match(seq->kv, tokens, n_most) >= 0 &&
                kv_seq_promise(seq->kv, n_tokens, e->opt.max_rows) == 0 &&
                kv_n_unpromised(e->kv) >= n_spare;
    if (!fits)
        kv_seq_reset(seq->kv);
    engine_stats_update(e);
    return fits ? 0 : no_pages(n_tokens, err);
}

int engine_seq_grow(struct engine_seq *seq, uint32_t n_tokens, struct engine_err *err)
{
    int rc = kv_seq_reserve(seq->kv, n_tokens);
    assert(rc != -EINVAL);
    return rc == 0 ? 0 : no_pages(n_tokens, err);
}

int engine_seq_fork(const struct engine_seq *seq, struct engine_seq **out, struct engine_err *err)
{
    struct engine_seq *fork = calloc(1, sizeof(*fork));
    *out = NULL;
    if (!fork || !take_lists(seq->e, fork, seq->point) || kv_seq_fork(seq->kv, &fork->kv) != 0) {
        free_seq(fork);
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for another sequence");
    }
    fork->e = seq->e;
    fork->n_prompt = seq->n_prompt;
    fork->point = seq->point;
    if (seq->lists)
        memcpy(fork->lists, seq->lists, page_lists_bytes(&seq->e->shape, seq->list_cap));
    *out = fork;
    return 0;
}

uint32_t engine_seq_n_tokens(const struct engine_seq *seq)
{
    return kv_seq_n_committed(seq->kv);
}

uint32_t engine_seq_draft_room(const struct engine_seq *seq)
{
    return KV_PAGE_TOKENS - 1 - kv_seq_n_committed(seq->kv) % KV_PAGE_TOKENS;
}

void engine_seq_keep(struct engine_seq *seq, int32_t token)
{
    kv_seq_commit(seq->kv, &token, 1);
}

/* ---- steps ---- */

/* The end of the run of rows that belong to rows[i]'s sequence. */
static uint32_t run_end(const struct engine_row *rows, uint32_t n_rows, uint32_t i)
{
    uint32_t end = i + 1;
    while (end < n_rows && rows[end].seq == rows[i].seq)
        end++;
    return end;
}

static uint32_t n_kept_of(const struct engine *e, const struct engine_row *row)
{
    return row->pos >= row->seq->n_prompt ? e->info.n_experts_kept : e->shape.n_experts_used;
}

/* Layers that counted the experts of a row that comes again; where some gave way, others may this time. */
static uint32_t n_counted_of(const struct engine *e, const struct engine_row *row)
{
    const struct engine_seq *seq = row->seq;
    bool comes_again = seq->late_since_ns && row->pos < seq->late_end;
    return comes_again && n_kept_of(e, row) == e->shape.n_experts_used ? seq->late_layers : 0;
}

static void add_row(struct forward *f, struct engine_row *row)
{
    bool is_sparse = row->pos >= first_sparse(row->seq->n_prompt);
    f->row_point[f->n_rows] = is_sparse ? row->seq->point : NULL;
    memset(&f->row_counts[f->n_rows], 0, sizeof(*f->row_counts)); /* nobody else is at work */
    f->token[f->n_rows] = row->token;
    f->place[f->n_rows] = (struct row_place){ row->pos, f->n_runs };
    if (row->want_logits) {
        assert(f->n_logits < f->opt.max_logit_rows);
        row->logits = f->logits + (size_t)f->n_logits * f->shape->n_vocab;
        f->logit_row[f->n_logits++] = f->n_rows;
    }
    f->n_rows++;
}

/* Takes rows [i, end) of one sequence into the step. */
static void add_run(struct engine *e, struct engine_row *rows, uint32_t i, uint32_t end)
{
    struct forward *f = e->forward;
    const struct engine_seq *seq = rows[i].seq;
    assert(rows[i].pos == kv_seq_n_committed(seq->kv));
    int rc = kv_seq_reserve(seq->kv, rows[end - 1].pos + 1);
    assert(rc == 0); /* engine_seq_grow came before */
    f->run[f->n_runs] = (struct run){
        .seq = seq->kv,
        .row0 = f->n_rows,
        .n_rows = end - i,
        .pos0 = rows[i].pos,
        .first_sparse = first_sparse(seq->n_prompt),
        .lists = seq->lists,
        .list_cap = seq->list_cap,
    };
    for (uint32_t r = i; r < end; r++) {
        assert(rows[r].pos == rows[i].pos + (r - i));
        assert(rows[r].token >= 0 && (uint32_t)rows[r].token < f->shape->n_vocab);
        assert(!rows[r].is_draft || rows[r].pos / KV_PAGE_TOKENS == rows[i].pos / KV_PAGE_TOKENS);
        f->row_kept[f->n_rows] = n_kept_of(e, &rows[r]);
        f->row_replaced[f->n_rows] = 0;
        f->row_counted[f->n_rows] = n_counted_of(e, &rows[r]);
        add_row(f, &rows[r]);
    }
    f->n_runs++;
}

static bool is_good(const struct forward *f, const struct engine_row *row)
{
    return !row->want_logits ||
           f->logits_finite[(size_t)(row->logits - f->logits) / f->shape->n_vocab];
}

/* With few slots and storage that is always late the experts of one layer would drive out those of another, step
 * by step for ever: a sequence that does not come on for a minute ends. */
static bool may_be_late(struct forward *f, struct engine_seq *seq, bool came_on)
{
    const uint64_t limit_ns = UINT64_C(60000000000);
    uint64_t now = engine_clock_ns();
    if (came_on || seq->late_since_ns == 0)
        seq->late_since_ns = now;
    if (now - seq->late_since_ns < limit_ns)
        return true;
    f->failure = "experts could not be read: the storage has been too slow for a minute";
    return false;
}

/* Rows of a sequence up to the first that lacks an expert, or whose logits are no numbers: what came out of
 * it is worth nothing, and what would follow neither. */
static uint32_t settle_run(struct forward *f, struct engine_row *rows, uint32_t i, uint32_t end)
{
    uint32_t good = i;
    while (good < end && !f->row_late[good] && !f->row_failed[good] && is_good(f, &rows[good]))
        good++;
    bool is_late = good < end && f->row_late[good] && !f->row_failed[good] &&
                   may_be_late(f, rows[i].seq, good > i);
    if (is_late) {
        rows[i].seq->late_end = rows[end - 1].pos + 1;
        rows[i].seq->late_layers = f->row_late[good];
    } else {
        rows[i].seq->late_since_ns = 0;
    }
    for (uint32_t r = good; r < end; r++) {
        rows[r].status = is_late ? ENGINE_ROW_DEFERRED : ENGINE_ROW_FAILED;
        rows[r].logits = NULL;
    }
    return good;
}

static void take_rows(struct engine *e, struct engine_row *rows, uint32_t n_rows)
{
    for (uint32_t i = 0, end; i < n_rows; i = end) {
        end = run_end(rows, n_rows, i);
        for (uint32_t r = i; r < end; r++) {
            rows[r].status = ENGINE_ROW_DONE;
            rows[r].logits = NULL;
        }
        add_run(e, rows, i, end);
    }
}

static uint32_t count_drafts(const struct engine_row *rows, uint32_t n_rows)
{
    uint32_t n = 0;
    while (n < n_rows && rows[n_rows - 1 - n].is_draft)
        n++;
    return n;
}

static void report_row(const struct forward *f, uint32_t n_neurons, uint32_t r,
                       struct engine_row *row)
{
    const _Atomic uint32_t *n = f->row_counts[r].n;
    bool is_counted = f->row_point[r] || ffn_looks_for_zeros(f);
    row->n_replaced = f->row_replaced[r];
    row->n_pages_seen = atomic_load_explicit(&f->row_counts[r].n_pages_seen, memory_order_relaxed);
    row->n_pages_read = atomic_load_explicit(&f->row_counts[r].n_pages_read, memory_order_relaxed);
    row->n_up = is_counted ? atomic_load_explicit(&n[SPARSITY_UP], memory_order_relaxed)
                           : n_neurons;
    row->n_down = is_counted ? atomic_load_explicit(&n[SPARSITY_DOWN], memory_order_relaxed)
                             : n_neurons;
}

static void settle_rows(struct engine *e, struct engine_row *rows, uint32_t n_rows)
{
    for (uint32_t i = 0, end; i < n_rows; i = end) {
        end = run_end(rows, n_rows, i);
        uint32_t good = settle_run(e->forward, rows, i, end);
        for (uint32_t r = i; r < good; r++)
            report_row(e->forward, e->info.n_neurons, r, &rows[r]);
        uint32_t n_sure = good - i - count_drafts(rows + i, good - i);
        /* All rows, or some have failed and the sequence ends here, or what is left out may be written again:
         * drafts, and late rows (may_defer). */
        kv_seq_commit(rows[i].seq->kv, e->forward->token + i, n_sure);
    }
}

void engine_pin_self(struct engine *e)
{
    workers_pin_self(e->workers);
}

void engine_idle(struct engine *e)
{
    kv_set_idle(e->kv, true);
}

/* What is written beyond the committed positions may be written again, but not where pages are open in parts
 * and one was completed (see kv_seq_commit); nor where the pages that a position chose gave way to those of the next
 * page's. */
static bool can_be_again(const struct forward *f, const struct run *run)
{
    return (!paging_has_open_pages(f->shape) && !run->lists) ||
           run->pos0 / KV_PAGE_TOKENS == (run->pos0 + run->n_rows - 1) / KV_PAGE_TOKENS;
}

static bool may_defer(const struct engine *e)
{
    const struct forward *f = e->forward;
    bool may = e->experts && !e->opt.never_defers;
    for (uint32_t i = 0; i < f->n_runs && may; i++)
        may = can_be_again(f, &f->run[i]);
    return may;
}

/* When no row can go on without an expert, there is nothing to do but to wait for it. */
static void await_experts(const struct engine *e, const struct engine_row *rows, uint32_t n_rows)
{
    uint32_t n_late = 0;
    while (n_late < n_rows && rows[n_late].status == ENGINE_ROW_DEFERRED)
        n_late++;
    if (e->experts && n_rows > 0 && n_late == n_rows)
        experts_await(e->experts);
}

void engine_step(struct engine *e, struct engine_row *rows, uint32_t n_rows)
{
    struct forward *f = e->forward;
    assert(n_rows <= f->opt.max_rows);
    kv_set_idle(e->kv, false);
    f->n_rows = f->n_runs = f->n_logits = 0;
    f->failure = NULL;
    memset(f->row_failed, 0, n_rows * sizeof(*f->row_failed));
    memset(f->row_late, 0, n_rows * sizeof(*f->row_late));
    take_rows(e, rows, n_rows);
    audit_choose(e->audit, f);
    f->may_defer = may_defer(e);
    if (f->n_rows)
        forward_step(f);
    settle_rows(e, rows, n_rows);
    await_experts(e, rows, n_rows);
    if (e->opt.kv_shuffle_seed) /* tests */
        assert(!kv_check(e->kv));
    engine_stats_update(e);
}

void engine_row_error(const struct engine *e, struct engine_err *err)
{
    if (e->forward->failure)
        engine_fail(err, ENGINE_ERR_IO, "%s", e->forward->failure);
    else
        engine_fail(
            err, ENGINE_ERR_INTERNAL,
            "the model computed something that is not a number: its weights are damaged, or "
            "this prompt overflows them");
}

/* ---- sampling ---- */

int engine_samplers_open(struct engine *e, struct engine_err *err)
{
    e->samplers = calloc(e->opt.n_threads, sizeof(*e->samplers));
    for (uint32_t i = 0; e->samplers && i < e->opt.n_threads; i++)
        if (sampler_open(&e->samplers[i].sampler, e->info.n_vocab) != 0)
            return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for sampling");
    return e->samplers ? 0 : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for sampling");
}

void engine_samplers_close(struct engine *e)
{
    for (uint32_t i = 0; e->samplers && i < e->opt.n_threads; i++)
        sampler_close(e->samplers[i].sampler);
    free(e->samplers);
}

struct sample_run {
    struct engine *e;
    struct engine_sample *jobs;
};

/* At most n_threads items run at once, so one of as many samplers is always free. */
static struct engine_sampler *take_sampler(struct engine *e)
{
    for (uint32_t i = 0;; i = (i + 1) % e->opt.n_threads)
        if (!atomic_exchange_explicit(&e->samplers[i].busy, true, memory_order_acquire))
            return &e->samplers[i];
}

static void sample_item(void *ctx, uint32_t item)
{
    struct sample_run *run = ctx;
    struct engine_sampler *s = take_sampler(run->e);
    sampler_run(s->sampler, run->e->kern, &run->jobs[item]);
    atomic_store_explicit(&s->busy, false, memory_order_release);
}

void engine_sample(struct engine *e, struct engine_sample *jobs, uint32_t n_jobs)
{
    struct sample_run run = { e, jobs };
    profile_mark(&e->forward->profile);
    workers_run(e->workers, sample_item, &run, n_jobs);
    profile_end(&e->forward->profile, PROFILE_SAMPLING);
}

/* ---- statistics ---- */

static void update_planned(struct engine *e)
{
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        const uint64_t *n = e->forward->n_planned[site];
        atomic_store_explicit(&e->stats_products[site], n[PLAN_ALL] + n[PLAN_NONZERO],
                              memory_order_relaxed);
        atomic_store_explicit(&e->stats_skipping[site], n[PLAN_NONZERO], memory_order_relaxed);
    }
}

static void update_neurons(struct engine *e)
{
    struct neuron_count sum = { 0 };
    for (uint32_t i = 0; i < e->opt.n_threads; i++) {
        const struct neuron_count *count = &e->forward->neurons[i];
        sum.n_all += count->n_all;
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            sum.n[site] += count->n[site];
    }
    atomic_store_explicit(&e->stats_neurons, sum.n_all, memory_order_relaxed);
    atomic_store_explicit(&e->stats_neurons_up, sum.n[SPARSITY_UP], memory_order_relaxed);
    atomic_store_explicit(&e->stats_neurons_down, sum.n[SPARSITY_DOWN], memory_order_relaxed);
}

void engine_stats_update(struct engine *e)
{
    struct kv_group_stats least = { 0 }, s;
    for (uint32_t g = 0; g < e->shape.n_groups; g++) {
        kv_group_stats(e->kv, g, &s);
        /* the fuller one: s.free / s.pages < least.free / least.pages */
        if (g == 0 || (uint64_t)s.n_free * least.n_pages < (uint64_t)least.n_free * s.n_pages)
            least = s;
    }
    atomic_store_explicit(&e->stats_pages, least.n_pages, memory_order_relaxed);
    atomic_store_explicit(&e->stats_pages_free, least.n_free, memory_order_relaxed);
    atomic_store_explicit(&e->stats_pages_cached, least.n_cached, memory_order_relaxed);
    if (e->forward) {
        update_neurons(e);
        update_planned(e);
    }
    if (e->experts)
        experts_publish(e->experts);
}

void engine_stats(const struct engine *e, struct engine_stats *out)
{
    out->kv_pages = atomic_load_explicit(&e->stats_pages, memory_order_relaxed);
    out->kv_pages_free = atomic_load_explicit(&e->stats_pages_free, memory_order_relaxed);
    out->kv_pages_cached = atomic_load_explicit(&e->stats_pages_cached, memory_order_relaxed);
    out->heartbeat = atomic_load_explicit(&e->stats_heartbeat, memory_order_relaxed);
    out->n_neurons = atomic_load_explicit(&e->stats_neurons, memory_order_relaxed);
    out->n_neurons_up = atomic_load_explicit(&e->stats_neurons_up, memory_order_relaxed);
    out->n_neurons_down = atomic_load_explicit(&e->stats_neurons_down, memory_order_relaxed);
    const _Atomic uint64_t *products = e->stats_products, *skipping = e->stats_skipping;
    out->n_up_products = atomic_load_explicit(&products[SPARSITY_UP], memory_order_relaxed);
    out->n_up_skipping = atomic_load_explicit(&skipping[SPARSITY_UP], memory_order_relaxed);
    out->n_down_products = atomic_load_explicit(&products[SPARSITY_DOWN], memory_order_relaxed);
    out->n_down_skipping = atomic_load_explicit(&skipping[SPARSITY_DOWN], memory_order_relaxed);
}

void engine_expert_stats(const struct engine *e, struct engine_expert_stats *out)
{
    *out = (struct engine_expert_stats){ 0 };
    if (e->experts)
        experts_stats(e->experts, out, NULL);
}

bool engine_expert_layers(const struct engine *e, struct engine_expert_layer *out)
{
    struct engine_expert_stats all;
    if (e->experts)
        experts_stats(e->experts, &all, out);
    return e->experts != NULL;
}

void engine_trace_experts(struct engine *e, engine_expert_trace_fn *fn, void *ctx)
{
    if (e->experts)
        experts_trace(e->experts, fn, ctx);
}
