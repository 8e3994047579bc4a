/* SPDX-License-Identifier: Apache-2.0
 *
 * options_help.c - the command line through argp: the table's rows become its options, its --help
 * is ours to fill.  argp never prints an error or exits here: what it cannot read comes back as
 * ARGP_KEY_ERROR, and the message is made from what getopt stumbled over.
 */
#include "server/options_help.h"
#include "server/exits.h"
#include "server/options_table.h"
#include "server/values.h"

#include <argp.h>
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ROWS = 128,
    DOC_MAX = 512, /* longer than any row's */
    KEY_HELP = 'h',
    KEY_ROW = 0x1000, /* + row: keys of flags without a short form */
};

struct reader {
    struct options *o;
    const struct options_usage *usage;
    struct options_outcome *outcome;
    bool stopped; /* the outcome is filled */
    struct argp argp;
    struct argp_option entries[MAX_ROWS + N_GROUPS + 2];
    char docs[MAX_ROWS][DOC_MAX];
    char choices[MAX_ROWS][64];
};

static bool taken(const struct options_row *row, uint32_t commands)
{
    return (row->commands & commands) != 0;
}

const char *options_nearest(const char *name, uint32_t commands)
{
    const char *names[MAX_ROWS];
    size_t n = 0;
    for (size_t i = 0; i < options_n_rows; i++) {
        if (taken(&options_rows[i], commands))
            names[n++] = options_rows[i].name;
    }
    return value_nearest(name, names, n);
}

/* ---- errors ---- */

static int stop(struct reader *r, int exit_code)
{
    r->stopped = true;
    r->outcome->exit_code = exit_code;
    return EINVAL;
}

/* The row a word "--max-que=3" names in full or by a beginning that no other has. */
static const struct options_row *row_of(const char *name, size_t len, uint32_t commands, bool exact)
{
    const struct options_row *found = NULL;
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        if (!taken(row, commands) || strncmp(row->name, name, len) != 0)
            continue;
        if (row->name[len] == '\0')
            return row;
        if (!exact)
            found = row;
    }
    return found;
}

static int bad_long_flag(struct reader *r, const char *flag)
{
    const char *name = flag + 2;
    size_t len = strcspn(name, "=");
    const struct options_row *row = row_of(name, len, r->usage->command, false);
    if (row && row->name[len] == '\0') {
        char expected[OPTIONS_EXPECTED_MAX];
        options_expected(row, expected);
        return options_refuse(r->outcome, EX_USAGE, "--%s needs a value: %s", row->name, expected);
    }
    if (row)
        return options_refuse(r->outcome, EX_USAGE, "%.80s could be --%s, or another option", flag,
                              row->name);
    if (row_of(name, len, UINT32_MAX, true))
        return options_refuse(r->outcome, EX_USAGE, "%.80s is not an option of 'lacuna %s'", flag,
                              r->usage->name);
    char word[64];
    snprintf(word, sizeof(word), "%.*s", (int)(len < 63 ? len : 63), name);
    const char *near = options_nearest(word, r->usage->command);
    return options_refuse(r->outcome, EX_USAGE, "unknown option %.80s%s%s%s", flag,
                          near ? "; did you mean --" : "", near ? near : "", near ? "?" : "");
}

static int bad_short_flag(struct reader *r, const char *flag)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        /* A known letter can only have failed for want of its value, as the last of its word. */
        if (taken(row, r->usage->command) && row->key && row->key == flag[strlen(flag) - 1] &&
            row->type != OPTIONS_BOOL)
            return options_refuse(r->outcome, EX_USAGE, "-%c (--%s) needs a value", row->key,
                                  row->name);
    }
    return options_refuse(r->outcome, EX_USAGE, "unknown option %.80s; see 'lacuna %s --help'",
                          flag, r->usage->name);
}

/* getopt has gone past the word it could not read, unless more letters of it are left. */
static int bad_flag(struct reader *r, const struct argp_state *state)
{
    const char *word = state->next > 0 ? state->argv[state->next - 1] : "";
    const char *next = state->next < state->argc ? state->argv[state->next] : NULL;
    if (word[0] != '-' && next && next[0] == '-')
        word = next;
    r->stopped = true;
    return strncmp(word, "--", 2) == 0 ? bad_long_flag(r, word) : bad_short_flag(r, word);
}

