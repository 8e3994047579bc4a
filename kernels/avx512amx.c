/* SPDX-License-Identifier: Apache-2.0
 *
 * avx512amx.c - AMX for products of many tokens with quantised weights (Sapphire Rapids and later); all else
 * is avx512vnni's.
 *
 * A tile register holds 16 rows of 64 bytes.  An unpacked piece already is what TDPBSUD wants of its second
 * factor: each 64 bytes are four columns of 16 rows.  So one instruction multiplies a group of columns of
 * 16 rows with 16 tokens, exactly; the sums go through the first-level cache to where the canonical order
 * scales them.
 *
 * Nobody has run it on such a processor yet, only its logic with the instructions emulated
 * (tests/unit/kernels/amx_emulated.c): it is never chosen but by name.
 */
#include <pthread.h>

#include "kernels/v16_avx512.h"

enum {
    PANEL_TILE_PANELS = 1,
    DOT_MOST_U = 255,
    AMX_TOKENS = 16,
    AMX_LEAST_TOKENS = 16, /* fewer are bound by memory, or nearly */
};

#include "kernels/panel_piece.h"

/* ---- tiles ---- */

/* Two sets of registers, so that one group is multiplied while the sums of the last are scaled.  Their
 * numbers are part of the instructions' names: hence macros, and nothing but digits. */
#define AMX_SUMS_0 0
#define AMX_LEFT_0 1
#define AMX_RIGHT_0 2
#define AMX_SUMS_1 3
#define AMX_LEFT_1 4
#define AMX_RIGHT_1 5

/* As LDTILECFG reads it. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "fixed by the instruction set");

static void set_tile(struct tile_config *c, int tile, uint32_t n_rows, uint32_t row_bytes)
{
    c->n_rows[tile] = (uint8_t)n_rows;
    c->row_bytes[tile] = (uint16_t)row_bytes;
}

/* For n_tokens at a time and groups of this many columns. */
static void configure_tiles(uint32_t n_tokens, uint32_t group)
{
    struct tile_config c = { .palette = 1 };
    for (int first = AMX_SUMS_0; first <= AMX_SUMS_1; first += AMX_SUMS_1) {
        set_tile(&c, first, n_tokens, 4 * KERN_PANEL_ROWS);
        set_tile(&c, first + AMX_LEFT_0, n_tokens, group);
        set_tile(&c, first + AMX_RIGHT_0, group / 4, 4 * KERN_PANEL_ROWS);
    }
    _tile_loadconfig(&c);
}

