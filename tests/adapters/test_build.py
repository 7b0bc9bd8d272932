"""Builds: made once for what goes into them, and never half."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.adapters import toolchain
from harness.adapters.build import build, inputs
from harness.adapters.manifest import Manifest, load
from harness.errors import BuildFailed, ManifestError, MissingDependency
from harness.models import cache_dir

# A "compiler": copies its source, and counts in a file how often it was started.
SCRIPT = """\
import os, sys
with open(os.environ["COUNT"], "a") as count: count.write("x")
open(sys.argv[2], "w").write("built from " + open(sys.argv[1]).read())
"""


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    src = tmp_path / "port"
    src.mkdir()
    (src / "build.py").write_text(SCRIPT)
    (src / "main.c").write_text("one")
    (src / "impl.toml").write_text(
        'build = ["{python}", "-I", "-S", "{src}/build.py", "main.c", "{out}/run"]\n'
        'inputs = ["*.c", "*.h", "build.py"]\nrun = ["{out}/run"]\n[variant.other]\nprecision = "f16"\n'
    )
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    yield src
    for path in src.rglob("*"):
        path.chmod(0o755)
    src.chmod(0o755)


def builds(port: Path) -> int:
    count = port.parent / "count"
    return len(count.read_text()) if count.exists() else 0


def test_a_build_is_made_once_and_found_again(port: Path, tmp_path: Path) -> None:
    (manifest, _) = load(port)
    told: list[str] = []
    out = build(manifest, home=tmp_path / "cache", progress=told.append)
    assert (out / "run").read_text() == "built from one"
    for _ in range(3):
        assert build(manifest, home=tmp_path / "cache", progress=told.append) == out
    assert (builds(port), told) == (1, ["building port"])
    assert json.loads((out / "build.json").read_text())["name"] == "port"


def test_a_changed_input_or_command_makes_another_build(port: Path, tmp_path: Path) -> None:
    (manifest, _) = load(port)
    first = build(manifest, home=tmp_path / "cache")
    (port / "README.md").write_text("not an input")
    assert build(manifest, home=tmp_path / "cache") == first
    (port / "main.c").write_text("two")
    second = build(manifest, home=tmp_path / "cache")
    assert (second / "run").read_text() == "built from two"
    (port / "new.h").write_text("")
    third = build(manifest, home=tmp_path / "cache")
    longer = manifest.model_copy(update={"build": ((*manifest.build[0], "more"),)})
    fourth = build(longer, home=tmp_path / "cache")
    assert len({first, second, third, fourth}) == 4
    (port / "main.c").write_text("one")
    (port / "new.h").unlink()
    assert build(manifest, home=tmp_path / "cache") == first
    assert builds(port) == 4


def test_what_is_built_alike_is_built_once(port: Path, tmp_path: Path) -> None:
    one, other = load(port)
    assert other.name == "other"
    assert build(one, home=tmp_path / "cache") == build(other, home=tmp_path / "cache")
    changed = other.model_copy(update={"build": ((*other.build[0], "more"),)})
    assert build(changed, home=tmp_path / "cache") != build(one, home=tmp_path / "cache")
    assert builds(port) == 2


def test_sources_may_lie_in_a_read_only_place(port: Path, tmp_path: Path) -> None:
    for path in (*port.iterdir(), port):
        path.chmod(0o555)
    (manifest, _) = load(port)
    assert (build(manifest, home=tmp_path / "cache") / "run").exists()
    assert sorted(path.name for path in port.iterdir()) == ["build.py", "impl.toml", "main.c"]


def test_builders_of_the_same_thing_wait_for_each_other(port: Path, tmp_path: Path) -> None:
    (manifest, _) = load(port)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(build(manifest, home=tmp_path / "cache"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert (len(set(found)), builds(port)) == (1, 1)


def test_a_failed_build_says_what_the_compiler_said_and_leaves_nothing(port: Path, tmp_path: Path) -> None:
    (port / "build.py").write_text("import sys; sys.exit(sys.argv[0] + ':1: no such type')")
    (manifest, _) = load(port)
    with pytest.raises(BuildFailed) as caught:
        build(manifest, home=tmp_path / "cache")
    assert caught.value.exit_code == 1
    assert caught.value.stderr_tail == f"{port}/build.py:1: no such type"
    assert f"{port}/build.py" in caught.value.command
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_an_input_that_was_not_declared_is_not_there(port: Path, tmp_path: Path) -> None:
    (manifest, _) = load(port)
    with pytest.raises(BuildFailed, match="building port failed"):
        build(manifest.model_copy(update={"inputs": ("build.py",)}), home=tmp_path / "cache")


def test_inputs_that_match_nothing_or_far_too_much_are_refused(port: Path) -> None:
    (manifest, _) = load(port)
    with pytest.raises(ManifestError, match=r"\*\.zig match no file"):
        inputs(manifest.model_copy(update={"inputs": ("*.zig",)}))
    everything = manifest.model_copy(update={"inputs": ()})
    (port / ".git").mkdir()
    (port / ".git" / "config").write_text("")
    assert [path.name for path in inputs(everything)] == ["build.py", "main.c"]
    with open(port / "model.bin", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ManifestError, match="say which files the build needs"):
        inputs(everything)


def test_nothing_to_build_is_the_directory_itself(tmp_path: Path) -> None:
    manifest = Manifest(path=tmp_path / "impl.toml", name="x", run=("y",))
    assert build(manifest) == tmp_path


def test_a_missing_tool_comes_with_its_install_line(tmp_path: Path) -> None:
    manifest = Manifest(
        path=tmp_path / "impl.toml",
        name="x",
        run=("y",),
        needs_tool=("no-such-tool",),
        tools={"no-such-tool": "pip install it"},
    )
    with pytest.raises(MissingDependency) as caught:
        build(manifest)
    assert caught.value.install == "pip install it"


def test_a_missing_tool_that_nobody_knows_is_said_to_be_looked_for(tmp_path: Path) -> None:
    manifest = Manifest(path=tmp_path / "impl.toml", name="x", run=("y",), needs_tool=("no-such-tool",))
    with pytest.raises(MissingDependency) as caught:
        build(manifest)
    assert str(caught.value) == "no-such-tool, which x needs, is not available; it is looked for in PATH"


def test_the_install_line_is_the_manifests_own_also_for_a_tool_that_we_know(
    port: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIG", "no-such-zig")
    (manifest, _) = load(port)
    for needs_tool in ((), ("zig",)):
        changes = {"build": (("{zig}", "build-exe"),), "needs_tool": needs_tool, "tools": {"zig": "get-zig"}}
        with pytest.raises(MissingDependency) as caught:
            build(manifest.model_copy(update=changes), home=tmp_path / "cache")
        assert caught.value.install == "get-zig"


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)
    tools = {"PORT": "the path of port"}
    manifest = Manifest(path=tmp_path / "impl.toml", name="x", run=("{env:PORT}",), tools=tools)
    with pytest.raises(MissingDependency) as caught:
        build(manifest)
    said = "PORT, an environment variable that x needs, is not available; set it to the path of port"
    assert str(caught.value) == said
    monkeypatch.setenv("PORT", "")
    with pytest.raises(MissingDependency):
        build(manifest)
    monkeypatch.setenv("PORT", "./port")
    assert build(manifest) == tmp_path


def test_a_tool_that_is_too_old_comes_with_its_install_line(tmp_path: Path) -> None:
    tool = tmp_path / "zorkc"
    tool.write_text("#!/bin/sh\necho zorkc v4.19.2\n")
    tool.chmod(0o755)

    def needing(wanted: str) -> Manifest:
        tools = {str(tool): "get-zorkc"}
        return Manifest(
            path=tmp_path / "impl.toml", name="x", run=("y",), needs_tool=(f"{tool}{wanted}",), tools=tools
        )

    for enough in ("", ">=4", ">=4.9", ">=4.19.2"):
        build(needing(enough))
    for more in (">=4.20", ">=5", ">=4.19.2.1"):
        with pytest.raises(MissingDependency, match="there is 4") as caught:
            build(needing(more))
        assert caught.value.install == "get-zorkc"


def test_a_build_may_say_what_it_misses(port: Path, tmp_path: Path) -> None:
    (port / "build.py").write_text("import sys; print('looking'); print('zork.h', file=sys.stderr); sys.exit(77)")
    (manifest, _) = load(port)
    manifest = manifest.model_copy(update={"tools": {"zork": "get-zork"}})
    with pytest.raises(MissingDependency, match=r"^zork\.h is not available; install it with: get-zork$"):
        build(manifest, home=tmp_path / "cache")


def test_the_cache_lies_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "llama-harness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "llama-harness"


def test_the_compiler_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -m fake")
    assert toolchain.tool("cc") == [sys.executable, "-m", "fake"]
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(MissingDependency, match="no-such-compiler"):
        toolchain.tool("cc")


def test_without_a_c_compiler_the_one_that_pip_brings_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "ziglang"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "zig").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchain, "find", lambda name: None)
    monkeypatch.setattr(toolchain, "_package", lambda name: package)
    with pytest.raises(MissingDependency, match="pip install ziglang"):
        toolchain.tool("cc")
    os.chmod(package / "zig", 0o755)
    assert toolchain.tool("cc") == [str(package / "zig"), "cc"]


def test_the_zig_that_pip_pins_goes_before_another_in_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for directory in ("ziglang", "bin"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "zig").touch(mode=0o755)
    monkeypatch.delenv("ZIG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(toolchain, "_package", lambda name: tmp_path / name)
    assert toolchain.tool("zig") == [str(tmp_path / "ziglang" / "zig")]
    (tmp_path / "ziglang" / "zig").unlink()
    assert toolchain.tool("zig") == [str(tmp_path / "bin" / "zig")]


# ---- BLAS


@pytest.fixture
def no_blas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Linux machine without any BLAS; what is put into the directory that is returned is in PATH."""
    monkeypatch.setattr(toolchain.sys, "platform", "linux")
    monkeypatch.setattr(toolchain, "_package", lambda name: None)
    monkeypatch.setattr(toolchain, "find", lambda name: shutil.which(name, path=str(tmp_path)))
    return tmp_path


