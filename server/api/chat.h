/* SPDX-License-Identifier: Apache-2.0
 *
 * chat.h - messages as a prompt.
 */
#ifndef LACUNA_SERVER_CHAT_H
#define LACUNA_SERVER_CHAT_H

#include "server/api/api.h"

struct chat_prompt { /* zeroed is empty */
    char *text;
    size_t len;
    size_t *plain_at; /* where a control token's text was in a message, ascending: stays text */
    size_t n_plain;
};

/* Renders the model's template.  *out must be finished either way. */
int chat_render(const struct engine *e, const struct api_chat *chat, int64_t now,
                struct chat_prompt *out, struct api_error *err);
void chat_prompt_fini(struct chat_prompt *p);

#endif
