/** Call the WebAssembly kernel (its file is the argument) wrongly: each call must throw, and never reach the module. */
import { loadKernel } from "../../impls/ts-wasm/kernel.ts";

const kernel = loadKernel(process.argv[2]);
kernel.reserve(4096, 8);
const out = kernel.floats(2);
const weights = { codes: kernel.codes(16), scales: kernel.floats(4) };
const x = { codes: kernel.codes(8), scales: kernel.floats(2) };
const other = new Float32Array(2);

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
  ["Error: more memory than reserved", () => kernel.floats(2 ** 30)],
  ["Error: the memory is reserved already", () => kernel.reserve(1, 1)],
  ["Error: the model needs 8590065664 bytes", () => loadKernel(process.argv[2]).reserve(2 ** 33, 0)],
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
