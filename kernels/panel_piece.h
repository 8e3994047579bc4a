/* SPDX-License-Identifier: Apache-2.0
 *
 * panel_piece.h - quantised weights, unpacked for products with many tokens, written once in the vocabulary
 * of v16_*.h.
 *
 * A vector holds the same columns of 16 rows, so that each row's sum stays in its lane: the canonical
 * order's single accumulator per output.  Pieces of adjacent panels are unpacked once into the first-level
 * cache,
 *        u [n_cols / 4][16 rows][4]   what the dot products want
 *        s [n_groups][16], m [n_groups][16]
 * and multiplied with all tokens there.
 *
 * A variant defines before it includes this file
 *     PANEL_TILE_PANELS   the panels of a piece
 *     DOT_MOST_U          the largest u that it multiplies with exact sums; with 255 weights without minima lie in
 *                         pieces as w + 128 (kern_act.start32)
 */
#ifndef LACUNA_KERNELS_PANEL_PIECE_H
#define LACUNA_KERNELS_PANEL_PIECE_H

#include "kernels/packed.h"
#include "kernels/unpack.h"

enum {
    PANEL_COLS = 768, /* of a piece: two panels of it leave room for activations in 48 KiB */
    PANEL_GROUPS = PANEL_COLS / 16,
    PANEL_AHEAD = 2048, /* bytes of prefetching */
};

/* What is added to u in a piece. */
KERN_INLINE uint8_t piece_lift(enum kern_type type)
{
    return DOT_MOST_U == 255 && !unpack_has_min(type) ? (uint8_t)(128 - unpack_zero(type)) : 0;
}

/* What u stands for in a piece: u - zero. */
KERN_INLINE int piece_zero(enum kern_type type)
{
    return unpack_zero(type) + piece_lift(type);
}

/* 256 columns of 16 rows, [16][256], to [64][16][4]. */
static inline void panel_transpose(const uint8_t (*rows)[UNPACK_VALUES], uint8_t lift, uint8_t *u)
{
    for (size_t c = 0; c < UNPACK_VALUES; c += 64) {
        w16 v[KERN_PANEL_ROWS];
        for (size_t i = 0; i < KERN_PANEL_ROWS; i++)
            v[i] = w16_load(rows[i] + c);
        w16_transpose(v);
        for (size_t i = 0; i < KERN_PANEL_ROWS; i++)
            w16_store(u + KERN_PANEL_ROWS * c + 64 * i, w16_add_bytes(v[i], lift));
    }
}

/* ---- a packed block ---- */

/* Bits [from, from + n) of each byte, at bit `to`. */
KERN_INLINE w16 plane_bits(w16 v, uint32_t from, uint32_t to, uint32_t n)
{
    if (from > to)
        v = w16_shift_right(v, from - to);
    else if (from < to)
        v = w16_shift_left(v, to - from);
    return w16_and_bytes(v, (uint8_t)(((1u << n) - 1) << to));
}

/* Columns 4k .. 4k + 3 of a plane of n bits, at bit `to`. */
KERN_INLINE w16 plane_columns(const uint8_t *plane, uint32_t n, uint32_t k, uint32_t to)
{
    switch (n) {
    case 8:
        return w16_load(plane + (size_t)64 * k);
    case 4:
        return plane_bits(w16_load(plane + (size_t)64 * (k % 4)), k / 4 * 4, to, 4);
    case 2:
        return plane_bits(w16_load(plane + (size_t)64 * (k / 4)), k % 4 * 2, to, 2);
    default:
        return plane_bits(w16_load(plane), k, to, 1);
    }
}

/* Columns 4k .. 4k + 3 of a block. */
KERN_INLINE w16 packed_columns(enum kern_type type, const uint8_t *codes, uint32_t k)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    w16 u = plane_columns(codes, low, k, 0);
    if (high)
        u = w16_or(u, plane_columns(codes + (size_t)64 * low, high, k, low));
    if (unpack_table_of(type))
        u = w16_look_up(w16_load_table(unpack_table_of(type)), u);
    return u;
}

