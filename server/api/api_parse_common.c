/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse_common.c - what both ways of asking for a text have in common: the fields, their
 * defaults, and the rules between them.
 *
 * The table below is these fields as openapi.yaml describes them; what a row cannot say is a
 * function above it, and the rules between fields come last.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_fields.h"

/* Large enough for any context, small enough that sums with it never overflow. */
enum { MAX_TOKEN_COUNT = 1 << 30 };

static int add_stop(struct api_reader *r, const char *param, const json_t *v,
                    struct api_completion *c)
{
    if (!json_is_string(v))
        return api_wrong_type(r, param, v, "a string");
    size_t len = json_string_length(v);
    if (len == 0 || len > API_MAX_STOP_BYTES)
        return api_fail(r->err, API_INVALID_VALUE, param,
                        "'%s' must be 1 to %d bytes long, not %zu", param, API_MAX_STOP_BYTES, len);
    c->stops[c->n_stops++] = (struct sched_text){ json_string_value(v), len };
    return 0;
}

static int parse_stop(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!json_is_array(v) && !json_is_string(v))
        return api_wrong_type(r, name, v, "a string or an array of strings");
    if (n > API_MAX_STOPS)
        return api_fail(r->err, API_INVALID_VALUE, name, "'stop' has %zu items; the limit is %d", n,
                        API_MAX_STOPS);
    c->stops = calloc(n ? n : 1, sizeof(*c->stops));
    if (!c->stops)
        return api_fail(r->err, API_INTERNAL, NULL, "Out of memory");
    if (json_is_string(v))
        return add_stop(r, name, v, c);
    for (size_t i = 0; i < n; i++) {
        char param[32];
        snprintf(param, sizeof(param), "stop[%zu]", i);
        if (add_stop(r, param, json_array_get(v, i), c) != 0)
            return -1;
    }
    return 0;
}

static int parse_stop_tokens(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    size_t n;
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "an array of token ids");
    if (api_read_ids(r, name, v, API_MAX_STOP_TOKENS, &c->stop_tokens, &n) != 0)
        return -1;
    c->n_stop_tokens = (uint32_t)n;
    return 0;
}

static int add_bias(struct api_reader *r, const char *key, const json_t *v,
                    struct api_completion *c)
{
    char param[64];
    snprintf(param, sizeof(param), "logit_bias.%.32s", key);
    char *end;
    long long id = strtoll(key, &end, 10);
    if (key[0] < '0' || key[0] > '9' || *end || id >= (long long)r->limits->n_vocab)
        return api_fail(r->err, API_INVALID_VALUE, param,
                        "'%s' is not a token id of this model (0 to %u)", param,
                        r->limits->n_vocab ? r->limits->n_vocab - 1 : 0);
    if (!json_is_number(v))
        return api_wrong_type(r, param, v, "a number");
    double bias = json_number_value(v);
    if (!(bias >= -100 && bias <= 100))
        return api_fail(r->err, API_INVALID_VALUE, param,
                        "'%s' must be between -100 and 100, not %g", param, bias);
    c->bias[c->n_bias++] = (struct engine_logit_bias){
        .token = (int32_t)id,
        .bias = bias <= -100 ? -INFINITY : (float)bias, /* -100 is documented as a ban */
    };
    return 0;
}

static int parse_logit_bias(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (!json_is_object(v))
        return api_wrong_type(r, name, v, "an object of token ids");
    size_t n = json_object_size(v);
    if (n > API_MAX_BIASES)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'logit_bias' has %zu members; the limit is %d", n, API_MAX_BIASES);
    c->bias = calloc(n ? n : 1, sizeof(*c->bias));
    if (!c->bias)
        return api_fail(r->err, API_INTERNAL, NULL, "Out of memory");
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)v, key, value)
        if (add_bias(r, key, value, c) != 0)
            return -1;
    return 0;
}

/* A name, or a number, which is kept as text. */
static int parse_quality(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (json_is_number(v)) {
        double share = json_number_value(v);
        if (!(share >= 0 && share <= 1))
            return api_fail(r->err, API_INVALID_VALUE, name, "'%s' must be between 0 and 1, not %g",
                            name, share);
        snprintf(c->quality, sizeof(c->quality), "%.17g", share);
        return 0;
    }
    if (!json_is_string(v))
        return api_wrong_type(r, name, v, "a string or a number");
    size_t len = json_string_length(v);
    if (len == 0 || len > API_MAX_QUALITY_BYTES || strlen(json_string_value(v)) != len)
        return api_fail(r->err, API_INVALID_VALUE, name, "'%s' must be 1 to %d bytes long", name,
                        API_MAX_QUALITY_BYTES);
    memcpy(c->quality, json_string_value(v), len + 1);
    return 0;
}

