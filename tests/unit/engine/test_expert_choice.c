/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expert_choice.c - who gives way to whom.
 */
#include "engine/forward/expert_choice.h"

#include <criterion/criterion.h>

#include <string.h>

enum { K = 4, N_RANKED = EXPERT_CHOICE_RANKS * K };

/* Experts 10, 11, ... by rank; `present` has a letter for each: x is in memory.  Expected are digits: ranks. */
static void check(const char *present, uint32_t kept, const char *chosen, const char *gave_way)
{
    uint32_t ranked[N_RANKED], found[K], gave[K], n_ranked = (uint32_t)strlen(present);
    bool is_present[N_RANKED];
    for (uint32_t i = 0; i < n_ranked; i++) {
        ranked[i] = 10 + i;
        is_present[i] = present[i] == 'x';
    }
    const struct expert_choice c = {
        .ranked = ranked, .present = is_present, .n_ranked = n_ranked, .k = K, .kept = kept
    };
    uint32_t n = expert_choose(&c, found, gave);
    cr_assert_eq(n, strlen(gave_way), "%s, %u kept: %u gave way", present, kept, n);
    for (uint32_t i = 0; i < K; i++)
        cr_expect_eq(found[i], 10 + (uint32_t)(chosen[i] - '0'), "%s, %u kept: chosen %u is %u",
                     present, kept, i, found[i]);
    for (uint32_t i = 0; i < n; i++)
        cr_expect_eq(gave[i], 10 + (uint32_t)(gave_way[i] - '0'), "%s, %u kept: %u gave way",
                     present, kept, gave[i]);
}

Test(expert_choice, the_best_are_chosen_where_they_are_in_memory)
{
    check("xxxx....", 1, "0123", "");
    check("xxxxxxxx", 0, "0123", "");
}

Test(expert_choice, kept_ones_are_chosen_absent_or_not)
{
    check("..xxxxxx", 2, "0123", "");
    check("....xxxx", 4, "0123", "");
}

Test(expert_choice, the_next_best_in_memory_takes_the_place_of_each_absent_one)
{
    check("xx.x.xxx", 1, "0135", "2");
    check("x....x.x", 1, "0157", "23");
    check("....xxxx", 1, "0456", "123");
    check("....xxxx", 0, "4567", "0123");
}

Test(expert_choice, the_best_absent_ones_are_chosen_where_too_few_are_in_memory)
{
    check("x.......", 1, "0123", "");
    check("x......x", 1, "0127", "3");
    check("........", 0, "0123", "");
    check("x...", 1, "0123", ""); /* as many experts as a token has */
    check("x..x.", 2, "0123", "");
}
