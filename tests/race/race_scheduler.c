/* SPDX-License-Identifier: Apache-2.0
 *
 * race_scheduler.c - many threads submit, cancel, release and read statistics at once, and the
 * scheduler closes under them.  Meant for ThreadSanitizer; also checks that every accepted request
 * has exactly one last event.
 *
 * The fake engine is compiled in, so that it takes the place of the real one whatever is linked.
 */
#include "tests/support/fake_engine.c"

#include "scheduler/scheduler.h"

enum { N_CLIENTS = 6, N_ROUNDS = 120, N_OPENS = 3 };

struct client {
    struct sched *sched;
    pthread_t thread;
    uint64_t random;
    uint32_t n_accepted, n_refused;
};

/* What the callback's thread and a client share. */
struct ticket {
    atomic_int n_events, n_last_events;
    struct sched_request *r;
};

static atomic_uint n_last_events, n_wrong;
static atomic_bool stopping;

static uint32_t draw(struct client *c, uint32_t n)
{
    c->random = mix(c->random + 0x9E3779B97F4A7C15u);
    return (uint32_t)(c->random >> 20) % n;
}

static void on_event(const struct sched_event *ev)
{
    struct ticket *t = ev->ctx;
    if (atomic_load(&t->n_last_events) > 0)
        atomic_fetch_add(&n_wrong, 1);
    atomic_fetch_add(&t->n_events, 1);
    if (ev->kind >= SCHED_EVENT_DONE) {
        atomic_fetch_add(&n_last_events, 1);
        atomic_fetch_add(&t->n_last_events, 1);
    }
}

static void submit(struct client *c, struct ticket *t)
{
    int32_t tokens[40];
    struct sched_prompt prompt = { tokens, 1 + draw(c, 40) };
    struct sched_text stop = { "ab", 2 };
    for (uint32_t i = 0; i < prompt.n_tokens; i++)
        tokens[i] = 'a' + (int32_t)draw(c, 26);
    struct sched_options_request opt = {
        .prompts = &prompt,
        .n_prompts = 1,
        .n = 1 + draw(c, 3),
        .max_tokens = draw(c, 20),
        .sampling = { .temperature = 1, .seed = c->random },
        .stops = &stop,
        .n_stops = draw(c, 2),
        .echo = draw(c, 3) == 0,
        .n_logprobs = (int32_t)draw(c, 4) - 1,
        .ctx = t,
    };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    if (sched_reserve(c->sched, prompt.n_tokens) != SCHED_REFUSED_NONE)
        return;
    if (draw(c, 10) == 0)
        sched_unreserve(c->sched, prompt.n_tokens);
    else
        sched_submit(c->sched, &opt, prompt.n_tokens, &t->r, &err);
}

static void read_statistics(struct client *c)
{
    struct sched_stats stats;
    sched_stats(c->sched, &stats);
    uint64_t n = 0;
    for (uint32_t i = 0; i <= SCHED_N_STEP_TOKEN_BOUNDS; i++)
        n += stats.step_tokens[i];
    uint32_t seconds = sched_retry_after(c->sched);
    if (n != stats.steps || seconds < 1 || seconds > 60)
        atomic_fetch_add(&n_wrong, 1);
}

static void wait_for_last(const struct ticket *t)
{
    while (atomic_load(&t->n_last_events) == 0)
        usleep(100);
}

/* Three ways to leave: stay to the end, cancel and wait, cancel and release at once. */
static void leave(struct client *c, struct ticket *t)
{
    uint32_t way = draw(c, 3);
    if (way > 0) {
        usleep(draw(c, 2000));
        sched_cancel(t->r, SCHED_CANCEL_CLIENT);
    }
    if (way == 2)
        sched_release(t->r);
    wait_for_last(t);
    if (way != 2)
        sched_release(t->r);
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    for (uint32_t i = 0; i < N_ROUNDS && !atomic_load(&stopping); i++) {
        struct ticket t = { .r = NULL };
        submit(c, &t);
        read_statistics(c);
        if (t.r) {
            c->n_accepted++;
            leave(c, &t);
        } else {
            c->n_refused++;
        }
    }
    return NULL;
}

static uint32_t run_clients(struct engine *e, bool stop_early)
{
    struct client clients[N_CLIENTS];
    struct sched_options opt = { .on_event = on_event, .max_seqs = 5, .max_queue = 4 };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    struct sched *s;
    if (sched_open(&s, e, &opt, &err))
        abort();
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        clients[i] = (struct client){ .sched = s, .random = i + 1 };
        if (pthread_create(&clients[i].thread, NULL, client_main, &clients[i]))
            abort();
    }
    if (stop_early) {
        usleep(50000);
        atomic_store(&stopping, true);
    }
    uint32_t n_accepted = 0;
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        n_accepted += clients[i].n_accepted;
    }
    sched_close(s);
    atomic_store(&stopping, false);
    return n_accepted;
}

/* Requests that still run and wait when the scheduler closes. */
static uint32_t close_under_load(struct engine *e)
{
    enum { N = 40 };
    struct sched_options opt = { .on_event = on_event, .max_seqs = 3 };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    struct client c = { .random = 99 };
    static struct ticket tickets[N];
    uint32_t n_accepted = 0;
    memset(tickets, 0, sizeof(tickets));
    if (sched_open(&c.sched, e, &opt, &err))
        abort();
    for (uint32_t i = 0; i < N; i++)
        submit(&c, &tickets[i]);
    sched_close(c.sched);
    for (uint32_t i = 0; i < N; i++) {
        n_accepted += tickets[i].r != NULL;
        sched_release(tickets[i].r);
    }
    return n_accepted;
}

int main(void)
{
    uint32_t n_accepted = 0;
    for (uint32_t i = 0; i < N_OPENS; i++) {
        struct fake_engine_options opt = { .n_pages = 24, .defer_every = 29, .random_ends = true };
        struct fake_engine_counts counts;
        struct engine *e = fake_engine_open(&opt);
        n_accepted += run_clients(e, i == 1);
        e->has_thread = false; /* the next scheduler has a thread of its own */
        n_accepted += close_under_load(e);
        fake_engine_counts(e, &counts);
        if (fake_engine_violation(e) || counts.n_seqs != 0 || counts.n_pages != 0)
            atomic_fetch_add(&n_wrong, 1);
        engine_close(e);
    }
    printf("race_scheduler: %u requests accepted, %u ended, %u wrong\n", n_accepted,
           atomic_load(&n_last_events), atomic_load(&n_wrong));
    return n_accepted > 0 && n_accepted == n_last_events && n_wrong == 0 ? 0 : 1;
}
