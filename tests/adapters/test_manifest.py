"""impl.toml: what it may say, and that every mistake names its line and key."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.adapters.manifest import Known, Manifest, Needs, discover, expand, expand_text, load
from harness.errors import ManifestError
from harness.results import Kind

WHOLE = """\
name = "port"            # a comment with [brackets] and a = sign
language = "C"
formats = ["llama2c-v0", "llama2c-v1"]
modes = ["generate", "chat"]
conventions = "llama2.c"
build = [
    ["{cc}", "-c", "{src}/a.c"],
    ["{cc}", "-o", "{out}/run", "a.o"],
]
inputs = ["*.c"]
needs_tool = ["make"]
run = ["{out}/run", "{model}", "{prompt_args}"]
chat = ["{out}/run", "{model}", "{system_args}", "{prompt_args}"]
tps = 'achieved tok/s: ([0-9.]+)'
timeout_s = 30

[env]
OMP_NUM_THREADS = "{threads}"

[tools]
make = "apt-get install make"

[needs]
mha = true
hidden_multiple = 4

[[known]]
case = "core/*"
kind = "MISMATCH"
reason = "https://example.org/1"

[variant.port-fast]
build = ["{cc}", "-Ofast", "-o", "{out}/run", "{src}/a.c"]
precision = "f16"
env = { FAST = "1" }

