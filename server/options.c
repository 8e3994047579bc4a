/* SPDX-License-Identifier: Apache-2.0
 *
 * options.c - the one table of flags, and the order of its sources: what the command line says
 * beats the environment, that beats the file of --config, that beats the table's default.
 *
 * Every text is checked where it was found, also one that a stronger source overrides: a typing
 * mistake in a file should not wait for the day the environment changes.
 *
 * The only getenv of the program.
 */
#include "server/options_table.h"
#include "server/options_help.h"
#include "server/exits.h"
#include "server/values.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the table ---- */

/* The field, refused by the compiler if it is not of the type that the row's kind writes. */
#define FIELD(kind, ctype, member)                                                                 \
    .type = (kind), .offset = offsetof(struct options, member) +                                   \
                              0 * sizeof(_Generic(((struct options *)0)->member, ctype : 0))
#define BOOL(m) FIELD(OPTIONS_BOOL, bool, m)
#define U32(m, lo, hi) FIELD(OPTIONS_U32, uint32_t, m), .min = (lo), .max = (hi)
#define U64(m, lo, hi) FIELD(OPTIONS_U64, uint64_t, m), .min = (lo), .max = (hi)
#define BYTES(m, lo, hi) FIELD(OPTIONS_BYTES, uint64_t, m), .min = (lo), .max = (hi)
#define SECONDS(m, lo, hi) FIELD(OPTIONS_SECONDS, uint32_t, m), .min = (lo), .max = (hi)
#define REAL(m, lo, hi) FIELD(OPTIONS_REAL, float, m), .min = (lo)*1000, .max = (hi)*1000
#define CHOICE(m, words) FIELD(OPTIONS_CHOICE, uint32_t, m), .choices = (words)
#define STRING(m) FIELD(OPTIONS_STRING, const char *, m)
#define LIST(m) FIELD(OPTIONS_LIST, struct options_list, m)
#define NUMBERS(m, lo, hi)                                                                         \
    FIELD(OPTIONS_NUMBERS, struct options_numbers, m), .min = (lo), .max = (hi)
#define SIZES(m, lo, hi) FIELD(OPTIONS_SIZES, struct options_sizes, m), .min = (lo), .max = (hi)
#define AUTO .word = "auto", .def = "auto"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

enum {
    ANSWERING = OPTIONS_SERVE | OPTIONS_RUN | OPTIONS_BENCH | OPTIONS_EVAL,
    STEPPING = ANSWERING | OPTIONS_CALIBRATE, /* load the weights */
    ALL = STEPPING | OPTIONS_INSPECT | OPTIONS_TOKENIZE | OPTIONS_PACK,
    SERVE = OPTIONS_SERVE,
};

