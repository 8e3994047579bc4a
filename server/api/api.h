/* SPDX-License-Identifier: Apache-2.0
 *
 * api.h - the handlers behind the routes, and what they share.
 */
#ifndef LACUNA_SERVER_API_H
#define LACUNA_SERVER_API_H

#include "server/api/api_parse.h"
#include "server/http/http.h"

/* ---- on a preparation thread ---- */
prepare_fn api_completions_prepare; /* completions.c */
prepare_fn api_chat_prepare;
prepare_fn api_template_prepare; /* chat.c */
prepare_fn api_tokenize_prepare; /* tokens.c */
prepare_fn api_detokenize_prepare;

/* ---- at once, on an HTTP thread ---- */
http_answer_fn api_models_answer; /* models.c */
http_answer_fn api_model_answer;
http_answer_fn api_live_answer; /* health.c */
http_answer_fn api_ready_answer;
http_answer_fn api_version_answer;
http_answer_fn api_metrics_answer;
http_answer_fn api_embeddings_answer;
http_answer_fn api_v2_live_answer;
http_answer_fn api_v2_ready_answer;
http_answer_fn api_v2_model_ready_answer;
http_answer_fn api_props_answer; /* props.c */
http_answer_fn api_slots_answer;

/* The 503 of a server that is loading, draining or stuck; API_OK if requests are served. */
void api_check_state(const struct srv *s, struct api_error *e);

/* The scheduler's events, for sched_open. */
sched_event_fn api_on_event; /* completions.c */

/* ---- prepare.c: the preparation threads ---- */

int prepare_open(struct prepare **out, struct engine_err *err);
/* Hands a request over; takes a reference of its own. */
void prepare_push(struct prepare *p, struct http_exchange *x);
/* What still waits is answered with 503. */
void prepare_close(struct prepare *p);

/* ---- shared by the handlers on the preparation threads ---- */

void api_limits_of(const struct srv *s, struct api_limits *out);
/* API_MODEL_NOT_FOUND unless the server has this model; NULL is fine. */
int api_check_model(const struct srv *s, const char *model, struct api_error *e);
/* One warning now and then that names the fields that mean nothing here. */
void api_warn_unknown(struct http_exchange *x, const struct api_unknown *unknown);

/* ---- api_render.c: pure ---- */

/* How the same work is told: as a completion or as a chat. */
enum api_object {
    API_TEXT_COMPLETION, /* whole or in chunks: the object's name is the same */
    API_CHAT_COMPLETION,
    API_CHAT_CHUNK,
};

/* What every chunk and answer of a request begins with. */
struct api_head {
    enum api_object object;
    const char *id; /* without its prefix */
    int64_t created;
    const char *model, *fingerprint;
};

/* One token's piece as the logprobs object shows it: text, "bytes:\xe2\x96", or "token_id:5". */
void api_render_piece(struct buf *b, const struct engine *e, int32_t token, bool as_id);

/* The parallel lists of a logprobs object, while they grow. */
struct api_logprobs {
    struct buf tokens, token_logprobs, top_logprobs, text_offset;
};
void api_logprobs_fini(struct api_logprobs *l);
void api_logprobs_clear(struct api_logprobs *l);
void api_logprobs_add(struct api_logprobs *l, const struct engine *e, bool as_ids,
                      const struct sched_logprobs *entries, uint32_t n);
void api_render_logprobs(struct buf *b, const struct api_logprobs *l);

struct api_choice { /* of a chunk or of an answer */
    uint32_t index;
    const char *text;
    size_t text_len;
    const struct api_logprobs *logprobs; /* NULL: null */
    enum sched_finish finish;
    const char *stop_string; /* NULL: none */
    size_t stop_string_len;
    int32_t stop_token;        /* -1: none */
    const int32_t *prompt_ids; /* NULL: not shown */
    size_t n_prompt_ids;
    const struct buf *token_ids; /* "1,2,3"; NULL: not shown */
};
void api_render_choice(struct buf *b, const struct api_choice *c);

/* ---- api_render_chat.c: the same of chats ---- */

/* One object per token: {token, logprob, bytes, top_logprobs}. */
void api_chat_logprobs_add(struct api_logprobs *l, const struct engine *e, bool as_ids,
                           const struct sched_logprobs *entry);
/* A choice with its whole message. */
void api_render_chat_choice(struct buf *b, const struct api_choice *c);
/* A choice's first chunk: whose turn it is. */
void api_render_chat_begin(struct buf *b, const struct api_choice *c);
/* What is new; an end is told apart, in a chunk of its own. */
void api_render_chat_delta(struct buf *b, const struct api_choice *c);
void api_render_chat_end(struct buf *b, const struct api_choice *c);

/* What follows finish_reason in a choice of either kind. */
void api_render_choice_rest(struct buf *b, const struct api_choice *c);

/* {"id":...,"choices":[ */
void api_render_head(struct buf *b, const struct api_head *h);
/* With what the engine approximates, if it does. */
void api_render_usage(struct buf *b, const struct sched_usage *u, const struct engine_info *info);

struct api_timings {             /* of the one choice of a request */
    uint32_t n_cached, n_prompt; /* found in the cache; computed */
    uint32_t n_predicted;
    uint32_t n_drafted, n_accepted;   /* see sched_usage */
    uint64_t prompt_ns, predicted_ns; /* admitted to first token; first to last token */
};
void api_render_timings(struct buf *b, const struct api_timings *t);
void api_render_progress(struct buf *b, const struct sched_progress *p);
void api_render_ids(struct buf *b, const int32_t *ids, size_t n); /* 1,2,3 */
const char *api_finish_name(enum sched_finish finish);            /* NULL: none */

#endif
