/* SPDX-License-Identifier: Apache-2.0
 *
 * live.h - what may change while the server runs: keys, the TLS certificate, origins, hosts, limits.
 *
 * One struct, never changed once made.  The server holds the newest; an exchange holds the one that
 * it began with, so that its key and its limits stay the same to its end, however often SIGHUP
 * comes.  The last who lets go of one frees it.
 */
#ifndef LACUNA_SERVER_LIVE_H
#define LACUNA_SERVER_LIVE_H

#include <stdatomic.h>

#include "server/server.h"

struct auth;
struct tls_pair;

struct live_texts {
    char **items;
    uint32_t n;
};

struct live {
    atomic_uint refs;
    struct auth *auth;    /* NULL: no keys */
    struct tls_pair *tls; /* NULL: no TLS */
    struct live_texts cors_origins, allowed_hosts;
    bool public_models;
    uint64_t max_body_bytes;
    uint32_t max_prompts, max_n, max_logprobs;
    uint32_t request_timeout_s;
};

/* Copies what it needs of opt, whose defaults are filled in, and reads the files of API keys and of
 * TLS.  Keys that `before` (may be NULL) knows by the same name go on counting their requests there.
 * One reference is the caller's.  ENGINE_ERR_OPTION names file and line. */
int live_open(struct live **out, const struct srv_options *opt, const struct live *before,
              struct engine_err *err);
struct live *live_get(struct live *l); /* another reference */
void live_put(struct live *l);         /* NULL is fine */

bool live_has(const struct live_texts *texts, const char *text);

#endif
