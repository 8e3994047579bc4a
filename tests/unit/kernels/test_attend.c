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

/* N_Q: one more than any kernel calls few. */
enum { PAGE = 64, N_TOKENS = 1500, N_Q = 9, MAX_PAGES = KERN_ATTN_ITEM / PAGE };

/* Keys and values of N_TOKENS in separate pages; unwritten slots hold NaN. */
struct cache {
    uint32_t dim;
    enum kern_kv kv;
    float *k, *v;
    void *page[(N_TOKENS + PAGE - 1) / PAGE];
};

/* Pages of Q8 are made of whole ones; those at the end repeat the first tokens. */
static void seal_pages(struct cache *c)
{
    uint8_t *part = malloc(kern_kv_bytes(KERN_KV_F16, PAGE, c->dim));
    const void *parts[] = { part };
    for (uint32_t p = 0; p * PAGE < N_TOKENS; p++) {
        for (uint32_t t = p * PAGE; t < (p + 1) * PAGE; t++)
            kern_select("ref")->kv_store(part, KERN_KV_F16, PAGE, t % PAGE, 1, c->dim,
                                         c->k + t % N_TOKENS * c->dim, c->v + t % N_TOKENS * c->dim,
                                         0);
        kern_select("ref")->kv_seal(c->page[p], PAGE, parts, PAGE, c->dim);
    }
    free(part);
}

static void cache_init(struct cache *c, uint32_t dim, enum kern_kv kv)
{
    c->kv = kv;
    c->dim = dim;
    c->k = random_floats((size_t)N_TOKENS * dim, 1);
    c->v = random_floats((size_t)N_TOKENS * dim, 2);
    for (uint32_t p = 0; p * PAGE < N_TOKENS; p++) {
        c->page[p] = malloc((size_t)PAGE * dim * 8);
        memset(c->page[p], 0xff, (size_t)PAGE * dim * 8);
    }
    if (kv == KERN_KV_Q8)
        seal_pages(c);
    for (uint32_t t = 0; t < N_TOKENS && kv != KERN_KV_Q8; t++)
        kern_select("ref")->kv_store(c->page[t / PAGE], kv, PAGE, t % PAGE, 1, dim, c->k + t * dim,
                                     c->v + t * dim, 0);
}

static void cache_fini(struct cache *c)
{
    for (uint32_t p = 0; p * PAGE < N_TOKENS; p++)
        free(c->page[p]);
    free(c->k);
    free(c->v);
}

/* What the items of all queries give; out [n_q][dim]. */
static void attend_all(const struct kern_table *k, struct cache *c, const float *q,
                       const uint32_t *first, const uint32_t *end, uint32_t n_q, float cap,
                       float *out)
{
    enum { ITEMS = 2 };
    float m[ITEMS][KERN_ATTN_MAX_QUERIES], l[ITEMS][KERN_ATTN_MAX_QUERIES];
    float *o = malloc(sizeof(float) * ITEMS * n_q * c->dim);
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
                                 .kv = c->kv,
                                 .item_first = item * KERN_ATTN_ITEM,
                                 .m = m[item],
                                 .l = l[item],
                                 .o = o + (size_t)item * n_q * c->dim };
        k->attend(&a);
    }
    memset(out, 0, sizeof(float) * n_q * c->dim);
    for (uint32_t i = 0; i < n_q; i++) {
        float *sum = out + (size_t)i * c->dim, max = -INFINITY, total = 0.0f;
        for (uint32_t item = 0; item < ITEMS; item++)
            k->attend_fold(&max, &total, sum, m[item][i], l[item][i],
                           o + ((size_t)item * n_q + i) * c->dim, c->dim);
        for (uint32_t d = 0; d < c->dim; d++)
            sum[d] /= total;
    }
    free(o);
}

/* The first one sees all, so that none is between what others see and seen by nobody. */
static const uint32_t some_first[N_Q] = { 0, 0, 0, 3, 1000, 1030, 1490, 0, 7 };
static const uint32_t some_end[N_Q] = { 1500, 1, 33, 70, 1100, 1499, 1500, 900, 1024 };

