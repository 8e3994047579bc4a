/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_build.h - makes GGUF files for tests, good ones and ones that lie.
 *
 *     struct gguf_build b = GGUF_BUILD_INIT;
 *     gguf_build_str(&b, "general.architecture", "llama");
 *     gguf_build_tensor(&b, "w", KERN_TYPE_F32, 2, (uint64_t[]){ 4, 2 }, values, sizeof(values));
 *     unsigned char *file = gguf_build_finish(&b, &len);   (free() it)
 *
 * The fields of the struct may be changed at any time before the finish: that is how lies are told.
 * A call that runs out of memory aborts the test.
 */
#ifndef LACUNA_TESTS_GGUF_BUILD_H
#define LACUNA_TESTS_GGUF_BUILD_H

#include "engine/model/gguf.h"

struct gguf_build_bytes {
    unsigned char *data;
    size_t len, cap;
};

struct gguf_build {
    uint32_t version;
    uint64_t alignment; /* what the layout follows; the key general.alignment is the caller's */
    struct gguf_build_bytes keys, tensors, data;
    uint64_t n_keys, n_tensors; /* what the header will say */
};

#define GGUF_BUILD_INIT                                                                            \
    {                                                                                              \
        .version = 3, .alignment = 32                                                              \
    }

void gguf_build_put(struct gguf_build_bytes *b, const void *src, size_t n);
void gguf_build_put_u32(struct gguf_build_bytes *b, uint32_t x);
void gguf_build_put_u64(struct gguf_build_bytes *b, uint64_t x);
void gguf_build_put_str(struct gguf_build_bytes *b, const char *text); /* length and bytes */

/* A key and its type; the value is the caller's to put into b->keys. */
void gguf_build_key(struct gguf_build *b, const char *key, uint32_t type);
void gguf_build_str(struct gguf_build *b, const char *key, const char *text);
void gguf_build_u32(struct gguf_build *b, const char *key, uint32_t x);
void gguf_build_i32(struct gguf_build *b, const char *key, int32_t x);
void gguf_build_u64(struct gguf_build *b, const char *key, uint64_t x);
void gguf_build_f32(struct gguf_build *b, const char *key, float x);
void gguf_build_bool(struct gguf_build *b, const char *key, bool x);
/* n packed elements of a type of fixed size, `bytes` in all. */
void gguf_build_array(struct gguf_build *b, const char *key, enum gguf_type type, uint64_t n,
                      const void *elements, size_t bytes);
void gguf_build_strings(struct gguf_build *b, const char *key, uint64_t n,
                        const char *const *texts);

/* A tensor and its data, which goes to the next place that the alignment allows. */
void gguf_build_tensor(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims,
                       const uint64_t *ne, const void *data, size_t bytes);
/* A tensor that claims its data at `offset` of the data section. */
void gguf_build_tensor_at(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims,
                          const uint64_t *ne, uint64_t offset);

/* The whole file; b is empty afterwards. */
unsigned char *gguf_build_finish(struct gguf_build *b, size_t *len);
/* The same, to a file.  0 or -1. */
int gguf_build_write(struct gguf_build *b, const char *path);

#endif
