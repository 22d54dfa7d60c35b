/* Products and convolutions in int8: float32 in and out; sums of whole numbers, exact in 32 bits, in between.

   A row [I] is measured out anew: 255 steps from its least number (or 0) to its greatest (or 0), in which it is whole
   numbers from 0 to 255, `zero` of which stands for 0. A product is then

       sum of (x - zero) * w = sum of x * w - zero * sum of w

   steps of the row times steps of the output. A file that includes this names a processor, and QUADRUPLES where that
   has an instruction: sum, word of a row, words of a weight -> sum with the four products of each word; and OFFSET,
   128, where that takes a row's bytes for numbers from -128 to 127: they and `zero` are less by that then. */
#include "vectors.h"

#undef PRECISION
#define PRECISION int8
#undef INPUTS
#define INPUTS 4
#undef HEAD
#define HEAD 2
#undef SUM
#define SUM ints
#undef RUN
#define RUN WHOLE
#undef MULTIPLY_ADD

#ifndef OFFSET
#define OFFSET 0
#endif
#ifdef QUADRUPLES
#define MULTIPLY_ADD QUADRUPLES
#else
#define MULTIPLY_ADD quadruples
/* Bytes of x without a sign, those of w with one. */
INLINE ints quadruples(ints sum, bits x, bits w) {
    for (int shift = 0; shift < 32; shift += 8) sum += (ints)(x >> shift & 255u) * ((ints)(w << (24 - shift)) >> 24);
    return sum;
}
#endif

INLINE float least(vec v) { return -greatest(-v); }

/* A row of floats -> words. What is NaN or infinite makes the step NaN, and so all that comes of the row. */
INLINE struct scale NAME(narrow)(const float *x, count depth, word *out, count words) {
    typedef uint8_t bytes __attribute__((vector_size(LANES)));
    vec low[4] = {{0}}, high[4] = {{0}}, odd[4] = {{0}}; /* of every fourth vector, so that none waits for the last */
    for (count i = 0; i < depth; i += 4 * LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            count left = depth - i - j * LANES;
            vec some = left > 0 ? load_some(x + i + j * LANES, left) : (vec){0};
            low[j] = choose(some < low[j], some, low[j]);
            high[j] = choose(some > high[j], some, high[j]);
            odd[j] += some * 0.0f;
        }
    for (int j = 1; j < 4; j++) {
        low[0] = choose(low[j] < low[0], low[j], low[0]);
        high[0] = choose(high[j] > high[0], high[j], high[0]);
        odd[0] += odd[j];
    }
    float broken = total(odd[0]), from = least(low[0]), range = greatest(high[0]) - from;
    if (broken != 0) from = range = 0;
    float step = range > 1e-30f ? range * (1 / 255.0f) : 1.0f, inverse = 1.0f / step;
    const float shift = 12582912.0f; /* 1.5 * 2**23: a sum's lowest bits are the whole number */
    float zero = (splat(-from) * inverse + shift)[0];
    uint8_t *byte = (uint8_t *)out;
    count i = 0;
    for (; i < depth; i += LANES) {
        vec whole = load_some(x + i, depth - i) * inverse + zero;
        whole = choose(whole < shift + 255.0f, whole, splat(shift + 255.0f));
        bits from_0 = (bits)choose(whole > shift, whole, splat(shift));
        bytes some = __builtin_convertvector((from_0 - OFFSET) & 255u, bytes);
        memcpy(byte + i, &some, sizeof some); /* there is room: words go on to a multiple of 16 */
    }
    if (i < 4 * words) memset(byte + i, 0, 4 * words - i);
    return (struct scale){step + broken, (int32_t)(zero - shift) - OFFSET};
}

INLINE vec NAME(floats)(const word *sums, const word *head, const struct scale *scale) {
    ints whole = (ints)(load_bits(sums) - (uint32_t)scale->zero * load_bits(head + PANEL));
    return __builtin_convertvector(whole, vec) * ((vec)load_bits(head) * scale->step);
}

#include "product.h"
#include "convolution.h"
