/* SPDX-License-Identifier: Apache-2.0
 *
 * event_log.c - see event_log.h.
 */
#include "tests/support/event_log.h"

#include <stdlib.h>
#include <string.h>

static void *grown(void *array, size_t n, size_t size)
{
    void *bigger = reallocarray(array, n, size);
    if (!bigger)
        abort();
    return bigger;
}

void event_log_init(struct event_log *log, uint32_t n_choices)
{
    *log = (struct event_log){ .n_choices = n_choices };
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->changed, NULL);
    log->choices = grown(NULL, n_choices, sizeof(*log->choices));
    memset(log->choices, 0, n_choices * sizeof(*log->choices));
    for (uint32_t i = 0; i < n_choices; i++)
        log->choices[i].text = grown(NULL, 1, 1);
    for (uint32_t i = 0; i < n_choices; i++)
        log->choices[i].text[0] = 0;
    log->kinds = grown(NULL, 1, 1);
    log->kinds[0] = 0;
}

void event_log_fini(struct event_log *log)
{
    for (uint32_t i = 0; i < log->n_choices; i++) {
        free(log->choices[i].text);
        free(log->choices[i].tokens);
        free(log->choices[i].logprobs);
        free(log->choices[i].stop_string);
    }
    free(log->choices);
    free(log->kinds);
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
}

/* Valid UTF-8 by shape; the detokenizer's tests look closer. */
static bool is_whole(const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint8_t lead = (uint8_t)text[i];
        size_t n = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
        if (n == 0 || n > len - i)
            return false;
        for (size_t k = 1; k < n; k++)
            if (((uint8_t)text[i + k] & 0xC0) != 0x80)
                return false;
        i += n;
    }
    return true;
}

static void expect(struct event_log *log, bool holds, const char *what)
{
    if (!holds && !log->violation)
        log->violation = what;
}

static void add_delta(struct event_log *log, const struct sched_event *ev)
{
    expect(log, ev->choice < log->n_choices, "a choice that does not exist");
    if (ev->choice >= log->n_choices)
        return;
    struct event_log_choice *c = &log->choices[ev->choice];
    expect(log, !c->finished, "a delta after FINISHED");
    expect(log, is_whole(ev->text.data, ev->text.len), "a delta that splits a code point");
    c->text = grown(c->text, c->len + ev->text.len + 1, 1);
    memcpy(c->text + c->len, ev->text.data, ev->text.len);
    c->len += ev->text.len;
    c->text[c->len] = 0;
    c->n_deltas++;
    if (ev->n_tokens == 0)
        return;
    c->tokens = grown(c->tokens, c->n_tokens + ev->n_tokens, sizeof(*c->tokens));
    memcpy(c->tokens + c->n_tokens, ev->tokens, ev->n_tokens * sizeof(*c->tokens));
    if (ev->logprobs) {
        c->logprobs = grown(c->logprobs, c->n_tokens + ev->n_tokens, sizeof(*c->logprobs));
        memcpy(c->logprobs + c->n_tokens, ev->logprobs, ev->n_tokens * sizeof(*c->logprobs));
    }
    c->n_tokens += ev->n_tokens;
}

static void add_finished(struct event_log *log, const struct sched_event *ev)
{
    add_delta(log, ev);
    struct event_log_choice *c = &log->choices[ev->choice];
    c->finished = true;
    c->finish = ev->finish;
    c->stop_token = ev->stop_token;
    if (ev->stop_string)
        c->stop_string = strndup(ev->stop_string, ev->stop_string_len);
    expect(log, ev->finish != SCHED_FINISH_NONE, "FINISHED without a reason");
}

static void check_end(struct event_log *log, const struct sched_event *ev)
{
    log->over = true;
    if (ev->kind != SCHED_EVENT_DONE)
        return;
    for (uint32_t i = 0; i < log->n_choices; i++)
        expect(log, log->choices[i].finished, "DONE before every choice has FINISHED");
}

void event_log_on_event(const struct sched_event *ev)
{
    static const char letters[] = "APDF+!x";
    struct event_log *log = ev->ctx;
    pthread_mutex_lock(&log->lock);
    expect(log, !log->over, "an event after the last one");
    expect(log,
           (ev->kind == SCHED_EVENT_ADMITTED) == (log->n_kinds == 0) ||
               ev->kind == SCHED_EVENT_FAILED || ev->kind == SCHED_EVENT_CANCELLED,
           "ADMITTED is not the first event");
    log->kinds = grown(log->kinds, log->n_kinds + 2, 1);
    log->kinds[log->n_kinds++] = letters[ev->kind];
    log->kinds[log->n_kinds] = 0;
    if (ev->kind == SCHED_EVENT_DELTA)
        add_delta(log, ev);
    if (ev->kind == SCHED_EVENT_FINISHED)
        add_finished(log, ev);
    if (ev->kind >= SCHED_EVENT_DONE)
        check_end(log, ev);
    log->last = *ev;
    if (log->hook)
        log->hook(log, ev);
    pthread_cond_broadcast(&log->changed);
    pthread_mutex_unlock(&log->lock);
}

void event_log_wait(struct event_log *log)
{
    pthread_mutex_lock(&log->lock);
    while (!log->over)
        pthread_cond_wait(&log->changed, &log->lock);
    pthread_mutex_unlock(&log->lock);
}

void event_log_wait_kinds(struct event_log *log, size_t n)
{
    pthread_mutex_lock(&log->lock);
    while (log->n_kinds < n)
        pthread_cond_wait(&log->changed, &log->lock);
    pthread_mutex_unlock(&log->lock);
}
