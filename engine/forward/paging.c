/* SPDX-License-Identifier: Apache-2.0
 *
 * paging.c - where the keys and values of a step's rows go.
 *
 * F16 and F32 are written where they stay.  Pages of 8 bits are made of whole ones of F16, and the
 * rule is one of positions: a query reads the pages before its own sealed, and its own unsealed,
 * however the prompt was cut into steps.  So a page that is completed in a step is wanted in both
 * forms, by its own rows and by those after it:
 *
 *   - the open page that a run goes on with lies in parts of the pool (kv_open_part);
 *   - pages that it begins lie, for the layer at hand, in spare ones of the step;
 *   - what it completes is sealed into the table's page before attention;
 *   - a last page that stays open is carried into the parts after it.
 *
 * Where pages are chosen (page_choice.h), the bounds of a page's keys are made once it is complete.
 */
#include <assert.h>
#include <string.h>

#include "engine/forward/forward.h"

enum { PART_TOKENS = KV_PAGE_TOKENS / CONFIG_OPEN_PARTS };
_Static_assert(PART_TOKENS % SEGMENT_ROWS == 0, "a segment lies in one part");

bool paging_has_open_pages(const struct model_shape *s)
{
    return s->kv == KERN_KV_Q8;
}

static size_t head_part_bytes(const struct model_shape *s)
{
    return kern_kv_bytes(KERN_KV_F16, PART_TOKENS, s->head_dim);
}

static size_t part_bytes(const struct model_shape *s)
{
    return s->n_kv_heads * head_part_bytes(s);
}

size_t paging_spare_bytes(const struct model_shape *s, uint32_t max_rows)
{
    /* A run that begins n pages has at least 2 rows for one, and 64 more for each further.  So many
     * are rarely touched, and memory that is not costs nothing. */
    return paging_has_open_pages(s) ? max_rows / 2 * CONFIG_OPEN_PARTS * part_bytes(s) : 0;
}

uint32_t paging_sealed_end(const struct model_shape *s, uint32_t pos)
{
    return paging_has_open_pages(s) ? pos - pos % KV_PAGE_TOKENS : pos;
}

uint8_t *paging_open_part(const struct forward *f, const struct layer_shape *layer,
                          const struct run *run, uint32_t page_no, uint32_t part, uint32_t kv_head)
{
    uint32_t first = run->pos0 / KV_PAGE_TOKENS;
    uint8_t *p;
    if (page_no == first)
        p = kv_open_part(run->seq, layer->group, layer->layer_in_group, part);
    else
        p = f->spare_pages + ((run->spare_page + page_no - first - 1) * CONFIG_OPEN_PARTS + part) *
                                 part_bytes(f->shape);
    return p + kv_head * head_part_bytes(f->shape);
}

/* Is there anything to be done with a page that is complete? */
static bool has_sealing(const struct model_shape *s)
{
    return paging_has_open_pages(s) || s->keeps_bounds;
}

/* ---- the plan ---- */

/* Pages that it completes. */
static void plan_sealing(struct forward *f, uint32_t r)
{
    const struct run *run = &f->run[r];
    uint32_t end = run->pos0 + run->n_rows;
    for (uint32_t p = run->pos0 / KV_PAGE_TOKENS; p < end / KV_PAGE_TOKENS; p++)
        f->sealing[f->n_sealing++] = (struct sealing){ r, p };
}

static void plan_open_pages(struct forward *f, uint32_t r, uint32_t *n_spare)
{
    struct run *run = &f->run[r];
    uint32_t first = run->pos0 / KV_PAGE_TOKENS, end = run->pos0 + run->n_rows;
    uint32_t last = (end - 1) / KV_PAGE_TOKENS;
    run->spare_page = *n_spare;
    *n_spare += last - first;
    if (last > first && end % KV_PAGE_TOKENS != 0)
        f->carried[f->n_carried++] = r;
}

static void add_segments(struct forward *f, const struct run *run)
{
    for (uint32_t i = 0, n; i < run->n_rows; i += n) {
        uint32_t room = SEGMENT_ROWS - (run->pos0 + i) % SEGMENT_ROWS, left = run->n_rows - i;
        n = left < room ? left : room;
        f->segment[f->n_segments++] = (struct segment){ run->row0 + i, n };
    }
}

