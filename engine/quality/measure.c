/* SPDX-License-Identifier: Apache-2.0
 *
 * measure.c - teacher forcing: the log-likelihood of given tokens, their logits, and how far these are from exact
 * ones, to which whatever is approximate is held.
 *
 * What is measured is one *side* per operating point, each a sequence of its own; those of one engine are stepped
 * together.  A row's bits do not depend on its company, so a text that is cut into chunks gives what decoding it token
 * by token would.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quality/quality.h"

/* What is found out about a side at a position. */
struct verdict {
    double nll; /* of the next token; 0: there is none in the window */
    double kl;
    bool differs, same_top; /* from the reference */
};

struct side {
    struct engine *e;
    uint32_t point;
    struct engine_seq *seq; /* of the window at hand */
    struct engine_row *rows;
    struct engine_eval_result *out; /* NULL: the reference */
    double nll;
    struct verdict *verdict; /* [n_chunk] */
    float *kl;               /* [n_tokens] of positions that differ */
    /* Rows where something may be left out: neurons of them computed, and pages where these were chosen. */
    uint64_t n_sparse, n_up, n_down, n_pages_seen, n_pages_read;
};

struct eval {
    struct engine *e;
    const struct engine_eval_options *opt;
    struct side *side; /* [n_sides], the reference, if there is one, last */
    uint32_t n_sides;
    bool has_reference;
    struct engine_row *rows; /* [n_sides][n_chunk] */
    uint32_t n_chunk;
    size_t window_end;
    size_t begin, end; /* the chunk at hand */
};

/* ---- a position ---- */

static uint32_t top_of(const struct side *s, const float *logits)
{
    return s->e->kern->max_index(logits, s->e->info.n_vocab);
}

/* What a side says after a token: logits, the largest, and log(sum of exp(logits)). */
struct said {
    const float *logits;
    float max, sum;
    double total;
};

static struct said said_by(const struct side *s, size_t row)
{
    struct said said = { .logits = s->rows[row].logits };
    s->e->kern->max_sum_exp(said.logits, s->e->info.n_vocab, &said.max, &said.sum);
    said.total = (double)said.max + log((double)said.sum);
    return said;
}

/* KL(p || q) = sum of P (p - q) - (log-sum of p - log-sum of q), P the distribution of p. */
static double divergence(const struct side *s, const struct said *p, const struct said *q)
{
    float sum = s->e->kern->sum_exp_diff(p->logits, q->logits, s->e->info.n_vocab, p->max);
    double kl = (double)sum / (double)p->sum - (p->total - q->total);
    return kl > 0 ? kl : 0; /* rounding */
}

/* Where nothing was approximated the bits are the same, and say nothing about what was. */
static void compare(const struct side *s, const struct said *p, const struct said *q,
                    struct verdict *v)
{
    v->differs = memcmp(p->logits, q->logits, s->e->info.n_vocab * sizeof(*p->logits)) != 0;
    if (!v->differs)
        return;
    v->kl = divergence(s, p, q);
    v->same_top = top_of(s, p->logits) == top_of(s, q->logits);
}

/* For the workers: what all sides say after token begin + row, how well they predict the next one, if it is in the
 * window, and how far they are from the reference. */
static void judge(void *ctx, uint32_t row)
{
    const struct eval *v = ctx;
    size_t i = v->begin + row;
    struct said reference = { 0 };
    for (uint32_t k = v->n_sides; k-- > 0;) {
        const struct side *s = &v->side[k];
        struct said said = said_by(s, row);
        s->verdict[row] = (struct verdict){ 0 };
        if (i + 1 < v->window_end)
            s->verdict[row].nll = said.total - (double)said.logits[v->opt->tokens[i + 1]];
        if (!s->out)
            reference = said;
        else if (v->has_reference)
            compare(s, &reference, &said, &s->verdict[row]);
    }
}

static void tally_work(struct side *s, const struct engine_row *row)
{
    s->n_pages_seen += row->n_pages_seen;
    s->n_pages_read += row->n_pages_read;
    if (row->pos < SPARSITY_FIRST_POS)
        return;
    s->n_sparse++;
    s->n_up += row->n_up;
    s->n_down += row->n_down;
}

