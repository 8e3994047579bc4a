/* SPDX-License-Identifier: Apache-2.0
 *
 * select.c - the list of variants, best first, and the choice among them.
 */
#include <string.h>

#include "kernels/internal.h"

#if defined(__x86_64__)
static bool has_avx512amx(const struct kern_cpu *cpu)
{
    return cpu->amx_int8;
}

static bool has_avx512vnni(const struct kern_cpu *cpu)
{
    return cpu->avx512_vnni;
}

static bool has_avxvnni(const struct kern_cpu *cpu)
{
    return cpu->avx_vnni;
}

static bool has_avx2(const struct kern_cpu *cpu)
{
    return cpu->fma_avx2;
}
#elif defined(__aarch64__)
static bool has_neoni8mm(const struct kern_cpu *cpu)
{
    return cpu->neon_i8mm;
}

static bool has_neondot(const struct kern_cpu *cpu)
{
    return cpu->neon_dot;
}
#endif

static bool has_any(const struct kern_cpu *cpu)
{
    (void)cpu;
    return true;
}

static const struct {
    const struct kern_table *table;
    bool (*usable)(const struct kern_cpu *);
    const struct kern_table *(*make)(void); /* instead of a table */
} variants[] = {
#if defined(__x86_64__)
    { &kern_avx512vnni, has_avx512vnni, NULL },
    /* Behind it, so that it is taken by name alone, until somebody has run it. */
    { NULL, has_avx512amx, kern_avx512amx },
    { &kern_avxvnni, has_avxvnni, NULL },
    { &kern_avx2, has_avx2, NULL },
#elif defined(__aarch64__)
    { &kern_neoni8mm, has_neoni8mm, NULL },
    { &kern_neondot, has_neondot, NULL },
#endif
    { &kern_ref, has_any, NULL },
};

enum { N_VARIANTS = sizeof(variants) / sizeof(variants[0]) };

const struct kern_table *kern_usable(uint32_t i)
{
    struct kern_cpu cpu = kern_cpu_detect();
    for (uint32_t v = 0; v < N_VARIANTS; v++)
        if (variants[v].usable(&cpu) && i-- == 0)
            return variants[v].make ? variants[v].make() : variants[v].table;
    return NULL;
}

uint32_t kern_n_usable(void)
{
    uint32_t n = 0;
    while (kern_usable(n))
        n++;
    return n;
}

const struct kern_table *kern_select(const char *max_isa)
{
    if (!max_isa || !*max_isa)
        return kern_usable(0);
    for (uint32_t i = 0; i < kern_n_usable(); i++)
        if (strcmp(kern_usable(i)->name, max_isa) == 0)
            return kern_usable(i);
    return NULL;
}

const char *kern_names(void)
{
#if defined(__x86_64__)
    return "avx512vnni, avx512amx, avxvnni, avx2, ref";
#elif defined(__aarch64__)
    return "neoni8mm, neondot, ref";
#else
    return "ref";
#endif
}
