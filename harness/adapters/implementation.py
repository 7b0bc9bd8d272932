"""The one door: an Implementation is asked a Request and returns an Observation, whatever it is behind.

`resolve` turns what a user writes (a name, a path, a command line) into implementations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import shlex
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from harness.adapters import process, toolchain
from harness.adapters.build import Progress, build
from harness.adapters.extract import reported_tps
from harness.adapters.manifest import FILE_NAME, Manifest, discover, expand, expand_text, load, names_in
from harness.adapters.process import Limits
from harness.adapters.protocol import Session
from harness.errors import BuildFailed, ImplementationError, InputError
from harness.models import cache_dir
from harness.results import Observation, Request
from harness.trace.stream import VARIABLE as TRACE_VARIABLE

__all__ = ["Implementation", "ProcessImplementation", "from_command", "resolve", "resolve_lines"]

# Libraries take every core unless told otherwise; a run has the threads that its request says.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)
# A container of gigabytes is written, read back and compared.
_PREPARING = Limits(time_s=1800.0)


class Implementation(Protocol):
    """Something that runs a model: a program behind a manifest, or code in this process."""

    @property
    def name(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...

    def prepare(self, model: Path, tokenizer: Path) -> Path:
        """Return the file or directory that stands for `model` in its command, making it if need be."""

    def run(self, request: Request, limits: Limits | None = None) -> Observation:
        """Ask it once. Its misbehaviour is `failure` in what is returned, never an exception."""

    def session(
        self,
        model: Path,
        tokenizer: Path,
        *,
        threads: int = 1,
        limits: Limits | None = None,
        shape: tuple[int, int] | None = None,
    ) -> contextlib.AbstractContextManager[Session]:
        """Open a session of the line protocol, where the manifest has one."""


class ProcessImplementation:
    """A program driven through its manifest: built when first needed, run in a fresh directory each time.

    Safe to use from several threads.
    """

    def __init__(self, manifest: Manifest, *, progress: Progress | None = None) -> None:
        self.manifest = manifest
        self._progress = progress
        self._lock = threading.Lock()
        self._out: Path | None = None
        self._build_failure: BuildFailed | None = None
        self._tools: dict[str, list[str]] = {}
        self._prepared: dict[tuple[object, ...], Path] = {}
        self._home: Path | None = None

    def __repr__(self) -> str:
        return f"ProcessImplementation({self.name!r})"

    @property
    def name(self) -> str:
        return self.manifest.name

    def out(self) -> Path:
        """Return the directory of its build, building now if that has not been done.

        Raises:
            BuildFailed, MissingDependency: as build() does; a failed build is not tried again.
        """
        with self._lock:
            if self._build_failure is not None:
                raise self._build_failure
            if self._out is None:
                try:
                    self._out = build(self.manifest, progress=self._progress)
                except BuildFailed as failure:
                    self._build_failure = failure
                    raise
            return self._out

    def prepare(self, model: Path, tokenizer: Path) -> Path:
        """Run the manifest's `prepare` for a model, once; without one, the model stands for itself.

        What it made lasts as long as this object. Raises what out() raises, and ImplementationError if the
        command fails.
        """
        model, tokenizer = Path(model).absolute(), Path(tokenizer).absolute()
        if not self.manifest.prepare:
            return model
        out = self.out()
        key = (*_identity(model), *_identity(tokenizer))
        with self._lock:
            if key in self._prepared:
                return self._prepared[key]
            if self._home is None:
                self._home = Path(tempfile.mkdtemp(prefix="harness-prepared-"))
                weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
            made = self._home / f"{len(self._prepared)}-{model.name}"
            values = {
                **self._fixed(out),
                "v0": os.fsencode(model),
                "model": os.fsencode(model),
                "tokenizer": os.fsencode(tokenizer),
                "out": os.fsencode(made),
                "build": os.fsencode(out),
            }
            with _work_directory() as work:
                command = expand(self.manifest.prepare, {**values, "work": os.fsencode(work)})
                seen = process.run(_found(command), cwd=work, limits=_PREPARING)
            if not made.exists():
                raise seen.failure or BuildFailed(
                    f"preparing {model.name} made nothing at its {{out}}",
                    command=seen.command_line,
                    stderr_tail=seen.stderr_tail,
                    exit_code=seen.exit_code,
                )
            self._prepared[key] = made
            return made

    def run(self, request: Request, limits: Limits | None = None, *, trace: Path | None = None) -> Observation:
        """Run the program once.

        Args:
            request: the model must be in one of the manifest's formats.
            limits: Limits() unless given, with the manifest's own time if it has one.
            trace: file into which the program is asked to write its trace (docs/trace.md).

        Raises:
            MissingDependency: a tool that it needs is absent.
            InputError: the request cannot be put to this program (no chat command, a NUL byte in an
            argument).
        """
        manifest = self.manifest
        if limits is None:
            limits = Limits() if manifest.timeout_s is None else Limits(time_s=manifest.timeout_s)
        if request.mode == "chat" and not manifest.chat:
            raise InputError("has no chat", path=manifest.path, where=f"implementation {self.name}")
        try:
            out = self.out()
            model = self.prepare(request.model, request.tokenizer)
        except ImplementationError as failure:
            words = tuple(shlex.split(failure.command)) if failure.command else ()
            return Observation(
                words, "", b"", stderr_tail=failure.stderr_tail, exit_code=failure.exit_code, failure=failure
            )
        with _work_directory() as work:
            values = self._values(request, out, model, work)
            command = _found(expand(manifest.chat if request.mode == "chat" else manifest.run, values))
            env, cwd = self._surroundings(work, values, request.threads)
            if trace is not None:
                env[TRACE_VARIABLE] = str(trace.absolute())
            stdin = expand_text(manifest.stdin, values) + request.stdin
            seen = process.run(command, cwd=cwd, env=env, stdin=stdin, limits=limits)
        return dataclasses.replace(seen, reported_tps=reported_tps(manifest.tps, seen.stderr_tail, seen.stdout))

    @contextlib.contextmanager
    def session(
        self,
        model: Path,
        tokenizer: Path,
        *,
        threads: int = 1,
        limits: Limits | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Iterator[Session]:
        """Open a session of the line protocol about a model; the program starts with the first request.

        Args:
            threads: that the program is asked to use.
            limits: as for `run`; the time is for one request.
            shape: (vocab_size, seq_len) of the model: a program that says otherwise violates the protocol.

        Raises:
            InputError: the manifest has no key protocol.
            BuildFailed, MissingDependency: as out() does.
            ImplementationError: `prepare` failed.
        """
        manifest = self.manifest
        if not manifest.protocol:
            hint = "add its key protocol: docs/protocol.md"
            raise InputError("speaks no line protocol", path=manifest.path, hint=hint)
        if limits is None:
            limits = Limits() if manifest.timeout_s is None else Limits(time_s=manifest.timeout_s)
        out = self.out()
        prepared = self.prepare(model, tokenizer)
        with _work_directory() as work:
            values = self._values(Request(prepared, tokenizer, threads=threads), out, prepared, work)
            env, cwd = self._surroundings(work, values, threads)
            is_told = not names_in(manifest.protocol) & {"model", "model_dir"}
            with Session(
                _found(expand(manifest.protocol, values)),
                cwd=cwd,
                env=env,
                limits=limits,
                model=prepared if is_told else None,
                tokenizer=tokenizer if is_told else None,
                shape=shape,
            ) as session:
                yield session

    def _surroundings(
        self, work: Path, values: dict[str, bytes | list[str] | list[bytes]], threads: int
    ) -> tuple[dict[str, str], str]:
        """Put the manifest's files into the work directory; return environment and working directory."""
        manifest = self.manifest
        env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        for key, template in manifest.env.items():
            env[key] = os.fsdecode(expand_text(template, values))
        for name, template in manifest.files.items():
            _place(work / name, expand_text(template, values))
        return env, os.fsdecode(expand_text(manifest.cwd, values))

    def command(self, request: Request) -> list[str]:
        """Return the command line of a request, for showing; its {work} is a name that will not exist."""
        values = self._values(request, self.out(), self.prepare(request.model, request.tokenizer), Path("WORK"))
        template = self.manifest.chat if request.mode == "chat" else self.manifest.run
        return [os.fsdecode(word) for word in _found(expand(template, values))]

    def _fixed(self, out: Path) -> dict[str, bytes | list[str] | list[bytes]]:
        manifest = self.manifest
        for name in manifest.placeholders & set(toolchain.TOOLS) - set(self._tools):
            self._tools[name] = toolchain.tool(name)
        # A variable that names a file is relative to where the harness was started.
        variables = {f"env:{name}": os.fsencode(_absolute(os.environ[name])) for name in manifest.variables}
        places = {"src": manifest.src, "out": out, "cache": cache_dir() / "runtime"}
        return {**self._tools, **variables, **{name: os.fsencode(place) for name, place in places.items()}}

    def _values(
        self, request: Request, out: Path, model: Path, work: Path
    ) -> dict[str, bytes | list[str] | list[bytes]]:
        manifest = self.manifest
        values: dict[str, bytes | list[str] | list[bytes]] = {
            **self._fixed(out),
            "model": os.fsencode(model),
            "tokenizer": os.fsencode(Path(request.tokenizer).absolute()),
            "prompt": request.prompt or b"",
            "system": request.system or b"",
            "steps": b"%d" % request.steps,
            "temperature": repr(float(request.temperature)).encode(),
            "topp": repr(float(request.topp)).encode(),
            "seed": b"%d" % request.seed,
            "threads": b"%d" % request.threads,
            "work": os.fsencode(work),
            "model_dir": os.fsencode(work / "model"),
        }
        if manifest.model_dir and work.is_dir():
            for name, template in manifest.model_dir.items():
                _place(work / "model" / name, expand_text(template, values))
        is_prompted = request.prompt is not None and (request.mode == "chat" or request.prompt != b"")
        values["prompt_args"] = expand(manifest.prompt_args, values) if is_prompted else []
        values["system_args"] = expand(manifest.system_args, values) if request.system is not None else []
        return values


