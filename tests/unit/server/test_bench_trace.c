/* SPDX-License-Identifier: Apache-2.0
 *
 * test_bench_trace.c - the yardsticks of the expert cache against counting by hand and against every way to evict.
 */
#include "server/commands/bench_trace.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

static struct bench_trace trace_of(const uint32_t *experts, uint32_t n)
{
    struct bench_trace t = { .n_layers = 2, .n_experts = 4 };
    for (uint32_t i = 0; i < n; i++)
        bench_trace_add(&t, experts[i] / 4, experts[i] % 4);
    return t;
}

Test(bench_trace, the_best_fixed_set_has_the_most_used)
{
    const uint32_t uses[] = { 0, 5, 0, 5, 0, 1, 2, 5, 0, 7 }; /* 0: 4, 5: 3, three once */
    struct bench_trace t = trace_of(uses, 10);
    cr_expect_float_eq(bench_trace_best_fixed(&t, 1), 0.4, 1e-9);
    cr_expect_float_eq(bench_trace_best_fixed(&t, 2), 0.7, 1e-9);
    cr_expect_float_eq(bench_trace_best_fixed(&t, 8), 1, 1e-9);
    bench_trace_fini(&t);
}

/* The most hits of uses [i, n), with a bit for each expert in a slot. */
static uint32_t most_hits(const uint32_t *uses, uint32_t n, uint32_t i, uint32_t in_slots)
{
    if (i == n)
        return 0;
    if (in_slots & 1u << uses[i])
        return 1 + most_hits(uses, n, i + 1, in_slots);
    uint32_t most = most_hits(uses, n, i + 1, in_slots); /* it is not kept */
    for (uint32_t e = 0; e < 8; e++) {
        if (!(in_slots & 1u << e))
            continue;
        uint32_t with = most_hits(uses, n, i + 1, (in_slots & ~(1u << e)) | 1u << uses[i]);
        most = with > most ? with : most;
    }
    return most;
}

/* From every start. */
static uint32_t most_of_all(const uint32_t *uses, uint32_t n, uint32_t n_slots)
{
    uint32_t most = 0;
    for (uint32_t start = 0; start < 256; start++) {
        uint32_t hits = (uint32_t)__builtin_popcount(start) == n_slots
                            ? most_hits(uses, n, 0, start)
                            : 0;
        most = hits > most ? hits : most;
    }
    return most;
}

Test(bench_trace, the_best_is_the_best_of_all_ways)
{
    enum { N = 9 };
    srand(3);
    for (int round = 0; round < 20; round++) {
        uint32_t uses[N];
        for (uint32_t i = 0; i < N; i++)
            uses[i] = (uint32_t)rand() % 8 * ((uint32_t)rand() % 3 > 0);
        struct bench_trace t = trace_of(uses, N);
        for (uint32_t n_slots = 1; n_slots <= 3; n_slots++)
            cr_assert_float_eq(bench_trace_best(&t, n_slots),
                               (double)most_of_all(uses, N, n_slots) / N, 1e-9,
                               "round %d, %u slots", round, n_slots);
        bench_trace_fini(&t);
    }
}

Test(bench_trace, nothing_is_said_of_no_trace)
{
    struct bench_trace t = { .n_layers = 2, .n_experts = 4 };
    cr_expect_lt(bench_trace_best(&t, 3), 0);
    cr_expect_lt(bench_trace_best_fixed(&t, 3), 0);
    bench_trace_fini(&t);
}
