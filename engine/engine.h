/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - a loaded model that computes next-token logits.
 *
 * Two ideas:
 *  1. The engine is a pure function of sequences: engine_step() takes rows (sequence, token,
 *     position), any mixture of prompts and running sequences, and gives the logits of the rows
 *     that want them.  A row's bits never depend on its company (see kernels/kernels.h).
 *  2. Everything is sized at open; a step allocates nothing.
 *
 * Threads: opening and closing from one thread; tokenizer calls from any thread; everything marked
 * [loop] from the one thread that steps the engine.
 * Errors: functions return 0, or -1 with *err filled in (the first error wins).
 */
#ifndef LACUNA_ENGINE_H
#define LACUNA_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct engine_seq;

/* ---- errors ---- */

enum engine_err_code {
    ENGINE_ERR_NONE = 0,
    ENGINE_ERR_INPUT,       /* the caller's text or tokens: names the limit */
    ENGINE_ERR_CONTEXT,     /* longer than the context */
    ENGINE_ERR_FILE,        /* a model file that is damaged, truncated or unreadable */
    ENGINE_ERR_UNSUPPORTED, /* a good file that this build cannot run */
    ENGINE_ERR_OPTION,      /* a bad value in struct engine_options */
    ENGINE_ERR_MEMORY,      /* does not fit; says how much was needed and there */
    ENGINE_ERR_IO,          /* the storage failed */
    ENGINE_ERR_CAPACITY,    /* no pages now; try later */
    ENGINE_ERR_CANCELLED,   /* options.cancel was set while loading */
    ENGINE_ERR_INTERNAL,
};

struct engine_err {
    enum engine_err_code code;
    char text[512]; /* one sentence: what, the value found, the limit */
};

