/* SPDX-License-Identifier: Apache-2.0
 *
 * test_repack.c - panels made while a tensor's bytes arrive are those made of all of it.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "engine/model/repack.h"
#include "kernels/kernels.h"

enum { N_COLS = 64, N_ROWS = 40, N_MATRICES = 3 }; /* two panels and a half each */

static struct gguf_tensor random_tensor(uint8_t *rows, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        rows[i] = (uint8_t)rand();
    return (struct gguf_tensor){ .name = "w",
                                 .type = KERN_TYPE_Q4_0,
                                 .ne = { N_COLS, N_ROWS, N_MATRICES, 1 },
                                 .bytes = bytes,
                                 .data = rows };
}

/* Bytes of the rows of all panels that are there. */
static uint64_t whole_panels(uint64_t ready)
{
    uint64_t row = N_COLS / 32 * 18, panel = KERN_PANEL_ROWS * row, matrix = N_ROWS * row;
    return ready / matrix * matrix + ready % matrix / panel * panel;
}

Test(repack, panels_made_piece_by_piece_are_those_made_at_once)
{
    struct workers *workers;
    srand(1);
    cr_assert(workers_open(&workers, 2, false, NULL) == 0);
    size_t bytes = (size_t)N_MATRICES * N_ROWS * (N_COLS / 32) * 18;
    uint8_t *rows = malloc(bytes);
    struct gguf_tensor t = random_tensor(rows, bytes);
    size_t packed = repack_bytes(&t);
    uint8_t *whole = aligned_alloc(64, packed), *pieces = aligned_alloc(64, packed);
    cr_assert_eq(repack_make(workers, &t, 0, bytes, whole), bytes);
    for (uint32_t round = 0; round < 200; round++) {
        memset(pieces, 0, packed);
        uint64_t taken = 0, ready = 0;
        while (ready < bytes) {
            ready += 1 + (uint64_t)rand() % 1500;
            ready = ready < bytes ? ready : bytes;
            uint64_t now = repack_make(workers, &t, taken, ready, pieces);
            cr_assert_eq(now, whole_panels(ready), "round %u", round);
            taken = now;
        }
        cr_assert_eq(taken, bytes);
        cr_assert(memcmp(whole, pieces, packed) == 0, "round %u", round);
    }
    free(rows);
    free(whole);
    free(pieces);
    workers_close(workers);
}
