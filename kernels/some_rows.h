/* SPDX-License-Identifier: Apache-2.0
 *
 * some_rows.h - some rows of quantised weights times one token (active neurons), written once in the vocabulary of
 * v16_*.h: 16 at a time, so that memory has many requests under way.  The bits are those of panel.h.
 */
#ifndef LACUNA_KERNELS_SOME_ROWS_H
#define LACUNA_KERNELS_SOME_ROWS_H

#include "kernels/panel.h"

/* Up to 16 of n rows, and those behind them; the last one stands for those beyond it. */
static inline void listed_rows(struct piece_rows *p, const struct kern_matrix *w,
                               const uint32_t *rows, uint32_t n, uint32_t n_together)
{
    for (uint32_t i = 0; i < KERN_PANEL_ROWS; i++) {
        uint32_t next = i + n_together * KERN_PANEL_ROWS;
        p->row[i] = (const uint8_t *)w->data + rows[i < n ? i : n - 1] * w->row_bytes;
        p->next[i] = (const uint8_t *)w->data + rows[next < n ? next : n - 1] * w->row_bytes;
    }
}

/* Types whose blocks are multiplied as they are stored: bytes or nibbles, low ones first. */
KERN_INLINE bool is_direct(enum kern_type type)
{
    return type == KERN_TYPE_Q4_0 || type == KERN_TYPE_Q4_1 || type == KERN_TYPE_Q8_0 ||
           type == KERN_TYPE_IQ4_NL || type == KERN_TYPE_MXFP4;
}

/* Of a stored block, as in kern_type_info, but known to the compiler. */
KERN_INLINE uint32_t direct_block_bytes(enum kern_type type)
{
    uint32_t scale = type == KERN_TYPE_MXFP4 ? 1 : unpack_has_min(type) ? 4 : 2;
    return scale + KERN_BLOCK / 8 * packed_bits(type);
}

/* The 64 columns of two blocks. */
KERN_INLINE w16 direct_columns(enum kern_type type, const uint8_t *a, const uint8_t *b)
{
    static const uint32_t nibble[16] = { 0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4 };
    uint32_t codes_at = direct_block_bytes(type) - KERN_BLOCK / 8 * packed_bits(type);
    if (packed_bits(type) == 8)
        return w16_add_bytes(w16_load_halves(a + codes_at, b + codes_at), 128);
    w16 u = w16_shift_right_each(w16_load_pairs(a + codes_at, b + codes_at), w16_load(nibble));
    u = w16_and_bytes(u, 15);
    return unpack_table_of(type) ? w16_look_up(w16_load_table(unpack_table_of(type)), u) : u;
}

KERN_INLINE void direct_scale(enum kern_type type, const uint8_t *block, float *s, float *m)
{
    *s = type == KERN_TYPE_MXFP4 ? unpack_e8m0_half(block[0]) : unpack_f16(block);
    if (unpack_has_min(type))
        *m = unpack_f16(block + 2);
}

/* Two blocks of 16 rows from column `col` on, or the last one: n_blocks of them count.  The codes at q are followed by
 * zeros if it is one. */
KERN_INLINE v16 direct_blocks(enum kern_type type, const struct piece_rows *w,
                              const struct tokens *x, const int8_t *q, uint32_t col,
                              uint32_t n_blocks, v16 acc)
{
    uint32_t bytes = direct_block_bytes(type), b0 = col / KERN_BLOCK;
    int max = unpack_max(type), zero = unpack_zero(type) - dot_zero(max);
    float s[2][KERN_PANEL_ROWS], m[2][KERN_PANEL_ROWS];
    w16 part[KERN_PANEL_ROWS], sum[2];
    PANEL_UNROLL
    for (uint32_t i = 0; i < KERN_PANEL_ROWS; i++) {
        const uint8_t *a = w->row[i] + (size_t)b0 * bytes, *b = a + (n_blocks - 1) * bytes;
        prefetch_stream(w->next[i] + (size_t)b0 * bytes, 1);
        direct_scale(type, a, &s[0][i], &m[0][i]);
        direct_scale(type, b, &s[1][i], &m[1][i]);
        part[i] = w16_dot_bytes(direct_columns(type, a, b), q, max);
    }
    w16_sum_halves(part, &sum[0], &sum[1]);
    for (uint32_t h = 0; h < n_blocks; h++) {
        if (zero)
            sum[h] = w16_add(sum[h], w16_set1(sum_start(x, 0, b0 + h, zero)));
        acc = v16_fma(v16_mul(v16_load(s[h]), v16_set1(x->d[b0 + h])), v16_from_w16(sum[h]), acc);
        if (unpack_has_min(type))
            acc = v16_fma(v16_load(m[h]), v16_set1(x->xs[b0 + h]), acc);
    }
    return acc;
}

KERN_INLINE void direct_rows(enum kern_type type, const struct kern_matrix *w, const uint32_t *rows,
                             uint32_t n, const struct tokens *x, float *y)
{
    uint32_t pairs_end = w->n_cols / 64 * 64;
    for (uint32_t r = 0; r < n; r += KERN_PANEL_ROWS) {
        struct piece_rows some;
        v16 acc = v16_set1(0.0f);
        listed_rows(&some, w, rows + r, n - r, 1);
        for (uint32_t c = 0; c < pairs_end; c += 64)
            acc = direct_blocks(type, &some, x, x->q + c, c, 2, acc);
        if (pairs_end < w->n_cols) {
            int8_t q[64] = { 0 };
            memcpy(q, x->q + pairs_end, KERN_BLOCK);
            acc = direct_blocks(type, &some, x, q, pairs_end, 1, acc);
        }
        rows_store(y + r, acc, rows_of_last(n - r, panels_together(n - r, 1)));
    }
}

/* As a panel of a piece: unpacked side by side. */
KERN_INLINE void piece_rows(enum kern_type type, const struct kern_matrix *w, const uint32_t *rows,
                            uint32_t n, const struct kern_act *act, size_t t, float *y)
{
    struct piece piece;
    piece.n_ahead = 0;
    for (uint32_t r = 0, n_p; r < n; r += n_p * KERN_PANEL_ROWS) {
        n_p = panels_together(n - r, PANEL_TILE_PANELS);
        for (piece.col = 0; piece.col < w->n_cols; piece.col += piece.n_cols) {
            piece.n_cols = piece_cols(w->n_cols - piece.col);
            for (uint32_t i = 0; i < n_p; i++) {
                struct piece_rows some;
                uint32_t from = r + i * KERN_PANEL_ROWS;
                listed_rows(&some, w, rows + from, n - from, n_p);
                fill_from_rows(type, &piece.panel[i], &some, piece.col, piece.n_cols);
            }
            piece_product(&piece, type, act, t, t + 1, n_p, y + r, 0, rows_of_last(n - r, n_p));
        }
    }
}

KERN_INLINE void some_rows(enum kern_type type, const struct kern_matrix *w, const uint32_t *rows,
                           uint32_t n, const struct kern_act *act, size_t t, float *y)
{
    struct tokens x = tokens_at(act, unpack_group(type), t, 0);
    if (is_direct(type))
        direct_rows(type, w, rows, n, &x, y);
    else
        piece_rows(type, w, rows, n, act, t, y);
}

#endif
