"""A llama, whole: from token ids to logits, from logits to the next token, and the loop that writes a text.

    python llama.py model.bin -z tokenizer.bin -t 0.8 -n 200 -i "Once upon a time"

It takes llama2.c's files and flags and prints what llama2.c prints: the same words, the same random draws. Only numpy
is needed. `files.py` beside it reads the weights and the tokenizer; everything that is a llama is here.

In shapes, T is the number of tokens of a call and S the number of tokens so far, those of this call included.
"""

import sys
import time

import numpy as np
from files import BOS, BadFile, Tokenizer, read_checkpoint

NORM_EPS = 1e-5  # neither is stored in these checkpoints
ROPE_THETA = 10000.0

# ---- The model


def rmsnorm(x, gain):
    """Scale every row of x (..., dim) to a root mean square of 1, then each column by its gain."""
    return gain * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + NORM_EPS))


def softmax(x):
    """Turn the last axis into probabilities. Subtracting the maximum changes nothing but avoids overflow."""
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def rotate(x, cos, sin):
    """Rotary position embedding: turn each pair of neighbours in x (T, heads, head_dim) by its angle.

    The angle grows with the position, so the product of a rotated query and a rotated key depends on the distance
    between their tokens only. cos and sin are (T, head_dim / 2), the same for all heads.
    """
    cos, sin = cos[:, None, :], sin[:, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


class Llama:
    """A model and what it remembers of one text: the keys and values of every token that it has read."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        cache = (config.n_layers, config.seq_len, config.n_kv_heads, config.head_dim)
        self.keys = np.zeros(cache, np.float32)
        self.values = np.zeros(cache, np.float32)
        self.n_read = 0
        # Pair j of a head turns by pos / theta^(2j / head_dim): the first pairs fast, the last slowly.
        frequency = ROPE_THETA ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        angle = np.outer(np.arange(config.seq_len), frequency)
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def read(self, ids):
        """Read the next tokens of the text; return the logits (vocab_size,) for the token after the last of them."""
        w = self.weights
        x = w["tok_embedding"][ids]  # (T, dim), the residual stream: every block adds to it
        for i in range(self.config.n_layers):
            x = x + self.attention(i, rmsnorm(x, w["attn_norm"][i]))
            x = x + self.feed_forward(i, rmsnorm(x, w["ffn_norm"][i]))
        self.n_read += len(ids)
        return w["lm_head"] @ rmsnorm(x[-1], w["final_norm"])

    def attention(self, layer, x):
        """Let every token look at itself and those before it: x (T, dim) to (T, dim)."""
        c, w = self.config, self.weights
        n_tokens, start, end = len(x), self.n_read, self.n_read + len(x)
        cos, sin = self.cos[start:end], self.sin[start:end]
        q = (x @ w["wq"][layer].T).reshape(n_tokens, c.n_heads, c.head_dim)
        k = (x @ w["wk"][layer].T).reshape(n_tokens, c.n_kv_heads, c.head_dim)
        v = (x @ w["wv"][layer].T).reshape(n_tokens, c.n_kv_heads, c.head_dim)
        q = rotate(q, cos, sin)
        self.keys[layer, start:end] = rotate(k, cos, sin)
        self.values[layer, start:end] = v

        # Consecutive query heads share one key/value head. Heads first: q (H, T, head_dim), k and v (H, S, head_dim).
        n_share = c.n_heads // c.n_kv_heads
        keys = np.repeat(self.keys[layer, :end], n_share, axis=1).swapaxes(0, 1)
        values = np.repeat(self.values[layer, :end], n_share, axis=1).swapaxes(0, 1)
        scores = q.swapaxes(0, 1) @ keys.swapaxes(1, 2) / np.float32(np.sqrt(c.head_dim))  # (H, T, S)
        is_future = np.arange(end)[None, :] > np.arange(start, end)[:, None]
        scores = np.where(is_future, np.float32(-np.inf), scores)
        mixed = softmax(scores) @ values  # (H, T, head_dim)
        return mixed.swapaxes(0, 1).reshape(n_tokens, c.dim) @ w["wo"][layer].T

    def feed_forward(self, layer, x):
        """Let every token think for itself: x (T, dim) to (T, dim), through hidden_dim gated channels."""
        w = self.weights
        with np.errstate(over="ignore"):  # a very negative gate is 0 in the end
            gate = silu(x @ w["w_gate"][layer].T)
        return (gate * (x @ w["w_up"][layer].T)) @ w["w_down"][layer].T


# ---- The choice of a token


class Random:
    """xorshift*: 64 bits of state, the seed to begin with (a 32-bit int, sign-extended, as in llama2.c)."""

    MASK = (1 << 64) - 1

    def __init__(self, seed):
        seed &= 0xFFFFFFFF
        self.state = (seed - (1 << 32) if seed >> 31 else seed) & self.MASK

    def coin(self):
        """Draw a float32 in [0, 1) of 24 random bits."""
        self.state ^= self.state >> 12
        self.state ^= self.state << 25 & self.MASK
        self.state ^= self.state >> 27
        return np.float32((self.state * 0x2545F4914F6CDD1D & self.MASK) >> 40) / np.float32(1 << 24)


def draw(p, coin):
    """Return the first index at which the running sum of p exceeds the coin; rounding may leave only the last."""
    return min(int(np.searchsorted(np.cumsum(p), coin, side="right")), len(p) - 1)


def sample(logits, temperature, topp, random):
    """Choose the next token.

    Temperature 0 takes the likeliest. A lower one sharpens the distribution, 1 leaves it as it is. Nucleus sampling,
    for topp between 0 and 1, draws among the likeliest tokens that together have that much probability.
    """
    if temperature == 0:
        return int(np.where(np.isnan(logits), -np.inf, logits).argmax())  # NaN is never the largest
    p = softmax(logits / np.float32(temperature))
    coin = random.coin()
    if not 0 < topp < 1:
        return draw(p, coin)
    order = np.argsort(-p, kind="stable")
    p = p[order]
    nucleus = p[: draw(p, np.float32(topp)) + 1]  # the token that crosses topp is in
    return int(order[draw(nucleus, coin * np.cumsum(nucleus)[-1])])


# ---- The text


def generate(llama, prompt, steps, temperature, topp, random):
    """Yield the rest of the prompt's ids, then one token after the other; BOS would begin another text and ends it.

    steps counts positions, the prompt's included.
    """
    prompt = prompt[: steps + 1]
    yield from prompt[1:]
    unread = prompt
    for _ in range(len(prompt) - 1, steps):
        token = sample(llama.read(unread), temperature, topp, random)
        if token == BOS:
            return
        yield token
        unread = [token]


USAGE = """\
usage: llama.py MODEL [-t TEMPERATURE] [-p TOPP] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER]
  -t  0 takes the likeliest token (default 1.0)
  -p  nucleus size, 0 or 1 for none (default 0.9)
  -s  0 takes the time (default 0)
  -n  positions to compute, 0 for the whole context (default 256)
  -z  file of the tokenizer (default tokenizer.bin)"""


def main(arguments):
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    if len(arguments) % 2 == 0 or not set(options) <= {"-t", "-p", "-s", "-n", "-i", "-z"}:
        sys.exit(USAGE)
    try:
        temperature = max(0.0, float(options.get("-t", 1.0)))
        topp = float(options.get("-p", 0.9))
        seed = int(options.get("-s", 0)) or int(time.time())
        steps = int(options.get("-n", 256))
    except ValueError:
        sys.exit(USAGE)
    if not 0 <= topp <= 1:
        topp = 0.9

    try:
        config, weights = read_checkpoint(arguments[0])
        tokenizer = Tokenizer.read(options.get("-z", "tokenizer.bin"), config.vocab_size)
        prompt = tokenizer.encode(options.get("-i", "").encode("utf-8", "surrogateescape"))
    except (OSError, BadFile) as error:
        sys.exit(f"llama.py: {error}")
    if steps <= 0 or steps > config.seq_len:
        steps = config.seq_len

    before, n_printed, start = BOS, 0, 0.0
    for token in generate(Llama(config, weights), prompt, steps, temperature, topp, Random(seed)):
        sys.stdout.buffer.write(tokenizer.printed(before, token))
        sys.stdout.buffer.flush()
        before, n_printed, start = token, n_printed + 1, start or time.perf_counter()
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    if n_printed > 1:
        print(f"achieved tok/s: {(n_printed - 1) / (time.perf_counter() - start):.6f}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
