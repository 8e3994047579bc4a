/* SPDX-License-Identifier: Apache-2.0
 *
 * repack.h - quantised tensors into the layouts that the kernels like best (kernels/packed.h), while the
 * file is being read: the file's pages go back as soon as their rows are packed, so that there is one copy
 * of a model in memory, also while it is loaded.  Bits of a result do not depend on it.
 *
 * Left as they are: vectors, F32, F16 and BF16, an embedding that is only looked up, and where neurons that are zero
 * are skipped the matrix whose rows are picked.
 */
#ifndef LACUNA_ENGINE_REPACK_H
#define LACUNA_ENGINE_REPACK_H

#include "engine/model/gguf.h"
#include "engine/workers.h"

struct repack;

struct repack_rules {
    bool skips_zeros;  /* of neurons: the feed-forward's down matrices in columns */
    bool is_gated;     /* and then up's in rows */
    bool only_dense;   /* not of experts */
    bool keeps_panels; /* but in panels, too, of those that are not experts' */
};

/* Says for every tensor how it shall lie in memory (gguf_tensor.target, twin), before anything below is asked.
 * Returns how many will lie in columns. */
uint64_t repack_choose(struct gguf *g, const struct repack_rules *rules);

/* Bytes that a tensor takes in memory, packed or not, once or twice; and all of a model's, but for those on demand. */
uint64_t repack_memory_bytes(const struct gguf_tensor *t);
uint64_t repack_weight_bytes(const struct gguf *g);

/* Of the bytes of weights, those that are only looked up, a row at a time, where they lie in the file. */
uint64_t repack_lookup_bytes(const struct gguf *g);

/* Takes the memory of all that is packed.  g and workers must outlive the loading. */
int repack_open(struct repack **out, const struct gguf *g, struct workers *workers,
                struct engine_err *err);
void repack_close(struct repack *r); /* NULL is fine; frees what was packed */

/* For gguf_load_options.take: packs a tensor that is to be packed.  ctx is the struct repack. */
uint64_t repack_take(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready);

/* Are its matrices to be packed? */
bool repack_wants(const struct gguf_tensor *t);
/* Bytes of its target then. */
uint64_t repack_bytes(const struct gguf_tensor *t);
/* Packs into the target those of its bytes [taken, ready) that are the rows of whole pieces (kern_layout_rows); taken is what an
 * earlier call returned, or 0.  Returns where the last piece's rows end.  dst: of all of the packed tensor. */
uint64_t repack_make(struct workers *workers, const struct gguf_tensor *t, uint64_t taken,
                     uint64_t ready, void *dst);

/* A packed tensor, made here or stored so; NULL: it is not packed.  r may be NULL: none was made. */
const void *repack_find(const struct repack *r, const struct gguf_tensor *t);
/* Its twin; NULL: it has none. */
const void *repack_find_twin(const struct repack *r, const struct gguf_tensor *t);

#endif
