/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_plan.c - a pure function from shapes and limits to sizes.
 */
#include "engine/memory_plan.h"

#include <string.h>

#include "engine/forward/forward.h"
#include "engine/forward/sampler.h"

enum {
    DEFAULT_CTX_LIMIT = 32768,
    DEFAULT_SEQUENCES = 4,  /* of full length, by default */
    WINDOW_SEQUENCES = 32,  /* that a windowed group's pool holds at most */
    KEEP_FREE_PERCENT = 10, /* of what is available: for the rest of the machine */
    MIN_CTX = 512,
    KV_PART = 4, /* pages beside experts on demand: see plan_slots */
};

static uint32_t sequences_of(const struct memory_plan_input *in)
{
    return in->n_sequences ? in->n_sequences : DEFAULT_SEQUENCES;
}

/* Sequences that a windowed group's pool holds: those that were asked for, or many, for they are cheap. */
static uint32_t window_sequences_of(const struct memory_plan_input *in)
{
    bool is_few = in->n_sequences && in->n_sequences < WINDOW_SEQUENCES;
    return is_few ? in->n_sequences : WINDOW_SEQUENCES;
}

/* Pools for sequences of together n_tokens: as many as were asked for, or one if the bytes were. */
static void size_pools(const struct memory_plan_input *in, uint64_t n_tokens,
                       struct kv_options *out, uint64_t *bytes)
{
    const struct model_shape *s = in->shape;
    uint32_t n_sequences = in->kv_bytes ? 1 : sequences_of(in);
    out->n_groups = s->n_groups;
    *bytes = 0;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        struct kv_group_options *group = &out->group[g];
        *group = config_kv_group(s, g);
        uint64_t pages = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS +
                         (uint64_t)n_sequences * group->open_parts;
        uint64_t enough = (uint64_t)window_sequences_of(in) *
                          kv_pages_needed(group, UINT32_MAX / 2, in->max_rows);
        group->n_pages = (uint32_t)(group->window && pages > enough ? enough : pages);
        *bytes += (uint64_t)group->n_pages * group->n_layers * group->layer_bytes;
    }
}

