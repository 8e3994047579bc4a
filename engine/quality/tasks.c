/* SPDX-License-Identifier: Apache-2.0
 *
 * tasks.c - do operating points still find in a long context what the exact model finds?  All answer the same samples, so
 * that what is judged is the difference of each sample, not that of two means.
 *
 * A prompt is always computed whole, and once: what follows finds its pages.  Then the true answer is fed token by token at
 * every point: the likelihood of it, and whether each of its tokens would have been chosen.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"
#include "engine/quality/task_text.h"

static const char *const names[ENGINE_N_TASKS] = {
    [ENGINE_TASK_PASSKEY] = "passkey",     [ENGINE_TASK_NEEDLE] = "needle",
    [ENGINE_TASK_KEYS] = "keys",           [ENGINE_TASK_PAIRS] = "pairs",
    [ENGINE_TASK_VARIABLES] = "variables", [ENGINE_TASK_WORDS] = "words",
};

const char *engine_task_name(uint32_t task)
{
    return task < ENGINE_N_TASKS ? names[task] : NULL;
}

/* An answer at a point. */
struct answer {
    double nll;
    bool is_right;
};

struct tasks {
    struct engine *e;
    const struct engine_task_options *opt;
    struct engine_err *err;
    struct engine_tokens prompt, answer; /* of the sample at hand */
    int32_t *all;                        /* both, one behind the other */
    uint32_t n_lines;                    /* that make a prompt about as long as wanted */
    struct engine_row *rows;             /* [max_rows] */
    struct answer *answers;              /* [n_samples][1 + n_points] the exact one first */
};

/* ---- a sample ---- */

static int tokenize(struct tasks *t, const struct task_text *text)
{
    t->prompt.n = t->answer.n = 0;
    if (engine_tokenize(t->e, text->prompt, text->len, ENGINE_TOKENIZE_ADD_SPECIAL, &t->prompt,
                        t->err) != 0)
        return -1;
    return engine_tokenize(t->e, text->answer, strlen(text->answer), 0, &t->answer, t->err);
}

static int join(struct tasks *t)
{
    free(t->all);
    t->all = malloc((t->prompt.n + t->answer.n) * sizeof(*t->all));
    if (!t->all)
        return engine_fail(t->err, ENGINE_ERR_MEMORY, "no memory for %zu tokens", t->prompt.n);
    memcpy(t->all, t->prompt.ids, t->prompt.n * sizeof(*t->all));
    memcpy(t->all + t->prompt.n, t->answer.ids, t->answer.n * sizeof(*t->all));
    return 0;
}

static int make_sample(struct tasks *t, uint32_t sample, uint32_t n_lines)
{
    double depth = (sample + 0.5) / t->opt->n_samples;
    struct task_text text = task_text_make(t->opt->task, t->opt->seed + sample, n_lines, depth);
    if (!text.prompt)
        return engine_fail(t->err, ENGINE_ERR_MEMORY, "no memory for a text of %u lines", n_lines);
    int rc = tokenize(t, &text);
    free(text.prompt);
    return rc == 0 ? join(t) : rc;
}

/* Two short texts say how long a line is, and what is asked beside them. */
static int choose_length(struct tasks *t)
{
    enum { FEW = 40, MORE = 120 };
    if (make_sample(t, 0, FEW) != 0)
        return -1;
    double few = (double)t->prompt.n;
    if (make_sample(t, 0, MORE) != 0)
        return -1;
    double per_line = ((double)t->prompt.n - few) / (MORE - FEW);
    double room = t->opt->n_tokens - (few - FEW * per_line);
    t->n_lines = room > per_line ? (uint32_t)(room / per_line) : 0;
    return t->n_lines > 0 ? 0
                          : engine_fail(t->err, ENGINE_ERR_INPUT,
                                        "%u tokens are too few for a task", t->opt->n_tokens);
}

/* ---- computing ---- */

/* Up to position `end`, as many as a step takes; those that the answer follows want logits. */
static int step(struct tasks *t, struct engine_seq *seq, uint32_t end, uint32_t *n_rows)
{
    uint32_t pos = engine_seq_n_tokens(seq), n = end - pos, most = t->e->opt.max_rows;
    *n_rows = n < most ? n : most;
    if (quality_fill_rows(seq, t->all + pos, *n_rows, (uint32_t)t->prompt.n - 1, t->rows, t->err) !=
        0)
        return -1;
    return quality_step(t->e, t->rows, *n_rows, t->err);
}

static void judge_row(const struct tasks *t, const struct engine_row *row, struct answer *a)
{
    float max, sum;
    uint32_t n_vocab = t->e->info.n_vocab;
    int32_t wanted = t->answer.ids[row->pos + 1 - t->prompt.n];
    t->e->kern->max_sum_exp(row->logits, n_vocab, &max, &sum);
    a->nll += (double)max + log((double)sum) - (double)row->logits[wanted];
    a->is_right &= t->e->kern->max_index(row->logits, n_vocab) == (uint32_t)wanted;
}

