/* ARM with products of bytes, `sdot`: ARMv8.2 with FEAT_DotProd, such as Neoverse N1 and Apple M1. */
#include "arm.h"
#if defined(FUNCTIONS_HAVE_TARGETS)
#include <arm_neon.h>
#define PROCESSOR neondotprod
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define LANES 4
#define ROWS 12
#define TILES                                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#define OFFSET 128
#define QUADRUPLES(sum, x, w) ((ints)vdotq_s32((int32x4_t)(sum), (int8x16_t)(x), (int8x16_t)(w)))
#include "int8.h"
#endif
