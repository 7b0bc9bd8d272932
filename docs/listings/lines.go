// The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in Go:
//
//	go build -o lines lines.go && harness smoke ./lines
//
// Copy this file, and put your model in its first part; the last two stay as they are.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"strconv"
	"strings"
)

// ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====

const program, threads = "toy", 1 // program is one word

type Model struct {
	vocabSize, seqLen int
	state             int
	logits            []float32
}

// load reads two files, or says why they cannot be used.
func load(model, tokenizer string) (*Model, error) {
	if model == "" || tokenizer == "" {
		return nil, errors.New("no such file")
	}
	return &Model{vocabSize: 259, seqLen: 64, logits: make([]float32, 259)}, nil
}

// encode returns the ids of a text, which need not be UTF-8.
func (m *Model) encode(text []byte, bos, eos bool) []int {
	var ids []int
	if bos {
		ids = append(ids, 1)
	}
	for _, b := range text {
		ids = append(ids, 3+int(b))
	}
	if eos {
		ids = append(ids, 2)
	}
	return ids
}

// decode returns what a token adds after the previous one (-1: it is the first); after BOS without one leading space.
func (m *Model) decode(previous, token int) []byte {
	if token < 3 || previous == 1 && token == 3+' ' {
		return nil
	}
	return []byte{byte(token - 3)}
}

// forward returns the logits after a token. Positions come in order; 0 begins anew. They may be overwritten.
func (m *Model) forward(token, pos int) []float32 {
	trace("token", -1, pos, []float32{float32(token)})
	if pos == 0 {
		m.state = 0
	}
	m.state = (5*m.state + token) % 1009
	for i := range m.logits {
		m.logits[i] = float32((37*m.state+101*i)%127) / 16
	}
	trace("logits", -1, pos, m.logits)
	return m.logits
}

// ==== llama2.c's sampler, or yours ====

type Sampler struct {
	temperature, topp float32
	state             uint64
}

func (s *Sampler) coin() float32 {
	s.state ^= s.state >> 12
	s.state ^= s.state << 25
	s.state ^= s.state >> 27
	return float32(uint32(s.state*0x2545F4914F6CDD1D>>32)>>8) / 16777216
}

func (s *Sampler) sample(p []float32) int {
	best := 0
	kept := make([]int, len(p))
	for i := range p {
		kept[i] = i
		if p[i] > p[best] {
			best = i
		}
	}
	if s.temperature == 0 {
		return best
	}
	most, sum := p[best]/s.temperature, float32(0)
	for i := range p {
		p[i] = float32(math.Exp(float64(p[i]/s.temperature - most)))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	coin := s.coin()
	if s.topp > 0 && s.topp < 1 {
		sort.SliceStable(kept, func(a, b int) bool { return p[kept[a]] > p[kept[b]] })
		mass := float32(0)
		for n, id := range kept {
			if mass += p[id]; mass > s.topp { // the one that crosses belongs to it
				kept = kept[:n+1]
				break
			}
		}
		coin *= mass
	}
	passed := float32(0)
	for _, id := range kept {
		if passed += p[id]; passed > coin {
			return id
		}
	}
	return kept[len(kept)-1]
}

// ==== the trace writer, which stays ====

var traceFile = func() *os.File {
	path := os.Getenv("HARNESS_TRACE")
	if path == "" {
		return nil
	}
	file, err := os.Create(path)
	if err == nil {
		fmt.Fprint(file, "harness-trace 1\n")
	}
	return file
}()

// trace records one value; it does nothing unless the environment asks for a trace.
func trace(name string, layer, pos int, values []float32) {
	if traceFile != nil {
		fmt.Fprintf(traceFile, "%s %d %d %d\n", name, layer, pos, len(values))
		traceFile.Write(littleEndian(values))
	}
}

func littleEndian(values []float32) []byte {
	bytes := make([]byte, 0, 4*len(values))
	for _, value := range values {
		bytes = binary.LittleEndian.AppendUint32(bytes, math.Float32bits(value))
	}
	return bytes
}

// ==== the line protocol, which stays ====

func hexed(text []byte) string {
	if len(text) == 0 {
		return "-"
	}
	return hex.EncodeToString(text)
}

func listed(ids []int) string {
	return strings.TrimSpace(fmt.Sprint(len(ids), " ", strings.Trim(fmt.Sprint(ids), "[]")))
}

func shown(value float32) string {
	return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(float64(value), 'g', -1, 32)), "+")
}

