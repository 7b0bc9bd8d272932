"""Where a model's files are, by name, with their content verified by sha256.

    gqa, mha-q8, ...        shipped in golden/models, listed in its models.toml
    stories15M, ...         published checkpoints, pinned here; looked for in the directories of HARNESS_MODELS
                            (and in their subdirectory of the model's name), then in the cache
    stories260K/eos-swap    made from a published one when first asked for, and kept in the cache
    gqa/nan-row             made from a shipped one likewise (`altered`)

A file that is absent is `ModelNotFound`, which a verify run reports as SKIPPED; a file with another content
than its name promises is an `InputError`, because to go on would be to judge against the wrong model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness import checkpoint, formats
from harness.checkpoint import Checkpoint
from harness.errors import InputError, TokenizerError
from harness.formats.files import TOKENIZER_FILES
from harness.models import altered, derived
from harness.tokenizer import AnyTokenizer, Tokenizer, read_any, tokenizer_bin

__all__ = [
    "PUBLISHED",
    "TOK512",
    "TOK32000",
    "TOKENIZER_512",
    "TOKENIZER_32000",
    "Model",
    "ModelFiles",
    "ModelNotFound",
    "cache_dir",
    "golden_dir",
    "impls_dir",
    "known_names",
    "load",
    "locate",
    "made_whole",
    "sha256_of",
    "tokenizer_beside",
]

_PACKAGE = Path(__file__).parent.parent
_VERSIONS = {"llama2c-v0": 0, "llama2c-v1": 1, "llama2c-v2": 2}


class ModelNotFound(InputError):
    """A known model whose files are not on this machine; `hint` says how to get them."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's two files; the checkpoint may be a directory, in which the tokenizer may lie.

    Attributes:
        name: as it was asked for.
        sha256, tokenizer_sha256: of the files, verified.
        format: the checkpoint's container, as `harness.formats` names it.
        is_embedded: whether it is shipped with the project, and so present everywhere.
    """

    name: str
    checkpoint: Path
    tokenizer: Path
    sha256: str
    tokenizer_sha256: str
    format: str
    is_embedded: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint and the tokenizer that belongs to it, read."""

    checkpoint: Checkpoint
    vocabulary: AnyTokenizer
    name: str

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary, where it is one of pieces with scores, as llama2.c's programs have it.

        Raises:
            InputError: it is byte-level.
        """
        if not isinstance(self.vocabulary, Tokenizer):
            raise InputError(
                f"the vocabulary of {self.name} is byte-level",
                path=self.checkpoint.path,
                expected="one of pieces with scores, which this is made for",
            )
        return self.vocabulary


# ---- directories ---------------------------------------------------------------------------------


def golden_dir() -> Path:
    """Return the directory of the golden suites: the package's own, or the checkout's."""
    return _shipped("golden")


def impls_dir() -> Path:
    """Return the directory of the implementations that come with the harness."""
    return _shipped("impls")


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def cache_dir() -> Path:
    """Return the directory for files that can be made or fetched again; it need not exist yet."""
    if own := os.environ.get("HARNESS_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "llama-harness"


# ---- by name -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of a model before its files are seen."""

    checkpoint: str
    tokenizer: str
    sha256: str
    tokenizer_sha256: str
    format: str


TOKENIZER_512, TOKENIZER_32000 = "tok512.bin", "tokenizer.bin"
TOK512 = "037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312"
TOK32000 = "50a52ef822ee9e83de5ce9d0be0a025a773d019437f58b5ff9dcafb063ece361"

PUBLISHED = {
    name: _Entry(f"{name}.bin", tokenizer_file, sha256, tokenizer_sha256, "llama2c-v0")
    for name, tokenizer_file, sha256, tokenizer_sha256 in (
        (
            "stories260K",
            "tok512.bin",
            "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
            TOK512,
        ),
        (
            "stories15M",
            "tokenizer.bin",
            "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a",
            TOK32000,
        ),
        (
            "stories42M",
            "tokenizer.bin",
            "9f65a1000e17d0bc167dd6332e0ce5119a0222a3d920cead5bce413bfab2ee7b",
            TOK32000,
        ),
        (
            "stories110M",
            "tokenizer.bin",
            "515267168726a1ed1317a64a408492e6af3b67c1f71c5bd98c01d9d721803a24",
            TOK32000,
        ),
    )
}


def known_names() -> list[str]:
    """Return every name that `locate` knows, whether or not its files are here."""
    made = [f"{derived.ORIGINAL}/{variant}" for variant in derived.SHA256]
    return [*_embedded(), *PUBLISHED, *made, *altered.SHA256]


