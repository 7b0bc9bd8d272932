/* run: llama inference over a BLAS. Every sum of products is left to the library: sgemv for the matrices and for
 * attention, sdot for the norms. What remains is the shape of the model, its text and its dice.
 *
 *     cc -O3 -std=gnu11 -o run run.c -lopenblas -lm            macOS: -framework Accelerate
 *
 * Reads checkpoints of versions 0 and 1 (float32) and takes llama2.c's flags. Both files are untrusted: a size in one
 * is compared with the bytes that are there before anything depends on it. What lives as long as the program is left
 * to its end.
 */
#define _POSIX_C_SOURCE 200809L
#ifdef __APPLE__
#define ACCELERATE_NEW_LAPACK
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif
#include <ctype.h>
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

/* A library that must not clash with another BLAS in the same process has a prefix before its names. */
#ifdef BLAS_SYMBOL_PREFIX
#define JOIN(prefix, name) prefix##name
#define JOIN_EXPANDED(prefix, name) JOIN(prefix, name)
#define BLAS(name) JOIN_EXPANDED(BLAS_SYMBOL_PREFIX, name)
#else
#define BLAS(name) name
#endif

enum { BOS = 1, EOS = 2, FIRST_BYTE_PIECE = 3 };

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

static void *zeroed(size_t rows, size_t columns, size_t item_bytes) {
    void *memory = columns != 0 && rows > SIZE_MAX / columns ? NULL : calloc(rows * columns, item_bytes);
    if (memory == NULL) die("out of memory: cannot allocate %zu x %zu items of %zu bytes", rows, columns, item_bytes);
    return memory;
}

/* A file in memory, and how far it has been read. */
typedef struct {
    const char *path, *bytes;
    size_t size, pos;
} File;

static File open_file(const char *path) {
    File file = {.path = path};
    struct stat status;
    const int descriptor = open(path, O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &status) != 0) die("couldn't open file %s", path);
    if (!S_ISREG(status.st_mode) || status.st_size == 0) die("%s: not a file with anything in it", path);
    file.size = (size_t)status.st_size;
    void *mapped = mmap(NULL, file.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (mapped == MAP_FAILED) die("%s: cannot be mapped into memory", path);
    close(descriptor);
    file.bytes = mapped;
    return file;
}

/* The next rows x columns items. Dividing what is left keeps the check free of overflow whatever a header claims. */
static const void *take(File *file, const char *what, size_t rows, size_t columns, size_t item_bytes) {
    const size_t left = file->size - file->pos;
    if (rows != 0 && columns > left / item_bytes / rows)
        die("%s: truncated or inconsistent: %s at byte %zu needs %zu x %zu items of %zu bytes, %zu bytes are left",
            file->path, what, file->pos, rows, columns, item_bytes, left);
    const void *at = file->bytes + file->pos;
    file->pos += rows * columns * item_bytes;
    return at;
}

static int32_t take_int(File *file, const char *what) {
    int32_t value;
    memcpy(&value, take(file, what, 1, sizeof value, 1), sizeof value);
    return value;
}

/* ---- Model ---------------------------------------------------------------------------------------------------- */

/* Matrices are row-major (outputs, inputs). All layers of one kind of tensor lie one after the other. */
typedef struct {
    int dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len, head_dim, kv_dim;
    const float *tok_embedding, *attn_norm, *wq, *wk, *wv, *wo, *ffn_norm, *w_gate, *w_down, *w_up, *final_norm;
    const float *lm_head;
} Model;

static const float *take_layers(File *file, const Model *m, const char *what, int rows, int columns) {
    const size_t all_rows = (size_t)m->n_layers * (size_t)rows; /* two positive ints */
    return take(file, what, all_rows, (size_t)columns, sizeof(float));
}

