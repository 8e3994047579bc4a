/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_guesses.c - a list for each layer that comes next, and a record for each layer and distance.
 */
#include "engine/storage/expert_guesses.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Guesses at one layer. */
struct list {
    uint32_t layer, n; /* 0: none */
    struct guess
        *guesses; /* [n_experts] each expert once; nearer guesses, likeliest first, come first */
};

/* Of a layer, from a distance; old guesses count less. */
struct record {
    double n_right, n_wrong;
};

struct expert_guesses {
    uint32_t n_experts;
    struct list lists[EXPERT_GUESS_LAYERS];        /* by layer % EXPERT_GUESS_LAYERS */
    struct record (*records)[EXPERT_GUESS_LAYERS]; /* [n_layers] */
    struct guess *merged;                          /* [n_experts] */
};

struct expert_guesses *expert_guesses_open(uint32_t n_layers, uint32_t n_experts)
{
    struct expert_guesses *g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->n_experts = n_experts;
    g->records = calloc(n_layers, sizeof(*g->records));
    g->merged = calloc(n_experts, sizeof(*g->merged));
    bool is_whole = g->records && g->merged;
    for (uint32_t i = 0; i < EXPERT_GUESS_LAYERS; i++) {
        g->lists[i].guesses = calloc(n_experts, sizeof(*g->lists[i].guesses));
        is_whole = is_whole && g->lists[i].guesses;
    }
    if (is_whole)
        return g;
    expert_guesses_close(g);
    return NULL;
}

void expert_guesses_close(struct expert_guesses *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < EXPERT_GUESS_LAYERS; i++)
        free(g->lists[i].guesses);
    free(g->records);
    free(g->merged);
    free(g);
}

/* Empty if it is another layer's. */
static struct list *list_of(struct expert_guesses *g, uint32_t layer)
{
    struct list *list = &g->lists[layer % EXPERT_GUESS_LAYERS];
    assert(list->n == 0 || list->layer == layer); /* what is due has been forgotten */
    list->layer = layer;
    return list;
}

static struct guess *find_in(const struct guess *guesses, uint32_t n, uint32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (guesses[i].expert == expert)
            return (struct guess *)&guesses[i];
    return NULL;
}

void expert_guesses_make(struct expert_guesses *g, uint32_t layer, uint32_t distance,
                         const uint32_t *experts, uint32_t n)
{
    struct list *list = list_of(g, layer);
    for (uint32_t i = 0; i < n; i++) {
        const struct guess *old = find_in(list->guesses, list->n, experts[i]);
        g->merged[i] = old ? *old : (struct guess){ .expert = experts[i], .distance = distance };
    }
    for (uint32_t i = 0; i < list->n; i++) {
        struct guess old = list->guesses[i];
        if (find_in(g->merged, n, old.expert))
            continue;
        if (old.state == GUESS_TO_READ)
            old.state = GUESS_DROPPED;
        g->merged[n++] = old;
    }
    memcpy(list->guesses, g->merged, n * sizeof(*g->merged));
    list->n = n;
}

struct guess *expert_guesses_find(struct expert_guesses *g, uint32_t layer, uint32_t expert)
{
    const struct list *list = &g->lists[layer % EXPERT_GUESS_LAYERS];
    return list->layer == layer ? find_in(list->guesses, list->n, expert) : NULL;
}

/* A wrong guess costs the disk as much time as a right one saves: at worst, for it may have been idle. */
static bool pays(const struct expert_guesses *g, uint32_t layer, const struct guess *guess)
{
    const struct record *record = &g->records[layer][guess->distance - 1];
    return record->n_right >= record->n_wrong;
}

struct guess *expert_guesses_next(struct expert_guesses *g, uint32_t layer, uint32_t *of)
{
    for (*of = layer + 1; *of <= layer + EXPERT_GUESS_LAYERS; ++*of) {
        const struct list *list = &g->lists[*of % EXPERT_GUESS_LAYERS];
        for (uint32_t i = 0; i < list->n && list->layer == *of; i++)
            if (list->guesses[i].state == GUESS_TO_READ && pays(g, *of, &list->guesses[i]))
                return &list->guesses[i];
    }
    return NULL;
}

bool expert_guesses_due(const struct expert_guesses *g, uint32_t layer, uint32_t *due)
{
    for (uint32_t i = 0; i < EXPERT_GUESS_LAYERS; i++) {
        *due = g->lists[i].layer;
        bool is_to_come = *due > layer && *due <= layer + EXPERT_GUESS_LAYERS;
        if (g->lists[i].n > 0 && !is_to_come)
            return true;
    }
    return false;
}

const struct guess *expert_guesses_of(const struct expert_guesses *g, uint32_t layer, uint32_t *n)
{
    const struct list *list = &g->lists[layer % EXPERT_GUESS_LAYERS];
    *n = list->layer == layer ? list->n : 0;
    return list->guesses;
}

void expert_guesses_judge(struct expert_guesses *g, uint32_t layer, const struct guess *guess,
                          bool is_right)
{
    const double memory = 0.99; /* of the record, from guess to guess */
    struct record *record = &g->records[layer][guess->distance - 1];
    record->n_right = record->n_right * memory + is_right;
    record->n_wrong = record->n_wrong * memory + !is_right;
}

void expert_guesses_forget(struct expert_guesses *g, uint32_t layer)
{
    list_of(g, layer)->n = 0;
}
