/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_method.c - Python's methods of strings, dictionaries and lists, those that change nothing.
 */
#include <string.h>

#include "engine/text/jinja_tree.h"

enum { MAX_WIDTH = 10000 };

static struct jv length_of(struct jinja_run *r, struct jv s)
{
    jinja_charge_bytes(r, s.len);
    return jv_int((int64_t)jstr_count(s));
}

/* ---- case ---- */

enum casing { CASE_LOWER, CASE_UPPER, CASE_CAPITALIZE, CASE_TITLE };

static struct jv with_case(struct jinja_run *r, struct jv s, enum casing casing)
{
    size_t mark = r->out.len;
    bool begin = true;
    for (uint32_t at = 0, width; at < s.len && jinja_charge(r, 1); at += width) {
        char out[UTF8_MAX];
        uint32_t code = jchar_read(s.as.text + at, s.len - at, &width);
        bool upper = casing == CASE_UPPER || (casing != CASE_LOWER && begin);
        jinja_put(r, out, jchar_write(out, upper ? jchar_upper(r, code) : jchar_lower(r, code)));
        begin = casing == CASE_TITLE && !jchar_is_alpha(r, code);
    }
    return jinja_take(r, mark);
}

static struct jv method_lower(struct jinja_run *r, const struct jinja_args *a)
{
    return with_case(r, a->self, CASE_LOWER);
}

static struct jv method_upper(struct jinja_run *r, const struct jinja_args *a)
{
    return with_case(r, a->self, CASE_UPPER);
}

static struct jv method_capitalize(struct jinja_run *r, const struct jinja_args *a)
{
    return with_case(r, a->self, CASE_CAPITALIZE);
}

static struct jv method_title(struct jinja_run *r, const struct jinja_args *a)
{
    return with_case(r, a->self, CASE_TITLE);
}

/* ---- what it is made of ---- */

enum made_of { OF_DIGITS = 1, OF_LETTERS = 2, OF_SPACE = 4 };

static struct jv is_made_of(struct jinja_run *r, struct jv s, unsigned kinds)
{
    for (uint32_t at = 0, width; at < s.len && jinja_charge(r, 1); at += width) {
        uint32_t code = jchar_read(s.as.text + at, s.len - at, &width);
        bool is = ((kinds & OF_DIGITS) && code >= '0' && code <= '9') ||
                  ((kinds & OF_LETTERS) && jchar_is_alpha(r, code)) ||
                  ((kinds & OF_SPACE) && jchar_is_space(code));
        if (!is)
            return jv_bool(false);
    }
    return jv_bool(s.len > 0);
}

static struct jv method_isdigit(struct jinja_run *r, const struct jinja_args *a)
{
    return is_made_of(r, a->self, OF_DIGITS);
}

static struct jv method_isalpha(struct jinja_run *r, const struct jinja_args *a)
{
    return is_made_of(r, a->self, OF_LETTERS);
}

static struct jv method_isalnum(struct jinja_run *r, const struct jinja_args *a)
{
    return is_made_of(r, a->self, OF_LETTERS | OF_DIGITS);
}

static struct jv method_isspace(struct jinja_run *r, const struct jinja_args *a)
{
    return is_made_of(r, a->self, OF_SPACE);
}

static struct jv has_case(struct jinja_run *r, struct jv s, bool upper)
{
    bool any = false;
    for (uint32_t at = 0, width; at < s.len && jinja_charge(r, 1); at += width) {
        uint32_t code = jchar_read(s.as.text + at, s.len - at, &width);
        bool is_upper = jchar_lower(r, code) != code, is_lower = jchar_upper(r, code) != code;
        if (upper ? is_lower : is_upper)
            return jv_bool(false);
        any |= upper ? is_upper : is_lower;
    }
    return jv_bool(any);
}

static struct jv method_isupper(struct jinja_run *r, const struct jinja_args *a)
{
    return has_case(r, a->self, true);
}

static struct jv method_islower(struct jinja_run *r, const struct jinja_args *a)
{
    return has_case(r, a->self, false);
}

/* ---- stripping ---- */

static struct jv strip(struct jinja_run *r, const struct jinja_args *a, enum jstr_sides sides)
{
    struct jv chars = a->param[0];
    jinja_charge_bytes(r, a->self.len);
    if (chars.kind == JV_MISSING || chars.kind == JV_NONE)
        return jstr_strip(a->self, NULL, sides);
    if (chars.kind != JV_STRING)
        return jinja_fail(r, "strip: the characters must be a string, not '%s'",
                          jv_type_name(chars));
    /* each character is looked for in `chars` */
    if (!jinja_charge(r, (uint64_t)(a->self.len / 32 + 1) * (chars.len / 32 + 1)))
        return a->self;
    return jstr_strip(a->self, &chars, sides);
}

