/* SPDX-License-Identifier: Apache-2.0
 *
 * test_workers.c - every item is run once, on however many threads there are, and a thread that stands still
 * holds up nothing but the item it has.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "engine/workers.h"

enum { MAX_ITEMS = 300 };

struct run {
    _Atomic uint32_t n_times[MAX_ITEMS];
    _Atomic uint32_t n_done;
    uint32_t n_items;
};

static void count_item(void *ctx, uint32_t item)
{
    struct run *run = ctx;
    atomic_fetch_add(&run->n_times[item], 1);
}

static struct workers *open_workers(uint32_t n_threads)
{
    struct workers *w;
    struct engine_err err = { 0 };
    cr_assert_eq(workers_open(&w, n_threads, false, &err), 0, "%s", err.text);
    cr_assert_eq(workers_n(w), n_threads);
    return w;
}

Test(workers, every_item_is_run_once)
{
    static const uint32_t n_threads[] = { 1, 2, 4, 64 };
    for (size_t n = 0; n < sizeof(n_threads) / sizeof(n_threads[0]); n++) {
        struct workers *w = open_workers(n_threads[n]);
        for (uint32_t round = 0; round < 400; round++) {
            struct run run = { .n_items = round * 7 % MAX_ITEMS };
            workers_run(w, count_item, &run, run.n_items);
            for (uint32_t i = 0; i < MAX_ITEMS; i++)
                cr_assert_eq(atomic_load(&run.n_times[i]), i < run.n_items,
                             "%u threads, round %u, item %u", n_threads[n], round, i);
        }
        workers_close(w);
    }
}

/* The first item ends only once all others have: it would never, if somebody waited for its thread. */
static void wait_for_others(void *ctx, uint32_t item)
{
    struct run *run = ctx;
    while (item == 0 && atomic_load(&run->n_done) < run->n_items - 1)
        sched_yield();
    atomic_fetch_add(&run->n_done, 1);
}

Test(workers, a_thread_that_stands_still_holds_up_its_own_item_alone)
{
    static const uint32_t n_threads[] = { 2, 4, 64 };
    for (size_t n = 0; n < sizeof(n_threads) / sizeof(n_threads[0]); n++) {
        struct workers *w = open_workers(n_threads[n]);
        for (uint32_t round = 0; round < 50; round++) {
            struct run run = { .n_items = MAX_ITEMS };
            workers_run(w, wait_for_others, &run, run.n_items);
            cr_assert_eq(atomic_load(&run.n_done), MAX_ITEMS);
        }
        workers_close(w);
    }
}

enum { PINNED = 4 };

struct affinities {
    _Atomic uint32_t n_begun;
    cpu_set_t of[PINNED]; /* by worker */
};

/* As many items as workers, and none ends before all have begun: each worker has one. */
static void note_affinity(void *ctx, uint32_t item)
{
    struct affinities *a = ctx;
    (void)item;
    sched_getaffinity(0, sizeof(cpu_set_t), &a->of[workers_self()]);
    atomic_fetch_add(&a->n_begun, 1);
    while (atomic_load(&a->n_begun) < PINNED)
        sched_yield();
}

static void run_pinned(struct affinities *a)
{
    struct workers *w;
    struct engine_err err = { 0 };
    cr_assert_eq(workers_open(&w, PINNED, true, &err), 0, "%s", err.text);
    workers_pin_self(w);
    workers_run(w, note_affinity, a, PINNED);
    workers_close(w);
}

Test(workers, pinned_ones_have_a_core_each_until_there_is_no_other)
{
    struct affinities a = { .n_begun = 0 };
    cpu_set_t all, seen;
    CPU_ZERO(&seen);
    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    run_pinned(&a);
    for (int i = 0; i < PINNED; i++) {
        cr_assert_eq(CPU_COUNT(&a.of[i]), 1, "worker %d", i);
        CPU_OR(&seen, &seen, &a.of[i]);
    }
    int n_cores = CPU_COUNT(&all);
    cr_assert_eq(CPU_COUNT(&seen), n_cores < PINNED ? n_cores : PINNED);
    CPU_AND(&seen, &seen, &all);
    cr_assert_eq(CPU_COUNT(&seen), n_cores < PINNED ? n_cores : PINNED,
                 "a core that was not allowed");
}

Test(workers, pinning_stays_within_the_affinity_mask)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    for (int cpu = CPU_SETSIZE - 1; CPU_COUNT(&one) == 0; cpu--)
        if (CPU_ISSET((size_t)cpu, &all))
            CPU_SET((size_t)cpu, &one);
    cr_assert_eq(sched_setaffinity(0, sizeof(one), &one), 0);
    struct affinities a = { .n_begun = 0 };
    run_pinned(&a);
    for (int i = 0; i < PINNED; i++)
        cr_assert(CPU_EQUAL(&a.of[i], &one), "worker %d", i);
}
