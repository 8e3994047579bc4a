/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_sse.c - what goes into an event comes out of it again.
 *
 * Any bytes, framed as an event and read as the specification of server-sent events says, are the
 * same bytes with each line end turned into LF.  The same bytes as a JSON string are valid JSON.
 */
#include "server/http/http.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* CR LF, CR and LF all become LF. */
static void normalise(struct buf *out, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] != '\r')
            buf_char(out, s[i]);
        else if (i + 1 == len || s[i + 1] != '\n')
            buf_char(out, '\n');
    }
}

/* One event: "data: " lines, then an empty one, and nothing after it. */
static void read_event(struct buf *out, const char *s, size_t len)
{
    const char *end = s + len;
    bool is_first = true;
    while (end - s > 1) {
        require(end - s > 6 && memcmp(s, "data: ", 6) == 0);
        const char *newline = memchr(s, '\n', (size_t)(end - s));
        require(newline);
        require(!memchr(s, '\r', (size_t)(newline - s)));
        if (!is_first)
            buf_char(out, '\n');
        buf_add(out, s + 6, (size_t)(newline - s - 6));
        is_first = false;
        s = newline + 1;
    }
    require(end - s == 1 && *s == '\n');
}

static void check_event(const char *s, size_t len)
{
    static const char rest[] = ":\n\ndata: [DONE]\n\n";
    struct buf wire = { 0 }, got = { 0 }, want = { 0 };
    sse_event(&wire, s, len);
    size_t event_len = wire.len;
    sse_ping(&wire); /* what follows an event never runs into it */
    sse_done(&wire);
    require(wire.len == event_len + sizeof(rest) - 1 &&
            memcmp(wire.data + event_len, rest, sizeof(rest) - 1) == 0);
    read_event(&got, wire.data, event_len);
    normalise(&want, s, len);
    require(got.len == want.len && (got.len == 0 || memcmp(got.data, want.data, got.len) == 0));
    buf_fini(&wire);
    buf_fini(&got);
    buf_fini(&want);
}

static void check_json(const char *s, size_t len)
{
    struct buf b = { 0 };
    buf_json(&b, s, len);
    json_t *v = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    require(json_is_string(v) && !memchr(b.data, '\n', b.len));
    if (utf8_valid(s, len))
        require(json_string_length(v) == len && memcmp(json_string_value(v), s, len) == 0);
    json_decref(v);
    buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *s = malloc(size ? size : 1);
    require(s);
    memcpy(s, data, size);
    check_event(s, size);
    check_json(s, size);
    free(s);
    return 0;
}
