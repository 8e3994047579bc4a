/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_attend_many.h - attention of many queries over pages of F16: the part of vector_attend.h in which
 * each strip of a page is widened to floats once for all of them.
 */
#ifndef LACUNA_KERNELS_VECTOR_ATTEND_MANY_H
#define LACUNA_KERNELS_VECTOR_ATTEND_MANY_H

/* A strip is as wide as register tiles are, but at least a tile of keys: that many tokens of keys, channels of
 * values.  Both products are the same then: x [n][n_rows] times a widened strip [n_rows][width]. */
enum {
    VEC_FEW_QUERIES = 8, /* up to which the other way is the faster one, as measured */
    VEC_TILE = 16 * VEC_MANY_COLUMNS,
    VEC_STRIP = VEC_TILE > KERN_ATTN_TILE ? VEC_TILE : KERN_ATTN_TILE,
    VEC_STRIP_ROWS =
        64, /* channels of keys at a time: the first-level cache holds them and queries */
    VEC_MAX_GROUPS = (KERN_ATTN_MAX_QUERIES + VEC_MANY_QUERIES - 1) / VEC_MANY_QUERIES,
    /* Of the scores: rows a power of two apart would compete for the same lines of the cache. */
    VEC_SCORE_STEP = KERN_ATTN_ITEM + 16,
};
_Static_assert(VEC_STRIP % KERN_ATTN_TILE == 0 && VEC_STRIP % VEC_TILE == 0, "whole tiles");

struct vec_group {
    uint32_t i, n; /* queries [i, i + n) */
    struct vec_span span;
};

struct vec_many {
    const struct kern_attend *a;
    struct vec_group group[VEC_MAX_GROUPS];
    uint32_t n_groups;
    uint32_t tile0, tile1; /* tokens of the tiles that some query sees */
    float strip[VEC_STRIP_ROWS * VEC_STRIP] __attribute__((aligned(64)));
    float q[KERN_ATTN_MAX_QUERIES * KERN_MAX_HEAD_DIM]; /* [VEC_STRIP_ROWS channels][query][..] */
    float o[KERN_ATTN_MAX_QUERIES * VEC_STRIP] __attribute__((aligned(64)));
    float s[KERN_ATTN_MAX_QUERIES * VEC_SCORE_STEP] __attribute__((aligned(64)));
};

static inline uint32_t vec_least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void vec_make_groups(struct vec_many *m, const struct kern_attend *a)
{
    m->a = a;
    m->n_groups = 0;
    m->tile0 = KERN_ATTN_ITEM;
    m->tile1 = 0;
    for (uint32_t i = 0; i < a->n_q;) {
        struct vec_group *g = &m->group[m->n_groups++];
        g->i = i;
        g->n = vec_group_size(a->n_q - i, VEC_MANY_QUERIES);
        i += g->n;
        vec_find_span(a, g->i, g->n, &g->span);
        m->tile0 = g->span.tile0 < m->tile0 ? g->span.tile0 : m->tile0;
        m->tile1 = g->span.tile1 > m->tile1 ? g->span.tile1 : m->tile1;
    }
}

/* Queries side by side, some channels at a time, as the strips of keys want them. */
static void vec_arrange_queries(struct vec_many *m)
{
    const struct kern_attend *a = m->a;
    float *dst = m->q;
    for (uint32_t c = 0; c < a->head_dim; c += VEC_STRIP_ROWS) {
        uint32_t n = vec_least(a->head_dim - c, VEC_STRIP_ROWS);
        for (uint32_t i = 0; i < a->n_q; i++, dst += VEC_STRIP_ROWS)
            memcpy(dst, a->q + (size_t)i * a->head_dim + c, n * sizeof(float));
    }
}

/* n_rows rows of n columns, `step` apart, become floats: columns of a strip. */
static inline void vec_widen(const uint16_t *src, uint32_t n_rows, size_t step, uint32_t n,
                             float *strip)
{
    for (uint32_t r = 0; r < n_rows; r++, src += step, strip += VEC_STRIP)
        for (uint32_t c = 0; c < n; c += 16)
            v16_store(strip + c, v16_load_f16(src + c));
}

/* Lines that the next strip begins with, asked for while this one is multiplied: one per row. */
struct vec_ahead {
    const uint16_t *line;
    size_t step;
};

/* A line that is at hand: cheaper than a test in the loop. */
static inline struct vec_ahead vec_nothing_ahead(const struct vec_many *m)
{
    return (struct vec_ahead){ (const uint16_t *)(const void *)m->strip, 0 };
}

