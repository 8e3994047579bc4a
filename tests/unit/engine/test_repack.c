/* SPDX-License-Identifier: Apache-2.0
 *
 * test_repack.c - panels made while a tensor's bytes arrive are those made of all of it.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "engine/model/repack.h"
#include "kernels/kernels.h"
#include "tests/support/gguf_build.h"

enum { N_COLS = 64, N_ROWS = 40, N_MATRICES = 3 }; /* two panels and a half each */

static struct gguf_tensor random_tensor(uint8_t *rows, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        rows[i] = (uint8_t)rand();
    return (struct gguf_tensor){ .name = "w",
                                 .type = KERN_TYPE_Q4_0,
                                 .target = KERN_LAYOUT_PANELS,
                                 .twin = KERN_LAYOUT_PANELS,
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

static const char *const layout_names[] = { "rows", "panels", "columns" };

/* A file with the matrices of one layer, all Q4_0 but for the last, and what rules make of them; twins NULL: none. */
static void expect_layouts(const struct repack_rules *rules, const enum kern_layout *targets,
                           const enum kern_layout *twins)
{
    static const char *const names[] = {
        "blk.0.attn_q.weight",       "blk.0.ffn_gate.weight",       "blk.0.ffn_up.weight",
        "blk.0.ffn_down.weight",     "blk.0.ffn_up_exps.weight",    "blk.0.ffn_down_exps.weight",
        "blk.0.ffn_up_shexp.weight", "blk.0.ffn_down_shexp.weight", "blk.0.ffn_down_norm.weight",
        "blk.1.ffn_down.weight"
    };
    enum { N = sizeof(names) / sizeof(names[0]) };
    struct gguf_build b = GGUF_BUILD_INIT;
    unsigned char data[64 * 64 * 2] = { 0 };
    for (uint32_t i = 0; i < N; i++)
        gguf_build_tensor(&b, names[i], i == N - 1 ? KERN_TYPE_F16 : KERN_TYPE_Q4_0, 2,
                          (uint64_t[]){ 64, 64 }, data, i == N - 1 ? sizeof(data) : 64 * 36);
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len);
    struct engine_err err = { 0 };
    struct gguf *g;
    cr_assert_eq(gguf_open_memory(&g, file, len, len, &err), 0, "%s", err.text);
    repack_choose(g, rules);
    for (uint32_t i = 0; i < N; i++) {
        const struct gguf_tensor *t = gguf_find_tensor(g, names[i]);
        cr_expect_eq(t->target, targets[i], "%s: %s", names[i], layout_names[t->target]);
        cr_expect_eq(t->twin, twins ? twins[i] : targets[i], "%s: and %s", names[i],
                     layout_names[t->twin]);
        uint64_t twin_bytes = repack_memory_bytes(t) -
                              (repack_wants(t) ? repack_bytes(t) : t->bytes);
        cr_expect_eq(twin_bytes > 0, t->twin != t->target, "%s", names[i]);
    }
    gguf_close(g);
    free(file);
}

Test(repack, where_zeros_are_skipped_down_lies_in_columns_and_a_gated_up_in_rows)
{
    const enum kern_layout R = KERN_LAYOUT_ROWS, P = KERN_LAYOUT_PANELS, C = KERN_LAYOUT_COLUMNS;
    expect_layouts(&(struct repack_rules){ 0 },
                   (enum kern_layout[]){ P, P, P, P, P, P, P, P, P, R }, NULL);
    expect_layouts(&(struct repack_rules){ .skips_zeros = true },
                   (enum kern_layout[]){ P, P, P, C, P, C, P, C, P, R }, NULL);
    expect_layouts(&(struct repack_rules){ .skips_zeros = true, .is_gated = true },
                   (enum kern_layout[]){ P, P, R, C, R, C, R, C, P, R }, NULL);
}

Test(repack, that_of_a_dense_layer_may_lie_in_panels_too)
{
    const enum kern_layout R = KERN_LAYOUT_ROWS, P = KERN_LAYOUT_PANELS, C = KERN_LAYOUT_COLUMNS;
    expect_layouts(
        &(struct repack_rules){ .skips_zeros = true, .is_gated = true, .keeps_panels = true },
        (enum kern_layout[]){ P, P, P, P, R, C, R, C, P, R },
        (enum kern_layout[]){ P, P, R, C, R, C, R, C, P, R });
    expect_layouts(&(struct repack_rules){ .skips_zeros = true, .keeps_panels = true },
                   (enum kern_layout[]){ P, P, P, P, P, C, P, C, P, R },
                   (enum kern_layout[]){ P, P, P, C, P, C, P, C, P, R });
}
