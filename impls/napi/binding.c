/* Kernel functions for Node: checks every argument, throws, and never computes.
 *
 *     matmul(out, weights, x)
 *     matmulQ8(out, codes, scales, xCodes, xScales, group)
 *     quantize(codes, scales, x, group)
 *     score(scores, queries, keys, nKvHeads, headDim, position)
 *     softmax(scores, nHeads, position)
 *     mix(out, weights, values, nKvHeads, headDim, position)
 *     swiglu(gate, up)
 *     rmsnorm(out, x, weight, inOrder)
 *     setAngles(cosines, sines, frequencies, position)
 *     rotate(x, cosines, sines)
 *     add(x, delta)
 *     remember(keys, values, key, value, nKvHeads, headDim, position)
 *     record(pass)                                                       function
 *     argmax(x)                                                          number
 *     enlargePages(buffer, bytes)                                        number: offset of the first large page
 *     lanes                                                              number
 *     instructions                                                       string
 *
 * Arrays of codes are Int8Array, a position is an Int32Array of one item, all others are Float32Array; a matrix has
 * out.length rows and x.length columns. What record() returns does what pass asked for, with what the arrays hold then.
 * TypeError: a wrong number or type of arguments, a detached buffer, or what cannot be recorded. RangeError: numbers out
 * of range, lengths that do not fit each other or an int, or an array written that overlaps one read. */
#include <stdio.h>
#include <sys/mman.h>

#include "passes.h"

/* perform() with so many arrays. */
#define PERFORM(env, operation, position, ...)                                          \
    perform(env, operation, (const Array *const[]){__VA_ARGS__},                        \
            sizeof (const Array *const[]){__VA_ARGS__} / sizeof(const Array *), position)

static bool do_matmul(const Operation *o, const Heads *heads) {
    (void)heads;
    matmul(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[0].length, o->arrays[2].length);
    return true;
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
        PERFORM(env, (Operation){.act = do_matmul}, NULL, &out, &weights, &x);
    return NULL;
}

static bool do_matmul_q8(const Operation *o, const Heads *heads) {
    (void)heads;
    return matmul_q8(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[3].data, o->arrays[4].data,
                     o->arrays[0].length, o->arrays[3].length, o->group);
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
    else
        PERFORM(env, ((Operation){.act = do_matmul_q8, .group = group}), NULL, &out, &codes, &scales, &x_codes, &x_scales);
    return NULL;
}

static bool do_quantize(const Operation *o, const Heads *heads) {
    (void)heads;
    return quantize_q8(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[2].length, o->group);
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
    else
        PERFORM(env, ((Operation){.act = do_quantize, .group = group}), NULL, &codes, &scales, &x);
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
                       const Array *cache, bool in_whole_lanes, Heads *h, Array *position) {
    if (!take_count(env, values[3], "nKvHeads", MAX_LENGTH, &h->n_kv_heads) ||
        !take_count(env, values[4], "headDim", MAX_LENGTH, &h->head_dim) || !take_position(env, values[5], position))
        return false;
    h->n_heads = heads->length / h->head_dim;
    if (h->n_heads == 0 || heads->length % h->head_dim != 0 || h->n_heads % h->n_kv_heads != 0)
        return range_error(env, "heads are not nKvHeads times so many of headDim");
    if (!find_capacity(env, cache, in_whole_lanes, h)) return false;
    if (is_product(scores->length, h->n_heads, h->capacity)) return true;
    return range_error(env, "scores.length is not heads times positions");
}

static bool do_score(const Operation *o, const Heads *heads) {
    score_heads(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, heads);
    return true;
}

static napi_value call_score(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array scores, queries, keys, position;
    Heads heads = {0};
    if (!take_arguments(env, info, values, 6) || !take_vector(env, values[0], "scores", &scores) ||
        !take_vector(env, values[1], "queries", &queries) || !take_vector(env, values[2], "keys", &keys) ||
        !take_heads(env, values, &scores, &queries, &keys, false, &heads, &position))
        return NULL;
    if (overlap(&scores, &queries) || overlap(&scores, &keys))
        range_error(env, "scores overlaps an input");
    else
        PERFORM(env, ((Operation){.act = do_score, .heads = heads}), &position, &scores, &queries, &keys);
    return NULL;
}

static bool do_softmax(const Operation *o, const Heads *heads) {
    softmax_heads(o->arrays[0].data, heads);
    return true;
}

