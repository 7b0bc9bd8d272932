/**
 * Hold a kernel against plain loops, for every row length from 1 to 130: kernel_check.mts ts | napi FILE | wasm FILE.
 *
 * float32 products may be summed in any order, within the bound of such a sum, and exponentials are within a few units of
 * the last place; int8 products, scores and mixed values must agree to the bit. Behind every array lies memory full of
 * NaN, which shows in a result that reads too far.
 */
import { add, argmax, quantize, rmsnorm, rotate, setAngles } from "../../impls/ts/arithmetic.ts";
import type { Kernel } from "../../impls/ts/kernel.ts";

async function makeKernel(name: string, file: string): Promise<Kernel> {
  if (name === "ts") return (await import("../../impls/ts/kernel.ts")).typescriptKernel;
  if (name === "napi") return (await import("../../impls/napi/kernel.ts")).loadKernel(file);
  return (await import("../../impls/ts-wasm/kernel.ts")).loadKernel(file);
}

const { fround } = Math;
const [name, file] = process.argv.slice(2);
const kernel = await makeKernel(name, file);
kernel.reserve(1 << 26, 1 << 26, 2000);

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

// ---- Codes, as arithmetic.ts rounds them

for (const group of [1, 2, 5, 8, 16, 32, 48, 64]) {
  const length = 3 * group + (group % 7);
  const x = floats(0, length, 1).map((value, i) => (i < group ? 0 : (value * 2 ** (i % 9)) / 3)); // the first group is zeros
  const input = floats(0, length, 1);
  input.set(x);
  if (group >= 8) input.set([127, 0.5, -1.5, 2.5, 0.49999997, -0.49999997, 126.5, -3.5], group); // scale 1, and halves
  const out = { codes: codes(0, length, 1), scales: floats(1, Math.floor(length / group), 2) };
  const expected = { codes: out.codes.slice(), scales: out.scales.slice() };
  kernel.quantize(out, input, group);
  quantize(expected, input, group);
  if (String(out.codes) !== String(expected.codes)) fail(`codes, group ${group}`, out.codes, expected.codes);
  if (String(out.scales) !== String(expected.scales)) fail(`scales, group ${group}`, out.scales, expected.scales);
  checks++;
}

// ---- Attention: queries, keys and values by position and element, then as the kernel wants them

const { lanes } = kernel;
for (const headDim of [2, 6, 8, 14, 16, 24, 48, 64, 66, 128]) {
  for (const count of [1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 49, 64, 65, 80]) {
    const [nHeads, nKvHeads] = headDim > 64 ? [2, 1] : count % 2 ? [4, 2] : [3, 3];
    const capacity = Math.ceil(count / lanes) * lanes;
    const width = Math.ceil(headDim / lanes) * lanes;
    const heads = { nHeads, nKvHeads, headDim, capacity, position: Int32Array.of(count - 1) };
    const queries = kernel.floats(nHeads * headDim).map(random);
    const given = { queries: kernel.floats(queries.length), keys: kernel.floats(nKvHeads * capacity * headDim) };
    given.queries.set(queries);
    const key = (kv: number, t: number, i: number): number =>
      given.keys[(kv * capacity + t - (t % lanes)) * headDim + i * lanes + (t % lanes)];
    for (let i = 0; i < given.keys.length; i++) given.keys[i] = random();
    const values = kernel.floats(nKvHeads * capacity * width);
    for (let i = 0; i < values.length; i++) if (i % width < headDim) values[i] = random();
    const scores = kernel.floats(nHeads * capacity).fill(NaN);
    const kvOf = (h: number): number => Math.floor((h * nKvHeads) / nHeads);
    const what = `head of ${headDim}, ${count} positions`;

    kernel.score(scores, given.queries, given.keys, heads);
    const expected = new Float32Array(nHeads * count);
    for (let h = 0; h < nHeads; h++) {
      for (let t = 0; t < count; t++) {
        let sum = 0;
        for (let i = 0; i < headDim; i++) sum = fround(sum + fround(queries[h * headDim + i] * key(kvOf(h), t, i)));
        expected[h * count + t] = sum / fround(Math.sqrt(headDim));
        const got = scores[h * capacity + t];
        if (got !== expected[h * count + t]) fail(`score, ${what}, head ${h}, ${t}`, got, expected[h * count + t]);
        scores[h * capacity + t] = expected[h * count + t] = fround(got * 40); // for weights of all sizes
      }
    }

    kernel.softmax(scores, heads);
    for (let h = 0; h < nHeads; h++) {
      const row = Array.from(expected.subarray(h * count, (h + 1) * count));
      const powers = row.map((value) => Math.exp(fround(value - Math.max(...row))));
      const total = powers.reduce((sum, power) => sum + power);
      for (let t = 0; t < count; t++) {
        const [got, wanted] = [scores[h * capacity + t], powers[t] / total];
        if (!(Math.abs(got - wanted) <= (count + 8) * 2 ** -23 * wanted + 2e-38))
          fail(`weight, ${what}, head ${h}, ${t}`, got, wanted);
      }
    }

    const out = floats(2, nHeads * headDim, 1);
    kernel.mix(out, scores, values, heads);
    for (let h = 0; h < nHeads; h++) {
      for (let i = 0; i < headDim; i++) {
        let sum = 0;
        for (let t = 0; t < count; t++)
          sum = fround(sum + fround(scores[h * capacity + t] * values[(kvOf(h) * capacity + t) * width + i]));
        if (out[h * headDim + i] !== sum) fail(`mix, ${what}, head ${h}, ${i}`, out[h * headDim + i], sum);
      }
    }
    if (!Number.isNaN(floatPools[2][0]) || !Number.isNaN(floatPools[2][out.length + 1])) fail("beside out", "a number", "NaN");
    checks++;
  }
}

