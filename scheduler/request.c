/* SPDX-License-Identifier: Apache-2.0
 *
 * request.c - a request's memory and states.
 *
 *     QUEUED ──first choice admitted──> RUNNING ──last event──> OVER
 *        └───────────cancelled, waited too long, failed──────────┘
 *
 * Everything the caller gave is copied into the one block the request is, so that nothing of it has
 * to outlive sched_submit.  What a running choice needs besides is taken when it is admitted: a
 * queue of requests must stay small.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler/internal.h"

uint64_t clock_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- checks ---- */

static int check_counts(const struct sched_options_request *opt, struct engine_err *err)
{
    uint32_t n_choices;
    if (opt->n_prompts == 0 || opt->n == 0)
        return engine_fail(err, ENGINE_ERR_INPUT, "%u prompts times %u choices: nothing to do",
                           opt->n_prompts, opt->n);
    if (__builtin_mul_overflow(opt->n_prompts, opt->n, &n_choices))
        return engine_fail(err, ENGINE_ERR_INPUT, "%u prompts times %u choices are too many",
                           opt->n_prompts, opt->n);
    if (opt->n_logprobs > ENGINE_MAX_TOP)
        return engine_fail(err, ENGINE_ERR_INPUT, "%d log-probabilities per token, the limit is %d",
                           opt->n_logprobs, ENGINE_MAX_TOP);
    for (uint32_t i = 0; i < opt->n_stops; i++)
        if (opt->stops[i].len == 0)
            return engine_fail(err, ENGINE_ERR_INPUT, "stop string %u is empty", i);
    return 0;
}

static int check_token(const struct engine_info *info, int32_t token, const char *where, uint32_t i,
                       struct engine_err *err)
{
    if (token >= 0 && (uint32_t)token < info->n_vocab)
        return 0;
    return engine_fail(err, ENGINE_ERR_INPUT, "token %u of %s is %d, the vocabulary has %u", i,
                       where, token, info->n_vocab);
}

/* The prompt, and one token if any is asked for; the rest of max_tokens is cut to the room there is. */
static int check_length(const struct sched_prompt *prompt, uint32_t max_tokens,
                        const struct request_limits *limits, struct engine_err *err)
{
    uint32_t n_ctx = engine_info(limits->engine)->n_ctx;
    uint64_t n_least = (uint64_t)prompt->n_tokens + (max_tokens > 0);
    if (n_least > n_ctx)
        return engine_fail(err, ENGINE_ERR_CONTEXT,
                           "%u prompt tokens leave no room for a token, the context has %u",
                           prompt->n_tokens, n_ctx);
    if (n_least > limits->max_positions)
        return engine_fail(err, ENGINE_ERR_CONTEXT,
                           "%u prompt tokens leave no room for a token, all KV pages hold %u",
                           prompt->n_tokens, limits->max_positions);
    return 0;
}

static int check_prompt(const struct sched_prompt *prompt, uint32_t max_tokens,
                        const struct request_limits *limits, struct engine_err *err)
{
    if (prompt->n_tokens == 0)
        return engine_fail(err, ENGINE_ERR_INPUT, "a prompt has no tokens");
    if (check_length(prompt, max_tokens, limits, err))
        return -1;
    for (uint32_t i = 0; i < prompt->n_tokens; i++)
        if (check_token(engine_info(limits->engine), prompt->tokens[i], "a prompt", i, err))
            return -1;
    return 0;
}

static int check_request(const struct sched_options_request *opt,
                         const struct request_limits *limits, struct engine_err *err)
{
    if (check_counts(opt, err))
        return -1;
    for (uint32_t i = 0; i < opt->n_stop_tokens; i++)
        if (check_token(engine_info(limits->engine), opt->stop_tokens[i], "the stop tokens", i,
                        err))
            return -1;
    for (uint32_t i = 0; i < opt->n_prompts; i++)
        if (check_prompt(&opt->prompts[i], opt->max_tokens, limits, err))
            return -1;
    return 0;
}

/* ---- one block ---- */

/* Offsets of the parts in the block. */
struct layout {
    size_t n_bytes;
    bool overflows;
};

