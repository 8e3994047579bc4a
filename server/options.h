/* SPDX-License-Identifier: Apache-2.0
 *
 * options.h - every flag of every command.
 *
 * One table (options.c) says for each flag its name, type, range, default, help and which commands
 * take it.  A flag --kv-bytes is also the environment variable LACUNA_KV_BYTES and a line
 * "kv-bytes = ..." of the file that --config names; flag > environment > file > default.
 * Nothing else in the program reads argv or the environment.  Main thread, before others start.
 */
#ifndef LACUNA_SERVER_OPTIONS_H
#define LACUNA_SERVER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum options_command {
    OPTIONS_SERVE = 1,
    OPTIONS_RUN = 2,
    OPTIONS_INSPECT = 4,
    OPTIONS_TOKENIZE = 8,
    OPTIONS_BENCH = 16,
    OPTIONS_EVAL = 32,
    OPTIONS_PACK = 64,
    OPTIONS_CALIBRATE = 128,
};

struct options_list {
    const char *const *items;
    uint32_t n;
};

struct options_numbers {
    const uint32_t *items;
    uint32_t n;
};

/* Bytes, or a share of a whole that the option names; both 0: "auto". */
struct options_size {
    uint64_t bytes;
    double share; /* above 0, at most 1 */
};

struct options_sizes {
    const struct options_size *items; /* [n], at least one */
    uint32_t n;
};

enum options_log_format { OPTIONS_LOG_AUTO, OPTIONS_LOG_TEXT, OPTIONS_LOG_JSON };

enum { OPTIONS_MAX_ARGS = 4 };

struct options_owned; /* memory behind the strings */

/* Values; "0" that means "choose for me" is what struct srv_options and engine_options take. */
struct options {
    /* model and memory */
    const char *model;
    uint32_t ctx;
    uint64_t kv_bytes;
    struct options_sizes expert_cache; /* but for bench, one */
    const char *expert_heat;
    const char *sidecar; /* NULL: the command has no such option */
    const char *quality;
    struct options_list qualities; /* of eval and bench */
    uint32_t kv_type;              /* enum engine_kv */
    uint32_t threads;
    bool pin_threads;
    const char *max_isa;
    bool no_mmap, choose_pages;
    uint32_t skip_zeros;                 /* enum engine_zeros */
    uint32_t audit_steps;                /* 0: none */
    uint32_t io;                         /* enum engine_io */
    uint32_t foresight;                  /* 0: auto */
    uint32_t expert_gating;              /* enum engine_gating */
    uint32_t experts_used, experts_kept; /* 0: as the model says; all */
    uint32_t max_batch_rows;
    /* network and access */
    struct options_list listen, alias, allowed_host, cors_origin;
    const char *metrics_listen, *api_key_file, *tls_cert, *tls_key;
    uint32_t metrics_compat; /* 0: none, 1: vllm */
    bool insecure_no_auth, public_models, no_page;
    uint32_t http_threads;
    /* requests */
    uint32_t model_policy; /* 0: strict, 1: any */
    bool strict_params, strict_max_tokens, parse_special, timings, slots_endpoint;
    uint32_t max_tokens_default;
    uint32_t max_n, max_prompts, max_logprobs;
    uint64_t max_body;
    /* load */
    uint32_t slots, max_queue;
    uint64_t max_queue_tokens;
    uint32_t max_queue_wait_s, request_timeout_s, ping_s;
    uint32_t itl_target_ms;   /* 0: auto */
    uint32_t speculate;       /* 0: off, 1: lookup */
    uint32_t overload_status; /* 0: 429, 1: 503 */
    /* life */
    uint32_t watchdog_s, drain_delay_s, drain_timeout_s;
    uint32_t log_level, log_format;
    const char *config;
    bool check_config;
    /* run */
    uint32_t max_tokens;
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed; /* UINT64_MAX: take one at random */
    bool special;
    /* bench, eval */
    struct options_numbers prompts, batches, contexts;
    uint32_t gen, repeat;
    const char *file, *logits_out;
    struct options_numbers tokens, lengths;
    struct options_list tasks;
    struct options_numbers ppl_rise;
    const char *answer, *report;
    uint32_t chunk, samples;
    bool json, profile, roofline, disk;
    /* pack */
    const char *out;

    const char *args[OPTIONS_MAX_ARGS]; /* what is left of the command line */
    uint32_t n_args;
    struct options_owned *owned;
};

/* What a command's --help says around the flags. */
struct options_usage {
    enum options_command command;
    const char *name;    /* "serve" */
    const char *summary; /* for the list of commands */
    const char *args;    /* "[MODEL]", "" */
    uint32_t max_args;
    const char *about;   /* one paragraph */
    const char *example; /* command lines and what they do */
};

/* What options_parse found. */
struct options_outcome {
    int exit_code;     /* if it returned -1 */
    char message[640]; /* the error, one sentence; "" if --help was printed */
};

/* argv[0] is the command's name.  0: *out is filled, strings live until options_fini.  -1: the
 * process is to end as *outcome says; nothing is held. */
int options_parse(struct options *out, const struct options_usage *usage, int argc, char **argv,
                  struct options_outcome *outcome);
void options_fini(struct options *o);

/* Reads all sources of o once more, for SIGHUP: the file may have changed.  As options_parse; both
 * are to be freed, and what o was parsed from (usage, argv) must still be there. */
int options_parse_again(struct options *out, const struct options *o,
                        struct options_outcome *outcome);
/* The options that have another value in b than in a and that a running server cannot change:
 * "ctx, threads", cut to cap.  Returns how many. */
size_t options_fixed_changes(const struct options *a, const struct options *b, char *names,
                             size_t cap);

/* --check-config: the values in force and where each comes from, as a file for --config (but for
 * secrets, which are named and not shown). */
struct options_printer {
    void (*line)(void *ctx, const char *text);
    void *ctx;
};
void options_print(const struct options *o, const struct options_usage *usage,
                   const struct options_printer *to);

#endif
