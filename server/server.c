/* SPDX-License-Identifier: Apache-2.0
 *
 * server.c - the server's states: loading, ready, draining, closed; see server.h.
 */
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/api/api.h"
#include "server/http/http.h"
#include "server/http/tls.h"
#include "server/internal.h"
#include "server/live.h"
#include "server/log.h"
#include "server/metrics.h"

enum { DRAIN_STEP_MS = 20, CANCEL_WAIT_MS = 5000 };
enum { DEAD_AFTER = 2 }; /* watchdog times: a machine that was only asleep gets one to wake up */

uint64_t srv_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int64_t wall_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- options ---- */

static void set_default(uint32_t *field, uint32_t value)
{
    if (*field == 0)
        *field = value;
}

static void fill_defaults(struct srv_options *opt)
{
    set_default(&opt->http_threads, 2);
    set_default(&opt->max_prompts, 64);
    set_default(&opt->max_n, 8);
    set_default(&opt->max_logprobs, ENGINE_MAX_TOP);
    set_default(&opt->ping_s, 5);
    set_default(&opt->watchdog_s, 60);
    if (opt->max_body_bytes == 0)
        opt->max_body_bytes = 16 << 20;
}

/* "dir/smol.Q4_1.gguf" answers to "smol.Q4_1". */
static void name_model(struct srv *s)
{
    const char *file = s->opt.model_file ? s->opt.model_file : "model";
    const char *slash = strrchr(file, '/');
    file = slash ? slash + 1 : file;
    size_t len = strlen(file), suffix = strlen(".gguf");
    if (len > suffix && strcmp(file + len - suffix, ".gguf") == 0)
        len -= suffix;
    snprintf(s->model_name, sizeof(s->model_name), "%.*s", (int)len, file);
    if (s->opt.n_aliases > 0)
        snprintf(s->model_name, sizeof(s->model_name), "%s", s->opt.aliases[0]);
}

static int check_options(const struct srv_options *opt, struct engine_err *err)
{
    if (opt->max_logprobs > ENGINE_MAX_TOP)
        return engine_fail(err, ENGINE_ERR_OPTION, "max-logprobs is %u; the limit is %d",
                           opt->max_logprobs, ENGINE_MAX_TOP);
    for (uint32_t i = 0; i < opt->n_aliases; i++)
        if (!opt->aliases[i][0] || strlen(opt->aliases[i]) > 255 ||
            !utf8_valid(opt->aliases[i], strlen(opt->aliases[i])))
            return engine_fail(err, ENGINE_ERR_OPTION,
                               "an alias must be 1 to 255 bytes of UTF-8 text");
    return 0;
}

bool srv_is_model(const struct srv *s, const char *name)
{
    if (strcmp(name, s->model_name) == 0)
        return true;
    for (uint32_t i = 0; i < s->opt.n_aliases; i++)
        if (strcmp(name, s->opt.aliases[i]) == 0)
            return true;
    return false;
}

/* ---- TLS ---- */

int srv_check_tls(const struct srv_options *opt, char *warning, size_t cap, struct engine_err *err)
{
    struct tls_pair *pair = NULL;
    snprintf(warning, cap, "%s", "");
    if (!opt->tls_cert)
        return 0;
    if (tls_pair_open(&pair, opt->tls_cert, opt->tls_key, err) != 0)
        return -1;
    if (tls_pair_warning(pair))
        snprintf(warning, cap, "%s", tls_pair_warning(pair));
    tls_pair_put(pair);
    return 0;
}

static void tell_tls(const struct tls_pair *pair)
{
    if (!pair)
        return;
    log_event(LOG_INFO_LEVEL, "tls_certificate", LOG_STR("serial", tls_pair_serial(pair)),
              LOG_STR("expires", tls_pair_expires(pair)), LOG_END);
    if (tls_pair_warning(pair))
        log_event(LOG_WARN_LEVEL, "tls_warning", LOG_STR("message", tls_pair_warning(pair)),
                  LOG_END);
}

/* ---- open ---- */

static int open_parts(struct srv *s, struct engine_err *err)
{
    if (check_options(&s->opt, err) != 0 || metrics_open(&s->metrics, err) != 0)
        return -1;
    if (live_open(&s->live, &s->opt, NULL, err) != 0)
        return -1;
    tell_tls(s->live->tls);
    atomic_store(&s->reloaded_ms, wall_clock_ms());
    if (prepare_open(&s->prepare, err) != 0 || http_open(&s->http, s, err) != 0)
        return -1;
    return http_start(s->http, err);
}

