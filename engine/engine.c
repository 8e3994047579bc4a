/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.c - open and close: the file, the tokenizer, the plan, then everything the plan says.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/hash.h"
#include "engine/internal.h"
#include "engine/machine.h"
#include "engine/memory_plan.h"
#include "engine/model/rope.h"
#include "engine/quality/quality.h"
#include "engine/storage/expert_heat.h"

enum { DEFAULT_MAX_ROWS = 512, DEFAULT_LOGIT_ROWS = 64, MAX_THREADS = 1024, MAX_ROWS = 65536 };

void engine_warn(struct engine *e, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    if (e->info.n_warnings == ENGINE_MAX_WARNINGS)
        return;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n >= 0)
        e->warnings[e->info.n_warnings++] = text;
}

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory to open the model");
}

/* ---- options and facts ---- */

static int take_options(struct engine *e, const struct engine_options *opt, struct engine_err *err)
{
    e->opt = *opt;
    if (e->opt.max_rows == 0)
        e->opt.max_rows = DEFAULT_MAX_ROWS;
    if (e->opt.max_logit_rows == 0)
        e->opt.max_logit_rows = DEFAULT_LOGIT_ROWS;
    if (e->opt.max_logit_rows > e->opt.max_rows)
        e->opt.max_logit_rows = e->opt.max_rows;
    if (e->opt.n_threads == 0)
        e->opt.n_threads = machine_cores();
    if (e->opt.max_rows > MAX_ROWS)
        return engine_fail(err, ENGINE_ERR_OPTION, "%u rows per step asked for; the limit is %d",
                           e->opt.max_rows, MAX_ROWS);
    if (e->opt.n_threads > MAX_THREADS)
        return engine_fail(err, ENGINE_ERR_OPTION, "%u threads asked for; the limit is %d",
                           e->opt.n_threads, MAX_THREADS);
    uint32_t n_cores = machine_affinity_cores();
    if (e->opt.pin_threads && e->opt.n_threads > n_cores)
        engine_warn(e, "%u threads are pinned to %u cores: some share one", e->opt.n_threads,
                    n_cores);
    e->kern = kern_select(opt->max_isa);
    if (!e->kern)
        return engine_fail(err, ENGINE_ERR_OPTION,
                           "instruction set \"%s\" is unknown or not usable on this processor; "
                           "known are %s",
                           opt->max_isa, kern_names());
    return 0;
}

static int open_file(struct engine *e, struct engine_err *err)
{
    const char *slash = strrchr(e->opt.model_path, '/');
    e->path = strdup(e->opt.model_path);
    e->file_name = strdup(slash ? slash + 1 : e->opt.model_path);
    e->heat_path = e->opt.heat_path ? strdup(e->opt.heat_path) : NULL;
    if (!e->path || !e->file_name || (e->opt.heat_path && !e->heat_path))
        return no_memory(err);
    e->opt.model_path = e->path;
    e->opt.heat_path = e->heat_path;
    if (gguf_open(&e->gguf, e->path, err) != 0)
        return -1;
    if (e->opt.progress)
        e->opt.progress(e->opt.progress_ctx, ENGINE_PHASE_TOKENIZER, 0, 0);
    if (tokenizer_open(&e->tokenizer, e->gguf, err) != 0)
        return -1;
    return chat_template_open(&e->chat, e->gguf, e->tokenizer, err);
}

/* A copy of a metadata string; *out stays NULL if the key is absent. */
static int copy_string(struct engine *e, const char *key, char **out, struct engine_err *err)
{
    struct gguf_str s;
    if (!gguf_has(e->gguf, key))
        return 0;
    if (gguf_get_str(e->gguf, key, true, &s, err) != 0)
        return -1;
    *out = strndup(s.data, s.len);
    return *out ? 0 : no_memory(err);
}

static uint32_t n_neurons_of(const struct engine *e)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < e->shape.n_layers; l++)
        n += e->weights.layer[l].router.n_rows ? 0 : e->shape.n_ff;
    return n;
}

