/* SPDX-License-Identifier: Apache-2.0
 *
 * test_experts.c - experts on demand: whatever the slots, the backend and the faults, what is handed out is
 * what the file holds, and each expert that was wanted is handed out once or failed.
 */
#include "engine/model/repack.h"
#include "engine/storage/experts.h"

#include "engine/clock.h"
#include "tests/support/gguf_build.h"
#include "tests/support/random_blocks.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Matrices are large enough to be read straight to where they stay, and none is whole blocks. */
enum { N_LAYERS = 5, DENSE_LAYER = 1, N_ALL = 4 * 6, N_EXPERTS = 6, WIDTH = 512, N_FF = 800 };

static const char *const part_names[EXPERT_N_PARTS] = { "gate", "up", "down" };

struct model {
    char path[64];
    struct gguf *g;
    uint8_t *raw[N_LAYERS][EXPERT_N_PARTS];    /* [N_EXPERTS] matrices in rows */
    uint8_t *panels[N_LAYERS][EXPERT_N_PARTS]; /* the same in panels; NULL: they have none */
    struct experts_layer layers[N_LAYERS];
    struct workers *workers;
};

static struct kern_matrix rows_of(const struct model *m, uint32_t layer, uint32_t part,
                                  uint32_t expert)
{
    const struct gguf_tensor *t = m->layers[layer].part[part];
    struct kern_matrix rows = { .type = (enum kern_type)t->type,
                                .n_rows = (uint32_t)t->ne[1],
                                .n_cols = (uint32_t)t->ne[0] };
    rows.row_bytes = random_row_bytes(rows.type, rows.n_cols);
    rows.data = m->raw[layer][part] + (size_t)expert * rows.n_rows * rows.row_bytes;
    return rows;
}

/* Down is F16 in one layer: it is not put into panels. */
static enum kern_type type_of(uint32_t layer, uint32_t part)
{
    return part != EXPERT_DOWN ? KERN_TYPE_Q4_0 : layer == 0 ? KERN_TYPE_F16 : KERN_TYPE_Q8_0;
}

static size_t panels_bytes(const struct kern_matrix *rows)
{
    return kern_packed_bytes(KERN_LAYOUT_PANELS, rows->type, rows->n_rows, rows->n_cols);
}

/* As experts are computed with. */
static void make_panels(struct model *m, uint32_t layer, uint32_t part)
{
    struct kern_matrix rows = rows_of(m, layer, part, 0);
    size_t bytes = panels_bytes(&rows);
    if (!kern_type_is_quantised(rows.type))
        return;
    cr_assert_eq(bytes % 64, 0);
    m->panels[layer][part] = aligned_alloc(64, N_EXPERTS * bytes);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        rows = rows_of(m, layer, part, e);
        kern_pack(&rows, KERN_LAYOUT_PANELS, 0,
                  (rows.n_rows + KERN_PANEL_ROWS - 1) / KERN_PANEL_ROWS,
                  m->panels[layer][part] + e * bytes);
    }
}

static void add_tensor(struct model *m, struct gguf_build *b, uint32_t layer, uint32_t part)
{
    enum kern_type type = type_of(layer, part);
    uint32_t cols = part == EXPERT_DOWN ? N_FF : WIDTH, rows = part == EXPERT_DOWN ? WIDTH : N_FF;
    uint64_t ne[3] = { cols, rows, N_EXPERTS };
    char name[64];
    snprintf(name, sizeof(name), "blk.%u.ffn_%s_exps.weight", layer, part_names[part]);
    m->raw[layer][part] = random_rows(type, rows * N_EXPERTS, cols, layer * 10 + part);
    gguf_build_tensor(b, name, type, 3, ne, m->raw[layer][part],
                      random_row_bytes(type, cols) * rows * N_EXPERTS);
}

static void model_open(struct model *m)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    memset(m, 0, sizeof(*m));
    strcpy(m->path, "/var/tmp/lacuna-experts-XXXXXX");
    close(mkstemp(m->path));
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS && l != DENSE_LAYER; p++)
            add_tensor(m, &b, l, p);
    cr_assert_eq(gguf_build_write(&b, m->path), 0);
    struct engine_err err = { 0 };
    cr_assert_eq(gguf_open(&m->g, m->path, &err), 0, "%s", err.text);
    repack_choose(m->g, &(struct repack_rules){ .skips_zeros = false });
    for (uint32_t l = 0; l < N_LAYERS; l++)
        experts_find(m->g, l, &m->layers[l]);
    cr_assert_null(m->layers[DENSE_LAYER].part[EXPERT_UP]);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS && l != DENSE_LAYER; p++)
            make_panels(m, l, p);
    cr_assert_eq(workers_open(&m->workers, 2, false, &err), 0, "%s", err.text);
}

