/* SPDX-License-Identifier: Apache-2.0
 *
 * measure.c - teacher forcing: the log-likelihood of given tokens, their logits, and how far these
 * are from those of another engine, to which whatever is not exact is held.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

/* One of the engines, and its sequence of the window at hand. */
struct side {
    struct engine *e;
    struct engine_seq *seq;
    struct engine_row *rows; /* [n_chunk] */
    double *nll;
};

enum { MEASURED, REFERENCE, MAX_SIDES };

struct eval {
    const struct engine_eval_options *opt;
    struct engine_eval_result *out;
    struct side side[MAX_SIDES];
    uint32_t n_sides;
    uint32_t n_chunk;
    size_t window_end;
};

/* ---- a position ---- */

/* log(sum of exp(logits)) */
static double log_total(const struct engine *e, const float *logits)
{
    float max, sum;
    e->kern->max_sum_exp(logits, e->info.n_vocab, &max, &sum);
    return (double)max + log((double)sum);
}

static uint32_t top_of(const float *logits, uint32_t n)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++)
        top = logits[i] > logits[top] ? i : top;
    return top;
}

/* What a side says after a token. */
struct said {
    const float *logits;
    double total; /* see log_total */
};

/* Sum of p log(p / q), p the reference's distribution. */
static double divergence(const struct said *p, const struct said *q, uint32_t n)
{
    double kl = 0;
    for (uint32_t i = 0; i < n; i++) {
        double log_p = (double)p->logits[i] - p->total;
        kl += (double)kern_exp((float)log_p) * (log_p - ((double)q->logits[i] - q->total));
    }
    return kl > 0 ? kl : 0; /* rounding */
}

/* Where nothing was approximated the bits are the same, and say nothing about what was. */
static void compare(struct engine_eval_result *out, const struct said *p, const struct said *q,
                    uint32_t n)
{
    if (memcmp(p->logits, q->logits, n * sizeof(*p->logits)) == 0)
        return;
    double kl = divergence(p, q, n);
    out->kl += kl;
    out->kl_most = kl > out->kl_most ? kl : out->kl_most;
    out->n_same_top += top_of(p->logits, n) == top_of(q->logits, n);
    out->n_compared++;
}

/* What all sides say after token i, which was that row of the step: how well they predict the next
 * one, if it is in the window, and how far they are apart. */
static void judge(const struct eval *v, size_t i, size_t row)
{
    struct said said[MAX_SIDES];
    bool has_next = i + 1 < v->window_end;
    for (uint32_t s = 0; s < v->n_sides; s++) {
        const float *logits = v->side[s].rows[row].logits;
        said[s] = (struct said){ logits, log_total(v->side[s].e, logits) };
        if (has_next)
            *v->side[s].nll += said[s].total - (double)logits[v->opt->tokens[i + 1]];
    }
    v->out->n_tokens += has_next;
    if (v->n_sides > 1)
        compare(v->out, &said[REFERENCE], &said[MEASURED], v->side[MEASURED].e->info.n_vocab);
}

/* ---- a chunk ---- */

static int row_failure(const struct engine *e, size_t token, struct engine_err *err)
{
    struct engine_err why = { .code = ENGINE_ERR_NONE };
    engine_row_error(e, &why);
    return engine_fail(err, why.code, "token %zu: %s", token, why.text);
}

