/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_experts.h - what a mixture's experts did while a shape was measured: how many were in memory, how often
 * that was those that tokens chose, what was read.
 */
#ifndef LACUNA_SERVER_BENCH_EXPERTS_H
#define LACUNA_SERVER_BENCH_EXPERTS_H

#include "engine/engine.h"

struct bench_experts {
    double share; /* of all experts that have a place in memory */
    uint64_t n_hits, n_foreseen, n_misses, n_unused, n_replaced;
    uint64_t read_bytes, stall_ns;
    uint64_t missed_bytes; /* of read_bytes, those that were wanted */
    uint64_t n_tokens;
    double seconds; /* that these took */
    double best_fixed_rate,
        best_rate; /* hits that there could have been (bench_trace.h); negative: unknown */
};

/* Adds what has happened since `before`, in which n_tokens tokens were computed, in so many
 * seconds. */
void bench_experts_add(struct bench_experts *sum, const struct engine *e,
                       const struct engine_expert_stats *before, uint64_t n_tokens, double seconds);

/* Columns behind a row of the table.  reached: the share of the bound; 0: unknown. */
void bench_print_experts_heading(void);
void bench_print_experts(const struct bench_experts *x, double reached);
/* Fields behind others of a JSON object. */
void bench_print_experts_json(const struct bench_experts *x, double reached);

#endif
