"""A failure as a directory that stands for itself: checkpoint, tokenizer, what was asked, and the verdict.

    model.bin, tokenizer.bin    what the program was given
    failure.json                what was asked, and what came of it
    README.md                   the same for people

Nothing in it depends on how the model was drawn, so it can be tried again by any version, on any program. A directory
of them is the database that every run begins with.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pydantic

from harness import checkpoint as checkpoints
from harness.adapters.manifest import Manifest
from harness.conformance.fuzz.recipe import Ask, Recipe
from harness.conformance.fuzz.trial import Asked, Subject, Trier, write
from harness.documents import fitted, read_json
from harness.errors import InputError
from harness.models import Model, ModelFiles, load
from harness.results import Verdict

__all__ = ["FILE_NAME", "Failure", "again", "keep", "known", "of", "save"]

FILE_NAME = "failure.json"
_SCHEMA = "harness-fuzz-failure/1"
_MAX_BYTES = 1 << 20
_Id = Annotated[int, pydantic.Field(ge=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a program got wrong.

    Attributes:
        level: one of `harness.conformance.fuzz.trial.LEVELS`.
        verdict: on the shrunk model; its `reproduce` is a command line that shows it.
        directory: where it is saved.
        called: what the program is called on a command line.
        checkpoint_bytes: size of the model's file.
        after: models that the program was given before it failed first; 0: it was saved by an earlier run.
        is_shrunk: whether shrinking came to its end.
    """

    impl: str
    level: str
    verdict: Verdict
    directory: Path
    called: str
    checkpoint_bytes: int
    after: int
    is_shrunk: bool

    @property
    def again(self) -> str:
        """The command that judges it again."""
        return f"harness fuzz {shlex.quote(self.called)} --again {shlex.quote(str(self.directory))}"


