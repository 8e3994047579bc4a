/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics_render.c - the text of GET /metrics.
 *
 * Each family is written whole: HELP, TYPE, then its samples, in an order that never changes.  All
 * label values come from closed sets, but for the model's name.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/http/http.h"
#include "server/live.h"
#include "server/log.h"
#include "server/metrics_store.h"

struct text {
    struct buf *b;
    bool openmetrics;
    const char *model; /* model_name="..." */
    const struct srv *srv;
    bool has_cors;
};

/* ---- words ---- */

static uint64_t load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add_number(struct buf *b, double v)
{
    if (v >= 0 && v < 1e15 && v == (double)(uint64_t)v)
        buf_u64(b, (uint64_t)v);
    else
        buf_printf(b, "%.9g", v);
}

static void add_label_value(struct buf *b, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '\\' || *s == '"')
            buf_char(b, '\\');
        if (*s == '\n')
            buf_str(b, "\\n");
        else
            buf_char(b, *s);
    }
}

/* OpenMetrics names a counter's family without the _total of its samples. */
static void add_family_name(struct text *t, const char *name, const char *type)
{
    size_t len = strlen(name), suffix = strlen("_total");
    bool cut = t->openmetrics && strcmp(type, "counter") == 0 && len > suffix &&
               strcmp(name + len - suffix, "_total") == 0;
    buf_add(t->b, name, cut ? len - suffix : len);
}

static void family(struct text *t, const char *name, const char *type, const char *help)
{
    buf_str(t->b, "# HELP ");
    add_family_name(t, name, type);
    buf_char(t->b, ' ');
    buf_str(t->b, help);
    buf_str(t->b, "\n# TYPE ");
    add_family_name(t, name, type);
    buf_printf(t->b, " %s\n", type);
}

static void sample(struct text *t, const char *name, const char *labels, double value)
{
    buf_str(t->b, name);
    if (labels && *labels) {
        buf_char(t->b, '{');
        buf_str(t->b, labels);
        buf_char(t->b, '}');
    }
    buf_char(t->b, ' ');
    add_number(t->b, value);
    buf_char(t->b, '\n');
}

/* A family of one sample. */
static void single(struct text *t, const char *name, const char *type, const char *labels,
                   double value, const char *help)
{
    family(t, name, type, help);
    sample(t, name, labels, value);
}

/* ---- histograms ---- */

static void bucket(struct text *t, const char *name, const char *labels, const double *bound,
                   uint64_t count)
{
    buf_str(t->b, name);
    buf_str(t->b, "_bucket{");
    buf_str(t->b, labels);
    buf_str(t->b, ",le=\"");
    if (bound)
        buf_printf(t->b, t->openmetrics && *bound == (double)(uint64_t)*bound ? "%.1f" : "%.9g",
                   *bound);
    else
        buf_str(t->b, "+Inf");
    buf_str(t->b, "\"} ");
    buf_u64(t->b, count);
    buf_char(t->b, '\n');
}

/* Exact: a rounded sum makes the rate of a busy server jump. */
static void add_sum(struct buf *b, uint64_t sum, bool is_ns)
{
    if (is_ns)
        buf_printf(b, "%llu.%09llu", (unsigned long long)(sum / 1000000000),
                   (unsigned long long)(sum % 1000000000));
    else
        buf_u64(b, sum);
}

static void add_histogram(struct text *t, const char *name, const char *labels,
                          const double *bounds, uint32_t n_bounds, const uint64_t *counts,
                          uint64_t sum, bool is_ns)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i <= n_bounds; i++) {
        total += counts[i];
        bucket(t, name, labels, i < n_bounds ? &bounds[i] : NULL, total);
    }
    buf_printf(t->b, "%s_sum{%s} ", name, labels);
    add_sum(t->b, sum, is_ns);
    buf_char(t->b, '\n');
    buf_printf(t->b, "%s_count{%s} ", name, labels);
    buf_u64(t->b, total);
    buf_char(t->b, '\n');
}

static void add_hist(struct text *t, const char *name, const char *labels,
                     const struct metrics_hist *h, const struct metrics_bounds *bounds, double unit)
{
    uint64_t counts[METRICS_MAX_BOUNDS + 1];
    for (uint32_t i = 0; i <= bounds->n; i++)
        counts[i] = load(&h->buckets[i]);
    add_histogram(t, name, labels, bounds->at, bounds->n, counts, load(&h->sum), unit < 1);
}

