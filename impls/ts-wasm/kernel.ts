/**
 * A WebAssembly module as a kernel.
 *
 * A module reaches nothing but its own memory, so weights and vectors live there: the program reads the checkpoint straight
 * into it, and nothing is copied afterwards. The memory is made once, as large as it will have to be, because growing it
 * would detach every array that looks into it. Addresses have 32 bits: models above 4 GiB are refused.
 */
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { Arena } from "../ts/arena.ts";
import { Failure } from "../ts/failure.ts";
import { type Heads, inTypescript, type Kernel } from "../ts/kernel.ts";

const PAGE_BYTES = 65536;
const MAX_BYTES = 2 ** 32;
/** Vectors are loaded 16 bytes at a time, fastest from such addresses. */
const ALIGNMENT = 16;
/** Floats in a vector. */
const LANES = 4;
/** The module's own stack and constants lie below __heap_base, which the build keeps below this. */
const MODULE_BYTES = 2 * PAGE_BYTES;

type Exports = {
  readonly __heap_base: WebAssembly.Global<"i32">;
  matmul(out: number, weights: number, x: number, rows: number, cols: number): void;
  matmulQ8(
    out: number,
    codes: number,
    scales: number,
    xCodes: number,
    xScales: number,
    rows: number,
    cols: number,
    group: number,
  ): void;
  quantize(codes: number, scales: number, x: number, length: number, group: number): void;
  score(scores: number, queries: number, keys: number, ...heads: [number, number, number, number, number]): void;
  softmax(scores: number, nHeads: number, capacity: number, count: number): void;
  mix(out: number, weights: number, values: number, ...heads: [number, number, number, number, number]): void;
  swiglu(gate: number, up: number, length: number): void;
};

const small = inTypescript(LANES);

export class WasmKernel implements Kernel {
  readonly lanes = LANES;
  readonly rmsnorm = small.rmsnorm;
  readonly setAngles = small.setAngles;
  readonly rotate = small.rotate;
  readonly add = small.add;
  readonly argmax = small.argmax;
  readonly remember = small.remember;
  readonly repeatable = small.repeatable;
  readonly #module: WebAssembly.Module;
  #arena: Arena | undefined;
  #exports: Exports | undefined;

  constructor(module: WebAssembly.Module) {
    this.#module = module;
  }

