/* Reaches single functions of impls/c/run.c: one request a line on stdin, one reply a line on stdout.
 *
 *     c_units FUNCTION [TOKENIZER N_PIECES]
 *
 * Floats are read in decimal and written as bit patterns, so that a reply has no rounding of its own. Text is hex. */
#define main run_main
#include "run.c"
#undef main

enum { MOST = 64, LONGEST_LINE = 8192 };

static int read_floats(char *line, float *out) {
    int n = 0;
    for (char *word = strtok(line, " \n"); word != NULL && n < MOST; word = strtok(NULL, " \n"))
        out[n++] = strtof(word, NULL);
    return n;
}

static void print_floats(const float *x, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        printf("%08x%c", bits, i + 1 < n ? ' ' : '\n');
    }
}

static void print_ints(const int *x, int n) {
    for (int i = 0; i < n; i++) printf("%d%c", x[i], i + 1 < n ? ' ' : '\n');
}

static void answer_tokenizer(const char *function, const Tokenizer *t, const char *line) {
    if (strcmp(function, "encode") == 0) {
        char text[LONGEST_LINE / 2 + 1];
        int n = 0;
        for (unsigned byte; sscanf(line + 2 * n, "%2x", &byte) == 1; n++) text[n] = (char)byte;
        text[n] = '\0';
        const Tokens tokens = encode(t, text);
        print_ints(tokens.ids, tokens.count);
        free(tokens.ids);
    } else {
        int previous, id;
        if (sscanf(line, "%d %d", &previous, &id) != 2) die("decode needs two ids");
        const Text text = decode(t, previous, id);
        for (int i = 0; i < text.length; i++) printf("%02x", (unsigned char)text.bytes[i]);
        putchar('\n');
    }
}

static void answer_numbers(const char *function, char *line) {
    float in[MOST], out[MOST];
    Candidate candidates[MOST];
    if (strcmp(function, "draws") == 0) { /* seed -> six coins as 24-bit integers, then the state */
        uint64_t state = strtoull(line, NULL, 10);
        for (int i = 0; i < 6; i++) printf("%d ", (int)(draw(&state) * 16777216.0f));
        printf("%016llx\n", (unsigned long long)state);
        return;
    }
    const int n = read_floats(line, in);
    if (strcmp(function, "argmax") == 0) {
        printf("%d\n", argmax(in, n));
    } else if (strcmp(function, "sample_all") == 0) { /* coin, probabilities */
        printf("%d\n", sample_all(in + 1, n - 1, in[0]));
    } else if (strcmp(function, "sample_nucleus") == 0) { /* topp, coin, probabilities */
        printf("%d\n", sample_nucleus(in + 2, n - 2, in[0], in[1], candidates));
    } else if (strcmp(function, "rmsnorm") == 0) { /* x, then as many weights */
        rmsnorm(out, in, in + n / 2, n / 2, dot(in, in, n / 2));
        print_floats(out, n / 2);
    } else if (strcmp(function, "softmax") == 0) {
        softmax(in, n);
        print_floats(in, n);
    } else if (strcmp(function, "silu") == 0) {
        const float one = 1.0f;
        swiglu(in, &one, 1);
        print_floats(in, 1);
    } else if (strcmp(function, "quantize") == 0) { /* one group -> scale, codes */
        int8_t codes[MOST];
        int wide[MOST];
        int32_t sum;
        quantize(&(Input){.codes = codes, .scales = out, .code_sums = &sum}, in, n, n);
        for (int i = 0; i < n; i++) wide[i] = codes[i];
        print_floats(out, 1);
        print_ints(wide, n);
    } else {
        die("no function %s", function);
    }
}

int main(int argc, char **argv) {
    char line[LONGEST_LINE];
    Tokenizer tokenizer = {0};
    if (argc > 3) tokenizer = load_tokenizer(argv[2], atoi(argv[3]));
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (argc > 3)
            answer_tokenizer(argv[1], &tokenizer, line);
        else
            answer_numbers(argv[1], line);
    }
    if (argc > 3) free_tokenizer(&tokenizer);
    return 0;
}
