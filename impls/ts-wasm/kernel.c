/* The kernel for WebAssembly, in its 128-bit vectors. Addresses are those of the memory that the host provides.
 *
 * float32: seven rows at a time, each in a vector of partial sums. int8: exact integer sums of 16-bit products, then the
 * scaled sums of groups from left to right, one operation and one rounding at a time: four rows in the four lanes.
 *
 * Attention: impls/ts/kernel.ts has the shapes. Four positions or four elements side by side, each sum in its own order. */
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

/* Rows taken at a time: they share the loads of x, their sums fill each other's waits, and so do their pages. A
 * processor does not fetch ahead across pages, which are small here, as a module cannot ask for others. Rows that follow
 * one another meet the ends of their few pages one by one; rows a seventh of the matrix apart meet them together, which
 * is half as fast again. The number is odd, lest usual sizes put all of them into the same lines of a cache. */
enum { ABREAST = 7 };

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

/* Rows i, i + apart, i + 2 * apart, ... */
static void dots(float *out, const float *w, const float *x, size_t n, size_t apart) {
    v128_t sums[ABREAST];
    for (size_t r = 0; r < ABREAST; r++) sums[r] = wasm_f32x4_const_splat(0);
    size_t j = 0;
    for (; j + 4 <= n; j += 4) {
        const v128_t some = wasm_v128_load(x + j);
        for (size_t r = 0; r < ABREAST; r++) sums[r] = multiply_add(sums[r], w + r * apart * n + j, some);
    }
    for (size_t r = 0; r < ABREAST; r++) {
        float sum = sum_of_lanes(sums[r]);
        for (size_t i = j; i < n; i++) sum += w[r * apart * n + i] * x[i];
        out[r * apart] = sum;
    }
}

EXPORT("matmul") void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    const size_t apart = rows / ABREAST;
    for (size_t i = 0; i < apart; i++) dots(out + i, weights + i * cols, x, cols, apart);
    for (size_t i = apart * ABREAST; i < rows; i++) out[i] = dot(weights + i * cols, x, cols);
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

/* ---- Vectors of float32 that are no matrices ------------------------------------------------------------------ */

enum { LANES = 4 };

static inline v128_t add(v128_t a, v128_t b) {
    return wasm_f32x4_add(a, b);
}

static inline v128_t multiply(v128_t a, v128_t b) {
    return wasm_f32x4_mul(a, b);
}

/* count < LANES floats, zeros after them. */
static inline v128_t load_part(const float *from, size_t count) {
    float lanes[LANES] = {0};
    for (size_t i = 0; i < count; i++) lanes[i] = from[i];
    return wasm_v128_load(lanes);
}

static inline void store_part(float *to, v128_t v, size_t count) {
    float lanes[LANES];
    wasm_v128_store(lanes, v);
    for (size_t i = 0; i < count; i++) to[i] = lanes[i];
}

/* Within 2 units of the last place of exp(x). Below -87, and above 88, the value of those; NaN stays. */
static inline v128_t exponential(v128_t x) {
    x = wasm_f32x4_max(wasm_f32x4_min(x, wasm_f32x4_const_splat(88)), wasm_f32x4_const_splat(-87));
    /* exp(x) = 2^n exp(r), |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an integer, which the low bits then are. ln 2
     * comes in two parts, of which the first has so few bits that n times it is exact. */
    const v128_t rounder = wasm_f32x4_const_splat(0x1.8p23f);
    const v128_t shifted = add(multiply(x, wasm_f32x4_const_splat(0x1.715476p0f)), rounder);
    const v128_t n = wasm_f32x4_sub(shifted, rounder);
    v128_t r = wasm_f32x4_sub(x, multiply(n, wasm_f32x4_const_splat(0x1.62e4p-1f)));
    r = wasm_f32x4_sub(r, multiply(n, wasm_f32x4_const_splat(0x1.7f7d1cp-20f)));
    /* (exp(r) - 1 - r) / r^2, fitted so that the largest relative error of exp(r) is 3e-9. */
    v128_t series = wasm_f32x4_const_splat(0x1.6a1a7p-10f);
    series = add(multiply(series, r), wasm_f32x4_const_splat(0x1.123fc6p-7f));
    series = add(multiply(series, r), wasm_f32x4_const_splat(0x1.555916p-5f));
    series = add(multiply(series, r), wasm_f32x4_const_splat(0x1.55548ap-3f));
    series = add(multiply(series, r), wasm_f32x4_const_splat(0x1.fffffcp-2f));
    const v128_t power = add(add(multiply(multiply(series, r), r), r), wasm_f32x4_const_splat(1));
    return wasm_i32x4_add(power, wasm_i32x4_shl(shifted, 23)); /* n goes to where the exponent is */
}

