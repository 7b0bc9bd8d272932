"""Measure the embedded models with a small float64 engine and write golden/models/README.md.

For each model and prompt: the greedy text, how sharp its distributions are, its near ties, and at which
step the greedy text would first change if the program that runs it had a certain fault. A model in whose
text a fault changes nothing is no use for finding it.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from training import byte_level, llama3, tokenizer
from training.checkpoint import NORMS, Config, Weights, quantize, read_v0, scaled
from training.models import MODELS, OUT

PROMPTS = {
    "gqa": (
        "",
        "Once upon a time, there was a little boy named Ben.",
        "One day, Mia",
        "“Hello, Zoë,” said the 🦙",
    ),
    "mha": (
        "",
        "One day, Tom",
        "Once upon a time, there was a little girl named Vera",
        "Chloé and Björn ate 3 crêpes",
    ),
    "llama3": (
        "",
        "# Emma's book, 2017\n\nEmma was",
        "# Leo's book, 2010\n\nLeo was a little boy who lived in house 83716",
    ),
    "mqa": (
        "",
        "This is a story in 4 chapters. José",
        "This is a story in 3 chapters. Anna was a little girl who lived in house #96",
        "This is a story in 2 chapters. Björn was a little boy who lived in house #70",
    ),
}


@dataclass(frozen=True)
class Network:
    """The steps of the network that a fault may replace."""

    rope_is_split: bool = False
    rope_theta: float | None = None  # None: the model's own
    is_scaled: bool = True
    is_k_rotated: bool = True
    is_q_rotated: bool = True
    scale: Callable[[Config], float] = lambda config: config.head_dim**-0.5
    kv_head: Callable[[int, Config], int] = lambda head, config: head * config.n_kv_heads // config.n_heads
    eps: float = 1e-5
    window: int = sys.maxsize
    activation: Callable[[np.ndarray], np.ndarray] = lambda x: x / (1 + np.exp(-x))
    classifier: str = "lm_head"


HONEST = Network()
FAULTS = {
    "RoPE on split halves": replace(HONEST, rope_is_split=True),
    "RoPE theta 1e6": replace(HONEST, rope_theta=1e6),
    "RoPE theta 500000": replace(HONEST, rope_theta=5e5),
    "k not rotated": replace(HONEST, is_k_rotated=False),
    "no RoPE": replace(HONEST, is_k_rotated=False, is_q_rotated=False),
    "no attention scale": replace(HONEST, scale=lambda config: 1.0),
    "attention scale 1/sqrt(dim)": replace(HONEST, scale=lambda config: config.dim**-0.5),
    "KV head h mod G": replace(HONEST, kv_head=lambda head, config: head % config.n_kv_heads),
    "KV head always 0": replace(HONEST, kv_head=lambda head, config: 0),
    "only the last 256 positions": replace(HONEST, window=256),
    "eps 1e-3": replace(HONEST, eps=1e-3),
    "eps 1e-6": replace(HONEST, eps=1e-6),
    "eps 0": replace(HONEST, eps=0.0),
    "ReLU for SiLU": replace(HONEST, activation=lambda x: np.maximum(x, 0)),
    "GELU (tanh) for SiLU": replace(
        HONEST, activation=lambda x: x / (1 + np.exp(-1.5957691216 * (x + 0.044715 * x**3)))
    ),
    "embedding as classifier": replace(HONEST, classifier="tok_embedding"),
}


# What only a model shows whose constants are not llama2.c's.
LLAMA3_FAULTS = {
    "RoPE theta 10000": replace(HONEST, rope_theta=1e4),
    "rotary waves not scaled": replace(HONEST, is_scaled=False),
    **{
        name: network
        for name, network in FAULTS.items()
        if name not in ("RoPE theta 500000", "embedding as classifier")
    },
}


class Engine:
    """Feed ids, get logits; keys and values of what was fed stay in the cache. Everything in float64."""

    def __init__(self, config: Config, weights: Weights, network: Network = HONEST):
        self.config, self.network = config, network
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.weights.setdefault("lm_head", self.weights["tok_embedding"])
        self.keys: list[np.ndarray] = [np.empty((0, config.n_kv_heads, config.head_dim))] * config.n_layers
        self.values = list(self.keys)

    def feed(self, ids: list[int]) -> np.ndarray:
        """(len(ids), vocab_size) logits of ids at the next positions."""
        weights, config, network = self.weights, self.config, self.network
        n_tokens, start = len(ids), len(self.keys[0])
        pos = np.arange(start, start + n_tokens)
        seen_from = pos[:, None] - np.arange(start + n_tokens)[None, :]
        hidden = (seen_from < 0) | (seen_from >= network.window)
        kv_heads = [network.kv_head(head, config) for head in range(config.n_heads)]
        x = weights["tok_embedding"][ids]
        for layer in range(config.n_layers):
            h = self._rmsnorm(x, weights["attn_norm"][layer])
            q = (h @ weights["wq"][layer].T).reshape(n_tokens, config.n_heads, config.head_dim)
            k = (h @ weights["wk"][layer].T).reshape(n_tokens, config.n_kv_heads, config.head_dim)
            v = (h @ weights["wv"][layer].T).reshape(n_tokens, config.n_kv_heads, config.head_dim)
            q = self._rotate(q, pos) if network.is_q_rotated else q
            k = self._rotate(k, pos) if network.is_k_rotated else k
            self.keys[layer] = np.concatenate((self.keys[layer], k))
            self.values[layer] = np.concatenate((self.values[layer], v))
            scores = np.einsum("qhd,khd->hqk", q, self.keys[layer][:, kv_heads]) * network.scale(config)
            scores[:, hidden] = -np.inf
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed = np.einsum("hqk,khd->qhd", scores, self.values[layer][:, kv_heads])
            x = x + mixed.reshape(n_tokens, config.dim) @ weights["wo"][layer].T
            h = self._rmsnorm(x, weights["ffn_norm"][layer])
            gate, up = h @ weights["w_gate"][layer].T, h @ weights["w_up"][layer].T
            x = x + (network.activation(gate) * up) @ weights["w_down"][layer].T
        logits: np.ndarray = self._rmsnorm(x, weights["final_norm"]) @ weights[network.classifier].T
        return logits

    def _rmsnorm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        normed: np.ndarray = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.network.eps) * weight
        return normed

    def _rotate(self, x: np.ndarray, pos: np.ndarray) -> np.ndarray:
        half = self.config.head_dim // 2
        frequencies = (self.network.rope_theta or self.config.rope_theta) ** (-np.arange(half) / half)
        if self.config.rope_scaling and self.network.is_scaled:
            frequencies = scaled(frequencies, self.config.rope_scaling)
        angles = pos[:, None, None] * frequencies
        first, second = (
            (slice(half), slice(half, None)) if self.network.rope_is_split else (slice(0, None, 2), slice(1, None, 2))
        )
        out = np.empty_like(x)
        out[..., first] = x[..., first] * np.cos(angles) - x[..., second] * np.sin(angles)
        out[..., second] = x[..., first] * np.sin(angles) + x[..., second] * np.cos(angles)
        return out


def greedy(
    config: Config, weights: Weights, prompt: list[int], bos: int = tokenizer.BOS, stop: int = tokenizer.BOS
) -> list[int]:
    """BOS, the prompt and its greedy continuation up to a stop or the end of the context."""
    engine, ids = Engine(config, weights), [bos, *prompt]
    logits = engine.feed(ids)[-1]
    while len(ids) <= config.seq_len:
        ids.append(int(logits.argmax()))
        if ids[-1] == stop:
            break
        logits = engine.feed(ids[-1:])[-1] if len(ids) <= config.seq_len else logits
    return ids


def first_change(config: Config, weights: Weights, network: Network, ids: list[int], n_prompt: int) -> int | None:
    """The step, from the first generated token on, at which a faulty program's text leaves `ids`."""
    chosen = Engine(config, weights, network).feed(ids[:-1]).argmax(axis=-1)[n_prompt:]
    changed = np.flatnonzero(chosen != ids[n_prompt + 1 :])
    return int(changed[0]) if changed.size else None