static void take_matrices(File *file, Model *m) {
    m->wq = take_layers(file, m, "wq", m->dim, m->dim);
    m->wk = take_layers(file, m, "wk", m->kv_dim, m->dim);
    m->wv = take_layers(file, m, "wv", m->kv_dim, m->dim);
    m->wo = take_layers(file, m, "wo", m->dim, m->dim);
}

static void take_feed_forward(File *file, Model *m) {
    m->w_gate = take_layers(file, m, "w1", m->hidden_dim, m->dim);
    m->w_down = take_layers(file, m, "w2", m->dim, m->hidden_dim);
    m->w_up = take_layers(file, m, "w3", m->hidden_dim, m->dim);
}

static Model load_model(const char *path) {
    File file = open_file(path);
    Model m = {0};
    const bool has_magic = file.size >= 4 && take_int(&file, "header") == 0x616b3432;
    const int32_t version = has_magic ? take_int(&file, "header") : 0;
    if (has_magic && version != 1) die("%s: checkpoint version %d is not supported, only 0 and 1 are", path, version);
    file.pos = has_magic ? 8 : 0;
    int *const fields[] = {&m.dim,        &m.hidden_dim, &m.n_layers, &m.n_heads,
                           &m.n_kv_heads, &m.vocab_size, &m.seq_len};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) *fields[i] = take_int(&file, "header");
    /* Version 0 says by a negative size of the vocabulary that the classifier has weights of its own. */
    bool tied = m.vocab_size > 0;
    if (version == 0 && m.vocab_size < 0 && m.vocab_size != INT32_MIN) m.vocab_size = -m.vocab_size;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (*fields[i] <= 0) die("%s: bad header: field %zu is %d, it must be positive", path, i, *fields[i]);
    if (m.dim % m.n_heads != 0 || m.dim / m.n_heads % 2 != 0 || m.n_heads % m.n_kv_heads != 0 || m.vocab_size <= BOS)
        die("%s: bad header: dim %d, %d heads, %d key/value heads and %d pieces do not go together", path, m.dim,
            m.n_heads, m.n_kv_heads, m.vocab_size);
    m.head_dim = m.dim / m.n_heads;
    m.kv_dim = m.head_dim * m.n_kv_heads;

    const size_t vocab_size = (size_t)m.vocab_size, dim = (size_t)m.dim;
    if (version == 0) {
        m.tok_embedding = take(&file, "token embedding", vocab_size, dim, sizeof(float));
        m.attn_norm = take_layers(&file, &m, "attention norm", 1, m.dim);
        take_matrices(&file, &m);
        m.ffn_norm = take_layers(&file, &m, "feed-forward norm", 1, m.dim);
        take_feed_forward(&file, &m);
        m.final_norm = take(&file, "final norm", 1, dim, sizeof(float));
        /* Tables of rotations that nobody reads lie before a classifier; without one they may be missing. */
        if (!tied) take(&file, "RoPE tables", (size_t)m.seq_len, (size_t)m.head_dim, sizeof(float));
    } else {
        tied = *(const char *)take(&file, "header", 1, 1, 1) != 0;
        file.pos = 0;
        take(&file, "header", 1, 256, 1);
        m.attn_norm = take_layers(&file, &m, "attention norm", 1, m.dim);
        m.ffn_norm = take_layers(&file, &m, "feed-forward norm", 1, m.dim);
        m.final_norm = take(&file, "final norm", 1, dim, sizeof(float));
        m.tok_embedding = take(&file, "token embedding", vocab_size, dim, sizeof(float));
        take_matrices(&file, &m);
        take_feed_forward(&file, &m);
    }
    m.lm_head = tied ? m.tok_embedding : take(&file, "classifier", vocab_size, dim, sizeof(float));
    return m;
}

/* ---- Arithmetic ----------------------------------------------------------------------------------------------- */

