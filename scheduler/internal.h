/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of scheduler/ share.
 *
 * From the ground up: batch.c and stops.c are pure; a transcript turns the tokens of one choice
 * into text; a choice is one sequence of the engine with its transcript; a request owns its
 * choices; the queue holds requests that wait; admit.c decides who runs; scheduler.c moves
 * everything.
 *
 * Threads: the queue has a lock, a request has one atomic flag and one atomic count, the statistics
 * are published words.  All the rest belongs to the scheduler's thread alone.
 */
#ifndef LACUNA_SCHEDULER_INTERNAL_H
#define LACUNA_SCHEDULER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "scheduler/scheduler.h"

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- batch.c: what goes into the next step ---- */

struct batch_limits {
    uint32_t max_rows;
    uint32_t max_logit_rows;
    uint32_t max_prompt_rows; /* so that a step stays short: see budget.c; 0: none */
};

/* One running choice, seen from the step. */
struct batch_item {
    uint32_t n_prefill; /* prompt rows still to compute; 0: it decodes, one row with logits */
    bool all_logits;    /* every prompt row wants logits (but see last_logits) */
    bool last_logits;   /* the last prompt row wants logits */
    uint64_t waited;    /* steps since it last had a row; decides among too many that decode */
    uint32_t n_drafts;  /* rows with logits that it would like besides, if it decodes */
    uint32_t n_rows;    /* out: rows in this step */
};

/* Fills n_rows of all items, which come oldest first; returns their sum, at least 1 if n_items is.
 * Never more than the limits allow, logits included. */
uint32_t batch_pick(struct batch_item *items, uint32_t n_items, const struct batch_limits *limits);
/* Of the next n_rows of an item, how many want logits. */
uint32_t batch_n_logits(const struct batch_item *item, uint32_t n_rows);

/* ---- budget.c: how long a step may be.  Pure. ---- */

enum {
    BUDGET_STEP_NS = 150 * 1000 * 1000,
    BUDGET_ITL_FACTOR = 2,
    BUDGET_FIRST_ROWS = 64, /* before any step was timed */
    BUDGET_MIN_ROWS = 8,    /* fewer hardly make a step shorter: the weights are read once */
    BUDGET_N_BUCKETS = 12,
};

struct budget {
    uint64_t itl_target_ns; /* 0: BUDGET_ITL_FACTOR times what the streams take alone */
    double row_ns;          /* of a prompt row; 0: unknown */
    /* Of steps with up to 2^i decoding rows alone; 0: unknown. */
    double decode_ns[BUDGET_N_BUCKETS];
};

/* A step with so many rows of either kind took ns. */
void budget_note(struct budget *b, uint32_t n_decoding, uint32_t n_prompt_rows, uint64_t ns);
/* Prompt rows that the next step may have beside n_decoding rows. */
uint32_t budget_rows(const struct budget *b, uint32_t n_decoding, uint32_t max_rows);
/* What so many decoding rows take alone; of a number that was never seen, what the nearest smaller
 * one took, else the nearest larger; 0: not known. */
double budget_decode_ns(const struct budget *b, uint32_t n_decoding);

/* ---- speculate.c: what a choice may say next, and which guesses are worth a row.  Pure. ---- */

enum {
    SPECULATE_MAX = 15,         /* guesses of a choice in one step */
    SPECULATE_LEAST_MATCH = 2,  /* tokens that must have come before */
    SPECULATE_MOST_MATCH = 8,   /* more say nothing more */
    SPECULATE_N_CLASSES = 3,    /* of how long the match is */
    SPECULATE_MAX_CHOICES = 32, /* decoding together: beyond, each row costs its full price */
    SPECULATE_RETRY = 64,       /* refusals after which one guess is made all the same, to learn */
};

/* Prompt and output, joined. */
struct speculate_text {
    const int32_t *prompt, *output;
    uint32_t n_prompt, n_output;
};
/* Writes to draft what came after the text's end where it came before: at the latest of the longest
 * matches.  Returns how many tokens, at most `most`, and the length of the match. */
uint32_t speculate_lookup(const struct speculate_text *text, uint32_t most, int32_t *draft,
                          uint32_t *n_match);

