/* Products by one function of the native library, where there is no Python: test_native_clang.py runs it in an emulator.

   `native_products NAME` reads cases from its standard input, each [rows, depth, outputs, words of a weight's panels]
   and then rows [rows, depth], panels, a bias and a residual [rows, outputs], and writes each case's result. It is built
   with PRODUCTS, a line of FUNCTION(name) for each function that it knows. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int product(const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const uint32_t *, ptrdiff_t, const float *,
                    const float *, ptrdiff_t, float *, ptrdiff_t, int);
int runs(const char *processor);

#define FUNCTION(name) product name;
PRODUCTS
#undef FUNCTION
#define FUNCTION(name) {#name, name},
static const struct {
    const char *name;
    product *function;
} PRODUCT[] = {PRODUCTS};

static void *read_words(int64_t n) {
    void *words = malloc(n * 4);
    if (!words || fread(words, 4, n, stdin) != (size_t)n) exit(2);
    return words;
}

int main(int count, char **arguments) {
    product *function = NULL;
    for (size_t i = 0; count == 2 && i < sizeof PRODUCT / sizeof *PRODUCT; i++)
        if (!strcmp(PRODUCT[i].name, arguments[1])) function = PRODUCT[i].function;
    if (!function || !runs(strrchr(arguments[1], '_') + 1)) return 3;
    for (int64_t size[4]; fread(size, sizeof size, 1, stdin);) {
        int64_t rows = size[0], depth = size[1], outputs = size[2];
        float *x = read_words(rows * depth), *bias, *residual, *out = malloc(rows * outputs * 4);
        uint32_t *panels = read_words(size[3]);
        bias = read_words(outputs);
        residual = read_words(rows * outputs);
        if (!out || function(x, depth, rows, depth, panels, outputs, bias, residual, outputs, out, outputs, 0)) return 4;
        if (fwrite(out, 4, rows * outputs, stdout) != (size_t)(rows * outputs)) return 5;
        free(x), free(panels), free(bias), free(residual), free(out);
    }
    return 0;
}
