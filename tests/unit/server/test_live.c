/* SPDX-License-Identifier: Apache-2.0
 *
 * test_live.c - what may change while the server runs: all of it or nothing, and never under the
 * feet of who uses it.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/http/auth.h"
#include "server/http/http.h"
#include "server/internal.h"
#include "server/live.h"
#include "server/log.h"

static char key_path[] = "/tmp/lacuna_test_live_XXXXXX";

static const char *key_file(const char *text)
{
    static bool is_made;
    if (!is_made)
        close(mkstemp(key_path));
    is_made = true;
    FILE *f = fopen(key_path, "w");
    fputs(text, f);
    fclose(f);
    return key_path;
}

static struct srv *open_server(const struct srv_options *opt)
{
    struct srv *s;
    struct engine_err err = { 0 };
    log_configure(LOG_ERROR_LEVEL, true);
    cr_assert_eq(srv_open(&s, opt, &err), 0, "%s", err.text);
    return s;
}

static const char *const local[] = { "127.0.0.1:0" };
static const char *const anywhere[] = { "0.0.0.0:0" };

Test(live, a_reload_counts_for_those_who_come_after_it)
{
    static const char *const origins[] = { "https://a.example" };
    struct engine_err err = { 0 };
    struct srv_options opt = { .listen = local, .n_listen = 1, .max_n = 2 };
    struct srv *s = open_server(&opt);
    struct live *before = srv_live(s);
    opt.max_n = 5;
    opt.cors_origins = origins;
    opt.n_cors_origins = 1;
    opt.api_key_file = key_file("alice:k\n");
    cr_assert_eq(srv_reload(s, &opt, &err), 0, "%s", err.text);
    struct live *after = srv_live(s);
    cr_expect_eq(before->max_n, 2);
    cr_expect_null(before->auth);
    cr_expect_eq(after->max_n, 5);
    cr_expect(live_has(&after->cors_origins, "https://a.example"));
    cr_expect_not(live_has(&after->cors_origins, "https://a.example/"));
    cr_expect_not_null(auth_find(after->auth, "k"));
    live_put(before);
    live_put(after);
    remove(key_path);
    srv_close(s);
}

Test(live, what_is_left_out_is_the_default_again)
{
    struct engine_err err = { 0 };
    struct srv_options opt = { .listen = local, .n_listen = 1, .max_n = 2, .max_body_bytes = 1024 };
    struct srv *s = open_server(&opt);
    opt.max_n = 0;
    opt.max_body_bytes = 0;
    cr_assert_eq(srv_reload(s, &opt, &err), 0, "%s", err.text);
    struct live *l = srv_live(s);
    cr_expect_eq(l->max_n, 8);
    cr_expect_eq(l->max_body_bytes, 16 << 20);
    live_put(l);
    srv_close(s);
}

Test(live, a_bad_key_file_changes_nothing_and_is_named)
{
    struct engine_err err = { 0 };
    struct srv_options opt = { .listen = local, .n_listen = 1, .max_n = 2 };
    opt.api_key_file = key_file("alice:k\n");
    struct srv *s = open_server(&opt);
    int64_t at = atomic_load(&s->reloaded_ms);
    cr_expect_gt(at, 1000000000000);
    key_file("alice:k\nbob\n");
    opt.max_n = 5;
    cr_expect_eq(srv_reload(s, &opt, &err), -1);
    cr_expect(strstr(err.text, key_path) && strstr(err.text, ":2:"), "%s", err.text);
    struct live *l = srv_live(s);
    cr_expect_eq(l->max_n, 2);
    cr_expect_not_null(auth_find(l->auth, "k"));
    cr_expect_eq(atomic_load(&s->reloaded_ms), at);
    live_put(l);
    remove(key_path);
    srv_close(s);
}

Test(live, keys_cannot_be_taken_from_a_server_that_others_reach)
{
    struct engine_err err = { 0 };
    struct srv_options opt = { .listen = anywhere, .n_listen = 1 };
    opt.api_key_file = key_file("alice:k\n");
    struct srv *s = open_server(&opt);
    opt.api_key_file = NULL;
    cr_expect_eq(srv_reload(s, &opt, &err), -1);
    cr_expect(strstr(err.text, "without API keys"), "%s", err.text);
    struct live *l = srv_live(s);
    cr_expect_not_null(l->auth);
    live_put(l);
    remove(key_path);
    srv_close(s);
}

Test(live, seats_outlive_the_file_that_named_them)
{
    struct engine_err err = { 0 };
    struct srv_options opt = { .listen = local, .n_listen = 1 };
    opt.api_key_file = key_file("alice:k:1\nbob:b:1\n");
    struct srv *s = open_server(&opt);
    struct live *before = srv_live(s);
    struct auth_key *alice = auth_find(before->auth, "k");
    cr_expect(auth_acquire(alice));
    key_file("bob:b:1\nalice:new:1\n");
    cr_assert_eq(srv_reload(s, &opt, &err), 0, "%s", err.text);
    struct live *after = srv_live(s);
    cr_expect_not(auth_acquire(auth_find(after->auth, "new")), "her one seat is taken");
    cr_expect(auth_acquire(auth_find(after->auth, "b")));
    auth_release(alice);
    live_put(before);
    cr_expect(auth_acquire(auth_find(after->auth, "new")));
    live_put(after);
    remove(key_path);
    srv_close(s);
}

Test(live, a_socket_that_is_handed_over_is_listened_on)
{
    struct http_listener first = { .fd = -1 }, second = { .fd = -1 };
    struct engine_err err = { 0 };
    int fds[2];
    cr_assert_eq(http_listen(&first, "127.0.0.1:0", &err), 0, "%s", err.text);
    cr_assert_eq(http_listen_on(&second, dup(first.fd), &err), 0, "%s", err.text);
    cr_expect_str_eq(first.address, second.address);
    cr_expect(second.is_loopback);
    cr_expect_eq(pipe(fds), 0);
    http_unlisten(&first);
    http_unlisten(&second);
    cr_expect_eq(http_listen_on(&first, fds[0], &err), -1);
    cr_expect(strstr(err.text, "descriptor"), "%s", err.text);
    cr_expect_eq(first.fd, -1);
    close(fds[1]);
}