void engine_use_sparsity(struct engine *e, struct sparsity *s)
{
    e->sparsity = s;
    e->forward->sparsity = s;
    e->info.points = s->infos;
    e->info.n_points = s->n_points;
}

/* Before the weights come: what is wrong with the file is said at once. */
static int read_sparsity(struct engine *e, struct engine_err *err)
{
    if (sparsity_open(&e->sparsity, &e->shape, err) != 0)
        return -1;
    int rc = e->opt.sidecar_path ? sidecar_read(e->sparsity, e->opt.sidecar_path, err) : 0;
    return rc;
}

static int open_audit(struct engine *e, struct engine_err *err)
{
    const struct audit_options opt = { .steps = e->opt.audit_steps,
                                       .withdrawn = e->opt.withdrawn,
                                       .ctx = e->opt.withdrawn_ctx };
    return audit_open(&e->audit, e, &opt) == 0
               ? 0
               : engine_fail(err, ENGINE_ERR_MEMORY, "no memory for audits of %u layers",
                             e->shape.n_layers);
}

/* Only what the calibration of this very model says can be done without. */
static int check_sparsity(struct engine *e, struct engine_err *err)
{
    e->info.n_neurons = n_neurons_of(e);
    engine_use_sparsity(e, e->sparsity);
    if (!e->opt.sidecar_path || e->sparsity->model == weights_identity(&e->weights, &e->shape))
        return 0;
    return engine_fail(err, ENGINE_ERR_FILE,
                       "%s: the calibration of another model: calibrate again, or go on without it "
                       "(--sidecar off)",
                       e->opt.sidecar_path);
}

static int fill_info(struct engine *e, struct engine_err *err)
{
    struct engine_info *i = &e->info;
    if (copy_string(e, "general.name", &e->name, err) != 0 ||
        copy_string(e, "tokenizer.chat_template", &e->chat_template, err) != 0)
        return -1;
    i->name = e->name ? e->name : e->file_name;
    i->file_name = e->file_name;
    i->file_mtime = gguf_mtime(e->gguf);
    i->isa = e->kern->name;
    i->io = gguf_io_name(e->gguf);
    i->expert_io = "";
    i->model_hash = gguf_hash(e->gguf);
    i->file_bytes = gguf_file_bytes(e->gguf);
    for (uint64_t t = 0; t < gguf_n_tensors(e->gguf); t++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(e->gguf, t);
        i->n_params += tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
    }
    i->n_threads = e->opt.n_threads;
    i->n_vocab = tokenizer_n_vocab(e->tokenizer);
    i->max_rows = e->opt.max_rows;
    i->max_logit_rows = e->opt.max_logit_rows;
    i->page_tokens = KV_PAGE_TOKENS;
    i->plan = e->plan;
    i->warnings = (const char *const *)e->warnings;
    i->chat_template = e->chat_template;
    return 0;
}

static void fill_shape_info(struct engine *e, uint32_t n_ctx)
{
    static const char *const kv[] = {
        [KERN_KV_F16] = "f16", [KERN_KV_F32] = "f32", [KERN_KV_Q8] = "q8"
    };
    e->info.kv = kv[e->shape.kv];
    e->info.arch = e->shape.arch->name;
    e->info.n_ctx = n_ctx;
    e->info.n_ctx_train = e->shape.n_ctx_train;
    e->info.n_embd = e->shape.n_embd;
    e->info.n_layers = e->shape.n_layers;
    e->info.n_experts_used = e->info.n_experts_kept = e->shape.n_experts_used;
    e->info.n_experts_used_exact = e->shape.n_experts_used_exact;
    if (e->opt.experts_kept)
        e->info.n_experts_kept = e->opt.experts_kept;
}

