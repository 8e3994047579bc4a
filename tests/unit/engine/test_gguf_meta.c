/* SPDX-License-Identifier: Apache-2.0
 *
 * test_gguf_meta.c - every type of metadata, and what each getter makes of it.
 */
#include "engine/model/gguf.h"
#include "tests/support/gguf_build.h"

#include <criterion/criterion.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An open file; close with close_file. */
struct file {
    struct gguf *g;
    unsigned char *bytes;
};

static struct file open_file(struct gguf_build *b)
{
    struct file f = { .g = NULL };
    size_t len;
    f.bytes = gguf_build_finish(b, &len);
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_assert(gguf_open_memory(&f.g, f.bytes, len, len, &err) == 0, "%s", err.text);
    return f;
}

static void close_file(struct file *f)
{
    gguf_close(f->g);
    free(f->bytes);
}

static void put_scalar(struct gguf_build *b, const char *key, enum gguf_type type,
                       const void *value, size_t bytes)
{
    gguf_build_key(b, key, type);
    gguf_build_put(&b->keys, value, bytes);
}

/* One key of each type of number; the smallest that each can hold, or a fraction. */
static struct file numbers(void)
{
    static const uint8_t u8 = 200;
    static const int8_t i8 = -128;
    static const uint16_t u16 = 65535;
    static const int16_t i16 = -32768;
    static const uint64_t u64 = UINT64_MAX;
    static const int64_t i64 = INT64_MIN;
    static const double f64 = 0.1;
    struct gguf_build b = GGUF_BUILD_INIT;
    put_scalar(&b, "u8", GGUF_U8, &u8, 1);
    put_scalar(&b, "i8", GGUF_I8, &i8, 1);
    put_scalar(&b, "u16", GGUF_U16, &u16, 2);
    put_scalar(&b, "i16", GGUF_I16, &i16, 2);
    gguf_build_u32(&b, "u32", UINT32_MAX);
    gguf_build_i32(&b, "i32", INT32_MIN);
    put_scalar(&b, "u64", GGUF_U64, &u64, 8);
    put_scalar(&b, "i64", GGUF_I64, &i64, 8);
    gguf_build_f32(&b, "f32", 0.5F);
    put_scalar(&b, "f64", GGUF_F64, &f64, 8);
    gguf_build_bool(&b, "bool", true);
    gguf_build_str(&b, "str", "text");
    return open_file(&b);
}

static void expect_words(const struct engine_err *err, const char *words)
{
    cr_expect(err->code == ENGINE_ERR_FILE);
    cr_expect(strstr(err->text, words) != NULL, "said \"%s\", not \"%s\"", err->text, words);
}

static void expect_u32(const struct gguf *g, const char *key, uint32_t expected)
{
    uint32_t x = 0;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_u32(g, key, true, &x, &err) == 0, "%s", err.text);
    cr_expect(x == expected, "%s: %u", key, x);
}

static void expect_no_u32(const struct gguf *g, const char *key, const char *words)
{
    uint32_t x = 77;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_u32(g, key, false, &x, &err) == -1);
    cr_expect(x == 77);
    expect_words(&err, words);
}

static void expect_i32(const struct gguf *g, const char *key, int32_t expected)
{
    int32_t x = 0;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_i32(g, key, true, &x, &err) == 0, "%s", err.text);
    cr_expect(x == expected, "%s: %d", key, x);
}

static void expect_no_i32(const struct gguf *g, const char *key, const char *words)
{
    int32_t x = 77;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_i32(g, key, false, &x, &err) == -1);
    cr_expect(x == 77);
    expect_words(&err, words);
}

static void expect_f32(const struct gguf *g, const char *key, float expected)
{
    float x = 0;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_f32(g, key, true, &x, &err) == 0, "%s", err.text);
    cr_expect(memcmp(&x, &expected, sizeof(x)) == 0, "%s: %g", key, (double)x);
}

