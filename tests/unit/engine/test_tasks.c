/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tasks.c - long texts that ask for what they said: they say it, where they shall; and points are judged sample by
 * sample.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/quality/task_text.h"

static struct task_text make(uint32_t task, uint64_t seed, uint32_t n_lines, double depth)
{
    struct task_text t = task_text_make(task, seed, n_lines, depth);
    cr_assert_not_null(t.prompt);
    cr_assert_eq(strlen(t.prompt), t.len);
    cr_assert(t.answer[0] == ' ' && strlen(t.answer) > 2, "%s: '%s'", engine_task_name(task),
              t.answer);
    return t;
}

Test(task_text, the_same_seed_says_the_same_and_another_something_else)
{
    for (uint32_t task = 0; task < ENGINE_N_TASKS; task++) {
        struct task_text a = make(task, 1, 30, 0.5), b = make(task, 1, 30, 0.5),
                         c = make(task, 2, 30, 0.5);
        cr_assert_str_eq(a.prompt, b.prompt);
        cr_assert_str_eq(a.answer, b.answer);
        cr_assert_str_neq(a.prompt, c.prompt);
        free(a.prompt), free(b.prompt), free(c.prompt);
    }
}

Test(task_text, the_answer_stands_at_the_depth)
{
    static const double depths[] = { 0, 0.3, 0.7, 1 };
    for (uint32_t task = 0; task < ENGINE_TASK_WORDS; task++)
        for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
            struct task_text t = make(task, 7, 200, depths[i]);
            const char *at = strstr(t.prompt, t.answer + 1);
            cr_assert_not_null(at, "%s", engine_task_name(task));
            double depth = (double)(at - t.prompt) / (double)t.len;
            cr_assert(fabs(depth - depths[i]) < 0.05, "%s at %g: %g", engine_task_name(task),
                      depths[i], depth);
            free(t.prompt);
        }
}

Test(task_text, the_word_asked_for_is_the_most_frequent)
{
    struct task_text t = make(ENGINE_TASK_WORDS, 3, 90, 0);
    uint32_t n = 0;
    for (const char *at = t.prompt; (at = strstr(at, t.answer + 1)); at++)
        n++;
    cr_assert(n >= 30, "%u times '%s'", n, t.answer);
    free(t.prompt);
}

Test(task_text, texts_without_lines_still_ask)
{
    for (uint32_t task = 0; task < ENGINE_N_TASKS; task++)
        free(make(task, 5, 0, 0.5).prompt);
}

static struct engine *open_engine(void)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = "tests/golden/arch/smollm3.gguf",
                                  .n_threads = 2,
                                  .n_ctx = 2048,
                                  .n_sequences = 1,
                                  .choose_pages = true,
                                  .kv_shuffle_seed = 3 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s", err.text);
    return e;
}

static uint32_t point_of(struct engine *e, const char *text)
{
    int point = engine_find_point(e, text, NULL);
    cr_assert(point >= 0);
    return (uint32_t)point;
}

Test(eval_task, what_leaves_out_nothing_changes_nothing_and_what_does_is_seen)
{
    struct engine *e = open_engine();
    const uint32_t points[] = { point_of(e, "tokens=4096"), point_of(e, "tokens=256") };
    struct engine_task_result r[3];
    struct engine_err err = { 0 };
    for (uint32_t task = 0; task < ENGINE_N_TASKS; task++) {
        struct engine_task_options opt = { .task = task,
                                           .n_tokens = 1500,
                                           .n_samples = 4,
                                           .seed = 1,
                                           .points = points,
                                           .n_points = 2 };
        cr_assert_eq(engine_eval_task(e, &opt, r, &err), 0, "%s", err.text);
        cr_assert(r[0].logprob < 0 && r[0].logprob_change == 0 && r[0].logprob_margin == 0);
        cr_assert(r[1].logprob == r[0].logprob && r[1].logprob_margin == 0,
                  "all pages are in reach");
        cr_assert(r[2].logprob_change != 0 && r[2].logprob_margin > 0, "%s",
                  engine_task_name(task));
        cr_assert_float_eq(r[2].logprob - r[0].logprob, r[2].logprob_change, 1e-9);
    }
    engine_close(e);
}

static int count(void *ctx, uint32_t done, uint32_t total)
{
    uint32_t *n = ctx;
    cr_assert(done == ++*n && total == 5);
    return *n == 3 ? -1 : 0;
}

Test(eval_task, it_can_be_stopped_and_texts_that_do_not_fit_are_refused)
{
    struct engine *e = open_engine();
    struct engine_task_result r;
    struct engine_err err = { 0 };
    uint32_t n = 0;
    struct engine_task_options opt = {
        .n_tokens = 500, .n_samples = 5, .progress = count, .ctx = &n
    };
    cr_assert_eq(engine_eval_task(e, &opt, &r, &err), -1);
    cr_assert(err.code == ENGINE_ERR_CANCELLED && n == 3);
    err = (struct engine_err){ 0 };
    opt = (struct engine_task_options){ .n_tokens = 5000, .n_samples = 1 };
    cr_assert_eq(engine_eval_task(e, &opt, &r, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_CONTEXT);
    err = (struct engine_err){ 0 };
    opt.n_tokens = 10;
    cr_assert_eq(engine_eval_task(e, &opt, &r, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_INPUT);
    engine_close(e);
}
