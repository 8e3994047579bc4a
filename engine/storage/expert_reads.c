/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_reads.c - loads made of pieces.
 *
 *     begin -> load -> pieces, asked for as the ring has room -> all have come -> take
 *
 * A piece that fails is asked for once more; then its load fails, and asks for no more.
 * Invariants: a busy load is reading, or complete, or taken (one at a time: `taken`); a piece is free, or
 * belongs to a load that is reading.
 */
#include "engine/storage/expert_reads.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/clock.h"
#include "engine/huge.h"
#include "engine/model/gguf_internal.h"

enum {
    PIECE_BYTES = 512 << 10, /* full disk speed, several in flight for one expert */
    MOST_LOADS = 16,         /* experts on their way at once, or read and not yet in a slot */
    MOST_FORESEEN = 8,       /* of these */
    MOST_PIECES = 64,        /* in flight */
    PREAD_THREADS = 16,      /* so that one expert that hangs leaves some, unless it is large */
    /* A disk serves what it was asked first: pieces that may never be wanted must not queue up before an
     * urgent one, and wait until few urgent ones are left. */
    MOST_FORESEEN_PIECES = 8,
    FEW_URGENT_PIECES = 4,
};

struct load {
    bool is_busy, is_urgent;
    uint64_t number;             /* later ones are larger */
    uint64_t begun_ns, alive_ns; /* alive: a piece of it was asked for, or came */
    struct expert_read read;
    uint8_t *buffer;
    uint8_t *to[EXPERT_N_PARTS]; /* where the part's blocks go */
    uint32_t part;               /* the piece to be asked for next: of this part, */
    uint64_t offset;             /* from here on in its file */
    uint32_t n_in_flight;
};

struct piece {
    struct io_read read;
    struct load *load; /* NULL: free */
    uint64_t needed;   /* bytes of it that are the expert's, and those before */
    bool again;        /* it failed once */
};

struct file {
    int direct,
        buffered; /* direct: past the page cache, unless the backend is mmap; -1: the file system cannot */
};

struct expert_reads {
    const struct gguf *g;
    const struct experts_layer *layers;
    struct io *io;
    struct file *files; /* [n_parts of g] */
    uint8_t *buffers;   /* [MOST_LOADS][buffer_bytes] */
    size_t buffer_bytes;
    struct load loads[MOST_LOADS];
    struct piece pieces[MOST_PIECES];
    struct load *taken; /* NULL: none */
    uint64_t n_begun;
    uint64_t patience_ns, timeout_ns;
    uint64_t begun_ns, sign_ns; /* a load was begun; a piece of one came */
    uint64_t asked_ns;          /* the first piece since then was asked for; 0: none */
    uint64_t bytes, wait_ns, read_ns;
    uint64_t reads[ENGINE_READ_BOUNDS + 1]; /* see engine_expert_stats */
};

/* ---- open and close ---- */

uint64_t expert_reads_buffer_bytes(const struct experts_layer *layers, uint32_t n_layers)
{
    return MOST_LOADS * experts_largest(layers, n_layers, expert_staging_bytes);
}

static int no_memory(const char *what, uint64_t bytes, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %s (%" PRIu64 " bytes)", what, bytes);
}