/* The last token of an answer says nothing about it. */
static int answer_with(struct tasks *t, struct engine_seq *seq, struct answer *a)
{
    uint32_t n_all = (uint32_t)(t->prompt.n + t->answer.n) - 1, n = 0;
    *a = (struct answer){ .is_right = true };
    while (engine_seq_n_tokens(seq) < n_all) {
        if (step(t, seq, n_all, &n) != 0)
            return -1;
        for (uint32_t i = 0; i < n; i++)
            if (t->rows[i].want_logits)
                judge_row(t, &t->rows[i], a);
    }
    return 0;
}

static int answer_at(struct tasks *t, uint32_t point, struct answer *a)
{
    struct engine_seq_options opt = { .max_tokens = (uint32_t)(t->prompt.n + t->answer.n),
                                      .n_prompt = (uint32_t)t->prompt.n,
                                      .point = point };
    struct engine_seq *seq;
    if (engine_seq_open(t->e, &opt, &seq, t->err) != 0)
        return -1;
    int rc = engine_seq_admit(seq, t->prompt.ids, (uint32_t)t->prompt.n - 1, opt.max_tokens, 0,
                              t->err);
    if (rc == 0)
        rc = answer_with(t, seq, a);
    engine_seq_close(seq);
    return rc;
}

static int run_sample(struct tasks *t, uint32_t sample)
{
    struct answer *a = t->answers + (size_t)sample * (1 + t->opt->n_points);
    uint32_t n_ctx = t->e->info.n_ctx;
    if (make_sample(t, sample, t->n_lines) != 0)
        return -1;
    if (t->prompt.n + t->answer.n > n_ctx)
        return engine_fail(t->err, ENGINE_ERR_CONTEXT, "a task of %zu tokens; the context holds %u",
                           t->prompt.n + t->answer.n, n_ctx);
    if (answer_at(t, ENGINE_POINT_EXACT, &a[0]) != 0)
        return -1;
    for (uint32_t p = 0; p < t->opt->n_points; p++)
        if (answer_at(t, t->opt->points[p], &a[1 + p]) != 0)
            return -1;
    if (t->opt->progress && t->opt->progress(t->opt->ctx, sample + 1, t->opt->n_samples) != 0)
        return engine_fail(t->err, ENGINE_ERR_CANCELLED, "stopped after sample %u", sample);
    return 0;
}

/* ---- what it comes to ---- */

struct sums {
    double sum, squares;
};

static void add(struct sums *s, double x)
{
    s->sum += x;
    s->squares += x * x;
}

double engine_eval_margin(double sum, double squares, double n)
{
    double mean = sum / n, variance = n > 1 ? (squares - n * mean * mean) / (n - 1) : 0;
    return 1.96 * sqrt((variance > 0 ? variance : 0) / n);
}

static void sum_up(const struct tasks *t, uint32_t point, struct engine_task_result *out)
{
    struct sums solved = { 0 }, logprob = { 0 };
    uint32_t n = t->opt->n_samples;
    *out = (struct engine_task_result){ .n_samples = n };
    for (uint32_t i = 0; i < n; i++) {
        const struct answer *exact = t->answers + (size_t)i * (1 + t->opt->n_points);
        const struct answer *a = exact + point;
        out->solved += (double)a->is_right / n;
        out->logprob -= a->nll / n;
        add(&solved, (double)a->is_right - (double)exact->is_right);
        add(&logprob, exact->nll - a->nll);
    }
    out->solved_change = solved.sum / n;
    out->solved_margin = engine_eval_margin(solved.sum, solved.squares, n);
    out->logprob_change = logprob.sum / n;
    out->logprob_margin = engine_eval_margin(logprob.sum, logprob.squares, n);
}

int engine_eval_task(struct engine *e, const struct engine_task_options *opt,
                     struct engine_task_result *out, struct engine_err *err)
{
    struct tasks t = { .e = e, .opt = opt, .err = err };
    t.rows = calloc(e->opt.max_rows, sizeof(*t.rows));
    t.answers = calloc((size_t)opt->n_samples * (1 + opt->n_points) + 1, sizeof(*t.answers));
    int rc = t.rows && t.answers
                 ? 0
                 : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %u samples", opt->n_samples);
    if (rc == 0)
        rc = choose_length(&t);
    for (uint32_t i = 0; i < opt->n_samples && rc == 0; i++)
        rc = run_sample(&t, i);
    for (uint32_t p = 0; p <= opt->n_points && rc == 0; p++)
        sum_up(&t, p, &out[p]);
    engine_tokens_fini(&t.prompt);
    engine_tokens_fini(&t.answer);
    free(t.all);
    free(t.rows);
    free(t.answers);
    return rc;
}
