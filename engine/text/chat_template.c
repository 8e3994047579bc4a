/* SPDX-License-Identifier: Apache-2.0
 *
 * chat_template.c - a conversation through the model's template, as the transformers library does it.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_template.h"
#include "engine/text/jinja.h"

/* Of one rendering.  A long conversation may take much, a short one must not: both the memory and the
 * work grow with the JSON.  A usual rendering takes about 20 steps and 300 bytes per message. */
enum {
    MEMORY_BASE = 32 << 20,
    MEMORY_PER_BYTE = 8,
    STEPS_BASE = 5000000,
    STEPS_PER_BYTE = 16,
    MAX_DEPTH = 300, /* about 1 KiB of stack each */
};

enum { TEMPLATE_PLAIN, TEMPLATE_TOOLS, N_TEMPLATES };

static const char *const template_keys[N_TEMPLATES] = { "tokenizer.chat_template",
                                                        "tokenizer.chat_template.tool_use" };

/* Tokens that templates know by a name. */
enum { TOKEN_BOS, TOKEN_EOS, TOKEN_UNK, TOKEN_PAD, N_TOKENS };

static const char *const token_names[N_TOKENS] = { "bos_token", "eos_token", "unk_token",
                                                   "pad_token" };

struct named_token {
    char *text; /* NULL: the model has none */
    size_t len;
};

struct chat_template {
    struct jinja_template *templates[N_TEMPLATES];
    struct engine_err errors[N_TEMPLATES]; /* why it is NULL */
    struct named_token tokens[N_TOKENS];
};

/* ---- open ---- */

static int copy_token(struct named_token *token, const struct tokenizer *t, int64_t id)
{
    if (id < 0 || id >= (int64_t)tokenizer_n_vocab(t))
        return 0;
    const char *bytes = tokenizer_bytes(t, (int32_t)id, &token->len);
    token->text = malloc(token->len + 1);
    if (!token->text)
        return -1;
    memcpy(token->text, bytes, token->len);
    token->len = utf8_valid_run(token->text, token->len);
    return 0;
}

static int64_t token_id(const struct gguf *g, const char *key)
{
    uint32_t id;
    return gguf_has(g, key) && gguf_get_u32(g, key, true, &id, NULL) == 0 ? (int64_t)id : -1;
}

static void compile(struct chat_template *t, const struct gguf *g, int which)
{
    struct gguf_str s;
    struct engine_err *err = &t->errors[which];
    if (!gguf_has(g, template_keys[which]))
        engine_fail(err, ENGINE_ERR_UNSUPPORTED,
                    "the model has no chat template (\"tokenizer.chat_template\" is absent)");
    else if (gguf_get_str(g, template_keys[which], true, &s, err) == 0)
        jinja_template_open(&t->templates[which], s.data, s.len, err);
}

int chat_template_open(struct chat_template **out, const struct gguf *g, const struct tokenizer *t,
                       struct engine_err *err)
{
    const int64_t ids[N_TOKENS] = { [TOKEN_BOS] = tokenizer_bos(t),
                                    [TOKEN_EOS] = tokenizer_eos(t),
                                    [TOKEN_UNK] = token_id(g, "tokenizer.ggml.unknown_token_id"),
                                    [TOKEN_PAD] = token_id(g, "tokenizer.ggml.padding_token_id") };
    struct chat_template *c = calloc(1, sizeof(*c));
    bool ok = c != NULL;
    for (int i = 0; ok && i < N_TOKENS; i++)
        ok = copy_token(&c->tokens[i], t, ids[i]) == 0;
    if (!ok) {
        chat_template_close(c);
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the chat template");
    }
    for (int i = 0; i < N_TEMPLATES; i++)
        compile(c, g, i);
    *out = c;
    return 0;
}

void chat_template_close(struct chat_template *t)
{
    if (!t)
        return;
    for (int i = 0; i < N_TEMPLATES; i++)
        jinja_template_close(t->templates[i]);
    for (int i = 0; i < N_TOKENS; i++)
        free(t->tokens[i].text);
    free(t);
}

/* ---- what a template is given ---- */

