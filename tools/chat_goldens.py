"""Write golden/chat/dialogs.json: dialogs, and the ids that they are by the templates of Llama 2 and Llama 3.

    python tools/chat_goldens.py             say what would change; exit status 1 if anything would
    python tools/chat_goldens.py --write     write it

The ids are `harness.tokenizer.chat`'s. That they are right is shown elsewhere: by hand in
tests/tokenizer/test_chat.py, by tiktoken in tests/tokenizer/test_chat_goldens.py, by SentencePiece and Hugging Face's
templates in tests/oracles/test_chat.py; the last two read this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness import formats
from harness.models import ModelNotFound, cache_dir, golden_dir, locate
from harness.models.files import TOK32000, TOKENIZER_32000, sha256_of
from harness.tokenizer.chat import Message, dialog_ids

PATH = golden_dir() / "chat" / "dialogs.json"

# Template -> whose tokenizers stand for it: models, and the file of Llama 2's own 32,000 pieces.
TOKENIZERS = {"llama2": ("gqa", TOKENIZER_32000), "llama3": ("llama3",)}

DIALOGS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "one-question": ("the frame alone", (("user", "What does a fox say?"),)),
    "system": ("a system prompt before the first question", (("system", "You're a fox."), ("user", "Who are you?"))),
    "empty-system": ("an empty system prompt keeps its frame", (("system", ""), ("user", "Who are you?"))),
    "turns": (
        "two answers between three questions: BOS before every turn, or once",
        (
            ("user", "My name's Zoë and I live in house 1024."),
            ("assistant", "Hello, Zoë!"),
            ("user", "What's there at the zoo?"),
            ("assistant", "At the zoo you'll see two zebras."),
            ("user", "Where do I live?"),
        ),
    ),
    "turns-with-system": (
        "the system prompt stands once, however long the dialog",
        (
            ("system", "You're a llama. Begin like one."),
            ("user", "How much is 5 + 4?"),
            ("assistant", "Hum! 5 + 4 = 9"),
            ("user", "And 9 + 9?"),
        ),
    ),
    "white-space": (
        "white space at the ends of messages is taken off, inside it stays",
        (
            ("user", "  two  spaces\t"),
            ("assistant", "\n\n  a line\n\n    indented  \n"),
            ("user", "\u00a0\u3000wide\r\n"),
        ),
    ),
    "white-space-system": (
        "Llama 2 keeps white space inside the frame of a system prompt, Llama 3 takes it off its ends",
        (("system", "  Be brief.\n"), ("user", " Hi ")),
    ),
    "empty-messages": (
        "messages of nothing, and of white space only",
        (("user", ""), ("assistant", " \n "), ("user", " ")),
    ),
    "letters": (
        "characters of several bytes, composed and not, and byte fallback",
        (
            ("system", "Réponds en français."),
            ("user", "e\u0301 é ß 日本語 🦙👩‍🚀 \u200b"),
            ("assistant", "Ø"),
            ("user", "ﬁ"),
        ),
    ),
    "spellings": (
        "the spelling of a special piece stays text",
        (("user", "<s> </s> <|eot_id|><|start_header_id|>system<|end_header_id|> <|begin_of_text|>"),),
    ),
}


def document() -> dict[str, Any]:
    """Return the file's content."""
    ids: dict[str, Any] = {}
    for template, names in TOKENIZERS.items():
        for name in names:
            path = _published(name) if name == TOKENIZER_32000 else locate(name).tokenizer
            words = formats.read_tokenizer(path)
            ids[f"{template}/{name}"] = {
                "tokenizer_sha256": sha256_of(path),
                "ids": {
                    case: dialog_ids(words, [Message(role, content) for role, content in messages])  # type: ignore[arg-type]
                    for case, (_, messages) in DIALOGS.items()
                },
            }
    return {
        "dialogs": {
            case: {"why": why, "messages": list(map(list, messages))} for case, (why, messages) in DIALOGS.items()
        },
        "templates": ids,
    }


def _published(name: str) -> Path:
    directories = [*os.environ.get("HARNESS_MODELS", "").split(os.pathsep), str(cache_dir() / "models")]
    found = [path for directory in directories if directory and (path := Path(directory) / name).is_file()]
    if not found or sha256_of(found[0]) != TOK32000:
        raise ModelNotFound(f"{name} is not here", hint=f"harness models pull {name}")
    return found[0]


def rendered(content: dict[str, Any]) -> str:
    """Spell the file: lists of numbers on one line each."""
    lists: list[str] = []

    def short(value: Any) -> Any:
        if isinstance(value, list) and not any(isinstance(one, list) for one in value):
            lists.append(json.dumps(value, ensure_ascii=False))
            return f"@{len(lists) - 1}@"
        if isinstance(value, list):
            return [short(one) for one in value]
        if isinstance(value, dict):
            return {key: short(one) for key, one in value.items()}
        return value

    text = json.dumps(short(content), indent=1, ensure_ascii=False)
    for number, one in enumerate(lists):
        text = text.replace(f'"@{number}@"', one, 1)
    return text + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file")
    write = parser.parse_args().write
    try:
        text = rendered(document())
    except ModelNotFound as missing:
        sys.exit(f"chat_goldens: {missing}")
    if PATH.is_file() and PATH.read_text("utf-8") == text:
        print("as it is")
        return 0
    if write:
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(text, "utf-8")
    print("written" if write else "would change; --write writes it")
    return 0 if write else 1


if __name__ == "__main__":
    sys.exit(main())
