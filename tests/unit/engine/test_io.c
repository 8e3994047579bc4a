/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io.c - reads through all backends: same bytes, same faults, same results.
 *
 * Where the machine forbids io_uring its part of each test is left out, which the test
 * default_backend_is_the_best_there_is reports by the reason it finds.
 */
#include "engine/storage/io.h"
#include "engine/storage/io_internal.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 300007, N_READS = 50, PIECE = 6001 }; /* odd: the last piece is cut */

static const enum engine_io backends[] = { ENGINE_IO_PREAD, ENGINE_IO_URING, ENGINE_IO_MMAP };
static const char *const backend_names[] = { "pread", "io_uring", "mmap" };
enum { N_BACKENDS = sizeof(backends) / sizeof(*backends) };

/* A file in memory whose bytes tell their place. */
static unsigned char byte_at(uint64_t i)
{
    return (unsigned char)(i * 2654435761U >> 13);
}

static int make_file(void)
{
    int fd = memfd_create("test_io", MFD_CLOEXEC);
    unsigned char *bytes = malloc(FILE_BYTES);
    cr_assert(fd >= 0 && bytes);
    for (uint64_t i = 0; i < FILE_BYTES; i++)
        bytes[i] = byte_at(i);
    cr_assert(write(fd, bytes, FILE_BYTES) == FILE_BYTES);
    free(bytes);
    return fd;
}

/* NULL where this machine has no io_uring. */
static struct io *open_backend(int b, uint32_t depth, struct io_faults faults)
{
    const struct io_options opt = { .backend = backends[b], .depth = depth, .faults = faults };
    struct io *io;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    if (io_open(&io, &opt, &err) < 0) {
        cr_assert(backends[b] == ENGINE_IO_URING && err.code == ENGINE_ERR_IO, "%s", err.text);
        return NULL;
    }
    cr_assert(strcmp(io_backend_name(io), backend_names[b]) == 0);
    return io;
}

static bool holds_file_bytes(const struct io_read *r)
{
    for (int64_t i = 0; i < r->result; i++)
        if (((const unsigned char *)r->dst)[i] != byte_at(r->offset + (uint64_t)i))
            return false;
    return true;
}

/* The reads of a whole file, in one buffer. */
struct whole {
    struct io_read reads[N_READS];
    unsigned char *bytes;
    uint32_t n_submitted, n_done;
};

static void whole_init(struct whole *w, int fd)
{
    memset(w, 0, sizeof(*w));
    w->bytes = calloc(N_READS, PIECE);
    cr_assert(w->bytes != NULL);
    for (uint64_t i = 0; i < N_READS; i++)
        w->reads[i] = (struct io_read){
            .fd = fd, .dst = w->bytes + i * PIECE, .offset = i * PIECE, .bytes = PIECE, .user = w
        };
}

/* Submits all, reaping when the depth is reached, until all are done. */
static void whole_read(struct whole *w, struct io *io, uint32_t depth)
{
    while (w->n_done < N_READS) {
        while (w->n_submitted < N_READS) {
            int rc = io_submit(io, &w->reads[w->n_submitted]);
            cr_assert(rc == 0 || (rc == -EAGAIN && io_n_in_flight(io) == depth));
            if (rc < 0)
                break;
            w->n_submitted++;
        }
        struct io_read *done[7];
        uint32_t n = io_reap(io, done, 7, true);
        cr_assert(n >= 1 && n <= 7);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(done[i]->user == w);
        w->n_done += n;
        cr_assert(io_n_in_flight(io) == w->n_submitted - w->n_done);
    }
}

/* Every piece is whole; the last two are cut and empty: the file ends. */
static void whole_expect(const struct whole *w)
{
    for (uint64_t i = 0; i < N_READS; i++) {
        uint64_t left = i * PIECE < FILE_BYTES ? FILE_BYTES - i * PIECE : 0;
        int64_t expected = left < PIECE ? (int64_t)left : PIECE;
        cr_expect(w->reads[i].result == expected, "read %d: %lld", (int)i,
                  (long long)w->reads[i].result);
        cr_expect(holds_file_bytes(&w->reads[i]), "read %d", (int)i);
    }
}

static void read_whole_file(struct io_faults faults, uint32_t depth)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, depth, faults);
        if (!io)
            continue;
        struct whole w;
        whole_init(&w, fd);
        whole_read(&w, io, depth);
        whole_expect(&w);
        struct io_read *done[1];
        cr_expect(io_reap(io, done, 1, true) == 0); /* none in flight: does not wait */
        io_close(io);
        free(w.bytes);
    }
    close(fd);
}

