/** Call the add-on (its file is the argument) wrongly in every way: each call must throw, and what it throws is printed. */
import { loadAddon } from "../../impls/napi/kernel.ts";

const { matmul, matmulQ8 } = loadAddon(process.argv[2]) as Record<string, any>;
const f32 = (length: number): Float32Array => new Float32Array(length);
const i8 = (length: number): Int8Array => new Int8Array(length);

function detached<T extends Float32Array | Int8Array>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

const shared = f32(64);
const good: unknown[] = [f32(2), i8(16), f32(4), i8(8), f32(2), 4];
const changed = (index: number, value: unknown): unknown[] => good.with(index, value);

const wrong: [string, (...args: unknown[]) => unknown, unknown[]][] = [
  ["TypeError: expected 3 arguments, got 0", matmul, []],
  ["TypeError: expected 3 arguments, got 2", matmul, [f32(2), f32(6)]],
  ["TypeError: expected 3 arguments, got 9", matmul, [f32(2), f32(6), f32(3), 1, 2, 3, 4, 5, 6]],
  ["TypeError: out must be a Float32Array", matmul, [null, f32(6), f32(3)]],
  ["TypeError: out must be a Float32Array", matmul, [new Float64Array(2), f32(6), f32(3)]],
  ["TypeError: weights must be a Float32Array", matmul, [f32(2), [1, 2, 3, 4, 5, 6], f32(3)]],
  ["TypeError: weights must be a Float32Array", matmul, [f32(2), f32(6).buffer, f32(3)]],
  ["TypeError: weights must be a Float32Array", matmul, [f32(2), new DataView(new ArrayBuffer(24)), f32(3)]],
  ["TypeError: weights must be a Float32Array", matmul, [f32(2), i8(24), f32(3)]],
  ["TypeError: x must be a Float32Array", matmul, [f32(2), f32(6), undefined]],
  ["TypeError: x must be a Float32Array", matmul, [f32(2), f32(6), new Proxy(f32(3), {})]],
  ["TypeError: the buffer of out is detached", matmul, [detached(f32(2)), f32(6), f32(3)]],
  ["TypeError: the buffer of weights is detached", matmul, [f32(2), detached(f32(6)), f32(3)]],
  ["TypeError: the buffer of x is detached", matmul, [f32(2), f32(6), detached(f32(3))]],
  ["RangeError: weights.length is not out.length * x.length", matmul, [f32(2), f32(5), f32(3)]],
  ["RangeError: weights.length is not out.length * x.length", matmul, [f32(2), f32(7), f32(3)]],
  ["RangeError: weights.length is not out.length * x.length", matmul, [f32(0), f32(1), f32(3)]],
  ["RangeError: weights.length is not out.length * x.length", matmul, [f32(2), f32(1), f32(0)]],
  ["RangeError: weights.length is not out.length * x.length", matmul, [f32(0), f32(1), f32(0)]],
  ["RangeError: out overlaps an input", matmul, [shared.subarray(0, 2), shared.subarray(1, 7), f32(3)]],
  ["RangeError: out overlaps an input", matmul, [shared.subarray(5, 8), f32(9), shared.subarray(3, 6)]],

  ["TypeError: expected 6 arguments, got 5", matmulQ8, good.slice(0, 5)],
  ["TypeError: out must be a Float32Array", matmulQ8, changed(0, i8(2))],
  ["TypeError: codes must be an Int8Array", matmulQ8, changed(1, new Uint8Array(16))],
  ["TypeError: scales must be a Float32Array", matmulQ8, changed(2, i8(4))],
  ["TypeError: xCodes must be an Int8Array", matmulQ8, changed(3, "codes")],
  ["TypeError: xScales must be a Float32Array", matmulQ8, changed(4, {})],
  ["TypeError: the buffer of codes is detached", matmulQ8, changed(1, detached(i8(16)))],
  ["TypeError: the buffer of xScales is detached", matmulQ8, changed(4, detached(f32(2)))],
  ["TypeError: group must be a number", matmulQ8, changed(5, "4")],
  ["TypeError: group must be a number", matmulQ8, changed(5, 4n)],
  ...[0, -1, 0.5, 4.5, NaN, Infinity, 65537, 2 ** 40].map(
    (group): [string, typeof matmul, unknown[]] => [
      "RangeError: group must be a whole number from 1 to 65536",
      matmulQ8,
      changed(5, group),
    ],
  ),
  ["RangeError: codes.length is not out.length * xCodes.length", matmulQ8, changed(1, i8(15))],
  ["RangeError: there are fewer scales than groups of codes", matmulQ8, changed(2, f32(3))],
  ["RangeError: there are fewer xScales than groups of xCodes", matmulQ8, changed(4, f32(1))],
  ["RangeError: out overlaps an input", matmulQ8, [shared.subarray(0, 2), i8(16), shared.subarray(1, 5), i8(8), f32(2), 4]],
];

for (const [expected, call, args] of wrong) {
  let got = "nothing thrown";
  try {
    call(...args);
  } catch (error) {
    got = String(error);
  }
  if (got !== expected) {
    console.log(`expected ${expected}, got ${got}`);
    process.exit(1);
  }
}

// What is merely empty, or has more scales than it needs, is no error; neither is memory that threads share.
matmul(f32(0), f32(0), f32(3));
matmul(f32(2), f32(0), f32(0));
matmul(new Float32Array(new SharedArrayBuffer(8)), f32(6), f32(3));
matmulQ8(...changed(2, f32(9)));
matmulQ8(...changed(5, 64));
console.log(`ok ${wrong.length}`);
