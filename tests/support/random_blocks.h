/* SPDX-License-Identifier: Apache-2.0
 *
 * random_blocks.h - random inputs for kernel tests: weights of any tensor type whose scales are
 * ordinary numbers, floats, activation buffers.
 */
#ifndef LACUNA_TESTS_RANDOM_BLOCKS_H
#define LACUNA_TESTS_RANDOM_BLOCKS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline float random_float(uint64_t *state) /* -1 .. 1 */
{
    return (float)(random_next(state) >> 40) / (float)(1 << 23) - 1.0f;
}

static inline float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(&seed) * 2.0f;
    return x;
}

static inline size_t random_row_bytes(enum kern_type type, uint32_t cols)
{
    const struct kern_type_info *info = kern_type_info(type);
    return (size_t)cols / info->block_values * info->block_bytes;
}

/* Overwrites what is a scale by an ordinary number: noise there would be infinite or NaN. */
static inline void random_set_scales(enum kern_type type, uint8_t *block, uint64_t *state)
{
    static const struct {
        enum kern_type type;
        int at[2]; /* offsets of f16 fields, -1: none */
    } fields[] = {
        { KERN_TYPE_Q4_0, { 0, -1 } },   { KERN_TYPE_Q4_1, { 0, 2 } },
        { KERN_TYPE_Q5_0, { 0, -1 } },   { KERN_TYPE_Q5_1, { 0, 2 } },
        { KERN_TYPE_Q8_0, { 0, -1 } },   { KERN_TYPE_IQ4_NL, { 0, -1 } },
        { KERN_TYPE_IQ4_XS, { 0, -1 } }, { KERN_TYPE_Q2_K, { 80, 82 } },
        { KERN_TYPE_Q3_K, { 108, -1 } }, { KERN_TYPE_Q4_K, { 0, 2 } },
        { KERN_TYPE_Q5_K, { 0, 2 } },    { KERN_TYPE_Q6_K, { 208, -1 } },
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        for (int f = 0; f < 2 && fields[i].type == type; f++) {
            uint16_t h = kern_f32_to_f16(random_float(state) * 0.1f);
            if (fields[i].at[f] >= 0)
                memcpy(block + fields[i].at[f], &h, 2);
        }
    if (type == KERN_TYPE_MXFP4)
        block[0] = (uint8_t)(115 + random_next(state) % 12);
    if (type == KERN_TYPE_Q8_K) {
        float d = random_float(state) * 0.01f;
        memcpy(block, &d, 4);
    }
}

static inline void *random_rows(enum kern_type type, uint32_t rows, uint32_t cols, uint64_t seed)
{
    const struct kern_type_info *info = kern_type_info(type);
    size_t n_blocks = (size_t)rows * (cols / info->block_values);
    uint8_t *data = malloc(n_blocks * info->block_bytes);
    for (size_t i = 0; i < n_blocks * info->block_bytes; i++)
        data[i] = (uint8_t)random_next(&seed);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = data + b * info->block_bytes;
        float f = random_float(&seed);
        uint16_t h = kern_f32_to_f16(f);
        if (type == KERN_TYPE_F32)
            memcpy(block, &f, 4);
        else if (type == KERN_TYPE_F16)
            memcpy(block, &h, 2);
        else if (type == KERN_TYPE_BF16)
            memcpy(block, (const char *)&f + 2, 2);
        else
            random_set_scales(type, block, &seed);
    }
    return data;
}

/* All bytes the same, but the scales. */
static inline void random_fill_bytes(uint8_t *data, enum kern_type type, uint32_t rows,
                                     uint32_t cols, int byte)
{
    const struct kern_type_info *info = kern_type_info(type);
    size_t n_blocks = (size_t)rows * (cols / info->block_values);
    uint64_t state = 11;
    memset(data, byte, n_blocks * info->block_bytes);
    for (size_t b = 0; b < n_blocks; b++)
        random_set_scales(type, data + b * info->block_bytes, &state);
}

static inline void random_act_init(struct kern_act *act, uint32_t rows, uint32_t cols)
{
    size_t n = (size_t)rows * (cols + KERN_BLOCK);
    act->n_cols = cols;
    act->q = malloc(n);
    act->d = malloc(n / KERN_BLOCK * sizeof(float) + 64);
    act->start32 = malloc(n / 32 * sizeof(int32_t) + 64);
    act->start16 = malloc(n / 16 * sizeof(int32_t) + 64);
    act->xs32 = malloc(n / 32 * sizeof(float) + 64);
    act->xs16 = malloc(n / 16 * sizeof(float) + 64);
}

static inline void random_act_quantise(const struct kern_table *k, const float *x,
                                       struct kern_act *act, uint32_t n_rows)
{
    k->quantise(x, act->n_cols, act, 0, n_rows, 0, act->n_cols);
}

static inline void random_act_fini(struct kern_act *act)
{
    free(act->q);
    free(act->d);
    free(act->start32);
    free(act->start16);
    free(act->xs32);
    free(act->xs16);
}

#endif
