"""`harness precision`: what float16, bfloat16, int8 and 4 bits cost a model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from harness import formats
from harness.benchfile import finite
from harness.cli.options import words
from harness.cli.output import check_targets, emit, emit_all, is_stdout, tell
from harness.conversion.precision import PRECISIONS, Cost, costs, own_text
from harness.errors import InputError
from harness.judging.logits import Interval
from harness.models import load, locate, tokenizer_beside

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint of any format, or the name of a model.")],
    precisions: Annotated[str, typer.Option("--precisions", help="Which, separated by commas.")] = ",".join(
        PRECISIONS
    ),
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Text that is read.", show_default="texts that the model writes itself"),
    ] = None,
    tokenizer_file: Annotated[
        Path | None,
        typer.Option("-z", "--tokenizer", help="Tokenizer of the text.", show_default="the one beside it"),
    ] = None,
    positions: Annotated[int, typer.Option("--positions", min=2, help="Positions to compare.")] = 1024,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a JSON document; - is stdout.")] = None,
) -> int:
    """Say what lower precisions cost: size, KL divergence, agreement and perplexity against float64."""
    check_targets(json_file)
    is_path = Path(model).exists()
    path = Path(model) if is_path else locate(model).checkpoint
    checkpoint = formats.read(path)
    config = checkpoint.config
    if text is None:
        texts = own_text(checkpoint, n_positions=positions)
    else:
        beside = tokenizer_file or (tokenizer_beside(path, config.vocab_size) if is_path else locate(model).tokenizer)
        ids = load(path, beside).tokenizer.encode(text.read_bytes()) if text.is_file() else []
        if len(ids) < 2:
            raise InputError("is no text of two tokens or more", path=text)
        width = min(config.seq_len, 256)
        texts = [ids[at : at + width] for at in range(0, len(ids), width)]
    wanted = words(precisions) or []
    found = list(costs(checkpoint, texts, precisions=wanted, n_positions=positions, progress=tell))
    if not is_stdout(json_file):
        _show(str(model), found)
    emit_all([(json_file, lambda: _document(str(model), found))])
    return 0


def _show(model: str, found: Sequence[Cost]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("MB", "KL (nats)", "99 %", "top 1", "top 5", "perplexity", "gap", "largest error", "limit tok/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    n = 0
    for cost in found:
        q, n = cost.quality, cost.n_positions
        gap = q.perplexity / q.reference_perplexity - 1
        table.add_row(
            cost.precision,
            f"{cost.n_bytes / 1e6:,.1f}" if cost.n_bytes >= 1e7 else f"{cost.n_bytes / 1e6:.3g}",
            f"{q.kl.mean:.2g} {_half(q.kl)}",
            f"{q.kl_99:.2g}",
            f"{q.top_1.mean:.2%}",
            f"{q.top_5.mean:.2%}",
            f"{q.perplexity:.4f}",
            f"{gap:+.3%}",
            f"{q.largest_error:.2g}",
            f"{cost.limit_tps:,.0f}",
        )
    console = Console(width=140, highlight=False)
    with console.capture() as shown:
        console.print(table)
    emit(shown.get())
    emit(f"{model}: {n:,} positions against float64; intervals are 95 % of resamplings.\n")
    for cost in found:
        emit(f"{cost.precision}: {cost.what}\n")
    emit("limit: a token's weights at the rate at which one thread reads memory here; bench measures programs\n")


def _half(interval: Interval) -> str:
    return f"± {(interval.high - interval.low) / 2:.1g}" if math.isfinite(interval.high) else ""


def _document(model: str, found: Sequence[Cost]) -> str:
    content = {"model": model, "precisions": [finite(dataclasses.asdict(one)) for one in found]}
    return json.dumps(content, indent=2) + "\n"
