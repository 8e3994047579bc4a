/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_trace.c - what a cache could have known, had it known the future.
 */
#include "server/commands/bench_trace.h"

#include <stdbool.h>
#include <stdlib.h>

#define NEVER UINT64_MAX

void bench_trace_add(void *ctx, uint32_t layer, uint32_t expert)
{
    enum { FIRST_ROOM = 4096 };
    struct bench_trace *t = ctx;
    if (t->n == t->room) {
        uint64_t room = t->room ? 2 * t->room : FIRST_ROOM;
        uint32_t *more = realloc(t->experts, room * sizeof(*more));
        if (!more)
            return;
        t->experts = more;
        t->room = room;
    }
    t->experts[t->n++] = layer * t->n_experts + expert;
}

void bench_trace_fini(struct bench_trace *t)
{
    free(t->experts);
    *t = (struct bench_trace){ 0 };
}

static uint32_t n_kinds(const struct bench_trace *t)
{
    return t->n_layers * t->n_experts;
}

/* ---- the best that stays ---- */

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

double bench_trace_best_fixed(const struct bench_trace *t, uint32_t n_slots)
{
    uint64_t *n_uses = calloc(n_kinds(t), sizeof(*n_uses)), n_hits = 0;
    if (!n_uses || t->n == 0) {
        free(n_uses);
        return -1;
    }
    for (uint64_t i = 0; i < t->n; i++)
        n_uses[t->experts[i]]++;
    qsort(n_uses, n_kinds(t), sizeof(*n_uses), descending);
    for (uint32_t i = 0; i < n_slots && i < n_kinds(t); i++)
        n_hits += n_uses[i];
    free(n_uses);
    return (double)n_hits / (double)t->n;
}

/* ---- the best there is ---- */

/* What is in the slots: a heap by next use, the last one on top. */
struct slots {
    uint32_t *heap, *place; /* [n] experts; [n_kinds] where an expert is in it, n_slots: nowhere */
    uint64_t *next_use;     /* [n_kinds] */
    uint32_t n, n_slots;
};

static void put(struct slots *s, uint32_t at, uint32_t expert)
{
    s->heap[at] = expert;
    s->place[expert] = at;
}

static void swap(struct slots *s, uint32_t i, uint32_t j)
{
    uint32_t expert = s->heap[i];
    put(s, i, s->heap[j]);
    put(s, j, expert);
}

static bool is_later(const struct slots *s, uint32_t i, uint32_t j)
{
    return s->next_use[s->heap[i]] > s->next_use[s->heap[j]];
}

static void move_up(struct slots *s, uint32_t i)
{
    for (; i > 0 && is_later(s, i, (i - 1) / 2); i = (i - 1) / 2)
        swap(s, i, (i - 1) / 2);
}

static void move_down(struct slots *s, uint32_t i)
{
    for (;;) {
        uint32_t last = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < s->n; child++)
            last = is_later(s, child, last) ? child : last;
        if (last == i)
            return;
        swap(s, i, last);
        i = last;
    }
}

/* A use, after which the expert's next one is known.  Is it there?  It is there afterwards if it is wanted again before
 * something that is. */
static bool use(struct slots *s, uint32_t expert, uint64_t next)
{
    s->next_use[expert] = next;
    if (s->place[expert] < s->n_slots) {
        move_up(s, s->place[expert]); /* its next use is later than this one */
        return true;
    }
    if (next < s->next_use[s->heap[0]]) {
        s->place[s->heap[0]] = s->n_slots;
        put(s, 0, expert);
        move_down(s, 0);
    }
    return false;
}

/* after[i]: when the expert of use i is used next.  Leaves in s->next_use when each is used first. */
static void find_next_uses(const struct bench_trace *t, struct slots *s, uint64_t *after)
{
    for (uint32_t k = 0; k < n_kinds(t); k++)
        s->next_use[k] = NEVER;
    for (uint64_t i = t->n; i-- > 0;) {
        after[i] = s->next_use[t->experts[i]];
        s->next_use[t->experts[i]] = i;
    }
}

/* The experts that are used first. */
static void fill(const struct bench_trace *t, struct slots *s)
{
    for (uint32_t k = 0; k < n_kinds(t); k++)
        s->place[k] = s->n_slots;
    for (uint64_t i = 0; i < t->n && s->n < s->n_slots; i++) {
        if (s->place[t->experts[i]] < s->n_slots)
            continue;
        put(s, s->n++, t->experts[i]);
        move_up(s, s->n - 1);
    }
}

double bench_trace_best(const struct bench_trace *t, uint32_t n_slots)
{
    struct slots s = { .n_slots = n_slots,
                       .heap = calloc(n_slots, sizeof(uint32_t)),
                       .place = calloc(n_kinds(t), sizeof(uint32_t)),
                       .next_use = calloc(n_kinds(t), sizeof(uint64_t)) };
    uint64_t *after = calloc(t->n ? t->n : 1, sizeof(*after)), n_hits = 0;
    bool can = s.heap && s.place && s.next_use && after && t->n > 0 && n_slots > 0;
    if (can) {
        find_next_uses(t, &s, after);
        fill(t, &s);
        for (uint64_t i = 0; i < t->n; i++)
            n_hits += use(&s, t->experts[i], after[i]);
    }
    free(s.heap);
    free(s.place);
    free(s.next_use);
    free(after);
    return can ? (double)n_hits / (double)t->n : -1;
}
