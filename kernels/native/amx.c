/* x86-64 with AMX: Intel's servers from Sapphire Rapids on. Not run on one yet; tests run it with tiles in plain C. */
#if defined(__x86_64__) && defined(__linux__) && (__has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>))
#include <immintrin.h>
#define PROCESSOR amx
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-bf16,amx-int8")))
#define LANES 16
#define ROWS 32
#define DOT _tile_dpbf16ps
#include "bfloat16.h"
#undef DOT
#define DOT _tile_dpbusd
#include "int8.h"
#endif
