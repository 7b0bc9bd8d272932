/** The forward pass: a token and its position in, logits out. */
import { add, copyRow, quantize, rmsnorm, rotate, softmax, swiglu } from "./arithmetic.ts";
import type { Config, Matrix, Model } from "./checkpoint.ts";
import type { Kernel, Quantized } from "./kernel.ts";
import { cosf, sinf } from "./libm.ts";
import type { Trace } from "./trace.ts";

const { fround } = Math;

export class Llama {
  readonly config: Config;
  readonly #model: Model;
  readonly #kernel: Kernel;
  readonly #trace: Trace | undefined;
  readonly #x: Float32Array; // (dim) residual stream
  readonly #normed: Float32Array; // (dim) what the matrices of a block read
  readonly #delta: Float32Array; // (dim) what a block adds to x
  readonly #q: Float32Array; // (dim)
  readonly #k: Float32Array; // (kvDim)
  readonly #v: Float32Array;
  readonly #gate: Float32Array; // (hiddenDim)
  readonly #up: Float32Array;
  readonly #logits: Float32Array; // (vocabSize)
  readonly #narrow: Quantized; // a vector of dim values in int8
  readonly #wide: Quantized; // one of hiddenDim
  readonly #scores: Float32Array; // (capacity) of one head
  readonly #keys: Float32Array[]; // per layer (capacity, kvDim), rotated
  readonly #values: Float32Array[];
  readonly #frequencies: Float32Array; // (headDim / 2)
  readonly #cosines: Float32Array; // (headDim / 2) at the current position
  readonly #sines: Float32Array;

  /** capacity: positions the caches hold, at most seqLen. trace: where to record what is computed. */
  constructor(model: Model, kernel: Kernel, capacity: number, trace?: Trace) {
    const c = model.config;
    const half = c.headDim / 2;
    const quantized = (length: number): Quantized => ({
      codes: kernel.codes(c.group === 0 ? 0 : length),
      scales: kernel.floats(c.group === 0 ? 0 : Math.floor(length / c.group)),
    });
    this.config = c;
    this.#model = model;
    this.#kernel = kernel;
    this.#trace = trace;
    this.#x = kernel.floats(c.dim);
    this.#normed = kernel.floats(c.dim);
    this.#delta = kernel.floats(c.dim);
    this.#q = kernel.floats(c.dim);
    this.#k = kernel.floats(c.kvDim);
    this.#v = kernel.floats(c.kvDim);
    this.#gate = kernel.floats(c.hiddenDim);
    this.#up = kernel.floats(c.hiddenDim);
    this.#logits = kernel.floats(c.vocabSize);
    this.#narrow = quantized(c.dim);
    this.#wide = quantized(c.hiddenDim);
    this.#scores = new Float32Array(capacity);
    this.#keys = model.layers.map(() => new Float32Array(capacity * c.kvDim));
    this.#values = model.layers.map(() => new Float32Array(capacity * c.kvDim));
    // powf(10000, 2j / headDim): a rounded double power agrees with the C library's for all usual widths of a head.
    this.#frequencies = Float32Array.from({ length: half }, (_, j) => 1 / fround(10000 ** fround((2 * j) / c.headDim)));
    this.#cosines = new Float32Array(half);
    this.#sines = new Float32Array(half);
  }

