/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_tasks.h - `lacuna eval --tasks`: do operating points still find what a long text said?
 */
#ifndef LACUNA_SERVER_EVAL_TASKS_H
#define LACUNA_SERVER_EVAL_TASKS_H

#include "engine/engine.h"
#include "server/options.h"

/* Are there such tasks?  0, or the exit code. */
int eval_tasks_check(const struct options *o);
/* The options' tasks and lengths, at these points beside the exact one; prints a table or JSON.  The exit code. */
int eval_tasks(const struct options *o, struct engine *e, const uint32_t *points,
               uint32_t n_points);
/* The longest text that the options ask for; 0: they ask for none. */
uint32_t eval_tasks_longest(const struct options *o);

#endif