static void add_histograms(struct text *t, const struct metrics *m)
{
    for (int i = 0; i < METRICS_N_HISTOGRAMS; i++) {
        const struct metrics_histogram_info *info = &metrics_histograms[i];
        family(t, info->name, "histogram", info->help);
        add_hist(t, info->name, t->model, &m->hist[i], info->bounds, info->unit);
    }
}

/* ---- HTTP ---- */

static const char *const method_names[METRICS_N_METHODS] = { "GET", "HEAD", "POST", "OPTIONS",
                                                             "other" };

static bool is_shown(const struct text *t, uint32_t route, uint32_t method)
{
    bool is_preflight = 1u << method == HTTP_OPTIONS && t->has_cors;
    return method + 1 == METRICS_N_METHODS || is_preflight ||
           (http_routes[route].methods & 1u << method);
}

static void add_http_counts(struct text *t, const struct metrics *m, uint32_t route,
                            uint32_t method)
{
    for (uint32_t code = 0; code < METRICS_N_CODES; code++) {
        buf_printf(t->b, "lacuna_http_requests_total{route=\"%s\",method=\"%s\",code=\"",
                   http_routes[route].name, method_names[method]);
        if (metrics_codes[code])
            buf_u64(t->b, metrics_codes[code]);
        else
            buf_str(t->b, "other");
        buf_str(t->b, "\"} ");
        buf_u64(t->b, load(&m->http[route][method][code]));
        buf_char(t->b, '\n');
    }
}

static void add_http(struct text *t, const struct metrics *m)
{
    family(t, "lacuna_http_requests_total", "counter", "Requests answered, by route.");
    for (uint32_t r = 0; r < http_n_routes; r++)
        for (uint32_t method = 0; method < METRICS_N_METHODS; method++)
            if (is_shown(t, r, method))
                add_http_counts(t, m, r, method);
    family(t, "lacuna_http_request_duration_seconds", "histogram",
           "From a request's headers to the end of its answer.");
    for (uint32_t r = 0; r < http_n_routes; r++) {
        char labels[64] = "route=\"";
        strncat(labels, http_routes[r].name, sizeof(labels) - 12);
        strcat(labels, "\"");
        add_hist(t, "lacuna_http_request_duration_seconds", labels, &m->http_seconds[r],
                 &metrics_bounds_e2e, 1e-9);
    }
    single(t, "lacuna_http_connections", "gauge", NULL, http_n_connections(t->srv->http),
           "Open connections.");
    single(t, "lacuna_sse_streams", "gauge", NULL, http_n_streams(t->srv->http),
           "Event streams being written.");
}

/* ---- requests ---- */

static uint64_t n_cancelled(const struct metrics *m)
{
    uint64_t n = 0;
    for (int phase = 0; phase < METRICS_N_PHASES; phase++)
        for (int cause = 1; cause < METRICS_N_CAUSES; cause++)
            n += load(&m->cancelled[phase][cause]);
    return n;
}

static void add_success(struct text *t, const struct metrics *m)
{
    static const char *const names[METRICS_N_FINISHES] = { NULL, "stop", "length" };
    family(t, "lacuna_request_success_total", "counter",
           "Choices that ended as they should, and requests that were cancelled (abort).");
    for (int i = 1; i < METRICS_N_FINISHES; i++) {
        buf_printf(t->b, "lacuna_request_success_total{%s,finished_reason=\"%s\"} ", t->model,
                   names[i]);
        buf_u64(t->b, load(&m->success[i]));
        buf_char(t->b, '\n');
    }
    buf_printf(t->b, "lacuna_request_success_total{%s,finished_reason=\"abort\"} ", t->model);
    buf_u64(t->b, n_cancelled(m));
    buf_char(t->b, '\n');
}

static uint64_t rejected_for(const struct metrics *m, const char *reason)
{
    uint64_t n = 0;
    for (int kind = 0; kind < API_N_ERROR_KINDS; kind++) {
        const char *of_kind = api_error_reason((enum api_error_kind)kind);
        if (of_kind && strcmp(of_kind, reason) == 0)
            n += load(&m->rejected[kind]);
    }
    return n;
}