static void expect_no_f32(const struct gguf *g, const char *key, const char *words)
{
    float x = 77;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_f32(g, key, false, &x, &err) == -1);
    expect_words(&err, words);
}

/* ---- scalars ---- */

Test(gguf_meta, unsigned_getter_converts_what_fits)
{
    struct file f = numbers();
    expect_u32(f.g, "u8", 200);
    expect_u32(f.g, "u16", 65535);
    expect_u32(f.g, "u32", UINT32_MAX);
    expect_no_u32(f.g, "i8", "key \"i8\": is -128, it must be 0 to 4294967295");
    expect_no_u32(f.g, "i16", "key \"i16\": is -32768");
    expect_no_u32(f.g, "i32", "key \"i32\": is -2147483648");
    expect_no_u32(f.g, "i64", "key \"i64\": is -9223372036854775808");
    expect_no_u32(f.g, "u64", "key \"u64\": is above 9223372036854775807");
    expect_no_u32(f.g, "f32", "key \"f32\": is of type float32, a whole number is needed");
    expect_no_u32(f.g, "bool", "key \"bool\": is of type bool");
    expect_no_u32(f.g, "str", "key \"str\": is of type string");
    close_file(&f);
}

Test(gguf_meta, signed_getter_converts_what_fits)
{
    struct file f = numbers();
    expect_i32(f.g, "u8", 200);
    expect_i32(f.g, "i8", -128);
    expect_i32(f.g, "u16", 65535);
    expect_i32(f.g, "i16", -32768);
    expect_i32(f.g, "i32", INT32_MIN);
    expect_no_i32(f.g, "u32", "key \"u32\": is 4294967295, it must be -2147483648 to 2147483647");
    expect_no_i32(f.g, "u64", "is above");
    expect_no_i32(f.g, "i64", "is -9223372036854775808");
    expect_no_i32(f.g, "f64", "is of type float64");
    close_file(&f);
}

Test(gguf_meta, wide_types_convert_at_the_edge)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_u64(&b, "fits", UINT32_MAX);
    gguf_build_u64(&b, "over", UINT64_C(1) << 32);
    gguf_build_u64(&b, "most", INT32_MAX);
    gguf_build_u64(&b, "more", UINT64_C(1) << 31);
    struct file f = open_file(&b);
    expect_u32(f.g, "fits", UINT32_MAX);
    expect_no_u32(f.g, "over", "is 4294967296, it must be 0 to 4294967295");
    expect_i32(f.g, "most", INT32_MAX);
    expect_no_i32(f.g, "more", "is 2147483648, it must be");
    close_file(&f);
}

Test(gguf_meta, float_getter_takes_numbers)
{
    struct file f = numbers();
    expect_f32(f.g, "f32", 0.5F);
    expect_f32(f.g, "f64", 0.1F);
    expect_f32(f.g, "u8", 200.0F);
    expect_f32(f.g, "i64", -0x1p63F);
    expect_f32(f.g, "u64", 0x1p64F);
    expect_no_f32(f.g, "bool", "key \"bool\": is of type bool, a number is needed");
    expect_no_f32(f.g, "str", "key \"str\": is of type string");
    close_file(&f);
}

Test(gguf_meta, float_getter_takes_finite_ones_only)
{
    static const double large = 1e39, most = FLT_MAX;
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_f32(&b, "inf", INFINITY);
    gguf_build_f32(&b, "nan", NAN);
    put_scalar(&b, "large", GGUF_F64, &large, 8);
    put_scalar(&b, "most", GGUF_F64, &most, 8);
    struct file f = open_file(&b);
    expect_no_f32(f.g, "inf", "key \"inf\": is inf, it must be finite");
    expect_no_f32(f.g, "nan", "nan, it must be finite");
    expect_no_f32(f.g, "large", "key \"large\": is 1e+39");
    expect_f32(f.g, "most", FLT_MAX);
    close_file(&f);
}

