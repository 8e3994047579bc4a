/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels.h - all arithmetic of the engine, one table of functions per instruction set.
 *
 * Two ideas:
 *  1. A kernel has no state, cannot fail and knows no threads: it gets a range and fills it.
 *  2. Every kernel follows one *canonical order*, stated here, so that each variant, batch size,
 *     chunking and thread count gives the same bits (on every ISA that has a fused multiply-add).
 *
 * The canonical order
 * -------------------
 * fma(a, b, c) below is one IEEE binary32 fused multiply-add; nothing else is ever contracted.
 *
 * Activations times quantised weights.  A row x of K activations is quantised once, in blocks of 32:
 *     d_b = max|x| / 127,   q_i = round-to-nearest-even(x_i / d_b)  in -127..127   (0 if d_b == 0)
 *     (an infinity or NaN in the block: d_b is NaN, all q_i are 0, and so the outputs are NaN)
 * A weight type stores groups of 16 or 32 weights; group g has
 *     w_i = s_g * (u_i - zero) + m_g        u_i in 0..255, zero an integer of the type,
 * s_g and m_g binary32 (exact products of the stored half-precision and small integer factors).
 * With b the block of group g:
 *     dot_g = sum over the group of (u_i - zero) * q_i          exact, int32
 *     xs_g  = d_b * float(sum over the group of q_i)
 *     acc   = fma(s_g * d_b, float(dot_g), acc)                 groups ascending, acc starts at +0
 *     acc   = fma(m_g, xs_g, acc)                               only for types that have a minimum
 * One accumulator per output.  Integer sums are exact, so a kernel may order them at will: rows can
 * be interleaved by 8 or 16, matrices transposed block by block, and neurons whose activation is
 * zero skipped, without changing a bit (for one block whose d_b the skipping left as it was): what a
 * group of zeros adds is 0, unless d_b is NaN, and so it is skipped only where d_b is none.  (A scale
 * of the weights that is no number is seen only where it is multiplied.)
 *
 * F32, F16 and BF16 weights (activations stay binary32; weights are widened exactly):
 *     lane[i % 16] = fma(w_i, x_i, lane[i % 16])                i ascending, lanes start at +0
 *     sum of the lanes: t[i] += t[i + 8], then + 4, + 2, + 1    ("the tree")
 *
 * Norms: the sum of squares by 16 lanes and the tree, as above.
 * Attention: for each query, tokens are taken in items of KERN_ATTN_ITEM by absolute position;
 *     s_j = sum over channels, ascending, one accumulator: s = fma(q_c, k_jc, s)
 *     m = max s_j;  p_j = kern_exp(s_j - m);  l: lane[j % 16] += p_j, then the tree
 *     o_c = fma(p_j, v_jc, o_c), j ascending
 * and items are folded in ascending order (kern_table.attend_fold).  Pages hold F16 (or F32); a query's own
 * token is not read from there but folded last, unrounded (attend_last): in short contexts that
 * halves the error of F16, and it depends on nothing but the position.
 *
 * Pages of 8 bits hold codes u in 0..255 and binary16 factors: keys per channel c and tile of 32
 * tokens, k = lo_c + step_c u; values per token j, v = lo_j + step_j u (KIVI, arXiv:2402.02750).
 *     lo = the smallest value (never -0), step = (the largest - lo) / 255 rounded to binary16,
 *     u = round-to-nearest-even(min((x - lo) * (1 / step), 255))           0 if step is 0
 *     (a NaN among the values: lo and step are NaN, all u are 0)
 * A query is quantised anew for each tile, so that sums are integers; around the middle of the
 * codes, so that what it loses is lost for all tokens of the tile alike:
 *     w_c = q_c * step_c,   d = max|w| / 127,   q8_c = round-to-nearest-even(w_c * (127 / max|w|))
 *     base = sum of q_c * fma(128, step_c, lo_c)                           by 16 lanes and the tree
 *     (max|w| at most 1e-30: all q8_c are 0; a NaN in the query or the factors, or max|w| infinite:
 *     the scores are NaN)
 *     s_j = fma(d, float(sum over c of q8_c * (u_jc - 128)), base)
 *     o_c = fma(p_j * step_j, float(u_jc), o_c), j ascending; then + the sum of p_j * lo_j, by 16
 *     lanes (j % 16, fma) and the tree
 * Items of sealed pages, by absolute position, are followed by the open page, still in F16, as an
 * item that begins at its first token, and by the query's own token.
 *
 * The type numbers are those of the GGUF format.
 */
