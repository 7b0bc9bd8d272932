"""README.md and docs/ say what is so: links, keys, placeholders, commands, examples."""

import doctest
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.adapters import manifest
from harness.cli import COMMANDS
from harness.cli.completion import candidates
from harness.conformance import case, case_tables
from harness.conformance.rows import FingerprintTable
from harness.diagnosis.relations import RELATIONS
from harness.engine import Ops
from tests.test_architecture import RANKS, SOURCES, module_name, part_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def is_draft(page):
    """Whether a page is not part of the repository yet, in a checkout."""
    git = ["git", "-C", ROOT, "ls-files", "--others", "--error-unmatch", page]
    return (ROOT / ".git").exists() and subprocess.run(git, capture_output=True).returncode == 0


PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.glob("*.md")) if not is_draft(page))]


def read(name):
    return (DOCS / name).read_text("utf-8")


def rows(text, heading):
    """The rows of the first table after a heading, each a list of cells."""
    part = text.partition(f"{heading}\n")[2]
    found = []
    for line in part.splitlines():
        if line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
        elif found:
            break
    return found[2:]


def code(cell):
    return re.findall("`([^`]+)`", cell)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


def test_the_index_names_every_page():
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", read("README.md")))
    assert linked == {page.name for page in PAGES[1:]} - {"README.md"}


def commands():
    """Every `harness ...` command line that a page shows."""
    for page in PAGES:
        text = page.read_text("utf-8")
        shown = [line for block in blocks(text, "(?:sh|yaml)") for line in block.splitlines()]
        shown += [line[4:] for line in text.splitlines() if line.startswith("    ")]
        for line in shown:
            for part in line.partition("#")[0].split("&&"):
                if found := re.match(r"\s*(?:\S*/bin/)?harness (.+)", part):
                    yield pytest.param(found[1].strip(), id=f"{page.name}: {found[1].strip()}")


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_that_is_shown_has_the_options_that_it_uses(line):
    words = shlex.split(line)
    assert words[0] in COMMANDS or words == ["--version"]
    options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    if words[0] != "adopt":  # what follows is another program's
        assert options <= set(candidates([words[0], "--"]))


def test_the_readme_lists_every_command():
    assert {code(cells[0])[0].split()[1] for cells in rows(PAGES[0].read_text("utf-8"), "## Commands")} == set(
        COMMANDS
    )


# ---- architecture.md


def test_the_worked_example_runs():
    assert doctest.testfile(str(DOCS / "architecture.md"), module_relative=False).failed == 0


def test_every_part_stands_there_with_its_rank():
    listed = {code(part)[0]: int(rank) for part, rank, _ in rows(read("architecture.md"), "## Parts")}
    present = {part_of(module_name(path)) for path in SOURCES} - {""}
    assert listed == {part: rank for part, rank in RANKS.items() if part in present}


def test_every_step_of_the_engine_is_listed():
    listed = read("architecture.md").partition("harness/engine/ops.py`:")[2].partition("A step that")[0]
    assert code(listed) == [name for name in Ops.__dataclass_fields__ if name != "in_decode_order"]


# ---- manifest.md


def test_every_key_of_a_manifest_is_described():
    text = read("manifest.md")
    keys = [key for cells in rows(text, "## Keys") for key in code(cells[0])]
    assert sorted(keys) == sorted([*manifest._KEYS, "variant", "base"])
    needs = [key for cells in rows(text, "## needs") for key in code(cells[0])]
    assert sorted(needs) == sorted(manifest.Needs.model_fields)
    known = tomllib.loads(blocks(text.partition("## known")[2], "toml")[0])["known"][0]
    assert set(known) == set(manifest.Known.model_fields)


def test_every_usual_value_is_right(tmp_path):
    (tmp_path / "impl.toml").write_text('run = ["./x"]\n')
    usual = manifest.load(tmp_path)[0]
    for cells in rows(read("manifest.md"), "## Keys"):
        if shown := code(cells[1]):
            key = code(cells[0])[0]
            value = tomllib.loads(f"x = {shown[0]}")["x"]
            actual = True if key == "base" else getattr(usual, key)
            assert (list(actual) if isinstance(actual, tuple) else actual) == value, key


