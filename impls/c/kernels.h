/* Arithmetic on vectors and matrices: in plain C, and in the vector instructions that the processor turns out to have.
 *
 * The order of a sum is part of its result, and int8 text changes with the last bit of a logit. The plain functions here
 * sum from left to right in float32, product and addition rounded separately, with libm's own expf: that is llama2.c's
 * arithmetic, and that of the path "strict". The other paths keep all of it, bit for bit, where the weights are int8:
 * they take many sums side by side but never the terms of one, except inside the integer sum of a group, which is exact
 * in any order. Where the weights are float32 they spread the terms of matrix rows over the lanes of a vector and have an
 * expf of their own. -DSTRICT leaves "strict" alone. */
#ifndef KERNELS_H
#define KERNELS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* -DACCUM=double sums the float32 dot products in double: another honest program whose last bits differ. */
#ifdef ACCUM
#undef STRICT
#define STRICT
#else
#define ACCUM float
#endif

/* A compiler that fuses a*b+c unasked would round once instead of twice. Strict builds have what their flags say. */
#if defined(__clang__) && !defined(__FAST_MATH__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__clang__) && !defined(STRICT)
#pragma GCC optimize("fp-contract=off")
#endif

/* (rows, cols), row-major, applied as out[i] = sum over j of w[i][j] * x[j]. Either f32 is set, or codes and scales:
 * then group g covers the flat elements g*group .. g*group+group-1 and their values are codes * scale. */
typedef struct {
    int rows, cols;
    const float *f32;
    const int8_t *codes;
    const unsigned char *scales; /* float32, unaligned */
    int group;
} Matrix;

/* A vector as the matrices want it: all but values is filled in only where the weights are int8. */
typedef struct {
    const float *values;
    int8_t *codes;
    float *scales;
    int32_t *code_sums; /* of each group's codes */
} Input;

/* Floats inside a file need not be aligned: tokenizer fields and int8 scales lie at any byte. */
static inline float float_at(const unsigned char *bytes) {
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* ---- In plain C ----------------------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, int n) {
    ACCUM sum = 0;
    for (int i = 0; i < n; i++) sum += (ACCUM)a[i] * b[i];
    return (float)sum;
}

/* A strict sum waits for each addition before the next. Four rows side by side fill that wait, about twice as fast,
 * and leave each row's own order alone. -DROWS_ABREAST=1 takes row after row, as llama2.c's own loop does. */
#ifndef ROWS_ABREAST
#define ROWS_ABREAST 4
#endif

static void dot_rows_abreast(float *out, const float *rows, const float *x, int cols) {
    ACCUM sums[ROWS_ABREAST] = {0};
    for (int j = 0; j < cols; j++)
        for (int r = 0; r < ROWS_ABREAST; r++) sums[r] += (ACCUM)rows[(size_t)r * cols + j] * x[j];
    for (int r = 0; r < ROWS_ABREAST; r++) out[r] = (float)sums[r];
}

static void multiply(float *out, const float *weights, const float *x, int rows, int cols) {
    int i = 0;
    for (; i + ROWS_ABREAST <= rows; i += ROWS_ABREAST) dot_rows_abreast(out + i, weights + (size_t)i * cols, x, cols);
    for (; i < rows; i++) out[i] = dot(weights + (size_t)i * cols, x, cols);
}

/* Round x to int8, one scale per group. Halves go away from zero here, unlike in the exporter, which rounds the weights
 * half to even. A tail shorter than a group is left out, as multiply_codes leaves it out. */
static void quantize(Input *out, const float *x, int n, int group) {
    for (int g = 0; g < n / group; g++) {
        const float *values = x + (size_t)g * group;
        int8_t *codes = out->codes + (size_t)g * group;
        float largest = 0;
        for (int i = 0; i < group; i++)
            if (fabsf(values[i]) > largest) largest = fabsf(values[i]);
        const float scale = largest / 127.0f;
        out->scales[g] = scale;
        out->code_sums[g] = 0;
        for (int i = 0; i < group; i++) {
            /* An all-zero group divides 0 by 0, and C leaves converting NaN undefined: code 0, as the product is.
             * Numbers stay below 191, which a scale rounded down to the smallest float can bring about. */
            const float code = roundf(values[i] / scale);
            codes[i] = fabsf(code) < 256 ? (int8_t)(int)code : 0;
            out->code_sums[g] += codes[i];
        }
    }
}

