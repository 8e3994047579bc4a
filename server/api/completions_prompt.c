/* SPDX-License-Identifier: Apache-2.0
 *
 * completions_prompt.c - from a prompt to the tokens that are computed, and whether they fit.
 */
#include <stdlib.h>
#include <string.h>

#include "server/api/completions.h"

uint64_t completion_bytes_left(const struct completion *c)
{
    uint64_t n = 0;
    for (uint32_t i = c->n_tokenized; i < c->req.n_prompts; i++)
        n += c->req.prompts[i].text_len + c->req.suffix.len;
    return n;
}

static int too_long(const struct completion *c, uint64_t n_prompt, const char *at_least,
                    struct api_error *err)
{
    uint32_t n_ctx = engine_info(c->srv->engine)->n_ctx;
    api_fail(err, API_CONTEXT_LENGTH, c->req.is_chat ? "messages" : "prompt",
             "This model's context holds %u tokens, and the prompt has %s%llu%s", n_ctx, at_least,
             (unsigned long long)n_prompt,
             n_prompt == n_ctx ? ", which leaves no room to generate" : "");
    err->n_prompt_tokens = n_prompt < UINT32_MAX ? (uint32_t)n_prompt : UINT32_MAX;
    err->n_ctx = n_ctx;
    return -1;
}

/* All of it would have to be tokenized, however little is kept. */
static int too_large_to_cut(const struct api_prompt *p, struct api_error *err)
{
    return api_fail(err, API_INVALID_VALUE, "prompt",
                    "'prompt' has %zu bytes; with 'truncate_prompt_tokens' the limit is %d",
                    p->text_len, API_MAX_TEXT_BYTES);
}

/* A text so long that even the longest tokens could not make it fit is not worth tokenizing. */
static int check_bytes(const struct completion *c, const struct api_prompt *p,
                       struct api_error *err)
{
    uint64_t least = p->text_len / (engine_detok_max(c->srv->engine) + 1);
    if (least <= engine_info(c->srv->engine)->n_ctx)
        return 0;
    if (c->req.truncate_prompt_tokens != API_NOT_GIVEN)
        return p->text_len <= API_MAX_TEXT_BYTES ? 0 : too_large_to_cut(p, err);
    return too_long(c, least, "at least ", err);
}

static int append_text(const struct completion *c, const char *text, size_t len, unsigned flags,
                       struct engine_tokens *t, struct api_error *err)
{
    struct engine_err why = { 0 };
    if (c->srv->opt.parse_special)
        flags |= ENGINE_TOKENIZE_PARSE_SPECIAL;
    if (engine_tokenize(c->srv->engine, text, len, flags, t, &why) == 0)
        return 0;
    api_error_from_engine(err, &why);
    return -1;
}

static int use_tokens(struct completion *c, uint32_t i, struct api_error *err)
{
    const struct engine_tokens *t = &c->tokens[i];
    if (t->n > UINT32_MAX)
        return too_long(c, t->n, "", err);
    c->prompts[i] = (struct sched_prompt){ t->ids, (uint32_t)t->n };
    return 0;
}

static int tokenize_text(struct completion *c, uint32_t i, struct api_error *err)
{
    const struct api_prompt *p = &c->req.prompts[i];
    unsigned flags = c->req.add_special ? ENGINE_TOKENIZE_ADD_SPECIAL : 0u;
    if (check_bytes(c, p, err) != 0 ||
        append_text(c, p->text, p->text_len, flags, &c->tokens[i], err) != 0)
        return -1;
    return use_tokens(c, i, err);
}

/* ---- fill in the middle ---- */

static int append_ids(struct engine_tokens *t, const int32_t *ids, size_t n, struct api_error *err)
{
    if (t->n + n > t->cap) {
        size_t cap = t->n + n + 64;
        int32_t *grown = realloc(t->ids, cap * sizeof(*grown));
        if (!grown)
            return api_fail(err, API_INTERNAL, NULL, "Out of memory");
        t->ids = grown;
        t->cap = cap;
    }
    if (n > 0)
        memcpy(t->ids + t->n, ids, n * sizeof(*ids));
    t->n += n;
    return 0;
}

static int append_prefix(struct completion *c, const struct api_prompt *p, struct engine_tokens *t,
                         struct api_error *err)
{
    if (!p->text)
        return append_ids(t, p->ids, p->n_ids, err);
    return append_text(c, p->text, p->text_len, 0, t, err);
}

/* PRE prefix SUF suffix MID: what the model writes then belongs between prefix and suffix. */
static int tokenize_parts(struct completion *c, uint32_t i, struct api_error *err)
{
    const struct engine *e = c->srv->engine;
    const struct api_prompt *p = &c->req.prompts[i];
    const struct api_prompt suffix = { c->req.suffix.data, c->req.suffix.len, NULL, 0 };
    struct engine_tokens *t = &c->tokens[i];
    int32_t bos = engine_token_bos(e);
    bool adds_bos = c->req.add_special && bos >= 0 && engine_adds_bos(e);
    struct engine_fim fim;
    if (!engine_fim(e, &fim))
        return api_fail(
            err, API_UNSUPPORTED_PARAMETER, "suffix",
            "'suffix' is not supported: this model has no tokens to fill in the middle");
    if (check_bytes(c, p, err) != 0 || check_bytes(c, &suffix, err) != 0)
        return -1;
    if (append_ids(t, &bos, adds_bos, err) != 0 || append_ids(t, &fim.prefix, 1, err) != 0 ||
        append_prefix(c, p, t, err) != 0 || append_ids(t, &fim.suffix, 1, err) != 0 ||
        append_prefix(c, &suffix, t, err) != 0 || append_ids(t, &fim.middle, 1, err) != 0)
        return -1;
    return use_tokens(c, i, err);
}

