#include "passes.h"

#include <stdlib.h>
#include <string.h>

/* Memory that operations point into. Its reference is weak: JavaScript may give the memory up. */
typedef struct {
    napi_ref reference;
    void *data;
    size_t bytes;
} Buffer;

typedef struct Pass Pass;
struct Pass {
    napi_ref function; /* weak, too: once nobody can call it the pass is over */
    Operation *operations;
    Buffer *buffers;
    size_t n_operations, n_buffers;
    Pass *next;
};

typedef struct {
    Pass *recording; /* NULL: operations are done at once */
    Pass *recorded;
} Recorder;

static Recorder *recorder_of(napi_env env) {
    void *recorder = NULL;
    napi_get_instance_data(env, &recorder);
    return recorder;
}

/* ---- The life of a pass */

static void free_pass(napi_env env, Pass *pass) {
    if (pass == NULL) return;
    for (size_t i = 0; i < pass->n_buffers; i++) napi_delete_reference(env, pass->buffers[i].reference);
    if (pass->function != NULL) napi_delete_reference(env, pass->function);
    free(pass->buffers);
    free(pass->operations);
    free(pass);
}

static bool is_over(napi_env env, const Pass *pass) {
    napi_value function = NULL;
    return napi_get_reference_value(env, pass->function, &function) != napi_ok || function == NULL;
}

/* Finalizers would wait for an event loop, to which a program that reads its input synchronously never returns. */
static void free_those_over(napi_env env, Recorder *recorder) {
    for (Pass **link = &recorder->recorded; *link != NULL;) {
        Pass *pass = *link;
        if (!is_over(env, pass)) {
            link = &pass->next;
            continue;
        }
        *link = pass->next;
        free_pass(env, pass);
    }
}

static void end_recorder(napi_env env, void *data, void *hint) {
    (void)hint;
    Recorder *recorder = data;
    for (Pass *pass = recorder->recorded, *next; pass != NULL; pass = next) {
        next = pass->next;
        free_pass(env, pass);
    }
    free(recorder);
}

bool start_recorder(napi_env env) {
    Recorder *recorder = calloc(1, sizeof *recorder);
    if (recorder == NULL) return range_error(env, "out of memory");
    if (napi_set_instance_data(env, recorder, end_recorder, NULL) == napi_ok) return true;
    free(recorder);
    return false;
}

/* ---- Recording */

/* Room for one item more, doubled whenever count reaches a power of two; NULL: out of memory, and items stay. */
static void *grown(void *items, size_t count, size_t size) {
    return (count & (count - 1)) == 0 ? realloc(items, (count == 0 ? 1 : 2 * count) * size) : items;
}

static bool keep_buffer(napi_env env, Pass *pass, const Array *array) {
    Buffer buffer = {0};
    if (array->bytes == 0) return true;
    if (napi_get_arraybuffer_info(env, array->buffer, &buffer.data, &buffer.bytes) != napi_ok)
        return type_error(env, "a pass cannot be recorded with shared memory");
    for (size_t i = 0; i < pass->n_buffers; i++)
        if (pass->buffers[i].data == buffer.data && pass->buffers[i].bytes == buffer.bytes) return true;
    Buffer *buffers = grown(pass->buffers, pass->n_buffers, sizeof *buffers);
    if (buffers == NULL) return range_error(env, "out of memory");
    pass->buffers = buffers;
    if (napi_create_reference(env, array->buffer, 0, &buffer.reference) != napi_ok)
        return type_error(env, "a buffer cannot be referred to");
    buffers[pass->n_buffers++] = buffer;
    return true;
}

static bool keep_operation(napi_env env, Pass *pass, const Operation *o) {
    Operation *operations = grown(pass->operations, pass->n_operations, sizeof *operations);
    if (operations == NULL) return range_error(env, "out of memory");
    pass->operations = operations;
    operations[pass->n_operations++] = *o;
    return true;
}

