/* SPDX-License-Identifier: Apache-2.0
 *
 * checks.c - what can be said of a request by its headers alone, in this order: where it comes
 * from, what it asks for, who asks, whether anybody can answer now, and what the body will be.
 */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/api/api.h"
#include "server/http/auth.h"
#include "server/http/http.h"
#include "server/live.h"
#include "server/page/page.h"

static const char *header_of(const struct http_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name);
}

/* A web page can make a browser send requests to a name of its own that resolves to 127.0.0.1; such
 * a request carries that name as its Host. */
static void check_host(struct http_exchange *x)
{
    const char *header = header_of(x, "Host");
    char host[256];
    if (!x->listener->is_loopback || !header)
        return;
    if (http_host_name(header, host, sizeof(host)) &&
        (http_is_loopback_name(host) || strcmp(host, x->listener->host) == 0 ||
         live_has(&x->live->allowed_hosts, host)))
        return;
    api_fail(&x->early, API_HOST_REFUSED, NULL,
             "This server listens on a loopback address and does not answer to this Host name");
}

/* ---- framing ---- */

struct framing {
    unsigned n_lengths, n_codings;
};

static enum MHD_Result count_framing(void *cls, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    struct framing *f = cls;
    (void)kind;
    (void)value;
    f->n_lengths += strcasecmp(name, "Content-Length") == 0;
    f->n_codings += strcasecmp(name, "Transfer-Encoding") == 0;
    return MHD_YES;
}

/* A proxy in front could see another end of the body than we do, and take its rest for a request of
 * somebody else. */
static void check_framing(struct http_exchange *x)
{
    struct framing f = { 0 };
    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, count_framing, &f);
    if (f.n_lengths > 1 || (f.n_lengths && f.n_codings))
        api_fail(&x->early, API_BAD_REQUEST, NULL,
                 "A request must say its length once: one Content-Length, or Transfer-Encoding");
}

/* ---- CORS ---- */

static void note_origin(struct http_exchange *x)
{
    const char *origin = header_of(x, "Origin");
    if (!origin)
        return;
    if (live_has(&x->live->cors_origins, "*"))
        x->origin = strdup("*");
    else if (live_has(&x->live->cors_origins, origin))
        x->origin = strdup(origin);
}

static bool is_preflight(struct http_exchange *x)
{
    if (x->method != HTTP_OPTIONS || x->live->cors_origins.n == 0 || !x->route->path)
        return false;
    const char *asked = header_of(x, "Access-Control-Request-Headers");
    if (asked && strlen(asked) < 4096)
        x->asked_headers = strdup(asked);
    return true;
}

/* ---- route and key ---- */

/* An address for the metrics alone also has the probes. */
static bool is_here(const struct http_exchange *x)
{
    const struct http_route *r = x->route;
    bool is_metrics = r->answer == api_metrics_answer, is_page = r->answer == page_answer;
    if (!r->path || (is_page && x->srv->opt.no_page))
        return false;
    if (x->listener->metrics_only)
        return is_metrics || (r->is_open && !is_page);
    return !is_metrics || !x->listener->http->has_metrics_listener;
}

static void check_route(struct http_exchange *x)
{
    if (!is_here(x))
        api_fail(&x->early, API_UNKNOWN_URL, NULL, "There is nothing at this URL");
    else if (!(x->route->methods & x->method))
        api_fail(&x->early, API_METHOD_NOT_ALLOWED, NULL, "This URL does not take this method");
}

static const char *secret_of(const struct http_exchange *x)
{
    const char *authorization = header_of(x, "Authorization");
    const char *secret = authorization ? http_bearer(authorization) : NULL;
    return secret ? secret : header_of(x, "X-Api-Key");
}

static bool needs_key(const struct http_exchange *x)
{
    bool is_model_list = x->route->answer == api_models_answer ||
                         x->route->answer == api_model_answer;
    if (!x->live->auth || x->route->is_open || x->listener->metrics_only)
        return false;
    return !(is_model_list && x->live->public_models);
}

static void check_key(struct http_exchange *x)
{
    const char *secret = x->live->auth ? secret_of(x) : NULL;
    if (secret)
        x->key = auth_find(x->live->auth, secret);
    if (needs_key(x) && !x->key)
        api_fail(&x->early, API_INVALID_KEY, NULL,
                 secret ? "This API key is not known"
                        : "An API key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY");
}

static void take_seat(struct http_exchange *x)
{
    if (!x->route->is_counted || !x->key)
        return;
    atomic_store(&x->holds_seat, auth_acquire(x->key));
    if (atomic_load(&x->holds_seat))
        return;
    api_fail(&x->early, API_KEY_LIMIT, NULL, "This API key allows %u requests at a time",
             auth_limit(x->key));
    x->early.retry_after_s = 1;
}

/* ---- the body to come ---- */

static void check_body(struct http_exchange *x)
{
    const char *length = header_of(x, "Content-Length");
    unsigned long long limit = x->live->max_body_bytes;
    if (!x->route->prepare)
        return;
    if (!http_is_json_type(header_of(x, "Content-Type")))
        api_fail(&x->early, API_MEDIA_TYPE, NULL, "The Content-Type must be application/json");
    if (length && strtoull(length, NULL, 10) > limit)
        api_fail(&x->early, API_BODY_TOO_LARGE, NULL, "The body is larger than %llu bytes", limit);
}

static char *rest_of(const struct http_route *r, const char *url)
{
    const char *rest = url + strlen(r->path);
    return strndup(rest, strlen(rest) - (r->end ? strlen(r->end) : 0));
}

void http_check_request(struct http_exchange *x, const char *url)
{
    x->route = http_find_route(url);
    if (x->route->takes_rest)
        x->rest = rest_of(x->route, url);
    note_origin(x);
    check_framing(x);
    check_host(x);
    if (x->early.kind == API_OK && is_preflight(x))
        return;
    if (x->early.kind == API_OK)
        check_route(x);
    if (x->early.kind == API_OK)
        check_key(x);
    if (x->early.kind == API_OK && x->route->needs_model)
        api_check_state(x->srv, &x->early);
    if (x->early.kind == API_OK)
        check_body(x);
    if (x->early.kind == API_OK)
        take_seat(x);
}

bool http_wants_openmetrics(const struct http_exchange *x)
{
    static const char type[] = "application/openmetrics-text";
    const char *accept = header_of(x, "Accept");
    return accept && strncmp(accept, type, sizeof(type) - 1) == 0;
}

bool http_query_is(const struct http_exchange *x, const char *name, const char *value)
{
    const char *given = MHD_lookup_connection_value(x->mhd, MHD_GET_ARGUMENT_KIND, name);
    return given && strcmp(given, value) == 0;
}
