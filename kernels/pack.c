/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.c - rows to panels and columns (packed.h), and back for whoever wants one row.
 */
#include <string.h>

#include "kernels/internal.h"
#include "kernels/packed.h"

enum { ROWS = KERN_PANEL_ROWS };

/* ---- codes ---- */

/* The stored integers of a chunk of one row: as unpack(), but before the tables. */
static inline void stored_codes(enum kern_type type, const uint8_t *src, uint8_t *u)
{
    float s[UNPACK_GROUPS], m[UNPACK_GROUPS];
    struct unpacked out = { .u = u, .s = s, .m = m, .stride = 1 };
    switch (type) {
    case KERN_TYPE_IQ4_NL:
        unpack_nibbles(src + 2, u);
        break;
    case KERN_TYPE_MXFP4:
        unpack_nibbles(src + 1, u);
        break;
    case KERN_TYPE_IQ4_XS:
        for (uint32_t g = 0; g < 8; g++)
            unpack_nibbles(src + 8 + 16 * g, u + 32 * g);
        break;
    default:
        unpack(type, src, unpack_block(type), &out);
    }
}

/* Four columns of a row: byte j is column 4k + j. */
static uint32_t four(const uint8_t *u, uint32_t k)
{
    uint32_t v;
    memcpy(&v, u + (size_t)4 * k, sizeof(v));
    return v;
}

static void put_four(uint8_t *dst, uint32_t v)
{
    memcpy(dst, &v, sizeof(v));
}

static inline void put_4_bits(uint8_t *dst, const uint8_t *u)
{
    for (uint32_t k = 0; k < 4; k++)
        put_four(dst + (size_t)64 * k, (four(u, k) & 0x0f0f0f0fu) | (four(u, 4 + k) & 0x0f0f0f0fu)
                                                                        << 4);
}

/* Where the codes of a stored block begin that are in a plane's order already: byte c of each 16 holds the columns c and
 * 16 + c.  0: they are not. */
static inline uint32_t nibbles_at(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_MXFP4:
        return 1;
    case KERN_TYPE_Q4_0:
    case KERN_TYPE_IQ4_NL:
        return 2;
    case KERN_TYPE_Q4_1:
        return 4;
    case KERN_TYPE_IQ4_XS:
        return 8;
    default:
        return 0;
    }
}

static inline void put_nibbles(uint8_t *dst, const uint8_t *stored)
{
    for (uint32_t k = 0; k < 4; k++)
        put_four(dst + (size_t)64 * k, four(stored, k));
}

static inline void put_8_bits(uint8_t *dst, const uint8_t *u)
{
    for (uint32_t k = 0; k < 8; k++)
        put_four(dst + (size_t)64 * k, four(u, k));
}

static inline void put_2_bits(uint8_t *dst, const uint8_t *u, uint32_t from)
{
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t v = 0;
        for (uint32_t k = 0; k < 4; k++)
            v |= (four(u, 4 * h + k) >> from & 0x03030303u) << 2 * k;
        put_four(dst + (size_t)64 * h, v);
    }
}

static inline void put_1_bit(uint8_t *dst, const uint8_t *u, uint32_t from)
{
    uint32_t v = 0;
    for (uint32_t k = 0; k < 8; k++)
        v |= (four(u, k) >> from & 0x01010101u) << k;
    put_four(dst, v);
}

static inline void put_plane(uint8_t *dst, const uint8_t *u, uint32_t bits, uint32_t from)
{
    if (bits == 8)
        put_8_bits(dst, u);
    else if (bits == 4)
        put_4_bits(dst, u);
    else if (bits == 2)
        put_2_bits(dst, u, from);
    else if (bits == 1)
        put_1_bit(dst, u, from);
}

/* Row `i` of a block of 32. */
static inline void put_codes(enum kern_type type, uint8_t *codes, uint32_t i, const uint8_t *u)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    put_plane(codes + 4 * i, u, low, 0);
    put_plane(codes + (size_t)64 * low + 4 * i, u, high, low);
}