static int parse_lacuna(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    static const struct api_field members[] = {
        { "quality", API_KIND_CUSTOM, .parse = parse_quality },
    };
    if (!json_is_object(v))
        return api_wrong_type(r, name, v, "an object");
    struct api_reader inner = *r;
    inner.within = "lacuna.";
    return api_read_fields(&inner, v, &(struct api_table)API_TABLE(members), 1, out);
}

struct stream_options {
    bool include_usage, include_obfuscation, continuous_usage;
};

static int parse_stream_options(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    static const struct api_field members[] = {
        { .name = "include_usage", .offset = offsetof(struct stream_options, include_usage) },
        { .name = "include_obfuscation",
          .offset = offsetof(struct stream_options, include_obfuscation) },
        { .name = "continuous_usage_stats",
          .offset = offsetof(struct stream_options, continuous_usage) },
    };
    struct api_completion *c = out;
    struct stream_options o = { 0 };
    if (!json_is_object(v))
        return api_wrong_type(r, name, v, "an object");
    struct api_reader inner = *r;
    inner.within = "stream_options.";
    if (api_read_fields(&inner, v, &(struct api_table)API_TABLE(members), 1, &o) != 0)
        return -1;
    c->has_stream_options = json_object_size(v) > 0;
    c->include_usage = o.include_usage;
    c->continuous_usage = o.continuous_usage;
    return 0;
}

static int parse_n(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    int64_t n;
    if (!api_integer(v, &n))
        return api_wrong_type(r, name, v, "an integer");
    if (n < 1 || n > (int64_t)r->limits->max_n)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'n' must be between 1 and %u, not %" PRId64, r->limits->max_n, n);
    c->n = (uint32_t)n;
    return 0;
}

static int parse_seed(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (!api_integer(v, &c->seed))
        return api_wrong_type(r, name, v, "an integer");
    c->has_seed = true;
    return 0;
}

static int parse_truncate(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    int64_t n;
    if (!api_integer(v, &n))
        return api_wrong_type(r, name, v, "an integer");
    if (n < -1 || n == 0)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'%s' must be -1 or at least 1, not %" PRId64, name, n);
    c->truncate_prompt_tokens = n;
    return 0;
}

static int parse_side(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    const char *side = json_string_value(v);
    if (!side)
        return api_wrong_type(r, name, v, "a string");
    if (strcmp(side, "left") != 0 && strcmp(side, "right") != 0)
        return api_fail(r->err, API_INVALID_VALUE, name, "'%s' must be 'left' or 'right'", name);
    c->truncate_right = side[0] == 'r';
    return 0;
}

static int parse_request_id(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "._-";
    struct api_completion *c = out;
    if (!json_is_string(v))
        return api_wrong_type(r, name, v, "a string");
    const char *id = json_string_value(v);
    size_t len = json_string_length(v);
    if (len == 0 || len > API_MAX_ID_BYTES || strspn(id, allowed) != len)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'%s' must be 1 to %d of the characters A-Z a-z 0-9 . _ -", name,
                        API_MAX_ID_BYTES);
    memcpy(c->request_id, id, len + 1);
    return 0;
}

/* Plain text asks for nothing; any real constraint must not be ignored. */
static int parse_response_format(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    (void)out;
    const json_t *type = json_object_get(v, "type");
    const char *word = json_string_value(type);
    char param[128];
    snprintf(param, sizeof(param), "%.64s.type", name);
    if (!json_is_object(v))
        return api_wrong_type(r, name, v, "an object");
    if (!type)
        return api_fail(r->err, API_MISSING_PARAMETER, param, "'%s' is missing", param);
    if (!word)
        return api_wrong_type(r, param, type, "a string");
    if (strcmp(word, "text") == 0)
        return 0;
    snprintf(param, sizeof(param), "%.64s.json_schema", name);
    if (strcmp(word, "json_schema") == 0 && !json_is_object(json_object_get(v, "json_schema")))
        return api_fail(r->err, API_MISSING_PARAMETER, param, "'%s' must be there, an object",
                        param);
    if (strcmp(word, "json_schema") == 0 || strcmp(word, "json_object") == 0)
        return api_fail(r->err, API_UNSUPPORTED_PARAMETER, name,
                        "'%s' other than {\"type\":\"text\"} is not supported", name);
    return api_fail(r->err, API_INVALID_VALUE, name,
                    "'%s.type' must be 'text', 'json_object' or 'json_schema'", name);
}

