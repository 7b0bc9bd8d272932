"""Fetch published files into the cache, through huggingface_hub, pinned by sha256 and resumed where they broke off.

A file is written to NAME.part beside its place, goes on from there when it is asked for again, and takes its place
when its hash is right. What has no published hash (the .pt files, tok512.model) is pinned at its first fetching, in
the cache's pins.json, and held against that from then on.

    HF_ENDPOINT             another address of the Hugging Face hub
    GITHUB_RAW_ENDPOINT     another address of GitHub's raw files, of which one is needed: tokenizer.bin
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, MissingDependency
from harness.models import files

__all__ = ["REMOTE", "Remote", "names", "pull"]

_HUB, _GITHUB = "https://huggingface.co", "https://raw.githubusercontent.com"
_PINS = "pins.json"


@dataclass(frozen=True, slots=True)
class Remote:
    """A published file.

    Attributes:
        repository: of the hub, or of GitHub.
        path: in it.
        sha256: None where nobody has published one.
        on_github: the main branch of a GitHub repository, instead of the hub's.
    """

    repository: str
    path: str
    sha256: str | None = None
    on_github: bool = False


def _remote() -> dict[str, Remote]:
    stories, small = "karpathy/tinyllamas", "stories260K"
    known = {files.TOKENIZER_512: files.TOK512, files.TOKENIZER_32000: files.TOK32000}
    known |= {entry.checkpoint: entry.sha256 for entry in files.PUBLISHED.values()}
    found = {"tokenizer.bin": Remote("karpathy/llama2.c", "tokenizer.bin", known["tokenizer.bin"], on_github=True)}
    for name in ("stories260K.bin", "stories260K.pt", "tok512.bin", "tok512.model"):
        found[name] = Remote(stories, f"{small}/{name}", known.get(name))
    for size in ("15M", "42M", "110M"):
        for name in (f"stories{size}.bin", f"stories{size}.pt"):
            found[name] = Remote(stories, name, known.get(name))
    return found


REMOTE = _remote()


def names() -> list[str]:
    """Return what can be pulled: models by name, and single files."""
    return [*files.PUBLISHED, *REMOTE]


def pull(name: str, *, told: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Fetch a model's files, or one file, unless they are there already; return their paths.

    Raises:
        InputError: there is no such model, it cannot be fetched, or what came is not what it should be.
        MissingDependency: huggingface_hub is not installed.
    """
    if name in files.PUBLISHED:
        entry = files.PUBLISHED[name]
        return [_pull(file, told) for file in (entry.checkpoint, entry.tokenizer)]
    if name in REMOTE:
        return [_pull(name, told)]
    raise InputError(f"{name} cannot be pulled", hint=f"what can: {', '.join(names())}")


def _pull(name: str, told: Callable[[str], None]) -> Path:
    remote = REMOTE[name]
    home = files.cache_dir() / "models"
    path, part = home / name, home / f"{name}.part"
    pinned = remote.sha256 or _pins(home).get(name)
    if path.is_file():
        _check(path, pinned, name)
        told(f"{path} is there")
        return path
    try:
        home.mkdir(parents=True, exist_ok=True)
        _fetch(_url(remote), part, name)
        actual = files.sha256_of(part)
        if pinned is None:
            told(f"no sha256 of {name} is published: pinned now, at first use, to {actual}")
            _pin(home, name, actual)
        elif actual != pinned:
            part.unlink()
            raise InputError(
                f"what was fetched is not {name}", path=_url(remote), expected=f"sha256 {pinned}", actual=actual
            )
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror or error}", path=path, hint="HARNESS_CACHE names another directory"
        ) from error
    told(f"{path} was fetched, sha256 {actual}")
    return path


def _check(path: Path, pinned: str | None, name: str) -> None:
    if pinned is not None and (actual := files.sha256_of(path)) != pinned:
        raise InputError(
            f"this file is not {name}", path=path, expected=f"sha256 {pinned}", actual=actual, hint="remove it"
        )


def _url(remote: Remote) -> str:
    if remote.on_github:
        base = os.environ.get("GITHUB_RAW_ENDPOINT", _GITHUB)
        return f"{base}/{remote.repository}/master/{remote.path}"
    return f"{os.environ.get('HF_ENDPOINT', _HUB)}/{remote.repository}/resolve/main/{remote.path}"


def _fetch(url: str, part: Path, name: str) -> None:
    """Append to `part` what is missing of it.

    Raises:
        InputError: the server cannot be reached, or has no such file.
    """
    try:
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.file_download import http_get
    except ImportError as error:
        raise MissingDependency(
            "huggingface_hub, which fetches models", install="pip install llama-harness[models]"
        ) from error
    # What its transport library raises, whichever that is in this version.
    transport_error: type[Exception] = HfHubHTTPError.__mro__[1]
    try:
        with part.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), displayed_filename=name)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 416 and part.stat().st_size:
            return  # nothing is missing: the hash will tell
        raise InputError(f"cannot be fetched: {_first_line(error)}", path=url) from error
    except (transport_error, OSError) as error:
        raise InputError(
            f"cannot be fetched: {_first_line(error)}", path=url, hint="what came is kept, and continued next time"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            if not part.stat().st_size:
                part.unlink()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _pins(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / _PINS).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"the pins cannot be read: {error}", path=home / _PINS, hint="remove the file") from error
    if not isinstance(found, dict):
        raise InputError("the pins are no table", path=home / _PINS, hint="remove the file")
    return found


def _pin(home: Path, name: str, sha256: str) -> None:
    with files.made_whole(home / _PINS) as temporary:
        temporary.write_text(json.dumps({**_pins(home), name: sha256}, indent=2) + "\n", "utf-8")
