/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_eval.c - `lacuna eval`: perplexity of a text or of given tokens, how far whatever is not
 * exact is from what is, and logits as raw floats for comparison with another engine.
 */
#include "server/commands/commands.h"
#include "server/commands/eval_answers.h"
#include "server/commands/eval_rise.h"
#include "server/commands/eval_tasks.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_POINTS = 64, TASK_SPARE = 256 /* tokens: texts are not quite as long as asked */ };

struct eval {
    struct engine *e;
    struct engine *reference; /* NULL: what is measured is exact, or the logits are wanted */
    uint32_t points[MOST_POINTS];
    uint32_t n_points; /* 0: one, and it is not named */
    uint32_t n_named;  /* of them; the others are a curve (eval_rise.h) */
    const struct options_numbers *rises;
    struct engine_tokens tokens;
    FILE *logits;
    bool show; /* progress on a terminal */
    double started, shown;
};

/* ---- input ---- */

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

static int find_point(struct eval *v, const char *quality)
{
    int exit_code = 0, point = cmd_find_point(v->e, quality, &exit_code);
    if (point >= 0)
        v->points[v->n_points++] = (uint32_t)point;
    return exit_code;
}

static int find_points(struct eval *v, const struct options *o)
{
    int exit_code = 0;
    for (uint32_t i = 0; i < o->qualities.n && exit_code == 0; i++)
        exit_code = find_point(v, o->qualities.items[i]);
    v->n_named = v->n_points;
    v->rises = &o->ppl_rise;
    for (uint32_t i = 0; i < RISE_POINTS && o->ppl_rise.n > 0 && exit_code == 0; i++) {
        char name[32];
        rise_point_name(i, name, sizeof(name));
        exit_code = find_point(v, name);
    }
    return exit_code;
}