static int open_files(struct expert_reads *r, struct engine_err *err)
{
    r->files = malloc(r->g->n_parts * sizeof(*r->files));
    if (!r->files)
        return no_memory("the list of files", r->g->n_parts * sizeof(*r->files), err);
    for (uint32_t i = 0; i < r->g->n_parts; i++)
        r->files[i] = (struct file){ -1, -1 };
    for (uint32_t i = 0; i < r->g->n_parts; i++) {
        struct file *f = &r->files[i];
        f->buffered = open(r->g->parts[i].path, O_RDONLY | O_CLOEXEC);
        if (f->buffered < 0)
            return engine_fail(err, ENGINE_ERR_FILE, "%scannot be opened again: %s",
                               r->g->parts[i].label, io_errno_text(errno));
        f->direct = open(r->g->parts[i].path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    }
    return 0;
}

static int open_buffers(struct expert_reads *r, uint64_t bytes, struct engine_err *err)
{
    if (bytes == 0)
        return 0;
    r->buffer_bytes = bytes / MOST_LOADS;
    r->buffers = huge_alloc(bytes);
    if (!r->buffers)
        return no_memory("reading experts", bytes, err);
    for (uint32_t i = 0; i < MOST_LOADS; i++)
        r->loads[i].buffer = r->buffers + i * r->buffer_bytes;
    return 0;
}

int expert_reads_open(struct expert_reads **out, const struct expert_reads_options *opt,
                      struct engine_err *err)
{
    const struct io_options io = { .backend = opt->io,
                                   .depth = MOST_PIECES,
                                   .n_threads = PREAD_THREADS,
                                   .moves = true, /* who opens the model warms it up */
                                   .faults = opt->faults };
    struct expert_reads *r = calloc(1, sizeof(*r));
    *out = NULL;
    if (!r)
        return no_memory("reading experts", sizeof(*r), err);
    r->g = opt->g;
    r->layers = opt->layers;
    r->patience_ns = opt->patience_ns;
    r->timeout_ns = opt->timeout_ns;
    uint64_t bytes = expert_reads_buffer_bytes(opt->layers, opt->n_layers);
    if (open_buffers(r, bytes, err) < 0 || open_files(r, err) < 0 ||
        io_open(&r->io, &io, err) < 0) {
        expert_reads_close(r);
        return -1;
    }
    *out = r;
    return 0;
}

void expert_reads_close(struct expert_reads *r)
{
    if (!r)
        return;
    io_close(r->io);
    for (uint32_t i = 0; r->files && i < r->g->n_parts; i++) {
        if (r->files[i].buffered >= 0)
            close(r->files[i].buffered);
        if (r->files[i].direct >= 0)
            close(r->files[i].direct);
    }
    huge_free(r->buffers, MOST_LOADS * r->buffer_bytes);
    free(r->files);
    free(r);
}

const struct io *expert_reads_io(const struct expert_reads *r)
{
    return r->io;
}

/* ---- a load ---- */

static const struct gguf_tensor *tensor_of(const struct expert_reads *r, const struct load *l,
                                           uint32_t part)
{
    return r->layers[l->read.layer].part[part];
}

static uint64_t first_block(uint64_t offset)
{
    return offset / EXPERT_BLOCK_BYTES * EXPERT_BLOCK_BYTES;
}

/* Moves on to the next part that there is, and to the block in which its slice begins. */
static void next_part(const struct expert_reads *r, struct load *l, uint32_t part)
{
    while (part < EXPERT_N_PARTS && !tensor_of(r, l, part))
        part++;
    l->part = part;
    if (part < EXPERT_N_PARTS)
        l->offset = first_block(expert_file_offset(tensor_of(r, l, part), l->read.expert));
}

static bool has_more_to_ask(const struct load *l)
{
    return l->part < EXPERT_N_PARTS && l->read.error == 0;
}

static bool is_complete(const struct load *l)
{
    return l->is_busy && l->n_in_flight == 0 && !has_more_to_ask(l);
}

/* Parts without a place of their own go into the load's buffer. */
static void place_parts(const struct expert_reads *r, struct load *l,
                        uint8_t *const dst[EXPERT_N_PARTS])
{
    size_t at = 0;
    for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
        const struct gguf_tensor *t = tensor_of(r, l, p);
        if (!t)
            continue;
        l->to[p] = dst[p] ? dst[p] : l->buffer + at;
        l->read.part[p] = l->to[p] + expert_file_offset(t, l->read.expert) % EXPERT_BLOCK_BYTES;
        at += dst[p] ? 0 : expert_staging_bytes(t);
    }
}

static void begin_load(struct expert_reads *r, struct load *l, uint32_t layer, uint32_t expert,
                       bool is_urgent)
{
    uint64_t now = engine_clock_ns();
    *l = (struct load){ .is_busy = true,
                        .is_urgent = is_urgent,
                        .number = r->n_begun++,
                        .begun_ns = now,
                        .alive_ns = now,
                        .buffer = l->buffer,
                        .read = { .layer = layer, .expert = expert } };
    r->begun_ns = now;
    next_part(r, l, 0);
}