/* Number v of n six-bit ones. */
KERN_INLINE w16 packed_six(const uint8_t *p, uint32_t n, uint32_t v)
{
    w16 low = w16_shift_right(w16_load_u8(p + (size_t)KERN_PANEL_ROWS * (v / 2)), 4 * (v % 2));
    w16 top = w16_shift_right(w16_load_u8(p + (size_t)8 * n + (size_t)KERN_PANEL_ROWS * (v / 4)),
                              2 * (v % 4));
    return w16_or(w16_and_dwords(low, 15), w16_shift_left(w16_and_dwords(top, 3), 4));
}

/* See unpack_e8m0_half. */
KERN_INLINE v16 packed_e8m0_half(const uint8_t *p)
{
    w16 e = w16_load_u8(p);
    w16 normal = w16_shift_left(w16_add(e, w16_set1(-1)), 23);
    w16 tiny = w16_shift_left(w16_add(w16_min(e, w16_set1(1)), w16_set1(1)), 21);
    return v16_from_bits(w16_max(normal, tiny));
}

KERN_INLINE v16 packed_d(const uint8_t *head)
{
    return v16_load_f16((const uint16_t *)(const void *)head);
}

/* Scales and minima of group g of a chunk, as unpack() makes them. */
KERN_INLINE void packed_group(enum kern_type type, const uint8_t *head, uint32_t g, v16 *s, v16 *m)
{
    const uint8_t *numbers = head + PACKED_D, *pairs = head + 2 * PACKED_D;
    switch (type) {
    case KERN_TYPE_MXFP4:
        *s = packed_e8m0_half(head);
        break;
    case KERN_TYPE_Q4_1:
    case KERN_TYPE_Q5_1:
        *s = packed_d(head);
        *m = packed_d(numbers);
        break;
    case KERN_TYPE_Q8_K:
        *s = v16_load((const float *)(const void *)head);
        break;
    case KERN_TYPE_Q6_K:
        *s = v16_mul(packed_d(head),
                     v16_from_w16(w16_load_s8(numbers + (size_t)KERN_PANEL_ROWS * g)));
        break;
    case KERN_TYPE_Q2_K: {
        w16 pair = w16_load_u8(pairs + (size_t)KERN_PANEL_ROWS * g);
        *s = v16_mul(packed_d(head), v16_from_w16(w16_and_dwords(pair, 15)));
        *m = v16_mul(v16_neg(packed_d(numbers)), v16_from_w16(w16_shift_right(pair, 4)));
        break;
    }
    case KERN_TYPE_Q3_K:
    case KERN_TYPE_IQ4_XS:
        *s = v16_mul(
            packed_d(head),
            v16_from_w16(w16_add(packed_six(numbers, packed_n_six(type), g), w16_set1(-32))));
        break;
    case KERN_TYPE_Q4_K:
    case KERN_TYPE_Q5_K:
        *s = v16_mul(packed_d(head), v16_from_w16(packed_six(pairs, 16, g)));
        *m = v16_mul(v16_neg(packed_d(numbers)), v16_from_w16(packed_six(pairs, 16, 8 + g)));
        break;
    default:
        *s = packed_d(head);
    }
}

/* ---- a packed column ---- */

/* Bits of 64 rows in a column, the first or the second of its 128, a byte each, at bit `to`. */
KERN_INLINE w16 column_plane(const uint8_t *plane, uint32_t n, uint32_t half, uint32_t to)
{
    static const uint32_t twos[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2 };
    static const uint32_t ones[16] = { 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3 };
    switch (n) {
    case 8:
        return w16_load(plane + (size_t)64 * half);
    case 4:
        return plane_bits(w16_load(plane), 4 * half, to, 4);
    case 2:
        return plane_bits(w16_shift_right_each(w16_load_twice(plane), w16_load(twos)), 4 * half, to,
                          2);
    default:
        return plane_bits(w16_shift_right_each(w16_load_table(plane), w16_load(ones)), 4 * half, to,
                          1);
    }
}

KERN_INLINE w16 packed_column(enum kern_type type, const uint8_t *codes, uint32_t half)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    w16 u = column_plane(codes, low, half, 0);
    if (high)
        u = w16_or(u, column_plane(codes + KERN_COLUMN_ROWS / 8 * low, high, half, low));
    if (unpack_table_of(type))
        u = w16_look_up(w16_load_table(unpack_table_of(type)), u);
    return u;
}

