/* SPDX-License-Identifier: Apache-2.0
 *
 * test_gguf.c - what a header may say, and how a lie is refused.
 *
 * Each refusal has a file that differs from a good one in just that, and is checked by its words.
 * Files are copied to blocks of exactly their size, so that AddressSanitizer sees a read beyond.
 */
#include "engine/model/gguf.h"
#include "kernels/kernels.h"
#include "tests/support/gguf_build.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const float values[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
static const uint64_t shape[2] = { 4, 2 };

/* A good file: one key of each kind, two tensors. */
static struct gguf_build good(void)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_str(&b, "general.architecture", "llama");
    gguf_build_u32(&b, "llama.block_count", 2);
    gguf_build_strings(&b, "tokenizer.ggml.tokens", 3, (const char *[]){ "a", "", "ccc" });
    gguf_build_array(&b, "tokenizer.ggml.scores", GGUF_F32, 8, values, sizeof(values));
    gguf_build_tensor(&b, "first", KERN_TYPE_F32, 2, shape, values, sizeof(values));
    gguf_build_tensor(&b, "second", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, values, sizeof(float));
    return b;
}

/* Opens `len` bytes of a file that claims file_bytes, from a block of just that size. */
static struct gguf *open_bytes(const unsigned char *file, size_t len, uint64_t file_bytes,
                               unsigned char **copy, struct engine_err *err)
{
    *copy = malloc(len ? len : 1);
    memcpy(*copy, file, len);
    struct gguf *g = NULL;
    *err = (struct engine_err){ .code = ENGINE_ERR_NONE };
    int rc = gguf_open_memory(&g, *copy, len, file_bytes, err);
    cr_assert((rc == 0) == (g != NULL));
    cr_assert((rc == 0) == (err->code == ENGINE_ERR_NONE));
    return g;
}

static void expect_bytes_refused(const unsigned char *file, size_t len, uint64_t file_bytes,
                                 enum engine_err_code code, const char *words)
{
    unsigned char *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, file_bytes, &copy, &err);
    cr_expect(g == NULL, "accepted, but expected: %s", words);
    cr_expect(err.code == code, "code %d, not %d: %s", (int)err.code, (int)code, err.text);
    cr_expect(strstr(err.text, words) != NULL, "said \"%s\", not \"%s\"", err.text, words);
    gguf_close(g);
    free(copy);
}

static void expect_refused(struct gguf_build *b, enum engine_err_code code, const char *words)
{
    size_t len;
    unsigned char *file = gguf_build_finish(b, &len);
    expect_bytes_refused(file, len, len, code, words);
    free(file);
}

static void expect_accepted(struct gguf_build *b)
{
    size_t len;
    unsigned char *file = gguf_build_finish(b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_expect(g != NULL, "refused: %s", err.text);
    gguf_close(g);
    free(copy);
    free(file);
}

/* ---- good files ---- */

Test(gguf, good_file_gives_its_tensors)
{
    struct gguf_build b = good();
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_assert(g != NULL, "%s", err.text);

    cr_expect(gguf_version(g) == 3);
    cr_expect(gguf_n_keys(g) == 4);
    cr_expect(gguf_n_tensors(g) == 2);
    cr_expect(gguf_file_bytes(g) == len);
    cr_expect(gguf_data_bytes(g) == 36);
    cr_expect(strcmp(gguf_io_name(g), "none") == 0);

    const struct gguf_tensor *t = gguf_find_tensor(g, "first");
    cr_assert(t && t == gguf_tensor_at(g, 0));
    cr_expect(strcmp(t->name, "first") == 0);
    cr_expect(t->type == KERN_TYPE_F32 && t->n_dims == 2 && t->bytes == 32 && t->part == 0);
    cr_expect(t->ne[0] == 4 && t->ne[1] == 2 && t->ne[2] == 1 && t->ne[3] == 1);
    cr_expect(t->data == NULL);
    cr_expect(gguf_find_tensor(g, "second") == gguf_tensor_at(g, 1));
    cr_expect(gguf_find_tensor(g, "second ") == NULL);
    cr_expect(gguf_find_tensor(g, "") == NULL);

    const struct gguf_load_options load = { .read_file = false };
    cr_assert(gguf_load(g, &load, &err) == 0);
    cr_expect(memcmp(t->data, values, sizeof(values)) == 0);
    gguf_close(g);
    free(copy);
    free(file);
}

Test(gguf, version_2_is_read_like_3)
{
    struct gguf_build b = good();
    b.version = 2;
    expect_accepted(&b);
}

Test(gguf, empty_model_is_a_good_file)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    expect_accepted(&b);
}

