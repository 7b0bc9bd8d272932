"""Hugging Face's `tokenizer.json`, of the BPE kind, in the two forms that llamas have.

    byte-level     pre_tokenizer: ByteLevel, alone or behind Splits by pattern and Digits. Pieces are spelled in
                   GPT-2's characters for bytes. Gives a ByteLevelTokenizer.
    with fallback  byte_fallback, and spaces as U+2581: by a normalizer (Prepend, Replace) or a Metaspace. Gives a
                   Tokenizer whose merges are the listed ones, so that even their order among equal results is kept.

Both: model.vocab maps pieces to ids, model.merges lists pairs ("a b" or ["a", "b"]), the first merged first;
added_tokens have ids of their own. The library finds the special ones of these in any text; here their spelling stays
text. Those that are not special are found in the text first, as there (byte-level; with fallback, where the library
also begins anew behind them, they are refused).

What would change ids and is not known (another normaliser, another way of cutting, dropout, tokens that strip the
space beside them, ...) is refused by name. BOS is what the post-processor puts before a text, if it does.

A vocabulary with fallback can be written as scores (tokenizer.bin, SentencePiece, GGUF's "llama") if its list says
what scores would: see `scores`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import TokenizerError
from harness.tokenizer import files, sentencepiece_model
from harness.tokenizer.bpe import HONEST, EncodeRules
from harness.tokenizer.byte_level import GPT2, NONE, ByteLevelTokenizer, byte_of_character
from harness.tokenizer.tokenizer import Tokenizer

__all__ = ["read", "sniff"]

_MAX_PIECES = 1 << 20
_META_SPACE = "\u2581"
_BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|begin\u2581of\u2581sentence|>")
_EOS_NAMES = ("</s>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end\u2581of\u2581sentence|>")
_STOP_NAMES = (*_EOS_NAMES, "<|eot_id|>", "<|eom_id|>")


def sniff(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be JSON."""
    return head.lstrip()[:1] == b"{"


def read(path: str | os.PathLike[str]) -> Tokenizer | ByteLevelTokenizer:
    """Read a tokenizer.json.

    Raises:
        TokenizerError: the file is damaged, or says what is not supported.
    """
    return _Document(Path(path)).tokenizer()


