/* SPDX-License-Identifier: Apache-2.0
 *
 * experts.c - from the wish to the slot.
 *
 *     experts_want      hit: pinned, ready for the first set
 *                       miss: waits for a slot and a buffer -> read
 *     experts_foresee   absent: the same, with what the wishes leave
 *     experts_next      reads that came: panels made, slot ready -> set; new ones take their buffers
 *
 * A read that fails fails its expert for this layer; the next step that wants it tries again.
 * Invariants: an expert of the current list is in exactly one of: to be read, on its way, ready, handed out, done,
 * late, failed.  Whatever is on its way, ready or in the current set is pinned once; so is what was foreseen and has
 * come, until its layer says whether it is wanted.  What was foreseen, has begun, and is not wanted after all
 * is let go of when it comes.
 */
#include "engine/storage/experts.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/huge.h"
#include "engine/model/repack.h"
#include "engine/storage/expert_cache.h"
#include "engine/storage/expert_counts.h"
#include "engine/storage/expert_reads.h"

enum {
    LEAST_SLOTS = 2, /* one is computed while another is read */
    AHEAD_SLOTS = 8, /* a part of the slots, for what is foreseen */
    REASON_BYTES = 256,
    PATIENCE_MS = 1000, /* far beyond what storage that works takes */
    TIMEOUT_MS = 10000,
    AWAIT_MS = 100,
};

#define MS UINT64_C(1000000) /* in nanoseconds */

/* One matrix of each expert of a layer. */
struct part {
    const struct gguf_tensor *tensor; /* NULL: none */
    size_t at;                        /* in a slot */
    bool goes_straight, wants_packing;
};

/* What experts_want asked for. */
enum wish_state {
    WISH_TO_READ,
    WISH_READING,
    WISH_READY,
    WISH_HANDED_OUT,
    WISH_DONE,
    WISH_LATE,
    WISH_FAILED,
};

struct wish {
    uint32_t expert, n_tokens, n_new;
    double heat;
    enum wish_state state;
};

struct experts {
    const struct gguf *g;
    struct workers *workers;
    uint32_t n_layers, n_experts;
    struct part (*layers)[EXPERT_N_PARTS]; /* [n_layers] */
    struct expert_cache *cache;
    struct expert_reads *reads;
    uint8_t *slots; /* [n_slots][slot_bytes] */
    size_t slot_bytes;
    uint32_t n_slots;
    bool all_fit, no_foresight;
    uint64_t patience_ns, timeout_ns;

    /* The layer at hand. */
    uint32_t layer;
    struct wish *wishes; /* [n_experts] */
    uint32_t n_wishes;
    uint32_t *failed, *late; /* [n_experts] */
    uint32_t n_failed, n_late;
    char reason[REASON_BYTES];

    /* The layers after it: what experts_foresee found absent. */
    struct expert_guesses *guesses;
    uint32_t *absent; /* [n_experts] */
    uint32_t n_ahead; /* begun as guesses, and pinned since */

    engine_expert_trace_fn *trace; /* NULL: nobody asks */
    void *trace_ctx;
    struct expert_counts *counts;
    struct engine_expert_layer *count; /* [n_layers] in counts */
};

/* ---- sizes ---- */

static uint64_t slot_bytes_of(const struct experts_options *opt)
{
    return expert_whole_blocks(experts_largest(opt->layers, opt->n_layers, expert_memory_bytes));
}

static uint64_t n_all_experts(const struct experts_options *opt)
{
    return (uint64_t)experts_n_layers(opt->layers, opt->n_layers) * opt->n_experts;
}

uint64_t experts_slots_bytes(const struct experts_options *opt)
{
    return n_all_experts(opt) * slot_bytes_of(opt);
}

uint64_t experts_least_bytes(const struct experts_options *opt)
{
    return LEAST_SLOTS * slot_bytes_of(opt);
}

uint64_t experts_resident_bytes(const struct experts_options *opt)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < opt->n_layers; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
            const struct gguf_tensor *t = opt->layers[l].part[p];
            sum += t ? repack_memory_bytes(t) : 0;
        }
    return sum;
}

uint64_t experts_staging_bytes(const struct experts_options *opt)
{
    return expert_reads_buffer_bytes(opt->layers, opt->n_layers);
}

/* ---- open and close ---- */

static int no_memory(const char *what, uint64_t bytes, struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %s (%" PRIu64 " bytes)", what, bytes);
}

