/* SPDX-License-Identifier: Apache-2.0
 *
 * chat_template.h - a model's own chat template: messages to the text of a prompt.
 * Read-only after open: any thread.
 */
#ifndef LACUNA_ENGINE_CHAT_TEMPLATE_H
#define LACUNA_ENGINE_CHAT_TEMPLATE_H

#include "engine/engine.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"

struct chat_template;

/* What the file says of chats.  A template that is absent or cannot be compiled is no error here:
 * chat_template_render says so. */
int chat_template_open(struct chat_template **out, const struct gguf *g, const struct tokenizer *t,
                       struct engine_err *err);
void chat_template_close(struct chat_template *t); /* NULL is fine */

/* See engine_chat_render. */
int chat_template_render(const struct chat_template *t, const struct engine_chat *chat, char **out,
                         size_t *len, struct engine_err *err);

#endif
