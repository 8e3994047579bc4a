/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sparsity.c - operating points: limits, names, the texts that describe them, and the file they are kept in.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/sparsity/sparsity.h"
#include "tests/support/gguf_build.h"

enum { N_LAYERS = 5, N_FF = 8 };

/* The last layer but one has a window. */
static struct sparsity *open_sparsity_of(bool is_ungated, bool keeps_bounds)
{
    static struct layer_shape layers[N_LAYERS] = { [N_LAYERS - 2] = { .window = 64 } };
    struct arch arch = { .ungated = is_ungated };
    struct model_shape shape = { .arch = &arch,
                                 .n_layers = N_LAYERS,
                                 .n_ff = N_FF,
                                 .keeps_bounds = keeps_bounds,
                                 .layer = layers };
    struct sparsity *s;
    cr_assert_eq(sparsity_open(&s, &shape, NULL), 0);
    return s;
}

static struct sparsity *open_sparsity(bool is_ungated)
{
    return open_sparsity_of(is_ungated, false);
}

/* Level i of layer l is (i + 1) (l + 1). */
static struct sparsity *calibrated(void)
{
    struct sparsity *s = open_sparsity(false);
    s->n_tokens = 1000;
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        for (uint32_t i = 0; i < N_LAYERS * N_FF; i++)
            s->weight[site][i] = (float)(i + site);
        for (uint32_t i = 0; i < N_LAYERS * SPARSITY_LEVELS; i++)
            s->level[site][i] = (float)((i % SPARSITY_LEVELS + 1) * (i / SPARSITY_LEVELS + 1));
    }
    return s;
}

Test(limit, lies_between_the_levels_around_the_share)
{
    struct sparsity *s = calibrated();
    cr_assert_eq(sparsity_limit(s, SPARSITY_UP, 0, 0), 0);
    cr_assert_float_eq(sparsity_limit(s, SPARSITY_UP, 0, 0.025), 0.5, 1e-5);
    cr_assert_float_eq(sparsity_limit(s, SPARSITY_UP, 0, 0.5), 10, 1e-5);
    cr_assert_float_eq(sparsity_limit(s, SPARSITY_DOWN, 2, 0.5), 30, 1e-4);
    cr_assert_float_eq(sparsity_limit(s, SPARSITY_UP, 0, 0.99), 19, 1e-5);
    cr_assert(isinf(sparsity_limit(s, SPARSITY_UP, 0, 1)));
    sparsity_close(s);
}

Test(limit, says_which_share_lies_below_it)
{
    struct sparsity *s = calibrated();
    static const double shares[] = { 0, 0.025, 0.05, 0.33, 0.5, 0.94, 0.95, 1 };
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        float limit = sparsity_limit(s, SPARSITY_DOWN, 2, shares[i]);
        cr_expect_float_eq(sparsity_share_below(s, SPARSITY_DOWN, 2, limit), shares[i], 1e-6, "%g",
                           shares[i]);
    }
    sparsity_close(s);
}

static void expect_densities(const char *text, double up, double down)
{
    struct sparsity *s = calibrated();
    struct engine_err err = { 0 };
    int point = sparsity_parse(s, text, &err);
    cr_assert_eq(point, 1, "%s: %s", text, err.text);
    for (uint32_t l = 0; l < N_LAYERS; l++) {
        const float *limit = s->points[1]->layer[l].limit;
        cr_assert_eq(limit[SPARSITY_UP], sparsity_limit(s, SPARSITY_UP, l, 1 - up), "%s", text);
        cr_assert_eq(limit[SPARSITY_DOWN], sparsity_limit(s, SPARSITY_DOWN, l, 1 - down), "%s",
                     text);
    }
    cr_assert_eq(sparsity_parse(s, text, &err), 1, "the same text is the same point");
    sparsity_close(s);
}

Test(parse, shares_of_neurons_that_are_computed)
{
    expect_densities("up=0.5", 0.5, 1);
    expect_densities("down=0.25", 1, 0.25);
    expect_densities("neurons=0.75", 0.75, 0.75);
    expect_densities("up=0.5+down=0.4", 0.5, 0.4);
    expect_densities("neurons=0.5+down=1", 0.5, 1);
    expect_densities("up=0+down=1", 0, 1);
}

