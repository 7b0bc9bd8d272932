"""Builds, cached by what goes into them.

A build sees exactly its inputs: they are copied to a fresh directory, which is {src} and the working
directory of its commands, and what it leaves in {out} is kept. So the sources may lie in a read-only place,
an input that was not declared fails at once instead of being missed later, and the key of the cache is
honest: the inputs' contents, the commands, the very files of the tools, and the machine's kind (a build may
ask for this processor's instructions).

The cache is `$HARNESS_CACHE`, else `$XDG_CACHE_HOME/llama-harness`, else `~/.cache/llama-harness`. A result
appears in one rename, so nothing half-built is ever found; builders of the same thing wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.adapters import process, toolchain
from harness.adapters.manifest import Manifest, expand, names_in
from harness.errors import BuildFailed, ManifestError, MissingDependency, NoOutput
from harness.models import cache_dir

__all__ = ["build", "check_tools", "inputs"]

Progress = Callable[[str], None]

# A build may take long (the first one of a Zig program compiles its runtime), but not for ever.
LIMITS = process.Limits(time_s=1200.0, output_bytes=64 << 20, stderr_bytes=16 << 10)
# Without `inputs` everything is one; more than this is no source directory but one with models in it.
MAX_INPUT_BYTES = 64 << 20
# A build command that ends with this status (automake's "skipped") found something missing, which the last line
# that it wrote names: a header, say, that no executable in `needs_tool` stands for.
MISSING = 77
# What a tool may find in the environment and let decide what it makes.
ENVIRONMENT = ("CFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH", "SOURCE_DATE_EPOCH")


def build(manifest: Manifest, *, home: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the directory that holds what a manifest builds, building it if it was not built before.

    Args:
        manifest: without `build` its own directory is returned.
        home: where results are kept; `builds` in the cache unless given.
        progress: told, in one line, that a build begins.

    Raises:
        BuildFailed: a command failed; `stderr_tail` is the end of what it said.
        MissingDependency: a tool is absent, or a command ended with status 77, saying what it lacks.
        ManifestError: there are no inputs, or far too many.
    """
    check_tools(manifest)
    if not manifest.build:
        return manifest.src
    files = inputs(manifest)
    key = _key(manifest, files)
    cache = home or cache_dir() / "builds"
    # Variants that are built alike, as an int8 one often is, share one build.
    name = manifest.variant_of or manifest.name
    result = cache / f"{name}-{key[:20]}"
    if result.is_dir():
        return result
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{result.name}.lock"):
        if result.is_dir():  # somebody else built it meanwhile
            return result
        if progress is not None:
            progress(f"building {manifest.name}")
        with tempfile.TemporaryDirectory(prefix=f".{result.name}.", dir=cache, ignore_cleanup_errors=True) as made:
            work = Path(made)
            out = work / "out"
            out.mkdir()
            _copy(manifest, files, work / "src")
            _run_commands(manifest, work, out)
            record = {"name": name, "key": key, "commands": manifest.build, "built_at": time.time()}
            (out / "build.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            out.rename(result)
    return result


def inputs(manifest: Manifest) -> list[Path]:
    """List the files that a build sees, in a fixed order; without patterns, all but hidden ones.

    Raises:
        ManifestError: the patterns match nothing, or there is no pattern and too much to copy.
    """
    src = manifest.src
    if manifest.inputs:
        found = {path for pattern in manifest.inputs for path in src.glob(pattern) if path.is_file()}
        if not found:
            what = f"inputs: {', '.join(manifest.inputs)} match no file"
            raise ManifestError(what, path=manifest.path, where=f"implementation {manifest.name}")
        return sorted(found)
    files = []
    size = 0
    for directory, names, leaves in os.walk(src):
        names[:] = sorted(name for name in names if not _is_made(name))
        for leaf in sorted(leaves):
            path = Path(directory, leaf)
            if not leaf.startswith(".") and path != manifest.path and path.is_file():
                files.append(path)
                size += path.stat().st_size
        if size > MAX_INPUT_BYTES:
            what = f"has more than {MAX_INPUT_BYTES:,} bytes beside it"
            hint = 'say which files the build needs: inputs = ["*.c"]'
            raise ManifestError(what, path=manifest.path, hint=hint)
    return files


def check_tools(manifest: Manifest) -> None:
    """Raise MissingDependency for the first thing that a manifest asks for and that is nowhere, or too old.

    These are the executables in `needs_tool`, the tools among its placeholders, and its environment variables.
    """
    needed = {name: oldest for name, _, oldest in (wanted.partition(">=") for wanted in manifest.needs_tool)}
    for name in [*needed, *sorted(manifest.placeholders & set(toolchain.TOOLS) - set(needed))]:
        oldest = needed.get(name, "")
        install = manifest.tools.get(name) or toolchain.TOOLS.get(name)
        if name in toolchain.TOOLS:
            try:
                words = toolchain.tool(name)
            except MissingDependency as missing:
                raise MissingDependency(missing.what, install=install) from missing
        else:
            words = [found] if (found := toolchain.find(name)) else []
        if not words:
            what = f"{name}, which {manifest.name} needs,"
            raise MissingDependency(what, install=install, hint="it is looked for in PATH")
        if oldest and (version := _version(tuple(words), toolchain.identity(words))) < _numbers(oldest):
            what = (
                f"{name} {oldest}, which {manifest.name} needs (there is {'.'.join(map(str, version)) or 'another'}),"
            )
            raise MissingDependency(what, install=install)
    for name in manifest.variables:
        if not os.environ.get(name):
            what = f"{name}, an environment variable that {manifest.name} needs,"
            raise MissingDependency(
                what, hint=f"set it to {manifest.tools.get(name, 'what the manifest means by it')}"
            )


@functools.cache
def _version(words: tuple[str, ...], identity: str) -> tuple[int, ...]:
    """Ask a tool for its version; () if it does not say one. `identity` makes an upgrade a new question."""
    seen = process.run([*words, "--version"], cwd=Path("/"), limits=process.Limits(time_s=20.0))
    return _numbers(seen.stdout.decode("utf-8", "replace"))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the first dotted number in a text.

    >>> _numbers("v24.19.0")
    (24, 19, 0)
    """
    found = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _is_made(name: str) -> bool:
    return name.startswith(".") or name in ("node_modules", "__pycache__", "zig-cache", "zig-out", "target")


def _key(manifest: Manifest, files: list[Path]) -> str:
    digest = hashlib.sha256()

    def add(*parts: str | bytes) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "little") + data)

    add("build 1", _machine(), json.dumps(manifest.build), json.dumps([os.environ.get(key) for key in ENVIRONMENT]))
    for name in sorted(names_in(word for command in manifest.build for word in command) & set(toolchain.TOOLS)):
        words = toolchain.tool(name)
        add(name, *words, toolchain.identity(words))
    for command in manifest.build:
        if command and not command[0].startswith("{") and (found := toolchain.find(command[0])):
            add(toolchain.identity([found]))
    for path in files:
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        add(path.relative_to(manifest.src).as_posix(), str(executable), path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _machine() -> str:
    """Name the kind of machine, down to the model of its processor."""
    model = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        wanted = (b"model name", b"flags", b"Features", b"CPU part")
        model = repr([line for line in file.read(8192).splitlines() if line.startswith(wanted)][:3])
    return f"{platform.system()} {platform.machine()} {model}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(manifest: Manifest, files: list[Path], target: Path) -> None:
    target.mkdir()
    for path in files:
        copy = target / path.relative_to(manifest.src)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
        copy.chmod(copy.stat().st_mode | stat.S_IWUSR)


def _run_commands(manifest: Manifest, work: Path, out: Path) -> None:
    values: dict[str, bytes | list[str]] = {
        "src": os.fsencode(work / "src"),
        "out": os.fsencode(out),
        "work": os.fsencode(work),
    }
    for name in names_in(word for command in manifest.build for word in command) & set(toolchain.TOOLS):
        values[name] = toolchain.tool(name)
    # A compiler that came by pip keeps its own cache: beside ours, should the home directory not be writable.
    env = {"ZIG_GLOBAL_CACHE_DIR": str(work.parent / "zig"), **os.environ}
    for template in manifest.build:
        command = expand(template, values)
        if b"/" not in command[0] and (found := toolchain.find(os.fsdecode(command[0]))):
            command[0] = os.fsencode(found)
        seen = process.run(command, cwd=work / "src", env=env, limits=LIMITS)
        if seen.failure is not None and not isinstance(seen.failure, NoOutput):
            # Paths of the copy mean nothing to the reader, and are gone by then.
            said = (seen.stderr_tail or seen.stdout[-LIMITS.stderr_bytes :].decode("utf-8", "replace")).strip()
            if seen.failure.exit_code == MISSING:
                install = " and ".join(dict.fromkeys(manifest.tools.values()))
                raise MissingDependency(said.rpartition("\n")[2], install=install or None)
            raise BuildFailed(
                f"building {manifest.name} failed: {seen.failure.what}",
                command=seen.command_line.replace(str(work / "src"), str(manifest.src)),
                stderr_tail=said.replace(str(work / "src"), str(manifest.src)),
                limit=seen.failure.limit,
                exit_code=seen.failure.exit_code,
            )
