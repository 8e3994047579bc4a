/* SPDX-License-Identifier: Apache-2.0
 *
 * scratch.c - all buffers of a step, one arena sized at open.
 *
 * The same function walks the list twice: first with no memory, to add up sizes, then to hand it
 * out.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward/forward.h"
#include "engine/huge.h"

enum {
    ALIGN = 64,
    /* Partials of split attention: at most this many bytes; longer work is folded as it goes. */
    PARTIAL_BYTES = 32 << 20,
    MIN_TILE_TOKENS = 64, /* a tile holds as many tokens, or all rows of a step */
};

struct arena {
    uint8_t *mem; /* NULL: only count */
    uint64_t used;
};

static void *take(struct arena *a, uint64_t n, uint64_t size)
{
    void *p = a->mem ? a->mem + a->used : NULL;
    a->used += (n * size + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static void take_act(struct arena *a, struct activations *out, uint64_t rows, uint32_t n)
{
    out->n = n;
    out->x = take(a, rows * n, sizeof(float));
    out->act.n_cols = n;
    out->act.q = take(a, rows * n, 1);
    out->act.d = take(a, rows * n / KERN_BLOCK + 1, sizeof(float));
    out->act.start32 = take(a, rows * n / 32 + 1, sizeof(int32_t));
    out->act.start16 = take(a, rows * n / 16 + 1, sizeof(int32_t));
    out->act.xs32 = take(a, rows * n / 32 + 1, sizeof(float));
    out->act.xs16 = take(a, rows * n / 16 + 1, sizeof(float));
}

static void take_plan(struct arena *a, const struct forward *f, struct attention_plan *plan)
{
    const struct model_shape *s = f->shape;
    uint64_t rows = f->opt.max_rows;
    /* Blocks of a row: of its query heads of one KV head, up to 48 together. */
    uint64_t blocks = (uint64_t)s->n_kv_heads *
                      ((s->n_heads / s->n_kv_heads + KERN_ATTN_MAX_QUERIES - 1) /
                       KERN_ATTN_MAX_QUERIES);
    plan->work = take(a, rows * blocks + f->max_partials, sizeof(*plan->work));
    plan->rows = take(a, rows + f->max_partials, sizeof(uint32_t));
    plan->row_partial = take(a, rows, sizeof(uint32_t));
    plan->row_item0 = take(a, rows, sizeof(uint32_t));
    plan->row_items = take(a, rows, sizeof(uint32_t));
    plan->split_run = take(a, rows, sizeof(uint32_t));
    plan->run_item = take(a, rows, sizeof(uint32_t));
}

/* Where pages are chosen. */
static uint64_t most_pages(const struct forward *f)
{
    return f->opt.n_ctx / KV_PAGE_TOKENS + 1;
}

static uint64_t page_scratch_bytes(const struct forward *f)
{
    uint64_t per_page = sizeof(const uint16_t *) + 2 * sizeof(float);
    return (most_pages(f) * per_page + ALIGN - 1) / ALIGN * ALIGN;
}

struct page_scratch page_scratch_of(const struct forward *f, uint32_t worker)
{
    uint8_t *p = f->page_scratch + worker * page_scratch_bytes(f);
    float *score = (float *)(void *)(p + most_pages(f) * sizeof(const uint16_t *));
    return (struct page_scratch){ (const uint16_t **)(void *)p, score, score + most_pages(f) };
}

static void take_step(struct arena *a, struct forward *f)
{
    const struct model_shape *s = f->shape;
    uint64_t rows = f->opt.max_rows;
    f->run = take(a, rows, sizeof(*f->run));
    f->place = take(a, rows, sizeof(*f->place));
    f->token = take(a, rows, sizeof(*f->token));
    f->logit_row = take(a, f->opt.max_logit_rows, sizeof(*f->logit_row));
    f->row_failed = take(a, f->opt.max_rows, sizeof(*f->row_failed));
    f->row_late = take(a, f->opt.max_rows, sizeof(*f->row_late));
    f->row_counted = take(a, f->opt.max_rows, sizeof(*f->row_counted));
    f->row_kept = take(a, f->opt.max_rows, sizeof(*f->row_kept));
    f->row_replaced = take(a, f->opt.max_rows, sizeof(*f->row_replaced));
    f->row_point = take(a, rows, sizeof(*f->row_point));
    f->row_counts = take(a, rows, sizeof(*f->row_counts));
    f->audit.y = take(a, f->shape->n_embd, sizeof(*f->audit.y));
    f->segment = take(a, rows, sizeof(*f->segment));
    f->sealing = take(a, rows, sizeof(*f->sealing));
    f->carried = take(a, rows, sizeof(*f->carried));
    f->spare_pages = take(a, paging_spare_bytes(s, f->opt.max_rows), 1);
    for (uint32_t g = 0; g < s->n_groups; g++)
        take_plan(a, f, &f->plan[g]);
    f->whole_run = take(a, rows, sizeof(*f->whole_run));
    if (s->keeps_bounds) {
        take_plan(a, f, &f->layer_plan);
        f->chooser = take(a, rows, sizeof(*f->chooser));
        f->wave = take(a, rows, sizeof(*f->wave));
        f->page_scratch = take(a, f->opt.n_threads, page_scratch_bytes(f));
    }
    f->partial_m = take(a, f->max_partials, sizeof(float));
    f->partial_l = take(a, f->max_partials, sizeof(float));
    f->partial_o = take(a, (uint64_t)f->max_partials * s->head_dim, sizeof(float));
}

static void take_layer(struct arena *a, struct forward *f)
{
    const struct model_shape *s = f->shape;
    uint64_t rows = f->opt.max_rows, kv = (uint64_t)s->n_kv_heads * s->head_dim;
    f->x = take(a, rows * s->n_embd, sizeof(float));
    take_act(a, &f->in, rows, s->n_embd);
    f->q = take(a, rows * s->n_heads * s->head_dim, sizeof(float));
    f->k = take(a, rows * kv, sizeof(float));
    f->v = take(a, rows * kv, sizeof(float));
    take_act(a, &f->attn, rows, s->n_heads * s->head_dim);
    f->block = take(a, rows * s->n_embd, sizeof(float));
    take_act(a, &f->hidden, rows, s->n_ff);
    f->tile_values = KERN_TILE_ROWS * (uint32_t)(rows > MIN_TILE_TOKENS ? rows : MIN_TILE_TOKENS);
    f->tiles = take(a, (uint64_t)f->opt.n_threads * 2 * f->tile_values, sizeof(float));
    f->active = take(a, (uint64_t)f->opt.n_threads * f->tile_values, sizeof(*f->active));
    f->neurons = take(a, f->opt.n_threads, sizeof(*f->neurons));
    f->plan_cells = take(a, plan_n_cells(s->n_layers), sizeof(*f->plan_cells));
    for (uint32_t i = 0; i < CONFIG_MAX_ROPES; i++)
        f->angles[i] = take(a, rows * s->head_dim, sizeof(float)); /* n_pairs is read later */
}

static void take_experts(struct arena *a, struct forward *f)
{
    const struct model_shape *s = f->shape;
    uint64_t rows = f->opt.max_rows, picks = rows * s->n_experts_used;
    if (s->n_experts == 0)
        return;
    f->routing.expert = take(a, picks, sizeof(uint32_t));
    f->routing.weight = take(a, picks, sizeof(float));
    f->routing.slot = take(a, picks, sizeof(uint32_t));
    f->routing.source = take(a, picks, sizeof(uint32_t));
    f->routing.offset = take(a, (uint64_t)s->n_experts + 1, sizeof(uint32_t));
    f->routing.foreseen = take(a, picks, sizeof(uint32_t));
    f->routing.gave_way = take(a, picks, sizeof(uint32_t));
    f->routing.n_gave_way = take(a, rows, sizeof(uint32_t));
    f->routing.active = take(a, s->n_experts, sizeof(uint32_t));
    f->router_logits = take(a, ROUTERS_AT_ONCE * rows * s->n_experts, sizeof(float));
    uint32_t router_rows = moe_router_rows(f->opt.max_rows);
    take_act(a, &f->gathered, picks > router_rows ? picks : router_rows, s->n_embd);
    take_act(a, &f->expert_hidden, picks, s->n_ff_expert);
    f->expert_out = take(a, picks * s->n_embd, sizeof(float));
    take_act(a, &f->shared_hidden, rows, s->n_ff_shared);
    f->shared_weight = take(a, rows, sizeof(float));
}

static uint64_t take_all(struct arena *a, struct forward *f)
{
    const struct model_shape *s = f->shape;
    uint64_t per_partial = (uint64_t)(s->head_dim + 2) * sizeof(float);
    f->max_partials = (uint32_t)(PARTIAL_BYTES / per_partial);
    take_step(a, f);
    take_layer(a, f);
    take_experts(a, f);
    take_act(a, &f->head, f->opt.max_logit_rows, s->n_embd);
    f->logits = take(a, (uint64_t)f->opt.max_logit_rows * s->n_vocab, sizeof(float));
    f->logits_finite = take(a, f->opt.max_logit_rows, sizeof(bool));
    return a->used;
}

uint64_t forward_bytes(const struct model_shape *shape, const struct forward_options *opt)
{
    struct forward f = { .shape = shape, .opt = *opt };
    struct arena a = { 0 };
    return (sizeof(f) + ALIGN - 1) / ALIGN * ALIGN + take_all(&a, &f);
}

int forward_open(struct forward **out, const struct model_shape *shape,
                 const struct weights *weights, const struct kern_table *kern,
                 struct workers *workers, struct experts *experts, _Atomic uint64_t *heartbeat,
                 const struct forward_options *opt, struct engine_err *err)
{
    uint64_t bytes = forward_bytes(shape, opt);
    uint8_t *mem = huge_alloc(bytes);
    *out = NULL;
    if (!mem)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %llu bytes of activations",
                           (unsigned long long)bytes);
    struct forward *f = (struct forward *)mem;
    *f = (struct forward){ .shape = shape,
                           .weights = weights,
                           .kern = kern,
                           .workers = workers,
                           .experts = experts,
                           .heartbeat = heartbeat,
                           .opt = *opt };
    struct arena a = { .mem = mem + (sizeof(*f) + ALIGN - 1) / ALIGN * ALIGN };
    take_all(&a, f);
    *out = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (f)
        huge_free(f, forward_bytes(f->shape, &f->opt));
}
