/* SPDX-License-Identifier: Apache-2.0
 *
 * acceptor.c - one thread that takes connections from all listening sockets and deals them out to
 * the daemons.
 *
 * libmicrohttpd could accept by itself, but not stop: MHD_quiesce_daemon, and the daemon's thread,
 * both take the socket out of the same epoll set without a lock, and the second to do so aborts the
 * process (0.9.75, and newer ones).  Here one thread owns the sockets, and joining it is the end of
 * accepting.  The sockets themselves stay untouched: one that systemd handed over is still its own.
 */
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http/http.h"
#include "server/log.h"

enum {
    ACCEPT_BURST = 64,     /* from one socket before the others have their turn */
    ACCEPT_PAUSE_MS = 100, /* when there are no descriptors or no memory for another one */
};

struct acceptor {
    struct http *http;
    pthread_t thread;
    int wake_fd;
    atomic_bool is_stopping;
    /* The thread's. */
    struct pollfd *polls; /* [listeners + 1]: the last is wake_fd */
};

static void wake(struct acceptor *a)
{
    uint64_t one = 1;
    if (write(a->wake_fd, &one, sizeof(one)) < 0) {
        /* full: the thread is awake */
    }
}

/* ---- places ---- */

static bool has_room(const struct http_listener *l)
{
    return atomic_load(&l->n_connections) < l->max_connections;
}

/* Without a place to give, is_full asks acceptor_release for a wake-up; what was given back before it
 * was set is seen here. */
static bool may_accept(struct http_listener *l)
{
    if (has_room(l))
        return true;
    atomic_store(&l->is_full, true);
    return has_room(l);
}

void acceptor_release(struct http_listener *l)
{
    atomic_fetch_sub(&l->n_connections, 1);
    if (atomic_exchange(&l->is_full, false))
        wake(l->http->acceptor);
}

/* ---- the thread ---- */

/* libmicrohttpd closes what it does not take. */
static void deal_out(struct http_listener *l, int fd, const struct sockaddr *sa, socklen_t len)
{
    struct MHD_Daemon *daemon = l->daemons[l->next_daemon];
    l->next_daemon = (l->next_daemon + 1) % l->n_daemons;
    atomic_fetch_add(&l->n_connections, 1);
    if (MHD_add_connection(daemon, fd, sa, len) != MHD_YES)
        acceptor_release(l);
}

/* Nothing there, or over with the one connection that suffered it. */
static bool is_passing(int error)
{
    return error == EAGAIN || error == EINTR || error == ECONNABORTED || error == EPROTO;
}

static void note_outcome(struct http_listener *l, int error)
{
    bool is_short = error != 0 && !is_passing(error);
    if (is_short && !l->is_short)
        log_event(LOG_WARN_LEVEL, "accept_failed", LOG_STR("address", l->address),
                  LOG_STR("error", strerror(error)), LOG_END);
    l->is_short = is_short;
}

static void accept_from(struct http_listener *l)
{
    for (int i = 0; i < ACCEPT_BURST && has_room(l); i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof(sa);
        int fd = accept4(l->fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        note_outcome(l, fd < 0 ? errno : 0);
        if (fd < 0)
            return;
        deal_out(l, fd, (const struct sockaddr *)&sa, len);
    }
}

/* Waits until a socket has something that there is a place for, for a wake-up, or, while one is short
 * of something, until it is to be tried again. */
static void wait_for_some(struct acceptor *a)
{
    uint32_t n = a->http->n_listeners;
    int timeout_ms = -1;
    for (uint32_t i = 0; i < n; i++) {
        struct http_listener *l = &a->http->listeners[i];
        bool is_wanted = !l->is_short && may_accept(l);
        a->polls[i] = (struct pollfd){ .fd = is_wanted ? l->fd : -1, .events = POLLIN };
        if (l->is_short)
            timeout_ms = ACCEPT_PAUSE_MS;
    }
    a->polls[n] = (struct pollfd){ .fd = a->wake_fd, .events = POLLIN };
    poll(a->polls, n + 1, timeout_ms);
}

static void *acceptor_main(void *arg)
{
    struct acceptor *a = arg;
    pthread_setname_np(pthread_self(), "lacuna-accept");
    while (!atomic_load(&a->is_stopping)) {
        uint64_t n_wakes;
        wait_for_some(a);
        if (read(a->wake_fd, &n_wakes, sizeof(n_wakes)) < 0) {
            /* nobody woke us */
        }
        for (uint32_t i = 0; i < a->http->n_listeners; i++)
            if (a->http->listeners[i].is_short || a->polls[i].revents)
                accept_from(&a->http->listeners[i]);
    }
    return NULL;
}

/* ---- start and stop ---- */

void acceptor_free(struct acceptor *a)
{
    if (!a)
        return;
    if (a->wake_fd >= 0)
        close(a->wake_fd);
    free(a->polls);
    free(a);
}

int acceptor_start(struct http *h, struct engine_err *err)
{
    struct acceptor *a = calloc(1, sizeof(*a));
    if (!a)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for accepting connections");
    a->http = h;
    a->polls = calloc(h->n_listeners + 1, sizeof(*a->polls));
    a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->acceptor = a; /* before the first connection, whose end asks for it */
    if (a->polls && a->wake_fd >= 0 && pthread_create(&a->thread, NULL, acceptor_main, a) == 0)
        return 0;
    h->acceptor = NULL;
    acceptor_free(a);
    return engine_fail(err, ENGINE_ERR_INTERNAL,
                       "cannot start the thread that accepts connections");
}

void acceptor_stop(struct acceptor *a)
{
    if (!a)
        return;
    atomic_store(&a->is_stopping, true);
    wake(a);
    pthread_join(a->thread, NULL);
}
