/* SPDX-License-Identifier: Apache-2.0
 *
 * live.c - what may change while the server runs; see live.h.
 */
#include "server/live.h"

#include <stdlib.h>
#include <string.h>

#include "server/http/auth.h"
#include "server/http/tls.h"

static void free_texts(struct live_texts *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->items[i]);
    free(t->items);
}

static int copy_texts(struct live_texts *to, const char *const *from, uint32_t n)
{
    to->items = calloc((size_t)n + 1, sizeof(*to->items));
    if (!to->items)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        char *copy = strdup(from[i]);
        if (!copy)
            return -1;
        to->items[to->n++] = copy;
    }
    return 0;
}

static void destroy(struct live *l)
{
    auth_close(l->auth);
    tls_pair_put(l->tls);
    free_texts(&l->cors_origins);
    free_texts(&l->allowed_hosts);
    free(l);
}

static int open_keys(struct live *l, const char *path, const struct live *before,
                     struct engine_err *err)
{
    if (!path)
        return 0;
    if (auth_open(&l->auth, path, err) != 0)
        return -1;
    if (before && before->auth)
        auth_share_seats(l->auth, before->auth);
    return 0;
}

static int open_tls(struct live *l, const struct srv_options *opt, struct engine_err *err)
{
    return opt->tls_cert ? tls_pair_open(&l->tls, opt->tls_cert, opt->tls_key, err) : 0;
}

int live_open(struct live **out, const struct srv_options *opt, const struct live *before,
              struct engine_err *err)
{
    *out = NULL;
    struct live *l = calloc(1, sizeof(*l));
    if (!l)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the server");
    atomic_init(&l->refs, 1);
    l->public_models = opt->public_models;
    l->max_body_bytes = opt->max_body_bytes;
    l->max_prompts = opt->max_prompts;
    l->max_n = opt->max_n;
    l->max_logprobs = opt->max_logprobs;
    l->request_timeout_s = opt->request_timeout_s;
    if (copy_texts(&l->cors_origins, opt->cors_origins, opt->n_cors_origins) != 0 ||
        copy_texts(&l->allowed_hosts, opt->allowed_hosts, opt->n_allowed_hosts) != 0)
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the lists of hosts and origins");
    else if (open_keys(l, opt->api_key_file, before, err) == 0 && open_tls(l, opt, err) == 0) {
        *out = l;
        return 0;
    }
    destroy(l);
    return -1;
}

struct live *live_get(struct live *l)
{
    atomic_fetch_add(&l->refs, 1);
    return l;
}

void live_put(struct live *l)
{
    if (l && atomic_fetch_sub(&l->refs, 1) == 1)
        destroy(l);
}

bool live_has(const struct live_texts *texts, const char *text)
{
    for (uint32_t i = 0; i < texts->n; i++)
        if (strcmp(texts->items[i], text) == 0)
            return true;
    return false;
}
