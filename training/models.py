"""The embedded models: their shapes, how they are trained, and why each exists. Imports no torch."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training import stories, tokenizer
from training.checkpoint import Config
from training.tokenizer import Vocabulary

OUT = Path(__file__).parent.parent / "golden" / "models"
N_TOKENIZER_STORIES = 2000


class Documents(Protocol):
    """A vocabulary that training takes: it encodes what `stories` yields."""

    def document(self, story: Any) -> list[int]:
        """Ids of a whole story, with the special ones that belong to it."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; its bits also depend on the versions of torch and numpy and on the CPU."""

    style: str
    seed: int
    n_steps: int
    batch_size: int
    learning_rate: float
    n_warmup_steps: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class Model:
    """One embedded model and why it exists."""

    config: Config
    recipe: Recipe
    group_size: int
    # Characters that get no piece of their own and so exercise byte fallback.
    fallback: str
    description: str

    def vocabulary(self) -> Vocabulary:
        """Learn the tokenizer, from other stories than the network will see."""
        texts = itertools.islice(stories.stories(self.recipe.style, self.recipe.seed + 1), N_TOKENIZER_STORIES)
        return tokenizer.train(texts, vocab_size=self.config.vocab_size, fallback=self.fallback)


# Emoji and rarer accents never get a piece; curly quotes and é do.
FALLBACK = "".join(sorted(set("ëñïöê").union(*stories.EMOJI.values())))

MODELS = {
    "gqa": Model(
        Config(dim=64, hidden_dim=172, n_layers=5, n_heads=8, n_kv_heads=4, vocab_size=512, seq_len=512),
        Recipe(style="tale", seed=260, n_steps=1700, batch_size=6, learning_rate=4e-3),
        group_size=4,
        fallback=FALLBACK,
        description="grouped-query attention (8 heads on 4), tied; the shape of stories260K",
    ),
    "mha": Model(
        Config(
            dim=70,
            hidden_dim=182,
            n_layers=3,
            n_heads=5,
            n_kv_heads=5,
            vocab_size=397,
            seq_len=256,
            is_tied=False,
        ),
        Recipe(style="note", seed=397, n_steps=2400, batch_size=8, learning_rate=4e-3),
        group_size=14,
        fallback=FALLBACK,
        description="multi-head attention, untied; no SIMD width divides head_dim 14 and hidden_dim 182",
    ),
    "mqa": Model(
        Config(dim=48, hidden_dim=132, n_layers=5, n_heads=4, n_kv_heads=1, vocab_size=480, seq_len=1024),
        Recipe(style="saga", seed=1024, n_steps=2600, batch_size=3, learning_rate=4e-3),
        group_size=12,
        fallback=FALLBACK,
        description="multi-query attention (4 heads on 1), tied, context 1024 whose end recalls its start",
    ),
}
