/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse_messages.c - the messages and tools of a chat.
 *
 * Messages are checked, and made plain: a content in parts becomes one text, the arguments of a tool
 * call the object they spell, "developer" the older "system".  So templates meet what they were
 * written for.  Members that have no rule here are left to the template.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_fields.h"

/* ---- a message's members ---- */

/* "messages[3].content" and the like. */
struct place {
    struct api_reader *r;
    char path[64];
};

static int fail_at(const struct place *at, enum api_error_kind kind, const char *member,
                   const char *what)
{
    char param[128];
    snprintf(param, sizeof(param), "%s%s", at->path, member);
    return api_fail(at->r->err, kind, param, "'%s' %s", param, what);
}

static int wrong_type_at(const struct place *at, const char *member, const json_t *v,
                         const char *wanted)
{
    char param[128];
    snprintf(param, sizeof(param), "%s%s", at->path, member);
    return api_wrong_type(at->r, param, v, wanted);
}

/* NULL and an error, unless it is there and a string. */
static const char *need_string(const struct place *at, const json_t *object, const char *name)
{
    char member[48];
    const json_t *v = json_object_get(object, name);
    snprintf(member, sizeof(member), ".%s", name);
    if (!v || json_is_null(v))
        fail_at(at, API_MISSING_PARAMETER, member, "is missing");
    else if (!json_is_string(v))
        wrong_type_at(at, member, v, "a string");
    return v ? json_string_value(v) : NULL;
}

static int check_optional_string(const struct place *at, const json_t *object, const char *name)
{
    char member[48];
    const json_t *v = json_object_get(object, name);
    snprintf(member, sizeof(member), ".%s", name);
    if (!v || json_is_null(v) || json_is_string(v))
        return 0;
    return wrong_type_at(at, member, v, "a string");
}

/* ---- content ---- */

static const json_t *part_text(const struct place *at, const json_t *part)
{
    if (!json_is_object(part)) {
        wrong_type_at(at, "", part, "an object");
        return NULL;
    }
    const char *type = need_string(at, part, "type");
    if (!type)
        return NULL;
    if (strcmp(type, "text") != 0) {
        fail_at(at, API_UNSUPPORTED_PARAMETER, ".type",
                "must be 'text': this server reads text only");
        return NULL;
    }
    return need_string(at, part, "text") ? json_object_get(part, "text") : NULL;
}

/* Parts become lines of one text. */
static int join_parts(const struct place *at, json_t *message, const json_t *parts)
{
    struct buf text = { 0 };
    size_t i;
    json_t *part;
    json_array_foreach ((json_t *)parts, i, part) {
        struct place inner = { .r = at->r };
        snprintf(inner.path, sizeof(inner.path), "%.30s.content[%zu]", at->path, i);
        const json_t *piece = part_text(&inner, part);
        if (!piece) {
            buf_fini(&text);
            return -1;
        }
        if (i > 0)
            buf_char(&text, '\n');
        buf_add(&text, json_string_value(piece), json_string_length(piece));
    }
    json_t *joined = text.failed ? NULL : json_stringn(text.len ? text.data : "", text.len);
    buf_fini(&text);
    if (!joined || json_object_set_new(message, "content", joined) != 0)
        return api_fail(at->r->err, API_INTERNAL, NULL, "Out of memory");
    return 0;
}

static int check_content(const struct place *at, json_t *message, bool may_be_null)
{
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content))
        return 0;
    if (json_is_array(content) && json_array_size(content) > 0)
        return join_parts(at, message, content);
    if (json_is_array(content))
        return fail_at(at, API_INVALID_VALUE, ".content", "is an empty array");
    if (content && !json_is_null(content))
        return wrong_type_at(at, ".content", content, "a string or an array of parts");
    if (!may_be_null)
        return fail_at(at, API_MISSING_PARAMETER, ".content", "is missing");
    /* As a template would print it otherwise: "None". */
    return json_object_set_new(message, "content", json_null()) == 0
               ? 0
               : api_fail(at->r->err, API_INTERNAL, NULL, "Out of memory");
}

/* ---- tool calls ---- */

/* Clients send the arguments as the text of a JSON object; templates want the object. */
static int read_arguments(const struct place *at, json_t *function)
{
    const json_t *v = json_object_get(function, "arguments");
    if (!v || json_is_object(v))
        return 0;
    if (!json_is_string(v))
        return wrong_type_at(at, ".function.arguments", v, "a string");
    if (json_string_length(v) == 0)
        return 0;
    struct api_scan none = { 0 };
    struct api_error ignored = { 0 };
    size_t len = json_string_length(v);
    char *copy = strndup(json_string_value(v), len); /* with a NUL within it is no JSON anyway */
    json_t *object = copy ? api_read_document(copy, strlen(copy), "", &none, &ignored) : NULL;
    free(copy);
    api_scan_fini(&none);
    if (!object) /* text then; what a model once wrote may be broken */
        return 0;
    return json_object_set_new(function, "arguments", object) == 0
               ? 0
               : api_fail(at->r->err, API_INTERNAL, NULL, "Out of memory");
}

