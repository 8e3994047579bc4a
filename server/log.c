/* SPDX-License-Identifier: Apache-2.0
 *
 * log.c - log lines on stderr.
 *
 * A line is built whole and written with one write(2), so that lines of several threads never mix.
 * Identical warnings and errors within ten seconds are written once; the next one that is written
 * says how many were left out.  Lines that differ in request_id alone are identical.  Any thread.
 */
#include "server/log.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/buffer.h"

enum { N_LEVELS = 4, N_RECENT = 64, REPEAT_S = 10 };

static _Atomic int least_level = LOG_INFO_LEVEL;
static atomic_bool as_json = true;
static _Atomic uint64_t n_lines[N_LEVELS];

/* Recently written warnings, by a hash of their text; direct-mapped. */
static struct {
    uint64_t hash;
    time_t written;
    uint64_t n_left_out;
} recent[N_RECENT];
static pthread_mutex_t recent_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[N_LEVELS] = { "debug", "info", "warn", "error" };

void log_configure(enum log_level least, bool json)
{
    atomic_store(&least_level, (int)least);
    atomic_store(&as_json, json);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

uint64_t log_count(enum log_level level)
{
    return atomic_load_explicit(&n_lines[level], memory_order_relaxed);
}

static void json_value(struct buf *b, const struct log_field *f)
{
    switch (f->kind) {
    case LOG_FIELD_STR:
        buf_json_str(b, f->str);
        break;
    case LOG_FIELD_U64:
        buf_u64(b, f->u64);
        break;
    case LOG_FIELD_F64:
        buf_printf(b, isfinite(f->f64) ? "%.6g" : "null", f->f64);
        break;
    case LOG_FIELD_BOOL:
        buf_str(b, f->u64 ? "true" : "false");
        break;
    }
}

/* A text value is bare if it cannot be mistaken for two, else written as JSON writes it. */
static bool is_bare(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (*s <= ' ' || *s >= 0x7F || *s == '"' || *s == '=' || *s == '\\')
            return false;
    return true;
}

static void text_value(struct buf *b, const struct log_field *f)
{
    if (f->kind == LOG_FIELD_STR && f->str && is_bare(f->str))
        buf_str(b, f->str);
    else
        json_value(b, f);
}

static void add_field(struct buf *b, const struct log_field *f, bool json)
{
    if (json) {
        buf_char(b, ',');
        buf_json_str(b, f->key);
        buf_char(b, ':');
        json_value(b, f);
    } else {
        buf_char(b, ' ');
        buf_str(b, f->key);
        buf_char(b, '=');
        text_value(b, f);
    }
}

static void add_time(struct buf *b)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    buf_printf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
               tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(now.tv_nsec / 1000000));
}

static uint64_t hash_text(uint64_t h, const char *s, size_t len) /* FNV-1a */
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h;
}

/* False if this text was written a moment ago; else *n_left_out is how often it was not. */
static bool is_due(const char *event, const struct buf *text, uint64_t *n_left_out)
{
    uint64_t hash = hash_text(1469598103934665603u, event, strlen(event));
    hash = hash_text(hash, text->data, text->len);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&recent_lock);
    __typeof__(recent[0]) *r = &recent[hash % N_RECENT];
    bool same = r->hash == hash && r->written != 0;
    bool due = !same || now.tv_sec - r->written >= REPEAT_S;
    *n_left_out = same && due ? r->n_left_out : 0;
    if (due) {
        r->hash = hash;
        r->written = now.tv_sec ? now.tv_sec : 1;
        r->n_left_out = 0;
    } else {
        r->n_left_out++;
    }
    pthread_mutex_unlock(&recent_lock);
    return due;
}

static void write_all(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, data, len);
        if (n <= 0)
            return; /* nobody listens; there is nowhere to say so */
        data += n;
        len -= (size_t)n;
    }
}

static void write_line(enum log_level level, const char *event, const struct buf *fields,
                       uint64_t n_left_out, bool json)
{
    struct buf line = { 0 };
    if (json) {
        buf_str(&line, "{\"ts\":\"");
        add_time(&line);
        buf_printf(&line, "\",\"level\":\"%s\",\"event\":", level_names[level]);
        buf_json_str(&line, event);
    } else {
        add_time(&line);
        buf_printf(&line, " %s %s", level_names[level], event);
    }
    buf_add(&line, fields->data, fields->len);
    if (n_left_out)
        add_field(&line, &LOG_U64("repeated", n_left_out), json);
    buf_str(&line, json ? "}\n" : "\n");
    if (!line.failed)
        write_all(line.data, line.len);
    buf_fini(&line);
}

void log_fields(enum log_level level, const char *event, const struct log_field *fields)
{
    if (!log_enabled(level))
        return;
    bool json = atomic_load(&as_json);
    uint64_t n_left_out = 0;
    struct buf text = { 0 }, same = { 0 };
    for (const struct log_field *f = fields; f->key; f++) {
        add_field(&text, f, json);
        if (level >= LOG_WARN_LEVEL && strcmp(f->key, "request_id") != 0)
            add_field(&same, f, json);
    }
    bool due = true;
    if (level >= LOG_WARN_LEVEL)
        due = is_due(event, &same, &n_left_out);
    if (due) {
        write_line(level, event, &text, n_left_out, json);
        atomic_fetch_add_explicit(&n_lines[level], 1, memory_order_relaxed);
    }
    buf_fini(&text);
    buf_fini(&same);
}
