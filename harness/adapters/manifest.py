"""impl.toml -> Manifest: how one implementation is built and asked, and what it claims.

A manifest has at most ten lines for a typical port:

    name = "c"
    formats = ["llama2c-v0"]
    build = ["{cc}", "-O3", "-o", "{out}/run", "{src}/run.c", "-lm"]
    inputs = ["*.c"]
    run = ["{out}/run", "{model}", "-z", "{tokenizer}", "-t", "{temperature}", "{prompt_args}"]

    [variant.c-fast]
    build = ["{cc}", "-Ofast", "-o", "{out}/run", "{src}/run.c", "-lm"]

A variant is an implementation of its own. In it a table is merged into the base's key by key (`env`, `needs`,
`files`, `tools`, `model_dir`), and everything else replaces the base's. With `base = false` only the variants
exist.

A placeholder is a name in braces. `{{` and `}}` stand for the braces themselves, and a brace that begins no
name is just a brace. An element that is nothing but `{prompt_args}`, `{system_args}` or a tool (`{cc}`,
`{python}`, `{node}`, `{zig}`, `{blas}`) becomes as many words as that has. What a program may be told:

    {model} {tokenizer} {model_dir}     the files of the request; the directory that `model_dir` describes
    {prompt} {system} {steps} {temperature} {topp} {seed} {threads}
    {src} {out} {work}                  the manifest's directory, the build's, and a fresh one for each run
    {cache}                             a directory that lasts, for code that a language's runtime compiles
    {cc} {python} {node} {zig}          tools, found where they are
    {env:NAME}                          an environment variable: the path of a program that lies elsewhere, say

`build` knows {src}, {out}, {work}, the tools and {blas}, what a C compiler needs to link a BLAS; `prepare` turns
a checkpoint into a port's own container, once per model, and knows {v0} (the checkpoint), {tokenizer}, {out}
(what it shall make: a file or a directory; {model} from then on), {build} (the build's directory), {src}, {work},
{cache}, {env:NAME} and the tools.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness import formats
from harness.adapters.toml_lines import key_lines
from harness.adapters.toolchain import TOOLS
from harness.documents import parse_toml, read_text
from harness.errors import ManifestError
from harness.results import Kind

__all__ = ["Known", "Manifest", "Needs", "discover", "expand", "expand_text", "load"]

FILE_NAME = "impl.toml"
# A model of another format is brought into the first of a program's own that can hold it.
_FORMATS = tuple(one.name for one in formats.FORMATS if one.write)
_PROGRAMS = frozenset(TOOLS) - {"blas"}
_VARIABLE = "env:"  # any name may follow
_FILES = frozenset({"model", "tokenizer", "src", "out", "cache", _VARIABLE})
_RUN = (
    _PROGRAMS | _FILES | {"prompt", "system", "steps", "temperature", "topp", "seed", "threads", "work", "model_dir"}
)
# What a build sees is in the key of its cache: its inputs and tools, no variable.
_BUILD = frozenset(TOOLS) | {"src", "out", "work"}
_PREPARE = _PROGRAMS | _FILES | {"v0", "work", "build"}
# Key -> the placeholders that it may use.
_ALLOWED: dict[str, frozenset[str]] = {
    "build": _BUILD,
    "prepare": _PREPARE,
    "run": _RUN | {"prompt_args", "system_args"},
    "chat": _RUN | {"prompt_args", "system_args"},
    "protocol": _PROGRAMS | _FILES | {"threads", "work", "model_dir"},
    "system_args": _RUN,
    "prompt_args": _RUN,
    "stdin": _RUN,
    "env": _RUN,
    "cwd": frozenset({"work", "src", "out", "model_dir", _VARIABLE}),
    "files": _FILES,
    "model_dir": _FILES,
}
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_][a-z0-9_]*|env:[A-Za-z_][A-Za-z0-9_]*)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Needs(_Strict):
    """What a model must be like; other models are expanded to it exactly, where that can be.

    Attributes:
        mha: one KV head per query head.
        tied: True: only tied classifiers; False: only separate ones; None: both.
        vocab_size: exactly so many token ids.
        hidden_multiple, dim_multiple, head_dim_multiple: divisors that the dimension must have.
        max_seq_len: the longest context it can hold.
        tokenizer_layout: name of the only layout of tokenizer file that it reads.
    """

    mha: bool = False
    tied: bool | None = None
    vocab_size: int | None = Field(default=None, ge=1)
    hidden_multiple: int = Field(default=1, ge=1)
    dim_multiple: int = Field(default=1, ge=1)
    head_dim_multiple: int = Field(default=1, ge=1)
    max_seq_len: int | None = Field(default=None, ge=1)
    tokenizer_layout: str | None = None


class Known(_Strict):
    """A deviation that is expected, with its reason; one that no longer happens is a failure.

    Attributes:
        case: name of a case, or a pattern with * and ?.
        kind: the verdict expected.
        reason: why, with a link if there is one.
        model: restricts it to models of that name or pattern.
    """

    case: str
    kind: Kind
    reason: str = Field(min_length=1)
    model: str = "*"

    @field_validator("kind", mode="before")
    @classmethod
    def _kind(cls, value: object) -> object:
        if isinstance(value, str) and value in Kind.__members__:
            return Kind[value]
        raise ValueError(f"expected one of {', '.join(Kind.__members__)}, got {value!r}")


class Manifest(_Strict):
    """One implementation: a manifest, or a variant of one.

    Attributes:
        path: the impl.toml; src is its directory.
        formats: the checkpoints that it reads, by their names in `harness.formats`, the one it likes best first.
        variant_of: name of the base, for a variant.
        alternate: another build, or arithmetic, of a program that is judged anyway: judged where it is named, or
            where all `alternates` are, but not among `all`.
        conventions: "llama2.c" claims that program's printing, stopping and random generator byte for byte.
        build: commands, run in this order; empty: nothing to build.
        inputs: patterns of the files that a build sees, relative to src; empty: every file there.
        needs_tool: executables that must be there, "NAME" or "NAME>=VERSION".
        tools: for a tool, the line that installs it; for an environment variable, what it is to be set to.
        protocol: the command of a program that speaks the line protocol; it loads a model when it is told to, unless
            the command names {model}.
        echo: whether the prompt is printed before the continuation ("auto": find out).
        text: pattern whose first group, over stdout, is the text (dot matches newlines).
        greedy_only: it cannot sample, whether it is told a temperature or not.
        tps: pattern whose first group is the program's own tokens per second, on stderr or else stdout.
        files: name in the work directory -> what is put there.
        model_dir: name in a directory made for the model -> what is put there.
        timeout_s: its own limit of time, where the usual one does not suit it.
    """

    path: Path
    variant_of: str | None = None

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    language: str = ""
    alternate: bool = False
    description: str = ""
    precision: Literal["f32", "f16", "bf16", "q8"] = "f32"
    formats: tuple[str, ...] = Field(default=("llama2c-v0",), min_length=1)
    levels: tuple[Literal["TEXT", "TOKENS", "LOGITS", "TRACE"], ...] = ("TEXT",)
    modes: tuple[Literal["generate", "chat"], ...] = ("generate",)
    conventions: Literal["", "llama2.c"] = ""
    build: tuple[tuple[str, ...], ...] = ()
    inputs: tuple[str, ...] = ()
    needs_tool: tuple[str, ...] = ()
    tools: dict[str, str] = Field(default_factory=dict)
    run: tuple[str, ...] = Field(min_length=1)
    cwd: str = "{work}"
    env: dict[str, str] = Field(default_factory=dict)
    stdin: str = ""
    chat: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    system_args: tuple[str, ...] = ("-y", "{system}")
    prompt_args: tuple[str, ...] = ("-i", "{prompt}")
    echo: Literal["prompt", "none", "auto"] = "auto"
    greedy_only: bool = False
    text: str | None = None
    tps: str | None = None
    needs: Needs = Needs()
    prepare: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    model_dir: dict[str, str] = Field(default_factory=dict)
    known: tuple[Known, ...] = ()
    timeout_s: float | None = Field(default=None, gt=0)

    @property
    def src(self) -> Path:
        return self.path.parent

    @property
    def lines_levels(self) -> tuple[str, ...]:
        """The levels that it shows through the line protocol."""
        return tuple(level for level in self.levels if level in ("TOKENS", "LOGITS"))

    @property
    def placeholders(self) -> set[str]:
        """The placeholders that it uses anywhere."""
        return {name for key in _ALLOWED for _, text in _texts(getattr(self, key)) for name in names_in(text)}

    @property
    def variables(self) -> list[str]:
        """The environment variables that it asks for by {env:NAME}."""
        return sorted(name.removeprefix(_VARIABLE) for name in self.placeholders if name.startswith(_VARIABLE))

    @property
    def given_files(self) -> list[Path]:
        """The files that its variables name on this machine: programs that are not among its sources."""
        named = [Path(os.environ.get(name, "")) for name in self.variables]
        return [path.absolute() for path in named if path.is_file()]

    @field_validator("formats", "levels", "modes", "inputs", "needs_tool", "known", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in _FORMATS:
                raise ValueError(f"{name!r} is no format that is written; there are {', '.join(_FORMATS)}")
        return value

    @field_validator("run", "chat", "protocol", "system_args", "prompt_args", "prepare", mode="before")
    @classmethod
    def _command(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("timeout_s", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("build", mode="before")
    @classmethod
    def _commands(cls, value: object) -> object:
        if not isinstance(value, list) or not value:
            return () if value == [] else value
        commands = value if all(isinstance(word, list) for word in value) else [value]
        return tuple(tuple(command) if isinstance(command, list) else command for command in commands)

    @field_validator("text", "tps")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value.encode(), re.DOTALL).groups
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
            if groups < 1:
                raise ValueError("has no group: put ( ) around the part that is wanted")
        return value

    @field_validator("inputs")
    @classmethod
    def _inside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ValueError(f"{pattern!r} leaves the manifest's directory")
        return value

    @field_validator("files", "model_dir")
    @classmethod
    def _plain_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.startswith("/") or not name or any(part in ("", ".", "..") for part in name.split("/")):
                raise ValueError(f"{name!r} is no name of a file below the directory")
        return value


_KEYS = frozenset(Manifest.model_fields) - {"path", "variant_of"}


def load(path: Path | str) -> list[Manifest]:
    """Read an impl.toml, or the one in a directory: the base, then its variants in their order.

    Raises:
        ManifestError: it cannot be read, or a key, a value or a placeholder is wrong; `where` names line and
        key.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    path = path.absolute()
    text = read_text(path, ManifestError)
    table = parse_toml(text, path, ManifestError)
    lines = key_lines(text)
    base = {key: value for key, value in table.items() if key not in ("variant", "base")}
    has_base, variants = table.get("base", True), table.get("variant", {})
    if not isinstance(has_base, bool):
        raise _error(path, lines, ("base",), "is not true or false")
    if not isinstance(variants, dict) or not all(isinstance(variant, dict) for variant in variants.values()):
        raise _error(path, lines, ("variant",), "is not a table of tables", hint="write [variant.NAME]")
    base.setdefault("name", path.parent.name)
    manifests = []
    if has_base:
        manifests.append(_manifest(path, lines, base, {}, ()))
    else:
        _check_keys(path, lines, base, ())
    for name, changes in variants.items():
        if "name" in changes:
            raise _error(path, lines, ("variant", name, "name"), "is given already", hint="it stands in the header")
        manifests.append(_manifest(path, lines, base, {**changes, "name": name}, ("variant", name)))
    seen: set[str] = set()
    for manifest in manifests:
        if manifest.name in seen:
            raise _error(path, lines, ("variant", manifest.name), "is the name of the base too")
        seen.add(manifest.name)
    return manifests