Test(gguf, any_power_of_two_is_an_alignment)
{
    static const uint32_t alignments[] = { 1, 2, 8, 32, 64, 4096 };
    for (size_t i = 0; i < sizeof(alignments) / sizeof(*alignments); i++) {
        struct gguf_build b = GGUF_BUILD_INIT;
        b.alignment = alignments[i];
        gguf_build_u32(&b, "general.alignment", alignments[i]);
        gguf_build_tensor(&b, "a", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, values, 4);
        gguf_build_tensor(&b, "b", KERN_TYPE_F32, 2, shape, values, sizeof(values));
        size_t len;
        unsigned char *file = gguf_build_finish(&b, &len), *copy;
        struct engine_err err;
        struct gguf *g = open_bytes(file, len, len, &copy, &err);
        const struct gguf_load_options load = { .read_file = false };
        cr_assert(g && gguf_load(g, &load, &err) == 0, "%u: %s", alignments[i], err.text);
        const struct gguf_tensor *t = gguf_find_tensor(g, "b");
        cr_expect(t->offset % alignments[i] == 0);
        cr_expect(memcmp(t->data, values, sizeof(values)) == 0, "alignment %u", alignments[i]);
        gguf_close(g);
        free(copy);
        free(file);
    }
}

Test(gguf, many_names_are_all_found)
{
    enum { N = 3000 };
    struct gguf_build b = GGUF_BUILD_INIT;
    char name[32];
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "tensor.%u", i);
        gguf_build_tensor(&b, name, KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, values, 4);
        gguf_build_u32(&b, name, i);
    }
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_assert(g != NULL, "%s", err.text);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t x = N;
        snprintf(name, sizeof(name), "tensor.%u", i);
        cr_assert(gguf_find_tensor(g, name) == gguf_tensor_at(g, i));
        cr_assert(gguf_get_u32(g, name, true, &x, &err) == 0 && x == i);
    }
    cr_expect(gguf_find_tensor(g, "tensor.3000") == NULL);
    gguf_close(g);
    free(copy);
    free(file);
}

Test(gguf, sizes_of_all_known_types_follow_their_blocks)
{
    for (uint32_t type = 0; type < KERN_N_TYPES; type++) {
        const struct kern_type_info *info = kern_type_info(type);
        struct gguf_build b = GGUF_BUILD_INIT;
        unsigned char block[512] = { 0 };
        gguf_build_tensor(&b, "w", type, 2, (uint64_t[]){ 512, 3 }, NULL, 0);
        for (int i = 0; i < 16; i++)
            gguf_build_put(&b.data, block, sizeof(block));
        size_t len;
        unsigned char *file = gguf_build_finish(&b, &len), *copy;
        struct engine_err err;
        struct gguf *g = open_bytes(file, len, len + 4096, &copy, &err);
        cr_assert(g != NULL, "%s", err.text);
        uint64_t expected = info->block_values
                                ? 3 * (512U / info->block_values) * (uint64_t)info->block_bytes
                                : 0;
        cr_expect(gguf_tensor_at(g, 0)->bytes == expected, "%s", info->name);
        gguf_close(g);
        free(copy);
        free(file);
    }
}

