/* SPDX-License-Identifier: Apache-2.0
 *
 * weights.c - names to views.
 */
#include "engine/hash.h"
#include "engine/model/weights.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf_internal.h"
#include "engine/model/repack.h"

struct finder {
    const struct gguf *g;
    const struct repack *packed;
    const struct model_shape *shape;
    struct weights *w;
    struct engine_err *err;
    const struct kern_table *kern; /* to widen vectors */
    uint8_t *used;                 /* per tensor of the file */
    int layer;                     /* -1: the model's own tensors */
    char name[96];                 /* of the tensor last looked for */
};

static const struct gguf_tensor *look_up(struct finder *f, const char *role)
{
    if (f->layer >= 0)
        snprintf(f->name, sizeof(f->name), "blk.%d.%s", f->layer, role);
    else
        snprintf(f->name, sizeof(f->name), "%s", role);
    const struct gguf_tensor *t = gguf_find_tensor(f->g, f->name);
    if (t)
        f->used[t - gguf_tensor_at(f->g, 0)] = 1;
    return t;
}

static int missing(struct finder *f)
{
    return engine_fail(f->err, ENGINE_ERR_FILE, "tensor \"%s\" is missing", f->name);
}

static int check_shape(struct finder *f, const struct gguf_tensor *t, uint64_t ne0, uint64_t ne1,
                       uint64_t ne2)
{
    if (!kern_type_info(t->type)->supported)
        return engine_fail(f->err, ENGINE_ERR_UNSUPPORTED,
                           "tensor \"%s\" has type %s (%u), which is not supported", t->name,
                           kern_type_info(t->type)->name, t->type);
    if (t->ne[0] == ne0 && t->ne[1] == ne1 && t->ne[2] == ne2 && t->ne[3] == 1)
        return 0;
    return engine_fail(
        f->err, ENGINE_ERR_FILE,
        "tensor \"%s\" is %llu x %llu x %llu x %llu; the metadata says %llu x %llu x "
        "%llu x 1",
        t->name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
        (unsigned long long)t->ne[2], (unsigned long long)t->ne[3], (unsigned long long)ne0,
        (unsigned long long)ne1, (unsigned long long)ne2);
}

/* Memory that lives as long as the weights, 64-byte aligned. */
static void *own(struct finder *f, size_t bytes)
{
    struct weights *w = f->w;
    if (w->n_owned == w->cap_owned) {
        size_t cap = w->cap_owned ? 2 * w->cap_owned : 64;
        void **grown = realloc(w->owned, cap * sizeof(*grown));
        if (!grown)
            goto fail;
        w->owned = grown;
        w->cap_owned = cap;
    }
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p) {
        w->owned[w->n_owned++] = p;
        return p;
    }
fail:
    engine_fail(f->err, ENGINE_ERR_MEMORY, "no memory for a copy of tensor \"%s\" (%zu bytes)",
                f->name, bytes);
    return NULL;
}

/* The kernels read numbers of 2 and 4 bytes where they lie; quantised blocks byte by byte. */
static const void *aligned_data(struct finder *f, const struct gguf_tensor *t)
{
    uintptr_t need = t->type == KERN_TYPE_F32                                ? 4
                     : t->type == KERN_TYPE_F16 || t->type == KERN_TYPE_BF16 ? 2
                                                                             : 1;
    if ((uintptr_t)t->data % need == 0)
        return t->data;
    void *copy = own(f, t->bytes);
    if (copy)
        memcpy(copy, t->data, t->bytes);
    return copy;
}

static int find_vector(struct finder *f, const char *role, uint32_t n, bool required,
                       const float **out)
{
    const struct gguf_tensor *t = look_up(f, role);
    if (!t)
        return required ? missing(f) : 0;
    if (check_shape(f, t, n, 1, 1) != 0)
        return -1;
    if (t->layout != KERN_LAYOUT_ROWS)
        return engine_fail(f->err, ENGINE_ERR_FILE, "tensor \"%s\" is a vector, and in panels",
                           t->name);
    float *copy = own(f, n * sizeof(float));
    if (!copy)
        return -1;
    const void *data = aligned_data(f, t);
    if (!data)
        return -1;
    f->kern->dequantise((enum kern_type)t->type, data, copy, n);
    *out = copy;
    return 0;
}