/* Said at every start: nobody shall take an approximation for the model. */
static void warn_of_approximation(struct engine *e)
{
    const struct engine_info *i = &e->info;
    if (i->n_experts_used < i->n_experts_used_exact)
        engine_warn(
            e, "approximate: %u of the model's %u experts per token are computed (--experts-used)",
            i->n_experts_used, i->n_experts_used_exact);
    if (i->n_experts_kept < i->n_experts_used)
        engine_warn(e,
                    "approximate: of a token's %u experts all but the best %u are replaced where "
                    "they are not in memory (--experts-kept)",
                    i->n_experts_used, i->n_experts_kept);
}

static int check_kept(const struct engine *e, struct engine_err *err)
{
    if (e->opt.experts_kept <= e->shape.n_experts_used)
        return 0;
    return engine_fail(
        err, ENGINE_ERR_OPTION,
        "%u experts per token were to be kept; a token has %u (0: the model is no mixture)",
        e->opt.experts_kept, e->shape.n_experts_used);
}

/* ---- layouts ---- */

/* Does ReLU make neurons zero? */
static bool has_zeros(const struct engine *e)
{
    enum kern_activation kind = e->shape.activation;
    return kind == KERN_ACTIVATION_RELU || kind == KERN_ACTIVATION_RELU2;
}

/* Or may an operating point?  Then they need not be multiplied. */
static bool may_have_zeros(const struct engine *e)
{
    return has_zeros(e) || (e->opt.sidecar_path && e->shape.n_ff > 0);
}

/* Experts lie in memory once.  Returns how many matrices lie so that zeros can be skipped. */
static uint64_t choose_layouts(struct engine *e, enum engine_zeros zeros)
{
    struct repack_rules rules = { .skips_zeros = zeros != ENGINE_ZEROS_MULTIPLIED &&
                                                 may_have_zeros(e),
                                  .only_dense = zeros == ENGINE_ZEROS_AUTO || !has_zeros(e),
                                  .is_gated = !e->shape.arch->ungated,
                                  .keeps_panels = zeros == ENGINE_ZEROS_AUTO };
    uint64_t n_for_zeros = repack_choose(e->gguf, &rules);
    e->skips_zeros = n_for_zeros > 0;
    return n_for_zeros;
}

/* For zeros alone, if that is asked for; else what more there is room for is seen later (keep_both). */
static void choose_one_layout(struct engine *e)
{
    bool is_asked = e->opt.zeros == ENGINE_ZEROS_SKIPPED;
    uint64_t n_for_zeros = choose_layouts(e, is_asked ? ENGINE_ZEROS_SKIPPED
                                                      : ENGINE_ZEROS_MULTIPLIED);
    if (is_asked && !may_have_zeros(e))
        engine_warn(
            e, "--skip-zeros: the neurons of this model are never zero (no ReLU, and no --sidecar "
               "that says which count for little): all are multiplied");
    else if (is_asked && n_for_zeros == 0)
        engine_warn(e,
                    "--skip-zeros: no feed-forward of this file can be laid out for it (quantised "
                    "ones can, but not those of lacuna pack): all neurons are multiplied");
}

/* ---- the plan ---- */

static void plan_line(struct engine *e, const char *what, uint64_t bytes)
{
    e->plan[e->info.n_plan++] = (struct engine_plan_line){ what, bytes };
}

static void leave_experts(struct engine *e)
{
    for (uint32_t l = 0; l < e->shape.n_layers; l++)
        for (uint32_t p = 0; p < EXPERT_N_PARTS; p++)
            if (e->expert_layers[l].part[p])
                gguf_leave(e->gguf, e->expert_layers[l].part[p]);
}

static struct experts_options experts_options(const struct engine *e)
{
    return (struct experts_options){ .layers = e->expert_layers,
                                     .n_layers = e->shape.n_layers,
                                     .n_experts = e->shape.n_experts,
                                     .no_foresight = e->opt.no_foresight,
                                     .patience_ms = e->opt.expert_patience_ms,
                                     .timeout_ms = e->opt.expert_timeout_ms,
                                     .faults = { .delay_us = e->opt.expert_delay_us },
                                     .io = e->opt.io };
}

