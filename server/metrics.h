/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.h - counters and histograms, and their text for GET /metrics.
 *
 * Observing is a few relaxed atomic additions, from any thread.  Rendering takes no lock of the
 * engine or the scheduler, resets nothing and wakes nothing.
 */
#ifndef LACUNA_SERVER_METRICS_H
#define LACUNA_SERVER_METRICS_H

#include "scheduler/scheduler.h"
#include "server/api/api_error.h"
#include "server/buffer.h"
#include "server/internal.h"

enum metrics_histogram {
    METRICS_TTFT, /* seconds */
    METRICS_ITL,
    METRICS_TPOT, /* per output token, mean of a request */
    METRICS_E2E,
    METRICS_QUEUE,
    METRICS_PREFILL,
    METRICS_DECODE,
    METRICS_INFERENCE,
    METRICS_PROMPT_TOKENS, /* plain numbers from here on */
    METRICS_GENERATION_TOKENS,
    METRICS_MAX_GENERATION_TOKENS,
    METRICS_PARAMS_MAX_TOKENS,
    METRICS_PARAMS_N,
    METRICS_N_HISTOGRAMS,
};

enum metrics_phase { METRICS_QUEUED, METRICS_IN_PREFILL, METRICS_IN_DECODE, METRICS_N_PHASES };

int metrics_open(struct metrics **out, struct engine_err *err);
void metrics_close(struct metrics *m); /* NULL is fine */

/* Times are in nanoseconds; the same value n times. */
void metrics_observe(struct metrics *m, enum metrics_histogram h, uint64_t value, uint64_t n);
void metrics_count_http(struct metrics *m, uint32_t route, unsigned method, unsigned status,
                        uint64_t ns);
/* Kinds without a reason are not counted. */
void metrics_count_rejected(struct metrics *m, enum api_error_kind kind);
void metrics_count_cancelled(struct metrics *m, enum metrics_phase phase,
                             enum sched_cancel_cause cause);
void metrics_count_success(struct metrics *m, enum sched_finish finish);
const char *metrics_phase_name(enum metrics_phase phase);

/* Text exposition format, or OpenMetrics. */
void metrics_render(const struct srv *s, struct buf *out, bool openmetrics);

#endif
