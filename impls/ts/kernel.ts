/**
 * Where the time goes: a matrix times a vector first of all, then attention, and what is done to whole vectors. Everything
 * else is the same program whatever the kernel.
 *
 * A kernel owns the memory it works on, because a WebAssembly module reaches nothing but its own. The program asks it for
 * every weight, and for every vector that is multiplied or receives a product.
 */

import { add, argmax, quantize, rmsnorm, rotate, setAngles, softmax, swiglu } from "./arithmetic.ts";

const { fround, sqrt } = Math;

/** int8 codes in groups; group g covers codes g * group .. g * group + group - 1, whose values are code * scales[g]. */
export type Quantized = { readonly codes: Int8Array; readonly scales: Float32Array };

/**
 * The heads of a layer: each of nKvHeads serves nHeads / nKvHeads query heads. With a kernel's lanes, shapes are, row-major
 *
 *     queries  (nHeads, headDim)
 *     keys     (nKvHeads, capacity / lanes, headDim, lanes): the positions of a block are innermost
 *     values   (nKvHeads, capacity, headDim rounded up to whole lanes)
 *     scores   (nHeads, capacity)
 *
 * so that sums over positions or elements can be taken side by side, each in its own order.
 */
export type Heads = {
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly capacity: number; // positions that there is room for, in whole blocks of lanes
  readonly position: Int32Array; // (1) the token's: there are keys and values up to it
};

export interface Kernel {
  /** Positions in a block of keys. */
  readonly lanes: number;

  /**
   * Say how much floats() and codes() will be asked for, at most: bytes of weights, then of anything else, and in how many
   * arrays. Called once, first.
   */
  reserve(weightBytes: number, otherBytes: number, arrays: number): void;
  /** Zeroed memory for that many items. */
  floats(length: number): Float32Array;
  codes(length: number): Int8Array;

  /** out[i] = sum over j of weights[i * x.length + j] * x[j], in any order and precision not below float32's. */
  matmul(out: Float32Array, weights: Float32Array, x: Float32Array): void;

  /**
   * The same in int8, to the bit as llama2.c has it: per group the exact integer sum, times the scale of the weights,
   * times that of x, added up from left to right in float32.
   *
   * Groups count over the flat matrix. Where a row is no multiple of the group, llama2.c takes the scales from the group
   * in which the row begins, as if it began there, and ignores the last columns. Files that its exporter writes for some
   * published shapes (172 or 1376 columns, group 64) depend on it.
   */
  matmulQ8(out: Float32Array, weights: Quantized, x: Quantized, group: number): void;

  /** As quantize() in arithmetic.ts, to the bit. */
  quantize(out: Quantized, x: Float32Array, group: number): void;

  /** scores = q . key / sqrt(headDim) for all positions so far, each summed from left to right in float32. */
  score(scores: Float32Array, queries: Float32Array, keys: Float32Array, heads: Heads): void;

  /** The scores of all positions so far become weights, in place, in any order and precision not below float32's. */
  softmax(scores: Float32Array, heads: Heads): void;

  /** out (nHeads, headDim) = sum over all positions so far of weight * value, in their order in float32. */
  mix(out: Float32Array, weights: Float32Array, values: Float32Array, heads: Heads): void;

  /** gate becomes silu(gate) * up, in any precision not below float32's. */
  swiglu(gate: Float32Array, up: Float32Array): void;

  /** As in arithmetic.ts: to the bit where group is not 0, and else in any order and precision not below float32's. */
  rmsnorm(out: Float32Array, x: Float32Array, weight: Float32Array, group: number): void;

  setAngles(
    cosines: Float32Array,
    sines: Float32Array,
    frequencies: Float32Array,
    heads: Heads,
    group: number,
  ): void;

  /** As in arithmetic.ts, to the bit. */
  rotate(x: Float32Array, cosines: Float32Array, sines: Float32Array): void;
  add(x: Float32Array, delta: Float32Array): void;
  argmax(x: Float32Array): number;

  /** Put key and value (nKvHeads, headDim) of the token into the caches. */
  remember(keys: Float32Array, values: Float32Array, key: Float32Array, value: Float32Array, heads: Heads): void;

  /**
   * A function that does what pass does. All that pass does is to call this kernel, with the same arrays each time: so it
   * may be run now, without anything being computed, to see what it asks for.
   */
  repeatable(pass: () => void): () => void;
}

