/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of engine/text/ share.
 *
 *   text -> special.c cuts out special tokens -> bpe.c: pretokenize.c cuts words, merge.c joins bytes
 *                                             -> spm.c: merge.c joins characters
 *   ids  -> vocab.c's bytes of a token -> detokenize.c holds back what is not yet a code point
 *
 * Everything under struct tokenizer is read-only after open; what one call needs is in its scratch.
 */
#ifndef LACUNA_ENGINE_TEXT_INTERNAL_H
#define LACUNA_ENGINE_TEXT_INTERNAL_H

#include "engine/engine.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"

/* ---- utf8.c ---- */

enum { UTF8_MAX = 4 };

/* May byte b follow the n bytes at p, which begin a well-formed code point (or n is 0)? */
bool utf8_continues(const uint8_t *p, uint32_t n, uint8_t b);
/* Length of the code point that the first byte announces; 0 if none can begin so. */
uint32_t utf8_length(uint8_t first);
/* Length of the well-formed code point at p, or 0. */
uint32_t utf8_width(const char *p, size_t len);
/* How many bytes of p, from its start, are well-formed UTF-8. */
size_t utf8_valid_run(const char *p, size_t len);
/* One code point below U+0800: writes 1 or 2 bytes. */
uint32_t utf8_put(char *dst, uint32_t code);

/* ---- map.c: open addressing, built once, then only read ---- */

enum { MAP_NONE = -1 };

/* 64-bit key to a number >= 0. */
struct idmap {
    struct idmap_slot {
        uint64_t key;
        int32_t value; /* MAP_NONE: free */
    } * slots;
    uint64_t mask;
};
int idmap_init(struct idmap *m, uint64_t n_keys);
void idmap_fini(struct idmap *m);
int32_t idmap_get(const struct idmap *m, uint64_t key);
/* The first value of a key stays.  At most n_keys of idmap_init. */
void idmap_put(struct idmap *m, uint64_t key, int32_t value);

static inline uint64_t idmap_pair(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Strings laid end to end; string i is bytes at[i] .. at[i + 1]. */
struct strings {
    char *data;
    uint32_t *at; /* [n + 1] */
    uint32_t n;
};
int strings_init(struct strings *s, uint32_t n, uint64_t total_bytes);
void strings_fini(struct strings *s);
static inline size_t strings_len(const struct strings *s, uint32_t i)
{
    return s->at[i + 1] - s->at[i];
}
static inline const char *strings_get(const struct strings *s, uint32_t i)
{
    return s->data + s->at[i];
}

/* String to its index; the strings stay where they are.  Empty strings are never found. */
struct strmap {
    struct strmap_slot {
        uint32_t tag; /* other bits of the hash than those that chose the slot */
        int32_t index;
    } * slots;
    uint64_t mask;
    const struct strings *strings;
};
/* Of equal strings the last is found. */
int strmap_init(struct strmap *m, const struct strings *s);
void strmap_fini(struct strmap *m);
int32_t strmap_get(const struct strmap *m, const char *data, size_t len);

/* ---- vocab.c ---- */

enum vocab_kind { VOCAB_BPE, VOCAB_SPM };

/* What a token begins in a fill-in-the-middle prompt. */
enum fim_part { FIM_NONE, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE, FIM_N_PARTS };

/* Numbers of tokenizer.ggml.token_type. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE,
};

enum token_flag {
    TOKEN_IS_END = 1,
    TOKEN_IS_SPECIAL = 2, /* its text is matched when special tokens are parsed */
    TOKEN_IS_LITERAL = 4, /* its text is always matched */
    TOKEN_EATS_SPACE = 8, /* white space behind it is dropped */
};

