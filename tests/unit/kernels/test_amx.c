/* SPDX-License-Identifier: Apache-2.0
 *
 * test_amx.c - the logic of avx512amx.c with its instructions emulated, where there is AVX-512: the bits are
 * those of the reference.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/unit/kernels/amx_emulated.h"
#include "tests/support/random_blocks.h"

enum { MAX_TOKENS = 45 };

static float *product(const struct kern_table *k, const struct kern_matrix *w,
                      const struct kern_act *act, uint32_t t0, uint32_t t1)
{
    struct kern_input in = { .act = act };
    float *y = malloc((size_t)MAX_TOKENS * w->n_rows * sizeof(float));
    memset(y, 0xff, (size_t)MAX_TOKENS * w->n_rows * sizeof(float));
    k->mul_mat(w, 0, w->n_rows, &in, t0, t1, y + (size_t)t0 * w->n_rows, w->n_rows);
    return y;
}

static void check_tokens(const struct kern_matrix *w, const struct kern_matrix *packed,
                         const struct kern_act *act, uint32_t t0, uint32_t t1)
{
    float *expected = product(kern_select("ref"), w, act, t0, t1);
    const struct kern_matrix *layouts[] = { w, packed };
    for (int i = 0; i < 2; i++) {
        float *y = product(amx_emulated(), layouts[i], act, t0, t1);
        cr_assert_eq(memcmp(y, expected, (size_t)MAX_TOKENS * w->n_rows * sizeof(float)), 0,
                     "%s, %u x %u, tokens %u to %u, layout %d", kern_type_info(w->type)->name,
                     w->n_rows, w->n_cols, t0, t1, i);
        free(y);
    }
    free(expected);
}

static void check_matrix(enum kern_type type, uint32_t rows, uint32_t cols)
{
    struct kern_matrix w = { .type = type, .n_rows = rows, .n_cols = cols };
    struct kern_act act;
    float *x = random_floats((size_t)MAX_TOKENS * cols, 3);
    w.row_bytes = random_row_bytes(type, cols);
    w.data = random_rows(type, rows, cols, 4);
    random_act_init(&act, MAX_TOKENS, cols);
    random_act_quantise(kern_select("ref"), x, &act, MAX_TOKENS);
    void *data = aligned_alloc(64, kern_packed_bytes(KERN_LAYOUT_PANELS, type, rows, cols));
    struct kern_matrix packed = w;
    kern_pack(&w, KERN_LAYOUT_PANELS, 0, (rows + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS, data);
    packed.layout = KERN_LAYOUT_PANELS;
    packed.data = data;
    check_tokens(&w, &packed, &act, 0, 16);
    check_tokens(&w, &packed, &act, 1, MAX_TOKENS);
    check_tokens(&w, &packed, &act, 5, 38);
    free(data);
    free((void *)(uintptr_t)w.data);
    free(x);
    random_act_fini(&act);
}

Test(amx, gives_the_bits_of_ref)
{
    if (!kern_cpu_detect().avx512_vnni)
        cr_skip_test("no AVX-512 here");
    for (uint32_t t = 0; t < KERN_N_TYPES; t++) {
        const struct kern_type_info *info = kern_type_info(t);
        if (!info->supported || info->group_values == 0)
            continue;
        uint32_t unit = info->block_values;
        check_matrix((enum kern_type)t, 40, unit);
        check_matrix((enum kern_type)t, 17, 3 * unit);
        check_matrix((enum kern_type)t, 16, unit == 32 ? 53 * unit : 5 * unit);
    }
    cr_assert_gt(amx_n_products(), 10000u);
}

Test(amx, few_tokens_go_another_way)
{
    if (!kern_cpu_detect().avx512_vnni)
        cr_skip_test("no AVX-512 here");
    uint32_t before = amx_n_products();
    struct kern_matrix w = { .type = KERN_TYPE_Q8_0, .n_rows = 16, .n_cols = 32 };
    struct kern_act act;
    float *x = random_floats(32 * 15, 3);
    w.row_bytes = random_row_bytes(w.type, 32);
    w.data = random_rows(w.type, 16, 32, 4);
    random_act_init(&act, 15, 32);
    random_act_quantise(kern_select("ref"), x, &act, 15);
    free(product(amx_emulated(), &w, &act, 0, 15));
    cr_assert_eq(amx_n_products(), before);
    free((void *)(uintptr_t)w.data);
    free(x);
    random_act_fini(&act);
}

Test(amx, is_not_chosen_unasked)
{
    cr_assert(strcmp(kern_select(NULL)->name, "avx512amx") != 0);
    cr_assert_not_null(strstr(kern_names(), "avx512amx"));
}
