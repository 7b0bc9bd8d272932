/* The kernel in plain C: one float32 sum per row, from left to right.
 *
 * Such a sum waits for each addition before the next. Four rows side by side fill that wait, and change no bit. */
#include "kernel.h"

enum { ABREAST = 4 };

void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    size_t i = 0;
    for (; i + ABREAST <= rows; i += ABREAST) {
        const float *w = weights + i * cols;
        float sums[ABREAST] = {0};
        for (size_t j = 0; j < cols; j++)
            for (size_t r = 0; r < ABREAST; r++) sums[r] += w[r * cols + j] * x[j];
        for (size_t r = 0; r < ABREAST; r++) out[i + r] = sums[r];
    }
    for (; i < rows; i++) {
        const float *w = weights + i * cols;
        float sum = 0;
        for (size_t j = 0; j < cols; j++) sum += w[j] * x[j];
        out[i] = sum;
    }
}

void matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group) {
    for (size_t i = 0; i < rows; i++) {
        const int8_t *w = codes + i * cols;
        const float *w_scales = scales + i * cols / group;
        float sum = 0;
        for (size_t g = 0; g < cols / group; g++) {
            int32_t exact = 0;
            for (size_t j = g * group; j < (g + 1) * group; j++) exact += w[j] * x_codes[j];
            sum += (float)exact * w_scales[g] * x_scales[g];
        }
        out[i] = sum;
    }
}

const char *kernel_instructions(void) {
    return "C";
}
