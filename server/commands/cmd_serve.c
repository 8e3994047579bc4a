/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_serve.c - `lacuna serve`: listen, load, serve, drain, close in reverse.
 *
 * Listening comes first, so that a second daemon on the same address fails before it loads
 * gigabytes, and so that probes get answers meanwhile.  The main thread loads and then waits; the
 * signal thread stops both.  People read stderr on a terminal (log format text), machines elsewhere
 * (json): what is only meant for people is printed in the first case and logged in the second.
 */
#include "server/commands/commands.h"
#include "server/commands/notify.h"
#include "server/log.h"
#include "server/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct serve {
    const struct options *o;
    const char *path;
    struct srv *srv;
    struct engine *engine;
    struct cmd_progress progress;
    struct notifier *notifier;
    struct srv_socket sockets[NOTIFY_MAX_SOCKETS]; /* that systemd handed over */
    uint32_t n_sockets;
    bool json;
    double started;
};

/* What the daemon itself takes beside the engine: connections, bodies being received and prepared,
 * streams. */
enum { HTTP_FIXED_BYTES = 32 << 20, HTTP_BODIES = 4 };

/* ---- options ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* What stands still holds locks: there is no orderly end, only a new start, which is the
 * supervisor's. */
static void end_for_restart(void)
{
    log_event(LOG_ERROR_LEVEL, "engine_dead", LOG_U64("exit_code", EX_SOFTWARE), LOG_END);
    cmd_end_now(EX_SOFTWARE);
}

static void server_options(const struct options *o, const char *path, struct srv_options *out)
{
    *out = (struct srv_options){
        .listen = o->listen.items,
        .n_listen = o->listen.n,
        .aliases = o->alias.items,
        .n_aliases = o->alias.n,
        .model_file = base_name(path),
        .api_key_file = o->api_key_file,
        .tls_cert = o->tls_cert,
        .tls_key = o->tls_key,
        .insecure_no_auth = o->insecure_no_auth,
        .public_models = o->public_models,
        .any_model = o->model_policy == 1,
        .strict_params = o->strict_params,
        .strict_max_tokens = o->strict_max_tokens,
        .parse_special = o->parse_special,
        .slow_status_503 = o->overload_status == 1,
        .timings = o->timings,
        .slots_endpoint = o->slots_endpoint,
        .max_tokens_default = o->max_tokens_default,
        .allowed_hosts = o->allowed_host.items,
        .n_allowed_hosts = o->allowed_host.n,
        .cors_origins = o->cors_origin.items,
        .n_cors_origins = o->cors_origin.n,
        .metrics_listen = o->metrics_listen,
        .http_threads = o->http_threads,
        .max_body_bytes = o->max_body,
        .max_prompts = o->max_prompts,
        .max_n = o->max_n,
        .max_logprobs = o->max_logprobs,
        .max_seqs = o->slots,
        .max_queue = o->max_queue,
        .max_queue_tokens = o->max_queue_tokens,
        .max_queue_wait_s = o->max_queue_wait_s,
        .itl_target_ms = o->itl_target_ms,
        .speculate = o->speculate == 1,
        .quality = o->quality,
        .ping_s = o->ping_s,
        .request_timeout_s = o->request_timeout_s,
        .watchdog_s = o->watchdog_s,
        .metrics_vllm = o->metrics_compat == 1,
        .no_page = o->no_page,
        .on_engine_dead = end_for_restart,
    };
}

static void print_line(void *ctx, const char *text)
{
    (void)ctx;
    puts(text);
}

static int check_tls(const struct options *o)
{
    struct srv_options opt;
    struct engine_err err = { 0 };
    char warning[512];
    server_options(o, "", &opt);
    if (srv_check_tls(&opt, warning, sizeof(warning), &err) != 0)
        return cmd_fail_err(&err);
    return warning[0] ? cmd_fail(0, "%s", warning) : 0;
}

static int check_config(const struct options *o)
{
    const struct options_printer to = { .line = print_line };
    options_print(o, &cmd_serve.usage, &to);
    return fflush(stdout) ? EX_IOERR : check_tls(o);
}

/* ---- what people and machines are told ---- */

