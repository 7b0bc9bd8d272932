/** What the add-on (its file is the argument) records: done when repeated and not before, and refused when it cannot be. */
import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { loadAddon } from "../../impls/napi/kernel.ts";

const addon = loadAddon(process.argv[2]);
const ones = (length: number): Float32Array => new Float32Array(length).fill(1);

// Nothing is done while it is recorded; what the arrays hold when it is repeated counts.
const x = ones(3);
const delta = ones(3);
const pass = addon.record(() => addon.add(x, delta));
assert.deepEqual([...x], [1, 1, 1]);
pass();
delta.fill(5);
pass();
assert.deepEqual([...x], [7, 7, 7]);

// An empty one does nothing, and two stand side by side.
addon.record(() => {})();
const other = addon.record(() => addon.add(delta, x));
other();
pass();
assert.deepEqual([...x], [19, 19, 19]);

// What throws within is not recorded, and calls are done at once again afterwards.
const failures: [() => void, string][] = [
  [() => { throw new Error("mine"); }, "Error: mine"],
  [() => addon.add(x, ones(2)), "RangeError: delta.length is not x.length"],
  [() => addon.argmax(x), "TypeError: this cannot be recorded"],
  [() => addon.enlargePages(new ArrayBuffer(1 << 22), 1), "TypeError: this cannot be recorded"],
  [() => pass(), "TypeError: this cannot be recorded"],
  [() => addon.record(() => {}), "TypeError: a pass is recorded already"],
];
for (const [wrong, expected] of failures) {
  assert.throws(() => addon.record(wrong), (error: unknown) => String(error) === expected, expected);
  x.fill(0);
  addon.add(x, ones(3));
  assert.deepEqual([...x], [1, 1, 1]);
}
assert.throws(() => (pass as (argument: number) => void)(1), /a recorded pass takes no arguments/);

// The position is looked at each time. What came before it has been done when it is refused.
const position = new Int32Array(1);
const weights = ones(2 * addon.lanes);
const turning = addon.record(() => {
  addon.add(x, ones(3));
  addon.softmax(weights, 2, position);
});
turning();
assert.equal(weights[0], 1);
for (const wrong of [-1, addon.lanes, 2 ** 31 - 1]) {
  position[0] = wrong;
  assert.throws(turning, /RangeError: position is beyond what there is room for/);
}

// Memory that is gone, or has become another.
const gone = /TypeError: memory of the recorded pass is gone/;
const lost = ones(3);
const ofLost = addon.record(() => addon.add(x, lost));
ofLost();
structuredClone(lost.buffer, { transfer: [lost.buffer as ArrayBuffer] });
assert.throws(ofLost, gone);
const shrinking = new ArrayBuffer(12, { maxByteLength: 24 });
const ofShrinking = addon.record(() => addon.add(x, new Float32Array(shrinking)));
ofShrinking();
shrinking.resize(4);
assert.throws(ofShrinking, gone);
const temporary = addon.record(() => addon.add(x, new Float32Array(1 << 16).subarray(0, 3)));
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
collect();
assert.throws(temporary, gone);

// Passes that nobody can repeat any more are given up, also in a program that never returns to the event loop.
const long = (): void => {
  for (let i = 0; i < 5000; i++) addon.add(x, delta);
};
const before = process.memoryUsage().rss;
for (let i = 0; i < 300; i++) {
  addon.record(long);
  if (i % 10 === 0) collect();
}
const grown = process.memoryUsage().rss - before; // all of them together are some 400 MB
assert.ok(grown < 100e6, `${grown} bytes more`);
pass();
console.log("ok");
