/* SPDX-License-Identifier: Apache-2.0
 *
 * gguf_write.c - see gguf_write.h; in the byte order of the machine, which is the format's (gguf.h).
 */
#include "engine/model/gguf_write.h"

#include <string.h>

void gguf_put(FILE *out, const void *data, size_t n)
{
    fwrite(data, 1, n, out);
}

void gguf_put_u32(FILE *out, uint32_t x)
{
    gguf_put(out, &x, sizeof(x));
}

void gguf_put_u64(FILE *out, uint64_t x)
{
    gguf_put(out, &x, sizeof(x));
}

void gguf_put_string(FILE *out, const char *s)
{
    gguf_put_u64(out, strlen(s));
    gguf_put(out, s, strlen(s));
}

void gguf_put_header(FILE *out, uint64_t n_tensors, uint64_t n_keys)
{
    gguf_put(out, "GGUF", 4);
    gguf_put_u32(out, 3);
    gguf_put_u64(out, n_tensors);
    gguf_put_u64(out, n_keys);
}

static void put_key(FILE *out, const char *key, enum gguf_type type)
{
    gguf_put_string(out, key);
    gguf_put_u32(out, type);
}

void gguf_put_u32_key(FILE *out, const char *key, uint32_t x)
{
    put_key(out, key, GGUF_U32);
    gguf_put_u32(out, x);
}

void gguf_put_u64_key(FILE *out, const char *key, uint64_t x)
{
    put_key(out, key, GGUF_U64);
    gguf_put_u64(out, x);
}

void gguf_put_string_key(FILE *out, const char *key, const char *text)
{
    put_key(out, key, GGUF_STRING);
    gguf_put_string(out, text);
}

void gguf_put_array_key(FILE *out, const char *key, enum gguf_type type, uint64_t n,
                        const void *elements, size_t bytes)
{
    put_key(out, key, GGUF_ARRAY);
    gguf_put_u32(out, type);
    gguf_put_u64(out, n);
    gguf_put(out, elements, bytes);
}

void gguf_put_strings_key(FILE *out, const char *key, uint64_t n, const char *const *texts)
{
    gguf_put_array_key(out, key, GGUF_STRING, n, "", 0);
    for (uint64_t i = 0; i < n; i++)
        gguf_put_string(out, texts[i]);
}

void gguf_put_tensor(FILE *out, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t type, uint64_t offset)
{
    gguf_put_string(out, name);
    gguf_put_u32(out, n_dims);
    gguf_put(out, ne, n_dims * sizeof(ne[0]));
    gguf_put_u32(out, type);
    gguf_put_u64(out, offset);
}
