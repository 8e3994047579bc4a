/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu.c - which instructions this processor has and the operating system saves the registers of.
 *
 * CPUID says what the silicon can do, XGETBV what the kernel saves on a context switch; both are
 * needed.  The compilers' own __builtin_cpu_supports differ in the names they accept.  On arm64 the
 * kernel says both.
 * Asked once: in a virtual machine each CPUID is a way to the hypervisor and back.
 */
#include <pthread.h>

#include "kernels/internal.h"

static struct kern_cpu cpu;
static pthread_once_t detected = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_AVX = 0x06,    /* xmm, ymm */
    XCR0_AVX512 = 0xe6, /* and masks, zmm */
    XCR0_TILES = 3 << 17,
    AVX_VNNI = 1 << 4,       /* of leaf 7, 1; cpuid.h has a name for it only in newer compilers */
    AMX_TILE_INT8 = 3 << 24, /* of leaf 7 */
    ARCH_REQ_XCOMP_PERM = 0x1023,
    XFEATURE_XTILEDATA = 18, /* of arch_prctl */
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

/* Linux gives a process the large registers of AMX only if it asks. */
static bool may_use_tiles(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
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
    cpu.amx_int8 = cpu.avx512_vnni && has(saved, XCR0_TILES) && has(d, AMX_TILE_INT8) &&
                   may_use_tiles();
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

enum {
    DOT_PRODUCTS = 1 << 20,
    I8MM = 1 << 13
}; /* of AT_HWCAP and AT_HWCAP2: older headers lack the second */

static void detect(void)
{
    cpu.neon_dot = getauxval(AT_HWCAP) & DOT_PRODUCTS;
    cpu.neon_i8mm = cpu.neon_dot && (getauxval(AT_HWCAP2) & I8MM);
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
