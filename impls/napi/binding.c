/* Kernel functions for Node: checks every argument, throws, and never computes.
 *
 *     matmul(out, weights, x)
 *     matmulQ8(out, codes, scales, xCodes, xScales, group)
 *     quantize(codes, scales, x, group)
 *     score(scores, queries, keys, nKvHeads, headDim, count)
 *     softmax(scores, nHeads, count)
 *     mix(out, weights, values, nKvHeads, headDim, count)
 *     swiglu(gate, up)
 *     enlargePages(buffer)                                               number: offset of its first cache line
 *     lanes                                                              number
 *     instructions                                                       string
 *
 * Arrays of codes are Int8Array, all others Float32Array; a matrix has out.length rows and x.length columns. TypeError: a
 * wrong number or type of arguments, or a detached buffer. RangeError: numbers out of range, lengths that do not fit each
 * other or an int, or an array written that overlaps one read. */
#define NAPI_VERSION 8
#include <limits.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>

#include "kernel.h"

enum { MAX_ARGUMENTS = 6, MAX_GROUP = 65536, MAX_LENGTH = INT_MAX / 2 };

/* A typed array that was checked. */
typedef struct {
    void *data;
    size_t length;
    size_t bytes;
} Array;

/* An exception of V8's own, if one is waiting, stays as it is. */
static bool is_pending(napi_env env) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    return pending;
}

static bool type_error(napi_env env, const char *message) {
    if (!is_pending(env)) napi_throw_type_error(env, NULL, message);
    return false;
}

static bool range_error(napi_env env, const char *message) {
    if (!is_pending(env)) napi_throw_range_error(env, NULL, message);
    return false;
}

/* Exactly that many arguments, or an exception. */
static bool take_arguments(napi_env env, napi_callback_info info, napi_value *values, size_t expected) {
    size_t count = MAX_ARGUMENTS;
    napi_value all[MAX_ARGUMENTS];
    if (napi_get_cb_info(env, info, &count, all, NULL, NULL) != napi_ok) return type_error(env, "no arguments");
    if (count != expected) {
        char message[64];
        snprintf(message, sizeof message, "expected %zu arguments, got %zu", expected, count);
        return type_error(env, message);
    }
    for (size_t i = 0; i < expected; i++) values[i] = all[i];
    return true;
}

static bool take_array(napi_env env, napi_value value, const char *name, napi_typedarray_type type, Array *array) {
    char message[96];
    napi_typedarray_type found = napi_uint8_array;
    napi_value buffer;
    if (napi_get_typedarray_info(env, value, &found, &array->length, &array->data, &buffer, NULL) != napi_ok ||
        found != type) {
        snprintf(message, sizeof message, "%s must be %s", name,
                 type == napi_float32_array ? "a Float32Array" : "an Int8Array");
        return type_error(env, message);
    }
    /* One whose buffer is detached has no length any more. */
    bool is_detached = false;
    if (array->length == 0 && (napi_is_detached_arraybuffer(env, buffer, &is_detached) != napi_ok || is_detached)) {
        snprintf(message, sizeof message, "the buffer of %s is detached", name);
        return type_error(env, message);
    }
    array->bytes = array->length * (type == napi_float32_array ? sizeof(float) : 1);
    return true;
}

static bool take_vector(napi_env env, napi_value value, const char *name, Array *array) {
    return take_array(env, value, name, napi_float32_array, array);
}

static bool take_codes(napi_env env, napi_value value, const char *name, Array *array) {
    return take_array(env, value, name, napi_int8_array, array);
}

/* A whole number from 1 to most. */
static bool take_count(napi_env env, napi_value value, const char *name, size_t most, size_t *count) {
    char message[96];
    double number = 0;
    if (napi_get_value_double(env, value, &number) != napi_ok) {
        snprintf(message, sizeof message, "%s must be a number", name);
        return type_error(env, message);
    }
    if (!(number >= 1 && number <= (double)most) || number != (double)(size_t)number) {
        snprintf(message, sizeof message, "%s must be a whole number from 1 to %zu", name, most);
        return range_error(env, message);
    }
    *count = (size_t)number;
    return true;
}

/* Whether length is a * b, which may not fit a size_t. */
static bool is_product(size_t length, size_t a, size_t b) {
    if (a == 0 || b == 0) return length == 0;
    return length % a == 0 && length / a == b;
}

/* Kernels count the elements of a vector in int. */
static bool is_too_long(const Array *vector) {
    return vector->length > MAX_LENGTH;
}

