/* SPDX-License-Identifier: Apache-2.0
 *
 * panel.h - products with quantised weights, written once in the vocabulary of v16_*.h.
 *
 * A vector holds the same columns of 16 rows, so that each row's sum stays in its lane: the canonical
 * order's single accumulator per output.  Two ways to the same bits:
 *  - few tokens: a packed panel (packed.h) is multiplied as it streams by, bound by memory;
 *  - many: pieces of it are unpacked once into the first-level cache,
 *        u [n_cols / 4][16 rows][4]   what the dot products want
 *        s [n_groups][16], m [n_groups][16]
 *    and multiplied with all tokens there, several panels and tokens at a time so that what is loaded
 *    is used several times; between the pieces the accumulators wait in y.
 * A matrix in rows goes the second way, however few the tokens are.
 *
 * A variant defines before it includes this file
 *     PANEL_FEW_PANELS, PANEL_FEW_TOKENS     of a tile of the first way
 *     PANEL_TILE_PANELS, PANEL_TILE_TOKENS   of a tile of the second
 * and panel_transpose() anywhere.
 */
#ifndef LACUNA_KERNELS_PANEL_H
#define LACUNA_KERNELS_PANEL_H

#include "kernels/packed.h"
#include "kernels/unpack.h"

#define PANEL_INLINE static inline __attribute__((always_inline))

enum {
    PANEL_COLS = 768, /* of a piece: two panels of it leave room for activations in 48 KiB */
    PANEL_GROUPS = PANEL_COLS / 16,
    PANEL_AHEAD = 2048, /* bytes of prefetching */
};

_Static_assert(PANEL_TILE_TOKENS <= 6 && PANEL_TILE_PANELS <= 2, "see product_tokens");
_Static_assert(PANEL_FEW_TOKENS == 4 || PANEL_FEW_TOKENS == 6, "see few_tokens");
_Static_assert(PANEL_FEW_PANELS <= 2, "see few_tokens");

/* 256 columns of 16 rows, [16][256], to [64][16][4]. */
static void panel_transpose(const uint8_t (*rows)[UNPACK_VALUES], uint8_t *u);

/* ---- a packed block ---- */

/* Bits [from, from + n) of each byte, at bit `to`. */
PANEL_INLINE w16 plane_bits(w16 v, uint32_t from, uint32_t to, uint32_t n)
{
    if (from > to)
        v = w16_shift_right(v, from - to);
    else if (from < to)
        v = w16_shift_left(v, to - from);
    return w16_and_bytes(v, (uint8_t)(((1u << n) - 1) << to));
}

/* Columns 4k .. 4k + 3 of a plane of n bits, at bit `to`. */
PANEL_INLINE w16 plane_columns(const uint8_t *plane, uint32_t n, uint32_t k, uint32_t to)
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
PANEL_INLINE w16 packed_columns(enum kern_type type, const uint8_t *codes, uint32_t k)
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
PANEL_INLINE w16 packed_six(const uint8_t *p, uint32_t n, uint32_t v)
{
    w16 low = w16_shift_right(w16_load_u8(p + (size_t)KERN_PANEL_ROWS * (v / 2)), 4 * (v % 2));
    w16 top = w16_shift_right(w16_load_u8(p + (size_t)8 * n + (size_t)KERN_PANEL_ROWS * (v / 4)),
                              2 * (v % 4));
    return w16_or(w16_and_dwords(low, 15), w16_shift_left(w16_and_dwords(top, 3), 4));
}

/* See unpack_e8m0_half. */
PANEL_INLINE v16 packed_e8m0_half(const uint8_t *p)
{
    w16 e = w16_load_u8(p);
    w16 normal = w16_shift_left(w16_add(e, w16_set1(-1)), 23);
    w16 tiny = w16_shift_left(w16_add(w16_min(e, w16_set1(1)), w16_set1(1)), 21);
    return v16_from_bits(w16_max(normal, tiny));
}

PANEL_INLINE v16 packed_d(const uint8_t *head)
{
    return v16_load_f16((const uint16_t *)(const void *)head);
}

