"""`harness inspect`: what a checkpoint is, what it costs to run, and what looks wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import formats
from harness.cli.output import emit, size
from harness.conversion.inspect import Description, available_memory, describe, read_rate, token_bytes
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import tokenizer_beside
from harness.tokenizer import AnyTokenizer

__all__ = ["command"]

# Without being asked, only a model that reads the text in seconds is run.
_RUN_PARAMS = 1_000_000


def command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint file, or a directory that holds one.")],
    tokenizer_file: Annotated[
        Path | None,
        typer.Option("-z", "--tokenizer", help="Tokenizer file.", show_default="its own, or the one beside it"),
    ] = None,
    run: Annotated[
        bool | None,
        typer.Option(
            "--run/--no-run",
            help="Let it read a text, and look for known mistakes where the text is unlikely to it.",
            show_default="where it is small",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="A text that should be likely to it.", show_default="the beginning of a tale"),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> int:
    """Tell a checkpoint's format, dimensions, parameters, types, tokenizer, memory and speed, and what looks wrong.

    Only headers and a few rows are read, unless the model is run.
    """
    found, checkpoint = describe(path)
    words, where = _tokenizer_of(found, tokenizer_file)
    problems = list(found.problems)
    likelihood = None
    if run and words is None:
        raise InputError("no tokenizer is known that fits it", path=path, hint="name one with -z")
    if words is not None and (run or (run is None and found.config.n_params <= _RUN_PARAMS)):
        from harness.conversion.by_text import judge_by_text  # the reference engine, of which headers need nothing
        from harness.engine import blas_threads

        with blas_threads(1):
            reading = judge_by_text(checkpoint, words, *([[text.encode("utf-8", "surrogateescape")]] if text else []))
        likelihood = {"nats": reading.nats, "guessing": reading.guessing, "is_sensible": reading.is_sensible}
        problems += [
            f"a text becomes likely ({nats:.2f} nats a token) if {what}" for what, nats in reading.explanations
        ]
    facts = _facts(found, where, likelihood, problems)
    if tensors:
        facts["tensors"] = [{"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in found.tensors]
    emit(json.dumps(facts, indent=2) + "\n" if as_json else _text(facts))
    return 0


def _tokenizer_of(found: Description, given: Path | None) -> tuple[AnyTokenizer | None, str]:
    """Return the tokenizer and where it is from; none, and why, where none is known."""
    vocab_size = found.config.vocab_size
    if given is not None:
        return formats.read_tokenizer(given, vocab_size), str(given)
    if found.tokenizer is not None:
        return found.tokenizer, "its own"
    try:
        beside = tokenizer_beside(found.path, vocab_size)
    except InputError as error:
        return None, f"none: {error.what}"
    return formats.read_tokenizer(beside, vocab_size), str(beside)


def _facts(found: Description, where: str, likelihood: dict[str, Any] | None, problems: list[str]) -> dict[str, Any]:
    config = found.config
    from harness.engine import blas_threads

    n_bytes = token_bytes(found)
    with blas_threads(1):
        rate = read_rate(n_bytes)
    return {
        "path": str(found.path),
        "format": found.format.name,
        "what": found.format.what,
        "architecture": found.architecture,
        "config": asdict(config),
        "n_params": config.n_params,
        "n_bytes": found.n_bytes,
        "stored": {dtype: {"tensors": n, "values": values} for dtype, (n, values) in found.stored.items()},
        "tokenizer": where,
        "memory_bytes": {
            "weights as float32": 4 * config.n_params,
            "keys and values of one position, float32": 8 * config.n_layers * config.kv_dim,
            "keys and values of the whole context, float32": 8 * config.n_layers * config.kv_dim * config.seq_len,
            "available now": available_memory(),
        },
        "bound": {"bytes_a_token": n_bytes, "bytes_per_s": rate, "tokens_per_s": rate / n_bytes},
        "text": likelihood,
        "problems": problems,
    }


def _text(facts: dict[str, Any]) -> str:
    config: dict[str, Any] = facts["config"]
    bound, memory = facts["bound"], facts["memory_bytes"]
    lines = [
        f"{facts['path']}: {facts['format']} ({facts['what']}), {size(facts['n_bytes'])}",
        f"architecture  {facts['architecture']}",
        "dimensions    " + ", ".join(f"{name} {config[name]:,}" for name in _DIMENSIONS),
        f"constants     norm_eps {config['norm_eps']:g}, rope_theta {config['rope_theta']:g}, classifier "
        + ("tied to the embedding" if config["is_tied"] else "of its own"),
        *_choices(config),
        f"parameters    {facts['n_params']:,}",
        "stored as     "
        + ", ".join(
            f"{dtype}: {of['tensors']} tensors, {of['values']:,} values" for dtype, of in facts["stored"].items()
        ),
        f"tokenizer     {facts['tokenizer']}",
        *(f"memory        {size(n)} {what}" for what, n in memory.items()),
        f"speed         at most about {_few_digits(bound['tokens_per_s'])} tok/s in one thread as stored: "
        f"{size(bound['bytes_a_token'])} a token, of {size(bound['bytes_per_s'])}/s that numpy reads here",
    ]
    if facts["text"]:
        lines.append(
            f"text          {facts['text']['nats']:.2f} nats a token; {facts['text']['guessing']:.2f} is guessing"
            + ("" if facts["text"]["is_sensible"] or facts["problems"] else _UNEXPLAINED)
        )
    lines += [f"looks wrong   {problem}" for problem in facts["problems"]] or ["looks wrong   nothing"]
    if "tensors" in facts:
        lines += [
            f"  {one['name']:<24} {one['dtype']:<9} {' x '.join(map(str, one['shape']))}" for one in facts["tensors"]
        ]
    return "\n".join(lines) + "\n"


_UNEXPLAINED = "; it was made for other texts (--text), or no known mistake explains it"
_DIMENSIONS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")


def _choices(config: dict[str, Any]) -> list[str]:
    """Spell what differs from llama's block."""
    plain = asdict(ModelConfig(2, 1, 1, 1, 1, 1, 1))
    found = [f"{name} {value}" for name, value in config["block"].items() if value != plain["block"][name]]
    if config["head_size"] is not None:
        found.append(f"head_dim {config['head_size']}")
    if config["rope_scaling"] is not None:
        found.append("rope scaling " + ", ".join(f"{name} {value}" for name, value in config["rope_scaling"].items()))
    return [f"block         {', '.join(found)}"] if found else []


def _few_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
