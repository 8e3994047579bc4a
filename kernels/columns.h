/* SPDX-License-Identifier: Apache-2.0
 *
 * columns.h - few tokens times quantised weights in columns (packed.h), written once in the vocabulary of v16_*.h:
 * columns that a token multiplies by zero are neither read nor multiplied (neurons that ReLU leaves inactive: Deja Vu,
 * arXiv 2310.17157; PowerInfer, arXiv 2312.12456).
 *
 * The bits are those of panel.h: integer sums are exact, and what is skipped would add zero.
 */
#ifndef LACUNA_KERNELS_COLUMNS_H
#define LACUNA_KERNELS_COLUMNS_H

#include "kernels/panel.h"

enum {
    COLUMNS_MOST_TOKENS = 64,
    /* Of all tokens together whose sums are under way: they stay in the second-level cache. */
    COLUMNS_PART_TILES = 256,
    COLUMNS_AHEAD = 2, /* groups between what is asked for and what is multiplied */
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

/* Adjacent tiles of 128 rows. */
struct column_tiles {
    const uint8_t *data; /* of the matrix */
    uint32_t n_rows;     /* of the matrix */
    uint32_t tile0, tile1;
};

/* The columns of a group that are not multiplied by zero, and by what: filled up to fours with zeros. */
struct active_columns {
    uint32_t n;
    const uint8_t *col[KERN_BLOCK]; /* codes of the first tile */
    int8_t q[KERN_BLOCK];
};

/* Group g of a token; bit i of the mask is column i of it. */
KERN_INLINE void list_columns(enum kern_type type, const struct column_tiles *w,
                              const struct tokens *x, uint32_t g, uint32_t mask,
                              struct active_columns *a)
{
    uint32_t first = g * unpack_group(type);
    size_t step = packed_column_step(type, w->n_rows);
    const uint8_t *codes = w->data + packed_column_at(type, w->n_rows, first) +
                           (size_t)w->tile0 * packed_column_bytes(type);
    for (a->n = 0; mask; mask &= mask - 1) {
        uint32_t c = (uint32_t)__builtin_ctz(mask);
        a->col[a->n] = codes + c * step;
        a->q[a->n++] = x->q[first + c];
    }
    for (; a->n % 4; a->n++) {
        a->col[a->n] = a->col[a->n - 1];
        a->q[a->n] = 0;
    }
}

/* Adds four columns, at the i-th tile of theirs, to the exact sums of its panels. */
KERN_INLINE void add_quad(enum kern_type type, const uint8_t *const *col, const int8_t *q,
                          size_t at, w16 *part)
{
    PANEL_UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        w16 u[4];
        PANEL_UNROLL
        for (uint32_t j = 0; j < 4; j++)
            u[j] = packed_column(type, col[j] + at, half);
        PANEL_UNROLL
        for (uint32_t i = 0; i < 4; i++)
            part[4 * half + i] = w16_dot_step(
                part[4 * half + i], w16_quads(u[0], u[1], u[2], u[3], i), q, unpack_max(type));
    }
}

/* The exact sums of a group in a tile. */
KERN_INLINE void column_sums(enum kern_type type, const struct active_columns *a, size_t at,
                             int32_t start, w16 *sum)
{
    int max = unpack_max(type);
    uint32_t run = 4 * dot_run(max, KERN_BLOCK / 4);
    PANEL_UNROLL
    for (uint32_t i = 0; i < COLUMN_PANELS; i++)
        sum[i] = w16_set1(start);
    for (uint32_t k0 = 0; k0 < a->n; k0 += run) {
        w16 part[COLUMN_PANELS];
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++)
            part[i] = w16_dot_begin(sum[i], max);
        for (uint32_t k = k0; k < a->n && k < k0 + run; k += 4)
            add_quad(type, a->col + k, a->q + k, at, part);
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++)
            sum[i] = w16_dot_end(part[i], sum[i], max);
    }
}

/* Asks for a tile of the columns of group g of a token, bit i of the mask is column i of it; and for its heads. */
KERN_INLINE void prefetch_tile(enum kern_type type, const struct column_tiles *w, uint32_t g,
                               uint32_t mask, uint32_t tile)
{
    uint32_t first = g * unpack_group(type), bytes = packed_column_bytes(type);
    size_t step = packed_column_step(type, w->n_rows);
    const uint8_t *codes = w->data + packed_column_at(type, w->n_rows, first) +
                           (size_t)tile * bytes;
    size_t heads = (size_t)COLUMN_PANELS * packed_head_bytes(type);
    if (first % unpack_block(type) == 0)
        prefetch_stream(w->data + first / unpack_block(type) * packed_chunk_bytes(type, w->n_rows) +
                            tile * heads,
                        heads);
    for (; mask; mask &= mask - 1)
        prefetch_stream(codes + (size_t)__builtin_ctz(mask) * step, bytes);
}

