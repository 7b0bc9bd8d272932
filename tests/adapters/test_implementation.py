"""The door: requests in, observations out; names, paths and command lines in, implementations out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.adapters.implementation import ProcessImplementation, from_command, resolve
from harness.adapters.manifest import load
from harness.adapters.process import Limits
from harness.errors import BuildFailed, Crashed, InputError, TimedOut
from harness.results import Request

# Prints, as JSON, all that it was told.
ECHO = """\
import json, os, sys
print(json.dumps({
    "argv": [os.fsencode(a).decode("latin-1") for a in sys.argv[1:]], "cwd": os.getcwd(),
    "stdin": sys.stdin.buffer.read().decode("latin-1"), "env": dict(os.environ),
    "files": {n: os.path.realpath(n) for n in sorted(os.listdir("."))},
}))
print("achieved tok/s: 123.5", file=sys.stderr)
"""


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    (tmp_path / "model.bin").write_text("model")
    (tmp_path / "tok.bin").write_text("tokenizer")
    return Request(tmp_path / "model.bin", tmp_path / "tok.bin", prompt=b"Once upon")


def made(tmp_path: Path, text: str, name: str = "echo") -> ProcessImplementation:
    directory = tmp_path / "impls" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "echo.py").write_text(ECHO)
    (directory / "impl.toml").write_text(text)
    return ProcessImplementation(load(directory)[0])


def said(implementation: ProcessImplementation, request: Request) -> dict[str, Any]:
    seen = implementation.run(request)
    assert seen.failure is None, seen.failure.stderr_tail
    found: dict[str, Any] = json.loads(seen.stdout)
    return found


def changed(request: Request, **changes: Any) -> Request:
    import dataclasses

    return dataclasses.replace(request, **changes)


def test_a_template_is_filled_in_from_the_request(tmp_path: Path, request_: Request) -> None:
    text = (
        'run = ["{python}", "{src}/echo.py", "{model}", "{tokenizer}", "{steps}", "{temperature}", "{topp}",'
        ' "{seed}", "{threads}", "{prompt}", "{out}", "{work}"]\n'
    )
    implementation = made(tmp_path, text)
    request = changed(request_, steps=7, temperature=0.0, topp=0.95, seed=42, threads=3, prompt=b"a \xff {b}\n'c")
    found = said(implementation, request)
    src = str(tmp_path / "impls" / "echo")
    assert found["argv"][:-1] == [
        *(str(tmp_path / "model.bin"), str(tmp_path / "tok.bin"), "7", "0.0", "0.95", "42", "3"),
        *("a \xff {b}\n'c", src),
    ]
    assert found["argv"][-1] == found["cwd"]
    assert not os.path.exists(found["cwd"])
    assert found["env"]["OMP_NUM_THREADS"] == "3"


def test_a_program_may_be_named_by_a_variable_relative_to_where_we_are(
    tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'run = ["{env:PROGRAM}", "{env:WORD}", "{model}"]\nenv.SEEN = "{env:WORD}!"\n'
    implementation = made(tmp_path, text)
    program = tmp_path / "impls" / "echo" / "echo.py"
    program.write_text(f"#!{sys.executable}\n{ECHO}")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGRAM", "impls/echo/echo.py")
    monkeypatch.setenv("WORD", "{model}")
    found = said(implementation, request_)
    assert found["argv"] == ["{model}", str(tmp_path / "model.bin")]
    assert found["env"]["SEEN"] == "{model}!"
    assert implementation.command(request_)[0] == str(program)


@pytest.mark.parametrize(("temperature", "text"), [(0.0, "0.0"), (1, "1.0"), (0.1, "0.1"), (float("inf"), "inf")])
def test_temperature_is_the_shortest_that_reads_back(
    temperature: float, text: str, tmp_path: Path, request_: Request
) -> None:
    implementation = made(tmp_path, 'run = ["{python}", "{src}/echo.py", "{temperature}"]')
    assert said(implementation, changed(request_, temperature=temperature))["argv"] == [text]


@pytest.mark.parametrize(("prompt", "argv"), [(b"Hi", ["-i", "Hi"]), (b"", []), (None, [])])
def test_prompt_arguments_are_left_out_without_a_prompt(
    prompt: bytes | None, argv: list[str], tmp_path: Path, request_: Request
) -> None:
    implementation = made(tmp_path, 'run = ["{python}", "{src}/echo.py", "{prompt_args}"]')
    assert said(implementation, changed(request_, prompt=prompt))["argv"] == argv


def test_a_chat_has_a_command_of_its_own(tmp_path: Path, request_: Request) -> None:
    text = (
        'run = ["x"]\nmodes = ["generate", "chat"]\nsystem_args = ["--sys={system}"]\n'
        'chat = ["{python}", "{src}/echo.py", "{system_args}", "{prompt_args}"]'
    )
    implementation = made(tmp_path, text)
    chat = changed(request_, mode="chat", stdin=b"hello\n", prompt=b"")
    assert said(implementation, chat)["argv"] == ["-i", ""]
    both = said(implementation, changed(chat, prompt=None, system=b"be kind"))
    assert (both["argv"], both["stdin"]) == (["--sys=be kind"], "hello\n")


def test_a_program_without_chat_cannot_be_asked_to(tmp_path: Path, request_: Request) -> None:
    with pytest.raises(InputError, match="has no chat"):
        made(tmp_path, 'run = ["x"]').run(changed(request_, mode="chat"))


def test_input_files_and_environment_are_laid_out(tmp_path: Path, request_: Request) -> None:
    text = (
        'run = ["{python}", "{src}/echo.py", "{model_dir}"]\nstdin = "{prompt}\\n"\n'
        '[env]\nSEED = "{seed}"\nOMP_NUM_THREADS = "9"\n'
        '[files]\n"tokenizer.bin" = "{tokenizer}"\n"models/stories.bin" = "{model}"\n'
        '[model_dir]\n"checkpoint_v1.bin" = "{model}"\n'
    )
    found = said(made(tmp_path, text), request_)
    assert found["stdin"] == "Once upon\n"
    assert (found["env"]["SEED"], found["env"]["OMP_NUM_THREADS"]) == ("1", "9")
    assert list(found["files"]) == ["model", "models", "tokenizer.bin"]
    assert found["files"]["tokenizer.bin"] == str(tmp_path / "tok.bin")
    assert found["argv"] == [found["files"]["model"]]


def test_a_program_may_run_in_its_own_directory(tmp_path: Path, request_: Request) -> None:
    found = said(made(tmp_path, 'run = ["{python}", "echo.py"]\ncwd = "{src}"'), request_)
    assert found["cwd"] == str(tmp_path / "impls" / "echo")


def test_its_own_speed_is_recorded(tmp_path: Path, request_: Request) -> None:
    implementation = made(tmp_path, 'run = ["{python}", "{src}/echo.py"]\ntps = \'tok/s: ([0-9.]+)\'')
    assert implementation.run(request_).reported_tps == 123.5


def test_a_model_is_prepared_once(tmp_path: Path, request_: Request) -> None:
    text = (
        'run = ["{python}", "{src}/echo.py", "{model}"]\n'
        'prepare = ["/bin/sh", "-c", "echo x >> {src}/count; mkdir $0; cp $1 $0/weights", "{out}", "{v0}"]'
    )
    implementation = made(tmp_path, text)
    first, second = said(implementation, request_)["argv"], said(implementation, request_)["argv"]
    assert first == second
    assert Path(first[0], "weights").read_text() == "model"
    assert implementation.prepare(request_.model, request_.tokenizer) == Path(first[0])
    assert (tmp_path / "impls" / "echo" / "count").read_text() == "x\n"
    del implementation
    assert not os.path.exists(first[0])


def test_a_model_that_cannot_be_prepared_is_the_programs_failure(tmp_path: Path, request_: Request) -> None:
    text = 'run = ["x"]\nprepare = ["/bin/sh", "-c", "echo bad weights >&2; exit 5"]'
    seen = made(tmp_path, text).run(request_)
    assert isinstance(seen.failure, Crashed)
    assert (seen.exit_code, seen.stderr_tail) == (5, "bad weights\n")


def test_a_failed_build_is_an_observation_and_is_not_tried_again(
    tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    text = f'run = ["x"]\nbuild = ["/bin/sh", "-c", "echo x >> {tmp_path}/count; echo oh >&2; exit 1"]'
    implementation = made(tmp_path, text)
    for _ in range(2):
        seen = implementation.run(request_)
        assert isinstance(seen.failure, BuildFailed)
        assert (seen.stderr_tail, seen.command[:2]) == ("oh", ("/bin/sh", "-c"))
    assert (tmp_path / "count").read_text() == "x\n"


def test_limits_come_from_the_caller_or_else_from_the_manifest(tmp_path: Path, request_: Request) -> None:
    implementation = made(tmp_path, 'run = ["sleep", "10"]\ntimeout_s = 0.2')
    failure = implementation.run(request_).failure
    assert isinstance(failure, TimedOut)
    assert failure.limit == 0.2
    failure = implementation.run(request_, Limits(time_s=0.1)).failure
    assert isinstance(failure, TimedOut)
    assert failure.limit == 0.1


def test_a_missing_model_is_the_callers_error_where_it_must_be_prepared(tmp_path: Path, request_: Request) -> None:
    implementation = made(tmp_path, 'run = ["x"]\nprepare = ["true"]')
    with pytest.raises(InputError, match="No such file"):
        implementation.run(changed(request_, model=tmp_path / "nowhere"))


# ---- what a user may write


@pytest.fixture
def impls(tmp_path: Path) -> Path:
    made(tmp_path, 'run = ["x"]\n[variant.zig-fast]\nprecision = "f16"', "zig")
    made(tmp_path, 'run = ["x"]', "node")
    return tmp_path / "impls"


def script(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{ECHO}")
    path.chmod(0o755)
    return path


def test_names_variants_and_all_are_found(impls: Path) -> None:
    assert [found.name for found in resolve("zig", impls)] == ["zig"]
    assert [found.manifest.precision for found in resolve("zig-fast", impls)] == ["f16"]
    assert [found.name for found in resolve("all", impls)] == ["node", "zig", "zig-fast"]


def test_an_alternate_build_is_not_among_all(tmp_path: Path, impls: Path) -> None:
    made(tmp_path, 'run = ["x"]\n[variant.node-slow]\nalternate = true', "node")
    assert [found.name for found in resolve("all", impls)] == ["node", "zig", "zig-fast"]
    assert [found.name for found in resolve("alternates", impls)] == ["node-slow"]


def test_a_manifest_is_found_by_its_path_or_its_directorys(impls: Path) -> None:
    for spec in (impls / "zig", impls / "zig" / "impl.toml"):
        assert [found.name for found in resolve(str(spec), impls)] == ["zig", "zig-fast"]


def test_a_program_is_taken_to_have_the_flags_of_llama2c(tmp_path: Path, impls: Path, request_: Request) -> None:
    program = script(tmp_path / "my{port}" / "run")
    (found,) = resolve(str(program), impls)
    assert found.name == "run"
    argv = said(found, request_)["argv"]
    assert argv == [
        *(str(request_.model), "-z", str(request_.tokenizer), "-t", "0.0", "-p", "0.9", "-s", "1", "-n", "256"),
        *("-i", "Once upon"),
    ]


def test_a_program_beside_a_manifest_is_that_manifests(tmp_path: Path, impls: Path) -> None:
    program = script(impls / "zig" / "run")
    assert [found.name for found in resolve(str(program), impls)] == ["zig", "zig-fast"]


def test_a_command_line_may_start_with_an_interpreter(
    tmp_path: Path, impls: Path, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "ports" / "llama.py")
    monkeypatch.chdir(tmp_path)
    (found,) = resolve(f"{sys.executable} ports/llama.py --fast", impls)
    assert found.name == "llama.py"
    assert said(found, request_)["argv"][:2] == ["--fast", str(request_.model)]


def test_an_unknown_name_lists_the_known_ones_the_nearest_first(impls: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve("zigg", impls)
    assert caught.value.hint == "did you mean zig or zig-fast? known are: zig, zig-fast, node"
    with pytest.raises(InputError, match="known are: node, zig, zig-fast"):
        resolve("./nothing/here", impls)


def test_what_is_there_but_cannot_be_run_says_why(tmp_path: Path, impls: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    with pytest.raises(InputError, match=r"is not executable; chmod \+x"):
        resolve(str(plain), impls)
    with pytest.raises(InputError, match=r"has no impl\.toml"):
        resolve(str(tmp_path), impls)
    with pytest.raises(InputError, match="No closing quotation"):
        resolve("run 'x", impls)


def test_a_program_that_is_nowhere_cannot_be_made_an_implementation() -> None:
    with pytest.raises(InputError, match="no such program"):
        from_command(["no-such-program", "x"])