static const enum kern_kv kinds[] = { KERN_KV_F16, KERN_KV_F32, KERN_KV_Q8 };

Test(attend, every_variant_gives_the_bits_of_ref)
{
    static const uint32_t dims[] = { 16, 64, 80, 128, 256 };
    for (size_t d = 0; d < 5; d++)
        for (int i = 0; i < 6; i++) {
            struct cache c;
            cache_init(&c, dims[d], kinds[i / 2]);
            float *q = random_floats(N_Q * dims[d], 3);
            float *a = malloc(N_Q * dims[d] * 4), *b = malloc(N_Q * dims[d] * 4);
            float cap = i % 2 ? 5.0f : 0.0f;
            attend_all(kern_select("ref"), &c, q, some_first, some_end, N_Q, cap, a);
            for (uint32_t v = 0; v < kern_n_usable(); v++)
                for (uint32_t n = 1; n <= N_Q; n++) {
                    attend_all(kern_usable(v), &c, q, some_first, some_end, n, cap, b);
                    cr_assert(memcmp(a, b, n * dims[d] * 4) == 0,
                              "%s, kind %d, head_dim %u, %u queries", kern_usable(v)->name,
                              kinds[i / 2], dims[d], n);
                }
            free(q), free(a), free(b);
            cache_fini(&c);
        }
}

/* As a prompt has them: three heads of adjacent rows, behind a window or not, before and across the
 * border of two items; some see nothing. */
static void make_prompt_queries(uint32_t row0, uint32_t window, uint32_t n_q, uint32_t *first,
                                uint32_t *end)
{
    for (uint32_t i = 0; i < n_q; i++) {
        end[i] = row0 + i / 3;
        first[i] = window && end[i] > window ? end[i] - window : 0;
        if (i % 17 == 16)
            first[i] = end[i];
    }
}

static void check_prompt_queries(struct cache *c, uint32_t row0, uint32_t window, uint32_t n_q)
{
    uint32_t first[KERN_ATTN_MAX_QUERIES], end[KERN_ATTN_MAX_QUERIES];
    size_t n = (size_t)n_q * c->dim;
    float *q = random_floats(n, 3), *a = malloc(n * sizeof(*a)), *b = malloc(n * sizeof(*b));
    make_prompt_queries(row0, window, n_q, first, end);
    attend_all(kern_select("ref"), c, q, first, end, n_q, 0.0f, a);
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        attend_all(kern_usable(v), c, q, first, end, n_q, 0.0f, b);
        cr_assert(memcmp(a, b, n * sizeof(*a)) == 0,
                  "%s, kind %d, head_dim %u, %u queries at %u, window %u", kern_usable(v)->name,
                  c->kv, c->dim, n_q, row0, window);
    }
    free(q), free(a), free(b);
}

Test(attend, many_queries_get_the_bits_of_ref)
{
    enum { MANY = KERN_ATTN_MAX_QUERIES };
    static const struct {
        uint32_t dim;
        enum kern_kv kv;
    } caches[] = { { 16, KERN_KV_F16 },
                   { 80, KERN_KV_F16 },
                   { 256, KERN_KV_F16 },
                   { 64, KERN_KV_F32 },
                   { 64, KERN_KV_Q8 } };
    for (size_t i = 0; i < sizeof(caches) / sizeof(caches[0]); i++) {
        struct cache c;
        cache_init(&c, caches[i].dim, caches[i].kv);
        check_prompt_queries(&c, 0, 0, MANY);
        check_prompt_queries(&c, 50, 0, 13);
        check_prompt_queries(&c, 300, 40, MANY - 1);
        check_prompt_queries(&c, 1015, 40, 31);
        check_prompt_queries(&c, 1020, 0, 20);
        cache_fini(&c);
    }
}