static uint32_t get_code(const uint8_t *plane, uint32_t i, uint32_t bits, uint32_t col)
{
    uint32_t half = col / 16, k = col % 16 / 4, at = 4 * i + col % 4;
    switch (bits) {
    case 8:
        return plane[64 * (col / 4) + at];
    case 4:
        return plane[64 * k + at] >> 4 * half & 15u;
    case 2:
        return plane[64 * half + at] >> 2 * k & 3u;
    case 1:
        return plane[at] >> (4 * half + k) & 1u;
    default:
        return 0;
    }
}

static void get_codes(enum kern_type type, const uint8_t *codes, uint32_t i, uint8_t *u)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    for (uint32_t c = 0; c < KERN_BLOCK; c++)
        u[c] = (uint8_t)(get_code(codes, i, low, c) | get_code(codes + (size_t)64 * low, i, high, c)
                                                          << low);
}

/* What the kernels multiply: the value behind a stored integer. */
static void look_up(enum kern_type type, uint8_t *u, uint32_t n)
{
    const uint8_t *table = unpack_table_of(type);
    for (uint32_t c = 0; c < n && table; c++)
        u[c] = table[u[c]];
}

/* ---- heads ---- */

/* Number v of n; the head begins as zeros. */
static void put_six(uint8_t *dst, uint32_t n, uint32_t v, uint32_t i, uint32_t x)
{
    uint8_t *low = dst + ROWS * (v / 2) + i, *top = dst + 8 * n + ROWS * (v / 4) + i;
    *low = (uint8_t)(*low | (x & 15) << 4 * (v % 2));
    *top = (uint8_t)(*top | x >> 4 << 2 * (v % 4));
}

static uint32_t get_six(const uint8_t *src, uint32_t n, uint32_t v, uint32_t i)
{
    uint32_t low = (uint32_t)src[ROWS * (v / 2) + i] >> 4 * (v % 2) & 15u;
    return low | ((uint32_t)src[8 * n + ROWS * (v / 4) + i] >> 2 * (v % 4) & 3u) << 4;
}

static void put_d(uint8_t *head, uint32_t i, const uint8_t *f16)
{
    memcpy(head + 2 * i, f16, 2);
}

static float get_d(const uint8_t *head, uint32_t i)
{
    return unpack_f16(head + 2 * i);
}

static void put_q4_k_head(uint8_t *head, uint32_t i, const uint8_t *src)
{
    put_d(head, i, src);
    put_d(head + PACKED_D, i, src + 2);
    int scale[8], min[8];
    for (int g = 0; g < 8; g++)
        unpack_q4k_scale(src + 4, g, &scale[g], &min[g]);
    for (uint32_t v = 0; v < 16; v++)
        put_six(head + 2 * PACKED_D, 16, v, i, (uint32_t)(v < 8 ? scale[v] : min[v - 8]));
}

/* Row `i` of a chunk; src is its stored block. */
static inline void put_head(enum kern_type type, uint8_t *head, uint32_t i, const uint8_t *src)
{
    switch (type) {
    case KERN_TYPE_MXFP4:
        head[i] = src[0];
        break;
    case KERN_TYPE_Q4_1:
    case KERN_TYPE_Q5_1:
        put_d(head, i, src);
        put_d(head + PACKED_D, i, src + 2);
        break;
    case KERN_TYPE_Q8_K:
        memcpy(head + 4 * i, src, 4);
        break;
    case KERN_TYPE_Q6_K:
        put_d(head, i, src + 208);
        for (uint32_t g = 0; g < 16; g++)
            head[PACKED_D + ROWS * g + i] = src[192 + g];
        break;
    case KERN_TYPE_Q2_K:
        put_d(head, i, src + 80);
        put_d(head + PACKED_D, i, src + 82);
        for (uint32_t g = 0; g < 16; g++)
            head[2 * PACKED_D + ROWS * g + i] = src[g];
        break;
    case KERN_TYPE_Q3_K:
        put_d(head, i, src + 108);
        for (int g = 0; g < 16; g++)
            put_six(head + PACKED_D, 16, (uint32_t)g, i,
                    (uint32_t)(unpack_q3_scale(src + 96, g) + 32));
        break;
    case KERN_TYPE_IQ4_XS:
        put_d(head, i, src);
        for (int g = 0; g < 8; g++)
            put_six(head + PACKED_D, 8, (uint32_t)g, i,
                    (uint32_t)(unpack_iq4_xs_scale(src, g) + 32));
        break;
    case KERN_TYPE_Q4_K:
    case KERN_TYPE_Q5_K:
        put_q4_k_head(head, i, src);
        break;
    default:
        put_d(head, i, src);
    }
}

