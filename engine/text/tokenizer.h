/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.h - text to token ids and back, from the vocabulary in a GGUF file.
 * Read-only after open: any thread.
 */
#ifndef LACUNA_ENGINE_TOKENIZER_H
#define LACUNA_ENGINE_TOKENIZER_H

#include "engine/engine.h"
#include "engine/model/gguf.h"

struct tokenizer;

/* Copies what it needs: g may be closed afterwards.  An unknown tokenizer.ggml.model or .pre is
 * ENGINE_ERR_UNSUPPORTED and names it. */
int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct engine_err *err);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

uint32_t tokenizer_n_vocab(const struct tokenizer *t);
/* flags: enum engine_tokenize_flags.  Appends to out. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct engine_tokens *out, struct engine_err *err);
/* See engine_tokenize_except, engine_special_length. */
int tokenizer_encode_except(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                            const size_t *not_at, size_t n_not_at, struct engine_tokens *out,
                            struct engine_err *err);
size_t tokenizer_special_length(const struct tokenizer *t, const char *text, size_t len);
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len);
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
/* False if not all three are there. */
bool tokenizer_fim(const struct tokenizer *t, struct engine_fim *out);
bool tokenizer_adds_bos(const struct tokenizer *t);
/* SentencePiece with add_space_prefix: the first token of a text loses its leading space again. */
bool tokenizer_strips_space(const struct tokenizer *t);
size_t tokenizer_max_bytes(const struct tokenizer *t); /* longest token */

/* Of an open engine; in engine.c, for detokenize.c. */
const struct tokenizer *engine_tokenizer(const struct engine *e);

#endif
