/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer.c - the small vocabularies: expected ids (tests/golden/vocab/make_vocab.py has
 * computed them by other means), and what must hold for any text.
 */
#include "tests/unit/engine/test_tokenizer.h"

/* ---- expected ids ---- */

static size_t parse_hex(const char *hex, char *dst)
{
    size_t n = 0;
    unsigned byte;
    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        dst[n++] = (char)byte;
    return n;
}

static size_t parse_ids(const char *text, int32_t *dst)
{
    size_t n = 0;
    while (*text != '\0') {
        char *end;
        dst[n++] = (int32_t)strtol(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
    }
    return n;
}

static void check_expected(const char *name)
{
    char path[128], line[8192], text[4096];
    int32_t ids[4096];
    int n_rows = 0;
    snprintf(path, sizeof path, "%s.gguf", name);
    struct tokenizer *t = open_vocab(path);
    snprintf(path, sizeof path, "%s.txt", name);
    FILE *f = fopen(path, "r");
    cr_assert(f != NULL, "%s", path);
    for (; fgets(line, sizeof line, f) != NULL; n_rows++) {
        line[strcspn(line, "\n")] = '\0';
        char *plain = strchr(line, '\t');
        cr_assert(plain != NULL);
        *plain++ = '\0';
        char *special = strchr(plain, '\t');
        cr_assert(special != NULL);
        *special++ = '\0';
        size_t len = parse_hex(line, text), n = parse_ids(plain, ids);
        cr_expect(encodes_to(t, text, len, 0, ids, n), "%s row %d, plain", name, n_rows);
        n = parse_ids(special, ids);
        /* The script's byte-level tokenizer adds no BOS, as the file does not ask for one. */
        cr_expect(encodes_to(t, text, len, BOTH, ids, n), "%s row %d, special", name, n_rows);
    }
    cr_assert(n_rows > 40);
    fclose(f);
    tokenizer_close(t);
}

Test(tokenizer, gives_the_expected_ids_for_byte_level_bpe)
{
    check_expected(SMALL_BPE);
}

Test(tokenizer, gives_the_expected_ids_for_sentencepiece)
{
    check_expected(SMALL_SPM);
}

/* ---- facts ---- */

Test(tokenizer, knows_what_its_tokens_are)
{
    static const char *const paths[] = { SMALL_BPE ".gguf", SMALL_SPM ".gguf" };
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = open_vocab(paths[i]);
        int32_t bos = tokenizer_bos(t), eos = tokenizer_eos(t);
        size_t len;
        const char *bytes = tokenizer_bytes(t, bos, &len);
        cr_expect(len == 3 && memcmp(bytes, "<s>", 3) == 0);
        cr_expect(tokenizer_is_control(t, bos) && !tokenizer_is_end(t, bos));
        cr_expect(tokenizer_is_control(t, eos) && tokenizer_is_end(t, eos));
        struct engine_tokens im = encode(t, "<|im_end|>", 10, BOTH);
        cr_assert(im.n > 0);
        cr_expect(tokenizer_is_end(t, im.ids[im.n - 1]), "by its name alone");
        engine_tokens_fini(&im);
        struct engine_tokens tool = encode(t, "<tool>", 6, 0);
        cr_assert(tool.n == 1, "user-defined tokens are always matched");
        cr_expect(!tokenizer_is_control(t, tool.ids[0]) && !tokenizer_is_end(t, tool.ids[0]));
        engine_tokens_fini(&tool);
        tokenizer_close(t);
    }
}

Test(tokenizer, adds_a_bos_where_sentencepiece_does_by_default)
{
    struct tokenizer *bpe = open_vocab(SMALL_BPE ".gguf"), *spm = open_vocab(SMALL_SPM ".gguf");
    cr_expect(!tokenizer_adds_bos(bpe));
    cr_expect(tokenizer_adds_bos(spm));
    cr_expect(!tokenizer_strips_space(bpe));
    cr_expect(tokenizer_strips_space(spm));
    int32_t bos = tokenizer_bos(spm);
    cr_expect(encodes_to(spm, "", 0, ENGINE_TOKENIZE_ADD_SPECIAL, &bos, 1));
    cr_expect(encodes_to(spm, "", 0, 0, NULL, 0));
    tokenizer_close(bpe);
    tokenizer_close(spm);
}

