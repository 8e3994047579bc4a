/* SPDX-License-Identifier: Apache-2.0
 *
 * test_config.c - hyper-parameters, the plan of the layers, rotary frequencies, tensors by role:
 * what is read, and what is refused with which sentence.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/rope.h"
#include "engine/model/weights.h"
#include "tests/support/gguf_build.h"

enum { N_VOCAB = 32, WIDTH = 64, FF = 32 };

/* A model under construction and what was read from it. */
struct model {
    struct gguf_build b;
    unsigned char *file;
    struct gguf *g;
    struct model_shape shape;
    struct weights w;
    struct engine_err err;
    const char *arch;
};

static const char *key(const struct model *m, const char *name)
{
    static char text[128];
    snprintf(text, sizeof(text), "%s.%s", m->arch, name);
    return text;
}

/* Keys that every architecture needs; `without` leaves one out. */
static void begin(struct model *m, const char *arch, uint32_t n_layers, const char *without)
{
    const struct {
        const char *name;
        uint32_t value;
    } counts[] = { { "embedding_length", WIDTH }, { "block_count", n_layers },
                   { "context_length", 2048 },    { "feed_forward_length", FF },
                   { "attention.head_count", 4 }, { "attention.head_count_kv", 2 } };
    memset(m, 0, sizeof(*m));
    m->b = (struct gguf_build)GGUF_BUILD_INIT;
    m->arch = arch;
    gguf_build_str(&m->b, "general.architecture", arch);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        if (strcmp(counts[i].name, without) != 0)
            gguf_build_u32(&m->b, key(m, counts[i].name), counts[i].value);
    gguf_build_f32(&m->b, key(m, "attention.layer_norm_rms_epsilon"), 1e-5f);
}

static void tensor(struct model *m, const char *name, uint32_t type, uint64_t ne0, uint64_t ne1)
{
    static float values[WIDTH * WIDTH];
    uint64_t ne[2] = { ne0, ne1 };
    gguf_build_tensor(&m->b, name, type, ne1 ? 2 : 1, ne, values, ne0 * (ne1 ? ne1 : 1) * 4);
}

/* The tensors of a one-layer llama; `without` leaves one out. */
static void add_tensors(struct model *m, const char *without)
{
    const struct {
        const char *name;
        uint64_t ne0, ne1;
    } list[] = { { "token_embd.weight", WIDTH, N_VOCAB }, { "output_norm.weight", WIDTH, 0 },
                 { "blk.0.attn_norm.weight", WIDTH, 0 },  { "blk.0.ffn_norm.weight", WIDTH, 0 },
                 { "blk.0.attn_q.weight", WIDTH, 64 },    { "blk.0.attn_k.weight", WIDTH, 32 },
                 { "blk.0.attn_v.weight", WIDTH, 32 },    { "blk.0.attn_output.weight", 64, WIDTH },
                 { "blk.0.ffn_gate.weight", WIDTH, FF },  { "blk.0.ffn_up.weight", WIDTH, FF },
                 { "blk.0.ffn_down.weight", FF, WIDTH } };
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        if (strcmp(list[i].name, without) != 0)
            tensor(m, list[i].name, KERN_TYPE_F32, list[i].ne0, list[i].ne1);
}

static int read_config(struct model *m)
{
    struct config_options opt = { .n_vocab = N_VOCAB };
    size_t len;
    m->file = gguf_build_finish(&m->b, &len);
    cr_assert_eq(gguf_open_memory(&m->g, m->file, len, len, &m->err), 0, "%s", m->err.text);
    return config_read(&m->shape, m->g, &opt, &m->err);
}

static void end(struct model *m)
{
    weights_fini(&m->w);
    config_fini(&m->shape);
    gguf_close(m->g);
    free(m->file);
}

static void expect_refused(struct model *m, enum engine_err_code code, const char *word)
{
    cr_assert_eq(read_config(m), -1);
    cr_assert_eq(m->err.code, code, "%s", m->err.text);
    cr_assert_not_null(strstr(m->err.text, word), "\"%s\" lacks \"%s\"", m->err.text, word);
    end(m);
}