def discover(impls_dir: Path | str) -> list[Manifest]:
    """Read every `*/impl.toml` below a directory, in the order of their paths.

    Raises:
        ManifestError: one of them is wrong, or two implementations have one name.
    """
    manifests: list[Manifest] = []
    owners: dict[str, Path] = {}
    for path in sorted(Path(impls_dir).glob(f"*/{FILE_NAME}")):
        for manifest in load(path):
            if manifest.name in owners:
                what = f"the name {manifest.name} is taken"
                raise ManifestError(what, path=path, hint=f"by {owners[manifest.name]}")
            owners[manifest.name] = path
            manifests.append(manifest)
    return manifests


def expand(template: Iterable[str], values: Mapping[str, bytes | Sequence[str | bytes]]) -> list[bytes]:
    """Fill in a command: each element becomes one word, or those of the list that its placeholder stands for.

    >>> expand(["{cc}", "-o", "{out}/run"], {"cc": ["zig", "cc"], "out": b"/tmp"})
    [b'zig', b'cc', b'-o', b'/tmp/run']
    """
    words: list[bytes] = []
    for element in template:
        name = element[1:-1] if _PLACEHOLDER.fullmatch(element) else ""
        value = values.get(name)
        if value is not None and not isinstance(value, bytes):
            words += [_bytes(word) for word in value]
        else:
            words.append(expand_text(element, values))
    return words


