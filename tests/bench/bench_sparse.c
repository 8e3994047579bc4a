/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_sparse.c - the products of a feed-forward whose neurons are seldom active, beside those that compute all of
 * it: time as a share of theirs, for the two sides of a feed-forward of N_EMBD channels and N_FF neurons.  Run by hand:
 *
 *     bench_sparse [TYPE [N_EMBD N_FF [N_THREADS [VARIANT [TOKENS]]]]]     (default: Q4_0 2048 5632 2)
 *
 *     up     the rows of active neurons (mul_rows), of as many tokens as are said; "all": all rows, in the same layout
 *     down   the columns of active neurons (KERN_LAYOUT_COLUMNS)
 * against mul_mat with a matrix in panels.  Each token has neurons of its own, by chance.  There are as many
 * matrices as fill 256 MB, so that each comes from memory.
 */
#include <stdio.h>
#include <time.h>

#include "engine/huge.h"
#include "engine/share.h"
#include "engine/workers.h"
#include "kernels/kernels.h"
#include "tests/support/random_blocks.h"

enum { ROUNDS = 5, MAX_TOKENS = 64, MEGABYTES = 256 };
static const double densities[] = { 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05 };
enum { N_DENSITIES = sizeof(densities) / sizeof(densities[0]) };
static const uint32_t token_counts[] = { 1, 2, 4, 8, 16, 32, MAX_TOKENS };
enum { N_COUNTS = sizeof(token_counts) / sizeof(token_counts[0]) };

/* Copies of one matrix, one after another. */
struct copies {
    struct kern_matrix w;
    size_t bytes;
};

struct bench {
    const struct kern_table *k;
    struct workers *workers;
    enum kern_type type;
    uint32_t n_embd, n_ff, n_copies;
    struct copies up_rows, up_panels, down_panels, down_columns;
    struct kern_act in;                  /* [MAX_TOKENS][n_embd] */
    struct kern_act hidden[N_DENSITIES]; /* [MAX_TOKENS][n_ff] */
    uint32_t *active;                    /* [MAX_TOKENS][n_ff] neurons of each token */
    uint32_t *first; /* [MAX_TOKENS][n_ff / KERN_TILE_ROWS + 1] of them, by tile */
    float *y;
};

struct job {
    const struct bench *b;
    const struct copies *from;
    const struct kern_act *act;
    uint32_t n_tokens, copy, unit;
    struct share share;
};

static struct copies make_copies(const struct bench *b, const struct kern_matrix *rows,
                                 enum kern_layout layout)
{
    struct copies c = { .w = *rows };
    uint32_t n = kern_layout_rows(layout);
    c.w.layout = layout;
    c.bytes = (kern_matrix_bytes(&c.w) + 4095) / 4096 * 4096;
    uint8_t *data = huge_alloc(b->n_copies * c.bytes);
    if (layout == KERN_LAYOUT_ROWS)
        memcpy(data, rows->data, kern_matrix_bytes(rows));
    else
        kern_pack(rows, layout, 0, (rows->n_rows + n - 1) / n, data);
    for (uint32_t i = 1; i < b->n_copies; i++)
        memcpy(data + i * c.bytes, data, c.bytes);
    c.w.data = data;
    return c;
}

static struct kern_matrix random_matrix(enum kern_type type, uint32_t n_rows, uint32_t n_cols)
{
    return (struct kern_matrix){ .data = random_rows(type, n_rows, n_cols, n_rows),
                                 .type = type,
                                 .n_rows = n_rows,
                                 .n_cols = n_cols,
                                 .row_bytes = random_row_bytes(type, n_cols) };
}

static void make_hidden(struct bench *b, uint32_t i)
{
    size_t n = (size_t)MAX_TOKENS * b->n_ff;
    float *x = random_floats(n, 5), *dice = random_floats(n, 6 + i);
    for (size_t j = 0; j < n; j++)
        x[j] = (dice[j] + 2) / 4 < (float)densities[i] ? x[j] + 4 : 0;
    random_act_init(&b->hidden[i], MAX_TOKENS, b->n_ff);
    random_act_quantise(b->k, x, &b->hidden[i], MAX_TOKENS);
    free(x);
    free(dice);
}