/* Scale and minimum of group g of a chunk, by the same arithmetic as unpack(). */
static void get_group(enum kern_type type, const uint8_t *head, uint32_t i, uint32_t g, float *s,
                      float *m)
{
    const uint8_t *numbers = head + PACKED_D, *pairs = head + 2 * PACKED_D;
    float d = 0.0f;
    switch (type) {
    case KERN_TYPE_MXFP4:
        *s = unpack_e8m0_half(head[i]);
        break;
    case KERN_TYPE_Q4_1:
    case KERN_TYPE_Q5_1:
        *s = get_d(head, i);
        *m = get_d(head + PACKED_D, i);
        break;
    case KERN_TYPE_Q8_K:
        memcpy(s, head + 4 * i, 4);
        break;
    case KERN_TYPE_Q6_K:
        *s = get_d(head, i) * (float)(int8_t)numbers[ROWS * g + i];
        break;
    case KERN_TYPE_Q2_K:
        *s = get_d(head, i) * (float)(pairs[ROWS * g + i] & 15);
        *m = -(get_d(head + PACKED_D, i) * (float)(pairs[ROWS * g + i] >> 4));
        break;
    case KERN_TYPE_Q3_K:
    case KERN_TYPE_IQ4_XS:
        d = get_d(head, i);
        *s = d * (float)((int)get_six(numbers, packed_n_six(type), g, i) - 32);
        break;
    case KERN_TYPE_Q4_K:
    case KERN_TYPE_Q5_K:
        *s = get_d(head, i) * (float)get_six(pairs, 16, g, i);
        *m = -(get_d(head + PACKED_D, i) * (float)get_six(pairs, 16, 8 + g, i));
        break;
    default:
        *s = get_d(head, i);
    }
}

/* ---- codes in columns ---- */

/* n codes of 128, from bit `from` on, into a plane that begins as zeros. */
static inline void put_column_plane(uint8_t *plane, const uint8_t *code, uint32_t bits,
                                    uint32_t from)
{
    uint32_t n = KERN_COLUMN_ROWS / 8 * bits;
    for (uint32_t i = 0; i < KERN_COLUMN_ROWS; i++)
        plane[i % n] |= (uint8_t)((code[i] >> from & ((1u << bits) - 1)) << bits * (i / n));
}

static inline void put_column(enum kern_type type, uint8_t *dst, const uint8_t *code)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    put_column_plane(dst, code, low, 0);
    if (high)
        put_column_plane(dst + KERN_COLUMN_ROWS / 8 * low, code, high, low);
}

static uint32_t get_column_bits(const uint8_t *plane, uint32_t i, uint32_t bits)
{
    uint32_t n = KERN_COLUMN_ROWS / 8 * bits;
    return bits ? (uint32_t)plane[i % n] >> bits * (i / n) & ((1u << bits) - 1) : 0;
}

/* Row r of a tile. */
static uint8_t get_column_code(enum kern_type type, const uint8_t *column, uint32_t r)
{
    uint32_t low = packed_low_bits(type), high = packed_bits(type) - low;
    uint32_t i = packed_column_code(r);
    return (uint8_t)(get_column_bits(column, i, low) |
                     get_column_bits(column + KERN_COLUMN_ROWS / 8 * low, i, high) << low);
}

