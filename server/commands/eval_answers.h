/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_answers.h - `lacuna eval --answer`: what operating points answer to prompts, beside the exact model.
 */
#ifndef LACUNA_SERVER_EVAL_ANSWERS_H
#define LACUNA_SERVER_EVAL_ANSWERS_H

#include "engine/engine.h"
#include "server/options.h"

/* Every line of the options' file is a prompt; prints a table, or JSON with the answers.  The exit code. */
int eval_answers(const struct options *o, struct engine *e, const uint32_t *points,
                 uint32_t n_points);

#endif