[variant.port-q8]
run = ["{out}/runq", "{model}"]
modes = ["generate"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "port" / "impl.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_whole_manifest_is_read_with_its_variants(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    base, fast, q8 = load(path.parent)
    assert (base.name, base.src, base.variant_of) == ("port", path.parent, None)
    assert base.build == (("{cc}", "-c", "{src}/a.c"), ("{cc}", "-o", "{out}/run", "a.o"))
    assert base.needs == Needs(mha=True, hidden_multiple=4)
    assert base.known == (Known(case="core/*", kind=Kind.MISMATCH, reason="https://example.org/1"),)
    assert base.timeout_s == 30.0
    assert (fast.name, fast.variant_of, fast.precision) == ("port-fast", "port", "f16")
    assert fast.build == (("{cc}", "-Ofast", "-o", "{out}/run", "{src}/a.c"),)
    assert fast.env == {"OMP_NUM_THREADS": "{threads}", "FAST": "1"}
    assert fast.run == base.run
    assert (q8.modes, q8.run) == (("generate",), ("{out}/runq", "{model}"))


def test_the_directory_names_an_implementation_that_has_no_name(tmp_path: Path) -> None:
    (manifest,) = load(written(tmp_path, 'run = ["./run"]'))
    assert (manifest.name, manifest.precision, manifest.levels) == ("port", "f32", ("TEXT",))


def test_without_a_base_there_are_only_variants(tmp_path: Path) -> None:
    text = 'base = false\nlanguage = "C"\n[variant.a]\nrun = ["x"]\n[variant.b]\nrun = ["y"]\n'
    assert [(m.name, m.language) for m in load(written(tmp_path, text))] == [("a", "C"), ("b", "C")]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('run = ["x"]\nbuidl = ["y"]', "line 2, key buidl", "is no key; did you mean build?"),
        ('run = ["x"]\n\n[needs]\nmhaa = true', "line 4, key needs.mhaa", "is no key; did you mean mha?"),
        ('run = ["x",\n  "{promt}"]', "line 1, key run", "{promt} is no placeholder of run; did you mean prompt?"),
        ('run = ["x"]\nbuild = ["{cc}", "{model}"]', "line 2, key build", "{model} is no placeholder of build"),
        ('run = ["x"]\n[env]\nA = "{nope}"', "line 3, key env.A", "{nope} is no placeholder of env"),
        ('run = ["x"]\nenv.A = "{nope}"', "line 2, key env.A", "{nope} is no placeholder of env"),
        ('run = ["x {prompt_args}"]', "line 1, key run", "{prompt_args} must be an element of its own"),
        ('name = "p"\nlanguage = "C"', "key run", "is missing; write run = "),
        ('base = false\n[variant.y]\nprecision = "q8"', "line 2, key variant.y.run", "is missing"),
        ('run = ["x", "{env:}"]\nbuild = ["{env:HOME}"]', "line 2, key build", "{env:HOME} is no placeholder"),
        ('run = ["{blas}"]', "line 1, key run", "{blas} is no placeholder of run"),
        ('run = ["x"]\nprecision = "f64"', "line 2, key precision", "input should be 'f32'"),
        ('run = "x"', "line 1, key run", "input should be a list"),
        ('run = ["x"]\nformats = ["v0"]', "line 2, key formats", "'v0' is no format that is written"),
        ('run = ["x"]\ntext = "(abc"', "line 2, key text", "is no regular expression"),
        ('run = ["x"]\ntps = "abc"', "line 2, key tps", "has no group"),
        ('run = ["x"]\ninputs = ["../*.c"]', "line 2, key inputs", "leaves the manifest's directory"),
        ('run = ["x"]\n[files]\n"../a" = "{model}"', "line 2, key files", "is no name of a file"),
        ('run = ["x"]\nmodes = ["chat"]', "line 2, key modes", "has chat, but there is no key chat"),
        ('run = ["x"]\nbase = 1', "line 2, key base", "is not true or false"),
        ('run = ["x"]\nvariant = 1', "line 2, key variant", "is not a table of tables"),
        ('run = ["x"]\n[variant.y]\nprecison = "q8"', "line 3, key variant.y.precison", "did you mean precision?"),
        ('run = ["x"]\n[variant.y]\nrun = ["{b}"]', "line 3, key variant.y.run", "{b} is no placeholder"),
        ('run = ["x"]\n[variant."a b"]\nenv = {}', "line 2, key variant.a b", "string should match pattern"),
        ('run = ["x"]\n[variant.port]', "line 2, key variant.port", "is the name of the base too"),
        ('run = ["x"]\n[variant.y]\nname = "z"', "line 3, key variant.y.name", "is given already"),
        (
            'run = ["x"]\n[[known]]\ncase = "a"\nkind = "OOPS"\nreason = "b"',
            "line 4, key known.0.kind",
            "expected one of",
        ),
        ('run = ["x"]\n[[known]]\ncase = "a"\nkind = "TIE"', "line 2, key known.0.reason", "field required"),
        ('run = ["x"]\ndescription = """\nbuild = 1\n"""\nnope = 1', "line 5, key nope", "is no key"),
        ('run = ["x"\nname = "y"', "line 2", "it is no TOML"),
        ("run = []", "line 1, key run", "at least 1 item"),
        ('run = ["x"]\ntimeout_s = 0', "line 2, key timeout_s", "greater than 0"),
    ],
)
def test_a_mistake_names_its_line_and_key(text: str, where: str, what: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert caught.value.path == str(path)
    assert caught.value.where == where
    assert what in str(caught.value)


def test_a_missing_or_unreadable_file_is_a_mistake_too(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        load(tmp_path)
    (tmp_path / "impl.toml").write_bytes(b'run = ["\xff"]')
    with pytest.raises(ManifestError, match="UTF-8"):
        load(tmp_path)


def test_all_manifests_of_a_directory_are_found_and_share_no_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "impl.toml").write_text('run = ["x"]')
    (tmp_path / "empty").mkdir()
    assert [manifest.name for manifest in discover(tmp_path)] == ["a", "b", "c"]
    (tmp_path / "c" / "impl.toml").write_text('name = "a"\nrun = ["x"]')
    with pytest.raises(ManifestError, match="the name a is taken"):
        discover(tmp_path)
    assert discover(tmp_path / "nowhere") == []


def test_a_list_takes_the_place_of_its_element() -> None:
    values = {"cc": ["zig", "cc"], "prompt_args": [b"-i", b"\xff hi"], "system_args": [], "out": b"/o"}
    template = ["{cc}", "{out}/run", "{prompt_args}", "{system_args}", "a{cc}b"]
    assert expand(template, values) == [b"zig", b"cc", b"/o/run", b"-i", b"\xff hi", b"azig ccb"]


def test_braces_that_are_no_placeholder_stay() -> None:
    assert expand_text("{{x}} {} {1} ${{HOME}} { x }", {}) == b"{x} {} {1} ${HOME} { x }"
    assert expand_text("{x}", {"x": b"{y}"}) == b"{y}"


@given(st.text(string.printable), st.binary())
def test_doubled_braces_give_any_text_back(text: str, value: bytes) -> None:
    quoted = text.replace("{", "{{").replace("}", "}}")
    assert expand_text(quoted + "{v}", {"v": value}) == text.encode() + value


def test_an_environment_variable_stands_anywhere_but_in_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'run = ["{env:PORT}", "a{env:PORT}b", "{{env:NO}}"]\nenv.A = "{env:Other_1}"\ncwd = "{env:WHERE}"'
    (manifest,) = load(written(tmp_path, text))
    assert manifest.variables == ["Other_1", "PORT", "WHERE"]
    assert expand(manifest.run, {"env:PORT": b"p q"}) == [b"p q", b"ap qb", b"{env:NO}"]
    monkeypatch.setenv("PORT", str(tmp_path / "port" / "impl.toml"))
    monkeypatch.setenv("WHERE", str(tmp_path))
    monkeypatch.delenv("Other_1", raising=False)
    assert manifest.given_files == [tmp_path / "port" / "impl.toml"]


def test_a_manifest_cannot_be_changed(tmp_path: Path) -> None:
    manifest = Manifest(path=tmp_path / "impl.toml", name="x", run=("y",))
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "z"  # type: ignore[misc]


# ---- the line protocol


def test_levels_and_the_protocol_s_command_go_together(tmp_path):
    (tmp_path / "impl.toml").write_text(
        'run = ["./x"]\nlevels = ["TEXT", "TOKENS"]\nprotocol = ["./x", "{threads}"]\n'
    )
    found = load(tmp_path)[0]
    assert (found.protocol, found.lines_levels) == (("./x", "{threads}"), ("TOKENS",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('levels = ["TEXT", "LOGITS"]', "line 2, key levels: has LOGITS, but there is no key protocol"),
        ('protocol = ["./x"]', "line 2, key protocol: serves no level"),
        ('levels = ["TOKENS"]\nprotocol = ["./x", "{prompt}"]', "{prompt} is no placeholder of protocol"),
    ],
)
def test_one_without_the_other_is_an_error_that_names_the_line(text, says, tmp_path):
    (tmp_path / "impl.toml").write_text(f'run = ["./x"]\n{text}\n')
    with pytest.raises(ManifestError) as caught:
        load(tmp_path)
    assert says in str(caught.value)