int srv_open(struct srv **out, const struct srv_options *opt, struct engine_err *err)
{
    *out = NULL;
    struct srv *s = calloc(1, sizeof(*s));
    if (!s)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the server");
    s->opt = *opt;
    pthread_mutex_init(&s->live_lock, NULL);
    fill_defaults(&s->opt);
    name_model(s);
    s->opened_at = (int64_t)time(NULL);
    s->opened_ns = srv_now_ns();
    if (open_parts(s, err) != 0) {
        srv_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void srv_loading(struct srv *s, uint64_t done_bytes, uint64_t total_bytes)
{
    atomic_store(&s->load_done_bytes, done_bytes);
    atomic_store(&s->load_total_bytes, total_bytes);
}

#ifdef __OPTIMIZE__
#define LACUNA_OPTIMIZED 1
#else
#define LACUNA_OPTIMIZED 0
#endif

/* Changes whenever the same request may get another answer: kernels of another instruction set, or
 * made by another compiler, round differently, and so do keys and values of other types; what is left out
 * at the operating points is what a calibration found. */
static void make_fingerprint(struct srv *s)
{
    const struct engine_info *info = engine_info(s->engine);
    char text[320];
    uint32_t hash = 2166136261u; /* FNV-1a */
    snprintf(text, sizeof(text), "%s %s %016llx %s %s %s %d", LACUNA_VERSION, LACUNA_COMMIT,
             (unsigned long long)info->model_hash, info->isa, info->kv, __VERSION__,
             LACUNA_OPTIMIZED);
    for (const char *c = text; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (uint32_t i = 1; i < info->n_points; i++)
        hash = (hash ^ (uint32_t)info->points[i].hash) * 16777619u;
    hash ^= s->point;
    snprintf(s->fingerprint, sizeof(s->fingerprint), "lacuna-%s-%08x", LACUNA_VERSION, hash);
}

static struct sched_options sched_options_of(const struct srv_options *opt)
{
    return (struct sched_options){
        .on_event = api_on_event,
        .max_seqs = opt->max_seqs,
        .max_queue = opt->max_queue,
        .max_queue_tokens = opt->max_queue_tokens,
        .max_queue_wait_ns = opt->max_queue_wait_s * 1000000000ull,
        .itl_target_ns = opt->itl_target_ms * 1000000ull,
        .speculate = opt->speculate,
    };
}

static int find_quality(struct srv *s, struct engine *e, struct engine_err *err)
{
    struct engine_err why = { 0 };
    int point = s->opt.quality ? engine_find_point(e, s->opt.quality, &why) : ENGINE_POINT_EXACT;
    if (point < 0)
        return engine_fail(err, ENGINE_ERR_OPTION, "--quality: %.400s", why.text);
    s->point = (uint32_t)point;
    return 0;
}

int srv_attach(struct srv *s, struct engine *e, struct engine_err *err)
{
    struct sched_options options = sched_options_of(&s->opt);
    if (find_quality(s, e, err) != 0)
        return -1;
    if (sched_open(&s->sched, e, &options, err) != 0)
        return -1;
    s->engine = e;
    make_fingerprint(s);
    atomic_store(&s->load_ns, srv_now_ns() - s->opened_ns);
    atomic_store(&s->state, SRV_READY);
    return 0;
}

/* ---- what may change ---- */

/* The lock is not what const promises. */
struct live *srv_live(const struct srv *s)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&s->live_lock;
    pthread_mutex_lock(lock);
    struct live *l = live_get(s->live);
    pthread_mutex_unlock(lock);
    return l;
}

static void exchange_live(struct srv *s, struct live *l)
{
    pthread_mutex_lock(&s->live_lock);
    struct live *before = s->live;
    s->live = l;
    pthread_mutex_unlock(&s->live_lock);
    live_put(before);
}

/* A listener speaks TLS or does not; only the certificate may be another one. */
static int check_tls_stays(const struct srv *s, const struct live *l, struct engine_err *err)
{
    if ((l->tls != NULL) == (s->live->tls != NULL))
        return 0;
    return engine_fail(
        err, ENGINE_ERR_OPTION,
        "tls-cert and tls-key %s: that takes a restart, a reload only changes the pair",
        l->tls ? "were added" : "are gone");
}

int srv_reload(struct srv *s, const struct srv_options *opt, struct engine_err *err)
{
    struct srv_options filled = *opt;
    struct sched_options queue;
    struct live *l;
    fill_defaults(&filled);
    if (check_options(&filled, err) != 0 || live_open(&l, &filled, s->live, err) != 0)
        return -1;
    if (http_check_exposure(s->http, l->auth != NULL, err) != 0 ||
        check_tls_stays(s, l, err) != 0) {
        live_put(l);
        return -1;
    }
    exchange_live(s, l);
    tell_tls(l->tls);
    queue = sched_options_of(&filled);
    if (s->sched)
        sched_set_queue_limits(s->sched, &queue);
    atomic_store(&s->reloaded_ms, wall_clock_ms());
    return 0;
}

const char *srv_address(const struct srv *s, uint32_t i)
{
    return http_address(s->http, i);
}

bool srv_is_tls(const struct srv *s, uint32_t i)
{
    return http_is_tls(s->http, i);
}

/* ---- the engine's pulse: the watch thread ---- */

void srv_tick(struct srv *s, uint64_t now_ns)
{
    struct engine_stats engine;
    struct sched_stats sched;
    if (srv_state(s) == SRV_LOADING || !s->sched)
        return;
    engine_stats(s->engine, &engine);
    sched_stats(s->sched, &sched);
    bool is_idle = sched.running_now == 0;
    if (is_idle || engine.heartbeat != s->pulse || atomic_load(&s->pulse_ns) == 0) {
        s->pulse = engine.heartbeat;
        atomic_store(&s->pulse_ns, now_ns);
    }
    uint64_t still_ns = now_ns - atomic_load(&s->pulse_ns);
    uint64_t limit_ns = s->opt.watchdog_s * 1000000000ull;
    bool is_stuck = still_ns > limit_ns;
    if (is_stuck && !atomic_load(&s->is_stuck))
        log_event(LOG_ERROR_LEVEL, "engine_stuck", LOG_U64("seconds", s->opt.watchdog_s), LOG_END);
    atomic_store(&s->is_stuck, is_stuck);
    if (still_ns > DEAD_AFTER * limit_ns && s->opt.on_engine_dead && !s->is_dead) {
        s->is_dead = true;
        s->opt.on_engine_dead();
    }
}

/* A watch thread that does not tick any more lets still_ns grow as a still engine does. */
void srv_status(const struct srv *s, struct srv_status *out)
{
    uint64_t pulse_ns = atomic_load(&s->pulse_ns), now_ns = srv_now_ns();
    *out = (struct srv_status){
        .load_done_bytes = atomic_load(&s->load_done_bytes),
        .load_total_bytes = atomic_load(&s->load_total_bytes),
        .n_completions = atomic_load(&s->n_completions),
        .still_ns = pulse_ns != 0 && now_ns > pulse_ns ? now_ns - pulse_ns : 0,
    };
}

/* ---- the end ---- */

static bool is_hurried(const volatile int *hurry)
{
    return hurry && *hurry;
}

/* Sleeps until the time is over, the requests are, or somebody is in a hurry. */
static void wait_ms(const struct srv *s, uint64_t ms, bool until_idle, const volatile int *hurry)
{
    uint64_t end_ns = srv_now_ns() + ms * 1000000;
    while (srv_now_ns() < end_ns && !is_hurried(hurry)) {
        if (until_idle && atomic_load(&s->n_completions) == 0)
            return;
        nanosleep(&(struct timespec){ .tv_nsec = DRAIN_STEP_MS * 1000000 }, NULL);
    }
}

void srv_drain(struct srv *s, uint32_t delay_s, uint32_t timeout_s, const volatile int *hurry)
{
    bool is_loaded = srv_state(s) != SRV_LOADING;
    if (is_loaded) {
        atomic_store(&s->state, SRV_DRAIN_DELAY);
        wait_ms(s, delay_s * 1000ull, false, hurry);
        atomic_store(&s->state, SRV_DRAINING);
        wait_ms(s, timeout_s * 1000ull, true, hurry);
    }
    uint32_t n_left = atomic_load(&s->n_completions);
    if (n_left == 0)
        return;
    log_event(LOG_WARN_LEVEL, "requests_cancelled", LOG_U64("n", n_left), LOG_END);
    http_cancel_all(s->http, SCHED_CANCEL_SHUTDOWN);
    wait_ms(s, CANCEL_WAIT_MS, true, hurry);
}

void srv_close(struct srv *s)
{
    if (!s)
        return;
    atomic_store(&s->state, SRV_CLOSING);
    http_close(s->http);
    prepare_close(s->prepare);
    sched_close(s->sched);
    live_put(s->live);
    metrics_close(s->metrics);
    pthread_mutex_destroy(&s->live_lock);
    free(s);
}
