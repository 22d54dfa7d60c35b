/* A convolution as products: bands of rows of the result, whose windows lie as rows of one matrix in the second cache.

   Feature maps are channels-last, [height, width, channels], or have other strides (an image's planes). Weights are
   packed from [O, kernel, kernel, channels]. */
#include "windows.h"

/* Maps, `next` floats apart, and the results [items, rows, columns, outputs]; the residual lies as these. */
struct NAME(convolution) {
    struct map map;
    count next, items, kernel, stride, padding, rows, columns;
    const word *panels;
    count outputs;
    const float *bias, *residual;
    float *out;
    enum activation activation;
};

/* Rows from `begin` up to `end` of each result. */
EXPORT int NAME(convolve_part)(const void *job, count begin, count end) {
    const struct NAME(convolution) *all = job;
    struct map map = all->map, *x = &map;
    count columns = all->columns, outputs = all->outputs, kernel = all->kernel;
    count depth = kernel * kernel * x->channels;
    count band = BAND / (columns * depth) < 1 ? 1 : BAND / (columns * depth);
    float *room = NULL;
    if (posix_memalign((void **)&room, 64, band * columns * depth * sizeof(float))) return -1;
    int failed = 0;
    for (count item = 0; item < all->items; item++, map.first += all->next)
        for (count row = begin; row < end && !failed; row += band) {
            count rows = smaller(band, end - row), place = (item * all->rows + row) * columns * outputs;
            for (count i = 0; i < rows; i++)
                windows(x, kernel, all->stride, all->padding, row + i, columns, room + i * columns * depth);
            failed = NAME(product)(room, depth, rows * columns, depth, all->panels, outputs, all->bias,
                                   all->residual ? all->residual + place : NULL, outputs, all->out + place, outputs,
                                   all->activation);
        }
    free(room);
    return failed;
}