// ---- The activation, to where it is 0 and to where it is the identity

for (let length = 1; length <= 70; length++) {
  const gate = floats(0, length, 1);
  for (let i = 0; i < length; i++) gate[i] *= 2 ** (i % 8);
  const up = floats(1, length, 2);
  const expected = Array.from(gate, (value, i) => (value / (1 + Math.exp(-value))) * up[i]);
  kernel.swiglu(gate, up);
  for (let i = 0; i < length; i++)
    if (!(Math.abs(gate[i] - expected[i]) <= 8 * 2 ** -23 * Math.abs(expected[i]) + 1e-36))
      fail(`swiglu of ${length}, ${i}`, gate[i], expected[i]);
  if (!Number.isNaN(floatPools[0][0]) || !Number.isNaN(floatPools[0][length + 1])) fail("beside gate", "a number", "NaN");
  checks++;
}

// ---- Norms, rotation, sums and the largest: as in arithmetic.ts, and nothing beside them

function same(what: string, got: Float32Array, expected: Float32Array): void {
  const i = got.findIndex((value, at) => !Object.is(value, expected[at]));
  if (i >= 0) fail(`${what}, ${i}`, got[i], expected[i]);
}

for (let length = 1; length <= 130; length++) {
  const x = floats(0, length, 1);
  const weight = floats(1, length, 2);
  const out = floats(2, length, 1);
  const expected = new Float32Array(length);
  for (let i = 0; i < length; i++) x[i] *= 2 ** (i % 12);

  kernel.rmsnorm(out, x, weight, 32);
  rmsnorm(expected, x, weight, 32);
  same(`ordered norm of ${length}`, out, expected);
  kernel.rmsnorm(out, x, weight, 0);
  const exact = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / length + fround(1e-5));
  for (let i = 0; i < length; i++) {
    const wanted = (weight[i] * x[i]) / exact;
    if (!(Math.abs(out[i] - wanted) <= (length + 6) * 2 ** -24 * Math.abs(wanted) + 1e-38))
      fail(`norm of ${length}, ${i}`, out[i], wanted);
  }
  if (!Number.isNaN(floatPools[2][0]) || !Number.isNaN(floatPools[2][length + 1])) fail("beside out", "a number", "NaN");

  const [given, sum] = [x.slice(), x.slice()];
  kernel.add(x, weight);
  add(sum, weight);
  same(`sum of ${length}`, x, sum);
  if (!Number.isNaN(floatPools[0][0]) || !Number.isNaN(floatPools[0][length + 1])) fail("beside x", "a number", "NaN");

  const rounded = floats(0, length, 3);
  for (let i = 0; i < length; i++) rounded[i] = Math.round(given[i]); // equal ones among them
  for (const changed of [{}, { 0: NaN }, { [length - 1]: NaN }, { [length >> 1]: Infinity }, { [length >> 2]: -Infinity }]) {
    Object.assign(rounded, changed);
    if (kernel.argmax(rounded) !== argmax(rounded)) fail(`largest of ${rounded}`, kernel.argmax(rounded), argmax(rounded));
  }
  checks++;
}
for (const pairs of [1, 2, 3, 4, 7, 8, 12, 24, 32, 33]) {
  for (let heads = 1; heads <= 5; heads++) {
    const x = floats(0, 2 * pairs * heads, 1);
    const [cosines, sines] = [floats(1, pairs, 0), floats(2, pairs, 3)];
    const expected = x.slice();
    kernel.rotate(x, cosines, sines);
    rotate(expected, cosines, sines);
    same(`${heads} heads of ${pairs} pairs`, x, expected);
    if (!Number.isNaN(floatPools[0][0]) || !Number.isNaN(floatPools[0][x.length + 1])) fail("beside x", "a number", "NaN");
    checks++;
  }

  const frequencies = floats(0, pairs, 1);
  for (const at of [0, 1, 100, 131071]) {
    const heads = { nHeads: 1, nKvHeads: 1, headDim: 2 * pairs, capacity: 1 << 17, position: Int32Array.of(at) };
    const [cosines, sines, exactCosines, exactSines] = [1, 2, 3, 4].map((pool) => floats(pool, pairs, 1));
    setAngles(exactCosines, exactSines, frequencies, heads);
    kernel.setAngles(cosines, sines, frequencies, heads, 32);
    same(`exact cosines at ${at}`, cosines, exactCosines);
    same(`exact sines at ${at}`, sines, exactSines);
    kernel.setAngles(cosines.fill(2), sines.fill(2), frequencies, heads, 0);
    for (let j = 0; j < pairs; j++) {
      if (!(Math.abs(cosines[j] - exactCosines[j]) <= 2 ** -23)) fail(`cosine ${j} at ${at}`, cosines[j], exactCosines[j]);
      if (!(Math.abs(sines[j] - exactSines[j]) <= 2 ** -23)) fail(`sine ${j} at ${at}`, sines[j], exactSines[j]);
    }
    for (const pool of [1, 2])
      if (!Number.isNaN(floatPools[pool][0]) || !Number.isNaN(floatPools[pool][pairs + 1])) fail("beside angles", "a number", "NaN");
    checks++;
  }
}

