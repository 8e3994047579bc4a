/* SPDX-License-Identifier: Apache-2.0
 *
 * completions_events.c - the scheduler's events: what they mean for the metrics, the access line
 * and the choices; completions_answer.c makes the answer of it.
 *
 * Runs on the scheduler's thread and must not wait: it appends to buffers.
 */
#include "server/api/completions.h"
#include "server/live.h"
#include "server/log.h"

/* ---- times ---- */

/* n_new tokens of a choice came with this event; the time since the last one is shared among them.
 */
static void note_tokens(struct completion *c, struct completion_choice *ch, uint32_t n_new,
                        uint64_t now_ns)
{
    if (n_new == 0)
        return;
    if (c->first_token_ns == 0) {
        c->first_token_ns = now_ns;
        metrics_observe(c->srv->metrics, METRICS_TTFT, now_ns - c->x->arrived_ns, 1);
    }
    uint32_t n_gaps = ch->n_tokens > 0 ? n_new : n_new - 1;
    uint64_t since = ch->n_tokens > 0 ? now_ns - ch->last_token_ns : 0;
    if (n_gaps > 0)
        metrics_observe(c->srv->metrics, METRICS_ITL, since / n_gaps, n_gaps);
    c->n_gaps += n_gaps;
    ch->n_tokens += n_new;
    ch->last_token_ns = c->last_token_ns = now_ns;
}

/* Tokens that never showed (an end token, those of a cut stop string) count too: each choice that
 * generated has one gap less than tokens. */
static void settle_gaps(struct completion *c)
{
    uint32_t n_started = 0;
    for (uint32_t i = 0; i < c->n_choices; i++)
        n_started += c->choices[i].n_tokens > 0;
    uint32_t n_tokens = c->usage.completion_tokens;
    if (n_tokens <= n_started || n_tokens - n_started <= c->n_gaps)
        return;
    uint32_t missing = n_tokens - n_started - c->n_gaps;
    uint64_t span = c->last_token_ns - c->first_token_ns;
    metrics_observe(c->srv->metrics, METRICS_ITL, span / (n_tokens - n_started), missing);
}

static void observe_times(struct completion *c, uint64_t now_ns)
{
    struct metrics *m = c->srv->metrics;
    uint64_t decode_ns = c->last_token_ns - c->first_token_ns;
    metrics_observe(m, METRICS_E2E, now_ns - c->x->arrived_ns, 1);
    if (c->first_token_ns == 0)
        return;
    metrics_observe(m, METRICS_PREFILL, c->first_token_ns - c->admitted_ns, 1);
    metrics_observe(m, METRICS_DECODE, decode_ns, 1);
    metrics_observe(m, METRICS_INFERENCE, c->last_token_ns - c->admitted_ns, 1);
    uint32_t n_tokens = c->usage.completion_tokens;
    if (n_tokens > c->n_choices)
        metrics_observe(m, METRICS_TPOT, decode_ns * c->n_choices / (n_tokens - c->n_choices), 1);
}

static void observe_done(struct completion *c, uint64_t now_ns)
{
    struct metrics *m = c->srv->metrics;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        uint32_t n = c->choices[i].n_tokens;
        longest = n > longest ? n : longest;
        metrics_count_success(m, c->choices[i].finish);
    }
    if (c->n_choices == 1)
        longest = c->usage.completion_tokens;
    settle_gaps(c);
    observe_times(c, now_ns);
    metrics_observe(m, METRICS_PROMPT_TOKENS, c->usage.prompt_tokens, 1);
    metrics_observe(m, METRICS_GENERATION_TOKENS, c->usage.completion_tokens, 1);
    metrics_observe(m, METRICS_MAX_GENERATION_TOKENS, longest, 1);
    metrics_observe(m, METRICS_PARAMS_MAX_TOKENS, c->max_tokens, 1);
    metrics_observe(m, METRICS_PARAMS_N, c->req.n, 1);
}

static enum metrics_phase phase_of(const struct completion *c)
{
    if (c->first_token_ns)
        return METRICS_IN_DECODE;
    return c->admitted_ns ? METRICS_IN_PREFILL : METRICS_QUEUED;
}

