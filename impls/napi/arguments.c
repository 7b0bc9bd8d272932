#include "arguments.h"

#include <stdio.h>

/* An exception of V8's own, if one is waiting, stays as it is. */
static bool is_pending(napi_env env) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    return pending;
}

bool type_error(napi_env env, const char *message) {
    if (!is_pending(env)) napi_throw_type_error(env, NULL, message);
    return false;
}

bool range_error(napi_env env, const char *message) {
    if (!is_pending(env)) napi_throw_range_error(env, NULL, message);
    return false;
}

bool take_arguments(napi_env env, napi_callback_info info, napi_value *values, size_t expected) {
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

static const char *name_of(napi_typedarray_type type) {
    if (type == napi_int8_array) return "an Int8Array";
    return type == napi_int32_array ? "an Int32Array" : "a Float32Array";
}

static bool take_array(napi_env env, napi_value value, const char *name, napi_typedarray_type type, Array *array) {
    char message[96];
    napi_typedarray_type found = napi_uint8_array;
    if (napi_get_typedarray_info(env, value, &found, &array->length, &array->data, &array->buffer, NULL) != napi_ok ||
        found != type) {
        snprintf(message, sizeof message, "%s must be %s", name, name_of(type));
        return type_error(env, message);
    }
    /* One whose buffer is detached has no length any more. */
    bool is_detached = false;
    if (array->length == 0 &&
        (napi_is_detached_arraybuffer(env, array->buffer, &is_detached) != napi_ok || is_detached)) {
        snprintf(message, sizeof message, "the buffer of %s is detached", name);
        return type_error(env, message);
    }
    array->bytes = array->length * (type == napi_int8_array ? 1 : sizeof(int32_t)); /* a float32 has as many */
    return true;
}

bool take_vector(napi_env env, napi_value value, const char *name, Array *array) {
    return take_array(env, value, name, napi_float32_array, array);
}

bool take_codes(napi_env env, napi_value value, const char *name, Array *array) {
    return take_array(env, value, name, napi_int8_array, array);
}

bool take_position(napi_env env, napi_value value, Array *array) {
    if (!take_array(env, value, "position", napi_int32_array, array)) return false;
    return array->length == 1 || range_error(env, "position must have one item");
}

bool take_count(napi_env env, napi_value value, const char *name, size_t most, size_t *count) {
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

bool take_truth(napi_env env, napi_value value, const char *name, bool *truth) {
    char message[96];
    if (napi_get_value_bool(env, value, truth) == napi_ok) return true;
    snprintf(message, sizeof message, "%s must be true or false", name);
    return type_error(env, message);
}

bool is_product(size_t length, size_t a, size_t b) {
    if (a == 0 || b == 0) return length == 0;
    return length % a == 0 && length / a == b;
}

bool is_too_long(const Array *vector) {
    return vector->length > MAX_LENGTH;
}

bool overlap(const Array *a, const Array *b) {
    if (a->bytes == 0 || b->bytes == 0) return false;
    const uintptr_t a_start = (uintptr_t)a->data, b_start = (uintptr_t)b->data;
    return a_start < b_start + b->bytes && b_start < a_start + a->bytes;
}
