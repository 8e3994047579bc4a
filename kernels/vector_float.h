/* SPDX-License-Identifier: Apache-2.0
 *
 * vector_float.h - products with F32, F16 and BF16 weights, for vector_body.h.
 *
 * A tile of VEC_TILE_ROWS rows and VEC_TILE_TOKENS tokens has all its sums in registers.  Few tokens
 * are few tiles, and weights are widened as they are read.  Many go by blocks: what a block of rows
 * and columns holds is widened once into the cache, and tiles of tokens are led past it, each of
 * which stays in the first-level cache for all rows.  The sums of a tile, 16 lanes each, are carried
 * from one block of columns to the next: this leaves the order of kernels.h as it is.
 */
#ifndef LACUNA_KERNELS_VECTOR_FLOAT_H
#define LACUNA_KERNELS_VECTOR_FLOAT_H

#include <string.h>

enum {
    VEC_MOST_ROWS = 4,                     /* of a tile of one token */
    VEC_WIDE_TOKENS = 3 * VEC_TILE_TOKENS, /* with more, widening first is worth it */
    VEC_BLOCK_COLS = 1024,
    VEC_BLOCK_ROWS = 64,      /* so that their tokens pass the first-level cache seldom */
    VEC_ROWS_BYTES = 1 << 19, /* of rows that stay there while all tokens pass */
};

_Static_assert(FLOAT_BLOCK_TOKENS % VEC_TILE_TOKENS == 0, "blocks are rounded up to whole tiles");

/* Columns of rows and tokens: of what product, and where its tiles leave their sums. */
struct vec_float {
    const uint8_t *w; /* row 0 */
    size_t row_bytes;
    const float *x; /* token 0 */
    size_t ldx;
    uint32_t n_rows, n_cols;
    size_t ahead; /* bytes until the rows that are asked for meanwhile; 0: they are at hand */
    bool is_first, is_last; /* of the blocks of columns */
    float *y;               /* element (0, 0); only the last block writes there */
    size_t ldy;
};

KERN_INLINE v16 vec_load_weight(enum kern_type type, const uint8_t *row, uint32_t i)
{
    if (type == KERN_TYPE_F32)
        return v16_load((const float *)(const void *)row + i);
    const uint16_t *h = (const uint16_t *)(const void *)row + i;
    return type == KERN_TYPE_F16 ? v16_load_f16(h) : v16_load_bf16(h);
}

KERN_INLINE size_t vec_weight_bytes(enum kern_type type)
{
    return type == KERN_TYPE_F32 ? 4 : 2;
}

static inline v16 vec_load_weight_part(enum kern_type type, const uint8_t *row, uint32_t i,
                                       uint32_t n)
{
    if (type == KERN_TYPE_F32)
        return v16_load_part((const float *)(const void *)row + i, n);
    uint16_t h[16] = { 0 };
    memcpy(h, row + 2 * (size_t)i, 2 * (size_t)n);
    return vec_load_weight(type, (const uint8_t *)h, 0);
}

/* Adds the products of a tile's columns.  n_r and n_t are constants after inlining. */
KERN_INLINE void vec_float_sums(enum kern_type type, const struct vec_float *m, const uint8_t *w,
                                const float *x, uint32_t n_r, uint32_t n_t,
                                v16 (*sum)[VEC_MOST_ROWS])
{
    uint32_t whole = m->n_cols / 16 * 16, rest = m->n_cols - whole;
    const uint8_t *next = w + m->ahead;
    size_t bytes = vec_weight_bytes(type);
    v16 wv[VEC_MOST_ROWS];
    for (uint32_t k = 0; k < whole; k += 16) {
        for (uint32_t i = 0; i < n_r; i++)
            wv[i] = vec_load_weight(type, w + i * m->row_bytes, k);
        prefetch_stream(next + k * n_r * bytes, 16 * n_r * bytes); /* as much as is read */
        for (uint32_t j = 0; j < n_t; j++) {
            v16 xv = v16_load(x + j * m->ldx + k);
            for (uint32_t i = 0; i < n_r; i++)
                sum[j][i] = v16_fma(wv[i], xv, sum[j][i]);
        }
    }
    for (uint32_t i = 0; i < n_r && rest; i++) {
        wv[i] = vec_load_weight_part(type, w + i * m->row_bytes, whole, rest);
        for (uint32_t j = 0; j < n_t; j++)
            sum[j][i] = v16_fma(wv[i], v16_load_part(x + j * m->ldx + whole, rest), sum[j][i]);
    }
}

