/* SPDX-License-Identifier: Apache-2.0
 *
 * completions.c - POST /v1/completions and /v1/chat/completions until they are submitted: parse,
 * reserve a seat, tokenize one prompt per turn (completions_prompt.c), submit.
 *
 * Everything that can be wrong is found before the status line goes out.
 */
#include "server/api/completions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/http/auth.h"
#include "server/live.h"
#include "server/log.h"

enum { BYTES_PER_TOKEN = 3 }; /* a guess, for the seat that is reserved before tokenizing */

/* ---- shared with the other handlers ---- */

void api_limits_of(const struct srv *s, struct api_limits *out)
{
    struct live *live = srv_live(s);
    *out = (struct api_limits){
        .max_prompts = live->max_prompts,
        .max_n = live->max_n,
        .max_logprobs = live->max_logprobs,
        .n_vocab = engine_info(s->engine)->n_vocab,
        .strict_params = s->opt.strict_params,
        .max_tokens_default = s->opt.max_tokens_default,
    };
    live_put(live);
}

int api_check_model(const struct srv *s, const char *model, struct api_error *e)
{
    if (!model || s->opt.any_model || srv_is_model(s, model))
        return 0;
    return api_fail(e, API_MODEL_NOT_FOUND, "model", "The model '%.200s' does not exist here",
                    model);
}

void api_warn_unknown(struct http_exchange *x, const struct api_unknown *unknown)
{
    static _Atomic uint64_t last_ns; /* one line per ten seconds for all requests together */
    uint64_t now_ns = srv_now_ns(), last = atomic_load(&last_ns);
    if (unknown->n == 0 || (last != 0 && now_ns - last < 10000000000))
        return;
    if (atomic_compare_exchange_strong(&last_ns, &last, now_ns))
        log_event(LOG_WARN_LEVEL, "fields_ignored", LOG_STR("request_id", x->id),
                  LOG_STR("fields", unknown->names), LOG_U64("n", unknown->n), LOG_END);
}

/* ---- the completion ---- */

