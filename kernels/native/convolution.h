/* A convolution as products: bands of rows of the result, whose windows lie as rows of one matrix in the second cache.

   Feature maps are channels-last, [height, width, channels], or have other strides (an image's planes). Weights are
   packed from [O, kernel, kernel, channels]. */
#include "vectors.h"

enum { BAND = 1 << 16 }; /* numbers of the windows at a time, 256 KB */

/* x: where the map is, how far apart rows, columns and channels are, and how many there are. */
struct map {
    const float *first;
    count row, column, channel, height, width, channels;
};

/* The windows of result row `row` [columns, kernel, kernel, channels]; 0 is around the map. */
static void windows(const struct map *x, count kernel, count stride, count padding, count row, count columns,
                    float *out) {
    for (count column = 0; column < columns; column++)
        for (count i = 0; i < kernel; i++)
            for (count j = 0; j < kernel; j++, out += x->channels) {
                count down = row * stride + i - padding, across = column * stride + j - padding;
                if (down < 0 || down >= x->height || across < 0 || across >= x->width)
                    memset(out, 0, x->channels * sizeof(float));
                else {
                    const float *pixel = x->first + down * x->row + across * x->column;
                    if (x->channel == 1) memcpy(out, pixel, x->channels * sizeof(float));
                    else for (count c = 0; c < x->channels; c++) out[c] = pixel[c * x->channel];
                }
            }
}

/* Rows from `begin` up to `end` of the result [rows, columns, outputs] of one map; the residual lies as the result. */
EXPORT int NAME(convolve)(const struct map *x, count kernel, count stride, count padding, count begin, count end,
                          count columns, const float *panels, count outputs, const float *bias, const float *residual,
                          float *out, enum activation activation) {
    count depth = kernel * kernel * x->channels;
    count band = BAND / (columns * depth) < 1 ? 1 : BAND / (columns * depth);
    float *room = NULL;
    if (posix_memalign((void **)&room, 64, band * columns * depth * sizeof(float))) return -1;
    for (count row = begin; row < end; row += band) {
        count rows = smaller(band, end - row), place = row * columns * outputs;
        for (count i = 0; i < rows; i++)
            windows(x, kernel, stride, padding, row + i, columns, room + i * columns * depth);
        NAME(product)(room, depth, rows * columns, depth, panels, outputs, bias,
                      residual ? residual + place : NULL, outputs, out + place, outputs, activation);
    }
    free(room);
    return 0;
}
