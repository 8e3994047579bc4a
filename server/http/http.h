/* SPDX-License-Identifier: Apache-2.0
 *
 * http.h - connections: what api/ needs to know of them, and what the files of http/ share.
 *
 * An *exchange* is one request and its answer.  Its life:
 *
 *   HTTP thread      headers checked, body collected      -> an answer at once, or suspended
 *   preparation      parsed, tokenized, submitted         -> http_reply or http_stream_begin
 *   scheduler        events                               -> http_stream_event / http_finish
 *   HTTP thread      written out, completed               -> access line, last reference dropped
 *
 * An exchange is counted by references: libmicrohttpd's until the answer is out, the preparation's
 * while it works on it, the scheduler's until its last event.
 *
 * Locks, outermost first: the watch's, an exchange's, an application's.  None is held while
 * anything waits.
 */
#ifndef LACUNA_SERVER_HTTP_H
#define LACUNA_SERVER_HTTP_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/api/api_error.h"
#include "server/buffer.h"
#include "server/internal.h"

struct MHD_Connection;
struct http_exchange;
struct http_conn;
struct http_listener;
struct sockaddr;
struct auth_key;
struct live;
struct tls_pair;

/* ---- routes ---- */

enum http_method {
    HTTP_GET = 1,
    HTTP_HEAD = 2,
    HTTP_POST = 4,
    HTTP_OPTIONS = 8,
    HTTP_OTHER = 16, /* every other one, and wrong ones in the metrics */
};

enum prepare_turn { PREPARE_MORE, PREPARE_DONE };

/* One turn of the preparation of a request; see api/prepare.c. */
typedef enum prepare_turn prepare_fn(struct http_exchange *x);
/* Answers at once, on the HTTP thread: must not wait. */
typedef void http_answer_fn(struct http_exchange *x);

struct http_route {
    const char *name; /* for metrics and logs: never the raw path */
    const char *path; /* what the path is, or begins with if takes_rest; NULL: no such path */
    const char *end;  /* of a path that takes the rest between: "/ready"; NULL: none */
    unsigned methods; /* OR of enum http_method */
    bool takes_rest;
    bool is_open;     /* no key needed */
    bool needs_model; /* 503 while it loads and while the server drains */
    bool is_quiet;    /* probes: logged at debug level */
    bool is_counted;  /* against the key's limit */
    http_answer_fn *answer;
    prepare_fn *prepare; /* instead of answer: takes the body */
};

extern const struct http_route http_routes[];
extern const uint32_t http_n_routes; /* the last is the one for paths that do not exist */
const struct http_route *http_find_route(const char *path);

/* ---- applications: what api/ does with an exchange ---- */

/* What the access line says of the work. */
struct http_usage {
    const char *finish; /* NULL: none */
    const char *cancel_phase;
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t queue_ns, ttft_ns, itl_ns;
    bool is_stream;
    char user_hash[9]; /* "": none was given */
};

struct http_app {
    /* The work is not wanted any more.  Any thread, under the exchange's lock; must not call back.
     */
    void (*cancel)(void *app, enum sched_cancel_cause cause);
    /* After http_finish, on the HTTP thread: the whole answer. */
    void (*render)(struct http_exchange *x, void *app, struct buf *body);
    void (*usage)(void *app, struct http_usage *out);
    void (*free)(void *app);
};

enum http_phase {
    HTTP_PHASE_BODY,   /* the request is still coming in */
    HTTP_PHASE_WAIT,   /* others work on it */
    HTTP_PHASE_REPLY,  /* x->reply is the answer */
    HTTP_PHASE_FINISH, /* app->render makes the answer */
    HTTP_PHASE_STREAM,
};

struct http_header {
    const char *name;
    const char *fixed; /* the value, if it lives for ever; else NULL */
    char value[160];
};
enum { HTTP_MAX_EXTRA_HEADERS = 6 };

struct http_reply {
    unsigned status;
    const char *content_type;
    struct buf body;
    bool close; /* the connection */
};

struct http_exchange {
    /* Set by the HTTP thread before anybody else sees the exchange. */
    struct srv *srv;
    const struct http_listener *listener;
    const struct http_route *route;
    struct live *live;      /* what counted when it began: keys, limits */
    struct auth_key *key;   /* of live */
    atomic_bool holds_seat; /* of the key's limit */
    bool is_completion;     /* counted in srv->n_completions */
    struct http_conn *conn;
    enum http_method method;
    char id[129];
    char trace_id[33];
    char client[64];
    char *rest;          /* of the path, for routes that take it */
    char *origin;        /* to be reflected; NULL: none */
    char *asked_headers; /* of a CORS preflight */
    uint64_t arrived_ns;
    int64_t created;

