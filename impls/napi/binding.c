/* Kernel functions for Node: checks every argument, throws, and never computes.
 *
 *     matmul(out, weights, x)                                            all Float32Array
 *     matmulQ8(out, codes, scales, xCodes, xScales, group)               codes are Int8Array
 *     instructions                                                       string
 *
 * Rows are out.length, columns x.length. TypeError: a wrong number or type of arguments, or a detached buffer.
 * RangeError: lengths that do not fit each other, or an out that overlaps what is read. */
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdbool.h>
#include <stdio.h>

#include "kernel.h"

enum { MAX_ARGUMENTS = 6, MAX_GROUP = 65536 };

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
    bool is_typed_array = false, is_detached = false;
    napi_typedarray_type found = napi_uint8_array;
    napi_value buffer;
    if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array ||
        napi_get_typedarray_info(env, value, &found, &array->length, &array->data, &buffer, NULL) != napi_ok ||
        found != type) {
        snprintf(message, sizeof message, "%s must be %s", name,
                 type == napi_float32_array ? "a Float32Array" : "an Int8Array");
        return type_error(env, message);
    }
    if (napi_is_detached_arraybuffer(env, buffer, &is_detached) != napi_ok || is_detached) {
        snprintf(message, sizeof message, "the buffer of %s is detached", name);
        return type_error(env, message);
    }
    array->bytes = array->length * (type == napi_float32_array ? sizeof(float) : 1);
    return true;
}

/* Whether length is a * b, which may not fit a size_t. */
static bool is_product(size_t length, size_t a, size_t b) {
    if (a == 0 || b == 0) return length == 0;
    return length % a == 0 && length / a == b;
}

static bool overlap(const Array *a, const Array *b) {
    if (a->bytes == 0 || b->bytes == 0) return false;
    const uintptr_t a_start = (uintptr_t)a->data, b_start = (uintptr_t)b->data;
    return a_start < b_start + b->bytes && b_start < a_start + a->bytes;
}

static napi_value call_matmul(napi_env env, napi_callback_info info) {
    napi_value values[3];
    Array out, weights, x;
    if (!take_arguments(env, info, values, 3) || !take_array(env, values[0], "out", napi_float32_array, &out) ||
        !take_array(env, values[1], "weights", napi_float32_array, &weights) ||
        !take_array(env, values[2], "x", napi_float32_array, &x))
        return NULL;
    if (!is_product(weights.length, out.length, x.length))
        range_error(env, "weights.length is not out.length * x.length");
    else if (overlap(&out, &weights) || overlap(&out, &x))
        range_error(env, "out overlaps an input");
    else
        matmul(out.data, weights.data, x.data, out.length, x.length);
    return NULL;
}

/* A whole number from 1 to MAX_GROUP. */
static bool take_group(napi_env env, napi_value value, size_t *group) {
    double number = 0;
    if (napi_get_value_double(env, value, &number) != napi_ok) return type_error(env, "group must be a number");
    if (!(number >= 1 && number <= MAX_GROUP) || number != (double)(size_t)number)
        return range_error(env, "group must be a whole number from 1 to 65536");
    *group = (size_t)number;
    return true;
}

static napi_value call_matmul_q8(napi_env env, napi_callback_info info) {
    napi_value values[6];
    Array out, codes, scales, x_codes, x_scales;
    size_t group;
    if (!take_arguments(env, info, values, 6) || !take_array(env, values[0], "out", napi_float32_array, &out) ||
        !take_array(env, values[1], "codes", napi_int8_array, &codes) ||
        !take_array(env, values[2], "scales", napi_float32_array, &scales) ||
        !take_array(env, values[3], "xCodes", napi_int8_array, &x_codes) ||
        !take_array(env, values[4], "xScales", napi_float32_array, &x_scales) || !take_group(env, values[5], &group))
        return NULL;
    if (!is_product(codes.length, out.length, x_codes.length))
        range_error(env, "codes.length is not out.length * xCodes.length");
    else if (scales.length < codes.length / group)
        range_error(env, "there are fewer scales than groups of codes");
    else if (x_scales.length < x_codes.length / group)
        range_error(env, "there are fewer xScales than groups of xCodes");
    else if (overlap(&out, &codes) || overlap(&out, &scales) || overlap(&out, &x_codes) || overlap(&out, &x_scales))
        range_error(env, "out overlaps an input");
    else
        matmul_q8(out.data, codes.data, scales.data, x_codes.data, x_scales.data, out.length, x_codes.length, group);
    return NULL;
}

NAPI_MODULE_INIT() {
    napi_value instructions;
    if (napi_create_string_utf8(env, kernel_instructions(), NAPI_AUTO_LENGTH, &instructions) != napi_ok) return NULL;
    const napi_property_descriptor properties[] = {
        {.utf8name = "matmul", .method = call_matmul, .attributes = napi_enumerable},
        {.utf8name = "matmulQ8", .method = call_matmul_q8, .attributes = napi_enumerable},
        {.utf8name = "instructions", .value = instructions, .attributes = napi_enumerable},
    };
    if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
    return exports;
}
