/* SPDX-License-Identifier: Apache-2.0
 *
 * scheduler.c - the loop: sweep, admit, pick a batch, step, sample, deliver.
 *
 * Of the choices of one prompt the first computes it.  The others follow once it has: they are forked
 * from it and sample their first tokens from the same logits.
 *
 * Within a step choices only change themselves.  Requests end in `retire` alone, at the top of the
 * loop, so that nothing is freed while the step's arrays point to it.
 *
 * Threads: the queue is shared; everything else here belongs to the one thread that runs
 * sched_loop.
 */
#include <assert.h>
#include <stdlib.h>

#include "scheduler/internal.h"

enum { DEFAULT_MAX_SEQS = 256, DEFAULT_MAX_QUEUE = 64, DEFAULT_QUEUE_CONTEXTS = 4 };
static const uint64_t DEFAULT_QUEUE_WAIT_NS = 60ull * 1000 * 1000 * 1000;

/* ---- retire ---- */

static void close_choice(struct sched *s, struct choice *c)
{
    choice_close(c);
    s->blocked = false;
}

/* Its last event.  Nothing may point to the request or its choices any more. */
static void end_request(struct sched *s, struct sched_request *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++)
        close_choice(s, &r->choices[i]);
    request_set_state(r, REQUEST_OVER);
    deliver_end(s->on_event, r, r->fate);
    request_put(r);
}

static void sweep_queue(struct sched *s, uint64_t now)
{
    struct sched_request *r = queue_sweep(&s->queue, now);
    while (r) {
        struct sched_request *next = r->next;
        r->fate = r->failed ? SCHED_EVENT_FAILED : SCHED_EVENT_CANCELLED;
        end_request(s, r);
        r = next;
    }
}

static enum sched_event_kind fate_of(struct sched_request *r, uint64_t now)
{
    if (r->failed)
        return SCHED_EVENT_FAILED;
    if (r->n_over == r->n_choices)
        return SCHED_EVENT_DONE;
    return request_cancelled(r, now) ? SCHED_EVENT_CANCELLED : FATE_OPEN;
}

/* Asked once per pass: a cancel that comes in between must not split a request in two. */
static void decide_fates(struct sched *s, uint64_t now, bool closing)
{
    for (struct sched_request *r = s->requests; r; r = r->next) {
        if (closing)
            sched_cancel(r, SCHED_CANCEL_SHUTDOWN);
        r->fate = fate_of(r, now);
    }
}

static uint32_t compact(struct choice **choices, uint32_t n, enum choice_state state)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (choices[i]->req->fate == FATE_OPEN && choices[i]->state == state)
            choices[n_kept++] = choices[i];
    return n_kept;
}

static void end_running(struct sched *s)
{
    struct sched_request **link = &s->requests;
    while (*link) {
        struct sched_request *r = *link;
        if (r->fate == FATE_OPEN) {
            link = &r->next;
            continue;
        }
        *link = r->next;
        s->stats.live.running_now--;
        end_request(s, r);
    }
}

static void retire(struct sched *s)
{
    uint64_t now = clock_now_ns();
    bool closing = queue_is_closing(&s->queue);
    sweep_queue(s, now);
    decide_fates(s, now, closing);
    s->n_running = compact(s->running, s->n_running, CHOICE_RUNNING);
    s->n_paused = compact(s->paused, s->n_paused, CHOICE_PAUSED);
    end_running(s);
}

/* ---- step ---- */

static uint32_t count_decoding(const struct sched *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        n += s->items[i].n_prefill == 0;
    return n;
}

/* Only where nobody's prompt wants the rows, and few decode. */
static void draft(struct sched *s)
{
    if (!s->speculates || count_decoding(s) < s->n_running || s->n_running > SPECULATE_MAX_CHOICES)
        return;
    for (uint32_t i = 0; i < s->n_running; i++)
        choice_draft(s->running[i], &s->drafts[i]);
    uint32_t most = min_u32(s->limits.max_rows, s->limits.max_logit_rows);
    uint32_t room = most > s->n_running ? most - s->n_running : 0;
    speculate_pick(s->drafts, s->n_running, room, &s->budget, &s->n_refused);
    for (uint32_t i = 0; i < s->n_running; i++)
        s->items[i].n_drafts = s->drafts[i].n_rows;
}

static uint32_t pick_rows(struct sched *s, struct step_facts *facts)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        choice_describe(s->running[i], s->step, &s->items[i]);
    draft(s);
    s->limits.max_prompt_rows = budget_rows(&s->budget, count_decoding(s), s->limits.max_rows);
    batch_pick(s->items, s->n_running, &s->limits);
    admit_make_room(s);

    struct engine_row *row = s->rows;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct batch_item *item = &s->items[i];
        if (item->n_rows == 0)
            continue;
        choice_rows(s->running[i], item->n_rows, row);
        row += item->n_rows;
        facts->n_seqs++;
    }
    return (uint32_t)(row - s->rows);
}