/* Fills *err unless it is NULL or already holds an error; always returns -1. */
int engine_fail(struct engine_err *err, enum engine_err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- open ---- */

enum engine_io { ENGINE_IO_AUTO, ENGINE_IO_URING, ENGINE_IO_PREAD, ENGINE_IO_MMAP };

enum engine_gating { ENGINE_GATING_FILE, ENGINE_GATING_SOFTMAX, ENGINE_GATING_SIGMOID };

/* What the pages of keys and values hold. */
enum engine_kv {
    ENGINE_KV_F16, /* F32 for the few models whose exact weights would show the difference */
    ENGINE_KV_Q8,  /* 8 bits: little more than half the memory of a long sequence, no less of one
                    * below 64 tokens; what it costs a model, engine_eval measures */
};

enum engine_phase {
    ENGINE_PHASE_HEADER,
    ENGINE_PHASE_TOKENIZER,
    ENGINE_PHASE_WEIGHTS,
    ENGINE_PHASE_EXPERTS,
    ENGINE_PHASE_WARMUP
};

/* Called from the opening thread, at most a few times per second. */
typedef void engine_progress_fn(void *ctx, enum engine_phase phase, uint64_t done_bytes,
                                uint64_t total_bytes);

/* An operating point was found to be so many times as far off as its calibration says, and is withdrawn.  On the stepping
 * thread. */
typedef void engine_withdrawn_fn(void *ctx, uint32_t point, double times);

/* One line of the memory plan: what for, how much. */
struct engine_plan_line {
    const char *what;
    uint64_t bytes;
};

/* Neurons that are zero, since ReLU or an operating point makes them so, need not be multiplied: the same bits, in another
 * layout of the feed-forward, which is faster for few rows with few active neurons, and slower for many. */
enum engine_zeros {
    ENGINE_ZEROS_MULTIPLIED,
    /* A dense feed-forward's up and down lie in memory in both layouts, if there is room without making anything else
     * smaller, and each step takes the faster way. */
    ENGINE_ZEROS_AUTO,
    ENGINE_ZEROS_SKIPPED,
};

struct engine_options {     /* a zeroed struct is valid but for model_path */
    const char *model_path; /* any part of a split model, by convention the first */
    const char *max_isa;    /* NULL: best; else a name of kern_names() */
    uint32_t n_threads;     /* 0: cores of the affinity mask, within the cgroup's quota */
    bool pin_threads;       /* each computing thread stays on a core of its own, the stepping one
                             * from engine_pin_self on */
    uint32_t n_ctx;         /* longest sequence; 0: the model's context length, at most 32,768,
                              * less if memory is short (said in the warnings) */
    uint64_t kv_bytes;      /* KV pages; 0: what n_sequences of n_ctx need, within memory */
    uint32_t n_sequences;   /* of full length, and no more, that KV pages are for; 0: 4 */
    uint64_t expert_bytes;  /* of experts in memory, the others read when tokens choose them;
                             * 0: expert_share */
    double expert_share; /* of all experts; 0: all if there is room, else what there is room for */
    const char *sidecar_path; /* of engine_write_sidecar, for this very model; NULL: none */
    const char *heat_path; /* where engine_keep_heat left which experts to start with; NULL: none */
    bool no_foresight;     /* experts are read only once tokens have chosen them */
    /* Approximations, of models with experts: fewer of them per token than the model says; and of each token
     * that is decoded all but the best so many give way to the next best where they are not in memory, so that it
     * depends on what was computed before.  0: none, the model as it is. */
    uint32_t experts_used, experts_kept;
    enum engine_kv kv;
    uint32_t max_rows;       /* rows per step; 0: 512 */
    uint32_t max_logit_rows; /* rows per step that may want logits; 0: 64 */
    enum engine_io io;
    bool read_file; /* read into huge pages instead of mapping (--no-mmap) */
    enum engine_zeros zeros;
    bool
        choose_pages; /* pages keep what operating points with a budget of tokens choose them by: 3 to 6 % more memory */
    /* Of so many steps in which something is left out one is audited: engine_audit_stats; 0: none. */
    uint32_t audit_steps;
    engine_withdrawn_fn *withdrawn; /* NULL: nobody wants to know */
    void *withdrawn_ctx;
    bool vocab_only;           /* tokenizer only: no weights, no steps */
    enum engine_gating gating; /* overrides expert_gating_func */
    bool never_defers;        /* steps wait for experts until these fail: see ENGINE_ROW_DEFERRED */
    uint64_t kv_shuffle_seed; /* tests: see kv_options */
    uint32_t expert_delay_us; /* tests: each read of an expert takes so much longer */
    uint32_t expert_patience_ms, expert_timeout_ms; /* tests: see experts_options */
    uint64_t http_bytes; /* what the caller itself will take: a line of the memory plan */
    engine_progress_fn *progress;
    void *progress_ctx;
    const volatile int *cancel; /* loading stops with ENGINE_ERR_CANCELLED once this is not 0 */
};

int engine_open(struct engine **out, const struct engine_options *opt, struct engine_err *err);
void engine_close(struct engine *e); /* NULL is fine; all sequences must be closed */

/* Behind the model's path: where heats are kept unless another file is named; engine_inspect looks there. */
#define ENGINE_HEAT_SUFFIX ".lacuna-heat"
/* And what engine_write_sidecar wrote. */
#define ENGINE_SIDECAR_SUFFIX ".lacuna"

/* Writes heat_path, for the next start; nothing if there is none or all experts are in memory.  Between
 * steps.  ENGINE_ERR_FILE: it cannot be written. */
int engine_keep_heat(struct engine *e, struct engine_err *err);

/* What decoded tokens do without, and what that costs, as the calibration measured it on text that it had not used.
 * Prompts, and the first tokens of a sequence, are always computed whole. */
struct engine_point {
    const char *name;
    uint64_t hash;     /* of what is left out */
    double kl, kl_p99; /* KL(exact || this) per token, nats: mean, 99th percentile */
    double same_top;   /* share of tokens whose most likely next one is the same */
    double perplexity; /* as a multiple of the exact one */
    /* Shares of dense feed-forwards' neurons whose rows of up and columns of down are computed; and of the bytes of all
     * weights that a decoded token reads, if what is left out is not read (ENGINE_ZEROS_SKIPPED). */
    double up, down, weights;
};
enum { ENGINE_POINT_EXACT = 0 }; /* the first one: nothing is left out */

/* Facts that never change after open; all strings live as long as the engine. */
struct engine_info {
    const char *arch;      /* "llama" */
    const char *name;      /* general.name, or the file's base name */
    const char *file_name; /* base name only */
    int64_t file_mtime;    /* seconds since 1970 */
    const char *isa;       /* the kernel table in use */
    const char *io;        /* how it was loaded: "mmap", "io_uring" or "pread" */
    const char *expert_io; /* how experts on demand are read: the same; "" if there are none */
    uint64_t model_hash;   /* of the tensor table: names, types, shapes, offsets */
    uint64_t n_params, file_bytes;
    uint32_t n_threads;
    uint32_t n_vocab, n_ctx, n_ctx_train, n_embd, n_layers;
    uint32_t n_experts;                            /* of all layers; 0: no mixture */
    uint32_t n_experts_used, n_experts_used_exact; /* per token: now, and as the model says */
    uint32_t n_experts_kept; /* of these, which never give way; n_experts_used: all */
    uint32_t max_rows, max_logit_rows;
    uint32_t n_neurons;                /* of the dense feed-forwards of all layers */
    const struct engine_point *points; /* [n_points]; engine_find_point adds to them */
    uint32_t n_points;
    uint32_t page_tokens;                /* tokens per KV page */
    const char *kv;                      /* what it holds: "f16", "f32" or "q8" */
    const struct engine_plan_line *plan; /* the memory plan */
    uint32_t n_plan;
    const char *const *warnings; /* sentences for the log */
    uint32_t n_warnings;
    const char *chat_template; /* NULL if the model has none */
};
const struct engine_info *engine_info(const struct engine *e);
/* Are a token's experts those that the model says? */
static inline bool engine_experts_are_exact(const struct engine_info *i)
{
    return i->n_experts_used == i->n_experts_used_exact && i->n_experts_kept == i->n_experts_used;
}

/* ---- operating points ---- */

/* The number of the point that is called so; or, of "0.99", of the one that reads least where so large a share of tokens
 * has the same most likely next one.  -1: there is none.  Any thread, while nobody adds to them. */
int engine_point(const struct engine *e, const char *quality);
/* The same, or the number of one that is made from "up=0.5+down=0.4", the shares of neurons that are not zero which
 * every layer computes, "neurons=0.5": of both (which wants a calibration); "tokens=2048": decoded tokens attend to so many (which wants
 * choose_pages).  -1: there is none, see *err (ENGINE_ERR_INPUT).  [loop] */
int engine_find_point(struct engine *e, const char *text, struct engine_err *err);
/* The shares of a layer's neurons that are not zero, as the calibration's text has them, whose rows of up and columns of down
 * a point computes; 1: all, or the layer has none. */
struct engine_layer_shares {
    double up, down;
};
struct engine_layer_shares engine_point_layer(const struct engine *e, uint32_t point,
                                              uint32_t layer);

/* An audit computes the feed-forward of a layer of a row whole as well, which changes no answer. */
enum { ENGINE_AUDIT_GROUPS = 4 };
struct engine_audit_group {
    uint32_t layer0, layer1; /* layers [layer0, layer1) */
    uint64_t n;              /* feed-forwards of a row that were audited */
    double error; /* how far off they are: |difference| / |whole output|, a mean of the latest */
};
struct engine_audit_stats {
    struct engine_audit_group group[ENGINE_AUDIT_GROUPS];
    uint32_t n_withdrawn; /* operating points */
};
/* Any thread. */
void engine_audit_stats(const struct engine *e, struct engine_audit_stats *out);
/* The point that a sequence shall have which was to have this one: itself, unless audits found that it loses more than its
 * calibration says; then the next safer one.  Any thread. */
uint32_t engine_point_in_force(const struct engine *e, uint32_t point);

/* ---- text: any thread ---- */

struct engine_tokens { /* a growing array; zeroed is empty */
    int32_t *ids;
    size_t n, cap;
};
void engine_tokens_fini(struct engine_tokens *t);

enum engine_tokenize_flags {
    ENGINE_TOKENIZE_ADD_SPECIAL = 1,   /* BOS/EOS as the model asks for */
    ENGINE_TOKENIZE_PARSE_SPECIAL = 2, /* text of control tokens becomes these tokens */
};

/* Appends the ids of text (valid UTF-8 or not: no input is an error but an over-long one).
 * Time is near linear in len. */
int engine_tokenize(const struct engine *e, const char *text, size_t len, unsigned flags,
                    struct engine_tokens *out, struct engine_err *err);

/* The same, but at these n_not_at places of the text (ascending) the text of a control token stays
 * text, whatever the flags: what a stranger wrote into a text that has control tokens of ours. */
int engine_tokenize_except(const struct engine *e, const char *text, size_t len, unsigned flags,
                           const size_t *not_at, size_t n_not_at, struct engine_tokens *out,
                           struct engine_err *err);
/* Length of the control token's text that this text begins with; 0: with none. */
size_t engine_special_length(const struct engine *e, const char *text, size_t len);

/* The bytes of one token, as they enter the text; control tokens give theirs too ("<|im_end|>").
 * id must be below n_vocab.  The bytes need not be UTF-8 by themselves. */
const char *engine_token_bytes(const struct engine *e, int32_t id, size_t *len);

bool engine_token_is_control(const struct engine *e, int32_t id); /* control or unknown */
bool engine_token_is_end(const struct engine *e, int32_t id); /* EOS and its kin: generation ends */
int32_t engine_token_bos(const struct engine *e);             /* -1 if the model has none */
int32_t engine_token_eos(const struct engine *e);             /* -1 if the model has none */
bool engine_adds_bos(const struct engine *e);

/* The tokens before the parts of a fill-in-the-middle prompt: prefix, suffix, and the middle, which
 * the model writes.  False if the model lacks any of them. */
struct engine_fim {
    int32_t prefix, suffix, middle;
};
bool engine_fim(const struct engine *e, struct engine_fim *out);

/* Incremental detokenizing.  Caller's memory; zeroed and then engine_detok_init is a fresh start.
 */
struct engine_detok {
    const struct engine *e;
    uint8_t held[4]; /* bytes of an unfinished code point */
    uint8_t n_held;
    bool at_start; /* SentencePiece: the first token's leading space is dropped */
    bool skip_control;
};
void engine_detok_init(struct engine_detok *d, const struct engine *e, bool skip_control,
                       bool at_start);

enum { ENGINE_DETOK_MIN = 16 };

/* Writes the text that token `id` completes: whole code points only, valid UTF-8 always (a byte
 * that can no longer become valid is U+FFFD per maximal subpart).  dst needs room for
 * 3 * (token length + 4) bytes, at least ENGINE_DETOK_MIN.  Returns the bytes written. */
size_t engine_detok_push(struct engine_detok *d, int32_t id, char *dst);
/* The end of the text: what is still held becomes U+FFFD. */
size_t engine_detok_flush(struct engine_detok *d, char *dst);
/* Longest possible output of one push for any token of this vocabulary. */
size_t engine_detok_max(const struct engine *e);

/* ---- chats: any thread ---- */

/* A conversation for the model's own chat template ("tokenizer.chat_template").  Everything is JSON
 * text, since that is how it comes, and since the template may look at any field of it; zeroed
 * members are left out. */
struct engine_chat {
    const char *messages; /* an array of objects: role, content, tool_calls, ... */
    size_t messages_len;
    const char *tools; /* an array of objects, or NULL: none */
    size_t tools_len;
    const char *variables; /* an object: further variables, by name (chat_template_kwargs) */
    size_t variables_len;
    bool add_generation_prompt;  /* end with the beginning of an answer */
    bool continue_final_message; /* end within the last message, behind its content */
    int64_t now;                 /* for templates that name the date; seconds since 1970 */
};

/* The text of the prompt, for engine_tokenize with ENGINE_TOKENIZE_PARSE_SPECIAL alone: a template
 * writes BOS itself where it wants one.  What is null in a message counts as absent, and its
 * reasoning may be called reasoning_content, reasoning or thinking.  Arguments of tool calls should
 * be objects, as templates expect them, not the strings of the API.
 * *out is ended by a NUL, not counted in *len, and the caller's to free; NULL on failure:
 *   ENGINE_ERR_UNSUPPORTED  no template, or one with a construct that this build does not know
 *                           (named, with its line)
 *   ENGINE_ERR_INPUT        the template refuses the conversation (its own words), trips over it
 *                           (what, and the template's line), or takes too much memory or work
 *   ENGINE_ERR_MEMORY */
int engine_chat_render(const struct engine *e, const struct engine_chat *chat, char **out,
                       size_t *len, struct engine_err *err);

/* ---- sequences and steps: [loop] ---- */

struct engine_seq_options {
    uint32_t max_tokens;    /* positions at most */
    const char *cache_salt; /* only sequences of the same salt share prefixes */
    size_t cache_salt_len;
    bool no_cache;     /* neither finds a stored prefix nor leaves one */
    uint32_t n_prompt; /* tokens from this position on are decoded: they may be approximated */
    uint32_t point;    /* what these do without: index of engine_info.points */
};

/* An empty sequence.  Fails with ENGINE_ERR_CONTEXT, _MEMORY. */
int engine_seq_open(struct engine *e, const struct engine_seq_options *opt, struct engine_seq **out,
                    struct engine_err *err);
/* Its pages go back; what they hold can be found until others need them.  NULL is fine. */
void engine_seq_close(struct engine_seq *seq);

/* Admits a sequence that has computed nothing: takes the longest stored prefix of tokens[0 .. n_most)
 * and promises it pages for n_tokens positions, so that up to there it never runs short; n_spare
 * pages of each kind must stay free besides.  From then on it goes on at engine_seq_n_tokens().
 * ENGINE_ERR_CAPACITY changes nothing. */
int engine_seq_admit(struct engine_seq *seq, const int32_t *tokens, uint32_t n_most,
                     uint32_t n_tokens, uint32_t n_spare, struct engine_err *err);
/* Takes the pages for all positions below n_tokens, which the next step will compute.
 * ENGINE_ERR_CAPACITY takes nothing: somebody must give pages back first. */
int engine_seq_grow(struct engine_seq *seq, uint32_t n_tokens, struct engine_err *err);
/* A second sequence that is as far as this one; what is computed is stored once. */
int engine_seq_fork(const struct engine_seq *seq, struct engine_seq **out, struct engine_err *err);
uint32_t engine_seq_n_tokens(const struct engine_seq *seq); /* computed, or found, so far */

/* How many drafts may follow the next row of a sequence in a step: they stay in that row's page, so
 * that none is begun for tokens which may never come. */
uint32_t engine_seq_draft_room(const struct engine_seq *seq);
/* The first draft of the last step that was not kept yet, this token, was right: it belongs to the
 * sequence now.  The others are forgotten by the next step, which writes over them. */
void engine_seq_keep(struct engine_seq *seq, int32_t token);

/* Could a sequence of n_tokens ever be held, by an empty cache? */
bool engine_fits(const struct engine *e, uint32_t n_tokens);

enum engine_row_status {
    ENGINE_ROW_DONE = 0,
    ENGINE_ROW_DEFERRED, /* not computed, for an expert is late: submit it again in a later step */
    ENGINE_ROW_FAILED,   /* see engine_row_error; the sequence can only be closed */
};

/* One token to compute.  Rows of a sequence are adjacent, and their positions continue it. */
struct engine_row {
    struct engine_seq *seq;
    int32_t token;
    uint32_t pos;
    bool want_logits;
    bool is_draft; /* a guess, behind all other rows of its sequence: see engine_seq_keep */
    /* out */
    enum engine_row_status status;
    uint32_t n_replaced;   /* experts of all layers that gave way: see experts_kept */
    uint32_t n_up, n_down; /* of engine_info.n_neurons, computed: see engine_point */
    uint64_t n_pages_seen,
        n_pages_read; /* where pages were chosen, of all layers and KV heads: there, and chosen */
    const float *logits; /* [n_vocab] until the next step, if wanted and done */
};

/* The calling thread is the one that steps from now on: with pin_threads it stays on a core.  Threads that it
 * starts afterwards stay there as well. */
void engine_pin_self(struct engine *e);

/* No step follows for a while: what makes later ones quicker may use the cores until then. */
void engine_idle(struct engine *e);

/* Computes the rows.  The sequences must have grown to them; n_rows <= max_rows; at most max_logit_rows want
 * logits.  These are the caller's duties (asserted).  What goes wrong with a row is its status. */
void engine_step(struct engine *e, struct engine_row *rows, uint32_t n_rows);
/* Fills *err with why rows of the last step failed.  ENGINE_ERR_INTERNAL: what was computed is no number;
 * ENGINE_ERR_IO: an expert could not be read from the model's file, and may be the next time. */
void engine_row_error(const struct engine *e, struct engine_err *err);

/* ---- sampling: [loop], runs on the workers ---- */

struct engine_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY bans */
};

