/* SPDX-License-Identifier: Apache-2.0
 *
 * repack.h - quantised tensors into the panels that the kernels like best (kernels/packed.h), while the
 * file is being read: the file's pages go back as soon as their panels are made, so that there is one copy
 * of a model in memory, also while it is loaded.  Bits of a result do not depend on it.
 *
 * Left as they are: vectors, F32, F16 and BF16, and an embedding that is only looked up.
 */
#ifndef LACUNA_ENGINE_REPACK_H
#define LACUNA_ENGINE_REPACK_H

#include "engine/model/gguf.h"
#include "engine/workers.h"

struct repack;

/* Bytes that a tensor takes in memory, in panels or not; and all of a model's, but for those on demand. */
uint64_t repack_memory_bytes(const struct gguf *g, const struct gguf_tensor *t);
uint64_t repack_weight_bytes(const struct gguf *g);

/* Of the bytes of weights, those that are only looked up, a row at a time, where they lie in the file. */
uint64_t repack_lookup_bytes(const struct gguf *g);

/* Takes the memory of all panels.  g and workers must outlive the loading. */
int repack_open(struct repack **out, const struct gguf *g, struct workers *workers,
                struct engine_err *err);
void repack_close(struct repack *r); /* NULL is fine; frees the panels */

/* For gguf_load_options.take: makes the panels of a tensor that is to have them.  ctx is the struct
 * repack. */
uint64_t repack_take(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready);

/* Are its matrices to be packed? */
bool repack_wants(const struct gguf *g, const struct gguf_tensor *t);
/* Bytes of its panels. */
uint64_t repack_bytes(const struct gguf_tensor *t);
/* Makes those of its bytes [taken, ready) that are whole panels' rows; taken is what an earlier call
 * returned, or 0.  Returns where the last panel's rows end.  dst: of all of the tensor's panels. */
uint64_t repack_make(struct workers *workers, const struct gguf_tensor *t, uint64_t taken,
                     uint64_t ready, void *dst);

/* The panels of a tensor, made here or stored so; NULL: it has none.  r may be NULL: none were made. */
const void *repack_find(const struct repack *r, const struct gguf_tensor *t);

#endif
