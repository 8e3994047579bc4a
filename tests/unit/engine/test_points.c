/* SPDX-License-Identifier: Apache-2.0
 *
 * test_points.c - operating points in an engine: a token does without the neurons that its point says, prompts without
 * none, and the bits of a sequence never depend on how, beside what, or after what it was computed.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"

enum { N = 360, MAX_ROWS = 48, N_CALIBRATE = 4096 };

/* SwiGLU, GeGLU with norms around, squared ReLU without a gate, more layers, quantised. */
static const char *const models[] = {
    "tests/golden/arch/llama.gguf", "tests/golden/arch/gemma3.gguf",
    "tests/golden/arch/arcee.gguf", "tests/golden/arch/smollm3.gguf",
    "tests/golden/quant/Q4_0.gguf",
};
enum { N_MODELS = sizeof(models) / sizeof(models[0]) };

static const char *const texts[] = { "exact", "neurons=0.5", "up=0.4+down=0.25+tokens=256",
                                     "tokens=256", "neurons=1" };
enum { N_POINTS = sizeof(texts) / sizeof(texts[0]) };

struct bench {
    const char *model;
    char sidecar[64];
};

static struct engine *open_engine(const struct bench *b, const char *sidecar,
                                  enum engine_zeros zeros, uint32_t threads, enum engine_kv kv)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = { .model_path = b->model,
                                  .sidecar_path = sidecar,
                                  .zeros = zeros,
                                  .n_threads = threads,
                                  .n_ctx = 512,
                                  .choose_pages = true,
                                  .n_sequences = 8,
                                  .kv = kv,
                                  .max_rows = N,
                                  .max_logit_rows = MAX_ROWS,
                                  .kv_shuffle_seed = 3 };
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s: %s", b->model, err.text);
    return e;
}

static int32_t token_at(uint32_t which, uint32_t i)
{
    return (int32_t)((i * 2654435761u + (i < 200 ? 0 : which) * 40503u) >> 8) % 280 + 3;
}

static void calibrate(struct engine *e, const struct engine_goal *goals, uint32_t n_goals)
{
    int32_t *tokens = malloc(N_CALIBRATE * sizeof(*tokens));
    struct engine_err err = { 0 };
    for (uint32_t i = 0; i < N_CALIBRATE; i++)
        tokens[i] = token_at(i / 100, i);
    struct engine_calibrate_options opt = {
        .tokens = tokens, .n_tokens = N_CALIBRATE, .goals = goals, .n_goals = n_goals
    };
    cr_assert_eq(engine_calibrate(e, &opt, &err), 0, "%s", err.text);
    free(tokens);
}

static struct bench bench_open(const char *model)
{
    struct bench b = { .model = model };
    struct engine_err err = { 0 };
    strcpy(b.sidecar, "/tmp/lacuna-points-XXXXXX");
    int fd = mkstemp(b.sidecar);
    cr_assert(fd >= 0);
    close(fd);
    struct engine *e = open_engine(&b, NULL, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    calibrate(e, NULL, 0);
    cr_assert_eq(engine_write_sidecar(e, b.sidecar, &err), 0, "%s", err.text);
    engine_close(e);
    return b;
}

static void bench_close(struct bench *b)
{
    unlink(b->sidecar);
}

static uint32_t point_of(struct engine *e, const char *text)
{
    struct engine_err err = { 0 };
    int point = engine_find_point(e, text, &err);
    cr_assert(point >= 0, "%s: %s", text, err.text);
    return (uint32_t)point;
}

static struct engine_seq *open_seq(struct engine *e, const char *point, uint32_t n_prompt,
                                   bool no_cache)
{
    struct engine_seq_options opt = {
        .max_tokens = N, .no_cache = no_cache, .n_prompt = n_prompt, .point = point_of(e, point)
    };
    struct engine_seq *seq;
    cr_assert_eq(engine_seq_open(e, &opt, &seq, NULL), 0);
    return seq;
}

/* Rows [pos, pos + n) of a sequence of the tokens `which`, all with logits. */
static void fill_rows(struct engine_seq *seq, uint32_t which, uint32_t pos, uint32_t n,
                      struct engine_row *rows)
{
    cr_assert_eq(engine_seq_grow(seq, pos + n, NULL), 0);
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct engine_row){
            .seq = seq, .token = token_at(which, pos + i), .pos = pos + i, .want_logits = true
        };
}

