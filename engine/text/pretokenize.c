/* SPDX-License-Identifier: Apache-2.0
 *
 * pretokenize.c - cuts text into words with a rule's expressions.  The one owner of PCRE2.
 *
 * PCRE2 gets well-formed UTF-8 only: stray bytes are cut off first, as pieces of their own, so
 * matches need no checking and no input can fail.  Each step's expression sees one piece of the
 * step before as its whole subject.
 *
 * The compiled expressions are shared by all threads; what matching needs is in the caller's
 * pieces. With JIT where the system allows it, else interpreted: the results are equal.  The
 * expressions have no nested repeats, so neither way needs much stack; should PCRE2 give up all the
 * same, the rest of the piece stays whole.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "engine/text/internal.h"

struct pretokenizer {
    pcre2_code *steps[PRE_MAX_STEPS]; /* NULL: PRE_THREES */
    uint32_t n_steps;
};

/* On an end: the piece is stray bytes, which no expression sees. */
static const uint32_t STRAY = 1u << 31;

/* ---- open ---- */

static int compile(pcre2_code **out, const char *expression, struct engine_err *err)
{
    int code;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                         &code, &at, NULL);
    if (*out == NULL) {
        char text[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return engine_fail(err, ENGINE_ERR_INTERNAL, "PCRE2 refuses a word expression at %zu: %s",
                           (size_t)at, text);
    }
    /* Without executable memory (a hardened kernel) this fails, and matching is interpreted. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

int pretokenizer_open(struct pretokenizer **out, const struct pre_rule *rule,
                      struct engine_err *err)
{
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (p == NULL)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the word expressions");
    for (; p->n_steps < PRE_MAX_STEPS && rule->steps[p->n_steps] != NULL; p->n_steps++) {
        const char *step = rule->steps[p->n_steps];
        if (step != PRE_THREES && compile(&p->steps[p->n_steps], step, err) != 0) {
            pretokenizer_close(p);
            return -1;
        }
    }
    *out = p;
    return 0;
}

void pretokenizer_close(struct pretokenizer *p)
{
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < PRE_MAX_STEPS; i++)
        pcre2_code_free(p->steps[i]);
    free(p);
}

/* ---- pieces ---- */

void pieces_fini(struct pieces *p)
{
    free(p->ends);
    free(p->next);
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    *p = (struct pieces){ 0 };
}

static int pieces_prepare(struct pieces *p)
{
    p->n = 0;
    if (p->match != NULL)
        return 0;
    if (p->limits == NULL)
        p->limits = pcre2_match_context_create(NULL);
    if (p->limits == NULL)
        return -1;
    /* A long word takes as many steps as it has characters: that is no runaway. */
    pcre2_set_match_limit(p->limits, UINT32_MAX);
    pcre2_set_heap_limit(p->limits, UINT32_MAX);
    p->match = pcre2_match_data_create(1, NULL);
    return p->match != NULL ? 0 : -1;
}

static int add_end(struct pieces *p, uint32_t end)
{
    if (p->n_next == p->next_cap) {
        size_t cap = 2 * p->next_cap + 64;
        uint32_t *next = realloc(p->next, cap * sizeof *next);
        if (next == NULL)
            return -1;
        p->next = next;
        p->next_cap = cap;
    }
    p->next[p->n_next++] = end;
    return 0;
}

/* What was collected in `next` becomes the pieces. */
static void turn(struct pieces *p)
{
    uint32_t *ends = p->ends;
    size_t cap = p->cap;
    p->ends = p->next;
    p->cap = p->next_cap;
    p->n = p->n_next;
    p->next = ends;
    p->next_cap = cap;
    p->n_next = 0;
}

/* ---- steps ---- */

static int split_stray_bytes(struct pieces *p, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t good = utf8_valid_run(text + at, len - at);
        at += good;
        if (good > 0 && add_end(p, (uint32_t)at) != 0)
            return -1;
        size_t stray = at;
        while (at < len && utf8_width(text + at, len - at) == 0)
            at++;
        if (at > stray && add_end(p, (uint32_t)at | STRAY) != 0)
            return -1;
    }
    turn(p);
    return 0;
}

/* The next match at or after `from`: its borders, or false. */
static bool find(const pcre2_code *code, const struct pieces *p, const char *text, size_t len,
                 size_t from, size_t *start, size_t *end)
{
    int status = pcre2_match(code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, p->match,
                             p->limits);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT)
        status = pcre2_match(code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                             p->match, p->limits);
    if (status < 0)
        return false;
    const PCRE2_SIZE *borders = pcre2_get_ovector_pointer(p->match);
    *start = borders[0];
    *end = borders[1];
    return *end > *start;
}

static int split_by_expression(struct pieces *p, const pcre2_code *code, const char *text,
                               uint32_t piece_start, uint32_t piece_end)
{
    const char *piece = text + piece_start;
    size_t len = piece_end - piece_start, at = 0, start, end;
    while (at < len && find(code, p, piece, len, at, &start, &end)) {
        if (start > at && add_end(p, piece_start + (uint32_t)start) != 0)
            return -1;
        if (add_end(p, piece_start + (uint32_t)end) != 0)
            return -1;
        at = end;
    }
    return at < len ? add_end(p, piece_end) : 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Cuts before every digit that has a multiple of three digits from itself to the end of its run. An
 * expression would look ahead to the end of the run from each place: quadratic. */
static int split_threes(struct pieces *p, const char *text, uint32_t start, uint32_t end)
{
    uint32_t at = start, cut = start;
    while (at < end) {
        uint32_t run = at;
        while (run < end && is_digit(text[run]))
            run++;
        for (at += (run - at) % 3; at < run; at += 3) {
            if (at > cut && add_end(p, cut = at) != 0)
                return -1;
        }
        while (at < end && !is_digit(text[at]))
            at++;
    }
    return add_end(p, end);
}

static int run_step(struct pieces *p, const pcre2_code *code, const char *text)
{
    uint32_t start = 0;
    for (size_t i = 0; i < p->n; i++) {
        uint32_t end = p->ends[i] & ~STRAY;
        int status;
        if (p->ends[i] & STRAY)
            status = add_end(p, p->ends[i]);
        else if (code == NULL)
            status = split_threes(p, text, start, end);
        else
            status = split_by_expression(p, code, text, start, end);
        if (status != 0)
            return -1;
        start = end;
    }
    turn(p);
    return 0;
}

int pretokenize(const struct pretokenizer *p, const char *text, size_t len, struct pieces *out,
                struct engine_err *err)
{
    int status = pieces_prepare(out);
    if (status == 0)
        status = split_stray_bytes(out, text, len);
    for (uint32_t i = 0; i < p->n_steps && status == 0; i++)
        status = run_step(out, p->steps[i], text);
    for (size_t i = 0; i < out->n; i++)
        out->ends[i] &= ~STRAY;
    return status == 0 ? 0
                       : engine_fail(err, ENGINE_ERR_MEMORY, "no memory to cut a text into words");
}