def test_every_placeholder_is_described_with_the_keys_that_may_use_it():
    listed = {}
    for cells in rows(read("manifest.md"), "## Placeholders"):
        for key in code(cells[2]):
            name = code(cells[0])[0].strip("{}")
            listed.setdefault(key, set()).add("env:" if name == "env:NAME" else name)
    actual = {key: set(names) for key, names in manifest._ALLOWED.items()}
    actual["prepare"] -= {"model"}  # the same as v0
    listed["prepare"] -= {"model"}
    assert listed == actual


def test_the_manifest_that_is_shown_is_one(tmp_path):
    (tmp_path / "impl.toml").write_text(blocks(read("manifest.md"), "toml")[0])
    assert [one.name for one in manifest.load(tmp_path)] == ["my-port", "my-port-fast"]


@pytest.mark.parametrize("page", ["manifest.md", "ci.md"])
def test_a_deviation_that_is_shown_is_of_a_case_that_exists(page):
    shown = [tomllib.loads(block) for block in blocks(read(page), "toml") if "[[known]]" in block]
    assert shown
    for entry in shown:
        assert case.select(["core"], cases=[known["case"] for known in entry["known"]])


# ---- goldens.md


def test_every_key_of_a_golden_is_described():
    tables = {"model", "request", "expected", "provenance"}
    actual = set(case_tables.RunFile.model_fields) - tables
    for table in tables:
        fields = case_tables.RunFile.model_fields[table].annotation.model_fields
        actual |= {f"{table}.{name}" for name in fields}
    assert {key for cells in rows(read("goldens.md"), "## The file") for key in code(cells[0])} == actual


def test_every_key_of_a_golden_of_ids_is_described():
    actual = set()
    for kind in (case_tables.EncodeFile, case_tables.LogitsFile):
        for table in ("request", "expected"):
            fields = kind.model_fields[table].annotation.model_fields
            actual |= {f"{table}.{name}" for name in fields} - {"request.mode"}
    actual |= {f"expected.rows.{name}" for name in FingerprintTable.model_fields}
    assert {key for cells in rows(read("goldens.md"), "## Goldens of ids") for key in code(cells[0])} == actual


def test_every_key_of_a_relation_is_described():
    fields = case_tables.RelationFile.model_fields["request"].annotation.model_fields
    actual = {f"request.{name}" for name in fields} - {"request.mode"}
    assert {
        key for cells in rows(read("goldens.md"), "## Goldens without an answer") for key in code(cells[0])
    } == actual


def test_every_relation_is_described():
    listed = {code(cells[0])[0] for cells in rows(read("relations.md"), "## Which there are")}
    assert listed == {relation.name for relation in RELATIONS}


def test_every_suite_is_described():
    listed = [code(cells[0])[0] for cells in rows(read("goldens.md"), "# Goldens")]
    assert sorted(listed) == case.suite_names()


# ---- README.md


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_excerpt_in_the_readme_is_what_a_wrong_port_gets(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "88")
    source = (ROOT / "impls/c/run.c").read_text("utf-8")
    assert source.count("powf(10000.0f") == 1
    (tmp_path / "run.c").write_text(source.replace("powf(10000.0f", "powf(1000.0f"))
    include = f"-I{ROOT / 'impls/c'}"
    subprocess.run(["cc", "-O3", include, "-o", tmp_path / "run", tmp_path / "run.c", "-lm"], check=True)
    assert main(["check", str(tmp_path / "run"), "--case", "gqa-double-spaces"]) == 1

    def comparable(text):
        text = re.sub(r"reproduce: .*|\S+ m?s$", "", text, flags=re.MULTILINE)
        text = re.sub(r"(?<=\S) +time$|─+", "", text, flags=re.MULTILINE)  # a column as wide as the time was long
        return [
            line.rstrip() for line in re.sub(r"floor\s+of\s+[0-9.e-]+", "floor", text).splitlines() if line.strip()
        ]

    printed = set(comparable(capsys.readouterr().out))
    command, *shown = comparable(blocks(PAGES[0].read_text("utf-8"), "text")[0])
    assert command == "$ harness check ./my-port/run --case gqa-double-spaces"
    assert len(shown) > 10
    assert not [line for line in shown if line not in printed]
