/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_trace.h - which experts were chosen, in order, and how often any choice of what stays in memory could have had
 * them there: the yardsticks of the expert cache.
 */
#ifndef LACUNA_SERVER_BENCH_TRACE_H
#define LACUNA_SERVER_BENCH_TRACE_H

#include <stdint.h>

struct bench_trace {
    uint32_t n_layers,
        n_experts;     /* filled in by whoever begins it; n_experts: of a layer at most */
    uint32_t *experts; /* [n] layer * n_experts + expert */
    uint64_t n, room;
};

/* An engine_expert_trace_fn; ctx: the struct bench_trace.  Without memory the trace ends. */
void bench_trace_add(void *ctx, uint32_t layer, uint32_t expert);
void bench_trace_fini(struct bench_trace *t);

/* Shares of the trace that n_slots slots would have had: with the same experts in them all the time, the best ones for
 * this trace; and at most, each slot given away for what is wanted last (Belady, 1966), from the best start.  Negative: no
 * memory for it, or no trace. */
double bench_trace_best_fixed(const struct bench_trace *t, uint32_t n_slots);
double bench_trace_best(const struct bench_trace *t, uint32_t n_slots);

#endif
