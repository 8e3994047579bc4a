/* SPDX-License-Identifier: Apache-2.0
 *
 * sampler.c - from logits to a token: pure, seeded, the same whatever else runs.
 *
 * The order is that of engine.h.  Random numbers are a hash of (seed, stream, position): a choice
 * does not depend on how many others were made before.
 */
#include "engine/forward/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    int32_t token;
    float logit;
};

struct sampler {
    uint32_t n_vocab;
    float *logits;          /* [n_vocab] the modified copy */
    struct candidate *pool; /* [n_vocab] */
    uint64_t *seen;         /* bitmap of n_vocab */
    uint32_t *count;        /* [n_vocab], all 0 between calls */
};

int sampler_open(struct sampler **out, uint32_t n_vocab)
{
    struct sampler *s = calloc(1, sizeof(*s));
    *out = s;
    if (!s)
        return -1;
    s->n_vocab = n_vocab;
    s->logits = malloc(n_vocab * sizeof(*s->logits));
    s->pool = malloc(n_vocab * sizeof(*s->pool));
    s->seen = calloc((size_t)n_vocab / 64 + 1, sizeof(*s->seen));
    s->count = calloc(n_vocab, sizeof(*s->count));
    if (s->logits && s->pool && s->seen && s->count)
        return 0;
    sampler_close(s);
    *out = NULL;
    return -1;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->logits);
    free(s->pool);
    free(s->seen);
    free(s->count);
    free(s);
}

uint64_t sampler_bytes(uint32_t n_vocab)
{
    return (uint64_t)n_vocab * (sizeof(float) + sizeof(struct candidate) + sizeof(uint32_t)) +
           n_vocab / 8;
}

/* ---- random numbers ---- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double sampler_uniform(uint64_t seed, uint64_t stream, uint32_t position)
{
    uint64_t h = mix(seed + 0x9e3779b97f4a7c15u);
    h = mix(h ^ mix(stream + 0xd1b54a32d192ed03u));
    h = mix(h ^ mix(position + 0x8cb92ba72f3d8dd7u));
    return (double)(h >> 11) * 0x1p-53;
}

/* ---- what changes logits ---- */

static void apply_bias(const struct engine_sample *job, float *logits, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < job->params->n_bias; i++)
        if ((uint32_t)job->params->bias[i].token < n_vocab)
            logits[job->params->bias[i].token] += job->params->bias[i].bias;
    for (uint32_t i = 0; i < job->n_banned; i++)
        if ((uint32_t)job->banned[i] < n_vocab)
            logits[job->banned[i]] = -INFINITY;
}

static bool first_time(uint64_t *seen, int32_t token)
{
    uint64_t bit = 1ull << (token & 63);
    bool first = !(seen[token >> 6] & bit);
    seen[token >> 6] |= bit;
    return first;
}

/* Each token that occurred in the prompt or output, once. */
static void penalise_repeats(struct sampler *s, const struct engine_sample *job, float *logits)
{
    float penalty = job->params->repetition_penalty;
    const int32_t *list[2] = { job->prompt, job->output };
    uint32_t n[2] = { job->n_prompt, job->n_output };
    if (penalty == 1.0f)
        return;
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < n[k]; i++) {
            float *x = &logits[list[k][i]];
            if (first_time(s->seen, list[k][i]))
                *x = *x > 0.0f ? *x / penalty : *x * penalty;
        }
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < n[k]; i++)
            s->seen[list[k][i] >> 6] = 0;
}

static void penalise_frequency(struct sampler *s, const struct engine_sample *job, float *logits)
{
    const struct engine_sampling *p = job->params;
    if (p->frequency_penalty == 0.0f && p->presence_penalty == 0.0f)
        return;
    for (uint32_t i = 0; i < job->n_output; i++)
        s->count[job->output[i]]++;
    for (uint32_t i = 0; i < job->n_output; i++) {
        uint32_t *n = &s->count[job->output[i]];
        if (*n)
            logits[job->output[i]] -= p->frequency_penalty * (float)*n + p->presence_penalty;
        *n = 0;
    }
}

static bool changes_logits(const struct engine_sample *job)
{
    const struct engine_sampling *p = job->params;
    return p->n_bias || job->n_banned || p->repetition_penalty != 1.0f ||
           p->frequency_penalty != 0.0f || p->presence_penalty != 0.0f;
}

/* ---- the choice ---- */

static int32_t best_of(const float *logits, uint32_t n_vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

/* Higher logits first; ties by lower id, so that the order is one. */
static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static int compare(const void *a, const void *b)
{
    return before(a, b) ? -1 : 1;
}

/* A heap of the k best: the worst of them on top. */
static void sift(struct candidate *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t worst = i, child = 2 * i + 1;
        for (uint32_t c = child; c < child + 2 && c < n; c++)
            worst = before(&heap[worst], &heap[c]) ? c : worst;
        if (worst == i)
            return;
        struct candidate t = heap[i];
        heap[i] = heap[worst];
        heap[worst] = t;
        i = worst;
    }
}

