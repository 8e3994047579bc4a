/* SPDX-License-Identifier: Apache-2.0
 *
 * api_fields.c - reading JSON members by a table of fields.
 *
 * Types are never coerced: "5" is not 5 and 1 is not true.  5.0 is an integer, since some clients
 * know only one kind of number.
 */
#include "server/api/api_fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double exact_integer_limit = 9007199254740992.0; /* 2^53 */

bool api_integer(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double d = json_is_real(value) ? json_real_value(value) : 0.5;
    if (d != floor(d) || fabs(d) > exact_integer_limit)
        return false;
    *out = (int64_t)d;
    return true;
}

const char *api_type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

int api_wrong_type(struct api_reader *r, const char *param, const json_t *value, const char *wanted)
{
    return api_fail(r->err, API_INVALID_TYPE, param, "'%s' must be %s, not %s", param, wanted,
                    api_type_name(value));
}

/* ---- one kind each ---- */

static int read_bool(struct api_reader *r, const struct api_field *f, const json_t *v, bool *out)
{
    if (!json_is_boolean(v))
        return api_wrong_type(r, f->name, v, "a boolean");
    *out = json_is_true(v);
    return 0;
}

static int read_i64(struct api_reader *r, const struct api_field *f, const json_t *v, int64_t *out)
{
    int64_t i;
    if (!api_integer(v, &i))
        return api_wrong_type(r, f->name, v, "an integer");
    /* A range of 0..0 is none: the full int64. */
    bool bounded = f->min < f->max;
    if (bounded && ((double)i < f->min || (double)i > f->max))
        return api_fail(r->err, API_INVALID_VALUE, f->name,
                        "'%s' must be between %.0f and %.0f, not %" PRId64, f->name, f->min, f->max,
                        i);
    *out = i;
    return 0;
}

static int read_number(struct api_reader *r, const struct api_field *f, const json_t *v,
                       double *out)
{
    if (!json_is_number(v))
        return api_wrong_type(r, f->name, v, "a number");
    double d = json_number_value(v);
    if (d > f->min && d <= f->max)
        *out = d;
    else if (d == f->min && !f->above_min)
        *out = d;
    else
        return api_fail(r->err, API_INVALID_VALUE, f->name,
                        "'%s' must be %s %g and at most %g, not %g", f->name,
                        f->above_min ? "above" : "at least", f->min, f->max, d);
    return 0;
}

static int read_string(struct api_reader *r, const struct api_field *f, const json_t *v,
                       const char **out)
{
    if (!json_is_string(v))
        return api_wrong_type(r, f->name, v, "a string");
    size_t len = json_string_length(v);
    if ((double)len < f->min || (double)len > f->max)
        return api_fail(r->err, API_INVALID_VALUE, f->name,
                        "'%s' must be %.0f to %.0f bytes long, not %zu", f->name, f->min, f->max,
                        len);
    if (strlen(json_string_value(v)) != len)
        return api_fail(r->err, API_INVALID_VALUE, f->name, "'%s' must not hold NUL", f->name);
    *out = json_string_value(v);
    return 0;
}

/* Empty, false, zero, or the value that means "off". */
static bool asks_for_nothing(const struct api_field *f, const json_t *v)
{
    if (json_is_number(v))
        return json_number_value(v) == f->min;
    if (json_is_string(v))
        return json_string_length(v) == 0;
    if (json_is_array(v))
        return json_array_size(v) == 0;
    return json_is_false(v);
}

static int read_field(struct api_reader *r, const struct api_field *f, const json_t *v, void *out)
{
    void *place = (char *)out + f->offset;
    int64_t i = 0;
    switch (f->kind) {
    case API_KIND_BOOL:
        return read_bool(r, f, v, place);
    case API_KIND_NUMBER:
        return read_number(r, f, v, place);
    case API_KIND_STRING:
        return read_string(r, f, v, place);
    case API_KIND_CUSTOM:
        return f->parse(r, f->name, v, out);
    case API_KIND_I64:
        return read_i64(r, f, v, place);
    case API_KIND_U32:
        if (read_i64(r, f, v, &i) != 0)
            return -1;
        *(uint32_t *)place = (uint32_t)i;
        return 0;
    case API_KIND_I32:
        if (read_i64(r, f, v, &i) != 0)
            return -1;
        *(int32_t *)place = (int32_t)i;
        return 0;
    case API_KIND_UNBUILT:
        if (asks_for_nothing(f, v))
            return 0;
        return api_fail(r->err, API_UNSUPPORTED_PARAMETER, f->name, "'%s' is not supported",
                        f->name);
    case API_KIND_IGNORED:
        break;
    }
    return 0;
}

