/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chat_template.h - what the tests of chats share: an engine with a template of the test's own.
 */
#ifndef LACUNA_TEST_CHAT_TEMPLATE_H
#define LACUNA_TEST_CHAT_TEMPLATE_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/gguf_build.h"

/* A vocabulary whose only purpose is the names of its special tokens. */
static inline void build_vocab(struct gguf_build *b)
{
    static const char *const tokens[] = { "<unk>", "<s>", "</s>", "<pad>", "a" };
    static const int32_t types[] = { 2, 3, 3, 3, 1 };
    static const float scores[] = { 0, 0, 0, 0, -1 };
    gguf_build_str(b, "general.architecture", "llama");
    gguf_build_str(b, "tokenizer.ggml.model", "llama");
    gguf_build_strings(b, "tokenizer.ggml.tokens", 5, tokens);
    gguf_build_array(b, "tokenizer.ggml.token_type", GGUF_I32, 5, types, sizeof types);
    gguf_build_array(b, "tokenizer.ggml.scores", GGUF_F32, 5, scores, sizeof scores);
    gguf_build_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gguf_build_u32(b, "tokenizer.ggml.eos_token_id", 2);
    gguf_build_u32(b, "tokenizer.ggml.unknown_token_id", 0);
    gguf_build_u32(b, "tokenizer.ggml.padding_token_id", 3);
}

static inline struct engine *open_built(struct gguf_build *b)
{
    char path[] = "/tmp/lacuna-test-XXXXXX";
    struct engine *e = NULL;
    struct engine_err err = { 0 };
    struct engine_options opt = { .model_path = path, .vocab_only = true };
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && gguf_build_write(b, path) == 0);
    close(fd);
    int rc = engine_open(&e, &opt, &err);
    unlink(path);
    cr_assert(rc == 0, "%s", err.text);
    return e;
}

/* template: NULL for a model that has none. */
static inline struct engine *open_with_template(const char *template)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    build_vocab(&b);
    if (template)
        gguf_build_str(&b, "tokenizer.chat_template", template);
    return open_built(&b);
}

static inline struct engine_chat chat_of(const char *messages)
{
    return (struct engine_chat){ .messages = messages, .messages_len = strlen(messages) };
}

/* Renders; the test fails if that fails.  free() it. */
static inline char *render_chat(const struct engine *e, const struct engine_chat *chat)
{
    struct engine_err err = { 0 };
    char *text = NULL;
    size_t len;
    cr_assert(engine_chat_render(e, chat, &text, &len, &err) == 0, "%s", err.text);
    cr_assert(strlen(text) == len);
    return text;
}

static inline void expect_chat(const char *template, const struct engine_chat *chat,
                               const char *expected)
{
    struct engine *e = open_with_template(template);
    char *text = render_chat(e, chat);
    cr_expect_str_eq(text, expected);
    free(text);
    engine_close(e);
}

/* Rendering must fail with that code and with these words in its sentence. */
static inline void expect_refusal(const char *template, const struct engine_chat *chat,
                                  enum engine_err_code code, const char *words)
{
    struct engine *e = open_with_template(template);
    struct engine_err err = { 0 };
    char *text = NULL;
    size_t len;
    cr_expect(engine_chat_render(e, chat, &text, &len, &err) == -1, "rendered: %s", text);
    cr_expect(text == NULL);
    cr_expect(err.code == code, "code %d: %s", err.code, err.text);
    cr_expect(strstr(err.text, words) != NULL, "said \"%s\", not \"%s\"", err.text, words);
    free(text);
    engine_close(e);
}

#endif