/* Many templates ask whether a key is there, and then print None for a null: it is left out. */
static struct jv without_nulls(struct jinja_run *r, struct jv message)
{
    struct jv out = jv_dict_new(r);
    const struct jv_dict *d = message.as.dict;
    for (uint32_t i = 0; i < d->n && !r->failed; i++) {
        if (d->pairs[i].value.kind != JV_NONE)
            jv_dict_set(r, out.as.dict, d->pairs[i].key, d->pairs[i].value);
    }
    return out;
}

/* A message's reasoning goes by several names; templates know one or the other. */
static void alias_reasoning(struct jinja_run *r, struct jv message)
{
    static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
    const struct jv *found = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++)
        found = jv_dict_find_name(r, message.as.dict, names[i]);
    if (!found)
        return;
    struct jv reasoning = *found;
    if (!jv_dict_find_name(r, message.as.dict, "thinking"))
        jv_dict_set_name(r, message.as.dict, "thinking", reasoning);
    jv_dict_set_name(r, message.as.dict, "reasoning_content", reasoning);
}

static struct jv read_messages(struct jinja_run *r, const struct engine_chat *chat)
{
    struct jv all = jinja_json_read(r, chat->messages, chat->messages_len, "messages");
    if (r->failed)
        return all;
    if (all.kind != JV_LIST)
        return jinja_fail(r, "messages must be an array");
    for (uint32_t i = 0; i < all.as.list->n && !r->failed; i++) {
        struct jv *message = &all.as.list->items[i];
        if (message->kind != JV_DICT)
            return jinja_fail(r, "messages[%u] must be an object", i);
        *message = without_nulls(r, *message);
        if (!r->failed)
            alias_reasoning(r, *message);
    }
    return all;
}

static struct jv read_tools(struct jinja_run *r, const struct engine_chat *chat)
{
    if (!chat->tools)
        return jv_none();
    struct jv tools = jinja_json_read(r, chat->tools, chat->tools_len, "tools");
    if (!r->failed && tools.kind != JV_LIST && tools.kind != JV_NONE)
        return jinja_fail(r, "tools must be an array");
    return tools;
}

/* Variables of the caller's choice, but not in place of what every template is given. */
static void add_variables(struct jinja_run *r, struct jv_dict *to, const struct engine_chat *chat)
{
    static const char *const taken[] = { "messages", "tools", "add_generation_prompt" };
    if (!chat->variables)
        return;
    struct jv v = jinja_json_read(r, chat->variables, chat->variables_len, "chat_template_kwargs");
    if (!r->failed && v.kind != JV_DICT)
        jinja_fail(r, "chat_template_kwargs must be an object");
    for (uint32_t i = 0; !r->failed && i < v.as.dict->n; i++) {
        struct jv name = v.as.dict->pairs[i].key;
        for (size_t k = 0; k < sizeof taken / sizeof *taken; k++) {
            if (jv_str_is(name, taken[k]))
                jinja_fail(r, "chat_template_kwargs may not name '%s'", taken[k]);
        }
        jv_dict_set(r, to, name, v.as.dict->pairs[i].value);
    }
}

/* ---- a last message that is to be continued ---- */

/* Put behind the last message's text to find the place again in what is rendered.  Templates often
 * strip: whether the space at its end is still there tells it. */
static const char TAG[] = "CONTINUE_FINAL_MESSAGE_TAG ";
enum { TAG_LEN = sizeof TAG - 1 };

static struct jv *last_text_part(struct jinja_run *r, struct jv content)
{
    for (uint32_t i = content.as.list->n; i-- > 0;) {
        struct jv part = content.as.list->items[i];
        struct jv *text = part.kind == JV_DICT ? jv_dict_find_name(r, part.as.dict, "text") : NULL;
        if (text)
            return text;
    }
    return NULL;
}

