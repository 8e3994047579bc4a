/* SPDX-License-Identifier: Apache-2.0
 *
 * event_log.h - collects the events of one request, and checks what must hold for any: the order
 * that scheduler.h promises, whole code points, nothing after the end.
 *
 * The scheduler's thread writes, under the lock; a test reads after event_log_wait.
 */
#ifndef LACUNA_TESTS_EVENT_LOG_H
#define LACUNA_TESTS_EVENT_LOG_H

#include <pthread.h>

#include "scheduler/scheduler.h"

struct event_log_choice {
    char *text; /* all deltas joined; NUL-terminated */
    size_t len;
    int32_t *tokens;
    struct sched_logprobs *logprobs;
    uint32_t n_tokens;
    uint32_t n_deltas;
    bool finished;
    enum sched_finish finish;
    char *stop_string; /* NULL: none */
    int32_t stop_token;
};

struct event_log {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *kinds; /* a letter per event: A P D F, then + (done), ! (failed) or x (cancelled) */
    size_t n_kinds;
    struct event_log_choice *choices;
    uint32_t n_choices;
    bool over;
    struct sched_event last; /* the last event; its pointers are gone */
    const char *violation;   /* what did not hold; NULL: all did */
    void (*hook)(struct event_log *log,
                 const struct sched_event *ev); /* on the scheduler's thread */
    void *hook_ctx;
};

void event_log_init(struct event_log *log, uint32_t n_choices);
void event_log_fini(struct event_log *log);
void event_log_on_event(const struct sched_event *ev);      /* ctx: struct event_log */
void event_log_wait(struct event_log *log);                 /* for the last event */
void event_log_wait_kinds(struct event_log *log, size_t n); /* for n events */

#endif
