/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer.c - what is written into a buffer is what is in it, and JSON strings stay valid.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/buffer.h"

static void expect_json(const char *in, size_t len, const char *out)
{
    struct buf b = { 0 };
    buf_json(&b, in, len);
    buf_char(&b, '\0');
    cr_expect_str_eq(b.data, out);
    buf_fini(&b);
}

Test(buffer, escapes_what_json_must_not_hold)
{
    expect_json("", 0, "\"\"");
    expect_json("a\"b\\c", 5, "\"a\\\"b\\\\c\"");
    expect_json("\n\r\t\x01\x7f", 5, "\"\\n\\r\\t\\u0001\\u007f\"");
    expect_json("a\0b", 3, "\"a\\u0000b\"");
    expect_json("\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\"");
}

Test(buffer, replaces_each_maximal_subpart_of_bad_utf8)
{
    expect_json("\xff", 1, "\"\xef\xbf\xbd\"");
    expect_json("a\xe2\x82", 3, "\"a\xef\xbf\xbd\"");
    expect_json("\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_json("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_json("\xf0\x9f\x98z", 4, "\"\xef\xbf\xbdz\"");
}

Test(buffer, knows_valid_utf8)
{
    cr_expect(utf8_valid("", 0));
    cr_expect(utf8_valid("\xf4\x8f\xbf\xbf", 4), "U+10FFFF is the last");
    cr_expect_not(utf8_valid("\xf4\x90\x80\x80", 4));
    cr_expect_not(utf8_valid("\xe0\x80\x80", 3), "overlong");
    cr_expect_not(utf8_valid("\xc3", 1));
}

Test(buffer, writes_numbers_of_every_size)
{
    struct buf b = { 0 };
    buf_u64(&b, 0);
    buf_char(&b, ' ');
    buf_u64(&b, UINT64_MAX);
    buf_char(&b, ' ');
    buf_i64(&b, INT64_MIN);
    buf_char(&b, ' ');
    buf_json_float(&b, -INFINITY);
    buf_char(&b, ' ');
    buf_json_float(&b, NAN);
    buf_char(&b, ' ');
    buf_json_float(&b, -0.5);
    char *text = buf_take(&b, NULL);
    cr_expect_str_eq(text, "0 18446744073709551615 -9223372036854775808 -9999.0 -9999.0 -0.5");
    free(text);
}

Test(buffer, formats_longer_than_its_first_guess)
{
    struct buf b = { 0 };
    char word[600];
    memset(word, 'x', sizeof(word) - 1);
    word[sizeof(word) - 1] = '\0';
    buf_printf(&b, "<%s>", word);
    cr_expect_eq(b.len, sizeof(word) + 1);
    cr_expect_eq(b.data[b.len - 1], '>');
    buf_drop(&b, 599);
    cr_expect_eq(b.len, 2);
    cr_expect_eq(b.data[0], 'x');
    buf_fini(&b);
}

Test(buffer, a_failure_sticks_until_cleared)
{
    struct buf b = { 0 };
    cr_expect_not(buf_reserve(&b, SIZE_MAX / 2 + 2));
    buf_str(&b, "lost");
    cr_expect_eq(b.len, 0);
    cr_expect(b.failed);
    cr_expect_null(buf_take(&b, NULL));
    buf_clear(&b);
    buf_str(&b, "kept");
    cr_expect_eq(b.len, 4);
    buf_fini(&b);
}