/* Not 0, which would mean "choose". */
static uint64_t share_of(uint64_t all, double share)
{
    uint64_t n = (uint64_t)((double)all * share);
    return n > 0 || share <= 0 ? n : 1;
}

static void measure_experts(const struct engine *e, struct memory_plan_input *in)
{
    struct experts_options opt = experts_options(e);
    in->experts.all = experts_resident_bytes(&opt);
    in->experts.least = experts_least_bytes(&opt);
    in->experts.staging = experts_staging_bytes(&opt);
    in->weight_bytes -= in->experts.all;
    if (in->expert_bytes == 0)
        in->expert_bytes = share_of(experts_slots_bytes(&opt), e->opt.expert_share);
}

static struct memory_plan_input plan_input(const struct engine *e)
{
    struct memory_plan_input in = { .shape = &e->shape,
                                    .weight_bytes = repack_weight_bytes(e->gguf),
                                    .lookup_bytes = e->opt.read_file ? 0
                                                                     : repack_lookup_bytes(e->gguf),
                                    .expert_bytes = e->opt.expert_bytes,
                                    .available = machine_memory_available(),
                                    .n_ctx = e->opt.n_ctx,
                                    .kv_bytes = e->opt.kv_bytes,
                                    .n_sequences = e->opt.n_sequences,
                                    .n_threads = e->opt.n_threads,
                                    .max_rows = e->opt.max_rows,
                                    .max_logit_rows = e->opt.max_logit_rows,
                                    .http_bytes = e->opt.http_bytes };
    if (e->expert_layers)
        measure_experts(e, &in);
    return in;
}

/* In both layouts, if nothing else has to be smaller for it. */
static void keep_both(struct engine *e, struct memory_plan *plan)
{
    struct memory_plan roomy;
    if (choose_layouts(e, ENGINE_ZEROS_AUTO) == 0)
        return;
    const struct memory_plan_input in = plan_input(e);
    if (memory_plan(&roomy, &in, &(struct engine_err){ 0 }) == 0 &&
        roomy.kv_bytes >= plan->kv_bytes && roomy.expert_slots >= plan->expert_slots) {
        *plan = roomy;
        return;
    }
    choose_layouts(e, ENGINE_ZEROS_MULTIPLIED);
    engine_warn(
        e, "no room for the feed-forward in a second layout, by which neurons that are zero "
           "could be skipped: all are multiplied (--skip-zeros always: has that layout alone)");
}

static int make_plan(struct engine *e, struct memory_plan *plan, struct engine_err *err)
{
    const struct memory_plan_input in = plan_input(e);
    if (memory_plan(plan, &in, err) != 0)
        return -1;
    if (e->opt.zeros == ENGINE_ZEROS_AUTO)
        keep_both(e, plan);
    plan->kv.shuffle_seed = e->opt.kv_shuffle_seed;
    plan_line(e, "weights", plan->weights);
    if (plan->expert_slots)
        plan_line(e, "experts", plan->expert_slots + plan->expert_staging);
    plan_line(e, "KV pages", plan->kv_bytes);
    plan_line(e, "activations", plan->activations);
    plan_line(e, "sampling", plan->sampling);
    plan_line(e, "HTTP", plan->http);
    if (plan->expert_slots && in.expert_bytes == 0)
        engine_warn(e,
                    "of %" PRIu64 " MiB of experts %" PRIu64
                    " MiB fit into memory: the others are read from the "
                    "file when tokens choose them (--expert-cache)",
                    in.experts.all >> 20, plan->expert_slots >> 20);
    if (plan->ctx_reduced)
        engine_warn(e, "context reduced from %u to %u tokens: memory for KV pages is short",
                    e->shape.n_ctx_train, plan->n_ctx);
    if (plan->n_ctx > e->shape.n_ctx_train)
        engine_warn(e, "context of %u tokens is longer than the %u the model was trained with",
                    plan->n_ctx, e->shape.n_ctx_train);
    fill_shape_info(e, plan->n_ctx);
    return 0;
}

