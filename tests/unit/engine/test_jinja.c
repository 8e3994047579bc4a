/* SPDX-License-Identifier: Apache-2.0
 *
 * test_jinja.c - the interpreter of templates: its tokens, what it refuses, and its limits.
 * What it renders is compared with the reference in test_chat_golden.c.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja_tree.h"

static const struct jinja_limits roomy = { .memory = 1 << 20, .steps = 100000, .depth = 100 };

/* ---- tokens ---- */

static void expect_tokens(const char *text, const enum jtok_kind *kinds, size_t n)
{
    struct jinja_arena arena = { .limit = 1 << 16 };
    struct engine_err err = { 0 };
    struct jinja_compile c = { .arena = &arena, .err = &err };
    cr_assert(jinja_lex(&c, text, strlen(text)) == 0, "%s", err.text);
    cr_expect(c.tokens.n == n, "%u tokens", c.tokens.n);
    for (size_t i = 0; i < n && i < c.tokens.n; i++)
        cr_expect(c.tokens.items[i].kind == kinds[i], "token %zu is %d", i, c.tokens.items[i].kind);
    free(c.tokens.items);
    jinja_arena_fini(&arena);
}

Test(jinja_lex, an_empty_template_has_only_an_end)
{
    const enum jtok_kind kinds[] = { JTOK_END };
    expect_tokens("", kinds, 1);
    expect_tokens("\n", kinds, 1);
    expect_tokens("{# nothing #}", kinds, 1);
}

Test(jinja_lex, each_kind_of_token_is_known)
{
    const enum jtok_kind kinds[] = { JTOK_DATA,  JTOK_PRINT_BEGIN, JTOK_NAME,        JTOK_OP,
                                     JTOK_INT,   JTOK_PRINT_END,   JTOK_BLOCK_BEGIN, JTOK_STRING,
                                     JTOK_FLOAT, JTOK_BLOCK_END,   JTOK_END };
    expect_tokens("a{{ b + 1 }}{% 'c' 2.5 %}\n", kinds, 11);
}

Test(jinja_lex, brackets_hide_the_end_of_a_tag)
{
    const enum jtok_kind kinds[] = { JTOK_PRINT_BEGIN, JTOK_OP,        JTOK_OP, JTOK_OP,
                                     JTOK_OP,          JTOK_PRINT_END, JTOK_END };
    expect_tokens("{{ {{}} }}", kinds, 7);
}

Test(jinja_lex, numbers_behind_a_point_are_items)
{
    const enum jtok_kind kinds[] = { JTOK_PRINT_BEGIN, JTOK_NAME, JTOK_OP,        JTOK_INT,
                                     JTOK_OP,          JTOK_INT,  JTOK_PRINT_END, JTOK_END };
    expect_tokens("{{ a.0.1 }}", kinds, 8);
}

/* ---- refusals ---- */

static void expect_refused(const char *text, size_t len, const char *words)
{
    struct engine_err err = { 0 };
    struct jinja_template *t = NULL;
    cr_expect(jinja_template_open(&t, text, len, &err) == -1, "compiled: %.60s", text);
    cr_expect(t == NULL);
    cr_expect(err.code == ENGINE_ERR_UNSUPPORTED);
    cr_expect(strstr(err.text, words) != NULL, "said \"%s\", not \"%s\"", err.text, words);
    jinja_template_close(t);
}

static void expect_refused_text(const char *text, const char *words)
{
    expect_refused(text, strlen(text), words);
}

Test(jinja_parse, what_is_not_supported_is_named_with_its_line)
{
    expect_refused_text("\n\n{% include 'x' %}", "line 3: {% include %} is not supported");
    expect_refused_text("{% block a %}{% endblock %}", "line 1: {% block %} is not supported");
    expect_refused_text("{% for a in b recursive %}{% endfor %}", "line 1: a recursive loop");
    expect_refused_text("\n{{ f(*a) }}", "line 2: arguments with * or **");
    expect_refused_text("{{ a[1, 2] }}", "line 1: a subscript with a comma");
    expect_refused_text("{{ 0x10 }}", "line 1: a number");
    expect_refused_text("{{ 1234567890123456789 }}", "line 1: a number");
}