/* The most tokens whose pools fit into a number of bytes. */
static uint64_t tokens_within(const struct memory_plan_input *in, uint64_t bytes)
{
    struct kv_options kv;
    uint64_t low = 0, high = (uint64_t)1 << 31, need;
    while (low + KV_PAGE_TOKENS < high) {
        uint64_t mid = (low + high) / 2 / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
        size_pools(in, mid, &kv, &need);
        if (need <= bytes)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static int refuse(const struct memory_plan *p, const struct memory_plan_input *in,
                  struct engine_err *err)
{
    return engine_fail(
        err, ENGINE_ERR_MEMORY,
        "%llu MiB are needed (weights %llu, experts %llu, KV pages %llu, activations "
        "%llu, other %llu) and %llu MiB are available; try a smaller --ctx, "
        "--kv-bytes, --expert-cache, --max-batch-rows or model",
        (unsigned long long)(p->total >> 20), (unsigned long long)(p->weights >> 20),
        (unsigned long long)((p->expert_slots + p->expert_staging) >> 20),
        (unsigned long long)(p->kv_bytes >> 20), (unsigned long long)(p->activations >> 20),
        (unsigned long long)((p->sampling + p->http) >> 20),
        (unsigned long long)(in->available >> 20));
}

/* Everything but the KV pages. */
static void plan_fixed(struct memory_plan *p, const struct memory_plan_input *in)
{
    struct forward_options f = { .max_rows = in->max_rows,
                                 .max_logit_rows = in->max_logit_rows,
                                 .n_ctx = p->n_ctx,
                                 .n_threads = in->n_threads };
    p->weights = in->weight_bytes + in->experts.all;
    p->activations = forward_bytes(in->shape, &f);
    p->sampling = in->n_threads * sampler_bytes(in->shape->n_vocab);
    p->http = in->http_bytes;
    p->total = p->weights + p->activations + p->sampling + p->http;
}

/* Experts are read on demand if fewer were asked for than there are, or if with all of them there is no room
 * for one sequence. */
static bool wants_slots(const struct memory_plan *p, const struct memory_plan_input *in,
                        uint64_t usable)
{
    struct kv_options kv;
    uint64_t pages = in->kv_bytes;
    if (in->experts.all == 0 || in->expert_bytes)
        return in->expert_bytes && in->expert_bytes < in->experts.all;
    if (pages == 0)
        size_pools(in, p->n_ctx, &kv, &pages);
    return p->total + pages > usable;
}

/* What was asked for, or most of what is left: pages take at most one part in KV_PART of it.  Slots are worth more
 * than the page cache of rows that are seldom read. */
static void plan_slots(struct memory_plan *p, const struct memory_plan_input *in, uint64_t usable)
{
    struct kv_options kv;
    uint64_t pages = in->kv_bytes;
    p->weights = in->weight_bytes - in->lookup_bytes;
    p->expert_staging = in->experts.staging;
    p->total += in->experts.staging - in->experts.all - in->lookup_bytes;
    uint64_t left = usable > p->total ? usable - p->total : 0;
    if (pages == 0) {
        size_pools(in, (uint64_t)sequences_of(in) * p->n_ctx, &kv, &pages);
        pages = pages < left / KV_PART ? pages : left / KV_PART;
    }
    p->expert_slots = in->expert_bytes ? in->expert_bytes : left > pages ? left - pages : 0;
    if (p->expert_slots < in->experts.least && in->expert_bytes == 0)
        p->expert_slots = in->experts.least;
    p->total += p->expert_slots;
}

/* How many tokens the pages shall hold: as asked, or a few full sequences within what is left. */
static uint64_t choose_tokens(const struct memory_plan_input *in, uint32_t n_ctx, uint64_t left)
{
    if (in->kv_bytes)
        return tokens_within(in, in->kv_bytes);
    uint64_t wanted = (uint64_t)sequences_of(in) * n_ctx, possible = tokens_within(in, left);
    return wanted < possible ? wanted : possible;
}

int memory_plan(struct memory_plan *p, const struct memory_plan_input *in, struct engine_err *err)
{
    memset(p, 0, sizeof(*p));
    p->n_ctx = in->n_ctx ? in->n_ctx : in->shape->n_ctx_train;
    if (in->n_ctx == 0 && p->n_ctx > DEFAULT_CTX_LIMIT)
        p->n_ctx = DEFAULT_CTX_LIMIT;
    plan_fixed(p, in);
    uint64_t usable = in->available - in->available / 100 * KEEP_FREE_PERCENT;
    if (wants_slots(p, in, usable))
        plan_slots(p, in, usable);
    if (p->total > usable)
        return refuse(p, in, err);
    uint64_t tokens = choose_tokens(in, p->n_ctx, usable - p->total);
    if (tokens < p->n_ctx) {
        if (in->n_ctx || tokens < MIN_CTX) {
            size_pools(in, p->n_ctx, &p->kv, &p->kv_bytes);
            p->total += p->kv_bytes;
            if (!in->kv_bytes || tokens < MIN_CTX)
                return refuse(p, in, err);
            return engine_fail(
                err, ENGINE_ERR_MEMORY,
                "a sequence of --ctx %u tokens needs %llu MiB of KV pages; --kv-bytes "
                "allows %llu MiB",
                p->n_ctx, (unsigned long long)(p->kv_bytes >> 20),
                (unsigned long long)(in->kv_bytes >> 20));
        }
        p->n_ctx = (uint32_t)tokens;
        p->ctx_reduced = true;
    }
    size_pools(in, tokens, &p->kv, &p->kv_bytes);
    p->total += p->kv_bytes;
    return p->total > usable ? refuse(p, in, err) : 0;
}
