/* The kernels in vectors of one width. kernels.h includes this file once for each path, having defined:
 *
 *     V(name)                  the name with the path's suffix
 *     TARGET                   the attribute that lets functions use the path's instructions
 *     LANES                    floats in a vector
 *     MULTIPLY_ADD(a, b, c)    a * b + c of vectors, fused where the machine can
 *     SUM_LANES(v)             the sum of the lanes, a float
 *
 *     CODES                    int8 codes in a vector
 *     ROWS                     int8 rows taken abreast; lanes of V(row_ints)
 *     WEIGHT_OFFSET            what DOT_CODES adds to each weight
 *     V(part)                  int32 sums of one row, in any number of lanes
 *     DOT_CODES(sum, w, x)     part + products of the CODES codes at w with those in V(codes) x
 *     LOAD_CODES(x)            V(codes) from memory
 *     SUM_EACH(parts)          lane r is the sum of the lanes of parts[r]
 *
 * Only multiply(), softmax() and swiglu() round in another way than kernels.h's scalar code. In all others every sum
 * keeps its order: vectors run across sums, not along them, and products are rounded before they are added. */

typedef float V(floats) __attribute__((vector_size(4 * LANES)));
typedef int32_t V(ints) __attribute__((vector_size(4 * LANES)));
typedef int8_t V(bytes) __attribute__((vector_size(LANES)));
typedef float V(row_floats) __attribute__((vector_size(4 * ROWS)));
typedef int32_t V(row_ints) __attribute__((vector_size(4 * ROWS)));

/* ---- Vectors -------------------------------------------------------------------------------------------------- */

TARGET static inline V(floats) V(load)(const float *from) {
    V(floats) v;
    memcpy(&v, from, sizeof v);
    return v;
}

TARGET static inline void V(store)(float *to, V(floats) v) {
    memcpy(to, &v, sizeof v);
}

/* count < LANES floats, zeros after them. */
TARGET static inline V(floats) V(load_part)(const float *from, int count) {
    float lanes[LANES] = {0};
    memcpy(lanes, from, sizeof(float) * (size_t)count);
    return V(load)(lanes);
}

TARGET static inline void V(store_part)(float *to, V(floats) v, int count) {
    float lanes[LANES];
    V(store)(lanes, v);
    memcpy(to, lanes, sizeof(float) * (size_t)count);
}

TARGET static inline V(floats) V(splat)(float value) {
    return value - (V(floats)){0}; /* not 0 + value, which loses the sign of -0 */
}

/* yes where the mask's lanes are -1, no where they are 0. */
TARGET static inline V(floats) V(choose)(V(ints) mask, V(floats) yes, V(floats) no) {
    return (V(floats))((mask & (V(ints))yes) | (~mask & (V(ints))no));
}

/* ---- float32 matrices ----------------------------------------------------------------------------------------- */

/* Rows share the loads of x, and their sums fill each other's waits. A row's bits do not depend on the others. Of n_rows
 * each is `apart` rows behind the one before. */
TARGET static inline __attribute__((always_inline)) void V(multiply_abreast)(float *out, const float *rows,
                                                                             const float *x, int cols, int n_rows,
                                                                             int apart) {
    const size_t step = (size_t)apart * (size_t)cols;
    V(floats) sums[ROWS_ABREAST] = {{0}};
    int j = 0;
    for (; j + LANES <= cols; j += LANES) {
        const V(floats) factor = V(load)(x + j);
        for (int r = 0; r < n_rows; r++) {
            const float *weights = rows + (size_t)r * step + j;
            prefetch(weights, FLOATS_AHEAD);
            sums[r] = MULTIPLY_ADD(V(load)(weights), factor, sums[r]);
        }
    }
    if (j < cols) {
        const V(floats) factor = V(load_part)(x + j, cols - j);
        for (int r = 0; r < n_rows; r++) {
            const V(floats) weights = V(load_part)(rows + (size_t)r * step + j, cols - j);
            sums[r] = MULTIPLY_ADD(weights, factor, sums[r]);
        }
    }
    for (int r = 0; r < n_rows; r++) out[(size_t)r * (size_t)apart] = SUM_LANES(sums[r]);
}

