/* Holds one path of impls/c/kernels.h against plain sums: every row length to 200, remainders, unaligned rows, extreme
 * values. Buffers are exactly as long as they must be, so that a sanitizer sees a read or write beyond them.
 *
 *     c_kernels PATH  ->  "ok", or the first difference and exit status 1
 *     c_kernels       ->  the names of this machine's paths */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"

static const Kernels *path;
static uint64_t state = 1;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("%s: ", path->name);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
    exit(EXIT_FAILURE);
}

static uint32_t bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* Uniform in [-1, 1). */
static float number(void) {
    return (float)(int32_t)bits() * 0x1p-31f;
}

/* Memory that begins `shift` bytes after where malloc would, and ends where it ends. */
static void *shifted(size_t bytes, size_t shift) {
    char *memory = malloc(bytes + shift);
    if (memory == NULL) exit(2);
    return memory + shift;
}

static void release(void *memory, size_t shift) {
    free((char *)memory - shift);
}

static void fill(float *x, int n, float scale) {
    for (int i = 0; i < n; i++) x[i] = scale * number();
}

static void expect_same_bits(const char *what, const float *actual, const float *expected, int n, int a, int b) {
    for (int i = 0; i < n; i++)
        if (memcmp(&actual[i], &expected[i], sizeof *actual) != 0)
            fail("%s of %d, %d: element %d is %a, not %a", what, a, b, i, actual[i], expected[i]);
}

/* The error of n rounded additions of products is below n ulps of the sum of their sizes. */
static void check_multiply(void) {
    for (int cols = 1; cols <= 200; cols++) {
        for (int rows = 1; rows <= 9; rows++) {
            const size_t shift = sizeof(float) * (size_t)((rows + cols) % 4);
            float *w = shifted(sizeof(float) * (size_t)(rows * cols), shift);
            float *x = shifted(sizeof(float) * (size_t)cols, shift), *out = shifted(sizeof(float) * (size_t)rows, shift);
            fill(w, rows * cols, 1);
            fill(x, cols, 1);
            path->multiply(out, w, x, rows, cols);
            for (int r = 0; r < rows; r++) {
                double sum = 0, size = 0;
                for (int j = 0; j < cols; j++) {
                    const double product = (double)w[r * cols + j] * x[j];
                    sum += product;
                    size += fabs(product);
                }
                if (!(fabs(out[r] - sum) <= cols * 0x1p-24 * size))
                    fail("multiply of %d rows, %d columns: row %d is %a, not %a", rows, cols, r, out[r], sum);
                float alone;
                path->multiply(&alone, w + r * cols, x, 1, cols);
                expect_same_bits("multiply of a row alone", &alone, &out[r], 1, rows, cols);
            }
            release(w, shift), release(x, shift), release(out, shift);
        }
    }
}

enum { RANDOM, HIGHEST, OPPOSITE, LOWEST, N_KINDS };

static int8_t code(int kind, bool is_weight) {
    switch (kind) {
    case HIGHEST: return 127;
    case OPPOSITE: return is_weight ? -127 : 127;
    case LOWEST: return -128; /* no exporter writes it, but a file can hold it */
    default: return (int8_t)(bits() % 255 - 127);
    }
}

static void check_codes(int rows, int n_groups, int rest, int group, int kind) {
    const int cols = n_groups * group + rest, first = rows > 2 ? rows % 3 : 0;
    const size_t n_scales = (size_t)rows * (size_t)cols / (size_t)group + 1, shift = (size_t)(rows + cols) % 4;
    int8_t *codes = shifted((size_t)(rows * cols), shift), *x_codes = shifted((size_t)(n_groups * group), shift);
    unsigned char *scales = shifted(sizeof(float) * n_scales, shift);
    float *x_scales = malloc(sizeof(float) * (size_t)n_groups);
    int32_t *sums = calloc((size_t)n_groups, sizeof *sums);
    float *actual = malloc(sizeof(float) * (size_t)rows), *expected = malloc(sizeof(float) * (size_t)rows);
    for (int i = 0; i < rows * cols; i++) codes[i] = code(kind, true);
    for (int i = 0; i < n_groups * group; i++) {
        x_codes[i] = code(kind, false);
        sums[i / group] += x_codes[i];
    }
    for (size_t i = 0; i < n_scales; i++) {
        const float scale = number();
        memcpy(scales + sizeof(float) * i, &scale, sizeof scale);
    }
    fill(x_scales, n_groups, 1);
    const Matrix w = {.rows = rows, .cols = cols, .codes = codes, .scales = scales, .group = group};
    const Input x = {.codes = x_codes, .scales = x_scales, .code_sums = sums};
    path->multiply_codes(actual, &w, &x, first, rows - first);
    multiply_codes(expected, &w, &x, first, rows - first);
    expect_same_bits("multiply_codes", actual, expected, rows - first, cols, group);
    release(codes, shift), release(x_codes, shift), release(scales, shift);
    free(x_scales), free(sums), free(actual), free(expected);
}

