/* SPDX-License-Identifier: Apache-2.0
 *
 * columns.h - few tokens times quantised weights in columns (packed.h), written once in the vocabulary of v16_*.h:
 * columns that a token multiplies by zero are neither read nor multiplied (neurons that ReLU leaves inactive: Deja Vu,
 * arXiv 2310.17157; PowerInfer, arXiv 2312.12456).
 *
 * Of a range of columns each token lists those that it needs; then tile by tile, token by token, they are multiplied, and
 * in the same tile those of the next range asked for.
 *
 * The bits are those of panel.h: integer sums are exact, and what is skipped would add zero.
 */
#ifndef LACUNA_KERNELS_COLUMNS_H
#define LACUNA_KERNELS_COLUMNS_H

#include "kernels/panel.h"

enum {
    COLUMNS_MOST_TOKENS = 64,
    COLUMNS_RANGE = 128, /* columns */
    COLUMNS_RANGE_GROUPS = COLUMNS_RANGE / 16,
    /* Of all tokens together whose sums are under way: they stay in the second-level cache. */
    COLUMNS_PART_TILES = 256,
};

/* Is skipping faster than unpacking all?  Beside a product in panels the one takes 0.6 + 2.2 times the share of inputs that
 * are not zero, the other 1 + 29 / tokens, as measured. */
static inline bool columns_pay(const struct kern_act *act, size_t t0, size_t t1)
{
    size_t n_t = t1 - t0, n = n_t * act->n_cols, n_active = 0;
    const int8_t *q = act->q + t0 * act->n_cols;
    if (n_t > COLUMNS_MOST_TOKENS)
        return false;
    for (size_t i = 0; i < n && n_t > 8; i += KERN_BLOCK)
        n_active += (size_t)__builtin_popcount(w16_nonzero_int8(q + i));
    return 22 * n_active * n_t <= (4 * n_t + 290) * n;
}

/* ---- lists ---- */

/* The columns of a range that a token does not multiply by zero, and by what, group after group; each is filled up to
 * fours with zeros. */
struct column_list {
    uint32_t n_groups;
    uint16_t first[COLUMNS_RANGE_GROUPS + 1];
    uint32_t at[COLUMNS_RANGE]; /* where the codes of the first tile are, from the first chunk on */
    int8_t q[COLUMNS_RANGE];
};

/* Which columns of group g are not multiplied by zero: bit i is column i of it. */
KERN_INLINE uint32_t group_mask(enum kern_type type, const struct tokens *x, uint32_t g)
{
    uint32_t first = g * unpack_group(type), block = first / KERN_BLOCK * KERN_BLOCK;
    return w16_nonzero_int8(x->q + block) >> (first - block) &
           (unpack_group(type) == 32 ? UINT32_MAX : 0xffff);
}

/* x: the token, from the range's first column `col` on. */
KERN_INLINE void list_columns(enum kern_type type, const struct kern_matrix *w,
                              const struct tokens *x, uint32_t col, uint32_t n_cols,
                              struct column_list *list)
{
    uint32_t n = 0, step = (uint32_t)packed_column_step(type, w->n_rows);
    size_t begin = packed_chunk_at(type, w->n_rows, col);
    list->n_groups = n_cols / unpack_group(type);
    for (uint32_t g = 0; g < list->n_groups; g++) {
        uint32_t first = g * unpack_group(type);
        uint32_t at = (uint32_t)(packed_column_at(type, w->n_rows, col + first) - begin);
        list->first[g] = (uint16_t)n;
        for (uint32_t mask = group_mask(type, x, g); mask; mask &= mask - 1, n++) {
            uint32_t c = (uint32_t)__builtin_ctz(mask);
            list->at[n] = at + c * step;
            list->q[n] = x->q[first + c];
        }
        for (; n % 4; n++) {
            list->at[n] = list->at[n - 1];
            list->q[n] = 0;
        }
    }
    list->first[list->n_groups] = (uint16_t)n;
}

/* ---- sums ---- */

