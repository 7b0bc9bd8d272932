"""Every fake port in tests/shapes is adopted, and does what its manifest says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest, load
from harness.adapters.toolchain import find, tool
from harness.conformance.adopt import Outcome, adopt, default_path, limits, search
from harness.conformance.adopt.options import Option, file_names, mine, mine_program, role_of
from harness.conformance.adopt.reading import Oracle, read
from harness.conformance.adopt.shapes import FLAGS, common_shapes, mined_shapes, with_files
from harness.errors import InputError
from harness.models import impls_dir, locate, prepare
from harness.models import load as load_model
from harness.results import Request

SHAPES = Path(__file__).parent.parent / "shapes"
FLAG_WORDS = ["{model}", "-z", "{tokenizer}", "-t", "{temperature}", "-p", "{topp}", "-s", "{seed}", "-n", "{steps}"]
FLAG_WORDS += ["{prompt_args}"]

# Port -> the keys of its manifest that matter; `run` is what follows the script.
FOUND = {
    "llama2c_flags": {"run": FLAG_WORDS, "files": {}, "stdin": "", "echo": "prompt"},
    "positional": {
        "run": ["{model}", "{temperature}", "{steps}", "{prompt}"],
        "files": {"tokenizer.bin": "{tokenizer}"},
        "stdin": "",
    },
    "no_prompt": {"run": ["{model}", "{temperature}", "{steps}"], "files": {"tokenizer.bin": "{tokenizer}"}},
    "equals_stdin": {
        "run": {
            "--checkpoint_path={model}",
            "--tokenizer_path={tokenizer}",
            "--temperature={temperature}",
            "--topp={topp}",
            "--max_steps={steps}",
        },
        "files": {},
        "stdin": "{prompt}\n",
    },
    "directory_v1": {
        "formats": ("llama2c-v1",),
        "model_dir": {"checkpoint_v1.bin": "{model}", "tokenizer.bin": "{tokenizer}"},
        "prompt_args": ("--prompt", "{prompt}"),
        "stdin": "",
        "files": {},
    },
    "colon": {
        "run": {"-m:{model}", "-k:{tokenizer}", "-t:{temperature}", "-n:{steps}", "{prompt_args}"},
        "prompt_args": ("-q:{prompt}",),
        "files": {},
    },
    "go_style": {"prompt_args": ("-prompt", "{prompt}"), "last": "{model}", "files": {}, "stdin": ""},
    "stdin_prompt": {"run": ["{model}", "{tokenizer}"], "stdin": "{prompt}\n", "echo": "none", "files": {}},
    "hardcoded": {"run": [], "files": {"stories15M.bin": "{model}", "tokenizer.bin": "{tokenizer}"}, "stdin": ""},
    "weights": {
        "run": ["-w", "{model}", "-t", "{tokenizer}", "--seqlength", "{steps}", "{prompt_args}"],
        "prompt_args": ("-i", "{prompt}"),
    },
    "odd_names": {
        "run": {
            *("--llm-file", "{model}", "--pieces", "{tokenizer}", "--how-many", "{steps}"),
            *("--heat", "{temperature}", "--dice", "{seed}", "{prompt_args}"),
        },
        "prompt_args": ("--begin-with", "{prompt}"),
    },
    "v1_only": {"formats": ("llama2c-v1",), "run": FLAG_WORDS},
    "v2_only": {"formats": ("llama2c-v2",), "run": FLAG_WORDS, "precision": "q8"},
    "no_gqa": {"run": FLAG_WORDS, "mha": True},
    "tokenizer_no_max": {"run": FLAG_WORDS, "tokenizer_layout": "no-max"},
    "tokenizer_no_scores": {"run": FLAG_WORDS, "tokenizer_layout": "no-scores"},
}
WITHOUT_PROMPT = {"no_prompt", "hardcoded"}


def script(name):
    return [sys.executable, str(SHAPES / f"{name}.py")]


@pytest.fixture(scope="module")
def oracles():
    return {
        name: Oracle(load_model(files.checkpoint, files.tokenizer))
        for name in ("gqa", "gqa-q8")
        for files in [locate(name)]
    }


@pytest.mark.parametrize("name", FOUND)
def test_a_port_of_each_shape_is_adopted_and_its_manifest_reproduces_the_reference(name, tmp_path, oracles):
    path = tmp_path / "impl.toml"
    found = adopt(script(name), path=path)
    assert found.outcome is Outcome.REPRODUCES
    path.write_text(found.manifest_toml)
    (manifest,) = load(path)
    arguments = list(manifest.run[2:])
    for key, wanted in FOUND[name].items():
        if key == "run":
            assert (set(arguments) if isinstance(wanted, set) else arguments) == wanted
        elif key == "last":
            assert arguments[-1] == wanted
        else:
            assert getattr(manifest.needs if hasattr(manifest.needs, key) else manifest, key) == wanted
    assert any(one.key == "run" for one in found.evidence)

    assert_reproduces(manifest, oracles, tmp_path, prompt=b"" if name in WITHOUT_PROMPT else b"Ben")


def assert_reproduces(manifest, oracles, tmp_path, prompt):
    model = "gqa-q8" if manifest.precision == "q8" else "gqa"
    files = prepare(
        locate(model),
        format=manifest.formats[0],
        mha=manifest.needs.mha,
        tokenizer_layout=manifest.needs.tokenizer_layout or "today",
        out_dir=tmp_path / "models",
    )
    seen = ProcessImplementation(manifest).run(Request(files.checkpoint, files.tokenizer, prompt, 26))
    assert seen.failure is None
    assert read(seen.stdout, oracles[model].expect(prompt, 26)).is_right


@pytest.fixture
def interpreted(tmp_path):
    """The command that runs a port of a language: an interpreter, its options, and the script or class."""

    def command(language):
        if language == "JavaScript":
            return [*tool("node"), str(SHAPES / "port.js")]
        java, javac = find("java"), find("javac")
        if java is None or javac is None:
            pytest.skip("no Java development kit: neither java nor javac in PATH")
        subprocess.run([javac, "-d", tmp_path / "classes", SHAPES / "Port.java"], check=True)
        return [java, "-cp", str(tmp_path / "classes"), "Port"]

    return command


@pytest.mark.parametrize("language", ["JavaScript", "Java"])
def test_a_port_behind_another_interpreter_is_adopted(language, interpreted, tmp_path, oracles):
    command, path = interpreted(language), tmp_path / "impl.toml"
    found = adopt(command, path=path)
    assert found.outcome is Outcome.REPRODUCES
    path.write_text(found.manifest_toml)
    (manifest,) = load(path)
    assert manifest.language == language
    assert list(manifest.run[len(command) :]) == FLAG_WORDS
    if language == "Java":  # classes lie beside the manifest, so that both can be moved together
        assert manifest.run[1:4] == ("-cp", "{src}/classes", "Port")
    assert_reproduces(manifest, oracles, tmp_path, prompt="Zoë".encode())


def test_a_buggy_port_is_adopted_with_what_its_output_depends_on(tmp_path):
    found = adopt(script("rope_halves"), path=tmp_path / "impl.toml")
    assert found.outcome is Outcome.DIFFERS
    assert "another model gives another text; another prompt is echoed in its place" in found.manifest_toml
    assert "run harness check" in found.manifest_toml
    (tmp_path / "impl.toml").write_text(found.manifest_toml)
    (manifest,) = load(tmp_path / "impl.toml")
    assert list(manifest.run[2:]) == FLAG_WORDS
    assert not manifest.needs.mha


def test_a_port_that_is_wrong_in_float32_does_not_pass_for_an_int8_one(tmp_path):
    """It reads both files, and the first tokens of its int8 text are right: float32 is what has to be judged."""
    source = (impls_dir() / "c" / "run.c").read_text()
    assert "10000.0f" in source
    (tmp_path / "run.c").write_text(source.replace("10000.0f", "1000.0f"))
    command = [*tool("cc"), "-O2", "-std=gnu11", f"-I{impls_dir() / 'c'}", "-o", "run", "run.c", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = adopt([str(tmp_path / "run")], path=tmp_path / "impl.toml")
    assert found.outcome is Outcome.DIFFERS
    (tmp_path / "impl.toml").write_text(found.manifest_toml)
    (manifest,) = load(tmp_path / "impl.toml")
    assert manifest.formats == ("llama2c-v0",)
    assert manifest.precision == "f32"
    assert list(manifest.run[1:]) == FLAG_WORDS


@pytest.mark.parametrize("name", ["chatter", "hopeless"])
def test_a_program_that_runs_no_model_is_not_adopted(name, tmp_path):
    found = adopt(script(name), path=tmp_path / "impl.toml")
    assert found.outcome is Outcome.NOT_FOUND
    assert found.manifest_toml == ""
    assert found.promising is not None
    assert len({trial.shape for trial in found.trials}) > 20


# ---- evidence


@pytest.mark.parametrize("budget_s", [60.0, 0.0], ids=["in time", "on a machine that is far too slow"])
def test_steps_that_leave_out_the_prompt_and_a_doubled_text_are_noted(budget_s, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "BUDGET_S", budget_s)
    told = " ".join(one.text for one in adopt(script("equals_stdin"), path=tmp_path / "impl.toml").evidence)
    assert "printed again" in told
    assert "No option was found for: seed" in told


def test_a_port_that_refuses_to_sample_is_greedy_only(tmp_path):
    port = tmp_path / "port.py"
    port.write_text(
        f'import sys\nsys.path.insert(0, "{SHAPES}")\nimport tiny_llama\n'
        'if float(sys.argv[sys.argv.index("-t") + 1]):\n    sys.exit("greedy only: -t 0")\n'
        "tiny_llama.flags(tiny_llama.USAGE)\n"
    )
    found = adopt([sys.executable, str(port)], path=tmp_path / "impl.toml")
    assert any(one.key == "greedy_only" and one.text.endswith("greedy only: -t 0") for one in found.evidence)
    (tmp_path / "impl.toml").write_text(found.manifest_toml)
    assert load(tmp_path / "impl.toml")[0].greedy_only


def test_the_command_line_of_a_manifest_is_relative_to_it(tmp_path):
    for name in ("llama2c_flags.py", "tiny_llama.py"):
        shutil.copy(SHAPES / name, tmp_path)
    command = [sys.executable, str(tmp_path / "llama2c_flags.py")]
    assert default_path(command) == tmp_path / "impl.toml"
    assert "{src}/llama2c_flags.py" in adopt(command).manifest_toml


# ---- the command


def test_the_command_writes_the_manifest_once_and_says_what_comes_next(tmp_path, capsys):
    for name in ("llama2c_flags.py", "tiny_llama.py"):
        shutil.copy(SHAPES / name, tmp_path)
    command = ["adopt", "--quiet", f"{sys.executable} {tmp_path / 'llama2c_flags.py'}"]
    assert main(command) == 0
    target = tmp_path / "impl.toml"
    assert f"next: harness check {target}" in capsys.readouterr().out
    before = target.read_bytes()
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".toml") == ["impl.toml"]


def test_the_command_shows_what_it_tried_where_nothing_works(tmp_path, capsys):
    assert main(["adopt", "--quiet", "--out", str(tmp_path / "x.toml"), *script("hopeless")]) == 1
    printed = capsys.readouterr().out
    assert "positional MODEL TEMPERATURE STEPS PROMPT" in printed
    assert "configuration error 17" in printed
    assert not (tmp_path / "x.toml").exists()


def test_a_program_that_cannot_be_started_is_exit_status_2(tmp_path, capsys):
    assert main(["adopt", "--quiet", "--out", str(tmp_path / "x.toml"), str(tmp_path / "nothing")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "cannot be started" in printed.err
    assert main(["adopt", ""]) == 2
    assert "expected a program" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such script"):
        adopt(["python", str(tmp_path / "nothing.py")])


def test_an_output_without_end_and_a_program_that_hangs_are_given_up_on(tmp_path):
    hang = tmp_path / "hang"
    hang.write_text("#!/bin/sh\nsleep 60\n")
    hang.chmod(0o755)
    found = adopt([str(hang)], limits=limits(0.05))
    assert found.outcome is Outcome.NOT_FOUND
    assert "did not end within" in found.trials[0].outcome
    assert os.listdir(tmp_path) == ["hang"]


# ---- mining


def test_roles_are_told_by_names_metavars_and_descriptions():
    assert role_of("--max_new_tokens") == "steps"
    assert role_of("--tokenizer-model") == "tokenizer"
    assert role_of("--model_path") == "model"
    assert role_of("--prompt_length") != "model"
    assert role_of("--system-prompt") is None
    assert role_of("--mode") is None
    assert role_of("--top_k") is None
    usage = mine("options:\n  -x <file>  the checkpoint\n  -y <n>  how many steps\n  -q  help\n")
    assert usage.option("model") == Option("model", "-x")
    assert usage.option("steps") == Option("steps", "-y")


def test_a_usage_text_in_the_style_of_clap_gives_options_and_positionals():
    usage = mine(
        "Usage: main [OPTIONS] <CHECKPOINT> [PROMPT]\n\nOptions:\n"
        "  -t, --temperature <TEMPERATURE>  [default: 1]\n  -n, --n-steps <N>\n      --top-p <TOP_P>\n"
    )
    assert usage.positionals == ("model", "prompt")
    assert {option.role: option.name for option in usage.options} == {
        "temperature": "--temperature",
        "steps": "--n-steps",
        "topp": "--top-p",
    }


def test_a_usage_text_in_the_style_of_go_keeps_single_dashes():
    usage = mine(
        "Usage of ./go:\n  -checkpoint string\n    \tcheckpoint file\n  -steps int\n    \tsteps (default 256)\n"
    )
    assert [option.words() for option in usage.options] == [("-checkpoint", "{model}"), ("-steps", "{steps}")]


def test_llama2cs_own_usage_text_leads_to_its_flags():
    text = (
        "Usage:   run <checkpoint> [options]\nOptions:\n  -t <float>  temperature\n  -p <float>  p value in top-p\n"
        "  -s <int>    random seed\n  -n <int>    number of steps\n  -i <string> input prompt\n"
        "  -z <string> path to custom tokenizer\n  -m <string> mode: generate|chat\n  -y <string> system prompt\n"
    )
    shape = mined_shapes(mine(text, program=["./run"]))[0]
    assert set(shape.words) == set(FLAGS.words)
    assert shape.prompt_args == FLAGS.prompt_args


def test_options_and_file_names_are_found_in_a_program_that_explains_nothing():
    content = b'\x7fELF\0 if arg.startsWith("--checkpoint_path=") else "--temp"  open("data/models/stories15M.bin")'
    usage = mine_program(content)
    assert usage.option("model") == Option("model", "--checkpoint_path", "=")
    assert usage.option("temperature") == Option("temperature", "--temp", " ")
    assert file_names("open 'data/models/x.bin', /tmp/other.bin, ../up.bin") == ["data/models/x.bin"]


def test_every_common_shape_makes_a_valid_manifest_and_no_linked_name_is_a_directory_of_another(tmp_path):
    for shape in common_shapes():
        filled = with_files(shape, ["data", "own/weights.bin"])
        names = dict(filled.files)
        assert not any(other.startswith(name + "/") for name in names for other in names)
        Manifest(path=tmp_path / "impl.toml", name="x", run=("./x", *filled.words), files=names)


# ---- reading


def test_a_text_is_read_with_its_echo_its_count_of_positions_and_without_either(oracles):
    oracle = oracles["gqa"]
    task = oracle.task
    expected = oracle.expect(task.prompt, task.steps)
    printed = oracle.printed(oracle.ids(task.prompt, task.steps))
    right = read(b"loading...\n" + printed + b"\nachieved tok/s: 12.5\n", expected)
    assert right.is_right
    assert right.echoes
    assert read(printed, expected).positions == task.steps
    bare = read(printed[len(task.prompt) :], expected)
    assert bare.is_right
    assert not bare.echoes
    assert not read(b"", expected).is_right
    assert not read(task.prompt + b" and nothing else that the model would say, at all.\n", expected).is_right