/* Tags the text; gives it as it was. */
static struct jv tag_last(struct jinja_run *r, struct jv messages)
{
    const struct jv_list *all = messages.as.list;
    struct jv *text = NULL;
    if (!r->failed && all->n > 0)
        text = jv_dict_find_name(r, all->items[all->n - 1].as.dict, "content");
    if (text && text->kind == JV_LIST)
        text = last_text_part(r, *text);
    if (r->failed || !text || text->kind != JV_STRING)
        return jinja_fail(r, "the last message has no text that could be continued");
    struct jv plain = *text;
    *text = jinja_concat(r, plain, jv_str(TAG, TAG_LEN));
    return plain;
}

static void cut_at_tag(struct jinja_run *r, struct jv last)
{
    struct jv all = jv_str(r->out.data, r->out.len);
    size_t at = jstr_rfind(r, all, jv_str(TAG, TAG_LEN - 1));
    if (r->failed)
        return;
    if (at == SIZE_MAX || jstr_find(all, jstr_strip(last, NULL, JSTR_BOTH), 0) == SIZE_MAX) {
        r->line = 0;
        jinja_fail(r, "the template does not print the last message as it is, so that it cannot "
                      "be continued");
        return;
    }
    bool keeps_space = at + TAG_LEN <= all.len && all.as.text[at + TAG_LEN - 1] == ' ';
    struct jv kept = jstr_sub(all, 0, at);
    r->out.len = keeps_space ? kept.len : jstr_strip(kept, NULL, JSTR_RIGHT).len;
}

/* ---- render ---- */

static void add_tokens(struct jinja_run *r, struct jv_dict *to, const struct chat_template *t)
{
    for (int i = 0; i < N_TOKENS; i++) {
        if (t->tokens[i].text)
            jv_dict_set_name(r, to, token_names[i], jv_str(t->tokens[i].text, t->tokens[i].len));
    }
}

static int render(struct jinja_run *r, const struct chat_template *t,
                  const struct jinja_template *template, const struct engine_chat *chat)
{
    struct jv messages = read_messages(r, chat), tools = read_tools(r, chat), last = jv_none();
    struct jv variables = jv_dict_new(r);
    if (chat->continue_final_message)
        last = tag_last(r, messages);
    if (r->failed)
        return -1;
    struct jv_dict *d = variables.as.dict;
    add_tokens(r, d, t);
    jv_dict_set_name(r, d, "documents", jv_none());
    jv_dict_set_name(r, d, "messages", messages);
    jv_dict_set_name(r, d, "tools", tools);
    jv_dict_set_name(r, d, "add_generation_prompt", jv_bool(chat->add_generation_prompt));
    add_variables(r, d, chat);
    r->now = chat->now;
    if (!r->failed && jinja_render(r, template, d) == 0 && chat->continue_final_message)
        cut_at_tag(r, last);
    return r->failed ? -1 : 0;
}

/* The template for tools, if there is one of its own and they are given. */
static int choose(const struct chat_template *t, const struct engine_chat *chat)
{
    return chat->tools && t->templates[TEMPLATE_TOOLS] ? TEMPLATE_TOOLS : TEMPLATE_PLAIN;
}

int chat_template_render(const struct chat_template *t, const struct engine_chat *chat, char **out,
                         size_t *len, struct engine_err *err)
{
    int which = choose(t, chat), rc = -1;
    size_t input = chat->messages_len + chat->tools_len + chat->variables_len;
    struct jinja_limits limits = { .memory = MEMORY_BASE + MEMORY_PER_BYTE * input,
                                   .steps = STEPS_BASE + (uint64_t)STEPS_PER_BYTE * input,
                                   .depth = MAX_DEPTH };
    struct jinja_run r;
    *out = NULL;
    *len = 0;
    if (!t->templates[which])
        return engine_fail(err, t->errors[which].code, "%s", t->errors[which].text);
    jinja_run_init(&r, &limits, err);
    if (render(&r, t, t->templates[which], chat) == 0) {
        *out = realloc(r.out.data, r.out.len + 1);
        if (*out) {
            r.out.data = NULL;
            (*out)[r.out.len] = 0;
            *len = r.out.len;
            rc = 0;
        } else {
            engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %zu bytes of text", r.out.len);
        }
    }
    jinja_run_fini(&r);
    return rc;
}
