/* SPDX-License-Identifier: Apache-2.0
 *
 * products.h - which way a product with quantised weights goes: panel.h, columns.h or some_rows.h.  One instance per type, so
 * that what depends on it is settled before the loops.
 */
#ifndef LACUNA_KERNELS_PRODUCTS_H
#define LACUNA_KERNELS_PRODUCTS_H

#include "kernels/columns.h"
#include "kernels/panel.h"
#include "kernels/some_rows.h"

KERN_INLINE void product_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                              uint32_t row1, const struct kern_act *act, size_t t0, size_t t1,
                              float *y, size_t ldy)
{
    if (w->layout == KERN_LAYOUT_PANELS && t1 - t0 <= few_max(type))
        few_rows(type, w, row0, row1, act, t0, t1, y, ldy);
    else if (w->layout == KERN_LAYOUT_COLUMNS && columns_pay(act, t0, t1))
        column_rows(type, w, row0, row1, act, t0, t1, y, ldy);
    else
        many_rows(type, w, row0, row1, act, t0, t1, y, ldy);
}

#define PRODUCT_CASE(type)                                                                         \
    case type:                                                                                     \
        product_rows(type, w, row0, row1, act, t0, t1, y, ldy);                                    \
        break;

static void product_block(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                          const struct kern_act *act, uint32_t t0, uint32_t t1, float *y,
                          size_t ldy)
{
    switch (w->type) {
        UNPACK_EACH_TYPE(PRODUCT_CASE)
    default:
        break;
    }
}

static void quantised_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                              const struct kern_act *act, uint32_t t0, uint32_t t1, float *y,
                              size_t ldy)
{
    uint32_t n = kern_block_tokens(w->type, w->n_cols, t1 - t0);
    for (uint32_t t = t0; t < t1; t += n)
        product_block(w, row0, row1, act, t, t + n < t1 ? t + n : t1, y + (t - t0) * ldy, ldy);
}

#define SOME_ROWS_CASE(type)                                                                       \
    case type:                                                                                     \
        some_rows(type, w, rows, n, act, t, y);                                                    \
        break;

static void quantised_mul_rows(const struct kern_matrix *w, const uint32_t *rows, uint32_t n,
                               const struct kern_act *act, size_t t, float *y)
{
    switch (w->type) {
        UNPACK_EACH_TYPE(SOME_ROWS_CASE)
    default:
        break;
    }
}

#endif