/* Exact sums of a group of columns of q, tokens q_step apart, and u: [token][row]. */
#define AMX_GROUP_SUMS(set, q, q_step, u, sums)                                                    \
    do {                                                                                           \
        _tile_loadd(AMX_LEFT_##set, q, q_step);                                                    \
        _tile_loadd(AMX_RIGHT_##set, u, 4 * KERN_PANEL_ROWS);                                      \
        _tile_zero(AMX_SUMS_##set);                                                                \
        _tile_dpbsud(AMX_SUMS_##set, AMX_LEFT_##set, AMX_RIGHT_##set);                             \
        _tile_stored(AMX_SUMS_##set, sums, 4 * KERN_PANEL_ROWS);                                   \
    } while (0)

/* ---- products ---- */

/* What decides about the arithmetic of a type. */
struct amx_type {
    uint32_t group;
    bool has_min;
};

KERN_INLINE void scale_group(const struct panel *panel, const struct tokens *x,
                             struct amx_type type, uint32_t g, uint32_t n_t,
                             int32_t (*sum)[KERN_PANEL_ROWS], v16 *acc)
{
    size_t at = (size_t)g * KERN_PANEL_ROWS;
    v16 s = v16_load(panel->s + at), m = type.has_min ? v16_load(panel->m + at) : s;
    for (uint32_t t = 0; t < n_t; t++) {
        v16 d = v16_set1(x->d[t * x->d_step + g * type.group / KERN_BLOCK]);
        w16 exact = w16_load(sum[t]);
        if (!type.has_min)
            exact = w16_add(exact, w16_set1(x->start[t * x->group_step + g]));
        acc[t] = v16_fma(v16_mul(s, d), v16_from_w16(exact), acc[t]);
        if (type.has_min)
            acc[t] = v16_fma(m, v16_set1(x->xs[t * x->group_step + g]), acc[t]);
    }
}

/* n_t tokens from t0 on; y is of token t0. */
KERN_INLINE void amx_tokens(const struct piece *p, struct amx_type type, const struct kern_act *act,
                            size_t t0, uint32_t n_t, float *y, size_t ldy, uint32_t n_rows)
{
    struct tokens x = tokens_at(act, type.group, t0, p->col);
    int32_t sum[2][AMX_TOKENS][KERN_PANEL_ROWS] __attribute__((aligned(64)));
    size_t group_bytes = (size_t)type.group * KERN_PANEL_ROWS;
    uint32_t n_groups = p->n_cols / type.group;
    const uint8_t *u = p->panel[0].u;
    v16 acc[AMX_TOKENS];
    for (uint32_t t = 0; t < n_t; t++)
        acc[t] = p->col == 0 ? v16_set1(0.0f) : rows_load(y + t * ldy, n_rows);
    for (uint32_t g = 0; g < n_groups; g += 2) {
        bool is_pair = g + 1 < n_groups;
        AMX_GROUP_SUMS(0, x.q + g * type.group, x.q_step, u + g * group_bytes, sum[0]);
        if (is_pair)
            AMX_GROUP_SUMS(1, x.q + (g + 1) * type.group, x.q_step, u + (g + 1) * group_bytes,
                           sum[1]);
        scale_group(&p->panel[0], &x, type, g, n_t, sum[0], acc);
        if (is_pair)
            scale_group(&p->panel[0], &x, type, g + 1, n_t, sum[1], acc);
    }
    for (uint32_t t = 0; t < n_t; t++)
        rows_store(y + t * ldy, acc[t], n_rows);
}

KERN_INLINE void amx_product(const struct piece *p, struct amx_type type,
                             const struct kern_act *act, size_t t0, size_t t1, float *y, size_t ldy,
                             uint32_t n_rows)
{
    uint32_t n_last = (uint32_t)(t1 - t0) % AMX_TOKENS;
    if (t1 - t0 >= AMX_TOKENS)
        configure_tiles(AMX_TOKENS, type.group);
    for (; t0 + AMX_TOKENS <= t1; t0 += AMX_TOKENS, y += AMX_TOKENS * ldy)
        amx_tokens(p, type, act, t0, AMX_TOKENS, y, ldy, n_rows);
    if (n_last == 0)
        return;
    configure_tiles(n_last, type.group);
    amx_tokens(p, type, act, t0, n_last, y, ldy, n_rows);
}

/* The rows of the piece times all tokens. */
static void piece_product(const struct piece *p, enum kern_type type, const struct kern_act *act,
                          size_t t0, size_t t1, float *y, size_t ldy, uint32_t n_rows)
{
    if (unpack_group(type) == 16 && unpack_has_min(type))
        amx_product(p, (struct amx_type){ 16, true }, act, t0, t1, y, ldy, n_rows);
    else if (unpack_group(type) == 16)
        amx_product(p, (struct amx_type){ 16, false }, act, t0, t1, y, ldy, n_rows);
    else if (unpack_has_min(type))
        amx_product(p, (struct amx_type){ 32, true }, act, t0, t1, y, ldy, n_rows);
    else
        amx_product(p, (struct amx_type){ 32, false }, act, t0, t1, y, ldy, n_rows);
}

KERN_INLINE void amx_rows(enum kern_type type, const struct kern_matrix *w, uint32_t row0,
                          uint32_t row1, const struct kern_act *act, size_t t0, size_t t1, float *y,
                          size_t ldy)
{
    struct piece piece;
    for (uint32_t r = row0; r < row1; r += KERN_PANEL_ROWS)
        for (piece.col = 0; piece.col < w->n_cols; piece.col += piece.n_cols) {
            fill_piece(type, &piece, w, r, 1);
            piece_product(&piece, type, act, t0, t1, y + (r - row0), ldy,
                          rows_of_last(row1 - r, 1));
        }
}

#define AMX_CASE(type)                                                                             \
    case type:                                                                                     \
        amx_rows(type, w, row0, row1, x->act, t0, t1, y, ldy);                                     \
        break;

static void amx_mul_mat(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                        const struct kern_input *x, uint32_t t0, uint32_t t1, float *y, size_t ldy)
{
    if (!kern_type_is_quantised(w->type) || t1 - t0 < AMX_LEAST_TOKENS) {
        kern_avx512vnni.mul_mat(w, row0, row1, x, t0, t1, y, ldy);
        return;
    }
    switch (w->type) {
        UNPACK_EACH_TYPE(AMX_CASE)
    default:
        break;
    }
    _tile_release(); /* or the kernel would save 8 KiB at each change of threads */
}

static struct kern_table table;
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void make_table(void)
{
    table = kern_avx512vnni;
    table.name = "avx512amx";
    table.mul_mat = amx_mul_mat;
}

const struct kern_table *kern_avx512amx(void)
{
    pthread_once(&made, make_table);
    return &table;
}
