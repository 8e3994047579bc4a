/* SPDX-License-Identifier: Apache-2.0
 *
 * signals.c - one thread that waits for signals, so that no other is ever interrupted and what a
 * signal does need not be async-signal-safe.  It lives until the process ends.
 *
 * The second signal ends the process from here: a user who asks twice must not depend on the code
 * that did not stop the first time.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

/* Set once, by the signal thread; plain, because engine_open takes the address of a plain int. */
static volatile int stopped;
static struct {
    sigset_t set;
    sem_t stop;
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
        if (sig == SIGHUP && !signals.on_terminal)
            continue;
        if (stopped)
            cmd_end_now(EXIT_INTERRUPTED);
        __atomic_store_n(&stopped, 1, __ATOMIC_RELEASE);
        if (signals.on_stop)
            signals.on_stop(signals.ctx);
        sem_post(&signals.stop);
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
    if (sem_init(&signals.stop, 0, 0) || pthread_sigmask(SIG_BLOCK, &signals.set, NULL) ||
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

void cmd_signals_wait(void)
{
    while (sem_wait(&signals.stop) != 0 && errno == EINTR)
        ;
}
