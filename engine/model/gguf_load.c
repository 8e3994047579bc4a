/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_load.c - making the tensors' data pointers valid.
 *
 * Two ways, chosen by the caller:
 *   map:  the part's data is mapped shared and read-only, then touched once in pieces, so that the
 *         first step does not wait for the disk; memory is the page cache's.
 *   read: into anonymous memory that asks for 2 MiB pages, through io.c with several reads in flight.
 * Tensors are offered to opt->take as they come, large ones piece by piece, while the next are on their
 * way from the disk; what it took goes back at once.
 *
 * Either way byte 0 of a part's region is a page boundary of the file, so a tensor's address has
 * the file's alignment, no more: with general.alignment 1 it may have none.
 *
 * Work is a list of ranges: the tensors by place, merged where they touch.  What lies between them
 * is not read.
 *
 * Thread: the opening one.  On failure regions stay with their parts; gguf_close frees them.
 */
#include "engine/model/gguf_internal.h"

#include "engine/clock.h"
#include "engine/huge.h"
#include "engine/storage/io.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TOUCH_BYTES = 16 << 20, /* between two looks at cancel */
    READ_BYTES = 1 << 20,   /* large enough for full disk speed, small enough to cancel at once */
    READS_IN_FLIGHT = 16,
    OFFER_BYTES = 4 << 20, /* of a tensor that is not whole yet: a good piece of work */
    GAP_BYTES = 64 << 10,  /* a gap up to this is read along: cheaper than another request */
    PROGRESS_NS = 250000000,
};

struct range { /* of one part's file */
    uint32_t part;
    uint64_t begin, end;
};

struct load {
    struct gguf *g;
    const struct gguf_load_options *opt;
    struct engine_err *err;
    uint64_t page_bytes;
    struct range *ranges; /* by part and place */
    uint64_t n_ranges;
    uint64_t total_bytes, done_bytes;
    uint64_t told_ns;  /* when progress was called last */
    uint64_t n_handed; /* tensors of g->order that were offered to opt->take to their ends */
    uint64_t offered;  /* bytes of the next one that were offered */
    uint64_t taken;    /* bytes of it that were taken */
};

/* ---- ranges ---- */

static int make_ranges(struct load *l)
{
    const struct gguf *g = l->g;
    l->ranges = calloc(g->n_tensors ? g->n_tensors : 1, sizeof(*l->ranges));
    if (!l->ranges)
        return engine_fail(l->err, ENGINE_ERR_MEMORY, "no memory for %" PRIu64 " tensors",
                           g->n_tensors);
    struct range *last = NULL;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[g->order[i]];
        if (t->bytes == 0 || t->on_demand)
            continue;
        if (last && last->part == t->part && t->offset - last->end <= GAP_BYTES) {
            last->end = t->offset + t->bytes;
        } else {
            last = &l->ranges[l->n_ranges++];
            *last = (struct range){ .part = t->part,
                                    .begin = t->offset,
                                    .end = t->offset + t->bytes };
        }
    }
    for (uint64_t i = 0; i < l->n_ranges; i++)
        l->total_bytes += l->ranges[i].end - l->ranges[i].begin;
    return 0;
}

/* The region of each part: from its first range to the end of its last. */
static void place_regions(struct load *l)
{
    for (uint64_t i = 0; i < l->n_ranges; i++) {
        const struct range *r = &l->ranges[i];
        struct gguf_part *p = &l->g->parts[r->part];
        if (p->data_bytes == 0)
            p->data_offset = r->begin & ~(l->page_bytes - 1);
        p->data_bytes = (size_t)(r->end - p->data_offset);
    }
}

static void *address_of(const struct gguf_part *p, uint64_t offset)
{
    return (char *)p->data + (offset - p->data_offset);
}

/* ---- progress and refusals ---- */

/* Adds to what is done and tells the caller: of the start, the end, and in between not too often.
 */
static void advance(struct load *l, uint64_t bytes)
{
    l->done_bytes += bytes;
    if (!l->opt->progress)
        return;
    uint64_t now = engine_clock_ns();
    bool is_end = l->done_bytes == l->total_bytes && bytes > 0;
    if (l->told_ns != 0 && !is_end && now - l->told_ns < PROGRESS_NS)
        return;
    l->told_ns = now;
    l->opt->progress(l->opt->progress_ctx, ENGINE_PHASE_WEIGHTS, l->done_bytes, l->total_bytes);
}

