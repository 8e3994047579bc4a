/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu.c - which instructions this processor has and the operating system saves the registers of.
 *
 * CPUID says what the silicon can do, XGETBV what the kernel saves on a context switch; both are
 * needed.  The compilers' own __builtin_cpu_supports differ in the names they accept.
 * Asked once: in a virtual machine each CPUID is a way to the hypervisor and back.
 */
#include <pthread.h>

#include "kernels/internal.h"

static struct kern_cpu cpu;
static pthread_once_t detected = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    XCR0_AVX = 0x06,    /* xmm, ymm */
    XCR0_AVX512 = 0xe6, /* and masks, zmm */
    AVX_VNNI = 1 << 4,  /* of leaf 7, 1; cpuid.h has a name for it only in newer compilers */
};

static uint32_t xcr0(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

static void detect(void)
{
    uint32_t a, b, c, d, c1, a1, b1, c2, d1;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !has(c1, bit_OSXSAVE))
        return;
    uint32_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    cpu.fma_avx2 = has(saved, XCR0_AVX) && has(c1, bit_FMA | bit_F16C | bit_AVX) &&
                   has(b, bit_AVX2 | bit_BMI2);
    if (a >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c2, &d1))
        cpu.avx_vnni = cpu.fma_avx2 && has(a1, AVX_VNNI);
    cpu.avx512 = cpu.fma_avx2 && has(saved, XCR0_AVX512) &&
                 has(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    cpu.avx512_vnni = cpu.avx512 && has(c, bit_AVX512VNNI);
}
#else
static void detect(void)
{
}
#endif

struct kern_cpu kern_cpu_detect(void)
{
    pthread_once(&detected, detect);
    return cpu;
}