static napi_value call_softmax(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array scores, position;
    Heads heads = {0};
    if (!take_arguments(env, info, values, 3) || !take_vector(env, values[0], "scores", &scores) ||
        !take_count(env, values[1], "nHeads", MAX_LENGTH, &heads.n_heads) ||
        !take_position(env, values[2], &position))
        return NULL;
    heads.capacity = scores.length / heads.n_heads;
    if (scores.length % heads.n_heads != 0)
        range_error(env, "scores.length is no multiple of nHeads");
    else
        PERFORM(env, ((Operation){.act = do_softmax, .heads = heads}), &position, &scores);
    return NULL;
}

static bool do_mix(const Operation *o, const Heads *heads) {
    mix_heads(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, heads);
    return true;
}

static napi_value call_mix(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array out, weights, cached, position;
    Heads heads = {0};
    if (!take_arguments(env, info, values, 6) || !take_vector(env, values[0], "out", &out) ||
        !take_vector(env, values[1], "weights", &weights) || !take_vector(env, values[2], "values", &cached) ||
        !take_heads(env, values, &weights, &out, &cached, true, &heads, &position))
        return NULL;
    if (overlap(&out, &weights) || overlap(&out, &cached))
        range_error(env, "out overlaps an input");
    else
        PERFORM(env, ((Operation){.act = do_mix, .heads = heads}), &position, &out, &weights, &cached);
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

static bool do_swiglu(const Operation *o, const Heads *heads) {
    (void)heads;
    swiglu_values(o->arrays[0].data, o->arrays[1].data, o->arrays[0].length);
    return true;
}

static napi_value call_swiglu(napi_env env, napi_callback_info info) {
    Array gate, up;
    if (take_pair(env, info, "gate", &gate, "up", &up))
        PERFORM(env, (Operation){.act = do_swiglu}, NULL, &gate, &up);
    return NULL;
}

static bool do_rmsnorm(const Operation *o, const Heads *heads) {
    (void)heads;
    norm_values(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[0].length, o->in_order);
    return true;
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
        PERFORM(env, ((Operation){.act = do_rmsnorm, .in_order = in_order}), NULL, &out, &x, &weight);
    return NULL;
}

static bool do_set_angles(const Operation *o, const Heads *heads) {
    set_angles(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[0].length, heads->count - 1);
    return true;
}

static napi_value call_set_angles(napi_env env, napi_callback_info info) {
    napi_value values[4];
    Array cosines, sines, frequencies, position;
    const Heads heads = {.capacity = MAX_LENGTH};
    if (!take_arguments(env, info, values, 4) || !take_vector(env, values[0], "cosines", &cosines) ||
        !take_vector(env, values[1], "sines", &sines) || !take_vector(env, values[2], "frequencies", &frequencies) ||
        !take_position(env, values[3], &position))
        return NULL;
    if (cosines.length != frequencies.length || sines.length != frequencies.length)
        range_error(env, "cosines, sines and frequencies are not equally long");
    else if (overlap(&cosines, &sines) || overlap(&cosines, &frequencies) || overlap(&sines, &frequencies))
        range_error(env, "arrays overlap");
    else
        PERFORM(env, ((Operation){.act = do_set_angles, .heads = heads}), &position, &cosines, &sines, &frequencies);
    return NULL;
}

static bool do_rotate(const Operation *o, const Heads *heads) {
    (void)heads;
    const size_t head_dim = 2 * o->arrays[1].length;
    rotate_heads(o->arrays[0].data, o->arrays[0].length / head_dim, o->arrays[1].data, o->arrays[2].data, head_dim);
    return true;
}

static napi_value call_rotate(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array x, cosines, sines;
    if (!take_arguments(env, info, values, 3) || !take_vector(env, values[0], "x", &x) ||
        !take_vector(env, values[1], "cosines", &cosines) || !take_vector(env, values[2], "sines", &sines))
        return NULL;
    if (cosines.length != sines.length)
        range_error(env, "sines.length is not cosines.length");
    else if (cosines.length == 0 || x.length % (2 * cosines.length) != 0)
        range_error(env, "x.length is no multiple of 2 * cosines.length");
    else if (is_too_long(&x))
        range_error(env, "a vector is too long");
    else if (overlap(&x, &cosines) || overlap(&x, &sines))
        range_error(env, "x overlaps an input");
    else
        PERFORM(env, (Operation){.act = do_rotate}, NULL, &x, &cosines, &sines);
    return NULL;
}

static bool do_add(const Operation *o, const Heads *heads) {
    (void)heads;
    add_values(o->arrays[0].data, o->arrays[1].data, o->arrays[0].length);
    return true;
}

static napi_value call_add(napi_env env, napi_callback_info info) {
    Array x, delta;
    if (take_pair(env, info, "x", &x, "delta", &delta)) PERFORM(env, (Operation){.act = do_add}, NULL, &x, &delta);
    return NULL;
}

static bool do_remember(const Operation *o, const Heads *heads) {
    remember_heads(o->arrays[0].data, o->arrays[1].data, o->arrays[2].data, o->arrays[3].data, heads);
    return true;
}

static napi_value call_remember(napi_env env, napi_callback_info info) {
    napi_value values[7];
    Array keys, cached, key, value, position;
    Heads heads = {0};
    if (!take_arguments(env, info, values, 7) || !take_vector(env, values[0], "keys", &keys) ||
        !take_vector(env, values[1], "values", &cached) || !take_vector(env, values[2], "key", &key) ||
        !take_vector(env, values[3], "value", &value) ||
        !take_count(env, values[4], "nKvHeads", MAX_LENGTH, &heads.n_kv_heads) ||
        !take_count(env, values[5], "headDim", MAX_LENGTH, &heads.head_dim) ||
        !take_position(env, values[6], &position) || !find_capacity(env, &keys, false, &heads))
        return NULL;
    const size_t room = heads.capacity;
    if (!find_capacity(env, &cached, true, &heads)) return NULL;
    if (heads.capacity != room)
        range_error(env, "keys and values have room for different numbers of positions");
    else if (!is_product(key.length, heads.n_kv_heads, heads.head_dim) || value.length != key.length)
        range_error(env, "key and value are not nKvHeads times headDim long");
    else if (overlap(&keys, &cached) || overlap(&keys, &key) || overlap(&keys, &value) || overlap(&cached, &key) ||
             overlap(&cached, &value))
        range_error(env, "a cache overlaps another array");
    else
        PERFORM(env, ((Operation){.act = do_remember, .heads = heads}), &position, &keys, &cached, &key, &value);
    return NULL;
}

static napi_value call_argmax(napi_env env, napi_callback_info info) {
    napi_value values[1], index;
    Array x;
    if (!take_arguments(env, info, values, 1) || !take_vector(env, values[0], "x", &x) || refuse_recording(env))
        return NULL;
    if (x.length == 0 || is_too_long(&x)) {
        range_error(env, x.length == 0 ? "x is empty" : "a vector is too long");
        return NULL;
    }
    return napi_create_uint32(env, (uint32_t)index_of_largest(x.data, x.length), &index) == napi_ok ? index : NULL;
}

/* Ask the system for large pages for so many bytes from the first place in the buffer where one can begin. */
static napi_value call_enlarge_pages(napi_env env, napi_callback_info info) {
    const size_t page = 2 << 20;
    napi_value values[2], offset;
    void *data = NULL;
    size_t length = 0, bytes;
    if (!take_arguments(env, info, values, 2) || refuse_recording(env)) return NULL;
    if (napi_get_arraybuffer_info(env, values[0], &data, &length) != napi_ok) {
        type_error(env, "buffer must be an ArrayBuffer");
        return NULL;
    }
    const size_t first = (page - (uintptr_t)data % page) % page;
    if (!take_count(env, values[1], "bytes", first < length ? length - first : 0, &bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    /* The last page as well, if it lies in the buffer. Where the system has no large pages, nothing is lost. */
    const size_t room = (length - first) / page * page, wanted = (bytes + page - 1) / page * page;
    if (room > 0) madvise((char *)data + first, wanted < room ? wanted : room, MADV_HUGEPAGE);
#endif
    return napi_create_uint32(env, (uint32_t)first, &offset) == napi_ok ? offset : NULL;
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
        FUNCTION("setAngles", call_set_angles),
        FUNCTION("rotate", call_rotate),
        FUNCTION("add", call_add),
        FUNCTION("remember", call_remember),
        FUNCTION("record", call_record),
        FUNCTION("argmax", call_argmax),
        FUNCTION("enlargePages", call_enlarge_pages),
        VALUE("instructions", instructions),
        VALUE("lanes", lanes),
    };
    if (!start_recorder(env)) return NULL;
    if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
    return exports;
}
