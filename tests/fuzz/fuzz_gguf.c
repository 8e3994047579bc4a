/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_gguf.c - the reader of GGUF files over arbitrary bytes.
 *
 * The first byte says how much longer than the header the file claims to be, the rest is the
 * header. Of what is accepted everything is looked at: all keys through all getters, all elements
 * of arrays, all tensors, the data if it is there.
 */
#include "engine/model/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum; /* keeps the compiler from dropping the reads */

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void read_bytes(const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum += ((const unsigned char *)data)[i];
}

/* A failure says why and leaves the code behind; success says nothing. */
static void check_outcome(int rc, const struct engine_err *err)
{
    require((rc == 0) == (err->code == ENGINE_ERR_NONE));
    require(rc == 0 || (err->text[0] != '\0' && strlen(err->text) < sizeof(err->text)));
}

static void read_scalars(const struct gguf *g, const char *key)
{
    uint32_t u = 0;
    int32_t i = 0;
    float f = 0;
    bool b = false;
    struct gguf_str s = { .len = 0 };
    struct engine_err err[5] = { { .code = ENGINE_ERR_NONE } };
    check_outcome(gguf_get_u32(g, key, true, &u, &err[0]), &err[0]);
    check_outcome(gguf_get_i32(g, key, true, &i, &err[1]), &err[1]);
    check_outcome(gguf_get_f32(g, key, true, &f, &err[2]), &err[2]);
    check_outcome(gguf_get_bool(g, key, true, &b, &err[3]), &err[3]);
    check_outcome(gguf_get_str(g, key, true, &s, &err[4]), &err[4]);
    require(isfinite(f));
    read_bytes(s.data, s.len);
    sum += u + (uint64_t)i + b;
}

static void read_elements(const struct gguf_array *a)
{
    for (uint64_t i = 0; i < a->n; i++) {
        if (a->type == GGUF_STRING) {
            read_bytes(a->strings[i].data, a->strings[i].len);
        } else if (a->type != GGUF_ARRAY) {
            sum += (uint64_t)gguf_array_int(a, i);
            sum += gguf_array_float(a, i) > 0;
        }
    }
}

static void read_key(const struct gguf *g, uint64_t i)
{
    enum gguf_type type;
    struct gguf_str key = gguf_key_at(g, i, &type);
    require(key.len > 0 && type <= GGUF_F64);
    char *name = strndup(key.data, key.len);
    require(name && strlen(name) == key.len && gguf_has(g, name));
    read_scalars(g, name);
    for (int t = GGUF_U8; t <= GGUF_F64; t++) {
        struct gguf_array a;
        struct engine_err err = { .code = ENGINE_ERR_NONE };
        int rc = gguf_get_array(g, name, true, (enum gguf_type)t, &a, &err);
        check_outcome(rc, &err);
        require(rc < 0 || type == GGUF_ARRAY);
        if (rc == 0)
            read_elements(&a);
    }
    free(name);
}

static void read_tensor(const struct gguf *g, uint64_t i, uint64_t file_bytes)
{
    const struct gguf_tensor *t = gguf_tensor_at(g, i);
    require(gguf_find_tensor(g, t->name) == t);
    require(t->n_dims >= 1 && t->n_dims <= 4);
    require(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    for (uint32_t d = 0; d < 4; d++)
        require(t->ne[d] > 0);
    if (t->data)
        read_bytes(t->data, t->bytes);
}

static void read_all(struct gguf *g, uint64_t file_bytes)
{
    const struct gguf_load_options load = { .read_file = false };
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    check_outcome(gguf_load(g, &load, &err), &err);
    for (uint64_t i = 0; i < gguf_n_keys(g); i++)
        read_key(g, i);
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++)
        read_tensor(g, i, file_bytes);
    require(!gguf_has(g, "") && !gguf_find_tensor(g, ""));
    require(gguf_file_bytes(g) == file_bytes && gguf_data_bytes(g) <= file_bytes);
    sum += gguf_hash(g) + gguf_version(g) + (uint64_t)gguf_mtime(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    /* 0: the data is there; else it is claimed: from 1 byte to all that 64 bits can count. */
    uint64_t more = data[0] ? UINT64_MAX >> (data[0] % 64) : 0;
    uint64_t len = size - 1;
    uint64_t file_bytes = more > UINT64_MAX - len ? UINT64_MAX : len + more;
    struct gguf *g;
    struct engine_err err = { .code = ENGINE_ERR_NONE };
    int rc = gguf_open_memory(&g, data + 1, len, file_bytes, &err);
    check_outcome(rc, &err);
    require((rc == 0) == (g != NULL));
    if (g)
        read_all(g, file_bytes);
    gguf_close(g);
    return 0;
}
