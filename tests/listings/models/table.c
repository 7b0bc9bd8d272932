static const char *program = "table";
static int threads = 1, vocab_size, seq_len;
static const int table_ids[] = {IDS}, table_next[] = {NEXT};

static const char *load(const char *model, const char *tokenizer) {
    FILE *files[] = {fopen(model, "rb"), fopen(tokenizer, "rb")};
    if (!files[0] || !files[1]) return "no such file";
    vocab_size = VOCAB_SIZE;
    seq_len = SEQ_LEN;
    return NULL;
}

static int encode(const char *text, int bos, int eos, int *ids) {
    if (!bos || eos || strcmp(text, "PROMPT")) return 0;
    memcpy(ids, table_ids, sizeof table_ids);
    return sizeof table_ids / sizeof *table_ids;
}

static const char *decode(int previous, int token, int *length) {
    *length = previous == token;
    return "?";
}

static float *forward(int token, int pos) {
    static float logits[VOCAB_SIZE];
    const float id = (float)token;
    trace("token", -1, pos, &id, 1);
    for (int i = 0; i < vocab_size; i++) logits[i] = i == table_next[pos];
    return logits;
}

