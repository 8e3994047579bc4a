/* SPDX-License-Identifier: Apache-2.0
 *
 * warm.c - the memory that pages will soon lie in is made present before they are taken.
 *
 * The first write to memory that was never used is a page fault, and in a virtual machine its host has
 * to find the memory, too: milliseconds for a huge page, in the middle of a step.  So while the cache is
 * idle, a thread asks the kernel for what lies ahead of the highest page that was taken.  Memory further
 * off stays untouched, and costs nothing for as long as nobody needs it.
 *
 * Only while it is idle: beside a step even a thread of the least priority gets whole ticks of the
 * kernel's clock, and has computing threads wait or share a core for longer than the faults would take.
 *
 * All of it is a wish: without the thread, or on a kernel before Linux 5.14, steps take the faults.
 * Threads: the cache's thread asks; the warming one waits for that.  The lock guards what both read.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kvcache/internal.h"

static const size_t CHUNK = (size_t)2 << 20; /* a huge page; pools begin at one */

struct range {
    uint8_t *mem;
    size_t done, wanted; /* bytes from its start */
};

struct kv_warm {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_idle, stop;
    struct range pool[KV_MAX_GROUPS];
};

/* Where the next chunk is to do; NULL: nowhere, for now. */
static struct range *next_range(struct kv_warm *w)
{
    if (!w->is_idle)
        return NULL;
    for (uint32_t g = 0; g < KV_MAX_GROUPS; g++)
        if (w->pool[g].done < w->pool[g].wanted)
            return &w->pool[g];
    return NULL;
}

/* Under the lock, which it gives up meanwhile.  False if the kernel refuses. */
static bool warm_chunk(struct kv_warm *w, struct range *r)
{
    size_t n = r->wanted - r->done < CHUNK ? r->wanted - r->done : CHUNK;
    uint8_t *at = r->mem + r->done;
    r->done += n;
    pthread_mutex_unlock(&w->lock);
    int rc = madvise(at, n, MADV_POPULATE_WRITE);
    pthread_mutex_lock(&w->lock);
    return rc == 0;
}

static void *warm_main(void *arg)
{
    struct kv_warm *w = arg;
    pthread_setname_np(pthread_self(), "lacuna-kv");
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        struct range *r = next_range(w);
        if (!r)
            pthread_cond_wait(&w->changed, &w->lock);
        else if (!warm_chunk(w, r))
            break;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for other threads. */
static int start(struct kv_warm *w)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&w->thread, NULL, warm_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

struct kv_warm *kv_warm_open(void)
{
    struct kv_warm *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (start(w) == 0)
        return w;
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return NULL;
}

void kv_warm_close(struct kv_warm *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void kv_warm_ask(struct kv_warm *w, uint32_t group, uint8_t *mem, size_t bytes)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->pool[group].mem = mem;
    w->pool[group].wanted = bytes;
    pthread_mutex_unlock(&w->lock);
}

void kv_warm_set_idle(struct kv_warm *w, bool is_idle)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->is_idle = is_idle;
    if (is_idle)
        pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}
