/* SPDX-License-Identifier: Apache-2.0
 *
 * bpe.c - byte-level byte-pair encoding: the text is cut into words (pretokenize.c), a word starts
 * as its bytes, and the merges of the file join them in the order of the file.
 *
 * Merges are kept as pairs of token ids, so joining never looks at text.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

#define MERGES_KEY "tokenizer.ggml.merges"

enum { MAX_MERGES = 1 << 26 }; /* far above any real file */

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the merges of the tokenizer");
}

/* ---- open ---- */

/* "left right" to ids.  The space is never the first byte: a token may begin with one. */
static int parse_merge(const struct vocab *v, struct gguf_str s, int32_t *left, int32_t *right)
{
    const char *space = s.len > 1 ? memchr(s.data + 1, ' ', s.len - 1) : NULL;
    if (space == NULL)
        return -1;
    size_t left_len = (size_t)(space - s.data);
    *left = strmap_get(&v->by_text, s.data, left_len);
    *right = strmap_get(&v->by_text, space + 1, s.len - left_len - 1);
    return *left != MAP_NONE && *right != MAP_NONE ? 0 : -1;
}

static int32_t find_joined(const struct vocab *v, int32_t left, int32_t right, char *joined)
{
    size_t a = strings_len(&v->text, (uint32_t)left), b = strings_len(&v->text, (uint32_t)right);
    if (a + b > v->max_text)
        return MAP_NONE;
    memcpy(joined, strings_get(&v->text, (uint32_t)left), a);
    memcpy(joined + a, strings_get(&v->text, (uint32_t)right), b);
    return strmap_get(&v->by_text, joined, a + b);
}

static int bad_merge(struct gguf_str s, uint64_t i, struct engine_err *err)
{
    int shown = s.len < 100 ? (int)s.len : 100;
    return engine_fail(err, ENGINE_ERR_FILE,
                       MERGES_KEY "[%llu], \"%.*s\", is not two tokens whose joint text is a token",
                       (unsigned long long)i, shown, s.data);
}

static int read_merges(struct bpe *b, const struct vocab *v, const struct gguf_array *merges,
                       char *joined, struct engine_err *err)
{
    for (uint64_t i = 0; i < merges->n; i++) {
        int32_t left, right;
        if (parse_merge(v, merges->strings[i], &left, &right) != 0)
            return bad_merge(merges->strings[i], i, err);
        b->merged[i] = find_joined(v, left, right, joined);
        if (b->merged[i] == MAP_NONE)
            return bad_merge(merges->strings[i], i, err);
        idmap_put(&b->ranks, idmap_pair(left, right), (int32_t)i);
    }
    return 0;
}

int bpe_init(struct bpe *b, const struct gguf *g, const struct vocab *v,
             const struct pre_rule *rule, struct engine_err *err)
{
    struct gguf_array merges;
    *b = (struct bpe){ .whole_words = (rule->flags & PRE_WHOLE_WORDS) != 0 };
    if (gguf_get_array(g, MERGES_KEY, true, GGUF_STRING, &merges, err) != 0)
        return -1;
    if (merges.n > MAX_MERGES)
        return engine_fail(err, ENGINE_ERR_FILE, MERGES_KEY " has %llu elements; the limit is %d",
                           (unsigned long long)merges.n, MAX_MERGES);
    b->merged = malloc((merges.n + 1) * sizeof *b->merged);
    char *joined = malloc(v->max_text + 1);
    int status = -1;
    if (b->merged == NULL || joined == NULL || idmap_init(&b->ranks, merges.n) != 0)
        no_memory(err);
    else
        status = read_merges(b, v, &merges, joined, err);
    free(joined);
    return status == 0 ? pretokenizer_open(&b->pre, rule, err) : -1;
}

void bpe_fini(struct bpe *b)
{
    idmap_fini(&b->ranks);
    free(b->merged);
    pretokenizer_close(b->pre);
}

/* ---- encode ---- */

static uint32_t pair_rank(const void *ctx, const struct merge_symbol *a,
                          const struct merge_symbol *b, int32_t *merged)
{
    const struct bpe *bpe = ctx;
    if (a->id < 0 || b->id < 0)
        return MERGE_NONE;
    int32_t rank = idmap_get(&bpe->ranks, idmap_pair(a->id, b->id));
    if (rank == MAP_NONE)
        return MERGE_NONE;
    *merged = bpe->merged[rank];
    return (uint32_t)rank;
}

/* The token that is exactly this word, or MAP_NONE.  Never one that only parsing may produce. */
static int32_t find_word(const struct vocab *v, const char *word, size_t len)
{
    char text[512];
    size_t n = 0;
    if (len > v->max_bytes || len > sizeof text / 2)
        return MAP_NONE;
    for (size_t i = 0; i < len; i++)
        n += utf8_put(text + n, byte_alphabet_code((uint8_t)word[i]));
    int32_t id = strmap_get(&v->by_text, text, n);
    if (id != MAP_NONE && (v->types[id] == TOKEN_CONTROL || v->types[id] == TOKEN_UNKNOWN))
        return MAP_NONE;
    return id;
}

static int encode_word(const struct bpe *b, const struct vocab *v, const char *word, size_t len,
                       struct merger *m, struct engine_tokens *out, struct engine_err *err)
{
    if (tokens_reserve(out, len, err) != 0)
        return -1;
    int32_t whole = b->whole_words ? find_word(v, word, len) : MAP_NONE;
    if (whole != MAP_NONE) {
        out->ids[out->n++] = whole;
        return 0;
    }
    m->n = 0;
    if (merger_reserve(m, len) != 0)
        return no_memory(err);
    for (uint32_t i = 0; i < len; i++)
        merger_add(m, i, 1, v->byte_ids[(uint8_t)word[i]]);
    merger_run(m, pair_rank, b);
    for (uint32_t i = 0; i != MERGE_NONE; i = m->symbols[i].next) {
        if (m->symbols[i].id >= 0) /* else a byte this vocabulary cannot say: it is left out */
            out->ids[out->n++] = m->symbols[i].id;
    }
    return 0;
}

int bpe_encode(const struct bpe *b, const struct vocab *v, const char *text, size_t len,
               struct encode_scratch *scratch, struct engine_tokens *out, struct engine_err *err)
{
    if (pretokenize(b->pre, text, len, &scratch->pieces, err) != 0)
        return -1;
    size_t start = 0;
    for (size_t i = 0; i < scratch->pieces.n; i++) {
        size_t end = scratch->pieces.ends[i];
        assert(end > start && end <= len);
        if (encode_word(b, v, text + start, end - start, &scratch->merger, out, err) != 0)
            return -1;
        start = end;
    }
    return 0;
}