static void bench_init(struct bench *b)
{
    struct kern_matrix up = random_matrix(b->type, b->n_ff, b->n_embd);
    struct kern_matrix down = random_matrix(b->type, b->n_embd, b->n_ff);
    b->n_copies = (uint32_t)(((size_t)MEGABYTES << 20) / kern_matrix_bytes(&up)) + 1;
    b->up_rows = make_copies(b, &up, KERN_LAYOUT_ROWS);
    b->up_panels = make_copies(b, &up, KERN_LAYOUT_PANELS);
    b->down_panels = make_copies(b, &down, KERN_LAYOUT_PANELS);
    b->down_columns = make_copies(b, &down, KERN_LAYOUT_COLUMNS);
    float *x = random_floats((size_t)MAX_TOKENS * b->n_embd, 4);
    random_act_init(&b->in, MAX_TOKENS, b->n_embd);
    random_act_quantise(b->k, x, &b->in, MAX_TOKENS);
    for (uint32_t i = 0; i < N_DENSITIES; i++)
        make_hidden(b, i);
    b->active = malloc((size_t)MAX_TOKENS * b->n_ff * sizeof(*b->active));
    b->first = malloc((size_t)MAX_TOKENS * (b->n_ff / KERN_TILE_ROWS + 1) * sizeof(*b->first));
    b->y = malloc((size_t)MAX_TOKENS * (b->n_ff + b->n_embd) * sizeof(*b->y));
    free((void *)(uintptr_t)up.data);
    free((void *)(uintptr_t)down.data);
    free(x);
}

static struct kern_matrix copy_of(const struct job *job)
{
    struct kern_matrix w = job->from->w;
    w.data = (const uint8_t *)w.data + job->copy * job->from->bytes;
    return w;
}

static void all_item(void *ctx, uint32_t item)
{
    const struct job *job = ctx;
    struct kern_matrix w = copy_of(job);
    struct kern_input in = { .act = job->act };
    uint32_t from, to;
    share_item(&job->share, item, &from, &to);
    from *= job->unit;
    to = to * job->unit < w.n_rows ? to * job->unit : w.n_rows;
    job->b->k->mul_mat(&w, from, to, &in, 0, job->n_tokens, job->b->y + from, w.n_rows);
}

