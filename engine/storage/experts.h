/* SPDX-License-Identifier: Apache-2.0
 *
 * experts.h - the experts of a mixture that is larger than memory: slots for some, the others read from the
 * model's file when tokens choose them.
 *
 * An expert is its gate, up and down matrix.  What is read goes past the page cache (but with --io mmap) into a buffer
 * (expert_reads.h), from there in the layout of resident weights into a slot (expert_cache.h says which): the
 * same bits come out.  Of a file that `lacuna pack` wrote, which has that layout, it goes straight into the slot.
 * A step of a layer is
 *
 *     experts_want(...)                      at once after the router: reads begin
 *     experts_foresee(...)                   what the next layers may want: so that the disk is never idle
 *     while ((n = experts_next(..., set)))   the set that is there; waits only if nothing is
 *         compute the experts of the set     while the next ones are read
 *
 * Storage that does not answer holds up nobody for long: when nothing came of an expert for a second, it is late,
 * and the rows that want it have to come again in a later step, while the others go on; after ten it has failed
 * for those that want it then.  Whatever the storage answers later is used.
 *
 * Thread: the stepping one.
 */
#ifndef LACUNA_ENGINE_EXPERTS_H
#define LACUNA_ENGINE_EXPERTS_H

#include "engine/storage/expert_guesses.h"
#include "engine/storage/expert_tensors.h"
#include "engine/storage/io.h"
#include "engine/workers.h"

struct experts;

struct experts_options {
    const struct experts_layer *layers; /* [n_layers]; must outlive the experts */
    uint32_t n_layers, n_experts;
    uint64_t slot_bytes; /* memory for slots; what is left of a slot's size is not used */
    bool no_foresight;
    uint32_t patience_ms, timeout_ms; /* without a piece of an expert; 0: 1 s, 10 s */
    enum engine_io io;
    struct io_faults faults;
};

/* Bytes of all experts without slots, of slots for all and at least, and of buffers beside slots. */
uint64_t experts_resident_bytes(const struct experts_options *opt);
uint64_t experts_slots_bytes(const struct experts_options *opt);
uint64_t experts_least_bytes(const struct experts_options *opt);
uint64_t experts_staging_bytes(const struct experts_options *opt);

/* g: the model's file, open; it and the workers must outlive *out. */
int experts_open(struct experts **out, const struct gguf *g, const struct experts_options *opt,
                 struct workers *workers, struct engine_err *err);
void experts_close(struct experts *x); /* NULL is fine */

/* "io_uring", "pread" or "mmap", and why not io_uring if that was not asked for: see io.h. */
const char *experts_io_name(const struct experts *x);
const char *experts_io_fallback(const struct experts *x);

/* How hot each expert is [n_layers][n_experts]: see expert_cache.h. */
void experts_heats(const struct experts *x, float *heat);
struct experts_warm_options {
    engine_progress_fn *progress; /* NULL: nobody asks */
    void *progress_ctx;
    const volatile int *cancel; /* NULL, or: not 0 ends it */
};
/* Takes heats over, between steps, and reads the hottest experts until the slots are full.  What cannot
 * be read is left out. */
void experts_warm(struct experts *x, const float *heat, const struct experts_warm_options *opt);

/* What a step's tokens chose. */
struct experts_choice {
    uint32_t expert, n_tokens;
    /* Of these, those that chose it in an earlier step, too, in which an expert was late. */
    uint32_t n_again;
    double heat; /* of the others: the sum of experts_row_heat */
};
/* What a token in place `row` of a step adds to the heat of the experts that it chooses: later ones more. */
double experts_row_heat(uint32_t row);
/* The n experts of `list` will be computed in this layer.  All of the last layer's must have been handed out, or
 * be late or failed. */
void experts_want(struct experts *x, uint32_t layer, const struct experts_choice *list, uint32_t n);
/* fn sees every experts_want from now on; NULL: no longer. */
void experts_trace(struct experts *x, engine_expert_trace_fn *fn, void *ctx);
/* Lets go of the last set, and fills `set` with experts that are there; 0: all were handed out, are late or have
 * failed.  may_defer: else none is late, and the step waits until it fails. */
uint32_t experts_next(struct experts *x, uint32_t *set, bool may_defer);
/* The n experts of `list`, likeliest first, may be wanted in this layer, one to EXPERT_GUESS_LAYERS after the one at
 * hand: they are read when what is wanted leaves the disk time, nearer layers first, if that has been worth it in this layer.  Said again,
 * from nearer, it counts instead of what was said before.  Its experts_want forgets what is not wanted. */
void experts_foresee(struct experts *x, uint32_t layer, const uint32_t *list, uint32_t n);
/* Whether anything could come of it: the layer has experts, and not all of all layers have a slot. */
bool experts_can_foresee(const struct experts *x, uint32_t layer);
/* Is it in memory?  Any thread while the stepping one calls nothing else. */
bool experts_is_ready(const struct experts *x, uint32_t layer, uint32_t expert);
/* Before experts_want of the layer: the token in place `row` would have chosen it, and took another one because it is
 * not in memory. */
void experts_gave_way(struct experts *x, uint32_t layer, uint32_t expert, uint32_t row);
/* Those of the last experts_want that could not be read, and why; until the next one. */
uint32_t experts_failed(const struct experts *x, const uint32_t **list, const char **reason);
uint32_t experts_late(const struct experts *x, const uint32_t **list);
/* Between steps, when all rows are late: waits a little for the storage. */
void experts_await(struct experts *x);

/* A matrix of an expert of the set. */
const void *experts_data(const struct experts *x, uint32_t layer, uint32_t expert,
                         enum expert_part part);

/* A step of n_tokens tokens went through all layers. */
void experts_pass(struct experts *x, uint32_t n_tokens);

/* Between steps: what others see of the counts from now on. */
void experts_publish(struct experts *x);
/* As of the last experts_publish; layers: [n_layers], or NULL.  Any thread. */
void experts_stats(const struct experts *x, struct engine_expert_stats *all,
                   struct engine_expert_layer *layers);

#endif
