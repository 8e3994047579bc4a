/* SPDX-License-Identifier: Apache-2.0
 *
 * api_render.c - the parts of answers and chunks as JSON.  Pure but for looking up tokens' bytes.
 */
#include <string.h>

#include "server/api/api.h"

const char *api_finish_name(enum sched_finish finish)
{
    switch (finish) {
    case SCHED_FINISH_STOP:
        return "stop";
    case SCHED_FINISH_LENGTH:
        return "length";
    default:
        return NULL;
    }
}

/* ---- log-probabilities ---- */

static void add_hex_bytes(struct buf *b, const char *bytes, size_t len)
{
    buf_str(b, "\"bytes:");
    for (size_t i = 0; i < len; i++)
        buf_printf(b, "\\\\x%02x", (unsigned)(unsigned char)bytes[i]);
    buf_char(b, '"');
}

void api_render_piece(struct buf *b, const struct engine *e, int32_t token, bool as_id)
{
    size_t len;
    if (as_id) {
        buf_printf(b, "\"token_id:%d\"", token);
        return;
    }
    const char *bytes = engine_token_bytes(e, token, &len);
    if (utf8_valid(bytes, len))
        buf_json(b, bytes, len);
    else
        add_hex_bytes(b, bytes, len);
}

/* Members of an object must differ, and two tokens may have the same bytes. */
static bool is_shown_before(const struct engine *e, const struct sched_logprobs *l, uint32_t i)
{
    size_t len, other_len;
    const char *bytes = engine_token_bytes(e, l->top[i].token, &len);
    for (uint32_t j = 0; j < i; j++) {
        const char *other = engine_token_bytes(e, l->top[j].token, &other_len);
        if (len == other_len && memcmp(bytes, other, len) == 0)
            return true;
    }
    return false;
}

static bool is_among(const struct engine *e, bool as_ids, const struct sched_logprobs *l)
{
    size_t len, other_len;
    for (uint32_t i = 0; i < l->n_top; i++)
        if (l->top[i].token == l->token)
            return true;
    if (as_ids)
        return false;
    const char *bytes = engine_token_bytes(e, l->token, &len);
    for (uint32_t i = 0; i < l->n_top; i++) {
        const char *other = engine_token_bytes(e, l->top[i].token, &other_len);
        if (len == other_len && memcmp(bytes, other, len) == 0)
            return true;
    }
    return false;
}

static void add_top(struct buf *b, const struct engine *e, bool as_ids,
                    const struct sched_logprobs *l)
{
    const char *separator = "";
    buf_char(b, '{');
    for (uint32_t i = 0; i < l->n_top; i++) {
        if (!as_ids && is_shown_before(e, l, i))
            continue;
        buf_str(b, separator);
        api_render_piece(b, e, l->top[i].token, as_ids);
        buf_char(b, ':');
        buf_json_float(b, (double)l->top[i].logprob);
        separator = ",";
    }
    if (!is_among(e, as_ids, l)) {
        buf_str(b, separator);
        api_render_piece(b, e, l->token, as_ids);
        buf_char(b, ':');
        buf_json_float(b, (double)l->logprob);
    }
    buf_char(b, '}');
}

static void separate(struct buf *list)
{
    if (list->len > 0)
        buf_char(list, ',');
}

static void add_entry(struct api_logprobs *l, const struct engine *e, bool as_ids,
                      const struct sched_logprobs *entry)
{
    separate(&l->tokens);
    separate(&l->token_logprobs);
    separate(&l->top_logprobs);
    separate(&l->text_offset);
    api_render_piece(&l->tokens, e, entry->token, as_ids);
    buf_u64(&l->text_offset, entry->text_offset);
    if (!entry->has_logprob) {
        buf_str(&l->token_logprobs, "null");
        buf_str(&l->top_logprobs, "null");
        return;
    }
    buf_json_float(&l->token_logprobs, (double)entry->logprob);
    add_top(&l->top_logprobs, e, as_ids, entry);
}

void api_logprobs_add(struct api_logprobs *l, const struct engine *e, bool as_ids,
                      const struct sched_logprobs *entries, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        add_entry(l, e, as_ids, &entries[i]);
}

void api_logprobs_clear(struct api_logprobs *l)
{
    buf_clear(&l->tokens);
    buf_clear(&l->token_logprobs);
    buf_clear(&l->top_logprobs);
    buf_clear(&l->text_offset);
}

void api_logprobs_fini(struct api_logprobs *l)
{
    buf_fini(&l->tokens);
    buf_fini(&l->token_logprobs);
    buf_fini(&l->top_logprobs);
    buf_fini(&l->text_offset);
}

static void add_list(struct buf *b, const char *name, const struct buf *list)
{
    buf_str(b, name);
    buf_add(b, list->data, list->len);
    b->failed = b->failed || list->failed;
}

void api_render_logprobs(struct buf *b, const struct api_logprobs *l)
{
    add_list(b, "{\"tokens\":[", &l->tokens);
    add_list(b, "],\"token_logprobs\":[", &l->token_logprobs);
    add_list(b, "],\"top_logprobs\":[", &l->top_logprobs);
    add_list(b, "],\"text_offset\":[", &l->text_offset);
    buf_str(b, "]}");
}

/* ---- choices ---- */

void api_render_ids(struct buf *b, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_char(b, ',');
        buf_i64(b, ids[i]);
    }
}

static void add_stop_reason(struct buf *b, const struct api_choice *c)
{
    buf_str(b, ",\"stop_reason\":");
    if (c->stop_string)
        buf_json(b, c->stop_string, c->stop_string_len);
    else if (c->stop_token >= 0)
        buf_i64(b, c->stop_token);
    else
        buf_str(b, "null");
}

