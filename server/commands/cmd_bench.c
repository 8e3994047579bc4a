/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_bench.c - `lacuna bench`: how fast prompts are read and answers written, by batch and
 * context.
 *
 * Steps the engine directly, without a scheduler.  A repetition wants its context in the cache;
 * since filling one costs far more than the measurement, sequences are used again for as long as
 * they have not grown more than GROWTH beyond the context asked for, and are filled anew after
 * that.
 */
#include "server/commands/bench_results.h"
#include "server/commands/bench_trace.h"
#include "server/commands/commands.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    GROWTH = 10, /* one part in this many: less than timings on a busy machine vary */
    WARM_UP_PROMPT = 64,
    WARM_UP_TOKENS = 4,
    MIN_LOGIT_ROWS = 64,
    MAX_RESULTS = 4096,
    MAX_PEAKS = 16, /* 1, 2, 4 ... threads */
    MAX_MODES = 32,
};

/* Sequences of the same length. */
struct set {
    struct engine_seq **seqs; /* [n_max] */
    int32_t *next;            /* [n_max] the token each decodes next */
    uint32_t n, n_max, len, room;
};

struct bench {
    const struct options *o;
    struct engine *e;
    const struct engine_info *info;
    struct bench_mode modes[MAX_MODES]; /* of the open model */
    uint32_t n_modes;
    struct bench_mode whole;       /* that of prompts, which no point changes */
    const struct bench_mode *mode; /* at hand */
    bool was_opened;               /* the model: there was room for it */
    struct set set;
    struct engine_row *rows;    /* [max_rows] */
    uint32_t *row_seq;          /* [n_max] which sequence a decode row is of */
    struct engine_sample *jobs; /* [n_max] */
    double *times;              /* [repeat] */
    struct bench_results results;
    struct bench_parts parts;            /* of the shape at hand */
    struct bench_experts experts;        /* the same */
    struct bench_trace trace;            /* the same */
    struct bench_neurons neurons;        /* the same */
    struct engine_peak peaks[MAX_PEAKS]; /* the last one is of all threads */
    uint32_t n_peaks;
    struct engine_disk_speed disk[ENGINE_DISK_SPEEDS]; /* if o->disk */
    bool show;
};

/* ---- notes ---- */