/* Scales and minima of group g of a chunk, as unpack() makes them. */
PANEL_INLINE void packed_group(enum kern_type type, const uint8_t *head, uint32_t g, v16 *s, v16 *m)
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

/* ---- activations ---- */

/* Those of adjacent tokens, from some column on. */
struct tokens {
    const int8_t *q;
    const float *d, *xs;
    const int32_t *sum;
    size_t q_step, d_step, group_step; /* from one token to the next */
};

PANEL_INLINE struct tokens tokens_at(const struct kern_act *act, uint32_t group, size_t t,
                                     size_t col)
{
    size_t k = act->n_cols;
    const float *xs = group == 32 ? act->xs32 : act->xs16;
    const int32_t *sum = group == 32 ? act->sum32 : act->sum16;
    return (struct tokens){ .q = act->q + t * k + col,
                            .d = act->d + (t * k + col) / KERN_BLOCK,
                            .sum = sum + (t * k + col) / group,
                            .xs = xs + (t * k + col) / group,
                            .q_step = k,
                            .d_step = k / KERN_BLOCK,
                            .group_step = k / group };
}

PANEL_INLINE v16 rows_load(const float *y, uint32_t n_rows)
{
    return n_rows == KERN_PANEL_ROWS ? v16_load(y) : v16_load_part(y, n_rows);
}

PANEL_INLINE void rows_store(float *y, v16 v, uint32_t n_rows)
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

/* Asking beyond the matrix does no harm. */
static inline void prefetch_bytes(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}

/* ---- few tokens ---- */

/* Tokens of a tile: six where unpacking takes no registers. */
static inline uint32_t few_tile_tokens(enum kern_type type)
{
    return packed_bits(type) == 8 ? PANEL_FEW_TOKENS : 4;
}

/* Up to how many tokens this way is the faster one, as measured: what is unpacked for each tile has to
 * be little. */
static inline uint32_t few_max(enum kern_type type)
{
    if (PANEL_FEW_PANELS == 1 || packed_chunk_blocks(type) > 1)
        return 4;
    return packed_bits(type) == 8 ? 24 : 12;
}

/* Panels side by side, from their first bytes on. */
struct streams {
    const uint8_t *panel;
    size_t panel_bytes, codes_at;
};

/* Group g of the columns, for n_p panels and n_t tokens: exact integer sums, then the canonical fma's. */
PANEL_INLINE void few_group(enum kern_type type, const struct streams *w, const struct tokens *x,
                            uint32_t g, uint32_t n_p, uint32_t n_t, v16 (*acc)[PANEL_FEW_TOKENS])
{
    uint32_t group = unpack_group(type), per_block = KERN_BLOCK / group, block = g / per_block;
    uint32_t chunk = packed_chunk_blocks(type);
    bool has_min = unpack_has_min(type);
    const uint8_t *head = w->panel + (size_t)(block / chunk) * packed_head_bytes(type);
    const uint8_t *codes = w->panel + w->codes_at + (size_t)block * packed_code_bytes(type);
    w16 sum[PANEL_FEW_PANELS][PANEL_FEW_TOKENS];
    v16 s[PANEL_FEW_PANELS], m[PANEL_FEW_PANELS];
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            sum[i][t] = unpack_zero(type)
                            ? w16_set1(-unpack_zero(type) * x->sum[t * x->group_step + g])
                            : w16_zero();
    for (uint32_t k = 0; k < group / 4; k++) {
        w16 u[PANEL_FEW_PANELS];
        for (uint32_t i = 0; i < n_p; i++)
            u[i] = packed_columns(type, codes + i * w->panel_bytes, g % per_block * group / 4 + k);
        for (uint32_t t = 0; t < n_t; t++)
            for (uint32_t i = 0; i < n_p; i++)
                sum[i][t] = w16_dot(sum[i][t], u[i],
                                    x->q + t * x->q_step + (size_t)g * group + 4 * k,
                                    unpack_max(type) > 127);
    }
    for (uint32_t i = 0; i < n_p; i++)
        packed_group(type, head + i * w->panel_bytes, g % (chunk * per_block), &s[i], &m[i]);
    for (uint32_t t = 0; t < n_t; t++) {
        v16 d = v16_set1(x->d[t * x->d_step + block]);
        for (uint32_t i = 0; i < n_p; i++)
            acc[i][t] = v16_fma(v16_mul(s[i], d), v16_from_w16(sum[i][t]), acc[i][t]);
        for (uint32_t i = 0; i < n_p && has_min; i++)
            acc[i][t] = v16_fma(m[i], v16_set1(x->xs[t * x->group_step + g]), acc[i][t]);
    }
}

