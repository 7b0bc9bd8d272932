"""The layers of the project as data, checked against every import in the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent

# Part -> its rank. A part is a package or a module directly below harness; what is not listed is a mistake.
RANKS = {
    "errors": -1,
    "benchfile": 0,
    "diagnoses": 0,
    "documents": 0,
    "jobs": 0,
    "line_program": 0,
    "model_config": 0,
    "quant": 0,
    "rates": 0,
    "results": 0,
    "runfile": 0,
    "checkpoint": 1,
    "report": 1,
    "tokenizer": 1,
    "trace": 1,
    "engine": 2,
    "formats": 2,
    "judging": 2,
    "models": 2,
    "adapters": 3,
    "conversion": 4,
    "diagnosis": 3,
    "bench": 4,
    "conformance": 4,
    "cli": 5,
    "pytest_distribution": 5,
    "pytest_goldens": 5,
    "pytest_plugin": 5,
    "__main__": 6,
}

# Part -> the other parts that it may import; a dotted name allows only that module of a part. Parts that are not
# listed may import whatever ranks below them. The package itself (`__version__`) may be imported by all.
MAY_IMPORT = {
    "benchfile": {"errors", "documents"},
    "diagnoses": {"results"},
    "documents": {"errors"},
    "jobs": set(),
    "line_program": {"errors"},
    "model_config": {"errors"},
    "quant": {"errors"},
    "rates": set(),
    "results": {"errors"},
    # One subject in several files: the records, the file that holds them, and how any of them becomes JSON.
    "runfile": {"errors", "results", "benchfile", "documents"},
    "checkpoint": {"errors", "jobs", "model_config", "quant", "results"},
    "tokenizer": {"errors", "jobs", "model_config", "quant", "results"},
    "trace": {"errors", "jobs", "model_config", "quant", "results"},
    "report": {"errors", "diagnoses", "results", "benchfile", "rates", "runfile"},
    "engine": {"errors", "jobs", "model_config", "quant", "results", "trace.points"},
    "judging": {"errors", "jobs", "model_config", "quant", "results"},
    "formats": {"errors", "jobs", "model_config", "quant", "results", "checkpoint", "tokenizer"},
    # Two ways to the same files: by name, and by content.
    "models": {"errors", "jobs", "model_config", "quant", "results", "checkpoint", "tokenizer", "formats"},
    "adapters": {
        "errors",
        "documents",
        "jobs",
        "line_program",
        "model_config",
        "quant",
        "results",
        "checkpoint",
        "tokenizer",
        "trace",
        "models",
        "formats",
    },
    "pytest_plugin": {"pytest_goldens"},
    "pytest_goldens": set(RANKS) - {"cli", "pytest_plugin", "__main__"},
    "pytest_distribution": {"conformance"},
    "__main__": {"errors", "cli"},
}

# Part -> parts below it that it must leave alone all the same.
MUST_NOT_IMPORT = {
    "diagnosis": {"report", "adapters", "conformance"},
    "conformance": {"report"},
    "bench": {"report", "diagnosis"},
}

# Outside package -> the only modules that may import it: side effects and heavy libraries have owners.
OWNERS = {
    "subprocess": {"harness.adapters.spawners", "harness.adapters.toolchain"},
    "typer": {"harness.cli"},
    "rich": {
        "harness.cli",
        "harness.report.console",
        "harness.report.terminal",
        "harness.report.traces",
        "harness.report.black_box",
    },
    "pandas": {"harness.report.summary", "harness.bench.history"},
    "jinja2": {"harness.report"},
    "altair": {"harness.report.plots"},
    "pytest": {"harness.pytest_plugin", "harness.pytest_goldens", "harness.pytest_distribution"},
    "xdist": {"harness.pytest_distribution"},
    "pickle": set(),
    "huggingface_hub": {"harness.models.pull"},
    "torch": set(),
    "transformers": set(),
}

SOURCES = sorted(path for path in ROOT.rglob("*.py") if not {"golden", "impls"} & set(path.relative_to(ROOT).parts))


def module_name(path: Path) -> str:
    parts = ["harness", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part that a module below harness belongs to ("" for the package itself)."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a source imports, wherever in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                is_module = node.module == "harness" or (node.module.startswith("harness") and is_module_name(dotted))
                yield (dotted if is_module else node.module), node.lineno


def is_module_name(dotted: str) -> bool:
    path = ROOT.parent.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def complaint(module: str, target: str) -> str | None:
    """Say why one module may not import another, or return None."""
    here, there = part_of(module), part_of(target)
    if not there or there == here or not is_module_name(f"harness.{there}"):  # `from harness import __version__`
        return None
    if there not in RANKS:
        return f"{there} has no rank"
    if here in MAY_IMPORT:
        allowed = MAY_IMPORT[here]
        inner = ".".join(target.split(".")[1:3])
        return None if there in allowed or inner in allowed else f"{here} may not import {inner}"
    if RANKS[there] >= RANKS[here]:
        return f"{here} (rank {RANKS[here]}) may not import {there} (rank {RANKS[there]})"
    if there in MUST_NOT_IMPORT.get(here, ()):
        return f"{here} must not import {there}"
    return None


def test_every_part_has_its_rank():
    parts = {part_of(module_name(path)) for path in SOURCES} - {""}
    assert parts <= set(RANKS), "give the new part a rank and a place in the table"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_what_its_layer_allows(path):
    module = module_name(path)
    if module == "harness":
        assert list(imports(path)) == []  # importing the package is cheap and has no effect
        return
    found = [
        f"line {line}: {problem}"
        for target, line in imports(path)
        if target.split(".")[0] == "harness" and (problem := complaint(module, target))
    ]
    assert not found, f"{module}: {'; '.join(found)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_side_effects_and_heavy_libraries_stay_with_their_owners(path):
    module = module_name(path)
    found = [
        f"line {line}: {target}"
        for target, line in imports(path)
        if (owners := OWNERS.get(target.split(".")[0])) is not None
        and not any(module == owner or module.startswith(f"{owner}.") for owner in owners)
    ]
    assert not found, f"{module} imports {', '.join(found)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_command_line_prints_and_nobody_catches_everything_silently(path):
    module = module_name(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            is_free = part_of(module) in ("cli", "__main__") or any(word.arg == "file" for word in node.keywords)
            assert is_free, f"{module} line {node.lineno}: stdout belongs to the command line"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module} line {node.lineno}: a bare except"


@pytest.mark.parametrize("path", sorted((ROOT.parent / "impls").rglob("*.py")), ids=str)
def test_implementations_do_not_lean_on_the_harness(path):
    if "numpy" in path.relative_to(ROOT.parent / "impls").parts:
        return  # a thin main around harness.engine, by design
    assert not [target for target, _ in imports(path) if target.split(".")[0] == "harness"]


def test_no_two_packages_import_each_other():
    edges = {
        (part_of(module_name(path)), part_of(target))
        for path in SOURCES
        for target, _ in imports(path)
        if target.startswith("harness.")
    }
    assert not [(a, b) for a, b in edges if a != b and a and b and (b, a) in edges]


# ---- what a start-up costs, by what is imported


def imported_by(*args: str) -> set[str]:
    """Run the command and return the names of the modules that it has imported in the end."""
    code = (
        "import sys\nfrom harness.__main__ import main\n"
        f"status = main({list(args)!r})\n"
        "print('\\n' + ' '.join(sys.modules))\nsys.exit(status)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--version"], ["--show-completion", "bash"]])
def test_version_and_completion_are_answered_before_anything_large_is_imported(args):
    large = {"typer", "numpy", "pandas", "rich", "pydantic", "importlib.metadata", "pytest"}
    assert not large & imported_by(*args)


@pytest.mark.parametrize("args", [["check", "--help"], ["report", "--help"], ["--help"]])
def test_no_command_imports_pandas_or_plots_to_start(args):
    assert not {"pandas", "altair", "jinja2", "torch"} & imported_by(*args)


def test_help_imports_no_command():
    assert not {name for name in imported_by("--help") if name.startswith("harness.conformance")}