static struct kern_matrix shape_of(const struct gguf_tensor *t, uint32_t n_rows, uint32_t n_cols)
{
    const struct kern_type_info *info = kern_type_info(t->type);
    size_t row_bytes = (size_t)(n_cols / info->block_values) * info->block_bytes;
    return (struct kern_matrix){ .type = (enum kern_type)t->type,
                                 .layout = t->target,
                                 .n_rows = n_rows,
                                 .n_cols = n_cols,
                                 .row_bytes = row_bytes };
}

static int view(struct finder *f, const struct gguf_tensor *t, uint32_t n_rows, uint32_t n_cols,
                struct kern_matrix *out)
{
    *out = shape_of(t, n_rows, n_cols);
    out->data = out->layout == KERN_LAYOUT_ROWS ? aligned_data(f, t) : repack_find(f->packed, t);
    return out->data ? 0 : -1;
}

static int find_matrix(struct finder *f, const char *role, uint32_t n_rows, uint32_t n_cols,
                       bool required, struct kern_matrix *out)
{
    const struct gguf_tensor *t = look_up(f, role);
    if (!t)
        return required ? missing(f) : 0;
    return check_shape(f, t, n_cols, n_rows, 1) != 0 ? -1 : view(f, t, n_rows, n_cols, out);
}

/* The same matrix in its other layout, if it has one. */
static void find_twin(struct finder *f, const char *role, uint32_t n_rows, uint32_t n_cols,
                      struct kern_matrix *out)
{
    const struct gguf_tensor *t = look_up(f, role);
    const void *data = t ? repack_find_twin(f->packed, t) : NULL;
    if (!data)
        return;
    *out = shape_of(t, n_rows, n_cols);
    out->layout = t->twin;
    out->data = data;
}

static int find_experts(struct finder *f, const char *role, uint32_t n_rows, uint32_t n_cols,
                        struct expert_matrix *out)
{
    const struct gguf_tensor *t = look_up(f, role);
    if (!t)
        return missing(f);
    if (check_shape(f, t, n_cols, n_rows, f->shape->n_experts) != 0)
        return -1;
    if (t->on_demand) {
        out->first = shape_of(t, n_rows, n_cols);
        return 0;
    }
    if (view(f, t, n_rows, n_cols, &out->first) != 0)
        return -1;
    out->stride = kern_matrix_bytes(&out->first);
    return 0;
}

static int find_norms(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    bool pre = s->arch->norms != ARCH_NORMS_POST, post = s->arch->norms != ARCH_NORMS_PRE;
    uint32_t q = s->head_dim, k = s->head_dim;
    if (s->arch->qk_norm == ARCH_QK_NORM_ROW) {
        q *= s->n_heads;
        k *= s->n_kv_heads;
    }
    if (pre && (find_vector(f, "attn_norm.weight", s->n_embd, true, &l->attn_norm) != 0 ||
                find_vector(f, "ffn_norm.weight", s->n_embd, true, &l->ffn_norm) != 0))
        return -1;
    if (post &&
        (find_vector(f, "post_attention_norm.weight", s->n_embd, true, &l->attn_post_norm) != 0 ||
         find_vector(f, "post_ffw_norm.weight", s->n_embd, true, &l->ffn_post_norm) != 0))
        return -1;
    if (s->arch->qk_norm == ARCH_QK_NORM_NONE)
        return 0;
    return find_vector(f, "attn_q_norm.weight", q, true, &l->q_norm) != 0 ||
                   find_vector(f, "attn_k_norm.weight", k, true, &l->k_norm) != 0
               ? -1
               : 0;
}

