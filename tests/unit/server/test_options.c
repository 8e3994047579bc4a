/* SPDX-License-Identifier: Apache-2.0
 *
 * test_options.c - where a value comes from, what is refused and with which words.
 * Each test runs in a process of its own, so the environment it makes is its own too.
 */
#include "server/exits.h"
#include "server/options.h"
#include "server/options_table.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct options_usage serve_usage = {
    .command = OPTIONS_SERVE,
    .name = "serve",
    .args = "[MODEL]",
    .max_args = 1,
    .about = "About.",
    .example = "  lacuna serve\n",
};
static const struct options_usage bench_usage = {
    .command = OPTIONS_BENCH, .name = "bench", .about = "About.", .example = "  lacuna bench\n"
};
static const struct options_usage run_usage = {
    .command = OPTIONS_RUN, .name = "run", .max_args = 1, .about = "About.", .example = "  x\n"
};

static struct options o;
static struct options_outcome outcome;

enum { MAX_ARGV = 16 };

/* Parses the words up to NULL; returns options_parse's answer. */
static int parse_as(const struct options_usage *usage, ...)
{
    static char copies[MAX_ARGV][256];
    static char *argv[MAX_ARGV + 1]; /* options_parse_again reads it, too */
    int argc = 1;
    memset(argv, 0, sizeof(argv));
    argv[0] = (char *)(uintptr_t) "lacuna";
    va_list ap;
    va_start(ap, usage);
    for (const char *word; (word = va_arg(ap, const char *)); argc++) {
        cr_assert_lt(argc, MAX_ARGV);
        argv[argc] = strcpy(copies[argc], word);
    }
    va_end(ap);
    return options_parse(&o, usage, argc, argv, &outcome);
}

#define parse(...) parse_as(&serve_usage, __VA_ARGS__, (char *)NULL)

static char config_path[] = "/tmp/lacuna-test-options-XXXXXX";

static const char *config(const char *text)
{
    int fd = mkstemp(config_path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return config_path;
}

static void remove_config(void)
{
    unlink(config_path);
}

/* The sentence holds all of the words up to NULL. */
static void expect_refused(int exit_code, ...)
{
    va_list ap;
    cr_assert_eq(outcome.exit_code, exit_code, "%d: %s", outcome.exit_code, outcome.message);
    va_start(ap, exit_code);
    for (const char *word; (word = va_arg(ap, const char *));)
        cr_assert(strstr(outcome.message, word), "'%s' lacks '%s'", outcome.message, word);
    va_end(ap);
    cr_assert_null(o.owned);
}

#define refused(code, ...) expect_refused(code, __VA_ARGS__, (char *)NULL)

/* What the caller's environment says is none of these tests' business. */
static void forget_environment(void)
{
    clearenv();
}

TestSuite(options, .init = forget_environment, .fini = remove_config);

/* ---- defaults and units ---- */

Test(options, has_a_readable_default_in_every_row)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        cr_expect(!row->def || options_check(row, row->def), "--%s: '%s'", row->name, row->def);
        cr_expect(row->commands != 0 && row->help[0] != '\0', "--%s", row->name);
        cr_expect(!row->needs || options_find(row->needs), "--%s", row->name);
        cr_expect(row->type != OPTIONS_CHOICE || row->choices, "--%s", row->name);
    }
}

Test(options, never_gives_two_flags_of_a_command_the_same_name)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        for (size_t j = 0; j < i; j++) {
            const struct options_row *a = &options_rows[i], *b = &options_rows[j];
            if (!(a->commands & b->commands))
                continue;
            cr_expect_str_neq(a->name, b->name);
            cr_expect(!a->key || a->key != b->key, "--%s and --%s are both -%c", a->name, b->name,
                      a->key);
        }
    }
}