Test(tokenizer, appends_to_what_is_there)
{
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens out = encode(t, "the page", 8, 0);
    size_t once = out.n;
    cr_assert(tokenizer_encode(t, "the page", 8, 0, &out, NULL) == 0);
    cr_expect(out.n == 2 * once);
    cr_expect(memcmp(out.ids, out.ids + once, once * sizeof *out.ids) == 0);
    engine_tokens_fini(&out);
    tokenizer_close(t);
}

/* ---- any text ---- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill_random(char *text, size_t len, uint64_t *state)
{
    /* Half any bytes, half such as make words, so that merges happen. */
    static const char likely[] = "the page seqs\r  12'sSeE";
    bool any = next_random(state) % 2 == 0;
    for (size_t i = 0; i < len; i++) {
        uint64_t r = next_random(state);
        text[i] = any ? (char)r : likely[r % (sizeof likely - 1)];
    }
}

static void check_round_trip(const char *path, size_t prefix)
{
    struct tokenizer *t = open_vocab(path);
    uint64_t state = 88172645463325252u;
    char text[300];
    for (int round = 0; round < 2000; round++) {
        size_t len = 1 + next_random(&state) % (sizeof text - 1), n;
        fill_random(text, len, &state);
        text[0] = 'x'; /* no user-defined token first: it would take the space prefix away */
        struct engine_tokens out = encode(t, text, len, 0);
        char *back = join(t, &out, &n);
        cr_assert(n == len + prefix && memcmp(back + prefix, text, len) == 0, "round %d", round);
        free(back);
        engine_tokens_fini(&out);
    }
    tokenizer_close(t);
}

Test(tokenizer, loses_no_byte_of_any_text_in_byte_level_bpe)
{
    check_round_trip(SMALL_BPE ".gguf", 0);
}

Test(tokenizer, spells_any_text_with_byte_tokens_in_sentencepiece)
{
    check_round_trip(SMALL_SPM ".gguf", 1);
}

Test(tokenizer, takes_a_word_of_a_megabyte)
{
    static const char *const paths[] = { SMALL_BPE ".gguf", SMALL_SPM ".gguf" };
    static const char *const units[] = {
        "a", "th", " ", "\r", "7", "!", "\xF0\x9F\x98\x80", "\xFF"
    };
    enum { LEN = 1 << 20 };
    char *text = malloc(LEN);
    cr_assert(text != NULL);
    for (size_t i = 0; i < 2 * sizeof units / sizeof units[0]; i++) {
        struct tokenizer *t = open_vocab(paths[i % 2]);
        size_t width = strlen(units[i / 2]), n;
        for (size_t at = 0; at < LEN; at++)
            text[at] = units[i / 2][at % width];
        struct engine_tokens out = encode(t, text, LEN, 0);
        char *back = join(t, &out, &n);
        cr_expect(n >= LEN && memcmp(back + n - LEN, text, LEN) == 0, "%zu", i);
        free(back);
        engine_tokens_fini(&out);
        tokenizer_close(t);
    }
    free(text);
}

Test(tokenizer, refuses_a_text_beyond_its_limit)
{
    struct tokenizer *t = open_vocab(SMALL_BPE ".gguf");
    struct engine_tokens out = { 0 };
    struct engine_err err = { 0 };
    /* Refused by its length, before a byte is read. */
    cr_expect(tokenizer_encode(t, "", (size_t)1 << 40, 0, &out, &err) == -1);
    cr_expect(err.code == ENGINE_ERR_INPUT);
    cr_expect(strstr(err.text, "1099511627776") != NULL, "%s", err.text);
    engine_tokens_fini(&out);
    tokenizer_close(t);
}
