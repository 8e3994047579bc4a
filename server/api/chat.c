/* SPDX-License-Identifier: Apache-2.0
 *
 * chat.c - messages become a prompt, by the model's own template.
 *
 * Control tokens that the template writes must become these tokens, but the same text within a
 * message must not: a user could end his own turn with it and speak as somebody else.  What comes
 * out of a template does not tell who wrote which part, so such places are marked before: a
 * character that no text has is set in front of every control token's text in the request's
 * strings.  After rendering the marks are taken out, and their places kept for the tokenizer.
 * Strings without such text reach the template as they are.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/chat.h"

/* ---- marks ---- */

/* Noncharacters U+FDD0 .. U+FDEF: never meant to be exchanged. */
enum { MARK_BYTES = 3, MARK_FIRST = 0x90, N_MARKS = 32 };

struct marker {
    const struct engine *e;
    char mark[MARK_BYTES + 1];
    bool failed;
};

static void note_marks(const char *s, size_t len, bool used[N_MARKS])
{
    for (size_t i = 0; i + MARK_BYTES <= len; i++) {
        unsigned last = (unsigned char)s[i + 2];
        if (s[i] == '\xEF' && s[i + 1] == '\xB7' && last >= MARK_FIRST &&
            last < MARK_FIRST + N_MARKS)
            used[last - MARK_FIRST] = true;
    }
}

static void note_marks_within(const json_t *v, bool used[N_MARKS])
{
    const char *key;
    json_t *value;
    size_t i;
    if (json_is_string(v))
        note_marks(json_string_value(v), json_string_length(v), used);
    if (json_is_array(v))
        json_array_foreach ((json_t *)v, i, value)
            note_marks_within(value, used);
    if (json_is_object(v)) {
        json_object_foreach ((json_t *)v, key, value) {
            note_marks(key, strlen(key), used);
            note_marks_within(value, used);
        }
    }
}

/* One that the request does not hold itself. */
static int choose_mark(struct marker *m, const struct api_chat *chat, struct api_error *err)
{
    bool used[N_MARKS] = { false };
    note_marks_within(chat->messages, used);
    if (chat->template_values)
        note_marks_within(chat->template_values, used);
    for (unsigned i = 0; i < N_MARKS; i++) {
        if (!used[i]) {
            memcpy(m->mark, (char[]){ '\xEF', '\xB7', (char)(MARK_FIRST + i) }, MARK_BYTES);
            return 0;
        }
    }
    return api_fail(err, API_INVALID_VALUE, "messages",
                    "'messages' hold every noncharacter from U+FDD0 to U+FDEF");
}

/* NULL: there is nothing to mark. */
static json_t *mark_string(struct marker *m, const char *s, size_t len)
{
    struct buf b = { 0 };
    size_t done = 0;
    for (size_t i = 0; i < len; i++) {
        if (engine_special_length(m->e, s + i, len - i) == 0)
            continue;
        buf_add(&b, s + done, i - done);
        buf_add(&b, m->mark, MARK_BYTES);
        done = i;
    }
    if (!b.data && !b.failed)
        return NULL;
    buf_add(&b, s + done, len - done);
    json_t *marked = b.failed ? NULL : json_stringn(b.data, b.len);
    m->failed = m->failed || !marked;
    buf_fini(&b);
    return marked;
}

static json_t *marked_copy(struct marker *m, const json_t *v);

static json_t *marked_array(struct marker *m, const json_t *v)
{
    json_t *copy = json_array(), *item;
    size_t i;
    json_array_foreach ((json_t *)v, i, item)
        if (json_array_append_new(copy, marked_copy(m, item)) != 0)
            m->failed = true;
    return copy;
}

static json_t *marked_object(struct marker *m, const json_t *v)
{
    json_t *copy = json_object(), *value;
    const char *key;
    json_object_foreach ((json_t *)v, key, value) {
        json_t *name = mark_string(m, key, strlen(key));
        if (json_object_set_new(copy, name ? json_string_value(name) : key,
                                marked_copy(m, value)) != 0)
            m->failed = true;
        json_decref(name);
    }
    return copy;
}

/* Depth is bounded by the first pass over the body. */
static json_t *marked_copy(struct marker *m, const json_t *v)
{
    json_t *marked = NULL;
    if (json_is_array(v))
        return marked_array(m, v);
    if (json_is_object(v))
        return marked_object(m, v);
    if (json_is_string(v))
        marked = mark_string(m, json_string_value(v), json_string_length(v));
    return marked ? marked : json_incref((json_t *)v);
}

