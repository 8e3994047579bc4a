/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer.h - what the tokenizer's tests share: opening a vocabulary, rows of expected ids.
 */
#ifndef LACUNA_TEST_TOKENIZER_H
#define LACUNA_TEST_TOKENIZER_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"

/* Tests run in the root of the source tree. */
#define SMALL_BPE "tests/golden/vocab/bpe_small"
#define SMALL_SPM "tests/golden/vocab/spm_small"

enum { BOTH = ENGINE_TOKENIZE_ADD_SPECIAL | ENGINE_TOKENIZE_PARSE_SPECIAL };

static inline struct tokenizer *open_vocab(const char *path)
{
    struct engine_err err = { 0 };
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    cr_assert(gguf_open(&g, path, &err) == 0, "%s: %s", path, err.text);
    int status = tokenizer_open(&t, g, &err);
    gguf_close(g);
    cr_assert(status == 0, "%s: %s", path, err.text);
    return t;
}

static inline struct engine_tokens encode(const struct tokenizer *t, const char *text, size_t len,
                                          unsigned flags)
{
    struct engine_tokens out = { 0 };
    struct engine_err err = { 0 };
    cr_assert(tokenizer_encode(t, text, len, flags, &out, &err) == 0, "%s", err.text);
    return out;
}

static inline bool encodes_to(const struct tokenizer *t, const char *text, size_t len,
                              unsigned flags, const int32_t *ids, size_t n)
{
    struct engine_tokens got = encode(t, text, len, flags);
    bool equal = got.n == n && (n == 0 || memcmp(got.ids, ids, n * sizeof *ids) == 0);
    engine_tokens_fini(&got);
    return equal;
}

/* The bytes of all tokens, laid end to end.  free() it. */
static inline char *join(const struct tokenizer *t, const struct engine_tokens *tokens, size_t *len)
{
    char *out = malloc(tokens->n * tokenizer_max_bytes(t) + 1);
    cr_assert(out != NULL);
    *len = 0;
    for (size_t i = 0; i < tokens->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, tokens->ids[i], &n);
        memcpy(out + *len, bytes, n);
        *len += n;
    }
    return out;
}

#endif
