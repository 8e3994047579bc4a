/* SPDX-License-Identifier: Apache-2.0
 *
 * weights.h - the tensors of a model by their role.  Views into the loaded file or its panels
 * (repack.h), but for vectors and unaligned tensors, which are copied.
 *
 * Every tensor of the file must have a role and the shape that the hyper-parameters say: a file
 * with a tensor that nobody reads would be computed wrongly.
 */
#ifndef LACUNA_ENGINE_WEIGHTS_H
#define LACUNA_ENGINE_WEIGHTS_H

#include "engine/model/config.h"

/* n matrices of the same shape, one after the other; or, without data, read on demand (experts.h). */
struct expert_matrix {
    struct kern_matrix first;
    size_t stride; /* bytes from one expert to the next */
};

/* A vector of F32, or NULL where the model has none. */
struct layer_weights {
    const float *attn_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm;
    const float *q_norm, *k_norm;
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    const float *gate_bias, *up_bias, *down_bias;
    struct kern_matrix q, k, v, o; /* with fused_qkv: parts of one */
    struct kern_matrix gate, up, down;
    /* up and down once more, for neurons that are zero; n_rows 0: no. */
    struct kern_matrix up_rows, down_columns;
    struct kern_matrix router; /* n_rows 0: a dense layer */
    struct expert_matrix gate_experts, up_experts, down_experts;
    struct kern_matrix shared_router;                       /* one row; n_rows 0: none */
    struct kern_matrix shared_gate, shared_up, shared_down; /* n_rows 0: none */
};

struct weights {
    struct kern_matrix embed;  /* [n_vocab][n_embd] */
    struct kern_matrix output; /* [n_vocab][n_embd]; may be embed */
    const float *output_norm;
    struct layer_weights *layer;
    void **owned; /* copies */
    size_t n_owned, cap_owned;
};

struct repack;

/* The file must be loaded, and `packed` have taken what it wants (NULL: nothing).  On failure *w is to
 * be given to weights_fini all the same. */
int weights_find(struct weights *w, const struct gguf *g, const struct repack *packed,
                 const struct model_shape *shape, struct engine_err *err);
void weights_fini(struct weights *w);

/* Calls fn for every matrix that a step reads from memory, in its order; not for experts on demand. */
void weights_each(const struct weights *w, const struct model_shape *shape,
                  void (*fn)(void *ctx, const struct kern_matrix *m), void *ctx);

/* A hash of some of the weights themselves, in whatever layout: models of the same shape that were trained otherwise have
 * another. */
uint64_t weights_identity(const struct weights *w, const struct model_shape *shape);

/* The view of rows [row0, row0 + n) of a matrix; in panels, row0 is a multiple of KERN_PANEL_ROWS. */
struct kern_matrix weights_rows(const struct kern_matrix *m, uint32_t row0, uint32_t n);
/* Without data, if experts are on demand. */
struct kern_matrix weights_expert(const struct expert_matrix *m, uint32_t e);

#endif
