/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chat_template.c - engine_chat_render: what a template is given, and what is refused.
 */
#include "tests/unit/engine/test_chat_template.h"

#define TWO                                                                                        \
    "[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\" Yes, \"}]"

static const char chatml[] =
    "{% for m in messages %}\n"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n";

Test(chat_template, messages_are_rendered_in_order)
{
    struct engine_chat chat = chat_of(TWO);
    expect_chat(chatml, &chat,
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Yes, <|im_end|>\n");
}

Test(chat_template, the_beginning_of_an_answer_is_added_if_asked_for)
{
    struct engine_chat chat = chat_of("[]");
    chat.add_generation_prompt = true;
    expect_chat(chatml, &chat, "<|im_start|>assistant\n");
}

Test(chat_template, special_tokens_have_names)
{
    struct engine_chat chat = chat_of("[]");
    expect_chat("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ sep_token }}",
                &chat, "<s></s><unk><pad>");
}

Test(chat_template, tools_are_none_unless_given)
{
    struct engine_chat chat = chat_of("[]");
    expect_chat("{{ tools is defined }} {{ tools is none }} {{ documents }}", &chat,
                "True True None");
    chat.tools = "[{\"name\":\"f\"}]";
    chat.tools_len = strlen(chat.tools);
    expect_chat("{{ tools[0].name }}", &chat, "f");
}

Test(chat_template, tools_have_a_template_of_their_own_if_the_model_has_one)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    build_vocab(&b);
    gguf_build_str(&b, "tokenizer.chat_template", "plain");
    gguf_build_str(&b, "tokenizer.chat_template.tool_use", "tools");
    struct engine *e = open_built(&b);
    struct engine_chat chat = chat_of("[]");
    char *text = render_chat(e, &chat);
    cr_expect_str_eq(text, "plain");
    free(text);
    chat.tools = "[]";
    chat.tools_len = 2;
    text = render_chat(e, &chat);
    cr_expect_str_eq(text, "tools");
    free(text);
    engine_close(e);
}

Test(chat_template, further_variables_are_given_by_name)
{
    struct engine_chat chat = chat_of("[]");
    chat.variables = "{\"enable_thinking\":false,\"bos_token\":\"B\",\"documents\":[1]}";
    chat.variables_len = strlen(chat.variables);
    expect_chat("{{ enable_thinking }}{{ bos_token }}{{ documents }}", &chat, "FalseB[1]");
    chat.variables = "{\"messages\":[]}";
    chat.variables_len = strlen(chat.variables);
    expect_refusal("x", &chat, ENGINE_ERR_INPUT, "may not name 'messages'");
}

Test(chat_template, null_in_a_message_is_as_good_as_absent)
{
    struct engine_chat chat = chat_of("[{\"role\":\"user\",\"content\":null,\"x\":{\"y\":null}}]");
    expect_chat("{{ messages[0].content is defined }} {{ messages[0].x }}", &chat,
                "False {'y': None}");
}

Test(chat_template, reasoning_has_several_names)
{
    struct engine_chat chat = chat_of("[{\"reasoning\":\"r\"}]");
    expect_chat("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", &chat, "rr");
    chat = chat_of("[{\"thinking\":\"t\"}]");
    expect_chat("{{ messages[0].reasoning_content }}", &chat, "t");
}

Test(chat_template, the_date_is_the_callers)
{
    struct engine_chat chat = chat_of("[]");
    setenv("TZ", "UTC", 1);
    chat.now = 1750000000;
    expect_chat("{{ strftime_now('%d %b %Y %H:%M') }}|{{ strftime_now('') }}", &chat,
                "15 Jun 2025 15:06|");
}

/* ---- continuing the last message ---- */

