/* SPDX-License-Identifier: Apache-2.0
 *
 * operating_point.c - the list of points, and the text that describes one.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/sparsity/page_choice.h"
#include "engine/sparsity/sparsity.h"

enum {
    NAME_MAX_BYTES = 64,
    WHOLE_LAYERS = 2, /* the first ones look at everything: their attention is flat (Quest) */
};

const char *sparsity_site_name(uint32_t site)
{
    return site == SPARSITY_UP ? "up" : "down";
}

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for operating points");
}

static bool take_arrays(struct sparsity *s)
{
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        s->weight[site] = calloc((size_t)s->n_layers * s->n_ff + 1, sizeof(float));
        s->level[site] = calloc((size_t)s->n_layers * SPARSITY_LEVELS, sizeof(float));
        if (!s->weight[site] || !s->level[site])
            return false;
    }
    s->points = calloc(SPARSITY_MAX_POINTS, sizeof(*s->points));
    s->infos = calloc(SPARSITY_MAX_POINTS, sizeof(*s->infos));
    return s->points && s->infos;
}

/* Nothing is left out, and nothing lost. */
static int add_exact(struct sparsity *s, struct engine_err *err)
{
    struct layer_point *none = calloc(s->n_layers, sizeof(*none));
    if (!none)
        return no_memory(err);
    int point = sparsity_add(s, "exact", none, err);
    free(none);
    if (point < 0)
        return -1;
    struct engine_point info = { .same_top = 1, .perplexity = 1, .up = 1, .down = 1, .weights = 1 };
    sparsity_set_info(s, ENGINE_POINT_EXACT, &info);
    return 0;
}

int sparsity_open(struct sparsity **out, const struct model_shape *shape, struct engine_err *err)
{
    struct sparsity *s = calloc(1, sizeof(*s));
    *out = NULL;
    if (!s)
        return no_memory(err);
    s->n_layers = shape->n_layers;
    s->n_ff = shape->n_ff;
    s->has_gate = !shape->arch->ungated;
    s->keeps_bounds = shape->keeps_bounds;
    s->layer_shape = shape->layer;
    int rc = take_arrays(s) ? add_exact(s, err) : no_memory(err);
    if (rc != 0) {
        sparsity_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

static void point_close(struct operating_point *p)
{
    if (!p)
        return;
    free((void *)(uintptr_t)p->info.name);
    free(p->layer);
    free(p->error);
    free(p);
}

void sparsity_close(struct sparsity *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_points; i++)
        point_close(s->points[i]);
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        free(s->weight[site]);
        free(s->level[site]);
    }
    free(s->points);
    free(s->infos);
    free(s);
}

float sparsity_limit(const struct sparsity *s, enum sparsity_site site, uint32_t layer,
                     double share)
{
    const float *level = s->level[site] + (size_t)layer * SPARSITY_LEVELS;
    double at = share * (SPARSITY_LEVELS + 1); /* level i lies at i + 1, the limit 0 at 0 */
    if (share >= 1)
        return INFINITY;
    if (share <= 0)
        return 0;
    if (at >= SPARSITY_LEVELS)
        return level[SPARSITY_LEVELS - 1];
    uint32_t i = (uint32_t)at;
    double below = i > 0 ? (double)level[i - 1] : 0;
    return (float)(below + (at - i) * ((double)level[i] - below));
}

double sparsity_share_below(const struct sparsity *s, enum sparsity_site site, uint32_t layer,
                            float limit)
{
    const float *level = s->level[site] + (size_t)layer * SPARSITY_LEVELS;
    uint32_t i = 0;
    float below = 0;
    for (; i < SPARSITY_LEVELS && level[i] <= limit; i++)
        below = level[i];
    if (i == SPARSITY_LEVELS)
        return isinf(limit) ? 1 : (double)i / (SPARSITY_LEVELS + 1);
    double part = limit > below ? (double)(limit - below) / (double)(level[i] - below) : 0;
    return (i + part) / (SPARSITY_LEVELS + 1);
}

/* ---- the list ---- */

static int find_name(const struct sparsity *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_points; i++)
        if (strcmp(s->points[i]->info.name, name) == 0)
            return (int)i;
    return -1;
}

