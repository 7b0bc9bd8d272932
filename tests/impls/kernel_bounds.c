/* Calls a kernel with arrays of exactly the size it may touch, for an address sanitizer to watch. */
#include <stdlib.h>

#include "kernel.h"

int main(void) {
    for (size_t cols = 1; cols <= 130; cols++) {
        for (size_t rows = 1; rows <= 6; rows++) {
            float *out = calloc(rows, sizeof *out), *weights = calloc(rows * cols, sizeof *weights);
            float *x = calloc(cols, sizeof *x);
            matmul(out, weights, x, rows, cols);
            int8_t *codes = calloc(rows * cols, 1), *x_codes = calloc(cols, 1);
            for (size_t group = 1; group <= cols; group = group < 8 ? group + 1 : group * 2) {
                float *scales = calloc(rows * cols / group, sizeof *scales);
                float *x_scales = calloc(cols / group, sizeof *x_scales);
                matmul_q8(out, codes, scales, x_codes, x_scales, rows, cols, group);
                free(scales);
                free(x_scales);
            }
            free(out);
            free(weights);
            free(x);
            free(codes);
            free(x_codes);
        }
    }
    return 0;
}
