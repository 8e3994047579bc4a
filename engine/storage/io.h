/* SPDX-License-Identifier: Apache-2.0
 *
 * io.h - asynchronous reads from storage: io_uring, a pool of pread threads where the kernel or
 * a container forbids it, or copies through the page cache.  The one owner of liburing.
 *
 * A struct io belongs to the thread that opened it: it alone submits and reaps (the ring is
 * SINGLE_ISSUER with DEFER_TASKRUN where the kernel has it), unless it `moves`.  Short reads are continued, EINTR and
 * EAGAIN retried; any other error is the read's result.
 */
#ifndef LACUNA_ENGINE_IO_H
#define LACUNA_ENGINE_IO_H

#include "engine/engine.h"

struct io;

/* Faults for tests: the same code path as real ones.  Zeroed = none. */
struct io_faults {
    uint64_t seed;
    uint32_t short_permille; /* reads that return fewer bytes than asked */
    uint32_t eio_permille;   /* reads that fail with -EIO */
    uint32_t delay_us;       /* each completion is at least this late */
    bool deny_uring;         /* as a container's seccomp profile does: -EPERM at setup */
};

struct io_options {
    enum engine_io backend; /* AUTO: io_uring, else pread, said in io_backend_name and reason */
    uint32_t depth;         /* reads in flight; 0: 64 */
    uint32_t n_threads;     /* of the pool, for pread and mmap; 0: 4 */
    bool moves;             /* used by one thread at a time, but not always the same */
    struct io_faults faults;
};

int io_open(struct io **out, const struct io_options *opt, struct engine_err *err);
void io_close(struct io *io); /* waits for reads in flight; NULL is fine */

const char *io_backend_name(const struct io *io);    /* "io_uring", "pread" or "mmap" */
const char *io_fallback_reason(const struct io *io); /* why not io_uring; "" if it is */

/* One read, the caller's memory until it is reaped. */
struct io_read {
    int fd;
    void *dst;
    uint64_t offset;
    uint64_t bytes; /* at most 1 GiB */
    void *user;
    uint32_t unit; /* direct reads: what their bytes are a multiple of; 0: of nothing */
    /* out */
    int64_t result; /* bytes (less than asked only at the end of the file), or -errno */
    /* private to io.c */
    uint64_t done_bytes;
    struct io_read *next;
};

/* Queues a read.  0, or -EAGAIN if depth reads are in flight (reap first). */
int io_submit(struct io *io, struct io_read *r);
/* Finished reads, at most max; waits for one if `wait` and any is in flight.  Returns how many. */
uint32_t io_reap(struct io *io, struct io_read **done, uint32_t max, bool wait);
/* The same, waiting for wait_ns at most: 0 also if none finished in time. */
uint32_t io_reap_within(struct io *io, struct io_read **done, uint32_t max, uint64_t wait_ns);
uint32_t io_n_in_flight(const struct io *io);

/* "Input/output error" for EIO; never NULL.  Any thread. */
const char *io_errno_text(int errno_value);

#endif