Test(jinja_parse, what_is_wrong_is_named_with_its_line)
{
    expect_refused_text("\n{% if a %}", "line 2: {% endif %} is missing");
    expect_refused_text("a\n{% endfor %}", "line 2: a tag that begins something expected");
    expect_refused_text("{{ a b }}", "line 1: }} expected, not 'b'");
    expect_refused_text("{{ }}", "line 1: an expression expected, not }}");
    expect_refused_text("{{ a", "line 1: a tag has no end");
    expect_refused_text("{{ 'a }}", "line 1: a string has no end");
    expect_refused_text("{# a", "line 1: a comment has no end");
    expect_refused_text("{% raw %}", "line 1: {% raw %} has no end");
    expect_refused_text("{{ ] }}", "line 1: unexpected ']'");
    expect_refused_text("{{ \xC3\xA9; }}", "line 1: unexpected character ';'");
    expect_refused_text("{% continue %}", "outside of a loop");
    expect_refused_text("{% for a in b %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
                        "outside of a loop");
    expect_refused("a\xFF", 2, "line 1: byte 1 is not UTF-8");
}

Test(jinja_parse, a_template_may_not_be_too_long)
{
    char *text = malloc(JINJA_MAX_TEMPLATE + 1);
    struct engine_err err = { 0 };
    struct jinja_template *t;
    memset(text, 'a', JINJA_MAX_TEMPLATE + 1);
    expect_refused(text, JINJA_MAX_TEMPLATE + 1, "524289 bytes, the limit is 524288");
    cr_expect(jinja_template_open(&t, text, JINJA_MAX_TEMPLATE, &err) == 0, "%s", err.text);
    jinja_template_close(t);
    free(text);
}

/* What opens something, so often that it is too deep, must be refused, not recursed into. */
static void expect_too_deep(const char *what, const char *begin, size_t n)
{
    size_t len = strlen(what);
    char *text = malloc(n * len + 16), *at = text + sprintf(text, "%s", begin);
    for (size_t i = 0; i < n; i++, at += len)
        memcpy(at, what, len);
    at += sprintf(at, " }}");
    expect_refused(text, (size_t)(at - text), "deeper than");
    free(text);
}

Test(jinja_parse, nesting_is_bounded)
{
    expect_too_deep("(", "{{ ", 30000);
    expect_too_deep("not ", "{{ ", 30000);
    expect_too_deep("-", "{{ ", 30000);
    expect_too_deep("a if b else ", "{{ ", 30000);
    expect_too_deep("{% if a %}", "", 30000);
    expect_too_deep("{% for a in b %}", "", 30000);
}

/* ---- running ---- */

/* Renders without variables; gives the text, or the error's sentence. */
static char *run(const char *text, size_t len, const struct jinja_limits *limits,
                 struct engine_err *err)
{
    struct jinja_template *t;
    struct jinja_run r;
    cr_assert(jinja_template_open(&t, text, len, err) == 0, "%s", err->text);
    jinja_run_init(&r, limits, err);
    struct jv variables = jv_dict_new(&r);
    int rc = jinja_render(&r, t, variables.as.dict);
    char *out = rc == 0 ? strndup(r.out.data ? r.out.data : "", r.out.len) : strdup(err->text);
    jinja_run_fini(&r);
    jinja_template_close(t);
    return out;
}

static void expect_stopped(const char *text, const struct jinja_limits *limits, const char *words)
{
    struct engine_err err = { 0 };
    char *out = run(text, strlen(text), limits, &err);
    cr_expect(err.code == ENGINE_ERR_INPUT && strstr(out, words) != NULL, "%.300s", out);
    free(out);
}

Test(jinja_run, steps_are_bounded)
{
    struct jinja_limits few = roomy;
    few.steps = 1000;
    expect_stopped("{% for a in range(999) %}{% if a %}{% endif %}{% endfor %}", &few,
                   "line 1: more than 1000 steps of work");
    expect_stopped("{{ ('x' * 900000)|length }}", &few, "steps of work");
    expect_stopped("{{ range(90000)|list|length }}", &roomy, "more than 1048576 bytes of values");
}

Test(jinja_run, memory_is_bounded)
{
    struct jinja_limits patient = roomy;
    patient.steps = 1000000000;
    expect_stopped("{{ [0] * 999999 }}", &patient, "more than 1048576 bytes of values");
    expect_stopped("{{ 'x' * 99999999 }}", &patient, "more than 1048576 bytes of text");
    char text[512]; /* a text of 400 bytes, again and again */
    snprintf(text, sizeof text, "{%% for a in range(9000) %%}%0400d{%% endfor %%}", 0);
    expect_stopped(text, &patient, "more than 1048576 bytes of text");
    expect_stopped("{{ 'x'|replace('x', 'y' * 9999)|replace('y', 'z' * 9999) }}", &patient,
                   "bytes of text");
    expect_stopped("{{ 'a'.ljust(99999999) }}", &patient, "a width above");
    expect_stopped("{{ 'a'|indent(99999999) }}", &patient, "the width must be");
    expect_stopped("{{ [1]|tojson(indent=99999999) }}", &patient, "indent must be");
    expect_stopped("{{ range(9999999) }}", &patient, "the limit is 100000");
    expect_stopped("{{ [1]|batch(999999999, 0)|list }}", &patient, "bytes of values");
    expect_stopped("{{ strftime_now('%99999c') }}", &patient, "strftime_now: more than");
}

