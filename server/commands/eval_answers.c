/* SPDX-License-Identifier: Apache-2.0
 *
 * eval_answers.c - prompts of a file, a line each; sums for each point.
 */
#include "server/commands/eval_answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/buffer.h"
#include "server/commands/commands.h"

/* Of a point, over all prompts. */
struct sums {
    uint64_t n_whole;         /* answers that are the exact one */
    uint64_t n_same, n_exact; /* tokens before the answers part, and of the exact ones */
    uint64_t n;               /* tokens of its own */
    double nll;               /* of these, nats */
    double change, squares; /* of nats per token, from the exact answer's: sums over the prompts */
};

struct answers {
    const struct options *o;
    struct engine *e;
    const uint32_t *points;
    uint32_t n_sides;          /* the exact point and the others */
    struct engine_answer *out; /* [n_sides] of the prompt at hand */
    struct sums *sums;         /* [n_sides] */
    uint32_t n_prompts;
    struct buf json; /* of the prompts so far */
};

static const char *name_of(const struct answers *a, uint32_t side)
{
    return engine_info(a->e)->points[side ? a->points[side - 1] : ENGINE_POINT_EXACT].name;
}

/* ---- a prompt ---- */

static double per_token(const struct engine_answer *x)
{
    return x->n ? x->nll / x->n : 0;
}

static void sum_up(struct answers *a)
{
    const struct engine_answer *exact = &a->out[0];
    for (uint32_t i = 0; i < a->n_sides; i++) {
        const struct engine_answer *x = &a->out[i];
        struct sums *s = &a->sums[i];
        double change = per_token(x) - per_token(exact);
        s->n_whole += x->n == exact->n && x->n_same == x->n;
        s->n_same += x->n_same;
        s->n_exact += exact->n;
        s->n += x->n;
        s->nll += x->nll;
        s->change += change;
        s->squares += change * change;
    }
    a->n_prompts++;
}

static void add_text(struct answers *a, const struct engine_answer *x)
{
    struct engine_detok detok = { 0 };
    struct buf text = { 0 };
    size_t room = engine_detok_max(a->e);
    engine_detok_init(&detok, a->e, true, false);
    for (uint32_t i = 0; i < x->n && buf_reserve(&text, room); i++)
        text.len += engine_detok_push(&detok, x->tokens[i], text.data + text.len);
    if (buf_reserve(&text, room))
        text.len += engine_detok_flush(&detok, text.data + text.len);
    buf_json(&a->json, text.data, text.len);
    a->json.failed |= text.failed;
    buf_fini(&text);
}

static void add_json(struct answers *a, const char *prompt, size_t len)
{
    buf_str(&a->json, a->n_prompts > 1 ? ",\n  {\"prompt\":" : "\n  {\"prompt\":");
    buf_json(&a->json, prompt, len);
    buf_str(&a->json, ",\"answers\":[");
    for (uint32_t i = 0; i < a->n_sides; i++) {
        const struct engine_answer *x = &a->out[i];
        buf_printf(
            &a->json,
            "%s\n   {\"point\":\"%s\",\"tokens\":%u,\"same_tokens\":%u,\"nll\":%.6g,\"text\":",
            i ? "," : "", name_of(a, i), x->n, x->n_same, x->nll);
        add_text(a, x);
        buf_char(&a->json, '}');
    }
    buf_str(&a->json, "]}");
}

static int answer_line(struct answers *a, const char *line, size_t len)
{
    struct engine_tokens tokens = { 0 };
    struct engine_err err = { 0 };
    int rc = engine_tokenize(a->e, line, len, ENGINE_TOKENIZE_ADD_SPECIAL, &tokens, &err);
    const struct engine_answers_options opt = { .prompt = tokens.ids,
                                                .n_prompt = (uint32_t)tokens.n,
                                                .n_tokens = a->o->max_tokens,
                                                .points = a->points,
                                                .n_points = a->n_sides - 1 };
    if (rc == 0)
        rc = engine_eval_answers(a->e, &opt, a->out, &err);
    engine_tokens_fini(&tokens);
    if (rc != 0)
        return cmd_fail_err(&err);
    sum_up(a);
    if (a->o->json)
        add_json(a, line, len);
    return 0;
}

/* ---- what it comes to ---- */

