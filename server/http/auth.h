/* SPDX-License-Identifier: Apache-2.0
 *
 * auth.h - API keys: a file of lines name:key[:max-concurrent].  Read-only after open but for the
 * counts; any thread.
 */
#ifndef LACUNA_SERVER_AUTH_H
#define LACUNA_SERVER_AUTH_H

#include "engine/engine.h"

struct auth;
struct auth_key;

/* Errors name file and line, never a key. */
int auth_open(struct auth **out, const char *path, struct engine_err *err);
/* The same from memory; name stands for the file. */
int auth_parse(struct auth **out, const char *text, size_t len, const char *name,
               struct engine_err *err);
void auth_close(struct auth *a); /* NULL is fine */

/* Keys of a that `before` has under the same name (the secret may be another) count their requests
 * in the seats of `before`, which may be closed: a limit holds across a change of the file.  Before
 * anybody else sees a. */
void auth_share_seats(struct auth *a, const struct auth *before);

/* The key whose secret this is, or NULL.  The time does not tell how much of it was right. */
struct auth_key *auth_find(struct auth *a, const char *secret);
const char *auth_key_name(const struct auth_key *k);

/* A seat among the requests of this key at one time; false if all are taken. */
bool auth_acquire(struct auth_key *k);
void auth_release(struct auth_key *k);
/* 0: no limit. */
uint32_t auth_limit(const struct auth_key *k);
uint32_t auth_n_running(const struct auth_key *k);

#endif
