"""The tokenizer check: it finds and names every known wrong tokenizer, and nothing in a right one."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import formats
from harness.__main__ import main
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import load as load_manifests
from harness.conformance.tokenizer_check import check_by_text, check_tokenizer, shrink
from harness.conformance.tokenizer_sides import File
from harness.errors import Refused, TimedOut, TokenizerError, Unsupported
from harness.formats import WriteOptions
from harness.models import impls_dir, load, locate
from harness.results import Kind
from harness.tokenizer import ByteLevelTokenizer, write_any
from harness.tokenizer.bpe import HONEST, KNOWN_WRONG
from harness.tokenizer.byte_level import LLAMA3
from harness.tokenizer.hard_texts import hard_texts, long_text
from tests.line_miniatures import PROGRAM

FILES = locate("gqa")
TOKENIZER = load(FILES.checkpoint, FILES.tokenizer).tokenizer
WRONG = next(rules for name, _, rules in KNOWN_WRONG if name == "no-dummy-prefix")
N = 2800  # all the fixed texts of this vocabulary, and some mixtures


class Port:
    """A tokenizer in this process, by other rules."""

    def __init__(self, rules=HONEST, decode=TOKENIZER.decode):
        self.rules = rules
        self.decode = decode

    def encode(self, text, *, bos=True, eos=False):
        try:
            return TOKENIZER.encode(text, bos=bos, eos=eos, rules=self.rules)
        except TokenizerError as error:
            raise Refused(str(error)) from error


def test_a_right_tokenizer_has_nothing_wrong():
    found = check_tokenizer(Port(), TOKENIZER, n_texts=N)
    assert found.verdict is Kind.EXACT
    assert (found.n_texts, found.n_decoded, found.examples) == (N, N, [])
    kinds = ["empty", "piece", "byte", "special", "normalisation", "words", "mixture"]
    assert {*kinds, "UTF-8 boundary", "white space", "merge order", "invalid UTF-8"} == set(found.by_kind)


def is_told_apart(rules):
    """Whether any hard text of this vocabulary shows these rules."""
    texts = [text for _, (_, text) in zip(range(N), hard_texts(TOKENIZER), strict=False)]

    def ids(text, rules):
        try:
            return TOKENIZER.encode(text, rules=rules)
        except TokenizerError:
            return None

    return any(ids(text, rules) != ids(text, HONEST) for text in texts)


@pytest.mark.parametrize(("name", "rules"), [(name, rules) for name, _, rules in KNOWN_WRONG])
def test_each_known_wrong_tokenizer_is_found_and_named(name, rules):
    found = check_tokenizer(Port(rules), TOKENIZER, n_texts=N)
    if name in {"floor-1e9"}:  # no piece of this vocabulary has such a score
        assert not is_told_apart(rules)
        return
    assert found.verdict is Kind.MISMATCH
    assert f"({name})" in found.encode_cause
    assert found.examples
    for example in found.examples:
        assert example.actual != example.expected


def test_a_wrong_tokenizer_of_no_known_kind_is_not_put_down_to_one():
    class Swaps(Port):
        def encode(self, text, *, bos=True, eos=False):
            ids = super().encode(text, bos=bos, eos=eos)
            return ids[:1] + ids[:0:-1]

    found = check_tokenizer(Swaps(), TOKENIZER, n_texts=1500)
    assert (found.verdict, found.encode_cause) == (Kind.MISMATCH, "")


def test_examples_are_shrunk_to_a_few_bytes():
    rules = next(rules for name, _, rules in KNOWN_WRONG if name == "ties-right")
    found = check_tokenizer(Port(rules), TOKENIZER, n_texts=N)
    assert min(len(example.text) for example in found.examples) <= 4


@pytest.mark.parametrize(
    ("decode", "says"),
    [
        (lambda ids: TOKENIZER.decode(ids).decode("utf-8", "replace").encode(), ""),
        (lambda ids: TOKENIZER.decode(ids).lstrip(b" "), "all leading spaces are dropped"),
        (lambda ids: b"".join(TOKENIZER.pieces[i] for i in ids[1:]).removeprefix(b" "), "spelt out"),
    ],
)
def test_a_wrong_decoder_is_found_and_named_where_it_is_known(decode, says):
    found = check_tokenizer(Port(decode=decode), TOKENIZER, n_texts=1500)
    assert (found.verdict, found.encode_wrong) == (Kind.MISMATCH, 0)
    assert says in found.decode_cause
    assert len({example.ids for example in found.examples}) == len(found.examples)


def test_a_program_without_an_encoder_is_unsupported():
    class Mute(Port):
        def encode(self, text, *, bos=True, eos=False):
            raise Unsupported("does not offer encode")

    found = check_tokenizer(Mute(), TOKENIZER, n_texts=50)
    assert (found.verdict, found.unsupported, found.n_decoded) == (Kind.UNSUPPORTED, ("encode",), 50)


@pytest.mark.parametrize(("power", "is_so"), [(2, True), (1, False)])
def test_quadratic_time_is_reported(power, is_so):
    now = 0.0

    class Slow(Port):
        def encode(self, text, *, bos=True, eos=False):
            nonlocal now
            now += 2.0 * (len(text) / 16_000) ** power
            return super().encode(text, bos=bos, eos=eos)

    found = check_tokenizer(Slow(), TOKENIZER, n_texts=5, clock=lambda: now)
    assert found.is_quadratic is is_so
    assert found.exponent == pytest.approx(power, abs=0.02)


def test_quadratic_time_is_not_hidden_by_what_every_request_costs():
    now = 0.0

    class Slow(Port):
        def encode(self, text, *, bos=True, eos=False):
            nonlocal now
            share = len(text) / 16_000
            now += 0.3 * share**2 + 0.02 * share + 0.002
            return super().encode(text, bos=bos, eos=eos)

    assert check_tokenizer(Slow(), TOKENIZER, n_texts=5, clock=lambda: now).is_quadratic


@pytest.mark.parametrize(("rules", "verdict"), [(HONEST, Kind.TIMED_OUT), (WRONG, Kind.MISMATCH)])
def test_a_long_text_that_takes_too_long_loses_nothing_that_was_found(rules, verdict):
    now = 0.0

    class Slow(Port):
        def encode(self, text, *, bos=True, eos=False):
            nonlocal now
            now += 20.0 * (len(text) / 8_000) ** 2
            if len(text) >= 8_000:
                raise TimedOut("did not answer within 10 s")
            return super().encode(text, bos=bos, eos=eos)

    found = check_tokenizer(Slow(rules), TOKENIZER, n_texts=N, clock=lambda: now)
    assert (found.verdict, found.late_bytes, found.n_texts) == (verdict, 8_000, N)
    assert found.exponent == pytest.approx(2, abs=0.02)
    assert bool(found.encode_cause) is (rules is WRONG)


def test_texts_are_the_same_for_a_seed_and_hold_no_nul():
    def some(seed):
        return [text for _, text in zip(range(6000), hard_texts(TOKENIZER, seed=seed), strict=False)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert not [text for _, text in some(3) if 0 in text]
    assert len(long_text(2000)) >= 2000


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=3))
def test_a_shrunk_text_is_still_wrong_and_nothing_can_be_left_out(text, needle):
    whole = text + needle
    least = shrink(whole, lambda one: needle in one)
    assert least == needle


# impls/numpy's program with the encoder of a known wrong tokenizer.
WRONG_PROGRAM = """\
import os, sys
sys.path[:0] = [{numpy!r}]
import run
from harness.tokenizer import Tokenizer
from harness.tokenizer.bpe import KNOWN_WRONG
rules = {{name: rules for name, _, rules in KNOWN_WRONG}}.get({name!r})
honest = Tokenizer.encode
if rules is not None:
    Tokenizer.encode = lambda self, text, **options: honest(self, text, **options, rules=rules)