static void completion_free(void *app)
{
    struct completion *c = app;
    if (c->has_seat)
        sched_unreserve(c->srv->sched, c->n_reserved);
    for (uint32_t i = 0; c->tokens && i < c->req.n_prompts; i++)
        engine_tokens_fini(&c->tokens[i]);
    for (uint32_t i = 0; c->choices && i < c->n_choices; i++) {
        buf_fini(&c->choices[i].text);
        buf_fini(&c->choices[i].token_ids);
        buf_fini(&c->choices[i].stop_string);
        api_logprobs_fini(&c->choices[i].logprobs);
    }
    chat_prompt_fini(&c->chat);
    free(c->tokens);
    free(c->prompts);
    free(c->choices);
    buf_fini(&c->chunk);
    api_completion_fini(&c->req);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct completion *completion_new(struct http_exchange *x, bool is_chat)
{
    struct completion *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->x = x;
    c->srv = x->srv;
    c->req.is_chat = is_chat;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void completion_cancel(void *app, enum sched_cancel_cause cause)
{
    struct completion *c = app;
    pthread_mutex_lock(&c->lock);
    if (!c->cancel)
        c->cancel = cause;
    if (c->job)
        sched_cancel(c->job, c->cancel);
    pthread_mutex_unlock(&c->lock);
}

static void completion_usage(void *app, struct http_usage *out)
{
    struct completion *c = app;
    pthread_mutex_lock(&c->lock);
    *out = c->log;
    if (!c->cancel)
        out->cancel_phase = NULL;
    pthread_mutex_unlock(&c->lock);
}

uint32_t completion_n_prompt(const struct completion *c, uint32_t choice)
{
    return c->prompts[choice / c->req.n].n_tokens;
}

struct api_head completion_head(const struct completion *c)
{
    enum api_object chat = c->req.stream ? API_CHAT_CHUNK : API_CHAT_COMPLETION;
    return (struct api_head){
        .object = c->req.is_chat ? chat : API_TEXT_COMPLETION,
        .id = c->req.request_id[0] ? c->req.request_id : c->x->id,
        .created = c->x->created,
        .model = c->srv->model_name,
        .fingerprint = c->srv->fingerprint,
    };
}

/* ---- first turn: parse, reserve ---- */

static uint64_t guess_tokens(const struct completion *c)
{
    uint64_t n = (completion_bytes_left(c) + c->req.chat.text_bytes) / BYTES_PER_TOKEN;
    for (uint32_t i = 0; i < c->req.n_prompts; i++)
        n += c->req.prompts[i].n_ids;
    return n ? n : 1;
}

static int alloc_parts(struct completion *c, struct api_error *err)
{
    c->n_choices = c->req.n_prompts * c->req.n; /* both bounded by the parser */
    c->tokens = calloc(c->req.n_prompts, sizeof(*c->tokens));
    c->prompts = calloc(c->req.n_prompts, sizeof(*c->prompts));
    c->choices = calloc(c->n_choices, sizeof(*c->choices));
    if (!c->tokens || !c->prompts || !c->choices)
        return api_fail(err, API_INTERNAL, NULL, "Out of memory");
    return 0;
}

static int reserve(struct completion *c, struct api_error *err)
{
    c->n_reserved = guess_tokens(c);
    enum sched_refusal refusal = sched_reserve(c->srv->sched, c->n_reserved);
    c->has_seat = refusal == SCHED_REFUSED_NONE;
    if (c->has_seat)
        return 0;
    struct engine_err none = { 0 };
    api_error_from_refusal(err, refusal, &none, sched_retry_after(c->srv->sched));
    return -1;
}

/* The access line tells users apart without naming them. */
static void hash_user(const char *user, char *hex, size_t cap)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    if (!user)
        return;
    for (; *user; user++)
        hash = (hash ^ (unsigned char)*user) * 16777619u;
    snprintf(hex, cap, "%08x", hash);
}

static int parse(struct completion *c, struct api_error *err)
{
    struct buf *body = &c->x->body;
    struct api_limits limits;
    api_limits_of(c->srv, &limits);
    if (c->req.is_chat)
        return api_parse_chat(body->data, body->len, &limits, &c->req, err);
    return api_parse_completion(body->data, body->len, &limits, &c->req, err);
}

static int start(struct completion *c, struct api_error *err)
{
    struct http_exchange *x = c->x;
    if (parse(c, err) != 0)
        return -1;
    buf_fini(&x->body); /* still counted: the document has about its size */
    api_warn_unknown(x, &c->req.unknown);
    pthread_mutex_lock(&c->lock);
    c->log.is_stream = c->req.stream;
    hash_user(c->req.user, c->log.user_hash, sizeof(c->log.user_hash));
    pthread_mutex_unlock(&c->lock);
    if (api_check_model(c->srv, c->req.model, err) != 0 || alloc_parts(c, err) != 0)
        return -1;
    return reserve(c, err);
}

/* ---- last turn: submit ---- */

/* A choice ends at the context at the latest; the header says so if that is what was cut. */
static int settle_max_tokens(struct completion *c, struct api_error *err)
{
    uint32_t n_ctx = engine_info(c->srv->engine)->n_ctx;
    uint32_t least_room = UINT32_MAX, most_room = 0;
    for (uint32_t i = 0; i < c->req.n_prompts; i++) {
        uint32_t room = n_ctx - c->prompts[i].n_tokens;
        least_room = room < least_room ? room : least_room;
        most_room = room > most_room ? room : most_room;
    }
    int64_t wanted = c->req.max_tokens;
    c->max_tokens = wanted < 0 || wanted > most_room ? most_room : (uint32_t)wanted;
    if (wanted <= (int64_t)least_room)
        return 0;
    if (!c->srv->opt.strict_max_tokens) {
        http_header(c->x, "x-lacuna-max-tokens", "%u", least_room);
        return 0;
    }
    api_fail(err, API_CONTEXT_LENGTH, "max_tokens",
             "This model's context holds %u tokens: %u of the prompt leave room for %u, and "
             "max_tokens is %lld",
             n_ctx, n_ctx - least_room, least_room, (long long)wanted);
    err->n_prompt_tokens = n_ctx - least_room;
    err->n_ctx = n_ctx;
    return -1;
}

/* The operating point that the request asks for, or the server's. */
static int settle_point(struct completion *c, struct api_error *err)
{
    const struct engine_info *info = engine_info(c->srv->engine);
    char names[256] = "";
    int point = (int)c->srv->point;
    if (c->req.quality[0])
        point = engine_point(c->srv->engine, c->req.quality);
    if (point >= 0) {
        c->point = engine_point_in_force(c->srv->engine, (uint32_t)point);
        return 0;
    }
    for (uint32_t i = 0; i < info->n_points && strlen(names) + 80 < sizeof(names); i++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s'%s'", i ? ", " : "",
                 info->points[i].name);
    return api_fail(err, API_INVALID_VALUE, "lacuna.quality",
                    "'lacuna.quality' must be a share of tokens, such as 0.99, or one of %s: what "
                    "this model is calibrated for",
                    names);
}

static uint64_t choose_seed(const struct api_completion *req)
{
    uint64_t seed = srv_now_ns();
    if (req->has_seed)
        return (uint64_t)req->seed;
    if (getrandom(&seed, sizeof(seed), 0) < 0)
        seed = srv_now_ns();
    return seed;
}

/* Requests of one key wait together, whichever secret it has after a restart: by its name. */
static uint64_t key_of(const struct http_exchange *x)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    if (!x->key)
        return 0;
    for (const char *c = auth_key_name(x->key); *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    return hash ? hash : 1;
}

static struct sched_options_request options_of(struct completion *c)
{
    const struct api_completion *r = &c->req;
    uint64_t timeout_ns = c->x->live->request_timeout_s * 1000000000ull;
    return (struct sched_options_request){
        .prompts = c->prompts,
        .n_prompts = r->n_prompts,
        .n = r->n,
        .max_tokens = c->max_tokens,
        .min_tokens = r->min_tokens < c->max_tokens ? r->min_tokens : c->max_tokens,
        .sampling = {
            .temperature = (float)r->temperature,
            .top_k = r->top_k > 0 ? r->top_k : 0,
            .top_p = (float)r->top_p,
            .min_p = (float)r->min_p,
            .repetition_penalty = (float)r->repetition_penalty,
            .frequency_penalty = (float)r->frequency_penalty,
            .presence_penalty = (float)r->presence_penalty,
            .seed = choose_seed(r),
            .bias = r->bias,
            .n_bias = r->n_bias,
        },
        .stops = r->stops,
        .n_stops = r->n_stops,
        .stop_tokens = r->stop_tokens,
        .n_stop_tokens = r->n_stop_tokens,
        .ignore_eos = r->ignore_eos,
        .include_stop = r->include_stop,
        .skip_special = r->skip_special,
        .echo = r->echo,
        .n_logprobs = r->n_logprobs,
        .deadline_ns = timeout_ns ? c->x->arrived_ns + timeout_ns : 0,
        .max_decode_ns = r->max_predict_ms > 0 ? (uint64_t)r->max_predict_ms * 1000000 : 0,
        .priority = r->priority,
        .key = key_of(c->x),
        .cache_salt = { r->cache_salt, r->cache_salt ? strlen(r->cache_salt) : 0 },
        .no_cache = !r->cache_prompt,
        .point = c->point,
        .progress = r->return_progress && r->stream && c->n_choices == 1,
        .ctx = c,
    };
}

static void reset_choices(struct completion *c)
{
    for (uint32_t i = 0; i < c->n_choices; i++) {
        c->choices[i].stop_token = -1;
        c->choices[i].n_echo_left = c->req.echo ? completion_n_prompt(c, i) : 0;
    }
}

static void note_prompt(struct completion *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->req.n_prompts; i++)
        n += c->prompts[i].n_tokens;
    pthread_mutex_lock(&c->lock);
    c->log.prompt_tokens = n;
    c->log.cancel_phase = metrics_phase_name(METRICS_QUEUED); /* if it is cancelled */
    pthread_mutex_unlock(&c->lock);
}

