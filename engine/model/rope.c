/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.c - frequencies in double precision, once at load; the angles of a step from them.
 */
#include "engine/model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf_internal.h"

struct scaling {
    enum { SCALING_NONE, SCALING_LINEAR, SCALING_YARN, SCALING_LONG } kind;
    double factor;      /* how much longer the context became */
    double n_ctx_orig;  /* what it was */
    double attn_factor; /* magnitude given by the file; 1 if none */
    double beta_fast, beta_slow, ext_factor;
};

static int read_double(const struct gguf *g, const struct model_shape *s, const char *name,
                       double *out, struct engine_err *err)
{
    char key[CONFIG_KEY_CAP];
    float f;
    if (!gguf_has(g, config_key(key, sizeof(key), s->arch, name)))
        return 0;
    if (gguf_get_f32(g, key, true, &f, err) != 0)
        return -1;
    *out = (double)f;
    return 0;
}

static int read_kind(const struct gguf *g, const struct model_shape *s, struct scaling *out,
                     struct engine_err *err)
{
    char key[CONFIG_KEY_CAP];
    struct gguf_str type;
    if (!gguf_has(g, config_key(key, sizeof(key), s->arch, "rope.scaling.type"))) {
        out->kind = SCALING_LINEAR; /* a factor alone is a linear one */
        return 0;
    }
    if (gguf_get_str(g, key, true, &type, err) != 0)
        return -1;
    if (gguf_str_is(type, "none"))
        out->kind = SCALING_NONE;
    else if (gguf_str_is(type, "linear"))
        out->kind = SCALING_LINEAR;
    else if (gguf_str_is(type, "yarn"))
        out->kind = SCALING_YARN;
    else if (gguf_str_is(type, "longrope"))
        out->kind = SCALING_LONG;
    else
        return engine_fail(err, ENGINE_ERR_UNSUPPORTED,
                           "key \"%s\" is \"%s\"; none, linear, yarn and longrope are supported",
                           key, gguf_quote(type).text);
    return 0;
}

static int read_scaling(const struct gguf *g, const struct model_shape *s, struct scaling *out,
                        struct engine_err *err)
{
    double old_linear = 0;
    *out = (struct scaling){ .kind = SCALING_NONE,
                             .factor = 1,
                             .n_ctx_orig = s->n_ctx_train,
                             .attn_factor = 1,
                             .beta_fast = 32,
                             .beta_slow = 1,
                             .ext_factor = 1 };
    if (read_kind(g, s, out, err) != 0 ||
        read_double(g, s, "rope.scale_linear", &old_linear, err) != 0 ||
        read_double(g, s, "rope.scaling.factor", &out->factor, err) != 0 ||
        read_double(g, s, "rope.scaling.attn_factor", &out->attn_factor, err) != 0 ||
        read_double(g, s, "rope.scaling.yarn_ext_factor", &out->ext_factor, err) != 0 ||
        read_double(g, s, "rope.scaling.yarn_beta_fast", &out->beta_fast, err) != 0 ||
        read_double(g, s, "rope.scaling.yarn_beta_slow", &out->beta_slow, err) != 0)
        return -1;
    char key[CONFIG_KEY_CAP];
    uint32_t orig = s->n_ctx_train;
    if (gguf_has(g,
                 config_key(key, sizeof(key), s->arch, "rope.scaling.original_context_length")) &&
        gguf_get_u32(g, key, true, &orig, err) != 0)
        return -1;
    out->n_ctx_orig = orig ? orig : s->n_ctx_train;
    if (old_linear != 0) { /* the key of old files, which have no type */
        out->kind = SCALING_LINEAR;
        out->factor = old_linear;
    }
    if (out->factor == 0)
        out->factor = 1;
    if (out->factor < 0)
        return engine_fail(err, ENGINE_ERR_FILE, "rope.scaling.factor is %g; it must be positive",
                           out->factor);
    return 0;
}

/* The factor tensor that divides the frequencies, or NULL. */
static int find_factors(const struct gguf *g, const struct model_shape *s, const struct scaling *sc,
                        uint32_t n_ctx, uint32_t n_pairs, const struct gguf_tensor **out,
                        struct engine_err *err)
{
    bool is_long = (double)(n_ctx ? n_ctx : s->n_ctx_train) > sc->n_ctx_orig;
    const struct gguf_tensor *t = gguf_find_tensor(g, "rope_freqs.weight");
    if (!t)
        t = gguf_find_tensor(g, is_long ? "rope_factors_long.weight" : "rope_factors_short.weight");
    if (!t)
        t = gguf_find_tensor(g, is_long ? "blk.0.rope_factors_long.weight"
                                        : "blk.0.rope_factors_short.weight");
    *out = t;
    if (t && (t->type != KERN_TYPE_F32 || t->n_dims != 1 || t->ne[0] != n_pairs || !t->data))
        return engine_fail(err, ENGINE_ERR_FILE,
                           "tensor \"%s\" must be %u values of F32: one per rotary pair", t->name,
                           n_pairs);
    return 0;
}

