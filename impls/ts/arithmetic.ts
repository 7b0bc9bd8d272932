/**
 * The small functions of the model, in llama2.c's order: float32, from left to right, each result rounded.
 *
 * JavaScript's numbers are doubles. Rounding a double sum, product, quotient or root of float32 numbers gives what float32
 * arithmetic gives, so Math.fround around each step, or storing to a Float32Array, is exact. int8 text depends on that.
 */
import type { Matrix } from "./checkpoint.ts";
import type { Heads, Quantized } from "./kernel.ts";
import { cosf, expf, sinf } from "./libm.ts";

const { fround, sqrt } = Math;
const EPSILON = fround(1e-5);

/** With float32 weights the squares may be summed as is fastest; with int8 ones from left to right. */
export function rmsnorm(out: Float32Array, x: Float32Array, weight: Float32Array, group = 1): void {
  const squares = group === 0 ? sumOfSquares(x) : strictSumOfSquares(x);
  const scale = fround(1 / fround(sqrt(fround(fround(squares / fround(x.length)) + EPSILON))));
  for (let i = 0; i < x.length; i++) out[i] = weight[i] * fround(scale * x[i]);
}

function strictSumOfSquares(x: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum = fround(sum + fround(x[i] * x[i]));
  return sum;
}

/** In double, two sums side by side. */
function sumOfSquares(x: Float32Array): number {
  const last = x.length - 1;
  let even = 0;
  let odd = 0;
  for (let i = 0; i < last; i += 2) {
    even += x[i] * x[i];
    odd += x[i + 1] * x[i + 1];
  }
  return last % 2 === 0 ? even + x[last] * x[last] + odd : even + odd;
}

/** In place, over x[start] .. x[end - 1]. */
export function softmax(x: Float32Array, start: number, end: number): void {
  let largest = x[start];
  for (let i = start + 1; i < end; i++) if (x[i] > largest) largest = x[i];
  let sum = 0;
  for (let i = start; i < end; i++) {
    x[i] = expf(fround(x[i] - largest));
    sum = fround(sum + x[i]);
  }
  for (let i = start; i < end; i++) x[i] /= sum;
}

/** Cosines and sines of the angles that the places within a head have at the position. */
export function setAngles(cosines: Float32Array, sines: Float32Array, frequencies: Float32Array, { position }: Heads): void {
  for (let j = 0; j < frequencies.length; j++) {
    const angle = fround(position[0] * frequencies[j]);
    cosines[j] = cosf(angle);
    sines[j] = sinf(angle);
  }
}

/** Turn each adjacent pair of every head by the angle of its place within the head, in place. */
export function rotate(x: Float32Array, cosines: Float32Array, sines: Float32Array): void {
  const pairs = cosines.length;
  for (let head = 0; head < x.length; head += 2 * pairs) {
    for (let pair = 0; pair < pairs; pair++) {
      const c = cosines[pair];
      const s = sines[pair];
      const i = head + 2 * pair;
      const a = x[i];
      const b = x[i + 1];
      x[i] = fround(a * c) - fround(b * s);
      x[i + 1] = fround(a * s) + fround(b * c);
    }
  }
}

/** gate becomes silu(gate) * up. */
export function swiglu(gate: Float32Array, up: Float32Array): void {
  for (let i = 0; i < gate.length; i++) {
    const value = gate[i];
    const sigmoid = fround(1 / fround(1 + expf(-value)));
    gate[i] = fround(value * sigmoid) * up[i];
  }
}

export function add(x: Float32Array, delta: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i] += delta[i];
}

/** The first of the largest. Four at a time: nearly all are smaller than what was found before. */
export function argmax(x: Float32Array): number {
  const inFours = x.length - (x.length % 4);
  let best = 0;
  let largest = x[0];
  const look = (begin: number, end: number): void => {
    for (let i = begin; i < end; i++) {
      if (x[i] > largest) {
        largest = x[i];
        best = i;
      }
    }
  };
  for (let i = 0; i < inFours; i += 4) {
    if (x[i] > largest || x[i + 1] > largest || x[i + 2] > largest || x[i + 3] > largest) look(i, i + 4);
  }
  look(inFours, x.length);
  return best;
}

/** One row as float32: the embedding of a token. */
export function copyRow(out: Float32Array, matrix: Matrix, row: number, group: number): void {
  const start = row * matrix.cols;
  if ("values" in matrix) {
    out.set(matrix.values.subarray(start, start + matrix.cols));
    return;
  }
  const { codes, scales } = matrix.quantized;
  for (let j = 0; j < matrix.cols; j++) out[j] = codes[start + j] * scales[Math.floor((start + j) / group)];
}

/**
 * Round x to int8, one scale per group. Halves go away from zero, unlike in the exporter, which rounds the weights half to
 * even. A tail shorter than a group is left out, as the product leaves it out.
 */
export function quantize(out: Quantized, x: Float32Array, group: number): void {
  for (let g = 0; g < Math.floor(x.length / group); g++) {
    const start = g * group;
    const end = start + group;
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.abs(x[i]) > largest ? Math.abs(x[i]) : largest;
    const scale = fround(largest / 127);
    out.scales[g] = scale;
    for (let i = start; i < end; i++) {
      // Math.trunc(code + 0.5) is exact for a float32 code. Of an all-zero group, 0 / 0 is NaN, which is stored as 0; a
      // scale rounded down to the smallest float32 gives codes up to 191, which wrap.
      const code = fround(x[i] / scale);
      out.codes[i] = code < 0 ? Math.trunc(code - 0.5) : Math.trunc(code + 0.5);
    }
  }
}
