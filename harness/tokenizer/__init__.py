"""Tokenizer files to Tokenizer values and back, and the encoding rules."""

from __future__ import annotations

from harness.tokenizer.bpe import HONEST, KNOWN_WRONG, EncodeRules
from harness.tokenizer.tokenizer import Tokenizer
from harness.tokenizer.tokenizer_bin import count_pieces, read, write

__all__ = ["HONEST", "KNOWN_WRONG", "EncodeRules", "Tokenizer", "count_pieces", "read", "write"]