struct engine_sampling {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off; 0 keeps one token */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off; over prompt and output */
    float frequency_penalty;  /* 0: off; over the output */
    float presence_penalty;   /* 0: off; over the output */
    uint64_t seed;
    const struct engine_logit_bias *bias; /* borrowed */
    uint32_t n_bias;
};

enum { ENGINE_MAX_TOP = 20 };

struct engine_logprob {
    int32_t token;
    float logprob;
};

/* One choice of a token from one row's logits.  Order: bias, bans, penalties, then greedy or
 * temperature, top-k, top-p, min-p.  The random number is a function of (seed, stream, position)
 * alone.  Log-probabilities are the log-softmax of the unmodified logits. */
struct engine_sample {
    const float *logits; /* as engine_step gave them */
    const struct engine_sampling *params;
    const int32_t *prompt;
    const int32_t *output; /* generated so far */
    uint32_t n_prompt, n_output;
    uint64_t stream;       /* names the choice within its request: prompt index, choice index */
    uint32_t position;     /* of the token to be chosen */
    const int32_t *banned; /* end and stop tokens until min_tokens */
    uint32_t n_banned;
    int32_t forced; /* -1; else this token is "chosen": only log-probabilities are computed */
    int32_t n_top;  /* -1: no log-probabilities; else how many alternatives, <= ENGINE_MAX_TOP */
    /* out */
    int32_t token;
    float logprob;                             /* of token, if n_top >= 0 */
    struct engine_logprob top[ENGINE_MAX_TOP]; /* descending; ties by lower id */
};
void engine_sample(struct engine *e, struct engine_sample *jobs, uint32_t n_jobs);

