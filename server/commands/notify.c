/* SPDX-License-Identifier: Apache-2.0
 *
 * notify.c - tells systemd how far the daemon is, through libsystemd, which itself looks for the
 * socket and does nothing without one.
 *
 * One thread says again and again what must not fall silent: "give me more time" while the model
 * loads and while requests finish, "I am alive" in between.  Both are said only while there is
 * something to show for it, since systemd's patience is the last help for a process that hangs: a
 * load without progress and an engine that stands still run into its timeouts.
 */
#include "server/commands/notify.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "server/server.h"

enum {
    EXTEND_EVERY_S = 5,
    EXTEND_BY_S = 30,    /* a machine under load may be late by some times EXTEND_EVERY_S */
    PINGS_PER_TIME = 3,  /* of the watchdog's: one may be late, and one lost */
    LOAD_SILENCE_S = 60, /* parts of loading report no progress */
};
static const uint64_t second_ns = 1000000000;

struct notifier {
    const struct srv *srv;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_thread;
    /* Under the lock. */
    enum notify_phase phase;
    bool is_closing;
    /* The thread's. */
    struct notify_clock clock;
};

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * second_ns + (uint64_t)now.tv_nsec;
}

/* ---- what is due: pure ---- */

static bool every(uint64_t *last_ns, uint64_t now_ns, uint64_t interval_ns)
{
    if (interval_ns == 0 || (*last_ns != 0 && now_ns - *last_ns < interval_ns))
        return false;
    *last_ns = now_ns;
    return true;
}

static bool load_moves(struct notify_clock *c, const struct srv_status *s, uint64_t now_ns)
{
    if (c->moved_ns == 0 || s->load_done_bytes != c->load_done_bytes) {
        c->load_done_bytes = s->load_done_bytes;
        c->moved_ns = now_ns;
    }
    return now_ns - c->moved_ns < LOAD_SILENCE_S * second_ns;
}

unsigned notify_due(struct notify_clock *c, enum notify_phase phase, const struct srv_status *s,
                    uint64_t now_ns)
{
    unsigned due = 0;
    bool is_moving = s->still_ns < c->watchdog_ns / 2;
    bool wants_time = phase == NOTIFY_DRAINING ||
                      (phase == NOTIFY_LOADING && load_moves(c, s, now_ns));
    if (wants_time && every(&c->extended_ns, now_ns, EXTEND_EVERY_S * second_ns))
        due |= NOTIFY_EXTEND;
    if (is_moving && every(&c->pinged_ns, now_ns, c->watchdog_ns / PINGS_PER_TIME))
        due |= NOTIFY_WATCHDOG;
    return due;
}

uint64_t notify_sleep_ns(const struct notify_clock *c)
{
    uint64_t ping_ns = c->watchdog_ns / PINGS_PER_TIME / 4;
    return ping_ns > 0 && ping_ns < second_ns ? ping_ns : second_ns;
}

/* ---- saying it ---- */

static void say_extend(const struct srv_status *s, enum notify_phase phase)
{
    char status[96];
    if (phase == NOTIFY_DRAINING)
        snprintf(status, sizeof(status), "draining, %u requests left", s->n_completions);
    else
        snprintf(status, sizeof(status), "loading the model, %u %%",
                 s->load_total_bytes
                     ? (unsigned)((double)s->load_done_bytes / (double)s->load_total_bytes * 100)
                     : 0);
    sd_notifyf(0, "STATUS=%s\nEXTEND_TIMEOUT_USEC=%llu", status, EXTEND_BY_S * 1000000ull);
}

static void say_due(struct notifier *n, enum notify_phase phase)
{
    struct srv_status s;
    srv_status(n->srv, &s);
    unsigned due = notify_due(&n->clock, phase, &s, monotonic_ns());
    if (due & NOTIFY_EXTEND)
        say_extend(&s, phase);
    if (due & NOTIFY_WATCHDOG)
        sd_notify(0, "WATCHDOG=1");
}

static void sleep_until_changed(struct notifier *n)
{
    uint64_t end_ns = monotonic_ns() + notify_sleep_ns(&n->clock);
    struct timespec end = { .tv_sec = (time_t)(end_ns / second_ns),
                            .tv_nsec = (long)(end_ns % second_ns) };
    pthread_cond_timedwait(&n->changed, &n->lock, &end);
}

static void *notify_main(void *arg)
{
    struct notifier *n = arg;
    pthread_setname_np(pthread_self(), "lacuna-notify");
    pthread_mutex_lock(&n->lock);
    while (!n->is_closing) {
        enum notify_phase phase = n->phase;
        pthread_mutex_unlock(&n->lock);
        say_due(n, phase);
        pthread_mutex_lock(&n->lock);
        if (!n->is_closing && n->phase == phase)
            sleep_until_changed(n);
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

static void enter(struct notifier *n, enum notify_phase phase)
{
    pthread_mutex_lock(&n->lock);
    n->phase = phase;
    pthread_cond_signal(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

void notify_ready(struct notifier *n)
{
    sd_notify(0, "READY=1\nSTATUS=serving");
    if (n)
        enter(n, NOTIFY_SERVING);
}

void notify_reloading(void)
{
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=reading the configuration again",
               monotonic_ns() / 1000);
}

void notify_reloaded(bool is_good)
{
    sd_notifyf(0, "READY=1\nSTATUS=serving%s",
               is_good ? "" : "; the last reload failed, see the log");
}

void notify_stopping(struct notifier *n)
{
    sd_notify(0, "STOPPING=1\nSTATUS=draining");
    if (n)
        enter(n, NOTIFY_DRAINING);
}

/* ---- open and close ---- */

static void free_notifier(struct notifier *n)
{
    pthread_cond_destroy(&n->changed);
    pthread_mutex_destroy(&n->lock);
    free(n);
}

struct notifier *notify_open(const struct srv *srv)
{
    struct notifier *n = calloc(1, sizeof(*n));
    pthread_condattr_t monotonic;
    if (!n)
        return NULL;
    n->srv = srv;
    if (sd_watchdog_enabled(0, &n->clock.watchdog_ns) > 0)
        n->clock.watchdog_ns *= 1000;
    else
        n->clock.watchdog_ns = 0;
    pthread_mutex_init(&n->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&n->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sd_notify(0, "STATUS=loading the model");
    if (pthread_create(&n->thread, NULL, notify_main, n) == 0)
        return n;
    free_notifier(n);
    return NULL;
}

void notify_close(struct notifier *n)
{
    if (!n)
        return;
    pthread_mutex_lock(&n->lock);
    n->is_closing = true;
    pthread_cond_signal(&n->changed);
    pthread_mutex_unlock(&n->lock);
    pthread_join(n->thread, NULL);
    free_notifier(n);
}