Test(options, takes_the_defaults_of_the_table)
{
    cr_assert_eq(parse(NULL), 0, "%s", outcome.message);
    cr_expect_eq(o.ctx, 0);
    cr_expect_eq(o.max_queue, 64);
    cr_expect_eq(o.max_body, 16 << 20);
    cr_expect_eq(o.ping_s, 5);
    cr_expect_eq(o.drain_timeout_s, 120);
    cr_expect_eq(o.listen.n, 1);
    cr_expect_str_eq(o.listen.items[0], "127.0.0.1:8080");
    cr_expect_eq(o.alias.n, 0);
    cr_expect_null(o.model);
    cr_expect_not(o.no_mmap);
    options_fini(&o);
}

Test(options, reads_units_of_sizes_and_times)
{
    cr_assert_eq(parse("--kv-bytes", "3G", "--max-body=512K", "--ping", "2m", "--drain-delay",
                       "1500ms", "--request-timeout", "off"),
                 0, "%s", outcome.message);
    cr_expect_eq(o.kv_bytes, UINT64_C(3) << 30);
    cr_expect_eq(o.max_body, 512 << 10);
    cr_expect_eq(o.ping_s, 120);
    cr_expect_eq(o.drain_delay_s, 2);
    cr_expect_eq(o.request_timeout_s, 0);
    options_fini(&o);
}

Test(options, lets_a_word_stand_outside_the_range)
{
    cr_assert_eq(parse("--ping", "off", "--threads", "auto"), 0, "%s", outcome.message);
    cr_expect_eq(o.ping_s, UINT32_MAX);
    cr_expect_eq(o.threads, 0);
    options_fini(&o);
}

Test(options, joins_a_repeated_list_and_splits_at_commas)
{
    cr_assert_eq(parse("--alias", "a", "--alias=b,c"), 0, "%s", outcome.message);
    cr_assert_eq(o.alias.n, 3);
    cr_expect_str_eq(o.alias.items[0], "a");
    cr_expect_str_eq(o.alias.items[1], "b");
    cr_expect_str_eq(o.alias.items[2], "c");
    options_fini(&o);
}

Test(options, reads_lists_of_numbers_and_short_flags)
{
    cr_assert_eq(parse_as(&bench_usage, "-b", "1,8,32", "-c0,8192", "-n", "7", NULL), 0, "%s",
                 outcome.message);
    cr_assert_eq(o.batches.n, 3);
    cr_expect_eq(o.batches.items[2], 32);
    cr_assert_eq(o.contexts.n, 2);
    cr_expect_eq(o.contexts.items[1], 8192);
    cr_expect_eq(o.gen, 7);
    options_fini(&o);
}

Test(options, reads_numbers_with_a_fraction)
{
    cr_assert_eq(parse_as(&run_usage, "--temperature", "0.7", "--seed", "18446744073709551614",
                          "hello", NULL),
                 0, "%s", outcome.message);
    cr_expect_float_eq(o.temperature, 0.7f, 1e-9f);
    cr_expect_eq(o.seed, UINT64_MAX - 1);
    cr_assert_eq(o.n_args, 1);
    cr_expect_str_eq(o.args[0], "hello");
    options_fini(&o);
}

Test(options, reads_sizes_as_bytes_or_shares)
{
    cr_assert_eq(parse_as(&bench_usage, "--expert-cache", "100%,12.5%,3G,auto", NULL), 0, "%s",
                 outcome.message);
    cr_assert_eq(o.expert_cache.n, 4);
    cr_expect_float_eq(o.expert_cache.items[0].share, 1, 1e-9);
    cr_expect_float_eq(o.expert_cache.items[1].share, 0.125, 1e-9);
    cr_expect_eq(o.expert_cache.items[2].bytes, UINT64_C(3) << 30);
    cr_expect(o.expert_cache.items[3].bytes == 0 && o.expert_cache.items[3].share == 0);
    options_fini(&o);
}