Test(attend, a_query_alone_gets_the_bits_it_gets_in_company)
{
    float *q = random_floats(N_Q * 64, 3), all[N_Q * 64], one[64];
    for (int kind = 0; kind < 3; kind++) {
        struct cache c;
        cache_init(&c, 64, kinds[kind]);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            attend_all(kern_usable(v), &c, q, some_first, some_end, N_Q, 0.0f, all);
            for (uint32_t i = 0; i < N_Q; i++) {
                attend_all(kern_usable(v), &c, q + i * 64, some_first + i, some_end + i, 1, 0.0f,
                           one);
                cr_assert_arr_eq(one, all + i * 64, sizeof(one));
            }
        }
        cache_fini(&c);
    }
    free(q);
}

/* In a step, rows of one sequence sit side by side: what a later one wrote must not reach an
 * earlier. */
Test(attend, a_value_that_is_no_number_reaches_only_who_sees_it)
{
    enum { ROWS = 16 }; /* more than the widest kernel calls few */
    static const uint32_t first[ROWS] = { 0, 0, 0, 0, 0, 20 };
    uint32_t end[ROWS];
    float *q = random_floats(ROWS * 64, 3), all[ROWS * 64];
    for (uint32_t i = 0; i < ROWS; i++)
        end[i] = 40 + i;
    for (int kind = 0; kind < 2; kind++) {
        struct cache c;
        cache_init(&c, 64, kinds[kind]);
        float bad[64];
        for (int i = 0; i < 64; i++)
            bad[i] = i % 2 ? INFINITY : NAN;
        kern_select("ref")->kv_store(c.page[0], kinds[kind], PAGE, 42, 1, 64, c.k, bad, 0);
        kern_select("ref")->kv_store(c.page[0], kinds[kind], PAGE, 10, 1, 64, c.k, bad, 0);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            attend_all(kern_usable(v), &c, q, first, end, ROWS, 0.0f, all);
            cr_assert(!isfinite(all[0]), "token 10");
            cr_assert(!isfinite(all[5 * 64]), "token 42");
        }
        kern_select("ref")->kv_store(c.page[0], kinds[kind], PAGE, 10, 1, 64, c.k, c.v, 0);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            attend_all(kern_usable(v), &c, q, first, end, ROWS, 0.0f, all);
            for (int i = 0; i < ROWS * 64; i++)
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
    cache_init(&c, 64, KERN_KV_F16);
    for (int i = 0; i < 64; i++)
        big[i] = i % 2 ? 1e6f : -1e6f;
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        kern_usable(v)->kv_store(c.page[0], KERN_KV_F16, PAGE, 0, 1, 64, big, big, 0);
        attend_all(kern_usable(v), &c, q, &first, &end, 1, 0.0f, out);
        for (int i = 0; i < 64; i++)
            cr_assert_eq(out[i], i % 2 ? 65504.0f : -65504.0f);
    }
    cache_fini(&c);
}

/* The textbook's softmax over tokens [first, end). */
static void attend_exactly(const struct cache *c, const float *q, uint32_t first, uint32_t end,
                           double *o)
{
    double sum = 0;
    memset(o, 0, c->dim * sizeof(*o));
    for (uint32_t t = first; t < end; t++) {
        double s = 0;
        for (uint32_t i = 0; i < c->dim; i++)
            s += (double)q[i] * (double)c->k[t * c->dim + i];
        sum += exp(s);
        for (uint32_t i = 0; i < c->dim; i++)
            o[i] += exp(s) * (double)c->v[t * c->dim + i];
    }
    for (uint32_t i = 0; i < c->dim; i++)
        o[i] /= sum;
}

Test(attend, agrees_with_the_formula)
{
    static const double error[] = { 4e-3, 1e-5, 4e-2 }; /* 11, 24 and 8 bits */
    float *q = random_floats(32, 3), out[32];
    uint32_t first = 5, end = 1400;
    for (int kind = 0; kind < 3; kind++) {
        struct cache c;
        double expected[32];
        cache_init(&c, 32, kinds[kind]);
        attend_all(kern_select("ref"), &c, q, &first, &end, 1, 0.0f, out);
        attend_exactly(&c, q, first, end, expected);
        for (int i = 0; i < 32; i++)
            cr_assert_float_eq((double)out[i], expected[i], error[kind], "kind %d: %g, not %g",
                               kinds[kind], (double)out[i], expected[i]);
        cache_fini(&c);
    }
    free(q);
}

