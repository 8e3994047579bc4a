/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expert_cache.c - what stays in the slots, and how often that is what is wanted.
 */
#include "engine/storage/expert_cache.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Places an expert and has it there, unpinned. */
static uint32_t load(struct expert_cache *c, uint32_t layer, uint32_t expert)
{
    uint32_t slot = expert_cache_place(c, layer, expert);
    cr_assert_neq(slot, EXPERT_NO_SLOT);
    cr_assert_eq(expert_cache_state(c, layer, expert), EXPERT_LOADING);
    expert_cache_loaded(c, layer, expert);
    expert_cache_unpin(c, layer, expert);
    cr_assert_eq(expert_cache_slot(c, layer, expert), slot);
    return slot;
}

Test(expert_cache, the_coldest_makes_room)
{
    struct expert_cache *c = expert_cache_open(2, 4, 3);
    uint32_t slots[3];
    for (uint32_t e = 0; e < 3; e++) {
        slots[e] = load(c, 0, e);
        expert_cache_use(c, 0, e, e == 1 ? 1 : 5);
    }
    cr_assert(slots[0] != slots[1] && slots[1] != slots[2] && slots[0] != slots[2]);
    cr_assert_eq(load(c, 1, 3), slots[1]);
    cr_assert_eq(expert_cache_state(c, 0, 1), EXPERT_ABSENT);
    cr_assert_eq(expert_cache_state(c, 0, 2), EXPERT_READY);
    cr_assert_eq(expert_cache_n_ready(c, 0), 2);
    cr_assert_eq(expert_cache_n_ready(c, 1), 1);
    expert_cache_close(c);
}

Test(expert_cache, what_is_pinned_or_loading_stays)
{
    struct expert_cache *c = expert_cache_open(1, 4, 2);
    load(c, 0, 0);
    expert_cache_pin(c, 0, 0);
    cr_assert_neq(expert_cache_place(c, 0, 1), EXPERT_NO_SLOT);
    cr_assert_eq(expert_cache_place(c, 0, 2), EXPERT_NO_SLOT, "one is pinned, one is loading");
    expert_cache_loaded(c, 0, 1);
    cr_assert_eq(expert_cache_place(c, 0, 2), EXPERT_NO_SLOT, "what was loading is pinned");
    expert_cache_pin(c, 0, 0);
    expert_cache_unpin(c, 0, 0);
    cr_assert_eq(expert_cache_place(c, 0, 2), EXPERT_NO_SLOT, "pins are counted");
    expert_cache_unpin(c, 0, 0);
    cr_assert_eq(expert_cache_place(c, 0, 2), expert_cache_slot(c, 0, 2));
    cr_assert_eq(expert_cache_state(c, 0, 0), EXPERT_ABSENT);
    expert_cache_close(c);
}

Test(expert_cache, what_failed_leaves_its_slot)
{
    struct expert_cache *c = expert_cache_open(1, 3, 1);
    uint32_t slot = expert_cache_place(c, 0, 0);
    expert_cache_pin(c, 0, 0);
    expert_cache_failed(c, 0, 0);
    cr_assert_eq(expert_cache_state(c, 0, 0), EXPERT_ABSENT);
    cr_assert_eq(load(c, 0, 2), slot);
    cr_assert_eq(load(c, 0, 0), slot, "no pin was left behind");
    expert_cache_close(c);
}

Test(expert_cache, heat_halves_and_never_overflows)
{
    struct expert_cache *c = expert_cache_open(1, 2, 1);
    expert_cache_use(c, 0, 0, 8);
    expert_cache_pass(c, 200);
    cr_assert_float_eq(expert_cache_heat(c, 0, 0), 4, 1e-9);
    for (int i = 0; i < 10000; i++)
        expert_cache_pass(c, 512);
    expert_cache_use(c, 0, 1, 3);
    cr_assert_float_eq(expert_cache_heat(c, 0, 1), 3, 1e-9);
    cr_assert_float_eq(expert_cache_heat(c, 0, 0), 0, 1e-9);
    expert_cache_set_heat(c, 0, 0, 7);
    cr_assert_float_eq(expert_cache_heat(c, 0, 0), 7, 1e-9);
    expert_cache_close(c);
}

Test(expert_cache, a_prompt_leaves_the_heats_that_it_leaves_token_by_token)
{
    enum { N = 300 };
    struct expert_cache *one = expert_cache_open(1, 4, 1), *single = expert_cache_open(1, 4, 1);
    for (uint32_t row = 0; row < N; row++) {
        /* The last three tokens choose what none did before. */
        uint32_t expert = row < N - 3 ? row % 2 : 2;
        expert_cache_use(one, 0, expert, expert_cache_row_heat(row));
        expert_cache_use(single, 0, expert, expert_cache_row_heat(0));
        expert_cache_pass(single, 1);
    }
    expert_cache_pass(one, N);
    for (uint32_t e = 0; e < 4; e++)
        cr_expect_float_eq(expert_cache_heat(one, 0, e), expert_cache_heat(single, 0, e), 1e-9);
    cr_expect_gt(expert_cache_heat(one, 0, 2), 2.9, "three tokens ago at most");
    expert_cache_close(one);
    expert_cache_close(single);
}

/* ---- hits on routing as trained models have it ---- */

enum { N_EXPERTS = 32, N_USED = 4, N_TOPICS = 16, N_WARM = 500, N_TOKENS = 2000 };

struct picks {
    uint32_t of[N_USED]; /* experts */
};

