/* SPDX-License-Identifier: Apache-2.0
 *
 * test_scheduler_memory.c - each allocation in turn fails: the request is refused or fails, the
 * scheduler goes on, nothing leaks.
 *
 * The allocator's functions are replaced in this program; they count, and one count fails.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"
#include "tests/support/fake_engine.h"

/* The real ones: the sanitizer's where there is one, else the C library's. */
void *__interceptor_calloc(size_t n, size_t size) __attribute__((weak));
void *__interceptor_malloc(size_t size) __attribute__((weak));
void *__interceptor_realloc(void *p, size_t size) __attribute__((weak));
void *__libc_calloc(size_t n, size_t size);
void *__libc_malloc(size_t size);
void *__libc_realloc(void *p, size_t size);

static atomic_int countdown; /* the allocation that makes it 0 fails; below 0: none does */
static atomic_bool this_thread_only;
static _Thread_local bool is_this_thread;

static bool fails(void)
{
    if (atomic_load(&countdown) <= 0 || (atomic_load(&this_thread_only) && !is_this_thread) ||
        atomic_fetch_sub(&countdown, 1) != 1)
        return false;
    errno = ENOMEM;
    return true;
}

void *calloc(size_t n, size_t size)
{
    if (fails())
        return NULL;
    return __interceptor_calloc ? __interceptor_calloc(n, size) : __libc_calloc(n, size);
}

void *malloc(size_t size)
{
    if (fails())
        return NULL;
    return __interceptor_malloc ? __interceptor_malloc(size) : __libc_malloc(size);
}

void *reallocarray(void *p, size_t n, size_t size)
{
    if (fails())
        return NULL;
    return __interceptor_realloc ? __interceptor_realloc(p, n * size) : __libc_realloc(p, n * size);
}

static sem_t over;
static enum sched_event_kind ended_as;
static enum engine_err_code ended_with;

static void on_event(const struct sched_event *ev)
{
    if (ev->kind < SCHED_EVENT_DONE)
        return;
    ended_as = ev->kind;
    ended_with = ev->err.code;
    sem_post(&over);
}

/* Tokens without text, so that the room for log-probabilities has to grow. */
static struct engine *open_engine(void)
{
    static int32_t silent[40];
    for (int i = 0; i < 40; i++)
        silent[i] = FAKE_CONTROL;
    struct engine *e = fake_engine_open(&(struct fake_engine_options){ .n_ctx = 0 });
    fake_engine_script(e, 'P', 1, silent, 40);
    return e;
}

/* True if it went through without any failure. */
static bool run_once(struct sched *s, int nth)
{
    const int32_t token = 'P';
    struct sched_prompt prompt = { &token, 1 };
    struct sched_text stop = { "stop", 4 };
    struct sched_options_request opt = {
        .prompts = &prompt,
        .n_prompts = 1,
        .n = 2,
        .max_tokens = 40,
        .stops = &stop,
        .n_stops = 1,
        .skip_special = true,
        .echo = true,
        .n_logprobs = 2,
    };
    struct sched_request *r;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert_eq(sched_reserve(s, 1), SCHED_REFUSED_NONE);
    atomic_store(&countdown, nth);
    enum sched_refusal refusal = sched_submit(s, &opt, 1, &r, &err);
    if (refusal == SCHED_REFUSED_NONE)
        sem_wait(&over);
    atomic_store(&countdown, -1);
    if (refusal != SCHED_REFUSED_NONE) {
        cr_assert_eq(refusal, SCHED_REFUSED_MEMORY);
        cr_assert_eq(err.code, ENGINE_ERR_MEMORY);
        return false;
    }
    sched_release(r);
    if (ended_as == SCHED_EVENT_DONE)
        return true;
    cr_assert_eq(ended_as, SCHED_EVENT_FAILED);
    cr_assert_eq(ended_with, ENGINE_ERR_MEMORY);
    return false;
}

Test(scheduler_memory, any_failed_allocation_ends_its_request_only)
{
    int n_failed = 0;
    sem_init(&over, 0, 0);
    for (int nth = 1; nth < 100; nth++) {
        struct engine *e = open_engine();
        struct fake_engine_counts counts;
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        struct sched *s;
        cr_assert_eq(sched_open(&s, e, &(struct sched_options){ .on_event = on_event }, &err), 0);
        cr_assert(run_once(s, -1)); /* the thread has started: its own allocations are not meant */
        bool went_through = run_once(s, nth);
        cr_assert(went_through || run_once(s, -1), "the next one is served");
        sched_close(s);
        fake_engine_counts(e, &counts);
        cr_assert_eq(counts.n_seqs, 0);
        cr_assert_eq(counts.n_pages, 0);
        cr_assert_null(fake_engine_violation(e));
        engine_close(e);
        if (went_through)
            break;
        n_failed++;
    }
    cr_assert_geq(n_failed, 12, "only %d allocations failed", n_failed);
    cr_assert_lt(n_failed, 99);
}

Test(scheduler_memory, open_fails_cleanly)
{
    struct engine *e = open_engine();
    struct sched_options opt = { .on_event = on_event };
    int nth = 1;
    is_this_thread = true; /* what the new thread allocates to start is the C library's affair */
    atomic_store(&this_thread_only, true);
    for (; nth < 50; nth++) {
        struct sched *s;
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        atomic_store(&countdown, nth);
        int rc = sched_open(&s, e, &opt, &err);
        atomic_store(&countdown, -1);
        if (rc == 0) {
            sched_close(s);
            break;
        }
        cr_assert_null(s);
        cr_assert(err.code == ENGINE_ERR_MEMORY || err.code == ENGINE_ERR_INTERNAL);
    }
    cr_assert_geq(nth, 8, "only %d allocations failed", nth - 1);
    engine_close(e);
}
