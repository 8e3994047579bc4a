/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse_tokens.c - POST /tokenize and /detokenize: JSON -> structs.
 *
 * /tokenize is spoken in two dialects, told apart by the key that holds the text: "content" with
 * its own flags and defaults, or "prompt" with others.
 */
#include <stdlib.h>

#include "server/api/api_fields.h"

static int parse_text(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_tokenize *t = out;
    if (!json_is_string(v))
        return api_wrong_type(r, name, v, "a string");
    if (t->text)
        return api_fail(r->err, API_INVALID_VALUE, name,
                        "Give either 'content' or 'prompt', not both");
    t->text = json_string_value(v);
    t->text_len = json_string_length(v);
    if (t->text_len > API_MAX_TEXT_BYTES)
        return api_fail(r->err, API_INVALID_VALUE, name, "'%s' has %zu bytes; the limit is %d",
                        name, t->text_len, API_MAX_TEXT_BYTES);
    return 0;
}

#define AT(member) .offset = offsetof(struct api_tokenize, member)

static const struct api_field tokenize_fields[] = {
    { "model", API_KIND_STRING, AT(model), .max = 512 },
    { "content", API_KIND_CUSTOM, .parse = parse_text },
    { "prompt", API_KIND_CUSTOM, .parse = parse_text },
    { "add_special", API_KIND_BOOL, AT(add_special) },
    { "add_special_tokens", API_KIND_BOOL, AT(add_special) },
    { "parse_special", API_KIND_BOOL, AT(parse_special) },
    { "with_pieces", API_KIND_BOOL, AT(with_pieces) },
    { "return_token_strs", API_KIND_BOOL, AT(with_strings) },
    { "messages", API_KIND_UNBUILT, .min = -1 },
};

#undef AT

int api_parse_tokenize(char *body, size_t len, const struct api_limits *limits,
                       struct api_tokenize *out, struct api_error *err)
{
    struct api_scan scan = { 0 };
    *out = (struct api_tokenize){ 0 };
    struct api_reader r = { limits, &scan, err, &out->unknown, "" };
    int rc = -1;
    json_t *doc = api_read_document(body, len, "prompt", &scan, err);
    out->doc = doc;
    if (!doc)
        goto done;
    out->is_content = json_is_string(json_object_get(doc, "content"));
    out->add_special = !out->is_content;
    out->parse_special = true;
    if (api_read_fields(&r, doc, &(struct api_table)API_TABLE(tokenize_fields), 1, out) != 0)
        goto done;
    if (scan.found)
        api_fail(err, API_INVALID_TYPE, "prompt", "'prompt' must be a string, not an array");
    else if (!out->text)
        api_fail(err, API_MISSING_PARAMETER, "prompt", "'prompt' (or 'content') is missing");
    else
        rc = 0;
done:
    api_scan_fini(&scan);
    return rc;
}

void api_tokenize_fini(struct api_tokenize *t)
{
    json_decref(t->doc);
    *t = (struct api_tokenize){ 0 };
}

static int parse_tokens(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_detokenize *d = out;
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "an array of token ids");
    if (api_read_ids(r, name, v, API_MAX_VALUES, &d->owned, &d->n_ids) != 0)
        return -1;
    d->ids = d->owned;
    return 0;
}

static const struct api_field detokenize_fields[] = {
    { "model", API_KIND_STRING, .offset = offsetof(struct api_detokenize, model), .max = 512 },
    { "tokens", API_KIND_CUSTOM, .parse = parse_tokens },
};

static int use_scanned_tokens(struct api_reader *r, struct api_scan *scan, struct api_detokenize *d)
{
    if (scan->ends)
        return api_fail(r->err, API_INVALID_TYPE, "tokens[0]",
                        "'tokens[0]' must be an integer, not an array");
    d->owned = scan->ids;
    d->ids = scan->ids;
    d->n_ids = scan->n_ids;
    scan->ids = NULL;
    for (size_t i = 0; i < d->n_ids; i++)
        if (api_check_id(r, "tokens", i, d->ids[i]) != 0)
            return -1;
    return 0;
}

int api_parse_detokenize(char *body, size_t len, const struct api_limits *limits,
                         struct api_detokenize *out, struct api_error *err)
{
    struct api_scan scan = { 0 };
    *out = (struct api_detokenize){ 0 };
    struct api_reader r = { limits, &scan, err, &out->unknown, "" };
    int rc = -1;
    json_t *doc = api_read_document(body, len, "tokens", &scan, err);
    out->doc = doc;
    if (!doc)
        goto done;
    if (api_read_fields(&r, doc, &(struct api_table)API_TABLE(detokenize_fields), 1, out) != 0)
        goto done;
    if (scan.found && use_scanned_tokens(&r, &scan, out) != 0)
        goto done;
    if (out->ids)
        rc = 0;
    else
        api_fail(err, API_MISSING_PARAMETER, "tokens", "'tokens' is missing");
done:
    api_scan_fini(&scan);
    return rc;
}

void api_detokenize_fini(struct api_detokenize *d)
{
    free(d->owned);
    json_decref(d->doc);
    *d = (struct api_detokenize){ 0 };
}
