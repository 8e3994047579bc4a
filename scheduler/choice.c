/* SPDX-License-Identifier: Apache-2.0
 *
 * choice.c - one choice of a request: one sequence of the engine and its transcript.
 *
 * Position p holds token p of prompt and output joined.  Rows [0, n_prompt) are the prompt; the
 * last of them gives the logits of the first new token, and each new token is the row that gives
 * the next.  The last new token is never computed.
 *
 * All memory and all pages are taken in choice_open, so that a choice that runs can end for its own
 * reasons only.
 * Scheduler thread only.
 */
#include <assert.h>

#include "scheduler/internal.h"

static const struct sched_prompt *prompt_of(const struct choice *c)
{
    return &c->req->opt.prompts[c->index / c->req->opt.n];
}

static const int32_t *output_of(const struct choice *c)
{
    return c->transcript.tokens + c->transcript.n_echo;
}

static uint32_t n_output_of(const struct choice *c)
{
    return c->transcript.n_tokens - c->transcript.n_echo;
}

uint32_t choice_n_prompt(const struct choice *c)
{
    return prompt_of(c)->n_tokens;
}

uint32_t choice_n_output(const struct choice *c)
{
    return n_output_of(c);
}

static bool wants_echo_logprobs(const struct choice *c)
{
    return c->req->opt.echo && c->req->opt.n_logprobs >= 0;
}

/* ---- open, close ---- */

static int open_transcript(struct choice *c, const struct engine *e, struct engine_err *err)
{
    const struct sched_options_request *opt = &c->req->opt;
    const struct sched_prompt *prompt = prompt_of(c);
    struct transcript_options topt = {
        .engine = e,
        .stops = opt->n_stops > 0 ? &c->req->stops : NULL,
        .echo = prompt->tokens,
        .n_echo = opt->echo ? prompt->n_tokens : 0,
        .max_tokens = c->max_tokens,
        .skip_special = opt->skip_special,
        .include_stop = opt->include_stop,
        .with_logprobs = opt->n_logprobs >= 0,
    };
    if (transcript_init(&c->transcript, &topt))
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for a choice of %u + %u tokens",
                           prompt->n_tokens, c->max_tokens);
    return 0;
}

int choice_open(struct choice *c, struct engine *e, struct engine_err *err)
{
    uint32_t n_positions = prompt_of(c)->n_tokens + c->max_tokens;
    if (!c->seq && engine_seq_open(e, n_positions, &c->seq, err))
        return -1;
    if (engine_seq_reserve(c->seq, n_positions, err))
        return -1;
    if (open_transcript(c, e, err))
        return -1;
    c->state = CHOICE_RUNNING;
    c->admitted_ns = clock_now_ns();
    return 0;
}

void choice_close(struct choice *c)
{
    engine_seq_close(c->seq);
    c->seq = NULL;
    transcript_fini(&c->transcript);
    if (c->state != CHOICE_OVER)
        c->req->n_over++;
    c->state = CHOICE_OVER;
}

/* ---- rows ---- */

void choice_describe(const struct choice *c, uint64_t step, struct batch_item *item)
{
    uint32_t n_prompt = prompt_of(c)->n_tokens;
    *item = (struct batch_item){
        .n_prefill = c->n_computed < n_prompt ? n_prompt - c->n_computed : 0,
        .all_logits = wants_echo_logprobs(c),
        .last_logits = c->max_tokens > 0,
        .waited = step - c->last_step,
    };
}

/* The logits of a prompt row give the first new token, or the log-probability of the next one. */
static bool wants_logits(const struct choice *c, uint32_t pos)
{
    uint32_t n_prompt = prompt_of(c)->n_tokens;
    if (pos + 1 < n_prompt)
        return wants_echo_logprobs(c);
    return c->max_tokens > 0;
}

void choice_rows(const struct choice *c, uint32_t n_rows, struct engine_row *rows)
{
    const struct sched_prompt *prompt = prompt_of(c);
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t pos = c->n_computed + i;
        rows[i] = (struct engine_row){
            .seq = c->seq,
            .token = pos < prompt->n_tokens ? prompt->tokens[pos]
                                            : output_of(c)[pos - prompt->n_tokens],
            .pos = pos,
            .want_logits = wants_logits(c, pos),
        };
    }
}

/* ---- sampling ---- */

