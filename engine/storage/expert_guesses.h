/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_guesses.h - what the layers that come next may want of what is not in memory, and how often such guesses have
 * been right.  Decisions only; whoever asks reads the files.
 *
 * A layer is guessed at from up to EXPERT_GUESS_LAYERS before it: the nearer guess says what is read, and in which
 * order; what a farther one has begun stays.
 *
 * Thread: the stepping one.
 */
#ifndef LACUNA_ENGINE_EXPERT_GUESSES_H
#define LACUNA_ENGINE_EXPERT_GUESSES_H

#include <stdbool.h>
#include <stdint.h>

struct expert_guesses;

enum { EXPERT_GUESS_LAYERS = 2 };

enum guess_state {
    GUESS_TO_READ,
    GUESS_DROPPED, /* the nearer guess does not have it */
    GUESS_READING,
    GUESS_READY,
    GUESS_FAILED,
};

struct guess {
    uint32_t expert;
    uint32_t distance; /* of the layer that guessed first, 1 to EXPERT_GUESS_LAYERS */
    enum guess_state state;
    bool gave_way; /* the guess was right, and too late */
};

/* NULL: no memory. */
struct expert_guesses *expert_guesses_open(uint32_t n_layers, uint32_t n_experts);
void expert_guesses_close(struct expert_guesses *g); /* NULL is fine */

/* The n experts of `list`, likeliest first and not in memory, may be wanted by a layer, thinks the one `distance` before
 * it. */
void expert_guesses_make(struct expert_guesses *g, uint32_t layer, uint32_t distance,
                         const uint32_t *list, uint32_t n);
/* The guess at an expert, the caller's to change its state; NULL: there is none. */
struct guess *expert_guesses_find(struct expert_guesses *g, uint32_t layer, uint32_t expert);
/* What to read next, if guessing pays: of the nearest layer after `layer`, and *of is which.  NULL: nothing. */
struct guess *expert_guesses_next(struct expert_guesses *g, uint32_t layer, uint32_t *of);

/* Whether there are guesses at this layer, which is at hand, or at one that was left out: *due. */
bool expert_guesses_due(const struct expert_guesses *g, uint32_t layer, uint32_t *due);
/* All guesses at a layer; they are *n. */
const struct guess *expert_guesses_of(const struct expert_guesses *g, uint32_t layer, uint32_t *n);
/* One of them was right or wrong. */
void expert_guesses_judge(struct expert_guesses *g, uint32_t layer, const struct guess *guess,
                          bool is_right);
void expert_guesses_forget(struct expert_guesses *g, uint32_t layer);

#endif
