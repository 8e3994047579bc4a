/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_plan.h - how much memory the engine will take and for what, decided before any is taken.
 */
#ifndef LACUNA_ENGINE_MEMORY_PLAN_H
#define LACUNA_ENGINE_MEMORY_PLAN_H

#include "engine/engine.h"
#include "engine/model/config.h"
#include "kvcache/kvcache.h"

struct memory_plan_input {
    const struct model_shape *shape;
    uint64_t weight_bytes; /* all but experts on demand */
    uint64_t
        lookup_bytes; /* of these: mapped, and read by the row, so that the kernel may drop their pages */
    struct {
        uint64_t all;     /* in memory; 0: the model has none */
        uint64_t least;   /* of slots */
        uint64_t staging; /* beside slots */
    } experts;
    uint64_t expert_bytes; /* asked for; 0: choose */
    uint64_t available;    /* what the machine still has */
    uint32_t n_ctx;        /* asked for; 0: choose */
    uint64_t kv_bytes;     /* asked for; 0: choose */
    uint32_t n_sequences;  /* of full length, and no more, that KV pages are for; 0: a few */
    uint32_t n_threads, max_rows, max_logit_rows;
    uint64_t http_bytes;
};

struct memory_plan {
    uint32_t n_ctx;
    struct kv_options kv;
    uint64_t weights, kv_bytes, activations, sampling, http, total;
    uint64_t expert_slots; /* 0: experts are weights like others */
    uint64_t expert_staging;
    bool ctx_reduced; /* the context was shortened to fit */
};

/* Pure.  ENGINE_ERR_MEMORY says what is needed and what there is. */
int memory_plan(struct memory_plan *out, const struct memory_plan_input *in,
                struct engine_err *err);

#endif
