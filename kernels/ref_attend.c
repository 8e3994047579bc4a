/* SPDX-License-Identifier: Apache-2.0
 *
 * ref_attend.c - the scalar truth of keys, values and attention (see ref.c).
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

/* ---- F16 and F32 ---- */

static void store_element(void *page, enum kern_kv kv, size_t at, float x)
{
    if (kv == KERN_KV_F32)
        ((float *)page)[at] = x;
    else
        ((uint16_t *)page)[at] = kern_f32_to_f16(x > KERN_F16_MAX    ? KERN_F16_MAX
                                                 : x < -KERN_F16_MAX ? -KERN_F16_MAX
                                                                     : x);
}

static float load_element(const void *page, enum kern_kv kv, size_t at)
{
    return kv == KERN_KV_F32 ? ((const float *)page)[at]
                             : kern_f16_to_f32(((const uint16_t *)page)[at]);
}

static void store_token(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot,
                        uint32_t head_dim, const float *k, const float *v)
{
    size_t tile = kern_k_tile(slot, head_dim) + slot % KERN_ATTN_TILE;
    size_t row = kern_v_row(page_tokens, slot, head_dim);
    for (uint32_t c = 0; c < head_dim; c++) {
        store_element(page, kv, tile + (size_t)c * KERN_ATTN_TILE, k[c]);
        store_element(page, kv, row + c, v[c]);
    }
}

void ref_kv_store(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot, uint32_t n,
                  uint32_t head_dim, const float *k, const float *v, size_t stride)
{
    for (uint32_t i = 0; i < n; i++)
        store_token(page, kv, page_tokens, slot + i, head_dim, k + i * stride, v + i * stride);
}

/* ---- Q8: making a page ---- */

/* How values that lie a stride apart become codes. */
struct factors {
    float lo, step;
};

static struct factors factors_of(const uint16_t *x, size_t n, size_t stride)
{
    float lo = kern_f16_to_f32(x[0]), hi = lo;
    bool is_number = true;
    for (size_t i = 0; i < n; i++) {
        float v = kern_f16_to_f32(x[i * stride]);
        is_number = is_number && v == v;
        lo = v < lo || lo != lo ? v : lo;
        hi = v > hi || hi != hi ? v : hi;
    }
    if (!is_number)
        return (struct factors){ NAN, NAN };
    uint16_t step = kern_f32_to_f16((hi - lo) / 255.0f);
    return (struct factors){ lo + 0.0f, kern_f16_to_f32(step) }; /* + 0: no negative zero */
}

static uint8_t code_of(struct factors f, uint16_t x)
{
    if (!(f.step > 0.0f))
        return 0;
    float u = (kern_f16_to_f32(x) - f.lo) * (1.0f / f.step);
    return (uint8_t)rintf(u < 255.0f ? u : 255.0f);
}

/* A tile of keys; part points at it. */
static void seal_keys(uint8_t *codes, uint16_t *factors, const uint16_t *part, uint32_t head_dim)
{
    for (uint32_t c = 0; c < head_dim; c++) {
        const uint16_t *channel = part + (size_t)c * KERN_ATTN_TILE;
        struct factors f = factors_of(channel, KERN_ATTN_TILE, 1);
        factors[c] = kern_f32_to_f16(f.lo);
        factors[head_dim + c] = kern_f32_to_f16(f.step);
        for (uint32_t j = 0; j < KERN_ATTN_TILE; j++)
            codes[((size_t)(c / 4) * KERN_ATTN_TILE + j) * 4 + c % 4] = code_of(f, channel[j]);
    }
}

static void seal_values(uint8_t *codes, uint16_t *lo, uint16_t *step, const uint16_t *row,
                        uint32_t head_dim)
{
    struct factors f = factors_of(row, head_dim, 1);
    *lo = kern_f32_to_f16(f.lo);
    *step = kern_f32_to_f16(f.step);
    for (uint32_t c = 0; c < head_dim; c++)
        codes[c] = code_of(f, row[c]);
}

static const uint16_t *as_f16(const uint8_t *p)
{
    return (const uint16_t *)(const void *)p;
}

/* Keys of a channel in a tile; what is no number has no place in a range. */
static void tile_range(const void *page, enum kern_kv kv, size_t at, float *least, float *most)
{
    *least = INFINITY;
    *most = -INFINITY;
    for (uint32_t j = 0; j < KERN_ATTN_TILE; j++) {
        float k = kv == KERN_KV_F32 ? ((const float *)page)[at + j]
                                    : kern_f16_to_f32(((const uint16_t *)page)[at + j]);
        *least = k < *least ? k : *least;
        *most = k > *most ? k : *most;
    }
}

