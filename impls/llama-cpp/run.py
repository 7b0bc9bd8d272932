"""llama.cpp, through llama-cpp-python, behind the harness's doors: it reads GGUF and decodes greedily.

    python run.py model.gguf -n 256 -j 1 -i "Once upon a time"    write a text of 256 positions with one thread
    python run.py --lines 1                                       speak the line protocol

Ids, logits and pieces are llama.cpp's own; what is here is the loop around them. With --precision f32 keys and values
are kept in float32 and attention is computed by plain products, so that a float32 file is computed in float32
throughout; with q8 they are as llama.cpp has them by itself: float16, and whichever attention it prefers.
"""

import argparse
import ctypes
import os
import sys
import time

import llama_cpp
import numpy as np

VERBS = "info load encode decode generate logits quit"
MOST_IDS = 512  # that are computed at a time
# Every argument of the command line is decoded so, and is given back as the bytes that it was.
BYTES = ("utf-8", "surrogateescape")


@llama_cpp.llama_log_callback
def silence(level, text, user_data):
    """Keep llama.cpp from telling of its loading."""


def ids_at_a_time(precision: str) -> int:
    """Return how many ids of a prompt are computed at a time.

    A build with AMX multiplies quantised matrices in its tiles where there are two ids or more. Virtual machines are
    known that announce AMX and end a program that loads a tile. One id at a time never does; where tiles work,
    LLAMA_CPP_BATCH=512 lets llama.cpp use them.
    """
    if asked := os.environ.get("LLAMA_CPP_BATCH"):
        return max(1, int(asked))
    has_tiles = precision == "q8" and b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()
    return 1 if has_tiles else MOST_IDS


class Model:
    """A GGUF file, its vocabulary, and the cache of one sequence."""

    def __init__(self, path: bytes, threads: int, precision: str) -> None:
        """Load a file; raise OSError where llama.cpp does not take it."""
        self.context = None
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path, params)
        if not self.model:
            raise OSError(f"{path.decode(*BYTES)}: llama.cpp cannot load it")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.seq_len = llama_cpp.llama_model_n_ctx_train(self.model)
        self.bos = llama_cpp.llama_vocab_bos(self.vocab)
        self.eos = llama_cpp.llama_vocab_eos(self.vocab)
        asked = llama_cpp.llama_context_default_params()
        self.n_batch = ids_at_a_time(precision)
        asked.n_ctx = self.seq_len
        asked.n_batch = asked.n_ubatch = self.n_batch
        asked.n_threads = asked.n_threads_batch = threads
        if precision == "f32":
            asked.type_k = asked.type_v = llama_cpp.GGML_TYPE_F32
            asked.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        asked.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, asked)
        if not self.context:
            raise OSError(f"{path.decode(*BYTES)}: llama.cpp cannot make a context for it")
        self.batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        self.rows: dict[int, np.ndarray] = {}
        self.n_read = 0

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def encode(self, text: bytes, *, bos: bool, eos: bool) -> list[int]:
        """Encode a text; what it spells stays text."""
        room = (llama_cpp.llama_token * (len(text) + 2))()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), room, len(room), False, False)
        if n < 0:
            raise ValueError("llama.cpp cannot encode this text")
        return [self.bos] * bos + room[:n] + [self.eos] * eos

    def decode(self, previous: int, token: int) -> bytes:
        """Return what a token adds after the previous one; after BOS without one leading space."""
        room = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, room, len(room), 0, True)
        if n < 0:
            room = ctypes.create_string_buffer(-n)
            n = llama_cpp.llama_token_to_piece(self.vocab, token, room, len(room), 0, True)
        piece = room.raw[:n]
        return piece[1:] if previous == self.bos and piece[:1] == b" " else piece

    def is_end(self, token: int) -> bool:
        return token == self.bos or llama_cpp.llama_vocab_is_eog(self.vocab, token)

    def forget(self) -> None:
        """Begin a new sequence."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self.n_read = 0

    def read(self, ids: list[int], first: int | None = None) -> list[np.ndarray]:
        """Read the next ids; return the logits from position `first` on as copies, or of the last as a view."""
        found: list[np.ndarray] = []
        for start in range(0, len(ids), self.n_batch):
            some = ids[start : start + self.n_batch]
            batch = self.batch
            batch.n_tokens = len(some)
            wanted = []
            for i, token in enumerate(some):
                batch.token[i], batch.pos[i] = token, self.n_read
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                is_wanted = self.n_read >= first if first is not None else start + i == len(ids) - 1
                batch.logits[i] = is_wanted
                if is_wanted:
                    wanted.append(i)
                self.n_read += 1
            if status := llama_cpp.llama_decode(self.context, batch):
                raise ValueError(f"llama_decode failed with {status}")
            for i in wanted:
                row = self.row(i)
                found.append(row if first is None else row.copy())
        return found

    def row(self, i: int) -> np.ndarray:
        """Return a view of llama.cpp's logits after token i of the last batch."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, i)
        if not pointer:
            raise ValueError("llama.cpp has no logits for a position")
        address = ctypes.addressof(pointer.contents)
        if address not in self.rows:  # making the view takes longer than finding the largest of a small row
            self.rows[address] = np.ctypeslib.as_array(pointer, (self.vocab_size,))
        return self.rows[address]

    def after(self, ids: list[int], n: int):
        """Yield the greedy continuation of a new sequence, the token that ends it included."""
        self.forget()
        (logits,) = self.read(ids)
        for i in range(n):
            token = int(logits.argmax())
            yield token
            if i + 1 == n or self.n_read == self.seq_len or self.is_end(token):
                return
            (logits,) = self.read([token])


