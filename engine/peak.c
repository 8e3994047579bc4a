/* SPDX-License-Identifier: Apache-2.0
 *
 * peak.c - what the machine can do at most, measured on the engine's own threads and weights.
 *
 * A lane is an item of the pool that lasts as long as the measurement, so that k lanes are k threads.
 */
#include <stdlib.h>

#include "engine/clock.h"
#include "engine/internal.h"

enum {
    ROUNDS = 5, /* the best of them counts: what disturbs makes it only slower */
    PIECE_BYTES = 1 << 20,
};
#define PEAK_SECONDS 0.03
#define PEAK_STEPS 20000u /* between two looks at the clock */

static double now(void)
{
    return (double)engine_clock_ns() * 1e-9;
}

/* ---- reading ---- */

struct piece {
    const uint8_t *data;
    size_t bytes;
};

/* The weights in pieces, in the order in which a step reads them. */
struct pieces {
    struct piece *list; /* NULL: only count */
    uint32_t n;
};

static void add_pieces(void *ctx, const struct kern_matrix *w)
{
    struct pieces *p = ctx;
    size_t bytes = kern_matrix_bytes(w);
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        if (p->list)
            p->list[p->n] = (struct piece){ (const uint8_t *)w->data + at,
                                            bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES };
        p->n++;
    }
}

struct read_job {
    const struct kern_table *kern;
    const struct pieces *pieces;
    _Atomic uint32_t next;
    _Atomic uint64_t bytes, sum;
};

static void read_lane(void *ctx, uint32_t lane)
{
    struct read_job *job = ctx;
    uint64_t sum = 0, bytes = 0;
    (void)lane;
    for (uint32_t i; (i = atomic_fetch_add(&job->next, 1)) < job->pieces->n;) {
        sum += job->kern->read(job->pieces->list[i].data, job->pieces->list[i].bytes);
        bytes += job->pieces->list[i].bytes;
    }
    atomic_fetch_add(&job->sum, sum); /* or the reading could be left out */
    atomic_fetch_add(&job->bytes, bytes);
}

static double measure_read(struct engine *e, uint32_t n_threads)
{
    struct pieces p = { 0 };
    double best = 0;
    weights_each(&e->weights, &e->shape, add_pieces, &p);
    p.list = calloc(p.n, sizeof(*p.list));
    p.n = 0;
    if (p.list)
        weights_each(&e->weights, &e->shape, add_pieces, &p);
    for (uint32_t i = 0; i < ROUNDS && p.list; i++) {
        struct read_job job = { .kern = e->kern, .pieces = &p };
        double start = now();
        workers_run(e->workers, read_lane, &job, n_threads);
        double rate = (double)job.bytes / (now() - start);
        best = rate > best ? rate : best;
    }
    free(p.list);
    return best;
}

/* ---- multiplying ---- */

struct multiply_job {
    const struct kern_table *kern;
    enum kern_peak kind;
    double end;
    _Atomic uint64_t macs;
};

static void multiply_lane(void *ctx, uint32_t lane)
{
    struct multiply_job *job = ctx;
    uint64_t macs = 0;
    (void)lane;
    while (now() < job->end)
        macs += job->kern->peak(job->kind, PEAK_STEPS);
    atomic_fetch_add(&job->macs, macs);
}

static double measure_multiply(struct engine *e, uint32_t n_threads, enum kern_peak kind)
{
    double best = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        double start = now();
        struct multiply_job job = { .kern = e->kern, .kind = kind, .end = start + PEAK_SECONDS };
        workers_run(e->workers, multiply_lane, &job, n_threads);
        double rate = (double)job.macs / (now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

void engine_measure_peak(struct engine *e, uint32_t n_threads, struct engine_peak *out)
{
    *out = (struct engine_peak){ .n_threads = n_threads,
                                 .read = measure_read(e, n_threads),
                                 .int8 = measure_multiply(e, n_threads, KERN_PEAK_INT8),
                                 .f32 = measure_multiply(e, n_threads, KERN_PEAK_F32) };
}

/* ---- parts of a step ---- */

void engine_profile_start(struct engine *e)
{
    profile_start(&e->forward->profile);
}

uint32_t engine_profile(const struct engine *e, const struct engine_part **parts)
{
    *parts = e->forward->profile.part;
    return PROFILE_N_PARTS;
}