/* ---- activations ---- */

/* Those of adjacent tokens, from some column on. */
struct tokens {
    const int8_t *q;
    const float *d, *xs;
    const int32_t *start;
    size_t q_step, d_step, group_step; /* from one token to the next */
};

KERN_INLINE struct tokens tokens_at(const struct kern_act *act, uint32_t group, size_t t,
                                    size_t col)
{
    size_t k = act->n_cols;
    const float *xs = group == 32 ? act->xs32 : act->xs16;
    const int32_t *start = group == 32 ? act->start32 : act->start16;
    return (struct tokens){ .q = act->q + t * k + col,
                            .d = act->d + (t * k + col) / KERN_BLOCK,
                            .start = start + (t * k + col) / group,
                            .xs = xs + (t * k + col) / group,
                            .q_step = k,
                            .d_step = k / KERN_BLOCK,
                            .group_step = k / group };
}

KERN_INLINE v16 rows_load(const float *y, uint32_t n_rows)
{
    return n_rows == KERN_PANEL_ROWS ? v16_load(y) : v16_load_part(y, n_rows);
}

KERN_INLINE void rows_store(float *y, v16 v, uint32_t n_rows)
{
    if (n_rows == KERN_PANEL_ROWS)
        v16_store(y, v);
    else
        v16_store_part(y, v, n_rows);
}

/* How many of n_left tokens are the next tile of at most `most`: 7 are 4 and 3, not 6 and 1. */
static inline uint32_t tile_size(size_t n_left, uint32_t most)
{
    size_t n_tiles = (n_left + most - 1) / most;
    return (uint32_t)((n_left + n_tiles - 1) / n_tiles);
}

