/* SPDX-License-Identifier: Apache-2.0
 *
 * completions.h - one POST /v1/completions or /v1/chat/completions on its way: completions.c prepares and submits it
 * (completions_prompt.c its prompts), completions_events.c takes the scheduler's events,
 * completions_answer.c tells what they made.
 *
 * Threads: what is prepared belongs to a preparation thread until sched_submit, then to the
 * scheduler's; `lock` guards what others look at meanwhile.  It is the innermost lock.
 */
#ifndef LACUNA_SERVER_COMPLETIONS_H
#define LACUNA_SERVER_COMPLETIONS_H

#include "server/api/chat.h"
#include "server/metrics.h"

struct completion_choice {
    struct buf text, token_ids;
    struct api_logprobs logprobs;
    struct buf stop_string;
    int32_t stop_token;
    enum sched_finish finish;
    uint32_t n_echo_left; /* prompt tokens still to come in events */
    uint32_t n_tokens;    /* generated, as seen in events */
    uint32_t n_tokens_sent;
    uint64_t last_token_ns;
    bool is_ahead; /* one was counted before it was seen */
    bool has_stop_string;
    bool is_begun; /* a chunk of it was sent */
};

struct completion {
    struct http_exchange *x; /* holds a reference from submit to the last event */
    struct srv *srv;
    struct api_completion req;

    /* Preparation. */
    struct chat_prompt chat;      /* of a chat, until it is tokenized */
    struct engine_tokens *tokens; /* of text prompts */
    struct sched_prompt *prompts;
    uint32_t n_tokenized;
    uint32_t point; /* of engine_info.points */
    uint32_t max_tokens;
    uint64_t n_reserved;
    bool has_seat;

    /* Events: the scheduler's thread. */
    struct completion_choice *choices;
    uint32_t n_choices;
    struct buf chunk;
    struct sched_usage usage;
    uint64_t admitted_ns, first_token_ns, last_token_ns, finished_ns;
    uint32_t n_gaps; /* observed between tokens */

    pthread_mutex_t lock;
    /* Under the lock. */
    struct sched_request *job; /* NULL before submit and after the last event */
    bool is_over;              /* the last event came */
    enum sched_cancel_cause cancel;
    struct http_usage log;
};

/* For an exchange that was submitted. */
extern const struct http_app completion_app;

/* ---- completions_prompt.c ---- */

/* Makes c->prompts[i]; refuses what the context cannot hold. */
int completion_tokenize(struct completion *c, uint32_t i, struct api_error *err);
/* Of text that is still to be tokenized. */
uint64_t completion_bytes_left(const struct completion *c);

/* ---- completions_answer.c ---- */

bool completion_has_news(const struct completion *c, const struct completion_choice *ch);
/* Chunks: what a choice gathered, and what it has become. */
void completion_send_choice(struct completion *c, uint32_t index);
void completion_send_progress(struct completion *c, const struct sched_progress *p);
void completion_send_usage(struct completion *c);
void completion_send_error(struct completion *c, const struct api_error *e);
/* Makes the whole answer of a request that is over. */
void completion_render(struct http_exchange *x, void *app, struct buf *body);

uint32_t completion_n_prompt(const struct completion *c, uint32_t choice);
struct api_head completion_head(const struct completion *c);

#endif