/* clang-format off */
const struct options_row options_rows[] = {
    /* ---- of one command ---- */
    { "max-tokens", 'n', "N", U32(max_tokens, 1, 1 << 24), .def = "256",
      .help = "tokens to generate at most", GROUP_COMMAND, OPTIONS_RUN },
    { "max-tokens", 'n', "N", U32(max_tokens, 1, 1 << 20), .def = "64",
      .help = "tokens of an answer (--answer) at most", GROUP_COMMAND, OPTIONS_EVAL },
    { "temperature", 0, "T", REAL(temperature, 0, 2), .def = "0",
      .help = "0 takes the likeliest token each time", GROUP_COMMAND, OPTIONS_RUN | OPTIONS_BENCH },
    { "top-k", 0, "K", U32(top_k, 0, INT32_MAX), .def = "0",
      .help = "choose among the K likeliest; 0: all", GROUP_COMMAND, OPTIONS_RUN },
    { "top-p", 0, "P", REAL(top_p, 0, 1), .def = "1",
      .help = "choose among the likeliest that make up P", GROUP_COMMAND, OPTIONS_RUN },
    { "min-p", 0, "P", REAL(min_p, 0, 1), .def = "0",
      .help = "drop tokens less likely than P times the likeliest", GROUP_COMMAND, OPTIONS_RUN },
    { "seed", 0, "N", U64(seed, 0, UINT64_MAX - 1), .word = "random", .word_value = UINT64_MAX,
      .def = "random", .help = "the same seed gives the same text", GROUP_COMMAND, OPTIONS_RUN },
    { "special", 0, NULL, BOOL(special), .def = "false",
      .help = "add the model's start and end tokens, and read the text of control tokens "
              "(such as <|im_end|>) as these tokens", GROUP_COMMAND,
      OPTIONS_TOKENIZE },
    { "special", 0, NULL, BOOL(special), .def = "false",
      .help = "read the text of control tokens (such as <|im_start|>) in the prompt as these "
              "tokens, and show those that are generated", GROUP_COMMAND, OPTIONS_RUN },
    { "prompts", 'p', "N,...", NUMBERS(prompts, 0, 1 << 20), .def = "512",
      .help = "prefill: tokens of the prompt; 0: no prefill", GROUP_COMMAND, OPTIONS_BENCH },
    { "gen", 'n', "N", U32(gen, 0, 1 << 20), .def = "64",
      .help = "decode: tokens per sequence; 0: no decode", GROUP_COMMAND, OPTIONS_BENCH },
    { "batches", 'b', "N,...", NUMBERS(batches, 1, 1 << 16), .def = "1",
      .help = "decode: sequences side by side", GROUP_COMMAND, OPTIONS_BENCH },
    { "contexts", 'c', "N,...", NUMBERS(contexts, 0, 1 << 24), .def = "0",
      .help = "tokens already in the cache", GROUP_COMMAND, OPTIONS_BENCH },
    { "repeat", 'r', "N", U32(repeat, 1, 1000), .def = "5",
      .help = "repetitions; the median is shown", GROUP_COMMAND, OPTIONS_BENCH },
    { "profile", 0, NULL, BOOL(profile), .def = "false",
      .help = "also where the time of a step went, by its parts", GROUP_COMMAND, OPTIONS_BENCH },
    { "roofline", 0, NULL, BOOL(roofline), .def = "false",
      .help = "first measure what this machine can do at most, then show beside each part how near it "
              "came (as if no neuron were skipped)", GROUP_COMMAND, OPTIONS_BENCH },
    { "disk", 0, NULL, BOOL(disk), .def = "false",
      .help = "first measure how fast the model's file comes from its disk, past the page cache",
      GROUP_COMMAND, OPTIONS_BENCH },
    { "file", 'f', "FILE", STRING(file), .help = "text to measure; - is standard input",
      GROUP_COMMAND, OPTIONS_EVAL },
    { "file", 'f', "FILE", STRING(file),
      .help = "text like what the model will be asked, 100 KB or more; - is standard input", GROUP_COMMAND,
      OPTIONS_CALIBRATE },
    { "quality", 'q', "POINT,...", LIST(qualities),
      .help = "measure these operating points against the exact model, side by side: names that calibrate gave them, "
              "or the shares of neurons (of those that are not zero) that every layer computes, up=0.5+down=0.4, neurons=0.5 "
              "for both; with "
              "--choose-pages also how many tokens of a context a decoded one attends to, tokens=2048", GROUP_COMMAND,
      OPTIONS_EVAL },
    { "tokens", 0, "ID,...", NUMBERS(tokens, 0, INT32_MAX),
      .help = "measure these tokens instead of a text", GROUP_COMMAND, OPTIONS_EVAL },
    { "ppl-rise", 0, "PERCENT,...", NUMBERS(ppl_rise, 1, 1000),
      .help = "also with which share of neurons perplexity has risen by so much: 19 more operating points, neurons=0.95 "
              "to 0.05, run beside the others", GROUP_COMMAND, OPTIONS_EVAL },
    { "tasks", 0, "TASK,...", LIST(tasks),
      .help = "instead of a text, ask long texts made up for it what they said: passkey, needle, keys (one of eight), "
              "pairs (of UUIDs), variables (through four names), words (the most frequent), all", GROUP_COMMAND,
      OPTIONS_EVAL },
    { "answer", 0, "FILE", STRING(answer),
      .help = "instead of a text, prompts, one a line: each point of --quality answers them, the likeliest token each time, beside "
              "the exact model, which then says how likely it finds the answers; - is standard input", GROUP_COMMAND,
      OPTIONS_EVAL },
    { "lengths", 0, "N,...", NUMBERS(lengths, 128, 1 << 24), .def = "4096",
      .help = "tokens of these texts", GROUP_COMMAND, OPTIONS_EVAL },
    { "samples", 0, "N", U32(samples, 1, 100000), .def = "50",
      .help = "texts of each task and length", GROUP_COMMAND, OPTIONS_EVAL },
    { "logits-out", 0, "FILE", STRING(logits_out),
      .help = "write the logits: 32-bit floats, row i = logits after token i; - is standard "
              "output", GROUP_COMMAND, OPTIONS_EVAL },
    { "chunk", 0, "N", U32(chunk, 1, 1 << 16), AUTO,
      .help = "rows per step; changes the speed, never the result", GROUP_COMMAND, OPTIONS_EVAL },
    { "out", 'o', "FILE", STRING(out), .help = "the file to write", GROUP_COMMAND, OPTIONS_PACK },
    { "out", 'o', "FILE", STRING(out),
      .help = "the file to write (default: the name of the model and .lacuna, beside it)", GROUP_COMMAND,
      OPTIONS_CALIBRATE },
    { "report", 0, "FILE.svg", STRING(report),
      .help = "also figures: what each point loses for the weights that it reads, beside the same share of neurons in all "
              "layers, and what each layer computes", GROUP_COMMAND, OPTIONS_CALIBRATE },
    { "json", 0, NULL, BOOL(json), .def = "false", .help = "print JSON instead of text",
      GROUP_COMMAND, OPTIONS_BENCH | OPTIONS_EVAL },

    /* ---- model and memory ---- */
    { "model", 'm', "FILE", STRING(model), .help = "the GGUF file; of a split one, any part",
      GROUP_MODEL, ALL },
    { "ctx", 0, "TOKENS", U32(ctx, 1, 1 << 24), AUTO,
      .help = "longest sequence, prompt and answer together; auto: the model's own, at most 32768",
      GROUP_MODEL, ANSWERING },
    { "kv-bytes", 0, "SIZE", BYTES(kv_bytes, MIB, 64 * TIB), AUTO,
      .help = "memory for keys and values; auto: a few sequences of --ctx, if there is room",
      GROUP_MODEL, STEPPING },
    { "expert-cache", 0, "SIZE", SIZES(expert_cache, 4096, 64 * TIB), AUTO,
      .several = OPTIONS_BENCH,
      .help = "memory for a mixture's experts, or how many percent of them: 8G, 50%; those that do not fit are "
              "read from the file when tokens choose them; auto: for all of them if there is room, else what "
              "there is room for; bench takes several, 100%,50%,25%, and measures one after the other",
      GROUP_MODEL, STEPPING },
    { "expert-heat", 0, "FILE", STRING(expert_heat), .def = "auto",
      .help = "where it is kept, from one run to the next, which experts were chosen most: a start reads these "
              "into --expert-cache; auto: the name of the model and .lacuna-heat, beside it; off: none is kept, a start "
              "is cold",
      GROUP_MODEL, OPTIONS_SERVE },
    { "expert-foresight", 0, "HOW", CHOICE(foresight, "auto off"), .def = "auto",
      .help = "read experts that the next layer will probably want, while this one is computed; auto: in "
              "layers where most of what is foreseen is wanted; off: only what tokens have chosen",
      GROUP_MODEL, STEPPING },
    { "sidecar", 0, "FILE", STRING(sidecar), .def = "auto",
      .help = "what lacuna calibrate found out about this model; auto: the name of the model and .lacuna, beside it, if "
              "there is such a file; off: nothing is known", GROUP_MODEL, ANSWERING },
    { "quality", 'q', "POINT", STRING(quality), .def = "exact",
      .help = "what decoded tokens may do without, of requests that do not say it themselves: exact: nothing; safe, "
              "balanced, fast, as calibrated; or a share, 0.99: the cheapest point where so many tokens have the same "
              "most likely next one as in the exact model; or what eval --quality takes: up=0.5+down=0.4, and with "
              "--choose-pages tokens=2048", GROUP_MODEL, OPTIONS_SERVE | OPTIONS_RUN },
    { "quality", 'q', "POINT,...", LIST(qualities), .def = "exact",
      .help = "what decoded tokens may do without, one operating point after the other: exact, what eval --quality takes",
      GROUP_MODEL, OPTIONS_BENCH },
    { "kv-type", 0, "TYPE", CHOICE(kv_type, "f16 q8"), .def = "f16",
      .help = "what keys and values are stored as; f16: 16 bits, for a few models 32; q8: 8 bits, "
              "about 1.8 times the tokens of long sequences in --kv-bytes, not quite the same "
              "answers: lacuna eval --kv-type q8 says how far off a model is",
      GROUP_MODEL, STEPPING },
    { "threads", 't', "N", U32(threads, 1, 1024), AUTO,
      .help = "computing threads; auto: the cores this process may use", GROUP_MODEL,
      STEPPING | OPTIONS_PACK },
    { "pin-threads", 0, NULL, BOOL(pin_threads), .def = "false",
      .help = "each computing thread stays on a core of its own, one thread per physical core first: for "
              "a machine that serves nothing else", GROUP_MODEL, STEPPING },
    { "max-isa", 0, "NAME", STRING(max_isa),
      .help = "use no better instruction set than this; a wrong name lists them", GROUP_MODEL,
      STEPPING },
    { "no-mmap", 0, NULL, BOOL(no_mmap), .def = "false",
      .help = "read the file into memory instead of mapping it; quantised weights are laid out anew in "
              "memory either way, but for a file of lacuna pack", GROUP_MODEL,
      STEPPING },
    { "skip-zeros", 0, "HOW", CHOICE(skip_zeros, "off auto always"), .def = "auto",
      .help = "neurons that are zero, by ReLU or as --quality takes them for zero, are not computed; the same answers; auto: "
              "where that is faster, as each step's products show, for which two thirds of such a feed-forward lie in memory "
              "twice, if there is room; always: once, in the layout for it, experts' too, which is slower for prompts and many "
              "requests. lacuna bench --skip-zeros auto says what it gains", GROUP_MODEL,
      OPTIONS_SERVE | OPTIONS_RUN },
    { "skip-zeros", 0, "HOW", CHOICE(skip_zeros, "off auto always"), .def = "off",
      .help = "neurons that are zero, by ReLU or as --quality takes them for zero, are not computed, where that is faster (auto), or "
              "always: the same answers, at another speed", GROUP_MODEL,
      STEPPING & ~(OPTIONS_SERVE | OPTIONS_RUN) },
    { "choose-pages", 0, NULL, BOOL(choose_pages), .def = "false",
      .help = "pages of keys and values keep what decoded tokens can choose them by (3 to 6 % more memory), so that --quality "
              "tokens=2048 can bound how much of a long context each of them reads", GROUP_MODEL, ANSWERING },
    { "audit-steps", 0, "N", U32(audit_steps, 0, 1000000), .def = "64",
      .help = "of so many steps in which something is left out one is audited: a layer of a token is computed whole, "
              "too; a point of --quality that is twice as far off as its calibration says is withdrawn, and later "
              "requests get a safer one; 0: none", GROUP_MODEL, OPTIONS_SERVE },
    { "io", 0, "HOW", CHOICE(io, "auto uring pread mmap"), .def = "auto",
      .help = "how files are read: experts that are on demand, models with --no-mmap, by bench --disk; uring: "
              "io_uring; pread: a pool of threads; auto: io_uring where the kernel and the container allow "
              "it, else pread; mmap, not for bench --disk: threads that go through the page cache, which "
              "others share and which a memory limit counts",
      GROUP_MODEL, STEPPING },
    { "experts-used", 0, "N", U32(experts_used, 1, 64), AUTO,
      .help = "fewer experts per token than the model says: approximate, and said in usage; lacuna eval says "
              "how far off it is; auto: as many as the model says", GROUP_MODEL, STEPPING },
    { "experts-kept", 0, "N", U32(experts_kept, 1, 64), AUTO,
      .help = "of the experts of a decoded token only the best so many are sure to be computed; where one of "
              "the others is not in memory (--expert-cache), the next best that is takes its place: "
              "approximate, an answer depends on what was computed before; said in usage, measured by lacuna "
              "eval; auto: all of them",
      GROUP_MODEL, STEPPING },
    { "expert-gating", 0, "HOW", CHOICE(expert_gating, "file softmax sigmoid"), .def = "file",
      .help = "how experts are weighed; file: as the model says", GROUP_MODEL, STEPPING },
    { "max-batch-rows", 0, "N", U32(max_batch_rows, 1, 1 << 16), AUTO,
      .help = "tokens per step; auto: 512", GROUP_MODEL, STEPPING },

    /* ---- network and access ---- */
    { "listen", 0, "ADDRESS", LIST(listen), .def = "127.0.0.1:8080",
      .help = "HOST:PORT, [IPV6]:PORT or unix:/PATH; may be given again", GROUP_NETWORK, SERVE },
    { "alias", 0, "NAME", LIST(alias),
      .help = "name of the model for clients; may be given again, the first is the one shown "
              "(default: the file's name without .gguf)", GROUP_NETWORK, SERVE },
    { "api-key-file", 0, "FILE", STRING(api_key_file),
      .help = "who may use the server: lines NAME:KEY[:MAX-CONCURRENT] (default: the credential "
              "api-keys of the systemd unit, if there is one)", GROUP_NETWORK, SERVE,
      .secret = true, .live = true },
    { "tls-cert", 0, "FILE", STRING(tls_cert),
      .help = "HTTPS (TLS 1.2 and newer) on the addresses of --listen, but for Unix sockets: the "
              "certificate and those that signed it, PEM; --metrics-listen stays HTTP",
      GROUP_NETWORK, SERVE, .needs = "tls-key", .live = true },
    { "tls-key", 0, "FILE", STRING(tls_key),
      .help = "the private key of that certificate, PEM without a pass phrase", GROUP_NETWORK,
      SERVE, .needs = "tls-cert", .live = true },
    { "insecure-no-auth", 0, NULL, BOOL(insecure_no_auth), .def = "false",
      .help = "listen on addresses that others can reach without asking for keys", GROUP_NETWORK,
      SERVE },
    { "public-models", 0, NULL, BOOL(public_models), .def = "false",
      .help = "/v1/models needs no key", GROUP_NETWORK, SERVE, .live = true },
    { "allowed-host", 0, "HOST", LIST(allowed_host),
      .help = "Host header to accept besides localhost when bound to loopback; may be given again",
      GROUP_NETWORK, SERVE, .live = true },
    { "cors-origin", 0, "ORIGIN", LIST(cors_origin),
      .help = "web origin whose pages may call the API, or *; may be given again", GROUP_NETWORK,
      SERVE, .live = true },
    { "metrics-listen", 0, "ADDRESS", STRING(metrics_listen),
      .help = "own address for /metrics, without keys", GROUP_NETWORK, SERVE },
    { "metrics-compat", 0, "HOW", CHOICE(metrics_compat, "none vllm"), .def = "none",
      .help = "vllm: /metrics also has the series of that name that routers of the Gateway API "
              "Inference Extension read", GROUP_NETWORK, SERVE },
    { "no-page", 0, NULL, BOOL(no_page), .def = "false",
      .help = "no page with live numbers and a prompt box at /", GROUP_NETWORK, SERVE },
    { "http-threads", 0, "N", U32(http_threads, 1, 64), .def = "2",
      .help = "threads that talk to clients", GROUP_NETWORK, SERVE },

    /* ---- requests ---- */
    { "model-policy", 0, "HOW", CHOICE(model_policy, "strict any"), .def = "strict",
      .help = "strict: a model that a request names must be this one; any: its name is ignored",
      GROUP_REQUESTS, SERVE },
    { "strict-params", 0, NULL, BOOL(strict_params), .def = "false",
      .help = "unknown fields of a request are errors", GROUP_REQUESTS, SERVE },
    { "strict-max-tokens", 0, NULL, BOOL(strict_max_tokens), .def = "false",
      .help = "max_tokens beyond the context is an error instead of being cut", GROUP_REQUESTS,
      SERVE },
    { "parse-special", 0, NULL, BOOL(parse_special), .def = "false",
      .help = "text of control tokens in a string prompt becomes these tokens", GROUP_REQUESTS,
      SERVE },
    { "max-tokens-default", 0, "N", U32(max_tokens_default, 1, 1 << 30), AUTO,
      .help = "max_tokens of requests without; auto: 16, and for chats what the context leaves",
      GROUP_REQUESTS, SERVE },
    { "timings", 0, NULL, BOOL(timings), .def = "false",
      .help = "every answer to one prompt with n 1 says how long its parts took", GROUP_REQUESTS,
      SERVE },
    { "slots-endpoint", 0, NULL, BOOL(slots_endpoint), .def = "false",
      .help = "serve /slots: what runs now, without its text", GROUP_REQUESTS, SERVE },
    { "max-body", 0, "SIZE", BYTES(max_body, KIB, GIB), .def = "16M",
      .help = "largest request body", GROUP_REQUESTS, SERVE, .live = true },
    { "max-n", 0, "N", U32(max_n, 1, 128), .def = "8", .help = "largest n of a request",
      GROUP_REQUESTS, SERVE, .live = true },
    { "max-prompts", 0, "N", U32(max_prompts, 1, 2048), .def = "64",
      .help = "prompts in one request", GROUP_REQUESTS, SERVE, .live = true },
    { "max-logprobs", 0, "N", U32(max_logprobs, 1, 20), .def = "20",
      .help = "largest logprobs of a request", GROUP_REQUESTS, SERVE, .live = true },

    /* ---- load ---- */
    { "slots", 0, "N", U32(slots, 1, 4096), .def = "256",
      .help = "sequences running at once at most; the cache's pages are the usual limit",
      GROUP_LOAD, SERVE },
    { "max-queue", 0, "N", U32(max_queue, 1, 1 << 16), .def = "64", .help = "requests waiting",
      GROUP_LOAD, SERVE, .live = true },
    { "max-queue-tokens", 0, "TOKENS", U64(max_queue_tokens, 1, UINT64_C(1) << 40), AUTO,
      .help = "prompt tokens waiting; auto: 4 times --ctx", GROUP_LOAD, SERVE, .live = true },
    { "max-queue-wait", 0, "TIME", SECONDS(max_queue_wait_s, 1, 86400), .def = "60s",
      .help = "longest wait before a request is refused", GROUP_LOAD, SERVE, .live = true },
    { "itl-target", 0, "MS", U32(itl_target_ms, 1, 60000), .word = "auto", .def = "auto",
      .help = "longest time between a stream's tokens while prompts are computed, in milliseconds; "
              "auto: twice what the streams take alone",
      GROUP_LOAD, SERVE },
    { "speculate", 0, "HOW", CHOICE(speculate, "off lookup"), .def = "lookup",
      .help = "lookup: where a text repeats what it or its prompt said before, compute several tokens "
              "per step, if that is measured to be faster; the answers stay the same",
      GROUP_LOAD, SERVE | OPTIONS_RUN },
    { "overload-status", 0, "CODE", CHOICE(overload_status, "429 503"), .def = "429",
      .help = "HTTP status of requests refused for load", GROUP_LOAD, SERVE },
    { "request-timeout", 0, "TIME", SECONDS(request_timeout_s, 0, 7 * 86400), .word = "off",
      .def = "off", .help = "longest time a request may take; 0 or off: any", GROUP_LOAD, SERVE,
      .live = true },
    { "ping", 0, "TIME", SECONDS(ping_s, 1, 300), .word = "off", .word_value = UINT32_MAX,
      .def = "5s", .help = "silence after which a stream gets a comment to keep it open",
      GROUP_LOAD, SERVE },

    /* ---- life ---- */
    { "watchdog", 0, "TIME", SECONDS(watchdog_s, 1, 86400), .def = "60s",
      .help = "/live fails once the engine stood still for this long; after twice this, exit 70",
      GROUP_LIFE, SERVE },
    { "drain-delay", 0, "TIME", SECONDS(drain_delay_s, 0, 3600), .def = "5s",
      .help = "after SIGTERM, serve on for this long while /ready says no", GROUP_LIFE, SERVE },
    { "drain-timeout", 0, "TIME", SECONDS(drain_timeout_s, 0, 86400), .def = "120s",
      .help = "then let running requests finish for this long", GROUP_LIFE, SERVE },

    /* ---- logging and configuration ---- */
    { "log-level", 0, "LEVEL", CHOICE(log_level, "debug info warn error"), .def = "info",
      .help = "least important lines to write", GROUP_CONFIG, SERVE, .live = true },
    { "log-format", 0, "HOW", CHOICE(log_format, "auto text json"), .def = "auto",
      .help = "auto: text on a terminal, else one JSON object per line", GROUP_CONFIG, SERVE },
    { "config", 0, "FILE", STRING(config), .help = "read options from a file", GROUP_CONFIG, ALL,
      .not_in_file = true },
    { "check-config", 0, NULL, BOOL(check_config), .def = "false",
      .help = "print the options in force and exit", GROUP_CONFIG, SERVE, .not_in_file = true,
      .only_flag = true },
};
/* clang-format on */

