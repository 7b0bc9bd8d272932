/* The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in C:
 *
 *     cc -O2 -o lines lines.c -lm && harness smoke ./lines
 *
 * Copy this file, and put your model in its first part; the last two stay as they are. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void trace(const char *name, int layer, int pos, const float *x, int n);

/* ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ==== */

static const char *program = "toy"; /* one word */
static int threads = 1, vocab_size, seq_len;

/* Set vocab_size and seq_len; the answer is NULL, or why the files cannot be used. */
static const char *load(const char *model, const char *tokenizer) {
    if (!*model || !*tokenizer) return "no such file";
    vocab_size = 259;
    seq_len = 64;
    return NULL;
}

/* Write the ids of a text, at most its length and 3 more; the answer is their number. */
static int encode(const char *text, int bos, int eos, int *ids) {
    int n = 0;
    if (bos) ids[n++] = 1;
    while (*text) ids[n++] = 3 + (unsigned char)*text++;
    if (eos) ids[n++] = 2;
    return n;
}

/* The bytes that a token adds after the previous one, -1 if it is the first; after BOS without one leading space. */
static const char *decode(int previous, int token, int *length) {
    static char piece[1];
    *length = token >= 3 && !(previous == 1 && token == 3 + ' ');
    piece[0] = (char)(token - 3);
    return piece;
}

/* The logits after a token. Positions come in order; 0 begins a new sequence. They may be overwritten. */
static float *forward(int token, int pos) {
    static float logits[259], id;
    static int state;
    id = (float)token;
    trace("token", -1, pos, &id, 1);
    state = (5 * (pos ? state : 0) + token) % 1009;
    for (int i = 0; i < vocab_size; i++) logits[i] = (37 * state + 101 * i) % 127 / 16.0f;
    trace("logits", -1, pos, logits, vocab_size);
    return logits;
}

/* ==== llama2.c's sampler, or yours ==== */

typedef struct {
    float p;
    int id;
} Candidate;

static int likelier(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}

/* The next id; seed is the generator's state. The logits may be overwritten. */
static int sample(float *p, float temperature, float topp, uint64_t *seed) {
    int best = 0, n = 0, last;
    float sum = 0, passed = 0;
    for (int i = 1; i < vocab_size; i++)
        if (p[i] > p[best]) best = i;
    if (temperature == 0) return best;
    const float most = p[best] / temperature;
    for (int i = 0; i < vocab_size; i++) sum += p[i] = expf(p[i] / temperature - most);
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    float coin = ((uint32_t)(*seed * 0x2545F4914F6CDD1Dull >> 32) >> 8) / 16777216.0f;
    const int is_nucleus = topp > 0 && topp < 1;
    const float cutoff = is_nucleus ? (1 - topp) / (vocab_size - 1) : -1;
    Candidate *kept = malloc(vocab_size * sizeof *kept);
    for (int i = 0; i < vocab_size; i++)
        if ((p[i] /= sum) >= cutoff) kept[n++] = (Candidate){p[i], i};
    if (is_nucleus) {
        qsort(kept, n, sizeof *kept, likelier);
        float mass = 0;
        for (int i = 0; i < n; i++)
            if ((mass += kept[i].p) > topp) n = i + 1; /* the one that crosses belongs to it */
        coin *= mass;
    }
    for (last = 0; last < n - 1; last++)
        if ((passed += kept[last].p) > coin) break;
    const int id = n ? kept[last].id : best;
    free(kept);
    return id;
}

/* ==== the trace writer, which stays ==== */

static void trace(const char *name, int layer, int pos, const float *x, int n) {
    static FILE *file;
    static int asked;
    const char *path = asked ? NULL : getenv("HARNESS_TRACE");
    asked = 1;
    if (path && (file = fopen(path, "wb"))) fputs("harness-trace 1\n", file);
    if (!file) return;
    fprintf(file, "%s %d %d %d\n", name, layer, pos, n);
    fwrite(x, sizeof *x, n, file);
}

/* ==== the line protocol, which stays ==== */

static const char *word(void) {
    const char *found = strtok(NULL, " ");
    return found ? found : "";
}

static void put_hex(const void *bytes, size_t n) {
    for (const unsigned char *b = bytes, *end = b + n; b < end; b++) {
        putchar("0123456789abcdef"[*b >> 4]);
        putchar("0123456789abcdef"[*b & 15]);
    }
}

