/* SPDX-License-Identifier: Apache-2.0
 *
 * panel.h - products with quantised weights, shared by the vector variants.
 *
 * Sixteen rows are unpacked once, side by side, and then multiplied with all tokens: a panel is
 *     u [n_cols / 4][16 rows][4]   four weights of a row in one dword, as the dot products want it
 *     s [n_groups][16], m [n_groups][16]
 * so that a register holds the same columns of all rows and each row's sum stays in its lane: the
 * canonical order's single accumulator per output.  A panel covers PANEL_COLS columns at a time (so
 * that it stays in the L1 cache); between them the accumulators wait in y.
 *
 * A variant defines panel_transpose() and panel_product(), then includes this file.
 */
#ifndef LACUNA_KERNELS_PANEL_H
#define LACUNA_KERNELS_PANEL_H

#include "kernels/unpack.h"

enum {
    PANEL_COLS = 1024,
    PANEL_GROUPS = PANEL_COLS / 16,
};

struct panel {
    uint8_t u[PANEL_COLS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float s[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    float m[PANEL_GROUPS * KERN_PANEL_ROWS] __attribute__((aligned(64)));
    enum kern_type type;
    const struct kern_type_info *info;
    uint32_t n_cols; /* of this piece */
    uint32_t col;    /* its first column */
    bool first;      /* accumulators start at 0, else in y */
};

/* 256 columns of 16 rows, [16][256], to [64][16][4]. */
static void panel_transpose(const uint8_t (*rows)[UNPACK_VALUES], uint8_t *u);

/* y[t][0 .. n_rows) of tokens [t0, t1), n_rows <= 16; y points at the panel's first row. */
static void panel_product(const struct panel *p, const struct kern_act *act, size_t t0, size_t t1,
                          float *y, size_t ldy, uint32_t n_rows);

/* Sixteen rows are sixteen short streams, which the processor's own prefetching does not follow:
 * ask for the same piece of the next panel.  Asking beyond the matrix does no harm. */
static inline void prefetch_piece(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}

/* Columns [p->col, p->col + p->n_cols) of the 16 rows from row0; rows beyond the last repeat it. */
static inline __attribute__((always_inline)) void
panel_fill_type(enum kern_type type, struct panel *p, const struct kern_matrix *w, size_t row0)
{
    uint8_t rows[KERN_PANEL_ROWS][UNPACK_VALUES] __attribute__((aligned(64)));
    const struct kern_type_info *info = p->info;
    for (uint32_t c = 0; c < p->n_cols; c += UNPACK_VALUES) {
        uint32_t n = p->n_cols - c < UNPACK_VALUES ? p->n_cols - c : UNPACK_VALUES;
        size_t group = c / info->group_values;
        for (size_t i = 0; i < KERN_PANEL_ROWS; i++) {
            size_t r = row0 + i < w->n_rows ? row0 + i : w->n_rows - 1;
            const uint8_t *src = (const uint8_t *)w->data + r * w->row_bytes +
                                 (size_t)((p->col + c) / info->block_values) * info->block_bytes;
            struct unpacked out = { .u = rows[i],
                                    .s = p->s + group * KERN_PANEL_ROWS + i,
                                    .m = p->m + group * KERN_PANEL_ROWS + i,
                                    .stride = KERN_PANEL_ROWS };
            prefetch_piece(src + KERN_PANEL_ROWS * w->row_bytes,
                           n / info->block_values * (size_t)info->block_bytes);
            unpack(type, src, n, &out);
        }
        panel_transpose((const uint8_t(*)[UNPACK_VALUES])rows, p->u + (size_t)c * KERN_PANEL_ROWS);
    }
}

/* One instance per type, so that unpack() is inlined as that type's function alone. */
#define PANEL_CASE(t)                                                                              \
    case t:                                                                                        \
        panel_fill_type(t, p, w, row0);                                                            \
        break

static void panel_fill(struct panel *p, const struct kern_matrix *w, size_t row0)
{
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

static void panel_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                          const struct kern_act *act, uint32_t t0, uint32_t t1, float *y,
                          size_t ldy)
{
    struct panel p;
    p.type = w->type;
    p.info = kern_type_info(w->type);
    for (uint32_t r = row0; r < row1; r += KERN_PANEL_ROWS) {
        uint32_t n_rows = row1 - r < KERN_PANEL_ROWS ? row1 - r : KERN_PANEL_ROWS;
        for (p.col = 0; p.col < w->n_cols; p.col += PANEL_COLS) {
            p.n_cols = w->n_cols - p.col < PANEL_COLS ? w->n_cols - p.col : PANEL_COLS;
            p.first = p.col == 0;
            panel_fill(&p, w, r);
            panel_product(&p, act, t0, t1, y + r, ldy, n_rows);
        }
    }
}

#endif
