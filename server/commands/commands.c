/* SPDX-License-Identifier: Apache-2.0
 *
 * commands.c - the list of commands, and the few lines that all of them need.
 */
#include "server/commands/commands.h"

#include "server/values.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct cmd *const commands[] = {
    &cmd_serve, &cmd_run,  &cmd_inspect,   &cmd_tokenize,
    &cmd_bench, &cmd_eval, &cmd_calibrate, &cmd_pack,
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

const struct cmd *cmd_at(size_t i)
{
    return i < N_COMMANDS ? commands[i] : NULL;
}

const struct cmd *cmd_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->usage.name, name) == 0)
            return commands[i];
    }
    return NULL;
}

const char *cmd_nearest(const char *name)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->usage.name;
    return value_nearest(name, names, N_COMMANDS);
}

void cmd_print_version(void)
{
    printf("lacuna %s", LACUNA_VERSION);
    if (LACUNA_COMMIT[0])
        printf(" (%s)", LACUNA_COMMIT);
    printf("\n");
}

int cmd_fail(int exit_code, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fputs("lacuna: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return exit_code;
}

int cmd_fail_err(const struct engine_err *err)
{
    return cmd_fail(exit_code_of(err->code), "%s", err->text);
}

void cmd_bytes_text(uint64_t bytes, char out[CMD_BYTES_MAX])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(out, CMD_BYTES_MAX, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

double cmd_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