/* ---- argp's callback ---- */

static int take_argument(struct reader *r, const char *text)
{
    if (r->o->n_args < r->usage->max_args && r->o->n_args < OPTIONS_MAX_ARGS) {
        r->o->args[r->o->n_args++] = text;
        return 0;
    }
    options_refuse(r->outcome, EX_USAGE, "unexpected argument '%.80s'; see 'lacuna %s --help'",
                   text, r->usage->name);
    return stop(r, EX_USAGE);
}

static int take_key(struct reader *r, int key, const char *text)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        if (!taken(row, r->usage->command) || key != (row->key ? row->key : KEY_ROW + (int)i))
            continue;
        if (options_take_flag(r->o, i, text ? text : "true", r->outcome) == 0)
            return 0;
        return stop(r, r->outcome->exit_code);
    }
    return ARGP_ERR_UNKNOWN;
}

static void print_help(const struct reader *r);

static error_t on_key(int key, char *text, struct argp_state *state)
{
    struct reader *r = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        return take_argument(r, text);
    case ARGP_KEY_ERROR:
        if (!r->stopped)
            bad_flag(r, state);
        return 0;
    case KEY_HELP:
        print_help(r);
        return stop(r, EX_OK);
    default:
        return take_key(r, key, text);
    }
}

/* ---- argp's options ---- */

static bool has_range(const struct options_row *row)
{
    return row->type != OPTIONS_BOOL && row->type != OPTIONS_CHOICE &&
           row->type != OPTIONS_STRING && row->type != OPTIONS_LIST;
}

static int append(char doc[DOC_MAX], int n, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int append(char doc[DOC_MAX], int n, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(doc + n, (size_t)(DOC_MAX - n), fmt, ap);
    va_end(ap);
    assert(n < DOC_MAX);
    return n;
}

static int append_range(char doc[DOC_MAX], int n, const struct options_row *row)
{
    char lo[VALUE_TEXT_MAX], hi[VALUE_TEXT_MAX];
    unsigned long long min = row->min, max = row->max;
    if (row->type == OPTIONS_BYTES) {
        value_bytes_text(row->min, lo);
        value_bytes_text(row->max, hi);
        return append(doc, n, "%s to %s", lo, hi);
    }
    if (row->type == OPTIONS_REAL)
        return append(doc, n, "%g to %g", (double)min / 1000, (double)max / 1000);
    if (max >= INT32_MAX)
        return append(doc, n, "from %llu", min);
    return append(doc, n, "%llu to %llu%s", min, max, row->type == OPTIONS_SECONDS ? "s" : "");
}

/* "help: a, b or c (default X; 1 to 9)" */
static void write_doc(char doc[DOC_MAX], const struct options_row *row)
{
    bool def = row->def && row->type != OPTIONS_BOOL;
    bool range = has_range(row);
    int n = append(doc, 0, "%s", row->help);
    if (!def && !range)
        return;
    n = append(doc, n, " (");
    if (def)
        n = append(doc, n, "default %s%s", row->def, range ? "; " : "");
    if (range)
        n = append_range(doc, n, row);
    append(doc, n, ")");
}

/* "auto uring pread mmap" as help shows it: auto|uring|pread|mmap. */
static const char *argument_name(struct reader *r, size_t i)
{
    const struct options_row *row = &options_rows[i];
    if (row->type != OPTIONS_CHOICE)
        return row->arg ? row->arg : "BOOL";
    snprintf(r->choices[i], sizeof(r->choices[i]), "%s", row->choices);
    for (char *p = r->choices[i]; (p = strchr(p, ' '));)
        *p = '|';
    return r->choices[i];
}

/* Leaves out argp's sentence on what long and short forms share. */
static char *filter_help(int key, const char *text, void *input)
{
    (void)input;
    return key == ARGP_KEY_HELP_DUP_ARGS_NOTE ? NULL : (char *)(uintptr_t)text;
}

/* argp takes a group's title as an entry of its own, its members after it. */
static void build_entries(struct reader *r)
{
    struct argp_option *e = r->entries;
    for (int g = 1; g < N_GROUPS; g++) {
        struct argp_option *title = e++;
        for (size_t i = 0; i < options_n_rows; i++) {
            const struct options_row *row = &options_rows[i];
            if (!taken(row, r->usage->command) || (int)row->group != g)
                continue;
            write_doc(r->docs[i], row);
            *e++ = (struct argp_option){
                .name = row->name,
                .key = row->key ? row->key : KEY_ROW + (int)i,
                .arg = argument_name(r, i),
                .flags = row->type == OPTIONS_BOOL ? OPTION_ARG_OPTIONAL : 0,
                .doc = r->docs[i],
                .group = g,
            };
        }
        if (e == title + 1)
            e = title; /* no member: no title */
        else
            *title = (struct argp_option){ .doc = options_group_titles[g], .group = g };
    }
    *e++ = (struct argp_option){
        .name = "help", .key = KEY_HELP, .doc = "this text", .group = N_GROUPS
    };
    *e = (struct argp_option){ 0 };
}

static const char notes[] =
    "BOOL may be left out and is then true.  SIZE is bytes, or with K, M, G or T;\n"
    "TIME is seconds, or with ms, s, m or h.  Each option --some-name is also the\n"
    "environment variable LACUNA_SOME_NAME and a line 'some-name = VALUE' of the file\n"
    "that --config names; the command line beats the environment, that the file.\n";

static void print_live_rows(uint32_t command)
{
    enum { WIDTH = 78 };
    int column = WIDTH;
    printf("\nSIGHUP reads the sources again and changes, while requests run:");
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        if (!row->live || !taken(row, command))
            continue;
        int width = (int)strlen(row->name) + 3;
        bool wraps = column + width > WIDTH;
        printf("%s--%s", wraps ? "\n  " : " ", row->name);
        column = wraps ? width + 1 : column + width;
    }
    putchar('\n');
}

