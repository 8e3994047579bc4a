/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_eval.c - `lacuna eval`: perplexity of a text or of given tokens, how far whatever is not
 * exact is from what is, and logits as raw floats for comparison with another engine.
 */
#include "server/commands/commands.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct eval {
    struct engine *e, *reference; /* NULL: what is measured is exact */
    struct engine_tokens tokens;
    FILE *logits;
    bool show; /* progress on a terminal */
    double started, shown;
};

/* ---- input ---- */

static int read_all(FILE *f, char **text, size_t *len)
{
    size_t cap = 0, n = 0, got;
    *text = NULL;
    do {
        if (n == cap) {
            char *grown = realloc(*text, cap = cap ? 2 * cap : 1 << 16);
            if (!grown)
                return -ENOMEM;
            *text = grown;
        }
        errno = 0;
        got = fread(*text + n, 1, cap - n, f);
        n += got;
    } while (got > 0);
    *len = n;
    return ferror(f) ? -(errno ? errno : EIO) : 0;
}

static int tokenize_file(struct eval *v, const char *path)
{
    struct engine_err err = { 0 };
    bool is_stdin = strcmp(path, "-") == 0;
    char *text;
    size_t len;
    FILE *f = is_stdin ? stdin : fopen(path, "re");
    if (!f)
        return cmd_fail(EX_NOINPUT, "cannot open %s: %s", path, strerror(errno));
    int rc = read_all(f, &text, &len);
    int exit_code = 0;
    if (rc)
        exit_code = cmd_fail(rc == -ENOMEM ? EX_OSERR : EX_IOERR, "cannot read %s: %s", path,
                             strerror(-rc));
    else if (engine_tokenize(v->e, text, len, ENGINE_TOKENIZE_ADD_SPECIAL, &v->tokens, &err))
        exit_code = cmd_fail_err(&err);
    free(text);
    if (!is_stdin)
        fclose(f);
    return exit_code;
}

static int take_tokens(struct eval *v, const struct options_numbers *given)
{
    const struct engine_info *info = engine_info(v->e);
    if (given->n > info->n_ctx)
        return cmd_fail(EX_DATAERR, "--tokens: %u tokens, the context holds %u (see --ctx)",
                        given->n, info->n_ctx);
    v->tokens.ids = calloc(given->n, sizeof(*v->tokens.ids));
    if (!v->tokens.ids)
        return cmd_fail(EX_OSERR, "no memory for %u tokens", given->n);
    v->tokens.cap = v->tokens.n = given->n;
    for (uint32_t i = 0; i < given->n; i++) {
        if (given->items[i] >= info->n_vocab)
            return cmd_fail(EX_DATAERR, "--tokens: token %u, the vocabulary ends at %u",
                            given->items[i], info->n_vocab - 1);
        v->tokens.ids[i] = (int32_t)given->items[i];
    }
    return 0;
}

static int open_logits(struct eval *v, const char *path)
{
    if (!path)
        return 0;
    v->logits = strcmp(path, "-") == 0 ? stdout : fopen(path, "wbe");
    return v->logits ? 0 : cmd_fail(EX_IOERR, "cannot write %s: %s", path, strerror(errno));
}

/* ---- rows ---- */

static int on_row(void *ctx, uint64_t index, const float *logits)
{
    struct eval *v = ctx;
    uint32_t n_vocab = engine_info(v->e)->n_vocab;
    if (v->logits && fwrite(logits, sizeof(*logits), n_vocab, v->logits) != n_vocab)
        return -1;
    double now = v->show ? cmd_now() : 0;
    if (v->show && now - v->shown > 0.2) {
        v->shown = now;
        fprintf(stderr, "\r\033[K%llu of %zu tokens, %.1f tok/s", (unsigned long long)index + 1,
                v->tokens.n, (double)(index + 1) / (now - v->started));
    }
    return 0;
}

/* ---- the answer ---- */

static double perplexity(double nll, uint64_t n)
{
    return exp(nll / (double)n);
}

/* What the measured engine does not compute as the model says. */
static void print_approximations(const struct eval *v, FILE *to)
{
    const struct engine_info *info = engine_info(v->e), *exact = engine_info(v->reference);
    const char *comma = "";
    if (info->kv != exact->kv) {
        fprintf(to, "keys and values in %s", info->kv);
        comma = ", ";
    }
    if (info->n_experts_used != exact->n_experts_used) {
        fprintf(to, "%s%u of %u experts per token", comma, info->n_experts_used,
                exact->n_experts_used);
        comma = ", ";
    }
    if (info->n_experts_kept != info->n_experts_used)
        fprintf(to, "%s%u of %u experts per token kept, the others replaced where not in memory",
                comma, info->n_experts_kept, info->n_experts_used);
}

