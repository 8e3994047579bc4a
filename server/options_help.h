/* SPDX-License-Identifier: Apache-2.0
 *
 * options_help.h - private to options*.c: where settings are kept while the sources are read, and
 * the command line's side of it (argp).
 */
#ifndef LACUNA_SERVER_OPTIONS_HELP_H
#define LACUNA_SERVER_OPTIONS_HELP_H

#include "server/options.h"

/* A text and where it came from: "default", "lacuna.conf:3", "LACUNA_CTX" or "--ctx". */
struct options_setting {
    const char *text; /* NULL: not set */
    const char *where;
};

struct options_block {
    struct options_block *next;
    _Alignas(16) char data[];
};

struct options_owned {
    struct options_block *blocks;
    /* What options_parse was called with; borrowed. */
    const struct options_usage *usage;
    int argc;
    char **argv;
    struct options_setting *settings; /* per row: the strongest source so far */
    struct options_setting *flags;    /* per row: of the command line */
    struct options_setting memory[];
};

/* Fills *outcome; always -1. */
int options_refuse(struct options_outcome *outcome, int exit_code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Reads argv by argp: flags by options_take_flag, the rest into o->args; prints --help. */
int options_read_flags(struct options *o, const struct options_usage *usage, int argc, char **argv,
                       struct options_outcome *outcome);
/* Row i was given on the command line. */
int options_take_flag(struct options *o, size_t i, const char *text,
                      struct options_outcome *outcome);

/* The flag of these commands that name might be a typing mistake of, or NULL. */
const char *options_nearest(const char *name, uint32_t commands);

#endif