static int fail(const struct serve *s, int exit_code, const char *text)
{
    if (!s->json)
        return cmd_fail(exit_code, "%s", text);
    log_event(LOG_ERROR_LEVEL, "failed", LOG_STR("message", text),
              LOG_U64("exit_code", (uint64_t)exit_code), LOG_END);
    return exit_code;
}

static void tell_memory_plan(const struct serve *s, const struct engine_info *info)
{
    uint64_t total = 0;
    char size[CMD_BYTES_MAX];
    if (!s->json)
        fputs("memory plan\n", stderr);
    for (uint32_t i = 0; i < info->n_plan; i++) {
        const struct engine_plan_line *line = &info->plan[i];
        total += line->bytes;
        cmd_bytes_text(line->bytes, size);
        if (s->json)
            log_event(LOG_INFO_LEVEL, "memory_plan", LOG_STR("what", line->what),
                      LOG_U64("bytes", line->bytes), LOG_END);
        else
            fprintf(stderr, "  %-32s %12s\n", line->what, size);
    }
    cmd_bytes_text(total, size);
    if (!s->json)
        fprintf(stderr, "  %-32s %12s\n", "total", size);
}

static void tell_model(const struct serve *s, const struct engine_info *info)
{
    log_event(LOG_INFO_LEVEL, "model_loaded", LOG_STR("file", info->file_name),
              LOG_STR("arch", info->arch), LOG_STR("name", info->name), LOG_STR("isa", info->isa),
              LOG_STR("io", info->io), LOG_STR("expert_io", info->expert_io),
              LOG_STR("kv_type", info->kv), LOG_U64("params", info->n_params),
              LOG_U64("file_bytes", info->file_bytes), LOG_U64("ctx", info->n_ctx),
              LOG_U64("threads", info->n_threads), LOG_F64("seconds", cmd_now() - s->started),
              LOG_END);
    for (uint32_t i = 0; i < info->n_warnings; i++)
        log_event(LOG_WARN_LEVEL, "model_warning", LOG_STR("message", info->warnings[i]), LOG_END);
    tell_memory_plan(s, info);
}

/* The wildcard address is where to listen, not where to connect. */
static const char *connect_address(const char *address, char *buf, size_t cap)
{
    static const char any4[] = "0.0.0.0:", any6[] = "[::]:";
    const char *port = NULL;
    if (strncmp(address, any4, sizeof(any4) - 1) == 0)
        port = address + sizeof(any4) - 1;
    else if (strncmp(address, any6, sizeof(any6) - 1) == 0)
        port = address + sizeof(any6) - 1;
    if (!port)
        return address;
    snprintf(buf, cap, "127.0.0.1:%s", port);
    return buf;
}

/* Where to connect: "https://127.0.0.1:8080", or "unix:/path". */
static void url_text(const struct serve *s, char *out, size_t cap)
{
    char buf[64];
    const char *address = srv_address(s->srv, 0);
    const char *scheme = srv_is_tls(s->srv, 0) ? "https" : "http";
    if (strncmp(address, "unix:", 5) == 0)
        snprintf(out, cap, "%s", address);
    else
        snprintf(out, cap, "%s://%s", scheme, connect_address(address, buf, sizeof(buf)));
}

static void print_curl_line(const struct serve *s, const char *url)
{
    const char *key = s->o->api_key_file ? " -H \"Authorization: Bearer $LACUNA_KEY\"" : "";
    /* A certificate is for a name, seldom for the address of this machine: -k. */
    if (strncmp(url, "unix:", 5) == 0)
        printf("curl --unix-socket '%s' http://localhost", url + 5);
    else
        printf("curl %s%s", srv_is_tls(s->srv, 0) ? "-k " : "", url);
    /* "model" is left out on purpose: it is optional, and names may need quoting. */
    printf("/v1/completions%s -H 'Content-Type: application/json'"
           " -d '{\"prompt\":\"The capital of France is\",\"max_tokens\":16,"
           "\"temperature\":0}'\n",
           key);
    fflush(stdout);
}