/* Takes the marks out and notes where they were. */
static void take_marks(const struct marker *m, struct chat_prompt *p)
{
    size_t to = 0;
    for (size_t at = 0; at < p->len;) {
        if (p->len - at >= MARK_BYTES && memcmp(p->text + at, m->mark, MARK_BYTES) == 0) {
            p->plain_at[p->n_plain++] = to;
            at += MARK_BYTES;
        } else {
            p->text[to++] = p->text[at++];
        }
    }
    p->text[to] = '\0';
    p->len = to;
}

static size_t count_marks(const struct marker *m, const struct chat_prompt *p)
{
    size_t n = 0;
    for (size_t at = 0; at + MARK_BYTES <= p->len; at++)
        n += memcmp(p->text + at, m->mark, MARK_BYTES) == 0;
    return n;
}

/* ---- what the template gets ---- */

/* chat_template_kwargs win over what the standard field says. */
static json_t *template_values(struct marker *m, const struct api_chat *chat)
{
    json_t *values = chat->template_values ? marked_object(m, chat->template_values)
                                           : json_object();
    const char *effort = chat->reasoning_effort;
    if (effort && !json_object_get(values, "reasoning_effort"))
        m->failed |= json_object_set_new(values, "reasoning_effort", json_string(effort)) != 0;
    if (effort && strcmp(effort, "none") == 0 && !json_object_get(values, "enable_thinking"))
        m->failed |= json_object_set_new(values, "enable_thinking", json_false()) != 0;
    return values;
}

static int fail_render(struct api_error *err, const struct engine_err *why)
{
    if (why->code == ENGINE_ERR_UNSUPPORTED)
        return api_fail(err, API_UNSUPPORTED_PARAMETER, "messages", "%s", why->text);
    if (why->code == ENGINE_ERR_INPUT)
        return api_fail(err, API_INVALID_VALUE, "messages", "%s", why->text);
    api_error_from_engine(err, why);
    return -1;
}

static int render(const struct engine *e, const struct api_chat *chat, const char *messages,
                  const char *values, int64_t now, struct chat_prompt *out, struct api_error *err)
{
    const struct engine_chat request = {
        .messages = messages,
        .messages_len = strlen(messages),
        .variables = values,
        .variables_len = strlen(values),
        .add_generation_prompt = chat->adds_prompt,
        .continue_final_message = chat->is_prefill,
        .now = now,
    };
    struct engine_err why = { 0 };
    if (engine_chat_render(e, &request, &out->text, &out->len, &why) == 0)
        return 0;
    return fail_render(err, &why);
}

int chat_render(const struct engine *e, const struct api_chat *chat, int64_t now,
                struct chat_prompt *out, struct api_error *err)
{
    struct marker m = { .e = e };
    *out = (struct chat_prompt){ 0 };
    if (choose_mark(&m, chat, err) != 0)
        return -1;
    json_t *messages = marked_array(&m, chat->messages), *values = template_values(&m, chat);
    char *messages_text = json_dumps(messages, JSON_COMPACT);
    char *values_text = json_dumps(values, JSON_COMPACT);
    json_decref(messages);
    json_decref(values);
    int rc = -1;
    if (m.failed || !messages_text || !values_text)
        api_fail(err, API_INTERNAL, NULL, "Out of memory");
    else
        rc = render(e, chat, messages_text, values_text, now, out, err);
    free(messages_text);
    free(values_text);
    size_t n_marks = rc == 0 ? count_marks(&m, out) : 0;
    if (n_marks == 0)
        return rc;
    out->plain_at = calloc(n_marks, sizeof(*out->plain_at));
    if (!out->plain_at)
        return api_fail(err, API_INTERNAL, NULL, "Out of memory");
    take_marks(&m, out);
    return 0;
}

void chat_prompt_fini(struct chat_prompt *p)
{
    free(p->text);
    free(p->plain_at);
    *p = (struct chat_prompt){ 0 };
}

/* ---- POST /apply-template ---- */

enum prepare_turn api_template_prepare(struct http_exchange *x)
{
    struct api_completion req;
    struct api_limits limits;
    struct api_error err = { 0 };
    struct chat_prompt prompt = { 0 };
    struct buf b = { 0 };
    api_limits_of(x->srv, &limits);
    int rc = api_parse_chat(x->body.data, x->body.len, &limits, &req, &err);
    if (rc == 0)
        api_warn_unknown(x, &req.unknown);
    if (rc == 0 && api_check_model(x->srv, req.model, &err) == 0 &&
        chat_render(x->srv->engine, &req.chat, x->created, &prompt, &err) == 0) {
        buf_str(&b, "{\"prompt\":");
        buf_json(&b, prompt.text, prompt.len);
        buf_char(&b, '}');
        http_reply_json(x, 200, &b);
    } else {
        http_reply_error(x, &err);
    }
    chat_prompt_fini(&prompt);
    api_completion_fini(&req);
    return PREPARE_DONE;
}
