/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.c - the life of one request and its answer; see http.h.
 *
 * Suspending and resuming: resuming a connection that is not suspended is undefined, so
 * `is_parked`, set by the HTTP thread just before it suspends and cleared by whoever resumes,
 * decides under the exchange's lock.
 */
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/http/auth.h"
#include "server/http/http.h"
#include "server/live.h"

struct http_exchange *http_exchange_new(struct srv *srv, struct MHD_Connection *mhd)
{
    struct http_exchange *x = calloc(1, sizeof(*x));
    if (!x)
        return NULL;
    x->srv = srv;
    x->live = srv_live(srv);
    x->mhd = mhd;
    x->arrived_ns = srv_now_ns();
    x->created = (int64_t)time(NULL);
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    return x;
}

void http_ref(struct http_exchange *x)
{
    atomic_fetch_add(&x->refs, 1);
}

void http_body_free(struct http_exchange *x)
{
    buf_fini(&x->body);
    atomic_fetch_sub(&x->srv->body_bytes, x->body_counted);
    x->body_counted = 0;
}

void http_release_seat(struct http_exchange *x)
{
    if (atomic_exchange(&x->holds_seat, false))
        auth_release(x->key);
}

void http_unref(struct http_exchange *x)
{
    if (atomic_fetch_sub(&x->refs, 1) != 1)
        return;
    if (x->app_ops)
        x->app_ops->free(x->app);
    http_body_free(x);
    buf_fini(&x->reply.body);
    buf_fini(&x->out);
    free(x->rest);
    free(x->origin);
    free(x->asked_headers);
    live_put(x->live);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

void http_wake(struct http_exchange *x)
{
    if (!x->is_parked || !x->mhd)
        return;
    x->is_parked = false;
    MHD_resume_connection(x->mhd);
}

void http_give_up(struct http_exchange *x, enum sched_cancel_cause cause)
{
    /* What is already made is still written: a client may close its side early. */
    bool is_made = x->phase == HTTP_PHASE_REPLY || x->phase == HTTP_PHASE_FINISH || x->out_ended;
    if (x->gone || is_made)
        return;
    x->gone = cause;
    if (x->app_ops)
        x->app_ops->cancel(x->app, cause);
    http_wake(x);
}

bool http_is_gone(struct http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool is_gone = x->gone != 0 || !x->mhd;
    pthread_mutex_unlock(&x->lock);
    return is_gone;
}

void http_bind(struct http_exchange *x, void *app, const struct http_app *ops)
{
    pthread_mutex_lock(&x->lock);
    x->app = app;
    x->app_ops = ops;
    if (x->gone)
        ops->cancel(app, x->gone);
    pthread_mutex_unlock(&x->lock);
}

void http_header(struct http_exchange *x, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&x->lock);
    if (x->n_extra < HTTP_MAX_EXTRA_HEADERS) {
        struct http_header *h = &x->extra[x->n_extra++];
        h->name = name;
        vsnprintf(h->value, sizeof(h->value), fmt, ap);
    }
    pthread_mutex_unlock(&x->lock);
    va_end(ap);
}

void http_header_fixed(struct http_exchange *x, const char *name, const char *value)
{
    pthread_mutex_lock(&x->lock);
    if (x->n_extra < HTTP_MAX_EXTRA_HEADERS)
        x->extra[x->n_extra++] = (struct http_header){ .name = name, .fixed = value };
    pthread_mutex_unlock(&x->lock);
}

/* ---- answers ---- */

static bool is_answered(const struct http_exchange *x)
{
    return x->phase == HTTP_PHASE_REPLY || x->phase == HTTP_PHASE_FINISH ||
           x->phase == HTTP_PHASE_STREAM;
}

static void set_reply(struct http_exchange *x, unsigned status, const char *content_type,
                      struct buf *body_take)
{
    http_release_seat(x);
    x->phase = HTTP_PHASE_REPLY;
    x->reply.status = status;
    x->reply.content_type = content_type;
    x->reply.body = *body_take;
    *body_take = (struct buf){ 0 };
    http_wake(x);
}

void http_reply(struct http_exchange *x, unsigned status, const char *content_type,
                struct buf *body_take)
{
    if (body_take->failed) {
        struct api_error e = { 0 };
        buf_fini(body_take);
        api_fail(&e, API_INTERNAL, NULL, "Out of memory");
        http_reply_error(x, &e);
        return;
    }
    pthread_mutex_lock(&x->lock);
    if (!is_answered(x))
        set_reply(x, status, content_type, body_take);
    pthread_mutex_unlock(&x->lock);
    buf_fini(body_take);
}

void http_reply_json(struct http_exchange *x, unsigned status, struct buf *body_take)
{
    http_reply(x, status, "application/json", body_take);
}

static void add_error_headers(struct http_exchange *x, const struct api_error *e)
{
    enum { RETRY_UNAVAILABLE_S = 5 };
    char methods[48];
    switch (e->kind) {
    case API_INVALID_KEY:
        http_header(x, "WWW-Authenticate", "Bearer");
        break;
    case API_METHOD_NOT_ALLOWED:
        http_allow(x->route->methods, methods, sizeof(methods));
        http_header(x, "Allow", "%s", methods);
        break;
    case API_MODEL_LOADING:
    case API_SHUTTING_DOWN:
        http_header(x, "Retry-After", "%d", RETRY_UNAVAILABLE_S);
        break;
    default:
        break;
    }
    if (e->retry_after_s) {
        http_header(x, "Retry-After", "%u", e->retry_after_s);
        http_header(x, "retry-after-ms", "%u", e->retry_after_s * 1000);
    }
}

void http_reply_error(struct http_exchange *x, const struct api_error *e)
{
    struct buf body = { 0 };
    unsigned status = api_error_status(e->kind);
    if (status == 429 && x->srv->opt.slow_status_503)
        status = 503;
    add_error_headers(x, e);
    api_error_json(&body, e);
    pthread_mutex_lock(&x->lock);
    if (!is_answered(x)) {
        x->error = e->kind;
        x->reply.close = e->kind == API_SHUTTING_DOWN || e->kind == API_BODY_TOO_LARGE ||
                         e->kind == API_BAD_REQUEST;
        set_reply(x, status, "application/json", &body);
    }
    pthread_mutex_unlock(&x->lock);
    buf_fini(&body);
}

void http_finish(struct http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (!is_answered(x)) {
        http_release_seat(x);
        x->phase = HTTP_PHASE_FINISH;
        http_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}