Test(gguf_meta, bool_and_string_are_not_converted)
{
    struct file f = numbers();
    struct engine_err err[4] = { { .code = ENGINE_ERR_NONE } };
    bool yes = false;
    struct gguf_str s = { .len = 0 };
    cr_expect(gguf_get_bool(f.g, "bool", true, &yes, &err[0]) == 0 && yes);
    cr_expect(gguf_get_str(f.g, "str", true, &s, &err[1]) == 0);
    cr_expect(s.len == 4 && memcmp(s.data, "text", 4) == 0);
    cr_expect(gguf_get_bool(f.g, "u8", true, &yes, &err[2]) == -1);
    expect_words(&err[2], "key \"u8\": is of type uint8, a bool is needed");
    cr_expect(gguf_get_str(f.g, "u8", true, &s, &err[3]) == -1);
    expect_words(&err[3], "key \"u8\": is of type uint8, a string is needed");
    close_file(&f);
}

Test(gguf_meta, string_may_hold_any_byte)
{
    static const unsigned char bytes[4] = { 'a', 0, 0xff, '\n' };
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_key(&b, "s", GGUF_STRING);
    gguf_build_put_u64(&b.keys, 4);
    gguf_build_put(&b.keys, bytes, 4);
    struct file f = open_file(&b);
    struct gguf_str s;
    cr_assert(gguf_get_str(f.g, "s", true, &s, NULL) == 0);
    cr_expect(s.len == 4 && memcmp(s.data, bytes, 4) == 0);
    close_file(&f);
}

Test(gguf_meta, absent_key_is_an_error_only_if_required)
{
    struct file f = numbers();
    uint32_t u = 5;
    float x = 5;
    struct gguf_array a;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(!gguf_has(f.g, "no.such"));
    cr_expect(gguf_has(f.g, "u8"));
    cr_expect(gguf_get_u32(f.g, "no.such", false, &u, &err) == -1 && u == 5);
    cr_expect(gguf_get_f32(f.g, "no.such", false, &x, &err) == -1);
    cr_expect(gguf_get_array(f.g, "no.such", false, GGUF_U32, &a, &err) == -1);
    cr_expect(err.code == ENGINE_ERR_NONE);
    cr_expect(gguf_get_u32(f.g, "no.such", true, &u, &err) == -1);
    expect_words(&err, "key \"no.such\": is missing");
    close_file(&f);
}

Test(gguf_meta, first_error_wins)
{
    struct file f = numbers();
    uint32_t u;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    gguf_get_u32(f.g, "first.missing", true, &u, &err);
    gguf_get_u32(f.g, "second.missing", true, &u, &err);
    expect_words(&err, "first.missing");
    cr_expect(gguf_get_u32(f.g, "third.missing", true, &u, NULL) == -1);
    close_file(&f);
}

Test(gguf_meta, keys_are_listed_in_the_files_order)
{
    struct file f = numbers();
    enum gguf_type type;
    cr_assert(gguf_n_keys(f.g) == 12);
    struct gguf_str key = gguf_key_at(f.g, 3, &type);
    cr_expect(key.len == 3 && memcmp(key.data, "i16", 3) == 0 && type == GGUF_I16);
    key = gguf_key_at(f.g, 11, &type);
    cr_expect(key.len == 3 && memcmp(key.data, "str", 3) == 0 && type == GGUF_STRING);
    close_file(&f);
}

/* ---- arrays ---- */