/* n_p panels, the last of which has n_rows rows, times n_t tokens from t0 on; both are constants after
 * inlining. */
PANEL_INLINE void few_tile(enum kern_type type, const struct streams *w, uint32_t n_cols,
                           const struct kern_act *act, size_t t0, uint32_t n_p, uint32_t n_t,
                           float *y, size_t ldy, uint32_t n_rows)
{
    uint32_t group = unpack_group(type), per_block = KERN_BLOCK / group;
    struct tokens x = tokens_at(act, group, t0, 0);
    v16 acc[PANEL_FEW_PANELS][PANEL_FEW_TOKENS];
    for (uint32_t i = 0; i < n_p; i++)
        for (uint32_t t = 0; t < n_t; t++)
            acc[i][t] = v16_set1(0.0f);
    for (uint32_t b = 0; b < n_cols / KERN_BLOCK; b++) {
        const uint8_t *codes = w->panel + w->codes_at + (size_t)b * packed_code_bytes(type);
        for (uint32_t i = 0; i < n_p; i++)
            prefetch_bytes(codes + i * w->panel_bytes + PANEL_AHEAD, packed_code_bytes(type));
        for (uint32_t h = 0; h < per_block; h++)
            few_group(type, w, &x, b * per_block + h, n_p, n_t, acc);
    }
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            rows_store(y + t * ldy + (size_t)i * KERN_PANEL_ROWS, acc[i][t],
                       i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
}

/* A lone panel at the end is multiplied token by token: fewer instances, and it is seldom. */
PANEL_INLINE void few_tokens(enum kern_type type, const struct streams *w, uint32_t n_cols,
                             const struct kern_act *act, size_t t, uint32_t n_p, uint32_t n_t,
                             float *y, size_t ldy, uint32_t n_rows)
{
    if (n_p < PANEL_FEW_PANELS)
        for (uint32_t i = 0; i < n_t; i++)
            few_tile(type, w, n_cols, act, t + i, 1, 1, y + i * ldy, ldy, n_rows);
    else if (n_t == 1)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 1, y, ldy, n_rows);
    else if (n_t == 2)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 2, y, ldy, n_rows);
    else if (n_t == 3)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 3, y, ldy, n_rows);
    else if (n_t == 4)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 4, y, ldy, n_rows);
    else if (PANEL_FEW_TOKENS > 4 && few_tile_tokens(type) > 4 && n_t == 5)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 5, y, ldy, n_rows);
    else if (PANEL_FEW_TOKENS > 4 && few_tile_tokens(type) > 4)
        few_tile(type, w, n_cols, act, t, PANEL_FEW_PANELS, 6, y, ldy, n_rows);
}

PANEL_INLINE void few_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                           uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                           float *y, size_t ldy)
{
    struct streams in = { .panel_bytes = packed_panel_bytes(type, w->n_cols),
                          .codes_at = packed_codes_at(type, w->n_cols) };
    in.panel = (const uint8_t *)w->data + row0 / KERN_PANEL_ROWS * in.panel_bytes;
    for (uint32_t r = row0, n_p; r < row1; r += n_p * KERN_PANEL_ROWS) {
        n_p = panels_together(row1 - r, PANEL_FEW_PANELS);
        uint32_t n_rows = rows_of_last(row1 - r, n_p);
        for (size_t t = t0; t < t1;) {
            uint32_t n_t = tile_size(t1 - t, few_tile_tokens(type));
            few_tokens(type, &in, w->n_cols, act, t, n_p, n_t, y + (t - t0) * ldy + (r - row0), ldy,
                       n_rows);
            t += n_t;
        }
        in.panel += n_p * in.panel_bytes;
    }
}

