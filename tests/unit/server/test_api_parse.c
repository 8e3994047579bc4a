/* SPDX-License-Identifier: Apache-2.0
 *
 * test_api_parse.c - bodies of POST /v1/completions: what is taken, with which defaults, and what
 * is refused, naming which field.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_parse.h"

static const struct api_limits limits = {
    .max_prompts = 4, .max_n = 8, .max_logprobs = 20, .n_vocab = 1000
};

static int parse_with(const struct api_limits *l, const char *text, struct api_completion *c,
                      struct api_error *e)
{
    char *body = strdup(text);
    *e = (struct api_error){ 0 };
    int rc = api_parse_completion(body, strlen(text), l, c, e);
    free(body);
    cr_expect_eq(rc == 0, e->kind == API_OK);
    return rc;
}

/* The caller finishes *c. */
static void take(const char *text, struct api_completion *c)
{
    struct api_error e;
    cr_assert_eq(parse_with(&limits, text, c, &e), 0, "%s: %s", text, e.message);
}

static void refuse(const char *text, const char *code, const char *param)
{
    struct api_completion c;
    struct api_error e;
    cr_expect_eq(parse_with(&limits, text, &c, &e), -1, "taken: %s", text);
    cr_expect_str_eq(api_error_code(e.kind), code, "%s: %s", text, e.message);
    cr_expect_str_eq(e.param, param, "%s: %s", text, e.message);
    cr_expect(e.message[0]);
    api_completion_fini(&c);
}

Test(api_parse, defaults_are_those_of_the_table)
{
    struct api_completion c;
    take("{\"prompt\":\"hi\"}", &c);
    cr_expect_eq(c.n_prompts, 1);
    cr_expect_eq(c.prompts[0].text_len, 2);
    cr_expect_eq(c.max_tokens, 16);
    cr_expect_eq(c.n, 1);
    cr_expect_eq(c.n_logprobs, -1);
    cr_expect_eq(c.temperature, 1);
    cr_expect_eq(c.top_p, 1);
    cr_expect_eq(c.top_k, 0);
    cr_expect_eq(c.repetition_penalty, 1);
    cr_expect(c.skip_special && c.add_special && c.cache_prompt);
    cr_expect_not(c.stream || c.echo || c.ignore_eos || c.include_stop || c.has_seed);
    cr_expect_null(c.model);
    cr_expect_eq(c.unknown.n, 0);
    api_completion_fini(&c);
}

Test(api_parse, null_means_the_default)
{
    struct api_completion c;
    take("{\"prompt\":\"hi\",\"max_tokens\":null,\"stop\":null,\"n\":null,\"logit_bias\":null,"
         "\"stream_options\":null,\"suffix\":null,\"temperature\":null,\"response_format\":null}",
         &c);
    cr_expect_eq(c.max_tokens, 16);
    cr_expect_eq(c.n_stops, 0);
    api_completion_fini(&c);
    refuse("{\"prompt\":null}", "missing_required_parameter", "prompt");
    refuse("{}", "missing_required_parameter", "prompt");
}

