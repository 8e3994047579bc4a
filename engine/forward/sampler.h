/* SPDX-License-Identifier: Apache-2.0
 *
 * sampler.h - one choice of a token from logits.  A sampler is scratch memory: one per thread.
 */
#ifndef LACUNA_ENGINE_SAMPLER_H
#define LACUNA_ENGINE_SAMPLER_H

#include "engine/engine.h"
#include "kernels/kernels.h"

struct sampler;

int sampler_open(struct sampler **out, uint32_t n_vocab); /* -1: no memory */
void sampler_close(struct sampler *s);                    /* NULL is fine */
uint64_t sampler_bytes(uint32_t n_vocab);

/* Fills the job's out fields.  All token ids of the job must be below n_vocab. */
void sampler_run(struct sampler *s, const struct kern_table *kern, struct engine_sample *job);

/* In [0, 1), a function of its arguments alone. */
double sampler_uniform(uint64_t seed, uint64_t stream, uint32_t position);

#endif
