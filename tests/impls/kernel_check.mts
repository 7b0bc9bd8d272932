/**
 * Hold a kernel against plain loops, for every row length from 1 to 130: kernel_check.mts ts | napi FILE | wasm FILE.
 *
 * float32 products may be summed in any order, within the bound of such a sum; int8 products must agree to the bit. Behind
 * every array lies memory full of NaN, which shows in a result that reads too far.
 */
import type { Kernel } from "../../impls/ts/kernel.ts";

async function makeKernel(name: string, file: string): Promise<Kernel> {
  if (name === "ts") return (await import("../../impls/ts/kernel.ts")).typescriptKernel;
  if (name === "napi") return (await import("../../impls/napi/kernel.ts")).loadKernel(file);
  return (await import("../../impls/ts-wasm/kernel.ts")).loadKernel(file);
}

const { fround } = Math;
const [name, file] = process.argv.slice(2);
const kernel = await makeKernel(name, file);
kernel.reserve(1 << 20, 16);

let state = 12345;
/** Uniform in [-1, 1). */
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return state / 2 ** 31;
}

const POOL = 18 * 130 + 64;
const floatPools = Array.from({ length: 5 }, () => kernel.floats(POOL));
const codePools = Array.from({ length: 2 }, () => kernel.codes(POOL));

function floats(pool: number, length: number, offset: number): Float32Array {
  const array = floatPools[pool].fill(NaN).subarray(offset, offset + length);
  for (let i = 0; i < length; i++) array[i] = random();
  return array;
}

function codes(pool: number, length: number, offset: number): Int8Array {
  const array = codePools[pool].fill(-128).subarray(offset, offset + length);
  for (let i = 0; i < length; i++) array[i] = Math.round(random() * 127);
  return array;
}

function fail(what: string, actual: unknown, expected: unknown): never {
  console.log(`${what}: got ${actual}, expected ${expected}`);
  process.exit(1);
}

let checks = 0;
for (let cols = 1; cols <= 130; cols++) {
  for (let rows = 1; rows <= 18; rows++) {
    const offset = (cols + rows) % 4;
    const weights = floats(0, rows * cols, offset);
    const x = floats(1, cols, (offset + 1) % 4);
    const out = floats(2, rows, 1);
    kernel.matmul(out, weights, x);
    for (let i = 0; i < rows; i++) {
      let sum = 0;
      let magnitude = 0;
      for (let j = 0; j < cols; j++) {
        sum += weights[i * cols + j] * x[j];
        magnitude += Math.abs(weights[i * cols + j] * x[j]);
      }
      if (!(Math.abs(out[i] - sum) <= cols * 2 ** -24 * magnitude + 1e-12)) fail(`${rows} x ${cols}, row ${i}`, out[i], sum);
    }
    if (!Number.isNaN(floatPools[2][0]) || !Number.isNaN(floatPools[2][rows + 1])) fail("beside out", "a number", "NaN");
    checks++;
  }
}

for (let cols = 1; cols <= 130; cols++) {
  for (const group of new Set([1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65, cols])) {
    if (group > cols) continue;
    const rows = 1 + ((cols + group) % 6);
    const weights = { codes: codes(0, rows * cols, cols % 3), scales: floats(0, Math.ceil((rows * cols) / group), 1) };
    const x = { codes: codes(1, cols, group % 3), scales: floats(1, Math.floor(cols / group), 2) };
    const out = floats(2, rows, 1);
    kernel.matmulQ8(out, weights, x, group);
    for (let i = 0; i < rows; i++) {
      let sum = 0;
      for (let g = 0; g < Math.floor(cols / group); g++) {
        let exact = 0;
        for (let j = g * group; j < (g + 1) * group; j++) exact += weights.codes[i * cols + j] * x.codes[j];
        const scale = weights.scales[Math.floor((i * cols) / group) + g];
        sum = fround(sum + fround(fround(fround(exact) * scale) * x.scales[g]));
      }
      if (out[i] !== sum) fail(`int8 ${rows} x ${cols}, group ${group}, row ${i}`, out[i], sum);
    }
    checks++;
  }
}
console.log(`ok ${checks}`);