const size_t options_n_rows = sizeof(options_rows) / sizeof(options_rows[0]);

const char *const options_group_titles[N_GROUPS] = {
    [GROUP_COMMAND] = "What to do:",
    [GROUP_MODEL] = "Model and memory:",
    [GROUP_NETWORK] = "Network and access:",
    [GROUP_REQUESTS] = "Requests:",
    [GROUP_LOAD] = "Load:",
    [GROUP_LIFE] = "Starting and stopping:",
    [GROUP_CONFIG] = "Logging and configuration:",
};

const struct options_row *options_find(const char *name)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        if (strcmp(options_rows[i].name, name) == 0)
            return &options_rows[i];
    }
    return NULL;
}

/* ---- memory ---- */

void *options_alloc(struct options *o, size_t bytes)
{
    struct options_block *b = calloc(1, sizeof(*b) + bytes);
    if (!b)
        return NULL;
    b->next = o->owned->blocks;
    o->owned->blocks = b;
    return b->data;
}

void options_fini(struct options *o)
{
    struct options_owned *owned = o->owned;
    *o = (struct options){ 0 };
    if (!owned)
        return;
    for (struct options_block *b = owned->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(owned);
}

static char *format_text(struct options *o, const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0)
        return NULL;
    char *copy = options_alloc(o, (size_t)len + 1);
    if (copy)
        memcpy(copy, text, (size_t)len + 1);
    free(text);
    return copy;
}