run.main([os.fsencode(word) for word in sys.argv[1:]])
"""


def text_only(tmp_path, name):
    (tmp_path / "wrong.py").write_text(WRONG_PROGRAM.format(numpy=str(impls_dir() / "numpy"), name=name))
    flags = '"-z", "{tokenizer}", "-t", "{temperature}", "-n", "{steps}", "-i", "{prompt}"'
    (tmp_path / "impl.toml").write_text(f'run = ["{{python}}", "{{src}}/wrong.py", "{{model}}", {flags}]\n')
    return ProcessImplementation(load_manifests(tmp_path)[0])


@pytest.mark.parametrize("name", ["", "no-dummy-prefix"])
def test_a_program_that_only_prints_is_checked_in_part(name, tmp_path):
    verdicts = check_by_text(text_only(tmp_path, name), FILES, n_texts=10)
    assert len(verdicts) >= 9
    wrong = [verdict for verdict in verdicts if verdict.tokenizer is Kind.MISMATCH]
    if not name:
        assert all(verdict.kind.is_green for verdict in verdicts)
        return
    assert len(wrong) >= 5
    assert any(f"({name})" in verdict.reason for verdict in wrong)


def test_the_command_line_says_that_such_a_check_is_partial(tmp_path, capsys):
    text_only(tmp_path, "")
    assert main(["tokenizer", str(tmp_path / "impl.toml"), "--texts", "6"]) == 0
    assert "EXACT, partial: " in capsys.readouterr().out


def test_the_command_line_names_the_cause(capsys, tmp_path):
    assert main(["tokenizer", "numpy", "--texts", "300"]) == 0
    assert capsys.readouterr().out.startswith("numpy on gqa: EXACT: 300 texts")
    assert main(["tokenizer", f"{sys.executable} {PROGRAM} exits_at_generate", "--texts", "300"]) == 1
    assert "PROTOCOL: expected the model's vocab_size" in capsys.readouterr().out
    assert main(["tokenizer", f"{sys.executable} {PROGRAM} mute", "--timeout-s", "0.3"]) == 1
    assert "TIMED_OUT" in capsys.readouterr().out


# ---- any two


@pytest.fixture(scope="module")
def formats_of_gqa(tmp_path_factory):
    """The embedded tokenizer in other formats."""
    directory = tmp_path_factory.mktemp("formats")
    write_any(TOKENIZER, directory / "gqa.model")
    model = load(FILES.checkpoint, FILES.tokenizer)
    formats.write(model.checkpoint, directory / "gqa.gguf", options=WriteOptions(tokenizer=TOKENIZER))
    (directory / "dir").mkdir()
    write_any(TOKENIZER, directory / "dir" / "tokenizer.model")
    return directory


@pytest.mark.parametrize("name", ["gqa.model", "gqa.gguf", "dir"])
def test_a_file_of_any_format_is_compared_and_the_one_rule_in_which_they_differ_named(name, formats_of_gqa, capsys):
    # SentencePiece takes a literal U+2581 for a space, llama2.c does not; so does GGUF, which follows it.
    file = str(formats_of_gqa / name)
    assert main(["tokenizer", file, "--against", str(FILES.tokenizer), "--texts", str(N)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(f"{name} against gqa-tok.bin: MISMATCH: 2,800 texts")
    assert "a literal U+2581 is taken for a space (meta-space)" in shown
    assert "vocabulary" not in shown
    assert main(["tokenizer", str(FILES.tokenizer), "-z", file, "--texts", str(N)]) == 1
    assert "as llama2.c's programs do (llama2.c)" in capsys.readouterr().out
    assert main(["tokenizer", file, "-z", str(formats_of_gqa / "gqa.model"), "--texts", "900"]) == 0
    assert "EXACT" in capsys.readouterr().out


def test_a_file_is_compared_with_a_models_own_and_other_pieces_are_told(formats_of_gqa, capsys):
    assert main(["tokenizer", str(FILES.tokenizer), "--texts", "300"]) == 0
    assert capsys.readouterr().out.startswith("gqa-tok.bin on gqa: EXACT")
    other = str(locate("mha").tokenizer)
    assert main(["tokenizer", other, "-z", str(formats_of_gqa / "gqa.model"), "--texts", "300"]) == 1
    assert "  vocabulary: 397 pieces, expected 512\n" in capsys.readouterr().out


def test_a_program_is_compared_with_a_file_and_with_another_program(formats_of_gqa, capsys):
    assert main(["tokenizer", "numpy", "-z", str(FILES.tokenizer), "--texts", "100"]) == 0
    assert capsys.readouterr().out.startswith("numpy against gqa-tok.bin on gqa: EXACT")
    assert main(["tokenizer", "numpy", "-z", str(formats_of_gqa / "gqa.model"), "--texts", str(N)]) == 1
    assert "as llama2.c's programs do (llama2.c)" in capsys.readouterr().out
    assert main(["tokenizer", "numpy", "--against", "numpy", "--texts", "100"]) == 0
    assert capsys.readouterr().out.startswith("numpy against numpy on gqa: EXACT")


def test_byte_level_vocabularies_are_compared_too():
    pytest.importorskip("regex")
    pieces = (*(bytes((byte,)) for byte in range(256)), b"on", b" up", b"aa", b"aaa", b"<|end|>")
    ours = ByteLevelTokenizer(pieces, frozenset({260}), (LLAMA3,))
    assert check_tokenizer(File(ours), ours, n_texts=1500).verdict is Kind.EXACT
    by_rank = replace(ours, pieces=(*pieces[:256], b"aaa", *pieces[257:259], b"on", b"<|end|>"))
    found = check_tokenizer(File(by_rank), ours, n_texts=1500)
    assert (found.verdict, found.encode_cause) == (Kind.MISMATCH, "")


def test_texts_that_are_few_come_before_those_that_are_many():
    kinds = [kind for _, (kind, _) in zip(range(1800), hard_texts(TOKENIZER), strict=False)]
    assert {"byte", "words", "invalid UTF-8", "piece", "merge order"} <= set(kinds[:1200])


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    assert main(["tokenizer", str(text_only(tmp_path, "").manifest.path), "-z", "numpy"]) == 2
    assert "only prints text" in capsys.readouterr().err
    assert main(["tokenizer", "numpy", "-z", str(text_only(tmp_path, "").manifest.path)]) == 2
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert main(["tokenizer", str(tmp_path / "empty")]) == 2
    assert "no tokenizer is in this directory" in capsys.readouterr().err
    assert main(["tokenizer", str(FILES.checkpoint)]) == 2
    assert "not a llama2.c tokenizer" in capsys.readouterr().err
    bare = tmp_path / "bare.gguf"
    formats.write(load(FILES.checkpoint, FILES.tokenizer).checkpoint, bare)
    assert main(["tokenizer", str(bare)]) == 2
    assert "no tokenizer is in this gguf file" in capsys.readouterr().err
