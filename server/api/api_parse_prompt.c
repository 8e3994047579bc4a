/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse_prompt.c - the field "prompt" in its four forms: text, texts, ids, lists of ids.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api_fields.h"

static int prompts_alloc(struct api_reader *r, struct api_completion *c, size_t n)
{
    if (n > r->limits->max_prompts)
        return api_fail(r->err, API_INVALID_VALUE, "prompt",
                        "'prompt' has %zu items; this server takes at most %u", n,
                        r->limits->max_prompts);
    c->prompts = calloc(n, sizeof(*c->prompts));
    if (!c->prompts)
        return api_fail(r->err, API_INTERNAL, NULL, "Out of memory");
    c->n_prompts = (uint32_t)n;
    return 0;
}

static int read_text_prompts(struct api_reader *r, const json_t *array, struct api_completion *c)
{
    size_t i;
    json_t *item;
    json_array_foreach ((json_t *)array, i, item) {
        char param[32];
        snprintf(param, sizeof(param), "prompt[%zu]", i);
        if (!json_is_string(item))
            return api_wrong_type(r, param, item, "a string like the first item");
        c->prompts[i].text = json_string_value(item);
        c->prompts[i].text_len = json_string_length(item);
    }
    return 0;
}

static int read_id_prompt(struct api_reader *r, const json_t *array, struct api_completion *c)
{
    size_t n;
    if (api_read_ids(r, "prompt", array, API_MAX_VALUES, &c->ids, &n) != 0)
        return -1;
    c->prompts[0].ids = c->ids;
    c->prompts[0].n_ids = n;
    return 0;
}

static int count_nested_ids(struct api_reader *r, const json_t *array, size_t *n_ids)
{
    size_t i;
    json_t *item;
    *n_ids = 0;
    json_array_foreach ((json_t *)array, i, item) {
        char param[32];
        snprintf(param, sizeof(param), "prompt[%zu]", i);
        if (!json_is_array(item))
            return api_wrong_type(r, param, item, "an array like the first item");
        if (json_array_size(item) == 0)
            return api_fail(r->err, API_INVALID_VALUE, param, "'%s' is empty", param);
        *n_ids += json_array_size(item);
    }
    return 0;
}

static int read_nested_prompts(struct api_reader *r, const json_t *array, struct api_completion *c)
{
    size_t n_ids, i, used = 0;
    json_t *item;
    if (count_nested_ids(r, array, &n_ids) != 0)
        return -1;
    c->ids = malloc(n_ids * sizeof(*c->ids));
    if (!c->ids)
        return api_fail(r->err, API_INTERNAL, NULL, "Out of memory");
    json_array_foreach ((json_t *)array, i, item) {
        char name[32];
        int32_t *ids;
        size_t n;
        snprintf(name, sizeof(name), "prompt[%zu]", i);
        if (api_read_ids(r, name, item, API_MAX_VALUES, &ids, &n) != 0)
            return -1;
        memcpy(c->ids + used, ids, n * sizeof(*ids));
        free(ids);
        c->prompts[i].ids = c->ids + used;
        c->prompts[i].n_ids = n;
        used += n;
    }
    return 0;
}

int api_parse_prompt(struct api_reader *r, const char *name, const json_t *v, void *out)
{
    struct api_completion *c = out;
    if (json_is_string(v)) {
        if (prompts_alloc(r, c, 1) != 0)
            return -1;
        c->prompts[0].text = json_string_value(v);
        c->prompts[0].text_len = json_string_length(v);
        return 0;
    }
    if (!json_is_array(v))
        return api_wrong_type(r, name, v, "a string, or an array of strings or token ids");
    if (json_array_size(v) == 0)
        return api_fail(r->err, API_INVALID_VALUE, name, "'prompt' is an empty array");
    const json_t *first = json_array_get(v, 0);
    bool is_ids = json_is_number(first);
    if (!is_ids && !json_is_string(first) && !json_is_array(first))
        return api_wrong_type(r, "prompt[0]", first, "a string, a token id or an array of them");
    if (prompts_alloc(r, c, is_ids ? 1 : json_array_size(v)) != 0)
        return -1;
    if (is_ids)
        return read_id_prompt(r, v, c);
    return json_is_string(first) ? read_text_prompts(r, v, c) : read_nested_prompts(r, v, c);
}

static int check_scanned(struct api_reader *r, const struct api_prompt *p, const char *name)
{
    for (size_t i = 0; i < p->n_ids; i++)
        if (api_check_id(r, name, i, p->ids[i]) != 0)
            return -1;
    return 0;
}

int api_use_scanned_prompt(struct api_reader *r, struct api_scan *s, struct api_completion *c)
{
    if (prompts_alloc(r, c, s->ends ? s->n_lists : 1) != 0)
        return -1;
    c->ids = s->ids;
    s->ids = NULL;
    size_t start = 0;
    for (uint32_t i = 0; i < c->n_prompts; i++) {
        char name[32] = "prompt";
        size_t end = s->ends ? s->ends[i] : s->n_ids;
        if (s->ends)
            snprintf(name, sizeof(name), "prompt[%u]", i);
        c->prompts[i].ids = c->ids + start;
        c->prompts[i].n_ids = end - start;
        if (check_scanned(r, &c->prompts[i], name) != 0)
            return -1;
        start = end;
    }
    return 0;
}
