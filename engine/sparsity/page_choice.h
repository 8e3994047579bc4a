/* SPDX-License-Identifier: Apache-2.0
 *
 * page_choice.h - pure: which pages of keys and values a decoded token attends to.
 */
#ifndef LACUNA_ENGINE_PAGE_CHOICE_H
#define LACUNA_ENGINE_PAGE_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    /* Tokens from a choice to the next: a divisor of a page's (LServe's reuse interval, arXiv 2502.14866). */
    PAGE_CHOICE_STEP = 4,
    PAGE_CHOICE_FIRST =
        1, /* pages that are always chosen: the first, which draw attention whatever they say, */
    PAGE_CHOICE_LAST = 4, /* and the last, or a quarter of all that are, if these are fewer */
    PAGE_CHOICE_LEAST_PAGES = 3, /* of a budget */
};

/* Of n pages with these scores, at most `most` (at least PAGE_CHOICE_LEAST_PAGES): all, or the first, the last and those
 * of the others whose scores are highest, ties to the earlier.  list: their numbers, ascending; scratch: room for n.
 * Returns how many. */
uint32_t page_choice(const float *score, uint32_t n, uint32_t most, float *scratch, uint16_t *list);

#endif