static struct jv method_strip(struct jinja_run *r, const struct jinja_args *a)
{
    return strip(r, a, JSTR_BOTH);
}

static struct jv method_lstrip(struct jinja_run *r, const struct jinja_args *a)
{
    return strip(r, a, JSTR_LEFT);
}

static struct jv method_rstrip(struct jinja_run *r, const struct jinja_args *a)
{
    return strip(r, a, JSTR_RIGHT);
}

static bool begins(struct jv s, struct jv with)
{
    return s.len >= with.len && memcmp(s.as.text, with.as.text, with.len) == 0;
}

static bool ends(struct jv s, struct jv with)
{
    return s.len >= with.len && memcmp(s.as.text + s.len - with.len, with.as.text, with.len) == 0;
}

static struct jv method_removeprefix(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv prefix;
    if (!jarg_str(r, a->param[0], "the prefix", jv_cstr(""), &prefix) || !begins(a->self, prefix))
        return a->self;
    return jstr_sub(a->self, prefix.len, a->self.len);
}

static struct jv method_removesuffix(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv suffix;
    if (!jarg_str(r, a->param[0], "the suffix", jv_cstr(""), &suffix) || !ends(a->self, suffix))
        return a->self;
    return jstr_sub(a->self, 0, a->self.len - suffix.len);
}

/* ---- looking ---- */

/* One string, or any of a tuple. */
static struct jv begins_or_ends(struct jinja_run *r, const struct jinja_args *a, const char *name,
                                bool (*does)(struct jv, struct jv))
{
    struct jv with = a->param[0];
    const struct jv *items = &with;
    uint32_t n = 1;
    if (with.kind == JV_TUPLE) {
        items = with.as.list->items;
        n = with.as.list->n;
    }
    for (uint32_t i = 0; i < n && jinja_charge(r, 1); i++) {
        if (items[i].kind == JV_UNDEFINED)
            return jinja_fail_undefined(r, items[i]);
        if (items[i].kind != JV_STRING)
            return jinja_fail(r, "%s needs a string or a tuple of strings, not '%s'", name,
                              jv_type_name(items[i]));
        if (does(a->self, items[i]))
            return jv_bool(true);
    }
    return jv_bool(false);
}

static struct jv method_startswith(struct jinja_run *r, const struct jinja_args *a)
{
    return begins_or_ends(r, a, "startswith", begins);
}

static struct jv method_endswith(struct jinja_run *r, const struct jinja_args *a)
{
    return begins_or_ends(r, a, "endswith", ends);
}

/* Byte offset to index of the character. */
static int64_t to_index(struct jinja_run *r, struct jv s, size_t at)
{
    return length_of(r, jstr_sub(s, 0, at)).as.integer;
}

static struct jv find(struct jinja_run *r, const struct jinja_args *a, bool from_end)
{
    struct jv needle;
    int64_t from;
    if (!jarg_str(r, a->param[0], "the text to find", jv_cstr(""), &needle) ||
        !jarg_int(r, a->param[1], "start", 0, &from))
        return needle;
    if (from != 0 && (from_end || from < 0))
        return jinja_fail(r, "find: a start that is not supported");
    jinja_charge_bytes(r, a->self.len);
    if (from > 0 && from > length_of(r, a->self).as.integer)
        return jv_int(-1);
    size_t at = from_end ? jstr_rfind(r, a->self, needle)
                         : jstr_find(a->self, needle, jstr_offset(a->self, (size_t)from));
    return at == SIZE_MAX ? jv_int(-1) : jv_int(to_index(r, a->self, at));
}

static struct jv method_find(struct jinja_run *r, const struct jinja_args *a)
{
    return find(r, a, false);
}

static struct jv method_rfind(struct jinja_run *r, const struct jinja_args *a)
{
    return find(r, a, true);
}

static struct jv method_string_index(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv at = find(r, a, false);
    return !r->failed && at.as.integer < 0 ? jinja_fail(r, "substring not found") : at;
}

/* Width of the character at `at`; 1 behind the last. */
static size_t char_width(struct jv s, size_t at)
{
    uint32_t width = 1;
    if (at < s.len)
        jchar_read(s.as.text + at, s.len - at, &width);
    return width;
}

