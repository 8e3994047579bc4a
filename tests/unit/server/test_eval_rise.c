/* SPDX-License-Identifier: Apache-2.0
 *
 * test_eval_rise.c - where a curve of perplexity first rises above a bound.
 */
#include <criterion/criterion.h>

#include "server/commands/eval_rise.h"

static const struct rise_point curve[] = {
    { 0.8, 0.002 }, { 0.6, 0.001 }, { 0.4, 0.021 }, { 0.2, 0.5 }
};

Test(eval_rise, the_share_lies_between_the_points_around_the_bound)
{
    cr_expect_float_eq(rise_share(curve, 4, 0.01), 0.6 - 0.2 * 0.009 / 0.02, 1e-12);
    cr_expect_float_eq(rise_share(curve, 4, 0.001), 0.9, 1e-12,
                       "between all neurons and the first");
}

Test(eval_rise, of_a_bound_that_is_never_reached_it_is_the_last)
{
    cr_expect_float_eq(rise_share(curve, 4, 0.5), 0.2, 0);
    cr_expect_float_eq(rise_share(curve, 0, 0.5), 1, 0);
}

Test(eval_rise, points_are_steps_of_a_twentieth)
{
    char text[32];
    rise_point_name(0, text, sizeof(text));
    cr_expect_str_eq(text, "neurons=0.95");
    rise_point_name(RISE_POINTS - 1, text, sizeof(text));
    cr_expect_str_eq(text, "neurons=0.05");
}