    /* The HTTP thread's until the body is whole, then the preparation's. */
    struct buf body;
    uint64_t body_counted;             /* of srv->body_bytes */
    uint64_t swallowed;                /* bytes of a body that is not wanted */
    bool is_dispatched;                /* the HTTP thread's alone */
    struct api_error early;            /* known before the body was there */
    _Atomic uint64_t body_deadline_ns; /* 0: no body is being read */
    _Atomic uint64_t body_read_ns;     /* when its last bytes came */

    /* The preparation's. */
    struct http_exchange *prepare_next;
    uint64_t prepare_cost; /* bytes of text still to be looked at */
    uint64_t queued_ns;

    atomic_uint refs;
    pthread_mutex_t lock;
    /* Under the lock. */
    struct MHD_Connection *mhd; /* NULL once completed */
    bool is_parked;             /* suspended: whoever changes something resumes it */
    enum http_phase phase;
    enum sched_cancel_cause gone; /* not 0: nobody reads the answer */
    void *app;
    const struct http_app *app_ops;
    struct http_reply reply;
    struct http_header extra[HTTP_MAX_EXTRA_HEADERS];
    uint32_t n_extra;
    enum api_error_kind error; /* what was answered, for metrics */
    unsigned sent_status;
    /* The stream: written by the scheduler's thread, read by the HTTP thread. */
    struct buf out;
    size_t out_at; /* read so far */
    size_t largest_event;
    bool out_ended;
    uint64_t last_write_ns, last_read_ns;
    uint64_t bytes_out;
};

/* ---- for api/: any thread but where said ---- */

void http_ref(struct http_exchange *x);
void http_unref(struct http_exchange *x);

