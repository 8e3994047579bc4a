/* SPDX-License-Identifier: Apache-2.0
 *
 * options_table.h - a row of the table in options.c, for the code that reads and prints rows.
 */
#ifndef LACUNA_SERVER_OPTIONS_TABLE_H
#define LACUNA_SERVER_OPTIONS_TABLE_H

#include "server/options.h"

enum options_type {
    OPTIONS_BOOL,    /* bool */
    OPTIONS_U32,     /* uint32_t */
    OPTIONS_U64,     /* uint64_t */
    OPTIONS_BYTES,   /* uint64_t */
    OPTIONS_SECONDS, /* uint32_t */
    OPTIONS_REAL,    /* float */
    OPTIONS_CHOICE,  /* uint32_t: which word of `choices` */
    OPTIONS_STRING,  /* const char * */
    OPTIONS_LIST,    /* struct options_list: texts with commas between */
    OPTIONS_NUMBERS, /* struct options_numbers: the same of whole numbers */
    OPTIONS_SIZES,   /* struct options_sizes: the same of bytes or percents of a whole */
};

enum options_group {
    GROUP_COMMAND = 1,
    GROUP_MODEL,
    GROUP_NETWORK,
    GROUP_REQUESTS,
    GROUP_LOAD,
    GROUP_LIFE,
    GROUP_CONFIG,
    N_GROUPS,
};

struct options_row {
    const char *name;
    int key;         /* short form, or 0 */
    const char *arg; /* what its value is called in help texts */
    enum options_type type;
    size_t offset;       /* in struct options */
    uint64_t min, max;   /* REAL: in thousandths */
    const char *choices; /* CHOICE: words with blanks between */
    const char *word;    /* stands for word_value, whatever the range: "auto" */
    uint64_t word_value;
    const char *def; /* text as a user would write it; NULL: not set */
    const char *help;
    enum options_group group;
    uint32_t commands; /* enum options_command, or-ed */
    uint32_t several;  /* SIZES: of these, the commands that take more than one */
    const char *needs; /* the flag that must be set, too */
    bool secret;       /* not shown by --check-config */
    bool not_in_file;  /* makes no sense in a configuration file */
    bool only_flag;    /* neither in the environment */
    bool live;         /* SIGHUP may change it */
};

extern const struct options_row options_rows[];
extern const size_t options_n_rows;
extern const char *const options_group_titles[N_GROUPS];

const struct options_row *options_find(const char *name); /* or NULL */

/* The sentence's end after "'TEXT' is not ": "a whole number from 1 to 64, or auto". */
enum { OPTIONS_EXPECTED_MAX = 256 };
void options_expected(const struct options_row *row, char out[OPTIONS_EXPECTED_MAX]);

/* Reads text as the row's type and range.  Returns false if it is not. */
bool options_check(const struct options_row *row, const char *text);
/* The same, and writes the field of *o.  Lists take memory from o->owned.  -1: no memory. */
int options_store(struct options *o, const struct options_row *row, const char *text);

/* Memory that lives until options_fini; NULL if there is none. */
void *options_alloc(struct options *o, size_t bytes);

#endif