/* The k best of all logits, in order. */
static void select_best(const float *logits, uint32_t n_vocab, struct candidate *heap, uint32_t k)
{
    for (uint32_t i = 0; i < k; i++)
        heap[i] = (struct candidate){ (int32_t)i, logits[i] };
    for (uint32_t i = k / 2; i-- > 0;)
        sift(heap, k, i);
    for (uint32_t i = k; i < n_vocab; i++)
        if (logits[i] > heap[0].logit) {
            heap[0] = (struct candidate){ (int32_t)i, logits[i] };
            sift(heap, k, 0);
        }
    qsort(heap, k, sizeof(*heap), compare);
}

/* Candidates that can be chosen at all, best first: top-k, and what min-p leaves. */
static uint32_t gather(struct sampler *s, const struct engine_sampling *p, const float *logits)
{
    float max = logits[best_of(logits, s->n_vocab)];
    float least = -INFINITY;
    uint32_t n = 0;
    if (p->top_k > 0 && (uint32_t)p->top_k < s->n_vocab) {
        select_best(logits, s->n_vocab, s->pool, (uint32_t)p->top_k);
        return (uint32_t)p->top_k;
    }
    if (p->min_p > 0.0f) /* the same test as in keep_min_p, loosened for its rounding */
        least = max + (logf(p->min_p) * p->temperature) - 1e-3f * (1.0f + fabsf(max));
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (logits[i] >= least && logits[i] > -INFINITY)
            s->pool[n++] = (struct candidate){ (int32_t)i, logits[i] };
    return n;
}

static double weight_of(const struct candidate *c, double max, float temperature)
{
    return exp(((double)c->logit - max) / (double)temperature);
}

/* How many of the sorted candidates reach the mass top_p; at least one. */
static uint32_t keep_top_p(const struct candidate *c, uint32_t n, double total, float top_p,
                           float temperature)
{
    double sum = 0, max = (double)c[0].logit;
    for (uint32_t i = 0; i < n; i++) {
        sum += weight_of(&c[i], max, temperature);
        if (sum >= (double)top_p * total)
            return i + 1;
    }
    return n;
}

static uint32_t keep_min_p(const struct candidate *c, uint32_t n, float min_p, float temperature)
{
    double max = (double)c[0].logit;
    uint32_t i = 1;
    while (i < n && weight_of(&c[i], max, temperature) >= (double)min_p)
        i++;
    return i;
}

static double mass(const struct candidate *c, uint32_t n, double max, float temperature)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += weight_of(&c[i], max, temperature);
    return sum;
}

static double max_logit(const struct candidate *c, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        max = c[i].logit > max ? c[i].logit : max;
    return (double)max;
}

static int32_t draw(const struct candidate *c, uint32_t n, double max, float temperature,
                    double uniform)
{
    double target = uniform * mass(c, n, max, temperature), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += weight_of(&c[i], max, temperature);
        if (sum > target)
            return c[i].token;
    }
    return c[n - 1].token;
}

static int32_t choose(struct sampler *s, const struct engine_sample *job, const float *logits)
{
    const struct engine_sampling *p = job->params;
    if (p->temperature <= 0.0f || p->top_k == 1)
        return best_of(logits, s->n_vocab);
    uint32_t n = gather(s, p, logits);
    if (n == 0) /* everything is banned or not a number: still an answer, the same each time */
        return best_of(logits, s->n_vocab);
    bool needs_order = p->top_p < 1.0f || p->min_p > 0.0f;
    if (needs_order)
        qsort(s->pool, n, sizeof(*s->pool), compare);
    double max = max_logit(s->pool, n);
    if (p->top_p < 1.0f)
        n = keep_top_p(s->pool, n, mass(s->pool, n, max, p->temperature), p->top_p, p->temperature);
    if (p->min_p > 0.0f)
        n = keep_min_p(s->pool, n, p->min_p, p->temperature);
    return draw(s->pool, n, max, p->temperature,
                sampler_uniform(p->seed, job->stream, job->position));
}

/* ---- log-probabilities ---- */

static void log_probabilities(struct sampler *s, const struct kern_table *kern,
                              struct engine_sample *job)
{
    float max, sum;
    kern->max_sum_exp(job->logits, s->n_vocab, &max, &sum);
    float log_total = max + logf(sum);
    uint32_t n = (uint32_t)job->n_top < s->n_vocab ? (uint32_t)job->n_top : s->n_vocab;
    job->logprob = job->logits[job->token] - log_total;
    if (n == 0)
        return;
    select_best(job->logits, s->n_vocab, s->pool, n);
    for (uint32_t i = 0; i < n; i++)
        job->top[i] = (struct engine_logprob){ s->pool[i].token, s->pool[i].logit - log_total };
}

void sampler_run(struct sampler *s, const struct kern_table *kern, struct engine_sample *job)
{
    const float *logits = job->logits;
    job->token = job->forced;
    if (job->forced < 0) {
        if (changes_logits(job)) {
            memcpy(s->logits, job->logits, s->n_vocab * sizeof(*s->logits));
            apply_bias(job, s->logits, s->n_vocab);
            penalise_repeats(s, job, s->logits);
            penalise_frequency(s, job, s->logits);
            logits = s->logits;
        }
        job->token = choose(s, job, logits);
    }
    if (job->n_top >= 0)
        log_probabilities(s, kern, job);
}