/* A matrix that was stored as one is read as several: its rows are counted in panels, perhaps. */
static int check_split(struct finder *f, const struct kern_matrix *m, uint32_t row)
{
    assert(m->layout != KERN_LAYOUT_COLUMNS); /* repack.c: only matrices that nobody splits */
    if (m->layout == KERN_LAYOUT_ROWS || row % KERN_PANEL_ROWS == 0)
        return 0;
    return engine_fail(
        f->err, ENGINE_ERR_UNSUPPORTED,
        "tensor \"%s\" holds several matrices, and one begins at row %u, which is not a "
        "multiple of %u",
        f->name, row, KERN_PANEL_ROWS);
}

static int find_fused_qkv(struct finder *f, struct layer_weights *l, uint32_t q, uint32_t kv)
{
    struct kern_matrix all;
    const float *bias = NULL;
    if (find_matrix(f, "attn_qkv.weight", q + 2 * kv, f->shape->n_embd, true, &all) != 0 ||
        find_vector(f, "attn_qkv.bias", q + 2 * kv, false, &bias) != 0)
        return -1;
    if (check_split(f, &all, q) != 0 || check_split(f, &all, q + kv) != 0)
        return -1;
    l->q = weights_rows(&all, 0, q);
    l->k = weights_rows(&all, q, kv);
    l->v = weights_rows(&all, q + kv, kv);
    if (bias) {
        l->q_bias = bias;
        l->k_bias = bias + q;
        l->v_bias = bias + q + kv;
    }
    return 0;
}

static int find_qkv(struct finder *f, struct layer_weights *l, uint32_t q, uint32_t kv)
{
    uint32_t n = f->shape->n_embd;
    return find_matrix(f, "attn_q.weight", q, n, true, &l->q) != 0 ||
                   find_matrix(f, "attn_k.weight", kv, n, true, &l->k) != 0 ||
                   find_matrix(f, "attn_v.weight", kv, n, true, &l->v) != 0 ||
                   find_vector(f, "attn_q.bias", q, false, &l->q_bias) != 0 ||
                   find_vector(f, "attn_k.bias", kv, false, &l->k_bias) != 0 ||
                   find_vector(f, "attn_v.bias", kv, false, &l->v_bias) != 0
               ? -1
               : 0;
}

static int find_attention(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    /* Some converters split what others leave fused: take what the file has. */
    bool fused = s->arch->fused_qkv && look_up(f, "attn_qkv.weight");
    if ((fused ? find_fused_qkv(f, l, q, kv) : find_qkv(f, l, q, kv)) != 0)
        return -1;
    return find_matrix(f, "attn_output.weight", s->n_embd, q, true, &l->o) != 0 ||
                   find_vector(f, "attn_output.bias", s->n_embd, false, &l->o_bias) != 0
               ? -1
               : 0;
}

static int find_fused_gate_up(struct finder *f, struct layer_weights *l)
{
    uint32_t n = f->shape->n_ff;
    struct kern_matrix both, twin = { 0 };
    if (find_matrix(f, "ffn_up.weight", 2 * n, f->shape->n_embd, true, &both) != 0 ||
        check_split(f, &both, n) != 0)
        return -1;
    l->gate = weights_rows(&both, 0, n);
    l->up = weights_rows(&both, n, n);
    find_twin(f, "ffn_up.weight", 2 * n, f->shape->n_embd, &twin);
    if (twin.n_rows)
        l->up_rows = weights_rows(&twin, n, n);
    return 0;
}

static int find_gate_up(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    if (find_matrix(f, "ffn_up.weight", s->n_ff, s->n_embd, true, &l->up) != 0)
        return -1;
    find_twin(f, "ffn_up.weight", s->n_ff, s->n_embd, &l->up_rows);
    return s->arch->ungated ? 0
                            : find_matrix(f, "ffn_gate.weight", s->n_ff, s->n_embd, true, &l->gate);
}

