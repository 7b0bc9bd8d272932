"""Repro: a model and one question about it, and how small it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from harness.adapters.manifest import Manifest
from harness.checkpoint import llama2c_bin
from harness.conformance.case import Case
from harness.conformance.fuzz.recipe import Ask
from harness.diagnosis import shrink as parts
from harness.engine import clamp_steps
from harness.errors import InputError
from harness.model_config import ModelConfig
from harness.models import Model
from harness.results import Verdict

__all__ = ["READABLE", "Repro", "level_of", "meets", "repro_of"]

READABLE = 4096
"""Weights; of larger models nobody reads the numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Repro:
    """A model and one question about it."""

    model: Model
    prompt: bytes
    ask: Ask

    @property
    def config(self) -> ModelConfig:
        return self.model.checkpoint.config

    @property
    def prompt_ids(self) -> list[int]:
        return self.model.tokenizer.encode(self.prompt)

    @property
    def n_positions(self) -> int:
        """Tokens of the run: the prompt's behind BOS, and the generated ones."""
        return len(self.prompt_ids) - 1 + self.ask.n

    @property
    def checkpoint_bytes(self) -> int:
        found = self.model.checkpoint
        return llama2c_bin.file_bytes(found.config, 0 if found.group_size is None else 2, found.group_size)

    @property
    def tokenizer_bytes(self) -> int:
        return 4 + sum(8 + len(piece) for piece in self.model.tokenizer.pieces)

    @property
    def size(self) -> tuple[int, int, int, int]:
        """What is to be small: the files, the run, its settings, the numbers."""
        plainness = parts.plainness(self.model.checkpoint) if self.config.n_params < READABLE else 1 << 40
        return (
            self.checkpoint_bytes + self.tokenizer_bytes,
            self.n_positions,
            int(self.ask.temperature != 0),
            plainness,
        )

    @property
    def key(self) -> bytes:
        """The same for the same question."""
        digest = hashlib.sha256(repr((self.config, self.prompt, self.ask, self.model.tokenizer.pieces)).encode())
        for tensor in self.model.checkpoint.tensors.values():
            digest.update(tensor.tobytes() if isinstance(tensor, np.ndarray) else tensor.codes.tobytes())
        return digest.digest()


def level_of(verdict: Verdict, manifest: Manifest) -> str:
    """Return the level at which a failure is looked at: ids leave nothing to guess."""
    failed = [level for level, kind in verdict.levels if kind.is_failure]
    at = failed or [level for level in ("TEXT", "TOKENS", "LOGITS") if level in manifest.levels][:1]
    return next((level for level in ("TOKENS", "TEXT", "LOGITS") if level in at), "TEXT")


def repro_of(case: Case, model: Model) -> Repro:
    """Return a failing case as a question that goes no further than the failure.

    Raises:
        InputError: it is no case that generates a text.
    """
    if case.mode != "generate":
        raise InputError(f"{case.key} generates no text, so it cannot be shrunk", hint="name another with --case")
    config = model.checkpoint.config
    n_prompt = len(model.tokenizer.encode(case.prompt or b""))
    n = max(1, clamp_steps(case.steps, config.seq_len) - (n_prompt - 1))
    return Repro(model, case.prompt or b"", Ask(n, case.temperature, case.topp, case.seed))


def meets(config: ModelConfig, manifest: Manifest) -> bool:
    """Whether a program can be given a model of these dimensions as it is."""
    needs = manifest.needs
    return (
        (not needs.mha or config.n_rep == 1)
        and needs.tied in (None, config.is_tied)
        and needs.vocab_size in (None, config.vocab_size)
        and config.hidden_dim % needs.hidden_multiple == 0
        and config.dim % needs.dim_multiple == 0
        and config.head_dim % needs.head_dim_multiple == 0
        and (needs.max_seq_len is None or config.seq_len <= needs.max_seq_len)
    )
