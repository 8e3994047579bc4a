/* SPDX-License-Identifier: Apache-2.0
 *
 * select.c - the list of variants, best first, and the choice among them.
 */
#include <string.h>

#include "kernels/internal.h"

#if defined(__x86_64__)
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
#endif

static bool has_any(const struct kern_cpu *cpu)
{
    (void)cpu;
    return true;
}

static const struct {
    const struct kern_table *table;
    bool (*usable)(const struct kern_cpu *);
} variants[] = {
#if defined(__x86_64__)
    { &kern_avx512vnni, has_avx512vnni },
    { &kern_avxvnni, has_avxvnni },
    { &kern_avx2, has_avx2 },
#endif
    { &kern_ref, has_any },
};

enum { N_VARIANTS = sizeof(variants) / sizeof(variants[0]) };

const struct kern_table *kern_usable(uint32_t i)
{
    struct kern_cpu cpu = kern_cpu_detect();
    for (uint32_t v = 0; v < N_VARIANTS; v++)
        if (variants[v].usable(&cpu) && i-- == 0)
            return variants[v].table;
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
    return "avx512vnni, avxvnni, avx2, ref";
#else
    return "ref";
#endif
}