static void add_rejected(struct text *t, const struct metrics *m)
{
    static const char *const reasons[] = { "queue_full", "token_backlog", "queue_timeout",
                                           "key_limit",  "loading",       "draining",
                                           "invalid",    "too_long" };
    family(t, "lacuna_requests_rejected_total", "counter", "Requests refused, by reason.");
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        buf_printf(t->b, "lacuna_requests_rejected_total{%s,reason=\"%s\"} ", t->model, reasons[i]);
        buf_u64(t->b, rejected_for(m, reasons[i]));
        buf_char(t->b, '\n');
    }
}

static void add_cancelled(struct text *t, const struct metrics *m)
{
    static const char *const causes[METRICS_N_CAUSES] = { NULL, "client", "slow_reader", "deadline",
                                                          "shutdown" };
    family(t, "lacuna_requests_cancelled_total", "counter",
           "Requests ended before their time, by what they were doing and why.");
    for (int phase = 0; phase < METRICS_N_PHASES; phase++)
        for (int cause = 1; cause < METRICS_N_CAUSES; cause++) {
            buf_printf(t->b, "lacuna_requests_cancelled_total{%s,phase=\"%s\",cause=\"%s\"} ",
                       t->model, metrics_phase_name((enum metrics_phase)phase), causes[cause]);
            buf_u64(t->b, load(&m->cancelled[phase][cause]));
            buf_char(t->b, '\n');
        }
}

/* ---- the scheduler and the engine ---- */

static void add_scheduler(struct text *t, const struct sched_stats *s)
{
    single(t, "lacuna_requests_running", "gauge", t->model, s->running_now, "Requests running.");
    single(t, "lacuna_requests_waiting", "gauge", t->model, s->waiting_now, "Requests queued.");
    single(t, "lacuna_waiting_prompt_tokens", "gauge", t->model, (double)s->waiting_tokens_now,
           "Prompt tokens of queued requests.");
    single(t, "lacuna_batch_size", "gauge", t->model, s->batch_size_now,
           "Sequences in the last step.");
    single(t, "lacuna_prompt_tokens_total", "counter", t->model, (double)s->prompt_tokens,
           "Prompt tokens, whether computed or found in the prefix cache.");
    single(t, "lacuna_prefill_tokens_total", "counter", t->model, (double)s->prefill_tokens,
           "Prompt tokens computed, again after a preemption too.");
    single(t, "lacuna_generation_tokens_total", "counter", t->model, (double)s->generated_tokens,
           "Tokens generated.");
}

static void add_steps(struct text *t, const struct sched_stats *s)
{
    struct buf labels = { 0 };
    family(t, "lacuna_engine_step_seconds", "histogram",
           "Duration of a step, with prompt rows (prefill) or without (decode).");
    buf_printf(&labels, "%s", t->model);
    buf_str(&labels, ",phase=\"prefill\"");
    buf_char(&labels, '\0');
    add_histogram(t, "lacuna_engine_step_seconds", labels.failed ? t->model : labels.data,
                  sched_step_bounds, SCHED_N_STEP_BOUNDS, s->prefill_step, s->prefill_step_ns,
                  true);
    buf_clear(&labels);
    buf_printf(&labels, "%s", t->model);
    buf_str(&labels, ",phase=\"decode\"");
    buf_char(&labels, '\0');
    add_histogram(t, "lacuna_engine_step_seconds", labels.failed ? t->model : labels.data,
                  sched_step_bounds, SCHED_N_STEP_BOUNDS, s->decode_step, s->decode_step_ns, true);
    buf_fini(&labels);
    family(t, "lacuna_engine_step_tokens", "histogram", "Rows of a step.");
    add_histogram(t, "lacuna_engine_step_tokens", t->model, sched_step_token_bounds,
                  SCHED_N_STEP_TOKEN_BOUNDS, s->step_tokens, s->step_tokens_sum, false);
}

/* ---- the cache ---- */

/* Everything that is said of the cache comes from here. */
struct cache_facts {
    uint32_t page_tokens, pages, used, cached, free;
    uint64_t query_tokens, hit_tokens, preemptions;
    double usage;
    const char *dtype;
};

