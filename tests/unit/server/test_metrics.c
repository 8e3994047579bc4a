/* SPDX-License-Identifier: Apache-2.0
 *
 * test_metrics.c - the text of GET /metrics: complete from the start, well formed, and right.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"
#include "server/http/http.h"
#include "server/internal.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/server.h"

static struct srv *open_server(void)
{
    static const char *const listen[] = { "127.0.0.1:0" };
    static const char *const aliases[] = { "a\"b\\c" };
    struct srv_options opt = {
        .listen = listen, .n_listen = 1, .aliases = aliases, .n_aliases = 1
    };
    struct srv *s;
    struct engine_err err = { 0 };
    log_configure(LOG_ERROR_LEVEL, true);
    cr_assert_eq(srv_open(&s, &opt, &err), 0, "%s", err.text);
    return s;
}

static char *render(const struct srv *s, bool openmetrics)
{
    struct buf b = { 0 };
    metrics_render(s, &b, openmetrics);
    return buf_take(&b, NULL);
}

/* The value after a line's beginning. */
static double value_of(const char *text, const char *series)
{
    char line[256];
    snprintf(line, sizeof(line), "\n%s ", series);
    const char *at = strstr(text, line);
    cr_assert(at, "no series %s", series);
    return strtod(at + strlen(line), NULL);
}

Test(metrics, every_sample_stands_under_its_own_family)
{
    struct srv *s = open_server();
    char *text = render(s, false), *rest = text, *line;
    char family[128] = "";
    cr_expect_eq(text[strlen(text) - 1], '\n', "the last line ends too");
    while ((line = strsep(&rest, "\n")) && rest) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            sscanf(line + 7, "%127s", family);
            cr_expect(strchr(line + 7, ' ')[1], "no help: %s", line);
            cr_expect_eq(strncmp(rest, "# TYPE ", 7), 0, "no type after %s", line);
        } else if (line[0] != '#') {
            cr_expect_eq(strncmp(line, family, strlen(family)), 0, "%s in %s", line, family);
        }
    }
    free(text);
    srv_close(s);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

Test(metrics, no_series_comes_twice)
{
    enum { MAX_LINES = 4096 };
    static char *lines[MAX_LINES];
    struct srv *s = open_server();
    char *text = render(s, false), *rest = text, *line;
    size_t n = 0;
    while ((line = strsep(&rest, "\n")) && rest) {
        cr_assert_lt(n, MAX_LINES);
        if (line[0] != '#')
            *strrchr(line, ' ') = '\0';
        lines[n++] = line;
    }
    qsort(lines, n, sizeof(lines[0]), by_text);
    for (size_t i = 1; i < n; i++)
        cr_expect_neq(strcmp(lines[i - 1], lines[i]), 0, "twice: %s", lines[i]);
    free(text);
    srv_close(s);
}

Test(metrics, label_values_are_escaped)
{
    struct srv *s = open_server();
    char *text = render(s, false);
    cr_expect(strstr(text, "lacuna_requests_running{model_name=\"a\\\"b\\\\c\"} 0\n"));
    free(text);
    srv_close(s);
}

Test(metrics, histograms_are_cumulative_and_add_up)
{
    struct srv *s = open_server();
    const char *name = "{model_name=\"a\\\"b\\\\c\"";
    char series[160];
    metrics_observe(s->metrics, METRICS_ITL, 5000000, 1);      /* 5 ms: below the first bound */
    metrics_observe(s->metrics, METRICS_ITL, 10000000, 2);     /* 10 ms: on it */
    metrics_observe(s->metrics, METRICS_ITL, 30000000, 3);     /* 30 ms */
    metrics_observe(s->metrics, METRICS_ITL, 100000000000, 1); /* 100 s: above the last */
    char *text = render(s, false);
    static const struct {
        const char *le;
        double count;
    } want[] = { { "0.01", 3 }, { "0.025", 3 }, { "0.05", 6 }, { "80", 6 }, { "+Inf", 7 } };
    for (size_t i = 0; i < 5; i++) {
        snprintf(series, sizeof(series), "lacuna_inter_token_latency_seconds_bucket%s,le=\"%s\"}",
                 name, want[i].le);
        cr_expect_eq(value_of(text, series), want[i].count, "%s", series);
    }
    snprintf(series, sizeof(series), "lacuna_inter_token_latency_seconds_count%s}", name);
    cr_expect_eq(value_of(text, series), 7);
    snprintf(series, sizeof(series), "lacuna_inter_token_latency_seconds_sum%s}", name);
    cr_expect_float_eq(value_of(text, series), 100.115, 1e-6);
    free(text);
    srv_close(s);
}