/* As the engine reads an open page: an item of its own, in two halves. */
Test(attend, an_item_may_begin_at_any_page)
{
    enum { DIM = 64, FIRST = 5 * PAGE, HALF = PAGE / 2 };
    uint8_t *halves[2];
    float *k = random_floats(PAGE * DIM, 1), *v = random_floats(PAGE * DIM, 2);
    float *q = random_floats(N_Q * DIM, 3);
    for (int i = 0; i < 2; i++)
        halves[i] = malloc(kern_kv_bytes(KERN_KV_F16, HALF, DIM));
    for (uint32_t t = 0; t < PAGE; t++)
        kern_select("ref")->kv_store(halves[t / HALF], KERN_KV_F16, HALF, t % HALF, 1, DIM,
                                     k + t * DIM, v + t * DIM, 0);
    for (uint32_t n = 0; n <= PAGE; n += 7)
        for (uint32_t u = 0; u < kern_n_usable(); u++) {
            uint32_t first[N_Q] = { 0, 0, 0, FIRST + 3, FIRST + 40, 0, FIRST }, end[N_Q];
            float m[2][N_Q], l[2][N_Q], o[2][N_Q * DIM];
            for (uint32_t i = 0; i < N_Q; i++)
                end[i] = FIRST + (n > i ? n - i : 0);
            for (int ref = 0; ref < 2; ref++) {
                struct kern_attend a = { .q = q,
                                         .first = first,
                                         .end = end,
                                         .pages = (const void *const *)halves,
                                         .n_q = N_Q,
                                         .head_dim = DIM,
                                         .page_tokens = HALF,
                                         .item_first = FIRST,
                                         .m = m[ref],
                                         .l = l[ref],
                                         .o = o[ref] };
                (ref ? kern_select("ref") : kern_usable(u))->attend(&a);
            }
            cr_assert_arr_eq(m[0], m[1], sizeof(m[0]), "%s", kern_usable(u)->name);
            cr_assert_arr_eq(l[0], l[1], sizeof(l[0]), "%s", kern_usable(u)->name);
            cr_assert_arr_eq(o[0], o[1], sizeof(o[0]), "%s", kern_usable(u)->name);
        }
    free(k), free(v), free(q), free(halves[0]), free(halves[1]);
}

Test(attend, a_query_that_is_no_number_gets_none_and_harms_nobody)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f };
    struct cache c;
    float *q = random_floats(N_Q * 64, 3), good[N_Q * 64], out[N_Q * 64];
    cache_init(&c, 64, KERN_KV_Q8);
    for (uint32_t u = 0; u < kern_n_usable(); u++)
        for (int i = 0; i < 4; i++) {
            float *mixed = random_floats(N_Q * 64, 3);
            attend_all(kern_usable(u), &c, q, some_first, some_end, N_Q, 0.0f, good);
            mixed[3 * 64 + 10] = bad[i];
            attend_all(kern_usable(u), &c, mixed, some_first, some_end, N_Q, 0.0f, out);
            for (int j = 0; j < N_Q; j++)
                if (j != 3)
                    cr_assert_arr_eq(out + j * 64, good + j * 64, 64 * sizeof(float));
                else if (i < 3)
                    cr_assert(!isfinite(out[j * 64]), "%s, query of %g", kern_usable(u)->name,
                              (double)bad[i]);
            free(mixed);
        }
    free(q);
    cache_fini(&c);
}

/* ---- sealing ---- */

/* A page of F16 of random tokens, in parts: small and large channels, one that never changes, one at
 * the ends of what F16 holds. */
