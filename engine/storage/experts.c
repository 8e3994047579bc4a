/* SPDX-License-Identifier: Apache-2.0
 *
 * experts.c - reads of experts, from the wish to the slot.
 *
 *     experts_want   hit: pinned, ready for the first set
 *                    miss: waits for a slot and a staging buffer -> a load, read in pieces
 *     experts_next   loads that came: panels made, slot ready -> set; new loads take their buffers
 *
 * A piece that fails is asked for once more; then its expert is failed for this layer, and is tried again by
 * the next step that wants it.
 * Invariants: an expert of the current list is in exactly one of: to be loaded, loading, ready, handed out,
 * failed.  Whatever is loading, ready or in the current set is pinned.
 */
#include "engine/storage/experts.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/clock.h"
#include "engine/huge.h"
#include "engine/model/gguf_internal.h"
#include "engine/model/repack.h"
#include "engine/storage/expert_cache.h"

enum {
    ALIGNMENT = 4096,        /* of direct reads */
    PIECE_BYTES = 512 << 10, /* full disk speed, several in flight for one expert */
    MOST_LOADS = 8,          /* experts on their way at once */
    MOST_READS = 64,         /* pieces in flight */
    LEAST_SLOTS = 2,         /* one is computed while another is read */
    REASON_BYTES = 256,
};

/* One matrix of each expert of a layer. */
struct part {
    const struct gguf_tensor *tensor; /* NULL: none */
    uint64_t file_bytes;              /* of an expert's */
    size_t at;                        /* in a slot */
    bool wants_panels;
};

/* What experts_want asked for. */
enum wish_state { WISH_TO_LOAD, WISH_LOADING, WISH_READY, WISH_HANDED_OUT, WISH_DONE, WISH_FAILED };

struct wish {
    uint32_t expert;
    enum wish_state state;
};

/* An expert on its way into a staging buffer. */
struct load {
    bool busy;
    uint32_t wish;
    uint8_t *staging;
    size_t part_at[EXPERT_N_PARTS]; /* in the buffer: where the part's first aligned block begins */
    uint32_t part;                  /* the piece to be asked for next: of this part, */
    uint64_t offset;                /* from here on in its file */
    uint32_t n_in_flight;
    int error; /* errno of a piece that failed twice; EIO also if the file has become shorter */
};

struct piece {
    struct io_read read;
    struct load *load; /* NULL: free */
    uint64_t needed;   /* bytes of it that are the expert's, and those before */
    bool again;        /* it failed once */
};

struct file {
    int direct, buffered; /* direct: past the page cache; the same if the file system cannot */
};

struct experts {
    const struct gguf *g;
    struct workers *workers;
    struct io *io;
    struct file *files; /* [n_parts of g] */
    uint32_t n_layers, n_experts;
    struct part (*layers)[EXPERT_N_PARTS]; /* [n_layers] */
    struct expert_cache *cache;
    uint8_t *slots; /* [n_slots][slot_bytes] */
    size_t slot_bytes;
    uint32_t n_slots;
    uint8_t *staging; /* [MOST_LOADS][staging_bytes] */
    size_t staging_bytes;
    struct load loads[MOST_LOADS];
    struct piece pieces[MOST_READS];

    /* The layer at hand. */
    uint32_t layer;
    struct wish *wishes; /* [n_experts] */
    uint32_t n_wishes;
    uint32_t *failed; /* [n_experts] */
    uint32_t n_failed;
    char reason[REASON_BYTES];
    uint64_t read_bytes, stall_ns;
};

/* ---- the tensors ---- */

void experts_find(const struct gguf *g, uint32_t layer, struct experts_layer *out)
{
    static const char *const names[EXPERT_N_PARTS] = { "gate", "up", "down" };
    for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%u.ffn_%s_exps.weight", layer, names[p]);
        out->part[p] = gguf_find_tensor(g, name);
    }
}

/* ---- sizes ---- */

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static uint64_t file_bytes_of(const struct gguf_tensor *t)
{
    return t->bytes / t->ne[2];
}

/* Of one expert in memory. */
static uint64_t memory_bytes_of(const struct gguf *g, const struct gguf_tensor *t)
{
    return round_up(repack_memory_bytes(g, t) / t->ne[2], 64);
}