Test(gguf_meta, equal_numbers_in_an_array_stand_for_one)
{
    static const uint32_t equal[3] = { 8, 8, 8 }, differing[3] = { 8, 8, 4 };
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_array(&b, "equal", GGUF_U32, 3, equal, sizeof(equal));
    gguf_build_array(&b, "differing", GGUF_U32, 3, differing, sizeof(differing));
    gguf_build_array(&b, "none", GGUF_U32, 0, NULL, 0);
    struct file f = open_file(&b);
    expect_u32(f.g, "equal", 8);
    expect_no_u32(
        f.g, "differing",
        "key \"differing\": is an array of 3 values (uint32), one number (or equal ones)");
    expect_no_u32(f.g, "none", "key \"none\": is an array of 0 values (uint32), one number");
    expect_no_i32(f.g, "equal", "key \"equal\": is an array of 3 values (uint32), a whole number");
    close_file(&f);
}

Test(gguf_meta, elements_of_every_type_are_converted)
{
    static const uint8_t u8[2] = { 0, 255 };
    static const int8_t i8[2] = { -128, 127 };
    static const int16_t i16[2] = { -32768, 32767 };
    static const int64_t i64[2] = { INT64_MIN, INT64_MAX };
    static const double f64[2] = { -0.25, 1e300 };
    static const float f32[2] = { 2.75F, NAN };
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_array(&b, "bool", GGUF_BOOL, 2, (unsigned char[]){ 0, 1 }, 2);
    gguf_build_array(&b, "u8", GGUF_U8, 2, u8, sizeof(u8));
    gguf_build_array(&b, "i8", GGUF_I8, 2, i8, sizeof(i8));
    gguf_build_array(&b, "i16", GGUF_I16, 2, i16, sizeof(i16));
    gguf_build_array(&b, "i64", GGUF_I64, 2, i64, sizeof(i64));
    gguf_build_array(&b, "f32", GGUF_F32, 2, f32, sizeof(f32));
    gguf_build_array(&b, "f64", GGUF_F64, 2, f64, sizeof(f64));
    struct file f = open_file(&b);
    static const struct {
        const char *key;
        enum gguf_type type;
        int64_t whole[2];
        double number[2];
    } cases[] = {
        { "bool", GGUF_BOOL, { 0, 1 }, { 0, 1 } },
        { "u8", GGUF_U8, { 0, 255 }, { 0, 255 } },
        { "i8", GGUF_I8, { -128, 127 }, { -128, 127 } },
        { "i16", GGUF_I16, { -32768, 32767 }, { -32768, 32767 } },
        { "i64", GGUF_I64, { INT64_MIN, INT64_MAX }, { -0x1p63, 0x1p63 } },
        { "f64", GGUF_F64, { 0, INT64_MAX }, { -0.25, 1e300 } },
        { "f32", GGUF_F32, { 2, 0 }, { 2.75, 0 } }, /* the NaN is looked at below */
    };
    struct gguf_array a;
    for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
        cr_assert(gguf_get_array(f.g, cases[c].key, true, cases[c].type, &a, NULL) == 0);
        cr_expect(a.n == 2 && a.type == cases[c].type && a.strings == NULL);
        for (uint64_t i = 0; i < 2; i++) {
            cr_expect(gguf_array_int(&a, i) == cases[c].whole[i], "%s", cases[c].key);
            double x = gguf_array_float(&a, i);
            cr_expect(isnan(x) || fabs(x - cases[c].number[i]) <= 0.0, "%s: %g", cases[c].key, x);
        }
    }
    cr_expect(isnan(gguf_array_float(&a, 1)));
    close_file(&f);
}

