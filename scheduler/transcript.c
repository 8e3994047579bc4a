/* SPDX-License-Identifier: Apache-2.0
 *
 * transcript.c - the text of one choice: tokens in, deltas out.
 *
 *      0            n_text_sent                  n_text
 *      |  gone out  |  may go out  |  held back  |      `text` keeps from n_text_sent on
 *
 * Held back is the longest end of the text that could still become a stop string; the bytes of an
 * unfinished code point are held by the detokenizer and not counted in n_text yet.  A token goes
 * out with the first byte at or after the place where it was pushed, so that its log-probabilities
 * never run ahead of its text.
 *
 * Invariants: what all deltas show, joined, is the text that one delta at the end would show; no
 * delta ends inside a code point.
 * Scheduler thread only.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

/* Room for log-probabilities to begin with: the tokens that a usual stop string holds back. */
enum { LOGPROBS_INITIAL = 16 };

static bool is_continuation(char byte)
{
    return ((uint8_t)byte & 0xC0) == 0x80;
}

static uint32_t count_points(const char *text, size_t n)
{
    uint32_t points = 0;
    for (size_t i = 0; i < n; i++)
        points += !is_continuation(text[i]);
    return points;
}

static char *text_at(const struct transcript *t, size_t offset)
{
    return t->text + (offset - t->n_text_sent);
}

/* Counts n bytes written at the end of the text. */
static void grow_text(struct transcript *t, size_t n)
{
    t->n_points += count_points(text_at(t, t->n_text), n);
    t->n_text += n;
    assert(t->n_text - t->n_text_sent <= t->text_cap);
}

/* ---- memory ---- */

/* Bytes of text that the echoed tokens give, -1 if out of memory. */
static int64_t measure_echo(const struct transcript_options *opt)
{
    char *scratch = malloc(engine_detok_max(opt->engine) + ENGINE_DETOK_MIN);
    if (!scratch)
        return -1;
    struct engine_detok detok;
    engine_detok_init(&detok, opt->engine, opt->skip_special, true);
    int64_t n = 0;
    for (uint32_t i = 0; i < opt->n_echo; i++)
        n += (int64_t)engine_detok_push(&detok, opt->echo[i], scratch);
    free(scratch);
    return n;
}

static int take_memory(struct transcript *t, const struct transcript_options *opt)
{
    int64_t n_echo_text = measure_echo(opt);
    if (n_echo_text < 0 || __builtin_add_overflow(opt->n_echo, opt->max_tokens, &t->tokens_cap))
        return -1;
    t->tokens = calloc((size_t)t->tokens_cap + 1, sizeof(*t->tokens));
    t->starts = calloc((size_t)t->tokens_cap + 1, sizeof(*t->starts));
    /* The echo, what a stop string holds back, the tokens of a step and the flush. */
    t->text_cap = (size_t)n_echo_text + (opt->stops ? opt->stops->max_len : 0) +
                  TRANSCRIPT_MAX_PUSHES * engine_detok_max(opt->engine) + 2 * ENGINE_DETOK_MIN;
    t->text = malloc(t->text_cap);
    if (opt->with_logprobs) {
        t->logprobs_cap = opt->n_echo + LOGPROBS_INITIAL;
        t->logprobs = calloc(t->logprobs_cap, sizeof(*t->logprobs));
    }
    bool has_all = t->tokens && t->starts && t->text && (t->logprobs || !opt->with_logprobs);
    return has_all ? 0 : -1;
}

/* Tokens without text of their own wait for the next text without limit (a model that repeats a
 * control token), so the room for their log-probabilities can only be guessed beforehand. */
static int make_room_for_logprobs(struct transcript *t)
{
    uint32_t n = t->n_tokens - t->n_tokens_sent;
    if (!t->with_logprobs || n < t->logprobs_cap)
        return 0;
    uint32_t cap = 2 * t->logprobs_cap;
    struct sched_logprobs *bigger = reallocarray(t->logprobs, cap, sizeof(*bigger));
    if (!bigger)
        return -1;
    t->logprobs = bigger;
    t->logprobs_cap = cap;
    return 0;
}

/* ---- tokens ---- */

static void append_token(struct transcript *t, int32_t token)
{
    assert(t->n_tokens < t->tokens_cap);
    if (t->with_logprobs)
        t->logprobs[t->n_tokens - t->n_tokens_sent] = (struct sched_logprobs){
            .token = token, .text_offset = t->n_points
        };
    t->tokens[t->n_tokens] = token;
    t->starts[t->n_tokens] = t->n_text;
    t->n_tokens++;
}