/* ---- many tokens: filling a piece ---- */

struct panel {
    uint8_t u[PANEL_COLS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float s[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float m[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
};

/* Adjacent panels, of which n_cols columns from col on are unpacked. */
struct piece {
    struct panel panel[PANEL_TILE_PANELS];
    uint32_t col, n_cols;
};

/* The 16 rows from row0 of a matrix in rows; rows beyond the last repeat it. */
PANEL_INLINE void fill_from_rows(enum kern_type type, struct panel *p, const struct kern_matrix *w,
                                 size_t row0, uint32_t col, uint32_t n_cols)
{
    uint8_t rows[KERN_PANEL_ROWS][UNPACK_VALUES] __attribute__((aligned(64)));
    const struct kern_type_info *info = kern_type_info(type);
    for (uint32_t c = 0; c < n_cols; c += UNPACK_VALUES) {
        uint32_t n = n_cols - c < UNPACK_VALUES ? n_cols - c : UNPACK_VALUES;
        size_t group = c / unpack_group(type);
        for (size_t i = 0; i < KERN_PANEL_ROWS; i++) {
            size_t r = row0 + i < w->n_rows ? row0 + i : w->n_rows - 1;
            const uint8_t *src = (const uint8_t *)w->data + r * w->row_bytes +
                                 (size_t)((col + c) / info->block_values) * info->block_bytes;
            struct unpacked out = { .u = rows[i],
                                    .s = p->s + group * KERN_PANEL_ROWS + i,
                                    .m = p->m + group * KERN_PANEL_ROWS + i,
                                    .stride = KERN_PANEL_ROWS };
            /* Sixteen rows are sixteen short streams, which the processor's own prefetching does not
             * follow: ask for the same piece of the next panel. */
            prefetch_bytes(src + KERN_PANEL_ROWS * w->row_bytes,
                           n / info->block_values * (size_t)info->block_bytes);
            unpack(type, src, n, &out);
        }
        panel_transpose((const uint8_t(*)[UNPACK_VALUES])rows, p->u + (size_t)c * KERN_PANEL_ROWS);
    }
}

PANEL_INLINE void fill_from_packed(enum kern_type type, struct panel *p,
                                   const struct kern_matrix *w, size_t row0, uint32_t col,
                                   uint32_t n_cols)
{
    uint32_t group = unpack_group(type), per_block = KERN_BLOCK / group;
    uint32_t chunk = packed_chunk_blocks(type), code_bytes = packed_code_bytes(type);
    const uint8_t *panel = (const uint8_t *)w->data +
                           row0 / KERN_PANEL_ROWS * packed_panel_bytes(type, w->n_cols);
    const uint8_t *codes = panel + packed_codes_at(type, w->n_cols);
    for (uint32_t i = 0; i < n_cols / KERN_BLOCK; i++) {
        uint32_t b = col / KERN_BLOCK + i;
        const uint8_t *head = panel + (size_t)(b / chunk) * packed_head_bytes(type);
        prefetch_bytes(codes + (size_t)b * code_bytes + PANEL_AHEAD, code_bytes);
        for (uint32_t k = 0; k < 8; k++)
            w16_store(p->u + ((size_t)8 * i + k) * 64,
                      packed_columns(type, codes + (size_t)b * code_bytes, k));
        for (uint32_t h = 0; h < per_block; h++) {
            size_t at = (size_t)(i * per_block + h) * KERN_PANEL_ROWS;
            v16 s, m = v16_set1(0.0f);
            packed_group(type, head, b % chunk * per_block + h, &s, &m);
            v16_store(p->s + at, s);
            if (unpack_has_min(type))
                v16_store(p->m + at, m);
        }
    }
}

/* ---- many tokens: multiplying it ---- */

PANEL_INLINE void tile_tokens(const struct piece *p, const struct kern_act *act, uint32_t group,
                              int zero, bool has_min, bool is_wide, size_t t0, uint32_t n_p,
                              uint32_t n_t, float *y, size_t ldy, uint32_t n_rows)
{
    struct tokens x = tokens_at(act, group, t0, p->col);
    uint32_t n_groups = p->n_cols / group;
    int32_t start[PANEL_TILE_TOKENS][PANEL_GROUPS]; /* of the integer sums: - zero * the sum of q */
    v16 acc[PANEL_TILE_PANELS][PANEL_TILE_TOKENS];
    for (uint32_t t = 0; t < n_t; t++) {
        for (uint32_t g = 0; g < n_groups && !has_min; g++)
            start[t][g] = -zero * x.sum[t * x.group_step + g];
        for (uint32_t i = 0; i < n_p; i++)
            acc[i][t] = p->col == 0 ? v16_set1(0.0f)
                                    : rows_load(y + t * ldy + (size_t)i * KERN_PANEL_ROWS,
                                                i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
    }
    for (uint32_t g = 0; g < n_groups; g++) {
        w16 sum[PANEL_TILE_PANELS][PANEL_TILE_TOKENS];
        size_t at = (size_t)g * KERN_PANEL_ROWS;
        for (uint32_t t = 0; t < n_t; t++)
            for (uint32_t i = 0; i < n_p; i++)
                sum[i][t] = has_min ? w16_zero() : w16_set1(start[t][g]);
        for (uint32_t k = 0; k < group / 4; k++) {
            w16 u[PANEL_TILE_PANELS];
            for (uint32_t i = 0; i < n_p; i++)
                u[i] = w16_load(p->panel[i].u + (g * (size_t)(group / 4) + k) * 64);
            for (uint32_t t = 0; t < n_t; t++)
                for (uint32_t i = 0; i < n_p; i++)
                    sum[i][t] = w16_dot(sum[i][t], u[i],
                                        x.q + t * x.q_step + (size_t)g * group + 4 * k, is_wide);
        }
        v16 s[PANEL_TILE_PANELS], m[PANEL_TILE_PANELS];
        for (uint32_t i = 0; i < n_p; i++) {
            s[i] = v16_load(p->panel[i].s + at);
            m[i] = has_min ? v16_load(p->panel[i].m + at) : s[i];
        }
        for (uint32_t t = 0; t < n_t; t++) {
            v16 d = v16_set1(x.d[t * x.d_step + g * group / KERN_BLOCK]);
            for (uint32_t i = 0; i < n_p; i++)
                acc[i][t] = v16_fma(v16_mul(s[i], d), v16_from_w16(sum[i][t]), acc[i][t]);
            for (uint32_t i = 0; i < n_p && has_min; i++)
                acc[i][t] = v16_fma(m[i], v16_set1(x.xs[t * x.group_step + g]), acc[i][t]);
        }
    }
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            rows_store(y + t * ldy + (size_t)i * KERN_PANEL_ROWS, acc[i][t],
                       i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
}

PANEL_INLINE void tile_panels(const struct piece *p, const struct kern_act *act, uint32_t group,
                              int zero, bool has_min, bool is_wide, size_t t0, uint32_t n_p,
                              uint32_t n_t, float *y, size_t ldy, uint32_t n_rows)
{
    if (n_p == 1)
        tile_tokens(p, act, group, zero, has_min, is_wide, t0, 1, n_t, y, ldy, n_rows);
    else
        tile_tokens(p, act, group, zero, has_min, is_wide, t0, PANEL_TILE_PANELS, n_t, y, ldy,
                    n_rows);
}

/* All tokens. */
PANEL_INLINE void product_tokens(const struct piece *p, const struct kern_act *act, uint32_t group,
                                 int zero, bool has_min, bool is_wide, size_t t0, size_t t1,
                                 uint32_t n_p, float *y, size_t ldy, uint32_t n_rows)
{
    for (size_t t = t0; t < t1;) {
        uint32_t n_t = tile_size(t1 - t, PANEL_TILE_TOKENS);
        float *out = y + (t - t0) * ldy;
        if (n_t == 1)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 1, out, ldy, n_rows);
        else if (n_t == 2)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 2, out, ldy, n_rows);
        else if (n_t == 3)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 3, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 3 && n_t == 4)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 4, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 4 && n_t == 5)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 5, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 5)
            tile_panels(p, act, group, zero, has_min, is_wide, t, n_p, 6, out, ldy, n_rows);
        t += n_t;
    }
}

