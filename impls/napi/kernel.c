/* The kernels of impls/c behind the contract of kernel.h: the best vectors that the machine has, or with -DSTRICT plain C.
 *
 * kernels.h and vectors.h are that program's own files. They count in int: binding.c refuses what is longer. */
#include "kernel.h"

#include <stdlib.h>

#include "kernels.h"

/* The best path of this machine, or the one that LLAMA_PATH names: for tests of what other machines take. */
static const Kernels *kernels(void) {
    static const Kernels *chosen;
    if (chosen == NULL) chosen = choose_kernels(getenv("LLAMA_PATH"));
    return chosen;
}

const char *kernel_instructions(void) {
    return kernels() == NULL ? NULL : kernels()->name;
}

size_t kernel_lanes(void) {
    return (size_t)kernels()->lanes;
}

void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    kernels()->multiply(out, weights, x, (int)rows, (int)cols);
}

/* Memory for what the paths want to know of n groups, beside their codes and scales; NULL if there is none. */
static int32_t *room_for_sums(size_t n) {
    static int32_t *sums;
    static size_t room;
    if (n > room || sums == NULL) {
        int32_t *more = realloc(sums, (n + 1) * sizeof *sums);
        if (more == NULL) return NULL;
        sums = more;
        room = n;
    }
    return sums;
}

bool matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group) {
    int32_t *sums = room_for_sums(cols / group);
    if (sums == NULL) return false;
    for (size_t g = 0; g < cols / group; g++) {
        int32_t sum = 0;
        for (size_t j = g * group; j < (g + 1) * group; j++) sum += x_codes[j];
        sums[g] = sum;
    }
    const Matrix w = {
        .rows = (int)rows,
        .cols = (int)cols,
        .codes = codes,
        .scales = (const unsigned char *)scales,
        .group = (int)group,
    };
    /* Nothing is written through an input. */
    const Input x = {.codes = (int8_t *)x_codes, .scales = (float *)x_scales, .code_sums = sums};
    kernels()->multiply_codes(out, &w, &x, 0, (int)rows);
    return true;
}

bool quantize_q8(int8_t *codes, float *scales, const float *x, size_t n, size_t group) {
    int32_t *sums = room_for_sums(n / group);
    if (sums == NULL) return false;
    Input out = {.codes = codes, .scales = scales, .code_sums = sums};
    kernels()->quantize(&out, x, (int)n, (int)group);
    return true;
}

void score_heads(float *scores, const float *queries, const float *keys, const Heads *h) {
    const size_t head = h->capacity * h->head_dim, sharing = h->n_heads / h->n_kv_heads;
    for (size_t i = 0; i < h->n_heads; i++)
        kernels()->score(scores + i * h->capacity, queries + i * h->head_dim, keys + i / sharing * head, (int)h->count,
                         (int)h->head_dim);
}

void softmax_heads(float *scores, const Heads *h) {
    for (size_t i = 0; i < h->n_heads; i++) kernels()->softmax(scores + i * h->capacity, (int)h->count);
}

size_t value_width(const Heads *h) {
    const size_t lanes = kernel_lanes();
    return (h->head_dim + lanes - 1) / lanes * lanes;
}

void mix_heads(float *out, const float *weights, const float *values, const Heads *h) {
    const size_t width = value_width(h), sharing = h->n_heads / h->n_kv_heads;
    for (size_t i = 0; i < h->n_heads; i++)
        kernels()->mix(out + i * h->head_dim, weights + i * h->capacity, values + i / sharing * h->capacity * width,
                       (int)h->count, (int)h->head_dim);
}

void swiglu_values(float *gate, const float *up, size_t n) {
    kernels()->swiglu(gate, up, (int)n);
}

void norm_values(float *out, const float *x, const float *weight, size_t n, bool in_order) {
    float sum_of_squares;
    if (in_order)
        sum_of_squares = dot(x, x, (int)n);
    else
        kernels()->multiply(&sum_of_squares, x, x, 1, (int)n);
    rmsnorm(out, x, weight, (int)n, sum_of_squares);
}

void set_angles(float *cosines, float *sines, const float *frequencies, size_t n, size_t position) {
    for (size_t j = 0; j < n; j++) {
        const float angle = (float)position * frequencies[j];
        cosines[j] = cosf(angle);
        sines[j] = sinf(angle);
    }
}

void rotate_heads(float *x, size_t n_heads, const float *cosines, const float *sines, size_t head_dim) {
    rotate(x, (int)n_heads, cosines, sines, (int)head_dim);
}

void add_values(float *x, const float *delta, size_t n) {
    add(x, delta, (int)n);
}

void remember_heads(float *keys, float *values, const float *key, const float *value, const Heads *h) {
    const size_t pos = h->count - 1, width = value_width(h);
    for (size_t i = 0; i < h->n_kv_heads; i++) {
        const size_t first = i * h->head_dim;
        cache_key(keys + first * h->capacity, key + first, (int)h->head_dim, (int)pos, kernels()->lanes);
        memcpy(values + (i * h->capacity + pos) * width, value + first, sizeof(float) * h->head_dim);
    }
}

size_t index_of_largest(const float *x, size_t n) {
    return (size_t)argmax(x, (int)n);
}
