/* SPDX-License-Identifier: Apache-2.0
 *
 * repack.c - one region of 2 MiB pages for all packed tensors and their twins, in the order of the file.
 */
#include "engine/model/repack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/huge.h"
#include "engine/share.h"
#include "kernels/kernels.h"

enum {
    MOST_ROWS = 1 << 30, /* of a matrix: far above any, and its panels can still be counted */
    LINE = 64,
};
#define NOT_PACKED UINT64_MAX

/* Where a tensor begins, and its twin; or NOT_PACKED. */
struct packed_place {
    uint64_t at, twin;
};

struct repack {
    const struct gguf *g;
    struct workers *workers;
    struct packed_place *place; /* by tensor */
    uint8_t *mem;
    size_t bytes;
};

/* An embedding that is not the output as well is only looked up, a row at a time. */
static bool is_only_looked_up(const struct gguf *g, const struct gguf_tensor *t)
{
    return strcmp(t->name, "token_embd.weight") == 0 && gguf_find_tensor(g, "output.weight");
}

static bool can_be_packed(const struct gguf *g, const struct gguf_tensor *t)
{
    const struct kern_type_info *info = kern_type_info(t->type);
    return info->supported && info->group_values && t->bytes > 0 && t->ne[0] <= UINT32_MAX &&
           t->ne[1] >= KERN_PANEL_ROWS && t->ne[1] <= MOST_ROWS && t->ne[3] == 1 &&
           !is_only_looked_up(g, t);
}

/* Of a layer's feed-forward, experts and shared experts alike. */
static bool is_role(const struct gguf_tensor *t, const char *role, bool only_dense)
{
    static const char *const kinds[] = { ".weight", "_exps.weight", "_shexp.weight" };
    const char *dot = strncmp(t->name, "blk.", 4) == 0 ? strchr(t->name + 4, '.') : NULL;
    size_t n = strlen(role);
    if (!dot || strncmp(dot + 1, role, n) != 0)
        return false;
    for (size_t i = 0; i < (only_dense ? 1 : sizeof(kinds) / sizeof(kinds[0])); i++)
        if (strcmp(dot + 1 + n, kinds[i]) == 0)
            return true;
    return false;
}

static bool goes_to_columns(const struct gguf *g, const struct gguf_tensor *t, bool only_dense)
{
    return t && t->layout == KERN_LAYOUT_ROWS && can_be_packed(g, t) &&
           is_role(t, "ffn_down", only_dense);
}

/* The down matrix of an up matrix's feed-forward; NULL: none. */
static const struct gguf_tensor *down_of(const struct gguf *g, const struct gguf_tensor *up)
{
    const char *role = strstr(up->name, "ffn_up"), *kind = role + strlen("ffn_up");
    char *name = NULL;
    if (asprintf(&name, "%.*sffn_down%s", (int)(role - up->name), up->name, kind) < 0)
        return NULL;
    const struct gguf_tensor *down = gguf_find_tensor(g, name);
    free(name);
    return down;
}

/* Panels but where zeros are skipped. */
static enum kern_layout best_layout(const struct gguf *g, const struct gguf_tensor *t,
                                    const struct repack_rules *rules)
{
    if (rules->skips_zeros && goes_to_columns(g, t, rules->only_dense))
        return KERN_LAYOUT_COLUMNS;
    if (rules->skips_zeros && rules->is_gated && is_role(t, "ffn_up", rules->only_dense) &&
        goes_to_columns(g, down_of(g, t), rules->only_dense))
        return KERN_LAYOUT_ROWS;
    return KERN_LAYOUT_PANELS;
}

static void aim(struct gguf *g, const struct gguf_tensor *t, const struct repack_rules *rules)
{
    if (t->layout != KERN_LAYOUT_ROWS || !can_be_packed(g, t)) {
        gguf_aim(g, t, t->layout, t->layout);
        return;
    }
    enum kern_layout best = best_layout(g, t, rules);
    bool is_dense = is_role(t, "ffn_up", true) || is_role(t, "ffn_down", true);
    gguf_aim(g, t, rules->keeps_panels && is_dense ? KERN_LAYOUT_PANELS : best, best);
}

uint64_t repack_choose(struct gguf *g, const struct repack_rules *rules)
{
    uint64_t n_columns = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        aim(g, t, rules);
        n_columns += t->twin == KERN_LAYOUT_COLUMNS;
    }
    return n_columns;
}

bool repack_wants(const struct gguf_tensor *t)
{
    return t->target != t->layout;
}

static bool has_twin(const struct gguf_tensor *t)
{
    return t->twin != t->target;
}

static size_t row_bytes_of(const struct gguf_tensor *t)
{
    return t->bytes / t->ne[1] / t->ne[2];
}

static size_t matrix_bytes(const struct gguf_tensor *t, enum kern_layout layout)
{
    if (layout == KERN_LAYOUT_ROWS)
        return row_bytes_of(t) * t->ne[1];
    return kern_packed_bytes(layout, (enum kern_type)t->type, (uint32_t)t->ne[1],
                             (uint32_t)t->ne[0]);
}

/* Whatever comes behind it is aligned. */
static uint64_t bytes_in(const struct gguf_tensor *t, enum kern_layout layout)
{
    return (matrix_bytes(t, layout) * t->ne[2] + LINE - 1) / LINE * LINE;
}

uint64_t repack_bytes(const struct gguf_tensor *t)
{
    return bytes_in(t, t->target);
}

uint64_t repack_memory_bytes(const struct gguf_tensor *t)
{
    uint64_t once = repack_wants(t) ? repack_bytes(t) : t->bytes;
    return once + (has_twin(t) ? bytes_in(t, t->twin) : 0);
}

uint64_t repack_weight_bytes(const struct gguf *g)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (!t->on_demand)
            sum += repack_memory_bytes(t);
    }
    return sum;
}