Test(options, takes_several_sizes_only_where_they_make_sense)
{
    cr_assert_eq(parse("--expert-cache", "50%"), 0, "%s", outcome.message);
    cr_expect_float_eq(o.expert_cache.items[0].share, 0.5, 1e-9);
    options_fini(&o);
    cr_assert_eq(parse("--expert-cache", "50%,25%"), -1);
    refused(EX_USAGE, "--expert-cache", "'50%,25%'", "takes one");
    static const char *const bad[] = { "0%", "101%", "%", "-5%", "5%%", "1", "50 %" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_expect_eq(parse("--expert-cache", bad[i]), -1, "'%s' was taken", bad[i]);
        refused(EX_USAGE, "--expert-cache", "a size from 4K", "or a percentage");
    }
}

/* ---- precedence ---- */

Test(options, prefers_flag_then_environment_then_file)
{
    const char *path = config("max-queue = 1\nmax-n = 2\nslots = 3\n");
    setenv("LACUNA_MAX_N", "20", 1);
    setenv("LACUNA_SLOTS", "30", 1);
    cr_assert_eq(parse("--config", path, "--slots", "300"), 0, "%s", outcome.message);
    cr_expect_eq(o.max_queue, 1);
    cr_expect_eq(o.max_n, 20);
    cr_expect_eq(o.slots, 300);
    cr_expect_eq(o.max_prompts, 64);
    options_fini(&o);
}

Test(options, finds_the_file_through_the_environment)
{
    setenv("LACUNA_CONFIG", config("max-queue = 7\n"), 1);
    cr_assert_eq(parse(NULL), 0, "%s", outcome.message);
    cr_expect_eq(o.max_queue, 7);
    options_fini(&o);
}

Test(options, takes_back_a_switch_of_the_environment)
{
    setenv("LACUNA_NO_MMAP", "yes", 1);
    setenv("LACUNA_STRICT_PARAMS", "1", 1);
    cr_assert_eq(parse("--no-mmap=false"), 0, "%s", outcome.message);
    cr_expect_not(o.no_mmap);
    cr_expect(o.strict_params);
    options_fini(&o);
}

Test(options, replaces_a_list_of_a_weaker_source)
{
    setenv("LACUNA_LISTEN", "127.0.0.1:1,127.0.0.1:2", 1);
    cr_assert_eq(parse("--listen", "127.0.0.1:3"), 0, "%s", outcome.message);
    cr_assert_eq(o.listen.n, 1);
    cr_expect_str_eq(o.listen.items[0], "127.0.0.1:3");
    options_fini(&o);
}

Test(options, counts_an_empty_variable_as_none)
{
    setenv("LACUNA_MAX_QUEUE", "", 1);
    cr_assert_eq(parse(NULL), 0, "%s", outcome.message);
    cr_expect_eq(o.max_queue, 64);
    options_fini(&o);
}

Test(options, keeps_the_last_of_a_repeated_flag)
{
    cr_assert_eq(parse("--slots", "1", "--slots", "2"), 0, "%s", outcome.message);
    cr_expect_eq(o.slots, 2);
    options_fini(&o);
}

/* ---- the file ---- */

Test(options, reads_a_file_with_comments_and_blanks)
{
    const char *path = config("# all of it\n\n  max-queue=9   # few\r\n\tlisten = unix:/run/a#b\n"
                              "no-mmap = on\nbatches = 4\nseed = 5");
    cr_assert_eq(parse("--config", path), 0, "%s", outcome.message);
    cr_expect_eq(o.max_queue, 9);
    cr_expect_str_eq(o.listen.items[0], "unix:/run/a#b");
    cr_expect(o.no_mmap);
    options_fini(&o);
}

Test(options, names_file_and_line_of_a_bad_value)
{
    cr_assert_eq(parse("--config", config("\n# x\nmax-queue = 0\n")), -1);
    refused(EX_CONFIG, config_path, ":3:", "max-queue", "'0'", "1 to 65536");
}

Test(options, checks_a_value_that_a_flag_overrides)
{
    cr_assert_eq(parse("--config", config("max-queue = ten\n"), "--max-queue", "10"), -1);
    refused(EX_CONFIG, ":1:", "'ten'");
}

Test(options, suggests_the_key_that_was_meant)
{
    cr_assert_eq(parse("--config", config("slots = 1\nmax-quee = 3\n")), -1);
    refused(EX_CONFIG, ":2:", "'max-quee'", "did you mean 'max-queue'?");
}

