/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_run.c - `lacuna run`: one completion on the terminal, through the same scheduler and engine
 * as the daemon's, without HTTP.
 *
 * The scheduler's thread prints the text as it comes; the main thread sleeps until the end.  Ctrl-C
 * cancels the request from the signal thread; `lock` keeps it from touching one that was released.
 */
#include "server/commands/commands.h"

#include "scheduler/scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { PROMPT_MAX_BYTES = 1 << 30 };

struct run {
    pthread_mutex_t lock;
    pthread_cond_t over_changed;
    struct sched_request *request;
    bool over;
    bool write_failed;
    enum sched_event_kind end;
    enum sched_finish finish;
    struct sched_usage usage;
    uint32_t point;                 /* of --quality */
    double submitted, first, ended; /* seconds; first: 0 before the first token */
    struct engine_err err;
};

/* ---- scheduler's thread ---- */

static void print_text(struct run *run, const struct sched_text *text)
{
    if (text->len == 0 || run->write_failed)
        return;
    /* A stuck terminal may block here: this process has no other request to hold up. */
    if (fwrite(text->data, 1, text->len, stdout) != text->len || fflush(stdout))
        run->write_failed = true;
}

static void finish_run(struct run *run, const struct sched_event *ev)
{
    pthread_mutex_lock(&run->lock);
    run->end = ev->kind;
    run->usage = ev->usage;
    run->ended = cmd_now();
    run->err = ev->err;
    run->over = true;
    pthread_cond_signal(&run->over_changed);
    pthread_mutex_unlock(&run->lock);
}

static void on_event(const struct sched_event *ev)
{
    struct run *run = ev->ctx;
    switch (ev->kind) {
    case SCHED_EVENT_ADMITTED:
    case SCHED_EVENT_PROGRESS:
        break;
    case SCHED_EVENT_DELTA:
        if (run->first == 0)
            run->first = cmd_now();
        print_text(run, &ev->text);
        break;
    case SCHED_EVENT_FINISHED:
        if (run->first == 0)
            run->first = cmd_now();
        print_text(run, &ev->text);
        run->finish = ev->finish;
        break;
    case SCHED_EVENT_DONE:
    case SCHED_EVENT_FAILED:
    case SCHED_EVENT_CANCELLED:
        finish_run(run, ev);
        break;
    }
}

/* ---- signal thread ---- */

static void on_stop(void *ctx)
{
    struct run *run = ctx;
    pthread_mutex_lock(&run->lock);
    if (run->request)
        sched_cancel(run->request, SCHED_CANCEL_CLIENT);
    pthread_mutex_unlock(&run->lock);
}

/* ---- main thread ---- */

/* The prompt as given, or all of standard input for "-". */
static int read_prompt(const struct options *o, char **text, size_t *len)
{
    const char *given = o->n_args ? o->args[0] : "-";
    size_t cap = 0, n = 0;
    *text = NULL;
    if (strcmp(given, "-") != 0) {
        *text = strdup(given);
        *len = strlen(given);
        return *text ? 0 : cmd_fail(EX_OSERR, "no memory for the prompt");
    }
    for (;;) {
        if (n == cap) {
            cap = cap ? 2 * cap : 1 << 16;
            char *grown = cap <= PROMPT_MAX_BYTES ? realloc(*text, cap) : NULL;
            if (!grown)
                return cmd_fail(EX_OSERR, "no memory for a prompt of %zu bytes", n);
            *text = grown;
        }
        size_t got = fread(*text + n, 1, cap - n, stdin);
        n += got;
        if (got == 0)
            break;
    }
    *len = n;
    return ferror(stdin) ? cmd_fail(EX_IOERR, "cannot read standard input: %s", strerror(errno))
                         : 0;
}

static int tokenize_prompt(const struct options *o, const struct engine *e,
                           struct engine_tokens *tokens)
{
    struct engine_err err = { 0 };
    char *text = NULL;
    size_t len = 0;
    unsigned flags = ENGINE_TOKENIZE_ADD_SPECIAL;
    if (o->special)
        flags |= ENGINE_TOKENIZE_PARSE_SPECIAL;
    int rc = read_prompt(o, &text, &len);
    if (!rc && engine_tokenize(e, text, len, flags, tokens, &err))
        rc = cmd_fail_err(&err);
    free(text);
    if (rc)
        return rc;
    if (tokens->n == 0)
        return cmd_fail(EX_DATAERR, "the prompt is empty");
    uint32_t n_ctx = engine_info(e)->n_ctx;
    if (tokens->n >= n_ctx)
        return cmd_fail(EX_DATAERR,
                        "the prompt has %zu tokens, the context holds %u and must leave "
                        "room for one more (see --ctx)",
                        tokens->n, n_ctx);
    return 0;
}

