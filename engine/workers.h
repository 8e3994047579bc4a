/* SPDX-License-Identifier: Apache-2.0
 *
 * workers.h - the engine's thread pool: run a function over numbered items.
 * The thread that opened the pool is worker 0 and the only one that may call workers_run.
 */
#ifndef LACUNA_ENGINE_WORKERS_H
#define LACUNA_ENGINE_WORKERS_H

#include "engine/engine.h"

struct workers;

enum { WORKERS_MAX_ITEMS = (1 << 24) - 1 };

int workers_open(struct workers **out, uint32_t n_threads, struct engine_err *err);
void workers_close(struct workers *w); /* NULL is fine */
uint32_t workers_n(const struct workers *w);
/* The number of the calling worker, below workers_n. */
uint32_t workers_self(void);

/* Calls fn(ctx, i) once for each i < n_items, on any thread, and returns when all are done.
 * What was written before is seen by the items, what they write is seen after. */
void workers_run(struct workers *w, void (*fn)(void *ctx, uint32_t item), void *ctx,
                 uint32_t n_items);

#endif