/* Those that go straight come first: whole blocks, one behind the other. */
static void place_layer(struct experts *x, uint32_t layer, const struct experts_layer *parts)
{
    size_t at = 0;
    for (int straight = 1; straight >= 0; straight--)
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
            const struct gguf_tensor *t = parts->part[p];
            if (!t || expert_goes_straight(t) != straight)
                continue;
            x->layers[layer][p] = (struct part){
                .tensor = t, .at = at, .goes_straight = straight, .wants_packing = repack_wants(t)
            };
            at += expert_memory_bytes(t);
        }
}

static int take_memory(struct experts *x, const struct experts_options *opt, struct engine_err *err)
{
    uint64_t n_all = n_all_experts(opt);
    x->slot_bytes = slot_bytes_of(opt);
    uint64_t n_slots = opt->slot_bytes / x->slot_bytes;
    x->all_fit = n_slots >= n_all;
    x->n_slots = (uint32_t)(n_slots < n_all ? n_slots : n_all);
    if (x->n_slots < LEAST_SLOTS)
        return engine_fail(err, ENGINE_ERR_OPTION,
                           "%" PRIu64
                           " bytes for experts were asked for; at least %d of them, %" PRIu64
                           " bytes, must fit",
                           opt->slot_bytes, LEAST_SLOTS, experts_least_bytes(opt));
    x->layers = calloc(opt->n_layers, sizeof(*x->layers));
    x->wishes = calloc(opt->n_experts, sizeof(*x->wishes));
    x->failed = calloc(opt->n_experts, sizeof(*x->failed));
    x->late = calloc(opt->n_experts, sizeof(*x->late));
    x->absent = calloc(opt->n_experts, sizeof(*x->absent));
    x->guesses = expert_guesses_open(opt->n_layers, opt->n_experts);
    x->cache = expert_cache_open(opt->n_layers, opt->n_experts, x->n_slots);
    x->counts = expert_counts_open(opt->n_layers);
    if (!x->layers || !x->wishes || !x->failed || !x->late || !x->absent || !x->guesses ||
        !x->cache || !x->counts)
        return no_memory("the table of experts", n_all * 32, err);
    x->count = expert_counts_layers(x->counts);
    expert_counts_all(x->counts)->n_slots = x->n_slots;
    x->slots = huge_alloc(x->n_slots * x->slot_bytes);
    if (!x->slots)
        return no_memory("slots of experts", x->n_slots * x->slot_bytes, err);
    return 0;
}

int experts_open(struct experts **out, const struct gguf *g, const struct experts_options *opt,
                 struct workers *workers, struct engine_err *err)
{
    struct experts *x = calloc(1, sizeof(*x));
    *out = NULL;
    if (!x)
        return no_memory("experts", sizeof(*x), err);
    x->g = g;
    x->workers = workers;
    x->n_layers = opt->n_layers;
    x->n_experts = opt->n_experts;
    x->no_foresight = opt->no_foresight;
    x->patience_ns = MS * (opt->patience_ms ? opt->patience_ms : PATIENCE_MS);
    x->timeout_ns = MS * (opt->timeout_ms ? opt->timeout_ms : TIMEOUT_MS);
    const struct expert_reads_options reads = { .g = g,
                                                .layers = opt->layers,
                                                .n_layers = opt->n_layers,
                                                .patience_ns = x->patience_ns,
                                                .timeout_ns = x->timeout_ns,
                                                .io = opt->io,
                                                .faults = opt->faults };
    if (take_memory(x, opt, err) < 0 || expert_reads_open(&x->reads, &reads, err) < 0) {
        experts_close(x);
        return -1;
    }
    for (uint32_t l = 0; l < opt->n_layers; l++)
        place_layer(x, l, &opt->layers[l]);
    *out = x;
    return 0;
}

void experts_close(struct experts *x)
{
    if (!x)
        return;
    expert_reads_close(x->reads);
    expert_cache_close(x->cache);
    expert_counts_close(x->counts);
    expert_guesses_close(x->guesses);
    huge_free(x->slots, x->n_slots * x->slot_bytes);
    free(x->layers);
    free(x->wishes);
    free(x->failed);
    free(x->late);
    free(x->absent);
    free(x);
}

const char *experts_io_name(const struct experts *x)
{
    return io_backend_name(expert_reads_io(x->reads));
}