/* ---- statistics: any thread ---- */

struct engine_stats {
    /* KV pages of the group with the smallest share free.  Cached ones are free, but still hold a
     * prefix that a request may share. */
    uint32_t kv_pages, kv_pages_free, kv_pages_cached;
    uint64_t heartbeat; /* moves with every layer computed */
    /* Of feed-forwards where neurons are left out (engine_options.zeros, engine_seq_options.point), of all rows that
     * were computed beside those where they are: all, and those whose rows of up and columns of down were wanted. */
    uint64_t n_neurons, n_neurons_up, n_neurons_down;
    /* With ENGINE_ZEROS_AUTO, products of a layer with up and with down: all that had zeros, and those that skipped them. */
    uint64_t n_up_products, n_up_skipping, n_down_products, n_down_skipping;
};
void engine_stats(const struct engine *e, struct engine_stats *out);

/* Of experts on demand, in a layer or in all. */
struct engine_expert_layer {
    uint32_t n_resident; /* experts in memory now */
    /* Experts of a step: there; there or on their way, because they were foreseen; neither. */
    uint64_t n_hits, n_foreseen, n_misses;
    uint64_t n_replaced;       /* of tokens, that gave way (engine_options.experts_kept) */
    uint64_t n_unused;         /* read because they were foreseen, and not wanted */
    uint64_t n_right, n_wrong; /* not there and foreseen, read or not: wanted, or not */
};

