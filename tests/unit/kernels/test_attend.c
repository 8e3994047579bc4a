/* SPDX-License-Identifier: Apache-2.0
 *
 * test_attend.c - attention over pages: every variant gives the bits of ref, ref agrees with the
 * textbook formula, and what a query does not see is never read.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/random_blocks.h"

enum { PAGE = 64, N_TOKENS = 1500, N_Q = 7, MAX_PAGES = KERN_ATTN_ITEM / PAGE };

/* Keys and values of N_TOKENS in separate pages; unwritten slots hold NaN. */
struct cache {
    uint32_t dim;
    bool wide;
    float *k, *v;
    void *page[(N_TOKENS + PAGE - 1) / PAGE];
};

static void cache_init(struct cache *c, uint32_t dim, bool wide)
{
    c->wide = wide;
    c->dim = dim;
    c->k = random_floats((size_t)N_TOKENS * dim, 1);
    c->v = random_floats((size_t)N_TOKENS * dim, 2);
    for (uint32_t p = 0; p * PAGE < N_TOKENS; p++) {
        c->page[p] = malloc((size_t)PAGE * dim * 8);
        memset(c->page[p], 0xff, (size_t)PAGE * dim * 8);
    }
    for (uint32_t t = 0; t < N_TOKENS; t++)
        kern_select("ref")->kv_store(c->page[t / PAGE], wide, PAGE, t % PAGE, dim, c->k + t * dim,
                                     c->v + t * dim);
}

static void cache_fini(struct cache *c)
{
    for (uint32_t p = 0; p * PAGE < N_TOKENS; p++)
        free(c->page[p]);
    free(c->k);
    free(c->v);
}

/* What the items of all queries give; out [N_Q][dim]. */
static void attend_all(const struct kern_table *k, struct cache *c, const float *q,
                       const uint32_t *first, const uint32_t *end, uint32_t n_q, float cap,
                       float *out)
{
    enum { ITEMS = 2 };
    float m[ITEMS][N_Q], l[ITEMS][N_Q];
    float *o = malloc(sizeof(float) * ITEMS * N_Q * c->dim);
    for (uint32_t item = 0; item < ITEMS; item++) {
        const void *pages[MAX_PAGES] = { 0 };
        for (uint32_t p = 0; p < MAX_PAGES; p++) {
            uint32_t at = item * MAX_PAGES + p;
            bool seen = false;
            for (uint32_t i = 0; i < n_q; i++)
                seen |= first[i] < (at + 1) * PAGE && end[i] > at * PAGE;
            if (seen)
                pages[p] = c->page[at];
        }
        struct kern_attend a = { .q = q,
                                 .first = first,
                                 .end = end,
                                 .pages = pages,
                                 .n_q = n_q,
                                 .head_dim = c->dim,
                                 .page_tokens = PAGE,
                                 .softcap = cap,
                                 .wide = c->wide,
                                 .item_first = item * KERN_ATTN_ITEM,
                                 .m = m[item],
                                 .l = l[item],
                                 .o = o + (size_t)item * N_Q * c->dim };
        k->attend(&a);
    }
    memset(out, 0, sizeof(float) * n_q * c->dim);
    for (uint32_t i = 0; i < n_q; i++) {
        float *sum = out + (size_t)i * c->dim, max = -INFINITY, total = 0.0f;
        for (uint32_t item = 0; item < ITEMS; item++)
            k->attend_fold(&max, &total, sum, m[item][i], l[item][i],
                           o + ((size_t)item * N_Q + i) * c->dim, c->dim);
        for (uint32_t d = 0; d < c->dim; d++)
            sum[d] /= total;
    }
    free(o);
}

static const uint32_t some_first[N_Q] = { 0, 0, 3, 1000, 1030, 0, 1490 };
static const uint32_t some_end[N_Q] = { 1, 33, 70, 1100, 1499, 1500, 1500 };

Test(attend, every_variant_gives_the_bits_of_ref)
{
    static const uint32_t dims[] = { 16, 64, 80, 128, 256 };
    for (size_t d = 0; d < 5; d++)
        for (int capped = 0; capped < 2; capped++) {
            struct cache c;
            cache_init(&c, dims[d], d % 2);
            float *q = random_floats(N_Q * dims[d], 3);
            float *a = malloc(N_Q * dims[d] * 4), *b = malloc(N_Q * dims[d] * 4);
            float cap = capped ? 5.0f : 0.0f;
            attend_all(kern_select("ref"), &c, q, some_first, some_end, N_Q, cap, a);
            for (uint32_t v = 0; v < kern_n_usable(); v++) {
                attend_all(kern_usable(v), &c, q, some_first, some_end, N_Q, cap, b);
                cr_assert(memcmp(a, b, N_Q * dims[d] * 4) == 0, "%s, head_dim %u",
                          kern_usable(v)->name, dims[d]);
            }
            free(q), free(a), free(b);
            cache_fini(&c);
        }
}

