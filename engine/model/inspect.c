/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect.c - what a model file holds, in words: facts from the header, nothing is loaded.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "engine/model/gguf_internal.h"
#include "engine/storage/expert_heat.h"
#include "engine/storage/expert_tensors.h"

struct writer {
    engine_write_fn *write;
    void *ctx;
    const char *path; /* of the model */
};

static void say(const struct writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(const struct writer *w, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (n > 0)
        w->write(w->ctx, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void say_string(const struct writer *w, const struct gguf *g, const char *label,
                       const char *key)
{
    struct gguf_str s;
    if (gguf_has(g, key) && gguf_get_str(g, key, true, &s, NULL) == 0)
        say(w, "%-16s %s\n", label, gguf_quote(s).text);
}

static void say_file(const struct writer *w, const struct gguf *g)
{
    uint64_t n_params = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        n_params += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    }
    say_string(w, g, "name", "general.name");
    say_string(w, g, "architecture", "general.architecture");
    say_string(w, g, "licence", "general.license");
    say_string(w, g, "tokenizer", "tokenizer.ggml.model");
    say_string(w, g, "pre-tokenizer", "tokenizer.ggml.pre");
    say(w, "%-16s GGUF %u, %.1f MiB, %" PRIu64 " keys, %" PRIu64 " tensors\n", "file",
        gguf_version(g), mib(gguf_file_bytes(g)), gguf_n_keys(g), gguf_n_tensors(g));
    if (gguf_has(g, GGUF_PANELS_KEY))
        say(w, "%-16s packed: quantised weights lie as the kernels read them\n", "layout");
    say(w, "%-16s %.1f million\n", "parameters", (double)n_params / 1e6);
}

static void say_types(const struct writer *w, const struct gguf *g)
{
    say(w, "\n%-8s %8s %10s  %s\n", "type", "tensors", "MiB", "kernels");
    for (uint32_t type = 0; type < KERN_N_TYPES; type++) {
        uint64_t n = 0, bytes = 0;
        for (uint64_t i = 0; i < gguf_n_tensors(g); i++)
            if (gguf_tensor_at(g, i)->type == type) {
                n++;
                bytes += gguf_tensor_at(g, i)->bytes;
            }
        if (n)
            say(w, "%-8s %8" PRIu64 " %10.1f  %s\n", kern_type_info(type)->name, n, mib(bytes),
                kern_type_info(type)->supported ? "yes" : "not supported");
    }
}

/* What a token takes in the layers of a KV group. */
static double token_kib(const struct model_shape *s, uint32_t group)
{
    const struct kv_group_options kv = config_kv_group(s, group);
    return (double)kv.n_layers * (double)kv.layer_bytes / KV_PAGE_TOKENS / 1024;
}

static void say_attention(const struct writer *w, const struct model_shape *s)
{
    say(w, "%-16s %u of %u channels, %u of keys and values\n", "heads", s->n_heads, s->head_dim,
        s->n_kv_heads);
    struct model_shape q8 = *s;
    q8.kv = KERN_KV_Q8;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        char seen[32] = "all";
        if (s->group_window[g])
            snprintf(seen, sizeof(seen), "%u", s->group_window[g]);
        say(w, "%-16s %u layers see %s tokens, %.1f KiB per token in %s, %.1f in Q8\n", "KV group",
            s->group_layers[g], seen, token_kib(s, g), s->kv == KERN_KV_F32 ? "F32" : "F16",
            token_kib(&q8, g));
    }
}

/* ---- experts ---- */

static void say_expert_bytes(const struct writer *w, const struct gguf *g,
                             const struct model_shape *s)
{
    uint64_t n = 0, bytes = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        struct experts_layer layer;
        experts_find(g, l, &layer);
        n += layer.part[EXPERT_DOWN] ? s->n_experts : 0;
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++)
            bytes += layer.part[p] ? layer.part[p]->bytes : 0;
    }
    if (n > 0)
        say(w, "%-16s %" PRIu64 " in all layers, %.2f MiB each, %.1f MiB together\n", "", n,
            mib(bytes) / (double)n, mib(bytes));
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* How much of a layer's heat its hottest quarter has; sorts it.  0: it has none. */
static double hottest_quarter(float *heat, uint32_t n)
{
    double all = 0, hot = 0;
    qsort(heat, n, sizeof(*heat), descending);
    for (uint32_t e = 0; e < n; e++) {
        all += (double)heat[e];
        hot += e < (n + 3) / 4 ? (double)heat[e] : 0;
    }
    return all > 0 ? hot / all : 0;
}