Test(options, refuses_a_key_twice)
{
    cr_assert_eq(parse("--config", config("slots = 1\nmax-n = 3\nslots = 1\n")), -1);
    refused(EX_CONFIG, ":3:", "'slots'", ":1");
}

Test(options, refuses_a_line_without_equals_sign)
{
    cr_assert_eq(parse("--config", config("slots 1\n")), -1);
    refused(EX_CONFIG, ":1:", "KEY = VALUE");
}

Test(options, refuses_a_key_without_value)
{
    cr_assert_eq(parse("--config", config("model =\n")), -1);
    refused(EX_CONFIG, ":1: model");
}

Test(options, refuses_a_file_that_names_a_file)
{
    cr_assert_eq(parse("--config", config("config = /tmp/x\n")), -1);
    refused(EX_CONFIG, ":1:", "config");
}

Test(options, says_that_a_file_is_missing)
{
    cr_assert_eq(parse("--config", "/nonexistent/lacuna.conf"), -1);
    refused(EX_NOINPUT, "/nonexistent/lacuna.conf", "No such file");
}

Test(options, reads_no_file_beyond_its_limit)
{
    char *text = malloc((1 << 20) + 2);
    cr_assert_not_null(text);
    memset(text, '\n', (1 << 20) + 1);
    text[(1 << 20) + 1] = '\0';
    cr_assert_eq(parse("--config", config(text)), -1);
    refused(EX_CONFIG, "larger than");
    free(text);
}

Test(options, names_the_variable_of_a_bad_value)
{
    setenv("LACUNA_KV_BYTES", "12X", 1);
    cr_assert_eq(parse(NULL), -1);
    refused(EX_CONFIG, "LACUNA_KV_BYTES", "'12X'", "a size from 1M");
}

/* ---- the command line ---- */

Test(options, names_flag_value_and_range)
{
    cr_assert_eq(parse("--max-n", "0"), -1);
    refused(EX_USAGE, "--max-n", "'0'", "a whole number from 1 to 128");
    cr_assert_eq(parse("--io", "aio"), -1);
    refused(EX_USAGE, "--io", "'aio'", "auto, uring, pread");
    cr_assert_eq(parse_as(&run_usage, "--top-p", "1.01", NULL), -1);
    refused(EX_USAGE, "--top-p", "'1.01'", "from 0 to 1");
}

Test(options, reads_numbers_strictly)
{
    static const char *const bad[] = { "",    " 1",  "1 ",  "+1", "-1",
                                       "0x1", "1.0", "1e3", "1k", "18446744073709551617" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_expect_eq(parse("--slots", bad[i]), -1, "'%s' was taken", bad[i]);
        cr_expect_eq(outcome.exit_code, EX_USAGE);
    }
}

Test(options, refuses_products_that_overflow)
{
    cr_assert_eq(parse("--kv-bytes", "18014398509481985K"), -1);
    refused(EX_USAGE, "--kv-bytes");
    cr_assert_eq(parse("--ping", "5124095576030432h"), -1);
    refused(EX_USAGE, "--ping");
}

