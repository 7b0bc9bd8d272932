/* Kernel functions for Node: checks every argument, throws, and never computes.
 *
 *     matmul(out, weights, x)
 *     matmulQ8(out, codes, scales, xCodes, xScales, group)
 *     quantize(codes, scales, x, group)
 *     score(scores, queries, keys, nKvHeads, headDim, count)
 *     softmax(scores, nHeads, count)
 *     mix(out, weights, values, nKvHeads, headDim, count)
 *     swiglu(gate, up)
 *     rmsnorm(out, x, weight, inOrder)
 *     rotate(x, cosines, sines)
 *     add(x, delta)
 *     remember(keys, values, key, value, nKvHeads, headDim, pos)
 *     argmax(x)                                                          number
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

enum { MAX_ARGUMENTS = 7, MAX_GROUP = 65536, MAX_LENGTH = INT_MAX / 2 };

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

/* A whole number from least to most. */
static bool take_number(napi_env env, napi_value value, const char *name, size_t least, size_t most, size_t *count) {
    char message[96];
    double number = 0;
    if (napi_get_value_double(env, value, &number) != napi_ok) {
        snprintf(message, sizeof message, "%s must be a number", name);
        return type_error(env, message);
    }
    if (!(number >= (double)least && number <= (double)most) || number != (double)(size_t)number) {
        snprintf(message, sizeof message, "%s must be a whole number from %zu to %zu", name, least, most);
        return range_error(env, message);
    }
    *count = (size_t)number;
    return true;
}

static bool take_count(napi_env env, napi_value value, const char *name, size_t most, size_t *count) {
    return take_number(env, value, name, 1, most, count);
}

