/* SPDX-License-Identifier: Apache-2.0
 *
 * test_answers.c - what points answer is what they decode alone, and what the exact model thinks of it is what it says of
 * these tokens.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

enum { N_PROMPT = 120, N_TOKENS = 24, N_CALIBRATE = 4096 };

static int32_t token_at(uint32_t i)
{
    return (int32_t)((i * 2654435761u) >> 8) % 280 + 3;
}

static void calibrate(struct engine *e)
{
    static int32_t tokens[N_CALIBRATE];
    struct engine_err err = { 0 };
    for (uint32_t i = 0; i < N_CALIBRATE; i++)
        tokens[i] = token_at(i);
    struct engine_calibrate_options opt = { .tokens = tokens, .n_tokens = N_CALIBRATE };
    cr_assert_eq(engine_calibrate(e, &opt, &err), 0, "%s", err.text);
}

static struct engine *open_engine(void)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = "tests/golden/arch/llama.gguf",
                                  .n_threads = 2,
                                  .n_ctx = 1024,
                                  .n_sequences = 4,
                                  .max_rows = 100,
                                  .kv_shuffle_seed = 3 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s", err.text);
    calibrate(e);
    return e;
}

static uint32_t point_of(struct engine *e, const char *text)
{
    int point = engine_find_point(e, text, NULL);
    cr_assert(point >= 0);
    return (uint32_t)point;
}

struct asked {
    int32_t prompt[N_PROMPT + N_TOKENS];
    int32_t tokens[3][N_TOKENS];
    struct engine_answer out[3];
};

static struct asked *ask(struct engine *e, const uint32_t *points, uint32_t n_points)
{
    struct asked *a = calloc(1, sizeof(*a));
    struct engine_err err = { 0 };
    for (uint32_t i = 0; i < N_PROMPT; i++)
        a->prompt[i] = token_at(7 * i);
    for (uint32_t i = 0; i < 3; i++)
        a->out[i].tokens = a->tokens[i];
    struct engine_answers_options opt = { .prompt = a->prompt,
                                          .n_prompt = N_PROMPT,
                                          .n_tokens = N_TOKENS,
                                          .points = points,
                                          .n_points = n_points };
    cr_assert_eq(engine_eval_answers(e, &opt, a->out, &err), 0, "%s", err.text);
    return a;
}

/* Of the answer, given the prompt, by teacher forcing at the exact point. */
static double nll_of(struct engine *e, struct asked *a, const struct engine_answer *answer)
{
    struct engine_err err = { 0 };
    struct engine_eval_result with, without;
    memcpy(a->prompt + N_PROMPT, answer->tokens, answer->n * sizeof(int32_t));
    struct engine_eval_options opt = { .tokens = a->prompt, .n_tokens = N_PROMPT + answer->n };
    cr_assert_eq(engine_eval(e, &opt, &with, &err), 0, "%s", err.text);
    opt.n_tokens = N_PROMPT;
    cr_assert_eq(engine_eval(e, &opt, &without, &err), 0, "%s", err.text);
    return with.nll - without.nll;
}

Test(answers, what_leaves_out_nothing_answers_the_same_and_what_does_may_not)
{
    struct engine *e = open_engine();
    const uint32_t points[] = { point_of(e, "neurons=1"), point_of(e, "neurons=0.1") };
    struct asked *a = ask(e, points, 2);
    const struct engine_answer *exact = &a->out[0], *all = &a->out[1], *few = &a->out[2];
    cr_assert(exact->n > 0 && exact->n_same == exact->n);
    cr_expect(all->n == exact->n && all->n_same == exact->n && all->nll == exact->nll);
    cr_expect(few->n_same < few->n, "all %u tokens", few->n);
    cr_expect_eq(few->tokens[few->n_same] == exact->tokens[few->n_same], false);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_float_eq(a->out[i].nll, nll_of(e, a, &a->out[i]), 1e-4);
    cr_expect_lt(exact->nll, exact->n * log(e->info.n_vocab), "likelier than by chance");
    free(a);
    engine_close(e);
}

Test(answers, company_does_not_matter)
{
    struct engine *e = open_engine();
    const uint32_t points[] = { point_of(e, "neurons=1"), point_of(e, "neurons=0.1") };
    struct asked *both = ask(e, points, 2), *one = ask(e, points + 1, 1);
    cr_expect_eq(memcmp(both->tokens[2], one->tokens[1], sizeof(one->tokens[1])), 0);
    cr_expect(both->out[2].nll == one->out[1].nll);
    free(both), free(one);
    engine_close(e);
}

Test(answers, what_does_not_fit_is_refused)
{
    struct engine *e = open_engine();
    struct engine_err err = { 0 };
    int32_t token = 1, room[1];
    struct engine_answer out = { .tokens = room };
    struct engine_answers_options opt = { .prompt = &token, .n_prompt = 1, .n_tokens = 1024 };
    cr_expect_eq(engine_eval_answers(e, &opt, &out, &err), -1);
    cr_expect_eq(err.code, ENGINE_ERR_CONTEXT);
    engine_close(e);
}