Test(options, refuses_reals_that_are_none)
{
    static const char *const bad[] = {
        "nan", "inf", "0x1p0", "1e999", "", ".", "1 ", "-0.1", "2.1"
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(parse_as(&run_usage, "--temperature", bad[i], NULL), -1, "'%s'", bad[i]);
}

Test(options, refuses_lists_with_holes)
{
    static const char *const bad[] = { "1,,2", ",1", "1,", ",", "", "1;2" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(parse_as(&bench_usage, "-b", bad[i], NULL), -1, "'%s'", bad[i]);
}

Test(options, suggests_the_flag_that_was_meant)
{
    cr_assert_eq(parse("--max-ques=3"), -1);
    refused(EX_USAGE, "--max-ques", "did you mean --max-queue?");
    cr_assert_eq(parse("--kv-btyes", "3G"), -1);
    refused(EX_USAGE, "did you mean --kv-bytes?");
}

Test(options, suggests_nothing_for_a_flag_that_is_like_no_other)
{
    cr_assert_eq(parse("--xyzzyplugh"), -1);
    refused(EX_USAGE, "unknown option --xyzzyplugh");
    cr_expect_null(strstr(outcome.message, "mean"));
}

Test(options, says_that_a_flag_is_another_commands)
{
    cr_assert_eq(parse_as(&bench_usage, "--listen", "x", NULL), -1);
    refused(EX_USAGE, "--listen", "'lacuna bench'");
}

Test(options, says_which_value_is_missing)
{
    cr_assert_eq(parse("--slots"), -1);
    refused(EX_USAGE, "--slots needs a value", "1 to 4096");
    cr_assert_eq(parse("-m"), -1);
    refused(EX_USAGE, "-m (--model) needs a value");
}

Test(options, refuses_an_unknown_letter)
{
    cr_assert_eq(parse("-Z"), -1);
    refused(EX_USAGE, "unknown option -Z");
}

Test(options, refuses_arguments_too_many)
{
    cr_assert_eq(parse("a.gguf", "b.gguf"), -1);
    refused(EX_USAGE, "'b.gguf'");
}

Test(options, takes_the_words_after_two_dashes_as_arguments)
{
    cr_assert_eq(parse_as(&run_usage, "--", "--top-k", NULL), 0, "%s", outcome.message);
    cr_expect_str_eq(o.args[0], "--top-k");
    options_fini(&o);
}

Test(options, prints_help_and_ends_well)
{
    cr_redirect_stdout();
    cr_assert_eq(parse("--help"), -1);
    cr_expect_eq(outcome.exit_code, EX_OK);
    cr_expect_str_eq(outcome.message, "");
}

/* ---- --check-config ---- */

static char printed[1 << 16];

static void keep_line(void *ctx, const char *text)
{
    (void)ctx;
    strcat(strcat(printed, text), "\n");
}

Test(options, prints_values_with_their_origin_but_no_secret)
{
    const struct options_printer to = { .line = keep_line };
    setenv("LACUNA_MAX_N", "5", 1);
    cr_assert_eq(parse("--config", config("slots = 3\n"), "--api-key-file", "/secret/place"), 0);
    options_print(&o, &serve_usage, &to);
    cr_expect(strstr(printed, "max-n = 5  # LACUNA_MAX_N\n"), "%s", printed);
    cr_expect(strstr(printed, "slots = 3  # "), "%s", printed);
    cr_expect(strstr(printed, "max-queue = 64  # default\n"), "%s", printed);
    cr_expect_null(strstr(printed, "/secret/place"));
    options_fini(&o);
}

Test(options, reads_back_what_it_prints)
{
    const struct options_printer to = { .line = keep_line };
    cr_assert_eq(parse("--kv-bytes", "3G", "--alias", "x,y", "--no-mmap", "--ping", "off"), 0);
    options_print(&o, &serve_usage, &to);
    options_fini(&o);
    cr_assert_eq(parse("--config", config(printed)), 0, "%s", outcome.message);
    cr_expect_eq(o.kv_bytes, UINT64_C(3) << 30);
    cr_expect_eq(o.alias.n, 2);
    cr_expect_eq(o.ping_s, UINT32_MAX);
    cr_expect(o.no_mmap);
    options_fini(&o);
}

/* ---- once more, for SIGHUP ---- */

static void rewrite_config(const char *text)
{
    FILE *f = fopen(config_path, "w");
    fputs(text, f);
    fclose(f);
}

Test(options, reads_its_sources_again)
{
    struct options again;
    config("ctx = 512\nmax-n = 2\nthreads = 3\n");
    setenv("LACUNA_THREADS", "2", 1);
    cr_assert_eq(parse("--config", config_path, "model.gguf", "--max-queue=9"), 0, "%s",
                 outcome.message);
    rewrite_config("max-n = 4\nmax-queue = 3\nthreads = 7\n");
    cr_assert_eq(options_parse_again(&again, &o, &outcome), 0, "%s", outcome.message);
    cr_expect_eq(again.max_n, 4);
    cr_expect_eq(again.max_queue, 9, "the command line still beats the file");
    cr_expect_eq(again.threads, 2);
    cr_expect_eq(again.ctx, 0, "what the file does not say any more is the default again");
    cr_expect_str_eq(again.args[0], "model.gguf");
    char names[64];
    cr_expect_eq(options_fixed_changes(&o, &again, names, sizeof(names)), 1);
    cr_expect_str_eq(names, "ctx");
    cr_expect_eq(options_fixed_changes(&again, &again, names, sizeof(names)), 0);
    options_fini(&again);
    options_fini(&o);
}

Test(options, names_the_line_that_cannot_be_read_again)
{
    struct options again;
    config("max-n = 2\n");
    cr_assert_eq(parse("--config", config_path), 0, "%s", outcome.message);
    rewrite_config("max-n = 2\nmax-queue = many\n");
    cr_expect_eq(options_parse_again(&again, &o, &outcome), -1);
    cr_expect(strstr(outcome.message, ":2: max-queue"), "%s", outcome.message);
    cr_expect_null(again.owned);
    options_fini(&o);
}

/* ---- options that need each other ---- */

Test(options, takes_a_certificate_and_its_key_from_any_sources)
{
    config("tls-cert = a.pem\n");
    setenv("LACUNA_TLS_KEY", "b.pem", 1);
    cr_assert_eq(parse("--config", config_path), 0, "%s", outcome.message);
    cr_expect_str_eq(o.tls_cert, "a.pem");
    cr_expect_str_eq(o.tls_key, "b.pem");
    options_fini(&o);
}

Test(options, refuses_a_certificate_without_its_key)
{
    cr_assert_eq(parse("--tls-cert", "a.pem"), -1);
    refused(EX_USAGE, "--tls-cert sets tls-cert, but tls-key is not set");
}

Test(options, names_the_line_of_a_key_without_its_certificate)
{
    config("max-n = 2\ntls-key = a.pem\n");
    cr_assert_eq(parse("--config", config_path), -1);
    refused(EX_CONFIG, config_path, ":2 sets tls-key, but tls-cert is not set");
}

Test(options, lets_a_running_server_take_another_pair)
{
    struct options again;
    config("tls-cert = a\ntls-key = b\n");
    cr_assert_eq(parse("--config", config_path), 0, "%s", outcome.message);
    rewrite_config("tls-cert = c\ntls-key = d\n");
    cr_assert_eq(options_parse_again(&again, &o, &outcome), 0, "%s", outcome.message);
    char names[64];
    cr_expect_eq(options_fixed_changes(&o, &again, names, sizeof(names)), 0, "%s", names);
    cr_expect_str_eq(again.tls_cert, "c");
    options_fini(&again);
    options_fini(&o);
}

/* ---- systemd's credentials ---- */

Test(options, takes_the_key_file_from_the_credentials_unless_one_is_named)
{
    char folder[] = "/tmp/lacuna-test-credentials-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(folder));
    setenv("CREDENTIALS_DIRECTORY", folder, 1);
    cr_assert_eq(parse(NULL), 0, "%s", outcome.message);
    cr_expect_null(o.api_key_file, "there is none");
    options_fini(&o);

    snprintf(path, sizeof(path), "%s/api-keys", folder);
    fclose(fopen(path, "w"));
    cr_assert_eq(parse(NULL), 0, "%s", outcome.message);
    cr_expect_str_eq(o.api_key_file, path);
    options_fini(&o);
    cr_assert_eq(parse("--api-key-file", "mine"), 0, "%s", outcome.message);
    cr_expect_str_eq(o.api_key_file, "mine");
    options_fini(&o);
    cr_assert_eq(parse_as(&run_usage, (char *)NULL), 0, "%s", outcome.message);
    cr_expect_null(o.api_key_file, "run has no keys");
    options_fini(&o);
    remove(path);
    remove(folder);
}
