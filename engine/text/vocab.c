/* SPDX-License-Identifier: Apache-2.0
 *
 * vocab.c - the tokens of a file: their text, bytes, types and ids with a meaning.
 *
 * Nothing in the file is trusted: arrays have one element per token, ids are below the number of
 * tokens, types are known, scores are numbers.  Everything is copied.
 */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

/* Far above any real vocabulary; keeps ids in int32_t and tables small enough to build. */
enum { MAX_TOKENS = 1 << 24 };

#define KEY(name) "tokenizer.ggml." name

static int no_memory(struct engine_err *err)
{
    return engine_fail(err, ENGINE_ERR_MEMORY, "no memory for the vocabulary");
}

uint32_t byte_alphabet_code(uint8_t byte)
{
    /* Bytes that print in Latin-1 stand for themselves; the others, in order, are U+0100 and on. */
    if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return 0x143;
}

/* The byte that a code point of the byte-level alphabet stands for, or -1. */
static int byte_of_code(uint32_t code)
{
    if (code < 0x100)
        return byte_alphabet_code((uint8_t)code) == code ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7F);
    return code == 0x143 ? 0xAD : -1;
}

/* ---- bytes of a token ---- */

static size_t bytes_of_alphabet(const char *text, size_t len, char *dst)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        uint32_t width = utf8_width(text + at, len - at);
        uint32_t code = (uint8_t)text[at];
        if (width == 2)
            code = (code & 0x1Fu) << 6 | ((uint8_t)text[at + 1] & 0x3Fu);
        int byte = width == 1 || width == 2 ? byte_of_code(code) : -1;
        width = width > 0 ? width : 1;
        if (byte >= 0) {
            dst[n++] = (char)byte;
        } else { /* not of the alphabet: it stands for itself */
            memcpy(dst + n, text + at, width);
            n += width;
        }
        at += width;
    }
    return n;
}

static size_t bytes_of_marked(const char *text, size_t len, char *dst)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        if (len - at >= 3 && memcmp(text + at, "\xE2\x96\x81", 3) == 0) { /* U+2581 */
            dst[n++] = ' ';
            at += 3;
        } else {
            dst[n++] = text[at++];
        }
    }
    return n;
}

static int hex_digit(char c)
{
    return isdigit((unsigned char)c)    ? c - '0'
           : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
                                        : -1;
}

/* "<0x0A>" to 10, else -1. */
static int byte_of_escape(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high >= 0 && low >= 0 ? high * 16 + low : -1;
}

static size_t token_bytes(const struct vocab *v, uint32_t id, char *dst)
{
    const char *text = strings_get(&v->text, id);
    size_t len = strings_len(&v->text, id);
    switch (v->types[id]) {
    case TOKEN_BYTE:
        if (byte_of_escape(text, len) >= 0) {
            dst[0] = (char)byte_of_escape(text, len);
            return 1;
        }
        break;
    case TOKEN_NORMAL:
    case TOKEN_UNUSED:
        return v->kind == VOCAB_BPE ? bytes_of_alphabet(text, len, dst)
                                    : bytes_of_marked(text, len, dst);
    default:
        break;
    }
    memcpy(dst, text, len);
    return len;
}

static int fill_bytes(struct vocab *v, struct engine_err *err)
{
    /* No form is longer than the text. */
    if (strings_init(&v->bytes, v->n, v->text.at[v->n]) != 0)
        return no_memory(err);
    for (uint32_t i = 0; i < v->n; i++) {
        size_t len = token_bytes(v, i, v->bytes.data + v->bytes.at[i]);
        v->bytes.at[i + 1] = v->bytes.at[i] + (uint32_t)len;
        if (len > v->max_bytes)
            v->max_bytes = len;
    }
    return 0;
}

/* ---- arrays ---- */

static int check_count(const char *key, uint64_t n, uint32_t n_tokens, struct engine_err *err)
{
    if (n == n_tokens)
        return 0;
    return engine_fail(err, ENGINE_ERR_FILE, "%s has %llu elements, but there are %u tokens", key,
                       (unsigned long long)n, n_tokens);
}

