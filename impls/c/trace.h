/* The trace (docs/trace.md): what the forward pass computes goes to the file that HARNESS_TRACE names.
 *
 *     open_trace()                     once, first of all
 *     is_traced()                      whether a trace is asked for
 *     trace(name, layer, pos, x, n)    records n values; costs a branch where no trace is asked for
 *
 * A part of run.c. Records are written by one thread, in the byte order of the machine, which is little-endian. */
#ifndef TRACE_H
#define TRACE_H

static FILE *trace_file;

static inline bool is_traced(void) {
    return trace_file != NULL;
}

static void close_trace(void) {
    const bool is_whole = !ferror(trace_file);
    if (fclose(trace_file) == 0 && is_whole) return;
    fprintf(stderr, "run: HARNESS_TRACE: cannot write the trace\n");
    _exit(EXIT_FAILURE);
}

static void open_trace(void) {
    const char *path = getenv("HARNESS_TRACE");
    if (path == NULL || *path == '\0') return;
    trace_file = fopen(path, "wb");
    if (trace_file == NULL) die("HARNESS_TRACE: cannot write %s", path);
    fputs("harness-trace 1\n", trace_file);
    atexit(close_trace);
}

static void record(const char *name, int layer, int pos, const float *x, size_t n) {
    fprintf(trace_file, "%s %d %d %zu\n", name, layer, pos, n);
    fwrite(x, sizeof *x, n, trace_file);
}

static inline void trace(const char *name, int layer, int pos, const float *x, size_t n) {
    if (is_traced()) record(name, layer, pos, x, n);
}

#endif
