/* SPDX-License-Identifier: Apache-2.0
 *
 * panel.h - products with quantised weights, written once in the vocabulary of v16_*.h.  Two ways to the
 * same bits:
 *  - few tokens: a packed panel (packed.h) is multiplied as it streams by, bound by memory;
 *  - many: pieces of it are unpacked once (panel_piece.h), and multiplied with all tokens, several panels
 *    and tokens at a time so that what is loaded is used several times; between the pieces the
 *    accumulators wait in y.
 * A matrix in rows goes the second way, however few the tokens are; of one in columns, columns.h knows a third.
 *
 * A variant defines before it includes this file
 *     PANEL_FEW_PANELS, PANEL_FEW_TOKENS     of a tile of the first way
 *     PANEL_TILE_PANELS, PANEL_TILE_TOKENS   of a tile of the second
 * and how bytes are multiplied: u, at most `max`, a constant of the type, with four signed ones at q:
 *     DOT_MOST_U                    larger u are multiplied as u - 128
 *     w16_dot_begin(sum, max)       an empty part of a sum
 *     w16_dot_step(part, u, q, max) the part and the products of each dword's four bytes
 *     w16_dot_steps(max)            how many steps a part can take
 *     w16_dot_end(part, sum, max)   the sum and the part
 */
#ifndef LACUNA_KERNELS_PANEL_H
#define LACUNA_KERNELS_PANEL_H

#include "kernels/panel_piece.h"

_Static_assert(PANEL_TILE_TOKENS <= 6 && PANEL_TILE_PANELS <= 2, "see product_tokens");
_Static_assert(PANEL_FEW_TOKENS == 4 || PANEL_FEW_TOKENS == 6, "see few_tokens");
_Static_assert(PANEL_FEW_PANELS <= 2, "see few_tokens");

/* The compiler leaves loops as they are where a function is large, though they have eight steps at most.
 * Not with sanitizers: their checks, unrolled, would take minutes to compile, and run ten times as long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PANEL_UNROLL
#else
#define PANEL_UNROLL _Pragma("GCC unroll 8")
#endif

/* ---- sums of products ---- */

/* How many of n steps make a part: a divisor of n, a power of two like all w16_dot_steps() below it. */
KERN_INLINE uint32_t dot_run(int max, uint32_t n)
{
    return w16_dot_steps(max) < n ? w16_dot_steps(max) : n;
}

/* What multiplying subtracts from u. */
KERN_INLINE int dot_zero(int max)
{
    return max > DOT_MOST_U ? 128 : 0;
}

/* Of a register tile, of either way: sums, parts of them, and accumulators are [panel][token]. */
enum {
    PANEL_MOST_PANELS = PANEL_FEW_PANELS > PANEL_TILE_PANELS ? PANEL_FEW_PANELS : PANEL_TILE_PANELS,
    PANEL_MOST_TOKENS = PANEL_FEW_TOKENS > PANEL_TILE_TOKENS ? PANEL_FEW_TOKENS : PANEL_TILE_TOKENS,
};

KERN_INLINE void parts_begin(w16 (*part)[PANEL_MOST_TOKENS], w16 (*sum)[PANEL_MOST_TOKENS], int max,
                             uint32_t n_p, uint32_t n_t)
{
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            part[i][t] = w16_dot_begin(sum[i][t], max);
}

/* u: four columns of each panel, from column `col` of the tokens on. */
KERN_INLINE void parts_step(w16 (*part)[PANEL_MOST_TOKENS], const w16 *u, const struct tokens *x,
                            size_t col, int max, uint32_t n_p, uint32_t n_t)
{
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            part[i][t] = w16_dot_step(part[i][t], u[i], x->q + t * x->q_step + col, max);
}

KERN_INLINE void parts_end(w16 (*part)[PANEL_MOST_TOKENS], w16 (*sum)[PANEL_MOST_TOKENS], int max,
                           uint32_t n_p, uint32_t n_t)
{
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            sum[i][t] = w16_dot_end(part[i][t], sum[i][t], max);
}

/* With what the sum of u q begins to become the one of (u - zero) q. */
KERN_INLINE int32_t sum_start(const struct tokens *x, uint32_t t, uint32_t g, int zero)
{
    int32_t start = x->start[t * x->group_step + g]; /* a multiple of 128 */
    return zero == 128 ? start : start / 128 * zero;
}