static void print_help(const struct reader *r)
{
    char name[64];
    snprintf(name, sizeof(name), "lacuna %s", r->usage->name);
    argp_help(&r->argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC, name);
    printf("\n%s", notes);
    if (r->usage->command == OPTIONS_SERVE)
        print_live_rows(r->usage->command);
    printf("\nEXAMPLE\n%s\nEXIT CODES\n", r->usage->example);
    int code;
    const char *meaning;
    for (size_t i = 0; exit_describe(i, &code, &meaning); i++)
        printf("  %3d  %s\n", code, meaning);
}

int options_read_flags(struct options *o, const struct options_usage *usage, int argc, char **argv,
                       struct options_outcome *outcome)
{
    struct reader *r = calloc(1, sizeof(*r));
    if (!r || options_n_rows > MAX_ROWS) {
        free(r);
        return options_refuse(outcome, EX_OSERR, "no memory to read the command line");
    }
    r->o = o;
    r->usage = usage;
    r->outcome = outcome;
    r->argp = (struct argp){ .options = r->entries,
                             .parser = on_key,
                             .args_doc = usage->args,
                             .doc = usage->about,
                             .help_filter = filter_help };
    build_entries(r);
    error_t rc = argp_parse(&r->argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP, NULL,
                            r);
    if (rc && !r->stopped)
        options_refuse(outcome, EX_OSERR, "the command line: %s", strerror(rc));
    free(r);
    return rc ? -1 : 0;
}

/* ---- --check-config ---- */

static void print_row(const struct options_row *row, const struct options_setting *s,
                      const struct options_printer *to)
{
    char line[4096];
    if (!s->text)
        snprintf(line, sizeof(line), "# %s is not set", row->name);
    else if (row->secret)
        snprintf(line, sizeof(line), "# %s is set, not shown (%s)", row->name, s->where);
    else
        snprintf(line, sizeof(line), "%s = %s  # %s", row->name, s->text, s->where);
    to->line(to->ctx, line);
}

void options_print(const struct options *o, const struct options_usage *usage,
                   const struct options_printer *to)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        if (taken(row, usage->command) && !row->not_in_file)
            print_row(row, &o->owned->settings[i], to);
    }
}