/* A byte-level vocabulary without the name of its expressions is an old file: GPT-2's are assumed.
 */
static void warn_of_pre(struct engine *e)
{
    struct gguf_str model;
    if (gguf_get_str(e->gguf, "tokenizer.ggml.model", false, &model, NULL) == 0 && model.len == 4 &&
        memcmp(model.data, "gpt2", 4) == 0 && !gguf_has(e->gguf, "tokenizer.ggml.pre"))
        engine_warn(e, "key \"tokenizer.ggml.pre\" is absent: \"default\" assumed; a newer "
                       "conversion of the model may tokenize better");
}

static void warn_of_gating(struct engine *e)
{
    char key[CONFIG_KEY_CAP];
    config_key(key, sizeof(key), e->shape.arch, "expert_gating_func");
    if (e->shape.n_experts && e->shape.arch->router_sigmoid_default && !gguf_has(e->gguf, key) &&
        e->opt.gating == ENGINE_GATING_FILE)
        engine_warn(e, "key \"%s\" is absent: sigmoid assumed (--expert-gating overrides)", key);
}

/* ---- what the plan says ---- */

static int load(struct engine *e, const struct memory_plan *plan, struct engine_err *err)
{
    struct gguf_load_options opt = { .read_file = e->opt.read_file,
                                     .io = e->opt.io,
                                     .progress = e->opt.progress,
                                     .progress_ctx = e->opt.progress_ctx,
                                     .cancel = e->opt.cancel,
                                     .take = repack_take };
    if (plan->expert_slots)
        leave_experts(e);
    if (workers_open(&e->workers, e->opt.n_threads, e->opt.pin_threads, err) != 0 ||
        repack_open(&e->packed, e->gguf, e->workers, err) != 0)
        return -1;
    opt.take_ctx = e->packed;
    if (gguf_load(e->gguf, &opt, err) != 0)
        return -1;
    e->info.io = gguf_io_name(e->gguf);
    if (rope_read(&e->shape, e->gguf, plan->n_ctx, err) != 0)
        return -1;
    if (weights_find(&e->weights, e->gguf, e->packed, &e->shape, err) != 0)
        return -1;
    struct experts_options experts = experts_options(e);
    experts.slot_bytes = plan->expert_slots;
    if (plan->expert_slots == 0)
        return 0;
    if (experts_open(&e->experts, e->gguf, &experts, e->workers, err) != 0)
        return -1;
    e->info.expert_io = experts_io_name(e->experts);
    if (e->opt.io == ENGINE_IO_AUTO && *experts_io_fallback(e->experts))
        engine_warn(e, "io_uring is not available (%s): experts are read by threads with pread",
                    experts_io_fallback(e->experts));
    return 0;
}

static int open_parts(struct engine *e, const struct memory_plan *plan, struct engine_err *err)
{
    struct forward_options f = { .max_rows = e->opt.max_rows,
                                 .max_logit_rows = e->opt.max_logit_rows,
                                 .n_ctx = plan->n_ctx,
                                 .n_threads = e->opt.n_threads,
                                 .skips_zeros = e->skips_zeros };
    struct kv_options kv = plan->kv;
    kv.hash = hash_bytes_128;
    if (getrandom(&kv.hash_seed, sizeof(kv.hash_seed), 0) < 0)
        kv.hash_seed = (uint64_t)(uintptr_t)e; /* before the kernel has entropy: better than none */
    int rc = kv_open(&e->kv, &kv);
    if (rc != 0)
        return engine_fail(err, ENGINE_ERR_MEMORY, "KV pages of %" PRIu64 " MiB: %s",
                           plan->kv_bytes >> 20, strerror(-rc));
    if (forward_open(&e->forward, &e->shape, &e->weights, e->kern, e->workers, e->experts,
                     &e->stats_heartbeat, &f, err) != 0)
        return -1;
    return engine_samplers_open(e, err);
}

/* ---- heat ---- */