Test(api_parse, every_field_is_read)
{
    struct api_completion c;
    take("{\"model\":\"m\",\"prompt\":\"p\",\"echo\":true,\"frequency_penalty\":-2,"
         "\"presence_penalty\":2,\"logit_bias\":{\"7\":-100,\"8\":1.5},\"logprobs\":20,"
         "\"max_tokens\":5,\"n\":8,\"best_of\":8,\"seed\":-3,\"stop\":[\"a\",\"bc\"],"
         "\"stream\":true,\"stream_options\":{\"include_usage\":true,"
         "\"include_obfuscation\":false,\"continuous_usage_stats\":true},\"suffix\":\"\","
         "\"temperature\":0,\"top_p\":0,\"user\":\"u\",\"top_k\":-1,\"min_p\":0.5,"
         "\"repetition_penalty\":1.5,\"ignore_eos\":true,\"stop_token_ids\":[1,999],"
         "\"min_tokens\":5,\"include_stop_str_in_output\":true,\"skip_special_tokens\":false,"
         "\"add_special_tokens\":false,\"truncate_prompt_tokens\":-1,"
         "\"truncation_side\":\"right\",\"return_token_ids\":true,"
         "\"return_tokens_as_token_ids\":true,\"request_id\":\"r.1\",\"cache_prompt\":false,"
         "\"cache_salt\":\"s\",\"response_format\":{\"type\":\"text\"},\"priority\":0,"
         "\"lacuna\":{\"quality\":\"fast\"}}",
         &c);
    cr_expect_str_eq(c.model, "m");
    cr_expect(c.echo && c.stream && c.include_usage && c.continuous_usage && c.ignore_eos);
    cr_expect(c.include_stop && !c.skip_special && !c.add_special && c.truncate_right);
    cr_expect(c.return_token_ids && c.tokens_as_ids && !c.cache_prompt);
    cr_expect_eq(c.frequency_penalty, -2);
    cr_expect_eq(c.presence_penalty, 2);
    cr_expect_eq(c.n_bias, 2);
    cr_expect_eq(c.bias[0].token, 7);
    cr_expect(isinf(c.bias[0].bias) && c.bias[0].bias < 0, "-100 bans");
    cr_expect_eq(c.bias[1].bias, 1.5f);
    cr_expect_eq(c.n_logprobs, 20);
    cr_expect_eq(c.max_tokens, 5);
    cr_expect_eq(c.min_tokens, 5);
    cr_expect_eq(c.n, 8);
    cr_expect(c.has_seed && c.seed == -3);
    cr_expect_eq(c.n_stops, 2);
    cr_expect_eq(c.stops[1].len, 2);
    cr_expect_eq(c.temperature, 0);
    cr_expect_eq(c.top_k, -1);
    cr_expect_eq(c.min_p, 0.5);
    cr_expect_eq(c.repetition_penalty, 1.5);
    cr_expect_eq(c.n_stop_tokens, 2);
    cr_expect_eq(c.truncate_prompt_tokens, API_TO_CONTEXT_END);
    cr_expect_str_eq(c.request_id, "r.1");
    cr_expect_str_eq(c.cache_salt, "s");
    cr_expect_str_eq(c.quality, "fast");
    api_completion_fini(&c);
}

Test(api_parse, a_quality_is_a_name_or_a_share)
{
    struct api_completion c;
    take("{\"prompt\":\"a\",\"lacuna\":{\"quality\":0.99}}", &c);
    cr_expect_float_eq(strtod(c.quality, NULL), 0.99, 1e-15);
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"lacuna\":{}}", &c);
    cr_expect_str_eq(c.quality, "");
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"lacuna\":null}", &c);
    api_completion_fini(&c);
    refuse("{\"prompt\":\"a\",\"lacuna\":{\"quality\":1.01}}", "invalid_value", "lacuna.quality");
    refuse("{\"prompt\":\"a\",\"lacuna\":{\"quality\":\"\"}}", "invalid_value", "lacuna.quality");
    refuse("{\"prompt\":\"a\",\"lacuna\":{\"quality\":true}}", "invalid_type", "lacuna.quality");
    refuse("{\"prompt\":\"a\",\"lacuna\":7}", "invalid_type", "lacuna");
}

Test(api_parse, all_four_forms_of_prompts)
{
    struct api_completion c;
    take("{\"prompt\":[\"a\",\"\",\"c\\u0000d\"]}", &c);
    cr_expect_eq(c.n_prompts, 3);
    cr_expect_eq(c.prompts[1].text_len, 0);
    cr_expect_eq(c.prompts[2].text_len, 3, "NUL is text like any other");
    api_completion_fini(&c);
    take("{\"prompt\":[1,2.0,999]}", &c);
    cr_expect_eq(c.n_prompts, 1);
    cr_expect_null(c.prompts[0].text);
    cr_expect_eq(c.prompts[0].n_ids, 3);
    cr_expect_eq(c.prompts[0].ids[1], 2);
    api_completion_fini(&c);
    take("{\"prompt\":[[1],[2,3]]}", &c);
    cr_expect_eq(c.n_prompts, 2);
    cr_expect_eq(c.prompts[1].n_ids, 2);
    cr_expect_eq(c.prompts[1].ids[0], 2);
    api_completion_fini(&c);
}