enum { ENGINE_READ_BOUNDS = 12 };
extern const double engine_read_bounds[ENGINE_READ_BOUNDS]; /* seconds, ascending */

struct engine_expert_stats {
    struct engine_expert_layer sum; /* of all layers */
    uint32_t n_slots;               /* 0: all experts are in memory, or there are none */
    uint64_t n_evictions;
    uint64_t read_bytes;
    uint64_t stall_ns;                      /* waited for reads, nothing being left to compute */
    uint64_t reads[ENGINE_READ_BOUNDS + 1]; /* experts read, by how long it took */
    uint64_t read_ns;                       /* of all of them together */
};
void engine_expert_stats(const struct engine *e, struct engine_expert_stats *out);
/* [engine_info.n_layers].  False: all experts are in memory, or there are none. */
bool engine_expert_layers(const struct engine *e, struct engine_expert_layer *out);

/* An expert that some of a step's rows chose, in a layer whose experts are on demand. */
typedef void engine_expert_trace_fn(void *ctx, uint32_t layer, uint32_t expert);
/* From the next step on, fn sees what is chosen, on the stepping thread; NULL: no longer.  [loop] */
void engine_trace_experts(struct engine *e, engine_expert_trace_fn *fn, void *ctx);

/* ---- commands: inspect ---- */

