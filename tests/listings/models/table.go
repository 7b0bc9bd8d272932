const program, threads = "table", 1

type Model struct {
	vocabSize, seqLen int
}

func load(model, tokenizer string) (*Model, error) {
	if _, err := os.Stat(model); err != nil {
		return nil, err
	}
	return &Model{vocabSize: VOCAB_SIZE, seqLen: SEQ_LEN}, nil
}

func (m *Model) encode(text []byte, bos, eos bool) []int {
	if string(text) != "PROMPT" || !bos || eos {
		return nil
	}
	return []int{IDS}
}

func (m *Model) decode(previous, token int) []byte { return nil }

func (m *Model) forward(token, pos int) []float32 {
	trace("token", -1, pos, []float32{float32(token)})
	logits := make([]float32, m.vocabSize)
	logits[[]int{NEXT}[pos]] = 1
	return logits
}