void api_render_choice(struct buf *b, const struct api_choice *c)
{
    buf_printf(b, "{\"index\":%u,\"text\":", c->index);
    buf_json(b, c->text, c->text_len);
    buf_str(b, ",\"logprobs\":");
    if (c->logprobs)
        api_render_logprobs(b, c->logprobs);
    else
        buf_str(b, "null");
    buf_str(b, ",\"finish_reason\":");
    buf_json_str(b, api_finish_name(c->finish));
    api_render_choice_rest(b, c);
    buf_char(b, '}');
}

void api_render_choice_rest(struct buf *b, const struct api_choice *c)
{
    add_stop_reason(b, c);
    if (c->prompt_ids) {
        buf_str(b, ",\"prompt_token_ids\":[");
        api_render_ids(b, c->prompt_ids, c->n_prompt_ids);
        buf_char(b, ']');
    }
    if (c->token_ids) {
        add_list(b, ",\"token_ids\":[", c->token_ids);
        buf_char(b, ']');
    }
}

/* ---- the whole ---- */

void api_render_head(struct buf *b, const struct api_head *h)
{
    static const struct {
        const char *id, *object;
    } names[] = {
        [API_TEXT_COMPLETION] = { "cmpl-", "text_completion" },
        [API_CHAT_COMPLETION] = { "chatcmpl-", "chat.completion" },
        [API_CHAT_CHUNK] = { "chatcmpl-", "chat.completion.chunk" },
    };
    /* An id is letters, digits and . _ - alone. */
    buf_printf(b, "{\"id\":\"%s%s\",\"object\":\"%s\",\"created\":", names[h->object].id, h->id,
               names[h->object].object);
    buf_i64(b, h->created);
    buf_str(b, ",\"model\":");
    buf_json_str(b, h->model);
    buf_str(b, ",\"system_fingerprint\":");
    buf_json_str(b, h->fingerprint);
    buf_str(b, ",\"choices\":[");
}

/* Of no token: all of nothing. */
static double share_of(uint64_t n, double all)
{
    return all > 0 ? (double)n / all : 1;
}

static void add_quality(struct buf *b, const struct sched_usage *u, const struct engine_info *info)
{
    const struct engine_point *p = &info->points[u->point];
    double n_all = (double)u->decoded_rows * info->n_neurons;
    buf_str(b, "\"quality\":{\"point\":");
    buf_json_str(b, p->name);
    buf_printf(b, ",\"up\":%.4f,\"down\":%.4f", share_of(u->up_neurons, n_all),
               share_of(u->down_neurons, n_all));
    if (u->pages_seen > 0)
        buf_printf(b, ",\"pages\":%.4f", share_of(u->pages_read, (double)u->pages_seen));
    if (p->same_top > 0) /* it was measured */
        buf_printf(b, ",\"expected\":{\"kl\":%.6f,\"same_top\":%.4f}", p->kl, p->same_top);
    buf_char(b, '}');
}

/* What was not computed as the model says. */
static void add_approximations(struct buf *b, const struct sched_usage *u,
                               const struct engine_info *info)
{
    bool has_experts = !engine_experts_are_exact(info), has_point = u->point != ENGINE_POINT_EXACT;
    if (!has_experts && !has_point)
        return;
    buf_str(b, ",\"lacuna\":{");
    if (has_experts)
        buf_printf(b, "\"experts\":{\"used\":%u,\"of\":%u,\"kept\":%u,\"replaced\":%llu}",
                   info->n_experts_used, info->n_experts_used_exact, info->n_experts_kept,
                   (unsigned long long)u->replaced_experts);
    if (has_experts && has_point)
        buf_char(b, ',');
    if (has_point)
        add_quality(b, u, info);
    buf_char(b, '}');
}

void api_render_usage(struct buf *b, const struct sched_usage *u, const struct engine_info *info)
{
    buf_printf(b,
               "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%llu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%u},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":0}",
               u->prompt_tokens, u->completion_tokens,
               (unsigned long long)u->prompt_tokens + u->completion_tokens, u->cached_tokens);
    add_approximations(b, u, info);
    buf_char(b, '}');
}

static double ms_of(uint64_t ns)
{
    return (double)ns / 1e6;
}

/* A phase that took no time, or in which nothing came, has no rate: 0 says so. */
static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void add_phase(struct buf *b, const char *name, uint32_t n, double ms)
{
    buf_printf(b, ",\"%s_n\":%u,\"%s_ms\":%.3f,\"%s_per_token_ms\":%.3f,\"%s_per_second\":%.3f",
               name, n, name, ms, name, ratio(ms, n), name, ratio(n * 1e3, ms));
}

void api_render_timings(struct buf *b, const struct api_timings *t)
{
    buf_printf(b, "{\"cache_n\":%u", t->n_cached);
    add_phase(b, "prompt", t->n_prompt, ms_of(t->prompt_ns));
    add_phase(b, "predicted", t->n_predicted, ms_of(t->predicted_ns));
    if (t->n_drafted > 0)
        buf_printf(b, ",\"draft_n\":%u,\"draft_n_accepted\":%u", t->n_drafted, t->n_accepted);
    buf_char(b, '}');
}

void api_render_progress(struct buf *b, const struct sched_progress *p)
{
    buf_printf(b, "{\"total\":%u,\"cache\":%u,\"processed\":%u,\"time_ms\":%llu}", p->n_total,
               p->n_cached, p->n_done, (unsigned long long)(p->ns / 1000000));
}
