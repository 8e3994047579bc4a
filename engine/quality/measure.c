/* SPDX-License-Identifier: Apache-2.0
 *
 * measure.c - teacher forcing: the log-likelihood of given tokens, and their logits.
 */
#include <math.h>
#include <stdlib.h>

#include "engine/internal.h"

struct eval {
    struct engine *e;
    const int32_t *tokens;
    size_t n;
    uint32_t n_chunk;
    engine_eval_row_fn *row;
    void *ctx;
    struct engine_eval_result *out;
    struct engine_row *rows; /* [n_chunk] */
};

/* The loss of predicting tokens[i + 1] from the logits after token i, if both are in the window. */
static void add_loss(struct eval *v, size_t i, size_t window_end, const float *logits)
{
    float max, sum;
    if (i + 1 >= window_end)
        return;
    v->e->kern->max_sum_exp(logits, v->e->info.n_vocab, &max, &sum);
    v->out->nll += (double)max + log((double)sum) - (double)logits[v->tokens[i + 1]];
    v->out->n_tokens++;
}

static int eval_chunk(struct eval *v, struct engine_seq *seq, size_t begin, size_t end,
                      size_t window_end, struct engine_err *err)
{
    uint32_t n = (uint32_t)(end - begin), pos = engine_seq_n_tokens(seq);
    if (engine_seq_grow(seq, pos + n, err) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        v->rows[i] = (struct engine_row){
            .seq = seq, .token = v->tokens[begin + i], .pos = pos + i, .want_logits = true
        };
    engine_step(v->e, v->rows, n);
    for (uint32_t i = 0; i < n; i++) {
        if (v->rows[i].status != ENGINE_ROW_DONE)
            return engine_fail(err, ENGINE_ERR_INTERNAL, "token %zu: %s", begin + i,
                               engine_row_error(v->e));
        add_loss(v, begin + i, window_end, v->rows[i].logits);
        if (v->row && v->row(v->ctx, begin + i, v->rows[i].logits) != 0)
            return engine_fail(err, ENGINE_ERR_CANCELLED, "stopped at token %zu", begin + i);
    }
    return 0;
}

static int eval_window(struct eval *v, size_t begin, size_t end, struct engine_err *err)
{
    struct engine_seq *seq;
    struct engine_seq_options opt = { .max_tokens = (uint32_t)(end - begin), .no_cache = true };
    int rc = engine_seq_open(v->e, &opt, &seq, err);
    for (size_t i = begin; i < end && rc == 0; i += v->n_chunk)
        rc = eval_chunk(v, seq, i, i + v->n_chunk < end ? i + v->n_chunk : end, end, err);
    engine_seq_close(seq);
    return rc;
}

static int check_tokens(const struct eval *v, struct engine_err *err)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->tokens[i] < 0 || (uint32_t)v->tokens[i] >= v->e->info.n_vocab)
            return engine_fail(err, ENGINE_ERR_INPUT, "token %zu is %d; ids are 0 to %u", i,
                               v->tokens[i], v->e->info.n_vocab - 1);
    return 0;
}

int engine_eval(struct engine *e, const int32_t *tokens, size_t n, uint32_t n_chunk,
                engine_eval_row_fn *row, void *ctx, struct engine_eval_result *out,
                struct engine_err *err)
{
    struct eval v = { .e = e, .tokens = tokens, .n = n, .row = row, .ctx = ctx, .out = out };
    v.n_chunk = n_chunk && n_chunk < e->opt.max_logit_rows ? n_chunk : e->opt.max_logit_rows;
    *out = (struct engine_eval_result){ 0 };
    if (check_tokens(&v, err) != 0)
        return -1;
    v.rows = calloc(v.n_chunk, sizeof(*v.rows));
    if (!v.rows)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %u rows", v.n_chunk);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i += e->info.n_ctx)
        rc = eval_window(&v, i, n - i < e->info.n_ctx ? n : i + e->info.n_ctx, err);
    free(v.rows);
    return rc;
}