static int check_cancel(const struct load *l)
{
    if (l->opt->cancel && __atomic_load_n(l->opt->cancel, __ATOMIC_RELAXED))
        return engine_fail(l->err, ENGINE_ERR_CANCELLED,
                           "loading was cancelled at %" PRIu64 " of %" PRIu64 " bytes",
                           l->done_bytes, l->total_bytes);
    return 0;
}

static int refuse_read(const struct load *l, uint32_t part, uint64_t begin, uint64_t end, int error)
{
    return engine_fail(l->err, ENGINE_ERR_IO,
                       "%sreading bytes %" PRIu64 " to %" PRIu64 " failed: %s",
                       l->g->parts[part].label, begin, end, io_errno_text(error));
}

static int refuse_shrunk(const struct load *l, uint32_t part, uint64_t bytes)
{
    return engine_fail(l->err, ENGINE_ERR_FILE,
                       "%sthe file ended at byte %" PRIu64 ", though it had %" PRIu64
                       " when it was opened",
                       l->g->parts[part].label, bytes, l->g->parts[part].file_bytes);
}

/* A page beyond the end of a mapped file is a SIGBUS, not an error: look before touching.  What
 * happens between the look and the touch cannot be helped with a map. */
static int check_not_shrunk(const struct load *l, uint32_t part, uint64_t end)
{
    struct stat st;
    if (fstat(l->g->parts[part].fd, &st) < 0)
        return refuse_read(l, part, 0, end, errno);
    return (uint64_t)st.st_size < end ? refuse_shrunk(l, part, (uint64_t)st.st_size) : 0;
}

/* ---- handing out ---- */

static void point_tensors(struct gguf *g)
{
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (t->bytes > 0 && !t->on_demand)
            t->data = address_of(&g->parts[t->part], t->offset);
    }
}

/* After a failure nobody reads what may not be there. */
static void forget_tensors(struct gguf *g)
{
    for (uint64_t i = 0; i < g->n_tensors; i++)
        g->tensors[i].data = NULL;
}

/* How many of its bytes lie before byte `end` of the part, or in a part before it. */
static uint64_t bytes_before(const struct gguf_tensor *t, uint32_t part, uint64_t end)
{
    if (t->part != part)
        return t->part < part ? t->bytes : 0;
    uint64_t n = end > t->offset ? end - t->offset : 0;
    return n < t->bytes ? n : t->bytes;
}

/* Whole pages only: the first and the last may belong to neighbours that stay, too. */
static void give_back(const struct load *l, const struct gguf_tensor *t, uint64_t from, uint64_t to)
{
    uint64_t begin = (t->offset + from) & ~(l->page_bytes - 1); /* with what was left last time */
    begin = begin > t->offset ? begin : t->offset;
    huge_drop(address_of(&l->g->parts[t->part], begin), (size_t)(t->offset + to - begin));
}

static void offer(struct load *l, struct gguf_tensor *t, uint64_t ready)
{
    uint64_t taken = l->opt->take(l->opt->take_ctx, t, l->taken, ready);
    assert(taken >= l->taken && taken <= ready);
    give_back(l, t, l->taken, taken);
    l->offered = ready;
    l->taken = taken;
}

static void finish_tensor(struct load *l, struct gguf_tensor *t)
{
    assert(l->taken == 0 || l->taken == t->bytes);
    if (l->taken > 0)
        t->data = NULL;
    l->offered = l->taken = 0;
    l->n_handed++;
}

/* Offers what lies before byte `end` of the part, and in the parts before it. */
static void hand_out(struct load *l, uint32_t part, uint64_t end)
{
    struct gguf *g = l->g;
    while (l->opt->take && l->n_handed < g->n_tensors) {
        struct gguf_tensor *t = &g->tensors[g->order[l->n_handed]];
        if (t->on_demand) {
            l->n_handed++;
            continue;
        }
        uint64_t ready = bytes_before(t, part, end);
        if (ready > 0 && (ready == t->bytes || ready - l->offered >= OFFER_BYTES))
            offer(l, t, ready);
        if (ready < t->bytes)
            return;
        finish_tensor(l, t);
    }
}

/* ---- map ---- */

static int map_parts(struct load *l)
{
    for (uint32_t i = 0; i < l->g->n_parts; i++) {
        struct gguf_part *p = &l->g->parts[i];
        if (p->data_bytes == 0)
            continue;
        void *map = mmap(NULL, p->data_bytes, PROT_READ, MAP_SHARED, p->fd, (off_t)p->data_offset);
        if (map == MAP_FAILED)
            return engine_fail(l->err, ENGINE_ERR_MEMORY, "%smapping %zu bytes failed: %s",
                               p->label, p->data_bytes, io_errno_text(errno));
        p->data = map;
    }
    return 0;
}