/* o [n][16 n_v] += x [n][n_rows] times columns of a strip. */
KERN_INLINE void vec_strip_product(const float *strip, uint32_t n_rows, uint32_t n_v,
                                   const float *x, size_t x_step, struct vec_ahead ahead, float *o,
                                   size_t o_step, bool is_first, uint32_t n)
{
    v16 acc[VEC_MANY_QUERIES][VEC_MANY_COLUMNS];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            acc[i][k] = is_first ? v16_set1(0.0f) : v16_load(o + i * o_step + 16 * k);
    for (uint32_t r = 0; r < n_rows; r++, strip += VEC_STRIP, ahead.line += ahead.step) {
        v16 w[VEC_MANY_COLUMNS];
        for (uint32_t k = 0; k < n_v; k++)
            w[k] = v16_load(strip + 16 * k);
        __builtin_prefetch(ahead.line);
        for (uint32_t i = 0; i < n; i++) {
            v16 xi = v16_set1(x[i * x_step + r]);
            for (uint32_t k = 0; k < n_v; k++)
                acc[i][k] = v16_fma(xi, w[k], acc[i][k]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_v; k++)
            v16_store(o + i * o_step + 16 * k, acc[i][k]);
}

/* ---- their scores ---- */

/* Channel c of the keys of the tile at token j. */
static inline const uint16_t *vec_keys_at(const struct kern_attend *a, uint32_t j, uint32_t c)
{
    return (const uint16_t *)a->pages[j / a->page_tokens] +
           kern_k_tile(j % a->page_tokens, a->head_dim) + (size_t)c * KERN_ATTN_TILE;
}

/* The tiles of a strip at token j that some query sees; the others keep what was there before. */
static void vec_widen_keys(struct vec_many *m, uint32_t j, uint32_t c, uint32_t n_c)
{
    for (uint32_t t = 0; t < VEC_STRIP; t += KERN_ATTN_TILE)
        if (j + t >= m->tile0 && j + t < m->tile1)
            vec_widen(vec_keys_at(m->a, j + t, c), n_c, KERN_ATTN_TILE, KERN_ATTN_TILE,
                      m->strip + t);
}

/* Group number g asks for one tile of the next strip, if there is one. */
static struct vec_ahead vec_keys_ahead(const struct vec_many *m, uint32_t g, uint32_t j, uint32_t c)
{
    uint32_t next = j + VEC_STRIP + g * KERN_ATTN_TILE;
    if (g < VEC_STRIP / KERN_ATTN_TILE && next < m->tile1)
        return (struct vec_ahead){ vec_keys_at(m->a, next, c), KERN_ATTN_TILE };
    return vec_nothing_ahead(m);
}

/* A group's scores of the strip at token j; where it sees but a part of that, vector by vector. */
static void vec_group_scores(struct vec_many *m, uint32_t number, uint32_t j, uint32_t c,
                             uint32_t n_c)
{
    const struct vec_group *g = &m->group[number];
    const float *q = m->q + (size_t)c * m->a->n_q + (size_t)g->i * VEC_STRIP_ROWS;
    float *s = m->s + (size_t)g->i * VEC_SCORE_STEP + j;
    struct vec_ahead ahead = vec_keys_ahead(m, number, j, c);
    bool is_whole = j >= g->span.tile0 && j + VEC_STRIP <= g->span.tile1;
    for (uint32_t t = 0; t < VEC_STRIP && is_whole; t += VEC_TILE)
        VEC_WITH_N(VEC_MANY_QUERIES, g->n,
                   vec_strip_product(m->strip + t, n_c, VEC_MANY_COLUMNS, q, VEC_STRIP_ROWS, ahead,
                                     s + t, VEC_SCORE_STEP, c == 0, N));
    for (uint32_t t = 0; t < VEC_STRIP && !is_whole; t += 16)
        if (j + t >= g->span.tile0 && j + t < g->span.tile1)
            VEC_WITH_N(VEC_MANY_QUERIES, g->n,
                       vec_strip_product(m->strip + t, n_c, 1, q, VEC_STRIP_ROWS, ahead, s + t,
                                         VEC_SCORE_STEP, c == 0, N));
}

static void vec_many_scores(struct vec_many *m)
{
    uint32_t dim = m->a->head_dim;
    for (uint32_t j = m->tile0 / VEC_STRIP * VEC_STRIP; j < m->tile1; j += VEC_STRIP)
        for (uint32_t c = 0, n_c; c < dim; c += n_c) {
            n_c = vec_least(dim - c, VEC_STRIP_ROWS);
            vec_widen_keys(m, j, c, n_c);
            for (uint32_t g = 0; g < m->n_groups; g++)
                vec_group_scores(m, g, j, c, n_c);
        }
}

/* ---- their values ---- */

/* Channels of the values of the tile at token j that are widened together. */
struct vec_columns {
    uint32_t j, c, n_v;
};

static inline const uint16_t *vec_values_at(const struct kern_attend *a, uint32_t j, uint32_t c)
{
    return (const uint16_t *)a->pages[j / a->page_tokens] +
           kern_v_row(a->page_tokens, j % a->page_tokens, a->head_dim) + c;
}

/* Group number g asks for one line of each token of the next tile. */
static struct vec_ahead vec_values_ahead(const struct vec_many *m, uint32_t g,
                                         const struct vec_columns *w)
{
    uint32_t next = w->j + KERN_ATTN_TILE;
    if (32 * g < 16 * w->n_v && next < m->tile1)
        return (struct vec_ahead){ vec_values_at(m->a, next, w->c + 32 * g), m->a->head_dim };
    return vec_nothing_ahead(m);
}

/* The tokens of [first, end) in the tile, for n queries from query i on. */
static inline void vec_tile_values(struct vec_many *m, const struct vec_columns *w, uint32_t i,
                                   uint32_t n, uint32_t first, uint32_t end, struct vec_ahead ahead)
{
    first = first > w->j ? first : w->j;
    end = vec_least(end, w->j + KERN_ATTN_TILE);
    if (first >= end)
        return;
    const float *strip = m->strip + (size_t)(first - w->j) * VEC_STRIP;
    const float *p = m->s + (size_t)i * VEC_SCORE_STEP + first;
    float *o = m->o + (size_t)i * VEC_STRIP;
    uint32_t c = 0;
    for (; c + VEC_TILE <= 16 * w->n_v; c += VEC_TILE)
        VEC_WITH_N(VEC_MANY_QUERIES, n,
                   vec_strip_product(strip + c, end - first, VEC_MANY_COLUMNS, p, VEC_SCORE_STEP,
                                     ahead, o + c, VEC_STRIP, false, N));
    for (; c < 16 * w->n_v; c += 16)
        VEC_WITH_N(VEC_MANY_QUERIES, n,
                   vec_strip_product(strip + c, end - first, 1, p, VEC_SCORE_STEP, ahead, o + c,
                                     VEC_STRIP, false, N));
}

/* See vec_span_values. */
static void vec_group_values(struct vec_many *m, uint32_t number, const struct vec_columns *w)
{
    const struct vec_group *g = &m->group[number];
    const struct vec_span *s = &g->span;
    const struct vec_ahead none = vec_nothing_ahead(m);
    if (w->j < s->tile0 || w->j >= s->tile1)
        return;
    for (uint32_t k = 0; k < g->n && s->all_first > w->j; k++)
        vec_tile_values(m, w, g->i + k, 1, s->first[k], vec_least(s->end[k], s->all_first), none);
    vec_tile_values(m, w, g->i, g->n, s->all_first, s->all_end, vec_values_ahead(m, number, w));
    for (uint32_t k = 0; k < g->n && s->all_end < w->j + KERN_ATTN_TILE; k++)
        vec_tile_values(m, w, g->i + k, 1, s->all_end, s->end[k], none);
}

/* All tokens for some channels, whose accumulators then stay in the first-level cache. */
static void vec_many_values(struct vec_many *m)
{
    const struct kern_attend *a = m->a;
    for (struct vec_columns w = { 0 }; w.c < a->head_dim; w.c += 16 * w.n_v) {
        w.n_v = a->head_dim - w.c < VEC_STRIP ? 1 : VEC_STRIP / 16;
        memset(m->o, 0, (size_t)a->n_q * VEC_STRIP * sizeof(float));
        for (w.j = m->tile0; w.j < m->tile1; w.j += KERN_ATTN_TILE) {
            vec_widen(vec_values_at(a, w.j, w.c), KERN_ATTN_TILE, a->head_dim, 16 * w.n_v,
                      m->strip);
            for (uint32_t g = 0; g < m->n_groups; g++)
                vec_group_values(m, g, &w);
        }
        for (uint32_t i = 0; i < a->n_q; i++)
            memcpy(a->o + (size_t)i * a->head_dim + w.c, m->o + (size_t)i * VEC_STRIP,
                   16 * w.n_v * sizeof(float));
    }
}

static void vec_attend_many(const struct kern_attend *a)
{
    struct vec_many m;
    vec_make_groups(&m, a);
    vec_arrange_queries(&m);
    vec_many_scores(&m);
    for (const struct vec_group *g = m.group; g < m.group + m.n_groups; g++)
        for (uint32_t i = g->i; i < g->i + g->n; i++)
            vec_weights(a, i, m.s + (size_t)i * VEC_SCORE_STEP, g->span.tile0, g->span.tile1);
    vec_many_values(&m);
}

#endif
