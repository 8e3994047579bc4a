/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse_chat.c - POST /v1/chat/completions: JSON -> struct api_completion with its chat part.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_fields.h"

static const char *role_of(const json_t *messages, size_t from_end)
{
    size_t n = json_array_size(messages);
    const char *role = n < from_end ? NULL
                                    : json_string_value(json_object_get(
                                          json_array_get(messages, n - from_end), "role"));
    return role ? role : "";
}

/* ---- other fields ---- */

static int parse_tool_choice(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    const char *word = json_string_value(v);
    if (!json_is_string(v) && !json_is_object(v))
        return api_wrong_type(r, name, v, "a string or an object");
    if (word && strcmp(word, "none") != 0 && strcmp(word, "auto") != 0 &&
        strcmp(word, "required") != 0)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'%s' must be 'none', 'auto', 'required' or an object", name);
    c->chat.tools_are_off = word && strcmp(word, "none") == 0;
    c->chat.tool_is_needed = !word || strcmp(word, "required") == 0;
    return 0;
}

static int parse_effort(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    static const char *const known[] = {
        "none", "minimal", "low", "medium", "high", "xhigh", "max"
    };
    struct api_completion *c = out;
    const char *word = json_string_value(v);
    if (!word)
        return api_wrong_type(r, name, v, "a string");
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(known[i], word) == 0) {
            c->chat.reasoning_effort = known[i];
            return 0;
        }
    }
    return api_fail(r->err, API_INVALID_VALUE, name,
                    "'%s' must be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'",
                    name);
}

static int parse_template_values(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    static const char *const ours[] = { "messages", "tools", "add_generation_prompt", "bos_token",
                                        "eos_token" };
    struct api_completion *c = out;
    if (!json_is_object(v))
        return api_wrong_type(r, name, v, "an object");
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        if (json_object_get(v, ours[i]))
            return api_fail(r->err, API_INVALID_VALUE, name, "'%s' must not hold '%s'", name,
                            ours[i]);
    c->chat.template_values = v;
    return 0;
}

static int parse_modalities(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    size_t i;
    json_t *item;
    (void)out;
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "an array of strings");
    json_array_foreach ((json_t *)v, i, item)
        if (!json_is_string(item) || strcmp(json_string_value(item), "text") != 0)
            return api_fail(r->err, API_UNSUPPORTED_PARAMETER, name,
                            "'%s' other than [\"text\"] is not supported", name);
    return 0;
}

static int parse_generation_prompt(struct api_reader *r, const char *name, const json_t *v,
                                   void *out)
{
    struct api_completion *c = out;
    if (!json_is_boolean(v))
        return api_wrong_type(r, name, v, "a boolean");
    c->chat.generation_prompt = json_is_true(v);
    return 0;
}

static int parse_continue(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (!json_is_boolean(v))
        return api_wrong_type(r, name, v, "a boolean");
    c->chat.continues = json_is_true(v);
    return 0;
}

static const struct api_field chat_fields[] = {
    { "messages", API_KIND_CUSTOM, .parse = api_parse_messages },
    { "max_completion_tokens", API_KIND_I64,
      .offset = offsetof(struct api_completion, chat.max_completion_tokens), .min = 0,
      .max = API_MAX_WANTED },
    { "logprobs", API_KIND_BOOL, .offset = offsetof(struct api_completion, chat.logprobs) },
    { "top_logprobs", API_KIND_I64, .offset = offsetof(struct api_completion, chat.top_logprobs),
      .min = 0, .max = 20 },
    { "tools", API_KIND_CUSTOM, .parse = api_parse_tools },
    { "tool_choice", API_KIND_CUSTOM, .parse = parse_tool_choice },
    { "parallel_tool_calls", API_KIND_BOOL,
      .offset = offsetof(struct api_completion, chat.parallel_tool_calls) },
    { "reasoning_effort", API_KIND_CUSTOM, .parse = parse_effort },
    { "modalities", API_KIND_CUSTOM, .parse = parse_modalities },
    /* extensions */
    { "chat_template_kwargs", API_KIND_CUSTOM, .parse = parse_template_values },
    { "add_generation_prompt", API_KIND_CUSTOM, .parse = parse_generation_prompt },
    { "continue_final_message", API_KIND_CUSTOM, .parse = parse_continue },
    /* known, not built: refused unless they ask for nothing (min) */
    { "chat_template", API_KIND_UNBUILT, .min = -1 },
    { "documents", API_KIND_UNBUILT, .min = -1 },
    { "functions", API_KIND_UNBUILT, .min = -1 },
    { "function_call", API_KIND_UNBUILT, .min = -1 },
    { "audio", API_KIND_UNBUILT, .min = -1 },
    { "web_search_options", API_KIND_UNBUILT, .min = -1 },
    { "echo", API_KIND_UNBUILT, .min = 0 },
    /* of services around a model: nothing here answers to them */
    { "store", API_KIND_IGNORED, .min = 0 },
    { "metadata", API_KIND_IGNORED, .min = 0 },
    { "service_tier", API_KIND_IGNORED, .min = 0 },
    { "prediction", API_KIND_IGNORED, .min = 0 },
    { "verbosity", API_KIND_IGNORED, .min = 0 },
    { "safety_identifier", API_KIND_IGNORED, .min = 0 },
    { "prompt_cache_key", API_KIND_IGNORED, .min = 0 },
    { "prompt_cache_retention", API_KIND_IGNORED, .min = 0 },
    { "reasoning_format", API_KIND_IGNORED, .min = 0 },
};

