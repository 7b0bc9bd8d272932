/* The line protocol (docs/protocol.md): a request a line on standard input, its reply a line on standard output.
 *
 *     answer_lines(threads)     until told to quit, or until the input ends
 *
 * A part of run.c, whose model, tokenizer and sampler it uses. A file that can be opened and is wrong inside ends the
 * program, as on the command line. */
#ifndef LINES_H
#define LINES_H

#define VERBS "info load encode decode generate logits quit"

typedef struct {
    bool is_loaded;
    char *model_path, *tokenizer_path;
    Model model;
    Tokenizer tokenizer;
    State state;
    Candidate *candidates;
} Loaded;

/* What is left of the request's line: words, each ended by a space or the end. */
typedef char *Words;

static const char *next_word(Words *words) {
    if (*words == NULL) return NULL;
    char *word = *words, *end = strchr(word, ' ');
    if (end != NULL) *end = '\0';
    *words = end != NULL ? end + 1 : NULL;
    return word;
}

static const char *refused; /* why the last word, or request, could not be taken */

static long long next_integer(Words *words) {
    const char *word = next_word(words);
    char *end = NULL;
    const long long value = word != NULL ? strtoll(word, &end, 10) : 0;
    if (word == NULL || *word == '\0' || *end != '\0') refused = "expected an integer";
    return value;
}

static float next_float(Words *words) {
    const char *word = next_word(words);
    if (word == NULL) refused = "expected a number";
    return word != NULL ? (float)strtod(word, NULL) : 0.0f;
}

/* A text in hexadecimal, decoded in place and ended by a NUL. */
static char *next_text(Words *words) {
    char *word = (char *)next_word(words);
    if (word == NULL) {
        refused = "expected a text";
        return NULL;
    }
    const size_t n_digits = strcmp(word, "-") == 0 ? 0 : strlen(word);
    for (size_t i = 0; i < n_digits; i += 2) {
        const int high = hex_digit(word[i]), low = hex_digit(word[i + 1]);
        if (high < 0 || low < 0) {
            refused = "expected a text in hexadecimal";
            return NULL;
        }
        word[i / 2] = (char)(high * 16 + low);
    }
    word[n_digits / 2] = '\0';
    return word;
}

/* All words that are left, as ids with room for n_more. The caller frees them. */
static Tokens next_ids(Words *words, int vocab_size, size_t n_more) {
    Tokens tokens = {.ids = allocate((*words != NULL ? strlen(*words) : 0) / 2 + 1 + n_more, sizeof(int))};
    while (*words != NULL && refused == NULL) {
        const long long id = next_integer(words);
        if (refused == NULL && (id < 0 || id >= vocab_size)) refused = "an id is outside of the vocabulary";
        tokens.ids[tokens.count++] = (int)id;
    }
    return tokens;
}

static void print_ids(const int *ids, int count) {
    printf(" %d", count);
    for (int i = 0; i < count; i++) printf(" %d", ids[i]);
    putchar('\n');
}

static void print_hex(const void *bytes, size_t n_bytes) {
    static const char digits[] = "0123456789abcdef";
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < n_bytes; i++) {
        putchar(digits[byte[i] >> 4]);
        putchar(digits[byte[i] & 15]);
    }
}

static void unload(Loaded *loaded) {
    if (!loaded->is_loaded) return;
    free(loaded->candidates);
    free_state(&loaded->state);
    free_tokenizer(&loaded->tokenizer);
    free_model(&loaded->model);
    free(loaded->model_path);
    free(loaded->tokenizer_path);
    *loaded = (Loaded){0};
}

static void answer_load(const char *number, Words *words, Loaded *loaded) {
    const char *model = next_text(words), *tokenizer = next_text(words);
    if (refused != NULL) return;
    unload(loaded);
    if (access(model, R_OK) != 0 || access(tokenizer, R_OK) != 0) {
        refused = "cannot open a file";
        return;
    }
    loaded->model_path = strdup(model);
    loaded->tokenizer_path = strdup(tokenizer);
    if (loaded->model_path == NULL || loaded->tokenizer_path == NULL) die("out of memory: names of files");
    loaded->model = load_model(loaded->model_path);
    const Config *c = &loaded->model.config;
    loaded->tokenizer = load_tokenizer(loaded->tokenizer_path, c->vocab_size);
    loaded->state = new_state(c, loaded->model.group, c->seq_len);
    loaded->candidates = allocate((size_t)c->vocab_size, sizeof(Candidate));
    loaded->is_loaded = true;
    printf("%s ok %d %d\n", number, c->vocab_size, c->seq_len);
}

static void answer_encode(const char *number, Words *words, const Loaded *loaded) {
    const bool bos = next_integer(words) != 0, eos = next_integer(words) != 0;
    const char *text = next_text(words);
    if (refused != NULL) return;
    Tokens tokens = encode(&loaded->tokenizer, text);
    const int first = bos ? 0 : 1;
    printf("%s ok %d %d %d", number, bos, eos, tokens.count - first + eos);
    for (int i = first; i < tokens.count; i++) printf(" %d", tokens.ids[i]);
    if (eos) printf(" %d", EOS);
    putchar('\n');
    free(tokens.ids);
}

