/* Attention of one head at a time, all of it in cache: two products and a softmax between them.

   Keys are packed as a weight [K, D], values as one of [D, K]; a few queries at a time have their scores [Q, K].

       queries [Q, D]  x  keys [D, K]  ->  scores [Q, K]          e to the power of each, less the greatest of its row
                                           scores  x  values [K, D]  ->  sums [Q, D], divided by the sum of the scores

   So a row is divided once for each of its channels, not once for each key. */
#include "vectors.h"

enum { QUERIES = 32 }; /* at a time, a multiple of LANES */

/* x [rows, channels] as a weight of `rows` outputs: its panels, as common.h draws them, a square at a time. */
INLINE void pack_keys(const float *x, count stride, count rows, count channels, float *panels) {
    for (count first = 0; first < rows; first += PANEL, panels += PANEL * channels)
        for (count r = 0; r < PANEL; r += LANES)
            for (count c = 0; c < channels; c += LANES) {
                vec square[LANES] = {{0}};
                const float *corner = x + (first + r) * stride + c;
                for (count i = 0, n = smaller(LANES, rows - first - r); i < n; i++)
                    square[i] = load_some(corner + i * stride, channels - c);
                transpose(square);
                for (count i = 0, n = smaller(LANES, channels - c); i < n; i++)
                    store(panels + (c + i) * PANEL + r, square[i]);
            }
}

/* x [rows, channels] as a weight of `channels` outputs. */
INLINE void pack_values(const float *x, count stride, count rows, count channels, float *panels) {
    for (count first = 0; first < channels; first += PANEL)
        for (count r = 0; r < rows; r++, panels += PANEL) {
            const float *some = x + r * stride + first;
            count n = channels - first;
            for (count c = 0; c < PANEL; c += LANES)
                store(panels + c, c < n ? load_some(some + c, n - c) : (vec){0});
        }
}

/* Which of LANES keys a query may see, by bytes that are 0 or 1, of the first n; the rest aren't there. */
INLINE ints seen(const uint8_t *visible, count n) {
    typedef uint8_t bytes __attribute__((vector_size(LANES)));
    bytes some = {0};
    if (n >= LANES) memcpy(&some, visible, LANES);
    else memcpy(&some, visible, n);
    return -__builtin_convertvector(some, ints);
}

/* Scores of up to LANES queries -> e to the power of each less the greatest of its row, in place, 0 where a key can't be
   seen; and 1 divided by a row's sum, to `parts` [LANES]. Rows of scores go on to a multiple of PANEL. */
INLINE void exponentials(float *scores, count padded, count queries, count keys, float scale, const uint8_t *visible,
                         count visible_row, float *parts) {
    static const uint8_t all[LANES] = {[0 ... LANES - 1] = 1};
    const ints there = seen(all, keys - (keys - 1) / LANES * LANES); /* of the last LANES */
    vec most[LANES] = {{0}}, sums[LANES] = {{0}};
    for (count r = 0; r < queries; r++) {
        float *row = scores + r * padded;
        vec greatest = splat(-INFINITY);
        for (count i = 0; i < keys; i += LANES) {
            vec s = load(row + i);
            if (visible || keys - i < LANES) {
                s = choose(visible ? seen(visible + r * visible_row + i, keys - i) : there, s, splat(-INFINITY));
                store(row + i, s);
            }
            greatest = choose(s > greatest, s, greatest);
        }
        most[r] = greatest;
    }
    vec tops = greatest_of_each(most);
    for (count r = 0; r < queries; r++) {
        float *row = scores + r * padded;
        vec sum = {0};
        for (count i = 0; i < keys; i += LANES) {
            vec e = exponential((load(row + i) - tops[r]) * scale);
            sum += e;
            store(row + i, e);
        }
        sums[r] = sum;
    }
    store(parts, 1.0f / totals(sums));
}

/* Sums [rows, columns] of rows of floats and a packed weight, some rows at a time; both have whole panels of columns. */
INLINE void NAME(sums_of_rows)(const float *a, count stride, count rows, count depth, const float *panels,
                               count columns, float *out) {
    for (count first = 0; first < columns; first += PANEL, panels += PANEL * depth)
        for (count row = 0, some; row < rows; row += some) {
            some = steps(rows - row, steps(rows - row, ROWS));
            NAME(sums)(some, (const word *)a + row * stride, stride, (const word *)panels, depth,
                       (word *)out + row * columns + first, columns, (const word *)panels, 0);
        }
}

/* A matrix for each item and head: where the first is, and how far apart items, heads and rows are. */
struct heads {
    const float *first;
    count item, head, row;
};

/* q [N, H, Q, D], k and v [N, H, K, D] -> out [N, Q, H, D]. visible [N, Q, K], bytes that are 0 or 1, may be NULL; its
   strides are those of items and queries. */
struct NAME(queries) {
    struct heads q, k, v;
    const uint8_t *visible;
    count visible_item, visible_row, items, heads, queries, keys, channels;
    float *out;
};

/* Attention of the heads from `begin` up to `end`. */
EXPORT int NAME(attention_part)(const void *job, count begin, count end) {
    const struct NAME(queries) *all = job;
    const struct heads *q = &all->q, *k = &all->k, *v = &all->v;
    count queries = all->queries, keys = all->keys, channels = all->channels;
    count padded = steps(keys, PANEL) * PANEL, columns = steps(channels, PANEL) * PANEL;
    float *room = NULL;
    count size = padded * channels + columns * keys + QUERIES * (padded + columns);
    if (posix_memalign((void **)&room, 64, size * sizeof(float))) return -1;
    float *values = room + padded * channels, *scores = values + columns * keys, *sums = scores + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)channels), parts[QUERIES];
    for (count item = 0; item < all->items; item++)
        for (count head = begin; head < end; head++) {
            pack_keys(k->first + item * k->item + head * k->head, k->row, keys, channels, room);
            pack_values(v->first + item * v->item + head * v->head, v->row, keys, channels, values);
            const float *query = q->first + item * q->item + head * q->head;
            for (count i = 0; i < queries; i += QUERIES) {
                count n = smaller(QUERIES, queries - i);
                NAME(sums_of_rows)(query + i * q->row, q->row, n, channels, room, padded, scores);
                const uint8_t *visible = all->visible;
                if (visible) visible += item * all->visible_item + i * all->visible_row;
                for (count r = 0; r < n; r += LANES)
                    exponentials(scores + r * padded, padded, smaller(LANES, n - r), keys, scale,
                                 visible ? visible + r * all->visible_row : NULL, all->visible_row, parts + r);
                NAME(sums_of_rows)(scores, padded, n, keys, values, columns, sums);
                for (count r = 0; r < n; r++) {
                    float *to = all->out + ((item * queries + i + r) * all->heads + head) * channels;
                    for (count c = 0; c < channels; c += LANES)
                        store_some(to + c, load(sums + r * columns + c) * parts[r], channels - c);
                }
            }
        }
    free(room);
    return 0;
}