static void release_taken(struct expert_reads *r)
{
    if (r->taken)
        r->taken->is_busy = false;
    r->taken = NULL;
}

static bool is_silent(const struct expert_reads *r)
{
    return r->asked_ns && engine_clock_ns() - r->asked_ns > r->patience_ns;
}

/* Not for what is only foreseen: what is wanted would have to wait for the next one. */
static bool may_try(const struct expert_reads *r, bool is_urgent)
{
    return !is_silent(r) || (is_urgent && engine_clock_ns() - r->begun_ns >= r->timeout_ns);
}

bool expert_reads_has_room(const struct expert_reads *r, bool is_urgent)
{
    uint32_t n_free = 0, n_foreseen = 0;
    for (uint32_t i = 0; i < MOST_LOADS; i++) {
        const struct load *l = &r->loads[i];
        n_free += !l->is_busy || l == r->taken;
        n_foreseen += l->is_busy && !l->is_urgent;
    }
    return n_free > 0 && (is_urgent || n_foreseen < MOST_FORESEEN) && may_try(r, is_urgent);
}

void expert_reads_begin(struct expert_reads *r, uint32_t layer, uint32_t expert,
                        uint8_t *const dst[EXPERT_N_PARTS], bool is_urgent)
{
    struct load *unused = NULL;
    release_taken(r);
    for (uint32_t i = 0; i < MOST_LOADS; i++)
        unused = r->loads[i].is_busy ? unused : &r->loads[i];
    assert(unused);
    begin_load(r, unused, layer, expert, is_urgent);
    place_parts(r, unused, dst);
}

/* Of an expert that is on its way. */
static const struct load *find_load(const struct expert_reads *r, uint32_t layer, uint32_t expert)
{
    const struct load *found = NULL;
    for (uint32_t i = 0; i < MOST_LOADS && !found; i++) {
        const struct load *l = &r->loads[i];
        if (l->is_busy && l->read.layer == layer && l->read.expert == expert)
            found = l;
    }
    assert(found);
    return found;
}

void expert_reads_hurry(struct expert_reads *r, uint32_t layer, uint32_t expert)
{
    r->loads[find_load(r, layer, expert) - r->loads].is_urgent = true;
}

uint64_t expert_reads_alive_ns(const struct expert_reads *r, uint32_t layer, uint32_t expert)
{
    const struct load *l = find_load(r, layer, expert);
    uint64_t any = expert_reads_any_alive_ns(r);
    return l->n_in_flight > 0 || l->alive_ns > any ? l->alive_ns : any;
}

uint64_t expert_reads_any_alive_ns(const struct expert_reads *r)
{
    return r->asked_ns ? r->asked_ns : r->sign_ns;
}

/* ---- pieces ---- */

static void submit(struct expert_reads *r, struct piece *piece)
{
    int rc = io_submit(r->io, &piece->read);
    assert(rc == 0); /* MOST_PIECES is the depth */
    piece->load->n_in_flight++;
    piece->load->alive_ns = engine_clock_ns();
    r->asked_ns = r->asked_ns ? r->asked_ns : piece->load->alive_ns;
}

/* Asks for the next piece of a load.  Its last block may reach beyond the file's end, where direct reads
 * cannot be continued. */
static void ask_piece(struct expert_reads *r, struct load *l, struct piece *piece)
{
    const struct gguf_tensor *t = tensor_of(r, l, l->part);
    const struct file *f = &r->files[t->part];
    uint64_t begin = expert_file_offset(t, l->read.expert), end = begin + expert_file_bytes(t);
    uint64_t last = expert_whole_blocks(end);
    uint64_t bytes = last - l->offset < PIECE_BYTES ? last - l->offset : PIECE_BYTES;
    bool direct = f->direct >= 0 && l->offset + bytes <= r->g->parts[t->part].file_bytes;
    if (!direct && l->offset + bytes > end)
        bytes = end - l->offset;
    *piece = (struct piece){ .load = l,
                             .needed = bytes < end - l->offset ? bytes : end - l->offset,
                             .read = { .fd = direct ? f->direct : f->buffered,
                                       .dst = l->to[l->part] + (l->offset - first_block(begin)),
                                       .offset = l->offset,
                                       .bytes = bytes,
                                       .unit = direct ? EXPERT_BLOCK_BYTES : 1 } };
    l->offset += bytes;
    if (l->offset >= end)
        next_part(r, l, l->part + 1);
    submit(r, piece);
}