/* The panels of a piece, the last of which has n_rows rows; y is the first one's, of token t0. */
static void piece_product(const struct piece *p, enum kern_type type, const struct kern_act *act,
                          size_t t0, size_t t1, uint32_t n_p, float *y, size_t ldy, uint32_t n_rows)
{
    int zero = unpack_zero(type);
    if (unpack_group(type) == 16 && unpack_has_min(type))
        product_tokens(p, act, 16, 0, true, false, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_group(type) == 16)
        product_tokens(p, act, 16, zero, false, false, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_has_min(type))
        product_tokens(p, act, 32, 0, true, false, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_max(type) > 127)
        product_tokens(p, act, 32, zero, false, true, t0, t1, n_p, y, ldy, n_rows);
    else
        product_tokens(p, act, 32, zero, false, false, t0, t1, n_p, y, ldy, n_rows);
}

/* Columns of the next piece, of all that are left: pieces of about the same size, whole super-blocks. */
static inline uint32_t piece_cols(uint32_t n_left)
{
    uint32_t n_pieces = (n_left + PANEL_COLS - 1) / PANEL_COLS;
    uint32_t n = ((n_left + n_pieces - 1) / n_pieces + UNPACK_VALUES - 1) / UNPACK_VALUES *
                 UNPACK_VALUES;
    return n < n_left ? n : n_left;
}