/* What the access line would say if the request ended now. */
static void update_log(struct completion *c, const char *finish)
{
    uint64_t decode_ns = c->last_token_ns - c->first_token_ns;
    pthread_mutex_lock(&c->lock);
    c->log.finish = finish;
    c->log.cancel_phase = metrics_phase_name(phase_of(c));
    if (c->usage.prompt_tokens)
        c->log.prompt_tokens = c->usage.prompt_tokens;
    c->log.cached_tokens = c->usage.cached_tokens;
    c->log.completion_tokens = c->usage.completion_tokens;
    c->log.queue_ns = c->admitted_ns ? c->admitted_ns - c->x->arrived_ns : 0;
    c->log.ttft_ns = c->first_token_ns ? c->first_token_ns - c->x->arrived_ns : 0;
    c->log.itl_ns = c->n_gaps ? decode_ns * c->n_choices / c->n_gaps : 0;
    pthread_mutex_unlock(&c->lock);
}

/* ---- what a choice has become ---- */

static void gather_ids(struct completion_choice *ch, const int32_t *ids, uint32_t n)
{
    if (n > 0 && ch->token_ids.len > 0)
        buf_char(&ch->token_ids, ',');
    api_render_ids(&ch->token_ids, ids, n);
}

/* Of a chat's tokens those that gave text: their bytes joined are the content.  The one that ended
 * the choice gave none, unless it is to be shown. */
static void gather_chat_logprobs(struct completion *c, struct completion_choice *ch,
                                 const struct sched_event *ev)
{
    const struct engine *e = c->srv->engine;
    for (uint32_t i = 0; i < ev->n_tokens; i++) {
        int32_t token = ev->tokens[i];
        bool ends = ev->finish == SCHED_FINISH_STOP && !ev->stop_string && i + 1 == ev->n_tokens;
        if (ends && !c->req.include_stop)
            continue;
        if (!(c->req.skip_special && engine_token_is_control(e, token)))
            api_chat_logprobs_add(&ch->logprobs, e, c->req.tokens_as_ids, &ev->logprobs[i]);
    }
}

static void gather_logprobs(struct completion *c, struct completion_choice *ch,
                            const struct sched_event *ev)
{
    if (c->req.n_logprobs < 0)
        return;
    if (c->req.is_chat)
        gather_chat_logprobs(c, ch, ev);
    else
        api_logprobs_add(&ch->logprobs, c->srv->engine, c->req.tokens_as_ids, ev->logprobs,
                         ev->n_tokens);
}

static void gather(struct completion *c, struct completion_choice *ch, const struct sched_event *ev,
                   uint32_t n_echo)
{
    buf_add(&ch->text, ev->text.data, ev->text.len);
    if (c->req.return_token_ids)
        gather_ids(ch, ev->tokens + n_echo, ev->n_tokens - n_echo);
    gather_logprobs(c, ch, ev);
    if (ev->kind != SCHED_EVENT_FINISHED)
        return;
    ch->finish = ev->finish;
    ch->stop_token = ev->stop_token;
    ch->has_stop_string = ev->stop_string != NULL;
    buf_add(&ch->stop_string, ev->stop_string, ev->stop_string_len);
}

/* ---- events ---- */

static void on_admitted(struct completion *c, uint64_t now_ns)
{
    c->admitted_ns = now_ns;
    metrics_observe(c->srv->metrics, METRICS_QUEUE, now_ns - c->x->arrived_ns, 1);
    update_log(c, NULL);
}

/* What waits for a reader that is behind is bounded: beyond this it counts as unread like the rest,
 * and a reader that never catches up loses its stream. */
enum { MAX_HELD_BYTES = 4096 };

static size_t held_bytes(const struct completion_choice *ch)
{
    return ch->text.len + ch->token_ids.len + ch->logprobs.tokens.len +
           ch->logprobs.top_logprobs.len;
}

/* The first and the last chunk of a choice go out at once; between them a chunk waits for as many
 * tokens as were asked for, and while the reader is behind. */
static bool is_due(const struct completion *c, const struct completion_choice *ch)
{
    if (ch->finish != SCHED_FINISH_NONE)
        return true;
    if (!completion_has_news(c, ch))
        return false;
    if (!ch->is_begun)
        return true;
    if (ch->n_tokens - ch->n_tokens_sent < c->req.stream_interval)
        return false;
    return held_bytes(ch) > MAX_HELD_BYTES || !http_stream_is_behind(c->x);
}

/* The first DELTA of a choice tells of its first token even if its text is still held back; the
 * token itself then comes with a later event, where it must not count again. */
