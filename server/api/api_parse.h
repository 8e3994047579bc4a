/* SPDX-License-Identifier: Apache-2.0
 *
 * api_parse.h - request bodies as validated structs.
 *
 * Idea: parsing is a pure function of the body and the limits.  It needs no engine, so that it is
 * tested and fuzzed alone; what needs the tokenizer (lengths in tokens) comes after.
 */
#ifndef LACUNA_SERVER_API_PARSE_H
#define LACUNA_SERVER_API_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "server/api/api_error.h"

enum {
    API_MAX_DEPTH = 64,      /* of nested JSON */
    API_MAX_VALUES = 100000, /* JSON values in a body, long lists of token ids apart */
    API_MAX_STOPS = 16,
    API_MAX_STOP_BYTES = 256,
    API_MAX_STOP_TOKENS = 1024,
    API_MAX_BIASES = 1024,
    API_MAX_SALT_BYTES = 1024,
    API_MAX_ID_BYTES = 128,
    API_MAX_QUALITY_BYTES = 64,
    API_MAX_TEXT_BYTES = 1 << 20, /* of a text that is tokenized whatever the context holds */
};

struct api_limits {
    uint32_t max_prompts, max_n, max_logprobs;
    uint32_t n_vocab;
    bool strict_params;
    uint32_t max_tokens_default; /* 0: none */
};

struct api_prompt {   /* text or ids */
    const char *text; /* NULL if ids; may hold NUL bytes */
    size_t text_len;
    const int32_t *ids; /* each below n_vocab */
    size_t n_ids;
};

/* Keys that no field answers to, for a warning. */
struct api_unknown {
    uint32_t n;
    char names[200]; /* the first of them, with commas */
};

enum { API_TO_CONTEXT_END = -1, API_NOT_GIVEN = -2 };

enum api_wish { API_NO, API_YES, API_UNSAID };

struct api_chat {                /* what only POST /v1/chat/completions has */
    const void *messages;        /* JSON array, in the document; made plain */
    const void *template_values; /* JSON object, in the document; NULL: none */
    const char *reasoning_effort;
    uint64_t text_bytes; /* of all contents */
    int64_t max_completion_tokens;
    int64_t top_logprobs; /* API_NOT_GIVEN, or as asked */
    enum api_wish generation_prompt, continues;
    bool logprobs, parallel_tool_calls;
    bool has_tools, tools_are_off, tool_is_needed;
    bool is_prefill;  /* the last message is the assistant's, and goes on */
    bool adds_prompt; /* the template opens the assistant's turn */
};

/* POST /v1/completions, and with is_chat POST /v1/chat/completions, whose prompt is made of the
 * messages later.  Strings live as long as the struct. */
struct api_completion {
    bool is_chat;
    struct api_chat chat;
    const char *model; /* NULL: not given */
    struct api_prompt *prompts;
    uint32_t n_prompts;
    uint32_t n;
    int64_t best_of;    /* API_NOT_GIVEN, or as asked */
    int64_t max_tokens; /* >= 0 or API_TO_CONTEXT_END, once parsed */
    int64_t n_predict;  /* the alias, until the end of parsing */
    uint32_t min_tokens;
    int32_t n_logprobs; /* -1: none */
    bool echo, stream, include_usage, continuous_usage;
    bool ignore_eos, include_stop, skip_special, add_special;
    bool return_token_ids, tokens_as_ids;
    bool cache_prompt;
    bool has_seed;
    int64_t seed;
    double temperature, top_p, min_p;
    double repetition_penalty, frequency_penalty, presence_penalty;
    int32_t top_k;
    int64_t truncate_prompt_tokens; /* API_NOT_GIVEN, API_TO_CONTEXT_END, or >= 1 */
    bool truncate_right;            /* cut the end instead of the beginning */
    struct sched_text *stops;
    uint32_t n_stops;
    int32_t *stop_tokens;
    uint32_t n_stop_tokens;
    struct engine_logit_bias *bias;
    uint32_t n_bias;
    const char *user, *cache_salt; /* NULL: not given */
    struct sched_text suffix;      /* empty: not given */
    int64_t priority;
    uint32_t stream_interval; /* tokens per chunk, at least 1 */
    int32_t max_predict_ms;   /* 0, -1: any */
    bool timings_per_token, return_progress;
    char request_id[API_MAX_ID_BYTES + 1]; /* "": not given */
    char quality[API_MAX_QUALITY_BYTES +
                 1]; /* name of an operating point, or a share; "": not given */
    bool has_stream_options;
    struct api_unknown unknown;
    int32_t *ids; /* all prompts' ids */
    void *doc;    /* the JSON document the strings lie in */
};

/* body is changed while it is read, and not needed afterwards.  On failure *err says why; *out
 * must be finished either way. */
int api_parse_completion(char *body, size_t len, const struct api_limits *limits,
                         struct api_completion *out, struct api_error *err);
int api_parse_chat(char *body, size_t len, const struct api_limits *limits,
                   struct api_completion *out, struct api_error *err);
void api_completion_fini(struct api_completion *c);
/* Frees what a submitted request needs no more: document, texts, stops, biases and, unless
 * keep_ids, token ids.  The rest of the struct stays as it is. */
void api_completion_drop(struct api_completion *c, bool keep_ids);

struct api_tokenize { /* POST /tokenize, both dialects */
    const char *model;
    const char *text;
    size_t text_len;
    bool is_content; /* "content" and its flags were used, not "prompt" */
    bool add_special, parse_special;
    bool with_pieces;  /* [{id, piece}] */
    bool with_strings; /* token_strs */
    struct api_unknown unknown;
    void *doc;
};
int api_parse_tokenize(char *body, size_t len, const struct api_limits *limits,
                       struct api_tokenize *out, struct api_error *err);
void api_tokenize_fini(struct api_tokenize *t);

struct api_detokenize { /* POST /detokenize */
    const char *model;
    const int32_t *ids;
    size_t n_ids;
    struct api_unknown unknown;
    int32_t *owned;
    void *doc;
};
int api_parse_detokenize(char *body, size_t len, const struct api_limits *limits,
                         struct api_detokenize *out, struct api_error *err);
void api_detokenize_fini(struct api_detokenize *d);

/* ---- the first pass over a body, before the JSON library sees it ---- */

/* A long list of integers (or list of such lists) found under a key of the outermost object: a JSON
 * library would take some 40 bytes for each. */
struct api_scan {
    int32_t *ids; /* what does not fit is -1 */
    size_t n_ids;
    size_t *ends; /* of the inner lists; NULL for a plain list */
    size_t n_lists;
    bool found;
};
/* Checks depth and number of values; if the value of `key` is such a list, takes it out and leaves
 * null in its place.  What is not well formed is left to the JSON library to refuse. */
int api_scan_body(char *body, size_t len, const char *key, struct api_scan *out,
                  struct api_error *err);
void api_scan_fini(struct api_scan *s);

#endif
