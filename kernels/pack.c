/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.c - rows to panels (packed.h), and back for whoever wants one row.
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

/* ---- matrices ---- */

size_t kern_packed_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols)
{
    size_t n_panels = ((size_t)n_rows + ROWS - 1) / ROWS;
    return n_panels * packed_panel_bytes(type, n_cols);
}

size_t kern_matrix_bytes(const struct kern_matrix *w)
{
    return w->layout == KERN_LAYOUT_PANELS ? kern_packed_bytes(w->type, w->n_rows, w->n_cols)
                                           : w->n_rows * w->row_bytes;
}

KERN_INLINE void pack_row_type(enum kern_type type, const uint8_t *row, uint32_t n_cols,
                               uint8_t *panel, uint32_t i)
{
    uint32_t chunk_cols = unpack_block(type), block_bytes = kern_type_info(type)->block_bytes;
    uint8_t *codes = panel + packed_codes_at(type, n_cols), u[UNPACK_VALUES];
    for (uint32_t c = 0; c < n_cols; c += chunk_cols) {
        put_head(type, panel, i, row);
        stored_codes(type, row, u);
        for (uint32_t b = 0; b < chunk_cols; b += KERN_BLOCK) {
            put_codes(type, codes, i, u + b);
            codes += packed_code_bytes(type);
        }
        panel += packed_head_bytes(type);
        row += block_bytes;
    }
}

/* One instance per type, as in panel.h. */
#define PACK_CASE(type)                                                                            \
    case type:                                                                                     \
        pack_row_type(type, row, w->n_cols, panel, i);                                             \
        break;

static void pack_row(const struct kern_matrix *w, const uint8_t *row, uint8_t *panel, uint32_t i)
{
    switch (w->type) {
        UNPACK_EACH_TYPE(PACK_CASE)
    default:
        break;
    }
}

void kern_pack(const struct kern_matrix *rows, uint32_t panel0, uint32_t panel1, void *dst)
{
    size_t bytes = packed_panel_bytes(rows->type, rows->n_cols);
    for (size_t p = panel0; p < panel1; p++) {
        uint8_t *panel = (uint8_t *)dst + p * bytes;
        memset(panel, 0, packed_codes_at(rows->type, rows->n_cols));
        for (uint32_t i = 0; i < ROWS; i++) {
            size_t r = p * ROWS + i < rows->n_rows ? p * ROWS + i : rows->n_rows - 1;
            pack_row(rows, (const uint8_t *)rows->data + r * rows->row_bytes, panel, i);
        }
    }
}

void packed_unpack(const struct kern_matrix *w, size_t row, uint32_t col, uint32_t n,
                   const struct unpacked *out)
{
    uint32_t chunk_cols = unpack_block(w->type), i = (uint32_t)(row % ROWS);
    uint32_t group = unpack_group(w->type), n_groups = n / group;
    const uint8_t *panel = (const uint8_t *)w->data +
                           row / ROWS * packed_panel_bytes(w->type, w->n_cols);
    const uint8_t *codes = panel + packed_codes_at(w->type, w->n_cols) +
                           (size_t)(col / KERN_BLOCK) * packed_code_bytes(w->type);
    for (uint32_t g = 0; g < n_groups; g++) {
        uint32_t at = col + g * group;
        get_group(w->type, panel + (size_t)(at / chunk_cols) * packed_head_bytes(w->type), i,
                  at % chunk_cols / group, &out->s[g * out->stride], &out->m[g * out->stride]);
    }
    for (uint32_t b = 0; b < n / KERN_BLOCK; b++)
        get_codes(w->type, codes + (size_t)b * packed_code_bytes(w->type), i,
                  out->u + KERN_BLOCK * b);
    look_up(w->type, out->u, n);
}