#ifndef LACUNA_KERNELS_H
#define LACUNA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kern_type {
    KERN_TYPE_F32 = 0,
    KERN_TYPE_F16 = 1,
    KERN_TYPE_Q4_0 = 2,
    KERN_TYPE_Q4_1 = 3,
    KERN_TYPE_Q5_0 = 6,
    KERN_TYPE_Q5_1 = 7,
    KERN_TYPE_Q8_0 = 8,
    KERN_TYPE_Q2_K = 10,
    KERN_TYPE_Q3_K = 11,
    KERN_TYPE_Q4_K = 12,
    KERN_TYPE_Q5_K = 13,
    KERN_TYPE_Q6_K = 14,
    KERN_TYPE_Q8_K = 15,
    KERN_TYPE_IQ4_NL = 20,
    KERN_TYPE_IQ4_XS = 23,
    KERN_TYPE_BF16 = 30,
    KERN_TYPE_MXFP4 = 39,
    KERN_N_TYPES = 40, /* numbers are below this; see kern_type_info for which are supported */
};

/* What is known of a tensor type.  Also types that no kernel computes with have a row, so that a
 * refusal can name them; `supported` tells the difference. */
struct kern_type_info {
    const char *name;      /* "Q4_K" */
    uint16_t block_values; /* weights in one block, a power of two; 0: unknown number */
    uint16_t block_bytes;
    uint8_t group_values; /* 16 or 32; 0 for F32, F16, BF16 */
    bool has_min;
    bool supported;
};

/* Never NULL.  An unknown number gives a row with name "unknown" and block_values 0. */
const struct kern_type_info *kern_type_info(uint32_t type);

/* Does the type read quantised activations?  F32, F16 and BF16 do not. */
bool kern_type_is_quantised(uint32_t type);

/* How many of n_tokens a product takes at once, in blocks of about one size: so many that the inputs of a block
 * stay in a second-level cache of 1 MiB for all rows.  mul_mat does so by itself; who calls it with few rows at a
 * time does well to do the same.  At least 1. */
uint32_t kern_block_tokens(uint32_t type, uint32_t n_cols, uint32_t n_tokens);

/* How a matrix lies in memory. */
enum kern_layout {
    KERN_LAYOUT_ROWS, /* row after row of the type's blocks, as files have it */
    /* Quantised types, as kern_pack makes them: */
    KERN_LAYOUT_PANELS, /* 16 rows side by side: fastest where all columns are wanted */
    KERN_LAYOUT_COLUMNS, /* by column: those of inputs that are 0 are not read, where tokens are few */
};

/* A matrix: n_rows outputs of n_cols inputs. */
struct kern_matrix {
    const void *data; /* panels and columns: aligned to 64 bytes */
    enum kern_type type;
    enum kern_layout layout;
    uint32_t n_rows;
    uint32_t n_cols;  /* a multiple of the type's block_values */
    size_t row_bytes; /* of a matrix in rows */
};

/* Moves whenever panels are laid out otherwise than before: they are also written to files. */
enum { KERN_PANELS_VERSION = 1 };

/* Rows that lie together, and are packed together: 1, KERN_PANEL_ROWS, KERN_COLUMN_ROWS. */
uint32_t kern_layout_rows(enum kern_layout layout);

/* Bytes of a quantised matrix in panels or columns: those of its rows, but for padding to whole panels (of
 * columns: to KERN_COLUMN_ROWS) and lines of 64 bytes. */
size_t kern_packed_bytes(enum kern_layout layout, enum kern_type type, uint32_t n_rows,
                         uint32_t n_cols);

/* Bytes of a matrix in its layout; of its first n rows, if n_rows is set to n. */
size_t kern_matrix_bytes(const struct kern_matrix *w);

/* Writes pieces [piece0, piece1) (of kern_layout_rows rows) of a matrix in rows into the packed matrix that
 * begins at dst. */
