/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sampler.c - choices from logits.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine/forward/sampler.h"

enum { V = 8 };

static const float logits[V] = { 1.0f, 3.0f, 2.0f, -1.0f, 2.9f, 0.0f, 2.0f, -4.0f };

static const struct engine_sampling plain = {
    .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .seed = 7
};

static struct engine_sample job_of(const struct engine_sampling *p)
{
    return (struct engine_sample){ .logits = logits, .params = p, .forced = -1, .n_top = -1 };
}

/* Shares of each token over many positions. */
static void shares(const struct engine_sampling *p, double *share)
{
    enum { N = 20000 };
    struct sampler *s;
    const struct kern_table *kern = kern_select("ref");
    cr_assert_eq(sampler_open(&s, V), 0);
    memset(share, 0, V * sizeof(*share));
    for (uint32_t i = 0; i < N; i++) {
        struct engine_sample job = job_of(p);
        job.position = i;
        sampler_run(s, kern, &job);
        share[job.token] += 1.0 / N;
    }
    sampler_close(s);
}

static int32_t choose(struct engine_sample *job)
{
    struct sampler *s;
    cr_assert_eq(sampler_open(&s, V), 0);
    sampler_run(s, kern_select("ref"), job);
    sampler_close(s);
    return job->token;
}

Test(sampler, greedy_takes_the_largest_and_ties_the_lowest_id)
{
    struct engine_sampling p = plain;
    p.temperature = 0.0f;
    struct engine_sample job = job_of(&p);
    cr_assert_eq(choose(&job), 1);
    float tie[V] = { 0, 5, 5, 5, 0, 0, 0, 0 };
    job.logits = tie;
    cr_assert_eq(choose(&job), 1);
}

