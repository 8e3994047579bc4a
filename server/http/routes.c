/* SPDX-License-Identifier: Apache-2.0
 *
 * routes.c - every path that is served, and by what.
 */
#include <string.h>

#include "server/api/api.h"
#include "server/http/http.h"
#include "server/page/page.h"

enum { GET_HEAD = HTTP_GET | HTTP_HEAD };

const struct http_route http_routes[] = {
    { .name = "/v1/completions",
      .path = "/v1/completions",
      .methods = HTTP_POST,
      .needs_model = true,
      .is_counted = true,
      .prepare = api_completions_prepare },
    { .name = "/completions",
      .path = "/completions",
      .methods = HTTP_POST,
      .needs_model = true,
      .is_counted = true,
      .prepare = api_completions_prepare },
    { .name = "/v1/chat/completions",
      .path = "/v1/chat/completions",
      .methods = HTTP_POST,
      .needs_model = true,
      .is_counted = true,
      .prepare = api_chat_prepare },
    { .name = "/chat/completions",
      .path = "/chat/completions",
      .methods = HTTP_POST,
      .needs_model = true,
      .is_counted = true,
      .prepare = api_chat_prepare },
    { .name = "/apply-template",
      .path = "/apply-template",
      .methods = HTTP_POST,
      .needs_model = true,
      .prepare = api_template_prepare },
    { .name = "/tokenize",
      .path = "/tokenize",
      .methods = HTTP_POST,
      .needs_model = true,
      .prepare = api_tokenize_prepare },
    { .name = "/detokenize",
      .path = "/detokenize",
      .methods = HTTP_POST,
      .needs_model = true,
      .prepare = api_detokenize_prepare },
    { .name = "/v1/models",
      .path = "/v1/models",
      .methods = HTTP_GET,
      .answer = api_models_answer },
    { .name = "/v1/models/{id}",
      .path = "/v1/models/",
      .takes_rest = true,
      .methods = HTTP_GET,
      .answer = api_model_answer },
    { .name = "/live",
      .path = "/live",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_live_answer },
    { .name = "/ready",
      .path = "/ready",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_ready_answer },
    { .name = "/health",
      .path = "/health",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_ready_answer },
    { .name = "/v1/health",
      .path = "/v1/health",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_ready_answer },
    { .name = "/version",
      .path = "/version",
      .methods = HTTP_GET,
      .is_open = true,
      .is_quiet = true,
      .answer = api_version_answer },
    { .name = "/metrics",
      .path = "/metrics",
      .methods = HTTP_GET,
      .is_quiet = true,
      .answer = api_metrics_answer },
    { .name = "/",
      .path = "/",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = page_answer },
    { .name = "/v2/health/live",
      .path = "/v2/health/live",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_v2_live_answer },
    { .name = "/v2/health/ready",
      .path = "/v2/health/ready",
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_v2_ready_answer },
    { .name = "/v2/models/{id}/ready",
      .path = "/v2/models/",
      .end = "/ready",
      .takes_rest = true,
      .methods = GET_HEAD,
      .is_open = true,
      .is_quiet = true,
      .answer = api_v2_model_ready_answer },
    { .name = "/props",
      .path = "/props",
      .methods = HTTP_GET,
      .needs_model = true,
      .answer = api_props_answer },
    { .name = "/slots",
      .path = "/slots",
      .methods = HTTP_GET,
      .needs_model = true,
      .is_quiet = true,
      .answer = api_slots_answer },
    { .name = "/v1/embeddings",
      .path = "/v1/embeddings",
      .methods = HTTP_POST,
      .answer = api_embeddings_answer },
    { .name = "other", .methods = 0 },
};
const uint32_t http_n_routes = sizeof(http_routes) / sizeof(http_routes[0]);

static bool matches(const struct http_route *r, const char *path)
{
    if (!r->takes_rest)
        return strcmp(r->path, path) == 0;
    size_t len = strlen(r->path), all = strlen(path);
    size_t end_len = r->end ? strlen(r->end) : 0;
    if (strncmp(r->path, path, len) != 0 || all <= len + end_len)
        return false;
    return end_len == 0 || strcmp(path + all - end_len, r->end) == 0;
}

const struct http_route *http_find_route(const char *path)
{
    uint32_t i = 0;
    while (i + 1 < http_n_routes && !matches(&http_routes[i], path))
        i++;
    return &http_routes[i];
}
