/* SPDX-License-Identifier: Apache-2.0
 *
 * admit.c - who runs: admission, and pausing when pages run out.
 *
 * A choice is admitted once there is a seat, and pages for what is known of it.  While it grows it
 * takes more; when there are none, the least important choice is paused (preempt.c): its pages go
 * back, its tokens stay, and it is admitted again before anything of the same priority from the
 * queue.  While the next to be admitted waits for pages, so does everything behind it.
 *
 * A seat is for work, not for waiting: whoever would find the next steps full of prompts that are no
 * longer and no less important than its own stays in the queue, where limits of time hold and where
 * others can still be told that it is full.
 *
 * Scheduler thread only.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

/* Prompts that run before others have to wait for a seat: fewer would leave the next step short when
 * several end at once, and a few long ones shall not keep a short one out. */
enum { PROMPT_STEPS = 2, PROMPT_SEATS = 8 };

/* ---- admit ---- */

static void start_request(struct sched *s, struct sched_request *r)
{
    queue_pop(&s->queue, r);
    request_set_state(r, REQUEST_RUNNING);
    struct sched_request **end = &s->requests;
    while (*end)
        end = &(*end)->next;
    *end = r;
    s->stats.live.running_now++;
    deliver_admitted(s->on_event, r);
}

/* Running choices stay in the order in which they were first admitted. */
static void insert_running(struct sched *s, struct choice *c)
{
    uint32_t i = s->n_running++;
    for (; i > 0 && s->running[i - 1]->order > c->order; i--)
        s->running[i] = s->running[i - 1];
    s->running[i] = c;
}

static void note_prefix(struct sched *s, struct choice *c)
{
    struct sched_request *r = c->req;
    if (choice_is_leader(c))
        r->usage.cached_tokens += c->n_cached;
    if (r->opt.no_cache)
        return;
    s->stats.live.prefix_query_tokens += choice_n_prompt(c);
    s->stats.live.prefix_hit_tokens += c->n_cached;
}

void admit_started(struct sched *s, struct choice *c)
{
    c->last_step = s->step;
    if (c->order == 0) { /* not one that was paused */
        if (c->req->state == REQUEST_QUEUED)
            start_request(s, c->req);
        c->order = ++s->n_orders;
        c->req->n_admitted++;
        note_prefix(s, c);
    }
    insert_running(s, c);
    deliver_progress(s->on_event, c);
}

/* Pages are short though nothing runs: waiting would not help. */
static void refuse_for_good(struct sched_request *r, const struct engine_err *why)
{
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    engine_fail(&err, ENGINE_ERR_MEMORY, "does not fit into empty KV pages: %.400s", why->text);
    request_fail(r, &err);
}

/* Has the first choice of its prompt computed it, or will it not any more? */
static bool may_follow(const struct choice *c)
{
    const struct choice *leader = c - c->index % c->req->opt.n;
    return !choice_follows(c) || leader->n_judged >= choice_n_prompt(c) ||
           leader->state == CHOICE_OVER;
}

static struct choice *next_of(struct sched_request *r)
{
    for (uint32_t i = 0; r->n_admitted < r->n_choices && !r->failed && i < r->n_choices; i++)
        if (r->choices[i].state == CHOICE_WAITING && may_follow(&r->choices[i]))
            return &r->choices[i];
    return NULL;
}

static bool is_before(const struct choice *a, const struct choice *b)
{
    return !b || (a && a->req->opt.priority <= b->req->opt.priority);
}

/* Who has begun goes before who has not, unless that one is more important. */
static struct choice *next_choice(struct sched *s)
{
    struct choice *paused = s->n_paused > 0 ? s->paused[0] : NULL, *begun = NULL, *queued = NULL;
    for (struct sched_request *r = s->requests; r; r = r->next) {
        struct choice *c = next_of(r);
        if (c && !is_before(begun, c))
            begun = c;
    }
    struct sched_request *r = queue_next(&s->queue);
    if (r && !r->failed)
        queued = &r->choices[0];
    struct choice *best = is_before(paused, begun) ? paused : begun;
    return is_before(best, queued) ? best : queued;
}

