/* Products and convolutions in bfloat16: float32 in and out, rounded to nearest even on the way to the registers,
   products and sums in float32. A file that includes this names a processor, and PAIRS where that has an instruction:
   sum, word of a row, words of a weight -> sum with the two products of each word. The instructions of x86-64 and
   of ARM take numbers below 1.2e-38 for 0. */
#include "vectors.h"

#undef PRECISION
#define PRECISION bfloat16
#undef INPUTS
#define INPUTS 2
#undef HEAD
#define HEAD 0
#undef SUM
#define SUM vec
#undef RUN
#define RUN WHOLE
#undef MULTIPLY_ADD

#ifdef PAIRS
#define MULTIPLY_ADD PAIRS
#else
#define MULTIPLY_ADD pairs
/* A bfloat16 is the upper half of a float32. */
INLINE vec pairs(vec sum, bits x, bits w) {
    const uint32_t upper = 0xffff0000u;
    return sum + (vec)(x << 16) * (vec)(w << 16) + (vec)(x & upper) * (vec)(w & upper);
}
#endif

/* LANES floats -> bfloat16 in the lower halves, to nearest, ties to even. */
INLINE bits rounded(vec x) {
    bits whole = (bits)x, even = whole >> 16 & 1u, nan = (bits)(x != x);
    return (~nan & (whole + 0x7fffu + even) >> 16) | (nan & 0x7fc0u);
}

/* A row of floats -> words. */
INLINE struct scale NAME(narrow)(const float *x, count depth, word *out, count words) {
    typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
    uint16_t *half = (uint16_t *)out;
    count i = 0;
    for (; i < depth; i += LANES) {
        halves some = __builtin_convertvector(rounded(load_some(x + i, depth - i)), halves);
        memcpy(half + i, &some, sizeof some); /* there is room: words go on to a multiple of 16 */
    }
    if (i < 2 * words) memset(half + i, 0, (2 * words - i) * sizeof *half);
    return (struct scale){0};
}

INLINE vec NAME(floats)(const word *sums, const word *head, const struct scale *scale) {
    (void)head, (void)scale;
    return (vec)load_bits(sums);
}

#include "product.h"
#include "convolution.h"