/* ---- errors ---- */

int options_refuse(struct options_outcome *outcome, int exit_code, const char *fmt, ...)
{
    va_list ap;
    outcome->exit_code = exit_code;
    va_start(ap, fmt);
    vsnprintf(outcome->message, sizeof(outcome->message), fmt, ap);
    va_end(ap);
    return -1;
}

static int no_memory(struct options_outcome *outcome)
{
    return options_refuse(outcome, EX_OSERR, "no memory to read the options");
}

static int bad_value(const struct options_row *row, const char *where, const char *text,
                     int exit_code, struct options_outcome *outcome)
{
    char expected[OPTIONS_EXPECTED_MAX];
    options_expected(row, expected);
    return options_refuse(outcome, exit_code, "%s: '%.80s' is not %s", where, text, expected);
}

/* ---- the configuration file ---- */

enum { CONFIG_MAX_BYTES = 1 << 20 };

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

/* A comment is a # at the start of a line or after a blank. */
static void cut_comment(char *line)
{
    for (char *p = line; (p = strchr(p, '#')); p++) {
        if (p == line || isspace((unsigned char)p[-1])) {
            *p = '\0';
            return;
        }
    }
}

static int set_from_file(struct options *o, const char *where, const char *key, const char *value,
                         struct options_outcome *outcome)
{
    const struct options_row *row = options_find(key);
    if (!row || row->not_in_file) {
        const char *near = row ? NULL : options_nearest(key, UINT32_MAX);
        return options_refuse(outcome, EX_CONFIG, "%s: %s '%.80s'%s%s%s", where,
                              row ? "not allowed in a file:" : "unknown option", key,
                              near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    for (size_t i = 0; i < options_n_rows; i++) {
        struct options_setting *s = &o->owned->settings[i];
        if (strcmp(options_rows[i].name, key) != 0)
            continue;
        if (s->text)
            return options_refuse(outcome, EX_CONFIG, "%s: '%s' was already set at %s", where, key,
                                  s->where);
        if (!options_check(&options_rows[i], value))
            return bad_value(&options_rows[i], format_text(o, "%s: %s", where, key), value,
                             EX_CONFIG, outcome);
        *s = (struct options_setting){ .text = value, .where = where };
    }
    return 0;
}

static int read_line(struct options *o, char *line, const char *where,
                     struct options_outcome *outcome)
{
    cut_comment(line);
    line = trim(line);
    if (line[0] == '\0')
        return 0;
    char *eq = strchr(line, '=');
    if (!eq)
        return options_refuse(outcome, EX_CONFIG, "%s: no '=' in '%.80s': lines are KEY = VALUE",
                              where, line);
    *eq = '\0';
    return set_from_file(o, where, trim(line), trim(eq + 1), outcome);
}

static int read_file_text(struct options *o, const char *path, char **text,
                          struct options_outcome *outcome)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return options_refuse(outcome, EX_NOINPUT, "--config: cannot open %.300s: %s", path,
                              strerror(errno));
    *text = options_alloc(o, CONFIG_MAX_BYTES + 1);
    size_t n = *text ? fread(*text, 1, CONFIG_MAX_BYTES + 1, f) : 0;
    int failed = ferror(f) ? errno : 0;
    fclose(f);
    if (!*text)
        return no_memory(outcome);
    if (failed)
        return options_refuse(outcome, EX_IOERR, "--config: cannot read %.300s: %s", path,
                              strerror(failed));
    if (n > CONFIG_MAX_BYTES)
        return options_refuse(outcome, EX_CONFIG, "%.300s: larger than %d bytes", path,
                              CONFIG_MAX_BYTES);
    (*text)[n] = '\0';
    if (strlen(*text) != n)
        return options_refuse(outcome, EX_CONFIG, "%.300s: holds a NUL byte at offset %zu", path,
                              strlen(*text));
    return 0;
}

static int read_file(struct options *o, const char *path, struct options_outcome *outcome)
{
    char *text;
    if (read_file_text(o, path, &text, outcome))
        return -1;
    unsigned number = 1;
    for (char *line; (line = strsep(&text, "\n")); number++) {
        const char *where = format_text(o, "%.300s:%u", path, number);
        if (!where)
            return no_memory(outcome);
        if (read_line(o, line, where, outcome))
            return -1;
    }
    return 0;
}

/* ---- the environment ---- */

/* "kv-bytes" -> "LACUNA_KV_BYTES" */
static const char *env_name(struct options *o, const struct options_row *row)
{
    char *name = format_text(o, "LACUNA_%s", row->name);
    for (char *p = name; p && *p; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    return name;
}

/* An empty variable counts as none: unit files and compose files set such. */
static const char *env_text(const char *name)
{
    const char *text = getenv(name);
    return text && text[0] ? text : NULL;
}

static int read_environment(struct options *o, uint32_t command, struct options_outcome *outcome)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        if (!(row->commands & command) || row->only_flag)
            continue;
        const char *name = env_name(o, row);
        if (!name)
            return no_memory(outcome);
        const char *text = env_text(name);
        if (!text)
            continue;
        if (!options_check(row, text))
            return bad_value(row, name, text, EX_CONFIG, outcome);
        o->owned->settings[i] = (struct options_setting){ .text = text, .where = name };
    }
    return 0;
}

