/** Call the WebAssembly kernel (its file is the argument) wrongly: each call must throw, and never reach the module. */
import { loadKernel } from "../../impls/ts-wasm/kernel.ts";

const kernel = loadKernel(process.argv[2]);
kernel.reserve(1 << 15, 1 << 15, 64);
const out = kernel.floats(2);
const weights = { codes: kernel.codes(16), scales: kernel.floats(4) };
const x = { codes: kernel.codes(8), scales: kernel.floats(2) };
const other = new Float32Array(2);
// Two query heads of 6 elements share a key/value head that has room for 8 positions.
const heads = { nHeads: 2, nKvHeads: 1, headDim: 6, capacity: 8, position: Int32Array.of(7) };
const at = (position: number) => ({ ...heads, position: Int32Array.of(position) });
const [scores, queries, keys, values] = [16, 12, 48, 64].map((length) => kernel.floats(length));

const wrong: [string, () => void][] = [
  ["RangeError: weights.length is not out.length * x.length", () => kernel.matmul(out, kernel.floats(5), x.scales)],
  ["TypeError: the array lies outside the module's memory", () => kernel.matmul(other, weights.scales, x.scales)],
  ["TypeError: the array lies outside the module's memory", () => kernel.matmul(out, weights.scales, other)],
  ["RangeError: group must be a whole number from 1 to 65536", () => kernel.matmulQ8(out, weights, x, 0)],
  ["RangeError: group must be a whole number from 1 to 65536", () => kernel.matmulQ8(out, weights, x, 1.5)],
  ["RangeError: there are fewer scales than groups of codes", () => kernel.matmulQ8(out, weights, x, 2)],
  [
    "RangeError: there are fewer xScales than groups of xCodes",
    () => kernel.matmulQ8(out, weights, { ...x, scales: kernel.floats(1) }, 4),
  ],
  [
    "RangeError: codes.length is not out.length * xCodes.length",
    () => kernel.matmulQ8(out, { ...weights, codes: kernel.codes(15) }, x, 4),
  ],
  ["RangeError: group must be a whole number from 1 to 65536", () => kernel.quantize(x, queries.subarray(0, 8), 0.5)],
  ["RangeError: codes.length is not x.length", () => kernel.quantize(x, queries, 4)],
  ["RangeError: there are fewer scales than groups of codes", () => kernel.quantize(x, queries.subarray(0, 8), 2)],
  ["TypeError: the array lies outside the module's memory", () => kernel.quantize(x, new Float32Array(8), 4)],
  ...[0, -1, 1.5, NaN, 2 ** 40].flatMap((bad): [string, () => void][] =>
    (["nHeads", "nKvHeads", "headDim", "capacity"] as const).flatMap((name) => [
      ["RangeError", () => kernel.score(scores, queries, keys, { ...heads, [name]: bad })],
      ["RangeError", () => kernel.mix(queries, scores, values, { ...heads, [name]: bad })],
    ]),
  ),
  ["RangeError: heads must be whole", () => kernel.score(scores, queries, keys, { ...heads, capacity: 7 })],
  ["RangeError: heads must be whole", () => kernel.score(scores, queries, keys, { ...heads, nKvHeads: 4 })],
  ["RangeError: heads must be whole", () => kernel.softmax(scores, at(-1))],
  ["RangeError: count is more than the cache holds", () => kernel.score(scores, queries, keys, at(8))],
  ["RangeError: count is more than the cache holds", () => kernel.softmax(scores, at(8))],
  ["RangeError: scores.length is not nHeads * capacity", () => kernel.softmax(keys, heads)],
  ["RangeError: queries.length is not nHeads * headDim", () => kernel.score(scores, scores, keys, heads)],
  ["RangeError: keys.length is not that of the heads", () => kernel.score(scores, queries, values, heads)],
  ["TypeError: the array lies outside the module's memory", () => kernel.score(scores, new Float32Array(12), keys, heads)],
  ["RangeError: out.length is not nHeads * headDim", () => kernel.mix(scores, scores, values, heads)],
  ["RangeError: values.length is not that of the heads", () => kernel.mix(queries, scores, keys, heads)],
  ["TypeError: the array lies outside the module's memory", () => kernel.mix(new Float32Array(12), scores, values, heads)],
  ["RangeError: up.length is not gate.length", () => kernel.swiglu(queries, scores)],
  ["TypeError: the array lies outside the module's memory", () => kernel.swiglu(other, out)],
  ["Error: more memory than reserved", () => kernel.floats(2 ** 30)],
  ["Error: the memory is reserved already", () => kernel.reserve(1, 1, 1)],
  ["Error: the model needs 8590065664 bytes", () => loadKernel(process.argv[2]).reserve(2 ** 32, 2 ** 32, 0)],
];

for (const [expected, call] of wrong) {
  let got = "nothing thrown";
  try {
    call();
  } catch (error) {
    got = String(error);
  }
  if (!got.startsWith(expected)) {
    console.log(`expected ${expected}, got ${got}`);
    process.exit(1);
  }
}
console.log(`ok ${wrong.length}`);
