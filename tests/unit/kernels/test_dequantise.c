/* SPDX-License-Identifier: Apache-2.0
 *
 * test_dequantise.c - stored blocks to the values that an independent implementation reads from
 * them, bit for bit.  Runs from the root of the sources; with LACUNA_GOLDEN over that folder's
 * blocks, too.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

/* The whole file; *size its bytes. */
static void *read_file(const char *dir, const char *name, const char *suffix, size_t *size)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s%s", dir, name, suffix);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    void *data = malloc(1 << 20);
    *size = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

static enum kern_type type_named(const char *name)
{
    for (uint32_t t = 0; t < KERN_N_TYPES; t++)
        if (strcmp(kern_type_info(t)->name, name) == 0)
            return (enum kern_type)t;
    cr_assert(false, "no type %s", name);
    return KERN_TYPE_F32;
}

static void check_type(const char *dir, const char *name)
{
    enum kern_type type = type_named(name);
    const struct kern_type_info *info = kern_type_info(type);
    size_t n_bytes, n_expected;
    uint8_t *blocks = read_file(dir, name, ".bin", &n_bytes);
    float *expected = read_file(dir, name, ".f32", &n_expected);
    size_t n = n_bytes / info->block_bytes * info->block_values;
    cr_assert_eq(n * sizeof(float), n_expected);
    float *found = malloc(n_expected);
    for (uint32_t v = 0; v < kern_n_usable(); v++) {
        kern_usable(v)->dequantise(type, blocks, found, n);
        for (size_t i = 0; i < n; i++)
            cr_assert(memcmp(&found[i], &expected[i], 4) == 0, "%s %s value %zu: %.9g, not %.9g",
                      kern_usable(v)->name, name, i, (double)found[i], (double)expected[i]);
    }
    free(blocks);
    free(expected);
    free(found);
}

static int check_folder(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    cr_assert_not_null(d, "%s", dir);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        char *dot = strstr(e->d_name, ".bin");
        if (!dot)
            continue;
        *dot = '\0';
        check_type(dir, e->d_name);
        n++;
    }
    closedir(d);
    return n;
}

Test(dequantise, gives_the_reference_values_bit_for_bit)
{
    cr_assert_geq(check_folder("tests/golden/quant/blocks"), 14);
}

Test(dequantise, golden_folder_too)
{
    const char *golden = getenv("LACUNA_GOLDEN");
    char dir[1024];
    if (!golden)
        cr_skip_test("LACUNA_GOLDEN is not set");
    snprintf(dir, sizeof(dir), "%s/quant/blocks", golden);
    cr_assert_geq(check_folder(dir), 14);
}

Test(types, an_unknown_number_has_no_blocks)
{
    cr_assert_eq(kern_type_info(4)->block_values, 0);
    cr_assert_eq(kern_type_info(1000)->block_values, 0);
    cr_assert(!kern_type_info(16)->supported);
    cr_assert_str_eq(kern_type_info(16)->name, "IQ2_XXS");
}
