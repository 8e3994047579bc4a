/* SPDX-License-Identifier: Apache-2.0
 *
 * sched_fixture.h - a scheduler on the fake engine, and requests whose events are collected.
 * Closing either checks that nothing leaked and no rule was broken, and aborts if one was.
 */
#ifndef LACUNA_TESTS_SCHED_FIXTURE_H
#define LACUNA_TESTS_SCHED_FIXTURE_H

#include "tests/support/event_log.h"
#include "tests/support/fake_engine.h"

struct sched_fixture {
    struct engine *engine;
    struct sched *sched;
};

void sched_fixture_open(struct sched_fixture *fx, const struct fake_engine_options *engine_opt,
                        const struct sched_options *opt); /* on_event is set here */
void sched_fixture_close(struct sched_fixture *fx);       /* NULL sched: closed already */

struct test_request {
    struct event_log log;
    struct sched_options_request opt; /* to be changed before test_request_submit */
    struct sched_prompt prompt;
    int32_t tokens[64];
    struct sched_text stops[4];
    struct sched_request *r;
    enum sched_refusal refusal;
    struct engine_err err;
};

/* A greedy request: the prompt is the bytes of `prompt`, of which there may be none (then BOS). */
void test_request_init(struct test_request *t, const char *prompt, uint32_t max_tokens);
void test_request_add_stop(struct test_request *t, const char *stop);
void test_request_submit(struct test_request *t, struct sched_fixture *fx);
/* Waits for the last event. */
void test_request_wait(struct test_request *t);
void test_request_close(struct test_request *t);
/* All of it. */
void test_request_run(struct test_request *t, struct sched_fixture *fx);
/* In what the answers of two requests with the same choices differ; NULL: in nothing. */
const char *test_request_difference(const struct test_request *a, const struct test_request *b);

struct sched_stats sched_fixture_stats(const struct sched_fixture *fx);

#endif