/* The rows of a block are far apart: memory gives more to somebody who reads in several places. */
TARGET static void V(multiply)(float *out, const float *weights, const float *x, int rows, int cols) {
    const int n_blocks = rows / ROWS_ABREAST;
    for (int i = 0; i < n_blocks; i++)
        V(multiply_abreast)(out + i, weights + (size_t)i * (size_t)cols, x, cols, ROWS_ABREAST, n_blocks);
    for (int i = n_blocks * ROWS_ABREAST; i < rows; i++)
        V(multiply_abreast)(out + i, weights + (size_t)i * (size_t)cols, x, cols, 1, 0);
}

/* ---- Exponentials --------------------------------------------------------------------------------------------- */

/* Within 2 units of the last place of exp(x). Below -87, and above 88, the value of those. */
TARGET static inline V(floats) V(exponential)(V(floats) x) {
    const V(floats) lowest = V(splat)(-87.0f), highest = V(splat)(88.0f);
    x = V(choose)(x < lowest, lowest, x); /* NaN stays */
    x = V(choose)(x > highest, highest, x);
    /* exp(x) = 2^n exp(r), |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an integer, which the low bits then are. ln 2
     * comes in two parts, of which the first has so few bits that n times it is exact. */
    const V(floats) rounder = V(splat)(0x1.8p23f);
    const V(floats) shifted = x * V(splat)(0x1.715476p0f) + rounder;
    const V(floats) n = shifted - rounder;
    const V(floats) r = x - n * V(splat)(0x1.62e4p-1f) - n * V(splat)(0x1.7f7d1cp-20f);
    /* (exp(r) - 1 - r) / r^2, fitted so that the largest relative error of exp(r) is 3e-9. */
    V(floats) series = V(splat)(0x1.6a1a7p-10f);
    series = MULTIPLY_ADD(series, r, V(splat)(0x1.123fc6p-7f));
    series = MULTIPLY_ADD(series, r, V(splat)(0x1.555916p-5f));
    series = MULTIPLY_ADD(series, r, V(splat)(0x1.55548ap-3f));
    series = MULTIPLY_ADD(series, r, V(splat)(0x1.fffffcp-2f));
    const V(floats) power = MULTIPLY_ADD(series * r, r, r) + V(splat)(1.0f);
    return (V(floats))((V(ints))power + ((V(ints))shifted << 23)); /* n goes to where the exponent is */
}

TARGET static void V(softmax)(float *x, int n) {
    float largest = x[0];
    for (int i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];
    V(floats) sums = {0};
    const int whole = n - n % LANES;
    for (int i = 0; i < whole; i += LANES) {
        const V(floats) power = V(exponential)(V(load)(x + i) - V(splat)(largest));
        V(store)(x + i, power);
        sums += power;
    }
    float sum = SUM_LANES(sums);
    V(store_part)(x + whole, V(exponential)(V(load_part)(x + whole, n - whole) - V(splat)(largest)), n - whole);
    for (int i = whole; i < n; i++) sum += x[i];
    for (int i = 0; i < n; i++) x[i] /= sum;
}

TARGET static inline V(floats) V(gated)(V(floats) gate, V(floats) up) {
    const V(floats) one = V(splat)(1.0f);
    return gate / (one + V(exponential)(-gate)) * up;
}

TARGET static void V(swiglu)(float *gate, const float *up, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) V(store)(gate + i, V(gated)(V(load)(gate + i), V(load)(up + i)));
    if (i < n) V(store_part)(gate + i, V(gated)(V(load_part)(gate + i, n - i), V(load_part)(up + i, n - i)), n - i);
}

