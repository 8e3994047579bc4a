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

enum {
    TOP_P_FIRST = 256, /* candidates looked at before more are */
    TOP_P_GROWTH = 16,
    DRAW_BLOCK = 1024, /* logits whose mass is computed together */
};

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
    double *mass;           /* [n_blocks of the vocabulary] */
};

static uint32_t n_blocks(uint32_t n_vocab)
{
    return (n_vocab + DRAW_BLOCK - 1) / DRAW_BLOCK;
}

static uint32_t block_end(uint32_t n_vocab, uint32_t block)
{
    uint32_t end = (block + 1) * DRAW_BLOCK;
    return end < n_vocab ? end : n_vocab;
}

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
    s->mass = malloc(n_blocks(n_vocab) * sizeof(*s->mass));
    if (s->logits && s->pool && s->seen && s->count && s->mass)
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
    free(s->mass);
    free(s);
}

uint64_t sampler_bytes(uint32_t n_vocab)
{
    return (uint64_t)n_vocab * (sizeof(float) + sizeof(struct candidate) + sizeof(uint32_t)) +
           n_vocab / 8 + n_blocks(n_vocab) * sizeof(double);
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

/* Higher logits first; ties by lower id, so that the order is one. */
static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
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

/* The k best of all logits, in order, without sorting the others and without memory. */
static void select_best(const struct kern_table *kern, const float *logits, uint32_t n_vocab,
                        struct candidate *heap, uint32_t k)
{
    for (uint32_t i = 0; i < k; i++)
        heap[i] = (struct candidate){ (int32_t)i, logits[i] };
    for (uint32_t i = k / 2; i-- > 0;)
        sift(heap, k, i);
    for (uint32_t i = k; (i = kern->first_above(logits, i, n_vocab, heap[0].logit)) < n_vocab;
         i++) {
        heap[0] = (struct candidate){ (int32_t)i, logits[i] };
        sift(heap, k, 0);
    }
    for (uint32_t n = k; n > 1; n--) { /* the worst goes to the end, again and again */
        struct candidate worst = heap[0];
        heap[0] = heap[n - 1];
        heap[n - 1] = worst;
        sift(heap, n - 1, 0);
    }
}

/* Logits over the temperature, into the sampler's copy. */
static void scale(struct sampler *s, const float *logits, float temperature)
{
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->logits[i] = logits[i] / temperature;
}

static double mass(const struct candidate *c, uint32_t n, float max)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)kern_exp(c[i].logit - max);
    return sum;
}

/* How many sorted candidates it takes to reach a mass; n if all of them do not. */
static uint32_t reach(const struct candidate *c, uint32_t n, float max, double mass)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)kern_exp(c[i].logit - max);
        if (sum >= mass)
            return i + 1;
    }
    return n;
}

/* The smallest set of best tokens whose mass is top_p of `total`: few, mostly, so a few are looked at
 * first. */
static uint32_t keep_top_p(struct sampler *s, const struct kern_table *kern, float top_p, float max,
                           double total)
{
    uint32_t k = TOP_P_FIRST < s->n_vocab ? TOP_P_FIRST : s->n_vocab;
    for (;; k = k < s->n_vocab / TOP_P_GROWTH ? k * TOP_P_GROWTH : s->n_vocab) {
        select_best(kern, s->logits, s->n_vocab, s->pool, k);
        uint32_t n = reach(s->pool, k, max, (double)top_p * total);
        if (n < k || k == s->n_vocab)
            return n;
    }
}

static uint32_t keep_min_p(const struct candidate *c, uint32_t n, float min_p, float max)
{
    uint32_t i = 1;
    while (i < n && kern_exp(c[i].logit - max) >= min_p)
        i++;
    return i;
}

/* Every token that min-p leaves, in the order of the vocabulary. */
static uint32_t gather(struct sampler *s, const struct kern_table *kern, float min_p, float max)
{
    /* Somewhat lower than where exp() reaches min_p: most are passed over without it. */
    float limit = max + logf(min_p) - 0.01f;
    uint32_t n = 0;
    for (uint32_t i = 0; (i = kern->first_above(s->logits, i, s->n_vocab, limit)) < s->n_vocab; i++)
        if (kern_exp(s->logits[i] - max) >= min_p)
            s->pool[n++] = (struct candidate){ (int32_t)i, s->logits[i] };
    return n;
}