Test(api_parse, bad_prompts_are_refused)
{
    refuse("{\"prompt\":5}", "invalid_type", "prompt");
    refuse("{\"prompt\":{}}", "invalid_type", "prompt");
    refuse("{\"prompt\":[]}", "invalid_value", "prompt");
    refuse("{\"prompt\":[[]]}", "invalid_value", "prompt[0]");
    refuse("{\"prompt\":[[1],[]]}", "invalid_value", "prompt[1]");
    refuse("{\"prompt\":[1,\"x\"]}", "invalid_type", "prompt[1]");
    refuse("{\"prompt\":[\"x\",1]}", "invalid_type", "prompt[1]");
    refuse("{\"prompt\":[[1],2]}", "invalid_type", "prompt[1]");
    refuse("{\"prompt\":[[1],[\"x\"]]}", "invalid_type", "prompt[1][0]");
    refuse("{\"prompt\":[null]}", "invalid_type", "prompt[0]");
    refuse("{\"prompt\":[1.5]}", "invalid_type", "prompt[0]");
    refuse("{\"prompt\":[-1]}", "invalid_value", "prompt[0]");
    refuse("{\"prompt\":[0,1000]}", "invalid_value", "prompt[1]");
    refuse("{\"prompt\":[[0],[1,1000]]}", "invalid_value", "prompt[1][1]");
    refuse("{\"prompt\":[\"1\",\"2\",\"3\",\"4\",\"5\"]}", "invalid_value", "prompt");
}

Test(api_parse, types_are_never_coerced)
{
    refuse("{\"prompt\":\"a\",\"max_tokens\":\"5\"}", "invalid_type", "max_tokens");
    refuse("{\"prompt\":\"a\",\"max_tokens\":5.5}", "invalid_type", "max_tokens");
    refuse("{\"prompt\":\"a\",\"max_tokens\":true}", "invalid_type", "max_tokens");
    refuse("{\"prompt\":\"a\",\"stream\":1}", "invalid_type", "stream");
    refuse("{\"prompt\":\"a\",\"temperature\":\"1\"}", "invalid_type", "temperature");
    refuse("{\"prompt\":\"a\",\"logprobs\":true}", "invalid_type", "logprobs");
    refuse("{\"prompt\":\"a\",\"model\":1}", "invalid_type", "model");
    refuse("{\"prompt\":\"a\",\"stream_options\":[]}", "invalid_type", "stream_options");
    refuse("{\"prompt\":\"a\",\"stop\":[1]}", "invalid_type", "stop[0]");
    refuse("{\"prompt\":\"a\",\"logit_bias\":[]}", "invalid_type", "logit_bias");
    struct api_completion c;
    take("{\"prompt\":\"a\",\"max_tokens\":5.0}", &c);
    cr_expect_eq(c.max_tokens, 5);
    api_completion_fini(&c);
}

Test(api_parse, ranges_hold_at_both_ends)
{
    static const char *const fields[][2] = {
        { "temperature", "-0.1" },
        { "temperature", "2.1" },
        { "top_p", "-0.1" },
        { "top_p", "1.1" },
        { "min_p", "1.1" },
        { "frequency_penalty", "2.1" },
        { "presence_penalty", "-2.1" },
        { "repetition_penalty", "0" },
        { "repetition_penalty", "10.1" },
        { "repeat_penalty", "-1" },
        { "n", "0" },
        { "n", "9" },
        { "logprobs", "-1" },
        { "logprobs", "21" },
        { "max_tokens", "-1" },
        { "n_predict", "-2" },
        { "top_k", "-2" },
        { "min_tokens", "-1" },
        { "best_of", "21" },
        { "truncate_prompt_tokens", "0" },
        { "truncate_prompt_tokens", "-2" },
        { "truncation_side", "\"up\"" },
        { "max_tokens", "9007199254740994" },
        { "stop", "\"\"" },
        { "request_id", "\"a b\"" },
        { "request_id", "\"\"" },
        { "cache_salt", "\"\"" },
        { "user", "\"a\\u0000b\"" },
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        char body[128];
        snprintf(body, sizeof(body), "{\"prompt\":\"a\",\"%s\":%s}", fields[i][0], fields[i][1]);
        refuse(body, "invalid_value", fields[i][0]);
    }
}