Test(sampler, shares_follow_the_softmax)
{
    double share[V], sum = 0;
    shares(&plain, share);
    for (int i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    for (int i = 0; i < V; i++)
        cr_assert_float_eq(share[i], exp((double)logits[i]) / sum, 0.015);
}

Test(sampler, temperature_sharpens)
{
    struct engine_sampling p = plain;
    double share[V], sum = 0;
    p.temperature = 0.5f;
    shares(&p, share);
    for (int i = 0; i < V; i++)
        sum += exp(2 * (double)logits[i]);
    cr_assert_float_eq(share[1], exp(6) / sum, 0.015);
}

Test(sampler, top_k_keeps_k)
{
    struct engine_sampling p = plain;
    double share[V];
    p.top_k = 2;
    shares(&p, share);
    cr_assert_float_eq(share[1] + share[4], 1.0, 1e-9);
    cr_assert_gt(share[4], 0.4);
    p.top_k = 1;
    shares(&p, share);
    cr_assert_float_eq(share[1], 1.0, 1e-9);
    p.top_k = 3; /* tokens 2 and 6 tie for the third place: the lower id */
    shares(&p, share);
    cr_assert_gt(share[2], 0.1);
    cr_assert_eq(share[6], 0.0);
}

Test(sampler, top_p_keeps_the_smallest_set_that_reaches_it)
{
    struct engine_sampling p = plain;
    double share[V];
    p.top_p = 0.0f;
    shares(&p, share);
    cr_assert_float_eq(share[1], 1.0, 1e-9);
    p.top_p = 0.6f; /* softmax: 1 has 0.37, 4 has 0.33 */
    shares(&p, share);
    cr_assert_float_eq(share[1] + share[4], 1.0, 1e-9);
    cr_assert_gt(share[4], 0.4);
}

Test(sampler, min_p_drops_what_is_far_below_the_best)
{
    struct engine_sampling p = plain;
    double share[V];
    p.min_p = 0.3f; /* exp(-1) = 0.37 stays, exp(-2) goes */
    shares(&p, share);
    cr_assert_eq(share[0] + share[3] + share[5] + share[7], 0.0);
    cr_assert_gt(share[2], 0.05);
}

/* top_p is of the mass of all tokens, whatever min_p will drop: with and without top_k alike. */
Test(sampler, top_p_comes_before_min_p)
{
    struct engine_sampling p = plain;
    double without[V], with[V];
    p.top_p = 0.85f; /* 1 and 4 have 0.37 and 0.33, 2 and 6 have 0.136 each: 1, 4, 2 and 6 */
    p.min_p = 0.3f;
    shares(&p, without);
    p.top_k = V - 1;
    shares(&p, with);
    for (int i = 0; i < V; i++)
        cr_assert_float_eq(without[i], with[i], 1e-9);
    cr_assert_gt(without[6], 0.05);
}

Test(sampler, a_wide_top_p_looks_at_all_it_needs)
{
    enum { WIDE = 5000 };
    static float flat[WIDE];
    struct sampler *s;
    struct engine_sampling p = plain;
    uint32_t beyond = 0;
    p.top_p = 0.9f;
    for (int i = 0; i < WIDE; i++)
        flat[i] = (float)-i * 1e-5f;
    cr_assert_eq(sampler_open(&s, WIDE), 0);
    for (uint32_t i = 0; i < 500; i++) {
        struct engine_sample job = job_of(&p);
        job.logits = flat;
        job.position = i;
        sampler_run(s, kern_select("ref"), &job);
        cr_assert_lt(job.token, WIDE * 91 / 100);
        beyond += job.token > WIDE / 2;
    }
    cr_assert_gt(beyond, 150);
    sampler_close(s);
}

enum { LARGE = 5000 };
#ifdef __SANITIZE_ADDRESS__
enum { DRAWS_OF_ALL = 100 }; /* a draw takes thirty times as long: then the variants take turns */
#else
enum { DRAWS_OF_ALL = INT32_MAX };
#endif

/* Five blocks of a thousand or so, of which the second is banned and the fourth has most of the mass. */
static void fill_large(float *x)
{
    for (int i = 0; i < LARGE; i++)
        x[i] = i / 1024 == 1 ? -INFINITY : (float)sin(i) + (i / 1024 == 3 ? 2.0f : 0.0f);
    x[100] = NAN;
}

Test(sampler, shares_of_a_large_vocabulary_follow_the_softmax_in_every_variant)
{
    enum { N = 20000, PARTS = 50 };
    static float x[LARGE];
    static double expected[PARTS], found[PARTS];
    double sum = 0;
    struct sampler *s;
    fill_large(x);
    for (int i = 0; i < LARGE; i++) {
        double e = x[i] > -INFINITY ? exp((double)x[i]) : 0;
        expected[i * PARTS / LARGE] += e;
        sum += e;
    }
    cr_assert_eq(sampler_open(&s, LARGE), 0);
    for (uint32_t n = 0; n < N; n++) {
        int32_t token = -1;
        for (uint32_t k = 0; k < kern_n_usable(); k++) {
            struct engine_sample job = job_of(&plain);
            if (n >= DRAWS_OF_ALL && k != n % kern_n_usable())
                continue;
            job.logits = x;
            job.position = n;
            sampler_run(s, kern_usable(k), &job);
            cr_assert(token < 0 || token == job.token, "%s", kern_usable(k)->name);
            token = job.token;
        }
        cr_assert(x[token] > -INFINITY);
        found[token * PARTS / LARGE] += 1.0 / N;
    }
    for (int i = 0; i < PARTS; i++)
        cr_expect_float_eq(found[i], expected[i] / sum, 0.006, "part %d", i);
    sampler_close(s);
}

Test(sampler, what_is_not_a_number_is_never_chosen)
{
    struct engine_sampling p = plain;
    float odd[V] = { NAN, 1.0f, 2.0f, NAN, 0.0f, 0.0f, 0.0f, 0.0f };
    struct engine_sample job = job_of(&p);
    p.temperature = 0.0f;
    job.logits = odd;
    cr_assert_eq(choose(&job), 2);
    odd[5] = INFINITY;
    cr_assert_eq(choose(&job), 5);
    p.temperature = 1.0f;
    cr_assert_eq(choose(&job), 5);
}

Test(sampler, a_banned_token_is_never_chosen)
{
    struct engine_sampling p = plain;
    static const struct engine_logit_bias bias[] = { { 2, -INFINITY }, { 6, 50.0f } };
    static const int32_t banned[] = { 6, 1 };
    struct engine_sample job;
    p.bias = bias;
    p.n_bias = 2;
    for (uint32_t i = 0; i < 300; i++) {
        job = job_of(&p);
        job.position = i;
        job.banned = banned;
        job.n_banned = 2;
        int32_t t = choose(&job);
        cr_assert(t != 1 && t != 2 && t != 6);
    }
    job = job_of(&p);
    cr_assert_eq(choose(&job), 6);
}

Test(sampler, everything_banned_still_gives_a_token)
{
    static const int32_t all[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    struct engine_sample job = job_of(&plain);
    job.banned = all;
    job.n_banned = V;
    cr_assert_eq(choose(&job), 0);
}

Test(sampler, penalties_lower_what_occurred)
{
    struct engine_sampling p = plain;
    static const int32_t prompt[] = { 1, 1 }, output[] = { 4, 4, 4 };
    p.temperature = 0.0f;
    struct engine_sample job = job_of(&p);
    job.prompt = prompt;
    job.n_prompt = 2;
    job.output = output;
    job.n_output = 3;
    p.repetition_penalty = 2.0f; /* 1: 1.5, 4: 1.45; 2 is left with 2.0 */
    cr_assert_eq(choose(&job), 2);
    p.repetition_penalty = 1.0f;
    p.presence_penalty = 0.5f; /* only the output: 4 falls to 2.4 */
    cr_assert_eq(choose(&job), 1);
    static const int32_t out1[] = { 1 };
    job.output = out1;
    job.n_output = 1;
    p.presence_penalty = 0.0f;
    p.frequency_penalty = 0.2f; /* 1 falls to 2.8 */
    cr_assert_eq(choose(&job), 4);
    p.frequency_penalty = 0.05f;
    cr_assert_eq(choose(&job), 1);
}

Test(sampler, a_choice_depends_on_seed_stream_and_position_alone)
{
    struct engine_sampling p = plain;
    int differ[3] = { 0 };
    for (uint32_t i = 0; i < 200; i++) {
        struct engine_sample a = job_of(&p), b = a;
        a.position = b.position = i;
        a.stream = b.stream = 3;
        cr_assert_eq(choose(&a), choose(&b));
        b.stream = 4;
        differ[0] += choose(&b) != a.token;
        b.stream = 3;
        b.position = i + 1000;
        differ[1] += choose(&b) != a.token;
        b.position = i;
        p.seed = 8;
        differ[2] += choose(&b) != a.token;
        p.seed = 7;
    }
    for (int i = 0; i < 3; i++)
        cr_assert_gt(differ[i], 60);
}

Test(sampler, uniform_numbers_fill_the_interval)
{
    double sum = 0, low = 1, high = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        double u = sampler_uniform(1, 2, i);
        sum += u;
        low = u < low ? u : low;
        high = u > high ? u : high;
    }
    cr_assert_float_eq(sum / 100000, 0.5, 0.005);
    cr_assert(low >= 0 && low < 1e-3 && high < 1 && high > 0.999);
}

Test(logprobs, are_the_log_softmax_of_the_unmodified_logits)
{
    struct engine_sampling p = plain;
    static const struct engine_logit_bias bias[] = { { 7, 100.0f } };
    double sum = 0;
    p.bias = bias;
    p.n_bias = 1;
    p.temperature = 0.1f;
    struct engine_sample job = job_of(&p);
    job.n_top = 3;
    cr_assert_eq(choose(&job), 7);
    for (int i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    cr_assert_float_eq((double)job.logprob, -4 - log(sum), 1e-5);
    cr_assert_eq(job.top[0].token, 1);
    cr_assert_eq(job.top[1].token, 4);
    cr_assert_eq(job.top[2].token, 2);
    cr_assert_float_eq((double)job.top[0].logprob, 3 - log(sum), 1e-5);
}

Test(logprobs, of_a_forced_token)
{
    struct engine_sample job = job_of(&plain);
    job.forced = 5;
    job.n_top = 0;
    cr_assert_eq(choose(&job), 5);
    cr_assert(job.logprob < 0);
}