/* A file with one tensor in panels. */
static struct gguf_build panels(uint32_t type, uint64_t n_rows, uint32_t alignment,
                                uint32_t version)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    unsigned char zeros[4096] = { 0 };
    b.alignment = alignment;
    gguf_build_u32(&b, "general.alignment", alignment);
    if (version)
        gguf_build_u32(&b, GGUF_PANELS_KEY, version);
    gguf_build_tensor(&b, "w", GGUF_LAYOUT * KERN_LAYOUT_PANELS + type, 2,
                      (uint64_t[]){ 64, n_rows }, NULL, 0);
    gguf_build_put(&b.data, zeros, sizeof(zeros));
    return b;
}

Test(gguf, panels_have_their_padding)
{
    struct gguf_build b = panels(KERN_TYPE_Q4_0, 33, 64, KERN_PANELS_VERSION);
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_assert(g != NULL, "%s", err.text);
    const struct gguf_tensor *t = gguf_tensor_at(g, 0);
    cr_expect(t->layout == KERN_LAYOUT_PANELS && t->target == t->layout &&
              t->type == KERN_TYPE_Q4_0);
    cr_expect(t->bytes == kern_packed_bytes(KERN_LAYOUT_PANELS, KERN_TYPE_Q4_0, 48, 64));
    gguf_close(g);
    free(copy);
    free(file);
}

Test(gguf, panels_that_nobody_can_read_are_refused)
{
    struct gguf_build b = panels(KERN_TYPE_Q4_0, 16, 64, KERN_PANELS_VERSION + 1);
    expect_refused(&b, ENGINE_ERR_UNSUPPORTED,
                   "another version of lacuna (panels 2, this one has 1)");
    b = panels(KERN_TYPE_Q4_0, 16, 64, 0);
    expect_refused(&b, ENGINE_ERR_FILE, GGUF_PANELS_KEY);
    b = panels(KERN_TYPE_Q4_0, 16, 32, KERN_PANELS_VERSION);
    expect_refused(&b, ENGINE_ERR_FILE, "general.alignment is 32, not a multiple of 64");
    b = panels(KERN_TYPE_F16, 16, 64, KERN_PANELS_VERSION);
    expect_refused(&b, ENGINE_ERR_UNSUPPORTED, "panels of type F16");
    b = panels(KERN_TYPE_Q4_0, UINT64_C(1) << 33, 64, KERN_PANELS_VERSION);
    expect_refused(&b, ENGINE_ERR_FILE, "too large for panels");
    b = panels(KERN_TYPE_Q4_0, 4096, 64, KERN_PANELS_VERSION);
    expect_refused(&b, ENGINE_ERR_FILE, "needs bytes");
}

static void expect_size_0(uint32_t type)
{
    struct gguf_build b = good();
    gguf_build_tensor_at(&b, "odd", type, 2, (uint64_t[]){ 3, 5 }, 0);
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_assert(g != NULL, "%s", err.text);
    const struct gguf_tensor *t = gguf_find_tensor(g, "odd");
    cr_expect(t && t->type == type && t->bytes == 0 && t->ne[1] == 5);
    cr_expect(t->layout == KERN_LAYOUT_ROWS);
    const struct gguf_load_options load = { .read_file = false };
    cr_assert(gguf_load(g, &load, &err) == 0);
    cr_expect(t->data == NULL);
    gguf_close(g);
    free(copy);
    free(file);
}

Test(gguf, unknown_types_and_layouts_are_accepted_with_size_0)
{
    expect_size_0(12345);
    expect_size_0(GGUF_LAYOUT * KERN_LAYOUT_COLUMNS + KERN_TYPE_Q4_0); /* no file has columns */
}