Test(metrics, counters_count_what_happened)
{
    struct srv *s = open_server();
    metrics_count_http(s->metrics, 0, HTTP_POST, 200, 1000);
    metrics_count_http(s->metrics, 0, HTTP_POST, 418, 1000);
    metrics_count_http(s->metrics, http_n_routes - 1, HTTP_OTHER, 404, 1000);
    metrics_count_rejected(s->metrics, API_INVALID_TYPE);
    metrics_count_rejected(s->metrics, API_INVALID_JSON);
    metrics_count_rejected(s->metrics, API_INVALID_KEY);
    metrics_count_cancelled(s->metrics, METRICS_IN_PREFILL, SCHED_CANCEL_CLIENT);
    metrics_count_success(s->metrics, SCHED_FINISH_STOP);
    char *text = render(s, false);
    cr_expect(strstr(text, "route=\"/v1/completions\",method=\"POST\",code=\"200\"} 1\n"));
    cr_expect(strstr(text, "route=\"/v1/completions\",method=\"POST\",code=\"other\"} 1\n"));
    cr_expect(strstr(text, "route=\"other\",method=\"other\",code=\"404\"} 1\n"));
    cr_expect(strstr(text, "reason=\"invalid\"} 2\n"));
    cr_expect(strstr(text, "phase=\"prefill\",cause=\"client\"} 1\n"));
    cr_expect(strstr(text, "finished_reason=\"stop\"} 1\n"));
    free(text);
    srv_close(s);
}

Test(metrics, openmetrics_ends_and_names_counters_without_total)
{
    struct srv *s = open_server();
    char *text = render(s, true);
    cr_expect(strstr(text, "# TYPE lacuna_http_requests counter\n"));
    cr_expect(strstr(text, "\nlacuna_http_requests_total{"));
    cr_expect_str_eq(text + strlen(text) - 6, "# EOF\n");
    free(text);
    srv_close(s);
}

Test(metrics, a_scrape_changes_nothing)
{
    struct srv *s = open_server();
    char *first = render(s, false), *second = render(s, false);
    char *a = strstr(first, "lacuna_time_to_first"), *b = strstr(second, "lacuna_time_to_first");
    size_t n = (size_t)(strstr(first, "# HELP process_") - a);
    cr_expect_eq(strncmp(a, b, n), 0);
    free(first);
    free(second);
    srv_close(s);
}

Test(metrics, cancelled_requests_are_aborts_too)
{
    struct srv *s = open_server();
    metrics_count_cancelled(s->metrics, METRICS_QUEUED, SCHED_CANCEL_CLIENT);
    metrics_count_cancelled(s->metrics, METRICS_IN_DECODE, SCHED_CANCEL_SHUTDOWN);
    char *text = render(s, false);
    cr_expect(strstr(text, "finished_reason=\"abort\"} 2\n"));
    free(text);
    srv_close(s);
}

Test(metrics, sums_are_exact)
{
    struct srv *s = open_server();
    metrics_observe(s->metrics, METRICS_PROMPT_TOKENS, 12345678901, 1);
    metrics_observe(s->metrics, METRICS_TTFT, 12345678901234567, 1);
    char *text = render(s, false);
    cr_expect(strstr(text, "\nlacuna_request_prompt_tokens_sum{model_name=\"a\\\"b\\\\c\"} "
                           "12345678901\n"));
    cr_expect(strstr(text, "} 12345678.901234567\n"));
    free(text);
    srv_close(s);
}

Test(metrics, a_stuck_engine_is_not_ready)
{
    struct srv *s = open_server();
    struct api_error e = { 0 };
    atomic_store(&s->state, SRV_READY);
    api_check_state(s, &e);
    cr_expect_eq(e.kind, API_OK);
    atomic_store(&s->is_stuck, true);
    api_check_state(s, &e);
    cr_expect_eq(e.kind, API_ENGINE_STUCK);
    atomic_store(&s->state, SRV_LOADING);
    srv_close(s);
}
