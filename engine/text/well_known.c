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
};

static const struct well_known names[] = {
    { "<|eot_id|>", true },
    { "<|eom_id|>", true },
    { "<|im_end|>", true },
    { "<|end|>", true },
    { "<|return|>", true },
    { "<|call|>", true },
    { "<|calls|>", true },
    { "<|flush|>", true },
    { "<end_of_turn>", true },
    { "<turn|>", true },
    { "<|tool_response>", true },
    { "<|endoftext|>", true },
    { "<|end_of_text|>", true },
    { "<end_of_utterance>", true },
    { "<eos>", true },
    { "</s>", true },
    { "<EOT>", true },
    { "_<EOT>", true },
    { "[EOT]", true },
    { "[EOS]", true },
    { "[e~[", true },
    { "<\xEF\xBD\x9C"
      "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
      true },
    /* Fill in the middle: padding, and the borders between files and repositories. */
    { "<|fim_pad|>", true },
    { "<fim-pad>", true },
    { "<fim_pad>", true },
    { "<PAD>", true },
    { "[PAD]", true },
    { "<|fim_repo|>", true },
    { "<|repo_name|>", true },
    { "<fim-repo>", true },
    { "<REPO>", true },
    { "<reponame>", true },
    { "<|file_sep|>", true },
    /* Fill in the middle: the parts. */
    { "<|fim_prefix|>", false },
    { "<|fim_suffix|>", false },
    { "<|fim_middle|>", false },
    { "<fim_prefix>", false },
    { "<fim_suffix>", false },
    { "<fim_middle>", false },
    { "<fim-prefix>", false },
    { "<fim-suffix>", false },
    { "<fim-middle>", false },
    { "<|code_prefix|>", false },
    { "<|code_suffix|>", false },
    { "<|code_middle|>", false },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81"
      "begin\xEF\xBD\x9C>",
      false },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
      false },
    { "<\xEF\xBD\x9C"
      "fim\xE2\x96\x81"
      "end\xEF\xBD\x9C>",
      false },
    { "<PRE>", false },
    { "<SUF>", false },
    { "<MID>", false },
    { "\xE2\x96\x81<PRE>", false },
    { "\xE2\x96\x81<SUF>", false },
    { "\xE2\x96\x81<MID>", false },
};

unsigned well_known_flags(const char *text, size_t len)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i].name) == len && memcmp(names[i].name, text, len) == 0)
            return TOKEN_IS_SPECIAL | (names[i].is_end ? TOKEN_IS_END : 0u);
    }
    return 0;
}