/* Rows first .. first+n_rows-1 of w times x. Per group, an exact integer sum, then times the weight scale, times the
 * input scale.
 *
 * Groups count over the flat matrix, so where cols is not a multiple of the group size a row begins inside a group.
 * llama2.c then takes the scales from that group onwards as if the row began there, and ignores the last cols % group
 * inputs. Files that the exporter writes for some published shapes (172 or 1376 columns, group 64) depend on it. */
static void multiply_codes(float *out, const Matrix *w, const Input *x, int first, int n_rows) {
    const int cols = w->cols, group = w->group;
    for (int i = 0; i < n_rows; i++) {
        const size_t row_start = (size_t)(first + i) * cols;
        const int8_t *codes = w->codes + row_start;
        const unsigned char *scales = w->scales + sizeof(float) * (row_start / group);
        float sum = 0;
        for (int g = 0; g < cols / group; g++) {
            int32_t group_sum = 0;
            for (int j = g * group; j < (g + 1) * group; j++) group_sum += codes[j] * x->codes[j];
            sum += (float)group_sum * float_at(scales + sizeof(float) * g) * x->scales[g];
        }
        out[i] = sum;
    }
}

/* scores[t] = q . key t / sqrt(head_dim). */
static void score(float *scores, const float *q, const float *keys, int n_positions, int head_dim) {
    const float root = sqrtf((float)head_dim);
    for (int t = 0; t < n_positions; t++) scores[t] = dot(q, keys + (size_t)t * head_dim, head_dim) / root;
}

/* out = the sum of the values, each times its weight, in the order of positions. */
static void mix(float *out, const float *weights, const float *values, int n_positions, int head_dim) {
    memset(out, 0, sizeof(float) * (size_t)head_dim);
    for (int t = 0; t < n_positions; t++)
        for (int i = 0; i < head_dim; i++) out[i] += weights[t] * values[(size_t)t * head_dim + i];
}

static void softmax(float *x, int n) {
    float largest = x[0];
    for (int i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];
    float sum = 0;
    for (int i = 0; i < n; i++) {
        x[i] = expf(x[i] - largest);
        sum += x[i];
    }
    for (int i = 0; i < n; i++) x[i] /= sum;
}

/* gate becomes silu(gate) * up. */
static void swiglu(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) {
        float value = gate[i];
        value *= 1.0f / (1.0f + expf(-value));
        gate[i] = value * up[i];
    }
}

/* ---- The same on every path: little work, in loops of which a compiler makes vectors by itself ------------------- */

/* out may be x. */
static inline void rmsnorm(float *out, const float *x, const float *weight, int n, float sum_of_squares) {
    float scale = sum_of_squares / n;
    scale = 1.0f / sqrtf(scale + 1e-5f);
    for (int i = 0; i < n; i++) out[i] = weight[i] * (scale * x[i]);
}

/* Turn each adjacent pair of every head by the angle of its place within the head. */
static inline void rotate(float *x, int n_heads, const float *cosines, const float *sines, int head_dim) {
    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (int i = 0; i < head_dim; i += 2) {
            const float c = cosines[i / 2], s = sines[i / 2];
            const float a = x[i], b = x[i + 1];
            x[i] = a * c - b * s;
            x[i + 1] = a * s + b * c;
        }
    }
}

static inline void add(float *x, const float *delta, int n) {
    for (int i = 0; i < n; i++) x[i] += delta[i];
}

