/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring.c - attempts through io_uring.  The only file that includes liburing.
 *
 * Whether there is a usable ring cannot be known from the kernel's version: the sysctl
 * io_uring_disabled, a container's seccomp profile (which may allow the setup and forbid the use)
 * or a memory limit may forbid it.  So the opening tries the whole way once: setup, probe, one
 * no-op there and back.
 *
 * Thread: the one that opened the ring; with SINGLE_ISSUER the kernel insists on it.  A ring that moves is
 * without that.
 * Invariant: the submission queue has room for depth entries, and at most depth attempts are under
 * way, so io_uring_get_sqe never fails.
 */
#include "engine/storage/io_internal.h"

#include <liburing.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Completions run when we ask for them, not by interrupting our computation.  Best first; a kernel
 * that does not know a flag answers EINVAL (DEFER_TASKRUN: Linux 6.1, COOP_TASKRUN: 5.19). */
static const unsigned setup_flags[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_COOP_TASKRUN,
    0,
};

struct uring {
    struct io_uring ring;
};

static int setup(struct io_uring *ring, uint32_t depth, bool moves)
{
    int rc = -EINVAL;
    size_t n = sizeof(setup_flags) / sizeof(*setup_flags);
    for (size_t i = 0; i < n && rc == -EINVAL; i++)
        if (!moves || !(setup_flags[i] & IORING_SETUP_SINGLE_ISSUER))
            rc = io_uring_queue_init(depth, ring, setup_flags[i]);
    return rc;
}

/* A no-op there and back: 0, or -errno if the use of the ring is forbidden. */
static int try_once(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (!sqe)
        return -ENOSPC;
    io_uring_prep_nop(sqe);
    int rc;
    do {
        rc = io_uring_submit_and_wait(ring, 1);
    } while (rc == -EINTR);
    if (rc < 0)
        return rc;
    struct io_uring_cqe *cqe;
    rc = io_uring_peek_cqe(ring, &cqe);
    if (rc < 0)
        return rc;
    rc = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return rc;
}

static bool can_read(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool can = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
    io_uring_free_probe(probe);
    return can;
}

int io_uring_backend_open(void **state, uint32_t depth, bool moves, char reason[IO_REASON_BYTES])
{
    struct uring *u = calloc(1, sizeof(*u));
    if (!u) {
        snprintf(reason, IO_REASON_BYTES, "no memory");
        return -1;
    }
    int rc = setup(&u->ring, depth, moves);
    if (rc < 0) {
        snprintf(reason, IO_REASON_BYTES, "io_uring_setup: %s", io_errno_text(-rc));
        free(u);
        return -1;
    }
    rc = try_once(&u->ring);
    if (rc < 0) {
        snprintf(reason, IO_REASON_BYTES, "io_uring_enter: %s", io_errno_text(-rc));
        goto fail;
    }
    if (!can_read(&u->ring)) {
        snprintf(reason, IO_REASON_BYTES, "the kernel's io_uring has no read operation");
        goto fail;
    }
    *state = u;
    return 0;
fail:
    io_uring_queue_exit(&u->ring);
    free(u);
    return -1;
}

static void uring_start(void *state, struct io_read *r, uint64_t bytes)
{
    struct uring *u = state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    assert(sqe);
    io_uring_prep_read(sqe, r->fd, (char *)r->dst + r->done_bytes, (unsigned)bytes,
                       r->offset + r->done_bytes);
    io_uring_sqe_set_data(sqe, r);
    /* If the kernel is short of something now, the entry stays queued and collect sends it. */
    io_uring_submit(&u->ring);
}

static uint32_t take_completions(struct uring *u, struct io_attempt *done, uint32_t max)
{
    uint32_t n = 0;
    struct io_uring_cqe *cqe;
    while (n < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        done[n].read = io_uring_cqe_get_data(cqe);
        done[n].res = cqe->res;
        n++;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return n;
}

static int wait_for(struct uring *u, uint64_t wait_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec t = { .tv_sec = (long long)(wait_ns / 1000000000U),
                                   .tv_nsec = (long long)(wait_ns % 1000000000U) };
    if (wait_ns == IO_FOREVER)
        return io_uring_submit_and_wait(&u->ring, 1);
    return io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &t, NULL);
}

/* Enters the kernel: sends what is still queued, runs deferred work, and waits for one. */
static void enter(struct uring *u, uint64_t wait_ns)
{
    int rc = wait_ns ? wait_for(u, wait_ns) : io_uring_submit_and_get_events(&u->ring);
    assert(rc != -EEXIST); /* another thread's ring */
    if (rc < 0 && rc != -EINTR && rc != -ETIME && wait_ns) {
        /* EAGAIN, EBUSY, ENOMEM: the kernel is short of memory for requests.  Do not spin. */
        const struct timespec pause = { .tv_nsec = 1000000 };
        nanosleep(&pause, NULL);
    }
}

static uint32_t uring_collect(void *state, struct io_attempt *done, uint32_t max, uint64_t wait_ns)
{
    struct uring *u = state;
    uint32_t n = wait_ns > 0 ? take_completions(u, done, max) : 0;
    if (n > 0)
        return n;
    enter(u, wait_ns);
    return take_completions(u, done, max);
}

static void uring_close(void *state)
{
    struct uring *u = state;
    io_uring_queue_exit(&u->ring);
    free(u);
}

const struct io_backend io_backend_uring = {
    .name = "io_uring",
    .start = uring_start,
    .collect = uring_collect,
    .close = uring_close,
};