Test(config, an_unknown_architecture_is_refused_with_the_known_ones)
{
    struct model m;
    begin(&m, "mamba", 2, "");
    expect_refused(&m, ENGINE_ERR_UNSUPPORTED, "smallthinker");
}

Test(config, a_missing_key_is_named)
{
    static const char *const keys[] = { "embedding_length", "block_count", "context_length",
                                        "attention.head_count" };
    for (size_t i = 0; i < 4; i++) {
        struct model m;
        begin(&m, "llama", 2, keys[i]);
        expect_refused(&m, ENGINE_ERR_FILE, keys[i]);
    }
}

Test(config, impossible_counts_are_refused)
{
    struct model m;
    begin(&m, "llama", 0, "");
    expect_refused(&m, ENGINE_ERR_FILE, "block_count");
    begin(&m, "llama", 100000, "");
    expect_refused(&m, ENGINE_ERR_FILE, "block_count");
    begin(&m, "llama", 1, "attention.head_count_kv");
    gguf_build_u32(&m.b, "llama.attention.head_count_kv", 3);
    expect_refused(&m, ENGINE_ERR_FILE, "no multiple");
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.attention.key_length", 20);
    expect_refused(&m, ENGINE_ERR_UNSUPPORTED, "20");
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.attention.value_length", 32);
    expect_refused(&m, ENGINE_ERR_UNSUPPORTED, "32");
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.expert_count", 4);
    gguf_build_u32(&m.b, "llama.expert_used_count", 5);
    expect_refused(&m, ENGINE_ERR_FILE, "expert_used_count 5");
    begin(&m, "llama", 1, "feed_forward_length");
    expect_refused(&m, ENGINE_ERR_FILE, "feed_forward_length");
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.vocab_size", 7);
    expect_refused(&m, ENGINE_ERR_FILE, "vocab_size");
}

Test(config, the_activation_is_the_architectures_unless_the_file_names_one)
{
    struct model m;
    begin(&m, "llama", 1, "");
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    cr_assert_eq(m.shape.activation, KERN_ACTIVATION_SILU);
    end(&m);
    begin(&m, "llama", 1, "");
    gguf_build_str(&m.b, "llama.hidden_activation", "relu");
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    cr_assert_eq(m.shape.activation, KERN_ACTIVATION_RELU);
    end(&m);
    begin(&m, "llama", 1, "");
    gguf_build_str(&m.b, "llama.hidden_activation", "swish");
    expect_refused(&m, ENGINE_ERR_UNSUPPORTED, "swish");
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.hidden_activation", 1);
    expect_refused(&m, ENGINE_ERR_FILE, "hidden_activation");
}

Test(layers, gemma3_has_a_global_layer_after_five_windowed_ones)
{
    struct model m;
    begin(&m, "gemma3", 13, "");
    gguf_build_u32(&m.b, "gemma3.attention.sliding_window", 512);
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    for (uint32_t l = 0; l < 13; l++) {
        bool global = l % 6 == 5;
        cr_assert_eq(m.shape.layer[l].window, global ? 0 : 512);
        cr_assert_eq(m.shape.layer[l].group, global ? 0 : 1);
        cr_assert_eq(m.shape.layer[l].rope, global ? 0 : 1);
    }
    cr_assert_eq(m.shape.n_groups, 2);
    cr_assert_eq(m.shape.group_layers[0], 2);
    cr_assert_eq(m.shape.group_layers[1], 11);
    cr_assert_float_eq((double)m.shape.embed_scale, 8.0, 1e-6);
    end(&m);
}

