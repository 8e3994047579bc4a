/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the variants share: constants, the page layout, the tables of all variants.
 */
#ifndef LACUNA_KERNELS_INTERNAL_H
#define LACUNA_KERNELS_INTERNAL_H

#include "kernels/kernels.h"

/* Tokens that a product with F32, F16 or BF16 weights takes at once, at most: their sums lie on the stack. */
enum { FLOAT_BLOCK_TOKENS = 96 };

/* For what is called in loops with constants that settle its branches: the compiler leaves it alone where
 * it is large, or where sanitizers make it so. */
#define KERN_INLINE static inline __attribute__((always_inline))

/* Asks for the lines of what is read soon and once: into the second-level cache, which can wait for more lines at a
 * time than the first.  Of what streams by, half as much again comes from memory, and up to twice as much where streams
 * are short.  Asking beyond the end does no harm. */
KERN_INLINE void prefetch_stream(const uint8_t *p, size_t bytes)
{
    enum { LINE = 64, SECOND_LEVEL = 2 };
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch(p + i, 0, SECOND_LEVEL);
}

#define KERN_F16_MAX 65504.0f /* larger keys and values are stored as this, not as infinity */
#define KERN_Q8_TINY 1e-30f   /* a query that is no larger than this is as good as 0 */
#define KERN_GELU_CUBIC 0.044715f
#define KERN_SQRT_2_OVER_PI 0.79788456080286535588f

/* exp: x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that n times the first is exact;
 * the polynomial 1 + r + r^2 (C2 + C3 r + ...) is off by at most 3.1e-9 of exp(r) there. */
#define KERN_EXP_MIN (-87.0f)
#define KERN_EXP_MAX 88.0f
#define KERN_LOG2_E 1.44269504088896341f
#define KERN_LN2_HIGH 0.693145751953125f
#define KERN_LN2_LOW 1.42860682030941723212e-6f
#define KERN_EXP_C6 1.381469192e-03f
#define KERN_EXP_C5 8.368718438e-03f
#define KERN_EXP_C4 4.166838527e-02f
#define KERN_EXP_C3 1.666652113e-01f
#define KERN_EXP_C2 4.999999404e-01f

extern const struct kern_table kern_ref;
#if defined(__x86_64__)
extern const struct kern_table kern_avx2;
extern const struct kern_table kern_avxvnni;
extern const struct kern_table kern_avx512vnni;
const struct kern_table *kern_avx512amx(void);
#elif defined(__aarch64__)
extern const struct kern_table kern_neondot;
extern const struct kern_table kern_neoni8mm;
#endif

float kern_bf16_to_f32(uint16_t h);

/* ---- pack.c ---- */

struct unpacked;
/* Columns [col, col + n) of a row of a packed matrix, as unpack() has them of one in rows; n at most
 * 256, both multiples of the type's block. */
void packed_unpack(const struct kern_matrix *w, size_t row, uint32_t col, uint32_t n,
                   const struct unpacked *out);

/* Scalar kernels that a variant may take over as they are: nothing to gain from vectors. */
void ref_dequantise(enum kern_type type, const void *src, float *dst, size_t n);

/* ---- ref_attend.c ---- */

float ref_tree(const float *lane); /* the tree of kernels.h over 16 lanes (ref.c) */
void ref_kv_store(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot, uint32_t n,
                  uint32_t head_dim, const float *k, const float *v, size_t stride);
void ref_kv_seal(void *page, uint32_t page_tokens, const void *const *parts, uint32_t part_tokens,
                 uint32_t head_dim);
void ref_kv_bounds(const void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t head_dim,
                   uint16_t *bounds);
void ref_score_pages(const float *q, const float *size, const uint16_t *const *bounds, uint32_t n,
                     uint32_t n_tiles, uint32_t head_dim, float *score);
void ref_attend(const struct kern_attend *a);
void ref_attend_fold(float *m, float *l, float *o, float m_i, float l_i, const float *o_i,
                     uint32_t head_dim);
void ref_attend_last(const float *q, const float *k, const float *v, float softcap,
                     uint32_t head_dim, float *m, float *l, float *o);

/* The page of one KV head in F16 or F32: K tiles [page_tokens / 32][head_dim][32], then V
 * [page_tokens][head_dim]. Where, in elements, the tile begins that holds a slot (in Q8, too, whose
 * codes are bytes), and a slot's row of V. */
static inline size_t kern_k_tile(uint32_t slot, uint32_t head_dim)
{
    return (size_t)(slot / KERN_ATTN_TILE) * KERN_ATTN_TILE * head_dim;
}

static inline size_t kern_v_row(uint32_t page_tokens, uint32_t slot, uint32_t head_dim)
{
    return ((size_t)page_tokens + slot) * head_dim;
}

/* Of a page of Q8, in bytes (kernels.h): where the factors of a tile of keys begin, lo then step;
 * the codes of a token's values; and their lo, whose step lies page_tokens further. */
static inline size_t kern_q8_k_factors(uint32_t page_tokens, uint32_t slot, uint32_t head_dim)
{
    return ((size_t)page_tokens + (size_t)(slot / KERN_ATTN_TILE) * 2 * sizeof(uint16_t)) *
           head_dim;
}

static inline size_t kern_q8_v_codes(uint32_t page_tokens, uint32_t slot, uint32_t head_dim)
{
    return kern_q8_k_factors(page_tokens, page_tokens, head_dim) + (size_t)slot * head_dim;
}

static inline size_t kern_q8_v_factors(uint32_t page_tokens, uint32_t slot, uint32_t head_dim)
{
    return kern_q8_v_codes(page_tokens, page_tokens, head_dim) + sizeof(uint16_t) * slot;
}

/* Of a channel whose keys in a tile lie in [least, most]: the middle, and what reaches from there to both ends. */
static inline void kern_bound(float least, float most, uint16_t *middle, uint16_t *half)
{
    *middle = kern_f32_to_f16(0.5f * least + 0.5f * most);
    float m = kern_f16_to_f32(*middle), above = most - m, below = m - least;
    float reach = above > below ? above : below;
    *half = kern_f32_to_f16(reach);
    if (kern_f16_to_f32(*half) < reach)
        ++*half; /* the next larger one, or infinity */
}

/* What a page of Q8 has instead of the keys. */
static inline void kern_q8_bounds(const uint16_t *factors, uint32_t head_dim, uint16_t *bounds)
{
    for (uint32_t c = 0; c < head_dim; c++) {
        float lo = kern_f16_to_f32(factors[c]), step = kern_f16_to_f32(factors[head_dim + c]);
        kern_bound(lo, lo + 255.0f * step, &bounds[c], &bounds[head_dim + c]);
    }
}

/* The visible tokens of query i, relative to the item's first; 0 and 0 if there are none. */
static inline void kern_attend_range(const struct kern_attend *a, uint32_t i, uint32_t *first,
                                     uint32_t *end)
{
    uint32_t item_end = a->item_first + KERN_ATTN_ITEM;
    uint32_t f = a->first[i] > a->item_first ? a->first[i] : a->item_first;
    uint32_t e = a->end[i] < item_end ? a->end[i] : item_end;
    *first = e > f ? f - a->item_first : 0;
    *end = e > f ? e - a->item_first : 0;
}

#endif