static size_t place(struct layout *l, size_t n, size_t size)
{
    enum { ALIGN = 16 };
    size_t at = (l->n_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || __builtin_add_overflow(at, bytes, &l->n_bytes) ||
        l->n_bytes > SIZE_MAX / 2)
        l->overflows = true;
    return at;
}

struct parts {
    size_t choices, prompts, tokens, stops, stop_bytes, nodes, stop_tokens, bias, banned, salt;
    size_t n_bytes;
};

static size_t sum_stop_bytes(const struct sched_options_request *opt)
{
    size_t n = 0;
    for (uint32_t i = 0; i < opt->n_stops; i++)
        n += opt->stops[i].len;
    return n;
}

static uint64_t sum_prompt_tokens(const struct sched_options_request *opt)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < opt->n_prompts; i++)
        n += opt->prompts[i].n_tokens;
    return n;
}

static int plan_parts(struct parts *p, const struct sched_options_request *opt, uint32_t n_ends)
{
    struct layout l = { .n_bytes = sizeof(struct sched_request) };
    size_t n_stop_bytes = sum_stop_bytes(opt);
    p->choices = place(&l, (size_t)opt->n_prompts * opt->n, sizeof(struct choice));
    p->prompts = place(&l, opt->n_prompts, sizeof(struct sched_prompt));
    p->tokens = place(&l, sum_prompt_tokens(opt), sizeof(int32_t));
    p->stops = place(&l, opt->n_stops, sizeof(struct sched_text));
    p->stop_bytes = place(&l, n_stop_bytes, 1);
    p->nodes = place(&l, opt->n_stops > 0 ? n_stop_bytes + 1 : 0, sizeof(struct stop_node));
    p->stop_tokens = place(&l, opt->n_stop_tokens, sizeof(int32_t));
    p->bias = place(&l, opt->sampling.n_bias, sizeof(struct engine_logit_bias));
    p->banned = place(&l, (size_t)n_ends + opt->n_stop_tokens, sizeof(int32_t));
    p->salt = place(&l, opt->cache_salt.len, 1);
    p->n_bytes = l.n_bytes;
    return l.overflows || n_stop_bytes >= UINT32_MAX ? -1 : 0;
}

static void copy_array(void *dst, const void *src, size_t n, size_t size)
{
    if (n > 0)
        memcpy(dst, src, n * size);
}

static void copy_prompts(struct sched_request *r, struct sched_prompt *prompts, int32_t *tokens)
{
    for (uint32_t i = 0; i < r->opt.n_prompts; i++) {
        const struct sched_prompt *from = &r->opt.prompts[i];
        copy_array(tokens, from->tokens, from->n_tokens, sizeof(*tokens));
        prompts[i] = (struct sched_prompt){ tokens, from->n_tokens };
        tokens += from->n_tokens;
    }
    r->opt.prompts = prompts;
}

static void copy_stops(struct sched_request *r, struct sched_text *stops, char *bytes,
                       struct stop_node *nodes)
{
    for (uint32_t i = 0; i < r->opt.n_stops; i++) {
        const struct sched_text *from = &r->opt.stops[i];
        copy_array(bytes, from->data, from->len, 1);
        stops[i] = (struct sched_text){ bytes, from->len };
        bytes += from->len;
    }
    r->opt.stops = stops;
    if (r->opt.n_stops > 0)
        stops_build(&r->stops, nodes, stops, r->opt.n_stops);
}

/* What would end the choice, and therefore must not be chosen before min_tokens. */
static void list_banned(struct sched_request *r, int32_t *banned,
                        const struct request_limits *limits)
{
    uint32_t n = r->opt.ignore_eos ? 0 : limits->n_ends;
    copy_array(banned, limits->ends, n, sizeof(*banned));
    copy_array(banned + n, r->opt.stop_tokens, r->opt.n_stop_tokens, sizeof(*banned));
    r->banned = banned;
    r->n_banned = n + r->opt.n_stop_tokens;
}

