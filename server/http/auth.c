/* SPDX-License-Identifier: Apache-2.0
 *
 * auth.c - API keys.
 *
 * Secrets are kept in fields of one fixed size, and a check compares the whole field of every key,
 * so that its time depends on the number of keys alone.
 */
#include "server/http/auth.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    AUTH_SECRET_BYTES = 256,
    AUTH_NAME_BYTES = 64,
    AUTH_MAX_FILE = 1 << 20,
    AUTH_MAX_CONCURRENT = 1000000,
};

/* The requests of a key, outliving the file that named it. */
struct auth_seats {
    atomic_uint refs;
    _Atomic uint32_t n_running;
};

struct auth_key {
    char name[AUTH_NAME_BYTES];
    unsigned char secret[AUTH_SECRET_BYTES]; /* padded with zeros */
    uint32_t max_concurrent;                 /* 0: no limit */
    struct auth_seats *seats;
};

struct auth {
    struct auth_key *keys;
    size_t n_keys;
};

/* ---- the file ---- */

struct line {
    const char *file;
    unsigned number;
    struct engine_err *err;
};

static int bad_line(const struct line *at, const char *what)
{
    return engine_fail(at->err, ENGINE_ERR_OPTION, "%s:%u: %s", at->file, at->number, what);
}

static bool is_printable(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] <= ' ' || s[i] > '~')
            return false;
    return true;
}

static int parse_limit(const struct line *at, const char *s, size_t len, uint32_t *out)
{
    uint32_t v = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9' || v > AUTH_MAX_CONCURRENT)
            return bad_line(at, "max-concurrent must be a number from 1 to 1000000");
        v = v * 10 + (uint32_t)(s[i] - '0');
    }
    if (v < 1 || v > AUTH_MAX_CONCURRENT)
        return bad_line(at, "max-concurrent must be a number from 1 to 1000000");
    *out = v;
    return 0;
}

static int parse_line(const struct line *at, const char *s, size_t len, struct auth_key *key)
{
    if (!is_printable(s, len))
        return bad_line(at, "a space or a character that is not printable ASCII");
    const char *end = s + len;
    const char *colon = memchr(s, ':', len);
    if (!colon || colon == s)
        return bad_line(at, "expected name:key or name:key:max-concurrent");
    if (colon - s >= AUTH_NAME_BYTES)
        return bad_line(at, "the name is longer than 63 characters");
    const char *secret = colon + 1;
    const char *secret_end = memchr(secret, ':', (size_t)(end - secret));
    if (secret_end &&
        parse_limit(at, secret_end + 1, (size_t)(end - secret_end - 1), &key->max_concurrent) != 0)
        return -1;
    if (!secret_end)
        secret_end = end;
    if (secret_end == secret || secret_end - secret >= AUTH_SECRET_BYTES)
        return bad_line(at, "the key must be 1 to 255 characters long");
    memcpy(key->name, s, (size_t)(colon - s));
    memcpy(key->secret, secret, (size_t)(secret_end - secret));
    return 0;
}

static int check_unique(const struct auth *a, const struct auth_key *key, const struct line *at)
{
    for (size_t i = 0; i < a->n_keys; i++) {
        if (strcmp(a->keys[i].name, key->name) == 0)
            return bad_line(at, "this name was already used");
        if (memcmp(a->keys[i].secret, key->secret, AUTH_SECRET_BYTES) == 0)
            return bad_line(at, "this key was already used");
    }
    return 0;
}

static int add_line(struct auth *a, const struct line *at, const char *s, size_t len)
{
    while (len > 0 && (s[len - 1] == '\r' || s[len - 1] == ' ' || s[len - 1] == '\t'))
        len--;
    if (len == 0 || s[0] == '#')
        return 0;
    struct auth_key key = { 0 };
    if (parse_line(at, s, len, &key) != 0 || check_unique(a, &key, at) != 0)
        return -1;
    struct auth_key *keys = realloc(a->keys, (a->n_keys + 1) * sizeof(*keys));
    if (keys)
        a->keys = keys;
    key.seats = calloc(1, sizeof(*key.seats));
    if (!keys || !key.seats) {
        free(key.seats);
        return engine_fail(at->err, ENGINE_ERR_MEMORY, "no memory for API keys");
    }
    atomic_init(&key.seats->refs, 1);
    keys[a->n_keys++] = key;
    return 0;
}

