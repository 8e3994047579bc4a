/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse.c - POST /v1/completions: JSON -> struct api_completion.
 */
#include "server/api/api_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_fields.h"

static int parse_logprobs(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    int64_t n;
    if (!api_integer(v, &n))
        return api_wrong_type(r, name, v, "an integer");
    if (n < 0 || n > (int64_t)r->limits->max_logprobs)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "'logprobs' must be between 0 and %u, not %" PRId64,
                        r->limits->max_logprobs, n);
    c->n_logprobs = (int32_t)n;
    return 0;
}

/* "" is none, as OpenAI's older clients send it. */
static int parse_suffix(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (!json_is_string(v))
        return api_wrong_type(r, name, v, "a string");
    c->suffix = (struct sched_text){ json_string_value(v), json_string_length(v) };
    return 0;
}

/* ---- the table ---- */

#define AT(member) .offset = offsetof(struct api_completion, member)

static const struct api_field completion_fields[] = {
    { "prompt", API_KIND_CUSTOM, .parse = api_parse_prompt },
    { "best_of", API_KIND_I64, AT(best_of), .min = 0, .max = 20 },
    { "echo", API_KIND_BOOL, AT(echo) },
    { "logprobs", API_KIND_CUSTOM, .parse = parse_logprobs },
    { "suffix", API_KIND_CUSTOM, .parse = parse_suffix },
};

#undef AT

/* ---- rules between fields ---- */

static int check_best_of(const struct api_completion *c, struct api_error *err)
{
    if (c->best_of <= 1 && c->n == 1)
        return 0;
    if (c->best_of == API_NOT_GIVEN || c->best_of == 0 || c->best_of == (int64_t)c->n)
        return 0;
    if (c->best_of < (int64_t)c->n)
        return api_fail(err, API_INVALID_VALUE, "best_of",
                        "'best_of' (%" PRId64 ") must not be below 'n' (%u)", c->best_of, c->n);
    return api_fail(err, API_UNSUPPORTED_PARAMETER, "best_of",
                    "'best_of' above 'n' is not supported");
}

/* What stands before the generated text is then not the prompt that was given. */
static int check_suffix(const struct api_completion *c, struct api_error *err)
{
    if (c->suffix.len == 0)
        return 0;
    if (c->echo)
        return api_fail(err, API_UNSUPPORTED_PARAMETER, "suffix",
                        "'suffix' together with 'echo' is not supported");
    if (c->truncate_prompt_tokens != API_NOT_GIVEN)
        return api_fail(err, API_UNSUPPORTED_PARAMETER, "suffix",
                        "'suffix' together with 'truncate_prompt_tokens' is not supported");
    return 0;
}

static int check_rules(struct api_completion *c, const struct api_limits *limits,
                       struct api_error *err)
{
    enum { DEFAULT_MAX_TOKENS = 16 };
    int64_t max_tokens = limits->max_tokens_default ? limits->max_tokens_default
                                                    : DEFAULT_MAX_TOKENS;
    if (api_check_common(c, max_tokens, err) != 0 || check_suffix(c, err) != 0)
        return -1;
    return check_best_of(c, err);
}

int api_parse_completion(char *body, size_t len, const struct api_limits *limits,
                         struct api_completion *out, struct api_error *err)
{
    const struct api_table tables[] = { api_common_fields, API_TABLE(completion_fields) };
    struct api_scan scan = { 0 };
    struct api_reader r = { limits, &scan, err, &out->unknown, "" };
    int rc = -1;
    api_completion_init(out);
    json_t *doc = api_read_document(body, len, "prompt", &scan, err);
    out->doc = doc;
    if (!doc)
        goto done;
    if (api_read_fields(&r, doc, tables, 2, out) != 0)
        goto done;
    if (scan.found && api_use_scanned_prompt(&r, &scan, out) != 0)
        goto done;
    if (out->n_prompts == 0)
        api_fail(err, API_MISSING_PARAMETER, "prompt", "'prompt' is missing");
    else
        rc = check_rules(out, limits, err);
done:
    api_scan_fini(&scan);
    return rc;
}
