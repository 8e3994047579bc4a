/* SPDX-License-Identifier: Apache-2.0
 *
 * test_api_error.c - one shape for all errors.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/api_error.h"

static char *json_of(const struct api_error *e, struct buf *b)
{
    buf_clear(b);
    api_error_json(b, e);
    buf_char(b, '\0');
    return b->data;
}

Test(api_error, has_the_openai_shape)
{
    struct api_error e = { 0 };
    struct buf b = { 0 };
    api_fail(&e, API_INVALID_VALUE, "n", "'%s' is \"bad\"", "n");
    cr_expect_str_eq(json_of(&e, &b), "{\"error\":{\"message\":\"'n' is \\\"bad\\\"\","
                                      "\"type\":\"invalid_request_error\",\"param\":\"n\","
                                      "\"code\":\"invalid_value\"}}");
    cr_expect_eq(api_error_status(e.kind), 400);
    buf_fini(&b);
}

Test(api_error, the_first_error_wins)
{
    struct api_error e = { 0 };
    cr_expect_eq(api_fail(&e, API_INVALID_TYPE, "a", "first"), -1);
    cr_expect_eq(api_fail(&e, API_INTERNAL, "b", "second"), -1);
    cr_expect_eq(e.kind, API_INVALID_TYPE);
    cr_expect_str_eq(e.message, "first");
    cr_expect_str_eq(e.param, "a");
}

Test(api_error, context_errors_carry_both_counts)
{
    struct api_error e = { 0 };
    struct buf b = { 0 };
    api_fail(&e, API_CONTEXT_LENGTH, "prompt", "long");
    e.n_prompt_tokens = 9;
    e.n_ctx = 8;
    cr_expect(strstr(json_of(&e, &b), ",\"n_prompt_tokens\":9,\"n_ctx\":8}}"));
    buf_fini(&b);
}

Test(api_error, every_kind_has_status_type_and_code)
{
    struct buf b = { 0 };
    for (int kind = API_OK + 1; kind < API_N_ERROR_KINDS; kind++) {
        struct api_error e = { 0 };
        api_fail(&e, (enum api_error_kind)kind, NULL, "x");
        cr_expect_geq(api_error_status(e.kind), 400, "kind %d", kind);
        cr_expect(api_error_code(e.kind)[0], "kind %d", kind);
        cr_expect(strstr(json_of(&e, &b), "\"param\":null"), "kind %d", kind);
        cr_expect_null(strstr(b.data, "(null)"), "kind %d", kind);
    }
    buf_fini(&b);
}

Test(api_error, inner_errors_do_not_reach_the_peer)
{
    static const struct {
        enum engine_err_code code;
        enum api_error_kind kind;
    } inner[] = { { ENGINE_ERR_INTERNAL, API_INTERNAL }, { ENGINE_ERR_IO, API_STORAGE } };
    for (size_t i = 0; i < sizeof(inner) / sizeof(*inner); i++) {
        struct engine_err err = { .code = inner[i].code, .text = "/some/path: gone" };
        struct api_error e = { 0 };
        api_error_from_engine(&e, &err);
        cr_expect_eq(e.kind, inner[i].kind);
        cr_expect_null(strstr(e.message, "/some/path"));
    }
}

Test(api_error, refusals_say_when_to_come_back)
{
    struct engine_err none = { 0 };
    struct api_error e = { 0 };
    api_error_from_refusal(&e, SCHED_REFUSED_TOKEN_BACKLOG, &none, 7);
    cr_expect_str_eq(api_error_code(e.kind), "token_backlog_full");
    cr_expect_eq(api_error_status(e.kind), 429);
    cr_expect_eq(e.retry_after_s, 7);
    e = (struct api_error){ 0 };
    api_error_from_refusal(&e, SCHED_REFUSED_CLOSING, &none, 7);
    cr_expect_eq(api_error_status(e.kind), 503);
    cr_expect_eq(e.retry_after_s, 0);
}
