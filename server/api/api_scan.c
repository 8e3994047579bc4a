/* SPDX-License-Identifier: Apache-2.0
 *
 * api_scan.c - the first pass over a body: one walk over its bytes that bounds what the JSON
 * library will do (depth, number of values) and takes long lists of token ids out.
 *
 * The walk knows strings and brackets only.  Whatever it accepts is still parsed and validated by
 * the JSON library, but for the lists it took out, whose grammar it checks itself.
 */
#include <stdlib.h>
#include <string.h>

#include "server/api/api_parse.h"

enum {
    SCAN_LONG_LIST = 4096, /* bytes; shorter lists cost little and go the common way */
    SCAN_MAX_DIGITS = 18,  /* of an id, so that int64 holds it */
};

struct scan {
    char *body;
    size_t len, at;
    const char *key;
    unsigned depth;
    bool is_object; /* the outermost value */
    bool expect_key;
    size_t n_values;
    struct api_scan *out;
    struct api_error *err;
};

void api_scan_fini(struct api_scan *s)
{
    free(s->ids);
    free(s->ends);
    *s = (struct api_scan){ 0 };
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t skip_space(const char *s, size_t at, size_t len)
{
    while (at < len && is_space(s[at]))
        at++;
    return at;
}

/* The index after the closing quote, or len; at is the opening one. */
static size_t skip_string(const char *s, size_t at, size_t len)
{
    for (at++; at < len && s[at] != '"'; at++)
        if (s[at] == '\\')
            at++;
    return at < len ? at + 1 : len;
}

/* ---- lists of ids ---- */

struct id_list {
    int32_t *ids;
    size_t n_ids, ids_cap;
    size_t *ends;
    size_t n_ends, ends_cap;
};

static bool push_id(struct id_list *l, int64_t id)
{
    if (l->n_ids == l->ids_cap) {
        size_t cap = l->ids_cap ? l->ids_cap * 2 : 1024;
        int32_t *ids = realloc(l->ids, cap * sizeof(*ids));
        if (!ids)
            return false;
        l->ids = ids;
        l->ids_cap = cap;
    }
    l->ids[l->n_ids++] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
    return true;
}

static bool push_end(struct id_list *l)
{
    if (l->n_ends == l->ends_cap) {
        size_t cap = l->ends_cap ? l->ends_cap * 2 : 64;
        size_t *ends = realloc(l->ends, cap * sizeof(*ends));
        if (!ends)
            return false;
        l->ends = ends;
        l->ends_cap = cap;
    }
    l->ends[l->n_ends++] = l->n_ids;
    return true;
}

/* A JSON integer without fraction or exponent; 0 if there is none (or it has too many digits). */
static size_t read_id(const char *s, size_t at, size_t len, int64_t *id)
{
    size_t start = at;
    bool negative = at < len && s[at] == '-';
    at += negative;
    size_t digits = at;
    int64_t v = 0;
    for (; at < len && s[at] >= '0' && s[at] <= '9'; at++) {
        if (at - digits >= SCAN_MAX_DIGITS)
            return 0;
        v = v * 10 + (s[at] - '0');
    }
    bool leading_zero = at - digits > 1 && s[digits] == '0';
    bool more = at < len && (s[at] == '.' || s[at] == 'e' || s[at] == 'E');
    if (at == digits || leading_zero || more)
        return 0;
    *id = negative ? -v : v;
    return at - start;
}

/* [1, 2, 3] at s[at]; returns the index after it, or 0 if it is anything else. */
static size_t read_plain_list(const char *s, size_t at, size_t len, struct id_list *l)
{
    do {
        int64_t id;
        at = skip_space(s, at + 1, len);
        size_t n = read_id(s, at, len, &id);
        if (n == 0 || !push_id(l, id))
            return 0;
        at = skip_space(s, at + n, len);
    } while (at < len && s[at] == ',');
    return at < len && s[at] == ']' ? at + 1 : 0;
}

static size_t read_nested_list(const char *s, size_t at, size_t len, struct id_list *l)
{
    do {
        at = skip_space(s, at + 1, len);
        if (at >= len || s[at] != '[')
            return 0;
        at = read_plain_list(s, at, len, l);
        if (at == 0 || !push_end(l))
            return 0;
        at = skip_space(s, at, len);
    } while (at < len && s[at] == ',');
    return at < len && s[at] == ']' ? at + 1 : 0;
}

/* Takes the list at s[at], if it is one and long, and returns the index after it; else at. */
static size_t take_list(struct scan *sc, size_t at)
{
    struct id_list l = { 0 };
    size_t inner = skip_space(sc->body, at + 1, sc->len);
    bool nested = inner < sc->len && sc->body[inner] == '[';
    size_t end = nested ? read_nested_list(sc->body, at, sc->len, &l)
                        : read_plain_list(sc->body, at, sc->len, &l);
    if (end == 0 || end - at < SCAN_LONG_LIST) {
        free(l.ids);
        free(l.ends);
        return at;
    }
    memset(sc->body + at, ' ', end - at);
    memcpy(sc->body + at, "null", 4);
    *sc->out = (struct api_scan){
        .ids = l.ids, .n_ids = l.n_ids, .ends = l.ends, .n_lists = l.n_ends, .found = true
    };
    return end;
}

/* ---- the walk ---- */

/* A string at depth 1 where a key is expected: is it ours, and does a list follow? */
static void scan_key(struct scan *sc)
{
    size_t start = sc->at + 1;
    sc->at = skip_string(sc->body, sc->at, sc->len);
    sc->expect_key = false;
    size_t key_len = strlen(sc->key);
    if (sc->out->found || sc->at - start != key_len + 1 ||
        memcmp(sc->body + start, sc->key, key_len) != 0)
        return;
    size_t at = skip_space(sc->body, sc->at, sc->len);
    if (at >= sc->len || sc->body[at] != ':')
        return;
    at = skip_space(sc->body, at + 1, sc->len);
    if (at < sc->len && sc->body[at] == '[') {
        sc->n_values++; /* for the colon that is skipped */
        sc->at = take_list(sc, at);
    }
}

static int scan_open(struct scan *sc)
{
    if (sc->depth == 0 && sc->body[sc->at] == '{')
        sc->is_object = sc->expect_key = true;
    if (++sc->depth > API_MAX_DEPTH)
        return api_fail(sc->err, API_INVALID_JSON, NULL,
                        "The JSON body is nested deeper than %d levels at byte %zu", API_MAX_DEPTH,
                        sc->at);
    sc->at++;
    return 0;
}

static int scan_step(struct scan *sc)
{
    switch (sc->body[sc->at]) {
    case '"':
        if (sc->depth == 1 && sc->is_object && sc->expect_key)
            scan_key(sc);
        else
            sc->at = skip_string(sc->body, sc->at, sc->len);
        return 0;
    case '[':
    case '{':
        return scan_open(sc);
    case ']':
    case '}':
        sc->depth -= sc->depth > 0;
        break;
    case ',':
        sc->expect_key = true;
        sc->n_values++;
        break;
    case ':':
        sc->expect_key = false;
        sc->n_values++;
        break;
    }
    sc->at++;
    return 0;
}

int api_scan_body(char *body, size_t len, const char *key, struct api_scan *out,
                  struct api_error *err)
{
    struct scan sc = { .body = body, .len = len, .key = key, .out = out, .err = err };
    *out = (struct api_scan){ 0 };
    while (sc.at < len)
        if (scan_step(&sc) != 0)
            return -1;
    if (sc.n_values > API_MAX_VALUES)
        return api_fail(err, API_INVALID_VALUE, NULL,
                        "The JSON body holds %zu values; the limit is %d (lists of token ids "
                        "under '%s' do not count)",
                        sc.n_values, API_MAX_VALUES, key);
    return 0;
}