  /** Logits for what follows token, which stands at pos; valid until the next call. Positions come in order, from 0. */
  forward(token: number, pos: number): Float32Array {
    const { layers, tokEmbedding, finalNorm, lmHead } = this.#model;
    const { group, kvDim } = this.config;
    const trace = this.#trace;
    this.#setAngles(pos);
    copyRow(this.#x, tokEmbedding, token, group);
    trace?.record("token", -1, pos, Float32Array.of(token));
    trace?.record("embedding", -1, pos, this.#x);

    for (let l = 0; l < layers.length; l++) {
      const layer = layers[l];
      rmsnorm(this.#normed, this.#x, layer.attnNorm);
      trace?.record("attn_norm", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wq, this.#q], [layer.wk, this.#k], [layer.wv, this.#v]);
      trace?.record("q_raw", l, pos, this.#q);
      trace?.record("k_raw", l, pos, this.#k);
      trace?.record("v", l, pos, this.#v);
      rotate(this.#q, this.#cosines, this.#sines);
      rotate(this.#k, this.#cosines, this.#sines);
      trace?.record("q", l, pos, this.#q);
      trace?.record("k", l, pos, this.#k);
      this.#keys[l].set(this.#k, pos * kvDim);
      this.#values[l].set(this.#v, pos * kvDim);
      this.#attend(l, pos);
      trace?.record("attn_mix", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wo, this.#delta]);
      trace?.record("attn_out", l, pos, this.#delta);
      add(this.#x, this.#delta);
      trace?.record("attn_residual", l, pos, this.#x);

      rmsnorm(this.#normed, this.#x, layer.ffnNorm);
      trace?.record("ffn_norm", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wGate, this.#gate], [layer.wUp, this.#up]);
      trace?.record("gate", l, pos, this.#gate);
      trace?.record("up", l, pos, this.#up);
      swiglu(this.#gate, this.#up);
      trace?.record("ffn_mix", l, pos, this.#gate);
      this.#multiply(this.#gate, [layer.wDown, this.#delta]);
      trace?.record("ffn_out", l, pos, this.#delta);
      add(this.#x, this.#delta);
      trace?.record("ffn_residual", l, pos, this.#x);
    }

    rmsnorm(this.#normed, this.#x, finalNorm);
    trace?.record("final_norm", -1, pos, this.#normed);
    this.#multiply(this.#normed, [lmHead, this.#logits]);
    trace?.record("logits", -1, pos, this.#logits);
    return this.#logits;
  }

  #setAngles(pos: number): void {
    for (let j = 0; j < this.#frequencies.length; j++) {
      const angle = fround(pos * this.#frequencies[j]);
      this.#cosines[j] = cosf(angle);
      this.#sines[j] = sinf(angle);
    }
  }

  /** Apply matrices to one x, which is quantized once for all of them if they are int8. */
  #multiply(x: Float32Array, ...products: [Matrix, Float32Array][]): void {
    const { group } = this.config;
    const quantized = x === this.#gate ? this.#wide : this.#narrow;
    if (group !== 0) quantize(quantized, x, group);
    for (const [matrix, out] of products) {
      if ("values" in matrix) this.#kernel.matmul(out, matrix.values, x);
      else this.#kernel.matmulQ8(out, matrix.quantized, quantized, group);
    }
  }

  /** normed becomes the heads' outputs side by side. Positions 0..pos of the layer's caches are filled. */
  #attend(layer: number, pos: number): void {
    const { nHeads, nKvHeads, headDim, kvDim } = this.config;
    const keys = this.#keys[layer];
    const values = this.#values[layer];
    const traced = this.#trace && new Float32Array(nHeads * (pos + 1));
    const root = fround(Math.sqrt(headDim));
    const scores = this.#scores;
    this.#normed.fill(0);
    for (let h = 0; h < nHeads; h++) {
      const first = h * headDim;
      const kvFirst = Math.floor((h * nKvHeads) / nHeads) * headDim;
      scoreKeys(scores, this.#q, first, headDim, keys, kvFirst, kvDim, pos + 1);
      for (let t = 0; t <= pos; t++) scores[t] /= root;
      traced?.set(scores.subarray(0, pos + 1), h * (pos + 1));
      softmax(scores, 0, pos + 1);
      mixValues(this.#normed, first, headDim, values, kvFirst, kvDim, scores, pos + 1);
    }
    if (traced) this.#trace?.record("scores", layer, pos, traced);
  }
}

/** scores[t] = q . key t, each summed from left to right; four side by side, as one sum waits for each addition. */
function scoreKeys(
  scores: Float32Array,
  q: Float32Array,
  first: number,
  headDim: number,
  keys: Float32Array,
  kvFirst: number,
  kvDim: number,
  count: number,
): void {
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    const k0 = t * kvDim + kvFirst;
    const k1 = k0 + kvDim;
    const k2 = k1 + kvDim;
    const k3 = k2 + kvDim;
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let i = 0; i < headDim; i++) {
      const qi = q[first + i];
      s0 = fround(s0 + fround(qi * keys[k0 + i]));
      s1 = fround(s1 + fround(qi * keys[k1 + i]));
      s2 = fround(s2 + fround(qi * keys[k2 + i]));
      s3 = fround(s3 + fround(qi * keys[k3 + i]));
    }
    scores[t] = s0;
    scores[t + 1] = s1;
    scores[t + 2] = s2;
    scores[t + 3] = s3;
  }
  for (; t < count; t++) {
    const k = t * kvDim + kvFirst;
    let sum = 0;
    for (let i = 0; i < headDim; i++) sum = fround(sum + fround(q[first + i] * keys[k + i]));
    scores[t] = sum;
  }
}

/** out += sum over t of scores[t] * value t, oldest first; four at a time, which spares loading and storing out. */
function mixValues(
  out: Float32Array,
  first: number,
  headDim: number,
  values: Float32Array,
  kvFirst: number,
  kvDim: number,
  scores: Float32Array,
  count: number,
): void {
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    const v0 = t * kvDim + kvFirst;
    const v1 = v0 + kvDim;
    const v2 = v1 + kvDim;
    const v3 = v2 + kvDim;
    const a0 = scores[t];
    const a1 = scores[t + 1];
    const a2 = scores[t + 2];
    const a3 = scores[t + 3];
    for (let i = 0; i < headDim; i++) {
      let sum = fround(out[first + i] + fround(a0 * values[v0 + i]));
      sum = fround(sum + fround(a1 * values[v1 + i]));
      sum = fround(sum + fround(a2 * values[v2 + i]));
      out[first + i] = sum + fround(a3 * values[v3 + i]);
    }
  }
  for (; t < count; t++) {
    const v = t * kvDim + kvFirst;
    for (let i = 0; i < headDim; i++) out[first + i] += fround(scores[t] * values[v + i]);
  }
}