/* The same model as `lacuna pack` writes it. */
static void model_pack(struct model *m)
{
    struct engine_err err = { 0 };
    char packed[80];
    snprintf(packed, sizeof(packed), "%s.packed", m->path);
    struct engine_pack_options pack = { .in = m->path, .out = packed, .n_threads = 2 };
    cr_assert_eq(engine_pack(&pack, &err), 0, "%s", err.text);
    gguf_close(m->g);
    cr_assert_eq(rename(packed, m->path), 0);
    cr_assert_eq(gguf_open(&m->g, m->path, &err), 0, "%s", err.text);
    repack_choose(m->g, &(struct repack_rules){ .skips_zeros = false });
    for (uint32_t l = 0; l < N_LAYERS; l++)
        experts_find(m->g, l, &m->layers[l]);
}

static void model_close(struct model *m)
{
    workers_close(m->workers);
    gguf_close(m->g);
    unlink(m->path);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
            free(m->raw[l][p]);
            free(m->panels[l][p]);
        }
}

static struct experts_options options_of(const struct model *m)
{
    return (struct experts_options){ .layers = m->layers,
                                     .n_layers = N_LAYERS,
                                     .n_experts = N_EXPERTS };
}

static struct experts *open_experts(const struct model *m, const struct experts_options *opt)
{
    struct experts *x;
    struct engine_err err = { 0 };
    int rc = experts_open(&x, m->g, opt, m->workers, &err);
    if (rc < 0 && opt->io == ENGINE_IO_URING)
        cr_skip_test("no io_uring here");
    cr_assert_eq(rc, 0, "%s", err.text);
    return x;
}

static void expect_expert(const struct model *m, const struct experts *x, uint32_t layer,
                          uint32_t expert)
{
    for (uint32_t p = 0; p < EXPERT_N_PARTS; p++) {
        struct kern_matrix rows = rows_of(m, layer, p, expert);
        const void *found = experts_data(x, layer, expert, (enum expert_part)p);
        bool in_panels = m->panels[layer][p] != NULL;
        size_t bytes = in_panels ? panels_bytes(&rows) : rows.n_rows * rows.row_bytes;
        const void *expected = in_panels ? m->panels[layer][p] + expert * bytes : rows.data;
        cr_assert_eq(memcmp(found, expected, bytes), 0, "layer %u, expert %u, %s", layer, expert,
                     part_names[p]);
    }
}

/* Some of all experts. */
static uint32_t draw(uint64_t *random, uint32_t *list)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        if (random_next(random) % 2)
            list[n++] = e;
    return n;
}

/* Chosen by the first n_tokens tokens of a step. */
static struct experts_choice choice_of(uint32_t expert, uint32_t n_tokens)
{
    struct experts_choice c = { .expert = expert, .n_tokens = n_tokens };
    for (uint32_t row = 0; row < n_tokens; row++)
        c.heat += experts_row_heat(row);
    return c;
}

/* Wants some experts of a layer, guesses at the next one's, and takes them all.  Returns how many failed. */
static uint32_t go_through(const struct model *m, struct experts *x, uint32_t layer,
                           uint64_t *random)
{
    uint32_t list[N_EXPERTS], guesses[N_EXPERTS], seen = 0;
    struct experts_choice choices[N_EXPERTS];
    uint32_t set[N_EXPERTS], n_set, n = draw(random, list);
    for (uint32_t i = 0; i < n; i++)
        choices[i] = choice_of(list[i], 1 + (uint32_t)(random_next(random) % 3));
    experts_want(x, layer, choices, n);
    for (uint32_t l = layer + 1; l <= layer + EXPERT_GUESS_LAYERS && l < N_LAYERS; l++)
        if (experts_can_foresee(x, l))
            experts_foresee(x, l, guesses, draw(random, guesses));
    while ((n_set = experts_next(x, set, false)) > 0)
        for (uint32_t i = 0; i < n_set; i++) {
            expect_expert(m, x, layer, set[i]);
            cr_assert_eq(seen & 1u << set[i], 0, "handed out twice");
            seen |= 1u << set[i];
        }
    const uint32_t *failed;
    const char *reason;
    uint32_t n_failed = experts_failed(x, &failed, &reason);
    for (uint32_t i = 0; i < n_failed; i++) {
        cr_assert_eq(seen & 1u << failed[i], 0);
        cr_assert_not_null(strstr(reason, "could not be read"));
        seen |= 1u << failed[i];
    }
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < n; i++)
        wanted |= 1u << list[i];
    cr_assert_eq(seen, wanted);
    return n_failed;
}