Test(parse, what_is_no_point_is_refused)
{
    static const char *const texts[] = {
        "",         "fast",    "up",      "up=",          "up=1.5", "up=-0.1", "up=nan",
        "=0.5",     "up=0.5+", "+up=0.5", "up=0.5down=1", "u=0.5",  "up=0.5 ", "up=0.5,down=1",
        "neuron=1", "1.5",     "0.99x",   "inf",          "up==1",
    };
    struct sparsity *s = calibrated();
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct engine_err err = { 0 };
        cr_assert_eq(sparsity_parse(s, texts[i], &err), -1, "'%s'", texts[i]);
        cr_assert_eq(err.code, ENGINE_ERR_INPUT);
    }
    cr_assert_eq(s->n_points, 1);
    sparsity_close(s);
}

Test(parse, without_a_calibration_there_is_only_what_is_exact)
{
    struct sparsity *s = open_sparsity(false);
    struct engine_err err = { 0 };
    cr_assert_eq(sparsity_parse(s, "exact", &err), ENGINE_POINT_EXACT);
    cr_assert_eq(sparsity_parse(s, "0.99", &err), ENGINE_POINT_EXACT);
    cr_assert_eq(sparsity_parse(s, "neurons=0.5", &err), -1);
    cr_assert_not_null(strstr(err.text, "lacuna calibrate"), "%s", err.text);
    sparsity_close(s);
}

Test(parse, tokens_are_pages_of_layers_that_see_everything)
{
    struct sparsity *s = open_sparsity_of(false, true);
    cr_assert_eq(sparsity_parse(s, "tokens=2048", NULL), 1, "it takes no calibration");
    static const uint32_t expected[N_LAYERS] = { 0, 0, 32, 0,
                                                 32 }; /* first ones are whole, one has a window */
    for (uint32_t l = 0; l < N_LAYERS; l++)
        cr_assert_eq(s->points[1]->layer[l].pages, expected[l], "layer %u", l);
    cr_assert_eq(sparsity_most_pages(s->points[1], N_LAYERS), 32);
    cr_assert_eq(sparsity_most_pages(s->points[0], N_LAYERS), 0);
    cr_assert_eq(sparsity_parse(s, "tokens=255", NULL), -1);
    cr_assert_eq(sparsity_parse(s, "tokens=1e9", NULL), -1);
    cr_assert_eq(sparsity_parse(s, "tokens=256+neurons=1", NULL), 2);
    sparsity_close(s);
}

Test(parse, without_bounds_no_pages_are_chosen)
{
    struct sparsity *s = open_sparsity(false);
    struct engine_err err = { 0 };
    cr_assert_eq(sparsity_parse(s, "tokens=2048", &err), -1);
    cr_assert_not_null(strstr(err.text, "--choose-pages"), "%s", err.text);
    sparsity_close(s);
}

Test(parse, without_a_gate_all_rows_of_up_are_computed)
{
    struct sparsity *s = open_sparsity(true);
    s->n_tokens = 1;
    s->level[SPARSITY_UP][0] = 1;
    cr_assert_eq(sparsity_parse(s, "neurons=0.9", NULL), 1);
    cr_assert_eq(s->points[1]->layer[0].limit[SPARSITY_UP], 0);
    sparsity_close(s);
}

static uint32_t add(struct sparsity *s, const char *name, double same_top, double weights)
{
    struct layer_point layer[N_LAYERS] = { { .limit = { 1, 2 } },
                                           { .limit = { 3, 0 } },
                                           { .limit = { 0, 4 } } };
    struct engine_point info = { .kl = 0.01,
                                 .kl_p99 = 0.1,
                                 .same_top = same_top,
                                 .perplexity = 1.01,
                                 .up = 0.5,
                                 .down = 0.4,
                                 .weights = weights };
    int point = sparsity_add(s, name, layer, NULL);
    cr_assert_gt(point, 0);
    sparsity_set_info(s, (uint32_t)point, &info);
    return (uint32_t)point;
}

Test(find, a_share_is_the_cheapest_point_that_keeps_it)
{
    struct sparsity *s = calibrated();
    add(s, "safe", 0.985, 0.9);
    add(s, "balanced", 0.96, 0.8);
    add(s, "odd", 0.97, 0.95);                               /* better and dearer than another */
    cr_assert_eq(sparsity_parse(s, "neurons=0.1", NULL), 4); /* not measured: promises nothing */
    cr_assert_eq(sparsity_find(s, "safe"), 1);
    cr_assert_eq(sparsity_find(s, "0.999"), ENGINE_POINT_EXACT);
    cr_assert_eq(sparsity_find(s, "0.98"), 1);
    cr_assert_eq(sparsity_find(s, "0.97"), 1);
    cr_assert_eq(sparsity_find(s, "0.9"), 2);
    cr_assert_eq(sparsity_find(s, "1"), ENGINE_POINT_EXACT);
    cr_assert_eq(sparsity_find(s, "fast"), -1);
    sparsity_close(s);
}

