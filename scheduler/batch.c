/* SPDX-License-Identifier: Apache-2.0
 *
 * batch.c - which rows go into the next step.  Pure.
 *
 * Every choice that decodes has its row first, so that no prompt delays a running stream by more
 * than one step.  The rest is prompts: half of it to the oldest one, which therefore always
 * progresses, and the other half to the shortest remaining, so that a short prompt does not queue
 * behind a long one.  What nobody wanted goes to the oldest again.
 *
 * Guesses (speculate.c) take what rows nobody else wants.
 *
 * When more choices decode than fit, those that waited longest go first, and a share stays with the
 * prompts: else a full house of streams would keep every prompt out until one of them ends.
 */
#include "scheduler/internal.h"

/* An eighth: decoding stays within 1/7 of its best rate, and prompts still move. */
enum { PROMPT_SHARE = 8 };

struct room {
    uint32_t rows, logits;
};

uint32_t batch_n_logits(const struct batch_item *item, uint32_t n_rows)
{
    if (item->n_prefill == 0 || n_rows == 0)
        return n_rows;
    bool has_last = n_rows == item->n_prefill;
    if (item->all_logits)
        return has_last && !item->last_logits ? n_rows - 1 : n_rows;
    return has_last && item->last_logits ? 1 : 0;
}

/* The most prompt rows of an item within the room there is. */
static uint32_t prompt_rows(const struct batch_item *item, uint32_t n_left, const struct room *room)
{
    uint32_t n = min_u32(n_left, room->rows);
    bool has_last = n == n_left;
    uint32_t n_free = has_last && !item->last_logits ? 1 : 0; /* rows that need no logits */
    if (item->all_logits)
        return n > room->logits + n_free ? room->logits : n;
    if (has_last && item->last_logits && room->logits == 0)
        return n - (n > 0);
    return n;
}

/* Adds rows to an item that may already have some; takes them from the room. */
static void give_prompt(struct batch_item *item, struct room *room)
{
    uint32_t n = prompt_rows(item, item->n_prefill - item->n_rows, room);
    uint32_t before = batch_n_logits(item, item->n_rows);
    item->n_rows += n;
    room->rows -= n;
    room->logits -= batch_n_logits(item, item->n_rows) - before;
}

static uint32_t share_kept(uint32_t limit)
{
    uint32_t kept = limit / PROMPT_SHARE;
    return kept > 0 ? kept : (limit > 1 ? 1 : 0);
}

/* How many choices may decode. */
static uint32_t decode_limit(const struct batch_limits *limits, bool has_prompts)
{
    uint32_t rows = limits->max_rows;
    uint32_t logits = limits->max_logit_rows;
    if (has_prompts) {
        rows -= share_kept(rows);
        logits -= share_kept(logits);
    }
    return min_u32(rows, logits);
}

static struct batch_item *longest_waiting(struct batch_item *items, uint32_t n_items)
{
    struct batch_item *best = NULL;
    for (uint32_t i = 0; i < n_items; i++) {
        struct batch_item *it = &items[i];
        if (it->n_prefill == 0 && it->n_rows == 0 && (!best || it->waited > best->waited))
            best = it;
    }
    return best;
}

/* Returns how many rows were given. */
static uint32_t pick_decoding(struct batch_item *items, uint32_t n_items, uint32_t n_decoding,
                              uint32_t limit)
{
    if (n_decoding > limit) {
        for (uint32_t i = 0; i < limit; i++)
            longest_waiting(items, n_items)->n_rows = 1;
        return limit;
    }
    for (uint32_t i = 0; i < n_items; i++)
        if (items[i].n_prefill == 0)
            items[i].n_rows = 1;
    return n_decoding;
}

/* What is left, to guesses.  Returns how many rows were given. */
static uint32_t give_drafts(struct batch_item *items, uint32_t n_items, struct room room)
{
    uint32_t left = min_u32(room.rows, room.logits), before = left;
    for (uint32_t i = 0; i < n_items; i++) {
        if (items[i].n_prefill > 0 || items[i].n_rows == 0)
            continue;
        uint32_t n = min_u32(items[i].n_drafts, left);
        items[i].n_rows += n;
        left -= n;
    }
    return before - left;
}

static struct batch_item *oldest_prompt(struct batch_item *items, uint32_t n_items)
{
    for (uint32_t i = 0; i < n_items; i++)
        if (items[i].n_prefill > 0)
            return &items[i];
    return NULL;
}

/* The shortest prompt without rows that can have some. */
static struct batch_item *shortest_prompt(struct batch_item *items, uint32_t n_items,
                                          const struct room *room)
{
    struct batch_item *best = NULL;
    for (uint32_t i = 0; i < n_items; i++) {
        struct batch_item *it = &items[i];
        if (it->n_prefill == 0 || it->n_rows > 0)
            continue;
        if ((!best || it->n_prefill < best->n_prefill) && prompt_rows(it, it->n_prefill, room) > 0)
            best = it;
    }
    return best;
}

static void pick_prompts(struct batch_item *items, uint32_t n_items, struct room *room)
{
    struct batch_item *oldest = oldest_prompt(items, n_items);
    if (!oldest || room->rows == 0)
        return;

    struct room half = { (room->rows + 1) / 2, (room->logits + 1) / 2 };
    struct room rest = { room->rows - half.rows, room->logits - half.logits };
    give_prompt(oldest, &half);
    rest.rows += half.rows;
    rest.logits += half.logits;

    struct batch_item *it;
    while (rest.rows > 0 && (it = shortest_prompt(items, n_items, &rest)))
        give_prompt(it, &rest);
    give_prompt(oldest, &rest);
    *room = rest;
}

uint32_t batch_pick(struct batch_item *items, uint32_t n_items, const struct batch_limits *limits)
{
    uint32_t n_decoding = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        items[i].n_rows = 0;
        n_decoding += items[i].n_prefill == 0;
    }
    uint32_t limit = decode_limit(limits, n_decoding < n_items);
    uint32_t n_rows = pick_decoding(items, n_items, n_decoding, limit);
    uint32_t most = limits->max_prompt_rows > 0 ? limits->max_prompt_rows : limits->max_rows;
    struct room left = { min_u32(limits->max_rows - n_rows, most),
                         limits->max_logit_rows - n_rows };
    uint32_t before = left.rows;
    pick_prompts(items, n_items, &left);
    n_rows += before - left.rows;
    left.rows = limits->max_rows - n_rows;
    return n_rows + give_drafts(items, n_items, left);
}
