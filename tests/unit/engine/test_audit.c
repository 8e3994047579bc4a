/* SPDX-License-Identifier: Apache-2.0
 *
 * test_audit.c - audits see how far off feed-forwards are that leave something out, change no bit, and withdraw a point that
 * loses more than was promised.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"

enum { N = 200, N_CALIBRATE = 4096 };

/* With a gate, and without one; a quantised one, laid out so that zeros may be or are skipped. */
static const struct {
    const char *path;
    enum engine_zeros zeros;
} models[] = {
    { "tests/golden/arch/llama.gguf", ENGINE_ZEROS_MULTIPLIED },
    { "tests/golden/arch/arcee.gguf", ENGINE_ZEROS_MULTIPLIED },
    { "tests/golden/quant/Q4_0.gguf", ENGINE_ZEROS_AUTO },
    { "tests/golden/quant/Q4_0.gguf", ENGINE_ZEROS_SKIPPED },
};
enum { N_MODELS = sizeof(models) / sizeof(models[0]) };

static int32_t token_at(uint32_t i)
{
    return (int32_t)((i * 2654435761u) >> 8) % 280 + 3;
}

struct seen {
    uint32_t n, point;
    double times;
};

static void see(void *ctx, uint32_t point, double times)
{
    struct seen *seen = ctx;
    *seen = (struct seen){ seen->n + 1, point, times };
}

/* Calibrated, with n_goals operating points. */
static struct engine *open_engine(size_t m, uint32_t audit_steps, uint32_t n_goals,
                                  struct seen *seen)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = models[m].path,
                                  .zeros = models[m].zeros,
                                  .n_threads = 2,
                                  .n_ctx = 1024,
                                  .n_sequences = 4,
                                  .audit_steps = audit_steps,
                                  .withdrawn = seen ? see : NULL,
                                  .withdrawn_ctx = seen };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s", err.text);
    int32_t *tokens = malloc(N_CALIBRATE * sizeof(*tokens));
    for (uint32_t i = 0; i < N_CALIBRATE; i++)
        tokens[i] = token_at(i);
    static const struct engine_goal goals[] = { { "safe", 0.01 }, { "fast", 0.1 } };
    struct engine_calibrate_options how = {
        .tokens = tokens, .n_tokens = N_CALIBRATE, .goals = goals, .n_goals = n_goals
    };
    cr_assert_eq(engine_calibrate(e, &how, &err), 0, "%s", err.text);
    free(tokens);
    return e;
}

static uint32_t point_of(struct engine *e, const char *text)
{
    struct engine_err err = { 0 };
    int point = engine_find_point(e, text, &err);
    cr_assert(point >= 0, "%s: %s", text, err.text);
    return (uint32_t)point;
}

/* N tokens, one a step.  Returns the logits of the last one, which are the caller's to free. */
static float *decode(struct engine *e, uint32_t point)
{
    struct engine_seq_options opt = { .max_tokens = N, .no_cache = true, .point = point };
    struct engine_seq *seq;
    uint32_t n_vocab = engine_info(e)->n_vocab;
    float *last = malloc(n_vocab * sizeof(*last));
    cr_assert_eq(engine_seq_open(e, &opt, &seq, NULL), 0);
    for (uint32_t i = 0; i < N; i++) {
        struct engine_row row = { .seq = seq, .token = token_at(i), .pos = i, .want_logits = true };
        cr_assert_eq(engine_seq_grow(seq, i + 1, NULL), 0);
        engine_step(e, &row, 1);
        cr_assert_eq(row.status, ENGINE_ROW_DONE);
        memcpy(last, row.logits, n_vocab * sizeof(*last));
    }
    engine_seq_close(seq);
    return last;
}

Test(audit, changes_no_bit_and_counts_no_neuron)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *without = open_engine(m, 0, 0, NULL), *with = open_engine(m, 1, 0, NULL);
        struct engine_stats before[2], after[2];
        engine_stats(without, &before[0]), engine_stats(with, &before[1]);
        uint32_t point = point_of(without, "neurons=0.5");
        cr_assert_eq(point_of(with, "neurons=0.5"), point);
        float *a = decode(without, point), *b = decode(with, point);
        cr_assert_eq(memcmp(a, b, engine_info(with)->n_vocab * sizeof(*a)), 0, "%s",
                     models[m].path);
        engine_stats(without, &after[0]), engine_stats(with, &after[1]);
        cr_assert_eq(after[0].n_neurons - before[0].n_neurons,
                     after[1].n_neurons - before[1].n_neurons);
        cr_assert_eq(after[0].n_neurons_down - before[0].n_neurons_down,
                     after[1].n_neurons_down - before[1].n_neurons_down);
        free(a), free(b);
        engine_close(without), engine_close(with);
    }
}

Test(audit, what_computes_nothing_is_off_by_all_of_it)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct engine *e = open_engine(m, 1, 0, NULL);
        struct engine_audit_stats s;
        free(decode(e, point_of(e, "neurons=0")));
        engine_audit_stats(e, &s);
        uint64_t n = 0;
        for (uint32_t g = 0; g < ENGINE_AUDIT_GROUPS; g++) {
            bool has_layers = s.group[g].layer1 > s.group[g].layer0;
            n += s.group[g].n;
            cr_expect_eq(s.group[g].n > 0, has_layers, "%s, group %u", models[m].path, g);
            cr_expect(!has_layers || fabs(s.group[g].error - 1) < 1e-6, "%s, group %u: %g",
                      models[m].path, g, s.group[g].error);
        }
        cr_expect_geq(n, N - SPARSITY_FIRST_POS, "one a step");
        engine_close(e);
    }
}

/* The errors [n_layers] of a point, times `factor`. */
static void promise(struct engine *e, uint32_t point, float factor)
{
    uint32_t n = engine_info(e)->n_layers;
    float *error = malloc(n * sizeof(*error));
    for (uint32_t l = 0; l < n; l++)
        error[l] = e->sparsity->points[point]->error[l] * factor;
    sparsity_set_errors(e->sparsity, point, error);
    free(error);
}

static float largest_error(const struct engine *e, uint32_t point)
{
    float most = 0;
    for (uint32_t l = 0; l < engine_info(e)->n_layers; l++)
        most = fmaxf(most, e->sparsity->points[point]->error[l]);
    return most;
}

Test(audit, a_point_that_is_twice_as_far_off_as_it_says_gives_way_to_a_safer_one)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct seen seen = { 0 };
        struct engine *e = open_engine(m, 1, 2, &seen);
        uint32_t fast = point_of(e, "fast"), safe = point_of(e, "safe");
        cr_expect(largest_error(e, fast) > 0 && largest_error(e, fast) < 1, "%s", models[m].path);
        free(decode(e, fast));
        cr_expect_eq(seen.n, 0, "%s: as on the calibration's text, not %g times", models[m].path,
                     seen.times);
        cr_expect_eq(engine_point_in_force(e, fast), fast);
        promise(e, fast, 1.0f / 8);
        free(decode(e, fast));
        cr_expect_eq(seen.n, 1, "%s: said once", models[m].path);
        cr_expect_eq(seen.point, fast);
        cr_expect_gt(seen.times, 2);
        cr_expect_eq(engine_point_in_force(e, fast), safe, "%s", models[m].path);
        cr_expect_eq(engine_point_in_force(e, safe), safe);
        struct engine_audit_stats s;
        engine_audit_stats(e, &s);
        cr_expect_eq(s.n_withdrawn, 1);
        engine_close(e);
    }
}
