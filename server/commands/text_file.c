/* SPDX-License-Identifier: Apache-2.0
 *
 * text_file.c - a file's text, and its tokens, for the commands that run a text through the model.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_all(FILE *f, char **text, size_t *len)
{
    size_t cap = 0, n = 0, got;
    *text = NULL;
    do {
        if (n == cap) {
            char *grown = realloc(*text, cap = cap ? 2 * cap : 1 << 16);
            if (!grown)
                return -ENOMEM;
            *text = grown;
        }
        errno = 0;
        got = fread(*text + n, 1, cap - n, f);
        n += got;
    } while (got > 0);
    *len = n;
    return ferror(f) ? -(errno ? errno : EIO) : 0;
}

int cmd_read_file(const char *path, char **text, size_t *len)
{
    bool is_stdin = strcmp(path, "-") == 0;
    *text = NULL;
    FILE *f = is_stdin ? stdin : fopen(path, "re");
    if (!f)
        return cmd_fail(EX_NOINPUT, "cannot open %s: %s", path, strerror(errno));
    int rc = read_all(f, text, len);
    if (!is_stdin)
        fclose(f);
    return rc ? cmd_fail(rc == -ENOMEM ? EX_OSERR : EX_IOERR, "cannot read %s: %s", path,
                         strerror(-rc))
              : 0;
}

int cmd_tokenize_file(const struct engine *e, const char *path, struct engine_tokens *out)
{
    struct engine_err err = { 0 };
    char *text;
    size_t len;
    int exit_code = cmd_read_file(path, &text, &len);
    if (!exit_code && engine_tokenize(e, text, len, ENGINE_TOKENIZE_ADD_SPECIAL, out, &err))
        exit_code = cmd_fail_err(&err);
    else if (!exit_code && out->n == 0)
        exit_code = cmd_fail(EX_DATAERR, "%s: no tokens", path);
    free(text);
    return exit_code;
}
