/* SPDX-License-Identifier: Apache-2.0
 *
 * profile.c - names, clocks and sums.
 */
#include "engine/forward/profile.h"

#include "engine/clock.h"

static const char *const names[PROFILE_N_PARTS] = {
    [PROFILE_EMBED] = "embed, first norm",
    [PROFILE_QKV] = "q, k, v",
    [PROFILE_PLACE] = "rope, KV store",
    [PROFILE_ATTENTION] = "attention",
    [PROFILE_ATTENTION_OUT] = "attention out",
    [PROFILE_FFN_NORM] = "ffn norm",
    [PROFILE_ROUTER] = "router",
    [PROFILE_EXPERT_READ] = "reading experts",
    [PROFILE_GATE_UP] = "gate, up, activation",
    [PROFILE_DOWN] = "down",
    [PROFILE_RESIDUAL] = "residual, next norm",
    [PROFILE_HEAD_NORM] = "head norm",
    [PROFILE_HEAD] = "head",
    [PROFILE_SAMPLING] = "sampling",
};

void profile_start(struct profile *p)
{
    *p = (struct profile){ .is_on = true };
    for (uint32_t i = 0; i < PROFILE_N_PARTS; i++)
        p->part[i].name = names[i];
}

void profile_mark(struct profile *p)
{
    if (p->is_on)
        p->mark_ns = engine_clock_ns();
}

void profile_end(struct profile *p, enum profile_part part)
{
    if (!p->is_on)
        return;
    uint64_t now = engine_clock_ns();
    p->part[part].ns += now - p->mark_ns;
    p->mark_ns = now;
}

void profile_add_product(struct profile *p, enum profile_part part, const struct kern_matrix *w,
                         uint32_t n_rows)
{
    if (!p->is_on || n_rows == 0)
        return;
    uint64_t macs = (uint64_t)w->n_rows * w->n_cols * n_rows;
    p->part[part].bytes += kern_matrix_bytes(w);
    if (kern_type_is_quantised(w->type))
        p->part[part].int8_macs += macs;
    else
        p->part[part].f32_macs += macs;
}

void profile_add(struct profile *p, enum profile_part part, uint64_t bytes, uint64_t f32_macs)
{
    p->part[part].bytes += bytes;
    p->part[part].f32_macs += f32_macs;
}
