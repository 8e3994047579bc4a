/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer_words.c - where each rule of tokenizer.ggml.pre cuts.
 *
 * The rows were compared, through vocabularies that hold every pair of bytes, with the ids of an
 * independent engine (llama.cpp, September 2026) for thousands of texts; these are what is left of
 * that without its vocabularies.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/internal.h"

static struct pretokenizer *open_rule(const char *name)
{
    struct pretokenizer *p = NULL;
    struct engine_err err = { 0 };
    const struct pre_rule *rule = pre_rule_find(name, strlen(name));
    cr_assert(rule != NULL, "%s", name);
    cr_assert(pretokenizer_open(&p, rule, &err) == 0, "%s: %s", name, err.text);
    return p;
}

/* The pieces of text, joined with bars. */
static void cut(const struct pretokenizer *p, const char *text, size_t len, char *dst)
{
    struct pieces pieces = { 0 };
    size_t start = 0;
    cr_assert(pretokenize(p, text, len, &pieces, NULL) == 0);
    for (size_t i = 0; i < pieces.n; i++) {
        if (i > 0)
            *dst++ = '|';
        memcpy(dst, text + start, pieces.ends[i] - start);
        dst += pieces.ends[i] - start;
        start = pieces.ends[i];
    }
    cr_assert(start == len);
    *dst = '\0';
    pieces_fini(&pieces);
}

/* expected: the text, with bars where it is to be cut. */
static void expect_cut(const struct pretokenizer *p, const char *name, const char *expected)
{
    char text[4096] = "", got[8192];
    size_t len = 0;
    for (const char *c = expected; *c != '\0'; c++) {
        if (*c != '|')
            text[len++] = *c;
    }
    cut(p, text, len, got);
    cr_expect_str_eq(got, expected, "%s: %s, not %s", name, got, expected);
}