Test(io, default_backend_is_the_best_there_is)
{
    struct io *io;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert(io_open(&io, &(struct io_options){ .depth = 0 }, &err) == 0, "%s", err.text);
    bool is_uring = strcmp(io_backend_name(io), "io_uring") == 0;
    cr_expect(is_uring || strcmp(io_backend_name(io), "pread") == 0);
    cr_expect(is_uring == (io_fallback_reason(io)[0] == '\0'), "%s", io_fallback_reason(io));
    io_close(io);
}

Test(io, all_backends_give_the_files_bytes)
{
    read_whole_file((struct io_faults){ .seed = 0 }, 64);
}

Test(io, more_reads_than_depth_wait_their_turn)
{
    read_whole_file((struct io_faults){ .seed = 0 }, 3);
    read_whole_file((struct io_faults){ .seed = 0 }, 1);
}

struct other_thread {
    struct whole *w;
    struct io *io;
};

static void *read_elsewhere(void *arg)
{
    struct other_thread *o = arg;
    whole_read(o->w, o->io, 8);
    return NULL;
}

Test(io, what_moves_serves_one_thread_after_the_other)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io_options opt = { .backend = backends[b], .depth = 8, .moves = true };
        struct io *io;
        if (io_open(&io, &opt, NULL) < 0)
            continue; /* no io_uring here */
        for (int turn = 0; turn < 3; turn++) {
            struct whole w;
            struct other_thread both = { &w, io };
            pthread_t other;
            whole_init(&w, fd);
            if (turn % 2) {
                cr_assert(pthread_create(&other, NULL, read_elsewhere, &both) == 0);
                cr_assert(pthread_join(other, NULL) == 0);
            } else {
                whole_read(&w, io, 8);
            }
            whole_expect(&w);
            free(w.bytes);
        }
        io_close(io);
    }
    close(fd);
}

Test(io, short_reads_are_continued)
{
    read_whole_file((struct io_faults){ .seed = 1, .short_permille = 1000 }, 8);
    read_whole_file((struct io_faults){ .seed = 2, .short_permille = 300 }, 64);
}

Test(io, injected_errors_hit_some_reads_and_spare_the_others)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .seed = 3, .eio_permille = 300 });
        if (!io)
            continue;
        struct whole w;
        whole_init(&w, fd);
        whole_read(&w, io, 8);
        uint32_t n_failed = 0;
        for (uint32_t i = 0; i < N_READS; i++) {
            n_failed += w.reads[i].result == -EIO;
            cr_expect(w.reads[i].result == -EIO || holds_file_bytes(&w.reads[i]));
        }
        cr_expect(n_failed > 0 && n_failed < N_READS, "%u failed", n_failed);
        io_close(io);
        free(w.bytes);
    }
    close(fd);
}

Test(io, all_reads_fail_when_all_should)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 4, (struct io_faults){ .eio_permille = 1000 });
        if (!io)
            continue;
        struct whole w;
        whole_init(&w, fd);
        whole_read(&w, io, 4);
        for (uint32_t i = 0; i < N_READS; i++)
            cr_expect(w.reads[i].result == -EIO);
        io_close(io);
        free(w.bytes);
    }
    close(fd);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000U + (uint64_t)t.tv_nsec / 1000U;
}

Test(io, delayed_reads_are_not_early)
{
    enum { DELAY_US = 30000 };
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .delay_us = DELAY_US });
        if (!io)
            continue;
        unsigned char byte;
        struct io_read r = { .fd = fd, .dst = &byte, .bytes = 1, .offset = 5 };
        struct io_read *done[2];
        uint64_t start = now_us();
        cr_assert(io_submit(io, &r) == 0);
        cr_expect(io_reap(io, done, 2, false) == 0 || now_us() - start >= DELAY_US);
        if (io_n_in_flight(io) > 0)
            cr_expect(io_reap(io, done, 2, true) == 1 && done[0] == &r);
        cr_expect(now_us() - start >= DELAY_US);
        cr_expect(r.result == 1 && byte == byte_at(5));
        io_close(io);
    }
    close(fd);
}

Test(io, real_errors_are_the_reads_result)
{
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .seed = 0 });
        if (!io)
            continue;
        unsigned char byte;
        struct io_read r = { .fd = -1, .dst = &byte, .bytes = 1 };
        struct io_read *done[1];
        cr_assert(io_submit(io, &r) == 0);
        cr_expect(io_reap(io, done, 1, true) == 1);
        cr_expect(r.result == -EBADF, "%lld", (long long)r.result);
        io_close(io);
    }
}

Test(io, read_of_nothing_gives_nothing)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .short_permille = 1000 });
        if (!io)
            continue;
        unsigned char byte;
        struct io_read none = { .fd = fd, .dst = &byte, .bytes = 0 };
        struct io_read beyond = { .fd = fd, .dst = &byte, .bytes = 1, .offset = FILE_BYTES + 10 };
        struct io_read *done[2];
        cr_assert(io_submit(io, &none) == 0 && io_submit(io, &beyond) == 0);
        uint32_t n = io_reap(io, done, 2, true);
        if (n < 2)
            n += io_reap(io, done, 2, true);
        cr_expect(n == 2 && none.result == 0 && beyond.result == 0);
        io_close(io);
    }
    close(fd);
}

