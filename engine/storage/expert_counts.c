/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_counts.c - two copies: one that is counted in, and one behind a lock.
 */
#include "engine/storage/expert_counts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct copy {
    struct engine_expert_stats all;
    struct engine_expert_layer *layers; /* [n_layers] */
};

struct expert_counts {
    uint32_t n_layers;
    struct copy own;
    pthread_mutex_t lock;
    struct copy published; /* under the lock */
};

const double engine_read_bounds[ENGINE_READ_BOUNDS] = { 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01,
                                                        0.02,   0.05,   0.1,   0.5,   1,     5 };

struct expert_counts *expert_counts_open(uint32_t n_layers)
{
    struct expert_counts *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    c->n_layers = n_layers;
    c->own.layers = calloc(n_layers, sizeof(*c->own.layers));
    c->published.layers = calloc(n_layers, sizeof(*c->published.layers));
    if (c->own.layers && c->published.layers)
        return c;
    expert_counts_close(c);
    return NULL;
}

void expert_counts_close(struct expert_counts *c)
{
    if (!c)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c->own.layers);
    free(c->published.layers);
    free(c);
}

struct engine_expert_layer *expert_counts_layers(struct expert_counts *c)
{
    return c->own.layers;
}

struct engine_expert_stats *expert_counts_all(struct expert_counts *c)
{
    return &c->own.all;
}

static void sum_layers(struct expert_counts *c)
{
    struct engine_expert_stats *all = &c->own.all;
    all->sum = (struct engine_expert_layer){ 0 };
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct engine_expert_layer *layer = &c->own.layers[l];
        all->sum.n_resident += layer->n_resident;
        all->sum.n_hits += layer->n_hits;
        all->sum.n_foreseen += layer->n_foreseen;
        all->sum.n_misses += layer->n_misses;
        all->sum.n_replaced += layer->n_replaced;
        all->sum.n_unused += layer->n_unused;
        all->sum.n_right += layer->n_right;
        all->sum.n_wrong += layer->n_wrong;
    }
}

void expert_counts_publish(struct expert_counts *c)
{
    sum_layers(c);
    pthread_mutex_lock(&c->lock);
    c->published.all = c->own.all;
    memcpy(c->published.layers, c->own.layers, c->n_layers * sizeof(*c->own.layers));
    pthread_mutex_unlock(&c->lock);
}

void expert_counts_read(struct expert_counts *c, struct engine_expert_stats *all,
                        struct engine_expert_layer *layers)
{
    pthread_mutex_lock(&c->lock);
    *all = c->published.all;
    if (layers)
        memcpy(layers, c->published.layers, c->n_layers * sizeof(*layers));
    pthread_mutex_unlock(&c->lock);
}
