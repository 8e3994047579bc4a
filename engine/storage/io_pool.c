/* SPDX-License-Identifier: Apache-2.0
 *
 * io_pool.c - attempts through a pool of threads, for what would block: pread, or a copy from a mapping.
 *
 * Two lists of struct io_read under one lock: those to do and those done.  The owner of the struct
 * io puts into the first and takes from the second, the pool's threads the other way round.  While
 * a read is in the pool, its `result` holds first the bytes to ask for and then what the attempt
 * gave.
 *
 * The locks of this file and of expert_counts.c are the only ones of the engine; this one is held for
 * list operations only.
 */
#include "engine/clock.h"
#include "engine/storage/io_internal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct list { /* first in, first out */
    struct io_read *first;
    struct io_read **end;
};

struct pool {
    io_pool_fn *attempt;
    pthread_mutex_t lock;
    pthread_cond_t work;     /* for the threads: `todo` is not empty, or closing */
    pthread_cond_t finished; /* for the owner: `done` is not empty */
    struct list todo, done;
    bool closing;
    uint32_t n_threads;
    pthread_t threads[IO_MAX_THREADS];
};

static void list_init(struct list *l)
{
    l->first = NULL;
    l->end = &l->first;
}

static void list_push(struct list *l, struct io_read *r)
{
    r->next = NULL;
    *l->end = r;
    l->end = &r->next;
}

static struct io_read *list_pop(struct list *l)
{
    struct io_read *r = l->first;
    if (!r)
        return NULL;
    l->first = r->next;
    if (!l->first)
        l->end = &l->first;
    return r;
}

static void *thread_main(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct io_read *r = list_pop(&p->todo);
        if (r) {
            pthread_mutex_unlock(&p->lock);
            r->result = p->attempt(r, (size_t)r->result);
            pthread_mutex_lock(&p->lock);
            list_push(&p->done, r);
            pthread_cond_signal(&p->finished);
        } else if (p->closing) {
            break;
        } else {
            pthread_cond_wait(&p->work, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Signals are for the program's own threads: the pool takes none. */
static int start_threads(struct pool *p, uint32_t n_threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    while (p->n_threads < n_threads && rc == 0) {
        rc = pthread_create(&p->threads[p->n_threads], NULL, thread_main, p);
        if (rc == 0)
            pthread_setname_np(p->threads[p->n_threads++], "lacuna-io");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return p->n_threads > 0 ? 0 : -rc;
}

void io_pool_close(void *state)
{
    struct pool *p = state;
    pthread_mutex_lock(&p->lock);
    assert(!p->todo.first && !p->done.first);
    p->closing = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* A condition whose times are those of engine_clock_ns. */
static void init_clocked(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

int io_pool_open(void **state, uint32_t n_threads, io_pool_fn *attempt)
{
    assert(n_threads >= 1 && n_threads <= IO_MAX_THREADS);
    struct pool *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->attempt = attempt;
    list_init(&p->todo);
    list_init(&p->done);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    init_clocked(&p->finished);
    int rc = start_threads(p, n_threads);
    if (rc < 0) {
        io_pool_close(p);
        return rc;
    }
    *state = p;
    return 0;
}

void io_pool_start(void *state, struct io_read *r, uint64_t bytes)
{
    struct pool *p = state;
    r->result = (int64_t)bytes;
    pthread_mutex_lock(&p->lock);
    list_push(&p->todo, r);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

/* Until something has finished, or the time is up. */
static void await_finished(struct pool *p, uint64_t wait_ns)
{
    uint64_t end = wait_ns == IO_FOREVER ? 0 : engine_clock_ns() + wait_ns;
    struct timespec at = { .tv_sec = (time_t)(end / 1000000000U),
                           .tv_nsec = (long)(end % 1000000000U) };
    int rc = 0;
    while (!p->done.first && rc != ETIMEDOUT)
        rc = wait_ns == IO_FOREVER ? pthread_cond_wait(&p->finished, &p->lock)
                                   : pthread_cond_timedwait(&p->finished, &p->lock, &at);
}

uint32_t io_pool_collect(void *state, struct io_attempt *done, uint32_t max, uint64_t wait_ns)
{
    struct pool *p = state;
    uint32_t n = 0;
    pthread_mutex_lock(&p->lock);
    if (wait_ns > 0)
        await_finished(p, wait_ns);
    while (n < max && p->done.first) {
        struct io_read *r = list_pop(&p->done);
        done[n++] = (struct io_attempt){ .read = r, .res = r->result };
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}