static void tell_ready(const struct serve *s)
{
    char url[192];
    url_text(s, url, sizeof(url));
    log_event(LOG_INFO_LEVEL, "ready", LOG_STR("address", srv_address(s->srv, 0)),
              LOG_STR("url", url), LOG_F64("seconds", cmd_now() - s->started), LOG_END);
    if (!s->json)
        print_curl_line(s, url);
    notify_ready(s->notifier);
}

/* ---- life ---- */

static int open_server(struct serve *s)
{
    struct srv_options opt;
    struct engine_err err = { 0 };
    server_options(s->o, s->path, &opt);
    opt.sockets = s->sockets;
    opt.n_sockets = s->n_sockets;
    if (srv_open(&s->srv, &opt, &err) == 0) {
        s->notifier = notify_open(s->srv);
        return 0;
    }
    return fail(s, err.code == ENGINE_ERR_IO ? EX_UNAVAILABLE : exit_code_of(err.code), err.text);
}

static void plan_http(const struct options *o, struct engine_options *opt)
{
    opt->http_bytes = HTTP_FIXED_BYTES + HTTP_BODIES * o->max_body;
}

/* NULL: none is kept.  The caller frees it. */
static char *heat_path(const struct options *o, const char *model)
{
    if (strcmp(o->expert_heat, "off") == 0)
        return NULL;
    if (strcmp(o->expert_heat, "auto") != 0)
        return strdup(o->expert_heat);
    return cmd_beside_model(model, ENGINE_HEAT_SUFFIX);
}

static void keep_heat(const struct serve *s)
{
    struct engine_err err = { 0 };
    if (s->engine && engine_keep_heat(s->engine, &err) != 0)
        log_event(LOG_WARN_LEVEL, "expert_heat_not_kept", LOG_STR("message", err.text), LOG_END);
}

static void tell_withdrawn(void *ctx, uint32_t point, double times)
{
    const struct serve *s = ctx;
    const struct engine_point *points = engine_info(s->engine)->points;
    uint32_t now = engine_point_in_force(s->engine, point);
    log_event(LOG_WARN_LEVEL, "operating_point_withdrawn", LOG_STR("point", points[point].name),
              LOG_F64("times_expected_error", times), LOG_STR("instead", points[now].name),
              LOG_STR("message",
                      "what is asked differs from the text that the model was calibrated "
                      "with: calibrate again with text like it"),
              LOG_END);
}

static int load_model(struct serve *s)
{
    struct engine_options opt;
    struct engine_err err = { 0 };
    cmd_engine_options(s->o, s->path, &opt);
    plan_http(s->o, &opt);
    char *heat = heat_path(s->o, s->path);
    opt.heat_path = heat;
    char *sidecar = cmd_sidecar_path(s->o, s->path);
    opt.sidecar_path = sidecar;
    s->progress = (struct cmd_progress){ .line = !s->json && isatty(STDERR_FILENO),
                                         .log = s->json || !isatty(STDERR_FILENO),
                                         .srv = s->srv };
    opt.progress = cmd_progress_show;
    opt.progress_ctx = &s->progress;
    opt.cancel = cmd_signals_flag();
    opt.withdrawn = tell_withdrawn;
    opt.withdrawn_ctx = s;
    int rc = engine_open(&s->engine, &opt, &err);
    free(heat);
    free(sidecar);
    cmd_progress_end(&s->progress);
    if (rc && err.code == ENGINE_ERR_CANCELLED)
        return EXIT_INTERRUPTED;
    if (rc)
        return fail(s, exit_code_of(err.code), err.text);
    tell_model(s, engine_info(s->engine));
    if (srv_attach(s->srv, s->engine, &err))
        return fail(s, exit_code_of(err.code), err.text);
    return 0;
}

/* ---- SIGHUP ---- */

static int reload(const struct serve *s, struct options *fresh, struct engine_err *err)
{
    struct options_outcome outcome;
    struct srv_options opt;
    if (options_parse_again(fresh, s->o, &outcome) != 0)
        return engine_fail(err, ENGINE_ERR_OPTION, "%.500s", outcome.message);
    server_options(fresh, s->path, &opt);
    return srv_reload(s->srv, &opt, err);
}