const char *experts_io_fallback(const struct experts *x)
{
    return io_fallback_reason(expert_reads_io(x->reads));
}

/* ---- what came ---- */

static uint8_t *slot_of(const struct experts *x, uint32_t layer, uint32_t expert)
{
    return x->slots + expert_cache_slot(x->cache, layer, expert) * x->slot_bytes;
}

/* From buffers to where they stay. */
static void fill_slot(struct experts *x, const struct expert_read *read)
{
    uint8_t *slot = slot_of(x, read->layer, read->expert);
    for (uint32_t i = 0; i < EXPERT_N_PARTS; i++) {
        const struct part *p = &x->layers[read->layer][i];
        if (!p->tensor || p->goes_straight)
            continue;
        struct gguf_tensor one = *p->tensor;
        one.ne[2] = 1;
        one.bytes = expert_file_bytes(p->tensor);
        one.data = read->part[i];
        if (p->wants_packing)
            repack_make(x->workers, &one, 0, one.bytes, slot + p->at);
        else
            memcpy(slot + p->at, one.data, one.bytes);
    }
}

/* NULL: nobody wants it now. */
static struct wish *wish_for(struct experts *x, uint32_t layer, uint32_t expert)
{
    for (uint32_t i = 0; i < x->n_wishes && layer == x->layer; i++)
        if (x->wishes[i].expert == expert && x->wishes[i].state == WISH_READING)
            return &x->wishes[i];
    return NULL;
}

static void fail_wish(struct experts *x, struct wish *w, const char *why)
{
    snprintf(x->reason, sizeof(x->reason), "expert %u of layer %u could not be read: %s", w->expert,
             x->layer, why);
    x->failed[x->n_failed++] = w->expert;
    w->state = WISH_FAILED;
}

static void let_go(struct experts *x, uint32_t layer, uint32_t expert)
{
    expert_cache_unpin(x->cache, layer, expert);
    x->n_ahead--;
}

static void receive(struct experts *x, const struct expert_read *read)
{
    struct wish *wish = wish_for(x, read->layer, read->expert);
    struct guess *guess = expert_guesses_find(x->guesses, read->layer, read->expert);
    if (read->error) {
        expert_cache_failed(x->cache, read->layer, read->expert);
        if (wish)
            fail_wish(x, wish, io_errno_text(read->error));
        else
            x->n_ahead--;
        if (guess)
            guess->state = GUESS_FAILED;
        return;
    }
    fill_slot(x, read);
    expert_cache_loaded(x->cache, read->layer, read->expert);
    if (wish)
        wish->state = WISH_READY;
    else if (guess)
        guess->state = GUESS_READY;
    else
        let_go(x, read->layer, read->expert);
}

/* ---- what is asked for ---- */

static void read_to_slot(struct experts *x, uint32_t layer, uint32_t expert, bool is_urgent)
{
    uint8_t *slot = slot_of(x, layer, expert), *dst[EXPERT_N_PARTS];
    for (uint32_t i = 0; i < EXPERT_N_PARTS; i++) {
        const struct part *p = &x->layers[layer][i];
        dst[i] = p->goes_straight ? slot + p->at : NULL;
    }
    expert_reads_begin(x->reads, layer, expert, dst, is_urgent);
}

/* Gives an expert a slot and a buffer; false: one of them is wanting. */
static bool begin_read(struct experts *x, uint32_t layer, uint32_t expert, bool is_urgent)
{
    if (!expert_reads_has_room(x->reads, is_urgent) ||
        expert_cache_place(x->cache, layer, expert) == EXPERT_NO_SLOT)
        return false;
    read_to_slot(x, layer, expert, is_urgent);
    return true;
}

static void begin_wishes(struct experts *x)
{
    for (uint32_t i = 0; i < x->n_wishes; i++) {
        struct wish *w = &x->wishes[i];
        if (w->state != WISH_TO_READ)
            continue;
        if (!begin_read(x, x->layer, w->expert, true))
            return;
        w->state = WISH_READING;
        /* It was driven out while its tokens waited for another, or the two would drive out each other for ever. */
        if (w->n_new == 0)
            expert_cache_use(x->cache, x->layer, w->expert, w->n_tokens);
    }
}