/* The most that a layer's experts take, each: in memory, or read in whole blocks. */
static uint64_t largest(const struct gguf *g, const struct experts_options *opt,
                        uint64_t (*bytes)(const struct gguf *g, const struct gguf_tensor *t))
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < opt->n_layers; l++) {
        uint64_t sum = 0;
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++)
            sum += opt->layers[l].part[p] ? bytes(g, opt->layers[l].part[p]) : 0;
        most = sum > most ? sum : most;
    }
    return most;
}

/* A slice begins and ends within a block. */
static uint64_t staged_bytes_of(const struct gguf *g, const struct gguf_tensor *t)
{
    (void)g;
    return round_up(file_bytes_of(t), ALIGNMENT) + ALIGNMENT;
}

static uint64_t slot_bytes_of(const struct gguf *g, const struct experts_options *opt)
{
    return largest(g, opt, memory_bytes_of);
}

static uint32_t n_layers_with_experts(const struct experts_options *opt)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < opt->n_layers; l++)
        n += opt->layers[l].part[EXPERT_DOWN] != NULL;
    return n;
}

uint64_t experts_least_bytes(const struct gguf *g, const struct experts_options *opt)
{
    return LEAST_SLOTS * slot_bytes_of(g, opt);
}

uint64_t experts_resident_bytes(const struct gguf *g, const struct experts_options *opt)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < opt->n_layers; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
            const struct gguf_tensor *t = opt->layers[l].part[p];
            sum += t ? repack_memory_bytes(g, t) : 0;
        }
    return sum;
}

uint64_t experts_staging_bytes(const struct gguf *g, const struct experts_options *opt)
{
    return MOST_LOADS * largest(g, opt, staged_bytes_of);
}

/* ---- open and close ---- */

static int no_memory(const char *what, uint64_t bytes, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %s (%" PRIu64 " bytes)", what, bytes);
}

static int open_files(struct experts *x, struct engine_err *err)
{
    x->files = malloc(x->g->n_parts * sizeof(*x->files));
    if (!x->files)
        return no_memory("the list of files", x->g->n_parts * sizeof(*x->files), err);
    for (uint32_t i = 0; i < x->g->n_parts; i++)
        x->files[i] = (struct file){ -1, -1 };
    for (uint32_t i = 0; i < x->g->n_parts; i++) {
        struct file *f = &x->files[i];
        f->buffered = open(x->g->parts[i].path, O_RDONLY | O_CLOEXEC);
        if (f->buffered < 0)
            return engine_fail(err, ENGINE_ERR_FILE, "%scannot be opened again: %s",
                               x->g->parts[i].label, io_errno_text(errno));
        f->direct = open(x->g->parts[i].path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    }
    return 0;
}

static void place_parts(struct experts *x, const struct experts_options *opt)
{
    for (uint32_t l = 0; l < opt->n_layers; l++) {
        size_t at = 0;
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
            const struct gguf_tensor *t = opt->layers[l].part[p];
            if (!t)
                continue;
            x->layers[l][p] = (struct part){ .tensor = t,
                                             .file_bytes = file_bytes_of(t),
                                             .at = at,
                                             .wants_panels = repack_wants(x->g, t) };
            at += memory_bytes_of(x->g, t);
        }
    }
}