Test(api_parse, stop_strings_are_bounded)
{
    char body[1024] = "{\"prompt\":\"a\",\"stop\":\"";
    size_t start = strlen(body);
    memset(body + start, 'x', 257);
    strcpy(body + start + 257, "\"}");
    refuse(body, "invalid_value", "stop");
    refuse("{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\","
           "\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]}",
           "invalid_value", "stop");
    struct api_completion c;
    take("{\"prompt\":\"a\",\"stop\":[]}", &c);
    cr_expect_eq(c.n_stops, 0);
    api_completion_fini(&c);
}

Test(api_parse, logit_bias_wants_ids_of_the_model)
{
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "invalid_value", "logit_bias.x");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", "invalid_value", "logit_bias.-1");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"1000\":1}}", "invalid_value", "logit_bias.1000");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"99999999999999999999\":1}}", "invalid_value",
           "logit_bias.99999999999999999999");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"1 \":1}}", "invalid_value", "logit_bias.1 ");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"\":1}}", "invalid_value", "logit_bias.");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", "invalid_value", "logit_bias.1");
    refuse("{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"x\"}}", "invalid_type", "logit_bias.1");
}

Test(api_parse, fields_that_contradict_each_other)
{
    refuse("{\"prompt\":\"a\",\"min_tokens\":17}", "invalid_value", "min_tokens");
    refuse("{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":false}}", "invalid_value",
           "stream_options");
    refuse("{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", "invalid_value", "best_of");
    refuse("{\"prompt\":\"a\",\"best_of\":2}", "unsupported_parameter", "best_of");
    struct api_completion c;
    take("{\"prompt\":\"a\",\"stream_options\":{},\"best_of\":0}", &c);
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"n_predict\":-1,\"min_tokens\":500}", &c);
    cr_expect_eq(c.max_tokens, API_TO_CONTEXT_END);
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"n_predict\":3,\"max_tokens\":4}", &c);
    cr_expect_eq(c.max_tokens, 4, "the standard name wins");
    api_completion_fini(&c);
}

Test(api_parse, what_is_not_built_is_refused_unless_it_asks_for_nothing)
{
    refuse("{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}",
           "unsupported_parameter", "response_format");
    refuse("{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
           "unsupported_parameter", "response_format");
    refuse("{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_schema\"}}",
           "missing_required_parameter", "response_format.json_schema");
    refuse("{\"prompt\":\"a\",\"response_format\":{\"type\":\"xml\"}}", "invalid_value",
           "response_format");
    refuse("{\"prompt\":\"a\",\"response_format\":{}}", "missing_required_parameter",
           "response_format.type");
    refuse("{\"prompt\":\"a\",\"grammar\":\"root ::= x\"}", "unsupported_parameter", "grammar");
    refuse("{\"prompt\":\"a\",\"json_schema\":{}}", "unsupported_parameter", "json_schema");
    refuse("{\"prompt\":\"a\",\"prompt_logprobs\":0}", "unsupported_parameter", "prompt_logprobs");
    struct api_completion c;
    take("{\"prompt\":\"a\",\"bad_words\":[],\"use_beam_search\":false,\"allowed_token_ids\":[]}",
         &c);
    api_completion_fini(&c);
}

Test(api_parse, a_suffix_is_text_that_nothing_else_may_move)
{
    struct api_completion c;
    take("{\"prompt\":\"a\",\"suffix\":\"x\\u0000y\"}", &c);
    cr_expect_eq(c.suffix.len, 3, "NUL is text like any other");
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"suffix\":\"\",\"echo\":true}", &c);
    cr_expect_eq(c.suffix.len, 0);
    api_completion_fini(&c);
    refuse("{\"prompt\":\"a\",\"suffix\":5}", "invalid_type", "suffix");
    refuse("{\"prompt\":\"a\",\"suffix\":\"x\",\"echo\":true}", "unsupported_parameter", "suffix");
    refuse("{\"prompt\":\"a\",\"suffix\":\"x\",\"truncate_prompt_tokens\":5}",
           "unsupported_parameter", "suffix");
}