static struct jv method_string_count(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv needle;
    int64_t n = 0;
    if (!jarg_str(r, a->param[0], "the text to count", jv_cstr(""), &needle))
        return needle;
    if (needle.len == 0)
        return jv_int(length_of(r, a->self).as.integer + 1);
    jinja_charge_bytes(r, a->self.len);
    for (size_t at = 0; (at = jstr_find(a->self, needle, at)) != SIZE_MAX && jinja_charge(r, 1);
         at += needle.len)
        n++;
    return jv_int(n);
}

/* ---- replacing ---- */

static struct jv method_replace(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv from, to, s = a->self;
    int64_t count;
    if (!jarg_str(r, a->param[0], "the text to replace", s, &from) ||
        !jarg_str(r, a->param[1], "the replacement", s, &to) ||
        !jarg_int(r, a->param[2], "count", -1, &count))
        return s;
    size_t mark = r->out.len, plain = 0, at = 0;
    jinja_charge_bytes(r, s.len);
    while (count-- != 0 && (at = jstr_find(s, from, at)) != SIZE_MAX && jinja_charge(r, 1)) {
        jinja_put(r, s.as.text + plain, at - plain);
        jinja_put_str(r, to);
        plain = at + from.len;
        if (from.len > 0) {
            at = plain;
            continue;
        }
        if (at >= s.len) /* the empty text is found before each character and at the end */
            break;
        at += char_width(s, at);
    }
    jinja_put(r, s.as.text + plain, s.len - plain);
    return jinja_take(r, mark);
}

static struct jv method_join(struct jinja_run *r, const struct jinja_args *a)
{
    const struct jv_list *items = jv_items(r, a->param[0]);
    size_t mark = r->out.len;
    for (uint32_t i = 0; items && i < items->n && jinja_charge(r, 1); i++) {
        if (items->items[i].kind != JV_STRING)
            return jinja_fail(r, "join: item %u is '%s', not a string", i,
                              jv_type_name(items->items[i]));
        if (i > 0)
            jinja_put_str(r, a->self);
        jinja_put_str(r, items->items[i]);
    }
    return jinja_take(r, mark);
}

/* ---- format: "{}", "{0}", "{name}"; what may stand behind a name is not there ---- */

static const struct jv *format_value(const struct jinja_args *a, struct jv field, uint32_t *next)
{
    if (field.len == 0)
        return *next < a->n_pos ? &a->pos[(*next)++] : NULL;
    if (field.len == 1 && field.as.text[0] >= '0' && field.as.text[0] <= '9') {
        uint32_t place = (uint32_t)(field.as.text[0] - '0');
        return place < a->n_pos ? &a->pos[place] : NULL;
    }
    for (uint32_t i = 0; i < a->n_kw; i++) {
        struct jv name = a->kw[i].name;
        if (name.len == field.len && memcmp(name.as.text, field.as.text, name.len) == 0)
            return &a->kw[i].value;
    }
    return NULL;
}

/* The field whose '{' is at `at`; returns where it ends, SIZE_MAX if it fails. */
static size_t put_field(struct jinja_run *r, const struct jinja_args *a, size_t at, uint32_t *next)
{
    size_t end = jstr_find(a->self, jv_cstr("}"), at);
    struct jv field = jstr_sub(a->self, at + 1, end == SIZE_MAX ? a->self.len : end);
    const struct jv *value = format_value(a, field, next);
    if (end == SIZE_MAX)
        jinja_fail(r, "format: '{' without '}'");
    else if (!value)
        jinja_fail_code(r, ENGINE_ERR_UNSUPPORTED, "format: there is no value for '{%.*s}'",
                        (int)(field.len < 100 ? field.len : 100), field.as.text);
    else
        jinja_put_value(r, *value);
    return r->failed ? SIZE_MAX : end + 1;
}

static struct jv method_format(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv s = a->self;
    uint32_t next = 0;
    size_t mark = r->out.len;
    for (size_t at = 0; at < s.len && jinja_charge(r, 1);) {
        char c = s.as.text[at];
        bool doubled = at + 1 < s.len && s.as.text[at + 1] == c;
        if ((c == '{' || c == '}') && doubled) {
            jinja_put(r, &c, 1);
            at += 2;
        } else if (c == '}') {
            return jinja_fail(r, "format: '}' without '{'");
        } else if (c == '{') {
            at = put_field(r, a, at, &next);
        } else {
            jinja_put(r, &c, 1);
            at++;
        }
    }
    return jinja_take(r, mark);
}