/* Logits of all N tokens, computed alone, one at a time, with nothing stored. */
static float *alone(struct engine *e, const char *point, uint32_t which, uint32_t n_prompt)
{
    uint32_t n_vocab = engine_info(e)->n_vocab;
    float *out = malloc((size_t)N * n_vocab * sizeof(*out));
    struct engine_seq *seq = open_seq(e, point, n_prompt, true);
    for (uint32_t i = 0; i < N; i++) {
        struct engine_row row;
        fill_rows(seq, which, i, 1, &row);
        engine_step(e, &row, 1);
        cr_assert_eq(row.status, ENGINE_ROW_DONE);
        memcpy(out + (size_t)i * n_vocab, row.logits, n_vocab * sizeof(*out));
    }
    engine_seq_close(seq);
    return out;
}

/* The first token whose logits differ; N: none do. */
static uint32_t first_difference(const struct engine *e, const float *a, const float *b)
{
    uint32_t n_vocab = engine_info(e)->n_vocab, i = 0;
    while (i < N &&
           memcmp(a + (size_t)i * n_vocab, b + (size_t)i * n_vocab, n_vocab * sizeof(*a)) == 0)
        i++;
    return i;
}

/* ---- what is left out ---- */

Test(points, prompts_and_first_tokens_are_whole_and_decoded_ones_are_not)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct bench b = bench_open(models[m]);
        struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 1, ENGINE_KV_F16);
        float *exact = alone(e, "exact", 0, 0);
        static const uint32_t prompts[] = { 5, 77 };
        for (size_t p = 0; p < sizeof(prompts) / sizeof(prompts[0]); p++) {
            float *sparse = alone(e, "neurons=0.5", 0, prompts[p]);
            uint32_t expected = prompts[p] > SPARSITY_FIRST_POS ? prompts[p] : SPARSITY_FIRST_POS;
            cr_assert_eq(first_difference(e, exact, sparse), expected, "%s", models[m]);
            free(sparse);
        }
        free(exact);
        engine_close(e);
        bench_close(&b);
    }
}

Test(points, what_leaves_out_nothing_has_the_bits_of_the_exact_one)
{
    for (size_t m = 0; m < N_MODELS; m++) {
        struct bench b = bench_open(models[m]);
        struct engine *e = open_engine(&b, b.sidecar, (enum engine_zeros)(m % 3), 1, ENGINE_KV_F16);
        float *exact = alone(e, "exact", 0, 0), *all = alone(e, "neurons=1", 0, 0);
        cr_assert_eq(first_difference(e, exact, all), N, "%s", models[m]);
        free(exact), free(all);
        engine_close(e);
        bench_close(&b);
    }
}

/* Its own page is one of the budget of four: the fifth page is the first where others are left out. */
Test(points, a_token_attends_to_as_many_pages_as_it_may)
{
    struct bench b = bench_open(models[3]);
    struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 1, ENGINE_KV_F16);
    float *exact = alone(e, "exact", 0, 5), *few = alone(e, "tokens=256", 0, 5);
    cr_assert_eq(first_difference(e, exact, few), 4 * KV_PAGE_TOKENS);
    free(few);
    few = alone(e, "tokens=256", 0, 300);
    cr_assert_eq(first_difference(e, exact, few), 300, "those of the prompt see everything");
    few = (free(few), alone(e, "tokens=512", 0, 5));
    cr_assert_eq(first_difference(e, exact, few), N, "there are no more");
    free(exact), free(few);
    engine_close(e);
    bench_close(&b);
}

Test(points, rows_tell_how_many_neurons_were_computed)
{
    struct bench b = bench_open(models[0]);
    struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    double n_all = engine_info(e)->n_neurons, up = 0, down = 0;
    struct engine_seq *seq = open_seq(e, "up=0.6+down=0.3", 20, true);
    for (uint32_t i = 0; i < N; i += 10) {
        struct engine_row rows[10];
        fill_rows(seq, 0, i, 10, rows);
        engine_step(e, rows, 10);
        for (uint32_t r = 0; r < 10; r++) {
            cr_assert(i >= 20 || (rows[r].n_up == n_all && rows[r].n_down == n_all));
            up += i >= 20 ? rows[r].n_up / n_all / (N - 20) : 0;
            down += i >= 20 ? rows[r].n_down / n_all / (N - 20) : 0;
        }
    }
    cr_assert_float_eq(up, 0.6, 0.06);
    cr_assert_float_eq(down, 0.3, 0.06);
    engine_seq_close(seq);
    engine_close(e);
    bench_close(&b);
}

