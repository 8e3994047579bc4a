/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_engine.c - see fake_engine.h.  What a sequence holds is its list of tokens; a hash of it
 * chooses the next one.
 */
#include "tests/support/fake_engine.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SCRIPTS = 8, N_PIECES = 24, N_VOCAB = FAKE_N_SPECIAL + N_PIECES };

static const char *const special_pieces[FAKE_N_SPECIAL - 256] = { "<s>", "</s>", "<|end|>", "<|x|>",
                                                                  "<|fail|>" };
static const char *const text_pieces[N_PIECES] = {
    "hello", " world",       "\n\n",     "ab", "abc",      "bcd",  "STOP",     "ST",
    "OP",    "xyz",          "\xc3\xa9", "é!", "\xe2\x82", "\xac", "\xf0\x9f", "\x98\x80",
    "日本",  "\x9f\x98\x80", "User:",    "Us", "er",       " the", "end.",     "er:",
};

struct script {
    int32_t first;
    uint32_t start, n;
    const int32_t *tokens;
};

/* What a closed sequence held. */
struct memory {
    int32_t *tokens;
    uint32_t n;
    uint64_t salt;
};
enum { N_MEMORIES = 8 };

struct engine {
    struct engine_info info;
    struct fake_engine_options opt;
    struct script scripts[MAX_SCRIPTS];
    uint32_t n_scripts;
    float *logits; /* [max_logit_rows][N_VOCAB] */
    uint64_t n_rows;
    char violation[200];
    atomic_bool is_violated;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t allowance; /* steps that may begin */
    bool is_waiting;
    struct fake_engine_counts counts;
    struct memory memory[N_MEMORIES];
    uint32_t n_remembered;
    pthread_t thread;
    bool has_thread;
};

struct engine_seq {
    struct engine *e;
    uint32_t max_tokens, n_grown, n_pages, n_shared, n_tokens;
    uint32_t n_drafts; /* tokens behind n_tokens that may still be kept */
    bool no_cache;
    uint64_t salt, last_step;
    int32_t tokens[];
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ x >> 32;
}

static void violate(struct engine *e, const char *what, uint64_t value)
{
    pthread_mutex_lock(&e->lock);
    if (!e->is_violated)
        snprintf(e->violation, sizeof(e->violation), "%s (%llu)", what, (unsigned long long)value);
    e->is_violated = true;
    pthread_mutex_unlock(&e->lock);
}

static void check(struct engine *e, bool holds, const char *what, uint64_t value)
{
    if (!holds)
        violate(e, what, value);
}

static void check_thread(struct engine *e)
{
    if (!e->has_thread)
        e->thread = pthread_self();
    e->has_thread = true;
    check(e, pthread_equal(e->thread, pthread_self()), "[loop] functions from two threads", 0);
}

/* ---- open, close, controls ---- */

static uint32_t or_default(uint32_t value, uint32_t other)
{
    return value ? value : other;
}

struct engine *fake_engine_open(const struct fake_engine_options *opt)
{
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        abort();
    e->opt = *opt;
    e->opt.n_pages = or_default(opt->n_pages, 1024);
    e->opt.page_tokens = or_default(opt->page_tokens, 8);
    e->info = (struct engine_info){
        .arch = "fake",
        .name = "fake",
        .n_vocab = N_VOCAB,
        .n_ctx = or_default(opt->n_ctx, 256),
        .max_rows = or_default(opt->max_rows, 32),
        .max_logit_rows = or_default(opt->max_logit_rows, 8),
        .page_tokens = e->opt.page_tokens,
    };
    e->logits = calloc((size_t)e->info.max_logit_rows * N_VOCAB, sizeof(float));
    e->allowance = opt->held ? 0 : UINT64_MAX;
    if (!e->logits || pthread_mutex_init(&e->lock, NULL) || pthread_cond_init(&e->changed, NULL))
        abort();
    return e;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    for (uint32_t i = 0; i < N_MEMORIES; i++)
        free(e->memory[i].tokens);
    free(e->logits);
    free(e);
}