Test(layers, smallthinker_takes_any_window_for_4096_and_its_global_layers_have_no_rope)
{
    struct model m;
    begin(&m, "smallthinker", 9, "");
    gguf_build_u32(&m.b, "smallthinker.expert_count", 4);
    gguf_build_u32(&m.b, "smallthinker.expert_used_count", 2);
    gguf_build_u32(&m.b, "smallthinker.attention.sliding_window", 77);
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    for (uint32_t l = 0; l < 9; l++) {
        cr_assert_eq(m.shape.layer[l].window, l % 4 == 0 ? 0 : 4096);
        cr_assert_eq(m.shape.layer[l].rope, l % 4 == 0 ? CONFIG_NO_ROPE : 0);
    }
    cr_assert(m.shape.router_sigmoid);
    end(&m);
    begin(&m, "smallthinker", 9, ""); /* without a window: full attention, rope everywhere */
    gguf_build_u32(&m.b, "smallthinker.expert_count", 4);
    gguf_build_u32(&m.b, "smallthinker.expert_used_count", 2);
    gguf_build_u32(&m.b, "smallthinker.expert_gating_func", 1);
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    for (uint32_t l = 0; l < 9; l++)
        cr_assert(m.shape.layer[l].window == 0 && m.shape.layer[l].rope == 0);
    cr_assert(!m.shape.router_sigmoid);
    cr_assert_eq(m.shape.n_groups, 1);
    end(&m);
}

Test(layers, smollm3_leaves_every_fourth_without_rope)
{
    struct model m;
    begin(&m, "smollm3", 8, "");
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    for (uint32_t l = 0; l < 8; l++)
        cr_assert_eq(m.shape.layer[l].rope, l % 4 == 3 ? CONFIG_NO_ROPE : 0);
    end(&m);
}

Test(layers, granite_reads_its_scales_and_may_switch_rope_off)
{
    struct model m;
    begin(&m, "granite", 2, "");
    gguf_build_f32(&m.b, "granite.embedding_scale", 12.0f);
    gguf_build_f32(&m.b, "granite.residual_scale", 0.22f);
    gguf_build_f32(&m.b, "granite.attention.scale", 0.5f);
    gguf_build_f32(&m.b, "granite.logit_scale", 8.0f);
    gguf_build_bool(&m.b, "granite.rope.scaling.finetuned", false);
    cr_assert_eq(read_config(&m), 0, "%s", m.err.text);
    cr_assert_eq(m.shape.embed_scale, 12.0f);
    cr_assert_eq(m.shape.residual_scale, 0.22f);
    cr_assert_eq(m.shape.attention_scale, 0.5f);
    cr_assert_eq(m.shape.logit_scale, 0.125f);
    cr_assert_eq(m.shape.layer[1].rope, CONFIG_NO_ROPE);
    end(&m);
}

/* Frequencies of a llama with a few rope keys. */
static void expect_frequencies(struct model *m, const double *expected, double magnitude)
{
    cr_assert_eq(read_config(m), 0, "%s", m->err.text);
    cr_assert_eq(rope_read(&m->shape, m->g, 0, &m->err), 0, "%s", m->err.text);
    cr_assert_eq(m->shape.rope[0].n_pairs, 8);
    for (int i = 0; i < 8; i++)
        cr_assert_float_eq(m->shape.rope[0].inv_freq[i] / expected[i], 1.0, 1e-6, "pair %d: %g", i,
                           m->shape.rope[0].inv_freq[i]);
    cr_assert_float_eq((double)m->shape.rope[0].magnitude, magnitude, 1e-6);
    end(m);
}

Test(rope, plain_linear_and_yarn_follow_their_formulas)
{
    struct model m;
    double plain[8], linear[8], yarn[8];
    for (int i = 0; i < 8; i++) {
        plain[i] = pow(500.0, -2.0 * i / 16);
        linear[i] = plain[i] / 4;
    }
    begin(&m, "llama", 1, "");
    gguf_build_f32(&m.b, "llama.rope.freq_base", 500.0f);
    expect_frequencies(&m, plain, 1);
    begin(&m, "llama", 1, "");
    gguf_build_f32(&m.b, "llama.rope.freq_base", 500.0f);
    gguf_build_str(&m.b, "llama.rope.scaling.type", "linear");
    gguf_build_f32(&m.b, "llama.rope.scaling.factor", 4.0f);
    expect_frequencies(&m, linear, 1);
    /* Original context 512: 32 turns at pair 1.2, one turn at pair 5.7: a ramp from 1 to 6. */
    for (int i = 0; i < 8; i++) {
        double keep = 1 - fmin(1, fmax(0, (i - 1) / 5.0));
        yarn[i] = plain[i] * keep + linear[i] * (1 - keep);
    }
    begin(&m, "llama", 1, "");
    gguf_build_f32(&m.b, "llama.rope.freq_base", 500.0f);
    gguf_build_str(&m.b, "llama.rope.scaling.type", "yarn");
    gguf_build_f32(&m.b, "llama.rope.scaling.factor", 4.0f);
    gguf_build_u32(&m.b, "llama.rope.scaling.original_context_length", 512);
    expect_frequencies(&m, yarn, 1 + 0.1 * log(4.0));
}

