/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_results.c - rows beside those that they are compared with.
 */
#include "server/commands/bench_results.h"

#include <stdio.h>
#include <stdlib.h>

int bench_results_init(struct bench_results *all, uint32_t n_max)
{
    *all = (struct bench_results){ .n_max = n_max };
    all->items = calloc(n_max, sizeof(*all->items));
    return all->items ? 0 : -1;
}

void bench_results_fini(struct bench_results *all)
{
    free(all->items);
    all->items = NULL;
}

/* ---- comparisons ---- */

static bool is_same_shape(const struct bench_shape *a, const struct bench_shape *b)
{
    return a->decode == b->decode && a->batch == b->batch && a->context == b->context &&
           a->n == b->n;
}

/* Of the same shape, with all experts in memory; NULL: not measured. */
static const struct bench_result *resident_result(const struct bench_results *all,
                                                  const struct bench_shape *s)
{
    for (uint32_t i = 0; i < all->n; i++)
        if (all->items[i].experts.share == 1 && is_same_shape(&all->items[i].shape, s))
            return &all->items[i];
    return NULL;
}

/* Of the same shape, with as many experts in memory, and nothing left out. */
static const struct bench_result *dense_result(const struct bench_results *all,
                                               const struct bench_result *r)
{
    for (uint32_t i = 0; i < all->n; i++)
        if (all->items[i].mode.is_dense && all->items[i].experts.share == r->experts.share &&
            is_same_shape(&all->items[i].shape, &r->shape))
            return &all->items[i];
    return NULL;
}

/* Of its dense speed; 0: that was not measured. */
static double times_dense(const struct bench_results *all, const struct bench_result *r)
{
    const struct bench_result *dense = dense_result(all, r);
    return dense ? r->tok_s / dense->tok_s : 0;
}

static double disk_bytes_s(const struct bench_results *all)
{
    double most = 0;
    for (uint32_t i = 0; i < ENGINE_DISK_SPEEDS; i++)
        most = all->disk[i].bytes_s > most ? all->disk[i].bytes_s : most;
    return most;
}

/* How near a time is to the larger of computing with all experts in memory, and reading what was not there;
 * 0: one of them was not measured. */
static double reached(const struct bench_results *all, const struct bench_result *r)
{
    const struct bench_result *resident = resident_result(all, &r->shape);
    if (!all->disk || !resident)
        return 0;
    double per_token = r->experts.n_tokens
                           ? (double)r->experts.missed_bytes / (double)r->experts.n_tokens
                           : 0;
    double token_s = per_token / disk_bytes_s(all), resident_s = 1 / resident->tok_s;
    return (token_s > resident_s ? token_s : resident_s) * r->tok_s;
}

/* 1: none is left out. */
static double share_of_neurons(const struct bench_result *r, uint64_t n)
{
    return r->neurons.n_all ? (double)n / (double)r->neurons.n_all : 1;
}

/* ---- table ---- */

static void print_heading(const struct bench_results *all)
{
    printf("%-8s %-8s %6s %7s %8s %11s %10s", "phase", "mode", "batch", "prompt", "context",
           "tok/s", "ms");
    if (all->compares_modes)
        printf(" %8s %7s %7s %7s %8s %9s", "x dense", "up", "down", "skips", "KL", "same top");
    if (all->has_experts)
        bench_print_experts_heading();
    putchar('\n');
}

/* What another operating point costs was measured by its calibration: unknown of others. */
static void print_losses(const struct bench_mode *mode)
{
    if (mode->point == ENGINE_POINT_EXACT)
        printf(" %8s %9s", "exact", "exact");
    else if (mode->has_losses)
        printf(" %8.4f %8.2f%%", mode->kl, mode->same_top * 100);
    else
        printf(" %8s %9s", "-", "-");
}

static void print_skipping(const struct bench_neurons *n)
{
    if (n->n_products)
        printf(" %6.1f%%", (double)n->n_skipping / (double)n->n_products * 100);
    else
        printf(" %7s", "-");
}

static void print_row(const struct bench_results *all, const struct bench_result *r)
{
    const struct bench_shape *s = &r->shape;
    double times = times_dense(all, r);
    printf("%-8s %-8s %6u %7u %8u %11.1f %10.2f", s->decode ? "decode" : "prefill", r->mode.name,
           s->batch, s->decode ? 0 : s->n, s->context, r->tok_s, r->ms);
    if (all->compares_modes) {
        if (times > 0)
            printf(" %7.2fx", times);
        else
            printf(" %8s", "-");
        printf(" %6.1f%% %6.1f%%", share_of_neurons(r, r->neurons.n_up) * 100,
               share_of_neurons(r, r->neurons.n_down) * 100);
        print_skipping(&r->neurons);
        print_losses(&r->mode);
    }
    if (all->has_experts)
        bench_print_experts(&r->experts, reached(all, r));
    putchar('\n');
}

void bench_results_add(struct bench_results *all, const struct bench_result *r)
{
    all->items[all->n++] = *r;
    if (all->as_json)
        return;
    if (all->n == 1)
        print_heading(all);
    print_row(all, r);
    if (all->has_parts)
        bench_print_parts(&r->parts, all->peak);
    fflush(stdout);
}

/* ---- JSON ---- */

static void print_mode_json(const struct bench_results *all, const struct bench_result *r)
{
    double times = times_dense(all, r);
    printf(", \"neurons_up\": %.4f, \"neurons_down\": %.4f", share_of_neurons(r, r->neurons.n_up),
           share_of_neurons(r, r->neurons.n_down));
    if (r->neurons.n_products)
        printf(", \"products_skipping\": %.4f",
               (double)r->neurons.n_skipping / (double)r->neurons.n_products);
    if (times > 0)
        printf(", \"times_dense\": %.4f", times);
    if (r->mode.has_losses)
        printf(", \"kl\": %.6f, \"same_top\": %.4f", r->mode.kl, r->mode.same_top);
}

static void print_result_json(const struct bench_results *all, const struct bench_result *r)
{
    const struct bench_shape *s = &r->shape;
    printf("  {\"phase\": \"%s\", \"mode\": \"%s\", \"batch\": %u, \"prompt\": %u, "
           "\"context\": %u, \"tok_s\": %.3f, \"ms\": %.4f",
           s->decode ? "decode" : "prefill", r->mode.name, s->batch, s->decode ? 0 : s->n,
           s->context, r->tok_s, r->ms);
    if (all->compares_modes)
        print_mode_json(all, r);
    if (all->has_experts)
        bench_print_experts_json(&r->experts, reached(all, r));
    if (all->has_parts) {
        printf(", \"parts\": ");
        bench_print_parts_json(&r->parts, all->peak);
    }
}

void bench_results_print_json(const struct bench_results *all)
{
    puts("[");
    if (all->disk)
        bench_print_disk_json(all->disk, all->n > 0);
    for (uint32_t i = 0; i < all->n; i++) {
        print_result_json(all, &all->items[i]);
        puts(i + 1 < all->n ? "}," : "}");
    }
    puts("]");
}