/* Fills the pool with what top-k, top-p and min-p leave, in this order; returns how many. */
static uint32_t filter(struct sampler *s, const struct kern_table *kern,
                       const struct engine_sampling *p, float max)
{
    uint32_t n = 0;
    float total;
    if (p->top_k > 0 && (uint32_t)p->top_k < s->n_vocab) {
        n = (uint32_t)p->top_k;
        select_best(kern, s->logits, s->n_vocab, s->pool, n);
        if (p->top_p < 1.0f)
            n = reach(s->pool, n, max, (double)p->top_p * mass(s->pool, n, max));
    } else if (p->top_p < 1.0f) {
        kern->max_sum_exp(s->logits, s->n_vocab, &max, &total);
        n = keep_top_p(s, kern, p->top_p, max, (double)total);
    } else {
        return gather(s, kern, p->min_p, max);
    }
    return p->min_p > 0.0f ? keep_min_p(s->pool, n, p->min_p, max) : n;
}

static int32_t draw(const struct candidate *c, uint32_t n, float max, double uniform)
{
    double total = mass(c, n, max), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)kern_exp(c[i].logit - max);
        if (sum > uniform * total)
            return c[i].token;
    }
    return c[n - 1].token;
}

/* Relative to `max`.  Banned tokens are -INFINITY; what is not a number has no mass either. */
static double block_mass(const struct kern_table *kern, const float *logits, uint32_t n, float max)
{
    float block_max, sum;
    kern->max_sum_exp(logits, n, &block_max, &sum);
    if (isfinite(block_max) && isfinite(sum))
        return (double)sum * (double)kern_exp(block_max - max);
    double slow = 0;
    for (uint32_t i = 0; i < n; i++)
        slow += logits[i] > -INFINITY ? (double)kern_exp(logits[i] - max) : 0;
    return slow;
}

/* The token of a block at which the sum, of what is before it, passes the target; the last one if rounding
 * keeps it below. */
static int32_t draw_within(const float *logits, uint32_t begin, uint32_t end, float max, double sum,
                           double target)
{
    uint32_t last = begin;
    for (uint32_t i = begin; i < end; i++) {
        if (!(logits[i] > -INFINITY))
            continue;
        last = i;
        sum += (double)kern_exp(logits[i] - max);
        if (sum > target)
            break;
    }
    return (int32_t)last;
}

/* Of all tokens, none of which is filtered out: first the block, then the token. */
static int32_t draw_any(struct sampler *s, const struct kern_table *kern, float max, double uniform)
{
    double total = 0, sum = 0;
    uint32_t n = n_blocks(s->n_vocab), b = 0, likely = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t begin = i * DRAW_BLOCK;
        s->mass[i] = block_mass(kern, s->logits + begin, block_end(s->n_vocab, i) - begin, max);
        total += s->mass[i];
    }
    for (; b < n && !(sum + s->mass[b] > uniform * total); b++) {
        likely = s->mass[b] > 0 ? b : likely;
        sum += s->mass[b];
    }
    if (b == n) { /* rounding */
        b = likely;
        sum -= s->mass[b];
    }
    return draw_within(s->logits, b * DRAW_BLOCK, block_end(s->n_vocab, b), max, sum,
                       uniform * total);
}

static bool filters(const struct engine_sampling *p, uint32_t n_vocab)
{
    return (p->top_k > 0 && (uint32_t)p->top_k < n_vocab) || p->top_p < 1.0f || p->min_p > 0.0f;
}

static int32_t choose(struct sampler *s, const struct kern_table *kern,
                      const struct engine_sample *job, const float *logits)
{
    const struct engine_sampling *p = job->params;
    int32_t best = (int32_t)kern->max_index(logits, s->n_vocab);
    if (p->temperature <= 0.0f || p->top_k == 1)
        return best;
    scale(s, logits, p->temperature);
    float max = s->logits[best];
    if (!isfinite(max)) /* all banned, overflowed or not a number: the same answer each time */
        return best;
    double uniform = sampler_uniform(p->seed, job->stream, job->position);
    if (!filters(p, s->n_vocab))
        return draw_any(s, kern, max, uniform);
    return draw(s->pool, filter(s, kern, p, max), max, uniform);
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
    select_best(kern, job->logits, s->n_vocab, s->pool, n);
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
        job->token = choose(s, kern, job, logits);
    }
    if (job->n_top >= 0)
        log_probabilities(s, kern, job);
}
