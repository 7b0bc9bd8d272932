"""Train one embedded model on generated stories with torch, on one thread, so that the same versions give
the same bits.

The network is llama2.c's: RMSNorm (eps 1e-5), interleaved RoPE (theta 10000), consecutive query heads
sharing a KV head, SwiGLU, no biases. Each row of a batch starts at a story and runs on through the next
ones, every story preceded by BOS, until the context is full.

The residual stream is trained 2**RESIDUAL_SHIFT times larger than it is stored, with eps larger by the
square, and scaled down when written: embedding, wo and w_down divided by the power of two, which changes
no bit of the function. A small stream makes eps matter, so that a program with a wrong eps writes a
different text.
"""

import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training import stories
from training.checkpoint import Config, Weights, rope_angles
from training.models import Documents, Recipe

RMS_EPS = 1e-5
RESIDUAL_SHIFT = 5


class Llama(nn.Module):
    """The network; parameters carry the names of `Config.shapes`."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        for name, shape in config.shapes().items():
            if name.endswith("norm"):
                start = torch.ones(shape)
            else:
                # Outputs to the residual stream start smaller, so that depth does not make it grow.
                scale = 0.5 / math.sqrt(2 * config.n_layers) if name in ("wo", "w_down") else 0.5
                start = torch.randn(shape) * scale / math.sqrt(shape[-1])
            self.register_parameter(name, nn.Parameter(start))
        angles = torch.from_numpy(rope_angles(config)).double()
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n_rows, n_tokens) ids to (n_rows, n_tokens, vocab_size) logits."""
        n_rows, n_tokens = tokens.shape
        config = self.config
        x = functional.embedding(tokens, self.tok_embedding)
        for layer in range(config.n_layers):
            h = self._rmsnorm(x, self.attn_norm[layer])
            q = self._rotate((h @ self.wq[layer].T).view(n_rows, n_tokens, config.n_heads, config.head_dim))
            k = self._rotate((h @ self.wk[layer].T).view(n_rows, n_tokens, config.n_kv_heads, config.head_dim))
            v = (h @ self.wv[layer].T).view(n_rows, n_tokens, config.n_kv_heads, config.head_dim)
            n_rep = config.n_heads // config.n_kv_heads
            k, v = (t.repeat_interleave(n_rep, dim=2).transpose(1, 2) for t in (k, v))
            # The default scale is 1 / sqrt(head_dim).
            mixed = functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)
            x = x + mixed.transpose(1, 2).reshape(n_rows, n_tokens, config.dim) @ self.wo[layer].T
            h = self._rmsnorm(x, self.ffn_norm[layer])
            x = x + (functional.silu(h @ self.w_gate[layer].T) * (h @ self.w_up[layer].T)) @ self.w_down[layer].T
        x = self._rmsnorm(x, self.final_norm)
        return x @ (self.tok_embedding if config.is_tied else self.lm_head).T

    def _rmsnorm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, RMS_EPS * 4**RESIDUAL_SHIFT)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Turn each adjacent pair of (..., n_tokens, heads, head_dim) by its position's angle."""
        cos, sin = (table[: x.shape[1], None, :] for table in (self.cos, self.sin))
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    def weights(self) -> Weights:
        """Weights as stored, the residual stream scaled down."""
        weights = {name: parameter.detach().numpy().copy() for name, parameter in self.named_parameters()}
        for name in ("tok_embedding", "wo", "w_down"):
            weights[name] *= np.float32(2.0**-RESIDUAL_SHIFT)
        if self.config.is_tied:
            weights["final_norm"] *= np.float32(2.0**RESIDUAL_SHIFT)
        return weights


def batches(recipe: Recipe, config: Config, vocabulary: Documents) -> Iterator[torch.Tensor]:
    """Yield (batch_size, seq_len + 1) ids without end, no story twice."""
    texts = stories.stories(recipe.style, recipe.seed)
    while True:
        rows = []
        for _ in range(recipe.batch_size):
            row: list[int] = []
            while len(row) <= config.seq_len:
                row += vocabulary.document(next(texts))
            rows.append(row[: config.seq_len + 1])
        yield torch.tensor(rows)


def train(recipe: Recipe, config: Config, vocabulary: Documents) -> Weights:
    """Train from scratch; progress goes to stderr."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model = Llama(config)
    matrices = [p for name, p in model.named_parameters() if not name.endswith("norm")]
    norms = [p for name, p in model.named_parameters() if name.endswith("norm")]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
    start = time.monotonic()
    for step, batch in zip(range(recipe.n_steps), batches(recipe, config, vocabulary), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == recipe.n_steps - 1:
            print(
                f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - start:6.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return model.weights()


def _schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    if step < recipe.n_warmup_steps:
        return (step + 1) / recipe.n_warmup_steps
    done = (step - recipe.n_warmup_steps) / max(1, recipe.n_steps - recipe.n_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
