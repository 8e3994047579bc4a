/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.c - opens a tokenizer from a file and runs a text through its parts.
 *
 * Read-only after open; every call has its own scratch memory, so calls from any number of threads
 * need no lock.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

/* Places in a text are 31 bits wide, and U+2581 makes three bytes of a space. */
enum { MAX_TEXT_BYTES = 512 << 20 };

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe; /* one of the two */
    struct spm spm;
    struct special_trie literal;     /* tokens whose text always becomes them */
    struct special_trie all_special; /* and those for which that must be asked for */
};

/* ---- open ---- */

static bool str_equals(struct gguf_str s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static int shown(struct gguf_str s)
{
    return s.len < 64 ? (int)s.len : 64;
}

static int find_kind(const struct gguf *g, enum vocab_kind *kind, struct engine_err *err)
{
    struct gguf_str model;
    if (gguf_get_str(g, "tokenizer.ggml.model", true, &model, err) != 0)
        return -1;
    if (str_equals(model, "gpt2"))
        *kind = VOCAB_BPE;
    else if (str_equals(model, "llama"))
        *kind = VOCAB_SPM;
    else
        return engine_fail(err, ENGINE_ERR_UNSUPPORTED,
                           "tokenizer.ggml.model is \"%.*s\"; known are gpt2 (byte-level BPE) and "
                           "llama (SentencePiece BPE)",
                           shown(model), model.data);
    return 0;
}

/* A file without the key is from before there was one: "default", which is what such files were
 * tokenized with then. */
static int find_rule(const struct gguf *g, const struct pre_rule **out, struct engine_err *err)
{
    struct gguf_str pre = { .data = "default", .len = 7 };
    if (gguf_has(g, "tokenizer.ggml.pre") &&
        gguf_get_str(g, "tokenizer.ggml.pre", true, &pre, err) != 0)
        return -1;
    *out = pre_rule_find(pre.data, pre.len);
    if (*out == NULL) {
        char known[360]; /* the sentence has room for 512 */
        pre_rule_list(known, sizeof known);
        return engine_fail(err, ENGINE_ERR_UNSUPPORTED,
                           "tokenizer.ggml.pre is \"%.*s\"; known are %s and their other names",
                           shown(pre), pre.data, known);
    }
    return 0;
}

static int open_bpe(struct tokenizer *t, const struct gguf *g, struct engine_err *err)
{
    struct vocab_defaults defaults = { .bos = -1, .eos = -1, .unknown = -1 };
    const struct pre_rule *rule;
    if (find_rule(g, &rule, err) != 0)
        return -1;
    defaults.add_bos = (rule->flags & PRE_ADDS_BOS) != 0;
    if (vocab_init(&t->vocab, g, VOCAB_BPE, &defaults, err) != 0)
        return -1;
    return bpe_init(&t->bpe, g, &t->vocab, rule, err);
}

static int open_spm(struct tokenizer *t, const struct gguf *g, struct engine_err *err)
{
    /* What SentencePiece itself does where the file is silent. */
    static const struct vocab_defaults defaults = {
        .bos = 1, .eos = 2, .unknown = 0, .add_bos = true, .add_space_prefix = true
    };
    if (vocab_init(&t->vocab, g, VOCAB_SPM, &defaults, err) != 0)
        return -1;
    return spm_init(&t->spm, &t->vocab, err);
}

int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct engine_err *err)
{
    enum vocab_kind kind;
    if (find_kind(g, &kind, err) != 0)
        return -1;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the tokenizer");
    if ((kind == VOCAB_BPE ? open_bpe(t, g, err) : open_spm(t, g, err)) != 0)
        goto fail;
    if (special_trie_init(&t->literal, &t->vocab, TOKEN_IS_LITERAL, err) != 0 ||
        special_trie_init(&t->all_special, &t->vocab, TOKEN_IS_LITERAL | TOKEN_IS_SPECIAL, err) !=
            0)
        goto fail;
    *out = t;
    return 0;
fail:
    tokenizer_close(t);
    return -1;
}

void tokenizer_close(struct tokenizer *t)
{
    if (t == NULL)
        return;
    special_trie_fini(&t->literal);
    special_trie_fini(&t->all_special);
    bpe_fini(&t->bpe);
    spm_fini(&t->spm);
    vocab_fini(&t->vocab);
    free(t);
}

/* ---- encode ---- */

void engine_tokens_fini(struct engine_tokens *t)
{
    free(t->ids);
    *t = (struct engine_tokens){ 0 };
}

int tokens_reserve(struct engine_tokens *t, size_t n, struct engine_err *err)
{
    if (n <= t->cap - t->n)
        return 0;
    size_t cap = t->n + n + t->cap / 2 + 16;
    int32_t *ids = realloc(t->ids, cap * sizeof *ids);
    if (ids == NULL)
        return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for %zu tokens", cap);
    t->ids = ids;
    t->cap = cap;
    return 0;
}