/* Rows from r, tokens from t.  carried[at]: its sums between blocks of columns. */
KERN_INLINE void vec_float_tile(enum kern_type type, const struct vec_float *m, uint32_t r,
                                uint32_t n_r, uint32_t t, uint32_t n_t, v16 *carried, size_t at)
{
    v16 sum[VEC_TILE_TOKENS][VEC_MOST_ROWS];
    for (uint32_t j = 0; j < n_t; j++)
        for (uint32_t i = 0; i < n_r; i++)
            sum[j][i] = m->is_first ? v16_set1(0.0f) : carried[at + j * n_r + i];
    vec_float_sums(type, m, m->w + r * m->row_bytes, m->x + t * m->ldx, n_r, n_t, sum);
    for (uint32_t j = 0; j < n_t; j++) {
        if (m->is_last)
            v16_trees(sum[j], n_r, m->y + (t + j) * m->ldy + r);
        for (uint32_t i = 0; i < n_r && !m->is_last; i++)
            carried[at + j * n_r + i] = sum[j][i];
    }
}

KERN_INLINE void vec_float_rows(enum kern_type type, const struct vec_float *m, uint32_t t,
                                uint32_t n_t, v16 *carried)
{
    size_t at = (size_t)t * m->n_rows;
    uint32_t r = 0, n_r = n_t == 1 ? VEC_MOST_ROWS : VEC_TILE_ROWS;
    for (; r + n_r <= m->n_rows; r += n_r)
        vec_float_tile(type, m, r, n_r, t, n_t, carried, at + (size_t)r * n_t);
    for (; r < m->n_rows; r++) /* few matrices have such rows */
        for (uint32_t j = 0; j < n_t; j++)
            vec_float_tile(type, m, r, 1, t + j, 1, carried, at + (size_t)r * n_t + j);
}

/* All rows, and n_tokens in tiles of about one size. */
KERN_INLINE void vec_float_tiles(enum kern_type type, const struct vec_float *m, uint32_t n_tokens,
                                 v16 *carried)
{
    struct vec_float tile = *m;
    for (uint32_t t = 0, n_t; t < n_tokens; t += n_t) {
        n_t = tile_size(n_tokens - t, VEC_TILE_TOKENS);
        if (n_t == 1)
            vec_float_rows(type, &tile, t, 1, carried);
        else if (VEC_TILE_TOKENS > 2 && n_t == 2)
            vec_float_rows(type, &tile, t, 2, carried);
        else if (VEC_TILE_TOKENS > 3 && n_t == 3)
            vec_float_rows(type, &tile, t, 3, carried);
        else if (VEC_TILE_TOKENS > 4 && n_t == 4)
            vec_float_rows(type, &tile, t, 4, carried);
        else if (VEC_TILE_TOKENS > 5 && n_t == 5)
            vec_float_rows(type, &tile, t, 5, carried);
        else
            vec_float_rows(type, &tile, t, VEC_TILE_TOKENS, carried);
        tile.ahead = 0; /* the first tile brought the rows */
    }
}

/* One copy of each: the compiler takes long over them. */
static __attribute__((noinline)) void vec_float_tiles_f32(const struct vec_float *m,
                                                          uint32_t n_tokens, v16 *carried)
{
    vec_float_tiles(KERN_TYPE_F32, m, n_tokens, carried);
}

KERN_INLINE void vec_widen_rows(enum kern_type type, const uint8_t *w, size_t row_bytes,
                                uint32_t n_rows, uint32_t n_cols, float *dst)
{
    uint32_t whole = n_cols / 16 * 16;
    for (uint32_t r = 0; r < n_rows; r++, w += row_bytes, dst += VEC_BLOCK_COLS) {
        for (uint32_t k = 0; k < whole; k += 16)
            v16_store(dst + k, vec_load_weight(type, w, k));
        if (whole < n_cols)
            v16_store(dst + whole, vec_load_weight_part(type, w, whole, n_cols - whole));
    }
}

