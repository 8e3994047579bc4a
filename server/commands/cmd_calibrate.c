/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_calibrate.c - `lacuna calibrate`: what of a model's computation counts for little, found out on a text and
 * written beside the model.
 */
#include "server/commands/calibrate_report.h"
#include "server/commands/commands.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Losses as KL(exact || point) in nats per token: what the names promise. */
static const struct engine_goal goals[] = {
    { "safe", 0.005 },
    { "balanced", 0.02 },
    { "fast", 0.06 },
};
enum { N_GOALS = sizeof(goals) / sizeof(goals[0]), LOGIT_ROWS = 512 };

struct progress {
    bool line;
    const char *what;
    double started, shown;
};

/* A line that is rewritten; elsewhere than on a terminal one line for each phase. */
static void show(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    double now = cmd_now();
    if (what != p->what) {
        if (!p->line)
            fprintf(stderr, "%s\n", what);
        p->what = what;
        p->started = now;
    }
    if (!p->line || now - p->shown < 0.2 || done == 0)
        return;
    p->shown = now;
    fprintf(stderr, "\r\033[K%s: %.0f %%, %.0f s left", what, (double)done / (double)total * 100,
            (now - p->started) * (double)(total - done) / (double)done);
}

static void print_points(const struct engine_info *info, double seconds)
{
    printf("%-10s %10s %10s %11s %12s %8s %8s %9s\n", "point", "KL", "99 %", "same token",
           "perplexity", "up", "down", "weights");
    for (uint32_t i = 1; i < info->n_points; i++) {
        const struct engine_point *p = &info->points[i];
        printf("%-10s %10.4f %10.4f %9.2f %% %+10.2f %% %6.1f %% %6.1f %% %7.1f %%\n", p->name,
               p->kl, p->kl_p99, p->same_top * 100, (p->perplexity - 1) * 100, p->up * 100,
               p->down * 100, p->weights * 100);
    }
    printf("calibrated in %.0f s\n", seconds);
}

static int calibrate_with(const struct options *o, struct engine *e, const char *out)
{
    struct engine_tokens tokens = { 0 };
    struct engine_err err = { 0 };
    struct progress progress = { .line = isatty(STDERR_FILENO) };
    double start = cmd_now();
    int exit_code = cmd_tokenize_file(e, o->file, &tokens);
    if (exit_code)
        return exit_code;
    struct engine_calibrate_options opt = { .tokens = tokens.ids,
                                            .n_tokens = tokens.n,
                                            .goals = goals,
                                            .n_goals = N_GOALS,
                                            .progress = show,
                                            .progress_ctx = &progress,
                                            .cancel = cmd_signals_flag() };
    engine_pin_self(e);
    int rc = engine_calibrate(e, &opt, &err);
    if (progress.line)
        fputs("\r\033[K", stderr);
    if (rc == 0)
        rc = engine_write_sidecar(e, out, &err);
    if (rc == 0)
        print_points(engine_info(e), cmd_now() - start);
    if (rc == 0)
        printf("%s: used by serve and run where it lies beside the model; choose a point with "
               "--quality\n",
               out);
    exit_code = rc ? cmd_fail_err(&err) : 0;
    if (exit_code == 0 && o->report)
        exit_code = calibrate_report(e, &tokens, o->report);
    engine_tokens_fini(&tokens);
    return exit_code;
}

/* Can a file be made there?  Asked before the work, which takes minutes. */
static int check_can_write(const char *path)
{
    char *copy = strdup(path);
    int rc = copy ? access(dirname(copy), W_OK) : -1, error = errno;
    free(copy);
    return rc ? cmd_fail(EX_IOERR, "cannot write %s: %s", path, strerror(error)) : 0;
}

static int calibrate(const struct options *o)
{
    struct engine_options opt;
    struct engine *e;
    int exit_code;
    const char *path = cmd_model_path(o, false, &exit_code);
    if (!path)
        return exit_code;
    if (!o->file)
        return cmd_fail(EX_USAGE, "what to calibrate with: give a text like those that will be "
                                  "asked for with --file TEXT");
    if (cmd_signals_start(NULL, NULL) != 0)
        return cmd_fail(EX_OSERR, "no thread for signals");
    char *out = o->out ? strdup(o->out) : cmd_beside_model(path, ENGINE_SIDECAR_SUFFIX);
    if (!out)
        return cmd_fail(EX_OSERR, "no memory for a file name");
    exit_code = check_can_write(out);
    if (!exit_code && o->report)
        exit_code = check_can_write(o->report);
    if (exit_code) {
        free(out);
        return exit_code;
    }
    cmd_engine_options(o, path, &opt);
    opt.never_defers = true;
    opt.cancel = cmd_signals_flag();
    opt.n_sequences = o->report ? 16 : 8; /* points that are measured side by side, in windows */
    opt.n_ctx = 1024;                     /* a window */
    opt.max_logit_rows = LOGIT_ROWS;
    exit_code = cmd_engine_open(o, &opt, &e);
    if (!exit_code) {
        exit_code = calibrate_with(o, e, out);
        engine_close(e);
    }
    free(out);
    return exit_code;
}

const struct cmd cmd_calibrate = {
    .usage = {
        .command = OPTIONS_CALIBRATE,
        .name = "calibrate",
        .summary = "find out what of a model's computation can be left out, and what that costs",
        .args = "",
        .about = "Runs a text through the model and finds out which neurons of its feed-forwards count for little, "
                 "token by token; tries what each layer loses without some of them; and makes three operating points, "
                 "safe, balanced and fast, that leave out as much as their loss allows (divergence from the exact "
                 "model of 0.005, 0.02 and 0.06 nats per token), measured on a part of the text that was not used to "
                 "choose.  At least 100 KB of text like what the model will be asked should be given; of a chat model, "
                 "chats.  The result is written beside the model, with .lacuna behind its name.",
        .example = "  lacuna calibrate -m model.gguf -f text.txt --report figures.svg\n"
                   "  lacuna eval -m model.gguf -f other.txt --quality safe,balanced,fast,neurons=0.5\n"
                   "  lacuna serve -m model.gguf --quality balanced\n",
    },
    .run = calibrate,
};