static void fail_choice(const struct sched *s, struct choice *c)
{
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    engine_row_error(s->engine, &err);
    request_fail(c->req, &err);
}

/* The other choices of its prompt go on from here, as far as there are seats; their first tokens come
 * from the same logits.  Returns how many jobs were added. */
static uint32_t fork_followers(struct sched *s, struct choice *leader, const struct engine_row *row,
                               uint32_t n_jobs)
{
    struct sched_request *r = leader->req;
    uint32_t n = choice_is_leader(leader) ? r->opt.n : 0;
    for (uint32_t k = 1; k < n && s->n_running < s->max_seqs; k++) {
        struct choice *c = leader + k;
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        if (c->state != CHOICE_WAITING || !choice_follows(c))
            continue;
        if (choice_fork(c, leader, &err)) {
            request_fail(r, &err);
            break;
        }
        s->items[s->n_running] = (struct batch_item){ .n_rows = 0 };
        admit_started(s, c);
        choice_job(c, row, &s->jobs[n_jobs]);
        s->job_choices[n_jobs++] = c;
    }
    return n_jobs;
}

/* A row that belongs to the choice. */
static void count_row(struct choice *c, struct step_facts *facts)
{
    c->n_computed++;
    if (c->n_computed == choice_n_prompt(c) && choice_n_output(c) == 0 && choice_is_leader(c))
        facts->n_prompt_tokens += choice_n_prompt(c);
}

/* Rows in their order, up to the first that was not computed: a deferred one comes again in a later
 * step, with all behind it.  A guess that gives no numbers was a bad one, no more.  Returns how many
 * jobs were added. */
static uint32_t take_rows(struct sched *s, struct choice *c, const struct engine_row *rows,
                          const struct batch_item *item, uint32_t n_jobs, struct step_facts *facts)
{
    uint32_t i = 0, n_drafts = 0;
    for (; i < item->n_rows && rows[i].status == ENGINE_ROW_DONE; i++) {
        if (rows[i].is_draft)
            n_drafts++;
        else
            count_row(c, facts);
        c->req->usage.replaced_experts += rows[i].n_replaced;
        if (rows[i].pos >= choice_n_prompt(c)) {
            c->req->usage.decoded_rows++;
            c->req->usage.up_neurons += rows[i].n_up;
            c->req->usage.down_neurons += rows[i].n_down;
            c->req->usage.pages_seen += rows[i].n_pages_seen;
            c->req->usage.pages_read += rows[i].n_pages_read;
        }
        if (!choice_job(c, &rows[i], &s->jobs[n_jobs]))
            continue;
        s->job_choices[n_jobs++] = c;
        if (rows[i].pos + 1 == choice_n_prompt(c))
            n_jobs = fork_followers(s, c, &rows[i], n_jobs);
    }
    if (i < item->n_rows && rows[i].status == ENGINE_ROW_FAILED && !rows[i].is_draft)
        fail_choice(s, c);
    choice_set_drafts(c, n_drafts);
    c->req->usage.drafted_tokens += n_drafts;
    facts->n_drafted += n_drafts;
    c->last_step = s->step;
    facts->n_rows += i;
    facts->n_prompt_rows += item->n_prefill > 0 ? i : 0;
    return n_jobs;
}

static uint32_t take_step(struct sched *s, struct step_facts *facts)
{
    const struct engine_row *rows = s->rows;
    uint32_t n_jobs = 0, n_before = s->n_running; /* forks are added behind them */
    for (uint32_t i = 0; i < n_before; i++) {
        const struct batch_item *item = &s->items[i];
        if (item->n_rows > 0)
            n_jobs = take_rows(s, s->running[i], rows, item, n_jobs, facts);
        rows += item->n_rows;
    }
    return n_jobs;
}

static void finish_choice(struct sched *s, struct choice *c)
{
    deliver_finished(s->on_event, c);
    close_choice(s, c);
}

static void note_first_token(struct sched_request *r)
{
    if (r->first_token_ns == 0)
        r->first_token_ns = clock_now_ns();
}

static void take_job(struct choice *c, const struct engine_sample *job, struct step_facts *facts)
{
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    uint32_t n_accepted = c->req->usage.accepted_tokens;
    if (c->req->failed || !choice_awaits(c, job))
        return;
    if (choice_accept(c, job, &err)) {
        request_fail(c->req, &err);
        return;
    }
    facts->n_accepted += c->req->usage.accepted_tokens - n_accepted;
    if (job->forced >= 0)
        return;
    facts->n_generated++;
    note_first_token(c->req);
}