/* ---- the same bits however they are computed ---- */

enum { N_USERS = 6, N_TEXTS = 2, N_STEPS = 90 };

/* A sequence that random steps take along; it may be paused, and comes back by what is stored. */
struct user {
    uint32_t which, n_prompt, point;
    struct engine_seq *seq; /* NULL: it waits */
};

static uint32_t dice(uint32_t n)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32) % n;
}

static const uint32_t prompt_lengths[] = { 1, 64, 101, 266 };
enum { N_LENGTHS = sizeof(prompt_lengths) / sizeof(prompt_lengths[0]) };

/* Of the sequences there can be, those that came; computed by an engine that does nothing else. */
struct expected {
    struct engine *e;
    float *logits[N_TEXTS][N_LENGTHS][N_POINTS];
};

static const float *expected_of(struct expected *x, const struct user *u)
{
    float **logits = &x->logits[u->which][u->n_prompt][u->point];
    if (!*logits)
        *logits = alone(x->e, texts[u->point], u->which, prompt_lengths[u->n_prompt]);
    return *logits;
}

static void expected_fini(struct expected *x)
{
    for (uint32_t w = 0; w < N_TEXTS; w++)
        for (uint32_t l = 0; l < N_LENGTHS; l++)
            for (uint32_t p = 0; p < N_POINTS; p++)
                free(x->logits[w][l][p]);
    engine_close(x->e);
}

/* A fresh sequence, which finds what others left, or goes on where it was paused. */
static void start(struct engine *e, struct user *u)
{
    int32_t tokens[N];
    for (uint32_t i = 0; i < N; i++)
        tokens[i] = token_at(u->which, i);
    u->seq = open_seq(e, texts[u->point], prompt_lengths[u->n_prompt], false);
    cr_assert_eq(engine_seq_admit(u->seq, tokens, dice(N), N, 0, NULL), 0);
}

static void stop(struct user *u)
{
    engine_seq_close(u->seq);
    u->seq = NULL;
}

static void expect_rows(const struct engine *e, struct expected *x, const struct user *u,
                        const struct engine_row *rows, uint32_t n)
{
    uint32_t n_vocab = engine_info(e)->n_vocab;
    const float *all = expected_of(x, u);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(rows[i].status, ENGINE_ROW_DONE);
        cr_assert_eq(
            memcmp(rows[i].logits, all + (size_t)rows[i].pos * n_vocab, n_vocab * sizeof(float)), 0,
            "text %u, prompt %u, %s, token %u", u->which, prompt_lengths[u->n_prompt],
            texts[u->point], rows[i].pos);
    }
}

static void random_step(struct engine *e, struct expected *x, struct user *users)
{
    struct engine_row rows[MAX_ROWS];
    uint32_t first[N_USERS + 1] = { 0 };
    for (uint32_t u = 0; u < N_USERS; u++) {
        uint32_t pos = engine_seq_n_tokens(users[u].seq), n = dice(MAX_ROWS / N_USERS + 1);
        n = n < N - pos ? n : N - pos;
        if (n > 0)
            fill_rows(users[u].seq, users[u].which, pos, n, rows + first[u]);
        first[u + 1] = first[u] + n;
    }
    if (first[N_USERS] > 0)
        engine_step(e, rows, first[N_USERS]);
    for (uint32_t u = 0; u < N_USERS; u++)
        expect_rows(e, x, &users[u], rows + first[u], first[u + 1] - first[u]);
}

