/* x86-64 with AVX-512: tiles of 12 x 32 sums in 24 of 32 registers. */
#if defined(__x86_64__)
#define PROCESSOR avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define LANES 16
#define ROWS 12
#define TILES                                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#include "float32.h"
#include "bfloat16.h"
#include "int8.h"
#endif
