"""golden/chat/dialogs.json: dialogs and their ids by the templates of Llama 2 and Llama 3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import formats, models
from harness.tokenizer.chat import Message, dialog_ids
from tests.derived_models import published

PATH = models.golden_dir() / "chat" / "dialogs.json"
GOLDEN: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
CASES = [(template, name) for template, of in GOLDEN["templates"].items() for name in of["ids"]]


def tokenizer_of(template: str) -> Any:
    """Read the tokenizer that a template's ids are of, known by its hash."""
    name = template.partition("/")[2]
    path = published(name) if name.endswith(".bin") else models.locate(name).tokenizer
    assert models.files.sha256_of(path) == GOLDEN["templates"][template]["tokenizer_sha256"]
    return formats.read_tokenizer(path)


def messages_of(name: str) -> list[Message]:
    return [Message(role, content) for role, content in GOLDEN["dialogs"][name]["messages"]]


@pytest.mark.parametrize(("template", "name"), CASES)
def test_a_dialog_has_these_ids(template: str, name: str) -> None:
    assert dialog_ids(tokenizer_of(template), messages_of(name)) == GOLDEN["templates"][template]["ids"][name]


@pytest.mark.parametrize("name", GOLDEN["dialogs"])
def test_llama_3_by_tiktoken(name: str) -> None:
    """The library encodes frame and messages; it merges by ranks, where the vocabulary's own merges are a list."""
    import tiktoken  # not where tests/oracles read this module

    words = tokenizer_of("llama3/llama3")
    special = {words.pieces[id_].decode(): id_ for id_ in words.special}
    ranks = {piece: rank for rank, piece in enumerate(words.pieces) if rank not in words.special}
    theirs = tiktoken.Encoding("x", pat_str=words.splits[0], mergeable_ranks=ranks, special_tokens=special)
    expected = [special["<|begin_of_text|>"]]
    for role, content in [*GOLDEN["dialogs"][name]["messages"], ("assistant", None)]:
        expected += theirs.encode(f"<|start_header_id|>{role}<|end_header_id|>\n\n", allowed_special="all")
        if content is not None:
            expected += [*theirs.encode_ordinary(content.strip()), special["<|eot_id|>"]]
    assert GOLDEN["templates"]["llama3/llama3"]["ids"][name] == expected


def test_every_dialog_is_there_for_every_template() -> None:
    assert len(GOLDEN["dialogs"]) >= 10
    assert {template.partition("/")[0] for template in GOLDEN["templates"]} == {"llama2", "llama3"}
    for of in GOLDEN["templates"].values():
        assert list(of["ids"]) == list(GOLDEN["dialogs"])


def test_begin_of_text_stands_before_every_turn_of_llama_2_and_once_in_llama_3() -> None:
    """Counted in the file, with nothing of ours in between."""
    turns = [name for name, dialog in GOLDEN["dialogs"].items() if "turns" in name]
    for name in turns:
        n_questions = sum(role == "user" for role, _ in GOLDEN["dialogs"][name]["messages"])
        n_messages = len(GOLDEN["dialogs"][name]["messages"])
        assert GOLDEN["templates"]["llama2/gqa"]["ids"][name].count(1) == n_questions
        assert GOLDEN["templates"]["llama2/gqa"]["ids"][name].count(2) == n_questions - 1
        words = tokenizer_of("llama3/llama3")
        ids = GOLDEN["templates"]["llama3/llama3"]["ids"][name]
        assert ids.count(words.bos_id) == 1
        assert ids.count(words.id_of("<|eot_id|>")) == n_messages
        assert ids.count(words.id_of("<|start_header_id|>")) == n_messages + 1
