"""The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in Python:

    harness smoke "python lines.py"

Copy this file, and put your model in its first part; the last two stay as they are.
"""

import math
import os
import sys
from array import array

# ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====


class Model:
    name, threads = "toy", 1  # one word

    def __init__(self, model: bytes, tokenizer: bytes) -> None:
        """Load two files; raise OSError or ValueError where they cannot be used."""
        if not model or not tokenizer:
            raise ValueError("no such file")
        self.vocab_size, self.seq_len, self.state = 259, 64, 0

    def encode(self, text: bytes, bos: bool, eos: bool) -> list[int]:
        return [1] * bos + [3 + byte for byte in text] + [2] * eos

    def decode(self, previous: int, token: int) -> bytes:
        """What a token adds after the previous one, -1 if it is the first; after BOS without one leading space."""
        return b"" if token < 3 or (previous == 1 and token == 3 + ord(" ")) else bytes([token - 3])

    def forward(self, token: int, pos: int) -> array:
        """Return the logits after a token, float32. Positions come in order; 0 begins a new sequence."""
        trace("token", -1, pos, array("f", [token]))
        self.state = (5 * (self.state if pos else 0) + token) % 1009
        logits = array("f", [(37 * self.state + 101 * i) % 127 / 16 for i in range(self.vocab_size)])
        trace("logits", -1, pos, logits)
        return logits


# ==== llama2.c's sampler, or yours ====


class Sampler:
    def __init__(self, temperature: float, topp: float, seed: int) -> None:
        self.temperature, self.topp, self.state = temperature, topp, seed % 2**64

    def coin(self) -> float:
        self.state ^= self.state >> 12
        self.state ^= self.state << 25 & (2**64 - 1)
        self.state ^= self.state >> 27
        return (self.state * 0x2545F4914F6CDD1D >> 40 & (2**24 - 1)) / 2**24

    def sample(self, logits: array) -> int:
        if self.temperature == 0:
            return logits.index(max(logits))
        most = max(logits)
        p = [math.exp((logit - most) / self.temperature) for logit in logits]
        total = sum(p)
        kept, coin = [(value / total, i) for i, value in enumerate(p)], self.coin()
        if 0 < self.topp < 1:
            kept.sort(key=lambda pair: (-pair[0], pair[1]))
            mass = 0.0
            for n, (value, _) in enumerate(kept, 1):
                mass += value
                if mass > self.topp:  # the one that crosses belongs to it
                    del kept[n:]
                    break
            coin *= mass
        passed = 0.0
        for value, i in kept:
            passed += value
            if passed > coin:
                return i
        return kept[-1][1]


# ==== the trace writer, which stays ====

TRACE = open(os.environ["HARNESS_TRACE"], "wb") if os.environ.get("HARNESS_TRACE") else None  # noqa: SIM115
if TRACE:
    TRACE.write(b"harness-trace 1\n")


def trace(name: str, layer: int, pos: int, values: array) -> None:
    if TRACE:
        TRACE.write(f"{name} {layer} {pos} {len(values)}\n".encode() + little_endian(values))


def little_endian(values: array) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


# ==== the line protocol, which stays ====

VERBS = "info load encode decode generate logits quit"


def text(word: str) -> bytes:
    return b"" if word == "-" else bytes.fromhex(word)


def hexed(text: bytes) -> str:
    return text.hex() or "-"


def listed(ids: list[int]) -> str:
    return " ".join(map(str, [len(ids), *ids]))


def answer(model: Model, verb: str, words: list[str]) -> str:
    """Return what follows `ok`."""
    if verb == "encode":
        bos, eos = int(words[0]), int(words[1])
        return f"{bos} {eos} {listed(model.encode(text(words[2]), bool(bos), bool(eos)))}"
    n_before = {"decode": 0, "logits": 1, "generate": 4}[verb]
    ids = [int(word) for word in words[n_before:]]
    first = int(words[0]) if verb == "logits" else 0
    if not all(0 <= token < model.vocab_size for token in ids):
        raise ValueError("an id is outside of the vocabulary")
    if verb == "decode":
        pairs = zip([-1, *ids], ids, strict=False)
        return f"{len(ids)} {hexed(b''.join(model.decode(*pair) for pair in pairs if pair != (-1, 1)))}"
    if not 0 <= first < len(ids) <= model.seq_len:
        raise ValueError("more ids than the context, or none")
    if verb == "logits":
        rows = [little_endian(model.forward(token, pos)) for pos, token in enumerate(ids)][first:]
        return f"{first} {len(rows)} {model.vocab_size} {hexed(b''.join(rows))}"
    n, temperature, topp, seed = int(words[0]), float(words[1]), float(words[2]), int(words[3])
    sampler = Sampler(temperature, topp, seed)
    found: list[int] = []
    for pos in range(model.seq_len):
        if len(found) == n or found[-1:] == [1]:
            break
        logits = model.forward(ids[pos] if pos < len(ids) else found[pos - len(ids)], pos)
        if pos >= len(ids) - 1:
            found.append(sampler.sample(logits))
    return f"{n} {temperature:.9g} {topp:.9g} {seed} {listed(found)}"


def main() -> None:
    model = None
    for line in sys.stdin:
        number, verb, *words = line.rstrip("\n").split(" ")
        try:
            if verb == "info":
                shape = (model.vocab_size, model.seq_len) if model else (0, 0)
                reply = f"ok llama-lines 1 {Model.name} {shape[0]} {shape[1]} {Model.threads} {VERBS}"
            elif verb == "load":
                model = None
                model = Model(*map(text, words))
                reply = f"ok {model.vocab_size} {model.seq_len}"
            elif verb == "quit":
                reply = "ok"
            elif verb not in VERBS.split():
                reply = "unsupported"
            elif model is None:
                reply = "error no model is loaded"
            else:
                reply = "ok " + answer(model, verb, words)
        except (OSError, ValueError, IndexError) as error:
            reply = "error " + str(error).encode("ascii", "backslashreplace").decode().replace("\n", " ")
        print(number, reply, flush=True)
        if verb == "quit":
            break


if __name__ == "__main__":
    main()