/* How often guesses of a choice came true, by the length of the match. */
struct speculate_odds {
    double hit[SPECULATE_N_CLASSES];
};
void speculate_odds_init(struct speculate_odds *odds);
double speculate_odds_of(const struct speculate_odds *odds, uint32_t n_match);
void speculate_learn(struct speculate_odds *odds, uint32_t n_match, bool is_hit);

/* The guesses of one choice: each is right with this likelihood if all before it are. */
struct speculate_item {
    double likelihood;
    uint32_t n_drafts;
    uint32_t n_rows; /* out: how many of them are worth a row */
};
/* Sets n_rows of the items, one of each choice that decodes, so that tokens per time are most, with at
 * most max_rows guesses.  *n_refused counts steps in which none was.  Returns the sum. */
uint32_t speculate_pick(struct speculate_item *items, uint32_t n_items, uint32_t max_rows,
                        const struct budget *costs, uint32_t *n_refused);

/* ---- stops.c: stop strings as one automaton ---- */

struct stop_node {
    uint32_t child, sibling; /* first child; next child of the same parent; 0: none */
    uint32_t fail;           /* longest proper suffix that is a prefix of some stop string */
    uint32_t depth;
    uint32_t next; /* queue link, while building */
    int32_t match; /* the longest stop string that ends here, -1: none */
    uint32_t match_len;
    uint8_t byte;
};

struct stops {
    struct stop_node *nodes; /* [0] is the root; caller's memory */
    uint32_t n_nodes;
    size_t max_len;
};

/* nodes has room for 1 + the bytes of all texts, zeroed; no text is empty. */
void stops_build(struct stops *stops, struct stop_node *nodes, const struct sched_text *texts,
                 uint32_t n_texts);
uint32_t stops_next(const struct stops *stops, uint32_t state, uint8_t byte);

/* ---- transcript.c: tokens in, whole code points out ---- */

/* Between two drops. */
enum { TRANSCRIPT_MAX_PUSHES = 1 + SPECULATE_MAX };

struct transcript_options {
    const struct engine *engine;
    const struct stops *stops; /* NULL: none */
    const int32_t *echo;       /* tokens that come first, not searched for stops */
    uint32_t n_echo;
    uint32_t max_tokens; /* after them */
    bool skip_special;
    bool include_stop;
    bool with_logprobs;
};

struct transcript {
    struct engine_detok detok;
    const struct stops *stops;
    bool include_stop, with_logprobs;
    bool cut; /* a stop string matched: the text ends at n_text for good */

    int32_t *tokens; /* echo, then output */
    size_t *starts;  /* byte of the text before which each token was pushed */
    uint32_t n_echo;
    uint32_t n_tokens, n_tokens_sent, tokens_cap;

    char *text; /* [n_text_sent, n_text) of the text */
    size_t n_text, n_text_sent, text_cap;
    uint32_t n_points; /* code points in n_text */

    struct sched_logprobs *logprobs; /* of tokens [n_tokens_sent, n_tokens) */
    uint32_t logprobs_cap;

    uint32_t stop_state;
    int32_t match; /* stop string that ended the text, -1: none */
};

struct transcript_delta {
    struct sched_text text;
    const int32_t *tokens;
    uint32_t n_tokens;
    const struct sched_logprobs *logprobs;
};

/* Takes all memory; the echo is in afterwards.  -1: out of memory, nothing is held. */
int transcript_init(struct transcript *t, const struct transcript_options *opt);
void transcript_fini(struct transcript *t); /* a zeroed one is fine */
/* The log-probability of echoed token i, once computed. */
void transcript_set_echo_logprob(struct transcript *t, uint32_t i,
                                 const struct engine_sample *from);
enum transcript_flags {
    TRANSCRIPT_NO_TEXT = 1, /* the token gives no text */
    TRANSCRIPT_NO_STOP = 2, /* a stop string that ends here does not count */
};
/* One generated token.  from: its log-probabilities, used if with_logprobs.  Returns -1 only when
 * out of memory, and then has changed nothing. */
int transcript_push(struct transcript *t, int32_t token, const struct engine_sample *from,
                    unsigned flags);
/* No token follows: what the detokenizer holds becomes text, unless a stop string cut it. */
void transcript_end(struct transcript *t);
/* What may go out now; with `all`, everything.  Valid until the next call of transcript_*. */
struct transcript_delta transcript_peek(const struct transcript *t, bool all);
void transcript_drop(struct transcript *t, const struct transcript_delta *delta);

