/* SPDX-License-Identifier: Apache-2.0
 *
 * pretokenize_rules.c - the published word expressions, by the names of tokenizer.ggml.pre.
 *
 * Where the engine that GGUF files are made for departs from a published expression, its ids are
 * what a model's users know, so its behaviour is what stands here:
 *  - a contraction ends in ASCII letters of either case, not in what folds to them (U+017F);
 *  - "upper" and "lower" letters (gpt-4o, tekken) differ for ASCII only; all others are both;
 *  - white space is Unicode's White_Space, spelt out: PCRE2's \s takes U+180E too.
 * All repeats are over single characters: a match costs time in proportion to its length and no
 * stack.
 */
#include <stdio.h>
#include <string.h>

#include "engine/text/internal.h"

/* Insides of character classes. */
#define WS                                                                                         \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"                         \
    "\\x{202f}\\x{205f}\\x{3000}"
/* deepseek's CJK characters, U+0800 to U+9FA5 and Hangul, less the white space among them. */
#define CJK                                                                                        \
    "\\x{800}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"                  \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{9fa5}\\x{ac00}-\\x{d7ff}"
#define HAN_KANA "\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}"

/* Trailing white space: all of a run, but for its last character if a word follows. */
#define SPACES "[" WS "]+(?![^" WS "])"
#define NEWLINES "[" WS "]*[\\r\\n]+"

#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define MAYBE_PREFIX "[^\\r\\n\\p{L}\\p{N}]?"
#define SYMBOLS " ?[^" WS "\\p{L}\\p{N}]+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|" SPACES "|[" WS "]+"

/* GPT-4's, with digits in runs of at most `digits`. */
#define GPT4(digits)                                                                               \
    CONTRACTION "|" MAYBE_PREFIX "\\p{L}+|" digits "|" SYMBOLS "[\\r\\n]*|" NEWLINES "|" SPACES    \
                "|[" WS "]+"

/* Words with an inner border between lower and upper case: [^\P{L}a-z] is any letter but a-z. */
#define NOT_LOWER "[^\\P{L}a-z]"
#define NOT_UPPER "[^\\P{L}A-Z]"
#define CASED(ending, digits)                                                                      \
    MAYBE_PREFIX NOT_LOWER "*" NOT_UPPER "+" ending "|" MAYBE_PREFIX NOT_LOWER "+" NOT_UPPER       \
                           "*" ending "|" digits "|" SYMBOLS "[\\r\\n/]*|" NEWLINES "|" SPACES     \
                           "|[" WS "]+"

#define RUN(n) "[" WS "]{" n "}(?![^" WS "])|"

/* Words as in CASED where the engine knows no cases. */
#define CASELESS(letters, digits, tail)                                                            \
    MAYBE_PREFIX "[" letters "]+(?:" CONTRACTION ")?|" digits "|" SYMBOLS tail "|" NEWLINES        \
                 "|" SPACES "|[" WS "]+"

#define HAN                                                                                        \
    "\\x{3400}-\\x{4dbf}\\x{4e00}-\\x{9fff}\\x{f900}-\\x{faff}\\x{20000}-\\x{2a6df}"               \
    "\\x{2a700}-\\x{2ebef}\\x{2f800}-\\x{2fa1f}"

#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

