/** Call the add-on (its file is the argument) wrongly in every way: each call must throw, and what it throws is printed. */
import { loadAddon } from "../../impls/napi/kernel.ts";

const addon = loadAddon(process.argv[2]) as Record<string, any>;
const { matmul, matmulQ8, quantize, score, softmax, mix, swiglu, rmsnorm, setAngles, rotate, add, remember, argmax } = addon;
const { record, enlargePages, lanes } = addon;
const f32 = (length: number): Float32Array => new Float32Array(length);
const i8 = (length: number): Int8Array => new Int8Array(length);

function detached<T extends Float32Array | Int8Array | Int32Array>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

const shared = f32(64);
const good: unknown[] = [f32(2), i8(16), f32(4), i8(8), f32(2), 4];
// Two query heads of 6 elements share a key/value head that has room for two blocks of positions.
const room = 2 * lanes;
const width = Math.ceil(6 / lanes) * lanes;
const at = (position: number): Int32Array => Int32Array.of(position);
const goodScore: unknown[] = [f32(2 * room), f32(12), f32(6 * room), 1, 6, at(room - 1)];
const goodMix: unknown[] = [f32(12), f32(2 * room), f32(width * room), 1, 6, at(room - 1)];
const goodRemember: unknown[] = [f32(6 * room), f32(width * room), f32(6), f32(6), 1, 6, at(room - 1)];
const wide = f32(64 * room);
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

  ["TypeError: expected 4 arguments, got 3", quantize, [i8(8), f32(2), f32(8)]],
  ["TypeError: codes must be an Int8Array", quantize, [f32(8), f32(2), f32(8), 4]],
  ["TypeError: scales must be a Float32Array", quantize, [i8(8), i8(2), f32(8), 4]],
  ["TypeError: x must be a Float32Array", quantize, [i8(8), f32(2), i8(8), 4]],
  ["TypeError: the buffer of x is detached", quantize, [i8(8), f32(2), detached(f32(8)), 4]],
  ["RangeError: group must be a whole number from 1 to 65536", quantize, [i8(8), f32(2), f32(8), 0]],
  ["RangeError: codes.length is not x.length", quantize, [i8(7), f32(2), f32(8), 4]],
  ["RangeError: there are fewer scales than groups of codes", quantize, [i8(8), f32(1), f32(8), 4]],
  ["RangeError: arrays overlap", quantize, [i8(8), shared.subarray(0, 2), shared.subarray(1, 9), 4]],
  ["RangeError: arrays overlap", quantize, [new Int8Array(shared.buffer, 8, 8), f32(2), shared.subarray(0, 8), 4]],
  ["RangeError: arrays overlap", quantize, [new Int8Array(shared.buffer, 4, 8), shared.subarray(0, 2), f32(8), 4]],

  ["TypeError: expected 6 arguments, got 5", score, goodScore.slice(0, 5)],
  ["TypeError: scores must be a Float32Array", score, goodScore.with(0, i8(2 * room))],
  ["TypeError: queries must be a Float32Array", score, goodScore.with(1, [])],
  ["TypeError: keys must be a Float32Array", score, goodScore.with(2, null)],
  ["TypeError: the buffer of keys is detached", score, goodScore.with(2, detached(f32(6 * room)))],
  ["TypeError: nKvHeads must be a number", score, goodScore.with(3, "1")],
  ["TypeError: headDim must be a number", score, goodScore.with(4, undefined)],
  ...[{}, 3, f32(1), new Uint32Array(1)].map((bad): [string, typeof score, unknown[]] => [
    "TypeError: position must be an Int32Array",
    score,
    goodScore.with(5, bad),
  ]),
  ["TypeError: the buffer of position is detached", score, goodScore.with(5, detached(at(0)))],
  ["RangeError: position must have one item", score, goodScore.with(5, new Int32Array(0))],
  ["RangeError: position must have one item", score, goodScore.with(5, new Int32Array(2))],
  ...[-1, -(2 ** 31), room, 2 ** 31 - 1].flatMap((bad): [string, typeof score, unknown[]][] => [
    ["RangeError: position is beyond what there is room for", score, goodScore.with(5, at(bad))],
    ["RangeError: position is beyond what there is room for", softmax, [f32(2 * room), 2, at(bad)]],
    ["RangeError: position is beyond what there is room for", mix, goodMix.with(5, at(bad))],
    ["RangeError: position is beyond what there is room for", remember, goodRemember.with(6, at(bad))],
  ]),
  ...[0, -1, 1.5, NaN, Infinity, 2 ** 31, 2 ** 64].flatMap((bad): [string, typeof score, unknown[]][] =>
    ["nKvHeads", "headDim"].map((name, i) => [
      `RangeError: ${name} must be a whole number from 1 to 1073741823`,
      score,
      goodScore.with(3 + i, bad),
    ]),
  ),
  ["RangeError: heads are not nKvHeads times so many of headDim", score, goodScore.with(1, f32(0))],
  ["RangeError: heads are not nKvHeads times so many of headDim", score, goodScore.with(1, f32(13))],
  ["RangeError: heads are not nKvHeads times so many of headDim", score, goodScore.with(3, 3)],
  ["RangeError: heads are not nKvHeads times so many of headDim", score, goodScore.with(4, 13)],
  ["RangeError: the cache has no whole number of blocks", score, goodScore.with(2, f32(6 * room + 1))],
  // One position more is no whole block, and where a block is one position no whole row of scores.
  [
    `RangeError: ${lanes > 1 ? "the cache has no whole number of blocks" : "scores.length is not heads times positions"}`,
    score,
    goodScore.with(2, f32(6 * room + 6)),
  ],
  ["RangeError: position is beyond what there is room for", score, goodScore.with(0, f32(0)).with(2, f32(0)).with(5, at(0))],
  ["RangeError: scores.length is not heads times positions", score, goodScore.with(0, f32(2 * room - 1))],
  ["RangeError: scores.length is not heads times positions", score, goodScore.with(0, f32(room))],
  [
    "RangeError: scores overlaps an input",
    score,
    goodScore.with(0, wide.subarray(0, 2 * room)).with(2, wide.subarray(room, 7 * room)),
  ],
  ["RangeError: scores overlaps an input", score, goodScore.with(0, wide.subarray(0, 2 * room)).with(1, wide.subarray(0, 12))],

  ["TypeError: expected 3 arguments, got 2", softmax, [f32(4), 2]],
  ["TypeError: scores must be a Float32Array", softmax, [i8(4), 2, at(1)]],
  ["TypeError: the buffer of scores is detached", softmax, [detached(f32(4)), 2, at(1)]],
  ["RangeError: nHeads must be a whole number from 1 to 1073741823", softmax, [f32(4), 0, at(1)]],
  ["TypeError: position must be an Int32Array", softmax, [f32(4), 2, 2]],
  ["RangeError: scores.length is no multiple of nHeads", softmax, [f32(4), 3, at(0)]],
  ["RangeError: position is beyond what there is room for", softmax, [f32(0), 2, at(0)]],

  ["TypeError: expected 6 arguments, got 7", mix, [...goodMix, 1]],
  ["TypeError: out must be a Float32Array", mix, goodMix.with(0, i8(12))],
  ["TypeError: weights must be a Float32Array", mix, goodMix.with(1, i8(2 * room))],
  ["TypeError: values must be a Float32Array", mix, goodMix.with(2, i8(width * room))],
  ["RangeError: heads are not nKvHeads times so many of headDim", mix, goodMix.with(0, f32(11))],
  ["RangeError: the cache has no whole number of blocks", mix, goodMix.with(2, f32(width * room + 1))],
  ["RangeError: scores.length is not heads times positions", mix, goodMix.with(1, f32(room))],
  ["RangeError: out overlaps an input", mix, goodMix.with(0, wide.subarray(0, 12)).with(1, wide.subarray(0, 2 * room))],
  ["RangeError: out overlaps an input", mix, goodMix.with(0, wide.subarray(0, 12)).with(2, wide.subarray(1, width * room + 1))],

  ["TypeError: expected 2 arguments, got 1", swiglu, [f32(4)]],
  ["TypeError: gate must be a Float32Array", swiglu, [i8(4), f32(4)]],
  ["TypeError: up must be a Float32Array", swiglu, [f32(4), i8(4)]],
  ["TypeError: the buffer of gate is detached", swiglu, [detached(f32(4)), f32(4)]],
  ["RangeError: up.length is not gate.length", swiglu, [f32(4), f32(5)]],

  ["TypeError: expected 4 arguments, got 3", rmsnorm, [f32(4), f32(4), f32(4)]],
  ["TypeError: out must be a Float32Array", rmsnorm, [i8(4), f32(4), f32(4), true]],
  ["TypeError: x must be a Float32Array", rmsnorm, [f32(4), 4, f32(4), true]],
  ["TypeError: weight must be a Float32Array", rmsnorm, [f32(4), f32(4), undefined, true]],
  ["TypeError: inOrder must be true or false", rmsnorm, [f32(4), f32(4), f32(4), 0]],
  ["TypeError: the buffer of x is detached", rmsnorm, [f32(4), detached(f32(4)), f32(4), true]],
  ["RangeError: out, x and weight are not equally long", rmsnorm, [f32(4), f32(5), f32(4), true]],
  ["RangeError: out, x and weight are not equally long", rmsnorm, [f32(4), f32(4), f32(3), false]],
  ["RangeError: out overlaps an input", rmsnorm, [shared.subarray(0, 4), shared.subarray(0, 4), f32(4), true]],
  ["RangeError: out overlaps an input", rmsnorm, [shared.subarray(0, 4), f32(4), shared.subarray(3, 7), true]],

  ["TypeError: expected 4 arguments, got 3", setAngles, [f32(2), f32(2), f32(2)]],
  ["TypeError: cosines must be a Float32Array", setAngles, [i8(2), f32(2), f32(2), at(0)]],
  ["TypeError: the buffer of sines is detached", setAngles, [f32(2), detached(f32(2)), f32(2), at(0)]],
  ["TypeError: frequencies must be a Float32Array", setAngles, [f32(2), f32(2), null, at(0)]],
  ["TypeError: position must be an Int32Array", setAngles, [f32(2), f32(2), f32(2), 0]],
  ["RangeError: cosines, sines and frequencies are not equally long", setAngles, [f32(2), f32(2), f32(1), at(0)]],
  ["RangeError: cosines, sines and frequencies are not equally long", setAngles, [f32(1), f32(2), f32(2), at(0)]],
  ["RangeError: arrays overlap", setAngles, [shared.subarray(0, 2), shared.subarray(1, 3), f32(2), at(0)]],
  ["RangeError: arrays overlap", setAngles, [f32(2), shared.subarray(0, 2), shared.subarray(1, 3), at(0)]],
  ["RangeError: arrays overlap", setAngles, [shared.subarray(0, 2), f32(2), shared.subarray(1, 3), at(0)]],
  ...[-1, 2 ** 31 - 1].map((bad): [string, typeof setAngles, unknown[]] => [
    "RangeError: position is beyond what there is room for",
    setAngles,
    [f32(2), f32(2), f32(2), at(bad)],
  ]),

  ["TypeError: expected 3 arguments, got 2", rotate, [f32(4), f32(2)]],
  ["TypeError: cosines must be a Float32Array", rotate, [f32(4), [1, 1], f32(2)]],
  ["TypeError: the buffer of sines is detached", rotate, [f32(4), f32(2), detached(f32(2))]],
  ["RangeError: sines.length is not cosines.length", rotate, [f32(4), f32(2), f32(1)]],
  ["RangeError: x.length is no multiple of 2 * cosines.length", rotate, [f32(6), f32(2), f32(2)]],
  ["RangeError: x.length is no multiple of 2 * cosines.length", rotate, [f32(4), f32(0), f32(0)]],
  ["RangeError: x overlaps an input", rotate, [shared.subarray(0, 4), shared.subarray(3, 5), f32(2)]],
  ["RangeError: x overlaps an input", rotate, [shared.subarray(0, 4), f32(2), shared.subarray(2, 4)]],

  ["TypeError: expected 2 arguments, got 3", add, [f32(4), f32(4), f32(4)]],
  ["TypeError: delta must be a Float32Array", add, [f32(4), new Float64Array(4)]],
  ["TypeError: the buffer of x is detached", add, [detached(f32(4)), f32(4)]],
  ["RangeError: delta.length is not x.length", add, [f32(4), f32(5)]],
  ["RangeError: x overlaps delta", add, [shared.subarray(0, 4), shared.subarray(3, 7)]],

  ["TypeError: expected 7 arguments, got 6", remember, goodRemember.slice(0, 6)],
  ["TypeError: expected 7 arguments, got 8", remember, [...goodRemember, 1]],
  ["TypeError: keys must be a Float32Array", remember, goodRemember.with(0, i8(6 * room))],
  ["TypeError: values must be a Float32Array", remember, goodRemember.with(1, null)],
  ["TypeError: key must be a Float32Array", remember, goodRemember.with(2, [1, 2, 3, 4, 5, 6])],
  ["TypeError: the buffer of value is detached", remember, goodRemember.with(3, detached(f32(6)))],
  ["TypeError: position must be an Int32Array", remember, goodRemember.with(6, 0)],
  ["RangeError: headDim must be a whole number from 1 to 1073741823", remember, goodRemember.with(5, 0)],
  ["RangeError: the cache has no whole number of blocks", remember, goodRemember.with(0, f32(6 * room + 1))],
  ["RangeError: the cache has no whole number of blocks", remember, goodRemember.with(1, f32(width * room + 1))],
  ["RangeError: keys and values have room for different numbers of positions", remember, goodRemember.with(0, f32(3 * room))],
  [
    "RangeError: position is beyond what there is room for",
    remember,
    goodRemember.with(0, f32(0)).with(1, f32(0)).with(6, at(0)),
  ],
  ["RangeError: key and value are not nKvHeads times headDim long", remember, goodRemember.with(2, f32(5))],
  ["RangeError: key and value are not nKvHeads times headDim long", remember, goodRemember.with(3, f32(12))],
  [
    "RangeError: a cache overlaps another array",
    remember,
    goodRemember.with(0, wide.subarray(0, 6 * room)).with(1, wide.subarray(room, room + width * room)),
  ],
  ["RangeError: a cache overlaps another array", remember, goodRemember.with(0, wide.subarray(0, 6 * room)).with(2, wide.subarray(0, 6))],
  ["RangeError: a cache overlaps another array", remember, goodRemember.with(1, wide.subarray(0, width * room)).with(3, wide.subarray(5, 11))],

  ["TypeError: expected 1 arguments, got 0", argmax, []],
  ["TypeError: x must be a Float32Array", argmax, [i8(4)]],
  ["TypeError: the buffer of x is detached", argmax, [detached(f32(4))]],
  ["RangeError: x is empty", argmax, [f32(0)]],

  ["TypeError: expected 1 arguments, got 0", record, []],
  ["TypeError: pass must be a function", record, [f32(64)]],

  ["TypeError: expected 2 arguments, got 1", enlargePages, [new ArrayBuffer(1 << 22)]],
  ["TypeError: buffer must be an ArrayBuffer", enlargePages, [64, 1]],
  ["TypeError: buffer must be an ArrayBuffer", enlargePages, [f32(64), 1]],
  ["TypeError: bytes must be a number", enlargePages, [new ArrayBuffer(1 << 22), "1"]],
  ["RangeError: bytes must be a whole number from 1 to 0", enlargePages, [detached(f32(64)).buffer, 1]],
  ["RangeError: gate overlaps up", swiglu, [shared.subarray(0, 4), shared.subarray(3, 7)]],
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
quantize(i8(8), f32(9), f32(8), 64);
score(...goodScore);
mix(...goodMix);
swiglu(f32(0), f32(0));

const page = 1 << 21;
for (const bytes of [1, 64, page - 1, page, page + 1, 4 * page]) {
  const buffer = new ArrayBuffer(page + bytes);
  const offset = enlargePages(buffer, bytes);
  if (!(offset >= 0 && offset < page) || new Uint8Array(buffer).some((byte) => byte !== 0)) throw new Error(`${bytes} bytes`);
}
console.log(`ok ${wrong.length}`);
