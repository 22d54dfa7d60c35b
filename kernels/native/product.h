/* The product of rows with a packed weight, and what is done to its sums while they are in the first cache.

   A file that includes this names a precision and says, of words as common.h draws them:
     INPUTS        how many inputs a word holds
     STEP, HEAD    what a panel's rows are a multiple of, and how many stand before those of inputs
     SUM           a vector of sums, vec or ints
     MULTIPLY_ADD  sum, word of a row, words of a weight -> sum
     RUN           words after which a sum goes on from 0 and into the sum of runs, which keeps errors of rounding small
     narrow, floats   (where INPUTS > 1) a row of floats -> words; sums -> floats
   and of the processor how many rows fit its registers (ROWS).

   Panel by panel: a panel of the weight goes from memory to the second cache once and meets many rows, ROWS of them at
   a time, while the next panel comes to that cache, some of it at each step. A sum runs over the inputs in order, so a
   row's result has the same bits whatever rows are beside it. */
#include "vectors.h"

#ifdef DOT
#include "tile_amx.h"
#else
/* Sums [rows, PANEL] of `rows` rows of words and one panel. All loops over rows are unrolled, so that compilers keep
   the sums in registers: Clang leaves those of more than 10 rows in memory otherwise. Each step has `pace` words from
   `next` on brought to the second cache: a line of the cache, or the two of a row of the panel. */
INLINE void NAME(tile)(const int rows, const word *a, count stride, const word *panel, count depth, word *out,
                       count out_stride, const word *next, count pace) {
    for (int column = 0; column < PANEL; column += 2 * LANES)
        for (count begin = 0; begin < depth; begin += RUN) {
            const word *row[ROWS], *step = panel + begin * PANEL + column;
            SUM sum[ROWS][2];
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                row[r] = a + r * stride + begin;
                sum[r][0] = sum[r][1] = (SUM){0};
            }
            for (count k = 0, n = smaller(RUN, depth - begin); k < n; k++, step += PANEL) {
                bits left = load_bits(step), right = load_bits(step + LANES);
                __builtin_prefetch(next, 0, 2);
                if (pace == PANEL) __builtin_prefetch(next + PANEL / 2, 0, 2);
                next += pace;
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    bits x = (bits){0} + row[r][k];
                    sum[r][0] = MULTIPLY_ADD(sum[r][0], x, left);
                    sum[r][1] = MULTIPLY_ADD(sum[r][1], x, right);
                }
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                word *place = out + r * out_stride + column;
                store_bits(place, (bits)(begin ? (SUM)load_bits(place) + sum[r][0] : sum[r][0]));
                place += LANES;
                store_bits(place, (bits)(begin ? (SUM)load_bits(place) + sum[r][1] : sum[r][1]));
            }
        }
}
#endif

/* The same for a number of rows, at most ROWS, that isn't known to the compiler. */
static TARGET void NAME(sums)(count rows, const word *a, count stride, const word *panel, count depth, word *out,
                              count out_stride, const word *next, count pace) {
#ifdef DOT
    (void)next, (void)pace;
    NAME(tile)(rows, a, stride, panel, depth, out, out_stride);
#else
    switch (rows) {
#define CASE(height) case height: NAME(tile)(height, a, stride, panel, depth, out, out_stride, next, pace); break;
        TILES
#undef CASE
    }
#endif
}

