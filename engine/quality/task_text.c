/* SPDX-License-Identifier: Apache-2.0
 *
 * task_text.c - the words of the tasks.
 */
#include "engine/quality/task_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static const char *const things[] = {
    "garden",  "river",   "bridge",   "market",  "school",  "forest", "village", "station",
    "harbour", "library", "mountain", "kitchen", "theatre", "museum", "meadow",  "island",
};
static const char *const kinds[] = { "old",   "quiet",   "small",  "bright",
                                     "green", "distant", "narrow", "busy" };
static const char *const deeds[] = { "stands near", "lies behind", "was built before",
                                     "looks like",  "belongs to",  "is larger than" };
static const char *const names[] = {
    "Anna", "Bruno", "Clara", "David", "Emma", "Felix", "Greta", "Hugo",
};
static const char *const cities[] = { "Lisbon", "Oslo",   "Vienna", "Dublin",
                                      "Athens", "Prague", "Bergen", "Turin" };
static const char *const treats[] = {
    "eat a warm pie by the water",   "ride the last tram at night",   "climb the tower before noon",
    "draw the boats in the harbour", "drink tea under the chestnuts", "listen to the bells at dawn",
};
#define COUNT(list) ((uint32_t)(sizeof(list) / sizeof((list)[0])))

struct writer {
    FILE *out;
    uint64_t state;
};

