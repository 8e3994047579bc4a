/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - the server as its rooms see it: http/ (connections), api/ (what is said on them),
 * metrics.c.
 *
 * Threads: HTTP threads (libmicrohttpd's), one watch thread (http/watch.c), two preparation threads
 * (api/prepare.c), the scheduler's thread (events).  What is not atomic here is written before they
 * start, or by srv_attach before `state` becomes SRV_READY.
 */
#ifndef LACUNA_SERVER_INTERNAL_H
#define LACUNA_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "scheduler/scheduler.h"
#include "server/server.h"

struct http;
struct live;
struct metrics;
struct prepare;

enum srv_state {
    SRV_LOADING,
    SRV_READY,
    SRV_DRAIN_DELAY, /* serves, but asks balancers to look elsewhere */
    SRV_DRAINING,    /* new requests are refused */
    SRV_CLOSING,
};

struct srv {
    /* As the server was opened, with the defaults filled in.  What srv_reload may change counts
     * only as it is in `live`. */
    struct srv_options opt;
    _Atomic int state;     /* enum srv_state */
    struct engine *engine; /* from srv_attach on */
    struct sched *sched;
    struct metrics *metrics;
    pthread_mutex_t live_lock;
    struct live *live;           /* under the lock: see live.h */
    _Atomic int64_t reloaded_ms; /* since 1970: when `live` was made */
    struct prepare *prepare;
    struct http *http;
    char model_name[256]; /* canonical; what every answer says */
    uint32_t point;       /* of --quality */
    char fingerprint[64];
    int64_t opened_at; /* seconds since 1970 */
    uint64_t opened_ns;
    _Atomic uint64_t load_done_bytes, load_total_bytes, load_ns;
    _Atomic uint64_t body_bytes;    /* of all bodies held now */
    _Atomic uint32_t n_completions; /* requests between their first byte and their last */
    uint64_t pulse;                 /* the watch thread's: the last heartbeat seen */
    _Atomic uint64_t pulse_ns;      /* when it changed, or there was nothing to do; 0: never yet */
    atomic_bool is_stuck;           /* work is there, and the engine does not move */
    bool is_dead;                   /* the watch thread's: on_engine_dead was called */
};

static inline enum srv_state srv_state(const struct srv *s)
{
    return (enum srv_state)atomic_load(&s->state);
}

uint64_t srv_now_ns(void); /* CLOCK_MONOTONIC */

/* Several times a second, from the watch thread: is the engine moving? */
void srv_tick(struct srv *s, uint64_t now_ns);

/* What counts now, with a reference for the caller (live_put). */
struct live *srv_live(const struct srv *s);

/* Does the model answer to this name? */
bool srv_is_model(const struct srv *s, const char *name);

#endif
