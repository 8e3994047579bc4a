/* SPDX-License-Identifier: Apache-2.0
 *
 * test_batch.c - what goes into a step: cases worth naming, then thousands of random arrivals.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

static struct batch_item decoding(uint64_t waited)
{
    return (struct batch_item){ .last_logits = true, .waited = waited };
}

static struct batch_item prompt(uint32_t n)
{
    return (struct batch_item){ .n_prefill = n, .last_logits = true };
}

static struct batch_item echoing(uint32_t n, bool last)
{
    return (struct batch_item){ .n_prefill = n, .all_logits = true, .last_logits = last };
}

#define PICK(items, rows, logits)                                                                  \
    batch_pick(items, sizeof(items) / sizeof(items[0]), &(struct batch_limits){ rows, logits, 0 })

Test(batch, nothing_runs)
{
    cr_assert_eq(batch_pick(NULL, 0, &(struct batch_limits){ 8, 4, 0 }), 0);
}

Test(batch, every_decoding_choice_has_its_row_before_any_prompt)
{
    struct batch_item it[] = { prompt(100), decoding(1), decoding(1), prompt(3) };
    cr_assert_eq(PICK(it, 16, 8), 16);
    cr_assert_eq(it[1].n_rows, 1);
    cr_assert_eq(it[2].n_rows, 1);
    cr_assert_eq(it[3].n_rows, 3, "the short prompt is in whole");
    cr_assert_eq(it[0].n_rows, 11, "the oldest has the rest");
}

Test(batch, the_oldest_prompt_has_half_of_what_is_left)
{
    struct batch_item it[] = { prompt(1000), prompt(900), prompt(40) };
    cr_assert_eq(PICK(it, 64, 8), 64);
    cr_assert_eq(it[0].n_rows, 32);
    cr_assert_eq(it[2].n_rows, 32, "then the shortest");
    cr_assert_eq(it[1].n_rows, 0);
}

static struct batch_item guessing(uint32_t n)
{
    return (struct batch_item){ .last_logits = true, .waited = 1, .n_drafts = n };
}

Test(batch, guesses_have_what_nobody_else_wants)
{
    struct batch_item alone[] = { guessing(7), guessing(4), decoding(1) };
    cr_assert_eq(PICK(alone, 64, 64), 14);
    cr_assert_eq(alone[0].n_rows, 8);
    cr_assert_eq(alone[1].n_rows, 5);
    cr_assert_eq(PICK(alone, 64, 9), 9, "each wants logits");
    cr_assert_eq(alone[0].n_rows, 7);
    cr_assert_eq(PICK(alone, 2, 64), 2, "no row of a choice is given away for them");
    struct batch_item beside[] = { guessing(7), prompt(100) };
    cr_assert_eq(PICK(beside, 64, 64), 64);
    cr_assert_eq(beside[0].n_rows, 1);
    struct batch_item some[] = { guessing(7), prompt(60) };
    cr_assert_eq(PICK(some, 64, 64), 64);
    cr_assert_eq(some[0].n_rows, 4);
}

Test(batch, a_prompt_alone_has_all_rows)
{
    struct batch_item it[] = { prompt(1000) };
    cr_assert_eq(PICK(it, 64, 8), 64);
    struct batch_item whole[] = { prompt(64) };
    cr_assert_eq(PICK(whole, 64, 1), 64);
}

Test(batch, a_prompt_without_logit_rows_left_stops_before_its_last_row)
{
    struct batch_item it[] = { decoding(1), prompt(5) };
    cr_assert_eq(PICK(it, 16, 1), 5);
    cr_assert_eq(it[0].n_rows, 1);
    cr_assert_eq(it[1].n_rows, 4);
    struct batch_item last[] = { decoding(1), prompt(1) };
    cr_assert_eq(PICK(last, 16, 1), 1);
    cr_assert_eq(last[1].n_rows, 0);
}

Test(batch, echoed_log_probabilities_take_a_logit_row_each)
{
    struct batch_item it[] = { echoing(100, true) };
    cr_assert_eq(PICK(it, 64, 8), 8);
    struct batch_item end[] = { echoing(9, false) };
    cr_assert_eq(PICK(end, 64, 8), 9, "the last row needs none");
    struct batch_item one_too_many[] = { echoing(10, false) };
    cr_assert_eq(PICK(one_too_many, 64, 8), 8);
}

Test(batch, echoed_log_probabilities_leave_others_logit_rows)
{
    struct batch_item it[] = { echoing(10000, true), prompt(3) };
    PICK(it, 64, 2);
    cr_assert_eq(it[0].n_rows, 1);
    cr_assert_eq(it[1].n_rows, 3);
}

Test(batch, too_many_decoding_take_turns)
{
    struct batch_item it[] = { decoding(1), decoding(3), decoding(2), decoding(9) };
    cr_assert_eq(PICK(it, 16, 2), 2);
    cr_assert_eq(it[1].n_rows, 1);
    cr_assert_eq(it[3].n_rows, 1);
}

Test(batch, a_full_house_leaves_a_share_to_prompts)
{
    struct batch_item it[20];
    for (int i = 0; i < 19; i++)
        it[i] = decoding(1);
    it[19] = prompt(50);
    cr_assert_eq(PICK(it, 16, 16), 16);
    cr_assert_eq(it[19].n_rows, 2, "an eighth of 16");
    cr_assert_eq(batch_n_logits(&it[19], 2), 0);
}

Test(batch, one_row_per_step_still_moves)
{
    struct batch_item prompts[] = { prompt(2), prompt(1) };
    cr_assert_eq(PICK(prompts, 1, 1), 1);
    struct batch_item both[] = { prompt(2), decoding(1) };
    cr_assert_eq(PICK(both, 1, 1), 1);
    cr_assert_eq(both[1].n_rows, 1);
}

/* ---- random arrivals ---- */