class _Ask(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    n: Annotated[int, pydantic.Field(ge=1)]
    temperature: Annotated[float, pydantic.Field(ge=0.0)]
    topp: float
    seed: int


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", strict=True)

    schema_: str = pydantic.Field(alias="schema")
    impl: str
    level: str
    prompt: Annotated[list[_Id], pydantic.Field(min_length=1)]
    asks: list[_Ask]
    probe: Annotated[list[_Id], pydantic.Field(min_length=1)]


def save(
    recipe: Recipe,
    subject: Subject,
    wrong: Asked,
    trier: Trier,
    home: Path,
    *,
    called: str,
    after: int,
    is_shrunk: bool,
) -> Failure:
    """Save a failure under `home`, judged once more on the saved files.

    Raises:
        InputError: the directory cannot be written.
    """
    key = hashlib.sha256(repr((recipe, wrong.what)).encode()).hexdigest()[:8]
    directory = home.absolute() / f"{trier.impl.name}-{wrong.verdict.kind.lower()}-{key}"
    return keep(
        subject,
        [1, *recipe.prompt],
        recipe.asks,
        wrong,
        trier,
        directory,
        format=recipe.format,
        called=called,
        after=after,
        is_shrunk=is_shrunk,
        more={"weights": asdict(recipe.weights)},
    )


def keep(
    subject: Subject,
    prompt: Sequence[int],
    asks: Sequence[Ask],
    wrong: Asked,
    trier: Trier,
    directory: Path,
    *,
    format: str,
    called: str,
    after: int,
    is_shrunk: bool,
    more: Mapping[str, object] | None = None,
) -> Failure:
    """Save a failure on any model in a directory of its own, judged once more on the saved files.

    Args:
        prompt: its ids, BOS first.
        more: what else is to be known of the model.

    Raises:
        InputError: the directory cannot be written.
    """
    name = trier.impl.name
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files = write(subject.model, directory, format, trier.impl.manifest.needs.tokenizer_layout)
        found = trier.try_files(files, subject, prompt, asks, (wrong.what,))[-1]
        # A program that answers otherwise each time keeps the verdict that it had.
        verdict = (found if found.verdict.kind.is_failure else wrong).verdict
        failure = Failure(
            name, wrong.what, verdict, directory, called, files.checkpoint.stat().st_size, after, is_shrunk
        )
        document = {
            "schema": _SCHEMA,
            "impl": name,
            "level": wrong.what,
            "kind": verdict.kind,
            "reason": verdict.reason,
            "happened_again": found.verdict.kind is wrong.verdict.kind,
            "again": failure.again,
            "reproduce": verdict.reproduce,
            "prompt": list(prompt),
            "asks": [asdict(ask) for ask in asks],
            "probe": subject.probe,
            "model": {
                "checkpoint_bytes": failure.checkpoint_bytes,
                "format": format,
                **_shape(subject.model),
                **(more or {}),
            },
        }
        (directory / FILE_NAME).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        ask = wrong.ask or asks[0]
        (directory / "README.md").write_text(_readme(failure, subject, prompt, ask), "utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=directory) from error
    return failure


_DIMENSIONS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len", "is_tied")


def _shape(model: Model) -> dict[str, object]:
    found = model.checkpoint
    shape: dict[str, object] = {name: getattr(found.config, name) for name in _DIMENSIONS}
    return {**shape, "group_size": found.group_size}


def _readme(failure: Failure, subject: Subject, prompt: Sequence[int], ask: Ask) -> str:
    """Say what fails, on what, and how to see it."""
    verdict, case = failure.verdict, subject.golden(prompt, ask)
    parting = verdict.divergence
    shape = ", ".join(f"{name} {value}" for name, value in _shape(subject.model).items() if value is not None)
    tokens = f"{len(prompt) - 1} of the prompt, {ask.n} generated"
    how = (
        "greedy" if ask.temperature == 0 else f"temperature {ask.temperature:g}, top-p {ask.topp:g}, seed {ask.seed}"
    )
    lines = [
        f"# {failure.impl}: {verdict.kind}",
        "",
        f"`model.bin` ({failure.checkpoint_bytes:,} bytes) and `tokenizer.bin`, made up by the harness; they mean "
        "nothing. Run from anywhere:",
        "",
        *(f"    {line}" for line in verdict.reproduce.splitlines()),
        "",
        f"Tokens: {tokens}; {how}. The ids that are right are {' '.join(map(str, [prompt[0], *(case.ids or ())]))}; "
        "llama2.c would print",
        "",
        *(f"    {line}" for line in _visible(case.stdout)),
        "",
    ]
    if parting is not None and parting.actual_text:
        lines += [
            "and this program goes on, at the first wrong token, with",
            "",
            *(f"    {one}" for one in _visible(parting.actual_text.encode("utf-8", "surrogateescape"))),
            "",
        ]
    if verdict.reason:
        lines += [*verdict.reason.splitlines(), ""]
    lines += [f"The model: {shape}.", "", "Judged again:", "", f"    {failure.again}", ""]
    return "\n".join(lines)


def _visible(text: bytes) -> list[str]:
    return [repr(text.decode("utf-8", "backslashreplace"))]


def of(home: Path, manifest: Manifest) -> list[Path]:
    """Return the directories under `home` that hold failures of a program, in containers that it reads.

    Raises:
        InputError: one of them is damaged.
    """
    found = sorted(path.parent for path in home.glob(f"*/{FILE_NAME}"))
    own = [directory for directory in found if _read(directory).impl == manifest.name]
    return [directory for directory in own if checkpoints.read(directory / "model.bin").format in manifest.formats]


def known(directory: Path, wrong: Asked, called: str) -> Failure:
    """Return a saved failure that happened again."""
    size = (directory / "model.bin").stat().st_size
    name = wrong.verdict.impl
    return Failure(name, wrong.what, wrong.verdict, directory, called, size, after=0, is_shrunk=True)


def _read(directory: Path) -> _Document:
    path = directory / FILE_NAME
    found = read_json(path, max_bytes=_MAX_BYTES, hint="name a directory that harness fuzz saved")
    document = fitted(_Document, found, path)
    if document.schema_ != _SCHEMA:
        raise InputError("is of another version", path=path, expected=_SCHEMA, actual=document.schema_)
    return document


def again(directory: Path, trier: Trier) -> Sequence[Asked]:
    """Put a saved failure to a program once more, and return what comes of each question.

    Raises:
        InputError: the directory holds no failure, or one of a model that the program does not read.
    """
    directory = directory.absolute()
    document = _read(directory)
    model = load(directory / "model.bin", directory / "tokenizer.bin")
    config = model.checkpoint.config
    if max(*document.prompt, *document.probe) >= config.vocab_size or (
        max(len(document.prompt), len(document.probe)) > config.seq_len
    ):
        raise InputError("has ids that its model cannot take", path=directory / FILE_NAME)
    files = ModelFiles(
        model.name, directory / "model.bin", directory / "tokenizer.bin", "", "", model.checkpoint.format, False
    )
    if files.format not in trier.impl.manifest.formats:
        reads = ", ".join(trier.impl.manifest.formats)
        raise InputError(
            f"is {files.format}", path=files.checkpoint, expected=f"what {trier.impl.name} reads: {reads}"
        )
    subject = Subject(model, document.probe)
    asks = [Ask(ask.n, ask.temperature, ask.topp, ask.seed) for ask in document.asks]
    return trier.try_files(files, subject, document.prompt, asks)
