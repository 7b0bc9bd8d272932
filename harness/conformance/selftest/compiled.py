"""Faults compiled into implementations: the file faults.toml beside an impl.toml, and the programs that come of it.

    variant = "c-strict"            # as which variant it is built; none: the base
    formats = ["llama2c-v0"]        # the containers that the program reads, where they are more than the manifest's
    [[fault]]
    name = "rope-half-split"        # of the catalogue
    file = "run.c"
    old = '...'                     # what stands there, exactly once
    new = '...'                     # what the author of a port would have written

The sources are copied, with the replacement made, into the cache (`$HARNESS_CACHE/faults`), and built there as the
manifest says; a program that needs no build runs from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pydantic

from harness.adapters import manifest as manifests
from harness.adapters.build import inputs
from harness.adapters.manifest import FILE_NAME, Manifest
from harness.diagnosis import by_name
from harness.documents import fitted, read_toml
from harness.errors import InputError, ManifestError
from harness.models import cache_dir

__all__ = ["FAULTS_FILE", "Compiled", "Patch", "fault_files", "patched", "read"]

FAULTS_FILE = "faults.toml"


@dataclass(frozen=True, slots=True)
class Patch:
    """One fault in the sources of one program: `old`, which stands in `file` once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program, and the faults that can be compiled into it.

    Attributes:
        program: the name of the implementation's directory.
        manifest: as it is built and run.
    """

    program: str
    manifest: Manifest
    patches: tuple[Patch, ...]


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: str
    file: str
    old: str
    new: str


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    variant: str | None = None
    formats: list[str] = []
    fault: list[_Entry]


def fault_files(impls_dir: Path) -> list[Compiled]:
    """Read the faults.toml of every implementation that has one.

    Raises:
        InputError: there is none, as in an installation without them.
        ManifestError: as read() does.
    """
    found = [read(path) for path in sorted(impls_dir.glob(f"*/{FAULTS_FILE}"))]
    if not found:
        raise InputError(
            f"there is no {FAULTS_FILE}", path=impls_dir, hint="run it from a checkout, or from its wheel"
        )
    return found


def read(path: Path) -> Compiled:
    """Read one faults.toml.

    Raises:
        ManifestError: it cannot be read, names no fault or no file, or a text to be replaced does not stand there
            once: a dead replacement would be a fault that nobody can find.
    """
    file = fitted(_File, read_toml(path, ManifestError), path, ManifestError)
    choice = manifests.load(path.parent)
    name = file.variant or choice[0].name
    manifest = next((one for one in choice if one.name == name), None)
    if manifest is None:
        there = ", ".join(one.name for one in choice)
        raise ManifestError(f"there is no variant {name}", path=path, where="key variant", hint=f"there are {there}")
    if file.formats:
        manifest = manifest.model_copy(update={"formats": tuple(file.formats)})
    patches = tuple(Patch(one.name, one.file, one.old, one.new) for one in file.fault)
    _check(path, manifest, patches)
    return Compiled(path.parent.name, manifest, patches)


def _check(path: Path, manifest: Manifest, patches: tuple[Patch, ...]) -> None:
    sources = {source.relative_to(manifest.src).as_posix(): source for source in inputs(manifest)}
    seen: set[str] = set()
    for patch in patches:
        where = f"fault {patch.name}"
        try:
            by_name(patch.name)
        except InputError as error:
            raise ManifestError("is not in the catalogue", path=path, where=where, hint=error.hint) from error
        if patch.name in seen:
            raise ManifestError("stands there twice", path=path, where=where)
        seen.add(patch.name)
        if patch.file not in sources:
            raise ManifestError(f"{patch.file} is none of the program's inputs", path=path, where=where)
        count = sources[patch.file].read_text("utf-8").count(patch.old) if patch.old else 0
        if count != 1 or patch.old == patch.new:
            what = (
                "replaces a text by itself"
                if patch.old == patch.new
                else f"its text is in {patch.file} {count} times"
            )
            hint = "the program has changed: write the fault anew for it"
            raise ManifestError(what, path=path, where=where, expected="a text that is there once", hint=hint)


def patched(compiled: Compiled, patch: Patch | None, *, home: Path | None = None) -> Manifest:
    """Return the manifest of the program with that fault, or without any; its sources are in the cache.

    Args:
        home: where they are put; `faults` in the cache unless given.
    """
    manifest = compiled.manifest
    files = inputs(manifest)
    contents = {path.relative_to(manifest.src).as_posix(): path.read_bytes() for path in files}
    if patch is not None:
        text = contents[patch.file].decode("utf-8")
        contents[patch.file] = text.replace(patch.old, patch.new).encode()
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(b"%d %b %d " % (len(name), name.encode(), len(content)) + content)
    label = f"{compiled.program}+{patch.name if patch else 'none'}"
    folder = (home or cache_dir() / "faults") / f"{label}-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(folder, contents)
    return manifest.model_copy(
        update={
            "path": folder / FILE_NAME,
            "name": label,
            "variant_of": None,
            "known": (),
            "chat": (),
            "modes": ("generate",),
        }
    )


def _write_whole(folder: Path, contents: dict[str, bytes]) -> None:
    """Make a directory of files that is there whole or not at all."""
    made = Path(tempfile.mkdtemp(prefix=".faults-", dir=folder.parent))
    try:
        for name, content in contents.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        made.chmod(0o755)
        try:
            os.rename(made, folder)
        except OSError:  # somebody else made the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