struct sim_choice {
    struct batch_item item;
    uint32_t n_decode; /* still to generate */
    uint64_t arrived, last_step;
};

struct sim {
    struct batch_limits limits;
    struct sim_choice running[64];
    struct batch_item items[64];
    uint32_t n_running, n_done, n_arrived;
    uint64_t step;
    uint64_t random;
};

static uint32_t draw(struct sim *sim, uint32_t n)
{
    sim->random = sim->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(sim->random >> 33) % n;
}

static void arrive(struct sim *sim)
{
    struct sim_choice *c = &sim->running[sim->n_running++];
    uint32_t n = draw(sim, 10) == 0 ? 1 + draw(sim, 3000) : 1 + draw(sim, 60);
    bool generates = draw(sim, 8) != 0;
    *c = (struct sim_choice){
        .item = { .n_prefill = n, .all_logits = draw(sim, 6) == 0, .last_logits = generates },
        .n_decode = generates ? 1 + draw(sim, 40) : 0,
        .arrived = sim->step,
        .last_step = sim->step,
    };
    sim->n_arrived++;
}

static uint32_t n_decoding_of(const struct sim *sim)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sim->n_running; i++)
        n += sim->running[i].item.n_prefill == 0;
    return n;
}

static void check_pick(const struct sim *sim, uint32_t n_rows)
{
    uint32_t sum = 0, n_logits = 0, n_decode_rows = 0, n_decoding = 0;
    bool oldest_seen = false;
    for (uint32_t i = 0; i < sim->n_running; i++) {
        const struct batch_item *it = &sim->items[i];
        sum += it->n_rows;
        n_logits += batch_n_logits(it, it->n_rows);
        cr_assert(it->n_rows <= (it->n_prefill > 0 ? it->n_prefill : 1));
        n_decoding += it->n_prefill == 0;
        n_decode_rows += it->n_prefill == 0 ? it->n_rows : 0;
        if (it->n_prefill > 1 && !oldest_seen && sim->limits.max_rows > 1 &&
            sim->limits.max_logit_rows > 1)
            cr_assert_gt(it->n_rows, 0, "the oldest prompt stands still");
        oldest_seen |= it->n_prefill > 0;
    }
    cr_assert_eq(sum, n_rows);
    cr_assert(n_rows >= 1 && n_rows <= sim->limits.max_rows);
    cr_assert_leq(n_logits, sim->limits.max_logit_rows);
    uint32_t limit = sim->limits.max_logit_rows < sim->limits.max_rows ? sim->limits.max_logit_rows
                                                                       : sim->limits.max_rows;
    uint32_t sure = limit - (limit > 1 ? limit / 8 + (limit < 8) : 0);
    cr_assert_geq(n_decode_rows, n_decoding < sure ? n_decoding : sure,
                  "a decoding choice was left out though there was room");
}