static int find_dense(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    bool is_fused = s->arch->fused_gate_up && !look_up(f, "ffn_gate.weight");
    if ((is_fused ? find_fused_gate_up(f, l) : find_gate_up(f, l)) != 0)
        return -1;
    find_twin(f, "ffn_down.weight", s->n_embd, s->n_ff, &l->down_columns);
    return find_matrix(f, "ffn_down.weight", s->n_embd, s->n_ff, true, &l->down) != 0 ||
                   find_vector(f, "ffn_gate.bias", s->n_ff, false, &l->gate_bias) != 0 ||
                   find_vector(f, "ffn_up.bias", s->n_ff, false, &l->up_bias) != 0 ||
                   find_vector(f, "ffn_down.bias", s->n_embd, false, &l->down_bias) != 0
               ? -1
               : 0;
}

static int find_shared_expert(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    if (s->n_ff_shared == 0)
        return 0;
    if (s->arch->shared_expert_gated) {
        const struct gguf_tensor *t = look_up(f, "ffn_gate_inp_shexp.weight");
        if (!t)
            return missing(f);
        if (check_shape(f, t, s->n_embd, 1, 1) != 0 ||
            view(f, t, 1, s->n_embd, &l->shared_router) != 0)
            return -1;
    }
    return find_matrix(f, "ffn_gate_shexp.weight", s->n_ff_shared, s->n_embd, true,
                       &l->shared_gate) != 0 ||
                   find_matrix(f, "ffn_up_shexp.weight", s->n_ff_shared, s->n_embd, true,
                               &l->shared_up) != 0 ||
                   find_matrix(f, "ffn_down_shexp.weight", s->n_embd, s->n_ff_shared, true,
                               &l->shared_down) != 0
               ? -1
               : 0;
}

/* A layer of a mixture model may still be dense: its tensors say so. */
static int find_feed_forward(struct finder *f, struct layer_weights *l)
{
    const struct model_shape *s = f->shape;
    if (s->n_experts == 0 || !look_up(f, "ffn_gate_inp.weight"))
        return find_dense(f, l);
    if (find_matrix(f, "ffn_gate_inp.weight", s->n_experts, s->n_embd, true, &l->router) != 0 ||
        find_experts(f, "ffn_gate_exps.weight", s->n_ff_expert, s->n_embd, &l->gate_experts) != 0 ||
        find_experts(f, "ffn_up_exps.weight", s->n_ff_expert, s->n_embd, &l->up_experts) != 0 ||
        find_experts(f, "ffn_down_exps.weight", s->n_embd, s->n_ff_expert, &l->down_experts) != 0)
        return -1;
    return find_shared_expert(f, l);
}

static int find_model(struct finder *f)
{
    const struct model_shape *s = f->shape;
    struct weights *w = f->w;
    f->layer = -1;
    if (find_matrix(f, "token_embd.weight", s->n_vocab, s->n_embd, true, &w->embed) != 0 ||
        find_vector(f, "output_norm.weight", s->n_embd, true, &w->output_norm) != 0 ||
        find_matrix(f, "output.weight", s->n_vocab, s->n_embd, false, &w->output) != 0)
        return -1;
    if (w->output.n_rows == 0)
        w->output = w->embed;
    return 0;
}

/* Tensors that are read elsewhere or are of no use here. */
static bool is_known_elsewhere(const char *name)
{
    return strstr(name, "rope_freqs.weight") || strstr(name, "rope_factors_") ||
           strstr(name, ".attn_rot_embd") || strcmp(name, "lm_head_profiler.weight") == 0;
}

static int check_all_used(struct finder *f)
{
    for (uint64_t i = 0; i < gguf_n_tensors(f->g); i++) {
        const char *name = gguf_tensor_at(f->g, i)->name;
        if (!f->used[i] && !is_known_elsewhere(name))
            return engine_fail(f->err, ENGINE_ERR_UNSUPPORTED,
                               "tensor \"%s\" has no role in architecture %s",
                               gguf_quote(gguf_str_of(name)).text, f->shape->arch->name);
    }
    return 0;
}