/* ---- matrices ---- */

uint32_t kern_layout_rows(enum kern_layout layout)
{
    switch (layout) {
    case KERN_LAYOUT_PANELS:
        return ROWS;
    case KERN_LAYOUT_COLUMNS:
        return KERN_COLUMN_ROWS;
    default:
        return 1;
    }
}

size_t kern_packed_bytes(enum kern_layout layout, enum kern_type type, uint32_t n_rows,
                         uint32_t n_cols)
{
    if (layout == KERN_LAYOUT_COLUMNS)
        return n_cols / unpack_block(type) * packed_chunk_bytes(type, n_rows);
    return ((size_t)n_rows + ROWS - 1) / ROWS * packed_panel_bytes(type, n_cols);
}

size_t kern_matrix_bytes(const struct kern_matrix *w)
{
    return w->layout == KERN_LAYOUT_ROWS
               ? w->n_rows * w->row_bytes
               : kern_packed_bytes(w->layout, w->type, w->n_rows, w->n_cols);
}

/* Row r of the piece; the last one stands for what is behind it. */
static const uint8_t *row_of_piece(const struct kern_matrix *rows, size_t first, uint32_t r)
{
    size_t at = first + r < rows->n_rows ? first + r : rows->n_rows - 1;
    return (const uint8_t *)rows->data + at * rows->row_bytes;
}

KERN_INLINE void pack_panel(enum kern_type type, const struct kern_matrix *rows, size_t first,
                            uint8_t *panel)
{
    uint32_t chunk_cols = unpack_block(type), block_bytes = kern_type_info(type)->block_bytes;
    size_t codes_at = packed_codes_at(type, rows->n_cols);
    uint8_t u[UNPACK_VALUES];
    memset(panel, 0, codes_at);
    for (uint32_t i = 0; i < ROWS; i++) {
        const uint8_t *row = row_of_piece(rows, first, i);
        uint8_t *head = panel, *codes = panel + codes_at;
        for (uint32_t c = 0; c < rows->n_cols; c += chunk_cols) {
            put_head(type, head, i, row);
            if (!nibbles_at(type))
                stored_codes(type, row, u);
            for (uint32_t b = 0; b < chunk_cols; b += KERN_BLOCK) {
                if (nibbles_at(type))
                    put_nibbles(codes + 4 * i, row + nibbles_at(type) + b / 2);
                else
                    put_codes(type, codes, i, u + b);
                codes += packed_code_bytes(type);
            }
            head += packed_head_bytes(type);
            row += block_bytes;
        }
    }
}

/* dst: of the whole matrix. */
KERN_INLINE void pack_tile(enum kern_type type, const struct kern_matrix *rows, uint32_t tile,
                           uint8_t *dst)
{
    uint32_t chunk_cols = unpack_block(type), block_bytes = kern_type_info(type)->block_bytes;
    size_t column_bytes = packed_column_bytes(type), head_bytes = packed_head_bytes(type);
    uint8_t u[KERN_COLUMN_ROWS][UNPACK_VALUES], code[KERN_COLUMN_ROWS];
    for (uint32_t chunk = 0; chunk < rows->n_cols / chunk_cols; chunk++) {
        uint8_t *begin = dst + chunk * packed_chunk_bytes(type, rows->n_rows);
        uint8_t *head = begin + tile * COLUMN_PANELS * head_bytes;
        uint8_t *column = begin + packed_columns_at(type, rows->n_rows) + tile * column_bytes;
        memset(head, 0, COLUMN_PANELS * head_bytes);
        for (uint32_t r = 0; r < KERN_COLUMN_ROWS; r++) {
            const uint8_t *block = row_of_piece(rows, (size_t)tile * KERN_COLUMN_ROWS, r) +
                                   (size_t)chunk * block_bytes;
            put_head(type, head + r / ROWS * head_bytes, r % ROWS, block);
            stored_codes(type, block, u[packed_column_code(r)]);
        }
        for (uint32_t c = 0; c < chunk_cols; c++) {
            for (uint32_t i = 0; i < KERN_COLUMN_ROWS; i++)
                code[i] = u[i][c];
            memset(column, 0, column_bytes);
            put_column(type, column, code);
            column += packed_column_step(type, rows->n_rows);
        }
    }
}

