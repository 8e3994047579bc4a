/* SPDX-License-Identifier: Apache-2.0
 *
 * sse.c - framing of server-sent events.  Pure.
 *
 * A line end within the data would end the event early: each line becomes a "data:" line of its
 * own, which the reader joins again with LF.
 */
#include <string.h>

#include "server/http/http.h"

static size_t line_length(const char *s, size_t len)
{
    size_t n = 0;
    while (n < len && s[n] != '\n' && s[n] != '\r')
        n++;
    return n;
}

void sse_event(struct buf *out, const char *data, size_t len)
{
    for (;;) {
        size_t n = line_length(data, len);
        buf_add(out, "data: ", 6);
        buf_add(out, data, n);
        buf_char(out, '\n');
        if (n == len)
            break;
        n += n + 1 < len && data[n] == '\r' && data[n + 1] == '\n' ? 2 : 1;
        data += n;
        len -= n;
    }
    buf_char(out, '\n');
}

void sse_ping(struct buf *out)
{
    buf_str(out, ":\n\n");
}

void sse_done(struct buf *out)
{
    sse_event(out, "[DONE]", 6);
}
