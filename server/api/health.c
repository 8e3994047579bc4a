/* SPDX-License-Identifier: Apache-2.0
 *
 * health.c - probes, version, metrics.  They read atomics only, so that they answer at once
 * whatever the engine is doing.
 */
#include "server/api/api.h"
#include "server/metrics.h"

void api_check_state(const struct srv *s, struct api_error *e)
{
    switch (srv_state(s)) {
    case SRV_LOADING:
        api_fail(e, API_MODEL_LOADING, NULL, "Loading model");
        e->loaded_bytes = atomic_load(&s->load_done_bytes);
        e->total_bytes = atomic_load(&s->load_total_bytes);
        break;
    case SRV_DRAINING:
    case SRV_CLOSING:
        api_fail(e, API_SHUTTING_DOWN, NULL, "The server is shutting down");
        break;
    default:
        if (atomic_load(&s->is_stuck))
            api_fail(e, API_ENGINE_STUCK, NULL, "The engine does not move");
        break;
    }
}

static void reply_text(struct http_exchange *x, unsigned status, const char *json)
{
    struct buf b = { 0 };
    buf_str(&b, json);
    http_reply_json(x, status, &b);
}

static void check_live(const struct srv *s, struct api_error *e)
{
    if (atomic_load(&s->is_stuck))
        api_fail(e, API_ENGINE_STUCK, NULL, "The engine does not move");
}

static void check_ready(const struct srv *s, struct api_error *e)
{
    api_check_state(s, e);
    if (e->kind == API_OK && srv_state(s) == SRV_DRAIN_DELAY)
        api_fail(e, API_SHUTTING_DOWN, NULL, "The server is shutting down");
}

void api_live_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    check_live(x->srv, &e);
    if (e.kind == API_OK)
        reply_text(x, 200, "{\"status\":\"ok\"}");
    else
        http_reply_error(x, &e);
}

void api_ready_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    check_ready(x->srv, &e);
    if (e.kind == API_OK)
        reply_text(x, 200, "{\"status\":\"ok\"}");
    else
        http_reply_error(x, &e);
}

/* ---- the same in the words of the open inference protocol ---- */

void api_v2_live_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    check_live(x->srv, &e);
    if (e.kind == API_OK)
        reply_text(x, 200, "{\"live\":true}");
    else
        http_reply_error(x, &e);
}

void api_v2_ready_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    check_ready(x->srv, &e);
    if (e.kind == API_OK)
        reply_text(x, 200, "{\"ready\":true}");
    else
        http_reply_error(x, &e);
}

void api_v2_model_ready_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    struct buf b = { 0 };
    if (!x->rest)
        api_fail(&e, API_INTERNAL, NULL, "Out of memory");
    else if (api_check_model(x->srv, x->rest, &e) == 0)
        check_ready(x->srv, &e);
    if (e.kind != API_OK) {
        http_reply_error(x, &e);
        return;
    }
    buf_str(&b, "{\"name\":");
    buf_json_str(&b, x->srv->model_name);
    buf_str(&b, ",\"ready\":true}");
    http_reply_json(x, 200, &b);
}

void api_version_answer(struct http_exchange *x)
{
    reply_text(x, 200, "{\"version\":\"" LACUNA_VERSION "\",\"commit\":\"" LACUNA_COMMIT "\"}");
}

void api_embeddings_answer(struct http_exchange *x)
{
    struct api_error e = { 0 };
    api_fail(&e, API_ENDPOINT_DISABLED, NULL, "This server has no embeddings");
    http_reply_error(x, &e);
}

void api_metrics_answer(struct http_exchange *x)
{
    struct buf b = { 0 };
    bool openmetrics = http_wants_openmetrics(x);
    metrics_render(x->srv, &b, openmetrics);
    http_reply(x, 200,
               openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                           : "text/plain; version=0.0.4; charset=utf-8",
               &b);
}