static struct cache_facts read_cache(const struct engine *e, const struct sched_stats *s)
{
    struct engine_stats stats = { 0 };
    if (e)
        engine_stats(e, &stats);
    uint32_t used = stats.kv_pages - stats.kv_pages_free;
    uint32_t cached = stats.kv_pages_cached < stats.kv_pages_free ? stats.kv_pages_cached
                                                                  : stats.kv_pages_free;
    return (struct cache_facts){
        .page_tokens = e ? engine_info(e)->page_tokens : 0,
        .pages = stats.kv_pages,
        .used = used,
        .cached = cached,
        .free = stats.kv_pages_free - cached,
        .query_tokens = s->prefix_query_tokens,
        .hit_tokens = s->prefix_hit_tokens,
        .preemptions = s->preemptions,
        .usage = stats.kv_pages ? (double)used / stats.kv_pages : 0,
        .dtype = e ? engine_info(e)->kv : "",
    };
}

static void add_pages(struct text *t, const char *state, uint32_t n)
{
    buf_printf(t->b, "lacuna_kv_cache_pages{%s,state=\"%s\"} %u\n", t->model, state, n);
}

static void add_cache(struct text *t, const struct cache_facts *c)
{
    single(t, "lacuna_kv_cache_usage_ratio", "gauge", t->model, c->usage,
           "Share of the KV pages in use.");
    family(t, "lacuna_kv_cache_pages", "gauge",
           "KV pages in use, kept for a prefix that may come again, and empty.");
    add_pages(t, "used", c->used);
    add_pages(t, "cached", c->cached);
    add_pages(t, "free", c->free);
    family(t, "lacuna_cache_config_info", "gauge",
           "Tokens per KV page, pages, and the type of what they hold.");
    buf_printf(t->b,
               "lacuna_cache_config_info{%s,block_size=\"%u\",num_blocks=\"%u\",cache_dtype=\"%s\"}"
               " 1\n",
               t->model, c->page_tokens, c->pages, c->dtype);
    single(t, "lacuna_prefix_cache_queries_total", "counter", t->model, (double)c->query_tokens,
           "Prompt tokens looked for in the prefix cache.");
    single(t, "lacuna_prefix_cache_hits_total", "counter", t->model, (double)c->hit_tokens,
           "Prompt tokens found there, which were not computed again.");
    single(t, "lacuna_num_preemptions_total", "counter", t->model, (double)c->preemptions,
           "Choices paused because the KV pages ran out.");
}

/* A counter by layer. */
struct layer_counter {
    const char *name, *help;
    size_t at; /* in struct engine_expert_layer */
};

static void add_layer_counter(struct text *t, const struct layer_counter *c,
                              const struct engine_expert_layer *layers, uint32_t n_layers)
{
    family(t, c->name, "counter", c->help);
    for (uint32_t l = 0; l < n_layers; l++) {
        uint64_t value;
        memcpy(&value, (const char *)&layers[l] + c->at, sizeof(value));
        buf_printf(t->b, "%s{%s,layer=\"%u\"} %llu\n", c->name, t->model, l,
                   (unsigned long long)value);
    }
}

/* Nothing if all experts are in memory: a series for each layer would be noise. */
static void add_expert_layers(struct text *t, const struct engine *e)
{
    static const struct layer_counter counters[] = {
        { "lacuna_expert_layer_hits_total", "Of lacuna_expert_cache_hits_total, those of a layer.",
          offsetof(struct engine_expert_layer, n_hits) },
        { "lacuna_expert_layer_misses_total",
          "Experts of a layer's steps that were not in memory, foreseen ones included.",
          offsetof(struct engine_expert_layer, n_misses) },
        { "lacuna_expert_layer_foreseen_right_total",
          "Experts that were not in memory, were foreseen, read or not, and chosen.",
          offsetof(struct engine_expert_layer, n_right) },
        { "lacuna_expert_layer_foreseen_wrong_total",
          "Experts that were not in memory, were foreseen, read or not, and not chosen.",
          offsetof(struct engine_expert_layer, n_wrong) },
    };
    uint32_t n_layers = e ? engine_info(e)->n_layers : 0;
    struct engine_expert_layer *layers = calloc(n_layers ? n_layers : 1, sizeof(*layers));
    if (layers && n_layers && engine_expert_layers(e, layers)) {
        for (uint32_t l = 0; l < n_layers; l++)
            layers[l].n_misses += layers[l].n_foreseen;
        family(t, "lacuna_expert_layer_resident", "gauge", "Experts of a layer in memory.");
        for (uint32_t l = 0; l < n_layers; l++)
            buf_printf(t->b, "lacuna_expert_layer_resident{%s,layer=\"%u\"} %u\n", t->model, l,
                       layers[l].n_resident);
        for (size_t i = 0; i < sizeof(counters) / sizeof(*counters); i++)
            add_layer_counter(t, &counters[i], layers, n_layers);
    }
    free(layers);
}