void kern_pack(const struct kern_matrix *rows, enum kern_layout layout, uint32_t piece0,
               uint32_t piece1, void *dst);

/* dst[0 .. n_cols) = the values of a row, of any supported type and layout. */
void kern_row(const struct kern_matrix *w, uint32_t row, float *dst);

enum {
    KERN_BLOCK = 32,        /* activations that share one scale */
    KERN_PANEL_ROWS = 16,   /* outputs computed together; row ranges start at a multiple of it */
    KERN_COLUMN_ROWS = 128, /* in columns: row ranges that start at a multiple of it are fastest */
    KERN_TILE_ROWS = 32,    /* row ranges of a multiple of it are fastest */
    KERN_ATTN_ITEM = 1024,  /* tokens per attention item */
    KERN_ATTN_TILE = 32,    /* tokens per tile of the K layout */
    KERN_ATTN_MAX_QUERIES = 48, /* queries per call of attend: the more, the better */
    KERN_MAX_HEAD_DIM = 512,
};

/* n_rows quantised activation rows of n_cols (a multiple of KERN_BLOCK); see "canonical order".
 * The caller owns the arrays; strides are implied: row r starts at r * (count per row). */
struct kern_act {
    int8_t *q; /* [n_rows][n_cols] */
    float *d;  /* [n_rows][n_cols / 32] */
    /* By groups of 32 and of 16: the sum of q times -128, with which the sum of (w + 128) q begins that shall
     * be the one of w q; and xs_g. */
    int32_t *start32; /* [n_rows][n_cols / 32] */
    int32_t *start16; /* [n_rows][n_cols / 16] */
    float *xs32;      /* [n_rows][n_cols / 32] */
    float *xs16;      /* [n_rows][n_cols / 16] */
    uint32_t n_cols;
};

/* The input of a product: both forms of the same rows; only the one the weights need is read. */
struct kern_input {
    const float *x;             /* [n_rows][n_cols] */
    const struct kern_act *act; /* NULL where no quantised matrix reads it */
};

/* What pages hold of keys and values. */
enum kern_kv {
    KERN_KV_F16, /* saturating */
    KERN_KV_F32,
    KERN_KV_Q8, /* 8 bits, made of whole pages of F16 by kv_seal */
};

/* Bytes of one KV head's page, a multiple of 64.  page_tokens: a multiple of KERN_ATTN_TILE. */
size_t kern_kv_bytes(enum kern_kv kv, uint32_t page_tokens, uint32_t head_dim);
/* Of the bounds of its keys, the same. */
size_t kern_bounds_bytes(uint32_t page_tokens, uint32_t head_dim);

enum kern_activation {
    KERN_ACTIVATION_SILU,
    KERN_ACTIVATION_GELU, /* tanh form */
    KERN_ACTIVATION_RELU,
    KERN_ACTIVATION_RELU2, /* relu(x)^2 */
};

/* One attention item of one KV head: n_q queries (any mixture of rows and of the query heads that
 * share the KV head) against the tokens item_first .. item_first + KERN_ATTN_ITEM.
 *
 * A page of one KV head holds page_tokens tokens (a multiple of KERN_ATTN_TILE): in F16 and F32, K
 * as tiles [page_tokens / 32][head_dim][32], then V as [page_tokens][head_dim].  In Q8,
 *     K codes      [page_tokens / 32][head_dim / 4][32][4]      four channels of a token in a dword
 *     K lo, step   [page_tokens / 32][2][head_dim]
 *     V codes      [page_tokens][head_dim]
 *     V lo, step   [2][page_tokens] */
struct kern_attend {
    const float *q;           /* [n_q][head_dim], already scaled */
    const uint32_t *first;    /* [n_q] first visible token, absolute position */
    const uint32_t *end;      /* [n_q] one past the last visible token */
    const void *const *pages; /* of the item, by (position - item_first) / page_tokens;
                               * only those from the first to the last that queries see are
                               * read */
    uint32_t n_q;             /* 1 .. KERN_ATTN_MAX_QUERIES */
    uint32_t head_dim;        /* a multiple of 16, at most KERN_MAX_HEAD_DIM */
    uint32_t page_tokens;
    uint32_t item_first; /* a multiple of KERN_ATTN_ITEM; of page_tokens for an open page, which
                          * is an item of its own */
    enum kern_kv kv;     /* what the pages hold */
    float softcap;       /* 0: none; else s = softcap * tanh(s / softcap) */
    float *m;            /* [n_q] out: maximum; -INFINITY if the item holds nothing for the query */
    float *l;            /* [n_q] out: sum of p */
    float *o;            /* [n_q][head_dim] out: sum of p * v, not divided */
};

