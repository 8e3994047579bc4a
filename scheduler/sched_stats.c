/* SPDX-License-Identifier: Apache-2.0
 *
 * sched_stats.c - what the scheduler counts, and how it is read without disturbing it.
 *
 * The loop counts in a struct of its own and publishes it after each step, word by word, between
 * two changes of a version number; a reader that saw the version change, or odd, reads again.  So a
 * snapshot is of one moment and nobody waits for a lock.  Release stores and acquire loads of the
 * words do the work of fences: who reads a new word also sees that the version had become odd.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

_Static_assert(sizeof(struct sched_stats) % sizeof(uint64_t) == 0, "published in whole words");
_Static_assert(sizeof(struct sched_slot) % sizeof(uint64_t) == 0, "published in whole words");

const double sched_step_bounds[SCHED_N_STEP_BOUNDS] = { 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                        0.05,  0.1,    0.25,  0.5,  1,
                                                        2.5,   5,      10 };
const double sched_step_token_bounds[SCHED_N_STEP_TOKEN_BOUNDS] = { 1,    8,    16,   32,   64,
                                                                    128,  256,  512,  1024, 2048,
                                                                    4096, 8192, 16384 };

/* Weight of the newest step: the rates follow a change of load within some tens of steps. */
static const double RATE_WEIGHT = 0.1;

/* ---- the loop's side ---- */

static uint32_t bucket_of(const double *bounds, uint32_t n_bounds, double value)
{
    uint32_t i = 0;
    while (i < n_bounds && value > bounds[i])
        i++;
    return i;
}

static void follow_rate(double *rate, uint32_t n_tokens, uint64_t ns)
{
    if (n_tokens == 0) /* all rows were deferred: says nothing */
        return;
    double now = (double)n_tokens * 1e9 / (double)(ns > 0 ? ns : 1);
    *rate = *rate > 0 ? *rate + RATE_WEIGHT * (now - *rate) : now;
}

void stats_add_step(struct stats *st, const struct step_facts *facts)
{
    struct sched_stats *live = &st->live;
    uint32_t bucket = bucket_of(sched_step_bounds, SCHED_N_STEP_BOUNDS, (double)facts->ns / 1e9);
    live->steps++;
    live->batch_size_now = facts->n_seqs;
    live->prompt_tokens += facts->n_prompt_tokens;
    live->prefill_tokens += facts->n_prompt_rows;
    live->generated_tokens += facts->n_generated;
    live->drafted_tokens += facts->n_drafted;
    live->accepted_tokens += facts->n_accepted;
    live->step_tokens_sum += facts->n_rows;
    live->step_tokens[bucket_of(sched_step_token_bounds, SCHED_N_STEP_TOKEN_BOUNDS,
                                facts->n_rows)]++;
    if (facts->n_prompt_rows > 0) {
        live->prefill_step[bucket]++;
        live->prefill_step_ns += facts->ns;
        /* With the rows that decode beside them: they are work done in that time, too. */
        follow_rate(&st->prefill_rate, facts->n_rows, facts->ns);
    } else {
        live->decode_step[bucket]++;
        live->decode_step_ns += facts->ns;
        /* Without guesses that were wrong: no request asked for them. */
        follow_rate(&st->decode_rate, facts->n_rows - (facts->n_drafted - facts->n_accepted),
                    facts->ns);
    }
}

void stats_publish(struct stats *st)
{
    uint64_t words[STATS_N_WORDS];
    memcpy(words, &st->live, sizeof(words));
    uint64_t version = atomic_load_explicit(&st->version, memory_order_relaxed);
    atomic_store_explicit(&st->version, version + 1, memory_order_relaxed);
    for (uint32_t i = 0; i < STATS_N_WORDS; i++)
        atomic_store_explicit(&st->words[i], words[i], memory_order_release);
    atomic_store_explicit(&st->version, version + 2, memory_order_release);
    atomic_store(&st->prefill_rate_milli, (uint64_t)(st->prefill_rate * 1000));
    atomic_store(&st->decode_rate_milli, (uint64_t)(st->decode_rate * 1000));
}

/* ---- anybody's side ---- */

