/* SPDX-License-Identifier: Apache-2.0
 *
 * err.c - filling in struct engine_err.
 *
 * The first error wins: what follows a failure (a close that also fails, a caller that adds its own
 * view) must not hide its cause.  Any thread; the caller owns the struct.
 */
#include "engine/engine.h"

#include <stdarg.h>
#include <stdio.h>

int engine_fail(struct engine_err *err, enum engine_err_code code, const char *fmt, ...)
{
    if (!err || err->code != ENGINE_ERR_NONE)
        return -1;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    return -1;
}
