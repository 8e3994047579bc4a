/* SPDX-License-Identifier: Apache-2.0
 *
 * connection.c - libmicrohttpd's callbacks: one request from its headers to its completion.
 *
 * The access handler is called once with the headers, then with pieces of the body, then without
 * any, and again each time the connection was resumed, until a response is queued.
 *
 * An error that is known from the headers is answered after a small body was read and dropped: a
 * response queued earlier makes libmicrohttpd close the connection, and a close with unread data
 * can cost the client the answer.  Large bodies, and clients that wait for "100 Continue", are
 * answered at once.
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "server/api/api.h"
#include "server/http/auth.h"
#include "server/http/http.h"
#include "server/http/tls.h"
#include "server/live.h"
#include "server/log.h"
#include "server/metrics.h"

enum {
    BODY_SWALLOW = 1 << 20, /* of a body that is not wanted */
    BODY_RATE = 64 << 10,   /* bytes per second a client must manage, after... */
    STREAM_BLOCK = 4096,
    IDLE_TIMEOUT_S = 30,
    HEADER_MEMORY = 32 << 10,
    BODIES_HELD = 4, /* full-size bodies in memory at once; the memory plan of serve counts on it */
    BODY_SMALL = 64 << 10, /* never refused for want of room: the connection limit bounds these */
};
static const uint64_t body_grace_ns = 30ull * 1000000000; /* ...this much time */

/* ---- the beginning ---- */

static void note_client(struct http_exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        x->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *sa = info ? info->client_addr : NULL;
    const void *address = NULL;
    snprintf(x->client, sizeof(x->client), "unix");
    if (sa && sa->sa_family == AF_INET)
        address = &((const struct sockaddr_in *)(const void *)sa)->sin_addr;
    else if (sa && sa->sa_family == AF_INET6)
        address = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    if (address)
        inet_ntop(sa->sa_family, address, x->client, sizeof(x->client));
}

static void note_ids(struct http_exchange *x)
{
    const char *id = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "X-Request-Id");
    const char *trace = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "traceparent");
    uint64_t random[2] = { x->arrived_ns, 0 };
    if (trace)
        http_trace_id(trace, x->trace_id);
    if (id && http_id_is_valid(id)) {
        snprintf(x->id, sizeof(x->id), "%s", id);
        return;
    }
    if (getrandom(random, sizeof(random), 0) < 0)
        random[1] = (uint64_t)(uintptr_t)x; /* still unique within the process */
    snprintf(x->id, sizeof(x->id), "%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
}

static bool expects_continue(const struct http_exchange *x)
{
    const char *expect = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Expect");
    return expect && strcasecmp(expect, "100-continue") == 0;
}

static bool has_large_body(const struct http_exchange *x)
{
    const char *length = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Content-Length");
    return length && strtoull(length, NULL, 10) > BODY_SWALLOW;
}

struct http_conn *http_conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static struct http_exchange *begin(const struct http_listener *l, struct MHD_Connection *mhd,
                                   const char *url, const char *method)
{
    struct http_conn *conn = http_conn_of(mhd);
    struct http_exchange *x = conn ? http_exchange_new(l->http->srv, mhd) : NULL;
    if (!x)
        return NULL;
    x->listener = l;
    x->conn = conn;
    x->method = http_method_of(method);
    note_client(x);
    note_ids(x);
    http_check_request(x, url);
    if (x->early.kind == API_OK && x->route->is_counted) {
        x->is_completion = true;
        atomic_fetch_add(&x->srv->n_completions, 1);
    }
    atomic_store(&x->body_read_ns, x->arrived_ns);
    atomic_store(&x->body_deadline_ns, x->arrived_ns + body_grace_ns);
    watch_attach(l->http->watch, conn, x);
    return x;
}

/* ---- the answer ---- */

static void add_header(struct MHD_Response *r, const char *name, const char *value)
{
    MHD_add_response_header(r, name, value); /* fails without memory: then it is left out */
}