/* What the step gave the choice, in one piece. */
static void tell(struct sched *s, struct choice *c)
{
    if (c->req->failed || choice_n_output(c) == 0)
        return;
    if (c->finish != SCHED_FINISH_NONE)
        finish_choice(s, c);
    else
        deliver_delta(s->on_event, c);
}

/* The jobs of a choice are adjacent. */
static void take_jobs(struct sched *s, uint32_t n_jobs, struct step_facts *facts)
{
    for (uint32_t i = 0; i < n_jobs; i++) {
        struct choice *c = s->job_choices[i];
        take_job(c, &s->jobs[i], facts);
        if (i + 1 == n_jobs || s->job_choices[i + 1] != c)
            tell(s, c);
    }
}

/* Choices that wanted nothing but their prompt computed. */
static void finish_prefilled(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct choice *c = s->running[i];
        if (c->state != CHOICE_RUNNING || c->req->failed || !choice_is_prefilled(c))
            continue;
        note_first_token(c->req);
        choice_finish_prefilled(c);
        finish_choice(s, c);
    }
}

static void step(struct sched *s)
{
    struct step_facts facts = { .n_seqs = 0 };
    uint64_t start = clock_now_ns();
    s->step++;
    uint32_t n_rows = pick_rows(s, &facts);
    if (n_rows == 0) /* whoever was to have them was paused */
        return;
    engine_step(s->engine, s->rows, n_rows);
    uint32_t n_jobs = take_step(s, &facts);
    if (n_jobs > 0)
        engine_sample(s->engine, s->jobs, n_jobs);
    facts.ns = clock_now_ns() - start;

    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->items[i].n_rows > 0 && !s->running[i]->req->failed)
            deliver_progress(s->on_event, s->running[i]);
    take_jobs(s, n_jobs, &facts);
    finish_prefilled(s);
    stats_add_step(&s->stats, &facts);
    budget_note(&s->budget, facts.n_rows - facts.n_prompt_rows, facts.n_prompt_rows, facts.ns);
}

/* ---- the thread ---- */

static void publish(struct sched *s)
{
    stats_publish(&s->stats);
    slots_publish(&s->slots, s->running, s->n_running);
}

static void publish_idle(struct sched *s)
{
    s->stats.live.batch_size_now = 0;
    publish(s);
}

/* False once the queue is closing. */
static bool wait_for_work(struct sched *s)
{
    if (s->requests)
        return !queue_is_closing(&s->queue);
    publish_idle(s);
    engine_idle(s->engine);
    return queue_wait(&s->queue);
}

static void *sched_loop(void *arg)
{
    struct sched *s = arg;
    pthread_setname_np(pthread_self(), "lacuna-sched");
    engine_pin_self(s->engine);
    while (wait_for_work(s)) {
        retire(s);
        while (admit_next(s)) {
        }
        if (s->n_running > 0)
            step(s);
        publish(s);
    }
    retire(s);
    publish_idle(s);
    return NULL;
}

/* ---- open, close ---- */

static int list_ends(struct sched *s)
{
    uint32_t n_vocab = engine_info(s->engine)->n_vocab;
    for (uint32_t i = 0; i < n_vocab; i++)
        s->n_ends += engine_token_is_end(s->engine, (int32_t)i);
    s->ends = calloc((size_t)s->n_ends + 1, sizeof(*s->ends));
    if (!s->ends)
        return -1;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (engine_token_is_end(s->engine, (int32_t)i))
            s->ends[n++] = (int32_t)i;
    return 0;
}

/* The longest sequence that fits into an empty cache.  Asked here, because the engine may be asked
 * only by the thread that steps it, and a request is refused on its own thread. */
static uint32_t find_max_positions(const struct engine *e)
{
    uint32_t fits = 0, beyond = engine_info(e)->n_ctx + 1;
    while (beyond - fits > 1) {
        uint32_t mid = fits + (beyond - fits) / 2;
        if (engine_fits(e, mid))
            fits = mid;
        else
            beyond = mid;
    }
    return fits;
}

