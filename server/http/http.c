/* SPDX-License-Identifier: Apache-2.0
 *
 * http.c - the daemons: libmicrohttpd's, some for each listening address, all with the same
 * handlers.
 *
 * Stopping has an order that must be kept, since libmicrohttpd aborts the process if a connection
 * is suspended when its daemon stops: no new connections, every suspended one resumed and shut
 * down, wait until all are gone, stop, close the sockets.
 */
#include "server/http/http.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "server/live.h"
#include "server/log.h"

enum {
    HTTP_MAX_CONNECTIONS = 8192,
    HTTP_SPARE_FILES = 128, /* descriptors for everything else */
    HTTP_CLOSE_WAIT_MS = 5000,
};
static const char default_address[] = "127.0.0.1:8080";

/* ---- opening ---- */

static int check_exposure(const struct http_listener *l, bool has_keys, struct engine_err *err)
{
    bool is_open = !l->is_loopback && !l->is_unix && !l->metrics_only;
    if (!is_open || has_keys || l->http->srv->opt.insecure_no_auth)
        return 0;
    return engine_fail(err, ENGINE_ERR_OPTION,
                       "refusing to listen on %s, which is not a loopback address, without API "
                       "keys: give --api-key-file, or --insecure-no-auth if that is meant",
                       l->address);
}

int http_check_exposure(const struct http *h, bool has_keys, struct engine_err *err)
{
    for (uint32_t i = 0; i < h->n_listeners; i++)
        if (check_exposure(&h->listeners[i], has_keys, err) != 0)
            return -1;
    return 0;
}

static struct http_listener *next_listener(struct http *h, bool metrics_only)
{
    struct http_listener *l = &h->listeners[h->n_listeners];
    l->http = h;
    l->metrics_only = metrics_only;
    return l;
}

static int add_address(struct http *h, const char *address, bool metrics_only,
                       struct engine_err *err)
{
    if (http_listen(next_listener(h, metrics_only), address, err) != 0)
        return -1;
    h->n_listeners++;
    return 0;
}

/* True if one of the sockets that were handed over is of this kind. */
static bool has_socket(const struct srv_options *opt, bool metrics_only)
{
    for (uint32_t i = 0; i < opt->n_sockets; i++)
        if (opt->sockets[i].metrics_only == metrics_only)
            return true;
    return false;
}

static int add_sockets(struct http *h, const struct srv_options *opt, struct engine_err *err)
{
    for (uint32_t i = 0; i < opt->n_sockets; i++) {
        const struct srv_socket *s = &opt->sockets[i];
        if (http_listen_on(next_listener(h, s->metrics_only), s->fd, err) != 0)
            return -1;
        h->n_listeners++;
    }
    return 0;
}

static int add_addresses(struct http *h, const struct srv_options *opt, struct engine_err *err)
{
    if (opt->n_listen == 0)
        return add_address(h, default_address, false, err);
    for (uint32_t i = 0; i < opt->n_listen; i++)
        if (add_address(h, opt->listen[i], false, err) != 0)
            return -1;
    return 0;
}

/* Those of the API come first: the first address is the one that is shown. */
static int open_listeners(struct http *h, struct engine_err *err)
{
    const struct srv_options *opt = &h->srv->opt;
    h->listeners = calloc((size_t)opt->n_listen + opt->n_sockets + 2, sizeof(*h->listeners));
    if (!h->listeners)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the HTTP listeners");
    if (!has_socket(opt, false) && add_addresses(h, opt, err) != 0)
        return -1;
    if (add_sockets(h, opt, err) != 0)
        return -1;
    if (opt->metrics_listen && !has_socket(opt, true) &&
        add_address(h, opt->metrics_listen, true, err) != 0)
        return -1;
    for (uint32_t i = 0; i < h->n_listeners; i++) {
        struct http_listener *l = &h->listeners[i];
        h->has_metrics_listener |= l->metrics_only;
        l->is_tls = h->srv->live->tls && !l->is_unix && !l->metrics_only;
    }
    return http_check_exposure(h, h->srv->live->auth != NULL, err);
}