bool refuse_recording(napi_env env) {
    return recorder_of(env)->recording != NULL && !type_error(env, "this cannot be recorded");
}

/* ---- Doing */

static bool act(napi_env env, const Operation *o) {
    Heads heads = o->heads;
    if (o->position != NULL) {
        const int32_t position = *o->position;
        if (position < 0 || position >= MAX_LENGTH || (size_t)position >= heads.capacity)
            return range_error(env, "position is beyond what there is room for");
        heads.count = (size_t)position + 1;
    }
    return o->act(o, &heads) || range_error(env, "out of memory");
}

void perform(napi_env env, Operation o, const Array *const *arrays, size_t n_arrays, const Array *position) {
    Pass *pass = recorder_of(env)->recording;
    for (size_t i = 0; i < n_arrays; i++) {
        o.arrays[i].data = arrays[i]->data;
        o.arrays[i].length = arrays[i]->length;
    }
    o.position = position == NULL ? NULL : position->data;
    if (pass == NULL) {
        act(env, &o);
        return;
    }
    for (size_t i = 0; i < n_arrays; i++)
        if (!keep_buffer(env, pass, arrays[i])) return;
    if (position == NULL || keep_buffer(env, pass, position)) keep_operation(env, pass, &o);
}

static bool is_there(napi_env env, const Buffer *buffer) {
    napi_value value = NULL;
    void *data = NULL;
    size_t bytes = 0;
    return napi_get_reference_value(env, buffer->reference, &value) == napi_ok && value != NULL &&
           napi_get_arraybuffer_info(env, value, &data, &bytes) == napi_ok && data == buffer->data &&
           bytes == buffer->bytes;
}

static napi_value repeat(napi_env env, napi_callback_info info) {
    void *data = NULL;
    size_t count = 0;
    if (napi_get_cb_info(env, info, &count, NULL, NULL, &data) != napi_ok || count != 0) {
        type_error(env, "a recorded pass takes no arguments");
        return NULL;
    }
    if (refuse_recording(env)) return NULL;
    const Pass *pass = data;
    for (size_t i = 0; i < pass->n_buffers; i++) {
        if (is_there(env, &pass->buffers[i])) continue;
        type_error(env, "memory of the recorded pass is gone");
        return NULL;
    }
    for (size_t i = 0; i < pass->n_operations; i++)
        if (!act(env, &pass->operations[i])) break;
    return NULL;
}

/* Call what is to be recorded. False: it threw. */
static bool record_calls(napi_env env, Recorder *recorder, Pass *pass, napi_value function) {
    napi_value undefined;
    recorder->recording = pass;
    const bool ok = napi_get_undefined(env, &undefined) == napi_ok &&
                    napi_call_function(env, undefined, function, 0, NULL, NULL) == napi_ok;
    recorder->recording = NULL;
    return ok;
}

napi_value call_record(napi_env env, napi_callback_info info) {
    napi_value given, function;
    napi_valuetype type;
    if (!take_arguments(env, info, &given, 1)) return NULL;
    if (napi_typeof(env, given, &type) != napi_ok || type != napi_function) {
        type_error(env, "pass must be a function");
        return NULL;
    }
    Recorder *recorder = recorder_of(env);
    if (recorder->recording != NULL) {
        type_error(env, "a pass is recorded already");
        return NULL;
    }
    free_those_over(env, recorder);
    Pass *pass = calloc(1, sizeof *pass);
    if (pass == NULL) {
        range_error(env, "out of memory");
        return NULL;
    }
    if (!record_calls(env, recorder, pass, given) ||
        napi_create_function(env, "repeat", NAPI_AUTO_LENGTH, repeat, pass, &function) != napi_ok ||
        napi_create_reference(env, function, 0, &pass->function) != napi_ok) {
        free_pass(env, pass);
        return NULL;
    }
    pass->next = recorder->recorded;
    recorder->recorded = pass;
    return function;
}
