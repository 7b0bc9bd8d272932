/* Operations on checked arrays: done at once, or while a pass is recorded kept, to be done again and again.
 *
 * A call from JavaScript costs the more the more arrays it brings, and a token takes a hundred of them. What a recorded
 * pass repeats was checked once; before each repetition it is made sure that the memory is still there. */
#ifndef PASSES_H
#define PASSES_H

#include "arguments.h"
#include "kernel.h"

enum { MAX_ARRAYS = 5 };

typedef struct Operation Operation;
struct Operation {
    /* False: out of memory. The heads are the operation's own, with the count that position gives them. */
    bool (*act)(const Operation *o, const Heads *heads);
    struct {
        void *data;
        size_t length;
    } arrays[MAX_ARRAYS]; /* in the order of the arguments */
    size_t group;
    bool in_order;
    Heads heads;             /* shapes; count means nothing yet */
    const int32_t *position; /* must lie below heads.capacity when the operation is done; NULL: needs none */
};

/* What is recorded in an environment; it ends with it. False: the environment gave none. */
bool start_recorder(napi_env env);

/* Do o with those arrays, or record it. position may be NULL. Throws what hinders it. */
void perform(napi_env env, Operation o, const Array *const *arrays, size_t n_arrays, const Array *position);

/* Whether a pass is recorded, which throws: for what cannot be put off. */
bool refuse_recording(napi_env env);

/* record(pass): calls the function, and returns one that does what was asked for meanwhile. */
napi_value call_record(napi_env env, napi_callback_info info);

#endif