static void add_neurons(struct text *t, const struct engine *e)
{
    struct engine_stats s = { 0 };
    if (e)
        engine_stats(e, &s);
    single(
        t, "lacuna_neurons_total", "counter", t->model, (double)s.n_neurons,
        "Neurons of feed-forwards where some are left out (--skip-zeros, --quality), of all tokens "
        "computed.");
    single(t, "lacuna_neurons_up_total", "counter", t->model, (double)s.n_neurons_up,
           "Those of them whose rows of the up matrix were wanted.");
    single(t, "lacuna_neurons_down_total", "counter", t->model, (double)s.n_neurons_down,
           "Those of them whose columns of the down matrix were wanted.");
}

static void add_products_of(struct text *t, const char *site, uint64_t n_all, uint64_t n_skipping)
{
    const char *form = "lacuna_sparsity_products_total{%s,site=\"%s\",zeros=\"%s\"} %llu\n";
    unsigned long long skipping = n_skipping, multiplying = n_all - n_skipping;
    buf_printf(t->b, form, t->model, site, "skipped", skipping);
    buf_printf(t->b, form, t->model, site, "multiplied", multiplying);
}

static void add_products(struct text *t, const struct engine *e)
{
    struct engine_stats s = { 0 };
    if (e)
        engine_stats(e, &s);
    family(t, "lacuna_sparsity_products_total", "counter",
           "Products with feed-forward matrices whose zeros could be skipped or multiplied, "
           "whichever was faster (--skip-zeros auto).");
    add_products_of(t, "up", s.n_up_products, s.n_up_skipping);
    add_products_of(t, "down", s.n_down_products, s.n_down_skipping);
}

static void add_audits(struct text *t, const struct engine *e)
{
    struct engine_audit_stats s = { 0 };
    if (e)
        engine_audit_stats(e, &s);
    uint64_t n = 0;
    for (uint32_t g = 0; g < ENGINE_AUDIT_GROUPS; g++)
        n += s.group[g].n;
    single(t, "lacuna_sparsity_audits_total", "counter", t->model, (double)n,
           "Feed-forwards of a token that were computed whole, too (--audit-steps).");
    single(t, "lacuna_sparsity_points_withdrawn", "gauge", t->model, s.n_withdrawn,
           "Operating points that audits found to lose more than their calibration says.");
    family(t, "lacuna_sparsity_audit_error", "gauge",
           "How far off the output of feed-forwards is that leave something out, as a share of the "
           "whole output; a mean of the latest audits of these layers.");
    for (uint32_t g = 0; g < ENGINE_AUDIT_GROUPS; g++)
        if (s.group[g].layer1 > s.group[g].layer0)
            buf_printf(t->b, "lacuna_sparsity_audit_error{%s,layers=\"%u-%u\"} %.9g\n", t->model,
                       s.group[g].layer0, s.group[g].layer1 - 1, s.group[g].error);
}

