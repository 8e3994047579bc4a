/* SPDX-License-Identifier: Apache-2.0
 *
 * signals.c - one thread that waits for signals, so that no other is ever interrupted and what a
 * signal does need not be async-signal-safe.  It lives until the process ends.
 *
 * The second signal ends the process from here: a user who asks twice must not depend on the code
 * that did not stop the first time.
 */
#include "server/commands/commands.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* Set once, by the signal thread; plain, because engine_open takes the address of a plain int. */
static volatile int stopped;
static struct {
    sigset_t set;
    sem_t wish;
    atomic_bool reload;
    void (*on_stop)(void *ctx);
    void *ctx;
    bool on_terminal;
} signals;

void cmd_end_now(int exit_code)
{
    _exit(exit_code);
}

static void *signal_main(void *arg)
{
    int sig;
    (void)arg;
    pthread_setname_np(pthread_self(), "lacuna-signals");
    for (;;) {
        if (sigwait(&signals.set, &sig) != 0)
            continue;
        if (sig == SIGHUP && !signals.on_terminal) {
            atomic_store(&signals.reload, true);
            sem_post(&signals.wish);
            continue;
        }
        if (stopped)
            cmd_end_now(EXIT_INTERRUPTED);
        __atomic_store_n(&stopped, 1, __ATOMIC_RELEASE);
        if (signals.on_stop)
            signals.on_stop(signals.ctx);
        sem_post(&signals.wish);
    }
    return NULL;
}

int cmd_signals_start(void (*on_stop)(void *ctx), void *ctx)
{
    pthread_t thread;
    signals.on_stop = on_stop;
    signals.ctx = ctx;
    signals.on_terminal = isatty(STDERR_FILENO);
    sigemptyset(&signals.set);
    sigaddset(&signals.set, SIGINT);
    sigaddset(&signals.set, SIGTERM);
    sigaddset(&signals.set, SIGHUP);
    if (sem_init(&signals.wish, 0, 0) || pthread_sigmask(SIG_BLOCK, &signals.set, NULL) ||
        pthread_create(&thread, NULL, signal_main, NULL))
        return -1;
    pthread_detach(thread);
    return 0;
}

const volatile int *cmd_signals_flag(void)
{
    return &stopped;
}

bool cmd_signals_stopped(void)
{
    return __atomic_load_n(&stopped, __ATOMIC_ACQUIRE) != 0;
}

enum cmd_wish cmd_signals_wait(void)
{
    for (;;) {
        if (sem_wait(&signals.wish) != 0)
            continue; /* EINTR */
        if (cmd_signals_stopped())
            return CMD_WISH_STOP;
        if (atomic_exchange(&signals.reload, false))
            return CMD_WISH_RELOAD;
    }
}