static void use_at_random(struct engine *e, struct expected *x)
{
    struct user users[N_USERS] = { 0 };
    for (uint32_t round = 0; round < N_STEPS; round++) {
        for (uint32_t u = 0; u < N_USERS; u++) {
            bool is_over = users[u].seq && engine_seq_n_tokens(users[u].seq) == N;
            if (users[u].seq && (is_over || dice(12) == 0))
                stop(&users[u]); /* over, or paused */
            if (is_over || round == 0)
                users[u] = (struct user){ dice(N_TEXTS), dice(N_LENGTHS), dice(N_POINTS), NULL };
            if (!users[u].seq)
                start(e, &users[u]);
        }
        random_step(e, x, users);
    }
    for (uint32_t u = 0; u < N_USERS; u++)
        stop(&users[u]);
}

static void expect_same_bits(const char *model, enum engine_kv kv)
{
    struct bench b = bench_open(model);
    struct expected x = { .e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 1, kv) };
    for (int zeros = ENGINE_ZEROS_MULTIPLIED; zeros <= ENGINE_ZEROS_SKIPPED; zeros++) {
        struct engine *e = open_engine(&b, b.sidecar, (enum engine_zeros)zeros, 3, kv);
        use_at_random(e, &x);
        engine_close(e);
    }
    expected_fini(&x);
    bench_close(&b);
}

Test(points, a_sequences_bits_do_not_depend_on_company_pauses_or_what_is_stored)
{
    for (size_t m = 0; m < N_MODELS; m++)
        expect_same_bits(models[m], ENGINE_KV_F16);
}

Test(points, nor_where_keys_and_values_have_8_bits)
{
    expect_same_bits(models[1], ENGINE_KV_Q8);
    expect_same_bits(models[3], ENGINE_KV_Q8);
}

/* Long runs of decoded tokens, as a paused sequence is made again: several pages of one step choose. */
Test(points, nor_on_how_many_tokens_a_step_has)
{
    static const uint32_t chunks[] = { 65, 130, 258, N };
    for (int kv = 0; kv < 2; kv++) {
        struct bench b = bench_open(models[3]);
        struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 3,
                                       kv ? ENGINE_KV_Q8 : ENGINE_KV_F16);
        uint32_t n_vocab = engine_info(e)->n_vocab;
        float *expected = alone(e, "tokens=256", 0, 2);
        for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
            struct engine_seq *seq = open_seq(e, "tokens=256", 2, true);
            for (uint32_t pos = 0, n; pos < N; pos += n) {
                static struct engine_row rows[N];
                n = chunks[i] < N - pos ? chunks[i] : N - pos;
                fill_rows(seq, 0, pos, n, rows);
                for (uint32_t r = 0; r < n; r++)
                    rows[r].want_logits = r + 1 == n || r % 9 == 0;
                engine_step(e, rows, n);
                for (uint32_t r = 0; r < n; r++)
                    cr_assert(!rows[r].logits ||
                                  memcmp(rows[r].logits, expected + (size_t)(pos + r) * n_vocab,
                                         n_vocab * sizeof(float)) == 0,
                              "chunks of %u, token %u", chunks[i], pos + r);
            }
            engine_seq_close(seq);
        }
        free(expected);
        engine_close(e);
        bench_close(&b);
    }
}

/* ---- calibration ---- */

