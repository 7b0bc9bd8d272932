/* The kernel for WebAssembly, in its 128-bit vectors. Addresses are those of the memory that the host provides.
 *
 * float32: four rows at a time, each in two vectors of partial sums. int8: exact integer sums of 16-bit products, then the
 * scaled sums of groups from left to right, one operation and one rounding at a time: four rows in the four lanes. */
#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(name), visibility("default")))

static inline float sum_of_lanes(v128_t v) {
    v = wasm_f32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    return wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1);
}

static inline v128_t multiply_add(v128_t sum, const float *w, v128_t x) {
    return wasm_f32x4_add(sum, wasm_f32x4_mul(wasm_v128_load(w), x));
}

static float dot(const float *w, const float *x, size_t n) {
    v128_t a = wasm_f32x4_const_splat(0), b = a;
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        a = multiply_add(a, w + j, wasm_v128_load(x + j));
        b = multiply_add(b, w + j + 4, wasm_v128_load(x + j + 4));
    }
    float sum = sum_of_lanes(wasm_f32x4_add(a, b));
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

static void dot4(float *out, const float *w, const float *x, size_t n) {
    const float *w0 = w, *w1 = w + n, *w2 = w + 2 * n, *w3 = w + 3 * n;
    v128_t a0 = wasm_f32x4_const_splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        const v128_t x0 = wasm_v128_load(x + j), x1 = wasm_v128_load(x + j + 4);
        a0 = multiply_add(a0, w0 + j, x0);
        b0 = multiply_add(b0, w0 + j + 4, x1);
        a1 = multiply_add(a1, w1 + j, x0);
        b1 = multiply_add(b1, w1 + j + 4, x1);
        a2 = multiply_add(a2, w2 + j, x0);
        b2 = multiply_add(b2, w2 + j + 4, x1);
        a3 = multiply_add(a3, w3 + j, x0);
        b3 = multiply_add(b3, w3 + j + 4, x1);
    }
    float sums[4] = {
        sum_of_lanes(wasm_f32x4_add(a0, b0)),
        sum_of_lanes(wasm_f32x4_add(a1, b1)),
        sum_of_lanes(wasm_f32x4_add(a2, b2)),
        sum_of_lanes(wasm_f32x4_add(a3, b3)),
    };
    for (; j < n; j++)
        for (size_t r = 0; r < 4; r++) sums[r] += w[r * n + j] * x[j];
    for (size_t r = 0; r < 4; r++) out[r] = sums[r];
}

EXPORT("matmul") void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) dot4(out + i, weights + i * cols, x, cols);
    for (; i < rows; i++) out[i] = dot(weights + i * cols, x, cols);
}

/* The products of 16 pairs of codes, added up in four lanes. */
static inline v128_t products(const int8_t *w, v128_t x_low, v128_t x_high) {
    const v128_t codes = wasm_v128_load(w);
    return wasm_i32x4_add(wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(codes), x_low),
                          wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(codes), x_high));
}

static inline int32_t int_sum_of_lanes(v128_t v) {
    v = wasm_i32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    return wasm_i32x4_extract_lane(v, 0) + wasm_i32x4_extract_lane(v, 1);
}

static int32_t dot_q8(const int8_t *w, const int8_t *x, size_t n) {
    v128_t sums = wasm_i32x4_const_splat(0);
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const v128_t codes = wasm_v128_load(x + j);
        const v128_t low = wasm_i16x8_extend_low_i8x16(codes), high = wasm_i16x8_extend_high_i8x16(codes);
        sums = wasm_i32x4_add(sums, products(w + j, low, high));
    }
    int32_t sum = int_sum_of_lanes(sums);
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

/* The exact sums of four rows, which begin stride codes apart, over n codes. */
static inline v128_t dot4_q8(const int8_t *w, size_t stride, const int8_t *x, size_t n) {
    const int8_t *w0 = w, *w1 = w + stride, *w2 = w + 2 * stride, *w3 = w + 3 * stride;
    v128_t s0 = wasm_i32x4_const_splat(0), s1 = s0, s2 = s0, s3 = s0;
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const v128_t codes = wasm_v128_load(x + j);
        const v128_t low = wasm_i16x8_extend_low_i8x16(codes), high = wasm_i16x8_extend_high_i8x16(codes);
        s0 = wasm_i32x4_add(s0, products(w0 + j, low, high));
        s1 = wasm_i32x4_add(s1, products(w1 + j, low, high));
        s2 = wasm_i32x4_add(s2, products(w2 + j, low, high));
        s3 = wasm_i32x4_add(s3, products(w3 + j, low, high));
    }
    /* Transposed, so that the four sums of each row meet in its lane. */
    const v128_t a = wasm_i32x4_add(wasm_i32x4_shuffle(s0, s1, 0, 4, 1, 5), wasm_i32x4_shuffle(s0, s1, 2, 6, 3, 7));
    const v128_t b = wasm_i32x4_add(wasm_i32x4_shuffle(s2, s3, 0, 4, 1, 5), wasm_i32x4_shuffle(s2, s3, 2, 6, 3, 7));
    v128_t four = wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 1, 4, 5), wasm_i32x4_shuffle(a, b, 2, 3, 6, 7));
    for (; j < n; j++)
        four = wasm_i32x4_add(four, wasm_i32x4_make(w0[j] * x[j], w1[j] * x[j], w2[j] * x[j], w3[j] * x[j]));
    return four;
}

EXPORT("matmulQ8")
void matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group) {
    const size_t groups = cols / group;
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float *s0 = scales + (uint64_t)i * cols / group, *s1 = scales + (uint64_t)(i + 1) * cols / group;
        const float *s2 = scales + (uint64_t)(i + 2) * cols / group, *s3 = scales + (uint64_t)(i + 3) * cols / group;
        v128_t sum = wasm_f32x4_const_splat(0);
        for (size_t g = 0; g < groups; g++) {
            const v128_t exact = dot4_q8(codes + i * cols + g * group, cols, x_codes + g * group, group);
            const v128_t scaled = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(exact), wasm_f32x4_make(s0[g], s1[g], s2[g], s3[g]));
            sum = wasm_f32x4_add(sum, wasm_f32x4_mul(scaled, wasm_f32x4_splat(x_scales[g])));
        }
        wasm_v128_store(out + i, sum);
    }
    for (; i < rows; i++) {
        const float *s = scales + (uint64_t)i * cols / group;
        float sum = 0;
        for (size_t g = 0; g < groups; g++) {
            const float scaled = (float)dot_q8(codes + i * cols + g * group, x_codes + g * group, group) * s[g];
            sum += scaled * x_scales[g];
        }
        out[i] = sum;
    }
}
