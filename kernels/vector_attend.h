/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_attend.h - keys, values and attention of every vector variant: the part of vector_body.h
 * that reads and writes pages.
 *
 * A variant defines how large the register tiles of attention are: queries, and vectors of 16 tokens or
 * channels,
 *     VEC_ATTN_QUERIES, VEC_ATTN_COLUMNS   where pages are read as they stream by
 *     VEC_ATTN_HALVES                      of these, halves of a tile of Q8 keys
 *     VEC_MANY_QUERIES, VEC_MANY_COLUMNS   where they were widened first (vector_attend_many.h)
 */
#ifndef LACUNA_KERNELS_VECTOR_ATTEND_H
#define LACUNA_KERNELS_VECTOR_ATTEND_H

#include <float.h>

/* ---- F16 and F32 ---- */

/* Within what F16 holds; a NaN stays one, since the second operand is what a comparison with it
 * gives. */
static inline v16 vec_clamp_f16(v16 x)
{
    return v16_min(v16_set1(KERN_F16_MAX), v16_max(v16_set1(-KERN_F16_MAX), x));
}

static void vec_store_token(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot,
                            uint32_t head_dim, const float *k, const float *v)
{
    size_t tile = kern_k_tile(slot, head_dim) + slot % KERN_ATTN_TILE;
    size_t row = kern_v_row(page_tokens, slot, head_dim);
    if (kv == KERN_KV_F32) {
        for (uint32_t c = 0; c < head_dim; c++)
            ((float *)page)[tile + (size_t)c * KERN_ATTN_TILE] = k[c];
        memcpy((float *)page + row, v, head_dim * sizeof(float));
        return;
    }
    uint16_t half[16], *out = page;
    for (uint32_t c = 0; c < head_dim; c += 16) {
        v16_store_f16(half, vec_clamp_f16(v16_load(k + c)));
        for (uint32_t i = 0; i < 16; i++)
            out[tile + (size_t)(c + i) * KERN_ATTN_TILE] = half[i];
        v16_store_f16(out + row + c, vec_clamp_f16(v16_load(v + c)));
    }
}

/* Keys of 16 tokens, half of a tile, and their values: whole vectors of it at a time. */
static void vec_store_16_tokens(uint16_t *page, uint32_t page_tokens, uint32_t slot,
                                uint32_t head_dim, const float *k, const float *v, size_t stride)
{
    uint16_t *tile = page + kern_k_tile(slot, head_dim) + slot % KERN_ATTN_TILE;
    for (uint32_t c = 0; c < head_dim; c += 16) {
        v16 t[16];
        for (uint32_t i = 0; i < 16; i++)
            t[i] = vec_clamp_f16(v16_load(k + i * stride + c));
        v16_transpose(t);
        for (uint32_t i = 0; i < 16; i++)
            v16_store_f16(tile + (size_t)(c + i) * KERN_ATTN_TILE, t[i]);
    }
    for (uint32_t i = 0; i < 16; i++)
        for (uint32_t c = 0; c < head_dim; c += 16)
            v16_store_f16(page + kern_v_row(page_tokens, slot + i, head_dim) + c,
                          vec_clamp_f16(v16_load(v + i * stride + c)));
}

static void vec_kv_store(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot,
                         uint32_t n, uint32_t head_dim, const float *k, const float *v,
                         size_t stride)
{
    for (uint32_t i = 0; i < n;) {
        if (kv == KERN_KV_F16 && (slot + i) % 16 == 0 && i + 16 <= n) {
            vec_store_16_tokens(page, page_tokens, slot + i, head_dim, k + i * stride,
                                v + i * stride, stride);
            i += 16;
        } else {
            vec_store_token(page, kv, page_tokens, slot + i, head_dim, k + i * stride,
                            v + i * stride);
            i++;
        }
    }
}

KERN_INLINE v16 vec_load_kv(const void *page, enum kern_kv kv, size_t at)
{
    if (kv == KERN_KV_Q8)
        return v16_load_u8((const uint8_t *)page + at);
    return kv == KERN_KV_F32 ? v16_load((const float *)page + at)
                             : v16_load_f16((const uint16_t *)page + at);
}