/* A block of rows and tokens, block of columns by block of columns.  m: all columns. */
KERN_INLINE void vec_float_block(enum kern_type type, const struct vec_float *m, uint32_t n_tokens)
{
    v16 carried[VEC_BLOCK_ROWS * FLOAT_BLOCK_TOKENS];
    _Alignas(64) float wide[VEC_BLOCK_ROWS * VEC_BLOCK_COLS];
    struct vec_float part = *m;
    for (uint32_t k = 0; k < m->n_cols; k += VEC_BLOCK_COLS) {
        const uint8_t *w = m->w + k * vec_weight_bytes(type);
        part.n_cols = m->n_cols - k < VEC_BLOCK_COLS ? m->n_cols - k : VEC_BLOCK_COLS;
        part.x = m->x + k;
        part.is_first = k == 0;
        part.is_last = k + part.n_cols == m->n_cols;
        part.w = w;
        if (type != KERN_TYPE_F32) {
            vec_widen_rows(type, w, m->row_bytes, m->n_rows, part.n_cols, wide);
            part.w = (const uint8_t *)wide;
            part.row_bytes = VEC_BLOCK_COLS * sizeof(float);
        }
        vec_float_tiles_f32(&part, n_tokens, carried);
    }
}

KERN_INLINE void vec_float_blocks(enum kern_type type, const struct vec_float *m, uint32_t n_tokens)
{
    struct vec_float part = *m;
    uint32_t n = kern_block_tokens(type, m->n_cols, n_tokens); /* rounded up to whole tiles: */
    uint32_t most = (n + VEC_TILE_TOKENS - 1) / VEC_TILE_TOKENS * VEC_TILE_TOKENS;
    for (uint32_t t = 0, n_t; t < n_tokens; t += n_t) {
        n_t = n_tokens - t < most ? n_tokens - t : most;
        for (uint32_t r = 0; r < m->n_rows; r += part.n_rows) {
            part.n_rows = m->n_rows - r < VEC_BLOCK_ROWS ? m->n_rows - r : VEC_BLOCK_ROWS;
            part.w = m->w + r * m->row_bytes;
            part.x = m->x + t * m->ldx;
            part.y = m->y + t * m->ldy + r;
            vec_float_block(type, &part, n_t);
        }
    }
}

/* Many tokens: some rows after the other, so that these come from memory once. */
KERN_INLINE void vec_float_wide(enum kern_type type, const struct vec_float *m, uint32_t n_tokens)
{
    struct vec_float part = *m;
    uint32_t fit = (uint32_t)(VEC_ROWS_BYTES / m->row_bytes) / VEC_BLOCK_ROWS * VEC_BLOCK_ROWS;
    uint32_t most = fit > VEC_BLOCK_ROWS ? fit : VEC_BLOCK_ROWS;
    for (uint32_t r = 0; r < m->n_rows; r += part.n_rows) {
        part.n_rows = m->n_rows - r < most ? m->n_rows - r : most;
        part.w = m->w + r * m->row_bytes;
        part.y = m->y + r;
        vec_float_blocks(type, &part, n_tokens);
    }
}

KERN_INLINE void vec_float_product(enum kern_type type, const struct vec_float *m,
                                   uint32_t n_tokens)
{
    struct vec_float streams = *m;
    streams.ahead = (n_tokens == 1 ? VEC_MOST_ROWS : VEC_TILE_ROWS) * m->row_bytes;
    if (n_tokens > VEC_WIDE_TOKENS)
        vec_float_wide(type, m, n_tokens);
    else if (type == KERN_TYPE_F32)
        vec_float_tiles_f32(&streams, n_tokens, NULL);
    else
        vec_float_tiles(type, &streams, n_tokens, NULL);
}

static void vec_mul_mat_float(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                              const float *x, uint32_t t0, uint32_t t1, float *y, size_t ldy)
{
    struct vec_float m = { .w = (const uint8_t *)w->data + row0 * w->row_bytes,
                           .row_bytes = w->row_bytes,
                           .x = x + (size_t)t0 * w->n_cols,
                           .ldx = w->n_cols,
                           .n_rows = row1 - row0,
                           .n_cols = w->n_cols,
                           .is_first = true,
                           .is_last = true,
                           .y = y,
                           .ldy = ldy };
    if (w->type == KERN_TYPE_F32)
        vec_float_product(KERN_TYPE_F32, &m, t1 - t0);
    else if (w->type == KERN_TYPE_F16)
        vec_float_product(KERN_TYPE_F16, &m, t1 - t0);
    else
        vec_float_product(KERN_TYPE_BF16, &m, t1 - t0);
}

#endif
