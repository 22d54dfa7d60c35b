/* A convolution as products: bands of rows of the result, whose windows lie as rows of one matrix in the second cache.

   Feature maps are channels-last, [height, width, channels], or have other strides (an image's planes). Weights are
   packed from [O, kernel, kernel, channels]. */
#include "windows.h"

/* Rows from `begin` up to `end` of the result [rows, columns, outputs] of one map; the residual lies as the result. */
EXPORT int NAME(convolve)(const struct map *x, count kernel, count stride, count padding, count begin, count end,
                          count columns, const word *panels, count outputs, const float *bias, const float *residual,
                          float *out, enum activation activation) {
    count depth = kernel * kernel * x->channels;
    count band = BAND / (columns * depth) < 1 ? 1 : BAND / (columns * depth);
    float *room = NULL;
    if (posix_memalign((void **)&room, 64, band * columns * depth * sizeof(float))) return -1;
    int failed = 0;
    for (count row = begin; row < end && !failed; row += band) {
        count rows = smaller(band, end - row), place = row * columns * outputs;
        for (count i = 0; i < rows; i++)
            windows(x, kernel, stride, padding, row + i, columns, room + i * columns * depth);
        failed = NAME(product)(room, depth, rows * columns, depth, panels, outputs, bias,
                               residual ? residual + place : NULL, outputs, out + place, outputs, activation);
    }
    free(room);
    return failed;
}
