/* SPDX-License-Identifier: Apache-2.0
 *
 * tokens.c - POST /tokenize and /detokenize.
 */
#include <stdlib.h>

#include "server/api/api.h"

/* Text that stays UTF-8 is a string; else the bytes, since JSON has no other way to say them. */
static void add_piece(struct buf *b, const struct engine *e, int32_t id)
{
    size_t len;
    const char *bytes = engine_token_bytes(e, id, &len);
    if (utf8_valid(bytes, len)) {
        buf_json(b, bytes, len);
        return;
    }
    buf_char(b, '[');
    for (size_t i = 0; i < len; i++)
        buf_printf(b, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    buf_char(b, ']');
}

static void add_pieces(struct buf *b, const struct engine *e, const struct engine_tokens *t)
{
    for (size_t i = 0; i < t->n; i++) {
        buf_printf(b, "%s{\"id\":%d,\"piece\":", i ? "," : "", t->ids[i]);
        add_piece(b, e, t->ids[i]);
        buf_char(b, '}');
    }
}

static void add_strings(struct buf *b, const struct engine *e, const struct engine_tokens *t)
{
    buf_str(b, ",\"token_strs\":[");
    for (size_t i = 0; i < t->n; i++) {
        size_t len;
        const char *bytes = engine_token_bytes(e, t->ids[i], &len);
        if (i)
            buf_char(b, ',');
        buf_json(b, bytes, len);
    }
    buf_char(b, ']');
}

static void reply_tokens(struct http_exchange *x, const struct api_tokenize *req,
                         const struct engine_tokens *t)
{
    const struct engine *e = x->srv->engine;
    struct buf b = { 0 };
    buf_str(&b, "{\"tokens\":[");
    if (req->with_pieces)
        add_pieces(&b, e, t);
    else
        api_render_ids(&b, t->ids, t->n);
    buf_str(&b, "],\"count\":");
    buf_u64(&b, t->n);
    buf_printf(&b, ",\"max_model_len\":%u", engine_info(e)->n_ctx);
    if (req->with_strings)
        add_strings(&b, e, t);
    buf_char(&b, '}');
    http_reply_json(x, 200, &b);
}

static int tokenize(struct http_exchange *x, struct api_tokenize *req, struct engine_tokens *t,
                    struct api_error *err)
{
    struct api_limits limits;
    struct engine_err why = { 0 };
    api_limits_of(x->srv, &limits);
    if (api_parse_tokenize(x->body.data, x->body.len, &limits, req, err) != 0)
        return -1;
    api_warn_unknown(x, &req->unknown);
    if (api_check_model(x->srv, req->model, err) != 0)
        return -1;
    unsigned flags = (req->add_special ? ENGINE_TOKENIZE_ADD_SPECIAL : 0u) |
                     (req->parse_special ? ENGINE_TOKENIZE_PARSE_SPECIAL : 0u);
    if (engine_tokenize(x->srv->engine, req->text, req->text_len, flags, t, &why) != 0) {
        api_error_from_engine(err, &why);
        return -1;
    }
    return 0;
}

enum prepare_turn api_tokenize_prepare(struct http_exchange *x)
{
    struct api_tokenize req;
    struct engine_tokens tokens = { 0 };
    struct api_error err = { 0 };
    if (tokenize(x, &req, &tokens, &err) == 0)
        reply_tokens(x, &req, &tokens);
    else
        http_reply_error(x, &err);
    engine_tokens_fini(&tokens);
    api_tokenize_fini(&req);
    return PREPARE_DONE;
}

static void detokenize(const struct engine *e, const struct api_detokenize *req, struct buf *text)
{
    struct engine_detok detok = { 0 };
    size_t room = engine_detok_max(e);
    if (room < ENGINE_DETOK_MIN)
        room = ENGINE_DETOK_MIN;
    engine_detok_init(&detok, e, false, true);
    for (size_t i = 0; i < req->n_ids && buf_reserve(text, room); i++)
        text->len += engine_detok_push(&detok, req->ids[i], text->data + text->len);
    if (buf_reserve(text, room))
        text->len += engine_detok_flush(&detok, text->data + text->len);
}

enum prepare_turn api_detokenize_prepare(struct http_exchange *x)
{
    struct api_detokenize req;
    struct api_limits limits;
    struct api_error err = { 0 };
    struct buf text = { 0 }, b = { 0 };
    api_limits_of(x->srv, &limits);
    if (api_parse_detokenize(x->body.data, x->body.len, &limits, &req, &err) != 0 ||
        api_check_model(x->srv, req.model, &err) != 0) {
        http_reply_error(x, &err);
    } else {
        api_warn_unknown(x, &req.unknown);
        detokenize(x->srv->engine, &req, &text);
        buf_str(&b, "{\"content\":");
        buf_json(&b, text.data, text.len);
        buf_str(&b, ",\"prompt\":");
        buf_json(&b, text.data, text.len);
        buf_char(&b, '}');
        b.failed = b.failed || text.failed;
        http_reply_json(x, 200, &b);
    }
    buf_fini(&text);
    api_detokenize_fini(&req);
    return PREPARE_DONE;
}