def from_command(command: str | list[str], *, name: str | None = None) -> ProcessImplementation:
    """Make an implementation of a program that takes llama2.c's flags.

    Args:
        command: the program, or a command line to which model and flags are appended.
        name: the program's file name unless given.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    program = _program(words)
    # The words come from the user as they are: a brace in them is no placeholder.
    given = [word.replace("{", "{{").replace("}", "}}") for word in [program, *map(_absolute, words[1:])]]
    flags = ["-t", "{temperature}", "-p", "{topp}", "-s", "{seed}", "-n", "{steps}"]
    asked = [*given, "{model}", "-z", "{tokenizer}", *flags]
    manifest = Manifest(
        path=Path(program).parent / FILE_NAME,
        name=_name_of(words, name),
        description=f"{shlex.join(words)}, with the flags of llama2.c",
        run=(*asked, "-i", "{prompt}"),
        chat=(*asked, "-m", "chat", "{system_args}", "{prompt_args}"),
        modes=("generate", "chat"),
    )
    return ProcessImplementation(manifest)


def _program(words: list[str]) -> str:
    """Return the path of a command line's program."""
    if not words:
        raise InputError("the command is empty")
    program = toolchain.find(words[0]) if "/" not in words[0] and not os.path.isfile(words[0]) else words[0]
    if program is None:
        raise InputError(f"{words[0]}: no such program")
    return os.path.abspath(program)


