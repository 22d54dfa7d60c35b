/* Weighted sums of 8-bit pixels, one axis of a resize at a time: what `_resize_rows` of clipref/bicubic.py states.

   Sums are whole numbers of 32 bits, so their order is free and every processor has the same bits. Only x86-64 with
   AVX2 is served: elsewhere Pillow resizes. Nothing is allocated, and nobody but `pixels.py` calls this. */
#include <stdint.h>
#include <string.h>

typedef int64_t count;
enum { CHANNELS = 4, BITS = 22 }; /* bytes of a pixel, fractional bits of a weight */

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

int runs(void) { return __builtin_cpu_supports("avx2") != 0; }

/* Rows [rows, width, 4] -> [rows, columns, 4]. Column x is the sum of `taps` pixels from first[x] on, each channel
   times weights [columns, taps, 4], in which a weight stands four times. `taps` is even; beyond the last row as many pixels can be read. */
AVX2 void across(const uint8_t *in, count rows, count width, const int32_t *first, const int32_t *weights, count taps,
                 count columns, uint8_t *out) {
    const __m128i half = _mm_set1_epi32(1 << (BITS - 1));
    for (count y = 0; y < rows; y++, in += width * CHANNELS)
        for (count x = 0; x < columns; x++, out += CHANNELS) {
            const uint8_t *pixel = in + (count)first[x] * CHANNELS;
            const int32_t *weight = weights + x * taps * CHANNELS;
            __m256i two = _mm256_setzero_si256(); /* sums of even taps, and of odd ones */
            for (count i = 0; i < taps * CHANNELS; i += 2 * CHANNELS) {
                __m256i value = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pixel + i)));
                two = _mm256_add_epi32(two, _mm256_mullo_epi32(value, _mm256_loadu_si256((const __m256i *)(weight + i))));
            }
            __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
            sum = _mm_srai_epi32(_mm_add_epi32(sum, half), BITS);
            sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum); /* to 0..255 */
            int32_t four = _mm_cvtsi128_si32(sum);
            memcpy(out, &four, CHANNELS);
        }
}

/* Rows [height, size] -> [rows, size]. Row y is the sum of `taps` rows from first[y] on, times weights [rows, taps].
   `size` is in bytes, a multiple of BLOCK; beyond the last row as many rows can be read. */
enum { LANES = 8, BLOCK = 4 * LANES };
AVX2 void down(const uint8_t *in, count size, const int32_t *first, const int32_t *weights, count taps, count rows,
               uint8_t *out) {
    for (count y = 0; y < rows; y++, weights += taps)
        for (count x = 0; x < size; x += BLOCK) {
            const uint8_t *pixel = in + first[y] * size + x;
            __m256i sums[4];
            for (int i = 0; i < 4; i++) sums[i] = _mm256_set1_epi32(1 << (BITS - 1));
            for (count t = 0; t < taps; t++, pixel += size)
                for (int i = 0; i < 4; i++) {
                    __m256i value = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pixel + i * LANES)));
                    sums[i] = _mm256_add_epi32(sums[i], _mm256_mullo_epi32(value, _mm256_set1_epi32(weights[t])));
                }
            for (int i = 0; i < 4; i++, out += LANES) {
                __m256i sum = _mm256_srai_epi32(sums[i], BITS);
                __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
                _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
            }
        }
}
#else
int runs(void) { return 0; }
#endif