static void fill_parts(void *const *parts, uint32_t part_tokens, uint32_t dim)
{
    float *k = random_floats((size_t)PAGE * dim, 7), *v = random_floats((size_t)PAGE * dim, 8);
    for (uint32_t t = 0; t < PAGE; t++) {
        k[t * dim] = 0.25f;
        k[t * dim + 1] = t % 2 ? 1e6f : -1e6f;
        k[t * dim + 2] *= 1e-7f;
        v[t * dim + 1] *= 100.0f;
        kern_select("ref")->kv_store(parts[t / part_tokens], KERN_KV_F16, part_tokens,
                                     t % part_tokens, 1, dim, k + t * dim, v + t * dim, 0);
    }
    free(k);
    free(v);
}

Test(kv_store, many_tokens_are_stored_as_one_by_one)
{
    enum { DIM = 80, STRIDE = 3 * DIM };
    float *k = random_floats((size_t)PAGE * STRIDE, 21),
          *v = random_floats((size_t)PAGE * STRIDE, 22);
    k[5] = 1e6f, v[7] = -1e6f, k[STRIDE + 1] = NAN;
    for (int kv = KERN_KV_F16; kv <= KERN_KV_F32; kv++) {
        size_t bytes = kern_kv_bytes((enum kern_kv)kv, PAGE, DIM);
        uint8_t *expected = malloc(bytes), *page = malloc(bytes);
        for (uint32_t slot = 0; slot < PAGE; slot += 5)
            for (uint32_t n = 1; slot + n <= PAGE; n += 7) {
                memset(expected, 0xee, bytes);
                for (uint32_t i = 0; i < n; i++)
                    kern_select("ref")->kv_store(expected, (enum kern_kv)kv, PAGE, slot + i, 1, DIM,
                                                 k + i * STRIDE, v + i * STRIDE, 0);
                for (uint32_t u = 0; u < kern_n_usable(); u++) {
                    memset(page, 0xee, bytes);
                    kern_usable(u)->kv_store(page, (enum kern_kv)kv, PAGE, slot, n, DIM, k, v,
                                             STRIDE);
                    cr_assert(memcmp(page, expected, bytes) == 0, "%s, %u tokens from slot %u",
                              kern_usable(u)->name, n, slot);
                }
            }
        free(expected), free(page);
    }
    free(k), free(v);
}

Test(kv_seal, every_variant_gives_the_bytes_of_ref_however_the_page_was_cut)
{
    static const uint32_t dims[] = { 16, 64, 80, 128 };
    for (size_t d = 0; d < 4; d++) {
        size_t bytes = kern_kv_bytes(KERN_KV_Q8, PAGE, dims[d]);
        void *whole[] = { malloc(kern_kv_bytes(KERN_KV_F16, PAGE, dims[d])) };
        void *halves[] = { malloc(kern_kv_bytes(KERN_KV_F16, PAGE / 2, dims[d])),
                           malloc(kern_kv_bytes(KERN_KV_F16, PAGE / 2, dims[d])) };
        uint8_t *expected = calloc(1, bytes), *page = calloc(1, bytes);
        fill_parts(whole, PAGE, dims[d]);
        fill_parts(halves, PAGE / 2, dims[d]);
        for (int bad = 0; bad < 2; bad++) {
            if (bad) /* a token that is not a number */
                for (int cut = 0; cut < 2; cut++) {
                    float nan[128];
                    for (int i = 0; i < 128; i++)
                        nan[i] = i % 3 ? 1.0f : NAN;
                    kern_select("ref")->kv_store(cut ? halves[0] : whole[0], KERN_KV_F16,
                                                 cut ? PAGE / 2 : PAGE, 7, 1, dims[d], nan, nan, 0);
                }
            kern_select("ref")->kv_seal(expected, PAGE, (const void *const *)whole, PAGE, dims[d]);
            for (uint32_t v = 0; v < kern_n_usable(); v++) {
                memset(page, 0, bytes);
                kern_usable(v)->kv_seal(page, PAGE, (const void *const *)halves, PAGE / 2, dims[d]);
                cr_assert(memcmp(page, expected, bytes) == 0, "%s, head_dim %u%s",
                          kern_usable(v)->name, dims[d], bad ? ", with a NaN" : "");
            }
        }
        free(expected), free(page), free(whole[0]), free(halves[0]), free(halves[1]);
    }
}

