/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_pack.c - `lacuna pack`: a model as it lies in memory, made once.
 */
#include "server/commands/commands.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void print_result(const char *path)
{
    struct stat st;
    char size[CMD_BYTES_MAX];
    if (stat(path, &st) != 0)
        return;
    cmd_bytes_text((uint64_t)st.st_size, size);
    printf("%s: %s; serve it with: lacuna serve -m %s\n", path, size, path);
}

static int pack(const struct options *o)
{
    struct engine_err err = { 0 };
    struct cmd_progress progress = { .line = isatty(STDERR_FILENO) };
    int exit_code;
    const char *path = cmd_model_path(o, true, &exit_code);
    if (!path)
        return exit_code;
    if (!o->out)
        return cmd_fail(EX_USAGE, "name the file to write: --out FILE");
    if (cmd_signals_start(NULL, NULL) != 0)
        return cmd_fail(EX_OSERR, "no thread for signals");
    struct engine_pack_options opt = { .in = path,
                                       .out = o->out,
                                       .n_threads = o->threads,
                                       .progress = cmd_progress_show,
                                       .progress_ctx = &progress,
                                       .cancel = cmd_signals_flag() };
    cmd_guard_mapping();
    int rc = engine_pack(&opt, &err);
    cmd_progress_end(&progress);
    if (rc != 0)
        return cmd_fail_err(&err);
    print_result(o->out);
    return 0;
}

const struct cmd cmd_pack = {
    .usage = {
        .command = OPTIONS_PACK,
        .name = "pack",
        .summary = "write a model as it lies in memory, for faster starts",
        .args = "[MODEL.gguf]",
        .max_args = 1,
        .about = "Loading lays quantised weights out anew, for the registers of the processor.  This "
                 "command does it once and writes the result: a file of the same size that is only "
                 "mapped when it is served, shared by all processes that serve it, and gives the "
                 "same answers.  Experts that are on demand (--expert-cache) are read from it straight "
                 "into their places.  Only lacuna reads it: keep the original.",
        .example = "  lacuna pack -m model.gguf -o model.packed.gguf\n"
                   "  lacuna serve -m model.packed.gguf\n",
    },
    .run = pack,
};
