"""Fuzz the checkpoint and tokenizer readers: damaged files must end in an InputError, in little memory.

    python tools/fuzz_readers.py --count 100000 --seed 1
    python tools/fuzz_readers.py --count 100000 --readers gguf,lmw

Input number i depends on the seed, the readers and i only: `--only i` repeats it, and `--keep DIR` saves the files
that fail. A reader passes if it returns or raises an InputError; any other exception fails. What it returns is then
used (tensors summed, a text encoded and decoded), because a reader that accepts nonsense fails there. At the end the
growth of peak memory is held against a limit far below what the headers of the mutated files ask for.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import resource
import struct
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from harness import checkpoint, formats, tokenizer
from harness.checkpoint import Checkpoint, expected_shapes
from harness.errors import InputError
from harness.formats import (
    WriteOptions,
    gguf,
    gguf_tokenizer,
    hf_config,
    huggingface,
    llama2c_pt,
    lmw,
    npz,
    torch_pickle,
)
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling
from harness.quant import QuantTensor
from harness.tokenizer import AnyTokenizer, Tokenizer, hf_json, sentencepiece_model, tiktoken_ranks
from harness.tokenizer.byte_level import LLAMA3, character_of_byte
from harness.tokenizer.tokenizer_bin import LAYOUTS

# Growth of the peak resident size over the whole run. The corpus has files of at most some kilobytes.
MEMORY_LIMIT_BYTES = 16 << 20
# Integers that readers trip over.
NASTY = (0, 1, 2, 3, 4, 7, 8, 255, 256, 4096, 4097, 65535, 1 << 20, (1 << 31) - 1, -1, -2, -512, -(1 << 31))


def corpus(directory: Path) -> list[tuple[str, bytes]]:
    """Make small valid files: every checkpoint version, tied and not, and every tokenizer layout."""
    files: list[tuple[str, bytes]] = []
    path = directory / "whole"
    values = np.random.default_rng(0)
    for is_tied in (True, False):
        config = ModelConfig(6, 5, 2, 3, 1, 7, 4, is_tied=is_tied)
        tensors = {
            name: values.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(config).items()
        }
        for version in (0, 1, 2):
            checkpoint.write(
                Checkpoint(config, tensors), path, version=version, group_size=3 if version == 2 else None
            )
            files.append(("checkpoint", path.read_bytes()))
    specials = (b"<unk>", b"\n<s>\n", b"\n</s>\n")
    merges = (b" ", b"a", b"b", b" a", b"ab", b" ab", "é".encode())
    few = Tokenizer((*specials, *merges), np.arange(10, 0, -1).astype(np.float32))
    byte_pieces = tuple(b"<0x%02X>" % byte for byte in range(256))
    many = Tokenizer((*specials, *byte_pieces, *merges), -np.arange(266).astype(np.float32))
    for layout in LAYOUTS:
        for one in (few, many):
            tokenizer.write(one, path, layout)
            files.append(("tokenizer", path.read_bytes()))
    files.append(("sentencepiece", sentencepiece_model.dump(many)))
    ranks = [bytes((byte,)) for byte in range(256)] + [b" a", b"ab", b" ab"]
    lines = b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(ranks))
    files.append(("ranks", lines))
    files += [("hf-json", json.dumps(document).encode()) for document in _documents(many)]
    byte_level = tiktoken_ranks.parse(lines, path)
    plain = ModelConfig(6, 5, 2, 3, 1, 266, 4)
    for config, dtype, words in (
        (plain, "float32", many),
        (replace(plain, vocab_size=byte_level.vocab_size, block=Block(qkv_bias=True)), "float16", byte_level),
        (ModelConfig(32, 32, 1, 2, 1, 3, 4, is_tied=False), "q8_0", None),
        (ModelConfig(32, 32, 1, 2, 1, 3, 4, rope_scaling=RopeScaling("llama3", 8.0)), "q4_0", None),
        (ModelConfig(8, 5, 1, 2, 2, 7, 4, is_tied=False, block=replace(PHI_2, rotary_dim=2)), "bfloat16", None),
    ):
        gguf.write(_random(config, values), path, WriteOptions(dtype=dtype, tokenizer=words))
        files.append(("gguf", path.read_bytes()))
    for layout, dtype, words in (("A", "float32", None), ("C", "bfloat16", many), ("C", "float32", None)):
        lmw.write(layout, _random(plain, values), path, WriteOptions(dtype=dtype, tokenizer=words))
        files.append(("lmw", path.read_bytes()))
    return files + _published(directory, _random(replace(plain, n_layers=1), values))


def _published(directory: Path, model: Checkpoint) -> list[tuple[str, bytes]]:
    """Make the archives and directories of PyTorch, numpy and Hugging Face."""
    files: list[tuple[str, bytes]] = []
    for kind, name, dtype in (
        ("safetensors", "safetensors", "float32"),
        ("safetensors", "safetensors", "bfloat16"),
        ("pt", "llama2c-pt", "float32"),
        ("npz", "npz", "float16"),
    ):
        path = directory / f"whole-{kind}"
        formats.write(model, path, name, WriteOptions(dtype=dtype))
        files.append((kind, path.read_bytes()))
    with zipfile.ZipFile(directory / "whole-pt") as archive:
        files.append(("pickle", archive.read("archive/data.pkl")))
    if not (directory / "hf").exists():
        formats.write(model, directory / "hf", "huggingface")
    (directory / "hf" / "config.json").write_text(json.dumps(hf_config.render(model.config, dtype="float32")))
    files.append(("hf-config", (directory / "hf" / "config.json").read_bytes()))
    return files


def _random(config: ModelConfig, values: np.random.Generator) -> Checkpoint:
    tensors = {name: values.standard_normal(shape) for name, shape in expected_shapes(config).items()}
    return Checkpoint(config, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def _documents(words: Tokenizer) -> list[dict[str, object]]:
    """Make a tokenizer.json of either form."""
    spelled = [sentencepiece_model.spelled(words, id_).decode() for id_ in range(words.vocab_size)]
    special = [{"id": id_, "content": spelled[id_], "special": True} for id_ in range(3)]
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    with_fallback = {
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replaces]},
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {piece: id_ for id_, piece in enumerate(spelled)},
            "merges": [["\u2581", "a"], ["a", "b"], ["\u2581", "ab"]],
        },
    }
    vocab = {character: byte for byte, character in enumerate(character_of_byte)}
    cutting = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    byte_level = {
        "added_tokens": [{"id": 258, "content": "<|x|>", "special": True}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cutting, {"type": "ByteLevel", "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|x|>"}}]},
        "model": {"type": "BPE", "vocab": {**vocab, "ab": 256, "Ġa": 257}, "merges": ["a b", "Ġ a"]},
    }
    return [with_fallback, byte_level]


def mutate(content: bytes, others: list[bytes], source: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    data = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 3, 4))):
        _MUTATIONS[source.randrange(len(_MUTATIONS))](data, others, source)
    return bytes(data)


def _truncate(data: bytearray, others: list[bytes], source: random.Random) -> None:
    del data[source.randrange(len(data) + 1) :]


def _flip_bits(data: bytearray, others: list[bytes], source: random.Random) -> None:
    for _ in range(source.choice((1, 2, 8))):
        if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _edit_header(data: bytearray, others: list[bytes], source: random.Random) -> None:
    """Put a nasty integer over one of the first eleven, aligned or, as version 2's group size, not."""
    offset = source.choice((*range(0, 44, 4), 37))
    if len(data) >= offset + 4:
        struct.pack_into("<i", data, offset, source.choice(NASTY))