static uint32_t many_steps(const struct model *m, struct experts *x, uint32_t n_steps)
{
    uint64_t random = 5;
    uint32_t n_failed = 0;
    for (uint32_t i = 0; i < n_steps; i++) {
        for (uint32_t l = 0; l < N_LAYERS; l++)
            n_failed += l != DENSE_LAYER ? go_through(m, x, l, &random) : 0;
        experts_pass(x, 4);
    }
    return n_failed;
}

static void check_model(const struct model *m, enum engine_io io)
{
    struct experts_options opt = options_of(m);
    opt.io = io;
    const uint32_t n_slots[] = { 2, 3, 4, 6, 9, 14, N_ALL };
    uint64_t least = experts_least_bytes(&opt);
    for (size_t i = 0; i < sizeof(n_slots) / sizeof(*n_slots); i++) {
        struct engine_expert_stats stats;
        opt.slot_bytes = n_slots[i] * least / 2;
        struct experts *x = open_experts(m, &opt);
        cr_assert_eq(many_steps(m, x, 20), 0);
        experts_publish(x);
        experts_stats(x, &stats, NULL);
        cr_expect_eq(stats.n_slots, n_slots[i]);
        cr_expect_gt(stats.read_bytes, 0);
        if (n_slots[i] == N_ALL) {
            cr_expect_leq(stats.sum.n_misses, N_ALL, "each is read once");
            cr_expect_eq(stats.n_evictions, 0);
        }
        experts_close(x);
    }
}

static void check_backend(enum engine_io io)
{
    struct model m;
    model_open(&m);
    check_model(&m, io);
    model_pack(&m);
    struct experts_options opt = options_of(&m);
    cr_expect_eq(experts_staging_bytes(&opt), 0, "they are read to where they stay");
    check_model(&m, io);
    model_close(&m);
}

Test(experts, are_what_the_file_holds_with_pread)
{
    check_backend(ENGINE_IO_PREAD);
}

Test(experts, are_what_the_file_holds_with_mmap)
{
    check_backend(ENGINE_IO_MMAP);
}

Test(experts, are_what_the_file_holds_with_io_uring)
{
    check_backend(ENGINE_IO_URING);
}

Test(experts, short_and_failing_reads_change_no_bytes)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = 2 * experts_least_bytes(&opt);
    opt.faults = (struct io_faults){
        .seed = 3, .short_permille = 300, .eio_permille = 100, .delay_us = 50
    };
    struct experts *x = open_experts(&m, &opt);
    uint32_t n_failed = many_steps(&m, x, 100);
    cr_expect_gt(n_failed, 0u, "some fail twice in a row");
    experts_close(x);
    model_close(&m);
}

Test(experts, a_file_that_became_shorter_fails_what_is_missing)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = experts_least_bytes(&opt);
    struct experts *x = open_experts(&m, &opt);
    const struct gguf_tensor *down = m.layers[2].part[EXPERT_DOWN];
    cr_assert_eq(truncate(m.path, (off_t)(down->offset + down->bytes / N_EXPERTS)), 0);
    uint32_t set[N_EXPERTS], n_handed = 0, n;
    const struct experts_choice list[] = { choice_of(0, 1), choice_of(4, 1) };
    experts_want(x, 2, list, 2);
    while ((n = experts_next(x, set, false)) > 0) {
        cr_assert_eq(set[0], 0);
        expect_expert(&m, x, 2, 0);
        n_handed += n;
    }
    const uint32_t *failed;
    const char *reason;
    cr_assert_eq(n_handed, 1);
    cr_assert_eq(experts_failed(x, &failed, &reason), 1);
    cr_assert_eq(failed[0], 4);
    experts_close(x);
    model_close(&m);
}

static void want_one(struct experts *x, uint32_t layer, uint32_t expert)
{
    const struct experts_choice choice = choice_of(expert, 1);
    experts_want(x, layer, &choice, 1);
}