static void print_comparison(const struct eval *v, const struct engine_eval_result *r, FILE *to)
{
    double n = (double)r->n_compared;
    print_approximations(v, to);
    fprintf(to, ", against exact (keys and values in %s): ", engine_info(v->reference)->kv);
    if (!r->n_compared) {
        fprintf(to, "no position differs\n");
        return;
    }
    if (r->n_tokens)
        fprintf(to, "perplexity %+.3f %%, ",
                100 * (exp((r->nll - r->reference_nll) / (double)r->n_tokens) - 1));
    fprintf(
        to,
        "KL divergence %.2e nats per token (%.2e at most), same most likely token %.2f %%, of the "
        "%llu positions that differ\n",
        r->kl / n, r->kl_most, 100 * (double)r->n_same_top / n, (unsigned long long)r->n_compared);
}

static void print_text(const struct eval *v, const struct engine_eval_result *r, double seconds,
                       FILE *to)
{
    const struct engine_info *info = engine_info(v->e);
    if (r->n_tokens)
        fprintf(to, "perplexity %.4f (%.6f nats per token)\n", perplexity(r->nll, r->n_tokens),
                r->nll / (double)r->n_tokens);
    if (v->reference)
        print_comparison(v, r, to);
    fprintf(to, "%zu tokens, %llu of them predicted, windows of %u, %.1f s, %.1f tok/s%s\n",
            v->tokens.n, (unsigned long long)r->n_tokens, info->n_ctx, seconds,
            (double)v->tokens.n / seconds, v->reference ? " through both" : "");
}

/* JSON has neither infinities nor a value for "nothing was predicted". */
static void print_likelihood(FILE *to, double nll, uint64_t n)
{
    if (n && isfinite(nll) && isfinite(perplexity(nll, n)))
        fprintf(to, "\"nll\":%.9g,\"perplexity\":%.9g", nll, perplexity(nll, n));
    else
        fprintf(to, "\"nll\":null,\"perplexity\":null");
}

/* What of an engine may be an approximation. */
static void print_kind(FILE *to, const struct engine_info *info)
{
    fprintf(to, "\"kv_type\":\"%s\",", info->kv);
    if (info->n_experts)
        fprintf(to, "\"experts_used\":%u,\"experts_kept\":%u,", info->n_experts_used,
                info->n_experts_kept);
}

static void print_json(const struct eval *v, const struct engine_eval_result *r, uint32_t chunk,
                       double seconds, FILE *to)
{
    const struct engine_info *info = engine_info(v->e);
    fprintf(to, "{\"tokens\":%zu,\"predicted\":%llu,\"window\":%u,\"chunk\":%u,\"threads\":%u,",
            v->tokens.n, (unsigned long long)r->n_tokens, info->n_ctx, chunk, info->n_threads);
    print_kind(to, info);
    print_likelihood(to, r->nll, r->n_tokens);
    if (v->reference) {
        double n = r->n_compared ? (double)r->n_compared : 1;
        fputs(",\"reference\":{", to);
        print_kind(to, engine_info(v->reference));
        print_likelihood(to, r->reference_nll, r->n_tokens);
        fprintf(to, ",\"differ\":%llu,\"kl\":%.6g,\"kl_most\":%.6g,\"top1\":%.6f}",
                (unsigned long long)r->n_compared, r->kl / n, r->kl_most,
                r->n_compared ? (double)r->n_same_top / n : 1.0);
    }
    fprintf(to, ",\"seconds\":%.3f}\n", seconds);
}

static int evaluate(const struct options *o, struct eval *v)
{
    struct engine_eval_result result = { 0 };
    struct engine_err err = { 0 };
    const struct engine_info *info = engine_info(v->e);
    uint32_t chunk = o->chunk ? o->chunk : info->max_logit_rows;
    if (!o->chunk && o->experts_kept)
        chunk = 1; /* as decoding does */
    v->show = isatty(STDERR_FILENO);
    v->started = v->shown = cmd_now();
    struct engine_eval_options opt = { .tokens = v->tokens.ids,
                                       .n_tokens = v->tokens.n,
                                       .n_chunk = chunk,
                                       .reference = v->reference,
                                       .row = on_row,
                                       .ctx = v };
    int rc = engine_eval(v->e, &opt, &result, &err);
    if (v->show)
        fputs("\r\033[K", stderr);
    if (v->logits && (ferror(v->logits) || fflush(v->logits)))
        return cmd_fail(EX_IOERR, "cannot write the logits: %s", strerror(errno));
    if (rc)
        return cmd_fail_err(&err);
    double seconds = cmd_now() - v->started;
    FILE *to = v->logits == stdout ? stderr : stdout;
    if (o->json)
        print_json(v, &result, chunk, seconds, to);
    else
        print_text(v, &result, seconds, to);
    if (fflush(stdout))
        return cmd_fail(EX_IOERR, "cannot write the answer: %s", strerror(errno));
    return 0;
}