/* ---- the table ---- */

#define AT(member) .offset = offsetof(struct api_completion, member)

static const struct api_field fields[] = {
    /* as OpenAI has them */
    { "model", API_KIND_STRING, AT(model), .max = 512 },
    { "frequency_penalty", API_KIND_NUMBER, AT(frequency_penalty), .min = -2, .max = 2 },
    { "presence_penalty", API_KIND_NUMBER, AT(presence_penalty), .min = -2, .max = 2 },
    { "logit_bias", API_KIND_CUSTOM, .parse = parse_logit_bias },
    { "max_tokens", API_KIND_I64, AT(max_tokens), .min = 0, .max = API_MAX_WANTED },
    { "n", API_KIND_CUSTOM, .parse = parse_n },
    { "seed", API_KIND_CUSTOM, .parse = parse_seed },
    { "stop", API_KIND_CUSTOM, .parse = parse_stop },
    { "stream", API_KIND_BOOL, AT(stream) },
    { "stream_options", API_KIND_CUSTOM, .parse = parse_stream_options },
    { "temperature", API_KIND_NUMBER, AT(temperature), .min = 0, .max = 2 },
    { "top_p", API_KIND_NUMBER, AT(top_p), .min = 0, .max = 1 },
    { "user", API_KIND_STRING, AT(user), .max = 1024 },
    { "response_format", API_KIND_CUSTOM, .parse = parse_response_format },
    /* extensions */
    { "n_predict", API_KIND_I64, AT(n_predict), .min = -1, .max = API_MAX_WANTED },
    { "top_k", API_KIND_I32, AT(top_k), .min = -1, .max = INT32_MAX },
    { "min_p", API_KIND_NUMBER, AT(min_p), .min = 0, .max = 1 },
    { "repetition_penalty", API_KIND_NUMBER, AT(repetition_penalty), .min = 0, .max = 10,
      .above_min = true },
    { "repeat_penalty", API_KIND_NUMBER, AT(repetition_penalty), .min = 0, .max = 10,
      .above_min = true },
    { "ignore_eos", API_KIND_BOOL, AT(ignore_eos) },
    { "stop_token_ids", API_KIND_CUSTOM, .parse = parse_stop_tokens },
    { "min_tokens", API_KIND_U32, AT(min_tokens), .min = 0, .max = MAX_TOKEN_COUNT },
    { "include_stop_str_in_output", API_KIND_BOOL, AT(include_stop) },
    { "skip_special_tokens", API_KIND_BOOL, AT(skip_special) },
    { "add_special_tokens", API_KIND_BOOL, AT(add_special) },
    { "truncate_prompt_tokens", API_KIND_CUSTOM, .parse = parse_truncate },
    { "truncation_side", API_KIND_CUSTOM, .parse = parse_side },
    { "return_token_ids", API_KIND_BOOL, AT(return_token_ids) },
    { "return_tokens", API_KIND_BOOL, AT(return_token_ids) },
    { "return_tokens_as_token_ids", API_KIND_BOOL, AT(tokens_as_ids) },
    { "request_id", API_KIND_CUSTOM, .parse = parse_request_id },
    { "cache_prompt", API_KIND_BOOL, AT(cache_prompt) },
    { "cache_salt", API_KIND_STRING, AT(cache_salt), .min = 1, .max = API_MAX_SALT_BYTES },
    { "priority", API_KIND_I64, AT(priority) },
    { "stream_interval", API_KIND_U32, AT(stream_interval), .min = 1, .max = MAX_TOKEN_COUNT },
    { "timings_per_token", API_KIND_BOOL, AT(timings_per_token) },
    { "return_progress", API_KIND_BOOL, AT(return_progress) },
    { "lacuna", API_KIND_CUSTOM, .parse = parse_lacuna },
    { "t_max_predict_ms", API_KIND_I32, AT(max_predict_ms), .min = -1, .max = INT32_MAX },
    /* known, not built: refused unless they ask for nothing (min) */
    { "prompt_logprobs", API_KIND_UNBUILT, .min = -1 },
    { "allowed_token_ids", API_KIND_UNBUILT, .min = -1 },
    { "bad_words", API_KIND_UNBUILT, .min = -1 },
    { "use_beam_search", API_KIND_UNBUILT, .min = 0 },
    { "json_schema", API_KIND_UNBUILT, .min = -1 },
    { "grammar", API_KIND_UNBUILT, .min = -1 },
    { "structured_outputs", API_KIND_UNBUILT, .min = -1 },
    { "guided_json", API_KIND_UNBUILT, .min = -1 },
    { "guided_regex", API_KIND_UNBUILT, .min = -1 },
    { "guided_choice", API_KIND_UNBUILT, .min = -1 },
    { "guided_grammar", API_KIND_UNBUILT, .min = -1 },
    /* of other servers' samplers and slots: nothing here answers to them */
    { "id_slot", API_KIND_IGNORED, .min = 0 },
    { "samplers", API_KIND_IGNORED, .min = 0 },
    { "mirostat", API_KIND_IGNORED, .min = 0 },
    { "mirostat_tau", API_KIND_IGNORED, .min = 0 },
    { "mirostat_eta", API_KIND_IGNORED, .min = 0 },
    { "repeat_last_n", API_KIND_IGNORED, .min = 0 },
    { "dry_multiplier", API_KIND_IGNORED, .min = 0 },
    { "dry_base", API_KIND_IGNORED, .min = 0 },
    { "dry_allowed_length", API_KIND_IGNORED, .min = 0 },
    { "dry_penalty_last_n", API_KIND_IGNORED, .min = 0 },
    { "dry_sequence_breakers", API_KIND_IGNORED, .min = 0 },
    { "xtc_probability", API_KIND_IGNORED, .min = 0 },
    { "xtc_threshold", API_KIND_IGNORED, .min = 0 },
    { "typical_p", API_KIND_IGNORED, .min = 0 },
    { "dynatemp_range", API_KIND_IGNORED, .min = 0 },
    { "dynatemp_exponent", API_KIND_IGNORED, .min = 0 },
    { "n_keep", API_KIND_IGNORED, .min = 0 },
    { "lora", API_KIND_IGNORED, .min = 0 },
};

