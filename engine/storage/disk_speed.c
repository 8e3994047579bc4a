/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_speed.c - how fast a file comes from its disk: what bounds a model whose weights are read while it
 * computes.
 *
 * Reads go past the page cache (O_DIRECT), or memory would be measured.  Each pattern is kept up for a
 * while: as soon as a piece has come, another is asked for.
 */
#include "engine/clock.h"
#include "engine/huge.h"
#include "engine/storage/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ALIGNMENT = 4096, /* of O_DIRECT: offsets, lengths, addresses; no disk in use wants more */
    MOST_IN_FLIGHT = 64,
    MOST_PIECE_BYTES = 1 << 20,
    MEMORY_BYTES = MOST_IN_FLIGHT * MOST_PIECE_BYTES,
    LEAST_FILE_BYTES = 16 << 20, /* smaller ones may lie in the disk's own memory as a whole */
    MOST_TIMES = 1 << 16,
    MEASURE_NS = 1000000000,
};

static const struct engine_disk_speed patterns[ENGINE_DISK_SPEEDS] = {
    { .in_order = true, .piece_bytes = 1 << 20, .n_in_flight = 16 },
    { .piece_bytes = 1 << 20, .n_in_flight = 1 },
    { .piece_bytes = 1 << 20, .n_in_flight = 16 },
    { .piece_bytes = 256 << 10, .n_in_flight = 1 },
    { .piece_bytes = 256 << 10, .n_in_flight = 16 },
    { .piece_bytes = 256 << 10, .n_in_flight = 64 },
    { .piece_bytes = 4 << 10, .n_in_flight = 1 },
    { .piece_bytes = 4 << 10, .n_in_flight = 64 },
};

struct probe {
    const char *path;
    int fd;
    uint64_t file_bytes;
    struct io *io;
    char *memory; /* [MOST_IN_FLIGHT][MOST_PIECE_BYTES], in large pages */
    struct io_read reads[MOST_IN_FLIGHT];
    uint64_t asked_ns[MOST_IN_FLIGHT];
    uint64_t *times; /* [MOST_TIMES] ns from asking to having */
    uint32_t n_times;
    uint64_t n_asked;
};

/* ---- one pattern ---- */

/* Where piece number i lies: one behind the other, or anywhere (the splitmix64 finalizer). */
static uint64_t place_of(const struct probe *p, const struct engine_disk_speed *pattern, uint64_t i)
{
    uint64_t piece = pattern->piece_bytes;
    if (pattern->in_order)
        return i % (p->file_bytes / piece) * piece;
    uint64_t x = i * UINT64_C(0x9E3779B97F4A7C15) + 1;
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (x ^ (x >> 31)) % ((p->file_bytes - piece) / ALIGNMENT + 1) * ALIGNMENT;
}

static void ask(struct probe *p, const struct engine_disk_speed *pattern, uint32_t slot)
{
    p->reads[slot] = (struct io_read){ .fd = p->fd,
                                       .dst = p->memory + (size_t)slot * MOST_PIECE_BYTES,
                                       .offset = place_of(p, pattern, p->n_asked++),
                                       .bytes = pattern->piece_bytes };
    p->asked_ns[slot] = engine_clock_ns();
    int rc = io_submit(p->io, &p->reads[slot]);
    assert(rc == 0); /* MOST_IN_FLIGHT is the depth */
}

static int check(const struct probe *p, const struct io_read *r, struct engine_err *err)
{
    if (r->result < 0)
        return engine_fail(err, ENGINE_ERR_IO,
                           "%s: reading bytes %" PRIu64 " to %" PRIu64 " failed: %s", p->path,
                           r->offset, r->offset + r->bytes, io_errno_text((int)-r->result));
    if ((uint64_t)r->result < r->bytes)
        return engine_fail(err, ENGINE_ERR_IO, "%s became shorter while it was read", p->path);
    return 0;
}