PANEL_INLINE void many_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                            uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                            float *y, size_t ldy)
{
    struct piece piece;
    for (uint32_t r = row0, n_p; r < row1; r += n_p * KERN_PANEL_ROWS) {
        n_p = panels_together(row1 - r, PANEL_TILE_PANELS);
        uint32_t n_rows = rows_of_last(row1 - r, n_p);
        for (piece.col = 0; piece.col < w->n_cols; piece.col += piece.n_cols) {
            piece.n_cols = piece_cols(w->n_cols - piece.col);
            for (uint32_t i = 0; i < n_p; i++) {
                if (w->layout == KERN_LAYOUT_PANELS)
                    fill_from_packed(type, &piece.panel[i], w, r + i * KERN_PANEL_ROWS, piece.col,
                                     piece.n_cols);
                else
                    fill_from_rows(type, &piece.panel[i], w, r + i * KERN_PANEL_ROWS, piece.col,
                                   piece.n_cols);
            }
            piece_product(&piece, type, act, t0, t1, n_p, y + (r - row0), ldy, n_rows);
        }
    }
}

/* One instance per type, so that what depends on it is settled before the loops. */
#define PANEL_CASE(type)                                                                           \
    case type:                                                                                     \
        if (w->layout == KERN_LAYOUT_PANELS && t1 - t0 <= few_max(type))                           \
            few_rows(type, w, row0, row1, act, t0, t1, y, ldy);                                    \
        else                                                                                       \
            many_rows(type, w, row0, row1, act, t0, t1, y, ldy);                                   \
        break

static void panel_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                          const struct kern_act *act, uint32_t t0, uint32_t t1, float *y,
                          size_t ldy)
{
    if (t0 == t1)
        return;
    switch (w->type) {
        PANEL_CASE(KERN_TYPE_Q4_0);
        PANEL_CASE(KERN_TYPE_Q4_1);
        PANEL_CASE(KERN_TYPE_Q5_0);
        PANEL_CASE(KERN_TYPE_Q5_1);
        PANEL_CASE(KERN_TYPE_Q8_0);
        PANEL_CASE(KERN_TYPE_Q2_K);
        PANEL_CASE(KERN_TYPE_Q3_K);
        PANEL_CASE(KERN_TYPE_Q4_K);
        PANEL_CASE(KERN_TYPE_Q5_K);
        PANEL_CASE(KERN_TYPE_Q6_K);
        PANEL_CASE(KERN_TYPE_Q8_K);
        PANEL_CASE(KERN_TYPE_IQ4_NL);
        PANEL_CASE(KERN_TYPE_IQ4_XS);
        PANEL_CASE(KERN_TYPE_MXFP4);
    default:
        break;
    }
}

#endif