#undef AT

const struct api_table api_common_fields = API_TABLE(fields);

/* ---- defaults, and rules between fields ---- */

void api_completion_init(struct api_completion *c)
{
    *c = (struct api_completion){
        .n = 1,
        .best_of = API_NOT_GIVEN,
        .max_tokens = API_NOT_GIVEN,
        .n_predict = API_NOT_GIVEN,
        .n_logprobs = -1,
        .skip_special = true,
        .add_special = true,
        .cache_prompt = true,
        .stream_interval = 1,
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .truncate_prompt_tokens = API_NOT_GIVEN,
    };
}

int api_check_common(struct api_completion *c, int64_t default_max_tokens, struct api_error *err)
{
    if (c->max_tokens == API_NOT_GIVEN)
        c->max_tokens = c->n_predict;
    if (c->max_tokens == API_NOT_GIVEN)
        c->max_tokens = default_max_tokens;
    if (c->max_tokens > MAX_TOKEN_COUNT)
        c->max_tokens = MAX_TOKEN_COUNT;
    if (c->max_tokens >= 0 && (int64_t)c->min_tokens > c->max_tokens)
        return api_fail(err, API_INVALID_VALUE, "min_tokens",
                        "'min_tokens' (%u) must not be above 'max_tokens' (%" PRId64 ")",
                        c->min_tokens, c->max_tokens);
    if (c->has_stream_options && !c->stream)
        return api_fail(err, API_INVALID_VALUE, "stream_options",
                        "'stream_options' needs 'stream': true");
    return 0;
}

void api_completion_drop(struct api_completion *c, bool keep_ids)
{
    free(c->prompts);
    free(c->stops);
    free(c->stop_tokens);
    free(c->bias);
    json_decref(c->doc);
    c->prompts = NULL;
    c->stops = NULL;
    c->stop_tokens = NULL;
    c->bias = NULL;
    c->doc = NULL;
    c->model = c->user = c->cache_salt = NULL; /* lay in the document */
    c->suffix = (struct sched_text){ 0 };
    c->chat.messages = c->chat.template_values = NULL;
    if (keep_ids)
        return;
    free(c->ids);
    c->ids = NULL;
}

void api_completion_fini(struct api_completion *c)
{
    api_completion_drop(c, false);
    *c = (struct api_completion){ 0 };
}