def _name_of(words: list[str], name: str | None = None) -> str:
    stem = name or Path(next((word for word in reversed(words) if "/" in word), words[0])).name
    return "".join(c if c.isalnum() or c in "._+-" else "-" for c in stem).lstrip("._+-") or "program"


def resolve_lines(spec: str, impls_dir: Path | str, *, progress: Progress | None = None) -> ProcessImplementation:
    """Find the program that a user means to speak the line protocol with.

    Args:
        spec: an implementation whose manifest has the key protocol, or a command line; in it {model}, {tokenizer} and
            {threads} stand for what they say, and without {model} the program is told to load one.
        impls_dir: where the named ones are.

    Raises:
        InputError: it is neither, or the name stands for several that do.
    """
    path = Path(spec)
    if spec in {manifest.name for manifest in discover(impls_dir)} or path.suffix == ".toml" or path.is_dir():
        found = [impl for impl in resolve(spec, impls_dir, progress=progress) if impl.manifest.protocol]
        if not found:
            raise InputError(f"{spec}: speaks no line protocol", hint="add the key protocol: docs/protocol.md")
        return found[0]
    words = [spec] if path.is_file() else shlex.split(spec)
    program = _program(words)
    if strange := sorted(names_in(words) - {"model", "tokenizer", "threads"}):
        raise InputError(f"{{{strange[0]}}} means nothing here", hint="there are {model}, {tokenizer} and {threads}")
    given = (program, *map(_absolute, words[1:]))
    manifest = Manifest(
        path=Path(program).parent / FILE_NAME,
        name=_name_of(words),
        levels=("TOKENS", "LOGITS"),
        run=given,
        protocol=given,
    )
    return ProcessImplementation(manifest, progress=progress)