/* out (rows) = scale * matrix (rows, columns) @ x; a row begins every `stride` floats. */
static void times(float *out, const float *matrix, const float *x, int rows, int columns, int stride, float scale) {
    BLAS(cblas_sgemv)(CblasRowMajor, CblasNoTrans, rows, columns, scale, matrix, stride, x, 1, 0.0f, out, 1);
}

/* out (columns) = x (rows) @ matrix (rows, columns): the rows, each as much as x says. */
static void mix(float *out, const float *matrix, const float *x, int rows, int columns, int stride) {
    BLAS(cblas_sgemv)(CblasRowMajor, CblasTrans, rows, columns, 1.0f, matrix, stride, x, 1, 0.0f, out, 1);
}

static void matvec(float *out, const float *matrix, const float *x, int rows, int columns) {
    times(out, matrix, x, rows, columns, columns, 1.0f);
}

static void rmsnorm(float *out, const float *x, const float *weight, int n) {
    const float scale = 1.0f / sqrtf(BLAS(cblas_sdot)(n, x, 1, x, 1) / (float)n + 1e-5f);
    for (int i = 0; i < n; i++) out[i] = weight[i] * (scale * x[i]);
}

static void softmax(float *x, int n) {
    float largest = x[0], sum = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];
    for (int i = 0; i < n; i++) sum += x[i] = expf(x[i] - largest);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

/* ---- Forward pass --------------------------------------------------------------------------------------------- */

typedef struct {
    int capacity;                          /* positions that the caches hold: the steps of this run */
    float *x, *normed, *delta, *q;         /* (dim) */
    float *gate, *up, *scores, *logits;    /* (hidden_dim), (hidden_dim), (capacity), (vocab_size) */
    float *keys, *values;                  /* (n_layers, capacity, kv_dim), keys rotated */
    float *frequencies, *cosines, *sines;  /* (head_dim / 2), the latter two of the current position */
} State;

static State new_state(const Model *m, int capacity) {
    const size_t dim = (size_t)m->dim, half = (size_t)m->head_dim / 2, positions = (size_t)m->n_layers * capacity;
    State s = {.capacity = capacity};
    s.x = zeroed(dim, 1, sizeof(float)), s.normed = zeroed(dim, 1, sizeof(float));
    s.delta = zeroed(dim, 1, sizeof(float)), s.q = zeroed(dim, 1, sizeof(float));
    s.gate = zeroed((size_t)m->hidden_dim, 1, sizeof(float)), s.up = zeroed((size_t)m->hidden_dim, 1, sizeof(float));
    s.scores = zeroed((size_t)capacity, 1, sizeof(float));
    s.logits = zeroed((size_t)m->vocab_size, 1, sizeof(float));
    s.keys = zeroed(positions, (size_t)m->kv_dim, sizeof(float));
    s.values = zeroed(positions, (size_t)m->kv_dim, sizeof(float));
    s.frequencies = zeroed(half, 1, sizeof(float));
    s.cosines = zeroed(half, 1, sizeof(float)), s.sines = zeroed(half, 1, sizeof(float));
    for (size_t j = 0; j < half; j++) s.frequencies[j] = 1.0f / powf(10000.0f, (float)(2 * j) / (float)m->head_dim);
    return s;
}

/* Turn each adjacent pair of every head by the angle of its place within the head. */
static void rotate(const State *s, float *x, int n, int head_dim) {
    for (int i = 0; i < n; i += 2) {
        const float a = x[i], b = x[i + 1], c = s->cosines[i % head_dim / 2], t = s->sines[i % head_dim / 2];
        x[i] = a * c - b * t;
        x[i + 1] = a * t + b * c;
    }
}

/* normed becomes the heads' outputs side by side; keys and values are one layer's. */
static void attend(const State *s, const Model *m, const float *keys, const float *values, int n_cached) {
    const int head_dim = m->head_dim, heads_per_kv = m->n_heads / m->n_kv_heads;
    for (int h = 0; h < m->n_heads; h++) {
        const int kv_offset = h / heads_per_kv * head_dim;
        const float *q = s->q + h * head_dim;
        times(s->scores, keys + kv_offset, q, n_cached, head_dim, m->kv_dim, 1.0f / sqrtf((float)head_dim));
        softmax(s->scores, n_cached);
        mix(s->normed + h * head_dim, values + kv_offset, s->scores, n_cached, head_dim, m->kv_dim);
    }
}

