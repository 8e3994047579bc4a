/* SPDX-License-Identifier: Apache-2.0
 *
 * sched_fixture.c - see sched_fixture.h.
 */
#include "tests/support/sched_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "sched_fixture: %s\n", what);
    abort();
}

void sched_fixture_open(struct sched_fixture *fx, const struct fake_engine_options *engine_opt,
                        const struct sched_options *opt)
{
    struct sched_options with_events = opt ? *opt : (struct sched_options){ .max_seqs = 0 };
    with_events.on_event = event_log_on_event;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    fx->engine = fake_engine_open(engine_opt ? engine_opt : &(struct fake_engine_options){ 0 });
    expect(sched_open(&fx->sched, fx->engine, &with_events, &err) == 0, err.text);
}

void sched_fixture_close(struct sched_fixture *fx)
{
    struct fake_engine_counts counts;
    sched_close(fx->sched);
    const char *violation = fake_engine_violation(fx->engine);
    expect(!violation, violation);
    fake_engine_counts(fx->engine, &counts);
    expect(counts.n_seqs == 0, "a sequence leaked");
    expect(counts.n_pages == 0, "pages leaked");
    engine_close(fx->engine);
}

void test_request_init(struct test_request *t, const char *prompt, uint32_t max_tokens)
{
    memset(t, 0, sizeof(*t));
    uint32_t n = 0;
    for (const char *p = prompt; *p; p++)
        t->tokens[n++] = (uint8_t)*p;
    if (n == 0)
        t->tokens[n++] = FAKE_BOS;
    t->prompt = (struct sched_prompt){ t->tokens, n };
    t->opt = (struct sched_options_request){
        .prompts = &t->prompt,
        .n_prompts = 1,
        .n = 1,
        .max_tokens = max_tokens,
        .sampling = { .top_p = 1, .repetition_penalty = 1 },
        .stops = t->stops,
        .skip_special = true,
        .n_logprobs = -1,
        .ctx = &t->log,
    };
}

void test_request_add_stop(struct test_request *t, const char *stop)
{
    t->stops[t->opt.n_stops++] = (struct sched_text){ stop, strlen(stop) };
}

void test_request_submit(struct test_request *t, struct sched_fixture *fx)
{
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < t->opt.n_prompts; i++)
        n_tokens += t->opt.prompts[i].n_tokens;
    event_log_init(&t->log, t->opt.n_prompts * t->opt.n);
    t->refusal = sched_reserve(fx->sched, n_tokens);
    if (t->refusal == SCHED_REFUSED_NONE)
        t->refusal = sched_submit(fx->sched, &t->opt, n_tokens, &t->r, &t->err);
}

void test_request_wait(struct test_request *t)
{
    expect(t->refusal == SCHED_REFUSED_NONE, t->err.text);
    event_log_wait(&t->log);
    expect(!t->log.violation, t->log.violation);
}

void test_request_close(struct test_request *t)
{
    sched_release(t->r);
    event_log_fini(&t->log);
}

void test_request_run(struct test_request *t, struct sched_fixture *fx)
{
    test_request_submit(t, fx);
    test_request_wait(t);
}

static const char *choice_difference(const struct event_log_choice *x,
                                     const struct event_log_choice *y)
{
    if (strcmp(x->text, y->text) != 0)
        return "text";
    if (x->finish != y->finish)
        return "finish reason";
    if (x->n_tokens != y->n_tokens ||
        memcmp(x->tokens, y->tokens, x->n_tokens * sizeof(int32_t)) != 0)
        return "tokens";
    for (uint32_t i = 0; x->logprobs && i < x->n_tokens; i++)
        if (x->logprobs[i].logprob != y->logprobs[i].logprob ||
            x->logprobs[i].text_offset != y->logprobs[i].text_offset)
            return "log probabilities";
    return NULL;
}

const char *test_request_difference(const struct test_request *a, const struct test_request *b)
{
    const char *difference = a->log.last.kind != b->log.last.kind ? "last event" : NULL;
    for (uint32_t c = 0; !difference && c < a->opt.n; c++)
        difference = choice_difference(&a->log.choices[c], &b->log.choices[c]);
    return difference;
}

struct sched_stats sched_fixture_stats(const struct sched_fixture *fx)
{
    struct sched_stats stats;
    sched_stats(fx->sched, &stats);
    return stats;
}