/* Put the key of position pos into its place in the blocks of a head. */
static inline void cache_key(float *keys, const float *key, int head_dim, int pos, int lanes) {
    float *block = keys + (size_t)(pos / lanes * lanes) * head_dim;
    for (int i = 0; i < head_dim; i++) block[(size_t)i * lanes + pos % lanes] = key[i];
}

/* The first of the largest. Few stretches hold a larger one, and to see that they do not takes no order. */
static inline int argmax(const float *x, int n) {
    enum { STRETCH = 64 };
    int best = 0;
    for (int start = 0; start < n; start += STRETCH) {
        const int end = n - start < STRETCH ? n : start + STRETCH;
        const float largest = x[best];
        int n_larger = 0;
        for (int i = start; i < end; i++) n_larger += x[i] > largest;
        if (n_larger == 0) continue;
        for (int i = start; i < end; i++)
            if (x[i] > x[best]) best = i;
    }
    return best;
}

/* ---- Paths ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool (*is_supported)(void);
    int lanes; /* the caches have keys in blocks of that many positions, rows of values of whole vectors */
    /* float32 weights */
    void (*multiply)(float *out, const float *weights, const float *x, int rows, int cols);
    void (*softmax)(float *x, int n);
    void (*swiglu)(float *gate, const float *up, int n);
    /* int8 weights: bit for bit as above */
    void (*multiply_codes)(float *out, const Matrix *w, const Input *x, int first, int n_rows);
    void (*quantize)(Input *out, const float *x, int n, int group);
    /* both: bit for bit as above */
    void (*score)(float *scores, const float *q, const float *keys, int n_positions, int head_dim);
    void (*mix)(float *out, const float *weights, const float *values, int n_positions, int head_dim);
} Kernels;

static bool always(void) {
    return true;
}

#define KERNELS(suffix, its_name, supported, n_lanes)                                                                 \
    {                                                                                                                 \
        .name = its_name, .is_supported = supported, .lanes = n_lanes, .multiply = multiply_##suffix,                 \
        .softmax = softmax_##suffix, .swiglu = swiglu_##suffix, .multiply_codes = multiply_codes_##suffix,            \
        .quantize = quantize_##suffix, .score = score_##suffix, .mix = mix_##suffix                                   \
    }

#ifndef STRICT

/* Processors fetch ahead by themselves, but stop where a page ends. May point anywhere: nothing is read if there is
 * nothing. So many bytes before they are wanted, in each of the places where a matrix is read at a time. */
enum { FLOATS_AHEAD = 2048, CODES_AHEAD = 1024 };

static inline void prefetch(const void *weights, int bytes) {
    __builtin_prefetch((const void *)((uintptr_t)weights + (uintptr_t)bytes), 0, 2);
}

/* Vectors of 16 bytes as the compiler makes them: SSE2 on x86-64; any processor, if need be without vectors. */
#define V(name) name##_portable
#define TARGET
#define LANES 4
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#define SUM_LANES(v) (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))
/* A code at a time is left to the compiler, which finds vectors in the loop over a group by itself. */
#define CODES 16
#define ROWS 4
#define WEIGHT_OFFSET 0
typedef int8_t codes_portable __attribute__((vector_size(16)));
typedef int16_t halves_portable __attribute__((vector_size(16)));
typedef int32_t part_portable __attribute__((vector_size(16)));

