/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_cache.c - a table of experts and one of slots.
 *
 * Heats are not made smaller as tokens pass; instead later tokens count more (`weight`), and all are scaled
 * down together before that becomes too large.
 * Invariants: in_slot[s] names the entry whose slot is s, or none; an absent entry has no pins.
 */
#include "engine/storage/expert_cache.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define HALF_LIFE 200.0 /* tokens: a topic lasts as long */
#define MOST_WEIGHT 1e100

#define NO_ENTRY UINT32_MAX

struct entry {
    double heat; /* in units of the weight of a token at the start */
    uint32_t slot;
    uint32_t n_pins;
    enum expert_state state;
};

struct expert_cache {
    uint32_t n_layers, n_experts, n_slots;
    double weight;         /* of a token now */
    struct entry *entries; /* [n_layers][n_experts] */
    uint32_t *in_slot;     /* [n_slots] the entry, or NO_ENTRY */
    uint32_t *n_ready;     /* [n_layers] */
    uint64_t n_evictions;
};

static struct entry *entry_of(const struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    assert(layer < c->n_layers && expert < c->n_experts);
    return &c->entries[(size_t)layer * c->n_experts + expert];
}

struct expert_cache *expert_cache_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_slots)
{
    struct expert_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    *c = (struct expert_cache){
        .n_layers = n_layers, .n_experts = n_experts, .n_slots = n_slots, .weight = 1
    };
    c->entries = calloc((size_t)n_layers * n_experts, sizeof(*c->entries));
    c->in_slot = malloc(n_slots * sizeof(*c->in_slot));
    c->n_ready = calloc(n_layers, sizeof(*c->n_ready));
    if (!c->entries || !c->in_slot || !c->n_ready) {
        expert_cache_close(c);
        return NULL;
    }
    for (uint32_t s = 0; s < n_slots; s++)
        c->in_slot[s] = NO_ENTRY;
    return c;
}

void expert_cache_close(struct expert_cache *c)
{
    if (!c)
        return;
    free(c->entries);
    free(c->in_slot);
    free(c->n_ready);
    free(c);
}

enum expert_state expert_cache_state(const struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    return entry_of(c, layer, expert)->state;
}

uint32_t expert_cache_slot(const struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    const struct entry *e = entry_of(c, layer, expert);
    assert(e->state != EXPERT_ABSENT);
    return e->slot;
}

/* ---- heat ---- */

void expert_cache_use(struct expert_cache *c, uint32_t layer, uint32_t expert, double heat)
{
    entry_of(c, layer, expert)->heat += c->weight * heat;
}

double expert_cache_row_heat(uint32_t row)
{
    return exp2(row / HALF_LIFE);
}

void expert_cache_pass(struct expert_cache *c, uint32_t n_tokens)
{
    c->weight *= exp2(n_tokens / HALF_LIFE);
    if (c->weight < MOST_WEIGHT)
        return;
    for (size_t i = 0; i < (size_t)c->n_layers * c->n_experts; i++)
        c->entries[i].heat /= c->weight;
    c->weight = 1;
}

double expert_cache_heat(const struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    return entry_of(c, layer, expert)->heat / c->weight;
}

void expert_cache_set_heat(struct expert_cache *c, uint32_t layer, uint32_t expert, double heat)
{
    entry_of(c, layer, expert)->heat = heat * c->weight;
}

/* ---- slots ---- */

/* Free, or of the coldest entry that may go.  A look at each: thousands at most, once for a read of
 * megabytes. */
static uint32_t find_slot(const struct expert_cache *c)
{
    uint32_t best = EXPERT_NO_SLOT;
    double coldest = INFINITY;
    for (uint32_t s = 0; s < c->n_slots; s++) {
        if (c->in_slot[s] == NO_ENTRY)
            return s;
        const struct entry *e = &c->entries[c->in_slot[s]];
        if (e->state == EXPERT_READY && e->n_pins == 0 && e->heat < coldest) {
            best = s;
            coldest = e->heat;
        }
    }
    return best;
}

uint32_t expert_cache_place(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    struct entry *e = entry_of(c, layer, expert);
    assert(e->state == EXPERT_ABSENT);
    uint32_t slot = find_slot(c);
    if (slot == EXPERT_NO_SLOT)
        return slot;
    if (c->in_slot[slot] != NO_ENTRY) {
        c->entries[c->in_slot[slot]].state = EXPERT_ABSENT;
        c->n_ready[c->in_slot[slot] / c->n_experts]--;
        c->n_evictions++;
    }
    c->in_slot[slot] = (uint32_t)(e - c->entries);
    e->state = EXPERT_LOADING;
    e->slot = slot;
    e->n_pins = 1;
    return slot;
}

void expert_cache_loaded(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    struct entry *e = entry_of(c, layer, expert);
    assert(e->state == EXPERT_LOADING);
    e->state = EXPERT_READY;
    c->n_ready[layer]++;
}

void expert_cache_failed(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    struct entry *e = entry_of(c, layer, expert);
    assert(e->state == EXPERT_LOADING);
    e->state = EXPERT_ABSENT;
    e->n_pins = 0;
    c->in_slot[e->slot] = NO_ENTRY;
}

void expert_cache_pin(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    struct entry *e = entry_of(c, layer, expert);
    assert(e->state != EXPERT_ABSENT);
    e->n_pins++;
}

void expert_cache_unpin(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    struct entry *e = entry_of(c, layer, expert);
    assert(e->n_pins > 0);
    e->n_pins--;
}

uint32_t expert_cache_n_ready(const struct expert_cache *c, uint32_t layer)
{
    return c->n_ready[layer];
}

uint64_t expert_cache_evictions(const struct expert_cache *c)
{
    return c->n_evictions;
}