/* systemd's LoadCredential puts files into a folder that only the service can read.  One named
 * api-keys is the key file, unless another is named. */
static int find_credentials(struct options *o, struct options_outcome *outcome)
{
    static const char variable[] = "CREDENTIALS_DIRECTORY";
    const char *folder = env_text(variable);
    for (size_t i = 0; folder && i < options_n_rows; i++) {
        if (strcmp(options_rows[i].name, "api-key-file") != 0 || o->owned->flags[i].text ||
            o->owned->settings[i].text)
            continue;
        const char *path = format_text(o, "%s/api-keys", folder);
        if (!path)
            return no_memory(outcome);
        if (access(path, F_OK) == 0)
            o->owned->settings[i] = (struct options_setting){ .text = path, .where = variable };
    }
    return 0;
}

/* ---- the command line ---- */

int options_take_flag(struct options *o, size_t i, const char *text,
                      struct options_outcome *outcome)
{
    const struct options_row *row = &options_rows[i];
    struct options_setting *s = &o->owned->flags[i];
    bool appends = row->type == OPTIONS_LIST || row->type == OPTIONS_NUMBERS ||
                   (row->type == OPTIONS_SIZES && row->several & o->owned->usage->command);
    char *where = format_text(o, "--%s", row->name);
    if (!where)
        return no_memory(outcome);
    if (!options_check(row, text))
        return bad_value(row, where, text, EX_USAGE, outcome);
    if (appends && s->text)
        text = format_text(o, "%s,%s", s->text, text);
    if (!text)
        return no_memory(outcome);
    *s = (struct options_setting){ .text = text, .where = where };
    return 0;
}

