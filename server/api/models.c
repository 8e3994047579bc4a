/* SPDX-License-Identifier: Apache-2.0
 *
 * models.c - GET /v1/models and /v1/models/{id}.  Answers while the model loads, with what is known
 * by then.
 */
#include <string.h>

#include "server/api/api.h"

static void add_aliases(struct buf *b, const struct srv_options *opt)
{
    buf_str(b, ",\"aliases\":[");
    for (uint32_t i = 1; i < opt->n_aliases; i++) {
        if (i > 1)
            buf_char(b, ',');
        buf_json_str(b, opt->aliases[i]);
    }
    buf_char(b, ']');
}

static void add_meta(struct buf *b, const struct engine_info *info)
{
    if (!info) {
        buf_str(b, ",\"max_model_len\":null,\"meta\":null");
        return;
    }
    buf_printf(b, ",\"max_model_len\":%u,\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u",
               info->n_ctx, info->n_vocab, info->n_ctx_train, info->n_embd);
    buf_str(b, ",\"n_params\":");
    buf_u64(b, info->n_params);
    buf_str(b, ",\"size\":");
    buf_u64(b, info->file_bytes);
    buf_char(b, '}');
}

static void render_model(struct buf *b, const struct srv *s)
{
    const struct engine_info *info = srv_state(s) == SRV_LOADING || !s->engine
                                         ? NULL
                                         : engine_info(s->engine);
    buf_str(b, "{\"id\":");
    buf_json_str(b, s->model_name);
    buf_str(b, ",\"object\":\"model\",\"created\":");
    buf_i64(b, info ? info->file_mtime : s->opened_at);
    buf_str(b, ",\"owned_by\":\"lacuna\",\"root\":");
    buf_json_str(b, s->model_name);
    buf_str(b, ",\"parent\":null");
    add_meta(b, info);
    add_aliases(b, &s->opt);
    buf_char(b, '}');
}

void api_models_answer(struct http_exchange *x)
{
    struct buf b = { 0 };
    buf_str(&b, "{\"object\":\"list\",\"data\":[");
    render_model(&b, x->srv);
    buf_str(&b, "]}");
    http_reply_json(x, 200, &b);
}

void api_model_answer(struct http_exchange *x)
{
    struct buf b = { 0 };
    struct api_error e = { 0 };
    if (x->rest && api_check_model(x->srv, x->rest, &e) == 0) {
        render_model(&b, x->srv);
        http_reply_json(x, 200, &b);
        return;
    }
    if (e.kind == API_OK)
        api_fail(&e, API_INTERNAL, NULL, "Out of memory");
    http_reply_error(x, &e);
}