def resolve(spec: str, impls_dir: Path | str, *, progress: Progress | None = None) -> list[ProcessImplementation]:
    """Find what a user means by the name of an implementation.

    Args:
        spec: a name in impls_dir or of a variant there ("all": every one that is no alternate build; "alternates":
            the others), the path of an impl.toml or of its directory (all that it describes), or a program or
            command line. A program beside an impl.toml is that manifest's; any other is taken to have llama2.c's
            flags.
        impls_dir: where the named ones are.

    Raises:
        InputError: it is none of these; the message lists the known names, the nearest first.
    """
    known = {manifest.name: manifest for manifest in discover(impls_dir)}
    if spec in ("all", "alternates"):
        wanted = [manifest for manifest in known.values() if manifest.alternate == (spec == "alternates")]
        return [ProcessImplementation(manifest, progress=progress) for manifest in wanted]
    if spec in known:
        return [ProcessImplementation(known[spec], progress=progress)]
    path = Path(spec)
    if path.is_file() and path.suffix == ".toml":
        return [ProcessImplementation(manifest, progress=progress) for manifest in load(path)]
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            hint = f"write one, or name the program itself: {os.path.join(spec, 'run')}"
            raise InputError(f"has no {FILE_NAME}", path=path, hint=hint)
        return [ProcessImplementation(manifest, progress=progress) for manifest in load(path)]
    try:
        words = [spec] if path.is_file() else shlex.split(spec)
    except ValueError as error:
        raise InputError(f"{spec}: {error}") from error
    if words and (os.path.isfile(words[0]) or (len(words) > 1 and toolchain.find(words[0]))):
        beside = Path(words[0]).parent / FILE_NAME
        if len(words) == 1 and beside.is_file():
            return [ProcessImplementation(manifest, progress=progress) for manifest in load(beside)]
        if not os.access(words[0], os.X_OK) and os.path.isfile(words[0]):
            name = shlex.quote(words[0])
            hint = f'chmod +x {name}, or name what runs it: "python {name}"'
            raise InputError("is not executable", path=words[0], hint=hint)
        return [from_command(words)]
    near = difflib.get_close_matches(spec, known, n=3, cutoff=0.5)
    others = [name for name in known if name not in near]
    names = ", ".join([*near, *others]) or "none"
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"{spec}: no implementation of that name, and no such program", hint=f"{hint}known are: {names}")


def _absolute(word: str) -> str:
    """A program runs in a directory of its own, so files named in its command are made absolute."""
    return os.path.abspath(word) if os.path.exists(word) and not word.startswith("-") else word


def _found(command: list[bytes]) -> list[bytes]:
    """Replace a bare program name by its path, looking beside this Python too."""
    if command and b"/" not in command[0] and (found := toolchain.find(os.fsdecode(command[0]))):
        return [os.fsencode(found), *command[1:]]
    return command


def _identity(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", path=path) from error
    return (str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@contextlib.contextmanager
def _work_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="harness-run-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _place(target: Path, content: bytes) -> None:
    """Put a file, or a whole directory, under a name: linked, and copied where links cannot be made."""
    source = Path(os.fsdecode(content))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.absolute())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