static int compare_times(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int measure(struct probe *p, struct engine_disk_speed *s, struct engine_err *err)
{
    uint64_t begin = engine_clock_ns(), now = begin, bytes = 0;
    p->n_times = 0;
    for (uint32_t i = 0; i < s->n_in_flight; i++)
        ask(p, s, i);
    while (io_n_in_flight(p->io) > 0) {
        struct io_read *done[MOST_IN_FLIGHT];
        uint32_t n = io_reap(p->io, done, MOST_IN_FLIGHT, true);
        now = engine_clock_ns();
        for (uint32_t i = 0; i < n; i++) {
            uint32_t slot = (uint32_t)(done[i] - p->reads);
            if (check(p, done[i], err) < 0)
                return -1; /* io_close waits for the others */
            bytes += s->piece_bytes;
            p->times[p->n_times++ % MOST_TIMES] = now - p->asked_ns[slot];
            if (now - begin < MEASURE_NS)
                ask(p, s, slot);
        }
    }
    uint32_t n = p->n_times < MOST_TIMES ? p->n_times : MOST_TIMES;
    qsort(p->times, n, sizeof(*p->times), compare_times);
    s->bytes_s = (double)bytes / ((double)(now - begin) * 1e-9);
    s->ms = (double)p->times[n / 2] * 1e-6;
    return 0;
}

/* ---- open and close ---- */

static int open_file(struct probe *p, struct engine_err *err)
{
    struct stat st;
    if (stat(p->path, &st) < 0)
        return engine_fail(err, ENGINE_ERR_IO, "%s: %s", p->path, io_errno_text(errno));
    p->file_bytes = (uint64_t)st.st_size;
    if (!S_ISREG(st.st_mode) || p->file_bytes < LEAST_FILE_BYTES)
        return engine_fail(err, ENGINE_ERR_IO,
                           "%s has %" PRIu64 " bytes, too few to measure its disk: at least %d",
                           p->path, p->file_bytes, LEAST_FILE_BYTES);
    p->fd = open(p->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (p->fd < 0 && errno == EINVAL)
        return engine_fail(
            err, ENGINE_ERR_IO,
            "%s: its file system cannot read past the page cache, so the disk's speed does "
            "not show",
            p->path);
    if (p->fd < 0)
        return engine_fail(err, ENGINE_ERR_IO, "%s: %s", p->path, io_errno_text(errno));
    return 0;
}

static int probe_open(struct probe *p, const char *path, enum engine_io io, struct engine_err *err)
{
    const struct io_options opt = { .backend = io,
                                    .depth = MOST_IN_FLIGHT,
                                    .n_threads = MOST_IN_FLIGHT };
    *p = (struct probe){ .path = path, .fd = -1 };
    if (io == ENGINE_IO_MMAP)
        return engine_fail(
            err, ENGINE_ERR_OPTION,
            "io mmap reads through the page cache, so the disk's speed does not show: uring or "
            "pread");
    if (open_file(p, err) < 0 || io_open(&p->io, &opt, err) < 0)
        return -1;
    p->times = malloc(MOST_TIMES * sizeof(*p->times));
    p->memory = huge_alloc(
        MEMORY_BYTES); /* as slots of experts: many small pages slow a disk down */
    if (!p->times || !p->memory)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory to read %d MiB at once",
                           MEMORY_BYTES >> 20);
    return 0;
}

static void probe_close(struct probe *p)
{
    io_close(p->io);
    if (p->fd >= 0)
        close(p->fd);
    huge_free(p->memory, MEMORY_BYTES);
    free(p->times);
}

int engine_measure_disk(const char *path, enum engine_io io,
                        struct engine_disk_speed speeds[ENGINE_DISK_SPEEDS], struct engine_err *err)
{
    struct probe p;
    int rc = probe_open(&p, path, io, err);
    for (uint32_t i = 0; i < ENGINE_DISK_SPEEDS && rc == 0; i++) {
        speeds[i] = patterns[i];
        rc = measure(&p, &speeds[i], err);
    }
    probe_close(&p);
    return rc;
}