/* Wants expert `expert` of layer 2, when the first one of layer 0 has been computed and `guess` was foreseen. */
static void step_with_guess(const struct model *m, struct experts *x, uint32_t guess,
                            uint32_t expert)
{
    uint32_t set[N_EXPERTS];
    want_one(x, 0, 0);
    experts_foresee(x, 2, &guess, 1);
    while (experts_next(x, set, false) > 0)
        expect_expert(m, x, 0, 0);
    want_one(x, 2, expert);
    while (experts_next(x, set, false) > 0)
        expect_expert(m, x, 2, expert);
    experts_pass(x, 1);
}

Test(experts, what_was_foreseen_is_no_miss)
{
    struct model m;
    struct engine_expert_stats stats;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = 4 * experts_least_bytes(&opt) / 2;
    struct experts *x = open_experts(&m, &opt);
    for (uint32_t i = 0; i < 50; i++)
        step_with_guess(&m, x, i % N_EXPERTS, i % N_EXPERTS);
    experts_publish(x);
    experts_stats(x, &stats, NULL);
    cr_expect_eq(stats.sum.n_misses, 1, "the first one");
    cr_expect_gt(stats.sum.n_foreseen, 40);
    cr_expect_eq(stats.sum.n_unused, 0);
    experts_close(x);
    model_close(&m);
}

Test(experts, foresight_stops_where_it_is_wrong_and_comes_back)
{
    struct model m;
    struct engine_expert_stats wrong, right;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = 4 * experts_least_bytes(&opt) / 2;
    struct experts *x = open_experts(&m, &opt);
    for (uint32_t i = 0; i < 50; i++)
        step_with_guess(&m, x, (i + 1) % N_EXPERTS, i % N_EXPERTS);
    experts_publish(x);
    experts_stats(x, &wrong, NULL);
    cr_expect_leq(wrong.sum.n_unused, 2);
    for (uint32_t i = 0; i < 100; i++)
        step_with_guess(&m, x, i % N_EXPERTS, i % N_EXPERTS);
    experts_publish(x);
    experts_stats(x, &right, NULL);
    cr_expect_gt(right.sum.n_foreseen, wrong.sum.n_foreseen + 20);
    experts_close(x);
    model_close(&m);
}

static uint32_t n_hits_of(struct experts *x, uint32_t layer, uint32_t expert)
{
    struct engine_expert_stats before, after;
    uint32_t set[N_EXPERTS];
    experts_publish(x);
    experts_stats(x, &before, NULL);
    want_one(x, layer, expert);
    while (experts_next(x, set, false) > 0)
        continue;
    experts_publish(x);
    experts_stats(x, &after, NULL);
    return (uint32_t)(after.sum.n_hits - before.sum.n_hits);
}

/* Tries for the expert until it is there; the storage takes its time. */
static void want_patiently(struct experts *x, uint32_t layer, uint32_t expert)
{
    uint32_t set[N_EXPERTS];
    for (want_one(x, layer, expert); experts_next(x, set, true) == 0; want_one(x, layer, expert))
        experts_await(x);
    cr_assert_eq(experts_next(x, set, true), 0);
}

static uint64_t n_evictions(struct experts *x)
{
    struct engine_expert_stats stats;
    experts_publish(x);
    experts_stats(x, &stats, NULL);
    return stats.n_evictions;
}

Test(experts, silent_storage_gets_no_slots_of_what_is_there)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = 3 * experts_least_bytes(&opt) / 2;
    opt.patience_ms = 20;
    opt.faults.delay_us = 200000;
    struct experts *x = open_experts(&m, &opt);
    uint32_t set[N_EXPERTS];
    const uint32_t *late;
    want_patiently(x, 2, 0);
    want_patiently(x, 2, 1);
    for (uint32_t expert = 2; expert < 4; expert++) {
        want_one(x, 2, expert);
        cr_assert_eq(experts_next(x, set, true), 0);
        cr_assert_eq(experts_late(x, &late), 1);
    }
    cr_expect_eq(n_evictions(x), 0, "the second one has to wait until the storage shows life");
    cr_expect_eq(n_hits_of(x, 2, 0) + n_hits_of(x, 2, 1), 2);
    want_patiently(x, 2, 2);
    cr_expect_eq(n_evictions(x), 0);
    want_patiently(x, 2, 3);
    cr_expect_eq(n_evictions(x), 1);
    experts_close(x);
    model_close(&m);
}