/* Panels of the next tile of at most `most`, where n_left rows are left. */
static inline uint32_t panels_together(uint32_t n_left, uint32_t most)
{
    uint32_t n = (n_left + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS;
    return n < most ? n : most;
}

/* Rows of the last of n panels. */
static inline uint32_t rows_of_last(uint32_t n_left, uint32_t n)
{
    uint32_t left = n_left - (n - 1) * KERN_PANEL_ROWS;
    return left < KERN_PANEL_ROWS ? left : KERN_PANEL_ROWS;
}

/* ---- filling a piece ---- */

struct panel {
    uint8_t u[PANEL_COLS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float s[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float m[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
};

/* Adjacent panels, of which n_cols columns from col on are unpacked. */
struct piece {
    struct panel panel[PANEL_TILE_PANELS];
    uint32_t col, n_cols;
    /* Codes of the next piece, by panel: asked for while this one is multiplied, or memory would stand
     * still meanwhile, and filling wait for it. */
    const uint8_t *ahead[PANEL_TILE_PANELS];
    uint32_t n_ahead; /* lines of each */
};

/* Any 16 rows of a matrix in rows, and those that come after them. */
struct piece_rows {
    const uint8_t *row[KERN_PANEL_ROWS], *next[KERN_PANEL_ROWS];
};

KERN_INLINE void fill_from_rows(enum kern_type type, struct panel *p, const struct piece_rows *w,
                                uint32_t col, uint32_t n_cols)
{
    uint8_t rows[KERN_PANEL_ROWS][UNPACK_VALUES] __attribute__((aligned(64)));
    const struct kern_type_info *info = kern_type_info(type);
    for (uint32_t c = 0; c < n_cols; c += UNPACK_VALUES) {
        uint32_t n = n_cols - c < UNPACK_VALUES ? n_cols - c : UNPACK_VALUES;
        size_t group = c / unpack_group(type);
        for (size_t i = 0; i < KERN_PANEL_ROWS; i++) {
            size_t at = (size_t)((col + c) / info->block_values) * info->block_bytes;
            struct unpacked out = { .u = rows[i],
                                    .s = p->s + group * KERN_PANEL_ROWS + i,
                                    .m = p->m + group * KERN_PANEL_ROWS + i,
                                    .stride = KERN_PANEL_ROWS };
            /* Sixteen rows are sixteen short streams, which the processor's own prefetching does not
             * follow. */
            prefetch_stream(w->next[i] + at, n / info->block_values * (size_t)info->block_bytes);
            unpack(type, w->row[i] + at, n, &out);
        }
        panel_transpose((const uint8_t(*)[UNPACK_VALUES])rows, piece_lift(type),
                        p->u + (size_t)c * KERN_PANEL_ROWS);
    }
}

/* Adjacent rows; the last one stands for those beyond it. */
static inline void adjacent_rows(struct piece_rows *p, const struct kern_matrix *w, size_t row0)
{
    for (size_t i = 0; i < KERN_PANEL_ROWS; i++) {
        size_t r = row0 + i < w->n_rows ? row0 + i : w->n_rows - 1;
        p->row[i] = (const uint8_t *)w->data + r * w->row_bytes;
        p->next[i] = p->row[i] + KERN_PANEL_ROWS * w->row_bytes;
    }
}

/* Scales and minima of block b of a matrix, the i-th of the piece; head: of its chunk and panel. */
KERN_INLINE void fill_groups(enum kern_type type, struct panel *p, const uint8_t *head, uint32_t b,
                             uint32_t i)
{
    uint32_t per_block = KERN_BLOCK / unpack_group(type);
    for (uint32_t h = 0; h < per_block; h++) {
        size_t at = (size_t)(i * per_block + h) * KERN_PANEL_ROWS;
        v16 s, m = v16_set1(0.0f);
        packed_group(type, head, b % packed_chunk_blocks(type) * per_block + h, &s, &m);
        v16_store(p->s + at, s);
        if (unpack_has_min(type))
            v16_store(p->m + at, m);
    }
}

/* Four columns from `codes` on, which lie `step` apart, of panel `panel` of their tile. */
KERN_INLINE w16 columns_of_panel(enum kern_type type, const uint8_t *codes, size_t step,
                                 uint32_t panel)
{
    w16 u[4];
    for (uint32_t j = 0; j < 4; j++)
        u[j] = packed_column(type, codes + j * step, panel / 4);
    switch (panel % 4) {
    case 0:
        return w16_quads(u[0], u[1], u[2], u[3], 0);
    case 1:
        return w16_quads(u[0], u[1], u[2], u[3], 1);
    case 2:
        return w16_quads(u[0], u[1], u[2], u[3], 2);
    default:
        return w16_quads(u[0], u[1], u[2], u[3], 3);
    }
}

KERN_INLINE void fill_from_columns(enum kern_type type, struct panel *p,
                                   const struct kern_matrix *w, size_t row0, uint32_t col,
                                   uint32_t n_cols)
{
    uint32_t chunk = packed_chunk_blocks(type), panel = (uint32_t)(row0 / KERN_PANEL_ROWS);
    const uint8_t *data = w->data,
                  *tile = data + row0 / KERN_COLUMN_ROWS * packed_column_bytes(type);
    const uint8_t *head = data + (size_t)panel * packed_head_bytes(type);
    for (uint32_t i = 0; i < n_cols / KERN_BLOCK; i++) {
        uint32_t b = col / KERN_BLOCK + i;
        const uint8_t *codes = tile + packed_column_at(type, w->n_rows, b * KERN_BLOCK);
        size_t step = packed_column_step(type, w->n_rows);
        for (size_t k = 0; k < KERN_BLOCK / 4; k++)
            w16_store(p->u + (8 * i + k) * 64,
                      w16_add_bytes(
                          columns_of_panel(type, codes + 4 * k * step, step, panel % COLUMN_PANELS),
                          piece_lift(type)));
        fill_groups(type, p, head + b / chunk * packed_chunk_bytes(type, w->n_rows), b, i);
    }
}

KERN_INLINE void fill_from_packed(enum kern_type type, struct panel *p, const struct kern_matrix *w,
                                  size_t row0, uint32_t col, uint32_t n_cols)
{
    uint32_t chunk = packed_chunk_blocks(type), code_bytes = packed_code_bytes(type);
    const uint8_t *panel = (const uint8_t *)w->data +
                           row0 / KERN_PANEL_ROWS * packed_panel_bytes(type, w->n_cols);
    const uint8_t *codes = panel + packed_codes_at(type, w->n_cols);
    for (uint32_t i = 0; i < n_cols / KERN_BLOCK; i++) {
        uint32_t b = col / KERN_BLOCK + i;
        prefetch_stream(codes + (size_t)b * code_bytes + PANEL_AHEAD, code_bytes);
        for (uint32_t k = 0; k < 8; k++)
            w16_store(p->u + ((size_t)8 * i + k) * 64,
                      w16_add_bytes(packed_columns(type, codes + (size_t)b * code_bytes, k),
                                    piece_lift(type)));
        fill_groups(type, p, panel + (size_t)(b / chunk) * packed_head_bytes(type), b, i);
    }
}

/* Columns of the next piece, of all that are left: pieces of about the same size, whole super-blocks. */
static inline uint32_t piece_cols(uint32_t n_left)
{
    uint32_t n_pieces = (n_left + PANEL_COLS - 1) / PANEL_COLS;
    uint32_t n = ((n_left + n_pieces - 1) / n_pieces + UNPACK_VALUES - 1) / UNPACK_VALUES *
                 UNPACK_VALUES;
    return n < n_left ? n : n_left;
}

/* Asks for the heads of what comes after the piece, and plans its codes: the next columns, or the first
 * ones of the next panels before row1. */
KERN_INLINE void look_ahead(enum kern_type type, struct piece *piece, const struct kern_matrix *w,
                            uint32_t r, uint32_t row1, uint32_t n_p)
{
    uint32_t col = piece->col + piece->n_cols;
    if (col == w->n_cols) {
        col = 0;
        r += n_p * KERN_PANEL_ROWS;
    }
    piece->n_ahead = 0;
    if (w->layout != KERN_LAYOUT_PANELS || r + (n_p - 1) * KERN_PANEL_ROWS >= row1)
        return;
    uint32_t n_cols = piece_cols(w->n_cols - col), chunk = unpack_block(type);
    size_t panel_bytes = packed_panel_bytes(type, w->n_cols);
    const uint8_t *panel = (const uint8_t *)w->data + r / KERN_PANEL_ROWS * panel_bytes;
    const uint8_t *heads = panel + (size_t)(col / chunk) * packed_head_bytes(type);
    const uint8_t *codes = panel + packed_codes_at(type, w->n_cols) +
                           (size_t)(col / KERN_BLOCK) * packed_code_bytes(type);
    for (uint32_t i = 0; i < n_p; i++) {
        prefetch_stream(heads + i * panel_bytes,
                        (size_t)(n_cols / chunk) * packed_head_bytes(type));
        piece->ahead[i] = codes + i * panel_bytes;
    }
    piece->n_ahead = n_cols / KERN_BLOCK * packed_code_bytes(type) / 64;
}

/* Asks for the next lines of each panel. */
KERN_INLINE void prefetch_ahead(struct piece *piece, uint32_t n_p)
{
    enum { LINES = 2 };
    if (piece->n_ahead < LINES)
        return;
    piece->n_ahead -= LINES;
    for (uint32_t i = 0; i < n_p; i++) {
        prefetch_stream(piece->ahead[i], 64 * LINES);
        piece->ahead[i] += 64 * LINES;
    }
}

/* The next piece of w, from piece->col on, of n_p panels from row r on. */
KERN_INLINE void fill_piece(enum kern_type type, struct piece *piece, const struct kern_matrix *w,
                            uint32_t r, uint32_t n_p)
{
    struct piece_rows rows;
    piece->n_cols = piece_cols(w->n_cols - piece->col);
    for (uint32_t i = 0; i < n_p; i++) {
        uint32_t row0 = r + i * KERN_PANEL_ROWS;
        switch (w->layout) {
        case KERN_LAYOUT_PANELS:
            fill_from_packed(type, &piece->panel[i], w, row0, piece->col, piece->n_cols);
            break;
        case KERN_LAYOUT_COLUMNS:
            fill_from_columns(type, &piece->panel[i], w, row0, piece->col, piece->n_cols);
            break;
        default:
            adjacent_rows(&rows, w, row0);
            fill_from_rows(type, &piece->panel[i], &rows, piece->col, piece->n_cols);
        }
    }
}

#endif
