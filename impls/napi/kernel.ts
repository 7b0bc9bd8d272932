/**
 * The native add-on as a kernel. Node gives it addresses of JavaScript's memory: nothing is copied.
 *
 * All arrays lie in one buffer, at cache lines. For the weights the system is asked for large pages: a processor knows the
 * addresses of a number of pages, and reads weights faster the more of them lie in these.
 */
import { createRequire } from "node:module";
import { Arena } from "../ts/arena.ts";
import { setAngles } from "../ts/arithmetic.ts";
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
    position: Int32Array,
  ): void;
  softmax(scores: Float32Array, nHeads: number, position: Int32Array): void;
  mix(
    out: Float32Array,
    weights: Float32Array,
    values: Float32Array,
    nKvHeads: number,
    headDim: number,
    position: Int32Array,
  ): void;
  swiglu(gate: Float32Array, up: Float32Array): void;
  /** inOrder: sum the squares from left to right. */
  rmsnorm(out: Float32Array, x: Float32Array, weight: Float32Array, inOrder: boolean): void;
  setAngles(cosines: Float32Array, sines: Float32Array, frequencies: Float32Array, position: Int32Array): void;
  rotate(x: Float32Array, cosines: Float32Array, sines: Float32Array): void;
  add(x: Float32Array, delta: Float32Array): void;
  remember(
    keys: Float32Array,
    values: Float32Array,
    key: Float32Array,
    value: Float32Array,
    nKvHeads: number,
    headDim: number,
    position: Int32Array,
  ): void;
  /** Call pass, and return a function that does what it asked for, with what the arrays hold then. */
  record(pass: () => void): () => void;
  argmax(x: Float32Array): number;
  /** Ask for large pages for so many bytes, before the buffer is used. Returns the offset at which these begin. */
  enlargePages(buffer: ArrayBuffer, bytes: number): number;
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

const ALIGNMENT = 64; // a cache line, and the widest vector there is
const LARGE_PAGE = 2 << 20;

/** One buffer that long; undefined where JavaScript has none of that size, though it may have parts of it. */
function longBuffer(bytes: number): ArrayBuffer | undefined {
  try {
    return new ArrayBuffer(bytes);
  } catch {
    return undefined;
  }
}

export function loadKernel(file: string): Kernel {
  const addon = loadAddon(file);
  let memory: Arena | typeof heap = heap;
  return {
    reserve(weightBytes, otherBytes, arrays) {
      const buffer = longBuffer(LARGE_PAGE + weightBytes + otherBytes + arrays * ALIGNMENT);
      // Not for caches: they are used bit by bit, and a large page is cleared as a whole when its first byte is used.
      if (buffer !== undefined) memory = new Arena(buffer, addon.enlargePages(buffer, weightBytes), ALIGNMENT);
    },
    floats: (length) => memory.floats(length),
    codes: (length) => memory.codes(length),
    matmul: addon.matmul,
    swiglu: addon.swiglu,
    rotate: addon.rotate,
    add: addon.add,
    argmax: addon.argmax,
    repeatable: addon.record,
    lanes: addon.lanes,
    matmulQ8: (out, weights, x, group) =>
      addon.matmulQ8(out, weights.codes, weights.scales, x.codes, x.scales, group),
    quantize: (out, x, group) => addon.quantize(out.codes, out.scales, x, group),
    score: (scores, queries, keys, heads) =>
      addon.score(scores, queries, keys, heads.nKvHeads, heads.headDim, heads.position),
    softmax: (scores, heads) => addon.softmax(scores, heads.nHeads, heads.position),
    mix: (out, weights, values, heads) =>
      addon.mix(out, weights, values, heads.nKvHeads, heads.headDim, heads.position),
    setAngles(cosines, sines, frequencies, heads, group) {
      if (group === 0) addon.setAngles(cosines, sines, frequencies, heads.position);
      else setAngles(cosines, sines, frequencies, heads);
    },
    rmsnorm: (out, x, weight, group) => addon.rmsnorm(out, x, weight, group !== 0),
    remember: (keys, values, key, value, heads) =>
      addon.remember(keys, values, key, value, heads.nKvHeads, heads.headDim, heads.position),
  };
}