static inline v16 vec_soft_cap(v16 s, float cap)
{
    v16 two = v16_set1(2.0f), one = v16_set1(1.0f);
    v16 e = vec_exp(v16_mul(two, v16_div(s, v16_set1(cap))));
    return v16_mul(v16_set1(cap), v16_sub(one, v16_div(two, v16_add(e, one))));
}

static inline size_t vec_value_bytes(enum kern_kv kv)
{
    return kv == KERN_KV_F32 ? 4 : kv == KERN_KV_F16 ? 2 : 1;
}

/* Where the values of a page's slot begin, in values. */
static inline size_t vec_value_row(const struct kern_attend *a, enum kern_kv kv, uint32_t slot)
{
    return kv == KERN_KV_Q8 ? kern_q8_v_codes(a->page_tokens, slot, a->head_dim)
                            : kern_v_row(a->page_tokens, slot, a->head_dim);
}

/* What is read after the tile of keys at token j, to be asked for now: the next one, or after the last the
 * values of the first, as many bytes.  Pages lie anywhere: at the end of one, the processor does not know
 * which is next. */
static inline const uint8_t *vec_after_tile(const struct kern_attend *a, enum kern_kv kv,
                                            uint32_t j, uint32_t first, uint32_t end)
{
    bool is_last = j + KERN_ATTN_TILE >= end;
    uint32_t at = is_last ? first : j + KERN_ATTN_TILE, slot = at % a->page_tokens;
    size_t values = is_last ? vec_value_row(a, kv, slot) : kern_k_tile(slot, a->head_dim);
    return (const uint8_t *)a->pages[at / a->page_tokens] + values * vec_value_bytes(kv);
}

