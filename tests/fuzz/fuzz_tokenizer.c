/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_tokenizer.c - any text, through both kinds of tokenizer.
 *
 * The first byte chooses vocabulary and flags; the rest is the text.  What must hold: every id is a
 * token, the bytes of the tokens are the text again (but for spaces that SentencePiece puts in and
 * U+2581 that it takes for one), and detokenizing gives well-formed UTF-8 however it is cut up.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *open_small(const char *name)
{
    struct engine_err err = { 0 };
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    char path[4096];
    const char *here = __FILE__, *slash = strrchr(here, '/');
    snprintf(path, sizeof path, "%.*s/../golden/vocab/%s", slash ? (int)(slash - here) : 1,
             slash ? here : ".", name);
    if (gguf_open(&g, path, &err) != 0 || tokenizer_open(&t, g, &err) != 0) {
        fprintf(stderr, "%s: %s\n", path, err.text);
        abort();
    }
    gguf_close(g);
    return t;
}

static void check_round_trip(const struct tokenizer *t, const struct engine_tokens *ids,
                             const char *text, size_t len)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids->ids[i], &n);
        assert(n <= len - at && memcmp(bytes, text + at, n) == 0);
        at += n;
    }
    assert(at == len);
}

static char *spaces_out(const char *text, size_t len, size_t *out_len)
{
    char *out = malloc(len + 1);
    size_t n = 0;
    assert(out != NULL);
    for (size_t at = 0; at < len;) {
        if (len - at >= 3 && memcmp(text + at, "\xE2\x96\x81", 3) == 0)
            at += 3;
        else if (text[at] == ' ')
            at++;
        else
            out[n++] = text[at++];
    }
    *out_len = n;
    return out;
}

static void check_without_spaces(const struct tokenizer *t, const struct engine_tokens *ids,
                                 const char *text, size_t len)
{
    size_t cap = ids->n * tokenizer_max_bytes(t) + 1, n = 0, want_len, got_len;
    char *joined = malloc(cap);
    assert(joined != NULL);
    for (size_t i = 0; i < ids->n; i++) {
        size_t width;
        const char *bytes = tokenizer_bytes(t, ids->ids[i], &width);
        memcpy(joined + n, bytes, width);
        n += width;
    }
    char *want = spaces_out(text, len, &want_len), *got = spaces_out(joined, n, &got_len);
    assert(want_len == got_len && memcmp(want, got, want_len) == 0);
    free(want);
    free(got);
    free(joined);
}

static void check_detok(const struct tokenizer *t, const struct engine_tokens *ids)
{
    struct detok d = { 0 };
    char *out = malloc(3 * (tokenizer_max_bytes(t) + 4));
    assert(out != NULL);
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids->ids[i], &n);
        size_t wrote = detok_bytes(&d, bytes, n, out);
        assert(wrote <= 3 * (n + 4) && utf8_valid_run(out, wrote) == wrote);
    }
    assert(detok_end(&d, out) <= 3);
    free(out);
}

static void check_ids(const struct tokenizer *t, const struct engine_tokens *ids)
{
    for (size_t i = 0; i < ids->n; i++)
        assert(ids->ids[i] >= 0 && (uint32_t)ids->ids[i] < tokenizer_n_vocab(t));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *both[2];
    if (both[0] == NULL) {
        both[0] = open_small("bpe_small.gguf");
        both[1] = open_small("spm_small.gguf");
    }
    if (size == 0)
        return 0;
    const struct tokenizer *t = both[data[0] & 1];
    unsigned flags = (data[0] & 2) ? ENGINE_TOKENIZE_PARSE_SPECIAL : 0;
    const char *text = (const char *)data + 1;
    struct engine_tokens ids = { 0 };
    struct engine_err err = { 0 };
    int status = tokenizer_encode(t, text, size - 1, flags, &ids, &err);
    assert(status == 0);
    (void)status;
    check_ids(t, &ids);
    if (t == both[0])
        check_round_trip(t, &ids, text, size - 1);
    else
        check_without_spaces(t, &ids, text, size - 1);
    check_detok(t, &ids);
    engine_tokens_fini(&ids);
    return 0;
}
