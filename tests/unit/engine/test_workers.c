/* SPDX-License-Identifier: Apache-2.0
 *
 * test_workers.c - every item is run once, on however many threads there are, and a thread that stands still
 * holds up nothing but the item it has.
 */
#include <criterion/criterion.h>
#include <pthread.h>
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
    cr_assert_eq(workers_open(&w, n_threads, &err), 0, "%s", err.text);
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