/** Memory from JavaScript's own heap, for kernels that can reach it. */
export const heap = {
  reserve(_weightBytes: number, _otherBytes: number, _arrays: number): void {},
  floats: (length: number): Float32Array => new Float32Array(length),
  codes: (length: number): Int8Array => new Int8Array(length),
};

/** What a kernel may leave to TypeScript, if its keys come in blocks of so many lanes. */
export const inTypescript = (lanes: number) => ({
  rmsnorm,
  setAngles,
  rotate,
  add,
  argmax,
  repeatable: (pass: () => void): (() => void) => pass,

  remember(...[keys, values, key, value, heads]: Parameters<Kernel["remember"]>): void {
    const { nKvHeads, headDim, capacity } = heads;
    const pos = heads.position[0];
    const width = values.length / (nKvHeads * capacity);
    const lane = pos % lanes;
    for (let h = 0; h < nKvHeads; h++) {
      const first = h * headDim;
      const k = (h * capacity + pos - lane) * headDim + lane;
      const v = (h * capacity + pos) * width;
      for (let i = 0; i < headDim; i++) {
        keys[k + i * lanes] = key[first + i];
        values[v + i] = value[first + i];
      }
    }
  },
});

/**
 * The kernel in TypeScript.
 *
 * Numbers are doubles here, so a float32 product is exact and its sum more precise than llama2.c's. Eight rows are
 * summed side by side, in int8 four: one sum alone would wait for each of its additions, and x is read once for all.
 */
export const typescriptKernel: Kernel = {
  ...heap,
  ...inTypescript(4),
  lanes: 4,
  quantize,
  swiglu,

  softmax(scores, { capacity, position }) {
    for (let start = 0; start < scores.length; start += capacity) softmax(scores, start, start + position[0] + 1);
  },

  score(scores, queries, keys, { nHeads, nKvHeads, headDim, capacity, position }) {
    const count = position[0] + 1;
    const root = fround(sqrt(headDim));
    const sharing = nHeads / nKvHeads;
    for (let h = 0; h < nHeads; h++) {
      const q = h * headDim;
      const k = Math.floor(h / sharing) * capacity * headDim;
      for (let t = 0; t < count; t += 4) scoreBlock(scores, h * capacity + t, queries, q, headDim, keys, k + t * headDim, root);
    }
  },

  mix(out, weights, values, { nHeads, nKvHeads, headDim, capacity, position }) {
    const count = position[0] + 1;
    const width = Math.ceil(headDim / 4) * 4;
    const sharing = nHeads / nKvHeads;
    out.fill(0);
    for (let h = 0; h < nHeads; h++) {
      const v = Math.floor(h / sharing) * capacity * width;
      mixValues(out, h * headDim, headDim, values, v, width, weights, h * capacity, count);
    }
  },

  matmul(out, weights, x) {
    const rows = out.length;
    const cols = x.length;
    let i = 0;
    for (; i + 8 <= rows; i += 8) {
      const r0 = i * cols;
      const r1 = r0 + cols;
      const r2 = r1 + cols;
      const r3 = r2 + cols;
      const r4 = r3 + cols;
      const r5 = r4 + cols;
      const r6 = r5 + cols;
      const r7 = r6 + cols;
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      let s4 = 0;
      let s5 = 0;
      let s6 = 0;
      let s7 = 0;
      for (let j = 0; j < cols; j++) {
        const xj = x[j];
        s0 += weights[r0 + j] * xj;
        s1 += weights[r1 + j] * xj;
        s2 += weights[r2 + j] * xj;
        s3 += weights[r3 + j] * xj;
        s4 += weights[r4 + j] * xj;
        s5 += weights[r5 + j] * xj;
        s6 += weights[r6 + j] * xj;
        s7 += weights[r7 + j] * xj;
      }
      out[i] = s0;
      out[i + 1] = s1;
      out[i + 2] = s2;
      out[i + 3] = s3;
      out[i + 4] = s4;
      out[i + 5] = s5;
      out[i + 6] = s6;
      out[i + 7] = s7;
    }
    for (; i < rows; i++) {
      let sum = 0;
      for (let j = 0; j < cols; j++) sum += weights[i * cols + j] * x[j];
      out[i] = sum;
    }
  },

  matmulQ8(out, weights, x, group) {
    const rows = out.length;
    const cols = x.codes.length;
    const groups = Math.floor(cols / group);
    const { codes, scales } = weights;
    const xCodes = x.codes;
    const xScales = x.scales;
    let i = 0;
    for (; i + 4 <= rows; i += 4) {
      const r0 = i * cols;
      const r1 = r0 + cols;
      const r2 = r1 + cols;
      const r3 = r2 + cols;
      const g0 = Math.floor(r0 / group);
      const g1 = Math.floor(r1 / group);
      const g2 = Math.floor(r2 / group);
      const g3 = Math.floor(r3 / group);
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let g = 0; g < groups; g++) {
        const end = (g + 1) * group;
        let n0 = 0;
        let n1 = 0;
        let n2 = 0;
        let n3 = 0;
        for (let j = g * group; j < end; j++) {
          const xj = xCodes[j];
          n0 = (n0 + codes[r0 + j] * xj) | 0;
          n1 = (n1 + codes[r1 + j] * xj) | 0;
          n2 = (n2 + codes[r2 + j] * xj) | 0;
          n3 = (n3 + codes[r3 + j] * xj) | 0;
        }
        const scale = xScales[g];
        s0 = addScaled(s0, n0, scales[g0 + g], scale);
        s1 = addScaled(s1, n1, scales[g1 + g], scale);
        s2 = addScaled(s2, n2, scales[g2 + g], scale);
        s3 = addScaled(s3, n3, scales[g3 + g], scale);
      }
      out[i] = s0;
      out[i + 1] = s1;
      out[i + 2] = s2;
      out[i + 3] = s3;
    }
    for (; i < rows; i++) {
      const row = i * cols;
      const firstScale = Math.floor(row / group);
      let sum = 0;
      for (let g = 0; g < groups; g++) {
        const end = (g + 1) * group;
        let groupSum = 0;
        for (let j = g * group; j < end; j++) groupSum = (groupSum + codes[row + j] * xCodes[j]) | 0;
        sum = addScaled(sum, groupSum, scales[firstScale + g], xScales[g]);
      }
      out[i] = sum;
    }
  },
};