  reserve(weightBytes: number, otherBytes: number, arrays: number): void {
    if (this.#arena !== undefined) throw new Error("the memory is reserved already");
    const total = MODULE_BYTES + weightBytes + otherBytes + arrays * ALIGNMENT;
    if (total > MAX_BYTES) throw new Failure(`the model needs ${total} bytes, WebAssembly's memory holds ${MAX_BYTES}`);
    const pages = Math.ceil(total / PAGE_BYTES);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const instance = new WebAssembly.Instance(this.#module, { env: { memory } });
    this.#exports = instance.exports as Exports;
    const start = Math.ceil(this.#exports.__heap_base.value / ALIGNMENT) * ALIGNMENT;
    this.#arena = new Arena(memory.buffer, start, ALIGNMENT);
  }

  floats(length: number): Float32Array {
    return this.#arena!.floats(length);
  }

  codes(length: number): Int8Array {
    return this.#arena!.codes(length);
  }

  /** The address of an array that came from floats() or codes(). */
  #address(array: Float32Array | Int8Array): number {
    if (array.buffer !== this.#arena?.buffer) throw new TypeError("the array lies outside the module's memory");
    return array.byteOffset;
  }

  matmul(out: Float32Array, weights: Float32Array, x: Float32Array): void {
    if (weights.length !== out.length * x.length) throw new RangeError("weights.length is not out.length * x.length");
    this.#exports!.matmul(this.#address(out), this.#address(weights), this.#address(x), out.length, x.length);
  }

  matmulQ8(...[out, weights, x, group]: Parameters<Kernel["matmulQ8"]>): void {
    const rows = out.length;
    const cols = x.codes.length;
    checkGroup(group);
    if (weights.codes.length !== rows * cols) throw new RangeError("codes.length is not out.length * xCodes.length");
    if (weights.scales.length < Math.floor((rows * cols) / group))
      throw new RangeError("there are fewer scales than groups of codes");
    if (x.scales.length < Math.floor(cols / group)) throw new RangeError("there are fewer xScales than groups of xCodes");
    this.#exports!.matmulQ8(
      this.#address(out),
      this.#address(weights.codes),
      this.#address(weights.scales),
      this.#address(x.codes),
      this.#address(x.scales),
      rows,
      cols,
      group,
    );
  }

  quantize(...[out, x, group]: Parameters<Kernel["quantize"]>): void {
    checkGroup(group);
    if (out.codes.length !== x.length) throw new RangeError("codes.length is not x.length");
    if (out.scales.length < Math.floor(x.length / group)) throw new RangeError("there are fewer scales than groups of codes");
    this.#exports!.quantize(this.#address(out.codes), this.#address(out.scales), this.#address(x), x.length, group);
  }

  score(...[scores, queries, keys, heads]: Parameters<Kernel["score"]>): void {
    const { nHeads, nKvHeads, headDim, capacity } = heads;
    const count = checkedCount(heads, scores);
    if (queries.length !== nHeads * headDim) throw new RangeError("queries.length is not nHeads * headDim");
    if (keys.length !== nKvHeads * capacity * headDim) throw new RangeError("keys.length is not that of the heads");
    const addresses = [this.#address(scores), this.#address(queries), this.#address(keys)] as const;
    this.#exports!.score(...addresses, nHeads, nKvHeads, headDim, capacity, count);
  }

  softmax(...[scores, heads]: Parameters<Kernel["softmax"]>): void {
    const count = checkedCount(heads, scores);
    this.#exports!.softmax(this.#address(scores), heads.nHeads, heads.capacity, count);
  }

  mix(...[out, weights, values, heads]: Parameters<Kernel["mix"]>): void {
    const { nHeads, nKvHeads, headDim, capacity } = heads;
    const count = checkedCount(heads, weights);
    if (out.length !== nHeads * headDim) throw new RangeError("out.length is not nHeads * headDim");
    const width = Math.ceil(headDim / LANES) * LANES;
    if (values.length !== nKvHeads * capacity * width) throw new RangeError("values.length is not that of the heads");
    const addresses = [this.#address(out), this.#address(weights), this.#address(values)] as const;
    this.#exports!.mix(...addresses, nHeads, nKvHeads, headDim, capacity, count);
  }

  swiglu(gate: Float32Array, up: Float32Array): void {
    if (up.length !== gate.length) throw new RangeError("up.length is not gate.length");
    this.#exports!.swiglu(this.#address(gate), this.#address(up), gate.length);
  }
}

function checkGroup(group: number): void {
  if (!Number.isInteger(group) || group < 1 || group > 65536)
    throw new RangeError("group must be a whole number from 1 to 65536");
}

/** The number of positions so far, having checked all that scores depend on. */
function checkedCount({ nHeads, nKvHeads, headDim, capacity, position }: Heads, scores: Float32Array): number {
  const count = position[0] + 1;
  for (const number of [nHeads, nKvHeads, headDim, count, capacity / LANES, nHeads / nKvHeads])
    if (!Number.isInteger(number) || number < 1) throw new RangeError("heads must be whole, and positions whole blocks");
  if (count > capacity) throw new RangeError("count is more than the cache holds");
  if (scores.length !== nHeads * capacity) throw new RangeError("scores.length is not nHeads * capacity");
  return count;
}

export function loadKernel(file: string): WasmKernel {
  // Else V8 translates the module in haste, and again as it should be only after about a second of running it.
  setFlagsFromString("--no-liftoff");
  try {
    return new WasmKernel(new WebAssembly.Module(readFileSync(file)));
  } catch (error) {
    throw new Failure(`cannot load the kernel: ${(error as Error).message.split("\n")[0]}`);
  }
}
