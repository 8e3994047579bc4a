/* SPDX-License-Identifier: Apache-2.0
 *
 * scheduler.h - many requests on one engine.
 *
 * Two ideas:
 *  1. A request is P prompts times n choices; each choice is one sequence of the engine, and the
 *     scheduler's one thread moves all of them forward together, step by step.
 *  2. Everything that happens to a request goes up through one callback, in order, from that
 *     thread.  The callback must not block.
 *
 * Threads: submit, cancel and stats from any thread; the callback runs on the scheduler's thread.
 */
#ifndef LACUNA_SCHEDULER_H
#define LACUNA_SCHEDULER_H

#include "engine/engine.h"

struct sched;
struct sched_request;

/* ---- requests ---- */

enum sched_finish {
    SCHED_FINISH_NONE = 0,
    SCHED_FINISH_STOP,   /* end token, stop token or stop string */
    SCHED_FINISH_LENGTH, /* max_tokens or the context */
};

enum sched_cancel_cause {
    SCHED_CANCEL_CLIENT = 1, /* the client left */
    SCHED_CANCEL_SLOW_READER,
    SCHED_CANCEL_DEADLINE,
    SCHED_CANCEL_SHUTDOWN,
};

struct sched_text {
    const char *data;
    size_t len;
};

struct sched_prompt {
    const int32_t *tokens; /* >= 1 of them */
    uint32_t n_tokens;
};

/* What to compute.  Copied by sched_submit; only ctx is kept as it is. */
struct sched_options_request {
    const struct sched_prompt *prompts;
    uint32_t n_prompts;
    uint32_t n;          /* choices per prompt */
    uint32_t max_tokens; /* per choice, at most what its prompt leaves of the context (then it ends
                          * with LENGTH there); 0: prefill only (and the echo) */
    uint32_t min_tokens;
    struct engine_sampling sampling;
    const struct sched_text *stops; /* none empty */
    uint32_t n_stops;
    const int32_t *stop_tokens;
    uint32_t n_stop_tokens;
    bool ignore_eos;
    bool include_stop;      /* the stop string stays in the text */
    bool skip_special;      /* control tokens give no text */
    bool echo;              /* the prompt's text, and its log-probabilities, come first */
    int32_t n_logprobs;     /* -1: none; else alternatives per token */
    uint64_t deadline_ns;   /* CLOCK_MONOTONIC; 0: none */
    uint64_t max_decode_ns; /* after its first token a choice ends with LENGTH; 0: no limit */
    int64_t priority;       /* lower runs earlier, and is paused later; 0 is usual */
    uint64_t key;           /* whose request it is: waiting keys are served in turn; 0: nobody's */
    struct sched_text cache_salt; /* only requests of the same salt share prefixes; may be empty */
    bool no_cache;                /* neither looks for a stored prefix nor leaves one */
    uint32_t point;               /* what its decoded tokens do without: engine_info.points */
    bool progress;                /* SCHED_EVENT_PROGRESS while the prompt is computed */
    void *ctx;                    /* for the callback */
};

/* One token's log-probabilities. */
struct sched_logprobs {
    int32_t token;
    uint32_t text_offset; /* code points from the start of the choice's text, prompt included with
                           * echo */
    bool has_logprob;     /* false only for the first token of an echoed prompt */
    float logprob;
    uint32_t n_top;
    struct engine_logprob top[ENGINE_MAX_TOP];
};

struct sched_usage {
    uint32_t prompt_tokens; /* each prompt once */
    uint32_t cached_tokens;
    uint32_t completion_tokens; /* sum over the choices; end and stop tokens count */
    uint32_t drafted_tokens;    /* guessed and computed (sched_options.speculate) */
    uint32_t accepted_tokens;   /* of these, which then were chosen */
    uint64_t replaced_experts;  /* of decoded tokens and drafts: engine_options.experts_kept */
    /* Of these, too: rows that were computed at an operating point, and of all their neurons those whose rows of up
     * and columns of down were (engine_info.n_neurons for each row). */
    uint64_t decoded_rows, up_neurons, down_neurons;
    uint64_t pages_seen, pages_read; /* where pages were chosen, of all layers and KV heads */
    uint32_t point;                  /* of the request */
};

