/* SPDX-License-Identifier: Apache-2.0
 *
 * io.c - reads made of attempts.
 *
 *     io_submit -> attempt -> [backend] -> collect -> whole, failed or at the end of the file?
 *                     ^                                 | no             | yes
 *                     +------ continue or repeat -------+                v
 *                                                                  finished ring -> io_reap
 *
 * Thread: all of it runs on the thread that opened the struct io; a pool's threads see
 * nothing but single attempts.
 * Invariants: n_in_flight = attempts under way + entries of the finished ring <= depth, and a read
 * is in exactly one of the two.  The ring is in order of due_ns, as the delay is a constant.
 *
 * Faults are decided here, in front of the backend: a "short" read asks for less than is left, so
 * what follows is what follows a real one; an injected EIO is an attempt that ends without having
 * been made.
 */
#include "engine/clock.h"
#include "engine/storage/io_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    COLLECT_MAX = 64, /* attempts taken from the backend at once; lives on the stack */
    MAX_READ_BYTES = 1 << 30,
};

struct finished {
    struct io_read *read;
    uint64_t due_ns; /* not handed out before: delay_us */
};

struct io {
    const struct io_backend *backend;
    void *state; /* the backend's */
    uint32_t depth;
    uint32_t n_in_flight;
    uint32_t n_under_way;  /* attempts the backend has */
    struct finished *ring; /* [depth] */
    uint32_t ring_head, ring_n;
    struct io_faults faults;
    uint64_t n_draws; /* random numbers drawn for faults */
    char reason[IO_REASON_BYTES];
};

const char *io_errno_text(int errno_value)
{
    const char *text = strerrordesc_np(errno_value);
    return text ? text : "unknown error";
}

/* ---- open and close ---- */

static int open_pool(struct io *io, const struct io_options *opt, const struct io_backend *backend,
                     io_pool_fn *attempt, struct engine_err *err)
{
    uint32_t n_threads = opt->n_threads ? opt->n_threads : IO_DEFAULT_THREADS;
    int rc = io_pool_open(&io->state, n_threads, attempt);
    if (rc < 0)
        return engine_fail(err, ENGINE_ERR_IO, "cannot start %u threads for reading: %s", n_threads,
                           io_errno_text(-rc));
    io->backend = backend;
    return 0;
}

static int open_mmap(struct io *io, const struct io_options *opt, struct engine_err *err)
{
    if (io_mmap_probe(io->reason) < 0)
        return engine_fail(err, ENGINE_ERR_IO, "reading through mappings is not possible: %s",
                           io->reason);
    strcpy(io->reason, "mmap was asked for");
    return open_pool(io, opt, &io_backend_mmap, io_mmap_attempt, err);
}

static int choose_backend(struct io *io, const struct io_options *opt, struct engine_err *err)
{
    if (opt->backend == ENGINE_IO_MMAP)
        return open_mmap(io, opt, err);
    if (opt->backend == ENGINE_IO_PREAD) {
        strcpy(io->reason, "pread was asked for");
    } else if (opt->faults.deny_uring) {
        strcpy(io->reason, "io_uring_setup: Operation not permitted (injected)");
    } else if (io_uring_backend_open(&io->state, io->depth, opt->moves, io->reason) == 0) {
        io->backend = &io_backend_uring;
        return 0;
    }
    if (opt->backend == ENGINE_IO_URING)
        return engine_fail(err, ENGINE_ERR_IO, "io_uring is not available: %s", io->reason);
    return open_pool(io, opt, &io_backend_pread, io_pread_attempt, err);
}

static int check_options(const struct io_options *opt, struct engine_err *err)
{
    if (opt->depth > IO_MAX_DEPTH)
        return engine_fail(err, ENGINE_ERR_OPTION, "%u reads in flight, the limit is %d",
                           opt->depth, IO_MAX_DEPTH);
    if (opt->n_threads > IO_MAX_THREADS)
        return engine_fail(err, ENGINE_ERR_OPTION, "%u threads for reading, the limit is %d",
                           opt->n_threads, IO_MAX_THREADS);
    return 0;
}

int io_open(struct io **out, const struct io_options *opt, struct engine_err *err)
{
    *out = NULL;
    if (check_options(opt, err) < 0)
        return -1;
    struct io *io = calloc(1, sizeof(*io));
    if (!io)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the reader of files");
    io->depth = opt->depth ? opt->depth : IO_DEFAULT_DEPTH;
    io->faults = opt->faults;
    io->ring = calloc(io->depth, sizeof(*io->ring));
    if (!io->ring) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %u reads in flight", io->depth);
        goto fail;
    }
    if (choose_backend(io, opt, err) < 0)
        goto fail;
    *out = io;
    return 0;
fail:
    io_close(io);
    return -1;
}

const char *io_backend_name(const struct io *io)
{
    return io->backend->name;
}

const char *io_fallback_reason(const struct io *io)
{
    return io->reason;
}

uint32_t io_n_in_flight(const struct io *io)
{
    return io->n_in_flight;
}

/* ---- faults ---- */

