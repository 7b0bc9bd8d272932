"""Stands in for both programs of llama2.zig: their command lines and habits, over a program with llama2.c's flags.

    python llama2_zig.py generator|llama2 PROGRAM ARGUMENT...

What it does not do: compute anything. So a test with it shows that a manifest speaks these programs' language.
"""

import os
import struct
import subprocess
import sys
import tempfile

V1 = struct.pack("<Ii", 0x616B3432, 1)
MAX_SEED = 2**64 - 1


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


def options(words, takes_value, switches):
    """Each option at most once; everything else is a mistake."""
    found = {}
    words = iter(words)
    for word in words:
        value = next(words, None) if word in takes_value else ""
        if word not in (*takes_value, *switches) or word in found or value is None:
            fail("Usage: ...")
        found[word] = value
    return found


def clamped(text):
    return str(max(0.0, min(1.0, float(text))))


def seed_argument(text):
    """An unsigned number of 64 bits, as it is; llama2.c can be told only those that an int holds."""
    if not text.isdigit():
        fail("error: InvalidCharacter")
    seed = int(text)
    if seed > MAX_SEED:
        fail("error: Overflow")
    return str(seed) if 0 < seed < 2**31 else "12345"


def tell(program, model, tokenizer, *, temperature, topp, seed, steps, prompt, has_timer):
    args = ["-t", clamped(temperature), "-p", clamped(topp), "-s", seed_argument(seed), "-n", steps, "-i", prompt]
    done = subprocess.run([program, model, "-z", tokenizer, *args], capture_output=True, check=False)
    if done.returncode:
        fail("error: FileNotFound")
    text, _, _ = done.stdout.removesuffix(b"\n").partition(b"\n</s>\n")  # EOS ends it
    sys.stdout.buffer.write(text + (b"\n\nachieved: 2584.416 tok/s\n" if has_timer else b"\n"))


def check_lengths(header):
    dim, hidden_dim, _, n_heads, *_ = header
    if any(length % 4 for length in (dim, hidden_dim, dim // n_heads)):
        fail("error: UnsupportedVectorSize")


def generator(program, directory, *words):
    checkpoint = os.path.join(directory, "checkpoint_v1.bin")
    with open(checkpoint, "rb") as file:
        head = file.read(256)
        body = file.read()
    if head[:8] != V1:
        fail("error: InvalidCheckpoint")
    header = list(struct.unpack("<7i", head[8:36]))
    check_lengths(header)
    takes_value = ("--prompt", "--random_seed", "--sequence_length", "--temperature", "--top_p", "--worker_count")
    given = options(words, takes_value, ("--verbose",))
    int(given.get("--worker_count", "1"))
    with tempfile.NamedTemporaryFile(suffix=".bin") as model:
        model.write(version_0(header, head[36], body))
        model.flush()
        tell(
            program,
            model.name,
            os.path.join(directory, "tokenizer.bin"),
            temperature=given.get("--temperature", "1"),
            topp=given.get("--top_p", "0.9"),
            seed=given.get("--random_seed", "1"),
            steps=given.get("--sequence_length", "0"),
            prompt=given.get("--prompt", ""),
            has_timer="--verbose" in given,
        )


def version_0(header, is_tied, body):
    """The same tensors in the order of version 0, with tables of zeros."""
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = header
    kv_dim = dim // n_heads * n_kv_heads
    norms, embedding = n_layers * dim, vocab_size * dim
    attention = n_layers * 2 * (dim + kv_dim) * dim
    sizes = [norms, norms, dim, embedding, attention, n_layers * 3 * hidden_dim * dim]
    parts = []
    for size in sizes:
        parts.append(body[: 4 * size])
        body = body[4 * size :]
    attn_norm, ffn_norm, final_norm, embedding, attention, ffn = parts
    header[5] = vocab_size if is_tied == 1 else -vocab_size
    tables = bytes(4 * seq_len * (dim // n_heads))
    order = [struct.pack("<7i", *header), embedding, attn_norm, attention, ffn_norm, ffn, final_norm, tables, body]
    return b"".join(order)


def llama2(program, checkpoint, *words):
    with open(checkpoint, "rb") as file:
        whole = file.read()
    header = list(struct.unpack("<7i", whole[:28]))
    check_lengths(header)
    given = options(words, ("-t", "-p", "-s", "-n", "-i", "-z", "-m", "-y"), ("--no-mmap", "--no-timer"))
    steps = max(1, int(given.get("-n", "256")))
    if header[5] > 0:  # the context does not end where the header says; before a classifier it tells where that is
        header[6] = max(header[6], steps)
    with tempfile.NamedTemporaryFile(suffix=".bin") as model:
        model.write(struct.pack("<7i", *header) + whole[28:])
        model.flush()
        tell(
            program,
            model.name,
            given.get("-z", "tokenizer.bin"),
            temperature=given.get("-t", "1"),
            topp=given.get("-p", "0.9"),
            seed=given.get("-s", "1"),
            steps=str(steps),
            prompt=given.get("-i", ""),
            has_timer="--no-timer" not in given,
        )


if __name__ == "__main__":
    {"generator": generator, "llama2": llama2}[sys.argv[1]](*sys.argv[2:])
