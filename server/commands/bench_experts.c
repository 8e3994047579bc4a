/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_experts.c - counters, and the columns they make.
 */
#include "server/commands/bench_experts.h"

#include <stdio.h>

static uint64_t missed_bytes(const struct bench_experts *x)
{
    uint64_t n_missed = x->n_misses + x->n_foreseen, n_read = n_missed + x->n_unused;
    return n_read ? (uint64_t)((double)x->read_bytes * (double)n_missed / (double)n_read) : 0;
}

void bench_experts_add(struct bench_experts *sum, const struct engine *e,
                       const struct engine_expert_stats *before, uint64_t n_tokens, double seconds)
{
    struct engine_expert_stats now;
    uint32_t n_all = engine_info(e)->n_experts;
    engine_expert_stats(e, &now);
    sum->share = now.n_slots && n_all ? (double)now.n_slots / n_all : 1;
    sum->n_hits += now.sum.n_hits - before->sum.n_hits;
    sum->n_foreseen += now.sum.n_foreseen - before->sum.n_foreseen;
    sum->n_misses += now.sum.n_misses - before->sum.n_misses;
    sum->n_unused += now.sum.n_unused - before->sum.n_unused;
    sum->n_replaced += now.sum.n_replaced - before->sum.n_replaced;
    sum->read_bytes += now.read_bytes - before->read_bytes;
    sum->stall_ns += now.stall_ns - before->stall_ns;
    sum->missed_bytes = missed_bytes(sum);
    sum->n_tokens += n_tokens;
    sum->seconds += seconds;
}

static double share_of(uint64_t part, uint64_t all)
{
    return all ? (double)part / (double)all : 0;
}

static uint64_t n_picks(const struct bench_experts *x)
{
    return x->n_hits + x->n_foreseen + x->n_misses;
}

static double hit_rate(const struct bench_experts *x)
{
    return n_picks(x) ? share_of(x->n_hits, n_picks(x)) : 1;
}

/* Of what was picked, in place of what was not there. */
static double replaced_rate(const struct bench_experts *x)
{
    return share_of(x->n_replaced, n_picks(x));
}

/* Of what was missing. */
static double foreseen_rate(const struct bench_experts *x)
{
    return share_of(x->n_foreseen, x->n_foreseen + x->n_misses);
}

/* Of what was foreseen and read. */
static double unused_rate(const struct bench_experts *x)
{
    return share_of(x->n_unused, x->n_foreseen + x->n_unused);
}

static double stall_rate(const struct bench_experts *x)
{
    return x->seconds > 0 ? (double)x->stall_ns * 1e-9 / x->seconds : 0;
}

/* Negative: unknown. */
static void print_rate(double rate)
{
    if (rate < 0)
        printf(" %6s", "-");
    else
        printf(" %5.1f%%", rate * 100);
}

void bench_print_experts_heading(void)
{
    printf(" %8s %6s %6s %6s %8s %7s %8s %10s %6s %8s", "experts", "hits", "fixed", "best",
           "foreseen", "unused", "replaced", "KiB/token", "stall", "of bound");
}

void bench_print_experts(const struct bench_experts *x, double reached)
{
    printf(" %7.1f%%", x->share * 100);
    print_rate(hit_rate(x));
    if (x->share == 1)
        return;
    print_rate(x->best_fixed_rate);
    print_rate(x->best_rate);
    printf(" %7.1f%% %6.1f%% %7.1f%% %10.1f %5.1f%%", foreseen_rate(x) * 100, unused_rate(x) * 100,
           replaced_rate(x) * 100, share_of(x->read_bytes, x->n_tokens) / 1024,
           stall_rate(x) * 100);
    if (reached > 0)
        printf(" %7.1f%%", reached * 100);
}

void bench_print_experts_json(const struct bench_experts *x, double reached)
{
    printf(
        ", \"experts\": {\"share\": %.4f, \"hit_rate\": %.4f, \"hits\": %llu, \"foreseen\": %llu, "
        "\"misses\": %llu, \"unused\": %llu, \"replaced\": %llu, \"read_bytes\": %llu, \"tokens\": "
        "%llu, "
        "\"stall\": %.4f",
        x->share, hit_rate(x), (unsigned long long)x->n_hits, (unsigned long long)x->n_foreseen,
        (unsigned long long)x->n_misses, (unsigned long long)x->n_unused,
        (unsigned long long)x->n_replaced, (unsigned long long)x->read_bytes,
        (unsigned long long)x->n_tokens, stall_rate(x));
    if (x->best_rate >= 0)
        printf(", \"best_fixed_hit_rate\": %.4f, \"best_hit_rate\": %.4f", x->best_fixed_rate,
               x->best_rate);
    if (reached > 0)
        printf(", \"of_bound\": %.4f", reached);
    putchar('}');
}
