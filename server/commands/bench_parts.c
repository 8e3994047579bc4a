/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_parts.c - tables of parts, peaks and disk speeds.
 */
#include "server/commands/bench_parts.h"

#include <stdio.h>

static void add_part(struct engine_part *sum, const struct engine_part *p)
{
    sum->ns += p->ns;
    sum->bytes += p->bytes;
    sum->int8_macs += p->int8_macs;
    sum->f32_macs += p->f32_macs;
}

void bench_parts_add(struct bench_parts *sum, const struct engine *e, uint32_t n_steps)
{
    const struct engine_part *parts;
    uint32_t n = engine_profile(e, &parts);
    sum->n = n < BENCH_MAX_PARTS ? n : BENCH_MAX_PARTS;
    sum->n_steps += n_steps;
    for (uint32_t i = 0; i < sum->n; i++) {
        sum->part[i].name = parts[i].name;
        add_part(&sum->part[i], &parts[i]);
    }
}

static double most(double a, double b)
{
    return a > b ? a : b;
}

/* The shortest time that a part could take, in seconds. */
static double part_bound(const struct engine_part *part, const struct engine_peak *peak)
{
    double reading = (double)part->bytes / peak->read;
    double multiplying = (double)part->int8_macs / peak->int8 + (double)part->f32_macs / peak->f32;
    return most(reading, multiplying);
}

static const char *order_name(const struct engine_disk_speed *s)
{
    return s->in_order ? "in order" : "anywhere";
}

void bench_print_disk(const struct engine_disk_speed *speeds)
{
    printf("%-10s %10s %10s %10s %10s\n", "disk", "piece KiB", "at once", "MB/s", "ms/piece");
    for (uint32_t i = 0; i < ENGINE_DISK_SPEEDS; i++) {
        const struct engine_disk_speed *s = &speeds[i];
        printf("%-10s %10u %10u %10.1f %10.3f\n", order_name(s), s->piece_bytes >> 10,
               s->n_in_flight, s->bytes_s * 1e-6, s->ms);
    }
    putchar('\n');
}

void bench_print_disk_json(const struct engine_disk_speed *speeds, bool more_follow)
{
    for (uint32_t i = 0; i < ENGINE_DISK_SPEEDS; i++) {
        const struct engine_disk_speed *s = &speeds[i];
        printf("  {\"phase\": \"disk\", \"order\": \"%s\", \"piece_bytes\": %u, \"in_flight\": %u, "
               "\"bytes_s\": %.0f, \"ms\": %.4f}%s\n",
               order_name(s), s->piece_bytes, s->n_in_flight, s->bytes_s, s->ms,
               more_follow || i + 1 < ENGINE_DISK_SPEEDS ? "," : "");
    }
}

void bench_print_peaks(const struct engine_peak *peaks, uint32_t n)
{
    printf("%-8s %14s %14s %14s\n", "threads", "weights GB/s", "int8 GMAC/s", "f32 GMAC/s");
    for (uint32_t i = 0; i < n; i++)
        printf("%-8u %14.1f %14.1f %14.1f\n", peaks[i].n_threads, peaks[i].read * 1e-9,
               peaks[i].int8 * 1e-9, peaks[i].f32 * 1e-9);
    putchar('\n');
}

static void print_line(const struct engine_part *p, double seconds, double bound, uint32_t n_steps,
                       double all_ns, bool has_peak)
{
    double macs = (double)p->int8_macs + (double)p->f32_macs;
    printf("  %-20s %9.3f %5.1f%%", p->name, seconds * 1e3 / n_steps, (double)p->ns / all_ns * 100);
    if (p->bytes)
        printf(" %8.1f %8.1f", (double)p->bytes / seconds * 1e-9, macs / seconds * 1e-9);
    else
        printf(" %8s %8s", "", "");
    if (has_peak && bound > 0)
        printf(" %9.3f %5.0f%%", bound * 1e3 / n_steps, bound / seconds * 100);
    putchar('\n');
}

void bench_print_parts(const struct bench_parts *parts, const struct engine_peak *peak)
{
    struct engine_part all = { .name = "step" };
    double bounds = 0;
    for (uint32_t i = 0; i < parts->n; i++)
        add_part(&all, &parts->part[i]);
    printf("  %-20s %9s %6s %8s %8s%s\n", "part", "ms/step", "share", "GB/s", "GMAC/s",
           peak ? "  bound ms reached" : "");
    for (uint32_t i = 0; i < parts->n; i++) {
        const struct engine_part *p = &parts->part[i];
        double bound = peak ? part_bound(p, peak) : 0;
        if (p->ns == 0)
            continue;
        bounds += bound;
        print_line(p, (double)p->ns * 1e-9, bound, parts->n_steps, (double)all.ns, peak);
    }
    print_line(&all, (double)all.ns * 1e-9, bounds, parts->n_steps, (double)all.ns, peak);
    putchar('\n');
}

void bench_print_parts_json(const struct bench_parts *parts, const struct engine_peak *peak)
{
    putchar('[');
    for (uint32_t i = 0; i < parts->n; i++) {
        const struct engine_part *p = &parts->part[i];
        printf("%s{\"part\": \"%s\", \"ms\": %.5f, \"bytes\": %.0f, \"int8_macs\": %.0f, "
               "\"f32_macs\": %.0f",
               i ? ", " : "", p->name, (double)p->ns * 1e-6 / parts->n_steps,
               (double)p->bytes / parts->n_steps, (double)p->int8_macs / parts->n_steps,
               (double)p->f32_macs / parts->n_steps);
        if (peak)
            printf(", \"bound_ms\": %.5f", part_bound(p, peak) * 1e3 / parts->n_steps);
        putchar('}');
    }
    putchar(']');
}
