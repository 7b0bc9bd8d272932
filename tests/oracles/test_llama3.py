"""The embedded llama-3 model by Hugging Face's library: its texts, its logits and its ids."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="an oracle of its own environment: tests/oracles/run.sh")
transformers = pytest.importorskip("transformers", reason="an oracle of its own environment: tests/oracles/run.sh")

from harness import formats, models  # noqa: E402
from harness.engine import Engine  # noqa: E402
from harness.tokenizer.hard_texts import each_hard_text, long_text  # noqa: E402
from tests.oracles.test_formats import LIFTED, lift, loaded, their_logits  # noqa: E402

PORT = Path(__file__).parent / "transformers_port"
LLAMA3 = models.golden_dir() / "models" / "llama3"


def test_every_greedy_golden_is_what_transformers_writes():
    command = [sys.executable, "-m", "harness", "check", str(PORT), "--suite", "core", "--models", "llama3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_logits_past_the_first_context_are_transformers_own():
    """1,000 positions of a text that the model writes itself; with its norms and rotations in float64."""
    found = formats.read(LLAMA3)
    engine = Engine(found.config, found.tensors, dtype=np.float64)
    words = formats.read_tokenizer(LLAMA3)
    ids = words.encode(long_text(6000))[:1000]
    assert len(ids) == 1000
    model = lift(loaded(LLAMA3), LLAMA3, len(ids))
    assert np.abs(their_logits(model, ids) - engine.logits(ids)).max() <= LIFTED


def test_ids_are_those_of_the_library():
    ours = formats.read_tokenizer(LLAMA3)
    theirs = transformers.AutoTokenizer.from_pretrained(LLAMA3)
    texts = [text for _, text in each_hard_text(ours)] + [long_text(2000)]
    for text in texts:
        try:
            spelled = text.decode()
        except UnicodeDecodeError:
            continue
        assert theirs(spelled, split_special_tokens=True)["input_ids"] == ours.encode(spelled), spelled[:80]