/* Adds four columns to the exact sums of a tile's panels. */
KERN_INLINE void add_quad(enum kern_type type, const uint8_t *codes, const uint32_t *at,
                          const int8_t *q, w16 *part)
{
    PANEL_UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        w16 u[4];
        PANEL_UNROLL
        for (uint32_t j = 0; j < 4; j++)
            u[j] = packed_column(type, codes + at[j], half);
        PANEL_UNROLL
        for (uint32_t i = 0; i < 4; i++)
            part[4 * half + i] = w16_dot_step(
                part[4 * half + i], w16_quads(u[0], u[1], u[2], u[3], i), q, unpack_max(type));
    }
}

/* The exact sums of group g in a tile. */
KERN_INLINE void column_sums(enum kern_type type, const uint8_t *codes,
                             const struct column_list *list, uint32_t g, int32_t start, w16 *sum)
{
    int max = unpack_max(type);
    uint32_t run = 4 * dot_run(max, KERN_BLOCK / 4), end = list->first[g + 1];
    PANEL_UNROLL
    for (uint32_t i = 0; i < COLUMN_PANELS; i++)
        sum[i] = w16_set1(start);
    for (uint32_t k0 = list->first[g]; k0 < end; k0 += run) {
        w16 part[COLUMN_PANELS];
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++)
            part[i] = w16_dot_begin(sum[i], max);
        for (uint32_t k = k0; k < end && k < k0 + run; k += 4)
            add_quad(type, codes, list->at + k, list->q + k, part);
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++)
            sum[i] = w16_dot_end(part[i], sum[i], max);
    }
}

/* A range of columns in a tile: its first chunk's heads and codes there. */
struct column_range {
    const uint8_t *heads, *codes;
    size_t chunk_bytes;
    uint32_t col; /* its first one */
};

KERN_INLINE struct column_range range_of(enum kern_type type, const struct kern_matrix *w,
                                         uint32_t col, uint32_t tile)
{
    const uint8_t *chunk = (const uint8_t *)w->data + packed_chunk_at(type, w->n_rows, col);
    return (struct column_range){
        .heads = chunk + (size_t)tile * COLUMN_PANELS * packed_head_bytes(type),
        .codes = chunk + (size_t)tile * packed_column_bytes(type),
        .chunk_bytes = packed_chunk_bytes(type, w->n_rows),
        .col = col,
    };
}

/* The heads of group g of it. */
KERN_INLINE const uint8_t *range_heads(enum kern_type type, const struct column_range *r,
                                       uint32_t g)
{
    uint32_t from = r->col % unpack_block(type) + g * unpack_group(type);
    return r->heads + from / unpack_block(type) * r->chunk_bytes;
}

/* Asks for what a token will multiply soon, group g of a range; and for the heads of a chunk with its first group. */
KERN_INLINE void ask_for(enum kern_type type, const struct column_range *r,
                         const struct column_list *list, uint32_t g)
{
    if (g >= list->n_groups)
        return;
    if ((r->col + g * unpack_group(type)) % unpack_block(type) == 0)
        prefetch_stream(range_heads(type, r, g), (size_t)COLUMN_PANELS * packed_head_bytes(type));
    for (uint32_t k = list->first[g]; k < list->first[g + 1]; k++)
        prefetch_stream(r->codes + list->at[k], packed_column_bytes(type));
}

/* Adds a range of columns of a tile times a token to y [128].  list: of this range and of the next one. */
KERN_INLINE void add_range(enum kern_type type, const struct column_range *r,
                           const struct column_range *next, const struct column_list *const *list,
                           const struct tokens *x, float *y)
{
    uint32_t group = unpack_group(type), chunk = unpack_block(type);
    int zero = unpack_zero(type) - dot_zero(unpack_max(type));
    v16 acc[COLUMN_PANELS];
    PANEL_UNROLL
    for (uint32_t i = 0; i < COLUMN_PANELS; i++)
        acc[i] = v16_load(y + (size_t)i * KERN_PANEL_ROWS);
    for (uint32_t g = 0; g < list[0]->n_groups; g++) {
        float scale = x->d[g * group / KERN_BLOCK];
        ask_for(type, next, list[1], g);
        if (list[0]->first[g] == list[0]->first[g + 1] && scale == scale)
            continue; /* not of a token that is no number */
        const uint8_t *head = range_heads(type, r, g);
        v16 d = v16_set1(scale), xs = v16_set1(x->xs[g]), s, m = v16_set1(0.0f);
        w16 sum[COLUMN_PANELS];
        column_sums(type, r->codes, list[0], g, zero ? sum_start(x, 0, g, zero) : 0, sum);
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++) {
            packed_group(type, head + (size_t)i * packed_head_bytes(type),
                         (r->col + g * group) % chunk / group, &s, &m);
            acc[i] = v16_fma(v16_mul(s, d), v16_from_w16(sum[i]), acc[i]);
            if (unpack_has_min(type))
                acc[i] = v16_fma(m, xs, acc[i]);
        }
    }
    PANEL_UNROLL
    for (uint32_t i = 0; i < COLUMN_PANELS; i++)
        v16_store(y + (size_t)i * KERN_PANEL_ROWS, acc[i]);
}

