/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_parts.h - where the time of a step went, and how near each part came to what the machine can do
 * (the roofline model: Williams, Waterman and Patterson 2009).
 */
#ifndef LACUNA_SERVER_BENCH_PARTS_H
#define LACUNA_SERVER_BENCH_PARTS_H

#include "engine/engine.h"

enum { BENCH_MAX_PARTS = 24 };

struct bench_parts {
    struct engine_part part[BENCH_MAX_PARTS];
    uint32_t n;
    uint32_t n_steps;
};

/* Adds what the engine measured in n_steps. */
void bench_parts_add(struct bench_parts *sum, const struct engine *e, uint32_t n_steps);

/* speeds [ENGINE_DISK_SPEEDS]; as JSON: objects, each followed by a comma if more follow them. */
void bench_print_disk(const struct engine_disk_speed *speeds);
void bench_print_disk_json(const struct engine_disk_speed *speeds, bool more_follow);

void bench_print_peaks(const struct engine_peak *peaks, uint32_t n);
/* peak: of the threads that ran, or NULL: times only. */
void bench_print_parts(const struct bench_parts *parts, const struct engine_peak *peak);
/* As a JSON array. */
void bench_print_parts_json(const struct bench_parts *parts, const struct engine_peak *peak);

#endif
