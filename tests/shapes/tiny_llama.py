"""A small llama of its own, for the fake ports beside it: it reads the files and generates, in one way or another.

Nothing here comes from harness: a port's author has only the formats to go by. numpy is imported when a model is
really run, so that a port that only complains about its arguments starts fast.
"""

import os
import re
import struct
import sys
import time


def die(message, code=1):
    print(message, file=sys.stderr)
    sys.exit(code)


def _dimensions(head):
    names = ("dim", "hidden", "n_layers", "n_heads", "n_kv_heads", "vocab", "seq_len")
    return dict(zip(names, struct.unpack("<7i", head), strict=True))


class Model:
    def __init__(self, config, take, order, skip_tables=False, group=None):
        c = self.config = config
        c["head"] = c["dim"] // c["n_heads"]
        dim, hidden, vocab = c["dim"], c["hidden"], c["vocab"]
        kv, n = c["n_kv_heads"] * c["head"], c["n_layers"]
        shapes = {
            "emb": (vocab, dim), "att_norm": (n, dim), "wq": (n, dim, dim), "wk": (n, kv, dim), "wv": (n, kv, dim),
            "wo": (n, dim, dim), "ffn_norm": (n, dim), "w1": (n, hidden, dim), "w2": (n, dim, hidden),
            "w3": (n, hidden, dim), "norm": (dim,), "tables": (c["seq_len"] * c["head"],), "cls": (vocab, dim),
        }  # fmt: skip
        for name in order:
            setattr(self, name, take(name, shapes[name]))
        if "cls" not in order:
            self.cls = self.emb


_V0 = ("emb", "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm", "tables")
_V1 = ("att_norm", "ffn_norm", "norm", "emb", "wq", "wk", "wv", "wo", "w1", "w2", "w3")