def expand_text(template: str, values: Mapping[str, bytes | Sequence[str | bytes]]) -> bytes:
    """Fill in one string; a list that stands inside a longer string is quoted for a shell."""
    parts: list[bytes] = []
    end = 0
    for found in _PLACEHOLDER.finditer(template):
        parts.append(_bytes(template[end : found.start()]))
        end = found.end()
        if found[1] is None:
            parts.append(found[0][:1].encode())
        else:
            value = values[found[1]]
            if not isinstance(value, bytes):
                value = _bytes(shlex.join(_bytes(word).decode("utf-8", "surrogateescape") for word in value))
            parts.append(value)
    parts.append(_bytes(template[end:]))
    return b"".join(parts)


def names_in(template: str | Iterable[str]) -> set[str]:
    """List the placeholders that a template uses."""
    texts = [template] if isinstance(template, str) else template
    return {found[1] for text in texts for found in _PLACEHOLDER.finditer(text) if found[1]}


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _manifest(
    path: Path,
    lines: dict[tuple[str, ...], int],
    base: dict[str, Any],
    changes: dict[str, Any],
    at: tuple[str, ...],
) -> Manifest:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    _check_keys(path, lines, base, ())
    _check_keys(path, lines, {key: value for key, value in changes.items() if key != "name"}, at)
    variant_of = str(base["name"]) if at else None

    def place(*keys: str | int) -> tuple[str, ...]:
        """Where a value was written: in the variant if that has the key, else in the base."""
        words = tuple(map(str, keys))
        return (*at, *words) if changes and keys[0] in changes and keys[0] != "name" else words

    if "run" not in merged:
        raise _error(path, lines, (*at, "run"), "is missing", hint='write run = ["./program", "{model}", ...]')
    try:
        manifest = Manifest.model_validate({**merged, "path": path, "variant_of": variant_of})
    except ValidationError as error:
        first = error.errors()[0]
        what = str(first["msg"]).removeprefix("Value error, ").replace("valid tuple", "list")
        where = at if at and first["loc"][:1] == ("name",) else place(*first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(Needs.model_fields if where[-2:-1] == ("needs",) else Known.model_fields)
            raise _error(path, lines, where, "is no key", hint=_nearest(where[-1], known)) from error
        raise _error(path, lines, where, what[:1].lower() + what[1:]) from error
    for key, allowed in _ALLOWED.items():
        for inner, text in _texts(getattr(manifest, key)):
            for name in names_in(text) - allowed:
                if name.startswith(_VARIABLE) and _VARIABLE in allowed:
                    continue
                hint = _nearest(name, sorted(allowed - {_VARIABLE}))
                raise _error(path, lines, place(key, *inner), f"{{{name}}} is no placeholder of {key}", hint=hint)
            for name in names_in(text) & {"prompt_args", "system_args"}:
                if text != f"{{{name}}}":
                    what = f"{{{name}}} must be an element of its own"
                    raise _error(path, lines, place(key, *inner), what)
    if "chat" in manifest.modes and not manifest.chat:
        raise _error(path, lines, place("modes"), "has chat, but there is no key chat", hint="give its command")
    if manifest.lines_levels and not manifest.protocol:
        what = f"has {manifest.lines_levels[0]}, but there is no key protocol"
        raise _error(path, lines, place("levels"), what, hint="give the command that speaks the line protocol")
    if manifest.protocol and not manifest.lines_levels:
        hint = 'write levels = ["TEXT", "TOKENS"], and "LOGITS" if it gives those'
        raise _error(path, lines, place("protocol"), "serves no level", hint=hint)
    return manifest


def _texts(value: object, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """List every string in a value of the manifest, with the keys that lead to it."""
    if isinstance(value, str):
        return [(at, value)]
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _texts(inner, (*at, str(key)))]
    if isinstance(value, tuple):
        return [pair for inner in value for pair in _texts(inner, at)]
    return []


def _check_keys(
    path: Path, lines: dict[tuple[str, ...], int], table: Mapping[str, object], at: tuple[str, ...]
) -> None:
    for key in table:
        if key not in _KEYS:
            raise _error(path, lines, (*at, key), "is no key", hint=_nearest(key, sorted(_KEYS)))


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _error(
    path: Path,
    lines: dict[tuple[str, ...], int],
    keys: tuple[str, ...],
    what: str,
    *,
    hint: str | None = None,
) -> ManifestError:
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    place = f"line {line}, " if line else ""
    return ManifestError(what, path=path, where=f"{place}key {'.'.join(keys)}", hint=hint)
