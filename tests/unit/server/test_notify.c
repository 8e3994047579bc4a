/* SPDX-License-Identifier: Apache-2.0
 *
 * test_notify.c - when systemd is told what: often enough, and not at all by what hangs.
 */
#include <criterion/criterion.h>

#include "server/commands/notify.h"
#include "server/server.h"

static const uint64_t second = 1000000000;
static const struct srv_status fine = { .still_ns = 0 };

/* Messages of one kind within `seconds`, asked for every 100 ms. */
static unsigned count(struct notify_clock *c, enum notify_phase phase, const struct srv_status *s,
                      unsigned message, unsigned seconds)
{
    unsigned n = 0;
    for (uint64_t now = second; now < (1 + seconds) * second; now += second / 10)
        n += (notify_due(c, phase, s, now) & message) != 0;
    return n;
}

Test(notify, says_nothing_of_a_watchdog_that_is_not_there)
{
    struct notify_clock c = { 0 };
    cr_expect_eq(count(&c, NOTIFY_SERVING, &fine, NOTIFY_WATCHDOG, 100), 0);
}

Test(notify, is_alive_three_times_within_the_watchdogs_time)
{
    struct notify_clock c = { .watchdog_ns = 60 * second };
    cr_expect_eq(count(&c, NOTIFY_SERVING, &fine, NOTIFY_WATCHDOG, 600), 30);
    cr_expect_leq(notify_sleep_ns(&c), 20 * second);
    c = (struct notify_clock){ .watchdog_ns = second / 10 };
    cr_expect_lt(notify_sleep_ns(&c), second / 30);
}

Test(notify, a_still_engine_is_not_alive)
{
    struct notify_clock c = { .watchdog_ns = 60 * second };
    struct srv_status s = { .still_ns = 30 * second };
    cr_expect_eq(count(&c, NOTIFY_SERVING, &s, NOTIFY_WATCHDOG, 600), 0);
    s.still_ns = 29 * second;
    cr_expect_eq(notify_due(&c, NOTIFY_SERVING, &s, 1000 * second), NOTIFY_WATCHDOG);
}

Test(notify, asks_for_time_every_five_seconds_while_it_drains)
{
    struct notify_clock c = { 0 };
    cr_expect_eq(count(&c, NOTIFY_DRAINING, &fine, NOTIFY_EXTEND, 100), 20);
}

Test(notify, asks_for_no_time_while_it_serves)
{
    struct notify_clock c = { 0 };
    cr_expect_eq(count(&c, NOTIFY_SERVING, &fine, NOTIFY_EXTEND, 100), 0);
}

Test(notify, a_load_that_moves_gets_time_and_one_that_hangs_does_not)
{
    struct notify_clock c = { 0 };
    struct srv_status s = { .load_total_bytes = 1000 };
    unsigned n = 0;
    for (uint64_t now = second; now < 301 * second; now += second) {
        s.load_done_bytes = now / second;
        n += (notify_due(&c, NOTIFY_LOADING, &s, now) & NOTIFY_EXTEND) != 0;
    }
    cr_expect_eq(n, 60);
    n = 0;
    for (uint64_t now = 301 * second; now < 901 * second; now += second)
        n += (notify_due(&c, NOTIFY_LOADING, &s, now) & NOTIFY_EXTEND) != 0;
    cr_expect_leq(n, 12, "a minute's patience, then silence");
}