static uint64_t hash_of(struct gguf_build *b)
{
    size_t len;
    unsigned char *file = gguf_build_finish(b, &len), *copy;
    struct engine_err err;
    struct gguf *g = open_bytes(file, len, len, &copy, &err);
    cr_assert(g != NULL, "%s", err.text);
    uint64_t hash = gguf_hash(g);
    gguf_close(g);
    free(copy);
    free(file);
    return hash;
}

static struct gguf_build one_tensor(const char *name, uint32_t type, uint32_t n_dims,
                                    const uint64_t *ne)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_tensor(&b, name, type, n_dims, ne, values, sizeof(values));
    return b;
}

Test(gguf, hash_follows_names_types_and_shapes_only)
{
    struct gguf_build base = one_tensor("w", KERN_TYPE_F32, 2, shape);
    struct gguf_build same = one_tensor("w", KERN_TYPE_F32, 2, shape);
    same.version = 2;
    gguf_build_u32(&same, "a.key", 1); /* also moves the data */
    struct gguf_build name = one_tensor("v", KERN_TYPE_F32, 2, shape);
    struct gguf_build type = one_tensor("w", KERN_TYPE_F16, 2, shape);
    struct gguf_build turned = one_tensor("w", KERN_TYPE_F32, 2, (uint64_t[]){ 2, 4 });
    struct gguf_build dims = one_tensor("w", KERN_TYPE_F32, 3, (uint64_t[]){ 4, 2, 1 });
    uint64_t hash = hash_of(&base);
    cr_expect(hash == hash_of(&same));
    cr_expect(hash != hash_of(&name));
    cr_expect(hash != hash_of(&type));
    cr_expect(hash != hash_of(&turned));
    cr_expect(hash != hash_of(&dims));
}

/* ---- the start of the file ---- */

Test(gguf, other_files_are_refused)
{
    static const unsigned char zip[24] = "PK\3\4";
    expect_bytes_refused(zip, sizeof(zip), sizeof(zip), ENGINE_ERR_FILE,
                         "is not a GGUF file: it starts with bytes 50 4b 03 04");
    expect_bytes_refused(zip, 0, 0, ENGINE_ERR_FILE, "the file ends at byte 0");
}

Test(gguf, other_versions_are_refused)
{
    static const uint32_t versions[] = { 0, 1, 4, UINT32_MAX };
    for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
        struct gguf_build b = good();
        b.version = versions[i];
        char words[64];
        snprintf(words, sizeof(words), "is GGUF version %u, the supported", versions[i]);
        expect_refused(&b, ENGINE_ERR_UNSUPPORTED, words);
    }
}

Test(gguf, big_endian_file_is_named_as_such)
{
    struct gguf_build b = good();
    b.version = 0x03000000;
    expect_refused(&b, ENGINE_ERR_UNSUPPORTED, "is a big-endian GGUF file (version 3)");
}

Test(gguf, counts_are_refused_before_anything_is_allocated)
{
    struct gguf_build b = good();
    b.n_keys = 65537;
    expect_refused(&b, ENGINE_ERR_FILE, "has 65537 keys, the limit is 65536");
    b = good();
    b.n_keys = 60000;
    expect_refused(&b, ENGINE_ERR_FILE, "has 60000 keys of at least 14 bytes each, but");
    b = good();
    b.n_tensors = (1 << 20) + 1;
    expect_refused(&b, ENGINE_ERR_FILE, "has 1048577 tensors, the limit is 1048576");
    b = good();
    b.n_tensors = 1 << 20;
    expect_refused(&b, ENGINE_ERR_FILE, "has 1048576 tensors of at least 33 bytes each, but");
    b = good();
    b.n_tensors = UINT64_MAX;
    expect_refused(&b, ENGINE_ERR_FILE, "has 18446744073709551615 tensors, the limit");
}

/* ---- keys ---- */