/* ---- products ---- */

/* Adjacent tiles times n_t tokens from t0 on. */
struct column_product {
    const struct kern_matrix *w;
    const struct kern_act *act;
    size_t t0;
    uint32_t tile0, n_tiles, n_t;
    float *y; /* [n_t][n_tiles][128], the sums so far */
};

/* Of the range from column `col` on, list [n_t]; behind the last one empty lists. */
KERN_INLINE void list_range(enum kern_type type, const struct column_product *p, uint32_t col,
                            struct column_list *list)
{
    uint32_t n_left = col < p->w->n_cols ? p->w->n_cols - col : 0;
    uint32_t n_cols = n_left < COLUMNS_RANGE ? n_left : COLUMNS_RANGE;
    for (uint32_t t = 0; t < p->n_t; t++) {
        struct tokens x = tokens_at(p->act, unpack_group(type), p->t0 + t, col);
        list_columns(type, p->w, &x, col, n_cols, &list[t]);
    }
}

/* Adds the range from column `col` on; its lists, and those of the next one. */
KERN_INLINE void multiply_range(enum kern_type type, const struct column_product *p, uint32_t col,
                                const struct column_list *list, const struct column_list *next_list)
{
    for (uint32_t i = 0; i < p->n_tiles; i++) {
        struct column_range range = range_of(type, p->w, col, p->tile0 + i);
        struct column_range next = range_of(type, p->w, col + COLUMNS_RANGE, p->tile0 + i);
        for (uint32_t t = 0; t < p->n_t; t++) {
            struct tokens x = tokens_at(p->act, unpack_group(type), p->t0 + t, col);
            const struct column_list *both[2] = { &list[t], &next_list[t] };
            add_range(type, &range, &next, both, &x,
                      p->y + ((size_t)t * p->n_tiles + i) * KERN_COLUMN_ROWS);
        }
    }
}

KERN_INLINE void multiply_tiles(enum kern_type type, const struct column_product *p)
{
    struct column_list lists[2][COLUMNS_MOST_TOKENS];
    memset(p->y, 0, (size_t)p->n_t * p->n_tiles * KERN_COLUMN_ROWS * sizeof(*p->y));
    list_range(type, p, 0, lists[0]);
    for (uint32_t col = 0, i = 0; col < p->w->n_cols; col += COLUMNS_RANGE, i ^= 1) {
        list_range(type, p, col + COLUMNS_RANGE, lists[i ^ 1]);
        multiply_range(type, p, col, lists[i], lists[i ^ 1]);
    }
}

/* At most COLUMNS_MOST_TOKENS, some tiles at a time. */
KERN_INLINE void column_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                             uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                             float *y, size_t ldy)
{
    float part[COLUMNS_PART_TILES * KERN_COLUMN_ROWS];
    struct column_product p = {
        .w = w, .act = act, .t0 = t0, .n_t = (uint32_t)(t1 - t0), .y = part
    };
    for (uint32_t r = row0, end; r < row1; r = end) {
        p.tile0 = r / KERN_COLUMN_ROWS;
        end = (p.tile0 + COLUMNS_PART_TILES / p.n_t) * KERN_COLUMN_ROWS;
        end = end < row1 ? end : row1;
        p.n_tiles = packed_n_tiles(end) - p.tile0;
        multiply_tiles(type, &p);
        size_t ld = (size_t)p.n_tiles * KERN_COLUMN_ROWS;
        for (uint32_t t = 0; t < p.n_t; t++)
            memcpy(y + t * ldy + (r - row0), part + t * ld + r % KERN_COLUMN_ROWS,
                   (end - r) * sizeof(*y));
    }
}

#endif