Test(attend, a_query_alone_gets_the_bits_it_gets_in_company)
{
    struct cache c;
    cache_init(&c, 64, false);
    float *q = random_floats(N_Q * 64, 3), all[N_Q * 64], one[64];
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        attend_all(kern_usable(v), &c, q, some_first, some_end, N_Q, 0.0f, all);
        for (uint32_t i = 0; i < N_Q; i++) {
            attend_all(kern_usable(v), &c, q + i * 64, some_first + i, some_end + i, 1, 0.0f, one);
            cr_assert_arr_eq(one, all + i * 64, sizeof(one));
        }
    }
    free(q);
    cache_fini(&c);
}

/* In a step, rows of one sequence sit side by side: what a later one wrote must not reach an
 * earlier. */
Test(attend, a_value_that_is_no_number_reaches_only_who_sees_it)
{
    static const uint32_t first[N_Q] = { 0, 0, 0, 0, 0, 20, 0 };
    static const uint32_t end[N_Q] = { 40, 41, 42, 43, 44, 45, 46 };
    float *q = random_floats(N_Q * 64, 3), all[N_Q * 64];
    for (int wide = 0; wide < 2; wide++) {
        struct cache c;
        cache_init(&c, 64, wide);
        float bad[64];
        for (int i = 0; i < 64; i++)
            bad[i] = i % 2 ? INFINITY : NAN;
        kern_select("ref")->kv_store(c.page[0], wide, PAGE, 42, 64, c.k, bad);
        kern_select("ref")->kv_store(c.page[0], wide, PAGE, 10, 64, c.k, bad);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            attend_all(kern_usable(v), &c, q, first, end, N_Q, 0.0f, all);
            cr_assert(!isfinite(all[0]), "token 10");
            cr_assert(!isfinite(all[5 * 64]), "token 42");
        }
        kern_select("ref")->kv_store(c.page[0], wide, PAGE, 10, 64, c.k, c.v);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            attend_all(kern_usable(v), &c, q, first, end, N_Q, 0.0f, all);
            for (int i = 0; i < N_Q * 64; i++)
                cr_assert_eq(isnan(all[i]) != 0, i / 64 >= 3 && i % 2 == 0, "%s query %d",
                             kern_usable(v)->name, i / 64);
        }
        cache_fini(&c);
    }
    free(q);
}

Test(attend, a_value_beyond_f16_is_stored_as_the_largest)
{
    struct cache c;
    float big[64], q[64] = { 0 }, out[64];
    uint32_t first = 0, end = 1;
    cache_init(&c, 64, false);
    for (int i = 0; i < 64; i++)
        big[i] = i % 2 ? 1e6f : -1e6f;
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        kern_usable(v)->kv_store(c.page[0], false, PAGE, 0, 64, big, big);
        attend_all(kern_usable(v), &c, q, &first, &end, 1, 0.0f, out);
        for (int i = 0; i < 64; i++)
            cr_assert_eq(out[i], i % 2 ? 65504.0f : -65504.0f);
    }
    cache_fini(&c);
}

Test(attend, agrees_with_the_formula)
{
    struct cache c;
    cache_init(&c, 32, false);
    float *q = random_floats(32, 3), out[32];
    uint32_t first = 5, end = 1400;
    attend_all(kern_select("ref"), &c, q, &first, &end, 1, 0.0f, out);
    double sum = 0, o[32] = { 0 };
    for (uint32_t t = first; t < end; t++) {
        double s = 0;
        for (int i = 0; i < 32; i++)
            s += (double)q[i] * (double)c.k[t * 32 + (uint32_t)i];
        sum += exp(s);
        for (int i = 0; i < 32; i++)
            o[i] += exp(s) * (double)c.v[t * 32 + (uint32_t)i];
    }
    for (int i = 0; i < 32; i++) /* F16 keys and values: 11 bits */
        cr_assert_float_eq((double)out[i], o[i] / sum, 4e-3);
    free(q);
    cache_fini(&c);
}

Test(attend_self, every_variant_gives_the_bits_of_ref_and_adds_one_token)
{
    float *q = random_floats(80, 3), *k = random_floats(80, 4), *v = random_floats(80, 5);
    for (int capped = 0; capped < 2; capped++) {
        float m0 = 0.3f, l0 = 2.0f, o0[80];
        for (int i = 0; i < 80; i++)
            o0[i] = (float)i;
        kern_select("ref")->attend_self(q, k, v, capped ? 4.0f : 0.0f, 80, &m0, &l0, o0);
        for (uint32_t u = 0; u < kern_n_usable(); u++) {
            float m = 0.3f, l = 2.0f, o[80];
            for (int i = 0; i < 80; i++)
                o[i] = (float)i;
            kern_usable(u)->attend_self(q, k, v, capped ? 4.0f : 0.0f, 80, &m, &l, o);
            cr_assert(m == m0 && l == l0 && memcmp(o, o0, sizeof(o)) == 0, "%s",
                      kern_usable(u)->name);
        }
        double s = 0;
        for (int i = 0; i < 80; i++)
            s += (double)q[i] * (double)k[i];
        s = capped ? 4 * tanh(s / 4) : s;
        double w = exp(s) / (exp(s) + 2 * exp(0.3));
        cr_assert_float_eq((double)(o0[7] / l0), w * (double)v[7] + (1 - w) * 7 / 2, 1e-4);
    }
    free(q), free(k), free(v);
}