static int read_texts(struct vocab *v, const struct gguf *g, struct engine_err *err)
{
    struct gguf_array a;
    if (gguf_get_array(g, KEY("tokens"), true, GGUF_STRING, &a, err) != 0)
        return -1;
    if (a.n == 0 || a.n > MAX_TOKENS)
        return engine_fail(err, ENGINE_ERR_FILE, "%s has %llu elements; 1 to %d are possible",
                           KEY("tokens"), (unsigned long long)a.n, MAX_TOKENS);
    uint64_t total = 0;
    for (uint64_t i = 0; i < a.n; i++) {
        total += a.strings[i].len; /* of one file in memory: no overflow */
        if (total > INT32_MAX)
            return engine_fail(err, ENGINE_ERR_FILE,
                               "%s: the texts up to token %llu have over %d bytes", KEY("tokens"),
                               (unsigned long long)i, INT32_MAX);
    }
    v->n = (uint32_t)a.n;
    if (strings_init(&v->text, v->n, total) != 0)
        return no_memory(err);
    for (uint32_t i = 0; i < v->n; i++) {
        size_t len = a.strings[i].len;
        if (len > 0)
            memcpy(v->text.data + v->text.at[i], a.strings[i].data, len);
        v->text.at[i + 1] = v->text.at[i] + (uint32_t)len;
        if (len > v->max_text)
            v->max_text = len;
    }
    return strmap_init(&v->by_text, &v->text) == 0 ? 0 : no_memory(err);
}

static int read_types(struct vocab *v, const struct gguf *g, struct engine_err *err)
{
    v->types = malloc(v->n);
    v->flags = calloc(v->n, 1);
    if (v->types == NULL || v->flags == NULL)
        return no_memory(err);
    memset(v->types, TOKEN_NORMAL, v->n);
    if (!gguf_has(g, KEY("token_type")))
        return 0;
    struct gguf_array a;
    if (gguf_get_array(g, KEY("token_type"), true, GGUF_I32, &a, err) != 0 ||
        check_count(KEY("token_type"), a.n, v->n, err) != 0)
        return -1;
    for (uint32_t i = 0; i < v->n; i++) {
        int64_t type = gguf_array_int(&a, i);
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            return engine_fail(err, ENGINE_ERR_FILE, "%s[%u] is %lld; known are 1 to 6",
                               KEY("token_type"), i, (long long)type);
        v->types[i] = (uint8_t)type;
    }
    return 0;
}

static int read_scores(struct vocab *v, const struct gguf *g, struct engine_err *err)
{
    struct gguf_array a;
    if (v->kind != VOCAB_SPM)
        return 0;
    if (gguf_get_array(g, KEY("scores"), true, GGUF_F32, &a, err) != 0 ||
        check_count(KEY("scores"), a.n, v->n, err) != 0)
        return -1;
    v->scores = malloc((size_t)v->n * sizeof *v->scores);
    if (v->scores == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < v->n; i++) {
        v->scores[i] = (float)gguf_array_float(&a, i);
        if (isnan(v->scores[i]))
            return engine_fail(err, ENGINE_ERR_FILE, "%s[%u] is not a number", KEY("scores"), i);
    }
    return 0;
}

/* ---- ids with a meaning ---- */

static int read_id(const struct vocab *v, const struct gguf *g, const char *key, int32_t missing,
                   int32_t *out, struct engine_err *err)
{
    *out = missing < (int64_t)v->n ? missing : -1;
    if (!gguf_has(g, key))
        return 0;
    uint32_t id = 0;
    if (gguf_get_u32(g, key, true, &id, err) != 0)
        return -1;
    if (id >= v->n)
        return engine_fail(err, ENGINE_ERR_FILE, "%s is %u, but there are %u tokens", key, id,
                           v->n);
    *out = (int32_t)id;
    return 0;
}

static int mark_end(struct vocab *v, const struct gguf *g, const char *key, struct engine_err *err)
{
    int32_t id;
    if (read_id(v, g, key, -1, &id, err) != 0)
        return -1;
    if (id >= 0)
        v->flags[id] |= TOKEN_IS_END;
    return 0;
}