Test(gguf, key_needs_1_to_65535_bytes)
{
    char name[65537];
    memset(name, 'k', sizeof(name));
    name[65535] = '\0';
    struct gguf_build b = good();
    gguf_build_u32(&b, name, 1);
    expect_accepted(&b);

    name[65535] = 'k';
    name[65536] = '\0';
    b = good();
    gguf_build_u32(&b, name, 1);
    expect_refused(&b, ENGINE_ERR_FILE,
                   "key number 5: the name has 65536 bytes, it must have 1 to 65535");
    b = good();
    gguf_build_u32(&b, "", 1);
    expect_refused(&b, ENGINE_ERR_FILE, "key number 5: the name has 0 bytes");
}

Test(gguf, key_with_nul_is_refused)
{
    struct gguf_build b = good();
    gguf_build_u32(&b, "a.b", 1);
    b.keys.data[b.keys.len - 4 - 4 - 2] = '\0';
    expect_refused(&b, ENGINE_ERR_FILE, "key \"a?b\": the name holds a NUL byte");
}

Test(gguf, key_twice_is_refused)
{
    struct gguf_build b = good();
    gguf_build_u32(&b, "llama.block_count", 3);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"llama.block_count\": is there twice");
}

Test(gguf, unknown_value_type_is_refused)
{
    struct gguf_build b = good();
    gguf_build_key(&b, "k", 13);
    gguf_build_put_u64(&b.keys, 0);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"k\": has type 13, the highest known is 12");
    b = good();
    gguf_build_array(&b, "k", (enum gguf_type)99, 0, NULL, 0);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"k\": has type 99");
}

Test(gguf, bool_is_0_or_1)
{
    const unsigned char two = 2, mixed[3] = { 1, 0, 255 };
    struct gguf_build b = good();
    gguf_build_key(&b, "k", GGUF_BOOL);
    gguf_build_put(&b.keys, &two, 1);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"k\": a bool is 2, it must be 0 or 1");
    b = good();
    gguf_build_array(&b, "k", GGUF_BOOL, 3, mixed, 3);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"k\": a bool is 255");
}

Test(gguf, string_longer_than_the_file_is_refused)
{
    static const uint64_t lengths[] = { 1000000, UINT64_MAX, UINT64_MAX - 200 };
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct gguf_build b = good();
        gguf_build_key(&b, "k", GGUF_STRING);
        gguf_build_put_u64(&b.keys, lengths[i]);
        char words[64];
        snprintf(words, sizeof(words), "key \"k\": needs %llu bytes at byte",
                 (unsigned long long)lengths[i]);
        expect_refused(&b, ENGINE_ERR_FILE, words);
    }
}

