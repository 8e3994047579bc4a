/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.h - a growing byte buffer, and the JSON strings and numbers written into it.
 *
 * Idea: writers never check; the first allocation that fails sets `failed` and every later write
 * does nothing, so that one look at the end is enough.  A buffer belongs to one thread at a time.
 */
#ifndef LACUNA_SERVER_BUFFER_H
#define LACUNA_SERVER_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf { /* zeroed is empty */
    char *data;
    size_t len, cap;
    bool failed;
};

void buf_fini(struct buf *b);
void buf_clear(struct buf *b); /* empty again, keeps its memory, forgets a failure */
bool buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *data, size_t len);
void buf_str(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_u64(struct buf *b, uint64_t v);
void buf_i64(struct buf *b, int64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Drops the first n bytes. */
void buf_drop(struct buf *b, size_t n);

/* The memory becomes the caller's (NUL-terminated); the buffer is empty.  NULL if it failed. */
char *buf_take(struct buf *b, size_t *len);

/* A JSON string with its quotes.  Bytes that are not UTF-8 become U+FFFD, one per maximal subpart,
 * so that the result is valid whatever came in. */
void buf_json(struct buf *b, const char *s, size_t len);
void buf_json_str(struct buf *b, const char *s); /* NULL is written as null */
/* A JSON number; what JSON cannot say (infinities, not-a-number) is written as -9999.0. */
void buf_json_float(struct buf *b, double v);

/* Length of the valid UTF-8 sequence at s, 0 if there is none; *bad is then the length of the
 * maximal subpart to replace. */
size_t utf8_sequence(const char *s, size_t len, size_t *bad);
bool utf8_valid(const char *s, size_t len);

#endif
