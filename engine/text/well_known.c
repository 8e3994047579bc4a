/* SPDX-License-Identifier: Apache-2.0
 *
 * well_known.c - tokens that are special by their name.
 *
 * Files name one end token; models end their turn with others as well, and many converted files
 * type these, and the fill-in-the-middle markers, as ordinary tokens.  The names are the published
 * ones of the model families; which of them also end a generation follows what other engines do.
 */
#include <string.h>

#include "engine/text/internal.h"

struct well_known {
    const char *name;
    bool is_end;
    enum fim_part part; /* 0: none, which most are */
};

static const struct well_known names[] = {
    { "<|eot_id|>", true, FIM_NONE },
    { "<|eom_id|>", true, FIM_NONE },
    { "<|im_end|>", true, FIM_NONE },
    { "<|end|>", true, FIM_NONE },
    { "<|return|>", true, FIM_NONE },
    { "<|call|>", true, FIM_NONE },
    { "<|calls|>", true, FIM_NONE },
    { "<|flush|>", true, FIM_NONE },
    { "<end_of_turn>", true, FIM_NONE },
    { "<turn|>", true, FIM_NONE },
    { "<|tool_response>", true, FIM_NONE },
    { "<|endoftext|>", true, FIM_NONE },
    { "<|end_of_text|>", true, FIM_NONE },
    { "<end_of_utterance>", true, FIM_NONE },
    { "<eos>", true, FIM_NONE },
    { "</s>", true, FIM_NONE },
    { "<EOT>", true, FIM_NONE },
    { "_<EOT>", true, FIM_NONE },
    { "[EOT]", true, FIM_NONE },
    { "[EOS]", true, FIM_NONE },
    { "[e~[", true, FIM_NONE },
    { "<\xEF\xBD\x9C"
      "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
      true, FIM_NONE },
    /* Fill in the middle: padding, and the borders between files and repositories. */
    { "<|fim_pad|>", true, FIM_NONE },
    { "<fim-pad>", true, FIM_NONE },
    { "<fim_pad>", true, FIM_NONE },
    { "<PAD>", true, FIM_NONE },
    { "[PAD]", true, FIM_NONE },
    { "<|fim_repo|>", true, FIM_NONE },
    { "<|repo_name|>", true, FIM_NONE },
    { "<fim-repo>", true, FIM_NONE },
    { "<REPO>", true, FIM_NONE },
    { "<reponame>", true, FIM_NONE },
    { "<|file_sep|>", true, FIM_NONE },
    /* Fill in the middle: the parts. */
    { "<|fim_prefix|>", false, FIM_PREFIX },
    { "<|fim_suffix|>", false, FIM_SUFFIX },
    { "<|fim_middle|>", false, FIM_MIDDLE },
    { "<fim_prefix>", false, FIM_PREFIX },
    { "<fim_suffix>", false, FIM_SUFFIX },
    { "<fim_middle>", false, FIM_MIDDLE },
    { "<fim-prefix>", false, FIM_PREFIX },
    { "<fim-suffix>", false, FIM_SUFFIX },
    { "<fim-middle>", false, FIM_MIDDLE },
    { "<|code_prefix|>", false, FIM_PREFIX },
    { "<|code_suffix|>", false, FIM_SUFFIX },
    { "<|code_middle|>", false, FIM_MIDDLE },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81"
      "begin\xEF\xBD\x9C>",
      false, FIM_PREFIX },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
      false, FIM_SUFFIX },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81"
      "end\xEF\xBD\x9C>",
      false, FIM_MIDDLE },
    { "<PRE>", false, FIM_PREFIX },
    { "<SUF>", false, FIM_SUFFIX },
    { "<MID>", false, FIM_MIDDLE },
    { "\xE2\x96\x81<PRE>", false, FIM_PREFIX },
    { "\xE2\x96\x81<SUF>", false, FIM_SUFFIX },
    { "\xE2\x96\x81<MID>", false, FIM_MIDDLE },
};

static const struct well_known *find(const char *text, size_t len)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i].name) == len && memcmp(names[i].name, text, len) == 0)
            return &names[i];
    }
    return NULL;
}

unsigned well_known_flags(const char *text, size_t len)
{
    const struct well_known *known = find(text, len);
    if (known == NULL)
        return 0;
    return TOKEN_IS_SPECIAL | (known->is_end ? TOKEN_IS_END : 0u);
}

enum fim_part well_known_part(const char *text, size_t len)
{
    const struct well_known *known = find(text, len);
    return known ? known->part : FIM_NONE;
}