static void tally_row(const struct eval *v, struct side *s, size_t row)
{
    const struct verdict *verdict = &s->verdict[row];
    struct engine_eval_result *out = s->out;
    s->nll += verdict->nll;
    if (!out)
        return;
    out->n_tokens += v->begin + row + 1 < v->window_end;
    tally_work(s, &s->rows[row]);
    if (!verdict->differs)
        return;
    s->kl[out->n_compared++] = (float)verdict->kl;
    out->kl += verdict->kl;
    out->kl_most = verdict->kl > out->kl_most ? verdict->kl : out->kl_most;
    out->n_same_top += verdict->same_top;
}

/* ---- a chunk ---- */

/* The sides [from, to), which are of one engine. */
static int step(const struct eval *v, uint32_t from, uint32_t to, struct engine_err *err)
{
    uint32_t n = (uint32_t)(v->end - v->begin);
    struct engine_row *rows = v->rows + (size_t)from * v->n_chunk;
    for (uint32_t k = from; k < to; k++) {
        v->side[k].rows = rows + (size_t)(k - from) * n;
        if (quality_fill_rows(v->side[k].seq, v->opt->tokens + v->begin, n, 0, v->side[k].rows,
                              err) != 0)
            return -1;
    }
    return quality_step(v->side[from].e, rows, n * (to - from), err);
}

static int eval_chunk(struct eval *v, struct engine_err *err)
{
    uint32_t n = (uint32_t)(v->end - v->begin), n_own = v->n_sides;
    while (n_own > 0 && v->side[n_own - 1].e != v->e)
        n_own--;
    if (step(v, 0, n_own, err) != 0 || (n_own < v->n_sides && step(v, n_own, v->n_sides, err) != 0))
        return -1;
    workers_run(v->e->workers, judge, v, n);
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t k = 0; k < v->n_sides; k++)
            tally_row(v, &v->side[k], row);
        if (v->opt->row &&
            v->opt->row(v->opt->ctx, v->begin + row, v->side[0].rows[row].logits) != 0)
            return engine_fail(err, ENGINE_ERR_CANCELLED, "stopped at token %zu", v->begin + row);
    }
    return 0;
}

/* ---- windows ---- */

static int eval_window(struct eval *v, size_t begin, size_t end, struct engine_err *err)
{
    int rc = 0;
    v->window_end = end;
    for (uint32_t k = 0; k < v->n_sides && rc == 0; k++) {
        struct engine_seq_options opt = { .max_tokens = (uint32_t)(end - begin),
                                          .no_cache = true,
                                          .point = v->side[k].point };
        rc = engine_seq_open(v->side[k].e, &opt, &v->side[k].seq, err);
    }
    for (v->begin = begin; v->begin < end && rc == 0; v->begin = v->end) {
        v->end = v->begin + v->n_chunk < end ? v->begin + v->n_chunk : end;
        rc = eval_chunk(v, err);
    }
    for (uint32_t k = 0; k < v->n_sides; k++) {
        engine_seq_close(v->side[k].seq);
        v->side[k].seq = NULL;
    }
    return rc;
}

static size_t window_of(const struct eval *v)
{
    uint32_t n_ctx = v->e->info.n_ctx;
    return v->opt->n_window > 0 && v->opt->n_window < n_ctx ? v->opt->n_window : n_ctx;
}

static int eval_windows(struct eval *v, struct engine_err *err)
{
    size_t n = v->opt->n_tokens, window = window_of(v);
    for (size_t i = 0; i < n; i += window)
        if (eval_window(v, i, n - i < window ? n : i + window, err) != 0)
            return -1;
    return 0;
}

/* ---- all together ---- */

static int check_input(const struct eval *v, struct engine_err *err)
{
    uint32_t n_vocab = v->e->info.n_vocab;
    const struct engine *reference = v->opt->reference;
    for (size_t i = 0; i < v->opt->n_tokens; i++)
        if (v->opt->tokens[i] < 0 || (uint32_t)v->opt->tokens[i] >= n_vocab)
            return engine_fail(err, ENGINE_ERR_INPUT, "token %zu is %d; ids are 0 to %u", i,
                               v->opt->tokens[i], n_vocab - 1);
    if (reference && reference->info.n_vocab != n_vocab)
        return engine_fail(err, ENGINE_ERR_INPUT,
                           "the vocabularies differ: %u tokens, the reference %u", n_vocab,
                           reference->info.n_vocab);
    return 0;
}

