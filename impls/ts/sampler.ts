/** The next token from logits, as llama2.c chooses it: same generator, same order, in float32. */
import { argmax, softmax } from "./arithmetic.ts";
import type { Kernel } from "./kernel.ts";

const { fround } = Math;

/** xorshift* over 64 bits, held in two unsigned halves. */
export class Random {
  #high: number;
  #low: number;

  /** A state of 0 would never leave 0: the caller avoids it. */
  constructor(high: number, low: number) {
    this.#high = high >>> 0;
    this.#low = low >>> 0;
  }

  /** From a 32-bit seed, which C widens with its sign: -1 becomes 2^64 - 1. */
  static fromInt(seed: number): Random {
    return new Random(seed < 0 ? 0xffffffff : 0, seed);
  }

  /** The upper half of state * 0x2545F4914F6CDD1D, after a step. */
  bits(): number {
    let high = this.#high;
    let low = this.#low;
    low ^= (low >>> 12) | (high << 20);
    high ^= high >>> 12;
    high ^= (high << 25) | (low >>> 7);
    low ^= low << 25;
    low ^= (low >>> 27) | (high << 5);
    high ^= high >>> 27;
    this.#high = high >>> 0;
    this.#low = low >>> 0;
    const carried = upperHalf(this.#low, 0x4f6cdd1d);
    return (carried + Math.imul(high, 0x4f6cdd1d) + Math.imul(low, 0x2545f491)) >>> 0;
  }

  /** 24 random bits as a float32 in [0, 1). */
  coin(): number {
    return (this.bits() >>> 8) / 2 ** 24;
  }
}

/** The upper 32 bits of the product of two 32-bit numbers, from products of 16-bit halves. */
function upperHalf(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32
  const rest = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(rest / 65536)) >>> 0;
}

export function sampleAll(probabilities: Float32Array, coin: number): number {
  let mass = 0;
  for (let i = 0; i < probabilities.length; i++) {
    mass = fround(mass + probabilities[i]);
    if (coin < mass) return i;
  }
  return probabilities.length - 1; // rounding kept the total below the coin
}

/** Draw from the fewest likeliest tokens that exceed the mass topp; equally likely ones keep their order. */
export function sampleNucleus(probabilities: Float32Array, topp: number, coin: number): number {
  // A token below this cannot be in the nucleus: all but one of them together would not reach 1 - topp.
  const cutoff = fround(fround(1 - topp) / fround(probabilities.length - 1));
  const candidates: number[] = [];
  for (let i = 0; i < probabilities.length; i++) if (probabilities[i] >= cutoff) candidates.push(i);
  if (candidates.length === 0) return argmax(probabilities); // topp below 1 / n on a flat distribution, or NaN
  candidates.sort((a, b) => probabilities[b] - probabilities[a]);

  let mass = 0;
  let kept = 0;
  while (kept < candidates.length) {
    mass = fround(mass + probabilities[candidates[kept++]]);
    if (mass > topp) break; // the token that crosses belongs to the nucleus
  }
  const target = fround(coin * mass);
  let passed = 0;
  for (let i = 0; i < kept; i++) {
    passed = fround(passed + probabilities[candidates[i]]);
    if (target < passed) return candidates[i];
  }
  return candidates[kept - 1];
}

export class Sampler {
  readonly #temperature: number; // 0: always the likeliest token, without drawing a random number
  readonly #topp: number; // 0 or 1: draw from all tokens
  readonly #random: Random;
  readonly #kernel: Kernel;

  constructor(temperature: number, topp: number, random: Random, kernel: Kernel) {
    this.#temperature = temperature;
    this.#topp = topp;
    this.#random = random;
    this.#kernel = kernel;
  }

  /** Choose; logits are overwritten. */
  sample(logits: Float32Array): number {
    if (this.#temperature === 0) return this.#kernel.argmax(logits);
    for (let i = 0; i < logits.length; i++) logits[i] /= this.#temperature;
    softmax(logits, 0, logits.length);
    const coin = this.#random.coin();
    if (this.#topp <= 0 || this.#topp >= 1) return sampleAll(logits, coin);
    return sampleNucleus(logits, this.#topp, coin);
  }
}
