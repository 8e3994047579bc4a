/* SPDX-License-Identifier: Apache-2.0
 *
 * sidecar.c - the file that a calibration leaves beside its model, a GGUF container:
 *
 *     general.type               "lacuna-sidecar"
 *     lacuna.sidecar.version     1, see VERSION
 *     lacuna.sidecar.model       of whose weights (weights_identity), 16 hexadecimal digits
 *     lacuna.sidecar.tokens      of the text that was calibrated with
 *     lacuna.points              names of operating points, all but the exact one
 *     lacuna.points.MEASURE      an array of float64 for each measure of struct engine_point
 *     SITE.weight                F32 [n_layers][n_ff]              site: up, down (see sparsity.h)
 *     SITE.level                 F32 [n_layers][SPARSITY_LEVELS]
 *     SITE.limit                 F32 [points][n_layers]
 *     ffn.error                  F32 [points][n_layers]         what audits may find; optional
 *
 * Nothing in it is trusted.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/model/gguf_write.h"
#include "engine/sparsity/sparsity.h"
#include "engine/storage/replace_file.h"

enum { VERSION = 1, ALIGNMENT = 64, NAME_CAP = 80 };

/* The measures of a point, by name. */
static const struct {
    const char *name;
    size_t offset;
    double most;
} measures[] = {
    { "kl", offsetof(struct engine_point, kl), 1e6 },
    { "kl_p99", offsetof(struct engine_point, kl_p99), 1e6 },
    { "same_top", offsetof(struct engine_point, same_top), 1 },
    { "perplexity", offsetof(struct engine_point, perplexity), 1e6 },
    { "up", offsetof(struct engine_point, up), 1 },
    { "down", offsetof(struct engine_point, down), 1 },
    { "weights", offsetof(struct engine_point, weights), 1 },
};
enum { N_MEASURES = sizeof(measures) / sizeof(measures[0]) };

static double *measure_of(struct engine_point *p, size_t i)
{
    return (double *)((char *)p + measures[i].offset);
}

/* ---- reading ---- */

struct reader {
    struct sparsity *s;
    const struct gguf *g;
    const char *path;
    struct engine_err *err;
};

static int refuse(const struct reader *r, const char *what)
{
    return engine_fail(r->err, ENGINE_ERR_FILE, "%s: %s", r->path, what);
}

/* 16 hexadecimal digits. */
static bool parse_identity(struct gguf_str text, uint64_t *out)
{
    char digits[17] = "";
    if (text.len != 16)
        return false;
    memcpy(digits, text.data, 16);
    *out = strtoull(digits, NULL, 16);
    return strspn(digits, "0123456789abcdef") == 16;
}

static int check_header(const struct reader *r)
{
    struct gguf_str type = { 0 }, model = { 0 };
    uint32_t version = 0, n_tokens = 0;
    gguf_get_str(r->g, "general.type", false, &type, NULL);
    if (!gguf_str_is(type, "lacuna-sidecar"))
        return refuse(r, "not a calibration: general.type is not \"lacuna-sidecar\"");
    if (gguf_get_u32(r->g, "lacuna.sidecar.version", true, &version, r->err) != 0 ||
        gguf_get_str(r->g, "lacuna.sidecar.model", true, &model, r->err) != 0 ||
        gguf_get_u32(r->g, "lacuna.sidecar.tokens", true, &n_tokens, r->err) != 0)
        return -1;
    if (version != VERSION)
        return engine_fail(r->err, ENGINE_ERR_FILE,
                           "%s: version %u of calibrations; this program reads %d: calibrate again",
                           r->path, version, VERSION);
    if (!parse_identity(model, &r->s->model))
        return refuse(r, "lacuna.sidecar.model is not 16 hexadecimal digits");
    if (n_tokens == 0)
        return refuse(r, "lacuna.sidecar.tokens is 0");
    r->s->n_tokens = n_tokens;
    return 0;
}