/* Writes what the file holds as text to `write` (architecture, tensors by type, sizes, what
 * supports it), without loading the weights. */
typedef void engine_write_fn(void *ctx, const char *text, size_t len);
int engine_inspect(const char *path, engine_write_fn *write, void *ctx, struct engine_err *err);

/* ---- commands: pack ---- */

struct engine_pack_options {
    const char *in, *out; /* out is replaced when the new file is complete, not before */
    uint32_t n_threads;   /* 0: all cores */
    engine_progress_fn *progress;
    void *progress_ctx;
    const volatile int *cancel; /* not 0: give up, and leave nothing behind */
};
/* Writes a model as it lies in memory once loaded, so that later starts only map it: same keys, same
 * tensors, same results.  Only lacuna reads such a file. */
int engine_pack(const struct engine_pack_options *opt, struct engine_err *err);

/* ---- commands: bench; [loop] ---- */

/* A part of the steps since engine_profile_start. */
struct engine_part {
    const char *name;
    uint64_t ns;                  /* that the stepping thread took for it */
    uint64_t bytes;               /* of weights or KV pages that it had to read */
    uint64_t int8_macs, f32_macs; /* multiplications */
};

/* Begins to measure the parts of every step, and forgets what was measured before. */
void engine_profile_start(struct engine *e);
/* Sets *parts to the engine's own list, which later steps add to; returns how many there are. */
uint32_t engine_profile(const struct engine *e, const struct engine_part **parts);

