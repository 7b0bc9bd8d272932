"""Give llama.cpp the GGUF files that `harness convert` writes, and compare ids, greedy tokens and logits with ours.

    export LLAMA_CPP_PYTHON=llama-cpp/bin/python        # of an environment with llama-cpp-python
    python tools/llama_cpp_agreement.py --json reports/llama-cpp.json --markdown reports/llama-cpp.md

Three parts. Vocabularies: hard texts and generated ones have the same ids by the file's tokenizer and by llama.cpp.
Models: each model in each type, its greedy tokens after some prompts, and the logits after each of them. The
reference computes in float64 from the file as it is read back, so what a type rounds off is in both, and what is
left is llama.cpp's arithmetic: beside narrow matrices it rounds activations too. Blocks: a small model of random
weights of every architecture that GGUF holds, logits only.

llama.cpp is driven through impls/llama-cpp/run.py, one process for each file. Exit status 1 where a text of whole
Unicode characters has other ids, where a greedy token of a float32 file is another one, or where logits lie further
apart than the table says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))

from tokenizer_agreement import text as generated_text

from harness import formats, models
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.checkpoint import Checkpoint, expected_shapes
from harness.conversion.convert import convert
from harness.engine import Engine, generate
from harness.errors import HarnessError, InputError
from harness.formats import WriteOptions
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling
from harness.tokenizer import AnyTokenizer, ByteLevelTokenizer
from harness.tokenizer.hard_texts import each_hard_text

RUN = Path(__file__).parents[1] / "impls" / "llama-cpp" / "run.py"
MODELS = ("stories260K", "gqa", "mha", "mqa", "llama3")
PROMPTS = (b"", b"Once upon a time", b"Emma was a little girl", b'The dog saw 3 big cats, and said: "No!"')
# llama.cpp takes GELU from a table of float16.
BLOCK_BOUNDS = {"phi-2": 2e-3}
# Largest difference of a logit, as a share of their spread, by the type of the matrices: several times what honest
# rounding of activations to that type does here, and far below what a wrong layout does, which is of the order of 1.
BOUNDS = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2, "q8_0": 5e-2, "q4_0": 5e-2}

_PLAIN = ModelConfig(96, 160, 3, 6, 2, 97, 64, is_tied=False)
_LLAMA_3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 16)
BLOCKS = {
    "llama": _PLAIN,
    "llama, tied": replace(_PLAIN, is_tied=True),
    "llama 3.1": replace(_PLAIN, rope_theta=500000.0, rope_scaling=_LLAMA_3),
    "linear rope scaling": replace(_PLAIN, rope_scaling=RopeScaling("linear", 4.0), norm_eps=1e-6),
    "heads of their own size": replace(_PLAIN, head_size=24),
    "mistral, a window as long as the context": replace(_PLAIN, block=Block(window=64)),
    "qwen2": replace(_PLAIN, block=Block(qkv_bias=True), norm_eps=1e-6, rope_theta=1e6, is_tied=True),
    "qwen3": replace(_PLAIN, head_size=24, block=Block(qk_norm=True), norm_eps=1e-6, rope_theta=1e6),
    "phi-2": replace(_PLAIN, n_kv_heads=6, block=replace(PHI_2, rotary_dim=8)),
}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Texts:
    """How a vocabulary fared.

    Attributes:
        n_texts, n_other_ids: of whole Unicode characters.
        n_no_unicode, n_no_unicode_other_ids: of bytes that are no UTF-8, which each program reads in its own way.
        example: the first text that has other ids.
    """

    model: str
    n_texts: int
    n_other_ids: int
    n_no_unicode: int
    n_no_unicode_other_ids: int
    example: str = ""

    @property
    def is_right(self) -> bool:
        return not self.n_other_ids


@dataclass(frozen=True, slots=True)
class Tokens:
    """How a model in one type fared.

    Attributes:
        stored: types of the matrices with the number of their values.
        n_tokens: greedy tokens that were compared, over all prompts.
        first_other: place of the first one that is another, counted from 1 in its text; 0: none is.
        n_near_ties: texts in which one is.
        largest_regret: of llama.cpp's choices, by the reference's logits, as a share of their spread.
        largest: difference of a logit, as a share of their spread.
        same_likeliest: share of positions with the same likeliest token.
    """

    model: str
    dtype: str
    stored: Mapping[str, int]
    n_tokens: int
    first_other: int
    n_near_ties: int
    largest_regret: float
    largest: float
    same_likeliest: float

    @property
    def is_right(self) -> bool:
        is_same = self.dtype != "float32" or not self.first_other
        return is_same and self.largest <= BOUNDS[self.dtype]


# ---- comparing -----------------------------------------------------------------------------------


def compare_texts(model: str, texts: Iterator[bytes], words: AnyTokenizer, session: Any) -> Texts:
    """Encode texts by a tokenizer of ours and by a session's program."""
    counts = {True: [0, 0], False: [0, 0]}  # whole characters or not: texts, other ids
    example = ""
    for one in texts:
        is_whole = _is_whole(one)
        if not is_whole and isinstance(words, ByteLevelTokenizer):
            continue  # it takes no such text
        expected, actual = words.encode(one), session.encode(one)
        counts[is_whole][0] += 1
        counts[is_whole][1] += actual != expected
        if is_whole and actual != expected and not example:
            example = f"{one!r}: {actual} is not {expected}"
    return Texts(model, *counts[True], *counts[False], example)