/* The exact one is the same everywhere.  Points without measures promise nothing. */
static int find_share(const struct sparsity *s, double same_top)
{
    int best = ENGINE_POINT_EXACT;
    for (uint32_t i = 0; i < s->n_points; i++) {
        const struct engine_point *p = &s->points[i]->info;
        if (p->same_top >= same_top && p->weights > 0 && p->weights < s->points[best]->info.weights)
            best = (int)i;
    }
    return best;
}

int sparsity_find(const struct sparsity *s, const char *text)
{
    char *end;
    double share = strtod(text, &end);
    int point = find_name(s, text);
    if (point >= 0 || !*text || *end || !(share >= 0 && share <= 1))
        return point;
    return find_share(s, share);
}

static bool is_name(const char *text)
{
    size_t n = strlen(text);
    if (n == 0 || n > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~' || strchr(",\"\\", text[i]))
            return false;
    return true;
}

static void set_limits(const struct sparsity *s, struct operating_point *p,
                       const struct layer_point *layer)
{
    memcpy(p->layer, layer, s->n_layers * sizeof(*p->layer));
    p->leaves_out = false;
    for (uint32_t l = 0; l < s->n_layers; l++)
        p->leaves_out |= layer[l].pages > 0 || layer[l].limit[SPARSITY_UP] > 0 ||
                         layer[l].limit[SPARSITY_DOWN] > 0;
    p->info.hash = hash_bytes(p->layer, s->n_layers * sizeof(*p->layer), 0);
}

static struct operating_point *point_new(const struct sparsity *s, const char *name,
                                         const struct layer_point *layer)
{
    struct operating_point *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->info.name = strdup(name);
    p->layer = malloc(s->n_layers * sizeof(*p->layer));
    p->error = calloc(s->n_layers, sizeof(*p->error));
    if (!p->info.name || !p->layer || !p->error) {
        point_close(p);
        return NULL;
    }
    set_limits(s, p, layer);
    return p;
}

int sparsity_add(struct sparsity *s, const char *name, const struct layer_point *layer,
                 struct engine_err *err)
{
    if (!is_name(name))
        return engine_fail(
            err, ENGINE_ERR_INPUT,
            "'%.80s' cannot be the name of an operating point: 1 to %d characters, none of them "
            "a blank, a comma, a quote or a backslash",
            name, NAME_MAX_BYTES);
    if (find_name(s, name) >= 0)
        return engine_fail(err, ENGINE_ERR_INPUT, "there are two operating points named %s", name);
    if (s->n_points == SPARSITY_MAX_POINTS)
        return engine_fail(err, ENGINE_ERR_INPUT, "there are %d operating points already",
                           SPARSITY_MAX_POINTS);
    struct operating_point *p = point_new(s, name, layer);
    if (!p)
        return no_memory(err);
    s->points[s->n_points] = p;
    s->infos[s->n_points] = p->info;
    return (int)s->n_points++;
}

void sparsity_set_limits(struct sparsity *s, uint32_t point, const struct layer_point *layer)
{
    set_limits(s, s->points[point], layer);
    s->infos[point] = s->points[point]->info;
}

void sparsity_set_errors(struct sparsity *s, uint32_t point, const float *error)
{
    memcpy(s->points[point]->error, error, s->n_layers * sizeof(*error));
}

uint32_t sparsity_safer(const struct sparsity *s, uint32_t point,
                        bool (*usable)(const void *ctx, uint32_t point), const void *ctx)
{
    uint32_t best = ENGINE_POINT_EXACT;
    double most = s->infos[point].kl;
    for (uint32_t i = 0; i < s->n_points; i++) {
        const struct engine_point *p = &s->infos[i];
        bool is_measured = p->weights > 0; /* the exact one is, too: it loses 0 */
        if (is_measured && p->kl < most && p->kl >= s->infos[best].kl && usable(ctx, i))
            best = i;
    }
    return best;
}

void sparsity_truncate(struct sparsity *s, uint32_t n)
{
    while (s->n_points > n)
        point_close(s->points[--s->n_points]);
}

void sparsity_set_info(struct sparsity *s, uint32_t point, const struct engine_point *info)
{
    const struct engine_point before = s->points[point]->info;
    s->points[point]->info = *info;
    s->points[point]->info.name = before.name;
    s->points[point]->info.hash = before.hash;
    s->infos[point] = s->points[point]->info;
}

/* ---- the text ---- */

uint32_t sparsity_most_pages(const struct operating_point *p, uint32_t n_layers)
{
    uint32_t most = 0;
    for (uint32_t l = 0; l < n_layers; l++)
        most = p->layer[l].pages > most ? p->layer[l].pages : most;
    return most;
}

/* Shares of neurons that are computed, and tokens that are attended to; 0: all. */
struct densities {
    double site[SPARSITY_SITES];
    uint32_t n_tokens;
};

/* Whole pages, and as many as a choice needs. */
static bool parse_tokens(double value, struct densities *d)
{
    const double least = (PAGE_CHOICE_LEAST_PAGES + 1) * KV_PAGE_TOKENS, most = 1 << 20;
    d->n_tokens = value >= least && value <= most ? (uint32_t)value : 0;
    return d->n_tokens > 0;
}

/* "up=0.5"; the length of it, 0: it is no such text. */
static size_t parse_part(const char *text, struct densities *d)
{
    size_t n = strcspn(text, "="), end = strcspn(text, "+");
    char *stop;
    if (n >= end)
        return 0;
    double value = strtod(text + n + 1, &stop);
    if (stop != text + end || stop == text + n + 1)
        return 0;
    if (n == strlen("tokens") && strncmp(text, "tokens", n) == 0)
        return parse_tokens(value, d) ? end : 0;
    if (!(value >= 0 && value <= 1))
        return 0;
    bool is_known = false;
    for (uint32_t site = 0; site < SPARSITY_SITES; site++) {
        bool is_all = n == strlen("neurons") && strncmp(text, "neurons", n) == 0;
        if (!is_all && (n != strlen(sparsity_site_name(site)) ||
                        strncmp(text, sparsity_site_name(site), n) != 0))
            continue;
        d->site[site] = value;
        is_known = true;
    }
    return is_known ? end : 0;
}

static bool parse_densities(const char *text, struct densities *d)
{
    *d = (struct densities){ .site = { 1, 1 } };
    for (size_t n; *text; text += n + (text[n] == '+')) {
        n = parse_part(text, d);
        if (n == 0 || (text[n] == '+' && !text[n + 1]))
            return false;
    }
    return true;
}

static int add_uniform(struct sparsity *s, const char *name, const struct densities *d,
                       struct engine_err *err)
{
    struct layer_point *layer = calloc(s->n_layers, sizeof(*layer));
    if (!layer)
        return no_memory(err);
    for (uint32_t l = 0; l < s->n_layers; l++) {
        for (uint32_t site = 0; site < SPARSITY_SITES; site++)
            layer[l].limit[site] = sparsity_limit(s, site, l, 1 - d->site[site]);
        if (d->n_tokens > 0 && l >= WHOLE_LAYERS && s->layer_shape[l].window == 0)
            layer[l].pages = d->n_tokens / KV_PAGE_TOKENS;
    }
    int point = sparsity_add(s, name, layer, err);
    free(layer);
    return point;
}

int sparsity_parse(struct sparsity *s, const char *text, struct engine_err *err)
{
    struct densities d;
    int point = sparsity_find(s, text);
    if (point >= 0)
        return point;
    if (!*text || !parse_densities(text, &d))
        return engine_fail(err, ENGINE_ERR_INPUT,
                           "'%.80s' is neither an operating point of this model nor what decoded "
                           "tokens do with: shares of the "
                           "neurons that are not zero, up=0.5+down=0.4 or neurons=0.5, or tokens "
                           "of a context, 256 to 1048576, "
                           "tokens=2048",
                           text);
    if (d.n_tokens > 0 && !s->keeps_bounds)
        return engine_fail(err, ENGINE_ERR_INPUT,
                           "'%.80s' chooses pages of keys and values, and these were not made for "
                           "it (--choose-pages)",
                           text);
    bool wants_limits = d.site[SPARSITY_UP] < 1 || d.site[SPARSITY_DOWN] < 1;
    if (wants_limits && !sparsity_is_calibrated(s))
        return engine_fail(
            err, ENGINE_ERR_INPUT,
            "'%.80s' wants the calibration of this model: see lacuna calibrate, --sidecar", text);
    if (!s->has_gate && d.site[SPARSITY_UP] < 1)
        d.site[SPARSITY_UP] = 1; /* only up itself says which neurons count */
    return add_uniform(s, text, &d, err);
}