static void fill_parts(struct sched_request *r, const struct parts *p,
                       const struct request_limits *limits)
{
    char *base = (char *)r;
    int32_t *stop_tokens = (int32_t *)(base + p->stop_tokens);
    struct engine_logit_bias *bias = (struct engine_logit_bias *)(base + p->bias);

    copy_prompts(r, (struct sched_prompt *)(base + p->prompts), (int32_t *)(base + p->tokens));
    copy_stops(r, (struct sched_text *)(base + p->stops), base + p->stop_bytes,
               (struct stop_node *)(base + p->nodes));
    copy_array(stop_tokens, r->opt.stop_tokens, r->opt.n_stop_tokens, sizeof(*stop_tokens));
    r->opt.stop_tokens = stop_tokens;
    copy_array(bias, r->opt.sampling.bias, r->opt.sampling.n_bias, sizeof(*bias));
    r->opt.sampling.bias = bias;
    copy_array(base + p->salt, r->opt.cache_salt.data, r->opt.cache_salt.len, 1);
    r->opt.cache_salt.data = base + p->salt;
    list_banned(r, (int32_t *)(base + p->banned), limits);

    r->choices = (struct choice *)(base + p->choices);
    r->n_choices = r->opt.n_prompts * r->opt.n;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        uint32_t room = limits->max_positions - r->opt.prompts[i / r->opt.n].n_tokens;
        r->choices[i] = (struct choice){ .req = r, .index = i, .stop_token = -1 };
        r->choices[i].max_tokens = r->opt.max_tokens < room ? r->opt.max_tokens : room;
    }
}

static void count_work(struct sched_request *r)
{
    r->n_prompt_tokens = sum_prompt_tokens(&r->opt);
    r->n_work_prompt = r->n_prompt_tokens * r->opt.n;
    for (uint32_t i = 0; i < r->n_choices; i++)
        r->n_work_output += r->choices[i].max_tokens;
    r->usage.point = r->opt.point;
    r->usage.prompt_tokens = r->n_prompt_tokens < UINT32_MAX ? (uint32_t)r->n_prompt_tokens
                                                             : UINT32_MAX;
}

enum sched_refusal request_new(struct sched_request **out, const struct sched_options_request *opt,
                               const struct request_limits *limits, struct engine_err *err)
{
    *out = NULL;
    if (check_request(opt, limits, err))
        return SCHED_REFUSED_TOO_LARGE;
    struct parts parts;
    int planned = plan_parts(&parts, opt, limits->n_ends);
    struct sched_request *r = planned == 0 ? calloc(1, parts.n_bytes) : NULL;
    if (!r) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory to queue a request of %u prompts",
                    opt->n_prompts);
        return SCHED_REFUSED_MEMORY;
    }
    r->opt = *opt;
    fill_parts(r, &parts, limits);
    count_work(r);
    atomic_init(&r->refs, 2);
    r->submitted_ns = clock_now_ns();
    *out = r;
    return SCHED_REFUSED_NONE;
}

void request_put(struct sched_request *r)
{
    if (atomic_fetch_sub(&r->refs, 1) == 1)
        free(r);
}

/* ---- states ---- */

void request_set_state(struct sched_request *r, enum request_state state)
{
    assert(state > r->state);
    r->state = state;
    if (state == REQUEST_RUNNING)
        r->admitted_ns = clock_now_ns();
    else
        r->end_ns = clock_now_ns();
}

void request_fail(struct sched_request *r, const struct engine_err *err)
{
    if (r->failed)
        return;
    r->failed = true;
    r->err = *err;
}

void sched_cancel(struct sched_request *r, enum sched_cancel_cause cause)
{
    int none = 0;
    atomic_compare_exchange_strong(&r->cancel_cause, &none, (int)cause);
}

void sched_release(struct sched_request *r)
{
    if (r)
        request_put(r);
}

enum sched_cancel_cause request_cancelled(struct sched_request *r, uint64_t now)
{
    if (r->opt.deadline_ns != 0 && now >= r->opt.deadline_ns)
        sched_cancel(r, SCHED_CANCEL_DEADLINE);
    return (enum sched_cancel_cause)atomic_load(&r->cancel_cause);
}
