/* Any processor: vectors of 128 bits, which are SSE2 on x86-64 and NEON on ARM, and what the compiler makes of them
   elsewhere. */
#define PROCESSOR plain
#define TARGET
#define LANES 4
#define ROWS 4
#define TILES CASE(1) CASE(2) CASE(3) CASE(4)
#include "float32.h"
#include "bfloat16.h"
#include "int8.h"
