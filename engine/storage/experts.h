/* SPDX-License-Identifier: Apache-2.0
 *
 * experts.h - the experts of a mixture that is larger than memory: slots for some, the others read from the
 * model's file when tokens choose them.
 *
 * An expert is its gate, up and down matrix.  What is read goes past the page cache into a staging buffer,
 * from there in the layout of resident weights into a slot (expert_cache.h says which): the same bits come
 * out.  A step of a layer is
 *
 *     experts_want(...)                      at once after the router: reads begin
 *     while ((n = experts_next(..., set)))   the set that is there; waits only if nothing is
 *         compute the experts of the set     while the next ones are read
 *
 * Thread: the stepping one.
 */
#ifndef LACUNA_ENGINE_EXPERTS_H
#define LACUNA_ENGINE_EXPERTS_H

#include "engine/model/gguf.h"
#include "engine/storage/io.h"
#include "engine/workers.h"

struct experts;

enum expert_part { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_N_PARTS };

/* The tensors of a layer's experts, [n_experts] matrices each; NULL: the layer is dense, or, of the gate, the
 * experts have none. */
struct experts_layer {
    const struct gguf_tensor *part[EXPERT_N_PARTS];
};

struct experts_options {
    const struct experts_layer *layers; /* [n_layers], read at open only */
    uint32_t n_layers, n_experts;
    uint64_t slot_bytes; /* memory for slots; what is left of a slot's size is not used */
    enum engine_io io;
    struct io_faults faults;
};

struct experts_stats {
    uint64_t n_hits, n_misses; /* experts of a step's layer that were in a slot, or not */
    uint64_t n_evictions;
    uint64_t read_bytes;
    uint64_t stall_ns; /* that the stepping thread waited for reads with nothing else to do */
};

/* The tensors of a layer's experts; all NULL: it has none. */
void experts_find(const struct gguf *g, uint32_t layer, struct experts_layer *out);

/* Bytes of all experts without slots, of slots at least, and of buffers beside slots. */
uint64_t experts_least_bytes(const struct gguf *g, const struct experts_options *opt);
uint64_t experts_resident_bytes(const struct gguf *g, const struct experts_options *opt);
uint64_t experts_staging_bytes(const struct gguf *g, const struct experts_options *opt);

/* g: the model's file, open; it and the workers must outlive *out. */
int experts_open(struct experts **out, const struct gguf *g, const struct experts_options *opt,
                 struct workers *workers, struct engine_err *err);
void experts_close(struct experts *x); /* NULL is fine */

/* The n experts of `list`, expert i for n_tokens[i] tokens, will be computed in this layer.  All of the last
 * layer's must have been handed out. */
void experts_want(struct experts *x, uint32_t layer, const uint32_t *list, const uint32_t *n_tokens,
                  uint32_t n);
/* Lets go of the last set, and fills `set` with experts that are there; 0: all were handed out or failed. */
uint32_t experts_next(struct experts *x, uint32_t *set);
/* Those of the last experts_want that could not be read, and why; until the next one. */
uint32_t experts_failed(const struct experts *x, const uint32_t **list, const char **reason);

/* A matrix of an expert of the set. */
const void *experts_data(const struct experts *x, uint32_t layer, uint32_t expert,
                         enum expert_part part);

/* A step of n_tokens tokens went through all layers. */
void experts_pass(struct experts *x, uint32_t n_tokens);

/* Fixed at open; any thread. */
uint32_t experts_n_slots(const struct experts *x);
void experts_stats(const struct experts *x, struct experts_stats *out);

#endif