static void begin_guesses(struct experts *x)
{
    struct guess *guess;
    uint32_t layer;
    uint32_t most = (x->n_slots + AHEAD_SLOTS / 2) / AHEAD_SLOTS;
    while (x->n_ahead < most && (guess = expert_guesses_next(x->guesses, x->layer, &layer)) &&
           begin_read(x, layer, guess->expert, false)) {
        guess->state = GUESS_READING;
        x->n_ahead++;
    }
}

/* Reads for what waits: the wishes first. */
static void begin_all(struct experts *x)
{
    expert_reads_poll(x->reads, 0); /* what has come while nobody looked is a sign of life */
    begin_wishes(x);
    begin_guesses(x);
    expert_reads_poll(x->reads, 0);
}

static bool is_wanted(const struct experts *x, uint32_t expert)
{
    for (uint32_t i = 0; i < x->n_wishes; i++)
        if (x->wishes[i].expert == expert)
            return true;
    return false;
}

/* What nobody wants is let go of.  Counted is what the last guess at the layer was. */
static void settle_guess(struct experts *x, uint32_t layer, const struct guess *guess)
{
    struct engine_expert_layer *count = &x->count[layer];
    bool is_right = layer == x->layer && (guess->gave_way || is_wanted(x, guess->expert));
    expert_guesses_judge(x->guesses, layer, guess, is_right);
    if (guess->state == GUESS_DROPPED)
        return;
    count->n_right += is_right;
    count->n_wrong += !is_right;
    if (is_right)
        return;
    count->n_unused += guess->state == GUESS_READING || guess->state == GUESS_READY;
    if (guess->state == GUESS_READY)
        let_go(x, layer, guess->expert);
}

/* Guesses at the layer at hand, whose wishes have taken what they want, or at one that was left out. */
static void settle_guesses(struct experts *x)
{
    uint32_t layer, n;
    while (expert_guesses_due(x->guesses, x->layer, &layer)) {
        const struct guess *list = expert_guesses_of(x->guesses, layer, &n);
        for (uint32_t i = 0; i < n; i++)
            settle_guess(x, layer, &list[i]);
        expert_guesses_forget(x->guesses, layer);
    }
}

/* More tokens first: more to compute while the others are read. */
static int by_tokens(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;
    return x->n_tokens != y->n_tokens ? (x->n_tokens < y->n_tokens ? 1 : -1)
                                      : (x->expert > y->expert) - (x->expert < y->expert);
}

/* For tokens that had not wished for it before. */
static void count_wish(struct experts *x, const struct wish *w, bool was_guessed)
{
    struct engine_expert_layer *count = &x->count[x->layer];
    if (w->n_new == 0)
        return;
    count->n_foreseen += was_guessed;
    count->n_hits += w->state == WISH_READY && !was_guessed;
    count->n_misses += w->state != WISH_READY && !was_guessed;
    expert_cache_use(x->cache, x->layer, w->expert, w->heat);
}

/* What it finds of the expert: in memory, on its way, or nothing. */
static void make_wish(struct experts *x, struct wish *w)
{
    enum expert_state state = expert_cache_state(x->cache, x->layer, w->expert);
    const struct guess *guess = expert_guesses_find(x->guesses, x->layer, w->expert);
    bool was_guessed = guess && (guess->state == GUESS_READY || guess->state == GUESS_READING);
    w->state = state == EXPERT_READY     ? WISH_READY
               : state == EXPERT_LOADING ? WISH_READING
                                         : WISH_TO_READ;
    if (state == EXPERT_LOADING)
        expert_reads_hurry(x->reads, x->layer, w->expert);
    if (state == EXPERT_READY && !was_guessed)
        expert_cache_pin(x->cache, x->layer, w->expert);
    if (was_guessed || state == EXPERT_LOADING)
        x->n_ahead--; /* its pin is the wish's now */
    count_wish(x, w, was_guessed);
}

void experts_want(struct experts *x, uint32_t layer, const struct experts_choice *list, uint32_t n)
{
    x->layer = layer;
    x->n_wishes = n;
    x->n_failed = x->n_late = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct experts_choice *c = &list[i];
        x->wishes[i] = (struct wish){ .expert = c->expert,
                                      .n_tokens = c->n_tokens,
                                      .n_new = c->n_tokens - c->n_again,
                                      .heat = c->heat };
        if (x->trace)
            x->trace(x->trace_ctx, layer, c->expert);
    }
    qsort(x->wishes, n, sizeof(*x->wishes), by_tokens);
    for (uint32_t i = 0; i < n; i++)
        make_wish(x, &x->wishes[i]);
    settle_guesses(x);
    begin_all(x);
}