/* What can be multiplied, for comparisons. */
enum kern_peak {
    KERN_PEAK_INT8, /* as products with quantised weights do */
    KERN_PEAK_F32,  /* as attention does */
};

struct kern_table {
    const char
        *name; /* "ref", "avx2", "avxvnni", "avx512vnni", "avx512amx", "neondot", "neoni8mm" */

    /* dst[0..n) = the values of n weights, n a multiple of the block.  Any supported type. */
    void (*dequantise)(enum kern_type type, const void *src, float *dst, size_t n);

    /* Quantises rows [row0, row1), columns [col0, col1) (multiples of KERN_BLOCK), into act.  x is
     * the element (row0, col0); a row begins ldx values behind its predecessor. */
    void (*quantise)(const float *x, size_t ldx, struct kern_act *act, uint32_t row0, uint32_t row1,
                     uint32_t col0, uint32_t col1);

    /* y[t][r] = sum over c of w[r][c] * x[t][c] for r in [row0, row1), t in [t0, t1).
     * row0 is a multiple of KERN_PANEL_ROWS, row1 too unless it is w->n_rows.
     * y is the element (t0, row0); a token's outputs begin ldy values behind its predecessor's. */
    void (*mul_mat)(const struct kern_matrix *w, uint32_t row0, uint32_t row1,
                    const struct kern_input *x, uint32_t t0, uint32_t t1, float *y, size_t ldy);

    /* y[i] = sum over c of w[rows[i]][c] * x[t][c]: some rows of a matrix in rows, of any type, for one token.
     * Only these rows are read. */
    void (*mul_rows)(const struct kern_matrix *w, const uint32_t *rows, uint32_t n_rows,
                     const struct kern_input *x, uint32_t t, float *y);

    /* y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; y may be x. */
    void (*rms_norm)(const float *x, const float *weight, float eps, uint32_t n, float *y);

    /* y[i] += scale * x[i]  (an fma) */
    void (*add_scaled)(float *y, const float *x, float scale, size_t n);

    /* h[i] = activation(gate[i]) * up[i], or activation(gate[i]) if up is NULL; h may be gate. */
    void (*activate)(enum kern_activation kind, const float *gate, const float *up, float *h,
                     size_t n);

    /* x[i] = 0 where |x[i]| * weight[i] < limit; what is not a number stays. */
    void (*drop_below)(float *x, const float *weight, float limit, size_t n);

    /* list: the i with x[i] != 0, ascending, but for what is not a number.  Returns how many. */
    uint32_t (*list_nonzero)(const float *x, uint32_t n, uint32_t *list);

    /* Rotates the first 2 * n_pairs values of a head in place.  cos_sin holds n_pairs cosines, then
     * n_pairs sines.  interleaved: pairs (2i, 2i+1); else (i, i + n_pairs). */
    void (*rope)(float *head, const float *cos_sin, uint32_t n_pairs, bool interleaved);

    /* Writes the K and V of one head and n adjacent tokens into their page from `slot` (position %
     * page_tokens) on, as F16 or F32; those of a token lie `stride` values behind its predecessor's.
     * Sixteen at a time, from a slot that is a multiple of it, are fastest. */
    void (*kv_store)(void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t slot, uint32_t n,
                     uint32_t head_dim, const float *k, const float *v, size_t stride);

    /* Makes one head's page of Q8 from all its tokens in F16, which lie in page_tokens / part_tokens
     * pages of part_tokens each. */
    void (*kv_seal)(void *page, uint32_t page_tokens, const void *const *parts,
                    uint32_t part_tokens, uint32_t head_dim);

    /* The bounds of a page's keys, for choosing pages: of each tile and channel the middle of the keys' range, and no less
     * than half of its width, in binary16: [page_tokens / 32][2][head_dim]. */
    void (*kv_bounds)(const void *page, enum kern_kv kv, uint32_t page_tokens, uint32_t head_dim,
                      uint16_t *bounds);

