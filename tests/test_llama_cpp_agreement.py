"""tools/llama_cpp_agreement.py without llama.cpp: what it finds wrong, with sessions that answer as they are told."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness import formats, models
from harness.engine import Engine, generate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def agreement() -> ModuleType:
    path = ROOT / "tools" / "llama_cpp_agreement.py"
    spec = importlib.util.spec_from_file_location("llama_cpp_agreement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gqa():
    files = models.locate("gqa")
    found = formats.read(files.checkpoint)
    return Engine(found.config, found.tensors, dtype=np.float64), formats.read_tokenizer(files.tokenizer)


class Honest:
    """Answers as the reference does."""

    def __init__(self, gqa):
        self.engine, self.words = gqa

    def encode(self, text):
        return self.words.encode(text)

    def generate(self, ids, n):
        n_forced = len(ids) - 1
        return list(generate(self.engine, ids, steps=n_forced + n, stop=frozenset({1, 2})))[n_forced:]

    def logits(self, ids):
        return self.engine.logits(ids).astype(np.float32)


def compared(agreement, gqa, session, n=20):
    engine, words = gqa
    prompts = [words.encode(one) for one in (b"", b"Once upon a time")]
    found = agreement.compare_tokens(prompts, n, engine, frozenset({1, 2}), session)
    return agreement.Tokens("gqa", "float32", {"float32": 1}, *found)


def test_who_answers_as_the_reference_is_right(agreement, gqa):
    found = compared(agreement, gqa, Honest(gqa))
    assert found.is_right
    assert (found.n_tokens, found.first_other, found.n_near_ties) == (40, 0, 0)
    assert (found.largest_regret, found.same_likeliest) == (0, 1)
    assert 0 < found.largest < 1e-6  # float32


def test_one_other_token_is_found_at_its_place_with_its_regret(agreement, gqa):
    class Errs(Honest):
        def generate(self, ids, n):
            right = super().generate(ids, n)
            return [*right[:4], 9, *super().generate([*ids, *right[:4], 9], n - 5)] if len(ids) > 1 else right

    found = compared(agreement, gqa, Errs(gqa))
    assert not found.is_right
    assert (found.first_other, found.n_near_ties) == (5, 1)
    assert found.largest_regret > 0.1
    assert found.largest < 1e-6  # along what it wrote itself


def test_a_text_that_ends_early_is_another(agreement, gqa):
    class Stops(Honest):
        def generate(self, ids, n):
            return super().generate(ids, n)[:7]

    found = compared(agreement, gqa, Stops(gqa))
    assert (found.first_other, found.n_near_ties, found.is_right) == (8, 2, False)


def test_logits_that_are_shifted_are_wrong_though_all_tokens_are_right(agreement, gqa):
    class Shifted(Honest):
        def logits(self, ids):
            return super().logits(ids) + np.float32(0.1)

    found = compared(agreement, gqa, Shifted(gqa))
    assert (found.first_other, found.same_likeliest, found.is_right) == (0, 1, False)
    assert found.largest > 1e-3


def test_other_tokens_of_a_narrow_type_are_told_and_allowed(agreement):
    facts = ({"q8_0": 1}, 40, 3, 1, 1e-4, 1e-3, 0.99)
    assert agreement.Tokens("gqa", "q8_0", *facts).is_right
    assert not agreement.Tokens("gqa", "float32", *facts).is_right
    assert not agreement.Tokens("gqa", "q8_0", *facts[:5], 0.3, 0.5).is_right


def test_texts_with_other_ids_are_counted_and_those_that_are_no_unicode_apart(agreement, gqa):
    class Confused(Honest):
        def encode(self, text):
            return [1] if b"z" in text or b"\xff" in text else super().encode(text)

    texts = [b"Once", b"zoo", b"\xff", b"a\x80", "é".encode()]
    found = agreement.compare_texts("gqa", iter(texts), gqa[1], Confused(gqa))
    assert (found.n_texts, found.n_other_ids, found.n_no_unicode, found.n_no_unicode_other_ids) == (3, 1, 2, 1)
    assert found.example.startswith("b'zoo': [1] is not [1, ")
    assert not found.is_right


def test_byte_level_vocabularies_are_given_no_broken_text(agreement):
    words = formats.read_tokenizer(models.locate("llama3").tokenizer)

    class Same:
        encode = staticmethod(words.encode)

    found = agreement.compare_texts("llama3", iter([b"\xff", b"ok"]), words, Same())
    assert (found.n_texts, found.n_no_unicode, found.is_right) == (1, 0, True)


def test_without_llama_cpp_it_says_what_is_missing(agreement, capsys, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_PYTHON", raising=False)
    with pytest.raises(SystemExit):
        agreement.main([])
    assert "the python of an environment with llama-cpp-python" in capsys.readouterr().err
    assert agreement.main(["--python", "/bin/false"]) == 2
    assert capsys.readouterr().err == (
        "llama_cpp_agreement: /bin/false has no llama-cpp-python; pip install llama-cpp-python\n"
    )


def test_the_report_in_the_repository_is_rendered_from_its_figures(agreement):
    report = json.loads((ROOT / "reports" / "llama-cpp.json").read_text("utf-8"))
    assert (ROOT / "reports" / "llama-cpp.md").read_text("utf-8") == agreement.markdown(report)