/* Numbers of at least 0, rows x n of them. */
static int read_floats(const struct reader *r, const char *site, const char *kind, uint64_t n,
                       uint64_t rows, float *out)
{
    char name[NAME_CAP];
    snprintf(name, sizeof(name), "%s.%s", site, kind);
    const struct gguf_tensor *t = gguf_find_tensor(r->g, name);
    if (!t || t->type != KERN_TYPE_F32 || t->ne[0] != n || t->ne[1] != rows || t->ne[2] != 1 ||
        t->ne[3] != 1)
        return engine_fail(r->err, ENGINE_ERR_FILE,
                           "%s: tensor \"%s\" of %" PRIu64 " x %" PRIu64
                           " F32 expected: this is damaged, or of another model (--sidecar off "
                           "goes on without it)",
                           r->path, name, n, rows);
    memcpy(out, t->data, n * rows * sizeof(*out));
    for (uint64_t i = 0; i < n * rows; i++)
        if (!(out[i] >= 0) || !isfinite(out[i]))
            return engine_fail(r->err, ENGINE_ERR_FILE,
                               "%s: tensor \"%s\" holds what is no weight or limit, at %" PRIu64,
                               r->path, name, i);
    return 0;
}

static int check_levels(const struct reader *r, enum sparsity_site site)
{
    const float *level = r->s->level[site];
    for (uint32_t l = 0; l < r->s->n_layers; l++, level += SPARSITY_LEVELS)
        for (uint32_t i = 1; i < SPARSITY_LEVELS; i++)
            if (level[i] < level[i - 1])
                return engine_fail(r->err, ENGINE_ERR_FILE, "%s: levels of layer %u do not ascend",
                                   r->path, l);
    return 0;
}

static int read_sites(const struct reader *r)
{
    struct sparsity *s = r->s;
    for (uint32_t site = 0; site < SPARSITY_SITES; site++)
        if (read_floats(r, sparsity_site_name(site), "weight", s->n_ff, s->n_layers,
                        s->weight[site]) != 0 ||
            read_floats(r, sparsity_site_name(site), "level", SPARSITY_LEVELS, s->n_layers,
                        s->level[site]) != 0 ||
            check_levels(r, site) != 0)
            return -1;
    return 0;
}

static int read_measures(const struct reader *r, uint64_t n_points, struct engine_point *infos)
{
    for (size_t i = 0; i < N_MEASURES; i++) {
        char key[NAME_CAP];
        struct gguf_array a;
        snprintf(key, sizeof(key), "lacuna.points.%s", measures[i].name);
        if (gguf_get_array(r->g, key, true, GGUF_F64, &a, r->err) != 0)
            return -1;
        if (a.n != n_points)
            return engine_fail(r->err, ENGINE_ERR_FILE,
                               "%s: key \"%s\" has %" PRIu64 " values for %" PRIu64 " points",
                               r->path, key, a.n, n_points);
        for (uint64_t p = 0; p < n_points; p++) {
            double value = gguf_array_float(&a, p);
            if (!(value >= 0 && value <= measures[i].most))
                return engine_fail(r->err, ENGINE_ERR_FILE,
                                   "%s: key \"%s\": value %" PRIu64 " is no measure", r->path, key,
                                   p);
            *measure_of(&infos[p], i) = value;
        }
    }
    return 0;
}

/* Files that were written before audits have none. */
static int read_errors(const struct reader *r, uint64_t n_points, float *error)
{
    if (n_points == 0 || !gguf_find_tensor(r->g, "ffn.error"))
        return 0;
    return read_floats(r, "ffn", "error", r->s->n_layers, n_points, error);
}

/* limit: [site][point][layer]; error: [point][layer] */
static int add_points(const struct reader *r, const struct gguf_array *names,
                      const struct engine_point *infos, const float *limit, const float *error)
{
    struct sparsity *s = r->s;
    struct layer_point *layer = calloc(s->n_layers, sizeof(*layer));
    int rc = layer ? 0 : engine_fail(r->err, ENGINE_ERR_MEMORY, "no memory for operating points");
    for (uint64_t p = 0; p < names->n && rc == 0; p++) {
        char name[NAME_CAP];
        snprintf(name, sizeof(name), "%.*s", (int)names->strings[p].len, names->strings[p].data);
        for (uint32_t l = 0; l < s->n_layers; l++)
            for (uint32_t site = 0; site < SPARSITY_SITES; site++)
                layer[l].limit[site] = limit[(site * names->n + p) * s->n_layers + l];
        struct engine_err why = { 0 };
        int point = sparsity_add(s, name, layer, &why);
        if (point < 0) {
            rc = engine_fail(r->err, ENGINE_ERR_FILE, "%s: %.400s", r->path, why.text);
        } else {
            sparsity_set_info(s, (uint32_t)point, &infos[p]);
            sparsity_set_errors(s, (uint32_t)point, error + p * s->n_layers);
        }
    }
    free(layer);
    return rc;
}

