/* SPDX-License-Identifier: Apache-2.0
 *
 * exits.h - what the process's exit codes mean: the one table, after sysexits.h, that help texts
 * and commands share.
 */
#ifndef LACUNA_SERVER_EXITS_H
#define LACUNA_SERVER_EXITS_H

#include "engine/engine.h"

#include <stddef.h>
#include <sysexits.h>

enum {
    EXIT_UNHEALTHY = 1,     /* --healthcheck: not ready */
    EXIT_INTERRUPTED = 130, /* 128 + SIGINT, as shells say it */
};

/* Of an error that engine, scheduler or server reported. */
int exit_code_of(enum engine_err_code code);

/* Row i of the table, 0 past its end: *meaning is a short phrase for help texts. */
bool exit_describe(size_t i, int *code, const char **meaning);

#endif