static void answer_decode(const char *number, Words *words, const Loaded *loaded) {
    Tokens tokens = next_ids(words, loaded->model.config.vocab_size, 0);
    if (refused == NULL) {
        bool is_empty = true;
        printf("%s ok %d ", number, tokens.count);
        for (int i = 0; i < tokens.count; i++) {
            if (i == 0 && tokens.ids[i] == BOS) continue;
            const Text text = decode(&loaded->tokenizer, i > 0 ? tokens.ids[i - 1] : -1, tokens.ids[i]);
            print_hex(text.bytes, (size_t)text.length);
            is_empty = is_empty && text.length == 0;
        }
        puts(is_empty ? "-" : "");
    }
    free(tokens.ids);
}

static bool can_be_fed(const Tokens *tokens, const Config *c) {
    if (refused == NULL && (tokens->count == 0 || tokens->count > c->seq_len))
        refused = "more ids than the context holds, or none";
    return refused == NULL;
}

static void answer_generate(const char *number, Words *words, Loaded *loaded) {
    const Config *c = &loaded->model.config;
    const long long n = next_integer(words);
    Sampler sampler = {.candidates = loaded->candidates};
    sampler.temperature = next_float(words);
    sampler.topp = next_float(words);
    const long long seed = next_integer(words);
    sampler.rng = (uint64_t)seed;
    if (refused == NULL && (n < 0 || seed == 0)) refused = "a negative count, or a seed of 0";
    Tokens tokens = next_ids(words, c->vocab_size, (size_t)c->seq_len + 1);
    if (can_be_fed(&tokens, c)) {
        const int n_prompt = tokens.count;
        for (int pos = 0; pos < c->seq_len && tokens.count - n_prompt < n; pos++) {
            float *logits = forward(&loaded->model, &loaded->state, tokens.ids[pos], pos);
            if (pos + 1 < n_prompt) continue;
            const int next = sample(&sampler, logits, c->vocab_size);
            tokens.ids[tokens.count++] = next;
            if (next == BOS) break;
        }
        printf("%s ok %lld %.9g %.9g %lld", number, n, (double)sampler.temperature, (double)sampler.topp, seed);
        print_ids(tokens.ids + n_prompt, tokens.count - n_prompt);
    }
    free(tokens.ids);
}

static void answer_logits(const char *number, Words *words, Loaded *loaded) {
    const Config *c = &loaded->model.config;
    const long long first = next_integer(words);
    Tokens tokens = next_ids(words, c->vocab_size, 0);
    if (can_be_fed(&tokens, c) && (first < 0 || first >= tokens.count)) refused = "there is no such row";
    if (refused == NULL) {
        printf("%s ok %lld %lld %d ", number, first, tokens.count - first, c->vocab_size);
        for (int pos = 0; pos < tokens.count; pos++) {
            const float *logits = forward(&loaded->model, &loaded->state, tokens.ids[pos], pos);
            if (pos >= first) print_hex(logits, (size_t)c->vocab_size * sizeof(float));
        }
        putchar('\n');
    }
    free(tokens.ids);
}

static void answer(const char *number, const char *verb, Words *words, Loaded *loaded, int threads) {
    const Config *c = &loaded->model.config;
    refused = NULL;
    if (strcmp(verb, "info") == 0) {
        printf("%s ok llama-lines 1 c %d %d %d " VERBS "\n", number, c->vocab_size, c->seq_len, threads);
    } else if (strcmp(verb, "quit") == 0) {
        printf("%s ok\n", number);
    } else if (strcmp(verb, "load") == 0) {
        answer_load(number, words, loaded);
    } else if (strstr(" " VERBS " ", verb) == NULL || *verb == '\0') {
        printf("%s unsupported\n", number);
    } else if (!loaded->is_loaded) {
        refused = "no model is loaded";
    } else if (strcmp(verb, "encode") == 0) {
        answer_encode(number, words, loaded);
    } else if (strcmp(verb, "decode") == 0) {
        answer_decode(number, words, loaded);
    } else if (strcmp(verb, "generate") == 0) {
        answer_generate(number, words, loaded);
    } else if (strcmp(verb, "logits") == 0) {
        answer_logits(number, words, loaded);
    } else {
        printf("%s unsupported\n", number); /* a part of a verb's name */
    }
    if (refused != NULL) printf("%s error %s\n", number, refused);
}

static void answer_lines(int threads) {
    Loaded loaded = {0};
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    bool is_told_to_quit = false;
    while (!is_told_to_quit && (length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = '\0';
        Words words = line;
        const char *number = next_word(&words), *verb = next_word(&words);
        if (verb == NULL) verb = "";
        answer(number, verb, &words, &loaded, threads);
        if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output");
        is_told_to_quit = strcmp(verb, "quit") == 0;
    }
    free(line);
    unload(&loaded);
}

#endif