/* ---- rules between fields ---- */

static int check_tools(const struct api_chat *chat, struct api_error *err)
{
    if (chat->tool_is_needed && !chat->has_tools)
        return api_fail(err, API_INVALID_VALUE, "tool_choice", "'tool_choice' needs 'tools'");
    if (chat->has_tools && !chat->tools_are_off)
        return api_fail(err, API_UNSUPPORTED_PARAMETER, "tools",
                        "'tools' are not supported, unless 'tool_choice' is 'none'");
    return 0;
}

static int check_logprobs(struct api_completion *c, const struct api_limits *limits,
                          struct api_error *err)
{
    int64_t top = c->chat.top_logprobs;
    if (top != API_NOT_GIVEN && !c->chat.logprobs)
        return api_fail(err, API_INVALID_VALUE, "top_logprobs",
                        "'top_logprobs' needs 'logprobs': true");
    if (top > (int64_t)limits->max_logprobs)
        return api_fail(err, API_INVALID_VALUE, "top_logprobs",
                        "'top_logprobs' must be between 0 and %u, not %" PRId64,
                        limits->max_logprobs, top);
    if (c->chat.logprobs)
        c->n_logprobs = top == API_NOT_GIVEN ? 0 : (int32_t)top;
    return 0;
}

/* A last message of the assistant is continued, unless the request asks for a new turn. */
static int settle_last_message(struct api_chat *chat, struct api_error *err)
{
    bool is_last = strcmp(role_of(chat->messages, 1), "assistant") == 0;
    if (chat->continues == API_YES && chat->generation_prompt == API_YES)
        return api_fail(err, API_INVALID_VALUE, "continue_final_message",
                        "'continue_final_message' and 'add_generation_prompt' cannot both be true");
    if (chat->continues == API_YES && !is_last)
        return api_fail(err, API_INVALID_VALUE, "continue_final_message",
                        "'continue_final_message' needs a last message of the assistant");
    if (is_last && strcmp(role_of(chat->messages, 2), "assistant") == 0)
        return api_fail(err, API_INVALID_VALUE, "messages",
                        "The last two messages are both the assistant's");
    chat->is_prefill = is_last && chat->continues != API_NO && chat->generation_prompt != API_YES;
    if (chat->continues == API_UNSAID && chat->generation_prompt == API_NO)
        chat->is_prefill = false;
    chat->adds_prompt = !chat->is_prefill && chat->generation_prompt != API_NO;
    return 0;
}

/* What it goes on from must be a text. */
static int check_prefill(const struct api_chat *chat, struct api_error *err)
{
    size_t n = json_array_size(chat->messages);
    const json_t *last = json_array_get(chat->messages, n - 1);
    if (!chat->is_prefill || json_is_string(json_object_get(last, "content")))
        return 0;
    return api_fail(err, API_INVALID_VALUE, "messages",
                    "The last message is the assistant's and has no text to go on from");
}

static int check_rules(struct api_completion *c, const struct api_limits *limits,
                       struct api_error *err)
{
    int64_t max_tokens = limits->max_tokens_default ? (int64_t)limits->max_tokens_default
                                                    : (int64_t)API_TO_CONTEXT_END;
    if (!c->chat.messages)
        return api_fail(err, API_MISSING_PARAMETER, "messages", "'messages' is missing");
    if (c->chat.max_completion_tokens != API_NOT_GIVEN)
        c->max_tokens = c->chat.max_completion_tokens;
    if (api_check_common(c, max_tokens, err) != 0 || check_tools(&c->chat, err) != 0)
        return -1;
    if (check_logprobs(c, limits, err) != 0 || settle_last_message(&c->chat, err) != 0)
        return -1;
    if (check_prefill(&c->chat, err) != 0)
        return -1;
    c->prompts = calloc(1, sizeof(*c->prompts)); /* its text comes from the template */
    c->n_prompts = 1;
    return c->prompts ? 0 : api_fail(err, API_INTERNAL, NULL, "Out of memory");
}

int api_parse_chat(char *body, size_t len, const struct api_limits *limits,
                   struct api_completion *out, struct api_error *err)
{
    const struct api_table tables[] = { api_common_fields, API_TABLE(chat_fields) };
    struct api_scan none = { 0 };
    struct api_reader r = { limits, &none, err, &out->unknown, "" };
    api_completion_init(out);
    out->is_chat = true;
    out->chat.max_completion_tokens = out->chat.top_logprobs = API_NOT_GIVEN;
    out->chat.continues = out->chat.generation_prompt = API_UNSAID;
    json_t *doc = api_read_document(body, len, "", &none, err);
    int rc = -1;
    out->doc = doc;
    if (doc && api_read_fields(&r, doc, tables, 2, out) == 0)
        rc = check_rules(out, limits, err);
    api_scan_fini(&none);
    return rc;
}