/* ---- splitting ---- */

/* Words between white space; at most `max` of them are cut off, from the left. */
static struct jv split_words(struct jinja_run *r, struct jv s, int64_t max)
{
    struct jv list = jv_list_new(r, JV_LIST, 0);
    for (s = jstr_strip(s, NULL, JSTR_LEFT); s.len > 0 && jinja_charge(r, 1);) {
        if (max-- == 0) {
            jv_list_push(r, list, s);
            break;
        }
        uint32_t at = 0, width;
        while (at < s.len && !jchar_is_space(jchar_read(s.as.text + at, s.len - at, &width)))
            at += width;
        jv_list_push(r, list, jstr_sub(s, 0, at));
        s = jstr_strip(jstr_sub(s, at, s.len), NULL, JSTR_LEFT);
    }
    return list;
}

static struct jv split_at(struct jinja_run *r, struct jv s, struct jv separator, int64_t max)
{
    struct jv list = jv_list_new(r, JV_LIST, 0);
    size_t from = 0, at;
    while (max-- != 0 && (at = jstr_find(s, separator, from)) != SIZE_MAX && jinja_charge(r, 1)) {
        jv_list_push(r, list, jstr_sub(s, from, at));
        from = at + separator.len;
    }
    jv_list_push(r, list, jstr_sub(s, from, s.len));
    return list;
}

static void reverse_list(struct jv list)
{
    struct jv *items = list.as.list->items;
    for (uint32_t i = 0, n = list.as.list->n; i < n / 2; i++) {
        struct jv t = items[i];
        items[i] = items[n - 1 - i];
        items[n - 1 - i] = t;
    }
}

static struct jv rsplit_at(struct jinja_run *r, struct jv s, struct jv separator, int64_t max)
{
    struct jv list = jv_list_new(r, JV_LIST, 0);
    size_t at;
    while (max-- != 0 && (at = jstr_rfind(r, s, separator)) != SIZE_MAX && jinja_charge(r, 1)) {
        jv_list_push(r, list, jstr_sub(s, at + separator.len, s.len));
        s = jstr_sub(s, 0, at);
    }
    jv_list_push(r, list, s);
    if (!r->failed)
        reverse_list(list);
    return list;
}

static struct jv split(struct jinja_run *r, const struct jinja_args *a, bool from_end)
{
    struct jv separator = a->param[0];
    int64_t max;
    if (!jarg_int(r, a->param[1], "maxsplit", -1, &max))
        return separator;
    jinja_charge_bytes(r, a->self.len);
    if (separator.kind == JV_MISSING || separator.kind == JV_NONE) {
        if (from_end && max >= 0)
            return jinja_fail_code(r, ENGINE_ERR_UNSUPPORTED,
                                   "rsplit at white space with a maximum is not supported");
        return split_words(r, a->self, max);
    }
    if (separator.kind != JV_STRING || separator.len == 0)
        return jinja_fail(r, "split: the separator must be a string that is not empty");
    if (from_end && max >= 0)
        return rsplit_at(r, a->self, separator, max);
    return split_at(r, a->self, separator, max);
}

static struct jv method_split(struct jinja_run *r, const struct jinja_args *a)
{
    return split(r, a, false);
}

static struct jv method_rsplit(struct jinja_run *r, const struct jinja_args *a)
{
    return split(r, a, true);
}

static struct jv method_splitlines(struct jinja_run *r, const struct jinja_args *a)
{
    struct jv list = jv_list_new(r, JV_LIST, 0), line, end;
    jinja_charge_bytes(r, a->self.len);
    for (size_t at = 0; jstr_next_line(a->self, &at, &line, &end) && jinja_charge(r, 1);) {
        if (jarg_bool(a->param[0], false))
            line = jv_str(line.as.text, line.len + end.len);
        jv_list_push(r, list, line);
    }
    return list;
}

static struct jv partition(struct jinja_run *r, const struct jinja_args *a, bool from_end)
{
    struct jv s = a->self, separator, parts = jv_list_new(r, JV_TUPLE, 3);
    if (!jarg_str(r, a->param[0], "the separator", s, &separator))
        return s;
    if (separator.len == 0)
        return jinja_fail(r, "partition: the separator is empty");
    jinja_charge_bytes(r, s.len);
    size_t at = from_end ? jstr_rfind(r, s, separator) : jstr_find(s, separator, 0);
    bool found = at != SIZE_MAX;
    size_t before = found ? at : from_end ? 0 : s.len, behind = found ? at + separator.len : before;
    jv_list_push(r, parts, jstr_sub(s, 0, before));
    jv_list_push(r, parts, found ? separator : jv_cstr(""));
    jv_list_push(r, parts, jstr_sub(s, behind, s.len));
    return parts;
}