struct vocab {
    enum vocab_kind kind;
    uint32_t n;
    struct strings text;  /* as the file spells them: byte-level alphabet, U+2581 */
    struct strings bytes; /* as they enter the text */
    struct strmap by_text;
    uint8_t *types;            /* enum token_type */
    uint8_t *flags;            /* enum token_flag */
    float *scores;             /* SentencePiece only */
    int32_t byte_ids[256];     /* token of one byte, or -1 */
    int32_t bos, eos, unknown; /* or -1 */
    int32_t fim[FIM_N_PARTS];  /* or -1; by enum fim_part */
    bool add_bos, add_eos, add_space_prefix;
    size_t max_text, max_bytes; /* longest of either kind */
};

struct vocab_defaults { /* where the file has no such key */
    int32_t bos, eos, unknown;
    bool add_bos, add_space_prefix;
};

int vocab_init(struct vocab *v, const struct gguf *g, enum vocab_kind kind,
               const struct vocab_defaults *defaults, struct engine_err *err);
void vocab_fini(struct vocab *v);

/* The byte-level alphabet: every byte has a printable code point below U+0800. */
uint32_t byte_alphabet_code(uint8_t byte);

/* ---- well_known.c ---- */

/* Flags (TOKEN_IS_END, TOKEN_IS_SPECIAL) of tokens that are special by their name alone. */
unsigned well_known_flags(const char *text, size_t len);
/* The part that a token of this name begins. */
enum fim_part well_known_part(const char *text, size_t len);

/* ---- pretokenize.c, pretokenize_rules.c ---- */

enum { PRE_MAX_STEPS = 6 };

enum pre_flag {
    PRE_ADDS_BOS = 1,    /* unless the file says otherwise */
    PRE_WHOLE_WORDS = 2, /* a word that is a token stays whole, whatever the merges say */
};

/* One row per splitting rule. */
struct pre_rule {
    const char *names; /* values of tokenizer.ggml.pre, separated by spaces */
    unsigned flags;
    /* Applied one after the other, each to the pieces the one before left: what matches is a piece,
     * and what lies between matches is one too. */
    const char *steps[PRE_MAX_STEPS];
};
extern const char PRE_THREES[]; /* a step that is no expression: runs of digits, by three */

const struct pre_rule *pre_rule_find(const char *name, size_t len); /* or NULL */
/* The rules by their first names, as far as they fit. */
void pre_rule_list(char *dst, size_t dst_bytes);

struct pretokenizer;
int pretokenizer_open(struct pretokenizer **out, const struct pre_rule *rule,
                      struct engine_err *err);
void pretokenizer_close(struct pretokenizer *p); /* NULL is fine */

struct pieces { /* zeroed is empty */
    uint32_t *ends, *next;
    size_t n, cap;
    size_t n_next, next_cap;
    void *match; /* PCRE2's, made at first use */
    void *limits;
};
void pieces_fini(struct pieces *p);
/* Cuts text; piece i ends before byte ends[i].  Any bytes: what is not UTF-8 is cut off by itself.
 */
int pretokenize(const struct pretokenizer *p, const char *text, size_t len, struct pieces *out,
                struct engine_err *err);

/* ---- merge.c ---- */

/* A heap of 64-bit keys, least first.  Zeroed is empty. */
struct heap {
    uint64_t *keys;
    size_t n, cap;
};
void heap_fini(struct heap *h);
int heap_reserve(struct heap *h, size_t cap);
void heap_build(struct heap *h);              /* orders keys that were appended directly */
void heap_push(struct heap *h, uint64_t key); /* room must be reserved */
uint64_t heap_pop(struct heap *h);

#define MERGE_NONE UINT32_MAX /* rank: these two do not merge; index: the end of the list */

struct merge_symbol {
    uint32_t start, len; /* in the word; len 0: merged away */
    uint32_t prev, next; /* index, or MERGE_NONE */
    int32_t id;          /* token, or -1 */
    int32_t merged;      /* token it would become together with next */
    uint32_t rank;       /* of that merge, least first */
};

/* Rank of merging a with the b behind it, and the token they become; or MERGE_NONE. */
typedef uint32_t merge_rank_fn(const void *ctx, const struct merge_symbol *a,
                               const struct merge_symbol *b, int32_t *merged);

