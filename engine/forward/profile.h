/* SPDX-License-Identifier: Apache-2.0
 *
 * profile.h - how long each part of a step takes, and how much it reads and multiplies.
 *
 * The stepping thread looks at the clock between the parts; switched off, that is one test.
 * Stepping thread only.
 */
#ifndef LACUNA_ENGINE_PROFILE_H
#define LACUNA_ENGINE_PROFILE_H

#include "engine/engine.h"
#include "kernels/kernels.h"

/* In the order of a step. */
enum profile_part {
    PROFILE_EMBED,
    PROFILE_QKV,
    PROFILE_PLACE,
    PROFILE_ATTENTION,
    PROFILE_ATTENTION_OUT,
    PROFILE_FFN_NORM,
    PROFILE_ROUTER,
    PROFILE_EXPERT_READ,
    PROFILE_GATE_UP,
    PROFILE_DOWN,
    PROFILE_RESIDUAL,
    PROFILE_HEAD_NORM,
    PROFILE_HEAD,
    PROFILE_SAMPLING,
    PROFILE_N_PARTS,
};

struct profile {
    bool is_on;
    uint64_t mark_ns; /* where the part at hand began */
    struct engine_part part[PROFILE_N_PARTS];
};

/* Forgets what was counted, and counts from now on. */
void profile_start(struct profile *p);
/* A part of a step begins here, though no other has ended. */
void profile_mark(struct profile *p);
/* The part ends here, and the next begins. */
void profile_end(struct profile *p, enum profile_part part);
/* The part multiplies n_rows rows with the matrix. */
void profile_add_product(struct profile *p, enum profile_part part, const struct kern_matrix *w,
                         uint32_t n_rows);
void profile_add(struct profile *p, enum profile_part part, uint64_t bytes, uint64_t f32_macs);

#endif
