/* SPDX-License-Identifier: Apache-2.0
 *
 * speculate.c - what a choice may say next, guessed from what it and its prompt said before, and which
 * guesses are worth a row.  Pure.
 *
 * Prompt lookup (Saxena 2023): where the last few tokens have come before, what followed then may
 * follow again, as it does in quotations, in code that is edited and in data that is copied.  Guesses
 * are computed as further rows of the same step, and count only as far as sampling then chooses these
 * very tokens: they change no answer, only how many steps it takes.
 *
 * A step of n rows takes what budget.c has seen such steps take; a guess comes true as often as those
 * of the same choice did, from matches about as long.  Rows are added, the likeliest first, while that
 * makes more tokens per time.  A refusal teaches nothing, so one guess is made now and then all the same.
 */
#include "scheduler/internal.h"

/* ---- lookup ---- */

static int32_t token_at(const struct speculate_text *text, uint32_t pos)
{
    return pos < text->n_prompt ? text->prompt[pos] : text->output[pos - text->n_prompt];
}

/* How many tokens before `end` are those before the text's end, at most SPECULATE_MOST_MATCH. */
static uint32_t match_length(const struct speculate_text *text, uint32_t end)
{
    uint32_t n_tokens = text->n_prompt + text->n_output, n = 0;
    while (n < end && n < SPECULATE_MOST_MATCH &&
           token_at(text, end - 1 - n) == token_at(text, n_tokens - 1 - n))
        n++;
    return n;
}

/* The end of the best match, 0 if there is none. */
static uint32_t find_match(const struct speculate_text *text, uint32_t *n_match)
{
    uint32_t best = 0;
    *n_match = SPECULATE_LEAST_MATCH - 1;
    for (uint32_t end = text->n_prompt + text->n_output - 1;
         end >= SPECULATE_LEAST_MATCH && *n_match < SPECULATE_MOST_MATCH; end--) {
        uint32_t n = match_length(text, end);
        if (n > *n_match) {
            *n_match = n;
            best = end;
        }
    }
    return best;
}

/* Where what followed ends, the guesses themselves go on: what repeats may repeat again. */
uint32_t speculate_lookup(const struct speculate_text *text, uint32_t most, int32_t *draft,
                          uint32_t *n_match)
{
    uint32_t n_tokens = text->n_prompt + text->n_output;
    uint32_t end = n_tokens > SPECULATE_LEAST_MATCH ? find_match(text, n_match) : 0;
    if (end == 0)
        return 0;
    for (uint32_t i = 0; i < most; i++)
        draft[i] = end + i < n_tokens ? token_at(text, end + i) : draft[end + i - n_tokens];
    return most;
}

/* ---- odds ---- */

static const double FIRST_ODDS[SPECULATE_N_CLASSES] = { 0.4, 0.6, 0.8 };
static const double ODDS_WEIGHT = 0.1; /* of the newest outcome */

static uint32_t class_of(uint32_t n_match)
{
    return n_match >= 6 ? 2 : n_match >= 3 ? 1 : 0;
}

void speculate_odds_init(struct speculate_odds *odds)
{
    for (uint32_t i = 0; i < SPECULATE_N_CLASSES; i++)
        odds->hit[i] = FIRST_ODDS[i];
}

double speculate_odds_of(const struct speculate_odds *odds, uint32_t n_match)
{
    return odds->hit[class_of(n_match)];
}

void speculate_learn(struct speculate_odds *odds, uint32_t n_match, bool is_hit)
{
    double *hit = &odds->hit[class_of(n_match)];
    *hit += ODDS_WEIGHT * ((is_hit ? 1.0 : 0.0) - *hit);
}

/* ---- how many ---- */

/* That the next guess of an item comes true, and all before it. */
static double next_gain(const struct speculate_item *item)
{
    if (item->n_rows == item->n_drafts)
        return 0;
    double gain = item->likelihood;
    for (uint32_t i = 0; i < item->n_rows; i++)
        gain *= item->likelihood;
    return gain;
}

/* Adds the likeliest guess; returns its likelihood, 0 if there is none left. */
static double add_likeliest(struct speculate_item *items, uint32_t n_items)
{
    struct speculate_item *best = NULL;
    double most = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        double gain = next_gain(&items[i]);
        if (gain > most) {
            most = gain;
            best = &items[i];
        }
    }
    if (best)
        best->n_rows++;
    return most;
}

static void take_back(struct speculate_item *items, uint32_t n_items)
{
    for (uint32_t i = 0; i < n_items; i++)
        items[i].n_rows = 0;
}

/* How many guesses make most tokens per time. */
static uint32_t best_number(struct speculate_item *items, uint32_t n_items, uint32_t max_rows,
                            const struct budget *costs)
{
    double n_tokens = n_items, best_rate = n_tokens / budget_decode_ns(costs, n_items), gain;
    uint32_t best = 0;
    for (uint32_t n = 1; n <= max_rows && (gain = add_likeliest(items, n_items)) > 0; n++) {
        n_tokens += gain;
        double rate = n_tokens / budget_decode_ns(costs, n_items + n);
        if (rate > best_rate) {
            best_rate = rate;
            best = n;
        }
    }
    take_back(items, n_items);
    return best;
}

static bool has_drafts(const struct speculate_item *items, uint32_t n_items)
{
    for (uint32_t i = 0; i < n_items; i++)
        if (items[i].n_drafts > 0)
            return true;
    return false;
}

uint32_t speculate_pick(struct speculate_item *items, uint32_t n_items, uint32_t max_rows,
                        const struct budget *costs, uint32_t *n_refused)
{
    take_back(items, n_items);
    if (budget_decode_ns(costs, n_items) <= 0 || !has_drafts(items, n_items) || max_rows == 0)
        return 0;
    uint32_t n = best_number(items, n_items, max_rows, costs);
    *n_refused = n > 0 ? 0 : *n_refused + 1;
    if (*n_refused >= SPECULATE_RETRY) {
        *n_refused = 0;
        n = 1;
    }
    uint32_t n_added = 0;
    while (n_added < n && add_likeliest(items, n_items) > 0)
        n_added++;
    return n_added;
}