static int take_memory(struct experts *x, const struct experts_options *opt, struct engine_err *err)
{
    uint64_t n_all = (uint64_t)n_layers_with_experts(opt) * opt->n_experts;
    x->slot_bytes = slot_bytes_of(x->g, opt);
    x->staging_bytes = largest(x->g, opt, staged_bytes_of);
    uint64_t n_slots = opt->slot_bytes / x->slot_bytes;
    x->n_slots = (uint32_t)(n_slots < n_all ? n_slots : n_all);
    if (x->n_slots < LEAST_SLOTS)
        return engine_fail(err, ENGINE_ERR_OPTION,
                           "%" PRIu64
                           " bytes for experts were asked for; at least %d of them, %" PRIu64
                           " bytes, must fit",
                           opt->slot_bytes, LEAST_SLOTS, experts_least_bytes(x->g, opt));
    x->layers = calloc(opt->n_layers, sizeof(*x->layers));
    x->wishes = calloc(opt->n_experts, sizeof(*x->wishes));
    x->failed = calloc(opt->n_experts, sizeof(*x->failed));
    x->cache = expert_cache_open(opt->n_layers, opt->n_experts, x->n_slots);
    if (!x->layers || !x->wishes || !x->failed || !x->cache)
        return no_memory("the table of experts", n_all * 32, err);
    x->slots = huge_alloc(x->n_slots * x->slot_bytes);
    if (!x->slots)
        return no_memory("slots of experts", x->n_slots * x->slot_bytes, err);
    x->staging = huge_alloc(MOST_LOADS * x->staging_bytes);
    if (!x->staging)
        return no_memory("reading experts", MOST_LOADS * x->staging_bytes, err);
    for (uint32_t i = 0; i < MOST_LOADS; i++)
        x->loads[i].staging = x->staging + i * x->staging_bytes;
    return 0;
}

int experts_open(struct experts **out, const struct gguf *g, const struct experts_options *opt,
                 struct workers *workers, struct engine_err *err)
{
    const struct io_options io = { .backend = opt->io,
                                   .depth = MOST_READS,
                                   .moves = true, /* who opens the model warms it up */
                                   .faults = opt->faults };
    struct experts *x = calloc(1, sizeof(*x));
    *out = NULL;
    if (!x)
        return no_memory("experts", sizeof(*x), err);
    x->g = g;
    x->workers = workers;
    x->n_layers = opt->n_layers;
    x->n_experts = opt->n_experts;
    if (take_memory(x, opt, err) < 0 || open_files(x, err) < 0 || io_open(&x->io, &io, err) < 0) {
        experts_close(x);
        return -1;
    }
    place_parts(x, opt);
    *out = x;
    return 0;
}

void experts_close(struct experts *x)
{
    if (!x)
        return;
    io_close(x->io);
    for (uint32_t i = 0; x->files && i < x->g->n_parts; i++) {
        if (x->files[i].buffered >= 0)
            close(x->files[i].buffered);
        if (x->files[i].direct >= 0)
            close(x->files[i].direct);
    }
    expert_cache_close(x->cache);
    huge_free(x->slots, x->n_slots * x->slot_bytes);
    huge_free(x->staging, MOST_LOADS * x->staging_bytes);
    free(x->files);
    free(x->layers);
    free(x->wishes);
    free(x->failed);
    free(x);
}

/* ---- reading ---- */

static const struct part *part_of(const struct experts *x, uint32_t part)
{
    return &x->layers[x->layer][part];
}

/* Where an expert's slice of a part begins in the file. */
static uint64_t slice_begin(const struct part *p, uint32_t expert)
{
    return p->tensor->offset + expert * p->file_bytes;
}

/* Moves on to the next part that there is, and to the block in which its slice begins. */
static void next_part(const struct experts *x, struct load *l, uint32_t part)
{
    while (part < EXPERT_N_PARTS && !part_of(x, part)->tensor)
        part++;
    l->part = part;
    if (part < EXPERT_N_PARTS)
        l->offset = slice_begin(part_of(x, part), x->wishes[l->wish].expert) / ALIGNMENT *
                    ALIGNMENT;
}

static void begin_load(struct experts *x, struct load *l, uint32_t wish)
{
    size_t at = 0;
    l->busy = true;
    l->wish = wish;
    l->n_in_flight = 0;
    l->error = 0;
    for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
        l->part_at[p] = at;
        at += part_of(x, p)->tensor ? staged_bytes_of(x->g, part_of(x, p)->tensor) : 0;
    }
    x->wishes[wish].state = WISH_LOADING;
    next_part(x, l, 0);
}

static void submit(struct experts *x, struct piece *piece)
{
    int rc = io_submit(x->io, &piece->read);
    assert(rc == 0); /* MOST_READS is the depth */
    piece->load->n_in_flight++;
}

/* Asks for the next piece of a load.  Its last block may reach beyond the file's end, where direct reads
 * cannot be continued. */