void ref_kv_bounds(const void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t head_dim,
                   uint16_t *bounds)
{
    for (uint32_t slot = 0; slot < page_tokens; slot += KERN_ATTN_TILE, bounds += 2 * head_dim) {
        if (kv == KERN_KV_Q8) {
            kern_q8_bounds(
                as_f16((const uint8_t *)page + kern_q8_k_factors(page_tokens, slot, head_dim)),
                head_dim, bounds);
            continue;
        }
        for (uint32_t c = 0; c < head_dim; c++) {
            float least, most;
            tile_range(page, kv, kern_k_tile(slot, head_dim) + (size_t)c * KERN_ATTN_TILE, &least,
                       &most);
            kern_bound(least, most, &bounds[c], &bounds[head_dim + c]);
        }
    }
}

static float score_tile(const float *q, const float *size, const uint16_t *bounds,
                        uint32_t head_dim)
{
    float lane[16] = { 0 };
    for (uint32_t c = 0; c < head_dim; c++) {
        lane[c % 16] = fmaf(q[c], kern_f16_to_f32(bounds[c]), lane[c % 16]);
        lane[c % 16] = fmaf(size[c], kern_f16_to_f32(bounds[head_dim + c]), lane[c % 16]);
    }
    return ref_tree(lane);
}

void ref_score_pages(const float *q, const float *size, const uint16_t *const *bounds, uint32_t n,
                     uint32_t n_tiles, uint32_t head_dim, float *score)
{
    for (uint32_t i = 0; i < n; i++) {
        score[i] = -INFINITY;
        for (uint32_t t = 0; t < n_tiles; t++) {
            float s = score_tile(q, size, bounds[i] + (size_t)t * 2 * head_dim, head_dim);
            score[i] = s > score[i] ? s : score[i];
        }
    }
}

void ref_kv_seal(void *page, uint32_t page_tokens, const void *const *parts, uint32_t part_tokens,
                 uint32_t head_dim)
{
    uint8_t *out = page;
    for (uint32_t slot = 0; slot < page_tokens; slot++) {
        const uint16_t *part = parts[slot / part_tokens];
        uint32_t at = slot % part_tokens;
        uint16_t *factors = (uint16_t *)(void *)(out +
                                                 kern_q8_v_factors(page_tokens, slot, head_dim));
        seal_values(out + kern_q8_v_codes(page_tokens, slot, head_dim), factors,
                    factors + page_tokens, part + kern_v_row(part_tokens, at, head_dim), head_dim);
        if (slot % KERN_ATTN_TILE == 0)
            seal_keys(out + kern_k_tile(slot, head_dim),
                      (uint16_t *)(void *)(out + kern_q8_k_factors(page_tokens, slot, head_dim)),
                      part + kern_k_tile(at, head_dim), head_dim);
    }
}

/* ---- Q8: reading it ---- */

/* A query as a tile of keys wants it. */
struct q8_query {
    int8_t code[KERN_MAX_HEAD_DIM];
    float d, base;
};

static void quantise_query(const float *q, const uint16_t *factors, uint32_t head_dim,
                           struct q8_query *out)
{
    float max = 0.0f, w[KERN_MAX_HEAD_DIM], lane[16] = { 0 };
    for (uint32_t c = 0; c < head_dim; c++) {
        float lo = kern_f16_to_f32(factors[c]), step = kern_f16_to_f32(factors[head_dim + c]);
        w[c] = q[c] * step;
        max = fabsf(w[c]) > max ? fabsf(w[c]) : max;
        lane[c % 16] = fmaf(q[c], fmaf(128.0f, step, lo), lane[c % 16]);
    }
    bool is_finite = max <= FLT_MAX;
    float inverse = is_finite && max > KERN_Q8_TINY ? 127.0f / max : 0.0f;
    out->d = max / 127.0f;
    out->base = is_finite ? ref_tree(lane) : NAN;
    for (uint32_t c = 0; c < head_dim; c++)
        out->code[c] = is_finite && w[c] == w[c] ? (int8_t)rintf(w[c] * inverse) : 0;
}

static float q8_score(const struct q8_query *q, const uint8_t *tile, uint32_t j, uint32_t head_dim)
{
    int32_t sum = 0;
    for (uint32_t c = 0; c < head_dim; c++)
        sum += q->code[c] * (tile[((size_t)(c / 4) * KERN_ATTN_TILE + j) * 4 + c % 4] - 128);
    return fmaf(q->d, (float)sum, q->base);
}

/* Scores of the tokens [first, end) of an item. */
static void q8_scores(const struct kern_attend *a, const float *q, uint32_t first, uint32_t end,
                      float *s)
{
    for (uint32_t j = first; j < end;) {
        const uint8_t *page = a->pages[j / a->page_tokens];
        uint32_t slot = j % a->page_tokens, dim = a->head_dim;
        uint32_t tile_end = j - j % KERN_ATTN_TILE + KERN_ATTN_TILE;
        struct q8_query query;
        quantise_query(q, as_f16(page + kern_q8_k_factors(a->page_tokens, slot, dim)), dim, &query);
        for (; j < tile_end && j < end; j++)
            s[j] = q8_score(&query, page + kern_k_tile(slot, dim), j % KERN_ATTN_TILE, dim);
    }
}

