/* What is done row by row: LayerNorm, activations by themselves, averages of squares. */
#include "vectors.h"

/* The parameters of a LayerNorm over each row, with the biased variance and eps 1e-5: x [rows, width] -> out. */
struct NAME(norm) {
    const float *x;
    count stride, width;
    const float *weight, *bias;
    float *out;
};

/* LayerNorm of the rows from `begin` up to `end`. */
EXPORT int NAME(layer_norm_part)(const void *job, count begin, count end) {
    const struct NAME(norm) *all = job;
    count width = all->width;
    for (count row = begin; row < end; row++) {
        const float *x = all->x + row * all->stride, *weight = all->weight, *bias = all->bias;
        float *out = all->out + row * width;
        vec sum = {0}, squares = {0};
        for (count i = 0; i < width; i += LANES) sum += load_some(x + i, width - i);
        float mean = total(sum) / width;
        for (count i = 0; i < width; i += LANES) {
            vec centred = load_some(x + i, width - i) - mean;
            if (width - i < LANES) centred = keep_some(centred, width - i);
            squares += centred * centred;
        }
        float scale = 1.0f / sqrtf(total(squares) / width + 1e-5f);
        for (count i = 0; i < width; i += LANES) {
            count n = width - i;
            vec y = (load_some(x + i, n) - mean) * scale * load_some(weight + i, n) + load_some(bias + i, n);
            store_some(out + i, y, n);
        }
    }
    return 0;
}

EXPORT void NAME(activate)(const float *x, count n, float *out, enum activation activation) {
    for (count i = 0; i < n; i += LANES) store_some(out + i, activate(load_some(x + i, n - i), activation), n - i);
}

/* Means of squares of `size` pixels: x [height, width, channels] -> out [height / size, width / size, channels]. */
EXPORT void NAME(avg_pool)(const float *x, count height, count width, count channels, count size, float *out) {
    float part = 1.0f / (size * size);
    for (count row = 0; row < height / size; row++)
        for (count column = 0; column < width / size; column++, out += channels) {
            const float *corner = x + (row * size * width + column * size) * channels;
            for (count c = 0; c < channels; c += LANES) {
                vec sum = {0};
                for (count i = 0; i < size; i++)
                    for (count j = 0; j < size; j++)
                        sum += load_some(corner + (i * width + j) * channels + c, channels - c);
                store_some(out + c, sum * part, channels - c);
            }
        }
}
