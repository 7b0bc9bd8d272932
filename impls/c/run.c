/* run: Llama-architecture inference in C, for checkpoints of the llama2.c family.
 *
 * Reads version 0 (float32) and version 2 (int8) checkpoints and prints what llama2.c prints, byte for byte.
 *
 *     cc -O3 -std=gnu11 -pthread -o run run.c -lm
 *
 * kernels.h has the arithmetic, in the vector instructions that the processor has; vectors.h is their common form;
 * threads.h shares out the work; trace.h records what comes of it, where that is asked for. Everything else is here. Two
 * rules run through all of it.
 *
 * Arithmetic. Where the weights are int8, every sum is taken from left to right in float32, product and addition rounded
 * separately, with libm's own expf, cosf, sinf and powf: int8 text changes with the last bit of a logit. Loops are
 * arranged freely (several rows side by side, heads on threads), but never the terms of one sum. float32 text hardly
 * ever notices, so there the sums of matrix rows are spread over vectors; -DSTRICT, or RUN_PATH=strict in the
 * environment, sums in order there too.
 *
 * Trust. The checkpoint and the tokenizer are untrusted input. A size from a file is compared with the bytes that are
 * there before anything is allocated or indexed by it; what does not fit ends in one line on stderr and exit status 1.
 */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE /* madvise */
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian and used in place: a big-endian machine needs a byte-swapping reader"
#endif

#include "kernels.h"
#include "threads.h"

enum { BOS = 1, EOS = 2, FIRST_BYTE_PIECE = 3 }; /* ids that every vocabulary of the family reserves */