// ---- The caches: each element in its place, and no other touched

for (const headDim of [2, 6, 16, 48, 66]) {
  for (const nKvHeads of [1, 3]) {
    const capacity = 3 * lanes;
    const width = Math.ceil(headDim / lanes) * lanes;
    for (const pos of new Set([0, 1, lanes - 1, lanes, 2 * lanes, capacity - 1])) {
      const heads = { nHeads: 2 * nKvHeads, nKvHeads, headDim, capacity, position: Int32Array.of(pos) };
      const keys = kernel.floats(nKvHeads * capacity * headDim).fill(9);
      const values = kernel.floats(nKvHeads * capacity * width).fill(9);
      const [wantedKeys, wantedValues] = [keys.slice(), values.slice()];
      const [key, value] = [floats(0, nKvHeads * headDim, 1), floats(1, nKvHeads * headDim, 2)];
      for (let h = 0; h < nKvHeads; h++) {
        for (let i = 0; i < headDim; i++) {
          const block = h * capacity + Math.floor(pos / lanes) * lanes;
          wantedKeys[block * headDim + i * lanes + (pos % lanes)] = key[h * headDim + i];
          wantedValues[(h * capacity + pos) * width + i] = value[h * headDim + i];
        }
      }
      kernel.remember(keys, values, key, value, heads);
      same(`keys of ${nKvHeads} heads of ${headDim} at ${pos}`, keys, wantedKeys);
      same(`values of ${nKvHeads} heads of ${headDim} at ${pos}`, values, wantedValues);
      checks++;
    }
  }
}

// ---- A pass, which is what it calls, with what the arrays hold by then

{
  const [x, weight, out] = [floats(0, 7, 1), floats(1, 21, 2), floats(2, 3, 1)];
  const heads = { nHeads: 1, nKvHeads: 1, headDim: 2, capacity: lanes, position: new Int32Array(1) };
  const [turned, angles] = [floats(3, 2, 1), floats(4, 3, 0)];
  const [cosines, sines, frequencies] = [0, 1, 2].map((i) => angles.subarray(i, i + 1));
  const [summed, product] = [kernel.floats(7), kernel.floats(3)];
  const pass = kernel.repeatable(() => {
    kernel.add(x, weight.subarray(0, 7));
    kernel.matmul(out, weight, x);
    kernel.setAngles(cosines, sines, frequencies, heads, 0);
    kernel.rotate(turned, cosines, sines);
  });
  for (let repetition = 0; repetition < 4; repetition++) {
    heads.position[0] = repetition;
    for (let i = 0; i < x.length; i++) x[i] = random();
    const [sum, rotated] = [x.slice(), turned.slice()];
    add(sum, weight.subarray(0, 7));
    summed.set(sum);
    kernel.matmul(product, weight, summed);
    kernel.setAngles(cosines, sines, frequencies, heads, 0);
    rotate(rotated, cosines, sines);
    out.fill(0);
    cosines.fill(0);
    pass();
    same("sum of a pass", x, sum);
    same("product of a pass", out, product);
    same("rotation of a pass", turned, rotated);
    checks++;
  }
}
console.log(`ok ${checks}`);