/* Steele and Vigna's splitmix64. */
static uint64_t next(struct writer *w)
{
    uint64_t z = (w->state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static uint32_t below(struct writer *w, uint32_t n)
{
    return (uint32_t)(next(w) >> 32) % n;
}

static uint32_t number(struct writer *w)
{
    return 10000 + below(w, 90000);
}

static const char *pick(struct writer *w, const char *const *list, uint32_t n)
{
    return list[below(w, n)];
}
#define PICK(w, list) pick(w, list, COUNT(list))

__attribute__((format(printf, 2, 3))) static void say(struct writer *w, const char *fmt, ...)
{
    char text[256]; /* longer than any line here */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fwrite(text, 1, (size_t)n, w->out);
}

static void put_filler(struct writer *w)
{
    const char *a = PICK(w, kinds), *b = PICK(w, things), *c = PICK(w, deeds);
    say(w, "The %s %s %s the %s %s.\n", a, b, c, PICK(w, kinds), PICK(w, things));
}

static uint32_t line_of(double depth, uint32_t n_lines)
{
    uint32_t line = (uint32_t)(depth * n_lines);
    return line < n_lines ? line : n_lines;
}

/* A fact among filler, and what asks for it. */
struct fact {
    char text[160], question[160];
};

static struct fact passkey(struct writer *w, char *answer)
{
    struct fact f;
    uint32_t key = number(w);
    snprintf(answer, TASK_TEXT_ANSWER, " %u", key);
    snprintf(f.text, sizeof(f.text), "The pass key is %u. Remember it: %u is the pass key.\n", key,
             key);
    snprintf(f.question, sizeof(f.question), "\nWhat is the pass key? The pass key is");
    return f;
}

static struct fact needle(struct writer *w, char *answer)
{
    struct fact f;
    const char *city = PICK(w, cities), *treat = PICK(w, treats);
    snprintf(answer, TASK_TEXT_ANSWER, " %s", treat);
    snprintf(f.text, sizeof(f.text), "The best thing to do in %s is to %s.\n", city, treat);
    snprintf(f.question, sizeof(f.question), "\nThe best thing to do in %s is to", city);
    return f;
}

static void put_around(struct writer *w, uint32_t n_lines, double depth, const struct fact *f)
{
    uint32_t at = line_of(depth, n_lines);
    for (uint32_t i = 0; i < n_lines; i++) {
        if (i == at)
            say(w, "%s", f->text);
        put_filler(w);
    }
    if (at == n_lines)
        say(w, "%s", f->text);
    say(w, "%s", f->question);
}

/* Every name has a number; one is asked for, which stands at the depth. */
static void put_many_keys(struct writer *w, uint32_t n_lines, double depth, char *answer)
{
    uint32_t asked = below(w, COUNT(names)), keys[COUNT(names)], at[COUNT(names)];
    for (uint32_t k = 0; k < COUNT(names); k++) {
        keys[k] = number(w);
        at[k] = k == asked ? line_of(depth, n_lines) : below(w, n_lines + 1);
    }
    for (uint32_t i = 0; i <= n_lines; i++) {
        for (uint32_t k = 0; k < COUNT(names); k++)
            if (at[k] == i)
                say(w, "The number of %s is %u.\n", names[k], keys[k]);
        if (i < n_lines)
            put_filler(w);
    }
    snprintf(answer, TASK_TEXT_ANSWER, " %u", keys[asked]);
    say(w, "\nWhat is the number of %s? The number of %s is", names[asked], names[asked]);
}

static void make_uuid(struct writer *w, char out[40])
{
    uint64_t a = next(w), b = next(w);
    snprintf(out, 40, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xffff), (unsigned)(b >> 48),
             (unsigned long long)(b & 0xffffffffffff));
}

/* The text is nothing but pairs. */
static void put_pairs(struct writer *w, uint32_t n_lines, double depth, char *answer)
{
    uint32_t n = n_lines > 0 ? n_lines : 1, at = line_of(depth, n - 1);
    char asked[40] = "", key[40], value[40];
    for (uint32_t i = 0; i < n; i++) {
        make_uuid(w, key);
        make_uuid(w, value);
        say(w, "%s: %s\n", key, value);
        if (i != at)
            continue;
        memcpy(asked, key, sizeof(asked));
        snprintf(answer, TASK_TEXT_ANSWER, " %s", value);
    }
    say(w, "\nThe value again of one of the keys:\n%s:", asked);
}

/* A chain of names for one number, in order; its beginning stands at the depth. */
static void put_variables(struct writer *w, uint32_t n_lines, double depth, char *answer)
{
    enum { CHAIN = 4 };
    uint32_t value = number(w), at = line_of(depth, n_lines), n_left = n_lines - at;
    for (uint32_t i = 0; i <= n_lines; i++) {
        for (uint32_t k = 0; k < CHAIN; k++) {
            if (i != at + n_left * k / CHAIN)
                continue;
            if (k == 0)
                say(w, "VAR X1 = %u.\n", value);
            else
                say(w, "VAR X%u = VAR X%u.\n", k + 1, k);
        }
        if (i < n_lines)
            put_filler(w);
    }
    snprintf(answer, TASK_TEXT_ANSWER, " %u", value);
    say(w, "\nWhat number is VAR X%d? VAR X%d is", CHAIN, CHAIN);
}

/* A word in every third place, the others as often as each other; the depth is of no account. */
static void put_words(struct writer *w, uint32_t n_lines, char *answer)
{
    const char *most = PICK(w, things);
    for (uint32_t i = 0; i < n_lines; i++)
        say(w, "%s%s", i % 3 == 0 ? most : PICK(w, things), i + 1 < n_lines ? ", " : ".\n");
    snprintf(answer, TASK_TEXT_ANSWER, " %s", most);
    say(w, "\nThe word that is most often in the list is");
}

static void put_task(struct writer *w, uint32_t task, uint32_t n_lines, double depth, char *answer)
{
    struct fact fact;
    switch (task) {
    case ENGINE_TASK_PASSKEY:
    case ENGINE_TASK_NEEDLE:
        fact = task == ENGINE_TASK_PASSKEY ? passkey(w, answer) : needle(w, answer);
        put_around(w, n_lines, depth, &fact);
        break;
    case ENGINE_TASK_KEYS:
        put_many_keys(w, n_lines, depth, answer);
        break;
    case ENGINE_TASK_PAIRS:
        put_pairs(w, n_lines, depth, answer);
        break;
    case ENGINE_TASK_VARIABLES:
        put_variables(w, n_lines, depth, answer);
        break;
    default:
        put_words(w, n_lines, answer);
    }
}

struct task_text task_text_make(uint32_t task, uint64_t seed, uint32_t n_lines, double depth)
{
    struct task_text t = { 0 };
    struct writer w = { .out = open_memstream(&t.prompt, &t.len), .state = seed * 64 + task };
    if (!w.out)
        return t;
    put_task(&w, task, n_lines, depth, t.answer);
    bool is_whole = !ferror(w.out);
    if (fclose(w.out) != 0 || !is_whole) {
        free(t.prompt);
        t.prompt = NULL;
    }
    return t;
}
