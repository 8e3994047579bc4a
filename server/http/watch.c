/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.c - one thread that looks at all connections: who left, who is too slow, who needs a ping,
 * and, when they become many, who has to make room.
 *
 * libmicrohttpd does not notice that the client of a suspended connection left.  Every connection
 * is therefore also in an epoll set of our own, edge-triggered and only for "the peer closed its
 * side".  Events carry slot and generation instead of a pointer, since a connection may end while
 * its event is on the way.  TLS handshakes that wait for the client wait here, too (watch_suspend).
 *
 * A connection's entry is removed, under the lock, before libmicrohttpd closes its descriptor: what
 * is done to a descriptor under the lock never hits another connection's.
 */
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http/http.h"
#include "server/http/tls.h"

enum {
    WATCH_TICK_MS = 200,
    WATCH_N_EVENTS = 64,
};
/* From the end of one request (or the connection's start) to the last header of the next. */
static const uint64_t watch_idle_ns = 32ull * 1000000000;
/* For the rest of a request of a client that has already closed its side. */
static const uint64_t watch_closed_ns = 2ull * 1000000000;
/* Without a byte of a body: a half-sent one holds memory that others could use. */
static const uint64_t watch_stall_ns = 10ull * 1000000000;
static const uint64_t watch_stop_id = UINT64_MAX;

struct watch {
    struct http *http;
    pthread_t thread;
    int epoll_fd, stop_fd;
    atomic_bool is_stopping;
    _Atomic uint32_t n_conns;
    pthread_mutex_t lock;
    /* Under the lock. */
    struct http_conn **slots; /* NULL: free */
    struct http_conn **idle;  /* [slots_cap] scratch of make_room */
    uint32_t n_slots, slots_cap, generation;
};

/* ---- connections come and go ---- */

static bool find_slot(struct watch *w, uint32_t *slot)
{
    for (*slot = 0; *slot < w->n_slots; ++*slot)
        if (!w->slots[*slot])
            return true;
    if (w->n_slots == w->slots_cap) {
        uint32_t cap = w->slots_cap ? w->slots_cap * 2 : 64;
        struct http_conn **slots = realloc(w->slots, cap * sizeof(struct http_conn *));
        w->slots = slots ? slots : w->slots;
        struct http_conn **idle = realloc(w->idle, cap * sizeof(struct http_conn *));
        w->idle = idle ? idle : w->idle;
        if (!slots || !idle)
            return false;
        w->slots_cap = cap;
    }
    w->slots[w->n_slots++] = NULL;
    return true;
}

/* What is true already when this is called is an event, too. */
static bool want_events(const struct watch *w, const struct http_conn *c, int op, uint32_t events)
{
    struct epoll_event ev = {
        .events = events | EPOLLRDHUP | EPOLLET,
        .data.u64 = (uint64_t)c->generation << 32 | c->slot,
    };
    return epoll_ctl(w->epoll_fd, op, c->fd, &ev) == 0;
}

static bool add_locked(struct watch *w, struct http_conn *c)
{
    if (!find_slot(w, &c->slot))
        return false;
    c->generation = w->generation++;
    if (!want_events(w, c, EPOLL_CTL_ADD, 0))
        return false;
    w->slots[c->slot] = c;
    atomic_fetch_add(&w->n_conns, 1);
    return true;
}

struct http_conn *watch_add(struct watch *w, struct http_listener *l, struct MHD_Connection *mhd,
                            int fd)
{
    struct http_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->mhd = mhd;
    c->fd = fd;
    c->listener = l;
    c->idle_since_ns = srv_now_ns();
    pthread_mutex_lock(&w->lock);
    bool ok = add_locked(w, c);
    pthread_mutex_unlock(&w->lock);
    if (!ok) {
        free(c);
        c = NULL;
    }
    return c;
}

void watch_remove(struct watch *w, struct http_conn *c)
{
    pthread_mutex_lock(&w->lock);
    epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    w->slots[c->slot] = NULL;
    atomic_fetch_sub(&w->n_conns, 1);
    pthread_mutex_unlock(&w->lock);
    tls_pair_put(c->pair);
    free(c);
}