static inline codes_portable load_codes_portable(const int8_t *from) {
    codes_portable v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Even and odd codes apart, each as 16 bits: a product of two fits, and a 32-bit lane holds two products. */
static inline part_portable dot_codes_portable(part_portable sum, codes_portable w, codes_portable x) {
    const halves_portable w_odd = (halves_portable)w >> 8, w_even = (halves_portable)w << 8 >> 8;
    const halves_portable x_odd = (halves_portable)x >> 8, x_even = (halves_portable)x << 8 >> 8;
    const halves_portable odd = w_odd * x_odd, even = w_even * x_even;
    sum += ((part_portable)odd >> 16) + ((part_portable)odd << 16 >> 16);
    return sum + ((part_portable)even >> 16) + ((part_portable)even << 16 >> 16);
}

static inline part_portable sum_each_portable(const part_portable *p) {
    part_portable each;
    for (int r = 0; r < 4; r++) each[r] = (p[r][0] + p[r][1]) + (p[r][2] + p[r][3]);
    return each;
}

#define DOT_CODES(sum, w, x) dot_codes_portable(sum, load_codes_portable(w), x)
#define LOAD_CODES(x) load_codes_portable(x)
#define SUM_EACH(parts) sum_each_portable(parts)
#include "vectors.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

/* What the processor has and the system saves. Asked directly, because __builtin_cpu_supports knows of nothing where
 * the compiler brings a runtime that was never told. */
typedef struct {
    bool avx2, avxvnni, avx512;
} Features;

static Features features(void) {
    Features f = {0};
    unsigned a, b, c, d;
    enum { FMA = 1 << 12, XGETBV = 1 << 27, AVX = 1 << 28 };
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (FMA | XGETBV | AVX)) != (FMA | XGETBV | AVX)) return f;
    unsigned saved, unused;
    __asm__("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    f.avx2 = (saved & 0x06) == 0x06 && b >> 5 & 1;
    f.avx512 = f.avx2 && (saved & 0xE0) == 0xE0 && (b & avx512) == avx512 && c >> 11 & 1; /* and VNNI */
    if (f.avx2 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avxvnni = a >> 4 & 1;
    return f;
}

static bool has_avx2(void) {
    return features().avx2;
}

static bool has_avxvnni(void) {
    return features().avxvnni;
}

static bool has_avx512(void) {
    return features().avx512;
}

/* Eight vectors in, the sums of their eight lanes out. */
#define AVX2 __attribute__((target("avx2,fma")))

AVX2 static inline __m256i sum_each_of_8(__m256i a, __m256i b, __m256i c, __m256i d, __m256i e, __m256i f, __m256i g,
                                         __m256i h) {
    const __m256i abcd = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    const __m256i efgh = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    return _mm256_add_epi32(_mm256_permute2x128_si256(abcd, efgh, 0x20), _mm256_permute2x128_si256(abcd, efgh, 0x31));
}

AVX2 static inline float sum_of_8(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

#define LOAD_8(p) _mm256_loadu_si256((const void *)(p))
#define SUM_EACH_8(p) (V(row_ints))sum_each_of_8(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])

/* AVX2 multiplies 16-bit numbers: both factors are widened, so that every pair of products is exact. */
AVX2 static inline __m256i dot_codes_avx2(__m256i sum, const int8_t *w, const __m256i *x) {
    const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)w));
    const __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 16)));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, x[0]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(high, x[1]));
}

typedef struct {
    __m256i halves[2];
} codes_avx2;

AVX2 static inline codes_avx2 load_codes_avx2(const int8_t *x) {
    const __m128i *halves = (const void *)x;
    return (codes_avx2){{_mm256_cvtepi8_epi16(_mm_loadu_si128(halves)), _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1))}};
}

typedef __m256i part_avx2;
#define V(name) name##_avx2
#define TARGET AVX2
#define LANES 8
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM_LANES(v) sum_of_8(v)
#define CODES 32
#define ROWS 8
#define WEIGHT_OFFSET 0
#define DOT_CODES(sum, w, x) dot_codes_avx2(sum, w, x.halves)
#define LOAD_CODES(x) load_codes_avx2(x)
#define SUM_EACH(parts) SUM_EACH_8(parts)
#include "vectors.h"

/* VNNI adds four products of bytes to a lane at once, without saturation. Its first factor is unsigned, so the weights
 * count as 128 more than they are. */
#define AS_UNSIGNED(w) _mm256_xor_si256(LOAD_8(w), _mm256_set1_epi8(-128))

