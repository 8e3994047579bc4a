/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - requests that wait for their first choice to be admitted; fair.c says who is next.
 *
 * Two limits, requests and prompt tokens, count what waits and what is reserved.  A reservation is
 * made before a prompt is tokenized, so that an overloaded server does not even begin that work.
 * The token limit never refuses the only one: a single prompt larger than it must have its turn.
 *
 * Threads: anyone reserves and pushes; the scheduler's thread alone takes out, so what it chose as
 * next stays there.  The lock is held for a few instructions, or one walk over the queue.
 */
#include <assert.h>

#include "scheduler/internal.h"

int queue_init(struct queue *q, const struct queue_limits *limits)
{
    *q = (struct queue){ .limits = *limits };
    if (pthread_mutex_init(&q->lock, NULL))
        return -1;
    if (pthread_cond_init(&q->wake, NULL)) {
        pthread_mutex_destroy(&q->lock);
        return -1;
    }
    return 0;
}

void queue_fini(struct queue *q)
{
    assert(!q->head);
    fair_fini(&q->fair);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->lock);
}

void queue_set_limits(struct queue *q, const struct queue_limits *limits)
{
    pthread_mutex_lock(&q->lock);
    q->limits = *limits;
    pthread_mutex_unlock(&q->lock);
}

/* ---- limits: under the lock ---- */

static bool is_backlog_full(const struct queue *q, uint64_t n_tokens)
{
    uint64_t n_others = q->n_tokens + q->n_reserved_tokens;
    if (n_others == 0)
        return false;
    return n_others >= q->limits.max_tokens || n_tokens > q->limits.max_tokens - n_others;
}

static enum sched_refusal check_reserve(const struct queue *q, uint64_t n_tokens)
{
    if (q->closing)
        return SCHED_REFUSED_CLOSING;
    if (q->n_requests + q->n_reserved >= q->limits.max_requests)
        return SCHED_REFUSED_QUEUE_FULL;
    return is_backlog_full(q, n_tokens) ? SCHED_REFUSED_TOKEN_BACKLOG : SCHED_REFUSED_NONE;
}

static void give_back(struct queue *q, uint64_t n_tokens)
{
    assert(q->n_reserved > 0 && q->n_reserved_tokens >= n_tokens);
    q->n_reserved--;
    q->n_reserved_tokens -= n_tokens;
}

enum sched_refusal queue_reserve(struct queue *q, uint64_t n_tokens)
{
    pthread_mutex_lock(&q->lock);
    enum sched_refusal refusal = check_reserve(q, n_tokens);
    if (refusal == SCHED_REFUSED_NONE) {
        q->n_reserved++;
        q->n_reserved_tokens += n_tokens;
    }
    pthread_mutex_unlock(&q->lock);
    return refusal;
}

void queue_unreserve(struct queue *q, uint64_t n_tokens)
{
    pthread_mutex_lock(&q->lock);
    give_back(q, n_tokens);
    pthread_mutex_unlock(&q->lock);
}

/* ---- in and out: under the lock ---- */

static void count_in(struct queue *q, const struct sched_request *r)
{
    q->n_requests++;
    q->n_tokens += r->n_prompt_tokens;
    q->n_work_prompt += r->n_work_prompt;
    q->n_work_output += r->n_work_output;
}

static void count_out(struct queue *q, const struct sched_request *r)
{
    q->n_requests--;
    q->n_tokens -= r->n_prompt_tokens;
    q->n_work_prompt -= r->n_work_prompt;
    q->n_work_output -= r->n_work_output;
}

static void append(struct queue *q, struct sched_request *r)
{
    r->next = NULL;
    if (q->tail)
        q->tail->next = r;
    else
        q->head = r;
    q->tail = r;
    count_in(q, r);
}

/* Takes out the one after prev (NULL: the head). */
static struct sched_request *take_after(struct queue *q, struct sched_request *prev)
{
    struct sched_request *r = prev ? prev->next : q->head;
    if (prev)
        prev->next = r->next;
    else
        q->head = r->next;
    if (q->tail == r)
        q->tail = prev;
    if (q->chosen == r)
        q->chosen = NULL;
    r->next = NULL;
    count_out(q, r);
    return r;
}

/* ---- any thread ---- */