static void say_hottest(const struct writer *w, float *heat, const struct model_shape *s)
{
    double least = 1, most = 0, sum = 0;
    uint32_t n_layers = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        double share = hottest_quarter(heat + (size_t)l * s->n_experts, s->n_experts);
        if (share == 0)
            continue;
        least = share < least ? share : least;
        most = share > most ? share : most;
        sum += share;
        n_layers++;
    }
    if (n_layers > 0)
        say(w,
            "%-16s when the last server stopped, the hottest quarter of a layer's took %.0f %% "
            "of what tokens chose (%.0f to %.0f)\n",
            "", sum / n_layers * 100, least * 100, most * 100);
}

/* What the last server left beside the model. */
static void say_heat(const struct writer *w, const struct gguf *g, const struct model_shape *s)
{
    const struct expert_heat_model model = { s->n_layers, s->n_experts, gguf_hash(g) };
    float *heat = calloc((size_t)s->n_layers * s->n_experts, sizeof(*heat));
    size_t cap = strlen(w->path) + sizeof(ENGINE_HEAT_SUFFIX);
    char *path = malloc(cap);
    if (heat && path) {
        snprintf(path, cap, "%s%s", w->path, ENGINE_HEAT_SUFFIX);
        if (expert_heat_read(path, &model, heat, NULL) == 0)
            say_hottest(w, heat, s);
    }
    free(heat);
    free(path);
}

static void say_point(const struct writer *w, const struct engine_point *p)
{
    say(w,
        "%-16s %s: %.4f nats per token from exact, %.1f %% the same most likely token, %.1f %% of "
        "the bytes of weights\n",
        "", p->name, p->kl, p->same_top * 100, p->weights * 100);
}

/* The operating points of a calibration beside the model. */
static void say_modes(const struct writer *w, const struct model_shape *s)
{
    struct engine_err err = { 0 };
    struct sparsity *points = NULL;
    char *path = NULL;
    say(w, "%-16s exact\n", "modes");
    if (asprintf(&path, "%s%s", w->path, ENGINE_SIDECAR_SUFFIX) < 0)
        return;
    if (access(path, F_OK) == 0 && sparsity_open(&points, s, &err) == 0 &&
        sidecar_read(points, path, &err) == 0)
        for (uint32_t i = 1; i < points->n_points; i++)
            say_point(w, &points->infos[i]);
    if (err.code)
        say(w, "%-16s %s\n", "", err.text);
    sparsity_close(points);
    free(path);
}

static void say_shape(const struct writer *w, const struct gguf *g, const struct model_shape *s)
{
    say(w, "\n%-16s %u layers, width %u, vocabulary %u, context %u\n", "shape", s->n_layers,
        s->n_embd, s->n_vocab, s->n_ctx_train);
    say_attention(w, s);
    if (s->n_experts) {
        say(w,
            "%-16s %u of %u per token, width %u, %s router; in memory, or read on demand "
            "(--expert-cache)\n",
            "experts", s->n_experts_used, s->n_experts, s->n_ff_expert,
            s->router_sigmoid ? "sigmoid" : "softmax");
        say_expert_bytes(w, g, s);
        say_heat(w, g, s);
    } else {
        say(w, "%-16s width %u\n", "feed-forward", s->n_ff);
    }
    say_modes(w, s);
}

/* What this build would say on opening it: its shape, or why not. */
static void say_support(const struct writer *w, const struct gguf *g)
{
    struct engine_err err = { 0 };
    struct model_shape shape = { 0 };
    struct tokenizer *t = NULL;
    if (tokenizer_open(&t, g, &err) == 0) {
        struct config_options opt = { .n_vocab = tokenizer_n_vocab(t) };
        if (config_read(&shape, g, &opt, &err) == 0)
            say_shape(w, g, &shape);
        config_fini(&shape);
    }
    tokenizer_close(t);
    if (err.code)
        say(w, "\n%-16s %s\n", "not supported", err.text);
}

int engine_inspect(const char *path, engine_write_fn *write, void *ctx, struct engine_err *err)
{
    struct writer w = { write, ctx, path };
    struct gguf *g;
    if (gguf_open(&g, path, err) != 0)
        return -1;
    say_file(&w, g);
    say_support(&w, g);
    say_types(&w, g);
    gguf_close(g);
    return 0;
}