/* Group g of a token in all tiles.  y: what they are so far; next: the mask of group g + COLUMNS_AHEAD, or 0. */
KERN_INLINE void column_group(enum kern_type type, const struct column_tiles *w,
                              const struct tokens *x, uint32_t g, uint32_t mask, uint32_t next,
                              float *y)
{
    uint32_t chunk_groups = unpack_block(type) / unpack_group(type);
    const uint8_t *heads = w->data + g / chunk_groups * packed_chunk_bytes(type, w->n_rows);
    int zero = unpack_zero(type) - dot_zero(unpack_max(type));
    v16 d = v16_set1(x->d[g * unpack_group(type) / KERN_BLOCK]), xs = v16_set1(x->xs[g]);
    int32_t start = zero ? sum_start(x, 0, g, zero) : 0;
    struct active_columns a;
    list_columns(type, w, x, g, mask, &a);
    for (uint32_t tile = w->tile0; tile < w->tile1; tile++, y += KERN_COLUMN_ROWS) {
        w16 sum[COLUMN_PANELS];
        if (next)
            prefetch_tile(type, w, g + COLUMNS_AHEAD, next, tile);
        column_sums(type, &a, (size_t)(tile - w->tile0) * packed_column_bytes(type), start, sum);
        PANEL_UNROLL
        for (uint32_t i = 0; i < COLUMN_PANELS; i++) {
            size_t panel = (size_t)tile * COLUMN_PANELS + i;
            v16 s, m = v16_set1(0.0f), acc = v16_load(y + (size_t)i * KERN_PANEL_ROWS);
            packed_group(type, heads + panel * packed_head_bytes(type), g % chunk_groups, &s, &m);
            acc = v16_fma(v16_mul(s, d), v16_from_w16(sum[i]), acc);
            if (unpack_has_min(type))
                acc = v16_fma(m, xs, acc);
            v16_store(y + (size_t)i * KERN_PANEL_ROWS, acc);
        }
    }
}

/* Which columns of group g are not multiplied by zero; 0 behind the last group. */
KERN_INLINE uint32_t group_mask(enum kern_type type, const struct tokens *x, uint32_t n_cols,
                                uint32_t g)
{
    uint32_t first = g * unpack_group(type), block = first / KERN_BLOCK * KERN_BLOCK;
    if (first >= n_cols)
        return 0;
    return w16_nonzero_int8(x->q + block) >> (first - block) &
           (unpack_group(type) == 32 ? UINT32_MAX : 0xffff);
}

/* Tiles times n_t tokens, whose outputs of them lie at y, [n_t][rows of the tiles]. */
KERN_INLINE void multiply_tiles(enum kern_type type, const struct column_tiles *w, uint32_t n_cols,
                                const struct tokens *x, uint32_t n_t, float *y)
{
    size_t ldy = (size_t)(w->tile1 - w->tile0) * KERN_COLUMN_ROWS;
    memset(y, 0, n_t * ldy * sizeof(*y));
    for (uint32_t g = 0; g < n_cols / unpack_group(type); g++)
        for (uint32_t t = 0; t < n_t; t++) {
            uint32_t mask = group_mask(type, &x[t], n_cols, g);
            uint32_t next = group_mask(type, &x[t], n_cols, g + COLUMNS_AHEAD);
            float d = x[t].d[g * unpack_group(type) / KERN_BLOCK];
            if (mask || d != d)
                column_group(type, w, &x[t], g, mask, next, y + t * ldy);
            else if (next)
                for (uint32_t tile = w->tile0; tile < w->tile1; tile++)
                    prefetch_tile(type, w, g + COLUMNS_AHEAD, next, tile);
        }
}

/* At most COLUMNS_MOST_TOKENS, some tiles at a time. */
KERN_INLINE void column_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                             uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                             float *y, size_t ldy)
{
    float part[COLUMNS_PART_TILES * KERN_COLUMN_ROWS];
    struct tokens x[COLUMNS_MOST_TOKENS];
    uint32_t n_t = (uint32_t)(t1 - t0);
    for (uint32_t t = 0; t < n_t; t++)
        x[t] = tokens_at(act, unpack_group(type), t0 + t, 0);
    for (uint32_t r = row0, end; r < row1; r = end) {
        struct column_tiles tiles = { w->data, w->n_rows, r / KERN_COLUMN_ROWS, 0 };
        end = (tiles.tile0 + COLUMNS_PART_TILES / n_t) * KERN_COLUMN_ROWS;
        end = end < row1 ? end : row1;
        tiles.tile1 = packed_n_tiles(end);
        multiply_tiles(type, &tiles, w->n_cols, x, n_t, part);
        size_t ld = (size_t)(tiles.tile1 - tiles.tile0) * KERN_COLUMN_ROWS;
        for (uint32_t t = 0; t < n_t; t++)
            memcpy(y + t * ldy + (r - row0), part + t * ld + r % KERN_COLUMN_ROWS,
                   (end - r) * sizeof(*y));
    }
}

#endif