def _is_whole(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def compare_tokens(
    prompts: Sequence[Sequence[int]], n: int, engine: Engine, stops: frozenset[int], session: Any
) -> tuple[int, int, int, float, float, float]:
    """Continue prompts by n tokens; the fields of `Tokens` from n_tokens on.

    Logits are compared along what the program itself wrote, so that one other token does not spoil what follows.
    """
    n_tokens, firsts, regrets, distances, agreeing = 0, [], [0.0], [0.0], []
    for prompt in prompts:
        actual = session.generate(prompt, n)
        n_forced = len(prompt) - 1
        expected = list(generate(engine, list(prompt), steps=n_forced + n, stop=stops))[n_forced:]
        first = next((i for i, pair in enumerate(zip(actual, expected, strict=False), 1) if pair[0] != pair[1]), 0)
        if not first and len(actual) != len(expected):
            first = min(len(actual), len(expected)) + 1
        firsts += [first] if first else []
        n_tokens += len(actual)
        ids = [*prompt, *actual][: len(prompt) + len(actual) - 1]
        ours, theirs = np.asarray(engine.logits(ids), np.float64), session.logits(ids).astype(np.float64)
        spread = float(np.ptp(ours)) or 1.0
        choices = ours[len(prompt) - 1 :]
        chosen = choices[np.arange(len(actual)), actual]
        regrets.append(float((choices.max(-1) - chosen).max()) / spread)
        distances.append(float(np.abs(theirs - ours).max()) / spread)
        agreeing.append(ours.argmax(-1) == theirs.argmax(-1))
    same = float(np.concatenate(agreeing).mean()) if agreeing else 1.0
    return n_tokens, min(firsts, default=0), len(firsts), max(regrets), max(distances), same


# ---- asking --------------------------------------------------------------------------------------


def session_of(python: str, path: Path, precision: str = "f32") -> Session:
    """Start llama.cpp on a file."""
    command = [python, str(RUN), "--precision", precision, "--lines", "1"]
    return Session(command, cwd=path.parent, limits=Limits(time_s=300.0), model=path, tokenizer=path)


def of_model(python: str, name: str, dtype: str, n: int, directory: Path) -> Tokens:
    """Convert a model, and compare what is generated."""
    files = models.locate(name)
    path = directory / f"{name}-{dtype}.gguf"
    words = formats.read_tokenizer(files.tokenizer)
    if not path.exists():
        convert(files.checkpoint, path, options=WriteOptions(dtype=dtype, tokenizer=words))
    found = formats.read(path)
    engine = Engine(found.config, found.tensors, dtype=np.float64)
    stored: dict[str, int] = {}
    for tensor, shape in expected_shapes(found.config).items():
        if len(shape) == 2:
            word = found.tensors.source(tensor).dtype  # type: ignore[attr-defined]
            stored[word] = stored.get(word, 0) + int(np.prod(shape))
    prompts = [words.encode(prompt) for prompt in PROMPTS]
    stops = words.stop_ids | {words.bos_id, words.eos_id}  # llama.cpp stops at EOS too
    with session_of(python, path, "q8" if dtype.startswith("q") else "f32") as session:
        session.stops = stops
        return Tokens(name, dtype, stored, *compare_tokens(prompts, n, engine, stops, session))


def of_vocabulary(python: str, name: str, count: int, directory: Path) -> Texts:
    """Compare how a model's vocabulary encodes hard texts, and `count` generated ones."""
    path = directory / f"{name}-float32.gguf"
    words = formats.read_tokenizer(path)
    pieces = [piece.decode(errors="ignore") for piece in words.pieces]
    pieces = [piece for piece in pieces if piece and "\0" not in piece]

    def texts() -> Iterator[bytes]:
        yield from (one for _, one in each_hard_text(words))
        for index in range(count):
            yield generated_text(1, index, pieces).encode()

    with session_of(python, path) as session:
        return compare_texts(name, texts(), words, session)


def of_block(python: str, name: str, config: ModelConfig, directory: Path) -> float:
    """Write a model of random weights; return how far logits lie apart, as a share of their spread."""
    values = np.random.default_rng(3)
    tensors = {}
    for tensor, shape in expected_shapes(config).items():
        is_norm = "norm" in tensor and not tensor.endswith("bias")
        scale = 1.0 if tensor == "tok_embedding" else 0.25
        tensors[tensor] = (values.standard_normal(shape) * scale + is_norm).astype(np.float32)
    path = directory / "block.gguf"
    formats.write(Checkpoint(config, tensors), path)
    ids = [int(one) for one in values.integers(0, config.vocab_size, 48)]
    ours = np.asarray(Engine(config, tensors, dtype=np.float64).logits(ids), np.float64)
    with session_of(python, path) as session:
        theirs = session.logits(ids).astype(np.float64)
    return float(np.abs(theirs - ours).max() / np.ptp(ours))


# ---- telling -------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """Render a report."""
    lines = [
        "# llama.cpp reads what we write",
        "",
        f"llama-cpp-python {report['llama_cpp_python']}, {report['system'].strip(' |')}. Made by",
        "",
        "    python tools/llama_cpp_agreement.py --json reports/llama-cpp.json --markdown reports/llama-cpp.md",
        "",
        "## Vocabularies",
        "",
        "Hard texts and generated ones, as ids by the tokenizer in the GGUF file and by llama.cpp. What is no UTF-8",
        "each program reads in its own way.",
        "",
        *_table(
            ("vocabulary of", "texts", "other ids", "no UTF-8", "other ids"),
            (
                (
                    *(one["model"], f"{one['n_texts']:,}", str(one["n_other_ids"])),
                    *(str(one["n_no_unicode"]), str(one["n_no_unicode_other_ids"])),
                )
                for one in report["texts"]
            ),
        ),
        "",
        "## Models",
        "",
        f"Greedy tokens after {len(PROMPTS)} prompts. The reference computes in float64 from the same file. Shares",
        "are of the spread of the logits. *First other*: the place of the first greedy token that is not the",
        "reference's, and in how many texts one is.",
        "",
        *_table(
            (
                "model",
                "type",
                "matrices",
                "tokens",
                "first other",
                "largest regret",
                "logits apart",
                "same likeliest",
            ),
            (
                (
                    *(one["model"], one["dtype"], _stored(one["stored"]), str(one["n_tokens"])),
                    f"{one['first_other']} (in {one['n_near_ties']})" if one["first_other"] else "none",
                    *(f"{one['largest_regret']:.1e}", f"{one['largest']:.1e}", f"{one['same_likeliest']:.2%}"),
                )
                for one in report["tokens"]
            ),
            n_left=3,
        ),
        "",
        "## Blocks",
        "",
        "Random weights, float32, 48 ids; at most 1e-4 is allowed, of phi-2 2e-3: llama.cpp takes GELU from a table",
        "of float16. A window shorter than the context is not written: llama.cpp's `llama` attends to all of it.",
        "",
        *_table(("block", "logits apart"), ((name, f"{apart:.1e}") for name, apart in report["blocks"].items())),
    ]
    return "\n".join(lines) + "\n"


def _stored(values: Mapping[str, int]) -> str:
    n = sum(values.values())
    return ", ".join(f"{word} {count / n:.0%}" for word, count in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], n_left: int = 1) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' if i < n_left else '---:' for i in range(len(head)))} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--python", default=os.environ.get("LLAMA_CPP_PYTHON"), help="with llama-cpp-python")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--types", default=",".join(BOUNDS))
    parser.add_argument("--tokens", type=int, default=200, help="to generate after each prompt (default: 200)")
    parser.add_argument("--texts", type=int, default=10_000, help="generated ones for each vocabulary")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    if not options.python:
        parser.error("--python, or LLAMA_CPP_PYTHON, is needed: the python of an environment with llama-cpp-python")
    python = os.path.abspath(options.python)
    types = options.types.split(",")
    if unknown := set(types) - set(BOUNDS):
        parser.error(f"no type {', '.join(sorted(unknown))}; there are {', '.join(BOUNDS)}")
    try:
        report, is_right = examine(python, options.models.split(","), types, options.tokens, options.texts)
    except HarnessError as error:
        print(f"llama_cpp_agreement: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(report), "utf-8")
    print("llama.cpp agrees" if is_right else "llama.cpp does not agree")
    return 0 if is_right else 1


def examine(
    python: str, names: Sequence[str], types: Sequence[str], n_tokens: int, n_texts: int
) -> tuple[dict[str, Any], bool]:
    """Do all of it, and tell it as it comes; return the report, and whether all is as it should be."""
    report: dict[str, Any] = {**_versions(python), "texts": [], "tokens": [], "blocks": {}}
    is_right = True
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for model in names:
            for dtype in types:
                found = of_model(python, model, dtype, n_tokens, directory)
                report["tokens"].append(asdict(found))
                is_right &= found.is_right
                told = f"token {found.first_other} is another" if found.first_other else "the same tokens"
                _tell(f"{model} {dtype}: {told}, logits {found.largest:.1e} apart", found.is_right)
            if "float32" in types:
                heard = of_vocabulary(python, model, n_texts, directory)
                report["texts"].append(asdict(heard))
                is_right &= heard.is_right
                _tell(f"{model}: {heard.n_texts:,} texts, {heard.n_other_ids} differ {heard.example}", heard.is_right)
        for block, config in BLOCKS.items():
            apart = report["blocks"][block] = of_block(python, block, config, directory)
            is_near = apart <= BLOCK_BOUNDS.get(block, BOUNDS["float32"])
            is_right &= is_near
            _tell(f"{block}: logits {apart:.1e} apart", is_near)
    return report, is_right


def _tell(what: str, is_right: bool) -> None:
    print(f"{'ok   ' if is_right else 'WRONG'} {what}", flush=True)


def _versions(python: str) -> dict[str, str]:
    asked = "import llama_cpp; print(llama_cpp.__version__); print(llama_cpp.llama_print_system_info().decode())"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{python} has no llama-cpp-python", hint="pip install llama-cpp-python")
    version, system = done.stdout.splitlines()[:2]
    return {"llama_cpp_python": version, "system": system}


if __name__ == "__main__":
    raise SystemExit(main())
