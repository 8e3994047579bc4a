/* SPDX-License-Identifier: Apache-2.0
 *
 * preempt.c - whom to pause when pages run out.  Pure.
 *
 * The least important one, since that is what priority means; of equals the youngest, which has
 * least to compute again, and so that the oldest always comes to its end.
 */
#include "scheduler/internal.h"

bool preempt_is_worse(const struct preempt_item *a, const struct preempt_item *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->order > b->order;
}

uint32_t preempt_pick(const struct preempt_item *items, uint32_t n)
{
    uint32_t worst = n;
    for (uint32_t i = 0; i < n; i++)
        if (items[i].runs && (worst == n || preempt_is_worse(&items[i], &items[worst])))
            worst = i;
    return worst;
}