static uint32_t most_points(const struct options *o)
{
    return o->qualities.n + (o->ppl_rise.n > 0 ? RISE_POINTS : 0);
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

static double change_of_perplexity(const struct engine_eval_result *r)
{
    return exp((r->nll - r->reference_nll) / (double)r->n_tokens) - 1;
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
    print_approximations(v, to);
    fprintf(to, ", against exact (keys and values in %s): ", engine_info(v->reference)->kv);
    if (!r->n_compared) {
        fprintf(to, "no position differs\n");
        return;
    }
    if (r->n_tokens)
        fprintf(to, "perplexity %+.3f %%, ", 100 * change_of_perplexity(r));
    fprintf(
        to,
        "KL divergence %.2e nats per token (%.2e at most), same most likely token %.2f %%, of the "
        "%llu positions that differ\n",
        engine_eval_kl(r), r->kl_most, 100 * engine_eval_same_top(r),
        (unsigned long long)r->n_compared);
}

/* JSON has neither infinities nor a value for "nothing was predicted". */
static void print_likelihood(FILE *to, double nll, uint64_t n)
{
    if (n && isfinite(nll) && isfinite(perplexity(nll, n)))
        fprintf(to, "\"nll\":%.9g,\"perplexity\":%.9g", nll, perplexity(nll, n));
    else
        fprintf(to, "\"nll\":null,\"perplexity\":null");
}

static const char *point_name(const struct eval *v, uint32_t i)
{
    return engine_info(v->e)->points[v->points[i]].name;
}

/* The share of neurons where perplexity, r [n_points], has risen by so many percent. */
static double share_at(const struct eval *v, const struct engine_eval_result *r, uint32_t percent)
{
    struct rise_point curve[RISE_POINTS];
    for (uint32_t i = 0; i < RISE_POINTS; i++)
        curve[i] = (struct rise_point){ r[v->n_named + i].down,
                                        change_of_perplexity(&r[v->n_named + i]) };
    return rise_share(curve, RISE_POINTS, percent / 100.0);
}

static void print_rises(const struct eval *v, const struct engine_eval_result *r, FILE *to)
{
    for (uint32_t i = 0; i < v->rises->n; i++)
        fprintf(to, "%s%u %% with %.1f %%", i ? ", " : "perplexity rises by ", v->rises->items[i],
                100 * share_at(v, r, v->rises->items[i]));
    if (v->rises->n)
        fputs(" of neurons\n", to);
}

static void print_rises_json(const struct eval *v, const struct engine_eval_result *r, FILE *to)
{
    if (v->rises->n == 0)
        return;
    fputs(",\"ppl_rise\":[", to);
    for (uint32_t i = 0; i < v->rises->n; i++)
        fprintf(to, "%s{\"percent\":%u,\"neurons\":%.6f}", i ? "," : "", v->rises->items[i],
                share_at(v, r, v->rises->items[i]));
    fputc(']', to);
}

static void print_points(const struct eval *v, const struct engine_eval_result *r, FILE *to)
{
    fprintf(to, "%-20s %11s %9s %9s %9s %10s %8s %8s %8s %8s\n", "", "perplexity", "change", "KL",
            "99 %", "same token", "up", "down", "weights", "pages");
    fprintf(to, "%-20s %11.4f\n", "exact", perplexity(r->reference_nll, r->n_tokens));
    for (uint32_t i = 0; i < v->n_points; i++, r++)
        fprintf(to, "%-20s %11.4f %+8.2f%% %9.4f %9.4f %9.2f%% %7.1f%% %7.1f%% %7.1f%% %7.1f%%\n",
                point_name(v, i), perplexity(r->nll, r->n_tokens), 100 * change_of_perplexity(r),
                engine_eval_kl(r), r->kl_p99, 100 * engine_eval_same_top(r), 100 * r->up,
                100 * r->down, 100 * r->weights, 100 * r->pages);
}

static void print_points_json(const struct eval *v, const struct engine_eval_result *r, FILE *to)
{
    fputs(",\"points\":[", to);
    for (uint32_t i = 0; i < v->n_points; i++, r++) {
        fprintf(to, "%s{\"name\":\"%s\",", i ? "," : "", point_name(v, i));
        print_likelihood(to, r->nll, r->n_tokens);
        fprintf(to,
                ",\"differ\":%llu,\"kl\":%.6g,\"kl_p99\":%.6g,\"kl_most\":%.6g,\"top1\":%.6f,"
                "\"up\":%.6f,"
                "\"down\":%.6f,\"weights\":%.6f,\"pages\":%.6f}",
                (unsigned long long)r->n_compared, engine_eval_kl(r), r->kl_p99, r->kl_most,
                engine_eval_same_top(r), r->up, r->down, r->weights, r->pages);
    }
    fputc(']', to);
}

static void print_text(const struct eval *v, const struct engine_eval_result *r, double seconds,
                       FILE *to)
{
    const struct engine_info *info = engine_info(v->e);
    bool has_table = v->n_points > 0 && v->reference;
    if (has_table && r->n_tokens) {
        print_points(v, r, to);
        print_rises(v, r, to);
    } else if (r->n_tokens)
        fprintf(to, "perplexity %.4f (%.6f nats per token)\n", perplexity(r->nll, r->n_tokens),
                r->nll / (double)r->n_tokens);
    if (v->reference && !has_table)
        print_comparison(v, r, to);
    fprintf(to, "%zu tokens, %llu of them predicted, windows of %u, %.1f s, %.1f tok/s%s\n",
            v->tokens.n, (unsigned long long)r->n_tokens, info->n_ctx, seconds,
            (double)v->tokens.n / seconds,
            has_table      ? " through each"
            : v->reference ? " through both"
                           : "");
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
        fputs(",\"reference\":{", to);
        print_kind(to, engine_info(v->reference));
        print_likelihood(to, r->reference_nll, r->n_tokens);
        fprintf(to, ",\"differ\":%llu,\"kl\":%.6g,\"kl_most\":%.6g,\"top1\":%.6f}",
                (unsigned long long)r->n_compared, engine_eval_kl(r), r->kl_most,
                engine_eval_same_top(r));
    }
    if (v->n_points > 0 && v->reference) {
        print_points_json(v, r, to);
        print_rises_json(v, r, to);
    }
    fprintf(to, ",\"seconds\":%.3f}\n", seconds);
}

/* Rows of each point per step: every one wants logits. */
static uint32_t chunk_of(const struct options *o)
{
    enum { ROWS = 64 };
    return o->chunk ? o->chunk : o->experts_kept ? 1 /* as decoding does */ : ROWS;
}

