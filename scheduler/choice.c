/* SPDX-License-Identifier: Apache-2.0
 *
 * choice.c - one choice of a request: one sequence of the engine and its transcript.
 *
 * Position p holds token p of prompt and output joined.  Rows [0, n_prompt) are the prompt; the
 * last of them gives the logits of the first new token, and each new token is the row that gives
 * the next.  The last new token is never computed.
 *
 * All memory is taken at the first admission.  Pages are taken as it grows; when they run short it may
 * be paused, which costs time and changes nothing else: the tokens so far are computed again, most
 * of them found in the prefix cache.
 * Scheduler thread only.
 */
#include <assert.h>
#include <string.h>

#include "scheduler/internal.h"

static const struct sched_prompt *prompt_of(const struct choice *c)
{
    return &c->req->opt.prompts[c->index / c->req->opt.n];
}

static int32_t *output_of(const struct choice *c)
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

/* The tokens that are known: the prompt, and what was generated before a pause.  Returns how many. */
static uint32_t list_known(const struct choice *c, int32_t *known)
{
    const struct sched_prompt *prompt = prompt_of(c);
    uint32_t n_output = n_output_of(c);
    memcpy(known, prompt->tokens, prompt->n_tokens * sizeof(*known));
    if (n_output > 0)
        memcpy(known + prompt->n_tokens, output_of(c), n_output * sizeof(*known));
    return prompt->n_tokens + n_output;
}

static uint32_t n_positions_of(const struct choice *c)
{
    return prompt_of(c)->n_tokens + c->max_tokens;
}

static int open_seq(struct choice *c, struct engine *e, struct engine_err *err)
{
    const struct sched_options_request *opt = &c->req->opt;
    struct engine_seq_options seq = { .max_tokens = n_positions_of(c),
                                      .cache_salt = opt->cache_salt.data,
                                      .cache_salt_len = opt->cache_salt.len,
                                      .no_cache = opt->no_cache,
                                      .n_prompt = prompt_of(c)->n_tokens,
                                      .point = opt->point };
    return c->seq ? 0 : engine_seq_open(e, &seq, &c->seq, err);
}

static void start(struct choice *c)
{
    c->n_computed = engine_seq_n_tokens(c->seq);
    c->n_drafts = 0;
    c->state = CHOICE_RUNNING;
    if (c->admitted_ns == 0)
        c->admitted_ns = clock_now_ns();
}

/* The last known token is always computed: its logits give the next one.  So is every token of an
 * echoed prompt whose log-probability is still missing. */
int choice_admit(struct choice *c, struct engine *e, int32_t *known, uint32_t n_spare,
                 struct engine_err *err)
{
    if (open_seq(c, e, err))
        return -1;
    uint32_t n_known = list_known(c, known), n_most = n_known - 1;
    if (wants_echo_logprobs(c) && c->n_judged < n_most)
        n_most = c->n_judged;
    if (engine_seq_admit(c->seq, known, n_most, n_known, n_spare, err))
        return -1;
    if (c->state == CHOICE_WAITING) {
        if (open_transcript(c, e, err))
            return -1;
        speculate_odds_init(&c->odds);
        c->n_cached = engine_seq_n_tokens(c->seq);
    }
    start(c);
    return 0;
}

bool choice_is_leader(const struct choice *c)
{
    return c->index % c->req->opt.n == 0;
}

bool choice_follows(const struct choice *c)
{
    return !choice_is_leader(c) && !wants_echo_logprobs(c);
}

int choice_fork(struct choice *c, const struct choice *leader, struct engine_err *err)
{
    if (engine_seq_fork(leader->seq, &c->seq, err) ||
        open_transcript(c, leader->transcript.detok.e, err))
        return -1;
    speculate_odds_init(&c->odds);
    start(c);
    return 0;
}

bool choice_grow(struct choice *c, uint32_t n_rows)
{
    return engine_seq_grow(c->seq, c->n_computed + n_rows, NULL) == 0;
}