static void note(const struct bench *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(const struct bench *b, const char *fmt, ...)
{
    va_list ap;
    if (b->show)
        fputs("\r\033[K", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static void show_progress(const struct bench *b, const struct bench_shape *s, const char *what,
                          uint32_t done, uint32_t total)
{
    if (b->show)
        fprintf(stderr, "\r\033[K%s, batch %u, context %u: %s %u of %u",
                s->decode ? "decode" : "prefill", s->batch, s->context, what, done, total);
}

static void clear_progress(const struct bench *b)
{
    if (b->show)
        fputs("\r\033[K", stderr);
}

/* ---- steps ---- */

/* Fixed but without pattern: a repeated token would flatter caches and routers. */
static int32_t some_token(const struct bench *b, uint64_t i)
{
    uint64_t x = i * UINT64_C(0x9E3779B97F4A7C15) + 1;
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (int32_t)((x ^ (x >> 31)) % b->info->n_vocab);
}

static int row_failure(const struct bench *b, struct engine_err *err)
{
    engine_row_error(b->e, err);
    return -1;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Positions [from, to) of one sequence, the last one with logits. */
static int feed(struct bench *b, uint32_t seq, uint32_t from, uint32_t to, struct engine_err *err)
{
    struct engine_seq *s = b->set.seqs[seq];
    while (from < to) {
        uint32_t n = min_u32(to - from, b->info->max_rows), done = 0;
        if (engine_seq_grow(s, from + n, err))
            return -1;
        for (uint32_t i = 0; i < n; i++)
            b->rows[i] = (struct engine_row){ .seq = s,
                                              .pos = from + i,
                                              .token = some_token(b,
                                                                  (uint64_t)seq << 32 | (from + i)),
                                              .want_logits = from + i + 1 == to };
        engine_step(b->e, b->rows, n);
        while (done < n && b->rows[done].status == ENGINE_ROW_DONE)
            done++;
        if (done < n && b->rows[done].status == ENGINE_ROW_FAILED)
            return row_failure(b, err);
        from += done;
    }
    return 0;
}

/* Computes the rows that are waiting, and takes the next tokens of those that are done. */
static int decode_some(struct bench *b, uint32_t *n_waiting, struct engine_err *err)
{
    uint32_t n = *n_waiting, n_jobs = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t seq = b->row_seq[i];
        b->rows[i] = (struct engine_row){ .seq = b->set.seqs[seq],
                                          .token = b->set.next[seq],
                                          .pos = b->set.len,
                                          .want_logits = true };
    }
    engine_step(b->e, b->rows, n);
    *n_waiting = 0;
    const struct engine_sampling sampling = { .temperature = b->o->temperature,
                                              .top_p = 1,
                                              .repetition_penalty = 1 };
    for (uint32_t i = 0; i < n; i++) {
        if (b->rows[i].status == ENGINE_ROW_FAILED)
            return row_failure(b, err);
        uint32_t seq = b->row_seq[i];
        if (b->rows[i].status == ENGINE_ROW_DONE)
            b->jobs[n_jobs++] = (struct engine_sample){ .logits = b->rows[i].logits,
                                                        .params = &sampling,
                                                        .stream = seq,
                                                        .position = b->set.len + 1,
                                                        .forced = -1,
                                                        .n_top = -1 };
        else
            b->row_seq[(*n_waiting)++] = seq;
    }
    engine_sample(b->e, b->jobs, n_jobs);
    for (uint32_t j = 0; j < n_jobs; j++)
        b->set.next[b->jobs[j].stream] = b->jobs[j].token;
    return 0;
}

/* n tokens more for every sequence of the set. */
static int decode(struct bench *b, uint32_t n, struct engine_err *err)
{
    for (uint32_t t = 0; t < n; t++) {
        uint32_t n_waiting = b->set.n;
        for (uint32_t i = 0; i < b->set.n; i++) {
            b->row_seq[i] = i;
            if (engine_seq_grow(b->set.seqs[i], b->set.len + 1, err))
                return -1;
        }
        while (n_waiting > 0) {
            if (decode_some(b, &n_waiting, err))
                return -1;
        }
        b->set.len++;
    }
    return 0;
}

/* ---- sequences ---- */

static void set_empty(struct set *set)
{
    for (uint32_t i = 0; i < set->n; i++)
        engine_seq_close(set->seqs[i]);
    set->n = set->len = set->room = 0;
}

static uint32_t longest_start(const struct bench_shape *s)
{
    return s->context + s->context / GROWTH;
}

/* batch sequences with `context` tokens each. */
static int set_fill(struct bench *b, const struct bench_shape *s, struct engine_err *err)
{
    struct set *set = &b->set;
    uint32_t room = min_u32(longest_start(s) + s->n, b->info->n_ctx);
    struct engine_seq_options opt = { .max_tokens = room,
                                      .no_cache = true,
                                      .n_prompt = s->decode ? s->context : room,
                                      .point = b->mode->point };
    set_empty(set);
    for (uint32_t i = 0; i < s->batch; i++) {
        if (engine_seq_open(b->e, &opt, &set->seqs[i], err))
            return -1;
        set->n = i + 1;
        set->next[i] = some_token(b, i);
        if (s->context)
            show_progress(b, s, "filling sequence", i + 1, s->batch);
        if (feed(b, i, 0, s->context, err))
            return -1;
    }
    set->len = s->context;
    set->room = room;
    return 0;
}

static bool set_usable(const struct set *set, const struct bench_shape *s)
{
    return set->n == s->batch && set->len >= s->context && set->len <= longest_start(s) &&
           set->len + s->n <= set->room;
}

/* ---- measuring ---- */

static bool has_parts(const struct bench *b)
{
    return b->o->profile || b->o->roofline;
}

static int repeat_once(struct bench *b, const struct bench_shape *s, double *seconds,
                       struct engine_err *err)
{
    if (!set_usable(&b->set, s) && set_fill(b, s, err))
        return -1;
    if (has_parts(b))
        engine_profile_start(b->e);
    struct engine_expert_stats before;
    struct engine_stats first, last;
    engine_expert_stats(b->e, &before);
    engine_stats(b->e, &first);
    engine_trace_experts(b->e, bench_trace_add, &b->trace);
    double start = cmd_now();
    int rc = s->decode ? decode(b, s->n, err) : feed(b, 0, b->set.len, b->set.len + s->n, err);
    *seconds = cmd_now() - start;
    engine_trace_experts(b->e, NULL, NULL);
    engine_stats(b->e, &last);
    b->neurons.n_all += last.n_neurons - first.n_neurons;
    b->neurons.n_up += last.n_neurons_up - first.n_neurons_up;
    b->neurons.n_down += last.n_neurons_down - first.n_neurons_down;
    b->neurons.n_products += last.n_up_products - first.n_up_products;
    b->neurons.n_products += last.n_down_products - first.n_down_products;
    b->neurons.n_skipping += last.n_up_skipping - first.n_up_skipping;
    b->neurons.n_skipping += last.n_down_skipping - first.n_down_skipping;
    if (!rc && !s->decode)
        b->set.len += s->n;
    if (!rc)
        bench_experts_add(&b->experts, b->e, &before, (uint64_t)s->batch * s->n, *seconds);
    if (!rc && has_parts(b))
        bench_parts_add(&b->parts, b->e, s->decode ? s->n : 1);
    return rc;
}

/* As repeat_once; the pages that growing took may be what is missing, so that a second try starts
 * from sequences that have not grown. */
static int repeat(struct bench *b, const struct bench_shape *s, double *seconds,
                  struct engine_err *err)
{
    bool grown = b->set.n == s->batch && b->set.len > s->context;
    if (repeat_once(b, s, seconds, err) == 0)
        return 0;
    if (!grown || err->code != ENGINE_ERR_CAPACITY)
        return -1;
    *err = (struct engine_err){ 0 };
    set_empty(&b->set);
    return repeat_once(b, s, seconds, err);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof(*v), compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void judge_hits(struct bench *b)
{
    struct engine_expert_stats stats;
    engine_expert_stats(b->e, &stats);
    b->experts.best_fixed_rate = bench_trace_best_fixed(&b->trace, stats.n_slots);
    b->experts.best_rate = bench_trace_best(&b->trace, stats.n_slots);
}

static void keep_result(struct bench *b, const struct bench_shape *s, double seconds)
{
    judge_hits(b);
    struct bench_result r = { .shape = *s,
                              .mode = *b->mode,
                              .tok_s = (double)s->batch * s->n / seconds,
                              .ms = seconds * 1e3 / (s->decode ? s->n : 1),
                              .parts = b->parts,
                              .experts = b->experts,
                              .neurons = b->neurons };
    clear_progress(b);
    bench_results_add(&b->results, &r);
}

/* 0 also if the shape was skipped for want of room. */
static int measure(struct bench *b, const struct bench_shape *s, struct engine_err *err)
{
    const char *phase = s->decode ? "decode" : "prefill";
    if (s->n == 0 || b->results.n == MAX_RESULTS)
        return 0;
    if ((uint64_t)s->context + s->n > b->info->n_ctx || !engine_fits(b->e, s->context + s->n)) {
        note(b,
             "skipped %s, batch %u, context %u: a sequence of %llu tokens does not fit (context "
             "length %u; see --ctx and --kv-bytes)",
             phase, s->batch, s->context, (unsigned long long)s->context + s->n, b->info->n_ctx);
        return 0;
    }
    b->parts = (struct bench_parts){ 0 };
    b->experts = (struct bench_experts){ 0 };
    b->neurons = (struct bench_neurons){ 0 };
    b->trace.n = 0;
    for (uint32_t i = 0; i < b->o->repeat; i++) {
        show_progress(b, s, "repetition", i + 1, b->o->repeat);
        if (repeat(b, s, &b->times[i], err) == 0)
            continue;
        set_empty(&b->set);
        if (err->code != ENGINE_ERR_CAPACITY)
            return -1;
        note(b, "skipped %s, batch %u, context %u: %s (see --kv-bytes)", phase, s->batch,
             s->context, err->text);
        *err = (struct engine_err){ 0 };
        return 0;
    }
    set_empty(&b->set);
    keep_result(b, s, median(b->times, b->o->repeat));
    return 0;
}

/* Threads started, pages touched, clocks up. */
static int warm_up(struct bench *b, struct engine_err *err)
{
    struct bench_shape s = { .decode = true, .batch = 1, .n = WARM_UP_TOKENS };
    s.context = min_u32(WARM_UP_PROMPT, b->info->n_ctx / 2);
    double seconds;
    if (!engine_fits(b->e, s.context + s.n))
        return 0;
    int rc = repeat_once(b, &s, &seconds, err);
    set_empty(&b->set);
    return rc;
}

/* 1, 2, 4 ... threads, and all. */
static void measure_peaks(struct bench *b)
{
    uint32_t all = b->info->n_threads;
    for (uint32_t n = 1; b->n_peaks < MAX_PEAKS; n = 2 * n < all ? 2 * n : all) {
        if (b->show)
            fprintf(stderr, "\r\033[Kmeasuring what %u threads can do", n);
        engine_measure_peak(b->e, n, &b->peaks[b->n_peaks++]);
        if (n == all)
            break;
    }
    clear_progress(b);
    b->results.peak = &b->peaks[b->n_peaks - 1];
    if (!b->o->json)
        bench_print_peaks(b->peaks, b->n_peaks);
}

static int measure_modes(struct bench *b, const struct bench_shape *s, struct engine_err *err)
{
    for (uint32_t m = 0; m < (s->decode ? b->n_modes : 1); m++) {
        b->mode = s->decode ? &b->modes[m] : &b->whole;
        if (measure(b, s, err))
            return -1;
    }
    return 0;
}

static int measure_all(struct bench *b, struct engine_err *err, bool is_first)
{
    const struct options *o = b->o;
    b->mode = &b->modes[0];
    if (warm_up(b, err))
        return -1;
    if (o->roofline && is_first)
        measure_peaks(b);
    for (uint32_t p = 0; p < o->prompts.n; p++) {
        for (uint32_t c = 0; c < o->contexts.n; c++) {
            struct bench_shape s = { .batch = 1,
                                     .context = o->contexts.items[c],
                                     .n = o->prompts.items[p] };
            if (measure_modes(b, &s, err))
                return -1;
        }
    }
    for (uint32_t c = 0; c < o->contexts.n; c++) {
        for (uint32_t i = 0; i < o->batches.n; i++) {
            struct bench_shape s = { .decode = true,
                                     .batch = o->batches.items[i],
                                     .context = o->contexts.items[c],
                                     .n = o->gen };
            if (measure_modes(b, &s, err))
                return -1;
        }
    }
    return 0;
}

static void print_heading(const struct bench *b)
{
    const struct engine_info *i = b->info;
    char size[CMD_BYTES_MAX];
    cmd_bytes_text(i->file_bytes, size);
    fprintf(stderr,
            "%s: %s, %s, %.1f M parameters; %s, %u threads, context length %u, keys and values "
            "in %s\n",
            i->file_name, i->arch, size, (double)i->n_params / 1e6, i->isa, i->n_threads, i->n_ctx,
            i->kv);
}

/* ---- open and close ---- */

static bool compares_modes(const struct options *o)
{
    bool is_exact = o->qualities.n == 1 && strcmp(o->qualities.items[0], "exact") == 0;
    return o->skip_zeros || !is_exact;
}

static uint32_t largest(const struct options_numbers *v)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < v->n; i++)
        most = v->items[i] > most ? v->items[i] : most;
    return most;
}

static void close_model(struct bench *b)
{
    set_empty(&b->set);
    free(b->rows);
    b->rows = NULL;
    engine_close(b->e);
    b->e = NULL;
}

static void bench_close(struct bench *b)
{
    free(b->set.seqs);
    free(b->set.next);
    free(b->row_seq);
    free(b->jobs);
    free(b->times);
    bench_results_fini(&b->results);
    bench_trace_fini(&b->trace);
}

/* Before the model takes its memory: nothing else reads then. */
static int measure_disk(struct bench *b, const struct engine_options *opt)
{
    struct engine_err err = { 0 };
    if (b->show)
        fprintf(stderr, "reading %s in several ways, %d seconds", opt->model_path,
                ENGINE_DISK_SPEEDS);
    int rc = engine_measure_disk(opt->model_path, opt->io, b->disk, &err);
    clear_progress(b);
    if (rc)
        return cmd_fail_err(&err);
    if (!b->o->json)
        bench_print_disk(b->disk);
    fflush(stdout);
    return 0;
}

static int bench_open(struct bench *b, const struct options *o)
{
    uint32_t n_max = largest(&o->batches);
    *b = (struct bench){ .o = o, .show = isatty(STDERR_FILENO) };
    b->set.n_max = n_max;
    b->set.seqs = calloc(n_max, sizeof(*b->set.seqs));
    b->set.next = calloc(n_max, sizeof(*b->set.next));
    b->row_seq = calloc(n_max, sizeof(*b->row_seq));
    b->jobs = calloc(n_max, sizeof(*b->jobs));
    b->times = calloc(o->repeat, sizeof(*b->times));
    int rc = bench_results_init(&b->results, MAX_RESULTS);
    b->results.as_json = o->json;
    b->results.has_parts = has_parts(b);
    b->results.compares_modes = compares_modes(o);
    b->results.disk = o->disk ? b->disk : NULL;
    if (b->set.seqs && b->set.next && b->row_seq && b->jobs && b->times && rc == 0)
        return 0;
    bench_close(b);
    return cmd_fail(EX_OSERR, "no memory for %u sequences", n_max);
}

static struct bench_mode mode_of(const struct bench *b, uint32_t point, bool skips_zeros)
{
    const struct engine_point *p = &engine_info(b->e)->points[point];
    bool is_exact = point == ENGINE_POINT_EXACT;
    struct bench_mode mode = { .point = point,
                               .is_dense = is_exact && !skips_zeros,
                               .has_losses = !is_exact && p->same_top > 0,
                               .kl = p->kl,
                               .same_top = p->same_top };
    snprintf(mode.name, sizeof(mode.name), "%s",
             !is_exact     ? p->name
             : skips_zeros ? "sparse"
                           : "dense");
    return mode;
}

/* The operating point of a text as one more mode; nothing, if it is there already. */
static int add_mode(struct bench *b, const char *quality, bool skips_zeros)
{
    int exit_code, point = cmd_find_point(b->e, quality, &exit_code);
    if (point < 0)
        return exit_code;
    for (uint32_t m = 0; m < b->n_modes; m++)
        if (b->modes[m].point == (uint32_t)point)
            return 0;
    if (b->n_modes == MAX_MODES)
        return cmd_fail(EX_USAGE, "--quality: at most %d operating points are measured together",
                        MAX_MODES);
    b->modes[b->n_modes++] = mode_of(b, (uint32_t)point, skips_zeros);
    return 0;
}

/* Without skips_zeros, first what others are compared with. */
static int add_modes(struct bench *b, const struct options_list *qualities, bool skips_zeros)
{
    int exit_code = skips_zeros ? 0 : add_mode(b, "exact", false);
    for (uint32_t i = 0; i < qualities->n && exit_code == 0; i++)
        exit_code = add_mode(b, qualities->items[i], skips_zeros);
    return exit_code;
}

static int open_model(struct bench *b, const struct engine_options *opt,
                      const struct options_list *qualities)
{
    int exit_code = cmd_engine_open(b->o, opt, &b->e);
    if (exit_code)
        return exit_code;
    b->n_modes = 0;
    b->whole = mode_of(b, ENGINE_POINT_EXACT, opt->zeros != ENGINE_ZEROS_MULTIPLIED);
    exit_code = add_modes(b, qualities, opt->zeros != ENGINE_ZEROS_MULTIPLIED);
    if (exit_code) {
        close_model(b);
        return exit_code;
    }
    engine_pin_self(b->e);
    b->info = engine_info(b->e);
    b->results.has_experts = b->info->n_experts > 0;
    b->trace.n_layers = b->info->n_layers;
    b->trace.n_experts = b->info->n_experts; /* of all layers: more than one has */
    b->rows = calloc(b->info->max_rows, sizeof(*b->rows));
    b->was_opened = b->rows != NULL;
    if (b->rows)
        return 0;
    close_model(b);
    return cmd_fail(EX_OSERR, "no memory for a step's rows");
}

/* All shapes, with the model open. */
static int measure_model(struct bench *b, bool is_first)
{
    struct engine_err err = { 0 };
    int exit_code = 0;
    if (is_first)
        print_heading(b);
    if (measure_all(b, &err, is_first))
        exit_code = cmd_fail_err(&err);
    clear_progress(b);
    close_model(b);
    return exit_code;
}

/* Before a model whose zeros are skipped, the same one laid out so that all is computed at once. */
static int measure_dense(struct bench *b, const struct engine_options *opt, bool is_first)
{
    static const struct options_list none = { 0 };
    struct engine_options dense = *opt;
    dense.zeros = ENGINE_ZEROS_MULTIPLIED;
    int exit_code = open_model(b, &dense, &none);
    return exit_code ? exit_code : measure_model(b, is_first);
}

static int measure_layouts(struct bench *b, const struct engine_options *opt, bool is_first)
{
    bool skips_zeros = opt->zeros != ENGINE_ZEROS_MULTIPLIED;
    int exit_code = skips_zeros ? measure_dense(b, opt, is_first) : 0;
    if (exit_code == 0)
        exit_code = open_model(b, opt, &b->o->qualities);
    return exit_code ? exit_code : measure_model(b, is_first && !skips_zeros);
}

static int measure_models(struct bench *b, const char *path)
{
    const struct options *o = b->o;
    struct engine_options opt;
    cmd_engine_options(o, path, &opt);
    opt.max_logit_rows = b->set.n_max > MIN_LOGIT_ROWS ? b->set.n_max : 0;
    if (opt.max_rows ? opt.max_rows < b->set.n_max : b->set.n_max > 512)
        opt.max_rows = b->set.n_max;
    int exit_code = o->disk ? measure_disk(b, &opt) : 0;
    uint32_t n = o->expert_cache.n, n_skipped = 0;
    for (uint32_t i = 0; i < n && exit_code == 0; i++) {
        opt.expert_bytes = o->expert_cache.items[i].bytes;
        opt.expert_share = o->expert_cache.items[i].share;
        b->was_opened = false;
        exit_code = measure_layouts(b, &opt, i == n_skipped);
        if (exit_code == EX_OSERR && !b->was_opened &&
            n_skipped + 1 < n) { /* more than there is room for: fewer may fit */
            n_skipped++;
            note(b, "skipped size %u of --expert-cache", i + 1);
            exit_code = 0;
        }
    }
    return exit_code;
}

static int bench(const struct options *o)
{
    struct bench b;
    int exit_code;
    const char *path = cmd_model_path(o, true, &exit_code);
    if (!path)
        return exit_code;
    exit_code = bench_open(&b, o);
    if (exit_code)
        return exit_code;
    exit_code = measure_models(&b, path);
    if (exit_code == 0 && b.results.n == 0 && !o->disk)
        exit_code = cmd_fail(EX_USAGE, "nothing was measured: of --prompts, --gen, --batches and "
                                       "--contexts no combination is left that fits");
    else if (exit_code == 0 && o->json)
        bench_results_print_json(&b.results);
    bench_close(&b);
    if (fflush(stdout) || ferror(stdout))
        return cmd_fail(EX_IOERR, "cannot write the answer: %s", strerror(errno));
    return exit_code;
}

const struct cmd cmd_bench = {
    .usage = {
        .command = OPTIONS_BENCH,
        .name = "bench",
        .summary = "measure prefill and decode speed",
        .args = "[MODEL.gguf]",
        .max_args = 1,
        .about = "Measures how fast prompts are read (prefill, one sequence) and tokens "
                 "generated (decode, --batches sequences side by side), with --contexts "
                 "tokens already in the cache.  Shows medians: tok/s counts the tokens of "
                 "all sequences; ms is the whole prompt's time in prefill, one step's in "
                 "decode.  Combinations that do not fit are skipped with a note.  With --profile, "
                 "each is followed by the parts of its steps: time, bytes of weights and KV pages "
                 "read, multiplications; with --roofline also by the time that this machine would "
                 "need at least, by its bandwidth or its arithmetic, whichever takes longer.  --disk reads "
                 "the file in several ways first: what bounds a model that is larger than memory.  "
                 "With --quality or --skip-zeros, each row stands beside the speed of the same "
                 "without them, the share of neurons that were computed, that of products which "
                 "skipped the others (with --skip-zeros auto), and what the calibration found to be "
                 "lost.",
        .example =
            "  lacuna bench -m model.gguf -p 512 -n 64 -b 1,8,32 -c 0,8192 -r 5 --threads 2\n"
            "  lacuna bench -m model.gguf --skip-zeros auto --quality exact,safe,balanced,fast -b 1,4\n",
    },
    .run = bench,
};