int http_open(struct http **out, struct srv *srv, struct engine_err *err)
{
    *out = NULL;
    struct http *h = calloc(1, sizeof(*h));
    if (!h)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the HTTP server");
    h->srv = srv;
    if (open_listeners(h, err) != 0 || watch_open(&h->watch, h, err) != 0) {
        http_close(h);
        return -1;
    }
    *out = h;
    return 0;
}

/* As many descriptors as all connections want, if we may: a shell's soft limit of 1,024 is there for
 * programs that use select(). */
static void raise_file_limit(void)
{
    const rlim_t wanted = HTTP_MAX_CONNECTIONS + HTTP_SPARE_FILES;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit); /* if not, fewer connections are let in */
}

static uint32_t max_connections(void)
{
    struct rlimit limit;
    uint64_t files = HTTP_MAX_CONNECTIONS;
    raise_file_limit();
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        files = limit.rlim_cur > 2 * HTTP_SPARE_FILES ? limit.rlim_cur - HTTP_SPARE_FILES
                                                      : limit.rlim_cur / 2;
    return files < HTTP_MAX_CONNECTIONS ? (uint32_t)files : HTTP_MAX_CONNECTIONS;
}

/* A daemon for each thread instead of one with a pool: only those may be without a socket. */
static int start_daemons(struct http_listener *l, uint32_t n, struct engine_err *err)
{
    l->daemons = calloc(n, sizeof(struct MHD_Daemon *));
    if (!l->daemons)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the HTTP server");
    for (; l->n_daemons < n; l->n_daemons++) {
        l->daemons[l->n_daemons] = http_start_daemon(l);
        if (!l->daemons[l->n_daemons])
            return engine_fail(err, ENGINE_ERR_INTERNAL, "cannot start the HTTP server on %s",
                               l->address);
    }
    return 0;
}

int http_start(struct http *h, struct engine_err *err)
{
    uint32_t n_each = max_connections() / h->n_listeners;
    for (uint32_t i = 0; i < h->n_listeners; i++) {
        struct http_listener *l = &h->listeners[i];
        l->max_connections = n_each;
        if (start_daemons(l, l->metrics_only ? 1 : h->srv->opt.http_threads, err) != 0)
            return -1;
    }
    return acceptor_start(h, err);
}

/* ---- closing ---- */

static uint32_t n_open(const struct http *h)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->n_listeners; i++)
        n += atomic_load(&h->listeners[i].n_connections);
    return n;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static void hang_up_all(struct http *h)
{
    enum { STEP_MS = 10 };
    for (int waited = 0; n_open(h) > 0 && waited < HTTP_CLOSE_WAIT_MS; waited += STEP_MS) {
        watch_cancel_all(h->watch, SCHED_CANCEL_SHUTDOWN, true);
        sleep_ms(STEP_MS);
    }
    if (n_open(h) > 0)
        log_event(LOG_WARN_LEVEL, "connections_left", LOG_U64("n", n_open(h)), LOG_END);
}

static void stop_daemons(struct http_listener *l)
{
    while (l->n_daemons > 0)
        MHD_stop_daemon(l->daemons[--l->n_daemons]);
    free(l->daemons);
}

void http_close(struct http *h)
{
    if (!h)
        return;
    acceptor_stop(h->acceptor);
    if (h->watch)
        hang_up_all(h);
    for (uint32_t i = 0; i < h->n_listeners; i++) {
        stop_daemons(&h->listeners[i]);
        http_unlisten(&h->listeners[i]);
    }
    acceptor_free(h->acceptor);
    watch_close(h->watch);
    free(h->listeners);
    free(h);
}

/* ---- questions ---- */

const char *http_address(const struct http *h, uint32_t i)
{
    return i < h->n_listeners ? h->listeners[i].address : NULL;
}

bool http_is_tls(const struct http *h, uint32_t i)
{
    return i < h->n_listeners && h->listeners[i].is_tls;
}

void http_cancel_all(struct http *h, enum sched_cancel_cause cause)
{
    watch_cancel_all(h->watch, cause, false);
}

uint32_t http_n_connections(const struct http *h)
{
    return watch_n_connections(h->watch);
}

uint32_t http_n_streams(const struct http *h)
{
    return atomic_load(&h->n_streams);
}