/* A name that reads as a share or as a description would stand in their way. */
static int check_name(const struct reader *r, struct gguf_str name)
{
    bool is_word = name.len > 0 && !memchr(name.data, '=', name.len) &&
                   (name.data[0] < '0' || name.data[0] > '9') && name.data[0] != '.' &&
                   name.data[0] != '-' && name.data[0] != '+';
    return is_word ? 0
                   : engine_fail(r->err, ENGINE_ERR_FILE,
                                 "%s: an operating point is named '%.*s', which is no name",
                                 r->path, name.len < 64 ? (int)name.len : 64, name.data);
}

static int read_points(const struct reader *r)
{
    struct gguf_array names;
    if (gguf_get_array(r->g, "lacuna.points", true, GGUF_STRING, &names, r->err) != 0)
        return -1;
    if (names.n > SPARSITY_MAX_POINTS - 1)
        return engine_fail(r->err, ENGINE_ERR_FILE,
                           "%s: %" PRIu64 " operating points; the limit is %d", r->path, names.n,
                           SPARSITY_MAX_POINTS - 1);
    for (uint64_t p = 0; p < names.n; p++)
        if (check_name(r, names.strings[p]) != 0)
            return -1;
    size_t n_limits = (size_t)names.n * r->s->n_layers;
    struct engine_point *infos = calloc(names.n + 1, sizeof(*infos));
    float *limit = calloc(SPARSITY_SITES * n_limits + 1, sizeof(*limit));
    float *error = calloc(n_limits + 1, sizeof(*error));
    int rc = infos && limit && error
                 ? 0
                 : engine_fail(r->err, ENGINE_ERR_MEMORY, "no memory for operating points");
    for (uint32_t site = 0; site < SPARSITY_SITES && rc == 0 && names.n > 0; site++)
        rc = read_floats(r, sparsity_site_name(site), "limit", r->s->n_layers, names.n,
                         limit + site * n_limits);
    if (rc == 0)
        rc = read_measures(r, names.n, infos);
    if (rc == 0)
        rc = read_errors(r, names.n, error);
    if (rc == 0)
        rc = add_points(r, &names, infos, limit, error);
    free(infos);
    free(limit);
    free(error);
    return rc;
}

int sidecar_read(struct sparsity *s, const char *path, struct engine_err *err)
{
    struct gguf *g;
    struct gguf_load_options load = { .read_file = true, .io = ENGINE_IO_PREAD };
    if (gguf_open(&g, path, err) != 0)
        return -1;
    struct reader r = { .s = s, .g = g, .path = path, .err = err };
    int rc = check_header(&r);
    if (rc == 0)
        rc = gguf_load(g, &load, err);
    if (rc == 0)
        rc = read_sites(&r);
    if (rc == 0)
        rc = read_points(&r);
    gguf_close(g);
    return rc;
}

/* ---- writing ---- */

struct writer {
    const struct sparsity *s;
    FILE *out;
    uint64_t n_points; /* but the exact one */
    uint64_t offset;   /* of the next tensor's data */
};