#if __GNUC__ >= 11 || __clang_major__ >= 12
#define HAS_AVXVNNI_PATH
typedef __m256i part_avxvnni, codes_avxvnni;
#define V(name) name##_avxvnni
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#define LANES 8
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM_LANES(v) sum_of_8(v)
#define CODES 32
#define ROWS 8
#define WEIGHT_OFFSET 128
#define DOT_CODES(sum, w, x) _mm256_dpbusd_avx_epi32(sum, AS_UNSIGNED(w), x)
#define LOAD_CODES(x) LOAD_8(x)
#define SUM_EACH(parts) SUM_EACH_8(parts)
#include "vectors.h"
#endif

typedef __m256i part_avx512, codes_avx512;
#define V(name) name##_avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define LANES 16
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM_LANES(v) _mm512_reduce_add_ps(v)
#define CODES 32
#define ROWS 8
#define WEIGHT_OFFSET 128
#define DOT_CODES(sum, w, x) _mm256_dpbusd_epi32(sum, AS_UNSIGNED(w), x)
#define LOAD_CODES(x) LOAD_8(x)
#define SUM_EACH(parts) SUM_EACH_8(parts)
#include "vectors.h"

#elif defined(__aarch64__)

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

/* Every AArch64 has NEON; its instruction for products of bytes came later. */
static bool has_dotprod(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}

static inline int32x4_t sum_each_of_4(const int32x4_t *p) {
    return vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]));
}

static inline int32x4_t dot_codes_neon(int32x4_t sum, int8x16_t w, int8x16_t x) {
    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return vpadalq_s16(sum, vmull_high_s8(w, x));
}

typedef int32x4_t part_neon;
typedef int8x16_t codes_neon;
#define V(name) name##_neon
#define TARGET
#define LANES 4
#define MULTIPLY_ADD(a, b, c) ((V(floats))vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define SUM_LANES(v) vaddvq_f32((float32x4_t)(v))
#define CODES 16
#define ROWS 4
#define WEIGHT_OFFSET 0
#define DOT_CODES(sum, w, x) dot_codes_neon(sum, vld1q_s8(w), x)
#define LOAD_CODES(x) vld1q_s8(x)
#define SUM_EACH(parts) (V(row_ints))sum_each_of_4(parts)
#include "vectors.h"

#ifdef __clang__
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
typedef int32x4_t part_dotprod;
typedef int8x16_t codes_dotprod;
#define V(name) name##_dotprod
#define TARGET DOTPROD
#define LANES 4
#define MULTIPLY_ADD(a, b, c) ((V(floats))vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define SUM_LANES(v) vaddvq_f32((float32x4_t)(v))
#define CODES 16
#define ROWS 4
#define WEIGHT_OFFSET 0
#define DOT_CODES(sum, w, x) vdotq_s32(sum, vld1q_s8(w), x)
#define LOAD_CODES(x) vld1q_s8(x)
#define SUM_EACH(parts) (V(row_ints))sum_each_of_4(parts)
#include "vectors.h"

#endif
#endif

/* The best first. */
static const Kernels PATHS[] = {
#ifndef STRICT
#if defined(__x86_64__)
    KERNELS(avx512, "avx512", has_avx512, 16),
#ifdef HAS_AVXVNNI_PATH
    KERNELS(avxvnni, "avxvnni", has_avxvnni, 8),
#endif
    KERNELS(avx2, "avx2", has_avx2, 8),
#elif defined(__aarch64__)
    KERNELS(dotprod, "dotprod", has_dotprod, 4),
    KERNELS(neon, "neon", always, 4),
#endif
    KERNELS(portable, "portable", always, 4),
#endif
    {"strict", always, 1, multiply, softmax, swiglu, multiply_codes, quantize, score, mix},
};

enum { N_PATHS = sizeof PATHS / sizeof *PATHS };

/* The path of that name, or the best where name is NULL; NULL if this machine has no such path. */
static const Kernels *choose_kernels(const char *name) {
    for (int i = 0; i < N_PATHS; i++)
        if ((name == NULL || strcmp(name, PATHS[i].name) == 0) && PATHS[i].is_supported()) return &PATHS[i];
    return NULL;
}

#endif