Test(rope, bad_keys_are_refused)
{
    struct model m;
    begin(&m, "llama", 1, "");
    gguf_build_str(&m.b, "llama.rope.scaling.type", "spiral");
    cr_assert_eq(read_config(&m), 0);
    cr_assert_eq(rope_read(&m.shape, m.g, 0, &m.err), -1);
    cr_assert_not_null(strstr(m.err.text, "spiral"));
    end(&m);
    begin(&m, "llama", 1, "");
    gguf_build_u32(&m.b, "llama.rope.dimension_count", 18);
    cr_assert_eq(read_config(&m), 0);
    cr_assert_eq(rope_read(&m.shape, m.g, 0, &m.err), -1);
    cr_assert_not_null(strstr(m.err.text, "18"));
    end(&m);
}

/* What weights_find says of a model whose tensors the caller has added; the views need data, which
 * a file in memory does not load, so it goes through a real file. */
static int find_weights(struct model *m)
{
    struct config_options opt = { .n_vocab = N_VOCAB };
    char path[] = "/tmp/lacuna-weights-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    cr_assert_eq(gguf_build_write(&m->b, path), 0);
    cr_assert_eq(gguf_open(&m->g, path, &m->err), 0, "%s", m->err.text);
    cr_assert_eq(gguf_load(m->g, &(struct gguf_load_options){ 0 }, &m->err), 0);
    unlink(path);
    cr_assert_eq(config_read(&m->shape, m->g, &opt, &m->err), 0, "%s", m->err.text);
    return weights_find(&m->w, m->g, NULL, &m->shape, &m->err);
}

Test(weights, every_tensor_gets_its_role)
{
    struct model m;
    begin(&m, "llama", 1, "");
    add_tensors(&m, "");
    cr_assert_eq(find_weights(&m), 0, "%s", m.err.text);
    cr_assert_eq(m.w.output.data, m.w.embed.data, "tied");
    cr_assert_eq(m.w.layer[0].k.n_rows, 32);
    cr_assert_eq(m.w.layer[0].down.n_cols, FF);
    end(&m);
}

static void expect_weights_refused(struct model *m, const char *word)
{
    cr_assert_eq(find_weights(m), -1);
    cr_assert_not_null(strstr(m->err.text, word), "\"%s\" lacks \"%s\"", m->err.text, word);
    end(m);
}

Test(weights, missing_misshapen_and_unknown_tensors_are_named)
{
    static const char *const needed[] = { "token_embd.weight", "output_norm.weight",
                                          "blk.0.attn_norm.weight", "blk.0.attn_v.weight",
                                          "blk.0.ffn_down.weight" };
    struct model m;
    for (size_t i = 0; i < 5; i++) {
        begin(&m, "llama", 1, "");
        add_tensors(&m, needed[i]);
        expect_weights_refused(&m, needed[i]);
    }
    begin(&m, "llama", 1, "");
    add_tensors(&m, "blk.0.attn_k.weight");
    tensor(&m, "blk.0.attn_k.weight", KERN_TYPE_F32, WIDTH, 48);
    expect_weights_refused(&m, "64 x 48");
    begin(&m, "llama", 1, "");
    add_tensors(&m, "");
    tensor(&m, "blk.0.attn_sinks.weight", KERN_TYPE_F32, 4, 0);
    expect_weights_refused(&m, "attn_sinks");
    begin(&m, "llama", 1, "");
    add_tensors(&m, "blk.0.ffn_up.weight");
    tensor(&m, "blk.0.ffn_up.weight", 26 /* I32 */, WIDTH, FF);
    expect_weights_refused(&m, "I32");
}