/* Letters that have a case, as deepseek-llm lists them. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}"                          \
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"                  \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                         \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"                 \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}"                 \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"                 \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"                            \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"                           \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}"                  \
    "\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"                   \
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"                  \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"                  \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                  \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"                              \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define DEEPSEEK_V3                                                                                \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "                      \
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" SPACES "|[" WS "]+"

const char PRE_THREES[] = "";

static const struct pre_rule rules[] = {
    { "default", 0, { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
    { "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
      "exaone4 jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling",
      0,
      { GPT2 } },
    { "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
      PRE_ADDS_BOS | PRE_WHOLE_WORDS,
      { GPT4("\\p{N}{1,3}") } },
    { "dbrx smaug-bpe glm4 chatglm-bpe", 0, { GPT4("\\p{N}{1,3}") } },
    { "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open",
      0,
      { GPT4("\\p{N}") } },
    { "gpt-4o llama4 kanana2 minimax-m2 talkie",
      0,
      { CASED("(?:" CONTRACTION ")?", "\\p{N}{1,3}") } },
    { "tekken", PRE_ADDS_BOS | PRE_WHOLE_WORDS, { CASED("", "\\p{N}") } },
    { "starcoder refact command-r smollm codeshell exaone minerva-7b", 0, { "\\p{N}", GPT2 } },
    { "falcon", 0, { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" } },
    { "deepseek-llm",
      0,
      { "[\\r\\n]", "[" WS "]?[" CASED_LETTERS "]+",
        "[" WS
        "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3001}\\x{3002}]+",
        "(?<![" WS "])[" WS "]++\\z", "[" CJK "]+", "\\p{N}+" } },
    { "deepseek-coder",
      0,
      { "[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", "[" CJK "]+", "\\p{N}" } },
    { "deepseek-v3 hunyuan-dense joyai-llm", 0, { "\\p{N}{1,3}", "[" HAN_KANA "]+", DEEPSEEK_V3 } },
    { "qwen35",
      0,
      { CONTRACTION "|" MAYBE_PREFIX "[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
                    "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES "|" SPACES "|[" WS "]+" } },
    { "grok-2", 0, { GPT4("\\p{N}") } },
    { "bailingmoe bailingmoe2 llada-moe",
      0,
      { CONTRACTION "|" MAYBE_PREFIX "\\p{L}+|\\p{N}|" SYMBOLS "[\\r\\n]*|[" WS "]*[\\r\\n]|" SPACES
                    "|[" WS "]+" } },
    { "seed-coder",
      0,
      { CONTRACTION "|" MAYBE_PREFIX "\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" NEWLINES
                    "|" SPACES "|[" WS "]+" } },
    /* Runs of white space are cut into powers of two.  Behind white space without a line break
     * there is none further on in the run, or it would have matched before: looking again for each
     * piece would be quadratic. */
    { "jais-2",
      0,
      { CONTRACTION "|" MAYBE_PREFIX "\\p{L}+|\\p{N}{1,3}|" SYMBOLS "[\\r\\n]*|"
                    "(?:(?<![" WS "])|(?<=[\\r\\n]))" NEWLINES "|" RUN("512") RUN("256") RUN("128")
                        RUN("64") RUN("32") RUN("16") RUN("8") RUN("4") RUN("1,2") "[" WS "]" } },
    { "chameleon",
      PRE_ADDS_BOS,
      { "<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}",
        "[\\p{P}!-/:-@\\[-`{-~]", GPT2 } },
    { "kimi-k2",
      0,
      { "[" HAN "]+|" MAYBE_PREFIX "[^\\P{L}" HAN "]+(?:" CONTRACTION ")?|\\p{N}{1,3}|" SYMBOLS
        "[\\r\\n]*|" NEWLINES "|" SPACES "|[" WS "]+" } },
    { "youtu",
      PRE_WHOLE_WORDS,
      { "[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}"
        "\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|["
        "\\x{3105}-\\x{312f}]+|[" HAN_KANA "]+",
        CASELESS("\\p{L}\\p{M}", "\\p{N}", "[\\r\\n/]*") } },
    { "bloom poro-chat gpt3-finnish", 0, { BLOOM } },
    { "viking", 0, { BLOOM, "\\p{N}" } },
    { "superbpe", 0, { "\\p{N}+", PRE_THREES } },
};

static bool next_name(const char **names, const char **name, size_t *len)
{
    *name = *names + strspn(*names, " ");
    *len = strcspn(*name, " ");
    *names = *name + *len;
    return *len > 0;
}

const struct pre_rule *pre_rule_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const char *names = rules[i].names, *known;
        size_t known_len;
        while (next_name(&names, &known, &known_len)) {
            if (known_len == len && memcmp(known, name, len) == 0)
                return &rules[i];
        }
    }
    return NULL;
}

void pre_rule_list(char *dst, size_t dst_bytes)
{
    size_t n = 0;
    dst[0] = '\0';
    for (size_t i = 0; i < sizeof rules / sizeof rules[0] && n < dst_bytes; i++) {
        int first = (int)strcspn(rules[i].names, " ");
        n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%.*s", i > 0 ? ", " : "", first,
                              rules[i].names);
    }
}
