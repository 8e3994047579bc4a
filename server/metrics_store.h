/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics_store.h - how the numbers lie in memory; private to metrics.c and metrics_render.c.
 */
#ifndef LACUNA_SERVER_METRICS_STORE_H
#define LACUNA_SERVER_METRICS_STORE_H

#include "server/metrics.h"

enum {
    METRICS_MAX_BOUNDS = 22,
    METRICS_MAX_ROUTES = 24,
    METRICS_N_METHODS = 5,
    METRICS_N_CODES = 16,
    METRICS_N_CAUSES = 5,  /* enum sched_cancel_cause; 0 is unused */
    METRICS_N_FINISHES = 3 /* enum sched_finish; 0 is unused */
};

struct metrics_bounds {
    uint32_t n;
    double at[METRICS_MAX_BOUNDS];
};
extern const struct metrics_bounds metrics_bounds_ttft, metrics_bounds_itl, metrics_bounds_e2e,
    metrics_bounds_tokens, metrics_bounds_n;

/* Counts per bucket, not cumulative; the last is +Inf.  Its `_count` is their sum, so that a text
 * never contradicts itself however many are writing. */
struct metrics_hist {
    _Atomic uint64_t buckets[METRICS_MAX_BOUNDS + 1];
    _Atomic uint64_t sum;
};

struct metrics_histogram_info {
    const char *name, *help;
    const struct metrics_bounds *bounds;
    double unit; /* what one of the stored numbers is worth */
};
extern const struct metrics_histogram_info metrics_histograms[METRICS_N_HISTOGRAMS];

extern const unsigned metrics_codes[METRICS_N_CODES]; /* the last, 0, stands for all others */

struct metrics {
    struct metrics_hist hist[METRICS_N_HISTOGRAMS];
    struct metrics_hist http_seconds[METRICS_MAX_ROUTES];
    _Atomic uint64_t http[METRICS_MAX_ROUTES][METRICS_N_METHODS][METRICS_N_CODES];
    _Atomic uint64_t rejected[API_N_ERROR_KINDS];
    _Atomic uint64_t cancelled[METRICS_N_PHASES][METRICS_N_CAUSES];
    _Atomic uint64_t success[METRICS_N_FINISHES];
};

/* What the operating system and the allocator say of this process; refreshed once a second. */
struct metrics_process {
    uint64_t resident_bytes, virtual_bytes, open_fds, max_fds;
    double start_time_seconds;
    bool has_memory;
    uint64_t memory[6]; /* as metrics_memory_names */
};
extern const char *const metrics_memory_names[6];
void metrics_read_process(struct metrics_process *out);

#endif
