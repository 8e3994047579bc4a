/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_engine.h - engine.h without a model, for the tests of the scheduler.
 *
 * The logits after a sequence are a function of its tokens alone, so that a request must get the
 * same answer in any company; a test may also script what follows.  Every duty that engine.h lays
 * on the caller is checked, and steps can be held back one by one.
 */
#ifndef LACUNA_TESTS_FAKE_ENGINE_H
#define LACUNA_TESTS_FAKE_ENGINE_H

#include "engine/engine.h"

/* The vocabulary: 0..255 are bytes, then these, then pieces of text (see fake_token). */
enum {
    FAKE_BOS = 256, /* control */
    FAKE_EOS,       /* control, end */
    FAKE_END2,      /* control, end */
    FAKE_CONTROL,   /* control, not an end: gives no text unless wanted */
    FAKE_POISON,    /* a row with this token fails */
    FAKE_N_SPECIAL,
};

struct fake_engine_options { /* valid when zeroed */
    uint32_t n_ctx;          /* 0: 256 */
    uint32_t max_rows;       /* 0: 32 */
    uint32_t max_logit_rows; /* 0: 8 */
    uint32_t n_pages;        /* 0: 1024 */
    uint32_t page_tokens;    /* 0: 8 */
    uint32_t defer_every;    /* every so many rows, one is deferred; 0: none */
    uint32_t step_us;        /* how long a step takes */
    bool held;               /* start as after fake_engine_hold */
    bool random_ends;        /* unscripted text may end by itself */
    bool overestimates;      /* engine_fits says yes to everything */
};

struct engine *fake_engine_open(const struct fake_engine_options *opt); /* then engine_close */

/* The piece with exactly this text, a single byte included; aborts if there is none. */
int32_t fake_token(const char *piece);

/* Sequences that begin with token `first`: greedy sampling chooses tokens[i] at position start + i.
 * The array must live on. */
void fake_engine_script(struct engine *e, int32_t first, uint32_t start, const int32_t *tokens,
                        uint32_t n);

/* No further step begins until fake_engine_go; then n more do (UINT64_MAX: all). */
void fake_engine_hold(struct engine *e);
void fake_engine_go(struct engine *e, uint64_t n_steps);
/* Waits until a step is being held back. */
void fake_engine_wait_held(struct engine *e);

struct fake_engine_counts {
    uint32_t n_seqs, n_pages;          /* open and taken now */
    uint32_t max_seqs;                 /* most sequences in one step */
    uint32_t max_rows, max_logit_rows; /* most in one step */
    uint64_t n_steps;
};
void fake_engine_counts(const struct engine *e, struct fake_engine_counts *out);
/* The first duty that was not kept, or NULL. */
const char *fake_engine_violation(const struct engine *e);

#endif