Test(kv_seal, half_the_pages_of_f16_would_not_hold_more)
{
    for (uint32_t dim = 16; dim <= KERN_MAX_HEAD_DIM; dim += 16) {
        size_t q8 = kern_kv_bytes(KERN_KV_Q8, PAGE, dim);
        cr_assert_geq(q8, kern_kv_bytes(KERN_KV_F16, PAGE / 2, dim), "an open half fits in a page");
        cr_assert_leq(q8, kern_kv_bytes(KERN_KV_F16, PAGE, dim) * 5 / 8);
    }
}

/* Tokens that a query sees in the middle of a page do not depend on those that it does not. */
Test(kv_seal, a_query_that_sees_one_token_gets_its_value_within_half_a_step)
{
    struct cache c;
    float *q = random_floats(64, 3), out[64];
    cache_init(&c, 64, KERN_KV_Q8);
    for (uint32_t t = 0; t < N_TOKENS; t += 97) {
        uint32_t first = t, end = t + 1;
        float least = INFINITY, most = -INFINITY;
        for (int i = 0; i < 64; i++) {
            least = fminf(least, c.v[t * 64 + (uint32_t)i]);
            most = fmaxf(most, c.v[t * 64 + (uint32_t)i]);
        }
        attend_all(kern_usable(0), &c, q, &first, &end, 1, 0.0f, out);
        for (int i = 0; i < 64; i++)
            cr_assert_float_eq(out[i], c.v[t * 64 + (uint32_t)i], (most - least) / 255 * 0.52f);
    }
    free(q);
    cache_fini(&c);
}

Test(attend_last, every_variant_gives_the_bits_of_ref_and_adds_one_token)
{
    float *q = random_floats(80, 3), *k = random_floats(80, 4), *v = random_floats(80, 5);
    for (int capped = 0; capped < 2; capped++) {
        float m0 = 0.3f, l0 = 2.0f, o0[80];
        for (int i = 0; i < 80; i++)
            o0[i] = (float)i;
        kern_select("ref")->attend_last(q, k, v, capped ? 4.0f : 0.0f, 80, &m0, &l0, o0);
        for (uint32_t u = 0; u < kern_n_usable(); u++) {
            float m = 0.3f, l = 2.0f, o[80];
            for (int i = 0; i < 80; i++)
                o[i] = (float)i;
            kern_usable(u)->attend_last(q, k, v, capped ? 4.0f : 0.0f, 80, &m, &l, o);
            cr_assert(m == m0 && l == l0 && memcmp(o, o0, sizeof(o)) == 0, "%s",
                      kern_usable(u)->name);
        }
        double s = 0;
        for (int i = 0; i < 80; i++)
            s += (double)q[i] * (double)k[i];
        s = capped ? 4 * tanh(s / 4) : s;
        double w = exp(s) / (exp(s) + 2 * exp(0.3));
        cr_assert_float_eq((double)o0[7], w * (double)v[7] + (1 - w) * 7 / 2, 1e-4);
    }
    free(q), free(k), free(v);
}

/* ---- the bounds of pages ---- */

static uint16_t *bounds_of(const struct kern_table *k, const struct cache *c, uint32_t page)
{
    uint16_t *bounds = malloc(kern_bounds_bytes(PAGE, c->dim));
    k->kv_bounds(c->page[page], c->kv, PAGE, c->dim, bounds);
    return bounds;
}