/* The exchange takes the application over and frees it with itself.  Once, before any answer. */
void http_bind(struct http_exchange *x, void *app, const struct http_app *ops);
void http_header(struct http_exchange *x, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void http_header_fixed(struct http_exchange *x, const char *name, const char *value);

/* Answers; the body's memory is taken.  The first answer wins. */
void http_reply(struct http_exchange *x, unsigned status, const char *content_type,
                struct buf *body_take);
void http_reply_json(struct http_exchange *x, unsigned status, struct buf *body_take);
void http_reply_error(struct http_exchange *x, const struct api_error *e);
void http_finish(struct http_exchange *x); /* 200 with what app->render makes */

void http_stream_begin(struct http_exchange *x); /* 200 and the SSE headers */
void http_stream_event(struct http_exchange *x, const char *json, size_t len);
void http_stream_end(struct http_exchange *x); /* [DONE], then nothing */
/* Is there so much unread that further small events had better be joined? */
bool http_stream_is_behind(struct http_exchange *x);

bool http_is_gone(struct http_exchange *x);
/* On the HTTP thread: does Accept name it first? */
bool http_wants_openmetrics(const struct http_exchange *x);
/* On the HTTP thread: does the query say NAME=VALUE? */
bool http_query_is(const struct http_exchange *x, const char *name, const char *value);

/* ---- the daemon: server.c ---- */

int http_open(struct http **out, struct srv *srv, struct engine_err *err);
/* ENGINE_ERR_OPTION if others can reach a listener, and there are no keys. */
int http_check_exposure(const struct http *h, bool has_keys, struct engine_err *err);
/* Starts accepting; what handlers use must be there. */
int http_start(struct http *h, struct engine_err *err);
void http_close(struct http *h);
const char *http_address(const struct http *h, uint32_t i);
bool http_is_tls(const struct http *h, uint32_t i); /* is it HTTPS? */
/* Ends the work of every exchange, in any phase. */
void http_cancel_all(struct http *h, enum sched_cancel_cause cause);
uint32_t http_n_connections(const struct http *h);
uint32_t http_n_streams(const struct http *h);

/* ---- within http/ ---- */

struct http_listener {
    struct http *http;
    struct MHD_Daemon **daemons; /* each a thread */
    uint32_t n_daemons;
    int fd;
    bool is_unix, is_loopback;
    bool metrics_only, is_tls;
    uint32_t max_connections;       /* more wait in the kernel's queue */
    _Atomic uint32_t n_connections; /* from the accept to the close */
    atomic_bool is_full;            /* the acceptor waits for an end of one of them */
    /* The acceptor's. */
    uint32_t next_daemon; /* gets the next connection */
    bool is_short;        /* of descriptors or memory, when it last accepted */
    char address[160];
    char host[64]; /* the address without port, as a Host header has it */
    char unix_path[108];
};

struct watch;
struct acceptor;

/* A connection, from its first byte to its last: libmicrohttpd's context of it. */
struct http_conn {
    struct http_listener *listener;
    struct MHD_Connection *mhd;
    int fd;
    /* Its HTTP thread's. */
    struct tls_pair *pair; /* of its handshake */
    bool is_secured;       /* the handshake is over */
    /* Under the watch's lock. */
    uint32_t slot, generation;
    uint64_t peer_closed_ns; /* 0: not yet */
    struct http_exchange *x; /* the request in progress */
    uint64_t idle_since_ns;
    bool is_hung_up;   /* by us; libmicrohttpd has yet to close it */
    bool is_suspended; /* by watch_suspend */
};

struct http {
    struct srv *srv;
    struct http_listener *listeners;
    uint32_t n_listeners;
    bool has_metrics_listener; /* then /metrics is only there */
    struct watch *watch;
    struct acceptor *acceptor; /* NULL: not started */
    _Atomic uint32_t n_streams;
};

/* listen.c */
bool http_is_loopback(const struct sockaddr *sa); /* IPv4 or IPv6 */
int http_listen(struct http_listener *l, const char *address, struct engine_err *err);
/* The same on a socket that is listening already; takes fd over. */
int http_listen_on(struct http_listener *l, int fd, struct engine_err *err);
void http_unlisten(struct http_listener *l);

/* exchange.c */
struct http_exchange *http_exchange_new(struct srv *srv, struct MHD_Connection *mhd);
/* Under x->lock: resumes the connection if it is suspended. */
void http_wake(struct http_exchange *x);
/* Under x->lock: the client will not read any more. */
void http_give_up(struct http_exchange *x, enum sched_cancel_cause cause);
void http_body_free(struct http_exchange *x);
/* Gives the key's seat back once the work is over: before the last bytes go out, since a client that
 * has read them may ask again at once.  Idempotent. */
void http_release_seat(struct http_exchange *x);

/* checks.c: everything that can be said of a request before its body; fills x->early. */
void http_check_request(struct http_exchange *x, const char *url);

/* stream.c: under x->lock.  The next bytes of the stream, 0 if there are none yet. */
size_t http_stream_read(struct http_exchange *x, char *dst, size_t max);
/* Under x->lock, from the watch: a ping if it is due; true if the reader is too slow. */
bool http_stream_tick(struct http_exchange *x, uint64_t now_ns);

/* access_log.c: counts and logs an exchange that is over; status 499 if the client did not wait. */
void http_account(struct http_exchange *x, unsigned status);

/* acceptor.c: the listeners and their daemons must be there until it is stopped. */
int acceptor_start(struct http *h, struct engine_err *err);
/* Any thread: a connection of this listener is over, and its place free. */
void acceptor_release(struct http_listener *l);
/* After it, nobody is let in any more; those that are in may still be released.  NULL is fine. */
void acceptor_stop(struct acceptor *a);
/* A stopped one, when no connection is left.  NULL is fine. */
void acceptor_free(struct acceptor *a);

/* connection.c: libmicrohttpd's callbacks.  A daemon is one thread with the connections that it is
 * given; NULL if it cannot be started. */
struct MHD_Daemon *http_start_daemon(struct http_listener *l);
/* The context of a connection; NULL if there was no memory for one. */
struct http_conn *http_conn_of(struct MHD_Connection *mhd);

/* watch.c */
int watch_open(struct watch **out, struct http *h, struct engine_err *err);
void watch_close(struct watch *w);
struct http_conn *watch_add(struct watch *w, struct http_listener *l, struct MHD_Connection *mhd,
                            int fd);
void watch_remove(struct watch *w, struct http_conn *c);
void watch_attach(struct watch *w, struct http_conn *c, struct http_exchange *x);
void watch_detach(struct watch *w, struct http_conn *c);
/* On c's HTTP thread, before its first request: suspends the connection until there is something to
 * read, or it ends. */
void watch_suspend(struct http_conn *c);
uint32_t watch_n_connections(const struct watch *w);
/* Cancels the work of all exchanges; with hang_up also shuts the connections down. */
void watch_cancel_all(struct watch *w, enum sched_cancel_cause cause, bool hang_up);

/* headers.c: pure. */
bool http_id_is_valid(const char *id);
bool http_is_json_type(const char *content_type); /* NULL is not */
/* The host of a Host header, without port and brackets, lower case; false if it is none. */
bool http_host_name(const char *header, char *host, size_t cap);
bool http_is_loopback_name(const char *host);
/* The 32 hex digits of a W3C traceparent's trace id; false if it is malformed. */
bool http_trace_id(const char *traceparent, char id[33]);
const char *http_bearer(const char *authorization); /* the secret, or NULL */
enum http_method http_method_of(const char *name);
void http_allow(unsigned methods, char *text, size_t cap); /* "GET, HEAD" */

/* sse.c: pure. */
void sse_event(struct buf *out, const char *data, size_t len);
void sse_ping(struct buf *out);
void sse_done(struct buf *out);

#endif