/* What this machine can do at most, with some threads: a part takes at least as long as its reading or
 * its multiplying, whichever takes longer. */
struct engine_peak {
    uint32_t n_threads;
    double read;      /* bytes/s, of this model's weights from first to last */
    double int8, f32; /* multiplications/s, in registers */
};
/* n_threads: 1 to info->n_threads.  Reads all weights five times. */
void engine_measure_peak(struct engine *e, uint32_t n_threads, struct engine_peak *out);

/* Reads of a file from its disk, past the page cache. */
struct engine_disk_speed {
    bool in_order;        /* each piece behind the last; else anywhere in the file */
    uint32_t piece_bytes; /* of a read */
    uint32_t n_in_flight; /* reads asked for at the same time */
    double bytes_s;
    double ms; /* from asking for a piece to having it, the median */
};
enum { ENGINE_DISK_SPEEDS = 8 };
/* Fills `speeds` with several patterns, a second each.  ENGINE_ERR_IO: the file is below 16 MiB, cannot be
 * read, or lies where there is no direct I/O (in memory, some network file systems).  Any thread. */
int engine_measure_disk(const char *path, enum engine_io io,
                        struct engine_disk_speed speeds[ENGINE_DISK_SPEEDS],
                        struct engine_err *err);

/* ---- commands: eval; [loop] ---- */

/* Called for each position in order with the logits after that token; not 0 stops. */
typedef int engine_eval_row_fn(void *ctx, uint64_t index, const float *logits);

struct engine_eval_options {
    const int32_t *tokens;
    size_t n_tokens;
    uint32_t n_window; /* tokens of a window; 0: n_ctx */
    uint32_t n_chunk;  /* rows of each point per step; 0: as many as max_logit_rows has room for */
    /* Measured side by side, [n_points] of engine_info.points, every token as if it were decoded; NULL: the exact one. */
    const uint32_t *points;
    uint32_t n_points;
    engine_eval_row_fn *row; /* or NULL: sees the logits of the first point */
    void *ctx;
    /* What the logits are compared with, at the exact point: another engine of the same vocabulary, its n_ctx no shorter
     * than a window, or this one; or NULL. */
    struct engine *reference;
};

struct engine_eval_result {
    uint64_t n_tokens; /* predicted */
    double nll;        /* sum of negative log-likelihoods, nats */
    /* Where something may have been left out (struct engine_point): the shares that were not. */
    double up, down, weights;
    double pages; /* and of the pages of keys and values, where these were chosen */
    /* With a reference: */
    double reference_nll;
    uint64_t n_compared; /* positions whose logits differ in any bit: others had nothing to lose */
    double kl;           /* sum of KL(reference || this) over these, nats */
    double kl_p99, kl_most; /* their 99th percentile; the largest of them */
    uint64_t n_same_top;    /* of these, both have the same most likely token */
};

/* Of the positions that differ: the mean divergence, the share with the same most likely token. */
static inline double engine_eval_kl(const struct engine_eval_result *r)
{
    return r->n_compared ? r->kl / (double)r->n_compared : 0;
}
static inline double engine_eval_same_top(const struct engine_eval_result *r)
{
    return r->n_compared ? (double)r->n_same_top / (double)r->n_compared : 1;
}

/* Teacher-forces tokens in windows, each from an empty sequence, rows cut into chunks.  out: [n_points], at least one.
 * This and what follows want options.never_defers where experts are on demand. */
int engine_eval(struct engine *e, const struct engine_eval_options *opt,
                struct engine_eval_result *out, struct engine_err *err);