uint64_t repack_lookup_bytes(const struct gguf *g)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    return t && is_only_looked_up(g, t) ? t->bytes : 0;
}

static uint64_t index_of(const struct repack *r, const struct gguf_tensor *t)
{
    return (uint64_t)(t - gguf_tensor_at(r->g, 0));
}

/* The next bytes, if they are wanted. */
static uint64_t place_next(struct repack *r, bool is_wanted, uint64_t bytes)
{
    uint64_t at = r->bytes;
    r->bytes += is_wanted ? bytes : 0;
    return is_wanted ? at : NOT_PACKED;
}

/* Where each packed tensor will be. */
static void place_all(struct repack *r)
{
    for (uint64_t i = 0; i < gguf_n_tensors(r->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(r->g, i);
        bool is_wanted = repack_wants(t) && !t->on_demand;
        r->place[i].at = place_next(r, is_wanted, repack_bytes(t));
        r->place[i].twin = place_next(r, is_wanted && has_twin(t), bytes_in(t, t->twin));
    }
}

int repack_open(struct repack **out, const struct gguf *g, struct workers *workers,
                struct engine_err *err)
{
    struct repack *r = calloc(1, sizeof(*r));
    *out = NULL;
    if (!r || !(r->place = calloc(gguf_n_tensors(g) + 1, sizeof(*r->place)))) {
        free(r);
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the list of weights");
    }
    r->g = g;
    r->workers = workers;
    place_all(r);
    if (r->bytes > 0 && !(r->mem = huge_alloc(r->bytes))) {
        engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %zu bytes of weights", r->bytes);
        repack_close(r);
        return -1;
    }
    *out = r;
    return 0;
}

void repack_close(struct repack *r)
{
    if (!r)
        return;
    huge_free(r->mem, r->bytes);
    free(r->place);
    free(r);
}

const void *repack_find(const struct repack *r, const struct gguf_tensor *t)
{
    uint64_t at = r ? r->place[index_of(r, t)].at : NOT_PACKED;
    if (t->layout != KERN_LAYOUT_ROWS)
        return t->data;
    return at == NOT_PACKED ? NULL : r->mem + at;
}

const void *repack_find_twin(const struct repack *r, const struct gguf_tensor *t)
{
    uint64_t at = r ? r->place[index_of(r, t)].twin : NOT_PACKED;
    return at == NOT_PACKED ? NULL : r->mem + at;
}

struct pack_job {
    struct kern_matrix rows;
    uint8_t *dst;
    enum kern_layout layout;
    uint32_t first; /* piece */
    struct share share;
};

static void pack_item(void *ctx, uint32_t item)
{
    const struct pack_job *job = ctx;
    uint32_t from, to;
    share_item(&job->share, item, &from, &to);
    from += job->first;
    to += job->first;
    size_t row = job->rows.row_bytes;
    if (job->layout == KERN_LAYOUT_ROWS)
        memcpy(job->dst + from * row, (const uint8_t *)job->rows.data + from * row,
               (to - from) * row);
    else
        kern_pack(&job->rows, job->layout, from, to, job->dst);
}

/* Pieces first .. end of the i-th matrix. */
static void make_pieces(struct workers *workers, const struct gguf_tensor *t,
                        enum kern_layout layout, uint64_t i, uint32_t first, uint32_t end,
                        void *dst)
{
    size_t row_bytes = row_bytes_of(t);
    struct pack_job job = {
        .rows = { .data = (const uint8_t *)t->data + i * t->ne[1] * row_bytes,
                  .type = (enum kern_type)t->type,
                  .n_rows = (uint32_t)t->ne[1],
                  .n_cols = (uint32_t)t->ne[0],
                  .row_bytes = row_bytes },
        .dst = (uint8_t *)dst + i * matrix_bytes(t, layout),
        .layout = layout,
        .first = first,
        .share = share_out(end - first, workers_n(workers), 1),
    };
    workers_run(workers, pack_item, &job, share_n_items(&job.share));
}

/* As repack_make, in any layout. */
static uint64_t make(struct workers *workers, const struct gguf_tensor *t, enum kern_layout layout,
                     uint64_t taken, uint64_t ready, void *dst)
{
    size_t piece = kern_layout_rows(layout) * row_bytes_of(t), matrix = t->bytes / t->ne[2];
    while (taken < ready) {
        uint64_t i = taken / matrix, begin = i * matrix;
        bool is_whole = ready - begin >= matrix; /* its last piece may be a short one */
        uint64_t n_pieces = is_whole ? (matrix + piece - 1) / piece : (ready - begin) / piece;
        uint64_t first = (taken - begin) / piece;
        if (first == n_pieces)
            break;
        make_pieces(workers, t, layout, i, (uint32_t)first, (uint32_t)n_pieces, dst);
        taken = begin + (is_whole ? matrix : n_pieces * piece);
    }
    return taken;
}

uint64_t repack_make(struct workers *workers, const struct gguf_tensor *t, uint64_t taken,
                     uint64_t ready, void *dst)
{
    return make(workers, t, t->target, taken, ready, dst);
}

/* With a twin, what one of the two has not taken comes again. */
uint64_t repack_take(void *ctx, const struct gguf_tensor *t, uint64_t taken, uint64_t ready)
{
    struct repack *r = ctx;
    const struct packed_place *place = &r->place[index_of(r, t)];
    if (place->at == NOT_PACKED)
        return 0;
    uint64_t now = make(r->workers, t, t->target, taken, ready, r->mem + place->at);
    if (place->twin == NOT_PACKED)
        return now;
    uint64_t twin = make(r->workers, t, t->twin, taken, ready, r->mem + place->twin);
    return twin < now ? twin : now;
}
