/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_cache.h - which experts of a mixture lie in memory: the slots, what is in them, and what has to go.
 * Decisions only; whoever asks reads the files and owns the memory.
 *
 * Experts are kept by heat: how many tokens chose them, each token counting half as much HALF_LIFE tokens
 * later.  On routing as trained models have it (a hot quarter that takes most of the picks, and a topic that
 * moves a part of it) this hits as often as the best set that never changes, where least recently used gives
 * slots away to experts that are wanted once.
 *
 * Thread: the stepping one.
 */
#ifndef LACUNA_ENGINE_EXPERT_CACHE_H
#define LACUNA_ENGINE_EXPERT_CACHE_H

#include <stdbool.h>
#include <stdint.h>

struct expert_cache;

enum expert_state {
    EXPERT_ABSENT,
    EXPERT_LOADING, /* it has a slot, and is not there yet */
    EXPERT_READY,
};

#define EXPERT_NO_SLOT UINT32_MAX

/* n_experts of each of n_layers layers share n_slots slots.  NULL: no memory. */
struct expert_cache *expert_cache_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_slots);
void expert_cache_close(struct expert_cache *c); /* NULL is fine */

enum expert_state expert_cache_state(const struct expert_cache *c, uint32_t layer, uint32_t expert);
/* Of an expert that is loading or ready. */
uint32_t expert_cache_slot(const struct expert_cache *c, uint32_t layer, uint32_t expert);

/* Tokens chose the expert: it is hotter by as much, each of them the heat of its place in the step. */
void expert_cache_use(struct expert_cache *c, uint32_t layer, uint32_t expert, double heat);
/* Of the token in place `row` of a step: later ones count more, so that a prompt leaves the heats that it would have
 * left token by token, the experts of its last tokens hottest. */
double expert_cache_row_heat(uint32_t row);
/* n_tokens went through all layers: what was used before counts less. */
void expert_cache_pass(struct expert_cache *c, uint32_t n_tokens);

/* Gives an absent expert a slot: a free one, or that of the coldest ready expert that nobody has pinned,
 * which is absent from now on.  The expert is loading, and pinned once.  EXPERT_NO_SLOT: all are pinned. */
uint32_t expert_cache_place(struct expert_cache *c, uint32_t layer, uint32_t expert);
/* What was loading is there, or will never be: then it is absent, its slot free, whoever pinned it. */
void expert_cache_loaded(struct expert_cache *c, uint32_t layer, uint32_t expert);
void expert_cache_failed(struct expert_cache *c, uint32_t layer, uint32_t expert);

/* A pinned expert keeps its slot.  Pins are counted. */
void expert_cache_pin(struct expert_cache *c, uint32_t layer, uint32_t expert);
void expert_cache_unpin(struct expert_cache *c, uint32_t layer, uint32_t expert);

/* Tokens that chose it, old ones counting less; to be kept between runs. */
double expert_cache_heat(const struct expert_cache *c, uint32_t layer, uint32_t expert);
void expert_cache_set_heat(struct expert_cache *c, uint32_t layer, uint32_t expert, double heat);

uint32_t expert_cache_n_ready(const struct expert_cache *c, uint32_t layer);
uint64_t expert_cache_evictions(const struct expert_cache *c);

#endif