KERN_INLINE void pack_pieces(enum kern_type type, const struct kern_matrix *rows,
                             enum kern_layout layout, uint32_t piece0, uint32_t piece1,
                             uint8_t *dst)
{
    for (uint32_t p = piece0; p < piece1; p++) {
        if (layout == KERN_LAYOUT_COLUMNS)
            pack_tile(type, rows, p, dst);
        else
            pack_panel(type, rows, (size_t)p * ROWS,
                       dst + p * packed_panel_bytes(type, rows->n_cols));
    }
}

/* One instance per type, as in panel.h. */
#define PACK_CASE(type)                                                                            \
    case type:                                                                                     \
        pack_pieces(type, rows, layout, piece0, piece1, dst);                                      \
        break;

void kern_pack(const struct kern_matrix *rows, enum kern_layout layout, uint32_t piece0,
               uint32_t piece1, void *dst)
{
    switch (rows->type) {
        UNPACK_EACH_TYPE(PACK_CASE)
    default:
        break;
    }
}

/* Row r of a matrix in panels. */
static void unpack_panel(const struct kern_matrix *w, size_t row, uint32_t col, uint32_t n,
                         const struct unpacked *out)
{
    uint32_t chunk_cols = unpack_block(w->type), group = unpack_group(w->type), i = row % ROWS;
    const uint8_t *panel = (const uint8_t *)w->data +
                           row / ROWS * packed_panel_bytes(w->type, w->n_cols);
    const uint8_t *codes = panel + packed_codes_at(w->type, w->n_cols);
    for (uint32_t c = col; c < col + n; c += group)
        get_group(w->type, panel + (size_t)(c / chunk_cols) * packed_head_bytes(w->type), i,
                  c % chunk_cols / group, &out->s[(c - col) / group * out->stride],
                  &out->m[(c - col) / group * out->stride]);
    for (uint32_t c = 0; c < n; c += KERN_BLOCK)
        get_codes(w->type, codes + (size_t)((col + c) / KERN_BLOCK) * packed_code_bytes(w->type), i,
                  out->u + c);
}

/* And in columns. */
static void unpack_tile(const struct kern_matrix *w, size_t row, uint32_t col, uint32_t n,
                        const struct unpacked *out)
{
    uint32_t chunk_cols = unpack_block(w->type), group = unpack_group(w->type);
    const uint8_t *data = w->data;
    const uint8_t *codes = data + row / KERN_COLUMN_ROWS * packed_column_bytes(w->type);
    for (uint32_t c = col; c < col + n; c += group) {
        const uint8_t *chunk = data + c / chunk_cols * packed_chunk_bytes(w->type, w->n_rows);
        get_group(w->type, chunk + row / ROWS * packed_head_bytes(w->type), row % ROWS,
                  c % chunk_cols / group, &out->s[(c - col) / group * out->stride],
                  &out->m[(c - col) / group * out->stride]);
    }
    for (uint32_t c = 0; c < n; c++)
        out->u[c] = get_column_code(w->type, codes + packed_column_at(w->type, w->n_rows, col + c),
                                    row % KERN_COLUMN_ROWS);
}

void packed_unpack(const struct kern_matrix *w, size_t row, uint32_t col, uint32_t n,
                   const struct unpacked *out)
{
    if (w->layout == KERN_LAYOUT_COLUMNS)
        unpack_tile(w, row, col, n, out);
    else
        unpack_panel(w, row, col, n, out);
    look_up(w->type, out->u, n);
}
