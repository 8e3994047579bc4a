/* SPDX-License-Identifier: Apache-2.0
 *
 * commands.h - the commands of the program, and what several of them share.
 *
 * A command is one file cmd_NAME.c: it parses, calls and prints; what it does lives in the folder
 * whose job it is.  Its function returns the process's exit code (server/exits.h).  Results go to
 * stdout, everything else to stderr.
 */
#ifndef LACUNA_SERVER_COMMANDS_H
#define LACUNA_SERVER_COMMANDS_H

#include "engine/engine.h"
#include "server/exits.h"
#include "server/options.h"

struct cmd {
    struct options_usage usage;
    int (*run)(const struct options *o);
};

extern const struct cmd cmd_serve, cmd_run, cmd_inspect, cmd_tokenize, cmd_bench, cmd_eval,
    cmd_calibrate, cmd_pack;

/* All commands, in the order of the help; NULL past the end. */
const struct cmd *cmd_at(size_t i);
const struct cmd *cmd_find(const char *name); /* or NULL */
const char *cmd_nearest(const char *name);    /* for "did you mean"; or NULL */

/* `lacuna --version`: version and commit. */
void cmd_print_version(void);
/* `lacuna --healthcheck [URL]`: 0 if a GET there answers 200, else EXIT_UNHEALTHY.  url NULL: the
 * default address of serve, by HTTP or HTTPS, whichever it speaks. */
int cmd_healthcheck(const char *url);

/* ---- errors ---- */

/* One line on stderr, "lacuna: ..."; returns exit_code. */
int cmd_fail(int exit_code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cmd_fail_err(const struct engine_err *err); /* exit code as exit_code_of says */

/* ---- the model ---- */

/* The model's path, from the argument or --model; checked to be a readable file.  NULL: *exit_code
 * is set and the reason printed. */
const char *cmd_model_path(const struct options *o, bool from_argument, int *exit_code);
/* What the flags say about the engine; the rest stays zeroed. */
void cmd_engine_options(const struct options *o, const char *path, struct engine_options *out);
/* The model's path with something behind it, to be freed; NULL: no memory. */
char *cmd_beside_model(const char *model, const char *suffix);
/* What --sidecar names, to be freed: NULL: none; with "auto", the file beside the model if there is one. */
char *cmd_sidecar_path(const struct options *o, const char *model);
/* A text, - being standard input, to be freed whatever comes back: 0, or the exit code. */
int cmd_read_file(const char *path, char **text, size_t *len);
/* The tokens of a text, - being standard input, with the model's own start and end.  0, or the exit code. */
int cmd_tokenize_file(const struct engine *e, const char *path, struct engine_tokens *out);
/* The operating point of --quality; -1: the reason is printed, *exit_code set. */
int cmd_find_point(struct engine *e, const char *quality, int *exit_code);
/* For the commands without a server: opens, what --sidecar says included, with progress on a terminal, warnings on stderr.  Ends
 * with the exit code on failure, 0 on success. */
int cmd_engine_open(const struct options *o, const struct engine_options *opt, struct engine **out);
/* A SIGBUS from now on says that the model's file was truncated while mapped, and exits 74. */
void cmd_guard_mapping(void);

/* "1.5 GiB" */
enum { CMD_BYTES_MAX = 32 };
void cmd_bytes_text(uint64_t bytes, char out[CMD_BYTES_MAX]);
double cmd_now(void); /* seconds, CLOCK_MONOTONIC */

/* ---- progress of loading ---- */

struct srv;
struct cmd_progress {
    bool line;         /* rewrite one line on stderr */
    bool log;          /* a log line at each tenth */
    struct srv *srv;   /* told too, if not NULL */
    const char *phase; /* the last one's name */
    uint32_t tenths;   /* of it, logged so far */
    bool drawn;
};
engine_progress_fn cmd_progress_show;          /* ctx: struct cmd_progress */
void cmd_progress_end(struct cmd_progress *p); /* takes the line away */

/* ---- signals ---- */

/* From now on SIGINT, SIGTERM and SIGHUP reach only one thread of ours: the first asks to stop: it
 * sets the stop flag and calls on_stop(ctx) there; the second ends the process with 130 at once.
 * SIGHUP is the same on a terminal (it was closed), else it asks to reload.  Call before other
 * threads start.  0 or -1. */
int cmd_signals_start(void (*on_stop)(void *ctx), void *ctx);
bool cmd_signals_stopped(void);
const volatile int *cmd_signals_flag(void); /* the same, for engine_options.cancel */

enum cmd_wish { CMD_WISH_STOP, CMD_WISH_RELOAD };
/* Waits for the next wish, or takes one that came before; stopping comes first, several wishes to
 * reload are one. */
enum cmd_wish cmd_signals_wait(void);
/* Ends the process from any thread, where something that is stuck makes an orderly end impossible. */
void cmd_end_now(int exit_code);

#endif