/* ---- members ---- */

static const struct api_field *find_field(const struct api_table *tables, size_t n_tables,
                                          const char *name)
{
    for (size_t t = 0; t < n_tables; t++)
        for (size_t i = 0; i < tables[t].n; i++)
            if (strcmp(tables[t].fields[i].name, name) == 0)
                return &tables[t].fields[i];
    return NULL;
}

static void note_unknown(struct api_unknown *u, const char *name)
{
    size_t used = strlen(u->names);
    int n = snprintf(u->names + used, sizeof(u->names) - used, "%s%.40s", used ? "," : "", name);
    if (n < 0 || (size_t)n >= sizeof(u->names) - used)
        u->names[used] = '\0'; /* whole names only; n tells that there were more */
    u->n++;
}

int api_read_fields(struct api_reader *r, const json_t *object, const struct api_table *tables,
                    size_t n_tables, void *out)
{
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)object, name, value) {
        char path[96];
        const struct api_field *f = find_field(tables, n_tables, name);
        snprintf(path, sizeof(path), "%s%.64s", r->within, name);
        if (!f || f->kind == API_KIND_IGNORED) {
            if (!f && r->limits->strict_params)
                return api_fail(r->err, API_UNKNOWN_PARAMETER, path, "Unknown field '%s'", path);
            note_unknown(r->unknown, path);
        } else if (!json_is_null(value)) {
            struct api_field named = *f;
            named.name = path; /* errors name the whole path */
            if (read_field(r, &named, value, out) != 0)
                return -1;
        }
    }
    return 0;
}

json_t *api_read_document(char *body, size_t len, const char *key, struct api_scan *scan,
                          struct api_error *err)
{
    if (len == 0) {
        api_fail(err, API_INVALID_JSON, NULL, "The body is empty");
        return NULL;
    }
    if (api_scan_body(body, len, key, scan, err) != 0)
        return NULL;
    json_error_t why;
    json_t *doc = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!doc) {
        char *near = strstr(why.text, " near '"); /* what follows is the user's text */
        if (near)
            *near = '\0';
        api_fail(err, API_INVALID_JSON, NULL, "The body is not valid JSON at byte %d: %s",
                 why.position, why.text);
        return NULL;
    }
    if (!json_is_object(doc)) {
        api_fail(err, API_INVALID_JSON, NULL, "The JSON body must be an object, not %s",
                 api_type_name(doc));
        json_decref(doc);
        return NULL;
    }
    return doc;
}

/* ---- token ids ---- */

int api_check_id(struct api_reader *r, const char *name, size_t index, int64_t id)
{
    if (id >= 0 && id < (int64_t)r->limits->n_vocab)
        return 0;
    char param[96];
    snprintf(param, sizeof(param), "%.64s[%zu]", name, index);
    return api_fail(r->err, API_INVALID_VALUE, param,
                    "'%s' is not a token id of this model (0 to %u)", param,
                    r->limits->n_vocab ? r->limits->n_vocab - 1 : 0);
}

int api_read_ids(struct api_reader *r, const char *name, const json_t *array, size_t max_ids,
                 int32_t **ids, size_t *n_ids)
{
    size_t n = json_array_size(array);
    if (n > max_ids)
        return api_fail(r->err, API_INVALID_VALUE, name, "'%s' has %zu items; the limit is %zu",
                        name, n, max_ids);
    int32_t *list = malloc((n ? n : 1) * sizeof(*list));
    if (!list)
        return api_fail(r->err, API_INTERNAL, NULL, "Out of memory");
    for (size_t i = 0; i < n; i++) {
        char param[96];
        int64_t id;
        const json_t *item = json_array_get(array, i);
        snprintf(param, sizeof(param), "%.64s[%zu]", name, i);
        if (!api_integer(item, &id) ? api_wrong_type(r, param, item, "an integer") != 0
                                    : api_check_id(r, name, i, id) != 0) {
            free(list);
            return -1;
        }
        list[i] = (int32_t)id;
    }
    *ids = list;
    *n_ids = n;
    return 0;
}