/* ---- choice.c: one sequence of the engine ---- */

/* PAUSED: it ran, and gave its pages to others; its tokens are kept and computed again. */
enum choice_state { CHOICE_WAITING, CHOICE_RUNNING, CHOICE_PAUSED, CHOICE_OVER };

struct choice {
    struct sched_request *req;
    uint32_t index;      /* prompt index * n + choice index */
    uint32_t max_tokens; /* the request's, or what its prompt leaves of the context */
    enum choice_state state;
    struct engine_seq *seq; /* may be open while it waits or is paused: then it waits for pages */
    uint64_t order;         /* of the first admission, among all choices */
    uint32_t n_computed;    /* positions in the cache */
    uint32_t n_judged;      /* positions whose logits were used: they are not wanted again */
    uint32_t n_drafts;      /* tokens behind the output in its array: guesses at what follows */
    uint32_t n_match;       /* that they were guessed from */
    struct speculate_odds odds;
    uint64_t last_step; /* number of the last step that had a row of it */
    struct transcript transcript;
    uint64_t admitted_ns, first_token_ns;
    uint32_t n_cached;        /* positions that came from the prefix cache */
    uint32_t n_progress_sent; /* n_computed + 1 of the last PROGRESS; 0: none was sent */
    bool started;             /* an event with its first token went out */
    enum sched_finish finish;
    int32_t stop_token;
};

/* From WAITING or PAUSED to RUNNING: opens the sequence, finds what is stored of it, has the pages of
 * its known tokens promised, leaves n_spare to others, takes its buffers.  known: room for n_ctx
 * tokens.  ENGINE_ERR_CAPACITY: call again once pages came back; any other error is final.  Either
 * way choice_close gives everything back. */
int choice_admit(struct choice *c, struct engine *e, int32_t *known, uint32_t n_spare,
                 struct engine_err *err);
/* From WAITING to RUNNING: goes on from where the leader, another choice of the same prompt, is. */
int choice_fork(struct choice *c, const struct choice *leader, struct engine_err *err);
/* The first choice of its prompt, which computes it for the others. */
bool choice_is_leader(const struct choice *c);
/* Is it one of the others, and may it go on from the leader? */
bool choice_follows(const struct choice *c);
/* Pages for its next n_rows rows; false: somebody must be paused. */
bool choice_grow(struct choice *c, uint32_t n_rows);
void choice_pause(struct choice *c); /* gives its pages back */
void choice_close(struct choice *c); /* idempotent; the state becomes CHOICE_OVER */
void choice_describe(const struct choice *c, uint64_t step, struct batch_item *item);
/* Of one that decodes: guesses at the tokens after the next row, for choice_set_drafts to choose how
 * many of them become rows behind it. */
void choice_draft(struct choice *c, struct speculate_item *item);
void choice_set_drafts(struct choice *c, uint32_t n);
/* Writes the next n_rows rows. */
void choice_rows(const struct choice *c, uint32_t n_rows, struct engine_row *rows);
/* The sampling job for a computed row; false if the row needs none. */
bool choice_job(const struct choice *c, const struct engine_row *row, struct engine_sample *job);
/* Is the job's result still of use?  Not once the choice has ended, nor behind a guess that was wrong. */
bool choice_awaits(const struct choice *c, const struct engine_sample *job);
/* Takes the result of a job that it awaits: an echoed token's log-probability or a new token. */
int choice_accept(struct choice *c, const struct engine_sample *job, struct engine_err *err);
uint32_t choice_n_prompt(const struct choice *c);
uint32_t choice_n_output(const struct choice *c);
/* max_tokens 0: the prompt is in, there is nothing to generate. */
bool choice_is_prefilled(const struct choice *c);
void choice_finish_prefilled(struct choice *c);

/* ---- preempt.c: whom to pause when pages run out.  Pure. ---- */

struct preempt_item {
    int64_t priority;
    uint64_t order;
    bool runs;
};
/* Is a less important than b, or as important and younger? */
bool preempt_is_worse(const struct preempt_item *a, const struct preempt_item *b);
/* Of those that run the least important, and of these the youngest; n if none does. */
uint32_t preempt_pick(const struct preempt_item *items, uint32_t n);