/* Scores of n queries, adjacent in q, against the tile of 32 tokens at an item's token j. */
KERN_INLINE void vec_tile_scores(const struct kern_attend *a, enum kern_kv kv, const float *q,
                                 uint32_t n, float (*s)[KERN_ATTN_ITEM], uint32_t j,
                                 const uint8_t *next)
{
    const size_t line = KERN_ATTN_TILE * vec_value_bytes(kv); /* a channel of a tile */
    const void *page = a->pages[j / a->page_tokens];
    size_t tile = kern_k_tile(j % a->page_tokens, a->head_dim);
    v16 acc[VEC_ATTN_QUERIES][2];
    for (uint32_t i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = v16_set1(0.0f);
    for (uint32_t c = 0; c < a->head_dim; c++, tile += KERN_ATTN_TILE) {
        v16 k0 = vec_load_kv(page, kv, tile), k1 = vec_load_kv(page, kv, tile + 16);
        prefetch_stream(next + c * line, 1);
        for (uint32_t i = 0; i < n; i++) {
            v16 qc = v16_set1(q[(size_t)i * a->head_dim + c]);
            acc[i][0] = v16_fma(qc, k0, acc[i][0]);
            acc[i][1] = v16_fma(qc, k1, acc[i][1]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        v16_store(s[i] + j, acc[i][0]);
        v16_store(s[i] + j + 16, acc[i][1]);
    }
}

/* o += sum of p v over the tokens [first, end), 16 * n_v channels from c on, for n queries. */
KERN_INLINE void vec_value_columns(const struct kern_attend *a, enum kern_kv kv,
                                   float (*p)[KERN_ATTN_ITEM], uint32_t first, uint32_t end,
                                   uint32_t c, uint32_t n_v, float *o, uint32_t n)
{
    v16 acc[VEC_ATTN_QUERIES][4];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            acc[i][k] = v16_load(o + (size_t)i * a->head_dim + c + 16 * k);
    for (uint32_t j = first; j < end;) {
        uint32_t slot = j % a->page_tokens;
        uint32_t stop = j - slot + a->page_tokens < end ? j - slot + a->page_tokens : end;
        const void *page = a->pages[j / a->page_tokens];
        size_t row = vec_value_row(a, kv, slot) + c, bytes = vec_value_bytes(kv);
        /* The same rows of the next page. */
        const uint8_t *next = stop < end ? a->pages[stop / a->page_tokens] : page;
        for (; j < stop; j++, row += a->head_dim) {
            prefetch_stream(next + row * bytes, n_v * 16 * bytes);
            for (uint32_t k = 0; k < n_v; k++) {
                v16 vv = vec_load_kv(page, kv, row + 16 * k);
                for (uint32_t i = 0; i < n; i++)
                    acc[i][k] = v16_fma(v16_set1(p[i][j]), vv, acc[i][k]);
            }
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            v16_store(o + (size_t)i * a->head_dim + c + 16 * k, acc[i][k]);
}

KERN_INLINE void vec_values(const struct kern_attend *a, enum kern_kv kv,
                            float (*p)[KERN_ATTN_ITEM], uint32_t first, uint32_t end, float *o,
                            uint32_t n)
{
    uint32_t c = 0;
    for (; c + 16 * VEC_ATTN_COLUMNS <= a->head_dim; c += 16 * VEC_ATTN_COLUMNS)
        vec_value_columns(a, kv, p, first, end, c, VEC_ATTN_COLUMNS, o, n);
    for (; c < a->head_dim; c += 16)
        vec_value_columns(a, kv, p, first, end, c, 1, o, n);
}

/* ---- Q8: reading it ---- */

static inline const uint16_t *vec_f16_at(const uint8_t *p)
{
    return (const uint16_t *)(const void *)p;
}

_Static_assert(127 * 255 * KERN_MAX_HEAD_DIM < 1 << 24, "sums are exact as floats");

/* A query as a tile of keys wants it. */
struct vec_q8_query {
    int8_t code[KERN_MAX_HEAD_DIM];
    float d, base;
    float middle; /* to be subtracted from products with codes: whole and below 2^24, so exact */
};

/* n queries, adjacent in q, for a tile with these factors. */
KERN_INLINE void vec_q8_queries(const float *q, const uint16_t *factors, uint32_t head_dim,
                                uint32_t n, struct vec_q8_query *out)
{
    float w[VEC_ATTN_QUERIES][KERN_MAX_HEAD_DIM] __attribute__((aligned(64)));
    v16 max[VEC_ATTN_QUERIES], base[VEC_ATTN_QUERIES];
    for (uint32_t i = 0; i < n; i++)
        max[i] = base[i] = v16_set1(0.0f);
    for (uint32_t c = 0; c < head_dim; c += 16) {
        v16 step = v16_load_f16(factors + head_dim + c);
        v16 middle = v16_fma(v16_set1(128.0f), step, v16_load_f16(factors + c));
        for (uint32_t i = 0; i < n; i++) {
            v16 qc = v16_load(q + (size_t)i * head_dim + c), wc = v16_mul(qc, step);
            v16_store(w[i] + c, wc);
            max[i] = v16_max(v16_abs(wc), max[i]);
            base[i] = v16_fma(qc, middle, base[i]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        float most = v16_max_lane(max[i]);
        bool is_finite = most <= FLT_MAX;
        v16 inverse = v16_set1(is_finite && most > KERN_Q8_TINY ? 127.0f / most : 0.0f);
        v16 sum = v16_set1(0.0f);
        for (uint32_t c = 0; c < head_dim; c += 16) {
            v16 code = v16_rint(v16_mul(v16_load(w[i] + c), inverse));
            sum = v16_add(sum, code);
            v16_store_s8(out[i].code + c, code);
        }
        out[i].d = most / 127.0f;
        out[i].base = is_finite ? v16_tree(base[i]) : NAN;
        out[i].middle = (float)(128 - dot_zero(255)) * v16_tree(sum);
    }
}

/* Products of n queries with the 32 tokens of a tile: whole numbers below 2^24.  VEC_ATTN_HALVES halves of the
 * tile at a time: as many as there are registers for. */
KERN_INLINE void vec_tile_dots(const uint8_t *tile, const struct vec_q8_query *query,
                               uint32_t head_dim, uint32_t n, v16 (*dot)[2])
{
    for (uint32_t first = 0; first < 2; first += VEC_ATTN_HALVES) {
        w16 part[VEC_ATTN_QUERIES][VEC_ATTN_HALVES];
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t h = 0; h < VEC_ATTN_HALVES; h++)
                part[i][h] = w16_dot_begin(w16_zero(), 255);
        for (uint32_t c = 0; c < head_dim; c += 4) {
            const uint8_t *four = tile + (size_t)c * KERN_ATTN_TILE + 64 * first;
            w16 u[VEC_ATTN_HALVES];
            for (uint32_t h = 0; h < VEC_ATTN_HALVES; h++)
                u[h] = w16_load(four + 64 * h);
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t h = 0; h < VEC_ATTN_HALVES; h++)
                    part[i][h] = w16_dot_step(part[i][h], u[h], query[i].code + c, 255);
        }
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t h = 0; h < VEC_ATTN_HALVES; h++)
                dot[i][first + h] = v16_from_w16(w16_dot_end(part[i][h], w16_zero(), 255));
    }
}

/* Scores of n queries, adjacent in q, against the tile of 32 tokens at an item's token j. */
KERN_INLINE void vec_q8_tile_scores(const struct kern_attend *a, const float *q, uint32_t n,
                                    float (*s)[KERN_ATTN_ITEM], uint32_t j)
{
    const uint8_t *page = a->pages[j / a->page_tokens];
    uint32_t slot = j % a->page_tokens, dim = a->head_dim;
    struct vec_q8_query query[VEC_ATTN_QUERIES] __attribute__((aligned(64)));
    v16 dot[VEC_ATTN_QUERIES][2];
    vec_q8_queries(q, vec_f16_at(page + kern_q8_k_factors(a->page_tokens, slot, dim)), dim, n,
                   query);
    vec_tile_dots(page + kern_k_tile(slot, dim), query, dim, n, dot);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < 2; h++)
            v16_store(s[i] + j + 16 * h,
                      v16_fma(v16_set1(query[i].d), v16_sub(dot[i][h], v16_set1(query[i].middle)),
                              v16_set1(query[i].base)));
}

/* The weights of the tokens [first, end) become factors of their codes; returns what their lo add to
 * every channel. */
static inline float vec_q8_scale_weights(const struct kern_attend *a, float *p, uint32_t first,
                                         uint32_t end)
{
    float lane[16] __attribute__((aligned(64))) = { 0 };
    for (uint32_t j = first; j < end;) {
        const uint8_t *page = a->pages[j / a->page_tokens];
        const uint16_t *lo = vec_f16_at(
            page + kern_q8_v_factors(a->page_tokens, j % a->page_tokens, a->head_dim));
        if (j % 16 == 0 && j + 16 <= end) {
            v16 w = v16_load(p + j);
            v16_store(lane, v16_fma(w, v16_load_f16(lo), v16_load(lane)));
            v16_store(p + j, v16_mul(w, v16_load_f16(lo + a->page_tokens)));
            j += 16;
            continue;
        }
        lane[j % 16] = fmaf(p[j], kern_f16_to_f32(*lo), lane[j % 16]);
        p[j] *= kern_f16_to_f32(lo[a->page_tokens]);
        j++;
    }
    return v16_tree(v16_load(lane));
}

static inline void vec_add_to_all(float *o, float x, uint32_t n)
{
    for (uint32_t c = 0; c < n; c += 16)
        v16_store(o + c, v16_add(v16_load(o + c), v16_set1(x)));
}

/* ---- Q8: making a page ---- */

/* Codes from values: see factors_of and code_of in ref_attend.c. */
struct vec_q8_factors {
    v16 lo, inverse;
    uint16_t lo16, step16;
};

/* lo and hi by lanes; odd: a lane that is not 0 means that something is not a number. */
static inline struct vec_q8_factors vec_q8_factors_of(v16 lo, v16 hi, v16 odd)
{
    struct vec_q8_factors f;
    float least = -v16_max_lane(v16_sub(v16_set1(0.0f), lo)) + 0.0f;
    bool is_number = v16_tree(odd) == 0.0f;
    f.lo16 = kern_f32_to_f16(is_number ? least : NAN);
    f.step16 = kern_f32_to_f16(is_number ? (v16_max_lane(hi) - least) / 255.0f : NAN);
    float step = kern_f16_to_f32(f.step16);
    f.lo = v16_set1(least);
    f.inverse = v16_set1(step > 0.0f ? 1.0f / step : 0.0f);
    return f;
}

static inline v16 vec_q8_code(v16 x, const struct vec_q8_factors *f)
{
    v16 u = v16_mul(v16_sub(x, f->lo), f->inverse);
    return v16_rint(v16_min(v16_max(u, v16_set1(0.0f)), v16_set1(255.0f))); /* 0 for a NaN */
}

/* One channel of a tile: 32 tokens. */
static inline void vec_q8_channel(const uint16_t *x, uint16_t *lo, uint16_t *step, v16 code[2])
{
    v16 a = v16_load_f16(x), b = v16_load_f16(x + 16);
    v16 odd = v16_add(v16_sub(a, a), v16_sub(b, b));
    struct vec_q8_factors f = vec_q8_factors_of(v16_min(a, b), v16_max(a, b), odd);
    *lo = f.lo16;
    *step = f.step16;
    code[0] = vec_q8_code(a, &f);
    code[1] = vec_q8_code(b, &f);
}

static void vec_seal_keys(uint8_t *codes, uint16_t *factors, const uint16_t *part,
                          uint32_t head_dim)
{
    for (uint32_t c = 0; c < head_dim; c += 4, codes += 4 * KERN_ATTN_TILE) {
        v16 code[4][2];
        for (uint32_t i = 0; i < 4; i++)
            vec_q8_channel(part + (size_t)(c + i) * KERN_ATTN_TILE, factors + c + i,
                           factors + head_dim + c + i, code[i]);
        for (uint32_t h = 0; h < 2; h++)
            v16_store_quads(codes + 64 * h, code[0][h], code[1][h], code[2][h], code[3][h]);
    }
}

static void vec_seal_values(uint8_t *codes, uint16_t *lo, uint16_t *step, const uint16_t *row,
                            uint32_t head_dim)
{
    v16 least = v16_load_f16(row), most = least, odd = v16_set1(0.0f);
    for (uint32_t c = 0; c < head_dim; c += 16) {
        v16 x = v16_load_f16(row + c);
        least = v16_min(x, least);
        most = v16_max(x, most);
        odd = v16_add(odd, v16_sub(x, x));
    }
    struct vec_q8_factors f = vec_q8_factors_of(least, most, odd);
    *lo = f.lo16;
    *step = f.step16;
    for (uint32_t c = 0; c < head_dim; c += 16)
        v16_store_u8(codes + c, vec_q8_code(v16_load_f16(row + c), &f));
}

static void vec_kv_seal(void *page, uint32_t page_tokens, const void *const *parts,
                        uint32_t part_tokens, uint32_t head_dim)
{
    uint8_t *out = page;
    for (uint32_t slot = 0; slot < page_tokens; slot++) {
        const uint16_t *part = parts[slot / part_tokens];
        uint32_t at = slot % part_tokens;
        uint16_t *lo = (uint16_t *)(void *)(out + kern_q8_v_factors(page_tokens, slot, head_dim));
        vec_seal_values(out + kern_q8_v_codes(page_tokens, slot, head_dim), lo, lo + page_tokens,
                        part + kern_v_row(part_tokens, at, head_dim), head_dim);
        if (slot % KERN_ATTN_TILE == 0)
            vec_seal_keys(
                out + kern_k_tile(slot, head_dim),
                (uint16_t *)(void *)(out + kern_q8_k_factors(page_tokens, slot, head_dim)),
                part + kern_k_tile(at, head_dim), head_dim);
    }
}

/* ---- which pages matter ---- */

/* Keys of a channel in a tile. */
KERN_INLINE void vec_tile_range(const void *page, enum kern_kv kv, size_t at, float *least,
                                float *most)
{
    v16 a = vec_load_kv(page, kv, at), b = vec_load_kv(page, kv, at + 16);
    v16 infinite = v16_set1(INFINITY), minus = v16_set1(-INFINITY);
    /* A NaN is the first operand, of which the second one comes out. */
    v16 lo = v16_min(b, v16_min(a, infinite)), hi = v16_max(b, v16_max(a, minus));
    *least = -v16_max_lane(v16_neg(lo));
    *most = v16_max_lane(hi);
}

static void vec_kv_bounds(const void *page, enum kern_kv kv, uint32_t page_tokens,
                          uint32_t head_dim, uint16_t *bounds)
{
    for (uint32_t slot = 0; slot < page_tokens; slot += KERN_ATTN_TILE, bounds += 2 * head_dim) {
        size_t tile = kern_k_tile(slot, head_dim);
        if (kv == KERN_KV_Q8) {
            kern_q8_bounds(
                vec_f16_at((const uint8_t *)page + kern_q8_k_factors(page_tokens, slot, head_dim)),
                head_dim, bounds);
            continue;
        }
        for (uint32_t c = 0; c < head_dim; c++) {
            float least, most;
            if (kv == KERN_KV_F32)
                vec_tile_range(page, KERN_KV_F32, tile + (size_t)c * KERN_ATTN_TILE, &least, &most);
            else
                vec_tile_range(page, KERN_KV_F16, tile + (size_t)c * KERN_ATTN_TILE, &least, &most);
            kern_bound(least, most, &bounds[c], &bounds[head_dim + c]);
        }
    }
}

static inline float vec_score_tile(const float *q, const float *size, const uint16_t *bounds,
                                   uint32_t head_dim)
{
    v16 acc = v16_set1(0.0f);
    for (uint32_t c = 0; c < head_dim; c += 16) {
        acc = v16_fma(v16_load(q + c), v16_load_f16(bounds + c), acc);
        acc = v16_fma(v16_load(size + c), v16_load_f16(bounds + head_dim + c), acc);
    }
    return v16_tree(acc);
}

/* Bounds lie far apart, a few lines each: the processor does not know where the next are. */
static void vec_score_pages(const float *q, const float *size, const uint16_t *const *bounds,
                            uint32_t n, uint32_t n_tiles, uint32_t head_dim, float *score)
{
    enum { AHEAD = 8 };
    for (uint32_t i = 0; i < n; i++) {
        prefetch_stream((const uint8_t *)bounds[i + AHEAD < n ? i + AHEAD : n - 1],
                        n_tiles * 2 * head_dim * sizeof(uint16_t));
        float most = -INFINITY;
        for (uint32_t t = 0; t < n_tiles; t++) {
            float s = vec_score_tile(q, size, bounds[i] + (size_t)t * 2 * head_dim, head_dim);
            most = s > most ? s : most;
        }
        score[i] = most;
    }
}

/* ---- attention: what all ways share ---- */

/* Scores become weights: masked, capped, exponentials of the distance to the maximum.  Outside of
 * the query's range a weight is exactly 0, so that it adds nothing to sums shared by queries. */
static inline void vec_weights(const struct kern_attend *a, uint32_t i, float *s, uint32_t from,
                               uint32_t to)
{
    uint32_t first, end;
    kern_attend_range(a, i, &first, &end);
    v16 max = v16_set1(-INFINITY), sum = v16_set1(0.0f);
    for (uint32_t j = from; j < to; j += 16) {
        v16 v = v16_load(s + j);
        if (a->softcap != 0.0f)
            v = vec_soft_cap(v, a->softcap);
        if (j < first || j + 16 > end)
            v = v16_keep_range(v, (int)first - (int)j, (int)end - (int)j);
        max = v16_max(v, max);
        v16_store(s + j, v);
    }
    a->m[i] = v16_max_lane(max);
    max = v16_set1(first < end ? a->m[i] : 0.0f);
    for (uint32_t j = from; j < to; j += 16) {
        v16 p = vec_exp_below(v16_sub(v16_load(s + j), max));
        sum = v16_add(sum, p);
        v16_store(s + j, p);
    }
    a->l[i] = v16_tree(sum);
}

enum {
    VEC_MOST_QUERIES = VEC_ATTN_QUERIES > VEC_MANY_QUERIES ? VEC_ATTN_QUERIES : VEC_MANY_QUERIES
};

/* What n adjacent queries see: any of them, all of them. */
struct vec_span {
    uint32_t first[VEC_MOST_QUERIES], end[VEC_MOST_QUERIES];
    uint32_t any_first, any_end, all_first, all_end;
    uint32_t tile0, tile1; /* tokens of the tiles that any of them sees; none: tile0 > tile1 */
};

static inline void vec_find_span(const struct kern_attend *a, uint32_t i, uint32_t n,
                                 struct vec_span *s)
{
    s->any_first = KERN_ATTN_ITEM;
    s->any_end = s->all_first = 0;
    s->all_end = KERN_ATTN_ITEM;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t first, end;
        kern_attend_range(a, i + k, &first, &end);
        s->first[k] = first;
        s->end[k] = end;
        s->any_first = first < end && first < s->any_first ? first : s->any_first;
        s->any_end = first < end && end > s->any_end ? end : s->any_end;
        s->all_first = first > s->all_first ? first : s->all_first;
        s->all_end = end < s->all_end ? end : s->all_end;
    }
    s->tile0 = s->any_first / KERN_ATTN_TILE * KERN_ATTN_TILE;
    s->tile1 = (s->any_end + KERN_ATTN_TILE - 1) / KERN_ATTN_TILE * KERN_ATTN_TILE;
    if (s->all_first >= s->all_end) /* nothing in common: each by itself, all before the "end" */
        s->all_first = s->all_end = KERN_ATTN_ITEM;
}

/* A token that one query sees and its neighbour does not is multiplied for the one only: zero times
 * an infinite value would be no number.  Accumulators wait in o between the parts, ascending. */
KERN_INLINE void vec_span_values(const struct kern_attend *a, enum kern_kv kv,
                                 float (*p)[KERN_ATTN_ITEM], const struct vec_span *s, float *o,
                                 uint32_t n)
{
    memset(o, 0, (size_t)n * a->head_dim * sizeof(float));
    for (uint32_t k = 0; k < n; k++) {
        uint32_t stop = s->end[k] < s->all_first ? s->end[k] : s->all_first;
        if (s->first[k] < stop)
            vec_values(a, kv, p + k, s->first[k], stop, o + (size_t)k * a->head_dim, 1);
    }
    if (s->all_first < s->all_end)
        vec_values(a, kv, p, s->all_first, s->all_end, o, n);
    for (uint32_t k = 0; k < n; k++)
        if (s->all_end < s->end[k])
            vec_values(a, kv, p + k, s->all_end, s->end[k], o + (size_t)k * a->head_dim, 1);
}

/* `call` with N, a constant, for the number n of queries in 1 .. most, itself a constant. */
#define VEC_WITH_N(most, n, call)                                                                  \
    do {                                                                                           \
        if ((n) == 1) {                                                                            \
            enum { N = 1 };                                                                        \
            call;                                                                                  \
        } else if ((n) == 2) {                                                                     \
            enum { N = 2 };                                                                        \
            call;                                                                                  \
        } else if ((most) > 2 && (n) == 3) {                                                       \
            enum { N = 3 };                                                                        \
            call;                                                                                  \
        } else if ((most) > 3 && (n) == 4) {                                                       \
            enum { N = 4 };                                                                        \
            call;                                                                                  \
        } else if ((most) > 4 && (n) == 5) {                                                       \
            enum { N = 5 };                                                                        \
            call;                                                                                  \
        } else if ((most) > 5) {                                                                   \
            enum { N = 6 };                                                                        \
            call;                                                                                  \
        }                                                                                          \
    } while (0)
_Static_assert(VEC_MOST_QUERIES <= 6, "see VEC_WITH_N");

/* ---- attention: few queries, which read the pages as they stream by ---- */

/* Queries [i, i + n): kv and n are constants after inlining. */
KERN_INLINE void vec_attend_some(const struct kern_attend *a, enum kern_kv kv, uint32_t i,
                                 uint32_t n)
{
    float s[VEC_ATTN_QUERIES][KERN_ATTN_ITEM] __attribute__((aligned(64))), bias[VEC_ATTN_QUERIES];
    const float *q = a->q + (size_t)i * a->head_dim;
    struct vec_span span;
    vec_find_span(a, i, n, &span);
    for (uint32_t j = span.tile0; j < span.tile1; j += KERN_ATTN_TILE) {
        const uint8_t *next = vec_after_tile(a, kv, j, span.tile0, span.tile1);
        if (kv == KERN_KV_Q8) {
            prefetch_stream(next, a->head_dim * KERN_ATTN_TILE);
            vec_q8_tile_scores(a, q, n, s, j);
        } else {
            vec_tile_scores(a, kv, q, n, s, j, next);
        }
    }
    for (uint32_t k = 0; k < n; k++) {
        vec_weights(a, i + k, s[k], span.tile0, span.tile1);
        if (kv == KERN_KV_Q8)
            bias[k] = vec_q8_scale_weights(a, s[k], span.first[k], span.end[k]);
    }
    vec_span_values(a, kv, s, &span, a->o + (size_t)i * a->head_dim, n);
    for (uint32_t k = 0; k < n && kv == KERN_KV_Q8; k++)
        vec_add_to_all(a->o + (size_t)(i + k) * a->head_dim, bias[k], a->head_dim);
}

/* In groups of about the same size, at most `most`. */
static inline uint32_t vec_group_size(uint32_t n_left, uint32_t most)
{
    uint32_t n_groups = (n_left + most - 1) / most;
    return (n_left + n_groups - 1) / n_groups;
}

KERN_INLINE void vec_attend_few(const struct kern_attend *a, enum kern_kv kv)
{
    for (uint32_t i = 0, n; i < a->n_q; i += n) {
        n = vec_group_size(a->n_q - i, VEC_ATTN_QUERIES);
        VEC_WITH_N(VEC_ATTN_QUERIES, n, vec_attend_some(a, kv, i, N));
    }
}

#include "kernels/vector_attend_many.h"

/* ---- attention, whichever way ---- */

static void vec_attend(const struct kern_attend *a)
{
    switch (a->kv) {
    case KERN_KV_F16:
        if (a->n_q > VEC_FEW_QUERIES)
            vec_attend_many(a);
        else
            vec_attend_few(a, KERN_KV_F16);
        break;
    case KERN_KV_F32:
        vec_attend_few(a, KERN_KV_F32);
        break;
    case KERN_KV_Q8:
        vec_attend_few(a, KERN_KV_Q8);
        break;
    }
}

static void vec_attend_fold(float *m, float *l, float *o, float m_i, float l_i, const float *o_i,
                            uint32_t head_dim)
{
    if (m_i == -INFINITY)
        return;
    float max = m_i > *m ? m_i : *m;
    v16 a = v16_set1(kern_exp(*m - max)), b = v16_set1(kern_exp(m_i - max));
    float lane[16];
    v16_store(lane, v16_fma(v16_set1(l_i), b, v16_mul(v16_set1(*l), a)));
    *l = lane[0];
    *m = max;
    for (uint32_t c = 0; c < head_dim; c += 16)
        v16_store(o + c, v16_fma(v16_load(o_i + c), b, v16_mul(v16_load(o + c), a)));
}

static void vec_attend_last(const float *q, const float *k, const float *v, float softcap,
                            uint32_t head_dim, float *m, float *l, float *o)
{
    v16 acc = v16_set1(0.0f);
    for (uint32_t c = 0; c < head_dim; c += 16)
        acc = v16_fma(v16_load(q + c), v16_load(k + c), acc);
    float s = v16_tree(acc), lane[16];
    if (softcap != 0.0f) {
        v16_store(lane, vec_soft_cap(v16_set1(s), softcap));
        s = lane[0];
    }
    vec_attend_fold(m, l, o, s, 1.0f, v, head_dim);
    for (uint32_t c = 0; c < head_dim; c += 16)
        v16_store(o + c, v16_div(v16_load(o + c), v16_set1(*l)));
}

#endif