static bool overlap(const Array *a, const Array *b) {
    if (a->bytes == 0 || b->bytes == 0) return false;
    const uintptr_t a_start = (uintptr_t)a->data, b_start = (uintptr_t)b->data;
    return a_start < b_start + b->bytes && b_start < a_start + a->bytes;
}

static napi_value call_matmul(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array out, weights, x;
    if (!take_arguments(env, info, values, 3) || !take_vector(env, values[0], "out", &out) ||
        !take_vector(env, values[1], "weights", &weights) || !take_vector(env, values[2], "x", &x))
        return NULL;
    if (!is_product(weights.length, out.length, x.length))
        range_error(env, "weights.length is not out.length * x.length");
    else if (is_too_long(&out) || is_too_long(&x))
        range_error(env, "a vector is too long");
    else if (overlap(&out, &weights) || overlap(&out, &x))
        range_error(env, "out overlaps an input");
    else
        matmul(out.data, weights.data, x.data, out.length, x.length);
    return NULL;
}

static napi_value call_matmul_q8(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array out, codes, scales, x_codes, x_scales;
    size_t group;
    if (!take_arguments(env, info, values, 6) || !take_vector(env, values[0], "out", &out) ||
        !take_codes(env, values[1], "codes", &codes) || !take_vector(env, values[2], "scales", &scales) ||
        !take_codes(env, values[3], "xCodes", &x_codes) || !take_vector(env, values[4], "xScales", &x_scales) ||
        !take_count(env, values[5], "group", MAX_GROUP, &group))
        return NULL;
    if (!is_product(codes.length, out.length, x_codes.length))
        range_error(env, "codes.length is not out.length * xCodes.length");
    else if (scales.length < codes.length / group)
        range_error(env, "there are fewer scales than groups of codes");
    else if (x_scales.length < x_codes.length / group)
        range_error(env, "there are fewer xScales than groups of xCodes");
    else if (is_too_long(&out) || is_too_long(&x_codes))
        range_error(env, "a vector is too long");
    else if (overlap(&out, &codes) || overlap(&out, &scales) || overlap(&out, &x_codes) || overlap(&out, &x_scales))
        range_error(env, "out overlaps an input");
    else if (!matmul_q8(out.data, codes.data, scales.data, x_codes.data, x_scales.data, out.length, x_codes.length, group))
        range_error(env, "out of memory");
    return NULL;
}

static napi_value call_quantize(napi_env env, napi_callback_info info) {
    napi_value values[4];
    Array codes, scales, x;
    size_t group;
    if (!take_arguments(env, info, values, 4) || !take_codes(env, values[0], "codes", &codes) ||
        !take_vector(env, values[1], "scales", &scales) || !take_vector(env, values[2], "x", &x) ||
        !take_count(env, values[3], "group", MAX_GROUP, &group))
        return NULL;
    if (codes.length != x.length)
        range_error(env, "codes.length is not x.length");
    else if (scales.length < x.length / group)
        range_error(env, "there are fewer scales than groups of codes");
    else if (is_too_long(&x))
        range_error(env, "a vector is too long");
    else if (overlap(&codes, &x) || overlap(&scales, &x) || overlap(&codes, &scales))
        range_error(env, "arrays overlap");
    else if (!quantize_q8(codes.data, scales.data, x.data, x.length, group))
        range_error(env, "out of memory");
    return NULL;
}

/* What score() and mix() have in common: the shapes of scores, of queries or results, and of a cache whose heads are
 * width elements wide. */
static bool take_heads(napi_env env, const napi_value *values, const Array *scores, const Array *heads,
                       const Array *cache, bool in_whole_lanes, Heads *h) {
    if (!take_count(env, values[3], "nKvHeads", MAX_LENGTH, &h->n_kv_heads) ||
        !take_count(env, values[4], "headDim", MAX_LENGTH, &h->head_dim) ||
        !take_count(env, values[5], "count", MAX_LENGTH, &h->count))
        return false;
    const size_t lanes = kernel_lanes();
    const size_t width = in_whole_lanes ? (h->head_dim + lanes - 1) / lanes * lanes : h->head_dim;
    h->n_heads = heads->length / h->head_dim;
    if (h->n_heads == 0 || heads->length % h->head_dim != 0 || h->n_heads % h->n_kv_heads != 0)
        return range_error(env, "heads are not nKvHeads times so many of headDim");
    h->capacity = cache->length / width / h->n_kv_heads;
    if (!is_product(cache->length, h->capacity, width * h->n_kv_heads) || h->capacity % lanes != 0)
        return range_error(env, "the cache has no whole number of blocks");
    if (h->count > h->capacity) return range_error(env, "count is more than the cache holds");
    if (!is_product(scores->length, h->n_heads, h->capacity))
        return range_error(env, "scores.length is not heads times positions");
    return true;
}

