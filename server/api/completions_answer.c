/* SPDX-License-Identifier: Apache-2.0
 *
 * completions_answer.c - what has become of a request, as chunks of a stream or as one answer.
 *
 * Chunks are made on the scheduler's thread.  The whole answer of a request that does not stream is
 * put together by the HTTP thread afterwards (completion_render).
 */
#include "server/api/completions.h"

/* ---- the parts ---- */

static struct api_choice choice_view(const struct completion *c, uint32_t index, bool is_first)
{
    const struct completion_choice *ch = &c->choices[index];
    const struct sched_prompt *p = &c->prompts[index / c->req.n];
    bool shows_prompt = c->req.return_token_ids && is_first;
    return (struct api_choice){
        .index = index,
        .text = ch->text.data,
        .text_len = ch->text.len,
        .logprobs = c->req.n_logprobs >= 0 ? &ch->logprobs : NULL,
        .finish = ch->finish,
        .stop_string = ch->has_stop_string ? ch->stop_string.data : NULL,
        .stop_string_len = ch->stop_string.len,
        .stop_token = ch->stop_token,
        .prompt_ids = shows_prompt ? p->tokens : NULL,
        .n_prompt_ids = shows_prompt ? p->n_tokens : 0,
        .token_ids = c->req.return_token_ids ? &ch->token_ids : NULL,
    };
}

/* Times of several choices that run side by side would not add up: they are left out. */
static bool has_timings(const struct completion *c, bool is_last)
{
    if (c->n_choices != 1)
        return false;
    return c->req.timings_per_token || (is_last && c->srv->opt.timings);
}

static void add_timings(const struct completion *c, struct buf *b)
{
    uint64_t prompt_end_ns = c->first_token_ns ? c->first_token_ns : c->finished_ns;
    struct api_timings t = {
        .n_cached = c->usage.cached_tokens,
        .n_prompt = c->usage.prompt_tokens - c->usage.cached_tokens,
        .n_predicted = c->usage.completion_tokens,
        .n_drafted = c->usage.drafted_tokens,
        .n_accepted = c->usage.accepted_tokens,
        .prompt_ns = prompt_end_ns - c->admitted_ns,
        .predicted_ns = c->last_token_ns - c->first_token_ns,
    };
    buf_str(b, ",\"timings\":");
    api_render_timings(b, &t);
}

/* ---- chunks ---- */

static void begin_chunk(struct completion *c)
{
    struct api_head head = completion_head(c);
    buf_clear(&c->chunk);
    api_render_head(&c->chunk, &head);
}

static void push_chunk(struct completion *c)
{
    if (c->chunk.failed) /* no memory: a gap in the text would be worse than an end */
        completion_app.cancel(c, SCHED_CANCEL_SLOW_READER);
    else
        http_stream_event(c->x, c->chunk.data, c->chunk.len);
}

/* After the choices. */
static void end_chunk(struct completion *c, bool with_usage)
{
    if (with_usage || c->req.include_usage)
        buf_str(&c->chunk, ",\"usage\":");
    if (with_usage)
        api_render_usage(&c->chunk, &c->usage, engine_info(c->srv->engine));
    else if (c->req.include_usage)
        buf_str(&c->chunk, "null");
    buf_char(&c->chunk, '}');
    push_chunk(c);
}

static void clear_gathered(struct completion_choice *ch)
{
    buf_clear(&ch->text);
    buf_clear(&ch->token_ids);
    api_logprobs_clear(&ch->logprobs);
}

typedef void render_choice_fn(struct buf *b, const struct api_choice *c);

static void send_one(struct completion *c, const struct api_choice *view, render_choice_fn *render,
                     bool is_last)
{
    begin_chunk(c);
    render(&c->chunk, view);
    buf_char(&c->chunk, ']');
    if (has_timings(c, is_last))
        add_timings(c, &c->chunk);
    end_chunk(c, c->req.continuous_usage && c->req.include_usage);
}

/* A chat's turn begins and ends with chunks of their own. */
static void send_chat(struct completion *c, const struct api_choice *view, bool is_first,
                      bool has_news)
{
    if (is_first)
        send_one(c, view, api_render_chat_begin, false);
    if (has_news)
        send_one(c, view, api_render_chat_delta, false);
    if (view->finish != SCHED_FINISH_NONE)
        send_one(c, view, api_render_chat_end, true);
}

bool completion_has_news(const struct completion *c, const struct completion_choice *ch)
{
    if (ch->text.len > 0 || ch->token_ids.len > 0)
        return true;
    return c->req.n_logprobs >= 0 && ch->logprobs.tokens.len > 0;
}

void completion_send_choice(struct completion *c, uint32_t index)
{
    struct completion_choice *ch = &c->choices[index];
    struct api_choice view = choice_view(c, index, !ch->is_begun);
    if (ch->text.failed || ch->token_ids.failed)
        completion_app.cancel(c, SCHED_CANCEL_SLOW_READER); /* see push_chunk */
    else if (c->req.is_chat)
        send_chat(c, &view, !ch->is_begun, completion_has_news(c, ch));
    else
        send_one(c, &view, api_render_choice, ch->finish != SCHED_FINISH_NONE);
    ch->is_begun = true;
    ch->n_tokens_sent = ch->n_tokens;
    clear_gathered(ch);
}

void completion_send_progress(struct completion *c, const struct sched_progress *p)
{
    begin_chunk(c);
    buf_str(&c->chunk, "],\"prompt_progress\":");
    api_render_progress(&c->chunk, p);
    end_chunk(c, c->req.continuous_usage && c->req.include_usage);
}

void completion_send_usage(struct completion *c)
{
    begin_chunk(c);
    buf_char(&c->chunk, ']');
    end_chunk(c, true);
}

void completion_send_error(struct completion *c, const struct api_error *e)
{
    buf_clear(&c->chunk);
    api_error_json(&c->chunk, e);
    push_chunk(c);
}

/* ---- the whole answer: the HTTP thread, after http_finish ---- */

void completion_render(struct http_exchange *x, void *app, struct buf *body)
{
    const struct completion *c = app;
    struct api_head head = completion_head(c);
    (void)x;
    api_render_head(body, &head);
    for (uint32_t i = 0; i < c->n_choices; i++) {
        struct api_choice view = choice_view(c, i, true);
        if (i > 0)
            buf_char(body, ',');
        body->failed = body->failed || c->choices[i].text.failed || c->choices[i].token_ids.failed;
        if (c->req.is_chat)
            api_render_chat_choice(body, &view);
        else
            api_render_choice(body, &view);
    }
    buf_str(body, "],\"usage\":");
    api_render_usage(body, &c->usage, engine_info(c->srv->engine));
    if (has_timings(c, true))
        add_timings(c, body);
    buf_char(body, '}');
}