bool choice_job(const struct choice *c, const struct engine_row *row, struct engine_sample *job)
{
    if (!row->want_logits)
        return false;
    const struct sched_options_request *opt = &c->req->opt;
    const struct sched_prompt *prompt = prompt_of(c);
    uint32_t n_output = n_output_of(c);
    bool echoes = row->pos + 1 < prompt->n_tokens;
    bool bans = n_output < opt->min_tokens && !echoes;
    *job = (struct engine_sample){
        .logits = row->logits,
        .params = &opt->sampling,
        .prompt = prompt->tokens,
        .n_prompt = prompt->n_tokens,
        .output = output_of(c),
        .n_output = n_output,
        .stream = (uint64_t)(c->index / opt->n) << 32 | c->index % opt->n,
        .position = row->pos + 1,
        .banned = c->req->banned,
        .n_banned = bans ? c->req->n_banned : 0,
        .forced = echoes ? prompt->tokens[row->pos + 1] : -1,
        .n_top = opt->n_logprobs,
    };
    return true;
}

static bool is_stop_token(const struct sched_options_request *opt, int32_t token)
{
    for (uint32_t i = 0; i < opt->n_stop_tokens; i++)
        if (opt->stop_tokens[i] == token)
            return true;
    return false;
}

enum token_kind { TOKEN_TEXT, TOKEN_END, TOKEN_STOP };

static enum token_kind kind_of(const struct choice *c, int32_t token)
{
    const struct sched_options_request *opt = &c->req->opt;
    if (!opt->ignore_eos && engine_token_is_end(c->transcript.detok.e, token))
        return TOKEN_END;
    return is_stop_token(opt, token) ? TOKEN_STOP : TOKEN_TEXT;
}

static void finish(struct choice *c, enum sched_finish why, int32_t stop_token)
{
    c->finish = why;
    c->stop_token = stop_token;
    transcript_end(&c->transcript);
}

/* Has it generated for as long as it may? */
static bool is_out_of_time(struct choice *c)
{
    uint64_t now_ns = clock_now_ns(), limit_ns = c->req->opt.max_decode_ns;
    if (c->first_token_ns == 0)
        c->first_token_ns = now_ns;
    return limit_ns != 0 && now_ns - c->first_token_ns >= limit_ns;
}

/* A token that ends the choice counts as generated and has its log-probability, but its text is
 * shown only if stop strings are.  Before min_tokens such tokens are banned, and stop strings do
 * not count. */
static int accept_token(struct choice *c, const struct engine_sample *job, struct engine_err *err)
{
    const struct sched_options_request *opt = &c->req->opt;
    uint32_t n_vocab = engine_info(c->transcript.detok.e)->n_vocab;
    if (job->token < 0 || (uint32_t)job->token >= n_vocab)
        return engine_fail(err, ENGINE_ERR_INTERNAL, "sampling gave token %d of %u", job->token,
                           n_vocab);
    uint32_t n_output = n_output_of(c) + 1;
    bool may_match = n_output >= opt->min_tokens;
    enum token_kind kind = kind_of(c, job->token);
    unsigned flags = (kind != TOKEN_TEXT && !opt->include_stop ? TRANSCRIPT_NO_TEXT : 0u) |
                     (may_match ? 0u : TRANSCRIPT_NO_STOP);
    if (transcript_push(&c->transcript, job->token, job, flags))
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the log-probabilities");
    c->req->usage.completion_tokens++;

    if (c->transcript.cut)
        finish(c, SCHED_FINISH_STOP, -1);
    else if (kind != TOKEN_TEXT)
        finish(c, SCHED_FINISH_STOP, kind == TOKEN_STOP ? job->token : -1);
    else if (n_output == c->max_tokens || is_out_of_time(c))
        finish(c, SCHED_FINISH_LENGTH, -1);
    return 0;
}

int choice_accept(struct choice *c, const struct engine_sample *job, struct engine_err *err)
{
    assert(c->state == CHOICE_RUNNING && c->finish == SCHED_FINISH_NONE);
    if (job->forced < 0)
        return accept_token(c, job, err);
    transcript_set_echo_logprob(&c->transcript, job->position, job);
    return 0;
}

bool choice_is_prefilled(const struct choice *c)
{
    return c->max_tokens == 0 && c->n_computed == prompt_of(c)->n_tokens;
}

void choice_finish_prefilled(struct choice *c)
{
    finish(c, SCHED_FINISH_LENGTH, -1);
}
