/* SPDX-License-Identifier: Apache-2.0
 *
 * race_workers.c - the thread pool under load: every item runs once, runs do not overlap, results
 * are seen.  A plain program: ThreadSanitizer watches it, and it ends with status 1 if a count is
 * off.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/workers.h"

enum { MAX_ITEMS = 300, ROUNDS = 4000 };

struct job {
    uint32_t count[MAX_ITEMS]; /* plain: only one thread may touch an item */
    uint32_t round;
    _Atomic uint32_t total;
};

static void item(void *ctx, uint32_t i)
{
    struct job *job = ctx;
    job->count[i] += job->round;
    atomic_fetch_add(&job->total, 1);
    if ((i * 2654435761u + job->round) % 997 == 0)
        usleep(200); /* a worker that the kernel took off its core */
}

static int check(struct job *job, uint32_t n_items)
{
    if (atomic_load(&job->total) != n_items) {
        fprintf(stderr, "%u of %u items ran\n", atomic_load(&job->total), n_items);
        return 1;
    }
    for (uint32_t i = 0; i < n_items; i++)
        if (job->count[i] != job->round) {
            fprintf(stderr, "item %u of round %u ran %u times\n", i, job->round, job->count[i]);
            return 1;
        }
    return 0;
}

int main(void)
{
    for (uint32_t threads = 1; threads <= 8; threads *= 2) {
        struct workers *w;
        if (workers_open(&w, threads, false, NULL) != 0)
            return 1;
        for (uint32_t r = 1; r <= ROUNDS; r++) {
            struct job job = { .round = r };
            uint32_t n_items = r * 7919 % MAX_ITEMS;
            workers_run(w, item, &job, n_items);
            if (check(&job, n_items) != 0)
                return 1;
            if (r % 512 == 0)
                usleep(2000); /* long enough for all to fall asleep */
        }
        workers_close(w);
    }
    return 0;
}