static uint32_t count_new(const struct completion *c, struct completion_choice *ch,
                          uint32_t n_generated)
{
    if (ch->n_tokens == 0 && n_generated == 0 && c->max_tokens > 0) {
        ch->is_ahead = true;
        return 1;
    }
    bool was_ahead = ch->is_ahead && n_generated > 0;
    ch->is_ahead = ch->is_ahead && !was_ahead;
    return n_generated - was_ahead;
}

static void on_text(struct completion *c, const struct sched_event *ev, uint64_t now_ns)
{
    struct completion_choice *ch = &c->choices[ev->choice];
    uint32_t n_echo = ev->n_tokens < ch->n_echo_left ? ev->n_tokens : ch->n_echo_left;
    ch->n_echo_left -= n_echo;
    note_tokens(c, ch, count_new(c, ch, ev->n_tokens - n_echo), now_ns);
    gather(c, ch, ev, n_echo);
    update_log(c, api_finish_name(ch->finish));
    if (ev->kind == SCHED_EVENT_FINISHED)
        c->finished_ns = now_ns;
    if (c->req.stream && is_due(c, ch))
        completion_send_choice(c, ev->choice);
}

static void on_done(struct completion *c, uint64_t now_ns)
{
    observe_done(c, now_ns);
    if (!c->req.stream) {
        http_finish(c->x);
        return;
    }
    if (c->req.include_usage)
        completion_send_usage(c);
    http_stream_end(c->x);
}

static void end_with_error(struct completion *c, const struct api_error *e)
{
    update_log(c, api_error_code(e->kind));
    if (!c->req.stream) {
        http_reply_error(c->x, e);
        return;
    }
    metrics_count_rejected(c->srv->metrics, e->kind); /* others are counted by their status */
    completion_send_error(c, e);
    http_stream_end(c->x);
}

static void on_failed(struct completion *c, const struct sched_event *ev)
{
    struct api_error e = { 0 };
    api_error_from_engine(&e, &ev->err);
    if (e.kind == API_QUEUE_TIMEOUT)
        e.retry_after_s = sched_retry_after(c->srv->sched);
    if (e.kind == API_INTERNAL || e.kind == API_STORAGE)
        log_event(LOG_ERROR_LEVEL, "request_failed", LOG_STR("request_id", c->x->id),
                  LOG_STR("error", ev->err.text), LOG_END);
    end_with_error(c, &e);
}

static void on_cancelled(struct completion *c, enum sched_cancel_cause cause)
{
    struct api_error e = { 0 };
    metrics_count_cancelled(c->srv->metrics, phase_of(c), cause);
    if (cause == SCHED_CANCEL_DEADLINE)
        api_fail(&e, API_REQUEST_TIMEOUT, NULL, "The request took longer than %u s",
                 c->x->live->request_timeout_s);
    else if (cause == SCHED_CANCEL_SHUTDOWN)
        api_fail(&e, API_SHUTTING_DOWN, NULL, "The server is shutting down");
    else
        api_fail(&e, API_INTERNAL, NULL, "The request was cancelled"); /* nobody reads it */
    end_with_error(c, &e);
}

/* Nothing follows: gives the request back, and the exchange. */
static void leave(struct completion *c)
{
    pthread_mutex_lock(&c->lock);
    c->is_over = true;
    struct sched_request *job = c->job;
    c->job = NULL;
    pthread_mutex_unlock(&c->lock);
    if (job)
        sched_release(job);
    http_unref(c->x);
}

void api_on_event(const struct sched_event *ev)
{
    struct completion *c = ev->ctx;
    uint64_t now_ns = srv_now_ns();
    c->usage = ev->usage;
    switch (ev->kind) {
    case SCHED_EVENT_ADMITTED:
        on_admitted(c, now_ns);
        return;
    case SCHED_EVENT_PROGRESS:
        completion_send_progress(c, &ev->progress);
        return;
    case SCHED_EVENT_DELTA:
    case SCHED_EVENT_FINISHED:
        on_text(c, ev, now_ns);
        return;
    case SCHED_EVENT_DONE:
        on_done(c, now_ns);
        break;
    case SCHED_EVENT_FAILED:
        on_failed(c, ev);
        break;
    case SCHED_EVENT_CANCELLED:
        on_cancelled(c, ev->cause);
        break;
    }
    leave(c);
}
