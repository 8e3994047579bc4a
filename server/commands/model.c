/* SPDX-License-Identifier: Apache-2.0
 *
 * model.c - from flags to an open engine, for every command; and what to do if the file under the
 * mapping goes away.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cmd_fail(EX_NOINPUT, "cannot open model %s: %s", path, strerror(errno));
    int rc = fstat(fd, &st);
    close(fd);
    if (rc == 0 && S_ISDIR(st.st_mode))
        return cmd_fail(EX_NOINPUT, "cannot open model %s: it is a directory", path);
    return 0;
}

const char *cmd_model_path(const struct options *o, bool from_argument, int *exit_code)
{
    const char *path = o->model;
    if (from_argument && o->n_args > 0)
        path = o->args[0];
    if (!path) {
        *exit_code = cmd_fail(EX_USAGE, "no model: give one with --model FILE.gguf");
        return NULL;
    }
    *exit_code = check_file(path);
    return *exit_code ? NULL : path;
}

char *cmd_beside_model(const char *model, const char *suffix)
{
    char *path;
    return asprintf(&path, "%s%s", model, suffix) < 0 ? NULL : path;
}

char *cmd_sidecar_path(const struct options *o, const char *model)
{
    if (!o->sidecar || strcmp(o->sidecar, "off") == 0)
        return NULL;
    if (strcmp(o->sidecar, "auto") != 0)
        return strdup(o->sidecar);
    char *path = cmd_beside_model(model, ENGINE_SIDECAR_SUFFIX);
    if (path && access(path, F_OK) == 0)
        return path;
    free(path);
    return NULL;
}

void cmd_engine_options(const struct options *o, const char *path, struct engine_options *out)
{
    static const struct options_size choose = { 0 };
    /* Commands that load no weights have no such option. */
    const struct options_size *experts = o->expert_cache.n ? o->expert_cache.items : &choose;
    *out = (struct engine_options){
        .model_path = path,
        .max_isa = o->max_isa,
        .n_threads = o->threads,
        .pin_threads = o->pin_threads,
        .n_ctx = o->ctx,
        .kv_bytes = o->kv_bytes,
        .expert_bytes = experts->bytes,
        .expert_share = experts->share,
        .no_foresight = o->foresight != 0,
        .kv = (enum engine_kv)o->kv_type,
        .max_rows = o->max_batch_rows,
        .io = (enum engine_io)o->io,
        .read_file = o->no_mmap,
        .zeros = (enum engine_zeros)o->skip_zeros,
        .choose_pages = o->choose_pages,
        .audit_steps = o->audit_steps,
        .gating = (enum engine_gating)o->expert_gating,
        .experts_used = o->experts_used,
        .experts_kept = o->experts_kept,
    };
}

int cmd_find_point(struct engine *e, const char *quality, int *exit_code)
{
    struct engine_err err = { 0 };
    int point = engine_find_point(e, quality, &err);
    if (point < 0)
        *exit_code = cmd_fail(EX_USAGE, "--quality: %s", err.text);
    return point;
}

int cmd_engine_open(const struct options *o, const struct engine_options *opt, struct engine **out)
{
    char *sidecar = cmd_sidecar_path(o, opt->model_path);
    struct engine_err err = { 0 };
    struct cmd_progress progress = { .line = isatty(STDERR_FILENO) };
    struct engine_options with_progress = *opt;
    with_progress.progress = cmd_progress_show;
    with_progress.progress_ctx = &progress;
    cmd_guard_mapping();
    with_progress.sidecar_path = sidecar;
    int rc = engine_open(out, &with_progress, &err);
    cmd_progress_end(&progress);
    free(sidecar);
    if (rc)
        return cmd_fail_err(&err);
    const struct engine_info *info = engine_info(*out);
    for (uint32_t i = 0; i < info->n_warnings; i++)
        fprintf(stderr, "warning: %s\n", info->warnings[i]);
    return 0;
}

/* Only what POSIX allows in a handler: the faulting thread cannot go on, nor can the process. */
static void on_bus_error(int sig)
{
    static const char text[] =
        "lacuna: bus error: the model file was truncated, or its storage failed, while it was "
        "mapped; --no-mmap reads it into memory instead\n";
    (void)sig;
    ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)n;
    _exit(EX_IOERR);
}

void cmd_guard_mapping(void)
{
    struct sigaction sa = { .sa_handler = on_bus_error };
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}