def test_blas_is_the_packages_library_with_its_prefix(no_blas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_blas / "lib").mkdir()
    library = no_blas / "lib" / "libscipy_openblas.so"
    monkeypatch.setattr(toolchain, "_package", lambda name: no_blas)
    with pytest.raises(MissingDependency, match="scipy-openblas32"):
        toolchain.tool("blas")
    library.touch()
    words = toolchain.tool("blas")
    assert words == [
        *(str(library), f"-I{no_blas}/include", "-DBLAS_SYMBOL_PREFIX=scipy_", f"-Wl,-rpath,{no_blas}/lib")
    ]
    assert toolchain.identity(words).startswith(f"{library} 0 ")


def test_blas_is_what_pkg_config_says_where_there_is_no_package(
    no_blas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKG_CONFIG_PATH", str(no_blas))
    config = no_blas / "pkg-config"
    config.write_text('#!/bin/sh\n[ "$*" = "--cflags --libs openblas" ] && echo "-I/opt/include  -lopenblas"\n')
    config.chmod(0o755)
    assert toolchain.tool("blas") == ["-I/opt/include", "-lopenblas"]


def test_blas_is_missing_where_pkg_config_knows_none(no_blas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKG_CONFIG_PATH", str(no_blas))
    config = no_blas / "pkg-config"
    config.write_text("#!/bin/sh\necho nothing; exit 1\n")
    config.chmod(0o755)
    with pytest.raises(MissingDependency, match=r"^a BLAS is not available; install it with: pip install"):
        toolchain.tool("blas")


def test_blas_on_macos_is_accelerate(no_blas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.sys, "platform", "darwin")
    assert toolchain.tool("blas") == ["-framework", "Accelerate"]