class _Document:
    """The file's object, checked as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.top = files.json_object(path)
        self.model = self._part(self.top.get("model"), "model")
        kind = self.model.get("type", "BPE" if "merges" in self.model else None)
        if kind != "BPE":
            self.fail("the model is of another kind", "model.type", expected="BPE", actual=kind)
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                self.fail("is not supported", f"model.{key}", actual=self.model[key])
        self.spelled = self._vocab()
        self.added = self._added()
        self.pairs = self._merges()

    def fail(self, what: str, where: str, **facts: Any) -> NoReturn:
        facts = {key: repr(value)[:80] if key == "actual" else value for key, value in facts.items()}
        raise TokenizerError(what, path=self.path, where=where, **facts)

    def _part(self, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail("is no object", where, actual=value)
        return value

    def _list(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            self.fail("is no list", where, actual=value)
        return value

    def _vocab(self) -> list[str]:
        """Return the pieces by id, added ones included."""
        by_id: dict[int, str] = {}
        entries: list[tuple[Any, Any]] = [*self._part(self.model.get("vocab"), "model.vocab").items()]
        for token in self._list(self.top.get("added_tokens") or [], "added_tokens"):
            token = self._part(token, "added_tokens")
            entries.append((token.get("content"), token.get("id")))
        for text, id_ in entries:
            if not isinstance(text, str) or not text or type(id_) is not int or not 0 <= id_ < _MAX_PIECES:
                self.fail("a piece and its id are needed", "model.vocab", actual=(text, id_))
            if by_id.setdefault(id_, text) != text:
                self.fail(f"the id {id_} is there twice", "model.vocab", actual=(by_id[id_], text))
        if len(by_id) != max(by_id, default=0) + 1:
            # Models pad their tables; ids without a piece cannot be told from damage, so they need a name there.
            missing = next(id_ for id_ in range(len(by_id) + 1) if id_ not in by_id)
            self.fail(f"no piece has the id {missing}", "model.vocab", expected="ids 0, 1, 2, ...")
        if len(set(by_id.values())) != len(by_id):
            self.fail("a piece is there twice", "model.vocab")
        return [by_id[id_] for id_ in range(len(by_id))]

    def _added(self) -> dict[int, bool]:
        """Return the added ids, and whether each is special."""
        found = {}
        for token in self.top.get("added_tokens") or []:
            is_special = token.get("special") is True
            for key in ("lstrip", "rstrip", "single_word"):
                if token.get(key) and not is_special:
                    self.fail(f"a token with {key} is not supported", "added_tokens", actual=token.get("content"))
            found[token["id"]] = is_special
        return found

    def _merges(self) -> list[tuple[str, str]]:
        pairs = []
        for number, entry in enumerate(self._list(self.model.get("merges"), "model.merges")):
            parts = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(one, str) for one in parts):
                self.fail("is no pair", f"model.merges[{number}]", actual=entry)
            pairs.append((parts[0], parts[1]))
        return pairs

    def merge_table(self, ids: Mapping[str, int]) -> dict[tuple[int, int], tuple[float, int]]:
        table: dict[tuple[int, int], tuple[float, int]] = {}
        for number, (left, right) in enumerate(self.pairs):
            if left not in ids or right not in ids or left + right not in ids:
                self.fail("merges what is no piece", f"model.merges[{number}]", actual=(left, right))
            # A pair that is listed twice has the later place, as in the library.
            table[ids[left], ids[right]] = (-number, ids[left + right])
        return table

    def first_of(self, names: tuple[str, ...], ids: Mapping[str, int]) -> int:
        return next((ids[name] for name in names if name in ids), NONE)

    def bos(self, ids: Mapping[str, int]) -> int:
        """Return the id that the post-processor puts before a text, or NONE."""
        for step in self._steps("post_processor", "processors"):
            if step.get("type") == "TemplateProcessing":
                single = self._list(step.get("single"), "post_processor.single")
                first = single[0] if single and isinstance(single[0], dict) else {}
                name = first.get("SpecialToken", {}).get("id") if "SpecialToken" in first else None
                if isinstance(name, str):
                    if name not in ids:
                        self.fail("is no piece", "post_processor.single", actual=name)
                    return ids[name]
        return NONE

    def _steps(self, part: str, inner: str) -> list[dict[str, Any]]:
        """Return a part's steps, the only one or those of a Sequence."""
        value = self.top.get(part)
        if value is None:
            return []
        value = self._part(value, part)
        if value.get("type") != "Sequence":
            return [value]
        return [self._part(step, part) for step in self._list(value.get(inner), f"{part}.{inner}")]

    def tokenizer(self) -> Tokenizer | ByteLevelTokenizer:
        cutting = self._steps("pre_tokenizer", "pretokenizers")
        if any(step.get("type") == "ByteLevel" for step in cutting):
            return self._byte_level(cutting)
        if self.model.get("byte_fallback") is not True:
            self.fail("is neither byte-level nor has it byte fallback", "model", expected="one of the two")
        return self._with_fallback(cutting)

    # ---- byte-level

    def _byte_level(self, cutting: list[dict[str, Any]]) -> ByteLevelTokenizer:
        ids = {text: id_ for id_, text in enumerate(self.spelled)}
        normalization = None
        for step in self._steps("normalizer", "normalizers"):
            if step.get("type") not in ("NFC", "NFD", "NFKC", "NFKD") or normalization:
                self.fail("the normaliser is not supported", "normalizer", expected="NFC", actual=step.get("type"))
            normalization = step["type"]
        splits = self._splits(cutting)
        pieces = [self._bytes(id_, text) for id_, text in enumerate(self.spelled)]
        return ByteLevelTokenizer(
            tuple(pieces),
            frozenset(id_ for id_, is_special in self.added.items() if is_special),
            tuple(splits),
            self.merge_table(ids),
            bos_id=self.bos(ids),
            eos_id=self.first_of(_EOS_NAMES, ids),
            stop_ids=frozenset(ids[name] for name in _STOP_NAMES if name in ids),
            whole_words=self.model.get("ignore_merges") is True,
            whole=tuple(id_ for id_, is_special in self.added.items() if not is_special),
            normalization=normalization,
            layout="hf-json",
        )

    def _bytes(self, id_: int, text: str) -> bytes:
        if id_ in self.added:
            return text.encode("utf-8", "replace")
        try:
            return bytes(byte_of_character[character] for character in text)
        except KeyError:
            self.fail(f"piece {id_} is not spelled in characters for bytes", "model.vocab", actual=text)

    def _splits(self, cutting: list[dict[str, Any]]) -> list[str]:
        splits = []
        for step in cutting:
            match step:
                case {"type": "ByteLevel"}:
                    if step.get("add_prefix_space"):
                        self.fail("a space before the text is not supported", "pre_tokenizer.add_prefix_space")
                    if step.get("use_regex", True):
                        splits.append(GPT2)
                case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} if not step.get(
                    "invert"
                ):
                    splits.append(pattern)
                case {"type": "Digits", "individual_digits": is_individual}:
                    splits.append(r"\p{N}" if is_individual else r"\p{N}+")
                case _:
                    self.fail("this way of cutting words is not supported", "pre_tokenizer", actual=step)
        return splits

    # ---- with byte fallback

    def _with_fallback(self, cutting: list[dict[str, Any]]) -> Tokenizer:
        ids = {text: id_ for id_, text in enumerate(self.spelled)}
        if not all(self.added.values()):
            self.fail("tokens that are added but not special are not supported here", "added_tokens")
        if self.model.get("ignore_merges"):
            self.fail("is not supported with byte fallback", "model.ignore_merges")
        bos_id, eos_id = self.bos(ids), self.first_of(_EOS_NAMES, ids)
        bos_id = self.first_of(_BOS_NAMES, ids) if bos_id == NONE else bos_id
        unknown = ids.get(str(self.model.get("unk_token")), NONE)
        kinds = [sentencepiece_model.NORMAL] * len(ids)
        for id_ in self.added:
            kinds[id_] = sentencepiece_model.CONTROL
        if unknown != NONE:
            kinds[unknown] = sentencepiece_model.UNKNOWN
        for byte in range(256):
            if (at := ids.get(f"<0x{byte:02X}>", NONE)) != NONE:
                kinds[at] = sentencepiece_model.BYTE
        table = self.merge_table(ids)
        best: dict[int, float] = {}
        for score, made in table.values():
            best[made] = max(score, best.get(made, score))
        found = sentencepiece_model.assemble(
            [text.encode("utf-8", "replace") for text in self.spelled],
            [best.get(id_, 0.0) for id_ in range(len(ids))],
            kinds,
            bos_id=bos_id,
            eos_id=eos_id,
            rules=self._rules(cutting),
            layout="hf-json",
            path=self.path,
        )
        return replace(found, merges=table)

    def _rules(self, cutting: list[dict[str, Any]]) -> EncodeRules:
        prefix: str | None = None
        spaces_are_spelled = False
        for step in self._steps("normalizer", "normalizers"):
            match step:
                case {"type": "Prepend", "prepend": "\u2581"} if prefix is None and not spaces_are_spelled:
                    prefix = "nonempty"
                case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
                    spaces_are_spelled = True
                case _:
                    self.fail("the normaliser is not supported", "normalizer", actual=step)
        for step in cutting:
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            match step:
                case {"type": "Metaspace", "replacement": "\u2581", "split": False} if prefix is None:
                    spaces_are_spelled = True
                    prefix = "never" if scheme == "never" else "unless-space"
                case _:
                    self.fail("this way of cutting words is not supported", "pre_tokenizer", actual=step)
        if not spaces_are_spelled:
            self.fail("spaces are not spelled as U+2581", "normalizer")
        return replace(HONEST, meta_space=True, dummy_prefix=prefix or "never")  # type: ignore[arg-type]