func text(word string) []byte {
	bytes, _ := hex.DecodeString(strings.TrimPrefix(word, "-"))
	return bytes
}

// answer writes what follows `ok`; before it wrote anything, it may return an error instead.
func (m *Model) answer(out *bufio.Writer, verb string, words []string) error {
	nBefore := map[string]int{"encode": 3, "decode": 0, "logits": 1, "generate": 4}[verb]
	if len(words) < nBefore {
		return errors.New("a word is missing")
	}
	before := words[:nBefore]
	if verb == "encode" {
		ids := m.encode(text(before[2]), before[0] == "1", before[1] == "1")
		fmt.Fprintf(out, "ok %s %s %s", before[0], before[1], listed(ids))
		return nil
	}
	var ids []int
	for _, word := range words[nBefore:] {
		id, err := strconv.Atoi(word)
		if err != nil || id < 0 || id >= m.vocabSize {
			return errors.New("an id is outside of the vocabulary")
		}
		ids = append(ids, id)
	}
	if verb == "decode" {
		var bytes []byte
		previous := -1
		for i, id := range ids {
			if i > 0 || id != 1 {
				bytes = append(bytes, m.decode(previous, id)...)
			}
			previous = id
		}
		fmt.Fprintf(out, "ok %d %s", len(ids), hexed(bytes))
		return nil
	}
	var s Sampler
	var first, seed int
	numbers := []any{&first, &s.temperature, &s.topp, &seed}[:nBefore]
	if _, err := fmt.Sscan(strings.Join(before, " "), numbers...); err != nil {
		return err
	}
	if len(ids) == 0 || len(ids) > m.seqLen || verb == "logits" && (first < 0 || first >= len(ids)) {
		return errors.New("more ids than the context, or none")
	}
	if verb == "logits" {
		fmt.Fprintf(out, "ok %d %d %d ", first, len(ids)-first, m.vocabSize)
		for pos, id := range ids {
			if row := m.forward(id, pos); pos >= first {
				out.WriteString(hexed(littleEndian(row)))
			}
		}
		return nil
	}
	given := len(ids)
	s.state = uint64(int64(seed))
	for pos := 0; pos < m.seqLen && len(ids) < given+first && (len(ids) == given || ids[len(ids)-1] != 1); pos++ {
		if logits := m.forward(ids[pos], pos); pos >= given-1 {
			ids = append(ids, s.sample(logits))
		}
	}
	fmt.Fprintf(out, "ok %d %s %s %s %s", first, shown(s.temperature), shown(s.topp), before[3], listed(ids[given:]))
	return nil
}

func main() {
	const verbs = "info load encode decode generate logits quit"
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	model := new(Model)
	for verb := ""; verb != "quit"; out.Flush() {
		line, err := in.ReadString('\n')
		words := append(strings.Split(strings.TrimSuffix(line, "\n"), " "), "")
		if err != nil {
			return
		}
		verb = words[1]
		out.WriteString(words[0] + " ")
		words, err = words[2:len(words)-1], nil
		switch {
		case verb == "info":
			fmt.Fprintf(out, "ok llama-lines 1 %s %d %d %d %s", program, model.vocabSize, model.seqLen, threads, verbs)
		case verb == "load" && len(words) == 2:
			var loaded *Model
			*model = Model{}
			if loaded, err = load(string(text(words[0])), string(text(words[1]))); err == nil {
				model = loaded
				fmt.Fprintf(out, "ok %d %d", model.vocabSize, model.seqLen)
			}
		case verb == "quit":
			out.WriteString("ok")
		case !strings.Contains(" "+verbs+" ", " "+verb+" "):
			out.WriteString("unsupported")
		case model.vocabSize == 0:
			err = errors.New("no model is loaded")
		default:
			err = model.answer(out, verb, words)
		}
		if err != nil {
			fmt.Fprintf(out, "error %+q", err.Error())
		}
		out.WriteByte('\n')
	}
}
