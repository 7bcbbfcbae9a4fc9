/* cpu.c: what this CPU and operating system can run.
 *
 * CPUID says what the CPU has; XGETBV says whether the operating system saves the wide registers, without which the
 * instructions fault. Both are needed. The AVX2 level includes FMA and F16C (every CPU with AVX2 has had both) and the
 * AVX-512 level F, DQ, BW and VL, so that kernels need to know two names only.
 */
#include "base/base.h"

#include <errno.h>
#include <sched.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define STATE_AVX 0x06u    /* XCR0: SSE and AVX registers */
#define STATE_AVX512 0xe6u /* and mask registers, upper halves, registers 16 to 31 */

__attribute__((target("xsave"))) static uint64_t enabled_state(void) {
    return (uint64_t)_xgetbv(0);
}

uint32_t peft__cpu_detect(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) return PEFT_CPU_GENERIC;
    const unsigned basic = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    if ((c & basic) != basic) return PEFT_CPU_GENERIC;
    const uint64_t state = enabled_state();
    if ((state & STATE_AVX) != STATE_AVX) return PEFT_CPU_GENERIC;

    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return PEFT_CPU_GENERIC;
    if ((b & bit_AVX2) == 0) return PEFT_CPU_GENERIC;
    const unsigned wide = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    if ((b & wide) != wide || (state & STATE_AVX512) != STATE_AVX512) return PEFT_CPU_AVX2;
    return PEFT_CPU_AVX512;
}
#else
uint32_t peft__cpu_detect(void) {
    return PEFT_CPU_GENERIC;
}
#endif

uint32_t peft__cpu_count(void) {
    /* 65536 bits: the call fails when the mask is smaller than the kernel's. */
    unsigned long mask[1024] = {0};
    const int saved_errno = errno;
    uint32_t count = 0;
    if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)(void *)mask) == 0) {
        for (size_t i = 0; i < PEFT_COUNT(mask); i++) count += (uint32_t)__builtin_popcountl(mask[i]);
    }
    errno = saved_errno;
    return count == 0 ? 1 : count;
}