static struct jv method_partition(struct jinja_run *r, const struct jinja_args *a)
{
    return partition(r, a, false);
}

static struct jv method_rpartition(struct jinja_run *r, const struct jinja_args *a)
{
    return partition(r, a, true);
}

/* ---- padding ---- */

static void put_fill(struct jinja_run *r, struct jv fill, int64_t n)
{
    for (int64_t i = 0; i < n && !r->failed; i++)
        jinja_put_str(r, fill);
}

/* left: how many of the missing characters go before the text. */
static struct jv pad(struct jinja_run *r, const struct jinja_args *a,
                     int64_t (*left)(int64_t missing, int64_t width))
{
    int64_t width;
    struct jv fill;
    if (!jarg_int(r, a->param[0], "width", 0, &width) ||
        !jarg_str(r, a->param[1], "the fill character", jv_cstr(" "), &fill))
        return a->self;
    if (width > MAX_WIDTH || jstr_count(fill) != 1)
        return jinja_fail(r, "a width above %d, or more than one fill character", MAX_WIDTH);
    int64_t missing = width - length_of(r, a->self).as.integer;
    if (missing <= 0)
        return a->self;
    size_t mark = r->out.len;
    put_fill(r, fill, left(missing, width));
    jinja_put_str(r, a->self);
    put_fill(r, fill, missing - left(missing, width));
    return jinja_take(r, mark);
}

static int64_t none_left(int64_t missing, int64_t width)
{
    (void)missing;
    (void)width;
    return 0;
}

static int64_t all_left(int64_t missing, int64_t width)
{
    (void)width;
    return missing;
}

static int64_t half_left(int64_t missing, int64_t width)
{
    return missing / 2 + (missing & width & 1);
}

static struct jv method_ljust(struct jinja_run *r, const struct jinja_args *a)
{
    return pad(r, a, none_left);
}

static struct jv method_rjust(struct jinja_run *r, const struct jinja_args *a)
{
    return pad(r, a, all_left);
}

static struct jv method_center(struct jinja_run *r, const struct jinja_args *a)
{
    return pad(r, a, half_left);
}

const struct jinja_builtin jinja_string_methods[] = {
    { "lower casefold", "", method_lower, 0 },
    { "upper", "", method_upper, 0 },
    { "capitalize", "", method_capitalize, 0 },
    { "title", "", method_title, 0 },
    { "isdigit isdecimal isnumeric", "", method_isdigit, 0 },
    { "isalpha", "", method_isalpha, 0 },
    { "isalnum", "", method_isalnum, 0 },
    { "isspace", "", method_isspace, 0 },
    { "isupper", "", method_isupper, 0 },
    { "islower", "", method_islower, 0 },
    { "strip", "chars", method_strip, 0 },
    { "lstrip", "chars", method_lstrip, 0 },
    { "rstrip", "chars", method_rstrip, 0 },
    { "removeprefix", "prefix", method_removeprefix, 1 },
    { "removesuffix", "suffix", method_removesuffix, 1 },
    { "startswith", "prefix", method_startswith, 1 },
    { "endswith", "suffix", method_endswith, 1 },
    { "find", "sub start", method_find, 1 },
    { "rfind", "sub start", method_rfind, 1 },
    { "index", "sub start", method_string_index, 1 },
    { "count", "sub", method_string_count, 1 },
    { "replace", "old new count", method_replace, 2 },
    { "join", "iterable", method_join, 1 },
    { "format", NULL, method_format, 0 },
    { "split", "sep maxsplit", method_split, 0 },
    { "rsplit", "sep maxsplit", method_rsplit, 0 },
    { "splitlines", "keepends", method_splitlines, 0 },
    { "partition", "sep", method_partition, 1 },
    { "rpartition", "sep", method_rpartition, 1 },
    { "ljust", "width fillchar", method_ljust, 1 },
    { "rjust", "width fillchar", method_rjust, 1 },
    { "center", "width fillchar", method_center, 1 },
    { NULL, NULL, NULL, 0 },
};
