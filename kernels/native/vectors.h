/* Vectors of LANES floats of the processor that TARGET says, in the words of GCC's and Clang's vector extension, so
   that one text serves all processors. exp and Phi are polynomials, fitted for this file by least squares in float64 to
   a relative error of 3e-9 and 1.2e-7. NaN stays NaN. */
#pragma once

#include "common.h"

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t loose_bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const loose_vec *)p; }
INLINE void store(float *p, vec v) { *(loose_vec *)p = v; }
INLINE bits load_bits(const void *p) { return *(const loose_bits *)p; }
INLINE void store_bits(void *p, bits v) { *(loose_bits *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec choose(ints mask, vec yes, vec no) { return (vec)((mask & (ints)yes) | (~mask & (ints)no)); }

/* The first n of LANES numbers; the rest are 0, or stay what they are in memory. What is done with less than LANES is a
   function by itself, because a vector whose address is taken lies in memory wherever it is inlined. */
static TARGET __attribute__((noinline)) vec load_few(const float *p, count n) {
    vec v = {0};
    memcpy(&v, p, n * sizeof(float));
    return v;
}
static TARGET __attribute__((noinline)) void store_few(float *p, vec v, count n) { memcpy(p, &v, n * sizeof(float)); }
INLINE vec load_some(const float *p, count n) {
    if (n >= LANES) return load(p);
    return load_few(p, n);
}
INLINE void store_some(float *p, vec v, count n) {
    if (n >= LANES) store(p, v);
    else store_few(p, v, n);
}
INLINE vec keep_some(vec v, count n) {
    for (count i = n; i < LANES; i++) v[i] = 0;
    return v;
}

/* The lower half with the upper half laid onto it, again and again. */
#define HALVED(v, OF)                                                                                                  \
    float part[LANES];                                                                                                 \
    memcpy(part, &v, sizeof part);                                                                                     \
    for (int half = LANES / 2; half; half /= 2)                                                                        \
        for (int i = 0; i < half; i++) part[i] = OF(part[i], part[i + half]);                                          \
    return part[0]
#define SUM_OF(a, b) ((a) + (b))
#define GREATER_OF(a, b) ((b) > (a) || (b) != (b) ? (b) : (a))
INLINE float total(vec v) { HALVED(v, SUM_OF); }
INLINE float greatest(vec v) { HALVED(v, GREATER_OF); }

/* The lanes of two vectors in turn, a0 b0 a1 b1 ...: the LOWER half of all, and the UPPER. */
#if LANES == 4
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#elif LANES == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
#ifdef __clang__
#define IN_TURN_(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define IN_TURN_(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#define IN_TURN(a, b, half) IN_TURN_(a, b, half)

/* A square's rows -> its columns. To lay the lower half of the rows in turn with the upper moves the bits of an
   element's place, row and column one after the other, round by one; as many times as there are bits of a row, and rows
   are columns. */
INLINE void transpose(vec square[LANES]) {
#pragma GCC unroll 4
    for (int bit = 1; bit < LANES; bit *= 2) {
        vec turned[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            turned[2 * i] = IN_TURN(square[i], square[i + LANES / 2], LOWER);
            turned[2 * i + 1] = IN_TURN(square[i], square[i + LANES / 2], UPPER);
        }
        memcpy(square, turned, sizeof turned);
    }
}

/* The total of each row of a square, and the greatest in each, in the same way. */
#define ACROSS(rows, OF)                                                                                               \
    _Pragma("GCC unroll 4") for (int half = LANES / 2; half; half /= 2)                                                \
        _Pragma("GCC unroll 8") for (int i = 0; i < half; i++) {                                                       \
            vec lower = IN_TURN(rows[i], rows[i + half], LOWER), upper = IN_TURN(rows[i], rows[i + half], UPPER);      \
            rows[i] = OF(lower, upper);                                                                                \
        }                                                                                                              \
    return rows[0]
#define GREATER_LANES(a, b) choose(b > a, b, a)
INLINE vec totals(vec rows[LANES]) { ACROSS(rows, SUM_OF); }
INLINE vec greatest_of_each(vec rows[LANES]) { ACROSS(rows, GREATER_LANES); }

/* e to the x: 2 to a whole number, times a polynomial of what is left, at most half of log 2 on either side. Below
   -87.3 it is 0, and above 88 what it is there. */
INLINE vec exponential(vec x) {
    const float shift = 12582912.0f; /* 1.5 * 2**23: the sum's lowest bits are the whole number */
    vec bounded = choose(x > 88.0f, splat(88.0f), choose(x < -87.3f, splat(-87.3f), x));
    vec shifted = bounded * 1.44269504f + shift;
    vec whole = shifted - shift;
    vec rest = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec y = splat(1.39497829e-3f);
    y = y * rest + 8.37597082e-3f;
    y = y * rest + 4.16662000e-2f;
    y = y * rest + 1.66664053e-1f;
    y = y * rest + 5.00000011e-1f;
    y = y * rest + 1.00000004f;
    y = y * rest + 1.0f;
    bits power = ((bits)shifted + 127u) << 23;
    return (vec)(~(ints)(x < -87.3f) & (ints)(y * (vec)power));
}

/* x * Phi(x), the normal distribution being exp(-x*x/2) * Q(1 / (1 + 0.3 |x|)) on its left side. */
INLINE vec gelu(vec x) {
    vec size = (vec)((bits)x & 0x7fffffffu);
    vec t = 1.0f / (1.0f + 0.3f * size);
    vec q = splat(3.60923727e-2f);
    q = q * t - 1.58949039e-1f;
    q = q * t + 2.09373753e-1f;
    q = q * t - 5.64761759e-2f;
    q = q * t + 1.30046889e-1f;
    q = q * t + 9.94605947e-2f;
    q = q * t + 1.20827054e-1f;
    q = q * t + 1.19624491e-1f;
    vec left = q * t * exponential(-0.5f * size * size);
    return x * choose(x < 0.0f, left, 1.0f - left);
}

INLINE vec activate(vec x, enum activation activation) {
    if (activation == QUICK_GELU) return x / (1.0f + exponential(-1.702f * x));
    if (activation == GELU) return gelu(x);
    if (activation == RELU) return choose(x < 0.0f, splat(0.0f), x);
    return x;
}