def read_model(path, version=0, has_gqa=True):
    import numpy as np

    with open(path, "rb") as file:
        data = file.read()
    at = 28
    if version == 0:
        config = _dimensions(data[:28])
        if config["dim"] > 1 << 20:
            die(f"bad header in {os.path.basename(path)}")
        order = _V0 + (("cls",) if config["vocab"] < 0 else ())
        config["vocab"] = abs(config["vocab"])
    else:
        magic, found = struct.unpack_from("<Ii", data)
        if magic != 0x616B3432 or found != version:
            die(f"Bad magic number or version, need version {version}")
        config = _dimensions(data[8:36])
        order = _V1 + (() if data[36] else ("cls",))
        group = struct.unpack_from("<i", data, 37)[0]
        at = 256
    if not has_gqa:
        config["n_kv_heads"] = config["n_heads"]
    norms = ("att_norm", "ffn_norm", "norm")
    if version == 2:
        order = (*norms, *(name for name in order if name not in norms))

    def take(name, shape):
        nonlocal at
        size = int(np.prod(shape))
        if version == 2 and name not in norms:
            # Each matrix of a layer has its codes and then its scales.
            parts = []
            for _ in range(shape[0] if len(shape) == 3 else 1):
                n = int(np.prod(shape[-2:]))
                codes = np.frombuffer(data, np.int8, n, at).astype(np.float32)
                scales = np.frombuffer(data, "<f4", n // group, at + n)
                at += n + 4 * (n // group)
                parts.append((codes.reshape(-1, group) * scales[:, None]).reshape(shape[-2:]))
            return np.stack(parts).reshape(shape)
        values = np.frombuffer(data, "<f4", size, at).reshape(shape)
        at += 4 * size
        return values

    return Model(config, take, order)


def read_tokenizer(path, vocab, layout="today"):
    """Return pieces and scores of a tokenizer.bin: as it is today, without the first number, or without scores."""
    with open(path, "rb") as file:
        data = file.read()
    at = 4 if layout == "today" else 0
    pieces, scores = [], []
    for index in range(vocab):
        score = float(-index)
        if layout != "no-scores":
            (score,) = struct.unpack_from("<f", data, at)
            at += 4
        (length,) = struct.unpack_from("<i", data, at)
        if not 0 < length < 1000:
            die(f"strange tokenizer: piece {index} has length {length}")
        pieces.append(data[at + 4 : at + 4 + length])
        scores.append(score)
        at += 4 + length
    return pieces, scores


def encode(text, pieces, scores):
    ids_of = {piece: index for index, piece in enumerate(pieces)}
    ids = [1]
    if text:
        ids.append(ids_of[b" "])
    for letter in text.decode("utf-8", "surrogateescape"):
        raw = letter.encode("utf-8", "surrogateescape")
        ids += [ids_of[raw]] if raw in ids_of else [byte + 3 for byte in raw]
    while True:
        best = None
        for place in range(len(ids) - 1):
            merged = ids_of.get(pieces[ids[place]] + pieces[ids[place + 1]])
            if merged is not None and (best is None or scores[merged] > best[0]):
                best = (scores[merged], place, merged)
        if best is None:
            return ids
        ids[best[1] : best[1] + 2] = [best[2]]


def piece_bytes(before, token, pieces):
    piece = pieces[token]
    if before == 1 and piece.startswith(b" "):
        piece = piece[1:]
    if found := re.match(rb"<0x([0-9A-F]{2})>", piece):
        piece = bytes([int(found[1], 16)])
    return piece


def forward(model, token, pos, cache, halves=False):
    import numpy as np

    c = model.config
    head, n_rep = c["head"], c["n_heads"] // c["n_kv_heads"]

    def norm(x, gain):
        return x / np.sqrt(np.mean(x * x) + np.float32(1e-5)) * gain

    turn = pos / 10000.0 ** (np.arange(0, head, 2) / head)
    cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)

    def rope(x):
        x = x.reshape(-1, head)
        out = np.empty_like(x)
        a, b = (x[:, : head // 2], x[:, head // 2 :]) if halves else (x[:, 0::2], x[:, 1::2])
        first, second = a * cos - b * sin, a * sin + b * cos
        if halves:
            out[:, : head // 2], out[:, head // 2 :] = first, second
        else:
            out[:, 0::2], out[:, 1::2] = first, second
        return out

    x = model.emb[token]
    for n in range(c["n_layers"]):
        h = norm(x, model.att_norm[n])
        q, k = rope(model.wq[n] @ h), rope(model.wk[n] @ h)
        v = (model.wv[n] @ h).reshape(-1, head)
        keys, values = cache.setdefault(n, ([], []))
        keys.append(k)
        values.append(v)
        ks, vs = np.repeat(np.array(keys), n_rep, axis=1), np.repeat(np.array(values), n_rep, axis=1)
        score = np.einsum("hd,thd->ht", q, ks) / np.sqrt(np.float32(head))
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        x = x + model.wo[n] @ np.einsum("ht,thd->hd", weight, vs).reshape(-1)
        h = norm(x, model.ffn_norm[n])
        gate = model.w1[n] @ h
        x = x + model.w2[n] @ (gate / (1 + np.exp(-gate)) * (model.w3[n] @ h))
    return model.cls @ norm(x, model.norm)


def generate(model, pieces, scores, prompt, steps, temperature=0.0, seed=None, halves=False, stop=(1,)):
    """Yield the bytes of one position after another."""
    import numpy as np

    rng = np.random.default_rng(seed)
    ids = encode(prompt, pieces, scores)
    token, cache = ids[0], {}
    for pos in range(min(steps or model.config["seq_len"], model.config["seq_len"])):
        logits = forward(model, token, pos, cache, halves)
        if pos + 1 < len(ids):
            following = ids[pos + 1]
        elif temperature == 0:
            following = int(logits.argmax())
        else:
            p = np.exp((logits - logits.max()) / temperature)
            following = int(rng.choice(len(p), p=p / p.sum()))
        if following in stop:
            return
        yield piece_bytes(token, following, pieces)
        token = following


def tell(
    model_path, tokenizer_path="tokenizer.bin", prompt="", steps=256, temperature=1.0, seed=None,
    version=0, layout="today", has_gqa=True, halves=False, write=None, speed=True,
):  # fmt: skip
    """Do what llama2.c's main does; return the whole text."""
    for path in (model_path, tokenizer_path):
        if not os.path.isfile(path):
            die(f"couldn't open file {path}")
    out = write or sys.stdout.buffer.write
    model = read_model(model_path, version, has_gqa)
    pieces, scores = read_tokenizer(tokenizer_path, model.config["vocab"], layout)
    start, text = time.time(), b""
    prompt = prompt if isinstance(prompt, bytes) else os.fsencode(prompt)
    n = 0
    for piece in generate(model, pieces, scores, prompt, steps, temperature, seed, halves):
        out(piece)
        text += piece
        n += 1
    out(b"\n")
    if speed:
        print(f"achieved tok/s: {n / (time.time() - start):f}", file=sys.stderr)
    return text


def flags(usage, **how):
    """A main with llama2.c's flags; anything else explains the usage and ends."""
    words = sys.argv[1:]
    if not words or len(words) % 2 == 0:
        die(usage)
    values = {
        "-t": "1.0",
        "-p": "0.9",
        "-s": "0",
        "-n": "256",
        "-i": "",
        "-z": "tokenizer.bin",
        "-m": "generate",
        "-y": "",
    }
    for flag, value in zip(words[1::2], words[2::2], strict=True):
        if flag not in values:
            die(usage)
        values[flag] = value
    seed = int(values["-s"]) or None
    tell(words[0], values["-z"], values["-i"], int(values["-n"]), float(values["-t"]), seed, **how)


USAGE = """\
Usage:   run <checkpoint> [options]
Options:
  -t <float>  temperature in [0,inf], default 1.0
  -p <float>  p value in top-p sampling, default 0.9
  -s <int>    random seed
  -n <int>    number of steps to run for, default 256
  -i <string> input prompt
  -z <string> path to the tokenizer"""