/* Of a choice's prompt: the first event has n_done == n_cached, the last n_done == n_total, and
 * n_done rises strictly. */
struct sched_progress {
    uint32_t n_total, n_cached, n_done;
    uint64_t ns; /* since the choice was admitted */
};

enum sched_event_kind {
    SCHED_EVENT_ADMITTED, /* once: left the queue */
    SCHED_EVENT_PROGRESS, /* if asked for: prompt tokens computed so far; none after a choice's
                           * first DELTA */
    SCHED_EVENT_DELTA,    /* a choice's new text; also the first token of each choice */
    SCHED_EVENT_FINISHED, /* a choice's end: finish and its last text (may be empty) */
    SCHED_EVENT_DONE,     /* the request is over; nothing follows */
    SCHED_EVENT_FAILED,   /* the request is over, with error; nothing follows */
    SCHED_EVENT_CANCELLED /* the request is over; nothing follows */
};

/* Valid only during the callback. */
struct sched_event {
    enum sched_event_kind kind;
    void *ctx;
    uint32_t choice;        /* prompt index * n + choice index */
    struct sched_text text; /* whole code points */
    const int32_t *tokens;  /* that this text came from; with echo the prompt's come first; an end
                             * token is among them, tokens of text that a stop cut off are not */
    uint32_t n_tokens;
    const struct sched_logprobs *logprobs; /* n_tokens of them if n_logprobs >= 0 */
    enum sched_finish finish;
    const char *stop_string; /* which one matched, or NULL */
    size_t stop_string_len;
    int32_t stop_token;             /* the stop token that ended it, -1 if none or an end token */
    struct sched_usage usage;       /* so far */
    struct engine_err err;          /* SCHED_EVENT_FAILED */
    enum sched_cancel_cause cause;  /* SCHED_EVENT_CANCELLED */
    struct sched_progress progress; /* SCHED_EVENT_PROGRESS */
    uint64_t queue_ns, ttft_ns;     /* DONE: waited in the queue; submit to first token */
    uint64_t prefill_ns, decode_ns; /* DONE: admitted to first token; first token to end */
};

typedef void sched_event_fn(const struct sched_event *ev);

/* ---- the scheduler ---- */

struct sched_options { /* valid when zeroed but for on_event */
    sched_event_fn *on_event;
    uint32_t max_seqs;          /* sequences running at once; 0: 256 */
    uint32_t max_queue;         /* requests waiting; 0: 64 */
    uint64_t max_queue_tokens;  /* prompt tokens waiting; 0: 4 x n_ctx */
    uint64_t max_queue_wait_ns; /* 0: 60 s */
    uint64_t itl_target_ns;     /* between tokens of running streams while prompts are computed;
                                 * 0: twice what the streams take alone */
    bool speculate;             /* compute guesses at the next tokens in the same step where that is
                                 * likely to be faster: see speculate.c; changes no answer */
};

/* Starts the thread.  e must outlive the scheduler, which alone steps it. */
int sched_open(struct sched **out, struct engine *e, const struct sched_options *opt,
               struct engine_err *err);
/* Cancels what is left (SCHED_CANCEL_SHUTDOWN), delivers its events, joins the thread. */
void sched_close(struct sched *s); /* NULL is fine */

/* max_queue, max_queue_tokens and max_queue_wait_ns of opt count from now on, also for what waits
 * already; nothing is refused that was let in.  Any thread. */
void sched_set_queue_limits(struct sched *s, const struct sched_options *opt);