/* The canonical fma's of group g, whose exact sums these are: scales s and minima m are of a panel each. */
KERN_INLINE void add_sums(v16 (*acc)[PANEL_MOST_TOKENS], w16 (*sum)[PANEL_MOST_TOKENS],
                          const v16 *s, const v16 *m, const struct tokens *x, uint32_t group,
                          uint32_t g, bool has_min, uint32_t n_p, uint32_t n_t)
{
    for (uint32_t t = 0; t < n_t; t++) {
        v16 d = v16_set1(x->d[t * x->d_step + g * group / KERN_BLOCK]);
        for (uint32_t i = 0; i < n_p; i++)
            acc[i][t] = v16_fma(v16_mul(s[i], d), v16_from_w16(sum[i][t]), acc[i][t]);
        for (uint32_t i = 0; i < n_p && has_min; i++)
            acc[i][t] = v16_fma(m[i], v16_set1(x->xs[t * x->group_step + g]), acc[i][t]);
    }
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
    switch (type) {
    case KERN_TYPE_Q8_0:
    case KERN_TYPE_Q8_K:
        return PANEL_FEW_PANELS == 1 ? UINT32_MAX : 24;
    case KERN_TYPE_Q4_0:
    case KERN_TYPE_Q4_1:
        return PANEL_FEW_PANELS == 1 ? 16 : 64;
    case KERN_TYPE_Q3_K:
    case KERN_TYPE_MXFP4:
        return 4;
    default:
        return PANEL_FEW_PANELS == 1 ? 4 : 8;
    }
}

/* Bytes of codes between what is asked for and what is multiplied: by measurement. */
static inline uint32_t few_ahead(enum kern_type type)
{
    return packed_bits(type) == 8 ? 2048 : 3072;
}

/* Panels side by side, from their first bytes on. */
struct streams {
    const uint8_t *panel;
    size_t panel_bytes, codes_at;
};

/* Asks for the codes of a block that is multiplied soon after block b.  Behind a panel's end it is one of
 * the panel n_p further on, which comes next; of that one, the heads are asked for, too.  The processor
 * follows neither by itself: panels are short, and the heads lie apart. */
KERN_INLINE void prefetch_streams(enum kern_type type, const struct streams *w, uint32_t b,
                                  uint32_t n_p)
{
    uint32_t code_bytes = packed_code_bytes(type);
    size_t end = w->panel_bytes - w->codes_at, ahead = few_ahead(type) / code_bytes * code_bytes;
    size_t at = (size_t)b * code_bytes + (ahead < end ? ahead : end);
    const uint8_t *next = w->panel + n_p * w->panel_bytes;
    const uint8_t *codes = (at < end ? w->panel : next - end) + w->codes_at + at;
    const uint8_t *heads = next + (size_t)b * packed_head_bytes(type) / packed_chunk_blocks(type);
    for (uint32_t i = 0; i < n_p; i++) {
        prefetch_stream(codes + i * w->panel_bytes, code_bytes);
        prefetch_stream(heads + i * w->panel_bytes, 1);
    }
}

/* Group g of the columns, for n_p panels and n_t tokens: exact integer sums, then the canonical fma's. */
KERN_INLINE void few_group(enum kern_type type, const struct streams *w, const struct tokens *x,
                           uint32_t g, uint32_t n_p, uint32_t n_t, v16 (*acc)[PANEL_MOST_TOKENS])
{
    uint32_t group = unpack_group(type), per_block = KERN_BLOCK / group, block = g / per_block;
    uint32_t chunk = packed_chunk_blocks(type);
    const uint8_t *head = w->panel + (size_t)(block / chunk) * packed_head_bytes(type);
    const uint8_t *codes = w->panel + w->codes_at + (size_t)block * packed_code_bytes(type);
    int max = unpack_max(type), zero = unpack_zero(type) - dot_zero(max);
    uint32_t n_steps = group / 4, run = dot_run(max, n_steps);
    w16 sum[PANEL_MOST_PANELS][PANEL_MOST_TOKENS], part[PANEL_MOST_PANELS][PANEL_MOST_TOKENS];
    v16 s[PANEL_FEW_PANELS], m[PANEL_FEW_PANELS];
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            sum[i][t] = zero ? w16_set1(sum_start(x, t, g, zero)) : w16_zero();
    PANEL_UNROLL
    for (uint32_t k0 = 0; k0 < n_steps; k0 += run) {
        parts_begin(part, sum, max, n_p, n_t);
        PANEL_UNROLL
        for (uint32_t k = k0; k < k0 + run; k++) {
            w16 u[PANEL_FEW_PANELS];
            for (uint32_t i = 0; i < n_p; i++)
                u[i] = packed_columns(type, codes + i * w->panel_bytes,
                                      g % per_block * n_steps + k);
            parts_step(part, u, x, (size_t)g * group + 4 * k, max, n_p, n_t);
        }
        parts_end(part, sum, max, n_p, n_t);
    }
    for (uint32_t i = 0; i < n_p; i++)
        packed_group(type, head + i * w->panel_bytes, g % (chunk * per_block), &s[i], &m[i]);
    add_sums(acc, sum, s, m, x, group, g, unpack_has_min(type), n_p, n_t);
}

