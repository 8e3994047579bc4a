/* SPDX-License-Identifier: Apache-2.0
 *
 * exits.c - the table of exit codes.  Supervisors decide by them: 64 and 78 will fail again however
 * often one restarts, 69, 71 and 74 may pass, 70 is ours.
 */
#include "server/exits.h"

static const struct {
    int code;
    const char *meaning;
} exits[] = {
    { EX_OK, "done; after SIGTERM: drained and stopped" },
    { EX_USAGE, "a bad option or argument on the command line" },
    { EX_DATAERR, "the model or the input is damaged, unsupported or too long" },
    { EX_NOINPUT, "a file that was named cannot be opened" },
    { EX_UNAVAILABLE, "cannot bind the address, or no room in the cache" },
    { EX_SOFTWARE, "a fault of lacuna itself, or its engine stood still (--watchdog)" },
    { EX_OSERR, "not enough memory" },
    { EX_IOERR, "reading or writing failed, or the model file was truncated in use" },
    { EX_CONFIG, "a bad value in the configuration file or the environment" },
    { EXIT_INTERRUPTED, "stopped by Ctrl-C, or by a second signal" },
};

int exit_code_of(enum engine_err_code code)
{
    switch (code) {
    case ENGINE_ERR_NONE:
        return EX_OK;
    case ENGINE_ERR_INPUT:
    case ENGINE_ERR_CONTEXT:
    case ENGINE_ERR_FILE:
    case ENGINE_ERR_UNSUPPORTED:
        return EX_DATAERR;
    case ENGINE_ERR_OPTION:
        return EX_USAGE;
    case ENGINE_ERR_MEMORY:
        return EX_OSERR;
    case ENGINE_ERR_IO:
        return EX_IOERR;
    case ENGINE_ERR_CAPACITY:
        return EX_UNAVAILABLE;
    case ENGINE_ERR_CANCELLED:
        return EXIT_INTERRUPTED;
    case ENGINE_ERR_INTERNAL:
        break;
    }
    return EX_SOFTWARE;
}

bool exit_describe(size_t i, int *code, const char **meaning)
{
    if (i >= sizeof(exits) / sizeof(exits[0]))
        return false;
    *code = exits[i].code;
    *meaning = exits[i].meaning;
    return true;
}