Test(add, names_are_words_and_there_is_one_of_each)
{
    struct sparsity *s = calibrated();
    struct layer_point layer[N_LAYERS] = { 0 };
    char longest[66];
    memset(longest, 'x', 65);
    longest[65] = 0;
    const char *const bad[] = {
        "", "a b", "a,b", "a\"", "a\\", "a\n", "\xc3\xa4", longest, "exact"
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(sparsity_add(s, bad[i], layer, NULL), -1, "%s", bad[i]);
    cr_assert_eq(sparsity_add(s, longest + 1, layer, NULL), 1);
    for (uint32_t i = 2; i < SPARSITY_MAX_POINTS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "p%u", i);
        cr_assert_eq(sparsity_add(s, name, layer, NULL), (int)i);
    }
    cr_assert_eq(sparsity_add(s, "more", layer, NULL), -1);
    sparsity_close(s);
}

/* ---- the file ---- */

static char *new_path(void)
{
    char *path = strdup("/tmp/lacuna-sidecar-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    return path;
}

static void drop_path(char *path)
{
    unlink(path);
    free(path);
}

Test(sidecar, what_is_written_is_read)
{
    char *path = new_path();
    struct sparsity *a = calibrated(), *b = open_sparsity(false);
    struct engine_err err = { 0 };
    add(a, "safe", 0.985, 0.9);
    add(a, "fast", 0.9, 0.6);
    sparsity_set_errors(a, 2, (float[N_LAYERS]){ 0.1f, 0, 0.2f, 0.3f, 0.4f });
    cr_assert_eq(sidecar_write(a, path, 0xfedcba9876543210, &err), 0, "%s", err.text);
    cr_assert_eq(sidecar_read(b, path, &err), 0, "%s", err.text);
    cr_assert_eq(b->model, 0xfedcba9876543210);
    cr_assert(b->n_points == 3 && b->n_tokens == 1000);
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        cr_assert_arr_eq(b->weight[site], a->weight[site], N_LAYERS * N_FF * sizeof(float));
        cr_assert_arr_eq(b->level[site], a->level[site],
                         N_LAYERS * SPARSITY_LEVELS * sizeof(float));
    }
    for (uint32_t p = 0; p < 3; p++) {
        struct engine_point x = a->infos[p], y = b->infos[p];
        cr_assert_str_eq(x.name, y.name);
        x.name = y.name = NULL;
        cr_assert_eq(memcmp(&x, &y, sizeof(x)), 0);
        cr_assert_arr_eq(b->points[p]->layer, a->points[p]->layer,
                         N_LAYERS * sizeof(struct layer_point));
        cr_assert_arr_eq(b->points[p]->error, a->points[p]->error, N_LAYERS * sizeof(float));
    }
    sparsity_close(a);
    sparsity_close(b);
    drop_path(path);
}

Test(sidecar, one_without_points_is_read_too)
{
    char *path = new_path();
    struct sparsity *a = calibrated(), *b = open_sparsity(false);
    struct engine_err err = { 0 };
    cr_assert_eq(sidecar_write(a, path, 7, &err), 0);
    cr_assert_eq(sidecar_read(b, path, &err), 0, "%s", err.text);
    cr_assert_eq(b->n_points, 1);
    sparsity_close(a);
    sparsity_close(b);
    drop_path(path);
}

/* What a file of one point holds; fields may be changed to tell lies. */
struct file {
    uint32_t version;
    const char *type, *model, *name;
    uint32_t n_tokens;
    uint64_t n_ff, n_levels;
    double kl;
    float weight, level, limit;
    uint64_t n_measures;
    bool no_tensors;
};

static const struct file good_file = {
    .version = 1,
    .type = "lacuna-sidecar",
    .model = "0000000000000007",
    .name = "safe",
    .n_tokens = 5,
    .n_ff = N_FF,
    .n_levels = SPARSITY_LEVELS,
    .kl = 0.5,
    .weight = 1,
    .level = 2,
    .limit = 3,
    .n_measures = 1,
};

static void put_tensor(struct gguf_build *b, const char *name, uint64_t n, uint64_t rows, float x)
{
    float values[1024];
    for (uint64_t i = 0; i < n * rows; i++)
        values[i] = x;
    gguf_build_tensor(b, name, KERN_TYPE_F32, 2, (uint64_t[]){ n, rows }, values,
                      n * rows * sizeof(*values));
}

