/* SPDX-License-Identifier: Apache-2.0
 *
 * answers.c - what operating points answer to a prompt, greedily, and what the exact model thinks of it.
 *
 * All points decode side by side, each from its own tokens: what one leaves out changes what it reads next, as it does where
 * it is used.  The exact model then reads each answer: a good answer that parted from its own is as likely.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"

struct answers {
    struct engine *e;
    const struct engine_answers_options *opt;
    struct engine_answer *out; /* [n_sides] the exact one first */
    struct engine_err *err;
    uint32_t n_sides;
    struct engine_seq **seqs; /* [n_sides] */
    struct engine_row *rows;  /* [max_rows] */
    uint32_t *row_side;       /* [n_sides] */
    int32_t *all;             /* the prompt and an answer */
};

static uint32_t longest(const struct answers *a)
{
    return a->opt->n_prompt + a->opt->n_tokens;
}

/* A sequence that is as far as position `end` of tokens; what it shares with others is computed once. */
static int open_at(struct answers *a, uint32_t point, const int32_t *tokens, uint32_t end,
                   struct engine_seq **seq)
{
    struct engine_seq_options opt = { .max_tokens = longest(a),
                                      .n_prompt = a->opt->n_prompt,
                                      .point = point };
    if (engine_seq_open(a->e, &opt, seq, a->err) != 0 ||
        engine_seq_admit(*seq, tokens, end, longest(a), 0, a->err) != 0)
        return -1;
    for (uint32_t pos; (pos = engine_seq_n_tokens(*seq)) < end;) {
        uint32_t left = end - pos, n = left < a->e->opt.max_rows ? left : a->e->opt.max_rows;
        if (quality_fill_rows(*seq, tokens + pos, n, UINT32_MAX, a->rows, a->err) != 0 ||
            quality_step(a->e, a->rows, n, a->err) != 0)
            return -1;
    }
    return 0;
}

/* ---- decoding ---- */

static bool is_over(const struct answers *a, const struct engine_answer *answer)
{
    return answer->n == a->opt->n_tokens ||
           (answer->n > 0 && engine_token_is_end(a->e, answer->tokens[answer->n - 1]));
}

static int32_t last_token(const struct answers *a, const struct engine_answer *answer)
{
    return answer->n > 0 ? answer->tokens[answer->n - 1] : a->opt->prompt[a->opt->n_prompt - 1];
}

/* Rows of all sides that are not over.  Returns how many, -1 on failure. */
static int list_rows(struct answers *a)
{
    int n = 0;
    for (uint32_t side = 0; side < a->n_sides; side++) {
        int32_t token = last_token(a, &a->out[side]);
        if (is_over(a, &a->out[side]))
            continue;
        if (quality_fill_rows(a->seqs[side], &token, 1, 0, &a->rows[n], a->err) != 0)
            return -1;
        a->row_side[n++] = side;
    }
    return n;
}

static int decode(struct answers *a)
{
    for (int n; (n = list_rows(a)) != 0;) {
        if (n < 0 || quality_step(a->e, a->rows, (uint32_t)n, a->err) != 0)
            return -1;
        for (int i = 0; i < n; i++) {
            struct engine_answer *answer = &a->out[a->row_side[i]];
            answer->tokens[answer->n++] = (int32_t)a->e->kern->max_index(a->rows[i].logits,
                                                                         a->e->info.n_vocab);
        }
    }
    return 0;
}

/* ---- what they are worth ---- */

static uint32_t n_same(const struct engine_answer *x, const struct engine_answer *y)
{
    uint32_t n = 0;
    while (n < x->n && n < y->n && x->tokens[n] == y->tokens[n])
        n++;
    return n;
}

static double nll_of(const struct answers *a, const float *logits, int32_t token)
{
    float max, sum;
    a->e->kern->max_sum_exp(logits, a->e->info.n_vocab, &max, &sum);
    return (double)max + log((double)sum) - (double)logits[token];
}

