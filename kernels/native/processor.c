/* Which kernels this processor, and the system that runs it, can execute. */
#define TARGET
#include "common.h"

EXPORT int runs(const char *processor) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("fma");
    if (!strcmp(processor, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(processor, "avx512")) return avx512;
    if (!strcmp(processor, "avx512vnni")) return avx512 && __builtin_cpu_supports("avx512vnni");
#if __has_include(<avx512bf16intrin.h>)
    if (!strcmp(processor, "avx512bf16")) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
#endif
    return !strcmp(processor, "plain");
}
