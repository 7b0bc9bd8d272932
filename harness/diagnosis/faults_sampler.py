"""Faults of the random generator, the sampler and the greedy choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.diagnosis.fault import Fate, Fault, ops, sampler
from harness.diagnosis.port import PortCrashed
from harness.diagnosis.sampling import SAMPLER
from harness.model_config import ModelConfig

__all__ = ["GENERATOR", "SAMPLING"]

Array = npt.NDArray[Any]
_MASK = (1 << 64) - 1
_MULTIPLIER = 0x2545F4914F6CDD1D


# ---- random generator --------------------------------------------------------------------------------------------


def _marsaglia(state: int) -> int:
    state ^= (state << 13) & _MASK
    state ^= state >> 7
    return state ^ ((state << 17) & _MASK)


def _unmasked(state: int) -> int:
    state ^= state >> 12
    state ^= state << 25
    return (state ^ (state >> 27)) & _MASK


def _narrow_shift(state: int) -> int:
    state ^= state >> 12
    state ^= (state << 25) & 0xFFFFFFFF
    return state ^ (state >> 27)


def _in_doubles(state: int) -> int:
    return int(float(SAMPLER.advanced(state))) & _MASK


def _checked(state: int) -> int:
    if state * _MULTIPLIER > _MASK:
        raise PortCrashed("the product with the multiplier overflows 64 bits")
    return SAMPLER.output(state)


def _always(config: ModelConfig, pos: int, *, is_forced: bool, temperature: float) -> bool:
    return temperature != 0.0


def _even_greedy(config: ModelConfig, pos: int, *, is_forced: bool, temperature: float) -> bool:
    return not is_forced


GENERATOR = (
    Fault(
        "rng-shifts",
        "sampler",
        "sampled text differs from the first tokens on",
        "the shifts are 13, 7, 17 of plain xorshift64",
        "right by 12, left by 25, right by 27",
        sampler(advanced=_marsaglia),
        as_if="the generator shifted by 13, 7, 17, as plain xorshift64, instead of 12, 25, 27",
    ),
    Fault(
        "rng-no-multiplier",
        "sampler",
        "sampled text differs from the first tokens on",
        "the state itself is the output",
        "multiply by 0x2545F4914F6CDD1D, modulo 2^64, and take the upper half",
        sampler(output=lambda state: state >> 32),
        as_if="the generator's state itself were its output, without the multiplier",
    ),
    Fault(
        "rng-low-bits",
        "sampler",
        "sampled text differs within some tokens",
        "the lower 32 bits of the product are taken",
        "shift right by 32",
        sampler(output=lambda state: (state * _MULTIPLIER) & 0xFFFFFFFF),
        as_if="the random number were the lower 32 bits of the product, not the upper",
    ),
    Fault(
        "rng-state-unmasked",
        "sampler",
        "the first draws of a small seed are right, then sampled text differs",
        "integers have no limit (Python, BigInt), and state << 25 is not cut to 64 bits before it is shifted right",
        "& 0xFFFFFFFFFFFFFFFF after the left shift",
        sampler(advanced=_unmasked),
        as_if="rng_state << 25 were not cut to 64 bits, where integers have no limit (Python, BigInt)",
    ),
    Fault(
        "rng-shift-32-bit",
        "sampler",
        "sampled text differs within some tokens",
        "state << 25 is computed in 32 bits",
        "use unsigned 64-bit integers throughout",
        sampler(advanced=_narrow_shift),
        as_if="rng_state << 25 were computed in 32 bits",
    ),
    Fault(
        "rng-in-doubles",
        "sampler",
        "the first draw of a small seed is right, then sampled text differs",
        "the state is a JavaScript number, which holds 53 bits",
        "use BigInt with asUintN(64, ...), or two 32-bit halves",
        sampler(advanced=_in_doubles),
        as_if="rng_state were a JavaScript number, which holds 53 bits",
    ),
    Fault(
        "rng-checked-product",
        "sampler",
        "it panics at the first sampled token",
        "the product is checked for overflow (Zig's *, Rust's * in debug builds)",
        "use the wrapping product: *% in Zig, wrapping_mul in Rust",
        sampler(output=_checked),
        as_if="the product in the generator were checked for overflow (Zig's *, Rust's * in debug builds)",
    ),
    Fault(
        "coin-32-bits",
        "sampler",
        "text differs only where a sum of probabilities lies within 2^-24 above the coin; the coin may even be 1",
        "u32 / 2^32, rounded to float32",
        "(u32 >> 8) / 2^24, which is exact",
        sampler(coin=lambda bits: np.float32(bits / 4294967296.0)),
        as_if="the coin were u32 / 2^32, rounded to float32, instead of (u32 >> 8) / 2^24",
    ),
    Fault(
        "coin-for-prompt",
        "sampler",
        "sampled text differs after a prompt, and is right without one",
        "a random number is drawn for the forced tokens of the prompt too",
        "sample only where the prompt does not say what follows",
        ops(draws_coin=_always),
        as_if="a random number were drawn for each token of the prompt too",
    ),
    Fault(
        "coin-when-greedy",
        "sampler",
        "none",
        "a random number is drawn at temperature 0 too, and not used",
        "draw only where one is needed",
        ops(draws_coin=_even_greedy),
        Fate.EQUIVALENT,
        "the temperature is the same for a whole run, so a greedy run never uses the generator that was advanced",
    ),
    Fault(
        "seed-unsigned",
        "sampler",
        "only seeds of 2^31 and above, and negative ones, give another text",
        "the seed is cut to 32 bits without its sign",
        "sign-extend the 32-bit seed to 64 bits",
        sampler(seeded=lambda seed, clock: (seed & 0xFFFFFFFF) or clock),
        as_if="the seed were cut to 32 bits without its sign",
    ),
    Fault(
        "seed-zero-kept",
        "sampler",
        "with seed 0 every coin is 0: the most probable token for ever under top-p, the first id without",
        "seed 0 is taken as it is, the one state that xorshift never leaves",
        "0 means the time",
        sampler(seeded=lambda seed, clock: 0 if seed == 0 else SAMPLER.seeded(seed, clock)),
        as_if="seed 0 were taken as it is",
    ),
)


# ---- from logits to a token --------------------------------------------------------------------------------------


@np.errstate(over="ignore", invalid="ignore")
def _multiplied(logits: Array, temperature: float) -> Array:
    x = logits.astype(np.float32) * np.float32(temperature)
    return SAMPLER.probabilities(x, 1.0)


@np.errstate(over="ignore", invalid="ignore")
def _after_softmax(logits: Array, temperature: float) -> Array:
    return SAMPLER.probabilities(logits, 1.0) / np.float32(temperature)


@np.errstate(over="ignore", invalid="ignore")
def _without_maximum(logits: Array, temperature: float) -> Array:
    x = np.exp(logits.astype(np.float32) / np.float32(temperature))
    out: Array = x / np.cumsum(x, dtype=np.float32)[-1]
    return out


def _in_id_order(p: Array, kept: Array) -> Array:
    return kept


def _ascending(p: Array, kept: Array) -> Array:
    out: Array = kept[np.argsort(p[kept], kind="stable")]
    return out


def _ties_reversed(p: Array, kept: Array) -> Array:
    last_first = kept[::-1]
    out: Array = last_first[np.argsort(-p[last_first], kind="stable")]
    return out


def _without_crossing(sums: Array, topp: float) -> tuple[int, np.float32]:
    last, mass = SAMPLER.nucleus(sums, topp)
    return max(0, last - bool(mass > np.float32(topp))), mass


def _without_crossing_rescaled(sums: Array, topp: float) -> tuple[int, np.float32]:
    last, _ = _without_crossing(sums, topp)
    return last, sums[last]


def _at_least(sums: Array, topp: float) -> tuple[int, np.float32]:
    crossed = sums >= np.float32(topp)
    last = int(crossed.argmax()) if crossed.any() else len(sums) - 1
    return last, sums[last]


def _clamped(temperature: float, topp: float) -> tuple[float, float]:
    return max(float(np.float32(temperature)), 0.0), min(max(float(np.float32(topp)), 0.0), 1.0)


def _last_maximum(config: ModelConfig, logits: Array) -> int:
    return len(logits) - 1 - int(np.nan_to_num(logits[::-1], nan=-np.inf).argmax())


def _nan_wins(config: ModelConfig, logits: Array) -> int:
    return int(logits.argmax())


def _after_probabilities(config: ModelConfig, logits: Array) -> int:
    return int(SAMPLER.probabilities(logits, 1.0).argmax())


def _plain(function: Callable[[float, int], float]) -> Callable[[float, int], np.float32]:
    return lambda topp, vocab_size: np.float32(function(topp, vocab_size))


SAMPLING = (
    Fault(
        "temperature-multiplied",
        "sampler",
        "right at temperature 1; too tame above, too wild below",
        "logits are multiplied by the temperature",
        "divide them",
        sampler(probabilities=_multiplied),
        as_if="logits were multiplied by the temperature instead of divided",
    ),
    Fault(
        "temperature-after-softmax",
        "sampler",
        "right at temperature 1; else sums are not 1 and the wrong token crosses the coin",
        "probabilities are divided by the temperature",
        "divide logits, then softmax",
        sampler(probabilities=_after_softmax),
        as_if="probabilities were divided by the temperature, not logits",
    ),
    Fault(
        "temperature-zero-divides",
        "sampler",
        "NaN at temperature 0: the same token for ever, or a crash",
        "temperature 0 is not told apart, and logits are divided by it",
        "take the argmax at temperature 0",
        sampler(is_greedy=lambda temperature, topp: False),
        as_if="logits were divided by the temperature even where it is 0",
    ),
    Fault(
        "sampler-softmax-overflows",
        "sampler",
        "right at usual temperatures; NaN at small ones",
        "exp(logit / temperature) without subtracting the largest",
        "exp(logit - max)",
        sampler(probabilities=_without_maximum),
        as_if="the sampler took exp(logit) without subtracting the largest logit first",
    ),
    Fault(
        "topp-ignored",
        "sampler",
        "sampled text with top-p is wilder than it should be",
        "-p is read and not used",
        "sample from the nucleus",
        sampler(uses_nucleus=lambda topp: False),
        as_if="-p were read and not used",
    ),
    Fault(
        "topp-unsorted",
        "sampler",
        "sampled text with top-p differs within some tokens",
        "the nucleus is taken in the order of ids",
        "sort by probability first",
        sampler(ordered=_in_id_order),
        as_if="top-p took tokens in the order of their ids",
    ),
    Fault(
        "topp-ascending",
        "sampler",
        "sampled text with top-p is nonsense",
        "sorted with the least probable first",
        "most probable first",
        sampler(ordered=_ascending),
        as_if="top-p sorted the least probable token first",
    ),
    Fault(
        "topp-unstable-sort",
        "sampler",
        "none, unless two tokens are exactly equally probable",
        "the sort does not keep equals in the order of their ids",
        "use a stable sort, or compare ids last",
        sampler(ordered=_ties_reversed),
        as_if="top-p's sort did not keep equally probable tokens in the order of their ids",
    ),
    Fault(
        "topp-without-crossing",
        "sampler",
        "sampled text with top-p differs after some dozens of tokens",
        "the token whose probability crosses top-p is left out",
        "it belongs to the nucleus",
        sampler(nucleus=_without_crossing),
        as_if="top-p left out the token whose probability crosses it",
    ),
    Fault(
        "topp-without-crossing-rescaled",
        "sampler",
        "sampled text with top-p differs within some tokens",
        "the token whose probability crosses top-p is left out, and the coin is scaled by what remains",
        "it belongs to the nucleus",
        sampler(nucleus=_without_crossing_rescaled),
        as_if="top-p left out the token whose probability crosses it, and the coin were scaled by what remains",
    ),
    Fault(
        "topp-at-least",
        "sampler",
        "none, unless a running sum is top-p to the bit",
        "sum >= topp ends the nucleus",
        "sum > topp",
        sampler(nucleus=_at_least),
        as_if="the nucleus ended where the sum is >= topp instead of > topp",
    ),
    Fault(
        "topp-unscaled",
        "sampler",
        "sampled text with top-p differs within some tokens: the last of the nucleus comes too often",
        "the coin is compared as it is with the sums of the nucleus",
        "multiply it by the mass that was kept",
        sampler(threshold=lambda drawn, mass, topp: drawn),
        as_if="top-p did not scale the coin by the mass that it kept",
    ),
    Fault(
        "topp-scaled-by-topp",
        "sampler",
        "sampled text with top-p differs after some dozens of tokens",
        "the coin is multiplied by topp",
        "multiply it by the mass that was kept, which is more",
        sampler(threshold=lambda drawn, mass, topp: np.float32(drawn * np.float32(topp))),
        as_if="top-p scaled the coin by topp instead of the mass that it kept",
    ),
    Fault(
        "topp-cutoff-undivided",
        "sampler",
        "sampled text with top-p differs after some dozens of tokens: rare tokens never come",
        "tokens below 1 - topp are dropped",
        "below (1 - topp) / (vocab_size - 1)",
        sampler(cutoff=_plain(lambda topp, n: 1 - topp)),
        as_if="top-p dropped tokens below 1 - topp instead of (1 - topp) / (vocab_size - 1)",
    ),
    Fault(
        "topp-cutoff-of-topp",
        "sampler",
        "none in ordinary text; on flat distributions tokens of the nucleus are missing",
        "tokens below topp / (vocab_size - 1) are dropped",
        "below (1 - topp) / (vocab_size - 1)",
        sampler(cutoff=_plain(lambda topp, n: topp / (n - 1))),
        as_if="top-p dropped tokens below topp / (vocab_size - 1) instead of (1 - topp) / (vocab_size - 1)",
    ),
    Fault(
        "topp-no-cutoff",
        "sampler",
        "none; it is only slower",
        "all tokens are sorted",
        "drop tokens below (1 - topp) / (vocab_size - 1) before sorting, for speed",
        sampler(cutoff=_plain(lambda topp, n: 0.0)),
        Fate.EQUIVALENT,
        "a token of the nucleus leaves at least 1 - topp to itself and those after it, which are no more probable; "
        "at most vocab_size - 1 of them, so it reaches the cutoff. (The most probable token alone is always kept, "
        "but for top-p below 1 / vocab_size on a flat distribution, which llama2.c does not define.)",
    ),
    Fault(
        "topp-zero-greedy",
        "sampler",
        "-p 0 gives the greedy text",
        "top-p 0 is taken for: only the best token",
        "0 and 1 turn top-p off",
        sampler(is_greedy=lambda temperature, topp: temperature == 0 or topp == 0),
        as_if="-p 0 meant the likeliest token only",
    ),
    Fault(
        "topp-clamped",
        "sampler",
        "-p 1.5 gives another text than -p 0.9",
        "a top-p outside of [0, 1] is moved to the nearer end",
        "it becomes 0.9",
        sampler(settings=_clamped),
        as_if="a -p outside of [0, 1] were moved to the nearer end",
    ),
    Fault(
        "probabilities-summed-in-double",
        "sampler",
        "none, unless the coin falls within a rounding error of a sum",
        "running sums of probabilities are kept in double",
        "use float32, if the draws are to be llama2.c's to the bit",
        sampler(running_sums=lambda p: np.cumsum(p, dtype=np.float64)),
        Fate.BELOW_NOISE,
        "sums move by some 1e-7, less than the noise of the logits moves them",
    ),
    Fault(
        "argmax-last",
        "sampler",
        "none, unless two logits are exactly equal",
        "logit >= best replaces the best",
        "logit > best: the lowest id wins",
        ops(argmax=_last_maximum),
        as_if="of equal logits the last won: >= instead of >",
    ),
    Fault(
        "argmax-nan-wins",
        "sampler",
        "none, unless a logit is NaN",
        "a library's argmax, for which NaN is the maximum",
        "compare with >, which NaN never wins",
        ops(argmax=_nan_wins),
        as_if="NaN won the argmax, as in some libraries",
    ),
    Fault(
        "argmax-of-probabilities",
        "sampler",
        "none, unless a logit is NaN, which makes all probabilities NaN",
        "the greedy choice is made after the softmax",
        "take the argmax of the logits",
        ops(argmax=_after_probabilities),
        as_if="the argmax were taken of probabilities, after the softmax",
    ),
)
