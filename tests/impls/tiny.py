"""Models and tokenizers made from nothing: small ones that load in no time, and sizes that no file may have."""

import struct

import numpy as np

TINY = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 300, "seq_len": 16}
FIRST_LETTER_ID = 260  # of tiny_pieces

HOSTILE_INTS = [0, -1, -(2**31), 2**31 - 1, 2**30, 65536 * 4096]
# Dimensions that do not go together, in place of some of TINY.
INCONSISTENT = [
    {"n_heads": 3},  # does not divide dim
    {"n_heads": 8, "n_kv_heads": 8},  # heads of odd width
    {"n_heads": 4, "n_kv_heads": 3},  # heads cannot share
    {"n_heads": 2, "n_kv_heads": 4},
    {"vocab_size": 1},  # no BOS
    {"n_layers": 2**20, "dim": 2, "n_heads": 1, "n_kv_heads": 1},
    {"dim": 2**31 - 2, "hidden_dim": 2**31 - 1, "n_layers": 2**31 - 1, "n_heads": 1, "n_kv_heads": 1},
]
HOSTILE_GROUPS = [0, -4, 3, 16, 2**31 - 1, -(2**31)]
HOSTILE_LENGTHS = [0, -1, -(2**31), 2**31 - 1, 10_000]  # of a piece
NOT_NUMBERS = [np.nan, np.inf, 3e38, 1e-45]


def random_v0(config, *, tied=True, scale=1.0):
    """A complete version 0 file of random weights, and the byte at which a tied one could end."""
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = config.values()
    head_dim = dim // n_heads
    per_layer = 2 * dim + 2 * dim * dim + 2 * head_dim * n_kv_heads * dim + 3 * hidden_dim * dim
    needed = vocab_size * dim + n_layers * per_layer + dim
    n_floats = needed + seq_len * head_dim + (0 if tied else vocab_size * dim)
    weights = np.random.default_rng(5).normal(size=n_floats, scale=scale).astype("<f4")
    return header(config | {"vocab_size": vocab_size if tied else -vocab_size}) + weights.tobytes(), 28 + 4 * needed


def tiny_v0(*, tied=True):
    return random_v0(TINY, tied=tied)


def tiny_v1():
    """A version 1 file of TINY with a shared classifier."""
    body = tiny_v0()[0][28 : tiny_v0()[1]]
    return (struct.pack("<Ii", 0x616B3432, 1) + header(TINY) + b"\1").ljust(256, b"\0") + body


def header(config):
    return struct.pack("<7i", *config.values())


def with_int(whole, offset, value):
    """A file with one of its integers replaced."""
    return whole[:offset] + struct.pack("<i", value) + whole[offset + 4 :]


def filled(whole, value, start=28, end=None):
    """A file whose floats, from one byte to another, are all the same."""
    end = len(whole) if end is None else end
    return whole[:start] + np.full((end - start) // 4, value, "<f4").tobytes() + whole[end:]


def cuts(size):
    """Lengths to cut a file at: every one in the header, then many, then just before the end."""
    return [*range(64), *range(64, size, 499), *range(size - 5, size)]


def tiny_pieces():
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
    pieces += [bytes([ord("a") + i]) for i in range(26)]
    return pieces + [b" " + bytes([ord("a") + i]) for i in range(TINY["vocab_size"] - len(pieces))]


def tokenizer_file(pieces, *, longest=None):
    longest = max(map(len, pieces)) if longest is None else longest
    records = (struct.pack("<fi", -float(i), len(piece)) + piece for i, piece in enumerate(pieces))
    return struct.pack("<i", longest) + b"".join(records)