Test(gguf_meta, arrays_of_integers_are_asked_for_as_any_integer)
{
    static const int32_t small[3] = { 0, 1, 127 }, negative[2] = { 1, -1 };
    static const uint64_t large[2] = { 1, UINT64_MAX };
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_array(&b, "small", GGUF_I32, 3, small, sizeof(small));
    gguf_build_array(&b, "negative", GGUF_I32, 2, negative, sizeof(negative));
    gguf_build_array(&b, "large", GGUF_U64, 2, large, sizeof(large));
    gguf_build_array(&b, "floats", GGUF_F32, 1, (float[]){ 1 }, 4);
    struct file f = open_file(&b);
    struct gguf_array a;
    static const enum gguf_type any[] = { GGUF_U8,  GGUF_I8,  GGUF_U16, GGUF_I16,
                                          GGUF_U32, GGUF_I32, GGUF_U64, GGUF_I64 };
    for (size_t i = 0; i < sizeof(any) / sizeof(*any); i++) {
        cr_expect(gguf_get_array(f.g, "small", true, any[i], &a, NULL) == 0);
        cr_expect(a.type == GGUF_I32 && gguf_array_int(&a, 2) == 127);
    }
    struct engine_err err[4] = { { .code = ENGINE_ERR_NONE } };
    cr_expect(gguf_get_array(f.g, "negative", true, GGUF_U32, &a, &err[0]) == -1);
    expect_words(&err[0], "key \"negative\": element 1 is -1, it must be 0 to 4294967295");
    cr_expect(gguf_get_array(f.g, "large", true, GGUF_I64, &a, &err[1]) == -1);
    expect_words(&err[1], "key \"large\": element 1 is above 9223372036854775807");
    cr_expect(gguf_get_array(f.g, "floats", true, GGUF_I32, &a, &err[2]) == -1);
    expect_words(&err[2], "is an array of 1 values (float32), an array (int32) is needed");
    cr_expect(gguf_get_array(f.g, "small", true, GGUF_F32, &a, &err[3]) == -1);
    expect_words(&err[3], "is an array of 3 values (int32), an array (float32) is needed");
    cr_expect(gguf_get_array(f.g, "floats", true, GGUF_F64, &a, NULL) == 0);
    close_file(&f);
}

Test(gguf_meta, arrays_of_strings_give_each_string)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_strings(&b, "s", 3, (const char *[]){ "one", "", "three" });
    gguf_build_strings(&b, "none", 0, NULL);
    struct file f = open_file(&b);
    struct gguf_array a;
    cr_assert(gguf_get_array(f.g, "s", true, GGUF_STRING, &a, NULL) == 0);
    cr_assert(a.n == 3 && a.type == GGUF_STRING && a.data == NULL);
    cr_expect(a.strings[0].len == 3 && memcmp(a.strings[0].data, "one", 3) == 0);
    cr_expect(a.strings[1].len == 0);
    cr_expect(a.strings[2].len == 5 && memcmp(a.strings[2].data, "three", 5) == 0);
    cr_expect(gguf_get_array(f.g, "none", true, GGUF_STRING, &a, NULL) == 0 && a.n == 0);
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    cr_expect(gguf_get_array(f.g, "s", true, GGUF_U8, &a, &err) == -1);
    expect_words(&err, "key \"s\": is an array of 3 values (string), an array (uint8) is needed");
    close_file(&f);
}

Test(gguf_meta, scalar_is_no_array_and_array_no_scalar)
{
    struct gguf_build b = GGUF_BUILD_INIT;
    gguf_build_u32(&b, "scalar", 1);
    gguf_build_array(&b, "array", GGUF_F32, 1, (float[]){ 1 }, 4);
    gguf_build_strings(&b, "strings", 1, (const char *[]){ "x" });
    struct file f = open_file(&b);
    struct gguf_array a;
    struct gguf_str s;
    struct engine_err err[2] = { { .code = ENGINE_ERR_NONE } };
    cr_expect(gguf_get_array(f.g, "scalar", true, GGUF_U32, &a, &err[0]) == -1);
    expect_words(&err[0], "key \"scalar\": is of type uint32, an array (uint32) is needed");
    cr_expect(gguf_get_str(f.g, "strings", true, &s, &err[1]) == -1);
    expect_words(&err[1], "key \"strings\": is an array of 1 values (string), a string is needed");
    expect_no_f32(f.g, "array", "is an array of 1 values (float32), a number is needed");
    enum gguf_type type;
    gguf_key_at(f.g, 1, &type);
    cr_expect(type == GGUF_ARRAY);
    close_file(&f);
}
