/* Sums of up to 32 rows and one panel by AMX, whose registers are tiles of 16 rows of 16 words: four of sums, two of
   rows and two of a weight.

                    panel's columns 0 to 15: tile 6    16 to 31: tile 7
       rows 0 to 15: tile 4                   tile 0             tile 1
      rows 16 to 31: tile 5                   tile 2             tile 3

   DOT multiplies and adds tiles. Rows are read in sixteens: there is room behind the last. */

static const uint8_t NAME(tiles)[64] __attribute__((aligned(64))) = {
    [0] = 1, /* the palette; then bytes a row and rows of tiles 0 to 7 */
    [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64, [30] = 64,
    [48] = 16, [49] = 16, [50] = 16, [51] = 16, [52] = 16, [53] = 16, [54] = 16, [55] = 16,
};

INLINE void NAME(tile)(count rows, const word *a, count stride, const word *panel, count depth, word *out,
                       count out_stride) {
    const count across = PANEL * sizeof(word), down = stride * sizeof(word), below = out_stride * sizeof(word);
    __asm__ volatile("" ::: "memory"); /* compilers don't know that loads of tiles read memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (count k = 0; k < depth; k += 16, panel += 16 * PANEL) {
        _tile_loadd(6, panel, across);
        _tile_loadd(7, panel + 16, across);
        _tile_loadd(4, a + k, down);
        DOT(0, 4, 6);
        DOT(1, 4, 7);
        if (rows > 16) {
            _tile_loadd(5, a + 16 * stride + k, down);
            DOT(2, 5, 6);
            DOT(3, 5, 7);
        }
    }
    _tile_stored(0, out, below);
    _tile_stored(1, out + 16, below);
    _tile_stored(2, out + 16 * out_stride, below);
    _tile_stored(3, out + 16 * out_stride + 16, below);
}