/** sum + groupSum * scale * xScale in float32, each operation rounded. */
function addScaled(sum: number, groupSum: number, scale: number, xScale: number): number {
  return fround(sum + fround(fround(fround(groupSum) * scale) * xScale));
}

/** Four scores, each summed from left to right side by side, as one sum waits for each of its additions. */
function scoreBlock(
  scores: Float32Array,
  first: number,
  queries: Float32Array,
  q: number,
  headDim: number,
  keys: Float32Array,
  block: number,
  root: number,
): void {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let i = 0; i < headDim; i++) {
    const qi = queries[q + i];
    const k = block + 4 * i;
    s0 = fround(s0 + fround(qi * keys[k]));
    s1 = fround(s1 + fround(qi * keys[k + 1]));
    s2 = fround(s2 + fround(qi * keys[k + 2]));
    s3 = fround(s3 + fround(qi * keys[k + 3]));
  }
  scores[first] = s0 / root;
  scores[first + 1] = s1 / root;
  scores[first + 2] = s2 / root;
  scores[first + 3] = s3 / root;
}

/** out += sum over t of weight t * value t, oldest first; four at a time, which spares loading and storing out. */
function mixValues(
  out: Float32Array,
  first: number,
  headDim: number,
  values: Float32Array,
  start: number,
  width: number,
  weights: Float32Array,
  w: number,
  count: number,
): void {
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    const v0 = start + t * width;
    const v1 = v0 + width;
    const v2 = v1 + width;
    const v3 = v2 + width;
    const a0 = weights[w + t];
    const a1 = weights[w + t + 1];
    const a2 = weights[w + t + 2];
    const a3 = weights[w + t + 3];
    for (let i = 0; i < headDim; i++) {
      let sum = fround(out[first + i] + fround(a0 * values[v0 + i]));
      sum = fround(sum + fround(a1 * values[v1 + i]));
      sum = fround(sum + fround(a2 * values[v2 + i]));
      out[first + i] = sum + fround(a3 * values[v3 + i]);
    }
  }
  for (; t < count; t++) {
    const v = start + t * width;
    for (let i = 0; i < headDim; i++) out[first + i] += fround(weights[w + t] * values[v + i]);
  }
}
