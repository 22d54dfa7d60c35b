/* Which kernels this processor, and the system that runs it, can execute. */
#define TARGET
#include "common.h"

#if defined(__x86_64__) && defined(__linux__) && (__has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>))
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether there are tiles, of bfloat16 and int8. Linux wants a process to ask for their state (XTILEDATA, 18) first:
   https://docs.kernel.org/arch/x86/xstate.html */
static int amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25 };
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && edx & BF16 && edx & TILE && edx & INT8 &&
           !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}
#elif defined(__x86_64__)
static int amx(void) { return 0; }
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#include "arm.h"
#endif

EXPORT int runs(const char *processor) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("fma");
    if (!strcmp(processor, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(processor, "avx512")) return avx512;
    if (!strcmp(processor, "avx512vnni")) return avx512 && __builtin_cpu_supports("avx512vnni");
    if (!strcmp(processor, "amx")) return avx512 && amx();
#if __has_include(<avx512bf16intrin.h>)
    if (!strcmp(processor, "avx512bf16")) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
#elif defined(__aarch64__)
    if (!strcmp(processor, "neon")) return 1;
#if defined(__linux__) && defined(FUNCTIONS_HAVE_TARGETS)
    /* https://docs.kernel.org/arch/arm64/elf_hwcaps.html */
    enum { ASIMDDP = 1 << 20, BF16 = 1 << 14 };
    if (!strcmp(processor, "neondotprod")) return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
    if (!strcmp(processor, "neonbf16")) return (getauxval(AT_HWCAP2) & BF16) != 0;
#endif
#endif
    return !strcmp(processor, "plain");
}