/* Everything a step needs. */
static int take_memory(struct sched *s)
{
    size_t n_jobs = (size_t)s->limits.max_logit_rows + s->max_seqs;
    s->paused_cap = s->max_seqs;
    s->running = calloc(s->max_seqs, sizeof(struct choice *));
    s->paused = calloc(s->paused_cap, sizeof(struct choice *));
    s->items = calloc(s->max_seqs, sizeof(*s->items));
    s->drafts = calloc(s->max_seqs, sizeof(*s->drafts));
    s->victims = calloc(s->max_seqs, sizeof(*s->victims));
    s->rows = calloc(s->limits.max_rows, sizeof(*s->rows));
    s->jobs = calloc(n_jobs, sizeof(*s->jobs));
    s->job_choices = calloc(n_jobs, sizeof(struct choice *));
    s->known = calloc(engine_info(s->engine)->n_ctx, sizeof(*s->known));
    bool has_all = s->running && s->paused && s->items && s->drafts && s->victims && s->rows &&
                   s->jobs && s->job_choices && s->known;
    return has_all && slots_init(&s->slots, s->max_seqs) == 0 ? list_ends(s) : -1;
}

static struct queue_limits queue_limits_of(const struct sched_options *opt, uint32_t n_ctx)
{
    return (struct queue_limits){
        .max_requests = opt->max_queue ? opt->max_queue : DEFAULT_MAX_QUEUE,
        .max_tokens = opt->max_queue_tokens ? opt->max_queue_tokens
                                            : (uint64_t)n_ctx * DEFAULT_QUEUE_CONTEXTS,
        .max_wait_ns = opt->max_queue_wait_ns ? opt->max_queue_wait_ns : DEFAULT_QUEUE_WAIT_NS,
    };
}

/* Also takes apart what sched_open left half done; the thread is not running. */
static void destroy(struct sched *s)
{
    if (s->has_queue)
        queue_fini(&s->queue);
    free(s->running);
    free(s->paused);
    free(s->known);
    free(s->victims);
    free(s->drafts);
    free(s->items);
    free(s->rows);
    free(s->jobs);
    free(s->job_choices);
    slots_fini(&s->slots);
    free(s->ends);
    free(s);
}

int sched_open(struct sched **out, struct engine *e, const struct sched_options *opt,
               struct engine_err *err)
{
    const struct engine_info *info = engine_info(e);
    struct queue_limits limits = queue_limits_of(opt, info->n_ctx);
    *out = NULL;
    struct sched *s = calloc(1, sizeof(*s));
    if (!s)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the scheduler");
    s->engine = e;
    s->on_event = opt->on_event;
    s->max_seqs = opt->max_seqs ? opt->max_seqs : DEFAULT_MAX_SEQS;
    s->max_positions = find_max_positions(e);
    s->limits = (struct batch_limits){ info->max_rows, info->max_logit_rows, 0 };
    s->budget.itl_target_ns = opt->itl_target_ns;
    s->speculates = opt->speculate;
    assert(s->on_event && s->limits.max_rows > 0 && s->limits.max_logit_rows > 0);
    if (take_memory(s)) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a scheduler of %u sequences",
                    s->max_seqs);
        goto fail;
    }
    s->has_queue = queue_init(&s->queue, &limits) == 0;
    if (!s->has_queue || pthread_create(&s->thread, NULL, sched_loop, s)) {
        engine_fail(err, ENGINE_ERR_INTERNAL, "the scheduler's thread cannot start");
        goto fail;
    }
    *out = s;
    return 0;
fail:
    destroy(s);
    return -1;
}

void sched_close(struct sched *s)
{
    if (!s)
        return;
    queue_close(&s->queue);
    pthread_join(s->thread, NULL);
    destroy(s);
}

/* ---- any thread ---- */

void sched_set_queue_limits(struct sched *s, const struct sched_options *opt)
{
    struct queue_limits limits = queue_limits_of(opt, engine_info(s->engine)->n_ctx);
    queue_set_limits(&s->queue, &limits);
}

enum sched_refusal sched_reserve(struct sched *s, uint64_t n_tokens)
{
    return queue_reserve(&s->queue, n_tokens);
}

void sched_unreserve(struct sched *s, uint64_t n_tokens)
{
    queue_unreserve(&s->queue, n_tokens);
}

/* *out is set before the push: the first event may come before this returns. */
enum sched_refusal sched_submit(struct sched *s, const struct sched_options_request *req,
                                uint64_t n_reserved, struct sched_request **out,
                                struct engine_err *err)
{
    struct request_limits limits = { s->engine, s->ends, s->n_ends, s->max_positions };
    enum sched_refusal refusal = request_new(out, req, &limits, err);
    if (refusal != SCHED_REFUSED_NONE) {
        queue_unreserve(&s->queue, n_reserved);
        return refusal;
    }
    struct sched_request *r = *out;
    r->number = atomic_fetch_add(&s->n_submitted, 1) + 1;
    refusal = queue_push(&s->queue, r, n_reserved, err);
    if (refusal != SCHED_REFUSED_NONE) {
        request_put(r);
        request_put(r);
        *out = NULL;
    }
    return refusal;
}