Test(api_parse, what_runs_when_and_how_it_is_told)
{
    struct api_completion c;
    take("{\"prompt\":\"a\",\"priority\":-9223372036854775808,\"stream_interval\":7,"
         "\"timings_per_token\":true,\"return_progress\":true,\"t_max_predict_ms\":250}",
         &c);
    cr_expect_eq(c.priority, INT64_MIN);
    cr_expect_eq(c.stream_interval, 7);
    cr_expect(c.timings_per_token && c.return_progress);
    cr_expect_eq(c.max_predict_ms, 250);
    api_completion_fini(&c);
    take("{\"prompt\":\"a\"}", &c);
    cr_expect_eq(c.priority, 0);
    cr_expect_eq(c.stream_interval, 1);
    cr_expect_not(c.timings_per_token || c.return_progress);
    cr_expect_eq(c.max_predict_ms, 0);
    api_completion_fini(&c);
    refuse("{\"prompt\":\"a\",\"priority\":1.5}", "invalid_type", "priority");
    refuse("{\"prompt\":\"a\",\"stream_interval\":0}", "invalid_value", "stream_interval");
    refuse("{\"prompt\":\"a\",\"t_max_predict_ms\":-2}", "invalid_value", "t_max_predict_ms");
    refuse("{\"prompt\":\"a\",\"return_progress\":1}", "invalid_type", "return_progress");
}

Test(api_parse, the_servers_default_of_max_tokens)
{
    struct api_limits own = limits;
    struct api_completion c;
    struct api_error e;
    own.max_tokens_default = 40;
    cr_assert_eq(parse_with(&own, "{\"prompt\":\"a\",\"max_tokens\":null}", &c, &e), 0);
    cr_expect_eq(c.max_tokens, 40);
    api_completion_fini(&c);
    cr_assert_eq(parse_with(&own, "{\"prompt\":\"a\",\"max_tokens\":50}", &c, &e), 0);
    cr_expect_eq(c.max_tokens, 50);
    api_completion_fini(&c);
}

Test(api_parse, unknown_fields_are_noted_or_refused)
{
    struct api_limits strict = limits;
    struct api_completion c;
    struct api_error e;
    take("{\"prompt\":\"a\",\"foo\":1,\"mirostat\":2,\"stream_options\":null}", &c);
    cr_expect_eq(c.unknown.n, 2);
    cr_expect_str_eq(c.unknown.names, "foo,mirostat");
    api_completion_fini(&c);
    strict.strict_params = true;
    cr_expect_eq(parse_with(&strict, "{\"prompt\":\"a\",\"foo\":1}", &c, &e), -1);
    cr_expect_str_eq(api_error_code(e.kind), "unknown_parameter");
    cr_expect_str_eq(e.param, "foo");
    api_completion_fini(&c);
}

Test(api_parse, many_unknown_fields_stay_within_bounds)
{
    char body[8192] = "{\"prompt\":\"a\"";
    for (int i = 0; i < 300; i++)
        sprintf(body + strlen(body), ",\"field_number_%d\":1", i);
    strcat(body, "}");
    struct api_completion c;
    take(body, &c);
    cr_expect_eq(c.unknown.n, 300);
    cr_expect_lt(strlen(c.unknown.names), sizeof(c.unknown.names));
    cr_expect_neq(c.unknown.names[strlen(c.unknown.names) - 1], ',');
    api_completion_fini(&c);
}