Test(gguf, array_longer_than_the_file_is_refused)
{
    static const struct {
        enum gguf_type type;
        uint64_t n;
        const char *words;
    } cases[] = {
        { GGUF_U8, 5000, "an array of 5000 values (uint8) of at least 1 bytes each" },
        { GGUF_F64, UINT64_MAX / 8 + 2, "values (float64) of at least 8 bytes each" },
        { GGUF_STRING, 1000, "an array of 1000 values (string) of at least 8 bytes each" },
        { GGUF_ARRAY, UINT64_MAX, "values (array) of at least 12 bytes each" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct gguf_build b = good();
        gguf_build_array(&b, "k", cases[i].type, cases[i].n, NULL, 0);
        expect_refused(&b, ENGINE_ERR_FILE, cases[i].words);
    }
}

/* An array of n_levels of arrays around two bytes. */
static void put_nested(struct gguf_build *b, const char *key, int n_levels)
{
    gguf_build_key(b, key, GGUF_ARRAY);
    for (int i = 1; i < n_levels; i++) {
        gguf_build_put_u32(&b->keys, GGUF_ARRAY);
        gguf_build_put_u64(&b->keys, 1);
    }
    gguf_build_put_u32(&b->keys, GGUF_U8);
    gguf_build_put_u64(&b->keys, 2);
    gguf_build_put(&b->keys, "ab", 2);
}

Test(gguf, arrays_nest_to_a_limit)
{
    struct gguf_build b = good();
    put_nested(&b, "k", 4);
    gguf_build_u32(&b, "behind", 1);
    expect_accepted(&b);
    b = good();
    put_nested(&b, "k", 5);
    expect_refused(&b, ENGINE_ERR_FILE, "key \"k\": arrays in arrays, deeper than the limit of 4");
}

Test(gguf, alignment_is_a_power_of_two)
{
    static const struct {
        uint64_t alignment;
        const char *words;
    } cases[] = {
        { 0, "key \"general.alignment\": is 0, it must be 1 to 1073741824" },
        { 3, "key \"general.alignment\": is 3, it must be a power of two" },
        { 48, "key \"general.alignment\": is 48, it must be a power of two" },
        { UINT64_C(1) << 31, "is 2147483648, it must be 1 to 1073741824" },
        { UINT64_MAX, "is above 9223372036854775807, it must be 1 to 1073741824" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct gguf_build b = good();
        gguf_build_u64(&b, "general.alignment", cases[i].alignment);
        expect_refused(&b, ENGINE_ERR_FILE, cases[i].words);
    }
    struct gguf_build b = good();
    gguf_build_str(&b, "general.alignment", "32");
    expect_refused(&b, ENGINE_ERR_FILE,
                   "key \"general.alignment\": is of type string, a whole number is needed");
}

/* ---- tensors ---- */

Test(gguf, tensor_name_needs_1_to_255_bytes)
{
    char name[257];
    memset(name, 'n', sizeof(name));
    name[255] = '\0';
    struct gguf_build b = good();
    gguf_build_tensor(&b, name, KERN_TYPE_F32, 2, shape, values, sizeof(values));
    expect_accepted(&b);

    name[255] = 'n';
    name[256] = '\0';
    b = good();
    gguf_build_tensor(&b, name, KERN_TYPE_F32, 2, shape, values, sizeof(values));
    expect_refused(&b, ENGINE_ERR_FILE,
                   "tensor number 3: the name has 256 bytes, it must have 1 to 255");
    b = good();
    gguf_build_tensor(&b, "", KERN_TYPE_F32, 2, shape, values, sizeof(values));
    expect_refused(&b, ENGINE_ERR_FILE, "tensor number 3: the name has 0 bytes");
}

Test(gguf, tensor_name_with_nul_is_refused)
{
    struct gguf_build b = good();
    b.tensors.data[8 + 2] = '\0';
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"fi?st\": the name holds a NUL byte");
}

Test(gguf, tensor_twice_is_refused)
{
    struct gguf_build b = good();
    gguf_build_tensor(&b, "second", KERN_TYPE_F32, 2, shape, values, sizeof(values));
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"second\": is there twice");
}

Test(gguf, tensor_has_1_to_4_dimensions)
{
    static const uint64_t ones[5] = { 1, 1, 1, 1, 1 };
    struct gguf_build b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 4, ones, values, 4);
    expect_accepted(&b);
    b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 5, ones, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"t\": has 5 dimensions, it must have 1 to 4");
    b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 0, ones, values, 4);
    gguf_build_put_u64(&b.tensors, 0); /* else the count of tensors is refused first */
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"t\": has 0 dimensions");
}

Test(gguf, dimension_of_0_is_refused)
{
    struct gguf_build b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 2, (uint64_t[]){ 4, 0 }, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"t\": dimension 2 is 0");
}

Test(gguf, product_of_dimensions_must_fit)
{
    struct gguf_build b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 3,
                      (uint64_t[]){ UINT64_C(1) << 32, 2, UINT64_C(1) << 31 }, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE,
                   "tensor \"t\": the product of its dimensions is above 9223372036854775807 at "
                   "dimension 3 (2147483648)");
    b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 2,
                      (uint64_t[]){ UINT64_C(1) << 32, UINT64_C(1) << 31 }, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE, "at dimension 2 (2147483648)"); /* 2^63 */
    b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_F32, 2, (uint64_t[]){ UINT64_C(1) << 62, 1 }, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE, "more than 64 bits can count");
}

