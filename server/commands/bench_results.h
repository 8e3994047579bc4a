/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_results.h - what `lacuna bench` has measured, as a table that grows or as JSON at the end.
 */
#ifndef LACUNA_SERVER_BENCH_RESULTS_H
#define LACUNA_SERVER_BENCH_RESULTS_H

#include "server/commands/bench_experts.h"
#include "server/commands/bench_parts.h"

struct bench_shape {
    bool decode;
    uint32_t batch, context;
    uint32_t n; /* tokens of the prompt, or of each answer */
};

/* How the same shape can be computed. */
struct bench_mode {
    char name[80];
    uint32_t point;  /* the operating point */
    bool is_dense;   /* what others are compared with */
    bool has_losses; /* the point was calibrated: */
    double kl, same_top;
};

/* Of feed-forwards in which neurons are left out. */
struct bench_neurons {
    uint64_t n_all, n_up, n_down;
    uint64_t n_products,
        n_skipping; /* of products where both ways were open: all, and those that skipped zeros */
};

struct bench_result {
    struct bench_shape shape;
    struct bench_mode mode;
    double tok_s, ms;
    struct bench_parts parts;
    struct bench_experts experts;
    struct bench_neurons neurons;
};

struct bench_results {
    struct bench_result *items; /* [n_max] */
    uint32_t n, n_max;
    bool as_json;
    bool compares_modes, has_experts, has_parts; /* what columns there are */
    const struct engine_disk_speed *disk;        /* [ENGINE_DISK_SPEEDS], NULL: not measured */
    const struct engine_peak *peak;              /* of all threads, NULL: not measured */
};

/* -1: no memory.  The fields behind n_max are the caller's to set before the first result. */
int bench_results_init(struct bench_results *all, uint32_t n_max);
void bench_results_fini(struct bench_results *all);

/* Copied; a row of the table, unless as_json.  There must be room. */
void bench_results_add(struct bench_results *all, const struct bench_result *r);
/* All of them. */
void bench_results_print_json(const struct bench_results *all);

#endif