/* Half the width of the interval in which a mean of n values lies with 95 % confidence; their sum, and that of their squares. */
double engine_eval_margin(double sum, double squares, double n);

/* What a long text asks for at its end. */
enum engine_task {
    ENGINE_TASK_PASSKEY,   /* a number that stands somewhere in it */
    ENGINE_TASK_NEEDLE,    /* a sentence that does */
    ENGINE_TASK_KEYS,      /* one of eight numbers */
    ENGINE_TASK_PAIRS,     /* the value of a key, both UUIDs; there is nothing else in it */
    ENGINE_TASK_VARIABLES, /* a number by the last of four names, each the name of the one before */
    ENGINE_TASK_WORDS,     /* the word that is most frequent */
    ENGINE_N_TASKS
};
const char *engine_task_name(uint32_t task); /* "passkey"; NULL behind the last */

struct engine_task_options {
    uint32_t task, n_tokens,
        n_samples; /* of each text about so many tokens; what is asked for stands at all depths */
    uint64_t seed;
    const uint32_t *points; /* [n_points] of engine_info.points, beside the exact one */
    uint32_t n_points;
    int (*progress)(void *ctx, uint32_t done, uint32_t total); /* or NULL; not 0 stops */
    void *ctx;
};

/* Means of the samples, and of what changed from the exact point to this one, with what the mean may be off by, 95 times of
 * 100. */
struct engine_task_result {
    uint32_t n_samples;
    double solved;  /* share of samples where each token of the answer is the most likely one */
    double logprob; /* of the answer, nats */
    double solved_change, solved_margin, logprob_change, logprob_margin;
};
/* Asks the same texts at the exact point, out[0], and at the others, out[1 ..].  The answer is decoded, the text a prompt. */
int engine_eval_task(struct engine *e, const struct engine_task_options *opt,
                     struct engine_task_result *out, struct engine_err *err);

struct engine_answers_options {
    const int32_t *prompt;
    uint32_t n_prompt, n_tokens; /* n_tokens: of an answer, at most; together within n_ctx */
    const uint32_t *points;      /* [n_points] of engine_info.points, beside the exact one */
    uint32_t n_points;
};

/* What a point answers, the most likely token each time. */
struct engine_answer {
    int32_t *tokens; /* the caller's, with room for n_tokens */
    uint32_t n;
    uint32_t n_same; /* so many first tokens are the exact answer's */
    double nll;      /* of the answer as the exact model sees it, nats, all tokens together */
};
/* Answers a prompt at the exact point, out[0], and at the others, out[1 ..], side by side. */
int engine_eval_answers(struct engine *e, const struct engine_answers_options *opt,
                        struct engine_answer *out, struct engine_err *err);

/* ---- commands: calibrate; [loop] ---- */

/* An operating point that is wanted: as few bytes of weights as this loss allows. */
struct engine_goal {
    const char *name;
    double kl; /* KL(exact || this), nats per token */
};

/* Called now and then from the calling thread; what: a phase, in words. */
typedef void engine_calibrate_progress_fn(void *ctx, const char *what, uint64_t done,
                                          uint64_t total);

struct engine_calibrate_options {
    const int32_t *tokens; /* of text like what will be asked */
    size_t n_tokens;
    const struct engine_goal *goals; /* [n_goals] loss ascending */
    uint32_t n_goals;
    engine_calibrate_progress_fn *progress;
    void *progress_ctx;
    const volatile int *cancel; /* ENGINE_ERR_CANCELLED once this is not 0 */
};

enum { ENGINE_CALIBRATE_LEAST_TOKENS = 4096 };

/* Finds out which neurons count for how much, and makes an operating point of each goal, whose measures hold on text
 * that was not used to choose it.  All former points are forgotten but the exact one; no sequence may be open, and there
 * must be KV pages for 8 sequences of 1,024 tokens, or of n_ctx or n_ctx_train if these are fewer.
 * ENGINE_ERR_INPUT: too few tokens; ENGINE_ERR_UNSUPPORTED: the model has no dense feed-forwards. */
int engine_calibrate(struct engine *e, const struct engine_calibrate_options *opt,
                     struct engine_err *err);
/* Writes what is known, for engine_options.sidecar_path.  ENGINE_ERR_FILE: it cannot be written. */
int engine_write_sidecar(const struct engine *e, const char *path, struct engine_err *err);

#endif