static double margin(const struct sums *s, uint32_t n)
{
    return engine_eval_margin(s->change, s->squares, n);
}

static double share(uint64_t part, uint64_t all)
{
    return all ? (double)part / (double)all : 1;
}

static void print_table(const struct answers *a)
{
    printf("%-20s %13s %12s %15s %18s\n", "", "same answers", "same tokens", "nats per token",
           "change");
    for (uint32_t i = 0; i < a->n_sides; i++) {
        const struct sums *s = &a->sums[i];
        printf("%-20s", name_of(a, i));
        if (i > 0)
            printf(" %12.1f%% %11.1f%%", 100 * share(s->n_whole, a->n_prompts),
                   100 * share(s->n_same, s->n_exact));
        else
            printf(" %13s %12s", "", "");
        printf(" %15.4f", s->n ? s->nll / (double)s->n : 0);
        if (i > 0)
            printf("  %+8.4f +-%6.4f", s->change / a->n_prompts, margin(s, a->n_prompts));
        putchar('\n');
    }
    printf("%u prompts, answers of at most %u tokens\n", a->n_prompts, a->o->max_tokens);
}

static void print_json(const struct answers *a)
{
    printf("{\"n_prompts\":%u,\"points\":[", a->n_prompts);
    for (uint32_t i = 0; i < a->n_sides; i++) {
        const struct sums *s = &a->sums[i];
        printf("%s\n  {\"name\":\"%s\",\"same_answers\":%.6f,\"same_tokens\":%.6f,\"nll\":%.6f,"
               "\"nll_change\":%.6f,\"nll_margin\":%.6f}",
               i ? "," : "", name_of(a, i), share(s->n_whole, a->n_prompts),
               share(s->n_same, s->n_exact), s->n ? s->nll / (double)s->n : 0,
               s->change / a->n_prompts, margin(s, a->n_prompts));
    }
    fputs("],\"prompts\":[", stdout);
    fwrite(a->json.data, 1, a->json.len, stdout);
    puts("]}");
}

static int answer_lines(struct answers *a, const char *text, size_t len)
{
    bool show = isatty(STDERR_FILENO);
    int exit_code = 0;
    for (const char *end = text + len, *line = text, *next; line < end && !exit_code; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        next = stop + 1;
        if (stop > line)
            exit_code = answer_line(a, line, (size_t)(stop - line));
        if (show)
            fprintf(stderr, "\r\033[K%u prompts, %.0f %%", a->n_prompts,
                    100.0 * (double)(stop - text) / (double)len);
    }
    if (show)
        fputs("\r\033[K", stderr);
    return exit_code;
}

static int take_memory(struct answers *a)
{
    a->out = calloc(a->n_sides, sizeof(*a->out));
    a->sums = calloc(a->n_sides, sizeof(*a->sums));
    for (uint32_t i = 0; i < a->n_sides && a->out; i++)
        if (!(a->out[i].tokens = calloc(a->o->max_tokens, sizeof(*a->out[i].tokens))))
            return -1;
    return a->out && a->sums ? 0 : -1;
}

static int answer_file(struct answers *a)
{
    char *text;
    size_t len;
    int exit_code = cmd_read_file(a->o->answer, &text, &len);
    if (!exit_code)
        exit_code = answer_lines(a, text, len);
    free(text);
    if (exit_code)
        return exit_code;
    if (a->n_prompts == 0)
        return cmd_fail(EX_DATAERR, "%s: no prompts", a->o->answer);
    if (a->json.failed)
        return cmd_fail(EX_OSERR, "no memory for %u answers", a->n_prompts);
    if (a->o->json)
        print_json(a);
    else
        print_table(a);
    return 0;
}

int eval_answers(const struct options *o, struct engine *e, const uint32_t *points,
                 uint32_t n_points)
{
    struct answers a = { .o = o, .e = e, .points = points, .n_sides = 1 + n_points };
    int exit_code = take_memory(&a) == 0
                        ? answer_file(&a)
                        : cmd_fail(EX_OSERR, "no memory for answers of %u tokens", o->max_tokens);
    for (uint32_t i = 0; i < a.n_sides && a.out; i++)
        free(a.out[i].tokens);
    free(a.out);
    free(a.sums);
    buf_fini(&a.json);
    return exit_code;
}
