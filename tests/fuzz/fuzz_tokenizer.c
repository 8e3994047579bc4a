/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_tokenizer.c - any text through the tokenizers, and damaged vocabularies.
 *
 * The first byte chooses:
 *     bit 0     SentencePiece, else byte-level BPE
 *     bit 1     text of control tokens becomes these tokens
 *     bits 2-4  the pre-tokenizer of the byte-level one
 *     bit 5     BOS and EOS as the model asks for
 *     bit 7     the rest is not text but damage: triples of a place (two bytes) and bits to flip
 *
 * What must hold for text: every id is a token, the bytes of the tokens are the text again (but for
 * spaces that SentencePiece puts in and U+2581 that it takes for one), and detokenizing gives
 * well-formed UTF-8 however it is cut up.  For damage: a refusal or a tokenizer that works.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/text/internal.h"
#include "tests/support/gguf_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SPM = 1, PARSE_SPECIAL = 2, ADD_SPECIAL = 32, DAMAGE = 128, N_RULES = 8 };

/* One of each kind of rule: expressions in sequence, merges left out for whole words, threes. */
static const char *const rules[N_RULES] = { "default",      "llama-bpe", "superbpe", "smollm",
                                            "deepseek-llm", "gpt-4o",    "falcon",   "tekken" };

static void vocab_path(char *path, size_t cap, const char *name)
{
    const char *here = __FILE__, *slash = strrchr(here, '/');
    snprintf(path, cap, "%.*s/../golden/vocab/%s", slash ? (int)(slash - here) : 1,
             slash ? here : ".", name);
}

static void require(bool condition, const char *what, const struct engine_err *err)
{
    if (condition)
        return;
    fprintf(stderr, "%s: %s\n", what, err->text);
    abort();
}

static void copy_strings(struct gguf_build *b, const struct gguf *g, const char *key)
{
    struct gguf_array a;
    struct engine_err err = { 0 };
    require(gguf_get_array(g, key, true, GGUF_STRING, &a, &err) == 0, key, &err);
    char **texts = malloc(a.n * sizeof(*texts));
    assert(texts);
    for (uint64_t i = 0; i < a.n; i++)
        texts[i] = strndup(a.strings[i].data, a.strings[i].len);
    gguf_build_strings(b, key, a.n, (const char *const *)texts);
    for (uint64_t i = 0; i < a.n; i++)
        free(texts[i]);
    free(texts);
}

/* The small byte-level vocabulary under another rule's name, as a file. */
static void write_variant(const char *pre, const char *path)
{
    char from[4096];
    struct gguf_build b = GGUF_BUILD_INIT;
    struct gguf *g = NULL;
    struct gguf_array types;
    struct engine_err err = { 0 };
    vocab_path(from, sizeof from, "bpe_small.gguf");
    require(gguf_open(&g, from, &err) == 0, from, &err);
    gguf_build_str(&b, "tokenizer.ggml.model", "gpt2");
    gguf_build_str(&b, "tokenizer.ggml.pre", pre);
    copy_strings(&b, g, "tokenizer.ggml.tokens");
    copy_strings(&b, g, "tokenizer.ggml.merges");
    require(gguf_get_array(g, "tokenizer.ggml.token_type", true, GGUF_I32, &types, &err) == 0, from,
            &err);
    gguf_build_array(&b, "tokenizer.ggml.token_type", types.type, types.n, types.data,
                     types.n * sizeof(int32_t));
    gguf_build_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    gguf_build_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    gguf_close(g);
    if (gguf_build_write(&b, path) != 0)
        abort();
}

static struct engine *open_vocab(const char *path)
{
    struct engine *e;
    struct engine_err err = { 0 };
    struct engine_options opt = { .model_path = path, .vocab_only = true };
    require(engine_open(&e, &opt, &err) == 0, path, &err);
    return e;
}

static struct engine *open_variant(const char *pre)
{
    char path[] = "/tmp/lacuna-fuzz-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        abort();
    close(fd);
    write_variant(pre, path);
    struct engine *e = open_vocab(path);
    unlink(path);
    return e;
}

static void check_round_trip(const struct engine *e, const struct engine_tokens *ids,
                             const char *text, size_t len)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = engine_token_bytes(e, ids->ids[i], &n);
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

static void check_without_spaces(const struct engine *e, const struct engine_tokens *ids,
                                 const char *text, size_t len)
{
    size_t cap = ids->n * engine_detok_max(e) + 1, n = 0, want_len, got_len;
    char *joined = malloc(cap);
    assert(joined != NULL);
    for (size_t i = 0; i < ids->n; i++) {
        size_t width;
        const char *bytes = engine_token_bytes(e, ids->ids[i], &width);
        memcpy(joined + n, bytes, width);
        n += width;
    }
    char *want = spaces_out(text, len, &want_len), *got = spaces_out(joined, n, &got_len);
    assert(want_len == got_len && memcmp(want, got, want_len) == 0);
    free(want);
    free(got);
    free(joined);
}