/* Logits for what follows token, which stands at pos. Positions must come in order, from 0. */
static float *forward(const Model *m, State *s, int token, int pos) {
    const int dim = m->dim, kv_dim = m->kv_dim, hidden_dim = m->hidden_dim;
    for (int j = 0; j < m->head_dim / 2; j++) {
        s->cosines[j] = cosf((float)pos * s->frequencies[j]);
        s->sines[j] = sinf((float)pos * s->frequencies[j]);
    }
    memcpy(s->x, m->tok_embedding + (size_t)token * dim, sizeof(float) * dim);

    for (size_t l = 0; l < (size_t)m->n_layers; l++) {
        float *keys = s->keys + l * s->capacity * kv_dim, *values = s->values + l * s->capacity * kv_dim;
        float *k = keys + (size_t)pos * kv_dim, *v = values + (size_t)pos * kv_dim;

        rmsnorm(s->normed, s->x, m->attn_norm + l * dim, dim);
        matvec(s->q, m->wq + l * dim * dim, s->normed, dim, dim);
        matvec(k, m->wk + l * kv_dim * dim, s->normed, kv_dim, dim);
        matvec(v, m->wv + l * kv_dim * dim, s->normed, kv_dim, dim);
        rotate(s, s->q, dim, m->head_dim);
        rotate(s, k, kv_dim, m->head_dim);
        attend(s, m, keys, values, pos + 1);
        matvec(s->delta, m->wo + l * dim * dim, s->normed, dim, dim);
        for (int i = 0; i < dim; i++) s->x[i] += s->delta[i];

        rmsnorm(s->normed, s->x, m->ffn_norm + l * dim, dim);
        matvec(s->gate, m->w_gate + l * hidden_dim * dim, s->normed, hidden_dim, dim);
        matvec(s->up, m->w_up + l * hidden_dim * dim, s->normed, hidden_dim, dim);
        for (int i = 0; i < hidden_dim; i++) s->gate[i] = s->gate[i] / (1.0f + expf(-s->gate[i])) * s->up[i];
        matvec(s->delta, m->w_down + l * dim * hidden_dim, s->gate, dim, hidden_dim);
        for (int i = 0; i < dim; i++) s->x[i] += s->delta[i];
    }
    rmsnorm(s->x, s->x, m->final_norm, dim);
    matvec(s->logits, m->lm_head, s->x, m->vocab_size, dim);
    return s->logits;
}

/* ---- Tokenizer ------------------------------------------------------------------------------------------------ */

typedef struct {
    const char *bytes; /* not terminated */
    size_t length;
    float score;
    int id;
} Piece;

typedef struct {
    const char *path;
    int n_pieces;
    Piece *pieces, *sorted; /* by id; by text, equal ones by id */
    size_t longest;
} Tokenizer;

