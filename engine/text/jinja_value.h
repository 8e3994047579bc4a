/* SPDX-License-Identifier: Apache-2.0
 *
 * jinja_value.h - the values of a template, and the run that owns them.
 *
 * A value is 16 bytes and never changes but for namespaces and generators (which are used up).
 * Everything it points to lives in the run's arena, in the template or in the JSON text it was read
 * from, and dies with the run; nothing is freed before.
 *
 * The first thing that goes wrong marks the run as failed.  From then on evaluation gives undefined
 * and allocation gives NULL, so that everything on the stack returns quickly; loops ask r->failed.
 */
#ifndef LACUNA_ENGINE_JINJA_VALUE_H
#define LACUNA_ENGINE_JINJA_VALUE_H

#include <locale.h>

#include "engine/text/internal.h"

/* ---- jinja_arena.c ---- */

struct jinja_arena {
    struct arena_chunk *chunks;
    char *at;
    size_t left; /* in the newest chunk */
    size_t used, limit;
};
/* Zeroed and aligned for any value; NULL beyond the limit or if malloc fails. */
void *jinja_arena_alloc(struct jinja_arena *a, size_t bytes);
void jinja_arena_fini(struct jinja_arena *a);

/* ---- values ---- */

enum jv_kind {
    JV_UNDEFINED, /* text: the name that was not found; see jv_undefined */
    JV_MISSING,   /* an argument that was not given; never seen by templates */
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STRING,
    JV_LIST,
    JV_TUPLE,
    JV_VIEW,      /* what dict.items(), .keys() and .values() give: a list without subscripts */
    JV_GENERATOR, /* what map, select and their kin give: can be gone through once */
    JV_RANGE,
    JV_DICT,
    JV_NAMESPACE, /* a dict that {% set ns.x %} may change */
    JV_LOOP,
    JV_MACRO,
    JV_FUNCTION,
    JV_METHOD,
};

struct jv {
    uint8_t kind;
    uint8_t
        flag; /* STRING: marked safe; UNDEFINED: kind of what lacks the name; VIEW: enum jv_view */
    uint32_t len; /* STRING, UNDEFINED */
    union {
        bool truth;
        int64_t integer;
        double real;
        const char *text;
        struct jv_list *list; /* LIST, TUPLE, VIEW, GENERATOR */
        struct jv_dict *dict; /* DICT, NAMESPACE */
        const struct jv_range *range;
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_builtin *function;
        const struct jinja_method *method;
    } as;
};

enum jv_view { JV_VIEW_KEYS, JV_VIEW_VALUES, JV_VIEW_ITEMS };

struct jv_list {
    struct jv *items;
    uint32_t n, cap;
};

struct jv_pair {
    struct jv key, value;
};

/* In order of insertion; an index once there are many. */
struct jv_dict {
    struct jv_pair *pairs;
    uint32_t n, cap;
    uint32_t *index; /* [index_size] place + 1, open addressing; or NULL */
    uint32_t index_size;
};

struct jv_range {
    int64_t start, step;
    uint32_t n;
};

/* ---- the run ---- */

struct jinja_run {
    struct jinja_arena arena;
    uint64_t steps, max_steps;
    uint32_t depth, max_depth;
    /* The output; on top of it, while they are made, the strings of filters, macros and blocks. */
    struct jinja_out {
        char *data;
        size_t len, cap, limit;
    } out;
    struct engine_err *err;
    bool failed;
    uint32_t line;             /* of what is being evaluated */
    int64_t now;               /* strftime_now's time; the caller sets it */
    struct jv_dict *variables; /* given by the caller */
    struct jv captured;        /* body of the {% filter %} or {% set %} block being finished */
    locale_t locale;           /* C.UTF-8, made when a character beyond ASCII is asked about */
    struct pcre2_tools *pcre2; /* made when a string beyond ASCII is printed as Python's repr */
};

