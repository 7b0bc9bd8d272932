/** The native add-on as a kernel. Node gives it addresses of JavaScript's own memory: nothing is copied. */
import { createRequire } from "node:module";
import { Failure } from "../ts/failure.ts";
import { heap, type Kernel } from "../ts/kernel.ts";

/** What binding.c exports. Wrong arguments throw TypeError or RangeError. */
export type Addon = {
  matmul(out: Float32Array, weights: Float32Array, x: Float32Array): void;
  matmulQ8(
    out: Float32Array,
    codes: Int8Array,
    scales: Float32Array,
    xCodes: Int8Array,
    xScales: Float32Array,
    group: number,
  ): void;
  quantize(codes: Int8Array, scales: Float32Array, x: Float32Array, group: number): void;
  score(
    scores: Float32Array,
    queries: Float32Array,
    keys: Float32Array,
    nKvHeads: number,
    headDim: number,
    count: number,
  ): void;
  softmax(scores: Float32Array, nHeads: number, count: number): void;
  mix(
    out: Float32Array,
    weights: Float32Array,
    values: Float32Array,
    nKvHeads: number,
    headDim: number,
    count: number,
  ): void;
  swiglu(gate: Float32Array, up: Float32Array): void;
  readonly lanes: number;
  readonly instructions: string;
};

export function loadAddon(file: string): Addon {
  try {
    return createRequire(import.meta.url)(file);
  } catch (error) {
    throw new Failure(`cannot load the kernel: ${(error as Error).message.split("\n")[0]}`);
  }
}

export function loadKernel(file: string): Kernel {
  const addon = loadAddon(file);
  return {
    ...heap,
    matmul: addon.matmul,
    swiglu: addon.swiglu,
    lanes: addon.lanes,
    matmulQ8: (out, weights, x, group) =>
      addon.matmulQ8(out, weights.codes, weights.scales, x.codes, x.scales, group),
    quantize: (out, x, group) => addon.quantize(out.codes, out.scales, x, group),
    score: (scores, queries, keys, heads, count) =>
      addon.score(scores, queries, keys, heads.nKvHeads, heads.headDim, count),
    softmax: (scores, heads, count) => addon.softmax(scores, heads.nHeads, count),
    mix: (out, weights, values, heads, count) =>
      addon.mix(out, weights, values, heads.nKvHeads, heads.headDim, count),
  };
}