/* ---- engines ---- */

/* What the engine has taken that is its own: all but the weights. */
static uint64_t own_bytes(const struct engine_info *info)
{
    uint64_t bytes = 0;
    for (uint32_t i = 1; i < info->n_plan; i++)
        bytes += info->plan[i].bytes;
    return bytes;
}

/* What is not exact is measured against what is: the same model again, with room for a window of
 * these tokens.  Whoever wants the logits has them to compare. */
static int open_reference(const struct engine_options *opt, struct eval *v)
{
    const struct engine_info *info = engine_info(v->e);
    struct engine_options exact = *opt;
    struct engine_err err = { 0 }, named = { 0 };
    bool is_exact = opt->kv == ENGINE_KV_F16 && engine_experts_are_exact(info);
    if (is_exact || v->logits)
        return 0;
    exact.kv = ENGINE_KV_F16;
    exact.experts_used = exact.experts_kept = 0;
    exact.kv_bytes = 0;
    exact.n_ctx = v->tokens.n < info->n_ctx ? (uint32_t)v->tokens.n : info->n_ctx;
    exact.http_bytes = own_bytes(info); /* pages that were not touched yet still look free */
    if (engine_open(&v->reference, &exact, &err) == 0)
        return 0;
    engine_fail(&named, err.code, "no room for the exact engine to compare with: %.400s", err.text);
    return cmd_fail_err(&named);
}

static int eval_with(const struct options *o, const struct engine_options *opt, struct engine *e)
{
    struct eval v = { .e = e };
    int exit_code = o->tokens.n ? take_tokens(&v, &o->tokens) : tokenize_file(&v, o->file);
    if (!exit_code && v.tokens.n == 0)
        exit_code = cmd_fail(EX_DATAERR, "%s: no tokens", o->file);
    if (!exit_code)
        exit_code = open_logits(&v, o->logits_out);
    if (!exit_code)
        exit_code = open_reference(opt, &v);
    engine_pin_self(e); /* not earlier: threads of another engine would stay there as well */
    if (!exit_code)
        exit_code = evaluate(o, &v);
    if (v.logits && v.logits != stdout && fclose(v.logits) && !exit_code)
        exit_code = cmd_fail(EX_IOERR, "cannot write %s: %s", o->logits_out, strerror(errno));
    engine_close(v.reference);
    engine_tokens_fini(&v.tokens);
    return exit_code;
}

static int eval(const struct options *o)
{
    struct engine_options opt;
    struct engine *e;
    int exit_code;
    if (!o->file == !o->tokens.n)
        return cmd_fail(EX_USAGE, "what to measure: give either --file TEXT or --tokens ID,...");
    const char *path = cmd_model_path(o, false, &exit_code);
    if (!path)
        return exit_code;
    cmd_engine_options(o, path, &opt);
    opt.never_defers = true; /* the logits of a chunk come from one step */
    opt.n_sequences = 1;
    /* Every row wants logits, so a step is as long as the room for them. */
    opt.max_logit_rows = o->chunk;
    if (o->chunk > opt.max_rows)
        opt.max_rows = o->chunk;
    exit_code = cmd_engine_open(&opt, &e);
    if (exit_code)
        return exit_code;
    exit_code = eval_with(o, &opt, e);
    engine_close(e);
    return exit_code;
}

const struct cmd cmd_eval = {
    .usage = {
        .command = OPTIONS_EVAL,
        .name = "eval",
        .summary = "measure a model's perplexity and what is not exact, or write its logits",
        .args = "",
        .about = "Runs a text or given tokens through the model, each token predicted from "
                 "the true ones before it, in windows of --ctx tokens, and prints the "
                 "perplexity.  --logits-out writes what the model said at each position.  "
                 "With --kv-type q8, --experts-used or --experts-kept it also says how far that is from the exact "
                 "model; of keys and values longer windows differ more.  "
                 "Neither --chunk nor --threads changes a bit of the result, but with --experts-kept, "
                 "which is measured a token at a time unless --chunk says otherwise.",
        .example = "  lacuna eval -m model.gguf -f book.txt --ctx 2048\n"
                   "  lacuna eval -m model.gguf -f book.txt --kv-type q8\n"
                   "  lacuna eval -m model.gguf --tokens 1,15043,3186 --logits-out logits.f32\n",
    },
    .run = eval,
};