static char *text(void) {
    const char *digits = word();
    const size_t n = strlen(digits) / 2; /* of "-": 0 */
    char *bytes = calloc(n + 1, 1), pair[3] = "";
    for (size_t i = 0; i < n; i++) {
        memcpy(pair, digits + 2 * i, 2);
        bytes[i] = (char)strtol(pair, NULL, 16);
    }
    return bytes;
}

static void put_ids(const int *ids, int n) {
    printf(" %d", n);
    for (int i = 0; i < n; i++) printf(" %d", ids[i]);
}

/* Feed ids from position 0 on, and append the n ids that follow; the answer is how many they are. */
static int generate(int *ids, int n_ids, int n, float temperature, float topp, uint64_t seed) {
    int found = 0;
    for (int pos = 0; pos < seq_len && found < n; pos++) {
        float *logits = forward(ids[pos], pos);
        if (pos < n_ids - 1) continue;
        ids[pos + 1] = sample(logits, temperature, topp, &seed);
        if (ids[n_ids + found++] == 1) break;
    }
    return found;
}

static int is(const char *verb, const char *other) { return !strcmp(verb, other); }

/* Write what follows the number. ids has room for those of a line, and for a whole context behind them. */
static void answer(const char *verb, int *ids) {
    const int n_before = is(verb, "generate") ? 4 : is(verb, "logits") ? 1 : 0;
    const char *problem = NULL, *before[4];
    int n = 0, is_inside = 1;
    if (is(verb, "info")) {
        const char *verbs = "info load encode decode generate logits quit";
        printf("ok llama-lines 1 %s %d %d %d %s", program, vocab_size, seq_len, threads, verbs);
    } else if (is(verb, "quit")) {
        fputs("ok", stdout);
    } else if (is(verb, "load")) {
        char *model = text(), *tokenizer = text();
        vocab_size = seq_len = 0;
        if (!(problem = load(model, tokenizer))) printf("ok %d %d", vocab_size, seq_len);
        else vocab_size = seq_len = 0;
        free(model);
        free(tokenizer);
    } else if (!n_before && !is(verb, "encode") && !is(verb, "decode")) {
        fputs("unsupported", stdout);
    } else if (!vocab_size) {
        problem = "no model is loaded";
    } else if (is(verb, "encode")) {
        const int bos = atoi(word()), eos = atoi(word());
        char *bytes = text();
        printf("ok %d %d", bos, eos);
        put_ids(ids, encode(bytes, bos, eos, ids));
        free(bytes);
    } else {
        for (int i = 0; i < n_before; i++) before[i] = word();
        for (const char *id = word(); *id; id = word(), n++) {
            ids[n] = atoi(id);
            is_inside &= ids[n] >= 0 && ids[n] < vocab_size;
        }
        const int first = n_before == 1 ? atoi(before[0]) : 0;
        if (!is_inside || (n_before && (n < 1 || n > seq_len || first < 0 || first >= n))) {
            problem = "ids that the model cannot take";
        } else if (is(verb, "decode")) {
            int length, total = 0;
            printf("ok %d ", n);
            for (int i = n && ids[0] == 1; i < n; i++, total += length) {
                const char *piece = decode(i ? ids[i - 1] : -1, ids[i], &length);
                put_hex(piece, length);
            }
            if (!total) putchar('-');
        } else if (is(verb, "logits")) {
            printf("ok %d %d %d ", first, n - first, vocab_size);
            for (int pos = 0; pos < n; pos++) {
                const float *logits = forward(ids[pos], pos); /* little-endian, as most machines are */
                if (pos >= first) put_hex(logits, vocab_size * sizeof *logits);
            }
        } else {
            const float temperature = strtof(before[1], NULL), topp = strtof(before[2], NULL);
            const int wanted = atoi(before[0]), seed = atoi(before[3]);
            printf("ok %d %.9g %.9g %d", wanted, temperature, topp, seed);
            put_ids(ids + n, generate(ids, n, wanted, temperature, topp, (int64_t)seed));
        }
    }
    if (problem) printf("error %s", problem);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&line, &room, stdin)) > 0;) {
        line[strcspn(line, "\n")] = 0;
        const char *number = strtok(line, " "), *verb = word();
        int *ids = malloc((length + seq_len + 3) * sizeof *ids);
        if (number) printf("%s ", number);
        answer(verb, ids);
        putchar('\n');
        fflush(stdout);
        free(ids);
        if (is(verb, "quit")) break;
    }
    return 0;
}