static void ask_piece(struct experts *x, struct load *l, struct piece *piece)
{
    const struct part *p = part_of(x, l->part);
    const struct file *f = &x->files[p->tensor->part];
    uint64_t begin = slice_begin(p, x->wishes[l->wish].expert), end = begin + p->file_bytes;
    uint64_t first = begin / ALIGNMENT * ALIGNMENT, last = round_up(end, ALIGNMENT);
    uint64_t bytes = last - l->offset < PIECE_BYTES ? last - l->offset : PIECE_BYTES;
    bool direct = f->direct >= 0 && l->offset + bytes <= x->g->parts[p->tensor->part].file_bytes;
    if (!direct && l->offset + bytes > end)
        bytes = end - l->offset;
    *piece = (struct piece){ .load = l,
                             .needed = bytes < end - l->offset ? bytes : end - l->offset,
                             .read = { .fd = direct ? f->direct : f->buffered,
                                       .dst = l->staging + l->part_at[l->part] +
                                              (l->offset - first),
                                       .offset = l->offset,
                                       .bytes = bytes,
                                       .unit = direct ? ALIGNMENT : 1 } };
    l->offset += bytes;
    if (l->offset >= end)
        next_part(x, l, l->part + 1);
    submit(x, piece);
}

static struct piece *free_piece(struct experts *x)
{
    for (uint32_t i = 0; i < MOST_READS; i++)
        if (!x->pieces[i].load)
            return &x->pieces[i];
    return NULL;
}

/* Keeps the disk busy: pieces of the oldest loads first. */
static void ask_more(struct experts *x)
{
    for (uint32_t i = 0; i < MOST_LOADS; i++) {
        struct load *l = &x->loads[i];
        while (l->busy && l->part < EXPERT_N_PARTS && l->error == 0) {
            struct piece *piece = free_piece(x);
            if (!piece)
                return;
            ask_piece(x, l, piece);
        }
    }
}

static struct load *free_load(struct experts *x)
{
    for (uint32_t i = 0; i < MOST_LOADS; i++)
        if (!x->loads[i].busy)
            return &x->loads[i];
    return NULL;
}

/* Gives slots and buffers to what is to be loaded, for as long as there are any. */
static void begin_loads(struct experts *x)
{
    for (uint32_t i = 0; i < x->n_wishes; i++) {
        if (x->wishes[i].state != WISH_TO_LOAD)
            continue;
        struct load *l = free_load(x);
        if (!l || expert_cache_place(x->cache, x->layer, x->wishes[i].expert) == EXPERT_NO_SLOT)
            break;
        begin_load(x, l, i);
    }
    ask_more(x);
}

static void end_piece(struct experts *x, struct piece *piece)
{
    struct io_read *r = &piece->read;
    struct load *l = piece->load;
    l->n_in_flight--;
    bool is_whole = r->result >= 0 && (uint64_t)r->result >= piece->needed;
    if (is_whole)
        x->read_bytes += (uint64_t)r->result;
    if (!is_whole && !piece->again && l->error == 0) {
        piece->again = true;
        submit(x, piece);
        return;
    }
    if (!is_whole)
        l->error = r->result < 0 ? (int)-r->result : EIO;
    piece->load = NULL;
}

static void reap(struct experts *x, bool wait)
{
    struct io_read *done[MOST_READS];
    uint64_t begin = wait ? engine_clock_ns() : 0;
    uint32_t n = io_reap(x->io, done, MOST_READS, wait);
    if (wait)
        x->stall_ns += engine_clock_ns() - begin;
    for (uint32_t i = 0; i < n; i++)
        end_piece(x, (struct piece *)((char *)done[i] - offsetof(struct piece, read)));
    ask_more(x);
}

/* ---- from the buffer to the slot ---- */

static uint8_t *slot_of(const struct experts *x, uint32_t layer, uint32_t expert)
{
    return x->slots + expert_cache_slot(x->cache, layer, expert) * x->slot_bytes;
}

static void fill_slot(struct experts *x, const struct load *l)
{
    uint32_t expert = x->wishes[l->wish].expert;
    for (uint32_t i = 0; i < EXPERT_N_PARTS; i++) {
        const struct part *p = part_of(x, i);
        if (!p->tensor)
            continue;
        uint8_t *dst = slot_of(x, x->layer, expert) + p->at;
        const uint8_t *src = l->staging + l->part_at[i] + slice_begin(p, expert) % ALIGNMENT;
        struct gguf_tensor one = *p->tensor;
        one.ne[2] = 1;
        one.bytes = p->file_bytes;
        one.data = src;
        if (p->wants_panels)
            repack_make(x->workers, &one, 0, one.bytes, dst);
        else
            memcpy(dst, src, one.bytes);
    }
}