/* Rows of a side: what all engines can take. */
static uint32_t chunk_of(const struct eval *v)
{
    const struct engine *other = v->opt->reference;
    uint32_t n_own = v->n_sides - (other && other != v->e);
    uint32_t most = v->e->opt.max_logit_rows / n_own;
    if (other && other != v->e && other->opt.max_logit_rows < most)
        most = other->opt.max_logit_rows;
    return v->opt->n_chunk > 0 && v->opt->n_chunk < most ? v->opt->n_chunk : most;
}

static uint32_t n_results(const struct engine_eval_options *opt)
{
    return opt->points && opt->n_points > 0 ? opt->n_points : 1;
}

static int open_sides(struct eval *v, struct engine_eval_result *out, struct engine_err *err)
{
    const struct engine_eval_options *opt = v->opt;
    uint32_t n_points = n_results(opt);
    v->has_reference = opt->reference != NULL;
    v->n_sides = n_points + v->has_reference;
    v->n_chunk = chunk_of(v);
    if (v->n_chunk == 0)
        return engine_fail(err, ENGINE_ERR_OPTION,
                           "%u operating points side by side; there is room for %u", v->n_sides,
                           v->e->opt.max_logit_rows);
    v->side = calloc(v->n_sides, sizeof(*v->side));
    v->rows = calloc((size_t)v->n_sides * v->n_chunk, sizeof(*v->rows));
    bool is_whole = v->side && v->rows;
    for (uint32_t k = 0; k < v->n_sides && is_whole; k++) {
        struct side *s = &v->side[k];
        s->e = k < n_points ? v->e : opt->reference;
        s->point = k < n_points && opt->points && opt->n_points > 0 ? opt->points[k]
                                                                    : ENGINE_POINT_EXACT;
        s->out = k < n_points ? &out[k] : NULL;
        s->verdict = calloc(v->n_chunk, sizeof(*s->verdict));
        s->kl = calloc(v->has_reference && s->out ? opt->n_tokens + 1 : 1, sizeof(*s->kl));
        is_whole = s->verdict && s->kl;
    }
    return is_whole ? 0
                    : engine_fail(err, ENGINE_ERR_MEMORY, "no memory to compare %zu tokens",
                                  opt->n_tokens);
}

static void close_sides(struct eval *v)
{
    for (uint32_t k = 0; k < v->n_sides && v->side; k++) {
        free(v->side[k].verdict);
        free(v->side[k].kl);
    }
    free(v->side);
    free(v->rows);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void finish_side(const struct eval *v, struct side *s)
{
    struct engine_eval_result *out = s->out;
    double n_all = (double)s->n_sparse * s->e->info.n_neurons;
    out->nll = s->nll;
    out->up = n_all > 0 ? (double)s->n_up / n_all : 1;
    out->down = n_all > 0 ? (double)s->n_down / n_all : 1;
    out->weights = quality_weights_share(s->e, out->up, out->down);
    out->pages = s->n_pages_seen > 0 ? (double)s->n_pages_read / (double)s->n_pages_seen : 1;
    if (v->has_reference)
        out->reference_nll = v->side[v->n_sides - 1].nll;
    qsort(s->kl, out->n_compared, sizeof(*s->kl), by_value);
    if (out->n_compared > 0)
        out->kl_p99 = (double)s->kl[(out->n_compared - 1) * 99 / 100];
}

int engine_eval(struct engine *e, const struct engine_eval_options *opt,
                struct engine_eval_result *out, struct engine_err *err)
{
    struct eval v = { .e = e, .opt = opt };
    memset(out, 0, n_results(opt) * sizeof(*out));
    int rc = open_sides(&v, out, err);
    if (rc == 0)
        rc = check_input(&v, err);
    if (rc == 0)
        rc = eval_windows(&v, err);
    for (uint32_t k = 0; k < v.n_sides && rc == 0; k++)
        if (v.side[k].out)
            finish_side(&v, &v.side[k]);
    close_sides(&v);
    return rc;
}
