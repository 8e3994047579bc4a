/* SPDX-License-Identifier: Apache-2.0
 *
 * values.h - text to values, strictly: the whole text is the value, or the answer is false and
 * *out is as it was.  Pure; ranges are the caller's.
 */
#ifndef LACUNA_SERVER_VALUES_H
#define LACUNA_SERVER_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool value_bool(const char *text, bool *out);        /* true/false, 1/0, on/off, yes/no */
bool value_u64(const char *text, uint64_t *out);     /* decimal digits only */
bool value_bytes(const char *text, uint64_t *out);   /* digits and K, M, G or T (times 1024) */
bool value_seconds(const char *text, uint64_t *out); /* digits and s, m, h or ms, rounded up */
bool value_real(const char *text, double *out);      /* a finite decimal number */
/* Which of the words in `choices` ("auto uring pread mmap") text is. */
bool value_choice(const char *text, const char *choices, uint32_t *out);

/* "16M", "300s": the text that value_bytes and value_seconds read back, for messages. */
enum { VALUE_TEXT_MAX = 32 };
void value_bytes_text(uint64_t bytes, char out[VALUE_TEXT_MAX]);

/* The one of n names that a typing mistake turns into word; NULL if none is near. */
const char *value_nearest(const char *word, const char *const *names, size_t n);

#endif