static void check_wait(const struct sim *sim, const struct sim_choice *c)
{
    uint32_t limit = sim->limits.max_logit_rows > 1 ? sim->limits.max_logit_rows / 2 : 1;
    uint64_t bound = 2 + n_decoding_of(sim) / limit + 64 / limit;
    if (c->item.n_prefill == 0)
        cr_assert_leq(sim->step - c->last_step, bound, "a stream waited %llu steps",
                      (unsigned long long)(sim->step - c->last_step));
}

static void advance(struct sim *sim)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sim->n_running; i++) {
        struct sim_choice *c = &sim->running[i];
        uint32_t n_rows = sim->items[i].n_rows;
        bool had_last = c->item.n_prefill == n_rows;
        if (c->item.n_prefill > 0)
            c->item.n_prefill -= n_rows;
        else
            had_last = n_rows > 0;
        if (n_rows > 0)
            c->last_step = sim->step;
        if (had_last && c->n_decode > 0)
            c->n_decode--;
        check_wait(sim, c);
        if (c->item.n_prefill == 0 && c->n_decode == 0)
            sim->n_done++;
        else
            sim->running[n++] = *c;
    }
    sim->n_running = n;
}

static void simulate(uint32_t max_rows, uint32_t max_logit_rows, uint32_t n_arrivals, uint64_t seed)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    sim->limits = (struct batch_limits){ max_rows, max_logit_rows, 0 };
    sim->random = seed;
    uint64_t max_steps = 400ull * 1000 * 1000 / max_rows;
    while (sim->n_done < n_arrivals) {
        while (sim->n_arrived < n_arrivals && sim->n_running < 64 && draw(sim, 3) == 0)
            arrive(sim);
        cr_assert_lt(++sim->step, max_steps, "admitted work does not finish");
        if (sim->n_running == 0)
            continue;
        for (uint32_t i = 0; i < sim->n_running; i++) {
            sim->items[i] = sim->running[i].item;
            sim->items[i].waited = sim->step - sim->running[i].last_step;
        }
        check_pick(sim, batch_pick(sim->items, sim->n_running, &sim->limits));
        advance(sim);
    }
    cr_assert_eq(sim->n_running, 0);
    free(sim);
}

Test(batch, prompts_keep_within_their_own_limit)
{
    struct batch_item items[] = { { .n_prefill = 100, .last_logits = true },
                                  { .n_prefill = 0 },
                                  { .n_prefill = 3, .last_logits = true } };
    struct batch_limits limits = { 64, 8, 20 };
    cr_assert_eq(batch_pick(items, 3, &limits), 21);
    cr_assert_eq(items[1].n_rows, 1);
    cr_assert_eq(items[2].n_rows, 3);
    cr_assert_eq(items[0].n_rows, 17);
}

Test(batch, ten_thousand_random_arrivals_all_finish)
{
    simulate(512, 64, 10000, 1);
}

Test(batch, random_arrivals_finish_within_tight_limits)
{
    static const uint32_t limits[][2] = { { 1, 1 },   { 2, 1 },  { 2, 2 }, { 7, 3 },
                                          { 16, 16 }, { 64, 1 }, { 64, 8 } };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        simulate(limits[i][0], limits[i][1], 400, 7 + i);
}