static void add_cors_headers(const struct http_exchange *x, struct MHD_Response *r)
{
    char methods[48];
    if (x->live->cors_origins.n > 0)
        add_header(r, "Vary", "Origin");
    if (!x->origin)
        return;
    add_header(r, "Access-Control-Allow-Origin", x->origin);
    if (x->method != HTTP_OPTIONS) {
        add_header(r, "Access-Control-Expose-Headers", "x-request-id, retry-after");
        return;
    }
    http_allow(x->route->methods, methods, sizeof(methods));
    add_header(r, "Access-Control-Allow-Methods", methods);
    if (x->asked_headers)
        add_header(r, "Access-Control-Allow-Headers", x->asked_headers);
    add_header(r, "Access-Control-Max-Age", "86400");
}

static void add_key_headers(const struct http_exchange *x, struct MHD_Response *r)
{
    char number[16];
    uint32_t limit = x->key ? auth_limit(x->key) : 0;
    if (limit == 0 || !x->route->is_counted)
        return;
    uint32_t running = auth_n_running(x->key);
    snprintf(number, sizeof(number), "%u", limit);
    add_header(r, "x-ratelimit-limit-requests", number);
    snprintf(number, sizeof(number), "%u", running < limit ? limit - running : 0);
    add_header(r, "x-ratelimit-remaining-requests", number);
    add_header(r, "x-ratelimit-reset-requests", running < limit ? "0s" : "1s");
}

static void add_common_headers(const struct http_exchange *x, struct MHD_Response *r)
{
    char ms[24];
    snprintf(ms, sizeof(ms), "%llu",
             (unsigned long long)((srv_now_ns() - x->arrived_ns) / 1000000));
    add_header(r, "X-Request-Id", x->id);
    add_header(r, "openai-processing-ms", ms);
    for (uint32_t i = 0; i < x->n_extra; i++)
        add_header(r, x->extra[i].name, x->extra[i].fixed ? x->extra[i].fixed : x->extra[i].value);
    add_key_headers(x, r);
    add_cors_headers(x, r);
    if (x->reply.close || srv_state(x->srv) >= SRV_DRAINING)
        add_header(r, "Connection", "close");
}

static enum MHD_Result queue(struct http_exchange *x, unsigned status, struct MHD_Response *r)
{
    if (!r)
        return MHD_NO;
    add_common_headers(x, r);
    enum MHD_Result rc = MHD_queue_response(x->mhd, status, r);
    MHD_destroy_response(r);
    x->sent_status = status;
    return rc;
}

static enum MHD_Result queue_reply(struct http_exchange *x)
{
    size_t len = 0;
    char *body = buf_take(&x->reply.body, &len);
    if (!body)
        return MHD_NO;
    struct MHD_Response *r = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(body);
        return MHD_NO;
    }
    if (x->reply.content_type)
        add_header(r, "Content-Type", x->reply.content_type);
    x->bytes_out = len;
    return queue(x, x->reply.status, r);
}

static enum MHD_Result queue_finished(struct http_exchange *x)
{
    struct buf body = { 0 };
    x->app_ops->render(x, x->app, &body);
    if (body.failed) {
        buf_fini(&body);
        return MHD_NO;
    }
    x->reply.status = MHD_HTTP_OK;
    x->reply.content_type = "application/json";
    x->reply.body = body;
    return queue_reply(x);
}

/* Ends a stream that nobody reads, in the middle: the next write fails, and libmicrohttpd closes.
 * (It has a code for this, END_WITH_ERROR, but with epoll 0.9.75 then forgets the connection until
 * it is the oldest of all.) */
static ssize_t abort_stream(struct http_exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(
        x->mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info)
        shutdown(info->connect_fd, SHUT_RDWR);
    return MHD_CONTENT_READER_END_OF_STREAM;
}