static int find_all(struct finder *f)
{
    if (find_model(f) != 0)
        return -1;
    for (f->layer = 0; f->layer < (int)f->shape->n_layers; f->layer++) {
        struct layer_weights *l = &f->w->layer[f->layer];
        if (find_norms(f, l) != 0 || find_attention(f, l) != 0 || find_feed_forward(f, l) != 0)
            return -1;
    }
    return check_all_used(f);
}

int weights_find(struct weights *w, const struct gguf *g, const struct repack *packed,
                 const struct model_shape *shape, struct engine_err *err)
{
    struct finder f = {
        .g = g, .packed = packed, .shape = shape, .w = w, .err = err, .kern = kern_select("ref")
    };
    memset(w, 0, sizeof(*w));
    w->layer = calloc(shape->n_layers, sizeof(*w->layer));
    f.used = calloc(gguf_n_tensors(g) + 1, 1);
    int rc = w->layer && f.used
                 ? find_all(&f)
                 : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %u layers", shape->n_layers);
    free(f.used);
    return rc;
}

void weights_fini(struct weights *w)
{
    for (size_t i = 0; i < w->n_owned; i++)
        free(w->owned[i]);
    free(w->owned);
    free(w->layer);
    memset(w, 0, sizeof(*w));
}

void weights_each(const struct weights *w, const struct model_shape *shape,
                  void (*fn)(void *ctx, const struct kern_matrix *m), void *ctx)
{
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        const struct layer_weights *lw = &w->layer[l];
        const struct kern_matrix *dense[] = { &lw->q,           &lw->k,         &lw->v,
                                              &lw->o,           &lw->gate,      &lw->up,
                                              &lw->down,        &lw->router,    &lw->shared_router,
                                              &lw->shared_gate, &lw->shared_up, &lw->shared_down };
        const struct expert_matrix *experts[] = { &lw->gate_experts, &lw->up_experts,
                                                  &lw->down_experts };
        for (size_t i = 0; i < sizeof(dense) / sizeof(*dense); i++)
            if (dense[i]->n_rows)
                fn(ctx, dense[i]);
        for (size_t i = 0; i < 3 && experts[i]->first.data; i++)
            for (uint32_t e = 0; e < shape->n_experts; e++) {
                struct kern_matrix one = weights_expert(experts[i], e);
                fn(ctx, &one);
            }
    }
    fn(ctx, &w->output);
}

static uint64_t hash_row(const struct kern_matrix *m, uint64_t hash)
{
    float *row = m->n_rows && m->data ? malloc(m->n_cols * sizeof(*row)) : NULL;
    if (!row)
        return hash;
    kern_row(m, m->n_rows / 2, row);
    hash = hash_bytes(row, m->n_cols * sizeof(*row), hash);
    free(row);
    return hash;
}

uint64_t weights_identity(const struct weights *w, const struct model_shape *shape)
{
    uint64_t hash = hash_bytes(w->output_norm, shape->n_embd * sizeof(float), shape->n_layers);
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        const struct layer_weights *lw = &w->layer[l];
        hash = hash_row(&lw->q, hash);
        hash = hash_row(&lw->up, hash);
        hash = hash_row(&lw->down, hash);
    }
    return hash;
}

struct kern_matrix weights_rows(const struct kern_matrix *m, uint32_t row0, uint32_t n)
{
    struct kern_matrix part = *m;
    part.n_rows = row0;
    part.data = (const char *)m->data + kern_matrix_bytes(&part);
    part.n_rows = n;
    return part;
}

struct kern_matrix weights_expert(const struct expert_matrix *m, uint32_t e)
{
    struct kern_matrix one = m->first;
    if (one.data)
        one.data = (const char *)one.data + e * m->stride;
    return one;
}