Test(jinja_run, depth_is_bounded_for_values_too)
{
    expect_stopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &roomy, "nested deeper than");
    static const char deep[] = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(300) %}"
                               "{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}";
    static const char *const uses[] = { "{{ ns.a }}", "{{ ns.a|tojson }}", "{{ ns.a == ns.b }}",
                                        "{{ ns.a < ns.b }}", "{{ [ns.a]|sort }}{{ ns.a|string }}" };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s%s", deep, uses[i]);
        expect_stopped(text, &roomy, "nested deeper than");
    }
}

/* a+a+a...: the parser needs no recursion for it, but the tree is as deep as it is long. */
Test(jinja_run, depth_is_bounded_for_long_chains)
{
    static const char *const links[] = { "+a", ".a", "|d", "(a)", " or a", "[a]" };
    enum { N = 20000 };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        struct engine_err err = { 0 };
        size_t len = strlen(links[i]);
        char *text = malloc(N * len + 16), *at = text + sprintf(text, "{{ a");
        for (size_t k = 0; k < N; k++, at += len)
            memcpy(at, links[i], len);
        at += sprintf(at, " }}");
        char *out = run(text, (size_t)(at - text), &roomy, &err);
        cr_expect(strstr(out, "nested deeper than 100 levels") != NULL, "%s: %.100s", links[i],
                  out);
        free(out);
        free(text);
    }
}

Test(jinja_run, integers_do_not_wrap)
{
    expect_stopped("{{ 2**62 + 2**62 }}", &roomy, "an integer beyond 64 bits");
    expect_stopped("{{ -2**63 * -1 }}", &roomy, "an integer beyond 64 bits");
    expect_stopped("{{ 3**99 }}", &roomy, "an integer beyond 64 bits");
    expect_stopped("{{ 1 // 0 }}", &roomy, "division by zero");
    expect_stopped("{{ range(0, 9, 2**62) }}", &roomy, "a number beyond 2^53");
}

Test(jinja_run, an_error_names_the_line_of_what_failed)
{
    expect_stopped("a\n{{ 1 }}\n{% if true %}\n  {{ x.y }}\n{% endif %}", &roomy,
                   "line 4: 'x' is undefined");
    expect_stopped("\n{{ {}.a.b }}", &roomy, "line 2: 'dict' object has no attribute or item 'a'");
}

Test(jinja_run, an_unknown_filter_matters_only_where_it_is_used)
{
    struct engine_err err = { 0 };
    char *out = run("{% if false %}{{ 1|nosuch }}{% endif %}ok", 41, &roomy, &err);
    cr_expect_str_eq(out, "ok");
    free(out);
    out = run("\n{{ 1|nosuch }}", 15, &roomy, &err);
    cr_expect(err.code == ENGINE_ERR_UNSUPPORTED);
    cr_expect_str_eq(out, "chat template, line 2: the filter 'nosuch' is not supported");
    free(out);
}

/* ---- values ---- */

Test(jinja_value, a_dictionary_keeps_its_order_and_finds_everything)
{
    struct engine_err err = { 0 };
    struct jinja_run r;
    char names[500][8];
    jinja_run_init(&r, &roomy, &err);
    struct jv d = jv_dict_new(&r);
    for (int i = 0; i < 500; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i * 7 % 500);
        jv_dict_set_name(&r, d.as.dict, names[i], jv_int(i));
    }
    jv_dict_set_name(&r, d.as.dict, "k7", jv_int(-1)); /* stays in its place */
    cr_assert(!r.failed && d.as.dict->n == 500, "%s", err.text);
    for (int i = 0; i < 500; i++) {
        const struct jv *v = jv_dict_find_name(&r, d.as.dict, names[i]);
        cr_expect(v != NULL && v->as.integer == (i == 1 ? -1 : i));
        cr_expect(v == &d.as.dict->pairs[i].value);
    }
    cr_expect(jv_dict_find_name(&r, d.as.dict, "k500") == NULL);
    jinja_run_fini(&r);
}