/* libmicrohttpd asks for more of the stream.  0 without suspending would make it spin. */
static ssize_t read_stream(void *cls, uint64_t pos, char *dst, size_t max)
{
    (void)pos;
    struct http_exchange *x = cls;
    ssize_t n;
    pthread_mutex_lock(&x->lock);
    if (x->gone)
        n = abort_stream(x);
    else
        n = (ssize_t)http_stream_read(x, dst, max);
    if (n == 0 && x->out_ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (n == 0) {
        x->is_parked = true;
        MHD_suspend_connection(x->mhd);
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}

static enum MHD_Result queue_stream(struct http_exchange *x)
{
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
                                                               read_stream, x, NULL);
    if (!r)
        return MHD_NO;
    add_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    add_header(r, "Cache-Control", "no-cache");
    add_header(r, "X-Accel-Buffering", "no");
    enum MHD_Result rc = queue(x, MHD_HTTP_OK, r);
    if (rc == MHD_YES)
        atomic_fetch_add(&x->listener->http->n_streams, 1);
    return rc;
}

/* ---- the body ---- */

static enum MHD_Result swallow(struct http_exchange *x, size_t n)
{
    x->swallowed += n;
    return x->swallowed <= BODY_SWALLOW ? MHD_YES : MHD_NO;
}

static bool has_room(struct http_exchange *x, size_t n)
{
    uint64_t limit = x->live->max_body_bytes;
    /* What the memory plan counted with when the server started, but never less than one body. */
    uint64_t room = x->srv->opt.max_body_bytes * BODIES_HELD;
    bool is_small = x->body.len + n <= BODY_SMALL;
    uint64_t held = atomic_fetch_add(&x->srv->body_bytes, n) + n;
    x->body_counted += n;
    if (x->body.len + n > limit) {
        api_fail(&x->early, API_BODY_TOO_LARGE, NULL, "The body is larger than %llu bytes",
                 (unsigned long long)limit);
    } else if (!is_small && held > (room > limit ? room : limit)) {
        api_fail(&x->early, API_QUEUE_FULL, NULL, "Too many large requests are waiting");
        x->early.retry_after_s = 1;
    } else {
        return true;
    }
    return false;
}

static enum MHD_Result take_body(struct http_exchange *x, const char *data, size_t n)
{
    atomic_store(&x->body_read_ns, srv_now_ns());
    if (x->early.kind != API_OK || !x->route->prepare)
        return swallow(x, n);
    if (has_room(x, n))
        buf_add(&x->body, data, n);
    if (x->body.failed)
        api_fail(&x->early, API_INTERNAL, NULL, "Out of memory");
    if (x->early.kind != API_OK) {
        http_body_free(x);
        return swallow(x, n);
    }
    atomic_fetch_add(&x->body_deadline_ns, (uint64_t)n * 1000000000 / BODY_RATE);
    return MHD_YES;
}

/* ---- the request is whole, or something happened to it ---- */

static enum MHD_Result park(struct http_exchange *x)
{
    if (srv_state(x->srv) >= SRV_CLOSING)
        return MHD_NO; /* nobody would resume it */
    x->is_parked = true;
    MHD_suspend_connection(x->mhd);
    return MHD_YES;
}

/* What was answered does not change any more: it is queued outside the lock, which libmicrohttpd's
 * own locks must not come after. */
static enum MHD_Result answer(struct http_exchange *x)
{
    enum MHD_Result rc = MHD_YES;
    pthread_mutex_lock(&x->lock);
    enum http_phase phase = x->phase;
    if (x->gone)
        rc = MHD_NO;
    else if (phase == HTTP_PHASE_WAIT)
        rc = park(x);
    pthread_mutex_unlock(&x->lock);
    if (rc != MHD_YES || phase == HTTP_PHASE_WAIT)
        return rc;
    if (phase == HTTP_PHASE_REPLY)
        return queue_reply(x);
    return phase == HTTP_PHASE_FINISH ? queue_finished(x) : queue_stream(x);
}

/* Gives the request to whom it is for. */
static void dispatch(struct http_exchange *x)
{
    struct buf empty = { 0 };
    atomic_store(&x->body_deadline_ns, 0);
    pthread_mutex_lock(&x->lock);
    x->phase = HTTP_PHASE_WAIT;
    pthread_mutex_unlock(&x->lock);
    if (x->early.kind != API_OK)
        http_reply_error(x, &x->early);
    else if (x->method == HTTP_OPTIONS)
        http_reply(x, MHD_HTTP_NO_CONTENT, NULL, &empty);
    else if (x->route->answer)
        x->route->answer(x);
}

static enum MHD_Result proceed(struct http_exchange *x)
{
    if (x->is_dispatched)
        return answer(x);
    x->is_dispatched = true;
    dispatch(x);
    bool to_prepare = x->early.kind == API_OK && x->method != HTTP_OPTIONS && x->route->prepare;
    if (!to_prepare)
        return answer(x);
    /* Suspended first: the preparation may be done before this thread goes on. */
    enum MHD_Result rc = answer(x);
    if (rc == MHD_YES)
        prepare_push(x->srv->prepare, x);
    return rc;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **con_cls)
{
    (void)version;
    struct http_exchange *x = *con_cls;
    if (x && *upload_size) {
        size_t n = *upload_size;
        *upload_size = 0;
        return take_body(x, upload, n);
    }
    if (x)
        return proceed(x);
    x = begin(cls, mhd, url, method);
    *con_cls = x;
    if (!x)
        return MHD_NO;
    if (x->early.kind == API_BAD_REQUEST) /* where its body ends is not to be trusted */
        return proceed(x);
    if (x->early.kind != API_OK && (has_large_body(x) || expects_continue(x)))
        return proceed(x);
    return MHD_YES;
}

/* ---- the end ---- */

static enum sched_cancel_cause cause_of(enum MHD_RequestTerminationCode code)
{
    return code == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED ? SCHED_CANCEL_SLOW_READER
                                                          : SCHED_CANCEL_CLIENT;
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    const struct http_listener *l = cls;
    struct http_exchange *x = *con_cls;
    (void)mhd;
    if (!x)
        return;
    *con_cls = NULL;
    watch_detach(l->http->watch, x->conn);
    pthread_mutex_lock(&x->lock);
    bool is_ok = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !x->gone;
    if (!is_ok)
        http_give_up(x, cause_of(code));
    x->mhd = NULL;
    bool was_stream = x->phase == HTTP_PHASE_STREAM && x->sent_status != 0;
    pthread_mutex_unlock(&x->lock);
    if (was_stream)
        atomic_fetch_sub(&l->http->n_streams, 1);
    http_account(x, is_ok ? x->sent_status : 499);
    http_release_seat(x); /* of a request that was never answered */
    if (x->is_completion)
        atomic_fetch_sub(&x->srv->n_completions, 1);
    http_unref(x);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_listener *l = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(
            mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? watch_add(l->http->watch, l, mhd, info->connect_fd) : NULL;
        if (info && l->is_tls)
            tls_begin(mhd, info->connect_fd);
        return;
    }
    if (*context)
        watch_remove(l->http->watch, *context);
    *context = NULL;
    acceptor_release(l);
}

static void on_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char text[256];
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\r\n")] = '\0';
    log_event(LOG_DEBUG_LEVEL, "http_library", LOG_STR("message", text), LOG_END);
}

struct MHD_Daemon *http_start_daemon(struct http_listener *l)
{
    struct MHD_OptionItem tls[TLS_N_OPTIONS + 1] = { 0 };
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET |
                     MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (l->is_tls) {
        flags |= MHD_USE_TLS;
        tls_daemon_options(tls);
    }
    tls[l->is_tls ? TLS_N_OPTIONS : 0] = (struct MHD_OptionItem){ MHD_OPTION_END, 0, NULL };
    return MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, l, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, l, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        l, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S, MHD_OPTION_CONNECTION_LIMIT,
        l->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_MEMORY,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
}