void watch_attach(struct watch *w, struct http_conn *c, struct http_exchange *x)
{
    pthread_mutex_lock(&w->lock);
    c->x = x;
    if (c->peer_closed_ns) {
        pthread_mutex_lock(&x->lock);
        http_give_up(x, SCHED_CANCEL_CLIENT);
        pthread_mutex_unlock(&x->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

void watch_detach(struct watch *w, struct http_conn *c)
{
    pthread_mutex_lock(&w->lock);
    c->x = NULL;
    c->idle_since_ns = srv_now_ns();
    pthread_mutex_unlock(&w->lock);
}

/* Not suspended if it cannot be waited for: libmicrohttpd then polls, which is slow and not wrong. */
void watch_suspend(struct http_conn *c)
{
    struct watch *w = c->listener->http->watch;
    pthread_mutex_lock(&w->lock);
    if (!c->is_suspended && !c->x && want_events(w, c, EPOLL_CTL_MOD, EPOLLIN)) {
        c->is_suspended = true;
        MHD_suspend_connection(c->mhd);
    }
    pthread_mutex_unlock(&w->lock);
}

uint32_t watch_n_connections(const struct watch *w)
{
    return atomic_load(&w->n_conns);
}

/* ---- what the thread does; under the lock ---- */

static void peer_closed(struct http_conn *c)
{
    c->peer_closed_ns = srv_now_ns();
    if (!c->x)
        return;
    pthread_mutex_lock(&c->x->lock);
    http_give_up(c->x, SCHED_CANCEL_CLIENT);
    pthread_mutex_unlock(&c->x->lock);
}

static void resume(struct watch *w, struct http_conn *c)
{
    c->is_suspended = false;
    want_events(w, c, EPOLL_CTL_MOD, 0);
    MHD_resume_connection(c->mhd);
}

static void handle_event(struct watch *w, const struct epoll_event *ev)
{
    uint32_t slot = (uint32_t)ev->data.u64;
    struct http_conn *c = slot < w->n_slots ? w->slots[slot] : NULL;
    if (!c || c->generation != ev->data.u64 >> 32)
        return;
    if (c->is_suspended)
        resume(w, c);
    if (ev->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        peer_closed(c);
}

/* A body that is too slow, or will never be whole: libmicrohttpd 0.9.75 may miss the end of a
 * connection that came together with data. */
static bool is_hopeless_body(struct http_exchange *x, uint64_t now_ns)
{
    uint64_t deadline = atomic_load(&x->body_deadline_ns);
    bool is_stalled = now_ns > atomic_load(&x->body_read_ns) + watch_stall_ns;
    return deadline != 0 && (now_ns > deadline || is_stalled || x->gone);
}

/* Nothing is being answered, and nothing more to be expected. */
static bool is_abandoned(const struct http_conn *c, uint64_t now_ns)
{
    bool is_silent = now_ns > c->idle_since_ns + watch_idle_ns;
    return is_silent || (c->peer_closed_ns && now_ns > c->peer_closed_ns + watch_closed_ns);
}

/* libmicrohttpd sees the end of the connection and closes it. */
static void hang_up_on(struct http_conn *c)
{
    shutdown(c->fd, SHUT_RDWR);
    c->is_hung_up = true;
}

static void look_at(struct http_conn *c, uint64_t now_ns)
{
    bool hang_up;
    if (c->x) {
        pthread_mutex_lock(&c->x->lock);
        hang_up = http_stream_tick(c->x, now_ns) || is_hopeless_body(c->x, now_ns);
        if (hang_up)
            http_give_up(c->x, SCHED_CANCEL_SLOW_READER);
        pthread_mutex_unlock(&c->x->lock);
    } else {
        hang_up = is_abandoned(c, now_ns);
    }
    if (hang_up)
        hang_up_on(c);
}

/* ---- too many; under the lock ---- */

static int by_idle_time(const void *a, const void *b)
{
    const struct http_conn *x = *(struct http_conn *const *)a, *y = *(struct http_conn *const *)b;
    return (x->idle_since_ns > y->idle_since_ns) - (x->idle_since_ns < y->idle_since_ns);
}

/* A listener that has reached its limit lets nobody in, and connections that ask for nothing cost
 * their owner little.  So above three quarters of it, those that have asked for nothing longest go. */
static void make_room(struct watch *w, const struct http_listener *l)
{
    uint32_t n_left = atomic_load(&l->n_connections), enough = l->max_connections / 4 * 3;
    uint32_t n_idle = 0;
    if (n_left <= enough)
        return;
    for (uint32_t i = 0; i < w->n_slots; i++) {
        struct http_conn *c = w->slots[i];
        if (!c || c->listener != l)
            continue;
        n_left -= c->is_hung_up;
        if (!c->x && !c->is_hung_up)
            w->idle[n_idle++] = c;
    }
    qsort(w->idle, n_idle, sizeof(struct http_conn *), by_idle_time);
    for (uint32_t i = 0; i < n_idle && n_left > enough; i++, n_left--)
        hang_up_on(w->idle[i]);
}

static void look_at_all(struct watch *w, uint64_t now_ns)
{
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < w->n_slots; i++)
        if (w->slots[i])
            look_at(w->slots[i], now_ns);
    for (uint32_t i = 0; i < w->http->n_listeners; i++)
        make_room(w, &w->http->listeners[i]);
    pthread_mutex_unlock(&w->lock);
}

static void handle_events(struct watch *w, const struct epoll_event *events, int n)
{
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < n; i++)
        if (events[i].data.u64 != watch_stop_id)
            handle_event(w, &events[i]);
    pthread_mutex_unlock(&w->lock);
}

static void *watch_main(void *arg)
{
    struct watch *w = arg;
    uint64_t last_look_ns = 0;
    pthread_setname_np(pthread_self(), "lacuna-watch");
    while (!atomic_load(&w->is_stopping)) {
        struct epoll_event events[WATCH_N_EVENTS];
        int n = epoll_wait(w->epoll_fd, events, WATCH_N_EVENTS, WATCH_TICK_MS);
        if (n > 0)
            handle_events(w, events, n);
        uint64_t now_ns = srv_now_ns();
        if (now_ns - last_look_ns < WATCH_TICK_MS * 1000000ull)
            continue;
        last_look_ns = now_ns;
        look_at_all(w, now_ns);
        srv_tick(w->http->srv, now_ns);
    }
    return NULL;
}

void watch_cancel_all(struct watch *w, enum sched_cancel_cause cause, bool hang_up)
{
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < w->n_slots; i++) {
        struct http_conn *c = w->slots[i];
        if (!c)
            continue;
        struct http_exchange *x = c->x;
        if (x) {
            pthread_mutex_lock(&x->lock);
            if (hang_up)
                http_give_up(x, cause);
            else if (x->app_ops && !x->gone)
                x->app_ops->cancel(x->app, cause);
            pthread_mutex_unlock(&x->lock);
        }
        if (hang_up)
            hang_up_on(c);
    }
    pthread_mutex_unlock(&w->lock);
}

/* ---- open and close ---- */

static int start_thread(struct watch *w)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.u64 = watch_stop_id };
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->epoll_fd < 0 || w->stop_fd < 0)
        return -1;
    if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->stop_fd, &ev) != 0)
        return -1;
    return pthread_create(&w->thread, NULL, watch_main, w) == 0 ? 0 : -1;
}

static void watch_free(struct watch *w)
{
    if (w->epoll_fd >= 0)
        close(w->epoll_fd);
    if (w->stop_fd >= 0)
        close(w->stop_fd);
    pthread_mutex_destroy(&w->lock);
    free(w->slots);
    free(w->idle);
    free(w);
}

int watch_open(struct watch **out, struct http *h, struct engine_err *err)
{
    *out = NULL;
    struct watch *w = calloc(1, sizeof(*w));
    if (!w)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the connection watch");
    w->http = h;
    w->epoll_fd = w->stop_fd = -1;
    pthread_mutex_init(&w->lock, NULL);
    if (start_thread(w) != 0) {
        watch_free(w);
        return engine_fail(err, ENGINE_ERR_INTERNAL, "cannot start the connection watch: %s",
                           strerror(errno));
    }
    *out = w;
    return 0;
}

void watch_close(struct watch *w)
{
    if (!w)
        return;
    uint64_t one = 1;
    atomic_store(&w->is_stopping, true);
    if (write(w->stop_fd, &one, sizeof(one)) < 0) {
        /* the tick ends the wait anyway */
    }
    pthread_join(w->thread, NULL);
    watch_free(w);
}