static int check_tool_call(const struct place *at, const json_t *call)
{
    if (!json_is_object(call))
        return wrong_type_at(at, "", call, "an object");
    const char *type = need_string(at, call, "type");
    if (!type || !need_string(at, call, "id"))
        return -1;
    if (strcmp(type, "function") != 0)
        return fail_at(at, API_INVALID_VALUE, ".type", "must be 'function'");
    json_t *function = json_object_get(call, "function");
    if (!json_is_object(function))
        return fail_at(at, API_INVALID_TYPE, ".function", "must be an object");
    struct place inner = *at;
    snprintf(inner.path, sizeof(inner.path), "%.50s.function", at->path);
    if (!need_string(&inner, function, "name"))
        return -1;
    return read_arguments(at, function);
}

static int check_tool_calls(const struct place *at, const json_t *message, bool *has_calls)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    size_t i;
    json_t *call;
    if (!calls || json_is_null(calls))
        return 0;
    if (!json_is_array(calls))
        return wrong_type_at(at, ".tool_calls", calls, "an array");
    json_array_foreach ((json_t *)calls, i, call) {
        struct place inner = { .r = at->r };
        snprintf(inner.path, sizeof(inner.path), "%.30s.tool_calls[%zu]", at->path, i);
        if (check_tool_call(&inner, call) != 0)
            return -1;
    }
    *has_calls = json_array_size(calls) > 0;
    return 0;
}

/* ---- messages ---- */

static int check_message(const struct place *at, json_t *m)
{
    static const char *const roles[] = { "developer", "system", "user", "assistant", "tool" };
    bool has_calls = false;
    if (!json_is_object(m))
        return wrong_type_at(at, "", m, "an object");
    const char *role = need_string(at, m, "role");
    if (!role)
        return -1;
    size_t i = 0;
    while (i < sizeof(roles) / sizeof(roles[0]) && strcmp(roles[i], role) != 0)
        i++;
    if (i == sizeof(roles) / sizeof(roles[0]))
        return fail_at(at, API_INVALID_VALUE, ".role",
                       "must be 'developer', 'system', 'user', 'assistant' or 'tool'");
    bool is_assistant = strcmp(role, "assistant") == 0, is_tool = strcmp(role, "tool") == 0;
    if (check_optional_string(at, m, "name") != 0 ||
        check_optional_string(at, m, "reasoning_content") != 0 ||
        check_optional_string(at, m, "tool_call_id") != 0)
        return -1;
    if (is_tool && !need_string(at, m, "tool_call_id"))
        return -1;
    if (is_assistant && check_tool_calls(at, m, &has_calls) != 0)
        return -1;
    if (check_content(at, m, has_calls) != 0)
        return -1;
    if (strcmp(role, "developer") == 0 &&
        json_object_set_new(m, "role", json_string("system")) != 0)
        return api_fail(at->r->err, API_INTERNAL, NULL, "Out of memory");
    return 0;
}

int api_parse_messages(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    size_t i;
    json_t *m;
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "an array of messages");
    if (json_array_size(v) == 0)
        return api_fail(r->err, API_INVALID_VALUE, name, "'%s' is an empty array", name);
    json_array_foreach ((json_t *)v, i, m) {
        struct place at = { .r = r };
        snprintf(at.path, sizeof(at.path), "%.20s[%zu]", name, i);
        if (check_message(&at, m) != 0)
            return -1;
        c->chat.text_bytes += json_string_length(json_object_get(m, "content"));
    }
    c->chat.messages = v;
    return 0;
}

/* ---- tools ---- */

/* A tool that could be used must not be ignored; one that may not be used asks for nothing. */
int api_parse_tools(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    size_t i;
    json_t *tool;
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "an array of tools");
    json_array_foreach ((json_t *)v, i, tool) {
        struct place at = { .r = r };
        snprintf(at.path, sizeof(at.path), "%.20s[%zu]", name, i);
        if (!json_is_object(tool))
            return wrong_type_at(&at, "", tool, "an object");
        const char *type = need_string(&at, tool, "type");
        if (!type)
            return -1;
        const json_t *function = json_object_get(tool, "function");
        if (strcmp(type, "function") != 0)
            return fail_at(&at, API_INVALID_VALUE, ".type", "must be 'function'");
        if (!json_is_object(function))
            return fail_at(&at, API_INVALID_TYPE, ".function", "must be an object");
        snprintf(at.path, sizeof(at.path), "%.20s[%zu].function", name, i);
        if (!need_string(&at, function, "name"))
            return -1;
    }
    c->chat.has_tools = json_array_size(v) > 0;
    return 0;
}