Test(words, are_cut_as_the_published_expressions_say)
{
    /* Contractions of both cases, digits, accents; symbols before line breaks, spaces before a
     * word; ideographs, a combining mark, digits that are not ASCII. */
    static const struct {
        const char *name;
        const char *texts[3];
    } rows[] = {
        { "default",
          { "I|'|m| WE|'|RE| |123|45| naïveABC", "x|+=|1|;|\n\n | y|\t", "中文|、| a|́|۱۲|!/|\n" } },
        { "gpt-2",
          { "I|'m| WE|'|RE| 12345| naïveABC", "x|+=|1|;|\n\n | y|\t", "中文|、| a|́|۱۲|!/|\n" } },
        { "llama-bpe",
          { "I|'m| WE|'RE| |123|45| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| a|́|۱۲|!/\n" } },
        { "qwen2",
          { "I|'m| WE|'RE| |1|2|3|4|5| naïveABC", "x|+=|1|;\n\n| | y|\t",
            "中文|、| a|́|۱|۲|!/\n" } },
        { "gpt-4o",
          { "I'm| WE'RE| |123|45| naïve|ABC", "x|+=|1|;\n\n| | y|\t", "中文|、| a|́|۱۲|!/\n" } },
        { "tekken",
          { "I|'m| WE|'RE| |1|2|3|4|5| naïve|ABC", "x|+=|1|;\n\n| | y|\t",
            "中文|、| a|́|۱|۲|!/\n" } },
        { "starcoder",
          { "I|'m| WE|'|RE| |1|2|3|4|5| naïveABC", "x|+=|1|;|\n\n | y|\t",
            "中文|、| a|́|۱|۲|!/|\n" } },
        { "falcon",
          { "I|'|m| WE|'|RE| |123|45| naïveABC", "x|+=|1|;|\n\n | y|\t", "中文|、| a|́|۱۲|!/|\n" } },
        { "deepseek-llm",
          { "I|'|m| WE|'|RE| |12345| na|ï|veABC", "x|+=|1|;|\n|\n| | y|\t",
            "中文|、| a|́|۱۲|!/|\n" } },
        { "deepseek-coder",
          { "I|'|m| WE|'|RE| |1|2|3|4|5| naïveABC", "x|+=|1|;|\n|\n| | y|\t",
            "中文|、| a|́|۱|۲|!/|\n" } },
        { "deepseek-v3",
          { "I|'m| WE|'RE| |123|45| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| á|۱۲|!/\n" } },
        { "qwen35",
          { "I|'m| WE|'RE| |1|2|3|4|5| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| á|۱|۲|!/\n" } },
        { "bailingmoe",
          { "I|'m| WE|'RE| |1|2|3|4|5| naïveABC", "x|+=|1|;\n\n| | y|\t",
            "中文|、| a|́|۱|۲|!/\n" } },
        { "seed-coder",
          { "I|'m| WE|'RE| |1|2|3|4|5| naïveABC", "x|+=|1|;|\n\n| | y|\t",
            "中文|、| a|́|۱|۲|!/|\n" } },
        { "jais-2",
          { "I|'m| WE|'RE| |123|45| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| a|́|۱۲|!/\n" } },
        { "chameleon",
          { "I|'|m| WE|'|RE| |1|2|3|4|5| naïveABC", "x|+|=|1|;|\n|\n|  |y|\t",
            "中文|、| a|́|۱|۲|!|/|\n" } },
        { "kimi-k2",
          { "I'm| WE'RE| |123|45| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| a|́|۱۲|!/\n" } },
        { "youtu",
          { "I'm| WE'RE| |1|2|3|4|5| naïveABC", "x|+=|1|;\n\n| | y|\t", "中文|、| á|۱|۲|!/\n" } },
        { "bloom", { "I'm| WE'RE| 12345| naïveABC", "x+=1;|\n\n | y|\t", "中文|、| á۱۲|!|/|\n" } },
        { "viking",
          { "I'm| WE'RE| |1|2|3|4|5| naïveABC", "x+=|1|;|\n\n | y|\t", "中文|、| á|۱|۲|!|/|\n" } },
        { "superbpe", { "I'm WE'RE |12|345| naïveABC", "x+=|1|;\n\n  y\t", "中文、 á|۱۲|!/\n" } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pretokenizer *p = open_rule(rows[i].name);
        for (int k = 0; k < 3; k++)
            expect_cut(p, rows[i].name, rows[i].texts[k]);
        pretokenizer_close(p);
    }
}

Test(words, end_in_front_of_the_last_space_before_a_word)
{
    struct pretokenizer *p = open_rule("gpt-2");
    expect_cut(p, "gpt-2", "a|   | b|   | 1|  | !|\t|b|  ");
    expect_cut(p, "gpt-2", " |\u3000|a|\u3000\u3000|\u3000|a");
    pretokenizer_close(p);
}

Test(words, of_digits_are_grouped_from_the_right_by_superbpe)
{
    struct pretokenizer *p = open_rule("superbpe");
    expect_cut(p, "superbpe", "1");
    expect_cut(p, "superbpe", "123");
    expect_cut(p, "superbpe", "1|234");
    expect_cut(p, "superbpe", "12|345|678| and |123|456");
    expect_cut(p, "superbpe", "\u00bd1|234"); /* other digits are not counted, nor cut off */
    pretokenizer_close(p);
}

Test(words, of_white_space_are_powers_of_two_in_jais_2)
{
    struct pretokenizer *p = open_rule("jais-2");
    expect_cut(p, "jais-2", "a|    |  | b");
    expect_cut(p, "jais-2", "!\n|  \t\n|  ");
    pretokenizer_close(p);
}

Test(words, never_hold_stray_bytes_and_text_together)
{
    static const char *const names[] = { "gpt-2", "default", "llama-bpe", "deepseek-llm",
                                         "superbpe" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct pretokenizer *p = open_rule(names[i]);
        char got[64];
        cut(p,
            "ab\xFF\xFE"
            "cd\xE4\xB8",
            8, got);
        cr_expect_str_eq(got, "ab|\xFF\xFE|cd|\xE4\xB8", "%s", names[i]);
        cut(p, "\xC0\xAF", 2, got); /* an over-long slash is two stray bytes */
        cr_expect_str_eq(got, "\xC0\xAF", "%s", names[i]);
        cut(p, "", 0, got);
        cr_expect_str_eq(got, "", "%s", names[i]);
        pretokenizer_close(p);
    }
}

Test(words, may_hold_nul)
{
    struct pretokenizer *p = open_rule("gpt-2");
    struct pieces pieces = { 0 };
    cr_assert(pretokenize(p, "a\0b", 3, &pieces, NULL) == 0);
    cr_expect(pieces.n == 3 && pieces.ends[0] == 1 && pieces.ends[1] == 2 && pieces.ends[2] == 3);
    pieces_fini(&pieces);
    pretokenizer_close(p);
}

Test(words, have_expressions_that_compile_under_all_their_names)
{
    static const char *const names[] = {
        "phi-2",         "exaone4",      "mpt",         "olmo",
        "jais",          "trillion",     "llama3",      "llama-v3",
        "falcon3",       "pixtral",      "lfm2",        "dbrx",
        "smaug-bpe",     "glm4",         "chatglm-bpe", "deepseek-r1-qwen",
        "megrez",        "stablelm2",    "hunyuan",     "solar-open",
        "llama4",        "minimax-m2",   "refact",      "command-r",
        "smollm",        "codeshell",    "exaone",      "minerva-7b",
        "hunyuan-dense", "grok-2",       "bailingmoe2", "llada-moe",
        "poro-chat",     "gpt3-finnish", "talkie"
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        pretokenizer_close(open_rule(names[i]));
    cr_expect(pre_rule_find("", 0) == NULL);
    cr_expect(pre_rule_find("gpt-2 phi-2", 11) == NULL);
    cr_expect(pre_rule_find("llama", 5) == NULL);
}
