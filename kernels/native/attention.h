/* Attention of one head at a time, all of it in cache: two products and a softmax between them.

   Keys are packed as a weight [K, D], values as one of [D, K]; a few queries at a time have their scores [Q, K]. */
#include "vectors.h"

enum { QUERIES = 32 }; /* at a time */

/* x [rows, channels] as a weight of `rows` outputs: its panels, as common.h draws them. */
INLINE void pack_keys(const float *x, count stride, count rows, count channels, float *panels) {
    for (count first = 0; first < rows; first += PANEL, panels += PANEL * channels) {
        count n = smaller(PANEL, rows - first);
        for (count c = 0; c < channels; c++)
            for (count r = n; r < PANEL; r++) panels[c * PANEL + r] = 0;
        for (count r = 0; r < n; r++)
            for (count c = 0; c < channels; c++) panels[c * PANEL + r] = x[(first + r) * stride + c];
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

/* Scores [padded] of `keys` keys -> weights of sum 1, in place. Those of keys that can't be seen, or aren't there, are
   0. `padded` is a multiple of PANEL. */
INLINE void softmax(float *scores, count keys, count padded, float scale, const uint8_t *visible) {
    if (visible)
        for (count i = 0; i < keys; i++)
            if (!visible[i]) scores[i] = -INFINITY;
    for (count i = keys; i < padded; i++) scores[i] = -INFINITY;
    vec most = splat(-INFINITY), sum = {0};
    for (count i = 0; i < padded; i += LANES) {
        vec s = load(scores + i);
        most = choose(s > most, s, most);
    }
    vec top = splat(greatest(most));
    for (count i = 0; i < padded; i += LANES) {
        vec e = exponential((load(scores + i) - top) * scale);
        sum += e;
        store(scores + i, e);
    }
    float part = 1.0f / total(sum);
    for (count i = 0; i < padded; i += LANES) store(scores + i, load(scores + i) * part);
}

/* A matrix for each item and head: where the first is, and how far apart items, heads and rows are. */
struct heads {
    const float *first;
    count item, head, row;
};

/* q [N, H, Q, D], k and v [N, H, K, D] -> out [N, Q, H, D] of the heads from `begin` up to `end`; `all` are H.
   visible [N, Q, K], bytes that are 0 or 1, may be NULL; its strides are those of items and queries. */
EXPORT int NAME(attention)(const struct heads *q, const struct heads *k, const struct heads *v, const uint8_t *visible,
                           count visible_item, count visible_row, count items, count begin, count end, count all,
                           count queries, count keys, count channels, float *out) {
    count padded = steps(keys, PANEL) * PANEL;
    count key_panels = padded * channels, value_panels = steps(channels, PANEL) * PANEL * keys;
    float *room = NULL;
    if (posix_memalign((void **)&room, 64, (key_panels + value_panels + QUERIES * padded) * sizeof(float))) return -1;
    float *values = room + key_panels, *scores = values + value_panels;
    float scale = 1.0f / sqrtf((float)channels);
    for (count item = 0; item < items; item++)
        for (count head = begin; head < end; head++) {
            pack_keys(k->first + item * k->item + head * k->head, k->row, keys, channels, room);
            pack_values(v->first + item * v->item + head * v->head, v->row, keys, channels, values);
            const float *query = q->first + item * q->item + head * q->head;
            for (count i = 0; i < queries; i += QUERIES) {
                count n = smaller(QUERIES, queries - i);
                NAME(product)(query + i * q->row, q->row, n, channels, (word *)room, padded, NULL, NULL, 0, scores,
                              padded, NONE);
                for (count r = 0; r < n; r++)
                    softmax(scores + r * padded, keys, padded, scale,
                            visible ? visible + item * visible_item + (i + r) * visible_row : NULL);
                NAME(product)(scores, padded, n, keys, (word *)values, channels, NULL, NULL, 0,
                              out + ((item * queries + i) * all + head) * channels, all * channels, NONE);
            }
        }
    free(room);
    return 0;
}