static struct expert_heat_model heat_model(const struct engine *e)
{
    return (struct expert_heat_model){ .n_layers = e->shape.n_layers,
                                       .n_experts = e->shape.n_experts,
                                       .hash = e->info.model_hash };
}

static float *new_heats(const struct engine *e, struct engine_err *err)
{
    float *heat = calloc((size_t)e->shape.n_layers * e->shape.n_experts, sizeof(*heat));
    if (!heat)
        no_memory(err);
    return heat;
}

/* A cold start is slower, not wrong: whatever the file is, the model opens. */
static int warm_experts(struct engine *e, struct engine_err *err)
{
    struct expert_heat_model model = heat_model(e);
    const struct experts_warm_options opt = { .progress = e->opt.progress,
                                              .progress_ctx = e->opt.progress_ctx,
                                              .cancel = e->opt.cancel };
    if (!e->experts || !e->opt.heat_path)
        return 0;
    float *heat = new_heats(e, err);
    if (!heat)
        return -1;
    struct engine_err cause = { 0 };
    int rc = expert_heat_read(e->opt.heat_path, &model, heat, &cause);
    if (rc == 0)
        experts_warm(e->experts, heat, &opt);
    else if (rc < 0)
        engine_warn(e, "experts start cold: %s", cause.text);
    if (cause.code == ENGINE_ERR_OPTION)
        e->opt.heat_path = NULL; /* it is somebody else's, and stays as it is */
    free(heat);
    return 0;
}

int engine_keep_heat(struct engine *e, struct engine_err *err)
{
    struct expert_heat_model model = heat_model(e);
    if (!e->experts || !e->opt.heat_path)
        return 0;
    float *heat = new_heats(e, err);
    if (!heat)
        return -1;
    experts_heats(e->experts, heat);
    int rc = expert_heat_write(e->opt.heat_path, &model, heat, err);
    free(heat);
    return rc;
}

/* One token through all layers: the first user's first token does not pay for page faults. */
static int warm_up(struct engine *e, struct engine_err *err)
{
    struct engine_seq *seq;
    if (e->opt.progress)
        e->opt.progress(e->opt.progress_ctx, ENGINE_PHASE_WARMUP, 0, 0);
    struct engine_seq_options opt = { .max_tokens = 1, .no_cache = true, .n_prompt = 1 };
    if (engine_seq_open(e, &opt, &seq, err) != 0)
        return -1;
    int rc = engine_seq_grow(seq, 1, err);
    struct engine_row row = { .seq = seq, .want_logits = true };
    if (rc == 0)
        engine_step(e, &row, 1);
    engine_seq_close(seq);
    return rc;
}

/* Pages that are chosen are counted with 16 bits (page_choice.h). */
static int check_pages(const struct engine *e, struct engine_err *err)
{
    uint32_t most = UINT16_MAX * KV_PAGE_TOKENS;
    if (!e->opt.choose_pages || e->opt.n_ctx <= most)
        return 0;
    return engine_fail(err, ENGINE_ERR_OPTION,
                       "pages are chosen from contexts of at most %u tokens, not %u", most,
                       e->opt.n_ctx);
}

static int find_experts(struct engine *e, struct engine_err *err)
{
    if (e->shape.n_experts == 0)
        return 0;
    e->expert_layers = calloc(e->shape.n_layers, sizeof(*e->expert_layers));
    if (!e->expert_layers)
        return no_memory(err);
    for (uint32_t l = 0; l < e->shape.n_layers; l++)
        experts_find(e->gguf, l, &e->expert_layers[l]);
    e->info.n_experts = experts_n_layers(e->expert_layers, e->shape.n_layers) * e->shape.n_experts;
    return 0;
}