Test(api_parse, what_is_not_json_is_refused)
{
    static const char *const bodies[] = {
        "",
        " ",
        "{",
        "}",
        "[",
        "null",
        "5",
        "\"x\"",
        "[]",
        "{\"prompt\":\"a\"} x",
        "{\"prompt\":\"a\",}",
        "{'prompt':'a'}",
        "\xef\xbb\xbf{\"prompt\":\"a\"}",
        "{\"prompt\":\"\xff\"}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"prompt\":\"a\nb\"}",
        "{\"prompt\":\"a\",\"temperature\":1e999}",
        "{\"prompt\":\"a\",\"temperature\":NaN}",
        "{\"prompt\":\"a\",\"seed\":99999999999999999999}",
        "{\"prompt\":\"a\",\"prompt\":\"b\"}",
        "{\"prompt\":\"a\",\"n\":01}",
        "{\"a\\u0000b\":1}",
        "{\"prompt\":\"a",
        "{\"prompt\":\"a\\",
        "\x1f\x8b\x08",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        refuse(bodies[i], "invalid_json", "");
}

Test(api_parse, messages_hold_no_text_of_the_prompt)
{
    struct api_completion c;
    struct api_error e;
    parse_with(&limits, "{\"prompt\":\"hush\" hush}", &c, &e);
    cr_expect_null(strstr(e.message, "hush"), "%s", e.message);
    api_completion_fini(&c);
}

Test(api_parse, nesting_is_bounded_before_the_json_library)
{
    char body[5100] = "{\"prompt\":";
    memset(body + strlen(body), '[', 5000);
    refuse(body, "invalid_json", "");
    memset(body, '[', 5000);
    body[5000] = '\0';
    refuse(body, "invalid_json", "");
    refuse("{\"prompt\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\","
           "\"n\":0}",
           "invalid_value", "n"); /* brackets in strings do not count */
}

/* {"prompt":[v,v,...],"max_tokens":1} with n values */
static char *long_prompt(const char *value, size_t n, const char *open, const char *close)
{
    char *body = malloc(n * (strlen(value) + 1) + 100), *at = body;
    at += sprintf(at, "{\"prompt\" : %s", open);
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%s%s", i ? "," : "", value);
    sprintf(at, "%s,\"max_tokens\":1}", close);
    return body;
}

Test(api_parse, long_lists_of_ids_are_read_without_the_json_library)
{
    struct api_completion c;
    char *body = long_prompt(" 37", 300000, "[", " ]");
    take(body, &c);
    cr_expect_eq(c.prompts[0].n_ids, 300000);
    cr_expect_eq(c.prompts[0].ids[299999], 37);
    cr_expect_eq(c.max_tokens, 1);
    api_completion_fini(&c);
    free(body);
    body = long_prompt("5", 5000, "[[1,2],[", "],[3]]");
    take(body, &c);
    cr_expect_eq(c.n_prompts, 3);
    cr_expect_eq(c.prompts[1].n_ids, 5000);
    cr_expect_eq(c.prompts[2].ids[0], 3);
    api_completion_fini(&c);
    free(body);
}

Test(api_parse, long_lists_are_checked_like_short_ones)
{
    static const char *const bad[][3] = {
        { "1000", "invalid_value", "prompt[0]" },
        { "-1", "invalid_value", "prompt[0]" },
        { "99999999999", "invalid_value", "prompt[0]" },
        { "01", "invalid_json", "" },
        { "1.5", "invalid_type", "prompt[0]" },
        { "\"x\"", "invalid_value", "prompt" },
        { "1e999", "invalid_json", "" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *body = long_prompt(bad[i][0], 5000, "[", "]");
        refuse(body, bad[i][1], bad[i][2]);
        free(body);
    }
    char *nested = long_prompt("1000", 5000, "[[1],[", "]]");
    refuse(nested, "invalid_value", "prompt[1][0]");
    free(nested);
    char *many = long_prompt("[1]", 5000, "[", "]");
    refuse(many, "invalid_value", "prompt");
    free(many);
    char *open = long_prompt("1", 5000, "[", "");
    refuse(open, "invalid_json", "");
    free(open);
}

Test(api_parse, a_long_list_under_a_second_key_of_that_name_is_a_duplicate)
{
    char *list = long_prompt("1", 5000, "[", "]");
    char *body = malloc(strlen(list) + 100);
    sprintf(body, "{\"prompt\":\"a\",%s", list + 1);
    refuse(body, "invalid_json", "");
    free(body);
    free(list);
}

Test(api_parse, documents_of_very_many_values_are_refused)
{
    char *list = long_prompt("1", 100001, "[", "]");
    list[2] = 'P'; /* another key */
    refuse(list, "invalid_value", "");
    free(list);
}

/* ---- the other two bodies ---- */

static int parse_tokenize(const char *text, struct api_tokenize *t, struct api_error *e)
{
    char *body = strdup(text);
    *e = (struct api_error){ 0 };
    int rc = api_parse_tokenize(body, strlen(text), &limits, t, e);
    free(body);
    return rc;
}

Test(api_parse, tokenize_speaks_both_dialects)
{
    struct api_tokenize t;
    struct api_error e;
    cr_assert_eq(parse_tokenize("{\"content\":\"a\"}", &t, &e), 0);
    cr_expect(!t.add_special && t.parse_special && !t.with_pieces);
    api_tokenize_fini(&t);
    cr_assert_eq(parse_tokenize("{\"prompt\":\"\",\"return_token_strs\":true}", &t, &e), 0);
    cr_expect(t.add_special && t.with_strings && t.text_len == 0);
    api_tokenize_fini(&t);
    cr_expect_eq(parse_tokenize("{\"prompt\":\"a\",\"content\":\"b\"}", &t, &e), -1);
    api_tokenize_fini(&t);
    cr_expect_eq(parse_tokenize("{}", &t, &e), -1);
    cr_expect_eq(e.kind, API_MISSING_PARAMETER);
    api_tokenize_fini(&t);
    cr_expect_eq(parse_tokenize("{\"messages\":[1]}", &t, &e), -1);
    cr_expect_eq(e.kind, API_UNSUPPORTED_PARAMETER);
    api_tokenize_fini(&t);
}

static int parse_detokenize(const char *text, struct api_detokenize *d, struct api_error *e)
{
    char *body = strdup(text);
    *e = (struct api_error){ 0 };
    int rc = api_parse_detokenize(body, strlen(text), &limits, d, e);
    free(body);
    return rc;
}

Test(api_parse, detokenize_takes_ids_of_the_model)
{
    struct api_detokenize d;
    struct api_error e;
    cr_assert_eq(parse_detokenize("{\"tokens\":[1,2]}", &d, &e), 0);
    cr_expect_eq(d.n_ids, 2);
    api_detokenize_fini(&d);
    cr_assert_eq(parse_detokenize("{\"tokens\":[]}", &d, &e), 0);
    cr_expect_eq(d.n_ids, 0);
    api_detokenize_fini(&d);
    cr_expect_eq(parse_detokenize("{\"tokens\":[1000]}", &d, &e), -1);
    cr_expect_str_eq(e.param, "tokens[0]");
    api_detokenize_fini(&d);
    cr_expect_eq(parse_detokenize("{\"tokens\":\"a\"}", &d, &e), -1);
    cr_expect_eq(e.kind, API_INVALID_TYPE);
    api_detokenize_fini(&d);
    cr_expect_eq(parse_detokenize("{}", &d, &e), -1);
    cr_expect_eq(e.kind, API_MISSING_PARAMETER);
    api_detokenize_fini(&d);
}

Test(api_parse, any_wish_for_tokens_is_taken_and_cut)
{
    struct api_completion c;
    take("{\"prompt\":\"a\",\"max_tokens\":9007199254740992}", &c);
    cr_expect_eq(c.max_tokens, 1 << 30);
    api_completion_fini(&c);
    take("{\"prompt\":\"a\",\"n_predict\":4294967296}", &c);
    cr_expect_eq(c.max_tokens, 1 << 30);
    api_completion_fini(&c);
}

Test(api_parse, errors_within_stream_options_name_the_whole_path)
{
    refuse("{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
           "invalid_type", "stream_options.include_usage");
}

Test(api_parse, fields_of_other_servers_are_ignored_even_when_strict)
{
    struct api_limits strict = limits;
    struct api_completion c;
    struct api_error e = { 0 };
    strict.strict_params = true;
    cr_assert_eq(parse_with(&strict, "{\"prompt\":\"a\",\"mirostat\":2,\"lora\":[]}", &c, &e), 0,
                 "%s", e.message);
    cr_expect_eq(c.unknown.n, 2);
    api_completion_fini(&c);
}

Test(api_parse, what_is_dropped_after_the_submission_is_dropped_once)
{
    struct api_completion c;
    take("{\"prompt\":[1,2],\"stop\":\"x\",\"logit_bias\":{\"1\":1},\"stop_token_ids\":[1],"
         "\"request_id\":\"r1\"}",
         &c);
    api_completion_drop(&c, true);
    cr_expect(c.ids && c.ids[1] == 2, "ids that are returned stay");
    cr_expect_str_eq(c.request_id, "r1");
    api_completion_drop(&c, false);
    cr_expect_null(c.ids);
    api_completion_fini(&c);
}
