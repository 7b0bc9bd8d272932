/* Calls a kernel with arrays of exactly the size it may touch, for an address sanitizer to watch. */
#include <stdlib.h>

#include "kernel.h"

static void check_matrices(size_t rows, size_t cols) {
    float *out = calloc(rows, sizeof *out), *weights = calloc(rows * cols, sizeof *weights);
    float *x = calloc(cols, sizeof *x);
    matmul(out, weights, x, rows, cols);
    int8_t *codes = calloc(rows * cols, 1), *x_codes = calloc(cols, 1);
    for (size_t group = 1; group <= cols; group = group < 8 ? group + 1 : group * 2) {
        float *scales = calloc(rows * cols / group, sizeof *scales);
        float *x_scales = calloc(cols / group, sizeof *x_scales);
        quantize_q8(x_codes, x_scales, x, cols, group);
        matmul_q8(out, codes, scales, x_codes, x_scales, rows, cols, group);
        free(scales);
        free(x_scales);
    }
    swiglu_values(x, weights, cols);
    add_values(x, weights, cols);
    norm_values(out, weights, weights, rows, cols % 2 == 0);
    if (index_of_largest(x, cols) >= cols) abort();
    free(out);
    free(weights);
    free(x);
    free(codes);
    free(x_codes);
}

static void check_attention(size_t head_dim, size_t blocks) {
    const size_t lanes = kernel_lanes(), capacity = blocks * lanes, width = (head_dim + lanes - 1) / lanes * lanes;
    float *queries = calloc(4 * head_dim, sizeof *queries), *scores = calloc(4 * capacity, sizeof *scores);
    float *keys = calloc(2 * capacity * head_dim, sizeof *keys), *values = calloc(2 * capacity * width, sizeof *values);
    for (size_t count = 1; count <= capacity; count++) {
        const Heads heads = {4, 2, head_dim, capacity, count};
        score_heads(scores, queries, keys, &heads);
        softmax_heads(scores, &heads);
        mix_heads(queries, scores, values, &heads);
        remember_heads(keys, values, queries, queries + 2 * head_dim, &heads);
    }
    float *angles = calloc(3 * head_dim / 2, sizeof *angles);
    set_angles(angles, angles + head_dim / 2, angles + head_dim, head_dim / 2, blocks);
    rotate_heads(queries, 4, angles, angles + head_dim / 2, head_dim);
    free(angles);
    free(queries);
    free(scores);
    free(keys);
    free(values);
}

int main(void) {
    for (size_t cols = 1; cols <= 130; cols++)
        for (size_t rows = 1; rows <= 10; rows++) check_matrices(rows, cols);
    for (size_t head_dim = 2; head_dim <= 140; head_dim += 2)
        for (size_t blocks = 1; blocks <= 6; blocks += head_dim % 3 + 1) check_attention(head_dim, blocks);
    return 0;
}