static void q8_values(const struct kern_attend *a, const float *p, uint32_t first, uint32_t end,
                      float *o)
{
    float lane[16] = { 0 };
    for (uint32_t j = first; j < end; j++) {
        const uint8_t *page = a->pages[j / a->page_tokens];
        uint32_t slot = j % a->page_tokens;
        const uint8_t *codes = page + kern_q8_v_codes(a->page_tokens, slot, a->head_dim);
        const uint16_t *factors = as_f16(page +
                                         kern_q8_v_factors(a->page_tokens, slot, a->head_dim));
        float weight = p[j] * kern_f16_to_f32(factors[a->page_tokens]);
        lane[j % 16] = fmaf(p[j], kern_f16_to_f32(factors[0]), lane[j % 16]);
        for (uint32_t c = 0; c < a->head_dim; c++)
            o[c] = fmaf(weight, (float)codes[c], o[c]);
    }
    float bias = ref_tree(lane);
    for (uint32_t c = 0; c < a->head_dim; c++)
        o[c] += bias;
}

/* ---- attention ---- */

static float soft_cap(float s, float cap)
{
    if (cap == 0.0f)
        return s;
    return cap * (1.0f - 2.0f / (kern_exp(2.0f * (s / cap)) + 1.0f));
}

static void scores(const struct kern_attend *a, const float *q, uint32_t first, uint32_t end,
                   float *s)
{
    for (uint32_t j = first; j < end; j++) {
        const void *page = a->pages[j / a->page_tokens];
        size_t k = kern_k_tile(j % a->page_tokens, a->head_dim) + j % KERN_ATTN_TILE;
        s[j] = 0.0f;
        for (uint32_t c = 0; c < a->head_dim; c++)
            s[j] = fmaf(q[c], load_element(page, a->kv, k + (size_t)c * KERN_ATTN_TILE), s[j]);
    }
}

static void values(const struct kern_attend *a, const float *p, uint32_t first, uint32_t end,
                   float *o)
{
    for (uint32_t j = first; j < end; j++) {
        const void *page = a->pages[j / a->page_tokens];
        size_t v = kern_v_row(a->page_tokens, j % a->page_tokens, a->head_dim);
        for (uint32_t c = 0; c < a->head_dim; c++)
            o[c] = fmaf(p[j], load_element(page, a->kv, v + c), o[c]);
    }
}

static void attend_one(const struct kern_attend *a, uint32_t i)
{
    const float *q = a->q + (size_t)i * a->head_dim;
    float *o = a->o + (size_t)i * a->head_dim;
    float s[KERN_ATTN_ITEM], lane[16] = { 0 };
    uint32_t first, end;
    kern_attend_range(a, i, &first, &end);

    (a->kv == KERN_KV_Q8 ? q8_scores : scores)(a, q, first, end, s);
    a->m[i] = -INFINITY;
    for (uint32_t j = first; j < end; j++) {
        s[j] = soft_cap(s[j], a->softcap);
        a->m[i] = s[j] > a->m[i] ? s[j] : a->m[i];
    }
    for (uint32_t j = first; j < end; j++) {
        s[j] = kern_exp(s[j] - a->m[i]);
        lane[j % 16] += s[j];
    }
    a->l[i] = ref_tree(lane);
    memset(o, 0, a->head_dim * sizeof(*o));
    (a->kv == KERN_KV_Q8 ? q8_values : values)(a, s, first, end, o);
}

void ref_attend(const struct kern_attend *a)
{
    for (uint32_t i = 0; i < a->n_q; i++)
        attend_one(a, i);
}

void ref_attend_fold(float *m, float *l, float *o, float m_i, float l_i, const float *o_i,
                     uint32_t head_dim)
{
    if (m_i == -INFINITY)
        return;
    float max = m_i > *m ? m_i : *m;
    float a = kern_exp(*m - max), b = kern_exp(m_i - max);
    *l = fmaf(l_i, b, *l * a);
    *m = max;
    for (uint32_t c = 0; c < head_dim; c++)
        o[c] = fmaf(o_i[c], b, o[c] * a);
}

void ref_attend_last(const float *q, const float *k, const float *v, float softcap,
                     uint32_t head_dim, float *m, float *l, float *o)
{
    float lane[16] = { 0 };
    for (uint32_t c = 0; c < head_dim; c++)
        lane[c % 16] = fmaf(q[c], k[c], lane[c % 16]);
    ref_attend_fold(m, l, o, soft_cap(ref_tree(lane), softcap), 1.0f, v, head_dim);
    for (uint32_t c = 0; c < head_dim; c++)
        o[c] /= *l;
}
