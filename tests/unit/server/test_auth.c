/* SPDX-License-Identifier: Apache-2.0
 *
 * test_auth.c - API keys and the file they come from.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/auth.h"

static struct auth *parse(const char *text)
{
    struct auth *a = NULL;
    struct engine_err err = { 0 };
    cr_assert_eq(auth_parse(&a, text, strlen(text), "keys", &err), 0, "%s", err.text);
    return a;
}

static void refuse(const char *text, const char *part)
{
    struct auth *a = NULL;
    struct engine_err err = { 0 };
    cr_expect_eq(auth_parse(&a, text, strlen(text), "keys", &err), -1, "'%s' was taken", text);
    cr_expect_null(a);
    cr_expect_eq(err.code, ENGINE_ERR_OPTION);
    cr_expect(strstr(err.text, part), "'%s' lacks '%s'", err.text, part);
}

Test(auth, finds_whose_key_it_is)
{
    struct auth *a = parse("# people\nalice:s3cret\n\nbob:other:2\r\n");
    cr_expect_str_eq(auth_key_name(auth_find(a, "s3cret")), "alice");
    cr_expect_str_eq(auth_key_name(auth_find(a, "other")), "bob");
    auth_close(a);
}

Test(auth, takes_nothing_but_the_whole_key)
{
    struct auth *a = parse("alice:s3cret\n");
    char longer[600];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    cr_expect_null(auth_find(a, ""));
    cr_expect_null(auth_find(a, "s3cre"));
    cr_expect_null(auth_find(a, "s3cret "));
    cr_expect_null(auth_find(a, "S3cret"));
    cr_expect_null(auth_find(a, longer));
    auth_close(a);
}

Test(auth, bad_lines_are_named_and_keys_are_not)
{
    struct auth *a = NULL;
    struct engine_err err = { 0 };
    refuse("", "no API key");
    refuse("# only\n", "no API key");
    refuse("a:k\nb\n", "keys:2:");
    refuse(":k\n", "keys:1:");
    refuse("a:\n", "keys:1:");
    refuse("a:k:\n", "keys:1:");
    refuse("a:k:0\n", "keys:1:");
    refuse("a:k:x\n", "keys:1:");
    refuse("a:k:99999999999\n", "keys:1:");
    refuse("a:k\na:l\n", "keys:2:");
    refuse("a:k\nb:k\n", "keys:2:");
    refuse("a:k\x01\n", "keys:1:");
    cr_expect_eq(auth_parse(&a, "a:hush hush", 11, "keys", &err), -1);
    cr_expect_null(strstr(err.text, "hush"));
}

Test(auth, refuses_keys_and_names_that_are_too_long)
{
    char line[700] = "a:";
    memset(line + 2, 'k', 256);
    refuse(line, "255");
    memset(line, 'n', 64);
    strcpy(line + 64, ":k");
    refuse(line, "63");
}

Test(auth, a_limit_holds_and_seats_come_back)
{
    struct auth *a = parse("a:k:2\nb:l\n");
    struct auth_key *limited = auth_find(a, "k"), *free_key = auth_find(a, "l");
    cr_expect(auth_acquire(limited));
    cr_expect(auth_acquire(limited));
    cr_expect_not(auth_acquire(limited));
    cr_expect_eq(auth_n_running(limited), 2);
    auth_release(limited);
    cr_expect(auth_acquire(limited));
    for (int i = 0; i < 100; i++)
        cr_expect(auth_acquire(free_key));
    cr_expect_eq(auth_limit(free_key), 0);
    auth_close(a);
}

Test(auth, reads_a_file)
{
    char path[] = "/tmp/lacuna_test_auth_XXXXXX";
    struct auth *a = NULL;
    struct engine_err err = { 0 };
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    fputs("alice:k", f); /* no newline at the end */
    fclose(f);
    cr_assert_eq(auth_open(&a, path, &err), 0, "%s", err.text);
    cr_expect_not_null(auth_find(a, "k"));
    auth_close(a);
    remove(path);
    cr_expect_eq(auth_open(&a, path, &err), -1);
    cr_expect(strstr(err.text, path));
}
