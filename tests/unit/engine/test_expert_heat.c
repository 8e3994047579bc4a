/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expert_heat.c - heats come back as they were; any other file is refused by name.
 */
#include "engine/storage/expert_heat.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N = 6 };

static const struct expert_heat_model model = { .n_layers = 2, .n_experts = 3, .hash = 77 };
static const float heat[N] = { 0, 1.5f, 300, 0.25f, 1e9f, 2 };

static char folder[] = "/tmp/lacuna-heat-XXXXXX";
static char path[64];
static struct engine_err err;

static void make(void)
{
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/heat", folder);
    cr_assert_eq(expert_heat_write(path, &model, heat, &err), 0, "%s", err.text);
}

static void clean(void)
{
    unlink(path);
    rmdir(folder);
}

TestSuite(expert_heat, .init = make, .fini = clean);

static void expect_refused(const struct expert_heat_model *whose, enum engine_err_code code,
                           const char *why)
{
    float out[N];
    err = (struct engine_err){ 0 };
    cr_expect_eq(expert_heat_read(path, whose, out, &err), -1, "%s", why);
    cr_expect_eq(err.code, code);
    cr_expect(strstr(err.text, path) && strstr(err.text, why), "'%s'", err.text);
}

Test(expert_heat, comes_back_as_it_was)
{
    float out[N];
    cr_assert_eq(expert_heat_read(path, &model, out, &err), 0, "%s", err.text);
    cr_expect_eq(memcmp(out, heat, sizeof(heat)), 0);
}

Test(expert_heat, a_file_that_is_not_there_is_no_error)
{
    float out[N];
    unlink(path);
    cr_expect_eq(expert_heat_read(path, &model, out, &err), 1);
}

Test(expert_heat, another_models_is_refused)
{
    struct expert_heat_model other = model;
    other.hash++;
    expect_refused(&other, ENGINE_ERR_FILE, "another model");
    other = model;
    other.n_experts = 4;
    expect_refused(&other, ENGINE_ERR_FILE, "another model");
}

Test(expert_heat, any_changed_byte_is_refused)
{
    struct stat st;
    stat(path, &st);
    for (long at = 0; at < st.st_size; at++) {
        float out[N];
        FILE *f = fopen(path, "r+b");
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ 4, f);
        fclose(f);
        cr_expect_eq(expert_heat_read(path, &model, out, &err), -1, "byte %ld", at);
        f = fopen(path, "r+b");
        fseek(f, at, SEEK_SET);
        fputc(byte, f);
        fclose(f);
    }
}

Test(expert_heat, a_file_that_is_too_short_or_too_long_is_refused)
{
    struct stat st;
    stat(path, &st);
    FILE *f = fopen(path, "ab");
    fputc('x', f);
    fclose(f);
    expect_refused(&model, ENGINE_ERR_FILE, "6 expert heats expected");
    cr_assert_eq(truncate(path, st.st_size - 1), 0);
    expect_refused(&model, ENGINE_ERR_FILE, "6 expert heats expected");
    cr_assert_eq(truncate(path, 3), 0);
    expect_refused(&model, ENGINE_ERR_OPTION, "no file of expert heats");
    float out[N];
    cr_assert_eq(truncate(path, 0), 0);
    cr_expect_eq(expert_heat_read(path, &model, out, &err), 1, "as if it were not there");
}

Test(expert_heat, what_is_no_number_of_tokens_is_refused)
{
    float bad[N] = { 0, -1, 0, 0, 0, 0 };
    cr_assert_eq(expert_heat_write(path, &model, bad, &err), 0);
    expect_refused(&model, ENGINE_ERR_FILE, "heat 1 is no number");
}

Test(expert_heat, a_place_that_cannot_be_written_is_named_and_nothing_is_left)
{
    char nowhere[80];
    snprintf(nowhere, sizeof(nowhere), "%s/none/heat", folder);
    cr_expect_eq(expert_heat_write(nowhere, &model, heat, &err), -1);
    cr_expect(strstr(err.text, nowhere), "%s", err.text);
    /* The file's own folder cannot be replaced by a file. */
    cr_expect_eq(expert_heat_write(folder, &model, heat, &err), -1);
    char part[80];
    snprintf(part, sizeof(part), "%s.part", folder);
    cr_expect_neq(access(part, F_OK), 0);
}