void paging_plan_step(struct forward *f)
{
    uint32_t n_spare = 0;
    f->n_sealing = f->n_carried = f->n_segments = 0;
    for (uint32_t r = 0; r < f->n_runs; r++)
        add_segments(f, &f->run[r]);
    for (uint32_t r = 0; r < f->n_runs && has_sealing(f->shape); r++)
        plan_sealing(f, r);
    for (uint32_t r = 0; r < f->n_runs && paging_has_open_pages(f->shape); r++)
        plan_open_pages(f, r, &n_spare);
    assert(n_spare <= f->opt.max_rows / 2);
}

/* ---- the work ---- */

void paging_store(struct forward *f, const struct layer_shape *layer, const struct segment *segment)
{
    const struct model_shape *s = f->shape;
    uint32_t row = segment->row0, n = segment->n_rows;
    size_t stride = (size_t)s->n_kv_heads * s->head_dim;
    const struct run *run = &f->run[f->place[row].run];
    uint32_t page_no = f->place[row].pos / KV_PAGE_TOKENS;
    uint32_t slot = f->place[row].pos % KV_PAGE_TOKENS;
    const float *k = f->k + row * stride, *v = f->v + row * stride;
    uint8_t *page = kv_page(run->seq, layer->group, layer->layer_in_group, page_no);
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += s->head_dim, v += s->head_dim) {
        if (paging_has_open_pages(s))
            f->kern->kv_store(paging_open_part(f, layer, run, page_no, slot / PART_TOKENS, h),
                              KERN_KV_F16, PART_TOKENS, slot % PART_TOKENS, n, s->head_dim, k, v,
                              stride);
        else
            f->kern->kv_store(page + h * config_head_page_bytes(s), s->kv, KV_PAGE_TOKENS, slot, n,
                              s->head_dim, k, v, stride);
    }
}

struct paging_job {
    struct forward *f;
    const struct layer_shape *layer;
};

static void seal_head(void *ctx, uint32_t item)
{
    const struct paging_job *job = ctx;
    const struct forward *f = job->f;
    const struct model_shape *s = f->shape;
    const struct sealing *sealing = &f->sealing[item / s->n_kv_heads];
    const struct run *run = &f->run[sealing->run];
    uint32_t head = item % s->n_kv_heads;
    uint8_t *page = kv_page(run->seq, job->layer->group, job->layer->layer_in_group,
                            sealing->page_no);
    page += head * config_head_page_bytes(s);
    if (paging_has_open_pages(s)) {
        const void *parts[CONFIG_OPEN_PARTS];
        for (uint32_t i = 0; i < CONFIG_OPEN_PARTS; i++)
            parts[i] = paging_open_part(f, job->layer, run, sealing->page_no, i, head);
        f->kern->kv_seal(page, KV_PAGE_TOKENS, parts, PART_TOKENS, s->head_dim);
    }
    if (s->keeps_bounds)
        f->kern->kv_bounds(page, s->kv, KV_PAGE_TOKENS, s->head_dim,
                           (uint16_t *)(void *)(page + config_bounds_at(s)));
}

void paging_seal(struct forward *f, const struct layer_shape *layer)
{
    struct paging_job job = { f, layer };
    if (f->n_sealing > 0)
        workers_run(f->workers, seal_head, &job, f->n_sealing * f->shape->n_kv_heads);
}

static void carry_run(void *ctx, uint32_t item)
{
    const struct paging_job *job = ctx;
    const struct forward *f = job->f;
    const struct run *run = &f->run[f->carried[item]];
    uint32_t last = (run->pos0 + run->n_rows - 1) / KV_PAGE_TOKENS;
    for (uint32_t i = 0; i < CONFIG_OPEN_PARTS; i++)
        memcpy(kv_open_part(run->seq, job->layer->group, job->layer->layer_in_group, i),
               paging_open_part(f, job->layer, run, last, i, 0), part_bytes(f->shape));
}

void paging_carry(struct forward *f, const struct layer_shape *layer)
{
    struct paging_job job = { f, layer };
    if (f->n_carried > 0)
        workers_run(f->workers, carry_run, &job, f->n_carried);
}
