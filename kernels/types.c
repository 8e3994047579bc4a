/* SPDX-License-Identifier: Apache-2.0
 *
 * types.c - what is known of every tensor type of the GGUF format.
 *
 * Block formats, all little endian; "f16" is IEEE half precision; j runs over a block of 32, low
 * nibbles are j < 16 and high nibbles j >= 16 unless stated:
 *   Q4_0   f16 d, 16 bytes                    w = d * (q - 8)
 *   Q4_1   f16 d, f16 m, 16 bytes             w = d * q + m
 *   Q5_0   f16 d, u32 high bits, 16 bytes     w = d * (q - 16), bit j of the word is q's fifth bit
 *   Q5_1   f16 d, f16 m, u32, 16 bytes        w = d * q + m
 *   Q8_0   f16 d, 32 int8                     w = d * q
 *   IQ4_NL f16 d, 16 bytes                    w = d * table[q]
 *   MXFP4  u8 exponent, 16 bytes              w = 2^(e - 128) * table[q]
 * and of 256, in sub-blocks of 16 or 32 with their own small scales: see unpack.h.
 */
#include "kernels/internal.h"

#define BLOCK(type_name, values, bytes, group, min)                                                \
    {                                                                                              \
        .name = (type_name), .block_values = (values), .block_bytes = (bytes),                     \
        .group_values = (group), .has_min = (min), .supported = true                               \
    }
/* Known by size only, so that a file which holds one can be read and the refusal can name it. */
#define SIZED(type_name, values, bytes)                                                            \
    {                                                                                              \
        .name = (type_name), .block_values = (values), .block_bytes = (bytes)                      \
    }

static const struct kern_type_info types[KERN_N_TYPES] = {
    [KERN_TYPE_F32] = BLOCK("F32", 1, 4, 0, false),
    [KERN_TYPE_F16] = BLOCK("F16", 1, 2, 0, false),
    [KERN_TYPE_BF16] = BLOCK("BF16", 1, 2, 0, false),
    [KERN_TYPE_Q4_0] = BLOCK("Q4_0", 32, 18, 32, false),
    [KERN_TYPE_Q4_1] = BLOCK("Q4_1", 32, 20, 32, true),
    [KERN_TYPE_Q5_0] = BLOCK("Q5_0", 32, 22, 32, false),
    [KERN_TYPE_Q5_1] = BLOCK("Q5_1", 32, 24, 32, true),
    [KERN_TYPE_Q8_0] = BLOCK("Q8_0", 32, 34, 32, false),
    [KERN_TYPE_Q2_K] = BLOCK("Q2_K", 256, 84, 16, true),
    [KERN_TYPE_Q3_K] = BLOCK("Q3_K", 256, 110, 16, false),
    [KERN_TYPE_Q4_K] = BLOCK("Q4_K", 256, 144, 32, true),
    [KERN_TYPE_Q5_K] = BLOCK("Q5_K", 256, 176, 32, true),
    [KERN_TYPE_Q6_K] = BLOCK("Q6_K", 256, 210, 16, false),
    [KERN_TYPE_Q8_K] = BLOCK("Q8_K", 256, 292, 32, false),
    [KERN_TYPE_IQ4_NL] = BLOCK("IQ4_NL", 32, 18, 32, false),
    [KERN_TYPE_IQ4_XS] = BLOCK("IQ4_XS", 256, 136, 32, false),
    [KERN_TYPE_MXFP4] = BLOCK("MXFP4", 32, 17, 32, false),
    [9] = SIZED("Q8_1", 32, 36),
    [16] = SIZED("IQ2_XXS", 256, 66),
    [17] = SIZED("IQ2_XS", 256, 74),
    [18] = SIZED("IQ3_XXS", 256, 98),
    [19] = SIZED("IQ1_S", 256, 50),
    [21] = SIZED("IQ3_S", 256, 110),
    [22] = SIZED("IQ2_S", 256, 82),
    [24] = SIZED("I8", 1, 1),
    [25] = SIZED("I16", 1, 2),
    [26] = SIZED("I32", 1, 4),
    [27] = SIZED("I64", 1, 8),
    [28] = SIZED("F64", 1, 8),
    [29] = SIZED("IQ1_M", 256, 56),
    [34] = SIZED("TQ1_0", 256, 54),
    [35] = SIZED("TQ2_0", 256, 66),
};

static const struct kern_type_info unknown_type = { .name = "unknown" };

const struct kern_type_info *kern_type_info(uint32_t type)
{
    if (type >= KERN_N_TYPES || !types[type].name)
        return &unknown_type;
    return &types[type];
}

bool kern_type_is_quantised(uint32_t type)
{
    return kern_type_info(type)->group_values != 0;
}

/* How many tokens a block has at most. */
static uint32_t most_block_tokens(uint32_t type, uint32_t n_cols)
{
    bool is_quantised = kern_type_is_quantised(type);
    /* Of a block of 32: its codes, a scale and a sum; or floats. */
    size_t token_bytes = is_quantised ? (size_t)n_cols * 5 / 4 : (size_t)n_cols * sizeof(float);
    /* So many that unpacking the weights again for each block is a small part of it. */
    size_t least = is_quantised ? 96 : 24, most = is_quantised ? UINT32_MAX : FLOAT_BLOCK_TOKENS;
    size_t fit = ((size_t)1 << 20) / (token_bytes ? token_bytes : 1);
    fit = fit < least ? least : fit;
    return (uint32_t)(fit < most ? fit : most);
}

uint32_t kern_block_tokens(uint32_t type, uint32_t n_cols, uint32_t n_tokens)
{
    uint32_t most = most_block_tokens(type, n_cols);
    uint32_t n_blocks = n_tokens > most ? (n_tokens + most - 1) / most : 1;
    return n_tokens > 0 ? (n_tokens + n_blocks - 1) / n_blocks : 1;
}

size_t kern_bounds_bytes(uint32_t page_tokens, uint32_t head_dim)
{
    return (size_t)(page_tokens / KERN_ATTN_TILE) * 2 * head_dim * sizeof(uint16_t);
}

size_t kern_kv_bytes(enum kern_kv kv, uint32_t page_tokens, uint32_t head_dim)
{
    size_t values = (size_t)page_tokens * head_dim, bytes;
    if (kv == KERN_KV_Q8)
        bytes = kern_q8_v_factors(page_tokens, 2 * page_tokens, head_dim);
    else
        bytes = 2 * values * (kv == KERN_KV_F32 ? sizeof(float) : sizeof(uint16_t));
    return (bytes + 63) / 64 * 64;
}