void encode_scratch_fini(struct encode_scratch *s)
{
    merger_fini(&s->merger);
    pieces_fini(&s->pieces);
    free(s->escaped);
}

static int add_token(struct engine_tokens *out, int32_t id, struct engine_err *err)
{
    if (tokens_reserve(out, 1, err) != 0)
        return -1;
    out->ids[out->n++] = id;
    return 0;
}

static int encode_fragments(const struct tokenizer *t, const char *text,
                            const struct fragments *fragments, struct engine_tokens *out,
                            struct engine_err *err)
{
    struct encode_scratch scratch = { 0 };
    bool space_prefix = t->vocab.add_space_prefix; /* at the start, and behind special tokens */
    int status = 0;
    for (size_t i = 0; i < fragments->n && status == 0; i++) {
        const struct fragment *f = &fragments->items[i];
        if (f->token >= 0) {
            status = add_token(out, f->token, err);
            space_prefix = t->vocab.add_space_prefix;
            continue;
        }
        if (t->vocab.kind == VOCAB_BPE)
            status = bpe_encode(&t->bpe, &t->vocab, text + f->start, f->len, &scratch, out, err);
        else
            status = spm_encode(&t->spm, &t->vocab, text + f->start, f->len, space_prefix, &scratch,
                                out, err);
        space_prefix = false;
    }
    encode_scratch_fini(&scratch);
    return status;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct engine_tokens *out, struct engine_err *err)
{
    return tokenizer_encode_except(t, text, len, flags, NULL, 0, out, err);
}

int tokenizer_encode_except(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                            const size_t *not_at, size_t n_not_at, struct engine_tokens *out,
                            struct engine_err *err)
{
    const struct vocab *v = &t->vocab;
    const struct special_bars bars = { &t->literal, not_at, n_not_at };
    bool parse = (flags & ENGINE_TOKENIZE_PARSE_SPECIAL) != 0;
    bool add = (flags & ENGINE_TOKENIZE_ADD_SPECIAL) != 0;
    struct fragments fragments = { 0 };
    int status = 0;
    if (len > MAX_TEXT_BYTES)
        return engine_fail(err, ENGINE_ERR_INPUT, "the text has %zu bytes; the limit is %d", len,
                           MAX_TEXT_BYTES);
    if (add && tokenizer_adds_bos(t))
        status = add_token(out, v->bos, err);
    if (status == 0)
        status = special_split(parse ? &t->all_special : &t->literal, &bars, v, text, len,
                               &fragments, err);
    if (status == 0)
        status = encode_fragments(t, text, &fragments, out, err);
    if (status == 0 && add && v->add_eos && v->eos >= 0)
        status = add_token(out, v->eos, err);
    fragments_fini(&fragments);
    return status;
}

size_t tokenizer_special_length(const struct tokenizer *t, const char *text, size_t len)
{
    int32_t token;
    if (len == 0 || !t->all_special.first[(uint8_t)text[0]])
        return 0;
    size_t special_len = special_longest(&t->all_special, text, len, &token);
    bool is_literal = special_len > 0 && (t->vocab.flags[token] & TOKEN_IS_LITERAL);
    return is_literal ? 0 : special_len;
}

/* ---- facts ---- */

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    assert(id >= 0 && (uint32_t)id < t->vocab.n);
    *len = strings_len(&t->vocab.bytes, (uint32_t)id);
    return strings_get(&t->vocab.bytes, (uint32_t)id);
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    assert(id >= 0 && (uint32_t)id < t->vocab.n);
    return t->vocab.types[id] == TOKEN_CONTROL || t->vocab.types[id] == TOKEN_UNKNOWN;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    assert(id >= 0 && (uint32_t)id < t->vocab.n);
    return (t->vocab.flags[id] & TOKEN_IS_END) != 0;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->vocab.bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->vocab.eos;
}

bool tokenizer_fim(const struct tokenizer *t, struct engine_fim *out)
{
    const int32_t *fim = t->vocab.fim;
    *out = (struct engine_fim){ .prefix = fim[FIM_PREFIX],
                                .suffix = fim[FIM_SUFFIX],
                                .middle = fim[FIM_MIDDLE] };
    return out->prefix >= 0 && out->suffix >= 0 && out->middle >= 0;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->vocab.add_bos && t->vocab.bos >= 0;
}

bool tokenizer_strips_space(const struct tokenizer *t)
{
    return t->vocab.kind == VOCAB_SPM && t->vocab.add_space_prefix;
}

size_t tokenizer_max_bytes(const struct tokenizer *t)
{
    return t->vocab.max_bytes;
}
