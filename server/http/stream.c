/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.c - the bytes of a server-sent event stream on their way from the scheduler's thread to
 * the connection.
 *
 * The writer appends whole events to a buffer and wakes the connection only if it sleeps: however
 * many events a step makes, one wake-up.  Nobody waits: a reader that falls too far behind loses
 * its stream instead.
 */
#include <string.h>

#include "server/http/http.h"

enum {
    STREAM_MAX_QUEUED = 256 << 10,
    STREAM_MANY_QUEUED = 16 << 10, /* a few dozen chunks */
};
static const uint64_t stream_stall_ns = 30ull * 1000000000; /* no byte taken for so long */

static size_t n_pending(const struct http_exchange *x)
{
    return x->out.len - x->out_at;
}

/* After an append.  A reader that slept until now has not been slow. */
static void wake_reader(struct http_exchange *x)
{
    x->last_write_ns = srv_now_ns();
    if (x->is_parked)
        x->last_read_ns = x->last_write_ns;
    http_wake(x);
}

void http_stream_begin(struct http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->phase < HTTP_PHASE_REPLY) {
        x->phase = HTTP_PHASE_STREAM;
        x->last_write_ns = x->last_read_ns = srv_now_ns();
        http_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}

/* The echo of a long prompt is one large event: it alone must not look like a slow reader. */
static bool is_behind(const struct http_exchange *x)
{
    return n_pending(x) > STREAM_MAX_QUEUED + x->largest_event;
}

void http_stream_event(struct http_exchange *x, const char *json, size_t len)
{
    pthread_mutex_lock(&x->lock);
    if (!x->gone && !x->out_ended && x->mhd) {
        sse_event(&x->out, json, len);
        if (len > x->largest_event)
            x->largest_event = len;
        if (is_behind(x) || x->out.failed)
            http_give_up(x, SCHED_CANCEL_SLOW_READER);
        wake_reader(x);
    }
    pthread_mutex_unlock(&x->lock);
}

bool http_stream_is_behind(struct http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool behind = n_pending(x) > STREAM_MANY_QUEUED;
    pthread_mutex_unlock(&x->lock);
    return behind;
}

void http_stream_end(struct http_exchange *x)
{
    http_release_seat(x);
    pthread_mutex_lock(&x->lock);
    if (!x->gone && !x->out_ended) {
        sse_done(&x->out);
        x->out_ended = true;
        wake_reader(x);
    }
    pthread_mutex_unlock(&x->lock);
}

/* Moves what is left to the front once most of the buffer was read. */
static void compact(struct http_exchange *x)
{
    if (x->out_at < x->out.len / 2)
        return;
    buf_drop(&x->out, x->out_at);
    x->out_at = 0;
}

size_t http_stream_read(struct http_exchange *x, char *dst, size_t max)
{
    size_t n = n_pending(x) < max ? n_pending(x) : max;
    x->last_read_ns = srv_now_ns();
    if (n == 0)
        return 0;
    memcpy(dst, x->out.data + x->out_at, n);
    x->out_at += n;
    x->bytes_out += n;
    compact(x);
    return n;
}

bool http_stream_tick(struct http_exchange *x, uint64_t now_ns)
{
    uint32_t ping_s = x->srv->opt.ping_s;
    if (x->phase != HTTP_PHASE_STREAM)
        return false;
    if (x->gone == SCHED_CANCEL_SLOW_READER)
        return true;
    if (n_pending(x) > 0)
        return now_ns > x->last_read_ns + stream_stall_ns;
    bool is_due = ping_s != UINT32_MAX && now_ns > x->last_write_ns + ping_s * 1000000000ull;
    if (is_due && !x->out_ended && !x->gone) {
        sse_ping(&x->out);
        wake_reader(x);
    }
    return false;
}
