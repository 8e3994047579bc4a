/* SPDX-License-Identifier: Apache-2.0
 *
 * api_fields.h - tables of fields: name, type, range, place in a struct.  Private to the parsers.
 */
#ifndef LACUNA_SERVER_API_FIELDS_H
#define LACUNA_SERVER_API_FIELDS_H

#include <jansson.h>

#include "server/api/api_parse.h"

struct api_reader {
    const struct api_limits *limits;
    const struct api_scan *scan; /* the list that was taken out of the body, if any */
    struct api_error *err;
    struct api_unknown *unknown;
    const char *within; /* what names stand in: "" or "stream_options." */
};

enum api_kind {
    API_KIND_BOOL,    /* bool */
    API_KIND_U32,     /* uint32_t */
    API_KIND_I32,     /* int32_t */
    API_KIND_I64,     /* int64_t */
    API_KIND_NUMBER,  /* double */
    API_KIND_STRING,  /* const char *, at most max bytes, without NUL */
    API_KIND_CUSTOM,  /* parse() */
    API_KIND_UNBUILT, /* refused unless it asks for nothing: false, 0, min */
    API_KIND_IGNORED, /* known elsewhere; means nothing here */
};

typedef int api_parse_fn(struct api_reader *r, const char *name, const json_t *value, void *out);

struct api_field {
    const char *name;
    enum api_kind kind;
    size_t offset;
    double min, max;
    bool above_min; /* min itself is not allowed */
    api_parse_fn *parse;
};

struct api_table {
    const struct api_field *fields;
    size_t n;
};
#define API_TABLE(array)                                                                           \
    {                                                                                              \
        (array), sizeof(array) / sizeof((array)[0])                                                \
    }

/* Reads every member of the object by its row in one of the tables; null means the default.
 * Members without a row are noted in r->unknown, or refused under strict_params. */
int api_read_fields(struct api_reader *r, const json_t *object, const struct api_table *tables,
                    size_t n_tables, void *out);

/* Parses a body whose list `key` may be long.  Returns the outermost object or NULL. */
json_t *api_read_document(char *body, size_t len, const char *key, struct api_scan *scan,
                          struct api_error *err);

/* An integer, also when written with a zero fraction.  False if it is none. */
bool api_integer(const json_t *value, int64_t *out);
/* "a string", "an array", ... */
const char *api_type_name(const json_t *value);
int api_wrong_type(struct api_reader *r, const char *param, const json_t *value,
                   const char *wanted);

/* A wish may be any integer that JSON can say (2^53); it is cut to what any context can hold. */
#define API_MAX_WANTED 9007199254740992

/* api_parse_common.c: of struct api_completion. */
extern const struct api_table api_common_fields;
void api_completion_init(struct api_completion *c);
int api_check_common(struct api_completion *c, int64_t default_max_tokens, struct api_error *err);

/* api_parse_prompt.c: the field, and the list that the first pass took out of the body. */
api_parse_fn api_parse_prompt;
int api_use_scanned_prompt(struct api_reader *r, struct api_scan *s, struct api_completion *c);

/* api_parse_messages.c */
api_parse_fn api_parse_messages, api_parse_tools;

/* An array of token ids, each below n_vocab, into malloc'ed memory. */
int api_read_ids(struct api_reader *r, const char *name, const json_t *array, size_t max_ids,
                 int32_t **ids, size_t *n_ids);
int api_check_id(struct api_reader *r, const char *name, size_t index, int64_t id);

#endif