static void add_experts(struct text *t, const struct engine *e)
{
    struct engine_expert_stats s = { 0 };
    if (e)
        engine_expert_stats(e, &s);
    single(t, "lacuna_experts", "gauge", t->model, e ? engine_info(e)->n_experts : 0,
           "Experts of all layers; 0: the model is no mixture.");
    single(t, "lacuna_experts_per_token", "gauge", t->model, e ? engine_info(e)->n_experts_used : 0,
           "Experts that compute a token in a layer (--experts-used).");
    single(t, "lacuna_expert_cache_slots", "gauge", t->model, s.n_slots,
           "Experts that memory holds (--expert-cache); 0: all, or the model has none.");
    single(t, "lacuna_expert_cache_hits_total", "counter", t->model, (double)s.sum.n_hits,
           "Experts of a layer's step that were in memory.");
    single(t, "lacuna_expert_cache_misses_total", "counter", t->model, (double)s.sum.n_misses,
           "Experts of a layer's step that had to be read.");
    single(t, "lacuna_expert_cache_foreseen_total", "counter", t->model, (double)s.sum.n_foreseen,
           "Experts of a layer's step that were being read, or had been, because they were "
           "foreseen.");
    single(t, "lacuna_expert_replaced_total", "counter", t->model, (double)s.sum.n_replaced,
           "Experts of tokens that gave way to others in memory (--experts-kept).");
    single(t, "lacuna_expert_cache_unused_total", "counter", t->model, (double)s.sum.n_unused,
           "Experts that were foreseen and read, but not chosen.");
    single(t, "lacuna_expert_cache_evictions_total", "counter", t->model, (double)s.n_evictions,
           "Experts that made room for others.");
    single(t, "lacuna_expert_read_bytes_total", "counter", t->model, (double)s.read_bytes,
           "Bytes of experts read from storage.");
    family(t, "lacuna_expert_read_seconds", "histogram",
           "From asking for an expert to having read it.");
    add_histogram(t, "lacuna_expert_read_seconds", t->model, engine_read_bounds, ENGINE_READ_BOUNDS,
                  s.reads, s.read_ns, true);
    single(t, "lacuna_expert_stall_seconds_total", "counter", t->model, (double)s.stall_ns * 1e-9,
           "Waiting for experts with nothing else to compute.");
    add_expert_layers(t, e);
}

static void add_drafts(struct text *t, const struct sched_stats *s)
{
    single(t, "lacuna_draft_tokens_total", "counter", t->model, (double)s->drafted_tokens,
           "Tokens computed as guesses (--speculate).");
    single(t, "lacuna_accepted_draft_tokens_total", "counter", t->model, (double)s->accepted_tokens,
           "Of these, which were then chosen.");
}

/* What routers of the Gateway API Inference Extension read of servers that they take for vLLM.  The
 * colon is against the rules for names, so these are never there unasked. */
static void add_vllm(struct text *t, const struct sched_stats *s, const struct cache_facts *c)
{
    struct buf labels = { 0 };
    buf_printf(&labels, "%s,engine=\"0\"", t->model);
    buf_char(&labels, '\0');
    const char *l = labels.failed ? t->model : labels.data;
    single(t, "vllm:num_requests_running", "gauge", l, s->running_now, "Requests running.");
    single(t, "vllm:num_requests_waiting", "gauge", l, s->waiting_now, "Requests queued.");
    single(t, "vllm:kv_cache_usage_perc", "gauge", l, c->usage, "Share of the KV pages in use.");
    family(t, "vllm:cache_config_info", "gauge", "Tokens per KV page, and pages.");
    buf_printf(t->b, "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\"} 1\n", l,
               c->page_tokens, c->pages);
    buf_fini(&labels);
}

/* ---- the server and its process ---- */

static void add_info(struct text *t, const struct engine *e)
{
    family(t, "lacuna_build_info", "gauge", "What was built, and the instruction set in use.");
    buf_str(t->b, "lacuna_build_info{version=\"" LACUNA_VERSION "\",commit=\"" LACUNA_COMMIT
                  "\",cpu_isa=\"");
    add_label_value(t->b, e ? engine_info(e)->isa : "");
    buf_str(t->b, "\"} 1\n");
    family(t, "lacuna_io_backend_info", "gauge", "How the weights were read.");
    buf_str(t->b, "lacuna_io_backend_info{backend=\"");
    add_label_value(t->b, e ? engine_info(e)->io : "");
    buf_str(t->b, "\"} 1\n");
}