static uint64_t aligned(uint64_t at)
{
    return (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_points(const struct writer *w)
{
    const char *names[SPARSITY_MAX_POINTS];
    double values[SPARSITY_MAX_POINTS];
    for (uint64_t p = 0; p < w->n_points; p++)
        names[p] = w->s->points[p + 1]->info.name;
    gguf_put_strings_key(w->out, "lacuna.points", w->n_points, names);
    for (size_t i = 0; i < N_MEASURES; i++) {
        char key[NAME_CAP];
        snprintf(key, sizeof(key), "lacuna.points.%s", measures[i].name);
        for (uint64_t p = 0; p < w->n_points; p++)
            values[p] = *measure_of(&w->s->points[p + 1]->info, i);
        gguf_put_array_key(w->out, key, GGUF_F64, w->n_points, values,
                           w->n_points * sizeof(*values));
    }
}

static void put_keys(const struct writer *w, uint64_t model)
{
    char digits[17];
    snprintf(digits, sizeof(digits), "%016" PRIx64, model);
    gguf_put_string_key(w->out, "general.type", "lacuna-sidecar");
    gguf_put_u32_key(w->out, "general.alignment", ALIGNMENT);
    gguf_put_u32_key(w->out, "lacuna.sidecar.version", VERSION);
    gguf_put_string_key(w->out, "lacuna.sidecar.model", digits);
    gguf_put_u32_key(w->out, "lacuna.sidecar.tokens",
                     w->s->n_tokens < UINT32_MAX ? (uint32_t)w->s->n_tokens : UINT32_MAX);
    put_points(w);
}
enum { N_KEYS = 6 + N_MEASURES };

static void put_tensor(struct writer *w, const char *site, const char *kind, uint64_t n,
                       uint64_t rows)
{
    char name[NAME_CAP];
    const uint64_t ne[2] = { n, rows };
    snprintf(name, sizeof(name), "%s.%s", site, kind);
    gguf_put_tensor(w->out, name, 2, ne, KERN_TYPE_F32, w->offset);
    w->offset = aligned(w->offset + n * rows * sizeof(float));
}

static void put_tensors(struct writer *w)
{
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        put_tensor(w, sparsity_site_name(site), "weight", w->s->n_ff, w->s->n_layers);
        put_tensor(w, sparsity_site_name(site), "level", SPARSITY_LEVELS, w->s->n_layers);
        if (w->n_points > 0)
            put_tensor(w, sparsity_site_name(site), "limit", w->s->n_layers, w->n_points);
    }
    if (w->n_points > 0)
        put_tensor(w, "ffn", "error", w->s->n_layers, w->n_points);
}

static void pad(const struct writer *w)
{
    for (long at = ftell(w->out); at % ALIGNMENT != 0; at++)
        fputc(0, w->out);
}

static void put_floats(const struct writer *w, const float *x, uint64_t n)
{
    gguf_put(w->out, x, n * sizeof(*x));
    pad(w);
}

static void put_limits(const struct writer *w, uint32_t site)
{
    for (uint64_t p = 1; p <= w->n_points; p++)
        for (uint32_t l = 0; l < w->s->n_layers; l++)
            gguf_put(w->out, &w->s->points[p]->layer[l].limit[site], sizeof(float));
    pad(w);
}

static void put_file(struct writer *w, uint64_t model)
{
    const struct sparsity *s = w->s;
    gguf_put_header(w->out, w->n_points > 0 ? 3 * SPARSITY_SITES + 1 : 2 * SPARSITY_SITES, N_KEYS);
    put_keys(w, model);
    put_tensors(w);
    pad(w);
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        put_floats(w, s->weight[site], (uint64_t)s->n_layers * s->n_ff);
        put_floats(w, s->level[site], (uint64_t)s->n_layers * SPARSITY_LEVELS);
        if (w->n_points > 0)
            put_limits(w, site);
    }
    for (uint64_t p = 1; p <= w->n_points; p++)
        gguf_put(w->out, s->points[p]->error, s->n_layers * sizeof(float));
    pad(w);
}

int sidecar_write(const struct sparsity *s, const char *path, uint64_t model,
                  struct engine_err *err)
{
    char *text = NULL;
    size_t len = 0;
    struct writer w = { .s = s, .out = open_memstream(&text, &len), .n_points = s->n_points - 1 };
    if (!w.out)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the calibration's file");
    put_file(&w, model);
    bool is_whole = !ferror(w.out);
    is_whole = fclose(w.out) == 0 && is_whole;
    const struct iovec all = { text, len };
    int rc = is_whole ? replace_file(path, &all, 1, err)
                      : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the calibration's file");
    free(text);
    return rc;
}