static void touch_pages(const struct load *l, const char *begin, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += l->page_bytes)
        (void)*(const volatile char *)(begin + i);
}

/* Bytes begin .. end of the part into memory; begin is a page boundary. */
static int populate(const struct load *l, uint32_t part, uint64_t begin, uint64_t end)
{
    if (check_not_shrunk(l, part, end) < 0)
        return -1;
    void *at = address_of(&l->g->parts[part], begin);
    size_t bytes = (size_t)(end - begin);
    int rc;
    do {
        rc = madvise(at, bytes, MADV_POPULATE_READ);
    } while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    if (rc == 0)
        return 0;
    if (errno == EINVAL) { /* before Linux 5.14 */
        touch_pages(l, at, bytes);
        return 0;
    }
    int error = errno == EFAULT ? EIO : errno; /* EFAULT: a touch would have been a SIGBUS */
    return check_not_shrunk(l, part, end) < 0 ? -1 : refuse_read(l, part, begin, end, error);
}

/* The kernel reads on while tensors are handed out.  A wish. */
static void expect(const struct load *l, const struct range *r, uint64_t at)
{
    uint64_t page = at & ~(l->page_bytes - 1), left = r->end - page;
    madvise(address_of(&l->g->parts[r->part], page), left < TOUCH_BYTES ? left : TOUCH_BYTES,
            MADV_WILLNEED);
}

static int touch_range(struct load *l, const struct range *r)
{
    for (uint64_t at = r->begin; at < r->end;) {
        uint64_t page = at & ~(l->page_bytes - 1);
        uint64_t end = r->end - page > TOUCH_BYTES ? page + TOUCH_BYTES : r->end;
        if (check_cancel(l) < 0 || populate(l, r->part, page, end) < 0)
            return -1;
        expect(l, r, end);
        hand_out(l, r->part, end);
        advance(l, end - at);
        at = end;
    }
    return 0;
}

static int load_by_map(struct load *l)
{
    if (map_parts(l) < 0)
        return -1;
    point_tensors(l->g);
    for (uint64_t i = 0; i < l->n_ranges; i++)
        if (touch_range(l, &l->ranges[i]) < 0)
            return -1;
    l->g->io_name = "mmap";
    return 0;
}

/* ---- read ---- */

static int alloc_regions(struct load *l)
{
    for (uint32_t i = 0; i < l->g->n_parts; i++) {
        struct gguf_part *p = &l->g->parts[i];
        if (p->data_bytes == 0)
            continue;
        /* Whole pages, so that what lies behind can be given back. */
        p->data_bytes = (p->data_bytes + l->page_bytes - 1) & ~(size_t)(l->page_bytes - 1);
        p->data = huge_alloc(p->data_bytes);
        if (!p->data)
            return engine_fail(l->err, ENGINE_ERR_MEMORY, "%sno memory for %zu bytes of weights",
                               p->label, p->data_bytes);
    }
    return 0;
}

struct reader {
    struct load *l;
    struct io *io;
    struct io_read reads[READS_IN_FLIGHT];
    uint64_t range; /* what to ask for next */
    uint64_t at;    /* in it */
    bool busy[READS_IN_FLIGHT];
};

/* Puts the next piece into r; false if there is none. */
static bool next_piece(struct reader *reader, struct io_read *r)
{
    struct load *l = reader->l;
    if (reader->range == l->n_ranges)
        return false;
    const struct range *range = &l->ranges[reader->range];
    struct gguf_part *p = &l->g->parts[range->part];
    uint64_t at = reader->at > range->begin ? reader->at : range->begin;
    uint64_t n = range->end - at < READ_BYTES ? range->end - at : READ_BYTES;
    *r = (struct io_read){
        .fd = p->fd, .dst = address_of(p, at), .offset = at, .bytes = n, .user = p
    };
    reader->at = at + n;
    if (reader->at == range->end) {
        reader->range++;
        reader->at = 0;
    }
    return true;
}