static int mark_end_list(struct vocab *v, const struct gguf *g, const char *key,
                         struct engine_err *err)
{
    struct gguf_array a;
    if (!gguf_has(g, key))
        return 0;
    if (gguf_get_array(g, key, true, GGUF_I32, &a, NULL) != 0 &&
        gguf_get_array(g, key, true, GGUF_U32, &a, err) != 0)
        return -1;
    for (uint64_t i = 0; i < a.n; i++) {
        int64_t id = gguf_array_int(&a, i);
        if (id < 0 || id >= v->n)
            return engine_fail(err, ENGINE_ERR_FILE, "%s[%llu] is %lld, but there are %u tokens",
                               key, (unsigned long long)i, (long long)id, v->n);
        v->flags[id] |= TOKEN_IS_END;
    }
    return 0;
}

static int read_ids(struct vocab *v, const struct gguf *g, const struct vocab_defaults *defaults,
                    struct engine_err *err)
{
    static const char *const end_keys[] = {
        KEY("eos_token_id"),     KEY("eot_token_id"),     KEY("eom_token_id"),
        KEY("fim_pad_token_id"), KEY("fim_rep_token_id"), KEY("fim_sep_token_id"),
    };
    if (read_id(v, g, KEY("bos_token_id"), defaults->bos, &v->bos, err) != 0 ||
        read_id(v, g, KEY("eos_token_id"), defaults->eos, &v->eos, err) != 0 ||
        read_id(v, g, KEY("unknown_token_id"), defaults->unknown, &v->unknown, err) != 0)
        return -1;
    if (v->eos >= 0)
        v->flags[v->eos] |= TOKEN_IS_END;
    for (size_t i = 0; i < sizeof end_keys / sizeof end_keys[0]; i++) {
        if (mark_end(v, g, end_keys[i], err) != 0)
            return -1;
    }
    return mark_end_list(v, g, KEY("eos_token_ids"), err);
}

/* Files name them under keys of two ages; many name none, and the token's own name tells. */
static int read_fim(struct vocab *v, const struct gguf *g, struct engine_err *err)
{
    static const struct {
        const char *key, *old_key;
    } keys[FIM_N_PARTS] = {
        [FIM_PREFIX] = { KEY("fim_pre_token_id"), KEY("prefix_token_id") },
        [FIM_SUFFIX] = { KEY("fim_suf_token_id"), KEY("suffix_token_id") },
        [FIM_MIDDLE] = { KEY("fim_mid_token_id"), KEY("middle_token_id") },
    };
    v->fim[FIM_NONE] = -1;
    for (int part = FIM_PREFIX; part < FIM_N_PARTS; part++) {
        if (read_id(v, g, keys[part].old_key, -1, &v->fim[part], err) != 0 ||
            read_id(v, g, keys[part].key, v->fim[part], &v->fim[part], err) != 0)
            return -1;
    }
    for (uint32_t i = 0; i < v->n; i++) {
        enum fim_part part = well_known_part(strings_get(&v->text, i), strings_len(&v->text, i));
        if (part != FIM_NONE && v->fim[part] < 0)
            v->fim[part] = (int32_t)i;
    }
    return 0;
}

static int read_switches(struct vocab *v, const struct gguf *g,
                         const struct vocab_defaults *defaults, struct engine_err *err)
{
    v->add_bos = defaults->add_bos;
    v->add_space_prefix = defaults->add_space_prefix;
    if (gguf_get_bool(g, KEY("add_bos_token"), false, &v->add_bos, err) != 0 &&
        gguf_has(g, KEY("add_bos_token")))
        return -1;
    if (gguf_get_bool(g, KEY("add_eos_token"), false, &v->add_eos, err) != 0 &&
        gguf_has(g, KEY("add_eos_token")))
        return -1;
    if (gguf_get_bool(g, KEY("add_space_prefix"), false, &v->add_space_prefix, err) != 0 &&
        gguf_has(g, KEY("add_space_prefix")))
        return -1;
    return 0;
}

/* ---- flags ---- */

static bool has_token(const struct vocab *v, const char *text)
{
    return strmap_get(&v->by_text, text, strlen(text)) != MAP_NONE;
}