/* ---- Attention ------------------------------------------------------------------------------------------------ */

/* Keys lie in blocks of LANES positions, element by element: (positions / LANES, head_dim, LANES). So each lane sums for
 * a position of its own, in order. The last block may end in positions that are not there; nobody reads their scores. */
TARGET static inline __attribute__((always_inline)) void V(score_blocks)(float *scores, const float *q, const float *keys,
                                                                         int head_dim, float root, int n_blocks) {
    V(floats) sums[4] = {{0}};
    for (int i = 0; i < head_dim; i++)
        for (int b = 0; b < n_blocks; b++) sums[b] += V(splat)(q[i]) * V(load)(keys + ((size_t)b * head_dim + i) * LANES);
    for (int b = 0; b < n_blocks; b++) V(store)(scores + b * LANES, sums[b] / V(splat)(root));
}

TARGET static void V(score)(float *scores, const float *q, const float *keys, int n_positions, int head_dim) {
    const float root = sqrtf((float)head_dim);
    int t = 0;
    for (; t + 3 * LANES < n_positions; t += 4 * LANES)
        V(score_blocks)(scores + t, q, keys + (size_t)t * head_dim, head_dim, root, 4);
    for (; t < n_positions; t += LANES)
        V(score_blocks)(scores + t, q, keys + (size_t)t * head_dim, head_dim, root, 1);
}

TARGET static inline __attribute__((always_inline)) void V(mix_vectors)(float *out, const float *weights,
                                                                        const float *values, int n_positions,
                                                                        size_t stride, int n, int count) {
    V(floats) sums[4] = {{0}};
    for (int t = 0; t < n_positions; t++)
        for (int i = 0; i < n; i++) sums[i] += V(splat)(weights[t]) * V(load)(values + (size_t)t * stride + i * LANES);
    if (count < LANES)
        V(store_part)(out, sums[0], count);
    else
        for (int i = 0; i < n; i++) V(store)(out + i * LANES, sums[i]);
}

/* Rows of values are padded to whole vectors: (positions, head_dim rounded up to LANES). */
TARGET static void V(mix)(float *out, const float *weights, const float *values, int n_positions, int head_dim) {
    const size_t stride = ((size_t)head_dim + LANES - 1) / LANES * LANES;
    int i = 0;
    for (; i + 4 * LANES <= head_dim; i += 4 * LANES)
        V(mix_vectors)(out + i, weights, values + i, n_positions, stride, 4, 4 * LANES);
    for (; i < head_dim; i += LANES)
        V(mix_vectors)(out + i, weights, values + i, n_positions, stride, 1, head_dim - i);
}

/* ---- int8 ----------------------------------------------------------------------------------------------------- */

TARGET static void V(quantize)(Input *out, const float *x, int n, int group) {
    if (group % LANES != 0) {
        quantize(out, x, n, group);
        return;
    }
    const V(ints) sign = (V(ints))V(splat)(-0.0f);
    for (int g = 0; g < n / group; g++) {
        const float *values = x + (size_t)g * group;
        int8_t *codes = out->codes + (size_t)g * group;
        V(floats) most = {0};
        for (int i = 0; i < group; i += LANES) {
            const V(floats) size = (V(floats))((V(ints))V(load)(values + i) & ~sign);
            most = V(choose)(size > most, size, most); /* never NaN */
        }
        float sizes[LANES];
        V(store)(sizes, most);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++) sizes[i] = sizes[i + half] > sizes[i] ? sizes[i + half] : sizes[i];
        const float scale = sizes[0] / 127.0f;

        V(ints) sums = {0};
        for (int i = 0; i < group; i += LANES) {
            /* roundf: add the float below one half, away from zero, then cut. */
            const V(floats) quotient = V(load)(values + i) / V(splat)(scale);
            const V(floats) half = (V(floats))(((V(ints))quotient & sign) | (V(ints))V(splat)(0x1.fffffep-2f));
            const V(floats) raised = quotient + half, size = (V(floats))((V(ints))raised & ~sign);
            const V(ints) is_small = size < V(splat)(256.0f); /* false for NaN */
            const V(ints) rounded = __builtin_convertvector((V(floats))((V(ints))raised & is_small), V(ints));
            const V(bytes) cut = __builtin_convertvector(rounded, V(bytes));
            memcpy(codes + i, &cut, sizeof cut);
            sums += rounded << 24 >> 24; /* as the bytes are */
        }
        int32_t totals[LANES];
        memcpy(totals, &sums, sizeof sums);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++) totals[i] += totals[i + half];
        out->scales[g] = scale;
        out->code_sums[g] = totals[0];
    }
}