/* YaRN: the pair at which a context of n_ctx_orig makes `turns` full turns. */
static double turns_at(const struct scaling *sc, double base, uint32_t n_dims, double turns)
{
    return n_dims * log(sc->n_ctx_orig / (turns * 2 * M_PI)) / (2 * log(base));
}

/* 1 for pairs that turn fast and keep their frequency, 0 for slow ones that are interpolated. */
static double yarn_ramp(const struct scaling *sc, double base, uint32_t n_dims, uint32_t pair)
{
    double low = fmax(0, floor(turns_at(sc, base, n_dims, sc->beta_fast)));
    double high = fmin(n_dims - 1, ceil(turns_at(sc, base, n_dims, sc->beta_slow)));
    double y = (pair - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, y));
}

static int fill(struct rope_shape *rope, const struct scaling *sc, double base, uint32_t n_dims,
                const struct gguf_tensor *factors, struct engine_err *err)
{
    rope->n_pairs = n_dims / 2;
    rope->magnitude = (float)sc->attn_factor;
    rope->inv_freq = malloc(rope->n_pairs * sizeof(*rope->inv_freq));
    if (!rope->inv_freq)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for rotary frequencies");
    if (sc->kind == SCALING_YARN && sc->factor > 1)
        rope->magnitude = (float)(sc->attn_factor * (1 + 0.1 * log(sc->factor)));
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        float divisor = 1.0f;
        if (factors)
            memcpy(&divisor, (const char *)factors->data + 4 * (size_t)i, sizeof(divisor));
        if (!(fabsf(divisor) > 0.0f) || !isfinite(divisor))
            return engine_fail(err, ENGINE_ERR_FILE,
                               "tensor \"%s\": factor %u is not a number above 0", factors->name,
                               i);
        double freq = pow(base, -2.0 * i / n_dims) / (double)divisor;
        double keep = sc->kind == SCALING_YARN ? sc->ext_factor * yarn_ramp(sc, base, n_dims, i)
                                               : 0;
        bool scaled = sc->kind != SCALING_NONE;
        rope->inv_freq[i] = scaled ? freq / sc->factor * (1 - keep) + freq * keep : freq;
    }
    return 0;
}

int rope_read(struct model_shape *s, const struct gguf *g, uint32_t n_ctx, struct engine_err *err)
{
    struct scaling sc, none = { .kind = SCALING_NONE, .factor = 1, .attn_factor = 1 };
    double base = 10000, window_base = (double)s->arch->window_rope_base;
    uint32_t n_dims = s->head_dim;
    const struct gguf_tensor *factors = NULL;
    char key[CONFIG_KEY_CAP];

    if (gguf_has(g, config_key(key, sizeof(key), s->arch, "rope.dimension_count")) &&
        gguf_get_u32(g, key, true, &n_dims, err) != 0)
        return -1;
    if (n_dims == 0 || n_dims % 2 || n_dims > s->head_dim)
        return engine_fail(
            err, ENGINE_ERR_FILE,
            "rope.dimension_count is %u; even numbers up to the head's %u are possible", n_dims,
            s->head_dim);
    if (read_double(g, s, "rope.freq_base", &base, err) != 0 ||
        read_double(g, s, "rope.freq_base_swa", &window_base, err) != 0 ||
        read_scaling(g, s, &sc, err) != 0 ||
        find_factors(g, s, &sc, n_ctx, n_dims / 2, &factors, err) != 0)
        return -1;
    if (s->arch->window_rope_plain)
        window_base = base;
    if (base <= 1)
        return engine_fail(err, ENGINE_ERR_FILE, "rope.freq_base is %g; it must be above 1", base);
    if (window_base != 0 && window_base <= 1)
        return engine_fail(err, ENGINE_ERR_FILE, "rope.freq_base_swa is %g; it must be above 1",
                           window_base);
    if (fill(&s->rope[0], &sc, base, n_dims, factors, err) != 0)
        return -1;
    return window_base != 0 ? fill(&s->rope[1], &none, window_base, n_dims, NULL, err) : 0;
}

void rope_angles(const struct rope_shape *rope, uint32_t position, float *out)
{
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        double angle = rope->inv_freq[i] * position;
        out[i] = (float)cos(angle) * rope->magnitude;
        out[rope->n_pairs + i] = (float)sin(angle) * rope->magnitude;
    }
}
