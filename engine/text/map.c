/* SPDX-License-Identifier: Apache-2.0
 *
 * map.c - the tokenizer's lookup tables.
 *
 * Built once from the file and then only read, so there is neither growth nor removal: open
 * addressing with linear steps, at most half full.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

static const uint64_t MIX = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio, odd */

static uint64_t mix(uint64_t x)
{
    x *= MIX;
    x ^= x >> 32;
    x *= MIX;
    return x ^ x >> 29;
}

static uint64_t table_size(uint64_t n_keys)
{
    uint64_t size = 16;
    while (size < 2 * n_keys)
        size *= 2;
    return size;
}

int idmap_init(struct idmap *m, uint64_t n_keys)
{
    uint64_t size = table_size(n_keys);
    m->mask = size - 1;
    m->slots = malloc(size * sizeof *m->slots);
    if (m->slots == NULL)
        return -1;
    for (uint64_t i = 0; i < size; i++)
        m->slots[i] = (struct idmap_slot){ .value = MAP_NONE };
    return 0;
}

void idmap_fini(struct idmap *m)
{
    free(m->slots);
    m->slots = NULL;
}

static struct idmap_slot *idmap_slot(const struct idmap *m, uint64_t key)
{
    uint64_t at = mix(key) & m->mask;
    while (m->slots[at].value != MAP_NONE && m->slots[at].key != key)
        at = (at + 1) & m->mask;
    return &m->slots[at];
}

int32_t idmap_get(const struct idmap *m, uint64_t key)
{
    return idmap_slot(m, key)->value;
}

void idmap_put(struct idmap *m, uint64_t key, int32_t value)
{
    struct idmap_slot *slot = idmap_slot(m, key);
    if (slot->value == MAP_NONE)
        *slot = (struct idmap_slot){ .key = key, .value = value };
}

int strings_init(struct strings *s, uint32_t n, uint64_t total_bytes)
{
    s->n = n;
    s->at = calloc((size_t)n + 1, sizeof *s->at);
    s->data = malloc(total_bytes + 1); /* never of size 0 */
    return s->at != NULL && s->data != NULL ? 0 : -1;
}

void strings_fini(struct strings *s)
{
    free(s->at);
    free(s->data);
    s->at = NULL;
    s->data = NULL;
}

static uint64_t hash_bytes(const char *p, size_t len)
{
    uint64_t h = (uint64_t)len * MIX;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = mix(h ^ word);
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < len; i++)
        tail |= (uint64_t)(uint8_t)p[i] << 8 * i;
    return mix(h ^ tail);
}

static struct strmap_slot *strmap_slot(const struct strmap *m, const char *data, size_t len,
                                       uint32_t *tag)
{
    uint64_t hash = hash_bytes(data, len);
    uint64_t at = hash & m->mask;
    *tag = (uint32_t)(hash >> 32);
    for (; m->slots[at].index != MAP_NONE; at = (at + 1) & m->mask) {
        uint32_t i = (uint32_t)m->slots[at].index;
        if (m->slots[at].tag == *tag && strings_len(m->strings, i) == len &&
            memcmp(strings_get(m->strings, i), data, len) == 0)
            break;
    }
    return &m->slots[at];
}

int strmap_init(struct strmap *m, const struct strings *s)
{
    uint64_t size = table_size(s->n);
    m->mask = size - 1;
    m->strings = s;
    m->slots = malloc(size * sizeof *m->slots);
    if (m->slots == NULL)
        return -1;
    for (uint64_t i = 0; i < size; i++)
        m->slots[i] = (struct strmap_slot){ .index = MAP_NONE };
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t tag;
        struct strmap_slot *slot = strmap_slot(m, strings_get(s, i), strings_len(s, i), &tag);
        *slot = (struct strmap_slot){ .tag = tag, .index = (int32_t)i };
    }
    return 0;
}

void strmap_fini(struct strmap *m)
{
    free(m->slots);
    m->slots = NULL;
}

int32_t strmap_get(const struct strmap *m, const char *data, size_t len)
{
    uint32_t tag;
    return len > 0 ? strmap_slot(m, data, len, &tag)->index : MAP_NONE;
}