static void set_logprob(struct transcript *t, uint32_t i, const struct engine_sample *from)
{
    if (!t->with_logprobs)
        return;
    struct sched_logprobs *lp = &t->logprobs[i - t->n_tokens_sent];
    lp->has_logprob = true;
    lp->logprob = from->logprob;
    lp->n_top = (uint32_t)from->n_top;
    memcpy(lp->top, from->top, lp->n_top * sizeof(lp->top[0]));
}

int transcript_init(struct transcript *t, const struct transcript_options *opt)
{
    *t = (struct transcript){
        .stops = opt->stops,
        .include_stop = opt->include_stop,
        .with_logprobs = opt->with_logprobs,
        .n_echo = opt->n_echo,
        .match = -1,
    };
    if (take_memory(t, opt)) {
        transcript_fini(t);
        return -1;
    }
    engine_detok_init(&t->detok, opt->engine, opt->skip_special, opt->n_echo > 0);
    for (uint32_t i = 0; i < opt->n_echo; i++) {
        append_token(t, opt->echo[i]);
        grow_text(t, engine_detok_push(&t->detok, opt->echo[i], text_at(t, t->n_text)));
    }
    return 0;
}

void transcript_fini(struct transcript *t)
{
    free(t->tokens);
    free(t->starts);
    free(t->text);
    free(t->logprobs);
    *t = (struct transcript){ .match = -1 };
}

void transcript_set_echo_logprob(struct transcript *t, uint32_t i, const struct engine_sample *from)
{
    assert(i < t->n_echo && t->n_tokens_sent == 0);
    set_logprob(t, i, from);
}

/* ---- stop strings ---- */

/* Never inside a code point, whatever bytes a stop string has. */
static size_t floor_to_point(const struct transcript *t, size_t offset)
{
    while (offset > t->n_text_sent && offset < t->n_text && is_continuation(*text_at(t, offset)))
        offset--;
    return offset;
}

/* A stop string ends before byte `end`. */
static void cut_at(struct transcript *t, size_t end, const struct stop_node *node)
{
    t->match = node->match;
    t->cut = true;
    t->n_text = floor_to_point(t, t->include_stop ? end : end - node->match_len);
}

/* Searches the text from byte `from` on. */
static void search_stops(struct transcript *t, size_t from, bool counts)
{
    if (!t->stops)
        return;
    for (size_t i = from; i < t->n_text; i++) {
        t->stop_state = stops_next(t->stops, t->stop_state, (uint8_t)*text_at(t, i));
        const struct stop_node *node = &t->stops->nodes[t->stop_state];
        if (node->match >= 0 && counts) {
            cut_at(t, i + 1, node);
            return;
        }
    }
}

int transcript_push(struct transcript *t, int32_t token, const struct engine_sample *from,
                    unsigned flags)
{
    assert(!t->cut);
    if (make_room_for_logprobs(t))
        return -1;
    append_token(t, token);
    set_logprob(t, t->n_tokens - 1, from);
    if (flags & TRANSCRIPT_NO_TEXT)
        return 0;
    size_t before = t->n_text;
    grow_text(t, engine_detok_push(&t->detok, token, text_at(t, t->n_text)));
    search_stops(t, before, !(flags & TRANSCRIPT_NO_STOP));
    return 0;
}

void transcript_end(struct transcript *t)
{
    if (!t->cut)
        grow_text(t, engine_detok_flush(&t->detok, text_at(t, t->n_text)));
}

/* ---- deltas ---- */

static size_t text_free_to_go(const struct transcript *t)
{
    if (!t->stops || t->cut)
        return t->n_text;
    size_t held = t->stops->nodes[t->stop_state].depth;
    return floor_to_point(t, t->n_text - held);
}

/* A token without text has its place at the start of what follows, or at the very end. */
static bool token_may_go(const struct transcript *t, uint32_t i, size_t text_end, bool all)
{
    return t->starts[i] < text_end || (all && !t->cut);
}

struct transcript_delta transcript_peek(const struct transcript *t, bool all)
{
    size_t end = all ? t->n_text : text_free_to_go(t);
    uint32_t n = t->n_tokens_sent;
    while (n < t->n_tokens && token_may_go(t, n, end, all))
        n++;
    return (struct transcript_delta){
        .text = { t->text, end - t->n_text_sent },
        .tokens = t->tokens + t->n_tokens_sent,
        .n_tokens = n - t->n_tokens_sent,
        .logprobs = t->logprobs,
    };
}

void transcript_drop(struct transcript *t, const struct transcript_delta *delta)
{
    t->n_text_sent += delta->text.len;
    memmove(t->text, t->text + delta->text.len, t->n_text - t->n_text_sent);
    t->n_tokens_sent += delta->n_tokens;
    if (t->with_logprobs)
        memmove(t->logprobs, t->logprobs + delta->n_tokens,
                (t->n_tokens - t->n_tokens_sent) * sizeof(*t->logprobs));
}