static int check_piece(const struct reader *reader, const struct io_read *r)
{
    const struct gguf_part *p = r->user;
    uint32_t part = (uint32_t)(p - reader->l->g->parts);
    if (r->result < 0)
        return refuse_read(reader->l, part, r->offset, r->offset + r->bytes, (int)-r->result);
    if ((uint64_t)r->result == r->bytes)
        return 0;
    /* Pieces come in any order: this one may lie wholly behind the end, so ask where it is. */
    if (check_not_shrunk(reader->l, part, r->offset + r->bytes) < 0)
        return -1;
    return refuse_shrunk(reader->l, part, r->offset + (uint64_t)r->result);
}

static void submit_next(struct reader *reader, struct io_read *r)
{
    if (!next_piece(reader, r))
        return;
    int rc = io_submit(reader->io, r);
    assert(rc == 0); /* READS_IN_FLIGHT is the depth */
    reader->busy[r - reader->reads] = true;
}

/* Hands out what lies before every piece that is still on its way. */
static void hand_out_read(struct reader *reader)
{
    const struct gguf_part *parts = reader->l->g->parts;
    uint32_t part = UINT32_MAX;
    uint64_t end = 0;
    for (uint32_t i = 0; i < READS_IN_FLIGHT; i++) {
        const struct io_read *r = &reader->reads[i];
        uint32_t of = reader->busy[i] ? (uint32_t)((const struct gguf_part *)r->user - parts)
                                      : UINT32_MAX;
        if (of < part || (of == part && of != UINT32_MAX && r->offset < end)) {
            part = of;
            end = r->offset;
        }
    }
    hand_out(reader->l, part, end);
}

/* Keeps all reads busy until the last range is there or something fails. */
static int read_ranges(struct reader *reader)
{
    struct load *l = reader->l;
    for (uint32_t i = 0; i < READS_IN_FLIGHT; i++)
        submit_next(reader, &reader->reads[i]);
    while (io_n_in_flight(reader->io) > 0) {
        struct io_read *done[READS_IN_FLIGHT];
        uint32_t n = io_reap(reader->io, done, READS_IN_FLIGHT, true);
        for (uint32_t i = 0; i < n; i++) {
            reader->busy[done[i] - reader->reads] = false;
            if (check_piece(reader, done[i]) < 0 || check_cancel(l) < 0)
                return -1; /* io_close waits for the others */
            advance(l, done[i]->bytes);
            submit_next(reader, done[i]);
        }
        hand_out_read(reader);
    }
    return 0;
}

static int load_by_reading(struct load *l)
{
    if (alloc_regions(l) < 0)
        return -1;
    point_tensors(l->g);
    struct reader reader = { .l = l };
    const struct io_options opt = { .backend = l->opt->io, .depth = READS_IN_FLIGHT };
    if (io_open(&reader.io, &opt, l->err) < 0)
        return -1;
    int rc = read_ranges(&reader);
    l->g->io_name = io_backend_name(reader.io);
    io_close(reader.io);
    return rc;
}

/* ---- both ---- */

/* From memory: the data must be there too, behind the header. */
static int use_buffer(struct load *l)
{
    assert(!l->opt->take);
    struct gguf_part *p = &l->g->parts[0];
    if (p->head_cap < p->file_bytes)
        return engine_fail(l->err, ENGINE_ERR_FILE,
                           "only %zu of %" PRIu64 " bytes of the file are in memory", p->head_cap,
                           p->file_bytes);
    for (uint64_t i = 0; i < l->g->n_tensors; i++)
        if (l->g->tensors[i].bytes > 0)
            l->g->tensors[i].data = p->head + l->g->tensors[i].offset;
    return 0;
}

/* Nothing reads the files any more: a map keeps its file open by itself. */
static void close_files(struct gguf *g)
{
    for (uint32_t i = 0; i < g->n_parts; i++) {
        close(g->parts[i].fd);
        g->parts[i].fd = -1;
    }
}

static int load_files(struct load *l)
{
    if (make_ranges(l) < 0)
        return -1;
    place_regions(l);
    if (check_cancel(l) < 0)
        return -1;
    advance(l, 0);
    if ((l->opt->read_file ? load_by_reading(l) : load_by_map(l)) < 0)
        return -1;
    close_files(l->g);
    return 0;
}

int gguf_load(struct gguf *g, const struct gguf_load_options *opt, struct engine_err *err)
{
    struct load l = {
        .g = g, .opt = opt, .err = err, .page_bytes = (uint64_t)sysconf(_SC_PAGESIZE)
    };
    if (!g->parts[0].path)
        return use_buffer(&l);
    assert(g->parts[0].fd >= 0); /* once only */
    int rc = load_files(&l);
    if (rc < 0)
        forget_tensors(g);
    free(l.ranges);
    return rc;
}
