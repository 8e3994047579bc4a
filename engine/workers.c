/* SPDX-License-Identifier: Apache-2.0
 *
 * workers.c - the thread pool.  The one place with a futex.
 *
 * Items are claimed one by one from a single word, so that a worker that the kernel took off its
 * core delays only the item it holds; a run is over when all items are done, not when all workers
 * have woken.  The word holds n_items and the next item: whoever swaps it owns that item of
 * whatever run is current then, and the run cannot end before the item does, so fn and ctx stay
 * valid.
 *
 * Waiting is by spinning for about as long as the gaps between the phases of a step, then by futex:
 * an idle server uses no CPU.
 */
#include "engine/workers.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/machine.h"

enum {
    SPINS = 6000, /* about 50 us of pause instructions */
    CACHE_LINE = 64,
};

static _Thread_local uint32_t self;

struct workers {
    /* Written by worker 0 between runs. */
    void (*fn)(void *ctx, uint32_t item);
    void *ctx;
    uint32_t n_threads;
    pthread_t *threads; /* n_threads - 1 */
    uint32_t n_started;
    bool pinned;

    _Alignas(CACHE_LINE) _Atomic uint64_t claim; /* n_items << 32 | next */
    _Alignas(CACHE_LINE) _Atomic uint32_t n_done;
    _Alignas(CACHE_LINE) _Atomic uint32_t round; /* futex of the workers; moves with every run */
    _Atomic uint32_t n_asleep;
    _Atomic uint32_t owner_waits; /* worker 0 sleeps on n_done */
    _Atomic uint32_t n_numbered;  /* workers that have their number */
    _Atomic bool stop;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Claims and runs items until none is left. */
static void work(struct workers *w)
{
    for (;;) {
        uint64_t c = atomic_load_explicit(&w->claim, memory_order_acquire);
        uint32_t n_items = (uint32_t)(c >> 32), item = (uint32_t)c;
        if (item >= n_items)
            return;
        if (!atomic_compare_exchange_weak_explicit(&w->claim, &c, c + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        w->fn(w->ctx, item);
        /* The owner may start another run the moment the last item counts: touch nothing but this.
         */
        uint32_t done = atomic_fetch_add_explicit(&w->n_done, 1, memory_order_seq_cst) + 1;
        if (done == n_items && atomic_load_explicit(&w->owner_waits, memory_order_seq_cst))
            futex_wake_all(&w->n_done);
    }
}

static void wait_for_round(struct workers *w, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&w->round, memory_order_acquire) != seen)
            return;
        relax();
    }
    atomic_fetch_add(&w->n_asleep, 1);
    while (atomic_load(&w->round) == seen)
        futex_wait(&w->round, seen);
    atomic_fetch_sub(&w->n_asleep, 1);
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    uint32_t seen = 0;
    pthread_setname_np(pthread_self(), "lacuna-worker");
    self = atomic_fetch_add(&w->n_numbered, 1) + 1;
    while (!atomic_load(&w->stop)) {
        wait_for_round(w, seen);
        seen = atomic_load(&w->round);
        work(w);
    }
    return NULL;
}

static void next_round(struct workers *w)
{
    atomic_fetch_add(&w->round, 1);
    if (atomic_load(&w->n_asleep))
        futex_wake_all(&w->round);
}

static void wait_for_items(struct workers *w, uint32_t n_items)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&w->n_done, memory_order_acquire) == n_items)
            return;
        relax();
    }
    atomic_store(&w->owner_waits, 1);
    for (;;) {
        uint32_t done = atomic_load(&w->n_done);
        if (done == n_items)
            break;
        futex_wait(&w->n_done, done);
    }
    atomic_store(&w->owner_waits, 0);
}

void workers_run(struct workers *w, void (*fn)(void *ctx, uint32_t item), void *ctx,
                 uint32_t n_items)
{
    assert(n_items <= WORKERS_MAX_ITEMS);
    if (n_items <= 1 || w->n_threads == 1) {
        for (uint32_t i = 0; i < n_items; i++)
            fn(ctx, i);
        return;
    }
    w->fn = fn;
    w->ctx = ctx;
    atomic_store_explicit(&w->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&w->claim, (uint64_t)n_items << 32, memory_order_release);
    next_round(w);
    work(w);
    wait_for_items(w, n_items);
}

uint32_t workers_n(const struct workers *w)
{
    return w->n_threads;
}

uint32_t workers_self(void)
{
    return self;
}

/* Workers take no signals: those are the main thread's business.  But for those that a thread sends
 * itself: blocked, they would end the process without the handler's word (a mapped file cut short). */
static int start_threads(struct workers *w)
{
    sigset_t all, old;
    int rc = 0;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (rc == 0 && w->n_started < w->n_threads - 1) {
        rc = pthread_create(&w->threads[w->n_started], NULL, worker_main, w);
        w->n_started += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static int pin_threads(const struct workers *w)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && w->pinned && i < w->n_started; i++)
        rc = machine_pin(w->threads[i], i + 1);
    return rc;
}

void workers_pin_self(const struct workers *w)
{
    if (w->pinned)
        machine_pin(pthread_self(), 0); /* as the others could be */
}

int workers_open(struct workers **out, uint32_t n_threads, bool pinned, struct engine_err *err)
{
    assert(n_threads > 0);
    *out = NULL;
    struct workers *w = aligned_alloc(CACHE_LINE, sizeof(*w));
    if (!w)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the thread pool");
    *w = (struct workers){ .n_threads = n_threads, .pinned = pinned };
    w->threads = calloc(n_threads, sizeof(*w->threads));
    if (!w->threads || start_threads(w) != 0) {
        engine_fail(err, ENGINE_ERR_MEMORY, "only %u of %u worker threads could be started",
                    w->n_started + 1, n_threads);
        workers_close(w);
        return -1;
    }
    int rc = pin_threads(w);
    if (rc != 0) {
        workers_close(w);
        return engine_fail(err, ENGINE_ERR_OPTION, "threads cannot be pinned to cores: %s",
                           strerror(rc));
    }
    *out = w;
    return 0;
}

void workers_close(struct workers *w)
{
    if (!w)
        return;
    atomic_store(&w->stop, true);
    next_round(w);
    for (uint32_t i = 0; i < w->n_started; i++)
        pthread_join(w->threads[i], NULL);
    free(w->threads);
    free(w);
}
