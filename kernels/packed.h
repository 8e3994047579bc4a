/* SPDX-License-Identifier: Apache-2.0
 *
 * packed.h - quantised weights in panels and in columns: what lies where, for pack.c, which writes it, and
 * panel.h and columns.h, which multiply.
 *
 * A panel is 16 rows side by side, so that a vector of 16 dwords holds the same four columns of all of
 * them; panels follow each other, the last one filled up with its last row.  In a panel:
 *     heads   one per chunk (32 columns; 256 for types with super-blocks): the scales of 16 rows
 *     (to a multiple of 64)
 *     codes   one per block of 32 columns: the stored integers of 16 rows, as planes of bits
 * which takes the bytes that the rows took, but for the padding.
 *
 * Planes of a block; dword i of each 64 bytes is row i's; k counts fours of columns, j is the byte:
 *     4 bits  4 x 64   byte j of unit k: column 4k + j low, 16 + 4k + j high
 *     8 bits  8 x 64   byte j of unit k: column 4k + j
 *     2 bits  2 x 64   byte j of unit h, bits 2k, 2k + 1: column 16h + 4k + j
 *     1 bit   1 x 64   byte j, bit k: column 4k + j; bit 4 + k: column 16 + 4k + j
 * Five bits are four and one, and so on; the larger plane comes first and holds the low bits.
 *
 * Heads, of 16 rows each: "f16" is 16 of them.
 *     Q4_0 Q5_0 Q8_0 IQ4_NL   f16 scale
 *     Q4_1 Q5_1               f16 scale, f16 minimum
 *     MXFP4                   u8 exponent
 *     Q8_K                    f32 scale
 *     Q6_K                    f16 d, 16 x s8 (of a group each)
 *     Q2_K                    f16 d, f16 dmin, 16 x u8 (scale low, minimum high)
 *     Q3_K, IQ4_XS            f16 d, 16 or 8 six-bit scales
 *     Q4_K, Q5_K              f16 d, f16 dmin, 16 six-bit numbers: 8 scales, 8 minima
 * n six-bit numbers of 16 rows are n / 2 x 16 bytes of low halves (two numbers a byte), then n / 4 x 16
 * bytes of the two top bits (four numbers a byte).
 *
 * In columns, rows are filled up to tiles of 128 by the last one, and chunk follows chunk:
 *     heads   one per panel, as above: those of a tile are whole lines
 *     codes   one per column: the stored integers of all rows, as planes of bits of a tile each
 * so that those of a column that is multiplied by zero are never touched, and those of others come in long pieces.  A
 * plane of n bits has 16 n bytes: row r of the tile is code i = 64 (r / 64) + 16 (r / 4 % 4) + 4 (r / 16 % 4) + r % 4
 * of it, which is byte i % (16 n), from bit n (i / (16 n)) on.  Four columns, interleaved byte by byte within each 16
 * bytes, then have the dwords of a panel's rows in order (w16_quads).
 */
#ifndef LACUNA_KERNELS_PACKED_H
#define LACUNA_KERNELS_PACKED_H

#include "kernels/unpack.h"

enum { PACKED_D = 2 * KERN_PANEL_ROWS }; /* bytes of a binary16 of each row */

/* Blocks of 32 columns that have one head. */
static inline uint32_t packed_chunk_blocks(enum kern_type type)
{
    return unpack_block(type) / KERN_BLOCK;
}

static inline uint32_t packed_bits(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_Q2_K:
        return 2;
    case KERN_TYPE_Q3_K:
        return 3;
    case KERN_TYPE_Q5_0:
    case KERN_TYPE_Q5_1:
    case KERN_TYPE_Q5_K:
        return 5;
    case KERN_TYPE_Q6_K:
        return 6;
    case KERN_TYPE_Q8_0:
    case KERN_TYPE_Q8_K:
        return 8;
    default:
        return 4;
    }
}

/* Bits of the first plane; the second has what is missing. */
static inline uint32_t packed_low_bits(enum kern_type type)
{
    uint32_t bits = packed_bits(type);
    return bits == 3 ? 2 : bits > 4 && bits < 8 ? 4 : bits;
}