/* ---- fair.c: whose request is next ---- */

struct fair_key {
    uint64_t key;
    uint64_t deficit; /* tokens it may still start before the turn passes on */
    bool waits;
};

/* Deficit round robin over the keys that have requests waiting. */
struct fair {
    struct fair_key *keys;
    uint32_t n, cap, turn;
};
void fair_fini(struct fair *f);
/* Of the requests of a list, oldest first, those with the lowest priority value; of these the oldest
 * one of the key whose turn it is.  NULL for an empty list.  Out of memory it is the oldest. */
struct sched_request *fair_pick(struct fair *f, struct sched_request *list);
/* One that was picked does not start after all. */
void fair_return(struct fair *f, const struct sched_request *r);

/* ---- request.c ---- */

enum request_state { REQUEST_QUEUED, REQUEST_RUNNING, REQUEST_OVER };

/* No event ends a request by having been admitted. */
#define FATE_OPEN SCHED_EVENT_ADMITTED

struct sched_request {
    atomic_uint refs;           /* the caller and the scheduler */
    atomic_int cancel_cause;    /* enum sched_cancel_cause; 0: not cancelled; the first one stays */
    struct sched_request *next; /* in the queue, or in the scheduler's list */
    enum request_state state;

    struct sched_options_request opt; /* all pointers are into this block */
    struct stops stops;
    const int32_t *banned; /* until min_tokens */
    uint32_t n_banned;
    uint64_t number;                       /* 1, 2, ... in the order of submission */
    uint64_t n_prompt_tokens;              /* each prompt once */
    uint64_t n_work_prompt, n_work_output; /* rows and tokens to compute, all choices */

    struct choice *choices;
    uint32_t n_choices, n_admitted, n_over;
    bool failed;
    struct engine_err err;
    enum sched_event_kind fate; /* the last event, once decided; FATE_OPEN until then */

    struct sched_usage usage;
    uint64_t submitted_ns, admitted_ns, first_token_ns, end_ns;
};

/* What request_new must know of the engine. */
struct request_limits {
    const struct engine *engine;
    const int32_t *ends; /* all end tokens */
    uint32_t n_ends;
    uint32_t max_positions; /* of a sequence that empty KV pages hold */
};

/* Checks and copies; one block of memory.  On success *out has two references. */
enum sched_refusal request_new(struct sched_request **out, const struct sched_options_request *opt,
                               const struct request_limits *limits, struct engine_err *err);
void request_put(struct sched_request *r); /* drops one reference */
/* The only function that changes the state; forward only. */
void request_set_state(struct sched_request *r, enum request_state state);
void request_fail(struct sched_request *r, const struct engine_err *err); /* the first one stays */
/* Past its deadline it counts as cancelled; returns the cause or 0. */
enum sched_cancel_cause request_cancelled(struct sched_request *r, uint64_t now);

uint64_t clock_now_ns(void);

/* ---- queue.c ---- */

struct queue_limits {
    uint32_t max_requests;
    uint64_t max_tokens;
    uint64_t max_wait_ns;
};

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    struct queue_limits limits;
    struct sched_request *head, *tail; /* in the order of arrival */
    struct sched_request *chosen;      /* who is next, once asked for; NULL: not yet chosen */
    struct fair fair;
    bool closing;
    uint32_t n_reserved;
    uint64_t n_reserved_tokens;
    /* written under the lock, read by anyone */
    atomic_uint n_requests;
    _Atomic uint64_t n_tokens, n_work_prompt, n_work_output;
};

int queue_init(struct queue *q, const struct queue_limits *limits);
void queue_fini(struct queue *q); /* must be empty */
void queue_set_limits(struct queue *q, const struct queue_limits *limits);
enum sched_refusal queue_reserve(struct queue *q, uint64_t n_tokens);
void queue_unreserve(struct queue *q, uint64_t n_tokens);
/* Gives the reservation back in every case. */
enum sched_refusal queue_push(struct queue *q, struct sched_request *r, uint64_t n_reserved,
                              struct engine_err *err);
/* Takes out those that must not wait any longer (cancelled, past their deadline, waited too long:
 * failed) and returns them as a list. */