static bool try_read(const struct stats *st, uint64_t *words)
{
    uint64_t before = atomic_load_explicit(&st->version, memory_order_acquire);
    for (uint32_t i = 0; i < STATS_N_WORDS; i++)
        words[i] = atomic_load_explicit(&st->words[i], memory_order_acquire);
    uint64_t after = atomic_load_explicit(&st->version, memory_order_relaxed);
    return before == after && before % 2 == 0;
}

void stats_read(const struct stats *st, struct sched_stats *out)
{
    uint64_t words[STATS_N_WORDS];
    while (!try_read(st, words)) {
    }
    memcpy(out, words, sizeof(words));
}

/* ---- what runs ---- */

int slots_init(struct slots *slots, uint32_t cap)
{
    slots->cap = cap;
    slots->words = calloc((size_t)cap * SLOT_N_WORDS, sizeof(*slots->words));
    return slots->words ? 0 : -1;
}

void slots_fini(struct slots *slots)
{
    free(slots->words);
}

static struct sched_slot slot_of(const struct choice *c, uint64_t now_ns)
{
    uint32_t n_prompt = choice_n_prompt(c);
    return (struct sched_slot){
        .request = c->req->number,
        .choice = c->index,
        .n_prompt = n_prompt,
        .n_prefilled = c->n_computed < n_prompt ? c->n_computed : n_prompt,
        .n_decoded = choice_n_output(c),
        .age_ns = now_ns - c->req->submitted_ns,
    };
}

void slots_publish(struct slots *slots, struct choice *const *running, uint32_t n)
{
    uint64_t now_ns = clock_now_ns(), words[SLOT_N_WORDS];
    uint64_t version = atomic_load_explicit(&slots->version, memory_order_relaxed);
    atomic_store_explicit(&slots->version, version + 1, memory_order_relaxed);
    uint32_t n_slots = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (running[i]->state != CHOICE_RUNNING) /* paused or ended in this step */
            continue;
        struct sched_slot slot = slot_of(running[i], now_ns);
        memcpy(words, &slot, sizeof(words));
        for (uint32_t w = 0; w < SLOT_N_WORDS; w++)
            atomic_store_explicit(&slots->words[n_slots * SLOT_N_WORDS + w], words[w],
                                  memory_order_release);
        n_slots++;
    }
    atomic_store_explicit(&slots->n, n_slots, memory_order_release);
    atomic_store_explicit(&slots->version, version + 2, memory_order_release);
}

static bool try_read_slots(const struct slots *slots, struct sched_slot *out, uint32_t cap,
                           uint32_t *n)
{
    uint64_t words[SLOT_N_WORDS];
    uint64_t before = atomic_load_explicit(&slots->version, memory_order_acquire);
    *n = atomic_load_explicit(&slots->n, memory_order_acquire);
    for (uint32_t i = 0; i < *n && i < cap; i++) {
        for (uint32_t w = 0; w < SLOT_N_WORDS; w++)
            words[w] = atomic_load_explicit(&slots->words[i * SLOT_N_WORDS + w],
                                            memory_order_acquire);
        memcpy(&out[i], words, sizeof(words));
    }
    uint64_t after = atomic_load_explicit(&slots->version, memory_order_relaxed);
    return before == after && before % 2 == 0;
}

uint32_t sched_slots(const struct sched *s, struct sched_slot *out, uint32_t cap)
{
    uint32_t n;
    while (!try_read_slots(&s->slots, out, cap, &n)) {
    }
    return n;
}

uint32_t sched_max_seqs(const struct sched *s)
{
    return s->max_seqs;
}

void sched_stats(const struct sched *s, struct sched_stats *out)
{
    stats_read(&s->stats, out);
    out->waiting_now = atomic_load(&s->queue.n_requests);
    out->waiting_tokens_now = atomic_load(&s->queue.n_tokens);
}

static double seconds_of(uint64_t n_tokens, uint64_t rate_milli)
{
    return rate_milli > 0 ? (double)n_tokens * 1000.0 / (double)rate_milli : 0;
}

uint32_t sched_retry_after(const struct sched *s)
{
    double seconds = seconds_of(s->queue.n_work_prompt, s->stats.prefill_rate_milli) +
                     seconds_of(s->queue.n_work_output, s->stats.decode_rate_milli);
    if (seconds <= 1)
        return 1;
    if (seconds >= 60)
        return 60;
    uint32_t whole = (uint32_t)seconds;
    return whole + ((double)whole < seconds);
}