    /* score[i]: no key of page i has a larger product with some queries, all taken together: the largest over its tiles of
     * the sum over c of q_c middle_c + size_c half_c (fma's in this order, c ascending, by 16 lanes and the tree), where q is
     * the sum of the queries, size that of their absolute values (Quest, arXiv 2406.10774).  bounds[i]: as above. */
    void (*score_pages)(const float *q, const float *size, const uint16_t *const *bounds,
                        uint32_t n, uint32_t n_tiles, uint32_t head_dim, float *score);

    void (*attend)(const struct kern_attend *a);

    /* Folds an item's partial into a query's running one, which starts as m = -INFINITY, l = 0,
     * o = 0:  M = max(*m, m_i), a = exp(*m - M), b = exp(m_i - M);
     * *l = fma(l_i, b, *l * a), o = fma(o_i, b, o * a), *m = M.  An item with m_i = -INFINITY
     * changes nothing. */
    void (*attend_fold)(float *m, float *l, float *o, float m_i, float l_i, const float *o_i,
                        uint32_t head_dim);

    /* Folds the query's own token, the last it sees, from K and V that were never rounded to F16:
     * s = q . k by 16 lanes and the tree, capped; then as attend_fold with (s, 1, v).  Then the
     * softmax is complete: o becomes o / *l. */
    void (*attend_last)(const float *q, const float *k, const float *v, float softcap,
                        uint32_t head_dim, float *m, float *l, float *o);

    /* For measuring: `n` times the instructions that multiply, in registers.  Returns how many
     * multiplications that was. */
    uint64_t (*peak)(enum kern_peak kind, uint32_t n);
    /* For measuring: reads bytes (a multiple of 64 is read, no more) once; the result is noise. */
    uint64_t (*read)(const void *p, size_t bytes);

    /* Index of the first of the largest of n > 0 values; 0 if none is a number. */
    uint32_t (*max_index)(const float *x, uint32_t n);
    /* The first i in [from, n) with x[i] > limit; n if there is none. */
    uint32_t (*first_above)(const float *x, uint32_t from, uint32_t n, float limit);
    /* Is none of n values an infinity or NaN? */
    bool (*all_finite)(const float *x, uint32_t n);

    /* Largest of n values, and the sum of kern_exp(x[i] - max) by 16 lanes and the tree. */
    void (*max_sum_exp)(const float *x, size_t n, float *max, float *sum);

    /* The sum of exp(p[i] - max) * (p[i] - q[i]), by 16 lanes (fma) and the tree: what the divergence of two rows of
     * logits is made of. */
    float (*sum_exp_diff)(const float *p, const float *q, size_t n, float max);
};

/* exp(x) by range reduction and a polynomial: same bits on every ISA, relative error below 2e-7,
 * 0 below -87.  The scalar form of what the vector kernels do. */
float kern_exp(float x);
float kern_f16_to_f32(uint16_t h);
uint16_t kern_f32_to_f16(float f); /* round to nearest even */

/* The processor's features, read by CPUID and XGETBV or from the kernel's HWCAP, never guessed. */
struct kern_cpu {
    bool fma_avx2; /* AVX2, FMA, F16C, BMI2 */
    bool avx_vnni; /* besides: the 256-bit VNNI without AVX-512 */
    bool avx512;   /* F, BW, DQ, VL */
    bool avx512_vnni;
    bool amx_int8;  /* besides, and the kernel lets this process use it */
    bool neon_dot;  /* arm64: SDOT, UDOT */
    bool neon_i8mm; /* arm64: USDOT */
};
struct kern_cpu kern_cpu_detect(void);

/* The best table this processor runs, or the one named max_isa (NULL or "" = the best that was proved:
 * "avx512amx" is taken by name alone).
 * Returns NULL if the name is unknown or not usable here: an error for the caller to report. */
const struct kern_table *kern_select(const char *max_isa);

/* All usable tables, best proved first; the last is always "ref". */
uint32_t kern_n_usable(void);
const struct kern_table *kern_usable(uint32_t i);

/* "avx512vnni, avx2, ref": every name that kern_select may take, for messages. */
const char *kern_names(void);

#endif