static int evaluate(const struct options *o, struct eval *v)
{
    struct engine_eval_result result[MOST_POINTS] = { 0 };
    struct engine_err err = { 0 };
    uint32_t chunk = chunk_of(o);
    v->show = isatty(STDERR_FILENO);
    v->started = v->shown = cmd_now();
    struct engine_eval_options opt = { .tokens = v->tokens.ids,
                                       .n_tokens = v->tokens.n,
                                       .n_chunk = chunk,
                                       .points = v->n_points ? v->points : NULL,
                                       .n_points = v->n_points,
                                       .reference = v->reference,
                                       .row = on_row,
                                       .ctx = v };
    int rc = engine_eval(v->e, &opt, result, &err);
    if (v->show)
        fputs("\r\033[K", stderr);
    if (v->logits && (ferror(v->logits) || fflush(v->logits)))
        return cmd_fail(EX_IOERR, "cannot write the logits: %s", strerror(errno));
    if (rc)
        return cmd_fail_err(&err);
    double seconds = cmd_now() - v->started;
    FILE *to = v->logits == stdout ? stderr : stdout;
    if (o->json)
        print_json(v, result, chunk, seconds, to);
    else
        print_text(v, result, seconds, to);
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
    if (v->logits)
        return 0;
    if (is_exact) {
        v->reference = v->n_points > 0 ? v->e : NULL;
        return 0;
    }
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

/* Not a text's likelihood, but what comes of prompts. */
static int eval_prompts(const struct options *o, struct eval *v)
{
    int exit_code = find_points(v, o);
    engine_pin_self(v->e);
    if (exit_code)
        return exit_code;
    return o->answer ? eval_answers(o, v->e, v->points, v->n_points)
                     : eval_tasks(o, v->e, v->points, v->n_points);
}

static int eval_with(const struct options *o, const struct engine_options *opt, struct engine *e)
{
    struct eval v = { .e = e };
    if (o->tasks.n > 0 || o->answer)
        return eval_prompts(o, &v);
    int exit_code = o->tokens.n ? take_tokens(&v, &o->tokens)
                                : cmd_tokenize_file(e, o->file, &v.tokens);
    if (!exit_code)
        exit_code = find_points(&v, o);
    if (!exit_code)
        exit_code = open_logits(&v, o->logits_out);
    if (!exit_code)
        exit_code = open_reference(opt, &v);
    engine_pin_self(e); /* not earlier: threads of another engine would stay there as well */
    if (!exit_code)
        exit_code = evaluate(o, &v);
    if (v.logits && v.logits != stdout && fclose(v.logits) && !exit_code)
        exit_code = cmd_fail(EX_IOERR, "cannot write %s: %s", o->logits_out, strerror(errno));
    if (v.reference != v.e)
        engine_close(v.reference);
    engine_tokens_fini(&v.tokens);
    return exit_code;
}

static int check_points(const struct options *o)
{
    if (o->logits_out && most_points(o) > 1)
        return cmd_fail(EX_USAGE, "--logits-out: one operating point at a time, not %u",
                        most_points(o));
    if (o->ppl_rise.n > 0 && (o->tasks.n > 0 || o->answer))
        return cmd_fail(EX_USAGE, "--ppl-rise: of a text, not of --tasks or --answer");
    if (most_points(o) > MOST_POINTS)
        return cmd_fail(EX_USAGE,
                        "--quality: %u operating points; at most %d are measured together",
                        most_points(o), MOST_POINTS);
    return 0;
}

static int eval(const struct options *o)
{
    struct engine_options opt;
    struct engine *e;
    int exit_code;
    if ((o->file != NULL) + (o->tokens.n > 0) + (o->tasks.n > 0) + (o->answer != NULL) != 1)
        return cmd_fail(EX_USAGE, "what to measure: give one of --file TEXT, --tokens ID,..., "
                                  "--tasks TASK,... and --answer PROMPTS");
    const char *path = cmd_model_path(o, false, &exit_code);
    if (!path)
        return exit_code;
    exit_code = eval_tasks_check(o);
    if (exit_code)
        return exit_code;
    exit_code = check_points(o);
    if (exit_code)
        return exit_code;
    cmd_engine_options(o, path, &opt);
    opt.never_defers = true; /* the logits of a chunk come from one step */
    opt.n_sequences = 1 + most_points(o) + (o->answer != NULL);
    opt.max_logit_rows = opt.n_sequences * chunk_of(o);
    if (opt.max_logit_rows > (opt.max_rows ? opt.max_rows : 512))
        opt.max_rows = opt.max_logit_rows;
    if (o->tasks.n > 0) { /* one sequence after the other */
        opt.n_sequences = 1;
        opt.max_logit_rows = 0;
        opt.n_ctx = o->ctx ? o->ctx : eval_tasks_longest(o) + TASK_SPARE;
    }
    exit_code = cmd_engine_open(o, &opt, &e);
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
                 "model; of keys and values longer windows differ more.  With --quality it compares operating points with "
                 "the exact model, side by side: how many nats per token they lose (KL: the mean, and below which 99 % "
                 "lie), how often the most likely token is the same, and which shares of neurons, and of all weights, a "
                 "decoded token needs; --ppl-rise says with how many neurons perplexity has risen by so many percent.  --tasks asks long texts for what they said, and says with what certainty a point finds it less "
                 "often than the exact model.  --answer lets each point answer prompts, and says how often the answer is "
                 "the exact model's, and how likely that finds it; with --json, the answers, too.  "
                 "Neither --chunk nor --threads changes a bit of the result, but with --experts-kept, "
                 "which is measured a token at a time unless --chunk says otherwise.",
        .example = "  lacuna eval -m model.gguf -f book.txt --ctx 2048\n"
                   "  lacuna eval -m model.gguf -f book.txt --kv-type q8\n"
                   "  lacuna eval -m model.gguf -f book.txt --quality safe,balanced,neurons=0.5\n"
                   "  lacuna eval -m model.gguf -f book.txt --ppl-rise 1,5\n"
                   "  lacuna eval -m model.gguf --answer prompts.txt --quality safe,fast --json\n"
                   "  lacuna eval -m model.gguf --tasks passkey,keys --lengths 4096,16384 --choose-pages \\\n"
                   "      --quality tokens=2048\n"
                   "  lacuna eval -m model.gguf --tokens 1,15043,3186 --logits-out logits.f32\n",
    },
    .run = eval,
};
