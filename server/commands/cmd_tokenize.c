/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_tokenize.c - `lacuna tokenize`: texts on stdin with NUL between them, ids on stdout.
 *
 * Each text is answered as soon as it is complete, so that a program can talk to this one through
 * two pipes; memory is that of the longest text.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_ids(const struct engine_tokens *t)
{
    putchar('[');
    for (size_t i = 0; i < t->n; i++)
        printf(i ? ",%d" : "%d", t->ids[i]);
    puts("]");
}

static int tokenize_stream(const struct engine *e, unsigned flags)
{
    struct engine_tokens tokens = { 0 };
    struct engine_err err = { 0 };
    char *text = NULL;
    size_t cap = 0;
    ssize_t len;
    int exit_code = 0;
    /* A last text without its NUL counts; a NUL at the end starts no empty one. */
    while (!exit_code && (len = getdelim(&text, &cap, '\0', stdin)) > 0) {
        size_t n = (size_t)len - (text[len - 1] == '\0');
        tokens.n = 0;
        if (engine_tokenize(e, text, n, flags, &tokens, &err)) {
            exit_code = cmd_fail_err(&err);
            break;
        }
        print_ids(&tokens);
        if (fflush(stdout))
            exit_code = cmd_fail(EX_IOERR, "cannot write the answer: %s", strerror(errno));
    }
    if (!exit_code && !feof(stdin))
        exit_code = cmd_fail(errno == ENOMEM ? EX_OSERR : EX_IOERR,
                             "cannot read standard input: %s", strerror(errno));
    free(text);
    engine_tokens_fini(&tokens);
    return exit_code;
}

static int tokenize(const struct options *o)
{
    struct engine_options opt;
    struct engine *e;
    int exit_code;
    const char *path = cmd_model_path(o, false, &exit_code);
    if (!path)
        return exit_code;
    cmd_engine_options(o, path, &opt);
    opt.vocab_only = true;
    exit_code = cmd_engine_open(o, &opt, &e);
    if (exit_code)
        return exit_code;
    exit_code = tokenize_stream(
        e, o->special ? ENGINE_TOKENIZE_ADD_SPECIAL | ENGINE_TOKENIZE_PARSE_SPECIAL : 0);
    engine_close(e);
    return exit_code;
}

const struct cmd cmd_tokenize = {
    .usage = {
        .command = OPTIONS_TOKENIZE,
        .name = "tokenize",
        .summary = "turn texts into token ids",
        .args = "",
        .about = "Reads texts from standard input, separated by NUL bytes, and prints one "
                 "JSON array of token ids per text and line.  Only the vocabulary of the "
                 "model is loaded.",
        .example = "  printf 'Hello world\\0How are you?' | lacuna tokenize -m model.gguf\n",
    },
    .run = tokenize,
};