static void check_detok(const struct engine *e, const struct engine_tokens *ids, bool skip_control)
{
    struct engine_detok d;
    char *out = malloc(engine_detok_max(e));
    assert(out != NULL);
    engine_detok_init(&d, e, skip_control, true);
    for (size_t i = 0; i < ids->n; i++) {
        size_t wrote = engine_detok_push(&d, ids->ids[i], out);
        assert(wrote <= engine_detok_max(e) && utf8_valid_run(out, wrote) == wrote);
    }
    assert(engine_detok_flush(&d, out) <= 3);
    free(out);
}

static void check_ids(const struct tokenizer *t, const struct engine_tokens *ids)
{
    for (size_t i = 0; i < ids->n; i++)
        assert(ids->ids[i] >= 0 && (uint32_t)ids->ids[i] < tokenizer_n_vocab(t));
}

static void fuzz_text(const struct engine *e, uint8_t choice, const char *text, size_t len)
{
    unsigned flags = (choice & PARSE_SPECIAL ? ENGINE_TOKENIZE_PARSE_SPECIAL : 0u) |
                     (choice & ADD_SPECIAL ? ENGINE_TOKENIZE_ADD_SPECIAL : 0u);
    struct engine_tokens ids = { 0 };
    struct engine_err err = { 0 };
    require(engine_tokenize(e, text, len, flags, &ids, &err) == 0, "tokenize", &err);
    check_ids(engine_tokenizer(e), &ids);
    if (!(choice & ADD_SPECIAL) && !(choice & SPM))
        check_round_trip(e, &ids, text, len);
    else if (!(choice & ADD_SPECIAL))
        check_without_spaces(e, &ids, text, len);
    check_detok(e, &ids, choice & PARSE_SPECIAL);
    engine_tokens_fini(&ids);
}

/* ---- damaged vocabularies ---- */

struct file {
    uint8_t data[1 << 16];
    size_t len;
};

static void read_vocab(struct file *f, const char *name)
{
    char path[4096];
    vocab_path(path, sizeof path, name);
    FILE *in = fopen(path, "rb");
    if (!in)
        abort();
    f->len = fread(f->data, 1, sizeof f->data, in);
    fclose(in);
}

/* A vocabulary that was let through tokenizes whatever it is given. */
static void use_tokenizer(const struct tokenizer *t)
{
    static const char text[] = "The 1234 \xF0\x9F\x98\x80 caf\xC3\xA9 \xFF<|end|>  end";
    struct engine_tokens ids = { 0 };
    struct engine_err err = { 0 };
    if (tokenizer_encode(t, text, sizeof text - 1,
                         ENGINE_TOKENIZE_ADD_SPECIAL | ENGINE_TOKENIZE_PARSE_SPECIAL, &ids,
                         &err) == 0)
        check_ids(t, &ids);
    for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++) {
        size_t n;
        tokenizer_bytes(t, (int32_t)id, &n);
        assert(n <= tokenizer_max_bytes(t));
    }
    assert(tokenizer_bos(t) < (int32_t)tokenizer_n_vocab(t));
    assert(tokenizer_eos(t) < (int32_t)tokenizer_n_vocab(t));
    engine_tokens_fini(&ids);
}

static void fuzz_damage(const struct file *whole, const uint8_t *edits, size_t n)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct engine_err err = { 0 };
    uint8_t *copy = malloc(whole->len);
    assert(copy != NULL);
    memcpy(copy, whole->data, whole->len);
    for (; n >= 3; n -= 3, edits += 3)
        copy[(size_t)(edits[0] | edits[1] << 8) % whole->len] ^= edits[2];
    if (gguf_open_memory(&g, copy, whole->len, whole->len, &err) == 0 &&
        tokenizer_open(&t, g, &err) == 0)
        use_tokenizer(t);
    tokenizer_close(t);
    gguf_close(g);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct engine *bpe[N_RULES], *spm;
    static struct file files[2];
    if (!spm) {
        char path[4096];
        for (int i = 0; i < N_RULES; i++)
            bpe[i] = open_variant(rules[i]);
        vocab_path(path, sizeof path, "spm_small.gguf");
        spm = open_vocab(path);
        read_vocab(&files[0], "bpe_small.gguf");
        read_vocab(&files[1], "spm_small.gguf");
    }
    if (size == 0)
        return 0;
    if (data[0] & DAMAGE)
        fuzz_damage(&files[data[0] & SPM], data + 1, size - 1);
    else
        fuzz_text(data[0] & SPM ? spm : bpe[data[0] >> 2 & 7], data[0], (const char *)data + 1,
                  size - 1);
    return 0;
}
