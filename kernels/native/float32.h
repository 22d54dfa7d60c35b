/* All kernels in float32; a file that includes this names a processor. */
#include "vectors.h"

#define NAME(function) JOIN(function, PROCESSOR)
#define WORD float
#define SUM vec
#define SUM_WORD float
#define LOAD(p) load(p)
#define STORE(p, sum) store(p, sum)
#define SPLAT(x) splat(x)
#define MULTIPLY_ADD(sum, x, y) ((sum) + (x) * (y))
#define FLOATS(sums, row, column) (sums)

#include "product.h"
#include "rows.h"
#include "attention.h"
#include "convolution.h"
