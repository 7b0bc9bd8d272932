/* The kernel in explicit vector instructions: AVX2 with FMA where the machine has them, else SSE2; NEON on AArch64.
 *
 * float32: four rows at a time, each in several partial sums. What is left of a row after the last full vector is added
 * one by one, whatever its length.
 *
 * int8: integer sums may be taken in any order, they are exact. The scaled sums of groups may not: they are added from
 * left to right, four rows side by side in the four lanes of a vector. Products are taken of 16-bit numbers, which holds
 * for every code, -128 included. Compile with -ffp-contract=off: a fused multiply-add there would change bits. */
#include "kernel.h"

#if defined(__x86_64__) || defined(__i386__)

#include <immintrin.h>

/* ---- SSE2, which every 64-bit x86 has ------------------------------------------------------------------------- */

static float sum_of_lanes(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

static float dot_sse2(const float *w, const float *x, size_t n) {
    __m128 a = _mm_setzero_ps(), b = a, c = a, d = a;
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        a = _mm_add_ps(a, _mm_mul_ps(_mm_loadu_ps(w + j), _mm_loadu_ps(x + j)));
        b = _mm_add_ps(b, _mm_mul_ps(_mm_loadu_ps(w + j + 4), _mm_loadu_ps(x + j + 4)));
        c = _mm_add_ps(c, _mm_mul_ps(_mm_loadu_ps(w + j + 8), _mm_loadu_ps(x + j + 8)));
        d = _mm_add_ps(d, _mm_mul_ps(_mm_loadu_ps(w + j + 12), _mm_loadu_ps(x + j + 12)));
    }
    for (; j + 4 <= n; j += 4) a = _mm_add_ps(a, _mm_mul_ps(_mm_loadu_ps(w + j), _mm_loadu_ps(x + j)));
    float sum = sum_of_lanes(_mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d)));
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

static void matmul_sse2(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) out[i] = dot_sse2(weights + i * cols, x, cols);
}

static int32_t dot_q8_sse2(const int8_t *w, const int8_t *x, size_t n) {
    const __m128i zero = _mm_setzero_si128();
    __m128i sums = zero;
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const __m128i a = _mm_loadu_si128((const void *)(w + j)), b = _mm_loadu_si128((const void *)(x + j));
        const __m128i a_sign = _mm_cmpgt_epi8(zero, a), b_sign = _mm_cmpgt_epi8(zero, b);
        sums = _mm_add_epi32(sums, _mm_madd_epi16(_mm_unpacklo_epi8(a, a_sign), _mm_unpacklo_epi8(b, b_sign)));
        sums = _mm_add_epi32(sums, _mm_madd_epi16(_mm_unpackhi_epi8(a, a_sign), _mm_unpackhi_epi8(b, b_sign)));
    }
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, _MM_SHUFFLE(1, 0, 3, 2)));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, _MM_SHUFFLE(2, 3, 0, 1)));
    int32_t sum = _mm_cvtsi128_si32(sums);
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

static float dot_groups_sse2(const int8_t *w, const float *w_scales, const int8_t *x, const float *x_scales,
                             size_t cols, size_t group) {
    float sum = 0;
    for (size_t g = 0; g < cols / group; g++)
        sum += (float)dot_q8_sse2(w + g * group, x + g * group, group) * w_scales[g] * x_scales[g];
    return sum;
}

static void matmul_q8_sse2(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes,
                           const float *x_scales, size_t rows, size_t cols, size_t group) {
    for (size_t i = 0; i < rows; i++)
        out[i] = dot_groups_sse2(codes + i * cols, scales + i * cols / group, x_codes, x_scales, cols, group);
}

/* ---- AVX2 and FMA --------------------------------------------------------------------------------------------- */

#define AVX2 __attribute__((target("avx2,fma")))

AVX2 static inline __m128 halves_added(__m256 v) {
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

AVX2 static float dot_avx2(const float *w, const float *x, size_t n) {
    __m256 a = _mm256_setzero_ps(), b = a;
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        a = _mm256_fmadd_ps(_mm256_loadu_ps(w + j), _mm256_loadu_ps(x + j), a);
        b = _mm256_fmadd_ps(_mm256_loadu_ps(w + j + 8), _mm256_loadu_ps(x + j + 8), b);
    }
    if (j + 8 <= n) {
        a = _mm256_fmadd_ps(_mm256_loadu_ps(w + j), _mm256_loadu_ps(x + j), a);
        j += 8;
    }
    float sum = sum_of_lanes(halves_added(_mm256_add_ps(a, b)));
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

/* Four rows: eight sums in flight, and x is loaded once for all four. */
AVX2 static void dot4_avx2(float *out, const float *w, const float *x, size_t n) {
    __m256 a[4], b[4];
    for (int r = 0; r < 4; r++) a[r] = b[r] = _mm256_setzero_ps();
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const __m256 x0 = _mm256_loadu_ps(x + j), x1 = _mm256_loadu_ps(x + j + 8);
        for (int r = 0; r < 4; r++) {
            a[r] = _mm256_fmadd_ps(_mm256_loadu_ps(w + r * n + j), x0, a[r]);
            b[r] = _mm256_fmadd_ps(_mm256_loadu_ps(w + r * n + j + 8), x1, b[r]);
        }
    }
    if (j + 8 <= n) {
        const __m256 x0 = _mm256_loadu_ps(x + j);
        for (int r = 0; r < 4; r++) a[r] = _mm256_fmadd_ps(_mm256_loadu_ps(w + r * n + j), x0, a[r]);
        j += 8;
    }
    for (int r = 0; r < 4; r++) {
        float sum = sum_of_lanes(halves_added(_mm256_add_ps(a[r], b[r])));
        for (size_t k = j; k < n; k++) sum += w[r * n + k] * x[k];
        out[r] = sum;
    }
}

