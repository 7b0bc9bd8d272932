/* Arguments from JavaScript: each is checked, and the first that is wrong throws. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#define NAPI_VERSION 8
#include <limits.h>
#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_ARGUMENTS = 7, MAX_GROUP = 65536, MAX_LENGTH = INT_MAX / 2 };

/* A typed array that was checked. */
typedef struct {
    void *data;
    size_t length;
    size_t bytes;
    napi_value buffer;
} Array;

/* Throw, unless an exception waits already. Always false. */
bool type_error(napi_env env, const char *message);
bool range_error(napi_env env, const char *message);

/* Each returns whether the argument is right, having thrown if it is not. */

/* Exactly that many arguments. */
bool take_arguments(napi_env env, napi_callback_info info, napi_value *values, size_t expected);
bool take_vector(napi_env env, napi_value value, const char *name, Array *array);
bool take_codes(napi_env env, napi_value value, const char *name, Array *array);
/* An Int32Array of one item. */
bool take_position(napi_env env, napi_value value, Array *array);
/* A whole number from 1 to most. */
bool take_count(napi_env env, napi_value value, const char *name, size_t most, size_t *count);
bool take_truth(napi_env env, napi_value value, const char *name, bool *truth);

/* Whether length is a * b, which may not fit a size_t. */
bool is_product(size_t length, size_t a, size_t b);

/* Kernels count the elements of a vector in int. */
bool is_too_long(const Array *vector);

bool overlap(const Array *a, const Array *b);

#endif