static void softmax(float *x, size_t n) {
    float largest = x[0];
    for (size_t i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];
    const v128_t most = wasm_f32x4_splat(largest);
    const size_t whole = n - n % LANES;
    v128_t sums = wasm_f32x4_const_splat(0);
    for (size_t i = 0; i < whole; i += LANES) {
        const v128_t power = exponential(wasm_f32x4_sub(wasm_v128_load(x + i), most));
        wasm_v128_store(x + i, power);
        sums = add(sums, power);
    }
    float sum = sum_of_lanes(sums);
    store_part(x + whole, exponential(wasm_f32x4_sub(load_part(x + whole, n - whole), most)), n - whole);
    for (size_t i = whole; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

EXPORT("softmax") void softmax_heads(float *scores, size_t n_heads, size_t capacity, size_t count) {
    for (size_t h = 0; h < n_heads; h++) softmax(scores + h * capacity, count);
}

static inline v128_t gated(v128_t gate, v128_t up) {
    const v128_t one = wasm_f32x4_const_splat(1);
    return multiply(wasm_f32x4_div(gate, add(one, exponential(wasm_f32x4_neg(gate)))), up);
}

EXPORT("swiglu") void swiglu(float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) wasm_v128_store(gate + i, gated(wasm_v128_load(gate + i), wasm_v128_load(up + i)));
    if (i < n) store_part(gate + i, gated(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

/* The scores of n blocks of four positions; their sums fill each other's waits. */
static inline __attribute__((always_inline)) void score_blocks(float *scores, const float *q, const float *keys,
                                                               size_t head_dim, v128_t root, size_t n) {
    v128_t sums[4] = {wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0),
                      wasm_f32x4_const_splat(0)};
    for (size_t i = 0; i < head_dim; i++) {
        const v128_t element = wasm_v128_load32_splat(q + i);
        for (size_t b = 0; b < n; b++)
            sums[b] = add(sums[b], multiply(element, wasm_v128_load(keys + (b * head_dim + i) * LANES)));
    }
    for (size_t b = 0; b < n; b++) wasm_v128_store(scores + b * LANES, wasm_f32x4_div(sums[b], root));
}

EXPORT("score")
void score_heads(float *scores, const float *queries, const float *keys, size_t n_heads, size_t n_kv_heads,
                 size_t head_dim, size_t capacity, size_t count) {
    const v128_t root = wasm_f32x4_sqrt(wasm_f32x4_splat((float)head_dim));
    for (size_t h = 0; h < n_heads; h++, scores += capacity, queries += head_dim) {
        const float *k = keys + h / (n_heads / n_kv_heads) * capacity * head_dim;
        size_t t = 0;
        for (; t + 3 * LANES < count; t += 4 * LANES)
            score_blocks(scores + t, queries, k + t * head_dim, head_dim, root, 4);
        for (; t < count; t += LANES) score_blocks(scores + t, queries, k + t * head_dim, head_dim, root, 1);
    }
}

/* n vectors of elements of the result; of the last one count elements are stored if it is not whole. */
static inline __attribute__((always_inline)) void mix_vectors(float *out, const float *weights, const float *values,
                                                              size_t n_positions, size_t stride, size_t n, size_t count) {
    v128_t sums[4] = {wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0),
                      wasm_f32x4_const_splat(0)};
    for (size_t t = 0; t < n_positions; t++) {
        const v128_t weight = wasm_v128_load32_splat(weights + t);
        for (size_t i = 0; i < n; i++)
            sums[i] = add(sums[i], multiply(weight, wasm_v128_load(values + t * stride + i * LANES)));
    }
    if (count < LANES)
        store_part(out, sums[0], count);
    else
        for (size_t i = 0; i < n; i++) wasm_v128_store(out + i * LANES, sums[i]);
}

EXPORT("mix")
void mix_heads(float *out, const float *weights, const float *values, size_t n_heads, size_t n_kv_heads,
               size_t head_dim, size_t capacity, size_t count) {
    const size_t width = (head_dim + LANES - 1) / LANES * LANES;
    for (size_t h = 0; h < n_heads; h++, out += head_dim, weights += capacity) {
        const float *v = values + h / (n_heads / n_kv_heads) * capacity * width;
        size_t i = 0;
        for (; i + 4 * LANES <= head_dim; i += 4 * LANES) mix_vectors(out + i, weights, v + i, count, width, 4, LANES);
        for (; i < head_dim; i += LANES) mix_vectors(out + i, weights, v + i, count, width, 1, head_dim - i);
    }
}

/* ---- int8 inputs ---------------------------------------------------------------------------------------------- */

/* One scale per whole group; halves go away from zero. An all-zero group divides 0 by 0: code 0. */
EXPORT("quantize") void quantize(int8_t *codes, float *scales, const float *x, size_t n, size_t group) {
    for (size_t g = 0; g < n / group; g++, codes += group, x += group) {
        float largest = 0;
        for (size_t i = 0; i < group; i++) {
            const float size = __builtin_fabsf(x[i]);
            if (size > largest) largest = size;
        }
        const float scale = largest / 127.0f;
        scales[g] = scale;
        for (size_t i = 0; i < group; i++) {
            /* Away from zero by the float below one half, then cut: a float32 half itself would round 0.49999997 up. */
            const float code = x[i] / scale;
            const float raised = code + __builtin_copysignf(0x1.fffffep-2f, code);
            codes[i] = __builtin_fabsf(raised) < 256 ? (int8_t)(int)raised : 0;
        }
    }
}
