/* SPDX-License-Identifier: Apache-2.0
 *
 * test_ffn.c - where neurons that ReLU makes zero are skipped, those and no others are, with the same bits.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward/forward.h"
#include "tests/support/random_blocks.h"

enum { N_EMBD = 64, N_FF = 160, MAX_TOKENS = 8, ROOM = KERN_TILE_ROWS * MAX_TOKENS };

static uint32_t n_picked;

static void counting_mul_rows(const struct kern_matrix *w, const uint32_t *rows, uint32_t n_rows,
                              const struct kern_input *x, uint32_t t, float *y)
{
    n_picked += n_rows;
    kern_select(NULL)->mul_rows(w, rows, n_rows, x, t, y);
}

struct layer {
    struct arch arch;
    struct model_shape shape;
    struct kern_table kern;
    struct forward f;
    struct neuron_count count;
    struct kern_matrix gate, up, down;
    float *gate_bias, *up_bias;
    struct kern_act act;
    struct kern_input in;
    struct activations hidden;
    struct gated g;
    float tiles[2 * ROOM];
    uint32_t active[ROOM];
};

static struct kern_matrix random_matrix(uint32_t seed)
{
    return (struct kern_matrix){ .type = KERN_TYPE_Q8_0,
                                 .n_rows = N_FF,
                                 .n_cols = N_EMBD,
                                 .row_bytes = random_row_bytes(KERN_TYPE_Q8_0, N_EMBD),
                                 .data = random_rows(KERN_TYPE_Q8_0, N_FF, N_EMBD, seed) };
}

/* bias: of gate, for all neurons; the lower the fewer are active. */
static struct layer *layer_open(float bias, uint32_t n_tokens, bool has_up_bias)
{
    struct layer *l = calloc(1, sizeof(*l));
    float *x = random_floats((size_t)MAX_TOKENS * N_EMBD, 3);
    l->kern = *kern_select(NULL);
    l->kern.mul_rows = counting_mul_rows;
    l->shape = (struct model_shape){ .arch = &l->arch, .activation = KERN_ACTIVATION_RELU };
    l->f = (struct forward){ .shape = &l->shape,
                             .kern = &l->kern,
                             .opt.skips_zeros = true,
                             .n_rows = n_tokens,
                             .tiles = l->tiles,
                             .active = l->active,
                             .neurons = &l->count,
                             .tile_values = ROOM };
    l->gate = random_matrix(1);
    l->up = random_matrix(2);
    l->down = (struct kern_matrix){ .type = KERN_TYPE_Q8_0, .layout = KERN_LAYOUT_COLUMNS };
    l->gate_bias = malloc(N_FF * sizeof(float));
    for (uint32_t i = 0; i < N_FF; i++)
        l->gate_bias[i] = bias;
    l->up_bias = random_floats(N_FF, 4);
    random_act_init(&l->act, MAX_TOKENS, N_EMBD);
    random_act_quantise(&l->kern, x, &l->act, MAX_TOKENS);
    free(x);
    l->in = (struct kern_input){ .act = &l->act };
    l->hidden.n = N_FF;
    random_act_init(&l->hidden.act, MAX_TOKENS, N_FF);
    l->g = (struct gated){ .gate = &l->gate,
                           .up = &l->up,
                           .up_rows = &l->up,
                           .gate_bias = l->gate_bias,
                           .up_bias = has_up_bias ? l->up_bias : NULL,
                           .down = &l->down,
                           .in = &l->in,
                           .hidden = &l->hidden };
    return l;
}

static void layer_close(struct layer *l)
{
    free((void *)(uintptr_t)l->gate.data);
    free((void *)(uintptr_t)l->up.data);
    free(l->gate_bias);
    free(l->up_bias);
    random_act_fini(&l->act);
    random_act_fini(&l->hidden.act);
    free(l);
}

/* Codes and scales of the hidden activations, to compare. */
struct codes {
    int8_t q[MAX_TOKENS * N_FF];
    float d[MAX_TOKENS * N_FF / KERN_BLOCK];
};

static struct codes compute(struct layer *l, bool skips)
{
    struct codes c = { 0 };
    n_picked = 0;
    l->f.opt.skips_zeros = skips;
    l->count = (struct neuron_count){ 0 };
    ffn_hidden_tile(&l->f, &l->g, 0, N_FF, 0, l->f.n_rows);
    memcpy(c.q, l->hidden.act.q, (size_t)l->f.n_rows * N_FF);
    memcpy(c.d, l->hidden.act.d, (size_t)l->f.n_rows * N_FF / KERN_BLOCK * sizeof(float));
    return c;
}

/* Positive outputs of gate, by the reference. */
static uint32_t n_active(const struct layer *l)
{
    uint32_t n = 0;
    float y[MAX_TOKENS * N_FF];
    kern_select("ref")->mul_mat(&l->gate, 0, N_FF, &l->in, 0, l->f.n_rows, y, N_FF);
    for (uint32_t i = 0; i < l->f.n_rows * N_FF; i++)
        n += y[i] + l->gate_bias[i % N_FF] > 0.0f;
    return n;
}

Test(ffn, rows_of_up_can_be_picked_where_down_lies_in_columns)
{
    struct layer *l = layer_open(0, 1, false);
    cr_expect_eq(ffn_rows_to_pick(&l->f, &l->up, &l->down), &l->up);
    l->down.layout = KERN_LAYOUT_PANELS;
    cr_expect_null(ffn_rows_to_pick(&l->f, &l->up, &l->down));
    layer_close(l);
}

static void expect_picked(float bias, uint32_t n_tokens, bool has_up_bias, bool are_picked)
{
    struct layer *l = layer_open(bias, n_tokens, has_up_bias);
    struct codes all = compute(l, false);
    cr_expect_eq(n_picked, 0);
    struct codes active = compute(l, true);
    uint32_t n = n_active(l);
    cr_expect_eq(n_picked, are_picked ? n : 0, "%u of %u", n_picked, n);
    cr_expect(l->count.n_all == n_tokens * N_FF && l->count.n[SPARSITY_UP] == n, "%u",
              (unsigned)l->count.n[SPARSITY_UP]);
    cr_expect_eq(memcmp(&active, &all, sizeof(all)), 0);
    layer_close(l);
}

Test(ffn, rows_of_up_are_multiplied_for_active_neurons_only)
{
    for (uint32_t n_tokens = 1; n_tokens <= MAX_TOKENS; n_tokens++)
        for (int has_up_bias = 0; has_up_bias < 2; has_up_bias++)
            expect_picked(-20.0f, n_tokens, has_up_bias, true);
    expect_picked(-1e6f, 2, false, true);
}

Test(ffn, where_most_neurons_are_active_all_rows_are_multiplied_at_once)
{
    for (int has_up_bias = 0; has_up_bias < 2; has_up_bias++)
        expect_picked(1e6f, MAX_TOKENS, has_up_bias, false);
    expect_picked(1e6f, 1, false, true);
}

Test(ffn, but_not_where_the_plan_says_that_picking_is_faster)
{
    struct layer *l = layer_open(1e6f, MAX_TOKENS, true);
    struct codes all = compute(l, false);
    l->g.picks_always = true;
    struct codes picked = compute(l, true);
    cr_expect_eq(n_picked, MAX_TOKENS * N_FF);
    cr_expect_eq(memcmp(&picked, &all, sizeof(all)), 0);
    layer_close(l);
}