/* ---- all together ---- */

static const char *config_path(const struct options *o)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        if (strcmp(options_rows[i].name, "config") == 0 && o->owned->flags[i].text)
            return o->owned->flags[i].text;
    }
    return env_text("LACUNA_CONFIG");
}

/* Whose fault a bad value is. */
static int exit_code_for(const struct options_setting *s)
{
    return strncmp(s->where, "--", 2) == 0 ? EX_USAGE : EX_CONFIG;
}

/* Of a list only where the command knows what to do with one. */
static int check_several(const struct options_row *row, const struct options_setting *s,
                         uint32_t command, struct options_outcome *outcome)
{
    if (row->type != OPTIONS_SIZES || row->several & command || !strchr(s->text, ','))
        return 0;
    return options_refuse(outcome, exit_code_for(s),
                          "%.300s: '%.80s' is several sizes, and this command takes one", s->where,
                          s->text);
}

static int apply(struct options *o, uint32_t command, struct options_outcome *outcome)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        struct options_setting *s = &o->owned->settings[i];
        if (!(row->commands & command))
            continue;
        if (o->owned->flags[i].text)
            *s = o->owned->flags[i];
        else if (!s->text && row->def)
            *s = (struct options_setting){ .text = row->def, .where = "default" };
        if (s->text && check_several(row, s, command, outcome))
            return -1;
        if (s->text && options_store(o, row, s->text))
            return no_memory(outcome);
    }
    return 0;
}

