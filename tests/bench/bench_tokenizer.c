/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_tokenizer.c - time to tokenize one megabyte of texts that are hard in one way or another.
 * Run by hand; the bar is one second each.
 *
 *     bench_tokenizer MODEL.gguf...      (a vocabulary is enough)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/text/tokenizer.h"

enum { TEXT_BYTES = 1 << 20 };

struct sample {
    const char *name;
    const char *unit; /* repeated; NULL: random characters of `alphabet` */
    const char *alphabet;
    const char *tail; /* overwrites the end */
};

static const struct sample samples[] = {
    { "one letter", "a", NULL, "" },
    { "two letters", "ab", NULL, "" },
    { "random letters", NULL, "abcdefghijklmnopqrstuvwxyz", "" },
    { "random capitals", NULL, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "" },
    { "letters and spaces", NULL, "etaoinshrdlu      ", "" },
    { "camel case", "aA", NULL, "" },
    { "one digit", "7", NULL, "" },
    { "random digits", NULL, "0123456789", "" },
    { "spaces", " ", NULL, "" },
    { "spaces, then a word", " ", NULL, "a" },
    { "spaces and ideographs", "                                \u4e2d", NULL, "" },
    { "line breaks", "\n", NULL, "" },
    { "spaces and line breaks", " \n", NULL, "" },
    { "tabs and spaces", "\t ", NULL, "" },
    { "symbols", "!", NULL, "" },
    { "random symbols", NULL, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "" },
    { "contractions", "'s", NULL, "" },
    { "beginnings of special tokens", "<|", NULL, "" },
    { "emoji", "\U0001F600", NULL, "" },
    { "ideographs", "\u4e2d\u6587", NULL, "" },
    { "accents", "e\u0301", NULL, "" },
    { "stray bytes", "\xFF", NULL, "" },
};

static void fill(char *text, const struct sample *s)
{
    uint64_t state = 42;
    size_t n = strlen(s->unit != NULL ? s->unit : s->alphabet);
    for (size_t i = 0; i < TEXT_BYTES; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        text[i] = s->unit != NULL ? s->unit[i % n] : s->alphabet[(state >> 33) % n];
    }
    memcpy(text + TEXT_BYTES - strlen(s->tail), s->tail, strlen(s->tail));
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int measure(const char *path, char *text)
{
    struct engine_err err = { 0 };
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    if (gguf_open(&g, path, &err) != 0 || tokenizer_open(&t, g, &err) != 0) {
        fprintf(stderr, "%s: %s\n", path, err.text);
        gguf_close(g);
        return -1;
    }
    gguf_close(g);
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        struct engine_tokens ids = { 0 };
        fill(text, &samples[i]);
        double start = now();
        int status = tokenizer_encode(t, text, TEXT_BYTES, ENGINE_TOKENIZE_PARSE_SPECIAL, &ids,
                                      &err);
        double seconds = now() - start;
        printf("%-30s %8zu tokens %8.3f s%s\n", samples[i].name, ids.n, seconds,
               status != 0   ? "  FAILED"
               : seconds > 1 ? "  SLOW"
                             : "");
        engine_tokens_fini(&ids);
    }
    tokenizer_close(t);
    return 0;
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? 0 : 2;
    char *text = malloc(TEXT_BYTES);
    if (text == NULL || argc < 2)
        fprintf(stderr, "usage: %s MODEL.gguf...\n", argv[0]);
    for (int i = 1; i < argc && text != NULL; i++) {
        printf("%s\n", argv[i]);
        if (measure(argv[i], text) != 0)
            status = 1;
    }
    free(text);
    return status;
}
