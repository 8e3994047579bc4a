/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - struct engine and what its files share.
 */
#ifndef LACUNA_ENGINE_INTERNAL_H
#define LACUNA_ENGINE_INTERNAL_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/forward/forward.h"
#include "engine/forward/sampler.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/repack.h"
#include "engine/model/weights.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/workers.h"
#include "kernels/kernels.h"
#include "kvcache/kvcache.h"

/* Scratch of one sampling thread. */
struct engine_sampler {
    struct sampler *sampler;
    _Atomic bool busy;
};

enum { ENGINE_MAX_PLAN = 9, ENGINE_MAX_WARNINGS = 8 };

/* Everything but `stats_*` is written at open and by the stepping thread only. */
struct engine {
    struct engine_info info;
    struct engine_options opt; /* defaults filled in */
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct model_shape shape;
    struct repack *packed;
    struct experts_layer *expert_layers; /* [n_layers]; NULL: no experts */
    struct experts *experts;             /* NULL: all are in memory */
    struct weights weights;
    struct sparsity *sparsity;
    struct audit *audit; /* NULL: no steps */
    struct kv *kv;
    struct workers *workers;
    struct forward *forward;
    const struct kern_table *kern;
    struct engine_sampler *samplers; /* [n_threads] */

    char *path, *heat_path, *name, *file_name, *chat_template;
    struct engine_plan_line plan[ENGINE_MAX_PLAN];
    char *warnings[ENGINE_MAX_WARNINGS];

    bool skips_zeros; /* a feed-forward is laid out for it */

    _Atomic uint64_t stats_heartbeat;
    _Atomic uint32_t stats_pages, stats_pages_free, stats_pages_cached;
    _Atomic uint64_t stats_neurons, stats_neurons_up, stats_neurons_down;
    _Atomic uint64_t stats_products[SPARSITY_SITES], stats_skipping[SPARSITY_SITES];
};

struct engine_seq {
    struct engine *e;
    struct kv_seq *kv;
    uint32_t n_prompt;                   /* positions before it are not decoded */
    const struct operating_point *point; /* NULL: nothing is left out */
    uint16_t *lists;                     /* see struct run */
    uint32_t list_cap;
    uint64_t late_since_ns; /* it waits for experts and has not come on since; 0: it does not */
    uint32_t late_end;      /* then: the tokens before this one have been rows, */
    uint32_t late_layers;   /* the first of which was late in the last of so many layers */
};

/* Adds a sentence to info.warnings. */
void engine_warn(struct engine *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* From now on s says what may be left out. */
void engine_use_sparsity(struct engine *e, struct sparsity *s);
int engine_samplers_open(struct engine *e, struct engine_err *err);
void engine_samplers_close(struct engine *e);
void engine_stats_update(struct engine *e);

#endif