static int step(const struct eval *v, const struct side *side, size_t begin, size_t end,
                struct engine_err *err)
{
    uint32_t n = (uint32_t)(end - begin), pos = engine_seq_n_tokens(side->seq);
    if (engine_seq_grow(side->seq, pos + n, err) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        side->rows[i] = (struct engine_row){ .seq = side->seq,
                                             .token = v->opt->tokens[begin + i],
                                             .pos = pos + i,
                                             .want_logits = true,
                                             .is_decoded = true };
    engine_step(side->e, side->rows, n);
    for (uint32_t i = 0; i < n; i++)
        if (side->rows[i].status != ENGINE_ROW_DONE)
            return row_failure(side->e, begin + i, err);
    return 0;
}

static int eval_chunk(const struct eval *v, size_t begin, size_t end, struct engine_err *err)
{
    for (uint32_t s = 0; s < v->n_sides; s++)
        if (step(v, &v->side[s], begin, end, err) != 0)
            return -1;
    for (size_t i = begin; i < end; i++) {
        judge(v, i, i - begin);
        if (v->opt->row &&
            v->opt->row(v->opt->ctx, i, v->side[MEASURED].rows[i - begin].logits) != 0)
            return engine_fail(err, ENGINE_ERR_CANCELLED, "stopped at token %zu", i);
    }
    return 0;
}

/* ---- windows ---- */

static int eval_window(struct eval *v, size_t begin, size_t end, struct engine_err *err)
{
    struct engine_seq_options opt = { .max_tokens = (uint32_t)(end - begin), .no_cache = true };
    int rc = 0;
    v->window_end = end;
    for (uint32_t s = 0; s < v->n_sides && rc == 0; s++)
        rc = engine_seq_open(v->side[s].e, &opt, &v->side[s].seq, err);
    for (size_t i = begin; i < end && rc == 0; i += v->n_chunk)
        rc = eval_chunk(v, i, i + v->n_chunk < end ? i + v->n_chunk : end, err);
    for (uint32_t s = 0; s < v->n_sides; s++) {
        engine_seq_close(v->side[s].seq);
        v->side[s].seq = NULL;
    }
    return rc;
}

static int check_input(const struct eval *v, struct engine_err *err)
{
    uint32_t n_vocab = v->side[MEASURED].e->info.n_vocab;
    for (size_t i = 0; i < v->opt->n_tokens; i++)
        if (v->opt->tokens[i] < 0 || (uint32_t)v->opt->tokens[i] >= n_vocab)
            return engine_fail(err, ENGINE_ERR_INPUT, "token %zu is %d; ids are 0 to %u", i,
                               v->opt->tokens[i], n_vocab - 1);
    for (uint32_t s = 1; s < v->n_sides; s++)
        if (v->side[s].e->info.n_vocab != n_vocab)
            return engine_fail(err, ENGINE_ERR_INPUT,
                               "the vocabularies differ: %u tokens, the reference %u", n_vocab,
                               v->side[s].e->info.n_vocab);
    return 0;
}

/* Another engine to be stepped; chunks are what all of them can take. */
static int add_side(struct eval *v, struct engine *e, double *nll, struct engine_err *err)
{
    uint32_t most = e->opt.max_logit_rows;
    v->n_chunk = v->n_chunk > 0 && v->n_chunk < most ? v->n_chunk : most;
    struct engine_row *rows = calloc(most, sizeof(*rows));
    if (!rows)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %u rows", most);
    v->side[v->n_sides++] = (struct side){ .e = e, .rows = rows, .nll = nll };
    return 0;
}

int engine_eval(struct engine *e, const struct engine_eval_options *opt,
                struct engine_eval_result *out, struct engine_err *err)
{
    struct eval v = { .opt = opt, .out = out, .n_chunk = opt->n_chunk };
    *out = (struct engine_eval_result){ 0 };
    int rc = add_side(&v, e, &out->nll, err);
    if (rc == 0 && opt->reference)
        rc = add_side(&v, opt->reference, &out->reference_nll, err);
    if (rc == 0)
        rc = check_input(&v, err);
    for (size_t i = 0; i < opt->n_tokens && rc == 0; i += e->info.n_ctx)
        rc = eval_window(
            &v, i, opt->n_tokens - i < e->info.n_ctx ? opt->n_tokens : i + e->info.n_ctx, err);
    for (uint32_t s = 0; s < v.n_sides; s++)
        free(v.side[s].rows);
    return rc;
}
