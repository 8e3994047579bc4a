/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_chat_template.c - any template with any conversation.
 *
 * The input is a template, a NUL, and JSON: an object whose keys are the template's variables.
 * Without NUL the template gets a conversation with everything in it.
 *
 * What must hold: a refusal that says why, or a text of well-formed UTF-8 within the limits.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\" Be kind.\\n\"},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"H\\u00e9 \\ud83d\\ude00\"}]},"
    "{\"role\":\"assistant\",\"content\":\"<think>x</think> y\",\"tool_calls\":[{\"id\":\"1\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true,null,{}]}}}]}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"n\":-7}";

/* Small, so that every limit is met and no input takes long. */
static const struct jinja_limits limits = { .memory = 1 << 20, .steps = 100000, .depth = 60 };

static void check_error(const struct engine_err *err)
{
    size_t n = strlen(err->text);
    assert(err->code != ENGINE_ERR_NONE && err->code != ENGINE_ERR_INTERNAL && n > 0);
    assert(n < sizeof err->text - 1 && utf8_valid_run(err->text, n) == n);
}

static void render(const struct jinja_template *t, const char *json, size_t len)
{
    struct engine_err err = { 0 };
    struct jinja_run r;
    jinja_run_init(&r, &limits, &err);
    struct jv variables = jinja_json_read(&r, json, len, "variables");
    if (!r.failed && variables.kind == JV_DICT && jinja_render(&r, t, variables.as.dict) == 0) {
        assert(r.out.len <= limits.memory && r.depth == 0 && err.code == ENGINE_ERR_NONE);
        assert(utf8_valid_run(r.out.data, r.out.len) == r.out.len);
    } else if (r.failed) {
        check_error(&err);
    }
    jinja_run_fini(&r);
}

/* A copy without anything behind it, so that a step over its end is seen. */
static char *exact_copy(const void *data, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert(copy != NULL);
    memcpy(copy, data, len);
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine_err err = { 0 };
    struct jinja_template *t = NULL;
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    size_t json_len = nul ? size - len - 1 : sizeof conversation - 1;
    if (size == 0)
        return 0;
    char *text = exact_copy(data, len);
    char *json = exact_copy(nul ? (const void *)(nul + 1) : conversation, json_len);
    if (jinja_template_open(&t, text, len, &err) == 0)
        render(t, json, json_len);
    else
        check_error(&err);
    jinja_template_close(t);
    free(text);
    free(json);
    return 0;
}