Test(chat_template, the_last_message_can_be_continued)
{
    struct engine_chat chat = chat_of(TWO);
    chat.continue_final_message = true;
    expect_chat(chatml, &chat, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Yes, ");
}

Test(chat_template, where_the_template_strips_the_last_message_ends_stripped)
{
    struct engine_chat chat = chat_of(TWO);
    chat.continue_final_message = true;
    expect_chat("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", &chat, "[Hi][Yes,");
}

Test(chat_template, the_last_text_part_can_be_continued)
{
    struct engine_chat chat = chat_of(
        "[{\"content\":[{\"text\":\"a\"},{\"text\":\"b\"},{\"image\":1}]}]");
    chat.continue_final_message = true;
    expect_chat("{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}", &chat, "<a><b");
}

Test(chat_template, what_cannot_be_continued_is_refused)
{
    struct engine_chat chat = chat_of("[{\"role\":\"assistant\",\"tool_calls\":[]}]");
    chat.continue_final_message = true;
    expect_refusal(chatml, &chat, ENGINE_ERR_INPUT, "no text that could be continued");
    chat = chat_of("[]");
    chat.continue_final_message = true;
    expect_refusal(chatml, &chat, ENGINE_ERR_INPUT, "no text that could be continued");
    chat = chat_of(TWO);
    chat.continue_final_message = true;
    expect_refusal("{{ messages[0].content }}", &chat, ENGINE_ERR_INPUT, "be continued");
}

/* ---- refusals ---- */

Test(chat_template, a_model_without_template_says_so)
{
    struct engine_chat chat = chat_of("[]");
    expect_refusal(NULL, &chat, ENGINE_ERR_UNSUPPORTED, "has no chat template");
}

Test(chat_template, what_cannot_be_compiled_is_named_with_its_line_when_it_is_asked_for)
{
    struct engine_chat chat = chat_of("[]");
    expect_refusal("a\n{% extends 'b' %}", &chat, ENGINE_ERR_UNSUPPORTED,
                   "line 2: {% extends %} is not supported");
}

Test(chat_template, a_template_may_refuse_with_its_own_words)
{
    struct engine_chat chat = chat_of("[{\"role\":\"x\"}]");
    expect_refusal("\n{{ raise_exception('No role ' + messages[0].role) }}", &chat,
                   ENGINE_ERR_INPUT, "chat template: No role x");
}

Test(chat_template, what_is_no_conversation_is_refused)
{
    struct engine_chat chat = chat_of("{}");
    expect_refusal("x", &chat, ENGINE_ERR_INPUT, "messages must be an array");
    chat = chat_of("[1]");
    expect_refusal("x", &chat, ENGINE_ERR_INPUT, "messages[0] must be an object");
    chat = chat_of("[{]");
    expect_refusal("x", &chat, ENGINE_ERR_INPUT, "messages: a key expected at byte 2");
}

Test(chat_template, a_template_that_never_ends_is_stopped)
{
    struct engine_chat chat = chat_of("[]");
    expect_refusal("{% for a in range(9999) %}{% for b in range(9) %}"
                   "{% if a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b+a+b %}{% endif %}"
                   "{% endfor %}{% endfor %}",
                   &chat, ENGINE_ERR_INPUT, "steps of work");
    expect_refusal("{% set ns = namespace(s='x') %}{% for a in range(99) %}"
                   "{% set ns.s = ns.s + ns.s %}{% endfor %}",
                   &chat, ENGINE_ERR_INPUT, "bytes of");
    expect_refusal("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &chat, ENGINE_ERR_INPUT,
                   "nested deeper than");
}

Test(chat_template, a_rendering_that_failed_leaves_the_template_as_it_was)
{
    struct engine *e = open_with_template("{{ messages[0].content + '!' }}");
    struct engine_chat good = chat_of("[{\"content\":\"x\"}]"), bad = chat_of("[{}]");
    struct engine_err err = { 0 };
    char *text;
    size_t len;
    cr_expect(engine_chat_render(e, &bad, &text, &len, &err) == -1);
    text = render_chat(e, &good);
    cr_expect_str_eq(text, "x!");
    free(text);
    engine_close(e);
}