static int open_model(struct engine *e, struct engine_err *err)
{
    struct memory_plan plan;
    struct config_options config = { .n_vocab = e->info.n_vocab,
                                     .gating = e->opt.gating,
                                     .experts_used = e->opt.experts_used,
                                     .kv = e->opt.kv,
                                     .keeps_bounds = e->opt.choose_pages };
    if (config_read(&e->shape, e->gguf, &config, err) != 0 || check_kept(e, err) != 0)
        return -1;
    if (read_sparsity(e, err) != 0 || check_pages(e, err) != 0)
        return -1;
    choose_one_layout(e);
    if (find_experts(e, err) != 0 || make_plan(e, &plan, err) != 0)
        return -1;
    warn_of_gating(e);
    warn_of_approximation(e);
    warn_of_pre(e);
    if (load(e, &plan, err) != 0 || open_parts(e, &plan, err) != 0 || check_sparsity(e, err) != 0 ||
        open_audit(e, err) != 0)
        return -1;
    if (warm_up(e, err) != 0 || warm_experts(e, err) != 0)
        return -1;
    engine_stats_update(e);
    e->opt.sidecar_path = NULL; /* the caller's */
    return 0;
}

int engine_open(struct engine **out, const struct engine_options *opt, struct engine_err *err)
{
    *out = NULL;
    if (!opt->model_path || !*opt->model_path)
        return engine_fail(err, ENGINE_ERR_OPTION, "no model file named");
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return no_memory(err);
    if (take_options(e, opt, err) != 0 || open_file(e, err) != 0 || fill_info(e, err) != 0)
        goto fail;
    if (!opt->vocab_only && open_model(e, err) != 0)
        goto fail;
    *out = e;
    return 0;
fail:
    engine_close(e);
    return -1;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    engine_samplers_close(e);
    forward_close(e->forward);
    audit_close(e->audit);
    sparsity_close(e->sparsity);
    experts_close(e->experts);
    free(e->expert_layers);
    workers_close(e->workers);
    kv_close(e->kv);
    weights_fini(&e->weights);
    repack_close(e->packed);
    config_fini(&e->shape);
    chat_template_close(e->chat);
    tokenizer_close(e->tokenizer);
    gguf_close(e->gguf);
    for (uint32_t i = 0; i < ENGINE_MAX_WARNINGS; i++)
        free(e->warnings[i]);
    free(e->path);
    free(e->heat_path);
    free(e->name);
    free(e->file_name);
    free(e->chat_template);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

/* ---- text: the tokenizer's functions under the engine's names ---- */

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->tokenizer;
}

int engine_tokenize(const struct engine *e, const char *text, size_t len, unsigned flags,
                    struct engine_tokens *out, struct engine_err *err)
{
    return tokenizer_encode(e->tokenizer, text, len, flags, out, err);
}

int engine_tokenize_except(const struct engine *e, const char *text, size_t len, unsigned flags,
                           const size_t *not_at, size_t n_not_at, struct engine_tokens *out,
                           struct engine_err *err)
{
    return tokenizer_encode_except(e->tokenizer, text, len, flags, not_at, n_not_at, out, err);
}

size_t engine_special_length(const struct engine *e, const char *text, size_t len)
{
    return tokenizer_special_length(e->tokenizer, text, len);
}

const char *engine_token_bytes(const struct engine *e, int32_t id, size_t *len)
{
    return tokenizer_bytes(e->tokenizer, id, len);
}

bool engine_token_is_control(const struct engine *e, int32_t id)
{
    return tokenizer_is_control(e->tokenizer, id);
}

bool engine_token_is_end(const struct engine *e, int32_t id)
{
    return tokenizer_is_end(e->tokenizer, id);
}

int32_t engine_token_bos(const struct engine *e)
{
    return tokenizer_bos(e->tokenizer);
}

int32_t engine_token_eos(const struct engine *e)
{
    return tokenizer_eos(e->tokenizer);
}

bool engine_fim(const struct engine *e, struct engine_fim *out)
{
    return tokenizer_fim(e->tokenizer, out);
}

bool engine_adds_bos(const struct engine *e)
{
    return tokenizer_adds_bos(e->tokenizer);
}

int engine_chat_render(const struct engine *e, const struct engine_chat *chat, char **out,
                       size_t *len, struct engine_err *err)
{
    return chat_template_render(e->chat, chat, out, len, err);
}