Test(experts, a_step_that_may_not_defer_waits_once_for_silent_storage)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = experts_least_bytes(&opt);
    opt.patience_ms = 20;
    opt.timeout_ms = 200;
    opt.faults.delay_us = 3000000;
    struct experts *x = open_experts(&m, &opt);
    struct experts_choice list[N_EXPERTS];
    uint32_t set[N_EXPERTS];
    const uint32_t *failed;
    const char *reason;
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        list[e] = choice_of(e, 1);
    uint64_t begin = engine_clock_ns();
    experts_want(x, 2, list, N_EXPERTS);
    cr_assert_eq(experts_next(x, set, false), 0);
    cr_expect_lt(engine_clock_ns() - begin, UINT64_C(2) * 200 * 1000000 + UINT64_C(50000000));
    cr_expect_eq(experts_failed(x, &failed, &reason), N_EXPERTS);
    experts_close(x);
    model_close(&m);
}

Test(experts, tokens_that_come_again_are_counted_once)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = experts_least_bytes(&opt);
    struct experts *x = open_experts(&m, &opt);
    struct experts_choice choice = { .expert = 1, .n_tokens = 3, .n_again = 1 };
    struct engine_expert_stats stats;
    float heat[N_LAYERS][N_EXPERTS];
    uint32_t set[N_EXPERTS];
    for (; choice.n_again <= 3; choice.n_again += 2) {
        choice.heat = choice.n_tokens - choice.n_again;
        experts_want(x, 2, &choice, 1);
        while (experts_next(x, set, false) > 0)
            continue;
    }
    experts_heats(x, heat[0]);
    cr_expect_float_eq(heat[2][1], 2, 1e-6);
    experts_publish(x);
    experts_stats(x, &stats, NULL);
    cr_expect_eq(stats.sum.n_misses, 1);
    cr_expect_eq(stats.sum.n_hits, 0);
    experts_close(x);
    model_close(&m);
}

Test(experts, a_warm_start_has_the_hottest_in_memory)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = 3 * experts_least_bytes(&opt) / 2;
    float heat[N_LAYERS][N_EXPERTS] = { { 1, 0, 9, 0, 0, 0 }, { 0 }, { 0, 8, 0, 7, 2, 0 } };
    float out[N_LAYERS][N_EXPERTS];
    const struct experts_warm_options plain = { 0 };
    struct experts *x = open_experts(&m, &opt);
    experts_warm(x, heat[0], &plain);
    experts_heats(x, out[0]);
    cr_expect_eq(memcmp(out, heat, sizeof(heat)), 0);
    cr_expect(n_hits_of(x, 0, 2) && n_hits_of(x, 2, 1) && n_hits_of(x, 2, 3));
    cr_expect_not(n_hits_of(x, 2, 4));
    cr_assert_eq(many_steps(&m, x, 5), 0);
    experts_close(x);

    static const volatile int yes = 1;
    const struct experts_warm_options cancelled = { .cancel = &yes };
    x = open_experts(&m, &opt);
    experts_warm(x, heat[0], &cancelled);
    cr_expect_not(n_hits_of(x, 0, 2));
    experts_close(x);
    model_close(&m);
}

Test(experts, none_is_foreseen_if_that_is_switched_off_or_all_are_in_memory)
{
    struct model m;
    model_open(&m);
    struct experts_options opt = options_of(&m);
    opt.slot_bytes = N_ALL * experts_least_bytes(&opt) / 2;
    struct experts *x = open_experts(&m, &opt);
    cr_expect_not(experts_can_foresee(x, 2));
    experts_close(x);
    opt.slot_bytes /= 2;
    opt.no_foresight = true;
    x = open_experts(&m, &opt);
    cr_expect_not(experts_can_foresee(x, 2));
    experts_close(x);
    opt.no_foresight = false;
    x = open_experts(&m, &opt);
    cr_expect(experts_can_foresee(x, 2));
    cr_expect_not(experts_can_foresee(x, DENSE_LAYER));
    experts_close(x);
    model_close(&m);
}

Test(experts, too_few_bytes_are_refused_with_the_limit)
{
    struct model m;
    struct experts *x;
    struct engine_err err = { 0 };
    char least[32];
    model_open(&m);
    struct experts_options opt = options_of(&m);
    snprintf(least, sizeof(least), "%llu", (unsigned long long)experts_least_bytes(&opt));
    opt.slot_bytes = experts_least_bytes(&opt) - 1;
    cr_assert_eq(experts_open(&x, m.g, &opt, m.workers, &err), -1);
    cr_assert(err.code == ENGINE_ERR_OPTION && strstr(err.text, least), "%s", err.text);
    model_close(&m);
}