# ---- the command line ----------------------------------------------------------------------------


def write_text(model: Model, prompt: bytes, steps: int) -> None:
    """Write prompt and continuation, `steps` positions in all, and its own speed to stderr."""
    out = sys.stdout.buffer
    steps = steps if 0 < steps <= model.seq_len else model.seq_len
    ids = model.encode(prompt, bos=True, eos=False)
    previous = ids[0]
    for token in ids[1 : steps + 1]:
        out.write(model.decode(previous, token))
        previous = token
    out.flush()
    begun, n = 0.0, 0
    if steps >= len(ids):
        for token in model.after(ids, steps - len(ids) + 1):
            begun = begun or time.perf_counter()
            n += 1
            if model.is_end(token):
                break
            out.write(model.decode(previous, token))
            out.flush()
            previous = token
    out.write(b"\n")
    out.flush()
    if n > 1:
        print(f"achieved tok/s: {(n - 1) / (time.perf_counter() - begun):f}", file=sys.stderr)


# ---- the line protocol ---------------------------------------------------------------------------


def text(word: str) -> bytes:
    return b"" if word == "-" else bytes.fromhex(word)


def listed(ids: list[int]) -> str:
    return " ".join(map(str, [len(ids), *ids]))


def answer(model: Model, verb: str, words: list[str]) -> str:
    """Return what follows `ok`."""
    if verb == "encode":
        bos, eos = int(words[0]), int(words[1])
        return f"{bos} {eos} {listed(model.encode(text(words[2]), bos=bool(bos), eos=bool(eos)))}"
    n_before = {"decode": 0, "logits": 1, "generate": 4}[verb]
    ids = [int(word) for word in words[n_before:]]
    if not all(0 <= token < model.vocab_size for token in ids):
        raise ValueError("an id is outside of the vocabulary")
    if verb == "decode":
        shown = b"".join(
            model.decode(previous, token)
            for i, (previous, token) in enumerate(zip([-1, *ids], ids, strict=False))
            if i or token != model.bos
        )
        return f"{len(ids)} {shown.hex() or '-'}"
    first = int(words[0]) if verb == "logits" else 0
    if not 0 <= first < len(ids) <= model.seq_len:
        raise ValueError("more ids than the context, or none")
    if verb == "logits":
        model.forget()
        rows = model.read(ids, first)
        return f"{first} {len(rows)} {model.vocab_size} {np.array(rows, '<f4').tobytes().hex()}"
    n, temperature, topp, seed = int(words[0]), float(words[1]), float(words[2]), int(words[3])
    if temperature:
        raise ValueError("decodes greedily only")
    found = list(model.after(ids, n)) if n else []
    return f"{n} 0 {topp:.9g} {seed} {listed(found)}"


def speak(threads: int, precision: str) -> None:
    """Answer requests until there are no more."""
    model = None
    for line in sys.stdin:
        number, verb, *words = line.rstrip("\n").split(" ")
        try:
            if verb == "info":
                shape = (model.vocab_size, model.seq_len) if model else (0, 0)
                reply = f"ok llama-lines 1 llama.cpp {shape[0]} {shape[1]} {threads} {VERBS}"
            elif verb == "load":
                if model:
                    model.close()
                model = None
                model = Model(text(words[0]), threads, precision)
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


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp through llama-cpp-python, greedily")
    parser.add_argument("model", nargs="?")
    parser.add_argument("-n", "--steps", type=int, default=256)
    parser.add_argument("-j", "--threads", type=int, default=1)
    parser.add_argument("-i", "--prompt", default="")
    parser.add_argument("--precision", choices=("f32", "q8"), default="f32")
    parser.add_argument("--lines", type=int, metavar="THREADS")
    options = parser.parse_args()
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    if options.lines:
        speak(options.lines, options.precision)
    elif options.model is None:
        parser.error("say which model")
    else:
        try:
            model = Model(options.model.encode(*BYTES), options.threads, options.precision)
        except OSError as error:
            raise SystemExit(f"run: {error}") from error
        write_text(model, options.prompt.encode(*BYTES), options.steps)


if __name__ == "__main__":
    main()
