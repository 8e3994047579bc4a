/* SPDX-License-Identifier: Apache-2.0
 *
 * notify.h - what systemd hears of a server's life, and the sockets that it may hand over.
 *
 * Everything does nothing where no systemd is.
 */
#ifndef LACUNA_SERVER_NOTIFY_H
#define LACUNA_SERVER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

struct notifier;
struct srv;
struct srv_socket;
struct srv_status;

enum notify_phase { NOTIFY_LOADING, NOTIFY_SERVING, NOTIFY_DRAINING };

/* Starts telling, with NOTIFY_LOADING.  NULL if there is no memory or thread: then only the states
 * are told.  srv must outlive it. */
struct notifier *notify_open(const struct srv *srv);
void notify_close(struct notifier *n); /* NULL is fine */

void notify_ready(struct notifier *n); /* NULL is fine, here and below */
void notify_stopping(struct notifier *n);
/* Around reading the configuration again. */
void notify_reloading(void);
void notify_reloaded(bool is_good);

/* ---- pure, for the thread and for tests ---- */

struct notify_clock {
    uint64_t watchdog_ns; /* 0: systemd does not watch */
    uint64_t extended_ns, pinged_ns;
    uint64_t moved_ns, load_done_bytes; /* when loading was last seen to move, and where it was */
};

enum notify_message { NOTIFY_EXTEND = 1, NOTIFY_WATCHDOG = 2 };
/* Which messages are to be sent now, or-ed; notes that they were. */
unsigned notify_due(struct notify_clock *c, enum notify_phase phase, const struct srv_status *s,
                    uint64_t now_ns);
uint64_t notify_sleep_ns(const struct notify_clock *c);

/* ---- sockets ---- */

enum { NOTIFY_MAX_SOCKETS = 16 };
/* The listening sockets that came with the process (LISTEN_FDS), at most cap; once.  One that is
 * named "metrics" is for /metrics alone.  Returns how many, or -1 if there are more or
 * they cannot be had. */
int notify_take_sockets(struct srv_socket *out, int cap);

#endif