static struct piece *free_piece(struct expert_reads *r)
{
    for (uint32_t i = 0; i < MOST_PIECES; i++)
        if (!r->pieces[i].load)
            return &r->pieces[i];
    return NULL;
}

static uint32_t n_pieces_in_flight(const struct expert_reads *r, bool urgent)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MOST_LOADS; i++)
        if (r->loads[i].is_busy && r->loads[i].is_urgent == urgent)
            n += r->loads[i].n_in_flight;
    return n;
}

/* The load whose piece goes next: urgent before foreseen, then by age. */
static struct load *next_load(struct expert_reads *r)
{
    struct load *best = NULL;
    for (uint32_t i = 0; i < MOST_LOADS; i++) {
        struct load *l = &r->loads[i];
        if (!l->is_busy || !has_more_to_ask(l))
            continue;
        if (!best || l->is_urgent > best->is_urgent ||
            (l->is_urgent == best->is_urgent && l->number < best->number))
            best = l;
    }
    if (best && !best->is_urgent &&
        (n_pieces_in_flight(r, true) > FEW_URGENT_PIECES ||
         n_pieces_in_flight(r, false) >= MOST_FORESEEN_PIECES))
        return NULL;
    return best;
}

static void ask_more(struct expert_reads *r)
{
    for (;;) {
        struct load *l = next_load(r);
        struct piece *piece = l ? free_piece(r) : NULL;
        if (!piece)
            return;
        ask_piece(r, l, piece);
    }
}

static void end_piece(struct expert_reads *r, struct piece *piece)
{
    struct io_read *read = &piece->read;
    struct load *l = piece->load;
    l->n_in_flight--;
    l->alive_ns = r->sign_ns = engine_clock_ns();
    r->asked_ns = 0;
    bool is_whole = read->result >= 0 && (uint64_t)read->result >= piece->needed;
    if (is_whole)
        r->bytes += (uint64_t)read->result;
    if (!is_whole && !piece->again && l->read.error == 0) {
        piece->again = true;
        submit(r, piece);
        return;
    }
    if (!is_whole)
        l->read.error = read->result < 0 ? (int)-read->result : EIO;
    piece->load = NULL;
}

void expert_reads_poll(struct expert_reads *r, uint64_t wait_ns)
{
    struct io_read *done[MOST_PIECES];
    release_taken(r);
    ask_more(r);
    uint64_t begin = wait_ns ? engine_clock_ns() : 0;
    uint32_t n = io_reap_within(r->io, done, MOST_PIECES, wait_ns);
    if (wait_ns)
        r->wait_ns += engine_clock_ns() - begin;
    for (uint32_t i = 0; i < n; i++)
        end_piece(r, (struct piece *)((char *)done[i] - offsetof(struct piece, read)));
    ask_more(r);
}

static void count_read(struct expert_reads *r, const struct load *l)
{
    uint64_t ns = engine_clock_ns() - l->begun_ns;
    uint32_t i = 0;
    while (i < ENGINE_READ_BOUNDS && (double)ns * 1e-9 > engine_read_bounds[i])
        i++;
    r->reads[i]++;
    r->read_ns += ns;
}

const struct expert_read *expert_reads_take(struct expert_reads *r)
{
    release_taken(r);
    for (uint32_t i = 0; i < MOST_LOADS && !r->taken; i++)
        if (is_complete(&r->loads[i]))
            r->taken = &r->loads[i];
    if (!r->taken)
        return NULL;
    count_read(r, r->taken);
    return &r->taken->read;
}

void expert_reads_count(const struct expert_reads *r, struct engine_expert_stats *out)
{
    out->read_bytes = r->bytes;
    out->stall_ns = r->wait_ns;
    out->read_ns = r->read_ns;
    memcpy(out->reads, r->reads, sizeof(r->reads));
}