/* ---- Errors, memory, files ------------------------------------------------------------------------------------ */

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("run: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

static size_t times(size_t a, size_t b) {
    if (b != 0 && a > SIZE_MAX / b) die("out of memory: the model needs more than the address space");
    return a * b;
}

/* Zeroed memory for count items. */
static void *allocate(size_t count, size_t item_bytes) {
    void *memory = calloc(count, item_bytes);
    if (memory == NULL) die("out of memory: cannot allocate %zu x %zu bytes", count, item_bytes);
    return memory;
}

/* The same, beginning at a cache line: for what is read again and again by vectors. Touches all of it. */
static void *allocate_lines(size_t count, size_t item_bytes) {
    void *memory;
    const size_t bytes = times(count, item_bytes);
    if (posix_memalign(&memory, 64, bytes) != 0)
        die("out of memory: cannot allocate %zu x %zu bytes", count, item_bytes);
    return memset(memory, 0, bytes);
}

/* Ints inside a file need not be aligned, as floats need not (float_at). */
static int32_t int_at(const unsigned char *bytes) {
    int32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

typedef struct {
    const char *path;
    const unsigned char *bytes;
    size_t size;
    bool is_mapped;
} File;

/* A large file in large pages, which a mapped file does not get: reading every weight for every token then misses the
 * address translation far less often. NULL where there are none, or where the copy would be much of all memory. */
static void *in_large_pages(int descriptor, size_t size) {
#ifdef MADV_HUGEPAGE
    enum { LARGE_PAGE = 2 << 20 };
    const long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (size < 4 * (size_t)LARGE_PAGE || n_pages < 4 || size / (size_t)page_bytes > (size_t)n_pages / 4) return NULL;
    void *memory;
    if (posix_memalign(&memory, LARGE_PAGE, size) != 0) return NULL;
    madvise(memory, size, MADV_HUGEPAGE); /* if there are none, nothing is lost */
    for (size_t done = 0; done < size;) {
        const ssize_t got = pread(descriptor, (char *)memory + done, size - done, (off_t)done);
        if (got <= 0) {
            free(memory);
            return NULL;
        }
        done += (size_t)got;
    }
    return memory;
#else
    (void)descriptor, (void)size;
    return NULL;
#endif
}

static File open_file(const char *path) {
    const int descriptor = open(path, O_RDONLY);
    if (descriptor < 0) die("couldn't open file %s", path);
    struct stat status;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) die("%s: not a regular file", path);
    if (status.st_size == 0) die("%s: the file is empty", path);
    File file = {.path = path, .size = (size_t)status.st_size};
    void *bytes = in_large_pages(descriptor, file.size);
    file.is_mapped = bytes == NULL;
    if (file.is_mapped) {
        bytes = mmap(NULL, file.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (bytes == MAP_FAILED) die("%s: mmap failed", path);
        /* Without this the kernel gives up reading ahead in a file that memory does not hold, and waits page by page. */
        posix_madvise(bytes, file.size, POSIX_MADV_SEQUENTIAL);
    }
    file.bytes = bytes;
    close(descriptor);
    return file;
}

static void close_file(File file) {
    if (file.is_mapped)
        munmap((void *)file.bytes, file.size);
    else
        free((void *)file.bytes);
}

/* Reads a file front to back and never past its end. */
typedef struct {
    File file;
    size_t pos;
} Reader;

/* The next a x b items, after checking that they exist. Dividing what is left, rather than multiplying what is wanted,
 * keeps the check free of overflow whatever a hostile header asks for. */
static const unsigned char *take(Reader *reader, const char *what, size_t a, size_t b, size_t item_bytes) {
    const size_t left = reader->file.size - reader->pos;
    if (a == 0 || b > left / item_bytes / a)
        die("%s: truncated or inconsistent: %s at byte %zu needs %zu x %zu items of %zu bytes, %zu bytes are left",
            reader->file.path, what, reader->pos, a, b, item_bytes, left);
    const unsigned char *at = reader->file.bytes + reader->pos;
    reader->pos += a * b * item_bytes;
    return at;
}

/* ---- Model: what a checkpoint holds --------------------------------------------------------------------------- */

typedef struct {
    int dim;        /* width of the residual stream */
    int hidden_dim; /* width of the feed-forward block */
    int n_layers;
    int n_heads;    /* query heads */
    int n_kv_heads; /* key/value heads; each serves n_heads / n_kv_heads query heads */
    int vocab_size;
    int seq_len; /* longest context */
    int head_dim, kv_dim;
} Config;

typedef struct {
    const float *attn_norm, *ffn_norm; /* (dim) */
    Matrix wq, wk, wv, wo;             /* (dim, dim), (kv_dim, dim), (kv_dim, dim), (dim, dim) */
    Matrix w_gate, w_down, w_up;       /* w1 (hidden_dim, dim), w2 (dim, hidden_dim), w3 (hidden_dim, dim) */
} Layer;

typedef struct {
    Config config;
    int group; /* int8 values per scale; 0 means float32 weights */
    Matrix tok_embedding, lm_head;
    Layer *layers;
    const float *final_norm;
    File file; /* every tensor above points into it */
} Model;

static Config read_config(Reader *reader) {
    const unsigned char *fields = take(reader, "header", 1, 7, sizeof(int32_t));
    Config c = {
        .dim = int_at(fields),
        .hidden_dim = int_at(fields + 4),
        .n_layers = int_at(fields + 8),
        .n_heads = int_at(fields + 12),
        .n_kv_heads = int_at(fields + 16),
        .vocab_size = int_at(fields + 20),
        .seq_len = int_at(fields + 24),
    };
    return c;
}

/* Reject dimensions the formulas below cannot mean, and derive the per-head sizes. */
static void check_config(Config *c, const char *path) {
    if (c->dim <= 0 || c->hidden_dim <= 0 || c->n_layers <= 0 || c->n_heads <= 0 || c->n_kv_heads <= 0 ||
        c->vocab_size <= 0 || c->seq_len <= 0)
        die("%s: bad header: dim %d, hidden_dim %d, n_layers %d, n_heads %d, n_kv_heads %d, vocab_size %d, seq_len %d "
            "must all be positive",
            path, c->dim, c->hidden_dim, c->n_layers, c->n_heads, c->n_kv_heads, c->vocab_size, c->seq_len);
    if (c->dim % c->n_heads != 0 || c->dim / c->n_heads % 2 != 0)
        die("%s: bad header: dim %d does not split into %d heads of even width", path, c->dim, c->n_heads);
    if (c->n_heads % c->n_kv_heads != 0)
        die("%s: bad header: %d heads cannot share %d key/value heads evenly", path, c->n_heads, c->n_kv_heads);
    if (c->vocab_size <= BOS) die("%s: bad header: a vocabulary of %d has no BOS", path, c->vocab_size);
    c->head_dim = c->dim / c->n_heads;
    c->kv_dim = c->head_dim * c->n_kv_heads;
}

static const float *read_vector(Reader *reader, const char *what, int size) {
    return (const float *)(const void *)take(reader, what, 1, (size_t)size, sizeof(float));
}

static Matrix read_matrix(Reader *reader, const char *what, int rows, int cols, int group) {
    Matrix m = {.rows = rows, .cols = cols, .group = group};
    if (group == 0) {
        m.f32 = (const float *)(const void *)take(reader, what, (size_t)rows, (size_t)cols, sizeof(float));
    } else {
        m.codes = (const int8_t *)take(reader, what, (size_t)rows, (size_t)cols, 1);
        m.scales = take(reader, what, 1, (size_t)rows * (size_t)cols / (size_t)group, sizeof(float));
    }
    return m;
}

/* All layers of one kind of tensor lie together in the file. */
#define FOR_EACH_LAYER(model) \
    for (Layer *layer = (model)->layers; layer < (model)->layers + (model)->config.n_layers; layer++)

static void read_attn_norms(Model *model, Reader *reader) {
    FOR_EACH_LAYER(model) layer->attn_norm = read_vector(reader, "attn_norm", model->config.dim);
}

static void read_ffn_norms(Model *model, Reader *reader) {
    FOR_EACH_LAYER(model) layer->ffn_norm = read_vector(reader, "ffn_norm", model->config.dim);
}

static void read_attention_weights(Model *model, Reader *reader) {
    const int dim = model->config.dim, kv_dim = model->config.kv_dim, group = model->group;
    FOR_EACH_LAYER(model) layer->wq = read_matrix(reader, "wq", dim, dim, group);
    FOR_EACH_LAYER(model) layer->wk = read_matrix(reader, "wk", kv_dim, dim, group);
    FOR_EACH_LAYER(model) layer->wv = read_matrix(reader, "wv", kv_dim, dim, group);
    FOR_EACH_LAYER(model) layer->wo = read_matrix(reader, "wo", dim, dim, group);
}

static void read_ffn_weights(Model *model, Reader *reader) {
    const int dim = model->config.dim, hidden_dim = model->config.hidden_dim, group = model->group;
    FOR_EACH_LAYER(model) layer->w_gate = read_matrix(reader, "w1", hidden_dim, dim, group);
    FOR_EACH_LAYER(model) layer->w_down = read_matrix(reader, "w2", dim, hidden_dim, group);
    FOR_EACH_LAYER(model) layer->w_up = read_matrix(reader, "w3", hidden_dim, dim, group);
}

/* Each layer has at least a norm in the file, which bounds the table of layers by the size of the file. */
static void allocate_layers(Model *model, const Reader *reader) {
    Reader probe = *reader;
    take(&probe, "norms of all layers", (size_t)model->config.n_layers, (size_t)model->config.dim, sizeof(float));
    model->layers = allocate((size_t)model->config.n_layers, sizeof(Layer));
}

/* Version 0: 28-byte header without magic, float32. A negative vocabulary size says that the classifier is stored. */
static void read_v0(Model *model, Reader *reader) {
    Config *c = &model->config;
    *c = read_config(reader);
    const bool tied = c->vocab_size > 0;
    if (c->vocab_size < 0 && c->vocab_size != INT32_MIN) c->vocab_size = -c->vocab_size;
    check_config(c, reader->file.path);

    model->tok_embedding = read_matrix(reader, "token embedding", c->vocab_size, c->dim, 0);
    allocate_layers(model, reader);
    read_attn_norms(model, reader);
    read_attention_weights(model, reader);
    read_ffn_norms(model, reader);
    read_ffn_weights(model, reader);
    model->final_norm = read_vector(reader, "final norm", c->dim);
    model->lm_head = model->tok_embedding;
    if (!tied) {
        /* Cosine and sine tables nobody reads. A tied file has nothing behind them, so they may even be missing. */
        take(reader, "RoPE tables", (size_t)c->seq_len, (size_t)c->head_dim, sizeof(float));
        model->lm_head = read_matrix(reader, "classifier", c->vocab_size, c->dim, 0);
    }
}

/* Version 2: 256-byte header with magic, norms in float32, everything else in int8 groups. */
static void read_v2(Model *model, Reader *reader) {
    Config *c = &model->config;
    *c = read_config(reader);
    check_config(c, reader->file.path);
    const bool tied = *take(reader, "header", 1, 1, 1) != 0;
    model->group = int_at(take(reader, "header", 1, 1, sizeof(int32_t)));
    /* Dividing dim, the group size divides every tensor; up to 2^16, the int32 sum over a group cannot overflow. */
    if (model->group <= 0 || model->group > 1 << 16 || c->dim % model->group != 0)
        die("%s: bad header: group size %d does not divide dim %d", reader->file.path, model->group, c->dim);
    reader->pos = 0;
    take(reader, "header", 1, 256, 1);

    allocate_layers(model, reader);
    read_attn_norms(model, reader);
    read_ffn_norms(model, reader);
    model->final_norm = read_vector(reader, "final norm", c->dim);
    model->tok_embedding = read_matrix(reader, "token embedding", c->vocab_size, c->dim, model->group);
    read_attention_weights(model, reader);
    read_ffn_weights(model, reader);
    model->lm_head = model->tok_embedding;
    if (!tied) model->lm_head = read_matrix(reader, "classifier", c->vocab_size, c->dim, model->group);
}

static Model load_model(const char *path) {
    const int32_t magic = 0x616b3432;
    Model model = {.file = open_file(path)};
    Reader reader = {.file = model.file};
    if (int_at(take(&reader, "header", 1, 1, sizeof(int32_t))) != magic) {
        reader.pos = 0;
        read_v0(&model, &reader);
        return model;
    }
    const int32_t version = int_at(take(&reader, "header", 1, 1, sizeof(int32_t)));
    if (version != 2) die("%s: checkpoint version %d is not supported, only 0 and 2 are", path, version);
    read_v2(&model, &reader);
    return model;
}

static void free_model(Model *model) {
    free(model->layers);
    close_file(model->file);
}

/* ---- Forward pass --------------------------------------------------------------------------------------------- */

#include "trace.h"

/* One row as float32: the embedding of a token. */
static void copy_row(float *out, const Matrix *m, int row) {
    const size_t start = (size_t)row * m->cols;
    for (int j = 0; j < m->cols; j++)
        out[j] = m->group == 0
                     ? m->f32[start + j]
                     : m->codes[start + j] * float_at(m->scales + sizeof(float) * ((start + j) / m->group));
}

/* Everything one sequence needs besides the weights. */
typedef struct {
    const Kernels *kernels;
    int capacity;           /* positions the caches hold: the steps of this run, at most seq_len, in whole blocks */
    int value_width;        /* head_dim in whole vectors */
    float *x;               /* (dim) residual stream */
    float *normed;          /* (dim) output of a norm or of attention: what a matrix reads next */
    float *delta;           /* (dim) what a block adds to x */
    float *q;               /* (dim) */
    float *k, *v;           /* (kv_dim) */
    float *gate, *up;       /* (hidden_dim) */
    float *scores;          /* (n_heads, capacity) */
    float *keys;            /* (n_layers, n_kv_heads, capacity / lanes, head_dim, lanes), rotated */
    float *values;          /* (n_layers, n_kv_heads, capacity, value_width), zeros after head_dim */
    float *frequencies;     /* (head_dim / 2) */
    float *cosines, *sines; /* (head_dim / 2) at the current position */
    float *logits;          /* (vocab_size) */
    float *raw_scores;      /* (n_heads, positions so far) before the softmax; only for a trace, as is the next */
    float *raw_gate;        /* (hidden_dim) before the activation */
    Input input;            /* buffers for the vector being multiplied */
} State;

/* RUN_PATH names the path to take, for tests and comparisons. */
static const Kernels *find_kernels(void) {
    const char *name = getenv("RUN_PATH");
    const Kernels *kernels = choose_kernels(name);
    if (kernels != NULL) return kernels;
    char names[256] = "";
    for (int i = 0; i < N_PATHS; i++)
        if (PATHS[i].is_supported()) snprintf(names + strlen(names), sizeof names - strlen(names), " %s", PATHS[i].name);
    die("RUN_PATH: no path %s on this machine, only%s", name, names);
}

static int in_whole(int unit, int n) {
    return (int)(((int64_t)n + unit - 1) / unit * unit);
}

static State new_state(const Config *c, int group, int n_positions) {
    const Kernels *kernels = find_kernels();
    const size_t dim = c->dim, kv_dim = c->kv_dim, hidden_dim = c->hidden_dim, half = c->head_dim / 2;
    if (n_positions > INT32_MAX - kernels->lanes || c->head_dim > INT32_MAX - kernels->lanes)
        die("out of memory: the model needs more than the address space");
    const int capacity = in_whole(kernels->lanes, n_positions), value_width = in_whole(kernels->lanes, c->head_dim);
    const size_t cached = times((size_t)c->n_layers, (size_t)capacity);
    State s = {
        .kernels = kernels,
        .capacity = capacity,
        .value_width = value_width,
        .x = allocate_lines(dim, sizeof(float)),
        .normed = allocate_lines(dim, sizeof(float)),
        .delta = allocate_lines(dim, sizeof(float)),
        .q = allocate_lines(dim, sizeof(float)),
        .k = allocate_lines(kv_dim, sizeof(float)),
        .v = allocate_lines(kv_dim, sizeof(float)),
        .gate = allocate_lines(hidden_dim, sizeof(float)),
        .up = allocate_lines(hidden_dim, sizeof(float)),
        .scores = allocate(times((size_t)c->n_heads, (size_t)capacity), sizeof(float)),
        .keys = allocate(times(cached, kv_dim), sizeof(float)),
        .values = allocate(times(times(cached, (size_t)c->n_kv_heads), (size_t)value_width), sizeof(float)),
        .frequencies = allocate(half, sizeof(float)),
        .cosines = allocate(half, sizeof(float)),
        .sines = allocate(half, sizeof(float)),
        .logits = allocate_lines((size_t)c->vocab_size, sizeof(float)),
    };
    if (is_traced()) {
        s.raw_scores = allocate(times((size_t)c->n_heads, (size_t)capacity), sizeof(float));
        s.raw_gate = allocate(hidden_dim, sizeof(float));
    }
    if (group != 0) {
        const size_t widest = dim > hidden_dim ? dim : hidden_dim;
        s.input.codes = allocate_lines(widest, 1);
        s.input.scales = allocate(widest / group, sizeof(float));
        s.input.code_sums = allocate(widest / group, sizeof(int32_t));
    }
    for (size_t j = 0; j < half; j++) s.frequencies[j] = 1.0f / powf(10000.0f, (float)(2 * j) / (float)c->head_dim);
    return s;
}

static void free_state(State *s) {
    void *const buffers[] = {s->x,      s->normed,      s->delta,   s->q,     s->k,      s->v,           s->gate,
                             s->up,     s->scores,      s->keys,    s->values, s->frequencies, s->cosines, s->sines,
                             s->logits, s->input.codes, s->input.scales, s->input.code_sums, s->raw_scores, s->raw_gate};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
}

/* Make x (n values) ready to be multiplied by the model's matrices; valid until the next call. */
static const Input *as_input(State *s, const float *x, int n, int group) {
    s->input.values = x;
    if (group != 0) s->kernels->quantize(&s->input, x, n, group);
    return &s->input;
}

static const Input *normed_input(State *s, const float *weight, int dim, int group) {
    float sum_of_squares;
    if (group != 0)
        sum_of_squares = dot(s->x, s->x, dim);
    else
        s->kernels->multiply(&sum_of_squares, s->x, s->x, 1, dim);
    rmsnorm(s->normed, s->x, weight, dim, sum_of_squares);
    return as_input(s, s->normed, dim, group);
}

/* ---- What threads share out: rows of matrices, and heads ---- */

enum { ROWS_PER_ITEM = 16 }; /* whole blocks of rows for every path */

typedef struct {
    float *out;
    const Matrix *matrix;
} Product;

static int items_of(const Matrix *w) {
    return (int)(((int64_t)w->rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM);
}

static void multiply_items(const Kernels *kernels, float *out, const Matrix *w, const Input *x, int begin, int end) {
    const int first = begin * ROWS_PER_ITEM;
    const int n_rows = end == items_of(w) ? w->rows - first : (end - begin) * ROWS_PER_ITEM;
    if (w->group == 0)
        kernels->multiply(out + first, w->f32 + (size_t)first * w->cols, x->values, n_rows, w->cols);
    else
        kernels->multiply_codes(out + first, w, x, first, n_rows);
}

typedef struct {
    const Kernels *kernels;
    const Input *input;
    int count;
    Product products[3];
} Multiplication;

static void multiply_share(const void *context, int begin, int end) {
    const Multiplication *m = context;
    for (int i = 0; i < m->count && end > 0; i++) {
        const Product *p = &m->products[i];
        const int n_items = items_of(p->matrix);
        if (begin < n_items)
            multiply_items(m->kernels, p->out, p->matrix, m->input, begin, end < n_items ? end : n_items);
        begin = begin > n_items ? begin - n_items : 0;
        end -= n_items;
    }
}

/* out = matrix @ input for each of the products, as one section. */
static void multiply_all(const Multiplication *m) {
    int n_items = 0;
    size_t multiplications = 0;
    for (int i = 0; i < m->count; i++) {
        const Matrix *w = m->products[i].matrix;
        n_items += items_of(w);
        multiplications += (size_t)w->rows * (size_t)w->cols;
    }
    share_out(multiply_share, m, n_items, multiplications);
}

typedef struct {
    State *state;
    const Layer *layer;
    const Input *input;
} Feeding;

/* gate becomes silu(gate) * up. */
static void feed_share(const void *context, int begin, int end) {
    const Feeding *f = context;
    State *s = f->state;
    const Matrix *gate = &f->layer->w_gate;
    multiply_items(s->kernels, s->gate, gate, f->input, begin, end);
    multiply_items(s->kernels, s->up, &f->layer->w_up, f->input, begin, end);
    const int first = begin * ROWS_PER_ITEM;
    const int n = end == items_of(gate) ? gate->rows - first : (end - begin) * ROWS_PER_ITEM;
    if (is_traced()) memcpy(s->raw_gate + first, s->gate + first, sizeof(float) * (size_t)n);
    (gate->group == 0 ? s->kernels->swiglu : swiglu)(s->gate + first, s->up + first, n);
}

typedef struct {
    State *state;
    const Config *config;
    int group, layer, pos;
} Attention;

static float *keys_of(const State *s, const Config *c, int layer, int kv_head) {
    return s->keys + ((size_t)layer * c->n_kv_heads + kv_head) * s->capacity * c->head_dim;
}

static float *values_of(const State *s, const Config *c, int layer, int kv_head) {
    return s->values + ((size_t)layer * c->n_kv_heads + kv_head) * s->capacity * s->value_width;
}

/* normed becomes the heads' outputs side by side. Positions 0..pos are in the caches. */
static void attend_share(const void *context, int begin, int end) {
    const Attention *a = context;
    const State *s = a->state;
    const Config *c = a->config;
    for (int h = begin; h < end; h++) {
        const int kv_head = h / (c->n_heads / c->n_kv_heads), n = a->pos + 1;
        float *scores = s->scores + (size_t)h * s->capacity;
        s->kernels->score(scores, s->q + h * c->head_dim, keys_of(s, c, a->layer, kv_head), n, c->head_dim);
        if (is_traced()) memcpy(s->raw_scores + (size_t)h * n, scores, sizeof(float) * (size_t)n);
        (a->group == 0 ? s->kernels->softmax : softmax)(scores, n);
        s->kernels->mix(s->normed + h * c->head_dim, scores, values_of(s, c, a->layer, kv_head), n, c->head_dim);
    }
}

/* Put k and v into the caches of a layer. */
static void remember(State *s, const Config *c, int layer, int pos) {
    for (int h = 0; h < c->n_kv_heads; h++) {
        const int first = h * c->head_dim;
        cache_key(keys_of(s, c, layer, h), s->k + first, c->head_dim, pos, s->kernels->lanes);
        memcpy(values_of(s, c, layer, h) + (size_t)pos * s->value_width, s->v + first, sizeof(float) * (size_t)c->head_dim);
    }
}

/* Logits for the token that follows token, which stands at pos. Positions must come in order, from 0. */
static float *forward(const Model *model, State *s, int token, int pos) {
    const Config *c = &model->config;
    const int dim = c->dim, group = model->group;
    const size_t kv_dim = c->kv_dim, hidden_dim = c->hidden_dim;
    const Kernels *kernels = s->kernels;

    for (int j = 0; j < c->head_dim / 2; j++) {
        const float angle = (float)pos * s->frequencies[j];
        s->cosines[j] = cosf(angle);
        s->sines[j] = sinf(angle);
    }
    copy_row(s->x, &model->tok_embedding, token);
    trace("token", -1, pos, &(float){(float)token}, 1);
    trace("embedding", -1, pos, s->x, dim);

    for (int l = 0; l < c->n_layers; l++) {
        const Layer *layer = &model->layers[l];
        const Input *in = normed_input(s, layer->attn_norm, dim, group);
        trace("attn_norm", l, pos, s->normed, dim);
        multiply_all(&(Multiplication){
            kernels, in, 3, {{s->q, &layer->wq}, {s->k, &layer->wk}, {s->v, &layer->wv}}});
        trace("q_raw", l, pos, s->q, dim);
        trace("k_raw", l, pos, s->k, kv_dim);
        trace("v", l, pos, s->v, kv_dim);
        rotate(s->q, c->n_heads, s->cosines, s->sines, c->head_dim);
        rotate(s->k, c->n_kv_heads, s->cosines, s->sines, c->head_dim);
        remember(s, c, l, pos);
        trace("q", l, pos, s->q, dim);
        trace("k", l, pos, s->k, kv_dim);
        share_out(attend_share, &(Attention){s, c, group, l, pos}, c->n_heads, 2 * (size_t)dim * (pos + 1));
        trace("scores", l, pos, s->raw_scores, (size_t)c->n_heads * (pos + 1));
        trace("attn_mix", l, pos, s->normed, dim);
        in = as_input(s, s->normed, dim, group);
        multiply_all(&(Multiplication){kernels, in, 1, {{s->delta, &layer->wo}}});
        add(s->x, s->delta, dim);
        trace("attn_out", l, pos, s->delta, dim);
        trace("attn_residual", l, pos, s->x, dim);

        in = normed_input(s, layer->ffn_norm, dim, group);
        trace("ffn_norm", l, pos, s->normed, dim);
        share_out(feed_share, &(Feeding){s, layer, in}, items_of(&layer->w_gate), 2 * (size_t)dim * c->hidden_dim);
        trace("gate", l, pos, s->raw_gate, hidden_dim);
        trace("up", l, pos, s->up, hidden_dim);
        trace("ffn_mix", l, pos, s->gate, hidden_dim);
        in = as_input(s, s->gate, c->hidden_dim, group);
        multiply_all(&(Multiplication){kernels, in, 1, {{s->delta, &layer->w_down}}});
        add(s->x, s->delta, dim);
        trace("ffn_out", l, pos, s->delta, dim);
        trace("ffn_residual", l, pos, s->x, dim);
    }

    const Input *in = normed_input(s, model->final_norm, dim, group);
    trace("final_norm", -1, pos, s->normed, dim);
    multiply_all(&(Multiplication){kernels, in, 1, {{s->logits, &model->lm_head}}});
    trace("logits", -1, pos, s->logits, c->vocab_size);
    return s->logits;
}

/* ---- Tokenizer ------------------------------------------------------------------------------------------------ */

typedef struct {
    const char *bytes; /* not terminated */
    int length;
} Text;

typedef struct {
    int n_pieces;
    Text *pieces;
    float *scores;
    int longest;          /* bytes of the longest piece */
    int *slots;           /* hash table from text to id, open addressing, -1 is free */
    size_t slot_mask;     /* number of slots - 1, a power of two - 1 */
    char every_byte[256]; /* what a byte piece prints */
    File file;            /* pieces point into it */
} Tokenizer;

static bool same_text(Text a, Text b) {
    return a.length == b.length && memcmp(a.bytes, b.bytes, (size_t)a.length) == 0;
}

/* The slot that holds this text, or the free slot where it belongs. */
static int *find_slot(const Tokenizer *t, Text text) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (int i = 0; i < text.length; i++) hash = (hash ^ (unsigned char)text.bytes[i]) * 16777619u;
    size_t slot = hash & t->slot_mask;
    while (t->slots[slot] >= 0 && !same_text(t->pieces[t->slots[slot]], text)) slot = (slot + 1) & t->slot_mask;
    return &t->slots[slot];
}

/* The id of the piece with exactly this text, or -1. */
static int piece_id(const Tokenizer *t, Text text) {
    return *find_slot(t, text);
}

/* The file does not say how many pieces it has: the model does, and what follows them is ignored. */
static Tokenizer load_tokenizer(const char *path, int n_pieces) {
    Tokenizer t = {.n_pieces = n_pieces, .file = open_file(path)};
    Reader reader = {.file = t.file};
    /* The longest length the file claims. It cannot be relied on for sizes, so the true one is found below. */
    take(&reader, "tokenizer header", 1, 1, sizeof(int32_t));

    size_t n_slots = 16;
    while (n_slots < 2 * (size_t)n_pieces) n_slots *= 2;
    t.slot_mask = n_slots - 1;
    t.slots = allocate(n_slots, sizeof *t.slots);
    memset(t.slots, -1, n_slots * sizeof *t.slots);
    t.pieces = allocate((size_t)n_pieces, sizeof *t.pieces);
    t.scores = allocate((size_t)n_pieces, sizeof *t.scores);

    for (int id = 0; id < n_pieces; id++) {
        const unsigned char *head = take(&reader, "tokenizer piece", 1, 8, 1);
        const int length = int_at(head + 4);
        if (length <= 0) die("%s: piece %d has length %d", path, id, length);
        const char *bytes = (const char *)take(&reader, "tokenizer piece", 1, (size_t)length, 1);
        /* Text ends at a NUL, also inside a piece: to llama2.c pieces and prompts are C strings. */
        t.pieces[id] = (Text){bytes, (int)strnlen(bytes, (size_t)length)};
        t.scores[id] = float_at(head);
        if (t.pieces[id].length > t.longest) t.longest = t.pieces[id].length;
        int *slot = find_slot(&t, t.pieces[id]);
        if (*slot < 0) *slot = id; /* of two equal pieces the first counts */
    }
    for (int byte = 0; byte < 256; byte++) t.every_byte[byte] = (char)byte;
    return t;
}

static void free_tokenizer(Tokenizer *t) {
    free(t->slots);
    free(t->pieces);
    free(t->scores);
    close_file(t->file);
}

typedef struct {
    int *ids;
    int count;
} Tokens;

/* The id of the piece that is the texts of a and b joined, or -1. scratch holds t->longest bytes. */
static int joined_id(const Tokenizer *t, int a, int b, char *scratch) {
    const Text left = t->pieces[a], right = t->pieces[b];
    if (left.length > t->longest - right.length) return -1;
    memcpy(scratch, left.bytes, (size_t)left.length);
    memcpy(scratch + left.length, right.bytes, (size_t)right.length);
    return piece_id(t, (Text){scratch, left.length + right.length});
}

/* Join, again and again, the adjacent pair whose joined piece has the best score; among equals the leftmost. */
static void merge(const Tokenizer *t, Tokens *tokens) {
    char *scratch = allocate((size_t)t->longest + 1, 1);
    int *joined = allocate((size_t)tokens->count, sizeof *joined); /* joined[i]: what ids[i] and ids[i+1] make, or -1 */
    int *ids = tokens->ids;
    for (int i = 0; i + 1 < tokens->count; i++) joined[i] = joined_id(t, ids[i], ids[i + 1], scratch);

    for (;;) {
        const int last_pair = tokens->count - 2;
        float best_score = -1e10f; /* below the -1e9 that vocabularies give to runs of spaces */
        int best = -1;
        for (int i = 0; i <= last_pair; i++) {
            if (joined[i] >= 0 && t->scores[joined[i]] > best_score) {
                best_score = t->scores[joined[i]];
                best = i;
            }
        }
        if (best < 0) break;
        ids[best] = joined[best];
        memmove(ids + best + 1, ids + best + 2, (size_t)(last_pair - best) * sizeof *ids);
        memmove(joined + best, joined + best + 1, (size_t)(last_pair - best) * sizeof *joined);
        tokens->count--;
        if (best > 0) joined[best - 1] = joined_id(t, ids[best - 1], ids[best], scratch);
        if (best + 1 < tokens->count) joined[best] = joined_id(t, ids[best], ids[best + 1], scratch);
    }
    free(joined);
    free(scratch);
}

/* BOS, a space in front of any text, then one id per character or, where the vocabulary lacks the character, per byte;
 * then merged. The bytes need not be valid UTF-8: a character is a byte and up to three continuation bytes after it. */
static Tokens encode(const Tokenizer *t, const char *text) {
    Tokens tokens = {.ids = allocate(strlen(text) + 2, sizeof(int))};
    tokens.ids[tokens.count++] = BOS;
    if (*text != '\0') {
        const int space = piece_id(t, (Text){" ", 1});
        if (space < 0) die("%s: no piece for the space that goes before a prompt", t->file.path);
        tokens.ids[tokens.count++] = space;
    }
    while (*text != '\0') {
        Text character = {text, 1};
        while (character.length < 4 && (text[character.length] & 0xC0) == 0x80) character.length++;
        const int id = piece_id(t, character);
        if (id >= 0) {
            tokens.ids[tokens.count++] = id;
        } else {
            for (int i = 0; i < character.length; i++) {
                const int byte_id = (unsigned char)text[i] + FIRST_BYTE_PIECE;
                if (byte_id >= t->n_pieces)
                    die("%s: no piece for byte 0x%02X of the prompt", t->file.path, (unsigned char)text[i]);
                tokens.ids[tokens.count++] = byte_id;
            }
        }
        text += character.length;
    }
    merge(t, &tokens);
    return tokens;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The text that id stands for after previous. Directly after BOS a leading space is dropped: encode() put it there.
 * A piece spelled <0xHH> is that byte; the closing bracket and the second digit may be missing. Byte 0 is no text. */
static Text decode(const Tokenizer *t, int previous, int id) {
    Text text = t->pieces[id];
    if (previous == BOS && text.length > 0 && text.bytes[0] == ' ') {
        text.bytes++;
        text.length--;
    }
    if (text.length < 4 || memcmp(text.bytes, "<0x", 3) != 0 || hex_digit(text.bytes[3]) < 0) return text;
    int byte = hex_digit(text.bytes[3]);
    if (text.length > 4 && hex_digit(text.bytes[4]) >= 0) byte = byte * 16 + hex_digit(text.bytes[4]);
    return (Text){&t->every_byte[byte], byte != 0};
}

/* Print a token's text at once. A lone byte is shown only if it is printable ASCII or white space, so characters that
 * come as byte pieces never appear, not even whole ones. */
static void print_token(const Tokenizer *t, int previous, int id) {
    const Text text = decode(t, previous, id);
    if (text.length == 1) {
        const unsigned char byte = (unsigned char)text.bytes[0];
        const bool shown = (byte >= 0x20 && byte <= 0x7E) || (byte >= '\t' && byte <= '\r');
        if (!shown) return;
    }
    fwrite(text.bytes, 1, (size_t)text.length, stdout);
    fflush(stdout);
}

/* ---- Sampler -------------------------------------------------------------------------------------------------- */

typedef struct {
    float probability;
    int id;
} Candidate;

typedef struct {
    float temperature; /* 0: always the likeliest token, without drawing a random number */
    float topp;        /* draw from the fewest likeliest tokens that exceed this mass; <= 0 or >= 1: from all */
    uint64_t rng;      /* xorshift* state, not 0 */
    Candidate *candidates;
} Sampler;

/* 24 random bits as a float in [0, 1). */
static float draw(uint64_t *rng) {
    *rng ^= *rng >> 12;
    *rng ^= *rng << 25;
    *rng ^= *rng >> 27;
    const uint32_t bits = (uint32_t)((*rng * 0x2545F4914F6CDD1DULL) >> 32);
    return (float)(bits >> 8) / 16777216.0f;
}

static int sample_all(const float *probabilities, int n, float coin) {
    float mass = 0;
    for (int i = 0; i < n; i++) {
        mass += probabilities[i];
        if (coin < mass) return i;
    }
    return n - 1; /* rounding kept the total below the coin */
}

/* Likeliest first; equals by id, as a stable sort leaves them. */
static int by_probability(const void *left, const void *right) {
    const Candidate *a = left, *b = right;
    if (a->probability != b->probability) return a->probability > b->probability ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static int sample_nucleus(const float *probabilities, int n, float topp, float coin, Candidate *candidates) {
    /* A token below this cannot be in the nucleus: all but one of them together would not reach 1 - topp. */
    const float cutoff = (1.0f - topp) / (float)(n - 1);
    int count = 0;
    for (int i = 0; i < n; i++)
        if (probabilities[i] >= cutoff) candidates[count++] = (Candidate){probabilities[i], i};
    if (count == 0) return argmax(probabilities, n); /* topp below 1/n on a flat distribution, or NaN */
    qsort(candidates, (size_t)count, sizeof *candidates, by_probability);

    float mass = 0;
    int kept = 0;
    while (kept < count) {
        mass += candidates[kept++].probability;
        if (mass > topp) break; /* the token that crosses belongs to the nucleus */
    }
    const float target = coin * mass;
    float passed = 0;
    for (int i = 0; i < kept; i++) {
        passed += candidates[i].probability;
        if (target < passed) return candidates[i].id;
    }
    return candidates[kept - 1].id;
}

/* The next token; logits are overwritten. Takes one random number per call, none at temperature 0. */
static int sample(Sampler *sampler, float *logits, int n) {
    if (sampler->temperature == 0.0f) return argmax(logits, n);
    for (int i = 0; i < n; i++) logits[i] /= sampler->temperature;
    softmax(logits, n);
    const float coin = draw(&sampler->rng);
    if (sampler->topp <= 0 || sampler->topp >= 1) return sample_all(logits, n, coin);
    return sample_nucleus(logits, n, sampler->topp, coin, sampler->candidates);
}

/* ---- Generate and chat ---------------------------------------------------------------------------------------- */

typedef struct {
    const Model *model;
    const Tokenizer *tokenizer;
    State *state;
    Sampler *sampler;
    int steps; /* forward passes allowed, prompt included */
} Session;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Echo the prompt piece by piece and continue it until BOS, which starts the next story, or until steps run out. */
static void generate(const Session *s, const char *prompt) {
    const Tokens forced = encode(s->tokenizer, prompt);
    int token = forced.ids[0], pos = 0;
    double start_s = 0; /* taken after the first pass, which also brings the weights into memory */
    while (pos < s->steps) {
        float *logits = forward(s->model, s->state, token, pos);
        const int next = pos + 1 < forced.count ? forced.ids[pos + 1]
                                                : sample(s->sampler, logits, s->model->config.vocab_size);
        pos++;
        if (next == BOS) break;
        print_token(s->tokenizer, token, next);
        token = next;
        if (pos == 1) start_s = now_s();
    }
    putchar('\n');
    fflush(stdout);
    if (pos > 1) fprintf(stderr, "achieved tok/s: %f\n", (pos - 1) / (now_s() - start_s));
    free(forced.ids);
}

/* Ask for a line of at most size - 1 bytes; of a longer one the rest is the next line. False, and line as it was, at
 * the end of the input. */
static bool ask(const char *question, char *line, size_t size) {
    fputs(question, stdout);
    fflush(stdout);
    if (fgets(line, (int)size, stdin) == NULL) return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}

/* One turn in Llama 2's chat markup; system may be empty. */
static Tokens encode_turn(const Tokenizer *t, const char *system, const char *user) {
    static const char with_system[] = "[INST] <<SYS>>\n%s\n<</SYS>>\n\n%s [/INST]", plain[] = "[INST] %s%s [/INST]";
    const size_t size = sizeof with_system + strlen(system) + strlen(user);
    char *text = allocate(size, 1);
    if (*system != '\0')
        snprintf(text, size, with_system, system, user);
    else
        snprintf(text, size, plain, "", user);
    const Tokens tokens = encode(t, text);
    free(text);
    return tokens;
}

/* Take turns until steps run out. One position counter, one cache: the model sees the whole conversation.
 *
 * Three habits of llama2.c are kept because they show in the output. A sample is drawn at every position, also while
 * the prompt is fed. The EOS that ends an answer is fed as well, and the token sampled from it is printed and dropped.
 * At the end of the input the last user text is repeated. */
static void chat(const Session *s, const char *first_prompt, const char *system_prompt) {
    char system_line[512] = "", user_line[512] = ""; /* llama2.c's line length; arguments may be longer */
    const char *user = user_line;
    Tokens turn = {0};
    int fed = 0, next = 0;
    bool users_turn = true;
    for (int pos = 0; pos < s->steps; pos++) {
        if (users_turn) {
            const char *system = "";
            if (pos == 0) {
                system = system_prompt;
                if (system == NULL) {
                    ask("Enter system prompt (optional): ", system_line, sizeof system_line);
                    system = system_line;
                }
            }
            if (pos == 0 && first_prompt != NULL)
                user = first_prompt;
            else if (ask("User: ", user_line, sizeof user_line))
                user = user_line;
            free(turn.ids);
            turn = encode_turn(s->tokenizer, system, user);
            fed = 0;
            users_turn = false;
            fputs("Assistant: ", stdout);
        }
        const int token = fed < turn.count ? turn.ids[fed++] : next;
        if (token == EOS) users_turn = true;
        next = sample(s->sampler, forward(s->model, s->state, token, pos), s->model->config.vocab_size);
        if (next == EOS)
            putchar('\n');
        else if (fed == turn.count)
            print_token(s->tokenizer, token, next);
    }
    putchar('\n');
    free(turn.ids);
}

/* ---- Command line --------------------------------------------------------------------------------------------- */

typedef struct {
    const char *checkpoint, *tokenizer, *mode;
    const char *prompt, *system_prompt; /* NULL: not given */
    float temperature, topp;
    uint64_t seed;
    int steps;   /* 0: as many as the model's context holds */
    int threads; /* 0: one per processor */
} Options;

__attribute__((noreturn)) static void exit_with_usage(void) {
    fputs("usage: run CHECKPOINT [-t X] [-p X] [-s N] [-n N] [-i TEXT] [-z FILE] [-j N] [-m MODE] [-y TEXT]\n"
          "e.g.:  run stories15M.bin -n 128 -t 0.8 -i \"The old lighthouse\"\n"
          "  -t X     temperature, 0 picks the likeliest token (default 1.0)\n"
          "  -p X     top-p in [0, 1]; 0 and 1 consider every token (default 0.9)\n"
          "  -s N     random seed, 0 takes the time (default 0)\n"
          "  -n N     positions to run, prompt included, 0 fills the context (default 256)\n"
          "  -i TEXT  text to continue, or the first user message (default none)\n"
          "  -z FILE  tokenizer (default tokenizer.bin)\n"
          "  -j N     threads, 0 takes one per processor (default 1)\n"
          "  -m MODE  generate or chat (default generate)\n"
          "  -y TEXT  system prompt for chat (default: ask)\n"
          "or:    run --lines [THREADS], which answers requests, one a line (docs/protocol.md)\n",
          stderr);
    exit(EXIT_FAILURE);
}

/* C's atoi where int has 32 bits and long 64: no error, and what does not fit wraps. 3000000000 is -1294967296. */
static int32_t parse_int(const char *text) {
    return (int32_t)(uint32_t)strtoll(text, NULL, 10);
}

static Options parse_options(int argc, char **argv) {
    if (argc < 2) exit_with_usage();
    Options o = {
        .checkpoint = argv[1],
        .tokenizer = "tokenizer.bin",
        .mode = "generate",
        .temperature = 1.0f,
        .topp = 0.9f,
        .steps = 256,
        .threads = 1,
    };
    for (int i = 2; i < argc; i += 2) {
        if (i + 1 == argc || argv[i][0] != '-' || strlen(argv[i]) != 2) exit_with_usage();
        const char *value = argv[i + 1];
        switch (argv[i][1]) {
        case 't': o.temperature = (float)strtod(value, NULL); break;
        case 'p': o.topp = (float)strtod(value, NULL); break;
        case 's': o.seed = (uint64_t)(int64_t)parse_int(value); break; /* -1 is 2^64 - 1 */
        case 'n': o.steps = parse_int(value); break;
        case 'i': o.prompt = value; break;
        case 'z': o.tokenizer = value; break;
        case 'j': o.threads = parse_int(value); break;
        case 'm': o.mode = value; break;
        case 'y': o.system_prompt = value; break;
        default: exit_with_usage();
        }
    }
    if (o.seed == 0) o.seed = (uint64_t)time(NULL);
    if (o.temperature < 0) o.temperature = 0;
    if (o.topp < 0 || o.topp > 1) o.topp = 0.9f;
    if (o.steps < 0) o.steps = 0;
    if (o.threads < 0 || o.threads > MAX_THREADS) die("-j must be from 0 to %d, not %d", MAX_THREADS, o.threads);
    if (o.threads == 0) o.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (o.threads < 1 || o.threads > MAX_THREADS) o.threads = o.threads < 1 ? 1 : MAX_THREADS;
    return o;
}

#include "lines.h"

int main(int argc, char **argv) {
    open_trace();
    if (argc >= 2 && strcmp(argv[1], "--lines") == 0) {
        const int threads = argc > 2 ? parse_int(argv[2]) : 1;
        if (threads < 1 || threads > MAX_THREADS) die("--lines takes 1 to %d threads, not %d", MAX_THREADS, threads);
        if (!start_threads(threads)) die("cannot start %d threads", threads);
        answer_lines(threads);
        return EXIT_SUCCESS;
    }
    const Options o = parse_options(argc, argv);
    Model model = load_model(o.checkpoint);
    const Config *c = &model.config;
    const int steps = o.steps == 0 || o.steps > c->seq_len ? c->seq_len : o.steps;
    State state = new_state(c, model.group, steps);
    Tokenizer tokenizer = load_tokenizer(o.tokenizer, c->vocab_size);
    Sampler sampler = {
        .temperature = o.temperature,
        .topp = o.topp,
        .rng = o.seed,
        .candidates = allocate((size_t)c->vocab_size, sizeof(Candidate)),
    };
    if (!start_threads(o.threads)) die("cannot start %d threads", o.threads);
    const Session session = {&model, &tokenizer, &state, &sampler, steps};

    if (strcmp(o.mode, "generate") == 0) {
        generate(&session, o.prompt != NULL ? o.prompt : "");
    } else if (strcmp(o.mode, "chat") == 0) {
        chat(&session, o.prompt, o.system_prompt);
    } else {
        fprintf(stderr, "run: unknown mode: %s\n", o.mode);
        exit_with_usage();
    }
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output");

    free(sampler.candidates);
    free_tokenizer(&tokenizer);
    free_state(&state);
    free_model(&model);
    return EXIT_SUCCESS;
}