/* Events may come before sched_submit returns, the last one too. */
static void keep_job(struct completion *c, struct sched_request *job)
{
    pthread_mutex_lock(&c->lock);
    if (c->is_over) {
        sched_release(job);
    } else {
        c->job = job;
        if (c->cancel)
            sched_cancel(job, c->cancel);
    }
    pthread_mutex_unlock(&c->lock);
}

static int submit(struct completion *c, struct api_error *err)
{
    struct sched_request *job;
    struct engine_err why = { 0 };
    if (settle_max_tokens(c, err) != 0 || settle_point(c, err) != 0)
        return -1;
    struct sched_options_request options = options_of(c);
    reset_choices(c);
    note_prompt(c);
    http_ref(c->x); /* the scheduler's, until the last event */
    c->has_seat = false;
    enum sched_refusal refusal = sched_submit(c->srv->sched, &options, c->n_reserved, &job, &why);
    if (refusal == SCHED_REFUSED_NONE) {
        keep_job(c, job);
        return 0;
    }
    http_unref(c->x);
    api_error_from_refusal(err, refusal, &why, sched_retry_after(c->srv->sched));
    return -1;
}

/* The scheduler has its own copy.  Its events may come at the same time: they read the prompts' ids
 * only if these are to be returned, and nothing else of what goes here. */