static enum sched_refusal check_push(const struct queue *q, const struct sched_request *r,
                                     uint64_t n_reserved)
{
    if (q->closing)
        return SCHED_REFUSED_CLOSING;
    /* What was promised is kept; only a prompt that grew beyond it is looked at again. */
    if (r->n_prompt_tokens > n_reserved && is_backlog_full(q, r->n_prompt_tokens))
        return SCHED_REFUSED_TOKEN_BACKLOG;
    return SCHED_REFUSED_NONE;
}

static void explain(enum sched_refusal refusal, const struct queue *q,
                    const struct sched_request *r, struct engine_err *err)
{
    if (refusal == SCHED_REFUSED_CLOSING)
        engine_fail(err, ENGINE_ERR_CANCELLED, "the scheduler is closing");
    else
        engine_fail(err, ENGINE_ERR_CAPACITY,
                    "%llu prompt tokens beside %llu that wait are over the limit of %llu",
                    (unsigned long long)r->n_prompt_tokens,
                    (unsigned long long)(q->n_tokens + q->n_reserved_tokens),
                    (unsigned long long)q->limits.max_tokens);
}

enum sched_refusal queue_push(struct queue *q, struct sched_request *r, uint64_t n_reserved,
                              struct engine_err *err)
{
    pthread_mutex_lock(&q->lock);
    give_back(q, n_reserved);
    enum sched_refusal refusal = check_push(q, r, n_reserved);
    if (refusal == SCHED_REFUSED_NONE) {
        append(q, r);
        pthread_cond_signal(&q->wake);
    } else {
        explain(refusal, q, r, err);
    }
    pthread_mutex_unlock(&q->lock);
    return refusal;
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closing = true;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

bool queue_is_closing(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool closing = q->closing;
    pthread_mutex_unlock(&q->lock);
    return closing;
}

/* ---- the scheduler's thread ---- */

static bool waited_too_long(const struct queue *q, struct sched_request *r, uint64_t now)
{
    uint64_t waited = now > r->submitted_ns ? now - r->submitted_ns : 0;
    if (waited < q->limits.max_wait_ns)
        return false;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    engine_fail(&err, ENGINE_ERR_CAPACITY,
                "queue_timeout: waited %.1f s in the queue, the limit is %.1f s",
                (double)waited / 1e9, (double)q->limits.max_wait_ns / 1e9);
    request_fail(r, &err);
    return true;
}

static bool must_leave(const struct queue *q, struct sched_request *r, uint64_t now)
{
    if (q->closing)
        sched_cancel(r, SCHED_CANCEL_SHUTDOWN);
    return r->failed || request_cancelled(r, now) || waited_too_long(q, r, now);
}

struct sched_request *queue_sweep(struct queue *q, uint64_t now)
{
    struct sched_request *out = NULL, **out_tail = &out, *prev = NULL;
    pthread_mutex_lock(&q->lock);
    for (struct sched_request *r = q->head; r; r = prev ? prev->next : q->head) {
        if (!must_leave(q, r, now)) {
            prev = r;
            continue;
        }
        *out_tail = take_after(q, prev);
        out_tail = &r->next;
    }
    pthread_mutex_unlock(&q->lock);
    return out;
}

/* Something more important than the one that was chosen. */
static bool is_overtaken(const struct queue *q)
{
    for (const struct sched_request *r = q->head; q->chosen && r; r = r->next)
        if (r->opt.priority < q->chosen->opt.priority)
            return true;
    return false;
}

struct sched_request *queue_next(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    if (is_overtaken(q)) {
        fair_return(&q->fair, q->chosen);
        q->chosen = NULL;
    }
    if (!q->chosen)
        q->chosen = fair_pick(&q->fair, q->head);
    struct sched_request *r = q->chosen;
    pthread_mutex_unlock(&q->lock);
    return r;
}

void queue_pop(struct queue *q, struct sched_request *r)
{
    pthread_mutex_lock(&q->lock);
    struct sched_request *prev = NULL;
    for (struct sched_request *at = q->head; at != r; at = at->next)
        prev = at;
    take_after(q, prev);
    pthread_mutex_unlock(&q->lock);
}

bool queue_wait(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (!q->head && !q->closing)
        pthread_cond_wait(&q->wake, &q->lock);
    bool open = !q->closing;
    pthread_mutex_unlock(&q->lock);
    return open;
}
