/* SPDX-License-Identifier: Apache-2.0
 *
 * test_late_experts.c - rows whose experts have not come are deferred, give the same bits later, and hold up
 * nobody; storage that does not answer fails those that need it.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/engine.h"

enum { N_TOKENS = 40, MAX_ROWS = 64, N_USERS = 3 };

static struct engine *open_engine(const struct engine_options *with)
{
    struct engine_err err = { 0 };
    struct engine *e;
    struct engine_options opt = *with;
    opt.model_path = "tests/golden/arch/smallthinker.gguf";
    opt.n_threads = 2;
    opt.n_ctx = 256;
    opt.max_rows = opt.max_logit_rows = MAX_ROWS;
    cr_assert_eq(engine_open(&e, &opt, &err), 0, "%s", err.text);
    return e;
}

static int32_t token_at(uint32_t user, uint32_t i)
{
    return (int32_t)((i * 2654435761u + user * 40503u) >> 8) % 280 + 3;
}

struct user {
    struct engine_seq *seq;
    uint32_t n_done;
    float *logits; /* [N_TOKENS][n_vocab] */
};

static void open_users(struct engine *e, struct user *u)
{
    struct engine_seq_options opt = { .max_tokens = N_TOKENS, .no_cache = true };
    for (uint32_t i = 0; i < N_USERS; i++) {
        u[i] = (struct user){ 0 };
        cr_assert_eq(engine_seq_open(e, &opt, &u[i].seq, NULL), 0);
        cr_assert_eq(engine_seq_grow(u[i].seq, N_TOKENS, NULL), 0);
        u[i].logits = calloc((size_t)N_TOKENS * engine_info(e)->n_vocab, sizeof(float));
    }
}

static void close_users(struct user *u)
{
    for (uint32_t i = 0; i < N_USERS; i++) {
        engine_seq_close(u[i].seq);
        free(u[i].logits);
    }
}

static uint32_t add_rows(const struct user *u, uint32_t user, uint32_t chunk,
                         struct engine_row *rows)
{
    uint32_t n = 0;
    for (uint32_t pos = u->n_done; pos < N_TOKENS && n < chunk; pos++, n++)
        rows[n] = (struct engine_row){
            .seq = u->seq, .token = token_at(user, pos), .pos = pos, .want_logits = true
        };
    return n;
}

/* A step of `chunk` tokens of each user.  Returns how many rows were deferred. */
static uint32_t step(struct engine *e, struct user *u, uint32_t chunk)
{
    struct engine_row rows[MAX_ROWS];
    uint32_t n_vocab = engine_info(e)->n_vocab, n = 0, n_deferred = 0;
    uint32_t n_rows[N_USERS];
    for (uint32_t i = 0; i < N_USERS; i++)
        n += n_rows[i] = add_rows(&u[i], i, chunk, rows + n);
    engine_step(e, rows, n);
    const struct engine_row *r = rows;
    for (uint32_t i = 0; i < N_USERS; i++)
        for (uint32_t k = 0; k < n_rows[i]; k++, r++) {
            cr_assert_neq(r->status, ENGINE_ROW_FAILED);
            n_deferred += r->status == ENGINE_ROW_DEFERRED;
            if (r->status != ENGINE_ROW_DONE)
                continue;
            cr_assert_eq(r->pos, u[i].n_done, "a row behind a deferred one");
            memcpy(u[i].logits + (size_t)u[i].n_done++ * n_vocab, r->logits,
                   n_vocab * sizeof(float));
        }
    return n_deferred;
}

static bool all_done(const struct user *u)
{
    for (uint32_t i = 0; i < N_USERS; i++)
        if (u[i].n_done < N_TOKENS)
            return false;
    return true;
}

static uint32_t run(struct engine *e, struct user *u, uint32_t chunk)
{
    uint32_t n_deferred = 0;
    while (!all_done(u))
        n_deferred += step(e, u, chunk);
    return n_deferred;
}

static void check_deferred(enum engine_kv kv, enum engine_io io, uint32_t chunk)
{
    struct engine *resident = open_engine(&(struct engine_options){ .kv = kv });
    struct engine *slow = open_engine(&(struct engine_options){ .kv = kv,
                                                                .io = io,
                                                                .expert_share = 0.95,
                                                                .expert_delay_us = 4000,
                                                                .expert_patience_ms = 1 });
    struct user expected[N_USERS], found[N_USERS];
    size_t bytes = (size_t)N_TOKENS * engine_info(resident)->n_vocab * sizeof(float);
    open_users(resident, expected);
    open_users(slow, found);
    run(resident, expected, chunk);
    uint32_t n_deferred = run(slow, found, chunk);
    cr_expect_gt(n_deferred, 0);
    for (uint32_t i = 0; i < N_USERS; i++)
        cr_expect_eq(memcmp(expected[i].logits, found[i].logits, bytes), 0, "user %u", i);
    close_users(expected);
    close_users(found);
    engine_close(resident);
    engine_close(slow);
}

Test(late_experts, deferred_rows_have_the_same_bits)
{
    check_deferred(ENGINE_KV_F16, ENGINE_IO_AUTO, 1);
    check_deferred(ENGINE_KV_F16, ENGINE_IO_PREAD, 7);
    check_deferred(ENGINE_KV_F16, ENGINE_IO_MMAP, 7);
}

Test(late_experts, deferred_rows_have_the_same_bits_where_pages_are_open_in_parts)
{
    check_deferred(ENGINE_KV_Q8, ENGINE_IO_AUTO, 1);
}

Test(late_experts, steps_that_never_defer_wait)
{
    struct engine *e = open_engine(&(struct engine_options){ .expert_share = 0.5,
                                                             .expert_delay_us = 3000,
                                                             .expert_patience_ms = 1,
                                                             .never_defers = true });
    struct user u[N_USERS];
    open_users(e, u);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_eq(step(e, u, 2), 0);
    close_users(u);
    engine_close(e);
}

/* One row of a user whose experts are not in memory; how the step ended for it. */
static enum engine_row_status one_row(struct engine *e, const struct user *u, uint32_t user)
{
    struct engine_row row;
    add_rows(&u[user], user, 1, &row);
    engine_step(e, &row, 1);
    return row.status;
}

Test(late_experts, storage_that_does_not_answer_fails_those_that_need_it_in_time)
{
    struct engine *e = open_engine(&(struct engine_options){ .expert_share = 0.2,
                                                             .expert_delay_us = 1500000,
                                                             .expert_patience_ms = 5,
                                                             .expert_timeout_ms = 200 });
    struct user u[N_USERS];
    enum engine_row_status status;
    open_users(e, u);
    uint64_t begin = engine_clock_ns(), longest = 0;
    do {
        uint64_t at = engine_clock_ns();
        status = one_row(e, u, 1);
        longest = engine_clock_ns() - at > longest ? engine_clock_ns() - at : longest;
    } while (status == ENGINE_ROW_DEFERRED);
    struct engine_err err = { 0 };
    engine_row_error(e, &err);
    cr_expect_eq(status, ENGINE_ROW_FAILED);
    cr_expect_eq(err.code, ENGINE_ERR_IO);
    cr_expect(strstr(err.text, "does not answer"), "%s", err.text);
    cr_expect_lt(engine_clock_ns() - begin, UINT64_C(1400000000), "before the reads came");
    cr_expect_lt(longest, UINT64_C(1000000000), "no step waits for long");
    close_users(u);
    engine_close(e);
}