static void fail_load(struct experts *x, struct load *l)
{
    struct wish *w = &x->wishes[l->wish];
    snprintf(x->reason, sizeof(x->reason), "expert %u of layer %u could not be read: %s", w->expert,
             x->layer, io_errno_text(l->error));
    expert_cache_failed(x->cache, x->layer, w->expert);
    x->failed[x->n_failed++] = w->expert;
    w->state = WISH_FAILED;
}

/* Loads of which all pieces have come, one way or the other. */
static void end_loads(struct experts *x)
{
    for (uint32_t i = 0; i < MOST_LOADS; i++) {
        struct load *l = &x->loads[i];
        bool asked_all = l->part == EXPERT_N_PARTS || l->error != 0;
        if (!l->busy || l->n_in_flight > 0 || !asked_all)
            continue;
        l->busy = false;
        if (l->error) {
            fail_load(x, l);
            continue;
        }
        fill_slot(x, l);
        expert_cache_loaded(x->cache, x->layer, x->wishes[l->wish].expert);
        x->wishes[l->wish].state = WISH_READY;
    }
}

/* ---- a layer ---- */

void experts_want(struct experts *x, uint32_t layer, const uint32_t *list, const uint32_t *n_tokens,
                  uint32_t n)
{
    x->layer = layer;
    x->n_wishes = n;
    x->n_failed = 0;
    for (uint32_t i = 0; i < n; i++) {
        enum expert_state state = expert_cache_state(x->cache, layer, list[i]);
        assert(state != EXPERT_LOADING);
        expert_cache_use(x->cache, layer, list[i], n_tokens[i]);
        if (state == EXPERT_READY)
            expert_cache_pin(x->cache, layer, list[i]);
        x->wishes[i] = (struct wish){ list[i], state == EXPERT_READY ? WISH_READY : WISH_TO_LOAD };
    }
    begin_loads(x);
}

static void release_set(struct experts *x)
{
    for (uint32_t i = 0; i < x->n_wishes; i++)
        if (x->wishes[i].state == WISH_HANDED_OUT) {
            expert_cache_unpin(x->cache, x->layer, x->wishes[i].expert);
            x->wishes[i].state = WISH_DONE;
        }
}

static uint32_t take_ready(struct experts *x, uint32_t *set)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->n_wishes; i++)
        if (x->wishes[i].state == WISH_READY) {
            x->wishes[i].state = WISH_HANDED_OUT;
            set[n++] = x->wishes[i].expert;
        }
    return n;
}

uint32_t experts_next(struct experts *x, uint32_t *set)
{
    release_set(x);
    for (bool wait = false;; wait = true) {
        reap(x, wait);
        end_loads(x);
        begin_loads(x);
        uint32_t n = take_ready(x, set);
        if (n > 0 || io_n_in_flight(x->io) == 0)
            return n;
    }
}

uint32_t experts_failed(const struct experts *x, const uint32_t **list, const char **reason)
{
    *list = x->failed;
    *reason = x->reason;
    return x->n_failed;
}

const void *experts_data(const struct experts *x, uint32_t layer, uint32_t expert,
                         enum expert_part part)
{
    return slot_of(x, layer, expert) + x->layers[layer][part].at;
}

void experts_pass(struct experts *x, uint32_t n_tokens)
{
    expert_cache_pass(x->cache, n_tokens);
}

uint32_t experts_n_slots(const struct experts *x)
{
    return x->n_slots;
}

void experts_stats(const struct experts *x, struct experts_stats *out)
{
    struct expert_cache_stats cache;
    expert_cache_stats(x->cache, &cache);
    *out = (struct experts_stats){ .n_hits = cache.n_hits,
                                   .n_misses = cache.n_misses,
                                   .n_evictions = cache.n_evictions,
                                   .read_bytes = x->read_bytes,
                                   .stall_ns = x->stall_ns };
}
