/* SPDX-License-Identifier: Apache-2.0
 *
 * workers.h - the engine's thread pool: run a function over numbered items.
 * Worker 0 is the one thread, at any time, that calls workers_run.
 */
#ifndef LACUNA_ENGINE_WORKERS_H
#define LACUNA_ENGINE_WORKERS_H

#include "engine/engine.h"

struct workers;

enum { WORKERS_MAX_ITEMS = (1 << 24) - 1 };

/* pinned: worker i stays on the i-th core (machine_pin); worker 0 once it says so. */
int workers_open(struct workers **out, uint32_t n_threads, bool pinned, struct engine_err *err);
void workers_close(struct workers *w); /* NULL is fine */
uint32_t workers_n(const struct workers *w);
/* The number of the calling worker, below workers_n. */
uint32_t workers_self(void);

/* The calling thread is worker 0 from now on: where workers are pinned, so is it. */
void workers_pin_self(const struct workers *w);

/* Calls fn(ctx, i) once for each i < n_items, on any thread, and returns when all are done.
 * What was written before is seen by the items, what they write is seen after. */
void workers_run(struct workers *w, void (*fn)(void *ctx, uint32_t item), void *ctx,
                 uint32_t n_items);

#endif
