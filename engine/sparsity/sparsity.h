/* SPDX-License-Identifier: Apache-2.0
 *
 * sparsity.h - what the decoded tokens of a sequence do without.
 *
 * Two ideas:
 *  1. A calibration says how much each neuron of a feed-forward counts, and how the tokens of a text are
 *     distributed: below which limit a given share of neurons lies.
 *  2. An operating point is a choice of limits, layer by layer.  Which neurons fall below them depends on the
 *     token alone, so that a sequence's answer never depends on its company.
 *
 * The rules are those of CATS (arXiv 2404.08763) and CHESS (arXiv 2409.01366), weighed by what a neuron adds to the
 * output (Sparsing Law, arXiv 2411.02335):
 *     up    neuron i is not computed where |act(gate_i)| * gate_weight_i < up_limit
 *     down  nor is its column of down read where |act(gate_i) * up_i| * down_weight_i < down_limit
 * with gate_weight_i = mean |up_i| * |down_i|, down_weight_i = |down_i|, the length of its column.
 *
 *   operating_point.c   points, and the text that describes one
 *   sidecar.c           the file that a calibration leaves beside its model
 */
#ifndef LACUNA_ENGINE_SPARSITY_H
#define LACUNA_ENGINE_SPARSITY_H

#include "engine/engine.h"
#include "engine/model/config.h"

enum {
    /* Limits per site: below level i lies the share (i + 1) / 20 of what is not zero. */
    SPARSITY_LEVELS = 19,
    /* Positions before it are computed whole: they draw the attention of all others. */
    SPARSITY_FIRST_POS = 16,
    SPARSITY_MAX_POINTS = 256,
};

/* Where neurons can be left out. */
enum sparsity_site {
    SPARSITY_UP,   /* rows of up; only where there is a gate */
    SPARSITY_DOWN, /* columns of down */
    SPARSITY_SITES,
};

const char *sparsity_site_name(uint32_t site);

/* Of a layer; 0: nothing is below, or out of reach. */
struct layer_point {
    float limit[SPARSITY_SITES];
    uint32_t pages; /* of keys and values at most, the open one included: see page_choice.h */
};

struct operating_point {
    struct engine_point info;
    bool leaves_out;           /* anything */
    struct layer_point *layer; /* [n_layers] */
    /* [n_layers] of feed-forwards, as the calibration's text had it (forward_audit_fn); 0: unknown. */
    float *error;
};

struct sparsity {
    uint32_t n_layers, n_ff;
    bool has_gate, keeps_bounds;
    const struct layer_shape *layer_shape; /* [n_layers] */
    float *weight[SPARSITY_SITES];         /* [n_layers][n_ff] */
    float *level[SPARSITY_SITES];          /* [n_layers][SPARSITY_LEVELS] */
    uint64_t n_tokens;                     /* of the text that was calibrated with */
    uint64_t model;                        /* whose it is, if it was read */
    struct operating_point **points;       /* [SPARSITY_MAX_POINTS]; they stay where they are */
    struct engine_point *infos; /* [SPARSITY_MAX_POINTS] copies, for struct engine_info */
    uint32_t n_points;          /* the first is ENGINE_POINT_EXACT: no limits */
};

/* Without weights and levels, but for the exact point.  Only dense layers have neurons here. */
int sparsity_open(struct sparsity **out, const struct model_shape *shape, struct engine_err *err);
void sparsity_close(struct sparsity *s); /* NULL is fine */

/* Has a calibration filled in weights and levels? */
static inline bool sparsity_is_calibrated(const struct sparsity *s)
{
    return s->n_tokens > 0;
}

/* The most pages that a layer of a point attends to; 0: all. */
uint32_t sparsity_most_pages(const struct operating_point *p, uint32_t n_layers);

/* The limit below which a share of a layer's neurons that are not zero lies. */
float sparsity_limit(const struct sparsity *s, enum sparsity_site site, uint32_t layer,
                     double share);

/* The share of a layer's neurons that are not zero which lie below a limit: the inverse of sparsity_limit. */
double sparsity_share_below(const struct sparsity *s, enum sparsity_site site, uint32_t layer,
                            float limit);

/* A point of that name with these limits [n_layers], copied; its measures are zero.  Returns its number, -1 with *err
 * set: the name is taken or no name, or there are SPARSITY_MAX_POINTS. */
int sparsity_add(struct sparsity *s, const char *name, const struct layer_point *layer,
                 struct engine_err *err);
/* The number of the point of that name; or, of a share, of the one that reads least with at least so many tokens' most
 * likely next ones the same.  -1: there is none. */
int sparsity_find(const struct sparsity *s, const char *text);
/* Other limits [n_layers] for a point that no sequence uses. */
void sparsity_set_limits(struct sparsity *s, uint32_t point, const struct layer_point *layer);
/* Forgets points from number n on, which no sequence uses. */
void sparsity_truncate(struct sparsity *s, uint32_t n);
/* The measures of a point; name and hash stay. */
void sparsity_set_info(struct sparsity *s, uint32_t point, const struct engine_point *info);

/* A name, or "up=0.5+down=0.4": the same shares of neurons computed in all layers, as the calibration's text had it;
 * 'neurons' is both.  Such a point is added if it is new.  Returns its number or -1. */
int sparsity_parse(struct sparsity *s, const char *text, struct engine_err *err);

/* What is to be expected of its feed-forwards [n_layers]. */
void sparsity_set_errors(struct sparsity *s, uint32_t point, const float *error);
/* Of the points that the calibration measured and `usable` allows, the one that loses most but less than this one;
 * ENGINE_POINT_EXACT if there is none. */
uint32_t sparsity_safer(const struct sparsity *s, uint32_t point,
                        bool (*usable)(const void *ctx, uint32_t point), const void *ctx);

/* sidecar.c */
/* Fills s from the file at `path`; s->model then says whose it is. */
int sidecar_read(struct sparsity *s, const char *path, struct engine_err *err);
/* Writes a calibrated s of the model with that identity (weights_identity); the file appears when it is complete. */
int sidecar_write(const struct sparsity *s, const char *path, uint64_t model,
                  struct engine_err *err);

#endif