static void expect_bounds(uint32_t dim, enum kern_kv kv)
{
    struct cache c;
    cache_init(&c, dim, kv);
    for (uint32_t p = 0; p < N_TOKENS / PAGE; p++) {
        uint16_t *expected = bounds_of(kern_select("ref"), &c, p);
        for (uint32_t t = p * PAGE; t < (p + 1) * PAGE && kv == KERN_KV_F16; t++)
            for (uint32_t i = 0; i < dim; i++) {
                const uint16_t *b = expected + t % PAGE / KERN_ATTN_TILE * 2 * dim;
                float key = kern_f16_to_f32(kern_f32_to_f16(c.k[(size_t)t * dim + i]));
                cr_assert(fabsf(key - kern_f16_to_f32(b[i])) <= kern_f16_to_f32(b[dim + i]));
            }
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            uint16_t *found = bounds_of(kern_usable(v), &c, p);
            cr_assert_arr_eq(found, expected, kern_bounds_bytes(PAGE, dim), "%s, dim %u, kv %d",
                             kern_usable(v)->name, dim, kv);
            free(found);
        }
        free(expected);
    }
    cache_fini(&c);
}

Test(kv_bounds, hold_all_keys_and_every_variant_gives_the_bits_of_ref)
{
    for (uint32_t dim = 16; dim <= 128; dim *= 2) {
        expect_bounds(dim, KERN_KV_F16);
        expect_bounds(dim, KERN_KV_F32);
        expect_bounds(dim, KERN_KV_Q8);
    }
}

Test(kv_bounds, of_odd_keys_are_the_same_in_every_variant)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-7f, 65504 };
    enum { DIM = 16, N_ODD = sizeof(odd) / sizeof(odd[0]) };
    struct cache c;
    cache_init(&c, DIM, KERN_KV_F32);
    for (uint32_t p = 0; p < 8; p++) {
        float *keys = c.page[p];
        for (uint32_t i = 0; i < PAGE * DIM; i++)
            if (p == 7 || i % (p + 2) == 0)
                keys[i] = odd[(i + p) % (p == 7 ? 1 : p == 6 ? 4 : N_ODD)];
        uint16_t *expected = bounds_of(kern_select("ref"), &c, p);
        for (uint32_t v = 0; v < kern_n_usable(); v++) {
            uint16_t *found = bounds_of(kern_usable(v), &c, p);
            cr_assert_arr_eq(found, expected, kern_bounds_bytes(PAGE, DIM), "%s, page %u",
                             kern_usable(v)->name, p);
            free(found);
        }
        free(expected);
    }
    cache_fini(&c);
}

Test(score_pages, no_product_is_larger_and_every_variant_gives_the_bits_of_ref)
{
    enum { N_PAGES = N_TOKENS / PAGE, DIM = 80, GROUP = 3 };
    struct cache c;
    cache_init(&c, DIM, KERN_KV_F16);
    const uint16_t *bounds[N_PAGES];
    float sum[DIM] = { 0 }, size[DIM] = { 0 }, expected[N_PAGES], found[N_PAGES];
    float *q = random_floats(GROUP * DIM, 9);
    for (uint32_t i = 0; i < GROUP * DIM; i++) {
        sum[i % DIM] += q[i];
        size[i % DIM] += fabsf(q[i]);
    }
    for (uint32_t p = 0; p < N_PAGES; p++)
        bounds[p] = bounds_of(kern_select("ref"), &c, p);
    kern_select("ref")->score_pages(sum, size, bounds, N_PAGES, PAGE / KERN_ATTN_TILE, DIM,
                                    expected);
    for (uint32_t t = 0; t < N_PAGES * PAGE; t++) {
        double product = 0;
        for (uint32_t i = 0; i < DIM; i++)
            product += (double)sum[i] *
                       (double)kern_f16_to_f32(kern_f32_to_f16(c.k[(size_t)t * DIM + i]));
        cr_assert(product <= (double)expected[t / PAGE] + 1e-3);
    }
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        kern_usable(v)->score_pages(sum, size, bounds, N_PAGES, PAGE / KERN_ATTN_TILE, DIM, found);
        cr_assert_arr_eq(found, expected, sizeof(found), "%s", kern_usable(v)->name);
    }
    for (uint32_t p = 0; p < N_PAGES; p++)
        free((void *)(uintptr_t)bounds[p]);
    free(q);
    cache_fini(&c);
}
