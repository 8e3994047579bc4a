/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_inspect.c - `lacuna inspect`: what a model file holds, without loading it.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void write_stdout(void *ctx, const char *text, size_t len)
{
    (void)ctx;
    fwrite(text, 1, len, stdout);
}

static int inspect(const struct options *o)
{
    struct engine_err err = { 0 };
    int exit_code;
    const char *path = cmd_model_path(o, true, &exit_code);
    if (!path)
        return exit_code;
    if (engine_inspect(path, write_stdout, NULL, &err))
        return cmd_fail_err(&err);
    if (fflush(stdout) || ferror(stdout))
        return cmd_fail(EX_IOERR, "cannot write the answer: %s", strerror(errno));
    return 0;
}

const struct cmd cmd_inspect = {
    .usage = {
        .command = OPTIONS_INSPECT,
        .name = "inspect",
        .summary = "show what a model file holds",
        .args = "[MODEL.gguf]",
        .max_args = 1,
        .about = "Shows what a GGUF file holds: architecture, hyper-parameters, tensors by "
                 "type and size, tokenizer, and whether this build can run it.  Only the "
                 "headers are read.",
        .example = "  lacuna inspect model.gguf\n",
    },
    .run = inspect,
};
