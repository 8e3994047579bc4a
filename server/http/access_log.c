/* SPDX-License-Identifier: Apache-2.0
 *
 * access_log.c - one line and one count per request, when it is over.
 */
#include "server/http/auth.h"
#include "server/http/http.h"
#include "server/log.h"
#include "server/metrics.h"

enum { MAX_FIELDS = 24 };

struct line {
    struct log_field fields[MAX_FIELDS];
    uint32_t n;
};

/* What others may still change in an exchange whose client has left. */
struct outcome {
    enum api_error_kind error;
    bool has_usage;
    struct http_usage usage;
};

static void add(struct line *l, struct log_field f)
{
    if (l->n + 1 < MAX_FIELDS)
        l->fields[l->n++] = f;
}

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static const char *method_name(enum http_method method)
{
    switch (method) {
    case HTTP_GET:
        return "GET";
    case HTTP_HEAD:
        return "HEAD";
    case HTTP_POST:
        return "POST";
    case HTTP_OPTIONS:
        return "OPTIONS";
    default:
        return "other";
    }
}

static void read_outcome(struct http_exchange *x, struct outcome *out)
{
    *out = (struct outcome){ 0 };
    pthread_mutex_lock(&x->lock);
    out->error = x->error;
    out->has_usage = x->app_ops && x->app_ops->usage;
    if (out->has_usage)
        x->app_ops->usage(x->app, &out->usage);
    pthread_mutex_unlock(&x->lock);
}

/* u must outlive the line. */
static void add_usage(struct line *l, const struct http_exchange *x, const struct http_usage *u)
{
    add(l, LOG_STR("model", x->srv->model_name));
    if (u->user_hash[0])
        add(l, LOG_STR("user_hash", u->user_hash));
    add(l, LOG_BOOL("stream", u->is_stream));
    add(l, LOG_U64("prompt_tokens", u->prompt_tokens));
    add(l, LOG_U64("cached_tokens", u->cached_tokens));
    add(l, LOG_U64("completion_tokens", u->completion_tokens));
    add(l, LOG_STR("finish", u->finish));
    add(l, LOG_F64("queue_ms", ms(u->queue_ns)));
    add(l, LOG_F64("ttft_ms", ms(u->ttft_ns)));
    add(l, LOG_F64("itl_ms", ms(u->itl_ns)));
    if (u->cancel_phase)
        add(l, LOG_STR("cancel_phase", u->cancel_phase));
}

static void log_line(const struct http_exchange *x, const struct outcome *o, unsigned status,
                     uint64_t ns)
{
    enum log_level level = x->route->is_quiet ? LOG_DEBUG_LEVEL : LOG_INFO_LEVEL;
    struct line l = { .n = 0 };
    if (!log_enabled(level))
        return;
    add(&l, LOG_STR("request_id", x->id));
    if (x->trace_id[0])
        add(&l, LOG_STR("trace_id", x->trace_id));
    if (x->key)
        add(&l, LOG_STR("key", auth_key_name(x->key)));
    add(&l, LOG_STR("client", x->client));
    add(&l, LOG_STR("method", method_name(x->method)));
    add(&l, LOG_STR("route", x->route->name));
    add(&l, LOG_U64("status", status));
    if (o->error != API_OK)
        add(&l, LOG_STR("error", api_error_code(o->error)));
    if (o->has_usage)
        add_usage(&l, x, &o->usage);
    add(&l, LOG_F64("total_ms", ms(ns)));
    add(&l, LOG_U64("bytes_out", x->bytes_out));
    add(&l, LOG_END);
    log_fields(level, "request", l.fields);
}

void http_account(struct http_exchange *x, unsigned status)
{
    uint64_t ns = srv_now_ns() - x->arrived_ns;
    uint32_t route = (uint32_t)(x->route - http_routes);
    unsigned method = x->route->methods & x->method ? x->method : HTTP_OTHER;
    struct outcome outcome;
    read_outcome(x, &outcome);
    metrics_count_http(x->srv->metrics, route, method, status, ns);
    if (outcome.error != API_OK)
        metrics_count_rejected(x->srv->metrics, outcome.error);
    log_line(x, &outcome, status, ns);
}