Test(io, file_that_becomes_shorter_ends_where_it_ends_now)
{
    enum { LEFT = 3 * PIECE + 17 };
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .seed = 0 });
        if (!io)
            continue;
        int fd = make_file();
        struct whole w;
        whole_init(&w, fd);
        whole_read(&w, io, 8);
        whole_expect(&w);
        cr_assert(ftruncate(fd, LEFT) == 0);
        w.n_submitted = w.n_done = 0;
        whole_read(&w, io, 8);
        for (uint32_t i = 0; i < N_READS; i++)
            cr_expect(w.reads[i].result == (i < 3    ? PIECE
                                            : i == 3 ? 17
                                                     : 0),
                      "%s, read %u: %lld", backend_names[b], i, (long long)w.reads[i].result);
        io_close(io);
        free(w.bytes);
        close(fd);
    }
}

/* Whoever touches such pages of a mapping is ended by SIGBUS. */
Test(io, copies_from_a_mapping_end_where_its_file_does)
{
    enum { PAGE = 4096, PAGES = 4 };
    static unsigned char bytes[PAGES * PAGE];
    int fd = make_file();
    cr_assert(sysconf(_SC_PAGESIZE) == PAGE);
    cr_assert(ftruncate(fd, 2 * PAGE) == 0);
    cr_expect(io_mmap_copy(fd, 0, sizeof(bytes), bytes) == 2 * PAGE);
    cr_expect(bytes[PAGE] == byte_at(PAGE) && bytes[2 * PAGE - 1] == byte_at(2 * PAGE - 1));
    cr_expect(io_mmap_copy(fd, PAGE + 5, sizeof(bytes), bytes) == PAGE - 5 &&
              bytes[0] == byte_at(PAGE + 5));
    cr_expect(io_mmap_copy(fd, 2 * PAGE, PAGE, bytes) == -EIO);
    close(fd);
    cr_expect(io_mmap_copy(fd, 0, PAGE, bytes) == -EBADF);
}

Test(io, reaping_without_waiting_returns_at_once)
{
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, 8, (struct io_faults){ .seed = 0 });
        if (!io)
            continue;
        struct io_read *done[1];
        cr_expect(io_reap(io, done, 1, false) == 0);
        cr_expect(io_reap(io, done, 0, true) == 0);
        io_close(io);
    }
}

Test(io, closing_waits_for_reads_in_flight)
{
    int fd = make_file();
    for (int b = 0; b < N_BACKENDS; b++) {
        struct io *io = open_backend(b, N_READS,
                                     (struct io_faults){ .short_permille = 500, .delay_us = 1000 });
        if (!io)
            continue;
        struct whole w;
        whole_init(&w, fd);
        for (uint32_t i = 0; i < N_READS; i++)
            cr_assert(io_submit(io, &w.reads[i]) == 0);
        io_close(io);
        whole_expect(&w);
        free(w.bytes);
    }
    io_close(NULL);
    close(fd);
}

Test(io, denied_uring_falls_back_and_says_why)
{
    struct io_options opt = { .faults = { .deny_uring = true } };
    struct io *io;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert(io_open(&io, &opt, &err) == 0, "%s", err.text);
    cr_expect(strcmp(io_backend_name(io), "pread") == 0);
    cr_expect(strstr(io_fallback_reason(io), "Operation not permitted") != NULL, "%s",
              io_fallback_reason(io));
    io_close(io);
}

Test(io, denied_uring_is_an_error_if_it_was_asked_for)
{
    struct io_options opt = { .backend = ENGINE_IO_URING, .faults = { .deny_uring = true } };
    struct io *io;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert(io_open(&io, &opt, &err) == -1);
    cr_expect(io == NULL && err.code == ENGINE_ERR_IO);
    cr_expect(strstr(err.text, "io_uring is not available: ") != NULL, "%s", err.text);
}

Test(io, options_have_limits)
{
    struct io *io;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(io_open(&io, &(struct io_options){ .depth = 4097 }, &err) == -1 && io == NULL);
    cr_expect(err.code == ENGINE_ERR_OPTION && strstr(err.text, "the limit is 4096"), "%s",
              err.text);
    err.code = ENGINE_ERR_NONE;
    cr_expect(io_open(&io, &(struct io_options){ .n_threads = 65 }, &err) == -1 && io == NULL);
    cr_expect(err.code == ENGINE_ERR_OPTION && strstr(err.text, "the limit is 64"), "%s", err.text);
}
