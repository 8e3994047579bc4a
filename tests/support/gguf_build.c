/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_build.c - see gguf_build.h.  Three growing buffers that the finish puts behind each other.
 */
#include "tests/support/gguf_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gguf_build_put(struct gguf_build_bytes *b, const void *src, size_t n)
{
    if (b->len + n > b->cap) {
        b->cap = 2 * (b->len + n);
        b->data = realloc(b->data, b->cap);
        if (!b->data)
            abort();
    }
    if (n > 0)
        memcpy(b->data + b->len, src, n);
    b->len += n;
}

void gguf_build_put_u32(struct gguf_build_bytes *b, uint32_t x)
{
    gguf_build_put(b, &x, sizeof(x));
}

void gguf_build_put_u64(struct gguf_build_bytes *b, uint64_t x)
{
    gguf_build_put(b, &x, sizeof(x));
}

void gguf_build_put_str(struct gguf_build_bytes *b, const char *text)
{
    gguf_build_put_u64(b, strlen(text));
    gguf_build_put(b, text, strlen(text));
}

static void pad(struct gguf_build_bytes *b, uint64_t alignment)
{
    static const unsigned char zero;
    while (b->len % alignment != 0)
        gguf_build_put(b, &zero, 1);
}

/* ---- keys ---- */

void gguf_build_key(struct gguf_build *b, const char *key, uint32_t type)
{
    b->n_keys++;
    gguf_build_put_str(&b->keys, key);
    gguf_build_put_u32(&b->keys, type);
}

void gguf_build_str(struct gguf_build *b, const char *key, const char *text)
{
    gguf_build_key(b, key, GGUF_STRING);
    gguf_build_put_str(&b->keys, text);
}

void gguf_build_u32(struct gguf_build *b, const char *key, uint32_t x)
{
    gguf_build_key(b, key, GGUF_U32);
    gguf_build_put_u32(&b->keys, x);
}

void gguf_build_i32(struct gguf_build *b, const char *key, int32_t x)
{
    gguf_build_key(b, key, GGUF_I32);
    gguf_build_put(&b->keys, &x, sizeof(x));
}

void gguf_build_u64(struct gguf_build *b, const char *key, uint64_t x)
{
    gguf_build_key(b, key, GGUF_U64);
    gguf_build_put_u64(&b->keys, x);
}

void gguf_build_f32(struct gguf_build *b, const char *key, float x)
{
    gguf_build_key(b, key, GGUF_F32);
    gguf_build_put(&b->keys, &x, sizeof(x));
}

void gguf_build_bool(struct gguf_build *b, const char *key, bool x)
{
    const unsigned char byte = x;
    gguf_build_key(b, key, GGUF_BOOL);
    gguf_build_put(&b->keys, &byte, 1);
}

void gguf_build_array(struct gguf_build *b, const char *key, enum gguf_type type, uint64_t n,
                      const void *elements, size_t bytes)
{
    gguf_build_key(b, key, GGUF_ARRAY);
    gguf_build_put_u32(&b->keys, type);
    gguf_build_put_u64(&b->keys, n);
    gguf_build_put(&b->keys, elements, bytes);
}

void gguf_build_strings(struct gguf_build *b, const char *key, uint64_t n, const char *const *texts)
{
    gguf_build_array(b, key, GGUF_STRING, n, NULL, 0);
    for (uint64_t i = 0; i < n; i++)
        gguf_build_put_str(&b->keys, texts[i]);
}

/* ---- tensors ---- */

void gguf_build_tensor_at(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims,
                          const uint64_t *ne, uint64_t offset)
{
    b->n_tensors++;
    gguf_build_put_str(&b->tensors, name);
    gguf_build_put_u32(&b->tensors, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        gguf_build_put_u64(&b->tensors, ne[i]);
    gguf_build_put_u32(&b->tensors, type);
    gguf_build_put_u64(&b->tensors, offset);
}

void gguf_build_tensor(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims,
                       const uint64_t *ne, const void *data, size_t bytes)
{
    pad(&b->data, b->alignment);
    gguf_build_tensor_at(b, name, type, n_dims, ne, b->data.len);
    gguf_build_put(&b->data, data, bytes);
}

/* ---- the file ---- */

unsigned char *gguf_build_finish(struct gguf_build *b, size_t *len)
{
    struct gguf_build_bytes file = { .len = 0 };
    gguf_build_put(&file, "GGUF", 4);
    gguf_build_put_u32(&file, b->version);
    gguf_build_put_u64(&file, b->n_tensors);
    gguf_build_put_u64(&file, b->n_keys);
    gguf_build_put(&file, b->keys.data, b->keys.len);
    gguf_build_put(&file, b->tensors.data, b->tensors.len);
    if (b->data.len > 0)
        pad(&file, b->alignment);
    gguf_build_put(&file, b->data.data, b->data.len);
    free(b->keys.data);
    free(b->tensors.data);
    free(b->data.data);
    *b = (struct gguf_build)GGUF_BUILD_INIT;
    *len = file.len;
    return file.data;
}

int gguf_build_write(struct gguf_build *b, const char *path)
{
    size_t len;
    unsigned char *file = gguf_build_finish(b, &len);
    FILE *out = fopen(path, "wb");
    bool ok = out && fwrite(file, 1, len, out) == len;
    if (out && fclose(out) != 0)
        ok = false;
    free(file);
    return ok ? 0 : -1;
}