bool experts_is_ready(const struct experts *x, uint32_t layer, uint32_t expert)
{
    return expert_cache_state(x->cache, layer, expert) == EXPERT_READY;
}

double experts_row_heat(uint32_t row)
{
    return expert_cache_row_heat(row);
}

void experts_gave_way(struct experts *x, uint32_t layer, uint32_t expert, uint32_t row)
{
    struct guess *guess = expert_guesses_find(x->guesses, layer, expert);
    expert_cache_use(x->cache, layer, expert, experts_row_heat(row));
    x->count[layer].n_replaced++;
    if (guess)
        guess->gave_way = true;
}

void experts_trace(struct experts *x, engine_expert_trace_fn *fn, void *ctx)
{
    x->trace = fn;
    x->trace_ctx = ctx;
}

bool experts_can_foresee(const struct experts *x, uint32_t layer)
{
    return !x->all_fit && !x->no_foresight && x->layers[layer][EXPERT_DOWN].tensor;
}

void experts_foresee(struct experts *x, uint32_t layer, const uint32_t *list, uint32_t n)
{
    uint32_t n_absent = 0;
    assert(layer > x->layer && layer <= x->layer + EXPERT_GUESS_LAYERS);
    for (uint32_t i = 0; i < n; i++)
        if (expert_cache_state(x->cache, layer, list[i]) == EXPERT_ABSENT)
            x->absent[n_absent++] = list[i];
    expert_guesses_make(x->guesses, layer, layer - x->layer, x->absent, n_absent);
    begin_all(x);
}

/* ---- warm from the start ---- */

struct warm_expert {
    uint32_t layer, expert;
    float heat;
};

static int by_place(const void *a, const void *b)
{
    const struct warm_expert *x = a, *y = b;
    return x->layer != y->layer ? (x->layer > y->layer ? 1 : -1)
                                : (x->expert > y->expert) - (x->expert < y->expert);
}

static int by_heat(const void *a, const void *b)
{
    const struct warm_expert *x = a, *y = b;
    return x->heat != y->heat ? (x->heat < y->heat ? 1 : -1) : by_place(a, b);
}

/* The hottest that fit, in the order of the file.  `list` [n_layers * n_experts]. */
static uint32_t choose_warm(struct experts *x, const float *heat, struct warm_expert *list)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < x->n_layers; l++)
        for (uint32_t e = 0; e < x->n_experts; e++) {
            float h = heat[(size_t)l * x->n_experts + e];
            expert_cache_set_heat(x->cache, l, e, (double)h);
            if (h > 0 && x->layers[l][EXPERT_DOWN].tensor)
                list[n++] = (struct warm_expert){ l, e, h };
        }
    qsort(list, n, sizeof(*list), by_heat);
    n = n < x->n_slots ? n : x->n_slots;
    qsort(list, n, sizeof(*list), by_place);
    return n;
}

/* Buffers come free one by one, and are given away at once: or the disk would stand still meanwhile. */
static void receive_all(struct experts *x)
{
    const struct expert_read *read;
    while ((read = expert_reads_take(x->reads))) {
        receive(x, read);
        begin_all(x);
    }
}

static bool is_cancelled(const struct experts_warm_options *opt)
{
    return opt->cancel && __atomic_load_n(opt->cancel, __ATOMIC_RELAXED);
}

/* False: it has to wait for a slot or a buffer. */
static bool begin_warm(struct experts *x, const struct warm_expert *w)
{
    if (expert_cache_state(x->cache, w->layer, w->expert) != EXPERT_ABSENT)
        return true;
    if (!begin_read(x, w->layer, w->expert, true))
        return false;
    x->n_ahead++; /* nobody waits for it: it is let go of when it comes */
    return true;
}

/* Has the storage stopped answering? */
static bool is_hanging(const struct experts *x)
{
    uint64_t alive = expert_reads_any_alive_ns(x->reads);
    return alive && engine_clock_ns() - alive > x->timeout_ns;
}