static const struct options_setting *setting_of(const struct options *o, const char *name)
{
    return &o->owned->settings[options_find(name) - options_rows];
}

/* Options that are nothing without another one. */
static int check_needs(const struct options *o, struct options_outcome *outcome)
{
    for (size_t i = 0; i < options_n_rows; i++) {
        const struct options_row *row = &options_rows[i];
        const struct options_setting *s = &o->owned->settings[i];
        if (!row->needs || !s->text || setting_of(o, row->needs)->text)
            continue;
        return options_refuse(outcome, exit_code_for(s),
                              "%.300s sets %s, but %s is not set: give both or neither", s->where,
                              row->name, row->needs);
    }
    return 0;
}

int options_parse(struct options *out, const struct options_usage *usage, int argc, char **argv,
                  struct options_outcome *outcome)
{
    *out = (struct options){ 0 };
    *outcome = (struct options_outcome){ 0 };
    out->owned = calloc(1,
                        sizeof(*out->owned) + 2 * options_n_rows * sizeof(struct options_setting));
    if (!out->owned)
        return no_memory(outcome);
    out->owned->usage = usage;
    out->owned->argc = argc;
    out->owned->argv = argv;
    out->owned->settings = out->owned->memory;
    out->owned->flags = out->owned->memory + options_n_rows;
    if (options_read_flags(out, usage, argc, argv, outcome))
        goto fail;
    const char *path = config_path(out);
    if (path && read_file(out, path, outcome))
        goto fail;
    if (read_environment(out, usage->command, outcome) || find_credentials(out, outcome) ||
        apply(out, usage->command, outcome) || check_needs(out, outcome))
        goto fail;
    return 0;
fail:
    options_fini(out);
    return -1;
}

/* ---- once more ---- */

int options_parse_again(struct options *out, const struct options *o,
                        struct options_outcome *outcome)
{
    const struct options_owned *owned = o->owned;
    return options_parse(out, owned->usage, owned->argc, owned->argv, outcome);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

size_t options_fixed_changes(const struct options *a, const struct options *b, char *names,
                             size_t cap)
{
    size_t n = 0, len = 0;
    names[0] = '\0';
    for (size_t i = 0; i < options_n_rows; i++) {
        if (options_rows[i].live ||
            same_text(a->owned->settings[i].text, b->owned->settings[i].text))
            continue;
        if (len < cap)
            len += (size_t)snprintf(names + len, cap - len, "%s%s", n ? ", " : "",
                                    options_rows[i].name);
        n++;
    }
    return n;
}