def _edit_anywhere(data: bytearray, others: list[bytes], source: random.Random) -> None:
    if len(data) >= 4:
        struct.pack_into("<i", data, source.randrange(len(data) - 3), source.choice(NASTY))


def _splice(data: bytearray, others: list[bytes], source: random.Random) -> None:
    """Continue with the rest of another file."""
    other = source.choice(others)
    data[source.randrange(len(data) + 1) :] = other[source.randrange(len(other)) :]


def _insert(data: bytearray, others: list[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at:at] = source.randbytes(source.choice((1, 4, 100)))


def _remove(data: bytearray, others: list[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    del data[at : at + source.choice((1, 4, 8, 100))]


def _repeat(data: bytearray, others: list[bytes], source: random.Random) -> None:
    """Put copies of a few bytes where they are: brackets in brackets, a thing there twice."""
    at = source.randrange(len(data) + 1)
    data[at:at] = data[at : at + source.choice((1, 8, 40))] * source.choice((1, 2, 300))


def _pad(data: bytearray, others: list[bytes], source: random.Random) -> None:
    data.extend(bytes(source.choice((1, 4, 28, 256, 4096))))


_MUTATIONS: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _truncate,
    _flip_bits,
    _edit_header,
    _edit_header,
    _edit_anywhere,
    _splice,
    _insert,
    _remove,
    _repeat,
    _pad,
)


def use_checkpoint(path: Path) -> str:
    return _sum(checkpoint.read(path))


def _sum(read: Checkpoint) -> str:
    read.validate()
    with np.errstate(all="ignore"):
        for tensor in read.tensors.values():
            (tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor).sum()
    return f"accepted as {read.format}"


def use_gguf(path: Path) -> str:
    return f"{_sum(gguf.read(path))}, tokenizer {_encode(gguf_tokenizer.read(path))}"


def use_lmw(path: Path) -> str:
    return f"{_sum(lmw.read(path))}, tokenizer {_encode(lmw.read_tokenizer(path))}"


def use_pickle(path: Path) -> str:
    torch_pickle.load(path.read_bytes(), path)
    return "accepted"


def use_hf_config(path: Path) -> str:
    """Read the directory of the corpus, which stands beside, with this for its configuration."""
    directory = path.parent / "hf"
    (directory / "config.json").write_bytes(path.read_bytes())
    return _sum(huggingface.read(directory))


def _encode(read: AnyTokenizer | None) -> str:
    if read is None:
        return "none"
    for id_ in range(read.vocab_size):
        read.printed(read.bos_id, id_)
    try:
        read.decode(read.encode(" ab é\n"))
    except InputError:
        return f"{read.layout}, without pieces for the text"
    return read.layout


def use_tokenizer(path: Path) -> str:
    read = tokenizer.read(path)
    assert tokenizer.count_pieces(path) == read.vocab_size
    for id_ in range(read.vocab_size):
        read.printed(read.bos_id, id_)
    try:
        read.decode(read.encode(" ab é\n", eos=True))
    except InputError:
        return f"accepted as {read.layout}, without pieces for the text"
    return f"accepted as {read.layout}"


READERS: dict[str, Callable[[Path], str]] = {
    "checkpoint": use_checkpoint,
    "tokenizer": use_tokenizer,
    "gguf": use_gguf,
    "lmw": use_lmw,
    "safetensors": lambda path: _sum(huggingface.read(path)),
    "pt": lambda path: _sum(llama2c_pt.read(path)),
    "npz": lambda path: _sum(npz.read(path)),
    "pickle": use_pickle,
    "hf-config": use_hf_config,
    "sentencepiece": lambda path: f"accepted: {_encode(sentencepiece_model.read(path))}",
    "ranks": lambda path: f"accepted: {_encode(tiktoken_ranks.read(path))}",
    "hf-json": lambda path: f"accepted: {_encode(hf_json.read(path))}",
}


def run(
    seed: int, indices: range, directory: Path, keep: Path | None, readers: Sequence[str] = tuple(READERS)
) -> tuple[Counter[str], list[str]]:
    """Read every mutated file of the indices; return the outcomes by reader and a report of each failure."""
    files = [(kind, content) for kind, content in corpus(directory) if kind in readers]
    contents = [content for _, content in files]
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    path = directory / "mutated"
    for index in indices:
        source = random.Random(f"{seed}:{index}")
        kind, content = source.choice(files)
        # One in twenty goes to a reader of any kind.
        reader = kind if source.random() > 0.05 else source.choice(readers)
        mutated = mutate(content, contents, source)
        path.write_bytes(mutated)
        try:
            outcome = READERS[reader](path)
        except InputError:
            outcome = "refused"
        except Exception:
            outcome = "FAILED"
            failures.append(f"--seed {seed} --only {index} ({reader}):\n{traceback.format_exc()}")
            if keep is not None:
                (keep / f"{seed}-{index}-{reader}.bin").write_bytes(mutated)
        outcomes[f"{reader}: {outcome}"] += 1
    return outcomes, failures


def peak_bytes() -> int:
    """Return this process's peak resident size; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000, help="number of inputs (default: 100000)")
    parser.add_argument("--only", type=int, help="the number of the one input to repeat")
    parser.add_argument(
        "--readers", default=",".join(READERS), help=f"a comma list (default: all): {', '.join(READERS)}"
    )
    parser.add_argument("--keep", type=Path, help="a directory for the files that fail")
    options = parser.parse_args()
    readers = options.readers.split(",")
    if unknown := set(readers) - set(READERS):
        parser.error(f"there is no reader {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    indices = range(options.count) if options.only is None else range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory() as directory:
        run(
            options.seed, range(-400, 0), Path(directory), None, readers
        )  # so that imports and caches are in the baseline
        before_bytes, start = peak_bytes(), perf_counter()
        outcomes, failures = run(options.seed, indices, Path(directory), options.keep, readers)
        elapsed_s, growth_bytes = perf_counter() - start, peak_bytes() - before_bytes
    for name, n in sorted(outcomes.items()):
        print(f"{n:9,}  {name}")
    print(f"{sum(outcomes.values()):9,}  inputs in {elapsed_s:.1f} s, {len(failures)} failures")
    print(f"peak memory grew by {growth_bytes / 2**20:.1f} MiB (limit {MEMORY_LIMIT_BYTES >> 20} MiB)")
    for failure in failures[:10]:
        print(failure, file=sys.stderr)
    return 1 if failures or growth_bytes > MEMORY_LIMIT_BYTES else 0


if __name__ == "__main__":
    raise SystemExit(main())