Test(jinja_value, equal_numbers_are_one_key)
{
    struct engine_err err = { 0 };
    struct jinja_run r;
    jinja_run_init(&r, &roomy, &err);
    struct jv d = jv_dict_new(&r);
    for (int i = 0; i < 40; i++) /* with and without index */
        jv_dict_set(&r, d.as.dict, jv_int(i), jv_int(i));
    cr_expect(jv_dict_find(&r, d.as.dict, jv_float(1.0)) == &d.as.dict->pairs[1].value);
    cr_expect(jv_dict_find(&r, d.as.dict, jv_bool(true)) == &d.as.dict->pairs[1].value);
    cr_expect(jv_dict_find(&r, d.as.dict, jv_float(-0.0)) == &d.as.dict->pairs[0].value);
    cr_expect(jv_dict_find(&r, d.as.dict, jv_float(1.5)) == NULL);
    cr_expect(jv_dict_find(&r, d.as.dict, jv_cstr("1")) == NULL);
    jinja_run_fini(&r);
}

/* ---- JSON ---- */

static void expect_json(const char *text, const char *expected)
{
    struct engine_err err = { 0 };
    struct jinja_run r;
    jinja_run_init(&r, &roomy, &err);
    struct jv v = jinja_json_read(&r, text, strlen(text), "x");
    if (!r.failed)
        jinja_put_repr(&r, v);
    char *out = r.failed ? strdup(err.text) : strndup(r.out.data, r.out.len);
    cr_expect(strstr(out, expected) != NULL, "%s: %s, not %s", text, out, expected);
    cr_expect(r.failed || strcmp(out, expected) == 0);
    free(out);
    jinja_run_fini(&r);
}

Test(jinja_json, every_kind_of_value_is_read)
{
    expect_json(" { \"a\" : [ 1 , -2.5 , 1e3 , true , false , null ] } ",
                "{'a': [1, -2.5, 1000.0, True, False, None]}");
    expect_json("\"\\u00e9\\n\\ud83d\\ude00\\\"\\/\"", "'\xC3\xA9\\n\xF0\x9F\x98\x80\"/'");
    expect_json("[9223372036854775807, -9223372036854775808, 0]",
                "[9223372036854775807, -9223372036854775808, 0]");
    expect_json("{\"a\":1,\"b\":2,\"a\":3}", "{'a': 3, 'b': 2}");
    expect_json("[[],{},\"\"]", "[[], {}, '']");
}

Test(jinja_json, what_is_no_json_is_refused_with_its_place)
{
    expect_json("", "x: no value at byte 0");
    expect_json("[1", "x: ',' or ']' expected at byte 2");
    expect_json("{\"a\" 1}", "x: ':' expected");
    expect_json("{1:2}", "x: a key expected");
    expect_json("\"a", "x: a string without end");
    expect_json("\"\\x\"", "x: a bad escape");
    expect_json("\"\\ud83d\"", "x: a bad escape");
    expect_json("\"\\ud83dx\"", "x: a bad escape");
    expect_json("9223372036854775808", "x: an integer beyond 64 bits");
    expect_json("1-", "x: no number");
    expect_json("1 2", "x: something behind the end");
    expect_json("\xFF", "x: byte 0 is not UTF-8");
}

Test(jinja_json, nesting_is_bounded)
{
    char text[1024];
    memset(text, '[', sizeof text - 1);
    text[sizeof text - 1] = 0;
    expect_json(text, "nested deeper than 100 levels");
}

/* ---- the arena ---- */

Test(jinja_arena, objects_are_zeroed_aligned_and_apart)
{
    struct jinja_arena a = { .limit = 1 << 20 };
    static const size_t sizes[] = { 0, 1, 8, 15, 16, 17, 1000, 40000, 3 };
    char *last = NULL;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = jinja_arena_alloc(&a, sizes[i]);
        cr_assert(p != NULL && (uintptr_t)p % 16 == 0 && p != last);
        for (size_t k = 0; k < sizes[i]; k++)
            cr_assert(p[k] == 0);
        memset(p, 0xAA, sizes[i]);
        last = p;
    }
    jinja_arena_fini(&a);
}

Test(jinja_arena, the_limit_holds)
{
    struct jinja_arena a = { .limit = 1000 };
    size_t n = 0;
    cr_expect(jinja_arena_alloc(&a, 1001) == NULL);
    cr_expect(jinja_arena_alloc(&a, SIZE_MAX) == NULL);
    while (jinja_arena_alloc(&a, 10) != NULL)
        n++;
    cr_expect(n > 20 && n < 101, "%zu", n);
    jinja_arena_fini(&a);
}