void choice_pause(struct choice *c)
{
    engine_seq_close(c->seq);
    c->seq = NULL;
    c->n_computed = 0;
    c->state = CHOICE_PAUSED;
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

/* ---- drafts ---- */

/* The last new token is never computed: guesses are at those before it. */
void choice_draft(struct choice *c, struct speculate_item *item)
{
    const struct sched_prompt *prompt = prompt_of(c);
    uint32_t n_output = n_output_of(c);
    struct speculate_text text = { prompt->tokens, output_of(c), prompt->n_tokens, n_output };
    uint32_t most = min_u32(SPECULATE_MAX, engine_seq_draft_room(c->seq));
    c->n_drafts = speculate_lookup(&text, min_u32(most, c->max_tokens - n_output - 1),
                                   output_of(c) + n_output, &c->n_match);
    *item = (struct speculate_item){ .n_drafts = c->n_drafts };
    if (c->n_drafts > 0)
        item->likelihood = speculate_odds_of(&c->odds, c->n_match);
}

void choice_set_drafts(struct choice *c, uint32_t n)
{
    c->n_drafts = n;
}

/* Once the token is known that the first guess was about. */
static void settle_draft(struct choice *c, int32_t token)
{
    if (c->n_drafts == 0)
        return;
    bool is_hit = output_of(c)[n_output_of(c)] == token;
    speculate_learn(&c->odds, c->n_match, is_hit);
    c->n_drafts = is_hit ? c->n_drafts - 1 : 0;
    if (!is_hit)
        return;
    engine_seq_keep(c->seq, token);
    c->n_computed++;
    c->req->usage.accepted_tokens++;
}

/* ---- rows ---- */

void choice_describe(const struct choice *c, uint64_t step, struct batch_item *item)
{
    uint32_t n_output = n_output_of(c);
    uint32_t n_left = prompt_of(c)->n_tokens + n_output - c->n_computed;
    bool decodes = n_output > 0 && n_left == 1;
    *item = (struct batch_item){
        .n_prefill = decodes ? 0 : n_left,
        .all_logits = wants_echo_logprobs(c) && n_output == 0,
        .last_logits = c->max_tokens > 0,
        .waited = step - c->last_step,
    };
}

/* The logits of a prompt row give the first new token, or the log-probability of the next one; those
 * of the last known token give the next.  None is used twice. */
static bool wants_logits(const struct choice *c, uint32_t pos)
{
    if (pos < c->n_judged)
        return false;
    if (pos + 1 < prompt_of(c)->n_tokens)
        return wants_echo_logprobs(c);
    return c->max_tokens > 0;
}

void choice_rows(const struct choice *c, uint32_t n_rows, struct engine_row *rows)
{
    const struct sched_prompt *prompt = prompt_of(c);
    uint32_t n_known = prompt->n_tokens + n_output_of(c);
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t pos = c->n_computed + i;
        rows[i] = (struct engine_row){
            .seq = c->seq,
            .token = pos < prompt->n_tokens ? prompt->tokens[pos]
                                            : output_of(c)[pos - prompt->n_tokens],
            .pos = pos,
            .want_logits = wants_logits(c, pos),
            .is_draft = pos >= n_known,
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
    bool echoes = row->pos + 1 < prompt->n_tokens;
    uint32_t n_output = echoes ? 0 : row->pos + 1 - prompt->n_tokens; /* guesses included */
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
    settle_draft(c, job->token);
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

bool choice_awaits(const struct choice *c, const struct engine_sample *job)
{
    return c->state == CHOICE_RUNNING && c->finish == SCHED_FINISH_NONE &&
           job->position <= c->n_computed;
}

int choice_accept(struct choice *c, const struct engine_sample *job, struct engine_err *err)
{
    assert(choice_awaits(c, job));
    c->n_judged = job->position;
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