static void drop_inputs(struct completion *c, bool keep_ids)
{
    for (uint32_t i = 0; !keep_ids && c->tokens && i < c->req.n_prompts; i++)
        engine_tokens_fini(&c->tokens[i]);
    chat_prompt_fini(&c->chat);
    api_completion_drop(&c->req, keep_ids);
}

/* ---- turns ---- */

static enum prepare_turn turn(struct completion *c, struct api_error *err)
{
    if (c->n_choices == 0 && start(c, err) != 0)
        return PREPARE_DONE;
    if (c->n_tokenized < c->req.n_prompts && completion_tokenize(c, c->n_tokenized++, err) != 0)
        return PREPARE_DONE;
    c->x->prepare_cost = completion_bytes_left(c);
    if (c->n_tokenized < c->req.n_prompts)
        return PREPARE_MORE;
    if (submit(c, err) == 0 && c->req.stream)
        http_stream_begin(c->x);
    return PREPARE_DONE;
}

const struct http_app completion_app = {
    .cancel = completion_cancel,
    .render = completion_render,
    .usage = completion_usage,
    .free = completion_free,
};

static enum prepare_turn prepare(struct http_exchange *x, bool is_chat)
{
    struct api_error err = { 0 };
    struct completion *c = x->app;
    if (!c) {
        c = completion_new(x, is_chat);
        if (c)
            http_bind(x, c, &completion_app);
        else
            api_fail(&err, API_INTERNAL, NULL, "Out of memory");
    }
    enum prepare_turn next = c ? turn(c, &err) : PREPARE_DONE;
    if (c && next == PREPARE_DONE)
        drop_inputs(c, err.kind == API_OK && c->req.return_token_ids);
    if (err.kind != API_OK)
        http_reply_error(x, &err);
    return next;
}

enum prepare_turn api_completions_prepare(struct http_exchange *x)
{
    return prepare(x, false);
}

enum prepare_turn api_chat_prepare(struct http_exchange *x)
{
    return prepare(x, true);
}