static double uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0 + 1e-17;
}

static double normal(uint64_t *state)
{
    double radius = sqrt(-2 * log(uniform(state)));
    return radius * cos(6.283185307179586 * uniform(state));
}

/* The first quarter is hot and takes 75 % of the picks; each of the topics, which last 150 tokens, has one
 * of the others hot in place of one of these. */
static struct picks *make_trace(uint64_t seed)
{
    const double bonus = 1.78;
    struct picks *trace = malloc(N_TOKENS * sizeof(*trace));
    uint32_t cold[N_TOPICS], hot[N_TOPICS], topic = 0;
    for (uint32_t t = 0; t < N_TOPICS; t++) {
        cold[t] = (uint32_t)(uniform(&seed) * (N_EXPERTS / 4));
        hot[t] = N_EXPERTS / 4 + (uint32_t)(uniform(&seed) * (N_EXPERTS * 3 / 4));
    }
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        double score[N_EXPERTS];
        if (uniform(&seed) < 1.0 / 150)
            topic = (uint32_t)(uniform(&seed) * N_TOPICS);
        for (uint32_t e = 0; e < N_EXPERTS; e++) {
            bool is_hot = e == hot[topic] || (e < N_EXPERTS / 4 && e != cold[topic]);
            score[e] = normal(&seed) + (is_hot ? bonus : 0);
        }
        for (uint32_t k = 0; k < N_USED; k++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < N_EXPERTS; e++)
                best = score[e] > score[best] ? e : best;
            trace[i].of[k] = best;
            score[best] = -INFINITY;
        }
    }
    return trace;
}

/* Hits behind the warm-up. */
static uint64_t cache_hits(const struct picks *trace, uint32_t n_slots)
{
    struct expert_cache *c = expert_cache_open(1, N_EXPERTS, n_slots);
    uint64_t n_hits = 0;
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        for (uint32_t k = 0; k < N_USED; k++) {
            expert_cache_use(c, 0, trace[i].of[k], 1);
            if (expert_cache_state(c, 0, trace[i].of[k]) == EXPERT_READY) {
                expert_cache_pin(c, 0, trace[i].of[k]);
                n_hits += i >= N_WARM;
            }
        }
        for (uint32_t k = 0; k < N_USED; k++)
            if (expert_cache_state(c, 0, trace[i].of[k]) == EXPERT_ABSENT) {
                cr_assert_neq(expert_cache_place(c, 0, trace[i].of[k]), EXPERT_NO_SLOT);
                expert_cache_loaded(c, 0, trace[i].of[k]);
            }
        for (uint32_t k = 0; k < N_USED; k++)
            expert_cache_unpin(c, 0, trace[i].of[k]);
        expert_cache_pass(c, 1);
    }
    expert_cache_close(c);
    return n_hits;
}

static int descending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

/* Of the best set that never changes, chosen in hindsight. */
static uint64_t static_hits(const struct picks *trace, uint32_t n_slots)
{
    uint32_t count[N_EXPERTS] = { 0 };
    uint64_t hits = 0;
    for (uint32_t i = N_WARM; i < N_TOKENS; i++)
        for (uint32_t k = 0; k < N_USED; k++)
            count[trace[i].of[k]]++;
    qsort(count, N_EXPERTS, sizeof(*count), descending);
    for (uint32_t s = 0; s < n_slots; s++)
        hits += count[s];
    return hits;
}

/* The next token from i on that chooses the expert. */
static uint32_t next_use(const struct picks *trace, uint32_t i, uint32_t expert)
{
    for (; i < N_TOKENS; i++)
        for (uint32_t k = 0; k < N_USED; k++)
            if (trace[i].of[k] == expert)
                return i;
    return N_TOKENS;
}

/* Of who knows what comes (Belady 1966). */
static uint64_t perfect_hits(const struct picks *trace, uint32_t n_slots)
{
    bool is_there[N_EXPERTS] = { false };
    uint32_t n_there = 0;
    uint64_t hits = 0;
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        for (uint32_t k = 0; k < N_USED; k++) {
            hits += i >= N_WARM && is_there[trace[i].of[k]];
            n_there += !is_there[trace[i].of[k]];
            is_there[trace[i].of[k]] = true;
        }
        for (; n_there > n_slots; n_there--) {
            uint32_t last = 0, victim = 0;
            for (uint32_t e = 0; e < N_EXPERTS; e++) {
                uint32_t next = is_there[e] ? next_use(trace, i + 1, e) + 1 : 0;
                if (next > last) {
                    last = next;
                    victim = e;
                }
            }
            is_there[victim] = false;
        }
    }
    return hits;
}

Test(expert_cache, hits_as_often_as_the_best_fixed_set_and_nearly_as_foresight)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct picks *trace = make_trace(seed);
        for (uint32_t n_slots = N_EXPERTS / 4; n_slots < N_EXPERTS; n_slots += N_EXPERTS / 4) {
            double n = (N_TOKENS - N_WARM) * N_USED;
            double found = (double)cache_hits(trace, n_slots) / n;
            double best_set = (double)static_hits(trace, n_slots) / n;
            double foresight = (double)perfect_hits(trace, n_slots) / n;
            cr_expect_gt(found, best_set - 0.015, "%u slots: %.3f of %.3f", n_slots, found,
                         best_set);
            cr_expect_gt(found, foresight - 0.10, "%u slots: %.3f of %.3f", n_slots, found,
                         foresight);
        }
        free(trace);
    }
}
