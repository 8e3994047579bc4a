/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sse.c - events are framed so that a reader gets the data back.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/http/http.h"

static void expect_event(const char *data, const char *wire)
{
    struct buf b = { 0 };
    sse_event(&b, data, strlen(data));
    buf_char(&b, '\0');
    cr_expect_str_eq(b.data, wire);
    buf_fini(&b);
}

Test(sse, frames_one_line)
{
    expect_event("{\"a\":1}", "data: {\"a\":1}\n\n");
    expect_event("", "data: \n\n");
}

Test(sse, no_line_end_in_the_data_ends_the_event)
{
    expect_event("a\nb", "data: a\ndata: b\n\n");
    expect_event("a\r\nb", "data: a\ndata: b\n\n");
    expect_event("a\rb", "data: a\ndata: b\n\n");
    expect_event("a\n", "data: a\ndata: \n\n");
    expect_event("\n\n", "data: \ndata: \ndata: \n\n");
}

Test(sse, a_ping_is_a_comment_and_the_end_is_done)
{
    struct buf b = { 0 };
    sse_ping(&b);
    sse_done(&b);
    buf_char(&b, '\0');
    cr_expect_str_eq(b.data, ":\n\ndata: [DONE]\n\n");
    buf_fini(&b);
}