def locate(name: str, *, sha256: str | None = None, tokenizer_sha256: str | None = None) -> ModelFiles:
    """Find, or make, the files of a model and verify what is in them.

    Args:
        sha256, tokenizer_sha256: what the caller needs, as a golden states it.

    Raises:
        ModelNotFound: the name is known, its files are not here.
        InputError: no such name, or files of another content.
    """
    files = _locate(name)
    for what, path, wanted, actual in (
        ("checkpoint", files.checkpoint, sha256, files.sha256),
        ("tokenizer", files.tokenizer, tokenizer_sha256, files.tokenizer_sha256),
    ):
        if wanted is not None and wanted != actual:
            raise InputError(
                f"this is not the {what} that was asked for as {name}",
                path=path,
                expected=f"sha256 {wanted}",
                actual=actual,
                hint="the golden and the model are of different versions",
            )
    return files


def _locate(name: str) -> ModelFiles:
    embedded = _embedded()
    if name in embedded:
        return _files(name, embedded[name], [golden_dir() / "models"], is_embedded=True)
    if name in PUBLISHED:
        return _files(name, PUBLISHED[name], list(_search_path(name)), is_embedded=False)
    original, _, variant = name.partition("/")
    if original == derived.ORIGINAL and variant in derived.SHA256:
        return _derived(name, variant)
    if original in embedded and name in altered.SHA256:
        return _altered(name, original, variant)
    raise InputError(f"there is no model {name}", hint=f"the models are: {', '.join(known_names())}")


def _embedded() -> dict[str, _Entry]:
    path = golden_dir() / "models" / "models.toml"
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"the list of embedded models cannot be read: {error}", path=path) from error
    try:
        return {
            entry["name"]: _Entry(
                entry["file"], entry["tokenizer"], entry["sha256"], entry["tokenizer_sha256"], entry["format"]
            )
            for entry in document["model"]
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"an entry of the list of embedded models lacks {error}", path=path) from error


def _named_directories() -> list[Path]:
    return [Path(named) for named in os.environ.get("HARNESS_MODELS", "").split(os.pathsep) if named]


def _search_path(name: str) -> Iterator[Path]:
    for directory in _named_directories():
        yield directory
        yield directory / name
    yield cache_dir() / "models"
    yield cache_dir() / "models" / name


def _files(name: str, entry: _Entry, directories: list[Path], *, is_embedded: bool) -> ModelFiles:
    return ModelFiles(
        name=name,
        checkpoint=_verified(name, entry.checkpoint, entry.sha256, directories),
        tokenizer=_verified(name, entry.tokenizer, entry.tokenizer_sha256, directories),
        sha256=entry.sha256,
        tokenizer_sha256=entry.tokenizer_sha256,
        format=entry.format,
        is_embedded=is_embedded,
    )


def _verified(model: str, file: str, sha256: str, directories: list[Path]) -> Path:
    """Return the first file of this name with this content."""
    found = [path for directory in directories if (path := directory / file).exists()]
    for path in found:
        if sha256_of(path) == sha256:
            return path
    if found:
        raise InputError(
            f"this file is not the {file} of {model}",
            path=found[0],
            expected=f"sha256 {sha256}",
            actual=sha256_of(found[0]),
            hint="fetch it again, or rename it",
        )
    absent = [str(directory) for directory in _named_directories() if not directory.is_dir()]
    hint = (
        f"harness models pull {model} fetches it, or put it into a directory that HARNESS_MODELS names, or into "
        f"{cache_dir() / 'models'}"
    )
    if absent:
        hint = f"HARNESS_MODELS names {', '.join(absent)}, which is no directory"
    raise ModelNotFound(f"{file} of model {model} is not here", hint=hint)


def _derived(name: str, variant: str) -> ModelFiles:
    original = _locate(derived.ORIGINAL)
    sha256 = derived.SHA256[variant]
    path = cache_dir() / "derived" / f"{derived.ORIGINAL}-{variant}.bin"
    if not _holds(path, sha256):
        _make(name, path, sha256, lambda out: derived.make(variant, original.checkpoint, out))
    return ModelFiles(
        name=name,
        checkpoint=path,
        tokenizer=original.tokenizer,
        sha256=sha256,
        tokenizer_sha256=original.tokenizer_sha256,
        format="llama2c-v2" if variant.startswith("q8-") else original.format,
        is_embedded=False,
    )