/* The exact model reads a token and says how likely the next one was. */
static int read_answer(struct answers *a, struct engine_seq *seq, struct engine_answer *answer)
{
    for (uint32_t i = 0; i < answer->n; i++) {
        if (quality_fill_rows(seq, &a->all[a->opt->n_prompt - 1 + i], 1, 0, a->rows, a->err) != 0 ||
            quality_step(a->e, a->rows, 1, a->err) != 0)
            return -1;
        answer->nll += nll_of(a, a->rows[0].logits, answer->tokens[i]);
    }
    return 0;
}

static int judge(struct answers *a, struct engine_answer *answer)
{
    struct engine_seq *seq = NULL;
    memcpy(a->all + a->opt->n_prompt, answer->tokens, answer->n * sizeof(*a->all));
    int rc = open_at(a, ENGINE_POINT_EXACT, a->all, a->opt->n_prompt - 1, &seq);
    if (rc == 0)
        rc = read_answer(a, seq, answer);
    engine_seq_close(seq);
    answer->n_same = n_same(answer, &a->out[0]);
    return rc;
}

/* ---- all together ---- */

static int check(const struct answers *a)
{
    const struct engine_answers_options *opt = a->opt;
    if (opt->n_prompt == 0 || longest(a) > a->e->info.n_ctx)
        return engine_fail(a->err, ENGINE_ERR_CONTEXT,
                           "a prompt of %u tokens and an answer of %u; together there are 2 to %u",
                           opt->n_prompt, opt->n_tokens, a->e->info.n_ctx);
    if (a->n_sides > a->e->opt.max_logit_rows)
        return engine_fail(a->err, ENGINE_ERR_OPTION,
                           "%u operating points side by side; there is room for %u", a->n_sides,
                           a->e->opt.max_logit_rows);
    return 0;
}

static int take_memory(struct answers *a)
{
    a->seqs = calloc(a->n_sides, sizeof(*a->seqs));
    a->row_side = calloc(a->n_sides, sizeof(*a->row_side));
    a->rows = calloc(a->e->opt.max_rows, sizeof(*a->rows));
    a->all = calloc(longest(a), sizeof(*a->all));
    if (!a->seqs || !a->row_side || !a->rows || !a->all)
        return engine_fail(a->err, ENGINE_ERR_MEMORY, "no memory for answers of %u tokens",
                           a->opt->n_tokens);
    memcpy(a->all, a->opt->prompt, a->opt->n_prompt * sizeof(*a->all));
    return 0;
}

static int answer_all(struct answers *a)
{
    const struct engine_answers_options *opt = a->opt;
    for (uint32_t side = 0; side < a->n_sides; side++) {
        uint32_t point = side ? opt->points[side - 1] : ENGINE_POINT_EXACT;
        a->out[side].n = 0;
        a->out[side].nll = 0;
        if (open_at(a, point, opt->prompt, opt->n_prompt - 1, &a->seqs[side]) != 0)
            return -1;
    }
    if (decode(a) != 0)
        return -1;
    for (uint32_t side = 0; side < a->n_sides; side++)
        if (judge(a, &a->out[side]) != 0)
            return -1;
    return 0;
}

int engine_eval_answers(struct engine *e, const struct engine_answers_options *opt,
                        struct engine_answer *out, struct engine_err *err)
{
    struct answers a = { .e = e, .opt = opt, .out = out, .err = err, .n_sides = 1 + opt->n_points };
    int rc = check(&a);
    if (rc == 0)
        rc = take_memory(&a);
    if (rc == 0)
        rc = answer_all(&a);
    for (uint32_t side = 0; side < a.n_sides && a.seqs; side++)
        engine_seq_close(a.seqs[side]);
    free(a.seqs);
    free(a.row_side);
    free(a.rows);
    free(a.all);
    return rc;
}