/* n_p panels, the last of which has n_rows rows, times n_t tokens from t0 on; both are constants after
 * inlining. */
KERN_INLINE void few_tile(enum kern_type type, const struct streams *w, uint32_t n_cols,
                          const struct kern_act *act, size_t t0, uint32_t n_p, uint32_t n_t,
                          float *y, size_t ldy, uint32_t n_rows)
{
    uint32_t group = unpack_group(type), per_block = KERN_BLOCK / group;
    struct tokens x = tokens_at(act, group, t0, 0);
    v16 acc[PANEL_MOST_PANELS][PANEL_MOST_TOKENS];
    for (uint32_t i = 0; i < n_p; i++)
        for (uint32_t t = 0; t < n_t; t++)
            acc[i][t] = v16_set1(0.0f);
    for (uint32_t b = 0; b < n_cols / KERN_BLOCK; b++) {
        prefetch_streams(type, w, b, n_p);
        for (uint32_t h = 0; h < per_block; h++)
            few_group(type, w, &x, b * per_block + h, n_p, n_t, acc);
    }
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            rows_store(y + t * ldy + (size_t)i * KERN_PANEL_ROWS, acc[i][t],
                       i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
}

/* A lone panel at the end is multiplied token by token: fewer instances, and it is seldom. */
KERN_INLINE void few_tokens(enum kern_type type, const struct streams *w, uint32_t n_cols,
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

KERN_INLINE void few_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                          uint32_t row1, const struct kern_act *act, size_t t0, size_t t1, float *y,
                          size_t ldy)
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

/* ---- many tokens ---- */

KERN_INLINE void tile_tokens(struct piece *p, const struct kern_act *act, uint32_t group, int zero,
                             bool has_min, int max, size_t t0, uint32_t n_p, uint32_t n_t, float *y,
                             size_t ldy, uint32_t n_rows)
{
    struct tokens x = tokens_at(act, group, t0, p->col);
    bool has_zero = !has_min && dot_zero(max) == 0; /* what is to be subtracted is not 0 */
    bool is_lifted = DOT_MOST_U == 255;             /* then it is 128 */
    uint32_t n_groups = p->n_cols / group, n_steps = group / 4, run = dot_run(max, n_steps);
    int32_t start[PANEL_TILE_TOKENS][PANEL_GROUPS]; /* of the integer sums: - zero * the sum of q */
    v16 acc[PANEL_MOST_PANELS][PANEL_MOST_TOKENS];
    for (uint32_t t = 0; t < n_t; t++) {
        for (uint32_t g = 0; g < n_groups && has_zero && !is_lifted; g++)
            start[t][g] = sum_start(&x, t, g, zero);
        for (uint32_t i = 0; i < n_p; i++)
            acc[i][t] = p->col == 0 ? v16_set1(0.0f)
                                    : rows_load(y + t * ldy + (size_t)i * KERN_PANEL_ROWS,
                                                i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
    }
    for (uint32_t g = 0; g < n_groups; g++) {
        w16 sum[PANEL_MOST_PANELS][PANEL_MOST_TOKENS], part[PANEL_MOST_PANELS][PANEL_MOST_TOKENS];
        size_t at = (size_t)g * KERN_PANEL_ROWS;
        prefetch_ahead(p, n_p);
        for (uint32_t t = 0; t < n_t; t++)
            for (uint32_t i = 0; i < n_p; i++)
                sum[i][t] = !has_zero   ? w16_zero()
                            : is_lifted ? w16_set1(x.start[t * x.group_step + g])
                                        : w16_set1(start[t][g]);
        PANEL_UNROLL
        for (uint32_t k0 = 0; k0 < n_steps; k0 += run) {
            parts_begin(part, sum, max, n_p, n_t);
            PANEL_UNROLL
            for (uint32_t k = k0; k < k0 + run; k++) {
                w16 u[PANEL_TILE_PANELS];
                for (uint32_t i = 0; i < n_p; i++)
                    u[i] = w16_load(p->panel[i].u + (g * (size_t)n_steps + k) * 64);
                parts_step(part, u, &x, (size_t)g * group + 4 * k, max, n_p, n_t);
            }
            parts_end(part, sum, max, n_p, n_t);
        }
        v16 s[PANEL_TILE_PANELS], m[PANEL_TILE_PANELS];
        for (uint32_t i = 0; i < n_p; i++) {
            s[i] = v16_load(p->panel[i].s + at);
            m[i] = has_min ? v16_load(p->panel[i].m + at) : s[i];
        }
        add_sums(acc, sum, s, m, &x, group, g, has_min, n_p, n_t);
    }
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t i = 0; i < n_p; i++)
            rows_store(y + t * ldy + (size_t)i * KERN_PANEL_ROWS, acc[i][t],
                       i + 1 < n_p ? KERN_PANEL_ROWS : n_rows);
}

KERN_INLINE void tile_panels(struct piece *p, const struct kern_act *act, uint32_t group, int zero,
                             bool has_min, int max, size_t t0, uint32_t n_p, uint32_t n_t, float *y,
                             size_t ldy, uint32_t n_rows)
{
    if (n_p == 1)
        tile_tokens(p, act, group, zero, has_min, max, t0, 1, n_t, y, ldy, n_rows);
    else
        tile_tokens(p, act, group, zero, has_min, max, t0, PANEL_TILE_PANELS, n_t, y, ldy, n_rows);
}

/* All tokens. */
KERN_INLINE void product_tokens(struct piece *p, const struct kern_act *act, uint32_t group,
                                int zero, bool has_min, int max, size_t t0, size_t t1, uint32_t n_p,
                                float *y, size_t ldy, uint32_t n_rows)
{
    for (size_t t = t0; t < t1;) {
        uint32_t n_t = tile_size(t1 - t, PANEL_TILE_TOKENS);
        float *out = y + (t - t0) * ldy;
        if (n_t == 1)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 1, out, ldy, n_rows);
        else if (n_t == 2)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 2, out, ldy, n_rows);
        else if (n_t == 3)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 3, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 3 && n_t == 4)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 4, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 4 && n_t == 5)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 5, out, ldy, n_rows);
        else if (PANEL_TILE_TOKENS > 5)
            tile_panels(p, act, group, zero, has_min, max, t, n_p, 6, out, ldy, n_rows);
        t += n_t;
    }
}

