/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_write.h - the pieces of a GGUF file, version 3, written one after the other: header, keys, tensors' names
 * and shapes, then, aligned, their data.  What goes wrong is seen by ferror().
 */
#ifndef LACUNA_ENGINE_GGUF_WRITE_H
#define LACUNA_ENGINE_GGUF_WRITE_H

#include <stdio.h>

#include "engine/model/gguf.h"

void gguf_put(FILE *out, const void *data, size_t n);
void gguf_put_u32(FILE *out, uint32_t x);
void gguf_put_u64(FILE *out, uint64_t x);
void gguf_put_string(FILE *out, const char *s); /* its length, its bytes */

void gguf_put_header(FILE *out, uint64_t n_tensors, uint64_t n_keys);
void gguf_put_u32_key(FILE *out, const char *key, uint32_t x);
void gguf_put_u64_key(FILE *out, const char *key, uint64_t x);
void gguf_put_string_key(FILE *out, const char *key, const char *text);
/* n packed elements of a type of fixed size, `bytes` in all. */
void gguf_put_array_key(FILE *out, const char *key, enum gguf_type type, uint64_t n,
                        const void *elements, size_t bytes);
void gguf_put_strings_key(FILE *out, const char *key, uint64_t n, const char *const *texts);

/* offset: of its data, from where all data begins. */
void gguf_put_tensor(FILE *out, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t type, uint64_t offset);

#endif