static bool take_truth(napi_env env, napi_value value, const char *name, bool *truth) {
    char message[96];
    if (napi_get_value_bool(env, value, truth) == napi_ok) return true;
    snprintf(message, sizeof message, "%s must be true or false", name);
    return type_error(env, message);
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

/* The room in a cache of n_kv_heads, in whole blocks of positions; its rows may be head_dim in whole lanes wide. */
static bool find_capacity(napi_env env, const Array *cache, bool in_whole_lanes, Heads *h) {
    const size_t width = in_whole_lanes ? value_width(h) : h->head_dim;
    h->capacity = cache->length / width / h->n_kv_heads;
    if (is_product(cache->length, h->capacity, width * h->n_kv_heads) && h->capacity % kernel_lanes() == 0) return true;
    return range_error(env, "the cache has no whole number of blocks");
}

/* What score() and mix() have in common: the shapes of scores, of queries or results, and of a cache. */
static bool take_heads(napi_env env, const napi_value *values, const Array *scores, const Array *heads,
                       const Array *cache, bool in_whole_lanes, Heads *h) {
    if (!take_count(env, values[3], "nKvHeads", MAX_LENGTH, &h->n_kv_heads) ||
        !take_count(env, values[4], "headDim", MAX_LENGTH, &h->head_dim) ||
        !take_count(env, values[5], "count", MAX_LENGTH, &h->count))
        return false;
    h->n_heads = heads->length / h->head_dim;
    if (h->n_heads == 0 || heads->length % h->head_dim != 0 || h->n_heads % h->n_kv_heads != 0)
        return range_error(env, "heads are not nKvHeads times so many of headDim");
    if (!find_capacity(env, cache, in_whole_lanes, h)) return false;
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

/* Two vectors of one length: the one that is changed, and the other. */
static bool take_pair(napi_env env, napi_callback_info info, const char *name, Array *changed, const char *other_name,
                      Array *other) {
    char message[96];
    napi_value values[2];
    if (!take_arguments(env, info, values, 2) || !take_vector(env, values[0], name, changed) ||
        !take_vector(env, values[1], other_name, other))
        return false;
    if (changed->length != other->length) {
        snprintf(message, sizeof message, "%s.length is not %s.length", other_name, name);
        return range_error(env, message);
    }
    if (is_too_long(changed)) return range_error(env, "a vector is too long");
    if (!overlap(changed, other)) return true;
    snprintf(message, sizeof message, "%s overlaps %s", name, other_name);
    return range_error(env, message);
}

static napi_value call_swiglu(napi_env env, napi_callback_info info) {
    Array gate, up;
    if (take_pair(env, info, "gate", &gate, "up", &up)) swiglu_values(gate.data, up.data, gate.length);
    return NULL;
}

static napi_value call_rmsnorm(napi_env env, napi_callback_info info) {
    napi_value values[4];
    Array out, x, weight;
    bool in_order;
    if (!take_arguments(env, info, values, 4) || !take_vector(env, values[0], "out", &out) ||
        !take_vector(env, values[1], "x", &x) || !take_vector(env, values[2], "weight", &weight) ||
        !take_truth(env, values[3], "inOrder", &in_order))
        return NULL;
    if (x.length != out.length || weight.length != out.length)
        range_error(env, "out, x and weight are not equally long");
    else if (is_too_long(&out))
        range_error(env, "a vector is too long");
    else if (overlap(&out, &x) || overlap(&out, &weight))
        range_error(env, "out overlaps an input");
    else
        norm_values(out.data, x.data, weight.data, out.length, in_order);
    return NULL;
}

static napi_value call_rotate(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array x, cosines, sines;
    if (!take_arguments(env, info, values, 3) || !take_vector(env, values[0], "x", &x) ||
        !take_vector(env, values[1], "cosines", &cosines) || !take_vector(env, values[2], "sines", &sines))
        return NULL;
    const size_t head_dim = 2 * cosines.length;
    if (cosines.length != sines.length)
        range_error(env, "sines.length is not cosines.length");
    else if (head_dim == 0 || x.length % head_dim != 0)
        range_error(env, "x.length is no multiple of 2 * cosines.length");
    else if (is_too_long(&x))
        range_error(env, "a vector is too long");
    else if (overlap(&x, &cosines) || overlap(&x, &sines))
        range_error(env, "x overlaps an input");
    else
        rotate_heads(x.data, x.length / head_dim, cosines.data, sines.data, head_dim);
    return NULL;
}

static napi_value call_add(napi_env env, napi_callback_info info) {
    Array x, delta;
    if (take_pair(env, info, "x", &x, "delta", &delta)) add_values(x.data, delta.data, x.length);
    return NULL;
}

static napi_value call_remember(napi_env env, napi_callback_info info) {
    napi_value values[7];
    Array keys, cached, key, value;
    Heads heads = {0};
    size_t pos, room;
    if (!take_arguments(env, info, values, 7) || !take_vector(env, values[0], "keys", &keys) ||
        !take_vector(env, values[1], "values", &cached) || !take_vector(env, values[2], "key", &key) ||
        !take_vector(env, values[3], "value", &value) ||
        !take_count(env, values[4], "nKvHeads", MAX_LENGTH, &heads.n_kv_heads) ||
        !take_count(env, values[5], "headDim", MAX_LENGTH, &heads.head_dim) ||
        !take_number(env, values[6], "pos", 0, MAX_LENGTH - 1, &pos) || !find_capacity(env, &keys, false, &heads))
        return NULL;
    room = heads.capacity;
    if (!find_capacity(env, &cached, true, &heads)) return NULL;
    heads.count = pos + 1;
    if (heads.capacity != room)
        range_error(env, "keys and values have room for different numbers of positions");
    else if (pos >= room)
        range_error(env, "pos is beyond what the caches hold");
    else if (!is_product(key.length, heads.n_kv_heads, heads.head_dim) || value.length != key.length)
        range_error(env, "key and value are not nKvHeads times headDim long");
    else if (overlap(&keys, &cached) || overlap(&keys, &key) || overlap(&keys, &value) || overlap(&cached, &key) ||
             overlap(&cached, &value))
        range_error(env, "a cache overlaps another array");
    else
        remember_heads(keys.data, cached.data, key.data, value.data, &heads);
    return NULL;
}

static napi_value call_argmax(napi_env env, napi_callback_info info) {
    napi_value values[1], index;
    Array x;
    if (!take_arguments(env, info, values, 1) || !take_vector(env, values[0], "x", &x)) return NULL;
    if (x.length == 0 || is_too_long(&x)) {
        range_error(env, x.length == 0 ? "x is empty" : "a vector is too long");
        return NULL;
    }
    return napi_create_uint32(env, (uint32_t)index_of_largest(x.data, x.length), &index) == napi_ok ? index : NULL;
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
        FUNCTION("rmsnorm", call_rmsnorm),
        FUNCTION("rotate", call_rotate),
        FUNCTION("add", call_add),
        FUNCTION("remember", call_remember),
        FUNCTION("argmax", call_argmax),
        FUNCTION("enlargePages", call_enlarge_pages),
        VALUE("instructions", instructions),
        VALUE("lanes", lanes),
    };
    if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
    return exports;
}
