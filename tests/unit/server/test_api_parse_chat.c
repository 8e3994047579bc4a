/* SPDX-License-Identifier: Apache-2.0
 *
 * test_api_parse_chat.c - bodies of POST /v1/chat/completions: messages made plain, and the rules
 * between the fields.  What is refused by which name is in tests/api/test_chat.py.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_parse.h"

static const struct api_limits limits = {
    .max_prompts = 4, .max_n = 8, .max_logprobs = 5, .n_vocab = 1000
};

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define ASSISTANT "{\"role\":\"assistant\",\"content\":\"ho\"}"

/* The caller finishes *c. */
static void take(const char *text, struct api_completion *c)
{
    struct api_error e = { 0 };
    char *body = strdup(text);
    cr_assert_eq(api_parse_chat(body, strlen(text), &limits, c, &e), 0, "%s: %s", text, e.message);
    free(body);
}

static void refuse(const char *text, const char *param)
{
    struct api_completion c;
    struct api_error e = { 0 };
    char *body = strdup(text);
    cr_expect_eq(api_parse_chat(body, strlen(text), &limits, &c, &e), -1, "taken: %s", text);
    cr_expect_str_eq(e.param, param, "%s: %s", text, e.message);
    api_completion_fini(&c);
    free(body);
}

static const json_t *message(const struct api_completion *c, size_t i)
{
    return json_array_get(c->chat.messages, i);
}

static const char *text_of(const struct api_completion *c, size_t i, const char *member)
{
    return json_string_value(json_object_get(message(c, i), member));
}

Test(api_parse_chat, defaults)
{
    struct api_completion c;
    take("{\"messages\":[" USER "]}", &c);
    cr_expect(c.is_chat && c.n_prompts == 1 && !c.prompts[0].text);
    cr_expect_eq(c.max_tokens, API_TO_CONTEXT_END);
    cr_expect_eq(c.n_logprobs, -1);
    cr_expect(c.chat.adds_prompt && !c.chat.is_prefill);
    cr_expect_null(c.chat.reasoning_effort);
    cr_expect_null(c.chat.template_values);
    cr_expect_eq(c.chat.text_bytes, 2);
    api_completion_fini(&c);
}

Test(api_parse_chat, messages_are_made_plain)
{
    struct api_completion c;
    take("{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":"
         "\"a\\u0000\"},"
         "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":\"\",\"own\":[1]}]}",
         &c);
    cr_expect_str_eq(text_of(&c, 0, "role"), "system");
    const json_t *content = json_object_get(message(&c, 0), "content");
    cr_expect_eq(json_string_length(content), 4);
    cr_expect_eq(memcmp(json_string_value(content), "a\0\nb", 4), 0);
    cr_expect(json_is_array(json_object_get(message(&c, 1), "own")), "left to the template");
    api_completion_fini(&c);
}

Test(api_parse_chat, arguments_of_tool_calls_become_objects)
{
    struct api_completion c;
    take("{\"messages\":[" USER ",{\"role\":\"assistant\",\"tool_calls\":["
         "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{"
         "\\\"a\\\":1}\"}},"
         "{\"id\":\"2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{"
         "broken\"}}]},"
         "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"x\"}]}",
         &c);
    const json_t *calls = json_object_get(message(&c, 1), "tool_calls");
    const json_t *first = json_object_get(json_array_get(calls, 0), "function");
    const json_t *second = json_object_get(json_array_get(calls, 1), "function");
    const json_t *a = json_object_get(json_object_get(first, "arguments"), "a");
    cr_expect_eq(json_integer_value(a), 1);
    cr_expect_str_eq(json_string_value(json_object_get(second, "arguments")), "{broken",
                     "what a model once wrote may be anything");
    cr_expect(json_is_null(json_object_get(message(&c, 1), "content")));
    api_completion_fini(&c);
}

static void expect_turn(const char *fields, bool is_prefill, bool adds_prompt)
{
    char text[256];
    struct api_completion c;
    snprintf(text, sizeof(text), "{\"messages\":[" USER "," ASSISTANT "]%s}", fields);
    take(text, &c);
    cr_expect_eq(c.chat.is_prefill, is_prefill, "%s", fields);
    cr_expect_eq(c.chat.adds_prompt, adds_prompt, "%s", fields);
    api_completion_fini(&c);
}

Test(api_parse_chat, whose_turn_it_is)
{
    expect_turn("", true, false);
    expect_turn(",\"continue_final_message\":true", true, false);
    expect_turn(",\"continue_final_message\":true,\"add_generation_prompt\":false", true, false);
    expect_turn(",\"continue_final_message\":false", false, true);
    expect_turn(",\"add_generation_prompt\":true", false, true);
    expect_turn(",\"add_generation_prompt\":false", false, false);
    refuse("{\"messages\":[" USER "," ASSISTANT "," ASSISTANT "]}", "messages");
    refuse("{\"messages\":[" USER "],\"continue_final_message\":true}", "continue_final_message");
    refuse("{\"messages\":[" ASSISTANT
           "],\"continue_final_message\":true,\"add_generation_prompt\":true}",
           "continue_final_message");
}

Test(api_parse_chat, max_tokens_by_its_names)
{
    struct api_completion c;
    take("{\"messages\":[" USER "],\"max_tokens\":3,\"max_completion_tokens\":2}", &c);
    cr_expect_eq(c.max_tokens, 2);
    api_completion_fini(&c);
    take("{\"messages\":[" USER "],\"max_tokens\":3,\"max_completion_tokens\":null}", &c);
    cr_expect_eq(c.max_tokens, 3);
    api_completion_fini(&c);
    refuse("{\"messages\":[" USER "],\"max_completion_tokens\":2,\"min_tokens\":3}", "min_tokens");
}

Test(api_parse_chat, logprobs_and_their_number)
{
    struct api_completion c;
    take("{\"messages\":[" USER "],\"logprobs\":true}", &c);
    cr_expect_eq(c.n_logprobs, 0);
    api_completion_fini(&c);
    take("{\"messages\":[" USER "],\"top_logprobs\":5,\"logprobs\":true}", &c);
    cr_expect_eq(c.n_logprobs, 5);
    api_completion_fini(&c);
    refuse("{\"messages\":[" USER "],\"top_logprobs\":6,\"logprobs\":true}", "top_logprobs");
    refuse("{\"messages\":[" USER "],\"top_logprobs\":0}", "top_logprobs");
}