/* ---- chats ---- */

/* The template writes BOS itself where it wants one; it is never there twice. */
static int add_bos(const struct completion *c, struct engine_tokens *t, struct api_error *err)
{
    int32_t bos = engine_token_bos(c->srv->engine);
    bool is_wanted = c->req.add_special && bos >= 0 && engine_adds_bos(c->srv->engine);
    if (!is_wanted || (t->n > 0 && t->ids[0] == bos))
        return 0;
    if (append_ids(t, &bos, 1, err) != 0)
        return -1;
    memmove(t->ids + 1, t->ids, (t->n - 1) * sizeof(*t->ids));
    t->ids[0] = bos;
    return 0;
}

static int tokenize_chat(struct completion *c, uint32_t i, struct api_error *err)
{
    struct engine_err why = { 0 };
    struct api_prompt *p = &c->req.prompts[i];
    if (chat_render(c->srv->engine, &c->req.chat, c->x->created, &c->chat, err) != 0)
        return -1;
    *p = (struct api_prompt){ .text = c->chat.text, .text_len = c->chat.len };
    if (check_bytes(c, p, err) != 0)
        return -1;
    if (engine_tokenize_except(c->srv->engine, p->text, p->text_len, ENGINE_TOKENIZE_PARSE_SPECIAL,
                               c->chat.plain_at, c->chat.n_plain, &c->tokens[i], &why) != 0) {
        api_error_from_engine(err, &why);
        return -1;
    }
    return add_bos(c, &c->tokens[i], err) != 0 ? -1 : use_tokens(c, i, err);
}

/* ---- from prompt to tokens ---- */

/* Empty text generates from BOS, if the model has one. */
static int fill_empty(struct completion *c, uint32_t i, struct api_error *err)
{
    int32_t bos = engine_token_bos(c->srv->engine);
    if (bos < 0)
        return api_fail(err, API_INVALID_VALUE, "prompt",
                        "'prompt' is empty, and this model has no token to begin with");
    int32_t *ids = malloc(sizeof(*ids));
    if (!ids)
        return api_fail(err, API_INTERNAL, NULL, "Out of memory");
    ids[0] = bos;
    engine_tokens_fini(&c->tokens[i]);
    c->tokens[i] = (struct engine_tokens){ ids, 1, 1 };
    c->prompts[i] = (struct sched_prompt){ ids, 1 };
    return 0;
}

/* -1 asks for what fits, with room for max_tokens. */
static uint32_t truncation_limit(const struct completion *c)
{
    int64_t n_ctx = engine_info(c->srv->engine)->n_ctx;
    int64_t wanted = c->req.truncate_prompt_tokens;
    if (wanted == API_TO_CONTEXT_END) {
        int64_t room = c->req.max_tokens == API_TO_CONTEXT_END ? 1 : c->req.max_tokens;
        wanted = room < n_ctx ? n_ctx - room : 1;
    }
    return wanted < INT32_MAX ? (uint32_t)wanted : INT32_MAX;
}

static void truncate_prompt(struct completion *c, struct sched_prompt *p)
{
    uint32_t limit = truncation_limit(c);
    if (c->req.truncate_prompt_tokens == API_NOT_GIVEN || p->n_tokens <= limit)
        return;
    if (!c->req.truncate_right)
        p->tokens += p->n_tokens - limit;
    p->n_tokens = limit;
}

static int make_tokens(struct completion *c, uint32_t i, struct api_error *err)
{
    const struct api_prompt *p = &c->req.prompts[i];
    if (p->n_ids > UINT32_MAX)
        return too_long(c, p->n_ids, "", err);
    if (c->req.is_chat)
        return tokenize_chat(c, i, err);
    if (c->req.suffix.len > 0)
        return tokenize_parts(c, i, err);
    if (p->text)
        return tokenize_text(c, i, err);
    c->prompts[i] = (struct sched_prompt){ p->ids, (uint32_t)p->n_ids };
    return 0;
}

int completion_tokenize(struct completion *c, uint32_t i, struct api_error *err)
{
    if (make_tokens(c, i, err) != 0)
        return -1;
    if (c->prompts[i].n_tokens == 0 && fill_empty(c, i, err) != 0)
        return -1;
    truncate_prompt(c, &c->prompts[i]);
    uint32_t n_ctx = engine_info(c->srv->engine)->n_ctx;
    uint32_t needed = c->prompts[i].n_tokens + (c->req.max_tokens != 0);
    return needed > n_ctx ? too_long(c, c->prompts[i].n_tokens, "", err) : 0;
}
