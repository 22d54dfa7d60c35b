/* All kernels in float32; a file that includes this names a processor. */
#include "vectors.h"

#undef PRECISION
#define PRECISION float32
#undef INPUTS
#define INPUTS 1
#undef HEAD
#define HEAD 0
#undef SUM
#define SUM vec
#undef RUN
#define RUN 64
#undef MULTIPLY_ADD
#define MULTIPLY_ADD(sum, x, w) ((sum) + (vec)(x) * (vec)(w))

INLINE vec NAME(floats)(const word *sums, const word *head, const struct scale *scale) {
    (void)head, (void)scale;
    return (vec)load_bits(sums);
}

#include "product.h"
#include "rows.h"
#include "attention.h"
#include "convolution.h"
