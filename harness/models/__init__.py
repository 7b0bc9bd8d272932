"""Names to files, and files to models: where they are, and exact changes to their shape.

files       where files are: shipped with the project, published ones that the user has, ones made from those
derived     the variants of stories260K that exercise what it never does
expansions  the same function in a shape that a program with fixed dimensions accepts
"""

from __future__ import annotations

from harness.models import pull
from harness.models.expansions import expand_mha, older_layout, pad_hidden, pad_vocab, prepare, untie
from harness.models.files import (
    Model,
    ModelFiles,
    ModelNotFound,
    cache_dir,
    golden_dir,
    impls_dir,
    known_names,
    load,
    locate,
    tokenizer_beside,
)

__all__ = [
    "Model",
    "ModelFiles",
    "ModelNotFound",
    "cache_dir",
    "expand_mha",
    "golden_dir",
    "impls_dir",
    "known_names",
    "load",
    "locate",
    "older_layout",
    "pad_hidden",
    "pad_vocab",
    "prepare",
    "pull",
    "tokenizer_beside",
    "untie",
]
