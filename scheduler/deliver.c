/* SPDX-License-Identifier: Apache-2.0
 *
 * deliver.c - events to the caller, made from what a choice or a request has become.
 *
 * Order for a request: ADMITTED; PROGRESS if wanted, DELTAs and one FINISHED of each choice, choices
 * interleaved; then one of DONE, FAILED, CANCELLED, which may also be the first and only event.
 * Scheduler thread only.
 */
#include "scheduler/internal.h"

static struct sched_event event_of(enum sched_event_kind kind, const struct sched_request *r)
{
    return (struct sched_event){
        .kind = kind,
        .ctx = r->opt.ctx,
        .stop_token = -1,
        .usage = r->usage,
    };
}

static void set_delta(struct sched_event *ev, const struct choice *c,
                      const struct transcript_delta *delta)
{
    ev->choice = c->index;
    ev->text = delta->text;
    ev->tokens = delta->tokens;
    ev->n_tokens = delta->n_tokens;
    ev->logprobs = delta->logprobs;
}

void deliver_admitted(sched_event_fn *on_event, const struct sched_request *r)
{
    struct sched_event ev = event_of(SCHED_EVENT_ADMITTED, r);
    on_event(&ev);
}

void deliver_progress(sched_event_fn *on_event, struct choice *c)
{
    uint32_t n_prompt = choice_n_prompt(c);
    uint32_t n_done = c->n_computed < n_prompt ? c->n_computed : n_prompt;
    if (!c->req->opt.progress || c->started || n_done + 1 <= c->n_progress_sent)
        return;
    c->n_progress_sent = n_done + 1;
    struct sched_event ev = event_of(SCHED_EVENT_PROGRESS, c->req);
    ev.choice = c->index;
    ev.progress = (struct sched_progress){ .n_total = n_prompt,
                                           .n_cached = c->n_cached,
                                           .n_done = n_done,
                                           .ns = clock_now_ns() - c->admitted_ns };
    on_event(&ev);
}

void deliver_delta(sched_event_fn *on_event, struct choice *c)
{
    struct transcript_delta delta = transcript_peek(&c->transcript, false);
    if (c->started && delta.text.len == 0 && delta.n_tokens == 0)
        return;
    c->started = true;
    struct sched_event ev = event_of(SCHED_EVENT_DELTA, c->req);
    set_delta(&ev, c, &delta);
    on_event(&ev);
    transcript_drop(&c->transcript, &delta);
}

void deliver_finished(sched_event_fn *on_event, struct choice *c)
{
    struct transcript_delta delta = transcript_peek(&c->transcript, true);
    struct sched_event ev = event_of(SCHED_EVENT_FINISHED, c->req);
    set_delta(&ev, c, &delta);
    ev.finish = c->finish;
    ev.stop_token = c->stop_token;
    if (c->transcript.match >= 0) {
        const struct sched_text *stop = &c->req->opt.stops[c->transcript.match];
        ev.stop_string = stop->data;
        ev.stop_string_len = stop->len;
    }
    on_event(&ev);
    transcript_drop(&c->transcript, &delta);
}

/* Both ends are known, but a phase that was skipped has none. */
static uint64_t span(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static void set_timings(struct sched_event *ev, const struct sched_request *r)
{
    ev->queue_ns = span(r->submitted_ns, r->admitted_ns);
    ev->ttft_ns = span(r->submitted_ns, r->first_token_ns);
    ev->prefill_ns = span(r->admitted_ns, r->first_token_ns);
    ev->decode_ns = span(r->first_token_ns, r->end_ns);
}

void deliver_end(sched_event_fn *on_event, const struct sched_request *r,
                 enum sched_event_kind kind)
{
    struct sched_event ev = event_of(kind, r);
    if (kind == SCHED_EVENT_DONE)
        set_timings(&ev, r);
    if (kind == SCHED_EVENT_FAILED)
        ev.err = r->err;
    if (kind == SCHED_EVENT_CANCELLED)
        ev.cause = (enum sched_cancel_cause)atomic_load(&r->cancel_cause);
    on_event(&ev);
}