static uint64_t choose_seed(uint64_t seed)
{
    if (seed == UINT64_MAX && getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = (uint64_t)(cmd_now() * 1e9);
    return seed;
}

static enum sched_refusal submit(struct sched *s, const struct options *o, const struct engine *e,
                                 const struct engine_tokens *tokens, struct run *run)
{
    uint32_t n_prompt = (uint32_t)tokens->n;
    uint32_t room = engine_info(e)->n_ctx - n_prompt;
    struct sched_prompt prompt = { .tokens = tokens->ids, .n_tokens = n_prompt };
    struct sched_options_request req = {
        .prompts = &prompt,
        .n_prompts = 1,
        .n = 1,
        .max_tokens = o->max_tokens < room ? o->max_tokens : room,
        .sampling = {
            .temperature = o->temperature,
            .top_k = (int32_t)o->top_k,
            .top_p = o->top_p,
            .min_p = o->min_p,
            .repetition_penalty = 1,
            .seed = choose_seed(o->seed),
        },
        .skip_special = !o->special,
        .n_logprobs = -1,
        .point = run->point,
        .ctx = run,
    };
    enum sched_refusal refusal = sched_reserve(s, n_prompt);
    if (refusal)
        return refusal;
    pthread_mutex_lock(&run->lock);
    run->submitted = cmd_now();
    refusal = sched_submit(s, &req, n_prompt, &run->request, &run->err);
    if (refusal)
        run->request = NULL;
    else if (cmd_signals_stopped())
        sched_cancel(run->request, SCHED_CANCEL_CLIENT);
    pthread_mutex_unlock(&run->lock);
    return refusal;
}

static void wait_for_end(struct run *run)
{
    pthread_mutex_lock(&run->lock);
    while (!run->over)
        pthread_cond_wait(&run->over_changed, &run->lock);
    struct sched_request *request = run->request;
    run->request = NULL;
    pthread_mutex_unlock(&run->lock);
    sched_release(request);
}

static const char *end_name(const struct run *run)
{
    if (run->end == SCHED_EVENT_CANCELLED)
        return "stopped";
    return run->finish == SCHED_FINISH_LENGTH ? "length" : "end of text";
}

/* Measured here, since a request that was stopped has figures too. */
static void print_statistics(const struct run *run)
{
    const struct sched_usage *u = &run->usage;
    double prefill = run->first - run->submitted, decode = run->ended - run->first;
    fprintf(stderr, "\nprompt %u tokens", u->prompt_tokens);
    if (run->first > 0)
        fprintf(stderr, ", %.1f tok/s; first token after %.0f ms", u->prompt_tokens / prefill,
                prefill * 1e3);
    fprintf(stderr, "; generated %u tokens", u->completion_tokens);
    /* The first of them came out of the prompt's last step. */
    if (run->first > 0 && u->completion_tokens > 1 && decode > 0)
        fprintf(stderr, ", %.1f tok/s", (u->completion_tokens - 1) / decode);
    if (u->drafted_tokens > 0)
        fprintf(stderr, "; %u of %u guesses were right", u->accepted_tokens, u->drafted_tokens);
    fprintf(stderr, " (%s)\n", end_name(run));
}

static int report(struct run *run)
{
    if (run->end == SCHED_EVENT_FAILED)
        return cmd_fail_err(&run->err);
    print_statistics(run);
    if (run->write_failed)
        return cmd_fail(EX_IOERR, "cannot write the text");
    return run->end == SCHED_EVENT_CANCELLED ? EXIT_INTERRUPTED : 0;
}

static int complete(const struct options *o, struct engine *e, struct run *run)
{
    struct sched *s = NULL;
    struct engine_tokens tokens = { 0 };
    struct engine_err err = { 0 };
    int exit_code = tokenize_prompt(o, e, &tokens);
    if (exit_code)
        goto out;
    /* The one request may fill the whole context, and waits for nobody. */
    struct sched_options so = { .on_event = on_event,
                                .max_seqs = 1,
                                .speculate = o->speculate == 1 };
    if (sched_open(&s, e, &so, &err)) {
        exit_code = cmd_fail_err(&err);
        goto out;
    }
    if (submit(s, o, e, &tokens, run)) {
        exit_code = cmd_fail(run->err.code ? exit_code_of(run->err.code) : EX_UNAVAILABLE, "%s",
                             run->err.code ? run->err.text : "the prompt does not fit");
        goto out;
    }
    wait_for_end(run);
    exit_code = report(run);
out:
    sched_close(s);
    engine_tokens_fini(&tokens);
    return exit_code;
}

static int run_command(const struct options *o)
{
    /* The signal thread may look at it for as long as the process lives. */
    static struct run run = { .lock = PTHREAD_MUTEX_INITIALIZER,
                              .over_changed = PTHREAD_COND_INITIALIZER };
    struct engine_options opt;
    struct engine *e;
    int exit_code;
    const char *path = cmd_model_path(o, false, &exit_code);
    if (!path)
        return exit_code;
    if (o->n_args == 0 && isatty(STDIN_FILENO))
        return cmd_fail(EX_USAGE,
                        "no prompt: lacuna run -m MODEL \"PROMPT\", or - for standard input");
    if (cmd_signals_start(on_stop, &run))
        return cmd_fail(EX_OSERR, "cannot start a thread");
    cmd_engine_options(o, path, &opt);
    opt.cancel = cmd_signals_flag();
    opt.n_sequences = 1;
    exit_code = cmd_engine_open(o, &opt, &e);
    if (exit_code)
        return exit_code;
    int point = cmd_find_point(e, o->quality, &exit_code);
    run.point = point > 0 ? (uint32_t)point : ENGINE_POINT_EXACT;
    if (!exit_code)
        exit_code = complete(o, e, &run);
    engine_close(e);
    return exit_code;
}

const struct cmd cmd_run = {
    .usage = {
        .command = OPTIONS_RUN,
        .name = "run",
        .summary = "complete one prompt on the terminal",
        .args = "[PROMPT|-]",
        .max_args = 1,
        .about = "Completes one prompt: the text goes to standard output as it is made, "
                 "the figures to standard error.  The prompt is taken as it is, without a "
                 "chat template; - reads it from standard input.  Ctrl-C ends the text "
                 "early.",
        .example = "  lacuna run -m model.gguf \"The capital of France is\" -n 16\n"
                   "  lacuna run -m model.gguf --temperature 0.8 --seed 7 - < prompt.txt\n",
    },
    .run = run_command,
};