AVX2 static void matmul_avx2(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) dot4_avx2(out + i, weights + i * cols, x, cols);
    for (; i < rows; i++) out[i] = dot_avx2(weights + i * cols, x, cols);
}

AVX2 static inline __m256i widened(const int8_t *codes) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
}

/* The exact sums of four rows, which begin stride codes apart, over n codes. */
AVX2 static inline __m128i dot4_q8_avx2(const int8_t *w, size_t stride, const int8_t *x, size_t n) {
    __m256i sums[4];
    for (int r = 0; r < 4; r++) sums[r] = _mm256_setzero_si256();
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const __m256i x16 = widened(x + j);
        for (int r = 0; r < 4; r++)
            sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(widened(w + r * stride + j), x16));
    }
    const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    if (j < n) {
        int32_t rest[4] = {0};
        for (int r = 0; r < 4; r++)
            for (size_t k = j; k < n; k++) rest[r] += w[r * stride + k] * x[k];
        four = _mm_add_epi32(four, _mm_loadu_si128((const void *)rest));
    }
    return four;
}

AVX2 static void matmul_q8_avx2(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes,
                                const float *x_scales, size_t rows, size_t cols, size_t group) {
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float *s[4];
        for (size_t r = 0; r < 4; r++) s[r] = scales + (i + r) * cols / group;
        __m128 sum = _mm_setzero_ps();
        for (size_t g = 0; g < cols / group; g++) {
            const __m128i exact = dot4_q8_avx2(codes + i * cols + g * group, cols, x_codes + g * group, group);
            const __m128 w_scales = _mm_setr_ps(s[0][g], s[1][g], s[2][g], s[3][g]);
            const __m128 scaled = _mm_mul_ps(_mm_mul_ps(_mm_cvtepi32_ps(exact), w_scales), _mm_set1_ps(x_scales[g]));
            sum = _mm_add_ps(sum, scaled);
        }
        _mm_storeu_ps(out + i, sum);
    }
    for (; i < rows; i++) out[i] = dot_groups_sse2(codes + i * cols, scales + i * cols / group, x_codes, x_scales, cols, group);
}

/* ---- Which of them -------------------------------------------------------------------------------------------- */

/* -DWITHOUT_AVX2 is for testing the other path on a machine that has both. */
static int has_avx2(void) {
#ifdef WITHOUT_AVX2
    return 0;
#else
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
}

void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    (has_avx2() ? matmul_avx2 : matmul_sse2)(out, weights, x, rows, cols);
}

void matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group) {
    (has_avx2() ? matmul_q8_avx2 : matmul_q8_sse2)(out, codes, scales, x_codes, x_scales, rows, cols, group);
}

const char *kernel_instructions(void) {
    return has_avx2() ? "AVX2" : "SSE2";
}

#elif defined(__aarch64__)

#include <arm_neon.h>

/* ---- NEON, which every AArch64 has ---------------------------------------------------------------------------- */

static float dot_neon(const float *w, const float *x, size_t n) {
    float32x4_t a = vdupq_n_f32(0), b = a, c = a, d = a;
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        a = vfmaq_f32(a, vld1q_f32(w + j), vld1q_f32(x + j));
        b = vfmaq_f32(b, vld1q_f32(w + j + 4), vld1q_f32(x + j + 4));
        c = vfmaq_f32(c, vld1q_f32(w + j + 8), vld1q_f32(x + j + 8));
        d = vfmaq_f32(d, vld1q_f32(w + j + 12), vld1q_f32(x + j + 12));
    }
    for (; j + 4 <= n; j += 4) a = vfmaq_f32(a, vld1q_f32(w + j), vld1q_f32(x + j));
    float sum = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) out[i] = dot_neon(weights + i * cols, x, cols);
}

static int32_t dot_q8_neon(const int8_t *w, const int8_t *x, size_t n) {
    int32x4_t sums = vdupq_n_s32(0);
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const int8x16_t a = vld1q_s8(w + j), b = vld1q_s8(x + j);
        sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sums = vpadalq_s16(sums, vmull_high_s8(a, b));
    }
    int32_t sum = vaddvq_s32(sums);
    for (; j < n; j++) sum += w[j] * x[j];
    return sum;
}

void matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group) {
    for (size_t i = 0; i < rows; i++) {
        const float *w_scales = scales + i * cols / group;
        float sum = 0;
        for (size_t g = 0; g < cols / group; g++)
            sum += (float)dot_q8_neon(codes + i * cols + g * group, x_codes + g * group, group) * w_scales[g] * x_scales[g];
        out[i] = sum;
    }
}

const char *kernel_instructions(void) {
    return "NEON";
}

#else
#error "no vector instructions are written for this processor: build the plain kernel"
#endif