struct sched_request *queue_sweep(struct queue *q, uint64_t now);
/* Who is next: it stays in and stays next, unless something more important arrives.  NULL: none. */
struct sched_request *queue_next(struct queue *q);
void queue_pop(struct queue *q, struct sched_request *r);
/* Sleeps until somebody waits; false: the queue is closing. */
bool queue_wait(struct queue *q);
bool queue_is_closing(struct queue *q);
void queue_close(struct queue *q); /* refuses what comes, wakes the loop */

/* ---- sched_stats.c ---- */

struct step_facts {
    uint32_t n_seqs, n_rows, n_prompt_rows, n_generated, n_drafted, n_accepted;
    uint32_t n_prompt_tokens; /* of prompts that were completed */
    uint64_t ns;
};

enum { STATS_N_WORDS = sizeof(struct sched_stats) / sizeof(uint64_t) };

struct stats {
    struct sched_stats live;          /* the loop's own */
    double prefill_rate, decode_rate; /* rows per second, moving averages, of steps with prompt rows
                                       * and without; 0: not yet known */
    /* published after each step; version is odd while words change */
    _Atomic uint64_t version;
    _Atomic uint64_t words[STATS_N_WORDS];
    _Atomic uint64_t prefill_rate_milli, decode_rate_milli;
};

/* What runs, published like the statistics. */
struct slots {
    uint32_t cap;
    _Atomic uint64_t version;
    _Atomic uint32_t n;
    _Atomic uint64_t *words; /* [cap][SLOT_N_WORDS] */
};
enum { SLOT_N_WORDS = sizeof(struct sched_slot) / sizeof(uint64_t) };

int slots_init(struct slots *slots, uint32_t cap);
void slots_fini(struct slots *slots);
void slots_publish(struct slots *slots, struct choice *const *running, uint32_t n);

void stats_add_step(struct stats *st, const struct step_facts *facts);
void stats_publish(struct stats *st);
void stats_read(const struct stats *st, struct sched_stats *out);

/* ---- deliver.c: events ---- */

void deliver_admitted(sched_event_fn *on_event, const struct sched_request *r);
/* Nothing unless the request wants it, or when nothing was computed since the last. */
void deliver_progress(sched_event_fn *on_event, struct choice *c);
/* Sends what the choice may show; nothing if that is nothing new. */
void deliver_delta(sched_event_fn *on_event, struct choice *c);
void deliver_finished(sched_event_fn *on_event, struct choice *c);
/* DONE, FAILED or CANCELLED. */
void deliver_end(sched_event_fn *on_event, const struct sched_request *r,
                 enum sched_event_kind kind);

/* ---- scheduler.c ---- */

struct sched {
    struct engine *engine;
    sched_event_fn *on_event;
    uint32_t max_seqs;
    bool speculates;
    struct batch_limits limits; /* max_prompt_rows moves with each step */
    struct budget budget;
    int32_t *ends;
    uint32_t n_ends;
    uint32_t max_positions;
    struct queue queue;
    struct stats stats;
    struct slots slots;
    _Atomic uint64_t n_submitted;
    pthread_t thread;
    bool has_queue;

    /* the loop's; arrays of max_seqs, max_rows and max_logit_rows */
    struct choice **running; /* oldest first */
    uint32_t n_running;
    struct choice **paused; /* [paused_cap] the next to go on first */
    uint32_t n_paused, paused_cap;
    uint64_t n_orders;              /* choices admitted so far */
    struct sched_request *requests; /* those with a choice admitted, oldest first */
    bool blocked;                   /* the next choice found no pages, and none came back since */
    struct batch_item *items;
    struct speculate_item *drafts; /* [max_seqs] */
    uint32_t n_refused;            /* steps since one had a draft, of those that could */
    struct preempt_item *victims;  /* [max_seqs] */
    struct engine_row *rows;
    struct engine_sample *jobs; /* [max_logit_rows + max_seqs], as job_choices */
    struct choice **job_choices;
    int32_t *known; /* [n_ctx] */
    uint64_t step;
};

/* ---- admit.c: who runs ---- */

/* Admits one choice; false if that has to wait, or the next retire has something to do first. */
bool admit_next(struct sched *s);
/* A choice that has become CHOICE_RUNNING takes its place among those that run. */
void admit_started(struct sched *s, struct choice *c);
/* Pages for all rows of the step (s->items), the oldest choices first; pauses whom it must. */
void admit_make_room(struct sched *s);

#endif