/* Where messages end with <|end|> but turns with <|return|> or <|call|>, <|end|> ends nothing. */
static bool end_is_inner(const struct vocab *v)
{
    return (has_token(v, "<|return|>") && has_token(v, "<|call|>")) ||
           (has_token(v, "<|calls|>") && has_token(v, "<|flush|>"));
}

static void set_flags(struct vocab *v)
{
    for (uint32_t i = 0; i < v->n; i++) {
        unsigned known = well_known_flags(strings_get(&v->text, i), strings_len(&v->text, i));
        unsigned flags = known & TOKEN_IS_SPECIAL;
        if (v->types[i] == TOKEN_USER_DEFINED && (known & TOKEN_IS_SPECIAL))
            v->types[i] = TOKEN_CONTROL; /* a name like this is never meant as text */
        if (v->types[i] == TOKEN_CONTROL || v->types[i] == TOKEN_UNKNOWN)
            flags |= TOKEN_IS_SPECIAL;
        if (v->types[i] == TOKEN_USER_DEFINED)
            flags |= TOKEN_IS_LITERAL;
        if (v->types[i] == TOKEN_CONTROL)
            flags |= known & TOKEN_IS_END;
        v->flags[i] |= (uint8_t)flags;
    }
    int32_t end = strmap_get(&v->by_text, "<|end|>", 7);
    if (end != MAP_NONE && end != v->eos && end_is_inner(v))
        v->flags[end] &= (uint8_t)~TOKEN_IS_END;
}

static bool name_contains(struct gguf_str name, const char *part)
{
    size_t len = strlen(part);
    for (size_t at = 0; at + len <= name.len; at++) {
        if (strncasecmp(name.data + at, part, len) == 0)
            return true;
    }
    return false;
}

/* Phi-3's published tokenizer drops white space behind its special tokens; GGUF has no key for
 * that, so the model's name decides, as in the engine the files are made for. */
static void set_eats_space(struct vocab *v, const struct gguf *g)
{
    static const char *const spared[] = { "<unk>", "<s>", "<|endoftext|>" };
    struct gguf_str name = { 0 };
    if (gguf_get_str(g, "general.name", false, &name, NULL) != 0 ||
        !(name_contains(name, "phi-3") || name_contains(name, "phi3")))
        return;
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->flags[i] & (TOKEN_IS_SPECIAL | TOKEN_IS_LITERAL))
            v->flags[i] |= TOKEN_EATS_SPACE;
    }
    for (size_t i = 0; i < sizeof spared / sizeof spared[0]; i++) {
        int32_t id = strmap_get(&v->by_text, spared[i], strlen(spared[i]));
        if (id != MAP_NONE)
            v->flags[id] &= (uint8_t)~TOKEN_EATS_SPACE;
    }
}

static void find_byte_tokens(struct vocab *v)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        char text[8];
        size_t len;
        if (v->kind == VOCAB_BPE) {
            len = utf8_put(text, byte_alphabet_code((uint8_t)byte));
        } else {
            static const char digits[] = "0123456789ABCDEF";
            memcpy(text, "<0x..>", 6);
            text[3] = digits[byte >> 4];
            text[4] = digits[byte & 15];
            len = 6;
        }
        v->byte_ids[byte] = strmap_get(&v->by_text, text, len);
    }
}

int vocab_init(struct vocab *v, const struct gguf *g, enum vocab_kind kind,
               const struct vocab_defaults *defaults, struct engine_err *err)
{
    *v = (struct vocab){ .kind = kind };
    if (read_texts(v, g, err) != 0 || read_types(v, g, err) != 0 || read_scores(v, g, err) != 0 ||
        read_ids(v, g, defaults, err) != 0 || read_fim(v, g, err) != 0 ||
        read_switches(v, g, defaults, err) != 0)
        return -1;
    set_flags(v);
    set_eats_space(v, g);
    find_byte_tokens(v);
    return fill_bytes(v, err);
}

void vocab_fini(struct vocab *v)
{
    strmap_fini(&v->by_text);
    strings_fini(&v->text);
    strings_fini(&v->bytes);
    free(v->types);
    free(v->flags);
    free(v->scores);
}