static void some_item(void *ctx, uint32_t item)
{
    const struct job *job = ctx;
    const struct bench *b = job->b;
    struct kern_matrix w = copy_of(job);
    struct kern_input in = { .act = job->act };
    uint32_t from, to, n_tiles = b->n_ff / KERN_TILE_ROWS;
    share_item(&job->share, item, &from, &to);
    for (uint32_t t = 0; t < job->n_tokens; t++) {
        const uint32_t *first = b->first + (size_t)t * (n_tiles + 1);
        b->k->mul_rows(&w, b->active + (size_t)t * b->n_ff + first[from], first[to] - first[from],
                       &in, t, b->y + (size_t)t * b->n_ff + first[from]);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds for all copies. */
static double sample(struct job *job, void (*item)(void *, uint32_t), uint32_t n, uint32_t unit)
{
    double begin = now();
    job->unit = unit;
    uint32_t n_units = (n + unit - 1) / unit, n_threads = workers_n(job->b->workers);
    job->share = share_out(n_units, n_threads,
                           unit == KERN_COLUMN_ROWS ? (n_units + n_threads - 1) / n_threads : 1);
    for (job->copy = 0; job->copy < job->b->n_copies; job->copy++)
        workers_run(job->b->workers, item, job, share_n_items(&job->share));
    return now() - begin;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof(*v), by_value);
    return v[ROUNDS / 2];
}

static void choose_neurons(struct bench *b, double density)
{
    uint64_t state = 9;
    uint32_t n_tiles = b->n_ff / KERN_TILE_ROWS;
    for (uint32_t t = 0; t < MAX_TOKENS; t++) {
        uint32_t n = 0, *active = b->active + (size_t)t * b->n_ff;
        uint32_t *first = b->first + (size_t)t * (n_tiles + 1);
        for (uint32_t i = 0; i < b->n_ff; i++) {
            if (i % KERN_TILE_ROWS == 0)
                first[i / KERN_TILE_ROWS] = n;
            if (((double)random_float(&state) + 1) / 2 < density)
                active[n++] = i;
        }
        first[n_tiles] = n;
    }
}

/* item: of the rows or neurons in `from`. */
static double up_share(struct bench *b, const struct copies *from, void (*item)(void *, uint32_t),
                       uint32_t n_tokens)
{
    struct job all = { .b = b, .from = &b->up_panels, .act = &b->in, .n_tokens = n_tokens };
    struct job some = { .b = b, .from = from, .act = &b->in, .n_tokens = n_tokens };
    double share[ROUNDS];
    for (uint32_t i = 0; i < ROUNDS; i++)
        share[i] = sample(&some, item, b->n_ff, KERN_TILE_ROWS) /
                   sample(&all, all_item, b->n_ff, KERN_TILE_ROWS);
    return median(share);
}

static double down_share(struct bench *b, uint32_t density, uint32_t n_tokens)
{
    struct job all = { .b = b, .from = &b->down_panels, .act = &b->hidden[density] };
    struct job some = { .b = b, .from = &b->down_columns, .act = &b->hidden[density] };
    double share[ROUNDS];
    all.n_tokens = some.n_tokens = n_tokens;
    for (uint32_t i = 0; i < ROUNDS; i++)
        share[i] = sample(&some, all_item, b->n_embd, KERN_COLUMN_ROWS) /
                   sample(&all, all_item, b->n_embd, KERN_TILE_ROWS);
    return median(share);
}

static enum kern_type type_of(const char *name)
{
    for (uint32_t t = 0; t < KERN_N_TYPES; t++)
        if (strcmp(kern_type_info(t)->name, name) == 0 && kern_type_is_quantised(t))
            return t;
    fprintf(stderr, "bench_sparse: %s is no quantised type\n", name);
    exit(2);
}

static void print_up(struct bench *b, uint32_t n_tokens)
{
    printf("\nup   %2u  ", n_tokens);
    for (uint32_t i = 0; i < N_DENSITIES; i++) {
        choose_neurons(b, densities[i]);
        printf("%6.2f", up_share(b, &b->up_rows, some_item, n_tokens));
    }
    printf("%6.2f", up_share(b, &b->up_rows, all_item, n_tokens));
    fflush(stdout);
}

static void print_down(struct bench *b, uint32_t n_tokens)
{
    printf("\ndown %2u  ", n_tokens);
    for (uint32_t i = 0; i < N_DENSITIES; i++)
        printf("%6.2f", down_share(b, i, n_tokens));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct bench b = { .type = type_of(argc > 1 ? argv[1] : "Q4_0"), .n_embd = 2048, .n_ff = 5632 };
    struct engine_err err;
    uint32_t n_threads = argc > 4 ? (uint32_t)atoi(argv[4]) : 2;
    uint32_t only = argc > 6 ? (uint32_t)atoi(argv[6]) : 0; /* tokens */
    if (argc > 3) {
        b.n_embd = (uint32_t)atoi(argv[2]);
        b.n_ff = (uint32_t)atoi(argv[3]);
    }
    b.k = kern_select(argc > 5 ? argv[5] : NULL);
    if (!b.k || b.n_embd % 256 || b.n_ff % 256 || !b.n_embd || !b.n_ff ||
        workers_open(&b.workers, n_threads, false, &err) != 0) {
        fprintf(stderr,
                "bench_sparse: no such variant here, or sizes that are no multiples of 256\n");
        return 2;
    }
    bench_init(&b);
    printf("%s, %u x %u, %s, %u threads: time as a share of that of all\ndensity  ",
           kern_type_info(b.type)->name, b.n_embd, b.n_ff, b.k->name, n_threads);
    for (uint32_t i = 0; i < N_DENSITIES; i++)
        printf("%6.2f", densities[i]);
    printf("   all");
    for (uint32_t t = 0; t < N_COUNTS; t++)
        if (!only || only == token_counts[t])
            print_up(&b, token_counts[t]);
    for (uint32_t t = 0; t < N_COUNTS; t++)
        if (!only || only == token_counts[t])
            print_down(&b, token_counts[t]);
    putchar('\n');
    workers_close(b.workers);
    return 0;
}
