/* SPDX-License-Identifier: Apache-2.0
 *
 * expert_choice.c - present ones first, then best first.
 */
#include "engine/forward/expert_choice.h"

/* Of the absent ones that must be computed after all, for lack of others. */
static uint32_t n_absent_chosen(const struct expert_choice *c)
{
    uint32_t n = c->kept;
    for (uint32_t i = c->kept; i < c->n_ranked && n < c->k; i++)
        n += c->present[i];
    return c->k - n;
}

uint32_t expert_choose(const struct expert_choice *c, uint32_t *chosen, uint32_t *gave_way)
{
    uint32_t n_absent = n_absent_chosen(c), n = 0, n_gave_way = 0;
    for (uint32_t i = 0; i < c->n_ranked && n < c->k; i++) {
        bool takes_absent = i >= c->kept && !c->present[i] && n_absent > 0;
        n_absent -= takes_absent;
        if (i < c->kept || c->present[i] || takes_absent)
            chosen[n++] = c->ranked[i];
        else if (i < c->k)
            gave_way[n_gave_way++] = c->ranked[i];
    }
    return n_gave_way;
}
