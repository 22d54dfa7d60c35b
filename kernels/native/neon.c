/* ARM of 64 bits, all of which have NEON with FMA: tiles of 12 x 8 sums in 24 of 32 registers. */
#if defined(__aarch64__)
#define PROCESSOR neon
#define TARGET
#define LANES 4
#define ROWS 12
#define TILES                                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#include "float32.h"
#include "bfloat16.h"
#include "int8.h"
#endif
