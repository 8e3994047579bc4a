/* SPDX-License-Identifier: Apache-2.0
 *
 * prepare.c - the preparation threads: JSON and tokenizing, away from the HTTP threads (which must
 * go on writing streams) and the scheduler's (which must go on computing).
 *
 * Work is taken in turns: a request is prepared in steps, and before each step the one with the
 * least text left is chosen, so that a short prompt does not wait for a long one.  Waiting makes
 * a request smaller, so that a long one is not put off for ever.
 *
 * One turn may still be long: a text is tokenized at once.  There are therefore two threads, of
 * which one takes only what is light; no turn that it begins keeps anybody waiting.
 */
#include <stdlib.h>

#include "server/api/api.h"

enum {
    AGE_BYTES_PER_MS = 1024, /* what a millisecond of waiting is worth */
    LIGHT_BYTES = 64 << 10,  /* a turn of some 30 ms */
};

enum lane { LANE_ALL, LANE_LIGHT, N_LANES };

struct prepare_thread {
    struct prepare *prepare;
    enum lane lane;
    pthread_t id;
};

struct prepare {
    struct prepare_thread threads[N_LANES];
    uint32_t n_threads;
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

static bool may_take(enum lane lane, const struct http_exchange *x)
{
    return lane == LANE_ALL || x->prepare_cost <= LIGHT_BYTES;
}

/* The lightest that the lane may take, and of equals the one that came first (the list is newest
 * first); NULL if there is none. */
static struct http_exchange *take_lightest(struct prepare *p, enum lane lane)
{
    uint64_t now_ns = srv_now_ns();
    struct http_exchange **best = NULL;
    for (struct http_exchange **at = &p->first; *at; at = &(*at)->prepare_next)
        if (may_take(lane, *at) && (!best || weight(*at, now_ns) <= weight(*best, now_ns)))
            best = at;
    if (!best)
        return NULL;
    struct http_exchange *x = *best;
    *best = x->prepare_next;
    return x;
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

/* NULL: the server closes, and nothing is left for this lane. */
static struct http_exchange *wait_for_one(struct prepare *p, enum lane lane)
{
    struct http_exchange *x;
    pthread_mutex_lock(&p->lock);
    while (!(x = take_lightest(p, lane)) && !p->is_closing)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return x;
}

static void push(struct prepare *p, struct http_exchange *x)
{
    pthread_mutex_lock(&p->lock);
    x->prepare_next = p->first;
    p->first = x;
    pthread_cond_broadcast(&p->changed); /* one of them might not be the one that may take it */
    pthread_mutex_unlock(&p->lock);
}

static void *prepare_main(void *arg)
{
    const struct prepare_thread *self = arg;
    struct prepare *p = self->prepare;
    struct http_exchange *x;
    pthread_setname_np(pthread_self(), "lacuna-prepare");
    while ((x = wait_for_one(p, self->lane)) != NULL) {
        if (one_turn(x) == PREPARE_MORE) {
            push(p, x);
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
    push(p, x);
}

static int start_threads(struct prepare *p)
{
    for (; p->n_threads < N_LANES; p->n_threads++) {
        struct prepare_thread *t = &p->threads[p->n_threads];
        *t = (struct prepare_thread){ .prepare = p, .lane = (enum lane)p->n_threads };
        if (pthread_create(&t->id, NULL, prepare_main, t) != 0)
            return -1;
    }
    return 0;
}

int prepare_open(struct prepare **out, struct engine_err *err)
{
    *out = NULL;
    struct prepare *p = calloc(1, sizeof(*p));
    if (!p)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the preparation threads");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    if (start_threads(p) != 0) {
        prepare_close(p);
        return engine_fail(err, ENGINE_ERR_INTERNAL, "cannot start the preparation threads");
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
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i].id, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