static void check_multiply_codes(void) {
    static const int groups[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (int rows = 1; rows <= 36; rows += rows < 20 ? 1 : 5)
            for (int n_groups = 1; n_groups <= 5; n_groups += 2)
                for (int kind = 0; kind < N_KINDS; kind++)
                    for (int rest = 0; rest < groups[g]; rest += groups[g] > 1 ? groups[g] / 2 : 1)
                        check_codes(rows, n_groups, rest, groups[g], kind);
    check_codes(17, 1, 0, 1 << 16, LOWEST); /* the largest sum that a file can ask for */
    check_codes(17, 1, 0, 1 << 16, HIGHEST);
}

static void check_quantize(void) {
    static const float specials[] = {0, -0.0f, 1e-45f, 1e-38f, 3e38f, INFINITY, -INFINITY, NAN, 0.49999997f, 127, 63.5f};
    const int n_specials = sizeof specials / sizeof *specials;
    for (int group = 1; group <= 200; group++) {
        for (int round = 0; round < 40; round++) {
            const int n = 3 * group + (round % 2 ? group / 2 : 0);
            float *x = malloc(sizeof(float) * (size_t)n);
            int8_t *codes = malloc((size_t)(3 * group)), *expected_codes = malloc((size_t)(3 * group));
            float scales[3], expected_scales[3];
            int32_t sums[3], expected_sums[3];
            fill(x, n, round % 3 ? 1 : 300);
            if (round > 10) /* halves, and their neighbours: the scale is 1 */
                for (int i = 0; i < n; i++) x[i] = nextafterf((float)(bits() % 253) / 2 - 63, (float)((int)(bits() % 3) - 1) * 1e9f);
            if (round > 10)
                for (int g = 0; g < 3; g++) x[g * group] = 127;
            if (round > 30)
                for (int i = 0; i < 4; i++) x[bits() % (unsigned)n] = specials[bits() % (unsigned)n_specials];
            if (round == 39)
                for (int i = 0; i < n; i++) x[i] = 1e-45f * (float)(bits() % 3);
            Input actual = {.codes = codes, .scales = scales, .code_sums = sums};
            Input expected = {.codes = expected_codes, .scales = expected_scales, .code_sums = expected_sums};
            path->quantize(&actual, x, n, group);
            quantize(&expected, x, n, group);
            expect_same_bits("quantize", scales, expected_scales, 3, group, round);
            for (int i = 0; i < 3 * group; i++)
                if (codes[i] != expected_codes[i])
                    fail("quantize in groups of %d: %a of scale %a is %d, not %d", group, x[i], scales[i / group], codes[i],
                         expected_codes[i]);
            for (int g = 0; g < 3; g++)
                if (sums[g] != expected_sums[g]) fail("quantize in groups of %d: sum %d, not %d", group, sums[g], expected_sums[g]);
            free(x), free(codes), free(expected_codes);
        }
    }
}

/* Every float of that size, so that rounding is right everywhere: a scale of 1 leaves them as they are. */
static void check_rounding(uint32_t step) {
    enum { GROUP = 64 };
    float x[GROUP] = {127};
    int8_t codes[GROUP], expected_codes[GROUP];
    float scale, expected_scale;
    int32_t sum, expected_sum;
    Input actual = {.codes = codes, .scales = &scale, .code_sums = &sum};
    Input expected = {.codes = expected_codes, .scales = &expected_scale, .code_sums = &expected_sum};
    for (uint32_t from = 0; from <= 0x42FE0000u; from += (GROUP - 1) * step) { /* 127.0f */
        for (uint32_t i = 1; i < GROUP; i++) {
            const uint32_t size = from + (i - 1) * step < 0x42FE0000u ? from + (i - 1) * step : 0;
            const uint32_t signed_size = size | (i % 2 ? 0x80000000u : 0);
            memcpy(&x[i], &signed_size, sizeof(float));
        }
        path->quantize(&actual, x, GROUP, GROUP);
        quantize(&expected, x, GROUP, GROUP);
        for (int i = 0; i < GROUP; i++)
            if (codes[i] != expected_codes[i]) fail("quantize: %a becomes %d, not %d", x[i], codes[i], expected_codes[i]);
        if (sum != expected_sum) fail("quantize: sum %d, not %d", sum, expected_sum);
    }
}

/* Scores and mixed values are in order on every path: the same bits as plain C. */
static void check_attention(void) {
    const int lanes = path->lanes;
    for (int head_dim = 2; head_dim <= 140; head_dim += 2) {
        for (int n = 1; n <= 150; n += n < 70 ? 1 : 9) {
            const int capacity = (n + lanes - 1) / lanes * lanes, width = (head_dim + lanes - 1) / lanes * lanes;
            float *q = malloc(sizeof(float) * (size_t)head_dim);
            float *keys = malloc(sizeof(float) * (size_t)(n * head_dim)), *scores = malloc(sizeof(float) * (size_t)capacity);
            float *values = malloc(sizeof(float) * (size_t)(n * head_dim)), *mixed = malloc(sizeof(float) * (size_t)head_dim);
            float *blocks = calloc((size_t)(capacity * head_dim), sizeof(float));
            float *wide = calloc((size_t)(capacity * width), sizeof(float));
            float *expected = malloc(sizeof(float) * (size_t)(n > head_dim ? n : head_dim));
            fill(q, head_dim, 1), fill(keys, n * head_dim, 1), fill(values, n * head_dim, 1);
            for (int t = 0; t < n; t++)
                for (int i = 0; i < head_dim; i++) {
                    blocks[t / lanes * lanes * head_dim + i * lanes + t % lanes] = keys[t * head_dim + i];
                    wide[t * width + i] = values[t * head_dim + i];
                }
            path->score(scores, q, blocks, n, head_dim);
            score(expected, q, keys, n, head_dim);
            expect_same_bits("score", scores, expected, n, n, head_dim);
            path->mix(mixed, scores, wide, n, head_dim);
            mix(expected, scores, values, n, head_dim);
            expect_same_bits("mix", mixed, expected, head_dim, n, head_dim);
            free(q), free(keys), free(scores), free(values), free(mixed), free(blocks), free(wide), free(expected);
        }
    }
}

static void check_swiglu(float gate, float up) {
    float actual = gate;
    path->swiglu(&actual, &up, 1);
    const double expected = gate / (1 + exp(-(double)gate)) * up;
    if (!(fabs(actual - expected) <= 8 * 0x1p-24 * fabs(expected) + 0x1p-110 || (isnan(gate) && isnan(actual))))
        fail("swiglu of %a, %a is %a, not %a", gate, up, actual, expected);
}

static void check_exponentials(void) {
    for (int i = 0; i < 200000; i++) check_swiglu(100 * number(), number());
    for (int i = 0; i < 200000; i++) check_swiglu(2 * number(), 1);
    const float edges[] = {0, -0.0f, 1e-45f, -1e-45f, 86.9f, -87, 87.1f, 88, -88, 88.1f, -89, 1e4f, -1e4f, NAN};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) check_swiglu(edges[i], 1);
    for (int n = 1; n <= 200; n++) {
        float *gate = malloc(sizeof(float) * (size_t)n), *up = malloc(sizeof(float) * (size_t)n);
        float *one = malloc(sizeof(float) * (size_t)n), *x = malloc(sizeof(float) * (size_t)n);
        fill(gate, n, 10), fill(up, n, 1), fill(x, n, n % 7 ? 20 : 200);
        memcpy(one, gate, sizeof(float) * (size_t)n);
        for (int i = 0; i < n; i++) path->swiglu(one + i, up + i, 1);
        path->swiglu(gate, up, n);
        expect_same_bits("swiglu", gate, one, n, n, 0);

        double largest = x[0], sum = 0;
        for (int i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
        for (int i = 0; i < n; i++) sum += exp(x[i] - largest);
        memcpy(one, x, sizeof(float) * (size_t)n);
        path->softmax(x, n);
        for (int i = 0; i < n; i++) {
            const double expected = exp(one[i] - largest) / sum;
            /* the difference that goes into exp is rounded, and so are the terms of the sum */
            if (!(fabs(x[i] - expected) <= (20 + fabs(one[i] - largest) + n) * 0x1p-24 * expected + 0x1p-120))
                fail("softmax of %d: element %d is %a, not %a", n, i, x[i], expected);
        }
        free(gate), free(up), free(one), free(x);
    }
}

int main(int argc, char **argv) {
    if (argc == 1) {
        for (int i = 0; i < N_PATHS; i++)
            if (PATHS[i].is_supported()) puts(PATHS[i].name);
        return 0;
    }
    path = choose_kernels(argv[1]);
    if (path == NULL) return 2;
    check_multiply();
    check_multiply_codes();
    check_quantize();
    check_rounding(argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1009);
    check_attention();
    check_exponentials();
    puts("ok");
    return 0;
}