static int by_text(const void *left, const void *right) {
    const Piece *a = left, *b = right;
    const int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

static int by_text_then_id(const void *left, const void *right) {
    const int order = by_text(left, right);
    return order != 0 ? order : ((const Piece *)left)->id - ((const Piece *)right)->id;
}

/* How many pieces there are the model knows; what follows them in the file is ignored. */
static Tokenizer load_tokenizer(const char *path, int n_pieces) {
    File file = open_file(path);
    Tokenizer t = {.path = path, .n_pieces = n_pieces};
    take_int(&file, "tokenizer header"); /* the longest length, as the file claims it */
    /* Each piece has at least nine bytes, which bounds the tables by the size of the file. */
    File probe = file;
    take(&probe, "tokenizer", (size_t)n_pieces, 9, 1);
    t.pieces = zeroed((size_t)n_pieces, 2, sizeof(Piece));
    t.sorted = t.pieces + n_pieces;
    for (int id = 0; id < n_pieces; id++) {
        Piece *piece = &t.pieces[id];
        memcpy(&piece->score, take(&file, "score of a piece", 1, sizeof(float), 1), sizeof(float));
        const int32_t length = take_int(&file, "length of a piece");
        if (length <= 0) die("%s: piece %d has length %d", path, id, length);
        piece->id = id;
        piece->bytes = take(&file, "piece", 1, (size_t)length, 1);
        piece->length = strnlen(piece->bytes, (size_t)length); /* to llama2.c a piece is a C string */
        if (piece->length > t.longest) t.longest = piece->length;
    }
    memcpy(t.sorted, t.pieces, sizeof(Piece) * (size_t)n_pieces);
    qsort(t.sorted, (size_t)n_pieces, sizeof(Piece), by_text_then_id);
    return t;
}

/* The id of the piece with exactly this text, the first of equal ones, or -1. */
static int id_of(const Tokenizer *t, const char *bytes, size_t length) {
    const Piece wanted = {.bytes = bytes, .length = length};
    const Piece *found = bsearch(&wanted, t->sorted, (size_t)t->n_pieces, sizeof(Piece), by_text);
    if (found == NULL) return -1;
    while (found > t->sorted && by_text(found - 1, found) == 0) found--;
    return found->id;
}

/* An id of a text that is being encoded, and the id that it and its right neighbour make together, or -1. */
typedef struct {
    int id, joined;
} Token;

typedef struct {
    Token *at;
    int count;
} Tokens;

static void join(const Tokenizer *t, const Tokens *tokens, int i, char *scratch) {
    if (i < 0 || i >= tokens->count) return;
    tokens->at[i].joined = -1;
    if (i + 1 == tokens->count) return;
    const Piece *a = &t->pieces[tokens->at[i].id], *b = &t->pieces[tokens->at[i + 1].id];
    if (a->length + b->length > t->longest) return;
    memcpy(scratch, a->bytes, a->length);
    memcpy(scratch + a->length, b->bytes, b->length);
    tokens->at[i].joined = id_of(t, scratch, a->length + b->length);
}

/* Join, again and again, the pair whose joined piece has the best score; among equals the leftmost. */
static void merge(const Tokenizer *t, Tokens *tokens) {
    char *scratch = zeroed(t->longest + 1, 1, 1);
    for (int i = 0; i < tokens->count; i++) join(t, tokens, i, scratch);
    for (;;) {
        int best = -1;
        float best_score = -1e10f; /* below the -1e9 that vocabularies give to runs of spaces */
        for (int i = 0; i < tokens->count; i++) {
            const int joined = tokens->at[i].joined;
            if (joined >= 0 && t->pieces[joined].score > best_score) best = i, best_score = t->pieces[joined].score;
        }
        if (best < 0) break;
        tokens->at[best].id = tokens->at[best].joined;
        tokens->count--;
        memmove(&tokens->at[best + 1], &tokens->at[best + 2], sizeof(Token) * (size_t)(tokens->count - best - 1));
        join(t, tokens, best - 1, scratch);
        join(t, tokens, best, scratch);
    }
    free(scratch);
}

/* BOS, a space before any text, an id for each character or, where there is none, for each of its bytes; merged. */
static Tokens encode(const Tokenizer *t, const char *text) {
    Tokens tokens = {.at = zeroed(strlen(text) + 2, 1, sizeof(Token))};
    tokens.at[tokens.count++].id = BOS;
    if (*text != '\0') {
        const int space = id_of(t, " ", 1);
        if (space < 0) die("%s: no piece for the space that goes before a prompt", t->path);
        tokens.at[tokens.count++].id = space;
    }
    while (*text != '\0') {
        size_t length = 1; /* the text need not be UTF-8: a byte and up to three continuations are a character */
        while (length < 4 && ((unsigned char)text[length] & 0xC0) == 0x80) length++;
        const int id = id_of(t, text, length);
        for (size_t i = 0; id < 0 && i < length; i++) {
            const unsigned char byte = (unsigned char)text[i];
            const int byte_id = byte + FIRST_BYTE_PIECE;
            if (byte_id >= t->n_pieces) die("%s: no piece for byte 0x%02X of the prompt", t->path, byte);
            tokens.at[tokens.count++].id = byte_id;
        }
        if (id >= 0) tokens.at[tokens.count++].id = id;
        text += length;
    }
    merge(t, &tokens);
    return tokens;
}

static int hex_digit(char c) {
    if (!isxdigit((unsigned char)c)) return -1;
    return isdigit((unsigned char)c) ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Print the text of an id at once: after BOS without its first space; <0xHH> is that byte. A lone byte is printed only
 * if it is printable ASCII or white space. */
static void print_token(const Tokenizer *t, int previous, int id) {
    const char *bytes = t->pieces[id].bytes;
    size_t length = t->pieces[id].length;
    char byte;
    if (previous == BOS && length > 0 && bytes[0] == ' ') bytes++, length--;
    if (length >= 4 && memcmp(bytes, "<0x", 3) == 0 && hex_digit(bytes[3]) >= 0) {
        const int low = length > 4 ? hex_digit(bytes[4]) : -1;
        byte = (char)(low < 0 ? hex_digit(bytes[3]) : hex_digit(bytes[3]) * 16 + low);
        bytes = &byte, length = byte != '\0';
    }
    const bool shown = length != 1 || (bytes[0] >= ' ' && bytes[0] <= '~') || (bytes[0] >= '\t' && bytes[0] <= '\r');
    if (shown) fwrite(bytes, 1, length, stdout);
    fflush(stdout);
}

/* ---- Sampler -------------------------------------------------------------------------------------------------- */

typedef struct {
    float probability;
    int id;
} Candidate;

typedef struct {
    float temperature, topp; /* 0: the likeliest, no dice; topp <= 0 or >= 1: draw from all */
    uint64_t rng;            /* xorshift*, not 0 */
    Candidate *candidates;
} Sampler;

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Likeliest first, equals by id. */
static int by_probability(const void *left, const void *right) {
    const Candidate *a = left, *b = right;
    return a->probability != b->probability ? (a->probability < b->probability) - (a->probability > b->probability)
                                            : a->id - b->id;
}

/* The next token; logits are overwritten. One random number a call, none at temperature 0. */
static int sample(Sampler *s, float *logits, int n) {
    if (s->temperature == 0.0f) return argmax(logits, n);
    for (int i = 0; i < n; i++) logits[i] /= s->temperature;
    softmax(logits, n);
    s->rng ^= s->rng >> 12;
    s->rng ^= s->rng << 25;
    s->rng ^= s->rng >> 27;
    const uint32_t bits = (uint32_t)((s->rng * 0x2545F4914F6CDD1DULL) >> 32);
    float target = (float)(bits >> 8) / 16777216.0f, passed = 0;

    const bool nucleus = !(s->topp <= 0 || s->topp >= 1);
    /* What is less likely cannot be in the nucleus: all but one of them together would not reach 1 - topp. */
    const float cutoff = nucleus ? (1.0f - s->topp) / (float)(n - 1) : -1.0f;
    int count = 0;
    for (int i = 0; i < n; i++)
        if (!nucleus || logits[i] >= cutoff) s->candidates[count++] = (Candidate){logits[i], i};
    if (count == 0) return argmax(logits, n); /* topp is NaN, or below 1/n on a flat distribution */
    if (nucleus) {
        qsort(s->candidates, (size_t)count, sizeof(Candidate), by_probability);
        float mass = 0;
        int kept = 0;
        while (kept < count && !(mass > s->topp)) mass += s->candidates[kept++].probability;
        target *= mass;
        count = kept;
    }
    for (int i = 0; i < count; i++) {
        passed += s->candidates[i].probability;
        if (target < passed) return s->candidates[i].id;
    }
    return s->candidates[count - 1].id; /* rounding kept the total below the coin */
}

/* ---- Generate and chat ---------------------------------------------------------------------------------------- */

typedef struct {
    const Model *model;
    const Tokenizer *tokenizer;
    State *state;
    Sampler *sampler;
    int steps; /* forward passes, the prompt's included */
} Session;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Echo the prompt piece by piece and continue it until BOS, which begins another text, or until steps run out. */
static void generate(const Session *s, const char *prompt) {
    const Tokens forced = encode(s->tokenizer, prompt);
    int token = forced.at[0].id, pos = 0;
    double start_s = 0; /* taken after the first pass, which also brings the weights into memory */
    while (pos < s->steps) {
        float *logits = forward(s->model, s->state, token, pos++);
        const bool is_forced = pos < forced.count;
        const int next = is_forced ? forced.at[pos].id : sample(s->sampler, logits, s->model->vocab_size);
        if (next == BOS) break;
        print_token(s->tokenizer, token, next);
        token = next;
        if (pos == 1) start_s = now_s();
    }
    putchar('\n');
    fflush(stdout);
    if (pos > 1) fprintf(stderr, "achieved tok/s: %f\n", (pos - 1) / (now_s() - start_s));
    free(forced.at);
}

/* False at the end of the input, and line as it was; the rest of a line that is too long is the next one. */
static bool ask(const char *question, char line[512]) {
    fputs(question, stdout);
    fflush(stdout);
    if (fgets(line, 512, stdin) == NULL) return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}

static Tokens encode_turn(const Tokenizer *t, const char *system, const char *user) {
    const bool has_system = *system != '\0';
    const size_t size = strlen(system) + strlen(user) + 64;
    char *text = zeroed(size, 1, 1);
    snprintf(text, size, "[INST] %s%s%s%s [/INST]", has_system ? "<<SYS>>\n" : "", system,
             has_system ? "\n<</SYS>>\n\n" : "", user);
    const Tokens tokens = encode(t, text);
    free(text);
    return tokens;
}

/* Take turns until steps run out. As in llama2.c a sample is drawn at every position, the EOS that ends an answer is
 * fed, what is sampled from it is printed and dropped, and at the end of the input the last text is repeated. */
static void chat(const Session *s, const char *first_prompt, const char *system_prompt) {
    char system_line[512] = "", user_line[512] = "";
    const char *user = user_line;
    Tokens turn = {0};
    int fed = 0, next = 0;
    for (int pos = 0, users_turn = true; pos < s->steps; pos++) {
        if (users_turn) {
            if (pos == 0 && system_prompt == NULL) ask("Enter system prompt (optional): ", system_line);
            const char *system = pos > 0 ? "" : system_prompt != NULL ? system_prompt : system_line;
            if (pos == 0 && first_prompt != NULL)
                user = first_prompt;
            else if (ask("User: ", user_line))
                user = user_line;
            free(turn.at);
            turn = encode_turn(s->tokenizer, system, user);
            fed = 0;
            fputs("Assistant: ", stdout);
        }
        const int token = fed < turn.count ? turn.at[fed++].id : next;
        users_turn = token == EOS;
        next = sample(s->sampler, forward(s->model, s->state, token, pos), s->model->vocab_size);
        if (next == EOS)
            putchar('\n');
        else if (fed == turn.count)
            print_token(s->tokenizer, token, next);
    }
    putchar('\n');
    free(turn.at);
}

/* ---- Command line --------------------------------------------------------------------------------------------- */

__attribute__((noreturn)) static void exit_with_usage(void) {
    fputs("usage: run CHECKPOINT [-t X] [-p X] [-s N] [-n N] [-i TEXT] [-z FILE] [-m MODE] [-y TEXT] [-j N]\n"
          "  -t X     temperature, 0 picks the likeliest token (default 1.0)\n"
          "  -p X     top-p in [0, 1]; 0 and 1 consider every token (default 0.9)\n"
          "  -s N     random seed, 0 takes the time (default 0)\n"
          "  -n N     positions to run, prompt included, 0 fills the context (default 256)\n"
          "  -i TEXT  text to continue, or the first user message (default none)\n"
          "  -z FILE  tokenizer (default tokenizer.bin)\n"
          "  -m MODE  generate or chat (default generate)\n"
          "  -y TEXT  system prompt for chat (default: ask)\n"
          "  -j N     threads, 0 takes one per processor (default 1)\n",
          stderr);
    exit(EXIT_FAILURE);
}

/* C's atoi where int has 32 bits and long 64: what does not fit wraps. */
static int32_t parse_int(const char *text) {
    return (int32_t)(uint32_t)strtoll(text, NULL, 10);
}

/* The library would take every processor. */
static void use_threads(int n) {
    if (n < 0 || n > 256) die("-j %d: expected 1 to 256 threads, or 0 for one per processor", n);
    if (n == 0) n = (int)sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __APPLE__
    char text[16];
    snprintf(text, sizeof text, "%d", n);
    setenv("VECLIB_MAXIMUM_THREADS", text, 1);
#else
    BLAS(openblas_set_num_threads)(n);
#endif
}

int main(int argc, char **argv) {
    const char *tokenizer_path = "tokenizer.bin", *mode = "generate", *prompt = NULL, *system_prompt = NULL;
    Sampler sampler = {.temperature = 1.0f, .topp = 0.9f};
    int steps = 256, n_threads = 1;
    if (argc < 2) exit_with_usage();
    for (int i = 2; i < argc; i += 2) {
        if (i + 1 == argc || argv[i][0] != '-' || strlen(argv[i]) != 2) exit_with_usage();
        const char *value = argv[i + 1];
        switch (argv[i][1]) {
        case 't': sampler.temperature = (float)strtod(value, NULL); break;
        case 'p': sampler.topp = (float)strtod(value, NULL); break;
        case 's': sampler.rng = (uint64_t)(int64_t)parse_int(value); break; /* -1 is 2^64 - 1 */
        case 'n': steps = parse_int(value); break;
        case 'i': prompt = value; break;
        case 'z': tokenizer_path = value; break;
        case 'm': mode = value; break;
        case 'y': system_prompt = value; break;
        case 'j': n_threads = parse_int(value); break;
        default: exit_with_usage();
        }
    }
    if (sampler.rng == 0) sampler.rng = (uint64_t)time(NULL);
    if (sampler.temperature < 0) sampler.temperature = 0;
    if (sampler.topp < 0 || sampler.topp > 1) sampler.topp = 0.9f;
    use_threads(n_threads);

    const Model model = load_model(argv[1]);
    if (steps <= 0 || steps > model.seq_len) steps = model.seq_len;
    State state = new_state(&model, steps);
    const Tokenizer tokenizer = load_tokenizer(tokenizer_path, model.vocab_size);
    sampler.candidates = zeroed((size_t)model.vocab_size, 1, sizeof(Candidate));
    const Session session = {&model, &tokenizer, &state, &sampler, steps};
    if (strcmp(mode, "generate") == 0) {
        generate(&session, prompt != NULL ? prompt : "");
    } else if (strcmp(mode, "chat") == 0) {
        chat(&session, prompt, system_prompt);
    } else {
        fprintf(stderr, "run: unknown mode: %s\n", mode);
        exit_with_usage();
    }
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output");
    return EXIT_SUCCESS;
}
