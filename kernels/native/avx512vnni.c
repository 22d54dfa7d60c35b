/* x86-64 with AVX-512 and its products of bytes (VNNI): Intel from Cascade Lake on, AMD from Zen 4 on. */
#if defined(__x86_64__)
#include <immintrin.h>
#define PROCESSOR avx512vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512vnni")))
#define LANES 16
#define ROWS 12
#define TILES                                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#define QUADRUPLES(sum, x, w) ((ints)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(w)))
#include "int8.h"
#endif
