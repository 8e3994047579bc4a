/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_choice.h - cache-aware routing: which of a token's experts give way to others that are in memory.  A decision
 * only, and a pure function.
 */
#ifndef LACUNA_ENGINE_EXPERT_CHOICE_H
#define LACUNA_ENGINE_EXPERT_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    EXPERT_CHOICE_RANKS = 2
}; /* so many times k experts are looked at: beyond them the choice is a bad one */

struct expert_choice {
    const uint32_t *ranked; /* [n_ranked] a token's experts, best first; k at least */
    const bool *present;    /* [n_ranked] in memory */
    uint32_t n_ranked;
    uint32_t k;    /* to be computed */
    uint32_t kept; /* the best of these, whether they are present or not; at most k */
};

/* Writes k experts, best first, into chosen: the kept ones; of the others of the best k those that are present; in place
 * of each that is not, the next best that is; and where there are too few of these, the best that are absent.
 * What gave way goes into gave_way (room for k - kept).  Returns how many did. */
uint32_t expert_choose(const struct expert_choice *c, uint32_t *chosen, uint32_t *gave_way);

#endif
