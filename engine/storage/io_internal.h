/* SPDX-License-Identifier: Apache-2.0
 *
 * io_internal.h - what io.c and its backends share.
 *
 * A backend knows single attempts: one read(2)-like call each, which may come back short or fail.
 * io.c makes reads of them: it continues the short, repeats the interrupted and injects the faults,
 * the same for all backends.
 */
#ifndef LACUNA_ENGINE_IO_INTERNAL_H
#define LACUNA_ENGINE_IO_INTERNAL_H

#include "engine/storage/io.h"

enum {
    IO_DEFAULT_DEPTH = 64,
    IO_MAX_DEPTH = 4096,
    IO_DEFAULT_THREADS = 4,
    IO_MAX_THREADS = 64,
    IO_REASON_BYTES = 128,
};

#define IO_FOREVER UINT64_MAX

/* The end of one attempt: res is its bytes (0 at the end of the file), or -errno. */
struct io_attempt {
    struct io_read *read;
    int64_t res;
};

/* One row per backend.  All calls come from the thread that opened the struct io, and at most
 * `depth` attempts are under way at any time. */
struct io_backend {
    const char *name;
    /* Starts an attempt to read `bytes` more (1 .. what is left) of r, behind r->done_bytes. */
    void (*start)(void *state, struct io_read *r, uint64_t bytes);
    /* Finished attempts, at most max; waits wait_ns for one (then one must be under way), with IO_FOREVER
     * without end.  May come back early with none. */
    uint32_t (*collect)(void *state, struct io_attempt *done, uint32_t max, uint64_t wait_ns);
    void (*close)(void *state); /* no attempt is under way */
};

extern const struct io_backend io_backend_uring;
extern const struct io_backend io_backend_pread;
extern const struct io_backend io_backend_mmap; /* through the page cache */

/* 0, or -1 with the cause in reason: the kernel, or a sandbox around us, has no io_uring for us. */
int io_uring_backend_open(void **state, uint32_t depth, bool moves, char reason[IO_REASON_BYTES]);
/* Copies from a mapping.  Bytes, fewer than asked if a page behind them cannot be had, or -errno: -EIO if the first
 * cannot, for the file is shorter or its storage fails. */
int64_t io_mmap_copy(int fd, uint64_t offset, size_t bytes, void *dst);
/* 0, or -1 with the cause in reason: a sandbox around us does not let us copy as we must. */
int io_mmap_probe(char reason[IO_REASON_BYTES]);

/* ---- threads for backends that block: io_pool.c ---- */

/* One attempt to read `bytes` more of r, on a thread of the pool.  Bytes, 0 at the end of the file, or -errno. */
typedef int64_t io_pool_fn(const struct io_read *r, size_t bytes);
int64_t io_pread_attempt(const struct io_read *r, size_t bytes);
int64_t io_mmap_attempt(const struct io_read *r, size_t bytes);

/* 0 or -errno.  At least one thread runs; as many as could be started. */
int io_pool_open(void **state, uint32_t n_threads, io_pool_fn *attempt);
/* See struct io_backend. */
void io_pool_start(void *state, struct io_read *r, uint64_t bytes);
uint32_t io_pool_collect(void *state, struct io_attempt *done, uint32_t max, uint64_t wait_ns);
void io_pool_close(void *state);

#endif