static void tell_reloaded(const struct serve *s, const struct options *fresh)
{
    char names[256];
    if (options_fixed_changes(s->o, fresh, names, sizeof(names)) > 0)
        log_event(LOG_WARN_LEVEL, "reload_needs_restart", LOG_STR("options", names), LOG_END);
    log_event(LOG_INFO_LEVEL, "reloaded", LOG_END);
}

/* All or nothing: what cannot be read or is wrong leaves everything as it was. */
static void on_reload(const struct serve *s)
{
    struct options fresh = { 0 };
    struct engine_err err = { 0 };
    notify_reloading();
    bool is_good = reload(s, &fresh, &err) == 0;
    if (is_good) {
        log_configure((enum log_level)fresh.log_level, s->json);
        tell_reloaded(s, &fresh);
    } else {
        log_event(LOG_ERROR_LEVEL, "reload_failed", LOG_STR("message", err.text), LOG_END);
    }
    options_fini(&fresh);
    notify_reloaded(is_good);
}

static void wait_and_drain(const struct serve *s)
{
    tell_ready(s);
    while (cmd_signals_wait() == CMD_WISH_RELOAD)
        on_reload(s);
    log_event(LOG_INFO_LEVEL, "draining", LOG_U64("delay_s", s->o->drain_delay_s),
              LOG_U64("timeout_s", s->o->drain_timeout_s), LOG_END);
    notify_stopping(s->notifier);
    /* A second signal ends the process from its own thread, so nothing here needs to hurry. */
    static const volatile int never = 0;
    srv_drain(s->srv, s->o->drain_delay_s, s->o->drain_timeout_s, &never);
}

static int serve_model(struct serve *s)
{
    int exit_code = open_server(s);
    if (!exit_code)
        exit_code = load_model(s);
    if (!exit_code)
        wait_and_drain(s);
    notify_close(s->notifier);
    srv_close(s->srv);
    keep_heat(s);
    engine_close(s->engine);
    /* Stopping was asked for: that loading did not end is no failure. */
    if (cmd_signals_stopped())
        exit_code = 0;
    if (!exit_code)
        log_event(LOG_INFO_LEVEL, "stopped", LOG_END);
    return exit_code;
}

static int take_sockets(struct serve *s)
{
    int n = notify_take_sockets(s->sockets, NOTIFY_MAX_SOCKETS);
    if (n < 0)
        return fail(s, EX_CONFIG, "the sockets of LISTEN_FDS cannot be taken over: at most 16 are");
    s->n_sockets = (uint32_t)n;
    return 0;
}

static bool wants_json(const struct options *o)
{
    if (o->log_format == OPTIONS_LOG_AUTO)
        return !isatty(STDERR_FILENO);
    return o->log_format == OPTIONS_LOG_JSON;
}

static int serve(const struct options *o)
{
    int exit_code;
    if (o->check_config)
        return check_config(o);
    struct serve s = { .o = o, .json = wants_json(o), .started = cmd_now() };
    log_configure((enum log_level)o->log_level, s.json);
    s.path = cmd_model_path(o, true, &exit_code);
    if (!s.path)
        return exit_code;
    exit_code = take_sockets(&s);
    if (exit_code)
        return exit_code;
    signal(SIGPIPE, SIG_IGN);
    cmd_guard_mapping();
    if (cmd_signals_start(NULL, NULL))
        return fail(&s, EX_OSERR, "cannot start a thread");
    return serve_model(&s);
}

const struct cmd cmd_serve = {
    .usage = {
        .command = OPTIONS_SERVE,
        .name = "serve",
        .summary = "serve a model over HTTP",
        .args = "[MODEL.gguf]",
        .max_args = 1,
        .about = "Serves a GGUF model over HTTP with the completions and chat API that OpenAI's "
                 "clients speak.  Listens at once, answers 503 while the model loads, and "
                 "prints a command line to try once it is ready.  SIGTERM or Ctrl-C lets "
                 "running requests finish; a second one ends at once.  SIGHUP reads the "
                 "configuration, the API keys and the TLS certificate again.",
        .example = "  lacuna serve -m model.gguf\n"
                   "  lacuna serve -m model.gguf --listen 0.0.0.0:8080 --api-key-file keys.txt\n"
                   "  LACUNA_THREADS=4 lacuna serve --config lacuna.conf --check-config\n",
    },
    .run = serve,
};
