/* SPDX-License-Identifier: Apache-2.0
 *
 * server.h - the HTTP daemon: listens first, loads, serves, drains.
 *
 * srv_open binds and answers at once (/live 200, everything that needs the model 503
 * model_loading); srv_attach hands it a loaded engine and a scheduler-to-be; srv_drain stops it.
 */
#ifndef LACUNA_SERVER_H
#define LACUNA_SERVER_H

#include "engine/engine.h"

struct srv;

/* A listening stream socket that somebody else opened. */
struct srv_socket {
    int fd; /* srv_open takes it over */
    bool metrics_only;
};

struct srv_options { /* borrowed strings must live until srv_close; a zeroed field is its default */
    const char *const *listen;        /* "127.0.0.1:8080", "[::1]:8080", "unix:/path" */
    uint32_t n_listen;                /* 0: 127.0.0.1:8080 */
    const struct srv_socket *sockets; /* instead of `listen`, and of `metrics_listen` */
    uint32_t n_sockets;
    const char *const *aliases; /* names the model answers to; the first is the canonical one */
    uint32_t n_aliases;         /* 0: the file's base name without .gguf */
    const char *model_file;     /* its base name: the name of the model while it loads */
    const char *api_key_file;   /* lines name:key[:max-concurrent]; NULL: no keys */
    const char *tls_cert;       /* PEM: HTTPS on all but Unix sockets and metrics_listen */
    const char *tls_key;        /* PEM; both or neither */
    bool insecure_no_auth;      /* allow a non-loopback address without keys */
    bool public_models;         /* /v1/models without a key */
    bool any_model;             /* --model-policy any */
    bool strict_params;         /* unknown fields are errors */
    bool strict_max_tokens; /* prompt + max_tokens beyond the context is an error, not clamped */
    bool parse_special;     /* special tokens in string prompts */
    bool slow_status_503;   /* --overload-status 503 instead of 429 */
    bool timings;           /* in every answer, not only where they are asked for */
    bool slots_endpoint;    /* GET /slots */
    uint32_t max_tokens_default;      /* 0: 16 for completions, the rest of the context for chats */
    const char *const *allowed_hosts; /* Host headers besides the loopback names */
    uint32_t n_allowed_hosts;
    const char *const *cors_origins;
    uint32_t n_cors_origins;
    const char *metrics_listen; /* own address for /metrics; NULL: on the main one, with a key */
    bool metrics_vllm;          /* /metrics also has what schedulers of vLLM fleets read */
    bool no_page;               /* nothing at / */
    uint32_t http_threads;      /* 0: 2 */
    uint64_t max_body_bytes;    /* 0: 16 MiB */
    uint32_t max_prompts;       /* 0: 64 */
    uint32_t max_n;             /* 0: 8 */
    uint32_t max_logprobs;      /* 0: 20 */
    uint32_t max_seqs;          /* --slots; 0: 256 */
    uint32_t max_queue;         /* 0: 64 */
    uint64_t max_queue_tokens;  /* 0: 4 x n_ctx */
    uint32_t max_queue_wait_s;  /* 0: 60 */
    uint32_t itl_target_ms;     /* 0: twice what the streams take alone */
    bool speculate;             /* as sched_options */
    const char *quality; /* of requests that do not say it: see engine_find_point; NULL: exact */
    uint32_t ping_s;     /* SSE comment after this silence; 0: 5; UINT32_MAX: off */
    uint32_t request_timeout_s; /* 0: none */
    uint32_t watchdog_s;        /* engine heartbeat older than this: /live is 503; 0: 60 */
    /* Called once, on the watch thread, when the engine has stood still for twice as long: nothing
     * within the process can mend it.  NULL: the server stays, and refuses. */
    void (*on_engine_dead)(void);
};

/* Binds and starts answering.  ENGINE_ERR_OPTION names the bad address, key file line or TLS file. */
int srv_open(struct srv **out, const struct srv_options *opt, struct engine_err *err);

/* Would srv_open take the TLS files of opt?  If it would with a warning, that is in warning (else ""),
 * cut to cap. */
int srv_check_tls(const struct srv_options *opt, char *warning, size_t cap, struct engine_err *err);

/* For the progress line of 503 answers and /health while loading; any thread. */
void srv_loading(struct srv *s, uint64_t done_bytes, uint64_t total_bytes);

/* The model is there: opens the scheduler on e (which must outlive srv_close) and gets ready. */
int srv_attach(struct srv *s, struct engine *e, struct engine_err *err);

/* Takes over what may change while requests run: API keys, CORS origins, allowed hosts, public_models
 * and the limits of requests, bodies and the queue, the TLS certificate (but not whether there is
 * one); the rest of opt is not looked at.  Requests keep what they began with, connections their
 * certificate.  On failure (a bad key file) everything stays as it was.  From the thread
 * that calls srv_attach. */
int srv_reload(struct srv *s, const struct srv_options *opt, struct engine_err *err);

struct srv_status {
    uint64_t load_done_bytes, load_total_bytes;
    uint32_t n_completions; /* requests that are not over */
    uint64_t still_ns;      /* for how long the engine has work and does not move */
};
void srv_status(const struct srv *s, struct srv_status *out); /* any thread */

/* The address of listener i as text ("127.0.0.1:8080"; the real port if 0 was asked for). */
const char *srv_address(const struct srv *s, uint32_t i);
bool srv_is_tls(const struct srv *s, uint32_t i);

/* delay_s of not-ready but serving, then refuses new requests and waits up to timeout_s for the
 * running ones, then cancels them.  *hurry != 0 (a second signal) ends the wait at once. */
void srv_drain(struct srv *s, uint32_t delay_s, uint32_t timeout_s, const volatile int *hurry);

void srv_close(struct srv *s); /* NULL is fine */

#endif
