/* SPDX-License-Identifier: Apache-2.0
 *
 * prepare.c - the preparation thread: JSON and tokenizing, away from the HTTP threads (which must
 * go on writing streams) and the scheduler's (which must go on computing).
 *
 * Work is taken in turns: a request is prepared in steps, and before each step the one with the
 * least text left is chosen, so that a short prompt does not wait for a long one.  Waiting makes
 * a request smaller, so that a long one is not put off for ever.
 */
#include <stdlib.h>

#include "server/api/api.h"

enum { AGE_BYTES_PER_MS = 1024 }; /* what a millisecond of waiting is worth */

struct prepare {
    struct srv *srv;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock. */
    struct http_exchange *first;
    bool is_closing;
};

/* ---- the order ---- */

static uint64_t weight(const struct http_exchange *x, uint64_t now_ns)
{
    uint64_t age = (now_ns - x->queued_ns) / 1000000 * AGE_BYTES_PER_MS;
    return x->prepare_cost > age ? x->prepare_cost - age : 0;
}

/* The lightest, and of equals the one that came first (the list is newest first). */
static struct http_exchange *take_lightest(struct prepare *p)
{
    uint64_t now_ns = srv_now_ns();
    struct http_exchange **best = &p->first;
    for (struct http_exchange **at = &p->first; *at; at = &(*at)->prepare_next)
        if (weight(*at, now_ns) <= weight(*best, now_ns))
            best = at;
    struct http_exchange *x = *best;
    if (x)
        *best = x->prepare_next;
    return x;
}

static void put(struct prepare *p, struct http_exchange *x)
{
    x->prepare_next = p->first;
    p->first = x;
}

/* ---- the thread ---- */

static enum prepare_turn one_turn(struct http_exchange *x)
{
    struct api_error e = { 0 };
    if (http_is_gone(x))
        return PREPARE_DONE;
    api_check_state(x->srv, &e);
    if (e.kind == API_OK)
        return x->route->prepare(x);
    http_reply_error(x, &e);
    return PREPARE_DONE;
}

static struct http_exchange *wait_for_one(struct prepare *p)
{
    struct http_exchange *x;
    pthread_mutex_lock(&p->lock);
    while (!p->first && !p->is_closing)
        pthread_cond_wait(&p->changed, &p->lock);
    x = take_lightest(p);
    pthread_mutex_unlock(&p->lock);
    return x;
}

static void *prepare_main(void *arg)
{
    struct prepare *p = arg;
    struct http_exchange *x;
    while ((x = wait_for_one(p)) != NULL) {
        if (one_turn(x) == PREPARE_MORE) {
            pthread_mutex_lock(&p->lock);
            put(p, x);
            pthread_mutex_unlock(&p->lock);
        } else {
            http_body_free(x);
            http_unref(x);
        }
    }
    return NULL;
}

void prepare_push(struct prepare *p, struct http_exchange *x)
{
    http_ref(x);
    x->prepare_cost = x->body.len;
    x->queued_ns = srv_now_ns();
    pthread_mutex_lock(&p->lock);
    put(p, x);
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

int prepare_open(struct prepare **out, struct srv *srv, struct engine_err *err)
{
    *out = NULL;
    struct prepare *p = calloc(1, sizeof(*p));
    if (!p)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the preparation thread");
    p->srv = srv;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    if (pthread_create(&p->thread, NULL, prepare_main, p) != 0) {
        free(p);
        return engine_fail(err, ENGINE_ERR_INTERNAL, "cannot start the preparation thread");
    }
    *out = p;
    return 0;
}

void prepare_close(struct prepare *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->is_closing = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
