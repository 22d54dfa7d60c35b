/* x86-64 with AVX2 and FMA: tiles of 6 x 16 sums in 12 of 16 registers. */
#if defined(__x86_64__)
#define PROCESSOR avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 6
#define TILES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#include "float32.h"
#include "bfloat16.h"
#include "int8.h"
#endif
