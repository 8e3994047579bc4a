/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.c - counting: relaxed atomics, no locks.
 */
#include "server/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "server/http/http.h"
#include "server/metrics_store.h"

/* Bounds that other servers use too, so that mixed fleets can be added up. */
const struct metrics_bounds metrics_bounds_ttft = { 22, { .001, .005, .01, .02, .04, .06, .08, .1,
                                                          .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                                          20,   40,   80,  160, 640, 2560 } };
const struct metrics_bounds metrics_bounds_itl = {
    19, { .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80 }
};
const struct metrics_bounds metrics_bounds_e2e = { 21, { .3, .5,  .8,  1,   1.5, 2,    2.5,
                                                         5,  10,  15,  20,  30,  40,   50,
                                                         60, 120, 240, 480, 960, 1920, 7680 } };
const struct metrics_bounds metrics_bounds_tokens = { 18,
                                                      { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000,
                                                        2000, 5000, 10000, 20000, 50000, 100000,
                                                        200000, 500000 } };
const struct metrics_bounds metrics_bounds_n = { 5, { 1, 2, 5, 10, 20 } };

#define SECONDS 1e-9

const struct metrics_histogram_info metrics_histograms[METRICS_N_HISTOGRAMS] = {
    [METRICS_TTFT] = { "lacuna_time_to_first_token_seconds",
                       "From a request's arrival to its first token.", &metrics_bounds_ttft,
                       SECONDS },
    [METRICS_ITL] = { "lacuna_inter_token_latency_seconds", "Between two tokens of a choice.",
                      &metrics_bounds_itl, SECONDS },
    [METRICS_TPOT] = { "lacuna_request_time_per_output_token_seconds",
                       "Mean time per token of a request after its first.", &metrics_bounds_itl,
                       SECONDS },
    [METRICS_E2E] = { "lacuna_e2e_request_latency_seconds", "From a request's arrival to its end.",
                      &metrics_bounds_e2e, SECONDS },
    [METRICS_QUEUE] = { "lacuna_request_queue_time_seconds",
                        "From a request's arrival to its first step.", &metrics_bounds_e2e,
                        SECONDS },
    [METRICS_PREFILL] = { "lacuna_request_prefill_time_seconds",
                          "From a request's first step to its first token.", &metrics_bounds_e2e,
                          SECONDS },
    [METRICS_DECODE] = { "lacuna_request_decode_time_seconds",
                         "From a request's first token to its last.", &metrics_bounds_e2e,
                         SECONDS },
    [METRICS_INFERENCE] = { "lacuna_request_inference_time_seconds",
                            "From a request's first step to its last token.", &metrics_bounds_e2e,
                            SECONDS },
    [METRICS_PROMPT_TOKENS] = { "lacuna_request_prompt_tokens", "Prompt tokens of a request.",
                                &metrics_bounds_tokens, 1 },
    [METRICS_GENERATION_TOKENS] = { "lacuna_request_generation_tokens",
                                    "Tokens generated for a request.", &metrics_bounds_tokens, 1 },
    [METRICS_MAX_GENERATION_TOKENS] = { "lacuna_request_max_num_generation_tokens",
                                        "Tokens of a request's longest choice.",
                                        &metrics_bounds_tokens, 1 },
    [METRICS_PARAMS_MAX_TOKENS] = { "lacuna_request_params_max_tokens",
                                    "max_tokens as requests ask for it.", &metrics_bounds_tokens,
                                    1 },
    [METRICS_PARAMS_N] = { "lacuna_request_params_n", "n as requests ask for it.",
                           &metrics_bounds_n, 1 },
};

const unsigned metrics_codes[METRICS_N_CODES] = { 200, 204, 400, 401, 403, 404, 405, 413,
                                                  415, 429, 499, 500, 501, 503, 504, 0 };

int metrics_open(struct metrics **out, struct engine_err *err)
{
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the metrics");
    return 0;
}

void metrics_close(struct metrics *m)
{
    free(m);
}

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void observe(struct metrics_hist *h, const struct metrics_bounds *bounds, double unit,
                    uint64_t value, uint64_t n)
{
    uint32_t i = 0;
    double v = (double)value * unit;
    while (i < bounds->n && v > bounds->at[i])
        i++;
    add(&h->buckets[i], n);
    add(&h->sum, value * n);
}

void metrics_observe(struct metrics *m, enum metrics_histogram h, uint64_t value, uint64_t n)
{
    if (n > 0)
        observe(&m->hist[h], metrics_histograms[h].bounds, metrics_histograms[h].unit, value, n);
}

static uint32_t method_index(unsigned method)
{
    uint32_t i = 0;
    while (i + 1 < METRICS_N_METHODS && method != 1u << i)
        i++;
    return i;
}

static uint32_t code_index(unsigned status)
{
    uint32_t i = 0;
    while (i + 1 < METRICS_N_CODES && metrics_codes[i] != status)
        i++;
    return i;
}

void metrics_count_http(struct metrics *m, uint32_t route, unsigned method, unsigned status,
                        uint64_t ns)
{
    add(&m->http[route][method_index(method)][code_index(status)], 1);
    observe(&m->http_seconds[route], &metrics_bounds_e2e, SECONDS, ns, 1);
}

void metrics_count_rejected(struct metrics *m, enum api_error_kind kind)
{
    add(&m->rejected[kind], 1);
}

void metrics_count_cancelled(struct metrics *m, enum metrics_phase phase,
                             enum sched_cancel_cause cause)
{
    add(&m->cancelled[phase][cause], 1);
}

void metrics_count_success(struct metrics *m, enum sched_finish finish)
{
    add(&m->success[finish], 1);
}

const char *metrics_phase_name(enum metrics_phase phase)
{
    static const char *const names[METRICS_N_PHASES] = { "queued", "prefill", "decode" };
    return names[phase];
}