int auth_parse(struct auth **out, const char *text, size_t len, const char *name,
               struct engine_err *err)
{
    struct line at = { name, 0, err };
    *out = NULL;
    struct auth *a = calloc(1, sizeof(*a));
    if (!a)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for API keys");
    for (const char *s = text, *end = text + len; s < end;) {
        const char *newline = memchr(s, '\n', (size_t)(end - s));
        const char *stop = newline ? newline : end;
        at.number++;
        if (add_line(a, &at, s, (size_t)(stop - s)) != 0)
            goto fail;
        s = stop + 1;
    }
    if (a->n_keys == 0) {
        engine_fail(err, ENGINE_ERR_OPTION, "%s: holds no API key", name);
        goto fail;
    }
    *out = a;
    return 0;
fail:
    auth_close(a);
    return -1;
}

int auth_open(struct auth **out, const char *path, struct engine_err *err)
{
    *out = NULL;
    FILE *f = fopen(path, "re");
    if (!f)
        return engine_fail(err, ENGINE_ERR_OPTION, "API key file '%s': %s", path, strerror(errno));
    int rc = -1;
    char *text = malloc(AUTH_MAX_FILE);
    if (!text) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for API keys");
        goto done;
    }
    size_t len = fread(text, 1, AUTH_MAX_FILE, f);
    if (ferror(f))
        engine_fail(err, ENGINE_ERR_OPTION, "API key file '%s': %s", path, strerror(errno));
    else if (len == AUTH_MAX_FILE)
        engine_fail(err, ENGINE_ERR_OPTION, "API key file '%s' is larger than 1 MiB", path);
    else
        rc = auth_parse(out, text, len, path, err);
    explicit_bzero(text, len);
done:
    free(text);
    fclose(f);
    return rc;
}

/* ---- seats ---- */

static void put_seats(struct auth_seats *seats)
{
    if (atomic_fetch_sub(&seats->refs, 1) == 1)
        free(seats);
}

void auth_share_seats(struct auth *a, const struct auth *before)
{
    for (size_t i = 0; i < a->n_keys; i++)
        for (size_t j = 0; j < before->n_keys; j++)
            if (strcmp(a->keys[i].name, before->keys[j].name) == 0) {
                put_seats(a->keys[i].seats);
                a->keys[i].seats = before->keys[j].seats;
                atomic_fetch_add(&a->keys[i].seats->refs, 1);
            }
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_keys; i++)
        put_seats(a->keys[i].seats);
    if (a->keys)
        explicit_bzero(a->keys, a->n_keys * sizeof(*a->keys));
    free(a->keys);
    free(a);
}

/* ---- checks ---- */

struct auth_key *auth_find(struct auth *a, const char *secret)
{
    unsigned char given[AUTH_SECRET_BYTES] = { 0 };
    size_t len = strlen(secret);
    size_t kept = len < AUTH_SECRET_BYTES ? len : 0; /* no key is that long: compares as "" */
    memcpy(given, secret, kept);
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < a->n_keys; i++) {
        unsigned differ = 0;
        for (size_t j = 0; j < AUTH_SECRET_BYTES; j++)
            differ |= (unsigned)given[j] ^ a->keys[i].secret[j];
        size_t mask = (size_t)0 - (size_t)(differ == 0);
        found = (found & ~mask) | (i & mask);
    }
    explicit_bzero(given, sizeof(given));
    return found == SIZE_MAX ? NULL : &a->keys[found];
}

const char *auth_key_name(const struct auth_key *k)
{
    return k->name;
}

bool auth_acquire(struct auth_key *k)
{
    uint32_t n = atomic_fetch_add(&k->seats->n_running, 1) + 1;
    if (k->max_concurrent == 0 || n <= k->max_concurrent)
        return true;
    atomic_fetch_sub(&k->seats->n_running, 1);
    return false;
}

void auth_release(struct auth_key *k)
{
    atomic_fetch_sub(&k->seats->n_running, 1);
}

uint32_t auth_limit(const struct auth_key *k)
{
    return k->max_concurrent;
}

uint32_t auth_n_running(const struct auth_key *k)
{
    return atomic_load_explicit(&k->seats->n_running, memory_order_relaxed);
}
