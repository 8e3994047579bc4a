/* SPDX-License-Identifier: Apache-2.0
 *
 * arm64_main.c - runs the tests that were linked in; see criterion/criterion.h.
 */
#include <criterion/criterion.h>

#include "kernels/kernels.h"

struct test *first_test;

/* Fails if fewer variants run here than the arguments name: an emulator without them proves nothing. */
int main(int argc, char **argv)
{
    uint32_t n_run = 0;
    for (int i = 1; i < argc; i++)
        if (!kern_select(argv[i])) {
            fprintf(stderr, "%s: not usable here; usable: %s\n", argv[i], kern_usable(0)->name);
            return 1;
        }
    for (const struct test *t = first_test; t; t = t->next, n_run++) {
        printf("%s/%s\n", t->suite, t->name);
        fflush(stdout);
        t->run();
    }
    printf("%u tests passed\n", n_run);
    return n_run > 0 ? 0 : 1;
}