/* ROWS rows abreast: each row's terms are added up in its own lane, from left to right. A row begins `apart` codes
 * behind the one before. */
TARGET static inline __attribute__((always_inline)) void V(multiply_codes_abreast)(float *out, const int8_t *rows,
                                                                                   const unsigned char *const *scales,
                                                                                   const Input *x, size_t apart,
                                                                                   int n_groups, int steps) {
    const size_t group = (size_t)steps * CODES;
    V(row_floats) sums = {0};
    for (int g = 0; g < n_groups; g++) {
        V(part) parts[ROWS] = {{0}};
        for (int step = 0; step < steps; step++) {
            const size_t at = (size_t)g * group + (size_t)step * CODES;
            const V(codes) factor = LOAD_CODES(x->codes + at);
            for (int r = 0; r < ROWS; r++) {
                const int8_t *weights = rows + (size_t)r * apart + at;
                if (at % 64 == 0) prefetch(weights, CODES_AHEAD);
                parts[r] = DOT_CODES(parts[r], weights, factor);
            }
        }
        const V(row_ints) exact = SUM_EACH(parts) - WEIGHT_OFFSET * x->code_sums[g];
        V(row_floats) weight_scales;
        for (int r = 0; r < ROWS; r++) weight_scales[r] = float_at(scales[r] + sizeof(float) * (size_t)g);
        sums += __builtin_convertvector(exact, V(row_floats)) * weight_scales * x->scales[g];
    }
    memcpy(out, &sums, sizeof sums);
}

TARGET static void V(multiply_codes)(float *out, const Matrix *w, const Input *x, int first, int n_rows) {
    const int cols = w->cols, group = w->group, steps = group / CODES;
    const int n_blocks = group % CODES == 0 ? n_rows / ROWS : 0;
    const size_t apart = (size_t)n_blocks * (size_t)cols;
    for (int i = 0; i < n_blocks; i++) {
        const unsigned char *scales[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const size_t row = (size_t)(first + i + r * n_blocks);
            scales[r] = w->scales + sizeof(float) * (row * (size_t)cols / (size_t)group);
        }
        const int8_t *rows = w->codes + (size_t)(first + i) * (size_t)cols;
        float sums[ROWS];
        /* The usual sizes of groups are worth loops of a known length. */
        if (steps == 1)
            V(multiply_codes_abreast)(sums, rows, scales, x, apart, cols / group, 1);
        else if (steps == 2)
            V(multiply_codes_abreast)(sums, rows, scales, x, apart, cols / group, 2);
        else
            V(multiply_codes_abreast)(sums, rows, scales, x, apart, cols / group, steps);
        for (int r = 0; r < ROWS; r++) out[i + r * n_blocks] = sums[r];
    }
    const int done = n_blocks * ROWS;
    if (done < n_rows) multiply_codes(out + done, w, x, first + done, n_rows - done);
}

#undef V
#undef TARGET
#undef LANES
#undef MULTIPLY_ADD
#undef SUM_LANES
#undef CODES
#undef ROWS
#undef WEIGHT_OFFSET
#undef DOT_CODES
#undef LOAD_CODES
#undef SUM_EACH