static inline uint32_t packed_code_bytes(enum kern_type type)
{
    return 64 * packed_bits(type);
}

static inline uint32_t packed_six_bytes(uint32_t n)
{
    return n * KERN_PANEL_ROWS * 6 / 8;
}

/* Six-bit numbers in a head. */
static inline uint32_t packed_n_six(enum kern_type type)
{
    return type == KERN_TYPE_IQ4_XS ? 8 : 16;
}

static inline uint32_t packed_head_bytes(enum kern_type type)
{
    switch (type) {
    case KERN_TYPE_Q4_1:
    case KERN_TYPE_Q5_1:
        return 2 * PACKED_D;
    case KERN_TYPE_MXFP4:
        return KERN_PANEL_ROWS;
    case KERN_TYPE_Q8_K:
        return 4 * KERN_PANEL_ROWS;
    case KERN_TYPE_Q6_K:
        return PACKED_D + 16 * KERN_PANEL_ROWS;
    case KERN_TYPE_Q2_K:
        return 2 * PACKED_D + 16 * KERN_PANEL_ROWS;
    case KERN_TYPE_Q3_K:
    case KERN_TYPE_IQ4_XS:
        return PACKED_D + packed_six_bytes(packed_n_six(type));
    case KERN_TYPE_Q4_K:
    case KERN_TYPE_Q5_K:
        return 2 * PACKED_D + packed_six_bytes(packed_n_six(type));
    default:
        return PACKED_D;
    }
}

/* Where the codes begin in a panel. */
static inline size_t packed_codes_at(enum kern_type type, uint32_t n_cols)
{
    size_t heads = (size_t)(n_cols / unpack_block(type)) * packed_head_bytes(type);
    return (heads + 63) / 64 * 64;
}

static inline size_t packed_panel_bytes(enum kern_type type, uint32_t n_cols)
{
    return packed_codes_at(type, n_cols) + (size_t)(n_cols / KERN_BLOCK) * packed_code_bytes(type);
}

/* ---- columns ---- */

enum { COLUMN_PANELS = KERN_COLUMN_ROWS / KERN_PANEL_ROWS };

static inline uint32_t packed_n_tiles(uint32_t n_rows)
{
    return (n_rows + KERN_COLUMN_ROWS - 1) / KERN_COLUMN_ROWS;
}

/* Of a tile. */
static inline uint32_t packed_column_bytes(enum kern_type type)
{
    return KERN_COLUMN_ROWS / 8 * packed_bits(type);
}

/* From a column to the next one. */
static inline size_t packed_column_step(enum kern_type type, uint32_t n_rows)
{
    return (size_t)packed_n_tiles(n_rows) * packed_column_bytes(type);
}

/* Where the codes begin in a chunk. */
static inline size_t packed_columns_at(enum kern_type type, uint32_t n_rows)
{
    return (size_t)packed_n_tiles(n_rows) * COLUMN_PANELS * packed_head_bytes(type);
}

static inline size_t packed_chunk_bytes(enum kern_type type, uint32_t n_rows)
{
    return packed_columns_at(type, n_rows) + unpack_block(type) * packed_column_step(type, n_rows);
}

/* Where a chunk begins, by one of its columns. */
static inline size_t packed_chunk_at(enum kern_type type, uint32_t n_rows, uint32_t col)
{
    return col / unpack_block(type) * packed_chunk_bytes(type, n_rows);
}

/* A column's codes, those of the first tile. */
static inline size_t packed_column_at(enum kern_type type, uint32_t n_rows, uint32_t col)
{
    return packed_chunk_at(type, n_rows, col) + packed_columns_at(type, n_rows) +
           col % unpack_block(type) * packed_column_step(type, n_rows);
}

/* The number of a row's code in its column. */
static inline uint32_t packed_column_code(uint32_t r)
{
    return r / 64 * 64 + r / 4 % 4 * 16 + r / 16 % 4 * 4 + r % 4;
}

#endif