Test(calibrate, points_keep_their_promise_and_read_less)
{
    static const struct engine_goal goals[] = { { "safe", 1e-4 }, { "fast", 1e-2 } };
    struct bench b = { .model = models[0] };
    struct engine *e = open_engine(&b, NULL, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    calibrate(e, goals, 2);
    const struct engine_info *info = engine_info(e);
    cr_assert_eq(info->n_points, 3);
    for (uint32_t g = 0; g < 2; g++) {
        const struct engine_point *p = &info->points[g + 1];
        cr_assert_str_eq(p->name, goals[g].name);
        cr_assert(p->kl <= goals[g].kl, "%s: %g", p->name, p->kl);
        cr_assert(p->kl_p99 >= p->kl && p->same_top > 0.5 && p->up <= 1 && p->down <= 1);
        cr_assert(p->weights < 1, "%s", p->name);
    }
    cr_assert_lt(info->points[2].weights, info->points[1].weights);
    engine_close(e);
}

Test(calibrate, what_it_cannot_do_it_refuses_and_changes_nothing)
{
    struct bench b = { .model = models[0] };
    struct engine *e = open_engine(&b, NULL, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    struct engine_err err = { 0 };
    int32_t few[10] = { 0 };
    struct engine_calibrate_options opt = { .tokens = few, .n_tokens = 10 };
    cr_assert_eq(engine_calibrate(e, &opt, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_INPUT);
    calibrate(e, NULL, 0);
    point_of(e, "neurons=0.5");
    volatile int cancel = 1;
    int32_t *tokens = calloc(N_CALIBRATE, sizeof(*tokens));
    opt = (struct engine_calibrate_options){ .tokens = tokens,
                                             .n_tokens = N_CALIBRATE,
                                             .cancel = &cancel };
    err = (struct engine_err){ 0 };
    cr_assert_eq(engine_calibrate(e, &opt, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_CANCELLED);
    cr_assert_eq(engine_info(e)->n_points, 2, "the point that was there still is");
    free(tokens);
    engine_close(e);
    b.model = "tests/golden/arch/qwen3moe.gguf";
    e = open_engine(&b, NULL, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    err = (struct engine_err){ 0 };
    cr_assert_eq(engine_calibrate(e, &opt, &err), -1);
    cr_assert_eq(err.code, ENGINE_ERR_UNSUPPORTED, "%s", err.text);
    engine_close(e);
}

/* ---- measuring ---- */

Test(eval, points_side_by_side_give_what_each_gives_alone)
{
    struct bench b = bench_open(models[1]);
    struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    static int32_t tokens[2 * N];
    uint32_t points[N_POINTS];
    struct engine_eval_result together[N_POINTS], one;
    for (uint32_t i = 0; i < 2 * N; i++)
        tokens[i] = token_at(i / N, i % N);
    for (uint32_t p = 0; p < N_POINTS; p++)
        points[p] = point_of(e, texts[p]);
    struct engine_eval_options opt = { .tokens = tokens,
                                       .n_tokens = 2 * N,
                                       .n_window = N,
                                       .points = points,
                                       .n_points = N_POINTS,
                                       .reference = e };
    cr_assert_eq(engine_eval(e, &opt, together, NULL), 0);
    for (uint32_t p = 0; p < N_POINTS; p++) {
        opt.points = &points[p];
        opt.n_points = 1;
        opt.n_chunk = 7;
        cr_assert_eq(engine_eval(e, &opt, &one, NULL), 0);
        cr_assert_eq(memcmp(&one, &together[p], sizeof(one)), 0, "%s", texts[p]);
    }
    cr_assert(together[0].n_compared == 0 && together[4].n_compared == 0);
    cr_assert(together[3].pages < 1 && together[1].pages == 1);
    cr_assert(together[1].kl > 0 && together[2].kl > 0, "%g, %g", together[1].kl, together[2].kl);
    cr_assert(together[1].weights < 1 && together[2].weights < together[1].weights);
    cr_assert_eq(together[0].weights, 1);
    engine_close(e);
    bench_close(&b);
}

/* One point whose limits are those of another layer: what a wrong table would do. */
Test(eval, a_broken_point_is_seen)
{
    struct bench b = bench_open(models[0]);
    struct engine *e = open_engine(&b, b.sidecar, ENGINE_ZEROS_MULTIPLIED, 2, ENGINE_KV_F16);
    uint32_t points[2] = { point_of(e, "neurons=0.8"), 0 };
    struct layer_point broken[CONFIG_MAX_LAYERS];
    for (uint32_t l = 0; l < e->shape.n_layers; l++)
        broken[l] = e->sparsity->points[points[0]]->layer[l];
    broken[0].limit[SPARSITY_DOWN] *= 1000;
    points[1] = (uint32_t)sparsity_add(e->sparsity, "broken", broken, NULL);
    e->info.n_points = e->sparsity->n_points;
    int32_t tokens[N];
    struct engine_eval_result r[2];
    for (uint32_t i = 0; i < N; i++)
        tokens[i] = token_at(0, i);
    struct engine_eval_options opt = {
        .tokens = tokens, .n_tokens = N, .points = points, .n_points = 2, .reference = e
    };
    cr_assert_eq(engine_eval(e, &opt, r, NULL), 0);
    cr_assert(r[1].kl > 3 * r[0].kl && r[1].kl_p99 > r[0].kl_p99, "%g, %g", r[0].kl, r[1].kl);
    cr_assert_lt(r[1].down, r[0].down);
    engine_close(e);
    bench_close(&b);
}
