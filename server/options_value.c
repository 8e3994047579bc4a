/* SPDX-License-Identifier: Apache-2.0
 *
 * options_value.c - one row and one text: is it in range, and where does the value go.
 */
#include "server/options_table.h"
#include "server/values.h"

#include <stdio.h>
#include <string.h>

enum { LIST_MAX = 1 << 20, ITEM_MAX = 4096 };

static bool is_word(const struct options_row *row, const char *text)
{
    return row->word && strcmp(row->word, text) == 0;
}

/* Whole numbers of every spelling. */
static bool read_whole(const struct options_row *row, const char *text, uint64_t *out)
{
    bool ok = false;
    if (is_word(row, text)) {
        *out = row->word_value;
        return true;
    }
    if (row->type == OPTIONS_BYTES || row->type == OPTIONS_SIZES)
        ok = value_bytes(text, out);
    else if (row->type == OPTIONS_SECONDS)
        ok = value_seconds(text, out);
    else
        ok = value_u64(text, out);
    return ok && *out >= row->min && *out <= row->max;
}

static bool read_real(const struct options_row *row, const char *text, double *out)
{
    return value_real(text, out) && *out * 1000 >= (double)row->min &&
           *out * 1000 <= (double)row->max;
}

/* Bytes, "75%", or the row's word. */
static bool read_size(const struct options_row *row, const char *text, struct options_size *out)
{
    char number[VALUE_TEXT_MAX];
    size_t n = strlen(text);
    *out = (struct options_size){ 0 };
    if (n == 0 || text[n - 1] != '%')
        return read_whole(row, text, &out->bytes);
    if (n > sizeof(number))
        return false;
    memcpy(number, text, n - 1);
    number[n - 1] = '\0';
    bool ok = value_real(number, &out->share) && out->share > 0 && out->share <= 100;
    out->share /= 100;
    return ok;
}

static uint32_t count_items(const char *text)
{
    uint32_t n = 1;
    for (; *text; text++)
        n += *text == ',';
    return n;
}

/* The item at *p into buf; *p moves behind it.  False if it is empty or over-long. */
static bool next_item(const char **p, char *buf, size_t cap)
{
    size_t len = strcspn(*p, ",");
    if (len == 0 || len >= cap)
        return false;
    memcpy(buf, *p, len);
    buf[len] = '\0';
    *p += len + ((*p)[len] == ',');
    return true;
}

static bool check_list(const struct options_row *row, const char *text)
{
    char item[ITEM_MAX];
    uint64_t v;
    struct options_size size;
    uint32_t n = count_items(text);
    if (n > LIST_MAX)
        return false;
    for (const char *p = text; n > 0; n--) {
        if (!next_item(&p, item, sizeof(item)))
            return false;
        if (row->type == OPTIONS_NUMBERS && !read_whole(row, item, &v))
            return false;
        if (row->type == OPTIONS_SIZES && !read_size(row, item, &size))
            return false;
    }
    return true;
}

bool options_check(const struct options_row *row, const char *text)
{
    uint64_t whole;
    double real;
    uint32_t choice;
    bool flag;
    switch (row->type) {
    case OPTIONS_BOOL:
        return value_bool(text, &flag);
    case OPTIONS_U32:
    case OPTIONS_U64:
    case OPTIONS_BYTES:
    case OPTIONS_SECONDS:
        return read_whole(row, text, &whole);
    case OPTIONS_REAL:
        return read_real(row, text, &real);
    case OPTIONS_CHOICE:
        return value_choice(text, row->choices, &choice);
    case OPTIONS_STRING:
        return text[0] != '\0';
    case OPTIONS_LIST:
    case OPTIONS_NUMBERS:
    case OPTIONS_SIZES:
        return check_list(row, text);
    }
    return false;
}

static int store_list(struct options *o, const char *text, struct options_list *out)
{
    uint32_t n = count_items(text);
    const char **items = options_alloc(o, n * sizeof(*items));
    char *copy = options_alloc(o, strlen(text) + 1);
    if (!items || !copy)
        return -1;
    strcpy(copy, text);
    for (uint32_t i = 0; i < n; i++)
        items[i] = strsep(&copy, ",");
    *out = (struct options_list){ .items = items, .n = n };
    return 0;
}

static int store_numbers(struct options *o, const struct options_row *row, const char *text,
                         struct options_numbers *out)
{
    char item[ITEM_MAX];
    uint32_t n = count_items(text);
    uint32_t *items = options_alloc(o, n * sizeof(*items));
    if (!items)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = 0;
        if (next_item(&text, item, sizeof(item)))
            read_whole(row, item, &v);
        items[i] = (uint32_t)v;
    }
    *out = (struct options_numbers){ .items = items, .n = n };
    return 0;
}