void fake_engine_script(struct engine *e, int32_t first, uint32_t start, const int32_t *tokens,
                        uint32_t n)
{
    if (e->n_scripts == MAX_SCRIPTS)
        abort();
    e->scripts[e->n_scripts++] = (struct script){ first, start, n, tokens };
}

void fake_engine_hold(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->allowance = 0;
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_go(struct engine *e, uint64_t n_steps)
{
    pthread_mutex_lock(&e->lock);
    e->allowance = n_steps;
    e->is_waiting = false; /* else fake_engine_wait_held could see the step that is let go */
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_wait_held(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    while (!e->is_waiting)
        pthread_cond_wait(&e->changed, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

static void wait_for_allowance(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    while (e->allowance == 0) {
        if (!e->is_waiting) {
            e->is_waiting = true;
            pthread_cond_broadcast(&e->changed);
        }
        pthread_cond_wait(&e->changed, &e->lock);
    }
    e->is_waiting = false;
    if (e->allowance != UINT64_MAX)
        e->allowance--;
    e->counts.n_steps++;
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_counts(const struct engine *e, struct fake_engine_counts *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&e->lock;
    pthread_mutex_lock(lock);
    *out = e->counts;
    pthread_mutex_unlock(lock);
}

const char *fake_engine_violation(const struct engine *e)
{
    return e->is_violated ? e->violation : NULL;
}

int engine_fail(struct engine_err *err, enum engine_err_code code, const char *fmt, ...)
{
    if (!err || err->code != ENGINE_ERR_NONE)
        return -1;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    err->code = code;
    return -1;
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

/* ---- text ---- */

static char byte_pieces[256];

__attribute__((constructor)) static void fill_byte_pieces(void)
{
    for (int i = 0; i < 256; i++)
        byte_pieces[i] = (char)i;
}

const char *engine_token_bytes(const struct engine *e, int32_t id, size_t *len)
{
    (void)e;
    if (id < 256) {
        *len = 1;
        return &byte_pieces[id];
    }
    const char *piece = id < FAKE_N_SPECIAL ? special_pieces[id - 256]
                                            : text_pieces[id - FAKE_N_SPECIAL];
    *len = strlen(piece);
    return piece;
}

int32_t fake_token(const char *piece)
{
    if (strlen(piece) == 1)
        return (uint8_t)piece[0];
    for (int32_t i = 0; i < N_PIECES; i++)
        if (strcmp(text_pieces[i], piece) == 0)
            return FAKE_N_SPECIAL + i;
    abort();
}

bool engine_token_is_control(const struct engine *e, int32_t id)
{
    (void)e;
    return id >= FAKE_BOS && id < FAKE_N_SPECIAL;
}

bool engine_token_is_end(const struct engine *e, int32_t id)
{
    (void)e;
    return id == FAKE_EOS || id == FAKE_END2;
}

int32_t engine_token_bos(const struct engine *e)
{
    (void)e;
    return FAKE_BOS;
}

int32_t engine_token_eos(const struct engine *e)
{
    (void)e;
    return FAKE_EOS;
}

bool engine_fim(const struct engine *e, struct engine_fim *out)
{
    (void)e;
    *out = (struct engine_fim){ -1, -1, -1 };
    return false;
}

bool engine_adds_bos(const struct engine *e)
{
    (void)e;
    return true;
}

void engine_tokens_fini(struct engine_tokens *t)
{
    free(t->ids);
    *t = (struct engine_tokens){ .ids = NULL };
}

void engine_detok_init(struct engine_detok *d, const struct engine *e, bool skip_control,
                       bool at_start)
{
    *d = (struct engine_detok){ .e = e, .skip_control = skip_control, .at_start = at_start };
}

/* Length of the code point that begins with this byte, 0 if none does. */
static unsigned point_length(uint8_t lead)
{
    if (lead < 0x80)
        return 1;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF)
        return 3;
    return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

/* May `byte` follow the n bytes already there? */
static bool may_follow(const uint8_t *held, unsigned n, uint8_t byte)
{
    uint8_t low = 0x80, high = 0xBF;
    if (n == 1 && held[0] == 0xE0)
        low = 0xA0;
    if (n == 1 && held[0] == 0xED)
        high = 0x9F;
    if (n == 1 && held[0] == 0xF0)
        low = 0x90;
    if (n == 1 && held[0] == 0xF4)
        high = 0x8F;
    return byte >= low && byte <= high;
}

static size_t put_replacement(char *dst)
{
    memcpy(dst, "\xef\xbf\xbd", 3);
    return 3;
}

size_t engine_detok_flush(struct engine_detok *d, char *dst)
{
    size_t n = d->n_held > 0 ? put_replacement(dst) : 0;
    d->n_held = 0;
    return n;
}

static size_t push_byte(struct engine_detok *d, uint8_t byte, char *dst)
{
    size_t n = 0;
    if (d->n_held > 0 && !may_follow(d->held, d->n_held, byte))
        n = engine_detok_flush(d, dst);
    if (d->n_held == 0 && point_length(byte) == 0)
        return n + put_replacement(dst + n);
    d->held[d->n_held++] = byte;
    if (d->n_held < point_length(d->held[0]))
        return n;
    memcpy(dst + n, d->held, d->n_held);
    n += d->n_held;
    d->n_held = 0;
    return n;
}

size_t engine_detok_push(struct engine_detok *d, int32_t id, char *dst)
{
    if (d->skip_control && engine_token_is_control(d->e, id))
        return 0;
    size_t len, n = 0;
    const char *bytes = engine_token_bytes(d->e, id, &len);
    size_t from = d->at_start && len > 0 && bytes[0] == ' ' ? 1 : 0;
    d->at_start = false;
    for (size_t i = from; i < len; i++)
        n += push_byte(d, (uint8_t)bytes[i], dst + n);
    return n;
}

size_t engine_detok_max(const struct engine *e)
{
    (void)e;
    return 3 * (8 + 4);
}

/* ---- sequences ---- */

static uint32_t pages_for(const struct engine *e, uint32_t n_tokens)
{
    return (n_tokens + e->opt.page_tokens - 1) / e->opt.page_tokens;
}

static bool take_pages(struct engine *e, uint32_t n, uint32_t n_spare)
{
    pthread_mutex_lock(&e->lock);
    uint32_t n_free = e->opt.n_pages - e->counts.n_pages;
    bool fits = n <= n_free && n_spare <= n_free - n;
    if (fits)
        e->counts.n_pages += n;
    pthread_mutex_unlock(&e->lock);
    return fits;
}

static struct engine_seq *new_seq(struct engine *e, uint32_t max_tokens)
{
    struct engine_seq *seq = calloc(1, sizeof(*seq) + max_tokens * sizeof(seq->tokens[0]));
    if (!seq)
        return NULL;
    seq->e = e;
    seq->max_tokens = max_tokens;
    pthread_mutex_lock(&e->lock);
    e->counts.n_seqs++;
    pthread_mutex_unlock(&e->lock);
    return seq;
}

int engine_seq_open(struct engine *e, const struct engine_seq_options *opt, struct engine_seq **out,
                    struct engine_err *err)
{
    check_thread(e);
    if (opt->max_tokens > e->info.n_ctx)
        return engine_fail(err, ENGINE_ERR_CONTEXT, "%u tokens, the context has %u",
                           opt->max_tokens, e->info.n_ctx);
    *out = new_seq(e, opt->max_tokens);
    if (!*out)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory");
    (*out)->no_cache = opt->no_cache;
    (*out)->salt = 1;
    for (size_t i = 0; i < opt->cache_salt_len; i++)
        (*out)->salt = mix((*out)->salt * 31 + (uint8_t)opt->cache_salt[i]);
    return 0;
}

/* The newest few are remembered. */
static void remember(struct engine *e, const struct engine_seq *seq)
{
    struct memory *m = &e->memory[e->n_remembered++ % N_MEMORIES];
    free(m->tokens);
    *m = (struct memory){ .salt = seq->salt };
    m->tokens = malloc((seq->n_tokens + 1) * sizeof(*m->tokens));
    if (!m->tokens)
        return;
    m->n = seq->n_tokens;
    memcpy(m->tokens, seq->tokens, seq->n_tokens * sizeof(*m->tokens));
}

static uint32_t recall(const struct engine_seq *seq, const int32_t *tokens, uint32_t n_most)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < N_MEMORIES && !seq->no_cache; i++) {
        const struct memory *m = &seq->e->memory[i];
        uint32_t n = 0;
        while (m->salt == seq->salt && n < m->n && n < n_most && m->tokens[n] == tokens[n])
            n++;
        best = n > best ? n : best;
    }
    return best;
}

void engine_seq_close(struct engine_seq *seq)
{
    if (!seq)
        return;
    struct engine *e = seq->e;
    check_thread(e);
    if (!seq->no_cache)
        remember(e, seq);
    pthread_mutex_lock(&e->lock);
    e->counts.n_seqs--;
    e->counts.n_pages -= seq->n_pages;
    pthread_mutex_unlock(&e->lock);
    free(seq);
}

int engine_seq_admit(struct engine_seq *seq, const int32_t *tokens, uint32_t n_most,
                     uint32_t n_tokens, uint32_t n_spare, struct engine_err *err)
{
    struct engine *e = seq->e;
    check_thread(e);
    check(e, n_tokens <= seq->max_tokens, "admitted beyond max_tokens", n_tokens);
    check(e, n_most < n_tokens, "no token would be left to compute", n_most);
    check(e, seq->n_tokens == 0 && seq->n_pages == 0, "admitted twice", seq->n_tokens);
    if (!take_pages(e, pages_for(e, n_tokens), n_spare))
        return engine_fail(err, ENGINE_ERR_CAPACITY, "%u pages needed", pages_for(e, n_tokens));
    seq->n_pages = pages_for(e, n_tokens);
    seq->n_grown = n_tokens;
    seq->n_tokens = recall(seq, tokens, n_most);
    memcpy(seq->tokens, tokens, seq->n_tokens * sizeof(*tokens));
    return 0;
}

int engine_seq_grow(struct engine_seq *seq, uint32_t n_tokens, struct engine_err *err)
{
    struct engine *e = seq->e;
    check_thread(e);
    check(e, n_tokens <= seq->max_tokens, "grown beyond max_tokens", n_tokens);
    uint32_t n_needed = pages_for(e, n_tokens) - seq->n_shared;
    uint32_t n_more = n_needed > seq->n_pages ? n_needed - seq->n_pages : 0;
    if (!take_pages(e, n_more, 0))
        return engine_fail(err, ENGINE_ERR_CAPACITY, "%u pages needed", n_more);
    seq->n_pages += n_more;
    seq->n_grown = n_tokens > seq->n_grown ? n_tokens : seq->n_grown;
    return 0;
}

int engine_seq_fork(const struct engine_seq *seq, struct engine_seq **out, struct engine_err *err)
{
    check_thread(seq->e);
    *out = new_seq(seq->e, seq->max_tokens);
    if (!*out)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory");
    (*out)->salt = seq->salt;
    (*out)->no_cache = seq->no_cache;
    (*out)->n_tokens = (*out)->n_grown = seq->n_tokens;
    (*out)->n_shared = seq->n_tokens / seq->e->opt.page_tokens;
    memcpy((*out)->tokens, seq->tokens, seq->n_tokens * sizeof(seq->tokens[0]));
    return 0;
}

uint32_t engine_seq_n_tokens(const struct engine_seq *seq)
{
    return seq->n_tokens;
}

uint32_t engine_seq_draft_room(const struct engine_seq *seq)
{
    return seq->e->opt.page_tokens - 1 - seq->n_tokens % seq->e->opt.page_tokens;
}

void engine_seq_keep(struct engine_seq *seq, int32_t token)
{
    struct engine *e = seq->e;
    check_thread(e);
    check(e, seq->n_drafts > 0 && seq->tokens[seq->n_tokens] == token, "keeps what was no draft",
          (uint64_t)token);
    seq->n_drafts -= seq->n_drafts > 0;
    seq->n_tokens++;
}

bool engine_fits(const struct engine *e, uint32_t n_tokens)
{
    return e->opt.overestimates || pages_for(e, n_tokens) <= e->opt.n_pages;
}

/* ---- steps ---- */

static int32_t next_token(const struct engine_seq *seq, uint32_t pos, uint64_t hash)
{
    const struct engine *e = seq->e;
    for (uint32_t i = 0; i < e->n_scripts; i++) {
        const struct script *sc = &e->scripts[i];
        if (sc->first == seq->tokens[0] && pos >= sc->start && pos - sc->start < sc->n)
            return sc->tokens[pos - sc->start];
    }
    if (e->opt.random_ends && hash % 23 == 0)
        return FAKE_EOS;
    if (hash % 5 == 0)
        return FAKE_N_SPECIAL + (int32_t)(hash / 5 % N_PIECES);
    return 'a' + (int32_t)(hash / 5 % 26);
}

/* After the first n tokens of the sequence, drafts included. */
static void fill_logits(const struct engine_seq *seq, uint32_t n, float *logits)
{
    uint64_t hash = 1;
    for (uint32_t i = 0; i < n; i++)
        hash = mix(hash * 31 + (uint64_t)seq->tokens[i]);
    for (uint32_t i = 0; i < N_VOCAB; i++)
        logits[i] = (float)(mix(hash + i) % 1000) / 1000.0f;
    logits[next_token(seq, n, hash)] += 10.0f;
}

/* A run of rows of one sequence. */
static void check_run(struct engine *e, const struct engine_row *rows, uint32_t n)
{
    struct engine_seq *seq = rows[0].seq;
    check(e, seq->last_step != e->counts.n_steps, "rows of a sequence are not adjacent", 0);
    seq->last_step = e->counts.n_steps;
    for (uint32_t i = 0; i < n; i++) {
        check(e, rows[i].pos == seq->n_tokens + i, "positions do not continue", rows[i].pos);
        check(e, rows[i].pos < seq->n_grown, "the sequence has not grown to this position",
              rows[i].pos);
        check(e, i == 0 || rows[i].is_draft >= rows[i - 1].is_draft, "a row behind a draft", i);
        check(e,
              !rows[i].is_draft ||
                  (i > 0 && rows[i].pos / e->opt.page_tokens == rows[0].pos / e->opt.page_tokens),
              "a draft begins a page", rows[i].pos);
        check(e, rows[i].token >= 0 && rows[i].token < N_VOCAB, "no such token",
              (uint64_t)rows[i].token);
    }
}

/* Returns the logits after those used. */
static float *compute_run(struct engine *e, struct engine_row *rows, uint32_t n, float *logits)
{
    struct engine_seq *seq = rows[0].seq;
    enum engine_row_status status = ENGINE_ROW_DONE;
    seq->n_drafts = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (status == ENGINE_ROW_DONE && rows[i].token == FAKE_POISON)
            status = ENGINE_ROW_FAILED;
        else if (status == ENGINE_ROW_DONE && e->opt.defer_every > 0 &&
                 ++e->n_rows % e->opt.defer_every == 0)
            status = ENGINE_ROW_DEFERRED;
        rows[i].status = status;
        rows[i].logits = NULL;
        if (status != ENGINE_ROW_DONE)
            continue;
        seq->tokens[seq->n_tokens + seq->n_drafts] = rows[i].token;
        seq->n_drafts += rows[i].is_draft;
        seq->n_tokens += !rows[i].is_draft;
        if (rows[i].want_logits) {
            fill_logits(seq, seq->n_tokens + seq->n_drafts, logits);
            rows[i].logits = logits;
            logits += N_VOCAB;
        }
    }
    return logits;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void count_step(struct engine *e, const struct engine_row *rows, uint32_t n_rows)
{
    uint32_t n_logits = 0, n_seqs = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        n_logits += rows[i].want_logits;
        n_seqs += i == 0 || rows[i].seq != rows[i - 1].seq;
    }
    check(e, n_rows > 0, "an empty step", 0);
    check(e, n_rows <= e->info.max_rows, "too many rows", n_rows);
    check(e, n_logits <= e->info.max_logit_rows, "too many rows with logits", n_logits);
    pthread_mutex_lock(&e->lock);
    e->counts.max_rows = max_u32(e->counts.max_rows, n_rows);
    e->counts.max_logit_rows = max_u32(e->counts.max_logit_rows, n_logits);
    e->counts.max_seqs = max_u32(e->counts.max_seqs, n_seqs);
    pthread_mutex_unlock(&e->lock);
}

void engine_pin_self(struct engine *e)
{
    check_thread(e);
}

void engine_idle(struct engine *e)
{
    check_thread(e);
}

void engine_step(struct engine *e, struct engine_row *rows, uint32_t n_rows)
{
    check_thread(e);
    wait_for_allowance(e);
    count_step(e, rows, n_rows);
    if (e->is_violated)
        abort(); /* the arrays below rely on it */
    if (e->opt.step_us > 0)
        usleep(e->opt.step_us);
    float *logits = e->logits;
    for (uint32_t i = 0; i < n_rows;) {
        uint32_t n = 1;
        while (i + n < n_rows && rows[i + n].seq == rows[i].seq)
            n++;
        check_run(e, &rows[i], n);
        logits = compute_run(e, &rows[i], n, logits);
        i += n;
    }
}

void engine_row_error(const struct engine *e, struct engine_err *err)
{
    (void)e;
    engine_fail(err, ENGINE_ERR_INTERNAL, "the row is poisoned");
}

/* ---- sampling ---- */

static bool is_banned(const struct engine_sample *job, int32_t id)
{
    for (uint32_t i = 0; i < job->n_banned; i++)
        if (job->banned[i] == id)
            return true;
    return false;
}

static float score(const struct engine_sample *job, int32_t id)
{
    const struct engine_sampling *p = job->params;
    float value = job->logits[id];
    for (uint32_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].token == id)
            value += p->bias[i].bias;
    for (uint32_t i = 0; i < job->n_output; i++)
        if (job->output[i] == id)
            value -= p->frequency_penalty;
    uint64_t at = mix(p->seed + mix(job->stream + mix(job->position + mix((uint64_t)id))));
    return value + p->temperature * (float)(at % 4096) / 256.0f;
}

static int32_t choose(const struct engine_sample *job)
{
    int32_t best = -1;
    float best_score = -INFINITY;
    for (int32_t i = 0; i < N_VOCAB; i++) {
        if (is_banned(job, i))
            continue;
        float s = score(job, i);
        if (best < 0 || s > best_score) {
            best = i;
            best_score = s;
        }
    }
    return best;
}

static void fill_top(struct engine_sample *job, float log_sum)
{
    bool used[N_VOCAB] = { false };
    for (int32_t k = 0; k < job->n_top; k++) {
        int32_t best = -1;
        for (int32_t i = 0; i < N_VOCAB; i++)
            if (!used[i] && (best < 0 || job->logits[i] > job->logits[best]))
                best = i;
        used[best] = true;
        job->top[k] = (struct engine_logprob){ best, job->logits[best] - log_sum };
    }
}

static void sample_one(struct engine_sample *job)
{
    job->token = job->forced >= 0 ? job->forced : choose(job);
    if (job->n_top < 0)
        return;
    double sum = 0;
    for (uint32_t i = 0; i < N_VOCAB; i++)
        sum += exp((double)job->logits[i]);
    float log_sum = (float)log(sum);
    job->logprob = job->logits[job->token] - log_sum;
    fill_top(job, log_sum);
}

void engine_sample(struct engine *e, struct engine_sample *jobs, uint32_t n_jobs)
{
    check_thread(e);
    for (uint32_t i = 0; i < n_jobs; i++)
        sample_one(&jobs[i]);
}

const double engine_read_bounds[ENGINE_READ_BOUNDS] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };

/* It is no mixture. */
void engine_expert_stats(const struct engine *e, struct engine_expert_stats *out)
{
    (void)e;
    *out = (struct engine_expert_stats){ 0 };
}

bool engine_expert_layers(const struct engine *e, struct engine_expert_layer *out)
{
    (void)e;
    (void)out;
    return false;
}

void engine_stats(const struct engine *e, struct engine_stats *out)
{
    struct fake_engine_counts counts;
    fake_engine_counts(e, &counts);
    *out = (struct engine_stats){
        .kv_pages = e->opt.n_pages,
        .kv_pages_free = e->opt.n_pages - counts.n_pages,
        .heartbeat = counts.n_steps,
    };
}