/* A random number per draw (the splitmix64 finalizer over seed and count). */
static uint64_t fault_random(struct io *io)
{
    uint64_t x = io->faults.seed + 0x9E3779B97F4A7C15U * ++io->n_draws;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
}

static bool fault_hits(struct io *io, uint32_t permille)
{
    return permille > 0 && fault_random(io) % 1000 < permille;
}

/* ---- attempts ---- */

static void finish(struct io *io, struct io_read *r, int64_t result)
{
    assert(io->ring_n < io->depth);
    r->result = result;
    struct finished *f = &io->ring[(io->ring_head + io->ring_n++) % io->depth];
    f->read = r;
    f->due_ns = io->faults.delay_us ? engine_clock_ns() + 1000U * (uint64_t)io->faults.delay_us : 0;
}

static void start_attempt(struct io *io, struct io_read *r)
{
    uint64_t left = r->bytes - r->done_bytes;
    bool is_end = r->unit &&
                  r->done_bytes % r->unit != 0; /* a direct read stops within a unit there alone */
    if (left == 0 || is_end) {
        finish(io, r, (int64_t)r->done_bytes);
        return;
    }
    if (fault_hits(io, io->faults.eio_permille)) {
        finish(io, r, -EIO);
        return;
    }
    uint64_t unit = r->unit ? r->unit : 1;
    if (left > unit && fault_hits(io, io->faults.short_permille))
        left = unit * (1 + fault_random(io) % ((left - 1) / unit));
    io->n_under_way++;
    io->backend->start(io->state, r, left);
}

/* What the end of an attempt means for its read. */
static void end_attempt(struct io *io, struct io_read *r, int64_t res)
{
    io->n_under_way--;
    if (res == -EINTR || res == -EAGAIN) {
        start_attempt(io, r);
    } else if (res < 0) {
        finish(io, r, res);
    } else if (res == 0) {
        finish(io, r, (int64_t)r->done_bytes);
    } else {
        r->done_bytes += (uint64_t)res;
        assert(r->done_bytes <= r->bytes);
        start_attempt(io, r);
    }
}

int io_submit(struct io *io, struct io_read *r)
{
    assert(r->bytes <= MAX_READ_BYTES);
    if (io->n_in_flight == io->depth)
        return -EAGAIN;
    r->done_bytes = 0;
    r->result = 0;
    r->next = NULL;
    io->n_in_flight++;
    start_attempt(io, r);
    return 0;
}

static void collect(struct io *io, uint64_t wait_ns)
{
    struct io_attempt ended[COLLECT_MAX];
    uint32_t n;
    do {
        n = io->n_under_way ? io->backend->collect(io->state, ended, COLLECT_MAX, wait_ns) : 0;
        for (uint32_t i = 0; i < n; i++)
            end_attempt(io, ended[i].read, ended[i].res);
        wait_ns = 0;
    } while (n == COLLECT_MAX);
}

static void sleep_until(uint64_t due_ns)
{
    struct timespec t = { .tv_sec = (time_t)(due_ns / 1000000000U),
                          .tv_nsec = (long)(due_ns % 1000000000U) };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static uint32_t hand_out(struct io *io, struct io_read **done, uint32_t max)
{
    uint32_t n = 0;
    uint64_t now = io->faults.delay_us ? engine_clock_ns() : 0;
    while (n < max && io->ring_n > 0 && io->ring[io->ring_head].due_ns <= now) {
        done[n++] = io->ring[io->ring_head].read;
        io->ring_head = (io->ring_head + 1) % io->depth;
        io->ring_n--;
    }
    io->n_in_flight -= n;
    return n;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint32_t io_reap_within(struct io *io, struct io_read **done, uint32_t max, uint64_t wait_ns)
{
    if (max == 0)
        return 0;
    uint64_t now = wait_ns ? engine_clock_ns() : 0;
    uint64_t end = wait_ns < IO_FOREVER - now ? now + wait_ns : IO_FOREVER;
    collect(io, 0);
    uint32_t n = hand_out(io, done, max);
    while (n == 0 && io->n_in_flight > 0 && now < end) {
        if (io->ring_n > 0)
            sleep_until(earlier(io->ring[io->ring_head].due_ns, end));
        else
            collect(io, end == IO_FOREVER ? IO_FOREVER : end - now);
        n = hand_out(io, done, max);
        now = engine_clock_ns();
    }
    return n;
}

uint32_t io_reap(struct io *io, struct io_read **done, uint32_t max, bool wait)
{
    return io_reap_within(io, done, max, wait ? IO_FOREVER : 0);
}

void io_close(struct io *io)
{
    if (!io)
        return;
    struct io_read *done[COLLECT_MAX];
    io->faults.delay_us = 0; /* nobody is left to see it */
    for (uint32_t i = 0; i < io->ring_n; i++)
        io->ring[(io->ring_head + i) % io->depth].due_ns = 0;
    while (io->n_in_flight > 0)
        io_reap(io, done, COLLECT_MAX, true);
    if (io->backend)
        io->backend->close(io->state);
    free(io->ring);
    free(io);
}