/* Rows of words times a weight; the parameters are those of `product`. `scales` of the rows are int8's. */
INLINE void NAME(multiply)(const word *a, count stride, const struct scale *scales, count rows, count depth,
                           const word *panels, count outputs, const float *bias, const float *residual,
                           count residual_stride, float *out, count out_stride, enum activation activation) {
    word sums[ROWS * PANEL] __attribute__((aligned(64)));
#ifdef DOT
    _tile_loadconfig(NAME(tiles));
#endif
    /* A panel is gone through so often, and the next one comes in as many parts; what is read once comes just before. */
    const count turns = PANEL / (2 * LANES), times = turns * steps(rows, ROWS), pace = steps(PANEL, times);
    for (count first = 0; first < outputs; first += PANEL, panels += (HEAD + depth) * PANEL) {
        const word *panel = panels + HEAD * PANEL, *next = panel + (times > 1 ? depth : AHEAD) * PANEL;
        count n = smaller(PANEL, outputs - first);
        for (count row = 0, some; row < rows; row += some) {
            some = steps(rows - row, steps(rows - row, ROWS)); /* tiles of about equal heights */
            for (count r = row; r < row + some; r++)
                for (count i = first; i < first + n; i += LANES) {
                    if (residual) __builtin_prefetch(residual + r * residual_stride + i);
                    __builtin_prefetch(out + r * out_stride + i, 1);
                }
            NAME(sums)(some, a + row * stride, stride, panel, depth, sums, PANEL, next, pace);
            next += turns * depth * pace;
            for (count i = 0; i < n; i += LANES) {
                count column = first + i, left = n - i;
                vec added = bias ? load_some(bias + column, left) : (vec){0};
                for (count r = 0; r < some; r++) {
                    vec y = NAME(floats)(sums + r * PANEL + i, panels + i, scales ? scales + row + r : NULL);
                    if (bias) y += added;
                    if (residual) y += load_some(residual + (row + r) * residual_stride + column, left);
                    store_some(out + (row + r) * out_stride + column, activate(y, activation), left);
                }
            }
        }
    }
#ifdef DOT
    _tile_release();
#endif
}

/* a [rows, depth] times `outputs` outputs, from the first panel on -> out [rows, outputs]. Strides are in floats.
   bias [outputs] and residual [rows, outputs] may be NULL. */
EXPORT int NAME(product)(const float *a, count stride, count rows, count depth, const word *panels, count outputs,
                         const float *bias, const float *residual, count residual_stride, float *out,
                         count out_stride, enum activation activation) {
#if INPUTS == 1
    NAME(multiply)((const word *)a, stride, NULL, rows, depth, panels, outputs, bias, residual, residual_stride, out,
                   out_stride, activation);
#else
    /* As many rows at a time as have room in the second cache beside a panel. */
    count words = steps(steps(depth, INPUTS), STEP) * STEP;
    count most = smaller(rows, ROWS * steps(NARROWED, ROWS * words)), room = steps(most, ROWS) * ROWS;
    word *narrowed = NULL;
    if (posix_memalign((void **)&narrowed, 64, room * (words * sizeof(word) + sizeof(struct scale)))) return -1;
    struct scale *scales = (struct scale *)(narrowed + room * words);
    for (count row = 0, some; row < rows; row += some) {
        some = steps(rows - row, steps(rows - row, most));
        for (count r = 0; r < some; r++)
            scales[r] = NAME(narrow)(a + (row + r) * stride, depth, narrowed + r * words, words);
        NAME(multiply)(narrowed, words, scales, some, words, panels, outputs, bias,
                       residual ? residual + row * residual_stride : NULL, residual_stride, out + row * out_stride,
                       out_stride, activation);
    }
    free(narrowed);
#endif
    return 0;
}

/* The parameters of a product whose panels, each so many words long, are shared out. */
struct NAME(factors) {
    const float *a;
    count stride, rows, depth;
    const word *panels;
    count panel, outputs;
    const float *bias, *residual;
    count residual_stride;
    float *out;
    count out_stride;
    enum activation activation;
};

EXPORT int NAME(product_part)(const void *job, count begin, count end) {
    const struct NAME(factors) *f = job;
    count first = begin * PANEL, last = smaller(end * PANEL, f->outputs);
    return NAME(product)(f->a, f->stride, f->rows, f->depth, f->panels + begin * f->panel, last - first,
                         f->bias ? f->bias + first : NULL, f->residual ? f->residual + first : NULL,
                         f->residual_stride, f->out + first, f->out_stride, f->activation);
}