struct merger { /* zeroed is empty; reused from word to word */
    struct merge_symbol *symbols;
    size_t n, cap;
    struct heap heap;
};
void merger_fini(struct merger *m);
int merger_reserve(struct merger *m, size_t n_symbols);
/* Appends a symbol of the word; room must be reserved. */
void merger_add(struct merger *m, uint32_t start, uint32_t len, int32_t id);
/* Merges the best pair, ties leftmost, until none is left.  Afterwards the list from symbol 0 along
 * `next` is the result.  n log n in the number of symbols. */
void merger_run(struct merger *m, merge_rank_fn *rank, const void *ctx);

/* ---- special.c ---- */

struct special_trie {
    struct idmap edges; /* node << 8 | byte -> node */
    int32_t *tokens;    /* [n_nodes], or -1 */
    uint32_t n_nodes;
    bool first[256]; /* bytes that begin a special token */
};
/* All tokens that have one of these flags. */
int special_trie_init(struct special_trie *t, const struct vocab *v, unsigned flags,
                      struct engine_err *err);
void special_trie_fini(struct special_trie *t);

struct fragment {
    size_t start, len;
    int32_t token; /* -1: ordinary text */
};
struct fragments {
    struct fragment *items;
    size_t n;
};
void fragments_fini(struct fragments *f);
/* Places where only the tokens of another trie may begin. */
struct special_bars {
    const struct special_trie *trie;
    const size_t *at; /* [n] ascending */
    size_t n;
};
/* Cuts text at special tokens: longest tokens first, wherever they stand; equal ones leftmost. */
int special_split(const struct special_trie *t, const struct special_bars *bars,
                  const struct vocab *v, const char *text, size_t len, struct fragments *out,
                  struct engine_err *err);
/* The longest token at text of at most len bytes: its length, or 0. */
uint32_t special_longest(const struct special_trie *t, const char *text, size_t len,
                         int32_t *token);

/* ---- bpe.c, spm.c: ordinary text to ids ---- */

struct bpe {
    struct idmap ranks; /* pair of tokens -> rank */
    int32_t *merged;    /* [n_merges] the token a rank makes */
    struct pretokenizer *pre;
    bool whole_words;
};
int bpe_init(struct bpe *b, const struct gguf *g, const struct vocab *v,
             const struct pre_rule *rule, struct engine_err *err);
void bpe_fini(struct bpe *b);

struct spm {
    uint32_t *ranks; /* [n] place of the token's score, best first; equal scores share a place */
};
int spm_init(struct spm *s, const struct vocab *v, struct engine_err *err);
void spm_fini(struct spm *s);

struct encode_scratch { /* one per call; zeroed is empty */
    struct merger merger;
    struct pieces pieces;
    char *escaped;
    size_t escaped_cap;
};
void encode_scratch_fini(struct encode_scratch *s);

int bpe_encode(const struct bpe *b, const struct vocab *v, const char *text, size_t len,
               struct encode_scratch *scratch, struct engine_tokens *out, struct engine_err *err);
/* space_prefix: a space is put before the text. */
int spm_encode(const struct spm *s, const struct vocab *v, const char *text, size_t len,
               bool space_prefix, struct encode_scratch *scratch, struct engine_tokens *out,
               struct engine_err *err);

/* ---- tokenizer.c ---- */

/* Room for n more ids. */
int tokens_reserve(struct engine_tokens *t, size_t n, struct engine_err *err);

/* ---- detokenize.c ---- */

struct detok { /* zeroed is a fresh start */
    uint8_t held[UTF8_MAX];
    uint8_t n_held;
};
/* dst needs 3 * (len + 4) bytes. */
size_t detok_bytes(struct detok *d, const char *bytes, size_t len, char *dst);
size_t detok_end(struct detok *d, char *dst);

#endif