static napi_value call_score(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array scores, queries, keys;
    Heads heads;
    if (!take_arguments(env, info, values, 6) || !take_vector(env, values[0], "scores", &scores) ||
        !take_vector(env, values[1], "queries", &queries) || !take_vector(env, values[2], "keys", &keys) ||
        !take_heads(env, values, &scores, &queries, &keys, false, &heads))
        return NULL;
    if (overlap(&scores, &queries) || overlap(&scores, &keys))
        range_error(env, "scores overlaps an input");
    else
        score_heads(scores.data, queries.data, keys.data, &heads);
    return NULL;
}

static napi_value call_softmax(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array scores;
    Heads heads = {0};
    if (!take_arguments(env, info, values, 3) || !take_vector(env, values[0], "scores", &scores) ||
        !take_count(env, values[1], "nHeads", MAX_LENGTH, &heads.n_heads) ||
        !take_count(env, values[2], "count", MAX_LENGTH, &heads.count))
        return NULL;
    heads.capacity = scores.length / heads.n_heads;
    if (scores.length % heads.n_heads != 0)
        range_error(env, "scores.length is no multiple of nHeads");
    else if (heads.count > heads.capacity)
        range_error(env, "count is more than a head's scores");
    else
        softmax_heads(scores.data, &heads);
    return NULL;
}

static napi_value call_mix(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array out, weights, cached;
    Heads heads;
    if (!take_arguments(env, info, values, 6) || !take_vector(env, values[0], "out", &out) ||
        !take_vector(env, values[1], "weights", &weights) || !take_vector(env, values[2], "values", &cached) ||
        !take_heads(env, values, &weights, &out, &cached, true, &heads))
        return NULL;
    if (overlap(&out, &weights) || overlap(&out, &cached))
        range_error(env, "out overlaps an input");
    else
        mix_heads(out.data, weights.data, cached.data, &heads);
    return NULL;
}

static napi_value call_swiglu(napi_env env, napi_callback_info info) {
    napi_value values[2];
    Array gate, up;
    if (!take_arguments(env, info, values, 2) || !take_vector(env, values[0], "gate", &gate) ||
        !take_vector(env, values[1], "up", &up))
        return NULL;
    if (gate.length != up.length)
        range_error(env, "up.length is not gate.length");
    else if (is_too_long(&gate))
        range_error(env, "a vector is too long");
    else if (overlap(&gate, &up))
        range_error(env, "gate overlaps up");
    else
        swiglu_values(gate.data, up.data, gate.length);
    return NULL;
}

/* Ask the system for large pages where the memory of a buffer that was not used yet can have some. */
static napi_value call_enlarge_pages(napi_env env, napi_callback_info info) {
    napi_value values[1], offset;
    void *data = NULL;
    size_t bytes = 0;
    if (!take_arguments(env, info, values, 1)) return NULL;
    if (napi_get_arraybuffer_info(env, values[0], &data, &bytes) != napi_ok) {
        type_error(env, "buffer must be an ArrayBuffer");
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 2 << 20, first = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE); /* if there are none, nothing is lost */
#endif
    const uint32_t line = 64;
    if (napi_create_uint32(env, (line - (uint32_t)((uintptr_t)data % line)) % line, &offset) != napi_ok) return NULL;
    return offset;
}

#define FUNCTION(name, function) {.utf8name = name, .method = function, .attributes = napi_enumerable}
#define VALUE(name, its_value) {.utf8name = name, .value = its_value, .attributes = napi_enumerable}

NAPI_MODULE_INIT() {
    const char *path = kernel_instructions();
    if (path == NULL) {
        range_error(env, "LLAMA_PATH names no path that this machine has");
        return NULL;
    }
    napi_value instructions, lanes;
    if (napi_create_string_utf8(env, path, NAPI_AUTO_LENGTH, &instructions) != napi_ok ||
        napi_create_uint32(env, (uint32_t)kernel_lanes(), &lanes) != napi_ok)
        return NULL;
    const napi_property_descriptor properties[] = {
        FUNCTION("matmul", call_matmul),
        FUNCTION("matmulQ8", call_matmul_q8),
        FUNCTION("quantize", call_quantize),
        FUNCTION("score", call_score),
        FUNCTION("softmax", call_softmax),
        FUNCTION("mix", call_mix),
        FUNCTION("swiglu", call_swiglu),
        FUNCTION("enlargePages", call_enlarge_pages),
        VALUE("instructions", instructions),
        VALUE("lanes", lanes),
    };
    if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
    return exports;
}