static void write_file(const struct file *f, const char *path)
{
    static const char *const measures[] = { "kl", "kl_p99", "same_top", "perplexity",
                                            "up", "down",   "weights" };
    const double values[2] = { f->kl, f->kl };
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_str(&b, "general.type", f->type);
    gguf_build_u32(&b, "lacuna.sidecar.version", f->version);
    gguf_build_str(&b, "lacuna.sidecar.model", f->model);
    gguf_build_u32(&b, "lacuna.sidecar.tokens", f->n_tokens);
    gguf_build_strings(&b, "lacuna.points", 1, &f->name);
    for (size_t i = 0; i < sizeof(measures) / sizeof(measures[0]); i++) {
        char key[64];
        snprintf(key, sizeof(key), "lacuna.points.%s", measures[i]);
        gguf_build_array(&b, key, GGUF_F64, f->n_measures, values, f->n_measures * sizeof(*values));
    }
    for (uint32_t site = 0; site < SPARSITY_SITES && !f->no_tensors; site++) {
        put_tensor(&b, site ? "down.weight" : "up.weight", f->n_ff, N_LAYERS, f->weight);
        put_tensor(&b, site ? "down.level" : "up.level", f->n_levels, N_LAYERS, f->level);
        put_tensor(&b, site ? "down.limit" : "up.limit", N_LAYERS, 1, f->limit);
    }
    cr_assert_eq(gguf_build_write(&b, path), 0);
}

/* Reads it; text: what the refusal says, NULL: it is none. */
static void expect_read(const struct file *f, const char *text)
{
    char *path = new_path();
    struct sparsity *s = open_sparsity(false);
    struct engine_err err = { 0 };
    write_file(f, path);
    int rc = sidecar_read(s, path, &err);
    if (text)
        cr_assert(rc == -1 && strstr(err.text, text), "'%s' expected: %s", text, err.text);
    else
        cr_assert_eq(rc, 0, "%s", err.text);
    sparsity_close(s);
    drop_path(path);
}

Test(sidecar, lies_are_refused_by_name)
{
    struct file f = good_file;
    expect_read(&f, NULL);
    f = good_file, f.type = "model";
    expect_read(&f, "general.type");
    f = good_file, f.version = 2;
    expect_read(&f, "version 2");
    f = good_file, f.model = "7";
    expect_read(&f, "16 hexadecimal");
    f = good_file, f.model = "000000000000000g";
    expect_read(&f, "16 hexadecimal");
    f = good_file, f.n_tokens = 0;
    expect_read(&f, "tokens is 0");
    f = good_file, f.name = "a b";
    expect_read(&f, "a b");
    f = good_file, f.name = "exact";
    expect_read(&f, "two operating points");
    f = good_file, f.name = "1";
    expect_read(&f, "no name");
    f = good_file, f.name = "up=0.5";
    expect_read(&f, "no name");
    f = good_file, f.kl = 1.5;
    expect_read(&f, "same_top");
    f = good_file, f.n_ff = N_FF - 1;
    expect_read(&f, "up.weight");
    f = good_file, f.n_levels = 3;
    expect_read(&f, "up.level");
    f = good_file, f.no_tensors = true;
    expect_read(&f, "up.weight");
    f = good_file, f.weight = -1;
    expect_read(&f, "up.weight");
    f = good_file, f.level = NAN;
    expect_read(&f, "up.level");
    f = good_file, f.limit = INFINITY;
    expect_read(&f, "up.limit");
    f = good_file, f.kl = -1;
    expect_read(&f, "lacuna.points.kl");
    f = good_file, f.kl = INFINITY;
    expect_read(&f, "lacuna.points.kl");
    f = good_file, f.n_measures = 2;
    expect_read(&f, "lacuna.points.kl");
}

Test(sidecar, every_truncation_is_refused)
{
    char *path = new_path();
    struct sparsity *a = calibrated();
    add(a, "safe", 0.9, 0.9);
    cr_assert_eq(sidecar_write(a, path, 7, NULL), 0);
    FILE *f = fopen(path, "r");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    for (long n = size - 65; n >= 0; n -= 61) { /* the last tensor is padded */
        struct sparsity *s = open_sparsity(false);
        struct engine_err err = { 0 };
        cr_assert_eq(truncate(path, n), 0);
        cr_assert_eq(sidecar_read(s, path, &err), -1, "%ld of %ld bytes", n, size);
        sparsity_close(s);
    }
    sparsity_close(a);
    drop_path(path);
}
