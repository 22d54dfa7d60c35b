/* ARM with products of bfloat16, `bfdot`: FEAT_BF16, such as Neoverse V1 and N2, and Apple M2. */
#include "arm.h"
#if defined(FUNCTIONS_HAVE_TARGETS)
#include <arm_neon.h>
#define PROCESSOR neonbf16
#define TARGET __attribute__((target("arch=armv8.2-a+bf16")))
#define LANES 4
#define ROWS 12
#define TILES                                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#define PAIRS(sum, x, w) ((vec)vbfdotq_f32((float32x4_t)(sum), (bfloat16x8_t)(x), (bfloat16x8_t)(w)))
#include "bfloat16.h"
#endif
