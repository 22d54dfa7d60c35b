/* The product of rows with a packed weight, and what is done to its sums while they are in the first cache.

   A file that includes this says what a word is (WORD; common.h has the layout), how a pair of words is multiplied and
   added (MULTIPLY_ADD, SPLAT, a SUM of LANES) and how many rows fit the registers (ROWS).

   Panel by panel: a panel of the weight goes from memory to the second cache once and meets all rows, ROWS of them at a
   time. A sum runs over the inputs in order, in one register for RUN words and then into the sum of runs, which keeps
   rounding errors of long sums small; so a row's result has the same bits whatever rows are beside it. */
#include "vectors.h"

enum { RUN = 64 };

/* Sums [rows, PANEL] of `rows` rows of words and one panel. */
INLINE void tile(const int rows, const WORD *a, count stride, const WORD *panel, count depth, SUM_WORD *out) {
    for (int column = 0; column < PANEL; column += 2 * LANES)
        for (count begin = 0; begin < depth; begin += RUN) {
            const WORD *row[ROWS], *step = panel + begin * PANEL + column;
            SUM sum[ROWS][2];
            for (int r = 0; r < rows; r++) {
                row[r] = a + r * stride + begin;
                sum[r][0] = sum[r][1] = (SUM){0};
            }
            for (count k = 0, n = smaller(RUN, depth - begin); k < n; k++, step += PANEL) {
                SUM left = LOAD(step), right = LOAD(step + LANES);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    SUM x = SPLAT(row[r][k]);
                    sum[r][0] = MULTIPLY_ADD(sum[r][0], x, left);
                    sum[r][1] = MULTIPLY_ADD(sum[r][1], x, right);
                }
            }
            for (int r = 0; r < rows; r++) {
                SUM_WORD *place = out + r * PANEL + column;
                STORE(place, begin ? LOAD(place) + sum[r][0] : sum[r][0]);
                STORE(place + LANES, begin ? LOAD(place + LANES) + sum[r][1] : sum[r][1]);
            }
        }
}

/* One row's sums of a panel -> outputs: bias, residual, activation. `n` of them are there. */
INLINE void finish(const float *sums, const float *bias, const float *residual, float *out, count n,
                   enum activation activation) {
    for (count i = 0; i < n; i += LANES) {
        vec y = load(sums + i);
        if (bias) y += load_some(bias + i, n - i);
        if (residual) y += load_some(residual + i, n - i);
        store_some(out + i, activate(y, activation), n - i);
    }
}

/* a [rows, depth] words times `outputs` outputs, from the first panel on -> out [rows, outputs]. Strides are in words.
   bias [outputs] and residual [rows, outputs] may be NULL. */
EXPORT void NAME(product)(const WORD *a, count stride, count rows, count depth, const WORD *panels, count outputs,
                          const float *bias, const float *residual, count residual_stride, float *out,
                          count out_stride, enum activation activation) {
    SUM_WORD sums[ROWS * PANEL] __attribute__((aligned(64)));
    for (count first = 0; first < outputs; first += PANEL, panels += depth * PANEL) {
        count n = smaller(PANEL, outputs - first);
        for (count row = 0, some; row < rows; row += some) {
            some = steps(rows - row, steps(rows - row, ROWS)); /* tiles of about equal heights */
            const WORD *top = a + row * stride;
            switch (some) {
#define CASE(height) case height: tile(height, top, stride, panels, depth, sums); break;
                TILES
#undef CASE
            }
            for (count r = 0; r < some; r++)
                finish(FLOATS(sums + r * PANEL, row + r, first), bias ? bias + first : NULL,
                       residual ? residual + (row + r) * residual_stride + first : NULL,
                       out + (row + r) * out_stride + first, n, activation);
        }
    }
}