static int store_sizes(struct options *o, const struct options_row *row, const char *text,
                       struct options_sizes *out)
{
    char item[ITEM_MAX];
    uint32_t n = count_items(text);
    struct options_size *items = options_alloc(o, n * sizeof(*items));
    if (!items)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        if (!next_item(&text, item, sizeof(item)) || !read_size(row, item, &items[i]))
            items[i] = (struct options_size){ 0 };
    *out = (struct options_sizes){ .items = items, .n = n };
    return 0;
}

int options_store(struct options *o, const struct options_row *row, const char *text)
{
    void *field = (char *)o + row->offset;
    uint64_t whole = 0;
    double real = 0;
    switch (row->type) {
    case OPTIONS_BOOL:
        value_bool(text, field);
        break;
    case OPTIONS_U32:
    case OPTIONS_SECONDS:
        read_whole(row, text, &whole);
        *(uint32_t *)field = (uint32_t)whole;
        break;
    case OPTIONS_U64:
    case OPTIONS_BYTES:
        read_whole(row, text, field);
        break;
    case OPTIONS_REAL:
        read_real(row, text, &real);
        *(float *)field = (float)real;
        break;
    case OPTIONS_CHOICE:
        value_choice(text, row->choices, field);
        break;
    case OPTIONS_STRING:
        *(const char **)field = text;
        break;
    case OPTIONS_LIST:
        return store_list(o, text, field);
    case OPTIONS_NUMBERS:
        return store_numbers(o, row, text, field);
    case OPTIONS_SIZES:
        return store_sizes(o, row, text, field);
    }
    return 0;
}

static void expected_choice(const char *choices, char out[OPTIONS_EXPECTED_MAX])
{
    size_t n = (size_t)snprintf(out, OPTIONS_EXPECTED_MAX, "one of ");
    for (const char *p = choices; *p && n + 2 < OPTIONS_EXPECTED_MAX; p++) {
        if (*p == ' ')
            out[n++] = ',';
        out[n++] = *p;
    }
    out[n] = '\0';
}

static void expected_range(const struct options_row *row, char out[OPTIONS_EXPECTED_MAX])
{
    char lo[VALUE_TEXT_MAX], hi[VALUE_TEXT_MAX];
    const char *what = "a whole number", *unit = "", *note = "";
    snprintf(lo, sizeof(lo), "%llu", (unsigned long long)row->min);
    snprintf(hi, sizeof(hi), "%llu", (unsigned long long)row->max);
    if (row->type == OPTIONS_BYTES || row->type == OPTIONS_SIZES) {
        value_bytes_text(row->min, lo);
        value_bytes_text(row->max, hi);
        what = "a size";
        note = row->type == OPTIONS_BYTES ? " (digits and K, M or G)"
                                          : " (digits and K, M or G), or a percentage";
    } else if (row->type == OPTIONS_SECONDS) {
        what = "a time";
        unit = "s";
        note = " (digits and ms, s, m or h)";
    } else if (row->type == OPTIONS_NUMBERS) {
        what = "whole numbers with commas between, each";
    }
    snprintf(out, OPTIONS_EXPECTED_MAX, "%s from %s%s to %s%s%s%s%s", what, lo, unit, hi, unit,
             note, row->word ? ", or " : "", row->word ? row->word : "");
}

void options_expected(const struct options_row *row, char out[OPTIONS_EXPECTED_MAX])
{
    switch (row->type) {
    case OPTIONS_BOOL:
        snprintf(out, OPTIONS_EXPECTED_MAX, "true or false");
        break;
    case OPTIONS_REAL:
        snprintf(out, OPTIONS_EXPECTED_MAX, "a number from %g to %g", (double)row->min / 1000,
                 (double)row->max / 1000);
        break;
    case OPTIONS_CHOICE:
        expected_choice(row->choices, out);
        break;
    case OPTIONS_STRING:
        snprintf(out, OPTIONS_EXPECTED_MAX, "a text");
        break;
    case OPTIONS_LIST:
        snprintf(out, OPTIONS_EXPECTED_MAX, "texts with commas between, none of them empty");
        break;
    case OPTIONS_U32:
    case OPTIONS_U64:
    case OPTIONS_BYTES:
    case OPTIONS_SECONDS:
    case OPTIONS_NUMBERS:
    case OPTIONS_SIZES:
        expected_range(row, out);
        break;
    }
}