def _altered(name: str, original: str, alteration: str) -> ModelFiles:
    found = _locate(original)
    sha256, tokenizer_sha256 = altered.SHA256[name], altered.TOKENIZER_SHA256.get(name, found.tokenizer_sha256)
    path = cache_dir() / "altered" / f"{original}-{alteration}.bin"
    pieces = path.with_suffix(".tok") if name in altered.TOKENIZER_SHA256 else found.tokenizer
    if not (_holds(path, sha256) and _holds(pieces, tokenizer_sha256)):
        model = load(found.checkpoint, found.tokenizer)
        weights, words = altered.ALTERATIONS[alteration](model.checkpoint, model.tokenizer)
        _make(name, path, sha256, lambda out: checkpoint.write(weights, out, version=_VERSIONS[weights.format]))
        if pieces != found.tokenizer:
            _make(name, pieces, tokenizer_sha256, lambda out: tokenizer_bin.write(words, out))
    is_int8 = alteration.startswith("int8-")
    return replace(
        found,
        name=name,
        checkpoint=path,
        tokenizer=pieces,
        sha256=sha256,
        tokenizer_sha256=tokenizer_sha256,
        format="llama2c-v2" if is_int8 else found.format,
        is_embedded=False,
    )


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _make(name: str, path: Path, sha256: str, write: Callable[[Path], None]) -> None:
    """Write a file whose content is known before."""
    with made_whole(path) as temporary:
        write(temporary)
        if (actual := sha256_of(temporary)) != sha256:
            raise AssertionError(f"the construction of {name} gives sha256 {actual}, not {sha256}")


@contextlib.contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for a file or directory that becomes `path` if the block succeeds, else vanishes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not (temporary.is_dir() and path.is_dir()):  # another process may have made the same directory meanwhile
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror or error}",
            path=path,
            hint="HARNESS_CACHE names another directory",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


# ---- by path -------------------------------------------------------------------------------------


def load(checkpoint_path: str | os.PathLike[str], tokenizer_path: str | os.PathLike[str]) -> Model:
    """Read a checkpoint and its tokenizer, of any format."""
    weights = formats.read(checkpoint_path)
    vocabulary = formats.read_tokenizer(tokenizer_path, weights.config.vocab_size)
    return Model(weights, vocabulary, Path(checkpoint_path).stem)


# A tokenizer.bin of 256,000 long pieces has some 6 MB; what is larger is a checkpoint, and not read for this.
_MAX_TOKENIZER_BYTES = 32 << 20


def tokenizer_beside(checkpoint_path: Path, vocab_size: int) -> Path:
    """Return the tokenizer file in the checkpoint's directory that has exactly `vocab_size` pieces.

    A tokenizer.bin comes first; where there is none, STEM-tok.json, tokenizer.json and tokenizer.model are looked at.

    Raises:
        InputError: none has, or several that differ.
    """
    found: dict[str, Path] = {}
    for path in sorted(checkpoint_path.parent.glob("*.bin")):
        if path.name != checkpoint_path.name and path.stat().st_size <= _MAX_TOKENIZER_BYTES:
            try:
                if tokenizer_bin.count_pieces(path) == vocab_size:
                    found.setdefault(sha256_of(path), path)
            except TokenizerError:
                continue
    if not found and (other := _other_tokenizer_beside(checkpoint_path, vocab_size)):
        return other
    if len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(path.name for path in found.values())
    what = (
        f"several tokenizers of {vocab_size} pieces are beside it ({names})"
        if found
        else (f"no tokenizer of {vocab_size} pieces is beside it")
    )
    raise InputError(what, path=checkpoint_path, hint="name one with -z")


def _other_tokenizer_beside(checkpoint_path: Path, vocab_size: int) -> Path | None:
    for name in (f"{checkpoint_path.stem}-tok.json", *TOKENIZER_FILES):
        path = checkpoint_path.parent / name
        try:
            if path.is_file() and formats.fits(read_any(path), vocab_size):
                return path
        except TokenizerError:
            continue
    return None


# ---- content -------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Hash a file, once for each (path, size, time of change).

    The hash of a directory is that of what `sha256sum *` prints in it: for each file, in the order of the names'
    bytes, its hash, two spaces and its name.
    """
    if path.is_dir():
        files = sorted((one for one in path.iterdir() if one.is_file()), key=lambda one: os.fsencode(one.name))
        lines = (f"{sha256_of(one)}  {one.name}\n" for one in files if not one.name.startswith("."))
        return hashlib.sha256(b"".join(map(os.fsencode, lines))).hexdigest()
    status = path.stat()
    return _sha256(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return checkpoint.sha256_of(path)
