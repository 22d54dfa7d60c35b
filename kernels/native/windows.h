/* The windows of a convolution, each a row of a matrix. */
#pragma once

#include "common.h"

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
