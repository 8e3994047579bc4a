/* SPDX-License-Identifier: Apache-2.0
 *
 * detokenize.c - ids to text, one token at a time.
 *
 * Tokens are bytes; a code point may be spread over several.  What has begun a code point is held
 * back until it is whole.  A byte that cannot go on with it turns what is held into one U+FFFD,
 * which is Unicode's "maximal subpart" practice, so the output is well-formed whatever the model
 * says.
 */
#include <string.h>

#include "engine/text/internal.h"

static size_t put_replacement(char *dst)
{
    memcpy(dst, "\xEF\xBF\xBD", 3);
    return 3;
}

size_t detok_end(struct detok *d, char *dst)
{
    if (d->n_held == 0)
        return 0;
    d->n_held = 0;
    return put_replacement(dst);
}

static size_t push_byte(struct detok *d, uint8_t byte, char *dst)
{
    size_t n = 0;
    if (!utf8_continues(d->held, d->n_held, byte)) {
        n = detok_end(d, dst);
        if (utf8_length(byte) == 0)
            return n + put_replacement(dst + n);
    }
    d->held[d->n_held++] = byte;
    if (d->n_held == utf8_length(d->held[0])) {
        memcpy(dst + n, d->held, d->n_held);
        n += d->n_held;
        d->n_held = 0;
    }
    return n;
}

size_t detok_bytes(struct detok *d, const char *bytes, size_t len, char *dst)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += push_byte(d, (uint8_t)bytes[i], dst + n);
    return n;
}

/* ---- engine.h ---- */

void engine_detok_init(struct engine_detok *d, const struct engine *e, bool skip_control,
                       bool at_start)
{
    *d = (struct engine_detok){
        .e = e,
        .skip_control = skip_control,
        .at_start = at_start && tokenizer_strips_space(engine_tokenizer(e)),
    };
}

static struct detok load(const struct engine_detok *d)
{
    struct detok core = { .n_held = d->n_held };
    memcpy(core.held, d->held, sizeof core.held);
    return core;
}

static void save(struct engine_detok *d, const struct detok *core)
{
    memcpy(d->held, core->held, sizeof d->held);
    d->n_held = core->n_held;
}

size_t engine_detok_push(struct engine_detok *d, int32_t id, char *dst)
{
    size_t len;
    const char *bytes = engine_token_bytes(d->e, id, &len);
    bool control = engine_token_is_control(d->e, id);
    if (control && d->skip_control)
        return 0;
    if (d->at_start && !control && len > 0) {
        d->at_start = false;
        if (bytes[0] == ' ') {
            bytes++;
            len--;
        }
    }
    struct detok core = load(d);
    size_t n = detok_bytes(&core, bytes, len, dst);
    save(d, &core);
    return n;
}

size_t engine_detok_flush(struct engine_detok *d, char *dst)
{
    struct detok core = load(d);
    size_t n = detok_end(&core, dst);
    save(d, &core);
    return n;
}

size_t engine_detok_max(const struct engine *e)
{
    /* Each byte may become a U+FFFD, and so may what was held before it. */
    size_t max = 3 * (tokenizer_max_bytes(engine_tokenizer(e)) + UTF8_MAX);
    return max > ENGINE_DETOK_MIN ? max : ENGINE_DETOK_MIN;
}