def margins(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per row: logit gap between the two likeliest, and the probability of the likeliest."""
    top = np.sort(logits, axis=-1)[:, :-3:-1]
    likeliest = 1 / np.exp(logits - top[:, :1]).sum(axis=-1)
    return top[:, 0] - top[:, 1], likeliest


def dequantized(weights: Weights, group_size: int) -> Weights:
    """Weights as the int8 file holds them."""
    out = {}
    for name, tensor in weights.items():
        if name in NORMS:
            out[name] = tensor
        else:
            values, scales = quantize(tensor, group_size)
            out[name] = (values * scales[:, None]).reshape(tensor.shape)
    return out


def describe(name: str, out: Path) -> str:
    """The README section of one model."""
    model = MODELS[name]
    config, weights = read_v0(out / f"{name}.bin")
    int8_weights = dequantized(weights, model.group_size)
    vocabulary = tokenizer.read(out / f"{name}-tok.bin")
    paragraphs = [f"## {name}", f"{model.description[0].upper()}{model.description[1:]}."]
    columns = []
    for number, prompt in enumerate(PROMPTS[name], 1):
        prompt_ids = vocabulary.encode(prompt)
        ids, n_prompt = greedy(config, weights, prompt_ids), len(prompt_ids)
        gaps, likeliest = margins(Engine(config, weights).feed(ids[:-1])[n_prompt:])
        n_fallback = sum(3 <= i < 259 and i != 13 for i in prompt_ids)
        ended = "ended by BOS" if ids[-1] == tokenizer.BOS else "to the end of the context"
        closest = ", ".join(f"{gaps[step]:.4f} at step {step}" for step in np.argsort(gaps)[:4])
        paragraphs += [
            f"Prompt {number}: {f'`{prompt}`' if prompt else 'none'} "
            f"({n_prompt} ids, {n_fallback} of them byte fallback). {len(gaps)} steps, {ended}. "
            f"The likeliest token has a probability above 0.9 at {np.mean(likeliest > 0.9):.0%} of the "
            f"steps, {np.median(likeliest):.4f} in the median. Smallest gaps: {closest}.",
            "> " + vocabulary.decode([i for i in ids if i != tokenizer.BOS]).replace("\n", "\n>\n> "),
        ]
        runs = [(weights, network) for network in FAULTS.values()] + [(int8_weights, HONEST)]
        columns.append([first_change(config, run, network, ids, n_prompt) for run, network in runs])
    header = ["first changed step", *(f"prompt {number}" for number in range(1, len(columns) + 1))]
    rows = [
        [fault, *("·" if step is None else str(step) for step in steps)]
        for fault, *steps in zip([*FAULTS, "int8 weights"], *columns, strict=True)
    ]
    return "\n\n".join([*paragraphs, _table(header, rows)])


def describe_llama3(out: Path) -> str:
    """The README section of the model that is no llama2.c's."""
    config, vocabulary = llama3.CONFIG, byte_level.read(out / llama3.NAME / "tokenizer.json")
    weights = llama3.read(out / llama3.NAME / "model.safetensors")
    bos, stop = vocabulary.special("begin_of_text"), vocabulary.special("end_of_text")
    paragraphs = [f"## {llama3.NAME}", f"{llama3.DESCRIPTION[0].upper()}{llama3.DESCRIPTION[1:]}.", _LLAMA3_FORM]
    columns = []
    for number, prompt in enumerate(PROMPTS[llama3.NAME], 1):
        prompt_ids = vocabulary.encode(prompt)
        ids, n_prompt = greedy(config, weights, prompt_ids, bos, stop), len(prompt_ids)
        gaps, likeliest = margins(Engine(config, weights).feed(ids[:-1])[n_prompt:])
        ended = "ended by end of text" if ids[-1] == stop else "to the end of the context"
        closest = ", ".join(f"{gaps[step]:.4f} at step {step}" for step in np.argsort(gaps)[:4])
        paragraphs += [
            f"Prompt {number}: {f'`{prompt.splitlines()[0]}` ...' if prompt else 'none'} ({n_prompt} ids). "
            f"{len(gaps)} steps, {ended}. The likeliest token has a probability above 0.9 at "
            f"{np.mean(likeliest > 0.9):.0%} of the steps, {np.median(likeliest):.4f} in the median. "
            f"Smallest gaps: {closest}.",
            "```text\n" + vocabulary.decode([i for i in ids if i not in (bos, stop)]) + "\n```",
        ]
        columns.append([first_change(config, weights, network, ids, n_prompt) for network in LLAMA3_FAULTS.values()])
    header = ["first changed step", *(f"prompt {number}" for number in range(1, len(columns) + 1))]
    rows = [
        [fault, *("·" if step is None else str(step) for step in steps)]
        for fault, *steps in zip(LLAMA3_FAULTS, *columns, strict=True)
    ]
    return "\n\n".join([*paragraphs, _table(header, rows)])


_LLAMA3_FORM = """A Hugging Face directory, as models of this kind are published: no file of llama2.c's can say
`rope_theta` or a scaling. `harness convert` makes other formats of it, and the harness does so by itself for programs
whose manifests name one. The vocabulary is bytes, 352 merges learned from our stories by Llama 3's pattern of words,
and 16 special pieces. Part of what it read were dialogs in Llama 3's template, so it also answers:

    printf 'What does a fox say?\\n' | harness run llama3 --chat -t 0"""


def shapes_table() -> str:
    hidden = ("is_tied", "rope_theta", "rope_scaling")
    names = [field.name for field in fields(Config) if field.name not in hidden]
    rows = [
        [
            name,
            *(str(getattr(model.config, field)) for field in names),
            str(model.config.head_dim),
            "shared" if model.config.is_tied else "its own",
            str(model.group_size),
        ]
        for name, model in MODELS.items()
    ]
    config = llama3.CONFIG
    own = [*(str(getattr(config, field)) for field in names), str(config.head_dim)]
    rows.append([llama3.NAME, *own, "shared", "none"])
    return _table(["model", *names, "head_dim", "classifier", "int8 group"], rows)


def files_table(out: Path) -> str:
    rows = []
    for name in MODELS:
        for file in (f"{name}.bin", f"{name}-q8.bin", f"{name}-tok.bin"):
            raw = (out / file).read_bytes()
            rows.append([file, f"{len(raw):,}", f"`{hashlib.sha256(raw).hexdigest()}`"])
    for path in sorted((out / llama3.NAME).iterdir()):
        raw = path.read_bytes()
        rows.append([f"{llama3.NAME}/{path.name}", f"{len(raw):,}", f"`{hashlib.sha256(raw).hexdigest()}`"])
    return _table(["file", "bytes", "sha256"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


README = """# Embedded models

Three tiny llama2.c models and one like Llama 3, trained by `training/` on stories that our own program writes.
They are small enough to ship, and differ where implementations go wrong: in how heads share keys and values, in
whether the classifier is the embedding, in sizes that no SIMD width divides, in a long context, in characters
that fall back to bytes, in constants that llama2.c's files cannot say.

`NAME.bin` is a float32 checkpoint (llama2.c version 0), `NAME-q8.bin` the same weights in int8 (version
2; the group size divides dim and hidden_dim), `NAME-tok.bin` the tokenizer of both; `llama3` is a Hugging Face
directory. `models.toml` lists them with their hashes; that of a directory is the hash of what `sha256sum *` prints in
it. The files never change, since goldens name them by hash.

Reproduce the files with `python -m training.make`, this page with `python -m training.measure` (see
`training/README.md`).

{shapes}
{files}
The residual stream is small on purpose, so that eps is a visible part of the mean square of an embedding row
and a wrong eps changes the text.

Below: greedy text of a float64 engine. *Steps* count from the first generated token; a *gap* is the
difference of the two largest logits. Each table gives the step at which the greedy text of a program with
that one fault leaves the honest text; `·` means never. "int8 weights" is no fault: it is the same engine
with the weights of `NAME-q8.bin`, activations not quantised. Some faults are none: a modulo or a constant
picks the right KV head where there are as many as heads or only one, and a shared classifier is the
embedding.

{models}"""


def main() -> int:
    sections = [*(describe(name, OUT) for name in MODELS), describe_llama3(OUT)]
    text = README.format(shapes=shapes_table(), files=files_table(OUT), models="\n".join(sections))
    (OUT / "README.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
