/* SPDX-License-Identifier: Apache-2.0
 *
 * rows.c - rows of given tokens, and steps in which nothing may fail.
 */
#include "engine/quality/quality.h"

int quality_fill_rows(struct engine_seq *seq, const int32_t *tokens, uint32_t n, uint32_t want_from,
                      struct engine_row *rows, struct engine_err *err)
{
    uint32_t pos = engine_seq_n_tokens(seq);
    if (engine_seq_grow(seq, pos + n, err) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct engine_row){
            .seq = seq, .token = tokens[i], .pos = pos + i, .want_logits = pos + i >= want_from
        };
    return 0;
}

int quality_step(struct engine *e, struct engine_row *rows, uint32_t n, struct engine_err *err)
{
    engine_step(e, rows, n);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].status != ENGINE_ROW_DONE) {
            struct engine_err why = { .code = ENGINE_ERR_NONE };
            engine_row_error(e, &why);
            return engine_fail(err, why.code, "at position %u: %s", rows[i].pos, why.text);
        }
    return 0;
}