/* The panels of a piece, the last of which has n_rows rows; y is the first one's, of token t0. */
static void piece_product(struct piece *p, enum kern_type type, const struct kern_act *act,
                          size_t t0, size_t t1, uint32_t n_p, float *y, size_t ldy, uint32_t n_rows)
{
    int max = unpack_max(type) + piece_lift(type), zero = piece_zero(type) - dot_zero(max);
    bool is_lifted = DOT_MOST_U == 255;
    bool is_short = max == 15 && dot_run(15, 8) > dot_run(31, 8); /* worth instances of its own */
    if (unpack_group(type) == 16 && unpack_has_min(type))
        product_tokens(p, act, 16, 0, true, 3, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_group(type) == 16)
        product_tokens(p, act, 16, zero, false, is_lifted ? 255 : 63, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_has_min(type) && is_short)
        product_tokens(p, act, 32, 0, true, 15, t0, t1, n_p, y, ldy, n_rows);
    else if (unpack_has_min(type))
        product_tokens(p, act, 32, 0, true, 31, t0, t1, n_p, y, ldy, n_rows);
    else if (max == 255 || is_lifted)
        product_tokens(p, act, 32, zero, false, 255, t0, t1, n_p, y, ldy, n_rows);
    else if (is_short)
        product_tokens(p, act, 32, zero, false, 15, t0, t1, n_p, y, ldy, n_rows);
    else
        product_tokens(p, act, 32, zero, false, 31, t0, t1, n_p, y, ldy, n_rows);
}

KERN_INLINE void many_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                           uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                           float *y, size_t ldy)
{
    struct piece piece;
    for (uint32_t r = row0, n_p; r < row1; r += n_p * KERN_PANEL_ROWS) {
        n_p = panels_together(row1 - r, PANEL_TILE_PANELS);
        uint32_t n_rows = rows_of_last(row1 - r, n_p);
        for (piece.col = 0; piece.col < w->n_cols; piece.col += piece.n_cols) {
            fill_piece(type, &piece, w, r, n_p);
            look_ahead(type, &piece, w, r, row1, n_p);
            piece_product(&piece, type, act, t0, t1, n_p, y + (r - row0), ldy, n_rows);
        }
    }
}

#endif
