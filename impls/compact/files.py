"""What a llama needs from disk: weights out of llama2.c checkpoints (versions 0 and 1), and the tokenizer.

Integers are little-endian int32, floats little-endian float32, matrices row by row as (out, in).
"""

import math
import re
import struct
from dataclasses import dataclass

import numpy as np

MAGIC = 0x616B3432  # opens version 1 and later; version 0 has none
BOS = 1  # begins a text


class BadFile(Exception):
    """A file is not what it should be."""


@dataclass(frozen=True)
class Config:
    """The seven numbers that a checkpoint begins with."""

    dim: int  # width of the residual stream
    hidden_dim: int  # width of the feed-forward block
    n_layers: int
    n_heads: int
    n_kv_heads: int  # fewer than n_heads: several query heads share one key/value head
    vocab_size: int
    seq_len: int  # longest context

    @property
    def head_dim(self):
        return self.dim // self.n_heads

    @property
    def kv_dim(self):
        return self.n_kv_heads * self.head_dim


def read_checkpoint(path):
    """Return (Config, weights): name to array, the layers of one kind stacked along the first axis."""
    data = np.fromfile(path, np.uint8)
    version, header = (0, data[:28]) if data[:4].tobytes() != struct.pack("<I", MAGIC) else (int(data[4]), data[8:36])
    if version > 1 or len(header) < 28:
        raise BadFile(f"{path}: not a llama2.c checkpoint of version 0 or 1")
    numbers = struct.unpack("<7i", header)
    config = Config(*map(abs, numbers))
    if 0 in numbers or min(numbers[:5]) < 0 or config.dim % config.n_heads or config.n_heads % config.n_kv_heads:
        raise BadFile(f"{path}: these are no dimensions of a llama: {config}")
    # Version 0 has no room for a flag, so a negative vocab_size says that the classifier has weights of its own.
    is_tied = numbers[5] > 0 if version == 0 else bool(data[36])

    c = config
    shapes = {
        "tok_embedding": (c.vocab_size, c.dim),
        "attn_norm": (c.n_layers, c.dim),
        "wq": (c.n_layers, c.dim, c.dim),
        "wk": (c.n_layers, c.kv_dim, c.dim),
        "wv": (c.n_layers, c.kv_dim, c.dim),
        "wo": (c.n_layers, c.dim, c.dim),
        "ffn_norm": (c.n_layers, c.dim),
        "w_gate": (c.n_layers, c.hidden_dim, c.dim),
        "w_down": (c.n_layers, c.dim, c.hidden_dim),
        "w_up": (c.n_layers, c.hidden_dim, c.dim),
        "final_norm": (c.dim,),
        "rope_tables": (2, c.seq_len, c.head_dim // 2),  # nobody reads them, but they stand before lm_head
        "lm_head": (c.vocab_size, c.dim),
    }
    order = list(shapes)
    if version == 1:  # all norms first, no tables
        norms = ["attn_norm", "ffn_norm", "final_norm"]
        order = norms + [name for name in order if name not in [*norms, "rope_tables"]]
    if is_tied:
        order.remove("lm_head")

    weights, at = {}, 28 if version == 0 else 256
    for name in order:
        end = at + 4 * math.prod(shapes[name])
        if end > len(data):
            raise BadFile(f"{path}: ends inside {name}, at byte {len(data)} of at least {end}")
        weights[name] = data[at:end].view("<f4").reshape(shapes[name])
        at = end
    if is_tied:
        weights["lm_head"] = weights["tok_embedding"]
    return config, weights


class Tokenizer:
    """A vocabulary of byte strings; a text is spelled in characters, then neighbours merge, best score first."""

    def __init__(self, pieces, scores):
        self.pieces, self.scores = pieces, scores
        self.ids = {}
        for i, piece in enumerate(pieces):
            self.ids.setdefault(piece, i)

    @classmethod
    def read(cls, path, vocab_size):
        """Read vocab_size pieces; the file does not say how many it has."""
        with open(path, "rb") as file:
            data = file.read()
        pieces, scores, at = [], [], 4  # the first four bytes are the length of the longest piece
        for i in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0.0, 0)
            at += 8 + length
            if length < 1 or at > len(data):
                raise BadFile(f"{path}: piece {i} of {vocab_size} is cut short")
            pieces.append(data[at - length : at])
            scores.append(score)
        return cls(pieces, scores)

    def encode(self, text):
        """Return the ids of a text (bytes), with BOS before it and, unless it is empty, a space."""
        ids = [BOS]
        if not text:
            return ids
        if b" " not in self.ids:
            raise BadFile("this tokenizer has no piece for the space")
        ids.append(self.ids[b" "])
        # A character is a byte and its continuation bytes, four bytes at most. What has no piece is spelled in bytes.
        for character in re.findall(rb"[\x80-\xbf]{1,4}|[^\x80-\xbf][\x80-\xbf]{0,3}", text):
            ids += [self.ids[character]] if character in self.ids else [byte + 3 for byte in character]
        while True:
            best, where = -1e10, None
            for i in range(len(ids) - 1):
                merged = self.ids.get(self.pieces[ids[i]] + self.pieces[ids[i + 1]])
                if merged is not None and self.scores[merged] > best:  # of equal scores the leftmost
                    best, where = self.scores[merged], (i, merged)
            if where is None:
                return ids
            i, merged = where
            ids[i : i + 2] = [merged]

    def printed(self, before, token):
        """Return the bytes to show for a token that follows `before`; single bytes only if they are readable."""
        piece = self.pieces[token]
        if before == BOS:
            piece = piece.removeprefix(b" ")
        if byte := re.match(rb"<0x([0-9A-Fa-f]{1,2})", piece):
            piece = bytes([int(byte[1], 16)])
        is_readable = len(piece) != 1 or b" " <= piece <= b"~" or b"\t" <= piece <= b"\r"
        return piece if is_readable else b""