enum sched_refusal {
    SCHED_REFUSED_NONE = 0,
    SCHED_REFUSED_QUEUE_FULL,    /* max_queue */
    SCHED_REFUSED_TOKEN_BACKLOG, /* max_queue_tokens */
    SCHED_REFUSED_TOO_LARGE,     /* can never fit into the KV pages: err says the numbers */
    SCHED_REFUSED_CLOSING,
    SCHED_REFUSED_MEMORY,
};

/* Reserves a queue seat for about n_tokens of prompt before the work of tokenizing; the seat is
 * given back by sched_submit (which then counts the true tokens) or sched_unreserve. */
enum sched_refusal sched_reserve(struct sched *s, uint64_t n_tokens);
void sched_unreserve(struct sched *s, uint64_t n_tokens);

/* Queues a request whose seat of n_reserved tokens was reserved.  On success *out stays valid
 * until sched_release, which the caller must call exactly once after the last event (or earlier:
 * then after sched_cancel; ctx must live until the last event all the same).  The first event may
 * come before it returns.  On refusal no event ever comes, err is filled, and the seat is given
 * back. */
enum sched_refusal sched_submit(struct sched *s, const struct sched_options_request *req,
                                uint64_t n_reserved, struct sched_request **out,
                                struct engine_err *err);

/* Asks for the end of a request: an atomic flag, seen within a step.  Idempotent. */
void sched_cancel(struct sched_request *r, enum sched_cancel_cause cause);
void sched_release(struct sched_request *r);

/* Seconds until a refused request would be served, by the measured rates; 1 .. 60. */
uint32_t sched_retry_after(const struct sched *s);

/* ---- statistics ---- */

enum { SCHED_N_STEP_BOUNDS = 13, SCHED_N_STEP_TOKEN_BOUNDS = 13 };

struct sched_stats {                   /* monotonic unless called "now" */
    uint32_t running_now, waiting_now; /* requests */
    uint64_t waiting_tokens_now;
    uint32_t batch_size_now; /* sequences in the last step */
    uint64_t prompt_tokens;  /* of prompts that are in the cache, once each */
    uint64_t prefill_tokens; /* computed for that: less what was found, more what
                                               * was computed again after a pause */
    uint64_t generated_tokens;
    uint64_t prefix_query_tokens; /* looked for in the prefix cache */
    uint64_t prefix_hit_tokens;   /* and found: these were not computed */
    uint64_t preemptions;         /* choices paused because pages ran out */
    uint64_t drafted_tokens;      /* computed as guesses */
    uint64_t accepted_tokens;     /* of these, which then were chosen */
    uint64_t steps;
    uint64_t prefill_step_ns, decode_step_ns; /* time in steps with and without prompt rows */
    /* histograms of steps: counts per bucket, not cumulative, the last is +Inf */
    uint64_t prefill_step[SCHED_N_STEP_BOUNDS + 1], decode_step[SCHED_N_STEP_BOUNDS + 1];
    uint64_t step_tokens[SCHED_N_STEP_TOKEN_BOUNDS + 1], step_tokens_sum;
};
extern const double sched_step_bounds[SCHED_N_STEP_BOUNDS];             /* seconds */
extern const double sched_step_token_bounds[SCHED_N_STEP_TOKEN_BOUNDS]; /* 1 8 16 ... 16384 */

void sched_stats(const struct sched *s, struct sched_stats *out); /* takes no lock of the loop */

/* A choice that runs, as it was after the last step. */
struct sched_slot {
    uint64_t request; /* counts up from 1 with every request */
    uint32_t choice;
    uint32_t n_prompt, n_prefilled, n_decoded; /* tokens */
    uint64_t age_ns;                           /* since the request was submitted */
};
/* Up to cap of them, oldest first; returns how many run.  Takes no lock of the loop. */
uint32_t sched_slots(const struct sched *s, struct sched_slot *out, uint32_t cap);
uint32_t sched_max_seqs(const struct sched *s);

#endif
