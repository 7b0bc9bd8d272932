/** The forward pass: a token and its position in, logits out. */
import { copyRow, softmax, swiglu } from "./arithmetic.ts";
import type { Config, Matrix, Model } from "./checkpoint.ts";
import type { Heads, Kernel, Quantized } from "./kernel.ts";
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
  readonly #heads: Heads;
  readonly #scores: Float32Array; // shapes as of Heads, keys are rotated
  readonly #keys: Float32Array[]; // per layer
  readonly #values: Float32Array[];
  readonly #frequencies: Float32Array; // (headDim / 2)
  readonly #cosines: Float32Array; // (headDim / 2) at the position
  readonly #sines: Float32Array;
  readonly #pass: () => void; // logits of the token whose embedding is x

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
    const heads = { ...c, capacity: inWhole(kernel.lanes, capacity), position: new Int32Array(1) };
    this.#heads = heads;
    this.#scores = kernel.floats(c.nHeads * heads.capacity);
    this.#keys = model.layers.map(() => kernel.floats(heads.capacity * c.kvDim));
    const width = inWhole(kernel.lanes, c.headDim);
    this.#values = model.layers.map(() => kernel.floats(heads.capacity * c.nKvHeads * width));
    // powf(10000, 2j / headDim): a rounded double power agrees with the C library's for all usual widths of a head.
    this.#frequencies = kernel.floats(half).map((_, j) => 1 / fround(10000 ** fround((2 * j) / c.headDim)));
    this.#cosines = kernel.floats(half);
    this.#sines = kernel.floats(half);
    const pass = (): void => this.#runLayers();
    // Tracing, and the exponentials of int8, are no kernel's.
    this.#pass = trace === undefined && c.group === 0 ? kernel.repeatable(pass) : pass;
  }

  /** Logits for what follows token, which stands at pos; valid until the next call. Positions come in order, from 0. */
  forward(token: number, pos: number): Float32Array {
    copyRow(this.#x, this.#model.tokEmbedding, token, this.config.group);
    this.#trace?.record("token", -1, pos, Float32Array.of(token));
    this.#trace?.record("embedding", -1, pos, this.#x);
    this.#heads.position[0] = pos;
    this.#pass();
    return this.#logits;
  }

  /** From the embedding in x to logits, at the position that heads has. */
  #runLayers(): void {
    const { layers, finalNorm, lmHead } = this.#model;
    const { group } = this.config;
    const heads = this.#heads;
    const kernel = this.#kernel;
    const trace = this.#trace;
    const pos = heads.position[0];
    kernel.setAngles(this.#cosines, this.#sines, this.#frequencies, heads, group);

    for (let l = 0; l < layers.length; l++) {
      const layer = layers[l];
      kernel.rmsnorm(this.#normed, this.#x, layer.attnNorm, group);
      trace?.record("attn_norm", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wq, this.#q], [layer.wk, this.#k], [layer.wv, this.#v]);
      trace?.record("q_raw", l, pos, this.#q);
      trace?.record("k_raw", l, pos, this.#k);
      trace?.record("v", l, pos, this.#v);
      kernel.rotate(this.#q, this.#cosines, this.#sines);
      kernel.rotate(this.#k, this.#cosines, this.#sines);
      trace?.record("q", l, pos, this.#q);
      trace?.record("k", l, pos, this.#k);
      kernel.remember(this.#keys[l], this.#values[l], this.#k, this.#v, heads);
      this.#attend(l);
      trace?.record("attn_mix", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wo, this.#delta]);
      trace?.record("attn_out", l, pos, this.#delta);
      kernel.add(this.#x, this.#delta);
      trace?.record("attn_residual", l, pos, this.#x);

      kernel.rmsnorm(this.#normed, this.#x, layer.ffnNorm, group);
      trace?.record("ffn_norm", l, pos, this.#normed);
      this.#multiply(this.#normed, [layer.wGate, this.#gate], [layer.wUp, this.#up]);
      trace?.record("gate", l, pos, this.#gate);
      trace?.record("up", l, pos, this.#up);
      if (group === 0) kernel.swiglu(this.#gate, this.#up);
      else swiglu(this.#gate, this.#up);
      trace?.record("ffn_mix", l, pos, this.#gate);
      this.#multiply(this.#gate, [layer.wDown, this.#delta]);
      trace?.record("ffn_out", l, pos, this.#delta);
      kernel.add(this.#x, this.#delta);
      trace?.record("ffn_residual", l, pos, this.#x);
    }

    kernel.rmsnorm(this.#normed, this.#x, finalNorm, group);
    trace?.record("final_norm", -1, pos, this.#normed);
    this.#multiply(this.#normed, [lmHead, this.#logits]);
    trace?.record("logits", -1, pos, this.#logits);
  }

  /** Apply matrices to one x, which is quantized once for all of them if they are int8. */
  #multiply(x: Float32Array, ...products: [Matrix, Float32Array][]): void {
    const { group } = this.config;
    const quantized = x === this.#gate ? this.#wide : this.#narrow;
    if (group !== 0) this.#kernel.quantize(quantized, x, group);
    for (const [matrix, out] of products) {
      if ("values" in matrix) this.#kernel.matmul(out, matrix.values, x);
      else this.#kernel.matmulQ8(out, matrix.quantized, quantized, group);
    }
  }

  /** normed becomes the heads' outputs side by side. The layer's caches are filled up to the token's position. */
  #attend(layer: number): void {
    const heads = this.#heads;
    const scores = this.#scores;
    const pos = heads.position[0];
    this.#kernel.score(scores, this.#q, this.#keys[layer], heads);
    if (this.#trace) this.#trace.record("scores", layer, pos, filled(scores, heads));
    if (this.config.group === 0) this.#kernel.softmax(scores, heads);
    else for (let start = 0; start < scores.length; start += heads.capacity) softmax(scores, start, start + pos + 1);
    this.#kernel.mix(this.#normed, scores, this.#values[layer], heads);
  }
}

/** count, rounded up to whole units. */
export function inWhole(unit: number, count: number): number {
  return Math.ceil(count / unit) * unit;
}

/** The scores of every head for all positions so far. */
function filled(scores: Float32Array, { nHeads, capacity, position }: Heads): Float32Array {
  const count = position[0] + 1;
  const found = new Float32Array(nHeads * count);
  for (let h = 0; h < nHeads; h++) found.set(scores.subarray(h * capacity, h * capacity + count), h * count);
  return found;
}
