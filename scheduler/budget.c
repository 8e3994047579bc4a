/* SPDX-License-Identifier: Apache-2.0
 *
 * budget.c - how many prompt rows a step may have, from what steps have cost.  Pure.
 *
 * A step costs what its decoding rows cost alone, plus so much per prompt row:
 *     ns = decode_ns[rows that decode] + row_ns * prompt rows
 * Both are learnt from the steps themselves, as moving averages: decode_ns by powers of two of the
 * rows, since the weights are read once for all of them, row_ns from what is left of mixed steps.  It
 * grows with the context and with other load on the machine, and the average follows.
 *
 * While streams run, a step may take itl_target_ns (by default twice what they alone would take); else
 * BUDGET_STEP_NS, so that a client that leaves and a server that stops wait no longer.
 *
 * A row that decodes costs no less than a prompt row, but for attention over a long context, so as many
 * prompt rows as rows decode at most double a step, whatever was learnt: where prompts wait all the time,
 * no step shows what streams take alone.
 */
#include "scheduler/internal.h"

/* Of the newest step: follows within a few. */
static const double AVERAGE_WEIGHT = 0.25;
/* What disturbs a step makes it longer, so what streams take alone falls at once and rises slowly: it is near
 * what they take undisturbed. */
static const double RISING_WEIGHT = 0.02;
/* Of what is expected at most: a step during which something else had the cores says little. */
static const double MOST_SURPRISE = 4;
/* Of the target is aimed at: steps shall stay within it, and half of them take longer than expected. */
static const double AIM = 0.95;
static const double FADING = 0.998; /* per step: half within some 350 */

static uint32_t bucket_of(uint32_t n_rows)
{
    uint32_t bucket = 0;
    while (bucket + 1 < BUDGET_N_BUCKETS && (1u << bucket) < n_rows)
        bucket++;
    return bucket;
}

double budget_decode_ns(const struct budget *b, uint32_t n_decoding)
{
    if (n_decoding == 0)
        return 0;
    uint32_t at = bucket_of(n_decoding);
    for (uint32_t i = at + 1; i-- > 0;)
        if (b->decode_ns[i] > 0)
            return b->decode_ns[i];
    for (uint32_t i = at + 1; i < BUDGET_N_BUCKETS; i++)
        if (b->decode_ns[i] > 0)
            return b->decode_ns[i];
    return 0;
}

static void follow(double *average, double now, double rising_weight)
{
    if (*average <= 0) {
        *average = now;
        return;
    }
    double most = *average * MOST_SURPRISE;
    double weight = now < *average ? AVERAGE_WEIGHT : rising_weight;
    *average += weight * ((now < most ? now : most) - *average);
}

/* More rows never take less.  What was not seen for long is believed less and less, so that one slow
 * step does not keep its number of rows from being tried again (see speculate.c). */
static void note_decode(struct budget *b, uint32_t at, double ns)
{
    follow(&b->decode_ns[at], ns, RISING_WEIGHT);
    double now = b->decode_ns[at];
    for (uint32_t i = 0; i < at; i++)
        b->decode_ns[i] = b->decode_ns[i] < now ? b->decode_ns[i] : now;
    for (uint32_t i = at + 1; i < BUDGET_N_BUCKETS; i++) {
        double faded = b->decode_ns[i] * FADING;
        if (b->decode_ns[i] > 0)
            b->decode_ns[i] = faded > now ? faded : now;
    }
}

void budget_note(struct budget *b, uint32_t n_decoding, uint32_t n_prompt_rows, uint64_t ns)
{
    if (n_prompt_rows == 0 && n_decoding > 0) {
        note_decode(b, bucket_of(n_decoding), (double)ns);
    } else if (n_prompt_rows > 0) {
        double rest = (double)ns - budget_decode_ns(b, n_decoding);
        double least = (double)ns / (n_prompt_rows + n_decoding) / MOST_SURPRISE;
        double row = rest / n_prompt_rows;
        follow(&b->row_ns, row > least ? row : least, AVERAGE_WEIGHT);
    }
}

/* How long the next step may take beside streams that alone take `alone`. */
static double target_ns(const struct budget *b, uint32_t n_decoding, double alone)
{
    if (n_decoding > 0 && b->itl_target_ns > 0)
        return AIM * (double)b->itl_target_ns;
    return alone > 0 ? AIM * BUDGET_ITL_FACTOR * alone : BUDGET_STEP_NS;
}

static uint32_t least_rows(const struct budget *b, uint32_t n_decoding)
{
    uint32_t rows = b->itl_target_ns > 0 ? 0 : (BUDGET_ITL_FACTOR - 1) * n_decoding;
    return rows > BUDGET_MIN_ROWS ? rows : BUDGET_MIN_ROWS;
}

uint32_t budget_rows(const struct budget *b, uint32_t n_decoding, uint32_t max_rows)
{
    double alone = budget_decode_ns(b, n_decoding), target = target_ns(b, n_decoding, alone);
    uint64_t rows = BUDGET_FIRST_ROWS, least = least_rows(b, n_decoding);
    if (b->row_ns > 0)
        rows = target > alone ? (uint64_t)((target - alone) / b->row_ns) : 0;
    if (rows < least)
        rows = least;
    return rows < max_rows ? (uint32_t)rows : max_rows;
}