/* Marks the run as failed, "chat template, line N: " before the sentence.  Returns undefined. */
struct jv jinja_fail(struct jinja_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* What was done to something undefined cannot be: names it. */
struct jv jinja_fail_undefined(struct jinja_run *r, struct jv undefined);
struct jv jinja_fail_code(struct jinja_run *r, enum engine_err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Counts n steps; false once there were too many. */
bool jinja_charge(struct jinja_run *r, uint64_t n);
bool jinja_charge_bytes(struct jinja_run *r, size_t n);
/* One level deeper; false, and nothing to leave, if that is too deep. */
bool jinja_enter(struct jinja_run *r);
void jinja_leave(struct jinja_run *r);
void *jinja_alloc(struct jinja_run *r, size_t n, size_t size); /* fails the run, not only itself */

/* Writing.  A string is made by noting r->out.len, writing, and taking what lies above. */
void jinja_put(struct jinja_run *r, const char *data, size_t len);
void jinja_put_str(struct jinja_run *r, struct jv s);
struct jv jinja_take(struct jinja_run *r, size_t mark);

/* ---- jinja_value.c ---- */

struct jv jv_none(void);
struct jv jv_bool(bool b);
struct jv jv_int(int64_t i);
struct jv jv_float(double f);
struct jv jv_str(const char *text, size_t len); /* borrowed */
struct jv jv_cstr(const char *text);            /* borrowed */
/* owner: what has no such attribute or item; JV_UNDEFINED for a variable. */
struct jv jv_undefined(enum jv_kind owner, const char *name, size_t len);
struct jv jv_copy(struct jinja_run *r, const char *text, size_t len);

struct jv jv_list_new(struct jinja_run *r, enum jv_kind kind, uint32_t cap);
void jv_list_push(struct jinja_run *r, struct jv list, struct jv item);
struct jv jv_pair_new(struct jinja_run *r, struct jv a, struct jv b); /* a tuple of two */

struct jv jv_dict_new(struct jinja_run *r);
/* The value in its place, or NULL. */
struct jv *jv_dict_find(struct jinja_run *r, const struct jv_dict *d, struct jv key);
struct jv *jv_dict_find_name(struct jinja_run *r, const struct jv_dict *d, const char *name);
/* Strings, numbers, none and booleans may be keys; others fail. */
void jv_dict_set(struct jinja_run *r, struct jv_dict *d, struct jv key, struct jv value);
void jv_dict_set_name(struct jinja_run *r, struct jv_dict *d, const char *name, struct jv value);

const char *jv_type_name(struct jv v); /* as Python calls it */
bool jv_is_number(struct jv v);        /* booleans are */
bool jv_str_is(struct jv v, const char *text);
bool jv_truth(struct jv v);
double jv_real(struct jv number);
int64_t jv_integer(struct jv int_or_bool);
bool jv_equal(struct jinja_run *r, struct jv a, struct jv b);
/* <0, 0, >0; what has no order fails and names the operator. */
int jv_compare(struct jinja_run *r, struct jv a, struct jv b, const char *op);
/* The items of anything that can be gone through, as a list; fails for what cannot.  A generator is
 * used up. */
struct jv_list *jv_items(struct jinja_run *r, struct jv v);
/* Does it have a length (len() of Python)? */
bool jv_length(struct jinja_run *r, struct jv v, int64_t *n);

/* ---- jinja_chars.c: characters, not bytes ---- */

uint32_t jchar_read(const char *p, size_t len, uint32_t *width); /* code point; width >= 1 */
uint32_t jchar_write(char dst[UTF8_MAX], uint32_t code);
bool jchar_is_space(uint32_t code);
uint32_t jchar_lower(struct jinja_run *r, uint32_t code);
uint32_t jchar_upper(struct jinja_run *r, uint32_t code);
bool jchar_is_alpha(struct jinja_run *r, uint32_t code);
bool jchar_is_printable(struct jinja_run *r, const char *p, uint32_t width);
size_t jstr_count(struct jv s); /* characters */
/* Bytes before character `index`, or all of them. */
size_t jstr_offset(struct jv s, size_t index);
enum jstr_sides { JSTR_LEFT = 1, JSTR_RIGHT = 2, JSTR_BOTH = 3 };
/* chars: which to strip; NULL: white space. */
struct jv jstr_strip(struct jv s, const struct jv *chars, enum jstr_sides sides);
struct jv jstr_sub(struct jv s, size_t from, size_t to); /* bytes */
/* First (or last) place of needle at or behind `from`; SIZE_MAX if there is none. */
size_t jstr_find(struct jv s, struct jv needle, size_t from);
size_t jstr_rfind(struct jinja_run *r, struct jv s, struct jv needle);
/* The line at *at, without its end, and *at moved behind it; false at the end of s.  Line ends are
 * Python's.  end: the end's bytes, if not NULL. */
bool jstr_next_line(struct jv s, size_t *at, struct jv *line, struct jv *end);
/* Would one more line end behind s be a line of its own? */
bool jstr_ends_line(struct jv s);
void jinja_chars_fini(struct jinja_run *r);

/* ---- jinja_print.c ---- */

void jinja_put_value(struct jinja_run *r, struct jv v);   /* as str() */
void jinja_put_repr(struct jinja_run *r, struct jv v);    /* as repr() */
void jinja_put_escaped(struct jinja_run *r, struct jv s); /* HTML */
void jinja_put_float(struct jinja_run *r, double f);
struct jv jv_to_str(struct jinja_run *r, struct jv v);
/* Two strings; once one is marked safe, the other is escaped. */
struct jv jinja_concat(struct jinja_run *r, struct jv a, struct jv b);

/* ---- jinja_json.c ---- */

struct json_style {
    struct jv indent; /* none, a number of spaces or the text itself */
    struct jv item_separator, key_separator;
    bool ascii, sorted;
};
void jinja_put_json(struct jinja_run *r, struct jv v, const struct json_style *style);

#endif
