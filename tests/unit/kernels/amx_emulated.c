/* SPDX-License-Identifier: Apache-2.0
 *
 * amx_emulated.c - avx512amx.c once more, with functions in place of AMX's instructions.  They do what
 * Intel's manual says of each.  A file of its own, since it is compiled for processors with AVX-512.
 */
#include "tests/unit/kernels/amx_emulated.h"

#include <criterion/criterion.h>
#include <immintrin.h>
#include <string.h>

static struct {
    uint32_t n_rows[8], row_bytes[8];
    uint8_t bytes[8][16][64];
} tiles;
static uint32_t n_products;

uint32_t amx_n_products(void)
{
    return n_products;
}

static void emulated_config(const void *config)
{
    const uint8_t *c = config;
    cr_assert_eq(c[0], 1, "palette");
    memset(&tiles, 0, sizeof(tiles));
    for (int i = 0; i < 8; i++) {
        tiles.n_rows[i] = c[48 + i];
        tiles.row_bytes[i] = (uint32_t)(c[16 + 2 * i] | c[17 + 2 * i] << 8);
        cr_assert(tiles.n_rows[i] <= 16 && tiles.row_bytes[i] <= 64);
    }
}

static void emulated_load(int tile, const void *base, size_t stride)
{
    memset(tiles.bytes[tile], 0, sizeof(tiles.bytes[tile]));
    for (uint32_t r = 0; r < tiles.n_rows[tile]; r++)
        memcpy(tiles.bytes[tile][r], (const uint8_t *)base + r * stride, tiles.row_bytes[tile]);
}

static void emulated_store(int tile, void *base, size_t stride)
{
    for (uint32_t r = 0; r < tiles.n_rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles.bytes[tile][r], tiles.row_bytes[tile]);
}

static void emulated_zero(int tile)
{
    memset(tiles.bytes[tile], 0, sizeof(tiles.bytes[tile]));
}

/* c[m][n] += the sum over k and four bytes of a[m][k] (signed) * b[k][n] (unsigned). */
static void emulated_dpbsud(int c, int a, int b)
{
    n_products++;
    cr_assert_eq(tiles.n_rows[c], tiles.n_rows[a]);
    cr_assert_eq(tiles.row_bytes[c], tiles.row_bytes[b]);
    cr_assert_eq(tiles.row_bytes[a], 4 * tiles.n_rows[b]);
    for (uint32_t m = 0; m < tiles.n_rows[c]; m++)
        for (uint32_t n = 0; n < tiles.row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tiles.bytes[c][m][4 * n], 4);
            for (uint32_t k = 0; k < tiles.n_rows[b]; k++)
                for (uint32_t i = 0; i < 4; i++)
                    sum += (int8_t)tiles.bytes[a][m][4 * k + i] *
                           (int32_t)tiles.bytes[b][k][4 * n + i];
            memcpy(&tiles.bytes[c][m][4 * n], &sum, 4);
        }
}

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#undef _tile_release
#define _tile_loadconfig(config) emulated_config(config)
#define _tile_loadd(tile, base, stride) emulated_load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated_store(tile, base, stride)
#define _tile_zero(tile) emulated_zero(tile)
#define _tile_dpbsud(c, a, b) emulated_dpbsud(c, a, b)
#define _tile_release() ((void)0)
#define kern_avx512amx amx_emulated

#include "kernels/avx512amx.c"
