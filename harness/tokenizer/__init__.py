"""Tokenizer files to tokenizer values and back, and the encoding rules.

tokenizer            a vocabulary with scores, or listed merges, and byte pieces: llama2.c's, SentencePiece's
byte_level           a vocabulary of bytes, whose words are merged apart: Llama 3's, Qwen's, Phi-2's
tokenizer_bin        llama2.c's tokenizer.bin
sentencepiece_model  SentencePiece's .model
tiktoken_ranks       Llama 3's list of ranks
hf_json              Hugging Face's tokenizer.json
any_format           one of these, by content or suffix
chat                 dialogs to ids, as Llama 2 and Llama 3 were trained on them
"""

from __future__ import annotations

from harness.tokenizer.any_format import read_any, write_any
from harness.tokenizer.bpe import HONEST, KNOWN_WRONG, EncodeRules
from harness.tokenizer.byte_level import ByteLevelTokenizer
from harness.tokenizer.tokenizer import Tokenizer
from harness.tokenizer.tokenizer_bin import count_pieces, read, write

__all__ = [
    "HONEST",
    "KNOWN_WRONG",
    "AnyTokenizer",
    "ByteLevelTokenizer",
    "EncodeRules",
    "Tokenizer",
    "count_pieces",
    "read",
    "read_any",
    "write",
    "write_any",
]

# Both offer pieces, vocab_size, bos_id, eos_id, encode, decode, decode_piece and printed.
AnyTokenizer = Tokenizer | ByteLevelTokenizer
