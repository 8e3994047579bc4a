/* SPDX-License-Identifier: Apache-2.0
 *
 * api_render_chat.c - answers and chunks of chats as JSON.  Pure but for looking up tokens' bytes.
 */
#include "server/api/api.h"

/* ---- log-probabilities ---- */

static void add_token(struct buf *b, const struct engine *e, bool as_ids, int32_t token,
                      double logprob)
{
    size_t len;
    const char *bytes = engine_token_bytes(e, token, &len);
    buf_str(b, "{\"token\":");
    if (as_ids)
        api_render_piece(b, e, token, true);
    else
        buf_json(b, bytes, len);
    buf_str(b, ",\"logprob\":");
    buf_json_float(b, logprob);
    buf_str(b, ",\"bytes\":[");
    for (size_t i = 0; i < len; i++)
        buf_printf(b, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    buf_char(b, ']');
}

void api_chat_logprobs_add(struct api_logprobs *l, const struct engine *e, bool as_ids,
                           const struct sched_logprobs *entry)
{
    struct buf *b = &l->tokens;
    if (b->len > 0)
        buf_char(b, ',');
    add_token(b, e, as_ids, entry->token, (double)entry->logprob);
    buf_str(b, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < entry->n_top; i++) {
        if (i > 0)
            buf_char(b, ',');
        add_token(b, e, as_ids, entry->top[i].token, (double)entry->top[i].logprob);
        buf_char(b, '}');
    }
    buf_str(b, "]}");
}

static void add_logprobs(struct buf *b, const struct api_logprobs *l)
{
    buf_str(b, ",\"logprobs\":");
    if (!l) {
        buf_str(b, "null");
        return;
    }
    buf_str(b, "{\"content\":[");
    buf_add(b, l->tokens.data, l->tokens.len);
    buf_str(b, "],\"refusal\":null}");
    b->failed = b->failed || l->tokens.failed;
}

/* ---- choices ---- */

void api_render_chat_choice(struct buf *b, const struct api_choice *c)
{
    buf_printf(b, "{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", c->index);
    buf_json(b, c->text, c->text_len);
    buf_str(b, ",\"refusal\":null}");
    add_logprobs(b, c->logprobs);
    buf_str(b, ",\"finish_reason\":");
    buf_json_str(b, api_finish_name(c->finish));
    api_render_choice_rest(b, c);
    buf_char(b, '}');
}

void api_render_chat_begin(struct buf *b, const struct api_choice *c)
{
    struct api_choice begin = *c;
    begin.token_ids = NULL;
    begin.stop_string = NULL;
    begin.stop_token = -1;
    buf_printf(b,
               "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
               "\"logprobs\":null,\"finish_reason\":null",
               c->index);
    api_render_choice_rest(b, &begin);
    buf_char(b, '}');
}

void api_render_chat_delta(struct buf *b, const struct api_choice *c)
{
    struct api_choice part = *c;
    part.prompt_ids = NULL;
    part.stop_string = NULL;
    part.stop_token = -1;
    buf_printf(b, "{\"index\":%u,\"delta\":{\"content\":", c->index);
    buf_json(b, c->text, c->text_len);
    buf_char(b, '}');
    add_logprobs(b, c->logprobs);
    buf_str(b, ",\"finish_reason\":null");
    api_render_choice_rest(b, &part);
    buf_char(b, '}');
}

void api_render_chat_end(struct buf *b, const struct api_choice *c)
{
    struct api_choice end = *c;
    end.prompt_ids = NULL;
    end.token_ids = NULL;
    buf_printf(b, "{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":", c->index);
    buf_json_str(b, api_finish_name(c->finish));
    api_render_choice_rest(b, &end);
    buf_char(b, '}');
}
