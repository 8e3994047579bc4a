/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer_golden.c - real vocabularies, which are other people's and not in this repository.
 * LACUNA_GOLDEN names the folder with vocab/NAME.gguf and vocab/NAME.json, whose ids are those of
 * an independent engine; LACUNA_MODELS one with smollm2.gguf and gemma3-270m.gguf.  Without them
 * there is nothing to do here, and the small vocabularies in tests/golden/vocab/ have to do.
 */
#include "tests/unit/engine/test_tokenizer.h"

/* ---- the JSON that these files are: [{"text": "...", "plain": [1, 2], "special": [1, 2]}] ---- */

struct json {
    const char *at;
};

static void skip_to(struct json *j, char c)
{
    while (*j->at != '\0' && *j->at != c)
        j->at++;
    cr_assert(*j->at == c, "the golden file is not as expected");
    j->at++;
}

static size_t put_code(char *dst, uint32_t code)
{
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t leads[] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    for (size_t i = n; i-- > 1; code >>= 6)
        dst[i] = (char)(0x80 | (code & 0x3F));
    dst[0] = (char)(leads[n] | code);
    return n;
}

static uint32_t read_unit(struct json *j)
{
    unsigned unit = 0;
    cr_assert(sscanf(j->at, "%4x", &unit) == 1);
    j->at += 4;
    return unit;
}

static size_t read_escape(struct json *j, char *dst)
{
    static const char from[] = "bfnrt\"\\/", to[] = "\b\f\n\r\t\"\\/";
    char c = *j->at++;
    if (c != 'u') {
        const char *known = strchr(from, c);
        cr_assert(known != NULL && c != '\0');
        dst[0] = to[known - from];
        return 1;
    }
    uint32_t code = read_unit(j);
    if (code >= 0xD800 && code < 0xDC00) {
        j->at += 2; /* the second half's \u */
        code = 0x10000 + ((code - 0xD800) << 10) + (read_unit(j) - 0xDC00);
    }
    return put_code(dst, code);
}

static size_t read_string(struct json *j, char *dst)
{
    size_t n = 0;
    skip_to(j, '"');
    while (*j->at != '"') {
        if (*j->at != '\\') {
            dst[n++] = *j->at++;
            continue;
        }
        j->at++;
        n += read_escape(j, dst + n);
    }
    j->at++;
    return n;
}

static size_t read_ids(struct json *j, int32_t *ids)
{
    size_t n = 0;
    skip_to(j, '[');
    for (;;) {
        j->at += strspn(j->at, " ,\n");
        if (*j->at == ']')
            break;
        char *end;
        ids[n++] = (int32_t)strtol(j->at, &end, 10);
        cr_assert(end > j->at);
        j->at = end;
    }
    j->at++;
    return n;
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    cr_assert(f != NULL, "%s", path);
    char *text = calloc(1, 1 << 20);
    cr_assert(text != NULL && fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

static bool is_there(const char *path)
{
    FILE *f = fopen(path, "r");
    if (f != NULL)
        fclose(f);
    return f != NULL;
}

static void check_golden(const char *model, const char *json_path)
{
    struct tokenizer *t = open_vocab(model);
    char *file = read_file(json_path), *text = malloc(1 << 20);
    int32_t *ids = malloc((1 << 20) * sizeof *ids);
    cr_assert(text != NULL && ids != NULL);
    struct json j = { file };
    int n_texts = 0;
    for (; strstr(j.at, "\"text\"") != NULL; n_texts++) {
        j.at = strstr(j.at, "\"text\"") + 6;
        size_t len = read_string(&j, text);
        j.at = strstr(j.at, "\"plain\"");
        size_t n = read_ids(&j, ids);
        cr_expect(encodes_to(t, text, len, 0, ids, n), "%s, plain: %.*s", model, (int)len, text);
        j.at = strstr(j.at, "\"special\"");
        n = read_ids(&j, ids);
        cr_expect(encodes_to(t, text, len, BOTH, ids, n), "%s, special: %.*s", model, (int)len,
                  text);
    }
    cr_assert(n_texts >= 50);
    free(ids);
    free(text);
    free(file);
    tokenizer_close(t);
}

static void check_named(const char *folder, const char *model, const char *golden, const char *name)
{
    char path[4096], json_path[4096];
    if (folder == NULL || golden == NULL)
        return;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, model);
    snprintf(json_path, sizeof json_path, "%s/vocab/%s.json", golden, name);
    if (is_there(path))
        check_golden(path, json_path);
}

Test(tokenizer_golden, gives_the_ids_of_an_independent_engine)
{
    static const char *const names[] = { "gpt-2", "llama-bpe", "llama-spm", "qwen2" };
    const char *golden = getenv("LACUNA_GOLDEN");
    char folder[4096];
    for (size_t i = 0; golden != NULL && i < sizeof names / sizeof names[0]; i++) {
        snprintf(folder, sizeof folder, "%s/vocab", golden);
        check_named(folder, names[i], golden, names[i]);
    }
}

Test(tokenizer_golden, gives_them_for_the_models_too)
{
    const char *golden = getenv("LACUNA_GOLDEN"), *models = getenv("LACUNA_MODELS");
    check_named(models, "smollm2", golden, "smollm2-135m");
    check_named(models, "gemma3-270m", golden, "gemma3-270m");
}
