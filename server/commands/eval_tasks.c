/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_tasks.c - tasks times lengths, a line for each point.
 */
#include "server/commands/eval_tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/commands/commands.h"

struct progress {
    bool show;
    const char *task;
    uint32_t n_tokens;
    double started;
};

static int show(void *ctx, uint32_t done, uint32_t total)
{
    const struct progress *p = ctx;
    if (p->show)
        fprintf(stderr, "\r\033[K%s, %u tokens: %u of %u, %.0f s left", p->task, p->n_tokens, done,
                total, (cmd_now() - p->started) * (total - done) / done);
    return 0;
}

uint32_t eval_tasks_longest(const struct options *o)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < o->lengths.n && o->tasks.n > 0; i++)
        longest = o->lengths.items[i] > longest ? o->lengths.items[i] : longest;
    return longest;
}

static int find_task(const char *name, uint32_t *task, char *known, size_t cap)
{
    known[0] = '\0';
    for (uint32_t t = 0; engine_task_name(t); t++) {
        *task = t;
        if (strcmp(engine_task_name(t), name) == 0)
            return 0;
        snprintf(known + strlen(known), cap - strlen(known), "%s%s", t ? ", " : "",
                 engine_task_name(t));
    }
    return -1;
}

static void print_line(const struct engine_task_result *r, const char *task, uint32_t n_tokens,
                       const char *point, bool is_exact)
{
    printf("%-10s %7u  %-20s %7.1f%%", task, n_tokens, point, 100 * r->solved);
    if (!is_exact)
        printf(" %+7.1f +-%4.1f", 100 * r->solved_change, 100 * r->solved_margin);
    else
        printf(" %14s", "");
    printf(" %10.3f", r->logprob);
    if (!is_exact)
        printf(" %+9.3f +-%6.3f", r->logprob_change, r->logprob_margin);
    putchar('\n');
}

static void print_json(const struct engine_task_result *r, const char *task, uint32_t n_tokens,
                       const char *point, bool is_first)
{
    printf("%s\n  {\"task\":\"%s\",\"tokens\":%u,\"samples\":%u,\"point\":\"%s\",\"solved\":%.6f,"
           "\"solved_change\":%.6f,\"solved_margin\":%.6f,\"logprob\":%.6f,\"logprob_change\":%.6f,"
           "\"logprob_margin\":%.6f}",
           is_first ? "[" : ",", task, n_tokens, r->n_samples, point, r->solved, r->solved_change,
           r->solved_margin, r->logprob, r->logprob_change, r->logprob_margin);
}

struct cell {
    const struct options *o;
    struct engine *e;
    const uint32_t *points;
    uint32_t n_points;
    bool is_first; /* of all */
};

static int run_cell(struct cell *c, uint32_t task, uint32_t n_tokens)
{
    struct engine_err err = { 0 };
    struct engine_task_result *r = calloc(c->n_points + 1, sizeof(*r));
    if (!r)
        return cmd_fail(EX_OSERR, "no memory for %u points", c->n_points);
    struct progress progress = { .show = isatty(STDERR_FILENO),
                                 .task = engine_task_name(task),
                                 .n_tokens = n_tokens,
                                 .started = cmd_now() };
    struct engine_task_options opt = { .task = task,
                                       .n_tokens = n_tokens,
                                       .n_samples = c->o->samples,
                                       .seed = 1,
                                       .points = c->points,
                                       .n_points = c->n_points,
                                       .progress = show,
                                       .ctx = &progress };
    int rc = engine_eval_task(c->e, &opt, r, &err);
    if (progress.show)
        fputs("\r\033[K", stderr);
    for (uint32_t p = 0; p <= c->n_points && rc == 0; p++) {
        const char *name =
            engine_info(c->e)->points[p ? c->points[p - 1] : ENGINE_POINT_EXACT].name;
        if (c->o->json)
            print_json(&r[p], engine_task_name(task), n_tokens, name, c->is_first);
        else
            print_line(&r[p], engine_task_name(task), n_tokens, name, p == 0);
        c->is_first = false;
    }
    fflush(stdout);
    free(r);
    return rc ? cmd_fail_err(&err) : 0;
}

static int run_cells(struct cell *c, uint32_t task)
{
    int exit_code = 0;
    for (uint32_t i = 0; i < c->o->lengths.n && !exit_code; i++)
        exit_code = run_cell(c, task, c->o->lengths.items[i]);
    return exit_code;
}

int eval_tasks_check(const struct options *o)
{
    char known[128];
    uint32_t task;
    for (uint32_t i = 0; i < o->tasks.n; i++)
        if (strcmp(o->tasks.items[i], "all") != 0 &&
            find_task(o->tasks.items[i], &task, known, sizeof(known)) != 0)
            return cmd_fail(EX_USAGE, "--tasks: '%s' is none; there are all, %s", o->tasks.items[i],
                            known);
    return 0;
}

int eval_tasks(const struct options *o, struct engine *e, const uint32_t *points, uint32_t n_points)
{
    struct cell c = { o, e, points, n_points, true };
    char known[128];
    int exit_code = 0;
    if (!o->json)
        printf("%-10s %7s  %-20s %8s %14s %10s %18s\n", "task", "tokens", "", "solved", "change",
               "log-prob", "change");
    for (uint32_t i = 0; i < o->tasks.n && !exit_code; i++) {
        bool is_all = strcmp(o->tasks.items[i], "all") == 0;
        for (uint32_t t = 0; is_all && engine_task_name(t) && !exit_code; t++)
            exit_code = run_cells(&c, t);
        uint32_t task;
        if (!is_all && find_task(o->tasks.items[i], &task, known, sizeof(known)) == 0)
            exit_code = run_cells(&c, task);
    }
    if (!exit_code && o->json)
        puts("\n]");
    return exit_code;
}