void experts_warm(struct experts *x, const float *heat, const struct experts_warm_options *opt)
{
    struct warm_expert *list = malloc((size_t)x->n_layers * x->n_experts * sizeof(*list));
    uint32_t n = list ? choose_warm(x, heat, list) : 0, i = 0;
    while ((i < n || x->n_ahead > 0) && !is_cancelled(opt) && !is_hanging(x)) {
        if (i < n && begin_warm(x, &list[i])) {
            i++;
            continue;
        }
        experts_await(x);
        if (opt->progress)
            opt->progress(opt->progress_ctx, ENGINE_PHASE_EXPERTS, i * x->slot_bytes,
                          n * x->slot_bytes);
    }
    free(list);
}

/* ---- what is handed out ---- */

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

static bool is_waiting_for(const struct wish *w)
{
    return w->state == WISH_TO_READ || w->state == WISH_READING;
}

static bool is_waiting(const struct experts *x)
{
    for (uint32_t i = 0; i < x->n_wishes; i++)
        if (is_waiting_for(&x->wishes[i]))
            return true;
    return false;
}

/* For how long nothing has come of a wish. */
static uint64_t silence(const struct experts *x, const struct wish *w, uint64_t now)
{
    uint64_t alive = w->state == WISH_READING ? expert_reads_alive_ns(x->reads, x->layer, w->expert)
                                              : expert_reads_any_alive_ns(x->reads);
    return now > alive ? now - alive : 0;
}

/* For how long the wishes may wait: for as long as one of them may. */
static uint64_t time_left(const struct experts *x, bool may_defer)
{
    uint64_t limit = may_defer ? x->patience_ns : x->timeout_ns, now = engine_clock_ns(), left = 0;
    for (uint32_t i = 0; i < x->n_wishes; i++) {
        uint64_t silent = is_waiting_for(&x->wishes[i]) ? silence(x, &x->wishes[i], now) : limit;
        if (silent < limit && limit - silent > left)
            left = limit - silent;
    }
    return left;
}

static void give_up(struct experts *x)
{
    uint64_t now = engine_clock_ns();
    for (uint32_t i = 0; i < x->n_wishes; i++) {
        struct wish *w = &x->wishes[i];
        if (!is_waiting_for(w))
            continue;
        bool has_failed = silence(x, w, now) >= x->timeout_ns;
        x->n_ahead += w->state == WISH_READING; /* it is let go of when it comes */
        if (has_failed) {
            fail_wish(x, w, "the storage does not answer");
            continue;
        }
        w->state = WISH_LATE;
        x->late[x->n_late++] = w->expert;
    }
}

uint32_t experts_next(struct experts *x, uint32_t *set, bool may_defer)
{
    release_set(x);
    for (uint64_t wait_ns = 0;;) {
        expert_reads_poll(x->reads, wait_ns);
        begin_all(x);
        receive_all(x);
        uint32_t n = take_ready(x, set);
        if (n > 0 || !is_waiting(x))
            return n;
        wait_ns = time_left(x, may_defer);
        if (wait_ns == 0) {
            give_up(x);
            return 0;
        }
    }
}

void experts_await(struct experts *x)
{
    expert_reads_poll(x->reads, AWAIT_MS * MS);
    receive_all(x);
}

uint32_t experts_late(const struct experts *x, const uint32_t **list)
{
    *list = x->late;
    return x->n_late;
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
    const struct part *p = &x->layers[layer][part];
    uint64_t skip = p->goes_straight ? expert_file_offset(p->tensor, expert) % EXPERT_BLOCK_BYTES
                                     : 0;
    return slot_of(x, layer, expert) + p->at + skip;
}

void experts_heats(const struct experts *x, float *heat)
{
    for (uint32_t l = 0; l < x->n_layers; l++)
        for (uint32_t e = 0; e < x->n_experts; e++)
            *heat++ = (float)expert_cache_heat(x->cache, l, e);
}

void experts_pass(struct experts *x, uint32_t n_tokens)
{
    expert_cache_pass(x->cache, n_tokens);
}

void experts_publish(struct experts *x)
{
    struct engine_expert_stats *all = expert_counts_all(x->counts);
    for (uint32_t l = 0; l < x->n_layers; l++)
        x->count[l].n_resident = expert_cache_n_ready(x->cache, l);
    all->n_evictions = expert_cache_evictions(x->cache);
    expert_reads_count(x->reads, all);
    expert_counts_publish(x->counts);
}

void experts_stats(const struct experts *x, struct engine_expert_stats *all,
                   struct engine_expert_layer *layers)
{
    expert_counts_read(x->counts, all, layers);
}