static uint32_t n_prefill(const struct sched *s, const struct choice *c)
{
    struct batch_item item;
    choice_describe(c, s->step, &item);
    return item.n_prefill;
}

/* Would its prompt wait behind others for several steps?  Half of each goes to the shortest, so longer
 * ones are not in its way. */
static bool would_wait(const struct sched *s, const struct choice *c)
{
    uint64_t n_rows = 0;
    uint32_t own = n_prefill(s, c), n_prompts = 0;
    if (c->state == CHOICE_PAUSED || choice_follows(c))
        return false; /* most of it is stored */
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct choice *r = s->running[i];
        uint32_t n = n_prefill(s, r);
        if (n == 0 || n > own || r->req->opt.priority > c->req->opt.priority)
            continue;
        n_rows += n;
        n_prompts++;
    }
    return n_prompts >= PROMPT_SEATS && n_rows >= (uint64_t)PROMPT_STEPS * s->limits.max_rows;
}

bool admit_next(struct sched *s)
{
    if (s->n_running == s->max_seqs || s->blocked)
        return false;
    struct choice *c = next_choice(s);
    if (!c || would_wait(s, c))
        return false;
    bool was_paused = c->state == CHOICE_PAUSED;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    /* Each of those that run may need a page before this one has ended (a fork needs two at first, if
     * pages are open in parts: should they be missing, somebody is paused). */
    if (choice_admit(c, s->engine, s->known, s->n_running, &err) == 0) {
        if (was_paused)
            memmove(s->paused, s->paused + 1, --s->n_paused * sizeof(struct choice *));
        admit_started(s, c);
        return true;
    }
    if (err.code != ENGINE_ERR_CAPACITY)
        request_fail(c->req, &err);
    else if (s->n_running > 0)
        s->blocked = true;
    else
        refuse_for_good(c->req, &err);
    return false;
}

/* ---- pause ---- */

static struct preempt_item item_of(const struct choice *c)
{
    return (struct preempt_item){ .priority = c->req->opt.priority,
                                  .order = c->order,
                                  .runs = c->state == CHOICE_RUNNING };
}

/* The more important first, then the older. */
static void insert_paused(struct sched *s, struct choice *c)
{
    const struct preempt_item item = item_of(c);
    uint32_t i = s->n_paused++;
    for (; i > 0; i--) {
        const struct preempt_item before = item_of(s->paused[i - 1]);
        if (!preempt_is_worse(&before, &item))
            break;
        s->paused[i] = s->paused[i - 1];
    }
    s->paused[i] = c;
}

/* Room on the list of paused ones, which may be longer than that of seats. */
static bool has_room_to_pause(struct sched *s)
{
    if (s->n_paused < s->paused_cap)
        return true;
    uint32_t cap = 2 * s->paused_cap;
    struct choice **paused = realloc(s->paused, cap * sizeof(struct choice *));
    if (!paused)
        return false;
    s->paused = paused;
    s->paused_cap = cap;
    return true;
}

static void fail_for_memory(struct sched_request *r)
{
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    engine_fail(&err, ENGINE_ERR_MEMORY, "no memory to pause a choice");
    request_fail(r, &err);
}

/* Pauses the least important choice that runs. */
static void pause_one(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        s->victims[i] = item_of(s->running[i]);
    uint32_t i = preempt_pick(s->victims, s->n_running);
    assert(i < s->n_running);
    choice_pause(s->running[i]);
    s->blocked = false;
    s->items[i].n_rows = 0;
    s->stats.live.preemptions++;
    if (has_room_to_pause(s))
        insert_paused(s, s->running[i]);
    else
        fail_for_memory(s->running[i]->req);
}

void admit_make_room(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        while (s->items[i].n_rows > 0 && !choice_grow(s->running[i], s->items[i].n_rows))
            pause_one(s);
}