static void add_state(struct text *t, enum srv_state state)
{
    single(t, "lacuna_ready", "gauge", NULL, state == SRV_READY && !atomic_load(&t->srv->is_stuck),
           "1 if requests should come here.");
    single(t, "lacuna_draining", "gauge", NULL, state >= SRV_DRAIN_DELAY,
           "1 once the server was asked to stop.");
    family(t, "lacuna_last_reload_success_timestamp_seconds", "gauge",
           "When the configuration in force was read, since 1970.");
    buf_printf(t->b, "lacuna_last_reload_success_timestamp_seconds %.3f\n",
               (double)atomic_load(&t->srv->reloaded_ms) * 1e-3);
    single(t, "lacuna_model_load_seconds", "gauge", t->model,
           (double)atomic_load(&t->srv->load_ns) * 1e-9, "From the start until ready.");
}

static void add_log(struct text *t)
{
    static const char *const levels[] = { "debug", "info", "warn", "error" };
    family(t, "lacuna_log_messages_total", "counter", "Log lines written.");
    for (int i = 0; i < 4; i++)
        buf_printf(t->b, "lacuna_log_messages_total{level=\"%s\"} %llu\n", levels[i],
                   (unsigned long long)log_count((enum log_level)i));
}

static void add_memory(struct text *t, const struct metrics_process *p)
{
    static const char *const help[6] = {
        "Bytes the program asked the allocator for.",
        "Bytes in pages that hold such bytes.",
        "Bytes of the allocator's own.",
        "Bytes of the allocator in memory.",
        "Bytes the allocator has mapped.",
        "Bytes kept for reuse without memory.",
    };
    for (int i = 0; p->has_memory && i < 6; i++) {
        char name[48] = "lacuna_memory_";
        strcat(name, metrics_memory_names[i]);
        strcat(name, "_bytes");
        single(t, name, "gauge", NULL, (double)p->memory[i], help[i]);
    }
}

static void add_process(struct text *t)
{
    struct metrics_process p;
    struct timespec cpu;
    metrics_read_process(&p);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    add_memory(t, &p);
    single(t, "process_cpu_seconds_total", "counter", NULL,
           (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9, "Processor time used.");
    single(t, "process_resident_memory_bytes", "gauge", NULL, (double)p.resident_bytes,
           "Memory in use, mapped weights included.");
    single(t, "process_virtual_memory_bytes", "gauge", NULL, (double)p.virtual_bytes,
           "Address space in use.");
    single(t, "process_open_fds", "gauge", NULL, (double)p.open_fds, "Open file descriptors.");
    single(t, "process_max_fds", "gauge", NULL, (double)p.max_fds,
           "How many file descriptors may be open.");
    family(t, "process_start_time_seconds", "gauge", "When the process started, since 1970.");
    buf_printf(t->b, "process_start_time_seconds %.2f\n", p.start_time_seconds);
}

void metrics_render(const struct srv *s, struct buf *out, bool openmetrics)
{
    struct buf model = { 0 };
    struct sched_stats stats = { 0 };
    enum srv_state state = srv_state(s);
    const struct engine *e = state == SRV_LOADING ? NULL : s->engine;
    buf_str(&model, "model_name=\"");
    add_label_value(&model, s->model_name);
    buf_add(&model, "\"", 2); /* with the end of the string */
    struct live *live = srv_live(s);
    struct text t = { out, openmetrics, model.failed ? "" : model.data, s,
                      live->cors_origins.n > 0 };
    live_put(live);
    if (state != SRV_LOADING && s->sched)
        sched_stats(s->sched, &stats);
    struct cache_facts cache = read_cache(e, &stats);
    add_scheduler(&t, &stats);
    add_cache(&t, &cache);
    add_drafts(&t, &stats);
    add_neurons(&t, e);
    add_products(&t, e);
    add_audits(&t, e);
    add_experts(&t, e);
    add_success(&t, s->metrics);
    add_rejected(&t, s->metrics);
    add_cancelled(&t, s->metrics);
    add_histograms(&t, s->metrics);
    add_steps(&t, &stats);
    add_http(&t, s->metrics);
    add_state(&t, state);
    add_info(&t, e);
    add_log(&t);
    add_process(&t);
    if (s->opt.metrics_vllm)
        add_vllm(&t, &stats, &cache);
    if (openmetrics)
        buf_str(out, "# EOF\n");
    buf_fini(&model);
}
