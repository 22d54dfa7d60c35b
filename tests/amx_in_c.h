/* The instructions of AMX that kernels/native uses, in plain C after Intel's "Architecture Instruction Set Extensions
   Programming Reference" (319433), so that what surrounds them runs where no processor has them. Included before all
   else (gcc -include). */
#if defined(__x86_64__)
#define _GNU_SOURCE /* for headers that come later */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig(config) amx_configure((const uint8_t *)(config))
#define _tile_release() (amx_configured = 0)
#define _tile_zero(tile) memset(amx_tile(tile), 0, 1024)
#define _tile_loadd(tile, from, stride) amx_load(tile, (const char *)(from), stride)
#define _tile_stored(tile, to, stride) amx_store(tile, (char *)(to), stride)
#define _tile_dpbf16ps(sum, a, b) amx_pairs(sum, a, b)
#define _tile_dpbusd(sum, a, b) amx_quadruples(sum, a, b)

static _Thread_local uint32_t amx_tiles[8][16][16]; /* row, word */
static _Thread_local int amx_configured;

/* The only configuration that there is here: eight tiles of 16 rows of 64 bytes. */
__attribute__((unused)) static void amx_configure(const uint8_t *config) {
    if (config[0] != 1) abort();
    for (int i = 1; i < 64; i++) {
        int expected = i >= 16 && i < 32 && i % 2 == 0 ? 64 : i >= 48 && i < 56 ? 16 : 0;
        if (config[i] != expected) abort();
    }
    amx_configured = 1;
}

__attribute__((unused)) static uint32_t *amx_tile(int tile) {
    if (!amx_configured) abort();
    return amx_tiles[tile][0];
}

__attribute__((unused)) static void amx_load(int tile, const char *from, ptrdiff_t stride) {
    for (int row = 0; row < 16; row++) memcpy(amx_tile(tile) + 16 * row, from + row * stride, 64);
}

__attribute__((unused)) static void amx_store(int tile, char *to, ptrdiff_t stride) {
    for (int row = 0; row < 16; row++) memcpy(to + row * stride, amx_tile(tile) + 16 * row, 64);
}

static float amx_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

__attribute__((unused)) static void amx_pairs(int sum, int a, int b) {
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 16; column++) {
                uint32_t x = amx_tiles[a][row][k], w = amx_tiles[b][k][column];
                uint32_t *out = amx_tile(sum) + 16 * row + column;
                float y = amx_float(*out);
                y += amx_float(x << 16) * amx_float(w << 16);
                y += amx_float(x & 0xffff0000u) * amx_float(w & 0xffff0000u);
                memcpy(out, &y, sizeof y);
            }
}

__attribute__((unused)) static void amx_quadruples(int sum, int a, int b) {
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 16; column++) {
                uint32_t x = amx_tiles[a][row][k], w = amx_tiles[b][k][column];
                for (int byte = 0; byte < 32; byte += 8)
                    amx_tile(sum)[16 * row + column] += (uint32_t)((int)(x >> byte & 255) * (int8_t)(w >> byte & 255));
            }
}
#endif
