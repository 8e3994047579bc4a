/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_reads.h - experts on their way from the model's file: in pieces, past the page cache (but with --io mmap), to where they stay
 * or, those that are computed with in another layout, into buffers.
 *
 * Some are urgent, because a step waits for them; the others are foreseen: they get half of the buffers, and
 * their pieces are asked for when the urgent ones leave the disk time.
 *
 * Thread: the stepping one.
 */
#ifndef LACUNA_ENGINE_EXPERT_READS_H
#define LACUNA_ENGINE_EXPERT_READS_H

#include "engine/storage/expert_tensors.h"
#include "engine/storage/io.h"

struct expert_reads;

struct expert_reads_options {
    const struct gguf *g;               /* open; must outlive the reads */
    const struct experts_layer *layers; /* [n_layers]; must outlive the reads */
    uint32_t n_layers;
    uint64_t patience_ns, timeout_ns; /* see expert_reads_has_room */
    enum engine_io io;
    struct io_faults faults;
};

/* An expert that came, or did not. */
struct expert_read {
    uint32_t layer, expert;
    int error; /* errno of a piece that failed twice; EIO also if the file has become shorter */
    const uint8_t *part[EXPERT_N_PARTS]; /* as in the file; NULL: the layer has no such part */
};

/* Of all buffers; 0: all go straight. */
uint64_t expert_reads_buffer_bytes(const struct experts_layer *layers, uint32_t n_layers);

int expert_reads_open(struct expert_reads **out, const struct expert_reads_options *opt,
                      struct engine_err *err);
void expert_reads_close(struct expert_reads *r); /* waits for reads in flight; NULL is fine */

/* What it reads with: to be asked for its name, not used. */
const struct io *expert_reads_io(const struct expert_reads *r);

/* Whether a buffer is free for one more.  None is while storage that was asked for something has not shown a sign of
 * life for patience_ns, but for an urgent try every timeout_ns: what cannot come shall not take the slots of what is
 * there. */
bool expert_reads_has_room(const struct expert_reads *r, bool is_urgent);
/* Begins to read an expert that is not on its way; there is room for it.  dst: where the blocks of each part go, the
 * caller's and left alone until the expert is taken; NULL: into a buffer, of a part that does not go straight. */
void expert_reads_begin(struct expert_reads *r, uint32_t layer, uint32_t expert,
                        uint8_t *const dst[EXPERT_N_PARTS], bool is_urgent);
/* What is on its way is urgent now. */
void expert_reads_hurry(struct expert_reads *r, uint32_t layer, uint32_t expert);

/* Asks for more pieces, and sees what has come; waits up to wait_ns for a piece if any is in flight. */
void expert_reads_poll(struct expert_reads *r, uint64_t wait_ns);
/* When (engine_clock_ns) the storage last showed that it works on an expert that is on its way: a piece of it came
 * or was asked for, or, while all of its pieces wait for others, one of those. */
uint64_t expert_reads_alive_ns(const struct expert_reads *r, uint32_t layer, uint32_t expert);
/* The same of any expert: when a piece last came, or the first one after it was asked for; 0: there never was one. */
uint64_t expert_reads_any_alive_ns(const struct expert_reads *r);
/* An expert that is complete or has failed, its buffers the caller's until the next call; NULL: none is. */
const struct expert_read *expert_reads_take(struct expert_reads *r);

/* Fills in what there is to say of reads. */
void expert_reads_count(const struct expert_reads *r, struct engine_expert_stats *out);

#endif