Test(gguf, rows_are_whole_blocks)
{
    struct gguf_build b = good();
    gguf_build_tensor(&b, "t", KERN_TYPE_Q4_K, 2, (uint64_t[]){ 128, 2 }, values, 4);
    expect_refused(&b, ENGINE_ERR_FILE,
                   "tensor \"t\": rows of 128 values, Q4_K needs a multiple of 256");
}

Test(gguf, offset_is_a_multiple_of_the_alignment)
{
    struct gguf_build b = good();
    gguf_build_tensor_at(&b, "t", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, 68);
    expect_refused(
        &b, ENGINE_ERR_FILE,
        "tensor \"t\": starts at byte 68 of the data, not a multiple of the alignment 32");
}

Test(gguf, offset_beyond_64_bits_is_refused)
{
    struct gguf_build b = good();
    gguf_build_tensor_at(&b, "t", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, UINT64_MAX - 31);
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"t\": 4 bytes at byte 18446744073709551584");
}

Test(gguf, tensor_beyond_the_end_is_refused_with_its_bytes)
{
    struct gguf_build b = good();
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len);
    char words[128];
    snprintf(words, sizeof(words),
             "tensor \"second\": needs bytes %zu to %zu of its file, which has %zu", len - 4, len,
             len - 1);
    expect_bytes_refused(file, len - 1, len - 1, ENGINE_ERR_FILE, words);
    free(file);
}

Test(gguf, tensors_that_share_bytes_are_refused)
{
    struct gguf_build b = good();
    gguf_build_tensor_at(&b, "t", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, 0);
    expect_refused(&b, ENGINE_ERR_FILE, "the end of tensor first");
    b = good();
    gguf_build_tensor_at(&b, "t", KERN_TYPE_F32, 1, (uint64_t[]){ 1 }, 32);
    expect_refused(&b, ENGINE_ERR_FILE, "tensor \"t\": starts at byte");
}

Test(gguf, part_of_a_split_model_is_not_opened_from_memory)
{
    struct gguf_build b = good();
    gguf_build_u32(&b, "split.count", 3);
    gguf_build_u32(&b, "split.no", 1);
    expect_refused(&b, ENGINE_ERR_FILE, "is part 2 of 3 of a split model");
}

/* ---- damage ---- */

Test(gguf, every_truncation_is_refused)
{
    struct gguf_build b = good();
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len);
    for (size_t cut = 0; cut < len; cut++)
        expect_bytes_refused(file, cut, cut, ENGINE_ERR_FILE, "");
    free(file);
}

Test(gguf, every_flipped_bit_is_refused_or_harmless)
{
    struct gguf_build b = good();
    size_t len;
    unsigned char *file = gguf_build_finish(&b, &len);
    uint32_t n_refused = 0;
    for (size_t bit = 0; bit < 8 * len; bit++) {
        unsigned char *copy;
        struct engine_err err;
        file[bit / 8] ^= (unsigned char)(1U << bit % 8);
        struct gguf *g = open_bytes(file, len, len, &copy, &err);
        n_refused += g == NULL;
        const struct gguf_load_options load = { .read_file = false };
        uint64_t sum = 0;
        for (uint64_t i = 0; g && gguf_load(g, &load, &err) == 0 && i < gguf_n_tensors(g); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(g, i);
            for (uint64_t k = 0; t->data && k < t->bytes; k++)
                sum += ((const unsigned char *)t->data)[k];
        }
        cr_assert(sum <= 255 * len);
        gguf_close(g);
        free(copy);
        file[bit / 8] ^= (unsigned char)(1U << bit % 8);
    }
    cr_expect(n_refused > len, "only %u of %zu flips were refused", n_refused, 8 * len);
    free(file);
}
