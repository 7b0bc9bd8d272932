"""Self-naming checkpoints as files: written whole, read back, and verified by running every hypothesis on them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import checkpoint as checkpoints
from harness.diagnosis.self_naming.craft import drafted, finished, named_tokenizer, said
from harness.diagnosis.self_naming.guide import FOLDERS, bugs, readme
from harness.diagnosis.self_naming.outcome import hypotheses
from harness.diagnosis.self_naming.probe import Probe, read, write
from harness.diagnosis.self_naming.recipes import PLAN, PLAN_INT8, RECIPES, by_name
from harness.engine import blas_threads
from harness.errors import InputError
from harness.models import ModelFiles, cache_dir, load, locate
from harness.models.files import made_whole, sha256_of
from harness.tokenizer import tokenizer_bin

__all__ = ["FORMATS", "ProbeFiles", "Written", "cached", "made", "make", "plan_of", "stem_of"]

FORMATS = ("llama2c-v0", "llama2c-v1", "llama2c-v2")


@dataclass(frozen=True, slots=True)
class ProbeFiles:
    """A probe and its files.

    Attributes:
        files: checkpoint and tokenizer, as any model's.
    """

    probe: Probe
    files: ModelFiles


def plan_of(models: Sequence[str] | None, version: int) -> list[tuple[str, str]]:
    """Which probes to make: (recipe, model).

    Args:
        models: make every probe of each of these; None: the shipped selection.
    """
    if models is None:
        return list(PLAN_INT8 if version == 2 else PLAN)
    return [(one.name, model) for model in models for one in RECIPES if version != 2 or one.suits_int8]


def stem_of(recipe: str, model: str) -> str:
    """The name of a probe and of its files."""
    return f"{model.replace('/', '-')}-{recipe}"


def made(recipe_name: str, model: str, version: int, directory: Path) -> ProbeFiles:
    """Write one probe into a directory: NAME.bin, NAME_tok.bin and NAME.json.

    Raises:
        InputError: the model's format does not suit, or the probe is refused (see `craft`).
    """
    found = locate(model)
    if (found.format == "llama2c-v2") != (version == 2):
        raise InputError(f"is of {found.format}", where=model, expected=f"a model for version {version} files")
    with blas_threads(1):
        return _made(recipe_name, model, version, directory, found)


def _made(recipe_name: str, model: str, version: int, directory: Path, found: ModelFiles) -> ProbeFiles:
    draft = drafted(by_name(recipe_name), load(found.checkpoint, found.tokenizer), version)
    tokenizer = named_tokenizer(draft)
    stem = stem_of(recipe_name, model)
    at, tokens_at, probe_at = _paths(directory, stem)
    with made_whole(at) as path:
        checkpoints.write(draft.model.checkpoint, path, version=version)
    with made_whole(tokens_at) as path:
        tokenizer_bin.write(tokenizer, path)
    back = load(at, tokens_at)
    heard = {name: said(draft, back, one) for name, one in hypotheses(back, version).items()}
    says = {name: one for name, one in heard.items() if one is not None}
    probe = finished(draft, back.tokenizer, says, name=stem)
    with made_whole(probe_at) as path:
        write(probe, path)
    return _probe_files(probe, directory)


def _paths(directory: Path, stem: str) -> tuple[Path, Path, Path]:
    return directory / f"{stem}.bin", directory / f"{stem}_tok.bin", directory / f"{stem}.json"


def _probe_files(probe: Probe, directory: Path) -> ProbeFiles:
    at, tokens_at, _ = _paths(directory, probe.model)
    return ProbeFiles(
        probe,
        ModelFiles(
            name=f"probe/{probe.name}",
            checkpoint=at,
            tokenizer=tokens_at,
            sha256=sha256_of(at),
            tokenizer_sha256=sha256_of(tokens_at),
            format=FORMATS[probe.version],
            is_embedded=False,
        ),
    )


def cached(
    plan: Sequence[tuple[str, str]], version: int, *, progress: Callable[[str], None] = lambda _: None
) -> Iterator[ProbeFiles]:
    """Yield the probes of a plan, made where the cache has none for this content and this code."""
    for recipe, model in plan:
        found = locate(model)
        key = [_code(), found.sha256, found.tokenizer_sha256, recipe, version]
        directory = cache_dir() / "probes" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
        stem = stem_of(recipe, model)
        paths = _paths(directory, stem)
        if not all(path.is_file() for path in paths):
            progress(f"making the probe {stem}")
            yield made(recipe, model, version, directory)
        else:
            yield _probe_files(read(paths[2]), directory)


@cache
def _code() -> str:
    """A hash of everything that has a part in a probe: this package, the catalogue, the engine."""
    root = Path(__file__).parent.parent.parent
    digest = hashlib.sha256()
    for part in ("diagnosis", "engine", "checkpoint", "tokenizer", "models"):
        for path in sorted((root / part).rglob("*.py")):
            digest.update(os.fsencode(path.relative_to(root)))
            digest.update(path.read_bytes())
    return digest.hexdigest()


# ---- a directory for people who have nothing installed -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """What `make` wrote."""

    n_probes: int
    readme: Path


def make(
    directory: Path, models: Sequence[str] | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> Written:
    """Write probes of every format into a directory, with a README.md that says what to run and how to read it.

    Args:
        models: every probe of each of these; None: the shipped selection.

    Raises:
        InputError: as `made` does, or the directory cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError("is there already, and is no directory", path=directory, hint="name another")
    sets: dict[int, list[Probe]] = {}
    for version in (0, 1, 2):
        plan = _plan_in(models, version)
        for recipe, model in plan:
            progress(f"making {FOLDERS[version]}/{stem_of(recipe, model)}")
            folder = directory / FOLDERS[version]
            sets.setdefault(version, []).append(made(recipe, model, version, folder).probe)
    for version, probes in sets.items():
        _write(directory / FOLDERS[version] / "bugs.md", bugs(probes))
    _write(directory / "README.md", readme(sets))
    return Written(sum(map(len, sets.values())), directory / "README.md")


def _plan_in(models: Sequence[str] | None, version: int) -> list[tuple[str, str]]:
    suiting = None
    if models is not None:
        suiting = [model for model in models if (locate(model).format == "llama2c-v2") == (version == 2)]
    return plan_of(suiting, version)


def _write(path: Path, text: str) -> None:
    with made_whole(path) as temporary:
        temporary.write_text(text, "utf-8")
