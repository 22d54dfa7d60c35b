/* What all kernels share: sizes, the layout of packed weights, and words for compilers.

   Nothing here knows Python. Kernels are single-threaded, keep no state and call nothing but memcpy and, where they
   need room, malloc; such ones return 0, or -1 where there is none. Pointers need no alignment beyond their type's. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef ptrdiff_t count;

/* Packed weights. A weight [O, I] lies in panels of 32 outputs; a panel is a row of 32 words for each step along the
   inputs, and a word is 32 bits: one float32, two bfloat16 or four int8 of consecutive inputs of one output.

       panel 0                                              panel 1
       int8 alone: size of a step  o0  o1  o2 ... o31       o32 o33 ... o63
                   sum of steps    o0  o1  o2 ... o31       o32 o33 ... o63
       input 0 (0, 1; 0 to 3):     o0  o1  o2 ... o31       o32 o33 ... o63
       input 1 (2, 3; 4 to 7):     o0  o1  o2 ... o31       o32 o33 ... o63
       ...

   What isn't there, outputs above O and inputs above I, is 0; words of two or four go on to a multiple of 16 rows. So
   a product reads a panel from its first byte to its last, whatever the processor: a row is two vectors of AVX-512,
   four of AVX2, eight of SSE2 and NEON, and 16 rows are two tiles of AMX, whose pairs and quadruples of inputs these
   are. An int8 weight is a whole number of steps from -127 to 127, the size of which is a float32 of its output; the
   sum of an output's whole numbers is an int32. */
enum {
    PANEL = 32,
    STEP = 16,          /* rows that a panel of words of two or four has a multiple of */
    NARROWED = 3 << 15, /* words of rows at a time, 384 KB: with a panel they fit a second cache of 1 MB */
    AHEAD = 128,        /* rows of a panel, 16 KB, by which it is fetched before it is read, if it is read once */
    WHOLE = 1 << 30     /* more words than any sum has */
};

typedef uint32_t word __attribute__((may_alias));

/* Of a row in int8: the size of a step, and the number of steps that stands for 0. */
struct scale {
    float step;
    int32_t zero;
};

/* What a product does to its sums after bias and residual are added. */
enum activation { NONE, QUICK_GELU, GELU, RELU };

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(function) JOIN(function, PRECISION, PROCESSOR)
#define INLINE static inline __attribute__((always_inline)) TARGET
#define EXPORT __attribute__((visibility("default"))) TARGET

static inline count smaller(count a, count b) { return a < b ? a : b; }
static inline count steps(count length, count step) { return (length + step - 1) / step; }
