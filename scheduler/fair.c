/* SPDX-License-Identifier: Apache-2.0
 *
 * fair.c - whose request is next: by priority, then deficit round robin over the keys (Shreedhar and
 * Varghese, 1995), counted in tokens.
 *
 * Each key that waits has a deficit, the tokens it may still start.  The key whose turn it is starts
 * its oldest request if the deficit covers it, and pays; else it gets a quantum more and the turn
 * passes on.  So over time every key starts as many tokens as any other that has work, whether it
 * sends many small requests or few large ones.  A key without work loses its deficit: nobody saves
 * up.
 */
#include <stdlib.h>

#include "scheduler/internal.h"

enum { QUANTUM = 512 }; /* tokens; a small request's size, so that turns are short */

void fair_fini(struct fair *f)
{
    free(f->keys);
    *f = (struct fair){ .n = 0 };
}

static uint64_t cost_of(const struct sched_request *r)
{
    return r->n_prompt_tokens + r->n_work_output;
}

static int64_t best_priority(const struct sched_request *list)
{
    int64_t best = list->opt.priority;
    for (const struct sched_request *r = list; r; r = r->next)
        best = r->opt.priority < best ? r->opt.priority : best;
    return best;
}

static struct sched_request *oldest_at(struct sched_request *list, int64_t priority)
{
    while (list->opt.priority != priority)
        list = list->next;
    return list;
}

static struct sched_request *oldest_of(struct sched_request *list, int64_t priority, uint64_t key)
{
    for (struct sched_request *r = list; r; r = r->next)
        if (r->opt.priority == priority && r->opt.key == key)
            return r;
    return NULL;
}

static struct fair_key *find_key(struct fair *f, uint64_t key)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (f->keys[i].key == key)
            return &f->keys[i];
    return NULL;
}

/* A key that is new comes last in the round. */
static bool add_key(struct fair *f, uint64_t key)
{
    struct fair_key *found = find_key(f, key);
    if (!found && f->n == f->cap) {
        uint32_t cap = f->cap ? 2 * f->cap : 16;
        struct fair_key *keys = realloc(f->keys, cap * sizeof(*keys));
        if (!keys)
            return false;
        f->keys = keys;
        f->cap = cap;
    }
    if (!found) {
        found = &f->keys[f->n++];
        *found = (struct fair_key){ .key = key };
    }
    found->waits = true;
    return true;
}

static void forget_idle(struct fair *f)
{
    uint32_t n = 0, turn = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        if (i == f->turn)
            turn = n;
        if (f->keys[i].waits)
            f->keys[n++] = f->keys[i];
    }
    f->n = n;
    f->turn = n > 0 ? turn % n : 0;
}

/* The keys are those that wait, at whatever priority; new ones added, idle ones forgotten. */
static bool update_keys(struct fair *f, const struct sched_request *list)
{
    for (uint32_t i = 0; i < f->n; i++)
        f->keys[i].waits = false;
    for (const struct sched_request *r = list; r; r = r->next)
        if (!add_key(f, r->opt.key))
            return false;
    forget_idle(f);
    return true;
}

/* Rounds in which nobody could start, all at once: a large request would take thousands. */
static void skip_rounds(struct fair *f, struct sched_request *list, int64_t priority)
{
    uint64_t fewest = UINT64_MAX;
    for (uint32_t i = 0; i < f->n; i++) {
        const struct sched_request *r = oldest_of(list, priority, f->keys[i].key);
        uint64_t cost = r ? cost_of(r) : 0, deficit = f->keys[i].deficit;
        uint64_t rounds = cost > deficit ? (cost - deficit - 1) / QUANTUM : 0;
        if (r && rounds < fewest)
            fewest = rounds;
    }
    for (uint32_t i = 0; i < f->n; i++)
        if (oldest_of(list, priority, f->keys[i].key))
            f->keys[i].deficit += fewest * QUANTUM;
}

struct sched_request *fair_pick(struct fair *f, struct sched_request *list)
{
    if (!list)
        return NULL;
    int64_t priority = best_priority(list);
    if (!update_keys(f, list))
        return oldest_at(list, priority);
    skip_rounds(f, list, priority);
    for (;; f->turn = (f->turn + 1) % f->n) {
        struct fair_key *key = &f->keys[f->turn];
        struct sched_request *r = oldest_of(list, priority, key->key);
        if (r && key->deficit >= cost_of(r)) {
            key->deficit -= cost_of(r);
            return r;
        }
        key->deficit += r ? QUANTUM : 0;
    }
}

void fair_return(struct fair *f, const struct sched_request *r)
{
    struct fair_key *key = find_key(f, r->opt.key);
    if (key)
        key->deficit += cost_of(r);
}
