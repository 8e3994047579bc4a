/* SPDX-License-Identifier: Apache-2.0
 *
 * test_log.c - one line per event, whatever the values hold.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/log.h"

/* What log_fields writes to the descriptor, by way of a file. */
static FILE *capture;
static int kept_fd;

static void begin(void)
{
    capture = tmpfile();
    kept_fd = dup(STDERR_FILENO);
    dup2(fileno(capture), STDERR_FILENO);
}

static const char *end(void)
{
    static char text[8192];
    dup2(kept_fd, STDERR_FILENO);
    close(kept_fd);
    rewind(capture);
    size_t n = fread(text, 1, sizeof(text) - 1, capture);
    text[n] = '\0';
    fclose(capture);
    return text;
}

static unsigned n_lines(const char *text)
{
    unsigned n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

Test(log, writes_json_objects)
{
    log_configure(LOG_INFO_LEVEL, true);
    begin();
    log_event(LOG_INFO_LEVEL, "ready", LOG_STR("model", "m\"x"), LOG_STR("none", NULL),
              LOG_U64("ms", 12), LOG_F64("rate", 1.5), LOG_F64("bad", NAN), LOG_BOOL("ok", true),
              LOG_END);
    const char *text = end();
    cr_expect_eq(strncmp(text, "{\"ts\":\"2", 8), 0, "%s", text);
    cr_expect(strstr(text, "Z\",\"level\":\"info\",\"event\":\"ready\",\"model\":\"m\\\"x\","
                           "\"none\":null,\"ms\":12,\"rate\":1.5,\"bad\":null,\"ok\":true}\n"),
              "%s", text);
}

Test(log, values_cannot_forge_lines_or_fields)
{
    for (int json = 0; json < 2; json++) {
        log_configure(LOG_INFO_LEVEL, json);
        begin();
        log_event(LOG_INFO_LEVEL, "request",
                  LOG_STR("id", "a\n2026 error fake \x1b[31m status=200 \"x\""), LOG_END);
        const char *text = end();
        cr_expect_eq(n_lines(text), 1, "%s", text);
        cr_expect_null(strchr(text, '\x1b'), "%s", text);
        cr_expect_null(strstr(text, " \"x\""), "the quote is escaped: %s", text);
    }
}

Test(log, text_form_quotes_only_what_needs_it)
{
    log_configure(LOG_INFO_LEVEL, false);
    begin();
    log_event(LOG_WARN_LEVEL, "x", LOG_STR("a", "plain"), LOG_STR("b", "two words"),
              LOG_STR("c", ""), LOG_END);
    cr_expect(strstr(end(), "Z warn x a=plain b=\"two words\" c=\"\"\n"));
}

Test(log, levels_below_the_least_are_silent)
{
    log_configure(LOG_WARN_LEVEL, true);
    uint64_t before = log_count(LOG_INFO_LEVEL);
    begin();
    log_event(LOG_INFO_LEVEL, "x", LOG_END);
    cr_expect_eq(end()[0], '\0');
    cr_expect_eq(log_count(LOG_INFO_LEVEL), before);
    cr_expect_not(log_enabled(LOG_DEBUG_LEVEL));
}

Test(log, identical_warnings_come_once_and_others_each)
{
    log_configure(LOG_INFO_LEVEL, true);
    begin();
    for (int i = 0; i < 5; i++) {
        log_event(LOG_WARN_LEVEL, "same", LOG_STR("a", "b"), LOG_END);
        log_event(LOG_WARN_LEVEL, "differs", LOG_U64("i", (uint64_t)i), LOG_END);
        log_event(LOG_INFO_LEVEL, "info", LOG_END);
    }
    const char *text = end();
    cr_expect_eq(n_lines(text), 1 + 5 + 5, "%s", text);
    cr_expect_eq(log_count(LOG_WARN_LEVEL), 6);
}

Test(log, request_ids_do_not_make_a_warning_another_one)
{
    log_configure(LOG_INFO_LEVEL, true);
    begin();
    log_event(LOG_WARN_LEVEL, "same_but_for_the_id", LOG_STR("request_id", "1"), LOG_U64("n", 1),
              LOG_END);
    log_event(LOG_WARN_LEVEL, "same_but_for_the_id", LOG_STR("request_id", "2"), LOG_U64("n", 1),
              LOG_END);
    const char *text = end();
    cr_expect_eq(n_lines(text), 1, "%s", text);
}
